//! From components to workers and a router: which engine each runs, with which settings,
//! and what says so.

use super::arguments::{Arguments, behind};
use super::engines::Engine;
use super::images;
use super::manifests::{self, Component, Form};
use super::models;
use super::request::{ImportError, Remark, Request, Source, Why};
use super::routers;
use super::said::{By, Keys, Said};
use super::words::Word;
use super::worker::{CONFIG, Reading};
use crate::settings::yaml;
use serde_json::Value as Json;
use toml::Value;

/// What a worker does of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Both,
    Prefill,
    Decode,
}

/// Options of TensorRT-LLM in a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Options {
    /// A key of a `ConfigMap`.
    Mounted(usize, String),
    /// A document by itself.
    Document(usize),
}

/// Workers that are alike.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Worker {
    /// Its component, among those found.
    pub(super) component: usize,
    /// As a pool is called.
    pub(super) name: String,
    pub(super) engine: Engine,
    pub(super) role: Role,
    pub(super) workers: Said,
    /// Workers that one replica is: ranks of networks without experts.
    pub(super) per_replica: u32,
    /// Keys below `model` and `engine`.
    pub(super) model: Keys,
    pub(super) settings: Keys,
    pub(super) arguments: Arguments,
    pub(super) options: Option<Options>,
    /// Started by `trtllm-serve`, whose flags have underscores.
    pub(super) is_serve: bool,
    /// Keys that the options give.
    pub(super) of_options: Vec<&'static str>,
    /// Some of its network's layers look at a window.
    has_window: bool,
}

/// The router in front of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Router {
    /// The component that runs it, among those found.
    pub(super) component: Option<usize>,
    pub(super) is_picker: bool,
    pub(super) settings: Keys,
    pub(super) arguments: Arguments,
    /// The text of a configuration that no parameters stand for.
    pub(super) config: Option<String>,
}

/// All that an experiment is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fleet {
    pub(super) found: manifests::Found,
    pub(super) workers: Vec<Worker>,
    pub(super) router: Router,
    /// Files and paths that values come from.
    pub(super) places: Vec<String>,
    /// What is not used, by place.
    pub(super) unused: Vec<(Option<usize>, Remark)>,
    /// A network's `config.json`: its name and its text.
    pub(super) config: Option<(String, String)>,
}

/// Modules and commands of engines that are not simulated.
const OTHERS: [(&str, &str); 3] = [
    ("dynamo.sglang", "SGLang's rules are not simulated"),
    ("sglang.launch_server", "SGLang's rules are not simulated"),
    ("dynamo.mocker", "a mocker serves no model: give the manifest of a real engine"),
];

impl Fleet {
    /// What the files and the command of a request mean.
    ///
    /// # Errors
    /// What cannot be read, is missing, or is not simulated.
    pub(super) fn read(request: &Request) -> Result<Self, ImportError> {
        let mut found = manifests::Found::read(&request.files)?;
        if let Some(command) = &request.command {
            found.components.push(Component::line("the command", command));
        }
        let unused = found.unused.drain(..).map(|remark| (None, remark)).collect();
        let mut fleet = Self {
            found,
            workers: Vec::new(),
            router: Router::default(),
            places: Vec::new(),
            unused,
            config: None,
        };
        if let Some(file) = fleet.found.config {
            let Source { name, text, .. } = &request.files[file];
            fleet.config = Some((name.clone(), text.clone()));
        }
        for component in 0..fleet.found.components.len() {
            fleet.component(component, request)?;
        }
        if fleet.workers.is_empty() {
            let names: Vec<&str> = request.files.iter().map(|file| file.name.as_str()).collect();
            let names = if names.is_empty() { vec!["the command"] } else { names };
            return Err(ImportError::file(
                &names.join(", "),
                "runs no engine that can be simulated: looked for vllm serve, vllm.entrypoints.openai.api_server, \
                 dynamo.vllm, trtllm-serve and dynamo.trtllm",
            ));
        }
        let is_line = |worker: &Worker| fleet.found.components[worker.component].form == Form::Line;
        if let Some(count) = request.workers
            && !fleet.workers.iter().any(is_line)
        {
            let why = Why::NotModelled("the manifests say how many there are".to_owned());
            let remark = Remark::new(&format!("the requested number of workers, {count}"), why);
            fleet.unused.push((None, remark));
        }
        fleet.list_untaken(request);
        fleet.roles()?;
        fleet.names();
        if fleet.found.picker.is_some() {
            fleet.picker(request)?;
        }
        fleet.assume_router();
        Ok(fleet)
    }

