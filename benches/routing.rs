//! Routing decisions per second, with everything a decision brings along: KV
//! events of the request's blocks, booking, first token, end, eviction.
//!
//! Conversations with prompts of 28 to 140 blocks of 32 tokens (about 80 on
//! average), 20 of them from one of ten shared texts; eight conversations and
//! four requests in flight per worker. The policies are timed in turn, round by
//! round, so that they meet the same machine; the table has medians.
//! `round_robin` shows what the load itself costs.

use kv_router_sim::event::{KvEvent, WorkerEvent, WorkerEventKind};
use kv_router_sim::id::{BlockId, ConversationId, RequestId, WorkerId};
use kv_router_sim::request::{BlockRun, Content, Request};
use kv_router_sim::rng::mix;
use kv_router_sim::router::settings::RouterSettings;
use kv_router_sim::router::{ClusterSpec, FrontEnd, Verdict, WorkerLimits};
use kv_router_sim::time::SimTime;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const BLOCK_SIZE: u32 = 32;
const STARTER_BLOCKS: u32 = 20;
const TURN_BLOCKS: u32 = 8;
const LAST_BLOCKS: u32 = 120;

struct Conversation {
    starter: BlockRun,
    /// Id of its first block after the shared text.
    private: u64,
    private_blocks: u32,
    /// Workers that hold some of those, and how many.
    holders: Vec<(WorkerId, u32)>,
}

struct Load {
    front_end: FrontEnd,
    conversations: Vec<Conversation>,
    inflight: VecDeque<(Request, WorkerId)>,
    most_inflight: usize,
    next_request: u32,
    next_private: u64,
}

impl Load {
    fn new(policy: &str, workers: u32) -> Self {
        let settings: RouterSettings = toml::from_str(&format!("policy = \"{policy}\"")).unwrap();
        let limits =
            WorkerLimits { blocks: 20_000, max_num_seqs: 64, max_num_batched_tokens: 16_384 };
        let cluster = ClusterSpec::uniform(workers, BLOCK_SIZE, limits);
        let policy = settings.chosen().build(&cluster, 1);
        let mut load = Self {
            front_end: FrontEnd::new(policy, workers, &settings.feed(), 1),
            conversations: Vec::new(),
            inflight: VecDeque::new(),
            most_inflight: 4 * workers as usize,
            next_request: 0,
            next_private: 0,
        };
        load.conversations = (0..8 * u64::from(workers))
            .map(|n| Conversation {
                starter: BlockRun { first: BlockId(1 + n % 10 * 1_024), len: STARTER_BLOCKS },
                private: load.private(),
                private_blocks: TURN_BLOCKS + u32::try_from(draw(n, 100)).unwrap(),
                holders: Vec::new(),
            })
            .collect();
        // Into the steady state: every conversation has had a turn or two.
        (0..20 * workers).for_each(|_| load.decide());
        load
    }

    fn private(&mut self) -> u64 {
        self.next_private += 1;
        (1 << 32) + self.next_private * 1_024
    }

    fn decide(&mut self) {
        let n = self.next_request;
        self.next_request += 1;
        let now = SimTime::from_ps(u64::from(n) * 20_000_000_000);
        let which = draw(u64::from(n), self.conversations.len() as u64);
        let request = self.request(RequestId(n), which);
        let verdict = self.front_end.route(now, &request.route_view(BLOCK_SIZE));
        let Verdict::Send(worker) = verdict else { panic!("{verdict:?}") };
        self.observe(now, worker, request.id, WorkerEventKind::FirstToken);
        self.cache(now, which, worker);
        self.inflight.push_back((request, worker));
        if self.inflight.len() > self.most_inflight {
            let (request, worker) = self.inflight.pop_front().unwrap();
            self.observe(now, worker, request.id, WorkerEventKind::Finished { output_tokens: 1 });
        }
    }

    fn request(&self, id: RequestId, which: usize) -> Request {
        let conversation = &self.conversations[which];
        let prompt_tokens = (STARTER_BLOCKS + conversation.private_blocks) * BLOCK_SIZE + 7;
        let content = Content::new([conversation.starter], BlockId(conversation.private));
        let mut request = Request::new(id, prompt_tokens, 1, content);
        request.conversation = ConversationId(0);
        request
    }

    /// Publishes what `worker` stores for this turn, and, when the conversation
    /// is over, what all workers lose.
    fn cache(&mut self, now: SimTime, which: usize, worker: WorkerId) {
        let next = self.private();
        let Conversation { starter, private, private_blocks, holders } =
            &mut self.conversations[which];
        let first = *private;
        let run = |from, to| BlockRun { first: BlockId(first + u64::from(from)), len: to - from };
        let mut events = Vec::new();
        let at = holders.iter().position(|(holder, _)| *holder == worker).unwrap_or_else(|| {
            holders.push((worker, 0));
            events.push((worker, KvEvent::Stored { parent: None, run: *starter }));
            holders.len() - 1
        });
        let held = std::mem::replace(&mut holders[at].1, *private_blocks);
        if held < *private_blocks {
            let parent = match held {
                0 => starter.first.offset(STARTER_BLOCKS - 1),
                _ => BlockId(first + u64::from(held - 1)),
            };
            let run = run(held, *private_blocks);
            events.push((worker, KvEvent::Stored { parent: Some(parent), run }));
        }
        *private_blocks += TURN_BLOCKS;
        if *private_blocks > LAST_BLOCKS {
            let lost = holders.drain(..).map(|(worker, held)| (worker, run(0, held)));
            events.extend(lost.map(|(worker, run)| (worker, KvEvent::Removed { run })));
            (*private, *private_blocks) = (next, TURN_BLOCKS);
        }
        if self.front_end.wants_kv_events() {
            for (worker, event) in events {
                self.front_end.hear_kv(now, worker, event);
            }
        }
    }

    fn observe(
        &mut self,
        now: SimTime,
        worker: WorkerId,
        request: RequestId,
        kind: WorkerEventKind,
    ) {
        self.front_end.observe(now, &WorkerEvent { worker, request, kind });
    }
}

/// A number below `end`, the same for the same `key`.
fn draw(key: u64, end: u64) -> usize {
    usize::try_from(mix(key) % end).unwrap()
}

const POLICIES: [&str; 3] = ["kv", "dynamo", "round_robin"];
const ROUNDS: usize = 11;
const ROUND: Duration = Duration::from_millis(150);

/// Decisions per second over one round.
#[expect(clippy::disallowed_methods, reason = "a bench is timed by the wall clock")]
fn rate(load: &mut Load) -> f64 {
    let start = Instant::now();
    let mut decisions = 0;
    while start.elapsed() < ROUND {
        (0..50).for_each(|_| load.decide());
        decisions += 50;
    }
    f64::from(decisions) / start.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[expect(clippy::print_stdout, reason = "a bench prints its result")]
fn main() {
    println!("decisions per second, medians of {ROUNDS} rounds of {ROUND:?}");
    println!("workers         kv     dynamo  kv/dynamo  round_robin");
    for workers in [3, 64, 1_000] {
        let mut loads = POLICIES.map(|policy| Load::new(policy, workers));
        let mut rates = POLICIES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (load, rates) in loads.iter_mut().zip(&mut rates) {
                rates.push(rate(load));
            }
        }
        let [kv, dynamo, alone] = rates.map(median);
        println!("{workers:7} {kv:10.0} {dynamo:10.0} {:10.1} {alone:12.0}", kv / dynamo);
    }
}
