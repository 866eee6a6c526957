//! `sim frontier`.

use super::args::{ExperimentArgs, Format, JobsArgs};
use super::error::{CliError, argument};
use super::progress::Bar;
use super::simulate::{load, load_again, overrides, with_progress};
use super::talk::print;
use kv_router_sim::experiment::check_measured;
use kv_router_sim::experiment::results::{Point, Provenance, SCHEMA_VERSION, Summary};
use kv_router_sim::experiment::{self, Experiment, Params, SloSettings};
use kv_router_sim::frontier::{LoadRange, MetricTarget, Question, frontier};
use kv_router_sim::metrics::full_name;
use kv_router_sim::report::judge::answer::{BASELINE, pairings};
use kv_router_sim::report::judge::terms::{Terms, remarks};
use kv_router_sim::report::render::{save, table};
use kv_router_sim::report::view::details::Details;
use kv_router_sim::report::view::{POLICY, View, number, plain};
use kv_router_sim::settings::Invalid;
use kv_router_sim::workload::WorkloadSettings;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Find the largest load at which a policy or setting beats another, or meets its targets
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim frontier doks-3xh200
  sim frontier doks-3xh200 --within ttft_ms_p95=600ms --within itl_ms_p95=60ms
  sim frontier lookalike-conversation-8w --loads 1..8:0.5 --within ttft_ms_p95=10s
  sim frontier doks-3xh200 --set router.policy=kv --over router.overlap_weight=0..4:1 \\
      --within ttft_ms_p95=600ms
  sim frontier doks-3xh200 --set workload.concurrency=120 --load cluster.workers --loads 2..4 \\
      --within ttft_ms_p95=600ms

Searches every combination of swept values other than the load. Without --within, it searches the
largest load at which each policy beats round_robin (or the first policy) and, with [slo], the
largest load at which enough requests meet the targets. The load is workload.concurrency,
workload.speedup where a trace is replayed at its own times, or workload.arrivals.rate.")]
pub(crate) struct FrontierArgs {
    #[command(flatten)]
    pub(crate) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(crate) jobs: JobsArgs,
    /// A metric on which a policy must beat the baseline [default: ttft_ms_p95, unless --within is given]
    #[arg(long, value_name = "METRIC")]
    pub(crate) metric: Vec<String>,
    /// A target to meet, like ttft_ms_p95=600ms, or `slo` for that of `[slo]`; several must all be met
    #[arg(long, value_name = "METRIC=VALUE")]
    pub(crate) within: Vec<String>,
    /// Sweep a key, besides what the experiment sweeps; short for --set sweep.KEY=VALUES
    #[arg(long, value_name = "KEY=VALUES")]
    pub(crate) over: Vec<String>,
    /// The key to vary as the load
    #[arg(long, value_name = "KEY")]
    pub(crate) load: Option<String>,
    /// Loads to search, with their step [default: from the smallest to the largest swept]
    #[arg(long, value_name = "FROM..TO:STEP")]
    pub(crate) loads: Option<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Searches loads, prints up to where what was asked holds.
pub(super) fn run(args: FrontierArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let axes: Vec<String> = args.over.iter().map(|over| format!("sweep.{over}")).collect();
    let overrides = overrides(&args.experiment, axes);
    let experiment = load(&args.experiment, overrides.clone(), traces.clone())?;
    let loads = loads(&experiment, args.load.as_deref(), args.loads.as_deref())?;
    let contenders = Contenders::of(&experiment, &loads.key)?;
    let questions = questions(&args, &experiment, &contenders)?;
    for (key, metric) in questions.iter().flat_map(asked) {
        check_measured(key, metric, &experiment)?;
    }
    let bar = Bar::new();
    let simulate = |load_value: f64, names: &[&str]| -> Result<Vec<Point>, CliError> {
        let mut at = overrides.clone();
        at.push(format!("{}={load_value}", loads.key));
        let mut experiment = load_again(&args.experiment, at, traces.clone())?;
        let wanted: Vec<&Params> = names.iter().map(|name| contenders.params(name)).collect();
        experiment.retain(|params| wanted.iter().any(|wanted| is_at(params, wanted)));
        let options = with_progress(args.jobs.count(), &bar);
        let points = experiment::run(&experiment, options)?.summary.points;
        let find = |wanted: &&Params| points.iter().find(|p| is_at(&p.params, wanted)).cloned();
        Ok(wanted.iter().map(|wanted| find(wanted).expect("retained")).collect())
    };
    let (named, names) = ((experiment.name.as_str(), &*experiment.seeds), &contenders.names);
    let found = frontier(named, &loads, names, &questions, simulate);
    bar.clear();
    let found = found?;
    for (key, metric) in questions.iter().flat_map(asked) {
        let has = |point: &Point| point.metrics.contains_key(metric);
        if !found.points.iter().any(|evaluated| has(&evaluated.point)) {
            let allowed = "another metric: no run produced a value for this metric";
            return Err(Invalid::new(key, metric, allowed).into());
        }
    }
    match args.format {
        Format::Json => print(&save::json(&found)),
        Format::Text => print(&found.report(&remarks(&experiment), table::WIDTH)),
    }
}

/// True if a point has all of these parameters.
fn is_at(params: &Params, wanted: &Params) -> bool {
    wanted.iter().all(|(key, value)| params.get(key) == Some(value))
}

/// Everything that is swept but the load, in combination.
struct Contenders {
    /// What each is called, in order of the points.
    names: Vec<String>,
    params: Vec<Params>,
    /// Places of candidates with their fair partners.
    pairs: Vec<(usize, usize)>,
}

impl Contenders {
    fn of(experiment: &Experiment, load_key: &str) -> Result<Self, CliError> {
        let mut all: Vec<Params> = Vec::new();
        // What differs in nothing that its policy looks at is asked about once.
        let runs = experiment.runs.iter().filter(|run| run.same_as.is_none());
        for point in runs.flat_map(|run| &run.points) {
            let mut params = experiment.points[*point].clone();
            params.remove(load_key);
            if !all.contains(&params) {
                all.push(params);
            }
        }
        // A result set without results, for its names and pairs.
        let point = |params: &Params| {
            let mut params = params.clone();
            params.insert(load_key.to_owned(), 1.into());
            Point { params, metrics: BTreeMap::new() }
        };
        let provenance = Provenance {
            experiment: experiment.name.clone(),
            version: String::new(),
            config_hash: String::new(),
            seeds: Vec::new(),
            digest: String::new(),
            follows: BTreeMap::new(),
        };
        let points = all.iter().map(point).collect();
        let summary = Summary { schema_version: SCHEMA_VERSION, provenance, points };
        let view = View::new(&summary, Some(load_key))?;
        let terms = Terms::of(&Details::new(experiment, None, None, Vec::new()));
        let mut pairs = pairings(&view, &terms);
        // Of what is swept for one policy alone the other policy has one setting.
        let policy = |place: usize| view.series[place].policy.as_str();
        let baseline = (0..all.len()).find(|place| policy(*place) == BASELINE).unwrap_or(0);
        for candidate in 0..all.len() {
            let is_paired = pairs.iter().any(|(paired, _)| *paired == candidate);
            if !is_paired && !all.is_empty() && policy(candidate) != policy(baseline) {
                pairs.push((candidate, baseline));
            }
        }
        pairs.sort_unstable();
        let names = view.series.iter().map(|series| series.label.clone()).collect();
        Ok(Self { names, params: all, pairs })
    }

