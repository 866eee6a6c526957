//! Adds and removes workers on load.

use super::settings::{PlannerLoad, PlannerSettings};
use crate::engine::Gauges;
use crate::time::{SimDuration, SimTime};

/// Looks after an addition at which nothing is removed, unless told: Dynamo's
/// `NEW_DECODE_WORKER_GRACE_PERIOD`.
const GRACE_INTERVALS: u32 = 3;

/// See [`PlannerSettings`].
#[derive(Debug)]
pub(super) struct Planner {
    settings: PlannerSettings,
    /// What a worker can carry of that which is called load.
    capacity: u32,
    /// When it looked last, and each worker's integral of load then.
    looked: SimTime,
    carried: Vec<u128>,
    /// Looks at which nothing is removed.
    grace: u32,
    pub(super) added: u64,
    pub(super) removed: u64,
}

/// What a planner wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlannerStep {
    Add,
    Remove,
    Nothing,
}

impl Planner {
    pub(super) fn new(settings: PlannerSettings, slots: u32, pool: u32, batch: u32) -> Self {
        let capacity = match settings.load {
            PlannerLoad::KvBlocks => pool,
            PlannerLoad::Requests => batch,
        };
        Self {
            settings,
            capacity,
            looked: SimTime::ZERO,
            carried: vec![0; slots as usize],
            grace: 0,
            added: 0,
            removed: 0,
        }
    }

    pub(super) fn interval(&self) -> SimDuration {
        self.settings.interval
    }

    /// Looks at the workers that serve; there are `gauges` of each rank, with the number of
    /// its worker, `all` workers, and whether one of them `moves`: loads or drains.
    pub(super) fn look<'a>(
        &mut self,
        now: SimTime,
        gauges: impl Iterator<Item = (&'a Gauges, usize)>,
        serving: &[usize],
        (all, moves): (u32, bool),
    ) -> PlannerStep {
        let of = |gauges: &Gauges| match self.settings.load {
            PlannerLoad::KvBlocks => gauges.used_blocks_ps,
            PlannerLoad::Requests => gauges.running_ps + gauges.waiting_ps,
        };
        let mut carried = vec![0; self.carried.len()];
        gauges.for_each(|(own, worker)| carried[worker] += of(own));
        let since = serving.iter().map(|&at| carried[at] - self.carried[at]);
        let sum = since.sum::<u128>() as f64;
        let room = (now - self.looked).as_ps() as f64 * f64::from(self.capacity);
        let load = sum / (room * serving.len().max(1) as f64);
        (self.looked, self.carried) = (now, carried);
        let in_grace = self.grace > 0;
        self.grace = self.grace.saturating_sub(1);
        if moves {
            return PlannerStep::Nothing;
        }
        let PlannerSettings { scale_up_above, scale_down_below, min_workers, max_workers, .. } =
            self.settings;
        if (load > scale_up_above || serving.is_empty()) && all < max_workers {
            self.added += 1;
            self.grace = self.settings.grace_intervals.unwrap_or(GRACE_INTERVALS);
            return PlannerStep::Add;
        }
        if load < scale_down_below && all > min_workers && !in_grace {
            self.removed += 1;
            return PlannerStep::Remove;
        }
        PlannerStep::Nothing
    }
}
