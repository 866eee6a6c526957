//! What the router believes each worker is busy with: the requests it sent
//! there that have not ended.
//!
//! Two numbers per worker matter. Prompt tokens still to be computed: added when
//! a request is sent, taken away when its first token comes back. And distinct
//! prompt blocks of all requests in flight: prompts that share a beginning count
//! it once. Both are the router's own bookkeeping, exact at once, so that two
//! requests arriving together see each other; neither sees what the engine
//! really hits.
//!
//! Generated tokens count only if [`Outputs`] says so: then every block that an
//! output grows into counts as one more. If requests are expected to end after
//! some number of tokens, their blocks count less the nearer they come to it:
//! at each new block, all blocks that only this request uses take on the weight
//! `1 - generated / expected`. A worker's blocks are the rounded sum of weights.
//!
//! The prompts in flight form one trie for all workers, cut so that every
//! prompt ends at the end of a node. A walk down answers for all workers.

use super::overlaps::AtMost;
use super::path::{Path, common_blocks};
use super::worker_set::WorkerSet;
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

/// How generated tokens count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outputs {
    pub(super) block_size: u32,
    /// Output tokens that every request is expected to have, if any number is.
    pub(super) expected_tokens: Option<u32>,
}

/// A request to be booked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order<'a> {
    pub(super) request: RequestId,
    pub(super) prompt_tokens: u32,
    /// Those of them that are to be computed, as far as they count.
    pub(super) prefill_tokens: u64,
    /// The blocks that count.
    pub(super) prompt: &'a Path,
    /// Whether blocks are shared with requests in flight or counted on their own.
    pub(super) shared: bool,
}

/// The bookings of one front end.
#[derive(Debug)]
pub(super) struct ActiveTracker {
    loads: Vec<WorkerLoad>,
    /// Each worker's blocks in flight, by weight.
    weights: Vec<f64>,
    bookings: HashTable<Booking>,
    prompts: Trie,
    outputs: Option<Outputs>,
}

#[derive(Debug)]
struct Booking {
    request: RequestId,
    worker: WorkerId,
    /// 0 once the first token has come.
    prefill_tokens: u64,
    prompt_tokens: u32,
    /// Blocks that the output grew into, and what each of them weighs.
    output_blocks: u32,
    output_weight: f64,
    blocks: BookedBlocks,
}

#[derive(Debug)]
enum BookedBlocks {
    /// The prompt ends at this node; `None` if it has no full block.
    Shared(Option<NodeId>),
    /// Counted without regard to others; each block has this weight.
    Alone { blocks: u32, weight: f64 },
}

impl Booking {
    fn output(&self) -> f64 {
        f64::from(self.output_blocks) * self.output_weight
    }
}

impl ActiveTracker {
    pub(super) fn new(workers: u32) -> Self {
        Self {
            loads: vec![WorkerLoad::default(); workers as usize],
            weights: vec![0.0; workers as usize],
            bookings: HashTable::new(),
            prompts: Trie::default(),
            outputs: None,
        }
    }

    /// The same, with generated tokens counted.
    pub(super) fn with_outputs(self, outputs: Outputs) -> Self {
        Self { outputs: Some(outputs), ..self }
    }

    /// Whether generated tokens count.
    pub(super) fn counts_outputs(&self) -> bool {
        self.outputs.is_some()
    }

    /// One entry per worker, in order of id.
    pub(super) fn loads(&self) -> &[WorkerLoad] {
        &self.loads
    }

