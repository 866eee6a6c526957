//! The answer in a sentence: where one policy beats another, by how much, and
//! where the seeds cannot tell them apart.
//!
//! Two policies meet the same conversations under the same seed, so they are
//! compared seed by seed: the scatter that both share cancels. A difference is
//! clear if the 95 % interval (Student's t) of the paired differences leaves out 0,
//! and a win or a loss if it is also [worth having](Terms::worth). Points that do
//! not keep up with their load are no ground for either.

use super::places::{places, stretches};
use super::state::{self, State};
use super::terms::Terms;
use crate::experiment::results;
use crate::metrics::{Better, Metric, short, signed};
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

/// What can happen to workers and requests, with the words for it.
const HAPPENINGS: [(&str, &str); 10] = [
    ("workers_added", "{} worker(s) added by the planner"),
    ("workers_removed", "{} removed"),
    ("rejected", "{} request(s) rejected"),
    ("given_up", "{} request(s) given up by their clients"),
    ("failed", "{} request(s) failed"),
    ("retries", "{} sent again by their clients"),
    ("migrations", "{} moved to another worker"),
    ("recomputed_tokens", "{} token(s) computed again"),
    ("hit_recovery_s", "{} s until hits were back"),
    ("cut_short", "{} answer(s) cut short"),
];

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
        candidate: &results::Metric,
        baseline: &results::Metric,
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

    /// With sign and unit: `-24 %`, `+3.1 pt`; in units of the metric where the baseline is 0.
    pub fn text(&self, metric: &Metric) -> String {
        match self.relative {
            Some(relative) => format!("{} {}", signed(relative), metric.difference_unit()),
            None if self.mean == 0.0 => "0".to_owned(),
            None => {
                let sign = if self.mean > 0.0 { "+" } else { "-" };
                format!("{sign}{} {}", short(self.mean.abs()), metric.unit).trim_end().to_owned()
            }
        }
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

/// `kv against round_robin`; where both router and fleet differ, in what.
pub fn pair_name(view: &View<'_>, terms: &Terms, candidate: usize, baseline: usize) -> String {
    let (a, b) = (&view.series[candidate], &view.series[baseline]);
    // What else the candidate's label says holds for the baseline too, but for variants.
    let is_variant = a.others.contains_key(VARIANT);
    let name = format!("{} against {}", a.label, if is_variant { &b.label } else { &b.policy });
    let (parts, other) = (Parts::of(a, terms), Parts::of(b, terms));
    let differing = parts.differing(&other);
    if differing.is_empty() || parts.router == other.router {
        return name;
    }
    format!("{name} (which differ in {} too)", differing.join(", "))
}

/// What has to be known before the answer is read: points that did not keep up or
/// did not settle, and remarks on the experiment.
pub fn cautions(view: &View<'_>, terms: &Terms) -> Vec<String> {
    state::sentences(view).into_iter().chain(terms.remarks.iter().cloned()).collect()
}

/// One sentence per pair of [`pairings`], whether `[slo]` is met, what happened to
/// fleet and requests, and what goes with the axis.
pub fn answer(view: &View<'_>, terms: &Terms) -> Vec<String> {
    let metrics = headlines(view);
    pairings(view, terms)
        .into_iter()
        .filter_map(|(candidate, baseline)| {
            let found = metrics
                .iter()
                .filter_map(|metric| clause(view, terms, metric, candidate, baseline));
            let (clauses, untested): (Vec<String>, Vec<bool>) = found.unzip();
            if clauses.is_empty() {
                return None;
            }
            let name = pair_name(view, terms, candidate, baseline);
            let is_untested = untested.contains(&true);
            let mark = if is_untested { " [one seed: not tested against chance]" } else { "" };
            Some(format!("{name}: {}{mark}.", clauses.join("; ")))
        })
        .chain(slo(view, terms))
        .chain(happenings(view))
        .chain(left_out(view))
        .chain(view.companions())
        .collect()
}

/// The headline metrics, or else the first two that have a good direction.
fn headlines(view: &View<'_>) -> Vec<Metric> {
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

/// Where `[slo]` is met, and where most good requests are served.
fn slo(view: &View<'_>, terms: &Terms) -> Option<String> {
    let mean = |point: &results::Point, name: &str| point.metrics.get(name)?.mean;
    let best = |name: &'static str| {
        let points = view.series.iter().flat_map(|series| {
            series
                .points
                .iter()
                .filter_map(move |(x, point)| Some((mean(point, name)?, series.label.as_str(), *x)))
        });
        points.max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let at = |label: &str, x: f64| match &view.axis {
        Some(axis) => {
            let unit = if axis.is_duration { " ms" } else { "" };
            format!("{label} at {} {x}{unit}", axis.name())
        }
        None => label.to_owned(),
    };
    let (attained, nearest, x) = best(ATTAINMENT)?;
    let is_swept =
        view.summary.points.iter().any(|p| p.params.keys().any(|k| k.starts_with("slo.")));
    let targets = if is_swept { "the swept targets".to_owned() } else { terms.slo_text() };
    let mut text = format!("SLO ({targets}): ");
    let met = |series: usize, x: f64| {
        view.series[series].at(x).is_some_and(|point| terms.are_met_by(point))
    };
    text += &match places(view, met) {
        Some(places) => format!("met by {places}"),
        None => {
            format!("met nowhere; nearest is {}, {:.1} %", at(nearest, x), 100.0 * attained)
        }
    };
    if let Some((goodput, label, x)) = best(GOODPUT).filter(|(goodput, ..)| *goodput > 0.0) {
        text += &format!("; most goodput: {}, {} requests/s", at(label, x), short(goodput));
    }
    Some(text + ".")
}

/// What happened to workers and requests of each series, where anything is counted:
/// planner actions, failures, migrations, answers that were cut.
fn happenings(view: &View<'_>) -> Vec<String> {
    let said = |series: &Series<'_>| {
        let counted: Vec<String> = HAPPENINGS
            .iter()
            .filter_map(|(name, what)| {
                let points = series.points.iter();
                let means = points.filter_map(|(_, p)| p.metrics.get(*name)?.mean);
                let (low, high) = means.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), mean| {
                    (l.min(mean), h.max(mean))
                });
                // Planners that do nothing are worth a word, fleets that lose nothing are not.
                let is_shown = high > 0.0 || (high == 0.0 && name.starts_with("workers_"));
                is_shown.then(|| {
                    let (low, high) = (count(low), count(high));
                    let number = if low == high { high } else { format!("{low} to {high}") };
                    numbered(what, &number)
                })
            })
            .collect();
        (!counted.is_empty()).then(|| format!("{}: {}.", series.label, counted.join(", ")))
    };
    view.series.iter().filter_map(said).collect()
}

