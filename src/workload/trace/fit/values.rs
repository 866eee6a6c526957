//! Distributions of what was seen, as a few values.

use crate::workload::distribution::{Distribution, Quantity, Tokens};

/// Values that stand for a distribution of a class, each the mean of as many of the seen.
pub(super) const VALUES: usize = 16;
/// Where so many are seen, the largest share is divided: the longest prompts are few, and
/// much of the load.
const MANY: usize = 256;
/// How much each value weighs then: [`VALUES`] equal shares, of which the last is halved
/// three times.
const DIVIDED: [u32; VALUES + 3] = [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 4, 2, 1, 1];

/// A distribution of lengths as a few values.
pub(super) fn tokens(values: Vec<u32>) -> Distribution<Tokens> {
    let values = values.into_iter().map(|value| (f64::from(value), 1.0)).collect();
    few(values, Tokens::from_f64)
}

/// A distribution of values, each with a weight, as [`VALUES`] that weigh the same, or with
/// [finer ones](DIVIDED) at the end: the means of such shares of the seen ones. The mean
/// stays.
pub(super) fn few<T: Quantity>(
    mut seen: Vec<(f64, f64)>,
    of: impl Fn(f64) -> T,
) -> Distribution<T> {
    seen.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let total: f64 = seen.iter().map(|(_, weight)| weight).sum();
    let (Some(least), Some(most)) = (seen.first(), seen.last()) else {
        return Distribution::default();
    };
    if least.0 == most.0 {
        return Distribution::Constant { value: of(least.0) };
    }
    let weights = if seen.len() < MANY { vec![1; VALUES] } else { DIVIDED.to_vec() };
    let unit = total / f64::from(weights.iter().sum::<u32>());
    let share = |place: usize| f64::from(weights[place]) * unit;
    let (mut values, mut sum, mut room) = (Vec::with_capacity(weights.len()), 0.0, share(0));
    for (value, mut weight) in seen {
        while weight >= room && values.len() + 1 < weights.len() {
            values.push(of((sum + value * room) / share(values.len())));
            weight -= room;
            (sum, room) = (0.0, share(values.len()));
        }
        sum += value * weight;
        room -= weight;
    }
    values.push(of(sum / (share(values.len()) - room)));
    let is_divided = weights.len() > VALUES;
    Distribution::Empirical { values, weights: if is_divided { weights } else { Vec::new() } }
}
