//! The fleet: the `[cluster]` section.

use crate::engine::model::ModelChoice;
use crate::engine::settings::EngineSettings;
use crate::fleet::changes::{
    ChangePlan, ChangeSettings, Crew, FailoverSettings, LOAD_TIME, MOST_WORKERS, PlannerSettings,
};
use crate::fleet::{Link, PoolRole};
use crate::settings::{Count, Invalid, NOTHING, count, count_option};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Table;

/// The `[cluster]` section: one pool of workers, of which some may prefill for the others,
/// or a list of pools.
///
/// `prefill` and `decode` have an effect only where `prefill.workers` is given, so that it
/// can be swept.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [{ "required": ["workers"] }, { "required": ["pool"] }]))]
pub struct ClusterSettings {
    /// Number of workers, at the start; needed unless there are pools.
    #[serde(default, deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub workers: Option<u32>,
    /// The model: a name of `sim models`, a model file relative to the experiment, or its
    /// parts; not needed if `[engine]` gives everything.
    pub model: Option<ModelChoice>,
    /// The pools, where workers are not all alike.
    #[serde(default)]
    pub pool: Vec<PoolSettings>,
    /// Workers that only prefill.
    #[serde(default)]
    pub prefill: PrefillSettings,
    /// The other workers, which decode.
    #[serde(default)]
    pub decode: DecodeSettings,
    /// What joins them.
    #[serde(default)]
    pub network: NetworkSettings,
    /// Time that a worker takes from its start until it serves: weights, graphs,
    /// warm-up. Default 60 s (assumed).
    #[serde(default = "load_time")]
    pub load_time: SimDuration,
    /// What happens to workers.
    #[serde(default)]
    pub change: Vec<ChangeSettings>,
    /// What routers and clients make of it.
    #[serde(default)]
    pub failover: FailoverSettings,
    /// What adds and removes workers, if anything does.
    pub planner: Option<PlannerSettings>,
}

/// One entry of `[[cluster.pool]]`: workers that are alike.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSettings {
    /// Its name in keys, metrics and reports: letters, digits, `-` and `_`, not digits
    /// alone.
    pub name: String,
    /// What its workers do. Default `"both"`.
    #[serde(default)]
    pub role: PoolRole,
    /// Number of workers, at the start.
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub workers: u32,
    /// Number of workers that may start later: `[[cluster.change]]` and the planner name
    /// them by the numbers behind those of the pool's other workers. Default 0.
    #[serde(default, deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub spare: u32,
    /// Their model. Default: `cluster.model`.
    pub model: Option<ModelChoice>,
    /// Wins over `[engine]` on these workers.
    #[serde(default)]
    #[schemars(with = "EngineSettings")]
    pub engine: Table,
}

/// A pool as written, in the long form or the short one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    pub(super) name: &'a str,
    pub(super) role: PoolRole,
    pub(super) workers: u32,
    pub(super) spare: u32,
    pub(super) model: Option<&'a ModelChoice>,
    pub(super) engine: Option<&'a Table>,
    /// Where it stands: its place in `cluster.pool`, or a section of the short form.
    pub(super) place: WrittenAt,
}

/// Where a pool is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrittenAt {
    /// In `[cluster]` itself: the only pool.
    Cluster,
    /// In this section of `[cluster]`.
    Section(&'static str),
    /// In this entry of `[[cluster.pool]]`.
    Entry(usize),
}

impl WrittenAt {
    /// `key` of the pool, as a key of `[cluster]`; `None` if it is one of `[engine]`.
    pub(super) fn key(self, key: &str) -> Option<String> {
        match self {
            Self::Cluster => None,
            Self::Section(section) => Some(format!("{section}.{key}")),
            Self::Entry(at) => Some(format!("pool[{at}].{key}")),
        }
    }
}

fn load_time() -> SimDuration {
    LOAD_TIME
}

