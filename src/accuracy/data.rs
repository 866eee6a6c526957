//! Measurements as rows: times of steps, and serving runs.
//!
//! The columns are those of the source's own tables, and others are passed over,
//! so that a further extract of the same source can be read as it is.

use super::{AccuracyError, Assumed, Names};
use crate::catalogue;
use crate::engine::model::{Dtype, Parts};
use crate::engine::step_time::{PrefillChunk, StepWork};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::Path;

/// What the tokens of a step are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// One token of each of several sequences.
    Decode,
    /// A piece of a prompt.
    Prefill,
    /// Both.
    Mixed,
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
            Self::Mixed => "mixed",
        })
    }
}

/// The time of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What ran it.
    pub parts: Parts,
    /// What its tokens are.
    pub kind: StepKind,
    /// All operators of weight were measured in this form; otherwise the source
    /// computed some, or added up a step that was never run.
    pub measured: bool,
    chunk: Option<PrefillChunk>,
    decode_seqs: u32,
    decode_context: u64,
    /// Milliseconds.
    pub ms: f64,
    /// Milliseconds of its parts but the element-wise ones, in the order of
    /// [`PARTS`].
    pub parts_ms: [f64; PARTS],
}

/// Parts of a step whose times are known: matrix products, output head,
/// all-reduce, attention of prompts and of decodes.
pub const PARTS: usize = 5;

impl Step {
    /// Its tokens, decodes unpadded.
    pub fn work(&self) -> StepWork<'_> {
        StepWork {
            prefill: self.chunk.as_slice(),
            decode_seqs: self.decode_seqs,
            decode_context: self.decode_context,
            padded_seqs: self.decode_seqs,
        }
    }
}

/// A serving run: one worker under a closed loop of single requests.
#[derive(Clone, Debug, PartialEq)]
pub struct ServingRun {
    /// What served; as its engine, the one whose settings are assumed.
    pub parts: Parts,
    /// The engine that it was.
    pub engine: String,
    /// The engine's version; empty if it is not known.
    pub version: String,
    /// Requests in flight.
    pub concurrency: u32,
    /// Longest prompt.
    pub prompt_tokens: u32,
    /// Longest answer.
    pub output_tokens: u32,
    /// Lengths were drawn, not fixed.
    pub jittered: bool,
    /// Mean time to the first token, ms.
    pub ttft_ms: f64,
    /// What `ttft_ms` is worth.
    pub ttft: Ttft,
    /// Mean over requests of the time per output token after the first, ms.
    pub tpot_ms: f64,
}

/// What the notes of a serving run say of its time to the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttft {
    /// Nothing against it.
    Good,
    /// It depends on when requests arrived, which is not known.
    Waves,
    /// It holds something else too: not to be compared.
    Suspect,
}

impl ServingRun {
    /// Runs with one deployment belong together.
    pub fn deployment(&self) -> String {
        // Settings of another engine stand in where its rules are not simulated.
        let parts = match self.is_simulated() {
            true => self.parts.to_string(),
            false => Parts { engine: self.engine.clone(), ..self.parts.clone() }.to_string(),
        };
        match self.version.as_str() {
            "" => parts,
            version => format!("{parts} {version}"),
        }
    }

    /// The rules of its engine are simulated.
    pub fn is_simulated(&self) -> bool {
        self.parts.engine.starts_with(&self.engine)
    }
}

impl fmt::Display for ServingRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prompt_tokens, output_tokens, concurrency, .. } = self;
        write!(f, "{}, {prompt_tokens}/{output_tokens} x {concurrency}", self.deployment())
    }
}

#[derive(Deserialize)]
struct StepRow {
    system: String,
    backend: String,
    model: String,
    tp: u32,
    gemm_dtype: String,
    kv_dtype: String,
    kind: StepKind,
    new_tokens: u32,
    cached_ctx: u32,
    decode_batch: u32,
    decode_ctx: u32,
    total_ms: f64,
    gemm_ms: f64,
    logits_ms: f64,
    comm_ms: f64,
    ctx_attn_ms: f64,
    gen_attn_ms: f64,
    /// `silicon`, or `estimated` from another kind of product.
    src_gemm: String,
    /// Operators whose tables did not reach this point, or do not exist.
    extrapolated: String,
}

