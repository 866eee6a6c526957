//! The requests of a simulation in the forms that AIPerf writes, for tools that
//! read those: `profile_export.jsonl`, `profile_export_aiperf.json` and `.csv`.
//!
//! Source: AIPerf's documentation of its exports (schema 1.1 of the summary) and
//! its metrics reference. What a simulation cannot know (chunks, HTTP times,
//! telemetry) is left out, as AIPerf leaves out what it did not measure. Fields
//! of ours, which AIPerf's models pass over: `serving_worker` in the metadata of
//! every record; AIPerf's own `worker_id` is the process of the load generator.
//!
//! Times are nanoseconds since the start of the simulation. Requests that were
//! sent in the warm-up are marked so, and not in the summary. Requests that the
//! end of the run cut off are left out.

use super::save;
use crate::experiment::{Experiment, SimulationRequests};
use crate::recorder::{End, RequestRecord};
use crate::report::view::plain;
use crate::stats;
use crate::time::{SimDuration, SimTime};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Version of the layout of the summary.
const SCHEMA_VERSION: &str = "1.1";

/// The columns of a metric, in AIPerf's order.
const STATISTICS: [&str; 14] = [
    "avg", "min", "max", "sum", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99", "std",
];

/// A metric that every finished request has, or most.
struct RecordMetric {
    tag: &'static str,
    header: &'static str,
    unit: &'static str,
    of: fn(&Served) -> Option<Number>,
}

/// In the order of the records.
const RECORD_METRICS: [RecordMetric; 8] = [
    RecordMetric {
        tag: "input_sequence_length",
        header: "Input Sequence Length",
        unit: "tokens",
        of: |served| Some(Number::Count(served.record.prompt_tokens)),
    },
    RecordMetric {
        tag: "output_sequence_length",
        header: "Output Sequence Length",
        unit: "tokens",
        of: |served| Some(Number::Count(served.output_tokens)),
    },
    RecordMetric {
        tag: "output_token_count",
        header: "Output Token Count",
        unit: "tokens",
        of: |served| Some(Number::Count(served.output_tokens)),
    },
    RecordMetric {
        tag: "usage_prompt_cache_read_tokens",
        header: "Usage Prompt Cache Read Tokens",
        unit: "tokens",
        of: |served| Some(Number::Count(served.record.cached_tokens)),
    },
    RecordMetric {
        tag: "request_latency",
        header: "Request Latency",
        unit: "ms",
        of: |served| Some(Number::Real((served.end - served.record.sent).as_millis())),
    },
    RecordMetric {
        tag: "time_to_first_token",
        header: "Time to First Token",
        unit: "ms",
        of: |served| Some(Number::Real((served.first_token - served.record.sent).as_millis())),
    },
    RecordMetric {
        tag: "inter_token_latency",
        header: "Inter Token Latency",
        unit: "ms",
        of: |served| served.inter_token_ms().map(Number::Real),
    },
    RecordMetric {
        tag: "output_token_throughput_per_user",
        header: "Output Token Throughput Per User",
        unit: "tokens/sec/user",
        of: |served| {
            let ms = served.inter_token_ms().filter(|ms| *ms > 0.0)?;
            Some(Number::Real(1_000.0 / ms))
        },
    },
];

/// A value as JSON writes it: tokens are whole.
#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Number {
    Count(u32),
    Real(f64),
}

impl Number {
    fn to_f64(self) -> f64 {
        match self {
            Self::Count(count) => f64::from(count),
            Self::Real(real) => real,
        }
    }
}

/// A request that was answered to its end.
struct Served<'a> {
    record: &'a RequestRecord,
    first_token: SimTime,
    end: SimTime,
    output_tokens: u32,
}

impl<'a> Served<'a> {
    fn of(record: &'a RequestRecord) -> Option<Self> {
        let (Some(first_token), Some((end, End::Finished { output_tokens }))) =
            (record.first_token, record.end)
        else {
            return None;
        };
        Some(Self { record, first_token, end, output_tokens })
    }

    fn inter_token_ms(&self) -> Option<f64> {
        let gaps = self.output_tokens.checked_sub(1).filter(|&gaps| gaps > 0)?;
        Some((self.end - self.first_token).as_millis() / f64::from(gaps))
    }
}