/// What a trace has that was not replayed as it stands; the same for all who replay it.
fn left_out(view: &View<'_>) -> Option<String> {
    let most = |name: &str| {
        let means = view.summary.points.iter().filter_map(|p| p.metrics.get(name)?.mean);
        means.fold(0.0, f64::max)
    };
    let rows = most("rows_left_out");
    let rows = (rows > 0.0).then(|| {
        numbered("{} row(s) left out (no answer, or a prompt above max_isl)", &count(rows))
    });
    let sessions = most("sessions_broken");
    let sessions = (sessions > 0.0).then(|| {
        let what = "{} session(s) with a turn that does not go on from the one before";
        numbered(what, &count(sessions))
    });
    let parts: Vec<String> = rows.into_iter().chain(sessions).collect();
    (!parts.is_empty()).then(|| format!("Trace: {}.", parts.join("; ")))
}

/// `what` with a number for `{}`, and its `(s)` as the number wants it.
fn numbered(what: &str, number: &str) -> String {
    what.replacen("{}", number, 1).replacen("(s)", if number == "1" { "" } else { "s" }, 1)
}

/// A mean of counts: whole where it is.
fn count(mean: f64) -> String {
    if mean.fract() == 0.0 || mean >= 99.5 { format!("{mean:.0}") } else { short(mean) }
}

/// What is said of a candidate at one value of the axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
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

/// What each outcome is called before the metric's name, and without it.
const VERBS: [(Outcome, &str, &str); 7] = [
    (Outcome::Wins, "wins on", "wins"),
    (Outcome::Loses, "loses on", "loses"),
    (Outcome::Untested, "", ""),
    (Outcome::Small, "hardly differs in", "hardly differs"),
    (Outcome::Unclear, "no clear difference in", "no clear difference"),
    (Outcome::NoAnswer, "no answer on", "no answer"),
    (Outcome::Unknown, "not known:", "not known"),
];

