//! What README and docs show of the program is what it says: every shown command is run
//! and its whole output compared, every option named beside a command exists.
//!
//! In a fenced block a line that begins with `$ ` is a command, and what follows is what
//! it prints, both streams, as it stands there. A line in square brackets stands for any
//! number of lines, none included. The first line of a run (seeds, version, digest) may be
//! left out without saying so.

use super::program::text;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Documents whose commands go on from each other's results come in this order; all
/// others follow.
const FIRST: [&str; 1] = ["README.md"];

/// What else stands behind a `$ `, and why it is not run here.
const NOT_RUN: [(&str, &str); 4] = [
    ("cargo test", "these are the tests"),
    ("benches/live/real-vllm.sh", "installs vLLM"),
    ("sim calibrate --live", "needs a server"),
    ("sim live", "needs servers"),
];

/// A command as a document shows it.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    place: String,
    command: String,
    output: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Documents by their names below the repository, in the order in which they are run.
fn documents() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("docs"))
        .expect("there are docs")
        .map(|entry| format!("docs/{}", entry.expect("an entry").file_name().to_string_lossy()))
        .filter(|name| name.ends_with(".md"))
        .collect();
    names.sort();
    FIRST.iter().map(|name| (*name).to_owned()).chain(names).collect()
}

/// The commands of a document with the output that it shows.
fn shown(name: &str, document: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let (mut is_code, mut is_output) = (false, false);
    for (number, line) in (1..).zip(document.lines()) {
        // A block may be part of a list, and then is indented.
        let line = line.trim_end();
        if line.trim_start().starts_with("```") {
            (is_code, is_output) = (!is_code, false);
        } else if !is_code {
            continue;
        } else if let Some(command) = line.strip_prefix("$ ") {
            let (place, command) = (format!("{name}:{number}"), command.to_owned());
            all.push(Shown { place, command, output: Vec::new() });
            is_output = true;
        } else if let Some(last) = all.last_mut().filter(|_| is_output) {
            match last.command.strip_suffix('\\') {
                Some(begun) if last.output.is_empty() => {
                    last.command = format!("{begun}{}", line.trim_start());
                }
                _ => last.output.push(line.to_owned()),
            }
        }
    }
    for shown in &mut all {
        while shown.output.last().is_some_and(String::is_empty) {
            shown.output.pop();
        }
    }
    all
}

/// True for a line that stands for others.
fn is_gap(line: &str) -> bool {
    line.starts_with('[') && line.ends_with(']')
}

/// The first line of what is shown that `printed` does not have where it should; `None`
/// if all is as shown.
fn difference(shown: &[String], printed: &str) -> Option<String> {
    let mut printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
    while printed.last().is_some_and(|line| line.is_empty()) {
        printed.pop();
    }
    let mut rest = &printed[..];
    let has_head =
        rest.first().is_some_and(|line| line.contains("; sim ") && line.contains(", digest "));
    if has_head && shown.first().map(String::as_str) != rest.first().copied() {
        rest = &rest[1..];
        while let [first, more @ ..] = rest
            && first.is_empty()
        {
            rest = more;
        }
    }
    let mut is_anywhere = false;
    let pieces: Vec<&[String]> = shown.split(|line| is_gap(line)).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let mut piece = *piece;
        // An empty line beside a gap belongs to it.
        while at > 0 && piece.first().is_some_and(String::is_empty) {
            piece = &piece[1..];
        }
        while at + 1 < pieces.len() && piece.last().is_some_and(String::is_empty) {
            piece = &piece[..piece.len() - 1];
        }
        let is_here = |from: usize| {
            rest.len() >= from + piece.len() && piece.iter().zip(&rest[from..]).all(|(a, b)| a == b)
        };
        let is_last = at + 1 == pieces.len();
        let found = match (is_anywhere, is_last) {
            (_, true) if piece.is_empty() && is_anywhere => return None,
            (false, _) => is_here(0).then_some(0),
            (true, true) => rest.len().checked_sub(piece.len()).filter(|from| is_here(*from)),
            (true, false) => (0..=rest.len()).find(|from| is_here(*from)),
        };
        let Some(from) = found else {
            let same = piece.iter().zip(rest).take_while(|(a, b)| a == b).count();
            let line = if is_anywhere { piece.first() } else { piece.get(same) };
            return Some(line.map_or_else(|| "more than is printed".to_owned(), Clone::clone));
        };
        rest = &rest[from + piece.len()..];
        is_anywhere = true;
    }
    rest.first().map(|line| format!("nothing, and printed is: {line}"))
}