#[derive(Deserialize)]
struct RunRow {
    gpu: String,
    engine: String,
    engine_version: String,
    model: String,
    /// Number format of the weights, unless `weights` says it.
    #[serde(default)]
    precision: String,
    /// As [`Dtype`] has it.
    #[serde(default)]
    weights: Option<Dtype>,
    /// The file of the library that says how the engine is set.
    #[serde(default)]
    settings: Option<String>,
    mode: String,
    tp: u32,
    /// GPUs that experts are divided among.
    #[serde(default)]
    moe_ep: Option<u32>,
    /// Ranks with sequences and KV of their own.
    #[serde(default)]
    attention_dp: Option<u32>,
    isl: u32,
    osl: u32,
    concurrency: u32,
    ttft_ms: f64,
    tpot_ms: f64,
    note: String,
}

/// Reads measured steps.
///
/// # Errors
/// The first row that cannot be used, or no row at all.
pub fn read_steps(path: &Path, names: &Names) -> Result<Vec<Step>, AccuracyError> {
    read(path, |row: StepRow, problem| {
        let parts = Parts {
            gpu: named("system", &names.gpu, &row.system, problem)?,
            engine: row.backend,
            shape: named("model", &names.model, &row.model, problem)?,
            tp: row.tp,
            attention_dp: 1,
            ep: 1,
            weight_dtype: dtype("gemm_dtype", &row.gemm_dtype, problem)?,
            kv_dtype: dtype("kv_dtype", &row.kv_dtype, problem)?,
        };
        positive("total_ms", row.total_ms, problem)?;
        let empty = row.new_tokens == 0 && row.decode_batch == 0;
        let kind = match (row.new_tokens > 0, row.decode_batch > 0) {
            (true, true) => StepKind::Mixed,
            (true, false) => StepKind::Prefill,
            _ => StepKind::Decode,
        };
        if empty || kind != row.kind {
            return Err(problem(format!(
                "kind {:?}: not what new_tokens and decode_batch say",
                row.kind.to_string()
            )));
        }
        let chunk =
            PrefillChunk { new_tokens: row.new_tokens, cached_tokens: row.cached_ctx, last: true };
        Ok(Some(Step {
            parts,
            kind,
            measured: kind != StepKind::Mixed
                && row.src_gemm == "silicon"
                && row.extrapolated.is_empty(),
            chunk: (row.new_tokens > 0).then_some(chunk),
            decode_seqs: row.decode_batch,
            decode_context: u64::from(row.decode_batch) * u64::from(row.decode_ctx),
            ms: row.total_ms,
            parts_ms: [row.gemm_ms, row.logits_ms, row.comm_ms, row.ctx_attn_ms, row.gen_attn_ms],
        }))
    })
}

