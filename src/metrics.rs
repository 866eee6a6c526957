//! What a metric's name says about it: label, unit, and which way is better.
//!
//! Names are made of a stem and a statistic, as `ttft_ms` and `p95`.

use crate::settings::Invalid;

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Small ones, as for times.
    Lower,
    /// Large ones, as for throughput.
    Higher,
}

/// A metric as reports show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The name in result files, as `ttft_ms_p95`.
    pub name: String,
    /// The name without its statistic, as `ttft_ms`. Metrics of one stem share a figure.
    pub stem: String,
    /// For people, without the unit: `TTFT p95`.
    pub label: String,
    /// Unit of shown values; empty for counts. Ratios are shown in percent.
    pub unit: &'static str,
    /// `None` if neither direction is good in itself.
    pub better: Option<Better>,
}

/// Stem, what it is called, unit when shown, and which way is better.
type Known = (&'static str, &'static str, &'static str, Option<Better>);

const LOWER: Option<Better> = Some(Better::Lower);
const HIGHER: Option<Better> = Some(Better::Higher);

/// The metrics of the simulator, in the order in which reports show them.
const KNOWN: [Known; 60] = [
    ("ttft_ms", "TTFT", "ms", LOWER),
    ("engine_ttft_ms", "engine TTFT", "ms", LOWER),
    ("itl_ms", "ITL", "ms", LOWER),
    ("inter_token_ms", "token gap", "ms", LOWER),
    ("e2e_ms", "end to end", "ms", LOWER),
    ("queue_ms", "queue time", "ms", LOWER),
    ("router_queue_ms", "queue time at the router", "ms", LOWER),
    ("transfer_ms", "KV transfer", "ms", LOWER),
    ("decode_queue_ms", "queue time at the decode worker", "ms", LOWER),
    ("output_tokens_per_s", "throughput", "tokens/s", HIGHER),
    ("requests_per_s", "request rate", "1/s", HIGHER),
    ("goodput_per_s", "goodput", "1/s", HIGHER),
    ("hit_ratio", "hit ratio", "%", HIGHER),
    ("hit_ratio_request_mean", "hit ratio, mean of requests", "%", HIGHER),
    ("hit_ratio_host", "hits in host memory", "%", None),
    ("hit_ratio_disk", "hits on disk", "%", None),
    ("hit_ratio_remote", "hits in remote storage", "%", None),
    ("load_ms", "load from lower tiers", "ms", LOWER),
    ("loaded_gb_per_s", "loaded from lower tiers", "GB/s", None),
    ("slo_attainment", "SLO attainment", "%", HIGHER),
    ("hit_ratio_bound", "hit ratio of an unlimited shared cache", "%", None),
    ("lost_to_eviction_ratio", "hits lost to eviction", "%", LOWER),
    ("lost_to_wrong_worker_ratio", "hits lost to the wrong worker", "%", LOWER),
    ("lost_to_stale_index_ratio", "hits lost to a stale index", "%", LOWER),
    ("overlap_regret_blocks", "overlap regret", "blocks", LOWER),
    ("queue_spike_ms", "queue spike", "ms", LOWER),
    ("queue_spikes", "queue spikes", "", LOWER),
    ("inflight_spread", "in-flight spread", "requests", LOWER),
    ("inflight_skew", "in-flight skew", "", LOWER),
    ("queue_skew", "queue skew", "", LOWER),
    ("preemptions", "preemptions", "", LOWER),
    ("rejected", "rejected", "requests", LOWER),
    ("error_ratio", "errors", "%", LOWER),
    ("failed", "failed", "requests", LOWER),
    ("retries", "sent again", "requests", LOWER),
    ("rows_left_out", "rows of the trace left out", "", LOWER),
    ("sessions_broken", "sessions of the trace broken", "", LOWER),
    ("migrations", "migrations", "", None),
    ("recomputed_tokens", "tokens computed again", "", LOWER),
    ("hit_ratio_lowest", "lowest hit ratio after a change", "%", HIGHER),
    ("hit_recovery_s", "time until hits are back", "s", LOWER),
    ("workers", "workers", "", None),
    ("workers_added", "workers added", "", None),
    ("workers_removed", "workers removed", "", None),
    ("decode_kv_blocks_used_mean", "KV blocks used, decode worker's mean", "blocks", None),
    ("decode_running_mean", "requests in the batch, decode worker's mean", "requests", None),
    ("decode_waiting_mean", "requests that wait, decode worker's mean", "requests", None),
    ("finished", "finished", "requests", None),
    ("inflight_mean", "in flight, worker's mean", "requests", None),
    ("kv_blocks_used_mean", "KV blocks used, worker's mean", "blocks", None),
    ("prefill_kv_blocks_used_mean", "KV blocks used, prefill worker's mean", "blocks", None),
    ("prefill_running_mean", "requests in the batch, prefill worker's mean", "requests", None),
    ("prefill_waiting_mean", "requests that wait, prefill worker's mean", "requests", None),
    ("running_mean", "requests in the batch, worker's mean", "requests", None),
    ("shadow_agreed", "decisions that agree", "", None),
    ("shadow_costs_differ", "decisions with other costs", "", None),
    ("shadow_decisions", "decisions compared", "", None),
    ("shadow_tied", "other choices of equal cost", "", None),
    ("shadow_ties", "decisions with a tie", "", None),
    ("waiting_mean", "requests that wait, worker's mean", "requests", None),
];

/// What tables and figures show when nobody asked for anything in particular.
pub const MAIN: [&str; 9] = [
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_p50",
    "itl_ms_p95",
    "e2e_ms_p50",
    "e2e_ms_p95",
    "output_tokens_per_s",
    "requests_per_s",
    "hit_ratio",
];

impl Metric {
    /// Reads a name. An unknown one keeps its name as label and has no unit.
    pub fn of(name: &str) -> Self {
        let (stem, statistic) = split(name);
        let known = KNOWN.iter().find(|known| known.0 == stem);
        let title = known.map_or(stem, |known| known.1);
        let label = match statistic {
            Some(statistic) => format!("{title} {statistic}"),
            None => title.to_owned(),
        };
        Self {
            name: name.to_owned(),
            stem: stem.to_owned(),
            label,
            unit: known.map_or("", |known| known.2),
            better: known.and_then(|known| known.3),
        }
    }

    /// What the stem is called, without statistic and unit: `TTFT`.
    pub fn title(&self) -> String {
        let known = KNOWN.iter().find(|known| known.0 == self.stem);
        known.map_or(self.stem.clone(), |known| known.1.to_owned())
    }

    /// As `value` is shown: a ratio of 0.9 as 90 (percent).
    pub fn shown(&self, value: f64) -> f64 {
        if self.is_ratio() { value * 100.0 } else { value }
    }

    /// True if values lie between 0 and 1. Differences of ratios are given in
    /// percentage points: "3 % more hits" could mean either.
    pub fn is_ratio(&self) -> bool {
        self.unit == "%"
    }

    /// Label with unit: `TTFT p95 (ms)`.
    pub fn with_unit(&self) -> String {
        if self.unit.is_empty() {
            self.label.clone()
        } else {
            format!("{} ({})", self.label, self.unit)
        }
    }

    /// How far `value` is from `reference`: percent of it, or percentage points
    /// for ratios. `None` if the reference is zero and the metric no ratio.
    pub fn difference(&self, value: f64, reference: f64) -> Option<f64> {
        let difference = if self.is_ratio() {
            (value - reference) * 100.0
        } else {
            (value - reference) / reference.abs() * 100.0
        };
        difference.is_finite().then_some(difference)
    }

    /// Unit of [`difference`](Self::difference).
    pub fn difference_unit(&self) -> &'static str {
        if self.is_ratio() { "pt" } else { "%" }
    }
}

