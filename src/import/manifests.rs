//! What Kubernetes runs, by its manifests: the containers of each component, with their
//! variables, the files that are mounted into them, and how many of them there are.

use super::arguments::Arguments;
use super::models;
use super::request::{ImportError, Remark, Source, Why};
use super::words::Written;
use crate::router::policies::epp_config::custom_config;
use crate::settings::yaml::{self, dotted, escaped, unescaped};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

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

impl Picker {
    /// The name of its file in a `ConfigMap`.
    fn name(&self) -> Option<String> {
        self.pointer.strip_prefix("/data/").map(unescaped)
    }
}

/// All that was found in the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) documents: Vec<Document>,
    pub(super) components: Vec<Component>,
    pub(super) picker: Option<Picker>,
    /// All that may be it.
    pickers: Vec<Picker>,
    /// The place of the file that is a network's `config.json`.
    pub(super) config: Option<usize>,
    /// Documents that are options of TensorRT-LLM.
    pub(super) options: Vec<usize>,
    pub(super) unused: Vec<Remark>,
    /// Entries of `ConfigMap`s that something takes.
    pub(super) taken: BTreeSet<(usize, String)>,
    /// By document, what is looked at in it: JSON pointers with `*` for any part.
    looked_at: BTreeMap<usize, Vec<String>>,
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

