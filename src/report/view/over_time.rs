//! What each worker had to do, moment by moment: requests in flight and times
//! in its queue, from the records of one simulation.

use crate::experiment::{Experiment, LEVEL_KEYS, Params, RunSpec, SimulationRequests};
use crate::recorder::{RequestRecord, Stay};
use crate::settings::plain;
use crate::time::{SimDuration, SimTime};
use serde::{Deserialize, Serialize};

/// Moments of a simulation that a figure shows: about one per point of paper.
const MOMENTS: u32 = 421;

/// The most simulations that are looked at over time; no figure shows more.
const MOST_SIMULATIONS: usize = 6;

/// The simulations of the first seed of `experiment`, as far as a figure shows them.
pub fn first_seed(experiment: &Experiment, simulations: &[SimulationRequests]) -> Vec<OverTime> {
    let first = experiment.seeds.first();
    let shown = simulations.iter().filter(|simulation| Some(&simulation.seed) == first);
    let over_time = |(simulation, run): (&SimulationRequests, &RunSpec)| {
        let workers = run.settings.pools.slots();
        let until = run.duration().unwrap_or_else(|| simulation.last_end());
        let begin = SimTime::ZERO + run.settings.measure.warmup;
        let mut seen = OverTime::new(simulation, workers, (begin, until.max(begin)), MOMENTS);
        seen.pools = run.settings.pools.names();
        // Levels in sequence are one simulation.
        if let [from, .., to] = run.points.as_slice() {
            for key in LEVEL_KEYS {
                let level = |point: &usize| experiment.points[*point].get(key).map(plain);
                if let (Some(from), Some(to)) = (level(from), level(to)) {
                    seen.params.insert(key.to_owned(), format!("{from} to {to} in turn").into());
                }
            }
        }
        seen
    };
    shown.zip(&experiment.runs).take(MOST_SIMULATIONS).map(over_time).collect()
}

/// One simulation, cut into moments of equal distance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverTime {
    /// The simulation's parameters.
    pub params: Params,
    /// Its seed.
    pub seed: u64,
    /// The moments, in seconds since the start of the simulation.
    pub seconds: Vec<f64>,
    /// By worker: the name of its pool, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// By worker, for every moment: requests sent to it that have not ended.
    pub inflight: Vec<Vec<f64>>,
    /// By worker, for every moment: mean time in the queue, in milliseconds, of
    /// the requests that joined a batch since the moment before; 0 if none did.
    pub queue_ms: Vec<Vec<f64>>,
}

impl OverTime {
    /// Looks at `moments` of the time from `begin` to `end`, both included.
    ///
    /// # Panics
    /// With fewer than two moments, or if a record names a worker beyond `workers`.
    pub fn new(
        simulation: &SimulationRequests,
        workers: u32,
        (begin, end): (SimTime, SimTime),
        moments: u32,
    ) -> Self {
        assert!(moments > 1, "a stretch of time has two ends");
        let workers = workers as usize;
        let steps = u64::from(moments) - 1;
        let span = (end - begin).as_ps();
        let at = |i: u64| {
            // In this order and in 128 bits: exact at both ends.
            let ps = u128::from(span) * u128::from(i) / u128::from(steps);
            begin + SimDuration::from_ps(u64::try_from(ps).expect("at most the span"))
        };
        let moments: Vec<SimTime> = (0..=steps).map(at).collect();
        // The first moment at or after a time.
        let index = |time: SimTime| moments.partition_point(|&moment| moment < time);
        let mut change = vec![vec![0_i64; moments.len() + 1]; workers];
        let mut queued = vec![vec![(0.0, 0_u32); moments.len() + 1]; workers];
        for stay in simulation.records.iter().flat_map(RequestRecord::stays) {
            let Stay { worker, dispatched, scheduled, ended } = stay;
            let worker = worker.index();
            change[worker][index(dispatched)] += 1;
            if let Some(ended) = ended {
                change[worker][index(ended)] -= 1;
            }
            if let Some(scheduled) = scheduled.filter(|&at| at >= begin) {
                let (sum, count) = &mut queued[worker][index(scheduled)];
                *sum += (scheduled - dispatched).as_millis();
                *count += 1;
            }
        }
        let inflight = change.iter().map(|changes| {
            let sums = changes.iter().scan(0, |sum, change| {
                *sum += change;
                Some(*sum as f64)
            });
            sums.take(moments.len()).collect()
        });
        let queue_ms = queued.iter().map(|cells| {
            let mean = |&(sum, count): &(f64, u32)| sum / f64::from(count.max(1));
            cells.iter().take(moments.len()).map(mean).collect()
        });
        Self {
            params: simulation.params.clone(),
            seed: simulation.seed,
            pools: Vec::new(),
            inflight: inflight.collect(),
            queue_ms: queue_ms.collect(),
            seconds: moments.iter().map(|moment| moment.as_secs()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{RequestId, WorkerId};
    use crate::recorder::End;
    use proptest::prelude::*;

    fn at(ms: u64) -> SimTime {
        SimTime::from_ps(ms * 1_000_000_000)
    }

    fn record((worker, dispatched, queued, served): (u32, u64, u64, u64)) -> RequestRecord {
        RequestRecord {
            request: RequestId(0),
            conversation: 0,
            turn: 0,
            prompt_tokens: 1,
            asked_tokens: 9,
            priority: 0,
            sent: at(dispatched),
            arrived: at(dispatched),
            first_dispatched: Some(at(dispatched)),
            dispatched: Some((at(dispatched), WorkerId(worker))),
            first_scheduled: Some(at(dispatched + queued)),
            scheduled: Some(at(dispatched + queued)),
            handover: None,
            cached_tokens: 0,
            first_token: None,
            given_up: None,
            refused: None,
            end: (served < 900)
                .then(|| (at(dispatched + queued + served), End::Finished { output_tokens: 1 })),
            preemptions: 0,
            why: None,
        }
    }

    proptest! {
        #[test]
        fn a_moment_shows_what_was_in_flight_then(
            lives in prop::collection::vec((0_u32..3, 0_u64..2_000, 0_u64..50, 1_u64..1_000), 0..40),
            begin in 0_u64..1_000,
            moments in 2_u32..30,
        ) {
            let records = lives.iter().copied().map(record).collect();
            let simulation = SimulationRequests { params: Params::new(), seed: 1, records };
            let window = (at(begin), at(begin + 1_000));
            let seen = OverTime::new(&simulation, 3, window, moments);
            prop_assert_eq!(seen.seconds.len(), moments as usize);
            prop_assert_eq!(seen.seconds[0], begin as f64 / 1e3);
            prop_assert_eq!(*seen.seconds.last().unwrap(), (begin + 1_000) as f64 / 1e3);
            for worker in 0..3 {
                for (i, seconds) in seen.seconds.iter().enumerate() {
                    let inflight = simulation.records.iter().filter(|record| {
                        let (from, on) = record.dispatched.unwrap();
                        on.index() == worker
                            && from.as_secs() <= *seconds
                            && record.end.is_none_or(|(end, _)| end.as_secs() > *seconds)
                    });
                    prop_assert_eq!(seen.inflight[worker][i], inflight.count() as f64);
                }
            }
            let longest = lives.iter().map(|life| life.2 as f64).fold(0.0, f64::max);
            let cells = || seen.queue_ms.iter().flatten();
            prop_assert!(cells().all(|&mean| (0.0..=longest + 1e-9).contains(&mean)));
        }
    }
}
