//! What a run costs in which workers come and go: requests that went on
//! elsewhere, tokens computed again, and the time until hits are back.

use super::Recorder;
use super::record::{End, Metrics, RequestRecord};
use super::window::Window;
use crate::event::Lost;
use crate::id::{RequestId, WorkerId};
use crate::metrics::{MetricKind, catalogue};
use crate::stats::Histogram;
use crate::time::{SimDuration, SimTime};
use std::collections::BTreeMap;

/// Time over which the hit ratio after a change is taken (assumed).
const RECOVERY_WINDOW: SimDuration = SimDuration::from_secs(10);

/// Hits are back at this share of the ratio before (assumed).
const REGAINED: f64 = 0.95;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Changing {
    /// Requests that were lost and have not ended.
    lost: BTreeMap<RequestId, LostRequest>,
    migrations: u64,
    recomputed_tokens: u64,
    /// From the last token at one worker to the first at the next.
    gaps: Histogram,
    hits: HitsOverTime,
}

#[derive(Clone, Copy, Debug)]
struct LostRequest {
    /// Not at a worker at present.
    is_away: bool,
    /// Tokens that its client has from workers that are gone.
    output_tokens: u32,
    last_token_at: SimTime,
}

/// Prompt tokens scheduled, and those of them that were hit.
#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    cached: u64,
    prompt: u64,
}

/// Hits before the first change of the window, and after every one, in windows of
/// equal length.
#[derive(Debug, Default)]
struct HitsOverTime {
    before: Hits,
    changes: Vec<AfterChange>,
}

/// From one change to the next.
#[derive(Debug)]
struct AfterChange {
    since: SimTime,
    windows: Vec<Hits>,
}

impl Hits {
    fn add(&mut self, cached: u32, prompt: u32) {
        self.cached += u64::from(cached);
        self.prompt += u64::from(prompt);
    }

    fn ratio(&self) -> Option<f64> {
        (self.prompt > 0).then(|| self.cached as f64 / self.prompt as f64)
    }
}

impl Changing {
    pub(super) fn begin_window(&mut self) {
        (self.migrations, self.recomputed_tokens) = (0, 0);
        self.gaps = Histogram::new();
        self.hits = HitsOverTime::default();
    }

    /// Caches are lost, or new ones are there.
    pub(super) fn disturb(&mut self, now: SimTime) {
        if self.hits.changes.last().is_none_or(|last| last.since < now) {
            self.hits.changes.push(AfterChange { since: now, windows: Vec::new() });
        }
    }

    pub(super) fn lose(&mut self, lost: &Lost) {
        let request = self.lost.entry(lost.request).or_insert(LostRequest {
            is_away: true,
            output_tokens: 0,
            last_token_at: lost.last_token_at,
        });
        request.is_away = true;
        if lost.output_tokens > 0 {
            request.output_tokens += lost.output_tokens;
            request.last_token_at = lost.last_token_at;
        }
    }

    pub(super) fn migrate(&mut self, request: RequestId) {
        self.migrations += 1;
        if let Some(request) = self.lost.get_mut(&request) {
            request.is_away = false;
        }
    }

    pub(super) fn is_lost(&self, request: RequestId) -> bool {
        self.lost.get(&request).is_some_and(|request| request.is_away)
    }

    /// Tokens that the client of a request has from workers that are gone.
    pub(super) fn output_tokens(&self, request: RequestId) -> u32 {
        self.lost.get(&request).map_or(0, |request| request.output_tokens)
    }

    /// A request whose prompt is `prompt_tokens` is first in a batch of its worker.
    pub(super) fn schedule(
        &mut self,
        now: SimTime,
        request: RequestId,
        prompt_tokens: u32,
        cached_tokens: u32,
    ) {
        match self.lost.get(&request) {
            Some(lost) => {
                let tokens = prompt_tokens + lost.output_tokens - cached_tokens;
                self.recomputed_tokens += u64::from(tokens);
            }
            None => self.hits.add(now, cached_tokens, prompt_tokens),
        }
    }

    /// A request that has moved goes on.
    pub(super) fn next_token(&mut self, now: SimTime, request: RequestId) {
        if let Some(lost) = self.lost.get(&request) {
            self.gaps.add(now.since(lost.last_token_at).as_ps(), 1);
        }
    }

    pub(super) fn end(&mut self, request: RequestId) {
        self.lost.remove(&request);
    }

    pub(super) fn gaps(&self) -> &Histogram {
        &self.gaps
    }

