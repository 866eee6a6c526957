//! What routers are started with, as keys of `[router]`: the flags and variables of
//! Dynamo's front end, and the simplest configurations of llm-d's router.
//!
//! Source of names: `KvRouterArgGroup` and `RouterArgGroup` of Dynamo 1.6, and what they
//! were called before.

use super::arguments::Arguments;
use super::engines::Kind;
use super::request::{ImportError, Remark, Why};
use crate::settings::yaml;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use toml::Value;

/// One key of `[router]`, and what Dynamo's front end calls it.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) key: &'static str,
    /// Without dashes in front; the first is the one that is written.
    pub(super) flags: &'static [&'static str],
    /// The first is the one that is written.
    pub(super) variables: &'static [&'static str],
    pub(super) kind: Kind,
}

const fn rule(
    key: &'static str,
    flags: &'static [&'static str],
    variables: &'static [&'static str],
    kind: Kind,
) -> Rule {
    Rule { key, flags, variables, kind }
}

pub(super) const DYNAMO: [Rule; 19] = [
    rule(
        "overlap_weight",
        &["router-kv-overlap-score-weight", "kv-overlap-score-weight"],
        &[
            "DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT",
            "DYN_OVERLAP_SCORE_WEIGHT",
            "DYN_KV_OVERLAP_SCORE_WEIGHT",
        ],
        Kind::Number,
    ),
    rule(
        "overlap_score_credit",
        &["router-kv-overlap-score-credit"],
        &["DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT"],
        Kind::Number,
    ),
    rule(
        "overlap_score_credit_decay",
        &["router-kv-overlap-score-credit-decay"],
        &["DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT_DECAY"],
        Kind::Number,
    ),
    rule(
        "prefill_load_scale",
        &["router-prefill-load-scale"],
        &["DYN_ROUTER_PREFILL_LOAD_SCALE"],
        Kind::Number,
    ),
    rule(
        "decode_active_request_weight",
        &["router-decode-active-request-weight"],
        &["DYN_ROUTER_DECODE_ACTIVE_REQUEST_WEIGHT"],
        Kind::Number,
    ),
    rule(
        "host_cache_hit_weight",
        &["router-host-cache-hit-weight"],
        &["DYN_ROUTER_HOST_CACHE_HIT_WEIGHT"],
        Kind::Number,
    ),
    rule(
        "disk_cache_hit_weight",
        &["router-disk-cache-hit-weight"],
        &["DYN_ROUTER_DISK_CACHE_HIT_WEIGHT"],
        Kind::Number,
    ),
    rule("temperature", &["router-temperature"], &["DYN_ROUTER_TEMPERATURE"], Kind::Number),
    rule(
        "use_kv_events",
        &["router-kv-events", "kv-events", "use-kv-events"],
        &["DYN_ROUTER_USE_KV_EVENTS", "DYN_KV_EVENTS", "DYN_USE_KV_EVENTS"],
        Kind::Switch,
    ),
    rule(
        "track_active_blocks",
        &["router-track-active-blocks", "track-active-blocks"],
        &["DYN_ROUTER_TRACK_ACTIVE_BLOCKS", "DYN_TRACK_ACTIVE_BLOCKS"],
        Kind::Switch,
    ),
    rule(
        "track_output_blocks",
        &["router-track-output-blocks", "track-output-blocks"],
        &["DYN_ROUTER_TRACK_OUTPUT_BLOCKS", "DYN_TRACK_OUTPUT_BLOCKS"],
        Kind::Switch,
    ),
    rule(
        "assume_kv_reuse",
        &["router-assume-kv-reuse", "assume-kv-reuse"],
        &["DYN_ROUTER_ASSUME_KV_REUSE", "DYN_ASSUME_KV_REUSE"],
        Kind::Switch,
    ),
    rule(
        "track_prefill_tokens",
        &["router-track-prefill-tokens"],
        &["DYN_ROUTER_TRACK_PREFILL_TOKENS"],
        Kind::Switch,
    ),
    rule(
        "approximate_ttl",
        &["router-ttl-secs", "router-ttl"],
        &["DYN_ROUTER_TTL_SECS", "DYN_ROUTER_TTL"],
        Kind::Seconds,
    ),
    rule(
        "queue_threshold",
        &["router-queue-threshold"],
        &["DYN_ROUTER_QUEUE_THRESHOLD"],
        Kind::Number,
    ),
    rule("queue_order", &["router-queue-policy"], &["DYN_ROUTER_QUEUE_POLICY"], Kind::Word),
    rule(
        "active_decode_blocks_threshold",
        &["active-decode-blocks-threshold"],
        &["DYN_ACTIVE_DECODE_BLOCKS_THRESHOLD"],
        Kind::Number,
    ),
    rule(
        "active_prefill_tokens_threshold",
        &["active-prefill-tokens-threshold"],
        &["DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD"],
        Kind::Count,
    ),
    // Names of policies differ: read and written by MODES.
    rule("policy", &["router-mode"], &["DYN_ROUTER_MODE"], Kind::Word),
];

