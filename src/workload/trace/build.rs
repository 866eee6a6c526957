//! Puts rows of any format together, by the rules that all of them keep.

use super::column_names::Columns;
use super::formats::Names;
use super::ids::Naming;
use super::names::{Beginnings, Prefix};
use super::numbering::{Numbering, push};
use super::place::RowPlace;
use super::stamp::{Clock, Stamp, TimeUnit};
use super::{Found, MOONCAKE_BLOCK_TOKENS, Trace, TraceError, TraceFormat, TraceRow, row_number};
use crate::id::BlockId;
use crate::kv::BlockTable;
use crate::request::BlockRun;
use crate::time::SimDuration;
use crate::workload::MAX_TOKENS;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Ids from here on are hashes: they are numbered in order of their first use. Twice this,
/// times the most engine blocks per id, [`MAX_BLOCK_TOKENS`](super::MAX_BLOCK_TOKENS),
/// stays below the private ids.
const FIRST_HASH: u64 = 1 << 51;

/// Rows of a trace (assumed: twice the largest public one). Each is held in memory, some
/// 100 bytes of it, and a small compressed file can have any number.
pub(super) const MOST_ROWS: u32 = 100_000_000;

/// What is said of conversations without times.
pub(super) const AT_ONCE: &str = "its conversations all begin at time 0: clients or a process of \
                                  arrivals spread them";

/// Requests a second of a log whose times are probably not milliseconds (assumed: what a
/// hundred large GPUs serve).
const MOST_RATE: f64 = 200.0;

/// How a trace file is read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadOptions {
    /// How its rows are written; the content says so unless given.
    pub format: Option<TraceFormat>,
    /// What its times count; the format says so unless given.
    pub time_unit: Option<TimeUnit>,
    /// Which columns say what, of a file that has none of the formats.
    pub columns: Option<Columns>,
    /// What makes tokens of its texts, where it holds texts: a `tokenizer.json`.
    pub tokenizer: Option<PathBuf>,
    /// What its ids name.
    pub naming: Naming,
    /// Tokens that an id stands for.
    pub block_tokens: u32,
    /// Only the first rows.
    pub limit: Option<u32>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            format: None,
            time_unit: None,
            columns: None,
            tokenizer: None,
            naming: Naming::Chained,
            block_tokens: MOONCAKE_BLOCK_TOKENS,
            limit: None,
        }
    }
}

/// The number of the row at `place`, after `rows` others.
///
/// # Errors
/// If there are too many.
pub(super) fn row_count(place: &RowPlace<'_>, rows: usize) -> Result<u32, TraceError> {
    let number = u32::try_from(rows).ok().filter(|&number| number < MOST_ROWS);
    number
        .ok_or_else(|| place.row("more than 100,000,000 requests: read a part of them, with limit"))
}

/// A row as it was read.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) timestamp: Option<Stamp>,
    /// As the file writes it, where it is no number.
    pub(super) written: Option<&'a str>,
    pub(super) delay: Option<Stamp>,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    /// The most that was asked for, if it is said.
    pub(super) max_tokens: Option<u32>,
    pub(super) hash_ids: Option<&'a [u64]>,
    /// A text that the prompt begins with, of rows without ids.
    pub(super) prefix: Option<Prefix>,
    pub(super) session: Option<&'a str>,
    /// The rows whose answers it waits for; if not given, that of its session before it.
    pub(super) waits_for: Option<&'a [u32]>,
}

/// What the prompt of a later turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turns {
    /// All that the model reads.
    Whole,
    /// What is new after the turn before and its answer.
    Increments,
    /// Nothing says so: their lengths decide.
    Unsaid,
}