    /// Lists files that no worker takes.
    fn list_untaken(&mut self, request: &Request) {
        let options = self.workers.iter().filter_map(|worker| worker.options.as_ref());
        let mut documents = Vec::new();
        for options in options {
            match options {
                Options::Document(document) => documents.push(*document),
                Options::Mounted(document, key) => {
                    self.found.taken.insert((*document, key.clone()));
                }
            }
        }
        let name = |file: usize| Remark::new(&request.files[file].name, Why::NotTaken);
        let untaken = self.found.options.iter().filter(|at| !documents.contains(at));
        let untaken = untaken.map(|at| name(self.found.documents[*at].file));
        let reads_config = self.workers.iter().any(|worker| {
            worker.get("model.shape").is_some_and(|shape| shape.value.as_str() == Some(CONFIG))
        });
        let config = self.found.config.filter(|_| !reads_config).map(name);
        let remarks: Vec<Remark> = untaken.chain(config).chain(self.found.untaken()).collect();
        self.unused.extend(remarks.into_iter().map(|remark| (None, remark)));
    }

    /// The number of a place, noted if it is new.
    fn place(&mut self, file: &str, path: &str) -> usize {
        let place = if path.is_empty() { file.to_owned() } else { format!("{file}: {path}") };
        if let Some(at) = self.places.iter().position(|known| *known == place) {
            return at;
        }
        self.places.push(place);
        self.places.len() - 1
    }

    fn place_of(&mut self, at: usize, request: &Request) -> usize {
        let component = &self.found.components[at];
        let path = component.path();
        let file = component.document.map(|document| self.found.documents[document].file);
        let file = file.map_or(component.name.clone(), |file| request.files[file].name.clone());
        self.place(&file, &path)
    }

