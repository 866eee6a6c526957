//! Python's values as those of experiments, and JSON as Python's values.

use crate::errors::plain;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyDelta, PyDeltaAccess, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple,
};
use serde_json::Value as Json;
use toml::Value as Toml;

/// The key whose value may itself be a list of plain values: every other list sweeps.
const LISTS: [&str; 1] = ["measure.seeds"];

/// A value as TOML. NumPy's and pandas' scalars and arrays count as Python's, a
/// `timedelta` as a duration, a policy class as its name, a path as text.
pub(crate) fn to_toml(value: &Bound<'_, PyAny>) -> PyResult<Toml> {
    if let Ok(value) = value.cast::<PyBool>() {
        return Ok(Toml::Boolean(value.is_true()));
    }
    if value.is_instance_of::<PyInt>() {
        let whole = value.extract::<i64>();
        return whole
            .map(Toml::Integer)
            .map_err(|_| plain(&format!("{value}: must be a whole number of 64 bits")));
    }
    if let Ok(value) = value.cast::<PyFloat>() {
        return Ok(Toml::Float(value.value()));
    }
    if let Ok(value) = value.cast::<PyString>() {
        return Ok(Toml::String(value.to_str()?.to_owned()));
    }
    if value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>() {
        let items = value.try_iter()?.map(|item| to_toml(&item?));
        return Ok(Toml::Array(items.collect::<PyResult<_>>()?));
    }
    if let Ok(table) = value.cast::<PyDict>() {
        let pair = |(key, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            Ok((key.extract::<String>()?, to_toml(&value)?))
        };
        return Ok(Toml::Table(table.iter().map(pair).collect::<PyResult<_>>()?));
    }
    if let Ok(time) = value.cast::<PyDelta>() {
        let whole = i64::from(time.get_days()) * 86_400 + i64::from(time.get_seconds());
        return Ok(Toml::String(format!("{whole}.{:06}s", time.get_microseconds())));
    }
    if value.hasattr("route")? && value.hasattr("__qualname__")? {
        let named =
            value.py().import("kv_router_sim._policies")?.call_method1("name_of", (value,))?;
        return Ok(Toml::String(named.extract()?));
    }
    for plainer in ["tolist", "__fspath__"] {
        if value.hasattr(plainer)? {
            return to_toml(&value.call_method0(plainer)?);
        }
    }
    if value.hasattr("__iter__")? {
        return to_toml(
            PyList::new(value.py(), value.try_iter()?.collect::<PyResult<Vec<_>>>()?)?.as_any(),
        );
    }
    Err(PyTypeError::new_err(format!(
        "{} is no value of an experiment: numbers, texts, booleans, timedeltas, lists and \
         dictionaries are",
        value.repr()?
    )))
}

/// `KEY=VALUE` as the command line takes it. A list of plain values sweeps its key.
pub(crate) fn setting(key: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    let value = to_toml(value)?;
    let sweeps = match &value {
        Toml::Array(items) => {
            let are_tables = !items.is_empty() && items.iter().all(Toml::is_table);
            !(are_tables || key.starts_with("sweep.") || LISTS.contains(&key))
        }
        _ => false,
    };
    let text = match &value {
        // As it is typed, where that cannot be read as anything else.
        Toml::String(text) if is_plain(text) => text.clone(),
        value => value.to_string(),
    };
    let sweep = if sweeps { "sweep." } else { "" };
    Ok(format!("{sweep}{key}={text}"))
}

fn is_plain(text: &str) -> bool {
    let trimmed = text.trim() == text && !text.is_empty() && !text.contains(['\n', '\r', ',']);
    trimmed && text.parse::<Toml>().is_err()
}

/// JSON as Python's values.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &Json) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Json::Null => py.None().into_bound(py),
        Json::Bool(value) => PyBool::new(py, *value).to_owned().into_any(),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => whole.into_pyobject(py)?.into_any(),
            (None, Some(whole)) => whole.into_pyobject(py)?.into_any(),
            (None, None) => number.as_f64().into_pyobject(py)?.into_any(),
        },
        Json::String(text) => text.into_pyobject(py)?.into_any(),
        Json::Array(items) => {
            let items = items.iter().map(|item| to_python(py, item));
            PyList::new(py, items.collect::<PyResult<Vec<_>>>()?)?.into_any()
        }
        Json::Object(table) => {
            let dict = PyDict::new(py);
            for (key, value) in table {
                dict.set_item(key, to_python(py, value)?)?;
            }
            dict.into_any()
        }
    })
}