    /// The parameters of the one of this name.
    fn params(&self, name: &str) -> &Params {
        let place = self.names.iter().position(|known| known == name);
        &self.params[place.expect("questions speak of contenders")]
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
) -> Result<LoadRange, CliError> {
    let workload = &experiment.runs[0].settings.workload;
    let is_closed = workload.concurrency().is_some();
    let default = match workload {
        _ if is_closed => "workload.concurrency",
        WorkloadSettings::Trace(trace) if trace.arrivals.is_none() => "workload.speedup",
        WorkloadSettings::InferencePerf(_) if key.is_none() => {
            let allowed = "one without stages (\"requests\", with arrivals and prefix), or give \
                           --load another key: stages have their rates already";
            return Err(Invalid::new("workload.kind", "\"inference_perf\"", allowed).into());
        }
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
        return Ok(LoadRange::new(key, low, high, step).map_err(argument)?);
    };
    let parse = || -> Option<(f64, f64, f64)> {
        let (from, rest) = range.split_once("..")?;
        let (to, step) = rest.split_once(':').unwrap_or((rest, "1"));
        Some((from.trim().parse().ok()?, to.trim().parse().ok()?, step.trim().parse().ok()?))
    };
    let allowed = "FROM..TO or FROM..TO:STEP, like 60..180 or 1..8:0.25";
    let (from, to, step) = parse().ok_or_else(|| Invalid::new("--loads", range, allowed))?;
    Ok(LoadRange::new(key, from, to, step).map_err(argument)?)
}

/// Crossovers of every policy with its fair partner unless only targets are asked
/// for, then the targets of every policy or setting: those given, or else `[slo]`.
fn questions(
    args: &FrontierArgs,
    experiment: &Experiment,
    contenders: &Contenders,
) -> Result<Vec<Question>, CliError> {
    let slo = experiment.runs[0].settings.slo;
    let attainment = slo.map_or(SloSettings::ATTAINMENT, |slo| slo.attainment);
    let targets =
        args.within.iter().map(|text| MetricTarget::parse(text, attainment).map_err(argument));
    let mut targets: Vec<MetricTarget> = targets.collect::<Result<_, _>>()?;
    let has_slo = experiment.runs.iter().all(|run| run.settings.slo.is_some());
    if targets.is_empty() && args.metric.is_empty() && has_slo {
        targets.push(MetricTarget::slo(attainment));
    }
    let Contenders { names, pairs, .. } = contenders;
    let mut questions = Vec::new();
    if args.within.is_empty() || !args.metric.is_empty() {
        let default = vec!["ttft_ms_p95".to_owned()];
        let metrics = if args.metric.is_empty() { &default } else { &args.metric };
        if pairs.is_empty() && targets.is_empty() {
            let allowed = "swept over two policies or more, to compare them; or ask for --within";
            let policy = experiment.points[0].get(POLICY).map(plain).unwrap_or_default();
            return Err(Invalid::new(POLICY, policy, allowed).into());
        }
        for (candidate, baseline) in pairs {
            for metric in metrics {
                let metric = full_name(metric);
                let question = Question::beats(&names[*candidate], &names[*baseline], metric);
                questions.push(question.map_err(argument)?);
            }
        }
    }
    if !targets.is_empty() {
        questions.extend(
            names
                .iter()
                .map(|policy| Question::Meets { policy: policy.clone(), targets: targets.clone() }),
        );
    }
    Ok(questions)
}