    /// The leading blocks of `prompt` that requests in flight have too.
    pub(super) fn shared_blocks(&self, prompt: &Path) -> Shared<'_> {
        self.prompts.shared(prompt)
    }

    /// Books a request on `worker`.
    ///
    /// # Panics
    /// If the request is booked already.
    pub(super) fn book(&mut self, worker: WorkerId, order: &Order<'_>) {
        let Order { request, prompt_tokens, prefill_tokens, prompt, shared } = *order;
        let load = &mut self.loads[worker.index()];
        load.requests += 1;
        load.prefill_tokens += prefill_tokens;
        let blocks = if shared {
            let (end, added) = self.prompts.add(worker, prompt);
            self.change(worker, f64::from(added));
            BookedBlocks::Shared(end)
        } else {
            self.change(worker, f64::from(prompt.len()));
            BookedBlocks::Alone { blocks: prompt.len(), weight: 1.0 }
        };
        let booking = Booking {
            request,
            worker,
            prefill_tokens,
            prompt_tokens,
            output_blocks: 0,
            output_weight: 1.0,
            blocks,
        };
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

    /// The first token of `request` came: its prompt has been computed. Gives
    /// the worker that it is booked on.
    pub(super) fn first_token(&mut self, request: RequestId) -> Option<WorkerId> {
        let hash = mix(u64::from(request.0));
        let booking = self.bookings.find_mut(hash, |other| other.request == request)?;
        let tokens = std::mem::take(&mut booking.prefill_tokens);
        self.loads[booking.worker.index()].prefill_tokens -= tokens;
        Some(booking.worker)
    }

    /// `request` has generated so many tokens. Gives the worker whose load that
    /// changes, if it changes any.
    pub(super) fn output(&mut self, request: RequestId, tokens: u32) -> Option<WorkerId> {
        let outputs = self.outputs?;
        let hash = mix(u64::from(request.0));
        let booking = self.bookings.find_mut(hash, |other| other.request == request)?;
        let blocks = |tokens: u32| tokens.div_ceil(outputs.block_size);
        let grown = blocks(booking.prompt_tokens + tokens) - blocks(booking.prompt_tokens);
        if grown <= booking.output_blocks {
            return None;
        }
        let mut change = f64::from(grown - booking.output_blocks);
        if let Some(expected) = outputs.expected_tokens {
            let weight = (1.0 - f64::from(tokens) / f64::from(expected.max(1))).max(0.0);
            change = f64::from(grown) * weight - booking.output();
            booking.output_weight = weight;
            change += match &mut booking.blocks {
                BookedBlocks::Shared(end) => {
                    self.prompts.weigh_exclusive(booking.worker, *end, weight)
                }
                BookedBlocks::Alone { blocks, weight: old } => {
                    f64::from(*blocks) * (weight - std::mem::replace(old, weight))
                }
            };
        }
        booking.output_blocks = grown;
        let worker = booking.worker;
        self.change(worker, change);
        Some(worker)
    }

    /// Changes the weight of the blocks in flight on `worker`.
    fn change(&mut self, worker: WorkerId, by: f64) {
        let weight = &mut self.weights[worker.index()];
        *weight += by;
        let load = &mut self.loads[worker.index()];
        if load.requests == 0 {
            // Rounding errors must not outlive what they came from.
            *weight = 0.0;
        }
        load.active_blocks = rounded(*weight);
    }

    /// Hears of a change in the life of a request: tokens and ends count. Gives
    /// the worker whose load that changes, if it changes any.
    pub(super) fn observe(&mut self, event: &WorkerEvent) -> Option<WorkerId> {
        match event.kind {
            WorkerEventKind::FirstToken => {
                let worker = self.first_token(event.request);
                self.output(event.request, 1);
                worker
            }
            WorkerEventKind::OutputBlock { output_tokens } => {
                self.output(event.request, output_tokens)
            }
            WorkerEventKind::Finished { .. }
            | WorkerEventKind::Rejected(_)
            | WorkerEventKind::Aborted
            | WorkerEventKind::Failed => self.free(event.request),
            WorkerEventKind::Scheduled { .. }
            | WorkerEventKind::CacheHit { .. }
            | WorkerEventKind::Prefilled
            | WorkerEventKind::KvReceived { .. }
            | WorkerEventKind::Loaded { .. }
            | WorkerEventKind::Preempted => None,
        }
    }

    /// Forgets what is in flight on `worker`.
    pub(super) fn remove_worker(&mut self, worker: WorkerId) {
        let there = self.bookings.iter().filter(|booking| booking.worker == worker);
        let mut requests: Vec<RequestId> = there.map(|booking| booking.request).collect();
        // Sums of weights depend on the order.
        requests.sort_unstable();
        requests.into_iter().for_each(|request| _ = self.free(request));
    }

    /// `request` ended. Gives the worker that it was booked on.
    pub(super) fn free(&mut self, request: RequestId) -> Option<WorkerId> {
        let hash = mix(u64::from(request.0));
        let found = self.bookings.find_entry(hash, |other| other.request == request).ok()?;
        let (booking, _) = found.remove();
        let load = &mut self.loads[booking.worker.index()];
        load.requests -= 1;
        load.prefill_tokens -= booking.prefill_tokens;
        let prompt = match booking.blocks {
            BookedBlocks::Shared(end) => self.prompts.remove(booking.worker, end),
            BookedBlocks::Alone { blocks, weight } => f64::from(blocks) * weight,
        };
        self.change(booking.worker, -(prompt + booking.output()));
        Some(booking.worker)
    }
}

/// The beginning of a prompt that requests in flight have too, from its start on
/// in stretches: its blocks, and whose requests have them, in order of worker.
/// A request that has a stretch has all before it.
#[derive(Debug, Default)]
pub(super) struct Shared<'a>(SmallVec<[(u32, &'a [User]); 4]>);

impl Shared<'_> {
    /// Blocks that requests in flight on `worker` have.
    pub(super) fn on(&self, worker: WorkerId) -> u32 {
        let theirs = self.0.iter().take_while(|(_, users)| place(users, worker).is_ok());
        theirs.map(|(blocks, _)| blocks).sum()
    }

    /// Adds to `shared_blocks[w]` what requests in flight on worker `w` have.
    pub(super) fn add_to(&self, shared_blocks: &mut [u32]) {
        for (blocks, users) in &self.0 {
            users.iter().for_each(|user| shared_blocks[user.worker.index()] += blocks);
        }
    }

    /// Adds the workers of what at most `few` workers have to `special`: they are looked at
    /// one by one.
    pub(super) fn split(&self, few: usize, special: &mut WorkerSet) -> AtMost {
        let wide = self.0.partition_point(|(_, users)| users.len() > few);
        if let Some((_, users)) = self.0.get(wide) {
            users.iter().for_each(|user| _ = special.insert(user.worker));
        }
        let blocks = |stretches: &[(u32, _)]| stretches.iter().map(|(blocks, _)| blocks).sum();
        AtMost { any: blocks(&self.0), others: blocks(&self.0[..wide]) }
    }
}

