//! Keeps the rows of mirrors: follows the table of changes, from what the lake holds on.
//!
//! A follower pins the table's View whenever that changes and takes in the hot batches it has not seen. What was committed
//! before it could look (all of it, at the start) is read with SQL like anybody else would. A state takes in the same
//! change twice without harm, so the two need not meet exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use futures::TryStreamExt;
use tracing::{info, warn};

use super::catalog::EngineCatalog;
use crate::error::{Error, Kind, Result};
use crate::lake::{LiveView, Positions, TopicPartition, View};
use crate::latest::{LatestError, LatestTable, Shape, needed_columns};
use crate::query::Service;
use crate::schema::{Contract, LogicalColumn, change, fixed};
use crate::serve::Lookup;
use crate::task::Shutdown;

/// Pause before the lake is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// A mirror's rows, and who keeps them.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// The rows.
    pub table: Arc<LatestTable>,
    /// Ends the follower when nobody holds the mirror any more.
    _alive: Arc<tokio_util::sync::DropGuard>,
    stop: Shutdown,
}

/// Mirrors by name.
pub type Mirrors = BTreeMap<String, Mirror>;

impl Mirror {
    /// The mirror that is kept from the changes of `contract`, if there is one.
    pub fn of(contract: &Contract) -> Option<Self> {
        contract.format.is_change().then(|| {
            let stop = Shutdown::new();
            let table = Arc::new(LatestTable::new(&contract.file, &contract.key));
            Self { table, _alive: Arc::new(stop.clone().drop_guard()), stop }
        })
    }

    /// Begins to keep the rows from `changes`.
    pub fn start(&self, changes: Arc<LiveView>, service: Service, limit_bytes: usize) {
        let follower = Follower::new(Arc::clone(&self.table), changes, service, limit_bytes);
        let stop = self.stop.clone();
        crate::task::spawn("latest", async move { follower.run(stop).await });
    }

    /// Reads the rows that `changes` has by now, once.
    pub async fn load(&self, changes: Arc<LiveView>, service: Service, limit_bytes: usize) -> Result<()> {
        Follower::new(Arc::clone(&self.table), changes, service, limit_bytes).look().await
    }
}

/// Rows of mirrors by key, keys written as text.
pub fn lookup(catalog: Arc<EngineCatalog>) -> Lookup {
    Arc::new(move |table, keys| {
        let fed = catalog.fed();
        let Some(mirror) = fed.mirrors.get(table) else { return Ok(None) };
        let names = mirror.table.key();
        if let Some(key) = keys.iter().find(|key| key.len() != names.len()) {
            let message = format!("the key of {table} is {}: {} parts are given", names.join(", "), key.len());
            return Err(Error::new(Kind::Usage, message));
        }
        let column = |at: usize| Arc::new(StringArray::from_iter_values(keys.iter().map(|key| &key[at]))) as ArrayRef;
        let columns: Vec<ArrayRef> = (0..names.len()).map(column).collect();
        let rows = mirror.table.get(&columns)?;
        Ok(Some(rows.unwrap_or_else(|| RecordBatch::new_empty(mirror.table.schema()))))
    })
}

/// Follows one table of changes.
struct Follower {
    table: Arc<LatestTable>,
    changes: Arc<LiveView>,
    service: Service,
    limit_bytes: usize,
    /// Where the state stands; nothing until all that was there is read.
    seen: Option<Positions>,
    /// The View's retries that are taken in.
    retries: u64,
}

impl Follower {
    fn new(table: Arc<LatestTable>, changes: Arc<LiveView>, service: Service, limit_bytes: usize) -> Self {
        Self { table, changes, service, limit_bytes, seen: None, retries: 0 }
    }

