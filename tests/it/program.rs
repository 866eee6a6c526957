//! Runs the built program in a folder of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// An experiment of two policies and two levels that simulates quickly.
pub(crate) const EXPERIMENT: &str = r#"name = "small"

[cluster]
workers = 2

[engine]
rules = "vllm"
block_size = 32
num_blocks = "4k"
max_num_seqs = 64
max_num_batched_tokens = "8k"
step_time = { kind = "fixed", prefill = "20ms", decode = "10ms" }

[router]
policy = "kv"

[workload]
kind = "conversations"
concurrency = 4
starters = 2
starter_tokens = { kind = "constant", value = 300 }
turns = { min = 2, max = 3 }
question_tokens = { kind = "constant", value = 50 }
output_tokens = { kind = "constant", value = 80 }

[measure]
warmup = "5s"
window = "20s"
seeds = 3

[sweep]
"router.policy" = ["round_robin", "kv"]
"workload.concurrency" = [2, 4]
"#;

/// Three small workers with more conversations than they have room for: all of
/// an experiment but name, router and what follows `[measure]`.
pub(crate) const CROWDED: &str = r#"
[cluster]
workers = 3

[engine]
rules = "trtllm"
block_size = 16
num_blocks = 300
max_num_seqs = 6
max_num_batched_tokens = 256
max_model_len = 1_000
step_time = { kind = "fixed", prefill = "7ms", decode = "3ms" }

[workload]
kind = "conversations"
concurrency = 20
starters = 3
starter_tokens = { kind = "uniform", min = 50, max = 200 }
turns = { min = 1, max = 4 }
question_tokens = { kind = "uniform", min = 5, max = 60 }
output_tokens = { kind = "normal", mean = 40, sd = 20, min = 1, max = 80 }
think_time = { kind = "exponential", mean = "200ms", min = "0s", max = "2s" }

[measure]
warmup = "1s"
window = "5s"
"#;

/// A folder to run the program in, and what the program says there.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// A folder that holds `small.toml`.
    pub(crate) fn new() -> Self {
        let place = Self(TempDir::new().expect("a folder"));
        place.write("small.toml", EXPERIMENT);
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), content).expect("written");
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sim"));
        command.args(args).current_dir(self.path()).env_remove("SIM_TRACES");
        command
    }

    pub(crate) fn sim(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// Every file below the folder with its content, in order of name.
    pub(crate) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        collect(self.path(), self.path(), &mut files);
        files.sort();
        files
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(root).expect("below").display().to_string();
        if path.is_dir() {
            files.push((name + "/", Vec::new()));
            collect(root, &path, files);
        } else {
            files.push((name, fs::read(&path).expect("readable")));
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}
