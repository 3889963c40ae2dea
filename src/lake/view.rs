//! Hot rows: what a statement sees of a table. A [`View`] is a snapshot of the Delta table, the positions in
//! it, and the rows above those positions that are still in memory. It is swapped as a whole, so a row is
//! seen exactly once: hot or committed, never both, never neither (invariant 2).

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake_core::kernel::EagerSnapshot;
use tokio::sync::watch;

use super::positions::{Positions, TopicPartition};
use super::table::{Table, TableError};
use crate::task::Charge;

/// Rows of the offsets `start..end` of one partition, not yet committed. May hold no row at all (dead
/// letters, skips): it still moves the position.
#[derive(Debug)]
pub struct HotBatch {
    /// The partition it was read from.
    pub lane: TopicPartition,
    /// First offset covered.
    pub start: i64,
    /// Next offset after it.
    pub end: i64,
    /// The rows, in the schema of the version that decoded them.
    pub rows: RecordBatch,
    /// Its dead letters, for the side table; `None` if there are none.
    pub dead: Option<RecordBatch>,
    /// What the same records gave the tables beside this one.
    pub beside: Vec<Arc<HotBatch>>,
    /// What it holds of the budget; given back when the last View that shows it is gone.
    pub charge: Charge,
    /// When its records came from Kafka.
    pub received_at: Instant,
}

impl HotBatch {
    /// Bytes that a commit of it writes, to all tables.
    pub fn bytes(&self) -> usize {
        self.charge.bytes() + self.beside.iter().map(|batch| batch.bytes()).sum::<usize>()
    }
}

/// A consistent state of one table.
#[derive(Debug, Clone)]
pub struct View {
    /// Table name.
    pub table: Arc<str>,
    /// Columns of the newest schema version, in file order.
    pub schema: SchemaRef,
    /// Number of that version.
    pub schema_version: u32,
    /// The committed part; `None` before the table exists.
    pub committed: Option<Arc<EagerSnapshot>>,
    /// The positions in the committed part.
    pub positions: Positions,
    /// The rows above those positions, in order of arrival.
    pub hot: Vec<Arc<HotBatch>>,
    /// Commits in it that brought rows from below the positions: dead letters that were tried again.
    pub retries: u64,
}

impl View {
    /// Table version of the committed part.
    pub fn table_version(&self) -> Option<u64> {
        self.committed.as_ref().map(|snapshot| snapshot.version())
    }

    /// Number of hot rows.
    pub fn hot_rows(&self) -> usize {
        self.hot.iter().map(|batch| batch.rows.num_rows()).sum()
    }

    /// Bytes of hot rows.
    pub fn hot_bytes(&self) -> usize {
        self.hot.iter().map(|batch| batch.charge.bytes()).sum()
    }

    /// Bytes that commits of the hot rows write, those of the tables beside it, too.
    pub fn uncommitted_bytes(&self) -> usize {
        self.hot.iter().map(|batch| batch.bytes()).sum()
    }

    /// Whether the rows of a record can be seen, if it became any.
    pub fn is_seen(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let is = |lane: &TopicPartition| *lane.topic == *topic && lane.partition == partition;
        let committed = self.positions.iter().filter(|(lane, _)| is(lane)).map(|(lane, end)| (lane.incarnation, *end));
        let hot = self.hot.iter().filter(|hot| is(&hot.lane)).map(|hot| (hot.lane.incarnation, hot.end));
        // The newest life of the topic is meant.
        committed.chain(hot).max().is_some_and(|(_, end)| end > offset)
    }

    fn drop_hot_below(&mut self, positions: &Positions) {
        self.hot.retain(|batch| positions.get(&batch.lane).is_none_or(|position| batch.end > *position));
    }
}

/// The current View of a table. Many read, one task writes.
#[derive(Debug)]
pub struct LiveView {
    view: ArcSwap<View>,
    changed: watch::Sender<()>,
}

impl LiveView {
    /// Starts with `view`.
    pub fn new(view: View) -> Self {
        Self { view: ArcSwap::from_pointee(view), changed: watch::Sender::new(()) }
    }

    /// Pins the View as it is now.
    pub fn pin(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Tells of each change from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Shows `batch` from now on.
    pub fn push(&self, batch: Arc<HotBatch>) {
        self.change(|view| view.hot.push(batch));
    }

    /// Shows the columns of a newer schema version from now on.
    pub fn evolve(&self, schema: SchemaRef, schema_version: u32) {
        self.change(|view| (view.schema, view.schema_version) = (schema, schema_version));
    }

    /// Moves on to a newer snapshot of `table`: rows that it holds stop being hot in the same instant.
    pub fn committed(&self, table: &Table) -> Result<(), TableError> {
        let (snapshot, positions) = (table.snapshot()?, table.positions_of(table.name()));
        self.change(|view| {
            view.drop_hot_below(&positions);
            (view.committed, view.positions, view.retries) = (Some(snapshot), positions, table.retries());
        });
        Ok(())
    }

    /// The same for a table beside the main one, which stands at `main`. Its `own` positions may be ahead, after a
    /// crash: what lies below them is not shown twice, but it is hot until the main table has passed it.
    pub fn committed_beside(&self, snapshot: Arc<EagerSnapshot>, own: Positions, main: &Positions) {
        self.change(|view| {
            view.drop_hot_below(main);
            view.committed = Some(snapshot);
            view.positions = own;
            for (lane, position) in main {
                view.positions.entry(lane.clone()).and_modify(|own| *own = (*own).max(*position)).or_insert(*position);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.view.load());
        change(&mut view);
        self.view.store(Arc::new(view));
        self.changed.send_replace(());
    }
}
