//! One worker under vLLM's rules: a step with a prompt in it, and jumps over
//! steps that only decode.

use criterion::{BatchSize, Criterion, Throughput};
use kv_router_sim::engine::config::EngineConfig;
use kv_router_sim::engine::settings::EngineSettings;
use kv_router_sim::engine::{Outbox, Wake, Worker};
use kv_router_sim::event::{KvEvent, WorkerEventKind};
use kv_router_sim::id::{BlockId, RequestId, WorkerId};
use kv_router_sim::request::{Content, Request};
use kv_router_sim::time::SimTime;
use std::sync::Arc;

/// Sequences that decode.
const SEQS: u32 = 64;

pub(crate) fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.bench_function("mixed step", |b| {
        b.iter_batched_ref(
            || {
                let mut rig = Rig::decoding(16_384, false);
                rig.submit(4_096, 100);
                rig
            },
            |rig| rig.until_first_token(),
            BatchSize::SmallInput,
        );
    });
    // Every jump ends with the end of one sequence.
    group.throughput(Throughput::Elements(u64::from(SEQS)));
    group.bench_function("decode jump", |b| {
        b.iter_batched_ref(|| Rig::decoding(16_384, false), Rig::until_idle, BatchSize::SmallInput);
    });
    // On a full pool every block that a jump fills evicts another, and somebody
    // wants to hear of both: 64 sequences, 1,050 tokens each, 17 blocks.
    group.bench_function("settled jump with evictions", |b| {
        b.iter_batched_ref(
            || Rig::decoding(2_048, true),
            |rig| {
                rig.until_idle();
                rig.kv_events()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

struct Rig {
    worker: Worker,
    out: Outbox,
    now: SimTime,
    requests: u32,
}

impl Rig {
    /// A worker whose pool is warm and that has just begun to decode [`SEQS`]
    /// sequences, which end 10 steps apart.
    fn decoding(num_blocks: u32, wants_kv_events: bool) -> Self {
        let config = Arc::new(config(num_blocks));
        let mut rig = Self {
            worker: Worker::new(WorkerId(0), config, wants_kv_events),
            out: Outbox::default(),
            now: SimTime::ZERO,
            requests: 0,
        };
        for _ in 0..num_blocks / 64 {
            rig.submit(63 * 64, 1);
            rig.until_idle();
        }
        rig.kv_events();
        for n in 0..SEQS {
            rig.submit(64, 740 + 10 * n);
        }
        rig.until_first_token();
        rig
    }

    fn submit(&mut self, prompt_tokens: u32, output_tokens: u32) {
        let id = self.requests;
        self.requests += 1;
        let content = Content::new([], BlockId(u64::from(id) << 20));
        let request = Request::new(RequestId(id), prompt_tokens, output_tokens, content);
        self.worker.submit(self.now, &request, &mut self.out).expect("a request that fits");
    }

    /// The worker's next action; false if it is idle.
    fn act(&mut self) -> bool {
        match self.worker.wake() {
            None => return false,
            Some(Wake::FinishStep(at)) => {
                self.now = at;
                self.worker.finish_step(at, &mut self.out);
            }
            Some(Wake::StartStep(at)) => self.worker.start_step(at, &mut self.out),
        }
        true
    }

    fn until_idle(&mut self) {
        while self.act() {}
        self.out.events.clear();
    }

    fn until_first_token(&mut self) {
        let is_first = |kind| matches!(kind, WorkerEventKind::FirstToken);
        while !self.out.events.iter().any(|(_, event)| is_first(event.kind)) {
            assert!(self.act(), "a request waits for its first token");
        }
        self.out.events.clear();
    }

    /// Blocks in the cache changes since the last call.
    fn kv_events(&mut self) -> u32 {
        let mut blocks = 0;
        let count = |_, _, event: KvEvent| blocks += event.run().len;
        self.worker.take_kv_events(SimTime::MAX, &mut self.out, count);
        blocks
    }
}

/// The engine of the comparison with peers, with another pool.
fn config(num_blocks: u32) -> EngineConfig {
    let file: toml::Table =
        toml::from_str(include_str!("../peer-conversation-8w.toml")).expect("TOML");
    let engine: EngineSettings = file["engine"].clone().try_into().expect("engine settings");
    EngineSettings { num_blocks: Some(num_blocks), ..engine }.resolve(None).expect("valid")
}