/// A folder with what the commands name, and the program on its path.
struct Workplace {
    folder: TempDir,
    path: String,
}

impl Workplace {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        for name in
            ["benches", "docs", "examples", "experiments", "measured", "models", "tests", "traces"]
        {
            copy(&root().join(name), &folder.path().join(name));
        }
        let programs = folder.path().join(".programs");
        fs::create_dir(&programs).expect("a fresh folder");
        let program =
            std::env::var_os("SIM_BIN").map_or(env!("CARGO_BIN_EXE_sim").into(), PathBuf::from);
        let program = program.canonicalize().expect("SIM_BIN names the program");
        std::os::unix::fs::symlink(program, programs.join("sim")).expect("a fresh name");
        let path = std::env::var("PATH").unwrap_or_default();
        Self { path: format!("{}:{path}", programs.display()), folder }
    }

    /// Exit code and what a command prints, then what it says beside that. One that serves
    /// until it is ended is ended as soon as it has said `lines` lines.
    fn run(&self, command: &str, lines: usize) -> (Option<i32>, String) {
        // Apart: what goes to a file is kept back by a program, and what it says is not.
        let [out, said] = [".out", ".said"].map(|name| self.folder.path().join(name));
        let file = |path: &Path| File::create(path).expect("a file");
        let mut child = Command::new("bash")
            .args(["-c", &format!("exec {command}")])
            .current_dir(self.folder.path())
            .env("PATH", &self.path)
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&said))
            .spawn()
            .expect("bash runs");
        #[expect(clippy::disallowed_methods, reason = "a server is waited for")]
        let began = Instant::now();
        while command.starts_with("sim serve") && began.elapsed() < Duration::from_secs(20) {
            let printed = fs::read_to_string(&out).unwrap_or_default();
            if printed.lines().count() >= lines
                || child.try_wait().is_ok_and(|ended| ended.is_some())
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if command.starts_with("sim serve") {
            let _ = child.kill();
        }
        let code = child.wait().expect("it ends").code();
        let mut printed = Vec::new();
        for path in [&out, &said] {
            File::open(path).expect("it is there").read_to_end(&mut printed).expect("readable");
        }
        (code, text(&printed).to_owned())
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a fresh folder");
    for entry in fs::read_dir(from).expect("it is there") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}

/// The program's own arguments, if the command is one of the program.
fn program(command: &str) -> Option<String> {
    let built = command.strip_prefix("cargo run --release -- ").map(|rest| format!("sim {rest}"));
    built.or_else(|| command.starts_with("sim ").then(|| command.to_owned()))
}

