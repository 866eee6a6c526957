//! What the router believes each worker is busy with: the requests it sent
//! there that have not ended.
//!
//! Two numbers per worker matter. Prompt tokens still to be computed: added when
//! a request is sent, taken away when its first token comes back. And distinct
//! prompt blocks of all requests in flight: prompts that share a beginning count
//! it once. Both are the router's own bookkeeping, exact at once, so that two
//! requests arriving together see each other; neither sees what the engine
//! really hits, nor generated tokens.
//!
//! The prompts in flight form one trie for all workers, cut so that every
//! prompt ends at the end of a node. A walk down answers for all workers.

use super::path::{Path, common_blocks};
use crate::event::{WorkerEvent, WorkerEventKind};
use crate::id::{BlockId, RequestId, WorkerId};
use crate::rng::mix;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

/// What is in flight on one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Uncached prompt tokens of requests without a first token.
    pub prefill_tokens: u64,
    /// Distinct prompt blocks of requests in flight.
    pub active_blocks: u64,
    /// Requests in flight.
    pub requests: u32,
}

/// The bookings of one front end.
#[derive(Debug)]
pub(super) struct ActiveTracker {
    loads: Vec<WorkerLoad>,
    bookings: HashTable<Booking>,
    prompts: Trie,
}

#[derive(Debug)]
struct Booking {
    request: RequestId,
    worker: WorkerId,
    /// 0 once the first token has come.
    prefill_tokens: u64,
    blocks: BookedBlocks,
}

#[derive(Debug)]
enum BookedBlocks {
    /// The prompt ends at this node; `None` if it has no full block.
    Shared(Option<NodeId>),
    /// Counted without regard to others.
    Alone(u32),
}

impl ActiveTracker {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            loads: vec![WorkerLoad::default(); workers as usize],
            bookings: HashTable::new(),
            prompts: Trie::default(),
        }
    }

    /// One entry per worker, in order of id.
    pub(super) fn loads(&self) -> &[WorkerLoad] {
        &self.loads
    }

    /// Sets `shared_blocks[w]` to the number of leading blocks of `prompt` that
    /// requests in flight on worker `w` have too; all entries must be 0 before.
    pub(super) fn shared_blocks(&self, prompt: &Path, shared_blocks: &mut [u32]) {
        self.prompts.depths(prompt, shared_blocks);
    }

    /// Books `request` on `worker`: `prefill_tokens` to compute, and the blocks
    /// of `prompt`, `shared` with those in flight or counted on their own.
    ///
    /// # Panics
    /// If the request is booked already.
    pub(super) fn book(
        &mut self,
        request: RequestId,
        worker: WorkerId,
        prefill_tokens: u64,
        prompt: &Path,
        shared: bool,
    ) {
        let load = &mut self.loads[worker.index()];
        load.requests += 1;
        load.prefill_tokens += prefill_tokens;
        let blocks = if shared {
            let (end, added) = self.prompts.add(worker, prompt);
            load.active_blocks += u64::from(added);
            BookedBlocks::Shared(end)
        } else {
            load.active_blocks += u64::from(prompt.len());
            BookedBlocks::Alone(prompt.len())
        };
        let booking = Booking { request, worker, prefill_tokens, blocks };
        let slot = self.bookings.entry(
            mix(u64::from(request.0)),
            |other| other.request == request,
            |other| mix(u64::from(other.request.0)),
        );
        match slot {
            Entry::Occupied(_) => panic!("{request:?} is booked twice"),
            Entry::Vacant(slot) => _ = slot.insert(booking),
        }
    }

    /// The first token of `request` came: its prompt has been computed.
    pub(super) fn first_token(&mut self, request: RequestId) {
        let hash = mix(u64::from(request.0));
        let booking = self.bookings.find_mut(hash, |other| other.request == request);
        if let Some(booking) = booking {
            let tokens = std::mem::take(&mut booking.prefill_tokens);
            self.loads[booking.worker.index()].prefill_tokens -= tokens;
        }
    }

    /// Hears of a change in the life of a request: first tokens and ends count.
    pub(super) fn observe(&mut self, event: &WorkerEvent) {
        match event.kind {
            WorkerEventKind::FirstToken => self.first_token(event.request),
            WorkerEventKind::Finished { .. } | WorkerEventKind::Rejected(_) => {
                self.free(event.request);
            }
            WorkerEventKind::Scheduled { .. } | WorkerEventKind::Preempted => {}
        }
    }

    /// `request` ended.
    pub(super) fn free(&mut self, request: RequestId) {
        let hash = mix(u64::from(request.0));
        let Ok(found) = self.bookings.find_entry(hash, |other| other.request == request) else {
            return;
        };
        let (booking, _) = found.remove();
        let load = &mut self.loads[booking.worker.index()];
        load.requests -= 1;
        load.prefill_tokens -= booking.prefill_tokens;
        load.active_blocks -= u64::from(match booking.blocks {
            BookedBlocks::Shared(end) => self.prompts.remove(booking.worker, end),
            BookedBlocks::Alone(blocks) => blocks,
        });
    }
}

