//! What people do with dead letters: look at them (by SQL, see [`letters_sql`]), retry them, give them up.
//!
//! `system.dead_letters` is a log of events. A record is open until the log says that it was retried or discarded; if
//! it says both, its rows are in the table, so it was retried. Both are done in pages, one commit for each. A retry is
//! carried out by the ingest task of the table, its one writer; without a server, by one that has nothing to read.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use super::catalog::EngineCatalog;
use super::idle::Idle;
use super::retry::{Retried, not_fed};
use super::status::now_us;
use super::{Variables, as_writer, committed, service};
use crate::config::Project;
use crate::decode::{Event, events_batch};
use crate::error::{Error, Kind, Result};
use crate::lake::Lake;
use crate::query::Service;
use crate::task::Shutdown;

/// Name of the admin action of a [`Request`].
pub const ACTION: &str = "millpond.dead_letters";
/// Letters of one page …
const PAGE_ROWS: usize = 10_000;
/// … or so many bytes of them.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// What to do with dead letters that are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Decode them again; those that can be rows by now become rows.
    Retry,
    /// Give them up.
    Discard,
}

/// Which dead letters, and what to do with them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to do.
    pub what: What,
    /// Letters of this table …
    pub table: String,
    /// … dead for this reason (a code; any if none is given) …
    pub reason: Option<String>,
    /// … but not more than so many, in the order of the stream.
    pub limit: Option<u64>,
}

/// What was done, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What became of those that were retried.
    #[serde(flatten)]
    pub retried: Retried,
    /// Given up.
    pub discarded: u64,
}

/// A query of all dead letters, each once, with its `state` (`dead`, `retried`, `discarded`) and since when it has it.
pub fn letters_sql() -> String {
    const ID: &str = "table_name, _topic, _incarnation, _partition, _offset";
    format!(
        "SELECT l.table_name, coalesce(s.state, '{dead}') AS state, s.state_since, l._topic, l._incarnation, \
         l._partition, l._offset, l._row, l._timestamp, l.reason, l.message, l.schema_version, l.key, l.payload, l.headers \
         FROM system.dead_letters l LEFT JOIN (SELECT {ID}, max(event) AS state, max(event_at) AS state_since \
         FROM system.dead_letters WHERE event IN ('{retried}', '{discarded}') GROUP BY {ID}) s \
         ON l.table_name = s.table_name AND l._topic = s._topic AND l._incarnation = s._incarnation \
         AND l._partition = s._partition AND l._offset = s._offset \
         WHERE coalesce(l.event, '{dead}') = '{dead}'",
        dead = Event::Dead.code(),
        retried = Event::Retried.code(),
        discarded = Event::Discarded.code(),
    )
}

/// `text` as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Carries out requests.
#[derive(Clone)]
pub struct Desk {
    service: Service,
    catalog: Arc<EngineCatalog>,
    abort: Shutdown,
}

impl Desk {
    /// A desk that reads by `service` and writes to the tables of `catalog` until `abort`.
    pub(super) fn new(service: Service, catalog: Arc<EngineCatalog>, abort: Shutdown) -> Self {
        Self { service, catalog, abort }
    }

    /// Carries out `request`, to its end.
    pub async fn run(&self, request: &Request) -> Result<Done> {
        if !self.catalog.fed().tables.contains_key(&request.table) {
            return Err(Error::new(Kind::NotFound, format!("there is no table `{}`", request.table)));
        }
        let log = self.catalog.dead_letters.get().ok_or_else(|| {
            Error::new(Kind::Unavailable, "dead letters cannot be changed before ingest has started")
                .hint("/readyz says what it waits for")
        })?;
        let mut done = Done::default();
        let (mut after, mut left) = (None, request.limit.unwrap_or(u64::MAX));
        while left > 0
            && let Some(letters) = self.page(request, after.as_ref(), left).await?
        {
            left -= letters.num_rows() as u64;
            after = Place::of_last(&letters);
            match request.what {
                What::Retry => {
                    let Retried { retried, dead, later } = self.retry(&request.table, letters).await?;
                    done.retried.retried += retried;
                    done.retried.dead += dead;
                    done.retried.later += later;
                }
                What::Discard => {
                    let events = events_batch(Event::Discarded, now_us(), &letters);
                    let events = events.map_err(|error| Error::new(Kind::Internal, "not logged").because(error))?;
                    log.log(&request.table, events, &self.abort).await?;
                    done.discarded += letters.num_rows() as u64;
                }
            }
        }
        Ok(done)
    }

