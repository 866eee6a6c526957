//! What a live run says, for people; and every request of it, as a table.

use super::follow::{Agreement, Difference};
use super::outcome::{LiveOutcome, LiveRequest, LiveRun};
use crate::engine::config::EngineConfig;
use crate::experiment::Experiment;
use crate::experiment::results::{Point, Summary};
use crate::fleet::servers::{OF_LAYERS, alike};
use crate::id::RequestId;
use crate::metrics::{Metric, short, signed};
use crate::recorder::{End, RequestRecord};
use crate::request::Content;
use crate::time::{SimDuration, SimTime};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What is compared.
const METRICS: [&str; 13] = [
    "ttft_ms_mean",
    "ttft_ms_p50",
    "ttft_ms_p95",
    "itl_ms_mean",
    "itl_ms_p50",
    "itl_ms_p95",
    "e2e_ms_mean",
    "e2e_ms_p50",
    "e2e_ms_p95",
    "hit_ratio",
    "output_tokens_per_s",
    "requests_per_s",
    "error_ratio",
];

/// Differences that are written out, of each kind.
const SHOWN: usize = 5;

/// All that is to be said about a live run of `experiment`.
pub fn report(experiment: &Experiment, outcome: &LiveOutcome) -> String {
    let mut text = String::new();
    for (at, real) in outcome.real.points.iter().enumerate() {
        let of = |summary: &Summary| summary.points[at].clone();
        text += &table(real, &of(&outcome.same), &of(&outcome.own));
    }
    let specs = experiment.runs.iter().flat_map(|spec| experiment.seeds.iter().map(move |_| spec));
    for (run, spec) in outcome.runs.iter().zip(specs) {
        let params: Vec<String> =
            run.params.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let _ = writeln!(text, "{}, seed {}:", params.join(", "), run.seed);
        text += &fates(run);
        text += &cached(run, spec.settings.engine());
        text += &decisions(run);
        text += &steps(run);
        text += &events(run);
        text.push('\n');
    }
    text
}

fn table(real: &Point, same: &Point, own: &Point) -> String {
    let params: Vec<String> =
        real.params.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    let mut text = format!(
        "{}\n {:<24}{:>10}{:>18}{:>10}{:>14}{:>10}\n",
        params.join(", "),
        "",
        "servers",
        "simulated: sent",
        "error",
        "by itself",
        "error"
    );
    let _ = writeln!(text, "{:-<87}", "");
    for name in METRICS {
        let of = |point: &Point| point.metrics.get(name).and_then(|metric| metric.mean);
        let metric = Metric::of(name);
        let value =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| short(metric.shown(value)));
        let error = |point: &Point| {
            let error = of(real).zip(of(point)).and_then(|(real, of)| metric.difference(of, real));
            error.map_or("-".to_owned(), |error| {
                format!("{} {}", signed(error), metric.difference_unit())
            })
        };
        let _ = writeln!(
            text,
            " {:<24}{:>10}{:>18}{:>10}{:>14}{:>10}",
            metric.with_unit(),
            value(of(real)),
            value(of(same)),
            error(same),
            value(of(own)),
            error(own)
        );
    }
    text.push('\n');
    text
}

/// What became of every request.
fn fates(run: &LiveRun) -> String {
    let ended = |test: fn(&End) -> bool| {
        let end = |request: &&LiveRequest| request.real.end.is_some_and(|(_, end)| test(&end));
        run.requests.iter().filter(end).count()
    };
    let finished = ended(|end| matches!(end, End::Finished { .. }));
    let failed: Vec<_> =
        run.requests.iter().filter_map(|request| request.failed.as_ref()).collect();
    let turned_away = ended(|end| matches!(end, End::Rejected(_))) - failed.len();
    let given_up = ended(|end| matches!(end, End::GivenUp));
    let given_up = match given_up {
        0 => String::new(),
        count => format!("{count} given up by their clients, "),
    };
    let open = run.requests.iter().filter(|request| request.real.end.is_none()).count();
    let mut text = format!(
        "  {} requests: {finished} finished, {} failed, {given_up}{turned_away} turned away by the router, {open} \
         open when the run was over\n",
        run.requests.len(),
        failed.len(),
    );
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    failed.iter().for_each(|failed| *kinds.entry(failed.failure.kind()).or_default() += 1);
    for (kind, count) in kinds {
        let _ = writeln!(text, "    {count} {kind}");
    }
    for failed in failed.iter().take(SHOWN) {
        let _ = writeln!(
            text,
            "    request {} at worker {}: {}",
            failed.request, failed.worker, failed.failure
        );
    }
    if failed.len() > SHOWN {
        let _ = writeln!(text, "    and {} more: requests.csv has them", failed.len() - SHOWN);
    }
    text
}

