//! What is shown of saved results: the report, figures, the timeline.

use super::program::{Scratch, text};
use flate2::read::GzDecoder;
use kv_router_sim::recorder::SHARES;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Command;

fn read(place: &Scratch, file: &str) -> Vec<u8> {
    fs::read(place.path().join(file)).expect(file)
}

fn done(place: &Scratch, args: &[&str]) -> String {
    let output = place.sim(args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stderr).to_owned()
}

#[test]
fn the_report_is_made_again_from_what_was_saved() {
    let place = Scratch::new();
    done(&place, &["run", "small.toml", "--requests"]);
    let html = String::from_utf8(read(&place, "plots/small/report.html")).expect("UTF-8");
    let mut figures = 0;
    for entry in fs::read_dir(place.path().join("plots/small")).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if let Some(name) = name.strip_suffix(".svg") {
            assert!(html.contains(&format!("<figure id=\"figure-{name}\">")), "{name}");
            figures += 1;
        }
    }
    // Each for wide and for narrow screens.
    assert_eq!(html.matches("<svg ").count(), 2 * figures);
    for figure in ["ttft_ms", "queue_ms", "cdf", "workers_over_time"] {
        assert!(html.contains(&format!("figure-{figure}")), "{figure}");
    }
    assert!(html.contains("kv against round_robin:"), "no answer");
    assert!(html.contains("<pre tabindex=\"0\">sim run small.toml</pre>"), "no command");
    done(&place, &["report", "plots/small", "--out", "again"]);
    assert_eq!(read(&place, "again/report.html"), html.as_bytes());
}

#[test]
fn a_sweeps_report_has_its_heat_maps_and_its_verdict() {
    let place = Scratch::new();
    let over = ["--over", "router.overlap_weight=0,1", "--over", "router.temperature=0,1"];
    let kv = ["sweep", "small.toml", "--set", "router.policy=kv", "--seeds", "2"];
    done(&place, &[&kv[..], &over[..]].concat());
    let html = String::from_utf8(read(&place, "plots/small-sweep/report.html")).expect("UTF-8");
    assert!(html.contains("figure-heat-ttft_ms_p95") && html.contains("Best TTFT p95"), "{html}");
    assert!(html.contains("--set sweep.router.overlap_weight=0,1"), "no command");
}

