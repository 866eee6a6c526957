//! The sessions of a trace turn by turn, and what they say of those that its end cut off.

use super::super::Trace;
use super::super::sessions::Grouped;
use super::values::{VALUES, few};
use crate::time::SimDuration;
use crate::workload::distribution::{Distribution, Quantity};

/// Turns that have a probability of their own to go on.
const OWN_TURNS: usize = 6;
/// Turns that it needs; with fewer it is that of all classes.
const LEAST_TURNS: usize = 50;
/// The largest probability to go on (assumed): sessions end.
const MOST_LIKELY: f64 = 0.98;
/// Passes after which a probability has settled.
const PASSES: usize = 50;

/// A session as it was seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// The row of its first turn, and when it was sent.
    pub(super) first: u32,
    pub(super) begin: SimDuration,
    /// Tokens of its first prompt after the shared text.
    pub(super) own_tokens: u32,
    pub(super) turns: Vec<Turn>,
}

#[derive(Debug)]
pub(super) struct Turn {
    pub(super) output_tokens: u32,
    /// How its prompt follows from the one that it goes on from; none of the first turn.
    pub(super) step: Option<Step>,
    /// How many turns there are before it on its branch.
    depth: usize,
    /// Until each turn that goes on from it, in order.
    waits_s: Vec<f64>,
    /// How long it was seen whether one does.
    watched_s: f64,
}

/// How a prompt follows from the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    GoesOn { question_tokens: u32 },
    Edit { kept_tokens: u32, new_tokens: u32 },
}

impl Seen {
    pub(super) fn all(
        trace: &Trace,
        grouped: &Grouped,
        duration: SimDuration,
        is_timed: bool,
    ) -> Vec<Self> {
        let wait_s = |before: u32, row: u32| {
            let (before, row) = (&trace.rows[before as usize], &trace.rows[row as usize]);
            match is_timed {
                true => (row.at.max(before.at) - before.at).as_secs(),
                false => row.delay.as_secs(),
            }
        };
        let watched_s = |row: u32| match is_timed {
            true => (duration - trace.rows[row as usize].at).as_secs(),
            false => f64::INFINITY,
        };
        let all = grouped.sessions.iter().filter(|rows| !rows.is_empty());
        all.map(|rows| {
            let first = &trace.rows[rows[0] as usize];
            let popular = grouped.popular[rows[0] as usize] * trace.block_tokens;
            let mut turns: Vec<Turn> = Vec::with_capacity(rows.len());
            for (place, &row) in rows.iter().enumerate() {
                let before = (place > 0).then(|| grouped.before(rows, place));
                let (mut depth, mut of_step) = (0, None);
                if let Some(before) = before {
                    depth = turns[before].depth + 1;
                    of_step = Some(step(trace, rows[before], row));
                    turns[before].waits_s.push(wait_s(rows[before], row));
                }
                turns.push(Turn {
                    output_tokens: trace.rows[row as usize].output_tokens,
                    step: of_step,
                    depth,
                    waits_s: Vec::new(),
                    watched_s: watched_s(row),
                });
            }
            turns.iter_mut().for_each(|turn| turn.waits_s.sort_unstable_by(f64::total_cmp));
            Self {
                first: rows[0],
                begin: first.at,
                own_tokens: first.input_tokens.saturating_sub(popular).max(1),
                turns,
            }
        })
        .collect()
    }
}

/// How the prompt of `row` follows from that of `before`.
fn step(trace: &Trace, before: u32, row: u32) -> Step {
    let (before, row) = (before as usize, row as usize);
    let alike = trace.blocks(before).zip(trace.blocks(row)).take_while(|(a, b)| a == b).count();
    let alike = u32::try_from(alike).expect("fewer blocks than tokens");
    let (old, new) = (&trace.rows[before], &trace.rows[row]);
    let room = old.input_tokens + old.output_tokens;
    if alike >= old.input_tokens / trace.block_tokens && new.input_tokens > room {
        return Step::GoesOn { question_tokens: new.input_tokens - room };
    }
    let most = old.input_tokens.min(new.input_tokens - 1);
    let kept_tokens = alike.saturating_mul(trace.block_tokens).min(most);
    Step::Edit { kept_tokens, new_tokens: new.input_tokens - kept_tokens }
}

fn seen_waits(seen: &[Seen]) -> impl Iterator<Item = f64> + '_ {
    let turns = seen.iter().flat_map(|seen| &seen.turns);
    turns.flat_map(|turn| turn.waits_s.iter().copied())
}

/// Sessions that begin in this time of a trace may have begun before it: nine of ten pauses
/// are shorter, and most of the trace is left.
pub(super) fn early(seen: &[Seen], duration: SimDuration) -> SimDuration {
    let mut waits: Vec<f64> = seen_waits(seen).collect();
    crate::stats::sort(&mut waits);
    let most = SimDuration::from_secs_f64(crate::stats::quantile(&waits, 0.9).unwrap_or(0.0));
    most.min(duration / 4)
}

/// How long before a trace sessions may have sent their last turn.
pub(super) fn longest_wait(seen: &[Seen]) -> SimDuration {
    SimDuration::from_secs_f64(seen_waits(seen).fold(0.0, f64::max).ceil())
}

/// The pauses of some sessions, and how often they go on, with those in mind whose next turn
/// would have come after the trace.
pub(super) struct Waits {
    /// By turn, from 0, the last for all that follow: how long it was waited, and whether the
    /// next turn came.
    turns: [Vec<(f64, bool)>; OWN_TURNS],
    /// Turns that go on from another one, and those of them that are not the first.
    next: usize,
    further: usize,
    /// The pauses of those that go on, each with its probability.
    pauses: Vec<(f64, f64)>,
}

