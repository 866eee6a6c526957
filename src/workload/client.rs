//! What stands between a client and the router: the way of its requests, and the connections
//! of the load generator.

use super::distribution::{Distribution, Quantity};
use super::tokenizer::TokenizerSettings;
use crate::rng::Stream;
use crate::settings::{self, Count, Invalid};
use crate::time::SimDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Time between a client's sending and the router's receiving: network, gateway, chat
/// template, tokenising. Clients measure it as part of the time to the first token. The way
/// of an answer back to its client is a part of it too: where it lies makes no difference
/// to what a client measures, nor to when it sends the next request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Client {
    /// For every request.
    pub overhead: SimDuration,
    /// Times the number of concurrent conversations: what is shared gets slower with load.
    pub overhead_per_inflight: SimDuration,
    /// Drawn for every request and added.
    pub overhead_jitter: Distribution<SimDuration>,
    /// What requests pass after that; nothing unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSettings>,
    /// Connections of the load generator; as many as it needs unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<ConnectionSettings>,
}

impl Client {
    /// Refuses times that cannot be drawn.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        self.overhead_jitter.validate().map_err(|e| e.within("overhead_jitter"))?;
        let tokenizer = self.tokenizer.as_ref().map_or(Ok(()), TokenizerSettings::validate);
        tokenizer.map_err(|e| e.within("tokenizer"))?;
        let connections = self.connections.as_ref().map_or(Ok(()), ConnectionSettings::validate);
        connections.map_err(|e| e.within("connections"))
    }

    /// True if nothing was given.
    pub(in crate::workload) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// True if requests are on their way for some time, tokenizing apart.
    pub(in crate::workload) fn takes_time(&self) -> bool {
        let Self { overhead, overhead_jitter, .. } = self;
        !overhead.is_zero() || *overhead_jitter != Distribution::default()
    }

    /// Refuses what depends on the number of clients, where there is none; the key is
    /// that of the workload.
    pub(in crate::workload) fn validate_open_loop(&self) -> Result<(), Invalid> {
        let per_inflight = self.overhead_per_inflight;
        let allowed = "absent in an open loop, whose requests do not wait for answers";
        let key = "client.overhead_per_inflight";
        Invalid::unless(per_inflight.is_zero(), key, per_inflight.shown(), allowed)
    }

    /// The time that one request takes, at `concurrency`.
    pub(crate) fn way(&self, concurrency: u32, draws: &mut Stream) -> SimDuration {
        self.overhead
            + self.overhead_per_inflight * u64::from(concurrency)
            + self.overhead_jitter.sample(draws)
    }
}

/// Most connections (assumed: far above any load generator).
pub(super) const MAX_CONNECTIONS: u32 = 10_000_000;

/// What an experiment says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionSettings {
    /// Connections of all its processes; at least 1.
    #[serde(deserialize_with = "settings::count")]
    #[schemars(with = "Count")]
    pub limit: u32,
    /// Whether the wait for one is a part of what the client measures. True unless given, as
    /// AIPerf and others have it whose HTTP client waits; false of those that wait before
    /// they take the time, as inference-perf's processes do.
    #[serde(default = "yes")]
    pub wait_counts: bool,
}

fn yes() -> bool {
    true
}

impl ConnectionSettings {
    /// Refuses numbers of connections that no load generator has.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let allowed = format!("from 1 to {MAX_CONNECTIONS}");
        let some = (1..=MAX_CONNECTIONS).contains(&self.limit);
        Invalid::unless(some, "limit", self.limit, &allowed)
    }
}
