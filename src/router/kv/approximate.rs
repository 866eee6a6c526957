//! What workers hold, guessed from what was sent to them: the index of a router
//! that gets no KV events.
//!
//! A prompt that is sent to a worker counts as held there at once, all of it,
//! for a fixed time; sending it again restarts the time. In 0.9 the oldest
//! blocks go early when there are too many. In 1.6 times are rounded up to
//! 100 ms, as its timers are. Sources: `kv_router/approx.rs` and the loop of
//! `KvIndexer` in Dynamo 0.9.0; `indexer/pruning.rs` of dynamo-kv-router 1.6.1.
//!
//! Whatever refreshes a block refreshes all before it. So of a prompt sent
//! earlier it is always a rest, its end, whose time has come.

use super::index::Index;
use super::params::{Retention, Semantics};
use super::path::Path;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::rng::mix;
use crate::time::{SimDuration, SimTime};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::collections::VecDeque;

/// 1.6: expiry times are multiples of this.
const BUCKET: SimDuration = SimDuration::from_millis(100);

/// See the module.
#[derive(Debug)]
pub(super) struct Approximate {
    semantics: Semantics,
    retention: Retention,
    /// When each block of each worker goes.
    timers: HashTable<Timer>,
    /// In order of expiry.
    sent: VecDeque<Sent>,
}

#[derive(Debug)]
struct Timer {
    worker: WorkerId,
    block: BlockId,
    expires: SimTime,
}

#[derive(Debug)]
struct Sent {
    expires: SimTime,
    worker: WorkerId,
    prompt: Path,
}

impl Approximate {
    pub(super) fn new(semantics: Semantics, retention: Retention) -> Self {
        Self { semantics, retention, timers: HashTable::new(), sent: VecDeque::new() }
    }

    /// `prompt` is sent to `worker`: enters it into `index`.
    pub(super) fn sent(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        prompt: &Path,
        index: &mut Index,
    ) {
        let expires = self.expiry(now);
        let mut parent = None;
        for &run in prompt.runs() {
            index.apply(worker, &KvEvent::Stored { parent, run });
            parent = Some(run.first.offset(run.len - 1));
        }
        for block in prompt.blocks() {
            self.set(Timer { worker, block, expires });
        }
        self.sent.push_back(Sent { expires, worker, prompt: prompt.clone() });
        self.prune(index);
    }

    /// Forgets what was sent to `worker`; the index has to, too.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        self.timers.retain(|timer| timer.worker != worker);
        self.sent.retain(|sent| sent.worker != worker);
    }

    /// Takes out of `index` what has expired.
    pub(super) fn expire(&mut self, now: SimTime, index: &mut Index) {
        while self.sent.front().is_some_and(|sent| sent.expires <= now) {
            self.forget_oldest(usize::MAX, index);
        }
    }

    fn expiry(&self, now: SimTime) -> SimTime {
        match self.semantics {
            Semantics::V0_9 => now + self.retention.ttl,
            Semantics::V1_6 => {
                // Its clock counts whole nanoseconds.
                let now = SimTime::from_ps(now.as_ps() / 1_000 * 1_000);
                let buckets = (now + self.retention.ttl).as_ps().div_ceil(BUCKET.as_ps());
                SimTime::from_ps(buckets.saturating_mul(BUCKET.as_ps()))
            }
        }
    }

    /// 0.9: forgets the oldest blocks if there are too many.
    fn prune(&mut self, index: &mut Index) {
        let most = self.retention.max_blocks as usize;
        if self.semantics != Semantics::V0_9 || self.timers.len() <= most {
            return;
        }
        let target = share(self.retention.max_blocks, self.retention.prune_target_ratio);
        while self.timers.len() > target {
            self.forget_oldest(self.timers.len() - target, index);
        }
    }

    /// Forgets up to `most` blocks of the prompt sent longest ago, its end first.
    fn forget_oldest(&mut self, most: usize, index: &mut Index) {
        let Some(mut sent) = self.sent.pop_front() else { return };
        let mut keep = sent.prompt.len();
        let mut forgotten = 0;
        for block in sent.prompt.blocks().rev() {
            if forgotten == most {
                break;
            }
            match self.take(sent.worker, block, sent.expires) {
                // Refreshed, and all before it with it.
                Some(false) => break,
                Some(true) => forgotten += 1,
                None => {}
            }
            keep -= 1;
        }
        let lost = sent.prompt.split_off(keep);
        for &run in lost.runs().iter().rev() {
            index.apply(sent.worker, &KvEvent::Removed { run });
        }
        if forgotten == most && keep > 0 {
            self.sent.push_front(sent);
        }
    }

    fn set(&mut self, timer: Timer) {
        let (worker, block) = (timer.worker, timer.block);
        match self.timers.entry(hash(worker, block), of(worker, block), Timer::hash) {
            Entry::Occupied(mut known) => *known.get_mut() = timer,
            Entry::Vacant(place) => _ = place.insert(timer),
        }
    }

    /// Takes the timer of `block` on `worker` out if it ends at `expires`; says
    /// whether it does, or that there is none.
    fn take(&mut self, worker: WorkerId, block: BlockId, expires: SimTime) -> Option<bool> {
        let timer = self.timers.find_entry(hash(worker, block), of(worker, block)).ok()?;
        let ends = timer.get().expires == expires;
        if ends {
            timer.remove();
        }
        Some(ends)
    }
}

impl Timer {
    fn hash(&self) -> u64 {
        hash(self.worker, self.block)
    }
}

fn hash(worker: WorkerId, block: BlockId) -> u64 {
    mix(block.0 ^ u64::from(worker.0).rotate_left(40))
}

fn of(worker: WorkerId, block: BlockId) -> impl Fn(&Timer) -> bool {
    move |timer| timer.worker == worker && timer.block == block
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^32")]
fn share(of: u32, ratio: f64) -> usize {
    (f64::from(of) * ratio) as usize
}