/// A trace that is being read.
pub(super) struct Build<'a> {
    path: &'a Path,
    limit: usize,
    names: Names<'a>,
    turns: Turns,
    clock: Clock,
    trace: Trace,
    tree: PrefixTree,
    numbers: Numbers,
    prefixes: Prefixes,
    /// What was assumed by the reader of the format.
    notices: Vec<String>,
    /// The last row of every session that has a name.
    sessions: BTreeMap<String, u32>,
    sessions_begun: u32,
    /// When the last first turn comes.
    earlier: SimDuration,
    /// Later turns, the row before each, and their lines.
    later: Vec<Later>,
}

/// A later turn of a session, which is joined to the one before when all are known.
#[derive(Clone, Copy)]
struct Later {
    row: u32,
    previous: u32,
    line: usize,
}

impl<'a> Build<'a> {
    pub(super) fn new(
        path: &'a Path,
        names: Names<'a>,
        options: &ReadOptions,
        (turns, unit): (Turns, Option<TimeUnit>),
    ) -> Self {
        Self {
            path,
            limit: options.limit.map_or(usize::MAX, |limit| limit as usize),
            names,
            turns,
            clock: Clock::new(unit),
            trace: Trace {
                rows: Vec::new(),
                runs: Vec::new(),
                edges: Vec::new(),
                block_tokens: options.block_tokens,
                beginnings: Beginnings::default(),
                is_whole_ms: true,
                found: Found::default(),
            },
            tree: PrefixTree::default(),
            numbers: Numbers::new(options.naming),
            prefixes: Prefixes::default(),
            notices: Vec::new(),
            sessions: BTreeMap::new(),
            sessions_begun: 0,
            earlier: SimDuration::ZERO,
            later: Vec::new(),
        }
    }

