//! What Prometheus reads: workers under vLLM's names, the router under those of Dynamo's
//! front end, which count the requests that clients see. What neither has is called `sim_`.
//!
//! As text for a scrape, or over simulated time as OpenMetrics, which Prometheus can take
//! into its storage.

mod buckets;
mod over_time;
mod tally;

pub use over_time::{BEGIN_S, metrics_over_time};
#[cfg(feature = "ui")]
pub(crate) use tally::RequestRow;
pub(crate) use tally::Tally;

use crate::engine::config::EngineConfig;
use crate::engine::model::ModelChoice;
use crate::experiment::Settings;
use crate::fleet::Fleet;
use crate::id::WorkerId;
use crate::simulation::{Simulation, Snapshot, WorkerSnapshot};
use buckets::Buckets;
use std::collections::BTreeMap;
use std::fmt::Write;
use tally::{Counts, WorkerCounts};

/// Workers of larger fleets have no histograms of their own: a scrape of a thousand would have
/// 150,000 lines of them.
const MOST_HISTOGRAMS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Summary,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Summary => "summary",
            Self::Histogram => "histogram",
        }
    }
}

use Kind::{Counter, Gauge, Histogram, Summary};

/// Every family: its name, kind and meaning, in the order in which they are written.
const FAMILIES: [(&str, Kind, &str); 37] = [
    ("sim_time_seconds", Gauge, "The clock of the simulation."),
    ("sim_hit_ratio", Gauge, "Cached over all prompt tokens, over the rolling window."),
    (TTFT, Summary, "From a client's sending to its first token, over the rolling window."),
    (DURATION, Summary, "From a client's sending to its last token, over the rolling window."),
    (GAPS, Summary, "Time between two tokens, over the rolling window."),
    ("sim_busy_seconds_total", Counter, "Time that the engine spent in steps."),
    ("dynamo_frontend_requests_total", Counter, "Requests that ended."),
    (
        "dynamo_frontend_output_tokens_total",
        Counter,
        "Output tokens; all but the first are counted at the end, unless workers tell of each.",
    ),
    ("dynamo_frontend_inflight_requests", Gauge, "Requests that have not ended."),
    ("dynamo_frontend_queued_requests", Gauge, "Requests that have no token yet."),
    ("dynamo_frontend_router_queue_pending_requests", Gauge, "Requests that the router holds."),
    ("dynamo_frontend_disconnected_clients", Gauge, "Clients that hung up, since the start."),
    ("dynamo_frontend_time_to_first_token_seconds", Histogram, "From arrival at the router."),
    ("dynamo_frontend_inter_token_latency_seconds", Histogram, "Time between two tokens."),
    (
        "dynamo_frontend_request_duration_seconds",
        Histogram,
        "From arrival at the router to the end.",
    ),
    ("dynamo_frontend_input_sequence_tokens", Histogram, "Prompts of requests with a first token."),
    ("dynamo_frontend_output_sequence_tokens", Histogram, "Answers of finished requests."),
    ("dynamo_frontend_cached_tokens", Histogram, "Cached tokens of finished requests' prompts."),
    ("vllm:num_requests_running", Gauge, "Requests in the batch."),
    ("vllm:num_requests_waiting", Gauge, "Requests at the worker that are not in the batch."),
    ("vllm:kv_cache_usage_perc", Gauge, "KV blocks that requests hold, 1 is all."),
    ("vllm:prefix_cache_queries_total", Counter, "Prompt tokens looked up in the cache."),
    ("vllm:prefix_cache_hits_total", Counter, "Prompt tokens found in the cache."),
    ("vllm:prompt_tokens_total", Counter, "Prompt tokens of scheduled requests."),
    (
        "vllm:generation_tokens_total",
        Counter,
        "Output tokens; all but the first are counted at the end, unless workers tell of each.",
    ),
    ("vllm:num_preemptions_total", Counter, "Preemptions."),
    ("vllm:request_success_total", Counter, "Requests finished."),
    ("vllm:cache_config_info", Gauge, "The cache, in labels."),
    ("vllm:iteration_tokens_total", Histogram, "Tokens of a step."),
    ("vllm:time_to_first_token_seconds", Histogram, "From arrival at the worker."),
    ("vllm:inter_token_latency_seconds", Histogram, "Time between two tokens."),
    (
        "vllm:request_time_per_output_token_seconds",
        Histogram,
        "A request's mean time between tokens.",
    ),
    (
        "vllm:e2e_request_latency_seconds",
        Histogram,
        "From arrival at the worker to the last token.",
    ),
    (
        "vllm:request_queue_time_seconds",
        Histogram,
        "From arrival at the worker to the first batch.",
    ),
    ("vllm:request_inference_time_seconds", Histogram, "From the first batch to the last token."),
    ("vllm:request_prefill_time_seconds", Histogram, "From the first batch to the first token."),
    ("vllm:request_decode_time_seconds", Histogram, "From the first token to the last."),
];

