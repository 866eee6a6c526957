//! Good experiments, traces and model files, changed in structured ways: whatever comes
//! of it, the program ends by itself, says what is wrong in one line, and leaves nothing
//! behind where it failed.
//!
//! `MUTANTS` says how many (2,000 unless set), `MUTANTS_FROM` the number of the first;
//! a mutant is its number alone. `SIM_BIN` names another program than the tests' own.

use kv_router_sim::rng::mix;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use toml::{Table, Value};

/// CPU seconds and address space (KiB) of one run.
const MOST_SECONDS: u32 = 20;
const MOST_KIB: u32 = 1 << 20;

/// Draws that follow from a number alone.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = mix(self.0.wrapping_add(0x9E37_79B9_7F4A_7C15));
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).expect("below a usize")
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Small experiments that touch most sections; each simulates in milliseconds.
fn experiments() -> Vec<Table> {
    let shared = "
        [cluster]\nworkers = 2
        [engine]\nrules = 'vllm'\nblock_size = 16\nnum_blocks = 400\nmax_num_seqs = 8\nmax_num_batched_tokens = 512
        max_model_len = 2000\nkv_bytes_per_token = 1000\nstep_time = { kind = 'fixed', prefill = '20ms', decode = '10ms' }
        [measure]\nwarmup = '1s'\nwindow = '5s'\nseeds = 1\n";
    let conversations = "
        [workload]\nkind = 'conversations'\nconcurrency = 4\nstarters = 2\nturns = { min = 2, max = 3 }
        starter_tokens = { kind = 'constant', value = 300 }\nquestion_tokens = { kind = 'uniform', min = 5, max = 50 }
        output_tokens = { kind = 'normal', mean = 40, sd = 20, min = 1, max = 80 }
        think_time = { kind = 'exponential', mean = '200ms', min = '0s', max = '2s' }\n";
    let requests = "
        [workload]\nkind = 'requests'\ncount = 40\narrivals = { kind = 'poisson', rate = 10 }
        prompt_tokens = { kind = 'uniform', min = 20, max = 200 }\noutput_tokens = { kind = 'constant', value = 8 }\n";
    let trace = "
        [workload]\nkind = 'trace'\npath = 'trace.jsonl'\nspeedup = 1.0\ntrace_block_tokens = 16\n";
    let texts = [
        format!("name = 'a'\n{shared}{conversations}[router]\npolicy = 'kv'\n"),
        format!(
            "name = 'b'\n{shared}{conversations}[router]\npolicy = 'kv'\ntemperature = 0.5\nreplicas = 2
             feed = {{ delay = '50ms', loss_ratio = 0.1 }}\n[sweep]\n'router.policy' = ['round_robin', 'kv', 'least_loaded']\n"
        ),
        format!("name = 'c'\n{shared}{requests}[router]\npolicy = 'session_affinity'\n"),
        format!("name = 'd'\n{shared}{trace}[router]\npolicy = 'prefix_aware'\n"),
        format!(
            "name = 'e'\n{shared}{conversations}[router]\npolicy = 'kv'\n[[cluster.change]]\nat = '2s'\nwhat = 'crash'
             worker = 1\n[[cluster.change]]\nat = '3s'\nwhat = 'start'\nworker = 1\n[cluster.failover]\nmigrations = 1\n"
        ),
        format!("name = 'f'\n{shared}{conversations}[router]\npolicy = 'kv'\n[cluster.prefill]\nworkers = 1\n"),
        format!(
            "name = 'g'\n{shared}{conversations}[router]\npolicy = 'kv'\n
             [cluster.planner]\nmin_workers = 1\nmax_workers = 3\n"
        ),
        format!(
            "name = 'h'\n{shared}{conversations}[router]\npolicy = 'kv'\n[[engine.tier]]\nname = 'host'
             capacity = '1MB'\nbandwidth = '1GB/s'\nlatency = '20us'\n"
        ),
        format!(
            "name = 'k'\n{}{conversations}[router]\npolicy = 'kv'\n[[cluster.pool]]\nname = 'small'\nworkers = 1\nspare = 1
             engine.max_num_seqs = 4\n[[cluster.pool]]\nname = 'large'\nworkers = 2\nengine.num_blocks = 800
             [[cluster.change]]\nat = '2s'\nwhat = 'start'\nworker = 1\n",
            shared.replace("[cluster]\nworkers = 2", "")
        ),
        HASTY.to_owned(),
    ];
    texts.iter().map(|text| text.parse().expect(text)).collect()
}

