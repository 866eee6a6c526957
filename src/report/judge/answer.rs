//! Where one policy beats another, by how much, and where the seeds cannot tell them
//! apart; [`render::answer`](crate::report::render::answer) puts it into sentences.
//!
//! Two policies meet the same conversations under the same seed, so they are
//! compared seed by seed: the scatter that both share cancels. A difference is
//! clear if the 95 % interval (Student's t) of the paired differences leaves out 0,
//! and a win or a loss if it is also [worth having](Terms::worth). Points that do
//! not keep up with their load are no ground for either.

use super::state::{State, compare, unserved};
use super::terms::Terms;
use crate::experiment::results::{self, Point};
use crate::metrics::{Better, Metric};
use crate::report::view::{POLICY, Series, VARIANT, View};
use crate::stats::mean_ci95;
use std::collections::BTreeMap;

/// The policy that others are held against, where it was run.
pub const BASELINE: &str = "round_robin";

/// What the answer speaks of, if the results have it.
const HEADLINES: [&str; 2] = ["ttft_ms_p95", "output_tokens_per_s"];

/// The share of good requests, and how many of them a second, with `[slo]`.
const ATTAINMENT: &str = "slo_attainment";
const GOODPUT: &str = "goodput_per_s";

/// How a candidate differs from a baseline in one metric at one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Mean of candidate minus baseline over the seeds both have, in units of the metric.
    pub mean: f64,
    /// The same in percent of the baseline, or in percentage points for ratios;
    /// `None` where the baseline is 0.
    pub relative: Option<f64>,
    /// Whether the interval of the mean leaves out 0; `None` with one seed.
    pub clear: Option<bool>,
}

impl Difference {
    /// Pairs two metrics seed by seed; `None` if no seed has both.
    pub fn new(
        metric: &Metric,
        candidate: &results::MetricValue,
        baseline: &results::MetricValue,
    ) -> Option<Self> {
        let pairs: Vec<(f64, f64)> = candidate
            .per_seed
            .iter()
            .zip(&baseline.per_seed)
            .filter_map(|(c, b)| Some(((*c)?, (*b)?)))
            .collect();
        let differences: Vec<f64> = pairs.iter().map(|(c, b)| c - b).collect();
        let (mean, interval) = mean_ci95(&differences)?;
        if !mean.is_finite() {
            return None;
        }
        let n = pairs.len() as f64;
        let base = pairs.iter().map(|(_, b)| b).sum::<f64>() / n;
        let relative = metric.difference(base + mean, base);
        let clear = interval.map(|[low, high]| low > 0.0 || high < 0.0);
        Some(Self { mean, relative, clear })
    }

    /// True unless the seeds show a difference: the interval includes 0, or
    /// with a single seed both are equal.
    pub fn is_unclear(&self) -> bool {
        !self.clear.unwrap_or(self.mean != 0.0)
    }

    /// True if it is smaller than what is worth having.
    pub fn is_small(&self, terms: &Terms) -> bool {
        self.relative.is_some_and(|relative| relative.abs() < terms.worth)
    }
}

/// Places of candidate and baseline in [`View::series`]: every series with its
/// fair partners. One has another policy and the same fleet: the [`BASELINE`], or
/// the first policy where that was not run. Of variants another one has the same
/// router and the fleet that was listed first. Only a variant that has neither is
/// held against the baseline in spite of that.
pub fn pairings(view: &View<'_>, terms: &Terms) -> Vec<(usize, usize)> {
    let named = view.series.iter().find(|s| s.policy == BASELINE);
    let Some(baseline) = named.or(view.series.first()).map(|s| s.policy.as_str()) else {
        return Vec::new();
    };
    let parts: Vec<Parts> = view.series.iter().map(|series| Parts::of(series, terms)).collect();
    let mut pairs = Vec::new();
    for (candidate, series) in view.series.iter().enumerate() {
        let find = |is_partner: &dyn Fn(usize) -> bool| {
            let alike = |other: &usize| view.series[*other].is_alike(series);
            (0..view.series.len()).filter(alike).find(|other| is_partner(*other))
        };
        let is_baseline = |other: usize| view.series[other].policy == baseline;
        let same_fleet = |other: usize| parts[other].fleet == parts[candidate].fleet;
        let same_router = |other: usize| parts[other].router == parts[candidate].router;
        let other_policy =
            find(&|other| !is_baseline(candidate) && is_baseline(other) && same_fleet(other));
        let other_fleet = series
            .others
            .contains_key(VARIANT)
            .then(|| find(&|other| other < candidate && same_router(other) && !same_fleet(other)));
        let mut partners: Vec<usize> =
            other_policy.into_iter().chain(other_fleet.flatten()).collect();
        if partners.is_empty() && !is_baseline(candidate) {
            partners.extend(find(&is_baseline));
        }
        pairs.extend(partners.into_iter().map(|partner| (candidate, partner)));
    }
    pairs
}

