//! From the text of an experiment to validated runs.

use super::document::{Document, NOTHING};
use super::error::{ExperimentError, Place};
use super::measure::{Levels, MeasureSettings, Shown, SloSettings};
use super::sweep::{self, Axis};
use crate::engine::model::Model;
use crate::engine::settings::{EngineConfig, EngineSettings};
use crate::router::PolicySpec;
use crate::router::settings::RouterSettings;
use crate::settings::{self, Invalid};
use crate::time::{SimDuration, SimTime};
use crate::workload::{WorkloadSettings, WorkloadSource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most workers of a fleet (assumed: far above any fleet behind one router).
const MAX_WORKERS: u32 = 100_000;

/// The longest simulated time of one run; the clock itself ends at 213 days.
const MAX_RUN: SimDuration = SimDuration::from_secs(100 * 86_400);

/// The axis that is folded into one run when levels follow each other.
const LEVEL_KEY: &str = "workload.concurrency";

/// Dotted keys with the values that a point has there.
pub type Params = BTreeMap<String, serde_json::Value>;

/// A validated experiment: everything that will run, and how to tell it apart
/// from others.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Its name; also the name of its output folder.
    pub name: String,
    /// One sentence for people; may be empty.
    pub description: String,
    /// The seeds of every run, in order; at least one, all different.
    pub seeds: Vec<u64>,
    /// The combinations of swept values, in sweep order, the last axis fastest.
    pub points: Vec<Params>,
    /// The runs; between them, their levels cover every point once.
    pub runs: Vec<RunSpec>,
    /// SHA-256 over the resolved settings, hexadecimal: equal for files that
    /// differ in comments, layout, name or description only.
    pub config_hash: String,
    document: Document,
}

/// One simulation per seed.
#[derive(Clone, Debug)]
pub struct RunSpec {
    /// What to simulate.
    pub settings: Settings,
    /// Concurrent conversations of each level, in order; a single 0 for an open
    /// loop, which has no such number.
    pub levels: Vec<u32>,
    /// For each level, its index in [`Experiment::points`].
    pub points: Vec<usize>,
}

impl RunSpec {
    /// When the run is over; `None` if its workload decides.
    pub fn duration(&self) -> Option<SimTime> {
        let measure = &self.settings.measure;
        let level = measure.warmup + measure.window?;
        Some(SimTime::ZERO + level * self.levels.len() as u64)
    }
}

/// Everything one run needs, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The fleet.
    pub cluster: ClusterSettings,
    /// Each of its workers.
    pub engine: EngineConfig,
    /// The router in front of it.
    pub router: RouterSettings,
    /// The policy that it names.
    pub policy: PolicySpec,
    /// The requests.
    pub workload: WorkloadSettings,
    /// What is measured.
    pub measure: MeasureSettings,
    /// Targets, if any.
    pub slo: Option<SloSettings>,
    /// What `workload` needs from files, in memory.
    pub source: WorkloadSource,
}

/// The `[cluster]` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Number of workers.
    #[serde(deserialize_with = "settings::count")]
    pub workers: u32,
    /// A model file, relative to the experiment; not needed if `[engine]` gives everything.
    pub model: Option<String>,
}

impl ClusterSettings {
    fn validate(&self) -> Result<(), Invalid> {
        let allowed = format!("from 1 to {MAX_WORKERS}");
        Invalid::unless(
            (1..=MAX_WORKERS).contains(&self.workers),
            "workers",
            self.workers,
            &allowed,
        )
    }
}

/// What the command line adds to an experiment file.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// `KEY=VALUE` with dotted keys; the value is read as TOML, else as text.
    pub overrides: Vec<String>,
    /// Folder of public traces.
    pub traces: Option<PathBuf>,
    /// Policies that `router.policy` may name besides this crate's.
    pub policies: Vec<PolicySpec>,
}

