#![no_main]
//! A folder of results is read, drawn and reported, or refused.

use kv_router_sim::report::render::save;
use kv_router_sim::results::Results;
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 3] = ["summary.json", "details.json", "runs.json"];

fuzz_target!(|text: &str| {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, part) in FILES.into_iter().zip(text.splitn(3, '\0')) {
        std::fs::write(folder.path().join(name), part).expect("written");
    }
    match Results::load(folder.path()) {
        Ok(results) => {
            let _ = save::to_csv(&results.summary);
            let _ = results.figures().and_then(|figures| results.report(&figures));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
