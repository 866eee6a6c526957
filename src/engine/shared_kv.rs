//! Decode attention that reads KV of several sequences of a batch once for some of them.
//!
//! Requests that begin with the same text hold the same blocks. The kernel reads them for
//! each sequence again; but what it has read lately is in the GPU's L2 cache, whose rate is
//! higher than the memory's. So a repeated read is nearly free where two sequences that
//! share a block are worked on at the same time, as far as L2 keeps up:
//!
//! ```text
//! saved   = found * min(repeats, context * (1 - 1 / l2_speed))
//! repeats = sum over the blocks of the batch of tokens * (m - waves * (1 - P(none)))
//! ```
//!
//! A block that `m` of `n` sequences hold is read `m` times. The kernel works on `w` of them
//! at a time, in random order, so in `n / w` waves; `P(none)` is the chance that none of the
//! `m` is in a wave: C(n - m, w) / C(n, w). A batch of `w` or fewer is one wave.
//!
//! Off unless asked for: no publication that is compared here determines it.
//! `benches/gpu/shared_kv.py` measures it on a GPU.

use super::seq::Seq;
use crate::id::BlockId;
use crate::request::BlockRun;
use crate::settings::{Count, Invalid, count};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a GPU and its attention kernel make of KV that sequences of a batch share.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedKv {
    /// Sequences that the kernel works on at the same time: multiprocessors over the KV heads
    /// of a GPU (132 / 4 = 33 on an H100 with four).
    #[serde(deserialize_with = "count")]
    #[schemars(with = "Count")]
    pub sequences_at_once: u32,
    /// The rate of the L2 cache over that of the memory, above 1: 1.75 on an H100 (assumed
    /// 5.5 TB/s; memory: 3.35 TB/s x the fitted 0.9375 = 3.14), 1.2 on an H200.
    pub l2_speed: f64,
    /// The share of repeated reads that L2 still has, 0 to 1.
    pub found: f64,
}

impl SharedKv {
    /// Refuses what no GPU is like.
    ///
    /// # Errors
    /// The first unusable key.
    pub fn validate(&self) -> Result<(), Invalid> {
        let Self { sequences_at_once, l2_speed, found } = *self;
        let allowed = "at least 1";
        Invalid::unless(sequences_at_once > 0, "sequences_at_once", sequences_at_once, allowed)?;
        let is_faster = l2_speed > 1.0 && l2_speed.is_finite();
        Invalid::unless(is_faster, "l2_speed", l2_speed, "above 1 and finite")?;
        Invalid::unless((0.0..=1.0).contains(&found), "found", found, "from 0 to 1")
    }

    /// Reads saved per token of a block that `holders` of `seqs` sequences hold.
    fn saved_reads(&self, holders: u32, seqs: u32) -> f64 {
        let (m, n) = (f64::from(holders), f64::from(seqs));
        if seqs <= self.sequences_at_once {
            return m - 1.0;
        }
        let at_once = self.sequences_at_once;
        let none: f64 =
            (0..at_once).map(|i| (n - m - f64::from(i)).max(0.0) / (n - f64::from(i))).product();
        m - n / f64::from(at_once) * (1.0 - none)
    }
}

/// The blocks that the decoding sequences of a rank hold, by how many hold them.
#[derive(Debug)]
pub(super) struct SharedReads {
    settings: SharedKv,
    block_size: u32,
    /// Runs of blocks with as many holders, by the first block: length and holders.
    held: BTreeMap<BlockId, (u32, u32)>,
    /// Blocks by holders.
    blocks: BTreeMap<u32, u64>,
}

impl SharedReads {
    pub(super) fn new(settings: SharedKv, block_size: u32) -> Self {
        Self { settings, block_size, held: BTreeMap::new(), blocks: BTreeMap::new() }
    }

    /// A sequence joins the batch.
    pub(super) fn join(&mut self, seq: &Seq) {
        self.hold(seq, |holders| holders + 1);
    }

    /// A sequence leaves it.
    pub(super) fn leave(&mut self, seq: &Seq) {
        self.hold(seq, |holders| holders - 1);
    }

