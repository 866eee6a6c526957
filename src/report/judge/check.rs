//! The judgement of a routing check: what got worse beyond its tolerance and
//! beyond noise.

use super::baseline::Baseline;
use super::change::{Change, ChangedResults, Direction, show};
use super::state::{State, in_table};
use crate::experiment::results::{Point, Summary};
use crate::metrics::Metric;
use crate::report::render::columns::{Column, markdown, table, wrap};
use crate::report::view::same;
use comfy_table::CellAlignment;
use std::fmt::Write;

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

/// The judgement of a run.
#[derive(Clone, Debug)]
pub struct Check {
    /// Every metric that was checked, in order of experiments and points.
    pub findings: Vec<Finding>,
    /// What the baseline has and the results do not, as `(experiment, what)`:
    /// the check fails.
    pub missing: Vec<(String, String)>,
    /// Points that stand worse than in the baseline, as `(experiment, what)`: the check
    /// fails, since their numbers are no longer those of a fleet that keeps up.
    pub fallen: Vec<(String, String)>,
    /// What is worth knowing and no failure.
    pub notes: Vec<String>,
}

impl Check {
    /// Judges each result set against its baseline. What counts as noise depends
    /// on how many comparisons are made: on all pairs at once.
    pub fn new(pairs: &[(Baseline, Summary)]) -> Self {
        let mut check = Self {
            findings: Vec::new(),
            missing: Vec::new(),
            fallen: Vec::new(),
            notes: Vec::new(),
        };
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
        let name = &baseline.experiment;
        let before = baseline.summary();
        let changes = ChangedResults::new(&before, summary, &[]);
        for (side, point) in &changes.unmatched {
            if *side == 0 {
                self.missing.push((name.clone(), format!("the point {point}")));
            } else {
                self.notes.push(format!("{name}: the point {point} is not in the baseline"));
            }
        }
        let now = &summary.provenance;
        if now.config_hash != baseline.config_hash && now.seeds == baseline.seeds {
            self.notes.push(format!("{name}: its settings are not those of the baseline"));
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
                        experiment: name.clone(),
                        point: change.place(&varying),
                        change: change.clone(),
                        tolerance: baseline.tolerance[metric],
                        verdict: Judgement::Unchanged,
                    }),
                    None if matched => {
                        let params = show(point);
                        self.missing.push((name.clone(), format!("{metric} at {params}")));
                    }
                    None => {}
                }
            }
        }
    }

    /// Whether points keep up as they did.
    fn compare_states(&mut self, baseline: &Baseline, summary: &Summary) {
        let name = &baseline.experiment;
        for (params, before) in baseline.states() {
            let is_same = |point: &&Point| {
                point.params.len() == params.len()
                    && params
                        .iter()
                        .all(|(key, value)| point.params.get(key).is_some_and(|v| same(v, value)))
            };
            let Some(point) = summary.points.iter().find(is_same) else { continue };
            let (now, place) = (State::of(point), show(point));
            if now > before {
                let what = format!("{place} is {}; the baseline has it {before}", in_table(point));
                self.fallen.push((name.clone(), what));
            } else if now < before {
                self.notes.push(format!(
                    "{name}: {place} is {now}; the baseline has it {before} (an update of the baseline takes that over)"
                ));
            }
        }
    }

    /// True if anything is worse or missing.
    pub fn failed(&self) -> bool {
        !self.missing.is_empty()
            || !self.fallen.is_empty()
            || self.of(Judgement::Worse).next().is_some()
    }

    fn of(&self, verdict: Judgement) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.verdict == verdict)
    }

    /// As text for a terminal `width` columns wide.
    pub fn text(&self, width: usize) -> String {
        let mut text = wrap(&self.head(), width);
        let columns = self.columns();
        if !columns.is_empty() {
            let _ = writeln!(text, "\n{}", table(&columns.iter().collect::<Vec<_>>()));
        }
        let rest: String = self.rest().iter().map(|line| wrap(line, width)).collect();
        text + "\n" + &rest
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("**{}**\n\n", self.head());
        let columns = self.columns();
        if !columns.is_empty() {
            let _ = writeln!(text, "{}\n", markdown(&columns));
        }
        for line in self.rest() {
            let _ = writeln!(text, "{line}\n");
        }
        text
    }

    /// As JUnit XML: a suite per experiment, a case per metric and point.
    pub fn junit(&self) -> String {
        let mut names: Vec<&str> = self.findings.iter().map(|f| f.experiment.as_str()).collect();
        let listed = self.missing.iter().chain(&self.fallen);
        names.extend(listed.map(|(name, _)| name.as_str()));
        names.sort_unstable();
        names.dedup();
        let mut text =
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"sim check\">\n"
                .to_owned();
        for name in names {
            let findings: Vec<&Finding> =
                self.findings.iter().filter(|f| f.experiment == name).collect();
            let of = |list: &'_ [(String, String)]| -> Vec<String> {
                let own = list.iter().filter(|(experiment, _)| experiment == name);
                own.map(|(_, what)| what.clone()).collect()
            };
            let (missing, fallen) = (of(&self.missing), of(&self.fallen));
            let worse = findings.iter().filter(|f| f.verdict == Judgement::Worse).count();
            let _ = writeln!(
                text,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\">",
                escaped(name),
                findings.len() + missing.len() + fallen.len(),
                worse + missing.len() + fallen.len()
            );
            let mut case = |what: &str, failure: Option<&str>| {
                let head = format!(
                    "    <testcase classname=\"{}\" name=\"{}\"",
                    escaped(name),
                    escaped(what)
                );
                let _ = match failure {
                    None => writeln!(text, "{head}/>"),
                    Some(why) => writeln!(
                        text,
                        "{head}>\n      <failure message=\"{}\"/>\n    </testcase>",
                        escaped(why)
                    ),
                };
            };
            for finding in findings {
                let what = format!("{} at {}", finding.change.metric, finding.point);
                let why = (finding.verdict == Judgement::Worse).then(|| finding.sentence());
                case(&what, why.as_deref());
            }
            for what in &missing {
                case(what, Some("in the baseline, but not in the results"));
            }
            for what in &fallen {
                case(what, Some("does not stand as well as in the baseline"));
            }
            text.push_str("  </testsuite>\n");
        }
        text + "</testsuites>\n"
    }

    fn head(&self) -> String {
        let count = |verdict| self.of(verdict).count();
        format!(
            "{}: {} worse, {} missing, {} better, {} unchanged.",
            if self.failed() { "Routing check failed" } else { "Routing check passed" },
            count(Judgement::Worse) + self.fallen.len(),
            self.missing.len(),
            count(Judgement::Better),
            count(Judgement::Unchanged),
        )
    }

    /// What is worse, then what is better.
    fn columns(&self) -> Vec<Column> {
        let shown: Vec<&Finding> =
            self.of(Judgement::Worse).chain(self.of(Judgement::Better)).collect();
        if shown.is_empty() {
            return Vec::new();
        }
        let column = |head: &str, cell: &dyn Fn(&Finding) -> String| {
            Column::new(vec![head.to_owned()], shown.iter().map(|f| cell(f)).collect())
        };
        let left = |mut column: Column| {
            column.alignment = CellAlignment::Left;
            column
        };
        let confidence = self.confidence();
        vec![
            left(column("", &|f| {
                if f.verdict == Judgement::Worse { "WORSE" } else { "better" }.to_owned()
            })),
            left(column("experiment", &|f| f.experiment.clone())),
            left(column("metric", &|f| Metric::of(&f.change.metric).with_unit())),
            left(column("point", &|f| f.point.clone())),
            column("baseline", &|f| f.change.values()[0].clone()),
            column("now", &|f| f.change.values()[1].clone()),
            column("change", &|f| f.change.size()),
            column("interval", &|f| f.change.bounds(confidence)),
            column("tolerance", &|f| f.tolerance.to_string()),
        ]
    }

    /// Of intervals that leave out 0 just when a change is beyond noise.
    fn confidence(&self) -> f64 {
        1.0 - 2.0 * FALSE_ALARMS / self.findings.len().max(1) as f64
    }

    fn rest(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|(experiment, what)| {
            format!("MISSING {experiment}: {what} is in the baseline, but not in the results.")
        });
        let fallen = self.fallen.iter().map(|(name, what)| format!("WORSE {name}: {what}."));
        let mut lines: Vec<String> =
            fallen.chain(missing).chain(self.notes.iter().cloned()).collect();
        lines.push(format!(
            "A change counts if it is beyond its tolerance and beyond noise. Results that have not \
             changed fail at most {} % of runs: {} comparisons at {:.2e} each (one-sided, Student's t).",
            FALSE_ALARMS * 100.0,
            self.findings.len(),
            FALSE_ALARMS / self.findings.len().max(1) as f64
        ));
        lines
    }
}

impl Finding {
    fn sentence(&self) -> String {
        let metric = Metric::of(&self.change.metric);
        let [before, now] = self.change.values();
        format!(
            "{} at {}: {before} became {now} ({}; tolerance {} {})",
            metric.with_unit(),
            self.point,
            self.change.size(),
            self.tolerance,
            metric.difference_unit()
        )
    }
}

/// Text as an XML attribute; what XML cannot hold becomes a space.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
