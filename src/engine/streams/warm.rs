//! What a query that looks back begins with: what it would have kept, had it been there before.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::TryStreamExt;
use tokio::sync::oneshot;
use tracing::warn;

use super::work::Stream;
use crate::engine::lanes::between;
use crate::engine::rows::broken;
use crate::error::Error;
use crate::lake::Positions;
use crate::query::{Continuous, Kept, Memory, Service};
use crate::schema::{fixed, quoted_name};
use crate::stream::{Batch, Micros, remember};
use crate::task;

/// A query that needs the last rows of each key, however old they are, looks for them so far back.
pub const FAR: Micros = 3_600_000_000;

/// A query that learns what it needs from history.
pub struct Warming {
    /// What it will keep.
    learned: oneshot::Receiver<Option<Kept>>,
    /// See [`Memory::fingerprint`].
    fingerprint: String,
    /// What has come meanwhile.
    pub waiting: Vec<Batch>,
}

impl Warming {
    /// Reads what happened of `stream` before what it will hand out next; what has come of it is in its order. Nothing
    /// while it is not known where that is, or when.
    pub fn start(name: &str, query: Arc<Continuous>, stream: &Stream, service: &Service) -> Option<Self> {
        let memory = query.memory()?;
        let (time, passed) = (stream.source.time()?, stream.order.passed());
        // What waits did not happen before `passed`; of what comes it is the first where nothing was handed out yet.
        let before = if passed.is_some() { stream.source.seen()?.clone() } else { stream.place()?.next };
        let newest = passed.or((stream.clock > Micros::MIN).then_some(stream.clock))?;
        let from = newest.saturating_sub(memory.span().unwrap_or(FAR));
        let condition = condition(time, from, passed, &before);
        let place = [time, fixed::TIMESTAMP, fixed::TOPIC, fixed::PARTITION, fixed::OFFSET];
        let columns: BTreeSet<&str> = query.reads().iter().map(String::as_str).chain(place).collect();
        let columns = columns.into_iter().map(quoted_name).collect::<Vec<_>>().join(", ");
        let (name, table, service) = (name.to_owned(), query.stream().to_owned(), service.clone());
        let (tell, learned) = oneshot::channel();
        let fingerprint = memory.fingerprint().to_owned();
        task::spawn("warm-up", async move {
            let (mut kept, mut newest) = (Kept::default(), None);
            let read = async {
                let order = [time, fixed::TOPIC, fixed::PARTITION, fixed::OFFSET, fixed::ROW].join(", ");
                let sql =
                    format!("SELECT {columns} FROM public.{} WHERE {condition} ORDER BY {order}", quoted_name(&table));
                let session = service.session();
                session.set("statement_timeout", "0")?;
                let mut rows = session.query(&sql).await?.run().await?;
                while let Some(rows) = rows.try_next().await? {
                    let batch = Batch::of_records(rows, time).map_err(broken)?;
                    newest = newest.max(batch.times.last().copied());
                    remember(&query, &batch, &mut kept).map_err(broken)?;
                }
                // Windows that were over by then are none of its business.
                if let (Some(memory), Some(until)) = (query.memory(), passed.or(newest)) {
                    memory.pass(until, &mut kept)?;
                }
                Ok::<(), Error>(())
            };
            let outcome = read.await;
            if let Err(error) = &outcome {
                warn!(query = name, error = %error, "history not read");
            }
            let _ = tell.send(outcome.ok().map(|()| kept));
        });
        Some(Self { learned, fingerprint, waiting: Vec::new() })
    }

    /// What was learned, if it is by now; nothing in it if history could not be read.
    pub fn kept(&mut self) -> Option<Option<Kept>> {
        match self.learned.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => None,
            learned => Some(learned.ok().flatten()),
        }
    }

    /// The same, and what has come meanwhile, of a rule, which begins with nothing if it must; of no use if it is
    /// planned otherwise by then.
    pub fn learned(&mut self, memory: Option<&Memory>) -> Option<(Option<Kept>, Vec<Batch>)> {
        let kept = self.kept()?.unwrap_or_default();
        let is_same = memory.is_some_and(|memory| memory.fingerprint() == self.fingerprint);
        Some((is_same.then_some(kept), std::mem::take(&mut self.waiting)))
    }
}

/// SQL that is true of rows that happened since `from`, and not later than `passed`, among those before `next`.
fn condition(time: &str, from: Micros, passed: Option<Micros>, next: &Positions) -> String {
    let moment = |at: Micros| format!("to_timestamp_micros({at})");
    let until = passed.map(|passed| format!(" AND {time} <= {}", moment(passed))).unwrap_or_default();
    let lanes: Vec<_> = next.keys().cloned().collect();
    let below = match lanes.is_empty() {
        true => "false".to_owned(),
        false => between(&lanes, &Positions::new(), next),
    };
    format!("{time} >= {}{until} AND ({below})", moment(from))
}
