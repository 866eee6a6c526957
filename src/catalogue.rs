//! What travels with the program: models, GPUs, engines, experiments with what
//! was published of them, measurements and a trace.
//!
//! A shipped file has the path that it has in the repository, below [`ROOT`]:
//! `sim:/models/gpus/h100.toml`. [`read`] and [`open`] take such a path as well
//! as one on disk, and [`join`] keeps a shipped file's relative paths inside the
//! catalogue, so code that reads a file need not know where it comes from.
//!
//! People write names: [`experiment`] and [`named`] find the file that a name
//! means.

mod files;

use files::FILES;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// The first part of the path of every shipped file.
pub const ROOT: &str = "sim:";

/// The file that a folder made by `sim init` has its experiment in.
pub const EXPERIMENT_FILE: &str = "experiment.toml";

/// What a name can stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A fleet, a load and what to measure.
    Experiment,
    /// A network on a GPU under an engine.
    Model,
    /// A GPU's data sheet.
    Gpu,
    /// A network's dimensions.
    Shape,
    /// What an engine does by default.
    Engine,
    /// How much of a GPU's peaks an engine reaches.
    Efficiency,
}

impl Kind {
    /// The folders that have files of this kind, and nothing else below them but
    /// folders.
    const fn folders(self) -> &'static [&'static str] {
        match self {
            Self::Experiment => &["experiments/", "experiments/incidents/", "experiments/live/"],
            Self::Model => &["models/"],
            Self::Gpu => &["models/gpus/"],
            Self::Shape => &["models/shapes/"],
            Self::Engine => &["models/engines/"],
            Self::Efficiency => &["models/efficiencies/"],
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Experiment => "experiment",
            Self::Model => "model",
            Self::Gpu => "GPU",
            Self::Shape => "network",
            Self::Engine => "engine",
            Self::Efficiency => "set of efficiencies",
        }
    }
}

/// The versions that a shipped engine stands for, and what step times under it are.
const ENGINES: [(&str, &str); 10] = [
    ("trtllm", "TensorRT-LLM 1.0 to 1.3 as dense networks were measured; step times of 1.3.0rc20"),
    ("trtllm-1.2", "TensorRT-LLM up to 1.2; step times scaled from those of 1.3.0rc20"),
    ("trtllm-1.3", "TensorRT-LLM 1.0 to 1.3; step times measured under 1.3.0rc20"),
    ("trtllm-1.4", "TensorRT-LLM 1.4; step times measured under 1.3.0rc20"),
    ("vllm", "vLLM of 2025 with the limits of large GPUs; step times measured under 0.24.0"),
    ("vllm-0.12", "vLLM of 2025, up to 0.13; step times scaled from those of 0.24.0"),
    ("vllm-0.14", "vLLM 0.14; step times scaled from those of 0.24.0"),
    ("vllm-0.16", "vLLM 0.15 and 0.16; step times measured under 0.24.0"),
    ("vllm-0.24", "vLLM 0.17 to 0.24; step times measured under 0.24.0"),
    ("vllm-0.32", "vLLM 0.32, whose scheduling was recorded; step times measured under 0.24.0"),
];

/// The versions that a shipped engine stands for, and what step times under it are.
pub fn about_engine(name: &str) -> &'static str {
    ENGINES.iter().find(|(known, _)| *known == name).map_or("", |(_, about)| about)
}

/// A name that neither a file nor the catalogue has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no file, and no {} that comes with sim: {hint}", kind.noun())]
pub struct Unknown {
    kind: Kind,
    hint: String,
}

impl Unknown {
    /// The names that may be meant, or all there are.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The same, unless an experiment in `folder` has a name near to this one.
    fn or_beside(self, name: &str, folder: &Path) -> Self {
        let entries = std::fs::read_dir(Path::new(".").join(folder))
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        let experiment = |entry: std::fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let is_folder = entry.path().join(EXPERIMENT_FILE).is_file();
            (is_folder || name.ends_with(".toml")).then_some((name, is_folder))
        };
        // Up to so many: a folder may hold anything.
        let mut beside: Vec<(String, bool)> = entries.take(10_000).filter_map(experiment).collect();
        beside.sort_unstable();
        let distance = |(known, _): &(String, bool)| {
            strsim::damerau_levenshtein(name, known.strip_suffix(".toml").unwrap_or(known))
        };
        let near = beside.iter().min_by_key(|entry| distance(entry));
        match near.filter(|entry| distance(entry) <= (name.chars().count() / 3).max(2)) {
            Some((near, true)) => {
                Self { hint: format!("did you mean {near}/{EXPERIMENT_FILE}?"), ..self }
            }
            Some((near, false)) => Self { hint: format!("did you mean {near}?"), ..self },
            None => self,
        }
    }
}