/// Whether servers and simulation found the same in their caches.
fn cached(run: &LiveRun, engine: &EngineConfig) -> String {
    let finished = |record: &RequestRecord| matches!(record.end, Some((_, End::Finished { .. })));
    let both: Vec<(&RequestRecord, &RequestRecord)> = run
        .requests
        .iter()
        .filter_map(|request| Some((&request.real, request.simulated.as_ref()?)))
        .filter(|(real, simulated)| finished(real) && finished(simulated))
        .collect();
    let differ: Vec<_> =
        both.iter().filter(|(real, own)| real.cached_tokens != own.cached_tokens).collect();
    let equal = both.len() - differ.len();
    let mut text = format!("  cached tokens: equal for {equal} of {} requests\n", both.len());
    let reasons: Vec<Reason> =
        differ.iter().map(|(real, simulated)| reason(run, engine, real, simulated)).collect();
    for (what, count) in Reason::ALL
        .map(|kind| (kind, reasons.iter().filter(|reason| reason.kind() == kind).count()))
    {
        if count > 0 {
            let _ = writeln!(text, "    {count} {what}");
        }
    }
    for ((real, simulated), reason) in differ.iter().zip(&reasons).take(SHOWN) {
        let _ = writeln!(
            text,
            "    request {} (turn {}, worker {}): {} at the server, {} simulated, of {} tokens; {}",
            real.request,
            real.turn,
            real.dispatched.map_or(String::new(), |(_, worker)| worker.to_string()),
            real.cached_tokens,
            simulated.cached_tokens,
            real.prompt_tokens,
            reason.text(),
        );
    }
    text
}

/// Why the cached tokens of a request may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// This request had been there with so many leading blocks of the same text,
    /// more than the two share.
    Chance(RequestId, u32),
    /// This request was at the same worker at the same time and has so many more
    /// of its leading blocks: which of the two is scheduled first decides.
    Beside(RequestId, u32),
    /// The worker had been sent more blocks than it can hold: which of them went
    /// depends on when requests ended.
    Evicted,
    /// Some layers of the server keep less than full attention does, and a prefix is
    /// found only as far as all of them hold it.
    Layers,
    /// The server began with an empty cache in mid-run.
    Restarted,
    /// None of these.
    Unknown,
}

impl Reason {
    const ALL: [&str; 6] = [
        "where made-up texts agree by chance in the block after those that they share",
        "beside a request that shares blocks with it (the order of scheduling decides)",
        "where blocks had to be evicted (the order of ends decides)",
        "where the server has layers that keep less than full attention does, which is not simulated",
        "at a server that restarted, its cache lost",
        "for a reason unknown",
    ];

    fn kind(self) -> &'static str {
        match self {
            Self::Chance(..) => Self::ALL[0],
            Self::Beside(..) => Self::ALL[1],
            Self::Evicted => Self::ALL[2],
            Self::Layers => Self::ALL[3],
            Self::Restarted => Self::ALL[4],
            Self::Unknown => Self::ALL[5],
        }
    }

    fn text(self) -> String {
        match self {
            Self::Chance(other, blocks) => {
                format!("by chance {blocks} blocks of the text of request {other}")
            }
            Self::Beside(other, blocks) => {
                format!("beside request {other}, {blocks} blocks shared")
            }
            Self::Evicted => "blocks had been evicted".to_owned(),
            Self::Layers => "some of its layers keep less".to_owned(),
            Self::Restarted => "the server had restarted".to_owned(),
            Self::Unknown => "unknown".to_owned(),
        }
    }
}

