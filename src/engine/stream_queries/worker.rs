//! One stream query at work.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Int32Type, Int64Type, SchemaRef};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::timed::{Timed, lane};
use super::{StreamRunner, plan};
use crate::deliver::{RowRecord, RowWriter};
use crate::engine::lanes::{after, behind, between, has_seen, see};
use crate::engine::make::{Wanted, make};
use crate::engine::rows::{Columns, broken, first_offset, from, read};
use crate::engine::streams::{Place, ends, fingerprint, fingerprints, waits_for_columns};
use crate::error::{Error, Kind, Result};
use crate::lake::{
    self, CommitError, HotBatch, LiveView, PUBLIC, Positions, STREAMS, Table, TableError, TopicPartition, Window,
};
use crate::query::Continuous;
use crate::schema::{Cause, SchemaVersion, conform, fixed};
use crate::stream::{Counters, Selection, StreamQuery, columns_of, keys, rows_as_json};
use crate::task::Shutdown;

/// How often it is looked whether the query must be planned anew, and what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What is not hot any more is read in steps of so many offsets.
const STEP: i64 = 20_000;
/// A commit takes so much at once.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// While a commit takes longer nothing is sent to topics: a restart reads them back from a moment before the last one.
const LONG_COMMIT: TimeDelta = TimeDelta::seconds(30);
/// Hot batches that are taken together.
const AT_ONCE: usize = 256;
/// A stop waits so long for topics.
const LAST_ROWS: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    runner: StreamRunner,
    query: StreamQuery,
    edits: watch::Receiver<StreamQuery>,
    stream: Option<Stream>,
    target: Option<Target>,
    /// Where it is, if it keeps rows or windows.
    timed: Option<Timed>,
    /// Where tables stood when it came: what comes from then on is its business, whenever it can be planned.
    began: BTreeMap<String, Positions>,
    /// Fingerprint of the tables that it was planned with, and when it was tried last.
    planned_with: Option<u64>,
    planned_at: Option<Instant>,
    topics: Vec<RowWriter>,
    trouble: Option<Instant>,
    counters: Counters,
    flushing: Option<Flushing>,
}

/// The table that is read.
struct Stream {
    name: String,
    live: Arc<LiveView>,
    changes: watch::Receiver<()>,
    columns: Columns,
    selection: Selection,
    /// The newest hot batch that was looked at: what stands before it was, too.
    last: Weak<HotBatch>,
}

impl Stream {
    /// Whether the query keeps rows or windows.
    fn is_timed(&self) -> bool {
        self.selection.query().memory().is_some()
    }
}

/// The table that is written.
struct Target {
    live: Arc<LiveView>,
    /// Nothing while a commit is under way.
    table: Option<Table>,
    checkpoint: u64,
    /// Up to where the stream was read.
    seen: Positions,
}

struct Flushing {
    since: DateTime<Utc>,
    work: JoinHandle<Flushed>,
}

struct Flushed {
    table: Table,
    checkpoint: u64,
    outcome: std::result::Result<(), CommitError>,
}

/// Rows of the stream, of one partition: its offsets from `start` to `end`.
struct Piece {
    lane: TopicPartition,
    start: i64,
    end: i64,
    rows: Option<RecordBatch>,
    received_at: Instant,
}

impl Worker {
    pub(super) fn new(runner: StreamRunner, edits: watch::Receiver<StreamQuery>) -> Self {
        let (query, began) = (edits.borrow().clone(), ends(&runner.catalog));
        Self {
            runner,
            query,
            edits,
            stream: None,
            target: None,
            timed: None,
            began,
            planned_with: None,
            planned_at: None,
            topics: Vec::new(),
            trouble: None,
            counters: Counters::default(),
            flushing: None,
        }
    }

