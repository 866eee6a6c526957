//! `docs/metrics.md`, made from the catalogue.

use super::catalogue::CATALOGUE;
use super::kind::{Better, MetricKind, Needs, Statistic};
use std::fmt::Write;

/// What comes before the tables.
const HEAD: &str = "\
# Metrics

Made from the catalogue in `src/metrics/catalogue.rs`; a test holds this page to it.

Every metric of a result has a mean over seeds, the value of each seed and a 95 % interval \
([Results](experiments.md#results)). Its name is a stem and, where several numbers are reported of one quantity, a \
statistic: `ttft_ms` and `p95` make `ttft_ms_p95`. Percentiles interpolate linearly at (n - 1) q, as NumPy and AIPerf do.

A value is observed when it becomes known: a time to first token when that token arrives, everything else when the request \
ends. A window holds the values observed in it. A value that is undefined (a percentile of no requests) is `null`. Units are \
those that are shown; ratios lie between 0 and 1 in files.

Commands that take the name of a metric (`--metric`, `--best`, `--within`, `--y`) refuse a name that is not here, and a metric \
that the experiment does not measure.
";

/// What comes after the tables.
const OTHER_NAMES: &str = "
## Names elsewhere

What load generators call the same, and where theirs is something else. AIPerf's and inference-perf's numbers are over a \
whole run, or a stage with its last answers; these are over a window ([experiments.md](experiments.md#windows)), which of \
inference-perf's load is the stage too.

| here | AIPerf | inference-perf | where they differ |
|---|---|---|---|
| `ttft_ms` | `time_to_first_token` | `time_to_first_token` | a wait for a connection counts with AIPerf, not with inference-perf: `workload.client.connections` |
| `itl_ms` | `inter_token_latency` | `time_per_output_token` | of a request; inference-perf divides by messages, of which one may have several tokens |
| `inter_token_ms` | `inter_chunk_latency` | `inter_token_latency` | gaps of messages there; AIPerf's is a list for each request |
| `e2e_ms` | `request_latency` | `request_latency` | |
| `output_tokens_per_s` | `output_token_throughput` | `output_tokens_per_sec` | inference-perf counts the tokens of the text, encoded again: 94 % of 1,000 where answers run on after an end token |
| `requests_per_s` | `request_throughput` | `requests_per_sec` | |
| `goodput_per_s` | `goodput` | | |
| `error_ratio` | `error_request_count` | `failures` | numbers of requests there |
| | | `normalized_time_per_output_token` | `e2e_ms` over the tokens of the text; not measured here |
";

/// The whole page, as Markdown.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    let (always, sometimes): (Vec<&MetricKind>, Vec<&MetricKind>) =
        CATALOGUE.iter().copied().partition(|kind| kind.needs == Needs::Nothing);
    page.push_str("\n## In every run\n\n| metric | statistics | unit | better | definition |\n");
    page.push_str("|---|---|---|---|---|\n");
    for kind in always {
        let _ = writeln!(page, "| {} | {} |", name(kind), kind.definition);
    }
    page.push_str("\n## Where the experiment asks for them\n\n");
    page.push_str("| metric | statistics | unit | better | needs | definition |\n");
    page.push_str("|---|---|---|---|---|---|\n");
    for kind in sometimes {
        let _ = writeln!(page, "| {} | {} | {} |", name(kind), kind.needs, kind.definition);
    }
    page.push_str(OTHER_NAMES);
    page
}

/// The cells that every table has.
fn name(kind: &MetricKind) -> String {
    let statistics = kind.statistics.iter().map(|statistic| match statistic {
        Statistic::Plain => "itself".to_owned(),
        other => format!("`{other}`"),
    });
    let statistics = match kind.statistics {
        [Statistic::Plain] => String::new(),
        _ => statistics.collect::<Vec<_>>().join(" "),
    };
    let better = match kind.better {
        Some(Better::Lower) => "lower",
        Some(Better::Higher) => "higher",
        None => "",
    };
    format!("`{}` | {statistics} | {} | {better}", kind.stem, kind.unit)
}
