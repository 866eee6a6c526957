//! The order in which free slots are taken.

use super::slot::{NONE, Slot};

/// Free slots that hold something, the first given back the first to be taken.
///
/// A slot can be taken out of the middle, because its content was hit. All operations
/// are O(1).
#[derive(Debug)]
pub(crate) struct FreeQueue {
    links: Vec<Link>,
    head: Slot,
    tail: Slot,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: Slot,
    next: Slot,
}

impl FreeQueue {
    pub(crate) fn new() -> Self {
        Self { links: Vec::new(), head: NONE, tail: NONE, len: 0 }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Takes the next slot.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        let slot = self.head;
        if slot == NONE {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }

    /// Room for one more slot, in use; the caller numbers them from 0.
    pub(crate) fn grow(&mut self) {
        self.links.push(Link { prev: NONE, next: NONE });
    }

    /// The slots that were given back, in order. For tests.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let some = |slot: Slot| (slot != NONE).then_some(slot);
        std::iter::successors(some(self.head), move |&slot| some(self.links[slot as usize].next))
    }

    pub(crate) fn push_back(&mut self, slot: Slot) {
        self.links[slot as usize] = Link { prev: self.tail, next: NONE };
        match self.tail {
            NONE => self.head = slot,
            tail => self.links[tail as usize].next = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    /// Takes `slot` out.
    pub(crate) fn remove(&mut self, slot: Slot) {
        let Link { prev, next } = self.links[slot as usize];
        match prev {
            NONE => self.head = next,
            prev => self.links[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => self.links[next as usize].prev = prev,
        }
        self.len -= 1;
    }
}
