//! Changes of one worker's cache that wait until a router asks about their blocks.
//!
//! Most blocks that a worker stores are filled by decoding, one after the other, and
//! no router asks for them before the sequence has ended. So such blocks are written down
//! as one [`Growth`]: what was stored and in which decode steps. And where a pool is full,
//! each block that decoding takes displaces another: those of many steps are written down
//! as runs ([`Displaced`]), beside a [`Schedule`] of how many each step displaced. A [`Clock`]
//! says when the changes of a step were published, so no time is lost, and a change is heard
//! neither earlier nor later than if it had been written down by itself.

use super::concerns::Concerns;
use crate::event::KvEvent;
use crate::id::{BlockId, WorkerId};
use crate::request::BlockRun;
use crate::time::SimTime;
use std::collections::VecDeque;

/// Consecutive blocks of one sequence that decoding fills, one every so many steps.
///
/// A cache of several groups of layers, or of several ranks, would have one for each of
/// them; an engine that publishes a block a step late would name a later step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growth {
    /// The block before the first.
    pub(crate) parent: BlockId,
    pub(crate) run: BlockRun,
    /// The decode step in which the first of them was filled.
    pub(crate) step: u64,
    /// Steps from one block to the next: the tokens of a block.
    pub(crate) every: u32,
}

impl Growth {
    /// How many blocks were filled before step `end`.
    fn filled(&self, end: u64) -> u32 {
        let Some(into) = end.checked_sub(self.step + 1) else { return 0 };
        let blocks = into / u64::from(self.every) + 1;
        u32::try_from(blocks).map_or(self.run.len, |blocks| blocks.min(self.run.len))
    }

    /// Its first `blocks` blocks, which are left out of it from now on.
    fn split_off(&mut self, blocks: u32) -> KvEvent {
        let Self { parent, run, .. } = *self;
        self.parent = run.first.offset(blocks - 1);
        self.run = run.skip(blocks);
        self.step += u64::from(self.every) * u64::from(blocks);
        KvEvent::Stored { parent: Some(parent), run: BlockRun { first: run.first, len: blocks } }
    }
}

/// Steps whose changes were published at evenly changing distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    /// Number of steps.
    pub(crate) steps: u64,
    /// When the changes of the first were published.
    pub(crate) first: SimTime,
    /// From there to the next, in picoseconds, and what is added from each to the next.
    pub(crate) gap_ps: u64,
    pub(crate) growth_ps: u64,
}

impl Span {
    fn time(&self, step: u64) -> SimTime {
        let pairs = step * step.saturating_sub(1) / 2;
        SimTime::from_ps(self.first.as_ps() + self.gap_ps * step + self.growth_ps * pairs)
    }

    /// How many of its steps were published at or before `until`.
    fn within(&self, until: SimTime) -> u64 {
        if self.time(self.steps - 1) <= until {
            return self.steps;
        }
        let (mut within, mut beyond) = (0, self.steps - 1);
        while within < beyond {
            let middle = within + (beyond - within) / 2;
            if self.time(middle) <= until {
                within = middle + 1;
            } else {
                beyond = middle;
            }
        }
        within
    }
}

/// When the changes of each decode step were published.
#[derive(Debug, Default)]
struct Clock {
    /// Steps before this one were published at `past` or earlier, when is forgotten.
    start: u64,
    past: SimTime,
    /// The steps from there on.
    spans: VecDeque<Span>,
    /// The first step that is not published.
    end: u64,
}

impl Clock {
    fn push(&mut self, span: Span) {
        self.end += span.steps;
        self.spans.push_back(span);
    }

    /// The first step that was not published at `until`; it is not asked again about
    /// times before that.
    fn advance(&mut self, until: SimTime) -> u64 {
        self.past = self.past.max(until);
        while let Some(span) = self.spans.front() {
            let within = span.within(until);
            if within < span.steps {
                return self.start + within;
            }
            self.start += span.steps;
            self.spans.pop_front();
        }
        self.start
    }

