//! Result sets as text for a terminal.
//!
//! Plain text without colour, the same on every terminal of the same width.

use super::answer::{answer, cautions, pair_name};
use super::columns::{Column, align, blocks, table, wrap};
use super::{by_pool, why};
use crate::experiment::results;
use crate::metrics::{MAIN, Metric, rounded, short, signed};
use crate::report::judge::answer::{at, pairings};
use crate::report::judge::published::{Cell, Comparison};
use crate::report::judge::state::{RULE, State, compare, in_table};
use crate::report::judge::terms::Terms;
use crate::report::view::{Axis, View};
use comfy_table::CellAlignment;
use std::fmt::Write;

/// Shown besides the main metrics where they were measured.
const IF_MEASURED: [&str; 2] = ["slo_attainment", "goodput_per_s"];

/// Shown where any point has more than none of it.
const IF_IT_HAPPENED: [&str; 13] = [
    "preemptions",
    "rejected",
    "error_ratio",
    "unserved_ratio",
    "failed",
    "retries",
    "migrations",
    "workers_added",
    "workers_removed",
    "cut_short",
    "given_up",
    "held_back",
    "held_back_ms_mean",
];

/// Width in columns that tables are made for unless another is given.
pub const WIDTH: usize = 120;

/// The whole report: what was run, what has to be known before the answer, the
/// answer, and the table that fits: against published numbers if any point has
/// them, else policies against each other. `width` is in columns; a table whose
/// narrowest form is wider is not cut.
pub fn report(
    view: &View<'_>,
    terms: &Terms,
    comparison: Option<&Comparison<'_>>,
    width: usize,
) -> String {
    let mut text = head(view.summary);
    let cautions = cautions(view, terms);
    for caution in &cautions {
        text.push_str(&wrap(caution, width));
    }
    if !cautions.is_empty() {
        text.push('\n');
    }
    for sentence in answer(view, terms) {
        text.push_str(&wrap(&sentence, width));
    }
    text.push('\n');
    match comparison {
        Some(comparison) if !comparison.is_empty() => text.push_str(&against(comparison, width)),
        Some(comparison) => {
            let file = comparison.published.file.display();
            let _ = writeln!(text, "No point of these results has a row in {file}.\n");
            text.push_str(&policies(view, terms, width));
        }
        None => text.push_str(&policies(view, terms, width)),
    }
    for more in [by_pool::table(view, width), why::table(view, width)] {
        if !more.is_empty() {
            let _ = write!(text, "\n{more}");
        }
    }
    text
}

/// What was run, in a line, and an empty line.
pub fn head(summary: &results::Summary) -> String {
    let provenance = &summary.provenance;
    format!(
        "{}: {}, {}; sim {}, digest {}\n\n",
        provenance.experiment,
        counted(summary.points.len(), "point"),
        counted(provenance.seeds.len(), "seed"),
        provenance.version,
        provenance.digest.get(..12).unwrap_or(&provenance.digest),
    )
}

/// Published numbers, simulated ones and errors, one block per group of
/// metrics; then the mean absolute errors, then why cells do not count.
pub fn against(comparison: &Comparison<'_>, width: usize) -> String {
    let view = comparison.view;
    let xs: Vec<f64> = view
        .xs()
        .iter()
        .copied()
        .filter(|x| comparison.cells.iter().any(|cell| cell.x == *x))
        .collect();
    let metrics = shown_metrics(comparison);
    let notes = Notes::of(comparison);
    let groups: Vec<Vec<Column>> = metrics
        .iter()
        .map(|metric| {
            (0..view.series.len())
                .filter(|s| comparison.cells.iter().any(|c| c.series == *s))
                .map(|series| published_column(comparison, metric, series, &xs, &notes))
                .collect()
        })
        .collect();
    let mut text = String::new();
    for block in blocks(&[axis_column(view, &xs)], groups, width) {
        let _ = writeln!(text, "{block}\n");
    }
    text.push_str("Mean absolute error against the published numbers (cells counted):\n");
    let errors = mean_error_columns(comparison);
    let _ = writeln!(text, "{}\n", table(&errors.iter().collect::<Vec<_>>()));
    for line in notes.lines() {
        text.push_str(&wrap(&line, width));
    }
    for line in &comparison.published.source {
        text.push_str(&wrap(line, width));
    }
    text
}

