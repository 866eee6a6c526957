//! Routers in other languages: they decide what they would decide in here, and whatever goes
//! wrong with one ends the run with a message that says it.

use super::program::{Scratch, text};
use kv_router_sim::rng::{self, Use};
use rand::{Rng, RngExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a program is here; says so if it is not.
#[allow(clippy::print_stderr, reason = "what was skipped")]
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        eprintln!("skipped: no {program} here");
    }
    found
}

pub(crate) fn example(name: &str) -> PathBuf {
    root().join("examples/routers").join(name)
}

/// `--set` for a router, with more settings.
fn by(command: &[&str], more: &[&str]) -> Vec<String> {
    let words: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
    let mut args = vec![
        "--set".to_owned(),
        "router.policy=external".to_owned(),
        "--set".to_owned(),
        format!("router.command=[{}]", words.join(", ")),
    ];
    args.extend(more.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]));
    args
}

fn sim(place: &Scratch, args: &[&str], more: &[String]) -> (i32, String, String) {
    let args: Vec<&str> = args.iter().copied().chain(more.iter().map(String::as_str)).collect();
    let output = place.sim(&args);
    let code = output.status.code().expect("an exit code");
    (code, text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
}

fn digest(place: &Scratch, more: &[String], out: &str) -> String {
    let args = ["run", "small.toml", "--no-figures", "--out", out];
    let (code, stdout, stderr) = sim(place, &args, more);
    assert_eq!(code, 0, "{stderr}");
    let line = stdout.lines().find_map(|line| line.strip_prefix("digest "));
    line.expect("a digest").to_owned()
}

fn set(settings: &[&str]) -> Vec<String> {
    settings.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]).collect()
}

/// In Python what `kv` and round robin do in here; in JavaScript, without an SDK, a run that
/// differs from neither seed to seed nor time to time.
#[test]
fn the_same_rules_give_the_same_digest() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let python = |name: &str| {
        let path = example(name);
        vec!["python3".to_owned(), path.to_str().expect("UTF-8").to_owned()]
    };
    let formula = python("dynamo_formula.py");
    let formula: Vec<&str> = formula.iter().map(String::as_str).collect();
    let feed = "router.feed.jitter=20ms";
    let own = digest(&place, &set(&["router.policy=kv", "router.semantics='1.6'", feed]), "kv");
    let twice = ["router.check_determinism=true", feed];
    assert_eq!(digest(&place, &by(&formula, &twice), "formula"), own);
    let blind = ["router.parameters={ overlap_weight = 0.0 }", feed];
    assert_ne!(digest(&place, &by(&formula, &blind), "blind"), own);

    let turns = python("round_robin.py");
    let turns: Vec<&str> = turns.iter().map(String::as_str).collect();
    let own = digest(&place, &set(&["router.policy=round_robin"]), "rr");
    assert_eq!(digest(&place, &by(&turns, &[]), "turns"), own);
    assert_eq!(digest(&place, &by(&turns, &["router.use_kv_events=false"]), "deaf"), own);

    let room = python("waiting_room.py");
    let room: Vec<&str> = room.iter().map(String::as_str).collect();
    let wide = ["router.parameters={ room = 100000 }"];
    let narrow = ["router.parameters={ room = 1 }", "router.check_determinism=true"];
    assert_ne!(
        digest(&place, &by(&room, &wide), "wide"),
        digest(&place, &by(&room, &narrow), "narrow")
    );
}

#[test]
fn a_router_needs_no_sdk() {
    if !has("node") {
        return;
    }
    let place = Scratch::new();
    let script = example("least_loaded.mjs");
    let command = ["node", script.to_str().expect("UTF-8")];
    let once = digest(&place, &by(&command, &["router.check_determinism=true"]), "once");
    assert_eq!(digest(&place, &by(&command, &[]), "again"), once);
}

#[test]
fn costs_of_a_router_are_explained() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let script = example("dynamo_formula.py");
    let command = ["python3", script.to_str().expect("UTF-8")];
    digest(&place, &by(&command, &["workload.concurrency=4"]), "plots/small");
    let explain = ["explain", "plots/small", "--worst", "ttft"];
    let (code, stdout, stderr) = sim(&place, &explain, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("this experiment runs `python3 "), "{stderr}");
    assert!(stdout.contains("prefill") && stdout.contains("decode"), "{stdout}");
}

/// Numbers of the SDK are those of the library.
#[test]
fn the_sdk_draws_as_the_library_does() {
    if !has("python3") {
        return;
    }
    let script = "import sys; sys.path.insert(0, sys.argv[1])\n\
                  from sim_router import Rng\n\
                  r = Rng(2**64 - 5, 5, 0, 0)\n\
                  print(*[r.next_u64() for _ in range(5)])\n\
                  print(*[r.below(n) for n in range(1, 200)])\n\
                  print(*[r.below(3_000_000_000) for n in range(1, 200)])\n\
                  print(repr(r.random()))\n";
    let sdk = root().join("sdk/python");
    let output = Command::new("python3").args(["-c", script]).arg(sdk).output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let mut draws = rng::stream(u64::MAX - 4, Use::Policy, 0, 0);
    let line = |numbers: Vec<String>| numbers.join(" ");
    let expected = [
        line((0..5).map(|_| draws.next_u64().to_string()).collect()),
        line((1..200u32).map(|n| draws.random_range(0..n).to_string()).collect()),
        line((1..200).map(|_| draws.random_range(0..3_000_000_000u32).to_string()).collect()),
        format!("{:?}", draws.random::<f64>()),
    ];
    let found: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(found, expected);
}

