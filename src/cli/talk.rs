//! What is said beside the results: on stderr, as much as the operator wants,
//! with colour where a terminal shows it.

use super::error::CliError;
use anstream::ColorChoice;
use clap::builder::styling::{AnsiColor, Style};
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

/// How much is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verbosity {
    /// Errors and warnings.
    Quiet,
    /// And what was done.
    #[default]
    Normal,
    /// And how: every file, how long it took.
    Verbose,
}

static LEVEL: OnceLock<Verbosity> = OnceLock::new();

/// Of errors, and of what got worse.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Of warnings.
const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();

/// Of what got better.
pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();

/// Sets how much is said, once, before anything is.
pub(super) fn set_level(level: Verbosity) {
    let _ = LEVEL.set(level);
}

/// How much is said.
pub(super) fn level() -> Verbosity {
    LEVEL.get().copied().unwrap_or_default()
}

/// What was done.
pub(super) fn say(line: &str) {
    if level() >= Verbosity::Normal {
        tell("", line);
    }
}

/// What only those want to know who ask for it.
pub(super) fn detail(line: &str) {
    if level() >= Verbosity::Verbose {
        tell("", line);
    }
}

/// What was assumed, and could be otherwise.
pub(super) fn note(line: &str) {
    if level() >= Verbosity::Normal {
        tell("note: ", line);
    }
}

/// What the operator should look at.
pub(super) fn warn(line: &str) {
    tell(&painted("warning: ", DOUBTFUL), line);
}

/// Why there is no result.
pub(super) fn error(line: &str) {
    tell(&painted("error: ", BAD), line);
}

/// A closed stderr is no error.
fn tell(label: &str, line: &str) {
    let _ = writeln!(anstream::stderr(), "{label}{line}");
}

/// Results, on stdout. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(CliError::Stdout(error)),
        _ => Ok(()),
    }
}

/// `text` with words in colour, if stdout shows any.
pub(super) fn highlighted(text: &str, words: &[(&str, Style)]) -> String {
    if anstream::AutoStream::choice(&io::stdout()) == ColorChoice::Never {
        return text.to_owned();
    }
    words
        .iter()
        .fold(text.to_owned(), |text, (word, style)| text.replace(word, &painted(word, *style)))
}

fn painted(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}