/// The settings of `sim accuracy`, which stand among the experiments and are none.
pub const ACCURACY: &str = "sim:/experiments/accuracy.toml";

/// Names of all shipped files of a kind, in order.
pub fn names(kind: Kind) -> impl Iterator<Item = &'static str> {
    kind.folders().iter().flat_map(|folder| {
        FILES.iter().filter_map(move |(path, _)| {
            let name = path.strip_prefix(folder)?.strip_suffix(".toml")?;
            let is_accuracy = ACCURACY.ends_with(path);
            (!name.contains('/') && !is_accuracy).then_some(name)
        })
    })
}

/// The path of the shipped file of this name.
///
/// # Errors
/// If there is none; the error lists the nearest names.
pub fn named(kind: Kind, name: &str) -> Result<PathBuf, Unknown> {
    let found = kind.folders().iter().find_map(|folder| {
        let path = Path::new(ROOT).join(format!("{folder}{name}.toml"));
        (names(kind).any(|known| known == name) && is_file(&path)).then_some(path)
    });
    found.ok_or_else(|| Unknown { kind, hint: hint(kind, name) })
}

/// The file that `text`, seen from `folder`, means: a path if it looks like one
/// or is one, else the name of a shipped file.
///
/// # Errors
/// As [`named`].
pub fn find(kind: Kind, text: &str, folder: &Path) -> Result<PathBuf, Unknown> {
    let path = join(folder, Path::new(text));
    if is_path(text) || is_file(&path) {
        return Ok(path);
    }
    let found = named(kind, text);
    match kind {
        Kind::Experiment => found.map_err(|unknown| unknown.or_beside(text, folder)),
        _ => found,
    }
}

/// The file of an experiment as typed on a command line: a file, a folder that
/// `sim init` made, or the name of a shipped experiment.
///
/// # Errors
/// As [`named`].
pub fn experiment(typed: &Path) -> Result<PathBuf, Unknown> {
    let inside = typed.join(EXPERIMENT_FILE);
    if inside.is_file() {
        return Ok(inside);
    }
    match typed.to_str() {
        Some(text) if !is_path(text) && !typed.is_file() => {
            named(Kind::Experiment, text).map_err(|unknown| unknown.or_beside(text, Path::new(".")))
        }
        _ => Ok(typed.to_owned()),
    }
}

/// True for text that can only be a path: names have neither folders nor the
/// endings of our files.
fn is_path(text: &str) -> bool {
    let has_ending = [".toml", ".json"].iter().any(|ending| text.ends_with(ending));
    has_ending || text.contains(['/', '\\']) || text.is_empty() || [".", ".."].contains(&text)
}

/// `path` as a file in `folder` names it, without detours inside the catalogue.
pub fn join(folder: &Path, path: &Path) -> PathBuf {
    let joined = if is_shipped(path) { path.to_owned() } else { folder.join(path) };
    if !is_shipped(&joined) {
        return joined;
    }
    let mut straight = PathBuf::from(ROOT);
    for part in joined.components().skip(1) {
        match part {
            Component::ParentDir if straight != Path::new(ROOT) => {
                straight.pop();
            }
            Component::Normal(part) => straight.push(part),
            _ => {}
        }
    }
    straight
}

/// True for paths into the catalogue.
pub fn is_shipped(path: &Path) -> bool {
    path.components().next() == Some(Component::Normal(ROOT.as_ref()))
}

/// Where a file is written that `path` names: the catalogue itself cannot be
/// written, so its files go below the working folder.
pub fn writable(path: &Path) -> &Path {
    path.strip_prefix(ROOT).unwrap_or(path)
}

/// True if there is a file at `path`, shipped or on disk.
pub fn is_file(path: &Path) -> bool {
    if is_shipped(path) { shipped(path).is_some() } else { path.is_file() }
}

