//! What to search, as people ask for it: metrics, targets and loads as texts, about
//! everything that an experiment sweeps.

use super::{Frontier, LoadRange, MetricTarget, Question, frontier};
use crate::experiment::results::{Point, Provenance, SCHEMA_VERSION, Summary};
use crate::experiment::{
    Experiment, ExperimentError, Params, RunError, RunOptions, SloSettings, check_measured, run,
};
use crate::metrics::full_name;
use crate::report::judge::answer::{BASELINE, pairings};
use crate::report::judge::terms::Terms;
use crate::report::view::details::Details;
use crate::report::view::{POLICY, View, number, plain};
use crate::settings::Invalid;
use crate::workload::WorkloadSettings;
use std::collections::BTreeMap;

/// What is asked about an experiment. Nothing asked for is: up to which load each policy
/// beats its fair partner on the time to the first token, and, with `[slo]`, meets that.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Metrics on which a policy must beat its partner.
    pub metrics: Vec<String>,
    /// Targets to meet, like `ttft_ms_p95=600ms`, or `slo`; several must all be met.
    pub within: Vec<String>,
    /// The key to vary as the load.
    pub load: Option<String>,
    /// The loads to search: `FROM..TO` or `FROM..TO:STEP`; by default from the smallest to
    /// the largest swept.
    pub loads: Option<String>,
    /// What stands before the names of these in messages: `--` where they are arguments.
    pub prefix: &'static str,
}

