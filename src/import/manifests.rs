//! What Kubernetes runs, by its manifests: the containers of each component, with their
//! variables, the files that are mounted into them, and how many of them there are.

use super::models;
use super::request::{ImportError, Remark, Source, Why};
use super::words::Written;
use crate::settings::yaml;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// The place of its file among those given.
    pub(super) file: usize,
    pub(super) value: Value,
}

/// What kind of document a component stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A `DynamoGraphDeployment` with its services by name (v1alpha1).
    Services,
    /// One with a list of components (v1beta1).
    Components,
    /// A `Deployment` or the like.
    Workload,
    /// A line of a shell.
    Line,
}

/// Containers that are alike, and what they run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) form: Form,
    /// Its document; a line of a shell has none.
    pub(super) document: Option<usize>,
    /// JSON pointers into it: of the component, and of its container.
    pub(super) pointer: String,
    pub(super) container: String,
    pub(super) replicas: Option<u32>,
    /// Key below `pointer` that says how many there are.
    pub(super) replicas_key: &'static str,
    /// `worker`, `prefill`, `frontend`, as the manifest calls it; may be empty.
    pub(super) said: Vec<String>,
    pub(super) written: Written,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) image: String,
    /// GPUs of a container.
    pub(super) gpus: Option<u32>,
    /// Pods that are one worker together.
    pub(super) nodes: u32,
    /// A label of nodes that says which GPU they have: its key and its value.
    pub(super) gpu_label: Option<(String, String)>,
    /// Files that are mounted, by path: the place of a `ConfigMap` and the key in it.
    pub(super) mounted: BTreeMap<String, (usize, String)>,
}

/// A configuration of llm-d's router.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Picker {
    pub(super) document: usize,
    /// JSON pointer to its text; empty where the document is the configuration.
    pub(super) pointer: String,
    pub(super) text: String,
}

/// All that was found in the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) documents: Vec<Document>,
    pub(super) components: Vec<Component>,
    pub(super) picker: Option<Picker>,
    /// The place of the file that is a network's `config.json`.
    pub(super) config: Option<usize>,
    /// Documents that are options of TensorRT-LLM.
    pub(super) options: Vec<usize>,
    pub(super) unused: Vec<Remark>,
}