fn reason(
    run: &LiveRun,
    engine: &EngineConfig,
    real: &RequestRecord,
    simulated: &RequestRecord,
) -> Reason {
    let Some((sent, worker)) = real.dispatched else { return Reason::Unknown };
    let content = |id: RequestId| &run.arrivals[id.index()].request.content;
    let own = content(real.request);
    let full = |record: &RequestRecord| record.prompt_tokens / engine.block_size;
    let first_token = real.first_token.unwrap_or(SimTime::MAX);
    let there = || {
        run.requests.iter().map(|request| &request.real).filter(move |other| {
            other.dispatched.is_some_and(|(_, at)| at == worker) && other.request != real.request
        })
    };
    // What answers say is not made up: first turns only.
    let first_turns = || there().filter(|other| real.turn == 0 && other.turn == 0);
    let by_chance = first_turns().find_map(|other| {
        let began = other.dispatched.is_some_and(|(at, _)| at <= first_token);
        let (other, most) = (other.request, full(real).min(full(other)));
        let blocks = alike((run.text_key, engine.block_size), own, content(other), most);
        let shared = common(own, content(other), most) * engine.block_size;
        let beyond = shared.max(simulated.cached_tokens) + 1..=blocks * engine.block_size;
        let explains = began && beyond.contains(&real.cached_tokens);
        explains.then_some(Reason::Chance(other, blocks))
    });
    if let Some(reason) = by_chance {
        return reason;
    }
    if real.cached_tokens < simulated.cached_tokens {
        let passed_over = run.passed_over.get(worker.index());
        let is_of_layers = |what: &String| what.starts_with(OF_LAYERS);
        if passed_over.is_some_and(|kinds| kinds.keys().any(is_of_layers)) {
            return Reason::Layers;
        }
        if run.event_faults.get(worker.index()).is_some_and(|faults| faults.restarts > 0) {
            return Reason::Restarted;
        }
    }
    let beside = there().filter(|other| {
        let began = other.dispatched.is_some_and(|(at, _)| at <= first_token);
        // An answer of this very moment may or may not have gone before.
        began && other.end.is_none_or(|(at, _)| at + AT_ONCE >= sent)
    });
    let shared = beside.map(|other| {
        let most = full(real).min(full(other));
        (common(own, content(other.request), most), other.request)
    });
    if let Some((blocks, other)) = shared.max().filter(|(blocks, _)| *blocks > 0) {
        return Reason::Beside(other, blocks);
    }
    let mut blocks = BTreeSet::new();
    for other in there().filter(|other| other.dispatched.is_some_and(|(at, _)| at <= sent)) {
        let tokens =
            other.prompt_tokens + run.arrivals[other.request.index()].request.output_tokens;
        blocks.extend(content(other.request).blocks(tokens.div_ceil(engine.block_size)));
    }
    blocks.extend(own.blocks(full(real) + 1));
    if blocks.len() > engine.num_blocks as usize { Reason::Evicted } else { Reason::Unknown }
}

/// Requests this close may meet in one step.
const AT_ONCE: SimDuration = SimDuration::from_millis(100);

/// Leading blocks that two texts share, up to `most`.
fn common(one: &Content, other: &Content, most: u32) -> u32 {
    let pairs = one.blocks(most).zip(other.blocks(most));
    let same = pairs.take_while(|(a, b)| a == b).count();
    u32::try_from(same).expect("at most `most`")
}

fn decisions(run: &LiveRun) -> String {
    let mut text = String::new();
    for (agreement, told) in [
        (&run.on_history, "given what the router heard"),
        (&run.on_simulation, "told by simulated workers"),
    ] {
        let Some(agreement) = agreement else { continue };
        let Agreement { decisions, agreed, tied, differences } = agreement;
        let ratio =
            agreement.ratio().map_or("-".to_owned(), |ratio| format!("{:.1} %", 100.0 * ratio));
        let _ = writeln!(
            text,
            "  decisions, {told}: {ratio} the same ({agreed} of {}; {tied} exact ties apart)",
            decisions - tied,
        );
        for Difference { request, taken, preferred, costs } in differences.iter().take(SHOWN) {
            let of = |worker| costs.iter().find(|parts| parts.worker == worker);
            let [own, best] = [*taken, *preferred].map(of);
            let (Some(own), Some(best)) = (own, best) else { continue };
            let apart = own.parts.iter().zip(&best.parts);
            let apart =
                apart.max_by(|(a, b), (c, d)| (a.1 - b.1).abs().total_cmp(&(c.1 - d.1).abs()));
            let why = apart.map_or(String::new(), |((name, a), (_, b))| {
                format!(", mostly by {name}: {} against {}", short(*a), short(*b))
            });
            let _ = writeln!(
                text,
                "    request {request}: went to worker {taken} ({}), worker {preferred} has {}{why}",
                short(own.cost),
                short(best.cost),
            );
        }
    }
    let (same, all) = run.same_worker;
    let _ = writeln!(
        text,
        "  by itself, on the same requests, the simulated router sends {same} of {all} to the same worker"
    );
    text
}

