//! Serving runs whose replay is far off, and why, as far as that is known.

use super::data::ServingRun;
use super::deployments::Replay;
use super::errors::percent;
use super::runs::Predicted;
use super::settings::Explained;

/// Errors above this are listed one by one, percent.
pub(super) const LISTED: f64 = 15.0;

/// A run whose time per output token is more than [`LISTED`] off.
#[derive(Clone, Debug)]
pub(super) struct Outlier {
    pub(super) run: ServingRun,
    pub(super) predicted: Predicted,
    /// By composed steps, nothing fitted.
    pub(super) composed_ms: Option<f64>,
    /// The reason, if one is known.
    pub(super) why: Option<String>,
}

impl Outlier {
    /// Those of `runs`, each with what composed steps give.
    pub(super) fn find<'a>(
        runs: impl Iterator<Item = (&'a Replay, Option<f64>)>,
        explained: &[Explained],
    ) -> Vec<Self> {
        let outlier = |(replay, composed_ms): (&Replay, Option<f64>)| {
            let Replay { run, predicted, .. } = replay;
            let name = run.to_string();
            let why = explained.iter().find(|reason| reason.holds_of(&name));
            let why = why.map(|reason| reason.why.clone());
            Self { run: run.clone(), predicted: *predicted, composed_ms, why }
        };
        runs.map(outlier).filter(|run| run.error(run.predicted.tpot_ms).abs() > LISTED).collect()
    }

    /// The error of a time per output token in this run, percent.
    pub(super) fn error(&self, tpot_ms: f64) -> f64 {
        percent(tpot_ms, self.run.tpot_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accuracy::data::Ttft;
    use crate::engine::model::{Dtype, Parts};

    #[test]
    fn what_is_far_off_has_the_first_reason_that_holds_of_it() {
        let run = |concurrency, tpot_ms| ServingRun {
            parts: Parts {
                gpu: "h100".to_owned(),
                engine: "vllm".to_owned(),
                shape: "llama-3.1-8b.toml".to_owned(),
                tp: 1,
                attention_dp: 1,
                ep: 1,
                weight_dtype: Dtype::Bf16,
                kv_dtype: Dtype::Bf16,
            },
            engine: "vllm".to_owned(),
            version: "0.12.0".to_owned(),
            concurrency,
            prompt_tokens: 1_024,
            output_tokens: 128,
            jittered: false,
            ttft_ms: 100.0,
            ttft: Ttft::Good,
            tpot_ms,
        };
        let predicted = Predicted { ttft_ms: 100.0, tpot_ms: 10.0, preemptions: 0.0 };
        let replay = |run| Replay { run, predicted, is_fitted: false };
        let replays =
            [(8, 8.0), (16, 9.0), (32, 12.5)].map(|(clients, ms)| replay(run(clients, ms)));
        let reason = |runs: &[&str], why: &str| Explained {
            runs: runs.iter().map(|&part| part.to_owned()).collect(),
            why: why.to_owned(),
        };
        let explained = [
            reason(&["llama", "h200"], "another GPU"),
            reason(&["llama", "0.12.0", "1024/128 x 8"], "slow"),
            reason(&["x 8"], "too late"),
        ];
        let found = Outlier::find(replays.iter().map(|replay| (replay, None)), &explained);
        let why: Vec<_> =
            found.iter().map(|run| (run.run.concurrency, run.why.as_deref())).collect();
        assert_eq!(why, [(8, Some("slow")), (32, None)]);
    }
}
