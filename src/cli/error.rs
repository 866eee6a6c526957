//! Why a command gave no result, and the arguments that lead out of it.

use kv_router_sim::accuracy::AccuracyError;
use kv_router_sim::experiment::explain::ExplainError;
use kv_router_sim::experiment::{ExperimentError, RecordError, RunError, StoreError};
use kv_router_sim::frontier::SearchError;
use kv_router_sim::import::{ImportError, PatchError};
use kv_router_sim::recommend::RecommendError;
use kv_router_sim::report::judge::baseline::BaselineError;
use kv_router_sim::report::view::published::PublishedError;
use kv_router_sim::results::{AgainError, MergeError, ReadError, ReportError};
use kv_router_sim::settings::{Invalid, SettingsError};
use kv_router_sim::workload::trace::TraceError;
use std::io;
use std::path::PathBuf;

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(transparent)]
    Experiment(#[from] ExperimentError),
    #[error("{0}{hint}", hint = way_out_of_store(.0))]
    Store(#[from] StoreError),
    #[error("{0}{hint}", hint = way_out_of_run(.0))]
    Run(#[from] RunError),
    #[error(transparent)]
    Published(#[from] PublishedError),
    #[error(transparent)]
    Setting(#[from] Invalid),
    #[error(transparent)]
    Accuracy(#[from] AccuracyError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("{0}{hint}", hint = way_out_of_explain(.0))]
    Explain(#[from] ExplainError),
    #[error("{0}{hint}", hint = way_out_of_read(.0))]
    Read(#[from] ReadError),
    #[error("{0}{hint}", hint = way_out_of_again(.0))]
    Again(#[from] AgainError),
    #[error("{0}{hint}", hint = way_out_of_merge(.0))]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("{0}{hint}", hint = way_out_of_baseline(.0))]
    Baseline(#[from] BaselineError),
    #[cfg(feature = "live")]
    #[error("{0}{hint}", hint = way_out_of_live(.0))]
    Live(#[from] kv_router_sim::live::LiveError),
    #[cfg(feature = "live")]
    #[error("{0}{hint}", hint = way_out_of_serve(.0))]
    Serve(#[from] kv_router_sim::serve::ServeError),
    #[cfg(feature = "live")]
    #[error("{0}{hint}", hint = way_out_of_server(.0))]
    Server(#[from] kv_router_sim::fleet::servers::ServerError),
    #[cfg(feature = "ui")]
    #[error("{0}{hint}", hint = way_out_of_ui(.0))]
    Ui(#[from] kv_router_sim::ui::UiError),
    #[error("{0}{hint}", hint = way_out_of_import(.0))]
    Import(#[from] ImportError),
    /// What was imported makes no experiment that runs.
    #[error("what was imported cannot be simulated: {0}")]
    Imported(String),
    #[error(transparent)]
    Patch(PatchError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("no temporary folder: {0}")]
    Temporary(io::Error),
    #[error("{}: cannot be read: {reason}", file.display())]
    Prices { file: PathBuf, reason: String },
    #[error(
        "{}: holds another recommendation; choose another folder with --out, or replace it with \
         --force", folder.display()
    )]
    OtherRecommendation { folder: PathBuf },
    #[error("stdout cannot be written: {0}")]
    Stdout(io::Error),
}

impl From<RecordError> for CliError {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Asked(error) => argument(error).into(),
            RecordError::Run(error) => error.into(),
        }
    }
}

impl From<RecommendError> for CliError {
    fn from(error: RecommendError) -> Self {
        match error {
            RecommendError::Asked(error) => error.into(),
            RecommendError::Experiment(error) => error.into(),
            RecommendError::Run(error) => error.into(),
            RecommendError::Accuracy(error) => error.into(),
        }
    }
}

impl From<SearchError> for CliError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Asked(error) => error.into(),
            SearchError::Experiment(error) => error.into(),
            SearchError::Run(error) => error.into(),
        }
    }
}

/// The arguments that lead out of an error, after what the library says.
fn way_out_of_store(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unwritable { .. } => "; choose another folder with --out",
        StoreError::OtherResults { .. } | StoreError::Taken { .. } | StoreError::Foreign { .. } => {
            "; choose another folder with --out, or overwrite them with --force"
        }
        StoreError::OtherJournal { .. } => {
            "; finish that one, choose another folder with --out, or discard it with --force"
        }
        StoreError::Busy { .. } => "; wait for it, or choose another folder with --out",
        _ => "",
    }
}

fn way_out_of_run(error: &RunError) -> &'static str {
    match error {
        RunError::Threads { .. } => "; use a smaller --jobs",
        RunError::Journal(error) => way_out_of_store(error),
        _ => "",
    }
}

fn way_out_of_import(error: &ImportError) -> &'static str {
    match error {
        ImportError::UnknownGpu { .. } => "; say which with --gpu",
        _ => "",
    }
}

#[cfg(feature = "ui")]
fn way_out_of_ui(error: &kv_router_sim::ui::UiError) -> &'static str {
    use kv_router_sim::ui::UiError;
    match error {
        UiError::Listen { .. } => {
            "; choose another port with --port, or any free one with --port 0"
        }
        UiError::Setting(wrong) if wrong.key == "sweep" => "; --set changes the experiment",
        UiError::Live(error) => way_out_of_live(error),
        _ => "",
    }
}

#[cfg(feature = "live")]
fn way_out_of_live(error: &kv_router_sim::live::LiveError) -> &'static str {
    use kv_router_sim::live::LiveError;
    match error {
        LiveError::Server(error) => way_out_of_server(error),
        LiveError::Caches(_) => " (--keep-caches)",
        LiveError::Setting(invalid)
            if ["cluster.workers", "cluster.pool"].contains(&&*invalid.key)
                && invalid.allowed.contains("as there are servers") =>
        {
            " (--worker)"
        }
        _ => "",
    }
}

#[cfg(feature = "live")]
fn way_out_of_serve(error: &kv_router_sim::serve::ServeError) -> &'static str {
    use kv_router_sim::serve::ServeError;
    match error {
        ServeError::Setting(invalid) if invalid.key == "--host" => " (--allow-remote)",
        ServeError::Listen { .. } => "; choose another with --host or --port",
        ServeError::Events(_) => "; choose another port with --port, or leave --events out",
        _ => "",
    }
}

#[cfg(feature = "live")]
fn way_out_of_server(error: &kv_router_sim::fleet::servers::ServerError) -> &'static str {
    use kv_router_sim::fleet::servers::ServerError;
    match error {
        ServerError::Mismatch { what: "the model", .. } => " (--model)",
        ServerError::Events { .. } => " (--events names the place)",
        _ => "",
    }
}

