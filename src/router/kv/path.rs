use crate::id::BlockId;
use crate::request::BlockRun;
use smallvec::SmallVec;

/// A sequence of blocks, kept as runs of consecutive ids.
///
/// Prompts are a few runs long whatever their length in blocks, so comparing
/// and cutting paths costs runs, not blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    runs: SmallVec<[BlockRun; 3]>,
    len: u32,
}

impl FromIterator<BlockRun> for Path {
    fn from_iter<I: IntoIterator<Item = BlockRun>>(runs: I) -> Self {
        let mut path = Self::default();
        runs.into_iter().for_each(|run| path.push(run));
        path
    }
}

impl Path {
    /// Number of blocks.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The runs, longest possible.
    pub(super) fn runs(&self) -> &[BlockRun] {
        &self.runs
    }

    /// The blocks, in order.
    pub(super) fn blocks(&self) -> impl DoubleEndedIterator<Item = BlockId> + '_ {
        self.runs.iter().flat_map(|run| (0..run.len).map(|i| run.first.offset(i)))
    }

    /// The first block.
    ///
    /// # Panics
    /// If the path is empty.
    pub(super) fn first(&self) -> BlockId {
        self.runs[0].first
    }

    /// Takes all blocks out.
    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.len = 0;
    }

    /// Adds a run at the end.
    pub(super) fn push(&mut self, run: BlockRun) {
        self.len += run.len;
        match self.runs.last_mut() {
            Some(last) if last.first.offset(last.len) == run.first => last.len += run.len,
            _ if run.len > 0 => self.runs.push(run),
            _ => {}
        }
    }

    /// Cuts the path at `at <= len` and gives back the rest.
    pub(super) fn split_off(&mut self, at: u32) -> Self {
        let rest = self.from(at).collect();
        let kept = self.up_to(at);
        *self = kept;
        rest
    }

    /// The runs from the block at `start` on.
    pub(super) fn from(&self, start: u32) -> impl Iterator<Item = BlockRun> + Clone + '_ {
        let mut skip = start;
        self.runs.iter().filter_map(move |run| {
            let skipped = skip.min(run.len);
            skip -= skipped;
            let rest = BlockRun { first: run.first.offset(skipped), len: run.len - skipped };
            (rest.len > 0).then_some(rest)
        })
    }

    fn up_to(&self, end: u32) -> Self {
        let mut left = end;
        self.runs
            .iter()
            .map(|run| {
                let len = run.len.min(left);
                left -= len;
                BlockRun { first: run.first, len }
            })
            .filter(|run| run.len > 0)
            .collect()
    }
}

/// How many blocks two sequences of runs have in common from their starts.
pub(super) fn common_blocks(
    mut left: impl Iterator<Item = BlockRun>,
    mut right: impl Iterator<Item = BlockRun>,
) -> u32 {
    let mut common = 0;
    let (mut a, mut b) = (left.next(), right.next());
    while let (Some(x), Some(y)) = (a, b) {
        if x.first != y.first {
            break;
        }
        let len = x.len.min(y.len);
        common += len;
        let rest = |run: BlockRun| BlockRun { first: run.first.offset(len), len: run.len - len };
        a = if x.len > len { Some(rest(x)) } else { left.next() };
        b = if y.len > len { Some(rest(y)) } else { right.next() };
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(runs: &[(u64, u32)]) -> Path {
        runs.iter().map(|&(first, len)| BlockRun { first: BlockId(first), len }).collect()
    }

    fn ids(runs: impl Iterator<Item = BlockRun>) -> Vec<u64> {
        runs.flat_map(|run| (0..run.len).map(move |i| run.first.offset(i).0)).collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_list(
            runs in prop::collection::vec((0u64..12, 0u32..4), 0..6),
            other in prop::collection::vec((0u64..12, 0u32..4), 0..6),
            cut in 0u32..24,
        ) {
            let (mut whole, other) = (path(&runs), path(&other));
            let list = ids(whole.from(0));
            prop_assert_eq!(whole.len() as usize, list.len());
            let equal = list.iter().zip(&ids(other.from(0))).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(common_blocks(whole.from(0), other.from(0)) as usize, equal);
            let cut = cut.min(whole.len());
            let rest = whole.split_off(cut);
            prop_assert_eq!(ids(whole.from(0)), &list[..cut as usize]);
            prop_assert_eq!(ids(rest.from(0)), &list[cut as usize..]);
            prop_assert_eq!((whole.len(), rest.len() as usize), (cut, list.len() - cut as usize));
        }
    }
}
