//! Flushing: a frozen window of hot rows becomes a Delta commit. Per window: schema, data files, dead
//! letters, then the main commit that moves the positions.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use tracing::warn;

use super::commit::machine::Outcome;
use super::commit::{self, CommitError};
use super::dead_letters::DeadLetters;
use super::positions::{Move, Moves, Positions};
use super::table::Table;
use super::view::View;
use crate::task::{Shutdown, failpoint};

/// Pause between attempts while the store cannot be written.
const RETRY: Duration = Duration::from_millis(500);

/// What one commit takes: frozen until its outcome is known.
#[derive(Debug)]
pub struct Window {
    schema: SchemaRef,
    schema_version: u32,
    rows: Vec<RecordBatch>,
    dead: Vec<RecordBatch>,
    moves: Moves,
}

impl Window {
    /// What is hot in `view`, oldest first, until `limit_bytes` are reached; `None` if nothing moved.
    pub fn freeze(view: &View, limit_bytes: usize) -> Option<Self> {
        let (mut rows, mut dead, mut moves) = (Vec::new(), Vec::new(), Moves::new());
        let mut bytes = 0;
        for batch in view.hot.iter().filter(|batch| batch.end > batch.start) {
            if bytes >= limit_bytes {
                break;
            }
            bytes += batch.charge.bytes();
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
        let window = Self { schema: Arc::clone(&view.schema), schema_version: view.schema_version, rows, dead, moves };
        (!window.moves.is_empty()).then_some(window)
    }

    /// The schema version it was frozen at; no row has a later one.
    pub fn schema_version(&self) -> u32 {
        self.schema_version
    }

    /// Rows to write.
    pub fn rows(&self) -> usize {
        self.rows.iter().map(RecordBatch::num_rows).sum()
    }

    fn ends(&self) -> Positions {
        self.moves.iter().map(|(lane, step)| (lane.clone(), step.end)).collect()
    }
}

/// Commits `window`; returns once its outcome is known, however long the store is away. `stop` gives up
/// (nothing is lost: the next start reads the positions and finds out).
pub async fn flush(
    table: &mut Table,
    window: Window,
    dead_letters: &DeadLetters,
    stop: &Shutdown,
) -> Result<Outcome, CommitError> {
    failpoint::hit("before_stage");
    evolve(table, &window.schema, window.schema_version, stop).await?;
    let adds = loop {
        match table.stage(&window.rows, &window.schema).await {
            Ok(adds) => break adds,
            Err(error) => {
                warn!(table = %table.name(), error = %error, "data files not written, trying again");
                pause(stop).await?;
            }
        }
    };
    failpoint::hit("after_stage");
    if !window.dead.is_empty() {
        dead_letters.append(table.name(), &window.dead, window.ends(), stop).await?;
        failpoint::hit("after_dead_letters");
    }
    commit::commit_main(table, &adds, window.moves, stop).await
}

/// Brings the table to a schema version, unless it is there already; returns once it is known to be.
pub async fn evolve(
    table: &mut Table,
    schema: &SchemaRef,
    schema_version: u32,
    stop: &Shutdown,
) -> Result<(), CommitError> {
    while let Err(error) = commit::evolve(table, schema, schema_version).await {
        warn!(table = %table.name(), error = %error, "schema version not confirmed, trying again");
        pause(stop).await?;
        if let Err(error) = table.refresh().await {
            warn!(table = %table.name(), error = %error, "table cannot be read, asking again");
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
