//! A live run as a trace: Mooncake's rows, which the simulator replays.

use crate::id::BlockId;
use crate::workload::Arrival;
use std::collections::BTreeMap;

/// The requests of a run as rows of a trace whose ids stand for `block_size`
/// tokens each. Prompts share the blocks that they shared; as in every such
/// trace nothing says which of them were answers before.
pub fn trace(arrivals: &[Arrival], block_size: u32) -> String {
    let mut ids: BTreeMap<BlockId, u64> = BTreeMap::new();
    let mut next = 0_u64;
    let mut fresh = || {
        next += 1;
        next - 1
    };
    let mut text = String::new();
    for Arrival { sent, request, .. } in arrivals {
        let full = request.content.blocks(request.prompt_tokens / block_size);
        let mut hash_ids: Vec<u64> =
            full.map(|block| *ids.entry(block).or_insert_with(&mut fresh)).collect();
        if !request.prompt_tokens.is_multiple_of(block_size) {
            // The partial block at the end is of this prompt alone.
            hash_ids.push(fresh());
        }
        let row = serde_json::json!({
            "timestamp": sent.as_ps() / 1_000_000_000,
            "input_length": request.prompt_tokens,
            "output_length": request.output_tokens,
            "hash_ids": hash_ids,
        });
        text += &row.to_string();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Workload;
    use crate::workload::conversations::Conversations;
    use crate::workload::trace::{ReadOptions, Trace, TraceReplay};
    use std::sync::Arc;

    #[test]
    fn a_recorded_run_replays_with_the_same_lengths_and_shared_blocks() {
        let toml = "concurrency = 5\nstarters = 2\nturns = { min = 2, max = 3 }\n\
                    starter_tokens = { kind = 'constant', value = 40 }\n\
                    question_tokens = { kind = 'constant', value = 21 }\n\
                    output_tokens = { kind = 'constant', value = 9 }\nclient.overhead = '3ms'";
        let mut conversations = Conversations::new(toml::from_str(toml).unwrap(), 16, 1);
        let mut arrivals = Vec::new();
        for _ in 0..30 {
            let arrival = conversations.take();
            conversations.observe_end(arrival.at, arrival.request.id, true);
            arrivals.push(arrival);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), trace(&arrivals, 16)).unwrap();
        let options = ReadOptions { block_tokens: 16, ..ReadOptions::default() };
        let replayed = Arc::new(Trace::read(file.path(), &options).unwrap());
        let mut replay = TraceReplay::new(replayed, 16, 1.0);
        let mut same: BTreeMap<BlockId, BlockId> = BTreeMap::new();
        for arrival in &arrivals {
            let (was, now) = (&arrival.request, replay.take().request);
            assert_eq!(now.prompt_tokens, was.prompt_tokens);
            assert_eq!(now.output_tokens, was.output_tokens);
            let full = was.prompt_tokens / 16;
            for (old, new) in was.content.blocks(full).zip(now.content.blocks(full)) {
                assert_eq!(*same.entry(old).or_insert(new), new, "one name for one block");
            }
        }
        let names: std::collections::BTreeSet<_> = same.values().collect();
        assert_eq!(names.len(), same.len(), "and no name for two");
    }
}
