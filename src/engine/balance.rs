//! Ranks that hold prompts back until all have some (T41 of docs/engine-rules.md).
//!
//! Ranks step together, so one rank's prompt delays the tokens of all. If each rank computes
//! a prompt in the same step, all are delayed once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `attention_dp_config` of TensorRT-LLM: whether and for how long ranks wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionDpConfig {
    /// Whether they do. Default false.
    pub enable_balance: bool,
    /// Steps after which prompts are computed though a rank has none. Default 50.
    pub timeout_iters: u32,
    /// Steps that ranks wait once all have prompts, so that more come together. Default 10.
    pub batching_wait_iters: u32,
}

impl Default for AttentionDpConfig {
    fn default() -> Self {
        Self { enable_balance: false, timeout_iters: 50, batching_wait_iters: 10 }
    }
}

/// What a rank would do in the step that is about to be formed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// Prompts that it would compute tokens of.
    pub(super) prompts: u32,
    /// Sequences that decode.
    pub(super) decodes: u32,
}

/// Decides for the ranks of a worker, step by step.
#[derive(Debug)]
pub(super) struct Balancer {
    config: AttentionDpConfig,
    max_num_seqs: u32,
    /// Steps in a row in which not all ranks had prompts, since it let them go last.
    waited: u32,
    /// Steps in a row in which all had, and waited for more.
    batched: u32,
    /// The step that it decided last, and what about.
    step: u64,
    last: Decision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Prompts were computed, or a rank had nothing to decode meanwhile.
    LetGo,
    /// A rank had no prompt, or no place for one; whether others had some.
    Wait { holds: bool },
    /// All had prompts.
    Batch,
}

impl Balancer {
    /// For ranks of up to `max_num_seqs` sequences.
    pub(super) fn new(config: AttentionDpConfig, max_num_seqs: u32) -> Self {
        let last = Decision::LetGo;
        Self { config, max_num_seqs, waited: 0, batched: 0, step: 0, last }
    }

    /// Whether no rank computes prompts in the step with this number, of those counted so
    /// far; between this and the last one decided about, nothing changed.
    pub(super) fn holds_back(&mut self, step: u64, ranks: &[Offer]) -> bool {
        self.pass(step.saturating_sub(self.step + 1));
        self.step = step;
        let all_have_places = ranks.iter().all(|rank| rank.decodes < self.max_num_seqs);
        let all_have_prompts = ranks.iter().all(|rank| rank.prompts > 0);
        let all_decode = ranks.iter().all(|rank| rank.decodes > 0);
        self.last = Decision::LetGo;
        if all_have_places && all_have_prompts {
            self.waited = 0;
            if all_decode && self.batched < self.config.batching_wait_iters {
                self.batched += 1;
                self.last = Decision::Batch;
            } else if all_decode {
                self.batched = 0;
            }
        } else {
            self.waited += 1;
            if !all_decode || self.waited >= self.config.timeout_iters {
                self.waited = 0;
            }
            // Without any prompt the count goes round and round.
            let holds = ranks.iter().any(|rank| rank.prompts > 0);
            if all_decode && (self.waited > 0 || !holds) {
                self.last = Decision::Wait { holds };
            }
        }
        self.last != Decision::LetGo
    }

    /// How many steps after the one decided about last would be decided alike.
    pub(super) fn steps_alike(&self) -> u64 {
        let left = match self.last {
            Decision::LetGo | Decision::Wait { holds: false } => return u64::MAX,
            Decision::Wait { holds: true } => self.config.timeout_iters - 1 - self.waited,
            Decision::Batch => self.config.batching_wait_iters - self.batched,
        };
        u64::from(left)
    }

    /// `steps` went by that were decided like the last one.
    fn pass(&mut self, steps: u64) {
        let narrow = |n: u64| u32::try_from(n).expect("below the limit of a count");
        match self.last {
            Decision::LetGo => {}
            Decision::Wait { .. } => {
                let round = u64::from(self.config.timeout_iters.max(1));
                self.waited = narrow((u64::from(self.waited) + steps) % round);
            }
            Decision::Batch => self.batched += narrow(steps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const IDLE: Offer = Offer { prompts: 0, decodes: 3 };
    const READY: Offer = Offer { prompts: 1, decodes: 3 };

    fn balancer(timeout_iters: u32, batching_wait_iters: u32) -> Balancer {
        let config = AttentionDpConfig { enable_balance: true, timeout_iters, batching_wait_iters };
        Balancer::new(config, 8)
    }

    /// For how many of ten steps prompts are held back.
    fn held(mut balancer: Balancer, ranks: [Offer; 2]) -> usize {
        (0..10).take_while(|step| balancer.holds_back(*step, &ranks)).count()
    }

    #[test]
    fn a_prompt_waits_for_prompts_of_the_other_ranks_and_then_for_no_longer() {
        assert_eq!(held(balancer(4, 0), [READY, IDLE]), 3);
        assert_eq!(held(balancer(4, 0), [READY, READY]), 0);
        assert_eq!(held(balancer(4, 2), [READY, READY]), 2);
        // A rank without anything to do waits for nothing, one without a place lets none go.
        assert_eq!(held(balancer(4, 2), [READY, Offer { prompts: 0, decodes: 0 }]), 0);
        assert_eq!(held(balancer(4, 0), [READY, Offer { prompts: 1, decodes: 8 }]), 3);
    }

    proptest! {
        /// Steps that are passed over are decided as they would be one by one.
        #[test]
        fn passing_steps_over_changes_nothing(
            limits in (0u32..6, 0u32..4),
            course in prop::collection::vec(
                (prop::collection::vec((0u32..2, 0u32..3), 2), 1u64..9), 1..12,
            ),
        ) {
            let (mut jumping, mut stepping) =
                (balancer(limits.0, limits.1), balancer(limits.0, limits.1));
            let mut step = 0;
            for (ranks, steps) in course {
                let offer = |&(prompts, decodes): &(u32, u32)| Offer { prompts, decodes };
                let ranks: Vec<Offer> = ranks.iter().map(offer).collect();
                let has_prompts = ranks.iter().any(|rank| rank.prompts > 0);
                let holds = jumping.holds_back(step, &ranks);
                prop_assert_eq!(holds, stepping.holds_back(step, &ranks));
                // A step with prompts is not followed unseen.
                let computes = has_prompts && !holds;
                let alike = if computes { 0 } else { jumping.steps_alike().min(steps) };
                for later in step + 1..=step + alike {
                    prop_assert_eq!(stepping.holds_back(later, &ranks) && has_prompts, holds && has_prompts);
                }
                step += alike + 1;
            }
        }
    }
}