    /// What the format calls its fields.
    pub(super) fn names(&self) -> Names<'a> {
        self.names
    }

    /// The most rows that were asked for.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The file says how many tokens an id stands for.
    pub(super) fn set_block_tokens(&mut self, tokens: u32) {
        self.trace.block_tokens = tokens;
    }

    /// Says what was assumed of the file, a sentence each.
    pub(super) fn notices(&mut self, notices: impl IntoIterator<Item = String>) {
        self.notices.extend(notices);
    }

    /// True once there are as many rows as were asked for.
    pub(super) fn is_full(&self) -> bool {
        self.trace.rows.len() >= self.limit
    }

    /// Counts rows that are no requests to be replayed.
    pub(super) fn leave_out(&mut self, rows: u64) {
        self.trace.found.rows_left_out += rows;
    }

    /// Adds the row at `place`.
    pub(super) fn add(&mut self, place: &RowPlace<'_>, given: Given<'_>) -> Result<(), TraceError> {
        let number = row_count(place, self.trace.rows.len())?;
        let known = given.session.and_then(|session| self.sessions.get(session)).copied();
        let before = known.as_slice();
        let waits_for = given.waits_for.unwrap_or(before);
        let is_first = waits_for.is_empty();
        let session_of = |row: u32| self.trace.rows[row as usize].session;
        // Its text goes on from one of its own session, if there is one.
        let of_session =
            |row: &&u32| known.is_some_and(|known| session_of(**row) == session_of(known));
        let previous = waits_for.iter().find(of_session).or(waits_for.first()).copied();
        let at = self.time(place, &given, is_first)?;
        let delay = self.delay(place, &given, is_first)?;
        self.check_lengths(place, &given)?;
        let first_run = self.trace.runs.len();
        if let Some(ids) = given.hash_ids {
            self.add_ids(place, ids, given.input_tokens)?;
        } else if let Some(prefix) = given.prefix {
            self.prefixes.add(place, &mut self.trace, prefix, given.input_tokens)?;
        }
        let mut row = TraceRow {
            at,
            delay,
            input_tokens: given.input_tokens,
            output_tokens: given.output_tokens,
            max_tokens: given.max_tokens.unwrap_or(given.output_tokens),
            session: self.sessions_begun,
            turn: 0,
            waits: row_number(waits_for.len()),
            head: number,
            named_by: number,
            first_run,
        };
        match known {
            Some(known) => {
                let before = &self.trace.rows[known as usize];
                (row.session, row.turn) = (before.session, before.turn + 1);
            }
            None => self.sessions_begun += 1,
        }
        self.trace.edges.extend(waits_for.iter().map(|&before| (before, number)));
        if let Some(previous) = previous {
            self.later.push(Later { row: number, previous, line: place.line });
        } else {
            self.earlier = at;
            if given.hash_ids.is_some() {
                let runs = &self.trace.runs[first_run..];
                self.tree.add(place, runs, given.input_tokens, self.trace.block_tokens)?;
            }
        }
        if let Some(session) = given.session {
            match self.sessions.get_mut(session) {
                Some(last) => *last = number,
                None => {
                    self.sessions.insert(session.to_owned(), number);
                }
            }
        }
        self.trace.rows.push(row);
        Ok(())
    }

    /// Adds the runs of a row's ids.
    fn add_ids(
        &mut self,
        place: &RowPlace<'_>,
        ids: &[u64],
        input_tokens: u32,
    ) -> Result<(), TraceError> {
        let Trace { block_tokens, runs, .. } = &mut self.trace;
        let expected = input_tokens.div_ceil(*block_tokens) as usize;
        // Some name whole blocks only.
        let whole = (input_tokens / *block_tokens) as usize;
        if ids.len() != expected && ids.len() != whole {
            let seen = format!("{} ids", ids.len());
            let allowed =
                format!("{expected} ids, one for each {block_tokens} of {input_tokens} tokens");
            return Err(place.field("hash_ids", seen, allowed));
        }
        let first_run = runs.len();
        let mut before = None;
        let naming = self.numbers.naming;
        // A run is of ids that are their own numbers, or of one.
        let follows =
            |&id: &u64, &next: &u64| is_number(naming, next) && next.checked_sub(1) == Some(id);
        for ids in ids.chunk_by(follows) {
            let first = self.numbers.of(ids[0], before);
            push(runs, first_run, first, row_number(ids.len()));
            before = Some(first + ids.len() as u64 - 1);
        }
        Ok(())
    }

    /// When the row comes; zero for a later turn that has no time of its own.
    fn time(
        &mut self,
        place: &RowPlace<'_>,
        given: &Given<'_>,
        is_first: bool,
    ) -> Result<SimDuration, TraceError> {
        let name = self.names.timestamp;
        let Some(stamp) = given.timestamp else {
            if is_first {
                return Err(place.row(format!("field \"{name}\" is missing")));
            }
            return Ok(SimDuration::ZERO);
        };
        let refused = |allowed| match given.written {
            Some(written) => place.field(name, written, allowed),
            None => place.field(name, stamp, allowed),
        };
        let at = self.clock.at(stamp).map_err(refused)?;
        if is_first && (at < self.earlier || self.clock.is_before_first(stamp)) {
            let allowed = "not before the first turn above it: sort the rows by time";
            return Err(refused(allowed.to_owned()));
        }
        Ok(at)
    }

    fn delay(
        &mut self,
        place: &RowPlace<'_>,
        given: &Given<'_>,
        is_first: bool,
    ) -> Result<SimDuration, TraceError> {
        let Some(stamp) = given.delay else { return Ok(SimDuration::ZERO) };
        let refused = |allowed| place.field("delay", stamp, allowed);
        let delay = self.clock.lasting(stamp).map_err(refused)?;
        if is_first && !delay.is_zero() {
            let allowed = "absent: only later turns of a session_id wait for the one before";
            return Err(refused(allowed.to_owned()));
        }
        Ok(delay)
    }

    fn check_lengths(&self, place: &RowPlace<'_>, given: &Given<'_>) -> Result<(), TraceError> {
        if !(1..=MAX_TOKENS).contains(&given.input_tokens) {
            let allowed = format!("from 1 to {MAX_TOKENS}");
            return Err(place.field(self.names.input, given.input_tokens, allowed));
        }
        if !(1..=MAX_TOKENS).contains(&given.output_tokens) {
            let allowed =
                format!("from 1 to {MAX_TOKENS}, as every request generates; remove the row");
            return Err(place.field(self.names.output, given.output_tokens, allowed));
        }
        if let Some(most) =
            given.max_tokens.filter(|most| !(given.output_tokens..=MAX_TOKENS).contains(most))
        {
            let allowed = format!("from {}, the output, to {MAX_TOKENS}", given.output_tokens);
            return Err(place.field("max_tokens", most, allowed));
        }
        Ok(())
    }

    /// The trace, if it has a row.
    pub(super) fn finish(mut self) -> Result<Trace, TraceError> {
        if self.trace.rows.is_empty() {
            return Err(TraceError::Empty { path: self.path.to_owned() });
        }
        self.trace.edges.sort_unstable();
        self.trace.is_whole_ms = self.clock.is_whole_ms();
        let (turns, how) = self.turns();
        let path = self.path.display();
        let shorter = self.prefixes.shorter;
        let shorter = (shorter > 0).then(|| {
            format!("{shorter} of its prompts are shorter than prefix_tokens: they share their whole blocks")
        });
        let notices = self.notices.iter().cloned().chain(self.clock.notice()).chain(how);
        let notices = notices.chain(shorter).chain(self.same_rows()).chain(self.short_times());
        self.trace.found.notices = notices.map(|notice| format!("{path}: {notice}")).collect();
        let later = std::mem::take(&mut self.later);
        let mut broken = BTreeSet::new();
        for &turn in &later {
            let goes_on = match turns {
                Turns::Increments => self.extend(turn)?,
                _ => self.follow(turn)?,
            };
            let session = |row: u32| self.trace.rows[row as usize].session;
            if !goes_on && session(turn.row) == session(turn.previous) {
                broken.insert(self.trace.rows[turn.row as usize].session);
            }
        }
        self.trace.found.sessions_broken = broken.len() as u64;
        if turns == Turns::Increments {
            self.forget_later_ids();
        }
        Ok(self.trace)
    }

    /// What is said of rows that a log may have twice by mistake. Without sessions and ids,
    /// and times in whole seconds, equal rows mean nothing.
    fn same_rows(&self) -> Option<String> {
        let (rows, has_sessions) = (&self.trace.rows, !self.sessions.is_empty());
        let is_timed = |row: &TraceRow| row.is_first() || !row.at.is_zero();
        let tells = |row: &TraceRow| {
            let whole_s = row.at.as_ps().is_multiple_of(SimDuration::from_secs(1).as_ps());
            has_sessions || !self.trace.runs.is_empty() || !whole_s
        };
        let key = |at: usize| {
            let row = &rows[at];
            (if has_sessions { row.session } else { 0 }, row.input_tokens, row.output_tokens)
        };
        let mut same = 0u64;
        let mut first = 0;
        while first < rows.len() {
            let at = rows[first].at;
            let more = rows[first..].iter().take_while(|row| row.at == at).count();
            if more > 1 && tells(&rows[first]) {
                let mut group: Vec<usize> =
                    (first..first + more).filter(|&place| is_timed(&rows[place])).collect();
                group.sort_by_key(|&place| key(place));
                let is_same = |pair: &&[usize]| {
                    key(pair[0]) == key(pair[1])
                        && self.trace.runs(pair[0]) == self.trace.runs(pair[1])
                };
                same += group.windows(2).filter(is_same).count() as u64;
            }
            first += more;
        }
        (same > 0).then(|| {
            let rows = if same == 1 { "row is" } else { "rows are" };
            format!(
                "{same} {rows} like another in time, session, lengths and ids: each is replayed"
            )
        })
    }

    /// The notice about an assumed unit of time, where it makes a load that no log has.
    fn short_times(&self) -> Option<String> {
        let rows = &self.trace.rows;
        let last = rows.iter().map(|row| row.at).max().unwrap_or_default();
        let rate = rows.len() as f64 / last.as_secs();
        let is_odd = self.clock.is_guessed_ms()
            && !last.is_zero()
            && (last < SimDuration::from_secs(1) || rate > MOST_RATE);
        is_odd.then(|| {
            format!(
                "its times are read as milliseconds: {} requests in {:.3} s, {rate:.0} a second \
                 (time_unit says what they count)",
                rows.len(),
                last.as_secs()
            )
        })
    }

    /// What later turns have, by the lengths of all of them if nothing else says
    /// so; and what was assumed.
    fn turns(&self) -> (Turns, Option<String>) {
        if self.turns != Turns::Unsaid {
            return (self.turns, None);
        }
        let shrinks = |turn: &&Later| !self.fits(**turn) && !self.has_ids_of_previous(**turn);
        let (all, shrunk) = (self.later.len(), self.later.iter().filter(shrinks).count());
        let how = format!(
            "rows of one session shrink: {shrunk} of {all} later turns are shorter than the turn \
             before and its answer"
        );
        if shrunk * 2 > all {
            let assumed = "read as increments (format = \"mooncake\" reads whole prompts)";
            (Turns::Increments, Some(format!("{how}; {assumed}")))
        } else if shrunk > 0 {
            let assumed = "each begins a new text (format = \"mooncake_delta\" reads increments)";
            (Turns::Whole, Some(format!("{how}; {assumed}")))
        } else {
            (Turns::Whole, None)
        }
    }

    /// True if a later turn has room for the turn before and its answer.
    fn fits(&self, Later { row, previous, .. }: Later) -> bool {
        let before = &self.trace.rows[previous as usize];
        self.trace.rows[row as usize].input_tokens >= before.input_tokens + before.output_tokens
    }

    /// True if the ids of a later turn begin with the whole blocks of the turn
    /// before, which has some.
    fn has_ids_of_previous(&self, Later { row, previous, .. }: Later) -> bool {
        let whole = self.trace.rows[previous as usize].input_tokens / self.trace.block_tokens;
        whole > 0 && self.ids_go_on(row, previous)
    }

    /// True if both rows have ids, and those of `row` begin with the whole blocks
    /// of `previous`.
    fn ids_go_on(&self, row: u32, previous: u32) -> bool {
        let (ids, before) = (self.trace.runs(row as usize), self.trace.runs(previous as usize));
        let whole = self.trace.rows[previous as usize].input_tokens / self.trace.block_tokens;
        let both = !ids.is_empty() && !before.is_empty();
        both && ids_of(before).take(whole as usize).eq(ids_of(ids).take(whole as usize))
    }

    /// Makes a later turn one that has only what is new.
    fn extend(&mut self, Later { row, previous, line }: Later) -> Result<bool, TraceError> {
        let before = self.trace.rows[previous as usize];
        let row = &mut self.trace.rows[row as usize];
        let new = row.input_tokens;
        row.head = before.head;
        row.input_tokens += before.input_tokens + before.output_tokens;
        if row.input_tokens > MAX_TOKENS {
            let allowed = format!("so short that the whole prompt has at most {MAX_TOKENS}");
            return Err(RowPlace { path: self.path, line }.field(self.names.input, new, allowed));
        }
        Ok(true)
    }

    /// Joins a later turn that has its whole prompt to the turn before, if it can
    /// contain it and its answer.
    fn follow(&mut self, turn: Later) -> Result<bool, TraceError> {
        let Later { row, previous, line } = turn;
        let before = self.trace.rows[previous as usize];
        let ids = self.trace.runs(row as usize);
        if ids.is_empty() || self.prefixes.is_used() {
            let goes_on = self.fits(turn);
            if goes_on {
                self.trace.rows[row as usize].head = before.head;
            }
            return Ok(goes_on);
        }
        let block_tokens = self.trace.block_tokens;
        let place = RowPlace { path: self.path, line };
        let input_tokens = self.trace.rows[row as usize].input_tokens;
        self.tree.add(&place, ids, input_tokens, block_tokens)?;
        let goes_on = self.fits(turn) && self.ids_go_on(row, previous);
        if goes_on {
            let (whole, partial) =
                (before.input_tokens / block_tokens, before.input_tokens % block_tokens);
            let at = |row: u32| ids_of(self.trace.runs(row as usize)).nth(whole as usize);
            if let (Some(longer), Some(shorter)) = (at(row), at(previous))
                && partial > 0
            {
                self.trace.beginnings.add(longer, shorter, partial);
            }
            let before = &mut self.trace.rows[previous as usize];
            // Of several turns that go on from it the first has what it answered.
            if before.named_by == previous {
                before.named_by = row;
            }
        }
        Ok(goes_on)
    }

    /// Ids of turns that follow an answer cannot be shared.
    fn forget_later_ids(&mut self) {
        let runs = std::mem::take(&mut self.trace.runs);
        let mut first_old = 0;
        for index in 0..self.trace.rows.len() {
            let end_old = self.trace.rows.get(index + 1).map_or(runs.len(), |next| next.first_run);
            let row = &mut self.trace.rows[index];
            row.first_run = self.trace.runs.len();
            if row.is_first() {
                self.trace.runs.extend_from_slice(&runs[first_old..end_old]);
            }
            first_old = end_old;
        }
    }
}