    pub(super) fn metrics(&self, failed: u64, metrics: &mut Metrics) {
        let mut insert = |kind: &MetricKind, value: Option<f64>| {
            metrics.insert(kind.only(), value);
        };
        insert(catalogue::FAILED, Some(failed as f64));
        insert(catalogue::MIGRATIONS, Some(self.migrations as f64));
        insert(catalogue::RECOMPUTED_TOKENS, Some(self.recomputed_tokens as f64));
        insert(catalogue::HIT_RATIO_LOWEST, self.hits.lowest());
        insert(catalogue::HIT_RECOVERY, self.hits.recovery_s());
    }
}

impl HitsOverTime {
    fn add(&mut self, now: SimTime, cached: u32, prompt: u32) {
        let Some(AfterChange { since, windows }) = self.changes.last_mut() else {
            self.before.add(cached, prompt);
            return;
        };
        let index = now.since(*since).as_ps() / RECOVERY_WINDOW.as_ps();
        let index = usize::try_from(index).expect("windows of a run fit memory");
        if windows.len() <= index {
            windows.resize(index + 1, Hits::default());
        }
        windows[index].add(cached, prompt);
    }

    /// The lowest ratio of a window after a change.
    fn lowest(&self) -> Option<f64> {
        let windows = self.changes.iter().flat_map(|change| &change.windows);
        windows.filter_map(Hits::ratio).min_by(f64::total_cmp)
    }

    /// The longest time from a change until hits are back: until the first two
    /// windows in a row with enough of them. A window in which nothing was scheduled
    /// is as the one before, the first one as not back. Where another change comes
    /// before that, the time goes on. `None` if they are not back at the end.
    fn recovery_s(&self) -> Option<f64> {
        let least = REGAINED * self.before.ratio()?;
        let mut longest = SimDuration::ZERO;
        let mut fallen: Option<SimTime> = None;
        for AfterChange { since, windows } in &self.changes {
            let from = fallen.unwrap_or(*since);
            let mut is_back = false;
            let are_back = windows.iter().map(|hits| {
                is_back = hits.ratio().map_or(is_back, |ratio| ratio >= least);
                is_back
            });
            let are_back: Vec<bool> = are_back.collect();
            let back = are_back.windows(2).position(|pair| pair == [true, true]);
            fallen = match back {
                Some(index) => {
                    let back_at = *since + RECOVERY_WINDOW * index as u64;
                    longest = longest.max(back_at - from);
                    None
                }
                None => Some(from),
            };
        }
        (fallen.is_none() && !self.changes.is_empty()).then(|| longest.as_secs())
    }
}

impl Recorder {
    /// Workers come and go, and those of `absent` are not there at the start.
    pub fn follow_changes(&mut self, absent: impl IntoIterator<Item = WorkerId>) {
        self.changing = Some(Changing::default());
        for worker in absent {
            self.inflight.set_present(SimTime::ZERO, worker, false);
        }
    }

    /// `worker` takes requests from `now` on, or is gone.
    pub fn set_present(&mut self, now: SimTime, worker: WorkerId, present: bool) {
        self.inflight.set_present(now, worker, present);
    }

    /// Caches are lost, or new ones are there: the hit ratio may fall.
    pub fn disturb(&mut self, now: SimTime) {
        if let Some(changing) = &mut self.changing {
            changing.disturb(now);
        }
    }

    /// A request is at `worker` no more, as that is gone; it has not ended yet.
    pub fn lose(&mut self, now: SimTime, worker: WorkerId, lost: &Lost) {
        self.count_residence(now, lost.request);
        self.inflight.change(now, worker, false);
        if let Some(changing) = &mut self.changing {
            changing.lose(lost);
        }
        self.record(lost.request).scheduled = None;
    }

    /// A lost request goes on at another worker.
    pub fn migrate(&mut self, request: RequestId) {
        let record = self.record(request);
        (record.dispatched, record.handover) = (None, None);
        if let Some(changing) = &mut self.changing {
            changing.migrate(request);
        }
    }

    /// A lost request has failed.
    pub fn fail(&mut self, now: SimTime, request: RequestId) {
        if let Some(why) = &mut self.why {
            why.ended(request);
        }
        self.end(now, request, End::Failed);
    }

    /// True if the request is at a worker.
    pub(super) fn is_at_worker(&self, record: &RequestRecord) -> bool {
        let lost = self.changing.as_ref().is_some_and(|changing| changing.is_lost(record.request));
        record.end.is_none() && record.stay().is_some() && !lost
    }

