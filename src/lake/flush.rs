//! Flushing: a frozen window of hot rows becomes a Delta commit. Per window: schema, data files, the tables beside,
//! dead letters, then the main commit that moves the positions.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::commit::machine::Outcome;
use super::commit::{self, CommitError};
use super::dead_letters::DeadLetters;
use super::positions::{Move, Moves, Positions};
use super::side::SideRows;
use super::table::Table;
use super::view::View;
use crate::task::{Shutdown, failpoint};

/// Pause between attempts while the store cannot be written.
const RETRY: Duration = Duration::from_millis(500);

/// Encoding takes this many times the bytes of a window's rows: the copy that is split by day, and the file.
const ENCODING_FACTOR: usize = 2;
const KIB: usize = 1024;

/// What the tables' commits may take for encoding their files, on top of the rows: they wait for each other.
#[derive(Debug)]
pub struct Encoding {
    permits: Semaphore,
    total_kib: u32,
}

impl Encoding {
    /// Room for `bytes`.
    pub fn new(bytes: usize) -> Self {
        let total_kib = u32::try_from((bytes / KIB).max(1)).unwrap_or(u32::MAX).min(Semaphore::MAX_PERMITS as u32);
        Self { permits: Semaphore::new(total_kib as usize), total_kib }
    }

    /// Waits for room to encode `bytes` of rows; a window that is larger than all of it gets all of it.
    async fn enter(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let wanted = u32::try_from(bytes.saturating_mul(ENCODING_FACTOR) / KIB).unwrap_or(u32::MAX);
        self.permits.acquire_many(wanted.min(self.total_kib)).await.ok()
    }
}

/// What one commit takes: frozen until its outcome is known.
#[derive(Debug)]
pub struct Window {
    bytes: usize,
    schema: SchemaRef,
    schema_version: u32,
    rows: Vec<RecordBatch>,
    dead: Vec<RecordBatch>,
    sides: Vec<SideRows>,
    moves: Moves,
}

impl Window {
    /// What is hot in `view` and in the tables `beside` it, oldest first, until `limit_bytes` are reached; `None` if
    /// nothing moved.
    pub fn freeze(view: &View, beside: &[Arc<View>], limit_bytes: usize) -> Option<Self> {
        let (mut rows, mut dead, mut moves) = (Vec::new(), Vec::new(), Moves::new());
        let mut sides: Vec<SideRows> = beside.iter().map(|view| SideRows::of(view)).collect();
        let mut bytes = 0;
        for batch in view.hot.iter().filter(|batch| batch.end > batch.start) {
            if bytes >= limit_bytes {
                break;
            }
            bytes += batch.bytes();
            sides.iter_mut().zip(&batch.beside).for_each(|(side, beside)| side.add(&beside.rows));
            if batch.rows.num_rows() > 0 {
                rows.push(batch.rows.clone());
            }
            dead.extend(batch.dead.clone());
            let young = !view.positions.contains_key(&batch.lane);
            moves.entry(batch.lane.clone()).and_modify(|step| step.end = step.end.max(batch.end)).or_insert(Move {
                start: batch.start,
                end: batch.end,
                young,
            });
        }
        let (schema, schema_version) = (Arc::clone(&view.schema), view.schema_version);
        let window = Self { bytes, schema, schema_version, rows, dead, sides, moves };
        (!window.moves.is_empty()).then_some(window)
    }

    /// The schema version it was frozen at; no row has a later one.
    pub fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// What it holds for the tables beside, in the order of [`Self::freeze`].
    pub fn sides(&self) -> &[SideRows] {
        &self.sides
    }

    /// Rows to write.
    pub fn rows(&self) -> usize {
        self.rows.iter().map(RecordBatch::num_rows).sum()
    }

    fn ends(&self) -> Positions {
        self.moves.iter().map(|(lane, step)| (lane.clone(), step.end)).collect()
    }
}

/// Commits `window` to `table` and those `beside` it; returns once its outcome is known, however long the store is
/// away. `stop` gives up (nothing is lost: the next start reads the positions and finds out).
pub async fn flush(
    table: &mut Table,
    beside: &mut [Table],
    mut window: Window,
    dead_letters: &DeadLetters,
    encoding: &Encoding,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    failpoint::hit("before_stage");
    evolve(table, &window.schema, window.schema_version, stop).await?;
    let room = encoding.enter(window.bytes).await;
    let adds = loop {
        match table.stage(&window.rows, &window.schema).await {
            Ok(adds) => break adds,
            Err(error) => {
                table.warn("data files not written, trying again", &error);
                pause(stop).await?;
            }
        }
    };
    failpoint::hit("after_stage");
    let ends = window.ends();
    for (table, rows) in beside.iter_mut().zip(std::mem::take(&mut window.sides)) {
        rows.append(table, ends.clone(), stop).await?;
        failpoint::hit("after_side_table");
    }
    drop(room);
    if !window.dead.is_empty() {
        dead_letters.append(table.name(), &window.dead, ends, stop).await?;
        failpoint::hit("after_dead_letters");
    }
    commit::commit_main(table, &adds, window.moves, stop).await
}

/// Appends rows to a table that numbers what it has, however long the store is away: the number of `app_id` is moved by
/// compare-and-swap. [`Outcome::Adopted`] says that the number is given, but not that the rows are these.
pub async fn append_rows(
    table: &mut Table,
    app_id: &str,
    rows: &RecordBatch,
    (before, number): (i64, i64),
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    let schema = rows.schema();
    let adds = loop {
        match table.stage(std::slice::from_ref(rows), &schema).await {
            Ok(adds) => break adds,
            Err(error) => table.warn("rows not written, trying again", &error),
        }
        pause(stop).await?;
    };
    commit::commit_number(table, app_id, &adds, before, number, stop).await
}

/// Brings the table to a schema version, unless it is there already; returns once it is known to be.
pub async fn evolve(
    table: &mut Table,
    schema: &SchemaRef,
    schema_version: u32,
    stop: &Shutdown,
) -> Result<(), CommitError> {
    while let Err(error) = commit::evolve(table, schema, schema_version).await {
        table.warn("schema version not confirmed, trying again", &error);
        pause(stop).await?;
        if let Err(error) = table.refresh().await {
            table.warn("table cannot be read, asking again", &error);
        }
    }
    Ok(())
}

pub(super) async fn pause(stop: &Shutdown) -> Result<(), CommitError> {
    tokio::select! {
        () = tokio::time::sleep(RETRY) => Ok(()),
        () = stop.cancelled() => Err(CommitError::Stopped),
    }
}
