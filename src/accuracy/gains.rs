//! The page of gains: what a policy wins over another, predicted beside published.

use super::errors::Errors;
use super::markdown::{Table, shown, signed};
use super::record::Record;
use super::settings::GainSettings;
use crate::metrics::Metric;
use crate::report::judge::gains::{AIM_PERCENT, Arms, Gain, Gains, OnLadder};
use crate::report::judge::published::Comparison;
use std::fmt::Write;

/// The gains of one experiment.
#[derive(Clone, Debug)]
pub(super) struct PublishedGains {
    name: String,
    /// The axis, as `concurrency`; empty without one.
    axis: String,
    settings: GainSettings,
    gains: Gains,
}

impl PublishedGains {
    /// The publication, and its gains.
    pub(super) fn named(&self) -> (String, &[Gain]) {
        (self.name.clone(), &self.gains.rows)
    }

    /// `None` if `comparison` lacks one of the policies.
    pub(super) fn new(
        name: &str,
        comparison: &Comparison<'_>,
        settings: &GainSettings,
    ) -> Option<Self> {
        let arms = Arms { of: &settings.of, over: &settings.over };
        let gains = Gains::new(comparison, arms)?;
        let axis = comparison.view.axis.as_ref().map_or("", |axis| axis.name()).to_owned();
        Some(Self { name: name.to_owned(), axis, settings: settings.clone(), gains })
    }

    pub(super) fn enter(&self, record: &mut Record) {
        record.add(&format!("gain, {}", self.name), &counted(&self.gains.rows));
    }
}

/// The gains of all experiments that name two policies.
pub(super) struct GainPage<'a>(pub(super) Vec<&'a PublishedGains>);

impl GainPage<'_> {
    /// Markdown below `head`.
    pub(super) fn text(&self, head: &str) -> String {
        let mut text = format!("{head}\n\n");
        let mut say = |paragraph: &str| {
            let _ = writeln!(text, "{paragraph}\n");
        };
        say("## All publications");
        say(self.summary().markdown().trim_end());
        say("## Knees and crossings");
        say("Knee, and the levels between which the lead changes hands, published / predicted:");
        say(self.places().markdown().trim_end());
        say("## Load by load");
        for publication in &self.0 {
            say(&format!("### {}", publication.name));
            say(&publication.settings.note);
            say(publication.table().markdown().trim_end());
        }
        format!("{}\n", text.trim_end())
    }

    fn summary(&self) -> Table {
        let head = [
            "publication",
            "gain of",
            "over",
            "fitted",
            "cells",
            "error %",
            "bias %",
            "aim %",
            "within",
            "TTFT: leads right",
            "knees within a level",
        ];
        let mut table = Table::new(head.map(str::to_owned));
        for PublishedGains { name, settings, gains, .. } in &self.0 {
            let errors = counted(&gains.rows);
            let aim = AIM_PERCENT.max(settings.scatter * 100.0);
            let (wide, wrong) = gains.signs(settings.scatter);
            table.row(vec![
                name.clone(),
                settings.of.clone(),
                settings.over.clone(),
                settings.fitted.clone(),
                errors.count().to_string(),
                shown(errors.mean()),
                signed(errors.bias()),
                format!("{aim:.0}"),
                errors.mean().map_or("", |mean| if mean <= aim { "yes" } else { "no" }).to_owned(),
                format!("{} of {wide}", wide - wrong.len()),
                gains
                    .knees_are_near()
                    .map_or("", |near| if near { "yes" } else { "no" })
                    .to_owned(),
            ]);
        }
        table
    }

    fn places(&self) -> Table {
        let head = ["publication", "axis", "policy's knee", "baseline's knee", "crossings"];
        let mut table = Table::new(head.map(str::to_owned));
        for PublishedGains { name, axis, gains, .. } in self.0.iter().filter(|p| !p.axis.is_empty())
        {
            let [of, over] = gains.knees.map(place);
            let mut metrics: Vec<&str> = gains.rows.iter().map(|row| row.metric.as_str()).collect();
            metrics.dedup();
            let crossings = metrics.into_iter().filter_map(|metric| {
                let [published, predicted] = gains.crossings(metric);
                let some = !published.is_empty() || !predicted.is_empty();
                let label = Metric::of(metric).label;
                some.then(|| format!("{label} {} / {}", pairs(&published), pairs(&predicted)))
            });
            let crossings: Vec<String> = crossings.collect();
            let crossings =
                if crossings.is_empty() { "none".to_owned() } else { crossings.join("; ") };
            table.row(vec![name.clone(), axis.clone(), of, over, crossings]);
        }
        table
    }
}

