//! `sim frontier`, `sim compare` and `sim check` as programs: exit codes, and what
//! they print.

use super::program::{EXPERIMENT, Scratch, text};

#[test]
fn a_check_passes_fails_and_is_updated() {
    let place = Scratch::new();
    let missing = place.sim(&["check", "small.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("baselines/small.toml: cannot be read"));

    let update = place.sim(&["check", "small.toml", "--update"]);
    assert!(update.status.success(), "{}", text(&update.stderr));
    let file = place.path().join("baselines/small.toml");
    let written = std::fs::read_to_string(&file).expect("a baseline");
    assert!(written.contains("\nttft_ms_p95 = 10.0\n"), "{written}");

    let same = place.sim(&["check", "small.toml"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    assert!(text(&same.stdout).starts_with("Routing check passed: 0 worse,"));

    // Steps take twice as long.
    place.write("small.toml", EXPERIMENT.replace("decode = \"10ms\"", "decode = \"20ms\""));
    let worse = place.sim(&["check", "small.toml"]);
    assert_eq!(worse.status.code(), Some(1), "{}", text(&worse.stdout));
    assert!(text(&worse.stdout).contains("WORSE") && text(&worse.stdout).contains("ITL p95 (ms)"));
    assert!(text(&worse.stdout).contains("its settings are not those of the baseline"));
    let markdown = place.sim(&["check", "small.toml", "--format", "markdown"]);
    assert_eq!(markdown.status.code(), Some(1));
    assert!(text(&markdown.stdout).contains("| WORSE | small | ITL p95 (ms) |"));
    let junit = place.sim(&["check", "small.toml", "--format", "junit"]);
    assert_eq!(junit.status.code(), Some(1));
    assert!(text(&junit.stdout).contains("<testsuite name=\"small\""));
    assert!(text(&junit.stdout).contains("<failure message=\"ITL p95 (ms) at "));

    // An update keeps what was chosen to be checked.
    let chosen = written.replace("\nhit_ratio = 1.0\n", "\nhit_ratio = 2.5\n");
    std::fs::write(&file, chosen).expect("written");
    place.sim(&["check", "small.toml", "--update"]);
    let updated = std::fs::read_to_string(&file).expect("a baseline");
    assert!(updated.contains("\nhit_ratio = 2.5\n") && updated != written);
    assert_eq!(place.sim(&["check", "small.toml"]).status.code(), Some(0));
}

#[test]
fn two_result_sets_are_compared() {
    let place = Scratch::new();
    place.sim(&["run", "small.toml", "--no-figures", "--out", "a"]);
    let slow = "engine.step_time.decode=20ms";
    place.sim(&["run", "small.toml", "--no-figures", "--out", "b", "--set", slow]);
    let compared = place.sim(&["compare", "a", "b"]);
    assert!(compared.status.success(), "{}", text(&compared.stderr));
    let said = text(&compared.stdout);
    assert!(said.starts_with("b against a: ") && said.contains(" worse "), "{said}");
    assert!(said.contains("ITL p50 (ms)"), "{said}");
    let same = place.sim(&["compare", "a", "a"]);
    assert!(text(&same.stdout).contains("0 significantly better, 0 worse"));
    let json = place.sim(&["compare", "a", "b", "--format", "json", "--all"]);
    let json: serde_json::Value = serde_json::from_str(text(&json.stdout)).expect("JSON");
    assert_eq!(json["changes"][0]["significant"], true);
    let markdown = place.sim(&["compare", "a", "b", "--format", "markdown"]);
    assert!(text(&markdown.stdout).contains("| worse | "));

    for (args, expected) in [
        (["compare", "a", "nowhere"], "nowhere/summary.json: cannot be read"),
        (["compare", "a", "small.toml"], "small.toml/summary.json: cannot be read"),
    ] {
        let output = place.sim(&args);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

/// One variant of several can be looked at, though it sets the policy, or all of them.
#[test]
fn a_frontier_of_variants() {
    let place = Scratch::new();
    let sweep = "variant = [{ name = \"a\", router.policy = \"kv\" }, { name = \"2\", router.policy = \"random\" }]\n";
    let (base, _) = super::program::EXPERIMENT.split_once("[sweep]").expect("a sweep");
    place.write("variants.toml", format!("{base}[sweep]\n{sweep}"));
    let frontier = |variant: &[&str]| {
        let common =
            ["frontier", "variants.toml", "--loads", "2..8:2", "--within", "ttft_ms_p95=1s"];
        place.sim(&[&common[..], variant].concat())
    };
    for (variant, name) in [("variant=a", "a"), ("variant=2", "2")] {
        let output = frontier(&["--set", variant]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.contains(&format!("{name} meets TTFT p95 <= 1000 ms up to")), "{said}");
    }
    // Without a choice every variant is asked about.
    let all = frontier(&[]);
    assert!(all.status.success(), "{}", text(&all.stderr));
    for name in ["a meets TTFT p95", "2 meets TTFT p95"] {
        assert!(text(&all.stdout).contains(name), "{}", text(&all.stdout));
    }
    let output = frontier(&["--set", "variant=b"]);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}");
    let expected = "--set variant=b: variant = \"b\": must be the name of a variant: \"a\", \"2\"";
    assert!(line.contains(expected) && line.lines().count() == 1, "{line}");
}

/// Where clients do not wait for answers, the load is how fast requests come.
#[test]
fn the_load_of_an_open_loop_is_its_rate() {
    let place = Scratch::new();
    let (base, _) = super::program::EXPERIMENT.split_once("[workload]").expect("a workload");
    let rest = r#"[workload]
kind = "requests"
arrivals = { kind = "poisson", rate = 2 }
prompt_tokens = { kind = "constant", value = 300 }
output_tokens = { kind = "constant", value = 10 }

[measure]
window = "10s"
seeds = 2
"#;
    place.write("open.toml", format!("{base}{rest}"));
    let args = ["frontier", "open.toml", "--within", "ttft_ms_p95=1s"];
    let line = text(&place.sim(&args).stderr).to_owned();
    assert!(line.contains("does not sweep workload.arrivals.rate"), "{line}");
    let output = place.sim(&[&args[..], &["--loads", "2..6:2"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("loads 2 to 6 (workload.arrivals.rate)"), "{said}");
}

#[test]
fn a_frontier_is_found_and_printed() {
    let place = Scratch::new();
    let args = ["frontier", "small.toml", "--loads", "2..40:2", "--within", "ttft_ms_p95=100ms"];
    let output = place.sim(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("kv meets TTFT p95 <= 100 ms "), "{said}");
    assert!(said.contains("stable"), "{said}");
    let json = place.sim(&[&args[..], &["--format", "json"]].concat());
    let json: serde_json::Value = serde_json::from_str(text(&json.stdout)).expect("JSON");
    assert_eq!(json["answers"].as_array().map(Vec::len), Some(2));

    let before = place.files();
    for (args, expected) in [
        (&["--loads", "fast"][..], "--loads = fast: must be FROM..TO"),
        (&["--within", "ttft_ms_p95"][..], "must be METRIC=VALUE"),
        (&["--metric", "tfft_ms_p95"][..], "the nearest one is `ttft_ms_p95`"),
        (&["--set", "router.policy=kv"][..], "swept over two policies or more"),
        (&["--within", "goodput_per_s=4"][..], "this one needs [slo]"),
        (&["--metric", "retries"][..], "cluster.failover.retries"),
    ] {
        let output = place.sim(&[&["frontier", "small.toml"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stdout));
        let line = text(&output.stderr);
        assert!(line.contains(expected) && line.lines().count() == 1, "{args:?}: {line}");
    }
    assert_eq!(place.files(), before);
}
