//! The closed loop: a fixed number of conversations at a time, each sending its
//! next turn only after the answer to the last.
//!
//! A *slot* is one of the concurrent users. It runs one conversation after
//! another, and all draws are keyed by (slot, how many conversations it began
//! before, turn): whichever policy serves them, and however their requests
//! interleave, slot 7's third conversation is the same. Where the load sinks and
//! rises again, slots that come back begin a new series of conversations: the same
//! ones, however many the slot had begun before.
//!
//! The prompt of a turn is the prompt of the turn before, its output and a new
//! question, so it grows by extension and shares all earlier full blocks. It
//! begins with one of a few *starter* texts that conversations have in common.

mod settings;
#[cfg(test)]
mod tests;

pub(super) use settings::is_zero;
pub use settings::{ConversationSettings, Turns};

use super::distribution::popular;
use super::{Arrival, MAX_CONCURRENCY, PAUSE_AFTER_REJECTION, Patience, Workload, private_run};
use crate::id::{BlockId, ConversationId, RequestId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::{Stream, Use, stream};
use crate::time::SimTime;
use rand::RngExt;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A slot begins at most 2 to this many conversations between two changes of the load
/// (assumed: far above any run).
const SERIES_BITS: u32 = 20;

/// The closed loop of [`ConversationSettings`]. Taking a request and hearing of
/// its end cost O(log concurrency).
#[derive(Debug)]
pub struct Conversations {
    settings: ConversationSettings,
    block_size: u32,
    seed: u64,
    /// Slots from this one on start nothing more.
    concurrency: u32,
    /// Lengths of the starters.
    starter_tokens: Vec<u32>,
    slots: Vec<Slot>,
    /// Changes of the load so far.
    series: u32,
    /// The next turn of every slot that is not waiting for an answer.
    sends: BinaryHeap<Reverse<Send>>,
    /// The slot of every request taken, by request id.
    slot_of: Vec<u32>,
    conversations_begun: u32,
}

/// A turn on its way to the router. The order of the fields is the order of
/// sending: by time, at equal times by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Send {
    at: SimTime,
    slot: u32,
    sent: SimTime,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    state: State,
    /// The number of the present conversation, and of the next one: those begun here
    /// before, in this series and with those of all series before.
    nth: u32,
    next: u32,
    /// It ends with the answer that it waits for.
    is_cut: bool,
    conversation: ConversationId,
    starter: u32,
    turn: u32,
    turns: u32,
    /// Of the present turn, or of the next one while that waits to be sent.
    prompt_tokens: u32,
    output_tokens: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// No conversation.
    #[default]
    Idle,
    /// Its next turn is in `sends`.
    Waiting,
    /// This request is unanswered.
    Inflight(RequestId),
}

impl Conversations {
    /// The closed loop with its first conversations about to start at time zero.
    ///
    /// # Panics
    /// If `settings` do not [`validate`](ConversationSettings::validate).
    pub fn new(settings: ConversationSettings, block_size: u32, seed: u64) -> Self {
        settings.validate().expect("validated settings");
        let starter_tokens = (0..u64::from(settings.starters))
            .map(|s| settings.starter_tokens.sample(&mut stream(seed, Use::Starter, s, 0)).0)
            .collect();
        let concurrency = settings.concurrency;
        let mut workload = Self {
            settings,
            block_size,
            seed,
            concurrency: 0,
            starter_tokens,
            slots: Vec::new(),
            series: 0,
            sends: BinaryHeap::new(),
            slot_of: Vec::new(),
            conversations_begun: 0,
        };
        workload.set_concurrency(SimTime::ZERO, concurrency, false);
        workload
    }

    /// The stream of one use for the slot's present conversation.
    fn draws(&self, slot: u32, usage: Use, turn: u32) -> Stream {
        let conversation = u64::from(slot) << 32 | u64::from(self.slots[slot as usize].nth);
        stream(self.seed, usage, conversation, u64::from(turn))
    }

    /// Begins the slot's next conversation; its first turn is sent at `sent`.
    fn begin_conversation(&mut self, slot: u32, sent: SimTime) {
        let conversation = ConversationId(self.conversations_begun);
        self.conversations_begun =
            self.conversations_begun.checked_add(1).expect("fewer than 2^32 conversations");
        let present = &mut self.slots[slot as usize];
        present.nth = present.next;
        present.next = present.next.checked_add(1).expect("fewer than 2^32 conversations");
        let mut draws = self.draws(slot, Use::Conversation, 0);
        let ConversationSettings { starters, starter_exponent, .. } = self.settings;
        let starter = popular(starters, starter_exponent, &mut draws);
        let turns = draws.random_range(self.settings.turns.min..=self.settings.turns.max);
        let present = &mut self.slots[slot as usize];
        *present = Slot {
            conversation,
            starter,
            turn: 0,
            turns,
            prompt_tokens: self.starter_tokens[starter as usize],
            output_tokens: 0,
            ..*present
        };
        self.begin_turn(slot, sent);
    }

