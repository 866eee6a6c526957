//! `sim sweep --shard` and `sim merge`: one sweep on several machines.

use super::args::OutputArgs;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::progress::Bar;
use super::simulate::{farewell, print_columns, print_tuning, say_notices};
use super::talk::say;
use kv_router_sim::experiment::{Experiment, Shard};
use kv_router_sim::results::{ResultFolder, RunInto, Shards};
use kv_router_sim::settings::Invalid;
use std::path::{Path, PathBuf};

/// Combine the parts of a sweep that ran with --shard
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim sweep doks-3xh200 --seeds 1 --shard 1/2 --out part-1
  sim sweep doks-3xh200 --seeds 1 --shard 2/2 --out part-2
  sim merge part-1 part-2 --out whole

The folder is, byte for byte, the one that `sim sweep` without --shard makes on one machine. The
parts stay as they are.")]
pub(crate) struct MergeArgs {
    /// The folders of all parts, in any order
    #[arg(required = true, value_name = "DIR")]
    pub(crate) parts: Vec<PathBuf>,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The experiment, if it is not where it was
    #[arg(long, value_name = "FILE")]
    pub(crate) experiment: Option<PathBuf>,
    /// Replace results of another configuration in that folder
    #[arg(long)]
    pub(crate) force: bool,
    /// Save no figures
    #[arg(long)]
    pub(crate) no_figures: bool,
    /// Save the points as columns, as `sim sweep --columns` does
    #[cfg(feature = "columns")]
    #[arg(long)]
    pub(crate) columns: bool,
}

/// The task's number in an array of Slurm, and which numbers the array has.
const SLURM: [&str; 4] = [
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
];

/// The pod's number in an indexed job of Kubernetes, from 0.
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";

