//! The search for the cheapest candidate that meets its targets, with few simulations.
//!
//! Candidates share their seeds (common random numbers), so that differences between them
//! are seen with few. The search uses what is known of costs: along a ladder more workers
//! cost more, and are assumed never to hurt. In turns:
//!
//! 1. *Screen*: every ladder that is looked at first is simulated with one seed at about
//!    the middle cost, or a higher one if no fleet keeps up there; around the best of each
//!    kind, numbers with many values are refined, halving the step.
//! 2. *Border*: bisection along the best ladder gives a first cost at which the targets
//!    hold. All ladders meet there with one seed; the better half, and the best of each
//!    kind, go on, and a ladder that holds a rung lower moves the border.
//! 3. *Halving*: at the border seeds are doubled and the worse half drops out, until one is
//!    left with all seeds (sequential halving, Karnin, Koren and Somekh 2013).
//! 4. *Proof*: the winner must hold with all seeds. Its own next rung below must not, with all
//!    seeds, nor the best of the others there, with as many as it takes to be sure. Otherwise
//!    the border moves, and 3 is repeated.

use super::candidates::Candidates;
use std::collections::BTreeSet;

/// How a candidate stands after the seeds that it had.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Standing {
    /// Seeds that it was simulated with.
    pub(super) seeds: usize,
    /// By how much of the limit the bound of its worst target lies beyond it, as expected
    /// with all seeds; it meets its targets at 0 and below.
    pub(super) beyond: f64,
    /// How far that may still move, with the confidence asked for; 0 with all seeds.
    pub(super) doubt: f64,
}

impl Standing {
    pub(super) fn meets(&self) -> bool {
        self.beyond <= 0.0
    }

    /// Whether more seeds could turn it.
    pub(super) fn is_open(&self) -> bool {
        self.beyond.abs() < self.doubt
    }
}

/// What simulates.
pub(super) trait Bench {
    /// Why a simulation failed.
    type Error;

    /// Simulates candidates so that each has at least its number of seeds, the first ones.
    ///
    /// # Errors
    /// If one cannot be simulated.
    fn measure(&mut self, wanted: &[(usize, usize)]) -> Result<(), Self::Error>;

    /// How a candidate that was measured stands; `None` of others.
    fn standing(&self, candidate: usize) -> Option<Standing>;

    /// All seeds there are.
    fn seeds(&self) -> usize;
}

/// What the search found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    /// The cheapest that meets the targets.
    pub(super) winner: Option<usize>,
    /// Without a winner the one that is nearest to the targets.
    pub(super) nearest: usize,
    /// Ladders that dropped out after one seed at the border.
    pub(super) dropped: Vec<usize>,
}

/// Searches.
///
/// # Errors
/// Whatever the bench fails with.
pub(super) fn race<B: Bench>(candidates: &Candidates, bench: &mut B) -> Result<Found, B::Error> {
    let mut race = Race { candidates, bench, failed: BTreeSet::new() };
    let mut field = race.screen()?;
    let mut cost = match race.border(&field)? {
        Some(cost) => cost,
        None => {
            // Not even the largest fleets: with all seeds, to be sure of the nearest.
            let nearest = race.tops(&field)?;
            let found = race.settle(nearest);
            if found.winner.is_none() {
                return Ok(found);
            }
            // It holds after all; it need not be the cheapest that does.
            candidates.cost(nearest)
        }
    };
    race.meet(&mut field, cost)?;
    let whole = field.clone();
    race.thin(&mut field);
    cost = race.descend(&field, cost)?;
    let last = race.play(&field, cost)?;
    let dropped = whole.into_iter().filter(|ladder| !field.contains(ladder)).collect();
    Ok(Found { dropped, ..race.settle(last) })
}

/// The cheapest rung of a ladder that meets the targets, by at most so many seeds where
/// one is not enough.
///
/// # Errors
/// Whatever the bench fails with.
pub(super) fn cheapest<B: Bench>(
    candidates: &Candidates,
    bench: &mut B,
    ladder: usize,
    most: usize,
) -> Result<Option<usize>, B::Error> {
    Race { candidates, bench, failed: BTreeSet::new() }.bisect(ladder, f64::INFINITY, most)
}

struct Race<'a, B> {
    candidates: &'a Candidates,
    bench: &'a mut B,
    /// Candidates that were shown not to meet the targets with all seeds.
    failed: BTreeSet<usize>,
}