/// The main metrics with their 95 % intervals, and below each group of policies
/// how they differ.
pub fn policies(view: &View<'_>, terms: &Terms, width: usize) -> String {
    let (leading, metrics) = policy_columns(view, terms);
    let groups = metrics.into_iter().map(|column| vec![column]).collect();
    let mut text = String::new();
    for block in blocks(&leading, groups, width) {
        let _ = writeln!(text, "{block}\n");
    }
    for note in policy_notes(view, terms) {
        text.push_str(&wrap(&note, width));
    }
    text
}

/// The columns that say what a row is, and one per metric.
pub(super) fn policy_columns(view: &View<'_>, terms: &Terms) -> (Vec<Column>, Vec<Column>) {
    let found = view.metric_names();
    let happened = |name: &&&str| {
        let mean =
            |point: &results::Point| point.metrics.get(**name).and_then(|metric| metric.mean);
        view.summary.points.iter().filter_map(mean).any(|mean| mean > 0.0)
    };
    let mut metrics: Vec<Metric> = MAIN
        .iter()
        .filter(|name| found.contains(name))
        .chain(IF_MEASURED.iter().filter(|name| found.contains(name)))
        .chain(IF_IT_HAPPENED.iter().filter(happened))
        .map(|name| Metric::of(name))
        .collect();
    if metrics.is_empty() {
        metrics = found.into_iter().map(Metric::of).collect();
    }
    let rows = rows(view, terms);
    let mut leading = vec![Column::new(
        vec![view.axis.as_ref().map_or(String::new(), Axis::label)],
        rows.iter().map(Row::axis_cell).collect(),
    )];
    leading.push(Column::new(
        vec!["policy".to_owned()],
        rows.iter().map(|row| row.name(view, terms)).collect(),
    ));
    leading[1].alignment = CellAlignment::Left;
    if view.axis.is_none() {
        leading.remove(0);
    }
    let column = |metric: &Metric| {
        let cells = rows.iter().map(|row| row.cell(view, metric)).collect();
        let unit = format!("({})", metric.unit);
        let unit = if metric.unit.is_empty() { String::new() } else { unit };
        Column::new(vec![metric.label.clone(), unit], cells)
    };
    let mut columns: Vec<Column> = metrics.iter().map(column).collect();
    if view.summary.points.iter().any(|point| State::of(point) != State::Stable) {
        let cells = rows.iter().map(|row| row.state(view)).collect();
        let mut state = Column::new(vec!["state".to_owned()], cells);
        state.alignment = CellAlignment::Left;
        columns.insert(0, state);
    }
    (leading, columns)
}

/// What has to be said below that table.
pub(super) fn policy_notes(view: &View<'_>, terms: &Terms) -> Vec<String> {
    let mut notes = Vec::new();
    let seeds = view.summary.provenance.seeds.len();
    if seeds > 1 {
        notes
            .push("± half width of the 95 % interval of the mean over seeds (Student's t).".into());
    }
    if !shown_pairs(view, terms).is_empty() {
        notes.push(match seeds {
            1 => "One seed: differences are not tested against chance. pt: percentage points.".into(),
            _ => format!(
                "Differences are paired by seed; ~ marks those whose 95 % interval includes 0. Wins \
                 and losses are clear differences of {} % (or pt, percentage points) or more.",
                terms.worth
            ),
        });
    }
    if view.summary.points.iter().any(|point| State::of(point) != State::Stable) {
        notes.push(format!("States: {RULE}"));
    }
    notes
}

/// A line of the table of policies.
enum Row {
    /// A series at a value on the axis.
    Series { x: f64, series: usize, is_first: bool },
    /// How one series differs from another there.
    Pair { x: f64, candidate: usize, baseline: usize },
}

impl Row {
    fn axis_cell(&self) -> String {
        match self {
            Self::Series { x, is_first: true, .. } => x.to_string(),
            _ => String::new(),
        }
    }

    fn name(&self, view: &View<'_>, terms: &Terms) -> String {
        match self {
            Self::Series { series, .. } => view.series[*series].label.clone(),
            Self::Pair { candidate, baseline, .. } => {
                format!("  {}", pair_name(view, terms, *candidate, *baseline))
            }
        }
    }

