//! A session as the text of an experiment.
//!
//! What is simulated is what this text says, read back: so a session that is saved is the
//! session, and `[[control]]` gives its moves again.

use super::error::UiError;
use crate::experiment::{Experiment, LoadOptions, RunSpec};
use crate::settings::{Invalid, parse_duration, plain, same};
use crate::simulation::{Control, ControlSettings};
use crate::time::{SimDuration, SimTime};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use toml::{Table, Value};

/// More arms than this side by side show nothing (assumed: what fits a screen).
const MOST_ARMS: usize = 6;

/// Workers that a fleet of one pool gets room for beyond its own (assumed).
const SPARE_WORKERS: i64 = 4;

/// The axes that become the load of a session.
const CONCURRENCY: &str = "workload.concurrency";
const RATE: &str = "workload.arrivals.rate";

/// The longest session: the longest run of an experiment.
pub(super) const LONGEST: SimDuration = SimDuration::from_secs(100 * 86_400);

/// What can be turned to change the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoadKind {
    /// Conversations or clients at the same time.
    Concurrency,
    /// Requests a second.
    Rate,
    /// A trace comes as it was recorded.
    Fixed,
}

/// A control, when it came, and the arm that it was for; all of them if that is not given.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Move {
    pub(super) at: SimTime,
    pub(super) arm: Option<usize>,
    pub(super) control: Control,
}

/// One of the simulations side by side.
#[derive(Clone, Debug)]
pub(super) struct ArmPlan {
    pub(super) name: String,
    pub(super) run: RunSpec,
    /// The settings that it alone has.
    only: BTreeMap<String, Json>,
    /// Whether no other arm has all of those.
    is_alone: bool,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) description: String,
    /// Step times that were not measured, a sentence each.
    marks: Vec<String>,
    pub(super) arms: Vec<ArmPlan>,
    pub(super) load: LoadKind,
    /// The load that it begins with.
    pub(super) first_load: f64,
    /// Loads that the experiment sweeps, or some around its own.
    pub(super) loads: Vec<f64>,
    /// The seeds of the experiment.
    pub(super) seeds: Vec<u64>,
    /// What tells the experiment from others, as its results name it.
    pub(super) config_hash: String,
    /// Whether the loads are those of the experiment's sweep.
    is_swept: bool,
    /// Whether real servers do the same: the fleet stays as it is, and there is one arm.
    pub(super) beside_servers: bool,
    file: PathBuf,
    traces: Option<PathBuf>,
    settings: Table,
    axes: Vec<(String, Value)>,
    warmup: SimDuration,
    workers: u32,
}

impl Plan {
    /// What the page says of it below its name.
    pub(super) fn about(&self) -> String {
        let marks = self.marks.iter().map(|mark| format!(" ({mark})"));
        marks.fold(self.description.clone(), |about, mark| about + &mark)
    }

    /// A session of `experiment`, which came from `file`. An experiment without a sweep
    /// gets round robin beside its policy, or `kv` if that is its own; beside real servers it
    /// is the only arm.
    pub(super) fn new(
        experiment: &Experiment,
        file: PathBuf,
        traces: Option<PathBuf>,
        beside_servers: bool,
    ) -> Result<Self, UiError> {
        let written = experiment.settings();
        let settings = table(&written["settings"]);
        let first = &experiment.runs[0].settings;
        let stages = first.workload.stages().len();
        let allowed = "left out: the load of a live page is moved by hand";
        let written_stages = format!("a list of {stages}");
        Invalid::unless(stages == 0, "workload.stages", written_stages, allowed)?;
        let load = match (first.workload.concurrency(), get(&settings, RATE)) {
            (Some(_), _) => LoadKind::Concurrency,
            (None, Some(_)) => LoadKind::Rate,
            (None, None) => LoadKind::Fixed,
        };
        let mut plan = Self {
            name: experiment.name.clone(),
            description: experiment.description.clone(),
            marks: experiment.marks.clone(),
            arms: Vec::new(),
            load,
            first_load: 0.0,
            loads: Vec::new(),
            seeds: experiment.seeds.clone(),
            config_hash: experiment.config_hash.clone(),
            is_swept: false,
            beside_servers,
            file,
            traces,
            settings,
            axes: Vec::new(),
            warmup: first.measure.warmup,
            workers: first.pools.workers(),
        };
        for axis in written["sweep"].as_array().into_iter().flatten() {
            let (key, values) = (axis[0].as_str().unwrap_or_default(), &axis[1]);
            if key == CONCURRENCY || key == RATE {
                let swept = experiment.points.iter().filter_map(|point| point.get(key)?.as_f64());
                plan.loads = swept.collect();
                plan.loads.sort_by(f64::total_cmp);
                plan.loads.dedup();
                plan.is_swept = true;
            } else {
                plan.axes.push((key.to_owned(), value(values)));
            }
        }
        if plan.axes.is_empty() && !beside_servers {
            let own = first.policy.name();
            let other = if own == "round_robin" { "kv" } else { "round_robin" };
            let both = vec![Value::from(other), Value::from(own)];
            plan.axes.push(("router.policy".to_owned(), Value::Array(both)));
        }
        plan.arms = plan.read_arms()?;
        if beside_servers {
            let allowed = "one combination of swept values other than the load, which real \
                           servers run: fix keys, like router.policy = \"kv\"";
            Invalid::unless(plan.arms.len() == 1, "sweep", plan.arms.len(), allowed)?;
        }
        plan.first_load = load_of(&plan.arms[0].run);
        if plan.loads.len() < 2 {
            let around = [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0];
            plan.loads = around.map(|times| plan.round(plan.first_load * times)).to_vec();
            plan.loads.dedup();
        }
        Ok(plan)
    }