    /// Runs until stopped and everything is committed.
    pub(super) async fn run(mut self, stop: Shutdown) -> std::result::Result<(), CommitError> {
        let mut ticks = tokio::time::interval(self.runner.commit_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // What is committed must be recorded first, and that begins when ingest does.
            if self.runner.catalog.versions.is_open() && self.runner.catalog.dead_letters.get().is_some() {
                self.plan().await?;
                self.follow(&stop).await;
            }
            if stop.is_cancelled() {
                break;
            }
            let takes_more = !self.is_full();
            let changed = async {
                match (&mut self.stream, &mut self.timed) {
                    _ if self.trouble.is_some() => std::future::pending().await,
                    (Some(stream), Some(timed)) if stream.is_timed() => timed.changed(takes_more).await,
                    (Some(stream), _) => drop(stream.changes.changed().await),
                    (None, _) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                Ok(()) = self.edits.changed() => {}
                () = changed => {}
                _ = ticks.tick() => self.flush(),
                flushed = finished(&mut self.flushing) => self.flushed(flushed)?,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        if let Err(error) = self.last_results(&stop).await {
            self.trouble("last results not written down: the next start goes on", &error);
        }
        loop {
            if self.flushing.is_some() {
                let flushed = finished(&mut self.flushing).await;
                self.flushed(flushed)?;
            }
            self.flush();
            if self.flushing.is_none() {
                return Ok(());
            }
        }
    }

    fn tell(&self, error: Option<&str>) {
        self.runner.catalog.stream_queries.update(&self.query.name, |status| {
            status.error = error.map(str::to_owned);
        });
    }

    /// Says why the query does not get on, once.
    fn trouble(&mut self, what: &'static str, error: &Error) {
        let (query, reason, hint) = (&self.query.name, error.headline(), error.hint_text());
        let mut is_new = true;
        self.runner.catalog.stream_queries.update(&self.query.name, |status| {
            is_new = status.error.as_deref() != Some(reason);
            status.error = Some(reason.to_owned());
        });
        if is_new {
            warn!(query, reason, hint, "{what}");
        }
        self.trouble = Some(Instant::now());
    }

    /// Plans the query if its text or the columns of its tables are others.
    async fn plan(&mut self) -> std::result::Result<(), CommitError> {
        let is_edited = *self.edits.borrow() != self.query;
        if is_edited {
            self.query = self.edits.borrow().clone();
            (self.planned_with, self.topics) = (None, Vec::new());
            let query = self.query.clone();
            self.runner.catalog.stream_queries.update(&self.query.name, |status| status.query = query);
        }
        if !is_edited && self.planned_at.is_some_and(|at| at.elapsed() < RETRY) {
            return Ok(());
        }
        self.planned_at = Some(Instant::now());
        self.show();
        let select = self.stream.as_ref().map(|stream| stream.selection.query());
        let tables = fingerprint(select, &fingerprints(&self.runner.catalog));
        if self.planned_with == Some(tables) {
            return Ok(());
        }
        match self.replan().await {
            Ok(stream) => {
                let (name, query) = (stream.name.clone(), stream.selection.query());
                let (class, look_ups) = (query.class(), query.look_ups());
                if self.stream.is_none() {
                    info!(query = self.query.name, stream = name, "the stream query runs");
                }
                self.runner.catalog.stream_queries.update(&self.query.name, |status| {
                    (status.stream, status.class, status.look_ups) = (Some(name), Some(class), look_ups);
                    status.error = None;
                });
                (self.stream, self.trouble) = (Some(stream), None);
                // Whoever reads the table knows by now what it is made of.
                self.show();
            }
            Err(Stop::Commit(error)) => return Err(error),
            Err(Stop::Not(error)) => {
                self.stream = None;
                if waits_for_columns(&error, &self.runner.catalog) {
                    info!(query = self.query.name, reason = error.headline(), "the stream query waits for its columns");
                    self.tell(Some(error.headline()));
                } else {
                    self.trouble("the stream query does not run", &error);
                }
            }
        }
        let select = self.stream.as_ref().map(|stream| stream.selection.query());
        self.planned_with = Some(fingerprint(select, &fingerprints(&self.runner.catalog)));
        Ok(())
    }

    async fn replan(&mut self) -> std::result::Result<Stream, Stop> {
        let StreamRunner { catalog, service, abort, .. } = self.runner.clone();
        let select = plan(&self.query, &service, &catalog).await?;
        let name = select.stream().to_owned();
        let Some(live) = catalog.fed().tables.get(&name).cloned() else {
            return Err(Error::new(Kind::Query, format!("{name} is no stream")).into());
        };
        self.is_of_one_kind(&select)?;
        let (table, schema) = (self.query.table(), columns_of(&select));
        let known = catalog.versions.newest(&table).map(|newest| Arc::clone(&newest.version));
        let next = match (&known, self.query.keeps) {
            (_, false) => Some(SchemaVersion { number: 0, keys: 0, columns: Vec::new() }),
            (None, true) => Some(SchemaVersion::selected(&schema, &self.query.key).map_err(refused)?),
            (Some(known), true) => {
                SchemaVersion::selected(&schema, &self.query.key).map_err(refused)?;
                known.select_anew(&schema).map_err(refused)?
            }
        };
        let version = match (next, known) {
            (Some(next), _) => {
                let next = Arc::new(next);
                if self.query.keeps {
                    let columns = next.columns.len();
                    info!(table, schema_version = next.number, columns, "schema version of a stream query");
                    catalog.versions.add(&table, &next, &[], Cause::Edit(self.query.file.clone()));
                }
                next
            }
            (None, Some(known)) => known,
            (None, None) => return Err(Error::new(Kind::Internal, "a stream query without columns").into()),
        };
        if self.query.keeps {
            catalog.versions.record(&table, version.number, &abort).await?;
        }
        if self.target.is_none() {
            self.target = Some(self.target(&version, &select).await?);
        }
        self.is_of_one_kind(&select)?;
        if let Some(target) = self.target.as_ref().filter(|_| self.query.keeps) {
            target.live.evolve(version.arrow_schema(), version.number);
        }
        let same = self.stream.as_ref().filter(|stream| Arc::ptr_eq(&stream.live, &live));
        let last = same.map(|stream| Weak::clone(&stream.last)).unwrap_or_default();
        let (changes, columns) = (live.subscribe(), Columns::of(&live.pin().schema));
        let stream = Stream { name, changes, columns, live, selection: Selection::new(select, version), last };
        if stream.is_timed() {
            self.follow_in_order(&stream).await?;
        }
        Ok(stream)
    }

    /// What it keeps is that of this plan, and of this table.
    async fn follow_in_order(
        &mut self,
        Stream { name, live, selection, .. }: &Stream,
    ) -> std::result::Result<(), Stop> {
        if let Some(timed) = self.timed.as_mut().filter(|timed| timed.is_broken()) {
            timed.until_written().await;
            self.timed = None;
        }
        if let Some(timed) = &mut self.timed {
            let next = ends(&self.runner.catalog).remove(name).unwrap_or_default();
            let lateness = self.runner.catalog.allowed_lateness(name);
            timed.replan(selection, live, Place { next, ..Place::default() }, lateness);
            return Ok(());
        }
        let next = self.began.get(name).cloned().unwrap_or_default();
        let began = Place { next, ..Place::default() };
        let seen = self.target.as_ref().and_then(|target| target.seen.get(&lane(&self.query)).copied()).unwrap_or(0);
        let timed = Timed::begin(&self.query, selection, live, began, seen, &self.runner).await?;
        let timed = timed.ok_or(CommitError::Stopped)?;
        let status_of = timed.status(selection);
        self.runner.catalog.stream_queries.update(&self.query.name, |status| status.timed = Some(status_of));
        self.timed = Some(timed);
        Ok(())
    }

    /// Refuses what would count a table's rows in another way than those that it has.
    fn is_of_one_kind(&self, select: &Continuous) -> Result<()> {
        let (own, seen) = (lane(&self.query), self.target.iter().flat_map(|target| target.seen.keys()));
        let mut others = seen.filter(|lane| (**lane == own) != select.memory().is_some());
        match others.next() {
            None => Ok(()),
            Some(_) => {
                let (name, is, was) = match select.memory() {
                    Some(_) => (&self.query.name, "keeps rows or windows", "did not"),
                    None => (&self.query.name, "keeps no rows or windows any more", "did"),
                };
                let message = format!("{name} {is}, and {was} when its table was made");
                Err(Error::new(Kind::Query, message).hint("give the query another name"))
            }
        }
    }

    /// Opens the table, or makes it: then the query begins with what has come since it did.
    async fn target(&mut self, version: &SchemaVersion, select: &Continuous) -> std::result::Result<Target, Stop> {
        let (folder, name) =
            if self.query.keeps { (PUBLIC, self.query.table()) } else { (STREAMS, self.query.table()) };
        // All rows of a table that was not there then have come since.
        let begin = match select.memory() {
            Some(_) => Positions::from([(lane(&self.query), 0)]),
            None => self.began.get(select.stream()).cloned().unwrap_or_default(),
        };
        let schema = version.arrow_schema();
        let (schema_version, partition_by) = (version.number, &[fixed::DAY][..]);
        let wanted = Wanted { schema: &schema, schema_version, partition_by, positions: &begin };
        let told = |error: &TableError| warn!(table = name, error = %error, "table not created, trying again");
        let made = make(&self.runner.lake, folder, &name, wanted, told);
        let made = self.runner.abort.run_until_cancelled(made).await.ok_or(CommitError::Stopped)?;
        let table = made.map_err(unusable)?;
        let known = self.runner.catalog.fed().tables.get(&name).cloned().filter(|_| self.query.keeps);
        let live = match known {
            Some(live) => live,
            None => {
                let view = crate::engine::view_of(&name, Some(&table), schema, &self.runner.catalog.versions)?;
                Arc::new(LiveView::new(view))
            }
        };
        live.committed(&table).map_err(unusable)?;
        let seen = table.positions_of(&name);
        Ok(Target { live, checkpoint: table.version(), table: Some(table), seen })
    }

    /// Shows the table, whoever has replaced the others meanwhile.
    fn show(&self) {
        let Some(target) = self.target.as_ref().filter(|_| self.query.keeps) else { return };
        let (catalog, name) = (&self.runner.catalog, self.query.table());
        if catalog.fed().tables.get(&name).is_some_and(|live| Arc::ptr_eq(live, &target.live)) {
            return;
        }
        catalog.show(&name, &target.live);
    }

    /// Takes what has come.
    async fn follow(&mut self, stop: &Shutdown) {
        if self.stream.is_none() || self.trouble.is_some_and(|at| at.elapsed() < RETRY) {
            return;
        }
        let taken = match self.stream.as_ref().is_some_and(Stream::is_timed) {
            true => self.take_in_order(stop).await,
            false => self.take(stop).await,
        };
        match taken {
            Ok(()) if self.trouble.take().is_some() => self.tell(None),
            Ok(()) => {}
            Err(error) => self.trouble("rows not taken, trying again", &error),
        }
    }

    /// Whether the rows that wait for a commit are enough, or a commit takes too long.
    fn is_full(&self) -> bool {
        let shown = self.target.as_ref().map_or(0, |target| target.live.pin().uncommitted_bytes());
        let bytes = shown.max(self.timed.as_ref().map_or(0, Timed::bytes));
        bytes >= self.window_bytes() || self.is_long_commit()
    }

    /// Whether a commit takes so long that a restart would not read back all that is sent meanwhile.
    fn is_long_commit(&self) -> bool {
        let is_long = |flushing: &Flushing| Utc::now() - flushing.since > LONG_COMMIT;
        !self.topics.is_empty() && self.flushing.as_ref().is_some_and(is_long)
    }

    fn window_bytes(&self) -> usize {
        WINDOW_BYTES.min(self.runner.catalog.ingest_budget.limit_bytes() / 8)
    }

    async fn take(&mut self, stop: &Shutdown) -> Result<()> {
        let Some((live, name)) = self.stream.as_ref().map(|stream| (Arc::clone(&stream.live), stream.name.clone()))
        else {
            return Ok(());
        };
        self.open_topics().await?;
        let view = live.pin();
        let seen = |worker: &Self| worker.target.as_ref().map(|target| target.seen.clone()).unwrap_or_default();
        // What was committed before it was looked at.
        for lane in behind(&seen(self), &view) {
            let committed = view.positions.get(&lane).copied().unwrap_or_default();
            while !self.is_full() && !has_seen(&seen(self), &lane, committed) {
                let piece = self.read(&name, &lane, &seen(self), committed).await?;
                self.put(vec![piece], stop).await?;
            }
        }
        if !behind(&seen(self), &view).is_empty() {
            return Ok(());
        }
        let last = self.stream.as_ref().map(|stream| Weak::clone(&stream.last)).unwrap_or_default();
        let new = after(&view, &last);
        for hot in new.chunks(AT_ONCE) {
            if self.is_full() {
                return Ok(());
            }
            let pieces = self.hot(hot, &view.schema, seen(self))?;
            self.put(pieces, stop).await?;
            if let (Some(stream), Some(last)) = (&mut self.stream, hot.last()) {
                stream.last = Arc::downgrade(last);
            }
        }
        Ok(())
    }

    /// Takes what has come, of a query that keeps rows or windows, and shows the results that are written down.
    async fn take_in_order(&mut self, stop: &Shutdown) -> Result<()> {
        self.open_topics().await?;
        let is_full = self.is_full();
        let (Some(timed), Some(stream)) = (&mut self.timed, &self.stream) else { return Ok(()) };
        let (mut stepped, began) = (Ok(0), Instant::now());
        if !is_full {
            stepped = timed.step(&self.query, &stream.selection, &self.runner, &mut self.counters).await;
        }
        timed.write(&stream.selection, &self.runner, false)?;
        if !self.is_long_commit() {
            self.show_results(stop).await?;
        }
        let looked_at = stepped?;
        self.runner.catalog.stream_queries.update(&self.query.name, |status| {
            status.load.add(looked_at, began.elapsed());
        });
        Ok(())
    }

    /// Sends and shows the results that are written down.
    async fn show_results(&mut self, stop: &Shutdown) -> Result<()> {
        while let Some(results) = self.timed.as_ref().and_then(Timed::ready) {
            let Some(stream) = &self.stream else { return Ok(()) };
            let (lane, end) = (lane(&self.query), results.end());
            if !self.query.to.is_empty() {
                let payload = stream.selection.payload(&results.rows).map_err(broken)?;
                self.send(records_of(&self.query, &results.rows, &payload, &lane), stop).await?;
            }
            let (rows, start, received_at) = (results.rows, results.first, results.received_at);
            self.show_rows(Piece { lane, start, end, rows: Some(rows), received_at })?;
            self.timed.iter_mut().for_each(|timed| timed.show(end));
        }
        let (Some(timed), Some(stream)) = (&self.timed, &self.stream) else { return Ok(()) };
        let (counters, status_of) = (self.counters.clone(), timed.status(&stream.selection));
        self.runner.catalog.stream_queries.update(&self.query.name, |status| {
            (status.counters, status.timed) = (counters, Some(status_of));
        });
        Ok(())
    }

    /// Writes down where a query is that keeps rows or windows, and shows its last results.
    async fn last_results(&mut self, stop: &Shutdown) -> Result<()> {
        let (Some(timed), Some(stream)) = (&mut self.timed, &self.stream) else { return Ok(()) };
        if !stream.is_timed() {
            return Ok(());
        }
        timed.until_written().await;
        timed.write(&stream.selection, &self.runner, true)?;
        timed.until_written().await;
        self.show_results(stop).await
    }

    /// The next piece of what is committed of a lane.
    async fn read(&mut self, name: &str, lane: &TopicPartition, seen: &Positions, committed: i64) -> Result<Piece> {
        let from = seen.get(lane).copied().unwrap_or(0);
        let lanes = std::slice::from_ref(lane);
        let range = |from: i64, to: i64| {
            let at = |offset| Positions::from([(lane.clone(), offset)]);
            between(lanes, &at(from), &at(to))
        };
        let service = &self.runner.service;
        let first = first_offset(service, name, &range(from, committed)).await?;
        let to = first.map_or(committed, |first| committed.min(first.saturating_add(STEP)));
        let rows = match first {
            Some(first) => read(service, name, &range(first, to)).await?,
            None => Vec::new(),
        };
        let rows = match rows.first() {
            Some(first) => Some(concat_batches(&first.schema(), &rows).map_err(broken)?),
            None => None,
        };
        Ok(Piece { lane: lane.clone(), start: from, end: to, rows, received_at: Instant::now() })
    }

    /// What is new of hot batches, a piece for each partition.
    fn hot(&mut self, hot: &[Arc<HotBatch>], schema: &SchemaRef, mut seen: Positions) -> Result<Vec<Piece>> {
        let Some(stream) = &mut self.stream else { return Ok(Vec::new()) };
        if !Arc::ptr_eq(&stream.columns.stored, schema) {
            stream.columns = Columns::of(schema);
        }
        let mut pieces: BTreeMap<&TopicPartition, (Piece, Vec<RecordBatch>)> = BTreeMap::new();
        for hot in hot {
            let HotBatch { lane, end, received_at, .. } = &**hot;
            if has_seen(&seen, lane, *end) {
                continue;
            }
            let start = seen.get(lane).copied().unwrap_or(hot.start);
            see(&mut seen, lane, *end);
            let piece = || Piece { lane: lane.clone(), start, end: *end, rows: None, received_at: *received_at };
            let (piece, rows) = pieces.entry(lane).or_insert_with(|| (piece(), Vec::new()));
            piece.end = *end;
            if hot.rows.num_rows() == 0 {
                continue;
            }
            let new = stream.columns.rows(hot)?;
            rows.push(if start > hot.start { from(&new, start)? } else { new });
        }
        let whole = |(mut piece, rows): (Piece, Vec<RecordBatch>)| {
            let rows = concat_batches(&stream.columns.shown, &rows).map_err(broken)?;
            piece.rows = Some(rows).filter(|rows| rows.num_rows() > 0);
            Ok(piece)
        };
        pieces.into_values().map(whole).collect()
    }

    /// Selects from pieces, sends and shows what they give.
    async fn put(&mut self, pieces: Vec<Piece>, stop: &Shutdown) -> Result<()> {
        let Some(stream) = &self.stream else { return Ok(()) };
        let (mut made, mut records) = (Vec::new(), Vec::new());
        let (mut looked_at, began) = (0, Instant::now());
        for mut piece in pieces {
            if let Some(new) = piece.rows.take() {
                looked_at += new.num_rows();
                let counters = &mut self.counters;
                let selected = tokio::task::block_in_place(|| stream.selection.select(&new, counters));
                let selected = selected.map_err(broken)?;
                if !self.query.to.is_empty() {
                    records.extend(records_of(&self.query, &selected.rows, &selected.shown, &piece.lane));
                }
                piece.rows = Some(selected.rows);
            }
            made.push(piece);
        }
        let took = began.elapsed();
        self.send(records, stop).await?;
        made.into_iter().try_for_each(|piece| self.show_rows(piece))?;
        let Some(target) = &self.target else { return Ok(()) };
        let (counters, seen) = (self.counters.clone(), target.seen.clone());
        self.runner.catalog.stream_queries.update(&self.query.name, |status| {
            (status.counters, status.seen) = (counters, seen);
            status.load.add(looked_at, took);
        });
        Ok(())
    }

    /// Shows rows of the table.
    fn show_rows(&mut self, Piece { lane, start, end, rows, received_at }: Piece) -> Result<()> {
        let Some(target) = &mut self.target else { return Ok(()) };
        let schema = Arc::clone(&target.live.pin().schema);
        let rows = match rows.filter(|_| self.query.keeps) {
            Some(rows) => conform(&rows, &schema).map_err(broken)?,
            None => RecordBatch::new_empty(schema),
        };
        let charge = self.runner.catalog.ingest_budget.charge(rows.get_array_memory_size());
        see(&mut target.seen, &lane, end);
        let (dead, beside) = (None, Vec::new());
        target.live.push(Arc::new(HotBatch { lane, start, end, rows, dead, beside, charge, received_at }));
        self.runner.catalog.stream_queries.update(&self.query.name, |status| {
            status.latency.took(received_at.elapsed());
        });
        Ok(())
    }

    /// Opens the topics. What they were given after the last commit comes again, and is not sent again.
    async fn open_topics(&mut self) -> Result<()> {
        if self.topics.len() == self.query.to.len() {
            return Ok(());
        }
        let Some(table) = self.target.as_ref().and_then(|target| target.table.as_ref()) else { return Ok(()) };
        let since = table.committed_at().await.map_err(unusable)? - LONG_COMMIT;
        let seen = self.target.iter().flat_map(|target| &target.seen);
        let seen: HashMap<String, i64> = seen.map(|(lane, next)| (lane.to_string(), *next)).collect();
        let mut topics = Vec::new();
        for sink in &self.query.to {
            let Some(writer) = self.runner.sinks.rows(sink) else {
                return Err(Error::new(Kind::Unavailable, format!("there is no topic `{sink}` among the sinks")));
            };
            let mut writer = writer?;
            if !self.runner.catalog.embedded {
                writer.read_back(since, |id| comes_again(&self.query, id, &seen)).await?;
            }
            topics.push(writer);
        }
        self.topics = topics;
        Ok(())
    }

    /// Sends rows to the topics; returns once all have them, or an error at a stop.
    async fn send(&mut self, records: Vec<RowRecord>, stop: &Shutdown) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if self.topics.is_empty() {
            return Err(Error::new(Kind::Unavailable, "the topics are not open yet"));
        }
        let (queries, name) = (Arc::clone(&self.runner.catalog.stream_queries), self.query.name.clone());
        let last_rows = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_ROWS).await;
        };
        let sent = async {
            for writer in &mut self.topics {
                let sink = writer.sink().to_owned();
                let told = |reason: Option<&str>| {
                    queries.update(&name, |status| {
                        let error = reason.map(|reason| format!("sink {sink}: {reason}"));
                        if let Some(error) = error.as_ref().filter(|error| status.error.as_ref() != Some(error)) {
                            warn!(query = name, error, "rows not sent, trying again");
                        }
                        status.error = error;
                    });
                };
                writer.write(records.clone(), told).await;
            }
        };
        tokio::select! {
            () = sent => Ok(()),
            () = last_rows => Err(Error::new(Kind::Unavailable, "topics do not take rows: the next start goes on")),
        }
    }