impl<B: Bench> Race<'_, B> {
    fn beyond(&self, candidate: usize) -> f64 {
        self.bench.standing(candidate).map_or(f64::INFINITY, |standing| standing.beyond)
    }

    /// Sorts by standing, the best first; of equals the cheaper, then the first.
    fn rank(&self, candidates: &mut [usize]) {
        let cost = |at: usize| self.candidates.cost(at);
        candidates.sort_by(|a, b| {
            let by_standing = self.beyond(*a).total_cmp(&self.beyond(*b));
            by_standing.then(cost(*a).total_cmp(&cost(*b))).then(a.cmp(b))
        });
    }

    /// Whether a candidate meets its targets, with as many seeds as it takes to be sure.
    fn meets(&mut self, candidate: usize, most: usize) -> Result<bool, B::Error> {
        let mut seeds = 1;
        loop {
            self.bench.measure(&[(candidate, seeds)])?;
            let Some(standing) = self.bench.standing(candidate) else { return Ok(false) };
            if !standing.is_open() || standing.seeds >= most {
                return Ok(standing.meets());
            }
            seeds = (2 * standing.seeds).min(most);
        }
    }

    /// The ladders in the order in which they stand at about the middle cost.
    fn screen(&mut self) -> Result<Vec<usize>, B::Error> {
        let candidates = self.candidates;
        let mut costs: Vec<f64> = candidates.all.iter().map(|c| c.cost.per_hour).collect();
        costs.sort_by(f64::total_cmp);
        costs.dedup();
        let all = 0..candidates.ladders.len();
        let first: Vec<usize> = all.filter(|ladder| candidates.is_first(*ladder)).collect();
        let probe = |ladder: usize, cost: f64| {
            candidates.within(ladder, cost).unwrap_or(candidates.ladders[ladder].rungs[0])
        };
        let mut place = (costs.len() - 1) / 2;
        let mut probes: Vec<usize>;
        loop {
            probes = first.iter().map(|ladder| probe(*ladder, costs[place])).collect();
            self.measure(&probes, 1)?;
            // Fleets that do not keep up cannot be told from each other.
            let are_told = probes.iter().any(|at| self.beyond(*at).is_finite());
            if are_told || place + 1 == costs.len() {
                break;
            }
            place = (place + costs.len()) / 2;
        }
        let probe = |ladder: usize| probe(ladder, costs[place]);
        self.rank(&mut probes);
        let mut step = candidates.first_step() / 2;
        while step >= 1 {
            // The best of each kind is refined, so that no policy wins by a finer search.
            let mut kinds = BTreeSet::new();
            let mut near = Vec::new();
            for at in probes.clone() {
                let ladder = candidates.all[at].ladder;
                if kinds.insert(candidates.ladders[ladder].kind.as_str()) {
                    near.extend(candidates.near(ladder, step).into_iter().map(probe));
                }
            }
            near.retain(|at| !probes.contains(at));
            near.sort_unstable();
            near.dedup();
            self.measure(&near, 1)?;
            let improves = near.iter().any(|at| self.beyond(*at) < self.beyond(probes[0]));
            probes.extend(near);
            self.rank(&mut probes);
            if !improves {
                step /= 2;
            }
        }
        Ok(probes.iter().map(|at| candidates.all[*at].ladder).collect())
    }

    fn measure(&mut self, candidates: &[usize], seeds: usize) -> Result<(), B::Error> {
        let wanted: Vec<(usize, usize)> = candidates.iter().map(|at| (*at, seeds)).collect();
        self.bench.measure(&wanted)
    }

    /// The cost from which on a ladder meets the targets: the best of its kind that does, or
    /// the next best of all.
    fn border(&mut self, field: &[usize]) -> Result<Option<f64>, B::Error> {
        let mut order = self.leaders(field);
        let rest = field.iter().copied().filter(|ladder| !order.contains(ladder));
        let rest: Vec<usize> = rest.collect();
        order.extend(rest);
        for ladder in order {
            if let Some(found) = self.bisect(ladder, f64::INFINITY, 2)? {
                return Ok(Some(self.candidates.cost(found)));
            }
        }
        Ok(None)
    }

    /// The best ladder of each kind, the best first.
    fn leaders(&self, field: &[usize]) -> Vec<usize> {
        let mut kinds = BTreeSet::new();
        let kind = |ladder: usize| self.candidates.ladders[ladder].kind.as_str();
        field.iter().copied().filter(|ladder| kinds.insert(kind(*ladder))).collect()
    }

    /// The cheapest rung of a ladder, below `cost`, that meets the targets, if its most
    /// expensive one there does.
    fn bisect(&mut self, ladder: usize, cost: f64, most: usize) -> Result<Option<usize>, B::Error> {
        let candidates = self.candidates;
        let rungs = &candidates.ladders[ladder].rungs;
        let below = rungs.iter().take_while(|at| candidates.cost(**at) < cost).count();
        let Some(mut good) = below.checked_sub(1) else { return Ok(None) };
        // What was looked at already narrows it.
        let known =
            |at: &usize| self.bench.standing(rungs[*at]).is_some_and(|s| s.meets() && !s.is_open());
        match (0..below).find(known) {
            Some(known) => good = known,
            None if !self.meets(rungs[good], most)? => return Ok(None),
            None => {}
        }
        let known = |at: &usize| {
            self.bench.standing(rungs[*at]).is_some_and(|s| !s.meets() && !s.is_open())
        };
        let mut bad = (0..good).rev().find(known);
        loop {
            let from = bad.map_or(0, |bad| bad + 1);
            if from >= good {
                return Ok(Some(rungs[good]));
            }
            let middle = from + (good - from) / 2;
            if self.meets(rungs[middle], most)? { good = middle } else { bad = Some(middle) }
        }
    }

    /// Puts the field in the order in which it stands at the border, which may be far from
    /// where it was screened; those that have nothing as cheap come last.
    fn meet(&mut self, field: &mut Vec<usize>, cost: f64) -> Result<(), B::Error> {
        let mut at_cost = self.at(field, cost);
        self.measure(&at_cost, 1)?;
        self.rank(&mut at_cost);
        let mut order: Vec<usize> =
            at_cost.iter().map(|at| self.candidates.all[*at].ladder).collect();
        field.retain(|ladder| !order.contains(ladder));
        order.append(field);
        *field = order;
        Ok(())
    }

    /// Keeps the better half of the field, and the best of each kind.
    fn thin(&self, field: &mut Vec<usize>) {
        let leaders = self.leaders(field);
        let half = field.len().div_ceil(2);
        let mut places = 0..;
        field.retain(|ladder| {
            let is_better = places.next().is_some_and(|place| place < half);
            is_better || leaders.contains(ladder)
        });
    }

    /// The lowest cost at which some ladder of the field meets the targets, by few seeds.
    fn descend(&mut self, field: &[usize], mut cost: f64) -> Result<f64, B::Error> {
        loop {
            let mut at_cost = self.at(field, cost);
            self.measure(&at_cost, 1)?;
            self.rank(&mut at_cost);
            let mut lower = None;
            // The best half by what they do at the border itself, and the best of each kind.
            let ladders: Vec<usize> =
                at_cost.iter().map(|at| self.candidates.all[*at].ladder).collect();
            let leaders = self.leaders(&ladders);
            let half = at_cost.len().div_ceil(2);
            for (place, at) in at_cost.into_iter().enumerate() {
                if place >= half && !leaders.contains(&ladders[place]) {
                    continue;
                }
                let is_hopeless =
                    self.bench.standing(at).is_none_or(|s| !s.meets() && !s.is_open());
                if is_hopeless && self.candidates.cost(at) >= cost {
                    continue;
                }
                if self.candidates.cost(at) < cost && !is_hopeless && self.meets(at, 2)? {
                    lower = Some(self.candidates.cost(at));
                }
                let below = lower.unwrap_or(cost);
                if let Some(found) = self.bisect(self.candidates.all[at].ladder, below, 2)? {
                    lower = Some(self.candidates.cost(found));
                }
            }
            match lower {
                Some(found) if found < cost => cost = found,
                _ => return Ok(cost),
            }
        }
    }

    /// Of each ladder of the field the most expensive rung that costs at most so much.
    fn at(&self, field: &[usize], cost: f64) -> Vec<usize> {
        field.iter().filter_map(|ladder| self.candidates.within(*ladder, cost)).collect()
    }

    /// Finds the best at the border and proves it, moving the border as it takes; gives the
    /// last one that was the best.
    fn play(&mut self, field: &[usize], mut cost: f64) -> Result<usize, B::Error> {
        let all = self.bench.seeds();
        loop {
            let mut contest = self.at(field, cost);
            // Once the best at a cost has failed, only what may still hold is worth its seeds.
            let has_failed = contest.iter().any(|at| self.failed.contains(at));
            contest.retain(|at| {
                let standing = self.bench.standing(*at);
                let may_hold = standing.is_none_or(|s| s.meets() || s.is_open());
                !self.failed.contains(at) && (may_hold || !has_failed)
            });
            let best = self.halve(contest)?;
            let Some(best) = best else {
                match self.next(field, cost) {
                    Some(next) => cost = next,
                    None => return self.tops(field),
                }
                continue;
            };
            if !self.bench.standing(best).is_some_and(|s| s.meets()) {
                self.failed.insert(best);
                // Others at this cost may be as near.
                continue;
            }
            cost = self.candidates.cost(best);
            // The best two a rung below: the winner's own with all seeds, the other until it
            // is sure.
            let mut below: Vec<usize> = field
                .iter()
                .filter_map(|ladder| {
                    let rungs = &self.candidates.ladders[*ladder].rungs;
                    rungs.iter().rev().copied().find(|at| self.candidates.cost(*at) < cost)
                })
                .filter(|at| !self.failed.contains(at))
                .collect();
            let known = |at: &usize| self.bench.standing(*at).is_some();
            let own = self.candidates.all[best].ladder;
            below.retain(|at| known(at) || self.candidates.all[*at].ladder == own);
            self.rank(&mut below);
            let mut lower = None;
            below.sort_by_key(|at| self.candidates.all[*at].ladder != own);
            for at in below.into_iter().take(2) {
                if self.candidates.all[at].ladder == own {
                    self.measure(&[at], all)?;
                }
                if self.meets(at, all)? {
                    lower = Some(self.candidates.cost(at));
                    break;
                }
                self.failed.insert(at);
            }
            match lower {
                Some(lower) => cost = lower,
                None => return Ok(best),
            }
        }
    }

    /// The one that is left when seeds are doubled and the worse half drops out.
    fn halve(&mut self, mut contest: Vec<usize>) -> Result<Option<usize>, B::Error> {
        let all = self.bench.seeds();
        let mut seeds = 1;
        self.measure(&contest, 1)?;
        loop {
            self.rank(&mut contest);
            contest.truncate(contest.len().div_ceil(2));
            if contest.len() <= 1 {
                self.measure(&contest, all)?;
                return Ok(contest.first().copied());
            }
            seeds = (2 * seeds).min(all);
            self.measure(&contest, seeds)?;
            if seeds == all {
                self.rank(&mut contest);
                return Ok(contest.first().copied());
            }
        }
    }

    /// The next cost above `cost` at which a ladder of the field has a rung.
    fn next(&self, field: &[usize], cost: f64) -> Option<f64> {
        let rungs = field.iter().flat_map(|ladder| &self.candidates.ladders[*ladder].rungs);
        let costs = rungs.map(|at| self.candidates.cost(*at)).filter(|other| *other > cost);
        costs.min_by(f64::total_cmp)
    }

    /// The nearest of the largest fleets, with all seeds.
    fn tops(&mut self, field: &[usize]) -> Result<usize, B::Error> {
        let ladders = self.candidates.ladders.iter().enumerate();
        let tops: Vec<usize> = ladders
            .filter(|(at, _)| field.contains(at))
            .filter_map(|(_, ladder)| ladder.rungs.last().copied())
            .collect();
        let best = self.halve(tops)?;
        Ok(best.expect("there are candidates"))
    }

    /// The winner if it meets the targets with all seeds.
    fn settle(&self, last: usize) -> Found {
        let meets = self.bench.standing(last).is_some_and(|standing| standing.meets());
        Found { winner: meets.then_some(last), nearest: last, dropped: Vec::new() }
    }
}