    fn state(&self, view: &View<'_>) -> String {
        let point = |series: usize, x: f64| view.series[series].at(x);
        match self {
            Self::Series { x, series, .. } => point(*series, *x).map(in_table).unwrap_or_default(),
            Self::Pair { x, candidate, baseline } => {
                let points = point(*candidate, *x).zip(point(*baseline, *x));
                if points.is_none_or(|(a, b)| compare(a, b)) {
                    String::new()
                } else {
                    "no answer".to_owned()
                }
            }
        }
    }

    fn cell(&self, view: &View<'_>, metric: &Metric) -> String {
        match self {
            Self::Series { x, series, .. } => view.series[*series]
                .metric(*x, &metric.name)
                .map_or("-".to_owned(), |value| with_interval(metric, value)),
            Self::Pair { x, candidate, baseline } => at(view, metric, *x, *candidate, *baseline)
                .map_or("-".to_owned(), |difference| {
                    let mark = if difference.clear == Some(false) { "~ " } else { "" };
                    format!("{mark}{}", difference.text(metric))
                }),
        }
    }
}

/// The pairs that get a row: of many policies only the policies themselves do.
fn shown_pairs(view: &View<'_>, terms: &Terms) -> Vec<(usize, usize)> {
    const MOST: usize = 7;
    let pairs = pairings(view, terms);
    if pairs.len() > MOST { Vec::new() } else { pairs }
}

fn rows(view: &View<'_>, terms: &Terms) -> Vec<Row> {
    let pairs = shown_pairs(view, terms);
    let mut rows = Vec::new();
    for &x in view.xs() {
        let here: Vec<usize> =
            (0..view.series.len()).filter(|s| view.series[*s].at(x).is_some()).collect();
        rows.extend(here.iter().map(|&series| Row::Series {
            x,
            series,
            is_first: here.first() == Some(&series),
        }));
        let both = pairs.iter().filter(|(c, b)| here.contains(c) && here.contains(b));
        rows.extend(both.map(|&(candidate, baseline)| Row::Pair { x, candidate, baseline }));
    }
    rows
}

fn with_interval(metric: &Metric, value: &results::MetricValue) -> String {
    let Some(mean) = value.mean.map(|mean| metric.shown(mean)) else { return "-".to_owned() };
    let Some([low, high]) = value.ci95 else { return counted_or_short(metric, mean) };
    let half = metric.shown((high - low) / 2.0);
    let show = rounded(mean, half);
    format!("{} ±{}", show(mean), show(half))
}

/// What is counted is whole where it is: `20`, not `20.0`.
fn counted_or_short(metric: &Metric, mean: f64) -> String {
    let is_count = matches!(metric.unit, "" | "requests") && mean.fract() == 0.0;
    if is_count && mean.abs() < 1e9 { format!("{mean:.0}") } else { short(mean) }
}

/// Published metrics that a point of the results is there for, in the order of the CSV.
fn shown_metrics(comparison: &Comparison<'_>) -> Vec<Metric> {
    let has = |name: &&String| comparison.cells.iter().any(|cell| cell.metric == **name);
    comparison.published.metrics.iter().filter(has).map(|name| Metric::of(name)).collect()
}

/// `published  simulated  error` of one metric and series.
fn published_column(
    comparison: &Comparison<'_>,
    metric: &Metric,
    series: usize,
    xs: &[f64],
    notes: &Notes<'_>,
) -> Column {
    let cells: Vec<Option<&Cell>> =
        xs.iter().map(|x| comparison.cell(series, *x, &metric.name)).collect();
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |v| short(metric.shown(v)));
    let part = |head: &str, text: &dyn Fn(&Cell) -> String| -> Vec<String> {
        let texts = cells.iter().map(|cell| cell.map_or("-".to_owned(), text));
        align(std::iter::once(head.to_owned()).chain(texts).collect())
    };
    let published = part("publ.", &|cell| number(Some(cell.published)));
    let simulated = part("sim", &|cell| number(cell.simulated));
    let error_head = format!("error {}", metric.difference_unit());
    let error = part(&error_head, &|cell| cell.error().map_or("-".to_owned(), signed));
    let marks = part("", &|cell| notes.mark(cell.uncounted));
    let has_marks = marks.iter().any(|mark| !mark.trim().is_empty());
    let mut lines: Vec<String> = (0..=cells.len())
        .map(|i| {
            let line = format!("{}  {}  {}", published[i], simulated[i], error[i]);
            if has_marks { format!("{line} {}", marks[i]) } else { line }
        })
        .collect();
    let cells = lines.split_off(1);
    let mut head = vec![metric.with_unit(), comparison.view.series[series].label.clone()];
    head.append(&mut lines);
    Column::new(head, cells)
}

