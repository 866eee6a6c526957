//! Which requests of a trace belong together, where nothing but the prefix tree says so.

use super::{NO_ROW, Trace, row_number};
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
    /// By row: the one that it goes on from, where rows say so.
    before: Option<Vec<u32>>,
    /// Leading blocks of every row that belong to no session.
    pub(super) popular: Vec<u32>,
    /// The rows of every session, in order.
    pub(super) sessions: Vec<Vec<u32>>,
}

impl Grouped {
    /// By the sessions that rows name, sub-agents included, or by their ids: a block that more
    /// than [`BRANCHES`] different blocks follow is *popular*, and so is all that stands before
    /// it; rows with the same first block after the popular ones are a session.
    pub(super) fn of(trace: &Trace) -> Self {
        let popular = popular(trace);
        let mut sessions: Vec<Vec<u32>> = Vec::new();
        let mut by_first_block: BTreeMap<BlockId, usize> = BTreeMap::new();
        let before = trace.has_sessions().then(|| before(trace));
        // Of rows that are said to belong together: the session of each.
        let mut said: Vec<usize> = Vec::new();
        for (row, &popular) in popular.iter().enumerate() {
            let session = match trace.blocks(row).nth(popular as usize) {
                _ if before.is_some() => {
                    let before = before.as_ref().map_or(NO_ROW, |before| before[row]);
                    let session = said.get(before as usize).copied().unwrap_or(sessions.len());
                    said.push(session);
                    session
                }
                Some(block) => *by_first_block.entry(block).or_insert(sessions.len()),
                None => sessions.len(),
            };
            sessions.resize(sessions.len().max(session + 1), Vec::new());
            sessions[session].push(row_number(row));
        }
        Self { before, popular, sessions }
    }

    /// The place in a session, whose rows are `rows`, of the row that the one in `place`
    /// goes on from: the row before it, unless rows say so.
    ///
    /// # Panics
    /// If `place` is that of the first.
    pub(super) fn before(&self, rows: &[u32], place: usize) -> usize {
        let said = self.before.as_ref().map(|before| before[rows[place] as usize]);
        said.map_or(place - 1, |before| rows.binary_search(&before).expect("in its session"))
    }
}

/// The row that each one goes on from: of those that it waits for the last of its own
/// conversation, else the last.
fn before(trace: &Trace) -> Vec<u32> {
    let mut found = vec![NO_ROW; trace.rows.len()];
    let session = |row: u32| trace.rows[row as usize].session;
    for &(before, row) in &trace.edges {
        let known = &mut found[row as usize];
        let is_own = |other: u32| other != NO_ROW && session(other) == session(row);
        if is_own(before) || !is_own(*known) {
            // Edges are in order, so this is the later one.
            *known = before;
        }
    }
    found
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
