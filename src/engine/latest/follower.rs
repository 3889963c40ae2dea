//! Keeps one state from one table.
//!
//! A follower pins its table's View whenever that changes and takes in the hot batches it has not seen. What was committed
//! before it could look (all of it, at the start) is read with SQL like anybody else would. A state takes in the same
//! change twice without harm, so the two need not meet exactly.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::{Keeper, RETRY, Shown, State, broken};
use crate::engine::catalog::EngineCatalog;
use crate::engine::lanes::{behind, between, has_seen, see};
use crate::error::{Error, Kind, Result};
use crate::lake::{LiveView, Positions, SidecarReader, SourceState, TopicPartition, View};
use crate::latest::{LatestError, LatestTable, Order, Rows, Shape, Sidecars, Wanted};
use crate::query::{Service, Session};
use crate::schema::{LogicalColumn, change, fixed, quoted_name};
use crate::source::PartitionStatus;
use crate::task::Shutdown;

/// Pause before a table that is not there yet is looked for again.
const SOON: Duration = Duration::from_millis(200);

/// Keeps one state from one table.
pub(super) struct Follower {
    table: Arc<LatestTable>,
    source: String,
    catalog: Arc<EngineCatalog>,
    service: Service,
    /// What was written down of the state, until it is read.
    known: Option<Known>,
    /// The table's columns, as of this schema: those that the state needs.
    columns: Option<(SchemaRef, Vec<LogicalColumn>)>,
    /// Where the state stands; nothing until all that was there is read.
    seen: Option<Seen>,
    /// The same, for those who wait.
    shown: Shown,
    /// The table is read from Kafka here, or will be.
    is_fed: bool,
    /// Snapshots that are told to their end, and where all partitions ended then.
    sweeps: Vec<(Order, Positions)>,
}

/// How far a state has come.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Up to where all is in it.
    pub positions: Positions,
    /// The retries of dead letters that are in it.
    pub retries: u64,
    /// How often rows of the table had been replaced when it was read.
    pub remade: i64,
}

/// What was written down of a state.
pub(super) struct Known {
    pub reader: SidecarReader,
    pub source: SourceState<StateRecord>,
}

/// What a state is, beside the rows in its sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateRecord {
    /// What it keeps of its table.
    pub wanted: Wanted,
    /// What it knows beside its keys.
    pub sidecars: Sidecars,
}

impl Follower {
    /// One who keeps `state`, for `keeper`, from where `known` ends.
    pub(super) fn new(state: &State, keeper: &Keeper, known: Option<Known>) -> Self {
        let State { table, source, seen, .. } = state.clone();
        Self {
            table,
            source,
            catalog: Arc::clone(&keeper.catalog),
            service: keeper.service.clone(),
            known,
            columns: None,
            seen: None,
            shown: seen,
            is_fed: keeper.writing.is_some(),
            sweeps: Vec::new(),
        }
    }

    /// The table that the state is kept from, once it is there.
    async fn source(&self) -> Arc<LiveView> {
        loop {
            if let Some(live) = self.catalog.fed().tables.get(&self.source) {
                return Arc::clone(live);
            }
            tokio::time::sleep(SOON).await;
        }
    }

