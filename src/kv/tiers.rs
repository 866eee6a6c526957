//! Tiers of KV memory below the GPU's: host memory, local disk, remote storage.
//!
//! Each tier is a set of blocks in order of their last use, and a link between
//! it and the GPU. What a tier loses moves to the one below it; the last one
//! forgets. When blocks enter the first tier is up to the engine:
//!
//! * [`Offload::Evicted`]: when GPU memory loses its last copy, and a block that
//!   is loaded back leaves its tier. So a block is in one place. TensorRT-LLM
//!   does so (`getFreeBlock` and `onboardBlock` of `kvCacheManager.cpp`: the two
//!   blocks change places).
//! * [`Offload::Computed`]: as soon as they are computed, and what is loaded
//!   stays. vLLM does so (`OffloadingConnector`, `CPUOffloadingManager`), and
//!   Dynamo's block manager and `LMCache` too.
//!
//! # Links
//!
//! A tier has one link, which carries both directions at full bandwidth (vLLM's
//! measurement on an H100: 50 GB/s one way, 83 both ways together). Transfers of
//! one direction follow each other in the order in which they were asked for; a
//! load takes the tier's latency on top, which the next one does not wait for.
//! Writes run beside everything and delay nothing but a load of the same blocks:
//! vLLM's copies are asynchronous. (TensorRT-LLM's next step waits for them.)
//! The link of a lower tier goes straight to the GPU (as GPU direct storage
//! does); vLLM stages such loads in host memory.

use super::block_table::BlockTable;
use super::slot::NONE;
use crate::event::{KvEvent, Medium};
use crate::id::BlockId;
use crate::request::{BlockRun, Content};
use crate::time::{SimDuration, SimTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A tier as an engine is configured with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierSpec {
    /// What it is made of.
    pub medium: Medium,
    /// Blocks that it holds; at least 1.
    pub blocks: u32,
    /// Time that its link takes for a block, either way.
    pub block_time: SimDuration,
    /// Added to every load.
    pub latency: SimDuration,
}

/// When blocks enter the first tier below GPU memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// When GPU memory loses them. What is loaded back leaves its tier.
    #[default]
    Evicted,
    /// When they are computed. What is loaded back stays in its tier.
    Computed,
}

/// The tiers of one worker; see the module documentation.
#[derive(Debug)]
pub struct LowerTiers {
    tiers: Vec<Tier>,
    offload: Offload,
    now: SimTime,
    /// Changes since the last [`take_events`](Self::take_events).
    events: Vec<KvEvent>,
}

#[derive(Debug)]
struct Tier {
    medium: Medium,
    held: Recent,
    capacity: u32,
    block_time: SimDuration,
    latency: SimDuration,
    /// When the transfers asked for so far are over, towards the GPU and from it.
    read_until: SimTime,
    written_until: SimTime,
}

/// Consecutive blocks of a sequence that one tier holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierRun {
    tier: usize,
    /// Where it begins in the sequence.
    from: u32,
    /// Number of blocks.
    pub blocks: u32,
    /// When the last of them has been written.
    ready: SimTime,
}

impl LowerTiers {
    /// Empty tiers, fast to slow.
    pub fn new(tiers: &[TierSpec], offload: Offload) -> Self {
        let tier = |spec: &TierSpec| Tier {
            medium: spec.medium,
            held: Recent::default(),
            capacity: spec.blocks,
            block_time: spec.block_time,
            latency: spec.latency,
            read_until: SimTime::ZERO,
            written_until: SimTime::ZERO,
        };
        Self {
            tiers: tiers.iter().map(tier).collect(),
            offload,
            now: SimTime::ZERO,
            events: Vec::new(),
        }
    }

    /// All that follows happens at `now`.
    pub fn set_time(&mut self, now: SimTime) {
        self.now = now;
    }