    /// Adds output and question to the prompt and puts the turn on its way.
    fn begin_turn(&mut self, slot: u32, sent: SimTime) {
        let turn = self.slots[slot as usize].turn;
        let mut lengths = self.draws(slot, Use::Turn, turn);
        let question = self.settings.question_tokens.of(turn).sample(&mut lengths).0;
        let output = self.settings.output_tokens.of(turn).sample(&mut lengths).0;
        let mut jitter = self.draws(slot, Use::ClientOverhead, turn);
        let overhead = self.settings.client.way(self.concurrency, &mut jitter);
        let present = &mut self.slots[slot as usize];
        present.prompt_tokens += present.output_tokens + question;
        present.output_tokens = output;
        present.state = State::Waiting;
        self.sends.push(Reverse(Send { at: sent + overhead, slot, sent }));
    }

    /// The blocks of the slot's present conversation.
    fn content(&self, slot: &Slot) -> Content {
        let tokens = self.starter_tokens[slot.starter as usize];
        let (len, fork_tokens) = (tokens / self.block_size, tokens % self.block_size);
        // The longest possible starter leaves room for every one.
        let stride = self.settings.starter_tokens.bounds().1.0 / self.block_size;
        let first = BlockId(u64::from(slot.starter) * u64::from(stride));
        let content = Content::new([BlockRun { first, len }], private_run(slot.conversation.0));
        // Without a shared block nothing tells the starters apart.
        content.with_fork_tokens(if len > 0 { fork_tokens } else { 0 })
    }

    /// Stops the slots from `self.concurrency` on: they begin no conversation, and if
    /// they are `cut`, turns that are not yet sent are not sent.
    fn stop_slots(&mut self, now: SimTime, cut: bool) {
        let slots = &mut self.slots;
        let concurrency = self.concurrency;
        for slot in slots.iter_mut().skip(concurrency as usize) {
            slot.is_cut |= cut;
        }
        self.sends.retain(|Reverse(send)| {
            let slot = &mut slots[send.slot as usize];
            let goes_on = slot.turn > 0 && !slot.is_cut;
            let stays = send.slot < concurrency || send.sent <= now || goes_on;
            if !stays {
                slot.state = State::Idle;
            }
            stays
        });
    }

    /// Starts a conversation in every idle slot below `self.concurrency`.
    fn start_slots(&mut self, now: SimTime, before: u32) {
        let series = self.series << SERIES_BITS;
        let concurrency = self.concurrency as usize;
        for slot in self.slots.iter_mut().take(concurrency).skip(before as usize) {
            slot.next = slot.next.max(series);
            slot.is_cut = false;
        }
        if self.slots.len() < self.concurrency as usize {
            self.slots.resize(self.concurrency as usize, Slot::default());
        }
        let idle: Vec<u32> = (0..self.concurrency)
            .filter(|&slot| self.slots[slot as usize].state == State::Idle)
            .collect();
        let apart = self.settings.start_spread / idle.len().max(1) as u64;
        for (i, &slot) in (0..).zip(&idle) {
            self.begin_conversation(slot, now + apart * i);
        }
    }
}

impl Workload for Conversations {
    fn next_arrival(&self) -> Option<SimTime> {
        self.sends.peek().map(|Reverse(send)| send.at)
    }

    fn take(&mut self) -> Arrival {
        let Reverse(Send { at, slot, sent }) = self.sends.pop().expect("a turn is due");
        let id = RequestId(u32::try_from(self.slot_of.len()).expect("fewer than 2^32 requests"));
        self.slot_of.push(slot);
        self.slots[slot as usize].state = State::Inflight(id);
        let present = &self.slots[slot as usize];
        let request = Request {
            id,
            conversation: present.conversation,
            turn: present.turn,
            prompt_tokens: present.prompt_tokens,
            output_tokens: present.output_tokens,
            max_tokens: self.settings.output_tokens.most().0,
            priority: 0,
            content: self.content(present),
        };
        Arrival { at, sent, request, patience: Patience::default() }
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let slot = self.slot_of[request.index()];
        let present = self.slots[slot as usize];
        assert_eq!(present.state, State::Inflight(request), "slot {slot} ends another request");
        let think =
            self.settings.think_time.sample(&mut self.draws(slot, Use::ThinkTime, present.turn));
        let goes_on = served && present.turn + 1 < present.turns;
        let stops = slot >= self.concurrency;
        let present = &mut self.slots[slot as usize];
        present.state = State::Idle;
        if goes_on && !(stops && present.is_cut) {
            present.turn += 1;
            self.begin_turn(slot, now + think);
            return;
        }
        if !stops {
            let pause = if served { think } else { think.max(PAUSE_AFTER_REJECTION) };
            self.begin_conversation(slot, now + pause);
        }
    }

    fn set_concurrency(&mut self, now: SimTime, conversations: u32, cut: bool) -> bool {
        if conversations > MAX_CONCURRENCY {
            return false;
        }
        let before = std::mem::replace(&mut self.concurrency, conversations);
        self.stop_slots(now, cut);
        self.start_slots(now, before);
        self.series += 1;
        true
    }
}