const TTFT: &str = "sim_time_to_first_token_seconds";
const DURATION: &str = "sim_request_duration_seconds";
const GAPS: &str = "sim_inter_token_latency_seconds";

#[derive(Debug)]
enum Value {
    Number(f64),
    Buckets(Buckets),
}

/// Values of a series, each with its time in seconds where it has one.
type Series = Vec<(Option<f64>, Value)>;

/// Samples by place of the family in [`FAMILIES`] and by labels.
#[derive(Debug, Default)]
pub(crate) struct Families(BTreeMap<(usize, String), Series>);

/// What all samples of one simulation at one moment share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp<'a> {
    /// Labels that tell it from others, as `arm="kv"`; empty if there are none.
    pub(crate) label: &'a str,
    /// The name of its model.
    pub(crate) model: &'a str,
    /// The time that its samples have; that of the scrape if not given.
    pub(crate) at: Option<f64>,
}

/// A value of a label, as the format has it.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What the workers of `settings` serve, by the name that the experiment has for it.
pub(crate) fn model_name(settings: &Settings) -> &str {
    match &settings.cluster.model {
        Some(ModelChoice::File(name)) => name,
        Some(ModelChoice::Parts(parts)) => &parts.shape,
        None => "sim",
    }
}

fn joined(labels: &str, more: &str) -> String {
    if labels.is_empty() { more.to_owned() } else { format!("{labels},{more}") }
}

impl Families {
    /// For a scrape.
    #[cfg(feature = "live")]
    pub(crate) fn text(&self) -> String {
        self.written(|name, _| name)
    }

    /// As OpenMetrics: families of counters have names without their ending.
    pub(crate) fn open_metrics(&self) -> String {
        let family = |name: &'static str, kind| match kind {
            Counter => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        self.written(family) + "# EOF\n"
    }

