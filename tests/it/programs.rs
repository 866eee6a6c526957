//! The programs of `examples/`: each runs, and does what it says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[path = "../../examples/observe.rs"]
mod observe;
#[path = "../../examples/own_policy.rs"]
mod own_policy;
#[path = "../../examples/own_workload.rs"]
mod own_workload;
#[path = "../../examples/read_results.rs"]
mod read_results;
#[path = "../../examples/step_and_steer.rs"]
mod step_and_steer;

/// 60 conversations on three workers. Room for 20 spreads them, room for 60 sends them
/// all to one, which then holds every text they share.
#[test]
fn a_policy_of_ones_own_is_swept() {
    let rows = own_policy::sweep().expect("it runs");
    let rooms: Vec<&str> = rows.iter().map(|(room, _)| room.as_str()).collect();
    assert_eq!(rooms, ["20", "40", "60"]);
    assert!(rows[2].1 < rows[0].1, "{rows:?}");
}

#[test]
fn what_is_run_into_a_folder_is_read_back() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("results");
    read_results::run(&folder).expect("it runs");
    let lines = read_results::read(&folder).expect("it is there");
    let [round_robin, kv] = &lines[..] else { panic!("{lines:?}") };
    let value = |line: &str, policy: &str| -> f64 {
        let start = format!("{policy}: TTFT p95 (ms) = ");
        let value = line.strip_prefix(&start).unwrap_or_else(|| panic!("{line}"));
        value.parse().expect("a number")
    };
    // What the deployment was published for.
    assert!(value(kv, "kv") < value(round_robin, "round_robin"), "{lines:?}");
}

#[test]
fn three_times_the_load_takes_longer() {
    let (before, after, control) = step_and_steer::step_and_steer().expect("it runs");
    assert!(after > 1.2 * before, "{before} ms, then {after} ms");
    assert_eq!(
        control,
        "[[control]]\nat = \"100000000000ns\"\nwhat = \"load\"\nconcurrency = 180\n"
    );
}

/// Each agent waits for its answers, so the run lasts as long as its slowest agent. With
/// `kv` an agent's next request finds what its last one left.
#[test]
fn a_workload_of_ones_own_is_served() {
    let [in_turn, by_cache] =
        ["round_robin", "kv"].map(|policy| own_workload::serve(policy).expect("it runs"));
    assert_eq!((in_turn.0, by_cache.0), (320, 320));
    assert!(by_cache.1 < in_turn.1, "{by_cache:?}, {in_turn:?}");
}

#[test]
fn an_observer_hears_what_happens_between_two_looks() {
    let hits = ["round_robin", "kv"].map(|policy| {
        let history = observe::watch(policy, 30).expect("it runs");
        assert_eq!(history.len(), 30);
        for pair in history.windows(2) {
            assert!(pair[0].iter().zip(&pair[1]).all(|(a, b)| a.requests <= b.requests));
        }
        let last = history.last().expect("30 of them");
        let sum = |of: fn(&observe::Worker) -> u64| last.iter().map(of).sum::<u64>();
        let (prompt, cached) = (sum(|w| w.prompt_tokens), sum(|w| w.cached_tokens));
        assert!(0 < cached && cached < prompt, "{cached} of {prompt}");
        cached as f64 / prompt as f64
    });
    assert!(hits[1] > hits[0], "{hits:?}");
}

/// Every example is here, and uses the root of the crate alone.
#[test]
fn examples_are_tested_and_use_what_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = fs::read_to_string(root.join("tests/it/programs.rs")).expect("this file");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root.join("examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            continue; // routers and notebooks, which tests of their own run
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(own.contains(&format!("examples/{name}\"")), "{name} is run by no test");
        let text = fs::read_to_string(&path).expect("text");
        for (at, start) in text.match_indices("kv_router_sim::") {
            let rest = text[at + start.len()..].trim_start_matches('{').trim_start();
            let is_type = rest.starts_with(|c: char| c.is_ascii_uppercase());
            assert!(is_type || rest.starts_with("run"), "{name} uses {}", &rest[..20]);
        }
        found.insert(name);
    }
    assert!(found.len() >= 5, "{found:?}");
}
