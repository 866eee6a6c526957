//! Places of a result set in words: series, and stretches of the axis.

use crate::report::view::{Axis, View};

/// The most series that are named one by one; of more their number is said.
const MOST_NAMED: usize = 6;

/// The series and values of the axis where something holds, in words:
/// `round_robin at concurrency 160-180; kv at 180`. `None` if it holds nowhere.
pub(super) fn places(view: &View<'_>, holds: impl Fn(usize, f64) -> bool) -> Option<String> {
    let xs = view.xs();
    let mut parts: Vec<(String, String)> = Vec::new();
    let mut everywhere = true;
    for (series, shown) in view.series.iter().enumerate() {
        let own: Vec<usize> = (0..xs.len()).filter(|i| shown.at(xs[*i]).is_some()).collect();
        let here: Vec<usize> = own.iter().copied().filter(|i| holds(series, xs[*i])).collect();
        everywhere &= here.len() == own.len();
        if here.is_empty() {
            continue;
        }
        let stretch = match &view.axis {
            Some(axis) if here.len() < own.len() || own.len() == 1 => {
                format!(" at {} {}", axis.name(), stretches(axis, &here))
            }
            Some(axis) => format!(" at every {}", axis.name()),
            None => String::new(),
        };
        parts.push((shown.label.clone(), stretch));
    }
    if parts.is_empty() {
        return None;
    }
    if everywhere && view.summary.points.len() > 1 {
        return Some("every point".to_owned());
    }
    if parts.len() > MOST_NAMED {
        return Some(format!("{} of {} settings", parts.len(), view.series.len()));
    }
    // Series of the same stretch share it.
    let mut joined: Vec<(Vec<String>, String)> = Vec::new();
    for (label, stretch) in parts {
        match joined.iter_mut().find(|(_, known)| *known == stretch) {
            Some((labels, _)) => labels.push(label),
            None => joined.push((vec![label], stretch)),
        }
    }
    let text = |(labels, stretch): &(Vec<String>, String)| {
        // Labels of variants and settings have commas of their own.
        let between = if labels.iter().any(|label| label.contains(',')) { "; " } else { ", " };
        format!("{}{stretch}", labels.join(between))
    };
    let texts: Vec<String> = joined.iter().map(text).collect();
    Some(texts.join("; "))
}

/// Values of the axis, neighbours joined to stretches: `60-120, 160`.
pub(super) fn stretches(axis: &Axis, here: &[usize]) -> String {
    let unit = if axis.is_duration { " ms" } else { "" };
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for i in here {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == *i => run.1 = *i,
            _ => runs.push((*i, *i)),
        }
    }
    let texts: Vec<String> = runs
        .iter()
        .map(|(from, to)| match (axis.values[*from], axis.values[*to]) {
            (from, to) if from == to => format!("{from}{unit}"),
            (from, to) => format!("{from}-{to}{unit}"),
        })
        .collect();
    texts.join(", ")
}
