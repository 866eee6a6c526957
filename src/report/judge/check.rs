//! The judgement of a routing check: what got worse beyond its tolerance and
//! beyond noise.

use super::baseline::Baseline;
use super::change::{Change, ChangedResults, Direction, show};
use super::state::State;
use crate::experiment::results::{Point, Summary};
use crate::report::view::same;
use std::cmp::Ordering;

/// The chance that a check of results that have not changed fails, at most: one
/// run in a thousand, over all metrics and points of the run together.
pub const FALSE_ALARMS: f64 = 0.001;

/// What is said of one metric at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Worse beyond tolerance and noise: the check fails.
    Worse,
    /// Better beyond tolerance and noise.
    Better,
    /// Neither.
    Unchanged,
}

/// One metric at one point of one experiment.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Name of the experiment.
    pub experiment: String,
    /// Where, in words.
    pub point: String,
    /// The numbers.
    pub change: Change,
    /// The change for the worse that is tolerated: percent or percentage points.
    pub tolerance: f64,
    /// The judgement.
    pub verdict: Judgement,
}

/// What a baseline has and the results do not.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Name of the experiment.
    pub experiment: String,
    /// Where, in words.
    pub point: String,
    /// The metric; `None` if the whole point is missing.
    pub metric: Option<String>,
}

/// A point that stands otherwise than in the baseline.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Name of the experiment.
    pub experiment: String,
    /// The point, as it is now.
    pub point: Point,
    /// How it stood.
    pub before: State,
}

/// What is worth knowing and no failure.
#[derive(Clone, Debug)]
pub enum Remark {
    /// The results have a point that the baseline has not.
    New {
        /// Name of the experiment.
        experiment: String,
        /// Where, in words.
        point: String,
    },
    /// The experiment has other settings than the baseline.
    Settings {
        /// Name of the experiment.
        experiment: String,
    },
    /// A point stands better than in the baseline.
    Risen(Moved),
    /// A point stands worse than in the baseline, so little or in so few seeds that chance may
    /// have done it.
    AtBorder(Moved),
}

/// The judgement of a run; [`render::check`](crate::report::render::check) puts it into words.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Every metric that was checked, in order of experiments and points.
    pub findings: Vec<Finding>,
    /// What the baseline has and the results do not: the check fails.
    pub missing: Vec<Missing>,
    /// Points that stand worse than in the baseline: the check fails, since their numbers
    /// are no longer those of a fleet that keeps up.
    pub fallen: Vec<Moved>,
    /// In the order in which they were found.
    pub remarks: Vec<Remark>,
}

impl Check {
    /// Judges each result set against its baseline. What counts as noise depends
    /// on how many comparisons are made: on all pairs at once.
    pub fn new(pairs: &[(Baseline, Summary)]) -> Self {
        let mut check = Self::default();
        for (baseline, summary) in pairs {
            check.compare(baseline, summary);
        }
        let tests = check.findings.len().max(1) as f64;
        for finding in &mut check.findings {
            // One side of a two-sided chance, shared out evenly over all tests.
            let is_sure = finding.change.p_value.is_some_and(|p| p / 2.0 <= FALSE_ALARMS / tests);
            // Without a relative size the baseline is 0: anything else is beyond it.
            let size = finding.change.relative.map_or(f64::INFINITY, f64::abs);
            finding.verdict = match finding.change.direction() {
                Direction::Worse if is_sure && size > finding.tolerance => Judgement::Worse,
                Direction::Better if is_sure && size > finding.tolerance => Judgement::Better,
                _ => Judgement::Unchanged,
            };
        }
        check
    }

    fn compare(&mut self, baseline: &Baseline, summary: &Summary) {
        let experiment = || baseline.experiment.clone();
        let before = baseline.summary();
        let changes = ChangedResults::new(&before, summary, &[]);
        let changes = changes.expect("equal points are partners where no key is ignored");
        for (side, point) in &changes.unmatched {
            let (experiment, point) = (experiment(), point.clone());
            if *side == 0 {
                self.missing.push(Missing { experiment, point, metric: None });
            } else {
                self.remarks.push(Remark::New { experiment, point });
            }
        }
        let now = &summary.provenance;
        if now.config_hash != baseline.config_hash && now.seeds == baseline.seeds {
            self.remarks.push(Remark::Settings { experiment: experiment() });
        }
        self.compare_states(baseline, summary);
        let varying = changes.varying();
        for point in &before.points {
            for metric in
                point.metrics.keys().filter(|metric| baseline.tolerance.contains_key(*metric))
            {
                let is_here =
                    |change: &&Change| change.params == point.params && change.metric == *metric;
                let matched = changes.all.iter().any(|change| change.params == point.params);
                match changes.all.iter().find(is_here) {
                    Some(change) => self.findings.push(Finding {
                        experiment: experiment(),
                        point: change.place(&varying),
                        change: change.clone(),
                        tolerance: baseline.tolerance[metric],
                        verdict: Judgement::Unchanged,
                    }),
                    None if matched => {
                        self.missing.push(Missing {
                            experiment: experiment(),
                            point: show(point),
                            metric: Some(metric.clone()),
                        });
                    }
                    None => {}
                }
            }
        }
    }

    /// Whether points keep up as they did.
    fn compare_states(&mut self, baseline: &Baseline, summary: &Summary) {
        for (params, before) in baseline.states() {
            let is_same = |point: &&Point| {
                point.params.len() == params.len()
                    && params
                        .iter()
                        .all(|(key, value)| point.params.get(key).is_some_and(|v| same(v, value)))
            };
            let Some(point) = summary.points.iter().find(is_same) else { continue };
            let experiment = baseline.experiment.clone();
            let moved = Moved { experiment, point: point.clone(), before };
            match State::of(point).cmp(&before) {
                Ordering::Greater if State::surely(point) > before => self.fallen.push(moved),
                Ordering::Greater => self.remarks.push(Remark::AtBorder(moved)),
                Ordering::Less => self.remarks.push(Remark::Risen(moved)),
                Ordering::Equal => {}
            }
        }
    }

    /// True if anything is worse or missing.
    pub fn failed(&self) -> bool {
        !self.missing.is_empty()
            || !self.fallen.is_empty()
            || self.of(Judgement::Worse).next().is_some()
    }

    /// What was judged so.
    pub(in crate::report) fn of(&self, verdict: Judgement) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.verdict == verdict)
    }

    /// Of intervals that leave out 0 just when a change is beyond noise.
    pub fn confidence(&self) -> f64 {
        1.0 - 2.0 * FALSE_ALARMS / self.findings.len().max(1) as f64
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
