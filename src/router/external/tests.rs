//! Conversations with a shell that says its lines, whatever it is asked.

use super::process::Link;
use super::{External, ExternalParams};
use crate::event::{WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::request::{BlockRun, Content, Request};
use crate::router::{ClusterSpec, Parameters, Policy, Verdict, WorkerLimits, WorkerView, Workers};
use crate::time::{SimDuration, SimTime};
use std::path::Path;
use std::time::Duration;

const BLOCK_SIZE: u32 = 16;

/// A router that answers with `lines`, one after the other.
fn that_says(lines: &[&str]) -> External {
    let script = "for line; do read -r asked; echo \"$line\"; done; read -r asked";
    let first = ["sh", "-c", script, "sh", "{\"protocol\":2}"];
    let command = first.iter().chain(lines).map(|&word| word.to_owned()).collect();
    let limits = WorkerLimits { blocks: 100, max_num_seqs: 8, max_num_batched_tokens: 2_048 };
    let params = ExternalParams { command, ..ExternalParams::default() };
    External::new(&params, &ClusterSpec::uniform(2, BLOCK_SIZE, limits), 1)
}

fn request(id: u32) -> Request {
    let prompt = BlockRun { first: BlockId(u64::from(id) << 32), len: 4 };
    Request::new(RequestId(id), 64, 1, Content::new([prompt], BlockId(1 << 63)))
}

fn at(us: u64) -> SimTime {
    SimTime::ZERO + SimDuration::from_micros(us)
}

fn workers() -> Workers {
    Workers::new(vec![WorkerView::default(); 2])
}

/// Neither another request nor an answer without a wake loses one, and what was said of a
/// request holds until it goes.
#[test]
fn a_wake_is_kept_until_it_comes() {
    let mut router = that_says(&[
        r#"{"hold":true,"wake_ns":10000,"overlap_blocks":[3,1],"costs":[{"worker":0,"cost":7}]}"#,
        r#"{"hold":true,"wake_ns":30000}"#,
        r#"{"hold":true}"#,
        r#"{"released":[],"wake_ns":20000}"#,
        r#"{"released":[],"wake_ns":25000}"#,
        r#"{"released":[{"request":0,"worker":1}]}"#,
        r#"{"released":[]}"#,
        r#"{"released":[{"request":2,"worker":1},{"request":1,"worker":1}]}"#,
    ]);
    let workers = workers();
    for id in 0..3 {
        let request = request(id);
        let verdict = router.route(at(0), &request.route_view(BLOCK_SIZE), &workers.view());
        assert_eq!((verdict, router.failure()), (Verdict::Hold, None));
        assert_eq!(router.wake_at(), Some(at(10)));
    }
    let kind = WorkerEventKind::FirstToken;
    router.observe(at(5), &WorkerEvent { worker: WorkerId(0), request: RequestId(9), kind });
    assert_eq!((router.release(at(5), &workers.view()), router.wake_at()), (None, Some(at(10))));
    assert_eq!(router.release(at(9), &workers.view()), None);
    assert_eq!((router.release(at(10), &workers.view()), router.wake_at()), (None, Some(at(20))));

    let first = request(0);
    let first = first.route_view(BLOCK_SIZE);
    assert_eq!(router.overlap_blocks(&first), Some(vec![3, 1]));
    let gone = Some((RequestId(0), Ok(WorkerId(1))));
    assert_eq!(router.release(at(20), &workers.view()), gone);
    assert_eq!(router.overlap_blocks(&first), Some(vec![3, 1]));
    assert_eq!(router.explain(&first, &workers.view())[0].cost, 7.0);

    assert_eq!(router.wake_at(), Some(at(30)));
    assert_eq!((router.release(at(25), &workers.view()), router.failure()), (None, None));
    assert_eq!(router.release(at(30), &workers.view()), None);
    assert_eq!((router.wake_at(), router.failure()), (None, None));
    router.observe(at(40), &WorkerEvent { worker: WorkerId(0), request: RequestId(9), kind });
    let gone = Some((RequestId(2), Ok(WorkerId(1))));
    assert_eq!(router.release(at(40), &workers.view()), gone);
    let gone = Some((RequestId(1), Ok(WorkerId(1))));
    assert_eq!(router.release(at(40), &workers.view()), gone);
    assert_eq!((router.wake_at(), router.failure()), (None, None));
}

/// One that only puts off ends the simulation; one that hears something goes on.
#[test]
fn a_router_that_puts_off_for_ever_is_found_out() {
    let wakes = (2..60).map(|us| format!("{{\"released\":[],\"wake_ns\":{}}}", us * 1_000));
    let first = r#"{"hold":true,"wake_ns":1000}"#.to_owned();
    let lines: Vec<String> = [first].into_iter().chain(wakes).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut router = that_says(&lines);
    router.most_fruitless_wakes = 20;
    let workers = workers();
    let request = request(0);
    router.route(at(0), &request.route_view(BLOCK_SIZE), &workers.view());
    let kind = WorkerEventKind::FirstToken;
    for us in 1..=29 {
        if us == 10 {
            router
                .observe(at(us), &WorkerEvent { worker: WorkerId(0), request: RequestId(9), kind });
        }
        assert_eq!((router.release(at(us), &workers.view()), router.failure()), (None, None));
    }
    assert_eq!(router.release(at(30), &workers.view()), None);
    let failure = router.failure().expect("20 times in a row");
    assert!(failure.contains("1 requests are held; it was asked 20 times in a row"), "{failure}");
}

#[test]
fn an_answer_may_be_indented_and_must_be_an_object() {
    let workers = workers();
    let request = request(0);
    for (line, failure) in [
        ("  {\"worker\": 1}", None),
        ("\t{\"worker\": 1} ", None),
        ("[1]", Some("it must be a JSON object")),
        ("  [1]", Some("it must be a JSON object")),
    ] {
        let mut router = that_says(&[line]);
        let verdict = router.route(at(0), &request.route_view(BLOCK_SIZE), &workers.view());
        match failure {
            None => assert_eq!(verdict, Verdict::Send(WorkerId(1)), "{:?}", router.failure()),
            Some(problem) => assert!(router.failure().expect(line).contains(problem)),
        }
    }
}

/// What it is asked about a request is something new.
#[test]
fn a_request_that_comes_begins_the_count_again() {
    let release = "{\"released\":[],\"wake_ns\":".to_owned();
    let hold = "{\"hold\":true}";
    let first = "{\"hold\":true,\"wake_ns\":1000}";
    let wakes: Vec<String> = (2..9).map(|us| format!("{release}{}}}", us * 1_000)).collect();
    let mut lines: Vec<&str> = wakes.iter().map(String::as_str).collect();
    lines.insert(2, hold);
    lines.insert(0, first);
    let mut router = that_says(&lines);
    router.most_fruitless_wakes = 3;
    let workers = workers();
    router.route(at(0), &request(0).route_view(BLOCK_SIZE), &workers.view());
    for us in 1..=4 {
        if us == 3 {
            router.route(at(2), &request(1).route_view(BLOCK_SIZE), &workers.view());
        }
        assert_eq!((router.release(at(us), &workers.view()), router.failure()), (None, None));
    }
    router.release(at(5), &workers.view());
    assert!(router.failure().expect("3 times in a row").contains("asked 3 times in a row"));
}

#[test]
fn parameters_that_json_cannot_hold_are_refused() {
    let refused = |text: &str| {
        let text = format!("command = [\"true\"]\nparameters = {text}");
        let table: toml::Table = text.parse().expect("TOML");
        ExternalParams::check_given(&table).expect_err("refused").to_string()
    };
    for (text, key) in [
        ("{ limit = inf }", "parameters.limit = inf"),
        ("{ limit = [1.0, { low = nan }] }", "parameters.limit[1].low = nan"),
        ("{ day = 2024-05-01 }", "parameters.day = 2024-05-01"),
    ] {
        let message = refused(text);
        assert!(message.contains(key) && message.contains("as JSON"), "{message}");
    }
}

fn shell(script: &str) -> Link {
    let command = ["sh", "-c", script].map(str::to_owned);
    Link::run(&command, Path::new("")).expect("a shell")
}

#[test]
fn a_process_may_print_much_at_its_end() {
    let print = "head -c 300000 /dev/zero";
    let mut link = shell(&format!("read -r a; echo b; read -r a; {print} >&2; {print}"));
    link.ask("a\n", Duration::from_secs(10)).expect("an answer");
    assert!(link.end(), "it ends by itself");
    let mut link = shell(&format!("read -r a; exec >&-; {print} >&2; exit 3"));
    let gone = link.ask("a\n", Duration::from_secs(10)).expect_err("it is gone");
    assert_eq!(gone, "it ended (exit status: 3)");
}

/// Not even one that a process started which was ended.
#[test]
fn no_grandchild_is_left() {
    let is_left = |pid: &str| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("sleep")
    };
    for ending in ["wait", "exit"] {
        let script = format!("read -r a; sleep 1000 >&2 & echo $!; read -r a; {ending}");
        let mut link = shell(&script);
        let pid = link.ask("a\n", Duration::from_secs(10)).expect("a number");
        assert_eq!(link.end(), ending == "exit");
        let ends = (0..1_000).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            !is_left(&pid)
        });
        assert!(ends, "{pid} is left");
    }
}
