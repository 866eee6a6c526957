//! The command line: arguments, exit codes, progress and output.
//!
//! Exit codes: 0 done; 1 a declared check failed; 2 a usage or input error; 101
//! a defect of the program; 130 interrupted. Results go to stdout or files, talk to stderr.

mod accuracy;
mod args;
mod calibrate;
mod check;
mod compare;
mod completions;
mod explain;
mod frontier;
mod init;
mod interrupt;
#[cfg(feature = "live")]
mod live;
mod man;
mod models;
mod policies;
mod progress;
mod report;
mod run;
mod schema;
#[cfg(feature = "live")]
mod serve;
mod shards;
mod talk;
mod timeline;
mod trace;

use args::{Args, Command};
use clap::Parser;
use kv_router_sim::accuracy::AccuracyError;
use kv_router_sim::experiment::explain::ExplainError;
use kv_router_sim::experiment::{ExperimentError, RunError, StoreError};
use kv_router_sim::report::judge::baseline::BaselineError;
use kv_router_sim::report::view::published::PublishedError;
use kv_router_sim::results::{AgainError, MergeError, ReadError, ReportError};
use kv_router_sim::settings::Invalid;
use kv_router_sim::workload::trace::TraceError;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use talk::{Verbosity, print, say};

/// Exit code of a declared check that failed.
const CHECK_FAILED: u8 = 1;

/// Exit code of a usage or input error.
const INPUT_ERROR: u8 = 2;

/// Names the folder of public traces.
const TRACES_VARIABLE: &str = "SIM_TRACES";

/// Holds the key that servers ask for; it is sent to them and shown nowhere.
#[cfg(feature = "live")]
const API_KEY_VARIABLE: &str = "SIM_API_KEY";

/// Why a command gave no result.
#[derive(Debug, thiserror::Error)]
enum CliError {
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
    #[error("stdout cannot be written: {0}")]
    Stdout(io::Error),
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

#[cfg(feature = "live")]
fn way_out_of_live(error: &kv_router_sim::live::LiveError) -> &'static str {
    use kv_router_sim::live::LiveError;
    match error {
        LiveError::Server(error) => way_out_of_server(error),
        LiveError::Caches(_) => " (--keep-caches)",
        LiveError::Setting(invalid) if invalid.key == "cluster.workers" => " (--worker)",
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
fn argument(invalid: Invalid) -> Invalid {
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

/// Does what the arguments say.
pub(crate) fn main() -> ExitCode {
    let traces = std::env::var_os(TRACES_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    // False if a declared check failed.
    let Args { command, quiet, verbose } = Args::parse();
    talk::set_level(match (quiet, verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    });
    let result = match command {
        Command::Check(args) => check::run(args, traces),
        Command::Accuracy(args) => accuracy::accuracy(&args),
        Command::Run(args) => run::run(args, traces).map(|()| true),
        Command::Explain(args) => explain::run(args, traces).map(|()| true),
        Command::Timeline(args) => timeline::run(args, traces).map(|()| true),
        Command::Report(args) => report::report(&args).map(|()| true),
        Command::Plot(args) => report::plot(args).map(|()| true),
        Command::Sweep(args) => run::sweep(args, traces).map(|()| true),
        Command::Merge(args) => shards::merge(args, traces).map(|()| true),
        Command::Frontier(args) => frontier::run(args, traces).map(|()| true),
        #[cfg(feature = "live")]
        Command::Live(args) => live::live(args, traces, api_key()).map(|()| true),
        Command::Compare(args) => compare::run(args).map(|()| true),
        #[cfg(feature = "live")]
        Command::Serve(args) => serve::run(args, traces).map(|()| true),
        #[cfg(feature = "live")]
        Command::Calibrate(args) if args.live.is_some() => {
            calibrate::live(&args, api_key().as_ref()).map(|()| true)
        }
        Command::Calibrate(args) => calibrate::calibrate(&args).map(|()| true),
        Command::Trace(command) => trace::run(command, traces.as_deref()).map(|()| true),
        Command::Policies(args) => policies::run(&args).map(|()| true),
        Command::Init(args) => init::run(&args).map(|()| true),
        Command::Models(args) => models::run(&args).map(|()| true),
        Command::Schema(args) => schema::run(&args).map(|()| true),
        Command::Completions(args) => completions::run(&args).map(|()| true),
        Command::Man(args) => man::run(&args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(CHECK_FAILED),
        Err(error) => {
            // One line, whatever a file name or an operating system puts into it.
            let line = error.to_string().lines().collect::<Vec<_>>().join(" ");
            talk::error(&line);
            ExitCode::from(INPUT_ERROR)
        }
    }
}

/// The key that servers ask for, if there is one.
#[cfg(feature = "live")]
fn api_key() -> Option<kv_router_sim::fleet::servers::ApiKey> {
    let key = std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.is_empty());
    key.map(|key| kv_router_sim::fleet::servers::ApiKey::new(&key))
}
