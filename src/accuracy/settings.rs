//! The file that says what measurements are compared with, and how.

use super::AccuracyError;
use crate::catalogue;
use crate::engine::model::Dtype;
use crate::settings::{Invalid, line_of};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// What `sim accuracy` compares: see `experiments/accuracy.toml`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccuracySettings {
    /// The library of GPUs, networks, efficiencies and engines.
    pub models: PathBuf,
    /// CSV of measured steps.
    pub steps: PathBuf,
    /// CSV of serving runs.
    pub runs: PathBuf,
    /// CSV of serving runs of mixtures of experts, if any.
    pub further_runs: Option<PathBuf>,
    /// CSV of serving runs of workers with ranks, if any.
    pub rank_runs: Option<PathBuf>,
    /// Experiments with published results, if any.
    #[serde(default)]
    pub experiments: Vec<Published>,
    /// The page that is written, Markdown.
    pub page: PathBuf,
    /// The page of gains, if any experiment has some.
    pub gains: Option<GainFiles>,
    /// The errors on it, CSV.
    pub record: PathBuf,
    /// What the measurements call the parts of that library.
    pub names: Names,
    /// What is not recorded of the serving runs.
    pub assumed: Assumed,
    /// Why some of them are far from their replays.
    #[serde(default)]
    pub explained: Vec<Explained>,
}

/// Why some serving runs are far from their replays. Of several that hold of a run the first
/// counts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explained {
    /// Parts of the names of these runs, as the page of accuracy has them.
    pub runs: Vec<String>,
    /// The reason.
    pub why: String,
}

impl Explained {
    /// Whether it is about the run of this name.
    pub(super) fn holds_of(&self, name: &str) -> bool {
        self.runs.iter().all(|part| name.contains(part.as_str()))
    }
}

/// Where the page of gains is written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainFiles {
    /// Markdown.
    pub page: PathBuf,
    /// SVG.
    pub figure: PathBuf,
    /// The figure as seen from the page.
    pub shown_as: String,
}

/// What is compared of a publication, and what it is worth.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainSettings {
    /// The policy whose gain it is.
    pub of: String,
    /// The one that it is compared with.
    pub over: String,
    /// How far repeats of the publication lie apart, as a share. 0.05 unless given.
    #[serde(default = "five_percent")]
    pub scatter: f64,
    /// What was fitted to these results: a word for a table.
    pub fitted: String,
    /// What has to be said of the table.
    pub note: String,
}

impl GainSettings {
    /// Whether the model was fitted to the results of this series, by the words of
    /// `fitted`: `nothing`, `.. to the baseline` or `.. to both arms`. A choice, by which no
    /// number was fitted, does not count.
    pub fn is_fitted(&self, series: &str) -> bool {
        match self.fitted.rsplit_once(" to ") {
            Some((_, "the baseline")) => series == self.over,
            Some(_) => true,
            None => false,
        }
    }
}

fn five_percent() -> f64 {
    0.05
}

/// A prediction, or another stored run, as it was made, in place of a run: for traces that do
/// not come with every copy.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The `summary.json` of its run.
    pub summary: PathBuf,
    /// The published results, CSV.
    pub published: PathBuf,
    /// Whether they were known when it was made. False unless given.
    #[serde(default)]
    pub known: bool,
}

/// An experiment that is held against published results.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The experiment's file.
    pub file: PathBuf,
    /// What was fitted to those results and what was not.
    pub note: String,
    /// The policies whose gain is compared, if any is.
    pub gain: Option<GainSettings>,
    /// What was predicted before, in place of a run.
    pub prediction: Option<Prediction>,
}

/// Names in measurements, and the files of the library that they stand for.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Of GPUs: files of `gpus/` without their ending.
    pub gpu: BTreeMap<String, String>,
    /// Of networks: files of `shapes/`, with their ending.
    pub model: BTreeMap<String, String>,
}

