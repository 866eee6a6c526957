//! What is imported, what becomes of it, and why something is not.

use crate::catalogue::{self, Kind};
use crate::engine::model::ModelError;
use crate::workload::trace::{Columns, TimeUnit};
use std::fmt;
use std::path::PathBuf;

/// A file that is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// What it is called in comments and messages.
    pub name: String,
    /// The folder that it is in, which only a network's `config.json` is read from again.
    pub folder: PathBuf,
    /// Its content.
    pub text: String,
}

/// A log of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its path, from the folder of the experiment.
    pub path: String,
    /// Which columns say what, of one in no known format.
    pub columns: Option<Columns>,
    /// What its times count, where the file does not say so.
    pub time_unit: Option<TimeUnit>,
    /// Tokens that an id of its blocks stands for, where the file does not say so.
    pub block_tokens: Option<u32>,
    /// The path of the `tokenizer.json` that makes tokens of its texts, if it holds texts.
    pub tokenizer: Option<String>,
}

/// What is imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The name of the experiment.
    pub name: String,
    /// Manifests, files of options, a network's `config.json`.
    pub files: Vec<Source>,
    /// A line of a shell that starts an engine.
    pub command: Option<String>,
    /// How many workers run such a line; 1 where nothing is said.
    pub workers: Option<u32>,
    /// A log of requests, which is the load.
    pub log: Option<Log>,
    /// The GPU, where no manifest says which one: a name of the catalogue.
    pub gpu: Option<String>,
}

/// An experiment made of what was imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The experiment, with comments.
    pub experiment: String,
    /// Files that it names, by name, to lie beside it.
    pub files: Vec<(String, String)>,
    /// What was read, a line for each pool and for the router.
    pub read: Vec<String>,
    /// What was given and is not used, a line each.
    pub unused: Vec<String>,
}

/// Something that was given and is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    /// As written.
    pub(super) shown: String,
    pub(super) why: Why,
}

/// Why something is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has no effect on the simulation.
    NoEffect,
    /// Its effect is not modelled, and why the real fleet may differ.
    NotModelled(String),
    /// It is not known.
    Unknown,
    /// It leaves the choice to the engine.
    Default,
    /// Another one wins.
    Overridden,
    /// A document of another kind.
    Document,
    /// A component that runs no engine and no router.
    NoEngine,
    /// A file that no component takes.
    NotTaken,
}

impl Remark {
    pub(super) fn new(shown: &str, why: Why) -> Self {
        // One line, of a length that can be read.
        let line = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = match line.char_indices().nth(MOST_SHOWN) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        };
        Self { shown, why }
    }

    /// Many things for one reason: each is named, in lines that can be read and begin with
    /// `start`.
    pub(super) fn list(start: &str, names: &[String], why: &Why) -> Vec<Self> {
        let mut remarks: Vec<Self> = Vec::new();
        let mut line = String::new();
        for name in names {
            if !line.is_empty() && start.len() + line.len() + name.len() > MOST_SHOWN - 2 {
                remarks.push(Self { shown: format!("{start}{line}"), why: why.clone() });
                line.clear();
            }
            let comma = if line.is_empty() { "" } else { ", " };
            line = format!("{line}{comma}{name}");
        }
        if !line.is_empty() {
            remarks.push(Self { shown: format!("{start}{line}"), why: why.clone() });
        }
        remarks
    }
}

/// Characters of a remark that can be read.
const MOST_SHOWN: usize = 100;

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoEffect => "has no effect on the simulation",
            Self::NotModelled(why) => why,
            Self::Unknown => "unknown here: the real fleet may differ",
            Self::Default => "the same as the engine's default",
            Self::Overridden => "overridden by another value",
            Self::Document => "nothing in this document is simulated",
            Self::NoEngine => "runs neither an engine nor a router",
            Self::NotTaken => "not used by any component that is read",
        })
    }
}

/// Why something cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file that is nothing of what can be read.
    #[error("{name}: {problem}")]
    File {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A value that cannot be read.
    #[error("{shown}: {problem}")]
    Value {
        /// As written.
        shown: String,
        /// What it must be.
        problem: String,
    },
    /// A deployment that is not simulated.
    #[error("{shown}: {why}")]
    Refused {
        /// What it is recognised by, as written.
        shown: String,
        /// Why, and the way out.
        why: String,
    },
    /// A network that the catalogue does not have.
    #[error(
        "{place}: the network of {model:?} is not known ({}); give its config.json with the manifests",
        known(Kind::Shape)
    )]
    UnknownModel {
        /// The container.
        place: String,
        /// What its engine is started with.
        model: String,
    },
    /// No manifest says which GPU, or one that the catalogue does not have.
    #[error("{place}: {} ({})", label.as_deref().map_or("does not say which GPU it runs on".to_owned(), |label| format!("{label} is not a known GPU")), known(Kind::Gpu))]
    UnknownGpu {
        /// The container.
        place: String,
        /// The label of nodes that says it, if there is one.
        label: Option<String>,
    },
    /// Parts of a model that do not go together.
    #[error("{place}: {error}")]
    Model {
        /// The container.
        place: String,
        /// What is wrong.
        error: Box<ModelError>,
    },
}

fn known(kind: Kind) -> String {
    format!("known: {}", catalogue::names(kind).collect::<Vec<_>>().join(", "))
}

impl ImportError {
    pub(super) fn file(name: &str, problem: &str) -> Self {
        Self::File { name: name.to_owned(), problem: problem.to_owned() }
    }

    pub(super) fn value(shown: &str, problem: &str) -> Self {
        Self::Value { shown: shown.to_owned(), problem: problem.to_owned() }
    }

    pub(super) fn refused(shown: &str, why: &str) -> Self {
        Self::Refused { shown: shown.to_owned(), why: why.to_owned() }
    }
}
