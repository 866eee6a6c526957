//! `sim import` and `sim patch`.

use super::error::CliError;
use super::init;
use super::talk::{note, print, warn};
use super::trace::Unit;
use kv_router_sim::catalogue::EXPERIMENT_FILE;
use kv_router_sim::experiment::{
    Experiment, ExperimentError, LoadOptions, read_at_most, write_files,
};
use kv_router_sim::import::{
    self, ImportError, Imported, Log, PatchError, PatchFile, Request, Source,
};
use kv_router_sim::recommend::{RECOMMENDED, Recommendation};
use kv_router_sim::settings::Invalid;
use kv_router_sim::workload::trace::Columns;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Make an experiment of manifests, engine options and commands
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim import --command 'vllm serve Qwen/Qwen3-32B -tp 2' --gpu h100 --workers 8 --out eight
  sim trace convert lookalike-conversation requests.jsonl && \\
    sim import --command 'vllm serve Qwen/Qwen3-32B -tp 2' --gpu h100 --workers 8 \\
      --log requests.jsonl --out replayed

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
    /// A log of requests to simulate, in any format of `sim trace`; else the load is assumed
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Which columns of the log say what, as for `sim trace`: time=ts,prompt=in,output=out
    #[arg(long, value_name = "KEY=COLUMN,...", requires = "log")]
    columns: Option<Columns>,
    /// Unit of the times of the log [default: recognised from the file]
    #[arg(long, value_enum, value_name = "UNIT", requires = "log")]
    time_unit: Option<Unit>,
    /// Tokens per block id of the log [default: what the file says, or 512]
    #[arg(long, value_name = "N", requires = "log",
        value_parser = clap::value_parser!(u32).range(1..=2048))]
    block_tokens: Option<u32>,
    /// What makes tokens of the texts of a log that holds texts: a tokenizer.json
    #[arg(long, value_name = "FILE", requires = "log")]
    tokenizer: Option<PathBuf>,
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
        log: args.log.as_deref().map(|file| log(file, args)).transpose()?,
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
    init::write(&args.out, "--out", &files, args.force)?;
    print(&said(&imported, args))
}

/// A log, found from wherever the experiment is.
fn log(file: &Path, args: &ImportArgs) -> Result<Log, CliError> {
    let tokenizer = args.tokenizer.as_deref();
    Ok(Log {
        path: absolute("--log", file)?,
        columns: args.columns.clone(),
        time_unit: args.time_unit.map(Into::into),
        block_tokens: args.block_tokens,
        tokenizer: tokenizer.map(|file| absolute("--tokenizer", file)).transpose()?,
    })
}

/// The path of a file that an argument names, from wherever the experiment is.
fn absolute(key: &str, file: &Path) -> Result<String, Invalid> {
    let wrong = |allowed: &str| Invalid::new(key, file.display(), allowed);
    let path = std::path::absolute(file).ok().filter(|path| path.is_file());
    let path = path.ok_or_else(|| wrong("a file that is there"))?;
    Ok(path.to_str().ok_or_else(|| wrong("a path of UTF-8 text"))?.to_owned())
}

/// Loads the experiment from a folder of its own: what cannot run is not written.
fn check(files: &[(PathBuf, String)]) -> Result<(), CliError> {
    let folder = tempfile::tempdir().map_err(CliError::Temporary)?;
    init::write(folder.path(), "", files, false)?;
    let loaded = Experiment::load(&folder.path().join(EXPERIMENT_FILE), &LoadOptions::default());
    loaded.map(|_| ()).map_err(|error| {
        // The folder is gone by then: what remains is the file's name.
        let inside = format!("{}/", folder.path().display());
        if let ExperimentError::Workload { problem, .. } = &error {
            return CliError::Imported(format!("--log: {}", problem.replace(&inside, "")));
        }
        let error = error.to_string().replace(&inside, "");
        let experiment = files.iter().find(|(file, _)| file == Path::new(EXPERIMENT_FILE));
        let named = experiment.and_then(|(_, text)| by_source(&error, text));
        CliError::Imported(named.unwrap_or(error))
    })
}