#[test]
#[ignore = "takes minutes with a program that is not optimised; SIM_BIN names another"]
fn every_shown_command_prints_what_is_shown() {
    let traces = std::env::var_os("SIM_TRACES");
    let place = Workplace::new();
    let (mut wrong, mut compared) = (String::new(), 0);
    for name in documents() {
        let document = fs::read_to_string(root().join(&name)).expect("readable");
        for Shown { place: at, command, output } in shown(&name, &document) {
            if NOT_RUN.iter().any(|(start, _)| command.starts_with(start)) {
                continue;
            }
            let Some(program) = program(&command) else {
                let _ = writeln!(wrong, "{at}: `{command}` is no command of the program");
                continue;
            };
            let (code, printed) = place.run(&program, output.len());
            let needs_traces = printed.contains("SIM_TRACES") && code == Some(2);
            if traces.is_none() && needs_traces {
                eprintln!("{at}: `{command}`: skipped, SIM_TRACES is not set");
                continue;
            }
            compared += 1;
            // A gate that fails is shown too; a server is ended from outside.
            let is_good = match code {
                Some(0) => true,
                Some(1) => program.starts_with("sim check"),
                Some(_) => false,
                None => program.starts_with("sim serve"),
            };
            let difference = difference(&output, &printed);
            if !is_good || difference.is_some() {
                let what = difference.unwrap_or_else(|| "a command that succeeds".to_owned());
                let _ = writeln!(
                    wrong,
                    "{at}: `{command}` ends with {code:?}\n  shown is: {what}\n  printed is:\n{printed}\n"
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(compared >= 20, "only {compared} commands were found");
}

/// What stands behind `sim NAME` in a code span or a line of code, option by option.
#[test]
fn every_option_named_beside_a_command_exists() {
    let mut checked = 0;
    for name in documents() {
        let document = fs::read_to_string(root().join(&name)).expect("readable");
        let mut is_code = false;
        for (number, line) in (1..).zip(document.lines()) {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
                continue;
            }
            let is_code = is_code || line.starts_with("    ");
            let spans: Vec<&str> =
                if is_code { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
            for span in spans {
                let span = span.trim_start().trim_start_matches("$ ");
                let Some(rest) = span.strip_prefix("sim ") else { continue };
                let words: Vec<&str> = rest.split_whitespace().collect();
                let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
                let command: Vec<&str> = match words.first() {
                    Some(&"trace") => words.iter().take(2).take_while(is_name).copied().collect(),
                    _ => words.iter().take(1).take_while(is_name).copied().collect(),
                };
                let options: Vec<&str> = words
                    .iter()
                    .map(|word| word.trim_matches(['[', ']', '.', ',', '|', '\\', '(', ')']))
                    .filter(|word| word.starts_with("--") && word.len() > 2)
                    .map(|word| word.split(['=', '|']).next().unwrap_or_default())
                    .collect();
                if command.is_empty() || options.is_empty() {
                    continue;
                }
                let help = Command::new(env!("CARGO_BIN_EXE_sim"))
                    .args(&command)
                    .arg("--help")
                    .output()
                    .expect("the program starts");
                if !help.status.success() && !cfg!(feature = "live") {
                    continue;
                }
                let help = text(&help.stdout);
                for option in options {
                    let exists = help
                        .split(|c: char| c.is_whitespace() || "[],.=".contains(c))
                        .any(|word| word == option);
                    assert!(exists, "{name}:{number}: `sim {}` has no {option}", command.join(" "));
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 20, "only {checked} options were found");
}

#[test]
fn commands_are_found_with_what_they_print() {
    let document =
        "text\n```\n$ sim a \\\n    --b\nout\n\n$ sim c\n[...]\n\n```\n```\nsim d\n```\n";
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        shown("x.md", document),
        [
            Shown {
                place: "x.md:3".to_owned(),
                command: "sim a --b".to_owned(),
                output: lines(&["out"])
            },
            Shown {
                place: "x.md:7".to_owned(),
                command: "sim c".to_owned(),
                output: lines(&["[...]"])
            },
        ]
    );
}

/// Nothing printed is never what is shown, and a gap hides no difference beside it.
#[test]
fn a_difference_is_found_wherever_it_is() {
    let printed = "name: 2 points, 1 seeds; sim 0.1.0, digest 12\n\none\ntwo\n\nthree\nfour\n";
    for (shown, is_same) in [
        ("one\ntwo\n\nthree\nfour", true),
        ("name: 2 points, 1 seeds; sim 0.1.0, digest 12\n\none\n[...]", true),
        ("name: 3 points, 1 seeds; sim 0.1.0, digest 12\n\none\n[...]", false),
        ("one\n[the middle]\nfour", true),
        ("[...]\ntwo\n\n[...]\n\nfour", true),
        ("[...]", true),
        ("one\n[...]\nfive", false),
        ("one\n[...]\nthree", false),
        ("one\nthree\n[...]", false),
        ("two\n[...]", false),
        ("one\ntwo", false),
        ("[...]\nthree\n[...]\ntwo\n[...]", false),
        ("one\ntwo\n\nthree\nfour\nfive", false),
        ("", false),
    ] {
        let lines: Vec<String> = shown.lines().map(str::to_owned).collect();
        assert_eq!(difference(&lines, printed).is_none(), is_same, "{shown}");
    }
    assert!(difference(&["one".to_owned()], "").is_some());
    assert!(difference(&["one".to_owned(), "[...]".to_owned()], "").is_some());
}
