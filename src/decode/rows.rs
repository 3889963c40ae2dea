//! Arrow builders of one batch. A column is touched only by rows that have a value for it: the nulls between
//! are caught up in one step, so that a sparse message costs what it holds, not what the table is wide.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayBuilder, ArrayRef, BooleanBuilder, Date32Array, Date32Builder, Float64Builder, Int32Array, Int64Array,
        Int64Builder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
        new_null_array,
    },
    error::ArrowError,
};

use super::{Records, fit::Value};
use crate::schema::{ColumnType, SchemaVersion};

/// The fixed columns of one row that differ from row to row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed<'a> {
    pub event_us: i64,
    pub offset: i64,
    pub row: i32,
    pub timestamp_us: i64,
    pub rescued: Option<&'a str>,
    pub day: i32,
}

/// Rows of one batch under construction.
pub(super) struct Rows {
    columns: Vec<Column>,
    event_us: Vec<i64>,
    offset: Vec<i64>,
    row: Vec<i32>,
    timestamp_us: Vec<i64>,
    rescued: Column,
    day: Vec<i32>,
}

impl Rows {
    pub fn new(version: &SchemaVersion) -> Self {
        Self {
            columns: version.columns.iter().map(|column| Column::new(column.kind)).collect(),
            event_us: Vec::new(),
            offset: Vec::new(),
            row: Vec::new(),
            timestamp_us: Vec::new(),
            rescued: Column::new(ColumnType::Json),
            day: Vec::new(),
        }
    }

    /// Begins a row.
    pub fn begin(&mut self, fixed: Fixed<'_>) {
        if let Some(rescued) = fixed.rescued {
            self.rescued.catch_up(self.offset.len());
            self.rescued.push_text(rescued);
        }
        self.event_us.push(fixed.event_us);
        self.offset.push(fixed.offset);
        self.row.push(fixed.row);
        self.timestamp_us.push(fixed.timestamp_us);
        self.day.push(fixed.day);
    }

    /// Sets a column of the row last begun, once; `input` and `arena` are what text values point into.
    pub fn set(&mut self, column: u32, value: Value, input: &str, arena: &str) {
        let column = &mut self.columns[column as usize];
        column.catch_up(self.offset.len() - 1);
        match value {
            Value::Input(start, end) => column.push_text(&input[start as usize..end as usize]),
            Value::Arena(start, end) => column.push_text(&arena[start as usize..end as usize]),
            value => column.push(value),
        }
    }

    /// The batch in the version's Arrow form.
    pub fn finish(self, version: &SchemaVersion, records: &Records) -> Result<RecordBatch, ArrowError> {
        let rows = self.offset.len();
        let ints = |value: i32| -> ArrayRef { Arc::new(Int32Array::from_value(value, rows)) };
        let topic = StringArray::from_iter_values(std::iter::repeat_n(&records.topic, rows));
        let fixed: [ArrayRef; 10] = [
            Arc::new(TimestampMicrosecondArray::from(self.event_us).with_timezone("UTC")),
            Arc::new(topic),
            ints(records.incarnation as i32),
            ints(records.partition),
            Arc::new(Int64Array::from(self.offset)),
            Arc::new(Int32Array::from(self.row)),
            Arc::new(TimestampMicrosecondArray::from(self.timestamp_us).with_timezone("UTC")),
            ints(version.number as i32),
            self.rescued.finish(rows),
            Arc::new(Date32Array::from(self.day)),
        ];
        let mut users = self.columns.into_iter().map(|column| column.finish(rows));
        let mut columns: Vec<ArrayRef> = users.by_ref().take(version.keys).collect();
        columns.extend(fixed);
        columns.extend(users);
        RecordBatch::try_new(version.arrow_schema(), columns)
    }
}

/// A column's values so far; it may lag behind the rows.
struct Column {
    kind: ColumnType,
    data: Data,
}

enum Data {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Double(Float64Builder),
    Text(StringBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
}

impl Column {
    fn new(kind: ColumnType) -> Self {
        // Without capacity: a wide table holds many columns that a batch never touches.
        let data = match kind {
            ColumnType::Boolean => Data::Boolean(BooleanBuilder::with_capacity(0)),
            ColumnType::Int64 => Data::Integer(Int64Builder::with_capacity(0)),
            ColumnType::Double => Data::Double(Float64Builder::with_capacity(0)),
            ColumnType::String | ColumnType::Json => Data::Text(StringBuilder::with_capacity(0, 0)),
            ColumnType::Timestamp => {
                Data::Timestamp(TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC"))
            }
            ColumnType::Date => Data::Date(Date32Builder::with_capacity(0)),
        };
        Self { kind, data }
    }

    fn catch_up(&mut self, rows: usize) {
        match &mut self.data {
            Data::Boolean(builder) if builder.len() < rows => builder.append_nulls(rows - builder.len()),
            Data::Integer(builder) if builder.len() < rows => builder.append_nulls(rows - builder.len()),
            Data::Double(builder) if builder.len() < rows => builder.append_nulls(rows - builder.len()),
            Data::Text(builder) if builder.len() < rows => builder.append_nulls(rows - builder.len()),
            Data::Timestamp(builder) if builder.len() < rows => builder.append_nulls(rows - builder.len()),
            Data::Date(builder) if builder.len() < rows => builder.append_nulls(rows - builder.len()),
            _ => {}
        }
    }

    fn push_text(&mut self, text: &str) {
        if let Data::Text(builder) = &mut self.data {
            builder.append_value(text);
        }
    }

    fn push(&mut self, value: Value) {
        match (&mut self.data, value) {
            (Data::Boolean(builder), Value::Boolean(value)) => builder.append_value(value),
            (Data::Integer(builder), Value::Integer(value)) => builder.append_value(value),
            (Data::Double(builder), Value::Double(value)) => builder.append_value(value),
            (Data::Timestamp(builder), Value::Integer(value)) => builder.append_value(value),
            (Data::Date(builder), Value::Integer(value)) => builder.append_value(value as i32),
            // `fit` makes the value for the column's type.
            (_, value) => debug_assert!(false, "{value:?} for a column of type {}", self.kind.word()),
        }
    }

    fn finish(mut self, rows: usize) -> ArrayRef {
        let empty = match &self.data {
            Data::Boolean(builder) => builder.is_empty(),
            Data::Integer(builder) => builder.is_empty(),
            Data::Double(builder) => builder.is_empty(),
            Data::Text(builder) => builder.is_empty(),
            Data::Timestamp(builder) => builder.is_empty(),
            Data::Date(builder) => builder.is_empty(),
        };
        if empty {
            return new_null_array(&self.kind.arrow_type(), rows);
        }
        self.catch_up(rows);
        match self.data {
            Data::Boolean(mut builder) => Arc::new(builder.finish()),
            Data::Integer(mut builder) => Arc::new(builder.finish()),
            Data::Double(mut builder) => Arc::new(builder.finish()),
            Data::Text(mut builder) => Arc::new(builder.finish()),
            Data::Timestamp(mut builder) => Arc::new(builder.finish()),
            Data::Date(mut builder) => Arc::new(builder.finish()),
        }
    }
}
