//! Random histories: what a router hears and is asked, whatever the policy.

use super::{FINISHED, Texts, life};
use crate::event::{KvEvent, Medium, WorkerEvent, WorkerEventKind};
use crate::id::{RequestId, WorkerId};
use crate::request::Request;
use crate::router::Policy;
use crate::time::{SimDuration, SimTime};
use proptest::prelude::*;
use proptest::sample::Index;

/// Tokens in a block of every random history.
pub(crate) const BLOCK_SIZE: u32 = 16;

/// No text is longer.
pub(crate) const MOST_BLOCKS: u32 = 18;

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// A request comes for so many tokens of a text.
    Route { text: Index, tokens: u32 },
    /// Some milliseconds pass.
    Wait { ms: u64 },
    /// A request in flight gives its first token.
    FirstToken(Index),
    /// A request in flight gives so many tokens.
    Generate { which: Index, tokens: u32 },
    /// A request in flight ends.
    Finish(Index),
    /// A worker stores blocks `from..to` of a text.
    Store { worker: u32, text: Index, from: u32, to: u32 },
    /// A worker loses blocks `from..to` of a text, holes or not.
    Lose { worker: u32, text: Index, from: u32, to: u32 },
    /// A worker stores blocks `from..to` of a text in a lower tier, or loses them there.
    Below { worker: u32, text: Index, from: u32, to: u32, medium: Medium, stored: bool },
    /// A worker loses everything, and its requests end.
    Restart { worker: u32 },
}

/// Up to `most` acts on `workers` workers.
pub(crate) fn any_acts(workers: u32, most: usize) -> impl Strategy<Value = Vec<Act>> {
    let index = any::<Index>;
    let most_tokens = MOST_BLOCKS * BLOCK_SIZE + BLOCK_SIZE - 1;
    let blocks = || (0..workers, index(), 0..MOST_BLOCKS, 1..=MOST_BLOCKS);
    let act = prop_oneof![
        6 => (index(), 1..=most_tokens).prop_map(|(text, tokens)| Act::Route { text, tokens }),
        1 => (1u64..700).prop_map(|ms| Act::Wait { ms }),
        2 => index().prop_map(Act::FirstToken),
        3 => (index(), 1u32..90).prop_map(|(which, tokens)| Act::Generate { which, tokens }),
        4 => index().prop_map(Act::Finish),
        4 => (0..workers, index(), 1..=MOST_BLOCKS)
            .prop_map(|(worker, text, to)| Act::Store { worker, text, from: 0, to }),
        2 => blocks().prop_map(|(worker, text, from, len)| {
            Act::Store { worker, text, from, to: (from + len).min(MOST_BLOCKS) }
        }),
        2 => (0..workers, index(), 0..MOST_BLOCKS)
            .prop_map(|(worker, text, from)| Act::Lose { worker, text, from, to: MOST_BLOCKS }),
        2 => blocks().prop_map(|(worker, text, from, len)| {
            Act::Lose { worker, text, from, to: (from + len).min(MOST_BLOCKS) }
        }),
        3 => (blocks(), any::<Index>(), prop::bool::weighted(0.7)).prop_map(
            |((worker, text, from, len), medium, stored)| {
                let to = (from + len).min(MOST_BLOCKS);
                let medium = *medium.get(&Medium::ALL);
                Act::Below { worker, text, from, to, medium, stored }
            }
        ),
        1 => (0..workers).prop_map(|worker| Act::Restart { worker }),
    ];
    prop::collection::vec(act, 1..most)
}

/// What a policy hears.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    Life(WorkerEvent),
    Kv(WorkerId, KvEvent),
}

impl Heard {
    pub(crate) fn tell(&self, now: SimTime, policy: &mut dyn Policy) {
        match self {
            Self::Life(event) => policy.observe(now, event),
            Self::Kv(worker, event) => policy.observe_kv(*worker, event),
        }
    }

    #[cfg(feature = "dynamo")]
    pub(crate) fn is_life(&self) -> bool {
        matches!(self, Self::Life(_))
    }

    /// The same with worker `w` called `label[w]`.
    pub(crate) fn relabelled(self, label: &[u32]) -> Self {
        let name = |worker: WorkerId| WorkerId(label[worker.index()]);
        match self {
            Self::Life(event) => Self::Life(WorkerEvent { worker: name(event.worker), ..event }),
            Self::Kv(worker, event) => Self::Kv(name(worker), event),
        }
    }
}

