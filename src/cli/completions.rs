//! `sim completions`.

use super::args::Args;
use super::{CliError, print};
use clap::CommandFactory;
use clap_complete::Shell;

/// Print a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim completions bash >> ~/.bash_completion
  mkdir -p ~/.zfunc && sim completions zsh > ~/.zfunc/_sim
  mkdir -p ~/.config/fish/completions && sim completions fish > ~/.config/fish/completions/sim.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "sim", &mut script);
    print(&String::from_utf8_lossy(&script))
}
