//! The configuration of llm-d's router: an `EndpointPickerConfig`, as far as it decides
//! where requests go.
//!
//! Read are the file itself and a Helm values file that has one below
//! `pluginsCustomConfig`, as in llm-d's guides. What decides nothing here is passed over
//! by name (where tokens, gauges and events come from); what is not modelled is refused by
//! name. Prefill and decode apart are two profiles behind a `disagg-profile-handler`.

use super::approximate_prefix::PrefixParams;
use super::llmd_index::IndexConfig;
use crate::router::Role;
use crate::settings::parse_duration;
use crate::settings::yaml::{self, dotted, escaped};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How endpoints are picked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct EppConfig {
    /// What prompts are looked up in, by place in [`Part`]s.
    pub(super) indexes: Vec<IndexConfig>,
    /// Which of them says what is uncached of a request in flight.
    pub(super) load_index: usize,
    profiles: Profiles,
}

/// Who picks for what part of a request.
#[derive(Clone, Debug, PartialEq)]
enum Profiles {
    One(Profile),
    Apart { prefill: Profile, decode: Profile },
}

/// How one endpoint is picked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Profile {
    pub(super) filters: Vec<Filter>,
    pub(super) scorers: Vec<(Scorer, f64)>,
    pub(super) picker: Picker,
}

impl Profile {
    /// Any endpoint.
    const EMPTY: Self = Self { filters: Vec::new(), scorers: Vec::new(), picker: Picker::MaxScore };
}

/// Leaves some endpoints out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Filter {
    /// `prefix-cache-affinity-filter`.
    Affinity {
        index: usize,
        threshold: f64,
        exploration: f64,
        most_penalty_ms: f64,
        most_penalty_tokens: f64,
        tokens_per_s: f64,
    },
}

/// Gives endpoints 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scorer {
    /// `prefix-cache-scorer`, `precise-prefix-cache-scorer`: the share of the prompt held.
    Prefix { index: usize },
    /// `kv-cache-utilization-scorer`: KV memory that is free.
    KvUtilization,
    /// `queue-scorer`: 1 for the shortest queue, 0 for the longest.
    Queue,
    /// `running-requests-size-scorer`: the same of requests that run.
    Running,
    /// `load-aware-scorer`: 0.5 for an empty queue, 0 for one of so many requests.
    LoadAware { threshold: f64 },
    /// `token-load-scorer`: uncached tokens in flight, of so many.
    TokenLoad { threshold: f64 },
    /// `active-request-scorer`: requests in flight, of the most; idle endpoints 1.
    ActiveRequest { idle: f64, most_busy: f64 },
    /// `no-hit-lru-scorer`: who took a prompt that none held longest ago.
    NoHitLru { index: usize },
    /// `lmetric-scorer`: uncached tokens times requests, 1 for the lowest and 0 for the
    /// highest.
    LMetric { index: usize },
}

/// Picks by scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Picker {
    /// `max-score-picker`: the highest; equals are drawn.
    MaxScore,
    /// `random-picker`.
    Random,
    /// `weighted-random-picker`: with chances as scores.
    WeightedRandom,
}

/// Plug-ins that say where data comes from, how requests are read, or which profile is whose.
const NO_SAY: [&str; 17] = [
    ALWAYS_DISAGG,
    "core-metrics-extractor",
    DECODE_FILTER,
    "disagg-headers-handler",
    DISAGG_HANDLER,
    "endpoint-notification-source",
    INFLIGHT_LOAD,
    "metrics-data-source",
    "openai-parser",
    PREFILL_FILTER,
    "prefill-header-handler",
    "single-profile-handler",
    "token-producer",
    "tokenizer",
    "utilization-detector",
    APPROXIMATE,
    PRECISE,
];

const APPROXIMATE: &str = "approx-prefix-cache-producer";
const PRECISE: &str = "precise-prefix-cache-producer";
const INFLIGHT_LOAD: &str = "inflight-load-producer";
const DISAGG_HANDLER: &str = "disagg-profile-handler";
const ALWAYS_DISAGG: &str = "always-disagg-pd-decider";
const PREFILL_FILTER: &str = "prefill-filter";
const DECODE_FILTER: &str = "decode-filter";

/// Feature gates without which the router routes alike.
const NO_SAY_GATES: [&str; 2] = ["dataLayer", "prepareDataPlugins"];