    /// Tokens of `context`, of `seqs` sequences, whose reads cost nothing.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below context")]
    pub(super) fn saved_tokens(&self, seqs: u32, context: u64) -> u64 {
        let SharedKv { l2_speed, found, .. } = self.settings;
        let of = |(&holders, &blocks): (&u32, &u64)| {
            blocks as f64 * self.settings.saved_reads(holders, seqs)
        };
        let repeats = self.blocks.iter().map(of).sum::<f64>() * f64::from(self.block_size);
        let most = context as f64 * (1.0 - 1.0 / l2_speed);
        (found * repeats.min(most)) as u64
    }

    /// What comes after the shared part belongs to no other sequence.
    fn hold(&mut self, seq: &Seq, change: impl Fn(u32) -> u32) {
        for run in seq.content.runs(seq.content.shared_blocks()) {
            self.split(run.first);
            self.split(run.first.offset(run.len));
            self.change(run, &change);
        }
    }

    /// Lets a run of blocks begin with `block`, if one goes over it.
    fn split(&mut self, block: BlockId) {
        let Some((&first, &(len, holders))) = self.held.range(..block).next_back() else { return };
        let before = block.0 - first.0;
        if before < u64::from(len) {
            let before = u32::try_from(before).expect("less than a length");
            self.held.insert(first, (before, holders));
            self.held.insert(block, (len - before, holders));
        }
    }

