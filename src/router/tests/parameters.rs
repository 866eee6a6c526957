//! Laws of parameters: what is read is what was written, and setting one while a
//! policy runs is having had it from the start.

use crate::event::RejectReason;
use crate::id::WorkerId;
use crate::request::RouteRequest;
use crate::router::settings::RouterSettings;
use crate::router::testing::history::{Act, BLOCK_SIZE, Heard, History, any_acts};
use crate::router::testing::{Texts, any_texts, cluster};
use crate::router::{
    ChosenPolicy, ClusterView, NoParameters, Parameter, Parameters, Policy, PolicyFactory,
    Registration, Registry, Verdict, WorkerView, Workers, policies,
};
use crate::time::{SimDuration, SimTime};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use toml::{Table, Value};

const WORKERS: u32 = 3;

/// The policies that are in this build.
fn names() -> impl Iterator<Item = &'static str> {
    let names = policies::all().iter().map(|policy| policy.about().name.as_str());
    names.filter(|name| RouterSettings::new(name).validate().is_ok())
}

/// A value of `parameter` other than its default that its policy takes.
fn other_value(policy: &str, parameter: &Parameter) -> f64 {
    let default = parameter.default.as_ref().map(|default| match default {
        Value::Integer(number) => *number as f64,
        Value::Float(number) => *number,
        other => panic!("{policy} can change {}, which is {other}", parameter.name),
    });
    let fits = |value: &f64| {
        let whole = parameter.allowed.contains("count");
        if whole && value.fract() != 0.0 {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "small and whole")]
        let written = if whole { Value::Integer(*value as i64) } else { Value::Float(*value) };
        Some(*value) != default
            && RouterSettings::new(policy).with(&parameter.name, written).validate().is_ok()
    };
    let found = [0.5, 2.0, 3.0, 40.0].into_iter().find(fits);
    found.unwrap_or_else(|| panic!("no value of {} in {policy}", parameter.name))
}

#[test]
fn every_parameter_is_documented_and_says_what_it_takes() {
    for about in Registry::default().abouts() {
        assert!(!about.rule.is_empty() && !about.rule.contains('\n'), "{about:?}");
        for parameter in &about.parameters {
            let Parameter { name, doc, allowed, schema, .. } = parameter;
            assert!(doc.len() > 10, "{}: {name}: {doc:?}", about.name);
            assert!(!allowed.is_empty() && !allowed.contains("documentation"), "{name}: {allowed}");
            assert!(!schema.to_string().contains("$ref"), "{name}: {schema}");
        }
    }
}

/// A policy that restates a project says which version and of when, and its parameters
/// choose one version whatever is given.
#[test]
fn every_restated_policy_names_a_version() {
    let registry = Registry::default();
    for about in registry.abouts() {
        let Some(origin) = &about.origin else { continue };
        assert!(!origin.versions.is_empty(), "{}", about.name);
        for version in &origin.versions {
            let (name, date) = (&version.name, &version.date);
            assert!(!name.is_empty() && date.starts_with("20"), "{}: {version:?}", about.name);
            let given = version.chosen_by.iter().map(|(key, value)| {
                assert!(about.knows(key), "{}: {key}", about.name);
                (key.clone(), Value::String(value.clone()))
            });
            let chosen = registry.choose(&about.name, &given.collect()).unwrap();
            let expected = format!("{} {name} ({date})", origin.project);
            assert_eq!(chosen.follows(), Some(expected), "{}", about.name);
        }
    }
    let random = registry.choose("random", &Table::new()).unwrap();
    assert_eq!(random.follows(), None);
}

#[test]
fn parameters_read_back() {
    for name in names() {
        let chosen = RouterSettings::new(name).chosen();
        let again = Registry::default().choose(name, &chosen.parameters()).unwrap();
        assert_eq!(chosen.parameters(), again.parameters(), "{name}");
        assert_eq!(chosen.wants(), again.wants(), "{name}");
    }
}

