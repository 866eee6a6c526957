//! Fits a workload of sessions ([`SessionSettings`]) to a trace.
//!
//! What a cache can hit depends on how sessions grow, how long they pause, and which texts
//! they begin with; how long requests wait depends on the tokens that come in a time. Of a
//! trace these are taken:
//!
//! * *Sessions*: those that rows name, else those of the prefix tree ([`Grouped`]).
//! * *Classes* of them by the length of their first prompt after the shared text. Lengths,
//!   pauses and the probability to go on are taken class by class, as they depend on each
//!   other: long prompts have other answers and more turns.
//! * *Turns* that go on, and edits, which keep a part of the prompt before. Where rows say
//!   what they go on from, sessions *branch*: chats that were asked again, sub-agents of
//!   agents. Of several that a request waits for it is the last of its own conversation.
//! * *Rates* of sessions over time.
//!
//! A trace is a window of a service that ran before and after it. Sessions that were open
//! when it began look like new ones with long prompts: those that begin early in it are left
//! out, and [`SessionSettings::begun`] puts open ones at the start. Turns after its end are
//! not seen: pauses, and the probability to go on, are estimated with that in mind (Kaplan,
//! Meier 1958; with a share that never goes on, Boag 1949). The rate of sessions is then the
//! one at which the workload has as many requests in such a window as the trace has.

mod margins;
mod rates;
mod turns;
mod values;

pub use margins::Margin;

use super::Trace;
use super::sessions::Grouped;
use crate::settings::Invalid;
use crate::time::{SimDuration, SimTime};
use crate::workload::Workload;
use crate::workload::distribution::{Distribution, Tokens};
use crate::workload::sessions::{Edits, PrefixTexts, SessionClass, SessionSettings, Sessions};
use crate::workload::{PatienceSettings, Priorities};
use std::collections::BTreeMap;
use turns::{Seen, Step, Waits};
use values::tokens;

/// Where classes are parted: shares of sessions by the length of their first prompts. The
/// longest prompts are few, and most of the load.
const CLASSES: [f64; 5] = [0.25, 0.5, 0.75, 0.9, 0.97];
/// A class has so many sessions at least.
const LEAST_SESSIONS: usize = 20;
/// Texts that are listed one by one, the most often used first; the next as many are one
/// entry, the next twice as many another.
const MOST_TEXTS: usize = 32;
/// Sessions that a fit needs.
const LEAST_FITTED: usize = 20;

/// What a fit leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FitOptions {
    /// One rate all the time, in place of one that changes as in the trace.
    pub steady: bool,
}

/// A workload that was fitted to a trace.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The workload.
    pub settings: SessionSettings,
    /// How long the trace is.
    pub duration: SimDuration,
    /// Sessions that it was fitted to, and those that began too early in the trace.
    pub sessions: usize,
    /// See `sessions`.
    pub sessions_early: usize,
    /// Requests that wait for several answers, of which the workload's wait for one.
    joins: usize,
    /// Tokens of a block of the trace.
    block_tokens: u32,
}

impl Fit {
    /// Fits to `trace`.
    ///
    /// # Errors
    /// If requests of the trace come all at once, or if they are too few.
    pub fn of(trace: &Trace, options: FitOptions) -> Result<Self, Invalid> {
        let last = trace.rows.iter().map(|row| row.at).max().unwrap_or_default();
        let allowed = "requests that come over some time";
        Invalid::unless(!last.is_zero(), "trace", "all at once", allowed)?;
        // A window ends as long after the last request as others are apart.
        let duration = last + last / trace.rows.len() as u64;
        let is_timed = trace.rows.iter().all(|row| row.is_first() || !row.at.is_zero());
        let grouped = Grouped::of(trace);
        let seen = Seen::all(trace, &grouped, duration, is_timed);
        let early = if is_timed { turns::early(&seen, duration) } else { SimDuration::ZERO };
        let used: Vec<&Seen> = seen.iter().filter(|seen| seen.begin >= early).collect();
        let allowed = format!("at least {LEAST_FITTED}: take a longer part of the log");
        let found = match seen.len() - used.len() {
            0 => format!("{} sessions", used.len()),
            early => format!("{} sessions and {early} that may be older than it", used.len()),
        };
        Invalid::unless(used.len() >= LEAST_FITTED, "trace", found, &allowed)?;
        let (common_tokens, prefix) = prefixes(trace, &grouped, &used);
        let rates = rates::Rates::of(trace, duration, &grouped, options.steady);
        let per_s = used.len() as f64 / (duration - early).as_secs();
        let longest = trace.rows.iter().map(|row| row.input_tokens).max().unwrap_or(1);
        let settings = SessionSettings {
            arrivals: rates.at(per_s),
            count: None,
            begun: if is_timed { turns::longest_wait(&seen) } else { SimDuration::ZERO },
            tick: rates.tick,
            max_prompt_tokens: Tokens(longest),
            common_tokens,
            prefix,
            class: classes(&used, is_timed),
            client: Default::default(),
            patience: PatienceSettings::default(),
            priority: Priorities::default(),
        };
        settings.validate()?;
        let (sessions, sessions_early) = (used.len(), seen.len() - used.len());
        let block_tokens = trace.block_tokens;
        let joins = trace.rows.iter().filter(|row| row.waits > 1).count();
        let mut fit = Self { settings, duration, sessions, sessions_early, joins, block_tokens };
        if is_timed {
            fit.match_requests(trace.rows.len(), per_s, &rates)?;
        }
        Ok(fit)
    }

