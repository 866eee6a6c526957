//! What is printed of results: that it has the answer, and says where there is none.

use super::program::{EXPERIMENT, Scratch, text};
use std::path::Path;
use std::process::Output;

/// A model file of the repository.
fn model() -> String {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    models.join("llama-3.1-8b-bf16-h100-vllm.toml").display().to_string()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    // Lines are wrapped where it suits terminals.
    text(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A planner that adds and removes a worker for half an hour at constant load.
const OSCILLATING: &str = r#"name = "planner"
[cluster]
workers = 2
load_time = "20s"
[cluster.planner]
min_workers = 1
max_workers = 2
interval = "30s"
grace_intervals = 1
load = "requests"
[engine]
rules = "vllm"
step_time = { kind = "fixed", prefill = "20ms", decode = "10ms" }
block_size = 16
num_blocks = 20000
max_num_seqs = 20
max_num_batched_tokens = 8192
[router]
policy = "least_loaded"
[workload]
kind = "requests"
concurrency = 19
prompt_tokens = { kind = "constant", value = 256 }
output_tokens = { kind = "constant", value = 200 }
[measure]
window = "1800s"
"#;

#[test]
fn what_the_planner_did_is_in_the_answer() {
    let place = Scratch::new();
    place.write("planner.toml", OSCILLATING);
    let said = said(&place.sim(&["run", "planner.toml", "--no-figures"]));
    assert!(said.contains("least_loaded: 20 workers added by the planner, 20 removed."), "{said}");
    // All 19 clients begin at once, and that is measured.
    assert!(
        said.contains("No warm-up is set (measure.warmup), and all clients, up to 19,"),
        "{said}"
    );
}

#[test]
fn one_seed_and_equal_results_are_neither_wins_nor_losses() {
    let place = Scratch::new();
    let experiment = format!(
        r#"name = "one-prefix"
[cluster]
workers = 8
model = "{}"
[router]
policy = "kv"
[workload]
kind = "requests"
arrivals = {{ kind = "constant", rate = 10.0 }}
count = 200
prefix = {{ groups = 1, tokens = 6000 }}
prompt_tokens = {{ kind = "constant", value = 1000 }}
output_tokens = {{ kind = "constant", value = 50 }}
[measure]
seeds = 1
[sweep]
"router.policy" = ["round_robin", "least_loaded", "kv"]
"#,
        model()
    );
    place.write("one-prefix.toml", experiment);
    let one = said(&place.sim(&["run", "one-prefix.toml", "--no-figures"]));
    assert!(one.contains("kv against round_robin: TTFT p95 "), "{one}");
    assert!(one.contains("[one seed: not tested against chance]"), "{one}");
    assert!(!one.contains("wins") && !one.contains("loses"), "{one}");
}

#[test]
fn the_smallest_fleet_is_named() {
    let place = Scratch::new();
    let experiment = format!(
        r#"name = "fleet"
[cluster]
workers = 2
model = "{}"
[router]
policy = "round_robin"
[workload]
kind = "requests"
arrivals = {{ kind = "constant", rate = 30.0 }}
count = 600
prompt_tokens = {{ kind = "constant", value = 2000 }}
output_tokens = {{ kind = "constant", value = 150 }}
[measure]
seeds = 1
"#,
        model()
    );
    place.write("fleet.toml", experiment);
    let search = ["frontier", "fleet.toml", "--load", "cluster.workers", "--loads", "1..6"];
    let said = said(&place.sim(&[&search[..], &["--within", "ttft_ms_p95=2s"]].concat()));
    assert!(said.contains("round_robin meets TTFT p95 <= 2000 ms from workers 2 on"), "{said}");
    assert!(said.contains("below that TTFT p95 fails"), "{said}");
}

#[test]
fn targets_are_answered_by_run_sweep_and_frontier() {
    let place = Scratch::new();
    let slo = EXPERIMENT.replace("[sweep]", "[slo]\nttft = \"80ms\"\n[sweep]");
    place.write("slo.toml", slo);
    let run = said(&place.sim(&["run", "slo.toml"]));
    assert!(run.contains("SLO (TTFT <= 80 ms, for 95 % of requests): "), "{run}");
    assert!(run.contains("most goodput: ") && run.contains("SLO attainment"), "{run}");
    let report =
        std::fs::read_to_string(place.path().join("plots/small/report.html")).expect("one");
    assert!(report.contains("figure-slo_attainment"), "no figure");
    assert!(report.lines().any(|line| line.trim() == "target"), "no target");
    let over = ["--set", "router.policy=kv", "--over", "router.overlap_weight=0,1,2"];
    let sweep = ["sweep", "slo.toml", "--best", "goodput", "--seeds", "2"];
    let sweep = said(&place.sim(&[&sweep[..], &over].concat()));
    assert!(sweep.contains("Best goodput at concurrency 4: "), "{sweep}");
    assert!(sweep.contains("TTFT <= 80 ms, for 95 % of requests"), "{sweep}");
    let frontier = ["frontier", "slo.toml", "--within", "slo", "--loads", "2..8:2"];
    let frontier = said(&place.sim(&[&frontier[..], &over].concat()));
    let meets = "overlap_weight 1 meets SLO attainment >= 95.0 %";
    assert!(frontier.contains(meets), "{frontier}");
    assert!(frontier.contains("Of 3 settings, ") || frontier.contains("None of 3"), "{frontier}");
}

/// Of the rows two have no answer, a third turn begins a new text, and two answers of 500
/// tokens meet the context limit.
#[test]
fn what_was_dropped_is_in_the_answer_and_the_report() {
    let place = Scratch::new();
    let workload = EXPERIMENT.find("[workload]").expect("a section");
    let engine = EXPERIMENT[..workload].replace("block_size", "max_model_len = 1600\nblock_size");
    let trace = "[workload]\nkind = \"trace\"\npath = \"t.csv\"\n\
                 patience.first_token = \"25ms\"\n";
    place.write("trace.toml", format!("{engine}{trace}"));
    place.write(
        "t.csv",
        "Timestamp,Session ID,Request tokens,Response tokens\n\
         0,a,100,20\n1,b,1500,500\n2,c,1590,500\n3,d,100,0\n4,e,100,0\n5,a,130,20\n9,a,50,20\n",
    );
    let run = said(&place.sim(&["run", "trace.toml"]));
    let trace = "Trace: 2 rows left out (no answer, or a prompt above max_isl); 1 session with a \
                 turn that does not go on from the one before.";
    assert!(run.contains(trace), "{run}");
    assert!(run.contains("kv: 2 answers cut short."), "{run}");
    let report = std::fs::read_to_string(place.path().join("plots/small/report.html"));
    let report = report.expect("a report").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(report.contains("Trace: 2 rows left out"), "{report}");

    let hasty = ["run", "trace.toml", "--force", "--set", "workload.patience.first_token=15ms"];
    let run = said(&place.sim(&hasty));
    assert!(run.contains("kv: 5 requests given up by their clients."), "{run}");
}

#[test]
fn the_share_of_requests_that_must_meet_the_targets_is_a_key() {
    let place = Scratch::new();
    let slo = EXPERIMENT.replace("[sweep]", "[slo]\nttft = \"80ms\"\n[sweep]");
    place.write("slo.toml", slo);
    let run = |share: &str| {
        let set = format!("slo.attainment={share}");
        let options = ["--set", &set, "--set", "router.policy=kv", "--no-figures", "--force"];
        place.sim(&[&["run", "slo.toml"][..], &options].concat())
    };
    assert!(said(&run("0.999")).contains("SLO (TTFT <= 80 ms, for 99.9 % of requests): "));
    assert!(said(&run("0.01")).contains("for 1 % of requests): met by every point"));
    for share in ["0", "1.5", "nan"] {
        let output = run(share);
        assert_eq!(output.status.code(), Some(2));
        let line = text(&output.stderr);
        assert!(line.contains("must be a share above 0 and at most 1, like 0.95"), "{line}");
    }
}

/// The file that a report shows runs again and is the same experiment.
#[test]
fn the_settings_of_a_report_can_be_pasted() {
    let place = Scratch::new();
    said(&place.sim(&["run", "small.toml", "--set", "measure.window=15s"]));
    let read = |file: &str| std::fs::read_to_string(place.path().join(file)).expect(file);
    let report = read("plots/small/report.html");
    let (_, shown) = report.split_once("</summary><pre tabindex=\"0\">").expect("settings");
    let (shown, _) = shown.split_once("</pre>").expect("an end");
    let shown = shown.replace("&quot;", "\"").replace("&lt;", "<").replace("&amp;", "&");
    place.write("pasted.toml", shown);
    said(&place.sim(&["run", "pasted.toml", "--out", "again"]));
    let hash = |file: &str| -> String {
        let summary: serde_json::Value = serde_json::from_str(&read(file)).expect("JSON");
        summary["provenance"]["config_hash"].to_string()
    };
    assert_eq!(hash("again/summary.json"), hash("plots/small/summary.json"));
}

#[test]
fn rejected_requests_come_before_the_answer() {
    let place = Scratch::new();
    let long = EXPERIMENT.replace("value = 300 }", "value = 300_000 }");
    place.write("long.toml", long);
    let said = said(&place.sim(&["run", "long.toml", "--no-figures"]));
    let (first, rest) = said.split_once("round_robin: ").unwrap_or((said.as_str(), ""));
    assert!(first.contains("100 % of requests rejected: every point"), "{said}");
    assert!(!rest.contains("no clear difference"), "{said}");
}