/// Clients who hang up, the other engine's rules, snapshots, targets and a control.
const HASTY: &str = "
    name = 'i'
    [cluster]\nworkers = 2
    [engine]\nrules = 'trtllm'\nblock_size = 32\nnum_blocks = 400\nmax_num_seqs = 8\nmax_num_batched_tokens = 512
    max_model_len = 2000\ntrtllm.reserve_net_of_reuse = true
    step_time = { kind = 'linear', step = '5ms', prefill_token = '40us', prefill_pair = '0us', decode_seq = '50us', decode_token = '1ns' }
    [router]\npolicy = 'round_robin'
    [workload]\nkind = 'requests'\nconcurrency = 12\nprefix = { groups = 3, tokens = 100 }
    prompt_tokens = { kind = 'uniform', min = 20, max = 200 }\noutput_tokens = { kind = 'uniform', min = 1, max = 30 }
    patience = { first_token = '100ms', answer = { kind = 'exponential', mean = '400ms', min = '1ms', max = '2s' }, retries = 1 }
    [measure]\nwarmup = '1s'\nwindow = '4s'\nquantiles = 'snapshots'\nsnapshot_every = '1s'\ntrailing = '1s'\nseeds = 2
    [slo]\nttft = '100ms'
    [[control]]\nat = '2s'\nwhat = 'load'\nconcurrency = 3\n";

/// Every place of a table, as the keys that lead there.
fn places(value: &Value, here: &[String], all: &mut Vec<Vec<String>>) {
    let mut go = |key: String, value: &Value| {
        let there = [here, &[key]].concat();
        all.push(there.clone());
        places(value, &there, all);
    };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| go(key.clone(), value)),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, value)| go(at.to_string(), value));
        }
        _ => {}
    }
}

fn at<'a>(value: &'a mut Value, place: &[String]) -> Option<&'a mut Value> {
    place.iter().try_fold(value, |value, key| match value {
        Value::Table(table) => table.get_mut(key),
        Value::Array(values) => values.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    })
}

fn remove(value: &mut Value, place: &[String]) {
    let Some((last, before)) = place.split_last() else { return };
    match at(value, before) {
        Some(Value::Table(table)) => drop(table.remove(last)),
        Some(Value::Array(values)) => drop(last.parse::<usize>().map(|at| values.remove(at))),
        _ => {}
    }
}

/// Keys whose value is how much is to be simulated: larger ones may take as long as they
/// take, and are no fault.
const SIZES: [&str; 8] =
    ["window", "warmup", "count", "seeds", "concurrency", "speedup", "rate", "limit"];