    /// Room for more workers, where nothing says which pools there are, or how many workers.
    fn make_room(&self, settings: &mut Table) {
        let is_swept = self.axes.iter().any(|(key, values)| {
            key.starts_with("cluster.")
                || key == "variant" && values.to_string().contains("cluster")
        });
        let Some(Value::Table(cluster)) = settings.get_mut("cluster") else { return };
        let pools = ["pool", "prefill", "decode", "planner"];
        let is_plain = pools.iter().all(|key| !cluster.contains_key(*key));
        if !is_plain || is_swept || self.beside_servers {
            return;
        }
        cluster.remove("workers");
        let pool = [
            ("name", Value::from("workers")),
            ("workers", Value::Integer(i64::from(self.workers))),
            ("spare", Value::Integer(SPARE_WORKERS)),
        ];
        let pool = pool.map(|(key, value)| (key.to_owned(), value)).into_iter().collect();
        cluster.insert("pool".to_owned(), Value::Array(vec![Value::Table(pool)]));
    }

    /// A load as it can be: conversations are whole.
    pub(super) fn round(&self, load: f64) -> f64 {
        match self.load {
            LoadKind::Concurrency => load.round().max(1.0),
            LoadKind::Rate | LoadKind::Fixed => (load * 1000.0).round() / 1000.0,
        }
    }

    /// The control that sets the load.
    pub(super) fn control_of(&self, load: f64) -> Option<Control> {
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and is checked")]
        let concurrency = load.round() as u32;
        match self.load {
            LoadKind::Concurrency => Some(Control::Load { concurrency, cut: false }),
            LoadKind::Rate => Some(Control::Rate { per_s: load }),
            LoadKind::Fixed => None,
        }
    }

    /// The seed that a session begins with.
    pub(super) fn first_seed(&self) -> u64 {
        self.seeds[0]
    }

    /// Refuses a control for one arm where a file could not say which.
    pub(super) fn check_alone(&self, arm: usize) -> Result<(), Invalid> {
        let allowed = "all arms: another arm has all settings of this one and more, so a file \
                       could not tell them apart";
        Invalid::unless(self.arms[arm].is_alone, "arm", arm, allowed)
    }