/// Reads serving runs; those of separate prefill and decode workers are passed over.
///
/// # Errors
/// The first row that cannot be used, or no row at all.
pub fn read_runs(
    path: &Path,
    names: &Names,
    assumed: &Assumed,
) -> Result<Vec<ServingRun>, AccuracyError> {
    read(path, |row: RunRow, problem| {
        if row.mode != "agg" {
            return Ok(None);
        }
        let gpu = named("gpu", &names.gpu, &row.gpu, problem)?;
        let weight_dtype = match row.weights {
            Some(weights) => weights,
            None => dtype("precision", &row.precision, problem)?,
        };
        let engine = row.settings.unwrap_or_else(|| row.engine.clone());
        let Some(kv_dtype) = assumed.kv_dtype(&engine, &gpu, weight_dtype) else {
            let known: Vec<&str> = assumed.kv_dtype.keys().map(String::as_str).collect();
            return Err(problem(format!(
                "engine {:?}: must be one of {}, or be given in assumed.kv_dtype",
                row.engine,
                known.join(", ")
            )));
        };
        let parts = Parts {
            gpu,
            shape: named("model", &names.model, &row.model, problem)?,
            engine,
            tp: row.tp,
            attention_dp: row.attention_dp.unwrap_or(1),
            ep: row.moe_ep.unwrap_or(1),
            weight_dtype,
            kv_dtype,
        };
        positive("ttft_ms", row.ttft_ms, problem)?;
        positive("tpot_ms", row.tpot_ms, problem)?;
        for (column, value) in
            [("isl", row.isl), ("osl", row.osl), ("concurrency", row.concurrency)]
        {
            if !(1..=1_000_000).contains(&value) {
                return Err(problem(format!("{column} {value}: must be from 1 to 1000000")));
            }
        }
        Ok(Some(ServingRun {
            parts,
            engine: row.engine,
            version: row.engine_version,
            concurrency: row.concurrency,
            prompt_tokens: row.isl,
            output_tokens: row.osl,
            jittered: !row.note.contains("fixed lengths"),
            ttft_ms: row.ttft_ms,
            ttft: if row.note.contains("TTFT contaminated") {
                Ttft::Suspect
            } else if row.note.contains("arrival waves unknown") {
                Ttft::Waves
            } else {
                Ttft::Good
            },
            tpot_ms: row.tpot_ms,
        }))
    })
}

/// The text of a file, plain or compressed with gzip.
fn unpacked(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    if path.extension().is_some_and(|ending| ending == "gz") {
        MultiGzDecoder::new(catalogue::open(path)?).read_to_string(&mut text)?;
    } else {
        catalogue::open(path)?.read_to_string(&mut text)?;
    }
    Ok(text)
}

type Problem<'a> = &'a dyn Fn(String) -> AccuracyError;

/// Reads a CSV with comments row by row; `convert` may pass over a row.
fn read<R: DeserializeOwned, T>(
    path: &Path,
    convert: impl Fn(R, Problem<'_>) -> Result<Option<T>, AccuracyError>,
) -> Result<Vec<T>, AccuracyError> {
    let text =
        unpacked(path).map_err(|source| AccuracyError::Io { path: path.to_path_buf(), source })?;
    let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    let at =
        |line: u64, problem: String| AccuracyError::Row { path: path.to_path_buf(), line, problem };
    let of_csv =
        |error: csv::Error| at(error.position().map_or(1, csv::Position::line), error.to_string());
    let header = reader.headers().map_err(of_csv)?.clone();
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(of_csv)?;
        let line = record.position().map_or(1, csv::Position::line);
        let row: R = record.deserialize(Some(&header)).map_err(|e| at(line, e.to_string()))?;
        rows.extend(convert(row, &|problem| at(line, problem))?);
    }
    if rows.is_empty() {
        return Err(AccuracyError::Empty { path: path.to_path_buf() });
    }
    Ok(rows)
}

fn named(
    column: &str,
    names: &BTreeMap<String, String>,
    name: &str,
    problem: Problem<'_>,
) -> Result<String, AccuracyError> {
    names.get(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = names.keys().map(String::as_str).collect();
        problem(format!(
            "{column} {name:?}: must be one of {}; add it to [names] with the file that it stands for",
            known.join(", ")
        ))
    })
}

fn dtype(column: &str, text: &str, problem: Problem<'_>) -> Result<Dtype, AccuracyError> {
    match text {
        _ if text.starts_with("fp8") => Ok(Dtype::Fp8),
        _ if text.starts_with("bf16") || text.starts_with("bfloat16") => Ok(Dtype::Bf16),
        _ => Err(problem(format!("{column} {text:?}: must begin with fp8, bf16 or bfloat16"))),
    }
}

fn positive(column: &str, value: f64, problem: Problem<'_>) -> Result<(), AccuracyError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(problem(format!("{column} {value}: must be a finite number above 0")))
}
