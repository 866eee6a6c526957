//! Published numbers to hold a simulation against.
//!
//! A CSV has one row per published point. Columns with a dot in their name are
//! parameters (`workload.concurrency`, `router.policy`), and so is `variant`, a name in the
//! experiment's sweep; the others are metrics in the simulator's names and units. Lines that start with `#` say where the
//! numbers come from. An empty cell was not published.

use super::{POLICY, VARIANT, number, plain, same};
use crate::catalogue;
use crate::experiment::{Experiment, ExperimentError};
use crate::metrics::{CATALOGUE, check_name};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Section `[published]` of an experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishedSettings {
    /// The CSV, relative to the experiment's file.
    pub file: PathBuf,
    /// Cells to show but not to count in mean errors.
    #[serde(default)]
    pub uncounted: Vec<Uncounted>,
}

/// Cells that are no targets, because they contradict the rest of their own table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Uncounted {
    /// The rows meant: dotted keys with a value or a list of values. Every row if left out.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// The columns meant.
    #[schemars(schema_with = "metric_names")]
    pub metrics: Vec<String>,
    /// What is wrong with them; printed below the table.
    pub why: String,
    /// True if single cells are not to be trusted but their mean is: then the
    /// mean over them counts as one cell per policy.
    #[serde(default)]
    pub mean_counts: bool,
}

impl Uncounted {
    fn covers_row(&self, row: &Row) -> bool {
        self.params.iter().all(|(key, wanted)| {
            row.params.get(key).is_some_and(|value| match wanted {
                Value::Array(any) => any.iter().any(|one| same(one, value)),
                one => same(one, value),
            })
        })
    }
}

/// One published point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// By dotted key.
    pub params: BTreeMap<String, Value>,
    /// By metric name; what was not published is absent.
    pub metrics: BTreeMap<String, f64>,
}

/// A published table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Name of the CSV, for messages.
    pub file: PathBuf,
    /// The comment lines of the CSV: where the numbers come from.
    pub source: Vec<String>,
    /// Metric columns in the order of the file.
    pub metrics: Vec<String>,
    /// The rows in the order of the file.
    pub rows: Vec<Row>,
    /// Cells that are shown but not counted.
    pub uncounted: Vec<Uncounted>,
}

/// Why a published table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// The section does not have its shape.
    #[error(transparent)]
    Section(#[from] ExperimentError),
    /// The file cannot be read.
    #[error("{}: {source}; `published.file` is relative to the experiment's file", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no CSV with equally long rows.
    #[error("{}:{line}: {message}", file.display())]
    Csv {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong.
        message: String,
    },
    /// A column that is neither a parameter nor a metric, or that is missing.
    #[error("{}:{line}: {message}", file.display())]
    Column {
        /// The file.
        file: PathBuf,
        /// Line of the header, from 1.
        line: u64,
        /// What is wrong and what would do.
        message: String,
    },
    /// A cell that is no number.
    #[error("{}:{line}: {column} = {value:?}: must be a finite number of at least 0, or empty if it was not published", file.display())]
    Number {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Name of the column.
        column: String,
        /// The value seen.
        value: String,
    },
    /// Two rows with the same parameters.
    #[error("{}:{line}: a row with {params} came before; keep one of them", file.display())]
    Repeated {
        /// The file.
        file: PathBuf,
        /// Line of the second one, from 1.
        line: u64,
        /// The parameters.
        params: String,
    },
    /// An entry of `uncounted` that covers no cell, most likely misspelt.
    #[error("published.uncounted[{index}]: {what} in {}; rows have {keys}, columns are {metrics}", file.display())]
    CoversNothing {
        /// The file.
        file: PathBuf,
        /// Place in the list, from 0.
        index: usize,
        /// What was looked for.
        what: String,
        /// Parameter columns of the file.
        keys: String,
        /// Metric columns of the file.
        metrics: String,
    },
}

