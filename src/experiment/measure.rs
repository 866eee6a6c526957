//! What is measured, when and how often: the `[measure]` section, and the
//! targets of `[slo]`.

use crate::recorder::{Quantiles, SPIKE_WINDOW};
use crate::settings::{Invalid, NOTHING, duration_text};
use crate::time::SimDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most seeds of one experiment (assumed: far more than any interval needs).
const MAX_SEEDS: u64 = 10_000;

/// The most snapshots of one window: each takes percentiles (assumed: four months of a
/// dashboard that is read every 10 s).
const MOST_SNAPSHOTS: u64 = 1_000_000;

/// The `[measure]` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeasureSettings {
    /// Time at the start of every level that is not measured.
    #[serde(default)]
    pub warmup: SimDuration,
    /// Time measured after it; without one a level lasts until the workload ends.
    pub window: Option<SimDuration>,
    /// The seeds, in order; written as a count `n` (seeds 1 to n) or a list.
    #[serde(deserialize_with = "seeds", default = "one_seed")]
    #[schemars(schema_with = "seeds_schema")]
    pub seeds: Vec<u64>,
    /// What a percentile is taken over.
    #[serde(default)]
    pub quantiles: QuantileKind,
    /// Time between snapshots; only with [`QuantileKind::Snapshots`].
    pub snapshot_every: Option<SimDuration>,
    /// Time before each snapshot that its percentiles cover; only with
    /// [`QuantileKind::Snapshots`].
    pub trailing: Option<SimDuration>,
    /// How the levels of `workload.concurrency` follow each other.
    #[serde(default)]
    pub levels: Levels,
    /// Whether to measure the regret of every choice of a worker. Default false:
    /// it takes time.
    #[serde(default)]
    pub why: bool,
    /// Time over which the height of queue spikes is taken. Default 10 s.
    #[serde(default = "spike_window")]
    pub spike_window: SimDuration,
}

/// What a percentile is taken over, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuantileKind {
    /// All requests of the window.
    #[default]
    Requests,
    /// The requests of a trailing window, at regular moments; the mean of those
    /// percentiles is reported, as a dashboard over Prometheus summaries does.
    Snapshots,
}

/// How the levels of `workload.concurrency` follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Levels {
    /// Each level is a run of its own and starts with cold caches.
    #[default]
    Independent,
    /// The levels are phases of one run: conversations are added, caches stay.
    InSequence,
}

impl MeasureSettings {
    /// Everything that happens until the workload ends, with seed 1.
    pub fn until_the_end() -> Self {
        Self {
            warmup: SimDuration::ZERO,
            window: None,
            seeds: one_seed(),
            quantiles: QuantileKind::default(),
            snapshot_every: None,
            trailing: None,
            levels: Levels::default(),
            why: false,
            spike_window: spike_window(),
        }
    }

    /// What a percentile is taken over.
    ///
    /// # Panics
    /// If the settings were not validated.
    pub fn quantiles(&self) -> Quantiles {
        match (self.quantiles, self.snapshot_every, self.trailing) {
            (QuantileKind::Requests, ..) => Quantiles::Requests,
            (QuantileKind::Snapshots, Some(every), Some(trailing)) => {
                Quantiles::Snapshots { every, trailing }
            }
            other => panic!("snapshots without times: {other:?} was not validated"),
        }
    }

