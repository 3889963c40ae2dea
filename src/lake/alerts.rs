//! What is written down of alerts.
//!
//! ```text
//! _millpond/alerts/journal/<number>.json   transitions from that number on, as soon as they are told
//! _millpond/alerts/state/<epoch>.json      all that is known of keys, every few seconds; the newest counts
//! system/alerts                            the transitions as a Delta table; txn `alerts` = the number of the last one
//! ```
//! A journal object is deleted once a state and the Delta table have what it says. What the objects hold is the business
//! of whoever writes them.

use std::collections::BTreeSet;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{Error as StoreError, ObjectStoreExt as _};
use parking_lot::Mutex;

use super::Lake;
use super::commit::CommitError;
use super::commit::machine::Outcome;
use super::flush::append_rows;
use super::states::{self, States, create, delete, path};
use super::table::Table;
use crate::task::Shutdown;

const STATES: &str = "_millpond/alerts/state";
const JOURNAL: &str = "_millpond/alerts/journal";
/// Requests under way at once.
const REQUESTS: usize = 8;
/// The number of the last transition in `system.alerts`.
const TXN: &str = "alerts";

/// The objects.
pub struct AlertFiles {
    lake: Lake,
    states: States,
    /// Numbers of the objects that are there, or may be.
    journal: Mutex<BTreeSet<u64>>,
}

/// What was found.
#[derive(Debug, Default)]
pub struct FoundAlerts {
    /// The newest state and its epoch.
    pub state: Option<(u64, Bytes)>,
    /// The journal, in its order.
    pub journal: Vec<Bytes>,
}

impl AlertFiles {
    /// Reads what is there.
    pub async fn open(lake: &Lake) -> Result<(Self, FoundAlerts), StoreError> {
        let (states, state) = States::open(lake, STATES).await?;
        let store = lake.stores().commit();
        let journal = states::numbers(store, JOURNAL).await?;
        let read = stream::iter(journal.clone())
            .map(|number| async move { store.get(&path(JOURNAL, number)).await?.bytes().await });
        let found = FoundAlerts { state, journal: read.buffered(REQUESTS).try_collect().await? };
        Ok((Self { lake: lake.clone(), states, journal: Mutex::new(journal) }, found))
    }

    /// Writes the state of `epoch`. False if somebody else has written one.
    pub async fn write_state(&self, epoch: u64, bytes: Bytes) -> Result<bool, StoreError> {
        self.states.write(epoch, bytes).await
    }

    /// Writes transitions from `number` on. False if somebody else has.
    pub async fn write_journal(&self, number: u64, bytes: Bytes) -> Result<bool, StoreError> {
        self.journal.lock().insert(number);
        create(&self.lake, &path(JOURNAL, number), bytes).await
    }

    /// Deletes states but the newest ones, and journal objects all of whose transitions are before `number`.
    pub async fn tidy(&self, number: u64) -> Result<(), StoreError> {
        self.states.tidy().await?;
        let journal: Vec<u64> = self.journal.lock().iter().copied().collect();
        // One ends where the next begins.
        for gone in journal.windows(2).filter(|two| two[1] <= number).map(|two| two[0]) {
            delete(self.lake.stores().commit(), &path(JOURNAL, gone)).await?;
            self.journal.lock().remove(&gone);
        }
        Ok(())
    }
}

/// `system.alerts`: the transitions, each once.
pub struct AlertLog {
    table: Table,
    /// Version of its last checkpoint.
    checkpoint: u64,
}

impl AlertLog {
    /// Over the opened Delta table.
    pub fn new(table: Table) -> Self {
        Self { checkpoint: table.version(), table }
    }

    /// The number of the last transition in it.
    pub fn last(&self) -> u64 {
        self.table.number(TXN).and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
    }

