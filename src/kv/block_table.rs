//! A table from block ids to small numbers, made for runs of ids.

use crate::id::BlockId;
use crate::request::BlockRun;
use crate::rng::mix;
use hashbrown::HashTable;
use std::cell::Cell;

/// Ids in a group.
const NEIGHBOURS: usize = 16;

/// "No number": the one value that a table cannot hold.
const NONE: u32 = u32::MAX;

/// A number below 2^32 - 1 for each of any block ids.
///
/// The ids of a sequence are consecutive mostly, and its blocks are looked up,
/// stored and lost one after another. So the table holds groups of sixteen
/// neighbours and remembers the group it used last: most calls cost an
/// access to an array, one of sixteen a hash and a probe. A lone id costs the
/// memory of a group, 80 bytes.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    /// Indices of groups, by key; never iterated.
    places: HashTable<u32>,
    groups: Vec<Group>,
    /// Groups without numbers, to be used again.
    vacant: Vec<u32>,
    recent: Cell<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// Its ids divided by [`NEIGHBOURS`].
    key: u64,
    /// How many of its ids have a number.
    len: u32,
    numbers: [u32; NEIGHBOURS],
}

impl Group {
    fn new(key: u64) -> Self {
        Self { key, len: 0, numbers: [NONE; NEIGHBOURS] }
    }
}

impl BlockTable {
    /// The number of `id`.
    pub(crate) fn get(&self, id: BlockId) -> Option<u32> {
        let number = self.groups[self.find(key(id))?].numbers[place(id)];
        (number != NONE).then_some(number)
    }

    /// How many of the first ids of `run` have numbers, up to the first that has none.
    pub(crate) fn leading(&self, run: BlockRun) -> u32 {
        let mut found = 0;
        while found < run.len {
            let id = run.first.offset(found);
            let Some(at) = self.find(key(id)) else { break };
            let Group { len, ref numbers, .. } = self.groups[at];
            let own = &numbers[place(id)..];
            let present = match len as usize {
                NEIGHBOURS => own.len(),
                _ => own.iter().take_while(|&&number| number != NONE).count(),
            };
            found += narrow(present);
            if present < own.len() {
                break;
            }
        }
        found.min(run.len)
    }

    /// A number of ids, from `id` downwards, of which none has a number; 0 unless that is
    /// known at once.
    pub(crate) fn vacant_down_from(&self, id: BlockId) -> u32 {
        if self.find(key(id)).is_some() { 0 } else { narrow(place(id)) + 1 }
    }

    /// Gives `id` the number `number`, unless it has one already.
    ///
    /// # Errors
    /// The number it has and keeps.
    pub(crate) fn insert(&mut self, id: BlockId, number: u32) -> Result<(), u32> {
        debug_assert_ne!(number, NONE);
        let group = self.group(id);
        let before = &mut group.numbers[place(id)];
        if *before != NONE {
            return Err(*before);
        }
        *before = number;
        group.len += 1;
        Ok(())
    }

    /// Gives the first ids of `run` the number `number`, up to the first that has another
    /// one; how many have it now.
    pub(crate) fn fill(&mut self, run: BlockRun, number: u32) -> u32 {
        debug_assert_ne!(number, NONE);
        let mut filled = 0;
        while filled < run.len {
            let id = run.first.offset(filled);
            let len = (NEIGHBOURS - place(id)).min((run.len - filled) as usize);
            let group = self.group(id);
            let own = &mut group.numbers[place(id)..][..len];
            let same = own.iter().take_while(|&&held| held == NONE || held == number).count();
            let vacant = own[..same].iter().filter(|&&held| held == NONE).count();
            own[..same].fill(number);
            group.len += narrow(vacant);
            filled += narrow(same);
            if same < len {
                break;
            }
        }
        filled
    }

    /// Gives `id` the number `number`; gives back the one that it had.
    pub(crate) fn replace(&mut self, id: BlockId, number: u32) -> Option<u32> {
        debug_assert_ne!(number, NONE);
        let group = self.group(id);
        let before = std::mem::replace(&mut group.numbers[place(id)], number);
        group.len += u32::from(before == NONE);
        (before != NONE).then_some(before)
    }

    /// Takes the number of `id` away.
    ///
    /// # Panics
    /// If it has none.
    pub(crate) fn remove(&mut self, id: BlockId) {
        let (at, number) = self.present(id);
        *number = NONE;
        let group = &mut self.groups[at];
        group.len -= 1;
        if group.len > 0 {
            return;
        }
        // No id has this key, so nothing finds the group any more.
        group.key = u64::MAX;
        let index = narrow(at);
        match self.places.find_entry(mix(key(id)), |&found| found == index) {
            Ok(place) => drop(place.remove()),
            Err(_) => panic!("group {index} of {id:?} is not in the table"),
        }
        self.vacant.push(index);
    }

