//! A state that one task keeps and many read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parking_lot::Mutex;

use super::keyed::{Keyed, Lists, Scan, Sidecars, Stats};
use super::order::Order;
use super::reader::LatestError;
use super::shape::{Shape, Wanted};
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

/// Rows by key, as they are now.
pub trait Rows: std::fmt::Debug + Send + Sync {
    /// Name of the table.
    fn name(&self) -> &str;
    /// Names of the key columns.
    fn key(&self) -> &[String];
    /// The columns, as far as they are known.
    fn schema(&self) -> SchemaRef;
    /// How often the rows have changed.
    fn changes(&self) -> u64;
    /// How much is held; nothing once it is stopped.
    fn stats(&self) -> Stats;
    /// Why rows are not kept any more.
    fn stopped(&self) -> Option<String>;
    /// True while not all rows are here.
    fn is_loading(&self) -> bool;
    /// Whether they come from files: there are few of them, and they seldom change.
    fn is_reference(&self) -> bool {
        false
    }
    /// What has changed since there were `then` changes; `None` if that is not known, or if it is more than `most` keys.
    fn since(&self, _then: u64, _most: usize) -> Result<Option<Since>, Unavailable> {
        Ok(None)
    }
    /// All rows.
    fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable>;
    /// The rows with these keys, given as key columns; `None` while nothing is known at all.
    fn get(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable>;
}

/// What has changed of rows.
#[derive(Debug)]
pub struct Since {
    /// How often they have changed by now.
    pub changes: u64,
    /// The keys that have, as key columns.
    pub keys: Vec<ArrayRef>,
    /// The rows that these keys have now.
    pub rows: RecordBatch,
}

/// The state of one table.
#[derive(Debug)]
pub struct LatestTable {
    name: String,
    wanted: Wanted,
    state: Mutex<State>,
    /// How often the rows have changed.
    changes: AtomicU64,
}

#[derive(Debug)]
enum State {
    /// What was known before is not read yet.
    Loading(Option<Keyed>),
    Kept(Option<Keyed>),
    Stopped(String),
}

impl State {
    fn keyed(&mut self) -> Option<&mut Keyed> {
        match self {
            Self::Loading(keyed) | Self::Kept(keyed) => keyed.as_mut(),
            Self::Stopped(_) => None,
        }
    }
}

/// The type of times.
pub(super) fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl LatestTable {
    /// A table whose rows are yet to be put together.
    pub fn new(name: &str, wanted: Wanted) -> Self {
        let state = Mutex::new(State::Loading(None));
        Self { name: name.to_owned(), wanted, state, changes: AtomicU64::new(0) }
    }

    /// What is kept of the table it is kept from.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Whether the table they are kept from has had rows, so that its key is known.
    pub fn has_key(&self) -> bool {
        matches!(&*self.state.lock(), State::Loading(Some(_)) | State::Kept(Some(_)))
    }

    /// Gives the rows the columns that the table they are kept from has by now.
    pub fn evolve(&self, shape: Shape) -> Result<(), LatestError> {
        self.change(|state| match state {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.evolve(shape),
            State::Loading(none) | State::Kept(none) => {
                *none = Some(Keyed::new(shape)?);
                Ok(())
            }
            State::Stopped(_) => Ok(()),
        })
    }

    /// Numbers epochs in this order, the oldest first.
    pub fn meet<'a>(&self, epochs: impl IntoIterator<Item = &'a str>) {
        if let State::Loading(Some(keyed)) | State::Kept(Some(keyed)) = &mut *self.state.lock() {
            keyed.meet(epochs);
        }
    }

    /// Takes in rows of the table it is kept from; what was taken in before changes nothing.
    pub fn apply(&self, rows: &RecordBatch) -> Result<(), LatestError> {
        self.change(|state| match state {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.apply(rows),
            _ => Ok(()),
        })
    }

    /// Takes in what was written down of this state.
    pub fn restore(&self, known: &Sidecars) {
        self.change(|state| {
            if let State::Loading(Some(keyed)) = state {
                keyed.restore(known);
            }
        });
    }

    /// Takes in rows of a sidecar.
    pub fn restore_rows(&self, rows: &RecordBatch) -> Result<(), LatestError> {
        self.change(|state| match state {
            State::Loading(Some(keyed)) => keyed.restore_rows(rows),
            _ => Ok(()),
        })
    }

    /// Forgets all that was taken in, for rows with a key of another type.
    pub fn begin_anew(&self, shape: Shape) -> Result<(), LatestError> {
        self.change(|state| {
            if !matches!(state, State::Stopped(_)) {
                *state = State::Loading(Some(Keyed::new(shape)?));
            }
            Ok(())
        })
    }

    /// Forgets all that was taken in.
    pub fn reset(&self) -> Result<(), LatestError> {
        self.change(|state| match state {
            State::Loading(Some(keyed)) => {
                *keyed = keyed.anew()?;
                Ok(())
            }
            _ => Ok(()),
        })
    }