/// The ids that `runs` stand for.
fn ids_of(runs: &[BlockRun]) -> impl Iterator<Item = u64> + Clone + '_ {
    runs.iter().flat_map(|run| (0..run.len).map(|i| run.first.offset(i).0))
}

/// Numbers for ids that are too large for a place in the order of blocks, or that name the
/// tokens of a block alone.
#[derive(Default)]
struct Numbers {
    naming: Naming,
    /// By the number of the block before and the id.
    known: Numbering,
}

impl Numbers {
    fn new(naming: Naming) -> Self {
        Self { naming, known: Numbering::default() }
    }

    /// The number of `id` after the block with number `before`.
    fn of(&mut self, id: u64, before: Option<u64>) -> u64 {
        if is_number(self.naming, id) {
            return id;
        }
        let before = match self.naming {
            // It names all before it.
            Naming::Chained => 0,
            Naming::Content => before.map_or(0, |before| before + 1),
        };
        let first = if self.naming == Naming::Chained { FIRST_HASH } else { 0 };
        first + self.known.of((id, before))
    }
}

/// True if `id` is its own number.
fn is_number(naming: Naming, id: u64) -> bool {
    naming == Naming::Chained && id < FIRST_HASH
}

/// Texts that prompts begin with, where no ids say what they share.
#[derive(Default)]
struct Prefixes {
    /// By text: the first of its ids, and its tokens.
    known: BTreeMap<u64, (u64, u32)>,
    next: u64,
    /// Prompts that are shorter than their text.
    shorter: u64,
}