    /// What was fitted to what, in a line.
    pub fn summary(&self) -> String {
        let SessionSettings { class, prefix, .. } = &self.settings;
        let texts: u32 = prefix.iter().filter(|p| p.tokens.0 > 0).map(|p| p.texts).sum();
        let mut text = format!(
            "{} sessions in {} classes, {texts} texts that they begin with",
            self.sessions,
            class.len()
        );
        if class.iter().any(|class| class.branches > 0.0) {
            text += "; they branch";
        }
        if self.joins > 0 {
            let joins = self.joins;
            text += &format!("; {joins} requests wait for several answers, those fitted for one");
        }
        if self.sessions_early > 0 {
            text += &format!("; {} early ones may have begun before the log", self.sessions_early);
        }
        text
    }

    /// Moves the rate of sessions to where the workload has so many requests.
    fn match_requests(
        &mut self,
        requests: usize,
        per_s: f64,
        rates: &rates::Rates,
    ) -> Result<(), Invalid> {
        let drawn: usize = (1..=margins::SEEDS).map(|seed| self.draw(seed).len()).sum();
        let per_draw = drawn as f64 / margins::SEEDS as f64;
        self.settings.arrivals = rates.at(per_s * requests as f64 / per_draw.max(1.0));
        self.settings.validate()
    }

    /// The workload beside the trace that it was fitted to.
    pub fn margins(&self, trace: &Trace) -> Vec<Margin> {
        self.margins_of(trace, None)
    }

    /// The workload beside `trace`, which it was not fitted to, and `fitted_to`, which it was.
    pub fn margins_beside(&self, trace: &Trace, fitted_to: &Trace) -> Vec<Margin> {
        self.margins_of(trace, Some(fitted_to))
    }

    fn margins_of(&self, trace: &Trace, fitted_to: Option<&Trace>) -> Vec<Margin> {
        margins::margins(trace, fitted_to, self.duration, |seed| self.drawn(seed))
    }

    /// The workload in a window as long as the trace, as a trace.
    pub(super) fn drawn(&self, seed: u64) -> Trace {
        let drawn = self.draw(seed);
        Trace::of_requests(drawn.iter().map(|(sent, one)| (*sent, one)), self.block_tokens)
    }

    /// The requests of the workload in a window as long as the trace, and when they are sent,
    /// answers taking no time.
    fn draw(&self, seed: u64) -> Vec<(SimTime, crate::request::Request)> {
        let end = SimTime::ZERO + self.duration;
        let mut sessions = Sessions::new(self.settings.clone(), self.block_tokens, seed);
        let mut drawn = Vec::new();
        while sessions.next_arrival().is_some_and(|at| at < end) {
            let arrival = sessions.take();
            sessions.observe_end(arrival.at, arrival.request.id, true);
            drawn.push((arrival.sent, arrival.request));
        }
        drawn
    }
}

