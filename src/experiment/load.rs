//! From the text of an experiment to validated runs.

use super::cluster::{ClusterSettings, Written, WrittenAt};
use super::controls;
use super::document::Document;
use super::effects::Effects;
use super::error::ExperimentError;
use super::files::read_at_most;
use super::measure::{Levels, MeasureSettings, SloSettings};
use super::run_spec::{Params, RunSpec, Settings};
use super::sweep::{self, SweptKey};
use crate::catalogue;
use crate::engine::model::{Model, ModelChoice};
use crate::engine::rules::ForeignKey;
use crate::engine::settings::{EngineConfig, EngineSettings, RulesName, check_pool_keys, put_over};
use crate::fleet::{Pool, Pools};
use crate::router::feed::FeedSettings;
use crate::router::settings::{FrontEndSettings, RouterSettings};
use crate::router::{PolicyFactory, Registry};
use crate::settings::{Invalid, NOTHING, Place, SettingsError, Sheet, duration_text};
use crate::time::{SimDuration, SimTime};
use crate::workload::distribution::{Distribution, Tokens};
use crate::workload::{WorkloadSettings, WorkloadSource};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration of a policy is at most so long (assumed: a hundred times those of guides).
const MOST_CONFIG_BYTES: u64 = 1 << 20;

/// So much of a program tells it apart from others.
const MOST_PROGRAM_BYTES: u64 = 256 << 20;

/// The longest simulated time of one run; the clock itself ends at 213 days.
const MAX_RUN: SimDuration = SimDuration::from_secs(100 * 86_400);

/// The axis that is folded into one run when levels follow each other.
const LEVEL_KEY: &str = "workload.concurrency";

/// The key in which the points of a load in stages differ.
const STAGE_KEY: &str = "workload.rate";

/// What tells apart the points of one run.
pub(crate) const LEVEL_KEYS: [&str; 2] = [LEVEL_KEY, STAGE_KEY];

/// A validated experiment: everything that will run, and how to tell it apart
/// from others.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
    /// What the user should know before it runs, a line each.
    pub notices: Vec<String>,
    /// Those of them that results must not be shown without: which models' step times are
    /// borrowed or scaled.
    pub marks: Vec<String>,
    document: Document,
}

/// What a program adds to an experiment file.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// `KEY=VALUE` with dotted keys; the value is read as TOML, else as text.
    pub overrides: Vec<String>,
    /// Folder of public traces.
    pub traces: Option<PathBuf>,
    /// Policies that `router.policy` may name besides this crate's.
    pub policies: Vec<Arc<dyn PolicyFactory>>,
    /// What messages call an override: `override`, or the argument that a program takes it
    /// from.
    pub overrides_called: &'static str,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let (overrides, policies) = (Vec::new(), Vec::new());
        Self { overrides, traces: None, policies, overrides_called: "override" }
    }
}

impl LoadOptions {
    /// Sets a key: `KEY=VALUE` with a dotted key. Of two values for one key the later
    /// one holds.
    pub fn set(mut self, argument: impl Into<String>) -> Self {
        self.overrides.push(argument.into());
        self
    }

    /// Sets keys, as [`set`](Self::set) does, in order.
    pub fn set_all<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.overrides.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds a policy that `router.policy` may name.
    pub fn policy(mut self, policy: impl PolicyFactory + 'static) -> Self {
        self.policies.push(Arc::new(policy));
        self
    }
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
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn published<T: DeserializeOwned>(&self) -> Result<Option<T>, ExperimentError> {
        self.document.optional("published")
    }

