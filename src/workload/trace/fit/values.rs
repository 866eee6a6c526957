//! Distributions of what was seen, as a few values.

use crate::workload::distribution::{Distribution, Quantity, Tokens};

/// Values that stand for a distribution of a class, each the mean of as many of the seen.
pub(super) const VALUES: usize = 16;

/// A distribution of lengths as a few values.
pub(super) fn tokens(values: Vec<u32>) -> Distribution<Tokens> {
    let values = values.into_iter().map(|value| (f64::from(value), 1.0)).collect();
    few(values, Tokens::from_f64)
}

/// A distribution of values, each with a weight, as [`VALUES`] that weigh the same: the means
/// of such shares of the seen ones. The mean stays.
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
    let share = total / VALUES as f64;
    let (mut values, mut sum, mut room) = (Vec::with_capacity(VALUES), 0.0, share);
    for (value, mut weight) in seen {
        while weight >= room && values.len() + 1 < VALUES {
            values.push(of((sum + value * room) / share));
            weight -= room;
            (sum, room) = (0.0, share);
        }
        sum += value * weight;
        room -= weight;
    }
    values.push(of(sum / (share - room)));
    Distribution::Empirical { values, weights: Vec::new() }
}
