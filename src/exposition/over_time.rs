//! Metrics of an experiment's simulations over simulated time.

use super::{Families, Stamp, Tally, escaped, model_name};
use crate::experiment::{Experiment, RunError};
use crate::settings::plain;
use crate::time::{SimDuration, SimTime};

/// Simulated time zero in seconds since 1970: 1 January 2026, so that the same experiment
/// gives the same file.
pub const BEGIN_S: f64 = 1_767_225_600.0;

/// Between two samples: what Prometheus scrapes by default in Grafana's examples.
const EVERY: SimDuration = SimDuration::from_secs(15);

/// What rolling numbers cover.
const WINDOW: SimDuration = SimDuration::from_secs(60);

/// OpenMetrics of every run of `experiment` with its first seed, from time zero on, a sample
/// every 15 s. The label `run` has the swept values of a run, those of levels that follow
/// each other apart.
///
/// # Errors
/// If a simulation cannot go on.
pub fn metrics_over_time(experiment: &Experiment) -> Result<String, RunError> {
    let mut families = Families::default();
    let seed = experiment.seeds[0];
    for run in &experiment.runs {
        let first = &experiment.points[run.points[0]];
        let same = |key: &&String| {
            run.points.iter().all(|&point| experiment.points[point].get(*key) == first.get(*key))
        };
        let params: Vec<String> =
            first.keys().filter(same).map(|key| format!("{key}={}", plain(&first[key]))).collect();
        let label = format!("run=\"{}\"", escaped(&params.join(", ")));
        let mut simulation = run.simulation(seed);
        simulation.watch(WINDOW);
        let tally = Tally::new(run.settings.pools.slots() as usize);
        simulation.observe(tally.clone());
        simulation.fleet_mut().record_steps();
        let mut until = SimTime::ZERO;
        loop {
            let progress = simulation.advance(until).map_err(|source| RunError::Simulation {
                experiment: experiment.name.clone(),
                point: params.join(", "),
                seed,
                source,
            })?;
            // Steps up to now are known once the fleet is looked at.
            simulation.gauges();
            tally.count_steps(simulation.fleet_mut().take_steps());
            let at = Some(BEGIN_S + simulation.now().as_secs());
            let stamp = Stamp { label: &label, model: model_name(&run.settings), at };
            families.add(stamp, &mut simulation, &tally, &run.settings);
            if progress.is_over {
                break;
            }
            until += EVERY;
        }
    }
    Ok(families.open_metrics())
}