/// The file that says nothing: what the router does without one.
const DEFAULT: &str = "
kind: EndpointPickerConfig
plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: prefix-cache-scorer}]
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
";

/// A plug-in as written.
struct Plugin {
    kind: String,
    parameters: Map<String, Value>,
}

impl Plugin {
    /// Refuses parameters that are not `known`.
    fn only(&self, known: &[&str]) -> Result<(), String> {
        match self.parameters.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(format!(
                "{} has a parameter {key:?}, which is not modelled: leave it out",
                self.kind
            )),
        }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        match self.parameters.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => {
                value.as_f64().filter(|number| (0.0..=1e12).contains(number)).ok_or_else(|| {
                    format!("{}: {key} is {value}, and must be a number from 0 to 1e12", self.kind)
                })
            }
        }
    }

    fn count(&self, key: &str, default: u32) -> Result<u32, String> {
        let number = self.number(key, f64::from(default))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked")]
        let count = number as u32;
        let is_count = f64::from(count) == number;
        let problem = || format!("{}: {key} is {number}, and must be a whole number", self.kind);
        if is_count { Ok(count) } else { Err(problem()) }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        match self.parameters.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => {
                Err(format!("{}: {key} is {value}, and must be true or false", self.kind))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, String> {
        match self.parameters.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(format!("{}: {key} is {value}, and must be text", self.kind)),
        }
    }
}

impl EppConfig {
    /// What a file says, or the router's default if it is empty.
    ///
    /// # Errors
    /// What is wrong with it, or not modelled, by name.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = if text.trim().is_empty() { DEFAULT } else { text };
        let written = yaml::parse(text)?;
        let written = match custom_config("", &written)? {
            None => written,
            Some((_, inner)) => yaml::parse(inner)?,
        };
        let Value::Object(file) = written else {
            return Err("a file with a mapping that says kind: EndpointPickerConfig".to_owned());
        };
        if file.get("kind").and_then(Value::as_str) != Some("EndpointPickerConfig") {
            return Err("a file that says kind: EndpointPickerConfig".to_owned());
        }
        let known =
            ["apiVersion", "kind", "plugins", "schedulingProfiles", "dataLayer", "featureGates"];
        if let Some(key) = file.keys().find(|key| !known.contains(&key.as_str())) {
            let instead = match key.as_str() {
                "flowControl" => ", [router.admission] bounds requests",
                _ => "",
            };
            return Err(format!("{key} is not modelled: leave it out{instead}"));
        }
        let gates = file.get("featureGates").and_then(Value::as_array).into_iter().flatten();
        for gate in gates {
            if !NO_SAY_GATES.iter().any(|known| gate.as_str() == Some(known)) {
                return Err(format!("the feature gate {gate} is not modelled: leave it out"));
            }
        }
        Reader::new(plugins(&file)?)?.read(&file)
    }

    /// Whether prefill and decode have profiles of their own.
    pub(super) fn is_apart(&self) -> bool {
        matches!(self.profiles, Profiles::Apart { .. })
    }

    /// How a worker that does this is picked. Where each does everything two profiles are
    /// one, which wants what both want: [`Self::is_apart`] is to be refused there.
    pub(super) fn profile(&self, role: Role) -> Profile {
        match (&self.profiles, role) {
            (Profiles::One(profile), _)
            | (Profiles::Apart { prefill: profile, .. }, Role::Prefill)
            | (Profiles::Apart { decode: profile, .. }, Role::Decode { .. }) => profile.clone(),
            (Profiles::Apart { prefill, decode }, Role::Both) => Profile {
                filters: [&prefill.filters[..], &decode.filters].concat(),
                scorers: [&prefill.scorers[..], &decode.scorers].concat(),
                picker: prefill.picker,
            },
        }
    }
}