    /// Reads a component: an engine, a router, or what is not used.
    fn component(&mut self, at: usize, request: &Request) -> Result<(), ImportError> {
        let component = self.found.components[at].clone();
        let place = self.place_of(at, request);
        let commands = component.written.commands(&component.variables);
        for (module, why) in OTHERS {
            let is_it = |words: &Vec<Word>| words.iter().any(|word| word.text == module);
            if commands.iter().any(is_it) {
                return Err(ImportError::refused(
                    &format!("{}: {module}", self.places[place]),
                    why,
                ));
            }
        }
        let unread = beside(&commands);
        self.unused.extend(unread.into_iter().map(|remark| (Some(place), remark)));
        let frontend = |words: &Vec<Word>| {
            let at = behind(words, "dynamo.frontend", &["dynamo.frontend"])?;
            Some((words[at..].to_vec(), words[at - 1].clone()))
        };
        let says = |word: &str| component.said.iter().any(|said| said == word);
        let is_dynamo = matches!(component.form, Form::Services | Form::Components);
        if let Some((words, program)) = commands.iter().find_map(frontend) {
            self.frontend(at, place, &words)?;
            // Where further flags go.
            let last = self.router.arguments.last.take();
            self.router.arguments.last = last.or(Some(program));
            return Ok(());
        }
        if is_dynamo && (says("frontend") || says("epp")) {
            let Arguments { alone, flags, .. } = Arguments::of(&commands.concat());
            let alone = alone.into_iter().map(|word| word.text);
            let shown: Vec<String> =
                alone.chain(flags.into_iter().map(|flag| flag.shown)).collect();
            if !shown.is_empty() {
                let why = "it does not say that it starts dynamo.frontend";
                let why = Why::NotModelled(why.to_owned());
                self.unused.push((Some(place), Remark::new(&shown.join(" "), why)));
            }
            return self.frontend(at, place, &[]);
        }
        let engine = |words: &Vec<Word>| {
            let vllm = || {
                let module = behind(words, "dynamo.vllm", &["vllm", "serve"]);
                module.or_else(|| {
                    behind(words, "vllm.entrypoints.openai.api_server", &["vllm", "serve"])
                })
            };
            let trtllm = || {
                let at = behind(words, "dynamo.trtllm", &["trtllm-serve"])?;
                // The name of its only usual subcommand may stand there.
                Some(at + usize::from(words.get(at).is_some_and(|word| word.text == "serve")))
            };
            let found =
                vllm().map(|at| (Engine::Vllm, at)).or_else(|| Some((Engine::Trtllm, trtllm()?)));
            found.map(|(engine, at)| (engine, words[at..].to_vec(), words[at - 1].clone()))
        };
        let mut engines: Vec<(Engine, Vec<Word>, Word)> =
            commands.iter().filter_map(engine).collect();
        let is_image =
            component.image.contains("vllm-openai") && component.written.command.is_empty();
        if engines.is_empty()
            && is_image
            && let Some(words) = commands.first().filter(|words| !words.is_empty())
        {
            engines.push((Engine::Vllm, words.clone(), words[0].clone()));
        }
        match engines.len() {
            0 => {
                let shown = format!(
                    "{} {}",
                    component.said.first().map_or("container", |said| said),
                    component.name
                );
                self.unused.push((Some(place), Remark::new(shown.trim(), Why::NoEngine)));
                Ok(())
            }
            1 => {
                let (engine, words, program) = engines.remove(0);
                self.worker(at, place, engine, &words, program, request)
            }
            _ => Err(ImportError::refused(
                &self.places[place],
                "runs several engines in one container",
            )),
        }
    }

    fn frontend(&mut self, at: usize, place: usize, words: &[Word]) -> Result<(), ImportError> {
        if self.router.component.is_some() {
            return Err(ImportError::refused(
                &self.places[place],
                "a second front end; give the manifests of only one",
            ));
        }
        let component = self.found.components[at].clone();
        let arguments = Arguments::of(words);
        let read = routers::Found::dynamo(&arguments, &component.variables)?;
        let said = |value: Value, shown: String| Said { value, by: By::Place(place, shown) };
        let mut settings = Keys::new();
        let mut by_key = read.settings;
        match by_key.remove("policy") {
            Some((value, shown)) => settings.push(("policy", said(value, shown))),
            None if component.said.iter().any(|said| said == "epp") => {
                let by = By::Assumed("Dynamo's endpoint picker routes by KV cost".to_owned());
                settings.push(("policy", Said { value: "kv".into(), by }));
            }
            None => {
                let by = By::Assumed("the default mode of Dynamo's front end".to_owned());
                settings.push(("policy", Said { value: "round_robin".into(), by }));
            }
        }
        let image = &component.image;
        let near = |rules: &str| By::Assumed(format!("image {image}: the rules of {rules}"));
        let (value, by) = match images::version(image) {
            Some((0, 6..=9)) => ("0.9", By::Place(place, format!("image {image}"))),
            Some((0, _)) => ("0.9", near("0.9")),
            Some((1, 6)) => ("1.6", By::Place(place, format!("image {image}"))),
            Some(_) => ("1.6", near("1.6")),
            None => {
                ("1.6", By::Assumed("Dynamo's version is unknown; the rules of 1.6".to_owned()))
            }
        };
        settings.push(("semantics", Said { value: value.into(), by }));
        for rule in &routers::DYNAMO {
            if let Some((value, shown)) = by_key.remove(rule.key) {
                settings.push((rule.key, said(value, shown)));
            }
        }
        if let Some(count) = component.replicas.filter(|count| *count > 1) {
            settings.push((
                "replicas",
                said(Value::Integer(count.into()), format!("replicas: {count}")),
            ));
            if let Some(shown) = &read.is_synced {
                let by = By::Assumed(format!(
                    "delay until front ends learn of each other's requests ({shown})"
                ));
                settings.push(("sync_delay", Said { value: "5ms".into(), by }));
            }
        }
        let mut unused = read.unused;
        if let Some((_, shown)) = read.block_size {
            unused.push(Remark::new(
                &shown,
                Why::NotModelled("the router uses the engine's block size".to_owned()),
            ));
        }
        unused.extend(variables_unused(&component, &read.read));
        self.unused.extend(unused.into_iter().map(|remark| (Some(place), remark)));
        self.router =
            Router { component: Some(at), is_picker: false, settings, arguments, config: None };
        Ok(())
    }