fn steps(run: &LiveRun) -> String {
    let mut text = String::new();
    for ((worker, counted), simulated) in run.counted.iter().enumerate().zip(&run.simulated_steps) {
        let Some(counted) = counted else { continue };
        let _ = writeln!(
            text,
            "  worker {worker}: {} steps, {} preemptions, {} of {} prompt tokens hit by its own count; {simulated} \
             steps simulated",
            counted.steps, counted.preemptions, counted.hit_tokens, counted.queried_tokens,
        );
    }
    text
}

fn events(run: &LiveRun) -> String {
    let mut text = String::new();
    for (worker, faults) in run.event_faults.iter().enumerate() {
        if *faults == Default::default() {
            continue;
        }
        let _ = writeln!(
            text,
            "  KV events of worker {worker}: {} batches missed and recovered, {} lost, {} restarts, {} broken{}",
            faults.recovered,
            faults.lost,
            faults.restarts,
            faults.broken,
            faults
                .first_broken
                .as_ref()
                .map_or(String::new(), |first| format!(" (the first: {first})")),
        );
    }
    for (worker, passed_over) in run.passed_over.iter().enumerate() {
        for (what, count) in passed_over {
            let _ =
                writeln!(text, "  KV events of worker {worker}: {count} of {what} not followed");
        }
    }
    text
}

const COLUMNS: [&str; 17] = [
    "request",
    "conversation",
    "turn",
    "worker",
    "end",
    "failure_kind",
    "failure",
    "prompt_tokens",
    "cached_tokens",
    "cached_tokens_simulated",
    "sent_ms",
    "ttft_ms",
    "ttft_ms_simulated",
    "itl_ms",
    "itl_ms_simulated",
    "e2e_ms",
    "e2e_ms_simulated",
];

/// Every request, servers and simulation side by side; times in milliseconds,
/// what did not happen is empty.
pub fn requests_csv(outcome: &LiveOutcome) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let params: BTreeSet<&String> = outcome.runs.iter().flat_map(|run| run.params.keys()).collect();
    let names = params.iter().map(|key| key.as_str()).chain(["seed"]).chain(COLUMNS);
    writer.write_record(names).expect("memory takes every byte");
    for run in &outcome.runs {
        let plain =
            |key: &&String| run.params.get(*key).map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> = params.iter().map(plain).chain([run.seed.to_string()]).collect();
        for request in &run.requests {
            let row = values.iter().cloned().chain(cells(request));
            writer.write_record(row).expect("rows of equal length into memory");
        }
    }
    let bytes = writer.into_inner().expect("memory takes every byte");
    String::from_utf8(bytes).expect("made from text")
}

fn cells(request: &LiveRequest) -> [String; 17] {
    let real = &request.real;
    let simulated = request.simulated.as_ref();
    let ms =
        |time: Option<SimDuration>| time.map(|t| t.as_millis().to_string()).unwrap_or_default();
    let end = match real.end {
        None => "unfinished",
        Some((_, End::Finished { .. })) => "finished",
        Some((_, End::Rejected(_))) => "rejected",
        Some((_, End::Failed)) => "failed",
        Some((_, End::GivenUp)) => "given up",
    };
    [
        real.request.to_string(),
        real.conversation.to_string(),
        real.turn.to_string(),
        real.dispatched.map(|(_, worker)| worker.to_string()).unwrap_or_default(),
        end.to_owned(),
        request.failed.as_ref().map(|failed| failed.failure.kind().to_owned()).unwrap_or_default(),
        request.failed.as_ref().map(|failed| failed.failure.to_string()).unwrap_or_default(),
        real.prompt_tokens.to_string(),
        real.cached_tokens.to_string(),
        simulated.map(|record| record.cached_tokens.to_string()).unwrap_or_default(),
        real.sent.as_millis().to_string(),
        ms(ttft(real)),
        ms(simulated.and_then(ttft)),
        ms(itl(real)),
        ms(simulated.and_then(itl)),
        ms(e2e(real)),
        ms(simulated.and_then(e2e)),
    ]
}

