//! Recorded runs of real vLLM, replayed step for step.
//!
//! `tests/data/vllm-runs` was recorded from vLLM 0.32.0 (CPU). Where `recorded` is `"sched"`,
//! its scheduler and KV cache manager were driven as its engine does it, with random tokens
//! in place of a model; else the engine itself ran. It was paused, a batch of requests
//! queued, the engine resumed, or requests came and went by turns of its loop: so its
//! sequence of steps does not depend on time. Further files, `.json` or `.json.gz`, are read
//! from the folder named by `SIM_VLLM_RUNS`.

use flate2::read::GzDecoder;
use kv_router_sim::engine::config::{EngineConfig, LayerGroups, Rules, VllmOptions};
use kv_router_sim::engine::settings::SchedulingPolicy;
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
    #[serde(default, rename = "async")]
    overlap: bool,
    #[serde(default = "on")]
    prefix_caching: bool,
    #[serde(default = "on")]
    chunked_prefill: bool,
    #[serde(default)]
    args: Args,
    /// `"full"` or the tokens of a window, for each group of layers.
    #[serde(default)]
    groups: Vec<serde_json::Value>,
    /// As the engine made them: kind, and layers.
    #[serde(default)]
    kv_groups: Vec<(String, Vec<String>)>,
    /// `prefix_cache_retention_interval`.
    retention: Option<u32>,
    recorded: Option<String>,
}

/// vLLM's own names.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Args {
    long_prefill_token_threshold: u32,
    scheduler_reserve_full_isl: Option<bool>,
    scheduling_policy: SchedulingPolicy,
}

impl Config {
    fn layer_groups(&self) -> Option<LayerGroups> {
        let from_engine = self.recorded.as_deref() == Some("engine");
        let windows: Vec<Option<u32>> = if from_engine {
            // The one window of the recorded network.
            let window = |kind: &str| kind.starts_with("SlidingWindow").then_some(128);
            self.kv_groups.iter().map(|(kind, _)| window(kind)).collect()
        } else {
            self.groups.iter().map(|group| group.as_u64().map(|w| w.try_into().unwrap())).collect()
        };
        let count = |n: usize| u32::try_from(n).unwrap();
        let with_window = windows.iter().flatten().count();
        Some(LayerGroups {
            full: count(windows.len() - with_window),
            windows: count(with_window),
            window_tokens: *windows.iter().flatten().next()?,
            windows_first: windows[0].is_some(),
            // The engine has 0 unless told otherwise, its parts have none.
            dense: !from_engine && self.retention.is_none(),
        })
    }
}

