//! `sim accuracy`.

use super::error::CliError;
use super::talk::{self, print, say};
use kv_router_sim::accuracy::{Accuracy, AccuracySettings, MARGIN_POINTS, Record};
use kv_router_sim::catalogue;
use kv_router_sim::experiment::write_file;
use kv_router_sim::plot::GainSheet;
use std::path::PathBuf;

/// Compare simulated times with measured ones: steps and serving runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim accuracy                  print every table
  sim accuracy --write          write docs/accuracy.md, .csv and docs/gains.md
  sim accuracy --check          fail if an error has grown

Exit codes: 0 done, 1 an error has grown, 2 usage or input error.")]
pub(crate) struct AccuracyArgs {
    /// What to compare: a TOML file
    #[arg(default_value = catalogue::ACCURACY)]
    pub(crate) settings: PathBuf,
    /// Write the page and the record of its errors that the settings name
    #[arg(long)]
    pub(crate) write: bool,
    /// Compare with that record instead
    #[arg(long, conflicts_with = "write")]
    pub(crate) check: bool,
}

/// Compares with measurements; prints the page, writes it, or holds it to what
/// is on record; true unless an error has grown.
pub(super) fn accuracy(args: &AccuracyArgs) -> Result<bool, CliError> {
    let settings = AccuracySettings::load(&args.settings)?;
    let before = args.check.then(|| Record::read(&settings.record)).transpose()?;
    let accuracy = Accuracy::new(&settings)?;
    let Some(before) = before else {
        if args.write {
            // The record last: it is what checks look at.
            // What comes with the program is written below the working folder.
            let [file, record] = [&settings.page, &settings.record].map(|f| catalogue::writable(f));
            write_file(file, accuracy.page(&settings.assumed).as_bytes())?;
            write_file(record, accuracy.record().to_csv().as_bytes())?;
            say(&format!("wrote {} and {}", file.display(), record.display()));
            if let Some(gains) = &settings.gains {
                let [file, figure] = [&gains.page, &gains.figure].map(|f| catalogue::writable(f));
                let sheet = GainSheet { publications: accuracy.gains() };
                write_file(file, accuracy.gains_page(&gains.shown_as).as_bytes())?;
                write_file(figure, sheet.drawn().svg.as_bytes())?;
                say(&format!("wrote {} and {}", file.display(), figure.display()));
            }
            return Ok(true);
        }
        return print(&accuracy.page(&settings.assumed)).map(|()| true);
    };
    let worse = accuracy.record().worse_than(&before);
    let unexplained = accuracy.unexplained();
    if worse.is_empty() && unexplained.is_empty() {
        return print(&format!(
            "no error has grown by more than {MARGIN_POINTS} points over {}\n",
            settings.record.display()
        ))
        .map(|()| true);
    }
    let off = unexplained.iter().map(|run| format!("{run}: far off, for no known reason"));
    let lines = worse.iter().cloned().chain(off).map(|line| line + "\n");
    print(&lines.collect::<String>())?;
    if !worse.is_empty() {
        talk::error(&format!(
            "{} errors have grown by more than {MARGIN_POINTS} points over {}; if that is meant, run \
             sim accuracy --write and say why in CHANGELOG.md",
            worse.len(),
            settings.record.display()
        ));
    }
    if !unexplained.is_empty() {
        talk::error(&format!(
            "{} runs are far off, and nothing says why: each needs an entry in [[explained]] of {}",
            unexplained.len(),
            args.settings.display()
        ));
    }
    Ok(false)
}