/// `wins on TTFT p95 at concurrency 60-120 (-18 to -32 %), loses at 180 (+329 %)`;
/// and whether seeds were too few to test it. `None` if no value of the axis can be
/// compared.
fn clause(
    view: &View<'_>,
    terms: &Terms,
    metric: &Metric,
    candidate: usize,
    baseline: usize,
) -> Option<(String, bool)> {
    let found: Vec<Option<Difference>> =
        view.xs().iter().map(|x| at(view, metric, *x, candidate, baseline)).collect();
    let states = |x: &f64| {
        let state = |series: usize| view.series[series].at(*x).map(State::of);
        state(candidate).zip(state(baseline))
    };
    let states: Vec<Option<(State, State)>> = view.xs().iter().map(states).collect();
    let outcomes: Vec<Outcome> = found
        .iter()
        .zip(&states)
        .map(|(difference, states)| match states {
            Some((a, b)) if !a.compares_with(*b) => Outcome::NoAnswer,
            _ => outcome(terms, metric, difference.as_ref()),
        })
        .collect();
    if outcomes.iter().all(|outcome| *outcome == Outcome::Unknown) {
        return None;
    }
    let mut parts: Vec<String> = Vec::new();
    for (wanted, with_metric, alone) in VERBS {
        let here: Vec<usize> = (0..outcomes.len()).filter(|i| outcomes[*i] == wanted).collect();
        if here.is_empty() {
            continue;
        }
        // The metric is named once, in the first part.
        let verb = if parts.is_empty() {
            format!("{with_metric} {}", metric.label).trim_start().to_owned()
        } else {
            alone.to_owned()
        };
        let place = if here.len() == outcomes.len() {
            everywhere(view, wanted)
        } else {
            place(view, &here, parts.is_empty())
        };
        let differences = || here.iter().filter_map(|i| found[*i].as_ref());
        parts.push(match wanted {
            Outcome::Wins | Outcome::Loses => {
                format!("{verb}{place} ({})", range(metric, differences()))
            }
            Outcome::Untested => format!("{verb} {}{place}", signed_range(metric, differences()))
                .trim_start()
                .to_owned(),
            Outcome::Small => {
                let unit = metric.difference_unit();
                format!("{verb}{place} (by less than {} {unit})", terms.worth)
            }
            Outcome::NoAnswer => {
                let met = here.iter().filter_map(|i| states[*i]);
                format!("{verb}{place} ({})", why_no_answer(met))
            }
            Outcome::Unclear | Outcome::Unknown => format!("{verb}{place}"),
        });
    }
    Some((parts.join(", "), outcomes.contains(&Outcome::Untested)))
}

/// Why points cannot be compared, by the states of both sides at each of them.
fn why_no_answer(states: impl Iterator<Item = (State, State)>) -> String {
    let mut reasons: Vec<String> = states
        .map(|(a, b)| match (a, b) {
            _ if a.max(b) >= State::Unserved => "requests were not served".to_owned(),
            _ if a == b => format!("both are {a}"),
            _ => "neither keeps up".to_owned(),
        })
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons.join(" or ")
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

fn outcome(terms: &Terms, metric: &Metric, difference: Option<&Difference>) -> Outcome {
    let Some(difference) = difference else { return Outcome::Unknown };
    let higher = difference.mean > 0.0;
    match metric.better {
        _ if difference.clear.is_none() => Outcome::Untested,
        _ if difference.is_unclear() => Outcome::Unclear,
        None => Outcome::Unclear,
        _ if difference.is_small(terms) => Outcome::Small,
        Some(better) if higher == (better == Better::Higher) => Outcome::Wins,
        Some(_) => Outcome::Loses,
    }
}

/// ` at every concurrency`, or ` at any` of what was not decided; nothing without an axis.
fn everywhere(view: &View<'_>, outcome: Outcome) -> String {
    let word =
        if matches!(outcome, Outcome::Unclear | Outcome::NoAnswer) { "any" } else { "every" };
    view.axis.as_ref().map(|axis| format!(" at {word} {}", axis.name())).unwrap_or_default()
}

/// ` at concurrency 60-120, 160`; nothing without an axis. The axis is named once.
fn place(view: &View<'_>, here: &[usize], is_first: bool) -> String {
    let Some(axis) = &view.axis else { return String::new() };
    let name = if is_first { format!("{} ", axis.name()) } else { String::new() };
    format!(" at {name}{}", stretches(axis, here))
}

/// From the lowest to the highest difference: `-4.0 to +12 %`.
fn signed_range<'a>(metric: &Metric, differences: impl Iterator<Item = &'a Difference>) -> String {
    let mut sorted: Vec<&Difference> = differences.collect();
    sorted.sort_by(|a, b| a.mean.total_cmp(&b.mean));
    joined(metric, &sorted)
}