/// The `[cluster.prefill]` section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefillSettings {
    /// How many of the workers prefill; the others decode. Default: all do both.
    #[serde(deserialize_with = "count_option")]
    #[schemars(with = "Option<Count>")]
    pub workers: Option<u32>,
    /// Their model. Default: `cluster.model`.
    pub model: Option<ModelChoice>,
    /// Wins over `[engine]` on these workers.
    #[schemars(with = "EngineSettings")]
    pub engine: Table,
}

/// The `[cluster.decode]` section.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeSettings {
    /// Their model. Default: `cluster.model`.
    pub model: Option<ModelChoice>,
    /// Wins over `[engine]` on these workers.
    #[schemars(with = "EngineSettings")]
    pub engine: Table,
}

/// The `[cluster.network]` section: one NIC per worker.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Bandwidth of a NIC in each direction, in Gbit/s; `inf` for any. Default 400
    /// (assumed: an NDR InfiniBand port).
    pub gbit_per_s: f64,
    /// From the last byte of a transfer to its being known at both ends. Default
    /// 1 ms (assumed: a notification and a poll).
    pub latency: SimDuration,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { gbit_per_s: 400.0, latency: SimDuration::from_millis(1) }
    }
}

impl NetworkSettings {
    pub(super) fn link(&self) -> Link {
        Link { gbit_per_s: self.gbit_per_s, latency: self.latency }
    }
}

impl PoolSettings {
    fn written(&self, at: usize) -> Written<'_> {
        let Self { name, role, workers, spare, model, engine } = self;
        let (role, workers, spare) = (*role, *workers, *spare);
        let place = WrittenAt::Entry(at);
        Written { name, role, workers, spare, model: model.as_ref(), engine: Some(engine), place }
    }
}

/// The most pools of a fleet (assumed: far above the kinds of hardware behind one router).
const MOST_POOLS: usize = 100;

impl ClusterSettings {
    /// So many workers, to which nothing happens.
    pub fn new(workers: u32) -> Self {
        Self {
            workers: Some(workers),
            model: None,
            pool: Vec::new(),
            prefill: PrefillSettings::default(),
            decode: DecodeSettings::default(),
            network: NetworkSettings::default(),
            load_time: load_time(),
            change: Vec::new(),
            failover: FailoverSettings::default(),
            planner: None,
        }
    }