/// Mean absolute errors, a row per metric and a column per series.
pub(super) fn mean_error_columns(comparison: &Comparison<'_>) -> Vec<Column> {
    let metrics = shown_metrics(comparison);
    let mut first = Column::new(
        vec!["metric".to_owned()],
        metrics.iter().map(|metric| metric.label.clone()).collect(),
    );
    first.alignment = CellAlignment::Left;
    let mut columns = vec![first];
    for (i, series) in comparison.view.series.iter().enumerate() {
        if !comparison.cells.iter().any(|cell| cell.series == i) {
            continue;
        }
        let cells = metrics.iter().map(|metric| {
            comparison.mean_error(i, &metric.name).map_or("- (0)".to_owned(), |error| {
                let unit = metric.difference_unit();
                format!("{:.1} {unit:<2} ({})", error.mean_abs_error, error.cells)
            })
        });
        columns.push(Column::new(vec![series.label.clone()], cells.collect()));
    }
    columns
}

/// Every published number with the simulated one and the error, a row per value
/// on the axis and series.
pub(super) fn cell_columns(comparison: &Comparison<'_>) -> Vec<Column> {
    let view = comparison.view;
    let has = |x: f64, series: usize| {
        comparison.cells.iter().any(|cell| cell.x == x && cell.series == series)
    };
    let all = view.xs().iter().flat_map(|&x| (0..view.series.len()).map(move |s| (x, s)));
    let rows: Vec<(f64, usize)> = all.filter(|&(x, series)| has(x, series)).collect();
    let xs: Vec<f64> = rows.iter().map(|(x, _)| *x).collect();
    let names = rows.iter().map(|(_, series)| view.series[*series].label.clone());
    let mut columns =
        vec![axis_column(view, &xs), Column::new(vec!["policy".to_owned()], names.collect())];
    columns[1].alignment = CellAlignment::Left;
    if view.axis.is_none() {
        columns.remove(0);
    }
    let notes = Notes::of(comparison);
    columns.extend(shown_metrics(comparison).iter().map(|metric| {
        let text = |&(x, series): &(f64, usize)| {
            let Some(cell) = comparison.cell(series, x, &metric.name) else {
                return "-".to_owned();
            };
            let simulated = cell.simulated.map_or("-".to_owned(), |v| short(metric.shown(v)));
            let published = short(metric.shown(cell.published));
            let unit = metric.difference_unit();
            let error = cell.error().map(|error| format!(" ({} {unit})", signed(error)));
            let text = format!("{published} / {simulated}{}", error.unwrap_or_default());
            format!("{text} {}", notes.mark(cell.uncounted)).trim_end().to_owned()
        };
        Column::new(vec![metric.with_unit()], rows.iter().map(text).collect())
    }));
    columns
}

/// Why cells do not count, a line for each reason, and where the numbers come from.
pub(super) fn published_notes(comparison: &Comparison<'_>) -> Vec<String> {
    let notes = Notes::of(comparison);
    notes.lines().chain(comparison.published.source.iter().cloned()).collect()
}

/// Reasons why cells do not count, numbered in order of the settings.
struct Notes<'a> {
    /// Place in the settings and the reason.
    used: Vec<(usize, &'a str)>,
}

impl<'a> Notes<'a> {
    fn of(comparison: &Comparison<'a>) -> Self {
        let is_used = |i: usize| comparison.cells.iter().any(|cell| cell.uncounted == Some(i));
        let entries = comparison.published.uncounted.iter().enumerate();
        Self {
            used: entries
                .filter(|(i, _)| is_used(*i))
                .map(|(i, entry)| (i, entry.why.as_str()))
                .collect(),
        }
    }