impl Prefixes {
    /// True if some row had one: ids then say nothing of the rest of a prompt.
    fn is_used(&self) -> bool {
        !self.known.is_empty()
    }

    /// Adds the ids of a row whose prompt begins with `prefix`. Where that ends inside a
    /// block, the row has a block of its own there that begins as all of them do.
    fn add(
        &mut self,
        place: &RowPlace<'_>,
        trace: &mut Trace,
        prefix: Prefix,
        input_tokens: u32,
    ) -> Result<(), TraceError> {
        let block_tokens = trace.block_tokens;
        let blocks = u64::from(prefix.tokens.div_ceil(block_tokens));
        let next = &mut self.next;
        let (first, tokens) = *self.known.entry(prefix.text).or_insert_with(|| {
            let first = *next;
            *next += blocks;
            (first, prefix.tokens)
        });
        if tokens != prefix.tokens {
            let allowed = format!("{tokens}, as in the rows before with the same prefix");
            return Err(place.field("prefix_tokens", prefix.tokens, allowed));
        }
        let shared = tokens.min(input_tokens);
        self.shorter += u64::from(input_tokens < tokens);
        let (whole, partial) = (shared / block_tokens, shared % block_tokens);
        if whole > 0 {
            trace.runs.push(BlockRun { first: BlockId(first), len: whole });
        }
        if partial > 0 && shared == tokens {
            let own = self.next;
            self.next += 1;
            trace.runs.push(BlockRun { first: BlockId(own), len: 1 });
            trace.beginnings.add(own, first + u64::from(whole), partial);
        }
        Ok(())
    }
}