/// Every candidate with every seed: what a search is held against.
///
/// # Errors
/// Whatever the bench fails with.
pub(super) fn grid<B: Bench>(candidates: &Candidates, bench: &mut B) -> Result<Found, B::Error> {
    let mut all: Vec<usize> = (0..candidates.all.len()).collect();
    let seeds = bench.seeds();
    let mut race = Race { candidates, bench, failed: BTreeSet::new() };
    race.measure(&all, seeds)?;
    race.rank(&mut all);
    let nearest = all[0];
    let meets = |at: &usize| race.bench.standing(*at).is_some_and(|standing| standing.meets());
    // Ranked, so that of equal costs the first is the best.
    let winner = all
        .iter()
        .copied()
        .filter(meets)
        .min_by(|a, b| candidates.cost(*a).total_cmp(&candidates.cost(*b)));
    Ok(Found { winner, nearest, dropped: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    /// Candidates whose worst target is a smooth function of their settings, with noise
    /// that seeds share in part.
    struct Drawn {
        candidates: Candidates,
        /// By candidate, its true place beyond the limit.
        truth: Vec<f64>,
        noise: f64,
        seeds: usize,
        had: BTreeMap<usize, usize>,
        simulations: usize,
    }

    /// Between -1 and 1, the same for the same numbers.
    fn draw(a: usize, b: usize) -> f64 {
        let mixed = (a as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ (b as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        2.0 * ((mixed >> 11) as f64 / (1u64 << 53) as f64) - 1.0
    }

    impl Drawn {
        fn new(values: usize, fleets: u32, best: usize, load: f64, noise: f64) -> Self {
            let candidates = Candidates::grid(values, fleets);
            let truth = candidates.all.iter().map(|candidate| {
                let value = candidate.settings["router.overlap_weight"].as_f64().unwrap_or(0.0);
                let off = (value - best as f64) / values as f64;
                load / f64::from(candidate.cost.workers) * (1.0 + off * off) - 1.0
            });
            let truth = truth.collect();
            Self { candidates, truth, noise, seeds: 8, had: BTreeMap::new(), simulations: 0 }
        }

        fn mean(&self, candidate: usize, seeds: usize) -> f64 {
            let of_seed = |seed| 0.5 * draw(0, seed) + 0.5 * draw(candidate + 1, seed);
            let noise: f64 = (0..seeds).map(of_seed).sum();
            self.truth[candidate] + self.noise * noise / seeds as f64
        }
    }

    impl Bench for Drawn {
        type Error = Infallible;

        fn measure(&mut self, wanted: &[(usize, usize)]) -> Result<(), Infallible> {
            for &(candidate, seeds) in wanted {
                let had = self.had.entry(candidate).or_default();
                self.simulations += seeds.saturating_sub(*had);
                *had = seeds.max(*had);
            }
            Ok(())
        }

        fn standing(&self, candidate: usize) -> Option<Standing> {
            let seeds = *self.had.get(&candidate)?;
            let missing = 1.0 / seeds as f64 - 1.0 / self.seeds as f64;
            let doubt = 1.2 * self.noise * missing.sqrt();
            Some(Standing { seeds, beyond: self.mean(candidate, seeds), doubt })
        }

        fn seeds(&self) -> usize {
            self.seeds
        }
    }

    /// What the search and the full grid find, and the share that the search simulated.
    fn both(values: usize, fleets: u32, best: usize, load: f64, noise: f64) -> (Found, Found, f64) {
        let drawn = || Drawn::new(values, fleets, best, load, noise);
        let (mut searched, mut full) = (drawn(), drawn());
        let candidates = Candidates::grid(values, fleets);
        let Ok(found) = race(&candidates, &mut searched);
        let Ok(all) = grid(&candidates, &mut full);
        (found, all, searched.simulations as f64 / full.simulations as f64)
    }

    #[test]
    fn without_noise_the_winner_is_that_of_the_grid() {
        for (values, fleets, best, load) in
            [(17, 12, 3, 5.5), (9, 8, 8, 2.2), (1, 16, 0, 9.5), (12, 1, 5, 0.7), (5, 5, 2, 4.9)]
        {
            let (found, all, share) = both(values, fleets, best, load, 0.0);
            assert_eq!(found.winner, all.winner, "{values} x {fleets}");
            assert!(found.winner.is_some());
            assert!(share < 0.45, "{values} x {fleets}: {share}");
        }
        let (.., share) = both(17, 12, 3, 5.5, 0.0);
        assert!(share < 0.05, "of many candidates few are simulated: {share}");
    }

    /// What the search and the full grid find where candidates of a place in `candidates`
    /// stand so, without noise.
    fn told(candidates: &Candidates, stand: impl Fn(usize) -> f64) -> (Found, Found) {
        let truth: Vec<f64> = (0..candidates.all.len()).map(stand).collect();
        let drawn = || Drawn {
            candidates: candidates.clone(),
            truth: truth.clone(),
            noise: 0.0,
            seeds: 8,
            had: BTreeMap::new(),
            simulations: 0,
        };
        let Ok(found) = race(candidates, &mut drawn());
        let Ok(all) = grid(candidates, &mut drawn());
        (found, all)
    }

    #[test]
    fn a_kind_that_is_second_at_first_may_be_the_cheapest() {
        let candidates = Candidates::models(&[2.5, 2.4, 0.9], 12);
        let workers = |at: usize| candidates.all[at].cost.workers;
        // The last model barely holds, with two workers already.
        let (found, all) = told(&candidates, |at| match at / 12 {
            0 => {
                if workers(at) >= 3 {
                    -0.5
                } else {
                    0.5
                }
            }
            1 => {
                if workers(at) >= 3 {
                    -0.4
                } else {
                    0.5
                }
            }
            _ => {
                if workers(at) >= 2 {
                    -0.01
                } else {
                    0.5
                }
            }
        });
        assert_eq!(found.winner, all.winner.map(|_| 25));
        assert_eq!(all.winner.map(|at| candidates.cost(at)), Some(1.8));
    }

    #[test]
    fn where_the_leader_never_holds_another_is_the_cheapest_and_not_the_largest() {
        let candidates = Candidates::models(&[2.5, 0.9], 8);
        let workers = |at: usize| f64::from(candidates.all[at].cost.workers);
        let (found, all) =
            told(&candidates, |at| if at < 8 { 3.0 / workers(at) - 1.0 } else { 0.1 });
        assert_eq!(found.winner, all.winner, "of another kind");
        assert_eq!(found.winner, Some(2));
        let candidates = Candidates::grid(2, 8);
        let workers = |at: usize| f64::from(candidates.all[at].cost.workers);
        let (found, all) =
            told(&candidates, |at| if at < 8 { 0.1 } else { 6.5 / workers(at) - 1.0 });
        assert_eq!(found.winner, all.winner, "of the same kind");
        assert_eq!(found.winner, Some(14));
    }

    #[test]
    fn where_middle_fleets_do_not_keep_up_larger_ones_tell_settings_apart() {
        let candidates = Candidates::grid(9, 10);
        let stand = |at: usize| {
            let off = (at / 10) as f64 - 3.0;
            let keeps_up = candidates.all[at].cost.workers >= 9;
            if keeps_up { off * off / 100.0 - 0.5 } else { f64::INFINITY }
        };
        let (found, all) = told(&candidates, stand);
        assert_eq!(found.winner, all.winner);
        assert_eq!(found.winner, Some(38));
    }

    #[test]
    fn where_none_will_do_the_nearest_is_named() {
        let (found, all, _) = both(9, 4, 2, 9.0, 0.02);
        assert_eq!((found.winner, all.winner), (None, None));
        assert_eq!(found.nearest, all.nearest);
    }

    proptest! {
        /// With noise the winner costs what the grid's costs, and what is lost on the way to
        /// the limit is within the noise of a mean over all seeds.
        #[test]
        fn with_noise_the_winner_is_as_good(
            values in 1usize..20,
            fleets in 1u32..14,
            best in 0usize..20,
            load in 0.3f64..8.0,
            noise in 0.0f64..0.04,
        ) {
            let (found, all, share) = both(values, fleets, best % values, load, noise);
            let drawn = Drawn::new(values, fleets, best % values, load, noise);
            let cost = |found: &Found| found.winner.map(|at| drawn.candidates.cost(at));
            let mean = |at: usize| drawn.mean(at, drawn.seeds);
            match (found.winner, all.winner) {
                (Some(own), Some(best)) if cost(&found) == cost(&all) => {
                    prop_assert!(mean(own) - mean(best) <= 2.0 * noise + 1e-9);
                }
                // A cheaper one that the search took for beyond by the seeds that it had.
                (_, Some(best)) => prop_assert!(mean(best) > -2.0 * noise, "{}", mean(best)),
                (own, None) => prop_assert_eq!(own, None),
            }
            prop_assert!(share <= 1.0);
        }
    }
}