/// The text of a configuration of llm-d's router in a Helm values file, and its place: of
/// several files the one that `pluginsConfigFile` names.
///
/// # Errors
/// Files among which none is named.
pub(crate) fn custom_config<'a>(
    pointer: &str,
    values: &'a Value,
) -> Result<Option<(String, &'a str)>, String> {
    let Value::Object(entries) = values else { return Ok(None) };
    if let Some(Value::Object(files)) = entries.get("pluginsCustomConfig") {
        let path = format!("{pointer}/pluginsCustomConfig");
        let name = values.get("pluginsConfigFile").and_then(Value::as_str);
        let named = match (name, files.len()) {
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

/// The plug-ins of a file by name.
fn plugins(file: &Map<String, Value>) -> Result<BTreeMap<String, Plugin>, String> {
    let mut plugins = BTreeMap::new();
    for written in file.get("plugins").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| written.get(key).and_then(Value::as_str).map(str::to_owned);
        let kind = text("type").ok_or("a plug-in without a type")?;
        let name = text("name").unwrap_or_else(|| kind.clone());
        let parameters = match written.get("parameters") {
            Some(Value::Object(parameters)) => parameters.clone(),
            _ => Map::new(),
        };
        if plugins.insert(name.clone(), Plugin { kind, parameters }).is_some() {
            return Err(format!("two plug-ins are named {name}"));
        }
    }
    Ok(plugins)
}

/// Puts parts together from plug-ins.
struct Reader {
    plugins: BTreeMap<String, Plugin>,
    indexes: Vec<IndexConfig>,
    /// Places in `indexes` by the name of the producer.
    places: BTreeMap<String, usize>,
}

impl Reader {
    fn new(plugins: BTreeMap<String, Plugin>) -> Result<Self, String> {
        let mut reader =
            Self { plugins: BTreeMap::new(), indexes: Vec::new(), places: BTreeMap::new() };
        for (name, plugin) in &plugins {
            let index = match plugin.kind.as_str() {
                APPROXIMATE => approximate(plugin)?,
                PRECISE | "precise-prefix-cache-scorer" => precise(plugin)?,
                _ => continue,
            };
            reader.places.insert(name.clone(), reader.indexes.len());
            reader.indexes.push(index);
        }
        reader.plugins = plugins;
        Ok(reader)
    }

    /// The index that a plug-in names; the approximate one if it names none, made if need be.
    fn index(&mut self, named: Option<String>) -> Result<usize, String> {
        let name = named.unwrap_or_else(|| APPROXIMATE.to_owned());
        if let Some(place) = self.places.get(&name) {
            return Ok(*place);
        }
        if name != APPROXIMATE {
            return Err(match self.plugins.get(&name) {
                None => format!("prefixMatchInfoProducerName {name:?} is no plug-in of the file"),
                Some(plugin) => not_modelled(&plugin.kind),
            });
        }
        self.places.insert(name, self.indexes.len());
        self.indexes.push(IndexConfig::Approximate(PrefixParams::default()));
        Ok(self.indexes.len() - 1)
    }

    fn read(mut self, file: &Map<String, Value>) -> Result<EppConfig, String> {
        let written = file.get("schedulingProfiles").and_then(Value::as_array);
        let written = written.map_or(&[][..], Vec::as_slice);
        let load = self.plugins.values().find(|plugin| plugin.kind == INFLIGHT_LOAD);
        let mut load_index = None;
        if let Some(plugin) = load {
            plugin.only(&["prefixMatchInfoProducerName", "addEstimatedOutputTokens"])?;
            if plugin.flag("addEstimatedOutputTokens", false)? {
                return Err(
                    "inflight-load-producer: addEstimatedOutputTokens is not modelled".to_owned()
                );
            }
            load_index = plugin.text("prefixMatchInfoProducerName")?.map(str::to_owned);
        }
        let load_index = self.index(load_index)?;
        let stages = self.stages(written)?;
        let profiles = match (written, stages) {
            // All that can stand in a profile.
            ([], _) => {
                let all = self.plugins.keys().map(|name| (name.clone(), None)).collect::<Vec<_>>();
                Profiles::One(self.profile(&all)?)
            }
            ([one], _) => {
                Profiles::One(self.profile(&self.of_stage(one, DECODE_FILTER, false)?)?)
            }
            (_, Some([prefill, decode])) => {
                let prefill = self.of_stage(prefill, PREFILL_FILTER, true)?;
                let decode = self.of_stage(decode, DECODE_FILTER, true)?;
                Profiles::Apart { prefill: self.profile(&prefill)?, decode: self.profile(&decode)? }
            }
            (several, None) => {
                let names = several.iter().map(name_of).collect::<Vec<_>>().join(", ");
                return Err(format!(
                    "schedulingProfiles {names}: several are modelled behind a {DISAGG_HANDLER} \
                     only, for prefill and decode apart"
                ));
            }
        };
        // Some plug-ins act without standing in a profile: none is passed over unread.
        let mut used = Vec::new();
        for profile in written {
            used.extend(references(profile)?.into_iter().map(|(name, _)| name));
        }
        let rest: Vec<String> = self.plugins.keys().cloned().collect();
        for name in rest.iter().filter(|name| !used.contains(name)) {
            self.add(name, 0.0, &mut Profile::EMPTY.clone())?;
        }
        Ok(EppConfig { indexes: self.indexes, load_index, profiles })
    }

    /// Of a file with a handler of prefill and decode the profiles of both, in this order.
    fn stages<'a>(&self, written: &'a [Value]) -> Result<Option<[&'a Value; 2]>, String> {
        let handlers = self.plugins.values().filter(|plugin| plugin.kind == DISAGG_HANDLER);
        let [handler] = handlers.collect::<Vec<_>>()[..] else { return Ok(None) };
        // `deciderPluginName` is what earlier versions call it.
        handler.only(&["profiles", "deciders", "deciderPluginName", "stageOrder"])?;
        let within = |key: &str, known: &[&str]| -> Result<Map<String, Value>, String> {
            let Some(Value::Object(parts)) = handler.parameters.get(key) else {
                return Ok(Map::new());
            };
            match parts.keys().find(|part| !known.contains(&part.as_str())) {
                None => Ok(parts.clone()),
                Some(part) => {
                    Err(format!("{DISAGG_HANDLER}: {key}.{part} is not modelled: leave it out"))
                }
            }
        };
        let profiles = within("profiles", &["prefill", "decode"])?;
        let deciders = within("deciders", &["prefill"])?;
        let is_first = handler.text("stageOrder")?.is_some_and(|order| {
            let order = order.to_lowercase().replace(['-', '_'], "");
            ["prefill", "prefillfirst"].contains(&order.as_str())
        });
        let decider = deciders.get("prefill").and_then(Value::as_str);
        let decider = decider.or(handler.text("deciderPluginName")?);
        let [_, _, ..] = written else { return Ok(None) };
        match decider.map(|name| (name, self.plugins.get(name).map(|plugin| plugin.kind.as_str())))
        {
            Some((_, Some(ALWAYS_DISAGG))) => {}
            None if is_first => {}
            None => {
                return Err(format!(
                    "{DISAGG_HANDLER} without deciders.prefill sends nothing to workers that \
                     prefill: name {ALWAYS_DISAGG}, or leave the profile out"
                ));
            }
            Some((name, None)) => {
                return Err(format!(
                    "{DISAGG_HANDLER}: deciders.prefill {name:?} is no plug-in of the file"
                ));
            }
            Some((_, Some(kind))) => {
                return Err(format!(
                    "{DISAGG_HANDLER}: the decider {kind:?} is not modelled: name \
                     {ALWAYS_DISAGG}; router.conditional_disaggregation lets short prompts stay"
                ));
            }
        }
        let named = |stage: &str| {
            let name = profiles.get(stage).and_then(Value::as_str).unwrap_or(stage);
            let found = written.iter().find(|profile| name_of(profile) == name);
            found.ok_or_else(|| format!("schedulingProfiles without {name:?}, the one for {stage}"))
        };
        let stages = [named("prefill")?, named("decode")?];
        let is_other = |profile: &&Value| !stages.contains(profile);
        match written.iter().find(is_other) {
            None => Ok(Some(stages)),
            Some(other) => {
                Err(format!("schedulingProfiles: {} is not modelled: leave it out", name_of(other)))
            }
        }
    }

    /// The plug-ins of a profile whose workers `filter` picks out, and no other filter by role.
    fn of_stage(
        &self,
        profile: &Value,
        filter: &str,
        is_needed: bool,
    ) -> Result<Vec<(String, Option<f64>)>, String> {
        let listed = references(profile)?;
        let kind = |name: &str| self.plugins.get(name).map_or("", |plugin| plugin.kind.as_str());
        let has = |filter: &str| listed.iter().any(|(name, _)| kind(name) == filter);
        let other = if filter == PREFILL_FILTER { DECODE_FILTER } else { PREFILL_FILTER };
        if has(other) || is_needed && !has(filter) {
            let expected = if is_needed { "with" } else { "with at most" };
            return Err(format!(
                "the profile {} is modelled {expected} a {filter}, and without a {other}",
                name_of(profile)
            ));
        }
        Ok(listed)
    }

    fn profile(&mut self, listed: &[(String, Option<f64>)]) -> Result<Profile, String> {
        let mut profile = Profile::EMPTY.clone();
        for (name, weight) in listed {
            self.add(name, weight.unwrap_or(1.0), &mut profile)?;
        }
        Ok(profile)
    }

    fn add(&mut self, name: &str, weight: f64, profile: &mut Profile) -> Result<(), String> {
        let plugin = self
            .plugins
            .get(name)
            .ok_or_else(|| format!("pluginRef {name:?} is no plug-in of the file"))?;
        const PRODUCER: &str = "prefixMatchInfoProducerName";
        const LOAD: &str = "inFlightLoadProducerName";
        let named = plugin.text(PRODUCER)?.map(str::to_owned);
        let scorer = match plugin.kind.as_str() {
            kind if NO_SAY.contains(&kind) => return Ok(()),
            "prefix-cache-affinity-filter" => {
                let (threshold, exploration) = (
                    plugin.number("affinityThreshold", 0.8)?,
                    plugin.number("explorationProbability", 0.0)?,
                );
                let most_penalty_tokens = plugin.number("maxTokensInFlightPenalty", 0.0)?;
                let ms = if most_penalty_tokens > 0.0 { 0.0 } else { 18_000.0 };
                let most_penalty_ms = plugin.number("maxTTFTPenaltyMs", ms)?;
                let tokens_per_s = plugin.number("peakPrefillThroughput", 15_928.0)?;
                plugin.only(&[
                    "affinityThreshold",
                    "explorationProbability",
                    "maxTokensInFlightPenalty",
                    "maxTTFTPenaltyMs",
                    "peakPrefillThroughput",
                    PRODUCER,
                    LOAD,
                ])?;
                if threshold > 1.0 || exploration > 1.0 || tokens_per_s == 0.0 {
                    return Err(format!(
                        "{name}: affinityThreshold and explorationProbability are at most 1, peakPrefillThroughput more than 0"
                    ));
                }
                let index = self.index(named)?;
                profile.filters.push(Filter::Affinity {
                    index,
                    threshold,
                    exploration,
                    most_penalty_ms,
                    most_penalty_tokens,
                    tokens_per_s,
                });
                return Ok(());
            }
            "max-score-picker" | "random-picker" | "weighted-random-picker" => {
                let one = plugin.count("maxNumOfEndpoints", 1)? == 1;
                plugin.only(&["maxNumOfEndpoints"])?;
                if !one {
                    return Err(format!("{name}: maxNumOfEndpoints other than 1 is not modelled"));
                }
                profile.picker = match plugin.kind.as_str() {
                    "random-picker" => Picker::Random,
                    "weighted-random-picker" => Picker::WeightedRandom,
                    _ => Picker::MaxScore,
                };
                return Ok(());
            }
            "prefix-cache-scorer" => {
                plugin.only(&[PRODUCER])?;
                Scorer::Prefix { index: self.index(named)? }
            }
            "precise-prefix-cache-scorer" => {
                Scorer::Prefix { index: self.index(Some(name.to_owned()))? }
            }
            "kv-cache-utilization-scorer" => {
                plugin.only(&[])?;
                Scorer::KvUtilization
            }
            "queue-scorer" => {
                plugin.only(&[])?;
                Scorer::Queue
            }
            "running-requests-size-scorer" => {
                plugin.only(&[])?;
                Scorer::Running
            }
            "load-aware-scorer" => {
                plugin.only(&["threshold"])?;
                Scorer::LoadAware { threshold: f64::from(plugin.count("threshold", 128)?.max(1)) }
            }
            "token-load-scorer" => {
                plugin.only(&["queueThresholdTokens", LOAD])?;
                let threshold = plugin.number("queueThresholdTokens", 4_194_304.0)?;
                Scorer::TokenLoad {
                    threshold: if threshold > 0.0 { threshold } else { 4_194_304.0 },
                }
            }
            "active-request-scorer" => {
                plugin.only(&["idleThreshold", "maxBusyScore", "requestTimeout", LOAD])?;
                let idle = f64::from(plugin.count("idleThreshold", 0)?);
                Scorer::ActiveRequest {
                    idle,
                    most_busy: plugin.number("maxBusyScore", 1.0)?.min(1.0),
                }
            }
            "no-hit-lru-scorer" => {
                plugin.only(&["lruSize", "prefixPluginType", "prefixPluginName", PRODUCER])?;
                Scorer::NoHitLru { index: self.index(named)? }
            }
            "lmetric-scorer" => {
                plugin.only(&[PRODUCER, LOAD])?;
                Scorer::LMetric { index: self.index(named)? }
            }
            other => return Err(not_modelled(other)),
        };
        profile.scorers.push((scorer, weight));
        Ok(())
    }
}

fn not_modelled(kind: &str) -> String {
    format!("the plug-in {kind:?} is not modelled: leave it out")
}

fn name_of(profile: &Value) -> &str {
    profile.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The plug-ins of a profile and their weights.
fn references(profile: &Value) -> Result<Vec<(String, Option<f64>)>, String> {
    let listed = profile.get("plugins").and_then(Value::as_array).into_iter().flatten();
    let reference = |written: &Value| {
        let name = written.get("pluginRef").and_then(Value::as_str);
        let name = name.ok_or("a plug-in of a profile without a pluginRef")?;
        match written.get("weight") {
            None | Some(Value::Null) => Ok((name.to_owned(), None)),
            Some(weight) => match weight.as_f64().filter(|weight| (0.0..=1e12).contains(weight)) {
                Some(weight) => Ok((name.to_owned(), Some(weight))),
                None => Err(format!(
                    "the weight of {name} is {weight}, and must be a number from 0 to 1e12"
                )),
            },
        }
    };
    listed.map(reference).collect()
}

fn approximate(plugin: &Plugin) -> Result<IndexConfig, String> {
    plugin.only(&[
        "autoTune",
        "blockSizeTokens",
        "blockSize",
        "maxPrefixBlocksToMatch",
        "maxPrefixTokensToMatch",
        "lruCapacityPerServer",
    ])?;
    let defaults = PrefixParams::default();
    // A smaller block is raised to the least there is.
    let block = plugin.count("blockSizeTokens", plugin.count("blockSize", 16)?)?;
    let match_block_tokens = block.max(defaults.match_block_tokens);
    let tokens = plugin.count("maxPrefixTokensToMatch", defaults.max_prefix_tokens)?;
    let blocks = plugin.count("maxPrefixBlocksToMatch", 2_048)?;
    let max_prefix_tokens = match (tokens, blocks) {
        (0, 0) => u32::MAX,
        (0, blocks) => blocks.saturating_mul(match_block_tokens),
        (tokens, _) => tokens,
    };
    let capacity = plugin.count("lruCapacityPerServer", 31_250)?;
    let lru_capacity_blocks = if plugin.flag("autoTune", true)? { None } else { Some(capacity) };
    Ok(IndexConfig::Approximate(PrefixParams {
        match_block_tokens,
        max_prefix_tokens,
        lru_capacity_blocks,
    }))
}

/// How events reach it, and how tokens are hashed, is the simulation's.
fn precise(plugin: &Plugin) -> Result<IndexConfig, String> {
    plugin.only(&[
        "tokenProcessorConfig",
        "indexerConfig",
        "kvEventsConfig",
        "speculativeIndexing",
        "speculativeTTL",
    ])?;
    if !plugin.flag("speculativeIndexing", false)? {
        return Ok(IndexConfig::Precise(None));
    }
    let ttl = plugin.text("speculativeTTL")?.filter(|text| !text.is_empty()).unwrap_or("2s");
    let ttl =
        parse_duration(ttl).map_err(|error| format!("{}: speculativeTTL: {error}", plugin.kind))?;
    Ok(IndexConfig::Precise(Some(ttl)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_files_the_named_one_counts() {
        let files =
            "pluginsCustomConfig: {a.yaml: 'kind: EndpointPickerConfig', b.yaml: 'kind: Other'}";
        let error = EppConfig::parse(files).expect_err("which one?");
        assert!(
            error.contains("pluginsConfigFile must name one of its files: a.yaml, b.yaml"),
            "{error}"
        );
        let named = |name: &str| EppConfig::parse(&format!("pluginsConfigFile: {name}\n{files}"));
        let error = named("b.yaml").expect_err("the second");
        assert!(error.contains("says kind: EndpointPickerConfig"), "{error}");
        let first = named("a.yaml").map(|_| ());
        assert_ne!(first, Err(error), "the first");
        assert!(named("c.yaml").is_err());
    }
}
