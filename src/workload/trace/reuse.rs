//! How long ago blocks were used last, in blocks: what a cache of a given size
//! can hit.

use super::Trace;
use crate::rng::mix;
use crate::stats;
use hashbrown::HashTable;
use serde::Serialize;

/// Reuse distances of a trace, as one cache under all of its requests sees them.
///
/// The reuse distance of a block is the number of *different* blocks that were
/// used since it was used last, at the moment when its request comes. A request
/// uses all blocks of its prompt, the last one first: as an engine frees them, so
/// that what is left of a text is always its beginning. A cache of `c` blocks that
/// evicts the least recently used one (LRU) then hits exactly the blocks with a
/// distance below `c`, if requests come one after another, each fits, and answers
/// take no blocks (Mattson, Gecsei, Slutz, Traiger 1970).
///
/// Blocks are those of the trace, a partial last one counts as one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReuseDistances {
    /// Blocks that requests asked for.
    pub references_blocks: u64,
    /// Of these, the ones that had been used before: as many distances there are.
    pub reused_blocks: u64,
    /// Median, 90th and 99th percentile of the distances, in blocks; `None`
    /// without any.
    pub p50: Option<f64>,
    /// See `p50`.
    pub p90: Option<f64>,
    /// See `p50`.
    pub p99: Option<f64>,
    /// Hit ratios of caches of 1, 2, 4, ... thousand blocks, up to one that hits
    /// all that can be hit.
    pub lru: Vec<Capacity>,
}

/// A cache and what it hits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Capacity {
    /// Its size.
    pub blocks: u64,
    /// Blocks hit over blocks asked for.
    pub hit_ratio: f64,
}

impl ReuseDistances {
    /// Of `trace`, in the order of its rows. Costs O(log n) a reference.
    pub fn of(trace: &Trace) -> Self {
        let distances = Self::of_references(trace);
        let references_blocks: u64 = trace
            .rows()
            .iter()
            .map(|row| u64::from(row.input_tokens.div_ceil(trace.block_tokens)))
            .sum();
        let mut reused: Vec<u64> = distances.iter().flatten().copied().collect();
        reused.sort_unstable();
        let quantile = |q| stats::quantile_by(reused.len(), q, |i| reused[i] as f64);
        let largest = reused.last().copied();
        let sizes = (0..).map(|i| 1_000u64 << i);
        // The first size above the largest distance hits everything.
        let enough = sizes.clone().position(|size| largest.is_none_or(|largest| largest < size));
        let lru = sizes.take(enough.map_or(0, |last| last + 1)).map(|blocks| {
            let hits = reused.partition_point(|&distance| distance < blocks);
            Capacity { blocks, hit_ratio: hits as f64 / references_blocks as f64 }
        });
        Self {
            references_blocks,
            reused_blocks: reused.len() as u64,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            lru: lru.collect(),
        }
    }

    /// The reuse distance of every reference of `trace`, row by row and block by
    /// block from the start of the prompt; `None` if the block was not used before.
    pub fn of_references(trace: &Trace) -> Vec<Option<u64>> {
        let references: usize = trace
            .rows()
            .iter()
            .map(|row| row.input_tokens.div_ceil(trace.block_tokens) as usize)
            .sum();
        let mut moments = Moments::new(references);
        let mut last: HashTable<(u64, usize)> = HashTable::new();
        let mut found = Vec::with_capacity(references);
        let mut now = 0;
        for row in 0..trace.rows().len() {
            let ids: Vec<u64> = trace.blocks(row).map(|block| block.0).collect();
            for &id in &ids {
                let used = last.find(mix(id), |entry| entry.0 == id);
                found.push(used.map(|&(_, at)| moments.after(at)));
            }
            for &id in ids.iter().rev() {
                let entry = last.entry(mix(id), |entry| entry.0 == id, |entry| mix(entry.0));
                let at = &mut entry.or_insert((id, usize::MAX)).into_mut().1;
                if *at != usize::MAX {
                    moments.unmark(*at);
                }
                *at = now;
                moments.mark(now);
                now += 1;
            }
        }
        found
    }
}

/// Moments of which some are marked: a Fenwick tree (Fenwick 1994) of counts.
struct Moments {
    /// Node `i` counts the marks of the `i & -i` moments up to the `i`-th, from 1.
    tree: Vec<u32>,
    marked: u64,
}

impl Moments {
    fn new(count: usize) -> Self {
        Self { tree: vec![0; count + 1], marked: 0 }
    }

    fn mark(&mut self, moment: usize) {
        self.marked += 1;
        self.add(moment, 1);
    }

    fn unmark(&mut self, moment: usize) {
        self.marked -= 1;
        self.add(moment, u32::MAX);
    }

    /// Adds `by`, modulo 2^32: no count is ever negative.
    fn add(&mut self, moment: usize, by: u32) {
        let mut node = moment + 1;
        while node < self.tree.len() {
            self.tree[node] = self.tree[node].wrapping_add(by);
            node += node & node.wrapping_neg();
        }
    }

    /// Marks after `moment`.
    fn after(&self, moment: usize) -> u64 {
        let (mut node, mut up_to) = (moment + 1, 0u64);
        while node > 0 {
            up_to += u64::from(self.tree[node]);
            node &= node - 1;
        }
        self.marked - up_to
    }
}
