//! The parameters of a policy: one serde type with defaults and doc comments.
//!
//! Everything else is read off that type: which keys there are, what they mean,
//! what they take, what holds where a key is not given, and how a text that does
//! not fit is refused. So adding a parameter is adding a field.

use crate::settings::{Invalid, duration_text, nearest};
use crate::time::SimDuration;
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use std::fmt;
use toml::{Table, Value};

/// The parameters of a policy, each a key of `[router]`.
///
/// A struct whose `Default` holds the defaults, with `#[serde(default)]` and a
/// doc comment on every field.
pub trait Parameters:
    Clone + fmt::Debug + Default + Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static
{
    /// The keys that [`Policy::set_parameter`](super::Policy::set_parameter) can
    /// change while the policy runs.
    const CHANGEABLE: &'static [&'static str] = &[];

    /// Refuses values that reading them would turn into others.
    ///
    /// # Errors
    /// The first key with such a value.
    fn check_given(_given: &Table) -> Result<(), Invalid> {
        Ok(())
    }

    /// Refuses values that the policy cannot work with.
    ///
    /// # Errors
    /// The first key with such a value.
    fn check(&self) -> Result<(), Invalid> {
        Ok(())
    }

    /// Refuses values that do not fit what stands around the policy.
    ///
    /// # Errors
    /// The first key with such a value.
    fn check_in(&self, _surroundings: &Surroundings) -> Result<(), Invalid> {
        Ok(())
    }

    /// Whether the publisher of KV events that goes with the policy counts copies
    /// of a block, unless `[router.feed]` says.
    fn counts_copies(&self) -> bool {
        true
    }
}

/// What stands around a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Surroundings {
    /// Workers that there can ever be.
    pub workers: u32,
    /// Front ends, each with a policy of its own.
    pub front_ends: u32,
    /// Whether prefill and decode have workers of their own; `None`: not known yet.
    pub has_prefill_workers: Option<bool>,
    /// Whether short prompts may skip the prefill workers
    /// (`router.conditional_disaggregation`).
    pub may_skip_prefill: bool,
}

/// Of policies that have no parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoParameters {}

impl Parameters for NoParameters {}

/// One parameter, as people see it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Parameter {
    /// The key in `[router]`.
    pub name: String,
    /// What it means, and its unit.
    pub doc: String,
    /// What holds where the key is not given; `None` if nothing does.
    pub default: Option<Value>,
    /// The values it takes, in words.
    pub allowed: String,
    /// Its JSON Schema, which refers to nothing outside.
    pub schema: Json,
    /// Whether it can be changed while the policy runs.
    pub changeable: bool,
}

impl Parameter {
    /// A parameter that always holds a value, for factories that have no type to read it
    /// off. `schema` is its JSON Schema; what it allows is said in words from that.
    pub fn new(name: String, doc: String, default: Value, mut schema: Json) -> Self {
        let allowed = schema.as_object().map(allowed).unwrap_or_default();
        schema["description"] = json!(doc);
        Self { name, doc, default: Some(default), allowed, schema, changeable: false }
    }
}

/// The parameters of `P`, by name.
///
/// # Panics
/// If `P` is not a struct that TOML can hold: a defect of `P`.
pub(super) fn describe<P: Parameters>() -> Vec<Parameter> {
    let mut root = Json::from(SchemaGenerator::default().into_root_schema_for::<P>());
    let definitions = root["$defs"].take();
    let Json::Object(properties) = root["properties"].take() else { return Vec::new() };
    let defaults = to_table(&P::default());
    let parameter = |(name, property): (String, Json)| {
        let doc = text_of(&property["description"]);
        let mut schema = resolve(property, &definitions);
        let allowed = allowed(&schema);
        schema.insert("description".to_owned(), json!(doc));
        Parameter {
            doc,
            allowed,
            default: defaults.get(&name).cloned(),
            schema: Json::Object(schema),
            changeable: P::CHANGEABLE.contains(&name.as_str()),
            name,
        }
    };
    properties.into_iter().map(parameter).collect()
}