/// A value that may be written by mistake, or to do harm.
fn strange(draws: &mut Draws, is_size: bool) -> Value {
    let integers =
        [0, -1, 1, 2, 3, 7, 255, 65_536, i64::from(u32::MAX), 1 << 53, i64::MAX, i64::MIN];
    let floats =
        [0.0, -0.0, 0.5, -1.0, 1e-300, 1e300, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e9];
    let texts = [
        "",
        " ",
        "0s",
        "1ns",
        "1ms",
        "-1s",
        "1e9s",
        "99999999999h",
        "0.0000001s",
        "10s",
        "vllm",
        "trtllm",
        "kv",
        "round_robin",
        "dynamo",
        "oracle",
        "4k",
        "999G",
        "1e3",
        "0,5",
        "true",
        "../..",
        "/dev/null",
        "a\u{0}b",
        "\u{1F600}",
        "null",
        "nan",
        "--help",
        "uniform",
        "constant",
        "fixed",
    ];
    let kinds = if is_size { 1 } else { 5 };
    match draws.below(kinds + 3) {
        0 | 1 if is_size => Value::Integer(*draws.one(&integers[..6])),
        2 | 3 if is_size => Value::String((*draws.one(&texts[..6])).to_owned()),
        0 | 1 => Value::Integer(*draws.one(&integers)),
        2 | 3 => Value::Float(*draws.one(&floats)),
        4 | 5 => Value::String((*draws.one(&texts)).to_owned()),
        6 => Value::Boolean(draws.below(2) == 0),
        _ => Value::Array(vec![Value::Integer(1), Value::String("x".repeat(draws.below(5000)))]),
    }
}

/// A value like this one: numbers are scaled, times too.
fn near(value: &Value, draws: &mut Draws) -> Option<Value> {
    let factor = *draws.one(&[0.25, 0.5, 0.9, 1.1, 2.0, 3.0]);
    #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
    let whole = |number: f64| (number * factor).round() as i64;
    Some(match value {
        Value::Integer(number) => Value::Integer(whole(i32::try_from(*number).ok()?.into())),
        Value::Float(number) => Value::Float(number * factor),
        Value::String(text) => {
            let split = text.find(|c: char| !c.is_ascii_digit())?;
            let (number, unit) = text.split_at(split);
            Value::String(format!("{}{unit}", whole(number.parse().ok()?)))
        }
        _ => return None,
    })
}

/// Changes a document in one to four places.
fn mutate(document: &Table, draws: &mut Draws) -> Table {
    let mut value = Value::Table(document.clone());
    for _ in 0..=draws.below(4) {
        let mut all = Vec::new();
        places(&value, &[], &mut all);
        if all.is_empty() {
            break;
        }
        let place = draws.one(&all).clone();
        let key = place.last().cloned().unwrap_or_default();
        let is_size = place.iter().any(|key| SIZES.iter().any(|size| key.contains(size)));
        match draws.below(14) {
            0 => remove(&mut value, &place),
            1 => {
                let other = draws.one(&all).clone();
                let is_size =
                    is_size || other.iter().any(|key| SIZES.iter().any(|size| key.contains(size)));
                let copied = at(&mut value, &other).map(|value| value.clone());
                if let (Some(to), Some(copied), false) = (at(&mut value, &place), copied, is_size) {
                    *to = copied;
                }
            }
            2 => {
                let strange = strange(draws, is_size);
                if let Some(Value::Table(table)) = at(&mut value, &place[..place.len() - 1]) {
                    table.insert(format!("{key}{}", draws.one(&["", "x", "_", "s"])), strange);
                }
            }
            3 => {
                let path: Vec<&str> = place.iter().map(String::as_str).collect();
                let swept = Value::Array(vec![strange(draws, is_size), strange(draws, is_size)]);
                if let Value::Table(table) = &mut value
                    && let Value::Table(sweep) =
                        table.entry("sweep").or_insert_with(|| Value::Table(Table::new()))
                {
                    sweep.insert(path.join("."), swept);
                }
            }
            4..8 => {
                let strange = strange(draws, is_size);
                if let Some(to) = at(&mut value, &place) {
                    *to = strange;
                }
            }
            _ => {
                if let Some(to) = at(&mut value, &place)
                    && let Some(near) = near(to, draws)
                {
                    *to = near;
                }
            }
        }
    }
    match value {
        Value::Table(table) => table,
        _ => Table::new(),
    }
}

const ROW: &str = r#"{"timestamp": 100, "input_length": 40, "output_length": 5, "session_id": "a", "hash_ids": [1, 2, 3]}"#;

