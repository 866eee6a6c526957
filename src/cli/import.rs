//! `sim import` and `sim patch`.

use super::error::CliError;
use super::init;
use super::talk::{note, print, warn};
use kv_router_sim::catalogue::EXPERIMENT_FILE;
use kv_router_sim::experiment::{Experiment, LoadOptions, write_file};
use kv_router_sim::import::{self, ImportError, Imported, PatchError, PatchFile, Request, Source};
use kv_router_sim::settings::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Make an experiment of manifests, engine options and commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim import --command 'vllm serve Qwen/Qwen3-32B -tp 2' --gpu h100 --workers 8 --out eight

Reads a DynamoGraphDeployment, a Deployment or the like that runs vllm serve or trtllm-serve, the
EndpointPickerConfig of llm-d's router (also inside of Helm values), TensorRT-LLM's options, a
network's config.json, and lines of a shell in files that end in .sh. Every value of the
experiment says where it comes from, or that it is assumed; what is not used is listed.")]
pub(crate) struct ImportArgs {
    /// Manifests and files of options
    #[arg(value_name = "FILE", required_unless_present = "command")]
    files: Vec<PathBuf>,
    /// A command that starts an engine
    #[arg(long, value_name = "LINE")]
    command: Option<String>,
    /// How many workers run the command [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    workers: Option<u32>,
    /// The GPU, where no manifest says which: a name of `sim models`
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// The folder for the experiment, which is named after it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// Write what is changed in an imported experiment as a change to deploy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim import --command 'vllm serve Qwen/Qwen3-32B -tp 2' --gpu h100 --out one && \\
    sim patch one --set engine.max_num_seqs=256

What differs from what was imported, in the experiment's file and by --set, becomes a patch of the
manifest (kubectl patch), variables and flags of the router, an EndpointPickerConfig or a command.
A key that none of them can express is refused.")]
pub(crate) struct PatchArgs {
    /// A folder that `sim import` made
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Change a key of the experiment, like engine.max_num_seqs=256
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = super::args::pair)]
    changes: Vec<(String, String)>,
    /// What the change is predicted to do, for a comment
    #[arg(long, value_name = "TEXT")]
    effect: Option<String>,
    /// The folder for the files [default: DIR/patch]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The folder of what was imported, inside of the experiment's.
const KEPT: &str = "imported";

/// Its list, and how it was asked for.
const LIST: &str = "import.toml";

/// A manifest is at most so long (assumed: a hundred times those of large deployments).
const MOST_BYTES: u64 = 4 << 20;

/// What was imported, as it is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kept {
    files: Vec<String>,
    command: Option<String>,
    workers: Option<u32>,
    gpu: Option<String>,
}

/// Writes the experiment; nothing if it cannot run.
pub(super) fn run(args: &ImportArgs) -> Result<(), CliError> {
    let mut request = Request {
        name: init::name(&args.out)?,
        files: Vec::new(),
        command: args.command.clone(),
        workers: args.workers,
        gpu: args.gpu.clone(),
    };
    for path in &args.files {
        request.files.push(source(path, &request.files)?);
    }
    let imported = match import::import(&request) {
        Err(ImportError::UnknownModel { place, model }) => {
            // The network may be described beside the manifest.
            let beside = args.files.iter().map(|path| path.with_file_name("config.json"));
            let Some(config) = beside.into_iter().find(|path| path.is_file()) else {
                return Err(ImportError::UnknownModel { place, model }.into());
            };
            request.files.push(source(&config, &request.files)?);
            import::import(&request)?
        }
        other => other?,
    };
    let kept = Kept {
        files: request.files.iter().map(|file| file.name.clone()).collect(),
        command: request.command.clone(),
        workers: request.workers,
        gpu: request.gpu.clone(),
    };
    let mut files: Vec<(PathBuf, String)> =
        imported.files.iter().map(|(name, text)| (PathBuf::from(name), text.clone())).collect();
    let list = toml::to_string(&kept).expect("text and numbers");
    files.push((Path::new(KEPT).join(LIST), list));
    let sources = request.files.iter();
    files.extend(sources.map(|file| (Path::new(KEPT).join(&file.name), file.text.clone())));
    // Last: where there is an experiment, all that belongs to it is there.
    files.push((PathBuf::from(EXPERIMENT_FILE), imported.experiment.clone()));

    check(&files)?;
    for (file, content) in files.iter().filter(|_| !args.force) {
        let path = args.out.join(file);
        if path.exists() && std::fs::read_to_string(&path).ok().as_ref() != Some(content) {
            let allowed = format!(
                "without a file {} of other content; choose another folder, or replace the file with --force",
                file.display()
            );
            return Err(Invalid::new("--out", args.out.display(), allowed).into());
        }
    }
    for (file, content) in &files {
        write_file(&args.out.join(file), content.as_bytes())?;
    }
    print(&said(&imported, &args.out))
}

/// Loads the experiment from a folder of its own: what cannot run is not written.
fn check(files: &[(PathBuf, String)]) -> Result<(), CliError> {
    let folder = tempfile::tempdir().map_err(CliError::Temporary)?;
    for (file, content) in files {
        write_file(&folder.path().join(file), content.as_bytes())?;
    }
    let loaded = Experiment::load(&folder.path().join(EXPERIMENT_FILE), &LoadOptions::default());
    loaded.map(|_| ()).map_err(|error| {
        // The folder is gone by then: what remains is the file's name.
        let inside = format!("{}/", folder.path().display());
        CliError::Imported(error.to_string().replace(&inside, ""))
    })
}

