//! The page of all comparisons: what is on it, in which order, and the words.

use super::Assumed;
use super::comparison::{Accuracy, STEP_KINDS, StepErrors};
use super::data::Ttft;
use super::deployments::{Replay, RunErrors};
use super::errors::{Errors, percent};
use super::further_runs::{FurtherErrors, FurtherRuns};
use super::gains::GainPage;
use super::markdown::{Table, shown, signed};
use super::outliers::{LISTED, Outlier};
use super::published::PublishedErrors;
use crate::metrics;
use std::fmt::Write;

/// What the comparison of further runs is.
const FURTHER_RUNS: &str = "\
Runs of `measured/serving-further.csv.gz`: gpt-oss, Qwen3-235B, DeepSeek, Kimi, MiniMax and GLM-5 on H100, \
H200 and B200, and Llama-3.1-70B FP8 on B200. *Composed*: a step in which all decode, and for each answer once what a prompt adds to a \
step, of the measured operators alone ([step-time.md](step-time.md#operators)): no host time, no pool, \
nothing fitted. *Replayed*: as above, with the rules, limits and pool of the engine. Fitted to every \
other run of each deployment: three numbers of vLLM's, none of TensorRT-LLM's \
(`[operators]` in `models/engines/`). Step times are of vLLM 0.24.0 and TensorRT-LLM 1.3.0rc20; most runs are older.\n\n\
Listed apart, because the operators do not explain these runs: Qwen3-235B FP8 under vLLM 0.12.0 on H200 takes \
twice the sum of its operators at any load, and less the more GPUs share the experts. Slow expert kernels would \
look like this; that version's kernels with one scale are slow as well.\n\n\
Further deployments more than 15 % off, and why: DeepSeek-R1 under TensorRT-LLM 1.1.0rc2 on eight B200 with experts divided \
(2.5 to 3.5 ms a step more than the operators, at any load; on H200 1 to 2 ms: kernels or waiting of a release that had \
just begun to support experts divided this way); runs without a version in their name (of older dumps of the \
source, whose runs of the same deployment with a version are 2 to 7 % off); three runs of gpt-oss under TensorRT-LLM \
1.3.0rc1 on H100, which contradict each other (47.3 and 47.6 ms on four GPUs at 160 and 320 clients). Single runs: below.\n\n\
Times to the first token are short by 40 % for most: prompts ran eagerly, under older kernels, and clients count what \
servers and networks add; nothing was fitted to them.";

/// What the comparison of runs with ranks is.
const RANK_RUNS: &str = "\
Runs of `measured/serving-ranks.csv`, with attention data parallelism: composed and replayed as the further runs, \
nothing fitted to them. Composed steps have the prompts of all ranks in the same steps. Replays have them when the \
engine would: TensorRT-LLM's ranks wait for each other as InferenceMAX's public scripts for these networks, GPUs and \
loads have it (`attention_dp_config` in `models/engines/trtllm-1.3.toml`; assumed of these runs). Qwen3-235B FP8 under \
vLLM 0.12.0 takes twice the sum of its operators with ranks as without.";

/// What stands above the tables of gains.
const GAINS: &str = "\
# Gains

What KV-aware routing wins, load by load: predicted beside published. Made by `sim accuracy --write`; \
`docs/accuracy.csv` has the mean errors for `sim accuracy --check`, which fails when one has grown.

*Gain*: the baseline's time over the policy's, or the policy's throughput over the baseline's; above 1 the policy \
is ahead. *Error*: predicted over published gain, minus 1. *Scatter*: how far repeats of a publication lie apart \
where there are some, else 5 % (assumed). *Knee*: the first level whose time to the first token (mean, or median \
where no mean is published) is more than twice that of the lowest level. What counts: throughput from the \
baseline's knee on, times to the first token below it (mean and 90th percentile, or what is published of them); \
of a publication of a single load both. Cells that contradict their own table do not count, and no knee that \
rests on such cells is judged. The aim is a mean absolute error of 15 %, or the scatter where that is more.";

