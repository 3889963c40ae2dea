//! Rows on their way to a client. A task drives the plan, so that a deadline or a client that stopped reading ends
//! it, and lets go of the tables it pinned, even when nobody asks for the next row.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::activity::Entry;
use super::result_cache::Keep;
use super::threads::{Task, Threads};
use super::{error, wire};
use crate::error::{Error, Kind, Result};

/// A client that takes this long for a batch lets other statements have the turn of its own.
const SLOW: Duration = Duration::from_millis(50);
/// Batches made ahead of the client.
const AHEAD: usize = 2;
/// How long a client may leave a batch lying …
pub(super) const STALLED: Duration = Duration::from_secs(60);
/// … and one that asks for a page of rows when somebody turns to it.
pub(super) const PAGED: Duration = Duration::from_secs(600);

/// A result: its wire schema, and batches in it. Dropping it cancels the query.
pub struct Rows {
    schema: SchemaRef,
    source: Source,
}

enum Source {
    Ready(std::vec::IntoIter<RecordBatch>),
    Task { batches: mpsc::Receiver<RecordBatch>, outcome: Outcome, _task: Task<()> },
    Done,
}

/// How the task ended: set before its channel closes, so a task that died is not taken for one that finished.
type Outcome = Arc<Mutex<Option<Result<()>>>>;
/// When a statement must be over, and what was allowed.
pub(super) type Deadline = Option<(Instant, Duration)>;

impl Rows {
    /// The wire schema of every batch.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// All batches.
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        self.try_collect().await
    }
}

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut self.source {
            Source::Done => Poll::Ready(None),
            Source::Ready(batches) => Poll::Ready(batches.next().map(Ok)),
            Source::Task { batches, outcome, .. } => {
                let Poll::Ready(next) = batches.poll_recv(context) else { return Poll::Pending };
                if let Some(batch) = next {
                    return Poll::Ready(Some(Ok(batch)));
                }
                let outcome = outcome.lock().take();
                self.source = Source::Done;
                match outcome {
                    Some(Ok(())) => Poll::Ready(None),
                    Some(Err(error)) => Poll::Ready(Some(Err(error))),
                    None => Poll::Ready(Some(Err(Error::new(Kind::Internal, "the query stopped before its end")))),
                }
            }
        }
    }
}

/// Rows that are there already.
pub(super) fn ready(schema: SchemaRef, batches: Vec<RecordBatch>) -> Rows {
    Rows { schema, source: Source::Ready(batches.into_iter()) }
}

/// How rows are made.
pub(super) struct Pump {
    /// Their wire schema.
    pub(super) schema: SchemaRef,
    pub(super) deadline: Deadline,
    /// How long the client may leave a batch lying.
    pub(super) patience: Duration,
    /// The most that may come.
    pub(super) most: Most,
    /// The statement, which has its turn.
    pub(super) entry: Entry,
    /// Where the result is kept, if it is.
    pub(super) keep: Option<Keep>,
}

/// The most that one statement may send.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Most {
    pub(super) rows: Option<u64>,
    pub(super) bytes: Option<u64>,
}

impl Pump {
    /// Rows as they come.
    pub(super) fn start(self, threads: &Threads, stream: BoxStream<'static, Result<RecordBatch>>) -> Rows {
        let (sender, batches) = mpsc::channel(AHEAD);
        let outcome = Outcome::default();
        let (shared, schema) = (Arc::clone(&outcome), Arc::clone(&self.schema));
        let task = threads.spawn(async move {
            let result = self.drive(stream, &sender).await;
            *shared.lock() = Some(result);
            drop(sender);
        });
        Rows { schema, source: Source::Task { batches, outcome, _task: task } }
    }

    async fn drive(
        mut self,
        mut stream: BoxStream<'static, Result<RecordBatch>>,
        sender: &mpsc::Sender<RecordBatch>,
    ) -> Result<()> {
        let (mut rows, mut bytes) = (0, 0);
        while let Some(batch) = until(self.deadline, self.entry.unless_cancelled(stream.next())).await?? {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            let batch = wire::batch(&batch, &self.schema).map_err(|e| error::from_datafusion(e.into(), ""))?;
            self.entry.made(batch.num_rows());
            rows += batch.num_rows() as u64;
            if self.most.bytes.is_some() {
                bytes += wire::bytes(&batch) as u64;
            }
            self.most.check(rows, bytes)?;
            self.keep = self.keep.take().and_then(|keep| keep.and(&batch));
            self.send(sender, batch).await?;
        }
        if let Some(keep) = self.keep {
            keep.finish();
        }
        Ok(())
    }

    async fn send(&mut self, sender: &mpsc::Sender<RecordBatch>, batch: RecordBatch) -> Result<()> {
        let gone = |_| Error::new(Kind::Cancelled, "the query was cancelled");
        let room = match tokio::time::timeout(SLOW.min(self.patience), sender.reserve()).await {
            Ok(room) => room.map_err(gone)?,
            Err(_) => {
                self.entry.give_turn_back();
                // Nobody knows how long it would be held.
                self.keep = None;
                let patience = self.patience;
                let taken = self.entry.unless_cancelled(tokio::time::timeout(patience, sender.reserve()));
                let Ok(room) = until(self.deadline, taken).await?? else {
                    let text = format!("the client took no rows for {} s, so the query was ended", patience.as_secs());
                    return Err(Error::new(Kind::Unavailable, text).hint("run it again"));
                };
                let room = room.map_err(gone)?;
                until(self.deadline, self.entry.take_turn()).await??;
                room
            }
        };
        room.send(batch);
        Ok(())
    }
}

impl Most {
    fn check(self, rows: u64, bytes: u64) -> Result<()> {
        let over = |most: Option<u64>, have: u64| most.filter(|most| have > *most);
        let text = match (over(self.rows, rows), over(self.bytes, bytes)) {
            (Some(most), _) => format!("the result has more than the {most} rows that your role may read at once"),
            (None, Some(most)) => format!("the result has more than the {most} bytes that your role may read at once"),
            (None, None) => return Ok(()),
        };
        Err(Error::new(Kind::Exhausted, text).hint("aggregate, filter, or add LIMIT"))
    }
}

/// `work`, unless the deadline comes first.
pub(super) async fn until<T>(deadline: Deadline, work: impl Future<Output = T>) -> Result<T> {
    let Some((at, allowed)) = deadline else { return Ok(work.await) };
    timeout_at(at, work).await.map_err(|_| {
        let text = format!("the statement took longer than its time-out of {} ms", allowed.as_millis());
        Error::new(Kind::Deadline, text).hint("read less, or SET statement_timeout = '10min'")
    })
}
