//! `sim sweep`: axes from the command line, what it says, and that a killed one
//! goes on as if nothing had happened.

use super::program::{Scratch, text};
use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

/// Every file that a finished run leaves in `folder`, with its content.
fn results(place: &Scratch, folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = place.files();
    files.retain(|(name, _)| name.starts_with(folder));
    for (name, _) in &mut files {
        *name = name[folder.len()..].to_owned();
    }
    files
}

/// Runs and seeds in a journal, whole lines only; none twice.
fn journal(place: &Scratch, folder: &str) -> BTreeSet<(u64, u64)> {
    let bytes = fs::read(place.path().join(folder).join("journal.jsonl")).unwrap_or_default();
    let mut done = BTreeSet::new();
    for line in bytes.split_inclusive(|&b| b == b'\n').skip(1).filter(|line| line.ends_with(b"\n"))
    {
        let line: serde_json::Value = serde_json::from_slice(line).expect("a whole line is JSON");
        let key = (line["run"].as_u64().expect("a run"), line["seed"].as_u64().expect("a seed"));
        assert!(done.insert(key), "{key:?} is there twice");
    }
    done
}

/// Kills the program again and again, each time at another moment, until it
/// gets to the end by itself; the results must be those of a run in peace. Returns how many kills met a running program.
fn killed_and_resumed(kills: u32, seeds: &str) -> u32 {
    let place = Scratch::new();
    let over = "router.temperature=0,0.1,0.5";
    let args = |out| ["sweep", "small.toml", "--seeds", seeds, "--over", over, "--out", out];
    let peace = place.sim(&args("peace"));
    assert!(peace.status.success(), "{}", text(&peace.stderr));
    let mut before = BTreeSet::new();
    let mut interrupted = 0;
    for kill in 0..kills {
        let mut child = place
            .command(&args("killed"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Moments that spread over a run of a fraction of a second.
        std::thread::sleep(Duration::from_millis(u64::from(20 + 37 * kill % 170)));
        child.kill().expect("killed");
        if !child.wait().expect("ended").success() {
            interrupted += 1;
        }
        let now = journal(&place, "killed");
        if place.path().join("killed/summary.json").exists() {
            before.clear();
            continue;
        }
        assert!(now.is_superset(&before), "kill {kill} lost {:?}", before.difference(&now));
        before = now;
    }
    // Half a line, as a kill in the middle of a write leaves it.
    let path = place.path().join("killed/journal.jsonl");
    if let Ok(mut bytes) = fs::read(&path) {
        bytes.extend_from_slice(b"{\"run\":0,\"se");
        fs::write(&path, bytes).expect("written");
    }
    let done = journal(&place, "killed").len();
    let resumed = place.sim(&args("killed"));
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    let said = text(&resumed.stderr);
    assert_eq!(said.contains(&format!("going on: {done} of ")), done > 0, "{done}: {said}");
    assert!(resumed.stdout == peace.stdout, "{}", text(&resumed.stdout));
    assert!(results(&place, "killed/") == results(&place, "peace/"));
    interrupted
}

#[test]
fn a_killed_sweep_goes_on_and_ends_with_the_same_bytes() {
    assert!(killed_and_resumed(4, "6") > 0);
}

/// `cargo test --test it -- --ignored kills`, some ten seconds.
#[test]
#[ignore = "takes ten seconds"]
fn a_sweep_survives_twenty_kills() {
    println!("{} of 20 kills met a running sweep", killed_and_resumed(20, "40"));
}

#[test]
fn axes_come_from_the_command_line() {
    let place = Scratch::new();
    let output = place.sim(&[
        "sweep",
        "small.toml",
        "--set",
        "router.policy=kv",
        "--set",
        "workload.concurrency=4",
        "--over",
        "router.overlap_weight=0..1:0.5",
        "--over",
        "router.temperature=0,0.5",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.starts_with("small: 6 points, 3 seeds;"), "{said}");
    assert!(said.contains("Best TTFT p95") && said.contains("Pareto front"), "{said}");
    let names: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    for wanted in ["heat-ttft_ms_p95.svg", "heat-hit_ratio.png", "summary.json"] {
        let file = format!("plots/small-sweep/{wanted}");
        assert!(names.contains(&file), "{file} is not in {names:?}");
    }
}

#[test]
fn paired_axes_make_one_point_per_pair() {
    let place = Scratch::new();
    let args = |second| {
        [
            "sweep",
            "small.toml",
            "--no-figures",
            "--seeds",
            "1",
            "--paired",
            "--over",
            "router.overlap_weight=0,1,2",
            "--over",
            second,
        ]
    };
    let output = place.sim(&args("router.temperature=0..1:0.5"));
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Three pairs, two policies, two levels.
    assert!(text(&output.stdout).starts_with("small: 12 points, 1 seed;"));
    let output = place.sim(&args("router.temperature=0,1"));
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("paired axes need the same number of values"), "{said}");
}

#[test]
fn what_cannot_be_tuned_is_refused_before_anything_runs() {
    let place = Scratch::new();
    let before = place.files();
    for (args, expected) in [
        (&["--best", "tfft_ms_p95"][..], "the nearest one is `ttft_ms_p95`"),
        (
            &["--best", "goodput_per_s"][..],
            "--best = goodput_per_s: must be a metric that this experiment measures; this one needs [slo]",
        ),
        (&["--best", "hit_ratio_bound"][..], "of which either more or less is better"),
        (
            &["--over", "router.temperature"][..],
            "--set sweep.router.temperature: must be KEY=VALUE",
        ),
        (&["--over", "router.temperature=0..1"][..], "{ from = 1, to = 9, step = 2 }"),
        (&["--over", "name=a,b"][..], "swept keys are settings in"),
    ] {
        let output = place.sim(&[&["sweep", "small.toml"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let line = text(&output.stderr);
        assert!(line.contains(expected) && line.lines().count() == 1, "{args:?}: {line}");
        assert_eq!(place.files(), before, "{args:?}");
    }
}
