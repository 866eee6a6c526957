//! `sim frontier`.

use super::args::{Format, FrontierArgs};
use super::progress::Bar;
use super::run::{load, load_again, overrides};
use super::{CliError, print};
use kv_router_sim::experiment::check_measured;
use kv_router_sim::experiment::{self, Experiment, RunOptions, results::Point};
use kv_router_sim::frontier::{Loads, Question, Target, frontier};
use kv_router_sim::report::judge::answer::BASELINE;
use kv_router_sim::report::render::{save, table};
use kv_router_sim::report::view::{POLICY, VARIANT, number, plain};
use kv_router_sim::settings::Invalid;
use kv_router_sim::workload::WorkloadSettings;
use std::path::PathBuf;

/// Searches loads, prints up to where what was asked holds.
pub(super) fn run(args: FrontierArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let experiment =
        load(&args.experiment, overrides(&args.experiment, Vec::new()), traces.clone())?;
    let loads = loads(&experiment, args.load.as_deref(), args.loads.as_deref())?;
    let policies = policies(&experiment, &loads.key)?;
    let questions = questions(&args, &policies)?;
    for (key, metric) in questions.iter().flat_map(asked) {
        check_measured(key, metric, &experiment)?;
    }
    let bar = Bar::new();
    let simulate = |load_value: f64| -> Result<Vec<Point>, CliError> {
        let mut at = vec![format!("{}={load_value}", loads.key)];
        // One policy is set already, maybe by a variant, beside which it cannot be swept.
        if policies.len() > 1 {
            let names: Vec<String> = policies.iter().map(|name| format!("{name:?}")).collect();
            at.push(format!("sweep.{POLICY}=[{}]", names.join(", ")));
        }
        let overrides = overrides(&args.experiment, at);
        let experiment = load_again(&args.experiment, overrides, traces.clone())?;
        let options =
            RunOptions { jobs: args.jobs.count(), progress: &bar, ..RunOptions::default() };
        Ok(experiment::run(&experiment, options)?.summary.points)
    };
    let found = frontier(&experiment.name, &experiment.seeds, &loads, &questions, simulate);
    bar.clear();
    let found = found?;
    for (key, metric) in questions.iter().flat_map(asked) {
        let has = |point: &Point| point.metrics.contains_key(metric);
        if !found.points.iter().any(|evaluated| has(&evaluated.point)) {
            let allowed = "a metric that something happened for";
            return Err(Invalid::new(key, metric, allowed).into());
        }
    }
    match args.format {
        Format::Json => print(&save::json(&found)),
        Format::Text => print(&found.report(table::WIDTH)),
    }
}

/// The metrics of a question, with the argument that named them.
fn asked(question: &Question) -> Vec<(&'static str, &str)> {
    let key = match question {
        Question::Beats { .. } => "--metric",
        Question::Meets { .. } => "--within",
    };
    question.metrics().into_iter().map(|metric| (key, metric)).collect()
}

/// The key and range to search: what the arguments say, else what is swept.
fn loads(
    experiment: &Experiment,
    key: Option<&str>,
    range: Option<&str>,
) -> Result<Loads, CliError> {
    let workload = &experiment.runs[0].settings.workload;
    let is_closed = workload.concurrency().is_some();
    let default = match workload {
        _ if is_closed => "workload.concurrency",
        WorkloadSettings::Trace(trace) if trace.arrivals.is_none() => "workload.speedup",
        _ => "workload.arrivals.rate",
    };
    let key = key.unwrap_or(default);
    let Some(range) = range else {
        let swept = experiment.points.iter().filter_map(|point| point.get(key));
        let swept: Vec<f64> = swept.filter_map(|value| Some(number(value)?.0)).collect();
        let (low, high) = swept
            .iter()
            .fold((f64::INFINITY, 0.0f64), |(low, high), load| (low.min(*load), high.max(*load)));
        if swept.is_empty() {
            let allowed = format!("given, like 60..180: the experiment does not sweep {key}");
            return Err(Invalid::new("--loads", "nothing", allowed).into());
        }
        let step = if is_closed { 1.0 } else { (high - low) / 100.0 };
        return Ok(Loads::new(key, low, high, step)?);
    };
    let parse = || -> Option<(f64, f64, f64)> {
        let (from, rest) = range.split_once("..")?;
        let (to, step) = rest.split_once(':').unwrap_or((rest, "1"));
        Some((from.trim().parse().ok()?, to.trim().parse().ok()?, step.trim().parse().ok()?))
    };
    let allowed = "FROM..TO or FROM..TO:STEP, like 60..180 or 1..8:0.25";
    let (from, to, step) = parse().ok_or_else(|| Invalid::new("--loads", range, allowed))?;
    Ok(Loads::new(key, from, to, step)?)
}

/// The policies that are swept, in order. Nothing but them and the load may be.
fn policies(experiment: &Experiment, load_key: &str) -> Result<Vec<String>, CliError> {
    let first = &experiment.points[0];
    for (key, value) in first.iter().filter(|(key, _)| *key != POLICY && *key != load_key) {
        if experiment.points.iter().any(|point| point.get(key) != Some(value)) {
            let value = if key == VARIANT { "NAME" } else { "VALUE" };
            let allowed =
                format!("one value, by --set {key}={value}: only the load and the policy vary");
            return Err(Invalid::new(format!("sweep.{key}"), "several values", allowed).into());
        }
    }
    let mut policies: Vec<String> = Vec::new();
    for policy in experiment.points.iter().filter_map(|point| point.get(POLICY)).map(plain) {
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    Ok(policies)
}

/// Crossovers of every policy with the baseline unless only targets are asked
/// for, then the targets of every policy.
fn questions(args: &FrontierArgs, policies: &[String]) -> Result<Vec<Question>, CliError> {
    let targets: Vec<Target> =
        args.within.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
    let mut questions = Vec::new();
    if targets.is_empty() || !args.metric.is_empty() {
        let default = vec!["ttft_ms_p95".to_owned()];
        let metrics = if args.metric.is_empty() { &default } else { &args.metric };
        let named = policies.iter().find(|policy| *policy == BASELINE);
        let baseline = named.or(policies.first()).map_or("", String::as_str);
        if policies.len() < 2 {
            let allowed = "swept over two policies or more, to compare them; or ask for --within";
            return Err(Invalid::new(POLICY, baseline, allowed).into());
        }
        for candidate in policies.iter().filter(|policy| *policy != baseline) {
            for metric in metrics {
                questions.push(Question::beats(candidate, baseline, metric)?);
            }
        }
    }
    if !targets.is_empty() {
        questions.extend(
            policies
                .iter()
                .map(|policy| Question::Meets { policy: policy.clone(), targets: targets.clone() }),
        );
    }
    Ok(questions)
}