    /// Changes the holders of the blocks of `run`, at whose ends runs begin and end.
    fn change(&mut self, run: BlockRun, change: impl Fn(u32) -> u32) {
        let mut at = 0;
        while at < run.len {
            let block = run.first.offset(at);
            let known = self.held.get(&block).copied();
            let (len, before) = known.unwrap_or_else(|| {
                let next = self.held.range(block..).next().map(|(next, _)| next.0 - block.0);
                let left = run.len - at;
                (next.and_then(|gap| u32::try_from(gap).ok()).map_or(left, |gap| gap.min(left)), 0)
            });
            let after = change(before);
            if after == 0 {
                self.held.remove(&block);
            } else {
                self.held.insert(block, (len, after));
            }
            for (holders, sign) in [(before, false), (after, true)] {
                if holders > 0 {
                    let blocks = self.blocks.entry(holders).or_default();
                    *blocks =
                        if sign { *blocks + u64::from(len) } else { *blocks - u64::from(len) };
                }
            }
            at += len;
        }
        self.blocks.retain(|_, blocks| *blocks > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;
    use crate::request::{Content, Request};
    use proptest::prelude::*;

    const H100: SharedKv = SharedKv { sequences_at_once: 33, l2_speed: 1.75, found: 0.75 };

    /// A sequence that begins with these runs of blocks: first block and number.
    fn seq(runs: &[(u64, u32)]) -> Seq {
        let runs = runs.iter().map(|&(first, len)| BlockRun { first: BlockId(first), len });
        let content = Content::new(runs, BlockId(1 << 63));
        Seq::new(&Request::new(RequestId(0), 1, 1, content))
    }

    proptest! {
        /// Against a count block by block, whatever joins and leaves.
        #[test]
        fn blocks_are_counted_by_holders(
            seqs in prop::collection::vec((0..60_u64, 1..30_u32, 100..130_u64, 0..20_u32), 1..20),
            leaves in prop::collection::vec(any::<bool>(), 20),
        ) {
            let mut reads = SharedReads::new(H100, 16);
            let seqs: Vec<Seq> =
                seqs.iter().map(|&(a, n, b, m)| seq(&[(a, n), (b, m)])).collect();
            let mut holders: BTreeMap<BlockId, u32> = BTreeMap::new();
            for seq in &seqs {
                reads.join(seq);
                for block in seq.content.blocks(seq.content.shared_blocks()) {
                    *holders.entry(block).or_default() += 1;
                }
            }
            for (seq, _) in seqs.iter().zip(leaves).filter(|(_, leaves)| *leaves) {
                reads.leave(seq);
                for block in seq.content.blocks(seq.content.shared_blocks()) {
                    *holders.get_mut(&block).unwrap() -= 1;
                }
            }
            let mut blocks: BTreeMap<u32, u64> = BTreeMap::new();
            for holders in holders.into_values().filter(|holders| *holders > 0) {
                *blocks.entry(holders).or_default() += 1;
            }
            prop_assert_eq!(&reads.blocks, &blocks);
        }

        /// Never more than there is, and nothing where nothing is shared.
        #[test]
        fn what_is_saved_is_bounded(groups in 1..40_u64, seqs in 1..200_u32, own in 0..3_000_u64) {
            let mut reads = SharedReads::new(H100, 16);
            for number in 0..u64::from(seqs) {
                reads.join(&seq(&[(number % groups * 1_000, 375)]));
            }
            let context = u64::from(seqs) * (6_000 + own);
            let saved = reads.saved_tokens(seqs, context);
            let repeats = u64::from(seqs).saturating_sub(groups) * 6_000;
            prop_assert!(saved <= repeats && saved as f64 <= 0.75 * 0.43 * context as f64);
            prop_assert!(u64::from(seqs) > groups || saved == 0);
        }
    }

    /// Every order of six sequences, in waves of two and three: the mean number of reads.
    #[test]
    fn waves_are_drawn() {
        fn orders(left: Vec<u32>) -> Vec<Vec<u32>> {
            if left.is_empty() {
                return vec![Vec::new()];
            }
            let with = |at: usize| {
                let mut rest = left.clone();
                let first = rest.remove(at);
                orders(rest).into_iter().map(move |mut order| {
                    order.push(first);
                    order
                })
            };
            (0..left.len()).flat_map(with).collect()
        }
        let orders = orders((0..6).collect());
        for at_once in [2_u32, 3] {
            for holders in 1..=6 {
                let reads = |order: &Vec<u32>| {
                    let waves = order.chunks(at_once as usize);
                    waves.filter(|wave| wave.iter().any(|seq| *seq < holders)).count()
                };
                let mean = orders.iter().map(reads).sum::<usize>() as f64 / orders.len() as f64;
                let settings = SharedKv { sequences_at_once: at_once, ..H100 };
                let saved = settings.saved_reads(holders, 6);
                assert!((f64::from(holders) - mean - saved).abs() < 1e-9, "{at_once} {holders}");
            }
        }
        // As many as run at once: one wave either way.
        assert_eq!(H100.saved_reads(7, 33), 6.0);
    }

    /// What a simulation of 132 blocks of threads, LRU and 25 MB of L2 gave for 19 groups of
    /// 6,000 tokens and 1,200 to 2,200 of each sequence: 24, 31, 32 and 30 % less.
    #[test]
    fn an_h100_saves_what_a_simulation_of_its_cache_does() {
        for (seqs, simulated) in [(41, 24.0), (62, 31.0), (94, 32.0), (188, 30.0)] {
            let mut reads = SharedReads::new(H100, 16);
            (0..u64::from(seqs)).for_each(|n| reads.join(&seq(&[(n % 19 * 1_000, 375)])));
            let context = u64::from(seqs) * 7_700;
            let percent = reads.saved_tokens(seqs, context) as f64 / context as f64 * 100.0;
            assert!((percent - simulated).abs() < 4.0, "{seqs}: {percent}");
        }
    }

    #[test]
    fn unusable_settings_are_named() {
        for (settings, key) in [
            (SharedKv { sequences_at_once: 0, ..H100 }, "sequences_at_once"),
            (SharedKv { l2_speed: 1.0, ..H100 }, "l2_speed"),
            (SharedKv { l2_speed: f64::INFINITY, ..H100 }, "l2_speed"),
            (SharedKv { found: 1.1, ..H100 }, "found"),
            (SharedKv { found: f64::NAN, ..H100 }, "found"),
        ] {
            assert_eq!(settings.validate().unwrap_err().key, key);
        }
    }
}
