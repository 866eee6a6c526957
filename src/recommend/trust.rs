//! How far the model may be off: the errors of `docs/accuracy.csv` by what the step times
//! of a fleet are worth.
//!
//! What is nearest counts. A published deployment itself has errors of its own, with the
//! workers, policies, parameters and load of its file (between loads where each is a run of its
//! own, not a stage); those to which nothing was fitted, if there are any. Another fleet has those of the published deployments whose model is worth as much (measured,
//! composed), of the same policy where it was published, and only those to which nothing
//! was fitted. The time per output token of a deployment that was run for real has the
//! error over those runs. Where a class has nothing published, the largest error of the
//! others stands in, as a lower bound.
//!
//! Assumed: errors are normal around 0, so that a mean absolute error `e` is a standard
//! deviation of `e * sqrt(pi / 2)`.

use crate::accuracy::{AccuracyError, AccuracySettings, Record};
use crate::catalogue;
use crate::engine::model::{Model, Worth};
use crate::experiment::{Experiment, LoadOptions, Settings, model_of};
use crate::frontier::load_key;
use crate::metrics::Metric;
use crate::settings::number;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// A mean absolute error with what it was found on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelError {
    /// Mean absolute error: percent, or percentage points of ratios.
    pub mean_percent: f64,
    /// Numbers that it is the mean over.
    pub of: usize,
    /// Where it comes from, in words.
    pub from: String,
}

impl ModelError {
    /// The standard deviation as a share, or as a difference of ratios.
    pub(super) fn sd(&self) -> f64 {
        self.mean_percent / 100.0 * (std::f64::consts::PI / 2.0).sqrt()
    }
}

/// Whether the middle or the slow end of a time is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Middle,
    Tail,
}

/// What errors are pooled over: the metric as labels begin, and the part of it.
type Family = (&'static str, Option<Part>);

/// One line of the record, with what its deployment is worth.
#[derive(Clone, Debug)]
struct Line {
    worth: Worth,
    experiment: String,
    policy: String,
    metric: String,
    count: usize,
    mean_percent: f64,
    is_fitted: bool,
    deployment: Option<String>,
}

/// The published experiment that candidates are made of, as its file has it.
#[derive(Clone, Debug)]
struct Own {
    name: String,
    deployment: String,
    runs: Vec<Settings>,
}

impl Own {
    /// Whether a candidate is what was published, its load between those of the runs. Stages of
    /// one run are not looked at: a load of them counts as another fleet's.
    fn holds(&self, settings: &Settings) -> bool {
        let policy = &settings.policy;
        let parameters = policy.parameters();
        let Some((load, rest)) = load_and_rest(settings) else { return false };
        let alike = self.runs.iter().filter(|run| {
            run.pools == settings.pools
                && run.cluster == settings.cluster
                && run.router == settings.router
                && run.policy.name() == policy.name()
                && run.policy.parameters() == parameters
        });
        let loads: Vec<Option<f64>> = alike
            .filter_map(load_and_rest)
            .filter(|(_, other)| *other == rest)
            .map(|(load, _)| load)
            .collect();
        match load {
            None => loads.contains(&None),
            Some(load) => {
                let known = || loads.iter().flatten();
                known().any(|known| *known <= load) && known().any(|known| *known >= load)
            }
        }
    }
}

/// The load of a workload, where it is one number, and everything else of it.
fn load_and_rest(settings: &Settings) -> Option<(Option<f64>, Value)> {
    let mut rest = serde_json::to_value(&*settings.workload).ok()?;
    let load = load_key(&settings.workload).and_then(|key| {
        let path = key.strip_prefix("workload.")?;
        let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
        let pointer = if table.is_empty() { String::new() } else { format!("/{table}") };
        let table = rest.pointer_mut(&pointer.replace('.', "/"))?.as_object_mut()?;
        let (load, _) = table.remove(key).as_ref().and_then(number)?;
        Some(load)
    });
    Some((load, rest))
}

/// The errors that are known.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    record: Record,
    lines: Vec<Line>,
    own: Option<Own>,
}

impl Trust {
    /// Those that come with the program, for candidates of `experiment`.
    ///
    /// # Errors
    /// If what comes with the program cannot be read.
    pub(super) fn of(experiment: &Experiment) -> Result<Self, AccuracyError> {
        let settings = AccuracySettings::load(Path::new(catalogue::ACCURACY))?;
        let record = Record::read(&settings.record)?;
        let mut lines = Vec::new();
        for published in &settings.experiments {
            let Some(model) = model_of(&published.file) else { continue };
            let name = published.file.file_stem().unwrap_or_default().to_string_lossy();
            let of_this = record.published().filter(|mean| mean.experiment == name);
            lines.extend(of_this.map(|mean| Line {
                worth: model.worth(),
                experiment: mean.experiment.to_owned(),
                policy: mean.series.to_owned(),
                metric: mean.metric.to_owned(),
                count: mean.count,
                mean_percent: mean.mean_percent,
                // Without a comparison of arms nothing was fitted to it.
                is_fitted: published.gain.as_ref().is_some_and(|gain| gain.is_fitted(mean.series)),
                deployment: model.deployment.clone(),
            }));
        }
        let is_shipped = catalogue::is_shipped(experiment.file());
        let own = is_shipped.then(|| own(experiment)).flatten();
        let own = own.filter(|own| lines.iter().any(|line| line.experiment == own.name));
        Ok(Self { record, lines, own })
    }

