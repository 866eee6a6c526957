//! `GET /metrics` under vLLM's names.

use crate::engine::Gauges;
use crate::engine::config::EngineConfig;
use crate::time::SimDuration;
use std::fmt::Write;

/// vLLM's buckets for times to the first token and whole requests, in seconds.
const TTFT_BUCKETS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// For times per output token.
const TPOT_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 1.0, 10.0];

/// What a worker counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    queried_tokens: u64,
    hit_tokens: u64,
    pub(super) generated_tokens: u64,
    pub(super) preemptions: u64,
    requests: u64,
    ttft: Times,
    tpot: Times,
    e2e: Times,
}

/// Times in buckets.
#[derive(Clone, Debug, Default)]
struct Times {
    /// By place of the first bound that is not below; the last has no bound.
    counts: Vec<u64>,
    sum_s: f64,
}

impl Times {
    fn add(&mut self, bounds: &[f64], seconds: f64) {
        self.counts.resize(bounds.len() + 1, 0);
        self.counts[bounds.partition_point(|bound| *bound < seconds)] += 1;
        self.sum_s += seconds;
    }

    fn write(&self, text: &mut String, name: &str, labels: &str, bounds: &[f64]) {
        let _ = writeln!(text, "# TYPE vllm:{name} histogram");
        let mut below = 0;
        let bounds = bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
        for (place, bound) in bounds.enumerate() {
            below += self.counts.get(place).copied().unwrap_or_default();
            let _ = writeln!(text, "vllm:{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let sum = self.sum_s;
        let _ = writeln!(
            text,
            "vllm:{name}_sum{{{labels}}} {sum}\nvllm:{name}_count{{{labels}}} {below}"
        );
    }
}

impl Counters {
    pub(super) fn scheduled(&mut self, prompt_tokens: u32, cached_tokens: u32) {
        self.queried_tokens += u64::from(prompt_tokens);
        self.hit_tokens += u64::from(cached_tokens);
    }

    pub(super) fn first_token(&mut self, after: SimDuration) {
        self.ttft.add(&TTFT_BUCKETS, after.as_secs());
    }

    pub(super) fn finished(&mut self, after: SimDuration, decode: SimDuration, tokens: u32) {
        self.requests += 1;
        self.e2e.add(&TTFT_BUCKETS, after.as_secs());
        if tokens > 1 {
            self.tpot.add(&TPOT_BUCKETS, decode.as_secs() / f64::from(tokens - 1));
        }
    }

    /// The text of the answer for a worker that serves `model`.
    pub(super) fn text(&self, gauges: &Gauges, engine: &EngineConfig, model: &str) -> String {
        let labels = format!("engine=\"0\",model_name=\"{model}\"");
        let mut text = String::new();
        let mut sample = |kind: &str, name: &str, value: f64| {
            let family = name.strip_suffix("_total").unwrap_or(name);
            let _ = writeln!(text, "# TYPE vllm:{family} {kind}\nvllm:{name}{{{labels}}} {value}");
        };
        let usage = f64::from(gauges.used_blocks) / f64::from(engine.num_blocks);
        sample("gauge", "num_requests_running", f64::from(gauges.running));
        sample("gauge", "num_requests_waiting", f64::from(gauges.waiting));
        sample("gauge", "kv_cache_usage_perc", usage);
        for (name, value) in [
            ("prefix_cache_queries_total", self.queried_tokens),
            ("prefix_cache_hits_total", self.hit_tokens),
            ("prompt_tokens_total", self.queried_tokens),
            ("generation_tokens_total", self.generated_tokens),
            ("num_preemptions_total", self.preemptions),
        ] {
            sample("counter", name, value as f64);
        }
        let EngineConfig { block_size, num_blocks, prefix_caching, .. } = engine;
        let prefix_caching = if *prefix_caching { "True" } else { "False" };
        // One of vLLM's blocks is the null block.
        let num_blocks = num_blocks + 1;
        let _ = write!(
            text,
            "# TYPE vllm:request_success counter\n\
             vllm:request_success_total{{{labels},finished_reason=\"length\"}} {}\n\
             # TYPE vllm:cache_config_info gauge\n\
             vllm:cache_config_info{{block_size=\"{block_size}\",enable_prefix_caching=\"{prefix_caching}\",\
             num_gpu_blocks=\"{num_blocks}\",engine=\"0\"}} 1\n",
            self.requests,
        );
        self.ttft.write(&mut text, "time_to_first_token_seconds", &labels, &TTFT_BUCKETS);
        self.tpot.write(&mut text, "request_time_per_output_token_seconds", &labels, &TPOT_BUCKETS);
        self.e2e.write(&mut text, "e2e_request_latency_seconds", &labels, &TTFT_BUCKETS);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_all_that_is_not_above_their_bound() {
        let mut times = Times::default();
        for seconds in [0.001, 0.5, 0.50001, 9999.0] {
            times.add(&TTFT_BUCKETS, seconds);
        }
        let mut text = String::new();
        times.write(&mut text, "x", "a=\"b\"", &TTFT_BUCKETS);
        for line in [
            "le=\"0.001\"} 1",
            "le=\"0.5\"} 2",
            "le=\"0.75\"} 3",
            "le=\"2560.0\"} 3",
            "le=\"+Inf\"} 4",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.ends_with("vllm:x_count{a=\"b\"} 4\n"));
    }
}
