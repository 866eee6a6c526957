//! From costs to one worker: a draw by temperature.

use super::select::Bounds;
use crate::id::WorkerId;
use crate::rng::Stream;
use crate::tournament::{ROOT, Tournament};
use rand::RngExt;
use rand_distr::Exp1;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Draws a candidate with probability proportional to
/// `exp(-cost / (max - min) / temperature)`; uniform if all costs are equal.
/// Leaves the weights in the place of the costs.
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

/// Draws with the probabilities of [`sample`], by other random numbers, and looks
/// only at workers that can matter. `lowest` and `highest` are those of all costs.
///
/// Of numbers `-cost / scale`, each with a random number of Gumbel's distribution
/// added, the largest is anyone's with just the probabilities wanted. The largest
/// of many such random numbers has the same distribution, moved by the logarithm
/// of how many they are: so it is drawn for a whole subtree of workers before any
/// of them is looked at, and a subtree that cannot win with it is never opened.
/// Source: Maddison, Tarlow and Minka, "A* sampling", 2014.
pub(super) fn sample_few(
    own_costs: &Tournament<f64>,
    bounds: Bounds<'_>,
    (lowest, highest): (f64, f64),
    temperature: f64,
    draws: &mut Stream,
    cost: impl Fn(WorkerId) -> f64,
) -> Option<usize> {
    let Bounds { special, base, gain, .. } = bounds;
    let scale = if highest > lowest { (highest - lowest) * temperature } else { 1.0 };
    let lead = |cost: f64| (lowest - cost.max(lowest)) / scale;
    let mut best = None;
    let offer = |at: usize, luck: f64, best: &mut Option<(f64, usize)>| {
        let score = luck + lead(cost(WorkerId::at(at)));
        if best.is_none_or(|(best, _)| score > best) {
            *best = Some((score, at));
        }
    };
    for worker in special.iter() {
        if own_costs.key(worker.index()).is_finite() {
            offer(worker.index(), -draws.sample::<f64, _>(Exp1).ln(), &mut best);
        }
    }
    let mut open = BinaryHeap::new();
    let subtree = |node: usize, luck: f64| {
        let cheapest = own_costs.lowest_below(node);
        let score = luck + lead(cheapest + base - gain);
        cheapest.is_finite().then_some(Subtree { score, luck, node })
    };
    let spread: f64 = draws.sample(Exp1);
    open.extend(subtree(ROOT, (own_costs.leaves_below(ROOT) as f64 / spread).ln()));
    while let Some(Subtree { score, luck, node }) = open.pop() {
        if best.is_some_and(|(best, _)| best >= score) {
            break;
        }
        let workers = own_costs.leaves_below(node);
        if workers == 1 {
            let worker = own_costs.worker_at_leaf(node);
            if !special.contains(WorkerId::at(worker)) {
                offer(worker, luck, &mut best);
            }
            continue;
        }
        // One half has the largest number, the other half's largest is below it.
        let lucky = 2 * node + usize::from(draws.random::<bool>());
        let spread: f64 = draws.sample(Exp1);
        let less = -((-luck).exp() + spread * 2.0 / workers as f64).ln();
        open.extend(subtree(lucky, luck));
        open.extend(subtree(lucky ^ 1, less));
    }
    best.map(|(_, at)| at)
}

/// A subtree of workers that has not been looked into.
#[derive(Debug)]
struct Subtree {
    /// No worker below comes above this.
    score: f64,
    /// The largest random number below.
    luck: f64,
    node: usize,
}

impl Ord for Subtree {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(self.node.cmp(&other.node))
    }
}

impl PartialOrd for Subtree {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Subtree {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Subtree {}
