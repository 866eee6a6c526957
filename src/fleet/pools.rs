//! Two pools of workers: one prefills, the other decodes, and the KV of every
//! request moves between them.

use super::network::{Arrived, Link, Network, Transfer};
use crate::engine::config::EngineConfig;
use crate::engine::rules::RulesName;
use crate::id::{RequestId, WorkerId};
use crate::request::Phase;
use crate::settings::Invalid;
use crate::time::SimTime;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The shape of a fleet whose workers prefill or decode.
#[derive(Clone, Debug, PartialEq)]
pub struct Pools {
    /// Workers that prefill, at least 1; their ids come first.
    pub prefill_workers: u32,
    /// Workers that decode, at least 1.
    pub decode_workers: u32,
    /// What the first run with.
    pub prefill: Arc<EngineConfig>,
    /// What the others run with.
    pub decode: Arc<EngineConfig>,
    /// What joins them.
    pub link: Link,
}

impl Pools {
    /// All workers.
    pub fn workers(&self) -> u32 {
        self.prefill_workers + self.decode_workers
    }

    /// Refuses pools between which no KV can move.
    ///
    /// # Errors
    /// Names the first key, relative to `[cluster]`.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (key, config) in [("prefill", &self.prefill), ("decode", &self.decode)] {
            let (rules, able) =
                (config.rules.name(), |name: RulesName| name.defaults().hands_over_kv);
            Invalid::unless(
                able(rules),
                &format!("{key}.engine.rules"),
                format!("{:?}", rules.as_str()),
                &format!(
                    "{}: hand-over between pools is modelled by its rules only",
                    RulesName::list(able)
                ),
            )?;
        }
        let (prefill, decode) = (&self.prefill, &self.decode);
        Invalid::unless(
            prefill.block_size == decode.block_size,
            "decode.engine.block_size",
            decode.block_size,
            &format!("that of the prefill workers, {}: blocks move whole", prefill.block_size),
        )?;
        let gbit_per_s = self.link.gbit_per_s;
        let allowed = "above 0, or inf";
        Invalid::unless(gbit_per_s > 0.0, "network.gbit_per_s", gbit_per_s, allowed)?;
        let needed = |pool: &str, config: &EngineConfig| {
            let allowed = "given, there or in [engine], as there is no model file with GPUs";
            let key = format!("{pool}.engine.kv_bytes_per_token");
            config.kv_bytes_per_token.ok_or_else(|| Invalid::new(key, "nothing", allowed))
        };
        let (from, to) = (needed("prefill", prefill)?, needed("decode", decode)?);
        Invalid::unless(
            from.to_bits() == to.to_bits(),
            "decode.engine.kv_bytes_per_token",
            to,
            &format!("that of the prefill workers, {from}: KV moves as it is"),
        )
    }
}

/// What is between the pools of a fleet.
#[derive(Debug)]
pub(super) struct Handovers {
    prefill_workers: u32,
    kv_bytes_per_token: f64,
    /// The worker that keeps the KV of each request that has been prefilled.
    kept: BTreeMap<RequestId, WorkerId>,
    network: Network,
}

impl Handovers {
    pub(super) fn new(pools: &Pools) -> Self {
        Self {
            prefill_workers: pools.prefill_workers,
            kv_bytes_per_token: pools.prefill.kv_bytes_per_token.expect("validated pools"),
            kept: BTreeMap::new(),
            network: Network::new(pools.workers(), pools.link),
        }
    }

    /// What `worker` does of a request that is sent there.
    pub(super) fn phase(&self, worker: WorkerId, request: RequestId) -> Phase {
        if worker.0 < self.prefill_workers {
            Phase::Prefill
        } else if self.kept.contains_key(&request) {
            Phase::Decode
        } else {
            Phase::Whole
        }
    }

    /// `worker` has prefilled `request` and keeps its KV.
    pub(super) fn keep(&mut self, request: RequestId, worker: WorkerId) {
        self.kept.insert(request, worker);
    }

    /// Nobody will fetch the KV of `request`: the worker that keeps it.
    pub(super) fn give_up(&mut self, request: RequestId) -> Option<WorkerId> {
        self.kept.remove(&request)
    }

    /// `worker` has room for the KV of `request` and asks for `tokens` of it.
    pub(super) fn fetch(
        &mut self,
        now: SimTime,
        request: RequestId,
        worker: WorkerId,
        tokens: u32,
    ) {
        let from = self.kept.remove(&request).expect("KV that is fetched is kept");
        let bytes = f64::from(tokens) * self.kv_bytes_per_token;
        self.network.start(now, Transfer { request, from, to: worker }, bytes);
    }

    /// When [`next`](Self::next) will have something to do.
    pub(super) fn due(&self) -> Option<SimTime> {
        self.network.due()
    }

    /// The next transfer that is over at `now`; to be asked until `None`.
    pub(super) fn next(&mut self, now: SimTime) -> Option<Arrived> {
        self.network.next(now)
    }
}