impl Published {
    /// Reads the table that the section `[published]` of an experiment names;
    /// `None` if there is no such section.
    ///
    /// # Errors
    /// See [`PublishedError`].
    pub fn of(experiment: &Experiment) -> Result<Option<Self>, PublishedError> {
        let Some(settings) = experiment.published::<PublishedSettings>()? else { return Ok(None) };
        let file = catalogue::join(experiment.folder_of("published.file"), &settings.file);
        let text = catalogue::read_text(&file)
            .map_err(|source| PublishedError::Io { file: file.clone(), source })?;
        Self::parse(&text, &file, &settings.uncounted).map(Some)
    }

    /// Reads the table from text; `file` is used in messages.
    ///
    /// # Errors
    /// See [`PublishedError`].
    pub fn parse(text: &str, file: &Path, uncounted: &[Uncounted]) -> Result<Self, PublishedError> {
        let mut reader = csv::ReaderBuilder::new()
            .comment(Some(b'#'))
            .trim(csv::Trim::All)
            .from_reader(text.as_bytes());
        let columns = reader.headers().map_err(|e| not_csv(file, &e))?.clone();
        let header_line = columns.position().map_or(1, csv::Position::line);
        check_columns(&columns, file, header_line)?;
        let mut rows: Vec<Row> = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|e| not_csv(file, &e))?;
            let line = record.position().map_or(0, csv::Position::line);
            let row = row(&columns, &record, file, line)?;
            if rows.iter().any(|earlier| same_params(&earlier.params, &row.params)) {
                let params = show_params(&row.params);
                return Err(PublishedError::Repeated { file: file.into(), line, params });
            }
            rows.push(row);
        }
        let metrics = columns.iter().filter(|c| !is_param(c)).map(str::to_owned).collect();
        let source = text
            .lines()
            .map_while(|line| line.strip_prefix('#'))
            .map(|line| line.trim().to_owned())
            .collect();
        let table =
            Self { file: file.into(), source, metrics, rows, uncounted: uncounted.to_vec() };
        table.check_uncounted(&columns)?;
        Ok(table)
    }

    /// The row with these parameters: every parameter of the row has to be
    /// there with the same value, others may be there besides.
    pub fn row(&self, params: &BTreeMap<String, Value>) -> Option<&Row> {
        self.rows.iter().find(|row| {
            row.params.iter().all(|(key, v)| params.get(key).is_some_and(|seen| same(seen, v)))
        })
    }

    /// Place in [`uncounted`](Self::uncounted) of the entry that covers a cell.
    pub fn uncounted(&self, row: &Row, metric: &str) -> Option<usize> {
        self.uncounted
            .iter()
            .position(|entry| entry.metrics.iter().any(|m| m == metric) && entry.covers_row(row))
    }

    fn check_uncounted(&self, columns: &csv::StringRecord) -> Result<(), PublishedError> {
        for (index, entry) in self.uncounted.iter().enumerate() {
            let no_column = entry.metrics.iter().find(|metric| !self.metrics.contains(metric));
            let what = if let Some(metric) = no_column {
                format!("no column {metric}")
            } else if entry.metrics.is_empty() {
                "`metrics` is empty, so it covers no cell".to_owned()
            } else if !self.rows.iter().any(|row| entry.covers_row(row)) {
                format!("no row with {}", show_params(&entry.params))
            } else {
                continue;
            };
            let keys: Vec<&str> = columns.iter().filter(|c| is_param(c)).collect();
            return Err(PublishedError::CoversNothing {
                file: self.file.clone(),
                index,
                what,
                keys: keys.join(", "),
                metrics: self.metrics.join(", "),
            });
        }
        Ok(())
    }
}

/// Names of the catalogue, which editors complete.
fn metric_names(_: &mut SchemaGenerator) -> Schema {
    let names: Vec<String> = CATALOGUE.iter().flat_map(|kind| kind.names()).collect();
    json_schema!({ "type": "array", "items": { "type": "string", "enum": names } })
}

