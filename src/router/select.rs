//! From costs to one worker: the lowest cost, ties broken at random, or a draw
//! by temperature.

use super::policies::worker_at;
use super::tournament::Tournament;
use crate::id::WorkerId;
use crate::rng::Stream;
use rand::RngExt;

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

/// Finds the worker of the lowest cost as if all were offered to [`Ties`] in order
/// of id, but looks only at those that can matter.
///
/// A worker's cost is the sum of its own, whatever is asked, and of what is asked:
/// `base`, or less by up to `gain`; by how much ever for the workers of `special`
/// (in order of id). A worker whose own cost is infinite is never chosen. The
/// second number of `cost` decides where the first is equal.
pub(super) fn lowest(
    own_costs: &Tournament<f64>,
    special: &[WorkerId],
    base: f64,
    gain: f64,
    draws: &mut Stream,
    cost: impl Fn(WorkerId) -> (f64, u32),
) -> Option<usize> {
    let mut lowest = Ties::default();
    let mut special = special.iter().map(|worker| worker.index()).peekable();
    let mut from = 0;
    loop {
        let bound = lowest.best.map_or(f64::MAX, |(_, (best, _)): (usize, (f64, u32))| {
            best - base + gain + ROUNDING * (best.abs() + base.abs() + gain)
        });
        while special.next_if(|&at| at < from).is_some() {}
        let by_own_cost = own_costs.next_at_most(from, bound);
        let Some(at) = by_own_cost.into_iter().chain(special.peek().copied()).min() else { break };
        from = at + 1;
        if own_costs.key(at).is_finite() {
            lowest.offer(at, cost(worker_at(at)), draws);
        }
    }
    lowest.chosen_if_any()
}

/// Draws a candidate with probability proportional to
/// `exp(-cost / (max - min) / temperature)`; uniform if all costs are equal.
/// Leaves the weights in the place of the costs. Every weight depends on all costs,
/// and a draw on the sum of all weights in this order: so this looks at all.
///
/// The normalisation makes a temperature mean the same whatever the scale of
/// the costs; both versions of Dynamo's KV router do it so.
///
/// # Panics
/// If `costs` is empty or `temperature` is not positive.
pub(super) fn sample(costs: &mut [f64], temperature: f64, draws: &mut Stream) -> usize {
    assert!(temperature > 0.0, "temperature {temperature}");
    let min = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let max = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = if max > min { (max - min) * temperature } else { 1.0 };
    // Relative to the minimum, so that the largest weight is 1 and none overflows.
    costs.iter_mut().for_each(|cost| *cost = ((min - *cost) / scale).exp());
    let weights = costs;
    let total: f64 = weights.iter().sum();
    let mut left = draws.random::<f64>() * total;
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left <= 0.0 {
            return index;
        }
    }
    weights.len() - 1
}
