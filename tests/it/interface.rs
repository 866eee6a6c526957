//! The public interface is the one that tests/interface.txt records: what a program that
//! uses the library can see changes on purpose or not at all.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where `cargo doc --no-deps --all-features` writes.
fn documentation() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("doc").join("kv_router_sim")
}

/// Pages of items below a folder, in order of their paths.
fn pages(folder: &Path, all: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("cargo doc --no-deps --all-features was run") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            pages(&path, all);
        } else if name.ends_with(".html") && name.matches('.').count() == 2 {
            all.insert(path);
        }
    }
}

/// The text of a piece of a page, on one line.
fn plain(html: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for c in html.chars() {
        match c {
            '<' => is_tag = true,
            '>' => is_tag = false,
            c if !is_tag => text.push(c),
            _ => {}
        }
    }
    let text = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(text, |text, (from, to)| text.replace(from, to));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands between `start` and `end`, each time.
fn between<'a>(html: &'a str, start: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    html.split(start).skip(1).filter_map(move |rest| rest.split_once(end).map(|(found, _)| found))
}

/// One line for each item and each of its own functions.
fn interface(documentation: &Path) -> String {
    let mut all = BTreeSet::new();
    pages(documentation, &mut all);
    let mut text = String::new();
    for page in all {
        let html = fs::read_to_string(&page).expect("readable");
        // What a type has by implementing traits says its derives, and much of it is the
        // compiler's.
        let own = html.split("id=\"trait-implementations\"").next().unwrap_or_default();
        let own = own.split("id=\"synthetic-implementations\"").next().unwrap_or_default();
        let path = page.strip_prefix(documentation).expect("below").with_extension("");
        let path = path.display().to_string().replace('/', "::");
        for declaration in between(own, "<pre class=\"rust item-decl\"><code>", "</code></pre>") {
            let _ = writeln!(text, "{path}: {}", plain(declaration));
        }
        if path.rsplit("::").next().is_some_and(|name| name.starts_with("trait.")) {
            continue;
        }
        for function in between(own, "<h4 class=\"code-header\">", "</h4>") {
            let _ = writeln!(text, "{path}: {}", plain(function));
        }
    }
    text
}

#[test]
#[ignore = "needs cargo doc --no-deps --all-features; SIM_UPDATE=1 writes the record"]
fn the_interface_is_the_one_recorded() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interface.txt");
    let now = interface(&documentation());
    assert!(now.contains("struct.") && now.contains("pub fn"), "no interface was found: {now}");
    if std::env::var_os("SIM_UPDATE").is_some() {
        fs::write(&file, &now).expect("written");
        return;
    }
    let recorded = fs::read_to_string(&file).unwrap_or_default();
    let (before, after): (BTreeSet<&str>, BTreeSet<&str>) =
        (recorded.lines().collect(), now.lines().collect());
    let gone: Vec<&&str> = before.difference(&after).collect();
    let new: Vec<&&str> = after.difference(&before).collect();
    assert!(
        gone.is_empty() && new.is_empty(),
        "the public interface has changed: gone {gone:#?}, new {new:#?}; if it should, run \
         SIM_UPDATE=1 cargo test --all-features --test it the_interface_is -- --ignored"
    );
}
