//! Measured times of single operators on one kind of GPU.
//!
//! A file of `models/operators/` has a row for each operator of a layer in one engine,
//! number format and size, with its times on the points that the first rows of the
//! operator give:
//!
//! | operator | format | shape | points |
//! |---|---|---|---|
//! | `gemm` | of the weights | outputs x inputs | tokens |
//! | `experts` | of the weights | hidden x width, experts of a token / of the layer, GPUs that share one, groups of GPUs | tokens |
//! | `decode` | of the KV | heads / KV heads x size, window | context, for so many `sequences` |
//! | `prompt` | the same | the same | new tokens, none cached |
//! | `latent_decode` `latent_prompt` | projections / KV | kind, heads | the same; projections are in it |
//! | `allreduce` | launched in a `graph`, or `eager` | GPUs | bytes |
//! | `gather` `scatter` | of the numbers sent | ranks | bytes of all ranks together |
//!
//! The column `measured_under` names the engine whose kernel it was. `models/operators/README.md`
//! says where the times come from and which were left out.

use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;

/// An operator in one engine, format and size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) operator: String,
    pub(crate) engine: String,
    pub(crate) format: String,
    pub(crate) shape: String,
    /// 0 of operators that do not depend on it.
    pub(crate) sequences: u32,
}

/// Times of one operator at its points, microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Times {
    pub(crate) us: Vec<f64>,
    pub(crate) measured_under: String,
}

/// The operators of one kind of GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Operators {
    points: BTreeMap<String, Vec<f64>>,
    times: BTreeMap<Key, Times>,
}

/// Why a file of operators cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {problem}")]
pub struct OperatorsError {
    /// Line of the file, from 1.
    pub line: u64,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

#[derive(Deserialize)]
struct Row {
    operator: String,
    engine: String,
    format: String,
    shape: String,
    sequences: Option<u32>,
    measured_under: String,
    us: String,
}

impl Operators {
    /// Reads the text of a file; lines that begin with `#` are comments.
    ///
    /// # Errors
    /// The first row that cannot be used.
    pub fn parse(text: &str) -> Result<Self, OperatorsError> {
        let mut reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
        let mut operators = Self { points: BTreeMap::new(), times: BTreeMap::new() };
        let of_csv = |error: csv::Error| OperatorsError {
            line: error.position().map_or(1, csv::Position::line),
            problem: error.to_string(),
        };
        let header = reader.headers().map_err(of_csv)?.clone();
        for record in reader.records() {
            let record = record.map_err(of_csv)?;
            let line = record.position().map_or(1, csv::Position::line);
            let row: Row = record.deserialize(Some(&header)).map_err(of_csv)?;
            operators.add(row).map_err(|problem| OperatorsError { line, problem })?;
        }
        Ok(operators)
    }

    /// Reads a file as it lies on disk, compressed with gzip or not.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and if it is neither.
    pub fn unpack(bytes: &[u8]) -> Result<Self, OperatorsError> {
        let mut text = String::new();
        let read = match bytes.starts_with(&[0x1f, 0x8b]) {
            true => MultiGzDecoder::new(bytes).read_to_string(&mut text),
            false => (&bytes[..]).read_to_string(&mut text),
        };
        read.map_err(|error| OperatorsError { line: 1, problem: error.to_string() })?;
        Self::parse(&text)
    }

    fn add(&mut self, row: Row) -> Result<(), String> {
        let number =
            |text: &str| text.parse::<f64>().ok().filter(|us| us.is_finite() && *us >= 0.0);
        let Some(us) = row.us.split_whitespace().map(number).collect::<Option<Vec<f64>>>() else {
            return Err(format!("us {:?}: must be numbers of at least 0", row.us));
        };
        if row.engine.is_empty() {
            let ascends = us.len() >= 3 && us.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascends {
                return Err(format!(
                    "points of {}: must be three or more, and ascend",
                    row.operator
                ));
            }
            self.points.insert(row.operator, us);
            return Ok(());
        }
        let wanted = self.points.get(&row.operator).map_or(0, Vec::len);
        if us.len() != wanted {
            return Err(format!(
                "{} times of {}: must be {wanted}, one for each point",
                us.len(),
                row.operator
            ));
        }
        let Row { operator, engine, format, shape, sequences, measured_under, .. } = row;
        let key = Key { operator, engine, format, shape, sequences: sequences.unwrap_or(0) };
        self.times.insert(key, Times { us, measured_under });
        Ok(())
    }

    /// The points of an operator; none if it has no rows.
    pub(crate) fn points(&self, operator: &str) -> &[f64] {
        self.points.get(operator).map_or(&[], Vec::as_slice)
    }

    /// The times of an operator at its points.
    pub(crate) fn times(&self, key: &Key) -> Option<&Times> {
        self.times.get(key)
    }

    /// The times of an operator for each number of sequences, ascending.
    pub(crate) fn by_sequences(&self, key: &Key) -> impl Iterator<Item = (u32, &Times)> {
        let from = Key { sequences: 0, ..key.clone() };
        let to = Key { sequences: u32::MAX, ..key.clone() };
        self.times.range(from..=to).map(|(key, times)| (key.sequences, times))
    }
}