/// The nearest whole number of blocks, halves up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of weights")]
fn rounded(weight: f64) -> u64 {
    (weight + 0.5) as u64
}

type NodeId = usize;

#[derive(Debug, Default)]
struct Node {
    stretch: Path,
    parent: Option<NodeId>,
    /// Whose prompts in flight go through the whole stretch, in order of worker.
    users: SmallVec<[User; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct User {
    worker: WorkerId,
    /// Prompts in flight there, at least 1.
    prompts: u32,
    /// What each block of the stretch weighs there.
    weight: f64,
}

const USES_ALL_ABOVE: &str = "a booked prompt uses every node up to the root";

/// The place of `worker` among `users`, or where it would be.
fn place(users: &[User], worker: WorkerId) -> Result<usize, usize> {
    users.binary_search_by_key(&worker, |user| user.worker)
}

#[derive(Debug, Default)]
struct Trie {
    nodes: Vec<Node>,
    unused: Vec<NodeId>,
    /// By first block, with that block beside it to keep lookups in one place.
    by_first: HashTable<(BlockId, NodeId)>,
}

impl Trie {
    fn shared(&self, prompt: &Path) -> Shared<'_> {
        let mut shared = Shared::default();
        let mut depth = 0;
        while let Some(run) = prompt.from(depth).next() {
            let Some(id) = self.child(run.first) else { break };
            let node = &self.nodes[id];
            let matched = common_blocks(node.stretch.from(0), prompt.from(depth));
            shared.0.push((matched, &node.users));
            depth += matched;
            if matched < node.stretch.len() {
                break;
            }
        }
        shared
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
                None => {
                    let id = self.unused(run.first);
                    let node = &mut self.nodes[id];
                    prompt.from(depth).for_each(|run| node.stretch.push(run));
                    node.parent = end;
                    id
                }
            };
            let node = &mut self.nodes[id];
            match place(&node.users, worker) {
                Ok(at) => node.users[at].prompts += 1,
                Err(at) => {
                    node.users.insert(at, User { worker, prompts: 1, weight: 1.0 });
                    added += node.stretch.len();
                }
            }
            depth += node.stretch.len();
            end = Some(id);
        }
        (end, added)
    }

    /// Takes away a prompt that ends at `end`; gives the weight of the blocks that
    /// `worker` has no more.
    fn remove(&mut self, worker: WorkerId, end: Option<NodeId>) -> f64 {
        let (mut next, mut lost) = (end, 0.0);
        while let Some(id) = next {
            let node = &mut self.nodes[id];
            next = node.parent;
            let at = place(&node.users, worker).expect(USES_ALL_ABOVE);
            node.users[at].prompts -= 1;
            if node.users[at].prompts == 0 {
                let user = node.users.remove(at);
                lost += f64::from(node.stretch.len()) * user.weight;
            }
            if node.users.is_empty() {
                let first = node.stretch.first();
                // What it has allocated stays, for the next stretch.
                node.stretch.clear();
                self.forget(first);
                self.unused.push(id);
            }
        }
        lost
    }

    /// Gives every block that only the prompt ending at `end` uses on `worker` a
    /// new weight; gives the change of the sum.
    fn weigh_exclusive(&mut self, worker: WorkerId, end: Option<NodeId>, weight: f64) -> f64 {
        let (mut next, mut change) = (end, 0.0);
        while let Some(id) = next {
            let node = &mut self.nodes[id];
            let at = place(&node.users, worker).expect(USES_ALL_ABOVE);
            let user = &mut node.users[at];
            if user.prompts > 1 {
                break;
            }
            let old = std::mem::replace(&mut user.weight, weight);
            change += f64::from(node.stretch.len()) * (weight - old);
            next = node.parent;
        }
        change
    }

    /// Puts a new node for the first `at` blocks of `id` above it; `id` keeps
    /// the rest, so that prompts that end there still do.
    fn split(&mut self, id: NodeId, at: u32) -> NodeId {
        let Node { stretch, parent, users } = &mut self.nodes[id];
        let rest = stretch.split_off(at);
        let second = rest.first();
        let upper = Node {
            stretch: std::mem::replace(stretch, rest),
            parent: *parent,
            users: users.clone(),
        };
        let first = upper.stretch.first();
        self.forget(first);
        let above = self.unused(first);
        self.nodes[above] = upper;
        self.nodes[id].parent = Some(above);
        self.name(second, id);
        above
    }

    /// An unused node, which the table has under `first` from now on.
    fn unused(&mut self, first: BlockId) -> NodeId {
        let id = self.unused.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            self.nodes.len() - 1
        });
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