/// The statistics that are reported of a stem; none of what is one number.
fn statistics(stem: &str) -> &'static [&'static str] {
    match stem {
        "inter_token_ms" => &["mean", "p50", "p90", "p95", "p99"],
        "queue_spike_ms" | "queue_spikes" => &["max"],
        "inflight_spread" => &["mean", "max"],
        "inflight_skew" | "overlap_regret_blocks" | "workers" => &["mean"],
        _ if stem.ends_with("_ms") => &["mean", "p50", "p90", "p95", "p99", "max"],
        _ => &[],
    }
}

/// Refuses a name that no module of the simulator writes, naming the nearest one.
///
/// # Errors
/// If it is none.
pub fn check_name(key: &str, name: &str) -> Result<(), Invalid> {
    let (stem, statistic) = split(name);
    if KNOWN.iter().any(|known| known.0 == stem) {
        let reported = statistics(stem);
        let is_one = match statistic {
            Some(statistic) => reported.contains(&statistic),
            // Spikes are counted in all and of the worker with most.
            None => reported.is_empty() || stem == "queue_spikes",
        };
        let allowed = match reported {
            [] => format!("the name of a metric; of this one there is `{stem}` alone"),
            _ => format!(
                "the name of a metric with a statistic, `{stem}_` and one of {}",
                reported.join(", ")
            ),
        };
        return Invalid::unless(is_one, key, name, &allowed);
    }
    let nearest = KNOWN
        .iter()
        .map(|known| (strsim::damerau_levenshtein(stem, known.0), known.0))
        .min()
        .map_or("ttft_ms", |(_, nearest)| nearest);
    let otherwise = if nearest.ends_with("_ms") { "_p95" } else { "" };
    let suffix = statistic.map_or(otherwise.to_owned(), |statistic| format!("_{statistic}"));
    Err(Invalid::new(
        key,
        name,
        format!("the name of a metric; the nearest one is `{nearest}{suffix}`"),
    ))
}

