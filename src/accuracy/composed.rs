//! Times per output token from two steps: what a run shows if its clients neither wait
//! nor come in waves.
//!
//! Of `B` clients in a closed loop each adds its prompt to the steps of the others once per
//! answer: a token takes a step in which all decode, and `(B - 1) / answer` times what a
//! prompt adds to a step. Where a worker has ranks, `B` are the clients of one of them, and all
//! compute their prompts in the same steps. Nothing of an engine's rules, its pool or its host is in it, so
//! it shows what step times are worth by themselves, and does for engines whose rules are
//! not simulated.

use super::data::ServingRun;
use super::{AccuracyError, Assumed};
use crate::engine::kernels::Kernels;
use crate::engine::model::{Model, Parts};
use crate::engine::operators::Beside;
use crate::engine::step_time::{PrefillChunk, StepTime, StepWork};
use std::collections::BTreeMap;
use std::path::Path;

/// The step times of deployments, composed as they are needed.
#[derive(Clone, Debug)]
pub struct Composer<'a> {
    models: &'a Path,
    assumed: &'a Assumed,
    /// By parts and the engine whose operators they are; `None` if one was not measured.
    steps: BTreeMap<(Parts, String), Option<StepTime>>,
}

impl<'a> Composer<'a> {
    /// Composes parts of the library `models`.
    pub fn new(models: &'a Path, assumed: &'a Assumed) -> Self {
        Self { models, assumed, steps: BTreeMap::new() }
    }

    /// Milliseconds of an output token by step times alone, without host time and without
    /// anything that was fitted to serving runs; `None` if an operator was not measured.
    ///
    /// # Errors
    /// A part that is not in the library.
    pub fn tpot_ms(&mut self, run: &ServingRun) -> Result<Option<f64>, AccuracyError> {
        let key = (run.parts.clone(), run.engine.clone());
        if !self.steps.contains_key(&key) {
            let model = Model::compose(self.models, &run.parts)?;
            let hardware = model.hardware.expect("composed of hardware");
            let composed = hardware.composed(&run.engine, &Beside::default(), &Kernels::default());
            let composed = composed.and_then(Result::ok);
            let steps =
                composed.map(|composed| StepTime::Table(Box::new(composed.times.step_time(0))));
            self.steps.insert(key.clone(), steps);
        }
        Ok(self.steps[&key].as_ref().map(|steps| of_steps(steps, run, self.assumed)))
    }
}

fn of_steps(steps: &StepTime, run: &ServingRun, assumed: &Assumed) -> f64 {
    let mean = |longest: u32| {
        let share = if run.jittered { (1.0 + assumed.shortest_ratio) / 2.0 } else { 1.0 };
        f64::from(longest) * share
    };
    let (prompt, answer) = (mean(run.prompt_tokens), mean(run.output_tokens));
    // Those of a rank.
    let seqs = run.concurrency.div_ceil(run.parts.attention_dp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "lengths are at most a million, as reading checks"
    )]
    let (new_tokens, context) =
        (prompt.round() as u32, (f64::from(seqs) * (prompt + answer / 2.0)).round() as u64);
    let chunk = PrefillChunk { new_tokens, cached_tokens: 0, last: true };
    let step = |prefill: &[PrefillChunk]| {
        let work =
            StepWork { prefill, decode_seqs: seqs, decode_context: context, padded_seqs: seqs };
        let tokens = prefill.iter().map(|chunk| chunk.new_tokens).sum::<u32>() + seqs;
        let together = steps.together(tokens * run.parts.attention_dp);
        (steps.step(&work) + together).as_millis()
    };
    let (decode, mixed) = (step(&[]), step(&[chunk]));
    decode + f64::from(seqs - 1) / answer * (mixed - decode)
}
