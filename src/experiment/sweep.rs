//! The axes of a sweep, and the combinations of their values.

use super::document::{Document, flatten, is_setting};
use super::error::ExperimentError;
use serde::Deserialize;
use toml::Value;

/// The most combinations of one experiment (assumed: days of computing).
const MAX_POINTS: usize = 100_000;

/// Keys that hold for all points, because points are compared seed by seed.
const NOT_SWEPT: [&str; 2] = ["measure.seeds", "measure.levels"];

/// The axis whose values are bundles of settings, each with a name.
pub(super) const VARIANT: &str = "variant";

/// One swept key.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// Dotted key.
    pub(super) key: String,
    /// At least one value, all different.
    pub(super) values: Vec<Value>,
}

/// Evenly spaced numbers, written `{ from = 10, to = 50, step = 10 }`; both ends belong to it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: Value,
    to: Value,
    step: Value,
}

/// The axes of `[sweep]`, checked, in the order written.
pub(super) fn axes(document: &Document) -> Result<Vec<Axis>, ExperimentError> {
    let mut axes: Vec<Axis> = Vec::new();
    let mut points = 1usize;
    for (key, written) in document.sweep() {
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
            _ => return refuse("must be a list like [1, 2] or { from = 1, to = 9, step = 2 }"),
        };
        if values.is_empty() {
            return refuse("must list at least one value");
        }
        points = points.saturating_mul(values.len());
        if points > MAX_POINTS {
            return refuse(&format!("makes more than {MAX_POINTS} points with the other axes"));
        }
        let mut sorted: Vec<String> = values.iter().map(Value::to_string).collect();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse(&format!("lists {} twice", twice[0]));
        }
        axes.push(Axis { key: key.clone(), values });
    }
    Ok(axes)
}

/// What one value of an axis sets, and how a point calls it.
pub(super) fn sets(axis: &Axis, index: usize) -> (Value, Vec<(String, Value)>) {
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

/// Every combination, as one index of a value per axis; the last axis changes fastest.
pub(super) fn combinations(axes: &[Axis]) -> Vec<Vec<usize>> {
    axes.iter().fold(vec![Vec::new()], |shorter, axis| {
        let longer = |indices: &Vec<usize>| {
            let indices = indices.clone();
            (0..axis.values.len()).map(move |index| [indices.as_slice(), &[index]].concat())
        };
        shorter.iter().flat_map(longer).collect()
    })
}

/// The numbers of a range; whole ones if all three are whole.
fn range_values(range: &toml::Table) -> Result<Vec<Value>, String> {
    let wrong = || "must be a list or { from = 1, to = 9, step = 2 } with step above 0 and to not below from";
    let Range { from, to, step } =
        Value::Table(range.clone()).try_into().map_err(|_| wrong().to_owned())?;
    let too_many = || format!("has more than {MAX_POINTS} values");
    if let (Value::Integer(from), Value::Integer(to), Value::Integer(step)) = (&from, &to, &step) {
        if *step < 1 || to < from {
            return Err(wrong().to_owned());
        }
        let count = 1 + (i128::from(*to) - i128::from(*from)) / i128::from(*step);
        let count =
            usize::try_from(count).ok().filter(|&n| n <= MAX_POINTS).ok_or_else(too_many)?;
        let values = std::iter::successors(Some(*from), |value| value.checked_add(*step));
        return Ok(values.take(count).map(Value::Integer).collect());
    }
    let number = |value: &Value| match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(x) => Some(*x).filter(|x| x.is_finite()),
        _ => None,
    };
    let (Some(from), Some(to), Some(step)) = (number(&from), number(&to), number(&step)) else {
        return Err(wrong().to_owned());
    };
    if step <= 0.0 || to < from {
        return Err(wrong().to_owned());
    }
    // A hair more than whole steps, so that 0 to 1 by 0.1 has its last value.
    let steps = ((to - from) / step + 1e-9).floor();
    // The quotient may overflow to infinity.
    if steps.is_nan() || steps >= MAX_POINTS as f64 {
        return Err(too_many());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to MAX_POINTS")]
    let count = 1 + steps as usize;
    // Twelve digits: 0.1 + 2 * 0.1 is 0.3 for people.
    let round = |x: f64| format!("{x:.11e}").parse().unwrap_or(x);
    Ok((0..count).map(|i| Value::Float(round(from + i as f64 * step))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
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
            "from = '1s'\nto = '2s'\nstep = '1s'",
            "from = 1\nto = 2\nstep = 1\nby = 3",
        ] {
            assert!(values(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        /// The combinations are counted in a mixed-radix number system, last digit fastest.
        #[test]
        fn combinations_count_up(lengths in prop::collection::vec(1usize..4, 0..4)) {
            let axis = |&n: &usize| Axis {
                key: String::new(),
                values: vec![Value::Boolean(true); n],
            };
            let axes: Vec<Axis> = lengths.iter().map(axis).collect();
            let all = combinations(&axes);
            prop_assert_eq!(all.len(), lengths.iter().product::<usize>());
            for (number, indices) in all.iter().enumerate() {
                let counted = indices.iter().zip(&lengths).fold(0, |n, (i, length)| n * length + i);
                prop_assert_eq!(counted, number);
            }
        }
    }
}