/// What each id has meant so far. An id names a block with everything before
/// it, so it has one parent and one length; a cache would give false hits else.
#[derive(Default)]
struct PrefixTree {
    /// [`ORDINARY`], or the place in `nodes` from 1.
    table: BlockTable,
    nodes: Vec<Node>,
}

/// Most blocks are whole and follow the id before their own.
const ORDINARY: u32 = 0;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Node {
    id: u64,
    parent: Option<u64>,
    tokens: u32,
}

impl PrefixTree {
    /// Adds the ids of a row, whose prompt has `input_tokens` tokens.
    fn add(
        &mut self,
        place: &RowPlace<'_>,
        runs: &[BlockRun],
        input_tokens: u32,
        block_tokens: u32,
    ) -> Result<(), TraceError> {
        let mut parent = None;
        let mut left = input_tokens;
        for &run in runs {
            let mut rest = run;
            while rest.len > 0 {
                let id = rest.first.0;
                let node = Node { id, parent, tokens: left.min(block_tokens) };
                self.add_one(place, node, block_tokens)?;
                // Whole blocks that follow are ordinary; those that are not known as that are
                // looked at one by one.
                let whole = (left - node.tokens) / block_tokens;
                let next = rest.skip(1);
                let ordinary = BlockRun { len: next.len.min(whole), ..next };
                let ordinary = self.table.fill(ordinary, ORDINARY);
                left -= node.tokens + ordinary * block_tokens;
                parent = Some(id + u64::from(ordinary));
                rest = next.skip(ordinary);
            }
        }
        Ok(())
    }

