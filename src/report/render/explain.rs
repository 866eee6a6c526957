//! A decision in words: what every worker would have cost, what was true, what
//! the request met, and why.

use super::columns::{Column, table, wrap};
use crate::experiment::explain::Explained;
use crate::id::WorkerId;
use crate::metrics::short;
use crate::recorder::{End, RequestRecord};
use crate::report::view::plain;
use crate::router::Verdict;
use crate::time::SimDuration;
use std::fmt::Write;

/// All of it, in lines of `width` columns.
pub fn report(explained: &Explained, width: usize) -> String {
    let Explained { params, seed, decision, record, .. } = explained;
    let params: Vec<String> =
        params.iter().map(|(key, value)| format!("{key} = {}", plain(value))).collect();
    let mut text = format!("{}, seed {seed}\n", params.join(", "));
    let _ = writeln!(
        text,
        "request {}: turn {} of conversation {}, {} prompt tokens ({} full blocks)",
        record.request,
        record.turn + 1,
        record.conversation,
        record.prompt_tokens,
        decision.prompt_blocks,
    );
    let _ = writeln!(
        text,
        "decided by front end {} at {:.3} s: {}\n",
        decision.front_end,
        decision.at.as_secs(),
        match decision.verdict {
            Verdict::Send(worker) => format!("to worker {worker}"),
            Verdict::Hold => "held".to_owned(),
            Verdict::Reject(reason) => reason.to_string(),
        },
    );
    let _ = writeln!(text, "{}\n", workers(explained));
    for sentence in [choice(explained), knowledge(explained), met(explained)] {
        text.push_str(&wrap(&sentence, width));
    }
    text
}

/// A row per worker: cost, its parts, what the front end counted, what was true.
fn workers(explained: &Explained) -> String {
    let decision = &explained.decision;
    let chosen = sent_to(explained);
    let name = |at: usize| {
        let mark = if chosen.is_some_and(|worker| worker.index() == at) { "> " } else { "" };
        match explained.pools.get(at) {
            Some(pool) => format!("{mark}{at} {pool}"),
            None => format!("{mark}{at}"),
        }
    };
    let names = (0..decision.view.len()).map(name).collect();
    let mut columns = vec![Column::new(head("", "worker"), names)];
    let mut numbers = |first: &str, second: &str, cells: Vec<String>| {
        columns.push(Column::new(head(first, second), cells));
    };
    if let Some(first) = decision.costs.first() {
        let costs = decision.costs.iter().map(|parts| number(parts.cost)).collect();
        numbers("router:", "cost", costs);
        for (i, (part, _)) in first.parts.iter().enumerate() {
            let value = |parts: &crate::router::CostParts| {
                parts.parts.get(i).map_or("-".to_owned(), |(_, value)| number(*value))
            };
            let (first, second) = part.split_once('_').unwrap_or(("", part));
            numbers(first, second, decision.costs.iter().map(value).collect());
        }
    }
    let view = decision.view.iter().map(|worker| worker.inflight.to_string()).collect();
    numbers("router:", "in flight", view);
    if !decision.truth.is_empty() {
        let truth = |of: fn(&crate::truth::WorkerTruth) -> String| {
            decision.truth.iter().map(of).collect::<Vec<_>>()
        };
        numbers("true:", "cached", truth(|worker| worker.cached_blocks.to_string()));
        numbers("", "running", truth(|worker| worker.running.to_string()));
        numbers("", "waiting", truth(|worker| worker.waiting.to_string()));
        numbers("prefill", "ahead", truth(|worker| worker.prefill_tokens.to_string()));
        numbers("free", "blocks", truth(|worker| worker.free_blocks.to_string()));
        numbers("TTFT in", "sight (ms)", truth(|worker| short(worker.ttft.as_millis())));
    }
    table(&columns.iter().collect::<Vec<_>>())
}

/// Counts whole, the rest to one decimal: costs often differ by little.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn head(first: &str, second: &str) -> Vec<String> {
    vec![first.to_owned(), second.to_owned()]
}

/// Where the request went in the end.
fn sent_to(explained: &Explained) -> Option<WorkerId> {
    match explained.decision.verdict {
        Verdict::Send(worker) => Some(worker),
        Verdict::Hold | Verdict::Reject(_) => explained.record.dispatched.map(|(_, worker)| worker),
    }
}

/// Why this worker.
fn choice(explained: &Explained) -> String {
    let costs = &explained.decision.costs;
    let Some(chosen) = sent_to(explained) else {
        return "It was sent to no worker.".to_owned();
    };
    let Some(own) = costs.iter().find(|parts| parts.worker == chosen) else {
        return format!("Worker {chosen} was chosen; the policy compares no costs.");
    };
    let lowest = costs.iter().map(|parts| parts.cost).fold(f64::INFINITY, f64::min);
    let ties = costs.iter().filter(|parts| parts.cost == lowest).count();
    if own.cost > lowest {
        return format!(
            "Worker {chosen} was chosen at a cost of {}, though {} was the lowest: by a draw, or \
             by a rule beside the cost.",
            number(own.cost),
            number(lowest),
        );
    }
    if ties > 1 {
        return format!(
            "Worker {chosen} is one of {ties} with the lowest cost, {}: the policy's rule for \
             ties took it.",
            number(lowest),
        );
    }
    let others = costs.iter().filter(|parts| parts.worker != chosen);
    let Some(next) = others.min_by(|a, b| a.cost.total_cmp(&b.cost)) else {
        return format!("Worker {chosen} is the only one.");
    };
    let mut text = format!(
        "Worker {chosen} had the lowest cost, {} against {} of worker {}",
        number(own.cost),
        number(next.cost),
        next.worker,
    );
    if let Some((name, a, b)) = what_decided(own, next) {
        let _ = write!(text, ", mostly by {name}: {} against {}", number(a), number(b));
    }
    text + "."
}

