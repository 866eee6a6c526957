//! From costs to one worker: the lowest cost, ties broken at random.

use super::kv::{AtMost, WorkerSet};
use crate::id::WorkerId;
use crate::rng::Stream;
use crate::tournament::Tournament;
use rand::RngExt;

/// One of `workers`, each as likely.
///
/// # Panics
/// If there are none.
pub(super) fn one_of(workers: &[WorkerId], draws: &mut Stream) -> WorkerId {
    workers[draws.random_range(0..workers.len())]
}

/// Two different places of `count`, each pair as likely; one, if there is only one.
///
/// # Panics
/// If there are none.
pub(super) fn two_of(count: usize, draws: &mut Stream) -> (usize, Option<usize>) {
    let first = draws.random_range(0..count);
    let second = (count > 1).then(|| (first + draws.random_range(1..count)) % count);
    (first, second)
}

/// Those of `workers` with the lowest key, in their order.
pub(super) fn of_lowest<Key: PartialOrd>(
    workers: impl IntoIterator<Item = WorkerId>,
    key: impl Fn(WorkerId) -> Key,
) -> Vec<WorkerId> {
    let mut lowest: Option<Key> = None;
    let mut found = Vec::new();
    for worker in workers {
        let key = key(worker);
        if lowest.as_ref().is_none_or(|lowest| key < *lowest) {
            lowest = Some(key);
            found.clear();
        } else if lowest.as_ref().is_some_and(|lowest| key > *lowest) {
            continue;
        }
        found.push(worker);
    }
    found
}

/// Finds the lowest cost (a number, or a tuple with further criteria) in one pass, drawing uniformly among exact ties
/// (reservoir sampling: the n-th of n ties replaces the choice with chance 1/n).
#[derive(Debug, Default)]
pub(super) struct Ties<Cost> {
    best: Option<(usize, Cost)>,
    ties: u32,
}

impl<Cost: PartialOrd + Copy> Ties<Cost> {
    /// Looks at one candidate. Draws only if it ties with the best so far.
    pub(super) fn offer(&mut self, index: usize, cost: Cost, draws: &mut Stream) {
        match self.best {
            Some((_, best)) if cost == best => {
                self.ties += 1;
                if draws.random_range(0..self.ties) == 0 {
                    self.best = Some((index, cost));
                }
            }
            Some((_, best)) if cost > best => {}
            _ => {
                self.best = Some((index, cost));
                self.ties = 1;
            }
        }
    }

    /// The choice.
    ///
    /// # Panics
    /// If nothing was offered.
    pub(super) fn chosen(&self) -> usize {
        self.chosen_if_any().expect("at least one candidate was offered")
    }

    /// The choice; `None` if nothing was offered.
    pub(super) fn chosen_if_any(&self) -> Option<usize> {
        self.best.map(|(index, _)| index)
    }
}

/// Far above the rounding errors of a cost, relative to its terms.
const ROUNDING: f64 = 1e-12;

/// Of `workers`, so many may be gone through one by one: about as many as
/// [`lowest`] passes by in vain where more of them have something in common.
pub(super) fn few(workers: usize) -> usize {
    2 * workers.isqrt()
}

/// What is known of a request's costs before any worker is looked at. On a worker
/// it costs `scale` times what the worker's own load makes it cost, whatever is asked,
/// and what is asked: at most `base`, and less by up to `gain`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds<'a> {
    /// Workers that may cost less by more than that, by up to `special_gain`.
    pub(super) special: &'a WorkerSet,
    pub(super) special_gain: f64,
    pub(super) base: f64,
    pub(super) gain: f64,
    pub(super) scale: f64,
}

impl<'a> Bounds<'a> {
    /// Of a request that costs `asked(n)` besides the own cost of a worker that holds `n` of
    /// its blocks, at most `held`.
    pub(super) fn of_held(
        special: &'a WorkerSet,
        held: AtMost,
        scale: f64,
        asked: impl Fn(u32) -> f64,
    ) -> Self {
        let base = asked(0);
        let gain = |blocks| base - asked(blocks);
        Self { special, special_gain: gain(held.any), base, gain: gain(held.others), scale }
    }