    fn worker(
        &mut self,
        at: usize,
        place: usize,
        engine: Engine,
        words: &[Word],
        program: Word,
        request: &Request,
    ) -> Result<(), ImportError> {
        let component = self.found.components[at].clone();
        let mut arguments = Arguments::of(words);
        let is_serve = engine == Engine::Trtllm && program.text != "dynamo.trtllm";
        arguments.last = arguments.last.or(Some(program));
        let (options, values) = self.options(engine, &arguments, &component, request)?;
        let mut found = engine.read(&arguments, values.as_ref())?;
        let options_place = self.place_of_options(options.as_ref(), request).unwrap_or(place);
        let of_file = std::mem::take(&mut found.unused_of_file);
        self.unused.extend(of_file.into_iter().map(|remark| (Some(options_place), remark)));
        let mut unused = std::mem::take(&mut found.unused);
        unused.extend(variables_unused(&component, &[]));
        let of_options = found.of_file.clone();
        let mut reading = Reading {
            engine,
            component: &component,
            request,
            place,
            place_name: &self.places[place],
            options_place,
            found,
            unused,
        };
        let config = self.found.config.map(|file| request.files[file].folder.as_path());
        let model = reading.model(config, || self.gpu(&component, place, request))?;
        let settings = reading.settings(&model);
        let workers = reading.workers(model.per_replica)?;
        let unused = reading.unused;
        let role = self.role(&component, &arguments);
        self.unused.extend(unused.into_iter().map(|remark| (Some(place), remark)));
        self.workers.push(Worker {
            component: at,
            name: component.name.clone(),
            engine,
            role,
            workers,
            per_replica: model.per_replica,
            model: model.keys,
            settings,
            arguments,
            options,
            is_serve,
            of_options,
            has_window: model.loaded.has_window,
        });
        Ok(())
    }

    /// The place of options in a file.
    fn place_of_options(&mut self, options: Option<&Options>, request: &Request) -> Option<usize> {
        let (document, path) = match options? {
            Options::Document(document) => (*document, String::new()),
            Options::Mounted(document, key) => (*document, format!("data.{key}")),
        };
        let file = self.found.documents[document].file;
        Some(self.place(&request.files[file].name, &path))
    }

    /// The GPU: as asked for, or by a label of nodes.
    fn gpu(
        &self,
        component: &Component,
        place: usize,
        request: &Request,
    ) -> Result<(String, By), ImportError> {
        let by_label = component.gpu_label.as_ref();
        if let Some((key, label)) = by_label
            && let Some(gpu) = models::gpu(label)
        {
            let by = By::Place(place, format!("{key}: {label}"));
            return Ok((gpu.to_owned(), by));
        }
        if let Some(gpu) = &request.gpu {
            let why = match by_label {
                None => "as requested: no manifest says it".to_owned(),
                Some((key, label)) => {
                    format!("as requested: {key}: {label} is not a known GPU")
                }
            };
            return Ok((gpu.clone(), By::Assumed(why)));
        }
        Err(ImportError::UnknownGpu {
            place: self.places[place].clone(),
            label: by_label.map(|(key, label)| format!("{key}: {label}")),
        })
    }