/// True if both describe one object of a cluster: one kind, namespace and name.
fn is_same_object(one: &Value, other: &Value) -> bool {
    let parts = |value: &Value| {
        let part = |pointer: &str| value.pointer(pointer)?.as_str().map(str::to_owned);
        let name = part("/metadata/name")?;
        Some((part("/kind")?, part("/metadata/namespace"), name))
    };
    parts(one).is_some_and(|object| parts(other) == Some(object))
}

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
                    let problem = format!("metadata.{key} = {name:?}: not a valid Kubernetes name");
                    return Err(ImportError::file(&files[*file].name, &problem));
                }
            }
            found.containers(at)?;
        }
        found.choose_picker(files)?;
        found.list_unread();
        Ok(found)
    }

    /// Lists what no rule looks at in the documents that components stand in.
    fn list_unread(&mut self) {
        for (at, looked_at) in &self.looked_at {
            let value = &self.documents[*at].value;
            let mut pointers = Vec::new();
            unread(value, "", looked_at, &mut pointers);
            let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let start = format!("{name}: ");
            let (none, unknown): (Vec<&String>, Vec<&String>) =
                pointers.iter().partition(|pointer| has_no_effect(pointer));
            let dotted = |all: Vec<&String>| -> Vec<String> {
                all.into_iter().map(|pointer| dotted(pointer)).collect()
            };
            self.unused.extend(Remark::list(&start, &dotted(unknown), &Why::Unknown));
            self.unused.extend(Remark::list(&start, &dotted(none), &Why::NoEffect));
        }
    }

    /// Lists the entries of `ConfigMap`s that nothing takes.
    pub(super) fn untaken(&self) -> Vec<Remark> {
        let maps = self
            .documents
            .iter()
            .enumerate()
            .filter(|(_, document)| text(&document.value, "kind") == Some("ConfigMap"));
        let of_map = maps.flat_map(|(at, document)| {
            let name = document.value.pointer("/metadata/name").and_then(Value::as_str);
            let keys =
                entries(&document.value, "data").chain(entries(&document.value, "binaryData"));
            let untaken: Vec<String> = keys
                .filter(|(key, _)| !self.taken.contains(&(at, (*key).clone())))
                .map(|(key, _)| format!("data.{key}"))
                .collect();
            let start = format!("ConfigMap {}: ", name.unwrap_or_default());
            Remark::list(&start, &untaken, &Why::NotTaken)
        });
        of_map.collect()
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
        if let Some(other) =
            self.documents.iter().find(|other| is_same_object(&other.value, &value))
        {
            let object = value.pointer("/metadata/name").and_then(Value::as_str);
            let shown = format!("{kind} {}", object.unwrap_or_default());
            if other.value != value {
                let before = &files[other.file].name;
                let problem = format!("{shown} is given in {before} with other content; keep one");
                return Err(ImportError::file(name, &problem));
            }
            let again = format!("{shown}, a second time in {name}");
            self.unused.push(Remark::new(&again, Why::Overridden));
            return Ok(());
        }
        let has = |key: &&str| value.get(*key).is_some();
        if kind == "EndpointPickerConfig" {
            let text = yaml::write(&value);
            self.pickers.push(Picker { document: at, pointer: String::new(), text });
        } else if kind == "ConfigMap" {
            self.look_at(at, "", &["kind", "apiVersion", "metadata/name", "data", "binaryData"]);
            for (key, text) in entries(&value, "data") {
                let text = text.as_str().unwrap_or_default();
                if text.contains("kind: EndpointPickerConfig") {
                    let pointer = format!("/data/{}", escaped(key));
                    self.pickers.push(Picker { document: at, pointer, text: text.to_owned() });
                }
            }
        } else if kind.is_empty() {
            let config =
                custom_config("", &value).map_err(|problem| ImportError::file(name, &problem))?;
            if let Some((pointer, text)) = config {
                let others = beside(&value, &pointer).into_iter();
                let remark = |path: String| Remark::new(&format!("value {path}"), Why::Unknown);
                self.unused.extend(others.map(remark));
                self.pickers.push(Picker { document: at, pointer, text: text.to_owned() });
            } else if models::is_config(&value) {
                if self.config.is_some() {
                    return Err(ImportError::file(name, "is a second config.json; give only one"));
                }
                self.config = Some(file);
            } else if OPTIONS.iter().any(has) {
                self.options.push(at);
            } else {
                return Err(ImportError::file(
                    name,
                    "is nothing that can be read: must be a DynamoGraphDeployment, a Deployment or the like, an \
                     EndpointPickerConfig or Helm values with one, options of TensorRT-LLM, a network's config.json, \
                     or a shell command in a file that ends in .sh",
                ));
            }
        }
        self.documents.push(Document { file, value });
        Ok(())
    }

    /// Of several configurations of llm-d's router the one that a command line names.
    fn choose_picker(&mut self, files: &[Source]) -> Result<(), ImportError> {
        let mut pickers = std::mem::take(&mut self.pickers);
        if pickers.len() > 1 {
            let named = self.components.iter().flat_map(Component::configurations);
            let named: BTreeSet<String> = named.collect();
            let is_named =
                |picker: &Picker| picker.name().is_some_and(|name| named.contains(&name));
            let second = self.documents[pickers[1].document].file;
            pickers.retain(is_named);
            if pickers.len() != 1 {
                let problem = "has a second EndpointPickerConfig; give only one, or also the Deployment whose \
                               command names one of them";
                return Err(ImportError::file(&files[second].name, problem));
            }
        }
        self.picker = pickers.pop();
        if let Some(picker) = &self.picker {
            self.taken.extend(picker.name().map(|name| (picker.document, name)));
        }
        Ok(())
    }

    /// Adds the components of a document.
    fn containers(&mut self, at: usize) -> Result<(), ImportError> {
        let value = self.documents[at].value.clone();
        let kind = text(&value, "kind").unwrap_or_default();
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "DynamoGraphDeployment" => {
                let global = value.pointer("/spec/envs").or_else(|| value.pointer("/spec/env"));
                self.look_at(at, "/spec/envs/*", &OF_VARIABLE);
                self.look_at(at, "/spec/env/*", &OF_VARIABLE);
                for (name, service) in
                    entries(value.get("spec").unwrap_or(&Value::Null), "services")
                {
                    let pointer = format!("/spec/services/{}", escaped(name));
                    self.add(at, name, Form::Services, &pointer, service, global)?;
                }
                let listed = value.pointer("/spec/components").and_then(Value::as_array);
                for (place, service) in listed.into_iter().flatten().enumerate() {
                    let name = text(service, "name").unwrap_or_default();
                    let pointer = format!("/spec/components/{place}");
                    self.add(at, name, Form::Components, &pointer, service, global)?;
                }
            }
            kind if WORKLOADS.contains(&kind) => {
                let spec = value.get("spec").unwrap_or(&Value::Null);
                self.add(at, name, Form::Workload, "/spec", spec, None)?;
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
    ) -> Result<(), ImportError> {
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
        self.look_at(document, "", &["kind", "apiVersion", "metadata/name", "metadata/namespace"]);
        self.look_at(document, pointer, &OF_COMPONENT);
        self.look_at(document, &format!("{pointer}/envs/*"), &OF_VARIABLE);
        let variables = format!("{pointer}{pod_at}{inside}/env/*");
        self.look_at(document, &variables, &OF_VARIABLE);
        self.look_at(document, &format!("{pointer}{pod_at}"), &OF_POD);
        self.look_at(document, &format!("{pointer}{pod_at}{inside}"), &OF_CONTAINER);
        let mut variables = BTreeMap::new();
        let of_pod = format!("{pointer}{pod_at}");
        let label = gpu_label(pod).map(|found| (found, of_pod.as_str()));
        let label = label.or_else(|| Some((gpu_label(value)?, pointer)));
        let label = label.map(|((label, paths), start)| {
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            self.look_at(document, start, &paths);
            label
        });
        let main = (form != Form::Services).then(|| main_container(pod));
        let beside = pod.get("containers").and_then(Value::as_array).map_or(0, Vec::len);
        for at in (0..beside).filter(|at| Some(*at) != main) {
            self.look_at(document, &of_pod, &[&format!("containers/{at}")]);
        }
        let (mut unread, mut taken) = (Vec::new(), Vec::new());
        for entry in container.get("envFrom").and_then(Value::as_array).into_iter().flatten() {
            let reference = entry.pointer("/configMapRef/name").and_then(Value::as_str);
            let Some(map) = reference.and_then(|name| self.config_map(name)) else {
                let of_what = |key: &str| entry.get(key).and_then(|of| text(of, "name"));
                let source = of_what("configMapRef").or_else(|| of_what("secretRef"));
                unread.push(Remark::new(
                    &format!("{name}: envFrom {}", source.unwrap_or("of an unknown kind")),
                    Why::NotModelled(ELSEWHERE.to_owned()),
                ));
                continue;
            };
            let prefix = text(entry, "prefix").unwrap_or_default();
            for (key, value) in entries(&self.documents[map].value, "data") {
                let value = value.as_str().unwrap_or_default().to_owned();
                variables.insert(format!("{prefix}{key}"), value);
                taken.push((map, key.clone()));
            }
        }
        if let Some(secret) = text(value, "envFromSecret") {
            let why = Why::NotModelled(ELSEWHERE.to_owned());
            unread.push(Remark::new(&format!("{name}: envFromSecret {secret}"), why));
        }
        for list in [global, value.get("envs"), container.get("env")].into_iter().flatten() {
            for entry in list.as_array().into_iter().flatten() {
                let Some(variable) = text(entry, "name") else { continue };
                // It stands in place of one of the same name from before.
                let before = variables.remove(variable);
                if let Some((value, from)) = self.variable(entry) {
                    if before.is_some_and(|before| before != value) {
                        let shown = format!("{name}: variable {variable}, given before");
                        unread.push(Remark::new(&shown, Why::Overridden));
                    }
                    variables.insert(variable.to_owned(), value);
                    taken.extend(from);
                    continue;
                }
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
        // What is requested counts where there is no limit.
        let of_service = ["limits", "requests"].map(|kind| format!("resources/{kind}/gpu"));
        let of_container = [
            "limits/nvidia.com~1gpu",
            "requests/nvidia.com~1gpu",
            "limits/amd.com~1gpu",
            "requests/amd.com~1gpu",
        ];
        let of_service = of_service.iter().map(|path| (value, pointer.to_owned(), path.clone()));
        let inner = format!("{of_pod}{inside}");
        let of_container =
            of_container.iter().map(|path| (container, inner.clone(), format!("resources/{path}")));
        let gpus = of_service.chain(of_container).find_map(|(value, pointer, path)| {
            let gpus = value.pointer(&format!("/{path}")).and_then(count)?;
            self.look_at(document, &pointer, &[&path]);
            Some(gpus)
        });
        let counted = |path: &str| counted(name, value, path);
        let (group, nodes) =
            (counted("/leaderWorkerTemplate/size")?, counted("/multinode/nodeCount")?);
        let component = Component {
            name: name.to_owned(),
            form,
            document: Some(document),
            pointer: pointer.to_owned(),
            container: format!("{pointer}{pod_at}{inside}"),
            replicas: counted("/replicas")?,
            said: said.map(str::to_owned).collect(),
            written: Written {
                command: strings(container, "command"),
                args: strings(container, "args"),
            },
            variables,
            image: text(container, "image").unwrap_or_default().to_owned(),
            gpus,
            nodes: nodes.or(group).unwrap_or(1).max(1),
            gpu_label: label,
            mounted: self.mounted(pod, container, value),
        };
        self.unused.extend(unread);
        self.taken.extend(taken);
        self.components.push(component);
        Ok(())
    }

    /// Notes that rules look at these, below a pointer.
    fn look_at(&mut self, document: usize, pointer: &str, paths: &[&str]) {
        let known = self.looked_at.entry(document).or_default();
        known.extend(paths.iter().map(|path| format!("{pointer}/{path}")));
    }

    /// The value of a variable, from an entry of a `ConfigMap` among the files if it says so;
    /// empty where it has none.
    fn variable(&self, entry: &Value) -> Option<(String, Option<(usize, String)>)> {
        match (entry.get("value"), entry.get("valueFrom")) {
            (Some(Value::Null) | None, None) => Some((String::new(), None)),
            (Some(Value::Null) | None, Some(from)) => {
                let reference = from.get("configMapKeyRef")?;
                let map = self.config_map(text(reference, "name")?)?;
                let data = self.documents[map].value.get("data")?;
                let key = text(reference, "key")?;
                Some((text(data, key)?.to_owned(), Some((map, key.to_owned()))))
            }
            (Some(value), _) => {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Some((value, None))
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

/// What is looked at in a component, its pod and its container; what [`left_out`] lists is
/// among it.
const OF_COMPONENT: [&str; 15] = [
    "name",
    "type",
    "componentType",
    "subComponentType",
    "replicas",
    "envFromSecret",
    "multinode/nodeCount",
    "autoscaling",
    "scalingAdapter",
    "template/metadata/labels/llm-d.ai~1role",
    "leaderWorkerTemplate/size",
    "leaderWorkerTemplate/leaderTemplate",
    "volumeMounts/*/name",
    "volumeMounts/*/mountPath",
    "volumeMounts/*/mountPoint",
];

const OF_VARIABLE: [&str; 7] = [
    "name",
    "value",
    "valueFrom/configMapKeyRef/name",
    "valueFrom/configMapKeyRef/key",
    "valueFrom/fieldRef",
    "valueFrom/resourceFieldRef",
    "valueFrom/secretKeyRef",
];

const OF_POD: [&str; 4] =
    ["initContainers", "volumes/*/name", "volumes/*/configMap/name", "containers/*/name"];

const OF_CONTAINER: [&str; 9] = [
    "image",
    "command",
    "args",
    "envFrom/*/prefix",
    "envFrom/*/configMapRef/name",
    "envFrom/*/secretRef/name",
    "volumeMounts/*/name",
    "volumeMounts/*/mountPath",
    "volumeMounts/*/subPath",
];

/// Keys below which nothing changes what is simulated: identity, health, security, memory and
/// cores of the machine, where files come from.
const NO_EFFECT: [&str; 50] = [
    "annotations",
    "backendFramework",
    "cpu",
    "custom",
    "defaultMode",
    "dnsPolicy",
    "dynamoNamespace",
    "emptyDir",
    "ephemeral-storage",
    "globalDynamoNamespace",
    "hostIPC",
    "hostNetwork",
    "hostPath",
    "imagePullPolicy",
    "imagePullSecrets",
    "labels",
    "lifecycle",
    "livenessProbe",
    "matchLabels",
    "memory",
    "metadata",
    "minReadySeconds",
    "nodeSelector",
    "optional",
    "persistentVolumeClaim",
    "podAntiAffinity",
    "ports",
    "priorityClassName",
    "progressDeadlineSeconds",
    "pvcs",
    "readOnly",
    "readinessProbe",
    "requests",
    "restartPolicy",
    "revisionHistoryLimit",
    "runtimeClassName",
    "schedulerName",
    "secret",
    "securityContext",
    "selector",
    "serviceAccount",
    "serviceAccountName",
    "serviceName",
    "sharedMemory",
    "startupProbe",
    "status",
    "strategy",
    "terminationGracePeriodSeconds",
    "tolerations",
    "workingDir",
];

/// Whether nothing below a pointer changes what is simulated.
fn has_no_effect(pointer: &str) -> bool {
    let is_rdma = pointer.contains("/resources/") && pointer.contains("rdma");
    is_rdma || pointer.split('/').any(|part| NO_EFFECT.contains(&part))
}

/// The pointers below `pointer`, where `value` stands, that nothing looks at: as short as
/// they can be.
fn unread(value: &Value, pointer: &str, looked_at: &[String], found: &mut Vec<String>) {
    let parts = pointer.split('/').count();
    let fits = |wanted: &str, part: &str| wanted == "*" || wanted == part;
    let is_near = |path: &&String| path.split('/').zip(pointer.split('/')).all(|(a, b)| fits(a, b));
    let mut near = looked_at.iter().filter(is_near).peekable();
    if near.peek().is_none() {
        found.push(pointer.to_owned());
    } else if near.all(|path| path.split('/').count() > parts) {
        let key = |key: &str| format!("{pointer}/{}", escaped(key));
        match value {
            Value::Object(entries) => {
                entries
                    .iter()
                    .for_each(|(name, value)| unread(value, &key(name), looked_at, found));
            }
            Value::Array(items) => items
                .iter()
                .enumerate()
                .for_each(|(at, value)| unread(value, &key(&at.to_string()), looked_at, found)),
            Value::Null => {}
            _ => found.push(pointer.to_owned()),
        }
    }
}

/// Of variables whose values are not among the files.
const ELSEWHERE: &str = "its contents are in none of the files; give its ConfigMap too";

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
            note(
                &format!("{list} {called}"),
                "only one container of the pod is read, and this is another",
            );
        }
    }
    if value.pointer("/leaderWorkerTemplate/leaderTemplate").is_some() {
        note("leaderTemplate", "only the worker template of a group is read");
    }
    for key in ["autoscaling", "scalingAdapter"] {
        let is_off = |value: &Value| value.get("enabled") == Some(&Value::Bool(false));
        if value.get(key).is_some_and(|value| !is_off(value)) {
            note(key, "the number of replicas stays as written");
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

    /// Names of files of configuration that its command line names, as llm-d's router does.
    fn configurations(&self) -> Vec<String> {
        let commands = self.written.commands(&self.variables);
        let flags = commands.iter().flat_map(|words| Arguments::of(words).flags);
        let flags =
            flags.filter(|flag| ["config-file", "configFile"].contains(&flag.name.as_str()));
        let name = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
        flags.filter_map(|flag| flag.value.map(name)).collect()
    }

    /// Where its container stands, for people.
    pub(super) fn path(&self) -> String {
        dotted(&self.container)
    }
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

fn entries<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    value.get(key).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// The whole number that a component called `name` has at a pointer, if it has any value there.
///
/// # Errors
/// If that is no such number.
fn counted(name: &str, value: &Value, pointer: &str) -> Result<Option<u32>, ImportError> {
    match value.pointer(pointer) {
        None | Some(Value::Null) => Ok(None),
        Some(given) => count(given).map(Some).ok_or_else(|| {
            let shown = format!("{name}: {}: {given}", dotted(pointer));
            ImportError::value(&shown, &format!("must be a whole number from 0 to {}", u32::MAX))
        }),
    }
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

/// A label of nodes that says which GPU they have, by key and value, and the paths in the pod
/// that say it.
fn gpu_label(pod: &Value) -> Option<((String, String), Vec<String>)> {
    let selected = entries(pod, "nodeSelector")
        .find(|(key, _)| models::is_gpu_label(key))
        .and_then(|(key, value)| {
            let path = format!("nodeSelector/{}", escaped(key));
            Some(((key.clone(), value.as_str()?.to_owned()), vec![path]))
        });
    const TERMS: &str =
        "affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let required = || {
        let terms = pod.pointer(&format!("/{TERMS}"))?.as_array()?.iter().enumerate();
        let mut expressions = terms.flat_map(|(term, value)| {
            let all = value.get("matchExpressions").and_then(Value::as_array);
            let all = all.into_iter().flatten().enumerate();
            all.map(move |(at, one)| (format!("{TERMS}/{term}/matchExpressions/{at}"), one))
        });
        expressions.find_map(|(path, expression)| {
            let key = text(expression, "key").filter(|key| models::is_gpu_label(key))?;
            text(expression, "operator").filter(|operator| *operator == "In")?;
            let value = expression.get("values")?.as_array()?.first()?.as_str()?;
            let paths = ["key", "operator", "values/0"].map(|part| format!("{path}/{part}"));
            Some(((key.to_owned(), value.to_owned()), paths.to_vec()))
        })
    };
    selected.or_else(required)
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