/// The parameters of `given` keys, all others at their defaults. Values are of
/// the right kind then; whether the policy can work with them,
/// [`check`](Parameters::check) says.
///
/// # Errors
/// The first key whose value is not of its kind.
pub(super) fn read<P: Parameters>(given: &Table) -> Result<P, Invalid> {
    P::check_given(given)?;
    from_table(given).map_err(|error| {
        let alone = |key: &str, value: &Value| {
            from_table::<P>(&Table::from_iter([(key.to_owned(), value.clone())]))
        };
        let bad = given.iter().find(|(key, value)| alone(key, value).is_err());
        match bad.or_else(|| given.iter().next()) {
            Some((key, value)) => refusal::<P>(key, value, &error),
            None => Invalid::new("policy", "parameters", error),
        }
    })
}

/// `parameters` with another value of `key`, checked as if they had been read.
///
/// # Errors
/// If `key` cannot be changed while the policy runs, or not to `value`.
pub fn change<P: Parameters>(parameters: &P, key: &str, value: f64) -> Result<P, Invalid> {
    if !P::CHANGEABLE.contains(&key) {
        let allowed = match P::CHANGEABLE {
            [] => "left alone: this policy has no parameter that can change while it runs".into(),
            keys => format!(
                "left alone while the policy runs; what can change is {}{}",
                keys.join(", "),
                hint(key, keys.iter().copied())
            ),
        };
        return Err(Invalid::new(key, shown(value), allowed));
    }
    let with = |value: Value| {
        let mut table = to_table(parameters);
        table.insert(key.to_owned(), value);
        from_table::<P>(&table)
    };
    let whole = || {
        #[expect(clippy::cast_possible_truncation, reason = "whole and well within 64 bits")]
        let whole = (value.fract() == 0.0 && value.abs() < 2f64.powi(53)).then_some(value as i64);
        whole.map(|whole| with(Value::Integer(whole)))
    };
    let changed = match with(Value::Float(value)) {
        Err(error) => whole().unwrap_or(Err(error)),
        changed => changed,
    };
    let changed = changed.map_err(|error| refusal::<P>(key, &Value::Float(value), &error))?;
    changed.check()?;
    Ok(changed)
}

/// All parameters with their values, those that hold no value left out.
///
/// # Panics
/// If TOML cannot hold them: a defect of `P`.
pub(super) fn to_table<P: Parameters>(parameters: &P) -> Table {
    Table::try_from(parameters).unwrap_or_else(|error| {
        panic!(
            "parameters of a policy must be a struct that TOML can hold: {error}: {parameters:?}"
        )
    })
}

/// What [`to_table`] wrote.
///
/// # Errors
/// What serde says of a table that is not of this kind.
pub(super) fn from_table<P: Parameters>(table: &Table) -> Result<P, String> {
    Value::Table(table.clone())
        .try_into()
        .map_err(|error: toml::de::Error| error.message().replace('\n', ", "))
}

/// `Err` unless `value` is a number in `range`.
pub fn check_range(
    key: &str,
    value: f64,
    range: std::ops::RangeInclusive<f64>,
) -> Result<(), Invalid> {
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!("a number from {} to {}", shown(*range.start()), shown(*range.end()));
    Err(Invalid::new(key, shown(value), allowed))
}

/// Workers report every so often: no report is nearer to the next than any scrape (assumed).
pub const LEAST_REPORT_PERIOD: SimDuration = SimDuration::from_millis(1);

/// Refuses a `report_period` that is too short.
pub(crate) fn check_report_period(period: SimDuration) -> Result<(), Invalid> {
    let written = duration_text(period);
    let allowed = "at least 1ms: each report looks at every worker";
    Invalid::unless(period >= LEAST_REPORT_PERIOD, "report_period", written, allowed)
}

/// A number as people write it, in few digits.
pub(super) fn shown(value: f64) -> String {
    let (plain, short) = (value.to_string(), format!("{value:e}"));
    let is_plain = (1e-4..1e9).contains(&value.abs()) || plain.len() <= short.len();
    if is_plain { plain } else { short }
}

