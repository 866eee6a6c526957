//! Takes the pickers out of the crate that has them, without that crate's dependencies.

use std::path::{Path, PathBuf};
use std::{env, fs};

const FOLDER: &str = "dynamo-runtime-1.6.1/src/routing_policy";

fn main() {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.expect("a home of cargo").join("registry/src");
    let registries = fs::read_dir(&sources).expect("unpacked crates");
    let found = registries.filter_map(Result::ok).map(|entry| entry.path().join(FOLDER));
    let folder = found.into_iter().find(|folder| folder.is_dir());
    let folder = folder.expect("`cargo info dynamo-runtime@1.6.1` unpacks the crate");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    for file in ["picker.rs", "types.rs"] {
        fs::write(out.join(file), text(&folder.join(file))).expect("written");
    }
}

fn text(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a file of the crate");
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}
