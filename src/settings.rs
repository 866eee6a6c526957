//! Building blocks for settings that people write: tables that are merged and know
//! where each key was given ([`Sheet`]), values with units, and the one shape of
//! "this value will not do".
//!
//! Every module that has settings owns a `Deserialize` struct with
//! `deny_unknown_fields` and a `validate` that returns [`Invalid`]; the sheet that
//! it was read from adds file, line and section to it.

mod place;
mod read;
mod sheet;
pub(crate) mod yaml;

pub use place::{Place, SettingsError};
pub(crate) use read::join;
pub use sheet::Sheet;
pub(crate) use sheet::{is_inside, offsets};

use crate::time::{PS_PER_SECOND, SimDuration};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// What [`Invalid`] shows as the value of a key that is not given.
pub const NOTHING: &str = "nothing";

/// A setting with a value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: must be {allowed}")]
pub struct Invalid {
    /// Dotted key, relative to the section that was validated.
    pub key: String,
    /// The value seen.
    pub value: String,
    /// The values allowed, and the way out if it is not obvious.
    pub allowed: String,
}

impl Invalid {
    /// Names the key, the value seen and the values allowed.
    pub fn new(
        key: impl Into<String>,
        value: impl fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }

    /// The same problem seen from the section `prefix`.
    pub fn within(mut self, prefix: &str) -> Self {
        self.key = format!("{prefix}.{}", self.key);
        self
    }

    /// `Err` unless `ok`.
    pub fn unless(
        ok: bool,
        key: &str,
        value: impl fmt::Display,
        allowed: &str,
    ) -> Result<(), Self> {
        if ok { Ok(()) } else { Err(Self::new(key, value, allowed)) }
    }

    /// `Err` unless `value` is finite and not below `min`.
    pub fn unless_at_least(key: &str, value: f64, min: f64) -> Result<(), Self> {
        Self::unless(
            value.is_finite() && value >= min,
            key,
            value,
            &format!("a finite number of at least {min}"),
        )
    }
}

