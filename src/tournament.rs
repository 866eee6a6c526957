//! One key per worker, and quick answers about the lowest of them: so that nothing
//! that happens at one worker makes any decision look at all of them.

/// The node above all others.
pub(crate) const ROOT: usize = 1;

/// The leaves of a binary tree are the workers' keys, every inner node is the
/// lower of its two.
#[derive(Clone, Debug)]
pub(crate) struct Tournament<Key> {
    /// Node `i` has the children `2 i` and `2 i + 1`, the root is [`ROOT`], and the
    /// key of worker `w` is node `leaves + w`.
    lowest: Vec<Key>,
    leaves: usize,
    workers: usize,
}

impl<Key: PartialOrd + Copy> Tournament<Key> {
    /// All `workers` have the key `start`, and `highest` is above every key that
    /// will be asked for.
    pub(crate) fn new(workers: u32, start: Key, highest: Key) -> Self {
        let workers = workers as usize;
        let leaves = workers.next_power_of_two();
        let mut lowest = vec![start; leaves + workers];
        lowest.resize(2 * leaves, highest);
        let mut tournament = Self { lowest, leaves, workers };
        for node in (1..leaves).rev() {
            tournament.lowest[node] = tournament.lower_child(node);
        }
        tournament
    }

    /// The key of `worker`.
    pub(crate) fn key(&self, worker: usize) -> Key {
        self.lowest[self.leaves + worker]
    }

    /// The lowest key of all. O(1).
    pub(crate) fn least(&self) -> Key {
        self.lowest[ROOT]
    }

    /// The lowest key of the leaves below `node`, whose halves are the nodes `2 node`
    /// and `2 node + 1`.
    pub(crate) fn lowest_below(&self, node: usize) -> Key {
        self.lowest[node]
    }

    /// How many leaves are below `node`, workers or not; 1 for a leaf itself.
    pub(crate) fn leaves_below(&self, node: usize) -> usize {
        self.leaves >> node.ilog2()
    }

    /// The worker of a leaf.
    pub(crate) fn worker_at_leaf(&self, node: usize) -> usize {
        node - self.leaves
    }

    /// Changes the key of `worker`. O(log n).
    pub(crate) fn set(&mut self, worker: usize, key: Key) {
        let mut node = self.leaves + worker;
        let mut lower = key;
        // As soon as the same one is lowest as before, nothing changes above.
        while self.lowest[node] != lower {
            self.lowest[node] = lower;
            if node == ROOT {
                return;
            }
            let other = self.lowest[node ^ 1];
            lower = if other < lower { other } else { lower };
            node /= 2;
        }
    }

    /// The first worker, in order of id from `from` on, whose key is at most
    /// `bound`. O(log n).
    pub(crate) fn next_at_most(&self, from: usize, bound: Key) -> Option<usize> {
        if from >= self.workers {
            return None;
        }
        let mut node = self.leaves + from;
        while self.lowest[node] > bound {
            // On to the right neighbour of the nearest subtree that has one.
            node >>= node.trailing_ones();
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.leaves {
            node *= 2;
            node += usize::from(self.lowest[node] > bound);
        }
        let worker = node - self.leaves;
        (worker < self.workers).then_some(worker)
    }

    fn lower_child(&self, node: usize) -> Key {
        let (left, right) = (self.lowest[2 * node], self.lowest[2 * node + 1]);
        if left <= right { left } else { right }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_list(
            workers in 1u32..20,
            changes in prop::collection::vec((0usize..20, 0u8..9), 0..40),
            from in 0usize..22,
            bound in 0u8..10,
        ) {
            let mut tournament = Tournament::new(workers, 4, u8::MAX);
            let mut keys = vec![4; workers as usize];
            for (worker, key) in changes {
                let worker = worker % keys.len();
                tournament.set(worker, key);
                keys[worker] = key;
                prop_assert_eq!(Some(&tournament.least()), keys.iter().min());
                prop_assert_eq!(tournament.key(worker), key);
                let next = (from..keys.len()).find(|&worker| keys[worker] <= bound);
                prop_assert_eq!(tournament.next_at_most(from, bound), next);
            }
        }
    }
}
