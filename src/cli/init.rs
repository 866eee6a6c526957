//! `sim init`.

use super::{CliError, print};
use kv_router_sim::experiment::write_file;
use kv_router_sim::settings::Invalid;
use std::path::PathBuf;

/// Write a commented experiment that runs as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim init my-fleet && sim run my-fleet/experiment.toml
  sim init --force

Writes DIR/experiment.toml, and the files of its model, GPU and engine into DIR/models.")]
pub(crate) struct InitArgs {
    /// Where to
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Replace files that are there with other content
    #[arg(long)]
    force: bool,
}

/// A file of this repository under the same name.
macro_rules! library {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../", $name)))),*]
    };
}

const EXPERIMENT: (&str, &str) = ("experiment.toml", include_str!("init/experiment.toml"));

/// What the experiment needs.
const LIBRARY: [(&str, &str); 5] = library![
    "models/llama-3.1-8b-bf16-h100-vllm.toml",
    "models/engines/vllm.toml",
    "models/gpus/h100.toml",
    "models/shapes/llama-3.1-8b.toml",
    "models/efficiencies/h100-vllm.toml",
];

/// Writes the files; none if one would replace something else.
pub(super) fn run(args: &InitArgs) -> Result<(), CliError> {
    let files = || LIBRARY.iter().chain([&EXPERIMENT]);
    for (name, text) in files().filter(|_| !args.force) {
        let file = args.folder.join(name);
        if file.exists() && std::fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            let allowed = format!(
                "without a file {name} of other content; choose another folder, or replace the file with \
                 --force"
            );
            return Err(Invalid::new("DIR", args.folder.display(), allowed).into());
        }
    }
    for (name, text) in files() {
        write_file(&args.folder.join(name), text.as_bytes())?;
    }
    let file = args.folder.join(EXPERIMENT.0);
    print(&format!("wrote {0}; run it with: sim run {0}\n", file.display()))
}