    /// What each tier is, how many blocks it holds and how many it could.
    pub fn usage(&self) -> impl Iterator<Item = (Medium, u32, u32)> + '_ {
        self.tiers.iter().map(|tier| (tier.medium, tier.held.len(), tier.capacity))
    }

    /// The blocks of a sequence from `from` on, up to `limit` or to the first that
    /// no tier holds, in order.
    pub fn find(&self, content: &Content, from: u32, limit: u32) -> Vec<TierRun> {
        let mut found: Vec<TierRun> = Vec::new();
        let ids = content.range(from, limit).flat_map(ids);
        for (at, id) in (from..).zip(ids) {
            let holder = self.tiers.iter().map(|tier| tier.held.ready(id));
            let Some((tier, ready)) = holder.enumerate().find_map(|(i, r)| Some((i, r?))) else {
                break;
            };
            match found.last_mut() {
                Some(last) if last.tier == tier => {
                    last.blocks += 1;
                    last.ready = last.ready.max(ready);
                }
                _ => found.push(TierRun { tier, from: at, blocks: 1, ready }),
            }
        }
        found
    }

    /// When a load of `pieces` that is asked for now would be done.
    pub fn done(&self, pieces: &[TierRun]) -> SimTime {
        let tiers = self.tiers.iter().enumerate();
        tiers
            .filter_map(|(at, tier)| tier.load(at, pieces, self.now))
            .map(|load| load.1)
            .fold(self.now, SimTime::max)
    }

    /// Loads `pieces`, which were just found for `content`: gives the time when
    /// that is done.
    pub fn load(&mut self, content: &Content, pieces: &[TierRun]) -> SimTime {
        let done = self.done(pieces);
        for (at, tier) in self.tiers.iter_mut().enumerate() {
            if let Some((free, _)) = tier.load(at, pieces, self.now) {
                tier.read_until = free;
            }
        }
        for piece in pieces.iter().rev() {
            for run in content.range(piece.from, piece.from + piece.blocks) {
                for id in ids(run).rev() {
                    let tier = &mut self.tiers[piece.tier];
                    if self.offload == Offload::Computed {
                        tier.held.touch(id);
                    } else {
                        tier.held.remove(id);
                        let medium = tier.medium;
                        self.note(medium, id, false);
                    }
                }
            }
        }
        done
    }

    /// Tokens that `pieces` hold in each medium.
    pub fn tokens(&self, pieces: &[TierRun], block_size: u32) -> [u32; Medium::ALL.len()] {
        let mut tokens = [0; Medium::ALL.len()];
        for piece in pieces {
            tokens[self.tiers[piece.tier].medium as usize] += piece.blocks * block_size;
        }
        tokens
    }

    /// A request came whose sequence begins with these blocks: where copies stay
    /// in the tiers, they are used as those in GPU memory are.
    pub fn touch(&mut self, content: &Content, blocks: u32) {
        if self.offload == Offload::Evicted {
            return;
        }
        for index in (0..blocks).rev() {
            let id = content.block(index);
            self.tiers.iter_mut().for_each(|tier| _ = tier.held.touch(id));
        }
    }

    /// GPU memory holds `run` from now on.
    pub(super) fn stored(&mut self, run: BlockRun) {
        if self.offload == Offload::Computed {
            for id in ids(run) {
                if !self.tiers.iter().any(|tier| tier.held.ready(id).is_some()) {
                    self.write(0, id);
                }
            }
        }
    }

    /// GPU memory lost its last copy of `run`, the last block first.
    pub(super) fn lost(&mut self, run: BlockRun) {
        if self.offload == Offload::Evicted {
            ids(run).rev().for_each(|id| self.write(0, id));
        }
    }

    /// Changes of the tiers since the last call, in order.
    pub(super) fn take_events(&mut self) -> std::vec::Drain<'_, KvEvent> {
        self.events.drain(..)
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Puts a block into tier `at`, and what it displaces into the one below.
    fn write(&mut self, at: usize, id: BlockId) {
        let Some(tier) = self.tiers.get_mut(at) else { return };
        if tier.held.touch(id) {
            return;
        }
        let displaced = if tier.held.len() < tier.capacity { None } else { tier.held.pop_oldest() };
        tier.written_until = tier.written_until.max(self.now) + tier.block_time;
        tier.held.insert(id, tier.written_until);
        let medium = tier.medium;
        if let Some(displaced) = displaced {
            self.note(medium, displaced, false);
            self.write(at + 1, displaced);
        }
        self.note(medium, id, true);
    }

    /// Notes a change; neighbours become one event.
    fn note(&mut self, medium: Medium, id: BlockId, stored: bool) {
        let run = BlockRun { first: id, len: 1 };
        if let Some(last) = self.events.last_mut()
            && let (KvEvent::StoredBelow { medium: of, run }, true)
            | (KvEvent::RemovedBelow { medium: of, run }, false) = (last, stored)
            && *of == medium
        {
            if run.first.offset(run.len) == id {
                run.len += 1;
                return;
            }
            if id.offset(1) == run.first {
                *run = BlockRun { first: id, len: run.len + 1 };
                return;
            }
        }
        self.events.push(if stored {
            KvEvent::StoredBelow { medium, run }
        } else {
            KvEvent::RemovedBelow { medium, run }
        });
    }
}