/// The line of `text`, from 1, in which the byte at `offset` is.
pub(crate) fn line_of(text: impl AsRef<[u8]>, offset: usize) -> usize {
    let text = text.as_ref();
    1 + text[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}

/// As text for people: strings without quotes.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The number a value stands for, and whether it is a duration (in milliseconds).
pub fn number(value: &Value) -> Option<(f64, bool)> {
    match value {
        Value::Number(n) => n.as_f64().map(|n| (n, false)),
        Value::String(text) => parse_duration(text)
            .map(|d| (d.as_millis(), true))
            .or_else(|_| parse_count(text).map(|n| (f64::from(n), false)))
            .ok(),
        _ => None,
    }
}

/// A number as people would write it, with twelve digits: `0.1 + 2 * 0.1` is 0.3.
pub(crate) fn twelve_digits(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

/// True for values that mean the same: `60` and `60.0`, `"1s"` and `"1000ms"`.
pub fn same(a: &Value, b: &Value) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Parses a share: `0.2` or `20%`; `None` of what is no number.
pub fn parse_share(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let number = number.trim().parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some(number / whole)
}

/// What a duration looks like, for messages.
const DURATION: &str =
    "a duration with its unit, like \"300s\", \"12ms\", \"50us\", \"2min\" or \"1h\"";

/// Parses `"300s"`, `"12ms"`, `"1.5us"`, `"2min"`, `"1h"`; a bare number has no unit and is refused.
pub fn parse_duration(text: &str) -> Result<SimDuration, String> {
    let allowed = DURATION;
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit_ps: u64 = match unit {
        "ns" => 1_000,
        "us" => 1_000_000,
        "ms" => 1_000_000_000,
        "s" => PS_PER_SECOND,
        "min" => 60 * PS_PER_SECOND,
        "h" => 3_600 * PS_PER_SECOND,
        _ => return Err(format!("{text:?} is not {allowed}")),
    };
    let digits = number.trim().replace('_', "");
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not {allowed}"))?;
    let seconds = number * unit_ps as f64 / PS_PER_SECOND as f64;
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(format!("{text:?} is not {allowed}, and not negative"));
    }
    // 213 days fit into the clock; stay far away from its end.
    if seconds > 86_400.0 * 100.0 {
        return Err(format!(
            "{text:?} is longer than 100 days, the longest that a simulation may last"
        ));
    }
    let exact = exact_ps(&digits, unit_ps).map(SimDuration::from_ps);
    Ok(exact.unwrap_or_else(|| SimDuration::from_secs_f64(seconds)))
}

/// A duration as a person writes it, in quotes: whole hours or minutes, else as a decimal of
/// the largest unit of which it is one or more. [`parse_duration`] reads the same time from it.
pub fn duration_text(time: SimDuration) -> String {
    const WHOLE: [(&str, u64); 2] = [("h", 3_600 * PS_PER_SECOND), ("min", 60 * PS_PER_SECOND)];
    const DECIMAL: [(&str, usize); 4] = [("s", 12), ("ms", 9), ("us", 6), ("ns", 3)];
    let ps = time.as_ps();
    if ps == 0 {
        return "\"0s\"".to_owned();
    }
    if let Some((name, unit)) = WHOLE.iter().find(|(_, unit)| ps.is_multiple_of(*unit)) {
        return format!("\"{}{name}\"", ps / unit);
    }
    let digits = format!("{ps:013}");
    let fits = |(_, places): &&(&str, usize)| digits.trim_start_matches('0').len() > *places;
    let (name, places) = DECIMAL.iter().find(fits).copied().unwrap_or(("ns", 3));
    let (whole, fraction) = digits.split_at(digits.len() - places);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let number = format!("{whole}.{fraction}");
    format!("\"{}{name}\"", number.trim_end_matches('0').trim_end_matches('.'))
}

/// Whole picoseconds of a plain decimal number, to the nearest one; a float would
/// lose some of them after hours. `None` for numbers that are written otherwise.
fn exact_ps(digits: &str, unit_ps: u64) -> Option<u64> {
    const MOST_PLACES: usize = 18;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() > MOST_PLACES || !is_plain(whole) || !is_plain(fraction) {
        return None;
    }
    let parse = |part: &str| if part.is_empty() { Some(0) } else { part.parse::<u128>().ok() };
    let one = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let units = parse(whole)?.checked_mul(one)?.checked_add(parse(fraction)?)?;
    let ps = units.checked_mul(u128::from(unit_ps))?.checked_add(one / 2)? / one;
    u64::try_from(ps).ok()
}

impl<'de> Deserialize<'de> for SimDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DurationVisitor;
        impl Visitor<'_> for DurationVisitor {
            type Value = SimDuration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DURATION)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<SimDuration, E> {
                parse_duration(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(DurationVisitor)
    }
}

impl JsonSchema for SimDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": DURATION,
            "type": "string",
            "pattern": r"^\s*\+?[0-9_]*\.?[0-9_]*\s*(ns|us|ms|s|min|h)\s*$",
        })
    }
}

impl Serialize for SimDuration {
    /// Nanoseconds as a decimal with the unit, exact to the picosecond.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (ns, ps) = (self.as_ps() / 1_000, self.as_ps() % 1_000);
        let fraction = format!(".{ps:03}");
        let fraction = if ps == 0 { "" } else { fraction.trim_end_matches('0') };
        serializer.collect_str(&format_args!("{ns}{fraction}ns"))
    }
}

/// What [`count`] reads, for schemas.
#[derive(Debug)]
pub struct Count;

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": COUNT,
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": u32::MAX },
                { "type": "string", "pattern": r"^\s*[0-9_]+(k|Ki|M|Mi)?\s*$" },
            ]
        })
    }
}

/// What a count looks like, for messages.
const COUNT: &str = "a count like 16384 or \"16k\", at most 4294967295";