    pub(super) async fn run(mut self, stop: Shutdown) {
        let source = tokio::select! {
            () = stop.cancelled() => return,
            source = self.source() => source,
        };
        let mut changed = source.subscribe();
        while self.table.stopped().is_none() {
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            let pause = async {
                match &looked {
                    // Where Kafka's partitions end may be known only later.
                    Ok(()) if !self.table.sweeps().is_empty() => {
                        let _ = tokio::time::timeout(RETRY, changed.changed()).await;
                    }
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
    pub(super) async fn look(&mut self) -> Result<()> {
        let view = self.source().await.pin();
        if !self.shape(&view.schema)? {
            // Nothing was ever read: there is no key yet. What was written down is of a table that is gone.
            self.known = None;
            self.table.loaded();
            self.shown.send_replace(Some(Seen::default()));
            return Ok(());
        }
        // Who feeds a table puts together anew what comes from it when its rows are replaced; others see that it was.
        if !self.is_fed && self.seen.as_ref().is_some_and(|seen| seen.remade != view.remade) {
            self.table.reset().map_err(broken)?;
            self.seen = None;
        }
        if self.seen.is_none() {
            self.seen = self.restore(&view).await?;
        }
        match &self.seen {
            None => self.read(&view, None).await?,
            Some(seen) if view.retries > seen.retries => self.read(&view, None).await?,
            Some(seen) => {
                let behind = behind(&seen.positions, &view);
                if !behind.is_empty() {
                    self.read(&view, Some(behind)).await?;
                }
            }
        }
        let mut seen = self.seen.clone().unwrap_or(Seen { remade: view.remade, ..Seen::default() });
        for hot in &view.hot {
            if !has_seen(&seen.positions, &hot.lane, hot.end) {
                self.take_in(&hot.rows)?;
                see(&mut seen.positions, &hot.lane, hot.end);
            }
        }
        view.positions.iter().for_each(|(lane, end)| see(&mut seen.positions, lane, *end));
        seen.retries = view.retries;
        if self.table.is_loading() {
            self.table.loaded();
            let stats = self.table.stats();
            info!(
                table = self.table.name(),
                source = self.source,
                rows = stats.rows,
                bytes = stats.bytes,
                "rows are kept"
            );
        }
        self.shown.send_replace(Some(seen.clone()));
        self.seen = Some(seen);
        self.sweep();
        Ok(())
    }

    /// Takes in what was written down of the state; `None` if that is nothing, or it cannot be used.
    async fn restore(&mut self, view: &View) -> Result<Option<Seen>> {
        let Some(known) = &self.known else { return Ok(None) };
        let SourceState { retries, remade, .. } = known.source;
        let positions = known.source.positions();
        self.table.restore(&known.source.state.sidecars);
        for file in &known.source.files {
            let rows = known.reader.read(file).await.map_err(|error| {
                Error::new(Kind::Unavailable, format!("a sidecar of {} cannot be read", self.table.name()))
                    .because(error)
            })?;
            let restored = rows.map(|rows| rows.iter().try_for_each(|rows| self.table.restore_rows(rows)));
            if !matches!(restored, Some(Ok(()))) {
                let error = restored.and_then(Result::err).map(|error| error.to_string());
                warn!(
                    table = self.table.name(),
                    file = file.name,
                    error,
                    "state put together anew from {}",
                    view.table
                );
                self.table.reset().map_err(broken)?;
                self.known = None;
                return Ok(None);
            }
        }
        self.known = None;
        Ok(Some(Seen { positions, retries, remade }))
    }

    /// Sweeps what a complete snapshot has left out, once all is read that was in Kafka when it ended: rows of the
    /// snapshot may be in another partition than its end.
    fn sweep(&mut self) {
        for order in self.table.sweeps() {
            if self.sweeps.iter().all(|(known, _)| *known != order)
                && let Some(ends) = self.ends()
            {
                self.sweeps.push((order, ends));
            }
        }
        let Some(seen) = &self.seen else { return };
        let is_seen = |(lane, end): (&TopicPartition, &i64)| has_seen(&seen.positions, lane, *end);
        let table = &self.table;
        self.sweeps.retain(|(order, ends)| {
            let is_complete = ends.iter().all(is_seen);
            if is_complete {
                info!(table = table.name(), "rows that a new snapshot of the source does not have are gone");
                table.sweep(*order);
            }
            !is_complete
        });
    }

    /// Sweeps what complete snapshots have left out, all rows of which are in.
    pub(super) fn sweep_all(&self) {
        self.table.sweeps().into_iter().for_each(|order| self.table.sweep(order));
    }

    /// Where the source's partitions end in Kafka; `None` while that is not known.
    fn ends(&self) -> Option<Positions> {
        let lanes = self.catalog.lanes(&self.source)?;
        let is_known = !self.is_fed || !lanes.is_empty();
        let end = |(lane, status, _): (TopicPartition, PartitionStatus, _)| Some((lane, status.high_watermark?));
        is_known.then(|| lanes.into_iter().map(end).collect()).flatten()
    }

    /// Gives the state the columns that its table has by now; false if the table has no key yet.
    pub(super) fn shape(&mut self, schema: &SchemaRef) -> Result<bool> {
        if self.columns.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, schema)) {
            return Ok(true);
        }
        let Some(shape) = Shape::of(schema, self.table.wanted()) else { return Ok(false) };
        let needed = shape.needed();
        let columns = LogicalColumn::all(schema).into_iter().filter(|column| needed.contains(&column.name.as_str()));
        self.columns = Some((Arc::clone(schema), columns.collect()));
        match self.table.evolve(shape.clone()) {
            // Keys that were equal may not be any more, and the other way round.
            Err(LatestError::Key) => {
                info!(table = self.table.name(), "the key is of another type: rows are put together anew");
                self.table.begin_anew(shape).map_err(broken)?;
                (self.seen, self.known) = (None, None);
            }
            evolved => evolved.map_err(broken)?,
        }
        Ok(true)
    }

    fn take_in(&self, rows: &RecordBatch) -> Result<()> {
        let Some((_, columns)) = self.columns.as_ref().filter(|_| rows.num_rows() > 0) else { return Ok(()) };
        let columns = columns.iter().map(|column| Ok((column.name.clone(), column.of_batch(rows)?, true)));
        let columns =
            columns.collect::<Result<Vec<_>, arrow::error::ArrowError>>().map_err(|error| broken(error.into()))?;
        let rows = RecordBatch::try_from_iter_with_nullable(columns).map_err(|error| broken(error.into()))?;
        self.apply(&rows)
    }

    /// Names the columns that it needs of its table.
    pub(super) fn needed(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().flat_map(|(_, columns)| columns).map(|column| column.name.as_str())
    }

    /// Learns the order of the epochs that its table has changes of.
    pub(super) async fn meet(&self, session: &Session, table: &str) -> Result<()> {
        if !self.table.wanted().of_changes {
            return Ok(());
        }
        let sql = format!(
            "SELECT {epoch} FROM {table} WHERE {epoch} IS NOT NULL GROUP BY {epoch} ORDER BY min({at}), {epoch}",
            epoch = change::EPOCH,
            at = fixed::TIMESTAMP
        );
        for batch in session.query(&sql).await?.run().await?.collect().await? {
            self.table.meet(batch.column(0).as_string::<i32>().iter().flatten());
        }
        Ok(())
    }

    pub(super) fn apply(&self, rows: &RecordBatch) -> Result<()> {
        self.table.apply(rows).map_err(broken)?;
        let (bytes, limit) = (self.catalog.kept_bytes(), self.catalog.latest_bytes);
        if bytes > limit {
            let reason = format!(
                "mirrors and latest tables take {} MiB and may take {} MiB, a share of limits.memory in millpond.toml: \
                 raise it and start again",
                bytes >> 20,
                limit >> 20
            );
            warn!(table = self.table.name(), reason, "rows are not kept any more");
            self.table.stop(reason);
        }
        Ok(())
    }

    /// Reads rows from the lake: all, or those of lanes from where the state stands on.
    async fn read(&self, view: &View, lanes: Option<Vec<TopicPartition>>) -> Result<()> {
        let table = format!("public.{}", quoted_name(&view.table));
        let session = self.service.session();
        session.set("statement_timeout", "0")?;
        if lanes.is_none() {
            self.meet(&session, &table).await?;
        }
        let columns: Vec<String> = self.needed().map(quoted_name).collect();
        let mut sql = format!("SELECT {} FROM {table}", columns.join(", "));
        if let (Some(lanes), Some(seen)) = (lanes, &self.seen) {
            sql.push_str(" WHERE ");
            sql.push_str(&between(&lanes, &seen.positions, &Positions::new()));
        }
        let mut rows = session.query(&sql).await?.run().await?;
        while let Some(batch) = rows.try_next().await? {
            self.apply(&batch)?;
        }
        Ok(())
    }
}