/// The library speaks of the keys of its settings; here some are arguments.
pub(super) fn argument(invalid: Invalid) -> Invalid {
    Invalid { key: format!("--{}", invalid.key), ..invalid }
}

fn way_out_of_read(error: &ReadError) -> &'static str {
    match error {
        ReadError::Unreadable { .. } => {
            "; name a folder that `sim run` or `sim sweep` of this version has finished"
        }
        _ => "",
    }
}

fn way_out_of_again(error: &AgainError) -> &'static str {
    match error {
        AgainError::Other { .. } => "; name the right file with --experiment, or run it again",
        AgainError::Store(error) => way_out_of_store(error),
        AgainError::Explain(error) => way_out_of_explain(error),
        _ => "",
    }
}

fn way_out_of_merge(error: &MergeError) -> &'static str {
    match error {
        MergeError::Read(ReadError::Unreadable { .. }) => {
            "; name folders that `sim sweep --shard K/N` made"
        }
        MergeError::Missing { .. } => "; run it, or name its folder",
        MergeError::Unfinished { .. } => "; give its command again: it goes on where it was",
        MergeError::Again(error) => way_out_of_again(error),
        MergeError::Run(error) => way_out_of_run(error),
        _ => "",
    }
}

fn way_out_of_explain(error: &ExplainError) -> &'static str {
    match error {
        ExplainError::Ambiguous { .. } => "; --policy and --at choose",
        _ => "",
    }
}

fn way_out_of_baseline(error: &BaselineError) -> &'static str {
    match error {
        BaselineError::Unreadable { .. } => "; write it with --update",
        BaselineError::Malformed { .. } => "; correct it, or write it again with --update",
        BaselineError::Seeds { .. } => "",
    }
}
