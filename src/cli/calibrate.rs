//! `sim calibrate`.

use super::error::CliError;
use super::talk::{print, say};
use kv_router_sim::accuracy::data::{ServingRun, Step, read_runs, read_steps};
use kv_router_sim::accuracy::runs::Replays;
use kv_router_sim::accuracy::steps::Steps;
use kv_router_sim::accuracy::{AccuracyError, AccuracySettings, Errors, halves};
use kv_router_sim::calibrate::{Fitted, HostFit, PeaksFit, rewrite};
use kv_router_sim::catalogue;
use kv_router_sim::experiment::write_file;
use kv_router_sim::settings::Invalid;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Fit an engine's parameters to measured steps and serving runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim calibrate                                fit everything, print, write nothing
  sim calibrate --only h200-vllm --out new     write new/efficiencies/h200-vllm.toml
  sim calibrate --only trtllm                  host time of TensorRT-LLM
  sim calibrate --live http://127.0.0.1:8000   steps of a real server, from a probe of a minute

A fit starts from the file in models/; for a new GPU or engine, first copy that of
another one there.

Exit codes: 0 done, 2 usage or input error.")]
pub(crate) struct CalibrateArgs {
    /// A TOML file that names the measurements and the models
    #[arg(default_value = catalogue::ACCURACY)]
    pub(crate) settings: PathBuf,
    /// Fit only this: GPU-ENGINE for the efficiency, ENGINE for its host time
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// Measured steps, CSV, instead of those that the settings name
    #[arg(long, value_name = "FILE")]
    pub(crate) steps: Option<PathBuf>,
    /// Serving runs, CSV, instead of those that the settings name
    #[arg(long, value_name = "FILE")]
    pub(crate) runs: Option<PathBuf>,
    /// Measure a real vLLM server instead, and fit the time of its steps
    #[cfg(feature = "live")]
    #[arg(long, value_name = "URL", conflicts_with_all = ["only", "steps", "runs", "out"])]
    pub(crate) live: Option<String>,
    /// With --live: how often to measure everything
    #[cfg(feature = "live")]
    #[arg(long, value_name = "N", requires = "live", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) repeats: u16,
    /// Folder for files with the fitted values, laid out as models/
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Fits every GPU and engine with steps, and every engine with serving runs;
/// writes files only when all fits are done.
pub(super) fn calibrate(args: &CalibrateArgs) -> Result<(), CliError> {
    let mut settings = AccuracySettings::load(&args.settings)?;
    if let Some(steps) = &args.steps {
        settings.steps.clone_from(steps);
    }
    if let Some(runs) = &args.runs {
        settings.runs.clone_from(runs);
    }
    let wanted = |name: &str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let mut files: Vec<(PathBuf, String)> = Vec::new();

    let mut peaks: BTreeMap<String, Vec<Step>> = BTreeMap::new();
    for step in read_steps(&settings.steps, &settings.names)? {
        let name = format!("{}-{}", step.parts.gpu, step.parts.engine);
        peaks.entry(name).or_default().push(step);
    }
    let mut hosts: BTreeMap<String, Vec<ServingRun>> = BTreeMap::new();
    for run in read_runs(&settings.runs, &settings.names, &settings.assumed)? {
        hosts.entry(run.parts.engine.clone()).or_default().push(run);
    }
    let known: Vec<&String> = peaks.keys().chain(hosts.keys()).collect();
    if let Some(unknown) = args.only.iter().find(|only| !known.contains(only)) {
        let known: Vec<&str> = known.into_iter().map(String::as_str).collect();
        let allowed = format!("one of {}", known.join(", "));
        return Err(Invalid::new("--only", unknown, allowed).into());
    }
    for (name, rows) in peaks {
        if !wanted(&name) {
            continue;
        }
        let path = Path::new("efficiencies").join(format!("{name}.toml"));
        let fit = PeaksFit::new(&Steps::new(rows, &settings.models)?)?;
        let [before, after] = fit.error_percent;
        let title = format!(
            "{}: {} steps, mean error {before:.2} % before, {after:.2} % after",
            path.display(),
            fit.count
        );
        print(&table(&title, &fit.parameters))?;
        files.push(changed(&settings.models, path, "", &fit.parameters, |v| v.to_string())?);
    }
    for (name, runs) in hosts {
        if !wanted(&name) {
            continue;
        }
        let path = Path::new("engines").join(format!("{name}.toml"));
        let replays = Replays::new(&runs, &settings.models, &settings.assumed)?;
        let fit = HostFit::new(&replays, &halves(&runs))?;
        let mean = |errors: &Errors| errors.mean().unwrap_or_default();
        let title = format!(
            "{}: TPOT of {} runs, mean error {:.2} % before, {:.2} % after; of the {} others, \
             {:.2} % before, {:.2} % after",
            path.display(),
            fit.before[0].count(),
            mean(&fit.before[0]),
            mean(&fit.after[0]),
            fit.before[1].count(),
            mean(&fit.before[1]),
            mean(&fit.after[1]),
        );
        print(&table(&title, &fit.parameters))?;
        files.push(changed(&settings.models, path, "host", &fit.parameters, |v| {
            format!("\"{v}ms\"")
        })?);
    }
    let Some(out) = &args.out else { return Ok(()) };
    for (path, text) in files {
        let path = out.join(path);
        write_file(&path, text.as_bytes())?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Measures a server and prints the settings that fit it.
#[cfg(feature = "live")]
pub(super) fn live(
    args: &CalibrateArgs,
    api_key: Option<&kv_router_sim::fleet::servers::ApiKey>,
) -> Result<(), CliError> {
    use kv_router_sim::calibrate::probed::{LiveFit, Measured, measure};
    use kv_router_sim::fleet::servers::{Limits, Prober};
    let Some(url) = &args.live else { return Ok(()) };
    let mut prober = Prober::connect(url, None, api_key, Limits::default())?;
    let (place, facts) = (prober.place(), prober.facts());
    let hidden = |text: &str| api_key.map_or_else(|| text.to_owned(), |key| key.hide(text));
    say(&hidden(&format!("measuring {place}: vLLM {}, model {}", facts.version, facts.model)));
    let measured = measure(&mut prober, usize::from(args.repeats))?;
    let fit = LiveFit::new(&measured)?;
    let mut text = String::new();
    for (row, fitted) in &fit.rows {
        let (what, ms) = match *row {
            Measured::Prompt { tokens, ms } => (format!("first token of {tokens} tokens"), ms),
            Measured::Decode { seqs, context, ms } => {
                (format!("token of {seqs} with {context} tokens each"), ms)
            }
        };
        let error = 100.0 * (fitted / ms - 1.0);
        let _ = writeln!(text, "{what:<36}{ms:>10.2} ms{fitted:>10.2} ms fitted{error:>+8.1} %");
    }
    let title = format!(
        "\n{place}: mean error {:.1} %; milliseconds, prefill_pair and decode_token nanoseconds",
        fit.error_percent()
    );
    text += &table(&title, &fit.parameters);
    for setting in fit.settings() {
        let _ = writeln!(text, "--set '{setting}'");
    }
    print(&text)
}

/// A file of the library with fitted values in it.
fn changed(
    models: &Path,
    path: PathBuf,
    section: &str,
    parameters: &[Fitted],
    written: impl Fn(f64) -> String,
) -> Result<(PathBuf, String), CliError> {
    let full = models.join(&path);
    let mut text = catalogue::read_text(&full)
        .map_err(|source| AccuracyError::Io { path: full.clone(), source })?;
    for parameter in parameters.iter().filter(|parameter| parameter.interval.is_some()) {
        let key = parameter.key;
        text = rewrite(&text, section, key, &written(parameter.after))
            .ok_or_else(|| AccuracyError::NoPlace { path: full.clone(), key: key.to_owned() })?;
    }
    Ok((path, text))
}

fn table(title: &str, parameters: &[Fitted]) -> String {
    let mut text = format!("{title}\n");
    for Fitted { key, before, after, interval } in parameters {
        let found = match interval {
            None => "stays: these measurements do not change it".to_owned(),
            Some(interval) if interval.is_finite() => {
                // Two digits: an interval is not known better.
                let interval: f64 = format!("{interval:.1e}").parse().unwrap_or(*interval);
                format!("{after:>10} +- {interval} (95 %)")
            }
            Some(_) => format!("{after:>10}, not determined apart from the others"),
        };
        let _ = writeln!(text, "  {key:<24}{before:>10} -> {found}");
    }
    text.push('\n');
    text
}
