//! Records as they came: the rows of a table's `<table>__raw`.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BinaryBuilder, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray, StringBuilder,
        TimestampMicrosecondArray,
    },
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use chrono_tz::Tz;

use super::{Record, Records, dead::headers_json, time};
use crate::schema::{ColumnType, fixed};

/// The schema of every `<table>__raw`. All columns are nullable, as in every table; `headers` is a JSON array as in
/// `system.dead_letters`, and `_day` that of the broker's timestamp.
pub fn raw_schema() -> SchemaRef {
    let fields = [
        (fixed::TOPIC, DataType::Utf8),
        (fixed::INCARNATION, DataType::Int32),
        (fixed::PARTITION, DataType::Int32),
        (fixed::OFFSET, DataType::Int64),
        (fixed::TIMESTAMP, ColumnType::Timestamp.arrow_type()),
        (fixed::DAY, DataType::Date32),
        ("key", DataType::Binary),
        ("payload", DataType::Binary),
        ("headers", DataType::Utf8),
    ];
    Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
}

/// Such rows of one batch under construction.
pub(super) struct RawRows {
    zone: Tz,
    offset: Vec<i64>,
    timestamp_us: Vec<i64>,
    day: Vec<i32>,
    key: BinaryBuilder,
    payload: BinaryBuilder,
    headers: StringBuilder,
}

impl RawRows {
    /// None yet; days are those of `zone`.
    pub fn new(zone: Tz) -> Self {
        Self {
            zone,
            offset: Vec::new(),
            timestamp_us: Vec::new(),
            day: Vec::new(),
            key: BinaryBuilder::new(),
            payload: BinaryBuilder::new(),
            headers: StringBuilder::new(),
        }
    }

    /// Adds a record.
    pub fn push(&mut self, record: &Record<'_>) {
        self.offset.push(record.offset);
        self.timestamp_us.push(record.timestamp_us);
        self.day.push(time::day(record.timestamp_us, record.timestamp_us, self.zone));
        self.key.append_option(record.key);
        self.payload.append_option(record.payload);
        self.headers.append_option(headers_json(record.headers));
    }

    /// The batch.
    pub fn finish(mut self, records: &Records) -> Result<RecordBatch, ArrowError> {
        let rows = self.offset.len();
        let ints = |value: i32| -> ArrayRef { Arc::new(Int32Array::from_value(value, rows)) };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&records.topic, rows))),
            ints(records.incarnation.cast_signed()),
            ints(records.partition),
            Arc::new(Int64Array::from(self.offset)),
            Arc::new(TimestampMicrosecondArray::from(self.timestamp_us).with_timezone("UTC")),
            Arc::new(Date32Array::from(self.day)),
            Arc::new(self.key.finish()),
            Arc::new(self.payload.finish()),
            Arc::new(self.headers.finish()),
        ];
        RecordBatch::try_new(raw_schema(), columns)
    }
}