/// The front end's modes, and our policies.
pub(super) const MODES: [(&str, &str); 5] = [
    ("kv", "kv"),
    ("round-robin", "round_robin"),
    ("random", "random"),
    ("power-of-two", "power_of_two"),
    ("least-loaded", "least_loaded"),
];

/// The front end's flags and variables that have no effect on the simulation.
const NO_EFFECT: [&str; 14] = [
    "router-reset-states",
    "router-event-threads",
    "router-min-initial-workers",
    "router-tracking-hash",
    "router-snapshot-threshold",
    "router-durable-kv-events",
    "enforce-disagg",
    "http-host",
    "dyn-chat-processor",
    "kserve-grpc-server",
    "busy-threshold-poll",
    "metrics-prefix",
    "enable-session-prefix-index",
    "preprocess-workers",
];

/// Flags and variables that make another router of it: refused, unless off.
const REFUSED: [(&str, &str, &str); 7] = [
    (
        "router-policy-config",
        "DYN_ROUTER_POLICY_CONFIG",
        "a policy file is not read; give its settings as flags",
    ),
    ("router-prefill-policy", "DYN_ROUTER_PREFILL_POLICY", "only the built-in policy is simulated"),
    ("router-decode-policy", "DYN_ROUTER_DECODE_POLICY", "only the built-in policy is simulated"),
    (
        "router-conditional-disagg",
        "DYN_ROUTER_CONDITIONAL_DISAGG",
        "leave it out and set router.conditional_disaggregation in the experiment",
    ),
    ("load-aware", "DYN_ROUTER_LOAD_AWARE", "give the individual settings that it implies"),
    (
        "router-predicted-ttl-secs",
        "DYN_ROUTER_PREDICTED_TTL_SECS",
        "predicting cache contents in addition to KV events is not simulated",
    ),
    (
        "shared-cache-multiplier",
        "DYN_SHARED_CACHE_MULTIPLIER",
        "a cache that workers share is not simulated",
    ),
];

/// What was found of a router.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    /// Keys of `[router]` with what says so, as written.
    pub(super) settings: BTreeMap<&'static str, (Value, String)>,
    /// Variables that were read.
    pub(super) read: Vec<String>,
    /// Front ends hear of each other.
    pub(super) is_synced: Option<String>,
    /// The size of blocks that the front end was started with.
    pub(super) block_size: Option<(String, String)>,
    pub(super) unused: Vec<Remark>,
}

