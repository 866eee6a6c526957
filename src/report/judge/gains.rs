//! What one policy wins over another: as published, and as predicted.

use super::published::Comparison;
use crate::metrics::{Better, Metric};
use crate::report::view::{Series, View};
use crate::stats::mean_ci95;

/// Times of a level more than so many times those of the lowest level make it the knee.
const KNEE: f64 = 2.0;

/// The error of a gain that is aimed for, percent, unless a publication scatters by more.
pub(crate) const AIM_PERCENT: f64 = 15.0;

/// Two policies of one publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arms<'a> {
    /// The one that wins or loses.
    pub of: &'a str,
    /// What it is compared with.
    pub over: &'a str,
}

/// What one metric wins at one level: the baseline's time over the policy's, or the
/// policy's rate over the baseline's. Above 1 the policy is ahead.
#[derive(Clone, Debug, PartialEq)]
pub struct Gain {
    /// Name of the metric.
    pub metric: String,
    /// The level: a value on the axis.
    pub x: f64,
    /// As published.
    pub published: f64,
    /// As predicted: the mean over seeds.
    pub predicted: f64,
    /// 95 % of that, by pairs of seeds.
    pub interval: Option<[f64; 2]>,
    /// Whether it counts: throughput from the baseline's knee on, times to the first token
    /// below it, unless a cell contradicts its own table.
    pub is_counted: bool,
}

impl Gain {
    /// Percent: predicted over published, minus 1.
    pub fn error(&self) -> f64 {
        (self.predicted / self.published - 1.0) * 100.0
    }
}

/// A level, or none on the ladder, as published and as predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OnLadder {
    /// As published.
    pub published: Option<f64>,
    /// As predicted.
    pub predicted: Option<f64>,
}

/// The gains of a publication.
#[derive(Clone, Debug, PartialEq)]
pub struct Gains {
    /// By metric in the order of the published columns, then by level.
    pub rows: Vec<Gain>,
    /// The first level with more than twice the time of the lowest one: of the policy and
    /// of its baseline.
    pub knees: [OnLadder; 2],
    /// The levels with a published time to the first token of the baseline.
    pub ladder: Vec<f64>,
    /// Whether all times that the knees rest on count.
    pub knees_count: bool,
}

/// Rates of work, which tell more from the knee on.
const RATES: [&str; 2] = ["output_tokens_per_s", "requests_per_s"];

impl Gains {
    /// The gains that `comparison` has cells for; `None` if it lacks one of the policies.
    pub fn new(comparison: &Comparison<'_>, arms: Arms<'_>) -> Option<Self> {
        let view = comparison.view;
        let place = |policy: &str| view.series.iter().position(|s| s.policy == policy);
        let (of, over) = (place(arms.of)?, place(arms.over)?);
        let metrics = &comparison.published.metrics;
        let knee_metric = ["ttft_ms_mean", "ttft_ms_p50"]
            .into_iter()
            .find(|name| metrics.iter().any(|metric| metric == name))
            .unwrap_or("ttft_ms_mean");
        let knees = [of, over].map(|series| OnLadder {
            published: knee(published(comparison, series, knee_metric)),
            predicted: knee(predicted(&view.series[series], knee_metric)),
        });
        let ladder: Vec<f64> = published(comparison, over, knee_metric).map(|(x, _)| x).collect();
        let knees_count = comparison
            .cells
            .iter()
            .filter(|cell| [of, over].contains(&cell.series) && cell.metric == knee_metric)
            .all(|cell| cell.uncounted.is_none());
        let has_ladder = view.xs().len() > 1;
        // Of a publication of one level the predicted ladder says on which side it is.
        let from = if ladder.len() > 1 { knees[1].published } else { knees[1].predicted };
        let times: Vec<&String> = ttft(metrics);
        let counts = |metric: &String, x: f64| {
            let is_past = from.is_some_and(|knee| x >= knee);
            let is_rate = RATES.contains(&metric.as_str());
            (is_rate && (is_past || !has_ladder))
                || (times.contains(&metric) && (!is_past || !has_ladder))
        };
        let mut rows = Vec::new();
        for metric in metrics {
            for &x in view.xs() {
                if let Some(mut gain) = gain(comparison, (of, over), x, metric) {
                    gain.is_counted &= counts(metric, x);
                    rows.push(gain);
                }
            }
        }
        Some(Self { rows, knees, ladder, knees_count })
    }

