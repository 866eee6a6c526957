//! Changes back out: what is changed in an imported experiment, as a change of what it was
//! imported from.
//!
//! The law: what was imported, changed and imported again is the changed experiment.
//! [`patch`] holds each answer to it, and refuses by name what would break it.

use super::arguments::Arguments;
use super::engines::{Engine, Kind};
use super::fleet::{Fleet, Options, Worker};
use super::manifests::{Component, Form};
use super::request::{ImportError, Request};
use super::routers;
use super::text::{self, import};
use super::words::{Word, Written};
use crate::engine::settings::rival;
use crate::settings::yaml::{self, escaped, unescaped};
use crate::settings::{SettingsError, Sheet, same};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use toml::{Table, Value};

/// A change as it is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patched {
    /// What to deploy, each as a file.
    pub files: Vec<PatchFile>,
    /// What was imported, changed: importing it gives the changed experiment.
    pub request: Request,
}

/// A file to deploy with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchFile {
    /// What it is called.
    pub name: String,
    /// Its content, with what changes as a comment.
    pub text: String,
    /// How it is applied.
    pub apply: String,
}

/// Why a change cannot be deployed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// What was imported cannot be imported any more.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The text of an experiment that is none.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A key that what was imported cannot express.
    #[error("{key} = {value}: {why}")]
    Inexpressible {
        /// The dotted key.
        key: String,
        /// The value.
        value: String,
        /// Why not, and the way out.
        why: String,
    },
    /// Nothing is changed.
    #[error("nothing is changed")]
    Nothing,
}

fn inexpressible(key: &str, value: &Value, why: impl Into<String>) -> PatchError {
    PatchError::Inexpressible { key: key.to_owned(), value: value.to_string(), why: why.into() }
}

/// The settings of an experiment that a deployment consists of, by dotted key; pools by name.
///
/// # Errors
/// If `text` is not TOML.
pub fn deployed(text: &str) -> Result<BTreeMap<String, Value>, SettingsError> {
    let sheet = Sheet::parse(Path::new("the experiment"), text)?;
    let mut flat = BTreeMap::new();
    for section in ["cluster", "engine", "router"] {
        if let Some(table) = sheet.table().get(section) {
            flatten(section, table, &mut flat);
        }
    }
    Ok(flat)
}

fn flatten(key: &str, value: &Value, flat: &mut BTreeMap<String, Value>) {
    let named = |item: &Value| item.get("name").and_then(Value::as_str).map(str::to_owned);
    match value {
        Value::Table(entries) => {
            for (inner, value) in entries {
                flatten(&format!("{key}.{inner}"), value, flat);
            }
        }
        Value::Array(items)
            if key == "cluster.pool" && items.iter().all(|item| named(item).is_some()) =>
        {
            for item in items {
                let mut item = item.clone();
                let name = named(&item).expect("looked at");
                let _ = item.as_table_mut().map(|entries: &mut Table| entries.remove("name"));
                flatten(&format!("{key}.{name}"), &item, flat);
            }
        }
        value => {
            flat.insert(key.to_owned(), value.clone());
        }
    }
}

/// Whether two values mean the same.
pub fn is_same(a: &Value, b: &Value) -> bool {
    let json = |value: &Value| serde_json::to_value(value).unwrap_or(Json::Null);
    same(&json(a), &json(b))
}

/// Whether a key says how things are, and not what is deployed: it is measured or assumed.
pub fn is_fact(key: &str) -> bool {
    const FACTS: [&str; 10] = [
        "router.feed",
        "router.restart",
        "cluster.network",
        "cluster.load_time",
        "cluster.change",
        "cluster.failover",
        "activation_gib",
        "step_time",
        "host",
        "kv_bytes_per_token",
    ];
    let of_engine = key.rsplit_once("engine.").map_or("", |(_, rest)| rest);
    let is_in = |key: &str, fact: &str| key == fact || key.starts_with(&format!("{fact}."));
    FACTS.iter().any(|fact| is_in(key, fact) || is_in(of_engine, fact))
}

