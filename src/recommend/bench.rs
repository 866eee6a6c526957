//! Candidates simulated with as many seeds as they are worth, and what was seen.

use super::candidates::{Candidates, chosen};
use super::race::{Bench, Found, Standing};
use super::reading::{Reader, Reading};
use crate::experiment::results::{LatencyCurves, MetricValue, Point};
use crate::experiment::{Experiment, Params, RunError, RunOptions, run};
use std::collections::{BTreeMap, BTreeSet};

/// See the [module](self).
pub(super) struct Simulated<'a> {
    pub(super) experiment: &'a Experiment,
    pub(super) candidates: &'a Candidates,
    pub(super) reader: Reader<'a>,
    options: RunOptions<'a>,
    seen: BTreeMap<usize, Seen>,
    standings: BTreeMap<usize, Standing>,
    /// Candidates stand as if the model made no error.
    is_exact: bool,
    /// Simulations so far.
    pub(super) simulations: usize,
}

/// What was seen of a candidate.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) point: Point,
    pub(super) curves: LatencyCurves,
    pub(super) seeds: usize,
}

impl<'a> Simulated<'a> {
    pub(super) fn new(
        experiment: &'a Experiment,
        candidates: &'a Candidates,
        reader: Reader<'a>,
        options: RunOptions<'a>,
    ) -> Self {
        let (seen, standings, is_exact) = (BTreeMap::new(), BTreeMap::new(), false);
        Self { experiment, candidates, reader, options, seen, standings, is_exact, simulations: 0 }
    }

    /// Lets candidates stand as if the model made no error, or with its error again.
    pub(super) fn set_exact(&mut self, is_exact: bool) {
        self.is_exact = is_exact;
        self.update_standings();
    }

    /// What a search found, or what stands better among all that were simulated with all
    /// seeds: the cheapest that meets the targets, else the nearest to them.
    pub(super) fn best(&self, found: Found) -> Found {
        let is_whole = |at: &usize| self.seen[at].seeds >= self.experiment.seeds.len();
        let beyond = |at: usize| self.standings[&at].beyond;
        let cost = |at: usize| self.candidates.cost(at);
        let whole = || self.seen.keys().copied().filter(is_whole);
        let meeting = whole().filter(|at| self.standings[at].meets());
        let winner = meeting
            .min_by(|a, b| cost(*a).total_cmp(&cost(*b)).then(beyond(*a).total_cmp(&beyond(*b))));
        let by_bound = |a: &usize, b: &usize| {
            beyond(*a).total_cmp(&beyond(*b)).then(cost(*a).total_cmp(&cost(*b)))
        };
        let nearest = winner.or_else(|| whole().min_by(by_bound)).unwrap_or(found.nearest);
        Found { winner, nearest, ..found }
    }

    /// Everything that was simulated, in order of candidates.
    pub(super) fn seen(&self) -> impl Iterator<Item = (usize, &Seen)> {
        self.seen.iter().map(|(at, seen)| (*at, seen))
    }

    /// What was seen of a candidate.
    pub(super) fn of(&self, candidate: usize) -> Option<&Seen> {
        self.seen.get(&candidate)
    }

    /// What its targets' metrics are.
    pub(super) fn readings(&self, candidate: usize) -> Vec<Reading> {
        let settings = &self.experiment.runs[self.candidates.all[candidate].run].settings;
        let Some(seen) = self.seen.get(&candidate) else { return Vec::new() };
        self.reader.readings(settings, &seen.point, Some(&seen.curves))
    }

    /// The standard deviation over seeds of the worst target, in parts of its limit, over
    /// all candidates that are not far from it; `None` before any had two seeds.
    fn spread(&self) -> Option<f64> {
        let (mut sum, mut freedom) = (0.0, 0.0);
        for (at, seen) in self.seen.iter().filter(|(_, seen)| seen.seeds > 1) {
            let settings = &self.experiment.runs[self.candidates.all[*at].run].settings;
            let all = self.reader.beyond(settings, &seen.point, Some(&seen.curves));
            let worst = all.into_iter().flatten().max_by(|a, b| a.mean.total_cmp(&b.mean));
            let Some(worst) = worst.filter(|worst| worst.mean.abs() < 1.0) else { continue };
            let squares = worst.per_seed.iter().map(|value| (value - worst.mean).powi(2));
            sum += squares.sum::<f64>();
            freedom += worst.per_seed.len().saturating_sub(1) as f64;
        }
        (freedom > 0.0).then(|| (sum / freedom).sqrt())
    }