    /// Commits what is hot, unless a commit is under way.
    fn flush(&mut self) {
        let limit = self.window_bytes();
        let Some(target) = self.target.as_mut().filter(|_| self.flushing.is_none()) else { return };
        let Some(dead_letters) = self.runner.catalog.dead_letters.get().cloned() else { return };
        let Some(window) = Window::freeze(&target.live.pin(), &[], limit) else { return };
        let (Some(mut table), mut checkpoint) = (target.table.take(), target.checkpoint) else { return };
        let StreamRunner { abort, encoding, .. } = self.runner.clone();
        let work = async move {
            let committed = lake::flush(&mut table, &mut [], window, &dead_letters, &encoding, &abort).await;
            if committed.is_ok() {
                table.checkpoint_when_due(&mut checkpoint).await;
            }
            Flushed { table, checkpoint, outcome: committed.map(drop) }
        };
        self.flushing = Some(Flushing { since: Utc::now(), work: crate::task::spawn_behind("stream-flush", work) });
    }

    fn flushed(
        &mut self,
        flushed: std::result::Result<Flushed, tokio::task::JoinError>,
    ) -> std::result::Result<(), CommitError> {
        let Flushed { table, checkpoint, outcome } = flushed.map_err(|error| {
            error!(query = self.query.name, error = %error, "commit task failed");
            CommitError::Stopped
        })?;
        outcome?;
        if let Some(target) = &mut self.target {
            target.live.committed(&table)?;
            let end = target.live.pin().positions.get(&lane(&self.query)).copied().unwrap_or(0);
            self.timed.iter_mut().for_each(|timed| timed.committed(end));
            (target.table, target.checkpoint) = (Some(table), checkpoint);
        }
        Ok(())
    }
}