impl Experiment {
    /// Reads and checks an experiment file. Every point of the sweep is checked.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(file: &Path, options: &LoadOptions) -> Result<Self, ExperimentError> {
        Self::from_document(Document::read(file)?, options)
    }

    /// As [`load`](Self::load), from text; `file` names it in messages, and
    /// relative paths start in its folder.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(file: &Path, text: &str, options: &LoadOptions) -> Result<Self, ExperimentError> {
        Self::from_document(Document::parse(file, text)?, options)
    }

    /// The `[published]` section, whose shape belongs to the reports.
    ///
    /// # Errors
    /// What does not fit that shape, with its place.
    pub fn published<T: DeserializeOwned>(&self) -> Result<Option<T>, ExperimentError> {
        self.document.optional("published")
    }

    /// The folder that paths in the experiment are relative to.
    pub fn folder(&self) -> &Path {
        self.document.folder()
    }

    /// Everything that was set and changes numbers, overrides included, with
    /// sorted keys: `settings` by section, and `sweep`.
    pub fn settings(&self) -> serde_json::Value {
        self.document.canonical()
    }

    fn from_document(
        mut document: Document,
        options: &LoadOptions,
    ) -> Result<Self, ExperimentError> {
        for argument in &options.overrides {
            document.set_argument(argument)?;
        }
        let name = name(&document)?;
        let description = text(&document, "description")?.unwrap_or_default();
        let axes = sweep::axes(&document)?;
        let mut resolver = Resolver {
            traces: options.traces.clone(),
            policies: options.policies.clone(),
            ..Resolver::default()
        };
        let mut experiment = Self {
            name,
            description,
            seeds: Vec::new(),
            points: Vec::new(),
            runs: Vec::new(),
            config_hash: String::new(),
            document,
        };
        experiment.add_points(&axes, &mut resolver)?;
        experiment.config_hash = resolver.config_hash(&experiment.document);
        Ok(experiment)
    }

    fn add_points(
        &mut self,
        axes: &[Axis],
        resolver: &mut Resolver,
    ) -> Result<(), ExperimentError> {
        let level_axis = axes.iter().position(|axis| axis.key == LEVEL_KEY);
        // The run that the levels of one combination of all other axes belong to.
        let mut sequences: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        for mut indices in sweep::combinations(axes) {
            let mut document = self.document.clone();
            let mut params = Params::new();
            for (axis, &index) in axes.iter().zip(&indices) {
                let place = self.document.place_of_axis(&axis.key);
                let (name, settings) = sweep::sets(axis, index);
                for (key, value) in settings {
                    document.set(&key, value, place.clone())?;
                }
                params.insert(axis.key.clone(), serde_json::json!(name));
            }
            let settings = resolver
                .resolve(&document)
                .map_err(|error| self.at_point(error, &params, resolver))?;
            if let Some(policy) = document.get("router.policy") {
                params.insert("router.policy".to_owned(), serde_json::json!(policy));
            }
            let point = self.points.len();
            self.points.push(params);
            self.seeds.clone_from(&settings.measure.seeds);

            let level = settings.workload.concurrency().unwrap_or(0);
            if let (Levels::InSequence, Some(axis)) = (settings.measure.levels, level_axis) {
                indices.remove(axis);
                let run = *sequences.entry(indices).or_insert(self.runs.len());
                if let Some(run) = self.runs.get_mut(run) {
                    run.levels.push(level);
                    run.points.push(point);
                    check_length(&document, run)?;
                    continue;
                }
            }
            let run = RunSpec { settings, levels: vec![level], points: vec![point] };
            check_length(&document, &run)?;
            self.runs.push(run);
        }
        Ok(())
    }

    /// Names the point, if the sweep is what makes the experiment wrong and the
    /// error does not say so.
    fn at_point(
        &self,
        error: ExperimentError,
        params: &Params,
        resolver: &mut Resolver,
    ) -> ExperimentError {
        let swept = matches!(
            &error,
            ExperimentError::Value { place, .. } | ExperimentError::UnknownKey { place, .. }
                if matches!(place, Place::Sweep(..) | Place::Argument(_))
        );
        if swept || resolver.resolve(&self.document).err().as_ref() == Some(&error) {
            return error;
        }
        ExperimentError::AtPoint { point: show(params), source: Box::new(error) }
    }
}

/// Parameters on one line.
pub(super) fn show(params: &Params) -> String {
    // A key in quotes may hold line breaks; its value is shown escaped.
    let key = |key: &str| key.replace(char::is_control, " ");
    let pairs = params.iter().map(|(name, value)| format!("{} = {value}", key(name)));
    let pairs: Vec<String> = pairs.collect();
    pairs.join(", ")
}

/// Turns documents into settings, reading every file once.
#[derive(Default)]
struct Resolver {
    traces: Option<PathBuf>,
    policies: Vec<PolicySpec>,
    models: BTreeMap<String, Arc<Model>>,
    /// Of the workloads that are read from files.
    sources: Vec<(WorkloadSettings, WorkloadSource)>,
}

