//! The page of all comparisons: what is on it, in which order, and the words.
//! A further comparison is a method of [`Page`] that adds its table and its
//! errors, and a section here.

use super::data::{read_runs, read_steps};
use super::report::Page;
use super::runs::Replays;
use super::steps::Steps;
use super::{AccuracyError, AccuracySettings};

/// What the comparison of further runs is.
const FURTHER_RUNS: &str = "\
Runs of `measured/serving-further.csv`: gpt-oss, Qwen3-235B, DeepSeek, Kimi, MiniMax and GLM-5 on H100, \
H200 and B200, and Llama-3.1-70B FP8 on B200. *Composed*: a step in which all decode, and for each answer once what a prompt adds to a \
step, of the measured operators alone ([step-time.md](step-time.md#operators)): no host time, no pool, \
nothing fitted. *Replayed*: as above, with the rules, limits and pool of the engine. Fitted to every \
other run of each deployment: three numbers of vLLM's, none of TensorRT-LLM's \
(`[operators]` in `models/engines/`). Step times are of vLLM 0.24.0 and TensorRT-LLM 1.3.0rc20; most runs are older.\n\n\
Apart, since the operators do not hold what these runs spend: Qwen3-235B FP8 under vLLM 0.12.0 on H200, twice the \
sum of its operators at any load, and the less the more GPUs share the experts: as slow experts would be, \
as the same version's kernels with one scale are.\n\n\
Further deployments more than 15 % off, and why: DeepSeek-R1 under TensorRT-LLM 1.1.0rc2 on eight B200 with experts divided \
(2.5 to 3.5 ms a step more than the operators, at any load; on H200 1 to 2 ms: kernels or waiting of a release that had \
just begun to support the GPU); runs without a version in their name (of older dumps of the source, whose runs of the same \
deployment with a version are 2 to 7 % off); three runs of gpt-oss under TensorRT-LLM 1.3.0rc1 on H100, which contradict \
each other (47.3 and 47.6 ms on four GPUs at 160 and 320 clients). Single runs: below.\n\n\
Times to the first token are short by 40 % for most: prompts ran eagerly, under older kernels, and clients count what \
servers and networks add; nothing was fitted to them.";

impl Page {
    /// Makes every comparison that `settings` names.
    ///
    /// # Errors
    /// If measurements cannot be read, or a run cannot be replayed.
    pub fn new(settings: &AccuracySettings) -> Result<Self, AccuracyError> {
        let mut page = Self::default();
        page.say("# Accuracy");
        page.say(
            "Made by `sim accuracy --write`; `docs/accuracy.csv` has the same errors for \
             `sim accuracy --check`. Errors are absolute and in percent of what was measured, \
             unless a column says otherwise; bias is the mean with its sign. The data and what \
             they are worth: `measured/README.md`.",
        );
        page.say("## Published deployments");
        page.say(
            "Experiments beside what was published of the same deployment: error of every cell in \
             percent, of hit ratios in percentage points; \\* marks cells that are not counted, \
             for the reasons in the experiment's file.",
        );
        for published in &settings.experiments {
            page.experiment(published)?;
        }
        page.say("## Single steps");
        page.say(
            "The formula of [step-time.md](step-time.md) against step times composed of operator \
             tables (AIConfigurator 0.12.0): median / 95th percentile (steps). *Measured* steps \
             are those whose matrix products and attention were measured as they are; *composed* \
             ones have FP8 products estimated from another kind, or attention over a cached \
             prefix computed by the source; no mixed step was measured. The formula's \
             parameters, one set per GPU and engine, were fitted to all these steps \
             (`sim calibrate`), so this is the error of a fit.",
        );
        page.steps(&Steps::new(read_steps(&settings.steps, &settings.names)?, &settings.models)?);
        page.say("## Serving runs");
        page.say(&format!(
            "Each run of `measured/serving.csv` replayed: one worker, a closed loop at the run's \
             concurrency, {} requests per client, lengths drawn from {} of the longest up where \
             the source's are, else fixed. Fitted to these runs: the host time of vLLM (two \
             numbers in `models/engines/vllm.toml`), on every other run of each deployment in \
             the order of the source, so that both halves have light and heavy loads. Everything \
             else is predicted from steps, data sheets and assumptions that hold for an engine \
             (`models/engines/`, `experiments/accuracy.toml`). Not counted: times to the first \
             token that the source's notes call contaminated. Those of runs with a version in \
             their name depend on when requests arrived, which was not recorded.\n\n\
             Host times of TensorRT-LLM are not fitted: overlap hides them, and these runs do \
             not determine them. Its runs of Qwen3-32B FP8 are too fast throughout: their \
             prompts take a quarter longer than products with one scale per tensor would, the only \
             ones in the tables; an older version with a scale per block is the likely reason.",
            settings.assumed.requests_per_client, settings.assumed.shortest_ratio,
        ));
        let runs = read_runs(&settings.runs, &settings.names, &settings.assumed)?;
        let predicted = Replays::new(&runs, &settings.models, &settings.assumed)?.predict_all()?;
        page.runs(&runs, &predicted);
        if let Some(path) = &settings.further_runs {
            page.say("## Further serving runs");
            page.say(FURTHER_RUNS);
            page.further_runs(path, settings)?;
        }
        page.say("## Every serving run");
        page.say("Prompt / output tokens x concurrency.");
        page.each_run(&runs, &predicted);
        Ok(page)
    }
}
