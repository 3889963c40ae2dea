//! A state that one task keeps and many read.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parking_lot::Mutex;

use super::keyed::{Keyed, Stats};
use super::reader::LatestError;
use super::shape::Shape;
use crate::error::{Error, Kind};
use crate::schema::fixed;

/// Why rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// They are not kept any more.
    #[error("the rows of {table} are not kept: {reason}")]
    Stopped {
        /// Name of the table.
        table: String,
        /// Why, with the way out.
        reason: String,
    },
    /// They are not all here yet.
    #[error("the rows of {table} are still being put together")]
    Loading {
        /// Name of the table.
        table: String,
    },
    /// A fault of Millpond.
    #[error(transparent)]
    State(#[from] LatestError),
}

impl From<Unavailable> for Error {
    fn from(error: Unavailable) -> Self {
        match error {
            Unavailable::Loading { .. } => {
                Error::new(Kind::Unavailable, error.to_string()).hint("ask again in a moment")
            }
            Unavailable::Stopped { .. } => Error::new(Kind::Exhausted, error.to_string()),
            Unavailable::State(cause) => Error::new(Kind::Internal, "the rows cannot be put together").because(cause),
        }
    }
}

/// A table with one row per key.
#[derive(Debug)]
pub struct LatestTable {
    name: String,
    key: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// What was known before is not read yet.
    Loading(Option<Keyed>),
    Kept(Option<Keyed>),
    Stopped(String),
}

impl LatestTable {
    /// A table whose rows are yet to be put together.
    pub fn new(name: &str, key: &[String]) -> Self {
        Self { name: name.to_owned(), key: key.to_vec(), state: Mutex::new(State::Loading(None)) }
    }

    /// Name of the table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of the key columns.
    pub fn key(&self) -> &[String] {
        &self.key
    }

    /// The columns, as far as they are known.
    pub fn schema(&self) -> SchemaRef {
        match &*self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => Arc::clone(keyed.schema()),
            _ => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
                Arc::new(Schema::new(vec![Field::new(fixed::EVENT_TIME, micros, true)]))
            }
        }
    }

    /// How much is held; nothing once it is stopped.
    pub fn stats(&self) -> Stats {
        match &*self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.stats(),
            _ => Stats::default(),
        }
    }

    /// Why rows are not kept any more.
    pub fn stopped(&self) -> Option<String> {
        match &*self.state.lock() {
            State::Stopped(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    /// True while not all rows are here.
    pub fn is_loading(&self) -> bool {
        matches!(&*self.state.lock(), State::Loading(_))
    }

    /// Gives the rows the columns that the table of changes has by now.
    pub fn evolve(&self, shape: Shape) -> Result<(), LatestError> {
        match &mut *self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.evolve(shape),
            State::Loading(none) | State::Kept(none) => {
                *none = Some(Keyed::new(shape)?);
                Ok(())
            }
            State::Stopped(_) => Ok(()),
        }
    }

    /// Numbers epochs in this order, the oldest first.
    pub fn meet<'a>(&self, epochs: impl IntoIterator<Item = &'a str>) {
        if let State::Loading(Some(keyed)) | State::Kept(Some(keyed)) = &mut *self.state.lock() {
            keyed.meet(epochs);
        }
    }

    /// Takes in changes; what was taken in before changes nothing.
    pub fn apply(&self, changes: &RecordBatch) -> Result<(), LatestError> {
        match &mut *self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.apply(changes),
            _ => Ok(()),
        }
    }

    /// All that was known before is here: from now on rows can be read.
    pub fn loaded(&self) {
        let mut state = self.state.lock();
        if let State::Loading(keyed) = &mut *state {
            let keyed = keyed.take();
            *state = State::Kept(keyed);
        }
    }

    /// Gives the rows up.
    pub fn stop(&self, reason: String) {
        *self.state.lock() = State::Stopped(reason);
    }

    /// All rows.
    pub fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        match &mut *self.state.lock() {
            State::Kept(Some(keyed)) => Ok(keyed.scan()?),
            State::Kept(None) => Ok(Vec::new()),
            other => Err(self.unavailable(other)),
        }
    }

    /// The rows with these keys, given as key columns.
    pub fn get(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable> {
        match &*self.state.lock() {
            State::Kept(Some(keyed)) => Ok(Some(keyed.get(keys)?)),
            State::Kept(None) => Ok(None),
            other => Err(self.unavailable(other)),
        }
    }

    fn unavailable(&self, state: &State) -> Unavailable {
        let table = self.name.clone();
        match state {
            State::Stopped(reason) => Unavailable::Stopped { table, reason: reason.clone() },
            _ => Unavailable::Loading { table },
        }
    }
}