    async fn run(mut self, stop: Shutdown) {
        let mut changed = self.changes.subscribe();
        while self.table.stopped().is_none() {
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            let pause = async {
                match &looked {
                    Ok(()) => changed.changed().await.unwrap_or(()),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            };
            match &looked {
                Err(error) if error.kind() == Kind::Internal => {
                    warn!(table = self.table.name(), error = %error, "rows are not kept any more");
                    self.table.stop(error.to_string());
                }
                Err(error) => warn!(table = self.table.name(), error = %error, "rows not read, trying again"),
                Ok(()) => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
            }
        }
    }

    /// Takes in what has come.
    async fn look(&mut self) -> Result<()> {
        let view = self.changes.pin();
        let Some(shape) = Shape::of(&view.schema, self.table.key()) else {
            // Nothing was ever read: there is no key yet.
            self.table.loaded();
            return Ok(());
        };
        self.table.evolve(shape).map_err(broken)?;
        match &self.seen {
            None => {
                self.read(&view, None).await?;
                self.table.loaded();
                let stats = self.table.stats();
                info!(table = self.table.name(), rows = stats.rows, bytes = stats.bytes, "rows are kept");
            }
            Some(_) if view.retries > self.retries => self.read(&view, None).await?,
            Some(seen) => {
                let behind =
                    |(lane, position): (&TopicPartition, &i64)| seen.get(lane).is_none_or(|seen| seen < position);
                let behind: Vec<_> =
                    view.positions.iter().filter(|at| behind(*at)).map(|(lane, _)| lane.clone()).collect();
                if !behind.is_empty() {
                    self.read(&view, Some(behind)).await?;
                }
            }
        }
        let mut seen = self.seen.take().unwrap_or_default();
        for hot in &view.hot {
            if seen.get(&hot.lane).is_none_or(|seen| *seen < hot.end) {
                self.take_in(&view, &hot.rows)?;
                seen.insert(hot.lane.clone(), hot.end);
            }
        }
        for (lane, position) in &view.positions {
            let at = seen.entry(lane.clone()).or_insert(*position);
            *at = (*at).max(*position);
        }
        (self.seen, self.retries) = (Some(seen), view.retries);
        Ok(())
    }

    fn take_in(&self, view: &View, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let columns = LogicalColumn::all(&view.schema);
        let columns = columns.iter().map(|column| Ok((column.name.clone(), column.of_batch(rows)?, true)));
        let columns =
            columns.collect::<Result<Vec<_>, arrow::error::ArrowError>>().map_err(|error| broken(error.into()))?;
        let rows = RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| broken(error.into()))?;
        self.apply(&rows)
    }

    fn apply(&self, rows: &RecordBatch) -> Result<()> {
        self.table.apply(rows).map_err(broken)?;
        let (bytes, limit) = (self.table.stats().bytes, self.limit_bytes);
        if bytes > limit {
            let reason = format!(
                "they take {} MiB and may take {} MiB, a share of limits.memory in millpond.toml: raise it and start again",
                bytes >> 20,
                limit >> 20
            );
            warn!(table = self.table.name(), reason, "rows are not kept any more");
            self.table.stop(reason);
        }
        Ok(())
    }

    /// Reads changes from the lake: all, or those of lanes from where the state stands on.
    async fn read(&self, view: &View, lanes: Option<Vec<TopicPartition>>) -> Result<()> {
        let table = format!("public.{}", quoted(&view.table));
        let session = self.service.session();
        session.set("statement_timeout", "0")?;
        if lanes.is_none() {
            let sql = format!(
                "SELECT {epoch} FROM {table} WHERE {epoch} IS NOT NULL GROUP BY {epoch} ORDER BY min({at}), {epoch}",
                epoch = change::EPOCH,
                at = fixed::TIMESTAMP
            );
            for batch in session.query(&sql).await?.run().await?.collect().await? {
                self.table.meet(batch.column(0).as_string::<i32>().iter().flatten());
            }
        }
        let shape = Shape::of(&view.schema, self.table.key());
        let shape = shape.iter().flat_map(|shape| {
            let of_row = shape.columns.fields().iter().map(|field| field.name().as_str());
            of_row.chain(shape.old_key.iter().map(String::as_str))
        });
        let columns: Vec<String> = shape.chain(needed_columns()).map(quoted).collect();
        let mut sql = format!("SELECT {} FROM {table}", columns.join(", "));
        if let (Some(lanes), Some(seen)) = (lanes, &self.seen) {
            let lane = |lane: &TopicPartition| {
                format!(
                    "({} = {} AND {} = {} AND {} = {} AND {} >= {})",
                    fixed::TOPIC,
                    literal(&lane.topic),
                    fixed::INCARNATION,
                    lane.incarnation,
                    fixed::PARTITION,
                    lane.partition,
                    fixed::OFFSET,
                    seen.get(lane).copied().unwrap_or(0)
                )
            };
            sql.push_str(" WHERE ");
            sql.push_str(&lanes.iter().map(lane).collect::<Vec<_>>().join(" OR "));
        }
        let mut rows = session.query(&sql).await?.run().await?;
        while let Some(batch) = rows.try_next().await? {
            self.apply(&batch)?;
        }
        Ok(())
    }
}

fn broken(error: LatestError) -> Error {
    Error::new(Kind::Internal, "the rows of a mirror cannot be put together").because(error)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
