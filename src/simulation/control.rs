//! What can be changed while a simulation runs, and how an experiment writes it down.

use crate::engine::Pace;
use crate::fleet::changes::{ChangeKind, WorkerChange};
use crate::settings::{Count, Invalid, count_option};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A change of a running simulation. It happens at one moment: after what workers do
/// then and after windows that begin or end, before the arrivals.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Control {
    /// So many conversations or clients at the same time, in a closed loop.
    Load {
        /// Conversations or clients; 0 lets the fleet run empty.
        concurrency: u32,
        /// Whether conversations that are too many end with the answer that they
        /// wait for. If not, they go on to their last turn.
        cut: bool,
    },
    /// So many requests a second, in an open loop whose arrivals follow a process.
    Rate {
        /// Requests a second.
        per_s: f64,
    },
    /// A parameter of the running policy, or a limit of admission.
    Parameter {
        /// Its key in `[router]`; that of a limit begins with `admission.`.
        key: String,
        /// The new value.
        value: f64,
    },
    /// Another policy in place of the one that runs, as if the router were deployed
    /// again: with an empty index, and knowing nothing of requests in flight.
    Policy {
        /// Its name.
        name: String,
    },
    /// A worker crashes, drains, starts or changes its pace.
    Worker(WorkerChange),
    /// KV events published from now on take another way.
    Feed {
        /// Time from publication to visibility; as it was if not given.
        delay: Option<SimDuration>,
        /// Share of events that never arrive; as it was if not given.
        loss_ratio: Option<f64>,
    },
    /// Nothing changes; a note for people.
    Marker {
        /// The note.
        note: String,
    },
}

/// One `[[control]]` of an experiment: a [`Control`] and its time.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlSettings {
    /// When, counted from the start of the simulation.
    pub at: SimDuration,
    /// What changes.
    pub what: ControlKind,
    /// Settings with their values: only simulations that have all of them are
    /// controlled. Default: all simulations are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub only: BTreeMap<String, Value>,
    /// (load) Conversations or clients at the same time.
    #[serde(default, deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub concurrency: Option<u32>,
    /// (load) Whether conversations that are too many end with the answer that they
    /// wait for. Default false: they go on to their last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<bool>,
    /// (rate) Requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// (parameter) The key in `[router]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// (parameter) The new value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// (policy) The name of the policy that takes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// (crash, drain, start, slow) The worker.
    #[serde(default, deserialize_with = "count_option", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Count>")]
    pub worker: Option<u32>,
    /// (crash) Time until something starts it again. Default: nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_after: Option<SimDuration>,
    /// (drain) Time after which requests that still run are dropped. Default: as
    /// long as they take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<SimDuration>,
    /// (slow) Times that a step takes as long on the GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// (slow) For how long. Default: until the end, or until it dies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lasts: Option<SimDuration>,
    /// (feed) Time from publication of a KV event to its visibility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<SimDuration>,
    /// (feed) Share of KV events that never arrive, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_ratio: Option<f64>,
    /// (marker) The note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a `[[control]]` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// The number of concurrent conversations or clients.
    Load,
    /// The arrival rate.
    Rate,
    /// A parameter of the policy, or a limit of admission.
    Parameter,
    /// The policy.
    Policy,
    /// A worker dies, with its requests and its cache.
    Crash,
    /// A worker takes no new requests, finishes those it has, and stops.
    Drain,
    /// A worker that is down begins to load.
    Start,
    /// A worker's GPU runs at another pace.
    Slow,
    /// The way of KV events.
    Feed,
    /// Nothing: a note for people.
    Marker,
}

impl ControlKind {
    fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Rate => "rate",
            Self::Parameter => "parameter",
            Self::Policy => "policy",
            Self::Crash => "crash",
            Self::Drain => "drain",
            Self::Start => "start",
            Self::Slow => "slow",
            Self::Feed => "feed",
            Self::Marker => "marker",
        }
    }

    fn of_worker(self) -> Option<ChangeKind> {
        Some(match self {
            Self::Crash => ChangeKind::Crash,
            Self::Drain => ChangeKind::Drain,
            Self::Start => ChangeKind::Start,
            Self::Slow => ChangeKind::Slow,
            _ => return None,
        })
    }
}

/// What [`Invalid`] shows as the value of a key that is not given.
const NOTHING: &str = "nothing";

impl ControlSettings {
    /// A control with its time and no keys yet.
    fn new(at: SimTime, what: ControlKind) -> Self {
        Self {
            at: at - SimTime::ZERO,
            what,
            only: BTreeMap::new(),
            concurrency: None,
            cut: None,
            rate: None,
            key: None,
            value: None,
            policy: None,
            worker: None,
            restart_after: None,
            grace: None,
            factor: None,
            lasts: None,
            delay: None,
            loss_ratio: None,
            note: None,
        }
    }