/// A line of `profile_export.jsonl`.
#[derive(Serialize)]
struct Line {
    metadata: Metadata,
    metrics: BTreeMap<&'static str, Value>,
    error: Option<Value>,
}

#[derive(Serialize)]
struct Metadata {
    session_num: u32,
    x_request_id: String,
    x_correlation_id: String,
    conversation_id: String,
    turn_index: u32,
    request_start_ns: u64,
    request_ack_ns: Option<u64>,
    request_end_ns: u64,
    worker_id: &'static str,
    record_processor_id: &'static str,
    benchmark_phase: &'static str,
    was_cancelled: bool,
    cancellation_time_ns: Option<u64>,
    serving_worker: Option<u32>,
}

/// The files of every simulation, with their text: in a folder for each, called by
/// its number, parameters and seed.
pub fn files<'a>(
    experiment: &'a Experiment,
    simulations: &'a [SimulationRequests],
) -> impl Iterator<Item = (String, String)> + 'a {
    let runs = experiment.runs.iter().flat_map(|run| vec![run; experiment.seeds.len()]);
    (1..).zip(simulations.iter().zip(runs)).flat_map(|(number, (simulation, run))| {
        let values = simulation.params.values().map(plain).collect::<Vec<_>>().join("-");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
        let values: String =
            values.chars().map(|c| if is_plain(c) { c } else { '-' }).take(80).collect();
        let folder = format!("aiperf/{number:03}-{values}-seed{}", simulation.seed);
        let warmup = run.settings.measure.warmup;
        let (json, csv) = summary(simulation, warmup);
        [
            ("profile_export.jsonl", records(simulation, warmup)),
            ("profile_export_aiperf.json", json),
            ("profile_export_aiperf.csv", csv),
        ]
        .map(|(name, text)| (format!("{folder}/{name}"), text))
    })
}

/// `profile_export.jsonl`: one request a line, in order of their ends; `warmup`
/// is the time at the start that is not measured.
pub fn records(simulation: &SimulationRequests, warmup: SimDuration) -> String {
    let lines = simulation.records.iter().filter_map(|record| line(record, warmup));
    lines.fold(String::new(), |text, line| {
        text + &serde_json::to_string(&line).expect("plain data has no way to fail") + "\n"
    })
}

fn line(record: &RequestRecord, warmup: SimDuration) -> Option<Line> {
    let (end, how) = record.end?;
    let ns = |at: SimTime| at.as_ps() / 1_000;
    let served = Served::of(record);
    let metadata = Metadata {
        session_num: record.conversation,
        x_request_id: record.request.to_string(),
        x_correlation_id: record.conversation.to_string(),
        conversation_id: record.conversation.to_string(),
        turn_index: record.turn,
        request_start_ns: ns(record.sent),
        request_ack_ns: record.first_token.map(ns),
        request_end_ns: ns(end),
        worker_id: "sim",
        record_processor_id: "sim",
        benchmark_phase: if is_measured(record, warmup) { "profiling" } else { "warmup" },
        was_cancelled: record.given_up.is_some(),
        cancellation_time_ns: record.given_up.map(|at| at.as_ps() / 1_000),
        serving_worker: record.dispatched.map(|(_, worker)| worker.0),
    };
    let metrics = match &served {
        Some(served) => RECORD_METRICS
            .iter()
            .filter_map(|metric| {
                let value = (metric.of)(served)?;
                Some((metric.tag, json!({ "value": value, "unit": metric.unit })))
            })
            .collect(),
        None => {
            let value = json!({ "value": record.prompt_tokens, "unit": "tokens" });
            BTreeMap::from([("error_isl", value)])
        }
    };
    Some(Line { metadata, metrics, error: error(record, how) })
}

/// A server's answer to what it does not serve; none to what it does.
fn error(record: &RequestRecord, end: End) -> Option<Value> {
    let (code, kind, message) = match end {
        End::Finished { .. } => return None,
        End::Rejected(reason) => {
            let status = record.refused.map_or(400, |refused| refused.status);
            (status, "RequestRejected", reason.to_string())
        }
        End::Failed => (503, "RequestFailed", "lost with its worker".to_owned()),
        End::GivenUp => (499, "RequestCancellationError", "its client hung up".to_owned()),
    };
    Some(json!({ "code": code, "type": kind, "message": message }))
}

fn is_measured(record: &RequestRecord, warmup: SimDuration) -> bool {
    record.sent >= SimTime::ZERO + warmup
}

