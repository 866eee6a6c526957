//! Saved results, as the commands that work on them read them.

use super::CliError;
use kv_router_sim::experiment::results::{SavedRuns, Summary};
use kv_router_sim::experiment::{
    Experiment, LoadOptions, RUNS_FILE, SUMMARY_FILE, StoreError, write_file,
};
use kv_router_sim::plot::{self, Figure};
use kv_router_sim::report::render::html::{Page, Picture, REPORT_FILE};
use kv_router_sim::report::render::save;
use kv_router_sim::report::view::details::{DETAILS_FILE, Details};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Everything that a run leaves in its folder, but the requests.
pub(super) struct Results {
    pub(super) summary: Summary,
    pub(super) details: Details,
    pub(super) runs: SavedRuns,
}

/// Whether figures become files of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Figures {
    Write,
    OnlyInReport,
}

impl Results {
    /// Those in a folder that `sim run` or `sim sweep` has finished.
    pub(super) fn read(folder: &Path) -> Result<Self, CliError> {
        Ok(Self {
            summary: read(&folder.join(SUMMARY_FILE))?,
            details: read(&folder.join(DETAILS_FILE))?,
            runs: read(&folder.join(RUNS_FILE))?,
        })
    }

    /// The experiment that gave them, which must not have changed since; `file`
    /// says where it is, if not where it was.
    pub(super) fn experiment(
        &self,
        folder: &Path,
        file: Option<PathBuf>,
        traces: Option<PathBuf>,
    ) -> Result<Experiment, CliError> {
        let file = file.unwrap_or_else(|| PathBuf::from(&self.runs.experiment));
        let overrides = self.runs.overrides.clone();
        let options = LoadOptions { overrides, traces, ..LoadOptions::default() };
        let experiment = Experiment::load(&file, &options)?;
        if experiment.config_hash != self.summary.provenance.config_hash {
            return Err(CliError::OtherExperiment { file, results: folder.to_owned() });
        }
        Ok(experiment)
    }

    /// Writes the report into `folder`, and its figures if asked to.
    pub(super) fn write_report(&self, folder: &Path, figures: Figures) -> Result<(), CliError> {
        let drawn = plot::all_figures(&self.summary, &self.details)?;
        if figures == Figures::Write {
            write_figures(folder, &drawn)?;
        }
        Ok(write_file(&folder.join(REPORT_FILE), self.report(&drawn)?.as_bytes())?)
    }

    fn report(&self, figures: &[Figure]) -> Result<String, CliError> {
        let pictures = figures.iter().map(|Figure { name, title, alt, svg, .. }| Picture {
            name,
            title,
            alt,
            svg,
        });
        let pictures: Vec<Picture<'_>> = pictures.collect();
        let page = Page {
            summary: &self.summary,
            details: &self.details,
            runs: &self.runs,
            pictures: &pictures,
            picture_rules: &plot::dark_rules(),
        };
        Ok(page.to_html()?)
    }
}

/// Writes figures as SVG and PNG.
pub(super) fn write_figures(folder: &Path, figures: &[Figure]) -> Result<(), StoreError> {
    for figure in figures {
        write_file(&folder.join(format!("{}.svg", figure.name)), figure.svg.as_bytes())?;
        write_file(&folder.join(format!("{}.png", figure.name)), &figure.png)?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(file: &Path) -> Result<T, CliError> {
    let text = std::fs::read_to_string(file).map_err(|error| CliError::Unreadable {
        file: file.to_owned(),
        reason: error.to_string(),
        hint: "; name a folder that `sim run` or `sim sweep` of this version has finished",
    })?;
    Ok(save::from_json(&text, file)?)
}
