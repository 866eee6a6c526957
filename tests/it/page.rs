//! The live page over HTTP, as a browser and as others would ask it.

use super::exposition::{Exposition, promtool_takes};
use super::program::EXPERIMENT;
use kv_router_sim::experiment::{Experiment, LoadOptions, RunOptions, run};
use kv_router_sim::fleet::servers::LiveSettings;
use kv_router_sim::live::LiveOptions;
use kv_router_sim::serve::{ServeOptions, Served, serve};
use kv_router_sim::ui::{Shown, UiOptions, show};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

fn begin() -> Shown {
    let experiment =
        Experiment::parse(Path::new("small.toml"), EXPERIMENT, &LoadOptions::default());
    show(&experiment.expect("valid"), &UiOptions::default()).expect("a free port")
}

/// Status and body of the answer to a request with these headers beside its length.
fn ask(page: &Shown, what: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(page.address()).expect("it listens");
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).expect("a timeout");
    let length = body.len().to_string();
    let all =
        headers.iter().copied().chain([("content-length", &*length), ("connection", "close")]);
    let lines: String = all.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "{what} HTTP/1.1\r\n{lines}\r\n{body}").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("head and body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    assert!(head.contains("x-frame-options: DENY"), "{head}");
    (status, body.to_owned())
}

fn get(page: &Shown, path: &str) -> (u16, String) {
    ask(page, &format!("GET {path}"), &[("host", &page.address().to_string())], "")
}

fn act(page: &Shown, what: &Value) -> (u16, Value) {
    let host = page.address().to_string();
    let headers = [("host", &*host), ("content-type", "application/json")];
    let (status, body) = ask(page, "POST /api/do", &headers, &what.to_string());
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// The events of a stream by name, as they come.
fn events(page: &Shown) -> impl Iterator<Item = (String, Value)> + use<> {
    let mut stream = TcpStream::connect(page.address()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    write!(stream, "GET /api/events HTTP/1.1\r\nhost: {}\r\n\r\n", page.address()).expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let mut name = String::new();
    #[expect(clippy::disallowed_methods, reason = "a page runs in real time")]
    let begin = Instant::now();
    std::iter::from_fn(move || {
        // Something comes all the time, to keep the connection open.
        while begin.elapsed() < Duration::from_secs(120) {
            let line = lines.next()?.ok()?;
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name.clone(), serde_json::from_str(data).expect("JSON")));
            }
        }
        None
    })
}

/// The next frame that will do.
fn frame(
    events: &mut impl Iterator<Item = (String, Value)>,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let mut frames = events.filter(|(name, _)| name == "frame").map(|(_, frame)| frame);
    frames.find(|frame| wanted(&frame["now"])).expect("such a frame comes")
}

fn refusal(page: &Shown, what: &Value) -> String {
    let (status, body) = act(page, what);
    assert_eq!(status, 400, "{body}");
    body["error"].as_str().expect("an error").to_owned()
}

