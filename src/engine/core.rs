//! What the rules of every engine work on.

use super::config::EngineConfig;
use super::decode_set::DecodeSet;
use super::pace::Pace;
use super::seq::{Seq, SeqId, Seqs};
use super::tiers::TierOptions;
use crate::kv::{EventLog, LowerTiers};
use crate::time::SimTime;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What scheduling rules work on.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Arc<EngineConfig>,
    pub(super) seqs: Seqs,
    pub(super) decode: DecodeSet,
    pub(super) log: EventLog,
    /// The moment at which a step is formed or handled.
    pub(super) now: SimTime,
    /// Sequences that are being loaded from lower tiers, by when that is done.
    pub(super) loads: BTreeSet<(SimTime, SeqId)>,
    pub(super) pace: Pace,
}

impl Core {
    pub(super) fn new(config: Arc<EngineConfig>, wants_kv_events: bool) -> Self {
        Self {
            seqs: Seqs::default(),
            decode: DecodeSet::new(config.block_size, config.shared_kv),
            log: EventLog::new(wants_kv_events).with_tiers(lower_tiers(&config)),
            now: SimTime::ZERO,
            loads: BTreeSet::new(),
            pace: Pace::NORMAL,
            config,
        }
    }

    /// What follows happens at `now`.
    pub(super) fn set_time(&mut self, now: SimTime) {
        self.now = now;
        if let Some(tiers) = self.log.tiers_mut() {
            tiers.set_time(now);
        }
    }

    /// The worker dies, and with it its host's memory and all that is not published; the
    /// next one runs at its normal pace.
    pub(super) fn lose_all(&mut self) {
        self.seqs = Seqs::default();
        self.decode = DecodeSet::new(self.config.block_size, self.config.shared_kv);
        self.log.lose_all(lower_tiers(&self.config));
        self.loads.clear();
        self.pace = Pace::NORMAL;
    }
}

/// What is written down for those who ask later.
impl Core {
    /// A sequence comes to the worker.
    pub(super) fn insert_seq(&mut self, seq: Seq) -> SeqId {
        if let Some(unheard) = self.log.unheard() {
            seq.fills(self.config.block_size).for_each(|run| unheard.came(run));
        }
        self.seqs.insert(seq)
    }

    /// A sequence leaves the worker.
    pub(super) fn remove_seq(&mut self, id: SeqId) -> Seq {
        let seq = self.seqs.remove(id);
        if let Some(unheard) = self.log.unheard() {
            seq.fills(self.config.block_size).for_each(|run| unheard.left(run));
        }
        seq
    }

    /// Publishes the cache changes of all steps so far.
    pub(super) fn publish(&mut self, now: SimTime) {
        self.log.publish(now);
        if let Some(unheard) = self.log.unheard() {
            unheard.steps_published(self.decode.step(), now);
        }
    }
}

fn lower_tiers(config: &EngineConfig) -> Option<LowerTiers> {
    let TierOptions { tiers, offload, .. } = &config.tiers;
    let has_tiers = config.prefix_caching && !tiers.is_empty();
    has_tiers.then(|| LowerTiers::new(tiers, *offload))
}
