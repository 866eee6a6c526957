//! `sim explain`: the decision, and what can be wrong with the question.

use super::program::{Scratch, text};

fn ran() -> Scratch {
    let place = Scratch::new();
    let output = place.sim(&["run", "small.toml", "--no-figures", "--requests"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    place
}

fn refused(place: &Scratch, args: &[&str]) -> String {
    let output = place.sim(&[&["explain", "plots/small"], args].concat());
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    let line = text(&output.stderr).trim_end().to_owned();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

fn explained(place: &Scratch, args: &[&str]) -> String {
    let output = place.sim(&[&["explain", "plots/small"], args].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

const AT: &str = "workload.concurrency=4";

/// The number in requests.csv and the explanation are about the same request.
#[test]
fn the_worst_request_is_the_one_with_the_longest_time() {
    let place = ran();
    let csv = std::fs::read_to_string(place.path().join("plots/small/requests.csv")).unwrap();
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = lines.next().unwrap();
    let column = |name: &str| head.iter().position(|other| *other == name).unwrap();
    let number = |row: &[&str], name: &str| row[column(name)].parse::<f64>().ok();
    let worst = lines
        .filter(|row| row[column("router.policy")] == "kv" && row[column("seed")] == "2")
        .filter(|row| row[column("workload.concurrency")] == "4")
        .filter_map(|row| {
            let first_token = number(&row, "first_token_ms").filter(|at| *at >= 5_000.0)?;
            Some((first_token - number(&row, "sent_ms")?, row[column("request")].to_owned()))
        })
        .max_by(|a, b| {
            a.0.total_cmp(&b.0).then(a.1.parse::<u32>().unwrap().cmp(&b.1.parse().unwrap()))
        })
        .unwrap();
    let args = ["--policy", "kv", "--at", AT, "--seed", "2"];
    let by_time = explained(&place, &[&args[..], &["--worst", "ttft"]].concat());
    let by_number = explained(&place, &[&args[..], &["--request", &worst.1]].concat());
    assert_eq!(by_time, by_number);
    let other_writing = ["--policy", "kv", "--at", "workload.concurrency=4.0", "--seed", "2"];
    assert_eq!(by_time, explained(&place, &[&other_writing[..], &["--worst", "ttft"]].concat()));
    assert!(by_time.contains(&format!("request {}: turn", worst.1)), "{by_time}");
}

#[test]
fn an_explanation_has_costs_truth_and_a_sentence() {
    let place = ran();
    let args = ["--request", "17", "--policy", "kv", "--at", AT];
    insta::assert_snapshot!(explained(&place, &args));
    let robin = explained(&place, &["--request", "17", "--policy", "round_robin", "--at", AT]);
    assert!(robin.contains("the policy compares no costs"), "{robin}");
}

#[test]
fn questions_without_an_answer() {
    let place = ran();
    let lines = [
        refused(&place, &["--request", "3"]),
        refused(&place, &["--request", "100000", "--policy", "kv", "--at", AT]),
        refused(&place, &["--request", "3", "--policy", "kvv", "--at", AT]),
        refused(&place, &["--worst", "ttft", "--seed", "9"]),
        refused(&place, &["--worst", "ttft", "--experiment", "nowhere.toml"]),
    ];
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn results_that_are_not_those_of_the_experiment() {
    let place = ran();
    let args = ["--worst", "ttft", "--policy", "kv", "--at", AT];
    let runs = place.path().join("plots/small/runs.json");
    let saved = std::fs::read_to_string(&runs).unwrap();
    let digits: Vec<&str> =
        saved.match_indices("    \"").map(|(at, _)| &saved[at + 5..at + 9]).collect();
    let changed = digits.iter().fold(saved.clone(), |text, digits| text.replace(digits, "0000"));
    std::fs::write(&runs, changed).unwrap();
    let line = refused(&place, &args);
    assert!(line.contains("when these results were saved"), "{line}");
    std::fs::write(&runs, saved).unwrap();
    place.write("small.toml", super::program::EXPERIMENT.replace("seeds = 3", "seeds = 2"));
    let line = refused(&place, &args);
    assert!(line.contains("is not the experiment that gave plots/small any more"), "{line}");
    std::fs::remove_file(&runs).unwrap();
    let line = refused(&place, &args);
    assert!(line.contains("name a folder that `sim run`"), "{line}");
}
