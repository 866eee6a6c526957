//! What a trace is made of.

use super::Trace;
use crate::rng::mix;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
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
    /// From the first timestamp to the last, in seconds.
    pub duration_s: f64,
    /// Requests over duration; `None` if all arrive at once.
    pub requests_per_s: Option<f64>,
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
        let duration_ms = rows[rows.len() - 1].timestamp_ms - rows[0].timestamp_ms;
        let duration_s = duration_ms as f64 / 1_000.0;
        let count = rows.len() as u64;
        let mut references = 0;
        let mut repeats = 0;
        let mut ratios = 0.0;
        let mut blocks = Blocks::default();
        for row in 0..rows.len() {
            let runs = trace.runs(row);
            let ids = runs.iter().flat_map(|run| (0..run.len).map(|i| run.first.offset(i).0));
            // The ids form a prefix tree: the known ones lead.
            let known = ids.filter(|&id| blocks.add(id)).count() as u64;
            let all = runs.iter().map(|run| u64::from(run.len)).sum::<u64>();
            references += all;
            repeats += known;
            ratios += known as f64 / all as f64;
        }
        Self {
            rows: count,
            duration_s,
            requests_per_s: (duration_ms > 0).then(|| count as f64 / duration_s),
            input_tokens: Lengths::of(rows.iter().map(|row| row.input_tokens)),
            output_tokens: Lengths::of(rows.iter().map(|row| row.output_tokens)),
            block_tokens: trace.block_tokens(),
            unique_blocks: blocks.seen.len() as u64,
            shared_blocks: blocks.shared,
            references_blocks: references,
            repeats_blocks: repeats,
            hit_ratio: repeats as f64 / references as f64,
            hit_ratio_request_mean: ratios / count as f64,
        }
    }
}

/// Every id seen, and whether more than once.
#[derive(Default)]
struct Blocks {
    seen: HashTable<(u64, bool)>,
    shared: u64,
}

impl Blocks {
    /// True if `id` was there before.
    fn add(&mut self, id: u64) -> bool {
        match self.seen.entry(mix(id), |seen| seen.0 == id, |seen| mix(seen.0)) {
            Entry::Vacant(entry) => {
                entry.insert((id, false));
                false
            }
            Entry::Occupied(mut entry) => {
                let more_than_once = &mut entry.get_mut().1;
                self.shared += u64::from(!*more_than_once);
                *more_than_once = true;
                true
            }
        }
    }
}