/// What a series sets, its place on the axis apart: of the router, and of all else.
#[derive(PartialEq)]
struct Parts {
    router: BTreeMap<String, String>,
    fleet: BTreeMap<String, String>,
}

impl Parts {
    fn of(series: &Series<'_>, terms: &Terms) -> Self {
        let name = series.others.get(VARIANT).and_then(|name| name.as_str());
        let bundle = name.and_then(|name| terms.variants.get(name));
        let swept = series.others.iter().filter(|(key, _)| **key != VARIANT);
        let mut all: BTreeMap<String, String> =
            swept.map(|(key, value)| ((*key).to_owned(), value.to_string())).collect();
        let bundled = bundle.into_iter().flatten();
        all.extend(bundled.map(|(key, value)| (key.clone(), value.to_string())));
        all.insert(POLICY.to_owned(), series.policy.clone());
        let (router, fleet) = all.into_iter().partition(|(key, _)| key.starts_with("router."));
        Self { router, fleet }
    }

    /// The keys of the fleet in which two series differ.
    fn differing(&self, other: &Self) -> Vec<String> {
        let keys = self.fleet.keys().chain(other.fleet.keys());
        let mut differing: Vec<String> =
            keys.filter(|key| self.fleet.get(*key) != other.fleet.get(*key)).cloned().collect();
        differing.sort();
        differing.dedup();
        differing
    }
}

/// The headline metrics, or else the first two that have a good direction.
pub(in crate::report) fn headlines(view: &View<'_>) -> Vec<Metric> {
    let names = view.metric_names();
    let main: Vec<Metric> =
        HEADLINES.iter().filter(|name| names.contains(name)).map(|name| Metric::of(name)).collect();
    if main.is_empty() {
        let directed = names.into_iter().map(Metric::of).filter(|metric| metric.better.is_some());
        directed.take(2).collect()
    } else {
        main
    }
}

/// The difference of two series at `x`.
pub fn at(
    view: &View<'_>,
    metric: &Metric,
    x: f64,
    candidate: usize,
    baseline: usize,
) -> Option<Difference> {
    let side = |series: usize| view.series.get(series)?.metric(x, &metric.name);
    Difference::new(metric, side(candidate)?, side(baseline)?)
}

fn standing(terms: &Terms, metric: &Metric, difference: Option<&Difference>) -> Standing {
    let Some(difference) = difference else { return Standing::Unknown };
    let higher = difference.mean > 0.0;
    match metric.better {
        _ if difference.clear.is_none() => Standing::Untested,
        _ if difference.is_unclear() => Standing::Unclear,
        None => Standing::Unclear,
        _ if difference.is_small(terms) => Standing::Small,
        Some(better) if higher == (better == Better::Higher) => Standing::Wins,
        Some(_) => Standing::Loses,
    }
}

/// How a candidate stands against a baseline at one value of the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::report) enum Standing {
    Wins,
    Loses,
    /// Beyond chance, and too small to matter.
    Small,
    Unclear,
    /// One seed says nothing of chance.
    Untested,
    /// The points cannot be compared.
    NoAnswer,
    Unknown,
}

/// A candidate against a baseline in one metric, at every value of the axis.
pub(in crate::report) struct Contest {
    /// The metric.
    pub(in crate::report) metric: Metric,
    /// Candidate less baseline, where both have a value.
    pub(in crate::report) differences: Vec<Option<Difference>>,
    /// How both stand, where both have a point.
    pub(in crate::report) states: Vec<Option<Sides>>,
    /// What follows from these.
    pub(in crate::report) standings: Vec<Standing>,
}

/// How both sides of a comparison stand at one value of the axis.
#[derive(Clone, Copy, Debug)]
pub(in crate::report) struct Sides {
    pub(in crate::report) states: (State, State),
    /// The shares of requests that they did not serve.
    pub(in crate::report) unserved: (f64, f64),
    /// Whether they can be compared.
    compare: bool,
}

impl Sides {
    fn new(candidate: &Point, baseline: &Point) -> Self {
        Self {
            states: (State::of(candidate), State::of(baseline)),
            unserved: (unserved(candidate), unserved(baseline)),
            compare: compare(candidate, baseline),
        }
    }
}

