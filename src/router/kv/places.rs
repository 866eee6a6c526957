//! Which run of ids holds a block: what an ordered map from first blocks would answer,
//! found in O(1).
//!
//! Ids are looked at in pages, and pages in chapters. A run stands in the page in which it
//! begins; each chapter knows its pages with beginnings, and the run that reaches into it.
//! So a block is found with one look at its own page mostly, and three at most, and a run
//! costs one entry, and one more for every chapter that it reaches into.

use crate::id::BlockId;
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use smallvec::SmallVec;

/// Ids in a page, and pages in a chapter.
const PAGE: u64 = 64;
const CHAPTER: u64 = PAGE * PAGE;

/// Runs of ids, none of which has a block in common with another, and what belongs to each.
#[derive(Debug)]
pub(super) struct Places<T> {
    /// Pages in which runs begin, and chapters with such pages or into which one reaches;
    /// never iterated.
    pages: HashTable<Page<T>>,
    chapters: HashTable<Chapter>,
}

#[derive(Debug)]
struct Page<T> {
    number: u64,
    /// By first block.
    runs: SmallVec<[(BlockId, T); 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Chapter {
    number: u64,
    /// One bit per page in which runs begin.
    pages: u64,
    /// The first block of the run that holds the block before the chapter and its first.
    reaches_in: Option<BlockId>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { pages: HashTable::new(), chapters: HashTable::new() }
    }
}

impl<T: Copy> Places<T> {
    /// The run that holds `block`, if any does: else perhaps one before it, whose end the
    /// caller knows.
    pub(super) fn find(&self, block: BlockId) -> Option<(BlockId, T)> {
        let page = block.0 / PAGE;
        if let Some(found) = self.page(page).and_then(|page| page.last_up_to(block)) {
            return Some(found);
        }
        let chapter = self.chapter(block.0 / CHAPTER)?;
        let before = chapter.pages & ((1 << (page % PAGE)) - 1);
        match before.checked_ilog2() {
            Some(place) => {
                let page = self.page(chapter.number * PAGE + u64::from(place));
                page.and_then(|page| page.last_up_to(block))
            }
            None => {
                let first = chapter.reaches_in?;
                self.page(first.0 / PAGE)?.last_up_to(first)
            }
        }
    }

    /// Where to go on looking down from `block`, if [`find`](Self::find) finds nothing: no
    /// run holds that block, nor any from there on.
    pub(super) fn chapter_of(block: BlockId) -> BlockId {
        BlockId(block.0 / CHAPTER * CHAPTER)
    }

    /// Where the first of the runs begins that begin in `run`.
    pub(super) fn first_within(&self, run: BlockRun) -> Option<BlockId> {
        let last = run.first.offset(run.len - 1);
        let mut page = run.first.0 / PAGE;
        while page <= last.0 / PAGE {
            let pages = self.chapter(page / PAGE).map_or(0, |chapter| chapter.pages);
            let from_here = pages >> (page % PAGE);
            if from_here == 0 {
                page = (page / PAGE + 1) * PAGE;
                continue;
            }
            page += u64::from(from_here.trailing_zeros());
            let found = self.page(page).and_then(|page| page.first_from(run.first));
            if let Some(first) = found {
                return Some(first).filter(|first| *first <= last);
            }
            page += 1;
        }
        None
    }

    /// Enters `run`, which is not empty.
    pub(super) fn insert(&mut self, run: BlockRun, value: T) {
        let first = run.first;
        let number = first.0 / PAGE;
        let runs = match self.pages.entry(mix(number), |page| page.number == number, hash_page) {
            Entry::Occupied(page) => &mut page.into_mut().runs,
            Entry::Vacant(vacant) => {
                let page = vacant.insert(Page { number, runs: SmallVec::new() });
                &mut page.into_mut().runs
            }
        };
        let at = runs.partition_point(|(other, _)| *other < first);
        runs.insert(at, (first, value));
        if runs.len() == 1 {
            self.change_chapter(first.0 / CHAPTER, |chapter| chapter.pages |= bit(number));
        }
        self.lengthen(first, 1, run.len);
    }

    /// The run that begins with `first` and had `from` blocks has `to` now.
    pub(super) fn lengthen(&mut self, first: BlockId, from: u32, to: u32) {
        let chapters = chapter_at(first, from) + 1..=chapter_at(first, to);
        for number in chapters {
            self.change_chapter(number, |chapter| chapter.reaches_in = Some(first));
        }
    }

    /// The run that begins with `first` and had `from` blocks has only `to` left.
    pub(super) fn shorten(&mut self, first: BlockId, from: u32, to: u32) {
        let chapters = chapter_at(first, to) + 1..=chapter_at(first, from);
        for number in chapters {
            self.change_chapter(number, |chapter| chapter.reaches_in = None);
        }
    }

    /// Takes `run` out.
    ///
    /// # Panics
    /// If it is not there.
    pub(super) fn remove(&mut self, run: BlockRun) {
        let first = run.first;
        let number = first.0 / PAGE;
        let page = self.pages.find_entry(mix(number), |page| page.number == number);
        let mut page = page.unwrap_or_else(|_| panic!("{run:?} has no place"));
        let runs = &mut page.get_mut().runs;
        let at = runs.iter().position(|(other, _)| *other == first);
        runs.remove(at.unwrap_or_else(|| panic!("{run:?} has no place")));
        if runs.is_empty() {
            page.remove();
            self.change_chapter(first.0 / CHAPTER, |chapter| chapter.pages &= !bit(number));
        }
        self.shorten(first, run.len, 1);
    }