    /// When step `step` was published, or the last time asked about where it was before;
    /// `None` if it was not yet.
    fn time(&self, step: u64) -> Option<SimTime> {
        let mut into = match step.checked_sub(self.start) {
            None => return Some(self.past),
            Some(into) => into,
        };
        for span in &self.spans {
            if into < span.steps {
                return Some(span.time(into).max(self.past));
            }
            into -= span.steps;
        }
        None
    }
}

/// Consecutive blocks that decoding displaced, the last one first.
#[derive(Clone, Copy, Debug)]
struct Displaced {
    run: BlockRun,
    /// How many blocks were displaced before its last one, by the cache's count.
    position: u64,
}

impl Displaced {
    /// How many of its blocks are among the first `displaced` of the cache's count.
    fn among(&self, displaced: u64) -> u32 {
        let blocks = displaced.saturating_sub(self.position);
        u32::try_from(blocks).map_or(self.run.len, |blocks| blocks.min(self.run.len))
    }

    /// The `blocks` blocks that went first, which are left out of it from now on.
    fn split_off(&mut self, blocks: u32) -> KvEvent {
        self.position += u64::from(blocks);
        self.run.len -= blocks;
        let first = self.run.first.offset(self.run.len);
        KvEvent::Removed { run: BlockRun { first, len: blocks } }
    }

    /// Takes in `run`, which went right after it, if their ids are consecutive too.
    fn join(&mut self, run: BlockRun, position: u64) -> bool {
        let follows = self.position + u64::from(self.run.len) == position
            && run.first.offset(run.len) == self.run.first;
        if follows {
            self.run = BlockRun { first: run.first, len: run.len + self.run.len };
        }
        follows
    }
}

/// How many blocks had been displaced, by the cache's count, after each decode step that
/// displaced some; of the steps with blocks that are not heard yet.
#[derive(Debug, Default)]
struct Schedule {
    steps: VecDeque<(u64, u64)>,
}

impl Schedule {
    /// How many had been displaced before step `end`; 0 if none that is not heard.
    fn before(&self, end: u64) -> u64 {
        let steps = self.steps.partition_point(|(step, _)| *step < end);
        steps.checked_sub(1).map_or(0, |last| self.steps[last].1)
    }

    /// The step that displaced the block before which `position` had been displaced.
    fn step(&self, position: u64) -> u64 {
        self.steps[self.steps.partition_point(|(_, displaced)| *displaced <= position)].0
    }

