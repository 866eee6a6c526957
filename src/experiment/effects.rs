//! Which keys of `[router]` have an effect on which policies, and which keys have none.
//!
//! All policies share the section, so an experiment may set or sweep a key that
//! some of its policies do not know. That is not an error, but a
//! comparison of policies has to say it: thresholds that half of them see make an
//! unfair comparison.

use super::document::Document;
use super::measure::Levels;
use super::run_spec::Settings;
use super::sweep::{self, SweptKey};
use crate::router::{ChosenPolicy, Registry};
use crate::simulation::Control;
use std::collections::{BTreeMap, BTreeSet};

/// Listened to by policies that want KV events, whatever their parameters.
const FEED: &str = "feed";

/// A key that has an effect only beside others, whatever the policy.
struct DependentKey {
    key: &'static str,
    has_effect: fn(&Settings) -> bool,
    needs: &'static str,
}

const SEVERAL: &str = "router.replicas above 1";

const DEPENDENT: [DependentKey; 4] = [
    DependentKey {
        key: "router.sync_delay",
        has_effect: |settings| settings.router.replicas > 1,
        needs: SEVERAL,
    },
    DependentKey {
        key: "router.spread",
        has_effect: |settings| settings.router.replicas > 1,
        needs: SEVERAL,
    },
    DependentKey {
        key: "router.restart.at",
        has_effect: is_restarted,
        needs: "a time before the end, measure.warmup + measure.window",
    },
    DependentKey {
        key: "cluster.load_time",
        has_effect: |settings| !settings.plan().is_empty(),
        needs: "[[cluster.change]] or [cluster.planner]",
    },
];

/// Whether the router restarts before the end: of levels in sequence a later one may still
/// reach it.
fn is_restarted(settings: &Settings) -> bool {
    let Settings { router, measure, .. } = settings;
    let window = measure.window.filter(|_| measure.levels == Levels::Independent);
    let end = window.map(|window| measure.warmup + window);
    router.restart.as_ref().is_none_or(|restart| end.is_none_or(|end| restart.at < end))
}

/// The keys of policies that were given, with the policies that ran then.
#[derive(Debug)]
pub(super) struct Effects {
    /// By key, whether each policy sees it.
    given: BTreeMap<String, BTreeMap<String, bool>>,
    swept: BTreeSet<String>,
    /// By key that some point gives: whether it has an effect in any, and what it needs for one.
    idle: BTreeMap<&'static str, (bool, &'static str)>,
    /// Asked of keys without effect only: policies describe their parameters for it.
    registry: Registry,
}

impl Effects {
    pub(super) fn new(axes: &[SweptKey], registry: &Registry) -> Self {
        let set_by = |axis: &SweptKey| -> Vec<String> {
            let sets = |index| sweep::sets(axis, index).1;
            (0..axis.values.len()).flat_map(sets).map(|(key, _)| key).collect()
        };
        let router = |key: String| Some(key.strip_prefix("router.")?.split('.').next()?.to_owned());
        // The bundles of a variant are whole settings, each with its own keys.
        let swept = axes.iter().filter(|axis| axis.key != super::axis::VARIANT).flat_map(set_by);
        let registry = registry.clone();
        let swept = swept.filter_map(router).collect();
        Self { given: BTreeMap::new(), swept, idle: BTreeMap::new(), registry }
    }

    /// Whether a policy has parameters, so that one may expect it to see a key.
    fn has_parameters(&self, policy: &str) -> bool {
        self.registry.find(policy).is_ok_and(|factory| !factory.about().parameters.is_empty())
    }

    /// The policies that know a key at all.
    fn known_to(&self, key: &str) -> Vec<&str> {
        let knowing = self.registry.abouts().filter(|about| about.knows(key));
        knowing.map(|about| about.name.as_str()).collect()
    }

    /// A point runs with `settings`, which `document` says: with its policy, and those that
    /// its controls put in its place.
    pub(super) fn note(&mut self, document: &Document, settings: &Settings) {
        let Settings { policy, controls, .. } = settings;
        self.note_idle(document, settings);
        self.note_policy(document, policy);
        for (_, control) in controls.iter() {
            if let Control::Policy { name } = control
                && let Ok(other) = policy.other(name)
            {
                self.note_policy(document, &other);
            }
        }
    }

    /// Keys that hold whatever the policy, and have an effect only beside others.
    fn note_idle(&mut self, document: &Document, settings: &Settings) {
        for DependentKey { key, has_effect, needs } in DEPENDENT {
            if document.is_given(key) {
                self.idle.entry(key).or_insert((false, needs)).0 |= has_effect(settings);
            }
        }
    }

    fn note_policy(&mut self, document: &Document, policy: &ChosenPolicy) {
        let router = document.get("router").and_then(toml::Value::as_table);
        let has_feed = router.is_some_and(|router| router.contains_key(FEED));
        let feed = has_feed.then(|| (FEED, policy.wants().kv_events));
        // Some are filled in where an experiment is read.
        let is_written = |key: &&String| router.is_some_and(|router| router.contains_key(*key));
        let given = policy.given().keys().filter(is_written);
        let given = given.map(|key| (key.as_str(), policy.about().knows(key)));
        for (key, sees) in feed.into_iter().chain(given) {
            let ran = self.given.entry(key.to_owned()).or_default();
            let seen = ran.entry(policy.name().to_owned()).or_default();
            *seen |= sees;
        }
    }

    /// What there is to say, a line for all keys of which the same is true.
    pub(super) fn notices(&self) -> Vec<String> {
        let mut without: BTreeMap<(bool, Vec<&str>), Vec<&str>> = BTreeMap::new();
        for (key, ran) in &self.given {
            let is_swept = self.swept.contains(key);
            let none_sees = !ran.values().any(|&sees| sees);
            let blind = ran.iter().filter(|(_, sees)| !**sees).map(|(name, _)| name.as_str());
            // That round robin has no weights needs no line, unless they are swept.
            let worth_saying =
                |name: &&str| none_sees || is_swept || key != FEED && self.has_parameters(name);
            let blind: Vec<&str> = blind.filter(worth_saying).collect();
            if !blind.is_empty() {
                without.entry((is_swept && !none_sees, blind)).or_default().push(key);
            }
        }
        let line = |((is_unfair, blind), keys): (&(bool, Vec<&str>), &Vec<&str>)| {
            let names: Vec<String> = keys.iter().map(|key| format!("router.{key}")).collect();
            let verb = if keys.len() == 1 { "has" } else { "have" };
            let swept = if *is_unfair { ", swept here," } else { "" };
            let knows = match keys.as_slice() {
                [key] => self.known_to(key),
                _ => Vec::new(),
            };
            let knows = match knows.as_slice() {
                [] => String::new(),
                known_to => format!(" (known to {})", known_to.join(", ")),
            };
            format!("{}{swept} {verb} no effect on {}{knows}", names.join(", "), blind.join(", "))
        };
        let idle = self.idle.iter().filter(|(_, (has_effect, _))| !has_effect);
        let idle = idle.map(|(key, (_, needs))| format!("{key} has no effect without {needs}"));
        without.iter().map(line).chain(idle).collect()
    }
}
