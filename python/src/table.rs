//! Tables that leave by Arrow's C stream interface, without copies.

use crate::errors::plain;
use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::{Float64Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, RecordBatchIterator};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{DataType, Schema};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict, PyList};
use serde_json::Value as Json;
use std::sync::Arc;

/// A table in Arrow's memory: `pandas`, `polars`, `duckdb` and `pyarrow` read it without
/// a copy, and none of them is needed.
#[pyclass(frozen, module = "kv_router_sim")]
pub(crate) struct Table(RecordBatch);

/// Named columns, in order, for a [`Table`].
#[derive(Default)]
pub(crate) struct Columns(Vec<(String, ArrayRef)>);

impl Columns {
    /// Adds a column.
    pub(crate) fn add(&mut self, name: impl Into<String>, values: impl Array + 'static) {
        self.0.push((name.into(), Arc::new(values)));
    }

    /// Adds a column of parameters: numbers where all are, else texts.
    pub(crate) fn add_json(&mut self, name: &str, values: &[Option<&Json>]) {
        let column = kv_router_sim::results::param_column(values);
        self.0.push((name.to_owned(), column));
    }

    /// The table of them.
    pub(crate) fn table(self) -> PyResult<Table> {
        // Every column may have gaps, whether it has some or not.
        let columns = self.0.into_iter().map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns);
        batch.map(Table).map_err(|error| plain(&error.to_string()))
    }
}

impl Table {
    /// Of rows that come in pieces.
    pub(crate) fn of(batches: &[RecordBatch]) -> PyResult<Self> {
        let schema = batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let whole = arrow_select::concat::concat_batches(&schema, batches);
        whole.map(Self).map_err(|error| plain(&error.to_string()))
    }

    fn column<'py>(&self, py: Python<'py>, at: usize) -> PyResult<Bound<'py, PyList>> {
        macro_rules! list {
            ($values:expr) => {
                PyList::new(py, $values.iter().collect::<Vec<_>>())
            };
        }
        let column = self.0.column(at);
        match column.data_type() {
            DataType::Int64 => list!(column.as_primitive::<Int64Type>()),
            DataType::UInt32 => list!(column.as_primitive::<UInt32Type>()),
            DataType::UInt64 => list!(column.as_primitive::<UInt64Type>()),
            DataType::Float64 => list!(column.as_primitive::<Float64Type>()),
            DataType::Boolean => list!(column.as_boolean()),
            DataType::Utf8 => list!(column.as_string::<i32>()),
            other => Err(plain(&format!("a column of {other} is not shown"))),
        }
    }
}

#[pymethods]
impl Table {
    #[getter]
    fn num_rows(&self) -> usize {
        self.0.num_rows()
    }

    #[getter]
    fn column_names(&self) -> Vec<String> {
        self.0.schema_ref().fields().iter().map(|field| field.name().clone()).collect()
    }

    fn __len__(&self) -> usize {
        self.0.num_rows()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyList>> {
        match self.0.schema_ref().index_of(name) {
            Ok(at) => self.column(py, at),
            Err(_) => Err(PyKeyError::new_err(format!(
                "{name}: must be a column of this table: {}",
                self.column_names().join(", ")
            ))),
        }
    }

    fn to_pydict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for (at, name) in self.column_names().into_iter().enumerate() {
            columns.set_item(name, self.column(py, at)?)?;
        }
        Ok(columns)
    }

    /// A data frame of pandas; its `from_arrow`, where it has one, copies nothing.
    fn to_pandas<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let frame = py.import("pandas")?.getattr("DataFrame")?;
        let has_arrow = py.import("importlib.util")?.call_method1("find_spec", ("pyarrow",))?;
        if frame.hasattr("from_arrow")? && !has_arrow.is_none() {
            return frame.call_method1("from_arrow", (slf,));
        }
        frame.call1((slf.get().to_pydict(py)?,))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.0.schema_ref().as_ref());
        let schema = schema.map_err(|error| plain(&error.to_string()))?;
        PyCapsule::new_with_value(py, schema, c"arrow_schema")
    }

    /// The consumer casts, if it wants another schema, as the interface allows.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let batches = RecordBatchIterator::new([Ok(self.0.clone())], self.0.schema());
        let stream = FFI_ArrowArrayStream::new(Box::new(batches));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }

    fn __repr__(&self) -> String {
        let (rows, columns) = (self.0.num_rows(), self.0.num_columns());
        format!("<Table of {rows} rows and {columns} columns: {}>", self.column_names().join(", "))
    }
}