/// Which part `text` means: `K/N`, `auto/N` or `auto`, with what `variable` says of the
/// machine's scheduler.
pub(super) fn parse(
    text: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Shard, Invalid> {
    let allowed = "K/N with K from 1 to N, or auto/N, or auto in an array of Slurm";
    let wrong = || Invalid::new("--shard", text, allowed);
    let (number, of) = match text.split_once('/') {
        Some((number, of)) => (number, Some(of.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    if number != "auto" {
        let number = number.parse().map_err(|_| wrong())?;
        return Shard::new(number, of.ok_or_else(wrong)?)
            .map_err(|_| Invalid::new("--shard", text, allowed));
    }
    let given = |name: &str| -> Result<Option<u32>, Invalid> {
        let Some(value) = variable(name) else { return Ok(None) };
        let parsed = value.parse();
        parsed.map(Some).map_err(|_| Invalid::new(name, value, "a whole number"))
    };
    let [id, count, first, last] = SLURM;
    let (place, all) = match (given(id)?, given(KUBERNETES)?) {
        (Some(task), _) => {
            let (first, last, count) = (given(first)?, given(last)?, given(count)?);
            let first = first.unwrap_or(0);
            let gaps = last.zip(count).is_some_and(|(last, count)| {
                last.checked_sub(first).and_then(|tasks| tasks.checked_add(1)) != Some(count)
            });
            if gaps {
                let allowed = "one number after the other, as --array=0-15 makes them";
                return Err(Invalid::new("SLURM_ARRAY_TASK_COUNT", count.unwrap_or(0), allowed));
            }
            let before = || Invalid::new(id, task, format!("at least the first, {first}"));
            (task.checked_sub(first).ok_or_else(before)?, count)
        }
        (None, Some(index)) => (index, None),
        (None, None) => {
            let allowed = format!("K/N: neither {id} nor {KUBERNETES} is set here");
            return Err(Invalid::new("--shard", text, allowed));
        }
    };
    let of = of.or(all).ok_or_else(|| {
        Invalid::new("--shard", text, "auto/N: how many parts there are is not known here")
    })?;
    Shard::new(place.saturating_add(1), of)
}

/// Runs one part; its folder is `base` with the number unless one is named.
pub(super) fn run(
    experiment: &Experiment,
    options: RunInto<'_>,
    (shard, base): (Shard, &Path),
    args: &OutputArgs,
) -> Result<(), CliError> {
    let named = || {
        let name = base.file_name().unwrap_or_default().to_string_lossy();
        base.with_file_name(format!("{name}-shard-{}-of-{}", shard.number(), shard.of()))
    };
    let path: PathBuf = args.out.clone().unwrap_or_else(named);
    let open = if args.force { ResultFolder::replace } else { ResultFolder::resume };
    let folder = open(&path, experiment)?;
    let bar = Bar::new();
    let options = options.progress(&bar);
    let interrupt = Interrupt::listen(farewell(&bar, true, &folder));
    let done = folder.run_shard(experiment, shard, &options);
    bar.clear();
    let _ending = interrupt.hold();
    say(&format!(
        "shard {shard}: {} of {} simulations kept in {}",
        done?,
        experiment.simulations(),
        path.display()
    ));
    if shard.of() > 1 {
        say(&format!("sim merge DIR... --out DIR puts all {} together", shard.of()));
    }
    Ok(())
}

/// Puts parts together and says what `sim sweep` says.
pub(super) fn merge(args: MergeArgs, traces: Option<PathBuf>) -> Result<(), CliError> {
    let shards = Shards::open(&args.parts)?;
    let experiment = shards
        .experiment(args.experiment, traces)
        .map_err(kv_router_sim::results::MergeError::from)?;
    say_notices(&experiment);
    let open = if args.force { ResultFolder::replace } else { ResultFolder::resume };
    let folder = open(&args.out, &experiment)?;
    let mut options = shards.options();
    options.figures = !args.no_figures;
    #[cfg(feature = "columns")]
    if args.columns {
        options = options.in_columns();
    }
    let done = shards.merge(&experiment, &folder, &options)?;
    let saved = folder.save(&experiment, done, &options)?;
    say(&format!("saved in {}", args.out.display()));
    saved.report?;
    match saved.in_columns {
        Some(found) => print_columns(&saved.results, &found),
        None => print_tuning(&saved.results),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn parsed(text: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        let shard = parse(text, |name| variables.get(name).map(|&value| value.to_owned()));
        shard.map(|shard| shard.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_come_from_the_argument_or_the_scheduler() {
        assert_eq!(parsed("3/8", &[]).unwrap(), "3 of 8");
        let slurm = |task| [(SLURM[0], task), (SLURM[1], "4"), (SLURM[2], "10"), (SLURM[3], "13")];
        assert_eq!(parsed("auto", &slurm("10")).unwrap(), "1 of 4");
        assert_eq!(parsed("auto", &slurm("13")).unwrap(), "4 of 4");
        assert_eq!(parsed("auto/4", &[(KUBERNETES, "0")]).unwrap(), "1 of 4");
        assert_eq!(parsed("auto/4", &[(KUBERNETES, "3")]).unwrap(), "4 of 4");
    }

    #[test]
    fn what_names_no_part_is_refused() {
        for text in ["", "3", "0/4", "5/4", "1/0", "a/4", "1/b", "auto/x", "-1/4"] {
            assert!(parsed(text, &[]).is_err(), "{text:?}");
        }
        assert!(parsed("auto", &[]).unwrap_err().contains("neither SLURM_ARRAY_TASK_ID"));
        assert!(parsed("auto", &[(KUBERNETES, "3")]).unwrap_err().contains("auto/N"));
        assert!(parsed("auto/4", &[(KUBERNETES, "4")]).is_err());
        let gaps = [(SLURM[0], "2"), (SLURM[1], "3"), (SLURM[2], "0"), (SLURM[3], "4")];
        assert!(parsed("auto", &gaps).unwrap_err().contains("one number after the other"));
    }
}
