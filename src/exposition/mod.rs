//! What Prometheus reads: workers under vLLM's names, the router under those of Dynamo's
//! front end, which count the requests that clients see.
//!
//! As text for a scrape, or over simulated time as OpenMetrics, which Prometheus can take
//! into its storage.

mod over_time;
mod tally;

pub use over_time::{BEGIN_S, metrics_over_time};
#[cfg(feature = "ui")]
pub(crate) use tally::RequestRow;
pub(crate) use tally::Tally;

use crate::experiment::Settings;
use crate::id::WorkerId;
use crate::simulation::Snapshot;
use std::collections::BTreeMap;
use std::fmt::Write;
use tally::{Counts, WorkerCounts};

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

/// Values of a series, each with its time in seconds where it has one.
type Series = Vec<(Option<f64>, f64)>;

/// Samples by family and labels.
#[derive(Debug, Default)]
pub(crate) struct Families(BTreeMap<(&'static str, String), Series>);

/// A value of a label, as the format has it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Families {
    /// For a scrape.
    #[cfg(feature = "ui")]
    pub(crate) fn text(&self) -> String {
        self.written(|name| name)
    }

    /// As OpenMetrics: families of counters have names without their ending.
    pub(crate) fn open_metrics(&self) -> String {
        self.written(|name| name.strip_suffix("_total").unwrap_or(name)) + "# EOF\n"
    }

    fn written(&self, family: impl Fn(&'static str) -> &'static str) -> String {
        let mut text = String::new();
        for (name, kind, help) in FAMILIES {
            let mut all = self.0.iter().filter(|((other, _), _)| *other == name).peekable();
            if all.peek().is_none() {
                continue;
            }
            let family = family(name);
            let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
            for ((_, labels), series) in all {
                for (at, value) in series {
                    let _ = write!(text, "{name}{{{labels}}} {value}");
                    let _ = match at {
                        Some(at) => writeln!(text, " {at}"),
                        None => writeln!(text),
                    };
                }
            }
        }
        text
    }

    /// One simulation of `settings` at one moment, under `label`; `at` is the time that its
    /// samples have.
    pub(crate) fn add(
        &mut self,
        label: &str,
        at: Option<f64>,
        snapshot: &Snapshot,
        tally: &Tally,
        settings: &Settings,
    ) {
        let counts: &Counts = &tally.counts();
        let mut add = |name: &'static str, labels: &str, value: f64| {
            self.0.entry((name, labels.to_owned())).or_default().push((at, value));
        };
        let sum = |of: fn(&WorkerCounts) -> u64| counts.workers.iter().map(of).sum::<u64>() as f64;
        let finished = sum(|worker| worker.finished);
        add("sim_time_seconds", label, snapshot.at.as_secs());
        for (status, count) in [("success", finished), ("error", counts.errors as f64)] {
            let labels = format!("{label},status=\"{status}\"");
            add("dynamo_frontend_requests_total", &labels, count);
        }
        let output = sum(|worker| worker.output_tokens);
        add("dynamo_frontend_output_tokens_total", label, output);
        let (live, held) = (snapshot.live_requests as f64, snapshot.held_requests as f64);
        add("dynamo_frontend_inflight_requests", label, live);
        add("dynamo_frontend_queued_requests", label, held);
        let recent = snapshot.recent.unwrap_or_default();
        for (family, quantiles) in [
            (TTFT, [recent.ttft_ms_p50, recent.ttft_ms_p95]),
            (DURATION, [recent.e2e_ms_p50, recent.e2e_ms_p95]),
            (GAPS, [snapshot.gap_ms_p50, snapshot.gap_ms_p95]),
        ] {
            for (quantile, ms) in ["0.5", "0.95"].iter().zip(quantiles) {
                let Some(ms) = ms else { continue };
                add(family, &format!("{label},quantile=\"{quantile}\""), ms / 1e3);
            }
        }
        if let Some(ratio) = recent.hit_ratio {
            add("sim_hit_ratio", label, ratio);
        }
        for (id, (worker, counted)) in (0..).zip(snapshot.workers.iter().zip(&counts.workers)) {
            let labels = format!("{label},engine=\"{id}\"");
            let blocks = settings.pools.of(WorkerId(id)).engine.num_blocks;
            let usage = f64::from(worker.used_blocks) / f64::from(blocks.max(1));
            add("vllm:num_requests_running", &labels, f64::from(worker.running));
            add("vllm:num_requests_waiting", &labels, f64::from(worker.waiting));
            add("vllm:kv_cache_usage_perc", &labels, usage);
            for (family, count) in [
                ("vllm:prefix_cache_queries_total", counted.prompt_tokens),
                ("vllm:prefix_cache_hits_total", counted.cached_tokens),
                ("vllm:prompt_tokens_total", counted.prompt_tokens),
                ("vllm:generation_tokens_total", counted.output_tokens),
                ("vllm:num_preemptions_total", counted.preemptions),
                ("vllm:request_success_total", counted.finished),
            ] {
                add(family, &labels, count as f64);
            }
        }
    }
}