/// Choices on a history, with the policy meddled with before every act.
fn choices(
    policy: &mut dyn Policy,
    texts: &Texts,
    acts: &[Act],
    mut meddle: impl FnMut(&mut dyn Policy, usize),
) -> Vec<Verdict> {
    let mut workers = Workers::new(vec![WorkerView::default(); WORKERS as usize]);
    let mut history = History::new(texts, WORKERS);
    let mut requests = BTreeMap::new();
    let mut verdicts = Vec::new();
    let (wants_kv_events, mut now) = (policy.wants_kv_events(), SimTime::ZERO);
    for (at, act) in acts.iter().enumerate() {
        meddle(policy, at);
        now += SimDuration::from_secs(1);
        let request = history.play(act, |heard| match heard {
            Heard::Life(event) => {
                if event.kind.ends_stay() {
                    workers.ended(event.worker);
                }
                policy.observe(now, &event);
            }
            Heard::Kv(worker, event) if wants_kv_events => policy.observe_kv(worker, &event),
            Heard::Kv(..) => {}
        });
        if let Some(request) = request {
            let verdict = policy.route(now, &request.route_view(BLOCK_SIZE), &workers.view());
            if let Verdict::Send(worker) = verdict {
                workers.sent(worker);
                history.sent(&request, worker);
            }
            verdicts.push(verdict);
            requests.insert(request.id, request);
        }
        while let Some((id, verdict)) = policy.release(now, &workers.view()) {
            verdicts.push(verdict.map_or_else(Verdict::Reject, Verdict::Send));
            if let Ok(worker) = verdict {
                workers.sent(worker);
                history.sent(&requests[&id], worker);
            }
        }
    }
    verdicts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// A parameter that is set before the first request is one that was set from
    /// the start; one that is set and set back is one that was never set.
    #[test]
    fn setting_a_parameter_is_having_had_it(
        texts in any_texts(), acts in any_acts(WORKERS, 60), middle in 0usize..60,
    ) {
        let cluster = cluster(WORKERS, BLOCK_SIZE);
        for name in names() {
            let plain = RouterSettings::new(name).chosen();
            let build = || plain.build(&cluster, 3);
            let untouched = choices(&mut *build(), &texts, &acts, |_, _| {});
            for parameter in plain.about().parameters.iter().filter(|known| known.changeable) {
                let key = parameter.name.as_str();
                let value = other_value(name, parameter);
                let mut set = build();
                set.set_parameter(key, value).unwrap();
                let given = set_from_start(name, key, value).build(&cluster, 3);
                let (mut given, none) = (given, |_: &mut dyn Policy, _| {});
                prop_assert_eq!(
                    choices(&mut *set, &texts, &acts, none),
                    choices(&mut *given, &texts, &acts, none),
                    "{} of {}", key, name
                );
                let default = match &parameter.default {
                    Some(Value::Float(default)) => *default,
                    Some(Value::Integer(default)) => *default as f64,
                    // There is no number for "unset".
                    _ => continue,
                };
                let there_and_back = choices(&mut *build(), &texts, &acts, |policy, at| {
                    if at == middle {
                        policy.set_parameter(key, value).unwrap();
                        policy.set_parameter(key, default).unwrap();
                    }
                });
                prop_assert_eq!(&there_and_back, &untouched, "{} of {}", key, name);
            }
        }
    }
}

fn set_from_start(name: &str, key: &str, value: f64) -> ChosenPolicy {
    let float = RouterSettings::new(name).with(key, value);
    #[expect(clippy::cast_possible_truncation, reason = "small and whole")]
    let whole = RouterSettings::new(name).with(key, value as i64);
    if float.validate().is_ok() { float.chosen() } else { whole.chosen() }
}

/// By name, and nothing has changed after.
#[test]
fn what_cannot_be_set_is_refused() {
    let cluster = cluster(WORKERS, BLOCK_SIZE);
    for name in names() {
        let chosen = RouterSettings::new(name).chosen();
        let mut policy = chosen.build(&cluster, 3);
        for parameter in &chosen.about().parameters {
            let values: &[f64] =
                if parameter.changeable { &[f64::NAN, -1.0, 1e300] } else { &[1.0] };
            for &value in values {
                let refused = policy.set_parameter(&parameter.name, value);
                let refused = refused.expect_err(&format!("{value} for {}", parameter.name));
                assert_eq!(refused.key, parameter.name);
            }
        }
        assert!(policy.set_parameter("no_such_key", 1.0).is_err());
    }
    let messages = [
        ("round_robin", "overlap_weight", 2.0),
        ("kv", "overlap_wait", 2.0),
        ("kv", "use_kv_events", 0.0),
        ("kv", "temperature", -1.0),
        ("kv", "active_prefill_tokens_threshold", 0.5),
        ("consistent_hash", "hash_replication", 4.0),
    ]
    .map(|(name, key, value)| {
        let mut policy = RouterSettings::new(name).chosen().build(&cluster, 3);
        format!("{name}: {}", policy.set_parameter(key, value).unwrap_err())
    });
    insta::assert_snapshot!(messages.join("\n"));
}

