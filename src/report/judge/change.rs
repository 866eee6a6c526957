//! What changed between two result sets: every metric of every point that both
//! have, with what chance would make of it.
//!
//! Where both sides ran the same seeds, values are paired seed by seed: both met
//! the same conversations, and the scatter that they share cancels. Otherwise
//! the two sides are independent samples.

use crate::experiment::results::{self, Point, Summary};
use crate::metrics::{Better, Metric, rank, short, signed};
use crate::report::view::{POLICY, plain, same};
use crate::settings::Invalid;
use crate::stats::Estimate;
use serde::Serialize;
use std::collections::BTreeMap;

/// The values of one metric at one point on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The parameters that both points have.
    pub params: BTreeMap<String, serde_json::Value>,
    /// Name of the metric.
    pub metric: String,
    /// Mean of the first side over its seeds.
    pub before: f64,
    /// Mean of the second side.
    pub after: f64,
    /// Second minus first: percent of the first, or percentage points for
    /// ratios; `null` where the first is 0.
    pub relative: Option<f64>,
    /// True if the seeds are paired.
    pub paired: bool,
    /// The chance of a difference of this size on either side if nothing had
    /// changed; `null` with a single seed.
    pub p_value: Option<f64>,
    #[serde(skip)]
    difference: Estimate,
}

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// For the better.
    Better,
    /// For the worse.
    Worse,
    /// Neither direction is better in itself.
    Other,
    /// Both sides are equal.
    None,
}

/// Everything that two result sets have in common.
#[derive(Clone, Debug)]
pub struct ChangedResults {
    /// By point in the order of the first side, then by metric.
    pub all: Vec<Change>,
    /// Points of either side without a partner, with their side (0 or 1).
    pub unmatched: Vec<(usize, String)>,
}

impl Change {
    /// Of a metric between two points; `None` if either has no value.
    pub fn new(
        metric: &str,
        params: &results::Point,
        (before, seeds_before): (&results::MetricValue, &[u64]),
        (after, seeds_after): (&results::MetricValue, &[u64]),
    ) -> Option<Self> {
        let of = |metric: &results::MetricValue, seeds: &[u64]| -> BTreeMap<u64, f64> {
            let values = seeds.iter().copied().zip(metric.per_seed.iter().copied());
            values.filter_map(|(seed, value)| Some((seed, value?))).collect()
        };
        let (a, b) = (of(before, seeds_before), of(after, seeds_after));
        let pairs: Vec<(f64, f64)> =
            a.iter().filter_map(|(seed, a)| Some((*a, *b.get(seed)?))).collect();
        // A pair or two among many seeds would throw most of them away.
        let paired = 2 * pairs.len() > a.len().max(b.len());
        let (a, b): (Vec<f64>, Vec<f64>) = if paired {
            pairs.iter().copied().unzip()
        } else {
            (a.into_values().collect(), b.into_values().collect())
        };
        let (first, second) = (Estimate::of(&a)?, Estimate::of(&b)?);
        let difference = if paired {
            Estimate::of(&a.iter().zip(&b).map(|(a, b)| b - a).collect::<Vec<_>>())?
        } else {
            second.minus(&first)
        };
        Some(Self {
            params: params.params.clone(),
            metric: metric.to_owned(),
            before: first.mean,
            after: second.mean,
            relative: Metric::of(metric).difference(second.mean, first.mean),
            paired,
            p_value: difference.p_value(),
            difference,
        })
    }

    /// Which way it goes, chance apart.
    pub fn direction(&self) -> Direction {
        let better = Metric::of(&self.metric).better;
        match (self.difference.mean, better) {
            (0.0, _) => Direction::None,
            (_, None) => Direction::Other,
            (mean, Some(better)) if (mean > 0.0) == (better == Better::Higher) => Direction::Better,
            _ => Direction::Worse,
        }
    }

    /// Bounds of the difference with this confidence, as [`relative`](Self::relative) is given.
    pub fn interval(&self, confidence: f64) -> Option<[f64; 2]> {
        let metric = Metric::of(&self.metric);
        let bounds = self.difference.interval(confidence)?;
        let relative = bounds.map(|bound| metric.difference(self.before + bound, self.before));
        let [low, high] = [relative[0]?, relative[1]?];
        let middle = self.relative.filter(|_| !metric.is_ratio());
        Some([middle.map_or(low, |middle| above_nothing(middle, low)), high])
    }