/// Reads a count: `16384`, `16_384` or `"16k"` (k = 1,000, Ki = 1,024, M, Mi).
/// Use as `#[serde(deserialize_with = "settings::count")]`.
pub fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct CountVisitor;
    impl Visitor<'_> for CountVisitor {
        type Value = u32;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(COUNT)
        }
        fn visit_u64<E: Error>(self, v: u64) -> Result<u32, E> {
            u32::try_from(v).map_err(|_| E::custom(format!("{v} is more than 4294967295")))
        }
        fn visit_i64<E: Error>(self, v: i64) -> Result<u32, E> {
            u32::try_from(v).map_err(|_| E::custom(format!("{v} is not between 0 and 4294967295")))
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
            parse_count(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(CountVisitor)
}

/// As [`count`], for a key that may be absent.
pub fn count_option<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    count(deserializer).map(Some)
}

/// Parses `"16k"` and the like; see [`count`].
pub fn parse_count(text: &str) -> Result<u32, String> {
    let trimmed = text.trim().replace('_', "");
    let split = trimmed.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let scale: u64 = match unit {
        "" => 1,
        "k" => 1_000,
        "Ki" => 1_024,
        "M" => 1_000_000,
        "Mi" => 1_048_576,
        _ => return Err(format!("{text:?} has an unknown unit: use k, Ki, M or Mi")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(scale))
        .and_then(|n| u32::try_from(n).ok())
        .ok_or_else(|| format!("{text:?} is not a whole number between 0 and 4294967295"))
}

/// The valid name nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let far = (name.chars().count() / 3).max(2) + 1;
    let valid: Vec<&str> = valid.into_iter().collect();
    if let Some(same) = valid.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        return Some(same);
    }
    valid
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance < far)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near() {
        let valid = ["turns", "starters", "think_time"];
        assert_eq!(nearest("turn", valid), Some("turns"));
        assert_eq!(nearest("thinktime", valid), Some("think_time"));
        assert_eq!(nearest("concurrency", valid), None);
        assert_eq!(nearest("KV", ["rr", "kv"]), Some("kv"));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("300s"), Ok(SimDuration::from_secs(300)));
        assert_eq!(parse_duration(" 1.5ms"), Ok(SimDuration::from_micros(1_500)));
        for bad in ["5", "", "-1s", "NaNs", "infs", "1e300s", "1 fortnight", "s", "101e0h h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_exact_to_the_picosecond() {
        for (text, ps) in [
            ("8639999999999999.999ns", 8_639_999_999_999_999_999),
            ("1234567.890123456789s", 1_234_567_890_123_456_789),
            ("0.0004ns", 0),
            (".0005ns", 1),
        ] {
            assert_eq!(parse_duration(text).map(SimDuration::as_ps), Ok(ps), "{text}");
        }
        let day = SimDuration::from_ps(86_400_000_000_000_001);
        assert_eq!(serde_json::to_value(day).unwrap(), "86400000000000.001ns");
    }

    #[test]
    fn durations_are_written_in_their_largest_unit() {
        let texts = "1h 90min 1.4s 300ms 1.5ms 7us 1ns 0.5ns 0s 59s 37.927000000001s 120.5s";
        for text in texts.split(' ') {
            let time = parse_duration(text).unwrap();
            assert_eq!(duration_text(time), format!("\"{text}\""));
        }
        assert_eq!(duration_text(SimDuration::from_secs(300)), "\"5min\"");
        assert_eq!(duration_text(SimDuration::from_secs(3_600 * 48)), "\"48h\"");
    }

    #[test]
    fn counts_take_units_and_do_not_overflow() {
        assert_eq!(parse_count("16k"), Ok(16_000));
        assert_eq!(parse_count("16Ki"), Ok(16_384));
        assert_eq!(parse_count("1_000"), Ok(1_000));
        for bad in ["-1", "5000M", "99999999999999999999", "1.5", "k", ""] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }
}
