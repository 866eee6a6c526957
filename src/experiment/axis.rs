//! How an axis of a sweep is written: as arguments have it, and the names of variants.

use toml::Value;

/// The axis whose values are bundles of settings, each with a name.
pub(super) const VARIANT: &str = "variant";

/// The keys that make a table a range and not a section.
pub(super) const RANGE_KEYS: [&str; 4] = ["from", "to", "step", "factor"];

/// An axis as typed on a command line: `0,0.5,1`, `60..180:20` (a step) or
/// `8..512:x2` (a factor).
pub(super) fn typed(text: &str) -> Value {
    let item = |text: &str| {
        let text = text.trim();
        text.parse().unwrap_or_else(|_| Value::String(text.to_owned()))
    };
    // Paths may have dots too: a range begins with a number.
    let is_number = |text: &str| text.trim().starts_with(|c: char| c.is_ascii_digit() || c == '-');
    let Some((from, rest)) = text.split_once("..").filter(|(from, _)| is_number(from)) else {
        return Value::Array(text.split(',').map(item).collect());
    };
    let mut range = toml::Table::from_iter([("from".to_owned(), item(from))]);
    let (to, by) = rest.split_once(':').map_or((rest, None), |(to, by)| (to, Some(by)));
    range.insert("to".to_owned(), item(to));
    if let Some(by) = by {
        let (key, by) = by.trim().strip_prefix('x').map_or(("step", by), |by| ("factor", by));
        range.insert(key.to_owned(), item(by));
    }
    Value::Table(range)
}

/// The variant that `chosen` names, which was typed as `text`: a number is a name
/// too. A table is a variant itself.
pub(super) fn variant(variants: &Value, chosen: &Value, text: &str) -> Result<Value, String> {
    if chosen.is_table() {
        return Ok(chosen.clone());
    }
    let wanted = chosen.as_str().unwrap_or(text);
    let name = |variant: &Value| Some(variant.get("name")?.as_str()?.to_owned());
    let known = variants.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = known.iter().find(|variant| name(variant).as_deref() == Some(wanted));
    found.cloned().ok_or_else(|| {
        let names: Vec<String> =
            known.iter().filter_map(name).map(|name| format!("{name:?}")).collect();
        format!("must be the name of a variant: {}", names.join(", "))
    })
}