impl Tier {
    /// When its link would be free again after what it, the tier `at`, has of
    /// `pieces`, and when that would be there; `None` if it has nothing of them.
    fn load(&self, at: usize, pieces: &[TierRun], now: SimTime) -> Option<(SimTime, SimTime)> {
        let own = || pieces.iter().filter(|piece| piece.tier == at);
        let blocks: u32 = own().map(|piece| piece.blocks).sum();
        let ready = own().map(|piece| piece.ready).max()?;
        let free = self.read_until.max(now).max(ready) + self.block_time * u64::from(blocks);
        Some((free, free + self.latency))
    }
}

fn ids(run: BlockRun) -> impl DoubleEndedIterator<Item = BlockId> {
    (0..run.len).map(move |at| run.first.offset(at))
}

/// Blocks in order of their last use. All operations are O(1).
#[derive(Debug, Default)]
struct Recent {
    places: BlockTable,
    entries: Vec<Entry>,
    vacant: Vec<u32>,
    ends: Option<(u32, u32)>,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: BlockId,
    /// When it has been written.
    ready: SimTime,
    older: u32,
    newer: u32,
}

impl Recent {
    fn len(&self) -> u32 {
        self.len
    }

    /// When `id` has been written, if it is here.
    fn ready(&self, id: BlockId) -> Option<SimTime> {
        self.places.get(id).map(|at| self.entries[at as usize].ready)
    }

