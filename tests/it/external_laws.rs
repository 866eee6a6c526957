//! `sim external`: what holds of the examples, and that a router that breaks a law is found
//! out by that law.

use super::external::{example, has};
use super::program::{Scratch, text};

fn checked(place: &Scratch, command: &[&str]) -> (i32, String) {
    let args = ["external", "--timeout", "3s", "--decisions", "200", "--check"];
    let output = place.sim(&[&args[..], command].concat());
    let code = output.status.code().expect("an exit code");
    (code, text(&output.stdout).to_owned())
}

/// The laws that failed, by their line.
fn failed(report: &str) -> Vec<&str> {
    report.lines().filter_map(|line| line.strip_prefix("FAILED  ")).collect()
}

#[test]
fn every_example_keeps_every_law() {
    let place = Scratch::new();
    for (program, name) in [
        ("python3", "round_robin.py"),
        ("python3", "dynamo_formula.py"),
        ("python3", "waiting_room.py"),
        ("node", "least_loaded.mjs"),
    ] {
        if !has(program) {
            continue;
        }
        let script = example(name);
        let (code, report) = checked(&place, &[program, script.to_str().expect("UTF-8")]);
        assert_eq!((code, failed(&report)), (0, vec![]), "{name}: {report}");
        assert!(report.contains("12 of 12 laws held"), "{report}");
        assert!(report.contains(" decisions/s: 200 requests"), "{report}");
    }
}

#[test]
fn a_broken_law_is_named() {
    if !has("python3") {
        return;
    }
    let place = Scratch::new();
    let script = |body: &str| {
        format!(
            "import json, random, sys, time\n\
             def say(answer): print(json.dumps(answer), flush=True)\n\
             for line in sys.stdin:\n\
             \x20   q = json.loads(line)\n\
             \x20   if q['op'] == 'hello': say({{'protocol': 2}}); continue\n\
             \x20   if q['op'] == 'dance': sys.exit(1)\n\
             \x20   least = min((i, w) for w, i in enumerate(q['inflight']) if w not in q.get('absent', []))[1]\n\
             {body}"
        )
    };
    let cases = [
        ("fine", "    say({'worker': least})\n", vec![]),
        (
            "stubborn",
            "    say({'worker': q['request']['id'] % len(q['inflight'])})\n",
            vec![
                "it sends nothing to a worker that has left, and uses one that joins",
                "it routes to ranks of engines, which come and go together",
            ],
        ),
        (
            "dice",
            "    say({'worker': random.choice([w for w in range(len(q['inflight'])) if w not in q.get('absent', [])])})\n",
            vec!["two processes with one seed give the same answers"],
        ),
        (
            "miser",
            "    say({'hold': True} if q['op'] == 'route' and q['request']['id'] > 300 else \
             {'released': []} if q['op'] == 'release' else {'worker': least})\n",
            vec!["it lives through a long history, and releases what it holds"],
        ),
        (
            "sleeper",
            "    say({'hold': True, 'wake_ns': q['now_ns'] + 1} if q['op'] == 'route' and q['request']['id'] > 300 else \
             {'released': [], 'wake_ns': q['now_ns'] + 1} if q['op'] == 'release' else {'worker': least})\n",
            vec!["it lives through a long history, and releases what it holds"],
        ),
        (
            "lingering",
            "    say({'worker': least})\ntime.sleep(1000)\n",
            vec!["it ends when its input ends"],
        ),
    ];
    for (name, body, expected) in cases {
        let file = format!("{name}.py");
        place.write(&file, script(body));
        let (code, report) = checked(&place, &["python3", &file]);
        assert_eq!(failed(&report), expected, "{name}: {report}");
        assert_eq!(code, i32::from(!expected.is_empty()), "{name}");
    }
    place.write(
        "babbler.py",
        "import json, sys\n\
         for line in sys.stdin:\n\
         \x20   hello = '\"hello\"' in line\n\
         \x20   print('{\"protocol\":2}' if hello else '{\"worker\":0}', flush=True)\n",
    );
    let (code, report) = checked(&place, &["python3", "babbler.py"]);
    assert_eq!(code, 1);
    assert!(failed(&report).contains(&"it does not answer a line that it cannot read"), "{report}");
}

#[test]
fn arguments_are_checked() {
    let place = Scratch::new();
    let refused = |args: &[&str]| {
        let output = place.sim(&[&["external"], args].concat());
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr).to_owned()
    };
    let wrong = refused(&["--parameters", "3", "--check", "true"]);
    assert!(wrong.contains("--parameters = \"3\": must be a table in TOML"), "{wrong}");
    let wrong = refused(&["--parameters", "{ limit = inf }", "--check", "true"]);
    assert!(wrong.contains("--parameters.limit = inf: must be a finite number"), "{wrong}");
    let wrong = refused(&["--timeout", "3", "--check", "true"]);
    assert!(wrong.contains("--timeout = 3: must be a duration from 1ms to 1h"), "{wrong}");
    assert!(refused(&[]).contains("--check"), "one of two must be given");
}