fn said(imported: &Imported, folder: &Path) -> String {
    let mut text = String::new();
    for line in &imported.read {
        let _ = writeln!(text, "{line}");
    }
    match imported.unused.len() {
        0 => text.push_str("everything given is used\n"),
        1 => text.push_str("given and not used:\n"),
        count => {
            let _ = writeln!(text, "given and not used, {count}:");
        }
    }
    for line in &imported.unused {
        let _ = writeln!(text, "  {line}");
    }
    let _ = writeln!(
        text,
        "the load is assumed: put yours into [workload]\nwrote {}; run it with: sim run {}",
        folder.join(EXPERIMENT_FILE).display(),
        folder.display()
    );
    text
}

/// A file, called as none of the others is.
fn source(path: &Path, others: &[Source]) -> Result<Source, CliError> {
    let text = text(path)?;
    let base = path.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy());
    let is_taken = |name: &str| name == LIST || others.iter().any(|other| other.name == name);
    let mut name = base.to_string();
    let mut number = 2;
    while is_taken(&name) {
        name = format!("{number}-{base}");
        number += 1;
    }
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(Source { name, folder, text })
}

fn text(path: &Path) -> Result<String, CliError> {
    let unreadable = |problem: &str| {
        let allowed = format!("a file that can be read: {problem}");
        CliError::from(Invalid::new("FILE", path.display(), allowed))
    };
    let length = std::fs::metadata(path).map_err(|error| unreadable(&error.to_string()))?;
    if length.is_dir() {
        return Err(unreadable("it is a folder; name the files in it"));
    }
    if length.len() > MOST_BYTES {
        return Err(unreadable("it is longer than 4 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| unreadable(&error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text"))
}

/// Writes what is changed as what is deployed.
pub(super) fn patch(args: &PatchArgs) -> Result<(), CliError> {
    let request = kept(&args.folder)?;
    let file = args.folder.join(EXPERIMENT_FILE);
    // A value that makes no sense is refused in its own words.
    let overrides = args.changes.iter().map(|(key, value)| format!("{key}={value}"));
    let mut options = LoadOptions::default().set_all(overrides);
    options.overrides_called = "--set";
    Experiment::load(&file, &options)?;

    let base = import::deployed(&import::import(&request)?.experiment)?;
    let now = import::deployed(&text(&file)?)?;
    for key in base.keys().filter(|key| !now.contains_key(*key)) {
        let file = file.display();
        warn(&format!("{key} is in no line of {file} any more: what was imported stays"));
    }
    let mut changes: BTreeMap<String, toml::Value> = BTreeMap::new();
    for (key, value) in now {
        let is_new = base.get(&key).is_none_or(|before| !import::is_same(before, &value));
        if is_new && import::is_fact(&key) {
            note(&format!("{key} = {value} says how things are, and is not deployed"));
        } else if is_new {
            changes.insert(key, value);
        }
    }
    for (key, value) in &args.changes {
        let read = value.parse().unwrap_or_else(|_| toml::Value::String(value.clone()));
        changes.insert(key.clone(), read);
    }
    let patched = import::patch(&request, &changes, args.effect.as_deref())?;
    let out = args.out.clone().unwrap_or_else(|| args.folder.join("patch"));
    holds_no_other(&out, &patched.files)?;
    let mut said = String::new();
    for file in &patched.files {
        let path = out.join(&file.name);
        write_file(&path, file.text.as_bytes())?;
        let _ = writeln!(said, "wrote {}: {}", path.display(), file.apply);
    }
    print(&said)
}

/// Refuses a folder that holds something else than this change: who applies all of it
/// would apply an earlier one, too.
fn holds_no_other(folder: &Path, files: &[PatchFile]) -> Result<(), CliError> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let mut names: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    names.sort();
    for name in names {
        let is_same = |file: &&PatchFile| {
            let held = std::fs::read_to_string(folder.join(&name));
            name.to_str() == Some(file.name.as_str()) && held.ok().as_ref() == Some(&file.text)
        };
        if !files.iter().any(|file| is_same(&file)) {
            let allowed = format!(
                "a folder without {}, which is not of this change; remove it, or choose another folder with --out",
                Path::new(&name).display()
            );
            return Err(Invalid::new("--out", folder.display(), allowed).into());
        }
    }
    Ok(())
}

/// What an experiment was imported from.
fn kept(folder: &Path) -> Result<Request, CliError> {
    let inside = folder.join(KEPT);
    let list = inside.join(LIST);
    if !list.is_file() {
        let allowed = format!("a folder that sim import made: there is no {}", list.display());
        return Err(Invalid::new("DIR", folder.display(), allowed).into());
    }
    let kept: Kept = toml::from_str(&text(&list)?).map_err(|error| {
        let allowed = format!("as sim import wrote it: {}", error.message());
        CliError::from(Invalid::new("FILE", list.display(), allowed))
    })?;
    let mut files = Vec::new();
    for name in &kept.files {
        let path = inside.join(Path::new(name).file_name().unwrap_or_default());
        files.push(Source { name: name.clone(), folder: inside.clone(), text: text(&path)? });
    }
    let Kept { command, workers, gpu, .. } = kept;
    Ok(Request { name: init::name(folder)?, files, command, workers, gpu })
}

impl From<PatchError> for CliError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Import(error) => error.into(),
            other => Self::Patch(other),
        }
    }
}
