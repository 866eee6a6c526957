//! What an entry of the catalogue says.

use crate::event::Medium;
use std::fmt;

/// An entry of the catalogue: one quantity, and the statistics that are reported of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct MetricKind {
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
    #[cfg_attr(not(internals), doc(hidden))]
    pub needs: Needs,
    /// What it is, as Markdown.
    pub definition: &'static str,
}

/// What is reported of a quantity, and so the end of the metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
    /// Clients with a limited number of connections.
    Connections,
    /// A planner that adds and removes workers.
    Planner,
    /// The policy that compares two implementations.
    Shadow,
    /// A workload that is read from a trace.
    Trace,
    /// Clients that hang up.
    Patience,
    /// A router that may refuse requests, or clients that send those again.
    Refusals,
}

impl MetricKind {
    /// The name of the metric that is this `statistic`: `ttft_ms_p95`.
    pub fn name(&self, statistic: Statistic) -> String {
        format!("{}{statistic}", self.stem)
    }

    /// The name of its only metric.
    ///
    /// # Panics
    /// If several statistics are reported of it.
    #[cfg_attr(not(internals), doc(hidden))]
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
                "workload.patience.retries, [workload.patience.on_refusal], or [[cluster.change]] or [cluster.planner] and \
                 cluster.failover.retries"
            }
            Self::Connections => "workload.client.connections",
            Self::Planner => "[cluster.planner]",
            Self::Shadow => "router.policy = \"shadow\"",
            Self::Trace => "workload.kind = \"trace\"",
            Self::Patience => "workload.patience.first_token or .answer",
            Self::Refusals => "[router.admission] or [workload.patience.on_refusal]",
        })
    }
}