    fn read_arms(&self) -> Result<Vec<ArmPlan>, UiError> {
        // Nothing is measured: that would take memory as long as a session lasts.
        let warmup = SimDuration::from_secs(99 * 86_400);
        let text = self.text(self.first_seed(), warmup, LONGEST, &[]);
        let experiment = self.read(&text)?;
        if experiment.runs.len() > MOST_ARMS {
            let allowed = format!(
                "at most {MOST_ARMS} combinations of swept values other than the load: fix some \
                 keys, or sweep fewer values, like sweep.router.policy=[\"round_robin\", \"kv\"]"
            );
            return Err(Invalid::new("sweep", experiment.runs.len(), allowed).into());
        }
        let sets: Vec<BTreeMap<String, Json>> =
            experiment.points.iter().map(|point| self.sets(point)).collect();
        let has = |arm: usize, (key, wanted): (&String, &Json)| {
            let written = || get(&self.settings, key).map(|value| serde_json::json!(value));
            let value = sets[arm].get(key).cloned().or_else(written);
            value.is_some_and(|value| same(&value, wanted))
        };
        let is_alone = |arm: usize| {
            let others = (0..sets.len()).filter(|other| *other != arm);
            others.into_iter().all(|other| !sets[arm].iter().all(|set| has(other, set)))
        };
        let name = |arm: usize| {
            let varies = |key: &&String| {
                experiment
                    .points
                    .iter()
                    .any(|point| point.get(*key) != experiment.points[arm].get(*key))
            };
            let point = &experiment.points[arm];
            let bundled = point.contains_key("variant");
            let keys = point.keys().filter(varies);
            let keys = keys.filter(|key| !bundled || *key != "router.policy");
            let part = |key: &String| match key.as_str() {
                "variant" | "router.policy" => plain(&point[key]),
                key => format!("{} {}", key.rsplit('.').next().unwrap_or(key), plain(&point[key])),
            };
            let parts: Vec<String> = keys.map(part).collect();
            if parts.is_empty() { plain(&point["router.policy"]) } else { parts.join(", ") }
        };
        let arms = experiment.runs.iter().enumerate().map(|(arm, run)| ArmPlan {
            name: name(arm),
            run: run.clone(),
            only: sets[arm].clone(),
            is_alone: is_alone(arm),
        });
        Ok(arms.collect())
    }

    /// All settings that a point gives, those of its variant one by one.
    fn sets(&self, point: &BTreeMap<String, Json>) -> BTreeMap<String, Json> {
        let mut sets = point.clone();
        let Some(name) = sets.remove("variant") else { return sets };
        let variants = self.axes.iter().find(|(key, _)| key == "variant");
        let bundles = variants.and_then(|(_, bundles)| bundles.as_array()).into_iter().flatten();
        let is_it = |bundle: &&Value| {
            bundle.get("name").is_some_and(|other| same(&serde_json::json!(other), &name))
        };
        if let Some(Value::Table(bundle)) = bundles.into_iter().find(is_it) {
            let mut bundle = bundle.clone();
            bundle.remove("name");
            flatten("", &bundle, &mut sets);
        }
        sets
    }

    /// The experiment that a text of this session says.
    pub(super) fn read(&self, text: &str) -> Result<Experiment, UiError> {
        let mut options = LoadOptions::default();
        options.traces.clone_from(&self.traces);
        Ok(Experiment::parse(&self.file, text, &options)?)
    }

    /// The session up to `end` as an experiment that runs by itself.
    pub(super) fn saved(&self, seed: u64, end: SimTime, moves: &[Move]) -> String {
        let end = end - SimTime::ZERO;
        let warmup = if self.warmup < end { self.warmup } else { SimDuration::ZERO };
        self.text(seed, warmup, end, moves)
    }

    fn text(&self, seed: u64, warmup: SimDuration, end: SimDuration, moves: &[Move]) -> String {
        let mut table = self.settings.clone();
        let name = format!("{}-session", self.name.chars().take(90).collect::<String>());
        table.insert("name".to_owned(), Value::from(name));
        self.make_room(&mut table);
        set(&mut table, "measure.warmup", shown(warmup));
        set(
            &mut table,
            "measure.window",
            shown(SimDuration::from_ps(end.as_ps() - warmup.as_ps())),
        );
        set(
            &mut table,
            "measure.seeds",
            Value::Array(vec![Value::try_from(seed).unwrap_or(Value::Integer(1))]),
        );
        if let Some(Value::Table(measure)) = table.get_mut("measure") {
            // Percentiles of a dashboard want a window of their length.
            for key in ["quantiles", "snapshot_every", "trailing", "levels"] {
                measure.remove(key);
            }
        }
        // Those that the session has not come to.
        let is_past = |change: &Value| {
            let at = change.get("at").and_then(Value::as_str).map(parse_duration);
            !matches!(at, Some(Ok(at)) if at >= end)
        };
        if let Some(Value::Array(controls)) = table.get_mut("control") {
            controls.retain(is_past);
        }
        if let Some(Value::Array(changes)) =
            table.get_mut("cluster").and_then(|cluster| cluster.get_mut("change"))
        {
            changes.retain(is_past);
        }
        let mut controls: Vec<Value> = Vec::new();
        for Move { at, arm, control } in moves {
            let mut settings = ControlSettings::of(*at, control);
            if let Some(arm) = arm {
                settings.only.clone_from(&self.arms[*arm].only);
            }
            controls.push(Value::try_from(settings).expect("plain values are TOML"));
        }
        if !controls.is_empty() {
            let all = table.entry("control").or_insert(Value::Array(Vec::new()));
            if let Value::Array(all) = all {
                all.append(&mut controls);
            }
        }
        let axes = self.axes.iter().cloned().collect();
        if !self.axes.is_empty() {
            table.insert("sweep".to_owned(), Value::Table(axes));
        }
        toml::to_string(&table).expect("what was TOML is TOML")
    }

