//! Simulated workers behind vLLM's HTTP interface, asked by the fleet of real
//! servers: what goes over the wire is what was simulated.

use super::super::exposition::{Exposition, promtool_takes};
use super::super::program::{Scratch, text};
use kv_router_sim::experiment::{Experiment, LoadOptions};
use kv_router_sim::fleet::servers::{LiveSettings, ServerError};
use kv_router_sim::live::{self, LiveError, LiveOptions, LiveOutcome};
use kv_router_sim::recorder::End;
use kv_router_sim::serve::{ServeOptions, Served, serve};
use kv_router_sim::time::SimDuration;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

const EXPERIMENT: &str = r#"
name = "served"
[cluster]
workers = 2
[engine]
rules = "vllm"
block_size = 16
num_blocks = 400
max_num_seqs = 8
max_num_batched_tokens = 512
step_time = { kind = "fixed", prefill = "10ms", decode = "4ms" }
[router]
policy = "kv"
[workload]
kind = "conversations"
concurrency = 2
starters = 2
starter_tokens = { kind = "uniform", min = 60, max = 200 }
turns = { min = 2, max = 3 }
question_tokens = { kind = "uniform", min = 5, max = 60 }
output_tokens = { kind = "uniform", min = 2, max = 12 }
think_time = { kind = "constant", value = "40ms" }
start_spread = "100ms"
[measure]
window = "2500ms"
"#;

fn experiment(changes: &[&str]) -> Experiment {
    let options = LoadOptions::default().set_all(changes.iter().copied());
    Experiment::parse(Path::new("served.toml"), EXPERIMENT, &options).expect("a good experiment")
}

/// The same with two pools, whose workers hold different numbers of blocks.
fn experiment_of_pools(changes: &[&str]) -> Experiment {
    let pool = |name: &str, blocks: u32| {
        format!(
            "[[cluster.pool]]\nname = \"{name}\"\nworkers = 1\nengine = {{ num_blocks = {blocks} }}\n"
        )
    };
    let pools = pool("small", 200) + &pool("large", 500);
    let text = EXPERIMENT.replace("[cluster]\nworkers = 2\n", &pools);
    let options = LoadOptions::default().set_all(changes.iter().copied());
    Experiment::parse(Path::new("served.toml"), &text, &options).expect("a good experiment")
}

fn options(events: bool, behind_router: bool) -> ServeOptions {
    ServeOptions {
        host: IpAddr::V4(Ipv4Addr::LOCALHOST),
        allow_remote: false,
        port: 0,
        behind_router,
        speed: 1.0,
        model: "sim".to_owned(),
        events,
        seed: 1,
    }
}

fn start(experiment: &Experiment, events: bool, behind_router: bool) -> Served {
    let options = options(events, behind_router);
    // Events go to a port that follows from that of HTTP, which may be taken.
    let mut started = (0..50).map(|_| serve(&experiment.runs[0].settings, &options));
    started.find_map(Result::ok).expect("free ports")
}

fn urls(served: &Served) -> Vec<String> {
    served.addresses().iter().map(|address| format!("http://{address}")).collect()
}

fn run(experiment: &Experiment, served: &Served) -> Result<LiveOutcome, LiveError> {
    run_at(experiment, urls(served))
}

fn run_at(experiment: &Experiment, urls: Vec<String>) -> Result<LiveOutcome, LiveError> {
    let servers = LiveSettings { urls, ..LiveSettings::default() };
    let options = LiveOptions { servers, api_key: None, keep_caches: true };
    live::run(experiment, &options, |_, _| ())
}

/// Everything at once: HTTP, streams, KV events over ZMQ, their translation, the
/// policy, and the simulations beside it.
#[test]
fn a_live_run_on_simulated_workers_is_their_simulation() {
    is_its_simulation(&experiment(&[]));
}

