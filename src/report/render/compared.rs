//! Two result sets side by side, as text, Markdown or JSON.

use super::columns::{Column, markdown, table, wrap};
use crate::experiment::results::Summary;
use crate::metrics::Metric;
use crate::report::judge::change::{Change, ChangedResults, Direction};
use crate::settings::Invalid;
use comfy_table::CellAlignment;
use serde::Serialize;
use std::fmt::Write;

/// The chance of at least one false claim among all.
const LEVEL: f64 = 0.05;

/// The confidence of the intervals that are shown, each by itself.
const CONFIDENCE: f64 = 0.95;

/// The changes between two result sets, the surest first.
#[derive(Clone, Debug)]
pub struct Compared {
    names: [String; 2],
    changes: ChangedResults,
    /// How many at the start are significant.
    significant: usize,
}

/// How it is written as JSON.
#[derive(Serialize)]
struct Json<'a> {
    before: &'a str,
    after: &'a str,
    level: f64,
    changes: Vec<JsonChange<'a>>,
    unmatched: Vec<JsonPoint<'a>>,
}

#[derive(Serialize)]
struct JsonChange<'a> {
    #[serde(flatten)]
    change: &'a Change,
    relative_ci95: Option<[f64; 2]>,
    direction: Direction,
    significant: bool,
}

#[derive(Serialize)]
struct JsonPoint<'a> {
    side: &'static str,
    point: &'a str,
}

impl Compared {
    /// Compares `after` with `before`, both with what they are called. Only
    /// `metrics`, unless that is empty; points need not agree in `ignored` keys.
    ///
    /// # Errors
    /// If `ignored` leaves several points that one could be compared with.
    pub fn new(
        (before, before_name): (&Summary, &str),
        (after, after_name): (&Summary, &str),
        metrics: &[&str],
        ignored: &[String],
    ) -> Result<Self, Invalid> {
        let mut changes = ChangedResults::new(before, after, ignored)?;
        if !metrics.is_empty() {
            changes = changes.of_metrics(metrics);
        }
        let significant = changes.significant_first(LEVEL);
        Ok(Self { names: [before_name.to_owned(), after_name.to_owned()], changes, significant })
    }

    /// True if no point of one side has a partner on the other.
    pub fn is_empty(&self) -> bool {
        self.changes.all.is_empty()
    }

    /// As text for a terminal `width` columns wide.
    pub fn text(&self, width: usize) -> String {
        let mut text = wrap(&self.head(), width);
        text.push('\n');
        let columns = self.columns();
        if !columns.is_empty() {
            let _ = writeln!(text, "{}\n", table(&columns.iter().collect::<Vec<_>>()));
        }
        for note in self.notes() {
            text.push_str(&wrap(&note, width));
        }
        text
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.head());
        let columns = self.columns();
        if !columns.is_empty() {
            let _ = writeln!(text, "{}\n", markdown(&columns));
        }
        for note in self.notes() {
            let _ = writeln!(text, "{note}\n");
        }
        text
    }

    /// As JSON, with every change.
    pub fn json(&self) -> String {
        let json = Json {
            before: &self.names[0],
            after: &self.names[1],
            level: LEVEL,
            changes: self
                .changes
                .all
                .iter()
                .enumerate()
                .map(|(place, change)| JsonChange {
                    change,
                    relative_ci95: change.interval(CONFIDENCE),
                    direction: change.direction(),
                    significant: place < self.significant,
                })
                .collect(),
            unmatched: self
                .changes
                .unmatched
                .iter()
                .map(|(side, point)| JsonPoint { side: ["before", "after"][*side], point })
                .collect(),
        };
        let mut text = serde_json::to_string_pretty(&json)
            .expect("plain data with text keys has no way to fail");
        text.push('\n');
        text
    }

    fn head(&self) -> String {
        let count = |wanted: Direction| {
            let significant = self.changes.all.iter().take(self.significant);
            significant.filter(|change| change.direction() == wanted).count()
        };
        format!(
            "{} against {}: {} values compared, {} significantly better, {} worse, {} otherwise \
             changed.",
            self.names[1],
            self.names[0],
            self.changes.all.len(),
            count(Direction::Better),
            count(Direction::Worse),
            count(Direction::Other),
        )
    }

    /// The changes, those that are none left out.
    fn columns(&self) -> Vec<Column> {
        let shown: Vec<(usize, &Change)> = self
            .changes
            .all
            .iter()
            .enumerate()
            .filter(|(_, change)| change.direction() != Direction::None)
            .collect();
        if shown.is_empty() {
            return Vec::new();
        }
        let varying = self.changes.varying();
        let column = |head: &str, cell: &dyn Fn(usize, &Change) -> String| {
            let cells = shown.iter().map(|(place, change)| cell(*place, change));
            Column::new(vec![head.to_owned()], cells.collect())
        };
        let left = |mut column: Column| {
            column.alignment = CellAlignment::Left;
            column
        };
        vec![
            left(column("", &|place, change| self.verdict(place, change).to_owned())),
            left(column("metric", &|_, change| Metric::of(&change.metric).with_unit())),
            left(column("point", &|_, change| change.place(&varying))),
            column(&self.names[0], &|_, change| change.values()[0].clone()),
            column(&self.names[1], &|_, change| change.values()[1].clone()),
            column("change", &|_, change| change.size()),
            column("95 %", &|_, change| change.bounds(CONFIDENCE)),
        ]
    }

    fn verdict(&self, place: usize, change: &Change) -> &'static str {
        match change.direction() {
            _ if place >= self.significant => "~",
            Direction::Better => "better",
            Direction::Worse => "worse",
            Direction::Other => "changed",
            Direction::None => "",
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let equal = self.changes.all.iter().filter(|c| c.direction() == Direction::None).count();
        if equal > 0 {
            notes.push(format!("{equal} values are the same on both sides."));
        }
        let independent = self.changes.all.iter().filter(|change| !change.paired).count();
        let how = match independent {
            0 => "Differences are paired by seed",
            n if n == self.changes.all.len() => {
                "The seeds differ: both sides count as independent samples"
            }
            _ => "Differences are paired by seed where both sides have the seeds",
        };
        if !self.is_empty() {
            notes.push(format!(
                "{how}; the intervals hold for each difference by itself (Student's t). ~ marks what \
                 chance may have done: significant are those that survive Holm's correction for all \
                 {} comparisons at 5 % together.",
                self.changes.all.len()
            ));
        }
        for (side, point) in &self.changes.unmatched {
            notes.push(format!("Only in {}: {point}.", self.names[*side]));
        }
        notes
    }
}