    /// Checks what the types cannot; keys are relative to `[measure]`.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        if let Some(window) = self.window {
            Invalid::unless(!window.is_zero(), "window", duration_text(window), "longer than 0s")?;
        }
        let spikes = !self.spike_window.is_zero();
        Invalid::unless(
            spikes,
            "spike_window",
            duration_text(self.spike_window),
            "longer than 0s",
        )?;
        match self.quantiles {
            QuantileKind::Requests => {
                let given = [("snapshot_every", self.snapshot_every), ("trailing", self.trailing)];
                for (key, value) in given {
                    if let Some(value) = value {
                        let allowed = "left out unless quantiles = \"snapshots\"";
                        return Err(Invalid::new(key, duration_text(value), allowed));
                    }
                }
                Ok(())
            }
            QuantileKind::Snapshots => self.validate_snapshots(),
        }
    }

    fn validate_snapshots(&self) -> Result<(), Invalid> {
        let given = |key: &str, value: Option<SimDuration>| {
            let needed = "given with quantiles = \"snapshots\"";
            value.ok_or_else(|| Invalid::new(key, NOTHING, needed))
        };
        let window = given("window", self.window)?;
        let every = given("snapshot_every", self.snapshot_every)?;
        let trailing = given("trailing", self.trailing)?;
        Invalid::unless(
            !every.is_zero() && every <= window,
            "snapshot_every",
            duration_text(every),
            &format!("longer than 0s and at most the window, {}", duration_text(window)),
        )?;
        let least = SimDuration::from_ps(window.as_ps().div_ceil(MOST_SNAPSHOTS));
        let allowed =
            format!("at least {}: at most 1,000,000 snapshots fit a window", duration_text(least));
        Invalid::unless(every >= least, "snapshot_every", duration_text(every), &allowed)?;
        let longest = self.warmup + every;
        Invalid::unless(
            !trailing.is_zero() && trailing <= longest,
            "trailing",
            duration_text(trailing),
            &format!(
                "longer than 0s and at most warmup + snapshot_every, {}: the first snapshot must \
                 not reach back beyond the start of the level",
                duration_text(longest)
            ),
        )
    }
}

/// The `[slo]` section: a request meets it if it meets every target given.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SloSettings {
    /// Longest time to the first token, measured at the client.
    pub ttft: Option<SimDuration>,
    /// Longest mean time between tokens of a request.
    pub itl: Option<SimDuration>,
    /// The share of requests that has to meet them for a fleet to meet the SLO, above 0
    /// and at most 1. Default 0.95.
    #[serde(default = "attainment")]
    pub attainment: f64,
}

fn attainment() -> f64 {
    SloSettings::ATTAINMENT
}

impl SloSettings {
    /// The share of requests that has to meet the targets, unless another is given
    /// (assumed: the percentile that most service levels are written in).
    pub const ATTAINMENT: f64 = 0.95;

    /// Checks what the types cannot; keys are relative to `[slo]`.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (key, target) in [("ttft", self.ttft), ("itl", self.itl)] {
            if let Some(target) = target.filter(|target| target.is_zero()) {
                return Err(Invalid::new(key, duration_text(target), "longer than 0s"));
            }
        }
        let attainment = self.attainment;
        let is_share = attainment > 0.0 && attainment <= 1.0;
        let allowed = "a share above 0 and at most 1, like 0.95";
        Invalid::unless(is_share, "attainment", attainment, allowed)?;
        let any = self.ttft.is_some() || self.itl.is_some();
        Invalid::unless(any, "ttft", NOTHING, "given, or itl, or no [slo] section at all")
    }
}

fn spike_window() -> SimDuration {
    SPIKE_WINDOW
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

/// What [`seeds`] reads.
fn seeds_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [
            { "type": "integer", "minimum": 1, "maximum": MAX_SEEDS },
            {
                "type": "array",
                "items": { "type": "integer", "minimum": 0 },
                "minItems": 1,
                "maxItems": MAX_SEEDS,
                "uniqueItems": true,
            },
        ]
    })
}

fn seeds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct SeedsVisitor;
    impl<'de> Visitor<'de> for SeedsVisitor {
        type Value = Vec<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a count from 1 to {MAX_SEEDS} or a list of seeds like [1, 2, 3]")
        }
        fn visit_i64<E: Error>(self, n: i64) -> Result<Self::Value, E> {
            let count = u64::try_from(n).ok().filter(|n| (1..=MAX_SEEDS).contains(n));
            match count {
                Some(n) => Ok((1..=n).collect()),
                None => Err(E::invalid_value(serde::de::Unexpected::Signed(n), &self)),
            }
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut seeds = Vec::new();
            while let Some(seed) = list.next_element::<u64>()? {
                if seeds.len() as u64 == MAX_SEEDS {
                    return Err(A::Error::custom(format!("must list at most {MAX_SEEDS} seeds")));
                }
                if seeds.contains(&seed) {
                    return Err(A::Error::custom(format!("seed {seed} is listed twice")));
                }
                seeds.push(seed);
            }
            if seeds.is_empty() {
                return Err(A::Error::custom("must list at least one seed"));
            }
            Ok(seeds)
        }
    }
    deserializer.deserialize_any(SeedsVisitor)
}