fn is_param(column: &str) -> bool {
    column.contains('.') || column == VARIANT
}

fn same_params(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> bool {
    a.len() == b.len() && a.iter().all(|(key, v)| b.get(key).is_some_and(|w| same(v, w)))
}

fn show_params(params: &BTreeMap<String, Value>) -> String {
    let parts: Vec<String> = params.iter().map(|(k, v)| format!("{k} = {}", plain(v))).collect();
    parts.join(", ")
}

fn not_csv(file: &Path, error: &csv::Error) -> PublishedError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells, but the header names {expected_len} columns")
        }
        _ => error.to_string(),
    };
    PublishedError::Csv { file: file.into(), line, message }
}

fn check_columns(
    columns: &csv::StringRecord,
    file: &Path,
    line: u64,
) -> Result<(), PublishedError> {
    let fail = |message| Err(PublishedError::Column { file: file.into(), line, message });
    if !columns.iter().any(|column| [POLICY, VARIANT].contains(&column)) {
        let told_apart = "published rows are told apart by policy or variant";
        return fail(format!("no column {POLICY}; {told_apart}"));
    }
    for (i, column) in columns.iter().enumerate() {
        if columns.iter().take(i).any(|earlier| earlier == column) {
            return fail(format!("column {column} occurs twice"));
        }
        if !is_param(column)
            && let Err(invalid) = check_name("column", column)
        {
            return fail(format!("{invalid}, or a parameter's dotted key"));
        }
    }
    Ok(())
}

fn row(
    columns: &csv::StringRecord,
    record: &csv::StringRecord,
    file: &Path,
    line: u64,
) -> Result<Row, PublishedError> {
    let mut row = Row { params: BTreeMap::new(), metrics: BTreeMap::new() };
    for (column, text) in columns.iter().zip(record) {
        if is_param(column) {
            row.params.insert(column.to_owned(), param(text));
        } else if !text.is_empty() {
            let value = text.parse::<f64>().ok().filter(|v| v.is_finite() && *v >= 0.0);
            let value = value.ok_or_else(|| PublishedError::Number {
                file: file.into(),
                line,
                column: column.to_owned(),
                value: text.to_owned(),
            })?;
            row.metrics.insert(column.to_owned(), value);
        }
    }
    Ok(row)
}

