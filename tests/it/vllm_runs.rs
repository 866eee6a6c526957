//! Recorded runs of real vLLM, replayed step for step.
//!
//! `tests/data/vllm-runs/*.json` were recorded from vLLM 0.32.0 (CPU): the engine
//! was paused, a batch of requests queued, the engine resumed, so that its
//! sequence of steps does not depend on time. Further files are read from the
//! folder named by `SIM_VLLM_RUNS`.

use kv_router_sim::engine::config::{EngineConfig, Rules, VllmOptions};
use kv_router_sim::engine::{Outbox, StepRecord, Wake, Worker};
use kv_router_sim::event::{KvEvent, WorkerEventKind};
use kv_router_sim::id::{BlockId, RequestId, WorkerId};
use kv_router_sim::request::{BlockRun, Content, Request};
use kv_router_sim::time::SimTime;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Deserialize)]
struct Run {
    config: Config,
    /// In the order in which they ran: the order of the free queue carries over.
    #[serde(deserialize_with = "in_file_order")]
    scenarios: Vec<(String, Vec<Batch>)>,
}

fn in_file_order<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<(String, Vec<Batch>)>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Vec<(String, Vec<Batch>)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("scenarios by name")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    d.deserialize_map(Entries)
}

#[derive(Deserialize)]
struct Config {
    num_blocks: u32,
    block_size: u32,
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
    max_model_len: u32,
    #[serde(default)]
    watermark: f64,
}

#[derive(Deserialize)]
struct Batch {
    prompts: Vec<Vec<u32>>,
    outputs: Vec<Vec<u32>>,
    /// Context requests, context tokens, generation requests, generation tokens, KV usage %.
    steps: Vec<(u32, u32, u32, u32, f64)>,
    /// Nothing of a request that was given up before it ran.
    cached: Vec<Option<u32>>,
    events: Vec<(String, usize)>,
    preemptions: usize,
    /// Where requests come in mid-run: before which turn of the engine's loop each does.
    #[serde(default)]
    arrive: Vec<usize>,
    /// Requests that are given up, and before which turn.
    #[serde(default)]
    abort: Vec<(usize, usize)>,
    /// What was asked for, where a request was given up.
    #[serde(default)]
    max_tokens: Vec<u32>,
}

/// Numbers a block by its tokens and its parent.
#[derive(Default)]
struct Interner(BTreeMap<(Option<u64>, Vec<u32>), u64>);

impl Interner {
    fn content(&mut self, tokens: &[u32], block_size: u32, request: u32) -> Content {
        let mut parent = None;
        let mut runs = Vec::new();
        for block in tokens.chunks_exact(block_size as usize) {
            let next = self.0.len() as u64;
            let id = *self.0.entry((parent, block.to_vec())).or_insert(next);
            runs.push(BlockRun { first: BlockId(id), len: 1 });
            parent = Some(id);
        }
        Content::new(runs, BlockId((1 << 40) + (u64::from(request) << 20)))
    }
}

/// Renumbers blocks by first appearance.
fn renumber(events: impl IntoIterator<Item = (char, u64)>) -> Vec<(String, usize)> {
    let mut numbers = BTreeMap::new();
    let mut renumbered = Vec::new();
    for (kind, id) in events {
        let next = numbers.len();
        renumbered.push((kind.to_string(), *numbers.entry(id).or_insert(next)));
    }
    renumbered
}

struct Replay {
    worker: Worker,
    config: EngineConfig,
    interner: Interner,
    now: SimTime,
    requests: u32,
}

impl Replay {
    fn batch(&mut self, batch: &Batch, name: &str) {
        let mut out = Outbox { steps: Some(Vec::new()), ..Outbox::default() };
        let first = self.requests;
        let mut requests = Vec::new();
        for (i, (prompt, output)) in batch.prompts.iter().zip(&batch.outputs).enumerate() {
            let output_tokens = u32::try_from(output.len()).unwrap();
            let output_tokens = batch.max_tokens.get(i).copied().unwrap_or(output_tokens);
            let tokens: Vec<u32> = prompt.iter().chain(output).copied().collect();
            let prompt_tokens = u32::try_from(prompt.len()).unwrap();
            let content = self.interner.content(&tokens, self.config.block_size, self.requests);
            let id = RequestId(self.requests);
            let request = Request::new(id, prompt_tokens, output_tokens, content);
            requests.push(request);
            self.requests += 1;
        }
        if batch.arrive.is_empty() {
            self.submit(&requests, &mut out);
            while self.step(&mut out) {}
        } else {
            self.turn_by_turn(batch, &requests, &mut out);
        }
        let mut cached = vec![None; batch.prompts.len()];
        let mut preemptions = 0;
        let mut ended = 0;
        for (_, event) in &out.events {
            match event.kind {
                WorkerEventKind::Scheduled { cached_tokens } => {
                    cached[(event.request.0 - first) as usize] = Some(cached_tokens);
                }
                WorkerEventKind::Preempted => preemptions += 1,
                WorkerEventKind::Finished { .. } | WorkerEventKind::Aborted => ended += 1,
                _ => {}
            }
        }
        let mut events = Vec::new();
        self.worker.take_kv_events(SimTime::MAX, &mut out, |_, event| match event {
            KvEvent::Stored { run, .. } => {
                events.extend((0..run.len).map(|i| ('+', run.first.offset(i).0)));
            }
            KvEvent::Removed { run } => {
                events.extend((0..run.len).rev().map(|i| ('-', run.first.offset(i).0)));
            }
            other => panic!("{other:?} without tiers"),
        });
        let steps = out.steps.unwrap();
        if self.config.fast_forward {
            let count: u64 = steps.iter().map(|step| step.steps).sum();
            assert_eq!(batch.steps.len() as u64, count, "{name}: number of steps");
        } else {
            self.compare_steps(batch, &steps, name);
        }
        assert_eq!(batch.cached, cached, "{name}: cached tokens");
        assert_eq!(batch.events, renumber(events), "{name}: cache events");
        assert_eq!(batch.preemptions, preemptions, "{name}: preemptions");
        assert_eq!(batch.prompts.len(), ended, "{name}: requests that ended");
    }