/// What distributions say where the summary has a percentile is that percentile.
#[test]
fn distributions_meet_the_percentiles_of_the_summary() {
    let place = Scratch::new();
    let snapshots = [
        "--set",
        "measure.quantiles=snapshots",
        "--set",
        "measure.snapshot_every=5s",
        "--set",
        "measure.trailing=5s",
    ];
    for sets in [&[][..], &snapshots] {
        let run = [&["run", "small.toml", "--no-figures", "--force"], sets].concat();
        done(&place, &run);
        let json = |file: &str| -> Value {
            serde_json::from_slice(&read(&place, &format!("plots/small/{file}"))).expect("JSON")
        };
        let (summary, details) = (json("summary.json"), json("details.json"));
        let mut compared = 0;
        for (point, found) in summary["points"]
            .as_array()
            .expect("points")
            .iter()
            .zip(details["distributions"].as_array().expect("distributions"))
        {
            for stem in ["ttft_ms", "itl_ms", "e2e_ms"] {
                for (share, suffix) in [(0.5, "p50"), (0.9, "p90"), (0.95, "p95"), (0.99, "p99")] {
                    let at = SHARES.iter().position(|other| *other == share).expect("a share");
                    let metric = &point["metrics"][format!("{stem}_{suffix}")];
                    let (here, there) = (&found[stem]["mean"][at], &metric["mean"]);
                    let apart = here.as_f64().expect("a time") - there.as_f64().expect("a time");
                    assert!(apart.abs() <= 5e-4 + 1e-9, "{stem} {suffix}: {here} and {there}");
                    let low = &found[stem]["ci95"][0][at];
                    let apart =
                        low.as_f64().expect("a bound") - metric["ci95"][0].as_f64().expect("one");
                    assert!(apart.abs() <= 5e-4 + 1e-9, "{stem} {suffix}: {low}");
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 4 * 3 * 4);
    }
}

#[test]
fn any_metric_can_be_drawn_of_saved_results() {
    let place = Scratch::new();
    done(&place, &["run", "small.toml", "--no-figures"]);
    assert!(!place.path().join("plots/small/report.html").exists());
    done(&place, &["plot", "plots/small", "--y", "e2e_ms_p90", "--x", "workload.concurrency"]);
    let svg = String::from_utf8(read(&place, "plots/small/e2e_ms.svg")).expect("UTF-8");
    assert!(svg.contains("end to end p90 (ms)"), "{svg}");
    let unknown = place.sim(&["plot", "plots/small", "--y", "e2e_ms_p91"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("a metric that these results have"));
    let nowhere = place.sim(&["report", "plots/other"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("name a folder that `sim run`"));
}

/// The events of a trace.
fn events(place: &Scratch, file: &str) -> Vec<Value> {
    let mut json = String::new();
    GzDecoder::new(&read(place, file)[..]).read_to_string(&mut json).expect("packed text");
    let mut trace: Value = serde_json::from_str(&json).expect("JSON");
    assert!(trace["otherData"]["digest"].as_str().is_some_and(|digest| digest.len() == 64));
    match trace["traceEvents"].take() {
        Value::Array(events) => events,
        other => panic!("{other}"),
    }
}

/// `what` of an event, in nanoseconds.
fn ns(event: &Value, what: &str) -> i64 {
    #[expect(clippy::cast_possible_truncation)]
    let ns = (event[what].as_f64().expect(what) * 1e3).round() as i64;
    ns
}

fn kind<'a>(event: &'a Value, key: &str) -> &'a str {
    event[key].as_str().unwrap_or_default()
}

/// The laws of the trace event format, as far as they are used here.
fn check_trace(events: &[Value], (from, to): (i64, i64), max_num_seqs: i64) {
    let mut steps: BTreeMap<u64, Vec<(i64, i64)>> = BTreeMap::new();
    let mut open: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    let mut last: BTreeMap<(u64, &str), i64> = BTreeMap::new();
    let mut flows: BTreeMap<u64, Vec<(&str, u64, i64)>> = BTreeMap::new();
    for event in events {
        let pid = event["pid"].as_u64().expect("a process");
        match kind(event, "ph") {
            "M" => continue,
            "X" if kind(event, "cat") == "step" => {
                let start = ns(event, "ts");
                steps.entry(pid).or_default().push((start, start + ns(event, "dur")));
            }
            "X" => assert_eq!(pid, 1, "the router"),
            "C" => {
                let ts = ns(event, "ts");
                let before = last.insert((pid, kind(event, "name")), ts);
                assert!(before.is_none_or(|before| before <= ts), "{event} after {before:?}");
                if kind(event, "name") == "requests" {
                    let running = event["args"]["running"].as_i64().expect("a number");
                    assert!((0..=max_num_seqs).contains(&running), "{event}");
                    assert!(event["args"]["waiting"].as_i64().is_some_and(|n| n >= 0), "{event}");
                }
                assert!((from..=to).contains(&ts), "{event}");
            }
            ph @ ("b" | "e") => {
                let (id, ts) = (event["id"].as_u64().expect("an id"), ns(event, "ts"));
                let before = last.insert((id, "span"), ts);
                assert!(before.is_none_or(|before| before <= ts), "{event} after {before:?}");
                assert!((from..=to).contains(&ts), "{event}");
                let inner = open.entry(id).or_default();
                if ph == "b" {
                    assert_eq!(inner.is_empty(), kind(event, "name") == "request", "{event}");
                    inner.push(kind(event, "name"));
                } else {
                    assert_eq!(inner.pop(), Some(kind(event, "name")), "{event}");
                }
            }
            ph @ ("s" | "t" | "f") => {
                let id = event["id"].as_u64().expect("an id");
                flows.entry(id).or_default().push((ph, pid, ns(event, "ts")));
            }
            other => panic!("{other}: {event}"),
        }
    }
    assert!(open.values().all(Vec::is_empty), "a span without an end");
    assert!(steps.len() > 1 && flows.len() > 3, "{} workers, {} flows", steps.len(), flows.len());
    for steps in steps.values() {
        assert!(steps.windows(2).all(|pair| pair[0].1 <= pair[1].0), "steps overlap");
        // With overlap and no host time a boundary follows at once on one after idling.
        assert!(steps.iter().all(|(start, end)| start <= end && *end >= from && *start <= to));
    }
    for (id, flow) in &flows {
        let phases: Vec<&str> = flow.iter().map(|(ph, ..)| *ph).collect();
        assert!(phases == ["s", "f"] || phases == ["s", "t", "f"], "{id}: {phases:?}");
        assert!(flow.windows(2).all(|pair| pair[0].2 < pair[1].2), "{id}: {flow:?}");
        for (_, pid, ts) in &flow[1..] {
            let inside = |&(start, end): &(i64, i64)| start <= *ts && *ts < end;
            assert!(steps[pid].iter().any(inside), "{id}: no step at {ts}");
        }
    }
}

#[test]
fn a_timeline_obeys_the_format_and_names_its_simulation() {
    let place = Scratch::new();
    let said = done(&place, &["run", "small.toml", "--timeline", "--window", "6s..9s"]);
    let wanted = "timeline of router.policy kv, workload.concurrency 4, seed 1: 6 s to 9 s of the \
                  simulation, whose measured part is 5 s to 25 s";
    assert!(said.contains(wanted), "{said}");
    let all = events(&place, "plots/small/timeline.json.gz");
    check_trace(&all, (6_000_000_000, 9_000_000_000), 64);
    // Another point and seed, from what was saved; not packed if the name does not say so.
    let other = ["timeline", "plots/small", "--policy", "round_robin", "--seed", "2"];
    let at = ["--at", "workload.concurrency=2", "--out", "other.json"];
    let said = done(&place, &[&other[..], &at[..]].concat());
    assert!(said.contains("round_robin, workload.concurrency 2, seed 2: 5 s to 25 s"), "{said}");
    let other: Value = serde_json::from_slice(&read(&place, "other.json")).expect("JSON");
    assert_eq!(other["otherData"]["seed"], 2);
    check_trace(
        other["traceEvents"].as_array().expect("events"),
        (5_000_000_000, 25_000_000_000),
        64,
    );
}

/// The steps inside plans that are passed at once are the steps of a run that
/// takes each by itself, under memory pressure and with overlap too.
#[test]
fn looking_at_every_step_changes_none() {
    // Two workers that end steps at the same picosecond would do so in either order.
    const JITTER: &str = "workload.client.overhead_jitter={ kind = 'exponential', mean = '3ms', \
                          min = '0s', max = '50ms' }";
    let place = Scratch::new();
    for (rules, blocks) in [("vllm", "4k"), ("vllm", "40"), ("trtllm", "200")] {
        let traces = ["true", "false"].map(|fast| {
            let sets = [
                format!("engine.fast_forward={fast}"),
                format!("engine.rules={rules}"),
                format!("engine.num_blocks={blocks}"),
            ];
            let out = format!("{rules}-{blocks}-{fast}");
            let mut args = vec!["run", "small.toml", "--timeline", "--seeds", "1", "--no-figures"];
            args.extend(["--set", "workload.concurrency=12", "--set", JITTER, "--out", &out]);
            args.extend(sets.iter().flat_map(|set| ["--set", set.as_str()]));
            done(&place, &args);
            let found = events(&place, &format!("{out}/timeline.json.gz"));
            check_trace(&found, (5_000_000_000, 25_000_000_000), 64);
            found
        });
        assert!(traces[0] == traces[1], "{rules}, {blocks} blocks");
    }
}

#[test]
fn a_timeline_of_nothing_is_refused() {
    let place = Scratch::new();
    done(&place, &["run", "small.toml", "--no-figures"]);
    let late = place.sim(&["timeline", "plots/small", "--window", "100s..200s"]);
    assert_eq!(late.status.code(), Some(2));
    assert!(text(&late.stderr).contains("its measured part is 5 s to 25 s"), "{:?}", late.stderr);
    assert!(!place.path().join("plots/small/timeline.json.gz").exists());
    let backwards = place.sim(&["timeline", "plots/small", "--window", "9s..6s"]);
    assert!(text(&backwards.stderr).contains("must end after it begins"));
}

/// Asks the page itself, in a browser (the Debian package `chromium`): every
/// figure has a size and text, follows the preferred scheme, and nothing was fetched.
#[test]
#[ignore = "needs chromium"]
fn a_browser_shows_every_figure_and_fetches_nothing() {
    const PROBE: &str = "<script>addEventListener('load',()=>{\
        const figures=[...document.querySelectorAll('figure svg')].map(svg=>{\
        const box=svg.getBoundingClientRect();\
        return [box.width>300,box.height>100,svg.querySelectorAll('text').length>5,\
        getComputedStyle(svg.querySelector('polygon')).fill].join('/')});\
        document.title='PROBE '+performance.getEntriesByType('resource').length+' '\
        +document.documentElement.scrollWidth+' '+figures.join(' ')})</script>";
    let place = Scratch::new();
    done(&place, &["run", "small.toml", "--requests"]);
    let html = String::from_utf8(read(&place, "plots/small/report.html")).expect("UTF-8");
    // Of the two drawings of a figure a wide screen shows one.
    let figures = html.matches("<svg ").count() / 2;
    place.write("probe.html", html.replace("</body>", &format!("{PROBE}</body>")));
    let url = format!("file://{}", place.path().join("probe.html").display());
    for (scheme, paper) in [(1, "rgb(255, 255, 255)"), (0, "rgb(21, 24, 29)")] {
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"])
            .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
            .args(["--dump-dom", &url])
            .output()
            .expect("chromium is installed");
        let page = text(&output.stdout);
        let from = page.find("<title>PROBE ").expect("the probe ran") + 13;
        let said = &page[from..from + page[from..].find("</title>").expect("a title")];
        let figure = format!("true/true/true/{paper}");
        assert_eq!(said.matches(&figure).count(), figures, "{said}");
        let (fetched, rest) = said.split_once(' ').expect("a number");
        assert_eq!(fetched, "0", "resources were fetched");
        let width: u32 = rest.split(' ').next().and_then(|w| w.parse().ok()).expect("a number");
        assert!(width <= 1200, "the page is {width} wide");
    }
}