    /// The table as it is now.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Appends transitions behind the last one, up to number `last`, however long the store is away. False if another
    /// writer has.
    pub async fn append(&mut self, last: u64, rows: RecordBatch, stop: &Shutdown) -> Result<bool, CommitError> {
        let numbers = (self.last().cast_signed(), last.cast_signed());
        let outcome = append_rows(&mut self.table, TXN, &rows, numbers, stop).await?;
        self.table.checkpoint_when_due(&mut self.checkpoint).await;
        // Whoever moves the number to where we wanted it is ourselves, and the answer was lost: there is one writer.
        Ok(matches!(outcome, Outcome::Landed | Outcome::Adopted))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;
    use crate::lake::store::testing::{Moody, stores};
    use crate::lake::{Positions, SYSTEM, commit};

    fn bytes(text: &str) -> Bytes {
        Bytes::from(text.to_owned())
    }

    #[tokio::test]
    async fn the_newest_state_and_the_journal_are_found_and_what_nobody_needs_is_deleted() {
        let moody = Arc::new(Moody::default());
        let lake = Lake::new(stores(moody.clone()));
        let store = lake.stores().commit();
        let (files, found) = AlertFiles::open(&lake).await.unwrap();
        assert!(found.state.is_none() && found.journal.is_empty());
        moody.lose_next_answer.store(true, Ordering::SeqCst);
        assert!(files.write_state(1, bytes("one")).await.unwrap(), "a lost answer is no rival");
        for epoch in 2..5 {
            assert!(files.write_state(epoch, bytes(&format!("state {epoch}"))).await.unwrap());
        }
        for number in [1, 4, 9, 10] {
            assert!(files.write_journal(number, bytes(&format!("from {number}"))).await.unwrap());
        }
        // Somebody who did not see them is another process.
        let (other, _) = AlertFiles::open(&lake).await.unwrap();
        assert!(!other.write_state(4, bytes("mine")).await.unwrap());
        assert!(!other.write_journal(9, bytes("mine")).await.unwrap());

        // All before 9 are kept elsewhere: the object from 9 on may hold some that are not.
        files.tidy(9).await.unwrap();
        let (files, found) = AlertFiles::open(&lake).await.unwrap();
        assert_eq!(found.state, Some((4, bytes("state 4"))));
        assert_eq!(found.journal, [bytes("from 9"), bytes("from 10")]);
        assert_eq!(states::numbers(store, STATES).await.unwrap(), BTreeSet::from([3, 4]));
        let (late, _) = AlertFiles::open(&lake).await.unwrap();
        for epoch in 5..8 {
            assert!(files.write_state(epoch, bytes(&format!("state {epoch}"))).await.unwrap());
        }
        files.tidy(1_000).await.unwrap();
        assert!(!late.write_state(5, bytes("mine")).await.unwrap(), "its place is free again, but not its time");
        assert_eq!(
            states::numbers(store, JOURNAL).await.unwrap(),
            BTreeSet::from([10]),
            "nobody knows where the last one ends"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_transition_is_in_the_log_once() {
        let moody = Arc::new(Moody::default());
        let lake = Lake::new(stores(moody.clone()));
        let rows = |numbers: &[i64]| {
            let numbers: ArrayRef = Arc::new(Int64Array::from(numbers.to_vec()));
            RecordBatch::try_from_iter_with_nullable([("number", numbers, true)]).unwrap()
        };
        let schema = rows(&[]).schema();
        let table = commit::create(&lake, SYSTEM, "alerts", &schema, &[], 0, &Positions::new()).await.unwrap();
        let (mut log, stop) = (AlertLog::new(table), Shutdown::new());
        assert_eq!(log.last(), 0);
        assert!(log.append(3, rows(&[1, 2, 3]), &stop).await.unwrap());
        moody.lose_next_answer.store(true, Ordering::SeqCst);
        assert!(log.append(5, rows(&[4, 5]), &stop).await.unwrap(), "it is there, and the answer was lost");
        assert_eq!(log.last(), 5);
        let again = AlertLog::new(lake.open(SYSTEM, "alerts").await.unwrap().unwrap());
        assert_eq!((again.last(), again.table().files()), (5, 2));
    }
}
