//! An open loop of sessions: they begin by a process of arrivals, whatever became of those
//! before, and each has turns that wait for each other. `sim trace fit` makes one of a log.
//!
//! A session is of a *class* and begins with one of a few texts. A turn either goes on from
//! the prompt before it and its answer, or is an *edit*, which keeps a beginning of that
//! prompt. Several turns may go on from one: the session branches, and each branch goes on
//! by itself. A turn that is not served ends its branch.
//!
//! All draws are keyed by session, branch and turn: policies are compared on the same
//! sessions.

mod settings;
#[cfg(test)]
mod tests;

pub use settings::{Edits, PrefixTexts, SessionClass, SessionSettings};

use super::arrivals::Arrivals;
use super::distribution::{popular, weighted};
use super::{Arrival, Patience, Workload, private_run};
use crate::id::{BlockId, ConversationId, RequestId};
use crate::request::{BlockRun, Content, Request};
use crate::rng::{Stream, Use, mix, stream};
use crate::time::{SimDuration, SimTime};
use rand::RngExt;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most turns that go on from one (assumed: more than any agent calls at once).
const MOST_BRANCHES: u64 = 1_000;

/// The open loop of [`SessionSettings`]. Taking a request and hearing of its end cost
/// O(log n) in the number of sessions that wait to send.
#[derive(Debug)]
pub struct Sessions {
    settings: SessionSettings,
    block_size: u32,
    seed: u64,
    arrivals: Arrivals,
    /// When the next session begins.
    next: SimTime,
    /// Sessions begun by the process, and all, those before the start included.
    begun: u32,
    numbered: u32,
    /// By entry of the texts, the number of its first one.
    first_texts: Vec<u32>,
    /// Block ids from the beginning of one text to that of the next.
    stride: u64,
    /// By slot: sessions that are open, and slots that are free.
    open: Vec<Session>,
    free: Vec<u32>,
    /// On their way.
    sends: BinaryHeap<Reverse<Send>>,
    /// Private runs that were named.
    runs: u32,
    /// The slot of every request taken, by request id.
    slot_of: Vec<u32>,
}

/// A turn on its way to the router. The order of the fields is the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Send {
    at: SimTime,
    branch: u64,
    slot: u32,
}

/// A branch of a session, of which most have one.
#[derive(Clone, Debug)]
struct Session {
    number: u32,
    /// What draws are keyed by: the session's number, and of further branches a hash of
    /// where they began.
    branch: u64,
    class: usize,
    turn: u32,
    /// When its present turn was sent.
    sent: SimTime,
    prompt_tokens: u32,
    output_tokens: u32,
    content: Content,
}

impl Sessions {
    /// The loop from its start, for engines with blocks of `block_size` tokens.
    ///
    /// # Panics
    /// If `settings` do not [`validate`](SessionSettings::validate).
    pub fn new(settings: SessionSettings, block_size: u32, seed: u64) -> Self {
        settings.validate().expect("validated settings");
        let mut arrivals = Arrivals::new(settings.arrivals.clone(), seed);
        let next = arrivals.next_time();
        let texts = settings.prefix.iter().scan(0, |texts, prefix| {
            let first = *texts;
            *texts += prefix.texts;
            Some(first)
        });
        // The longest leaves room for every one, and runs of two texts do not meet.
        let longest = settings.prefix.iter().map(|prefix| prefix.tokens.0).max().unwrap_or(0);
        let mut sessions = Self {
            first_texts: texts.collect(),
            stride: u64::from(longest / block_size + 2),
            settings,
            block_size,
            seed,
            arrivals,
            next,
            begun: 0,
            numbered: 0,
            open: Vec::new(),
            free: Vec::new(),
            sends: BinaryHeap::new(),
            runs: 0,
            slot_of: Vec::new(),
        };
        sessions.begin_before_start();
        sessions.begin_due();
        sessions
    }

    /// Puts the sessions on their way that began before the start and are still open.
    fn begin_before_start(&mut self) {
        let begun = SimTime::ZERO + self.settings.begun;
        let Some(process) = self.settings.arrivals.before_start() else { return };
        let mut process = Arrivals::new(process, mix(self.seed));
        loop {
            let before = process.next_time();
            if before > begun {
                return;
            }
            // Branches that are not yet at the start, and their time until then.
            let mut early = vec![(self.draw(), before.since(SimTime::ZERO))];
            while let Some((session, left)) = early.pop() {
                for next in self.followers(&session) {
                    let (gap, think_time) = self.waits(&next);
                    let wait = gap.max(think_time);
                    match left.as_ps().checked_sub(wait.as_ps()) {
                        Some(rest) => early.push((next, SimDuration::from_ps(rest))),
                        None => self.send(next, SimTime::ZERO + (wait - left)),
                    }
                }
            }
        }
    }