    fn page(&self, number: u64) -> Option<&Page<T>> {
        self.pages.find(mix(number), |page| page.number == number)
    }

    fn chapter(&self, number: u64) -> Option<&Chapter> {
        self.chapters.find(mix(number), |chapter| chapter.number == number)
    }

    /// Changes a chapter, which is there only while it knows anything.
    fn change_chapter(&mut self, number: u64, change: impl FnOnce(&mut Chapter)) {
        let is_it = |chapter: &Chapter| chapter.number == number;
        let hash = |chapter: &Chapter| mix(chapter.number);
        match self.chapters.entry(mix(number), is_it, hash) {
            Entry::Occupied(mut entry) => {
                change(entry.get_mut());
                let Chapter { pages, reaches_in, .. } = *entry.get();
                if pages == 0 && reaches_in.is_none() {
                    entry.remove();
                }
            }
            Entry::Vacant(vacant) => {
                let mut chapter = Chapter { number, pages: 0, reaches_in: None };
                change(&mut chapter);
                vacant.insert(chapter);
            }
        }
    }
}

impl<T: Copy> Page<T> {
    /// The last run that begins at or before `block`.
    fn last_up_to(&self, block: BlockId) -> Option<(BlockId, T)> {
        self.runs.iter().rev().find(|(first, _)| *first <= block).copied()
    }

    /// Where the first run begins that does so at or after `block`.
    fn first_from(&self, block: BlockId) -> Option<BlockId> {
        self.runs.iter().map(|(first, _)| *first).find(|first| *first >= block)
    }
}

fn hash_page<T>(page: &Page<T>) -> u64 {
    mix(page.number)
}

/// The bit of a page in its chapter.
fn bit(page: u64) -> u64 {
    1 << (page % PAGE)
}

/// The chapter of the last of the `len` blocks from `first` on.
fn chapter_at(first: BlockId, len: u32) -> u64 {
    (first.0 + u64::from(len - 1)) / CHAPTER
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Ids about the ends of pages and chapters.
    fn any_id() -> impl Strategy<Value = u64> {
        let around = |at: u64| (at.saturating_sub(3)..at + 4).boxed();
        prop_oneof![
            around(PAGE),
            around(CHAPTER),
            around(3 * CHAPTER),
            around(3 * CHAPTER + 7 * PAGE),
            0..4 * CHAPTER,
        ]
    }

    fn any_len() -> impl Strategy<Value = u32> {
        prop_oneof![1u32..6, 1u32..200, 4_000u32..9_000]
    }

    /// The length of the run that holds `block`, and where it begins.
    fn holder(model: &BTreeMap<u64, u32>, block: u64) -> Option<(u64, u32)> {
        let (&first, &len) = model.range(..=block).next_back()?;
        (block < first + u64::from(len)).then_some((first, len))
    }

    proptest! {
        /// Runs that are entered, lengthened and taken out, against an ordered map.
        #[test]
        fn finds_what_an_ordered_map_finds(
            changes in prop::collection::vec((0u8..5, any_id(), any_len()), 1..60),
            asked in prop::collection::vec(any_id(), 0..60),
        ) {
            let (mut places, mut model) = (Places::default(), BTreeMap::new());
            let run = |first, len| BlockRun { first: BlockId(first), len };
            for (change, id, len) in changes {
                let room = model.range(id..).next().map_or(u64::MAX, |(next, _)| next - id);
                match holder(&model, id) {
                    Some((first, held)) if change == 0 => {
                        places.remove(run(first, held));
                        model.remove(&first);
                    }
                    Some((first, held)) if change == 1 => {
                        let left = held.div_ceil(len + 1);
                        places.shorten(BlockId(first), held, left);
                        model.insert(first, left);
                    }
                    Some((first, held)) => {
                        let next = model.range(first + 1..).next().map_or(u64::MAX, |(next, _)| *next);
                        let room = next - first - u64::from(held);
                        let more = len.min(u32::try_from(room).unwrap_or(u32::MAX));
                        places.lengthen(BlockId(first), held, held + more);
                        model.insert(first, held + more);
                    }
                    None => {
                        let len = len.min(u32::try_from(room).unwrap_or(u32::MAX));
                        places.insert(run(id, len), id);
                        model.insert(id, len);
                    }
                }
                for block in asked.iter().copied().chain([id]) {
                    let found = places.find(BlockId(block));
                    if let Some((first, value)) = found {
                        prop_assert!(first.0 <= block && model.contains_key(&first.0));
                        prop_assert_eq!(first.0, value);
                    } else {
                        let from = Places::<u64>::chapter_of(BlockId(block)).0;
                        prop_assert!((from..=block).all(|block| holder(&model, block).is_none()));
                    }
                    let within = model.range(block..block + u64::from(len)).next();
                    let within = within.map(|(first, _)| BlockId(*first));
                    prop_assert_eq!(places.first_within(run(block, len)), within);
                    if let Some((first, _)) = holder(&model, block) {
                        prop_assert_eq!(found.map(|(first, _)| first.0), Some(first));
                    }
                }
            }
            for (first, len) in model {
                places.remove(run(first, len));
            }
            prop_assert!(places.pages.is_empty() && places.chapters.is_empty());
        }
    }
}
