//! Which requests of a trace belong together, where nothing but the prefix tree says so.

use super::{Trace, row_number};
use crate::id::BlockId;
use crate::rng::mix;
use hashbrown::HashTable;
use std::collections::BTreeMap;

/// A block with more different successors belongs to no session (assumed: far more
/// than a conversation branches, far fewer than the users of a system prompt).
const BRANCHES: u32 = 8;

/// The requests of a trace by session.
#[derive(Debug)]
pub(super) struct Grouped {
    /// Leading blocks of every row that belong to no session.
    pub(super) popular: Vec<u32>,
    /// The rows of every session, in order.
    pub(super) sessions: Vec<Vec<u32>>,
}

impl Grouped {
    /// By what rows say, or by their ids: a block that more than [`BRANCHES`] different
    /// blocks follow is *popular*, and so is all that stands before it; rows with the same
    /// first block after the popular ones are a session.
    pub(super) fn of(trace: &Trace) -> Self {
        let popular = popular(trace);
        let mut sessions: Vec<Vec<u32>> = Vec::new();
        let mut by_first_block: BTreeMap<BlockId, usize> = BTreeMap::new();
        let is_said = trace.has_sessions();
        for (row, &popular) in popular.iter().enumerate() {
            let session = match trace.blocks(row).nth(popular as usize) {
                _ if is_said => trace.rows[row].session as usize,
                Some(block) => *by_first_block.entry(block).or_insert(sessions.len()),
                None => sessions.len(),
            };
            sessions.resize(sessions.len().max(session + 1), Vec::new());
            sessions[session].push(row_number(row));
        }
        Self { popular, sessions }
    }
}

/// How many leading blocks of every row are popular.
fn popular(trace: &Trace) -> Vec<u32> {
    // Different blocks after a block, and whether it is popular.
    struct Block {
        id: u64,
        successors: u32,
        popular: bool,
    }
    let mut blocks: HashTable<Block> = HashTable::new();
    let rows = 0..trace.rows().len();
    for row in rows.clone() {
        let mut before: Option<u64> = None;
        for BlockId(id) in trace.blocks(row) {
            let find = |block: &Block| block.id == id;
            if blocks.find(mix(id), find).is_none() {
                let new = Block { id, successors: 0, popular: false };
                blocks.insert_unique(mix(id), new, |block| mix(block.id));
                let before = before
                    .and_then(|before| blocks.find_mut(mix(before), |block| block.id == before));
                if let Some(before) = before {
                    before.successors += 1;
                }
            }
            before = Some(id);
        }
    }
    // Blocks up to the last one that is so.
    let leading = |blocks: &HashTable<Block>, row: usize, is_so: fn(&Block) -> bool| {
        let found = (1..).zip(trace.blocks(row)).filter(|(_, BlockId(id))| {
            blocks.find(mix(*id), |block| block.id == *id).is_some_and(is_so)
        });
        found.last().map_or(0, |(count, _)| count)
    };
    for row in rows.clone() {
        let up_to = leading(&blocks, row, |block| block.successors > BRANCHES);
        for BlockId(id) in trace.blocks(row).take(up_to) {
            if let Some(block) = blocks.find_mut(mix(id), |block| block.id == id) {
                block.popular = true;
            }
        }
    }
    rows.map(|row| {
        let known = leading(&blocks, row, |block| block.popular);
        u32::try_from(known).expect("fewer blocks than tokens")
    })
    .collect()
}
