#![no_main]
//! A folder of results is read, drawn and compared, or refused.

use kv_router_sim::experiment::results::{SavedRuns, Summary};
use kv_router_sim::plot;
use kv_router_sim::report::view::details::Details;
use kv_router_sim::report::render::html::Page;
use kv_router_sim::report::render::save;
use kv_router_sim::results::from_json;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let mut parts = text.splitn(3, '\0');
    let mut next = || parts.next().unwrap_or_default();
    let file = Path::new("fuzz.json");
    let summary: Result<Summary, _> = from_json(next(), file);
    let details: Result<Details, _> = from_json(next(), file);
    let runs: Result<SavedRuns, _> = from_json(next(), file);
    let (Ok(summary), Ok(details), Ok(runs)) = (summary, details, runs) else { return };
    let _ = save::to_csv(&summary);
    let _ = plot::all_figures(&summary, &details);
    let rules = plot::dark_rules();
    let page = Page {
        summary: &summary,
        details: &details,
        runs: &runs,
        pictures: &[],
        picture_rules: &rules,
    };
    let _ = page.to_html();
});
