//! New rows of a stream, with what is known of each beside its columns.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use serde_json::{Map, Value};

use super::clock::believed;
use super::life::{Cause, Key, Micros};
use crate::query::Shared;
use crate::schema::fixed;

/// New rows.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Their columns.
    pub rows: RecordBatch,
    /// When each happened.
    pub times: Vec<Micros>,
    /// The record that each comes from.
    pub causes: Vec<Cause>,
    /// Those who have no row any more.
    pub gone: Vec<(Key, Micros, Cause)>,
    /// Whose each is, by columns.
    entities: RefCell<Vec<Entities>>,
    /// What rules ask of them.
    shared: Shared,
}

/// Columns, and what they say of each row.
type Entities = (Vec<String>, Arc<[Key]>);

impl Batch {
    /// These rows.
    pub fn new(rows: RecordBatch, times: Vec<Micros>, causes: Vec<Cause>, gone: Vec<(Key, Micros, Cause)>) -> Self {
        Self { rows, times, causes, gone, entities: RefCell::default(), shared: Shared::default() }
    }

    /// Rows of a table that keeps every record, with its columns of where they come from; `time` is the column that
    /// says when they happened, the broker's time where that is unknown.
    pub fn of_records(rows: RecordBatch, time: &str) -> Result<Self, ArrowError> {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let column = |name: &str| {
            rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
        };
        let recorded = cast(column(fixed::TIMESTAMP)?, &micros)?;
        let at = rows.column_by_name(time).map(|at| cast(at, &micros)).transpose()?;
        let recorded = recorded.as_primitive::<TimestampMicrosecondType>();
        let at = at.as_ref().map(|at| at.as_primitive::<TimestampMicrosecondType>());
        let time = |row: usize| {
            let recorded = recorded.is_valid(row).then(|| recorded.value(row));
            let at = at.filter(|at| at.is_valid(row)).map(|at| at.value(row));
            at.map_or(recorded, |at| Some(believed(at, recorded))).unwrap_or(0)
        };
        let times = (0..rows.num_rows()).map(time).collect();
        let topics = cast(column(fixed::TOPIC)?, &DataType::Utf8)?;
        let (partitions, offsets) = (column(fixed::PARTITION)?, column(fixed::OFFSET)?);
        let (topics, partitions, offsets) =
            (topics.as_string::<i32>(), partitions.as_primitive::<Int32Type>(), offsets.as_primitive::<Int64Type>());
        // Rows that come together are of one topic.
        let mut topic: Arc<str> = "".into();
        let cause = |row: usize| {
            if *topic != *topics.value(row) {
                topic = topics.value(row).into();
            }
            Cause { topic: Arc::clone(&topic), partition: partitions.value(row), offset: offsets.value(row) }
        };
        let causes = (0..rows.num_rows()).map(cause).collect();
        Ok(Self::new(rows, times, causes, Vec::new()))
    }

    /// What rules ask of them.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Some that follow each other.
    pub fn slice(&self, first: usize, count: usize) -> Self {
        let (times, causes) = (&self.times[first..first + count], &self.causes[first..first + count]);
        Self::new(self.rows.slice(first, count), times.to_vec(), causes.to_vec(), Vec::new())
    }

    /// These of them, in this order.
    pub fn only(&self, rows: &[u32]) -> Result<Cow<'_, Self>, ArrowError> {
        if rows.len() == self.len() && rows.iter().enumerate().all(|(at, row)| at == *row as usize) {
            return Ok(Cow::Borrowed(self));
        }
        let times = rows.iter().map(|row| self.times[*row as usize]).collect();
        let causes = rows.iter().map(|row| self.causes[*row as usize].clone()).collect();
        let rows = take_record_batch(&self.rows, &UInt32Array::from(rows.to_vec()))?;
        Ok(Cow::Owned(Self::new(rows, times, causes, self.gone.clone())))
    }

    /// Whose each row is: what these columns say.
    pub fn entities(&self, columns: &[String]) -> Arc<[Key]> {
        let known = self.entities.borrow().iter().find(|(of, _)| of == columns).map(|(_, keys)| Arc::clone(keys));
        known.unwrap_or_else(|| {
            let keys: Arc<[Key]> = keys(&self.rows, columns).into();
            self.entities.borrow_mut().push((columns.to_vec(), Arc::clone(&keys)));
            keys
        })
    }
}

/// These columns of each row as a JSON object; of columns that are not there, nothing.
pub fn keys(rows: &RecordBatch, columns: &[String]) -> Vec<Key> {
    let columns: Vec<usize> = columns.iter().filter_map(|name| rows.schema().index_of(name).ok()).collect();
    let objects = rows.project(&columns).map(|rows| rows_as_json(&rows)).unwrap_or_default();
    match objects.is_empty() {
        true => vec!["{}".into(); rows.num_rows()],
        false => objects.into_iter().map(Key::from).collect(),
    }
}

/// A row as a JSON object.
pub fn object(rows: &RecordBatch, row: usize) -> Map<String, Value> {
    rows_as_json(&rows.slice(row, 1)).first().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Rows as JSON objects; none if they cannot be written.
pub fn rows_as_json(rows: &RecordBatch) -> Vec<String> {
    objects(rows).unwrap_or_default()
}

fn objects(rows: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let mut text = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
    writer.write(rows)?;
    writer.finish()?;
    drop(writer);
    let text = String::from_utf8(text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}