/// The texts that sessions begin with, and what all of these begin with.
fn prefixes(trace: &Trace, grouped: &Grouped, used: &[&Seen]) -> (Tokens, Vec<PrefixTexts>) {
    let path = |seen: &Seen| -> Vec<u64> {
        let blocks = grouped.popular[seen.first as usize] as usize;
        trace.blocks(seen.first as usize).take(blocks).map(|block| block.0).collect()
    };
    let mut counts: BTreeMap<Vec<u64>, u32> = BTreeMap::new();
    for seen in used {
        *counts.entry(path(seen)).or_insert(0) += 1;
    }
    let none = counts.remove(&Vec::new()).unwrap_or(0);
    let Some(first) = counts.keys().next() else { return (Tokens(0), Vec::new()) };
    let common =
        (0..first.len()).take_while(|&at| counts.keys().all(|path| path.get(at) == first.get(at)));
    let tokens = |blocks: usize| {
        let blocks = u32::try_from(blocks).expect("fewer blocks than tokens");
        Tokens(blocks * trace.block_tokens)
    };
    let common_tokens = tokens(common.count());
    let mut texts: Vec<(u32, usize)> =
        counts.iter().map(|(path, count)| (*count, path.len())).collect();
    texts.sort_unstable_by(|a, b| b.cmp(a));
    let entry =
        |tokens: Tokens, weight: u32| PrefixTexts { tokens, weight, texts: 1, exponent: 0.0 };
    let mut prefix: Vec<PrefixTexts> = texts
        .iter()
        .take(MOST_TEXTS)
        .map(|&(count, blocks)| entry(tokens(blocks), count))
        .collect();
    let mut rest = texts.get(MOST_TEXTS..).unwrap_or_default();
    let mut most = MOST_TEXTS;
    while !rest.is_empty() {
        let (group, rarer) = rest.split_at(most.min(rest.len()));
        (rest, most) = (rarer, most * 2);
        let weight = group.iter().map(|(count, _)| count).sum();
        let blocks: u64 =
            group.iter().map(|&(count, blocks)| u64::from(count) * blocks as u64).sum();
        let mean =
            usize::try_from(blocks / u64::from(weight)).expect("a mean of numbers of blocks");
        let count = u32::try_from(group.len()).expect("fewer texts than rows");
        prefix.push(PrefixTexts { texts: count, ..entry(tokens(mean.max(1)), weight) });
    }
    if none > 0 {
        prefix.push(entry(Tokens(0), none));
    }
    (common_tokens, prefix)
}

/// Classes of sessions, by the length of their first prompts.
fn classes(used: &[&Seen], is_timed: bool) -> Vec<SessionClass> {
    let mut sorted: Vec<&Seen> = used.to_vec();
    sorted.sort_by_key(|seen| (seen.own_tokens, seen.first));
    let mut cuts = vec![0];
    for share in CLASSES {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place")]
        let at = (share * sorted.len() as f64) as usize;
        // Prompts of one length are of one class.
        let cut = sorted.partition_point(|seen| seen.own_tokens < sorted[at].own_tokens);
        let is_apart = cut >= cuts[cuts.len() - 1] + LEAST_SESSIONS;
        if is_apart && sorted.len() - cut >= LEAST_SESSIONS {
            cuts.push(cut);
        }
    }
    cuts.push(sorted.len());
    let all = Waits::of(used.iter().copied());
    cuts.windows(2).map(|cut| class(&sorted[cut[0]..cut[1]], &all, is_timed)).collect()
}

fn class(sessions: &[&Seen], all: &Waits, is_timed: bool) -> SessionClass {
    let waits = Waits::of(sessions.iter().copied());
    let turns = || sessions.iter().flat_map(|seen| &seen.turns);
    let (mut questions, mut kept, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for step in turns().filter_map(|turn| turn.step) {
        match step {
            Step::GoesOn { question_tokens } => questions.push(question_tokens),
            Step::Edit { kept_tokens, new_tokens } => {
                kept.push(kept_tokens);
                new.push(new_tokens);
            }
        }
    }
    let edits = (!kept.is_empty()).then(|| Edits {
        share: rounded(kept.len() as f64 / (kept.len() + questions.len()) as f64),
        kept_tokens: tokens(kept),
        new_tokens: tokens(new),
    });
    let pauses = waits.or(all).pauses();
    let goes_on: Vec<f64> = waits.goes_on(all).into_iter().map(rounded).collect();
    let branches = waits.branches(all, goes_on.last().copied().unwrap_or(0.0));
    let (gap, think_time) = match is_timed {
        true => (pauses, Distribution::default()),
        false => (Distribution::default(), pauses),
    };
    SessionClass {
        weight: u32::try_from(sessions.len()).expect("fewer sessions than rows"),
        first_tokens: tokens(sessions.iter().map(|seen| seen.own_tokens).collect()),
        output_tokens: tokens(turns().map(|turn| turn.output_tokens).collect()),
        // Rounded down: sessions end.
        branches: (branches * 1e4).floor() / 1e4,
        goes_on,
        gap,
        think_time,
        question_tokens: match questions.is_empty() {
            true => Distribution::Constant { value: Tokens(1) },
            false => tokens(questions),
        },
        edits,
    }
}

/// To four digits after the point, as people read it.
fn rounded(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}