fn ttft(record: &RequestRecord) -> Option<SimDuration> {
    Some(record.first_token? - record.sent)
}

fn e2e(record: &RequestRecord) -> Option<SimDuration> {
    match record.end? {
        (at, End::Finished { .. }) => Some(at - record.sent),
        _ => None,
    }
}

fn itl(record: &RequestRecord) -> Option<SimDuration> {
    match record.end? {
        (at, End::Finished { output_tokens }) if output_tokens > 1 => {
            Some((at - record.first_token?) / u64::from(output_tokens - 1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::LoadOptions;
    use crate::id::{BlockId, ConversationId, WorkerId};
    use crate::request::{BlockRun, Request};
    use crate::workload::{Arrival, Patience};
    use std::path::Path;

    /// A first turn that ended before the next second.
    fn first_turn(id: u32, conversation: u32, prompt_tokens: u32) -> (Arrival, RequestRecord) {
        let at = |ms: u64| SimTime::ZERO + SimDuration::from_millis(1000 * u64::from(id) + ms);
        let starter = BlockRun { first: BlockId(9), len: 10 };
        let private = BlockId(1 << 63 | u64::from(conversation) << 31);
        let request = Request {
            id: RequestId(id),
            conversation: ConversationId(conversation),
            turn: 0,
            prompt_tokens,
            output_tokens: 20,
            max_tokens: 20,
            priority: 0,
            content: Content::new([starter], private).with_fork_tokens(31),
        };
        let record = RequestRecord {
            request: request.id,
            conversation,
            turn: 0,
            prompt_tokens,
            asked_tokens: 9,
            priority: 0,
            sent: at(0),
            arrived: at(0),
            first_dispatched: Some(at(0)),
            dispatched: Some((at(0), WorkerId(0))),
            first_scheduled: None,
            scheduled: None,
            cached_tokens: 320,
            handover: None,
            first_token: Some(at(60)),
            given_up: None,
            refused: None,
            end: Some((at(300), End::Finished { output_tokens: 20 })),
            preemptions: 0,
            why: None,
        };
        (Arrival { at: at(0), sent: at(0), request, patience: Patience::default() }, record)
    }

    /// As it happened on a real server: of the starter's last block all but one token
    /// is the starter's, and two questions began with the same one.
    #[test]
    fn a_block_that_is_the_same_by_chance_is_told() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/live/mid-1w.toml");
        let experiment = Experiment::load(&file, &LoadOptions::default()).expect("it is there");
        let engine = experiment.runs[0].settings.engine();
        let (arrivals, records): (Vec<_>, Vec<_>) =
            [first_turn(0, 43, 378), first_turn(1, 48, 488)].into_iter().unzip();
        let request = |real: &RequestRecord| LiveRequest {
            real: *real,
            simulated: Some(*real),
            failed: None,
        };
        let run = LiveRun {
            params: experiment.points[0].clone(),
            seed: 3,
            text_key: 3,
            requests: records.iter().map(request).collect(),
            arrivals,
            on_history: None,
            on_simulation: None,
            same_worker: (2, 2),
            event_faults: Vec::new(),
            passed_over: Vec::new(),
            facts: Vec::new(),
            counted: Vec::new(),
            simulated_steps: Vec::new(),
        };
        let simulated = records[1];
        let real = |cached_tokens| RequestRecord { cached_tokens, ..simulated };
        let of = |run: &LiveRun, hit| reason(run, engine, &real(hit), &simulated);
        assert_eq!(of(&run, 352), Reason::Chance(RequestId(0), 11));
        assert_eq!(of(&run, 384), Reason::Unknown);
        assert_eq!(of(&run, 288), Reason::Unknown);
        assert_eq!(of(&LiveRun { text_key: 4, ..run }, 352), Reason::Unknown);
    }
}
