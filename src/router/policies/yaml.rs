//! YAML as far as configurations of Kubernetes use it, as JSON values.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// What is open: a list, or a mapping with the key that waits for its value.
enum Open {
    List(Vec<Value>),
    Mapping(Map<String, Value>, Option<String>),
}

/// The first document of `text`; null if there is none.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let at = |problem: &str| format!("{problem} in line {}", span.start.line());
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(&text, style),
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Mapping(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Value::Array(items),
                Some(Open::Mapping(entries, _)) => Value::Object(entries),
                None => continue,
            },
            Event::Alias(_) => return Err(at("an alias, which is not read,")),
            Event::DocumentEnd | Event::StreamEnd => return Ok(Value::Null),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
        };
        match open.last_mut() {
            None => return Ok(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Mapping(entries, key)) => match (key.take(), value) {
                (None, Value::String(name)) => *key = Some(name),
                (None, other) => *key = Some(other.to_string()),
                (Some(name), value) => {
                    if entries.insert(name.clone(), value).is_some() {
                        return Err(at(&format!("{name:?} a second time")));
                    }
                }
            },
        }
    }
    Ok(Value::Null)
}

/// By the core schema of YAML 1.2.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let whole = text.parse::<i64>().ok().map(Number::from);
            let starts = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            let real = || text.parse().ok().filter(|_| starts).and_then(Number::from_f64);
            whole.or_else(real).map_or_else(|| Value::String(text.to_owned()), Value::Number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_those_of_the_core_schema() {
        let text = "# a comment\na:\n- 1\n- -2.5 # another\n- \"3\"\n- yes\n- true\n- ~\nb: {c: [x, 'y z']}\n\
                    d: |\n  line: one\n  two\ne:\n";
        let expected = json!({
            "a": [1, -2.5, "3", "yes", true, null],
            "b": { "c": ["x", "y z"] },
            "d": "line: one\ntwo\n",
            "e": null,
        });
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse(""), Ok(Value::Null));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let wrong = |text: &str| parse(text).expect_err(text);
        assert!(!wrong("a: [1").is_empty());
        assert!(wrong("a: 1\na: 2").contains("\"a\" a second time"));
        assert!(wrong("a: &x 1\nb: *x").contains("an alias, which is not read"));
    }
}