    fn written(&self, family: impl Fn(&'static str, Kind) -> &'static str) -> String {
        let mut text = String::new();
        let mut before = None;
        for ((place, labels), series) in &self.0 {
            let (name, kind, help) = FAMILIES[*place];
            if before.replace(place) != Some(place) {
                let (family, kind) = (family(name, kind), kind.name());
                let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
            }
            for (at, value) in series {
                let at = at.map_or(String::new(), |at| format!(" {at}"));
                match value {
                    Value::Number(value) => {
                        let _ = writeln!(text, "{name}{{{labels}}} {value}{at}");
                    }
                    Value::Buckets(buckets) => {
                        write_buckets(&mut text, (name, labels), buckets, &at)
                    }
                }
            }
        }
        text
    }

    fn put(&mut self, name: &str, labels: String, at: Option<f64>, value: Value) {
        let place = FAMILIES.iter().position(|(other, ..)| *other == name);
        let place = place.unwrap_or_else(|| panic!("{name} is no family"));
        self.0.entry((place, labels)).or_default().push((at, value));
    }

    /// A `simulation` of `settings` at this moment. What steps it has recorded must have been
    /// counted in `tally`.
    pub(crate) fn add<F: Fleet>(
        &mut self,
        stamp: Stamp<'_>,
        simulation: &mut Simulation<'_, F>,
        tally: &Tally,
        settings: &Settings,
    ) {
        let snapshot = simulation.snapshot();
        let counts = tally.counts();
        // A file has a row of buckets every 15 s: those of the router are enough.
        let with_buckets = stamp.at.is_none() && snapshot.workers.len() <= MOST_HISTOGRAMS;
        self.add_router(stamp, simulation, &snapshot, &counts);
        for (id, worker) in (0..).map(WorkerId).zip(&snapshot.workers) {
            let engine = &settings.pools.of(id).engine;
            let worker = (worker, &counts.workers[id.index()]);
            self.put_worker(stamp, id.0, worker, engine, with_buckets);
        }
    }

    /// The router of a `simulation` alone: real servers have `/metrics` of their own.
    #[cfg(feature = "ui")]
    pub(crate) fn add_router_alone<F: Fleet>(
        &mut self,
        stamp: Stamp<'_>,
        simulation: &mut Simulation<'_, F>,
        tally: &Tally,
    ) {
        let snapshot = simulation.snapshot();
        self.add_router(stamp, simulation, &snapshot, &tally.counts());
    }

    /// One worker of a `simulation`, as a server of its own would say it.
    #[cfg(feature = "live")]
    pub(crate) fn add_worker<F: Fleet>(
        &mut self,
        stamp: Stamp<'_>,
        simulation: &mut Simulation<'_, F>,
        tally: &Tally,
        (id, engine): (WorkerId, &EngineConfig),
    ) {
        let worker = simulation.snapshot().workers[id.index()];
        self.put_worker(stamp, 0, (&worker, &tally.counts().workers[id.index()]), engine, true);
    }

    fn add_router<F: Fleet>(
        &mut self,
        stamp: Stamp<'_>,
        simulation: &Simulation<'_, F>,
        snapshot: &Snapshot,
        counts: &Counts,
    ) {
        let Stamp { label, model, at } = stamp;
        let plain = label.to_owned();
        let mut put = |name, labels, value| self.put(name, labels, at, value);
        let number = Value::Number;
        put("sim_time_seconds", plain.clone(), number(snapshot.at.as_secs()));
        let recent = snapshot.recent.unwrap_or_default();
        if let Some(ratio) = recent.hit_ratio {
            put("sim_hit_ratio", plain, number(ratio));
        }
        for (name, quantiles) in [
            (TTFT, [recent.ttft_ms_p50, recent.ttft_ms_p95]),
            (DURATION, [recent.e2e_ms_p50, recent.e2e_ms_p95]),
            (GAPS, [snapshot.gap_ms_p50, snapshot.gap_ms_p95]),
        ] {
            for (quantile, ms) in ["0.5", "0.95"].iter().zip(quantiles) {
                let labels = joined(label, &format!("quantile=\"{quantile}\""));
                ms.into_iter().for_each(|ms| put(name, labels.clone(), number(ms / 1e3)));
            }
        }
        let model = joined(label, &format!("model=\"{}\"", escaped(model)));
        let router = &counts.router;
        let errors = router.errors.iter().map(|(kind, count)| ("error", *kind, *count));
        for (status, kind, count) in [("success", "", router.finished)].into_iter().chain(errors) {
            let labels = format!("{model},status=\"{status}\",error_type=\"{kind}\"");
            put("dynamo_frontend_requests_total", labels, number(count as f64));
        }
        let output: u64 = counts.workers.iter().map(|worker| worker.output_tokens).sum();
        let gone = router.errors.get("cancelled").copied().unwrap_or_default();
        for (name, count) in [
            ("dynamo_frontend_output_tokens_total", output),
            ("dynamo_frontend_inflight_requests", snapshot.live_requests as u64),
            ("dynamo_frontend_queued_requests", counts.queued() as u64),
            ("dynamo_frontend_router_queue_pending_requests", snapshot.held_requests as u64),
            ("dynamo_frontend_disconnected_clients", gone),
        ] {
            put(name, model.clone(), number(count as f64));
        }
        let gaps = simulation.token_gaps();
        let gaps = gaps.map(|gaps| Buckets::of_times(buckets::ROUTER_TOKENS, gaps));
        for (name, buckets) in [
            ("dynamo_frontend_time_to_first_token_seconds", Some(router.first_tokens.clone())),
            ("dynamo_frontend_inter_token_latency_seconds", gaps),
            ("dynamo_frontend_request_duration_seconds", Some(router.requests.clone())),
            ("dynamo_frontend_input_sequence_tokens", Some(router.prompts.clone())),
            ("dynamo_frontend_output_sequence_tokens", Some(router.answers.clone())),
            ("dynamo_frontend_cached_tokens", Some(router.cached.clone())),
        ] {
            buckets.into_iter().for_each(|all| put(name, model.clone(), Value::Buckets(all)));
        }
    }

    /// A worker that is called `engine` number `name`.
    fn put_worker(
        &mut self,
        Stamp { label, model, at }: Stamp<'_>,
        name: u32,
        (worker, counts): (&WorkerSnapshot, &WorkerCounts),
        engine: &EngineConfig,
        with_buckets: bool,
    ) {
        let engine_label = joined(label, &format!("engine=\"{name}\""));
        let labels = format!("{engine_label},model_name=\"{}\"", escaped(model));
        let mut put = |name, labels, value| self.put(name, labels, at, value);
        let usage = f64::from(worker.used_blocks) / f64::from(engine.num_blocks.max(1));
        put("sim_busy_seconds_total", labels.clone(), Value::Number(counts.busy.as_secs()));
        put("vllm:num_requests_running", labels.clone(), Value::Number(worker.running.into()));
        put("vllm:num_requests_waiting", labels.clone(), Value::Number(worker.waiting.into()));
        put("vllm:kv_cache_usage_perc", labels.clone(), Value::Number(usage));
        for (name, count) in [
            ("vllm:prefix_cache_queries_total", counts.prompt_tokens),
            ("vllm:prefix_cache_hits_total", counts.cached_tokens),
            ("vllm:prompt_tokens_total", counts.prompt_tokens),
            ("vllm:generation_tokens_total", counts.output_tokens),
            ("vllm:num_preemptions_total", counts.preemptions),
        ] {
            put(name, labels.clone(), Value::Number(count as f64));
        }
        let finished = format!("{labels},finished_reason=\"length\"");
        put("vllm:request_success_total", finished, Value::Number(counts.finished as f64));
        let EngineConfig { block_size, num_blocks, prefix_caching, .. } = engine;
        let prefix_caching = if *prefix_caching { "True" } else { "False" };
        // One of vLLM's blocks is the null block.
        let num_blocks = num_blocks + 1;
        let cache = format!(
            "block_size=\"{block_size}\",enable_prefix_caching=\"{prefix_caching}\",num_gpu_blocks=\"{num_blocks}\""
        );
        put("vllm:cache_config_info", format!("{engine_label},{cache}"), Value::Number(1.0));
        if !with_buckets {
            return;
        }
        for (name, buckets) in [
            ("vllm:iteration_tokens_total", Some(&counts.steps)),
            ("vllm:time_to_first_token_seconds", Some(&counts.first_tokens)),
            ("vllm:inter_token_latency_seconds", counts.gaps.as_ref()),
            ("vllm:request_time_per_output_token_seconds", Some(&counts.tokens)),
            ("vllm:e2e_request_latency_seconds", Some(&counts.requests)),
            ("vllm:request_queue_time_seconds", Some(&counts.queues)),
            ("vllm:request_inference_time_seconds", Some(&counts.inferences)),
            ("vllm:request_prefill_time_seconds", Some(&counts.prefills)),
            ("vllm:request_decode_time_seconds", Some(&counts.decodes)),
        ] {
            if let Some(buckets) = buckets {
                put(name, labels.clone(), Value::Buckets(buckets.clone()));
            }
        }
    }
}

fn write_buckets(text: &mut String, (name, labels): (&str, &str), buckets: &Buckets, at: &str) {
    let mut count = 0;
    for (bound, up_to) in buckets.up_to() {
        count = up_to;
        let bound = bound.map_or("+Inf".to_owned(), |bound| format!("{bound:?}"));
        let labels = joined(labels, &format!("le=\"{bound}\""));
        let _ = writeln!(text, "{name}_bucket{{{labels}}} {up_to}{at}");
    }
    let sum = buckets.sum();
    let _ =
        writeln!(text, "{name}_sum{{{labels}}} {sum}{at}\n{name}_count{{{labels}}} {count}{at}");
}
