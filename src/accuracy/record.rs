//! Errors by name, kept in a file so that a later version can be held to them.

use super::AccuracyError;
use super::errors::Errors;
use crate::catalogue;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How many percentage points an error may grow before a check fails: above
/// what a change of random draws moves, below what a user would notice.
pub const MARGIN_POINTS: f64 = 0.5;

/// Mean absolute errors, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record(Vec<Entry>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    error_of: String,
    count: usize,
    mean_percent: f64,
}

/// The mean error of one metric of one series against what was published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PublishedMean<'a> {
    /// The experiment's name.
    pub experiment: &'a str,
    /// The series: a policy, with what tells it from others.
    pub series: &'a str,
    /// The metric's label, as `TTFT p95`.
    pub metric: &'a str,
    /// Published cells that count.
    pub count: usize,
    /// Mean absolute error: percent, or percentage points of ratios.
    pub mean_percent: f64,
}

impl Record {
    /// Adds the mean absolute error of `errors`, if there are any.
    pub(super) fn add(&mut self, name: &str, errors: &Errors) {
        if let Some(mean) = errors.mean() {
            // Two decimals: enough for the margin, the same on every platform.
            let mean_percent = (mean * 100.0).round() / 100.0;
            self.0.push(Entry { error_of: name.to_owned(), count: errors.count(), mean_percent });
        }
    }

    /// As the text of a CSV.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for entry in &self.0 {
            writer.serialize(entry).expect("rows of text and numbers");
        }
        String::from_utf8(writer.into_inner().expect("writing to memory")).expect("UTF-8")
    }

    /// Reads what [`to_csv`](Self::to_csv) wrote.
    ///
    /// # Errors
    /// If the file cannot be read, or is something else.
    pub fn read(path: &Path) -> Result<Self, AccuracyError> {
        let text = catalogue::read_text(path)
            .map_err(|source| AccuracyError::Io { path: path.to_path_buf(), source })?;
        let entries: Result<Vec<Entry>, csv::Error> =
            csv::Reader::from_reader(text.as_bytes()).deserialize().collect();
        entries.map(Self).map_err(|error| AccuracyError::Row {
            path: path.to_path_buf(),
            line: error.position().map_or(1, csv::Position::line),
            problem: error.to_string(),
        })
    }

    /// Mean error in percent of the time per output token over the serving runs of a
    /// deployment, of any version of its engine, and the number of those runs.
    pub fn of_runs(&self, deployment: &str) -> Option<(f64, usize)> {
        let of = |entry: &&Entry| {
            let rest = entry.error_of.strip_prefix("run, ").and_then(|e| e.strip_suffix(", TPOT"));
            let rest = rest.and_then(|rest| rest.strip_prefix(deployment));
            rest.is_some_and(|version| version.is_empty() || version.starts_with(' '))
        };
        let found: Vec<&Entry> = self.0.iter().filter(of).collect();
        let runs: usize = found.iter().map(|entry| entry.count).sum();
        let sum: f64 = found.iter().map(|entry| entry.mean_percent * entry.count as f64).sum();
        (runs > 0).then(|| (sum / runs as f64, runs))
    }

    /// Every mean error against published results of a deployment, in order.
    pub fn published(&self) -> impl Iterator<Item = PublishedMean<'_>> {
        self.0.iter().filter_map(|entry| {
            let (experiment, rest) =
                entry.error_of.strip_prefix("published, ")?.split_once(", ")?;
            // The name of a series may have commas, that of a metric has none.
            let (series, metric) = rest.rsplit_once(", ")?;
            let &Entry { count, mean_percent, .. } = entry;
            Some(PublishedMean { experiment, series, metric, count, mean_percent })
        })
    }

    /// Mean error in percent of the time per output token over all serving runs, and their
    /// number.
    pub fn of_all_runs(&self) -> Option<(f64, usize)> {
        let all = self.0.iter().find(|entry| entry.error_of == "run, all runs, TPOT");
        all.map(|entry| (entry.mean_percent, entry.count))
    }

    /// What is worse than `before` by more than [`MARGIN_POINTS`], or missing.
    pub fn worse_than(&self, before: &Self) -> Vec<String> {
        let mut worse = Vec::new();
        for old in &before.0 {
            match self.0.iter().find(|new| new.error_of == old.error_of) {
                None => worse.push(format!("{}: no longer compared", old.error_of)),
                Some(new) if new.count < old.count => worse.push(format!(
                    "{}: {} compared, {} before",
                    old.error_of, new.count, old.count
                )),
                Some(new) if new.mean_percent > old.mean_percent + MARGIN_POINTS => {
                    worse.push(format!(
                        "{}: {:.2} %, {:.2} % before",
                        old.error_of, new.mean_percent, old.mean_percent
                    ));
                }
                Some(_) => {}
            }
        }
        worse
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(errors: &[(&str, &[f64])]) -> Record {
        let mut record = Record::default();
        for (name, errors) in errors {
            record.add(name, &errors.iter().copied().collect());
        }
        record
    }

    #[test]
    fn a_record_survives_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.csv");
        let before = record(&[("run, a", &[1.0, -2.0]), ("run, b", &[0.126])]);
        std::fs::write(&path, before.to_csv()).unwrap();
        let read = Record::read(&path).unwrap();
        assert_eq!(read, before);
        assert!(read.worse_than(&before).is_empty());
        std::fs::write(&path, "error_of,count,mean_percent\na,1,x\n").unwrap();
        assert!(Record::read(&path).unwrap_err().to_string().contains("record.csv:2"));
    }

    #[test]
    fn the_runs_of_a_deployment_are_those_of_all_its_versions() {
        let before = record(&[
            ("run, a tp 1, vllm, TPOT", &[1.0]),
            ("run, a tp 1, vllm 0.9, TPOT", &[3.0, 5.0]),
            ("run, a tp 1, vllm 0.9, TPOT, other half", &[9.0]),
            ("run, a tp 1, vllm 0.9, TTFT", &[9.0]),
            ("run, a tp 1, vllmx, TPOT", &[9.0]),
        ]);
        assert_eq!(before.of_runs("a tp 1, vllm"), Some((3.0, 3)));
        assert_eq!(before.of_runs("b tp 1, vllm"), None);
    }

    #[test]
    fn what_grew_shrank_or_vanished_is_named() {
        let before = record(&[("a", &[1.0]), ("b", &[1.0]), ("c", &[1.0]), ("d", &[1.0, 1.0])]);
        let after = record(&[("a", &[1.4]), ("b", &[-1.6]), ("d", &[1.0]), ("new", &[99.0])]);
        assert_eq!(
            after.worse_than(&before),
            ["b: 1.60 %, 1.00 % before", "c: no longer compared", "d: 1 compared, 2 before"]
        );
    }
}
