#![no_main]
//! A model file is read or refused.

use kv_router_sim::engine::model::Model;
use libfuzzer_sys::fuzz_target;
use std::os::unix::fs::symlink;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    for part in ["efficiencies", "engines", "gpus", "shapes", "tables"] {
        symlink(models.join(part), folder.path().join(part)).expect("linked");
    }
    let file = folder.path().join("fuzz.toml");
    std::fs::write(&file, bytes).expect("written");
    if let Ok(model) = Model::load(&file) {
        let _ = model.engine_config();
    }
});