    async fn retry(&self, table: &str, letters: RecordBatch) -> Result<Retried> {
        let retries = self.catalog.retries.read().get(table).cloned();
        retries.ok_or_else(|| not_fed(table))?.retry(table, letters).await
    }

    /// The next open letters after `after`, in the order of the stream; `None` if there are no more.
    async fn page(&self, request: &Request, after: Option<&Place>, limit: u64) -> Result<Option<RecordBatch>> {
        let mut wanted = format!("state = 'dead' AND table_name = {}", literal(&request.table));
        if let Some(reason) = &request.reason {
            wanted.push_str(&format!(" AND reason = {}", literal(reason)));
        }
        if let Some(place) = after {
            wanted.push_str(&format!(" AND {}", place.passed()));
        }
        let limit = limit.min(PAGE_ROWS as u64);
        let sql = format!(
            "SELECT * FROM ({}) WHERE {wanted} ORDER BY _topic, _incarnation, _partition, _offset LIMIT {limit}",
            letters_sql()
        );
        let mut rows = self.service.session().query(&sql).await?.run().await?;
        let (schema, mut batches, mut bytes) = (rows.schema(), Vec::new(), 0);
        while bytes < PAGE_BYTES
            && let Some(batch) = rows.next().await.transpose()?
        {
            bytes += batch.get_array_memory_size();
            batches.push(batch);
        }
        let page = concat_batches(&schema, &batches)
            .map_err(|error| Error::new(Kind::Internal, "dead letters cannot be read").because(error))?;
        Ok((page.num_rows() > 0).then_some(page))
    }
}

/// Where a page ended.
struct Place {
    topic: String,
    incarnation: i32,
    partition: i32,
    offset: i64,
}

impl Place {
    fn of_last(letters: &RecordBatch) -> Option<Self> {
        let last = letters.num_rows().checked_sub(1)?;
        let int = |name: &str| Some(letters.column_by_name(name)?.as_primitive_opt::<Int32Type>()?.value(last));
        Some(Self {
            topic: letters.column_by_name("_topic")?.as_string_opt::<i32>()?.value(last).to_owned(),
            incarnation: int("_incarnation")?,
            partition: int("_partition")?,
            offset: letters.column_by_name("_offset")?.as_primitive_opt::<Int64Type>()?.value(last),
        })
    }

    /// SQL that is true of what comes after it.
    fn passed(&self) -> String {
        let Self { topic, incarnation, partition, offset } = self;
        let topic = literal(topic);
        format!(
            "(_topic > {topic} OR (_topic = {topic} AND (_incarnation > {incarnation} OR (_incarnation = {incarnation} \
             AND (_partition > {partition} OR (_partition = {partition} AND _offset > {offset}))))))"
        )
    }
}

/// Carries out `request` on a lake that no server writes to: as its one writer, for as long as it takes.
pub async fn without_server(project: &Project, variables: &Variables, request: &Request) -> Result<Done> {
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let catalog = committed(project, Some(lake)).await?;
        let service = service(Some(lake), &catalog, &project.config)?;
        let desk = Desk::new(service, Arc::clone(&catalog), abort.clone());
        if catalog.dead_letters.get().is_none() {
            return Ok(Done::default());
        }
        let contract = project.tables.iter().find(|contract| contract.table == request.table);
        let idle = match contract {
            Some(contract) => Idle::start(project, lake, &catalog, contract, abort).await?,
            None => None,
        };
        let done = desk.run(request).await;
        match idle {
            Some(idle) => idle.end().await.and(done),
            None => done,
        }
    })
    .await
}

#[cfg(test)]
mod tests;