    fn add_one(
        &mut self,
        place: &RowPlace<'_>,
        node: Node,
        block_tokens: u32,
    ) -> Result<(), TraceError> {
        let id = node.id;
        let ordinary = Node { id, parent: id.checked_sub(1), tokens: block_tokens };
        let is_ordinary = node == ordinary;
        let next = u32::try_from(self.nodes.len() + 1).ok().filter(|&next| next < u32::MAX);
        let Some(next) = next else {
            return Err(place.row("more than 4294967294 different ids: use a smaller limit"));
        };
        match self.table.insert(BlockId(id), if is_ordinary { ORDINARY } else { next }) {
            Ok(()) if is_ordinary => {}
            Ok(()) => self.nodes.push(node),
            Err(ORDINARY) if is_ordinary => {}
            Err(known) => {
                let before = match known {
                    ORDINARY => ordinary,
                    known => self.nodes[known as usize - 1],
                };
                if before != node {
                    return Err(contradiction(place, node, before));
                }
            }
        }
        Ok(())
    }
}

fn contradiction(place: &RowPlace<'_>, now: Node, before: Node) -> TraceError {
    let after = |parent: Option<u64>| match parent {
        None => "at the start".to_owned(),
        Some(id) => format!("after id {id}"),
    };
    place.field(
        "hash_ids",
        format!("id {} with {} tokens {}", now.id, now.tokens, after(now.parent)),
        format!(
            "as before, {} tokens {}: an id stands for a block and everything before it \
             (ids = \"content\" if it does not)",
            before.tokens,
            after(before.parent)
        ),
    )
}
