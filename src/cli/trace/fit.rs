//! A workload that was fitted to a log, as people read it and as an experiment.

use crate::cli::error::CliError;
use kv_router_sim::settings::Invalid;
use kv_router_sim::workload::WorkloadSettings;
use kv_router_sim::workload::trace::{Fit, Margin};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// What a fit is worth, a fact a line.
pub(super) fn table(margins: &[Margin]) -> String {
    let is_held_out = margins.iter().any(|margin| margin.fitted_to.is_some());
    let (log, first) = if is_held_out { ("second half", "first half") } else { ("log", "") };
    let width = if is_held_out { 12 } else { 0 };
    let mut text = format!("{:<28}{log:>12}{first:>width$}{:>12}{:>12}\n", "", "fitted", "error");
    for margin in margins {
        let digits = if margin.is_share || margin.trace < 100.0 { 3 } else { 0 };
        let error = 100.0 * margin.error();
        let unit = if margin.is_share { "pt" } else { "% " };
        let (name, trace, workload) = (&margin.name, margin.trace, margin.workload);
        let first = margin.fitted_to.map_or(String::new(), |value| format!("{value:.digits$}"));
        let _ = writeln!(
            text,
            "{name:<28}{trace:>12.digits$}{first:>width$}{workload:>12.digits$}{error:>+9.1} {unit}"
        );
    }
    text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The experiment `extends` with the fitted workload, to be written to `out`.
pub(super) fn experiment(
    fit: &Fit,
    margins: &[Margin],
    log: &str,
    extends: Option<&str>,
    out: &Path,
) -> Result<String, CliError> {
    #[derive(Serialize)]
    struct Document {
        workload: WorkloadSettings,
    }
    let name = out.file_stem().map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    let mut text = format!("# The load of {log}, fitted: {}.\n#\n", fit.summary());
    for line in table(margins).lines() {
        let _ = writeln!(text, "# {line}");
    }
    let _ = writeln!(text, "name = {}", toml::Value::String(name));
    if let Some(extends) = extends {
        let extends = from_folder_of(out, extends)?;
        let _ = writeln!(text, "extends = {}", toml::Value::String(extends));
    }
    let seconds = fit.duration.as_secs().ceil();
    let _ = writeln!(text, "\n# As long as the log.\n[measure]\nwindow = \"{seconds}s\"\n");
    let workload = WorkloadSettings::Sessions(fit.settings.clone());
    text += &toml::to_string(&Document { workload }).expect("settings are TOML");
    Ok(text)
}

/// A name as it is; a file as seen from the folder of `out`.
fn from_folder_of(out: &Path, extends: &str) -> Result<String, CliError> {
    let path = Path::new(extends);
    let is_name = path.extension().is_none() && path.components().count() == 1;
    let folder = out.parent().filter(|folder| *folder != Path::new(""));
    if is_name || path.is_absolute() || folder.is_none() {
        return Ok(extends.to_owned());
    }
    let absolute = path.canonicalize().map_err(|error| {
        Invalid::new("--extends", format!("{extends:?}"), format!("an experiment: {error}"))
    })?;
    Ok(absolute.to_string_lossy().into_owned())
}
