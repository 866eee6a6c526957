//! `sim compare`.

use super::args::{CompareArgs, CompareFormat};
use super::{CliError, print};
use kv_router_sim::metrics::{MAIN, check_name};
use kv_router_sim::report::render::{compared::Compared, table};
use kv_router_sim::results::read_summary;
use kv_router_sim::settings::Invalid;

/// Compares two saved result sets and prints what changed.
pub(super) fn run(args: CompareArgs) -> Result<(), CliError> {
    for metric in &args.metric {
        check_name("--metric", metric)?;
    }
    let (before, after) = (read_summary(&args.before)?, read_summary(&args.after)?);
    let metrics: Vec<&str> = match args.metric.as_slice() {
        _ if args.all => Vec::new(),
        [] => MAIN.to_vec(),
        asked => asked.iter().map(String::as_str).collect(),
    };
    let names = [&args.before, &args.after].map(|folder| folder.display().to_string());
    let compared = Compared::new((&before, &names[0]), (&after, &names[1]), &metrics, &args.ignore);
    if compared.is_empty() {
        let allowed = format!(
            "results of points and metrics that {} has too; --ignore KEY pairs points that differ \
             in a key",
            names[0]
        );
        return Err(Invalid::new("AFTER", &names[1], allowed).into());
    }
    print(&match args.format {
        CompareFormat::Text => compared.text(table::WIDTH),
        CompareFormat::Markdown => compared.markdown(),
        CompareFormat::Json => compared.json(),
    })
}