    /// As it is written down: [`control`](Self::control) gives the same back.
    pub fn of(at: SimTime, control: &Control) -> Self {
        let new = |what| Self::new(at, what);
        match control.clone() {
            Control::Load { concurrency, cut } => Self {
                concurrency: Some(concurrency),
                cut: cut.then_some(true),
                ..new(ControlKind::Load)
            },
            Control::Rate { per_s } => Self { rate: Some(per_s), ..new(ControlKind::Rate) },
            Control::Parameter { key, value } => {
                Self { key: Some(key), value: Some(value), ..new(ControlKind::Parameter) }
            }
            Control::Policy { name } => Self { policy: Some(name), ..new(ControlKind::Policy) },
            Control::Worker(change) => Self {
                worker: Some(change.worker),
                restart_after: change.restart_after,
                grace: change.grace,
                factor: change.factor,
                lasts: change.lasts,
                ..new(match change.what {
                    ChangeKind::Crash => ControlKind::Crash,
                    ChangeKind::Drain => ControlKind::Drain,
                    ChangeKind::Start => ControlKind::Start,
                    ChangeKind::Slow => ControlKind::Slow,
                })
            },
            Control::Feed { delay, loss_ratio } => {
                Self { delay, loss_ratio, ..new(ControlKind::Feed) }
            }
            Control::Marker { note } => Self { note: Some(note), ..new(ControlKind::Marker) },
        }
    }

    /// What it says, checked as far as it can be without a simulation.
    ///
    /// # Errors
    /// The first key that is missing, does not belong, or has a value that will not do.
    pub fn control(&self) -> Result<Control, Invalid> {
        self.check_keys()?;
        if let Some(what) = self.what.of_worker() {
            let Self { restart_after, grace, factor, lasts, .. } = *self;
            if what == ChangeKind::Slow {
                let nothing = "given with what = \"slow\": times that a step takes as long";
                Pace::new(needed("factor", factor, nothing)?)?;
            }
            let lasts_some = lasts.is_none_or(|lasts| !lasts.is_zero());
            Invalid::unless(lasts_some, "lasts", "\"0s\"", "longer than 0s")?;
            let worker = needed("worker", self.worker, "given: the number of the worker")?;
            let change = WorkerChange { worker, what, restart_after, grace, factor, lasts };
            return Ok(Control::Worker(change));
        }
        Ok(match self.what {
            ControlKind::Load => {
                let allowed = "given: conversations or clients at the same time";
                let concurrency = needed("concurrency", self.concurrency, allowed)?;
                Control::Load { concurrency, cut: self.cut.unwrap_or(false) }
            }
            ControlKind::Rate => {
                Control::Rate { per_s: needed("rate", self.rate, "given: requests a second")? }
            }
            ControlKind::Parameter => {
                let allowed = "given: a key of [router] that the policy can change";
                let key = needed("key", self.key.clone(), allowed)?;
                let value = needed("value", self.value, "given: the new value of the parameter")?;
                let is_finite = value.is_finite();
                Invalid::unless(is_finite, "value", value, "a finite number")?;
                Control::Parameter { key, value }
            }
            ControlKind::Policy => {
                let allowed = "given: the name of a policy";
                Control::Policy { name: needed("policy", self.policy.clone(), allowed)? }
            }
            ControlKind::Feed => {
                let Self { delay, loss_ratio, .. } = *self;
                if delay.is_none() && loss_ratio.is_none() {
                    let allowed = "given with what = \"feed\", or loss_ratio is";
                    return Err(Invalid::new("delay", NOTHING, allowed));
                }
                if let Some(share) = loss_ratio {
                    let is_share = (0.0..=1.0).contains(&share);
                    Invalid::unless(is_share, "loss_ratio", share, "a share between 0 and 1")?;
                }
                Control::Feed { delay, loss_ratio }
            }
            ControlKind::Marker => {
                let note = needed("note", self.note.clone(), "given: the text of the marker")?;
                Control::Marker { note }
            }
            ControlKind::Crash | ControlKind::Drain | ControlKind::Start | ControlKind::Slow => {
                unreachable!("changes of workers are done")
            }
        })
    }

    /// Refuses keys that mean nothing for its kind.
    fn check_keys(&self) -> Result<(), Invalid> {
        use ControlKind::{Crash, Drain, Feed, Load, Marker, Parameter, Policy, Rate, Slow, Start};
        let keys: [(&str, bool, &[ControlKind]); 14] = [
            ("concurrency", self.concurrency.is_some(), &[Load]),
            ("cut", self.cut.is_some(), &[Load]),
            ("rate", self.rate.is_some(), &[Rate]),
            ("key", self.key.is_some(), &[Parameter]),
            ("value", self.value.is_some(), &[Parameter]),
            ("policy", self.policy.is_some(), &[Policy]),
            ("worker", self.worker.is_some(), &[Crash, Drain, Start, Slow]),
            ("restart_after", self.restart_after.is_some(), &[Crash]),
            ("grace", self.grace.is_some(), &[Drain]),
            ("factor", self.factor.is_some(), &[Slow]),
            ("lasts", self.lasts.is_some(), &[Slow]),
            ("delay", self.delay.is_some(), &[Feed]),
            ("loss_ratio", self.loss_ratio.is_some(), &[Feed]),
            ("note", self.note.is_some(), &[Marker]),
        ];
        let wrong = keys.into_iter().find(|(_, given, of)| *given && !of.contains(&self.what));
        let Some((key, _, of)) = wrong else { return Ok(()) };
        let of: Vec<String> = of.iter().map(|kind| format!("{:?}", kind.name())).collect();
        Err(Invalid::new(key, "given", format!("left out unless what = {}", of.join(" or "))))
    }
}

