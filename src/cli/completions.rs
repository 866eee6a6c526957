//! `sim completions`.

use super::error::CliError;
use super::talk::print;
use clap::Command;
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

/// Prints the script for `program`.
pub(super) fn run(args: &CompletionsArgs, mut program: Command) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "sim", &mut script);
    print(&String::from_utf8_lossy(&script))
}