    #[inline]
    fn group(&mut self, id: BlockId) -> &mut Group {
        match self.find(key(id)) {
            Some(at) => &mut self.groups[at],
            None => self.add(key(id)),
        }
    }

    fn present(&mut self, id: BlockId) -> (usize, &mut u32) {
        let at = self.find(key(id)).unwrap_or_else(|| panic!("{id:?} is not in the table"));
        let number = &mut self.groups[at].numbers[place(id)];
        assert_ne!(*number, NONE, "{id:?} is not in the table");
        (at, number)
    }

    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        let recent = self.recent.get();
        if self.groups.get(recent).is_some_and(|group| group.key == key) {
            return Some(recent);
        }
        self.search(key)
    }

    fn search(&self, key: u64) -> Option<usize> {
        let found = self.places.find(mix(key), |&at| self.groups[at as usize].key == key)?;
        let at = *found as usize;
        self.recent.set(at);
        Some(at)
    }

    fn add(&mut self, key: u64) -> &mut Group {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.groups.push(Group::new(key));
            narrow(self.groups.len() - 1)
        });
        let groups = &mut self.groups;
        groups[index as usize] = Group::new(key);
        self.places.insert_unique(mix(key), index, |&at| mix(groups[at as usize].key));
        self.recent.set(index as usize);
        &mut self.groups[index as usize]
    }
}

fn key(id: BlockId) -> u64 {
    id.0 / NEIGHBOURS as u64
}

#[expect(clippy::cast_possible_truncation, reason = "below NEIGHBOURS")]
fn place(id: BlockId) -> usize {
    (id.0 % NEIGHBOURS as u64) as usize
}

fn narrow(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 groups")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Change {
        Insert(u64, u32),
        Fill(u64, u32, u32),
        Replace(u64, u32),
        Remove(u64),
    }

    fn change() -> impl Strategy<Value = Change> {
        // A few groups, at both ends of what ids can be.
        let id = || prop_oneof![0..50u64, u64::MAX - 40..=u64::MAX];
        prop_oneof![
            8 => (id(), 0..9u32).prop_map(|(id, n)| Change::Insert(id, n)),
            4 => (0..50u64, 0..40u32, 0..3u32).prop_map(|(id, len, n)| Change::Fill(id, len, n)),
            4 => (id(), 0..9u32).prop_map(|(id, n)| Change::Replace(id, n)),
            8 => id().prop_map(Change::Remove),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn behaves_like_a_map(changes in prop::collection::vec(change(), 0..200)) {
            let (mut table, mut model) = (BlockTable::default(), BTreeMap::new());
            for change in changes {
                match change {
                    Change::Insert(id, number) => {
                        let expected = model.get(&id).map_or(Ok(()), |&before| Err(before));
                        prop_assert_eq!(table.insert(BlockId(id), number), expected);
                        model.entry(id).or_insert(number);
                    }
                    Change::Fill(first, len, number) => {
                        let takes = |id: &u64| model.get(id).is_none_or(|held| *held == number);
                        let ids: Vec<u64> = (first..first + u64::from(len)).take_while(takes).collect();
                        let run = BlockRun { first: BlockId(first), len };
                        prop_assert_eq!(table.fill(run, number) as usize, ids.len());
                        model.extend(ids.into_iter().map(|id| (id, number)));
                    }
                    Change::Replace(id, number) => {
                        prop_assert_eq!(table.replace(BlockId(id), number), model.insert(id, number));
                    }
                    Change::Remove(id) if model.contains_key(&id) => {
                        table.remove(BlockId(id));
                        model.remove(&id);
                    }
                    Change::Remove(_) => {}
                }
                for id in (0..90).chain(u64::MAX - 40..=u64::MAX) {
                    prop_assert_eq!(table.get(BlockId(id)), model.get(&id).copied());
                }
                for id in 0..50 {
                    let run = BlockRun { first: BlockId(id), len: 40 };
                    let leading = (id..id + 40).take_while(|id| model.contains_key(id)).count();
                    prop_assert_eq!(table.leading(run), narrow(leading));
                    let vacant = u64::from(table.vacant_down_from(BlockId(id)));
                    prop_assert!((id + 1 - vacant..=id).all(|id| !model.contains_key(&id)));
                }
            }
        }
    }

    #[test]
    fn groups_are_used_again() {
        let mut table = BlockTable::default();
        for id in 0..1_000 {
            table.insert(BlockId(id), 1).unwrap();
            if let Some(old) = id.checked_sub(100) {
                table.remove(BlockId(old));
            }
        }
        assert!(table.groups.len() <= 100 / 16 + 2, "{} groups", table.groups.len());
    }
}