    /// Ends of snapshots that were told, and not swept yet.
    pub fn sweeps(&self) -> Vec<Order> {
        match &*self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.sweeps().collect(),
            _ => Vec::new(),
        }
    }

    /// See [`Keyed::sweep`].
    pub fn sweep(&self, before: Order) {
        self.change(|state| {
            if let State::Loading(Some(keyed)) | State::Kept(Some(keyed)) = state {
                keyed.sweep(before);
            }
        });
    }

    /// The slots of which something is not written down yet, how many there are in all, and what is known beside them;
    /// from now on they count as written down. `None` while rows cannot be read.
    pub fn take_changed(&self) -> Option<(Vec<u32>, usize, Sidecars)> {
        match &mut *self.state.lock() {
            State::Kept(Some(keyed)) => Some((keyed.take_changed(), keyed.stats().keys, keyed.sidecars())),
            _ => None,
        }
    }

    /// See [`Keyed::touched`].
    pub fn touched(&self, slots: &[u32]) -> Result<Vec<ArrayRef>, Unavailable> {
        Ok(self.read(|keyed| keyed.touched(slots))?.unwrap_or_default())
    }

    /// See [`Keyed::written`].
    pub fn written(&self, slots: &[u32]) -> Result<Option<RecordBatch>, Unavailable> {
        self.read(|keyed| keyed.written(slots))
    }

    /// See [`Keyed::take_left`].
    pub fn take_left(&self) -> Result<Option<Vec<ArrayRef>>, Unavailable> {
        Ok(self.read(Keyed::take_left)?.flatten())
    }

    /// All that was known before is here: from now on rows can be read.
    pub fn loaded(&self) {
        self.change(|state| {
            if let State::Loading(keyed) = state {
                *state = State::Kept(keyed.take());
            }
        });
    }

    /// Gives the rows up.
    pub fn stop(&self, reason: String) {
        self.change(|state| *state = State::Stopped(reason));
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let now = self.changes.load(Ordering::Acquire) + 1;
        if let Some(keyed) = state.keyed() {
            keyed.begin_change(now);
        }
        let done = change(&mut state);
        if let Some(keyed) = state.keyed() {
            keyed.end_change(now);
        }
        self.changes.store(now, Ordering::Release);
        done
    }

    fn read<T>(&self, read: impl FnOnce(&mut Keyed) -> Result<T, LatestError>) -> Result<Option<T>, Unavailable> {
        let table = self.name.clone();
        match &mut *self.state.lock() {
            State::Kept(Some(keyed)) => Ok(Some(read(keyed)?)),
            State::Kept(None) => Ok(None),
            State::Loading(_) => Err(Unavailable::Loading { table }),
            State::Stopped(reason) => Err(Unavailable::Stopped { table, reason: reason.clone() }),
        }
    }

    /// See [`Keyed::begin_scan_foreign`].
    pub(super) fn scan_foreign(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        self.scanned(Keyed::begin_scan_foreign)
    }

    /// While rows are put together, others go on.
    fn scanned(&self, begin: impl FnOnce(&Keyed) -> Scan) -> Result<Vec<RecordBatch>, Unavailable> {
        let Some(scan) = self.read(|keyed| Ok(begin(keyed)))? else { return Ok(Vec::new()) };
        let scanned = scan.put_together().map_err(LatestError::from)?;
        if let State::Kept(Some(keyed)) = &mut *self.state.lock() {
            keyed.end_scan(&scanned);
        }
        Ok(scanned.rows())
    }

    /// See [`Keyed::get_foreign`].
    pub(super) fn get_foreign(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable> {
        self.read(|keyed| keyed.get_foreign(keys))
    }

    /// See [`Keyed::lists`].
    pub(super) fn lists(&self, keys: Option<&[ArrayRef]>, column: &str) -> Result<Option<RecordBatch>, Unavailable> {
        let lists = self.read(|keyed| keyed.lists(keys, column))?.flatten();
        Ok(lists.map(Lists::put_together).transpose().map_err(LatestError::from)?)
    }

    /// See [`Keyed::lists_schema`].
    pub(super) fn lists_schema(&self, column: &str) -> SchemaRef {
        match &*self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.lists_schema(column),
            _ => Arc::new(Schema::new(vec![Field::new(fixed::EVENT_TIME, micros(), true)])),
        }
    }

    /// For each of these keys, whether its row was there and is deleted.
    pub(super) fn are_deleted(&self, keys: &[ArrayRef]) -> Result<Vec<bool>, LatestError> {
        match &*self.state.lock() {
            State::Kept(Some(keyed)) => keyed.are_deleted(keys),
            _ => Ok(vec![false; keys.first().map_or(0, |column| column.len())]),
        }
    }
}

impl Rows for LatestTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> &[String] {
        &self.wanted.key
    }

    fn schema(&self) -> SchemaRef {
        match &*self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => Arc::clone(keyed.schema()),
            _ => Arc::new(Schema::new(vec![Field::new(fixed::EVENT_TIME, micros(), true)])),
        }
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn stats(&self) -> Stats {
        match &*self.state.lock() {
            State::Loading(Some(keyed)) | State::Kept(Some(keyed)) => keyed.stats(),
            _ => Stats::default(),
        }
    }

    fn stopped(&self) -> Option<String> {
        match &*self.state.lock() {
            State::Stopped(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    fn is_loading(&self) -> bool {
        matches!(&*self.state.lock(), State::Loading(_))
    }

    fn since(&self, then: u64, most: usize) -> Result<Option<Since>, Unavailable> {
        let since = |keyed: &mut Keyed| {
            let changes = self.changes();
            Ok(keyed.since(then, most)?.map(|(keys, rows)| Since { changes, keys, rows }))
        };
        Ok(self.read(since)?.flatten())
    }

    fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        self.scanned(Keyed::begin_scan)
    }

    fn get(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable> {
        self.read(|keyed| keyed.get(keys))
    }
}
