//! Rules of the source tree itself: which module may use which, how long a file
//! may be, and what must not be in one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules from the bottom up: each may use itself and what lies in lower
/// rows, nothing beside it and nothing above.
const LAYERS: [&[&str]; 13] = [
    &["time", "id", "rng", "stats", "tournament", "catalogue", "http", "json"],
    &["settings", "request", "queue"],
    &["event", "truth"],
    &["kv", "metrics"],
    &["engine", "router", "workload"],
    &["fleet", "recorder"],
    &["simulation"],
    &["experiment"],
    &["report", "exposition"],
    &["frontier", "plot", "accuracy", "live", "serve", "replay", "import"],
    &["calibrate", "recommend", "results"],
    &["ui"],
    &["cli", "main"],
];

/// What must not be in the sources, and what to use in its place. The last part
/// names the only places where it may be.
const BANNED: [(&str, &str, &[&str]); 18] = [
    ("HashMap", "BTreeMap, an index or hashbrown::HashTable: the order must be the same", DYNAMO),
    ("HashSet", "BTreeSet or a sorted Vec: the order must be the same", DYNAMO),
    (
        "SystemTime",
        "SimTime: nothing may depend on the wall clock",
        &["src/cli/", "src/fleet/servers", "src/serve"],
    ),
    // The production router counts from an epoch of its clock, and a router outside has so
    // long to answer; no decision depends on it.
    (
        "Instant::now",
        "SimTime: nothing may depend on the wall clock",
        &[
            "src/cli/",
            "src/router/dynamo/",
            "src/router/external/process.rs",
            "src/fleet/servers",
            "src/serve",
            "src/ui",
        ],
    ),
    ("thread_rng", "rng::stream: every draw has a seed", &[]),
    ("StdRng", "rng::stream: portable between releases", &[]),
    ("RefCell", "ownership: whatever crosses a thread is Send", &["src/plot/canvas.rs"]),
    (
        "async fn",
        "a plain function: the clock lives in the fleet",
        &["src/fleet/servers", "src/http.rs", "src/serve", "src/ui"],
    ),
    ("unsafe ", "safe code", &[]),
    ("dbg!", "nothing: the library does not print", &[]),
    ("todo!", "the missing part", &[]),
    ("unimplemented!", "the missing part", &[]),
    ("Rules::Vllm", "what the engine's Defaults or Scheduler say", ENGINES),
    ("Rules::Trtllm", "what the engine's Defaults or Scheduler say", ENGINES),
    ("RulesName::Vllm", "what the engine's Defaults or Scheduler say", ENGINES),
    ("RulesName::Trtllm", "what the engine's Defaults or Scheduler say", ENGINES),
    ("TODO", "the missing part, or an entry in the tracker", &[]),
    ("FIXME", "the repair, or an entry in the tracker", &[]),
];

/// The folders of the engines: no other file asks which engine a worker follows.
const ENGINES: &[&str] = &["src/engine/rules/"];

/// The adapter whose counterpart speaks in standard maps.
const DYNAMO: &[&str] = &["src/router/dynamo"];

/// A file is one idea. One that is longer than this is more.
const MOST_LINES: usize = 1_000;

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

/// Words of stilted English, and what to say instead.
const STILTED: [(&str, &str); 6] = [
    ("somebody", "the one that does it: a router, a client, a worker"),
    ("anybody", "the one that does it: a router, a client, a worker"),
    ("everybody", "all workers, all clients, every reader"),
    ("nobody", "no worker, no request, no one who reads"),
    ("anew", "again, or what happens: restarts, starts empty"),
    ("is told", "hears, learns, gets, is configured to"),
];