    fn stand(&self, candidate: usize, seen: &Seen, spread: Option<f64>) -> Standing {
        let settings = &self.experiment.runs[self.candidates.all[candidate].run].settings;
        let mut all = self.reader.beyond(settings, &seen.point, Some(&seen.curves));
        if self.is_exact {
            all.iter_mut().flatten().for_each(|beyond| beyond.model = [0.0; 2]);
        }
        let expected = all.map(|all| {
            let expected = all.iter().map(|beyond| self.reader.expected(beyond, spread));
            expected.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((f64::INFINITY, 0.0))
        });
        let (beyond, doubt) = expected.unwrap_or((f64::INFINITY, 0.0));
        Standing { seeds: seen.seeds, beyond, doubt }
    }

    fn update_standings(&mut self) {
        let spread = self.spread();
        let stand = |(at, seen): (&usize, &Seen)| (*at, self.stand(*at, seen, spread));
        self.standings = self.seen.iter().map(stand).collect();
    }

    /// Simulates candidates with the seeds from `from` to `to`.
    fn simulate(&mut self, wanted: &[usize], from: usize, to: usize) -> Result<(), RunError> {
        let mut experiment = self.experiment.clone();
        experiment.seeds = self.experiment.seeds[from..to].to_vec();
        let points: BTreeSet<String> =
            wanted.iter().map(|at| key(&self.candidates.all[*at].point)).collect();
        experiment.retain(|params| points.contains(&key(&chosen(params))));
        let outcome = run(&experiment, self.options)?;
        self.simulations += experiment.simulations();
        for (point, curves) in outcome.summary.points.into_iter().zip(outcome.distributions) {
            let params = chosen(&point.params);
            let is_it = |at: &&usize| self.candidates.all[**at].point == params;
            let at = *wanted.iter().find(is_it).expect("retained");
            match self.seen.get_mut(&at) {
                Some(seen) => seen.add(point, &curves, to - from),
                None => {
                    self.seen.insert(at, Seen { point, curves, seeds: to - from });
                }
            }
        }
        Ok(())
    }
}

/// Parameters as text, to be looked up by.
fn key(params: &Params) -> String {
    serde_json::json!(params).to_string()
}

impl Bench for Simulated<'_> {
    type Error = RunError;

    fn measure(&mut self, wanted: &[(usize, usize)]) -> Result<(), RunError> {
        let mut groups: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
        for &(candidate, seeds) in wanted {
            let has = self.seen.get(&candidate).map_or(0, |seen| seen.seeds);
            let seeds = seeds.min(self.seeds());
            if has < seeds {
                groups.entry((has, seeds)).or_default().insert(candidate);
            }
        }
        if groups.is_empty() {
            return Ok(());
        }
        for ((from, to), group) in groups {
            let group: Vec<usize> = group.into_iter().collect();
            self.simulate(&group, from, to)?;
        }
        // What is known of the spread has changed for all.
        self.update_standings();
        Ok(())
    }

    fn standing(&self, candidate: usize) -> Option<Standing> {
        self.standings.get(&candidate).cloned()
    }

    fn seeds(&self) -> usize {
        self.experiment.seeds.len()
    }
}

impl Seen {
    /// Adds what further seeds gave.
    fn add(&mut self, point: Point, curves: &LatencyCurves, seeds: usize) {
        let mut more = point.metrics;
        for (name, metric) in &mut self.point.metrics {
            let mut per_seed = std::mem::take(&mut metric.per_seed);
            per_seed.extend(more.remove(name).map_or_else(|| vec![None; seeds], |m| m.per_seed));
            *metric = MetricValue::of(per_seed);
        }
        for (name, metric) in more {
            let mut per_seed = vec![None; self.seeds];
            per_seed.extend(metric.per_seed);
            self.point.metrics.insert(name, MetricValue::of(per_seed));
        }
        let (own, new) = (self.seeds as f64, seeds as f64);
        for (name, curve) in &mut self.curves {
            let Some(more) = curves.get(name) else { continue };
            for (mean, more) in curve.mean.iter_mut().zip(&more.mean) {
                *mean = (*mean * own + more * new) / (own + new);
            }
            // Bounds over seeds of two batches are not the bounds over all; none is used.
            curve.ci95 = None;
        }
        self.seeds += seeds;
    }
}
