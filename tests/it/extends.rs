//! Experiments that extend others: what is taken over, where paths lead, and
//! what is wrong in one line.

use super::program::{EXPERIMENT, Scratch, text};
use kv_router_sim::experiment::{Experiment, LoadOptions};
use std::path::Path;

fn load(place: &Scratch, file: &str) -> Result<Experiment, String> {
    Experiment::load(&place.path().join(file), &LoadOptions::default())
        .map_err(|error| error.to_string())
}

fn loaded(place: &Scratch, file: &str) -> Experiment {
    load(place, file).unwrap_or_else(|error| panic!("{error}"))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_file_says_what_it_changes() {
    let place = Scratch::new();
    place.write(
        "changed.toml",
        "name = \"changed\"\nextends = \"small.toml\"\n[workload]\nturns.max = 5\n\
         output_tokens = { kind = \"uniform\", min = 10, max = 20 }\n",
    );
    let changed =
        EXPERIMENT.replace("turns = { min = 2, max = 3 }", "turns = { min = 2, max = 5 }").replace(
            "output_tokens = { kind = \"constant\", value = 80 }",
            "output_tokens = { kind = \"uniform\", min = 10, max = 20 }",
        );
    place.write("written.toml", changed);
    let (changed, written) = (loaded(&place, "changed.toml"), loaded(&place, "written.toml"));
    assert_eq!(changed.config_hash, written.config_hash);
    assert_eq!((changed.name.as_str(), written.name.as_str()), ("changed", "small"));
    assert_eq!(changed.points, written.points);
}

#[test]
fn a_key_that_is_given_is_swept_no_more_and_an_axis_is_replaced() {
    let place = Scratch::new();
    let points = |changes: &str| {
        place.write("b.toml", format!("name = \"b\"\nextends = \"small.toml\"\n{changes}"));
        loaded(&place, "b.toml").points.len()
    };
    assert_eq!(points(""), 4);
    assert_eq!(points("[router]\npolicy = \"kv\"\n"), 2);
    assert_eq!(points("[sweep]\n\"workload.concurrency\" = [2, 4, 8]\n"), 6);
    assert_eq!(points("[sweep.workload]\nconcurrency = [3]\n"), 2);
    assert_eq!(points("[sweep]\n\"router.temperature\" = [0.0, 1.0]\n"), 8);
}

#[test]
fn without_takes_keys_and_sections_away() {
    let place = Scratch::new();
    let result = |without: &str, rest: &str| {
        let extends = format!("extends = {{ file = \"small.toml\", without = [{without}] }}");
        place.write("b.toml", format!("name = \"b\"\n{extends}\n{rest}"));
        load(&place, "b.toml").map(|experiment| experiment.points.len())
    };
    assert_eq!(result("\"sweep\"", ""), Ok(1));
    assert_eq!(result("\"sweep.router.policy\"", ""), Ok(2));
    assert_eq!(result("\"measure\"", "[measure]\nwindow = \"1s\"\n"), Ok(4));
    assert!(result("\"measure\"", "").unwrap_err().contains("measure.window is missing"));
    let misspelt = result("\"sweep\", \"mesure\"", "").unwrap_err();
    assert!(misspelt.contains("b.toml:2: extends.without[1] = \"mesure\": is no key of "));
    assert!(misspelt.ends_with("did you mean measure?"), "{misspelt}");
}

#[test]
fn paths_stay_relative_to_the_file_that_gives_them() {
    let place = Scratch::new();
    for folder in ["models", "deep/er"] {
        std::fs::create_dir_all(place.path().join(folder)).expect("made");
    }
    let model = std::fs::read_to_string(repository().join("models/fixed-20-10.toml"));
    place.write("models/m.toml", model.expect("a model file"));
    place.write(
        "base.toml",
        EXPERIMENT.replace("workers = 2", "workers = 2\nmodel = \"models/m.toml\""),
    );
    place.write("deep/er/c.toml", "name = \"c\"\nextends = \"../../base.toml\"\n");
    place.write("deep/d.toml", "name = \"d\"\nextends = \"er/c.toml\"\n[measure]\nseeds = 1\n");
    assert_eq!(
        loaded(&place, "deep/er/c.toml").config_hash,
        loaded(&place, "base.toml").config_hash
    );
    assert_eq!(loaded(&place, "deep/d.toml").seeds, [1]);
    place.write(
        "deep/e.toml",
        "name = \"e\"\nextends = \"d.toml\"\n[cluster]\nmodel = \"m.toml\"\n",
    );
    let error = load(&place, "deep/e.toml").unwrap_err();
    assert!(error.contains("e.toml:4: cluster.model = \"m.toml\""), "{error}");
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_its_place() {
    let place = Scratch::new();
    place.write("bad.toml", EXPERIMENT.replace("seeds = 3", "seeds = 0"));
    for (extends, rest, expected) in [
        ("\"b.toml\"", "", "leads back to itself: "),
        ("\"gone.toml\"", "", "gone.toml cannot be read: "),
        ("5", "", "must be the path of an experiment"),
        ("{ without = [] }", "", "extends.file is missing"),
        ("{ file = \"small.toml\", wihtout = [] }", "", "extends.wihtout; did you mean without?"),
        ("\"bad.toml\"", "", "bad.toml:29: measure.seeds = 0"),
        (
            "\"small.toml\"",
            "[workload]\nconcurency = 3\n",
            "b.toml:4: unknown key workload.concurency",
        ),
    ] {
        place.write("b.toml", format!("name = \"b\"\nextends = {extends}\n{rest}"));
        let output = place.sim(&["run", "b.toml"]);
        assert_eq!(output.status.code(), Some(2), "{extends}");
        let line = text(&output.stderr);
        assert!(line.contains(expected) && line.lines().count() == 1, "{extends}: {line}");
    }
    place.write("one.toml", "name = \"one\"\nextends = \"two.toml\"\n");
    place.write("two.toml", "name = \"two\"\nextends = \"./one.toml\"\n");
    let error = load(&place, "one.toml").unwrap_err();
    assert!(error.contains("one.toml -> ") && error.contains("two.toml -> "), "{error}");
    let output = place.sim(&["run", "small.toml", "--set", "extends=two.toml"]);
    assert!(
        text(&output.stderr).contains("--set extends=two.toml: extends = \"two.toml\": cannot")
    );
}

/// The trace's requests are part of the configuration, wherever the file lies.
#[test]
fn another_trace_is_another_configuration() {
    let place = Scratch::new();
    let row = |at: u32, output: u32| {
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 600, \"output_length\": {output}, \
             \"hash_ids\": [0, 1]}}\n"
        )
    };
    let start = EXPERIMENT.find("[workload]").expect("a section");
    let end = EXPERIMENT.find("[measure]").expect("a section");
    let workload = "[workload]\nkind = \"trace\"\npath = \"t.jsonl\"\n\n[measure]\nseeds = 1\n";
    place.write("t.toml", format!("{}{workload}", &EXPERIMENT[..start]));
    assert!(end > start);
    let hash = |rows: String| {
        place.write("t.jsonl", rows);
        loaded(&place, "t.toml").config_hash
    };
    let first = hash(row(0, 5) + &row(9, 7));
    assert_eq!(hash(row(0, 5) + &row(9, 7)), first);
    for other in [row(0, 5), row(0, 5) + &row(9, 8), row(0, 5) + &row(10, 7)] {
        assert_ne!(hash(other), first);
    }
}