impl Found {
    /// What Dynamo's front end is started with: flags win over variables.
    ///
    /// # Errors
    /// A value that cannot be read, or a router that is not simulated.
    pub(super) fn dynamo(
        arguments: &Arguments,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, ImportError> {
        let mut found = Self::default();
        for rule in &DYNAMO {
            let variable = rule.variables.iter().find_map(|name| {
                Some((*name, variables.get(*name).filter(|value| !value.is_empty())?))
            });
            if let Some((name, value)) = variable {
                let shown = format!("{name}={value}");
                found.read.push(name.to_owned());
                found.set(rule, value, &shown)?;
            }
        }
        for (flag, variable, why) in REFUSED {
            let on = variables.get(variable).filter(|value| !is_off(value));
            if let Some(value) = on {
                return Err(ImportError::refused(&format!("{variable}={value}"), why));
            }
            if let Some(flag) = arguments.get(&[flag])
                && flag.value.as_deref().is_none_or(|value| !is_off(value))
            {
                return Err(ImportError::refused(&flag.shown, why));
            }
        }
        let sync = "DYN_ROUTER_REPLICA_SYNC";
        if let Some(value) = variables.get(sync).filter(|value| !is_off(value)) {
            found.is_synced = Some(format!("{sync}={value}"));
            found.read.push(sync.to_owned());
        }
        let alone = arguments.alone.iter().map(|word| Remark::new(&word.text, Why::Unknown));
        found.unused.extend(alone);
        for flag in &arguments.flags {
            let name = flag.name.as_str();
            let (positive, is_no) = match name.strip_prefix("no-") {
                Some(positive) => (positive, true),
                None => (name, false),
            };
            if let Some(rule) = DYNAMO.iter().find(|rule| rule.flags.contains(&positive)) {
                let on = if is_no { "false" } else { "true" };
                let is_switch = rule.kind == Kind::Switch;
                match flag.value.as_deref() {
                    Some(value) => found.set(rule, value, &flag.shown)?,
                    None if is_switch => found.set(rule, on, &flag.shown)?,
                    None => return Err(ImportError::value(&flag.shown, "has no value")),
                }
            } else if positive == "router-replica-sync" {
                found.is_synced = (!is_no).then(|| flag.shown.clone());
            } else if name == "kv-cache-block-size" {
                let value = flag.value.clone().unwrap_or_default();
                found.block_size = Some((value, flag.shown.clone()));
            } else {
                found.unused.push(unused(positive, &flag.shown));
            }
        }
        Ok(found)
    }

    fn set(&mut self, rule: &'static Rule, text: &str, shown: &str) -> Result<(), ImportError> {
        if rule.key == "policy" {
            let mode = text.to_lowercase().replace('_', "-");
            let Some((_, policy)) = MODES.iter().find(|(known, _)| *known == mode) else {
                let modes = MODES.map(|(mode, _)| mode).join(", ");
                return Err(ImportError::refused(shown, &format!("simulated modes are {modes}")));
            };
            let before = self.settings.insert("policy", (Value::from(*policy), shown.to_owned()));
            self.overridden(before);
            return Ok(());
        }
        let read = rule.kind.read(text).map_err(|problem| ImportError::value(shown, &problem))?;
        let before = match read {
            Some(value) => self.settings.insert(rule.key, (value, shown.to_owned())),
            None => {
                self.unused.push(Remark::new(shown, Why::Default));
                self.settings.remove(rule.key)
            }
        };
        self.overridden(before);
        Ok(())
    }

    /// Notes what said something else before.
    fn overridden(&mut self, before: Option<(Value, String)>) {
        let remark = |(_, shown): (Value, String)| Remark::new(&shown, Why::Overridden);
        self.unused.extend(before.map(remark));
    }
}

fn is_off(value: &str) -> bool {
    ["", "0", "false", "none", "default"].contains(&value.to_lowercase().as_str())
}

fn unused(name: &str, shown: &str) -> Remark {
    if NO_EFFECT.contains(&name) {
        return Remark::new(shown, Why::NoEffect);
    }
    super::engines::remark(name, shown)
}

/// Plug-ins that stand in any configuration, and decide nothing.
const PLAIN: [&str; 10] = [
    "core-metrics-extractor",
    "decode-filter",
    "inflight-load-producer",
    "max-score-picker",
    "metrics-data-source",
    "openai-parser",
    "single-profile-handler",
    "token-producer",
    "tokenizer",
    "utilization-detector",
];

/// A configuration of llm-d's router as a policy with parameters, if it is one of those
/// that have some: names of plug-ins are types, and there is one profile.
pub(super) fn picker(text: &str) -> Option<BTreeMap<&'static str, Value>> {
    let file = yaml::parse(text).ok()?;
    // Anything else at the top (a gate, a detector of saturation) makes another router of it.
    file.as_object()?.keys().all(|key| TOP.contains(&key.as_str())).then_some(())?;
    let plugins = file.get("plugins")?.as_array()?;
    let mut parameters: BTreeMap<&str, &Json> = BTreeMap::new();
    let nothing = Json::Null;
    for plugin in plugins {
        let kind = plugin.get("type")?.as_str()?;
        plugin.get("name").is_none_or(|name| name.as_str() == Some(kind)).then_some(())?;
        parameters.insert(kind, plugin.get("parameters").unwrap_or(&nothing));
    }
    let [profile] = file.get("schedulingProfiles")?.as_array()?.as_slice() else { return None };
    let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
    for reference in profile.get("plugins")?.as_array()? {
        let weight = reference.get("weight").map_or(Some(1.0), Json::as_f64)?;
        weights.insert(reference.get("pluginRef")?.as_str()?, weight);
    }
    let mut scored: Vec<&str> =
        weights.keys().copied().filter(|kind| !PLAIN.contains(kind)).collect();
    scored.sort_unstable();
    let others = parameters.keys().filter(|kind| !PLAIN.contains(kind) && !scored.contains(kind));
    let has_index = others.clone().any(|kind| *kind == APPROXIMATE);
    others.clone().all(|kind| *kind == APPROXIMATE).then_some(())?;
    let plain = PLAIN.iter().filter_map(|kind| parameters.get(kind));
    plain.copied().all(Json::is_null).then_some(())?;
    let mut settings = BTreeMap::new();
    let index = if has_index { parameters[APPROXIMATE] } else { &nothing };
    let mut set = |key: &'static str, of: &Json, name: &str, used: &mut usize| {
        if let Some(value) = of.get(name).and_then(Json::as_f64) {
            settings.insert(key, number(value));
            *used += 1;
        }
    };
    let mut used = 0;
    set("match_block_tokens", index, "blockSizeTokens", &mut used);
    set("max_prefix_tokens", index, "maxPrefixTokensToMatch", &mut used);
    if index.get("autoTune") == Some(&Json::Bool(false)) {
        set("lru_capacity_blocks", index, "lruCapacityPerServer", &mut used);
        used += 1;
    }
    let all = |parameters: &Json| parameters.as_object().map_or(0, serde_json::Map::len);
    (used == all(index)).then_some(())?;
    match scored.as_slice() {
        ["kv-cache-utilization-scorer", "prefix-cache-scorer", "queue-scorer"] => {
            let plain = scored.iter().all(|kind| parameters.get(kind).is_some_and(|p| p.is_null()));
            plain.then_some(())?;
            settings.insert("policy", "inference_extension".into());
            for (key, kind) in SCORERS {
                settings.insert(key, number(weights[kind]));
            }
        }
        ["prefix-cache-affinity-filter", "token-load-scorer"] => {
            let (filter, scorer) = (parameters.get(scored[0])?, parameters.get(scored[1])?);
            (weights[scored[1]] == 1.0).then_some(())?;
            let mut used = 0;
            let mut set = |key: &'static str, of: &Json, name: &str| {
                if let Some(value) = of.get(name).and_then(Json::as_f64) {
                    settings.insert(key, number(value));
                    used += 1;
                }
            };
            set("affinity_threshold", filter, "affinityThreshold");
            set("exploration_probability", filter, "explorationProbability");
            set("peak_prefill_tokens_per_s", filter, "peakPrefillThroughput");
            set("queue_threshold_tokens", scorer, "queueThresholdTokens");
            if let Some(ms) = filter.get("maxTTFTPenaltyMs").and_then(Json::as_f64) {
                settings.insert("max_ttft_penalty", Value::String(format!("{ms}ms")));
                used += 1;
            }
            (used == all(filter) + all(scorer)).then_some(())?;
            settings.insert("policy", "llmd_token_load".into());
        }
        _ => return None,
    }
    Some(settings)
}

