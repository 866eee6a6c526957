//! What the program is made of: every package under a licence that deny.toml allows,
//! and in one version unless it names the exception.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

#[derive(Deserialize)]
struct Deny {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    package: String,
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

#[derive(Deserialize)]
struct Skip {
    /// `name@version`.
    #[serde(rename = "crate")]
    package: String,
}

/// A package that is built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
}

fn deny() -> Deny {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    toml::from_str(&std::fs::read_to_string(file).expect("it is there")).expect("good TOML")
}

/// What is built on the targets of `deny`, with all features, tests included.
fn packages(deny: &Deny) -> BTreeSet<Package> {
    let mut all = BTreeSet::new();
    for target in &deny.graph.targets {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--all-features", "--target", target])
            .args(["--edges", "normal,build,dev", "--prefix", "none", "--format", "{p}|{l}"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            // `name v1.2.3 (where, or proc-macro)|MIT (*)`
            let (package, licence) = line.split_once('|').expect(line);
            let mut words = package.split(' ');
            let name = words.next().expect(line).to_owned();
            let version = words.next().and_then(|word| word.strip_prefix('v')).expect(line);
            let licence = licence.trim_end_matches("(*)").trim().to_owned();
            all.insert(Package { name, version: version.to_owned(), licence });
        }
    }
    assert!(all.len() > 100, "only {} packages", all.len());
    all
}

/// Whether an SPDX expression can be met with these licences.
fn allows(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    /// `OR` binds less than `AND`, which binds less than `WITH`.
    fn any(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
        let mut met = all(words, allowed);
        while let ["OR" | "/", rest @ ..] = *words {
            *words = rest;
            met |= all(words, allowed);
        }
        met
    }
    fn all(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
        let mut met = one(words, allowed);
        while let ["AND", rest @ ..] = *words {
            *words = rest;
            met &= one(words, allowed);
        }
        met
    }
    fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> bool {
        match *words {
            ["(", rest @ ..] => {
                *words = rest;
                let met = any(words, allowed);
                assert_eq!(words.first(), Some(&")"), "a bracket is open");
                *words = &words[1..];
                met
            }
            [licence, "WITH", exception, rest @ ..] => {
                *words = rest;
                allowed(&format!("{licence} WITH {exception}")) || allowed(licence)
            }
            [licence, rest @ ..] => {
                *words = rest;
                allowed(licence)
            }
            [] => panic!("an expression without an end"),
        }
    }
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " / ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let met = any(&mut rest, allowed);
    assert!(rest.is_empty(), "{expression}: not understood from {rest:?} on");
    met
}

#[test]
fn every_licence_is_allowed() {
    let deny = deny();
    let mut excepted = BTreeSet::new();
    for Package { name, version, licence } in packages(&deny) {
        assert!(!licence.is_empty(), "{name} {version} names no licence");
        let exception = deny.licenses.exceptions.iter().find(|other| other.package == name);
        let is_plain = allows(&licence, &|licence| deny.licenses.allow.contains(licence));
        let is_excepted = exception.is_some_and(|exception| {
            allows(&licence, &|licence| exception.allow.contains(licence))
        });
        assert!(
            is_plain || is_excepted,
            "{name} {version} is under {licence}, which deny.toml does not allow"
        );
        if !is_plain {
            excepted.insert(name);
        }
    }
    let named = deny.licenses.exceptions.into_iter().map(|exception| exception.package).collect();
    assert_eq!(excepted, named, "exceptions of deny.toml");
}

#[test]
fn no_package_is_there_twice_unless_deny_toml_says_why() {
    let deny = deny();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Package { name, version, .. } in packages(&deny) {
        versions.entry(name).or_default().insert(version);
    }
    let mut skipped: BTreeSet<String> =
        deny.bans.skip.into_iter().map(|skip| skip.package).collect();
    for (name, versions) in versions {
        let old: Vec<&String> = versions
            .iter()
            .filter(|version| !skipped.contains(&format!("{name}@{version}")))
            .collect();
        assert!(old.len() == 1, "{name} is there as {versions:?}");
        versions.iter().for_each(|version| {
            skipped.remove(&format!("{name}@{version}"));
        });
    }
    assert!(skipped.is_empty(), "deny.toml skips {skipped:?}, which are not there");
}

#[test]
fn expressions_are_met_by_what_they_say() {
    let allowed = |licence: &str| ["MIT", "ISC", "Apache-2.0"].contains(&licence);
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-3.0 OR MIT AND GPL-2.0", false),
    ] {
        assert_eq!(allows(expression, &allowed), met, "{expression}");
    }
}