    /// Whether both knees are as published, or within one level on the published ladder; "no
    /// knee" counts as one level past its end. `None` without a ladder, and where times that
    /// they rest on do not count.
    pub fn knees_are_near(&self) -> Option<bool> {
        let ladder = &self.ladder;
        let place = |knee: Option<f64>| {
            knee.map_or(ladder.len(), |knee| ladder.iter().take_while(|x| **x < knee).count())
        };
        let is_near = |knee: &OnLadder| place(knee.published).abs_diff(place(knee.predicted)) <= 1;
        let is_judged = ladder.len() > 1 && self.knees_count;
        is_judged.then(|| self.knees.iter().all(is_near))
    }

    /// The rows of a metric.
    pub fn of<'a>(&'a self, metric: &'a str) -> impl Iterator<Item = &'a Gain> {
        self.rows.iter().filter(move |row| row.metric == metric)
    }

    /// The pairs of neighbouring levels between which a metric's lead changes hands, as
    /// published and as predicted.
    pub fn crossings(&self, metric: &str) -> [Vec<[f64; 2]>; 2] {
        let between = |value: fn(&Gain) -> f64| {
            let rows: Vec<(f64, bool)> =
                self.of(metric).map(|row| (row.x, value(row) >= 1.0)).collect();
            let changes = rows.windows(2).filter(|pair| pair[0].1 != pair[1].1);
            changes.map(|pair| [pair[0].0, pair[1].0]).collect()
        };
        [between(|row| row.published), between(|row| row.predicted)]
    }

    /// Rows whose published difference is more than `scatter`, and those of them in which
    /// the other policy is predicted to be ahead; of times to the first token.
    pub fn signs(&self, scatter: f64) -> (usize, Vec<&Gain>) {
        let is_wide = |row: &&Gain| {
            let time =
                ["ttft_ms_mean", "ttft_ms_p50", "ttft_ms_p95"].contains(&row.metric.as_str());
            time && (row.published - 1.0).abs() > scatter
        };
        let wide: Vec<&Gain> = self.rows.iter().filter(is_wide).collect();
        let is_wrong = |row: &&Gain| (row.published > 1.0) != (row.predicted > 1.0);
        (wide.len(), wide.into_iter().filter(is_wrong).collect())
    }
}

/// The times to the first token that count: mean and 90th percentile, or what else was
/// published.
fn ttft(metrics: &[String]) -> Vec<&String> {
    let all = || metrics.iter().filter(|metric| metric.starts_with("ttft_ms_"));
    let best: Vec<&String> =
        all().filter(|metric| ["ttft_ms_mean", "ttft_ms_p90"].contains(&metric.as_str())).collect();
    if best.is_empty() { all().collect() } else { best }
}

fn gain(
    comparison: &Comparison<'_>,
    (of, over): (usize, usize),
    x: f64,
    metric: &str,
) -> Option<Gain> {
    let kind = Metric::of(metric);
    // A ratio of ratios is no gain.
    let better = kind.better.filter(|_| kind.unit != "%")?;
    let ratio = |of: f64, over: f64| match better {
        Better::Lower => over / of,
        Better::Higher => of / over,
    };
    let [own, base] = [of, over].map(|series| comparison.cell(series, x, metric));
    let (own, base) = (own?, base?);
    let view: &View<'_> = comparison.view;
    let seeds = |series: usize| Some(&view.series[series].metric(x, metric)?.per_seed);
    let pairs = seeds(of)?.iter().zip(seeds(over)?);
    let by_seed: Vec<f64> = pairs.filter_map(|(of, over)| Some(ratio((*of)?, (*over)?))).collect();
    let (predicted, interval) = mean_ci95(&by_seed)?;
    let published = ratio(own.published, base.published);
    let is_counted = own.uncounted.is_none() && base.uncounted.is_none();
    let is_number = published.is_finite() && published > 0.0 && predicted.is_finite();
    is_number.then(|| Gain {
        metric: metric.to_owned(),
        x,
        published,
        predicted,
        interval,
        is_counted,
    })
}

fn published<'a>(
    comparison: &'a Comparison<'_>,
    series: usize,
    metric: &'a str,
) -> impl Iterator<Item = (f64, f64)> + 'a {
    let cells = comparison.cells.iter();
    cells.filter(move |c| c.series == series && c.metric == metric).map(|c| (c.x, c.published))
}

fn predicted<'a>(series: &'a Series<'_>, metric: &'a str) -> impl Iterator<Item = (f64, f64)> + 'a {
    let xs = series.points.iter().map(|(x, _)| *x);
    xs.filter_map(move |x| Some((x, series.metric(x, metric)?.mean?)))
}

