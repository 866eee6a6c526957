//! The catalogue of metrics: what each is called, its unit, which direction is
//! better, under which settings it exists, and what it is.
//!
//! The recorder names what it writes by the constants of the
//! [catalogue]; tables, figures, checks of names, the schema and
//! `docs/metrics.md` read the same entries. A name is made of a stem and a
//! statistic, as `ttft_ms` and `p95`.

pub mod catalogue;
mod page;

pub use catalogue::CATALOGUE;
pub use page::page;

use crate::event::Medium;
use crate::settings::Invalid;
use std::fmt;

/// An entry of the catalogue: one quantity, and the statistics that are reported of it.
#[derive(Debug)]
pub struct Kind {
    /// The name in result files, without a statistic: `ttft_ms`.
    pub stem: &'static str,
    /// What is reported of it.
    pub statistics: &'static [Statistic],
    /// What people call it.
    pub label: &'static str,
    /// Unit of shown values; empty for counts. Ratios are shown in percent.
    pub unit: &'static str,
    /// `None` if neither direction is good in itself.
    pub better: Option<Better>,
    /// What an experiment must have for it.
    pub needs: Needs,
    /// What it is, as Markdown.
    pub definition: &'static str,
}

/// What is reported of a quantity, and so the end of the metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// The number itself; the name is the stem alone.
    Plain,
    /// The mean: `_mean`.
    Mean,
    /// A percentile, as `_p95`: interpolated linearly at (n - 1) q, as NumPy and
    /// AIPerf do.
    P(u8),
    /// The largest value: `_max`.
    Max,
    /// The number itself, of each pool of workers: `[NAME]`.
    OfPool,
}

/// Which values of a metric are better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Small ones, as for times.
    Lower,
    /// Large ones, as for throughput.
    Higher,
}

/// What an experiment must have for a metric to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: every run has it.
    Nothing,
    /// Latency targets.
    Targets,
    /// The measurement of what each choice of a worker cost.
    Why,
    /// Separate workers for prefill and decode.
    Pools,
    /// Several pools of workers with names.
    NamedPools,
    /// Memory below the GPU's.
    Tiers,
    /// Such memory of this kind.
    Tier(Medium),
    /// A fleet in which workers come and go.
    Changes,
    /// Clients that send requests again: failed ones, or those that they gave up.
    Retries,
    /// A planner that adds and removes workers.
    Planner,
    /// The policy that compares two implementations.
    Shadow,
    /// A workload that is read from a trace.
    Trace,
    /// Clients that hang up.
    Patience,
}

impl Kind {
    /// The entry whose stem is `stem`.
    pub fn of(stem: &str) -> Option<&'static Self> {
        CATALOGUE.iter().copied().find(|kind| kind.stem == stem)
    }

    /// The name of the metric that is this `statistic`: `ttft_ms_p95`.
    pub fn name(&self, statistic: Statistic) -> String {
        format!("{}{statistic}", self.stem)
    }

    /// The name of its only metric.
    ///
    /// # Panics
    /// If several statistics are reported of it.
    pub fn only(&self) -> String {
        assert!(self.statistics.len() == 1, "{} has several statistics", self.stem);
        self.name(self.statistics[0])
    }

    /// The name of its metric of the pool `name`: `pool_requests_per_s[NAME]`.
    pub fn of_pool(&self, name: &str) -> String {
        assert!(self.statistics == [Statistic::OfPool], "{} is of no pool", self.stem);
        format!("{}[{name}]", self.stem)
    }

    /// The names of all its metrics; those of pools have `POOL` for the pool's name.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.statistics.iter().map(|statistic| self.name(*statistic))
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain => Ok(()),
            Self::Mean => f.write_str("_mean"),
            Self::P(percent) => write!(f, "_p{percent}"),
            Self::Max => f.write_str("_max"),
            Self::OfPool => f.write_str("[POOL]"),
        }
    }
}