/// The change of what was imported that gives it the settings `changes`, dotted keys of the
/// imported experiment with their new values. `effect` is what it is predicted to do, for
/// comments.
///
/// # Errors
/// A key that what was imported cannot express.
pub fn patch(
    request: &Request,
    changes: &BTreeMap<String, Value>,
    effect: Option<&str>,
) -> Result<Patched, PatchError> {
    let fleet = Fleet::read(request)?;
    let base = deployed(&text::write(&fleet, request).experiment)?;
    let mut wanted = base.clone();
    let mut flat = BTreeMap::new();
    for (key, value) in changes {
        flatten(key, value, &mut flat);
    }
    let twice = |key: &String| rival(key).filter(|other| flat.contains_key(other));
    if let Some((key, other)) = flat.keys().find_map(|key| Some((key, twice(key)?))) {
        let why = format!("{other} is changed too, and both size the KV pool: change one of them");
        return Err(inexpressible(key, &flat[key], why));
    }
    let changes: BTreeMap<&String, &Value> = flat
        .iter()
        .filter(|(key, value)| base.get(*key).is_none_or(|before| !is_same(before, value)))
        .collect();
    if changes.is_empty() {
        return Err(PatchError::Nothing);
    }
    for (key, value) in &changes {
        wanted.insert((*key).clone(), (*value).clone());
    }
    let mut change = Change::new(&fleet, request);
    let mut of_picker = false;
    for (key, value) in &changes {
        match key.strip_prefix("router.") {
            Some("replicas") if fleet.router.is_picker => {
                let why = "the chart sets the number of endpoint pickers: change its values and import them again";
                return Err(inexpressible(key, value, why));
            }
            Some(_) if fleet.router.is_picker => of_picker = true,
            Some(inner) => change.router(key, inner, value)?,
            None => change.worker(key, value)?,
        }
    }
    if of_picker {
        let new_policy = changes.contains_key(&"router.policy".to_owned());
        if new_policy {
            wanted.retain(|key, _| !key.starts_with("router.") || changes.contains_key(key));
        }
        change.picker(&wanted, &changes)?;
    }
    let mut said = String::new();
    for line in effect.unwrap_or_default().lines() {
        let _ = writeln!(said, "# {line}");
    }
    for (key, value) in &changes {
        let before = base.get(*key).map_or("the engine's default".to_owned(), Value::to_string);
        let _ = writeln!(said, "# {key}: {before} -> {value}");
    }
    let patched = change.finish(&said)?;
    let again = deployed(&import(&patched.request)?.experiment)?;
    let differs =
        |key: &&String| !again.get(*key).zip(wanted.get(*key)).is_some_and(|(a, b)| is_same(a, b));
    // The size of the KV pool is said in one of two ways, and the new one is in place of the old.
    let replaced: Vec<String> = changes.keys().filter_map(|key| rival(key)).collect();
    let allowed = |key: &&String| {
        of_picker && key.starts_with("router.") && !wanted.contains_key(*key)
            || replaced.contains(key)
    };
    let keys = wanted.keys().chain(again.keys());
    if let Some(key) = keys.filter(|key| !allowed(key)).find(differs) {
        let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
        let (key, value) = (key.clone(), shown(wanted.get(key)));
        let now = shown(again.get(&key));
        let why =
            format!("after the change it would be {now}: change the settings it depends on too");
        return Err(PatchError::Inexpressible { key, value, why });
    }
    Ok(patched)
}

/// The part of a change that can be deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PatchedPart {
    /// That part; `None` if there is nothing to deploy.
    pub patched: Option<Patched>,
    /// What cannot be deployed, each with its value and why.
    pub not_expressed: Vec<String>,
}