    /// Where it came from: on disk, or among the files that come with the program.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn file(&self) -> &Path {
        self.document.file()
    }

    /// The folder that the path at this key is relative to: that of the file that
    /// gives it.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn folder_of(&self, key: &str) -> &Path {
        self.document.folder_of(key)
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
            document.set_argument(argument, options.overrides_called)?;
        }
        let name = name(&document)?;
        let description = text(&document, "description")?.unwrap_or_default();
        let axes = sweep::axes(&document)?;
        let mut resolver = Resolver {
            traces: options.traces.clone(),
            registry: Registry::with(&options.policies)
                .map_err(|invalid| document.invalid("router", invalid))?,
            ..Resolver::default()
        };
        let mut experiment = Self {
            name,
            description,
            seeds: Vec::new(),
            points: Vec::new(),
            runs: Vec::new(),
            config_hash: String::new(),
            notices: Vec::new(),
            marks: Vec::new(),
            document,
        };
        experiment.add_points(&axes, &mut resolver)?;
        experiment.notices.extend(resolver.notices());
        experiment.marks = resolver.marks();
        controls::check_used(&experiment.document, &resolver.controlled)?;
        experiment.config_hash = resolver.config_hash(&experiment.document);
        Ok(experiment)
    }

    fn add_points(
        &mut self,
        axes: &[SweptKey],
        resolver: &mut Resolver,
    ) -> Result<(), ExperimentError> {
        let level_axis = axes.iter().position(|axis| axis.key == LEVEL_KEY);
        // The run that the levels of one combination of all other axes belong to.
        let mut sequences: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
        // By run, all that its first point says and its policy sees.
        let mut seen: Vec<[u8; 32]> = Vec::new();
        let mut effects = Effects::new(axes, &resolver.registry);
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
            if self.points.is_empty() {
                let commas = decimal_commas(&document, resolver);
                self.notices.extend(commas.into_iter().chain(clamped(&document)));
            }
            if let Some(policy) = document.get("router.policy") {
                params.insert("router.policy".to_owned(), serde_json::json!(policy));
            }
            effects.note(&document, &settings);
            self.seeds.clone_from(&settings.measure.seeds);
            let point = self.points.len();
            let stages = settings.workload.stages().iter().enumerate();
            let (levels, rates): (Vec<u32>, Vec<f64>) = stages
                .filter(|(_, stage)| stage.measured)
                .map(|(at, stage)| (u32::try_from(at).expect("few stages"), stage.rate))
                .unzip();
            if !levels.is_empty() {
                self.points.extend(rates.iter().map(|&rate| {
                    let mut params = params.clone();
                    params.insert(STAGE_KEY.to_owned(), plain_number(rate));
                    params
                }));
                seen.push(seen_by_policy(&document, &settings));
                let points = (point..self.points.len()).collect();
                self.runs.push(RunSpec { settings, levels, points, same_as: None });
                continue;
            }
            self.points.push(params);

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
            seen.push(seen_by_policy(&document, &settings));
            let (levels, points) = (vec![level], vec![point]);
            let run = RunSpec { settings, levels, points, same_as: None };
            check_length(&document, &run)?;
            self.runs.push(run);
        }
        let mut known: BTreeMap<(&[u8; 32], Vec<u32>), usize> = BTreeMap::new();
        for (index, (run, seen)) in self.runs.iter_mut().zip(&seen).enumerate() {
            let first = *known.entry((seen, run.levels.clone())).or_insert(index);
            run.same_as = Some(first).filter(|first| *first < index);
        }
        self.notices.extend(effects.notices());
        Ok(())
    }

    /// Keeps the runs of which every point is wanted, and their points. Each of them is
    /// simulated by itself, whatever it was the same as.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn retain(&mut self, wanted: impl Fn(&Params) -> bool) {
        let mut points = Vec::new();
        self.runs.retain_mut(|run| {
            if !run.points.iter().all(|&point| wanted(&self.points[point])) {
                return false;
            }
            run.same_as = None;
            for point in &mut run.points {
                points.push(self.points[*point].clone());
                *point = points.len() - 1;
            }
            true
        });
        self.points = points;
    }

    /// Simulations that a run of all takes: one per run and seed, unless it is
    /// the same as another one.
    pub fn simulations(&self) -> usize {
        self.runs.iter().filter(|run| run.same_as.is_none()).count() * self.seeds.len()
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
            ExperimentError::Settings(
                SettingsError::Value { place, .. } | SettingsError::UnknownKey { place, .. },
            ) if matches!(place, Place::Sweep(..) | Place::Argument(_))
        );
        if swept || resolver.resolve(&self.document).err().as_ref() == Some(&error) {
            return error;
        }
        ExperimentError::AtPoint { point: show(params), source: Box::new(error) }
    }
}