    /// Begins whatever session could send before all that is on its way.
    fn begin_due(&mut self) {
        while self.settings.count.is_none_or(|count| self.begun < count)
            // Beyond the end of time nothing is sent.
            && self.next < SimTime::MAX
            && self.sends.peek().is_none_or(|Reverse(send)| self.next <= send.at)
        {
            let at = std::mem::replace(&mut self.next, self.arrivals.next_time());
            self.begun += 1;
            let session = self.draw();
            self.send(session, at);
        }
    }

    fn draws(&self, session: &Session, usage: Use) -> Stream {
        stream(self.seed, usage, session.branch, session.turn.into())
    }

    /// The next session, about to send its first turn.
    fn draw(&mut self) -> Session {
        let number = self.numbered;
        self.numbered = number.checked_add(1).expect("fewer than 2^32 sessions");
        let mut draws = stream(self.seed, Use::Conversation, number.into(), 0);
        let class = weighted(self.settings.class.iter().map(|class| class.weight), &mut draws);
        let private = self.name_run();
        let (prefix_tokens, content) = self.prefix(private, &mut draws);
        let mut session = Session {
            number,
            branch: number.into(),
            class,
            turn: 0,
            sent: SimTime::ZERO,
            prompt_tokens: 0,
            output_tokens: 0,
            content,
        };
        let mut lengths = self.draws(&session, Use::Turn);
        let class = &self.settings.class[class];
        let own = class.first_tokens.sample(&mut lengths).0;
        let most = self.settings.max_prompt_tokens.0;
        session.prompt_tokens = prefix_tokens.saturating_add(own).min(most);
        session.output_tokens = class.output_tokens.sample(&mut lengths).0;
        session
    }

    /// The text that a session begins with: its tokens, and the blocks of all that follows.
    fn prefix(&self, private: BlockId, draws: &mut Stream) -> (u32, Content) {
        let prefixes = &self.settings.prefix;
        if prefixes.is_empty() {
            return (0, Content::new([], private));
        }
        let place = weighted(prefixes.iter().map(|prefix| prefix.weight), draws);
        let prefix = &prefixes[place];
        let text = self.first_texts[place] + popular(prefix.texts, prefix.exponent, draws);
        let (tokens, common) =
            (prefix.tokens.0, self.settings.common_tokens.0.min(prefix.tokens.0));
        let (all, common_blocks) = (tokens / self.block_size, common / self.block_size);
        let own = BlockId(u64::from(text + 1) * self.stride);
        let runs = [(BlockId(0), common_blocks), (own, all - common_blocks)]
            .map(|(first, len)| BlockRun { first, len });
        // Without a block of its own nothing tells a text from another.
        let fork = match (all > common_blocks, common_blocks > 0) {
            (true, _) => tokens % self.block_size,
            (false, true) => common % self.block_size,
            (false, false) => 0,
        };
        (tokens, Content::new(runs, private).with_fork_tokens(fork))
    }

    /// Blocks that no text has yet.
    fn name_run(&mut self) -> BlockId {
        self.runs = self.runs.checked_add(1).expect("fewer than 2^32 texts of sessions");
        private_run(self.runs - 1)
    }

    /// The turns that go on from the present one of a session, the first in its place.
    fn followers(&mut self, session: &Session) -> Vec<Session> {
        let class = &self.settings.class[session.class];
        let share = class.goes_on.get(session.turn as usize).or(class.goes_on.last());
        let (share, branches) = (share.copied().unwrap_or(0.0), class.branches);
        let turn = session.turn + 1;
        let mut draws = stream(self.seed, Use::Conversation, session.branch, turn.into());
        if !draws.random_bool(share) {
            return Vec::new();
        }
        let first = self.follower(session, session.branch, &mut draws);
        let mut followers: Vec<Session> = first.into_iter().collect();
        for number in 1..MOST_BRANCHES {
            if branches == 0.0 || !draws.random_bool(branches) {
                break;
            }
            let branch = mix(session.branch ^ mix(u64::from(turn) << 32 | number));
            let mut draws = stream(self.seed, Use::Conversation, branch, turn.into());
            followers.extend(self.follower(session, branch, &mut draws));
        }
        followers
    }