#[test]
fn texts_are_in_plain_english() {
    let mut texts = sources(&["src", "examples"]);
    texts.retain(|file, _| !file.contains("test"));
    let docs = std::fs::read_dir(root().join("docs")).expect("docs");
    let docs = docs.map(|entry| entry.expect("an entry").path());
    for path in docs.chain([root().join("README.md")]) {
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            texts.insert(name, std::fs::read_to_string(&path).expect("UTF-8 text"));
        }
    }
    let mut wrong = Vec::new();
    for (file, text) in &texts {
        for (number, line) in (1..).zip(text.lines()) {
            let lower = line.to_lowercase();
            for (word, instead) in STILTED {
                let is_word = |(at, _): (usize, &str)| {
                    let letter = |c: Option<char>| c.is_some_and(char::is_alphabetic);
                    !letter(lower[..at].chars().next_back())
                        && !letter(lower[at + word.len()..].chars().next())
                };
                if lower.match_indices(word).any(is_word) {
                    wrong.push(format!("{file}:{number}: {word:?}: say {instead}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(texts.len() > 200, "only {} texts were found", texts.len());
}

/// Options that texts of the library may name: those of vLLM and of kubectl, and the command
/// that a written file comes from.
const OPTIONS_IN_TEXTS: [(&str, &str); 6] = [
    ("src/import/patch.rs", "--no-{name}"),
    ("src/import/patch.rs", "--patch-file"),
    ("src/import/patch.rs", "--type merge"),
    ("src/fleet/servers/", "--kv-events-config"),
    ("src/fleet/servers/", "--enable-prompt-tokens-details"),
    ("src/report/judge/baseline.rs", "`sim check --update`"),
];

/// The program, and pages that show its commands.
const OF_THE_PROGRAM: [&str; 5] = [
    "src/cli",
    "src/main.rs",
    "src/metrics/page.rs",
    "src/accuracy/page.rs",
    "src/report/render/html.rs",
];

/// The library speaks of keys; the command line adds the names of its arguments.
#[test]
fn the_library_names_no_argument_of_the_command_line() {
    let mut wrong = Vec::new();
    for (file, text) in &sources(&["src"]) {
        if OF_THE_PROGRAM.iter().any(|place| file.starts_with(place)) || file.contains("tests") {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().expect("a first part");
        for (number, line) in code(text) {
            let line = OPTIONS_IN_TEXTS
                .iter()
                .filter(|(place, _)| file.starts_with(place))
                .fold(line.to_owned(), |line, (_, allowed)| line.replace(allowed, ""));
            let is_option = |(at, _): (usize, &str)| {
                line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
                    && (at == 0 || !line.as_bytes()[at - 1].is_ascii_alphanumeric())
            };
            if line.match_indices("--").any(is_option) {
                wrong.push(format!("{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "name the key, and let src/cli/ add the argument:\n{}",
        wrong.join("\n")
    );
}

/// The paths that a file uses, and the names that it hands on.
struct Uses {
    /// Paths as they are written, from `crate`, `super` or a child.
    used: Vec<String>,
    /// Of `pub use`: name, and what it stands for.
    aliases: Vec<(String, String)>,
    /// Types that it implements methods of. A type of its parent that is spread over several
    /// files is one thing: to implement a part of it is no use of it.
    extended: BTreeSet<String>,
}

/// `a::{b, c::{self, D as E}}` as single paths, each with the name that it gets.
fn expand(tree: &str) -> Vec<(String, String)> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, name) = match tree.split_once(" as ") {
            Some((path, name)) => (path.trim(), name.trim()),
            None => (tree, tree.rsplit("::").next().expect("a last part")),
        };
        return vec![(path.to_owned(), name.to_owned())];
    };
    let (before, inside) = (&tree[..open], &tree[open + 1..tree.rfind('}').expect("closed")]);
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in inside.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().expect("one at least").push(c),
        }
    }
    let whole = before.trim_end_matches("::");
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts
        .flat_map(|part| match part {
            "self" => expand(whole),
            part => expand(&format!("{before}{part}")),
        })
        .collect()
}

/// True for what may follow `use`, and not for a line of a message that begins with it.
fn is_path(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_:{}, *;".contains(c);
    text.chars().all(is_allowed) && (text.contains("::") || text.ends_with(';'))
}

fn uses_of(text: &str) -> Uses {
    // Tests stand last in a file, and may use what they like.
    let text = text.split("\nmod tests {").next().expect("a first part");
    let text: String = code(text).flat_map(|(_, line)| [line, "\n"]).collect();
    let (mut used, mut aliases) = (Vec::new(), Vec::new());
    let mut rest = String::new();
    let mut statement: Option<(bool, String)> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if statement.is_none() {
            let visible = trimmed.starts_with("pub");
            let after = match visible {
                true => trimmed.find("use ").filter(|&at| at < 25).map(|at| &trimmed[at..]),
                false => Some(trimmed),
            };
            let after = after.and_then(|text| text.strip_prefix("use "));
            statement = after.filter(|text| is_path(text)).map(|text| (visible, text.to_owned()));
            if statement.is_none() {
                rest += line;
                rest.push('\n');
            }
        } else if let Some((_, text)) = &mut statement {
            text.push_str(trimmed);
        }
        if statement.as_ref().is_some_and(|(_, text)| text.ends_with(';')) {
            let (visible, text) = statement.take().expect("just looked at");
            for (path, name) in expand(text.trim_end_matches(';')) {
                match visible {
                    true => aliases.push((name, path)),
                    false => used.push(path),
                }
            }
        }
    }
    for root in ["crate::", "super::"] {
        for (at, _) in rest.match_indices(root) {
            let is_part =
                rest[..at].ends_with(|c: char| c == ':' || c == '_' || c.is_alphanumeric());
            let is_visibility = rest[..at].ends_with("in ");
            if !is_part && !is_visibility {
                let path = &rest[at..];
                let end = path.find(|c: char| c != ':' && c != '_' && !c.is_ascii_alphanumeric());
                used.push(path[..end.unwrap_or(path.len())].trim_end_matches(':').to_owned());
            }
        }
    }
    // What a file hands on and uses itself, it uses.
    let own = aliases.iter().filter(|(name, _)| rest.contains(name.as_str()));
    used.extend(own.map(|(_, path)| path.clone()));
    let blocks = rest.lines().filter(|line| line.starts_with("impl") && !line.contains(" for "));
    let extended = blocks.filter_map(|line| {
        // `impl<'a, F: Fleet> Simulation<'a, F> {`
        let line = line.trim_end_matches('{').trim();
        let line = line.rsplit("> ").find(|part| !part.starts_with("impl<")).unwrap_or(line);
        let name = line.trim_start_matches("impl ");
        name.split(|c: char| !c.is_ascii_alphanumeric()).next().map(str::to_owned)
    });
    let extended = extended.collect();
    Uses { used, aliases, extended }
}

/// The files of `src/` by the path of their module, each with the modules that it uses.
fn graph() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let is_test = |file: &str| file.contains("test");
    let files: BTreeMap<Vec<String>, Uses> = sources(&["src"])
        .iter()
        .filter(|(file, _)| !is_test(file))
        .map(|(file, text)| {
            let path = file.trim_start_matches("src/").trim_end_matches(".rs");
            let mut path: Vec<String> = path.split('/').map(str::to_owned).collect();
            if path.last().is_some_and(|last| last == "mod" || last == "lib") {
                path.pop();
            }
            (path, uses_of(text))
        })
        .collect();
    let absolute = |own: &[String], path: &str| -> Vec<String> {
        let mut at = own.to_vec();
        let mut parts = path.split("::").peekable();
        match parts.peek() {
            Some(&"crate") => at.clear(),
            Some(&("super" | "self")) => {}
            _ => return at.into_iter().chain(parts.map(str::to_owned)).collect(),
        }
        for part in parts {
            match part {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                part => at.push(part.to_owned()),
            }
        }
        at
    };
    // The file in which what a path names stands, through what others hand on.
    let resolve = |own: &[String], path: &str| -> Option<Vec<String>> {
        let mut path = absolute(own, path);
        for _ in 0..8 {
            let len = (0..=path.len()).rev().find(|&len| files.contains_key(&path[..len]))?;
            let (module, name) = (path[..len].to_vec(), path.get(len));
            let aliases = &files[&module].aliases;
            let alias = name.and_then(|name| aliases.iter().find(|(other, _)| other == name));
            let Some((_, stands_for)) = alias else { return Some(module) };
            path = absolute(&module, stands_for);
        }
        None
    };
    let used = |(own, uses): (&Vec<String>, &Uses)| {
        let is_part = |path: &&String| {
            let name = path.rsplit("::").next().expect("a last part");
            let parent = resolve(own, path).filter(|file| own.starts_with(file));
            parent.is_some() && uses.extended.contains(name)
        };
        let used = uses.used.iter().filter(|path| !is_part(path));
        let used = used.filter_map(|path| resolve(own, path));
        (own.clone(), used.filter(|other| other != own && !other.is_empty()).collect())
    };
    files.iter().map(used).collect()
}

#[test]
fn files_of_a_module_use_each_other_in_one_direction() {
    let graph = graph();
    let mut edges = 0;
    let mut wrong = Vec::new();
    let modules: BTreeSet<&String> = graph.keys().filter_map(|path| path.first()).collect();
    for module in modules {
        let inside = |path: &Vec<String>| path.first() == Some(module);
        let mut left: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = graph
            .iter()
            .filter(|(path, _)| inside(path))
            .map(|(path, used)| (path, used.iter().filter(|path| inside(path)).collect()))
            .collect();
        edges += left.values().map(BTreeSet::len).sum::<usize>();
        // Whatever uses nothing that is left, and then whatever is used by nothing that
        // is left, is in no circle.
        loop {
            let before = left.len();
            let names: BTreeSet<&Vec<String>> = left.keys().copied().collect();
            left.values_mut().for_each(|used| used.retain(|path| names.contains(path)));
            left.retain(|_, used| !used.is_empty());
            let used: BTreeSet<&Vec<String>> = left.values().flatten().copied().collect();
            left.retain(|path, _| used.contains(path));
            if left.len() == before {
                break;
            }
        }
        if !left.is_empty() {
            let line = |(path, used): (&&Vec<String>, &BTreeSet<&Vec<String>>)| {
                let used: Vec<String> = used.iter().map(|path| path.join("::")).collect();
                format!("  {} uses {}", path.join("::"), used.join(", "))
            };
            let lines: Vec<String> = left.iter().map(line).collect();
            wrong.push(format!(
                "files of {module} use each other in a circle:\n{}",
                lines.join("\n")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edges > 300, "only {edges} uses were found: is the search broken?");
}