/// The addend that speaks most for `own` against `next`. Addends are the first
/// parts, as many as add up to the cost.
fn what_decided(
    own: &crate::router::CostParts,
    next: &crate::router::CostParts,
) -> Option<(&'static str, f64, f64)> {
    let sums = |parts: &crate::router::CostParts, n: usize| {
        let sum: f64 = parts.parts.iter().take(n).map(|(_, value)| value).sum();
        (sum - parts.cost).abs() <= 1e-9 * parts.cost.abs().max(1.0)
    };
    let n = (1..=own.parts.len()).find(|&n| sums(own, n) && sums(next, n))?;
    let pairs = own.parts.iter().zip(&next.parts).take(n);
    let addends = pairs.map(|(a, b)| (a.0, a.1, b.1));
    addends.max_by(|a, b| (a.2 - a.1).total_cmp(&(b.2 - b.1)))
}

/// What the router's picture was worth.
fn knowledge(explained: &Explained) -> String {
    let decision = &explained.decision;
    let (Some(chosen), false) = (sent_to(explained), decision.truth.is_empty()) else {
        return String::new();
    };
    let own = &decision.truth[chosen.index()];
    let blocks = decision.prompt_blocks;
    let mut text = format!("In truth it held {} of {blocks} blocks", own.cached_blocks);
    if let Some(believed) = &decision.believed_blocks {
        let seen = believed[chosen.index()];
        if seen == own.cached_blocks {
            text.push_str(", as the index said");
        } else {
            let _ = write!(text, ", while the index said {seen}");
        }
    }
    let most = decision
        .truth
        .iter()
        .enumerate()
        .max_by_key(|(at, worker)| (worker.cached_blocks, usize::MAX - at));
    match most {
        Some((at, worker)) if worker.cached_blocks > own.cached_blocks => {
            let _ = write!(text, "; worker {at} held {}", worker.cached_blocks);
        }
        _ => text.push_str("; no worker held more"),
    }
    let soonest = decision.truth.iter().enumerate().min_by_key(|(_, worker)| worker.ttft);
    if let Some((at, worker)) = soonest.filter(|(_, worker)| worker.ttft < own.ttft) {
        let _ = write!(
            text,
            ". Worker {at} would have had its first token out {} ms sooner, as things stood",
            short((own.ttft - worker.ttft).as_millis()),
        );
    }
    text + "."
}

/// What it met there.
fn met(explained: &Explained) -> String {
    let record = &explained.record;
    let (Some((dispatched, worker)), Some(scheduled)) = (record.dispatched, record.scheduled)
    else {
        return end(record);
    };
    let ms = |duration: SimDuration| format!("{} ms", short(duration.as_millis()));
    let mut text = String::new();
    if let Some(truth) = explained.decision.truth.get(worker.index()) {
        let _ = write!(
            text,
            "It met {} running and {} waiting requests, ",
            truth.running, truth.waiting
        );
    } else {
        text.push_str("It ");
    }
    let held = dispatched - record.arrived;
    if !held.is_zero() {
        let _ = write!(text, "after {} at the router ", ms(held));
    }
    let _ = write!(text, "queued {}", ms(scheduled - dispatched));
    let _ = write!(text, ", hit {} of {} tokens", record.cached_tokens, record.prompt_tokens);
    if let Some(why) = record.why.filter(|why| why.lost_tokens() > 0) {
        let parts = [
            (why.eviction_tokens, "to eviction"),
            (why.wrong_worker_tokens, "because another worker had them"),
            (why.stale_index_tokens, "because the index did not show where they were"),
        ];
        let parts = parts.iter().filter(|(tokens, _)| *tokens > 0);
        let parts: Vec<String> = parts.map(|(n, how)| format!("{n} {how}")).collect();
        let _ = write!(text, " (lost: {})", parts.join(", "));
    }
    if let Some(handover) = record.handover
        && let (Some(transfer), Some((_, to))) = (handover.transfer, handover.dispatched)
    {
        let prefilled = ms(handover.prefilled - record.sent);
        let _ = write!(
            text,
            ", was prefilled {prefilled} after the client sent it, moved to worker {to} in {}",
            ms(transfer)
        );
    }
    if let Some(first_token) = record.first_token {
        let _ = write!(
            text,
            " and had its first token {} after the client sent it",
            ms(first_token - record.sent)
        );
    }
    if record.preemptions > 0 {
        let _ = write!(text, "; it lost its blocks {} times", record.preemptions);
    }
    format!("{text}. {}", end(record))
}

fn end(record: &RequestRecord) -> String {
    match record.end {
        None => "It had not ended when the run was over.".to_owned(),
        Some((at, End::Finished { output_tokens })) => {
            let total = short((at - record.sent).as_millis());
            format!("Its {output_tokens} tokens were out after {total} ms.")
        }
        Some((_, End::GivenUp)) => {
            let waited = record.given_up.map_or(0.0, |at| (at - record.sent).as_millis());
            format!("Its client hung up after {} ms.", short(waited))
        }
        Some((_, End::Failed)) => "It failed: its worker was gone.".to_owned(),
        Some((_, End::Rejected(reason))) => format!("It was refused: {reason}."),
    }
}
