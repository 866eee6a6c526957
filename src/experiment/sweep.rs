//! The axes of a sweep, and the combinations of their values.

use super::axis::VARIANT;
use super::document::{Document, flatten, is_setting};
use super::error::ExperimentError;
use crate::settings::{parse_duration, twelve_digits};
use serde::Deserialize;
use toml::Value;

/// The most combinations of one experiment (assumed: days of computing).
const MAX_POINTS: usize = 100_000;

/// Keys that hold for all points, because points are compared seed by seed.
const NOT_SWEPT: [&str; 2] = ["measure.seeds", "measure.levels"];

/// The key of `[sweep]` that lists the axes whose values go together.
pub(super) const PAIRED: &str = "paired";

/// What an axis looks like, for messages.
const FORMS: &str =
    "must be a list, { from = 1, to = 9, step = 2 } or { from = 1, to = 64, factor = 2 }";

/// One swept key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SweptKey {
    /// Dotted key.
    pub(super) key: String,
    /// At least one value, all different unless paired.
    pub(super) values: Vec<Value>,
    /// True if it moves together with all other paired axes.
    pub(super) is_paired: bool,
}

/// Numbers or durations at even distances (`step`) or ratios (`factor`); both
/// ends belong to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: Value,
    to: Value,
    step: Option<Value>,
    factor: Option<Value>,
}

/// The axes of `[sweep]`, checked, in the order written.
pub(super) fn axes(document: &Document) -> Result<Vec<SweptKey>, ExperimentError> {
    let mut axes: Vec<SweptKey> = Vec::new();
    for (key, written) in document.sweep().iter().filter(|(key, _)| key != PAIRED) {
        let refuse =
            |problem: &str| Err(document.value_error(&format!("sweep.{key}"), written, problem));
        if key == VARIANT {
            if let Err(problem) = check_variants(written, document) {
                return refuse(&problem);
            }
        } else if !is_setting(key) {
            return refuse(
                "swept keys are settings in cluster, engine, router, workload, measure or slo, \
                 like workload.concurrency",
            );
        }
        if NOT_SWEPT.contains(&key.as_str()) {
            return refuse("cannot be swept: it holds for all points");
        }
        let overlaps = |other: &str| {
            let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('.'));
            other == key || inside(other, key) || inside(key, other)
        };
        if let Some(other) = axes.iter().find(|axis| overlaps(&axis.key)) {
            return refuse(&format!("overlaps with the sweep over {}", other.key));
        }
        let values = match written {
            Value::Array(values) => values.clone(),
            Value::Table(range) => match range_values(range) {
                Ok(values) => values,
                Err(problem) => return refuse(&problem),
            },
            _ => return refuse(FORMS),
        };
        if values.is_empty() {
            return refuse("must list at least one value");
        }
        axes.push(SweptKey { key: key.clone(), values, is_paired: false });
    }
    pair(document, &mut axes)?;
    let twice = |axis: &&SweptKey| !axis.is_paired && repeated(&axis.values).is_some();
    if let Some(axis) = axes.iter().find(twice) {
        let problem = format!("lists {} twice", repeated(&axis.values).unwrap_or_default());
        return Err(refused(document, &axis.key, &problem));
    }
    let mut points = 1usize;
    for axis in independent(&axes) {
        points = points.saturating_mul(axis.values.len());
        if points > MAX_POINTS {
            let problem = format!("makes more than {MAX_POINTS} points with the other axes");
            return Err(refused(document, &axis.key, &problem));
        }
    }
    Ok(axes)
}

/// What one value of an axis sets, and how a point calls it.
pub(super) fn sets(axis: &SweptKey, index: usize) -> (Value, Vec<(String, Value)>) {
    let value = &axis.values[index];
    match value {
        Value::Table(bundle) if axis.key == VARIANT => {
            let name = bundle.get("name").cloned().unwrap_or(Value::String(String::new()));
            (name, settings(bundle))
        }
        value => (value.clone(), vec![(axis.key.clone(), value.clone())]),
    }
}

