//! `sim man`.

use super::error::CliError;
use super::talk::{print, say};
use clap::Command;
use clap_mangen::Man;
use kv_router_sim::experiment::write_file;
use kv_router_sim::settings::{Invalid, nearest};
use std::path::PathBuf;

/// Print a manual page, or write all of them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim man | man -l -
  sim man sweep | man -l -
  sim man --out ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The command whose page to print [default: that of sim]
    command: Option<String>,
    /// Folder for the pages of all commands
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
}

/// Prints or writes pages of `program`.
pub(super) fn run(args: &ManArgs, mut program: Command) -> Result<(), CliError> {
    program.build();
    if let Some(folder) = &args.out {
        let mut files = Vec::new();
        pages(&program, &mut files);
        for (name, page) in files {
            let file = folder.join(format!("{name}.1"));
            write_file(&file, page.as_bytes())?;
            say(&format!("wrote {}", file.display()));
        }
        return Ok(());
    }
    let command = match &args.command {
        None => &program,
        Some(name) => {
            let names: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
            let hint = nearest(name, names.iter().copied());
            let hint = hint.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            program.find_subcommand(name).ok_or_else(|| {
                Invalid::new("COMMAND", name, format!("one of {}{hint}", names.join(", ")))
            })?
        }
    };
    print(&page(command))
}

/// The pages of a command and of those below it, by name.
fn pages(command: &Command, files: &mut Vec<(String, String)>) {
    let name = command.get_display_name().unwrap_or(command.get_name());
    files.push((name.to_owned(), page(command)));
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    below.for_each(|below| pages(below, files));
}

fn page(command: &Command) -> String {
    let mut page = Vec::new();
    Man::new(command.clone()).render(&mut page).expect("memory takes every byte");
    String::from_utf8_lossy(&page).into_owned()
}