/// The first level, of several in ascending order, with more than twice the value of the
/// lowest.
fn knee(mut levels: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let (_, lowest) = levels.next()?;
    levels.find(|(_, value)| *value > KNEE * lowest).map(|(x, _)| x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::Builder;
    use crate::report::view::published::Published;
    use std::path::Path;

    /// Two policies at three loads; `kv` keeps its times, round robin's grow.
    const TABLE: &str =
        "workload.concurrency,router.policy,ttft_ms_mean,ttft_ms_p99,output_tokens_per_s,hit_ratio
10,rr,100,900,50,0.1
10,kv,50,800,50,0.8
20,rr,180,900,90,0.1
20,kv,60,700,100,0.8
30,rr,900,900,100,0.1
30,kv,1000,800,260,0.8";

    fn gains(factor: f64) -> Gains {
        let published = Published::parse(TABLE, Path::new("t.csv"), &[]).unwrap();
        let mut builder = Builder::new("predicted", 2);
        for (load, rr, kv) in [(10, 100.0, 50.0), (20, 250.0, 60.0), (30, 900.0, 600.0)] {
            let of = |policy, ttft: f64, rate: f64, builder: &mut Builder| {
                let ttft = [Some(ttft), Some(ttft)];
                let rate = [Some(rate * 0.9), Some(rate * 1.1)];
                builder.load(
                    policy,
                    load,
                    &[
                        ("ttft_ms_mean", &ttft),
                        ("output_tokens_per_s", &rate),
                        ("hit_ratio", &ttft),
                    ],
                );
            };
            of("rr", rr, 100.0, &mut builder);
            of("kv", kv, 200.0 * factor, &mut builder);
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        let comparison = Comparison::new(&view, &published);
        Gains::new(&comparison, Arms { of: "kv", over: "rr" }).unwrap()
    }

    #[test]
    fn gains_are_ratios_in_the_direction_that_is_better() {
        let gains = gains(1.0);
        let row = |metric: &str, x: f64| {
            let row = gains.of(metric).find(|row| row.x == x);
            row.map(|row| (row.published, row.predicted, row.is_counted))
        };
        assert_eq!(row("ttft_ms_mean", 10.0), Some((2.0, 2.0, true)));
        assert_eq!(row("ttft_ms_mean", 20.0), Some((3.0, 250.0 / 60.0, true)));
        // From the knee on throughput counts, and times do not.
        assert_eq!(row("ttft_ms_mean", 30.0), Some((0.9, 1.5, false)));
        assert_eq!(row("output_tokens_per_s", 10.0), Some((1.0, 2.0, false)));
        assert_eq!(row("output_tokens_per_s", 30.0), Some((2.6, 2.0, true)));
        // Not simulated; and a ratio of ratios.
        assert_eq!(row("ttft_ms_p99", 10.0), None);
        assert_eq!(row("hit_ratio", 10.0), None);
        // Seeds are paired: both arms move together.
        let last = gains.of("output_tokens_per_s").last().unwrap();
        assert_eq!(last.interval, Some([2.0, 2.0]));
        assert!((last.error() - (2.0 / 2.6 - 1.0) * 100.0).abs() < 1e-9);
    }

    #[test]
    fn knees_signs_and_crossings() {
        let gains = gains(1.0);
        let [kv, rr] = gains.knees;
        assert_eq!((rr.published, rr.predicted), (Some(30.0), Some(20.0)));
        assert_eq!((kv.published, kv.predicted), (Some(30.0), Some(30.0)));
        // One level apart: 30 for 20.
        assert_eq!(gains.knees_are_near(), Some(true));
        let far = OnLadder { published: Some(10.0), predicted: None };
        let far = Gains { knees: [kv, far], ..gains.clone() };
        assert_eq!(far.knees_are_near(), Some(false));
        // A level that contradicts its table: nothing is said about knees.
        let vague = Gains { knees_count: false, ..far };
        assert_eq!(vague.knees_are_near(), None);
        let [published, predicted] = gains.crossings("ttft_ms_mean");
        assert_eq!((published, predicted), (vec![[20.0, 30.0]], vec![]));
        let (wide, wrong) = gains.signs(0.05);
        assert_eq!((wide, wrong.len(), wrong[0].x), (3, 1, 30.0));
        assert_eq!(gains.signs(0.2), (2, vec![]));
    }

    #[test]
    fn what_lacks_a_policy_has_no_gains() {
        let published = Published::parse(TABLE, Path::new("t.csv"), &[]).unwrap();
        let mut builder = Builder::new("predicted", 1);
        builder.load("kv", 10, &[("ttft_ms_mean", &[Some(1.0)])]);
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        let comparison = Comparison::new(&view, &published);
        assert_eq!(Gains::new(&comparison, Arms { of: "kv", over: "rr" }), None);
    }
}