type NodeId = usize;

#[derive(Debug, Default)]
struct Node {
    stretch: Path,
    parent: Option<NodeId>,
    /// How many prompts in flight on each worker go through the whole stretch,
    /// in order of worker.
    users: SmallVec<[(WorkerId, u32); 2]>,
}

#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
    unused: Vec<NodeId>,
    /// By first block, with that block beside it to keep lookups in one place.
    by_first: HashTable<(BlockId, NodeId)>,
}

impl Trie {
    fn depths(&self, prompt: &Path, depths: &mut [u32]) {
        let mut depth = 0;
        while let Some(run) = prompt.from(depth).next() {
            let Some(id) = self.child(run.first) else { return };
            let node = &self.nodes[id];
            let matched = common_blocks(node.stretch.from(0), prompt.from(depth));
            depth += matched;
            // Whoever uses a node uses all above it: the deepest one counts.
            for (worker, _) in &node.users {
                depths[worker.index()] = depth;
            }
            if matched < node.stretch.len() {
                return;
            }
        }
    }

    /// Adds a prompt; gives the node where it ends and the blocks new to `worker`.
    fn add(&mut self, worker: WorkerId, prompt: &Path) -> (Option<NodeId>, u32) {
        let (mut end, mut depth, mut added) = (None, 0, 0);
        while let Some(run) = prompt.from(depth).next() {
            let id = match self.child(run.first) {
                Some(id) => {
                    let stretch = &self.nodes[id].stretch;
                    let matched = common_blocks(stretch.from(0), prompt.from(depth));
                    if matched < stretch.len() { self.split(id, matched) } else { id }
                }
                None => self.insert(Node {
                    stretch: prompt.from(depth).collect(),
                    parent: end,
                    users: SmallVec::new(),
                }),
            };
            let node = &mut self.nodes[id];
            match node.users.binary_search_by_key(&worker, |(who, _)| *who) {
                Ok(at) => node.users[at].1 += 1,
                Err(at) => {
                    node.users.insert(at, (worker, 1));
                    added += node.stretch.len();
                }
            }
            depth += node.stretch.len();
            end = Some(id);
        }
        (end, added)
    }

    /// Takes away a prompt that ends at `end`; gives the blocks that `worker` has no more.
    fn remove(&mut self, worker: WorkerId, end: Option<NodeId>) -> u32 {
        let (mut next, mut lost) = (end, 0);
        while let Some(id) = next {
            let node = &mut self.nodes[id];
            next = node.parent;
            let at = node
                .users
                .binary_search_by_key(&worker, |(who, _)| *who)
                .expect("a booked prompt uses every node up to the root");
            node.users[at].1 -= 1;
            if node.users[at].1 == 0 {
                node.users.remove(at);
                lost += node.stretch.len();
            }
            if node.users.is_empty() {
                let node = std::mem::take(node);
                self.forget(node.stretch.first());
                self.unused.push(id);
            }
        }
        lost
    }

    /// Puts a new node for the first `at` blocks of `id` above it; `id` keeps
    /// the rest, so that prompts that end there still do.
    fn split(&mut self, id: NodeId, at: u32) -> NodeId {
        let lower = &mut self.nodes[id];
        let rest = lower.stretch.split_off(at);
        let upper = Node {
            stretch: std::mem::replace(&mut lower.stretch, rest),
            parent: lower.parent,
            users: lower.users.clone(),
        };
        let (first, second) = (upper.stretch.first(), lower.stretch.first());
        self.forget(first);
        self.name(second, id);
        let upper = self.insert(upper);
        self.nodes[id].parent = Some(upper);
        upper
    }

    fn insert(&mut self, node: Node) -> NodeId {
        let first = node.stretch.first();
        let id = self.unused.pop().unwrap_or(self.nodes.len());
        if id == self.nodes.len() {
            self.nodes.push(node);
        } else {
            self.nodes[id] = node;
        }
        self.name(first, id);
        id
    }

    fn child(&self, first: BlockId) -> Option<NodeId> {
        self.by_first.find(mix(first.0), |(block, _)| *block == first).map(|(_, id)| *id)
    }

    fn name(&mut self, first: BlockId, id: NodeId) {
        self.by_first.insert_unique(mix(first.0), (first, id), |(block, _)| mix(block.0));
    }

    fn forget(&mut self, first: BlockId) {
        let entry = self.by_first.find_entry(mix(first.0), |(block, _)| *block == first);
        entry.expect("every node is in the table").remove();
    }
}