impl PublishedGains {
    /// A row per metric and level.
    fn table(&self) -> Table {
        let axis = if self.axis.is_empty() { "load" } else { &self.axis };
        let head = ["metric", axis, "published", "predicted", "95 %", "error %", "counts"];
        let mut table = Table::new(head.map(str::to_owned));
        for row in &self.gains.rows {
            let level = if self.axis.is_empty() { String::new() } else { row.x.to_string() };
            table.row(vec![
                Metric::of(&row.metric).label,
                level,
                format!("{:.2}", row.published),
                format!("{:.2}", row.predicted),
                row.interval.map_or(String::new(), |[low, high]| format!("{low:.2} to {high:.2}")),
                signed(Some(row.error())),
                if row.is_counted { "yes" } else { "" }.to_owned(),
            ]);
        }
        table
    }
}

/// The errors of the rows that count.
fn counted(rows: &[Gain]) -> Errors {
    rows.iter().filter(|row| row.is_counted).map(Gain::error).collect()
}

fn place(place: OnLadder) -> String {
    let one = |level: Option<f64>| level.map_or("none".to_owned(), |level| level.to_string());
    format!("{} / {}", one(place.published), one(place.predicted))
}

fn pairs(pairs: &[[f64; 2]]) -> String {
    let shown: Vec<String> = pairs.iter().map(|[from, to]| format!("{from}-{to}")).collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::Builder;
    use crate::report::view::View;
    use crate::report::view::published::Published;
    use std::path::Path;

    /// `kv` halves times as published and as predicted, and its throughput is predicted
    /// a fifth short.
    fn gains() -> PublishedGains {
        let table = "workload.concurrency,router.policy,ttft_ms_mean,output_tokens_per_s
10,rr,100,50\n10,kv,50,50\n20,rr,300,100\n20,kv,150,200";
        let published = Published::parse(table, Path::new("t.csv"), &[]).unwrap();
        let mut builder = Builder::new("small", 1);
        for (load, policy, ttft, rate) in [
            (10, "rr", 80.0, 50.0),
            (10, "kv", 40.0, 50.0),
            (20, "rr", 200.0, 100.0),
            (20, "kv", 100.0, 160.0),
        ] {
            let [ttft, rate] = [[Some(ttft)], [Some(rate)]];
            builder.load(policy, load, &[("ttft_ms_mean", &ttft), ("output_tokens_per_s", &rate)]);
        }
        let summary = builder.build();
        let view = View::new(&summary, None).unwrap();
        let comparison = Comparison::new(&view, &published);
        let settings = |of: &str| GainSettings {
            of: of.to_owned(),
            over: "rr".to_owned(),
            scatter: 0.05,
            fitted: "nothing".to_owned(),
            note: "One run.".to_owned(),
        };
        assert!(PublishedGains::new("small", &comparison, &settings("absent")).is_none());
        PublishedGains::new("small", &comparison, &settings("kv")).unwrap()
    }

    #[test]
    fn the_page_says_every_gain_and_the_record_their_mean_error() {
        let (mut record, gains) = (Record::default(), gains());
        gains.enter(&mut record);
        let page = GainPage(vec![&gains]);
        // Below the knee a time without error, from it on a throughput a fifth short.
        assert_eq!(record.to_csv(), "error_of,count,mean_percent\n\"gain, small\",2,10.0\n");
        let text = page.text("# Gains");
        for row in [
            // Mean and bias of the two errors; every lead right.
            "| small       | kv      | rr   | nothing |     2 |    10.0 |  -10.0 |    15 |    yes |            2 of 2 | yes |",
            "| small       | concurrency |   20 / 20 |       20 / 20 |      none |",
            "| TTFT mean  |          10 |      2.00 |      2.00 |      |    +0.0 |    yes |",
            "| throughput |          20 |      2.00 |      1.60 |      |   -20.0 |    yes |",
        ] {
            let cells = |line: &str| line.replace(' ', "");
            assert!(text.lines().any(|line| cells(line) == cells(row)), "{row}\n{text}");
        }
        assert!(text.contains("### small\n\nOne run.\n\n|"));
    }
}