    /// The turn after the present one of a session on a branch; none if its prompt would be
    /// too long.
    fn follower(&mut self, session: &Session, branch: u64, draws: &mut Stream) -> Option<Session> {
        let mut next = Session { branch, turn: session.turn + 1, ..session.clone() };
        let class = &self.settings.class[session.class];
        let mut lengths = self.draws(&next, Use::Turn);
        // How much of what was there stays, if not all, and what comes after it.
        let (kept, new) = match class.edits.as_ref().filter(|edits| draws.random_bool(edits.share))
        {
            Some(edits) => {
                let kept = edits.kept_tokens.sample(&mut lengths).0.min(session.prompt_tokens);
                (Some(kept), edits.new_tokens.sample(&mut lengths).0)
            }
            None => (None, class.question_tokens.sample(&mut lengths).0),
        };
        let before = session.prompt_tokens.saturating_add(session.output_tokens);
        next.prompt_tokens = kept.unwrap_or(before).saturating_add(new);
        next.output_tokens = class.output_tokens.sample(&mut lengths).0;
        // Another branch has the answer too, and blocks of its own after that.
        let kept = kept.or((branch != session.branch).then_some(before));
        if let Some(kept) = kept {
            let private = self.name_run();
            next.content = Content::new(session.content.runs(kept / self.block_size), private);
        }
        (next.prompt_tokens <= self.settings.max_prompt_tokens.0).then_some(next)
    }

    /// How long after the sending of the turn before, and after its answer, the present
    /// turn of a session is sent.
    fn waits(&self, session: &Session) -> (SimDuration, SimDuration) {
        let class = &self.settings.class[session.class];
        let mut draws = self.draws(session, Use::ThinkTime);
        (class.gap.sample(&mut draws), class.think_time.sample(&mut draws))
    }

    /// Puts the present turn of a session, sent at `sent` or the next tick, on its way.
    fn send(&mut self, mut session: Session, sent: SimTime) {
        session.sent = match self.settings.tick.as_ps() {
            0 => sent,
            tick => SimTime::from_ps(sent.since(SimTime::ZERO).as_ps().next_multiple_of(tick)),
        };
        let way = self.settings.client.way(0, &mut self.draws(&session, Use::ClientOverhead));
        let (at, branch) = (session.sent + way, session.branch);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.open[slot as usize] = session;
                slot
            }
            None => {
                self.open.push(session);
                u32::try_from(self.open.len() - 1).expect("fewer than 2^32 sessions")
            }
        };
        self.sends.push(Reverse(Send { at, branch, slot }));
    }
}

impl Workload for Sessions {
    fn next_arrival(&self) -> Option<SimTime> {
        self.sends.peek().map(|Reverse(send)| send.at)
    }

    fn take(&mut self) -> Arrival {
        let Reverse(Send { at, slot, .. }) = self.sends.pop().expect("a turn is due");
        let id = RequestId(u32::try_from(self.slot_of.len()).expect("fewer than 2^32 requests"));
        self.slot_of.push(slot);
        let session = &self.open[slot as usize];
        let (sent, output_tokens) = (session.sent, session.output_tokens);
        let request = Request {
            id,
            conversation: ConversationId(session.number),
            turn: session.turn,
            prompt_tokens: session.prompt_tokens,
            output_tokens,
            max_tokens: output_tokens,
            priority: 0,
            content: session.content.clone(),
        };
        self.begin_due();
        Arrival { at, sent, request, patience: Patience::default() }
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, served: bool) {
        let slot = self.slot_of[request.index()];
        self.free.push(slot);
        if !served {
            return;
        }
        let session = self.open[slot as usize].clone();
        for next in self.followers(&session) {
            let (gap, think_time) = self.waits(&next);
            let at = (now + think_time).max(session.sent + gap);
            self.send(next, at);
        }
    }

    fn set_rate(&mut self, now: SimTime, per_s: f64) -> bool {
        let Some(change) = self.arrivals.set_rate(now, per_s) else { return false };
        self.next = change.moved(self.next);
        self.begin_due();
        true
    }
}
