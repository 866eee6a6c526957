//! Some of the sessions of a trace, from their beginnings.

use super::{NO_ROW, Trace, TraceRow, row_number};
use crate::settings::Invalid;
use crate::time::SimDuration;

impl Trace {
    /// The rows for which `stays` is true; a session goes no further than to the
    /// first row for which it is not.
    pub(super) fn subset(&self, stays: impl Fn(&TraceRow) -> bool) -> Self {
        let mut kept = self.emptied();
        // New numbers of rows that stay, and of their sessions.
        let mut numbers = vec![NO_ROW; self.rows.len()];
        let mut session_numbers = vec![NO_ROW; self.rows.len()];
        let mut sessions = 0;
        let mut waits: Vec<(u32, u32)> =
            self.edges.iter().map(|&(before, row)| (row, before)).collect();
        waits.sort_unstable();
        let mut waits = &waits[..];
        for (i, row) in self.rows.iter().enumerate() {
            let own = waits.partition_point(|&(waiting, _)| waiting == row_number(i));
            let (before, rest) = waits.split_at(own);
            waits = rest;
            let goes_on = before.iter().all(|&(_, before)| numbers[before as usize] != NO_ROW);
            if !stays(row) || !goes_on {
                continue;
            }
            let number = row_number(kept.rows.len());
            numbers[i] = number;
            let session = &mut session_numbers[row.session as usize];
            if *session == NO_ROW {
                *session = sessions;
                sessions += 1;
            }
            kept.rows.push(TraceRow {
                session: *session,
                head: numbers[row.head as usize],
                named_by: number,
                first_run: kept.runs.len(),
                ..*row
            });
            kept.runs.extend_from_slice(self.runs(i));
            for &(_, before) in before {
                kept.edges.push((numbers[before as usize], number));
                if self.rows[before as usize].named_by as usize == i {
                    kept.rows[numbers[before as usize] as usize].named_by = number;
                }
            }
        }
        kept.edges.sort_unstable();
        kept
    }

    /// The sessions that begin in the time from `start` up to `end`, not included,
    /// up to their first turn that has a time at or after `end`. `start` is the new
    /// time zero.
    ///
    /// # Errors
    /// If there is none.
    pub fn within(
        self,
        start: Option<SimDuration>,
        end: Option<SimDuration>,
    ) -> Result<Self, Invalid> {
        if start.is_none() && end.is_none() {
            return Ok(self);
        }
        let from = start.unwrap_or_default();
        let comes = |row: &TraceRow| {
            (!row.is_first() || row.at >= from) && end.is_none_or(|end| row.at < end)
        };
        let mut trace = self.subset(comes);
        if trace.rows.is_empty() {
            let firsts = self.rows.iter().filter(|row| row.is_first());
            let last = firsts.map(|row| row.at).max().unwrap_or_default().as_secs();
            let shown = |time: SimDuration| format!("\"{}s\"", time.as_secs());
            let (key, time) = start.map_or(("end", end), |start| ("start", Some(start)));
            let allowed =
                format!("such that a session begins in between; they begin from 0 s to {last} s");
            return Err(Invalid::new(key, shown(time.unwrap_or_default()), allowed));
        }
        for row in &mut trace.rows {
            row.at -= from;
        }
        trace.is_whole_ms &= from.as_ps().is_multiple_of(1_000_000_000);
        Ok(trace)
    }
}

/// Refuses a window that holds nothing.
///
/// # Errors
/// If `end` is not after `start`.
pub(super) fn validate_window(
    start: Option<SimDuration>,
    end: Option<SimDuration>,
) -> Result<(), Invalid> {
    let Some(end) = end else { return Ok(()) };
    let start = start.unwrap_or_default();
    let shown = format!("\"{}s\"", end.as_secs());
    Invalid::unless(end > start, "end", shown, &format!("after start, {} s", start.as_secs()))
}