impl Accuracy {
    /// All comparisons as a page of Markdown; `assumed` is what they rest on.
    pub fn page(&self, assumed: &Assumed) -> String {
        let mut page = Page::default();
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
        self.published.iter().for_each(|published| page.published(published));
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
        page.steps(&self.steps);
        page.say("## Serving runs");
        page.say(&format!(
            "Each run of `measured/serving.csv.gz` replayed: one worker, a closed loop at the run's \
             concurrency, {} requests per client, lengths drawn from {} of the longest up where \
             the source's are, else fixed. Fitted to these runs: the host time of vLLM (two \
             numbers in `models/engines/vllm.toml`), on every other run of each deployment in \
             the order of the source, so that both halves have light and heavy loads. Everything \
             else is predicted from steps, data sheets and assumptions that hold for an engine \
             (`models/engines/`, `experiments/accuracy.toml`). Not counted: times to the first \
             token that the source's notes call contaminated, and those of fixed lengths.\n\n\
             Requests of fixed lengths that begin together would end together for ever, and their \
             prompts share steps; those runs show that prompts mostly had a step to \
             themselves. So there the clients begin one after another over the time of an answer, and \
             that time is not counted. Times to the first token depend on how many do meet: with all clients at \
             once they come out 10 to 30 % too long, with none 70 to 80 % too short, so they say nothing \
             of the model.\n\n\
             Host times of TensorRT-LLM are not fitted: overlap hides them, and these runs do \
             not determine them. Qwen3-32B FP8 has its weights in blocks, as its publisher \
             has them and its prompts show ([step-time.md](step-time.md#operators)).",
            assumed.requests_per_client, assumed.shortest_ratio,
        ));
        page.runs(&self.run_errors);
        page.outliers(&self.outliers);
        if let Some(further) = &self.further {
            page.say("## Further serving runs");
            page.say(FURTHER_RUNS);
            page.further_runs(further);
        }
        if let Some(ranks) = &self.ranks {
            page.say("## Serving runs with ranks");
            page.say(RANK_RUNS);
            page.rank_runs(ranks);
        }
        page.say("## Every serving run");
        page.say("Prompt / output tokens x concurrency.");
        page.each_run(&self.runs);
        page.0
    }

    /// What policies win over others, predicted beside published, as a page of Markdown
    /// that shows its figure as `figure`.
    pub fn gains_page(&self, figure: &str) -> String {
        let gains = self.published.iter().filter_map(|published| published.gains.as_ref());
        let head =
            format!("{GAINS}\n\n![Predicted against published gain of every load.]({figure})");
        GainPage(gains.collect()).text(&head)
    }
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn say(&mut self, paragraph: &str) {
        let _ = writeln!(self.0, "{paragraph}\n");
    }

    fn add(&mut self, table: &Table) {
        self.0.push_str(&table.markdown());
    }

    /// A row per metric and series, a column per value on the axis.
    fn published(&mut self, published: &PublishedErrors) {
        let PublishedErrors { experiment, seeds, kept_known, note, axis, xs, rows, .. } = published;
        let how = match (kept_known, seeds) {
            (Some(false), _) => "as predicted before its results were looked at".to_owned(),
            (Some(true), _) => {
                "a stored run, because its trace does not come with every copy".to_owned()
            }
            (None, 1) => "one seed".to_owned(),
            (None, seeds) => format!("mean of {seeds} seeds"),
        };
        self.say(&format!("### {experiment} ({how})\n\n{note}"));
        let levels = xs.iter().map(|x| format!("{axis} {x}").trim_start().to_owned());
        let head = ["metric", "policy"].map(str::to_owned).into_iter().chain(levels);
        let mut table = Table::new(head.chain(["mean", "cells"].map(str::to_owned)));
        for row in rows {
            let cell = |cell: &Option<(f64, bool)>| {
                let text =
                    |(error, counts)| metrics::signed(error) + if counts { "" } else { "\\*" };
                cell.map_or(String::new(), text)
            };
            let mut cells = vec![row.metric.clone(), row.series.clone()];
            cells.extend(row.cells.iter().map(cell));
            cells.push(shown(row.mean.as_ref().map(|mean| mean.mean_abs_error)));
            cells.push(row.mean.as_ref().map_or(0, |mean| mean.cells).to_string());
            table.row(cells);
        }
        self.add(&table);
    }

    /// Steps: median and 95th percentile per deployment and kind.
    fn steps(&mut self, steps: &[StepErrors]) {
        let head = ["deployment"].into_iter().chain(STEP_KINDS.map(|(.., kind)| kind));
        let mut table = Table::new(head.map(str::to_owned));
        for StepErrors { deployment, by_kind } in steps {
            let cell = |errors: &Errors| match (errors.quantile(0.5), errors.quantile(0.95)) {
                (Some(median), Some(p95)) => format!("{median:.1} / {p95:.1} ({})", errors.count()),
                _ => String::new(),
            };
            let cells = by_kind.iter().map(cell);
            table.row([deployment.clone()].into_iter().chain(cells).collect());
        }
        self.add(&table);
    }

    /// Serving runs: time per output token and time to first token per deployment.
    fn runs(&mut self, deployments: &[RunErrors]) {
        let head = [
            "deployment",
            "TPOT: runs",
            "error %",
            "bias %",
            "worst %",
            "fitted half %",
            "other half %",
            "TTFT: runs",
            "error %",
            "bias %",
        ];
        let mut table = Table::new(head.map(str::to_owned));
        for errors in deployments {
            let mut cells = vec![errors.name.clone(), errors.tpot.count().to_string()];
            cells.extend(tpot(errors));
            cells.push(errors.ttft.count().to_string());
            cells.extend(mean_and_bias(&errors.ttft));
            table.row(cells);
        }
        self.add(&table);
    }