/// Every way in which a router can fail ends the run with a line that says it.
#[test]
fn what_goes_wrong_is_said() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let hello = "import json, os, random, sys, time\n\
                 def ask():\n    line = sys.stdin.readline()\n    return json.loads(line) if line else sys.exit()\n\
                 def say(text):\n    print(text, flush=True)\n\
                 ask(); say('{\"protocol\":2}'); count = 0\n\
                 while True:\n    q = ask(); count += 1\n    ";
    let cases = [
        (
            "dead",
            "sys.stderr.write('out of\\nideas\\n'); sys.exit(3)",
            "asked about request 0: it ended (exit status: 3); asked was `{\"op\":\"route\"",
        ),
        (
            "words",
            "sys.stderr.write('out of\\nideas\\n'); sys.exit(3)",
            "the last that it printed: out of | ideas",
        ),
        ("mute", "time.sleep(100)", "it has not answered for 2 s (router.timeout)"),
        ("loud", "sys.stderr.write('x' * 100_000)", "it has not answered for 2 s (router.timeout)"),
        (
            "garbled",
            "say('worker 1')",
            "its answer `worker 1` is not valid: it must be a JSON object",
        ),
        ("list", "say('[1]')", "its answer `[1]` is not valid: it must be a JSON object"),
        (
            "fork",
            "import subprocess; subprocess.Popen(['sleep', '100']); sys.exit(7)",
            "for 2 s (router.timeout): it ended (exit status: 7), and something that it started",
        ),
        ("typo", "say('{\"workr\":1}')", "unknown field `workr`, expected one of `worker`, `hold`"),
        ("far", "say('{\"worker\":7}')", "is not valid: worker 7: there are workers 0 to 1"),
        ("both", "say('{\"worker\":1,\"hold\":true}')", "must have one of worker, hold and reject"),
        (
            "chatty",
            "say('{\"worker\":1}\\n{\"worker\":1}')",
            "before it was asked: one line answers one line",
        ),
        (
            "dice",
            "say('{\"worker\":%d}' % (random.randrange(2) if count > 3 else 0))",
            "it is not deterministic: of two processes that were asked the same",
        ),
        ("early", "say('{\"hold\":true,\"wake_ns\":0}')", "wake_ns = 0: must be later than now_ns"),
        (
            "wide",
            "say('{\"worker\":0,\"overlap_blocks\":[1]}')",
            "overlap_blocks has 1 numbers for 2 workers",
        ),
    ];
    for (name, body, expected) in cases {
        let file = format!("{name}.py");
        place.write(&file, format!("{hello}{body}\n"));
        let twice = if name == "dice" { "true" } else { "false" };
        let twice = format!("router.check_determinism={twice}");
        let more = ["router.timeout=2s", "measure.seeds=1", "workload.concurrency=4", &twice];
        let args = ["run", "small.toml", "--no-figures", "--out", name];
        let (code, stdout, stderr) = sim(&place, &args, &by(&["python3", &file], &more));
        assert_eq!((code, stdout.as_str()), (2, ""), "{name}: {stderr}");
        let error = stderr.lines().last().expect("a message");
        assert!(error.starts_with("error: ") && error.contains(expected), "{name}: {stderr}");
    }
}

/// The configuration is refused before anything runs, and a command is named before it runs.
#[test]
fn a_command_is_checked_and_named() {
    let place = Scratch::new();
    let one = ["measure.seeds=1", "workload.concurrency=4"];
    let refused = |more: Vec<String>| {
        let args = ["run", "small.toml", "--no-figures", "--out", "none"];
        let (code, _, stderr) = sim(&place, &args, &more);
        assert_eq!(code, 2, "{stderr}");
        stderr
    };
    let nothing = refused(set(&["router.policy=external"]));
    assert!(nothing.contains("router.command is missing: must be given"), "{nothing}");
    let both = refused(by(&["python3"], &["router.socket=x"]));
    assert!(both.contains("router.socket = \"x\": must be left out"), "{both}");
    let gone = refused(by(&["./no-such-program"], &one));
    assert!(
        gone.contains("runs `./no-such-program` in ") && gone.contains("cannot be run"),
        "{gone}"
    );
    let endless = refused(by(&["python3"], &["router.parameters={ limit = inf }"]));
    assert!(endless.contains("router.parameters.limit = inf: must be a finite"), "{endless}");
    assert!(!endless.contains("runs `python3`"), "{endless}");
    let date = refused(by(&["python3"], &["router.parameters={ day = 2024-05-01 }"]));
    assert!(date.contains("router.parameters.day = 2024-05-01: must be"), "{date}");
    // A pipe that a command names is no file to be read.
    let made = Command::new("mkfifo").arg(place.path().join("pipe")).status();
    assert!(made.expect("mkfifo is there").success());
    let ended = refused(by(&["true", "pipe"], &one));
    assert!(ended.contains("runs `true pipe` in ") && ended.contains("it ended"), "{ended}");
    let socket =
        refused(set(&["router.policy=external", "router.socket=none.sock", one[0], one[1]]));
    assert!(socket.contains("none.sock cannot be connected to"), "{socket}");
}

