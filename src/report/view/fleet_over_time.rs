//! How a fleet that changes served, over time: hits, times to the first token
//! and failures, from the records of all seeds of each simulation.

use crate::experiment::{Experiment, Params, RunSpec, SimulationRequests};
use crate::recorder::{End, RequestRecord};
use crate::stats;
use crate::time::{SimDuration, SimTime};
use serde::{Deserialize, Serialize};

/// All combinations of parameters, and what happened to the fleet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetsOverTime {
    /// A line per combination of parameters.
    pub lines: Vec<FleetOverTime>,
    /// What happened as the experiment says, by seconds since the start.
    pub changes: Vec<(f64, String)>,
}

/// One combination of parameters, cut into intervals of equal length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetOverTime {
    /// The parameters.
    pub params: Params,
    /// The middle of every interval, in seconds since the start of the simulation.
    pub seconds: Vec<f64>,
    /// Share of the prompt tokens scheduled in the interval that were hit, in
    /// percent; `None` if none was scheduled.
    pub hit_ratio: Vec<Option<f64>>,
    /// 95th percentile of the times to the first tokens of the interval, in milliseconds.
    pub ttft_ms_p95: Vec<Option<f64>>,
    /// Requests that failed or were rejected, over those that ended, in percent.
    pub error_ratio: Vec<Option<f64>>,
}

/// What one interval saw.
#[derive(Clone, Debug, Default)]
struct Interval {
    cached: u64,
    prompt: u64,
    ttft_ms: Vec<f64>,
    ended: u32,
    unserved: u32,
}

impl Interval {
    fn ratio(part: f64, whole: f64) -> Option<f64> {
        (whole > 0.0).then(|| 100.0 * part / whole)
    }
}

/// Time over which values are taken for a figure.
const INTERVAL: SimDuration = SimDuration::from_secs(10);

/// How the fleets of `experiment` served while they changed; `None` if none does.
pub fn of(experiment: &Experiment, simulations: &[SimulationRequests]) -> Option<FleetsOverTime> {
    let changes = |run: &RunSpec| run.settings.plan();
    let run = experiment.runs.iter().find(|run| !changes(run).is_empty())?;
    let last = || simulations.iter().map(SimulationRequests::last_end).max();
    let until = run.duration().or_else(last).unwrap_or(SimTime::ZERO);
    let begin = SimTime::ZERO + run.settings.measure.warmup;
    let changes = changes(run)
        .changes
        .iter()
        .map(|change| (change.at.as_secs(), format!("{} of {}", change.what, change.worker)))
        .collect();
    let lines = fleets_over_time(simulations, (begin, until.max(begin)), INTERVAL);
    Some(FleetsOverTime { lines, changes })
}

/// Looks at the time from `begin` to `end` in intervals of `length`, the
/// simulations of the same parameters taken together, in order of appearance.
///
/// # Panics
/// If `length` is zero.
fn fleets_over_time(
    simulations: &[SimulationRequests],
    (begin, end): (SimTime, SimTime),
    length: SimDuration,
) -> Vec<FleetOverTime> {
    let mut found: Vec<(&Params, Vec<Interval>)> = Vec::new();
    let intervals = count(end.since(begin), length);
    for simulation in simulations {
        let known = found.iter().position(|(params, _)| **params == simulation.params);
        let at = known.unwrap_or_else(|| {
            found.push((&simulation.params, vec![Interval::default(); intervals]));
            found.len() - 1
        });
        let seen = &mut found[at].1;
        simulation.records.iter().for_each(|record| see(seen, record, begin, length));
    }
    let fleet = |(params, seen): (&Params, Vec<Interval>)| {
        let middle = |at: usize| (begin + length * at as u64 + length / 2).as_secs();
        let ratio = Interval::ratio;
        FleetOverTime {
            params: params.clone(),
            seconds: (0..intervals).map(middle).collect(),
            hit_ratio: seen.iter().map(|of| ratio(of.cached as f64, of.prompt as f64)).collect(),
            error_ratio: seen
                .iter()
                .map(|of| ratio(f64::from(of.unserved), f64::from(of.ended)))
                .collect(),
            ttft_ms_p95: seen.into_iter().map(|of| p95(of.ttft_ms)).collect(),
        }
    };
    found.into_iter().map(fleet).collect()
}

fn see(seen: &mut [Interval], record: &RequestRecord, begin: SimTime, length: SimDuration) {
    let place = |time: SimTime| (time >= begin).then(|| count(time.since(begin), length));
    if let Some(interval) = record.scheduled.and_then(place).and_then(|at| seen.get_mut(at)) {
        interval.cached += u64::from(record.cached_tokens);
        interval.prompt += u64::from(record.prompt_tokens);
    }
    if let Some(first) = record.first_token
        && let Some(interval) = place(first).and_then(|at| seen.get_mut(at))
    {
        interval.ttft_ms.push((first - record.sent).as_millis());
    }
    if let Some((ended, end)) = record.end
        && let Some(interval) = place(ended).and_then(|at| seen.get_mut(at))
    {
        interval.ended += 1;
        interval.unserved += u32::from(!matches!(end, End::Finished { .. }));
    }
}

/// How many whole intervals of `length` fit into `time`.
fn count(time: SimDuration, length: SimDuration) -> usize {
    usize::try_from(time.as_ps() / length.as_ps()).expect("intervals of a run fit memory")
}

fn p95(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    stats::quantile_by(values.len(), 0.95, |rank| values[rank])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{RequestId, WorkerId};

    fn at(ms: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_millis(ms)
    }

    fn record(sent: u64, cached_tokens: u32, end: Option<(u64, End)>) -> RequestRecord {
        RequestRecord {
            request: RequestId(0),
            conversation: 0,
            turn: 0,
            prompt_tokens: 100,
            asked_tokens: 9,
            priority: 0,
            sent: at(sent),
            arrived: at(sent),
            first_dispatched: Some(at(sent)),
            dispatched: Some((at(sent), WorkerId(0))),
            first_scheduled: Some(at(sent + 10)),
            scheduled: Some(at(sent + 10)),
            cached_tokens,
            first_token: Some(at(sent + 30)),
            given_up: None,
            refused: None,
            end: end.map(|(ms, end)| (at(ms), end)),
            preemptions: 0,
            handover: None,
            why: None,
        }
    }

    #[test]
    fn an_interval_shows_what_happened_in_it() {
        let finished = End::Finished { output_tokens: 2 };
        let records = |cached| {
            vec![
                record(900, 7, Some((1_500, finished))), // before the first interval, mostly
                record(1_000, cached, Some((2_500, End::Failed))),
                record(2_980, 50, None), // its first token is in the next interval
            ]
        };
        let simulation = |seed, cached| SimulationRequests {
            params: Params::new(),
            seed,
            records: records(cached),
        };
        let simulations = [simulation(1, 20), simulation(2, 40)];
        let seen =
            fleets_over_time(&simulations, (at(1_000), at(4_000)), SimDuration::from_secs(1));
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].seconds, [1.5, 2.5, 3.5]);
        assert_eq!(seen[0].hit_ratio, [Some(30.0), Some(50.0), None]);
        assert_eq!(seen[0].ttft_ms_p95, [Some(30.0), None, Some(30.0)]);
        assert_eq!(seen[0].error_ratio, [Some(0.0), Some(100.0), None]);
    }
}