/// Kinds that run containers.
const WORKLOADS: [&str; 6] =
    ["Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "Pod", "LeaderWorkerSet"];

/// Keys at the top of a file of TensorRT-LLM's options, one of which is there.
const OPTIONS: [&str; 11] = [
    "cuda_graph_config",
    "disable_overlap_scheduler",
    "enable_attention_dp",
    "enable_chunked_prefill",
    "kv_cache_config",
    "max_batch_size",
    "max_num_tokens",
    "max_seq_len",
    "moe_config",
    "moe_expert_parallel_size",
    "tensor_parallel_size",
];

impl Found {
    /// What the files have.
    ///
    /// # Errors
    /// A file that is nothing of what can be read.
    pub(super) fn read(files: &[Source]) -> Result<Self, ImportError> {
        let mut found = Self::default();
        for (file, Source { name, text, .. }) in files.iter().enumerate() {
            if name.ends_with(".sh") || text.starts_with("#!") {
                found.components.push(Component::line(name, text));
                continue;
            }
            let documents = yaml::documents(text).map_err(|problem| {
                ImportError::file(name, &format!("not valid YAML: {problem}"))
            })?;
            if documents.is_empty() {
                return Err(ImportError::file(name, "has no documents"));
            }
            for value in documents {
                found.sort(files, file, value)?;
            }
        }
        for at in 0..found.documents.len() {
            let Document { file, value } = &found.documents[at];
            for key in ["name", "namespace"] {
                let name = value.get("metadata").and_then(|metadata| text(metadata, key));
                let is_read = text(value, "kind").is_some_and(|kind| {
                    kind == "DynamoGraphDeployment"
                        || kind == "ConfigMap"
                        || WORKLOADS.contains(&kind)
                });
                if let Some(name) = name.filter(|name| is_read && !is_name(name)) {
                    let problem = format!("metadata.{key} = {name:?}: no name of Kubernetes");
                    return Err(ImportError::file(&files[*file].name, &problem));
                }
            }
            found.containers(at)?;
        }
        Ok(found)
    }

    /// Notes what a document is.
    fn sort(&mut self, files: &[Source], file: usize, value: Value) -> Result<(), ImportError> {
        let kind = text(&value, "kind").unwrap_or_default().to_owned();
        if kind == "List"
            && let Some(items) = value.get("items").and_then(Value::as_array)
        {
            return items.iter().try_for_each(|item| self.sort(files, file, item.clone()));
        }
        let at = self.documents.len();
        let name = &files[file].name;
        let has = |key: &&str| value.get(*key).is_some();
        if kind == "EndpointPickerConfig" {
            self.add_picker(
                name,
                Picker { document: at, pointer: String::new(), text: yaml::write(&value) },
            )?;
        } else if kind == "ConfigMap" {
            for (key, text) in entries(&value, "data") {
                let text = text.as_str().unwrap_or_default();
                if text.contains("kind: EndpointPickerConfig") {
                    let pointer = format!("/data/{}", escaped(key));
                    self.add_picker(name, Picker { document: at, pointer, text: text.to_owned() })?;
                }
            }
        } else if kind.is_empty() {
            let config =
                custom_config("", &value).map_err(|problem| ImportError::file(name, &problem))?;
            if let Some((pointer, text)) = config {
                let others = beside(&value, &pointer).into_iter();
                let remark = |path: String| Remark::new(&format!("value {path}"), Why::Unknown);
                self.unused.extend(others.map(remark));
                self.add_picker(name, Picker { document: at, pointer, text: text.to_owned() })?;
            } else if models::is_config(&value) {
                self.config = Some(file);
            } else if OPTIONS.iter().any(has) {
                self.options.push(at);
            } else {
                return Err(ImportError::file(
                    name,
                    "is none of what can be read: a DynamoGraphDeployment, a Deployment or the like, an \
                     EndpointPickerConfig or Helm values with one, options of TensorRT-LLM, a network's config.json, \
                     or a line of a shell in a file that ends in .sh",
                ));
            }
        }
        self.documents.push(Document { file, value });
        Ok(())
    }

    fn add_picker(&mut self, file: &str, picker: Picker) -> Result<(), ImportError> {
        match self.picker.replace(picker) {
            None => Ok(()),
            Some(_) => Err(ImportError::file(file, "has a second EndpointPickerConfig; give one")),
        }
    }

    /// Adds the components of a document.
    fn containers(&mut self, at: usize) -> Result<(), ImportError> {
        let value = self.documents[at].value.clone();
        let kind = text(&value, "kind").unwrap_or_default();
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "DynamoGraphDeployment" => {
                let global = value.pointer("/spec/envs").or_else(|| value.pointer("/spec/env"));
                for (name, service) in
                    entries(value.get("spec").unwrap_or(&Value::Null), "services")
                {
                    let pointer = format!("/spec/services/{}", escaped(name));
                    self.add(at, name, Form::Services, &pointer, service, global);
                }
                let listed = value.pointer("/spec/components").and_then(Value::as_array);
                for (place, service) in listed.into_iter().flatten().enumerate() {
                    let name = text(service, "name").unwrap_or_default();
                    let pointer = format!("/spec/components/{place}");
                    self.add(at, name, Form::Components, &pointer, service, global);
                }
            }
            kind if WORKLOADS.contains(&kind) => {
                let spec = value.get("spec").unwrap_or(&Value::Null);
                self.add(at, name, Form::Workload, "/spec", spec, None);
            }
            "" | "ConfigMap" | "EndpointPickerConfig" => {}
            kind => self.unused.push(Remark::new(&format!("{kind} {name}"), Why::Document)),
        }
        Ok(())
    }

    fn add(
        &mut self,
        document: usize,
        name: &str,
        form: Form,
        pointer: &str,
        value: &Value,
        global: Option<&Value>,
    ) {
        let pod_at = match form {
            Form::Services => "/extraPodSpec",
            Form::Components => "/podTemplate/spec",
            Form::Workload | Form::Line if value.pointer("/template/spec").is_some() => {
                "/template/spec"
            }
            Form::Workload | Form::Line => match value.pointer("/leaderWorkerTemplate") {
                Some(_) => "/leaderWorkerTemplate/workerTemplate/spec",
                None => "",
            },
        };
        let null = Value::Null;
        let pod = value.pointer(pod_at).unwrap_or(&null);
        let inside = match form {
            Form::Services => "/mainContainer".to_owned(),
            _ => format!("/containers/{}", main_container(pod)),
        };
        let container = pod.pointer(&inside).unwrap_or(&null);
        let mut variables = BTreeMap::new();
        let mut unread = Vec::new();
        for entry in container.get("envFrom").and_then(Value::as_array).into_iter().flatten() {
            let reference = entry.pointer("/configMapRef/name").and_then(Value::as_str);
            let Some(map) = reference.and_then(|name| self.config_map(name)) else {
                let of_what = |key: &str| entry.get(key).and_then(|of| text(of, "name"));
                let source = of_what("configMapRef").or_else(|| of_what("secretRef"));
                unread.push(Remark::new(
                    &format!("{name}: envFrom {}", source.unwrap_or("of another kind")),
                    Why::NotModelled(ELSEWHERE.to_owned()),
                ));
                continue;
            };
            let prefix = text(entry, "prefix").unwrap_or_default();
            for (key, value) in entries(&self.documents[map].value, "data") {
                let value = value.as_str().unwrap_or_default().to_owned();
                variables.insert(format!("{prefix}{key}"), value);
            }
        }
        if let Some(secret) = text(value, "envFromSecret") {
            let why = Why::NotModelled(ELSEWHERE.to_owned());
            unread.push(Remark::new(&format!("{name}: envFromSecret {secret}"), why));
        }
        for list in [global, value.get("envs"), container.get("env")].into_iter().flatten() {
            for entry in list.as_array().into_iter().flatten() {
                let Some(variable) = text(entry, "name") else { continue };
                if let Some(value) = self.variable(entry) {
                    variables.insert(variable.to_owned(), value);
                    continue;
                }
                // It stands in place of one of the same name from before.
                variables.remove(variable);
                let is_of_pod = ["fieldRef", "resourceFieldRef"]
                    .iter()
                    .any(|key| entry.pointer(&format!("/valueFrom/{key}")).is_some());
                let why = match is_of_pod {
                    true => Why::NoEffect,
                    false => Why::NotModelled(ELSEWHERE.to_owned()),
                };
                unread.push(Remark::new(&format!("{name}: variable {variable}"), why));
            }
        }
        unread.extend(left_out(name, form, value, pod));
        let labels = value.pointer("/template/metadata/labels").unwrap_or(&null);
        let said =
            ["componentType", "subComponentType", "type"].iter().filter_map(|key| text(value, key));
        let said = said.chain(text(labels, "llm-d.ai/role"));
        let limits = [
            value.pointer("/resources/limits/gpu"),
            value.pointer("/resources/requests/gpu"),
            container.pointer("/resources/limits/nvidia.com~1gpu"),
            container.pointer("/resources/requests/nvidia.com~1gpu"),
            container.pointer("/resources/limits/amd.com~1gpu"),
        ];
        let group = value.pointer("/leaderWorkerTemplate/size").and_then(count);
        let nodes = value.pointer("/multinode/nodeCount").and_then(count).or(group);
        let component = Component {
            name: name.to_owned(),
            form,
            document: Some(document),
            pointer: pointer.to_owned(),
            container: format!("{pointer}{pod_at}{inside}"),
            replicas: value.get("replicas").and_then(count),
            replicas_key: "replicas",
            said: said.map(str::to_owned).collect(),
            written: Written {
                command: strings(container, "command"),
                args: strings(container, "args"),
            },
            variables,
            image: text(container, "image").unwrap_or_default().to_owned(),
            gpus: limits.into_iter().flatten().find_map(count),
            nodes: nodes.unwrap_or(1).max(1),
            gpu_label: gpu_label(pod).or_else(|| gpu_label(value)),
            mounted: self.mounted(pod, container, value),
        };
        self.unused.extend(unread);
        self.components.push(component);
    }

    /// The value of a variable, from a `ConfigMap` among the files if it says so; empty
    /// where it has none.
    fn variable(&self, entry: &Value) -> Option<String> {
        match (entry.get("value"), entry.get("valueFrom")) {
            (Some(Value::Null) | None, None) => Some(String::new()),
            (Some(Value::Null) | None, Some(from)) => {
                let reference = from.get("configMapKeyRef")?;
                let map = self.config_map(text(reference, "name")?)?;
                let data = self.documents[map].value.get("data")?;
                text(data, text(reference, "key")?).map(str::to_owned)
            }
            (Some(value), _) => {
                Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            }
        }
    }

    fn config_map(&self, name: &str) -> Option<usize> {
        self.documents.iter().position(|document| {
            text(&document.value, "kind") == Some("ConfigMap")
                && document.value.pointer("/metadata/name").and_then(Value::as_str) == Some(name)
        })
    }

    /// Files of `ConfigMap`s by the path at which a container has them.
    fn mounted(
        &self,
        pod: &Value,
        container: &Value,
        component: &Value,
    ) -> BTreeMap<String, (usize, String)> {
        let mut files = BTreeMap::new();
        let list = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let volumes = list(pod, "volumes");
        let mounts = list(container, "volumeMounts");
        for mount in mounts.into_iter().chain(list(component, "volumeMounts")) {
            let Some(name) = text(&mount, "name") else { continue };
            let path = text(&mount, "mountPath").or_else(|| text(&mount, "mountPoint"));
            let volume = volumes.iter().find(|volume| text(volume, "name") == Some(name));
            let map = volume.and_then(|volume| volume.pointer("/configMap/name")?.as_str());
            let Some((path, map)) = path.zip(map.and_then(|map| self.config_map(map))) else {
                continue;
            };
            for (key, _) in entries(&self.documents[map].value, "data") {
                match text(&mount, "subPath") {
                    Some(only) if only == key => {
                        files.insert(path.to_owned(), (map, key.clone()));
                    }
                    Some(_) => {}
                    None => {
                        files.insert(
                            format!("{}/{key}", path.trim_end_matches('/')),
                            (map, key.clone()),
                        );
                    }
                }
            }
        }
        files
    }
}

