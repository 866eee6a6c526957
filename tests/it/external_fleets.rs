//! Routers in other languages in front of every kind of fleet: ranks, prefill and decode
//! apart, tiers below GPU memory, workers that come and go; over a pipe and over a socket.

use super::external::{example, has};
use super::program::{Scratch, text};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Takes workers in turn, and writes down what it is and what it hears, a file a process.
const SCRIBE: &str = "import json, os, sys
out = open(f'scribe-{os.getpid()}', 'w')
def say(answer): print(json.dumps(answer), flush=True)
turn = 0
for line in sys.stdin:
    q = json.loads(line)
    if q['op'] == 'hello':
        print('role', q['role'], file=out)
        for w in q['workers']: print('worker', w['blocks'], w.get('engine'), w.get('rank'), file=out)
        say({'protocol': 2})
        continue
    for e in q['events']: print('event', e['event'], e.get('medium', ''), file=out)
    if q.get('absent'): print('absent', *q['absent'], file=out)
    free = [w for w in range(len(q['inflight'])) if w not in q.get('absent', [])]
    turn += 1
    print('prefilled' if q['request'].get('prefilled') else 'new', file=out, flush=True)
    say({'worker': free[turn % len(free)]})
";

/// What each process of a run wrote down, the sides of a fleet in order.
fn written(place: &Scratch, sets: &[&str]) -> Vec<String> {
    place.write("scribe.py", SCRIBE);
    let command = "router.command=[\"python3\", \"scribe.py\"]";
    let fixed = ["router.policy=external", command, "measure.seeds=1", "workload.concurrency=6"];
    let mut args = vec!["run", "small.toml", "--no-figures", "--out", "out"];
    for set in fixed.iter().chain(sets) {
        args.extend(["--set", set]);
    }
    let output = place.sim(&args);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let of_scribe = |(name, _): &(String, Vec<u8>)| name.starts_with("scribe-");
    let files = place.files().into_iter().filter(of_scribe);
    let mut written: Vec<String> = files.map(|(_, bytes)| text(&bytes).to_owned()).collect();
    written.sort_by_key(|text| text.starts_with("role decode"));
    written
}

fn lines<'a>(text: &'a str, kind: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.strip_prefix(kind)).map(str::trim).collect()
}

#[test]
fn ranks_are_workers_that_say_whose_they_are() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let by_rank = written(&place, &["engine.attention_dp=3"]);
    let expected = ["4000 0 0", "4000 0 1", "4000 0 2", "4000 1 0", "4000 1 1", "4000 1 2"];
    assert_eq!(lines(&by_rank[0], "worker "), expected);
    let place = Scratch::new();
    let whole = written(&place, &["engine.attention_dp=3", "router.targets=workers"]);
    assert_eq!(lines(&whole[0], "worker "), ["12000 None None"; 2]);
    // They come and go together.
    let place = Scratch::new();
    let change = "cluster.change=[{ at = \"8s\", worker = 1, what = \"drain\" }]";
    let changed = written(&place, &["engine.attention_dp=2", change]);
    let absent = lines(&changed[0], "absent ");
    assert!(!absent.is_empty() && absent.iter().all(|absent| *absent == "2 3"), "{absent:?}");
}

#[test]
fn prefill_and_decode_have_a_router_each() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let sides = written(&place, &["cluster.prefill.workers=1", "engine.kv_bytes_per_token=1000"]);
    let [prefill, decode] = sides.as_slice() else { panic!("two processes: {sides:?}") };
    assert_eq!(
        (lines(prefill, "role "), lines(decode, "role ")),
        (vec!["prefill"], vec!["decode"])
    );
    assert_eq!((lines(prefill, "worker ").len(), lines(decode, "worker ").len()), (1, 1));
    let heard = |side: &str, event: &str| lines(side, "event ").contains(&event);
    assert!(
        heard(prefill, "first_token") && heard(prefill, "finished") && heard(prefill, "stored")
    );
    assert!(heard(decode, "kv_received") && heard(decode, "first_token"), "{decode}");
    assert!(lines(prefill, "prefilled").is_empty() && lines(decode, "new").is_empty());
}

#[test]
fn tiers_below_gpu_memory_are_heard_of() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let tiers = "engine.tier=[\
        { name = \"host\", capacity = \"200MB\", bandwidth = \"50GB/s\", latency = \"20us\" }, \
        { name = \"disk\", capacity = \"2GB\", bandwidth = \"6GB/s\", latency = \"200us\" }]";
    let bytes = "engine.kv_bytes_per_token=100_000";
    let heard = written(&place, &[tiers, bytes, "engine.num_blocks=60"]);
    let events = lines(&heard[0], "event ");
    for event in ["stored", "removed", "stored_below host", "stored_below disk", "loaded"] {
        assert!(events.contains(&event), "{event}: {events:?}");
    }
}

/// No busy worker gets a request while another is free.
#[test]
fn busy_workers_are_absent() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let gate = "router.admission={ busy_kv_share = 0.6, leave_out_busy = true }";
    let heard = written(&place, &[gate, "engine.num_blocks=60"]);
    let absent = lines(&heard[0], "absent ");
    assert!(absent.contains(&"0") && absent.contains(&"1"), "{absent:?}");
    assert!(absent.iter().all(|absent| absent.len() == 1), "{absent:?}");
    let events = lines(&heard[0], "event ");
    assert!(!events.contains(&"left") && events.contains(&"stored"), "{events:?}");
}

/// The formula of an example, serving at a socket.
struct Served(Child);

impl Served {
    fn at(place: &Scratch, socket: &str) -> Self {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/python");
        let program = format!(
            "import sys\nsys.path[:0] = [{:?}, {:?}]\nimport dynamo_formula, sim_router\n\
             sim_router.serve(dynamo_formula.DynamoFormula, {socket:?})\n",
            sdk.display().to_string(),
            example("").display().to_string(),
        );
        place.write("served.py", program);
        let mut command = Command::new("python3");
        command.arg("served.py").current_dir(place.path()).stderr(Stdio::null());
        let served = Self(command.spawn().expect("python3 starts"));
        let is_there = (0..1_000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            place.path().join(socket).exists()
        });
        assert!(is_there, "no socket");
        served
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

/// A router behind a socket keeps the laws, and gives the bytes of one behind a pipe: of
/// ranks, and of prefill and decode, each of which has a connection.
#[test]
fn a_socket_is_as_good_as_a_pipe() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let _served = Served::at(&place, "router.sock");
    let laws = place.sim(&["external", "--decisions", "100", "--check-socket", "router.sock"]);
    assert!(text(&laws.stdout).contains("12 of 12 laws held"), "{}", text(&laws.stdout));
    let script = example("dynamo_formula.py").display().to_string();
    let command = format!("router.command=[\"python3\", {script:?}]");
    let digest = |by: &str, fleet: &[&str]| {
        let more = ["router.policy=external", by, "measure.seeds=2", "workload.concurrency=6"];
        let mut args = vec!["run", "small.toml", "--no-figures", "--out", "out", "--force"];
        for set in more.iter().chain(fleet) {
            args.extend(["--set", set]);
        }
        let output = place.sim(&args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let found = text(&output.stdout).lines().find_map(|line| line.strip_prefix("digest "));
        found.expect("a digest").to_owned()
    };
    let split = ["cluster.prefill.workers=1", "engine.kv_bytes_per_token=1000"];
    for fleet in [&[][..], &["engine.attention_dp=2"], &split] {
        let piped = digest(&command, fleet);
        assert_eq!(digest("router.socket=router.sock", fleet), piped, "{fleet:?}");
    }
}