/// As the settings that meet it are written.
impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Targets => "[slo]",
            Self::Why => "measure.why = true",
            Self::Pools => "cluster.prefill.workers, or pools that prefill and that decode",
            Self::NamedPools => "[[cluster.pool]]",
            Self::Tiers => "[[engine.tier]]",
            Self::Tier(Medium::Host) => "an [[engine.tier]] of host memory",
            Self::Tier(Medium::Disk) => "an [[engine.tier]] on disk",
            Self::Tier(Medium::Remote) => "a remote [[engine.tier]]",
            Self::Changes => "[[cluster.change]] or [cluster.planner]",
            Self::Retries => {
                "workload.patience.retries, or [[cluster.change]] or [cluster.planner] and \
                 cluster.failover.retries"
            }
            Self::Planner => "[cluster.planner]",
            Self::Shadow => "router.policy = \"shadow\"",
            Self::Trace => "workload.kind = \"trace\"",
            Self::Patience => "[workload.patience]",
        })
    }
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

/// What tables and figures show when no metric was asked for.
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
        let kind = Kind::of(stem);
        let title = kind.map_or(stem, |kind| kind.label);
        let label = match statistic {
            Some(statistic) => format!("{title} {statistic}"),
            None => title.to_owned(),
        };
        Self {
            name: name.to_owned(),
            stem: stem.to_owned(),
            label,
            unit: kind.map_or("", |kind| kind.unit),
            better: kind.and_then(|kind| kind.better),
        }
    }

    /// What the stem is called, without statistic and unit: `TTFT`.
    pub fn title(&self) -> String {
        Kind::of(&self.stem).map_or(self.stem.clone(), |kind| kind.label.to_owned())
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

/// The entry of the catalogue that a metric's name belongs to.
///
/// # Errors
/// If no run ever writes such a metric; the message has the nearest name.
pub fn check_name(key: &str, name: &str) -> Result<&'static Kind, Invalid> {
    let (stem, statistic) = split(name);
    let Some(kind) = Kind::of(stem) else {
        let nearest = CATALOGUE
            .iter()
            .map(|kind| (strsim::damerau_levenshtein(stem, kind.stem), kind.stem))
            .min()
            .map_or("ttft_ms", |(_, nearest)| nearest);
        let otherwise = if nearest.ends_with("_ms") { "_p95" } else { "" };
        let suffix = statistic.map_or(otherwise.to_owned(), |statistic| format!("_{statistic}"));
        let allowed = format!("the name of a metric; the nearest one is `{nearest}{suffix}`");
        return Err(Invalid::new(key, name, allowed));
    };
    let is_of_pool = kind.statistics == [Statistic::OfPool];
    if is_of_pool && statistic.is_some() || kind.names().any(|known| known == name) {
        return Ok(kind);
    }
    if is_of_pool {
        let allowed = format!("the name of a metric with a pool, as `{stem}[h100]`");
        return Err(Invalid::new(key, name, allowed));
    }
    let ends: Vec<String> = kind
        .statistics
        .iter()
        .filter(|statistic| **statistic != Statistic::Plain)
        .map(|statistic| statistic.to_string().trim_start_matches('_').to_owned())
        .collect();
    let allowed = if ends.is_empty() {
        format!("the name of a metric; of this one there is `{stem}` alone")
    } else {
        format!("the name of a metric with a statistic, `{stem}_` and one of {}", ends.join(", "))
    };
    Err(Invalid::new(key, name, allowed))
}

/// The metric of this name, and which of its directions is better.
///
/// # Errors
/// If there is none, or neither direction is better.
pub fn directed(key: &str, name: &str) -> Result<(Metric, Better), Invalid> {
    let kind = check_name(key, name)?;
    let allowed = "a metric of which either more or less is better";
    let better = kind.better.ok_or_else(|| Invalid::new(key, name, allowed))?;
    Ok((Metric::of(name), better))
}

/// The metric that a short name stands for: `goodput` for `goodput_per_s`. Other
/// names are returned as they are.
pub fn full_name(name: &str) -> &str {
    match name {
        "goodput" => "goodput_per_s",
        "attainment" => "slo_attainment",
        "throughput" => "output_tokens_per_s",
        name => name,
    }
}

/// Place of a metric in reports: those of the catalogue in its order, then the rest by name.
pub(crate) fn rank(name: &str) -> (usize, String) {
    let (stem, _) = split(name);
    let place = CATALOGUE.iter().position(|kind| kind.stem == stem).unwrap_or(CATALOGUE.len());
    (place, name.to_owned())
}

