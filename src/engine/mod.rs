//! One worker: an engine with its queue, batch, prefix cache, host and GPU.
//!
//! A worker lives from boundary to boundary. At a boundary the host handles the
//! results that are due and forms the next step; what a step does and when is
//! the business of four parts:
//!
//! * the scheduling rules (`vllm`, `trtllm`) decide what runs, and own the
//!   cache;
//! * [`step_time`] says how long it takes on the GPU, `timing` at the worker's pace;
//! * `pipeline` says when the boundaries are;
//! * `decode_set` keeps the decoding sequences without touching them.
//!
//! # Exact fast-forward
//!
//! While a batch only decodes, nothing that the outside can see happens until a
//! sequence ends, a request arrives or memory runs out. So a step that is
//! followed by such steps is planned together with them: the plan's end is a
//! closed form, and an arrival cuts the plan at the boundary that will see it.
//! Boundaries inside a plan are *settled* later, in order, when the plan ends or
//! when somebody looks (a router that wants cache events, a recorder that reads
//! gauges): settling takes the blocks that sequences needed and publishes cache
//! changes at the times at which they happened. With `fast_forward` off every
//! plan is one step long; everything else is the same code.

pub mod config;
mod curves;
mod decode_set;
mod gauges;
mod hardware;
pub mod memory;
pub mod model;
mod outbox;
mod pace;
mod pipeline;
mod plan;
pub mod roofline;
mod seq;
pub mod settings;
pub mod step_time;
pub mod table;
pub mod tiers;
mod timing;
mod trtllm;
mod truth;
mod vllm;
mod worker;

pub use gauges::Gauges;
pub use outbox::{Outbox, StepRecord, Wake};
pub use pace::Pace;
pub use worker::Worker;

use crate::kv::{EventLog, LowerTiers};
use crate::time::SimTime;
use config::EngineConfig;
use config::TierOptions;
use decode_set::DecodeSet;
use seq::{SeqId, Seqs};
use std::collections::BTreeSet;
use std::sync::Arc;
use step_time::PrefillChunk;

/// What scheduling rules work on.
#[derive(Debug)]
struct Core {
    config: Arc<EngineConfig>,
    seqs: Seqs,
    decode: DecodeSet,
    log: EventLog,
    /// The moment at which a step is formed or handled.
    now: SimTime,
    /// Sequences that are being loaded from lower tiers, by when that is done.
    loads: BTreeSet<(SimTime, SeqId)>,
    pace: Pace,
}

impl Core {
    fn new(config: Arc<EngineConfig>, wants_kv_events: bool) -> Self {
        Self {
            seqs: Seqs::default(),
            decode: DecodeSet::new(config.block_size),
            log: EventLog::new(wants_kv_events).with_tiers(lower_tiers(&config)),
            now: SimTime::ZERO,
            loads: BTreeSet::new(),
            pace: Pace::NORMAL,
            config,
        }
    }

    /// The worker dies, and with it its host's memory and all that is not published; the
    /// next one runs at its normal pace.
    fn lose_all(&mut self) {
        self.seqs = Seqs::default();
        self.decode = DecodeSet::new(self.config.block_size);
        self.log.lose_all(lower_tiers(&self.config));
        self.loads.clear();
        self.pace = Pace::NORMAL;
    }
}

fn lower_tiers(config: &EngineConfig) -> Option<LowerTiers> {
    let TierOptions { tiers, offload, .. } = &config.tiers;
    let has_tiers = config.prefix_caching && !tiers.is_empty();
    has_tiers.then(|| LowerTiers::new(tiers, *offload))
}

/// A step as the scheduling rules form it, decodes apart.
#[derive(Debug, Default)]
struct FormedStep {
    /// Prompt chunks, in the order in which they were scheduled.
    chunks: Vec<(SeqId, PrefillChunk)>,
    /// Requests in a batch for the first time, with the tokens they hit.
    admitted: Vec<(SeqId, u32)>,
    /// Sequences that enter a batch with KV that was loaded for them.
    loaded: Vec<SeqId>,
    /// Sequences that lost their blocks while the step was formed.
    preempted: Vec<SeqId>,
    /// Requests that were given blocks for KV from another worker, with the tokens to come.
    awaited: Vec<(SeqId, u32)>,
    /// Requests whose KV came, and that decode their first token. They are among the decodes.
    joined: Vec<SeqId>,
}

impl FormedStep {
    fn clear(&mut self) {
        self.chunks.clear();
        self.admitted.clear();
        self.loaded.clear();
        self.preempted.clear();
        self.awaited.clear();
        self.joined.clear();
    }
}