/// Weights, rates and ratios up to here: far above any that means something, and
/// so far below the largest number that no sum of costs comes near it. A cost that
/// is infinite on some workers leaves the others without a chance in the draws of
/// the production crate, and makes `kv` turn requests away.
pub(super) const MOST: f64 = 1e12;

fn refusal<P: Parameters>(key: &str, value: &Value, error: &str) -> Invalid {
    let known = describe::<P>();
    let allowed = match known.iter().find(|parameter| parameter.name == key) {
        Some(Parameter { allowed, schema, .. }) => match value {
            Value::String(text) => {
                let choices = choices(schema);
                format!("{allowed}{}", hint(text, choices.iter().map(String::as_str)))
            }
            _ => allowed.clone(),
        },
        None => error.to_owned(),
    };
    let seen = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Float(number) => shown(*number),
        other => other.to_string(),
    };
    Invalid::new(key, seen, allowed)
}

fn hint<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, valid).map_or(String::new(), |near| format!("; did you mean {near:?}?"))
}

/// A doc comment on one line, without the links of rustdoc.
fn text_of(description: &Json) -> String {
    let text = description.as_str().unwrap_or_default();
    text.replace("[`", "`").replace("`]", "`").replace('\n', " ")
}

/// `schema` with what it refers to in its place, and without null: TOML has none.
fn resolve(schema: Json, definitions: &Json) -> Map<String, Json> {
    let Json::Object(mut schema) = schema else { return Map::new() };
    let referred = match schema.remove("$ref") {
        Some(name) => name.as_str().map(|name| {
            let name = name.rsplit('/').next().unwrap_or(name);
            definitions[name].clone()
        }),
        None => None,
    };
    if let Some(Json::Object(definition)) = referred {
        schema.remove("description");
        schema.extend(definition);
        return resolve(Json::Object(schema), definitions);
    }
    if let Some(Json::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Json::Array(mut forms)) = schema.remove("anyOf") {
        forms.retain(|form| *form != json!({ "type": "null" }));
        if let [only] = forms.as_slice() {
            schema.remove("description");
            schema.extend(resolve(only.clone(), definitions));
        } else {
            schema.insert("anyOf".to_owned(), Json::Array(forms));
        }
    }
    schema.retain(|key, value| key != "default" || !value.is_null());
    schema
}

/// The texts that `schema` allows, if it lists them.
fn choices(schema: &Json) -> Vec<String> {
    let texts = |list: &Json, of: fn(&Json) -> &Json| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.filter_map(|item| of(item).as_str().map(str::to_owned)).collect()
    };
    let mut found = texts(&schema["enum"], |item| item);
    for form in schema["oneOf"].as_array().into_iter().flatten() {
        found.extend(texts(&form["enum"], |item| item));
        found.extend(form["const"].as_str().map(str::to_owned));
    }
    found
}

/// The values that a resolved `schema` allows, in words.
fn allowed(schema: &Map<String, Json>) -> String {
    let choices = choices(&Json::Object(schema.clone()));
    if !choices.is_empty() {
        let quoted: Vec<String> = choices.iter().map(|name| format!("{name:?}")).collect();
        return format!("one of {}", quoted.join(", "));
    }
    // Kinds of values that have a name of their own say what they look like.
    let is_own_kind = schema.contains_key("pattern") || schema.contains_key("anyOf");
    if let (true, Some(Json::String(text))) = (is_own_kind, schema.get("description")) {
        return text.clone();
    }
    let kind = schema.get("type").and_then(Json::as_str).unwrap_or_default();
    match kind {
        "number" => "a number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "string" => "text in quotes".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a section with keys".to_owned(),
        "integer" => match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
            "uint8" => "a whole number from 0 to 255".to_owned(),
            "uint16" => "a whole number from 0 to 65535".to_owned(),
            "uint32" => "a whole number from 0 to 4294967295".to_owned(),
            "uint64" | "uint" => "a whole number, not negative".to_owned(),
            _ => "a whole number".to_owned(),
        },
        _ => "a value as its documentation says".to_owned(),
    }
}
