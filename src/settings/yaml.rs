//! YAML as far as configurations of Kubernetes use it, as JSON values.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What is open: a list, or a mapping.
enum Open {
    List(Vec<Value>),
    Mapping(Mapping),
}

#[derive(Default)]
struct Mapping {
    entries: Map<String, Value>,
    /// The key that waits for its value.
    key: Option<String>,
    /// Mappings of the key `<<`, whose entries stand where the mapping has none of its own;
    /// of several the first wins.
    merged: Vec<Map<String, Value>>,
    /// Whether the key that waits is that one.
    is_merge: bool,
}

/// Values inside of each other beyond this are refused (assumed: ten times those of
/// manifests).
const MOST_DEPTH: usize = 200;

/// Values that anchors and aliases of a file may repeat (assumed: a hundred times those of
/// manifests). A few lines of aliases of aliases would fill any memory.
const MOST_REPEATED: usize = 100_000;

/// The first document of `text`; null if there is none.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    read(text, 1).map(|mut documents| documents.pop().unwrap_or(Value::Null))
}

/// All documents of `text` but empty ones, in order.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>, String> {
    let mut documents = read(text, usize::MAX)?;
    documents.retain(|document| !document.is_null());
    Ok(documents)
}

/// A JSON pointer as people write such paths.
pub(crate) fn dotted(pointer: &str) -> String {
    pointer.split('/').skip(1).map(unescaped).collect::<Vec<_>>().join(".")
}

/// A key as part of a JSON pointer.
pub(crate) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The key that is a part of a JSON pointer.
pub(crate) fn unescaped(part: &str) -> String {
    part.replace("~1", "/").replace("~0", "~")
}

fn read(text: &str, most: usize) -> Result<Vec<Value>, String> {
    let mut documents = Vec::new();
    let mut open: Vec<(Open, usize)> = Vec::new();
    // What aliases stand for, by the parser's number of the anchor; 0 is none.
    let mut anchors: BTreeMap<usize, Value> = BTreeMap::new();
    let mut repeated = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let at = |problem: &str| format!("{problem} in line {}", span.start.line());
        if open.len() > MOST_DEPTH {
            return Err(at("more than 200 values inside of each other"));
        }
        let mut is_merge = false;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                is_merge = text == "<<" && style == ScalarStyle::Plain;
                (scalar(&text, style), anchor)
            }
            Event::SequenceStart(anchor, _) => {
                open.push((Open::List(Vec::new()), anchor));
                continue;
            }
            Event::MappingStart(anchor, _) => {
                open.push((Open::Mapping(Mapping::default()), anchor));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((Open::List(items), anchor)) => (Value::Array(items), anchor),
                Some((Open::Mapping(mapping), anchor)) => (Value::Object(mapping.all()), anchor),
                None => continue,
            },
            Event::Alias(anchor) => {
                let Some(value) = anchors.get(&anchor) else {
                    return Err(at("an alias inside of what it stands for"));
                };
                if open.len() + depth(value) > MOST_DEPTH {
                    return Err(at("more than 200 values inside of each other"));
                }
                repeated += size(value);
                (value.clone(), 0)
            }
            Event::DocumentEnd if documents.len() >= most => return Ok(documents),
            Event::StreamEnd => return Ok(documents),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {
                continue;
            }
        };
        if anchor > 0 {
            repeated += size(&value);
        }
        if repeated > MOST_REPEATED {
            return Err(at(&format!("aliases that stand for more than {MOST_REPEATED} values")));
        }
        if anchor > 0 {
            anchors.insert(anchor, value.clone());
        }
        match open.last_mut() {
            None => documents.push(value),
            Some((Open::List(items), _)) => items.push(value),
            Some((Open::Mapping(mapping), _)) => {
                mapping.add(value, is_merge).map_err(|problem| at(&problem))?;
            }
        }
    }
    Ok(documents)
}

impl Mapping {
    /// Adds the next key, or the value of the one that waits.
    fn add(&mut self, value: Value, is_merge: bool) -> Result<(), String> {
        match (self.key.take(), value) {
            (None, Value::String(name)) => (self.key, self.is_merge) = (Some(name), is_merge),
            (None, other) => (self.key, self.is_merge) = (Some(other.to_string()), false),
            (Some(_), value) if self.is_merge => {
                let listed = match value {
                    Value::Array(items) => items,
                    one => vec![one],
                };
                for value in listed {
                    let Value::Object(entries) = value else {
                        return Err("<< of what is no mapping".to_owned());
                    };
                    self.merged.push(entries);
                }
            }
            (Some(name), value) => {
                if self.entries.insert(name.clone(), value).is_some() {
                    return Err(format!("{name:?} a second time"));
                }
            }
        }
        Ok(())
    }

    /// Its own entries and those of others that it takes.
    fn all(mut self) -> Map<String, Value> {
        for (key, value) in self.merged.into_iter().flatten() {
            self.entries.entry(key).or_insert(value);
        }
        self.entries
    }
}

/// How many values stand inside of each other, at most.
fn depth(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(entries) => entries.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// How many values there are in a value, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(entries) => entries.values().map(size).sum(),
        _ => 0,
    }
}

