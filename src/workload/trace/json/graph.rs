//! Which requests wait for which, and an order that keeps to it.

use super::records::Record;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The requests of a file by name and by session.
pub(super) struct Spans {
    by_name: BTreeMap<String, usize>,
    twice: Option<(String, usize)>,
    /// By session: rows in order of sending.
    sessions: BTreeMap<String, Vec<usize>>,
    /// By session: when rows of those that it called had ended, in order.
    children: BTreeMap<String, Vec<(u64, usize)>>,
    /// When each was sent and had ended, and where it belongs.
    times: Vec<Span>,
}

#[derive(Clone)]
struct Span {
    at_ns: u64,
    end_ns: u64,
    session: Option<String>,
    parent: Option<String>,
}

impl Spans {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut spans = Self {
            by_name: BTreeMap::new(),
            twice: None,
            sessions: BTreeMap::new(),
            children: BTreeMap::new(),
            times: Vec::with_capacity(records.len()),
        };
        for (index, record) in records.iter().enumerate() {
            let at_ns = record.at_ns.unwrap_or(0);
            spans.times.push(Span {
                at_ns,
                end_ns: record.end_ns.unwrap_or(at_ns).max(at_ns),
                session: record.session.clone(),
                parent: record.parent.clone(),
            });
            if let Some(name) = &record.name
                && spans.by_name.insert(name.clone(), index).is_some()
                && spans.twice.is_none()
            {
                spans.twice = Some((name.clone(), record.line));
            }
            if let Some(session) = &record.session {
                spans.sessions.entry(session.clone()).or_default().push(index);
                if let Some(parent) = &record.parent {
                    let ends = spans.children.entry(parent.clone()).or_default();
                    ends.push((spans.times[index].end_ns, index));
                }
            }
        }
        spans.children.values_mut().for_each(|ends| ends.sort_unstable());
        for rows in spans.sessions.values_mut() {
            rows.sort_by_key(|&row| (spans.times[row].at_ns, row));
        }
        spans
    }

    /// The row with this name.
    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// A name that two rows have, and the line of the second.
    pub(super) fn twice(&self) -> Option<&(String, usize)> {
        self.twice.as_ref()
    }

    /// The row of a session that ended last of those that had ended when `row` was sent.
    fn last_ended(&self, session: &str, row: usize) -> Option<usize> {
        let at_ns = self.times[row].at_ns;
        let rows = self.sessions.get(session)?;
        let sent = rows.partition_point(|&other| (self.times[other].at_ns, other) < (at_ns, row));
        // Few requests of a session are on their way at the same time.
        rows[..sent]
            .iter()
            .rev()
            .take(64)
            .filter(|&&other| other != row && self.times[other].end_ns <= at_ns)
            .max_by_key(|&&other| (self.times[other].end_ns, other))
            .copied()
    }

    /// The rows that `row` waits for, and how long after they had ended it was sent.
    pub(super) fn waits_of(&self, row: usize) -> (Vec<usize>, u64) {
        let span = &self.times[row];
        let Some(session) = &span.session else { return (Vec::new(), 0) };
        let own = self.last_ended(session, row);
        let mut waits: Vec<usize> = own.into_iter().collect();
        if let (None, Some(parent)) = (own, &span.parent) {
            waits.extend(self.last_ended(parent, row));
        }
        if let Some(ends) = self.children.get(session) {
            let after = own.map_or(0, |own| {
                let since = self.times[own].end_ns;
                ends.partition_point(|(end_ns, _)| *end_ns <= since)
            });
            let ended = ends[after..].iter().take_while(|(end_ns, _)| *end_ns <= span.at_ns);
            let is_before = |child: usize| (self.times[child].at_ns, child) < (span.at_ns, row);
            let children = ended.map(|(_, child)| *child).filter(|&child| is_before(child));
            let last: BTreeMap<Option<&str>, usize> =
                children.map(|child| (self.times[child].session.as_deref(), child)).collect();
            waits.extend(last.values());
        }
        waits.sort_unstable();
        waits.dedup();
        let ended = waits.iter().map(|&other| self.times[other].end_ns).max();
        (waits, ended.map_or(0, |ended| span.at_ns - ended))
    }
}

/// The places of all records in order of the times at which they were sent, each after those
/// that it waits for. One without a time in `recorded` comes its delay after the last of those.
///
/// # Errors
/// One that waits for itself, through others.
pub(super) fn in_order(records: &[Record], recorded: &[Option<u64>]) -> Result<Vec<usize>, usize> {
    let mut left: Vec<usize> = records.iter().map(|record| record.rows().len()).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); records.len()];
    for (index, record) in records.iter().enumerate() {
        for &before in record.rows() {
            followers[before].push(index);
        }
    }
    let mut free: BinaryHeap<Reverse<(u64, usize)>> = (0..records.len())
        .filter(|&index| left[index] == 0)
        .map(|index| Reverse((recorded[index].unwrap_or(0), index)))
        .collect();
    let mut order = Vec::with_capacity(records.len());
    while let Some(Reverse((at_ns, index))) = free.pop() {
        order.push(index);
        for &follower in &followers[index] {
            left[follower] -= 1;
            if left[follower] == 0 {
                // Those before it came in order of time, so this is the last of them.
                let after = at_ns.saturating_add(records[follower].delay_ns);
                free.push(Reverse((recorded[follower].unwrap_or(after).max(at_ns), follower)));
            }
        }
    }
    match (0..records.len()).find(|&index| left[index] > 0) {
        Some(index) => Err(index),
        None => Ok(order),
    }
}