/// An index that was never filled cannot start to count.
#[test]
fn weight_on_what_is_cached_needs_an_index_from_the_start() {
    let cluster = cluster(WORKERS, BLOCK_SIZE);
    for name in names().filter(|name| ["kv", "dynamo", "shadow"].contains(name)) {
        let without = RouterSettings::new(name).with("overlap_weight", 0.0);
        let mut policy = without.chosen().build(&cluster, 3);
        let refused = policy.set_parameter("overlap_weight", 1.0).unwrap_err();
        assert!(refused.to_string().contains("no index was kept"), "{refused}");
        let mut policy = RouterSettings::new(name).chosen().build(&cluster, 3);
        policy.set_parameter("overlap_weight", 0.0).unwrap();
        policy.set_parameter("overlap_weight", 1.0).unwrap();
        assert!(policy.wants_kv_events());
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Clash {
    /// A number of another kind than `kv`'s, or of every router.
    temperature: bool,
}

impl Parameters for Clash {}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Common {
    /// A key that holds for every router.
    replicas: u32,
}

impl Parameters for Common {}

struct First;

impl Policy for First {
    fn route(&mut self, _: SimTime, _: &RouteRequest<'_>, _: &ClusterView<'_>) -> Verdict {
        Verdict::send(WorkerId(0))
    }
}

#[test]
fn one_key_has_one_meaning() {
    let refused = |policies: &[Arc<dyn PolicyFactory>]| {
        Registry::with(policies).expect_err("a clash").to_string()
    };
    let clash = Registration::new("clash", "a rule", |_: &Clash, _, _| First).shared();
    let common = Registration::new("common", "a rule", |_: &Common, _, _| First).shared();
    let own = || Registration::new("own", "a rule", |_: &NoParameters, _, _| First).shared();
    let messages = [refused(&[clash]), refused(&[common]), refused(&[own(), own()])];
    insta::assert_snapshot!(messages.join("\n"));
    assert_eq!(Registry::with(&[own()]).unwrap().find("own").unwrap().about().name, "own");
}

/// Weights as large as they may be, on a fleet that turns everything down, that
/// loses workers and gets them back: costs stay numbers, and no policy panics.
#[test]
fn the_largest_parameters_are_still_numbers() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let extremes = |parameter: &Parameter| -> Vec<Value> {
        [0.0, 1e-9, 1.0, 1e12]
            .map(Value::Float)
            .into_iter()
            .chain([0, 1, i64::from(u32::MAX)].map(Value::Integer))
            .filter(|_| !parameter.name.starts_with("hash_"))
            .collect()
    };
    for name in names() {
        let about = RouterSettings::new(name).chosen().about().clone();
        let mut all = vec![Table::new()];
        for parameter in &about.parameters {
            for value in extremes(parameter) {
                all.push(Table::from_iter([(parameter.name.clone(), value)]));
            }
        }
        // All weights at once at their largest.
        let largest = |key: &str| {
            let about = &about;
            let is_weight =
                about.parameters.iter().any(|p| p.name == key && p.allowed == "a number");
            is_weight.then(|| (key.to_owned(), Value::Float(1e12)))
        };
        let keys = about.parameters.iter().map(|parameter| parameter.name.as_str());
        let every: Table = keys.filter_map(largest).collect();
        let one_share = |(key, value): (String, Value)| {
            let alone = Table::from_iter([(key.clone(), value.clone())]);
            let fits = Registry::default().choose(name, &alone).is_ok();
            (key, if fits { value } else { Value::Float(1.0) })
        };
        all.push(every.into_iter().map(one_share).collect());
        for parameters in all {
            let Ok(chosen) = Registry::default().choose(name, &parameters) else { continue };
            let mut policy = chosen.build(&cluster(WORKERS, BLOCK_SIZE), 3);
            let mut workers = Workers::new(vec![WorkerView::default(); WORKERS as usize]);
            for id in 0..12 {
                if id == 6 {
                    (0..WORKERS - 1).map(WorkerId).for_each(|worker| {
                        workers.set_available(worker, false);
                        policy.worker_left(worker);
                    });
                }
                if id == 9 {
                    workers.set_available(WorkerId(0), true);
                    policy.worker_joined(WorkerId(0));
                }
                let request = texts.request(id, text, 250, BLOCK_SIZE);
                let request = request.route_view(BLOCK_SIZE);
                let now = SimTime::ZERO;
                for parts in policy.explain(&request, &workers.view()) {
                    assert!(!parts.cost.is_nan(), "{name} with {parameters}: {parts:?}");
                }
                match policy.route(now, &request, &workers.view()) {
                    Verdict::Send(target) => workers.sent(target),
                    Verdict::Hold | Verdict::Reject(RejectReason::Policy) => {}
                    other @ Verdict::Reject(_) => panic!("{name} with {parameters}: {other:?}"),
                }
            }
        }
    }
}

/// There is a decision to be explained even where nothing can be sent anywhere.
#[test]
fn costs_can_be_asked_for_where_every_worker_is_gone() {
    let mut texts = Texts::default();
    let text = texts.add(None);
    let request = texts.request(0, text, 250, BLOCK_SIZE);
    for name in names() {
        let mut policy = RouterSettings::new(name).chosen().build(&cluster(WORKERS, BLOCK_SIZE), 3);
        let mut workers = Workers::new(vec![WorkerView::default(); WORKERS as usize]);
        for worker in (0..WORKERS).map(WorkerId) {
            workers.set_available(worker, false);
            policy.worker_left(worker);
        }
        let _ = policy.explain(&request.route_view(BLOCK_SIZE), &workers.view());
    }
}