    /// Where TensorRT-LLM's options are, and what they say.
    fn options(
        &self,
        engine: Engine,
        arguments: &Arguments,
        component: &Component,
        request: &Request,
    ) -> Result<(Option<Options>, Option<Json>), ImportError> {
        if engine != Engine::Trtllm {
            return Ok((None, None));
        }
        if let Some(flag) = arguments.get(&["override-engine-args"]) {
            let why = "options in addition to a file are not read: put them into the file";
            return Err(ImportError::refused(&flag.shown, why));
        }
        let Some(flag) = arguments.get(&["extra-engine-args", "extra-llm-api-options", "config"])
        else {
            return Ok((None, None));
        };
        let path = flag.value.clone().unwrap_or_default();
        let tail = path.trim_start_matches("./");
        let is_it = |known: &&String| *known == &path || known.ends_with(&format!("/{tail}"));
        if let Some((_, (document, key))) = component.mounted.iter().find(|(known, _)| is_it(known))
        {
            let text = self.found.documents[*document]
                .value
                .pointer(&format!("/data/{}", yaml::escaped(key)));
            let text = text.and_then(Json::as_str).unwrap_or_default();
            let values = yaml::parse(text).map_err(|problem| ImportError::file(key, &problem))?;
            return Ok((Some(Options::Mounted(*document, key.clone())), Some(values)));
        }
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let named =
            |at: &&usize| name(&request.files[self.found.documents[**at].file].name) == name(&path);
        let only = || self.found.options.first().filter(|_| self.found.options.len() == 1);
        match self.found.options.iter().find(named).or_else(only) {
            Some(at) => {
                Ok((Some(Options::Document(*at)), Some(self.found.documents[*at].value.clone())))
            }
            None => Err(ImportError::refused(&flag.shown, "this file was not given: give it too")),
        }
    }

    fn role(&self, component: &Component, arguments: &Arguments) -> Role {
        let mode = arguments.get(&["disaggregation-mode"]).and_then(|flag| flag.value.as_deref());
        let has = |name: &str| arguments.get(&[name]).is_some();
        let says = |word: &str| component.said.iter().any(|said| said == word);
        match mode {
            Some("prefill") => return Role::Prefill,
            Some("decode") => return Role::Decode,
            Some(_) => return Role::Both,
            None => {}
        }
        if has("is-prefill-worker") || says("prefill") {
            Role::Prefill
        } else if has("is-decode-worker") || says("decode") {
            Role::Decode
        } else {
            Role::Both
        }
    }

    /// Workers decode for others only where there are some that prefill.
    fn roles(&mut self) -> Result<(), ImportError> {
        let prefills = self.workers.iter().any(|worker| worker.role == Role::Prefill);
        let mut decodes = false;
        for worker in &mut self.workers {
            match worker.role {
                Role::Prefill => {}
                // In Dynamo every worker that does not prefill decodes.
                _ if prefills => (worker.role, decodes) = (Role::Decode, true),
                _ => worker.role = Role::Both,
            }
        }
        if prefills && !decodes {
            return Err(ImportError::refused(
                &self.workers[0].name,
                "prefill workers without decode workers; give the manifests of both",
            ));
        }
        let trtllm = self.workers.iter().find(|worker| worker.engine == Engine::Trtllm);
        if prefills && let Some(worker) = trtllm {
            return Err(ImportError::refused(
                &worker.name,
                "disaggregated prefill is simulated under vLLM's rules only: how TensorRT-LLM reserves blocks \
                 for KV from another worker was not read from its source",
            ));
        }
        for worker in self.workers.iter_mut().filter(|_| prefills) {
            let key = "engine.hybrid_kv_cache";
            if worker.has_window && worker.settings.iter().all(|(known, _)| *known != key) {
                let by = By::Assumed("KV is transferred as one group of layers here".to_owned());
                worker.settings.push((key, Said { value: Value::Boolean(false), by }));
            }
        }
        Ok(())
    }