/// Whole numbers without a decimal point, as people write them.
fn plain_number(value: f64) -> serde_json::Value {
    format!("{value}").parse().unwrap_or_else(|_| serde_json::json!(value))
}

/// What was typed as two whole numbers and could be one with a decimal comma.
fn decimal_commas(document: &Document, resolver: &mut Resolver) -> Vec<String> {
    let meant = |(key, text): &(String, String)| {
        let number: f64 = text.replace(',', ".").parse().ok()?;
        let mut decimal = document.clone();
        decimal.set(key, toml::Value::Float(number), document.place(key)).ok()?;
        resolver.resolve(&decimal).ok()?;
        let values = text.replace(',', " and ");
        Some(format!("{key}={text} is two values, {values}; with a decimal point it is {number}"))
    };
    document.typed_pairs().iter().filter_map(meant).collect()
}

/// Distributions of the workload whose bounds move their means.
fn clamped(document: &Document) -> Vec<String> {
    let Some(workload) = document.get("workload").and_then(toml::Value::as_table) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut open: Vec<(String, &toml::Table)> = vec![("workload".to_owned(), workload)];
    while let Some((key, table)) = open.pop() {
        let value = || toml::Value::Table(table.clone());
        let tokens = value().try_into::<Distribution<Tokens>>().ok();
        let tokens = tokens.filter(|d| d.validate().is_ok()).and_then(|d| d.clamping());
        let time = || value().try_into::<Distribution<SimDuration>>().ok();
        let time = || time().filter(|d| d.validate().is_ok()).and_then(|d| d.clamping());
        let place = document.place(&key);
        found.extend(tokens.or_else(time).map(|words| format!("{place}: {key}: {words}")));
        for (name, value) in table {
            let key = format!("{key}.{name}");
            match value {
                toml::Value::Table(table) => open.push((key, table)),
                toml::Value::Array(list) => {
                    let tables =
                        list.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_table()?)));
                    open.extend(tables.map(|(place, table)| (format!("{key}[{place}]"), table)));
                }
                _ => {}
            }
        }
    }
    found.sort_unstable();
    found
}

/// SHA-256 over what a point's document says, of its router only what the policy
/// sees: runs that differ in nothing else are one.
fn seen_by_policy(document: &Document, settings: &Settings) -> [u8; 32] {
    let Settings { router, policy, controls, .. } = settings;
    let mut seen = document.settings();
    if !controls.is_empty() {
        // They may bring another policy, and may be for some points only.
        return Sha256::digest(format!("{seen}{controls:?}")).into();
    }
    let mut front_ends = FrontEndSettings::clone(router);
    if !policy.wants().kv_events {
        front_ends.feed = FeedSettings::default();
    }
    seen["router"] = serde_json::json!({
        "policy": policy.name(),
        "parameters": policy.parameters().to_string(),
        "front_ends": front_ends,
    });
    Sha256::digest(seen.to_string()).into()
}

/// Parameters on one line.
pub(super) fn show(params: &Params) -> String {
    // A key in quotes may hold line breaks; its value is shown escaped.
    let key = |key: &str| key.replace(char::is_control, " ");
    let pairs = params.iter().map(|(name, value)| format!("{} = {value}", key(name)));
    let pairs: Vec<String> = pairs.collect();
    pairs.join(", ")
}

/// What pools run, in their order; `None` where `[engine]` says everything.
type Models = Arc<[Option<Arc<Model>>]>;

/// The latest values that differ: most points of a sweep have one of them, and hold it
/// together.
struct Latest<T>(Vec<Arc<T>>);

/// So many, that finding one costs little (assumed).
const KEPT: usize = 32;

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: PartialEq> Latest<T> {
    /// The value, held together with those that equal it.
    fn share(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.0.iter().find(|known| ***known == value) {
            return Arc::clone(known);
        }
        let value = Arc::new(value);
        self.0.truncate(KEPT - 1);
        self.0.insert(0, Arc::clone(&value));
        value
    }
}

