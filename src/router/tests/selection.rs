//! From costs to a choice.

use crate::id::WorkerId;
use crate::rng::{self, Use};
use crate::router::kv::WorkerSet;
use crate::router::sample::{sample, sample_few};
use crate::router::select::{Bounds, Ties, lowest, lowest_cost};
use crate::tournament::Tournament;
use proptest::prelude::*;
use rand::RngExt;
use std::cell::Cell;

fn set(workers: &[WorkerId]) -> WorkerSet {
    let mut set = WorkerSet::default();
    workers.iter().for_each(|worker| _ = set.insert(*worker));
    set
}

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

/// Costs from 10 to 40 that no bound gives away: a third of the workers get
/// something off, some have a cost of their own, some cannot be chosen.
#[test]
fn a_draw_that_looks_at_few_has_the_probabilities_of_one_that_looks_at_all() {
    const WORKERS: u32 = 300;
    const DRAWS: u32 = 40_000;
    let own = |worker: u32| f64::from(worker * 37 % 101) / 5.0;
    let listed: Vec<WorkerId> = (0..WORKERS).step_by(29).map(WorkerId).collect();
    let special = set(&listed);
    let mut own_costs = Tournament::new(WORKERS, 0.0, f64::INFINITY);
    for worker in 0..WORKERS {
        let absent = worker % 11 == 5;
        own_costs.set(worker as usize, if absent { f64::INFINITY } else { own(worker) });
    }
    let cost = |WorkerId(worker): WorkerId| match listed.binary_search(&WorkerId(worker)) {
        Ok(at) => own(worker) + 2.0 * at as f64,
        Err(_) => own(worker) + 20.0 - if worker % 3 == 0 { 4.0 } else { 0.0 },
    };
    let there: Vec<usize> =
        (0..WORKERS as usize).filter(|&at| own_costs.key(at).is_finite()).collect();
    let costs = || there.iter().map(|&at| cost(WorkerId::at(at)));
    let lowest = costs().fold(f64::INFINITY, f64::min);
    let highest = costs().fold(f64::NEG_INFINITY, f64::max);
    let bounds =
        Bounds { special: &special, special_gain: 20.0, base: 20.0, gain: 4.0, scale: 1.0 };
    for temperature in [0.03, 0.3, 3.0] {
        let mut draws = rng::stream(1, Use::Policy, 0, 0);
        let looks = Cell::new(0);
        let look = |worker| {
            looks.set(looks.get() + 1);
            cost(worker)
        };
        let mut counts = vec![0.0; WORKERS as usize];
        for _ in 0..DRAWS {
            let range = (lowest, highest);
            let drawn = sample_few(&own_costs, bounds, range, temperature, &mut draws, look);
            counts[drawn.unwrap()] += 1.0;
        }
        assert!(looks.get() < DRAWS * 60, "{} looks a draw", looks.get() / DRAWS);
        let weight = |at: usize| {
            ((lowest - cost(WorkerId::at(at))) / (highest - lowest) / temperature).exp()
        };
        let total: f64 = there.iter().map(|&at| weight(at)).sum();
        let expected = |at: usize| f64::from(DRAWS) * weight(at) / total;
        let deviation = |at: usize| (counts[at] - expected(at)).powi(2) / expected(at);
        let common: Vec<usize> = there.iter().copied().filter(|&at| expected(at) > 5.0).collect();
        // Chi-squared has a standard deviation of the root of twice its mean.
        let (mean, sum) =
            (common.len() as f64, common.iter().map(|&at| deviation(at)).sum::<f64>());
        assert!(sum < mean + 5.0 * (2.0 * mean).sqrt(), "{sum} where {mean} is expected");
        let rare: f64 = there.iter().filter(|at| !common.contains(at)).map(|&at| counts[at]).sum();
        let rarely: f64 =
            there.iter().filter(|at| !common.contains(at)).map(|&at| expected(at)).sum();
        assert!((rare - rarely).abs() <= 5.0 * rarely.sqrt() + 5.0, "{rare} for {rarely}");
        assert_eq!(counts.iter().sum::<f64>(), there.iter().map(|&at| counts[at]).sum::<f64>());
    }
}

proptest! {
    /// What is passed over changes nothing: neither the choice nor what is drawn after it.
    #[test]
    fn the_lowest_cost_is_that_of_a_look_at_all(
        // Own cost (7: it cannot be chosen), what it costs less, and the second criterion.
        workers in prop::collection::vec((0u8..8, 0u8..5, 0u32..2), 1..90),
        (gain, special_gain) in (0u8..3, 2u8..6),
        base in 0u8..9,
        scale in prop_oneof![Just(1.0), Just(0.5), Just(0.0)],
        seed: u64,
    ) {
        let count = u32::try_from(workers.len()).unwrap();
        let mut own_costs = Tournament::new(count, 0.0, f64::INFINITY);
        let mut special = WorkerSet::default();
        for (at, &(own, less, _)) in workers.iter().enumerate() {
            own_costs.set(at, if own == 7 { f64::INFINITY } else { f64::from(own) });
            if less > gain {
                special.insert(WorkerId::at(at));
            }
        }
        let (gain, special_gain) = (f64::from(gain), f64::from(special_gain));
        let base = f64::from(base);
        let cost = |WorkerId(worker): WorkerId| {
            let (own, less, second) = workers[worker as usize];
            (scale * f64::from(own) + base - f64::from(less).min(special_gain), second)
        };
        let bounds = Bounds { special: &special, special_gain, base, gain, scale };
        let mut draws = rng::stream(seed, Use::Policy, 0, 0);
        let mut all_draws = draws.clone();
        let mut all = Ties::default();
        let there = (0..count).map(WorkerId).filter(|w| own_costs.key(w.index()).is_finite());
        there.clone().for_each(|w| all.offer(w.index(), cost(w), &mut all_draws));
        prop_assert_eq!(lowest(&own_costs, bounds, &mut draws, cost), all.chosen_if_any());
        prop_assert_eq!(draws.random::<u64>(), all_draws.random::<u64>());
        let least = there.map(|w| cost(w).0).fold(f64::INFINITY, f64::min);
        prop_assert_eq!(lowest_cost(&own_costs, bounds, |w| cost(w).0), least);
    }
}

/// A look at one, where a thousand are as cheap as any can be; those that are special are
/// looked at all the same.
#[test]
fn the_lowest_cost_of_a_fleet_that_idles_takes_few_looks() {
    const WORKERS: u32 = 1_000;
    let special = [WorkerId(700)];
    let own_costs = Tournament::new(WORKERS, 0.0, f64::INFINITY);
    let looks = Cell::new(0);
    for (special, lowest, most_looks) in [(&special[..0], 0.0, 1), (&special[..], -3.0, 2)] {
        looks.set(0);
        let bounds =
            Bounds { special: &set(special), special_gain: 3.0, base: 0.0, gain: 0.0, scale: 1.0 };
        let found = lowest_cost(&own_costs, bounds, |worker| {
            looks.set(looks.get() + 1);
            if special.contains(&worker) { -3.0 } else { 0.0 }
        });
        assert_eq!((found, looks.get()), (lowest, most_looks));
    }
}
