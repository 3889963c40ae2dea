//! The rows of a reference table: all of them are given at once, and stay until others are.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use parking_lot::RwLock;

use super::key::KeyForm;
use super::keyed::Stats;
use super::reader::LatestError;
use super::table::{Rows, Unavailable};

/// Rows that were given.
#[derive(Debug)]
pub struct ReferenceRows {
    name: String,
    key: Vec<String>,
    state: RwLock<State>,
    changes: AtomicU64,
}

#[derive(Debug)]
enum State {
    Loading,
    Known(Arc<Known>),
    /// There never were any.
    Stopped(String),
}

#[derive(Debug)]
struct Known {
    rows: RecordBatch,
    form: KeyForm,
    at: HashMap<Box<[u8]>, u32>,
}

impl ReferenceRows {
    /// The rows of the table `name`, told apart by `key` if it is not empty; none are given yet.
    pub fn new(name: &str, key: &[String]) -> Self {
        let state = RwLock::new(State::Loading);
        Self { name: name.to_owned(), key: key.to_vec(), state, changes: AtomicU64::new(0) }
    }

    /// These are the rows from now on. If they are not told apart by the key, those before stay, and the error says
    /// which row it is.
    pub fn replace(&self, rows: RecordBatch) -> Result<(), String> {
        let known = self.known(rows)?;
        self.set(State::Known(Arc::new(known)));
        Ok(())
    }

    /// These are the rows until the first are given.
    pub fn restore(&self, rows: RecordBatch) -> Result<(), String> {
        let known = self.known(rows)?;
        let mut state = self.state.write();
        if !matches!(&*state, State::Known(_)) {
            *state = State::Known(Arc::new(known));
            self.changes.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// There are none, for this reason; unless some were given before.
    pub fn none(&self, reason: &str) {
        if !matches!(&*self.state.read(), State::Known(_)) {
            self.set(State::Stopped(reason.to_owned()));
        }
    }

    fn set(&self, state: State) {
        *self.state.write() = state;
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn known(&self, rows: RecordBatch) -> Result<Known, String> {
        let schema = rows.schema();
        if let Some(missing) = self.key.iter().find(|name| schema.field_with_name(name).is_err()) {
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(format!("key: no file has a column `{missing}`; there are: {}", names.join(", ")));
        }
        let fault = |error: arrow::error::ArrowError| error.to_string();
        let form = KeyForm::new(&self.key, &schema).map_err(fault)?;
        let mut at = HashMap::new();
        if let Some(keys) = form.of(&rows, &self.key).map_err(fault)? {
            for row in 0..rows.num_rows() {
                let Some(key) = keys.get(row) else {
                    return Err(format!("row {} has no key: {} is null", row + 1, self.key.join(" or ")));
                };
                if let Some(first) = at.insert(key.into(), row as u32) {
                    let value = |name| array_value_to_string(rows.column_by_name(name)?, row).ok();
                    let values: Vec<String> = self.key.iter().filter_map(|name| value(name)).collect();
                    let (key, first) = (self.key.join(", "), first + 1);
                    return Err(format!("rows {first} and {} have the same {key}: {}", row + 1, values.join(", ")));
                }
            }
        }
        Ok(Known { rows, form, at })
    }

    fn read(&self) -> Result<Arc<Known>, Unavailable> {
        let table = self.name.clone();
        match &*self.state.read() {
            State::Known(known) => Ok(Arc::clone(known)),
            State::Loading => Err(Unavailable::Loading { table }),
            State::Stopped(reason) => Err(Unavailable::Stopped { table, reason: reason.clone() }),
        }
    }
}

impl Rows for ReferenceRows {
    fn name(&self) -> &str {
        &self.name
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn schema(&self) -> SchemaRef {
        self.read().map_or_else(|_| Arc::new(Schema::empty()), |known| known.rows.schema())
    }

    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn stats(&self) -> Stats {
        let Ok(known) = self.read() else { return Stats::default() };
        let rows = known.rows.num_rows();
        let keys_bytes: usize = known.at.keys().map(|key| key.len()).sum();
        Stats { rows, keys: known.at.len(), bytes: known.rows.get_array_memory_size() + keys_bytes }
    }

    fn stopped(&self) -> Option<String> {
        match &*self.state.read() {
            State::Stopped(reason) => Some(reason.clone()),
            _ => None,
        }
    }

    fn is_loading(&self) -> bool {
        matches!(&*self.state.read(), State::Loading)
    }

    fn is_reference(&self) -> bool {
        true
    }

    fn scan(&self) -> Result<Vec<RecordBatch>, Unavailable> {
        Ok(vec![self.read()?.rows.clone()])
    }

    fn get(&self, keys: &[ArrayRef]) -> Result<Option<RecordBatch>, Unavailable> {
        let known = self.read()?;
        let found = || {
            let keys = known.form.of_columns(keys)?;
            let mut rows: Vec<u32> = (0..keys.len()).filter_map(|row| known.at.get(keys.get(row)?).copied()).collect();
            rows.sort_unstable();
            rows.dedup();
            take_record_batch(&known.rows, &UInt32Array::from(rows))
        };
        Ok(Some(found().map_err(LatestError::from)?))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};

    use super::*;

    fn rows(ids: &[Option<i64>]) -> RecordBatch {
        let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..ids.len()).map(|at| format!("n{at}"))));
        RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef), ("name", names)])
            .unwrap()
    }

    #[test]
    fn rows_stay_until_others_are_given_that_have_keys() {
        let table = ReferenceRows::new("zones", &["id".to_owned()]);
        assert!(table.is_loading() && table.scan().is_err());
        table.none("no file");
        assert_eq!(table.stopped().as_deref(), Some("no file"));
        table.replace(rows(&[Some(4), Some(5)])).unwrap();
        let asked: ArrayRef = Arc::new(StringArray::from(vec!["5", "9", "5", "x"]));
        let found = table.get(&[asked]).unwrap().unwrap();
        assert_eq!(found.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["n1"]);

        let changes = table.changes();
        assert_eq!(table.replace(rows(&[Some(1), None])).unwrap_err(), "row 2 has no key: id is null");
        assert_eq!(table.replace(rows(&[Some(1), Some(2), Some(1)])).unwrap_err(), "rows 1 and 3 have the same id: 1");
        table.none("no file");
        assert_eq!((table.changes(), table.stats().rows, table.stopped()), (changes, 2, None));
    }

    #[test]
    fn a_key_must_be_in_the_files() {
        let table = ReferenceRows::new("zones", &["zone".to_owned()]);
        let error = table.replace(rows(&[Some(1)])).unwrap_err();
        assert_eq!(error, "key: no file has a column `zone`; there are: id, name");
        let unkeyed = ReferenceRows::new("zones", &[]);
        unkeyed.replace(rows(&[None, None])).unwrap();
        assert_eq!(unkeyed.stats().rows, 2);
    }
}