/// Turns documents into settings, reading every file once.
#[derive(Default)]
struct Resolver {
    traces: Option<PathBuf>,
    registry: Registry,
    /// By the choice as written, and where its paths start.
    models: BTreeMap<(String, PathBuf), Arc<Model>>,
    engines: Latest<EngineConfig>,
    clusters: Latest<ClusterSettings>,
    pools: Latest<Pools>,
    front_ends: Latest<FrontEndSettings>,
    measures: Latest<MeasureSettings>,
    /// The workloads that differ: all that are read from files, in order of reading, and the
    /// latest of the others, of which a sweep may make very many.
    workloads: Vec<(Arc<WorkloadSettings>, Arc<WorkloadSource>)>,
    /// The configurations of policies that were read, by name.
    configs: BTreeMap<(String, PathBuf), String>,
    /// The commands that simulations run, by what they are and where they run, with the
    /// digest of the files that they name.
    commands: BTreeMap<(Vec<String>, PathBuf), String>,
    /// Controls that some simulation has.
    controlled: BTreeSet<usize>,
}

impl Resolver {
    fn resolve(&mut self, document: &Document) -> Result<Settings, ExperimentError> {
        let invalid = |section| move |invalid| document.invalid(section, invalid);
        let cluster: ClusterSettings = document.section("cluster")?;
        cluster.validate().map_err(invalid("cluster"))?;
        let (mut pools, models) = self.pools(document, &cluster)?;
        let mut router: RouterSettings = document.section("router")?;
        self.read_config(document, &mut router)?;
        self.find_command(document, &mut router)?;
        if let Some(unknown) = self.registry.find_unknown(&router.parameters) {
            let keys = self.registry.keys_for(unknown, &router.policy);
            return Err(document.unknown(&format!("router.{unknown}"), &keys));
        }
        if pools.pools().len() == 1 {
            pools.make_room(cluster.slots());
        }
        let (router, policy) = router
            .resolve(&self.registry, &pools.ranks(), Some(pools.sides().are_two()))
            .map_err(invalid("router"))?;
        let workload: WorkloadSettings = document.section("workload")?;
        workload.validate().map_err(invalid("workload"))?;
        let measure: MeasureSettings = document.section("measure")?;
        measure.validate().map_err(invalid("measure"))?;
        if !workload.stages().is_empty() {
            let allowed = "left out: a stage is measured from its first request to its last answer";
            for (key, time) in [("window", measure.window), ("warmup", Some(measure.warmup))] {
                let time = time.filter(|time| key == "window" || !time.is_zero());
                if let Some(time) = time {
                    let invalid = Invalid::new(key, duration_text(time), allowed);
                    return Err(document.invalid("measure", invalid));
                }
            }
        }
        if measure.window.is_none() && workload.is_endless() {
            let allowed = "given: this workload never ends by itself";
            return Err(document.invalid("measure", Invalid::new("window", NOTHING, allowed)));
        }
        let slo: Option<SloSettings> = document.optional("slo")?;
        if let Some(slo) = &slo {
            slo.validate().map_err(invalid("slo"))?;
        }
        let (workload, source) = self.workload(document, workload)?;
        let settings = Settings {
            cluster: self.clusters.share(cluster),
            pools: self.pools.share(pools),
            models,
            router: self.front_ends.share(router),
            policy,
            workload,
            source,
            measure: self.measures.share(measure),
            slo,
            controls: Vec::new(),
        };
        let all = controls::read(document)?;
        let chosen = controls::applicable(document, &all);
        let controls = controls::resolve(document, &all, &chosen, &settings)?;
        self.controlled.extend(chosen);
        let mut settings = Settings { controls, ..settings };
        let slots = settings.plan().slots();
        if settings.pools.pools().len() == 1 && settings.pools.slots() < slots {
            let mut pools = Pools::clone(&settings.pools);
            pools.make_room(slots);
            settings.pools = self.pools.share(pools);
        }
        Ok(settings)
    }