    /// The error of a metric of a fleet; `None` where nothing was ever compared.
    pub(super) fn of_metric(&self, settings: &Settings, metric: &str) -> Option<ModelError> {
        let family = family(metric)?;
        let policy = settings.policy.name();
        let deployments: Vec<&str> =
            settings.models.iter().flatten().filter_map(|m| m.deployment.as_deref()).collect();
        if let Some(own) = &self.own
            && !deployments.is_empty()
            && deployments.iter().all(|known| *known == own.deployment)
            && own.holds(settings)
            && let Some(error) = self.of_own(own, policy, &Metric::of(metric).label)
        {
            return Some(error);
        }
        if family.0 == "ITL" {
            let runs = deployments.first().and_then(|deployment| {
                let (mean_percent, of) = self.record.of_runs(deployment)?;
                let from = format!("serving runs of {deployment}");
                Some(ModelError { mean_percent, of, from })
            });
            if let Some(error) = runs.filter(|_| deployments.len() == 1) {
                return Some(error);
            }
        }
        let worth = worth(settings);
        self.of_class(worth, policy, family).or_else(|| self.at_least(worth, policy, family))
    }

    /// The error of what was published of this very deployment. Other experiments of it may
    /// have a model that was not fitted to these results.
    fn of_own(&self, own: &Own, policy: &str, label: &str) -> Option<ModelError> {
        let is_of = |line: &&Line| line.policy == policy && line.metric == label;
        let by_name = |line: &&Line| is_of(line) && line.experiment == own.name;
        let held_out = |line: &&Line| {
            is_of(line) && !line.is_fitted && line.deployment.as_ref() == Some(&own.deployment)
        };
        let name = &own.name;
        let lines = || self.lines.iter();
        let as_published = format!("{name} as published, {policy}");
        pool(lines().filter(by_name).filter(|line| !line.is_fitted), &as_published)
            .or_else(|| {
                let from = format!("{as_published}, by a model that was not fitted to it");
                pool(lines().filter(held_out), &from)
            })
            .or_else(|| {
                let from = format!("{as_published}, to which the model was fitted");
                pool(lines().filter(by_name), &from)
            })
    }

    /// The error over published deployments that are worth as much.
    fn of_class(&self, worth: Worth, policy: &str, family: Family) -> Option<ModelError> {
        let of_class =
            |line: &&Line| line.worth == worth && !line.is_fitted && labels(family, &line.metric);
        let of_policy = |line: &&Line| of_class(line) && line.policy == policy;
        let named =
            |policy: &str| format!("published deployments whose step times are {worth}, {policy}");
        pool(self.lines.iter().filter(of_policy), &named(policy))
            .or_else(|| pool(self.lines.iter().filter(of_class), &named("all policies")))
            .or_else(|| {
                let (mean_percent, of) = self.record.of_all_runs().filter(|_| family.0 == "ITL")?;
                Some(ModelError { mean_percent, of, from: "all serving runs".to_owned() })
            })
    }

    /// The largest error of the classes that are known, for one that is not.
    fn at_least(&self, worth: Worth, policy: &str, family: Family) -> Option<ModelError> {
        let known = [Worth::Measured, Worth::Composed, Worth::Scaled, Worth::Borrowed];
        let errors = known.iter().filter_map(|worth| self.of_class(*worth, policy, family));
        let worst = errors.max_by(|a, b| a.mean_percent.total_cmp(&b.mean_percent))?;
        let from = format!(
            "{}; nothing is published of a fleet whose step times are {worth}, so the error is \
             at least that",
            worst.from
        );
        Some(ModelError { from, ..worst })
    }
}

/// What the step times of a fleet are worth: as much as those of its worst pool.
pub(super) fn worth(settings: &Settings) -> Worth {
    let of_pool = |model: &Option<std::sync::Arc<Model>>| {
        model.as_ref().map_or(Worth::Assumed, |model| model.worth())
    };
    settings.models.iter().map(of_pool).max().unwrap_or(Worth::Assumed)
}

/// The mean over lines, each weighed by its cells.
fn pool<'a>(lines: impl Iterator<Item = &'a Line>, from: &str) -> Option<ModelError> {
    let (mut of, mut sum) = (0, 0.0);
    for line in lines {
        of += line.count;
        sum += line.mean_percent * line.count as f64;
    }
    (of > 0).then(|| ModelError { mean_percent: sum / of as f64, of, from: from.to_owned() })
}