/// The settings of a variant by dotted key.
fn settings(bundle: &toml::Table) -> Vec<(String, Value)> {
    let mut settings = Vec::new();
    flatten("", bundle.clone(), &mut settings);
    settings.retain(|(key, _)| key != "name");
    settings
}

/// `variant` is a list of tables, each with a name of its own and settings.
fn check_variants(written: &Value, document: &Document) -> Result<(), String> {
    let example = "like { name = \"cold\", \"router.overlap_weight\" = 0.0 }";
    let shape = || format!("must be a list of tables with a name and settings, {example}");
    let mut names = Vec::new();
    for bundle in written.as_array().ok_or_else(shape)? {
        let bundle = bundle.as_table().ok_or_else(shape)?;
        let name = bundle.get("name").and_then(Value::as_str).ok_or_else(shape)?;
        if names.contains(&name) {
            return Err(format!("has two variants of the name {name:?}"));
        }
        names.push(name);
        for (key, _) in settings(bundle) {
            if !is_setting(&key) {
                return Err(format!(
                    "variant {name:?} sets {key}, which is no setting; write {example}"
                ));
            }
            if NOT_SWEPT.contains(&key.as_str()) {
                return Err(format!("variant {name:?} sets {key}, which holds for all points"));
            }
            if document.sweep().iter().any(|(axis, _)| *axis == key) {
                return Err(format!("variant {name:?} sets {key}, which is swept beside it"));
            }
        }
    }
    Ok(())
}

/// Marks the axes that `sweep.paired` lists.
fn pair(document: &Document, axes: &mut [SweptKey]) -> Result<(), ExperimentError> {
    let Some((_, written)) = document.sweep().iter().find(|(key, _)| key == PAIRED) else {
        return Ok(());
    };
    let refuse = |problem: &str| Err(document.value_error("sweep.paired", written, problem));
    let listed = written.as_array().map(Vec::as_slice).unwrap_or_default();
    let keys: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    if keys.len() != listed.len() || keys.len() < 2 {
        return refuse(
            "must list two or more swept keys, like [\"router.overlap_weight\", \"router.temperature\"]",
        );
    }
    let mut length: Option<(String, usize)> = None;
    for key in keys {
        let Some(axis) = axes.iter_mut().find(|axis| axis.key == key) else {
            return refuse(&format!("{key} is not swept"));
        };
        let values = axis.values.len();
        axis.is_paired = true;
        match &length {
            Some((other, wanted)) if *wanted != values => {
                return refuse(&format!(
                    "paired axes need the same number of values: {other} has {wanted}, {key} has \
                     {values}"
                ));
            }
            _ => length = Some((key.to_owned(), values)),
        }
    }
    Ok(())
}

fn refused(document: &Document, key: &str, problem: &str) -> ExperimentError {
    let written = document.sweep().iter().find(|(swept, _)| swept == key);
    let written = written.map_or(Value::Boolean(false), |(_, written)| written.clone());
    document.value_error(&format!("sweep.{key}"), &written, problem)
}

fn repeated(values: &[Value]) -> Option<String> {
    let mut sorted: Vec<String> = values.iter().map(Value::to_string).collect();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone())
}

/// The axes that move by themselves: of the paired ones the first speaks for all.
fn independent(axes: &[SweptKey]) -> impl Iterator<Item = &SweptKey> {
    let mut has_pair = false;
    axes.iter().filter(move |axis| {
        let follows = axis.is_paired && has_pair;
        has_pair |= axis.is_paired;
        !follows
    })
}

/// Every combination, as one index of a value per axis; the last axis changes
/// fastest, paired axes at the place of the first of them.
pub(super) fn combinations(axes: &[SweptKey]) -> Vec<Vec<usize>> {
    let leader = axes.iter().position(|axis| axis.is_paired);
    axes.iter().enumerate().fold(vec![Vec::new()], |shorter, (place, axis)| {
        let longer = |indices: &Vec<usize>| -> Vec<Vec<usize>> {
            let with = |index: usize| [indices.as_slice(), &[index]].concat();
            match leader.filter(|&leader| axis.is_paired && leader < place) {
                Some(leader) => vec![with(indices[leader])],
                None => (0..axis.values.len()).map(with).collect(),
            }
        };
        shorter.iter().flat_map(longer).collect()
    })
}