/// The content of a file, shipped or on disk.
///
/// # Errors
/// What the operating system says; for shipped files only that there is none.
pub fn read(path: &Path) -> io::Result<Cow<'static, [u8]>> {
    if is_shipped(path) {
        return shipped(path).map(Cow::Borrowed).ok_or_else(|| io::ErrorKind::NotFound.into());
    }
    std::fs::read(path).map(Cow::Owned)
}

/// As [`read`], of a file that is at most so long.
///
/// # Errors
/// As [`read`], and `FileTooLarge`.
pub fn read_at_most(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes {
        let problem = format!("it is larger than {most_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(bytes)
}

/// As [`read`], for text.
///
/// # Errors
/// Also if it is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "not UTF-8 text");
    String::from_utf8(read(path)?.into_owned()).map_err(not_text)
}

/// A file, shipped or on disk, to be read from its beginning.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    if is_shipped(path) {
        let bytes = shipped(path).ok_or(io::ErrorKind::NotFound)?;
        return Ok(Box::new(bytes));
    }
    Ok(Box::new(File::open(path)?))
}

fn shipped(path: &Path) -> Option<&'static [u8]> {
    let path = join(Path::new(""), path);
    let inside = path.strip_prefix(ROOT).ok()?.to_str()?;
    let at = FILES.binary_search_by(|(known, _)| (*known).cmp(inside)).ok()?;
    Some(FILES[at].1)
}