/// Why it cannot be planned.
enum Stop {
    /// Not now.
    Not(Error),
    /// Writing must end.
    Commit(CommitError),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Not(error)
    }
}

impl From<CommitError> for Stop {
    fn from(error: CommitError) -> Self {
        Self::Commit(error)
    }
}

/// Rows for topics. Several queries may write to one: a row's id is of its query.
fn records_of(query: &StreamQuery, rows: &RecordBatch, shown: &RecordBatch, lane: &TopicPartition) -> Vec<RowRecord> {
    let payloads = rows_as_json(shown);
    let keys = (!query.key.is_empty()).then(|| keys(shown, &query.key));
    let of = |name: &str| rows.column_by_name(name);
    let (Some(offsets), Some(rows)) = (of(fixed::OFFSET), of(fixed::ROW)) else { return Vec::new() };
    let (offsets, rows) = (offsets.as_primitive::<Int64Type>(), rows.as_primitive::<Int32Type>());
    let record = |(at, payload): (usize, String)| RowRecord {
        id: format!("{}/{lane}/{}/{}", query.name, offsets.value(at), rows.value(at)),
        key: keys.as_ref().map(|keys| keys[at].to_string()),
        payload,
    };
    payloads.into_iter().enumerate().map(record).collect()
}

/// Whether a row with this id comes again, if these are the next offsets of each lane.
fn comes_again(query: &StreamQuery, id: &str, next: &HashMap<String, i64>) -> bool {
    let Some(place) = id.strip_prefix(&query.name).and_then(|rest| rest.strip_prefix('/')) else { return false };
    let mut parts = place.rsplitn(3, '/');
    let (Some(_), Some(offset), Some(lane)) = (parts.next(), parts.next(), parts.next()) else { return false };
    let Ok(offset) = offset.parse::<i64>() else { return false };
    next.get(lane).is_none_or(|next| offset >= *next)
}

fn refused(reason: String) -> Error {
    Error::new(Kind::Query, reason)
}

fn unusable(error: TableError) -> Error {
    Error::new(Kind::Internal, "the table of a stream query cannot be used").because(error)
}

async fn finished(flushing: &mut Option<Flushing>) -> std::result::Result<Flushed, tokio::task::JoinError> {
    let Some(under_way) = flushing else { return std::future::pending().await };
    let flushed = (&mut under_way.work).await;
    *flushing = None;
    flushed
}