/// A history under way.
pub(crate) struct History<'a> {
    texts: &'a Texts,
    workers: u32,
    requests: u32,
    now: SimTime,
    inflight: Vec<InFlight>,
}

#[derive(Clone, Copy)]
struct InFlight {
    worker: WorkerId,
    id: RequestId,
    prompt_tokens: u32,
    output_tokens: u32,
}

impl InFlight {
    fn tell(&self, kind: WorkerEventKind, hear: &mut dyn FnMut(Heard)) {
        hear(Heard::Life(life(self.worker.0, self.id.0, kind)));
    }

    fn generate(&mut self, tokens: u32, hear: &mut dyn FnMut(Heard)) {
        for _ in 0..tokens {
            let begins_block = (self.prompt_tokens + self.output_tokens).is_multiple_of(BLOCK_SIZE);
            self.output_tokens += 1;
            let output_tokens = self.output_tokens;
            match output_tokens {
                1 => self.tell(WorkerEventKind::FirstToken, hear),
                _ if begins_block => {
                    self.tell(WorkerEventKind::OutputBlock { output_tokens }, hear)
                }
                _ => {}
            }
        }
    }
}

impl<'a> History<'a> {
    pub(crate) fn new(texts: &'a Texts, workers: u32) -> Self {
        Self { texts, workers, requests: 0, now: SimTime::ZERO, inflight: Vec::new() }
    }

    #[cfg(feature = "dynamo")]
    pub(crate) fn now(&self) -> SimTime {
        self.now
    }

    /// Does `act`: gives the request to be routed, or hands out what is heard.
    pub(crate) fn play(&mut self, act: &Act, mut hear: impl FnMut(Heard)) -> Option<Request> {
        let text = |index: &Index| index.index(self.texts.len());
        let kv = |worker: u32, events: Vec<KvEvent>, hear: &mut dyn FnMut(Heard)| {
            events.into_iter().for_each(|event| hear(Heard::Kv(WorkerId(worker), event)));
        };
        match act {
            Act::Route { text: which, tokens } => {
                self.requests += 1;
                let id = self.requests - 1;
                return Some(self.texts.request(id, text(which), *tokens, BLOCK_SIZE));
            }
            Act::Wait { ms } => self.now += SimDuration::from_millis(*ms),
            Act::FirstToken(_) | Act::Generate { .. } | Act::Finish(_)
                if self.inflight.is_empty() => {}
            Act::FirstToken(which) => {
                let at = which.index(self.inflight.len());
                let request = &mut self.inflight[at];
                if request.output_tokens == 0 {
                    request.generate(1, &mut hear);
                }
            }
            Act::Generate { which, tokens } => {
                let at = which.index(self.inflight.len());
                self.inflight[at].generate(*tokens, &mut hear);
            }
            Act::Finish(which) => {
                let request = self.inflight.remove(which.index(self.inflight.len()));
                request.tell(FINISHED, &mut hear);
            }
            Act::Store { worker, text: which, from, to } => {
                kv(*worker, self.texts.stored(text(which), *from, *to), &mut hear);
            }
            Act::Lose { worker, text: which, from, to } => {
                kv(*worker, self.texts.removed(text(which), *from, *to), &mut hear);
            }
            Act::Below { worker, text: which, from, to, medium, stored } => {
                let below = |event| match event {
                    KvEvent::Stored { run, .. } if *stored => {
                        KvEvent::StoredBelow { medium: *medium, run }
                    }
                    KvEvent::Stored { run, .. } => KvEvent::RemovedBelow { medium: *medium, run },
                    other => other,
                };
                let events = self.texts.stored(text(which), *from, *to).into_iter().map(below);
                kv(*worker, events.collect(), &mut hear);
            }
            Act::Restart { worker } => {
                assert!(*worker < self.workers);
                for text in (0..self.texts.len()).rev() {
                    kv(*worker, self.texts.removed(text, 0, MOST_BLOCKS), &mut hear);
                }
                let gone = self.inflight.extract_if(.., |request| request.worker.0 == *worker);
                gone.for_each(|request| request.tell(FINISHED, &mut hear));
            }
        }
        None
    }

    /// `request` was sent to `worker`.
    pub(crate) fn sent(&mut self, request: &Request, worker: WorkerId) {
        let Request { id, prompt_tokens, .. } = *request;
        self.inflight.push(InFlight { worker, id, prompt_tokens, output_tokens: 0 });
    }
}