    /// Names of pools, each once.
    fn names(&mut self) {
        let mut taken: Vec<String> = Vec::new();
        for worker in &mut self.workers {
            let plain =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            let name: String = worker.name.chars().map(plain).take(32).collect();
            let name = name.trim_matches('-');
            let is_name = name.chars().any(|c| c.is_ascii_alphabetic());
            let name = if is_name { name.to_owned() } else { format!("pool-{name}") };
            let mut unique = name.clone();
            let mut number = 2;
            while taken.contains(&unique) {
                unique = format!("{name}-{number}");
                number += 1;
            }
            taken.push(unique.clone());
            worker.name = unique;
        }
    }

    /// A configuration of llm-d's router.
    fn picker(&mut self, request: &Request) -> Result<(), ImportError> {
        let picker = self.found.picker.clone().expect("there is one");
        if let Some(other) = self.router.component {
            let name = &self.found.components[other].name;
            return Err(ImportError::refused(
                name,
                "a front end in addition to an EndpointPickerConfig; give only one router",
            ));
        }
        let file = self.found.documents[picker.document].file;
        let place = self.place(&request.files[file].name, &yaml::dotted(&picker.pointer));
        let said =
            |value: Value, shown: &str| Said { value, by: By::Place(place, shown.to_owned()) };
        let mut settings = Vec::new();
        let mut config = None;
        match routers::picker(&picker.text) {
            Some(mut parameters) => {
                let policy = parameters.remove("policy").expect("every one has a policy");
                settings.push(("policy", said(policy, "EndpointPickerConfig")));
                for (key, value) in parameters {
                    settings.push((key, said(value, "EndpointPickerConfig")));
                }
            }
            None => {
                settings.push(("policy", said("llmd".into(), "EndpointPickerConfig")));
                settings.push(("config", said("epp.yaml".into(), "a copy")));
                config = Some(picker.text);
            }
        }
        // Helm values say beside it how many there are.
        if let Some((epp, _)) = picker.pointer.split_once("/pluginsCustomConfig") {
            let values = &self.found.documents[picker.document].value;
            let given = values.pointer(&format!("{epp}/replicas")).filter(|given| !given.is_null());
            let count = given.map(|given| {
                let count = given.as_u64().filter(|count| (1..=1_000).contains(count));
                count.ok_or_else(|| {
                    let shown = format!("{}.replicas: {given}", yaml::dotted(epp));
                    ImportError::value(&shown, "must be a whole number from 1 to 1000")
                })
            });
            if let Some(count) = count.transpose()?.filter(|count| *count > 1) {
                let place = self.place(&request.files[file].name, &yaml::dotted(epp));
                let by = By::Place(place, format!("replicas: {count}"));
                let value = Value::Integer(i64::try_from(count).unwrap_or(1));
                settings.push(("replicas", Said { value, by }));
            }
        }
        self.router = Router { is_picker: true, settings, config, ..Router::default() };
        Ok(())
    }

    /// Where no router is among the files.
    fn assume_router(&mut self) {
        if !self.router.settings.is_empty() {
            return;
        }
        let is_line = self
            .workers
            .iter()
            .all(|worker| self.found.components[worker.component].form == Form::Line);
        let (policy, why) = match is_line {
            true => ("round_robin", "no router is given"),
            false => (
                "service",
                "no router is given: a Kubernetes Service, which picks a random worker for each connection",
            ),
        };
        let by = By::Assumed(why.to_owned());
        self.router.settings.push(("policy", Said { value: policy.into(), by }));
    }
}

