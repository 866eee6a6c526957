//! Which keys of `[router]` have an effect on which policies.
//!
//! All policies share the section, so an experiment may set or sweep a key that
//! some of its policies do not know. That is not an error, but a
//! comparison of policies has to say it: thresholds that half of them see make an
//! unfair comparison.

use super::document::Document;
use super::sweep::{self, SweptKey};
use crate::router::{ChosenPolicy, Registry};
use crate::simulation::Control;
use crate::time::SimTime;
use std::collections::{BTreeMap, BTreeSet};

/// Listened to by policies that want KV events, whatever their parameters.
const FEED: &str = "feed";

/// The keys of policies that were given, with the policies that ran then.
#[derive(Debug)]
pub(super) struct Effects {
    /// By key, whether each policy sees it.
    given: BTreeMap<String, BTreeMap<String, bool>>,
    swept: BTreeSet<String>,
    /// Policies that have parameters, so that one may expect them to see a key.
    have_parameters: BTreeSet<String>,
    /// By key, who knows it at all.
    known_to: BTreeMap<String, Vec<String>>,
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
        let mut known_to: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut have_parameters = BTreeSet::new();
        for about in registry.abouts() {
            for parameter in &about.parameters {
                known_to.entry(parameter.name.clone()).or_default().push(about.name.clone());
                have_parameters.insert(about.name.clone());
            }
        }
        let given = BTreeMap::new();
        Self { given, swept: swept.filter_map(router).collect(), have_parameters, known_to }
    }

    /// `policy` runs with what `document` says, and so do those that `controls` put
    /// in its place.
    pub(super) fn note(
        &mut self,
        document: &Document,
        policy: &ChosenPolicy,
        controls: &[(SimTime, Control)],
    ) {
        self.note_policy(document, policy);
        for (_, control) in controls {
            if let Control::Policy { name } = control
                && let Ok(other) = policy.other(name)
            {
                self.note_policy(document, &other);
            }
        }
    }

    fn note_policy(&mut self, document: &Document, policy: &ChosenPolicy) {
        let Some(router) = document.get("router").and_then(toml::Value::as_table) else { return };
        for key in router.keys() {
            let sees = if key == FEED {
                policy.wants().kv_events
            } else if self.known_to.contains_key(key) {
                policy.about().knows(key)
            } else {
                continue;
            };
            let ran = self.given.entry(key.clone()).or_default();
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
            let worth_saying = |name: &&str| {
                none_sees || is_swept || key != FEED && self.have_parameters.contains(*name)
            };
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
                [key] if self.known_to.contains_key(*key) => {
                    format!(" (known to {})", self.known_to[*key].join(", "))
                }
                _ => String::new(),
            };
            format!("{}{swept} {verb} no effect on {}{knows}", names.join(", "), blind.join(", "))
        };
        without.iter().map(line).collect()
    }
}
