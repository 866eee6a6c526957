use crate::id::WorkerId;
use smallvec::SmallVec;

/// A set of workers: one machine word if all of them are among 64 neighbours, as
/// many as it takes from the first to the last of them otherwise.
///
/// Words without workers are kept at neither end, so equal sets compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::router) struct WorkerSet {
    /// Which word of all the first one is; 0 if there is none.
    first: u32,
    words: SmallVec<[u64; 1]>,
}

impl WorkerSet {
    /// No worker.
    pub(in crate::router) const EMPTY: &'static Self =
        &Self { first: 0, words: SmallVec::new_const() };

    pub(in crate::router) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(in crate::router) fn contains(&self, worker: WorkerId) -> bool {
        let (word, bit) = place(worker);
        // Before the first word the place wraps to one that no set has.
        let at = word.wrapping_sub(self.first) as usize;
        self.words.get(at).is_some_and(|word| word & bit != 0)
    }

    /// Whether `worker` is the only one in it.
    pub(in crate::router) fn is_only(&self, worker: WorkerId) -> bool {
        let (word, bit) = place(worker);
        self.first == word && *self.words == [bit]
    }

    /// Puts `worker` in; true if it was not there.
    pub(in crate::router) fn insert(&mut self, worker: WorkerId) -> bool {
        let (word, bit) = place(worker);
        let at = self.reach(word);
        let is_new = self.words[at] & bit == 0;
        self.words[at] |= bit;
        is_new
    }

    /// Takes `worker` out; true if it was there.
    pub(in crate::router) fn remove(&mut self, worker: WorkerId) -> bool {
        if !self.contains(worker) {
            return false;
        }
        let (word, bit) = place(worker);
        self.words[(word - self.first) as usize] &= !bit;
        self.trim();
        true
    }

    /// Takes all workers out.
    pub(in crate::router) fn clear(&mut self) {
        self.words.clear();
        self.first = 0;
    }

    /// Puts the workers of `other` in.
    pub(in crate::router) fn unite(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        let at = self.reach(other.first);
        let words = self.words.len().max(at + other.words.len());
        self.words.resize(words, 0);
        for (word, more) in self.words[at..].iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Number of workers.
    pub(in crate::router) fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Keeps only those that are in `other`, too.
    pub(in crate::router) fn keep(&mut self, other: &Self) {
        for (at, word) in (self.first..).zip(&mut self.words) {
            let at = at.wrapping_sub(other.first) as usize;
            *word &= other.words.get(at).copied().unwrap_or(0);
        }
        self.trim();
    }

    /// The workers in order of id.
    pub(in crate::router) fn iter(&self) -> impl Iterator<Item = WorkerId> + '_ {
        (self.first..).zip(&self.words).flat_map(|(at, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(WorkerId(at * u64::BITS + bit))
            })
        })
    }

    /// Has `word` among its words, for a worker to be put in there; its place.
    fn reach(&mut self, word: u32) -> usize {
        if self.words.is_empty() {
            self.first = word;
        }
        if word < self.first {
            let missing = (self.first - word) as usize;
            self.words.insert_many(0, std::iter::repeat_n(0, missing));
            self.first = word;
        }
        let at = (word - self.first) as usize;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        at
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        let empty = self.words.iter().take_while(|word| **word == 0).count();
        if empty > 0 {
            self.words.drain(..empty);
            self.first += u32::try_from(empty).expect("words are counted in u32");
        }
        if self.words.is_empty() {
            self.first = 0;
        }
    }
}

/// The word of `worker` among those of all workers, and its bit there.
fn place(worker: WorkerId) -> (u32, u64) {
    (worker.0 / u64::BITS, 1 << (worker.0 % u64::BITS))
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
            let only = |w: u32| model.len() == 1 && model.contains(&w);
            prop_assert!((0..200).all(|w| set.is_only(WorkerId(w)) == only(w)));
            let mut both = set.clone();
            both.keep(&other);
            let mut either = set.clone();
            either.unite(&other);
            let in_either: BTreeSet<u32> = model.iter().copied().chain(list(&other)).collect();
            prop_assert_eq!(list(&either), in_either.into_iter().collect::<Vec<_>>());
            let in_both = model.iter().copied().filter(|w| other.contains(WorkerId(*w)));
            prop_assert_eq!(list(&both), in_both.collect::<Vec<_>>());
        }
    }
}