    fn further_runs(&mut self, further: &FurtherRuns) {
        let head = [
            "deployment",
            "runs",
            "composed %",
            "bias %",
            "replayed %",
            "bias %",
            "worst %",
            "fitted half %",
            "other half %",
            "TTFT %",
            "bias %",
        ];
        let mut table = Table::new(head.map(str::to_owned));
        for FurtherErrors { composed, replayed } in &further.replayed {
            let mut cells = vec![replayed.name.clone(), replayed.tpot.count().to_string()];
            cells.extend(mean_and_bias(composed));
            cells.extend(tpot(replayed));
            cells.extend(mean_and_bias(&replayed.ttft));
            table.row(cells);
        }
        self.add(&table);
        self.say(
            "SGLang's runs, by composed steps alone, since its rules are not simulated; nothing is \
             fitted:",
        );
        let head = ["deployment", "runs", "composed %", "bias %"];
        let mut table = Table::new(head.map(str::to_owned));
        for (deployment, errors) in &further.composed {
            let mut cells = vec![deployment.clone(), errors.count().to_string()];
            cells.extend(mean_and_bias(errors));
            table.row(cells);
        }
        self.add(&table);
        self.outliers(&further.outliers);
    }

    /// Runs that are far off, one by one.
    fn outliers(&mut self, outliers: &[Outlier]) {
        if outliers.is_empty() {
            return;
        }
        let of = outliers.len();
        let unknown = outliers.iter().filter(|outlier| outlier.why.is_none()).count();
        self.say(&format!(
            "Runs more than {LISTED} % off, prompt / output tokens x concurrency; what is known or \
             supposed of {} of {of} is in the last column:",
            of - unknown
        ));
        let head = [
            "run",
            "TPOT measured (ms)",
            "replayed",
            "error %",
            "composed %",
            "preemptions",
            "why",
        ];
        let mut table = Table::new(head.map(str::to_owned));
        for outlier in outliers {
            let Outlier { run, predicted, composed_ms, why } = outlier;
            table.row(vec![
                run.to_string(),
                format!("{:.1}", run.tpot_ms),
                format!("{:.1}", predicted.tpot_ms),
                signed(Some(outlier.error(predicted.tpot_ms))),
                signed(composed_ms.map(|ms| outlier.error(ms))),
                format!("{:.0}", predicted.preemptions),
                why.as_deref().unwrap_or("not known").to_owned(),
            ]);
        }
        self.add(&table);
    }

    /// Errors by deployment; nothing was fitted, so there are no halves.
    fn rank_runs(&mut self, ranks: &FurtherRuns) {
        let head =
            ["deployment", "runs", "composed %", "bias %", "replayed %", "bias %", "worst %"];
        let mut table = Table::new(head.map(str::to_owned));
        for FurtherErrors { composed, replayed } in &ranks.replayed {
            let mut cells = vec![replayed.name.clone(), replayed.tpot.count().to_string()];
            cells.extend(mean_and_bias(composed));
            cells.extend(tpot(replayed).take(3));
            table.row(cells);
        }
        self.add(&table);
        self.outliers(&ranks.outliers);
    }

    /// Every serving run on a line.
    fn each_run(&mut self, runs: &[Replay]) {
        let head = [
            "run",
            "TPOT measured (ms)",
            "simulated",
            "error %",
            "TTFT measured (ms)",
            "simulated",
            "error %",
            "preemptions",
        ];
        let mut table = Table::new(head.map(str::to_owned));
        for Replay { run, predicted, .. } in runs {
            let error = |predicted: f64, measured: f64| signed(Some(percent(predicted, measured)));
            table.row(vec![
                run.to_string(),
                format!("{:.1}", run.tpot_ms),
                format!("{:.1}", predicted.tpot_ms),
                error(predicted.tpot_ms, run.tpot_ms),
                format!("{:.0}", run.ttft_ms),
                format!("{:.0}", predicted.ttft_ms),
                match run.ttft {
                    Ttft::Suspect | Ttft::Waves => "not counted".to_owned(),
                    Ttft::Good => error(predicted.ttft_ms, run.ttft_ms),
                },
                format!("{:.0}", predicted.preemptions),
            ]);
        }
        self.add(&table);
    }
}

fn mean_and_bias(errors: &Errors) -> [String; 2] {
    [shown(errors.mean()), signed(errors.bias())]
}

/// Mean and bias of the time per output token, the worst run, and the means of both halves.
fn tpot(errors: &RunErrors) -> impl Iterator<Item = String> {
    let [mean, bias] = mean_and_bias(&errors.tpot);
    let rest = [errors.tpot.quantile(1.0), errors.fitted.mean(), errors.other.mean()].map(shown);
    [mean, bias].into_iter().chain(rest)
}