    /// The workers, pool by pool.
    fn pools(
        &mut self,
        document: &Document,
        cluster: &ClusterSettings,
    ) -> Result<(Pools, Models), ExperimentError> {
        if cluster.pool.is_empty() && cluster.prefill.workers.is_none() {
            // They have no effect, but must make sense.
            for section in ["cluster.prefill.engine", "cluster.decode.engine"] {
                let _: EngineSettings = document.section(section)?;
            }
        }
        // What is wrong there is not a pool's.
        let _: EngineSettings = document.section("engine")?;
        let written = cluster.written();
        let (mut pools, mut models) = (Vec::new(), Vec::new());
        for pool in &written {
            let (pool, model) = self.pool(document, pool)?;
            pools.push(pool);
            models.push(model);
        }
        check_rules(document, &written, &pools)?;
        let pools =
            Pools::new(pools, cluster.network.link()).map_err(|(at, wrong)| {
                match written[at].place.key(&wrong.key) {
                    Some(key) => document.invalid("cluster", Invalid { key, ..wrong }),
                    None => {
                        let key = wrong.key.trim_start_matches("engine.").to_owned();
                        document.invalid("engine", Invalid { key, ..wrong })
                    }
                }
            })?;
        Ok((pools, models.into()))
    }

    fn pool(
        &mut self,
        document: &Document,
        written: &Written<'_>,
    ) -> Result<(Pool, Option<Arc<Model>>), ExperimentError> {
        let Written { name, role, workers, spare, model, engine, place } = *written;
        let model = match model {
            Some(choice) => {
                let own = place.key("model").map(|key| format!("cluster.{key}"));
                let own = own.filter(|key| document.is_given(key));
                let key = own.unwrap_or_else(|| "cluster.model".to_owned());
                Some(self.model(document, choice, &key)?)
            }
            None => None,
        };
        let common = document.sheet("engine")?;
        check_pool_keys(&common)?;
        let merged = match (engine, place) {
            (_, WrittenAt::Cluster) | (None, _) => common,
            (Some(engine), _) => {
                let key = place.key("engine").unwrap_or_default();
                let own = document.part(&format!("cluster.{key}"), engine);
                check_pool_keys(&own)?;
                put_over(own, common)
            }
        };
        let engine = self.engines.share(worker(merged, model.as_deref())?);
        Ok((Pool { name: name.to_owned(), role, workers, spare, engine }, model))
    }

    /// Puts what a policy's configuration file says in the place of its name.
    fn read_config(
        &mut self,
        document: &Document,
        router: &mut RouterSettings,
    ) -> Result<(), ExperimentError> {
        const KEY: &str = "router.config";
        let Some(toml::Value::String(name)) = router.parameters.get_mut("config") else {
            return Ok(());
        };
        if name.is_empty() {
            return Ok(());
        }
        let folder = document.folder_of(KEY);
        let known = (name.clone(), folder.to_owned());
        let text = match self.configs.get(&known) {
            Some(text) => text.clone(),
            None => {
                let text = read_at_most(&catalogue::join(folder, name.as_ref()), MOST_CONFIG_BYTES);
                let written = toml::Value::String(name.clone());
                text.map_err(|error| {
                    document.value_error(KEY, &written, &format!("cannot be read: {error}"))
                })?
            }
        };
        name.clone_from(&text);
        self.configs.insert(known, text);
        Ok(())
    }

    /// Says where a router outside runs: in the folder of the experiment, unless it says so
    /// itself.
    fn find_command(
        &mut self,
        document: &Document,
        router: &mut RouterSettings,
    ) -> Result<(), ExperimentError> {
        let parameters = &mut router.parameters;
        let command = |value: &toml::Value| {
            let words = value.as_array()?.iter().map(|word| Some(word.as_str()?.to_owned()));
            words.collect::<Option<Vec<String>>>()
        };
        let command = parameters.get("command").and_then(command).unwrap_or_default();
        if command.is_empty() && !parameters.contains_key("socket") {
            return Ok(());
        }
        let own = parameters.get("directory").and_then(toml::Value::as_str).unwrap_or_default();
        let key = if own.is_empty() { "router.command" } else { "router.directory" };
        let folder = Path::new(".").join(document.folder_of(key)).join(own);
        let refused = |folder: &Path, problem: &str| {
            let written = toml::Value::String(folder.display().to_string());
            document.value_error("router.directory", &written, problem)
        };
        let folder = folder
            .canonicalize()
            .map_err(|error| refused(&folder, &format!("cannot be used: {error}")))?;
        let text = folder.to_str().ok_or_else(|| refused(&folder, "must be UTF-8"))?;
        parameters.insert("directory".to_owned(), toml::Value::String(text.to_owned()));
        let runs_it =
            self.registry.find(&router.policy).is_ok_and(|policy| policy.about().knows("command"));
        if runs_it && !command.is_empty() {
            let place = (command, folder);
            if let Entry::Vacant(place) = self.commands.entry(place) {
                let (command, folder) = place.key();
                let digest = digest_of_files(command, folder);
                place.insert(digest);
            }
        }
        Ok(())
    }