    /// Adds a block that is not here, as the one used last.
    fn insert(&mut self, id: BlockId, ready: SimTime) {
        let entry = Entry { id, ready, older: NONE, newer: NONE };
        let at = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).expect("a tier has fewer than 2^32 blocks")
        });
        self.entries[at as usize] = entry;
        self.places.insert(id, at).expect("the block is not here");
        self.link(at);
        self.len += 1;
    }

    /// Makes `id` the block used last; false if it is not here.
    fn touch(&mut self, id: BlockId) -> bool {
        let Some(at) = self.places.get(id) else { return false };
        self.unlink(at);
        self.link(at);
        true
    }

    /// Takes out a block that is here.
    fn remove(&mut self, id: BlockId) {
        let at = self.places.get(id).expect("the block is here");
        self.unlink(at);
        self.places.remove(id);
        self.vacant.push(at);
        self.len -= 1;
    }

    /// Takes out the block whose last use is longest ago.
    fn pop_oldest(&mut self) -> Option<BlockId> {
        let (oldest, _) = self.ends?;
        let id = self.entries[oldest as usize].id;
        self.remove(id);
        Some(id)
    }

    fn link(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        entry.newer = NONE;
        self.ends = Some(match self.ends {
            None => {
                entry.older = NONE;
                (at, at)
            }
            Some((oldest, newest)) => {
                entry.older = newest;
                self.entries[newest as usize].newer = at;
                (oldest, at)
            }
        });
    }

    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = self.entries[at as usize];
        let (mut oldest, mut newest) = self.ends.expect("it is linked");
        match older {
            NONE => oldest = newer,
            older => self.entries[older as usize].newer = newer,
        }
        match newer {
            NONE => newest = older,
            newer => self.entries[newer as usize].older = older,
        }
        self.ends = (oldest != NONE).then_some((oldest, newest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(medium: Medium, blocks: u32, block_us: u64) -> TierSpec {
        TierSpec {
            medium,
            blocks,
            block_time: SimDuration::from_micros(block_us),
            latency: SimDuration::from_micros(5),
        }
    }

    fn run(first: u64, len: u32) -> BlockRun {
        BlockRun { first: BlockId(first), len }
    }

    fn text(first: u64) -> Content {
        Content::new([], BlockId(first))
    }

    fn at(us: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_micros(us)
    }

    /// Loads of one tier queue for its link, those of two tiers run side by side,
    /// and a load waits for the write of its blocks.
    #[test]
    fn links_are_first_come_first_served_each_way() {
        let specs = [spec(Medium::Host, 8, 10), spec(Medium::Disk, 8, 100)];
        let mut tiers = LowerTiers::new(&specs, Offload::Evicted);
        // The last four go down to the disk first, in order of their loss.
        tiers.lost(run(100, 4));
        tiers.lost(run(200, 8));
        tiers.set_time(at(10_000));
        let held: Vec<_> = tiers.usage().collect();
        assert_eq!(held, [(Medium::Host, 8, 8), (Medium::Disk, 4, 8)]);
        let (disk, host) = (tiers.find(&text(100), 0, 9), tiers.find(&text(200), 2, 5));
        assert_eq!(tiers.tokens(&disk, 16), [0, 64, 0]);
        assert_eq!(tiers.tokens(&host, 16), [48, 0, 0]);
        assert_eq!(tiers.load(&text(200), &host), at(10_000 + 3 * 10 + 5));
        assert_eq!(tiers.load(&text(100), &disk), at(10_000 + 4 * 100 + 5));
        // The link is free 5 us before the load is there.
        let rest = tiers.find(&text(200), 5, 8);
        assert_eq!(tiers.load(&text(200), &rest), at(10_000 + 6 * 10 + 5));
        // What was loaded is gone, what comes back is written before it is read.
        assert!(tiers.find(&text(200), 2, 8).is_empty());
        tiers.lost(run(202, 6));
        let again = tiers.find(&text(200), 2, 8);
        assert_eq!(tiers.load(&text(200), &again), at(10_000 + 6 * 10 + 6 * 10 + 5));
    }

    #[test]
    fn neighbours_become_one_event() {
        let mut tiers = LowerTiers::new(&[spec(Medium::Host, 4, 0)], Offload::Evicted);
        tiers.lost(run(10, 4));
        let (medium, host) = (Medium::Host, |first, len| run(first, len));
        let noted: Vec<_> = tiers.take_events().collect();
        assert_eq!(noted, [KvEvent::StoredBelow { medium, run: host(10, 4) }]);
        let pieces = tiers.find(&text(10), 1, 3);
        tiers.load(&text(10), &pieces);
        let noted: Vec<_> = tiers.take_events().collect();
        assert_eq!(noted, [KvEvent::RemovedBelow { medium, run: host(11, 2) }]);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Lost(u64, u32),
        Stored(u64, u32),
        Load(u64, u32),
        Touch(u64, u32),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        let run = || (0u64..30, 1u32..6);
        prop_oneof![
            run().prop_map(|(first, len)| Act::Lost(first, len)),
            run().prop_map(|(first, len)| Act::Stored(first, len)),
            run().prop_map(|(first, len)| Act::Load(first, len)),
            run().prop_map(|(first, len)| Act::Touch(first, len)),
        ]
    }

    /// Lists of block ids, the oldest first.
    struct Naive {
        tiers: Vec<(usize, Vec<u64>)>,
        offload: Offload,
    }

    impl Naive {
        fn write(&mut self, at: usize, id: u64) {
            let Some((capacity, held)) = self.tiers.get_mut(at) else { return };
            if let Some(place) = held.iter().position(|&other| other == id) {
                held.remove(place);
                held.push(id);
                return;
            }
            let displaced = (held.len() == *capacity).then(|| held.remove(0));
            held.push(id);
            displaced.into_iter().for_each(|displaced| self.write(at + 1, displaced));
        }

        fn touch(&mut self, id: u64) {
            for (_, held) in &mut self.tiers {
                if let Some(place) = held.iter().position(|&other| other == id) {
                    held.remove(place);
                    held.push(id);
                }
            }
        }

        fn play(&mut self, act: &Act) {
            let evicted = self.offload == Offload::Evicted;
            match *act {
                Act::Lost(first, len) if evicted => {
                    (0..u64::from(len)).rev().for_each(|i| self.write(0, first + i));
                }
                Act::Stored(first, len) if !evicted => {
                    for id in first..first + u64::from(len) {
                        if !self.tiers.iter().any(|(_, held)| held.contains(&id)) {
                            self.write(0, id);
                        }
                    }
                }
                Act::Touch(first, len) if !evicted => {
                    (0..u64::from(len)).rev().for_each(|i| self.touch(first + i));
                }
                Act::Load(first, len) => {
                    let held = |id| self.tiers.iter().position(|(_, held)| held.contains(&id));
                    let ids = (first..first + u64::from(len)).map_while(|id| Some((id, held(id)?)));
                    for (id, at) in ids.collect::<Vec<_>>().into_iter().rev() {
                        let held = &mut self.tiers[at].1;
                        held.retain(|&other| other != id);
                        if !evicted {
                            held.push(id);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against lists, with the events applied to sets; no tier holds more
        /// than it has room for (law 2).
        #[test]
        fn tiers_are_lists_in_order_of_use(
            acts in prop::collection::vec(any_act(), 0..60),
            host in 1u32..8, disk in 1u32..8, computed: bool,
        ) {
            let offload = if computed { Offload::Computed } else { Offload::Evicted };
            let specs = [spec(Medium::Host, host, 1), spec(Medium::Disk, disk, 3)];
            let mut tiers = LowerTiers::new(&specs, offload);
            let sizes = [host as usize, disk as usize];
            let mut naive =
                Naive { tiers: sizes.map(|size| (size, Vec::new())).to_vec(), offload };
            let mut noted = [std::collections::BTreeSet::new(), Default::default()];
            for act in &acts {
                match *act {
                    Act::Lost(first, len) => tiers.lost(run(first, len)),
                    Act::Stored(first, len) => tiers.stored(run(first, len)),
                    Act::Touch(first, len) => tiers.touch(&text(first), len),
                    Act::Load(first, len) => {
                        let pieces = tiers.find(&text(first), 0, len);
                        let done = tiers.done(&pieces);
                        prop_assert_eq!(tiers.load(&text(first), &pieces), done);
                    }
                }
                naive.play(act);
                for event in tiers.take_events() {
                    match event {
                        KvEvent::StoredBelow { medium, run } => {
                            ids(run).for_each(|id| _ = noted[medium as usize].insert(id.0));
                        }
                        KvEvent::RemovedBelow { medium, run } => {
                            ids(run).for_each(|id| _ = noted[medium as usize].remove(&id.0));
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                for ((tier, (_, list)), noted) in tiers.tiers.iter().zip(&naive.tiers).zip(&noted) {
                    prop_assert!(tier.held.len() <= tier.capacity);
                    let mut order = Vec::new();
                    let mut next = tier.held.ends.map_or(NONE, |(oldest, _)| oldest);
                    while next != NONE {
                        let entry = tier.held.entries[next as usize];
                        order.push(entry.id.0);
                        next = entry.newer;
                    }
                    prop_assert_eq!(&order, list);
                    prop_assert_eq!(tier.held.len() as usize, list.len());
                    let mut sorted = order;
                    sorted.sort_unstable();
                    prop_assert_eq!(sorted, noted.iter().copied().collect::<Vec<_>>());
                }
            }
        }
    }
}