/// The metric of this name, and which of its directions is better.
///
/// # Errors
/// If there is none, or neither direction is better.
pub fn directed(key: &str, name: &str) -> Result<(Metric, Better), Invalid> {
    check_name(key, name)?;
    let metric = Metric::of(name);
    let allowed = "a metric of which either more or less is better";
    let better = metric.better.ok_or_else(|| Invalid::new(key, name, allowed))?;
    Ok((metric, better))
}

/// Place of a metric in reports: known ones in the order of the table above, then the rest by name.
pub(crate) fn rank(name: &str) -> (usize, String) {
    let (stem, _) = split(name);
    let place = KNOWN.iter().position(|known| known.0 == stem).unwrap_or(KNOWN.len());
    (place, name.to_owned())
}

/// Splits `ttft_ms_p95` into stem and statistic; `hit_ratio_request_mean` is a stem of its own.
pub(crate) fn split(name: &str) -> (&str, Option<&str>) {
    if KNOWN.iter().any(|known| known.0 == name) {
        return (name, None);
    }
    match name.rsplit_once('_') {
        Some((stem, statistic)) if !stem.is_empty() && is_statistic(statistic) => {
            (stem, Some(statistic))
        }
        _ => (name, None),
    }
}

fn is_statistic(text: &str) -> bool {
    let percentile = text
        .strip_prefix('p')
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
    percentile || matches!(text, "mean" | "max" | "min")
}

/// A number with about three significant digits, for tables: `3143`, `274`, `28.4`, `2.57`.
pub fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e9).contains(&size) {
        format!("{value:.2e}")
    } else if size >= 99.95 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// A signed difference: `+3.1`, `-24`, `0.0`. Whole numbers from 10 on.
pub fn signed(value: f64) -> String {
    let text = if value.abs() >= 9.95 { format!("{value:+.0}") } else { format!("{value:+.1}") };
    // "-0.0" would claim a direction that rounding has removed.
    if text == "+0.0" || text == "-0.0" { "0.0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_into_stem_and_statistic() {
        let p95 = Metric::of("ttft_ms_p95");
        assert_eq!((p95.stem.as_str(), p95.label.as_str()), ("ttft_ms", "TTFT p95"));
        assert_eq!(p95.with_unit(), "TTFT p95 (ms)");
        assert_eq!(Metric::of("hit_ratio_request_mean").stem, "hit_ratio_request_mean");
        assert_eq!(Metric::of("inflight_spread_max").label, "in-flight spread max");
        assert_eq!(Metric::of("requests_per_s").stem, "requests_per_s");
        let unknown = Metric::of("colour_p50");
        assert_eq!((unknown.label.as_str(), unknown.better), ("colour p50", None));
        assert_eq!(Metric::of("_p50").stem, "_p50");
    }

    #[test]
    fn ratios_differ_in_points_and_the_rest_in_percent() {
        assert_eq!(Metric::of("hit_ratio").difference(0.75, 0.5), Some(25.0));
        assert_eq!(Metric::of("ttft_ms_p50").difference(75.0, 50.0), Some(50.0));
        assert_eq!(Metric::of("ttft_ms_p50").difference(75.0, 0.0), None);
        assert_eq!(Metric::of("preemptions").difference(0.0, 0.0), None);
    }

    #[test]
    fn a_misspelt_metric_is_refused_with_the_nearest() {
        assert!(check_name("metric", "itl_ms_p50").is_ok());
        let bare = check_name("metric", "itl_ms").unwrap_err().to_string();
        let forms = "with a statistic, `itl_ms_` and one of mean, p50, p90, p95, p99, max";
        assert!(bare.ends_with(forms), "{bare}");
        for name in ["queue_spikes", "queue_spikes_max", "finished", "running_mean"] {
            assert_eq!(check_name("metric", name), Ok(()));
        }
        let error = check_name("metric", "tftt_ms_p50").unwrap_err().to_string();
        assert_eq!(
            error,
            "metric = tftt_ms_p50: must be the name of a metric; the nearest one is `ttft_ms_p50`"
        );
    }

    #[test]
    fn numbers_are_short_and_claim_no_false_direction() {
        let texts: Vec<String> =
            [3143.2, 274.4, 28.44, 2.571, 0.9, 0.0, 1e-7, 99.97].map(short).into();
        assert_eq!(texts, ["3143", "274", "28.4", "2.57", "0.900", "0", "1.00e-7", "100"]);
        assert_eq!([signed(-24.4), signed(3.12), signed(-0.01)], ["-24", "+3.1", "0.0"]);
    }
}