/// Of variables whose values are not among the files.
const ELSEWHERE: &str = "what it holds is in none of the files; give its ConfigMap, too";

/// Parts of a component that are not read: containers beside the main one, leaders of a
/// group, and what changes the number of replicas.
fn left_out(name: &str, form: Form, value: &Value, pod: &Value) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let mut note = |what: &str, why: &str| {
        let why = Why::NotModelled(why.to_owned());
        remarks.push(Remark::new(&format!("{name}: {what}"), why));
    };
    let main = (form != Form::Services).then(|| main_container(pod));
    for (list, main) in [("containers", main), ("initContainers", None)] {
        let containers = pod.get(list).and_then(Value::as_array).into_iter().flatten();
        for (at, container) in containers.enumerate().filter(|(at, _)| Some(*at) != main) {
            let place = at.to_string();
            let called = text(container, "name").unwrap_or(&place);
            note(&format!("{list} {called}"), "a container beside the one that is read");
        }
    }
    if value.pointer("/leaderWorkerTemplate/leaderTemplate").is_some() {
        note("leaderTemplate", "of a group only the template of its workers is read");
    }
    for key in ["autoscaling", "scalingAdapter"] {
        let is_off = |value: &Value| value.get("enabled") == Some(&Value::Bool(false));
        if value.get(key).is_some_and(|value| !is_off(value)) {
            note(key, "the number of replicas stays as it is written");
        }
    }
    remarks
}

