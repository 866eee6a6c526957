//! `sim accuracy`.

use super::args::AccuracyArgs;
use super::{CliError, print, say};
use kv_router_sim::accuracy::{MARGIN_POINTS, Page, Record, Settings};

/// Compares with measurements; prints the page, writes it, or holds it to what
/// is on record.
pub(super) fn accuracy(args: &AccuracyArgs) -> Result<(), CliError> {
    let settings = Settings::load(&args.settings)?;
    let before = args.check.then(|| Record::read(&settings.record)).transpose()?;
    let page = Page::new(&settings)?;
    let Some(before) = before else {
        if args.write {
            // The record last: it is what checks look at.
            super::write(&settings.page, &page.text)?;
            super::write(&settings.record, &page.record.to_csv())?;
            say(&format!("wrote {} and {}", settings.page.display(), settings.record.display()));
            return Ok(());
        }
        return print(&page.text);
    };
    let worse = page.record.worse_than(&before);
    if worse.is_empty() {
        return print(&format!(
            "no error has grown by more than {MARGIN_POINTS} points over {}\n",
            settings.record.display()
        ));
    }
    print(&worse.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    Err(CliError::Check(format!(
        "{} errors have grown by more than {MARGIN_POINTS} points over {}; if that is meant, \
         run sim accuracy --write and say why in CHANGELOG.md",
        worse.len(),
        settings.record.display()
    )))
}
