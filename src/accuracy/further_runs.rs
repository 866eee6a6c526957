//! Serving runs beyond those that host times were fitted to first: composed steps, and replays.

use super::composed::Composer;
use super::data::{ServingRun, Ttft};
use super::errors::Errors;
use super::report::{Page, Table, halves, shown, signed};
use super::runs::{Predicted, Replays};
use super::{AccuracyError, AccuracySettings};
use std::collections::BTreeSet;
use std::path::Path;

/// Errors above this are listed one by one, percent.
const LISTED: f64 = 15.0;

/// A run with what is predicted of it.
struct Row<'a> {
    run: &'a ServingRun,
    /// By composed steps, nothing fitted.
    composed_ms: Option<f64>,
    /// By a replay, where the engine's rules are simulated.
    replayed: Option<Predicted>,
    is_fitted: bool,
}

impl Page {
    /// Compares the runs of `path`.
    ///
    /// # Errors
    /// A row that cannot be used, or a run that cannot be replayed.
    pub(super) fn further_runs(
        &mut self,
        path: &Path,
        settings: &AccuracySettings,
    ) -> Result<(), AccuracyError> {
        let AccuracySettings { models, names, assumed, .. } = settings;
        let runs = super::data::read_runs(path, names, assumed)?;
        let known: Vec<ServingRun> =
            runs.iter().filter(|run| run.is_simulated()).cloned().collect();
        let mut replayed = Replays::new(&known, models, assumed)?.predict_all()?.into_iter();
        let fitted = halves(&runs);
        let mut composer = Composer::new(models, assumed);
        let mut rows = Vec::with_capacity(runs.len());
        for (run, is_fitted) in runs.iter().zip(fitted) {
            let composed_ms = composer.tpot_ms(run)?;
            let replayed = if run.is_simulated() { replayed.next() } else { None };
            rows.push(Row { run, composed_ms, replayed, is_fitted });
        }
        self.further_replays(&rows);
        self.say(
            "SGLang's runs, by composed steps alone, since its rules are not simulated; nothing is \
             fitted:",
        );
        self.composed_runs(&rows);
        self.say(&format!("Runs more than {LISTED} % off, prompt / output tokens x concurrency:"));
        self.outliers(&rows);
        Ok(())
    }

    fn further_replays(&mut self, rows: &[Row<'_>]) {
        let mut table = Table::new(
            [
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
            ]
            .map(str::to_owned),
        );
        let simulated = || rows.iter().filter(|row| row.replayed.is_some());
        let names: BTreeSet<String> = simulated().map(|row| row.run.deployment()).collect();
        let is_slow = |name: &str| name.starts_with("qwen3-235b") && name.ends_with("vllm 0.12.0");
        for name in names.iter().map(Some).chain([None]) {
            let of = |row: &&Row<'_>| {
                let own = row.run.deployment();
                name.map_or_else(|| !is_slow(&own), |name| *name == own)
            };
            let title = name.map_or("all but Qwen3-235B under vLLM 0.12", String::as_str);
            let replayed = |half: Option<bool>| -> Errors {
                let wanted = simulated().filter(of);
                let wanted = wanted.filter(|row| half.is_none_or(|half| half == row.is_fitted));
                Errors::of(wanted.filter_map(|row| Some((row.replayed?.tpot_ms, row.run.tpot_ms))))
            };
            let composed = Errors::of(
                simulated().filter(of).filter_map(|row| Some((row.composed_ms?, row.run.tpot_ms))),
            );
            let ttft = simulated().filter(of).filter(|row| row.run.ttft == Ttft::Good);
            let ttft =
                Errors::of(ttft.filter_map(|row| Some((row.replayed?.ttft_ms, row.run.ttft_ms))));
            let (every, other) = (replayed(None), replayed(Some(false)));
            self.record.add(&format!("composed, {title}"), &composed);
            self.record.add(&format!("run, {title}, TPOT"), &every);
            self.record.add(&format!("run, {title}, TPOT, other half"), &other);
            table.row(vec![
                title.to_owned(),
                every.count().to_string(),
                shown(composed.mean()),
                signed(composed.bias()),
                shown(every.mean()),
                signed(every.bias()),
                shown(every.quantile(1.0)),
                shown(replayed(Some(true)).mean()),
                shown(other.mean()),
                shown(ttft.mean()),
                signed(ttft.bias()),
            ]);
        }
        self.text.push_str(&table.markdown());
    }

    fn composed_runs(&mut self, rows: &[Row<'_>]) {
        let mut table =
            Table::new(["deployment", "runs", "composed %", "bias %"].map(str::to_owned));
        let composed = || rows.iter().filter(|row| row.replayed.is_none());
        let names: BTreeSet<String> = composed().map(|row| row.run.deployment()).collect();
        for name in names {
            let of = composed().filter(|row| row.run.deployment() == name);
            let errors = Errors::of(of.filter_map(|row| Some((row.composed_ms?, row.run.tpot_ms))));
            self.record.add(&format!("composed, {name}"), &errors);
            table.row(vec![
                name,
                errors.count().to_string(),
                shown(errors.mean()),
                signed(errors.bias()),
            ]);
        }
        self.text.push_str(&table.markdown());
    }

    fn outliers(&mut self, rows: &[Row<'_>]) {
        let head =
            ["run", "TPOT measured (ms)", "replayed", "error %", "composed %", "preemptions"];
        let mut table = Table::new(head.map(str::to_owned));
        for Row { run, composed_ms, replayed, .. } in rows {
            let Some(replayed) = replayed else { continue };
            let error = |predicted: f64| Errors::of([(predicted, run.tpot_ms)]).bias();
            if error(replayed.tpot_ms).is_none_or(|error| error.abs() <= LISTED) {
                continue;
            }
            table.row(vec![
                run.to_string(),
                format!("{:.1}", run.tpot_ms),
                format!("{:.1}", replayed.tpot_ms),
                signed(error(replayed.tpot_ms)),
                signed(composed_ms.and_then(error)),
                format!("{:.0}", replayed.preemptions),
            ]);
        }
        self.text.push_str(&table.markdown());
    }
}
