#![no_main]
//! An experiment is read or refused.

use kv_router_sim::experiment::{Experiment, LoadOptions};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|text: &str| {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../experiments/fuzz.toml");
    if let Err(error) = Experiment::parse(&file, text, &LoadOptions::default()) {
        assert!(!error.to_string().is_empty());
    }
});