#[test]
fn a_session_is_steered_saved_and_restored() {
    let page = begin();
    let (status, html) = get(&page, "/");
    assert_eq!(status, 200);
    assert!(html.contains("Content-Security-Policy") && html.len() > 50_000);

    let mut heard = events(&page);
    let (name, hello) = heard.next().expect("a first event");
    assert_eq!(
        (&*name, &hello["load"], &hello["loads"]),
        ("hello", &json!("concurrency"), &json!([2.0, 4.0]))
    );
    assert_eq!(hello["arms"][1]["name"], "kv");

    assert_eq!(act(&page, &json!({ "do": "pause" })).0, 200);
    assert_eq!(act(&page, &json!({ "do": "restart", "seed": 3 })).0, 200);
    assert_eq!(act(&page, &json!({ "do": "step", "by": "10s" })).0, 200);
    let at_ten = |now: &Value| now["t"] == 10.0 && now["paused"] == true && now["seed"] == 3;
    frame(&mut heard, at_ten);
    let load = json!({ "do": "control", "control": { "what": "load", "concurrency": 9 } });
    assert_eq!(act(&page, &load), (200, json!({ "refused": [] })));
    let weight = json!({ "what": "parameter", "key": "overlap_weight", "value": 2.5 });
    let (status, body) = act(&page, &json!({ "do": "control", "control": weight }));
    assert_eq!(status, 200);
    assert_eq!(body["refused"][0]["arm"], 0, "round robin has no such parameter: {body}");
    let crash = json!({ "what": "crash", "worker": 1, "restart_after": "2s" });
    assert_eq!(act(&page, &json!({ "do": "control", "arm": 1, "control": crash })).0, 200);
    assert_eq!(act(&page, &json!({ "do": "step", "by": "5s" })).0, 200);
    let later = frame(&mut heard, |now| now["t"] == 15.0 && now["paused"] == true);
    assert_eq!(later["now"]["moves"], 3);
    assert_eq!(later["now"]["arms"][1]["parameters"]["overlap_weight"], 2.5);
    let last = later["now"]["arms"][1]["last"].as_array().expect("requests");
    let request = last.last().expect("one has ended")["id"].clone();

    // What is saved replays to the digest that it names.
    let (status, text) = get(&page, "/api/experiment.toml");
    assert_eq!(status, 200, "{text}");
    let experiment = Experiment::parse(Path::new("s.toml"), &text, &LoadOptions::default());
    let experiment = experiment.unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let digest =
        run(&experiment, RunOptions::default().jobs(1)).expect("it runs").summary.provenance.digest;
    assert!(text.contains(&digest), "{digest}\n{text}");

    let (status, why) = get(&page, &format!("/api/explain?arm=1&request={request}"));
    assert_eq!(status, 200, "{why}");
    assert!(why.contains(&format!("request {request}: turn")), "{why}");

    // A link brings back the state, in a session that has gone on.
    let (_, link) = get(&page, "/api/link");
    let mut link: Value = serde_json::from_str(&link).expect("JSON");
    act(&page, &json!({ "do": "restart", "seed": 1 }));
    frame(&mut heard, |now| now["seed"] == 1);
    link["do"] = json!("restore");
    assert_eq!(act(&page, &link).0, 200);
    let restored = |now: &Value| now["t"] == 15.0 && now["paused"] == true && now["seed"] == 3;
    assert_eq!(frame(&mut heard, restored)["now"]["moves"], 3);
    let (_, again) = get(&page, "/api/experiment.toml");
    assert_eq!(again, text);

    // A browser that comes later sees the same.
    let mut second = events(&page);
    let seen = frame(&mut second, restored);
    assert_eq!(seen["samples"].as_array().map(Vec::is_empty), Some(false));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let page = begin();
    for (what, expected) in [
        (json!({ "do": "fly" }), "unknown variant `fly`"),
        (json!({ "do": "pace", "speed": 0 }), "speed = 0: must be a number from 0.01"),
        (json!({ "do": "step", "by": "3" }), "by: \"3\" is not a duration"),
        (json!({ "do": "step", "by": "30h" }), "by = \"30h\": must be from"),
        (json!({ "do": "window", "over": "0s" }), "over = \"0s\": must be from 1 s"),
        (json!({ "do": "preset", "name": "x" }), "\"x\" is no preset"),
        (json!({ "do": "control", "control": { "what": "load" } }), "concurrency = nothing"),
        (
            json!({ "do": "control", "control": { "what": "load", "concurrency": 2_000_000 } }),
            "concurrency = 2000000: must be from 0 to 1000000",
        ),
        (json!({ "do": "control", "control": { "what": "rate", "rate": 3 } }), "what = \"rate\""),
        (
            json!({ "do": "control", "arm": 7, "control": { "what": "load", "concurrency": 2 } }),
            "arm = 7: must be from 0 to 1",
        ),
        (json!({ "do": "control", "control": { "what": "crash", "worker": 77 } }), "worker = 77"),
        (
            json!({ "do": "control", "control": { "what": "policy", "policy": "kvv" } }),
            "did you mean \"kv\"?",
        ),
        (
            json!({ "do": "restore", "seed": 1, "at": "1s", "moves": [{ "arm": 9, "at": "0s", "what": "marker", "note": "x" }] }),
            "arm",
        ),
    ] {
        let error = refusal(&page, &what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let (status, why) = get(&page, "/api/explain?arm=0&request=999999");
    assert_eq!(status, 400, "{why}");
    assert_eq!(get(&page, "/nothing").0, 404);
}

#[test]
fn another_page_can_neither_look_nor_steer() {
    let page = begin();
    let host = page.address().to_string();
    let load =
        json!({ "do": "control", "control": { "what": "load", "concurrency": 9 } }).to_string();
    let post = |headers: &[(&str, &str)]| ask(&page, "POST /api/do", headers, &load).0;
    let json = ("content-type", "application/json");
    let own = ("host", &*host);
    let origin = format!("http://{host}");
    assert_eq!(post(&[own, json, ("origin", &origin)]), 200);
    for foreign in ["http://example.com", "null", "http://127.0.0.1:1"] {
        assert_eq!(post(&[own, json, ("origin", foreign)]), 403, "{foreign}");
    }
    assert_eq!(post(&[own, ("content-type", "text/plain")]), 403, "a form needs no permission");
    let foreign = [("host", "rebound.example")];
    assert_eq!(ask(&page, "GET /api/link", &foreign, "").0, 403);
    assert_eq!(ask(&page, "GET /", &foreign, "").0, 403);
}

/// Simulated workers on the clock of the wall, which stand in for vLLM.
fn served(experiment: &Experiment) -> Served {
    let options = ServeOptions {
        host: [127, 0, 0, 1].into(),
        allow_remote: false,
        port: 0,
        behind_router: false,
        speed: 1.0,
        model: "sim".to_owned(),
        events: true,
        seed: 1,
    };
    // Events go to a port that follows from that of HTTP, which may be taken.
    let mut started = (0..50).map(|_| serve(&experiment.runs[0].settings, &options));
    started.find_map(Result::ok).expect("free ports")
}

fn with_servers(urls: Vec<String>) -> UiOptions {
    let servers = LiveSettings { urls, ..LiveSettings::default() };
    let servers = LiveOptions { servers, api_key: None, keep_caches: true };
    UiOptions { servers: Some(servers), ..UiOptions::default() }
}

#[test]
fn real_servers_are_an_arm_beside_their_simulation() {
    let options = LoadOptions::default().set("router.policy=kv");
    let experiment = Experiment::parse(Path::new("small.toml"), EXPERIMENT, &options);
    let experiment = experiment.expect("valid");
    let servers = served(&experiment);
    let urls = servers.addresses().iter().map(|address| format!("http://{address}")).collect();
    let page = show(&experiment, &with_servers(urls)).expect("they are the experiment's");
    let mut heard = events(&page);
    let (_, hello) = heard.next().expect("a first event");
    assert_eq!(
        (&hello["arms"][0]["name"], &hello["arms"][0]["real"]),
        (&json!("kv"), &json!(false))
    );
    let real = &hello["arms"][1];
    assert_eq!((&real["name"], &real["real"]), (&json!("kv, servers"), &json!(true)));

    // Both take the load and the parameters; what only a simulation can do is refused.
    let load = json!({ "what": "load", "concurrency": 6 });
    let weight = json!({ "what": "parameter", "key": "overlap_weight", "value": 2.0 });
    for control in [load, weight] {
        let done = act(&page, &json!({ "do": "control", "control": control }));
        assert_eq!(done, (200, json!({ "refused": [] })));
    }
    let crash = json!({ "what": "crash", "worker": 1, "restart_after": "1s" });
    let (status, body) = act(&page, &json!({ "do": "control", "control": crash }));
    assert_eq!((status, &body["refused"][0]["arm"]), (200, &json!(1)), "{body}");
    for (what, expected) in [
        (json!({ "do": "control", "arm": 1, "control": crash }), "are started and stopped where"),
        (
            json!({ "do": "control", "arm": 1, "control": { "what": "feed", "delay": "9ms" } }),
            "delay = \"9ms\": must be left out: KV events of real servers take their own time",
        ),
        (json!({ "do": "pause" }), "live in real time"),
        (json!({ "do": "pace", "speed": 10 }), "live in real time"),
        (json!({ "do": "step", "by": "1s" }), "live in real time"),
        (json!({ "do": "restart" }), "live in real time"),
        (json!({ "do": "preset", "name": "worker-dies" }), "are started and stopped where"),
    ] {
        let error = refusal(&page, &what);
        assert!(error.contains(expected), "{what}: {error}");
    }
    let busy = |now: &Value| {
        let enough = |arm: &Value| arm["last"].as_array().is_some_and(|last| last.len() == 8);
        now["arms"].as_array().is_some_and(|arms| arms.len() == 2 && arms.iter().all(enough))
    };
    let seen = frame(&mut heard, busy);
    for request in seen["now"]["arms"][1]["last"].as_array().expect("requests") {
        assert_eq!(request["end"], "finished", "{request}");
        // A step with a prompt takes 20 ms; on a busy machine tokens come late, never early.
        assert!(request["ttft_ms"].as_f64() >= Some(19.0), "{request}");
        assert!(request["queue_ms"].is_null(), "{request}");
    }
    let last = seen["now"]["arms"][1]["last"][0]["id"].clone();
    for path in [format!("/api/explain?arm=1&request={last}"), "/api/link".to_owned()] {
        let (status, why) = get(&page, &path);
        assert!(status == 400 && why.contains("cannot be done again"), "{path}: {status} {why}");
    }
    let (_, text) = get(&page, "/metrics");
    let metrics = Exposition::of(&text);
    metrics.keeps_its_laws();
    let ended = |status: &str| {
        let labels = [("arm", "kv, servers"), ("status", status)];
        metrics.sum("dynamo_frontend_requests_total", &labels)
    };
    assert!(ended("success") >= 8.0, "{text}");
    assert_eq!(ended("error"), 0.0);
    assert!(!text.contains("vllm:num_requests_running{arm=\"kv, servers\""), "{text}");

    // The simulation beside them is an experiment like any other.
    let (status, text) = get(&page, "/api/experiment.toml");
    assert_eq!(status, 200, "{text}");
    let saved = Experiment::parse(Path::new("s.toml"), &text, &LoadOptions::default());
    let saved = saved.unwrap_or_else(|wrong| panic!("{wrong}\n{text}"));
    let outcome = run(&saved, RunOptions::default().jobs(1)).expect("it runs");
    let digest = outcome.summary.provenance.digest;
    assert!(text.contains(&digest) && text.contains("overlap_weight"), "{digest}\n{text}");
}

#[test]
fn servers_that_cannot_be_an_arm_are_refused_at_once() {
    let both = Experiment::parse(Path::new("small.toml"), EXPERIMENT, &LoadOptions::default());
    let both = both.expect("valid");
    let wrong = |experiment: &Experiment, urls: &[&str]| {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        show(experiment, &with_servers(urls)).expect_err("refused").to_string()
    };
    let two = ["http://127.0.0.1:1", "http://127.0.0.1:1"];
    let line = wrong(&both, &two);
    assert!(line.starts_with("sweep = 2: must be one combination"), "{line}");
    let options = LoadOptions::default().set("router.policy=kv");
    let one = Experiment::parse(Path::new("small.toml"), EXPERIMENT, &options).expect("valid");
    let line = wrong(&one, &two[..1]);
    assert!(line.starts_with("cluster.workers = 2: must be 1, as many as there are"), "{line}");
    let line = wrong(&one, &two);
    assert!(line.starts_with("worker http://127.0.0.1:1: /version: no answer"), "{line}");
}

#[test]
fn metrics_are_those_of_vllm_and_of_dynamos_front_end() {
    let page = begin();
    act(&page, &json!({ "do": "step", "by": "20s" }));
    let mut heard = events(&page);
    let now = frame(&mut heard, |now| now["t"].as_f64() >= Some(20.0) && now["paused"] == true);
    let (status, text) = get(&page, "/metrics");
    assert_eq!(status, 200);
    let metrics = Exposition::of(&text);
    metrics.keeps_its_laws();
    let value = |name: &str| metrics.sum(name, &[("arm", "kv")]);
    let workers = now["now"]["arms"][1]["workers"].as_array().expect("workers");
    let running = metrics.sum("vllm:num_requests_running", &[("arm", "kv"), ("engine", "0")]);
    assert_eq!(Some(running), workers[0][1].as_f64());
    let t = now["now"]["t"].as_f64().expect("a time");
    assert_eq!(value("sim_time_seconds"), t);
    let finished = value("vllm:request_success_total");
    assert!(finished > 0.0, "{text}");
    assert_eq!(finished, value("dynamo_frontend_output_sequence_tokens_count"));
    assert_eq!(value("dynamo_frontend_output_sequence_tokens_sum"), 80.0 * finished);
    // Each request has 80 tokens, so 79 gaps; those of requests under way are fewer.
    let gaps = value("dynamo_frontend_inter_token_latency_seconds_count");
    assert!(gaps >= 79.0 * finished && gaps <= 79.0 * (finished + 4.0), "{gaps}: {text}");
    let busy = value("sim_busy_seconds_total");
    assert!(busy > 0.0 && busy <= 2.0 * t, "{busy} of two workers in {t} s");
    let tokens = value("vllm:iteration_tokens_total_sum");
    let computed = value("vllm:prefix_cache_queries_total") - value("vllm:prefix_cache_hits_total");
    assert!(tokens >= computed + 79.0 * finished, "{tokens}: {text}");
}

/// Every name that the dashboard asks for is one that the page exports.
#[test]
fn the_dashboard_asks_for_what_there_is() {
    let page = begin();
    act(&page, &json!({ "do": "step", "by": "20s" }));
    frame(&mut events(&page), |now| now["t"].as_f64() >= Some(20.0) && now["paused"] == true);
    let (_, text) = get(&page, "/metrics");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/sim-ui.json");
    let dashboard = std::fs::read_to_string(file).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut asked = 0;
    for expr in targets.filter_map(|target| target["expr"].as_str()) {
        for name in expr.split(['(', ')', '{', ' ']).filter(|name| {
            ["sim_", "vllm:", "dynamo_"].iter().any(|prefix| name.starts_with(prefix))
        }) {
            asked += 1;
            assert!(text.contains(&format!("\n{name}{{")), "{name} of {expr}");
        }
    }
    assert!(asked > 15, "{asked}");
}

/// Prometheus takes what the page exports for its format.
#[test]
#[ignore = "needs promtool, of Debian's package prometheus"]
fn prometheus_takes_what_the_page_says() {
    let page = begin();
    act(&page, &json!({ "do": "step", "by": "20s" }));
    promtool_takes(&get(&page, "/metrics").1);
}