/// `value` as a document, in blocks; texts of several lines stand as they are.
pub(crate) fn write(value: &Value) -> String {
    let mut text = String::new();
    write_at(value, 0, &mut text);
    text
}

/// Writes `value` in lines that begin at `indent`.
fn write_at(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                let _ = write!(text, "{pad}{}:", word(key));
                write_behind(value, indent, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let is_nested = matches!(item, Value::Object(entries) if !entries.is_empty())
                    || matches!(item, Value::Array(items) if !items.is_empty());
                if is_nested {
                    let mut inner = String::new();
                    write_at(item, indent + 2, &mut inner);
                    let _ = write!(text, "{pad}- {}", &inner[indent + 2..]);
                } else {
                    let _ = write!(text, "{pad}-");
                    write_behind(item, indent, text);
                }
            }
        }
        other => {
            let _ = writeln!(text, "{pad}{}", inline(other));
        }
    }
}

/// Writes the value of a key, or an item, on its line or below it.
fn write_behind(value: &Value, indent: usize, text: &mut String) {
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            text.push('\n');
            write_at(value, indent + 2, text);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_at(value, indent, text);
        }
        Value::String(lines) if is_block(lines) => {
            // Says whether the last line ends.
            text.push_str(if lines.ends_with('\n') { " |\n" } else { " |-\n" });
            for line in lines.lines() {
                match line {
                    "" => text.push('\n'),
                    line => {
                        let _ = writeln!(text, "{}{line}", " ".repeat(indent + 2));
                    }
                }
            }
        }
        other => {
            let _ = writeln!(text, " {}", inline(other));
        }
    }
}

/// True for a text of lines that a block shows as they are.
fn is_block(text: &str) -> bool {
    let plain = |c: char| c == '\n' || !c.is_control();
    text.contains('\n')
        && !text.starts_with([' ', '\n'])
        && !text.ends_with("\n\n")
        && text.chars().all(plain)
        && text.lines().all(|line| !line.ends_with(' '))
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

/// Text as it stands where that is read as the same text, else in quotes.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./$(){}=,".contains(c);
    let first = |c: char| c.is_ascii_alphabetic() || "-/$".contains(c);
    let stands = text.starts_with(first)
        && !text.starts_with("---")
        && text != "-"
        && text.chars().all(plain)
        && scalar(text, ScalarStyle::Plain) == Value::String(text.to_owned())
        // Of older readers.
        && !["y", "n", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str());
    if stands { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
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
        assert!(wrong("a: &x [*x]").contains("an alias inside of what it stands for in line 1"));
        assert!(!wrong("a: *x").is_empty());
        assert!(wrong("<<: 1").contains("<< of what is no mapping"));
        let tens: String = (1..12)
            .map(|n| format!("a{n}: &a{n} [{}]\n", format!("*a{}, ", n - 1).repeat(10)))
            .collect();
        let bomb = format!("a0: &a0 x\n{tens}");
        assert!(
            wrong(&bomb).contains("aliases that stand for more than 100000 values"),
            "{}",
            wrong(&bomb)
        );
        let deep: String = (1..30)
            .map(|n| format!("a{n}: &a{n} {}*a{}{}\n", "[".repeat(90), n - 1, "]".repeat(90)))
            .collect();
        let deep = format!("a0: &a0 x\n{deep}");
        assert!(wrong(&deep).contains("more than 200 values inside of each other in line 4"));
        assert!(!wrong(&"[".repeat(100_000)).is_empty());
        assert!(!wrong(&"- ".repeat(100_000)).is_empty());
    }

    #[test]
    fn aliases_stand_for_their_values() {
        let text = "a: &all {x: &one 1, y: [2]}\nb: *all\nc: *one\n\
                    d:\n  x: 3\n  <<: *all\n  z: 4\ne: {<<: [{x: 5}, *all], \"<<\": 6}\n";
        let expected = json!({
            "a": { "x": 1, "y": [2] },
            "b": { "x": 1, "y": [2] },
            "c": 1,
            "d": { "x": 3, "y": [2], "z": 4 },
            "e": { "x": 5, "y": [2], "<<": 6 },
        });
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn documents_are_all_there_are() {
        let text = "# nothing\n---\na: 1\n---\n---\n- 2\n...\n";
        assert_eq!(documents(text), Ok(vec![json!({ "a": 1 }), json!([2])]));
        assert_eq!(parse(text), Ok(json!({ "a": 1 })));
    }

    #[test]
    fn what_is_written_reads_back() {
        let value = json!({
            "args": ["--a", "-b", "64", "0.90", "{\"k\": [1]}", "", " x", "a: b", "$(V)", "#c", "-"],
            "block": "one\n  two\n\nthree\n",
            "no end": "one\ntwo",
            "odd": "  one\ntwo\n\n",
            "empty": [{}, [], [[1, 2], { "a": { "b": null } }]],
            "yes": "no",
            "numbers": [1, -2.5, 1e300, true, null],
            "1": "\u{7}é",
        });
        let text = write(&value);
        assert_eq!(parse(&text), Ok(value), "{text}");
    }
}