/// The names that may be meant by `name`, or all there are.
fn hint(kind: Kind, name: &str) -> String {
    /// More would not be read.
    const MOST: usize = 3;
    if kind == Kind::Engine && name.to_lowercase().starts_with("sglang") {
        return "SGLang's scheduler is not simulated; the rules of vllm-0.24 are the nearest"
            .to_owned();
    }
    if let Some(same) = names(kind).find(|known| known.eq_ignore_ascii_case(name)) {
        return format!("did you mean {same}?");
    }
    let parts = |name: &str| name.split(['-', '_']).map(str::to_owned).collect::<Vec<_>>();
    let wanted = parts(name);
    // Distance in typing, less what whole parts have in common.
    let mut near: Vec<(isize, &str)> = names(kind)
        .filter_map(|known| {
            let shared = parts(known).iter().filter(|part| wanted.contains(part)).count();
            let typed = strsim::damerau_levenshtein(name, known);
            let is_near = typed <= (name.chars().count() / 3).max(2) || 2 * shared >= wanted.len();
            is_near.then(|| (typed.cast_signed() - 4 * shared.cast_signed(), known))
        })
        .collect();
    near.sort_unstable();
    if near.is_empty() {
        return format!("there are {}", names(kind).collect::<Vec<_>>().join(", "));
    }
    let near = near.into_iter().take(MOST).map(|(_, known)| match about_engine(known) {
        about if kind == Kind::Engine => format!("{known} ({about})"),
        _ => known.to_owned(),
    });
    format!("did you mean {}?", near.collect::<Vec<_>>().join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of the files below a folder of the repository, with the endings given.
    fn on_disk(folder: &str, endings: &[&str], found: &mut Vec<String>) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for entry in std::fs::read_dir(root.join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let inside = path.strip_prefix(root).expect("below the root").display().to_string();
            if path.is_dir() {
                on_disk(&inside, endings, found);
            } else if endings.iter().any(|ending| inside.ends_with(ending)) {
                found.push(inside);
            }
        }
    }

    #[test]
    fn everything_in_the_repository_is_shipped_as_it_is() {
        let mut expected = vec!["docs/accuracy.csv".to_owned()];
        on_disk("experiments", &[".toml", ".csv", ".yaml"], &mut expected);
        // What `sim accuracy` takes in place of runs.
        expected.push("experiments/predictions/dynamo-ab-8xh200.json".to_owned());
        expected.push("experiments/kept/dynamo-ab-8xh200-2025.json".to_owned());
        on_disk("models", &[".toml", ".csv", ".gz"], &mut expected);
        on_disk("measured", &[".csv", ".gz"], &mut expected);
        on_disk("traces", &[".gz"], &mut expected);
        expected.sort_unstable();
        let shipped: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        assert_eq!(shipped, expected, "the list in src/catalogue/files.rs");
        for (path, bytes) in FILES {
            let disk = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path));
            assert!(*bytes == disk.expect("there"), "{path}");
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for kind in
            [Kind::Experiment, Kind::Model, Kind::Gpu, Kind::Shape, Kind::Engine, Kind::Efficiency]
        {
            let mut all: Vec<&str> = names(kind).collect();
            assert!(all.len() > 1, "{kind:?}: {all:?}");
            for name in &all {
                assert!(is_file(&named(kind, name).expect(name)), "{name}");
                assert!(!is_path(name), "{name}");
            }
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{kind:?}");
        }
    }

    #[test]
    fn wrong_names_list_the_near_ones() {
        let hint = |kind, name: &str| named(kind, name).expect_err(name).to_string();
        assert_eq!(
            hint(Kind::Model, "llama-3.1-70b-fp8-h200"),
            "no file, and no model that comes with sim: did you mean \
             llama-3.1-70b-fp8-h200-trtllm or llama-3.1-70b-fp8-b200-trtllm or \
             llama-3.1-70b-fp8-h100-tp2-trtllm?"
        );
        assert_eq!(
            hint(Kind::Gpu, "tpu-v5"),
            "no file, and no GPU that comes with sim: there are a100, b200, b300, gb200, h100, h200, l4, l40s, mi300x, rtx-pro-6000"
        );
        assert!(hint(Kind::Gpu, "H100").ends_with(": did you mean h100?"));
        assert!(hint(Kind::Experiment, "doks-3xh20").contains("did you mean doks-3xh200"));
        assert!(named(Kind::Experiment, "accuracy").is_err());
        assert!(named(Kind::Model, "gpus/h100").is_err());
    }

    #[test]
    fn engines_say_which_versions_they_stand_for() {
        let listed: Vec<&str> = ENGINES.iter().map(|(name, _)| *name).collect();
        let mut shipped: Vec<&str> = names(Kind::Engine).collect();
        shipped.sort_unstable();
        assert_eq!(listed, shipped);
        let hint = |name: &str| named(Kind::Engine, name).expect_err(name).to_string();
        assert!(hint("vllm-0.20").contains("vllm-0.24 (vLLM 0.17 to 0.24; step times measured"));
        assert!(hint("sglang-0.5").contains("SGLang's scheduler is not simulated"));
        // Scaled is what has kernels of its own.
        for (name, about) in ENGINES {
            let path = named(Kind::Engine, name).expect(name);
            let text = read_text(&path).expect(name);
            assert_eq!(text.contains("\n[kernels]"), about.contains("scaled"), "{name}");
        }
    }

    #[test]
    fn paths_stay_inside_the_catalogue() {
        let model = Path::new("sim:/models/a.toml");
        let joined = |path: &str| join(Path::new("sim:/experiments/live"), Path::new(path));
        assert_eq!(joined("../../models/a.toml"), model);
        assert_eq!(joined("../../../../../models/a.toml"), model);
        assert_eq!(joined("sim:/models/a.toml"), model);
        assert_eq!(joined("a.toml"), Path::new("sim:/experiments/live/a.toml"));
        assert_eq!(join(Path::new("x/y"), Path::new("../a")), Path::new("x/y/../a"));
        assert_eq!(writable(Path::new("sim:/docs/accuracy.md")), Path::new("docs/accuracy.md"));
        assert!(read(Path::new("sim:/nothing")).is_err());
    }

    #[test]
    fn what_was_typed_is_a_file_a_folder_or_a_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = |name: &str| folder.path().join(name);
        std::fs::create_dir(here("fleet")).expect("made");
        std::fs::write(here("fleet/experiment.toml"), "").expect("written");
        assert_eq!(experiment(&here("fleet")), Ok(here("fleet/experiment.toml")));
        assert_eq!(experiment(&here("none.toml")), Ok(here("none.toml")));
        let shipped = PathBuf::from("sim:/experiments/incidents/herding-589.toml");
        assert_eq!(experiment(Path::new("herding-589")), Ok(shipped));
        assert_eq!(
            find(Kind::Shape, "llama-3.1-8b", Path::new("x")),
            Ok("sim:/models/shapes/llama-3.1-8b.toml".into())
        );
        assert_eq!(
            find(Kind::Shape, "a/config.json", Path::new("x")),
            Ok("x/a/config.json".into())
        );
    }
}