/// The values of a range: whole numbers if all three of its numbers are whole,
/// durations in milliseconds if both ends are durations.
fn range_values(range: &toml::Table) -> Result<Vec<Value>, String> {
    let wrong = || format!("{FORMS}, with to not below from, step above 0, factor above 1");
    let Range { from, to, step, factor } =
        Value::Table(range.clone()).try_into().map_err(|_| wrong())?;
    if let (Value::Integer(from), Value::Integer(to), Some(Value::Integer(step)), None) =
        (&from, &to, &step, &factor)
    {
        return whole_steps(*from, *to, *step).ok_or_else(wrong)?;
    }
    let is_whole = [Some(&from), Some(&to), factor.as_ref()]
        .iter()
        .all(|value| value.is_some_and(Value::is_integer));
    let is_duration = from.is_str();
    let (Some(from), Some(to)) = (number(&from, is_duration), number(&to, is_duration)) else {
        return Err(wrong());
    };
    let (count, value): (f64, Box<dyn Fn(f64) -> f64>) = match (&step, &factor) {
        (Some(step), None) => {
            let step = number(step, is_duration).filter(|step| *step > 0.0).ok_or_else(wrong)?;
            ((to - from) / step, Box::new(move |i| from + i * step))
        }
        (None, Some(factor)) => {
            let factor = number(factor, false).filter(|factor| *factor > 1.0).ok_or_else(wrong)?;
            if from <= 0.0 {
                return Err(wrong());
            }
            ((to / from).ln() / factor.ln(), Box::new(move |i| from * factor.powf(i)))
        }
        _ => return Err(wrong()),
    };
    if to < from {
        return Err(wrong());
    }
    // A hair more than whole steps, so that 0 to 1 by 0.1 has its last value.
    // The quotient may overflow to infinity.
    let steps = (count + 1e-9).floor();
    if steps.is_nan() || steps >= MAX_POINTS as f64 {
        return Err(too_many());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to MAX_POINTS")]
    let count = 1 + steps as usize;
    let show = |x: f64| match twelve_digits(x) {
        x if is_duration => Value::String(format!("{x}ms")),
        #[expect(clippy::cast_possible_truncation, reason = "whole, and not above `to`")]
        x if is_whole => Value::Integer(x.round() as i64),
        x => Value::Float(x),
    };
    Ok((0..count).map(|i| show(value(i as f64))).collect())
}

/// A range of whole numbers; `None` if it does not go up.
fn whole_steps(from: i64, to: i64, step: i64) -> Option<Result<Vec<Value>, String>> {
    if step < 1 || to < from {
        return None;
    }
    let count = 1 + (i128::from(to) - i128::from(from)) / i128::from(step);
    let count = match usize::try_from(count).ok().filter(|&n| n <= MAX_POINTS) {
        Some(count) => count,
        None => return Some(Err(too_many())),
    };
    let values = std::iter::successors(Some(from), |value| value.checked_add(step));
    Some(Ok(values.take(count).map(Value::Integer).collect()))
}

fn too_many() -> String {
    format!("has more than {MAX_POINTS} values")
}

/// A finite number, or the milliseconds of a duration.
fn number(value: &Value, is_duration: bool) -> Option<f64> {
    match value {
        Value::String(text) if is_duration => parse_duration(text).ok().map(|d| d.as_millis()),
        Value::Integer(n) if !is_duration => Some(*n as f64),
        Value::Float(x) if !is_duration => Some(*x).filter(|x| x.is_finite()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::axis::typed;
    use proptest::prelude::*;

    fn values(range: &str) -> Result<Vec<Value>, String> {
        range_values(&range.parse().expect("TOML"))
    }

    #[test]
    fn ranges_hold_both_ends_and_read_well() {
        let whole: Vec<Value> = [60, 80, 100].map(Value::Integer).to_vec();
        assert_eq!(values("from = 60\nto = 100\nstep = 20"), Ok(whole.clone()));
        assert_eq!(values("from = 60\nto = 119\nstep = 20"), Ok(whole));
        let tenths = values("from = 0\nto = 1\nstep = 0.1").expect("a range");
        let text: Vec<String> = tenths.iter().map(Value::to_string).collect();
        assert_eq!(text.join(" "), "0.0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1.0");
    }

    #[test]
    fn bad_ranges_are_refused() {
        for bad in [
            "from = 1\nto = 2",
            "from = 1\nto = 2\nstep = 0",
            "from = 1\nto = 2\nstep = -1",
            "from = 2\nto = 1\nstep = 1",
            "from = 1\nto = inf\nstep = 1",
            "from = nan\nto = 1.0\nstep = 1",
            "from = 0\nto = 1e300\nstep = 1e-300",
            "from = -9223372036854775808\nto = 9223372036854775807\nstep = 1",
            "from = '1s'\nto = '2s'\nstep = 1",
            "from = 1\nto = '2s'\nstep = 1",
            "from = 0\nto = 8\nfactor = 2",
            "from = 1\nto = 8\nfactor = 1",
            "from = 1\nto = 8\nfactor = 2\nstep = 1",
            "from = 1\nto = 2\nstep = 1\nby = 3",
        ] {
            assert!(values(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_by_ratio_and_of_times() {
        let text = |range: &str| -> String {
            let values = values(range).expect("a range");
            values.iter().map(Value::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text("from = 8\nto = 512\nfactor = 2"), "8 16 32 64 128 256 512");
        assert_eq!(text("from = 0.1\nto = 100\nfactor = 10"), "0.1 1.0 10.0 100.0");
        assert_eq!(text("from = '0s'\nto = '1s'\nstep = '500ms'"), r#""0ms" "500ms" "1000ms""#);
        assert_eq!(
            text("from = '1ms'\nto = '1s'\nfactor = 10"),
            r#""1ms" "10ms" "100ms" "1000ms""#
        );
    }

    #[test]
    fn axes_are_typed_as_lists_and_ranges() {
        let shown = |text: &str| typed(text).to_string();
        assert_eq!(shown("0,0.5, 1"), "[0, 0.5, 1]");
        assert_eq!(shown("kv,round_robin"), r#"["kv", "round_robin"]"#);
        assert_eq!(shown("../a.toml,../b.toml"), r#"["../a.toml", "../b.toml"]"#);
        assert_eq!(typed("60..180:20"), typed_range("from = 60\nto = 180\nstep = 20"));
        assert_eq!(typed("8..512:x2"), typed_range("from = 8\nto = 512\nfactor = 2"));
        assert_eq!(typed("0s..1s:100ms"), typed_range("from = '0s'\nto = '1s'\nstep = '100ms'"));
        assert_eq!(typed("1..2"), typed_range("from = 1\nto = 2"));
    }

    fn typed_range(text: &str) -> Value {
        Value::Table(text.parse().expect("TOML"))
    }

    #[test]
    fn paired_axes_move_together() {
        let axis = |n: usize, is_paired: bool| SweptKey {
            key: String::new(),
            values: vec![Value::Boolean(true); n],
            is_paired,
        };
        assert_eq!(
            combinations(&[axis(2, true), axis(2, false), axis(2, true)]),
            [[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]]
        );
    }

    proptest! {
        /// The combinations are counted in a mixed-radix number system, last digit fastest.
        #[test]
        fn combinations_count_up(lengths in prop::collection::vec(1usize..4, 0..4)) {
            let axis = |&n: &usize| SweptKey {
                key: String::new(),
                values: vec![Value::Boolean(true); n],
                is_paired: false,
            };
            let axes: Vec<SweptKey> = lengths.iter().map(axis).collect();
            let all = combinations(&axes);
            prop_assert_eq!(all.len(), lengths.iter().product::<usize>());
            for (number, indices) in all.iter().enumerate() {
                let counted = indices.iter().zip(&lengths).fold(0, |n, (i, length)| n * length + i);
                prop_assert_eq!(counted, number);
            }
        }
    }
}
