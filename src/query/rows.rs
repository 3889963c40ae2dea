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
use super::threads::{Task, Threads};
use super::{error, wire};
use crate::error::{Error, Kind, Result};

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

/// Rows as they come.
pub(super) fn pump(
    threads: &Threads,
    stream: BoxStream<'static, Result<RecordBatch>>,
    schema: SchemaRef,
    deadline: Deadline,
    patience: Duration,
    entry: Entry,
) -> Rows {
    let (sender, batches) = mpsc::channel(AHEAD);
    let outcome = Outcome::default();
    let (shared, to) = (Arc::clone(&outcome), Arc::clone(&schema));
    let task = threads.spawn(async move {
        let result = drive(stream, &to, &sender, (deadline, patience), &entry).await;
        *shared.lock() = Some(result);
        drop((entry, sender));
    });
    Rows { schema, source: Source::Task { batches, outcome, _task: task } }
}

async fn drive(
    mut stream: BoxStream<'static, Result<RecordBatch>>,
    schema: &SchemaRef,
    sender: &mpsc::Sender<RecordBatch>,
    (deadline, patience): (Deadline, Duration),
    entry: &Entry,
) -> Result<()> {
    while let Some(batch) = until(deadline, stream.next()).await? {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        let batch = wire::batch(&batch, schema).map_err(|e| error::from_datafusion(e.into(), ""))?;
        entry.made(batch.num_rows());
        match until(deadline, tokio::time::timeout(patience, sender.send(batch))).await? {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Error::new(Kind::Cancelled, "the query was cancelled")),
            Err(_) => {
                let text = format!("the client took no rows for {} s, so the query was ended", patience.as_secs());
                return Err(Error::new(Kind::Unavailable, text).hint("run it again"));
            }
        }
    }
    Ok(())
}

/// `work`, unless the deadline comes first.
pub(super) async fn until<T>(deadline: Deadline, work: impl Future<Output = T>) -> Result<T> {
    let Some((at, allowed)) = deadline else { return Ok(work.await) };
    timeout_at(at, work).await.map_err(|_| {
        let text = format!("the statement took longer than its time-out of {} ms", allowed.as_millis());
        Error::new(Kind::Deadline, text).hint("read less, or SET statement_timeout = '10min'")
    })
}
