//! Which metrics an experiment will have: what it must ask for to get the others.

use super::config::{Experiment, Settings};
use crate::event::Medium;
use crate::metrics::{check_name, split};
use crate::settings::Invalid;

/// Refuses a metric that no run of `experiment` measures, before anything is
/// simulated for its sake.
///
/// # Errors
/// If there is no such metric, or the experiment lacks what it needs.
pub fn check_measured(key: &str, name: &str, experiment: &Experiment) -> Result<(), Invalid> {
    check_name(key, name)?;
    let Some((needed, has)) = need(split(name).0) else { return Ok(()) };
    let is_measured = experiment.runs.iter().any(|run| has.is_met(&run.settings));
    let allowed = format!("a metric that this experiment measures; this one needs {needed}");
    Invalid::unless(is_measured, key, name, &allowed)
}

/// What some metrics come from.
enum Need {
    Targets,
    Why,
    Pools,
    Tiers,
    Tier(Medium),
    Changes,
    Retries,
    Planner,
    Shadow,
    Trace,
}

impl Need {
    fn is_met(&self, settings: &Settings) -> bool {
        let tiers = &settings.engine.tiers.tiers;
        let plan = settings.cluster.plan();
        match self {
            Self::Targets => settings.slo.is_some(),
            Self::Why => settings.measure.why,
            Self::Pools => settings.pools.is_some(),
            Self::Tiers => !tiers.is_empty(),
            Self::Tier(medium) => tiers.iter().any(|tier| tier.medium == *medium),
            Self::Changes => !plan.is_empty(),
            Self::Retries => !plan.is_empty() && plan.failover.retries > 0,
            Self::Planner => plan.planner.is_some(),
            Self::Shadow => settings.policy.name() == "shadow",
            Self::Trace => settings.workload.is_read(),
        }
    }
}

/// What the metrics of a stem need, in words; `None` of those that every run has.
fn need(stem: &str) -> Option<(&'static str, Need)> {
    Some(match stem {
        "goodput_per_s" | "slo_attainment" => ("[slo]", Need::Targets),
        "hit_ratio_bound"
        | "lost_to_eviction_ratio"
        | "lost_to_wrong_worker_ratio"
        | "lost_to_stale_index_ratio"
        | "overlap_regret_blocks" => ("measure.why = true", Need::Why),
        "transfer_ms" | "decode_queue_ms" => ("cluster.prefill.workers", Need::Pools),
        "load_ms" | "loaded_gb_per_s" => ("[[engine.tier]]", Need::Tiers),
        "hit_ratio_host" => ("an [[engine.tier]] of host memory", Need::Tier(Medium::Host)),
        "hit_ratio_disk" => ("an [[engine.tier]] on disk", Need::Tier(Medium::Disk)),
        "hit_ratio_remote" => ("a remote [[engine.tier]]", Need::Tier(Medium::Remote)),
        "failed" | "migrations" | "recomputed_tokens" | "hit_ratio_lowest" | "hit_recovery_s"
        | "workers" => ("[[cluster.change]] or [cluster.planner]", Need::Changes),
        "retries" => {
            ("[[cluster.change]] or [cluster.planner], and cluster.failover.retries", Need::Retries)
        }
        "rows_left_out" | "sessions_broken" => ("workload.kind = \"trace\"", Need::Trace),
        "workers_added" | "workers_removed" => ("[cluster.planner]", Need::Planner),
        _ if stem.starts_with("shadow_") => ("router.policy = \"shadow\"", Need::Shadow),
        _ if stem.starts_with("prefill_") || stem.starts_with("decode_") => {
            ("cluster.prefill.workers", Need::Pools)
        }
        _ => return None,
    })
}