    /// The text of the experiment's sweep over load with KV-aware routing and round robin,
    /// whatever the arms are; `None` if there is no load to sweep.
    pub(super) fn baselines(&self) -> Option<String> {
        let axis = match self.load {
            LoadKind::Concurrency => CONCURRENCY,
            LoadKind::Rate => RATE,
            LoadKind::Fixed => return None,
        };
        let mut table = self.settings.clone();
        table.insert("name".to_owned(), Value::from("baselines"));
        table.remove("control");
        if !self.is_swept
            && let Some(Value::Table(measure)) = table.get_mut("measure")
        {
            measure.remove("levels");
        }
        let policies = ["round_robin", "kv"].map(Value::from).to_vec();
        #[expect(clippy::cast_possible_truncation, reason = "whole, and well within 64 bits")]
        let load = |load: &f64| match self.load {
            LoadKind::Concurrency => Value::Integer(*load as i64),
            _ => Value::Float(*load),
        };
        let loads = self.loads.iter().map(load).collect();
        let sweep = [("router.policy", Value::Array(policies)), (axis, Value::Array(loads))];
        let sweep = sweep.map(|(key, values)| (key.to_owned(), values)).into_iter().collect();
        table.insert("sweep".to_owned(), Value::Table(sweep));
        Some(toml::to_string(&table).expect("what was TOML is TOML"))
    }

    /// The key of the load in results.
    pub(super) fn load_key(&self) -> &'static str {
        if self.load == LoadKind::Rate { RATE } else { CONCURRENCY }
    }

    /// The folder that a saved file belongs into: where paths in it start.
    pub(super) fn place(&self) -> &std::path::Path {
        let folder = self.file.parent().filter(|_| !crate::catalogue::is_shipped(&self.file));
        folder.unwrap_or(std::path::Path::new(""))
    }

    /// Lines before a saved text: what it is, and how it replays.
    pub(super) fn head(&self, digest: &str) -> String {
        let mut head = format!(
            "# A session of {}, with every change that was made in it.\n\
             # sim run of this file gives the digest\n# {digest}\n",
            self.name
        );
        if !crate::catalogue::is_shipped(&self.file) {
            let folder = self.file.parent().unwrap_or(std::path::Path::new(""));
            let _ = writeln!(
                head,
                "# Paths in it start in the folder {:?}: keep it there.",
                folder.display().to_string()
            );
        }
        head
    }
}

/// The load that a run begins with.
pub(super) fn load_of(run: &RunSpec) -> f64 {
    let workload = &run.settings.workload;
    let rate = run.settings.source.arrivals().map_or(0.0, |arrivals| arrivals.rate());
    workload.concurrency().map_or(rate, f64::from)
}

/// As TOML, exact to the picosecond.
fn shown(time: SimDuration) -> Value {
    Value::try_from(time).expect("a time is text")
}

fn value(json: &Json) -> Value {
    Value::try_from(json).expect("what was TOML is TOML")
}

fn table(json: &Json) -> Table {
    match value(json) {
        Value::Table(table) => table,
        other => panic!("settings are sections: {other}"),
    }
}

pub(super) fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|whole| whole as f64))
}

/// The value at a dotted key.
fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut parts = key.split('.');
    let first = table.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert(Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

fn flatten(parent: &str, table: &Table, sets: &mut BTreeMap<String, Json>) {
    for (key, value) in table {
        let key = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, sets),
            value => {
                sets.insert(key, serde_json::json!(value));
            }
        }
    }
}
