//! `sim init`.

use super::error::CliError;
use super::talk::print;
use kv_router_sim::catalogue::{self, EXPERIMENT_FILE, Kind};
use kv_router_sim::experiment::write_files;
use kv_router_sim::settings::Invalid;
use std::path::{Path, PathBuf};

/// Write a commented experiment that runs as it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sim init my-fleet && sim run my-fleet
  sim init --from doks-3xh200 my-doks && sim run my-doks --seeds 1
  sim init --force my-fleet

Writes DIR/experiment.toml: an experiment named after the folder, which still works when moved. With
--from it is a copy of a shipped experiment, with the published numbers that it is compared with.")]
pub(crate) struct InitArgs {
    /// The folder; the experiment is named after it
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Copy this shipped experiment [default: a chat service on four H100]
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// What is written without `--from`.
const TEMPLATE: &str = include_str!("init/experiment.toml");

/// Writes the files; none if one would replace something else.
pub(super) fn run(args: &InitArgs) -> Result<(), CliError> {
    let name = name(&args.folder)?;
    let mut files = Vec::new();
    match &args.from {
        None => files.push((PathBuf::from(EXPERIMENT_FILE), renamed(TEMPLATE, &name).into_bytes())),
        Some(shipped) => {
            let source = catalogue::named(Kind::Experiment, shipped).map_err(|unknown| {
                let allowed = format!("an experiment that comes with sim: {}", unknown.hint());
                Invalid::new("--from", shipped, allowed)
            })?;
            let text = text(&source);
            files.push((PathBuf::from(EXPERIMENT_FILE), renamed(&text, &name).into_bytes()));
            files.extend(beside(&text, &source));
        }
    }
    write(&args.folder, "DIR", &files, args.force)?;
    let file = args.folder.join(EXPERIMENT_FILE);
    // A folder is enough to run it, except for the working folder.
    let shown = if args.folder == Path::new(".") { &file } else { &args.folder };
    print(&format!("wrote {}; run it with: sim run {}\n", file.display(), shown.display()))
}

/// Writes files into a folder, which `key` names in messages; none if one would replace
/// something else, unless by `force`.
pub(super) fn write<T: AsRef<[u8]>>(
    folder: &Path,
    key: &str,
    files: &[(PathBuf, T)],
    force: bool,
) -> Result<(), CliError> {
    for (file, content) in files.iter().filter(|_| !force) {
        let path = folder.join(file);
        if path.exists() && std::fs::read(&path).ok().as_deref() != Some(content.as_ref()) {
            let allowed = format!(
                "without a file {} of other content; choose another folder, or replace the file with \
                 --force",
                file.display()
            );
            return Err(Invalid::new(key, folder.display(), allowed).into());
        }
    }
    let files = files.iter().map(|(file, content)| (folder.join(file), content));
    Ok(write_files(&files.collect::<Vec<_>>())?)
}

/// What the experiment of a folder is called.
pub(super) fn name(folder: &Path) -> Result<String, Invalid> {
    let Some(last) = folder.file_name() else { return Ok("experiment".to_owned()) };
    let name = last.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_name = name.len() <= 100 && !name.starts_with('.') && name.chars().all(plain);
    let allowed = "a folder whose name can be that of an experiment: 1 to 100 letters, digits, '-', \
                   '_' or '.', not starting with '.'";
    Invalid::unless(is_name, "DIR", folder.display(), allowed)?;
    Ok(name.into_owned())
}

/// An experiment under another name. What is called `name` inside a table, a pool for
/// example, keeps its own.
fn renamed(text: &str, name: &str) -> String {
    let mut is_top = true;
    let rename = |line: &str| {
        is_top &= !line.starts_with('[');
        match line.strip_prefix("name = ").filter(|_| is_top) {
            Some(_) => format!("name = {name:?} # results go to plots/{name}\n"),
            None => format!("{line}\n"),
        }
    };
    text.lines().map(rename).collect()
}

/// The files that a shipped experiment names: the published numbers that it is compared with,
/// and the configuration of its router.
fn beside(text: &str, source: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let table: toml::Table = text.parse().expect("shipped experiments are TOML");
    let named = [("published", "file"), ("router", "config")]
        .into_iter()
        .filter_map(|(section, key)| Some(PathBuf::from(table.get(section)?.get(key)?.as_str()?)));
    let with_content = |file: PathBuf| {
        let shipped = catalogue::join(source.parent().unwrap_or(Path::new("")), &file);
        let content = catalogue::read(&shipped).expect("shipped with its experiment");
        (file, content.into_owned())
    };
    named.map(with_content).collect()
}

fn text(shipped: &Path) -> String {
    catalogue::read_text(shipped).expect("shipped experiments are text")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy must find everything from wherever it is.
    #[test]
    fn shipped_experiments_name_nothing_by_a_path_outside_of_their_folder() {
        for name in catalogue::names(Kind::Experiment) {
            let text = text(&catalogue::named(Kind::Experiment, name).expect("a name"));
            assert!(!text.contains("\"../"), "{name}");
            let table: toml::Table = text.parse().expect("TOML");
            assert!(table.get("workload").and_then(|load| load.get("path")).is_none(), "{name}");
            // Of the copy only the name changes.
            let mut copy: toml::Table = renamed(&text, "copy").parse().expect("TOML");
            let new = copy.insert("name".to_owned(), table["name"].clone());
            assert_eq!(new, Some("copy".into()), "{name}");
            assert_eq!(copy, table, "{name}");
        }
    }

    #[test]
    fn a_copy_has_the_published_numbers_and_the_configuration_of_the_router() {
        let source = catalogue::named(Kind::Experiment, "llmd-16xh100-precise").expect("a name");
        let files = beside(&text(&source), &source);
        let names: Vec<&str> = files.iter().filter_map(|(file, _)| file.to_str()).collect();
        assert_eq!(names, ["published/llmd-16xh100-precise.csv", "llmd-precise.yaml"]);
        assert!(files[1].1.starts_with(b"# llm-d's router by KV events"));
    }
}