/// A metric of the summary.
struct Summarised {
    tag: &'static str,
    header: &'static str,
    unit: &'static str,
    /// By name, without those that are undefined; one of them (`avg`) if it is a scalar.
    statistics: BTreeMap<&'static str, f64>,
    /// Values that it is made of; none of a scalar.
    count: Option<usize>,
}

/// `profile_export_aiperf.json` and `profile_export_aiperf.csv`, over the requests
/// that were sent after the warm-up.
pub fn summary(simulation: &SimulationRequests, warmup: SimDuration) -> (String, String) {
    let ended = simulation.records.iter().filter(|record| record.end.is_some());
    let measured: Vec<&RequestRecord> =
        ended.filter(|record| is_measured(record, warmup)).collect();
    let metrics = summarise(&measured);
    let mut object = Map::new();
    object.insert("schema_version".to_owned(), json!(SCHEMA_VERSION));
    for metric in &metrics {
        let mut fields = Map::from_iter([("unit".to_owned(), json!(metric.unit))]);
        let statistics = metric.statistics.iter();
        fields.extend(statistics.map(|(name, value)| ((*name).to_owned(), json!(value))));
        fields.extend(metric.count.map(|count| ("count".to_owned(), json!(count))));
        object.insert(metric.tag.to_owned(), Value::Object(fields));
    }
    object.insert("was_cancelled".to_owned(), json!(false));
    object.insert("error_summary".to_owned(), errors(&measured));
    (save::json(&object), csv(&metrics))
}

fn summarise(measured: &[&RequestRecord]) -> Vec<Summarised> {
    let served: Vec<Served<'_>> = measured.iter().filter_map(|record| Served::of(record)).collect();
    let mut metrics: Vec<Summarised> = RECORD_METRICS
        .iter()
        .filter_map(|&RecordMetric { tag, header, unit, of }| {
            let mut values: Vec<f64> = served.iter().filter_map(of).map(Number::to_f64).collect();
            let statistics = distribution(&mut values)?;
            Some(Summarised { tag, header, unit, statistics, count: Some(values.len()) })
        })
        .collect();
    let mut scalar = |tag, header, unit, value: f64| {
        let statistics = BTreeMap::from([("avg", value)]);
        metrics.push(Summarised { tag, header, unit, statistics, count: None });
    };
    let (count, errors) = (served.len() as f64, (measured.len() - served.len()) as f64);
    scalar("request_count", "Request Count", "requests", count);
    scalar("error_request_count", "Error Request Count", "requests", errors);
    let begin = served.iter().map(|served| served.record.sent).min();
    let end = served.iter().map(|served| served.end).max();
    if let Some((begin, end)) = begin.zip(end).filter(|(begin, end)| begin < end) {
        let duration_s = (end - begin).as_secs();
        let tokens: u64 = served.iter().map(|served| u64::from(served.output_tokens)).sum();
        scalar("benchmark_duration", "Benchmark Duration", "sec", duration_s);
        let throughput = count / duration_s;
        scalar("request_throughput", "Request Throughput", "requests/sec", throughput);
        let throughput = tokens as f64 / duration_s;
        scalar("output_token_throughput", "Output Token Throughput", "tokens/sec", throughput);
    }
    metrics
}

/// All statistics of `values`; `None` of no values. The deviation is that of a
/// sample, which one value does not have.
fn distribution(values: &mut [f64]) -> Option<BTreeMap<&'static str, f64>> {
    let avg = stats::mean(values)?;
    stats::sort(values);
    let squares: f64 = values.iter().map(|value| (value - avg).powi(2)).sum();
    let std = (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
    let statistic = |name: &'static str| -> Option<(&'static str, f64)> {
        let value = match name {
            "avg" => Some(avg),
            "min" => values.first().copied(),
            "max" => values.last().copied(),
            "sum" => Some(values.iter().sum()),
            "std" => std,
            percentile => {
                let percent: f64 = percentile.strip_prefix('p')?.parse().ok()?;
                stats::quantile(values, percent / 100.0)
            }
        };
        Some((name, value?))
    };
    Some(STATISTICS.into_iter().filter_map(statistic).collect())
}