    fn submit(&mut self, requests: &[Request], out: &mut Outbox) {
        for request in requests {
            self.worker.submit(self.now, request, out).expect("a request that fits");
        }
    }

    /// Goes through a step; false if there is none.
    fn step(&mut self, out: &mut Outbox) -> bool {
        loop {
            match self.worker.wake() {
                None => return false,
                Some(Wake::StartStep(at)) => self.worker.start_step(at, out),
                Some(Wake::FinishStep(at)) => {
                    self.now = at;
                    self.worker.finish_step(at, out);
                    return true;
                }
            }
        }
    }

    /// Requests come and are given up between the steps. A turn of the engine's loop in
    /// which there is nothing to do is no step.
    fn turn_by_turn(&mut self, batch: &Batch, requests: &[Request], out: &mut Outbox) {
        let last = batch.arrive.iter().chain(batch.abort.iter().map(|(_, turn)| turn)).max();
        let last = *last.expect("requests come");
        for turn in 0.. {
            let coming = batch.arrive.iter().zip(requests).filter(|(at, _)| **at == turn);
            let coming: Vec<Request> = coming.map(|(_, request)| request.clone()).collect();
            self.submit(&coming, out);
            for &(request, _) in batch.abort.iter().filter(|(_, at)| *at == turn) {
                self.worker.abort(self.now, requests[request].id, out);
            }
            if !self.step(out) && turn >= last {
                return;
            }
        }
    }

    fn compare_steps(&self, batch: &Batch, steps: &[StepRecord], name: &str) {
        for (i, (real, mine)) in batch.steps.iter().zip(steps).enumerate() {
            let percent = 100.0 * f64::from(mine.used_blocks) / f64::from(self.config.num_blocks);
            let counts =
                (mine.prefill_seqs, mine.prefill_tokens, mine.decode_seqs, mine.decode_tokens);
            // vLLM prints the usage with one decimal.
            let same =
                (real.0, real.1, real.2, real.3) == counts && (real.4 - percent).abs() < 0.051;
            assert!(same, "{name}, step {i}: vLLM {real:?}, simulated {counts:?} {percent:.1} %");
        }
        assert_eq!(batch.steps.len(), steps.len(), "{name}: number of steps");
    }
}

/// Replays a file and returns its number of batches.
fn replay(path: &Path, fast_forward: bool) -> usize {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let run: Run =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Config {
        num_blocks,
        block_size,
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len,
        watermark,
    } = run.config;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small positive share"
    )]
    let watermark_blocks = (watermark * f64::from(num_blocks)) as u32;
    let config = EngineConfig {
        num_blocks: num_blocks - 1, // block 0 is vLLM's null block
        block_size,
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len,
        rules: Rules::Vllm(VllmOptions { watermark_blocks }),
        fast_forward,
        ..super::rig::vllm_config()
    };
    let mut replay = Replay {
        worker: Worker::new(WorkerId(0), Arc::new(config.clone()), true),
        config,
        interner: Interner::default(),
        now: SimTime::ZERO,
        requests: 0,
    };
    let mut batches = 0;
    for (scenario, recorded) in &run.scenarios {
        assert!(replay.worker.reset_prefix_cache(), "nothing runs between scenarios");
        for (i, batch) in recorded.iter().enumerate() {
            let name = format!("{}, {scenario}[{i}]", path.display());
            replay.batch(batch, &name);
            batches += 1;
        }
    }
    batches
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_recorded_batch_of_real_vllm_matches_step_for_step() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vllm-runs");
    let mut files = json_files(&shipped);
    assert_eq!(files.len(), 3, "the shipped recordings");
    if let Some(folder) = std::env::var_os("SIM_VLLM_RUNS") {
        files.extend(json_files(Path::new(&folder)));
    }
    let mut total = 0;
    for path in &files {
        let batches = replay(path, false);
        // Where requests come and go by turns of the loop, no turn may be passed over.
        let by_turns = path.ends_with("aborts.json") || path.ends_with("arrivals.json");
        assert_eq!(replay(path, !by_turns), batches, "fast-forward sees the same");
        println!("{}: {batches} of {batches} batches match", path.file_name().unwrap().display());
        total += batches;
    }
    assert!(total >= 62, "{total} batches");
}
