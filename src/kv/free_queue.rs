//! The order in which free slots are taken.

use super::slot::{NONE, Slot};

/// Free slots in the order in which they will be taken:
///
/// 1. slots never used, in ascending order (they cost no memory until used);
/// 2. slots given back, the first given back first.
///
/// A slot in the second part can be taken out of the middle, because its content
/// was hit. All operations are O(1).
#[derive(Debug)]
pub(crate) struct FreeQueue {
    next_fresh: Slot,
    end: Slot,
    links: Vec<Link>,
    head: Slot,
    tail: Slot,
    back_len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: Slot,
    next: Slot,
}

impl FreeQueue {
    pub(crate) fn new(slots: u32) -> Self {
        Self { next_fresh: 0, end: slots, links: Vec::new(), head: NONE, tail: NONE, back_len: 0 }
    }

    pub(crate) fn len(&self) -> u32 {
        (self.end - self.next_fresh) + self.back_len
    }

    /// Takes the next slot. A fresh slot is the one whose number equals the
    /// number of slots used so far.
    pub(crate) fn pop(&mut self) -> Option<Slot> {
        if self.next_fresh < self.end {
            let slot = self.next_fresh;
            self.next_fresh += 1;
            self.grow();
            return Some(slot);
        }
        let slot = self.head;
        if slot == NONE {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }

    /// Room for one more slot, in use, where slots are numbered by the caller.
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
        self.back_len += 1;
    }

    /// Takes `slot` out of the back part.
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
        self.back_len -= 1;
    }
}