/// Numbers and truth values as such, everything else as text.
fn param(text: &str) -> Value {
    serde_json::from_str::<Value>(text)
        .ok()
        .filter(|value| value.is_boolean() || number(value).is_some() && value.is_number())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::LoadOptions;
    use crate::report::example;
    use serde_json::json;

    fn parse(text: &str) -> Result<Published, PublishedError> {
        Published::parse(text, Path::new("table.csv"), &[])
    }

    fn message(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_doks_table_reads_with_its_units() {
        let table = example::doks_published();
        assert_eq!(table.rows.len(), 14);
        assert_eq!(table.source.len(), 2);
        let params = [(POLICY, json!("kv")), ("workload.concurrency", json!(180.0))];
        let params = params.map(|(key, value)| (key.to_owned(), value)).into();
        let row = table.row(&params).unwrap();
        assert_eq!(row.metrics["ttft_ms_p95"], 3143.0);
        assert_eq!(row.metrics["hit_ratio"], 0.94);
        assert_eq!(row.metrics["e2e_ms_p50"], 41_400.0);
    }

    #[test]
    fn the_doks_table_keeps_its_own_books() {
        // Tokens/s x ITL = conversations in flight, within 4 % in every counted row:
        // the accounting that the uncounted cells contradict.
        let table = example::doks_published();
        for row in &table.rows {
            let inflight = row.metrics["output_tokens_per_s"] * row.metrics["itl_ms_p50"] / 1e3;
            let load = row.params["workload.concurrency"].as_f64().unwrap();
            if table.uncounted(row, "itl_ms_p50").is_none() {
                assert!((inflight / load - 1.0).abs() < 0.045, "{inflight} {load}");
            }
        }
    }

    #[test]
    fn uncounted_cells_are_those_of_the_experiment() {
        let table = example::doks_published();
        let covered: usize = table
            .rows
            .iter()
            .flat_map(|row| table.metrics.iter().map(move |metric| (row, metric)))
            .filter(|(row, metric)| table.uncounted(row, metric).is_some())
            .count();
        // Eight single cells and the seven hit rates of round robin.
        assert_eq!(covered, 15);
    }

    #[test]
    fn mistakes_name_line_column_and_value() {
        insta::assert_snapshot!(
            [
                message("# s\nrouter.policy,ttft_ms_p50\nkv,fast\n"),
                message("router.policy,ttft_ms_p50\nkv,-1\n"),
                message("router.policy,ttft_ms_p50\nkv,1\nrr,2,3\n"),
                message("router.policy,tftt_ms_p50\nkv,1\n"),
                message("workload.concurrency,ttft_ms_p50\n60,1\n"),
                message("router.policy,ttft_ms_p50,ttft_ms_p50\nkv,1,1\n"),
                message("router.policy,a.b,ttft_ms_p50\nkv,60,1\nkv,60.0,2\n"),
                message(""),
            ]
            .join("\n"),
            @r#"
            table.csv:3: ttft_ms_p50 = "fast": must be a finite number of at least 0, or empty if it was not published
            table.csv:2: ttft_ms_p50 = "-1": must be a finite number of at least 0, or empty if it was not published
            table.csv:3: 3 cells, but the header names 2 columns
            table.csv:1: column = tftt_ms_p50: must be the name of a metric; the nearest one is `ttft_ms_p50`, or a parameter's dotted key
            table.csv:1: no column router.policy; published rows are told apart by policy or variant
            table.csv:1: column ttft_ms_p50 occurs twice
            table.csv:3: a row with a.b = 60.0, router.policy = kv came before; keep one of them
            table.csv:1: no column router.policy; published rows are told apart by policy or variant
            "#
        );
    }

    #[test]
    fn an_uncounted_entry_that_covers_nothing_is_refused() {
        let entry = |params: &[(&str, Value)], metrics: &[&str]| Uncounted {
            params: params.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
            metrics: metrics.iter().map(|m| (*m).to_owned()).collect(),
            why: "test".to_owned(),
            mean_counts: false,
        };
        let text = "router.policy,ttft_ms_p50\nkv,1\n";
        let fail = |entry| {
            Published::parse(text, Path::new("table.csv"), &[entry]).unwrap_err().to_string()
        };
        insta::assert_snapshot!(
            [
                fail(entry(&[(POLICY, json!("kvv"))], &["ttft_ms_p50"])),
                fail(entry(&[], &["ttft_ms_p95"])),
                fail(entry(&[], &[])),
            ]
            .join("\n"),
            @r"
            published.uncounted[0]: no row with router.policy = kvv in table.csv; rows have router.policy, columns are ttft_ms_p50
            published.uncounted[0]: no column ttft_ms_p95 in table.csv; rows have router.policy, columns are ttft_ms_p50
            published.uncounted[0]: `metrics` is empty, so it covers no cell in table.csv; rows have router.policy, columns are ttft_ms_p50
            "
        );
    }

    #[test]
    fn a_missing_file_says_what_it_is_relative_to() {
        let text = include_str!("../../../experiments/doks-3xh200.toml")
            .replace("published/doks-3xh200.csv", "none.csv")
            .replace("../models/", concat!(env!("CARGO_MANIFEST_DIR"), "/models/"));
        let file = Path::new("/nowhere/doks.toml");
        let experiment = Experiment::parse(file, &text, &LoadOptions::default()).unwrap();
        let error = Published::of(&experiment).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/none.csv: "), "{error}");
        assert!(error.ends_with("relative to the experiment's file"), "{error}");
    }
}