    fn model(
        &mut self,
        document: &Document,
        choice: &ModelChoice,
        key: &str,
    ) -> Result<Arc<Model>, ExperimentError> {
        let folder = document.folder_of(key);
        let known = (choice.to_string(), folder.to_owned());
        if let Some(model) = self.models.get(&known) {
            return Ok(Arc::clone(model));
        }
        let model = Model::choose(choice, folder).map_err(|error| {
            let problem = error.to_string().replace('\n', ", ");
            let written = document.get(key).expect("the choice comes from there");
            document.value_error(key, written, &problem)
        })?;
        let model = Arc::new(model);
        self.models.insert(known, Arc::clone(&model));
        Ok(model)
    }

    /// The workload, with what it needs from files.
    fn workload(
        &mut self,
        document: &Document,
        workload: WorkloadSettings,
    ) -> Result<(Arc<WorkloadSettings>, Arc<WorkloadSource>), ExperimentError> {
        if let Some(known) = self.workloads.iter().rev().find(|(known, _)| **known == workload) {
            return Ok(known.clone());
        }
        let folder = document.folder_of("workload.path");
        let traces = self.traces.as_deref();
        let source = workload.load_or_reuse(folder, traces, &self.workloads).map_err(|error| {
            let problem = error.to_string().replace('\n', ", ");
            ExperimentError::Workload { place: document.place("workload"), problem }
        })?;
        let mut others = (0..self.workloads.len()).filter(|&at| !self.workloads[at].0.is_read());
        if let Some(oldest) = others.next()
            && others.count() + 1 == KEPT
        {
            self.workloads.remove(oldest);
        }
        let both = (Arc::new(workload), Arc::new(source));
        self.workloads.push(both.clone());
        Ok(both)
    }

    /// What was assumed of files, each once, in order of reading: models, then traces.
    fn notices(&self) -> Vec<String> {
        let mut notices: Vec<String> = Vec::new();
        let of_models = self.models.values().flat_map(|model| &model.notices);
        let of_sources = self.workloads.iter().flat_map(|(_, source)| source.notices());
        let run = |(command, folder): &(Vec<String>, PathBuf)| {
            let (command, folder) = (command.join(" "), folder.display());
            format!("router.command: this experiment runs `{command}` in {folder}")
        };
        notices.extend(self.commands.keys().map(run));
        for notice in of_models.chain(of_sources) {
            if !notices.contains(notice) {
                notices.push(notice.clone());
            }
        }
        notices
    }

