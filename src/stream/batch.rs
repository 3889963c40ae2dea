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

use super::clock::{Clock, Lane, believed};
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
    /// How far each lane had come before, if that is to be known again.
    pub begins: Vec<Begin>,
    /// Whose each is, by columns.
    entities: RefCell<Vec<Entities>>,
    /// What rules ask of them.
    shared: Shared,
}

/// How far a lane had come before some of its rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The first of them.
    pub first: Cause,
    /// How far it was; `None` if nothing had been seen of it.
    pub lane: Option<Lane>,
}

/// Columns, and what they say of each row.
type Entities = (Vec<String>, Arc<[Key]>);

impl Batch {
    /// These rows.
    pub fn new(rows: RecordBatch, times: Vec<Micros>, causes: Vec<Cause>, gone: Vec<(Key, Micros, Cause)>) -> Self {
        let (begins, entities, shared) = (Vec::new(), RefCell::default(), Shared::default());
        Self { rows, times, causes, gone, begins, entities, shared }
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

    /// When the broker got the record of each; when it happened, where that is unknown.
    pub fn recorded(&self) -> Vec<Micros> {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let recorded = self.rows.column_by_name(fixed::TIMESTAMP).and_then(|column| cast(column, &micros).ok());
        match recorded.as_ref().map(|recorded| recorded.as_primitive::<TimestampMicrosecondType>()) {
            Some(recorded) => recorded.iter().zip(&self.times).map(|(at, own)| at.unwrap_or(*own)).collect(),
            None => self.times.clone(),
        }
    }

    /// Those that are in time, by the lanes that they come in, which get on; a row of no lane is. No record came after
    /// `wall`, whatever its producer's clock says.
    pub fn in_time<L: Ord + Clone>(
        &mut self,
        clock: &mut Clock<L>,
        lane: impl Fn(&Cause) -> Option<L>,
        wall: Micros,
    ) -> Vec<u32> {
        let (mut in_time, mut first) = (Vec::with_capacity(self.len()), 0);
        let recorded = self.recorded();
        self.begins.clear();
        for causes in self.causes.chunk_by(|one, next| one.partition == next.partition && one.topic == next.topic) {
            let rows = first..first + causes.len();
            first = rows.end;
            let Some(lane) = lane(&causes[0]) else {
                in_time.extend(rows.map(|row| row as u32));
                continue;
            };
            self.begins.push(Begin { first: causes[0].clone(), lane: clock.lanes().get(&lane).copied() });
            let taken = clock.take(&lane, rows.clone().map(|row| (self.times[row], recorded[row].min(wall))));
            in_time.extend(rows.zip(taken).filter(|(_, in_time)| *in_time).map(|(row, _)| row as u32));
        }
        in_time
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
        let begins = self.begins.clone();
        Ok(Cow::Owned(Self { begins, ..Self::new(rows, times, causes, self.gone.clone()) }))
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
