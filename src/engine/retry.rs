//! One page of dead letters that is tried again: what the ingest task of their table is asked, and what it does.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::lanes::lane_of;
use super::replay::{Again, Decided};
use super::status::now_us;
use crate::decode::{Decoded, Event, Records, events_batch, records_of};
use crate::error::{Error, Kind, Result};
use crate::lake::{self, CommitError, DeadLetters, Positions, RecordId, Table, record_ids};
use crate::schema::{Format, SchemaVersion, conform};
use crate::source::Registry;
use crate::task::Shutdown;

/// What became of dead letters, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Their rows are in the table now.
    pub retried: u64,
    /// They still do not become rows.
    pub dead: u64,
    /// The stream has yet to come to them.
    pub later: u64,
}

/// How the ingest task of a table is asked to decode records again.
#[derive(Clone)]
pub struct Retries {
    tasks: mpsc::Sender<Retry>,
    agains: mpsc::Sender<Again>,
    registry: Option<(Registry, Format)>,
}

/// Rows of the dead letters' table to be tried again, and who waits for the answer.
pub struct Retry {
    letters: RecordBatch,
    records: Vec<Records>,
    reply: oneshot::Sender<Result<Retried>>,
}

/// What to tell once statements see the rows.
pub struct Answer {
    reply: oneshot::Sender<Result<Retried>>,
    retried: Retried,
}

impl Retries {
    /// Asks the task at the other ends; the payloads' schemas come from `registry`, if they name any.
    pub fn new(tasks: mpsc::Sender<Retry>, agains: mpsc::Sender<Again>, registry: Option<(Registry, Format)>) -> Self {
        Self { tasks, agains, registry }
    }

    /// What `records` of `table` are by now.
    pub async fn decode(&self, table: &str, records: Records) -> Result<Decided> {
        let records = self.with_schemas(records).await?;
        let (again, answer) = Again::new(records);
        self.agains.send(again).await.map_err(|_| not_fed(table))?;
        answer.await.map_err(|_| Error::new(Kind::Unavailable, format!("table {table} is not fed any more")))?
    }

    async fn with_schemas(&self, records: Records) -> Result<Records> {
        let Some((registry, format)) = &self.registry else { return Ok(records) };
        registry.with_schemas(records, *format).await.map_err(|(_, trouble)| {
            Error::new(Kind::Unavailable, "the schemas of the records cannot be had").because(trouble)
        })
    }

    /// Has `letters`, rows of the dead letters of `table`, tried again.
    pub async fn retry(&self, table: &str, letters: RecordBatch) -> Result<Retried> {
        let unreadable = |error| Error::new(Kind::Internal, "dead letters cannot be read").because(error);
        let mut records = records_of(&letters).map_err(unreadable)?;
        for batch in &mut records {
            *batch = self.with_schemas(batch.clone()).await?;
        }
        let (reply, answer) = oneshot::channel();
        self.tasks.send(Retry { letters, records, reply }).await.map_err(|_| not_fed(table))?;
        answer.await.map_err(|_| {
            Error::new(Kind::Unavailable, "stopped before the retry was done")
                .hint("retry again: what was done is not done twice")
        })?
    }
}

/// Says that nobody is there to decode records of `table` again.
pub fn not_fed(table: &str) -> Error {
    Error::new(Kind::Unavailable, format!("table {table} is not fed, so its records cannot be decoded again"))
        .hint("its contract in schemas/ is what they are decoded with; /readyz says what ingest waits for")
}

impl Retry {
    /// Answers that it cannot be.
    pub fn refuse(self, error: Error) {
        // Who asked may be gone.
        let _ = self.reply.send(Err(error));
    }

    /// The answer, to be given later.
    pub fn answer(self, retried: Retried) -> Answer {
        Answer { reply: self.reply, retried }
    }
}

impl Answer {
    /// Gives it.
    pub fn give(self) {
        let _ = self.reply.send(Ok(self.retried));
    }
}

/// What decoding made of dead letters: rows to append, and what to log then.
pub struct Healed {
    /// For each table of the contract's family.
    rows: Vec<Vec<RecordBatch>>,
    events: RecordBatch,
    retried: Retried,
}

/// Decodes those of the letters that lie below `positions`: the stream brings the others.
pub fn plan(
    retry: &Retry,
    positions: &Positions,
    mut decode: impl FnMut(&Records) -> Result<Option<Decoded>, CommitError>,
) -> Result<Healed, CommitError> {
    // What today's contract skips stays open too: it may be another table's.
    let (mut rows, mut alive): (Vec<Vec<RecordBatch>>, HashSet<RecordId>) = (Vec::new(), HashSet::new());
    for records in &retry.records {
        let lane = lane_of(records);
        let position = positions.get(&lane).copied().unwrap_or(0);
        let Some(decoded) = decode(&records.below_position(position))? else { continue };
        alive.extend(record_ids(&decoded.rows)?);
        let children = decoded.descendants().into_iter().map(|child| &child.rows);
        for (at, batch) in std::iter::once(&decoded.rows).chain(children).enumerate() {
            rows.resize_with(rows.len().max(at + 1), Vec::new);
            rows[at].push(batch.clone());
        }
    }
    let letters = &retry.letters;
    let records = record_ids(letters)?;
    let below = |(lane, offset): &RecordId| positions.get(lane).is_some_and(|position| offset < position);
    let settled: BooleanArray = records.iter().map(|record| Some(alive.contains(record))).collect();
    let healed = filter_record_batch(letters, &settled)?;
    let later = records.iter().filter(|record| !below(record)).count() as u64;
    let retried = healed.num_rows() as u64;
    Ok(Healed {
        rows,
        events: events_batch(Event::Retried, now_us(), &healed)?,
        retried: Retried { retried, dead: records.len() as u64 - retried - later, later },
    })
}

impl Healed {
    /// Memory of the rows, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.rows.iter().flatten().map(RecordBatch::get_array_memory_size).sum()
    }

    /// Appends the rows that are not there yet to `family`, the contract's tables with their schema versions, then
    /// logs the records as retried. A crash in between is healed by the next retry, which finds the rows.
    pub async fn commit(
        self,
        mut family: Vec<(&mut Table, Arc<SchemaVersion>)>,
        dead_letters: &DeadLetters,
        stop: &Shutdown,
    ) -> Result<Retried, CommitError> {
        // The main table last: a record with a row there needs no retry.
        for ((table, version), rows) in family.iter_mut().zip(&self.rows).rev() {
            let schema = version.arrow_schema();
            let rows = rows.iter().map(|rows| conform(rows, &schema)).collect::<Result<Vec<_>, _>>()?;
            lake::retry(table, concat_batches(&schema, &rows)?, version.number, stop).await?;
        }
        if self.events.num_rows() > 0
            && let Some((table, _)) = family.first()
        {
            dead_letters.log(table.name(), self.events, stop).await?;
        }
        Ok(self.retried)
    }
}