/// How often each error came, the most frequent first.
fn errors(measured: &[&RequestRecord]) -> Value {
    let mut counts: Vec<(Value, u32)> = Vec::new();
    for error in measured.iter().filter_map(|record| error(record, record.end?.1)) {
        match counts.iter_mut().find(|(known, _)| *known == error) {
            Some((_, count)) => *count += 1,
            None => counts.push((error, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let counts = counts.iter();
    counts.map(|(error, count)| json!({ "error_details": error, "count": count })).collect()
}

/// Two tables, one below the other: metrics with a distribution, then scalars.
fn csv(metrics: &[Summarised]) -> String {
    let mut writer =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    let mut row = |cells: &[String]| writer.write_record(cells).expect("memory takes every byte");
    let name = |metric: &Summarised| match metric.unit {
        "requests" => metric.header.to_owned(),
        unit => format!("{} ({unit})", metric.header),
    };
    let mut metrics: Vec<&Summarised> = metrics.iter().collect();
    metrics.sort_by_key(|metric| metric.tag);
    let head = ["Metric"].into_iter().chain(STATISTICS).map(str::to_owned);
    row(&head.collect::<Vec<_>>());
    for metric in metrics.iter().filter(|metric| metric.count.is_some()) {
        let cell = |statistic: &&str| {
            metric.statistics.get(statistic).map_or(String::new(), |value| format!("{value:.2}"))
        };
        let cells = [name(metric)].into_iter().chain(STATISTICS.iter().map(cell));
        row(&cells.collect::<Vec<_>>());
    }
    let distributions = String::from_utf8(writer.into_inner().expect("memory takes every byte"))
        .expect("made from text");
    let scalars = metrics.iter().filter(|metric| metric.count.is_none());
    scalars.fold(distributions + "\r\nMetric,Value\r\n", |text, metric| {
        format!("{text}{},{:.2}\r\n", name(metric), metric.statistics["avg"])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::RejectReason;
    use crate::id::{RequestId, WorkerId};

    fn at(ms: u64) -> SimTime {
        SimTime::from_ps(ms * 1_000_000_000)
    }

    /// Sent at 100 ms, 150 ms, ...; the first is of the warm-up.
    fn simulation() -> SimulationRequests {
        let record = |number: u32, end: Option<End>| {
            let sent = 100 + 50 * u64::from(number);
            RequestRecord {
                request: RequestId(number),
                conversation: 7 + number,
                turn: 2,
                prompt_tokens: 100 * (number + 1),
                asked_tokens: 9,
                priority: 0,
                sent: at(sent),
                arrived: at(sent + 1),
                first_dispatched: Some(at(sent + 1)),
                dispatched: Some((at(sent + 1), WorkerId(3))),
                first_scheduled: Some(at(sent + 2)),
                scheduled: Some(at(sent + 2)),
                cached_tokens: 64,
                handover: None,
                first_token: Some(at(sent + 20)),
                given_up: None,
                refused: None,
                end: end.map(|end| (at(sent + 120), end)),
                preemptions: 0,
                why: None,
            }
        };
        let finished = |output_tokens| Some(End::Finished { output_tokens });
        let rejected = RequestRecord {
            first_token: None,
            ..record(3, Some(End::Rejected(RejectReason::ContextLimit)))
        };
        SimulationRequests {
            params: BTreeMap::new(),
            seed: 1,
            records: vec![
                record(0, finished(11)),
                record(1, finished(11)),
                record(2, finished(1)),
                rejected,
                record(4, None),
            ],
        }
    }

    #[test]
    fn records_have_the_fields_of_the_form() {
        let text = records(&simulation(), SimDuration::from_millis(150));
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4, "the unfinished one is left out");
        let phases: Vec<&Value> = lines.iter().map(|l| &l["metadata"]["benchmark_phase"]).collect();
        assert_eq!(phases, ["warmup", "profiling", "profiling", "profiling"]);
        let [_, second, third, fourth] = lines.as_slice() else { unreachable!() };
        assert_eq!(second["metadata"]["serving_worker"], json!(3));
        assert_eq!(second["metadata"]["request_start_ns"], json!(150_000_000));
        assert_eq!(second["metadata"]["request_end_ns"], json!(270_000_000));
        assert_eq!(second["metadata"]["session_num"], json!(8));
        assert_eq!(second["metadata"]["turn_index"], json!(2));
        assert_eq!(second["error"], Value::Null);
        let value = |line: &Value, tag: &str| line["metrics"][tag]["value"].clone();
        assert_eq!(value(second, "input_sequence_length"), json!(200));
        assert_eq!(value(second, "time_to_first_token"), json!(20.0));
        assert_eq!(value(second, "request_latency"), json!(120.0));
        assert_eq!(value(second, "inter_token_latency"), json!(10.0));
        assert_eq!(value(second, "output_token_throughput_per_user"), json!(100.0));
        assert_eq!(second["metrics"]["request_latency"]["unit"], json!("ms"));
        assert_eq!(value(third, "inter_token_latency"), Value::Null, "of one token");
        assert_eq!(value(fourth, "error_isl"), json!(400));
        assert_eq!(fourth["error"]["message"], json!("longer than the context limit"));
    }

    #[test]
    fn the_summary_is_that_of_its_records() {
        let simulation = simulation();
        let warmup = SimDuration::from_millis(150);
        let (text, csv) = summary(&simulation, warmup);
        let summary: Value = serde_json::from_str(&text).unwrap();
        for metric in &RECORD_METRICS {
            let of_records = records(&simulation, warmup);
            let values: Vec<f64> = of_records
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap())
                .filter(|line| line["metadata"]["benchmark_phase"] == "profiling")
                .filter_map(|line| line["metrics"][metric.tag]["value"].as_f64())
                .collect();
            let block = &summary[metric.tag];
            assert_eq!(block["count"].as_u64(), Some(values.len() as u64), "{}", metric.tag);
            assert_eq!(block["avg"].as_f64(), stats::mean(&values), "{}", metric.tag);
            assert_eq!(block["unit"], json!(metric.unit));
        }
        assert_eq!(summary["input_sequence_length"]["p50"], json!(250.0));
        assert_eq!(summary["input_sequence_length"]["std"], json!(50.0 * 2f64.sqrt()));
        assert_eq!(summary["request_count"], json!({ "unit": "requests", "avg": 2.0 }));
        // From 150 ms to 320 ms.
        assert_eq!(summary["output_token_throughput"]["avg"], json!(12.0 / 0.17));
        assert_eq!(summary["error_summary"][0]["count"], json!(1));
        insta::assert_snapshot!(csv.replace("\r\n", "\n"), @r"
        Metric,avg,min,max,sum,p1,p5,p10,p25,p50,p75,p90,p95,p99,std
        Input Sequence Length (tokens),250.00,200.00,300.00,500.00,201.00,205.00,210.00,225.00,250.00,275.00,290.00,295.00,299.00,70.71
        Inter Token Latency (ms),10.00,10.00,10.00,10.00,10.00,10.00,10.00,10.00,10.00,10.00,10.00,10.00,10.00,
        Output Sequence Length (tokens),6.00,1.00,11.00,12.00,1.10,1.50,2.00,3.50,6.00,8.50,10.00,10.50,10.90,7.07
        Output Token Count (tokens),6.00,1.00,11.00,12.00,1.10,1.50,2.00,3.50,6.00,8.50,10.00,10.50,10.90,7.07
        Output Token Throughput Per User (tokens/sec/user),100.00,100.00,100.00,100.00,100.00,100.00,100.00,100.00,100.00,100.00,100.00,100.00,100.00,
        Request Latency (ms),120.00,120.00,120.00,240.00,120.00,120.00,120.00,120.00,120.00,120.00,120.00,120.00,120.00,0.00
        Time to First Token (ms),20.00,20.00,20.00,40.00,20.00,20.00,20.00,20.00,20.00,20.00,20.00,20.00,20.00,0.00
        Usage Prompt Cache Read Tokens (tokens),64.00,64.00,64.00,128.00,64.00,64.00,64.00,64.00,64.00,64.00,64.00,64.00,64.00,0.00

        Metric,Value
        Benchmark Duration (sec),0.17
        Error Request Count,1.00
        Output Token Throughput (tokens/sec),70.59
        Request Count,2.00
        Request Throughput (requests/sec),11.76
        ");
    }

    #[test]
    fn nothing_measured_is_no_metric() {
        let (text, csv) = summary(&simulation(), SimDuration::from_secs(9));
        let summary: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(summary["request_latency"], Value::Null);
        assert_eq!(summary["request_count"]["avg"], json!(0.0));
        assert!(csv.contains("Request Count,0.00\r\n"), "{csv}");
    }
}
