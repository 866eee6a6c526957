//! Which metrics an experiment will have: what it must ask for to get the others.

use super::load::Experiment;
use super::run_spec::Settings;
use crate::metrics::{Needs, catalogue, check_name, pool_of};
use crate::settings::Invalid;

/// Refuses a metric that no run of `experiment` measures, before anything is
/// simulated for its sake.
///
/// # Errors
/// If there is no such metric, or the experiment lacks what it needs.
pub fn check_measured(key: &str, name: &str, experiment: &Experiment) -> Result<(), Invalid> {
    let needs = check_name(key, name)?.needs;
    let has_pool = |settings: &Settings| {
        let named = |pool: &str| settings.pools.pools().iter().any(|known| known.name == pool);
        pool_of(name).is_none_or(|(_, pool)| named(pool))
    };
    let is_measured = |settings: &Settings| meets(settings, needs) && has_pool(settings);
    let is_measured = experiment.runs.iter().any(|run| is_measured(&run.settings));
    let allowed = format!("a metric that this experiment measures; this one needs {needs}");
    Invalid::unless(is_measured, key, name, &allowed)
}

/// True if a run of these settings has the metrics with these needs.
fn meets(settings: &Settings, needs: Needs) -> bool {
    let media = settings.media();
    let plan = settings.plan();
    match needs {
        Needs::Nothing => true,
        Needs::Targets => settings.slo.is_some(),
        Needs::Why => settings.measure.why,
        Needs::Pools => settings.pools.sides().are_two(),
        Needs::NamedPools => settings.cluster.pool.len() > 1,
        Needs::Tiers => !media.is_empty(),
        Needs::Tier(medium) => media.contains(&medium),
        Needs::Changes => !plan.is_empty(),
        Needs::Retries => {
            let patience = settings.source.patience();
            !plan.is_empty() && plan.failover.retries > 0
                || patience.retries > 0
                || patience.on_refusal.as_ref().is_some_and(|refusal| refusal.retries > 0)
        }
        Needs::Connections => settings.source.client().connections.is_some(),
        Needs::Planner => plan.planner.is_some(),
        Needs::Shadow => {
            let stem = catalogue::SHADOW_DECISIONS.stem;
            settings.policy.about().metrics.iter().any(|metric| metric == stem)
        }
        Needs::Trace => settings.workload.is_read(),
        Needs::Patience => !settings.source.patience().is_endless(),
        Needs::Refusals => settings.may_refuse(),
    }
}