/// As [`patch`], of the keys that what was imported can express; the others are named in the
/// comments.
///
/// # Errors
/// What was imported cannot be imported any more, or not with these settings.
pub fn patch_part(
    request: &Request,
    changes: &BTreeMap<String, Value>,
    effect: &str,
) -> Result<PatchedPart, PatchError> {
    let mut changes = changes.clone();
    let mut not_expressed: Vec<String> = Vec::new();
    loop {
        let mut said = effect.to_owned();
        for line in &not_expressed {
            let _ = writeln!(said, "not expressed here, but part of the prediction: {line}");
        }
        match patch(request, &changes, Some(&said)) {
            Ok(patched) => return Ok(PatchedPart { patched: Some(patched), not_expressed }),
            Err(PatchError::Nothing) => return Ok(PatchedPart { patched: None, not_expressed }),
            Err(PatchError::Inexpressible { key, value, why }) => {
                not_expressed.push(format!("{key} = {value}: {why}"));
                let inside =
                    |known: &String| *known == key || key.starts_with(&format!("{known}."));
                let before = changes.len();
                changes.retain(|known, _| !inside(known));
                // The rest alone would deploy something else.
                if changes.len() == before {
                    let line =
                        |(key, value)| format!("{key} = {value}: left out with the previous key");
                    not_expressed.extend(std::mem::take(&mut changes).into_iter().map(line));
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Words that are changed and added, by component.
#[derive(Default)]
struct Edits {
    /// What stands in whose place; or, for a word that has none, the words that say it again.
    replaced: Vec<(Word, String, Vec<String>)>,
    removed: Vec<Word>,
    added: Vec<String>,
    last: Option<Word>,
}

/// A change that is being put together.
struct Change<'a> {
    fleet: &'a Fleet,
    request: Request,
    documents: Vec<Json>,
    edits: BTreeMap<usize, Edits>,
}

impl<'a> Change<'a> {
    fn new(fleet: &'a Fleet, request: &Request) -> Self {
        let documents = fleet.found.documents.iter().map(|document| document.value.clone());
        Self {
            fleet,
            request: request.clone(),
            documents: documents.collect(),
            edits: BTreeMap::new(),
        }
    }

    /// The worker that a key is about, and the key below it.
    fn worker_of<'k>(
        &self,
        key: &'k str,
        value: &Value,
    ) -> Result<(&'a Worker, &'k str), PatchError> {
        let workers = &self.fleet.workers;
        let pools = || {
            let names: Vec<&str> = workers.iter().map(|worker| worker.name.as_str()).collect();
            format!(
                "there are several pools: set cluster.pool.NAME, where NAME is one of {}",
                names.join(", ")
            )
        };
        if let Some(rest) = key.strip_prefix("cluster.pool.") {
            let (name, rest) = rest.split_once('.').unwrap_or((rest, ""));
            let named =
                workers.iter().find(|worker| worker.name == name).filter(|_| workers.len() > 1);
            return named.map(|worker| (worker, rest)).ok_or_else(|| {
                inexpressible(key, value, "there is no such pool in what was imported")
            });
        }
        let [only] = workers.as_slice() else { return Err(inexpressible(key, value, pools())) };
        Ok((only, key.strip_prefix("cluster.").unwrap_or(key)))
    }

    fn worker(&mut self, key: &str, value: &Value) -> Result<(), PatchError> {
        let (worker, inner) = self.worker_of(key, value)?;
        let component = &self.fleet.found.components[worker.component];
        if inner == "workers" {
            let count = value
                .as_integer()
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count > 0);
            let count = count
                .ok_or_else(|| inexpressible(key, value, "must be a whole number of at least 1"))?;
            if !count.is_multiple_of(worker.per_replica) {
                let why = format!(
                    "each replica is {} of them: use a multiple of that",
                    worker.per_replica
                );
                return Err(inexpressible(key, value, why));
            }
            return self.replicas(worker.component, count / worker.per_replica, key, value);
        }
        let what_it_is =
            ["model.shape", "model.gpu", "model.engine", "model.weights", "model", "role"];
        if what_it_is.contains(&inner) {
            let why = "this is what the workers are, not one of their settings: change the manifest and import it again";
            return Err(inexpressible(key, value, why));
        }
        let rule = worker.engine.rule(inner).ok_or_else(|| {
            let why = match is_fact(key) {
                true => "a property of the fleet, not a setting that can be deployed".to_owned(),
                false => format!("no flag of {} is known for it", worker.engine.name()),
            };
            inexpressible(key, value, why)
        })?;
        let is_switched = worker.engine == Engine::Trtllm
            && worker.get("model.attention_dp").is_some()
            && ["model.tp", "model.attention_dp"].contains(&inner);
        if is_switched || rule.kind == Kind::Switch && inner == "model.attention_dp" {
            let why = "there, ranks and the GPUs of each rank are one number: change the manifest and import it again";
            return Err(inexpressible(key, value, why));
        }
        let text = rule.kind.write(value).map_err(|why| inexpressible(key, value, why))?;
        if inner == "model.tp" {
            self.gpus(worker, component, &text);
        }
        let is_serve_without = worker.is_serve && inner == "engine.block_size";
        let has_flag = !(rule.flags.is_empty() || is_serve_without);
        let is_given = worker.arguments.get(rule.flags).is_some();
        let is_optional = worker.of_options.contains(&inner) || !has_flag || !is_given;
        match &worker.options {
            Some(options) if is_optional => {
                let parsed = match rule.kind {
                    Kind::Format if text == "bfloat16" => json!("auto"),
                    Kind::Format | Kind::Word => json!(text),
                    _ => yaml::parse(&text).unwrap_or(Json::Null),
                };
                self.option(options, rule.yaml, parsed);
            }
            _ if !has_flag => {
                let why = "only an options file can set it: give the engine one and import it too";
                return Err(inexpressible(key, value, why));
            }
            _ => {
                let name = match worker.is_serve {
                    true => rule.flags.last().expect("it has one").replace('-', "_"),
                    false => rule.flags[0].to_owned(),
                };
                let can_say_no = worker.engine == Engine::Vllm;
                self.flag(
                    worker.component,
                    &worker.arguments,
                    rule.flags,
                    &name,
                    rule.kind,
                    &text,
                    can_say_no,
                );
            }
        }
        Ok(())
    }

    fn replicas(
        &mut self,
        at: usize,
        count: u32,
        key: &str,
        value: &Value,
    ) -> Result<(), PatchError> {
        let component = &self.fleet.found.components[at];
        match component.document {
            None => {
                self.request.workers = Some(count);
                // The line stays as it is, and is written.
                self.edits.entry(at).or_default();
                Ok(())
            }
            Some(document) => {
                let pointer = format!("{}/replicas", component.pointer);
                let set = set(&mut self.documents[document], &pointer, json!(count));
                set.ok_or_else(|| inexpressible(key, value, "its document has no place for it"))
            }
        }
    }

    /// Gives a container as many GPUs as its engine will use, where it says a number.
    fn gpus(&mut self, worker: &Worker, component: &Component, tp: &str) {
        let ranks =
            worker.get("model.attention_dp").and_then(|said| said.value.as_integer()).unwrap_or(1);
        let ranks = ranks * i64::from(worker.per_replica);
        let Some(document) = component.document else { return };
        let gpus = tp.parse().unwrap_or(1) * ranks / i64::from(component.nodes);
        let of_service = ["limits", "requests"]
            .map(|kind| format!("{}/resources/{kind}/gpu", component.pointer));
        let of_container = ["limits", "requests"].into_iter().flat_map(|kind| {
            ["nvidia.com~1gpu", "amd.com~1gpu"]
                .map(|gpu| format!("{}/resources/{kind}/{gpu}", component.container))
        });
        for pointer in of_service.into_iter().chain(of_container) {
            if let Some(value) = self.documents[document].pointer_mut(&pointer) {
                *value = if value.is_string() { json!(gpus.to_string()) } else { json!(gpus) };
            }
        }
    }

    /// Sets a dotted path in TensorRT-LLM's options.
    fn option(&mut self, options: &Options, path: &str, value: Json) {
        let pointer: String = path.split('.').map(|part| format!("/{part}")).collect();
        match options {
            Options::Document(document) => {
                let _ = set(&mut self.documents[*document], &pointer, value);
            }
            Options::Mounted(document, key) => {
                let at = format!("/data/{}", escaped(key));
                let Some(text) = self.documents[*document].pointer_mut(&at) else { return };
                let mut values =
                    yaml::parse(text.as_str().unwrap_or_default()).unwrap_or(json!({}));
                let _ = set(&mut values, &pointer, value);
                *text = json!(yaml::write(&values));
            }
        }
    }

    /// Changes a flag where it stands, or adds it.
    #[expect(clippy::too_many_arguments, reason = "one call by each kind of component")]
    fn flag(
        &mut self,
        component: usize,
        arguments: &Arguments,
        names: &[&str],
        name: &str,
        kind: Kind,
        text: &str,
        can_say_no: bool,
    ) {
        let edits = self.edits.entry(component).or_default();
        edits.last.clone_from(&arguments.last);
        let is_switch = matches!(kind, Kind::Switch | Kind::Off);
        let is_it = |flag: &str| {
            names.contains(&flag)
                || flag.strip_prefix("no-").is_some_and(|flag| names.contains(&flag))
        };
        let given = arguments.flags.iter().rev().find(|flag| is_it(&flag.name));
        if is_switch {
            let wanted = match (text, can_say_no) {
                ("true", _) => Some(format!("--{name}")),
                (_, true) => Some(format!("--no-{name}")),
                (_, false) => None,
            };
            match (given, wanted) {
                (Some(flag), Some(wanted)) if flag.value.is_none() => {
                    edits.replaced.push((flag.word.clone(), wanted.clone(), vec![wanted]));
                }
                (Some(flag), None) => {
                    edits.removed.push(flag.word.clone());
                    edits.removed.extend(flag.value_word.clone());
                }
                (_, Some(wanted)) => edits.added.push(wanted),
                (None, None) => {}
            }
            return;
        }
        let again = vec![format!("--{name}"), text.to_owned()];
        match given {
            Some(flag) => match &flag.value_word {
                Some(word) => edits.replaced.push((word.clone(), text.to_owned(), again)),
                None => {
                    let written = flag.word.text.split('=').next().unwrap_or_default();
                    edits.replaced.push((flag.word.clone(), format!("{written}={text}"), again));
                }
            },
            None => edits.added.extend(again),
        }
    }

    fn router(&mut self, key: &str, inner: &str, value: &Value) -> Result<(), PatchError> {
        let router = &self.fleet.router;
        let Some(at) = router.component else {
            let why = "no router was imported: give its manifest too";
            return Err(inexpressible(key, value, why));
        };
        let component = &self.fleet.found.components[at];
        if inner == "replicas" {
            let count = value
                .as_integer()
                .and_then(|count| u32::try_from(count).ok())
                .filter(|count| *count > 0);
            let count = count
                .ok_or_else(|| inexpressible(key, value, "must be a whole number of at least 1"))?;
            return self.replicas(at, count, key, value);
        }
        let rule = routers::DYNAMO.iter().find(|rule| rule.key == inner).ok_or_else(|| {
            let why = match is_fact(key) {
                true => "a property of the fleet, not a setting that can be deployed",
                false => "no flag of Dynamo's front end is known for it",
            };
            inexpressible(key, value, why)
        })?;
        let text = if inner == "policy" {
            let policy = value.as_str().unwrap_or_default();
            let mode = routers::MODES.iter().find(|(_, known)| *known == policy);
            let (mode, _) = mode.ok_or_else(|| {
                let policies = routers::MODES.map(|(_, policy)| policy).join(", ");
                inexpressible(key, value, format!("Dynamo's front end can be {policies}"))
            })?;
            (*mode).to_owned()
        } else {
            rule.kind.write(value).map_err(|why| inexpressible(key, value, why))?
        };
        let is_given = router.arguments.flags.iter().any(|flag| {
            let positive = flag.name.strip_prefix("no-").unwrap_or(&flag.name);
            rule.flags.contains(&positive)
        });
        let variable = rule.variables.iter().find(|name| component.variables.contains_key(**name));
        if !is_given
            && let Some(document) = component.document
            && (variable.is_some() || router.arguments.last.is_none())
        {
            let name = variable.unwrap_or(&rule.variables[0]);
            self.variable(document, component, name, &text);
            return Ok(());
        }
        self.flag(at, &router.arguments, rule.flags, rule.flags[0], rule.kind, &text, true);
        Ok(())
    }

    /// Sets a variable where it is given, else beside the others.
    fn variable(&mut self, document: usize, component: &Component, name: &str, value: &str) {
        let of_service = format!("{}/envs", component.pointer);
        let of_container = format!("{}/env", component.container);
        let root = &mut self.documents[document];
        for list in ["/spec/envs", "/spec/env", of_service.as_str(), of_container.as_str()] {
            let entries = root.pointer_mut(list).and_then(Json::as_array_mut);
            let is_it = |entry: &&mut Json| entry.get("name").and_then(Json::as_str) == Some(name);
            if let Some(entry) = entries.and_then(|entries| entries.iter_mut().find(is_it)) {
                *entry = json!({ "name": name, "value": value });
                return;
            }
        }
        let list = if component.form == Form::Services { of_service } else { of_container };
        if root.pointer(&list).is_none_or(|list| !list.is_array()) {
            let _ = set(root, &list, json!([]));
        }
        if let Some(Json::Array(entries)) = root.pointer_mut(&list) {
            entries.push(json!({ "name": name, "value": value }));
        }
    }

    /// A configuration of llm-d's router with the settings of `[router]` in `wanted`.
    fn picker(
        &mut self,
        wanted: &BTreeMap<String, Value>,
        changes: &BTreeMap<&String, &Value>,
    ) -> Result<(), PatchError> {
        let of_router = wanted.iter().filter(|(key, _)| *key != "router.replicas").filter_map(
            |(key, value)| Some((key.strip_prefix("router.")?.to_owned(), value.clone())),
        );
        let settings: BTreeMap<String, Value> = of_router.collect();
        let picker = self.fleet.found.picker.as_ref().expect("there is one");
        let text = routers::picker_of(&settings, &picker.text).map_err(|(key, why)| {
            // What is not changed stands in the way of what is.
            let is_it = |(known, _): &(&&String, &&Value)| **known == &format!("router.{key}");
            let is_router = |(known, _): &(&&String, &&Value)| known.starts_with("router.");
            let changed = changes.iter().find(is_it);
            let changed = changed.or_else(|| changes.iter().find(is_router));
            let (changed, value) = changed.expect("a change of the router");
            inexpressible(changed, value, why)
        })?;
        match picker.pointer.is_empty() {
            true => self.documents[picker.document] = yaml::parse(&text).unwrap_or(Json::Null),
            false => {
                let _ = set(&mut self.documents[picker.document], &picker.pointer, json!(text));
            }
        }
        Ok(())
    }

    /// Puts all edits into the documents, and makes files of what changed.
    fn finish(mut self, said: &str) -> Result<Patched, PatchError> {
        let mut files = Vec::new();
        for (at, edits) in std::mem::take(&mut self.edits) {
            let component = &self.fleet.found.components[at];
            let mut written = component.written.clone();
            edits.apply(&mut written);
            match component.document {
                Some(document) => {
                    for (key, before, items) in [
                        ("command", &component.written.command, &written.command),
                        ("args", &component.written.args, &written.args),
                    ] {
                        if before != items {
                            let pointer = format!("{}/{key}", component.container);
                            let _ = set(&mut self.documents[document], &pointer, json!(items));
                        }
                    }
                }
                None => {
                    let line = written.script().unwrap_or_default().to_owned();
                    let file =
                        self.request.files.iter_mut().find(|file| file.name == component.name);
                    let name = match file {
                        Some(file) => {
                            file.text.clone_from(&line);
                            file.name.clone()
                        }
                        None => {
                            self.request.command = Some(line.clone());
                            "command.sh".to_owned()
                        }
                    };
                    let apply = match self.request.workers.filter(|_| self.is_scaled()) {
                        Some(count) => format!("start {count} of these"),
                        None => "start the engines with it".to_owned(),
                    };
                    let newline = if line.ends_with('\n') { "" } else { "\n" };
                    let text = match line.strip_prefix("#!").and_then(|line| line.split_once('\n'))
                    {
                        Some((shebang, rest)) => format!("#!{shebang}\n{said}{rest}{newline}"),
                        None => format!("{said}{line}{newline}"),
                    };
                    files.push(PatchFile { name, text, apply });
                }
            }
        }
        for (at, document) in self.fleet.found.documents.iter().enumerate() {
            if document.value != self.documents[at] {
                let mut file = self.patch_file(at, said);
                // Two namespaces may have objects of one kind and name.
                let written = file.name.clone();
                let mut number = 2;
                while files.iter().any(|other: &PatchFile| other.name == file.name) {
                    file.name = format!("{number}-{written}");
                    number += 1;
                }
                file.apply = file.apply.replace(&written, &file.name);
                files.push(file);
            }
        }
        for (file, source) in self.request.files.iter_mut().enumerate() {
            let of_file = || {
                self.fleet
                    .found
                    .documents
                    .iter()
                    .enumerate()
                    .filter(move |(_, document)| document.file == file)
            };
            if of_file().any(|(at, document)| document.value != self.documents[at]) {
                let texts: Vec<String> =
                    of_file().map(|(at, _)| yaml::write(&self.documents[at])).collect();
                source.text = texts.join("---\n");
            }
        }
        Ok(Patched { files, request: self.request })
    }

    /// Whether there are more or fewer workers of a line.
    fn is_scaled(&self) -> bool {
        let was = self.fleet.workers.first().and_then(|worker| worker.workers.value.as_integer());
        was != self.request.workers.map(i64::from)
    }

    fn patch_file(&self, at: usize, said: &str) -> PatchFile {
        let (before, after) = (&self.fleet.found.documents[at].value, &self.documents[at]);
        let text = |key: &str| after.get(key).and_then(Json::as_str);
        let name = after.pointer("/metadata/name").and_then(Json::as_str).unwrap_or("unnamed");
        let file = &self.request.files[self.fleet.found.documents[at].file].name;
        let Some(kind) = text("kind").filter(|kind| *kind != "EndpointPickerConfig") else {
            let is_whole = text("kind").is_some() || self.fleet.found.options.contains(&at);
            let (value, apply) = match is_whole {
                true => (after.clone(), format!("use it in place of {file}")),
                false => (difference(before, after), format!("pass it to helm after {file}")),
            };
            let name = file.rsplit('/').next().unwrap_or_default().to_owned();
            return PatchFile { name, text: format!("{said}{}", yaml::write(&value)), apply };
        };
        // Custom resources know merge patches only, in which lists are whole.
        let is_custom = kind == "DynamoGraphDeployment" || kind == "LeaderWorkerSet";
        let mut value = difference(before, after);
        if !is_custom && let Some(Json::Array(containers)) = containers_of(&mut value) {
            let mut befores = before.clone();
            let befores = match containers_of(&mut befores) {
                Some(Json::Array(befores)) => std::mem::take(befores),
                _ => Vec::new(),
            };
            *containers = strategic(&befores, containers);
        }
        if let Json::Object(entries) = &mut value {
            for key in ["apiVersion", "kind"] {
                if let Some(value) = text(key) {
                    entries.insert(key.to_owned(), json!(value));
                }
            }
            entries.insert("metadata".to_owned(), json!({ "name": name }));
        }
        let file = format!("patch-{}-{name}.yaml", kind.to_lowercase());
        let merge = if is_custom { " --type merge" } else { "" };
        let namespace = after.pointer("/metadata/namespace").and_then(Json::as_str);
        let space = namespace.map_or(String::new(), |namespace| format!(" -n {namespace}"));
        // Pods read such a file once, when they start.
        let restart = match kind {
            "ConfigMap" => ", then kubectl rollout restart for each workload that reads it",
            _ => "",
        };
        let apply = format!(
            "kubectl patch {} {name}{space}{merge} --patch-file {file}{restart}",
            kind.to_lowercase()
        );
        PatchFile { name: file, text: format!("{said}{}", yaml::write(&value)), apply }
    }
}

impl Edits {
    fn apply(self, written: &mut Written) {
        let Self { replaced, removed, mut added, last } = self;
        let mut changes: Vec<(Word, Option<String>)> = Vec::new();
        for (word, text, again) in replaced {
            // A word that came out of a variable has no place: the flag is said again behind
            // all others, where it wins.
            match written.clone().replace(&word, "") {
                true => changes.push((word, Some(text))),
                false => added.extend(again),
            }
        }
        changes.extend(removed.into_iter().map(|word| (word, None)));
        if let Some(last) = last.filter(|_| !added.is_empty()) {
            written.append(&last, &added);
        }
        // From the last to the first, so that places stay.
        changes.sort_by_key(|(word, _)| std::cmp::Reverse(word.order()));
        for (word, text) in changes {
            match text {
                Some(text) => {
                    written.replace(&word, &text);
                }
                None => written.remove(&word),
            }
        }
    }
}

/// Sets the value at a JSON pointer; tables on the way appear as needed.
fn set(root: &mut Json, pointer: &str, value: Json) -> Option<()> {
    let mut at = root;
    let mut parts = pointer.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let part = unescaped(part);
        if at.is_null() {
            *at = json!({});
        }
        at = match at {
            Json::Object(entries) => entries.entry(part).or_insert(Json::Null),
            Json::Array(items) => items.get_mut(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
        if parts.peek().is_none() {
            *at = value;
            return Some(());
        }
    }
    None
}

/// The merge patch (RFC 7386) from one value to another.
fn difference(before: &Json, after: &Json) -> Json {
    let (Json::Object(before), Json::Object(after)) = (before, after) else { return after.clone() };
    let mut patch = Map::new();
    for (key, value) in after {
        match before.get(key) {
            Some(known) if known == value => {}
            Some(known) => {
                patch.insert(key.clone(), difference(known, value));
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(key.clone(), Json::Null);
    }
    Json::Object(patch)
}

fn containers_of(value: &mut Json) -> Option<&mut Json> {
    let pointer = match value.pointer("/spec/template/spec/containers") {
        Some(_) => "/spec/template/spec/containers",
        None => "/spec/containers",
    };
    value.pointer_mut(pointer)
}

/// Of containers, which a strategic merge patch knows by name, only what differs.
fn strategic(before: &[Json], after: &[Json]) -> Vec<Json> {
    let name = |value: &Json| value.get("name").cloned();
    let changed = after.iter().filter_map(|container| {
        let known = before.iter().find(|known| name(known) == name(container));
        let Some(known) = known else { return Some(container.clone()) };
        let mut patch = difference(known, container);
        patch.as_object().is_some_and(|patch| !patch.is_empty()).then_some(())?;
        patch["name"] = name(container)?;
        Some(patch)
    });
    changed.collect()
}