#[test]
fn so_it_is_where_workers_differ() {
    let experiment = experiment_of_pools(&[]);
    let outcome = is_its_simulation(&experiment);
    for summary in [&outcome.real, &outcome.same] {
        let served = |pool: &str| {
            summary.points[0].metrics[&format!("pool_requests_per_s[{pool}]")].mean.expect("served")
        };
        assert!(served("small") > 0.0 && served("large") > 0.0);
    }
    // Worker 0 is a server like those of the first pool.
    let served = start(&experiment, true, false);
    let mut urls = urls(&served);
    urls.reverse();
    let refused = run_at(&experiment, urls).expect_err("the larger one first").to_string();
    assert!(refused.contains("KV blocks is 500 there and 200 in the experiment"), "{refused}");
}

/// Runs `experiment` on its own workers, and holds what came of it against the simulation.
fn is_its_simulation(experiment: &Experiment) -> LiveOutcome {
    let served = start(experiment, true, false);
    let outcome = run(experiment, &served).expect("a run");
    let run = &outcome.runs[0];
    assert!(run.requests.len() > 20, "{}", run.requests.len());
    assert!(run.requests.iter().all(|request| request.failed.is_none()));
    assert!(run.event_faults.iter().all(|faults| *faults == Default::default()), "{run:?}");

    let both = run.requests.iter().filter(|request| request.real.end.is_some());
    let both: Vec<_> =
        both.filter_map(|request| Some((request.real, request.simulated?))).collect();
    let hits = both.iter().filter(|(real, _)| real.cached_tokens > 0).count();
    let equal = both.iter().filter(|(real, own)| real.cached_tokens == own.cached_tokens).count();
    assert!(hits * 3 > both.len(), "{hits} of {} hit", both.len());
    // Two conversations that begin with one text may meet in either order.
    assert!(equal * 10 >= both.len() * 9, "{equal} of {} equal", both.len());

    let told = run.on_history.as_ref().expect("kv can be asked");
    assert_eq!(told.differences, [], "the same history, the same decisions");
    assert_eq!(told.agreed + told.tied, told.decisions);
    assert_eq!(usize::try_from(told.decisions), Ok(run.requests.len()));

    // On a busy machine tokens come late, never early.
    let mean = |summary: &kv_router_sim::experiment::results::Summary, name: &str| {
        summary.points[0].metrics[name].mean.expect("measured")
    };
    for name in ["ttft_ms_mean", "itl_ms_mean"] {
        let (real, simulated) = (mean(&outcome.real, name), mean(&outcome.same, name));
        assert!(real > 0.8 * simulated, "{name}: {real} against {simulated}");
    }
    let report = live::report(experiment, &outcome);
    assert!(report.contains("cached tokens: equal for"), "{report}");
    assert_eq!(live::requests_csv(&outcome).lines().count(), run.requests.len() + 1);
    outcome
}

#[test]
fn a_fleet_of_another_size_is_refused_before_anything_is_sent() {
    let experiment = experiment(&["cluster.workers=1"]);
    let served = start(&experiment, false, false);
    let larger = self::experiment(&[]);
    let refused = run(&larger, &served).expect_err("two workers, one server");
    assert!(refused.to_string().contains("cluster.workers"), "{refused}");
    let pools = run(&experiment_of_pools(&[]), &served).expect_err("two workers, one server");
    assert!(pools.to_string().contains("cluster.pool = 2 workers in all: must be 1"), "{pools}");
    let without_events = run(&experiment, &served).expect_err("kv needs events");
    assert!(
        matches!(without_events, LiveError::Server(ServerError::Events { .. })),
        "{without_events}"
    );
}

