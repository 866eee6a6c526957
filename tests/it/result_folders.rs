//! Result folders: the same from a program as from the command line, and never
//! those of two runs at once.

use super::program::{EXPERIMENT, Scratch, text};
use kv_router_sim::experiment::{Experiment, JobProgress, LoadOptions, StoreError};
use kv_router_sim::results::{ResultFolder, Results, RunInto, run_into};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

fn small() -> Experiment {
    Experiment::parse(Path::new("small.toml"), EXPERIMENT, &LoadOptions::default()).expect("valid")
}

/// The files below a folder of `place`, by their names in it.
fn files(place: &Scratch, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let below =
        |(name, bytes): (String, Vec<u8>)| Some((name.strip_prefix(folder)?.to_owned(), bytes));
    place.files().into_iter().filter_map(below).collect()
}

#[test]
fn a_program_saves_the_bytes_that_the_command_line_saves() {
    let place = Scratch::new();
    let args = ["run", "small.toml", "--requests", "--aiperf", "--out", "typed"];
    let output = place.sim(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let experiment = small();
    let folder = ResultFolder::create(&place.path().join("called"), &experiment).expect("new");
    let options = RunInto::new("small.toml", Vec::new()).requests().aiperf();
    let saved = run_into(folder, &experiment, &options).expect("it runs");
    saved.report.expect("a report");
    assert!(saved.contradicts.is_none());
    let (typed, called) = (files(&place, "typed/"), files(&place, "called/"));
    assert!(typed.contains_key("requests.csv") && typed.len() > 40, "{:?}", typed.keys());
    assert_eq!(typed.keys().collect::<Vec<_>>(), called.keys().collect::<Vec<_>>());
    for (name, bytes) in &typed {
        assert!(*bytes == called[name], "{name} differs");
    }
    let read = Results::load(&place.path().join("called")).expect("results");
    assert_eq!(read.summary, saved.results.summary);
    assert_eq!(read.runs, saved.results.runs);
}

/// What a run found and did not save is found again.
#[test]
fn a_run_goes_on_where_it_stopped() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<(usize, usize)>>);
    impl JobProgress for Heard {
        fn resumed(&self, found: usize, all: usize) {
            self.0.lock().expect("one thread").push((found, all));
        }
    }
    let place = Scratch::new();
    let experiment = small();
    let (heard, path) = (Heard::default(), place.path().join("out"));
    let options = RunInto::new("small.toml", Vec::new()).progress(&heard).without_figures();
    let folder = ResultFolder::create(&path, &experiment).expect("new");
    drop(folder.run(&experiment, &options).expect("it runs"));
    drop(folder);
    let taken = ResultFolder::create(&path, &experiment).expect_err("an unfinished run");
    assert!(matches!(taken, StoreError::Taken { .. }), "{taken}");
    let folder = ResultFolder::resume(&path, &experiment).expect("the same configuration");
    run_into(folder, &experiment, &options).expect("it goes on");
    assert_eq!(heard.0.into_inner().expect("one thread"), [(12, 12)]);

    let again = place.path().join("again");
    let folder = ResultFolder::create(&again, &experiment).expect("new");
    let options = RunInto::new("small.toml", Vec::new()).without_figures();
    run_into(folder, &experiment, &options).expect("it runs");
    assert!(files(&place, "out/") == files(&place, "again/"));
}

/// Waits until a run has begun to write into its folder.
fn begun(folder: &Path) {
    let is_locked = || folder.join(".sim.lock").exists();
    // A minute at most.
    let come = (0..12_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        is_locked()
    });
    assert!(come, "no run began");
}

#[test]
fn two_runs_into_one_new_folder_do_not_meet() {
    let place = Scratch::new();
    let begin = |extra: &[&str], seeds: &str| {
        let args = ["run", "small.toml", "--no-figures", "--out", "out", "--seeds", seeds];
        let mut command = place.command(&[&args[..], extra].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    for kind in [&["--requests"][..], &[]] {
        let first = begin(&[kind, &["--jobs", "1"]].concat(), "100").spawn().expect("starts");
        begun(&place.path().join("out"));
        for extra in [&[][..], &["--requests"], &["--force"]] {
            let second = begin(extra, "2").output().expect("starts");
            assert_eq!(second.status.code(), Some(2), "{extra:?}");
            assert_eq!(
                text(&second.stderr),
                "error: out: another sim is writing its results there; wait for it, or choose \
                 another folder with --out\n"
            );
        }
        let output = first.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let results = Results::load(&place.path().join("out")).expect("results");
        assert_eq!(results.summary.provenance.seeds.len(), 100);
        std::fs::remove_dir_all(place.path().join("out")).expect("there");
    }
}

#[test]
fn an_interrupted_run_that_keeps_nothing_leaves_nothing() {
    let place = Scratch::new();
    let before = place.files();
    let args = ["run", "small.toml", "--requests", "--seeds", "2000", "--jobs", "1"];
    let mut command = place.command(&args);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    begun(&place.path().join("plots/small"));
    // Until it listens for Ctrl-C, which is right after.
    std::thread::sleep(Duration::from_secs(1));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains(" of 8000 simulations were done; nothing is kept"), "{said}");
    assert!(place.files() == before, "something was left");
}
