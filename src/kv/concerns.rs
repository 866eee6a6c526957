//! Which workers have changes that may concern a block.

use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::rng::mix;
use smallvec::SmallVec;

/// Ids that are looked at together.
const PAGE: u64 = 64;
/// Buckets for each worker: some times the pages that it has.
const BUCKETS: usize = 64;

/// For any block the workers that may have something to say about it; also some others,
/// since neighbouring blocks are not told apart.
#[derive(Debug)]
pub(crate) struct Concerns {
    /// By hash of the page; a worker stands there once for each run.
    buckets: Vec<SmallVec<[WorkerId; 4]>>,
    mask: u64,
}

impl Concerns {
    pub(crate) fn new(workers: usize) -> Self {
        let buckets = (workers * BUCKETS).next_power_of_two();
        Self { buckets: vec![SmallVec::new(); buckets], mask: buckets as u64 - 1 }
    }

    /// Changes of `worker` may concern the blocks of `run`.
    pub(crate) fn add(&mut self, worker: WorkerId, run: BlockRun) {
        for page in pages(run) {
            self.bucket(page).push(worker);
        }
    }

    /// Takes back one [`add`](Self::add) of the same.
    pub(crate) fn remove(&mut self, worker: WorkerId, run: BlockRun) {
        for page in pages(run) {
            let bucket = self.bucket(page);
            let at = bucket.iter().position(|other| *other == worker);
            bucket.swap_remove(at.expect("was added"));
        }
    }

    /// Adds to `workers` those whose changes may concern a block of `run`, perhaps twice.
    pub(crate) fn find(&self, run: BlockRun, workers: &mut Vec<WorkerId>) {
        for page in pages(run) {
            workers.extend_from_slice(&self.buckets[self.place(page)]);
        }
    }

    fn bucket(&mut self, page: u64) -> &mut SmallVec<[WorkerId; 4]> {
        let at = self.place(page);
        &mut self.buckets[at]
    }

    #[expect(clippy::cast_possible_truncation, reason = "below the number of buckets")]
    fn place(&self, page: u64) -> usize {
        (mix(page) & self.mask) as usize
    }
}

fn pages(run: BlockRun) -> impl Iterator<Item = u64> {
    let BlockRun { first: BlockId(first), len } = run;
    let end = first + u64::from(len);
    first / PAGE..if len == 0 { first / PAGE } else { end.div_ceil(PAGE) }
}
