//! Rules of the source tree itself: which module may use which, how long a file
//! may be, and what must not be in one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The modules from the bottom up: each may use itself and what lies in lower
/// rows, nothing beside it and nothing above.
const LAYERS: [&[&str]; 12] = [
    &["time", "id", "rng", "stats", "tournament"],
    &["settings", "request", "queue"],
    &["event", "truth"],
    &["kv", "metrics"],
    &["engine", "router", "workload"],
    &["fleet", "recorder"],
    &["simulation"],
    &["experiment"],
    &["report"],
    &["frontier", "plot", "accuracy", "live", "serve"],
    &["calibrate"],
    &["cli", "main"],
];

/// What must not be in the sources, and what to use in its place. The last part
/// names the only places where it may be.
const BANNED: [(&str, &str, &[&str]); 14] = [
    ("HashMap", "BTreeMap, an index or hashbrown::HashTable: the order must be the same", DYNAMO),
    ("HashSet", "BTreeSet or a sorted Vec: the order must be the same", DYNAMO),
    (
        "SystemTime",
        "SimTime: nothing may depend on the wall clock",
        &["src/cli/", "src/fleet/live", "src/serve"],
    ),
    // The production router counts from an epoch of its clock; no decision depends on it.
    (
        "Instant::now",
        "SimTime: nothing may depend on the wall clock",
        &["src/cli/", "src/router/dynamo/", "src/fleet/live", "src/serve"],
    ),
    ("thread_rng", "rng::stream: every draw has a seed", &[]),
    ("StdRng", "rng::stream: portable between releases", &[]),
    ("RefCell", "ownership: whatever crosses a thread is Send", &[]),
    (
        "async fn",
        "a plain function: the clock lives in the fleet",
        &["src/fleet/live", "src/serve"],
    ),
    ("unsafe ", "safe code", &[]),
    ("dbg!", "nothing: the library does not print", &[]),
    ("todo!", "the missing part", &[]),
    ("unimplemented!", "the missing part", &[]),
    ("TODO", "the missing part, or an entry in the tracker", &[]),
    ("FIXME", "the repair, or an entry in the tracker", &[]),
];

/// The adapter whose counterpart speaks in standard maps.
const DYNAMO: &[&str] = &["src/router/dynamo"];

const MOST_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below the folders, by path from the root, with its text.
fn sources(folders: &[&str]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    open.retain(|folder| folder.is_dir());
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root");
                let text = std::fs::read_to_string(&path).expect("UTF-8 text");
                found.insert(name.display().to_string(), text);
            }
        }
    }
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// The module that a file of `src/` belongs to; `None` for the list of modules.
fn module(file: &str) -> Option<&str> {
    let path = file.strip_prefix("src/").expect("a file of src/");
    let first = path.split('/').next().expect("a first part");
    Some(first.strip_suffix(".rs").unwrap_or(first)).filter(|&module| module != "lib")
}

/// The lines of `text` with their numbers, comments apart.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Names that follow `crate::` in the code of `text`.
fn uses(text: &str) -> impl Iterator<Item = (usize, &str)> {
    code(text).flat_map(|(number, line)| {
        ["crate::", "kv_router_sim::"].into_iter().flat_map(move |root| {
            line.match_indices(root).map(move |(at, _)| {
                let rest = &line[at + root.len()..];
                let end = rest.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
                (number, &rest[..end.unwrap_or(rest.len())])
            })
        })
    })
}

#[test]
fn modules_use_lower_layers_only() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for (file, text) in &sources(&["src"]) {
        let Some(own) = module(file) else { continue };
        let Some(from) = layer(own) else {
            wrong.push(format!("{file}: module {own} has no layer: add it to LAYERS"));
            continue;
        };
        for (line, used) in uses(text) {
            checked += 1;
            let allowed = used == own || layer(used).is_some_and(|to| to < from);
            if !allowed {
                wrong.push(format!("{file}:{line}: {own} uses {used}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 200, "only {checked} uses were found: is the search broken?");
}

#[test]
fn every_module_of_the_library_has_a_layer_and_a_use() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("the library");
    let declared: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "))
        .map(|line| line.trim_end_matches(';'))
        .collect();
    assert!(declared.len() > 15, "{declared:?}");
    for module in declared {
        assert!(layer(module).is_some(), "module {module} has no layer: add it to LAYERS");
    }
}

#[test]
fn files_stay_short() {
    let long: Vec<String> = sources(&["src", "tests", "benches"])
        .iter()
        .map(|(file, text)| (file, text.lines().count()))
        .filter(|&(_, lines)| lines > MOST_LINES)
        .map(|(file, lines)| format!("{file} has {lines} lines, more than {MOST_LINES}: split it"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn banned_words_stay_out() {
    let mut wrong = Vec::new();
    for (file, text) in &sources(&["src"]) {
        for (number, line) in code(text) {
            for (word, instead, except) in BANNED {
                let allowed = except.iter().any(|place| file.starts_with(place));
                if line.contains(word) && !allowed {
                    wrong.push(format!("{file}:{number}: {word:?}: use {instead}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