/// The family of a metric; `None` of what nothing was compared of.
fn family(metric: &str) -> Option<Family> {
    let of = Metric::of(metric);
    let part = match of.name.rsplit_once('_') {
        Some((_, "mean" | "p50")) => Part::Middle,
        _ => Part::Tail,
    };
    match of.stem.as_str() {
        "ttft_ms" | "engine_ttft_ms" => Some(("TTFT", Some(part))),
        "itl_ms" | "inter_token_ms" => Some(("ITL", None)),
        "e2e_ms" => Some(("end to end", Some(part))),
        "output_tokens_per_s" => Some(("throughput", None)),
        "requests_per_s" => Some(("request rate", None)),
        "hit_ratio" => Some(("hit ratio", None)),
        _ => None,
    }
}

/// Whether a label of the record belongs to a family.
fn labels((start, part): Family, label: &str) -> bool {
    let Some(rest) = label.strip_prefix(start) else { return false };
    match (part, rest.trim()) {
        (None, _) => true,
        (Some(Part::Middle), rest) => ["mean", "p50"].contains(&rest),
        (Some(Part::Tail), rest) => ["p90", "p95", "p99"].contains(&rest),
    }
}

/// What an experiment's file has, whatever was changed in it.
fn own(experiment: &Experiment) -> Option<Own> {
    let plain = Experiment::load(experiment.file(), &LoadOptions::default()).ok()?;
    let models = &plain.runs.first()?.settings.models;
    let deployment = models.first()?.as_ref()?.deployment.clone()?;
    let runs = plain.runs.iter().map(|run| run.settings.clone()).collect();
    Some(Own { name: plain.name, deployment, runs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, overrides: &[&str]) -> Experiment {
        let options = LoadOptions::default().set_all(overrides.iter().copied());
        Experiment::load(Path::new(name), &options).expect("loads")
    }

    fn error(experiment: &Experiment, metric: &str) -> Option<ModelError> {
        let trust = Trust::of(experiment).expect("shipped");
        trust.of_metric(&experiment.runs[0].settings, metric)
    }

    #[test]
    fn every_published_deployment_is_worth_something() {
        let experiment = load("doks-3xh200", &["router.policy=kv"]);
        let trust = Trust::of(&experiment).expect("shipped");
        let named: Vec<&str> = trust.record.published().map(|mean| mean.experiment).collect();
        for name in named {
            assert!(trust.lines.iter().any(|line| line.experiment == name), "{name}");
        }
        let fitted = |name: &str, policy: &str| {
            let of = |line: &&Line| line.experiment == name && line.policy == policy;
            trust.lines.iter().find(of).expect(name).is_fitted
        };
        assert!(fitted("doks-3xh200", "kv") && fitted("doks-3xh200-rr-fit", "round_robin"));
        assert!(!fitted("doks-3xh200-rr-fit", "kv") && !fitted("h100-4xtp2", "kv"));
    }

    #[test]
    fn a_published_deployment_has_its_own_errors_and_another_model_those_of_its_class() {
        let own = load("doks-3xh200", &["router.policy=kv", "workload.concurrency=60"]);
        let found = error(&own, "ttft_ms_p95").expect("published");
        assert!(found.from.starts_with("doks-3xh200 as published"), "{found:?}");
        let other = load(
            "doks-3xh200",
            &["router.policy=kv", "cluster.model=llama-3.1-70b-fp8-h100-tp2-trtllm"],
        );
        let class = error(&other, "ttft_ms_p95").expect("published");
        assert!(class.from.contains("published deployments"), "{class:?}");
        let least = load("doks-3xh200", &["router.policy=least_loaded"]);
        let least = error(&least, "ttft_ms_p95").expect("of the class");
        assert!(least.from.ends_with("all policies"), "{least:?}");
    }

    #[test]
    fn only_what_was_published_has_its_own_errors() {
        let from = |load_of: &str, overrides: &[&str]| {
            let kv = ["router.policy=kv", load_of];
            let experiment = load("doks-3xh200", &[&kv[..], overrides].concat());
            error(&experiment, "ttft_ms_p95").expect("an error").from
        };
        let own = from("workload.concurrency=60", &[]);
        assert!(own.starts_with("doks-3xh200 as published"), "{own}");
        assert!(own.ends_with("not fitted to it"), "held out: {own}");
        for changed in [
            "cluster.workers=8",
            "router.overlap_weight=3.7",
            "engine.max_num_seqs=3",
            "workload.starters=2",
        ] {
            let other = from("workload.concurrency=60", &[changed]);
            assert!(!other.contains("as published"), "{changed}: {other}");
        }
        let other = from("workload.concurrency=500", &[]);
        assert!(!other.contains("as published"), "beyond what was published: {other}");
    }

    #[test]
    fn what_was_never_compared_has_no_error() {
        let own = load("doks-3xh200", &["router.policy=kv"]);
        assert_eq!(error(&own, "error_ratio"), None);
        assert_eq!(error(&own, "preemptions"), None);
        assert!(error(&own, "itl_ms_p95").is_some());
    }

    #[test]
    fn times_that_a_file_gives_are_no_better_than_the_worst_that_is_known() {
        let assumed = load("doks-3xh200", &["router.policy=kv", "cluster.model=fixed-20-10"]);
        let found = error(&assumed, "ttft_ms_p95").expect("a lower bound");
        assert!(found.from.contains("at least"), "{found:?}");
    }
}
