//! What one run needs, checked.

use super::cluster::ClusterSettings;
use super::measure::{MeasureSettings, SloSettings};
use crate::engine::model::Model;
use crate::engine::settings::EngineConfig;
use crate::event::Medium;
use crate::fleet::Pools;
use crate::fleet::changes::ChangePlan;
use crate::router::ChosenPolicy;
use crate::router::settings::FrontEndSettings;
#[cfg(feature = "live")]
use crate::settings::Invalid;
use crate::simulation::Control;
use crate::time::SimTime;
use crate::workload::{WorkloadSettings, WorkloadSource};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dotted keys with the values that a point has there.
pub type Params = BTreeMap<String, serde_json::Value>;

/// One simulation per seed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunSpec {
    /// What to simulate.
    #[cfg_attr(not(internals), doc(hidden))]
    pub settings: Settings,
    /// Concurrent conversations of each level, in order; of a load in stages the numbers of
    /// those measured; a single 0 for other open loops, which have no such number.
    pub levels: Vec<u32>,
    /// For each level, its index in [`Experiment::points`](super::Experiment::points).
    pub points: Vec<usize>,
    /// An earlier run that differs only in what the policy does not look at: its
    /// simulations are this one's too.
    pub same_as: Option<usize>,
}

impl RunSpec {
    /// When the run is over; `None` if its workload decides.
    pub fn duration(&self) -> Option<SimTime> {
        let measure = &self.settings.measure;
        let level = measure.warmup + measure.window?;
        Some(SimTime::ZERO + level * self.levels.len() as u64)
    }
}

/// Everything one run needs, checked. Runs of a sweep hold together what they have in
/// common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The fleet.
    pub cluster: Arc<ClusterSettings>,
    /// Its workers.
    pub pools: Arc<Pools>,
    /// What the pools run, in their order; `None` where `[engine]` says everything.
    pub models: Arc<[Option<Arc<Model>>]>,
    /// The front ends before it.
    pub router: Arc<FrontEndSettings>,
    /// Their policy, with its parameters.
    pub policy: ChosenPolicy,
    /// The requests.
    pub workload: Arc<WorkloadSettings>,
    /// What is measured.
    pub measure: Arc<MeasureSettings>,
    /// Targets, if any.
    pub slo: Option<SloSettings>,
    /// What `workload` needs from files, in memory.
    pub source: Arc<WorkloadSource>,
    /// What changes while it runs, in order of time; changes of `cluster` apart.
    pub controls: Vec<(SimTime, Control)>,
}

impl Settings {
    /// Everything that happens to the workers: what `[cluster]` plans, then what
    /// controls do.
    pub fn plan(&self) -> ChangePlan {
        let mut plan = self.cluster.plan();
        for (crew, pool) in plan.crews.iter_mut().zip(self.pools.pools()) {
            crew.ranks = pool.ranks();
        }
        let of_workers = self.controls.iter().filter_map(|(at, control)| match control {
            Control::Worker(change) => Some(change.at(*at - SimTime::ZERO)),
            _ => None,
        });
        plan.changes.extend(of_workers);
        plan
    }

    /// Whether there is more to say of refused requests than how many there were.
    pub fn may_refuse(&self) -> bool {
        self.router.admission.is_some() || self.source.patience().on_refusal.is_some()
    }

    /// Whether the policy chooses among ranks; also true where each worker has one.
    pub(crate) fn by_rank(&self) -> bool {
        !self.pools.have_ranks() || self.policy.by_rank(self.router.targets)
    }

    /// What the tiers below GPU memory are made of, of all workers, fast to slow.
    pub fn media(&self) -> Vec<Medium> {
        let has = |medium: Medium| {
            let mut tiers = self.pools.pools().iter().flat_map(|pool| &pool.engine.tiers.tiers);
            tiers.any(|tier| tier.medium == medium)
        };
        Medium::ALL.into_iter().filter(|medium| has(*medium)).collect()
    }

    /// What the workers run with, where all are alike: the engine of the first pool.
    pub fn engine(&self) -> &EngineConfig {
        &self.pools.first().engine
    }
}

#[cfg(feature = "live")]
impl Settings {
    /// Refuses fleets that change, hand KV over or have ranks, where workers stay as they are and each
    /// does all the work; `why` says that.
    pub(crate) fn check_plain(&self, why: &str) -> Result<(), Invalid> {
        let ClusterSettings { prefill, change, planner, .. } = &*self.cluster;
        let (key, value) = match prefill.workers {
            Some(workers) => ("cluster.prefill.workers", workers.to_string()),
            None if self.pools.sides().are_two() => {
                ("cluster.pool", "pools with the roles prefill and decode".to_owned())
            }
            None if !change.is_empty() => ("cluster.change", format!("a list of {}", change.len())),
            None if planner.is_some() => ("cluster.planner", "a planner".to_owned()),
            None => ("cluster.pool", "a pool with spare workers".to_owned()),
        };
        let controls = format!("a list of {}", self.controls.len());
        let allowed = format!("left out: {why}");
        Invalid::unless(self.controls.is_empty(), "control", controls, &allowed)?;
        let ranks = self.pools.ranks().into_iter().max().unwrap_or(1);
        let one = "1: workers with ranks are neither served nor compared with real servers";
        Invalid::unless(ranks == 1, "attention_dp", ranks, one)?;
        let is_plain = !self.pools.sides().are_two() && self.cluster.plan().is_empty();
        Invalid::unless(is_plain, key, value, &allowed)
    }
}