fn needed<T>(key: &str, value: Option<T>, allowed: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(key, NOTHING, allowed))
}

/// `controls` as the text of an experiment: put behind the experiment that they were
/// applied to, they replay to the same digest.
pub fn controls_toml<'a>(controls: impl IntoIterator<Item = &'a (SimTime, Control)>) -> String {
    #[derive(Serialize)]
    struct Controls {
        control: Vec<ControlSettings>,
    }
    let control: Vec<ControlSettings> =
        controls.into_iter().map(|(at, control)| ControlSettings::of(*at, control)).collect();
    if control.is_empty() {
        return String::new();
    }
    toml::to_string(&Controls { control }).expect("plain values are TOML")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Control, Invalid> {
        toml::from_str::<ControlSettings>(text).expect("the shape of a control").control()
    }

    fn any_control() -> impl Strategy<Value = Control> {
        let time =
            || prop::option::of(0u64..u64::MAX / 4).prop_map(|t| t.map(SimDuration::from_ps));
        let worker =
            (0u32..9, 0usize..4, time(), 0.1f64..9.0).prop_map(|(worker, what, t, factor)| {
                let what =
                    [ChangeKind::Crash, ChangeKind::Drain, ChangeKind::Start, ChangeKind::Slow]
                        [what];
                let is = |other| what == other;
                Control::Worker(WorkerChange {
                    worker,
                    what,
                    restart_after: t.filter(|_| is(ChangeKind::Crash)),
                    grace: t.filter(|_| is(ChangeKind::Drain)),
                    factor: is(ChangeKind::Slow).then_some(factor),
                    lasts: t.filter(|t| is(ChangeKind::Slow) && !t.is_zero()),
                })
            });
        prop_oneof![
            (any::<u32>(), any::<bool>())
                .prop_map(|(concurrency, cut)| Control::Load { concurrency, cut }),
            (0.001f64..1e6).prop_map(|per_s| Control::Rate { per_s }),
            ("[a-z_]{1,9}", -1e9f64..1e9)
                .prop_map(|(key, value)| Control::Parameter { key, value }),
            "[a-z_]{1,9}".prop_map(|name| Control::Policy { name }),
            worker,
            (0u64..1 << 60, 0.0f64..1.0).prop_map(|(delay, loss)| Control::Feed {
                delay: Some(SimDuration::from_ps(delay)),
                loss_ratio: Some(loss),
            }),
            any::<String>().prop_map(|note| Control::Marker { note }),
        ]
    }

    proptest! {
        /// Also times of days are exact to the picosecond.
        #[test]
        fn what_is_written_reads_back(
            controls in prop::collection::vec((0u64..8_000_000_000_000_000_000, any_control()), 0..5)
        ) {
            let controls: Vec<(SimTime, Control)> =
                controls.into_iter().map(|(at, control)| (SimTime::from_ps(at), control)).collect();
            let text = controls_toml(&controls);
            let table: BTreeMap<String, Vec<ControlSettings>> = toml::from_str(&text).unwrap();
            let read = table.get("control").into_iter().flatten();
            let read: Vec<_> = read.map(|c| (SimTime::ZERO + c.at, c.control().unwrap())).collect();
            prop_assert_eq!(read, controls);
        }
    }

    #[test]
    fn a_wrong_key_is_named() {
        let message = |text: &str| read(text).unwrap_err().to_string();
        for (text, expected) in [
            ("what = 'load'", "concurrency = nothing: must be given: conversations or clients"),
            ("what = 'load'\nrate = 3", "rate = given: must be left out unless what = \"rate\""),
            ("what = 'crash'", "worker = nothing: must be given: the number of the worker"),
            ("what = 'slow'\nworker = 1", "factor = nothing: must be given with what = \"slow\""),
            ("what = 'feed'", "delay = nothing: must be given with what = \"feed\""),
            ("what = 'feed'\nloss_ratio = 2", "loss_ratio = 2: must be a share between 0 and 1"),
            ("what = 'parameter'\nkey = 'x'\nvalue = nan", "value = NaN: must be a finite number"),
            ("what = 'marker'", "note = nothing: must be given: the text of the marker"),
            (
                "what = 'marker'\nnote = 'x'\nworker = 1",
                "worker = given: must be left out unless what = \"crash\" or \"drain\" or \"start\"",
            ),
        ] {
            let message = message(&format!("at = '1s'\n{text}"));
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