    /// Of a request that costs a worker's own cost and no more, wherever it is sent.
    pub(super) const OWN_COST: Self =
        Self { special: WorkerSet::EMPTY, special_gain: 0.0, base: 0.0, gain: 0.0, scale: 1.0 };

    /// How low the cost of a worker that is not special can be if its own is `own`.
    fn floor(&self, own: f64) -> f64 {
        let Self { base, gain, scale, .. } = *self;
        let own = own * scale;
        own + base - gain - ROUNDING * (own.abs() + base.abs() + gain)
    }

    /// The highest own cost of a worker that may cost as little as `best`, if it costs less
    /// by up to `gain`.
    fn own_for(&self, best: f64, gain: f64) -> f64 {
        let own = best - self.base + gain + ROUNDING * (best.abs() + self.base.abs() + gain);
        // Below infinity, which no worker that may be chosen costs.
        if self.scale > 0.0 { (own / self.scale).min(f64::MAX) } else { f64::MAX }
    }
}

/// Finds the worker of the lowest cost as if all were offered to [`Ties`] in order
/// of id, but looks only at those that can matter. A worker whose own cost is
/// infinite is never chosen. The second number of `cost` decides where the first
/// is equal.
pub(super) fn lowest(
    own_costs: &Tournament<f64>,
    bounds: Bounds<'_>,
    draws: &mut Stream,
    cost: impl Fn(WorkerId) -> (f64, u32),
) -> Option<usize> {
    let mut lowest = Ties::default();
    visit(own_costs, bounds, |at| {
        lowest.offer(at, cost(WorkerId::at(at)), draws);
        let best = lowest.best.map_or(f64::MAX, |(_, (best, _))| best);
        Sought { special: best, others: best }
    });
    lowest.chosen_if_any()
}

/// The lowest cost; infinite if no worker can be chosen.
pub(super) fn lowest_cost(
    own_costs: &Tournament<f64>,
    bounds: Bounds<'_>,
    cost: impl Fn(WorkerId) -> f64,
) -> f64 {
    let mut lowest = f64::INFINITY;
    // Stop at the first worker that reaches the lower bound: many do where a large fleet idles.
    let floor = bounds.floor(own_costs.least());
    visit(own_costs, bounds, |at| {
        lowest = cost(WorkerId::at(at)).min(lowest);
        Sought { special: lowest, others: if lowest <= floor { f64::MIN } else { lowest } }
    });
    lowest
}

/// The highest costs at which workers are still worth a look.
struct Sought {
    special: f64,
    others: f64,
}

/// Shows, in order of id, all workers whose cost can be as low as what is sought; `look`
/// returns what that is from then on, nothing higher than before.
fn visit(own_costs: &Tournament<f64>, bounds: Bounds<'_>, mut look: impl FnMut(usize) -> Sought) {
    // Up to these a worker's own cost may be.
    let (mut of_special, mut of_others) = (f64::MAX, f64::MAX);
    let mut special = bounds.special.iter().map(|worker| worker.index()).peekable();
    let mut next = own_costs.next_at_most(0, of_others);
    loop {
        let is_out = |at: &usize| own_costs.key(*at) > of_special;
        while special.next_if(is_out).is_some() {}
        let Some(at) = next.into_iter().chain(special.peek().copied()).min() else { break };
        special.next_if_eq(&at);
        let Sought { special: lowest_special, others } = look(at);
        of_special = bounds.own_for(lowest_special, bounds.special_gain);
        of_others = bounds.own_for(others, bounds.gain);
        if let Some(other) = next.filter(|next| *next == at || own_costs.key(*next) > of_others) {
            next = own_costs.next_at_most(other + 1, of_others);
        }
    }
}