    /// Counts the time of a request at its worker, in the window.
    pub(super) fn count_residence(&mut self, now: SimTime, request: RequestId) {
        let Some(Window { level, start: Some(_), .. }) = &self.seen else { return };
        let begin = level.begin;
        let record = &self.open[(request.0 - self.first) as usize];
        if let Some((dispatched, _)) = record.stay().filter(|_| self.is_at_worker(record)) {
            self.residence_ps += u128::from((now - dispatched.max(begin)).as_ps());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> SimTime {
        SimTime::ZERO + SimDuration::from_secs(s)
    }

    /// Requests of 100 tokens at these seconds with so many hit.
    fn over_time(changes: &[u64], scheduled: &[(u64, u32)]) -> HitsOverTime {
        let mut hits = HitsOverTime::default();
        for &(s, cached) in scheduled {
            let due = changes.get(hits.changes.len()).filter(|&&change| change <= s);
            if let Some(&change) = due {
                hits.changes.push(AfterChange { since: at(change), windows: Vec::new() });
            }
            hits.add(at(s), cached, 100);
        }
        hits
    }

    #[test]
    fn hits_are_back_with_two_windows_in_a_row() {
        // Windows from 20 s: 40, 88, 60, 86 and 90 %, of 90 % before.
        let scheduled = [(5, 90), (20, 40), (31, 88), (42, 60), (53, 86), (64, 90)];
        let hits = over_time(&[20], &scheduled);
        assert_eq!(hits.lowest(), Some(0.4));
        assert_eq!(hits.recovery_s(), Some(30.0));
        // Not back before the next change: one time from the first on.
        let twice = over_time(&[20, 40], &[(5, 90), (20, 30), (31, 90), (45, 90), (51, 90)]);
        assert_eq!(twice.recovery_s(), Some(20.0));
        let never = over_time(&[20], &[(5, 90), (20, 30), (31, 84), (45, 90)]);
        assert_eq!(never.recovery_s(), None);
        let fine = over_time(&[20], &[(5, 90), (20, 86), (41, 90)]);
        assert_eq!(fine.recovery_s(), Some(0.0));
        assert_eq!(over_time(&[20], &[(25, 3)]).recovery_s(), None);
    }

    #[test]
    fn windows_without_requests_are_as_the_one_before() {
        let recovery_s = |scheduled: &[(u64, u32)]| {
            let mut hits = over_time(&[], &[(5, 90)]);
            hits.changes.push(AfterChange { since: at(20), windows: Vec::new() });
            scheduled.iter().for_each(|&(s, cached)| hits.add(at(s), cached, 100));
            hits.recovery_s()
        };
        // Nothing at all for a minute: an outage is no recovery.
        assert_eq!(recovery_s(&[(81, 10), (92, 90), (103, 90)]), Some(70.0));
        assert_eq!(recovery_s(&[(81, 90), (92, 90)]), Some(60.0));
        assert_eq!(recovery_s(&[(81, 10)]), None);
        // 10, nothing, 90, 90 %.
        assert_eq!(recovery_s(&[(20, 10), (41, 90), (52, 90)]), Some(20.0));
        // 90 %, nothing, 10 %.
        assert_eq!(recovery_s(&[(20, 90), (41, 10)]), Some(0.0));
    }

    #[test]
    fn changes_at_one_moment_are_one() {
        let mut changing = Changing::default();
        for s in [3, 3, 8, 8, 8, 20] {
            changing.disturb(at(s));
        }
        let since: Vec<SimTime> = changing.hits.changes.iter().map(|change| change.since).collect();
        assert_eq!(since, [at(3), at(8), at(20)]);
    }

    #[test]
    fn a_request_that_moves_leaves_one_gap_and_its_computed_tokens() {
        let id = RequestId(0);
        let mut changing = Changing::default();
        let lost = |output_tokens, s| Lost { request: id, output_tokens, last_token_at: at(s) };
        changing.next_token(at(1), id);
        changing.schedule(at(1), id, 100, 60);
        assert_eq!(changing.gaps().count(), 0, "it has not moved");
        changing.lose(&lost(5, 2));
        assert!(changing.is_lost(id));
        changing.migrate(id);
        assert!(!changing.is_lost(id));
        changing.schedule(at(4), id, 100, 60);
        changing.next_token(at(6), id);
        assert_eq!((changing.gaps().count(), changing.output_tokens(id)), (1, 5));
        assert_eq!(changing.gaps().mean(), Some(4e12), "from its last token to the next");
        assert_eq!(changing.recomputed_tokens, 100 + 5 - 60);
        // Lost before it gave another token: the client waits since the first loss.
        changing.lose(&lost(0, 0));
        changing.next_token(at(7), id);
        assert_eq!((changing.gaps().count(), changing.gaps().mean()), (2, Some(4.5e12)));
        changing.end(id);
        assert_eq!(changing.output_tokens(id), 0);
        assert_eq!((changing.migrations, changing.hits.before.prompt), (1, 100));
    }
}
