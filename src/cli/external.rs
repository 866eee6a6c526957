//! `sim external`.

use super::error::{CliError, argument};
use super::talk::{BAD, GOOD, highlighted, note, print};
use kv_router_sim::router::Parameters;
use kv_router_sim::router::external::ExternalParams;
use kv_router_sim::router::external::conformance::{self, Finding};
use kv_router_sim::settings::{Invalid, parse_duration};
use std::fmt::Write;
use std::time::Instant;

/// Check a router in another language against the protocol and its laws
///
/// Plays histories against the program, as a simulation would, and says law by law what
/// happened; then how many decisions it makes in a second.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim external --check python3 my_router.py
  sim external --parameters '{ overlap_weight = 2.0 }' --check ./my-router --verbose
  sim external --check-socket /tmp/my-router.sock

Experiments name the program in router.command.

Exit codes: 0 every law held, 1 one did not, 2 usage or input error.")]
pub(crate) struct ExternalArgs {
    /// The program and its arguments: everything that follows
    #[arg(
        long,
        value_name = "COMMAND",
        num_args = 1..,
        allow_hyphen_values = true,
        required_unless_present = "check_socket",
        conflicts_with = "check_socket"
    )]
    pub(crate) check: Vec<String>,
    /// The Unix socket of a router that runs already
    #[arg(long, value_name = "PATH")]
    pub(crate) check_socket: Option<String>,
    /// What the router gets as router.parameters: a table in TOML
    #[arg(long, value_name = "TABLE", default_value = "{}")]
    pub(crate) parameters: String,
    /// Wall time for an answer
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) timeout: String,
    /// Decisions to measure its speed with; 0: none
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub(crate) decisions: u32,
}

/// Prints what became of each law; true if all held.
pub(super) fn run(args: ExternalArgs) -> Result<bool, CliError> {
    let table: Result<toml::Table, _> = format!("parameters = {}", args.parameters).parse();
    let allowed = "a table in TOML, like { overlap_weight = 2.0 }";
    let wrong = || argument(Invalid::new("parameters", format!("{:?}", args.parameters), allowed));
    let table = table.map_err(|_| wrong())?;
    ExternalParams::check_given(&table).map_err(argument)?;
    let mut params: ExternalParams = toml::Value::Table(table).try_into().map_err(|_| wrong())?;
    params.command = args.check;
    params.socket = args.check_socket.unwrap_or_default();
    params.timeout = parse_duration(&args.timeout)
        .map_err(|_| Invalid::new("timeout", &args.timeout, "a duration from 1ms to 1h"))
        .map_err(argument)?;
    params.check().map_err(argument)?;
    if !params.command.is_empty() {
        note(&format!("this runs `{}`", params.command.join(" ")));
    }
    let findings = conformance::check(&params);
    let mut text = String::new();
    for Finding { law, outcome } in &findings {
        let (word, seen) = match outcome {
            Ok(seen) => ("held  ", seen),
            Err(seen) => ("FAILED", seen),
        };
        writeln!(text, "{word}  {law}\n        {seen}").expect("text");
    }
    let held = findings.iter().filter(|finding| finding.outcome.is_ok()).count();
    writeln!(text, "{held} of {} laws held", findings.len()).expect("text");
    let is_sound = held == findings.len();
    if is_sound && args.decisions > 0 {
        let (played, seconds) = timed(|| conformance::play(&params, args.decisions));
        match played {
            Ok(()) => writeln!(
                text,
                "{:.0} decisions/s: {} requests with their events, 8 workers, prompts of up to 120 \
                 blocks; the start of the program included",
                f64::from(args.decisions) / seconds,
                args.decisions
            )
            .expect("text"),
            Err(problem) => writeln!(text, "no speed: {problem}").expect("text"),
        }
    }
    print(&highlighted(&text, &[("FAILED", BAD), ("held  ", GOOD)]))?;
    Ok(is_sound)
}

/// What `work` gives, and the seconds that it took.
#[expect(clippy::disallowed_methods, reason = "the speed of a router is wall time")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begun = Instant::now();
    (work(), begun.elapsed().as_secs_f64())
}
