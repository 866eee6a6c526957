//! The text of an experiment: every line with what says so.

use super::fleet::{Fleet, Role, Worker};
use super::request::{ImportError, Imported, Log, Request};
use super::said::{By, Said};
use std::fmt::Write as _;
use toml::Value;

/// The load that stands in an imported experiment until there is a better one.
const LOAD: &str = r#"# The load. No manifest describes it: put yours here. For a recorded one, set
# kind = "trace" and path = "trace.jsonl".
[workload]
kind = "conversations" # assumed
concurrency = @FIRST@ # swept below
starters = 20 # assumed: texts that conversations begin with, such as system prompts
starter_tokens = { kind = "uniform", min = 1_000, max = 3_000 } # assumed
turns = { min = 2, max = 6 } # assumed
question_tokens = { kind = "lognormal", mean = 150, sd = 150, min = 10, max = 1_000 } # assumed
output_tokens = { kind = "lognormal", mean = 250, sd = 150, min = 10, max = 600 } # assumed
think_time = { kind = "exponential", mean = "5s", min = "0s", max = "60s" } # assumed

[measure]
warmup = "60s" # assumed
window = "120s" # assumed
seeds = 3 # assumed

# A request is good if it meets both.
[slo]
ttft = "1s" # assumed
itl = "50ms" # assumed

[sweep]
"router.policy" = @POLICIES@ # the deployed policy and @OTHER@
"workload.concurrency" = @LOADS@ # assumed: 8, 32 and 64 per worker
"#;

/// The load of a log.
const LOG: &str = r#"# The load: a log, at its own times. workload.speedup makes it denser.
[workload]
kind = "trace" # a log
@LOG@
[measure]
seeds = 3 # assumed

# A request is good if it meets both.
[slo]
ttft = "1s" # assumed
itl = "50ms" # assumed

[sweep]
"router.policy" = @POLICIES@ # the deployed policy and @OTHER@
"#;

/// The experiment that files and a command mean.
///
/// # Errors
/// What cannot be read, is missing, or is not simulated, by name.
pub fn import(request: &Request) -> Result<Imported, ImportError> {
    Ok(write(&Fleet::read(request)?, request))
}

/// The experiment of a fleet.
pub(super) fn write(fleet: &Fleet, request: &Request) -> Imported {
    let mut text = String::new();
    let mut unused: Vec<String> = Vec::new();
    for (place, remark) in &fleet.unused {
        let place = place.map_or(String::new(), |place| format!("[{}] ", place + 1));
        unused.push(format!("{place}{}: {}", remark.shown, remark.why));
    }
    text.push_str("# Imported. The number in brackets behind each value names its source:\n");
    for (number, place) in (1..).zip(&fleet.places) {
        let _ = writeln!(text, "#   [{number}] {}", one_line(place));
    }
    text.push_str("# A value that no file gives is \"assumed\".\n#\n");
    match unused.is_empty() {
        true => text.push_str("# Everything given is used.\n"),
        false => text.push_str("# Given but not used:\n"),
    }
    for line in &unused {
        let _ = writeln!(text, "#   {}", one_line(line));
    }
    let _ = writeln!(text, "\nname = {} # the folder's name", Value::String(request.name.clone()));
    let _ =
        writeln!(text, "description = {} # what was imported\n", Value::String(described(fleet)));

    match fleet.workers.as_slice() {
        [worker] => {
            text.push_str("[cluster]\n");
            line(&mut text, "workers", &worker.workers);
            text.push_str("\n[cluster.model]\n");
            model(&mut text, worker);
            text.push_str("\n[engine]\n");
            engine(&mut text, worker);
        }
        workers => {
            for worker in workers {
                text.push_str("[[cluster.pool]]\n");
                let _ = writeln!(text, "name = \"{}\" # the component's name", worker.name);
                let role = match worker.role {
                    Role::Both => "both",
                    Role::Prefill => "prefill",
                    Role::Decode => "decode",
                };
                let _ = writeln!(text, "role = \"{role}\" # from its flags and kind");
                line(&mut text, "workers", &worker.workers);
                text.push_str("\n[cluster.pool.model]\n");
                model(&mut text, worker);
                text.push_str("\n[cluster.pool.engine]\n");
                engine(&mut text, worker);
                text.push('\n');
            }
            if workers.iter().any(|worker| worker.role == Role::Prefill) {
                text.push_str(
                    "[cluster.network]\ngbit_per_s = 400 # assumed: one port per worker\n\
                     latency = \"1ms\" # assumed\n",
                );
            }
        }
    }
    text.push_str("\n[router]\n");
    for (key, said) in &fleet.router.settings {
        line(&mut text, key, said);
    }
    text.push('\n');
    text.push_str(&load(fleet, request.log.as_ref()));
    let files = fleet.router.config.iter().map(|config| ("epp.yaml".to_owned(), config.clone()));
    let config = fleet.config.iter().cloned();
    Imported { experiment: text, files: files.chain(config).collect(), read: read(fleet), unused }
}