    /// All that was displaced before step `end` has been heard.
    fn heard(&mut self, end: u64) {
        while self.steps.front().is_some_and(|(step, _)| *step < end) {
            self.steps.pop_front();
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Published(SimTime, KvEvent),
    Grown(Growth),
    Displaced(Displaced),
}

/// What makes changes of some blocks possible, or impossible.
#[derive(Clone, Copy, Debug)]
enum News {
    /// A sequence came that may fill them.
    Came(BlockRun),
    /// The sequence has left.
    Left(BlockRun),
    /// A change of them is written down that was not foreseen.
    Unforeseen(BlockRun),
    /// They may be displaced, until so many blocks have been.
    Displaceable(u64, BlockRun),
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct Unheard {
    worker: WorkerId,
    /// In the order in which they were written down, each with the number of changes
    /// before it, growths apart.
    changes: Vec<(u64, Change)>,
    /// Changes so far, growths apart.
    published: u64,
    clock: Clock,
    schedule: Schedule,
    /// While blocks of known steps are displaced: how many have been, by the cache's count.
    displacing: Option<u64>,
    /// What is not entered into [`Concerns`] yet.
    news: Vec<News>,
    /// What stands in [`Concerns`] until all changes before one of this number are heard.
    noted: VecDeque<(u64, BlockRun)>,
    /// What stands there until so many blocks have been displaced.
    displaceable: VecDeque<(u64, BlockRun)>,
}

impl Unheard {
    /// Nothing, of a worker that forms decode step `step` next.
    pub(crate) fn new(worker: WorkerId, step: u64) -> Self {
        Self {
            worker,
            changes: Vec::new(),
            published: 0,
            clock: Clock { start: step, end: step, ..Clock::default() },
            schedule: Schedule::default(),
            displacing: None,
            news: Vec::new(),
            noted: VecDeque::new(),
            displaceable: VecDeque::new(),
        }
    }

    pub(super) fn published(&mut self, at: SimTime, event: KvEvent) {
        self.changes.push((self.published, Change::Published(at, event)));
        self.published += 1;
    }

    pub(super) fn grown(&mut self, growth: Growth) {
        self.changes.push((self.published, Change::Grown(growth)));
    }

    /// What is [displaced](Self::displaced) until [`end_displacing`](Self::end_displacing)
    /// makes room for what these decode steps take, each so many blocks, once `empty` ones
    /// are taken. The cache's count of displaced blocks stands at `displaced`.
    pub(crate) fn displace(
        &mut self,
        displaced: u64,
        empty: u32,
        takings: impl Iterator<Item = (u64, u32)>,
    ) {
        self.displacing = Some(displaced);
        let mut taken = 0;
        self.schedule.steps.extend(takings.filter_map(|(step, blocks)| {
            taken += blocks;
            (taken > empty).then(|| (step, displaced + u64::from(taken - empty)))
        }));
    }

    pub(crate) fn end_displacing(&mut self) {
        let position = self.displacing.take();
        debug_assert_eq!(position, self.schedule.steps.back().map(|(_, displaced)| *displaced));
    }

    /// `run` was displaced, its last block first, in steps of the schedule; false if it has
    /// none. `is_told`: that is a change.
    pub(super) fn displaced(&mut self, run: BlockRun, is_told: bool) -> bool {
        let Some(position) = self.displacing else { return false };
        self.displacing = Some(position + u64::from(run.len));
        if !is_told {
            return true;
        }
        if let Some((_, Change::Displaced(last))) = self.changes.last_mut()
            && last.join(run, position)
        {
            return true;
        }
        self.changes.push((self.published, Change::Displaced(Displaced { run, position })));
        self.published += 1;
        true
    }

    /// The changes of all steps before `end` are published now, at `at`.
    pub(crate) fn steps_published(&mut self, end: u64, at: SimTime) {
        if let Some(steps) = end.checked_sub(self.clock.end).filter(|steps| *steps > 0) {
            self.clock.push(Span { steps, first: at, gap_ps: 0, growth_ps: 0 });
        }
    }

    /// The changes of the next steps are published as `span` says.
    pub(crate) fn span_published(&mut self, span: Span) {
        if span.steps > 0 {
            self.clock.push(span);
        }
    }

    /// A sequence came that may fill the blocks of `run`.
    pub(crate) fn came(&mut self, run: BlockRun) {
        self.news.push(News::Came(run));
    }

    /// A sequence that might have filled the blocks of `run` has left.
    pub(crate) fn left(&mut self, run: BlockRun) {
        self.news.push(News::Left(run));
    }

    /// A change of the blocks of `run` is written down that was not foreseen.
    pub(crate) fn unforeseen(&mut self, run: BlockRun) {
        self.news.push(News::Unforeseen(run));
    }

    /// The blocks of `run` may be displaced next: they certainly have been, or been hit, once
    /// the cache has displaced `position` blocks.
    pub(crate) fn displaceable(&mut self, position: u64, run: BlockRun) {
        self.news.push(News::Displaceable(position, run));
    }

    /// How much there is to remember.
    pub(crate) fn len(&self) -> usize {
        self.changes.len() + self.clock.spans.len() + self.schedule.steps.len()
    }

    /// Hands over what was published at or before `until`. Neighbours become one run.
    pub(super) fn take(&mut self, until: SimTime, mut sink: impl FnMut(KvEvent)) {
        let end = self.clock.advance(until);
        let displaced = self.schedule.before(end);
        self.schedule.heard(end);
        let mut last: Option<KvEvent> = None;
        self.changes.retain_mut(|(_, change)| {
            let (event, rest) = match change {
                Change::Published(at, event) if *at <= until => (*event, false),
                Change::Published(..) => return true,
                Change::Grown(growth) => match growth.filled(end) {
                    0 => return true,
                    blocks => (growth.split_off(blocks), growth.run.len > 0),
                },
                Change::Displaced(lost) => match lost.among(displaced) {
                    0 => return true,
                    blocks => (lost.split_off(blocks), lost.run.len > 0),
                },
            };
            if let (
                Some(KvEvent::Removed { run: last }),
                KvEvent::Removed { run: BlockRun { first, len } },
            ) = (&mut last, event)
                && first.offset(len) == last.first
            {
                *last = BlockRun { first, len: len + last.len };
            } else if let Some(last) = last.replace(event) {
                sink(last);
            }
            rest
        });
        last.into_iter().for_each(sink);
    }

    /// Everything published, change by change in order of time, and what is not published
    /// yet.
    pub(super) fn into_events(self) -> (Vec<(SimTime, KvEvent)>, Vec<KvEvent>) {
        let mut all = Vec::new();
        for (_, change) in self.changes {
            match change {
                Change::Published(at, event) => all.push((Some(at), event)),
                Change::Displaced(mut lost) => {
                    while lost.run.len > 0 {
                        let at = self.clock.time(self.schedule.step(lost.position));
                        all.push((at, lost.split_off(1)));
                    }
                }
                Change::Grown(mut growth) => {
                    while growth.run.len > 0 {
                        all.push((self.clock.time(growth.step), growth.split_off(1)));
                    }
                }
            }
        }
        let (mut published, mut pending) = (Vec::new(), Vec::new());
        for (at, event) in all {
            match at {
                Some(at) => published.push((at, event)),
                None => pending.push(event),
            }
        }
        published.sort_by_key(|(at, _)| *at);
        (published, pending)
    }

    /// Enters into `concerns` what the worker's next changes may concern, and takes out
    /// what has been heard. `pending`: changes that are not published; `displaced`: blocks
    /// so far.
    pub(super) fn enter(&mut self, concerns: &mut Concerns, pending: usize, displaced: u64) {
        if self.news.is_empty() {
            // What is to be taken out stands there a little longer.
            return;
        }
        let worker = self.worker;
        // The first change that can come after all that are known now.
        let until_heard = self.published + pending as u64 + 1;
        for news in self.news.drain(..) {
            match news {
                News::Came(run) => concerns.add(worker, run),
                News::Left(run) => self.noted.push_back((until_heard, run)),
                News::Unforeseen(run) => {
                    concerns.add(worker, run);
                    self.noted.push_back((until_heard, run));
                }
                News::Displaceable(position, run) => {
                    concerns.add(worker, run);
                    self.displaceable.push_back((position, run));
                }
            }
        }
        while let Some(run) = take_first(&mut self.displaceable, displaced) {
            self.noted.push_back((until_heard, run));
        }
        let first = match self.changes.first() {
            Some((number, _)) => *number,
            None if pending > 0 => self.published,
            None => u64::MAX,
        };
        while let Some(run) = take_first(&mut self.noted, first) {
            concerns.remove(worker, run);
        }
    }
}

/// The first of `runs` if its number is at most `most`.
fn take_first(runs: &mut VecDeque<(u64, BlockRun)>, most: u64) -> Option<BlockRun> {
    let (_, run) = *runs.front().filter(|(number, _)| *number <= most)?;
    runs.pop_front();
    Some(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a clock was asked about meanwhile, no step was published before one that
        /// came earlier, and none that is not heard before the last time asked about.
        #[test]
        fn steps_keep_their_order_when_times_are_forgotten(
            spans in prop::collection::vec((1u64..5, 0u64..9, 0u64..3, 1u64..9), 1..6),
            asked in prop::collection::vec(0u64..200, 0..5),
        ) {
            let (mut clock, mut real, mut now) = (Clock::default(), Vec::new(), 0);
            for (steps, gap_ps, growth_ps, pause) in spans {
                let first = SimTime::from_ps(now + pause);
                let span = Span { steps, first, gap_ps, growth_ps };
                real.extend((0..steps).map(|step| span.time(step)));
                now = span.time(steps - 1).as_ps();
                clock.push(span);
            }
            let mut asked: Vec<SimTime> = asked.into_iter().map(SimTime::from_ps).collect();
            asked.sort_unstable();
            for until in asked {
                let published = real.iter().filter(|at| **at <= until).count() as u64;
                prop_assert_eq!(clock.advance(until), published);
                for (step, at) in (0..).zip(&real) {
                    prop_assert_eq!(clock.time(step), Some(until.max(*at)));
                }
            }
        }
    }
}