/// A trace with rows that are not as they should be.
fn trace(draws: &mut Draws) -> String {
    let formats = [
        (vec![ROW.to_owned(), ROW.replace("100", "200"), ROW.replace("\"a\"", "\"b\"")], '"'),
        (
            vec![
                "TIMESTAMP,ContextTokens,GeneratedTokens".to_owned(),
                "2023-11-16 18:17:03.9799600,4808,10".to_owned(),
                "2023-11-16 18:17:04.0319569,3180,8".to_owned(),
            ],
            ',',
        ),
        (
            vec![
                "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type".to_owned(),
                "5,ChatGPT,472,18,490,Conversation log".to_owned(),
                "45,ChatGPT,1087,230,1317,Conversation log".to_owned(),
            ],
            ',',
        ),
    ];
    let (mut rows, mark) = draws.one(&formats).clone();
    let words = [
        "",
        "-1",
        "0",
        "1e400",
        "99999999999999999999",
        "4294967296",
        "null",
        "[]",
        "{}",
        "\"",
        "nan",
        "1.5",
        "\u{FEFF}",
        "[[1]]",
        "true",
        "\u{0}",
        ",,,,",
    ];
    for _ in 0..=draws.below(4) {
        let row = draws.below(rows.len());
        match draws.below(5) {
            0 => drop(rows.remove(row)),
            1 => rows.push(rows.get(row).cloned().unwrap_or_default()),
            2 => {
                let text = &mut rows[row];
                let cut =
                    text.char_indices().map(|(at, _)| at).nth(draws.below(text.chars().count()));
                text.truncate(cut.unwrap_or_default());
            }
            _ => {
                // One number or field becomes something else.
                let text = rows[row].clone();
                let ends = |c: char| c == mark || ":, []{}".contains(c);
                let pieces: Vec<(usize, &str)> = text
                    .match_indices(|c: char| c.is_ascii_digit())
                    .map(|(at, _)| (at, text[at..].split(ends).next().unwrap_or_default()))
                    .collect();
                if let Some(&(at, piece)) = pieces.get(draws.below(pieces.len())) {
                    rows[row].replace_range(at..at + piece.len(), words[draws.below(words.len())]);
                }
            }
        }
        if rows.is_empty() {
            break;
        }
    }
    rows.join("\n")
}

/// The program, with limits on time and memory.
fn sim(folder: &Path, args: &[&str]) -> Output {
    let program =
        std::env::var_os("SIM_BIN").map_or(env!("CARGO_BIN_EXE_sim").into(), PathBuf::from);
    let limits = format!("ulimit -t {MOST_SECONDS} -v {MOST_KIB} -c 0; exec \"$0\" \"$@\"");
    Command::new("bash")
        .args(["-c", &limits])
        .arg(program)
        .args(args)
        .current_dir(folder)
        .env_remove("SIM_TRACES")
        .output()
        .expect("bash runs")
}

/// What is wrong with how a run ended.
fn fault(output: &Output, folder: &Path) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0 | 1) => None,
        Some(2) if said.contains("panicked") => Some("a panic".to_owned()),
        Some(2) if !said.starts_with("error: ") => Some("no message".to_owned()),
        Some(2) if folder.join("out").exists() => Some("a folder was left".to_owned()),
        Some(2) => None,
        code => Some(format!("exit {code:?}, {}", output.status)),
    }
}