/// Splits `ttft_ms_p95` into stem and statistic; `hit_ratio_request_mean` is a stem of its own.
fn split(name: &str) -> (&str, Option<&str>) {
    if Kind::of(name).is_some() {
        return (name, None);
    }
    if let Some((stem, pool)) = pool_of(name) {
        return (stem, Some(pool));
    }
    match name.rsplit_once('_') {
        Some((stem, statistic)) if !stem.is_empty() && is_statistic(statistic) => {
            (stem, Some(statistic))
        }
        _ => (name, None),
    }
}

/// Splits `pool_requests_per_s[h100]` into stem and pool.
pub fn pool_of(name: &str) -> Option<(&str, &str)> {
    let (stem, pool) = name.strip_suffix(']')?.split_once('[')?;
    let kind = Kind::of(stem)?;
    (kind.statistics == [Statistic::OfPool] && !pool.is_empty()).then_some((stem, pool))
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

/// Shows a mean and the bounds of its interval, rounded to what they are worth: to
/// three significant digits of the mean, and to two of half the interval where
/// that leaves fewer.
pub fn rounded(mean: f64, half: f64) -> impl Fn(f64) -> String {
    let text = short(mean);
    let decimals = text.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let is_scientific = text.contains('e');
    // 1455 with an error of 664 is 1460 with one of 660.
    let step = if half >= 100.0 { 10f64.powf(half.log10().floor() - 1.0) } else { 1.0 };
    move |value| match () {
        () if is_scientific || !half.is_finite() => short(value),
        () if decimals > 0 => format!("{value:.decimals$}"),
        () if step <= 1.0 => format!("{value:.0}"),
        () => format!("{:.0}", (value / step).round() * step),
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
    use std::collections::BTreeSet;

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
            assert!(check_name("metric", name).is_ok(), "{name}");
        }
        let error = check_name("metric", "tftt_ms_p50").unwrap_err().to_string();
        assert_eq!(
            error,
            "metric = tftt_ms_p50: must be the name of a metric; the nearest one is `ttft_ms_p50`"
        );
    }

    #[test]
    fn numbers_are_rounded_to_what_they_are_worth() {
        let shown = |mean: f64, half: f64| {
            let round = rounded(mean, half);
            format!("{} ±{}", round(mean), round(half))
        };
        assert_eq!(shown(48.2, 2.13e-14), "48.2 ±0.0");
        assert_eq!(shown(1455.3, 663.7), "1460 ±660");
        assert_eq!(shown(2566.0, 1234.0), "2600 ±1200");
        assert_eq!(shown(391.4, 3.17), "391 ±3");
        assert_eq!(shown(0.5, 0.0123), "0.500 ±0.012");
        assert_eq!(shown(3.0e-7, 1.0e-8), "3.00e-7 ±1.00e-8");
    }

    #[test]
    fn numbers_are_short_and_claim_no_false_direction() {
        let texts: Vec<String> =
            [3143.2, 274.4, 28.44, 2.571, 0.9, 0.0, 1e-7, 99.97].map(short).into();
        assert_eq!(texts, ["3143", "274", "28.4", "2.57", "0.900", "0", "1.00e-7", "100"]);
        assert_eq!([signed(-24.4), signed(3.12), signed(-0.01)], ["-24", "+3.1", "0.0"]);
    }

    #[test]
    fn every_name_of_the_catalogue_leads_back_to_its_entry() {
        let mut stems = BTreeSet::new();
        for kind in CATALOGUE {
            assert!(stems.insert(kind.stem), "{} is there twice", kind.stem);
            assert!(!kind.statistics.is_empty(), "{} reports nothing", kind.stem);
            let definition = kind.definition;
            assert!(definition.ends_with('.') && !definition.contains(['|', '\n']), "{definition}");
            for name in kind.names() {
                let found = check_name("metric", &name).expect("a name of the catalogue");
                assert_eq!(found.stem, kind.stem, "{name}");
                assert_eq!(Metric::of(&name).stem, kind.stem, "{name}");
            }
        }
    }
}