    /// The parameters on one line, without those that are the same everywhere.
    pub fn place(&self, varying: &[String]) -> String {
        let shown = self.params.iter().filter(|(key, _)| varying.contains(key));
        let parts: Vec<String> = shown
            .map(|(key, value)| match key.as_str() {
                POLICY => plain(value),
                key => format!("{} {}", key.rsplit('.').next().unwrap_or(key), plain(value)),
            })
            .collect();
        if parts.is_empty() { "all".to_owned() } else { parts.join(", ") }
    }

    /// Both means as people read them: `425 ms`.
    pub fn values(&self) -> [String; 2] {
        let metric = Metric::of(&self.metric);
        [self.before, self.after].map(|value| short(metric.shown(value)))
    }

    /// The difference with sign and unit; in the metric's own unit where there is no relative one.
    pub fn size(&self) -> String {
        let metric = Metric::of(&self.metric);
        match self.relative {
            Some(relative) => format!("{} {}", signed(relative), metric.difference_unit()),
            None => format!("{} {}", signed(metric.shown(self.difference.mean)), metric.unit)
                .trim_end()
                .to_owned(),
        }
    }

    /// Bounds of the difference in text: `-3.1 to +0.4`.
    pub fn bounds(&self, confidence: f64) -> String {
        let bounds = self.interval(confidence);
        bounds.map_or("-".to_owned(), |[low, high]| format!("{} to {}", signed(low), signed(high)))
    }
}

impl ChangedResults {
    /// Pairs the points of two result sets by their parameters: those that agree in all
    /// first, then those that agree in all but the `ignored` ones.
    ///
    /// # Errors
    /// If a point could be paired with any of several.
    pub fn new(before: &Summary, after: &Summary, ignored: &[String]) -> Result<Self, Invalid> {
        let mut all = Vec::new();
        let mut unmatched = Vec::new();
        let partners = partners(&before.points, &after.points, ignored)?;
        for (point, partner) in before.points.iter().zip(&partners) {
            let Some(place) = *partner else {
                unmatched.push((0, show(point)));
                continue;
            };
            let partner = &after.points[place];
            let mut shown = point.clone();
            shown.params.retain(|key, _| !ignored.contains(key));
            let mut names: Vec<&String> = point.metrics.keys().collect();
            names.sort_by_cached_key(|name| rank(name));
            all.extend(names.into_iter().filter_map(|name| {
                Change::new(
                    name,
                    &shown,
                    (&point.metrics[name], &before.provenance.seeds),
                    (partner.metrics.get(name)?, &after.provenance.seeds),
                )
            }));
        }
        let left = (0..after.points.len()).filter(|place| !partners.contains(&Some(*place)));
        unmatched.extend(left.map(|place| (1, show(&after.points[place]))));
        Ok(Self { all, unmatched })
    }

    /// Only these metrics.
    #[must_use]
    pub fn of_metrics(mut self, names: &[&str]) -> Self {
        self.all.retain(|change| names.contains(&change.metric.as_str()));
        self
    }

    /// The parameters that are not the same in all changes.
    pub fn varying(&self) -> Vec<String> {
        let Some(first) = self.all.first() else { return Vec::new() };
        let varies =
            |key: &&String| self.all.iter().any(|c| c.params.get(*key) != first.params.get(*key));
        first.params.keys().filter(varies).cloned().collect()
    }

    /// Sorts the surest changes to the front (those of one chance by size), and
    /// returns how many are significant: their chance is below `level` for all
    /// tests together (Holm's correction).
    pub fn significant_first(&mut self, level: f64) -> usize {
        let size = |change: &Change| change.relative.map_or(f64::INFINITY, f64::abs);
        let p = |change: &Change| change.p_value.unwrap_or(1.0);
        self.all.sort_by(|a, b| p(a).total_cmp(&p(b)).then_with(|| size(b).total_cmp(&size(a))));
        let tests = self.all.len();
        let passes = |(rank, change): &(usize, &Change)| p(change) <= level / (tests - rank) as f64;
        self.all.iter().enumerate().take_while(passes).count()
    }
}

