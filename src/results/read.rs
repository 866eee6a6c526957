//! Results read back from their folder, and what is made of them again.

use crate::experiment::explain::ExplainError;
use crate::experiment::results::{SCHEMA_VERSION, SavedRuns, Summary};
use crate::experiment::timeline::{Timeline, TimelineQuery, timeline};
use crate::experiment::{
    Experiment, ExperimentError, LoadOptions, RUNS_FILE, RunError, SUMMARY_FILE, StoreError,
    write_file, write_file_with,
};
use crate::plot::{self, DrawnFor, Figure};
use crate::report::render::html::{Page, Picture, REPORT_FILE};
use crate::report::render::timeline as rendered;
use crate::report::view::details::{DETAILS_FILE, Details};
use crate::settings::Invalid;
use flate2::{Compression, GzBuilder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Everything that a run leaves in its folder, but the requests.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Results {
    /// The metrics of every point.
    pub summary: Summary,
    /// What figures and reports show besides them.
    #[cfg_attr(not(internals), doc(hidden))]
    pub details: Details,
    /// How any simulation of them is run again.
    #[cfg_attr(not(internals), doc(hidden))]
    pub runs: SavedRuns,
}

/// Why results cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A file of them is not there, or may not be read.
    #[error("{}: cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// Written by a version of `sim` with another layout.
    #[error(
        "{}: schema_version = {found}: this version of sim ({}) reads {SCHEMA_VERSION}; \
         {written_by}run the experiment again or use the sim that wrote it",
        file.display(), env!("CARGO_PKG_VERSION")
    )]
    Schema {
        /// The file.
        file: PathBuf,
        /// The version seen.
        found: u64,
        /// `written by sim x.y.z; `, if the file says so.
        written_by: String,
    },
    /// Its points are columns, in another file.
    #[error(
        "{}: its {points} points are columns, in summary.arrow: read that with pandas, polars or \
         kv_router_sim; reports, figures and comparisons are made of results in JSON",
        file.display()
    )]
    Columns {
        /// The file.
        file: PathBuf,
        /// How many points there are.
        points: usize,
    },
    /// Not the JSON that a run writes.
    #[error("{}:{line}:{column}: {message}; not a file of results as `sim run` writes it", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It cannot be made.
    #[error(transparent)]
    Metric(#[from] Invalid),
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The threads that draw it could not be started.
    #[error(transparent)]
    Threads(#[from] RunError),
}

/// Why a simulation of saved results cannot be run again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgainError {
    /// Its experiment cannot be loaded.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// Its experiment has changed.
    #[error(
        "{}: is not the experiment that gave {} any more, or a model file of it has changed",
        file.display(), results.display()
    )]
    Other {
        /// The experiment's file.
        file: PathBuf,
        /// The folder of the results.
        results: PathBuf,
    },
    /// It is not the simulation that was saved, or there is none.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// What it did cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Results {
    /// Those in a folder that a run has finished.
    ///
    /// # Errors
    /// If a file is missing or was written by another version.
    pub fn load(folder: &Path) -> Result<Self, ReadError> {
        Ok(Self {
            summary: read_summary(folder)?,
            details: read(&folder.join(DETAILS_FILE))?,
            runs: read(&folder.join(RUNS_FILE))?,
        })
    }

    /// The experiment that gave them, which must not have changed since; `file`
    /// says where it is if not where it was, `folder` where the results are.
    ///
    /// # Errors
    /// If it cannot be loaded or has changed.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn experiment(
        &self,
        folder: &Path,
        file: Option<PathBuf>,
        traces: Option<PathBuf>,
    ) -> Result<Experiment, AgainError> {
        let file = file.unwrap_or_else(|| PathBuf::from(&self.runs.experiment));
        let overrides = self.runs.overrides.clone();
        let options = LoadOptions { overrides, traces, ..LoadOptions::default() };
        let experiment = Experiment::load(&file, &options)?;
        if experiment.config_hash != self.summary.provenance.config_hash {
            return Err(AgainError::Other { file, results: folder.to_owned() });
        }
        Ok(experiment)
    }

    /// The figures that are drawn of them by default.
    ///
    /// # Errors
    /// If the metric that was tuned for is not in the results.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn figures(&self, drawn_for: DrawnFor) -> Result<Vec<Figure>, Invalid> {
        plot::all_figures(&self.summary, &self.details, drawn_for)
    }

    /// The report as one page of HTML, with these figures.
    ///
    /// # Errors
    /// If the metric that was tuned for is not in the results.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn report(&self, figures: &[Figure]) -> Result<String, Invalid> {
        let pictures = figures.iter().map(|Figure { name, title, alt, svg, narrow, .. }| Picture {
            name,
            title,
            alt,
            svg,
            narrow,
        });
        let pictures: Vec<Picture<'_>> = pictures.collect();
        let page = Page {
            summary: &self.summary,
            details: &self.details,
            runs: &self.runs,
            pictures: &pictures,
            picture_rules: &plot::dark_rules(),
        };
        page.to_html()
    }

    /// Writes the report into a folder.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn write_report(&self, folder: &Path) -> Result<(), ReportError> {
        let report = self.report(&self.figures(DrawnFor::Page)?)?;
        Ok(write_file(&folder.join(REPORT_FILE), report.as_bytes())?)
    }

    /// Runs one simulation of them again and writes what every worker did as a
    /// timeline, compressed if the name of the file ends with `.gz`.
    ///
    /// # Errors
    /// If there is no such simulation, it is not the one saved, or the file cannot
    /// be written.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn write_timeline(
        &self,
        experiment: &Experiment,
        choice: &TimelineQuery,
        file: &Path,
    ) -> Result<Timeline, AgainError> {
        let found = timeline(experiment, &self.runs, choice)?;
        let provenance = &self.summary.provenance;
        write_file_with(file, |out| {
            let mut out = BufWriter::new(out);
            if file.extension().is_some_and(|extension| extension == "gz") {
                // No time and no name in its head: the same bytes every time.
                let mut packed = GzBuilder::new().write(&mut out, Compression::default());
                rendered::write(&found, provenance, &mut packed)?;
                packed.finish()?;
            } else {
                rendered::write(&found, provenance, &mut out)?;
            }
            out.flush()
        })?;
        Ok(found)
    }
}

