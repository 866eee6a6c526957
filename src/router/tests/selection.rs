//! From costs to a choice.

use crate::rng::{self, Use};
use crate::router::select::{Ties, sample};
use proptest::prelude::*;

proptest! {
    #[test]
    fn the_choice_is_always_a_lowest_cost(
        costs in prop::collection::vec(0u8..5, 1..20),
        seed: u64,
    ) {
        let mut draws = rng::stream(seed, Use::Policy, 0, 0);
        let mut lowest = Ties::default();
        costs.iter().enumerate().for_each(|(at, cost)| lowest.offer(at, f64::from(*cost), &mut draws));
        prop_assert_eq!(Some(&costs[lowest.chosen()]), costs.iter().min());
    }
}

#[test]
fn temperature_draws_by_the_softmax_of_normalised_costs() {
    // The same shape at two scales: only relative differences count.
    for scale in [1.0, 1_000.0] {
        let costs = [2.0 * scale, 4.0 * scale, 3.0 * scale, 2.5 * scale];
        let temperature = 0.5;
        let weights = costs.map(|cost: f64| (-cost / (2.0 * scale) / temperature).exp());
        let total: f64 = weights.iter().sum();
        let mut draws = rng::stream(1, Use::Policy, 0, 0);
        let mut counts = [0.0; 4];
        (0..100_000)
            .for_each(|_| counts[sample(&mut costs.clone(), temperature, &mut draws)] += 1.0);
        for (count, weight) in counts.iter().zip(weights) {
            let expected = weight / total;
            assert!((count / 100_000.0 - expected).abs() < 0.006, "{count} for {expected}");
        }
    }
}

#[test]
fn equal_costs_are_drawn_uniformly_at_any_temperature() {
    let mut draws = rng::stream(1, Use::Policy, 0, 0);
    let mut counts = [0; 3];
    (0..30_000).for_each(|_| counts[sample(&mut [7.0; 3], 0.01, &mut draws)] += 1);
    assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
}
