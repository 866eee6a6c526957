//! What is wrong, as an exception: the words of the command line, and their parts.

use kv_router_sim::experiment::JournalError;
use kv_router_sim::experiment::explain::ExplainError;
use kv_router_sim::frontier::SearchError;
use kv_router_sim::report::view::published::PublishedError;
use kv_router_sim::results::AgainError;
use kv_router_sim::{
    ExperimentError, Invalid, ReadError, ReportError, RunError, SettingsError, StoreError, Stuck,
};
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::prelude::*;

create_exception!(
    kv_router_sim,
    SimError,
    PyException,
    "What was asked for cannot be done: bad input, mostly. Its text is what the command line\n\
     says. `key`, `value` and `place` say which setting, the value seen and where it was\n\
     given; each is None where there is no such thing."
);

/// Which setting is meant.
#[derive(Default)]
struct Parts {
    key: Option<String>,
    value: Option<String>,
    place: Option<String>,
}

fn error(text: &str, parts: Parts) -> PyErr {
    // One line, whatever a file name or an operating system puts into it.
    let line = text.lines().collect::<Vec<_>>().join(" ");
    Python::attach(|py| {
        let error = SimError::new_err(line);
        let Parts { key, value, place } = parts;
        for (name, part) in [("key", key), ("value", value), ("place", place)] {
            if let Err(error) = error.value(py).setattr(name, part) {
                return error;
            }
        }
        error
    })
}

/// An error of the crate on its way into Python.
pub(crate) trait IntoError {
    fn into_error(self) -> PyErr;
}

/// As a `PyResult`.
pub(crate) trait OrRaise<T> {
    fn or_raise(self) -> PyResult<T>;
}

impl<T, E: IntoError> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> PyResult<T> {
        self.map_err(IntoError::into_error)
    }
}

/// What is wrong, without parts.
pub(crate) fn plain(text: &str) -> PyErr {
    error(text, Parts::default())
}

fn parts_of(wrong: &ExperimentError) -> Parts {
    match wrong {
        ExperimentError::Unreadable { file, .. } => {
            Parts { place: Some(file.display().to_string()), ..Parts::default() }
        }
        ExperimentError::NotUtf8 { place } | ExperimentError::Workload { place, .. } => {
            Parts { place: Some(place.to_string()), ..Parts::default() }
        }
        ExperimentError::AtPoint { source, .. } => parts_of(source),
        ExperimentError::Override { argument, .. } => {
            Parts { place: Some(argument.clone()), ..Parts::default() }
        }
        ExperimentError::Settings(wrong) => {
            let (key, value) = match wrong {
                SettingsError::UnknownKey { key, .. } | SettingsError::Missing { key, .. } => {
                    (Some(key.clone()), None)
                }
                SettingsError::Value { key, value, .. } => (Some(key.clone()), Some(value.clone())),
                _ => (None, None),
            };
            Parts { key, value, place: Some(wrong.place().to_string()) }
        }
        _ => Parts::default(),
    }
}

impl IntoError for ExperimentError {
    fn into_error(self) -> PyErr {
        error(&self.to_string(), parts_of(&self))
    }
}

impl IntoError for Invalid {
    fn into_error(self) -> PyErr {
        let text = self.to_string();
        error(&text, Parts { key: Some(self.key), value: Some(self.value), place: None })
    }
}

/// The arguments that lead out of an error, after what the crate says.
fn way_out_of_store(wrong: &StoreError) -> &'static str {
    match wrong {
        StoreError::Unwritable { .. } => "; choose another folder with out=",
        StoreError::OtherResults { .. } | StoreError::Taken { .. } | StoreError::Foreign { .. } => {
            "; choose another folder with out=, or overwrite them with force=True"
        }
        StoreError::OtherJournal { .. } => {
            "; finish that one, choose another folder with out=, or discard it with force=True"
        }
        StoreError::Busy { .. } => "; wait for it, or choose another folder with out=",
        _ => "",
    }
}

impl IntoError for StoreError {
    fn into_error(self) -> PyErr {
        plain(&format!("{self}{}", way_out_of_store(&self)))
    }
}

impl IntoError for JournalError {
    fn into_error(self) -> PyErr {
        plain(&self.to_string())
    }
}

impl IntoError for RunError {
    fn into_error(self) -> PyErr {
        match self {
            Self::Stopped => PyKeyboardInterrupt::new_err(()),
            Self::Journal(wrong) => wrong.into_error(),
            Self::Threads { .. } => plain(&format!("{self}; use fewer jobs=")),
            wrong => plain(&wrong.to_string()),
        }
    }
}

impl IntoError for ReadError {
    fn into_error(self) -> PyErr {
        let hint = match self {
            Self::Unreadable { .. } => {
                "; name a folder that a run of this version with out= has finished"
            }
            _ => "",
        };
        plain(&format!("{self}{hint}"))
    }
}

impl IntoError for ReportError {
    fn into_error(self) -> PyErr {
        match self {
            Self::Metric(wrong) => wrong.into_error(),
            Self::Store(wrong) => wrong.into_error(),
            wrong => plain(&wrong.to_string()),
        }
    }
}

impl IntoError for ExplainError {
    fn into_error(self) -> PyErr {
        let hint = match self {
            Self::Ambiguous { .. } => "; policy= and at= choose",
            _ => "",
        };
        plain(&format!("{self}{hint}"))
    }
}

impl IntoError for AgainError {
    fn into_error(self) -> PyErr {
        match self {
            Self::Experiment(wrong) => wrong.into_error(),
            Self::Explain(wrong) => wrong.into_error(),
            Self::Store(wrong) => wrong.into_error(),
            wrong => plain(&wrong.to_string()),
        }
    }
}

impl IntoError for SearchError {
    fn into_error(self) -> PyErr {
        match self {
            Self::Asked(wrong) => wrong.into_error(),
            Self::Experiment(wrong) => wrong.into_error(),
            Self::Run(wrong) => wrong.into_error(),
        }
    }
}

impl IntoError for PublishedError {
    fn into_error(self) -> PyErr {
        plain(&self.to_string())
    }
}

impl IntoError for Stuck {
    fn into_error(self) -> PyErr {
        plain(&self.to_string())
    }
}