    fn mark(&self, uncounted: Option<usize>) -> String {
        let place = uncounted.and_then(|i| self.used.iter().position(|(used, _)| *used == i));
        place.map(|place| format!("[{}]", place + 1)).unwrap_or_default()
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let reasons = self.used.iter().enumerate();
        reasons.map(|(i, (_, why))| format!("[{}] not counted: {why}", i + 1))
    }
}

fn axis_column(view: &View<'_>, xs: &[f64]) -> Column {
    match &view.axis {
        Some(axis) => Column::new(vec![axis.label()], xs.iter().map(f64::to_string).collect()),
        None => Column::new(vec![String::new()], vec![String::new(); xs.len()]),
    }
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};
    use proptest::prelude::*;
    use serde_json::json;

    fn widest(text: &str) -> usize {
        text.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn against_published_numbers() {
        let (summary, published) = (example::doks(), example::doks_published());
        let view = View::new(&summary, None).unwrap();
        let text =
            report(&view, &Terms::default(), Some(&Comparison::new(&view, &published)), WIDTH);
        assert!(widest(&text) <= WIDTH, "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn rejections_are_shown_where_there_are_any() {
        let mut builder = Builder::new("rejecting", 1);
        let with =
            |rejected| [("ttft_ms_p50", vec![Some(1.0)]), ("rejected", vec![Some(rejected)])];
        for (policy, rejected) in [("round_robin", 0.0), ("kv", 29.0)] {
            let metrics = with(rejected);
            let metrics: Vec<(&str, &[Option<f64>])> =
                metrics.iter().map(|(name, values)| (*name, values.as_slice())).collect();
            builder.point(&[("router.policy", json!(policy))], &metrics);
        }
        let summary = builder.build();
        let text = policies(&View::new(&summary, None).unwrap(), &Terms::default(), WIDTH);
        assert!(text.contains("rejected") && text.contains("29"), "{text}");
        assert!(!text.contains("preemptions"), "{text}");
    }

    #[test]
    fn policies_against_each_other() {
        let summary = example::doks();
        let view = View::new(&summary, None).unwrap();
        let text = policies(&view, &Terms::default(), WIDTH);
        assert!(widest(&text) <= WIDTH, "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn one_seed_and_no_axis() {
        let mut builder = Builder::new("single", 1);
        builder.load(
            "round_robin",
            60,
            &[("ttft_ms_p95", &[Some(100.0)]), ("hit_ratio", &[Some(0.5)])],
        );
        builder.load("kv", 60, &[("ttft_ms_p95", &[Some(80.0)]), ("hit_ratio", &[None])]);
        builder.load("least_loaded", 60, &[("ttft_ms_p95", &[Some(100.0)])]);
        let summary = builder.build();
        insta::assert_snapshot!(report(&View::new(&summary, None).unwrap(), &Terms::default(), None, WIDTH), @r"
        single: 3 points, 1 seed; sim 0.1.0, digest 0123456789ab

        kv against round_robin: TTFT p95 -20 % [one seed: not tested against chance].
        least_loaded against round_robin: TTFT p95 0.0 % [one seed: not tested against chance].

         policy                              TTFT p95  hit ratio
                                                 (ms)        (%)
        --------------------------------------------------------
         round_robin                              100       50.0
         kv                                      80.0          -
         least_loaded                             100          -
           kv against round_robin               -20 %          -
           least_loaded against round_robin     0.0 %          -

        One seed: differences are not tested against chance. pt: percentage points.
        ");
    }

    proptest! {
        #[test]
        fn no_result_set_makes_it_panic(summary in example::any_summary(), width in 0usize..200) {
            let published = example::doks_published();
            let view = View::new(&summary, None).unwrap();
            let comparison = Comparison::new(&view, &published);
            let text = report(&view, &Terms::default(), Some(&comparison), width);
            prop_assert!(text.starts_with("any <experiment>"));
            // Every series is named.
            for series in &view.series {
                prop_assert!(summary.points.is_empty() || view.metric_names().is_empty()
                    || !comparison.is_empty() || text.contains(&series.label), "{}", text);
            }
        }
    }
}
