//! A workload of your own: agents that share a system prompt. Each sends its next request
//! two seconds after the last answer, with everything said so far in front of it.
//!
//!     cargo run --release --example own_workload

use kv_router_sim::{
    Arrival, BlockId, BlockRun, Content, ConversationId, End, Experiment, Happening, LoadOptions,
    Request, RequestId, SimDuration, SimTime, Workload,
};
use std::collections::BTreeMap;
use std::error::Error;

const AGENTS: u32 = 40;
const TURNS: u32 = 8;
const SYSTEM_PROMPT_TOKENS: u32 = 6_000;
const TOOL_OUTPUT_TOKENS: u32 = 900;
const ANSWER_TOKENS: u32 = 120;
const PAUSE: SimDuration = SimDuration::from_secs(2);

/// Requests that are due, in order of time, and whose turn each sent request was.
struct Agents {
    block_size: u32,
    due: BTreeMap<(SimTime, u32), u32>,
    sent: Vec<(u32, u32)>,
}

impl Agents {
    fn new(block_size: u32) -> Self {
        let start =
            |agent| (SimTime::ZERO + SimDuration::from_millis(50) * u64::from(agent), agent);
        Self { block_size, due: (0..AGENTS).map(|agent| (start(agent), 0)).collect(), sent: vec![] }
    }
}

impl Workload for Agents {
    fn next_arrival(&self) -> Option<SimTime> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    fn take(&mut self) -> Arrival {
        let ((at, agent), turn) = self.due.pop_first().expect("a request is due");
        let id = RequestId(u32::try_from(self.sent.len()).expect("few requests"));
        self.sent.push((agent, turn));
        // All prompts begin with the same blocks; what follows is the agent's own, and the
        // same in each of its turns.
        let system = BlockRun { first: BlockId(0), len: SYSTEM_PROMPT_TOKENS / self.block_size };
        let own = BlockId(u64::from(agent + 1) << 32);
        let said = turn * (TOOL_OUTPUT_TOKENS + ANSWER_TOKENS) + TOOL_OUTPUT_TOKENS;
        let content = Content::new([system], own);
        let mut request = Request::new(id, SYSTEM_PROMPT_TOKENS + said, ANSWER_TOKENS, content);
        (request.conversation, request.turn) = (ConversationId(agent), turn);
        Arrival::new(at, request)
    }

    fn observe_end(&mut self, now: SimTime, request: RequestId, _served: bool) {
        let (agent, turn) = self.sent[request.index()];
        if turn + 1 < TURNS {
            self.due.insert((now + PAUSE, agent), turn + 1);
        }
    }
}

/// How many requests finished, and the digest of the run, in hexadecimal.
pub(crate) fn serve(policy: &str) -> Result<(u32, SimTime), Box<dyn Error>> {
    let options = LoadOptions::default().set(format!("router.policy={policy}"));
    let experiment = Experiment::load("doks-3xh200".as_ref(), &options)?;
    let run = &experiment.runs[0];
    let (mut finished, mut last) = (0, SimTime::ZERO);
    let mut simulation = run.simulation_of(Agents::new(run.block_size()), 1);
    simulation.observe(|now: SimTime, happening: &Happening<'_>| {
        if let Happening::End { end: End::Finished { .. }, .. } = happening {
            (finished, last) = (finished + 1, now);
        }
    });
    simulation.advance(SimTime::MAX)?;
    drop(simulation);
    Ok((finished, last))
}

#[allow(dead_code, clippy::print_stdout, reason = "tests call `serve`")]
fn main() -> Result<(), Box<dyn Error>> {
    for policy in ["round_robin", "kv"] {
        let (finished, last) = serve(policy)?;
        println!("{policy}: {finished} requests finished in {:.1} s", last.as_secs());
    }
    Ok(())
}