/// From the smallest to the largest difference: `-18 to -32 %`.
fn range<'a>(metric: &Metric, differences: impl Iterator<Item = &'a Difference>) -> String {
    let mut sorted: Vec<&Difference> = differences.collect();
    sorted.sort_by(|a, b| {
        let size = |d: &Difference| d.relative.unwrap_or(d.mean).abs();
        size(a).total_cmp(&size(b))
    });
    joined(metric, &sorted)
}

/// The first and the last of differences, the unit once.
fn joined(metric: &Metric, sorted: &[&Difference]) -> String {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return String::new() };
    let (from, to) = (first.text(metric), last.text(metric));
    if from == to {
        return from;
    }
    let unit = format!(" {}", metric.difference_unit());
    format!("{} to {to}", from.strip_suffix(&unit).filter(|_| to.ends_with(&unit)).unwrap_or(&from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};
    use proptest::prelude::*;
    use serde_json::json;

    /// Two policies whose TTFT p95 differs by `differences` at 60, 80, ...
    fn two(differences: &[&[f64]]) -> results::Summary {
        let mut builder = Builder::new("two", differences[0].len() as u64);
        for (load, per_seed) in (60u32..).step_by(20).zip(differences) {
            let base: Vec<Option<f64>> =
                (0..per_seed.len()).map(|i| Some(100.0 + i as f64)).collect();
            let with: Vec<Option<f64>> =
                base.iter().zip(*per_seed).map(|(b, d)| b.map(|b| b + d)).collect();
            builder.load("round_robin", load, &[("ttft_ms_p95", &base)]);
            builder.load("kv", load, &[("ttft_ms_p95", &with)]);
        }
        builder.build()
    }

    fn said(summary: &results::Summary) -> String {
        answer(&View::new(summary, None).unwrap(), &Terms::default()).join("\n")
    }

    #[test]
    fn wins_losses_and_ties_are_told_apart() {
        let lower: &[f64] = &[-20.0, -21.0, -20.0];
        let higher: &[f64] = &[50.0, 51.0, 52.0];
        let unclear: &[f64] = &[-10.0, 10.0, 1.0];
        insta::assert_snapshot!(
            [
                said(&two(&[lower, lower, unclear, higher])),
                said(&two(&[lower, higher, lower])),
                said(&two(&[lower, lower])),
                said(&two(&[unclear, unclear])),
                said(&two(&[higher])),
                said(&two(&[&[0.0, 0.0], &[5.0, 5.0]])),
                said(&two(&[&[-5.0], &[0.0]])),
                said(&example::doks()),
            ]
            .join("\n"),
            @r"
            kv against round_robin: wins on TTFT p95 at concurrency 60-80 (-20 %), loses at 120 (+50 %), no clear difference at 100.
            kv against round_robin: wins on TTFT p95 at concurrency 60, 100 (-20 %), loses at 80 (+50 %).
            kv against round_robin: wins on TTFT p95 at every concurrency (-20 %).
            kv against round_robin: no clear difference in TTFT p95 at any concurrency.
            kv against round_robin: loses on TTFT p95 (+50 %).
            kv against round_robin: loses on TTFT p95 at concurrency 80 (+5.0 %), no clear difference at 60.
            kv against round_robin: TTFT p95 -5.0 to 0.0 % at every concurrency [one seed: not tested against chance].
            kv against round_robin: wins on TTFT p95 at concurrency 60-120 (-25 to -29 %), loses at 160-180 (+6.0 to +382 %), no clear difference at 140; wins on throughput at concurrency 60-100, 160-180 (+6.2 to +20 %), no clear difference at 120-140.
            "
        );
    }

    #[test]
    fn pairing_by_seed_finds_what_the_means_hide() {
        // The seeds scatter by 100, the policies differ by 1 in each.
        let mut builder = Builder::new("paired", 3);
        let base = [Some(100.0), Some(200.0), Some(300.0)];
        let with = [Some(99.0), Some(199.1), Some(299.0)];
        builder.load("round_robin", 60, &[("ttft_ms_p95", &base)]);
        builder.load("kv", 60, &[("ttft_ms_p95", &with)]);
        let summary = builder.build();
        let terms = Terms { worth: 0.1, ..Terms::default() };
        let view = View::new(&summary, None).unwrap();
        assert_eq!(answer(&view, &terms), ["kv against round_robin: wins on TTFT p95 (-0.5 %)."]);
        // Beyond chance, and nothing to change a router for.
        assert_eq!(
            said(&summary),
            "kv against round_robin: hardly differs in TTFT p95 (by less than 1 %)."
        );
    }

    /// Metrics of a point that waits so long, by the median.
    fn waiting(ttft: f64, share: f64) -> Vec<(&'static str, Vec<Option<f64>>)> {
        let seeds = |value: f64| vec![Some(value), Some(1.01 * value), Some(1.02 * value)];
        vec![
            ("ttft_ms_p95", seeds(ttft)),
            ("queue_ms_p50", seeds(200.0 * share)),
            ("engine_ttft_ms_p50", seeds(200.0)),
        ]
    }

    fn add(
        builder: &mut Builder,
        params: &[(&str, serde_json::Value)],
        metrics: &[(&'static str, Vec<Option<f64>>)],
    ) {
        let metrics: Vec<(&str, &[Option<f64>])> =
            metrics.iter().map(|(name, values)| (*name, values.as_slice())).collect();
        builder.point(params, &metrics);
    }

    #[test]
    fn two_overloaded_policies_are_no_ground_for_an_answer() {
        let mut builder = Builder::new("overload", 3);
        for (load, share) in [(60, 0.1), (120, 0.9)] {
            for (policy, ttft) in [("round_robin", 100.0), ("kv", 80.0)] {
                let params = [(POLICY, json!(policy)), ("workload.concurrency", json!(load))];
                add(&mut builder, &params, &waiting(ttft, share));
            }
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        assert_eq!(
            said(&summary),
            "kv against round_robin: wins on TTFT p95 at concurrency 60 (-20 %), no answer at 120 \
             (both are overloaded)."
        );
        let first = &cautions(&view, &Terms::default())[0];
        assert!(first.starts_with("Overloaded: round_robin, kv at concurrency 120: "), "{first}");
    }

    #[test]
    fn a_variant_is_held_against_its_fair_partners() {
        let mut terms = Terms::default();
        let mut builder = Builder::new("memory", 3);
        let variants = [
            ("rr", "round_robin", None),
            ("rr, host", "round_robin", Some("host")),
            ("kv", "kv", None),
            ("kv, host", "kv", Some("host")),
            ("kv, disk", "kv", Some("disk")),
        ];
        for (i, (name, policy, tier)) in variants.into_iter().enumerate() {
            let mut set = BTreeMap::from([(POLICY.to_owned(), json!(policy))]);
            set.extend(tier.map(|tier| ("engine.tier".to_owned(), json!([tier]))));
            terms.variants.insert(name.to_owned(), set);
            let params = [(VARIANT, json!(name)), (POLICY, json!(policy))];
            add(&mut builder, &params, &waiting(100.0 - 10.0 * i as f64, 0.1));
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        let names: Vec<String> =
            pairings(&view, &terms).iter().map(|(c, b)| pair_name(&view, &terms, *c, *b)).collect();
        assert_eq!(
            names,
            [
                "rr, host against rr",       // same router, other memory
                "kv against rr",             // same memory, other router
                "kv, host against rr, host", // the same with host memory
                "kv, host against kv",
                "kv, disk against kv", // no round robin has a disk
            ]
        );
    }

    #[test]
    fn what_happened_to_the_fleet_is_in_the_answer() {
        let mut builder = Builder::new("planner", 1);
        builder.point(
            &[(POLICY, json!("least_loaded"))],
            &[
                ("ttft_ms_p95", &[Some(80.0)]),
                ("workers_added", &[Some(20.0)]),
                ("workers_removed", &[Some(20.0)]),
                ("migrations", &[Some(0.0)]),
            ],
        );
        assert_eq!(
            said(&builder.build()),
            "least_loaded: 20 workers added by the planner, 20 removed."
        );
    }

    #[test]
    fn targets_are_answered() {
        let mut builder = Builder::new("slo", 1);
        for (load, attained) in [(60, 0.99), (120, 0.96), (180, 0.7)] {
            let goodput = attained * f64::from(load) / 10.0;
            builder.load(
                "kv",
                load,
                &[("slo_attainment", &[Some(attained)]), ("goodput_per_s", &[Some(goodput)])],
            );
        }
        let summary = builder.build();
        let limit = crate::time::SimDuration::from_millis(600);
        let terms = Terms { targets: vec![("ttft".to_owned(), limit)], ..Terms::default() };
        assert_eq!(
            answer(&View::new(&summary, None).unwrap(), &terms),
            ["SLO (TTFT <= 600 ms, for 95 % of requests): met by kv at concurrency 60-120; most \
              goodput: kv at concurrency 180, 12.6 requests/s."]
        );
    }

    #[test]
    fn missing_values_are_said_to_be_unknown() {
        let mut builder = Builder::new("gaps", 2);
        for load in [60, 80, 100] {
            builder.load("round_robin", load, &[("ttft_ms_p95", &[Some(100.0), Some(101.0)])]);
        }
        builder.load("kv", 60, &[("ttft_ms_p95", &[Some(50.0), Some(51.0)])]);
        builder.load("kv", 80, &[("ttft_ms_p95", &[None, None])]);
        assert_eq!(
            said(&builder.build()),
            "kv against round_robin: wins on TTFT p95 at concurrency 60 (-50 %), \
             not known at 80-100."
        );
    }

    #[test]
    fn one_policy_has_nothing_to_be_compared_with() {
        let mut builder = Builder::new("alone", 1);
        builder.load("kv", 60, &[("ttft_ms_p95", &[Some(50.0)])]);
        assert_eq!(said(&builder.build()), "");
        assert_eq!(said(&Builder::new("empty", 1).build()), "");
    }

    proptest! {
        #[test]
        fn a_sentence_never_depends_on_the_order_of_points(
            (summary, order) in example::any_summary().prop_flat_map(|summary| {
                let indices: Vec<usize> = (0..summary.points.len()).collect();
                (Just(summary), Just(indices).prop_shuffle())
            })
        ) {
            // The baseline is the first policy unless round_robin is there, so name one so.
            let mut summary = summary;
            for point in &mut summary.points {
                if point.params["router.policy"] == "policy_0" {
                    point.params.insert("router.policy".to_owned(), "round_robin".into());
                }
            }
            let has_baseline =
                summary.points.iter().any(|p| p.params["router.policy"] == "round_robin");
            prop_assume!(has_baseline);
            let repeats = (0..summary.points.len()).any(|i| {
                summary.points[..i].iter().any(|p| p.params == summary.points[i].params)
            });
            prop_assume!(!repeats);
            let mut shuffled = summary.clone();
            shuffled.points = order.iter().map(|i| summary.points[*i].clone()).collect();
            let sorted = |summary: &results::Summary| {
                let mut lines = answer(&View::new(summary, None).unwrap(), &Terms::default());
                lines.sort();
                lines
            };
            prop_assert_eq!(sorted(&summary), sorted(&shuffled));
        }

        #[test]
        fn swapping_the_sides_swaps_the_sign(
            pairs in prop::collection::vec((0.1..1e3f64, 0.1..1e3f64), 1..8)
        ) {
            let metric = Metric::of("ttft_ms_p95");
            let side = |f: fn(&(f64, f64)) -> f64| {
                example::metric(&pairs.iter().map(|p| Some(f(p))).collect::<Vec<_>>())
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