#[test]
#[ignore = "takes as long as is asked for"]
fn mutants_are_run_or_refused() {
    let number = |name: &str, unless: u64| {
        std::env::var(name).ok().map_or(unless, |text| text.parse().expect("a number"))
    };
    let (count, from) = (number("MUTANTS", 2_000), number("MUTANTS_FROM", 0));
    let experiments = experiments();
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let model_files = ["llama-3.1-8b-bf16-h100-vllm.toml", "fixed-20-10.toml"];
    let mut faults = Vec::new();
    let mut ends = [0_u64; 3];
    let mut scratch = TempDir::new().expect("a folder");
    let set_up = |scratch: &TempDir| {
        for part in ["efficiencies", "engines", "gpus", "operators", "shapes", "tables"] {
            std::os::unix::fs::symlink(models.join(part), scratch.path().join(part))
                .expect("linked");
        }
    };
    set_up(&scratch);
    // What is changed is good as it stands.
    for experiment in &experiments {
        fs::write(scratch.path().join("trace.jsonl"), format!("{ROW}\n")).expect("written");
        let text = toml::to_string(experiment).expect("TOML");
        fs::write(scratch.path().join("experiment.toml"), &text).expect("written");
        let output = sim(scratch.path(), &["run", "experiment.toml", "--no-figures"]);
        assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    }
    scratch = TempDir::new().expect("a folder");
    set_up(&scratch);
    for mutant in from..from + count {
        let mut draws = Draws(mix(mutant));
        let folder = scratch.path();
        fs::write(folder.join("trace.jsonl"), format!("{ROW}\n")).expect("written");
        let run = ["run", "experiment.toml", "--no-figures", "--jobs", "1", "--out", "out"];
        let output = match mutant % 5 {
            0 => {
                fs::write(folder.join("trace.jsonl"), trace(&mut draws)).expect("written");
                if draws.below(2) == 0 {
                    sim(folder, &["trace", "stats", "trace.jsonl"])
                } else {
                    let experiment = toml::to_string(&experiments[3]).expect("TOML");
                    fs::write(folder.join("experiment.toml"), experiment).expect("written");
                    sim(folder, &run)
                }
            }
            1 => {
                let text =
                    fs::read_to_string(models.join(*draws.one(&model_files))).expect("there");
                let model = mutate(&text.parse().expect("TOML"), &mut draws);
                fs::write(folder.join("model.toml"), toml::to_string(&model).unwrap_or_default())
                    .expect("written");
                let mut experiment = experiments[0].clone();
                experiment.remove("engine");
                if let Some(Value::Table(cluster)) = experiment.get_mut("cluster") {
                    cluster.insert("model".to_owned(), Value::String("model.toml".to_owned()));
                }
                let experiment = toml::to_string(&experiment).expect("TOML");
                fs::write(folder.join("experiment.toml"), experiment).expect("written");
                sim(folder, &run)
            }
            _ => {
                let experiment = mutate(&draws.one(&experiments).clone(), &mut draws);
                let experiment = toml::to_string(&experiment).unwrap_or_default();
                fs::write(folder.join("experiment.toml"), experiment).expect("written");
                sim(folder, &run)
            }
        };
        if let Some(fault) = fault(&output, folder) {
            let said = String::from_utf8_lossy(&output.stderr);
            let files = ["experiment.toml", "model.toml", "trace.jsonl"].map(|name| {
                format!("--- {name}\n{}", fs::read_to_string(folder.join(name)).unwrap_or_default())
            });
            faults.push(format!("mutant {mutant}: {fault}\n{said}\n{}", files.join("\n")));
            eprintln!("mutant {mutant}: {fault}: {}", said.lines().next().unwrap_or_default());
        }
        if let Some(end @ 0..3) = output.status.code().and_then(|code| usize::try_from(code).ok()) {
            ends[end] += 1;
        }
        // Whatever a run left, the next one begins alone.
        let left = fs::read_dir(folder).expect("readable").count();
        if left > 8 || folder.join("out").exists() {
            scratch = TempDir::new().expect("a folder");
            set_up(&scratch);
        }
    }
    eprintln!("{count} mutants from {from}: exit codes 0, 1, 2: {ends:?}");
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n\n"));
    assert!(count < 1_000 || ends[0] * 8 > count, "too few of them run: {ends:?}");
}
