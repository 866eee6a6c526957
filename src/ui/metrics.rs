//! `GET /metrics`: workers under vLLM's names, the router under those of Dynamo's front end
//! (which count the requests that clients see). Every line has the arm as a label.

use super::session::Session;
use super::tally::WorkerCounts;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Every family: its name, kind and meaning, in the order in which they are written.
const FAMILIES: [(&str, &str, &str); 18] = [
    ("sim_time_seconds", "gauge", "The clock of the simulation."),
    ("sim_hit_ratio", "gauge", "Cached over all prompt tokens, over the rolling window."),
    ("dynamo_frontend_requests_total", "counter", "Requests that ended."),
    ("dynamo_frontend_output_tokens_total", "counter", "Output tokens of finished requests."),
    ("dynamo_frontend_inflight_requests", "gauge", "Requests that have not ended."),
    ("dynamo_frontend_queued_requests", "gauge", "Requests that the router holds."),
    (TTFT, "summary", "Time to the first token, over the rolling window."),
    (DURATION, "summary", "Time to the last token, over the rolling window."),
    (GAPS, "summary", "Time between two tokens, over the rolling window."),
    ("vllm:num_requests_running", "gauge", "Requests in the batch."),
    ("vllm:num_requests_waiting", "gauge", "Requests at the worker that are not in the batch."),
    ("vllm:kv_cache_usage_perc", "gauge", "KV blocks that requests hold, 1 is all."),
    ("vllm:prefix_cache_queries_total", "counter", "Prompt tokens looked up in the cache."),
    ("vllm:prefix_cache_hits_total", "counter", "Prompt tokens found in the cache."),
    ("vllm:prompt_tokens_total", "counter", "Prompt tokens of scheduled requests."),
    ("vllm:generation_tokens_total", "counter", "Output tokens of finished requests."),
    ("vllm:num_preemptions_total", "counter", "Preemptions."),
    ("vllm:request_success_total", "counter", "Requests finished."),
];

const TTFT: &str = "dynamo_frontend_time_to_first_token_seconds";
const DURATION: &str = "dynamo_frontend_request_duration_seconds";
const GAPS: &str = "dynamo_frontend_inter_token_latency_seconds";

/// Samples by the name of their family.
#[derive(Default)]
struct Families(BTreeMap<&'static str, Vec<String>>);

impl Families {
    fn add(&mut self, name: &'static str, labels: &str, value: f64) {
        self.0.entry(name).or_default().push(format!("{name}{{{labels}}} {value}"));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, kind, help) in FAMILIES {
            let Some(samples) = self.0.get(name) else { continue };
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for sample in samples {
                let _ = writeln!(text, "{sample}");
            }
        }
        text
    }
}

/// A value of a label, as the format has it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The text of all arms now.
pub(super) fn text(session: &mut Session) -> String {
    let mut families = Families::default();
    let now = session.now().as_secs();
    for ((name, snapshot), arm) in session.snapshots().iter().zip(&session.arms) {
        let label = format!("arm=\"{}\"", escaped(name));
        let counts = arm.tally.counts();
        let limits = arm.limits();
        let sum = |of: fn(&WorkerCounts) -> u64| counts.workers.iter().map(of).sum::<u64>() as f64;
        let finished = sum(|worker| worker.finished);
        families.add("sim_time_seconds", &label, now);
        for (status, count) in [("success", finished), ("error", counts.errors as f64)] {
            let labels = format!("{label},status=\"{status}\"");
            families.add("dynamo_frontend_requests_total", &labels, count);
        }
        let output = sum(|worker| worker.output_tokens);
        families.add("dynamo_frontend_output_tokens_total", &label, output);
        let (live, held) = (snapshot.live_requests as f64, snapshot.held_requests as f64);
        families.add("dynamo_frontend_inflight_requests", &label, live);
        families.add("dynamo_frontend_queued_requests", &label, held);
        let recent = snapshot.recent.unwrap_or_default();
        for (family, quantiles) in [
            (TTFT, [recent.ttft_ms_p50, recent.ttft_ms_p95]),
            (DURATION, [recent.e2e_ms_p50, recent.e2e_ms_p95]),
            (GAPS, [snapshot.gap_ms_p50, snapshot.gap_ms_p95]),
        ] {
            for (quantile, ms) in ["0.5", "0.95"].iter().zip(quantiles) {
                let Some(ms) = ms else { continue };
                families.add(family, &format!("{label},quantile=\"{quantile}\""), ms / 1e3);
            }
        }
        if let Some(ratio) = recent.hit_ratio {
            families.add("sim_hit_ratio", &label, ratio);
        }
        for (id, (worker, counted)) in snapshot.workers.iter().zip(&counts.workers).enumerate() {
            let labels = format!("{label},engine=\"{id}\"");
            let blocks = limits.get(id).map_or(1, |(_, blocks, _)| *blocks);
            let usage = f64::from(worker.used_blocks) / f64::from(blocks.max(1));
            families.add("vllm:num_requests_running", &labels, f64::from(worker.running));
            families.add("vllm:num_requests_waiting", &labels, f64::from(worker.waiting));
            families.add("vllm:kv_cache_usage_perc", &labels, usage);
            for (family, count) in [
                ("vllm:prefix_cache_queries_total", counted.prompt_tokens),
                ("vllm:prefix_cache_hits_total", counted.cached_tokens),
                ("vllm:prompt_tokens_total", counted.prompt_tokens),
                ("vllm:generation_tokens_total", counted.output_tokens),
                ("vllm:num_preemptions_total", counted.preemptions),
                ("vllm:request_success_total", counted.finished),
            ] {
                families.add(family, &labels, count as f64);
            }
        }
    }
    families.text()
}
