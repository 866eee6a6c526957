//! A routing check in words: for a terminal, as Markdown, as JUnit XML.

use super::columns::{Column, markdown, table, wrap};
use crate::metrics::Metric;
use crate::report::judge::change::show;
use crate::report::judge::check::{
    Check, FALSE_ALARMS, Finding, Judgement, Missing, Moved, Remark,
};
use crate::report::judge::state::{State, in_table};
use comfy_table::CellAlignment;
use std::fmt::Write;

impl Check {
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
        names.extend(self.missing.iter().map(|missing| missing.experiment.as_str()));
        names.extend(self.fallen.iter().map(|moved| moved.experiment.as_str()));
        names.sort_unstable();
        names.dedup();
        let mut text =
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"sim check\">\n"
                .to_owned();
        for name in names {
            let findings: Vec<&Finding> =
                self.findings.iter().filter(|f| f.experiment == name).collect();
            let missing = self.missing.iter().filter(|missing| missing.experiment == name);
            let missing: Vec<String> = missing.map(Missing::what).collect();
            let fallen = self.fallen.iter().filter(|moved| moved.experiment == name);
            let fallen: Vec<String> = fallen.map(Moved::what).collect();
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

    fn rest(&self) -> Vec<String> {
        let missing = self.missing.iter().map(|missing| {
            let (experiment, what) = (&missing.experiment, missing.what());
            format!("MISSING {experiment}: {what} is in the baseline, but not in the results.")
        });
        let fallen = self.fallen.iter();
        let fallen = fallen.map(|moved| format!("WORSE {}: {}.", moved.experiment, moved.what()));
        let remarks = self.remarks.iter().map(Remark::sentence);
        let mut lines: Vec<String> = fallen.chain(missing).chain(remarks).collect();
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

impl Missing {
    fn what(&self) -> String {
        match &self.metric {
            None => format!("the point {}", self.point),
            Some(metric) => format!("{metric} at {}", self.point),
        }
    }
}

impl Moved {
    /// Of a point that stands worse.
    fn what(&self) -> String {
        let (point, now) = (show(&self.point), in_table(&self.point));
        format!("{point} is {now}; the baseline has it {}", self.before)
    }
}

impl Remark {
    fn sentence(&self) -> String {
        match self {
            Self::New { experiment, point } => {
                format!("{experiment}: the point {point} is not in the baseline")
            }
            Self::Settings { experiment } => {
                format!("{experiment}: its settings are not those of the baseline")
            }
            Self::Risen(Moved { experiment, point, before }) => format!(
                "{experiment}: {} is {}; the baseline has it {before} (an update of the baseline takes that over)",
                show(point),
                State::of(point),
            ),
            Self::AtBorder(Moved { experiment, point, before }) => format!(
                "{experiment}: {} is {}; the baseline has it {before} (only just, or in too few \
                 seeds: it may be chance)",
                show(point),
                State::of(point),
            ),
        }
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
