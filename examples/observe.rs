//! Steps a simulation second by second with an observer that counts where requests go and
//! how much of their prompts is found in the caches there.
//!
//!     cargo run --release --example observe

use kv_router_sim::{
    Experiment, Happening, LoadOptions, Observer, SimDuration, SimTime, WorkerEventKind,
};
use std::cell::RefCell;
use std::error::Error;
use std::rc::Rc;

/// What each worker was sent, and found in its cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) requests: u32,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

/// Shared with the program that looks at it between steps.
struct Tally(Rc<RefCell<Vec<Worker>>>);

impl Observer for Tally {
    fn hear(&mut self, _: SimTime, happening: &Happening<'_>) {
        let mut workers = self.0.borrow_mut();
        match happening {
            Happening::Dispatch { request, worker } => {
                let worker = &mut workers[worker.index()];
                worker.requests += 1;
                worker.prompt_tokens += u64::from(request.prompt_tokens);
            }
            Happening::Worker(event) => {
                if let WorkerEventKind::Scheduled { cached_tokens } = event.kind {
                    workers[event.worker.index()].cached_tokens += u64::from(cached_tokens);
                }
            }
            _ => {}
        }
    }
}

/// The tally after each of `seconds` seconds.
pub(crate) fn watch(policy: &str, seconds: u64) -> Result<Vec<Vec<Worker>>, Box<dyn Error>> {
    let policy = format!("router.policy={policy}");
    let options = LoadOptions::default().set(policy).set("workload.concurrency=60");
    let experiment = Experiment::load("doks-3xh200".as_ref(), &options)?;
    let mut simulation = experiment.runs[0].simulation(1);
    let workers = simulation.snapshot().workers.len();
    let tally = Rc::new(RefCell::new(vec![Worker::default(); workers]));
    simulation.observe(Tally(Rc::clone(&tally)));
    let mut history = Vec::new();
    for second in 1..=seconds {
        simulation.advance(SimTime::ZERO + SimDuration::from_secs(second))?;
        history.push(tally.borrow().clone());
    }
    Ok(history)
}

#[allow(dead_code, clippy::print_stdout, reason = "tests call `watch`")]
fn main() -> Result<(), Box<dyn Error>> {
    for policy in ["round_robin", "kv"] {
        let history = watch(policy, 60)?;
        for second in [10, 60] {
            let of = |worker: &Worker| {
                let percent = 100 * worker.cached_tokens / worker.prompt_tokens.max(1);
                format!("{} requests, {percent} % of their prompts cached", worker.requests)
            };
            let workers: Vec<String> = history[second - 1].iter().map(of).collect();
            println!("{policy}, after {second} s: {}", workers.join("; "));
        }
    }
    Ok(())
}
