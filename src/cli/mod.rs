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
mod error;
mod explain;
mod external;
mod frontier;
mod import;
mod init;
mod interrupt;
#[cfg(feature = "live")]
mod live;
mod man;
mod models;
mod place;
mod policies;
mod progress;
mod recommend;
mod replay;
mod report;
mod run;
mod schema;
#[cfg(feature = "live")]
mod serve;
mod shards;
mod simulate;
mod sweep;
mod talk;
mod timeline;
mod trace;
#[cfg(feature = "ui")]
mod ui;

use accuracy::AccuracyArgs;
use calibrate::CalibrateArgs;
use check::CheckArgs;
use clap::{CommandFactory, Parser, Subcommand};
use compare::CompareArgs;
use completions::CompletionsArgs;
use explain::ExplainArgs;
use external::ExternalArgs;
use frontier::FrontierArgs;
use import::{ImportArgs, PatchArgs};
use init::InitArgs;
#[cfg(feature = "live")]
use live::LiveArgs;
use man::ManArgs;
use models::ModelsArgs;
use policies::PoliciesArgs;
use recommend::RecommendArgs;
use replay::ReplayArgs;
use report::{PlotArgs, ReportArgs};
use run::RunArgs;
use schema::SchemaArgs;
#[cfg(feature = "live")]
use serve::ServeArgs;
use shards::MergeArgs;
use std::ffi::OsString;
use std::path::PathBuf;
use sweep::SweepArgs;
use talk::Verbosity;
use timeline::TimelineArgs;
use trace::TraceCommand;
#[cfg(feature = "ui")]
use ui::UiArgs;

/// Exit code of a declared check that failed.
const CHECK_FAILED: u8 = 1;

/// Exit code of a usage or input error.
const INPUT_ERROR: u8 = 2;

/// Names the folder of public traces.
const TRACES_VARIABLE: &str = "SIM_TRACES";

/// Holds the key that servers ask for; it is sent to them and shown nowhere.
#[cfg(feature = "live")]
const API_KEY_VARIABLE: &str = "SIM_API_KEY";

/// Simulates LLM serving fleets: will KV-cache-aware routing help, up to which
/// load, and why does it stop?
#[derive(Debug, Parser)]
#[command(
    name = "sim",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  sim run doks-3xh200
  sim init my-fleet && sim run my-fleet
  sim frontier my-fleet --within ttft_ms_p95=1s
  sim help sweep"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print what is being done and how long it takes
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(RunArgs),
    Explain(ExplainArgs),
    Timeline(TimelineArgs),
    Report(ReportArgs),
    Plot(PlotArgs),
    Sweep(SweepArgs),
    Merge(MergeArgs),
    Frontier(FrontierArgs),
    Recommend(RecommendArgs),
    Compare(CompareArgs),
    #[cfg(feature = "ui")]
    Ui(UiArgs),
    #[cfg(feature = "live")]
    Live(LiveArgs),
    #[cfg(feature = "live")]
    Serve(ServeArgs),
    Check(CheckArgs),
    External(ExternalArgs),
    Replay(ReplayArgs),
    Accuracy(AccuracyArgs),
    Calibrate(CalibrateArgs),
    /// Work with request traces
    #[command(
        subcommand,
        after_help = "\
Examples:
  sim trace stats lookalike-conversation"
    )]
    Trace(TraceCommand),
    Models(ModelsArgs),
    Policies(PoliciesArgs),
    Init(InitArgs),
    Import(ImportArgs),
    Patch(PatchArgs),
    Schema(SchemaArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Does what the arguments say, the first of which is the name of the program; gives the
/// exit code.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let traces = std::env::var_os(TRACES_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    // False if a declared check failed.
    let Args { command, quiet, verbose } = Args::parse_from(arguments);
    talk::set_level(match (quiet, verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    });
    let result = match command {
        Command::Check(args) => check::run(args, traces),
        Command::External(args) => external::run(args),
        Command::Replay(args) => replay::run(args, traces).map(|()| true),
        Command::Accuracy(args) => accuracy::accuracy(&args),
        Command::Run(args) => run::run(args, traces).map(|()| true),
        Command::Explain(args) => explain::run(args, traces).map(|()| true),
        Command::Timeline(args) => timeline::run(args, traces).map(|()| true),
        Command::Report(args) => report::report(&args).map(|()| true),
        Command::Plot(args) => report::plot(args).map(|()| true),
        Command::Sweep(args) => sweep::run(args, traces).map(|()| true),
        Command::Merge(args) => shards::merge(args, traces).map(|()| true),
        Command::Frontier(args) => frontier::run(args, traces).map(|()| true),
        Command::Recommend(args) => recommend::run(args, traces).map(|()| true),
        #[cfg(feature = "ui")]
        Command::Ui(args) => ui::run(args, traces, api_key()).map(|()| true),
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
        Command::Import(args) => import::run(&args).map(|()| true),
        Command::Patch(args) => import::patch(&args).map(|()| true),
        Command::Models(args) => models::run(&args).map(|()| true),
        Command::Schema(args) => schema::run(&args).map(|()| true),
        Command::Completions(args) => completions::run(&args, Args::command()).map(|()| true),
        Command::Man(args) => man::run(&args, Args::command()).map(|()| true),
    };
    match result {
        Ok(true) => 0,
        Ok(false) => CHECK_FAILED,
        Err(error) => {
            // One line, whatever a file name or an operating system puts into it.
            let line = error.to_string().lines().collect::<Vec<_>>().join(" ");
            talk::error(&line);
            INPUT_ERROR
        }
    }
}

/// The key that servers ask for, if there is one.
#[cfg(feature = "live")]
fn api_key() -> Option<kv_router_sim::fleet::servers::ApiKey> {
    let key = std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.is_empty());
    key.map(|key| kv_router_sim::fleet::servers::ApiKey::new(&key))
}
