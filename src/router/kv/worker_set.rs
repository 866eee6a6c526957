use crate::id::WorkerId;
use smallvec::SmallVec;

/// A set of workers: one machine word for fleets of up to 64, more as needed.
///
/// Trailing zero words are never kept, so equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::router) struct WorkerSet(SmallVec<[u64; 1]>);

const BITS: usize = u64::BITS as usize;

impl WorkerSet {
    pub(in crate::router) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in crate::router) fn contains(&self, worker: WorkerId) -> bool {
        let word = self.0.get(worker.index() / BITS).copied().unwrap_or(0);
        word >> (worker.index() % BITS) & 1 == 1
    }

    /// Puts `worker` in; true if it was not there.
    pub(in crate::router) fn insert(&mut self, worker: WorkerId) -> bool {
        let at = worker.index() / BITS;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        let bit = 1 << (worker.index() % BITS);
        let new = self.0[at] & bit == 0;
        self.0[at] |= bit;
        new
    }

    /// Takes `worker` out; true if it was there.
    pub(in crate::router) fn remove(&mut self, worker: WorkerId) -> bool {
        let Some(word) = self.0.get_mut(worker.index() / BITS) else { return false };
        let bit = 1 << (worker.index() % BITS);
        let old = *word & bit != 0;
        *word &= !bit;
        self.trim();
        old
    }

    /// Number of workers.
    pub(in crate::router) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Keeps only those that are in `other`, too.
    pub(in crate::router) fn keep(&mut self, other: &Self) {
        self.0.truncate(other.0.len());
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
        self.trim();
    }

    /// The workers in order of id.
    #[expect(clippy::cast_possible_truncation, reason = "worker ids are u32")]
    pub(in crate::router) fn iter(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.0.iter().enumerate().flat_map(|(at, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(WorkerId((at * BITS) as u32 + bit))
            })
        })
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(
            changes in prop::collection::vec((0u32..200, any::<bool>()), 0..60),
            others in prop::collection::vec(0u32..200, 0..60),
        ) {
            let mut other = WorkerSet::default();
            others.into_iter().for_each(|worker| _ = other.insert(WorkerId(worker)));
            let mut set = WorkerSet::default();
            let mut model = BTreeSet::new();
            for (worker, put) in changes {
                if put {
                    prop_assert_eq!(set.insert(WorkerId(worker)), model.insert(worker));
                } else {
                    prop_assert_eq!(set.remove(WorkerId(worker)), model.remove(&worker));
                }
            }
            let list = |set: &WorkerSet| set.iter().map(|worker| worker.0).collect::<Vec<_>>();
            prop_assert_eq!(list(&set), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.is_empty(), model.is_empty());
            prop_assert!((0..200).all(|w| set.contains(WorkerId(w)) == model.contains(&w)));
            prop_assert_eq!(set.len(), model.len());
            let mut both = set.clone();
            both.keep(&other);
            let in_both = model.iter().copied().filter(|w| other.contains(WorkerId(*w)));
            prop_assert_eq!(list(&both), in_both.collect::<Vec<_>>());
        }
    }
}