impl Component {
    /// A line of a shell, from a file of this name or from nowhere.
    pub(super) fn line(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            form: Form::Line,
            document: None,
            pointer: String::new(),
            container: String::new(),
            replicas: None,
            replicas_key: "replicas",
            said: Vec::new(),
            written: Written::line(text),
            variables: BTreeMap::new(),
            image: String::new(),
            gpus: None,
            nodes: 1,
            gpu_label: None,
            mounted: BTreeMap::new(),
        }
    }

    /// Where its container stands, for people.
    pub(super) fn path(&self) -> String {
        dotted(&self.container)
    }
}

/// A JSON pointer as people write such paths.
pub(super) fn dotted(pointer: &str) -> String {
    let part = |part: &str| part.replace("~1", "/").replace("~0", "~");
    pointer.split('/').skip(1).map(part).collect::<Vec<_>>().join(".")
}

/// A key as part of a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn count(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    let item = |item: &Value| item.as_str().map_or_else(|| item.to_string(), str::to_owned);
    match value.get(key) {
        Some(Value::Array(items)) => items.iter().map(item).collect(),
        Some(Value::String(one)) => vec![one.clone()],
        _ => Vec::new(),
    }
}

/// The container that has GPUs, else one that is called so, else the first.
fn main_container(pod: &Value) -> usize {
    let containers = pod.get("containers").and_then(Value::as_array);
    let find = |test: &dyn Fn(&Value) -> bool| containers?.iter().position(test);
    let has_gpus = |container: &Value| {
        let limits = container.pointer("/resources/limits").and_then(Value::as_object);
        limits.is_some_and(|limits| limits.keys().any(|key| key.ends_with("/gpu")))
    };
    let is_main = |container: &Value| {
        matches!(text(container, "name"), Some("main" | "vllm" | "modelserver"))
    };
    find(&has_gpus).or_else(|| find(&is_main)).unwrap_or(0)
}