/// Writes the files of figures.
///
/// # Errors
/// If one cannot be written.
pub fn write_figures(folder: &Path, figures: &[Figure]) -> Result<(), StoreError> {
    figures
        .iter()
        .flat_map(Figure::files)
        .try_for_each(|(name, bytes)| write_file(&folder.join(name), bytes))
}

/// The summary of the results in a folder.
///
/// # Errors
/// If it is missing or was written by another version.
pub fn read_summary(folder: &Path) -> Result<Summary, ReadError> {
    read(&folder.join(SUMMARY_FILE))
}

pub(super) fn read<T: DeserializeOwned>(file: &Path) -> Result<T, ReadError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| ReadError::Unreadable { file: file.into(), reason: error.to_string() })?;
    from_json(&text, file)
}

/// Reads a [`Summary`], or another file of results, from its text; `file` is used
/// in messages.
///
/// # Errors
/// If the text is no such JSON, or of another schema version.
pub fn from_json<T: DeserializeOwned>(text: &str, file: &Path) -> Result<T, ReadError> {
    /// As much as any version of the layout has.
    #[derive(Deserialize)]
    struct Head {
        schema_version: u64,
        provenance: Option<HeadProvenance>,
        columns: Option<HeadColumns>,
    }
    #[derive(Deserialize)]
    struct HeadColumns {
        points: usize,
    }
    #[derive(Deserialize)]
    struct HeadProvenance {
        version: Option<String>,
    }
    let json = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        // The place is said once, in front.
        let place = format!(" at line {line} column {column}");
        let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
        ReadError::Json { file: file.into(), line, column, message }
    };
    let head: Head = serde_json::from_str(text).map_err(json)?;
    if head.schema_version != u64::from(SCHEMA_VERSION) {
        let version = head.provenance.and_then(|provenance| provenance.version);
        return Err(ReadError::Schema {
            file: file.into(),
            found: head.schema_version,
            written_by: version.map(|v| format!("it was written by sim {v}; ")).unwrap_or_default(),
        });
    }
    serde_json::from_str(text).map_err(|error| match head.columns {
        // A file with columns is read by those who want them.
        Some(HeadColumns { points }) => ReadError::Columns { file: file.into(), points },
        None => json(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example::{self, Builder};
    use crate::report::render::save::to_json;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Summary, ReadError> {
        from_json(text, Path::new("plots/x/summary.json"))
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_to_the_last_bit(summary in example::any_summary()) {
            // Means of huge numbers overflow; those are written as undefined.
            let text = to_json(&summary);
            let back = read(&text).unwrap();
            prop_assert_eq!(to_json(&back), text);
            for (a, b) in summary.points.iter().zip(&back.points) {
                prop_assert_eq!(&a.params, &b.params);
                for (name, metric) in &a.metrics {
                    prop_assert_eq!(&metric.per_seed, &b.metrics[name].per_seed);
                }
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_become_undefined() {
        let mut builder = Builder::new("odd", 2);
        builder.load("kv", 60, &[("queue_skew", &[Some(f64::NAN), Some(1.0)])]);
        let back = read(&to_json(&builder.build())).unwrap();
        let metric = &back.points[0].metrics["queue_skew"];
        assert_eq!((metric.mean, metric.ci95), (None, None));
        assert_eq!(metric.per_seed, [None, Some(1.0)]);
    }

    #[test]
    fn other_files_are_refused_with_the_way_out() {
        let mut old = example::doks();
        old.schema_version = 99;
        let stray = to_json(&Builder::new("x", 1).build()).replace("\"points\"", "\"dots\"");
        insta::assert_snapshot!(
            [
                read(&to_json(&old)).unwrap_err().to_string(),
                read("{\"schema_version\": 7}").unwrap_err().to_string(),
                read("{\n]").unwrap_err().to_string(),
                read("{}").unwrap_err().to_string(),
                read(&stray).unwrap_err().to_string(),
            ]
            .join("\n"),
            @r"
            plots/x/summary.json: schema_version = 99: this version of sim (0.1.0) reads 1; it was written by sim 0.1.0; run the experiment again or use the sim that wrote it
            plots/x/summary.json: schema_version = 7: this version of sim (0.1.0) reads 1; run the experiment again or use the sim that wrote it
            plots/x/summary.json:2:1: key must be a string; not a file of results as `sim run` writes it
            plots/x/summary.json:1:2: missing field `schema_version`; not a file of results as `sim run` writes it
            plots/x/summary.json:12:8: unknown field `dots`, expected one of `schema_version`, `provenance`, `points`; not a file of results as `sim run` writes it
            "
        );
    }
}
