//! Workloads in Python: an iterator of requests.

use crate::errors::plain;
use crate::policy::Failure;
use kv_router_sim::{
    self as sim, Arrival, BlockId, BlockRun, Content, ConversationId, Patience, RequestId,
    SimDuration, SimTime, Workload,
};
use pyo3::prelude::*;
use pyo3::types::PyIterator;
use std::sync::{Arc, OnceLock};

/// Tokens of a prompt, or of an output: as of every workload of the simulator.
const MAX_TOKENS: u32 = 1_000_000_000;

/// The latest moment, as of every simulation that is stepped.
const MAX_SECONDS: f64 = 8.64e6;

/// Numbers of blocks that requests may share are below this; those above are private.
const FIRST_PRIVATE: u64 = 1 << 63;

/// A request of a workload of one's own.
#[pyclass(frozen, get_all, module = "kv_router_sim")]
#[derive(Debug)]
pub(crate) struct Request {
    at: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    blocks: Vec<u64>,
    conversation: Option<u32>,
    turn: u32,
    max_tokens: Option<u32>,
    priority: i32,
    first_token_within: Option<f64>,
    answer_within: Option<f64>,
}

#[pymethods]
impl Request {
    #[new]
    #[pyo3(signature = (
        at, prompt_tokens, output_tokens, *, blocks=Vec::new(), conversation=None, turn=0,
        max_tokens=None, priority=0, first_token_within=None, answer_within=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords, in Python")]
    fn new(
        at: f64,
        prompt_tokens: u32,
        output_tokens: u32,
        blocks: Vec<u64>,
        conversation: Option<u32>,
        turn: u32,
        max_tokens: Option<u32>,
        priority: i32,
        first_token_within: Option<f64>,
        answer_within: Option<f64>,
    ) -> PyResult<Self> {
        let seconds = |key: &str, value: Option<f64>| match value {
            Some(seconds) if !(0.0..=MAX_SECONDS).contains(&seconds) => Err(plain(&format!(
                "{key} = {seconds}: must be seconds, from 0 to {MAX_SECONDS} (100 days)"
            ))),
            _ => Ok(()),
        };
        seconds("at", Some(at))?;
        seconds("first_token_within", first_token_within)?;
        seconds("answer_within", answer_within)?;
        for (key, tokens) in [("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)] {
            if !(1..=MAX_TOKENS).contains(&tokens) {
                return Err(plain(&format!("{key} = {tokens}: must be from 1 to {MAX_TOKENS}")));
            }
        }
        if let Some(most) = max_tokens.filter(|most| !(output_tokens..=MAX_TOKENS).contains(most)) {
            return Err(plain(&format!(
                "max_tokens = {most}: must be from output_tokens ({output_tokens}) to {MAX_TOKENS}"
            )));
        }
        if let Some(block) = blocks.iter().find(|block| **block >= FIRST_PRIVATE) {
            return Err(plain(&format!("blocks = [.., {block}]: must be numbers below 2^63")));
        }
        Ok(Self {
            at,
            prompt_tokens,
            output_tokens,
            blocks,
            conversation,
            turn,
            max_tokens,
            priority,
            first_token_within,
            answer_within,
        })
    }

    fn __repr__(&self) -> String {
        let Self { at, prompt_tokens, output_tokens, .. } = self;
        format!("<Request at {at} s: {prompt_tokens} prompt tokens, {output_tokens} output tokens>")
    }
}

impl Request {
    /// As the simulator has it; its number is its place.
    fn arrival(&self, id: u32) -> Arrival {
        let shared = self.blocks.iter().map(|&block| BlockRun { first: BlockId(block), len: 1 });
        // A run of its own for what no other request has.
        let content = Content::new(shared, BlockId(FIRST_PRIVATE | u64::from(id) << 31));
        let Self { prompt_tokens, output_tokens, conversation, turn, max_tokens, .. } = *self;
        let mut request = sim::Request::new(RequestId(id), prompt_tokens, output_tokens, content);
        request.conversation = ConversationId(conversation.unwrap_or(id));
        request.turn = turn;
        request.priority = self.priority;
        request.max_tokens = max_tokens.unwrap_or(output_tokens);
        let at = SimTime::ZERO + SimDuration::from_secs_f64(self.at);
        let mut arrival = Arrival::new(at, request);
        arrival.patience = Patience {
            first_token: self.first_token_within.map(SimDuration::from_secs_f64),
            answer: self.answer_within.map(SimDuration::from_secs_f64),
        };
        arrival
    }
}

/// What gives the requests of a simulation.
pub(crate) struct Requests {
    iterator: Py<PyIterator>,
    failure: Arc<Failure>,
}

impl Requests {
    /// Anything that can be iterated over.
    pub(crate) fn of(requests: &Bound<'_, PyAny>, failure: Arc<Failure>) -> PyResult<Self> {
        Ok(Self { iterator: requests.try_iter()?.unbind(), failure })
    }
}

/// Requests as an iterator gives them, one ahead of the simulation.
pub(crate) struct Iterated {
    requests: Requests,
    next: Option<Arrival>,
    count: u32,
    /// Why there are no more, if the iterator has failed: that is not its end.
    broken: Arc<OnceLock<String>>,
}

impl Iterated {
    /// With the first of them at hand.
    pub(crate) fn new(requests: Requests, broken: Arc<OnceLock<String>>) -> Self {
        let mut iterated = Self { requests, next: None, count: 0, broken };
        iterated.pull();
        iterated
    }

    fn pull(&mut self) {
        let last = self.next.take().map_or(SimTime::ZERO, |arrival| arrival.at);
        let pulled = Python::attach(|py| -> PyResult<Option<Arrival>> {
            let Some(item) = self.requests.iterator.bind(py).clone().next() else {
                return Ok(None);
            };
            let item = item?;
            let request = item.cast::<Request>().map_err(|_| {
                let seen =
                    item.get_type().name().map_or_else(|_| "object".into(), |n| n.to_string());
                plain(&format!("the workload gave a {seen}: must be a kv_router_sim.Request"))
            })?;
            let arrival = request.get().arrival(self.count);
            if arrival.at < last {
                return Err(plain(&format!(
                    "request {} of the workload comes at {} s: must not come before the one \
                     before it, at {} s",
                    self.count,
                    arrival.at.as_secs(),
                    last.as_secs()
                )));
            }
            Ok(Some(arrival))
        });
        match pulled {
            Ok(arrival) => self.next = arrival,
            Err(error) => {
                self.broken.get_or_init(|| {
                    format!("the workload failed before, at request {}: {error}", self.count)
                });
                self.requests.failure.report(&error);
            }
        }
        self.count += 1;
    }
}

impl Workload for Iterated {
    fn next_arrival(&self) -> Option<SimTime> {
        self.next.as_ref().map(|arrival| arrival.at)
    }

    fn take(&mut self) -> Arrival {
        let due = self.next.clone().expect("an arrival is due");
        self.pull();
        due
    }

    fn observe_end(&mut self, _: SimTime, _: RequestId, _: bool) {}
}
