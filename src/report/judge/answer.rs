//! The answer in a sentence: where one policy beats another, by how much, and
//! where the seeds cannot tell them apart.
//!
//! Two policies meet the same conversations under the same seed, so they are
//! compared seed by seed: the scatter that both share cancels. A difference is
//! clear if the 95 % interval (Student's t) of the paired differences leaves out 0.

use crate::experiment::results;
use crate::metrics::{Better, Metric, short, signed};
use crate::report::view::{Series, View};
use crate::stats::mean_ci95;

/// The policy that others are held against, where it was run.
pub const BASELINE: &str = "round_robin";

/// What the answer speaks of, if the results have it.
const HEADLINES: [&str; 2] = ["ttft_ms_p95", "output_tokens_per_s"];

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

/// Places of candidate and baseline in [`View::series`]: every series of
/// another policy with the baseline's series that agrees in all else.
/// The baseline is [`BASELINE`], or the first policy where that was not run.
pub fn pairings(view: &View<'_>) -> Vec<(usize, usize)> {
    let named = view.series.iter().find(|s| s.policy == BASELINE);
    let Some(baseline) = named.or(view.series.first()).map(|s| s.policy.as_str()) else {
        return Vec::new();
    };
    let partner = |candidate: &Series<'_>| {
        view.series.iter().position(|s| s.policy == baseline && s.is_alike(candidate))
    };
    let candidates = view.series.iter().enumerate().filter(|(_, s)| s.policy != baseline);
    candidates.filter_map(|(i, candidate)| Some((i, partner(candidate)?))).collect()
}

/// One sentence per pair of [`pairings`], and what goes with the axis.
pub fn answer(view: &View<'_>) -> Vec<String> {
    let metrics = headlines(view);
    pairings(view)
        .into_iter()
        .filter_map(|(candidate, baseline)| {
            let clauses: Vec<String> = metrics
                .iter()
                .filter_map(|metric| clause(view, metric, candidate, baseline))
                .collect();
            if clauses.is_empty() {
                return None;
            }
            let series = &view.series;
            // What else the candidate's label says holds for the baseline too.
            let names = format!("{} against {}", series[candidate].label, series[baseline].policy);
            Some(format!("{names}: {}.", clauses.join("; ")))
        })
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

/// What the seeds say at one value of the axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Wins,
    Loses,
    Unclear,
    Unknown,
}

/// `wins on TTFT p95 at concurrency 60-120 (-18 to -32 %), loses at 180 (+329 %)`;
/// `None` if no value of the axis can be compared.
fn clause(view: &View<'_>, metric: &Metric, candidate: usize, baseline: usize) -> Option<String> {
    let found: Vec<Option<Difference>> =
        view.xs().iter().map(|x| at(view, metric, *x, candidate, baseline)).collect();
    let outcomes: Vec<Outcome> = found.iter().map(|d| outcome(metric, d.as_ref())).collect();
    if outcomes.iter().all(|outcome| *outcome == Outcome::Unknown) {
        return None;
    }
    let mut parts: Vec<String> = Vec::new();
    let verbs = [
        (Outcome::Wins, "wins on"),
        (Outcome::Loses, "loses on"),
        (Outcome::Unclear, "no clear difference in"),
        (Outcome::Unknown, "not known:"),
    ];
    for (wanted, verb) in verbs {
        let here: Vec<usize> = (0..outcomes.len()).filter(|i| outcomes[*i] == wanted).collect();
        if here.is_empty() {
            continue;
        }
        // The metric is named once, in the first part.
        let verb = match (parts.is_empty(), wanted) {
            (true, _) => format!("{verb} {}", metric.label),
            (false, Outcome::Unknown) => "not known".to_owned(),
            (false, _) => verb.rsplit_once(' ').map_or(verb, |(verb, _)| verb).to_owned(),
        };
        let is_decided = matches!(wanted, Outcome::Wins | Outcome::Loses);
        let place = if here.len() == outcomes.len() {
            everywhere(view, is_decided)
        } else {
            place(view, &here, parts.is_empty())
        };
        let size = if is_decided {
            let differences = here.iter().filter_map(|i| found[*i].as_ref());
            format!(" ({})", range(metric, differences))
        } else {
            String::new()
        };
        parts.push(format!("{verb}{place}{size}"));
    }
    let mut text = parts.join(", ");
    if found.iter().flatten().any(|difference| difference.clear.is_none()) {
        text.push_str(" [one seed: not tested against chance]");
    }
    Some(text)
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

fn outcome(metric: &Metric, difference: Option<&Difference>) -> Outcome {
    let Some(difference) = difference else { return Outcome::Unknown };
    let higher = difference.mean > 0.0;
    match metric.better {
        _ if difference.is_unclear() => Outcome::Unclear,
        None => Outcome::Unclear,
        Some(better) if higher == (better == Better::Higher) => Outcome::Wins,
        Some(_) => Outcome::Loses,
    }
}

/// ` at every concurrency`, or ` at any` of what was not decided; nothing without an axis.
fn everywhere(view: &View<'_>, is_decided: bool) -> String {
    let word = if is_decided { "every" } else { "any" };
    view.axis.as_ref().map(|axis| format!(" at {word} {}", axis.name())).unwrap_or_default()
}

/// ` at concurrency 60-120, 160`; nothing without an axis. The axis is named once.
fn place(view: &View<'_>, here: &[usize], is_first: bool) -> String {
    let Some(axis) = &view.axis else { return String::new() };
    let unit = if axis.is_duration { " ms" } else { "" };
    // Neighbours on the axis join to ranges.
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for i in here {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == *i => run.1 = *i,
            _ => runs.push((*i, *i)),
        }
    }
    let texts: Vec<String> = runs
        .iter()
        .map(|(from, to)| match (axis.values[*from], axis.values[*to]) {
            (from, to) if from == to => format!("{from}{unit}"),
            (from, to) => format!("{from}-{to}{unit}"),
        })
        .collect();
    let name = if is_first { format!("{} ", axis.name()) } else { String::new() };
    format!(" at {name}{}", texts.join(", "))
}

/// From the smallest to the largest difference: `-18 to -32 %`.
fn range<'a>(metric: &Metric, differences: impl Iterator<Item = &'a Difference>) -> String {
    let mut sorted: Vec<&Difference> = differences.collect();
    sorted.sort_by(|a, b| {
        let size = |d: &Difference| d.relative.unwrap_or(d.mean).abs();
        size(a).total_cmp(&size(b))
    });
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
        answer(&View::new(summary, None).unwrap()).join("\n")
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
            kv against round_robin: wins on TTFT p95 at concurrency 60 (-5.0 %), no clear difference at 80 [one seed: not tested against chance].
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
        assert_eq!(said(&builder.build()), "kv against round_robin: wins on TTFT p95 (-0.5 %).");
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
                let mut lines = answer(&View::new(summary, None).unwrap());
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
