//! Points as columns: results of so many points that JSON would be slow to read and would
//! not fit into memory.
//!
//! Two files of Arrow's IPC format, which data frames read and map into memory:
//! `summary.arrow` has the columns of `summary.csv`, a row for each point; `seeds.arrow`
//! has a row for each point and seed. They are written point by point, in sweep order, so
//! memory does not grow with their number. `summary.json` says whose they are.

use super::read::{ReadError, Results, read};
use crate::experiment::results::{Point, Provenance, SCHEMA_VERSION, Summary};
use crate::experiment::{Params, RUNS_FILE, SUMMARY_FILE, Staged, StoreError};
use crate::report::view::details::DETAILS_FILE;
use crate::report::view::plain;
use arrow_array::builder::Float64Builder;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

/// A row for each point.
pub const SUMMARY_COLUMNS: &str = "summary.arrow";

/// A row for each point and seed.
pub const SEEDS_COLUMNS: &str = "seeds.arrow";

/// The key of the metadata of both, as `summary.json` without points.
const ABOUT: &str = "kv_router_sim";

/// Points whose rows are written at once (assumed: a few megabytes).
const BATCH: usize = 1024;

/// `summary.json`, where the points are columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnsNote {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema_version: u32,
    /// Where the numbers come from.
    pub provenance: Provenance,
    /// Where they are.
    pub columns: ColumnsPlace,
}

/// The files of columns beside a `summary.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnsPlace {
    /// How many points there are.
    pub points: usize,
    /// The file with a row for each point.
    pub summary: String,
    /// The file with a row for each point and seed.
    pub seeds: String,
}

/// Where the numbers of a file come from.
#[derive(Serialize)]
struct Whose<'a> {
    schema_version: u32,
    provenance: &'a Provenance,
}

impl ColumnsNote {
    /// Of so many points.
    pub(super) fn new(provenance: Provenance, points: usize) -> Self {
        let (summary, seeds) = (SUMMARY_COLUMNS.to_owned(), SEEDS_COLUMNS.to_owned());
        let columns = ColumnsPlace { points, summary, seeds };
        Self { schema_version: SCHEMA_VERSION, provenance, columns }
    }
}

/// A column of parameters: numbers where all are, else texts.
pub fn param_column(values: &[Option<&Json>]) -> ArrayRef {
    Kind::of(values.iter().copied().flatten()).column(values)
}

/// What the values of a parameter have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Whole,
    Number,
    Truth,
    Text,
}

impl Kind {
    fn of<'a>(values: impl Iterator<Item = &'a Json> + Clone) -> Self {
        if values.clone().all(Json::is_i64) {
            Self::Whole
        } else if values.clone().all(Json::is_number) {
            Self::Number
        } else if values.clone().all(Json::is_boolean) {
            Self::Truth
        } else {
            Self::Text
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Whole => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Truth => DataType::Boolean,
            Self::Text => DataType::Utf8,
        }
    }

    fn column(self, values: &[Option<&Json>]) -> ArrayRef {
        let values = values.iter().copied();
        match self {
            Self::Whole => {
                Arc::new(values.map(|v| v.and_then(Json::as_i64)).collect::<Int64Array>())
            }
            Self::Number => {
                Arc::new(values.map(|v| v.and_then(Json::as_f64)).collect::<Float64Array>())
            }
            Self::Truth => {
                Arc::new(values.map(|v| v.and_then(Json::as_bool)).collect::<BooleanArray>())
            }
            Self::Text => Arc::new(values.map(|v| v.map(plain)).collect::<StringArray>()),
        }
    }
}

/// One of the two files, while it is written.
struct Rows {
    name: &'static str,
    writer: FileWriter<BufWriter<File>>,
    schema: Arc<Schema>,
    params: Vec<(String, Kind)>,
    /// Of the rows that are not written yet.
    values: Vec<Float64Builder>,
    rows: Vec<(Arc<Params>, Option<u64>)>,
}

/// Writes both files, point by point.
pub(super) struct ColumnsWriter {
    summary: Rows,
    seeds: Rows,
    metrics: Vec<String>,
    of_seeds: Vec<u64>,
    points: usize,
}

impl ColumnsWriter {
    /// For points with these parameters, seeds, and metrics.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub(super) fn new<'a>(
        staged: &mut Staged<'_>,
        provenance: &Provenance,
        points: impl Iterator<Item = &'a Params> + Clone,
        metrics: BTreeSet<String>,
    ) -> Result<Self, StoreError> {
        let keys: BTreeSet<&String> = points.clone().flat_map(|params| params.keys()).collect();
        let kind = |key: &&String| Kind::of(points.clone().filter_map(|params| params.get(*key)));
        let params: Vec<(String, Kind)> =
            keys.into_iter().map(|key| (key.clone(), kind(&key))).collect();
        let metrics: Vec<String> = metrics.into_iter().collect();
        let of_point = metrics.iter().flat_map(|name| {
            [name.clone(), format!("{name}_ci95_low"), format!("{name}_ci95_high")]
        });
        let of_point: Vec<String> = of_point.collect();
        let summary = Rows::new(staged, SUMMARY_COLUMNS, provenance, &params, false, &of_point)?;
        let seeds = Rows::new(staged, SEEDS_COLUMNS, provenance, &params, true, &metrics)?;
        Ok(Self { summary, seeds, metrics, of_seeds: provenance.seeds.clone(), points: 0 })
    }

    /// Adds a point.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn add(&mut self, point: Point) -> Result<(), StoreError> {
        let Point { params, metrics } = point;
        let params = Arc::new(params);
        for (at, &seed) in self.of_seeds.iter().enumerate() {
            for (column, name) in self.metrics.iter().enumerate() {
                let metric = metrics.get(name);
                let value = metric.and_then(|metric| metric.per_seed.get(at).copied().flatten());
                self.seeds.values[column].append_option(value);
            }
            self.seeds.rows.push((Arc::clone(&params), Some(seed)));
        }
        for (column, name) in self.metrics.iter().enumerate() {
            let metric = metrics.get(name);
            let bound = |end: usize| metric.and_then(|metric| metric.ci95).map(|ci95| ci95[end]);
            let values = [metric.and_then(|metric| metric.mean), bound(0), bound(1)];
            for (of, value) in values.into_iter().enumerate() {
                self.summary.values[3 * column + of].append_option(value);
            }
        }
        self.summary.rows.push((params, None));
        self.points += 1;
        if self.points.is_multiple_of(BATCH) {
            self.summary.write()?;
            self.seeds.write()?;
        }
        Ok(())
    }

    /// Writes what is left; gives the number of points.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn finish(mut self) -> Result<usize, StoreError> {
        self.summary.finish()?;
        self.seeds.finish()?;
        Ok(self.points)
    }
}