/// Keys at the top of a configuration that parameters can stand for; `dataLayer` names the
/// metrics that are read, and they are the ones that scorers need.
const TOP: [&str; 5] = ["apiVersion", "kind", "plugins", "schedulingProfiles", "dataLayer"];

const APPROXIMATE: &str = "approx-prefix-cache-producer";

const SCORERS: [(&str, &str); 3] = [
    ("prefix_weight", "prefix-cache-scorer"),
    ("kv_weight", "kv-cache-utilization-scorer"),
    ("queue_weight", "queue-scorer"),
];

fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked")]
    let whole = value as i64;
    #[expect(clippy::cast_precision_loss, reason = "compared")]
    let is_whole = whole as f64 == value;
    if is_whole { Value::Integer(whole) } else { Value::Float(value) }
}

/// The configuration of llm-d's router for a policy with these parameters; what else stands
/// at the top of `before` stays.
///
/// # Errors
/// A key that no plug-in has, or a policy that it cannot be, and why.
pub(super) fn picker_of(
    settings: &BTreeMap<String, Value>,
    before: &str,
) -> Result<String, (String, String)> {
    let policy = settings.get("policy").and_then(Value::as_str).unwrap_or_default();
    let wrong = |key: &str, why: &str| (key.to_owned(), why.to_owned());
    let as_number = |key: &str, value: &Value| match value {
        Value::Integer(whole) => Ok(json!(whole)),
        Value::Float(number) => Ok(json!(number)),
        Value::String(text) => crate::settings::parse_count(text)
            .map(|n| json!(n))
            .map_err(|_| wrong(key, "must be a number")),
        _ => Err(wrong(key, "must be a number")),
    };
    let unknown = |key: &str| wrong(key, "no plug-in of llm-d's router has this setting");
    let mut index = json!({});
    let mut filter = json!({});
    let mut scorer = json!({});
    let mut weights = BTreeMap::from(
        SCORERS.map(|(key, kind)| (kind, json!(if key == "prefix_weight" { 3 } else { 2 }))),
    );
    for (key, value) in settings.iter().filter(|(key, _)| *key != "policy") {
        let (table, name) = match (policy, key.as_str()) {
            (_, "match_block_tokens") => (&mut index, "blockSizeTokens"),
            (_, "max_prefix_tokens") => (&mut index, "maxPrefixTokensToMatch"),
            (_, "lru_capacity_blocks") => {
                index["autoTune"] = json!(false);
                (&mut index, "lruCapacityPerServer")
            }
            ("llmd_token_load", "affinity_threshold") => (&mut filter, "affinityThreshold"),
            ("llmd_token_load", "exploration_probability") => {
                (&mut filter, "explorationProbability")
            }
            ("llmd_token_load", "peak_prefill_tokens_per_s") => {
                (&mut filter, "peakPrefillThroughput")
            }
            ("llmd_token_load", "queue_threshold_tokens") => (&mut scorer, "queueThresholdTokens"),
            ("llmd_token_load", "max_ttft_penalty") => {
                let text = value.as_str().unwrap_or_default();
                let time = crate::settings::parse_duration(text).map_err(|why| wrong(key, &why))?;
                filter["maxTTFTPenaltyMs"] = json!(time.as_millis());
                continue;
            }
            ("inference_extension", key) => {
                let Some((_, kind)) = SCORERS.iter().find(|(known, _)| *known == key) else {
                    return Err(unknown(key));
                };
                weights.insert(*kind, as_number(key, value)?);
                continue;
            }
            (_, key) => return Err(unknown(key)),
        };
        table[name] = as_number(key, value)?;
    }
    let plugin = |kind: &str, parameters: &Json| match parameters.as_object() {
        Some(parameters) if !parameters.is_empty() => {
            json!({ "type": kind, "parameters": parameters })
        }
        _ => json!({ "type": kind }),
    };
    let (plugins, profile) = match policy {
        "inference_extension" => (
            [
                vec![plugin(APPROXIMATE, &index)],
                SCORERS.map(|(_, kind)| plugin(kind, &json!({}))).to_vec(),
            ]
            .concat(),
            SCORERS.map(|(_, kind)| json!({ "pluginRef": kind, "weight": weights[kind] })).to_vec(),
        ),
        "llmd_token_load" => (
            vec![
                plugin("token-load-scorer", &scorer),
                plugin("inflight-load-producer", &json!({})),
                plugin(APPROXIMATE, &index),
                plugin("prefix-cache-affinity-filter", &filter),
            ],
            vec![
                json!({ "pluginRef": "prefix-cache-affinity-filter" }),
                json!({ "pluginRef": "token-load-scorer" }),
            ],
        ),
        _ => {
            let why = "must be a policy that an EndpointPickerConfig can express: inference_extension or \
                       llmd_token_load";
            return Err(wrong("policy", why));
        }
    };
    let mut file = match yaml::parse(before) {
        Ok(file @ Json::Object(_)) => file,
        _ => json!({ "apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig" }),
    };
    file["plugins"] = json!(plugins);
    file["schedulingProfiles"] = json!([{ "name": "default", "plugins": profile }]);
    Ok(yaml::write(&file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::words::Written;

    fn read(line: &str, variables: &[(&str, &str)]) -> Result<Found, ImportError> {
        let words = Written::line(line).commands(&BTreeMap::new());
        let words = words.first().map_or(&[][..], Vec::as_slice);
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Found::dynamo(&Arguments::of(words), &variables.collect())
    }

    #[test]
    fn flags_win_over_variables_and_both_over_nothing() {
        let variables = [
            ("DYN_ROUTER_MODE", "kv"),
            ("DYN_ROUTER_TEMPERATURE", "0.5"),
            ("DYN_KV_OVERLAP_SCORE_WEIGHT", "2"),
            ("DYN_ROUTER_REPLICA_SYNC", "true"),
            ("DYN_ROUTER_POLICY_CONFIG", ""),
        ];
        let line = "--router-temperature 0 --no-router-kv-events --router-ttl-secs 60 \
                    --active-decode-blocks-threshold None --router-reset-states --novel 1";
        let found = read(line, &variables).unwrap();
        let settings: Vec<String> =
            found.settings.iter().map(|(key, (value, _))| format!("{key}={value}")).collect();
        let expected = [
            "approximate_ttl=\"60s\"",
            "overlap_weight=2",
            "policy=\"kv\"",
            "temperature=0",
            "use_kv_events=false",
        ];
        assert_eq!(settings, expected);
        assert!(found.is_synced.is_some());
        // The variable of the temperature among them.
        let unused: Vec<&str> = found.unused.iter().map(|one| one.shown.as_str()).collect();
        assert!(unused.contains(&"DYN_ROUTER_TEMPERATURE=0.5"), "{unused:?}");
        assert_eq!(unused.len(), 4);
        let found = read("x --router-temperature 1 --router-temperature 2", &[]).unwrap();
        let unused: Vec<&str> = found.unused.iter().map(|one| one.shown.as_str()).collect();
        assert_eq!(unused, ["x", "--router-temperature 1"]);
        for (line, variables) in [
            ("--router-mode direct", &[][..]),
            ("--router-policy-config p.yaml", &[]),
            ("--router-temperature x", &[]),
            ("", &[("DYN_ROUTER_LOAD_AWARE", "1")]),
        ] {
            assert!(read(line, variables).is_err(), "{line}");
        }
    }

    #[test]
    fn a_policy_is_a_configuration_that_is_that_policy() {
        for (policy, parameters) in [
            (
                "inference_extension",
                vec![
                    ("prefix_weight", Value::Integer(3)),
                    ("kv_weight", 2.into()),
                    ("queue_weight", Value::Float(0.5)),
                ],
            ),
            (
                "inference_extension",
                vec![
                    ("prefix_weight", Value::Integer(1)),
                    ("kv_weight", 2.into()),
                    ("queue_weight", 2.into()),
                    ("match_block_tokens", 128.into()),
                    ("lru_capacity_blocks", 1000.into()),
                ],
            ),
            ("llmd_token_load", vec![]),
            (
                "llmd_token_load",
                vec![
                    ("affinity_threshold", Value::Float(0.7)),
                    ("max_ttft_penalty", "9000ms".into()),
                    ("max_prefix_tokens", 40_960.into()),
                    ("peak_prefill_tokens_per_s", 20_000.into()),
                ],
            ),
        ] {
            let mut settings: BTreeMap<String, Value> =
                parameters.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            settings.insert("policy".to_owned(), policy.into());
            let before =
                "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\ndataLayer: {a: 1}";
            let text = picker_of(&settings, before).unwrap();
            assert!(text.contains("dataLayer"), "{text}");
            for more in ["featureGates: [flowControl]", "saturationDetector: {a: 1}"] {
                assert_eq!(picker(&format!("{text}\n{more}\n")), None, "{more}");
            }
            let back = picker(&text).unwrap_or_else(|| panic!("not read: {text}"));
            let back: BTreeMap<String, Value> =
                back.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            assert_eq!(back, settings, "{text}");
        }
        let other = BTreeMap::from([("policy".to_owned(), Value::from("kv"))]);
        assert!(picker_of(&other, "").unwrap_err().1.contains("inference_extension"));
    }
}