/// Why these changes of the experiment cannot be served or run on real servers.
#[test]
fn fleets_that_change_and_hand_kv_over_are_refused_in_one_line() {
    let kv = "engine.kv_bytes_per_token=1000";
    let change = "cluster.change=[{ at = \"1s\", what = \"crash\", worker = 1 }]";
    let prefill = "cluster.pool.small.role=\"prefill\"";
    for (experiment, key) in [
        (experiment(&["cluster.prefill.workers=1", kv]), "cluster.prefill.workers = 1:"),
        (experiment(&[change, kv]), "cluster.change = "),
        (
            experiment(&["cluster.planner={ min_workers = 1, max_workers = 3 }"]),
            "cluster.planner = ",
        ),
        (
            experiment_of_pools(&[prefill, "cluster.pool.large.role=\"decode\"", kv]),
            "cluster.pool = pools with the roles prefill and decode:",
        ),
        (
            experiment_of_pools(&["cluster.pool.large.spare=1"]),
            "cluster.pool = a pool with spare workers:",
        ),
    ] {
        let settings = &experiment.runs[0].settings;
        let served = serve(settings, &options(false, true)).expect_err("refused").to_string();
        let servers = LiveSettings { urls: vec![String::new(); 2], ..LiveSettings::default() };
        let options = LiveOptions { servers, api_key: None, keep_caches: true };
        let live = live::run(&experiment, &options, |_, _| ()).expect_err("refused").to_string();
        for (line, who) in [(served, "served workers"), (live, "real servers")] {
            assert!(line.starts_with(key), "{line}");
            let why = format!("must be left out: {who} stay as they are, and each does all");
            assert!(line.contains(&why) && line.lines().count() == 1, "{line}");
        }
    }
}

#[test]
fn kv_events_beyond_the_last_port_are_refused() {
    let settings = &experiment(&[]).runs[0].settings;
    let too_high = ServeOptions { port: 64_000, ..options(true, false) };
    let line = serve(settings, &too_high).expect_err("refused").to_string();
    assert_eq!(
        line,
        "port = 64000: must be at most 63535 for every worker that publishes KV events: they \
         are 1000 and 2000 ports further"
    );
}

#[test]
fn an_address_that_others_reach_needs_a_word() {
    let settings = &experiment(&[]).runs[0].settings;
    for host in ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"] {
        let host: IpAddr = host.parse().expect("an address");
        let open = ServeOptions { host, ..options(false, false) };
        let line = serve(settings, &open).expect_err("refused").to_string();
        assert!(line.starts_with(&format!("host = {host}: must be a loopback")), "{line}");
        assert!(line.contains("unless other machines are allowed to reach it"), "{line}");
    }
    let host = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let allowed = ServeOptions { host, allow_remote: true, ..options(false, false) };
    serve(settings, &allowed).expect("allowed");
}

/// A real run takes minutes: what would fail after it fails before it.
#[test]
fn a_trace_that_cannot_be_written_is_refused_before_the_run() {
    let place = Scratch::new();
    place.write("file", "text");
    let worker = ["--worker", "http://127.0.0.1:1", "--worker", "http://127.0.0.1:1"];
    let live = |more: &[&str]| {
        let output = place.sim(&[&["live", "small.toml"], &worker[..], more].concat());
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr).to_owned()
    };
    let line = live(&["--record", "."]);
    assert_eq!(line, "error: .: cannot be written: it is a folder\n");
    let line = live(&["--record", "file/trace.jsonl"]);
    assert!(line.starts_with("error: file/trace.jsonl: cannot be written: "), "{line}");
    let line = live(&["--record", "new/trace.jsonl"]);
    assert!(line.contains("http://127.0.0.1:1"), "{line}");
    let left: Vec<String> = place.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["file", "small.toml"], "a check that failed leaves nothing behind");
    assert!(live(&["--jobs", "2"]).contains("unexpected argument '--jobs'"));
}

/// Status and body of a request.
fn ask(served: &Served, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(served.addresses()[0]).expect("it listens");
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer)
}