fn on() -> bool {
    true
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
    /// The step at whose end each of them was published, where that was recorded.
    event_step: Option<Vec<usize>>,
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
    /// Of each request; 0 where that is not recorded.
    #[serde(default)]
    priority: Vec<i32>,
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

/// Renumbers blocks of groups by first appearance.
fn renumber(events: impl IntoIterator<Item = (char, (u32, u64))>) -> Vec<(String, usize)> {
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
    /// With overlap: a step runs whose results are handled at the end of the next.
    in_flight: bool,
    /// When the results of each step were handled, and the blocks used then.
    handled: Vec<(SimTime, u32)>,
}

impl Replay {
    fn batch(&mut self, batch: &Batch, name: &str) {
        let mut out = Outbox::with_steps();
        let first = self.requests;
        self.handled.clear();
        let mut requests = Vec::new();
        for (i, (prompt, output)) in batch.prompts.iter().zip(&batch.outputs).enumerate() {
            let output_tokens = u32::try_from(output.len()).unwrap();
            let output_tokens = batch.max_tokens.get(i).copied().unwrap_or(output_tokens);
            let tokens: Vec<u32> = prompt.iter().chain(output).copied().collect();
            let prompt_tokens = u32::try_from(prompt.len()).unwrap();
            let content = self.interner.content(&tokens, self.config.block_size, self.requests);
            let id = RequestId(self.requests);
            let mut request = Request::new(id, prompt_tokens, output_tokens, content);
            request.priority = batch.priority.get(i).copied().unwrap_or(0);
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
        let mut published = Vec::new();
        self.worker.take_kv_events(SimTime::MAX, &mut out, |_, at, event| {
            let (stored, group, run) = match event {
                KvEvent::Stored { run, .. } => (true, u32::MAX, run),
                KvEvent::Removed { run } => (false, u32::MAX, run),
                KvEvent::StoredApart { group, run } => (true, group, run),
                KvEvent::RemovedApart { group, run } => (false, group, run),
                other => panic!("{other:?} without tiers"),
            };
            let block = |i| (group, run.first.offset(i).0);
            match stored {
                true => events.extend((0..run.len).map(|i| ('+', block(i)))),
                false => events.extend((0..run.len).rev().map(|i| ('-', block(i)))),
            }
            published.resize(events.len(), at);
        });
        let steps = out.steps.unwrap();
        if self.config.fast_forward {
            let count: u64 = steps.iter().map(|step| step.steps).sum();
            assert_eq!(batch.steps.len() as u64, count, "{name}: number of steps");
        } else {
            self.compare_steps(batch, &steps, name);
            self.compare_publishing(batch, &published, name);
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
        let count = |out: &Outbox| out.steps.as_ref().map_or(0, Vec::len);
        loop {
            match self.worker.wake() {
                None => return false,
                Some(Wake::StartStep(at)) => self.worker.start_step(at, out),
                Some(Wake::FinishStep(at)) => {
                    self.now = at;
                    let before = count(out);
                    self.worker.finish_step(at, out);
                    let (total, free) = self.worker.blocks();
                    if self.in_flight || !self.config.overlap {
                        self.handled.push((at, total - free));
                    }
                    self.in_flight = count(out) > before;
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
                self.worker.abort(self.now, 0, requests[request].id, out);
            }
            if !self.step(out) && turn >= last {
                return;
            }
        }
    }

    /// KV events leave when the results of a step are handled.
    fn compare_publishing(&self, batch: &Batch, published: &[SimTime], name: &str) {
        let Some(recorded) = &batch.event_step else { return };
        assert_eq!(recorded.len(), published.len(), "{name}: cache events");
        for (i, (&step, &at)) in recorded.iter().zip(published).enumerate() {
            assert_eq!(self.handled[step].0, at, "{name}: event {i} leaves after step {step}");
        }
    }

    fn compare_steps(&self, batch: &Batch, steps: &[StepRecord], name: &str) {
        assert_eq!(steps.len(), self.handled.len(), "{name}: steps whose results are handled");
        let results = steps.iter().zip(&self.handled);
        for (i, (real, (mine, (_, used_blocks)))) in batch.steps.iter().zip(results).enumerate() {
            let percent = 100.0 * f64::from(*used_blocks) / f64::from(self.config.num_blocks);
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

fn read(path: &Path) -> Run {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let run = match packed {
        true => serde_json::from_reader(GzDecoder::new(&bytes[..])),
        false => serde_json::from_slice(&bytes),
    };
    run.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Replays a file and returns its number of batches.
fn replay(path: &Path, fast_forward: bool) -> usize {
    let run = read(path);
    let recorded = &run.config;
    let num_blocks = recorded.num_blocks;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small positive share"
    )]
    let watermark_blocks = (recorded.watermark * f64::from(num_blocks)) as u32;
    let config = EngineConfig {
        num_blocks: num_blocks - 1, // block 0 is vLLM's null block
        block_size: recorded.block_size,
        max_num_seqs: recorded.max_num_seqs,
        max_num_batched_tokens: recorded.max_num_batched_tokens,
        max_model_len: recorded.max_model_len,
        chunked_prefill: recorded.chunked_prefill,
        prefix_caching: recorded.prefix_caching,
        overlap: recorded.overlap,
        rules: Rules::Vllm(VllmOptions {
            watermark_blocks,
            admits_by_chunk: recorded.args.scheduler_reserve_full_isl == Some(false),
            long_prefill_tokens: recorded.args.long_prefill_token_threshold,
            groups: recorded.layer_groups(),
            policy: recorded.args.scheduling_policy,
        }),
        fast_forward,
        ..super::rig::vllm_config()
    };
    let mut replay = Replay {
        worker: Worker::new(WorkerId(0), Arc::new(config.clone()), true),
        config,
        interner: Interner::default(),
        now: SimTime::ZERO,
        requests: 0,
        in_flight: false,
        handled: Vec::new(),
    };
    replay.worker.tell_all_groups();
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

/// Replays a file step by step and with fast-forward.
fn hold(path: &Path) {
    let batches = replay(path, false);
    // Where requests come and go by turns of the loop, no turn may be passed over.
    let by_turns = read(path)
        .scenarios
        .iter()
        .flat_map(|(_, batches)| batches)
        .any(|batch| !batch.arrive.is_empty());
    assert_eq!(replay(path, !by_turns), batches, "fast-forward sees the same");
}

/// A test for each recording.
macro_rules! recordings {
    ($($name:ident = $file:literal,)*) => {
        $(
            #[test]
            fn $name() {
                hold(&shipped($file));
            }
        )*

        #[test]
        fn every_recording_is_replayed() {
            let files = [$(shipped($file)),*];
            let mut folder = recordings(&shipped(""));
            folder.retain(|file| !files.contains(file));
            assert!(folder.is_empty(), "{folder:?}");
        }
    };
}

recordings! {
    matches_four_sequences = "blocks64-bs32-seqs4-budget256",
    matches_sixteen_sequences = "blocks48-bs64-seqs16-budget512",
    matches_aborts = "aborts",
    matches_arrivals = "arrivals",
    matches_async0 = "async0",
    matches_async1 = "async1",
    matches_async_engine = "async_engine",
    matches_exact_fill = "exact_fill",
    matches_gemma = "gemma",
    matches_http = "http-seed777",
    matches_hybrid0 = "hybrid0",
    matches_hybrid1 = "hybrid1",
    matches_hybrid_default0 = "hybrid_default0",
    matches_hybrid_default1 = "hybrid_default1",
    matches_long_prefill_64 = "long_prefill_64",
    matches_no_caching = "no_caching",
    matches_no_chunks = "no_chunks",
    matches_no_reserve = "no_reserve",
    matches_priority = "priority",
}

fn shipped(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/vllm-runs");
    if file.is_empty() { folder } else { folder.join(format!("{file}.json.gz")) }
}

fn recordings(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.to_string_lossy().contains(".json"))
        .collect();
    files.sort();
    files
}

#[test]
fn further_recordings_match() {
    if let Some(folder) = std::env::var_os("SIM_VLLM_RUNS") {
        recordings(Path::new(&folder)).iter().for_each(|path| hold(path));
    }
}