impl Waits {
    pub(super) fn of<'a>(sessions: impl Iterator<Item = &'a Seen>) -> Self {
        let mut turns: [Vec<(f64, bool)>; OWN_TURNS] = Default::default();
        let mut further: Vec<(f64, bool)> = Vec::new();
        for turn in sessions.flat_map(|seen| &seen.turns) {
            let first = match turn.waits_s.first() {
                Some(first) => (*first, true),
                None => (turn.watched_s, false),
            };
            turns[turn.depth.min(OWN_TURNS - 1)].push(first);
            further.extend(turn.waits_s.iter().skip(1).map(|wait_s| (*wait_s, true)));
        }
        let gone_on = turns.iter().flatten().filter(|(_, goes_on)| *goes_on).count();
        let (next, of_further) = (gone_on + further.len(), further.len());
        let all = turns.iter().flatten().copied().chain(further).collect();
        Self { turns, next, further: of_further, pauses: survival(all) }
    }

    /// These, or `all` of which there are more, where there are few.
    pub(super) fn or<'a>(&'a self, all: &'a Self) -> &'a Self {
        if self.pauses.len() < VALUES { all } else { self }
    }

    /// The share of those turns that go on from another one after which one more does; where
    /// few were seen, that of `all`. With it a session goes on `last` times at the end.
    pub(super) fn branches(&self, all: &Self, last: f64) -> f64 {
        let of = if self.next < LEAST_TURNS { all } else { self };
        let share = of.further as f64 / of.next.max(1) as f64;
        // Each turn has last / (1 - share) others on average: sessions end.
        share.min(1.0 - last / MOST_LIKELY).max(0.0)
    }

    pub(super) fn pauses(&self) -> Distribution<SimDuration> {
        // As people read it: a millisecond more or less is not seen.
        let whole_ms = |s: f64| SimDuration::from_f64((s * 1e3).round() / 1e3);
        few(self.pauses.clone(), whole_ms)
    }

    /// The probabilities to go on after each turn; where few were seen, those of `all`.
    pub(super) fn goes_on(&self, all: &Self) -> Vec<f64> {
        let mut found: Vec<f64> = (0..OWN_TURNS)
            .map(|turn| match self.turns[turn].len() < LEAST_TURNS {
                true => share(&all.turns[turn], &all.pauses),
                false => share(&self.turns[turn], &self.or(all).pauses),
            })
            .collect();
        while found.len() > 1 && found[found.len() - 1] == found[found.len() - 2] {
            found.pop();
        }
        if found == [0.0] { Vec::new() } else { found }
    }
}

/// The share of those that go on, whose pauses have the distribution `pauses`, of some that
/// were seen to go on or for so long not to: by expectation and maximisation.
fn share(seen: &[(f64, bool)], pauses: &[(f64, f64)]) -> f64 {
    if seen.is_empty() {
        return 0.0;
    }
    let total: f64 = pauses.iter().map(|(_, mass)| mass).sum();
    let mut up_to = Vec::with_capacity(pauses.len());
    let mut sum = 0.0;
    for (_, mass) in pauses {
        sum += mass / total;
        up_to.push(sum);
    }
    // The part of those that go on whose next turn would have been seen.
    let known = |wait_s: f64| {
        let after = pauses.partition_point(|(pause_s, _)| *pause_s <= wait_s);
        after.checked_sub(1).map_or(0.0, |last| up_to[last].min(1.0))
    };
    let gone_on = seen.iter().filter(|(_, goes_on)| *goes_on).count() as f64;
    let open: Vec<f64> =
        seen.iter().filter(|(_, goes_on)| !goes_on).map(|(wait_s, _)| known(*wait_s)).collect();
    let mut share = gone_on / seen.len() as f64;
    for _ in 0..PASSES {
        let later = |known: &f64| {
            let unseen = share * (1.0 - known);
            unseen / (1.0 - share * known).max(f64::MIN_POSITIVE)
        };
        share = (gone_on + open.iter().map(later).sum::<f64>()) / seen.len() as f64;
        share = share.min(MOST_LIKELY);
    }
    share
}

/// The probability of each pause that was seen, of those that wait for so long or until the
/// next turn comes (Kaplan, Meier 1958).
fn survival(mut seen: Vec<(f64, bool)>) -> Vec<(f64, f64)> {
    // At equal times what came counts as having come before the rest was given up.
    seen.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let (mut left, mut found) = (1.0, Vec::new());
    for (at, &(wait_s, goes_on)) in seen.iter().enumerate() {
        if goes_on {
            let mass = left / (seen.len() - at) as f64;
            found.push((wait_s, mass));
            left -= mass;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against what is known: seven of ten go on after pauses of 1 to 100 s, and are watched
    /// for 0 to 100 s.
    #[test]
    fn what_is_cut_off_is_estimated() {
        let mut seen = Vec::new();
        for session in 0..10_000u32 {
            let watched = f64::from(session % 101);
            let pause = f64::from(session / 101 % 100 + 1);
            let goes_on = session * 7 % 10 < 7;
            seen.push(if goes_on && pause <= watched { (pause, true) } else { (watched, false) });
        }
        let naive = seen.iter().filter(|(_, came)| *came).count() as f64 / seen.len() as f64;
        assert!(naive < 0.37, "{naive}");
        let pauses = survival(seen.clone());
        let found = share(&seen, &pauses);
        assert!((found - 0.7).abs() < 0.03, "{found}");
        let total: f64 = pauses.iter().map(|(_, mass)| mass).sum();
        let mean = pauses.iter().map(|(pause, mass)| pause * mass / total).sum::<f64>();
        assert!((mean - 50.5).abs() < 2.0, "{mean}");
    }
}