    /// What models say of step times that were not measured, each once.
    fn marks(&self) -> Vec<String> {
        let marks = self.models.values().flat_map(|model| &model.marks);
        marks.cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Covers the document, and what model files and traces say, not only their names.
    fn config_hash(&self, document: &Document) -> String {
        let mut hash = Sha256::new();
        hash.update(document.canonical().to_string());
        for ((choice, _), model) in &self.models {
            hash.update(format!("\n{choice}\n{}", model.sha256));
        }
        for ((name, _), text) in &self.configs {
            hash.update(format!("\n{name}\n{text}"));
        }
        for ((command, _), digest) in &self.commands {
            hash.update(format!("\n{}\n{digest}", command.join("\n")));
        }
        for digest in self.workloads.iter().filter_map(|(_, source)| source.digest()) {
            hash.update(digest);
        }
        hex(&hash.finalize())
    }
}

/// The model of an experiment's file, read without what else it needs, such as a trace;
/// `None` where there is none that can be read.
pub(crate) fn model_of(file: &Path) -> Option<Model> {
    let document = Document::read(file).ok()?;
    let choice: ModelChoice = document.get("cluster.model")?.clone().try_into().ok()?;
    Model::choose(&choice, document.folder_of("cluster.model")).ok()
}

/// Refuses keys that only engines have which none of the pools concerned follows: they would
/// be without any effect.
fn check_rules(
    document: &Document,
    written: &[Written<'_>],
    pools: &[Pool],
) -> Result<(), ExperimentError> {
    let rules = |pool: &Pool| pool.engine.rules.name();
    let refused = |section: &str, these: &[RulesName], engine: &toml::Table| {
        let ForeignKey { key, value, problem } = RulesName::find_foreign(these, engine)?;
        Some(document.value_error(&format!("{section}.{key}"), &value, &problem))
    };
    for (written, pool) in written.iter().zip(pools) {
        if let (Some(key), Some(engine)) = (written.place.key("engine"), written.engine)
            && let Some(error) = refused(&format!("cluster.{key}"), &[rules(pool)], engine)
        {
            return Err(error);
        }
    }
    let all: Vec<RulesName> = pools.iter().map(rules).collect();
    let common = document.sheet("engine")?;
    refused("engine", &all, common.table()).map_or(Ok(()), Err)
}

/// A worker's configuration: `engine` over what its model says.
fn worker(engine: Sheet, model: Option<&Model>) -> Result<EngineConfig, ExperimentError> {
    let merged = match model {
        Some(model) => put_over(engine, model.engine_sheet().clone()),
        None => engine,
    };
    let settings: EngineSettings = merged.read()?;
    let config = settings.resolve(model.and_then(|model| model.hardware.as_ref()));
    Ok(config.map_err(|invalid| merged.invalid(invalid))?)
}

/// What the files say that a command names: the same command with another program is
/// another experiment. Files that those read in turn are not looked at.
fn digest_of_files(command: &[String], folder: &Path) -> String {
    let mut hash = Sha256::new();
    for word in command {
        let path = folder.join(word);
        // To open a pipe is to wait for its writer.
        if !std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let Ok(file) = File::open(path) else { continue };
        let mut bytes = Vec::new();
        if file.take(MOST_PROGRAM_BYTES).read_to_end(&mut bytes).is_ok() {
            hash.update(word);
            hash.update(bytes);
        }
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time of all levels must fit the clock.
fn check_length(document: &Document, run: &RunSpec) -> Result<(), ExperimentError> {
    let measure = &run.settings.measure;
    let Some(window) = measure.window else { return Ok(()) };
    let levels = run.levels.len() as u64;
    let end = (measure.warmup + window) * levels;
    let changes = &run.settings.cluster.change;
    let late = changes.iter().position(|change| change.at >= end);
    let late_control = run.settings.controls.iter().find(|(at, _)| *at >= SimTime::ZERO + end);
    if let Some((at, _)) = late_control.filter(|_| measure.levels == Levels::Independent) {
        return Err(controls::too_late(document, *at - SimTime::ZERO, end));
    }
    // Of levels in sequence a later one may still reach it.
    if let Some(index) = late.filter(|_| measure.levels == Levels::Independent) {
        let allowed = format!("before the end of the run, {}", duration_text(end));
        let at = duration_text(changes[index].at);
        let invalid = Invalid::new(format!("change[{index}].at"), at, allowed);
        return Err(document.invalid("cluster", invalid));
    }
    if (measure.warmup + window) * levels <= MAX_RUN {
        return Ok(());
    }
    let allowed =
        format!("so short that {levels} levels of warmup and window last at most 100 days");
    Err(document.invalid("measure", Invalid::new("window", duration_text(window), allowed)))
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
        let (place, key) = (document.place("name"), "name".to_owned());
        return Err(SettingsError::Missing { place, key, hint: String::new() }.into());
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let problem = "must be 1 to 100 letters, digits, '-', '_' or '.', not starting with '.'";
        return Err(document.value_error("name", &toml::Value::String(name), problem));
    }
    Ok(name)
}