/// For every point of the first side the place of its partner on the second.
fn partners(
    before: &[Point],
    after: &[Point],
    ignored: &[String],
) -> Result<Vec<Option<usize>>, Invalid> {
    let agree = |a: &Point, b: &Point, ignored: &[String]| {
        let keys = a.params.keys().chain(b.params.keys());
        keys.filter(|key| !ignored.contains(key)).all(|key| {
            matches!((a.params.get(key), b.params.get(key)), (Some(a), Some(b)) if same(a, b))
        })
    };
    let mut found = vec![None; before.len()];
    let mut free = vec![true; after.len()];
    for (point, partner) in before.iter().zip(&mut found) {
        *partner = (0..after.len()).find(|&at| free[at] && agree(point, &after[at], &[]));
        partner.iter().for_each(|&at| free[at] = false);
    }
    if ignored.is_empty() {
        return Ok(found);
    }
    let single: Vec<usize> = (0..before.len()).filter(|&at| found[at].is_none()).collect();
    let unclear = |point: &Point, others: &[&Point]| {
        let others: Vec<String> = others.iter().map(|other| format!("({})", show(other))).collect();
        let allowed = format!(
            "keys without which every point has one partner: ({}) may be compared with {}; leave \
             out all but one",
            show(point),
            others.join(" or ")
        );
        Invalid::new("ignore", ignored.join(" "), allowed)
    };
    let mut taken_by: Vec<Option<usize>> = vec![None; after.len()];
    for at in single {
        let like =
            (0..after.len()).filter(|&to| free[to] && agree(&before[at], &after[to], ignored));
        let like: Vec<usize> = like.collect();
        match like[..] {
            [] => {}
            [to] => {
                if let Some(other) = taken_by[to].replace(at) {
                    return Err(unclear(&after[to], &[&before[other], &before[at]]));
                }
                found[at] = Some(to);
            }
            _ => {
                let others: Vec<&Point> = like.iter().map(|&to| &after[to]).collect();
                return Err(unclear(&before[at], &others));
            }
        }
    }
    Ok(found)
}

/// The lower bound of a difference in percent, taken on a logarithmic scale: nothing
/// falls by 100 % or more. It is above 0 just when `low` is, and near it where both
/// are small.
fn above_nothing(middle: f64, low: f64) -> f64 {
    let (part, width) = (middle / 100.0, (middle - low) / 100.0);
    if part <= -1.0 {
        return -100.0;
    }
    let scale = if part == 0.0 { 1.0 } else { part.ln_1p() / part };
    100.0 * (part.ln_1p() - width * scale).exp_m1()
}