/// Why a search gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// What is asked for makes no sense.
    #[error(transparent)]
    Asked(#[from] Invalid),
    /// The experiment cannot have a load that is searched.
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    /// A simulation gave no result.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Asked {
    fn named(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What the library says of a key that was asked for here.
    fn here(&self, invalid: Invalid) -> Invalid {
        Invalid { key: self.named(&invalid.key), ..invalid }
    }

    /// Searches every combination of what `experiment` sweeps other than the load. `again`
    /// loads the experiment with one more override, which has the load.
    ///
    /// # Errors
    /// What makes no sense, before anything runs; what cannot be loaded or simulated.
    pub fn search(
        &self,
        experiment: &Experiment,
        mut again: impl FnMut(String) -> Result<Experiment, ExperimentError>,
        options: RunOptions<'_>,
    ) -> Result<Frontier, SearchError> {
        let loads = self.loads(experiment)?;
        let contenders = Contenders::of(experiment, &loads.key)?;
        let questions = self.questions(experiment, &contenders)?;
        let asked = || questions.iter().flat_map(|question| self.of_question(question));
        for (key, metric) in asked() {
            check_measured(&key, metric, experiment)?;
        }
        let simulate = |load: f64, names: &[&str]| -> Result<Vec<Point>, SearchError> {
            let mut experiment = again(format!("{}={load}", loads.key))?;
            let wanted: Vec<&Params> = names.iter().map(|name| contenders.params(name)).collect();
            experiment.retain(|params| wanted.iter().any(|wanted| is_at(params, wanted)));
            let points = run(&experiment, options)?.summary.points;
            let find = |wanted: &&Params| points.iter().find(|p| is_at(&p.params, wanted)).cloned();
            Ok(wanted.iter().map(|wanted| find(wanted).expect("retained")).collect())
        };
        let named = (experiment.name.as_str(), &*experiment.seeds);
        let found = frontier(named, &loads, &contenders.names, &questions, simulate)?;
        for (key, metric) in asked() {
            let has = |point: &Point| point.metrics.contains_key(metric);
            if !found.points.iter().any(|evaluated| has(&evaluated.point)) {
                let allowed = "another metric: no run produced a value for this metric";
                return Err(Invalid::new(key, metric, allowed).into());
            }
        }
        Ok(found)
    }

    /// The metrics of a question, with what named them.
    fn of_question<'a>(&self, question: &'a Question) -> Vec<(String, &'a str)> {
        let key = match question {
            Question::Beats { .. } => self.named("metric"),
            Question::Meets { .. } => self.named("within"),
        };
        question.metrics().into_iter().map(|metric| (key.clone(), metric)).collect()
    }

    /// The key and range to search: what is asked for, else what is swept.
    fn loads(&self, experiment: &Experiment) -> Result<LoadRange, Invalid> {
        let workload = &experiment.runs[0].settings.workload;
        let is_closed = workload.concurrency().is_some();
        let Some(key) = self.load.as_deref().or_else(|| load_key(workload)) else {
            let allowed = format!(
                "one without stages (\"requests\", with arrivals and prefix), or give {} another \
                 key: stages have their rates already",
                self.named("load")
            );
            return Err(Invalid::new("workload.kind", "\"inference_perf\"", allowed));
        };
        let Some(range) = &self.loads else {
            let swept = experiment.points.iter().filter_map(|point| point.get(key));
            let swept: Vec<f64> = swept.filter_map(|value| Some(number(value)?.0)).collect();
            let (low, high) = swept.iter().fold((f64::INFINITY, 0.0f64), |(low, high), load| {
                (low.min(*load), high.max(*load))
            });
            if swept.is_empty() {
                let allowed = format!("given, like 60..180: the experiment does not sweep {key}");
                return Err(Invalid::new(self.named("loads"), "nothing", allowed));
            }
            let step = if is_closed { 1.0 } else { (high - low) / 100.0 };
            return LoadRange::new(key, low, high, step).map_err(|invalid| self.here(invalid));
        };
        let parse = || -> Option<(f64, f64, f64)> {
            let (from, rest) = range.split_once("..")?;
            let (to, step) = rest.split_once(':').unwrap_or((rest, "1"));
            Some((from.trim().parse().ok()?, to.trim().parse().ok()?, step.trim().parse().ok()?))
        };
        let allowed = "FROM..TO or FROM..TO:STEP, like 60..180 or 1..8:0.25";
        let (from, to, step) =
            parse().ok_or_else(|| Invalid::new(self.named("loads"), range, allowed))?;
        LoadRange::new(key, from, to, step).map_err(|invalid| self.here(invalid))
    }

    /// Crossovers of every policy with its fair partner unless only targets are asked
    /// for, then the targets of every policy or setting: those given, or else `[slo]`.
    fn questions(
        &self,
        experiment: &Experiment,
        contenders: &Contenders,
    ) -> Result<Vec<Question>, Invalid> {
        let slo = experiment.runs[0].settings.slo;
        let attainment = slo.map_or(SloSettings::ATTAINMENT, |slo| slo.attainment);
        let target = |text: &String| {
            MetricTarget::parse(text, attainment).map_err(|invalid| self.here(invalid))
        };
        let mut targets: Vec<MetricTarget> =
            self.within.iter().map(target).collect::<Result<_, _>>()?;
        let has_slo = experiment.runs.iter().all(|run| run.settings.slo.is_some());
        if targets.is_empty() && self.metrics.is_empty() && has_slo {
            targets.push(MetricTarget::slo(attainment));
        }
        let Contenders { names, pairs, .. } = contenders;
        let mut questions = Vec::new();
        if self.within.is_empty() || !self.metrics.is_empty() {
            let default = vec!["ttft_ms_p95".to_owned()];
            let metrics = if self.metrics.is_empty() { &default } else { &self.metrics };
            if pairs.is_empty() && targets.is_empty() {
                let allowed = format!(
                    "swept over two policies or more, to compare them; or ask for {}",
                    self.named("within")
                );
                let policy = experiment.points[0].get(POLICY).map(plain).unwrap_or_default();
                return Err(Invalid::new(POLICY, policy, allowed));
            }
            for (candidate, baseline) in pairs {
                for metric in metrics {
                    let metric = full_name(metric);
                    let question = Question::beats(&names[*candidate], &names[*baseline], metric);
                    questions.push(question.map_err(|invalid| self.here(invalid))?);
                }
            }
        }
        if !targets.is_empty() {
            questions.extend(names.iter().map(|policy| Question::Meets {
                policy: policy.clone(),
                targets: targets.clone(),
            }));
        }
        Ok(questions)
    }
}

/// The key of a workload's load; `None` of one in stages, which have rates of their own.
pub fn load_key(workload: &WorkloadSettings) -> Option<&'static str> {
    match workload {
        _ if workload.concurrency().is_some() => Some("workload.concurrency"),
        WorkloadSettings::Trace(trace) if trace.arrivals.is_none() => Some("workload.speedup"),
        WorkloadSettings::InferencePerf(_) => None,
        _ => Some("workload.arrivals.rate"),
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
    fn of(experiment: &Experiment, load_key: &str) -> Result<Self, Invalid> {
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
            step_times: Vec::new(),
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