/// Programs that are read.
const PROGRAMS: [&str; 6] = [
    "dynamo.frontend",
    "dynamo.trtllm",
    "dynamo.vllm",
    "trtllm-serve",
    "vllm",
    "vllm.entrypoints.openai.api_server",
];

/// Commands of a script that do nothing to a program that is started after them.
const PLAIN: [&str; 8] = ["cd", "echo", "export", "set", "sleep", "source", "trap", "wait"];

/// What stands in front of a program that is read, and the commands beside it.
fn beside(commands: &[Vec<Word>]) -> Vec<Remark> {
    let name = |word: &Word| word.text.rsplit('/').next().unwrap_or_default().to_owned();
    // What starts a program, and says nothing else.
    let is_starter = |name: &String| {
        let version = name.strip_prefix("python");
        let is_version = |v: &str| v.chars().all(|c| c.is_ascii_digit() || c == '.');
        ["exec", "-m"].contains(&name.as_str()) || version.is_some_and(is_version)
    };
    let mut remarks = Vec::new();
    let (mut plain, mut others) = (Vec::new(), Vec::new());
    for words in commands {
        match words.iter().position(|word| PROGRAMS.contains(&name(word).as_str())) {
            Some(at) => {
                let front = words[..at].iter().filter(|word| !is_starter(&name(word)));
                let front: Vec<&str> = front.map(|word| word.text.as_str()).collect();
                let shown = format!("{} in front of it", front.join(" "));
                remarks.extend((!front.is_empty()).then(|| Remark::new(&shown, Why::Unknown)));
            }
            None => match words.first().map(|word| &word.text) {
                Some(word) if PLAIN.contains(&word.as_str()) => plain.push(word.clone()),
                Some(word) if !word.starts_with('-') => others.push(word.clone()),
                _ => {}
            },
        }
    }
    if commands.len() > 1 {
        remarks.extend(Remark::list("commands ", &plain, &Why::NoEffect));
        remarks.extend(Remark::list("commands ", &others, &Why::Unknown));
    }
    remarks
}

/// Variables that nothing read: those of Dynamo and vLLM by name, the others by number.
fn variables_unused(component: &Component, read: &[String]) -> Vec<Remark> {
    let known = |name: &&String| {
        ["DYN_", "VLLM_", "TRTLLM_", "TLLM_", "LMCACHE_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let names: Vec<&String> =
        component.variables.keys().filter(|name| !read.contains(name)).collect();
    let is_in_words = |name: &str| {
        let mut texts = component.written.command.iter().chain(&component.written.args);
        texts.any(|text| has_variable(text, name))
    };
    let (ours, others): (Vec<&String>, Vec<&String>) =
        names.into_iter().filter(|name| !is_in_words(name)).partition(known);
    let mut remarks: Vec<Remark> = ours
        .into_iter()
        .map(|name| Remark::new(&format!("variable {name}"), Why::Unknown))
        .collect();
    let others: Vec<String> = others.into_iter().cloned().collect();
    remarks.extend(Remark::list("variables ", &others, &Why::NoEffect));
    remarks
}

/// Whether a text names a variable: `$NAME`, `${NAME...}` or `$(NAME)`, and no longer name.
fn has_variable(text: &str, name: &str) -> bool {
    text.split('$').skip(1).any(|behind| {
        let rest = behind.strip_prefix(['{', '(']).unwrap_or(behind).strip_prefix(name);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}

impl Worker {
    /// The value of a key below this worker, like `engine.max_num_seqs`.
    pub(super) fn get(&self, key: &str) -> Option<&Said> {
        let (list, key) = match key.strip_prefix("model.") {
            Some(key) => (&self.model, key),
            None => (&self.settings, key),
        };
        list.iter().find(|(known, _)| *known == key).map(|(_, said)| said)
    }
}