/// A full queue would block for ever.
#[test]
fn a_socket_that_accepts_no_connection_times_out() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let full = "import socket, time\n\
                s = socket.socket(socket.AF_UNIX); s.bind('new.sock'); s.listen(0)\n\
                waiting = []\n\
                for _ in range(3):\n    c = socket.socket(socket.AF_UNIX); c.setblocking(False)\n    \
                waiting.append(c)\n    try: c.connect('new.sock')\n    except BlockingIOError: pass\n\
                import os; os.rename('new.sock', 'full.sock'); time.sleep(1000)\n";
    let mut owner = Command::new("python3");
    let owner = owner.args(["-c", full]).current_dir(place.path());
    let mut owner = owner.spawn().expect("python3 starts");
    let is_there = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        place.path().join("full.sock").exists()
    });
    let sets = ["router.policy=external", "router.socket=full.sock", "router.timeout=300ms"];
    let args = ["run", "small.toml", "--no-figures", "--out", "none"];
    let (code, _, stderr) = sim(&place, &args, &set(&sets));
    let _ended = owner.kill();
    let _status = owner.wait();
    assert!(is_there && code == 2, "{stderr}");
    assert!(stderr.contains("nothing has accepted for 0.3 s (router.timeout)"), "{stderr}");
}

/// No process outlives its simulation, not even one that does not listen.
#[test]
fn no_process_is_left() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    place.write(
        "deaf.py",
        "import json, os, sys, time\n\
         open('pids', 'a').write(f'{os.getpid()}\\n')\n\
         sys.stdin.readline(); print('{\"protocol\":2}', flush=True)\n\
         for _ in range(3):\n    sys.stdin.readline(); print('{\"worker\":0}', flush=True)\n\
         time.sleep(1000)\n",
    );
    let more = ["router.timeout=200ms", "measure.seeds=2", "workload.concurrency=4"];
    let args = ["run", "small.toml", "--no-figures", "--out", "none"];
    let (code, _, stderr) = sim(&place, &args, &by(&["python3", "deaf.py"], &more));
    assert_eq!(code, 2, "{stderr}");
    let pids = std::fs::read_to_string(place.path().join("pids")).expect("processes ran");
    for pid in pids.lines() {
        let cmdline = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!cmdline.contains("deaf.py"), "{pid} is left");
    }
    assert_eq!(pids.lines().count(), 2);
}

/// Ctrl-C ends them, of commands that do not listen for it themselves too.
#[test]
fn an_interrupt_leaves_no_process() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    place.write(
        "deaf.py",
        "import os, time\n\
         open('pid.new', 'w').write(str(os.getpid())); os.rename('pid.new', 'pid')\n\
         time.sleep(1000)\n",
    );
    let args = ["external", "--timeout", "1h", "--check", "sh", "-c", "python3 deaf.py; true"];
    // A shell has what it starts in the background ignore interrupts.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(env!("CARGO_BIN_EXE_sim")).args(args);
    let mut child = command.current_dir(place.path()).spawn().expect("it starts");
    let mut pid = None;
    for _ in 0..1_000 {
        pid = pid.or_else(|| std::fs::read_to_string(place.path().join("pid")).ok());
        if pid.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.expect("kill is there").success());
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let pid = pid.expect("the router ran");
    let is_left = || {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains("deaf.py")
    };
    let ends = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        !is_left()
    });
    assert!(ends, "{pid} is left");
}

/// The whole run of `doks-3xh200`: the Python formula makes every decision of `kv`.
#[test]
#[ignore = "seven loads and six seeds through a pipe: for a release build"]
fn the_formula_makes_the_decisions_of_kv_on_a_whole_run() {
    let place = Scratch::new();
    let script = example("dynamo_formula.py");
    let whole = |more: Vec<String>, out: &str| {
        let args = ["run", "doks-3xh200", "--no-figures", "--out", out];
        let (code, stdout, stderr) = sim(&place, &args, &more);
        assert_eq!(code, 0, "{stderr}");
        stdout.lines().find_map(|line| line.strip_prefix("digest ")).expect("a digest").to_owned()
    };
    let own = whole(set(&["router.policy=kv", "router.semantics='1.6'"]), "kv");
    let command = ["python3", script.to_str().expect("UTF-8")];
    assert_eq!(whole(by(&command, &[]), "formula"), own);
}