/// A message of a line of an experiment that is not written, by what the line comes from.
fn by_source(error: &str, experiment: &str) -> Option<String> {
    let (place, problem) =
        error.strip_prefix(EXPERIMENT_FILE)?.strip_prefix(':')?.split_once(": ")?;
    let digits = place.split(|c: char| !c.is_ascii_digit()).next()?;
    let line = experiment.lines().nth(digits.parse::<usize>().ok()?.checked_sub(1)?)?;
    let (_, source) = line.rsplit_once(" # ")?;
    let (number, written) = source.strip_prefix('[')?.split_once("] ")?;
    let place =
        experiment.lines().find_map(|line| line.strip_prefix(&format!("#   [{number}] ")))?;
    Some(format!("{place}: {written}: {problem}"))
}

fn said(imported: &Imported, args: &ImportArgs) -> String {
    let mut text = String::new();
    for line in &imported.read {
        let _ = writeln!(text, "{line}");
    }
    match imported.unused.len() {
        0 => text.push_str("everything given is used\n"),
        1 => text.push_str("given but not used:\n"),
        count => {
            let _ = writeln!(text, "given but not used, {count}:");
        }
    }
    for line in &imported.unused {
        let _ = writeln!(text, "  {line}");
    }
    if args.log.is_none() {
        text.push_str("the load is assumed: put yours into [workload], or give a log with --log\n");
    }
    let (file, folder) = (args.out.join(EXPERIMENT_FILE), args.out.display());
    let _ = writeln!(text, "wrote {}; run it with: sim run {folder}", file.display());
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
    if path.is_dir() {
        return Err(unreadable("it is a folder; name the files in it"));
    }
    read_at_most(path, MOST_BYTES).map_err(|error| unreadable(&error.to_string()))
}

/// Writes what is changed as what is deployed.
pub(super) fn patch(args: &PatchArgs) -> Result<(), CliError> {
    let request = kept(&args.folder)?;
    let file = args.folder.join(EXPERIMENT_FILE);
    // A value that makes no sense is refused in its own words.
    let overrides = args.changes.iter().map(|(key, value)| format!("{key}={value}"));
    let mut options = LoadOptions::default().set_all(overrides);
    options.overrides_called = "--set";
    let experiment = Experiment::load(&file, &options)?;
    // What `sim run` says of a key without an effect; the rest was said by the import.
    let is_changed = |notice: &&String| args.changes.iter().any(|(key, _)| notice.contains(key));
    experiment.notices.iter().filter(is_changed).for_each(|notice| note(notice));

    let mut changes = written_changes(&request, &file)?;
    changes.extend(args.changes.iter().map(|(key, value)| (key.clone(), read(value))));
    let patched = import::patch(&request, &changes, args.effect.as_deref())?;
    let out = args.out.clone().unwrap_or_else(|| args.folder.join("patch"));
    holds_no_other(&out, &patched.files)?;
    print(&write_patch(&out, &patched.files)?)
}

/// A value as it was typed: TOML, else text.
fn read(value: &str) -> toml::Value {
    value.parse().unwrap_or_else(|_| toml::Value::String(value.to_owned()))
}

/// An imported experiment whose recommendation is written as what is deployed.
pub(super) struct Deployment {
    request: Request,
    /// What differs from what was imported without the recommendation.
    changes: BTreeMap<String, toml::Value>,
    out: PathBuf,
}