#[test]
fn chats_and_whole_answers_have_vllms_shape_behind_the_router_too() {
    let experiment = experiment(&[]);
    for behind_router in [false, true] {
        let served = start(&experiment, false, behind_router);
        assert_eq!(served.addresses().len(), if behind_router { 1 } else { 2 });
        let chat = r#"{"model":"sim","messages":[{"role":"user","content":"Hello there, my friend"}],
                       "max_tokens":5,"stream":true,"stream_options":{"include_usage":true}}"#;
        let (status, answer) = ask(&served, "POST", "/v1/chat/completions", chat);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer.matches("\"content\":\" ").count(), 5, "{answer}");
        assert!(answer.contains("\"finish_reason\":\"length\"") && answer.contains("data: [DONE]"));
        assert!(answer.contains("\"completion_tokens\":5"), "{answer}");
        let whole = r#"{"prompt":"one two three","max_tokens":3}"#;
        let (status, answer) = ask(&served, "POST", "/v1/completions", whole);
        assert_eq!(status, 200, "{answer}");
        assert!(answer.contains("\"total_tokens\":7"), "{answer}");
        for (path, body, expected) in [
            ("/v1/completions", r#"{"model":"other","prompt":"x"}"#, 404),
            ("/v1/completions", r#"{"prompt":"#, 400),
            ("/v1/completions", r#"{"prompt":["a","b"]}"#, 400),
            ("/v1/completions", r#"{"prompt":"x","max_tokens":0}"#, 400),
            ("/v1/chat/completions", r#"{"prompt":"x"}"#, 400),
            ("/v1/chat/completions", r#"{"messages":[]}"#, 400),
            ("/v1/elsewhere", "{}", 404),
        ] {
            let (status, answer) = ask(&served, "POST", path, body);
            assert_eq!(status, expected, "{path} {body}: {answer}");
            assert!(answer.contains("\"message\":"), "{answer}");
        }
        assert_eq!(ask(&served, "GET", "/v1/completions", "").0, 405);
        assert_eq!(ask(&served, "GET", "/health", "").0, 200);
    }
}

/// Requests of known lengths, one after the other: `/metrics` counts them all, and says how
/// long they took.
#[test]
fn what_served_workers_count_is_what_was_asked() {
    let experiment = experiment(&[]);
    for behind_router in [false, true] {
        let served = start(&experiment, false, behind_router);
        for number in 0..9 {
            let body = format!(
                r#"{{"prompt":"{number} is the number of this","max_tokens":{}}}"#,
                5 + number
            );
            assert_eq!(ask(&served, "POST", "/v1/completions", &body).0, 200);
        }
        let (_, answer) = ask(&served, "GET", "/metrics", "");
        let metrics = answer.split_once("\r\n\r\n").expect("a body").1;
        let metrics = Exposition::of(metrics);
        metrics.keeps_its_laws();
        let sum = |name: &str| metrics.sum(name, &[("model_name", "sim")]);
        let tokens: f64 = (0..9).map(|number| f64::from(5 + number)).sum();
        assert_eq!(sum("vllm:request_success_total"), 9.0);
        assert_eq!(sum("vllm:generation_tokens_total"), tokens);
        assert_eq!(sum("vllm:inter_token_latency_seconds_count"), tokens - 9.0);
        assert_eq!(sum("vllm:time_to_first_token_seconds_count"), 9.0);
        // Steps take 10 ms with prompts and 4 ms without, one request at a time.
        assert_eq!(sum("vllm:iteration_tokens_total_count"), tokens);
        let decode = sum("vllm:request_decode_time_seconds_sum");
        assert!((decode - 0.004 * (tokens - 9.0)).abs() < 1e-9, "{decode}");
        let busy = metrics.sum("sim_busy_seconds_total", &[]);
        assert!((busy - 0.09 - decode).abs() < 1e-9, "{busy}");
        if behind_router {
            let success = [("status", "success"), ("model", "sim")];
            assert_eq!(metrics.sum("dynamo_frontend_requests_total", &success), 9.0);
            let gaps = metrics.sum("dynamo_frontend_inter_token_latency_seconds_sum", &[]);
            assert!((gaps - decode).abs() < 1e-9, "{gaps}");
        }
    }
}

/// Prometheus takes what is served for its format.
#[test]
#[ignore = "needs promtool, of Debian's package prometheus"]
fn prometheus_takes_what_is_served() {
    for behind_router in [false, true] {
        let served = start(&experiment(&[]), false, behind_router);
        let body = r#"{"prompt":"one two three","max_tokens":3}"#;
        assert_eq!(ask(&served, "POST", "/v1/completions", body).0, 200);
        let (_, answer) = ask(&served, "GET", "/metrics", "");
        promtool_takes(answer.split_once("\r\n\r\n").expect("a body").1);
    }
}

/// A program that ends with this.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prometheus itself scrapes served workers, and its queries give what was asked of them.
#[test]
#[ignore = "needs prometheus, of Debian's package of that name"]
fn prometheus_takes_a_scrape_and_answers_queries() {
    let served = start(&experiment(&[]), false, true);
    for number in 0..9 {
        let body = format!(r#"{{"prompt":"{number} is the number","max_tokens":9}}"#);
        assert_eq!(ask(&served, "POST", "/v1/completions", &body).0, 200);
    }
    let place = tempfile::tempdir().expect("a folder");
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let target = served.addresses()[0];
    let config = format!(
        "global: {{ scrape_interval: 1s }}\n\
         scrape_configs: [{{ job_name: sim, static_configs: [{{ targets: [\"{target}\"] }}] }}]\n"
    );
    std::fs::write(place.path().join("prometheus.yml"), config).expect("written");
    let prometheus = std::process::Command::new("prometheus")
        .arg("--config.file=prometheus.yml")
        .arg(format!("--web.listen-address={address}"))
        .current_dir(place.path())
        .stderr(std::process::Stdio::null())
        .spawn();
    let _prometheus = Running(prometheus.expect("prometheus is installed"));
    let query = |query: &str| -> Option<f64> {
        let mut stream = TcpStream::connect(address).ok()?;
        let escape = |byte: u8| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        };
        let query: String = query.bytes().map(escape).collect();
        write!(stream, "GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let body = answer.split_once("\r\n\r\n")?.1;
        let answer: serde_json::Value = serde_json::from_str(body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    let mut tries = (0..300).map(|_| {
        std::thread::sleep(Duration::from_millis(100));
        query("sum(vllm:request_success_total)")
    });
    assert_eq!(tries.find_map(|found| found), Some(9.0));
    assert_eq!(query("sum(vllm:generation_tokens_total)"), Some(81.0));
    assert_eq!(query("sum(dynamo_frontend_requests_total{status=\"success\"})"), Some(9.0));
    // All decode for 32 ms, which is in the first bucket, from 0 to 300 ms.
    let median = "histogram_quantile(0.5, sum by (le) (vllm:request_decode_time_seconds_bucket))";
    assert_eq!(query(median), Some(0.15));
}

/// Answers take 14 to 54 ms: about half of the clients do not wait for theirs.
#[test]
fn clients_of_a_live_run_hang_up_at_the_servers_and_in_the_simulation() {
    let experiment = experiment(&["workload.patience.answer=30ms"]);
    let served = start(&experiment, true, false);
    let outcome = run(&experiment, &served).expect("a run");
    let requests = &outcome.runs[0].requests;
    let given_up: Vec<_> = requests.iter().filter(|r| r.real.given_up.is_some()).collect();
    assert!(given_up.len() > 5 && given_up.len() < requests.len(), "{}", given_up.len());
    for request in given_up {
        assert_eq!(request.real.end.map(|(_, end)| end), Some(End::GivenUp), "{request:?}");
        let waited = request.real.given_up.expect("given up") - request.real.sent;
        assert!(waited >= SimDuration::from_millis(30), "{request:?}");
    }
    for summary in [&outcome.real, &outcome.same, &outcome.own] {
        assert!(summary.points[0].metrics["given_up"].mean > Some(0.0));
    }
    let report = live::report(&experiment, &outcome);
    assert!(report.contains(" given up by their clients, "), "{report}");
    wait_until(&served, "no request is left", |served| {
        metric(served, "vllm:num_requests_running") == 0.0
    });
}

/// A connection with a request for a completion on it.
fn begin(served: &Served, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(served.addresses()[0]).expect("it listens");
    let length = body.len();
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).expect("it reads");
    stream
}

/// The value of a sample of `/metrics`.
fn metric(served: &Served, name: &str) -> f64 {
    let (_, metrics) = ask(served, "GET", "/metrics", "");
    let line = metrics.lines().find(|line| line.starts_with(name)).expect(name);
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

/// Until `/metrics` says so, or for too long.
fn wait_until(served: &Served, what: &str, is_so: impl Fn(&Served) -> bool) {
    let tries = 0..500;
    let mut tries = tries.map(|_| std::thread::sleep(Duration::from_millis(20)));
    assert!(tries.any(|()| is_so(served)), "{what}: {}", ask(served, "GET", "/metrics", "").1);
}

/// Thirty answers of fifteen seconds each, eight at a time: none comes to its end here.
#[test]
fn clients_that_hang_up_end_their_requests_and_free_their_kv() {
    let experiment = experiment(&["cluster.workers=1"]);
    for behind_router in [false, true] {
        let served = start(&experiment, false, behind_router);
        let clients: Vec<TcpStream> = (0..30)
            .map(|n| {
                let streamed = n % 3 > 0;
                let body = format!(
                    r#"{{"prompt":"{n} is the number of this client","max_tokens":4000,"stream":{streamed}}}"#
                );
                begin(&served, &body)
            })
            .collect();
        wait_until(&served, "a full batch", |served| {
            metric(served, "vllm:num_requests_running") == 8.0
        });
        wait_until(&served, "all others wait", |served| {
            metric(served, "vllm:num_requests_waiting") == 22.0
        });
        let mut answered = 0;
        for mut client in clients {
            // Those that are answered already have read some of it.
            client.set_nonblocking(true).expect("a socket");
            let mut some = [0; 4096];
            let read = client.read(&mut some).unwrap_or(0);
            answered += usize::from(text(&some[..read]).contains("data: "));
        }
        assert!((3..=8).contains(&answered), "{answered} were answered");
        wait_until(&served, "no request is left", |served| {
            metric(served, "vllm:num_requests_running") == 0.0
                && metric(served, "vllm:num_requests_waiting") == 0.0
        });
        assert_eq!(metric(&served, "vllm:kv_cache_usage_perc"), 0.0);
        assert_eq!(metric(&served, "vllm:request_success_total"), 0.0);
        let made = metric(&served, "vllm:generation_tokens_total");
        assert!(made < 8.0 * 4000.0, "{made}");

        let whole = r#"{"prompt":"one two three","max_tokens":3}"#;
        let (status, answer) = ask(&served, "POST", "/v1/completions", whole);
        assert_eq!(status, 200, "{answer}");
        assert_eq!(metric(&served, "vllm:request_success_total"), 1.0);
        assert_eq!(metric(&served, "vllm:generation_tokens_total"), made + 3.0);
    }
}

/// A million tokens in no time: the simulation stops, and clients are told why.
#[test]
fn a_simulation_that_cannot_go_on_is_named_to_clients() {
    let instant = "engine.step_time={ kind = \"instant\" }";
    let experiment =
        experiment(&[instant, "engine.num_blocks=100000", "router.policy=round_robin"]);
    let served = start(&experiment, false, true);
    for body in [r#"{"prompt":"x","max_tokens":1500000}"#, r#"{"prompt":"x","max_tokens":1}"#] {
        let (status, answer) = ask(&served, "POST", "/v1/completions", body);
        assert_eq!(status, 500, "{answer}");
        assert!(answer.contains("the simulation has stopped: 1,000,000 events "), "{answer}");
    }
}