/// A label of nodes that says which GPU they have.
fn gpu_label(pod: &Value) -> Option<(String, String)> {
    let selected = entries(pod, "nodeSelector")
        .find(|(key, _)| models::is_gpu_label(key))
        .and_then(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let terms =
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = pod.pointer(terms).and_then(Value::as_array);
    let required = || {
        let expressions = terms?.iter().flat_map(|term| {
            term.get("matchExpressions").and_then(Value::as_array).into_iter().flatten()
        });
        let mut labels =
            expressions.filter(|expression| text(expression, "operator") == Some("In"));
        labels.find_map(|expression| {
            let key = text(expression, "key").filter(|key| models::is_gpu_label(key))?;
            let value = expression.get("values")?.as_array()?.first()?.as_str()?;
            Some((key.to_owned(), value.to_owned()))
        })
    };
    selected.or_else(required)
}

/// The text of a configuration of llm-d's router in a Helm values file, and its place: of
/// several files the one that `pluginsConfigFile` names.
///
/// # Errors
/// Files among which none is named.
fn custom_config<'a>(
    pointer: &str,
    values: &'a Value,
) -> Result<Option<(String, &'a str)>, String> {
    let Value::Object(entries) = values else { return Ok(None) };
    if let Some(Value::Object(files)) = entries.get("pluginsCustomConfig") {
        let path = format!("{pointer}/pluginsCustomConfig");
        let named = match (text(values, "pluginsConfigFile"), files.len()) {
            (Some(name), _) => files.get_key_value(name),
            (None, 0) => return Ok(None),
            (None, 1) => files.iter().next(),
            // What the chart takes where no file is named.
            (None, _) => files.get_key_value("default-plugins.yaml"),
        };
        let Some((name, text)) = named.and_then(|(name, text)| Some((name, text.as_str()?))) else {
            let names = files.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "{}: pluginsConfigFile must name one of its files: {names}",
                dotted(&path)
            ));
        };
        return Ok(Some((format!("{path}/{}", escaped(name)), text)));
    }
    for (key, value) in entries {
        let found = custom_config(&format!("{pointer}/{}", escaped(key)), value)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// What stands in Helm values beside the configuration at a pointer and the keys that are
/// read with it, as people write paths.
fn beside(values: &Value, pointer: &str) -> Vec<String> {
    let mut others = Vec::new();
    let mut at = values;
    let mut path = String::new();
    for part in pointer.split('/').skip(1) {
        let is_read = |key: &str| {
            let of_picker = at.get("pluginsCustomConfig").is_some();
            of_picker && ["replicas", "pluginsConfigFile"].contains(&key)
        };
        let Value::Object(entries) = at else { break };
        for key in entries.keys().map(|key| escaped(key)) {
            if key != part && !is_read(&key) {
                others.push(dotted(&format!("{path}/{key}")));
            }
        }
        path = format!("{path}/{part}");
        at = values.pointer(&path).unwrap_or(&Value::Null);
    }
    others
}

/// A name as Kubernetes allows it, which also names a file.
fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    name.len() <= 253
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}
