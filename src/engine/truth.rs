//! What is true of a worker, for those who may know: see [`crate::truth`].

use super::pipeline::Pipeline;
use super::rank::Rank;
use super::scheduler::{BatchAndQueue, Scheduler};
use super::seq::{Seq, SeqId};
use super::worker::{State, Worker};
use crate::request::{Content, Phase, Request};
use crate::time::{SimDuration, SimTime};
use crate::truth::WorkerTruth;

/// The time to a first token on a worker that is gone: longer than any run.
const NEVER: SimDuration = SimDuration::from_secs(100 * 86_400);

/// All of a worker must be settled up to the present moment, its boundary of
/// this moment excepted ([`Worker::settle`]).
impl Worker {
    /// For each rank: leading full blocks of the prompt of `request` that it holds in GPU
    /// memory or, where that ends, in tiers below.
    pub fn reachable_blocks(&self, request: &Request) -> impl Iterator<Item = u32> {
        self.ranks.iter().map(|rank| rank.reachable_blocks(request))
    }

    /// Each rank as `request`, of which it would do this `phase`, would find it at `now`,
    /// tiers below GPU memory apart. KV that would come from another worker takes no time
    /// here.
    pub fn truth(
        &self,
        now: SimTime,
        request: &Request,
        phase: Phase,
    ) -> impl Iterator<Item = WorkerTruth> {
        let to_next_boundary = self.is_up.then(|| self.to_next_boundary(now));
        self.ranks.iter().map(move |rank| rank.truth(to_next_boundary, request, phase))
    }

    /// The rest of the step that runs.
    fn to_next_boundary(&self, now: SimTime) -> SimDuration {
        let boundary = match &self.state {
            State::Idle => now,
            State::Ready { at, .. } => *at,
            State::Draining { until } | State::Loading { until } => *until,
            State::Running(plan) => {
                let mut next: Pipeline = self.pipeline;
                next.step(&plan.cadence);
                next.boundary
            }
        };
        boundary.max(now) - now
    }
}

impl Rank {
    fn reachable_blocks(&self, request: &Request) -> u32 {
        let cached_blocks = self.cached_blocks(request);
        let Some(tiers) = self.core.log.tiers() else { return cached_blocks };
        let limit = (request.prompt_tokens - 1) / self.core.config.block_size;
        let below = tiers.find(&request.content, cached_blocks, limit);
        cached_blocks + below.iter().map(|piece| piece.blocks).sum::<u32>()
    }

    /// `to_next_boundary`: the rest of the step that runs; `None` if the worker is gone.
    fn truth(
        &self,
        to_next_boundary: Option<SimDuration>,
        request: &Request,
        phase: Phase,
    ) -> WorkerTruth {
        let block_size = self.core.config.block_size;
        let cached_blocks = self.cached_blocks(request);
        let BatchAndQueue { batch: started, queue: queued } = self.rules.requests(&self.core);
        let left = |seq: &Seq| u64::from(seq.target_tokens() - seq.kv_tokens);
        let begun: u64 = self.seqs(&started).filter(|seq| seq.in_prefill()).map(left).sum();
        let missing = |seq: &Seq| {
            if seq.phase == Phase::Decode {
                // Its last prompt token; the KV of the others comes from another worker.
                return 1;
            }
            let present = self.present_blocks(&seq.content, seq.target_tokens());
            u64::from(seq.target_tokens() - present * block_size)
        };
        let prefill_tokens = begun + self.seqs(&queued).map(missing).sum::<u64>();
        let own = match phase {
            // Its last prompt token.
            Phase::Decode => 1,
            _ => u64::from(request.prompt_tokens - cached_blocks * block_size),
        };
        let ttft = to_next_boundary.map_or(NEVER, |to_next_boundary| {
            to_next_boundary
                + self.wait_for_place(&started, queued.len())
                + self.core.backlog_time(prefill_tokens + own, request.prompt_tokens)
        });
        let count = |ids: &[SeqId]| u32::try_from(ids.len()).expect("requests fit u32");
        WorkerTruth {
            cached_blocks,
            running: count(&started),
            waiting: count(&queued),
            prefill_tokens,
            free_blocks: self.blocks().1,
            ttft,
        }
    }

    /// Leading full blocks of the prompt of `request` that it would hit now.
    fn cached_blocks(&self, request: &Request) -> u32 {
        self.present_blocks(&request.content, request.prompt_tokens)
    }

    fn seqs<'a>(&'a self, ids: &'a [SeqId]) -> impl Iterator<Item = &'a Seq> {
        ids.iter().map(|&id| &self.core.seqs[id])
    }

    fn present_blocks(&self, content: &Content, tokens: u32) -> u32 {
        let config = &self.core.config;
        if !config.prefix_caching {
            return 0;
        }
        // One token is always computed.
        let limit = (tokens - 1) / config.block_size;
        self.rules.present_blocks(&self.core, content, limit)
    }

    /// Until so many answers have ended that there is a place in the batch behind
    /// the `queued` ones.
    fn wait_for_place(&self, started: &[SeqId], queued: usize) -> SimDuration {
        let places = self.core.config.max_num_seqs as usize;
        let Some(beyond) = (started.len() + queued + 1).checked_sub(places + 1) else {
            return SimDuration::ZERO;
        };
        let step = self.core.decode.step();
        let mut left: Vec<u64> = self
            .seqs(started)
            .map(|seq| {
                let decoded = seq.decode_from.map_or(0, |from| step - from);
                u64::from(seq.output_tokens.saturating_sub(seq.generated)).saturating_sub(decoded)
            })
            .collect();
        left.sort_unstable();
        let steps = left.get(beyond).or(left.last()).copied().unwrap_or(0);
        self.core.decode_time() * steps
    }
}
