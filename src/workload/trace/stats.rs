//! What a trace is made of.

use super::Trace;
use crate::rng::mix;
use hashbrown::HashTable;
use serde::Serialize;

/// Facts of a trace that a replay depends on.
///
/// Hits are those of the *prefix oracle*: one cache that never evicts, to which
/// a request adds its blocks when it arrives, and in which a partial last block
/// counts as a block. An engine hits less: whole engine blocks only, at least
/// one token recomputed, and nothing before it is computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TraceStats {
    /// Requests.
    pub rows: u64,
    /// From the first timestamp to the last, in seconds. Turns that only wait for
    /// the turn before have none.
    pub duration_s: f64,
    /// Requests with a timestamp over duration; `None` if all arrive at once.
    pub requests_per_s: Option<f64>,
    /// Sessions; as many as rows if none of them has a later turn.
    pub sessions: u64,
    /// Prompt lengths.
    pub input_tokens: Lengths,
    /// Output lengths.
    pub output_tokens: Lengths,
    /// Tokens of a block.
    pub block_tokens: u32,
    /// Different blocks.
    pub unique_blocks: u64,
    /// Blocks that are in more than one request.
    pub shared_blocks: u64,
    /// Requests that have such a block, on average.
    pub requests_per_shared_block: Option<f64>,
    /// Requests that have the block that most have.
    pub requests_of_top_block: u64,
    /// Mean number of leading prompt tokens in blocks that another request has
    /// too, at any time; the rest of a prompt is its own.
    pub prefix_tokens_mean: f64,
    /// Sum of the requests' blocks.
    pub references_blocks: u64,
    /// References to a block that an earlier request had: the oracle's hits.
    pub repeats_blocks: u64,
    /// Repeats over references: blocks hit over blocks asked for.
    pub hit_ratio: f64,
    /// Mean over requests of each one's repeats over its references; differs
    /// from `hit_ratio` as short requests weigh as much as long ones.
    pub hit_ratio_request_mean: f64,
}

/// Mean and range of the lengths of all requests, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lengths {
    /// Mean.
    pub mean: f64,
    /// Smallest.
    pub min: u32,
    /// Largest.
    pub max: u32,
}

impl Lengths {
    fn of(values: impl Iterator<Item = u32>) -> Self {
        let (mut count, mut sum, mut min, mut max) = (0u64, 0u64, u32::MAX, 0);
        for value in values {
            count += 1;
            sum += u64::from(value);
            (min, max) = (min.min(value), max.max(value));
        }
        assert!(count > 0, "a trace has requests");
        Self { mean: sum as f64 / count as f64, min, max }
    }
}

impl TraceStats {
    /// The facts of `trace`.
    pub fn of(trace: &Trace) -> Self {
        let rows = trace.rows();
        let last = rows.iter().map(|row| row.at).max().unwrap_or_default();
        let duration_s = (last - rows[0].at).as_secs();
        let count = rows.len() as u64;
        let timed = rows.iter().filter(|row| row.is_first() || !row.at.is_zero()).count();
        let mut references = 0;
        let mut repeats = 0;
        let mut ratios = 0.0;
        let mut blocks = Blocks::default();
        for row in 0..rows.len() {
            // The ids form a prefix tree: the known ones lead.
            let (mut all, mut known) = (0u64, 0u64);
            for block in trace.blocks(row) {
                all += 1;
                known += u64::from(blocks.add(block.0));
            }
            references += all;
            repeats += known;
            ratios += known as f64 / all as f64;
        }
        let prefix_tokens: u64 = (0..rows.len())
            .map(|row| {
                let shared = trace.blocks(row).take_while(|block| blocks.uses(block.0) > 1);
                let tokens = shared.count() as u64 * u64::from(trace.block_tokens());
                tokens.min(u64::from(rows[row].input_tokens))
            })
            .sum();
        let shared = || blocks.uses.iter().map(|entry| entry.1).filter(|&uses| uses > 1);
        let (shared_blocks, of_shared) = (shared().count() as u64, shared().sum::<u64>());
        Self {
            rows: count,
            duration_s,
            requests_per_s: (duration_s > 0.0).then(|| timed as f64 / duration_s),
            sessions: rows.iter().filter(|row| row.turn == 0).count() as u64,
            input_tokens: Lengths::of(rows.iter().map(|row| row.input_tokens)),
            output_tokens: Lengths::of(rows.iter().map(|row| row.output_tokens)),
            block_tokens: trace.block_tokens(),
            unique_blocks: blocks.uses.len() as u64,
            shared_blocks,
            requests_per_shared_block: (shared_blocks > 0)
                .then(|| of_shared as f64 / shared_blocks as f64),
            requests_of_top_block: blocks.top,
            prefix_tokens_mean: prefix_tokens as f64 / count as f64,
            references_blocks: references,
            repeats_blocks: repeats,
            hit_ratio: repeats as f64 / references as f64,
            hit_ratio_request_mean: ratios / count as f64,
        }
    }
}

/// Every id seen, and in how many requests.
#[derive(Default)]
struct Blocks {
    uses: HashTable<(u64, u64)>,
    /// The largest of these numbers.
    top: u64,
}

impl Blocks {
    /// True if `id` was there before.
    fn add(&mut self, id: u64) -> bool {
        let entry = self.uses.entry(mix(id), |entry| entry.0 == id, |entry| mix(entry.0));
        let uses = &mut entry.or_insert((id, 0)).into_mut().1;
        *uses += 1;
        self.top = self.top.max(*uses);
        *uses > 1
    }

    fn uses(&self, id: u64) -> u64 {
        self.uses.find(mix(id), |entry| entry.0 == id).map_or(0, |entry| entry.1)
    }
}