impl Resolver {
    fn resolve(&mut self, document: &Document) -> Result<Settings, ExperimentError> {
        let invalid = |section| move |invalid| document.invalid(section, invalid);
        let cluster: ClusterSettings = document.section("cluster")?;
        cluster.validate().map_err(invalid("cluster"))?;
        let model = match &cluster.model {
            Some(path) => Some(self.model(document, path)?),
            None => None,
        };
        let engine: EngineSettings = document.section("engine")?;
        let engine = match &model {
            Some(model) => model.engine_config(&engine),
            None => engine.resolve(None),
        }
        .map_err(invalid("engine"))?;
        let router: RouterSettings = document.section("router")?;
        let policy = router.validate_among(&self.policies).map_err(invalid("router"))?;
        router.validate_for(cluster.workers).map_err(invalid("router"))?;
        let workload: WorkloadSettings = document.section("workload")?;
        workload.validate(engine.block_size).map_err(invalid("workload"))?;
        let measure: MeasureSettings = document.section("measure")?;
        measure.validate().map_err(invalid("measure"))?;
        if measure.window.is_none() && workload.is_endless() {
            let allowed = "given: a closed loop never ends by itself";
            return Err(document.invalid("measure", Invalid::new("window", NOTHING, allowed)));
        }
        let slo: Option<SloSettings> = document.optional("slo")?;
        if let Some(slo) = &slo {
            slo.validate().map_err(invalid("slo"))?;
        }
        let source = self.source(document, &workload)?;
        Ok(Settings { cluster, engine, router, policy, workload, source, measure, slo })
    }

    fn model(&mut self, document: &Document, path: &str) -> Result<Arc<Model>, ExperimentError> {
        if let Some(model) = self.models.get(path) {
            return Ok(Arc::clone(model));
        }
        let model = Model::load(&document.folder().join(path)).map_err(|error| {
            let problem = error.to_string().replace('\n', ", ");
            document.value_error("cluster.model", &toml::Value::String(path.to_owned()), &problem)
        })?;
        let model = Arc::new(model);
        self.models.insert(path.to_owned(), Arc::clone(&model));
        Ok(model)
    }

    fn source(
        &mut self,
        document: &Document,
        workload: &WorkloadSettings,
    ) -> Result<WorkloadSource, ExperimentError> {
        if let Some((_, source)) = self.sources.iter().find(|(known, _)| known == workload) {
            return Ok(source.clone());
        }
        let source = workload.load(document.folder(), self.traces.as_deref()).map_err(|error| {
            let problem = error.to_string().replace('\n', ", ");
            ExperimentError::Workload { place: document.place("workload"), problem }
        })?;
        // A closed loop reads no files, and a sweep may make very many of them.
        if workload.concurrency().is_none() {
            self.sources.push((workload.clone(), source.clone()));
        }
        Ok(source)
    }

    /// Covers the document and what the model files say, not only their names.
    fn config_hash(&self, document: &Document) -> String {
        let mut hash = Sha256::new();
        hash.update(document.canonical().to_string());
        for (path, model) in &self.models {
            hash.update(format!("\n{path}\n{model:?}"));
        }
        hex(&hash.finalize())
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time of all levels must fit the clock.
fn check_length(document: &Document, run: &RunSpec) -> Result<(), ExperimentError> {
    let measure = &run.settings.measure;
    let Some(window) = measure.window else { return Ok(()) };
    let levels = run.levels.len() as u64;
    if (measure.warmup + window) * levels <= MAX_RUN {
        return Ok(());
    }
    let allowed =
        format!("so short that {levels} levels of warmup and window last at most 100 days");
    Err(document.invalid("measure", Invalid::new("window", Shown(window), allowed)))
}

fn text(document: &Document, key: &str) -> Result<Option<String>, ExperimentError> {
    match document.get(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(document.value_error(key, other, "must be text in quotes")),
    }
}

/// The name becomes a folder, so it must not lead anywhere else.
fn name(document: &Document) -> Result<String, ExperimentError> {
    let Some(name) = text(document, "name")? else {
        return Err(ExperimentError::Missing {
            place: document.place("name"),
            key: "name".into(),
            hint: String::new(),
        });
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let problem = "must be 1 to 100 letters, digits, '-', '_' or '.', not starting with '.'";
        return Err(document.value_error("name", &toml::Value::String(name), problem));
    }
    Ok(name)
}