impl Deployment {
    /// Of the experiment that was typed, with the keys that arguments set; `out` is where the
    /// change goes.
    pub(super) fn of(typed: &Path, overrides: &[String], out: PathBuf) -> Result<Self, CliError> {
        let is_file = typed.file_name().is_some_and(|name| name == EXPERIMENT_FILE);
        let folder = if is_file { typed.parent().unwrap_or(Path::new("")) } else { typed };
        let request = kept(folder)?;
        let mut changes = written_changes(&request, &folder.join(EXPERIMENT_FILE))?;
        for (key, value) in overrides.iter().filter_map(|set| set.split_once('=')) {
            let section = key.split('.').next().unwrap_or_default().trim();
            if ["cluster", "engine", "router"].contains(&section) {
                add_change(&mut changes, key.trim(), read(value.trim()));
            }
        }
        Ok(Self { request, changes, out })
    }

    /// Takes away what an earlier recommendation wrote.
    pub(super) fn clear(&self) -> Result<(), CliError> {
        let Ok(entries) = std::fs::read_dir(&self.out) else { return Ok(()) };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let text = read_at_most(&path, MOST_BYTES).unwrap_or_default();
            if text.lines().take(2).any(|line| line.starts_with(&format!("# {RECOMMENDED}"))) {
                std::fs::remove_file(&path).map_err(|error| {
                    let allowed = format!("a folder that can be written: {error}");
                    Invalid::new("--out", self.out.display(), allowed)
                })?;
            }
        }
        Ok(())
    }

    /// Writes a recommendation as what is deployed; gives what was written, and what that
    /// leaves out.
    pub(super) fn write(mut self, found: &Recommendation) -> Result<String, CliError> {
        let Some(effect) = found.effect() else {
            return Ok("nothing is recommended, so there is nothing to deploy\n".to_owned());
        };
        for (key, value) in &found.change {
            if let Ok(value) = toml::Value::try_from(value) {
                add_change(&mut self.changes, key, value);
            }
        }
        let part = import::patch_part(&self.request, &self.changes, &effect)?;
        let mut said = String::new();
        for line in &part.not_expressed {
            let _ = writeln!(said, "not expressed: {line}");
        }
        match part.patched {
            Some(patched) => {
                holds_no_other(&self.out, &patched.files)?;
                said.insert_str(0, &write_patch(&self.out, &patched.files)?);
            }
            None if said.is_empty() => said.push_str("what is recommended is deployed already\n"),
            None => {}
        }
        Ok(said)
    }
}

/// Adds a change, unless it says how things are.
fn add_change(changes: &mut BTreeMap<String, toml::Value>, key: &str, value: toml::Value) {
    if import::is_fact(key) {
        note(&format!("{key} = {value} says how things are, and is not deployed"));
    } else {
        changes.insert(key.to_owned(), value);
    }
}

/// What the experiment in a file has other than it was imported.
fn written_changes(
    request: &Request,
    file: &Path,
) -> Result<BTreeMap<String, toml::Value>, CliError> {
    let base = import::deployed(&import::import(request)?.experiment)?;
    let now = import::deployed(&text(file)?)?;
    for key in base.keys().filter(|key| !now.contains_key(*key)) {
        let file = file.display();
        warn(&format!("{key} is in no line of {file} any more: what was imported stays"));
    }
    let mut changes = BTreeMap::new();
    for (key, value) in now {
        if base.get(&key).is_none_or(|before| !import::is_same(before, &value)) {
            add_change(&mut changes, &key, value);
        }
    }
    Ok(changes)
}

/// Writes the files of a change; gives how each is applied.
fn write_patch(out: &Path, files: &[PatchFile]) -> Result<String, CliError> {
    let at = |file: &PatchFile| out.join(&file.name);
    let written: Vec<_> = files.iter().map(|file| (at(file), &file.text)).collect();
    write_files(&written)?;
    let line = |file: &PatchFile| format!("wrote {}: {}\n", at(file).display(), file.apply);
    Ok(files.iter().map(line).collect())
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
    Ok(Request { name: init::name(folder)?, files, command, workers, log: None, gpu })
}

impl From<PatchError> for CliError {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Import(error) => error.into(),
            other => Self::Patch(other),
        }
    }
}