impl Contest {
    /// `None` if no value of the axis can be compared.
    pub(in crate::report) fn new(
        view: &View<'_>,
        terms: &Terms,
        metric: &Metric,
        candidate: usize,
        baseline: usize,
    ) -> Option<Self> {
        let differences: Vec<Option<Difference>> =
            view.xs().iter().map(|x| at(view, metric, *x, candidate, baseline)).collect();
        let states = |x: &f64| {
            let point = |series: usize| view.series[series].at(*x);
            point(candidate).zip(point(baseline)).map(|(a, b)| Sides::new(a, b))
        };
        let states: Vec<Option<Sides>> = view.xs().iter().map(states).collect();
        let standings: Vec<Standing> = differences
            .iter()
            .zip(&states)
            .map(|(difference, states)| match states {
                Some(Sides { compare: false, .. }) => Standing::NoAnswer,
                _ => standing(terms, metric, difference.as_ref()),
            })
            .collect();
        let is_known = standings.iter().any(|standing| *standing != Standing::Unknown);
        is_known.then(|| Self { metric: metric.clone(), differences, states, standings })
    }

    /// Places on the axis where the candidate stands so.
    pub(in crate::report) fn places(&self, wanted: Standing) -> Vec<usize> {
        (0..self.standings.len()).filter(|place| self.standings[*place] == wanted).collect()
    }
}

/// The best mean of a metric, and where it was measured: series and value of the axis.
pub(in crate::report) type BestOf = (f64, usize, f64);

/// How `[slo]` was attained.
pub(in crate::report) struct Attainment {
    /// The largest share of good requests.
    pub(in crate::report) nearest: BestOf,
    /// The most good requests a second, if there were any.
    pub(in crate::report) goodput: Option<BestOf>,
    /// Whether the targets were swept, so that points have targets of their own.
    pub(in crate::report) is_swept: bool,
}

/// How `[slo]` was attained; `None` without targets.
pub(in crate::report) fn attainment(view: &View<'_>) -> Option<Attainment> {
    let best = |name: &str| -> Option<BestOf> {
        let points = view.series.iter().enumerate().flat_map(|(series, shown)| {
            let mean = |point: &results::Point| point.metrics.get(name)?.mean;
            shown.points.iter().filter_map(move |(x, point)| Some((mean(point)?, series, *x)))
        });
        points.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let nearest = best(ATTAINMENT)?;
    let goodput = best(GOODPUT).filter(|(goodput, ..)| *goodput > 0.0);
    let mut keys = view.summary.points.iter().flat_map(|point| point.params.keys());
    Some(Attainment { nearest, goodput, is_swept: keys.any(|key| key.starts_with("slo.")) })
}

/// The smallest and the largest mean of a metric over the points of a series that have it.
pub(in crate::report) fn extent(series: &Series<'_>, name: &str) -> Option<(f64, f64)> {
    let means = series.points.iter().filter_map(|(_, p)| p.metrics.get(name)?.mean);
    means.fold(None, |extent, mean| {
        let (low, high) = extent.unwrap_or((mean, mean));
        Some((low.min(mean), high.max(mean)))
    })
}

/// The [`extent`] of a count; `None` where there is nothing to say. Planners that do
/// nothing count, fleets that lose nothing do not.
pub(in crate::report) fn counted(series: &Series<'_>, name: &str) -> Option<(f64, f64)> {
    let is_shown = |high: f64| high > 0.0 || (high == 0.0 && name.starts_with("workers_"));
    extent(series, name).filter(|(_, high)| is_shown(*high))
}

/// The largest mean of a count over all points.
pub(in crate::report) fn most(view: &View<'_>, name: &str) -> f64 {
    let means = view.summary.points.iter().filter_map(|p| p.metrics.get(name)?.mean);
    means.fold(0.0, f64::max)
}

/// The keys of the fleet in which two series differ whose routers differ too: such a pair
/// compares two things at once.
pub(in crate::report) fn unequal_fleets(
    view: &View<'_>,
    terms: &Terms,
    candidate: usize,
    baseline: usize,
) -> Vec<String> {
    let [a, b] = [candidate, baseline].map(|series| Parts::of(&view.series[series], terms));
    if a.router == b.router { Vec::new() } else { a.differing(&b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results::MetricValue;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn swapping_the_sides_swaps_the_sign(
            pairs in prop::collection::vec((0.1..1e3f64, 0.1..1e3f64), 1..8)
        ) {
            let metric = Metric::of("ttft_ms_p95");
            let side = |f: fn(&(f64, f64)) -> f64| {
                MetricValue::of(pairs.iter().map(|p| Some(f(p))).collect())
            };
            let (a, b) = (side(|p| p.0), side(|p| p.1));
            let ab = Difference::new(&metric, &a, &b).unwrap();
            let ba = Difference::new(&metric, &b, &a).unwrap();
            prop_assert!((ab.mean + ba.mean).abs() < 1e-9);
            prop_assert_eq!(ab.clear, ba.clear);
            prop_assert_eq!(ab.clear.is_none(), pairs.len() == 1);
        }
    }
}