impl Rows {
    fn new(
        staged: &mut Staged<'_>,
        name: &'static str,
        provenance: &Provenance,
        params: &[(String, Kind)],
        by_seed: bool,
        metrics: &[String],
    ) -> Result<Self, StoreError> {
        // Every column may have gaps, whether it has some or not.
        let field = |name: &str, kind: DataType| Field::new(name, kind, true);
        let mut fields: Vec<Field> =
            params.iter().map(|(key, kind)| field(key, kind.data_type())).collect();
        if by_seed {
            fields.push(field("seed", DataType::UInt64));
        }
        fields.extend(metrics.iter().map(|name| field(name, DataType::Float64)));
        // One key: several would come in any order.
        let whose = Whose { schema_version: SCHEMA_VERSION, provenance };
        let whose = serde_json::to_string(&whose).expect("plain data has no way to fail");
        let schema = Schema::new(fields).with_metadata([(ABOUT.to_owned(), whose)]);
        let schema = Arc::new(schema);
        let file = BufWriter::new(staged.create(name)?);
        let writer = FileWriter::try_new(file, &schema).map_err(|error| failed(name, &error))?;
        let values = metrics.iter().map(|_| Float64Builder::new()).collect();
        Ok(Self { name, writer, schema, params: params.to_vec(), values, rows: Vec::new() })
    }

    /// Writes the rows that are not written yet.
    fn write(&mut self) -> Result<(), StoreError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = Vec::new();
        for (key, kind) in &self.params {
            let values: Vec<Option<&Json>> =
                self.rows.iter().map(|(params, _)| params.get(key)).collect();
            columns.push(kind.column(&values));
        }
        if self.rows[0].1.is_some() {
            let seeds: UInt64Array = self.rows.iter().map(|(_, seed)| *seed).collect();
            columns.push(Arc::new(seeds));
        }
        columns.extend(self.values.iter_mut().map(|values| Arc::new(values.finish()) as ArrayRef));
        self.rows.clear();
        let written = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let written = written.and_then(|batch| self.writer.write(&batch));
        written.map_err(|error| failed(self.name, &error))
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.write()?;
        self.writer.finish().map_err(|error| failed(self.name, &error))
    }
}

fn failed(name: &str, error: &ArrowError) -> StoreError {
    StoreError::Write { file: name.into(), reason: error.to_string() }
}

impl Results {
    /// Those in a folder whose points are columns, with how many they are; the points
    /// themselves are left out.
    ///
    /// # Errors
    /// If a file is missing, was written by another version, or the points are JSON.
    #[cfg_attr(not(internals), doc(hidden))]
    pub fn load_in_columns(folder: &Path) -> Result<(Self, ColumnsPlace), ReadError> {
        let ColumnsNote { schema_version, provenance, columns } = read(&folder.join(SUMMARY_FILE))?;
        let summary = Summary { schema_version, provenance, points: Vec::new() };
        let details = read(&folder.join(DETAILS_FILE))?;
        let runs = read(&folder.join(RUNS_FILE))?;
        Ok((Self { summary, details, runs }, columns))
    }
}

/// What a file of columns has of those whose names are `wanted`, in order of its rows.
///
/// # Errors
/// If it cannot be read.
pub fn read_columns(
    file: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<RecordBatch>, ReadError> {
    let unreadable = |reason: String| ReadError::Unreadable { file: file.into(), reason };
    let open = || File::open(file).map_err(|error| unreadable(error.to_string()));
    let arrow = |error: ArrowError| unreadable(error.to_string());
    let schema = FileReader::try_new_buffered(open()?, None).map_err(arrow)?.schema();
    let fields = schema.fields().iter().enumerate();
    let chosen = fields.filter(|(_, field)| wanted(field.name())).map(|(at, _)| at).collect();
    let reader = FileReader::try_new_buffered(open()?, Some(chosen)).map_err(arrow)?;
    reader.map(|batch| batch.map_err(arrow)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parameters_have_the_type_that_all_their_values_have() {
        let of = |values: &[Json]| Kind::of(values.iter());
        assert_eq!(of(&[json!(1), json!(2)]), Kind::Whole);
        assert_eq!(of(&[json!(1), json!(2.5)]), Kind::Number);
        assert_eq!(of(&[json!(true)]), Kind::Truth);
        assert_eq!(of(&[json!(1), json!("1ms")]), Kind::Text);
    }
}