fn load(fleet: &Fleet, log: Option<&Log>) -> String {
    let total: i64 =
        fleet.workers.iter().filter_map(|worker| worker.workers.value.as_integer()).sum();
    let loads: Vec<i64> = [8, 32, 64].map(|each| (total * each).clamp(1, 1_000_000)).to_vec();
    let policy = fleet.router.settings.iter().find(|(key, _)| *key == "policy");
    let policy = policy.and_then(|(_, said)| said.value.as_str()).unwrap_or("round_robin");
    let (others, other) = match policy {
        "kv" => (["round_robin", "kv"], "round robin"),
        "llmd" | "inference_extension" | "llmd_token_load" => {
            (["service", policy], "a Kubernetes Service")
        }
        "service" => (["service", "llmd_token_load"], "llm-d's router"),
        other => ([other, "kv"], "KV-aware routing"),
    };
    let load = match log {
        Some(log) => LOG.replace("@LOG@", &lines_of(log)),
        None => LOAD.to_owned(),
    };
    load.replace("@FIRST@", &loads[0].to_string())
        .replace("@POLICIES@", &format!("{others:?}"))
        .replace("@OTHER@", other)
        .replace("@LOADS@", &format!("{loads:?}"))
}

/// A log, as it was asked for.
fn lines_of(log: &Log) -> String {
    let value = |written: Option<Value>, key: &str| {
        written.map_or(String::new(), |value| format!("{key} = {value} # as requested\n"))
    };
    let columns = log.columns.as_ref().and_then(|columns| Value::try_from(columns).ok());
    let unit = log.time_unit.and_then(|unit| Value::try_from(unit).ok());
    let path = Some(Value::from(log.path.as_str()));
    let block_tokens = log.block_tokens.map(Value::from);
    let tokenizer = log.tokenizer.as_deref().map(Value::from);
    [
        value(path, "path"),
        value(columns, "columns"),
        value(unit, "time_unit"),
        value(block_tokens, "trace_block_tokens"),
        value(tokenizer, "tokenizer"),
    ]
    .concat()
}

fn model(text: &mut String, worker: &Worker) {
    for (key, said) in &worker.model {
        line(text, key, said);
    }
}

fn engine(text: &mut String, worker: &Worker) {
    for (key, said) in &worker.settings {
        line(text, key.strip_prefix("engine.").unwrap_or(key), said);
    }
}

fn line(text: &mut String, key: &str, said: &Said) {
    let by = match &said.by {
        By::Place(place, shown) => format!("[{}] {}", place + 1, one_line(shown)),
        By::Assumed(why) => format!("assumed: {}", one_line(why)),
    };
    let _ = writeln!(text, "{key} = {} # {by}", said.value);
}

/// A comment is one line, and one that can be read.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let line: String = text.chars().map(plain).collect();
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A pool in words: `8 workers of 2 h100: qwen3-32b bf16, vllm-0.24`.
fn pool(worker: &Worker) -> String {
    let get = |key: &str| match worker.get(&format!("model.{key}")).map(|said| &said.value) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "1".to_owned(),
    };
    let gpus: u32 = get("tp").parse().unwrap_or(1) * get("attention_dp").parse().unwrap_or(1);
    let role = match worker.role {
        Role::Both => "",
        Role::Prefill => "prefill ",
        Role::Decode => "decode ",
    };
    let count = &worker.workers.value;
    let workers = if *count == Value::Integer(1) { "worker" } else { "workers" };
    format!(
        "{count} {role}{workers}, {gpus} {} each: {} {}, {}",
        get("gpu"),
        get("shape"),
        get("weights"),
        get("engine")
    )
}

fn read(fleet: &Fleet) -> Vec<String> {
    let mut lines: Vec<String> = fleet.workers.iter().map(pool).collect();
    let settings = fleet.router.settings.iter();
    let router: Vec<String> =
        settings.map(|(key, said)| format!("{key} = {}", said.value)).collect();
    lines.push(format!("router: {}", router.join(", ")));
    lines
}

fn described(fleet: &Fleet) -> String {
    let pools: Vec<String> = fleet.workers.iter().map(pool).collect();
    pools.join("; ")
}
