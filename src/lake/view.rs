//! Hot rows: what a statement sees of a table. A [`View`] is a snapshot of the Delta table, the positions in
//! it, and the rows above those positions that are still in memory. It is swapped as a whole, so a row is
//! seen exactly once: hot or committed, never both, never neither (invariant 2).

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use arrow::array::Int64Array;
use arrow::compute::filter_record_batch;
use arrow::compute::kernels::cmp::gt_eq;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake_core::kernel::EagerSnapshot;
use tokio::sync::watch;

use super::positions::{Positions, TopicPartition};
use super::table::{Table, TableError};
use crate::schema::fixed::OFFSET;
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
    /// The rows of records at `position` and later ones.
    fn rows_from(&self, position: i64) -> RecordBatch {
        let offsets = self.rows.column_by_name(OFFSET);
        let is_later = offsets.map(|offsets| gt_eq(offsets, &Int64Array::new_scalar(position)));
        let later = is_later.and_then(|is_later| filter_record_batch(&self.rows, &is_later.ok()?).ok());
        // Every table that Kafka feeds has offsets, and a filter as long as its rows fits them.
        later.unwrap_or_else(|| self.rows.clone())
    }

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
    /// Commits in it that replaced rows below the positions ([`Table::remade`]).
    pub remade: i64,
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

    /// The hot rows that the committed part does not hold. (A table beside another may hold rows that the other one does
    /// not, after a crash: they come again.)
    pub fn shown_hot(&self) -> Vec<RecordBatch> {
        let shown = |batch: &Arc<HotBatch>| match self.positions.get(&batch.lane) {
            Some(position) if *position > batch.start => batch.rows_from(*position),
            _ => batch.rows.clone(),
        };
        self.hot.iter().map(shown).filter(|rows| rows.num_rows() > 0).collect()
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

    /// True if `snapshot` is newer, or of another table of this name.
    fn is_before(&self, snapshot: &EagerSnapshot) -> bool {
        self.committed.as_ref().is_none_or(|known| {
            known.version() < snapshot.version() || known.metadata().id() != snapshot.metadata().id()
        })
    }

    fn raise(&mut self, positions: &Positions) {
        for (lane, position) in positions {
            let known = self.positions.entry(lane.clone()).or_insert(*position);
            *known = (*known).max(*position);
        }
    }

    fn drop_hot_below(&mut self, positions: &Positions) {
        self.hot.retain(|batch| positions.get(&batch.lane).is_none_or(|position| batch.end > *position));
    }
}

/// The current View of a table. Many read; the task that feeds the table writes, and who cares for its files.
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
        self.change(|view| view.hot.push(Arc::clone(&batch)));
    }

    /// Shows the columns of a newer schema version from now on.
    pub fn evolve(&self, schema: SchemaRef, schema_version: u32) {
        self.change(|view| (view.schema, view.schema_version) = (Arc::clone(&schema), schema_version));
    }

    /// Moves on to a newer snapshot of `table`: rows that it holds stop being hot in the same instant. One that is older
    /// than what is shown changes nothing: whoever cares for the table shows what it made of it, too.
    pub fn committed(&self, table: &Table) -> Result<(), TableError> {
        let (snapshot, positions) = (table.snapshot()?, table.positions_of(table.name()));
        self.change(|view| {
            view.drop_hot_below(&positions);
            if view.is_before(&snapshot) {
                view.committed = Some(Arc::clone(&snapshot));
                (view.positions, view.retries) = (positions.clone(), table.retries());
                view.remade = table.remade();
            }
        });
        Ok(())
    }

    /// The same for a table beside the main one, which stands at `main`. Its own positions may be ahead, after a
    /// crash: what lies below them is not shown twice, but it is hot until the main table has passed it.
    pub fn committed_beside(&self, table: &Table, main: &Positions) -> Result<(), TableError> {
        let (snapshot, own) = (table.snapshot()?, table.positions_of(table.name()));
        self.change(|view| {
            view.drop_hot_below(main);
            if view.is_before(&snapshot) {
                view.committed = Some(Arc::clone(&snapshot));
            }
            view.raise(&own);
            view.raise(main);
        });
        Ok(())
    }

    /// Shows the files that `table` has after some were replaced by others with the same rows, unless it shows newer ones.
    pub fn rewritten(&self, table: &Table) -> Result<(), TableError> {
        let (snapshot, own) = (table.snapshot()?, table.positions_of(table.name()));
        self.change(|view| {
            if view.is_before(&snapshot) {
                view.committed = Some(Arc::clone(&snapshot));
                // Commits of rows may be in it that are not shown yet; those of a table beside another stay hot.
                view.raise(&own);
                view.retries = view.retries.max(table.retries());
                view.remade = table.remade();
            }
        });
        Ok(())
    }

    /// Shows `view` instead.
    pub fn show(&self, view: View) {
        self.view.store(Arc::new(view));
        self.changed.send_replace(());
    }

    /// Shows the rows and the columns that `table` has, all at once.
    pub fn remade(&self, table: &Table) -> Result<(), TableError> {
        let (snapshot, schema, schema_version) = (table.snapshot()?, table.arrow_schema()?, table.schema_version());
        self.change(|view| {
            if view.is_before(&snapshot) {
                view.committed = Some(Arc::clone(&snapshot));
                (view.schema, view.schema_version) = (Arc::clone(&schema), schema_version);
            }
        });
        Ok(())
    }

    fn change(&self, change: impl Fn(&mut View)) {
        self.view.rcu(|view| {
            let mut view = View::clone(view);
            change(&mut view);
            view
        });
        self.changed.send_replace(());
    }
}
