//! From costs to one worker: the lowest cost, ties broken at random, or a draw
//! by temperature.

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

/// Draws a candidate with probability proportional to
/// `exp(-cost / (max - min) / temperature)`; uniform if all costs are equal.
///
/// The normalisation makes a temperature mean the same whatever the scale of
/// the costs; both versions of Dynamo's KV router do it so.
///
/// # Panics
/// If `costs` is empty or `temperature` is not positive.
pub(super) fn sample(costs: &[f64], temperature: f64, draws: &mut Stream) -> usize {
    assert!(temperature > 0.0, "temperature {temperature}");
    let min = costs.iter().copied().fold(f64::INFINITY, f64::min);
    let max = costs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let scale = if max > min { (max - min) * temperature } else { 1.0 };
    // Relative to the minimum, so that the largest weight is 1 and none overflows.
    let weight = |cost: f64| ((min - cost) / scale).exp();
    let total: f64 = costs.iter().copied().map(weight).sum();
    let mut left = draws.random::<f64>() * total;
    for (index, cost) in costs.iter().enumerate() {
        left -= weight(*cost);
        if left <= 0.0 {
            return index;
        }
    }
    costs.len() - 1
}
