#![no_main]
//! A trace is read or refused, plain or compressed.

use kv_router_sim::workload::trace::{ReadOptions, Trace, TraceFormat};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let format = match first % 13 {
        1 => Some(TraceFormat::Mooncake),
        2 => Some(TraceFormat::MooncakeDelta),
        3 => Some(TraceFormat::Azure),
        4 => Some(TraceFormat::Burstgpt),
        5 => Some(TraceFormat::MooncakeAgentic),
        6 => Some(TraceFormat::DynamoRequests),
        7 => Some(TraceFormat::Bailian),
        8 => Some(TraceFormat::AiperfProfile),
        9 => Some(TraceFormat::Weka),
        10 => Some(TraceFormat::AiperfInputs),
        11 => Some(TraceFormat::Sharegpt),
        12 => Some(TraceFormat::VllmMultiTurn),
        _ => None,
    };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), rest).expect("written");
    let options =
        ReadOptions { format, block_tokens: 16, limit: Some(10_000), ..ReadOptions::default() };
    match Trace::read(file.path(), &options) {
        Ok(trace) => assert!(!trace.rows().is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
