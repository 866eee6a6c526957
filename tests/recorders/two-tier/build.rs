//! Takes the policy out of the crate that has it, without that crate's dependencies.

use std::path::PathBuf;
use std::{env, fs};

const FILE: &str = "dynamo-custom-policy-builtin-1.6.1/src/two_tier_cost_fn.rs";

fn main() {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let sources = home.expect("a home of cargo").join("registry/src");
    let registries = fs::read_dir(&sources).expect("unpacked crates");
    let found = registries.filter_map(Result::ok).map(|entry| entry.path().join(FILE));
    let file = found.into_iter().find(|file| file.is_file());
    let file = file.expect("`cargo info dynamo-custom-policy-builtin@1.6.1` unpacks the crate");
    let text = fs::read_to_string(file).expect("the policy");
    // Comments of a whole file cannot stand in the middle of another.
    let text = text.replace("\n//!", "\n//");
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("two_tier_cost_fn.rs"), text).expect("written");
}