/// What is not recorded of serving runs: one value for all of an engine's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assumed {
    /// Requests of a run, as a multiple of its concurrency.
    pub requests_per_client: u32,
    /// Shortest length of a run with jittered lengths, as a share of the longest.
    pub shortest_ratio: f64,
    /// Number format of the KV cache, by engine, or by engine and GPU of the
    /// library (`"vllm h200"`), which goes first.
    pub kv_dtype: BTreeMap<String, KvDtype>,
    /// Seed of the lengths.
    pub seed: u64,
}

/// Number format of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvDtype {
    /// 16 bit, whatever the weights are.
    Bf16,
    /// 8 bit.
    Fp8,
    /// 8 bit, unless the weights have 16.
    Weights,
}

impl Assumed {
    /// The number format of an engine's KV cache on a GPU of the library.
    pub(super) fn kv_dtype(&self, engine: &str, gpu: &str, weights: Dtype) -> Option<Dtype> {
        let both = self.kv_dtype.get(&format!("{engine} {gpu}"));
        Some(match both.or_else(|| self.kv_dtype.get(engine))? {
            KvDtype::Bf16 => Dtype::Bf16,
            KvDtype::Fp8 => Dtype::Fp8,
            KvDtype::Weights if weights == Dtype::Bf16 => Dtype::Bf16,
            KvDtype::Weights => Dtype::Fp8,
        })
    }
}

impl AccuracySettings {
    /// Reads the file; paths in it are relative to it.
    ///
    /// # Errors
    /// If it cannot be read, is not the TOML expected, or has a value that will not do.
    pub fn load(path: &Path) -> Result<Self, AccuracyError> {
        let text = catalogue::read_text(path)
            .map_err(|source| AccuracyError::Io { path: path.to_path_buf(), source })?;
        let mut settings: Self = toml::from_str(&text).map_err(|error| AccuracyError::Toml {
            path: path.to_path_buf(),
            line: line_of(&text, error.span().map_or(0, |span| span.start)),
            problem: error.message().to_owned(),
        })?;
        settings
            .validate()
            .map_err(|invalid| AccuracyError::Value { path: path.to_path_buf(), invalid })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let Self {
            models,
            steps,
            runs,
            further_runs,
            rank_runs,
            page,
            gains,
            record,
            experiments,
            ..
        } = &mut settings;
        let experiments =
            experiments.iter_mut().flat_map(|Published { file, prediction, .. }| {
                let kept = prediction.iter_mut().flat_map(|p| [&mut p.summary, &mut p.published]);
                [file].into_iter().chain(kept)
            });
        let gains = gains.iter_mut().flat_map(|gains| [&mut gains.page, &mut gains.figure]);
        let further = further_runs.iter_mut().chain(rank_runs).chain(experiments).chain(gains);
        for named in [models, steps, runs, page, record].into_iter().chain(further) {
            *named = joined(folder, named);
        }
        Ok(settings)
    }

    fn validate(&self) -> Result<(), Invalid> {
        let Assumed { requests_per_client, shortest_ratio, .. } = self.assumed;
        Invalid::unless(
            (1..=10_000).contains(&requests_per_client),
            "assumed.requests_per_client",
            requests_per_client,
            "from 1 to 10000",
        )?;
        Invalid::unless(
            shortest_ratio > 0.0 && shortest_ratio <= 1.0,
            "assumed.shortest_ratio",
            shortest_ratio,
            "above 0 and at most 1",
        )
    }
}

/// `path` as seen from `folder`, without detours through folders that it leaves again.
fn joined(folder: &Path, path: &Path) -> PathBuf {
    let mut joined = PathBuf::new();
    for part in folder.join(path).components() {
        let leaves = part == Component::ParentDir;
        if leaves && matches!(joined.components().next_back(), Some(Component::Normal(_))) {
            joined.pop();
        } else {
            joined.push(part);
        }
    }
    joined
}