/// The parameters of a point on one line.
pub(in crate::report) fn show(point: &Point) -> String {
    let pairs: Vec<String> =
        point.params.iter().map(|(key, value)| format!("{key} = {}", plain(value))).collect();
    pairs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::results::MetricValue;
    use crate::report::example::{self, Builder};
    use proptest::prelude::*;

    #[test]
    fn the_same_results_have_not_changed() {
        let summary = example::doks();
        let mut changes = ChangedResults::new(&summary, &summary, &[]).unwrap();
        assert_eq!(changes.all.len(), 14 * 9);
        assert!(changes.unmatched.is_empty());
        assert_eq!(changes.significant_first(0.05), 0);
        assert!(changes.all.iter().all(|change| change.direction() == Direction::None));
    }

    #[test]
    fn points_without_a_partner_are_named() {
        let mut one = Builder::new("one", 2);
        one.load("kv", 60, &[("ttft_ms_p50", &[Some(1.0), Some(2.0)])]);
        one.load("kv", 80, &[("ttft_ms_p50", &[Some(1.0), Some(2.0)])]);
        let mut other = Builder::new("other", 2);
        other.load("round_robin", 60, &[("ttft_ms_p50", &[Some(2.0), Some(3.0)])]);
        let (one, other) = (one.build(), other.build());
        let changes = ChangedResults::new(&one, &other, &[]).unwrap();
        assert!(changes.all.is_empty());
        assert_eq!(changes.unmatched.len(), 3);
        let changes = ChangedResults::new(&one, &other, &["router.policy".to_owned()]).unwrap();
        assert_eq!(changes.all.len(), 1);
        assert_eq!(changes.all[0].relative, Some(1.0 / 1.5 * 100.0));
        assert_eq!(
            changes.unmatched,
            [(0, "router.policy = kv, workload.concurrency = 80".to_owned())]
        );
    }

    #[test]
    fn equal_points_are_partners_before_those_that_differ_in_an_ignored_key() {
        let of = |loads: &[u32]| {
            let mut built = Builder::new("loads", 2);
            for &load in loads {
                let seen = Some(f64::from(load));
                built.load("kv", load, &[("ttft_ms_p50", &[seen, seen])]);
            }
            built.build()
        };
        let ignored = ["workload.concurrency".to_owned()];
        let compared =
            |before: &[u32], after: &[u32]| ChangedResults::new(&of(before), &of(after), &ignored);
        let changes = compared(&[64, 512], &[512]).unwrap();
        assert_eq!((changes.all.len(), changes.all[0].before), (1, 512.0));
        let left = (0, "router.policy = kv, workload.concurrency = 64".to_owned());
        assert_eq!(changes.unmatched, [left]);
        assert_eq!(compared(&[64], &[128]).unwrap().all.len(), 1);
        // As good as each other: nothing says which.
        for (before, after) in [(&[64][..], &[128, 512][..]), (&[128, 512], &[64])] {
            let wrong = compared(before, after).unwrap_err().to_string();
            let named = "(router.policy = kv, workload.concurrency = 128) or (router.policy = kv, \
                         workload.concurrency = 512)";
            assert!(wrong.starts_with("ignore = workload.concurrency: "), "{wrong}");
            assert!(wrong.contains(named), "{wrong}");
        }
    }

    #[test]
    fn seeds_are_paired_by_number_wherever_they_stand() {
        let metric = |values: &[f64]| MetricValue::of(values.iter().map(|v| Some(*v)).collect());
        let point = Point { params: BTreeMap::new(), metrics: BTreeMap::new() };
        let (a, b) = (metric(&[10.0, 20.0, 30.0]), metric(&[31.0, 21.0, 11.0]));
        let change = |seeds: &[u64]| {
            Change::new("ttft_ms_p95", &point, (&a, &[1, 2, 3]), (&b, seeds)).unwrap()
        };
        let paired = change(&[3, 2, 1]);
        assert!(paired.paired);
        assert_eq!(paired.p_value, Some(0.0));
        let independent = change(&[7, 8, 9]);
        assert!(!independent.paired);
        assert!(independent.p_value.unwrap() > 0.5);
        assert_eq!(independent.before, paired.before);
    }

    proptest! {
        /// Nothing falls by all of it, and what is beyond chance stays so.
        #[test]
        fn lower_bounds_stay_above_minus_100_percent(
            middle in -99.9..900.0f64, width in 0.001..2000.0f64
        ) {
            let low = above_nothing(middle, middle - width);
            prop_assert!((-100.0..=middle).contains(&low), "{}", low);
            prop_assert!(low > -100.0 || width > 500.0);
            prop_assert_eq!(low > 0.0, middle - width > 0.0);
            let near = above_nothing(middle / 1e4, (middle - width) / 1e4);
            prop_assert!((near - (middle - width) / 1e4).abs() < 0.06, "{}", near);
        }

        /// Looking from the other side turns every change around.
        #[test]
        fn changes_turn_around(a in example::any_summary(), b in example::any_summary()) {
            let there = ChangedResults::new(&a, &a, &[]).unwrap();
            prop_assert!(there.all.iter().all(|c| c.direction() == Direction::None || !c.difference.mean.is_finite()));
            let (there, back) = (ChangedResults::new(&a, &b, &[]).unwrap(), ChangedResults::new(&b, &a, &[]).unwrap());
            for change in &there.all {
                let turned = back.all.iter().find(|other| {
                    other.metric == change.metric && other.params.len() == change.params.len()
                        && other.params.iter().all(|(k, v)| change.params.get(k).is_some_and(|w| same(v, w)))
                        && other.before.to_bits() == change.after.to_bits()
                        && other.after.to_bits() == change.before.to_bits()
                });
                if let Some(turned) = turned && change.difference.mean.is_finite() {
                    prop_assert_eq!(turned.difference.mean, -change.difference.mean);
                }
            }
        }
    }
}
