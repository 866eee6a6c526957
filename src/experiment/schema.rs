//! The shape of experiment files as a JSON Schema, which editors complete and
//! check by. It comes from the types that read experiments.

use super::cluster::ClusterSettings;
use super::document::Extends;
use super::measure::{MeasureSettings, SloSettings};
use crate::engine::settings::EngineSettings;
use crate::router::Registry;
use crate::router::settings::FrontEndSettings;
use crate::simulation::ControlSettings;
use crate::workload::WorkloadSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// An experiment file with all its sections; `P` is what `[published]` holds.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields, rename = "Experiment")]
#[expect(dead_code, reason = "a shape, never a value")]
struct File<P> {
    /// Also the output folder: letters, digits, `-`, `_`, `.`
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$"))]
    name: String,
    /// One sentence for people.
    description: Option<String>,
    /// An experiment whose settings hold where this one says nothing.
    extends: Option<Extends>,
    cluster: ClusterSettings,
    engine: Option<EngineSettings>,
    #[schemars(schema_with = "router")]
    router: Value,
    workload: WorkloadSettings,
    measure: Option<MeasureSettings>,
    slo: Option<SloSettings>,
    /// What changes while simulations run.
    control: Option<Vec<ControlSettings>>,
    /// Swept keys with their values: every combination is a point.
    #[schemars(schema_with = "sweep", default)]
    sweep: Option<Value>,
    published: Option<P>,
}

/// The schema of experiment files whose section `[published]` is a `P`.
///
/// A file that extends another may leave out whatever that one has, at any
/// depth: it is held to a copy of the schema in which nothing is required.
pub fn schema<P: JsonSchema>() -> Value {
    let mut whole = Value::from(SchemaGenerator::default().into_root_schema_for::<File<P>>());
    tidy(&mut whole);
    let mut part = whole.clone();
    relax(&mut part);
    let mut root = take(part);
    let mut whole = take(whole);
    let mut definitions = defined(&mut root);
    definitions.extend(defined(&mut whole));
    definitions.insert("Whole".to_owned(), Value::Object(whole));
    root.insert("required".to_owned(), json!(["name"]));
    root.insert("if".to_owned(), json!({ "not": { "required": ["extends"] } }));
    root.insert("then".to_owned(), json!({ "$ref": "#/$defs/Whole" }));
    root.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(root)
}

fn take(schema: Value) -> Map<String, Value> {
    match schema {
        Value::Object(map) => map,
        other => unreachable!("the schema of a struct is no object: {other}"),
    }
}

fn defined(schema: &mut Map<String, Value>) -> Map<String, Value> {
    schema.remove("$schema");
    schema.remove("$defs").map(take).unwrap_or_default()
}

/// TOML has no null, and its links are not rustdoc's.
fn tidy(schema: &mut Value) {
    walk(schema, &mut |map| {
        if let Some(Value::String(text)) = map.get_mut("description") {
            *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
        }
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                map.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(forms)) = map.get_mut("anyOf") {
            forms.retain(|form| *form != json!({ "type": "null" }));
        }
        // Times are written for people in descriptions; "null" says nothing.
        map.retain(|key, value| key != "default" || !(value.is_null() || value.is_string()));
    });
}

/// Requires nothing, under names of its own.
fn relax(schema: &mut Value) {
    walk(schema, &mut |map| {
        map.remove("required");
        // Without what tells variants apart a value may fit several.
        if let Some(forms) = map.remove("oneOf") {
            map.insert("anyOf".to_owned(), forms);
        }
        if let Some(Value::String(name)) = map.get_mut("$ref") {
            name.push_str(PART);
        }
        if let Some(Value::Object(definitions)) = map.get_mut("$defs") {
            *definitions = std::mem::take(definitions)
                .into_iter()
                .map(|(name, schema)| (name + PART, schema))
                .collect();
        }
    });
}

/// The end of the names of what may be left out in part.
const PART: &str = "InPart";

/// Calls `change` for every object inside `schema`, inner ones first.
fn walk(schema: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(|inner| walk(inner, change));
            change(map);
        }
        Value::Array(items) => items.iter_mut().for_each(|inner| walk(inner, change)),
        _ => {}
    }
}

/// `[router]`: which policy, what holds for every policy, and all parameters.
fn router(generator: &mut SchemaGenerator) -> Schema {
    let registry = Registry::default();
    let mut section = Value::from(FrontEndSettings::json_schema(generator));
    let names: Vec<&str> = registry.abouts().map(|about| about.name.as_str()).collect();
    section["description"] = json!("The front ends and their policy, with its parameters.");
    section["properties"]["policy"] =
        json!({ "description": "Which policy routes.", "type": "string", "examples": names });
    for (key, property) in registry.properties() {
        section["properties"][&key] = property;
    }
    section["required"] = json!(["policy"]);
    section["additionalProperties"] = json!(false);
    Schema::try_from(section).unwrap_or_else(|error| unreachable!("a section is a schema: {error}"))
}

/// `[sweep]`: keys may be written in quotes or as sections in sections.
fn sweep(generator: &mut SchemaGenerator) -> Schema {
    let axis = generator.subschema_for::<SweptValues>();
    json_schema!({
        "type": "object",
        "properties": {
            "variant": {
                "description": "Named bundles of settings",
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "properties": { "name": { "type": "string" } },
                    "required": ["name"],
                },
            },
            "paired": {
                "description": "Swept keys whose values go together, first with first",
                "type": "array",
                "minItems": 2,
                "items": { "type": "string" },
            },
        },
        "additionalProperties": axis,
    })
}

/// The values of a swept key.
struct SweptValues;

impl JsonSchema for SweptValues {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Axis".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let quantity = json!({ "type": ["number", "string"] });
        json_schema!({
            "description": "A list, a range with a step, or a range with a factor",
            "anyOf": [
                { "type": "array", "minItems": 1 },
                {
                    "type": "object",
                    "properties": {
                        "from": quantity,
                        "to": quantity,
                        "step": quantity,
                        "factor": { "type": "number", "exclusiveMinimum": 1 },
                    },
                    "required": ["from", "to"],
                    "oneOf": [{ "required": ["step"] }, { "required": ["factor"] }],
                    "additionalProperties": false,
                },
                {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": { "not": { "enum": ["from", "to", "step", "factor"] } },
                    "additionalProperties": generator.subschema_for::<Self>(),
                },
            ]
        })
    }
}