    /// The pools, in order of their workers' numbers: those that prefill come first.
    pub(super) fn written(&self) -> Vec<Written<'_>> {
        if self.pool.is_empty() {
            return self.short_form();
        }
        let entries = self.pool.iter().enumerate();
        let mut pools: Vec<Written<'_>> = entries.map(|(at, pool)| pool.written(at)).collect();
        for pool in &mut pools {
            pool.model = pool.model.or(self.model.as_ref());
        }
        pools.sort_by_key(|pool| pool.role == PoolRole::Decode);
        pools
    }

    fn short_form(&self) -> Vec<Written<'_>> {
        let all = Written {
            name: "workers",
            role: PoolRole::Both,
            workers: self.workers.unwrap_or(0),
            spare: 0,
            model: self.model.as_ref(),
            engine: None,
            place: WrittenAt::Cluster,
        };
        let Some(workers) = self.prefill.workers else { return vec![all] };
        let prefill = Written {
            name: "prefill",
            role: PoolRole::Prefill,
            workers,
            model: self.prefill.model.as_ref().or(all.model),
            engine: Some(&self.prefill.engine),
            place: WrittenAt::Section("prefill"),
            ..all
        };
        let decode = Written {
            name: "decode",
            role: PoolRole::Decode,
            workers: all.workers.saturating_sub(workers),
            model: self.decode.model.as_ref().or(all.model),
            engine: Some(&self.decode.engine),
            place: WrittenAt::Section("decode"),
            ..all
        };
        vec![prefill, decode]
    }

    /// Everything that happens to the workers.
    pub fn plan(&self) -> ChangePlan {
        let crew = |pool: &Written<'_>| Crew {
            pool: pool.name.to_owned(),
            workers: pool.workers,
            spare: pool.spare,
            ranks: 1,
        };
        ChangePlan {
            crews: self.written().iter().map(crew).collect(),
            load_time: self.load_time,
            changes: self.change.clone(),
            failover: self.failover,
            planner: self.planner.clone(),
        }
    }

    /// Workers that there can ever be: ids are below.
    pub fn slots(&self) -> u32 {
        self.plan().slots()
    }

    /// Checks what does not depend on models; keys in the error are relative to `[cluster]`.
    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if self.pool.is_empty() {
            self.validate_short()?;
        } else {
            self.validate_pools()?;
        }
        self.network.link().validate().map_err(|invalid| invalid.within("network"))?;
        self.plan().validate()
    }

    fn validate_short(&self) -> Result<(), Invalid> {
        let allowed = "given, or pools, each as [[cluster.pool]]";
        let workers = self.workers.ok_or_else(|| Invalid::new("workers", NOTHING, allowed))?;
        let allowed = format!("from 1 to {MOST_WORKERS}");
        Invalid::unless((1..=MOST_WORKERS).contains(&workers), "workers", workers, &allowed)?;
        let Some(prefill) = self.prefill.workers else { return Ok(()) };
        let allowed = match workers {
            1 => "left out: one worker cannot be two pools".to_owned(),
            workers => format!(
                "from 1 to {}: the others of the {workers} workers decode; or left out",
                workers - 1
            ),
        };
        let splits = (1..workers).contains(&prefill);
        Invalid::unless(splits, "prefill.workers", prefill, &allowed)
    }

    fn validate_pools(&self) -> Result<(), Invalid> {
        let allowed = "left out where [[cluster.pool]] is given: each pool has its own";
        let workers = self.workers.unwrap_or_default();
        Invalid::unless(self.workers.is_none(), "workers", workers, allowed)?;
        let allowed = "left out where [[cluster.pool]] is given: a pool has a role";
        let is_left_out = self.prefill == PrefillSettings::default();
        Invalid::unless(is_left_out, "prefill", "a section", allowed)?;
        let is_left_out = self.decode == DecodeSettings::default();
        Invalid::unless(is_left_out, "decode", "a section", allowed)?;
        let (pools, allowed) = (self.pool.len(), format!("a list of at most {MOST_POOLS}"));
        Invalid::unless(pools <= MOST_POOLS, "pool", format!("a list of {pools}"), &allowed)?;
        let mut all = 0u32;
        for (at, PoolSettings { name, workers, spare, .. }) in self.pool.iter().enumerate() {
            let of_this = |invalid: Invalid| invalid.within(&format!("pool[{at}]"));
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            let is_name = (1..=40).contains(&name.len())
                && name.chars().all(plain)
                && !name.chars().all(|c| c.is_ascii_digit());
            let allowed = "1 to 40 letters, digits, '-' or '_', not digits alone";
            Invalid::unless(is_name, "name", format!("{name:?}"), allowed).map_err(of_this)?;
            let is_new = self.pool[..at].iter().all(|other| other.name != *name);
            let allowed = "a name that no other pool has";
            Invalid::unless(is_new, "name", format!("{name:?}"), allowed).map_err(of_this)?;
            all = all.saturating_add(*workers).saturating_add(*spare);
            let allowed = format!("from 1 to {MOST_WORKERS}, those of all pools together");
            let fits = *workers > 0 && (*workers).max(all - spare) <= MOST_WORKERS;
            Invalid::unless(fits, "workers", workers, &allowed).map_err(of_this)?;
            let allowed = format!("at most {MOST_WORKERS}, with all other workers");
            Invalid::unless(all <= MOST_WORKERS, "spare", spare, &allowed).map_err(of_this)?;
        }
        Ok(())
    }
}
