//! The new rows of one table that rules read, and its time.
//!
//! A table that keeps every record is followed through its View: hot batches that were not seen yet, and with SQL what was
//! committed before it was. Where its rows are to be looked at in the order of their times, those that are late are left
//! out. Of a table with one row per key the new rows are those of the keys that new records name, once
//! the records are in it; at first, and where that is not known, all rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::future::select_all;
use tokio::sync::watch;

use super::heard::Named;
use crate::engine::catalog::EngineCatalog;
use crate::engine::lanes::{after, behind, between, end, has_seen, see};
use crate::engine::latest::{Followed, Kept, Seen};
use crate::engine::rows::{Columns, broken, first_offset, from, read, time};
use crate::error::{Error, Result};
use crate::lake::{HotBatch, LiveView, Positions, TopicPartition, View};
use crate::query::Service;
use crate::schema::conform;
use crate::source::ReaderState;
use crate::stream::{Batch, Begin, Cause, Clock, Lane, Micros};

/// When brokers are back, whoever could not send meanwhile gets so long before silence counts again.
const GRACE: Micros = 10_000_000;

/// What is not hot any more is read in steps of so many offsets of each lane.
const STEP: i64 = 50_000;

/// While so many rows wait, lanes that time does not wait for are not read: their rows are kept in the store meanwhile.
const MANY: usize = 500_000;

/// One stream.
pub struct Source {
    tables: Vec<Table>,
    rows: NewRows,
    clock: Clock<TopicPartition>,
    /// More is committed than was read.
    is_behind: bool,
    /// Rows that are late are left out.
    leaves_out: bool,
    late: u64,
    silent_from: Micros,
}

/// How far a table that keeps every record was followed.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// What comes next.
    pub next: Positions,
    /// How far the events of each lane had come by then.
    pub lanes: BTreeMap<TopicPartition, Lane>,
}

/// A table that keeps every record, and how far it was read.
struct Table {
    name: String,
    live: Arc<LiveView>,
    /// Nothing before the first time.
    seen: Option<Positions>,
    /// The newest hot batch that was looked at: what stands before it was, too.
    last: Weak<HotBatch>,
    retries: u64,
    changes: Changes,
    /// The table's columns, as of this schema, as people see them.
    columns: Option<Columns>,
}

/// Tells that rows may have come.
enum Changes {
    /// To a table that keeps every record.
    OfTable(watch::Receiver<()>),
    /// To the rows that are kept from it.
    OfRows(watch::Receiver<Option<Seen>>),
}

enum NewRows {
    /// Those of the records.
    OfRecords,
    /// Those of the keys that the records of each table name.
    OfKeys { kept: Box<Kept>, followed: Vec<Followed> },
}

/// What has come since the last time.
#[derive(Default)]
pub struct Taken {
    pub batches: Vec<Batch>,
    /// They are all that there are.
    pub is_whole: bool,
    /// When the first record that they come from came from Kafka.
    pub received_at: Option<Instant>,
}

impl Table {
    fn new(name: &str, live: &Arc<LiveView>, changes: Changes) -> Self {
        let (name, live) = (name.to_owned(), Arc::clone(live));
        Self { name, live, seen: None, last: Weak::new(), retries: 0, changes, columns: None }
    }

    fn columns(&mut self, view: &View) -> &Columns {
        self.columns.take_if(|columns| !Arc::ptr_eq(&columns.stored, &view.schema));
        self.columns.get_or_insert_with(|| Columns::of(&view.schema))
    }

    /// Hot rows with the columns that people see.
    fn rows(&mut self, hot: &HotBatch, view: &View) -> Result<RecordBatch> {
        self.columns(view).rows(hot)
    }

    async fn changed(&mut self) {
        let changed = match &mut self.changes {
            Changes::OfTable(changes) => changes.changed().await,
            Changes::OfRows(changes) => changes.changed().await,
        };
        if changed.is_err() {
            std::future::pending().await
        }
    }
}

impl Source {
    fn new(tables: Vec<Table>, rows: NewRows) -> Self {
        Self {
            tables,
            rows,
            clock: Clock::new(0),
            is_behind: false,
            leaves_out: false,
            late: 0,
            silent_from: Micros::MIN,
        }
    }

    /// A table that keeps every record: those that come from now on, or at `place`; without those that are later than
    /// `lateness`, if that is said.
    pub fn of_records(name: &str, live: &Arc<LiveView>, place: Option<Place>, lateness: Option<Duration>) -> Self {
        let (seen, lanes) = place.map(|place| (place.next, place.lanes)).unzip();
        let table = Table { seen, ..Table::new(name, live, Changes::OfTable(live.subscribe())) };
        let mut source = Self { leaves_out: lateness.is_some(), ..Self::new(vec![table], NewRows::OfRecords) };
        source.trail(lateness.unwrap_or_default());
        lanes.into_iter().flatten().for_each(|(lane, at)| source.clock.restore(lane, at));
        source
    }

    /// A table with one row per key: all its rows, and then those that change. `None` while a table that it is kept
    /// from is not there.
    pub fn of_keys(kept: &Kept, catalog: &EngineCatalog) -> Option<Self> {
        let (followed, fed) = (kept.followed(), catalog.fed());
        let table = |followed: &Followed| {
            let (name, changes) = (&followed.source, Changes::OfRows(followed.subscribe()));
            Some(Table::new(name, fed.tables.get(name)?, changes))
        };
        let tables = followed.iter().map(table).collect::<Option<_>>()?;
        Some(Self::new(tables, NewRows::OfKeys { kept: Box::new(kept.clone()), followed }))
    }

    /// Whether it is of this table as it is now: of rows that are kept, or else of what is fed.
    pub fn is_of(&self, kept: Option<&Kept>, fed: Option<&Arc<LiveView>>) -> bool {
        match (&self.rows, kept, fed) {
            (NewRows::OfRecords, None, Some(fed)) => self.tables.iter().all(|table| Arc::ptr_eq(&table.live, fed)),
            (NewRows::OfKeys { kept, .. }, Some(now), _) => Arc::ptr_eq(&kept.rows, &now.rows),
            _ => false,
        }
    }

    /// The schema version of the table that is fed from a topic; of the newest one, if it is not known which that is.
    pub fn schema_version(&self, topic: &str) -> u32 {
        let views: Vec<Arc<View>> = self.tables.iter().map(|table| table.live.pin()).collect();
        let is_fed = |view: &&Arc<View>| {
            view.positions.keys().chain(view.hot.iter().map(|hot| &hot.lane)).any(|lane| *lane.topic == *topic)
        };
        let newest = |views: &mut dyn Iterator<Item = &Arc<View>>| views.map(|view| view.schema_version).max();
        newest(&mut views.iter().filter(is_fed)).or_else(|| newest(&mut views.iter())).unwrap_or(0)
    }

    /// Up to where a table that keeps every record was read, less what begins at `waiting`; nothing before the first
    /// time, or if it is another table.
    pub fn place(&self, waiting: impl Iterator<Item = Begin>) -> Option<Place> {
        let mut place = Place { next: self.seen()?.clone(), lanes: self.clock.lanes().clone() };
        for Begin { first, lane: at } in waiting {
            let is_lane = |lane: &TopicPartition| *lane.topic == *first.topic && lane.partition == first.partition;
            let lanes = place.next.iter_mut().filter(|(lane, _)| is_lane(lane));
            if let Some((lane, next)) =
                lanes.max_by_key(|(lane, _)| lane.incarnation).filter(|(_, next)| first.offset < **next)
            {
                *next = first.offset;
                match at {
                    Some(at) => place.lanes.insert(lane.clone(), at),
                    None => place.lanes.remove(lane),
                };
            }
        }
        Some(place)
    }

    /// Up to where a table that keeps every record was read; nothing before the first time, or if it is another table.
    pub fn seen(&self) -> Option<&Positions> {
        match (&self.rows, self.tables.first()) {
            (NewRows::OfRecords, Some(table)) => table.seen.as_ref(),
            _ => None,
        }
    }

    /// Rows that were left out because they were late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The column that says when a row happened, of a table that keeps every record.
    pub fn time(&self) -> Option<&'static str> {
        match (&self.rows, self.tables.first()) {
            (NewRows::OfRecords, Some(table)) => Some(time(&table.live.pin())),
            _ => None,
        }
    }

    /// Waits until rows may have come.
    pub async fn changed(&mut self) {
        let waits: Vec<_> = self.tables.iter_mut().map(|table| Box::pin(table.changed())).collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        if self.is_behind {
            return;
        }
        select_all(waits).await;
    }

    /// The rows that have come since the last time. So many of those before are `waiting` until time has come as far.
    pub async fn take(&mut self, service: &Service, waiting: usize) -> Result<Taken> {
        match &self.rows {
            NewRows::OfRecords => self.take_records(service, waiting > MANY).await,
            NewRows::OfKeys { .. } => self.take_keys(),
        }
    }

    /// All rows, if it has one per key.
    pub fn whole(&self) -> Result<Option<Batch>> {
        let NewRows::OfKeys { kept, followed } = &self.rows else { return Ok(None) };
        let rows = kept.rows.scan().map_err(Error::from)?;
        let mut named = Named::default();
        for (table, followed) in self.tables.iter().zip(followed) {
            let view = table.live.pin();
            let columns = Columns::of(&view.schema);
            for hot in view.hot.iter().filter(|hot| hot.rows.num_rows() > 0) {
                let batch = Batch::of_records(columns.rows(hot)?, time(&view)).map_err(broken)?;
                named.note(&batch, &followed.key, &*kept.rows);
            }
        }
        named.batch(&*kept.rows, &rows, now()).map(Some)
    }

    /// The next rows that have come after `from`, of those that it has read, if it keeps every record; and where those
    /// begin that are left, if some are.
    pub async fn since(&self, service: &Service, from: &Positions) -> Result<(Vec<Batch>, Option<Positions>)> {
        let nothing = (Vec::new(), None);
        let (NewRows::OfRecords, Some(table)) = (&self.rows, self.tables.first()) else { return Ok(nothing) };
        let (view, Some(seen)) = (table.live.pin(), &table.seen) else { return Ok(nothing) };
        let lanes: Vec<_> =
            seen.iter().filter(|(lane, end)| !has_seen(from, lane, **end)).map(|(lane, _)| lane.clone()).collect();
        if lanes.is_empty() {
            return Ok(nothing);
        }
        let mut until = from.clone();
        for lane in &lanes {
            until.insert(lane.clone(), step(service, &table.name, lane, from, seen).await?);
        }
        let rows = read(service, &table.name, &between(&lanes, from, &until)).await?;
        let rows = rows.into_iter().filter(|rows| rows.num_rows() > 0);
        let rows = rows.map(|rows| Batch::of_records(rows, time(&view)).map_err(broken)).collect::<Result<_>>()?;
        let is_left = seen.iter().any(|(lane, end)| !has_seen(&until, lane, *end));
        Ok((rows, is_left.then_some(until)))
    }

    /// Before this the brokers were away: nobody was silent.
    pub fn silent_from(&self) -> Micros {
        self.silent_from
    }

    fn trail(&mut self, lateness: Duration) {
        self.clock.trail(lateness.as_micros().try_into().unwrap_or_default());
    }

    /// How far time has come. It follows the wall where all is read that the brokers had a moment ago.
    pub fn now(&mut self, catalog: &EngineCatalog) -> Micros {
        let lateness = self.tables.iter().map(|table| catalog.allowed_lateness(&table.name)).max();
        self.trail(lateness.unwrap_or_default());
        let (mut lanes, mut reached) = (Vec::new(), Vec::new());
        let mut is_known = true;
        for table in &self.tables {
            let (seen, there) = (table.seen.as_ref(), end(&table.live.pin()));
            let of_table = catalog.lanes(&table.name);
            is_known &= of_table.is_some();
            for (lane, at, state) in of_table.into_iter().flatten() {
                let is_seen_until = |end: i64| seen.is_some_and(|seen| has_seen(seen, &lane, end));
                // What the brokers do not have any more does not come.
                let is_unread = at.position == at.start && there.get(&lane).is_none_or(|end| is_seen_until(*end));
                let is_seen = is_unread || is_seen_until(at.position);
                let is_at_end = at.high_watermark.is_some_and(|high| high <= at.position);
                if let Some(asked_at_us) = at.asked_at_us.filter(|_| is_seen && is_at_end)
                    && state == ReaderState::Reading
                {
                    reached.push((lane.clone(), asked_at_us));
                }
                if state == ReaderState::Unreachable {
                    self.silent_from = now() + GRACE;
                }
                lanes.push(lane);
            }
        }
        // One that is not known yet may be behind all others.
        if !is_known {
            lanes.clear();
            reached.clear();
        }
        self.clock.reach(reached.iter().map(|(lane, at)| (lane, *at)));
        self.clock.now(&lanes)
    }

    async fn take_records(&mut self, service: &Service, due_only: bool) -> Result<Taken> {
        let mut taken = Taken::default();
        self.is_behind = false;
        let is_due = |clock: &Clock<TopicPartition>, lane: &TopicPartition| !due_only || clock.waits_for(lane);
        for table in &mut self.tables {
            let view = table.live.pin();
            let Some(seen) = &table.seen else {
                table.seen = Some(end(&view));
                continue;
            };
            // Until all of it is read nothing is seen.
            let (mut rows, mut seen) = (Vec::new(), seen.clone());
            let mut left = behind(&seen, &view);
            left.retain(|lane| is_due(&self.clock, lane));
            if !left.is_empty() {
                let mut until = Positions::new();
                for lane in &left {
                    until.insert(lane.clone(), step(service, &table.name, lane, &seen, &view.positions).await?);
                }
                rows = read(service, &table.name, &between(&left, &seen, &until)).await?;
                until.iter().for_each(|(lane, end)| see(&mut seen, lane, *end));
            }
            // What is hot of a lane comes behind what is committed of it.
            let behind = behind(&seen, &view);
            self.is_behind |= left.iter().any(|lane| behind.contains(lane));
            let mut is_all = behind.is_empty();
            for hot in after(&view, &table.last) {
                if has_seen(&seen, &hot.lane, hot.end) {
                    continue;
                }
                if behind.contains(&hot.lane) || !is_due(&self.clock, &hot.lane) {
                    is_all = false;
                    continue;
                }
                let start = seen.get(&hot.lane).copied().unwrap_or(hot.start);
                see(&mut seen, &hot.lane, hot.end);
                taken.received_at = taken.received_at.or(Some(hot.received_at));
                if hot.rows.num_rows() > 0 {
                    let new = table.rows(hot, &view)?;
                    rows.push(if start > hot.start { from(&new, start)? } else { new });
                }
            }
            rows.retain(|rows| rows.num_rows() > 0);
            let mut new = None;
            if !rows.is_empty() {
                // Together: what a rule costs is mostly per batch.
                let shown = Arc::clone(&table.columns(&view).shown);
                let rows = rows.iter().map(|rows| conform(rows, &shown)).collect::<std::result::Result<Vec<_>, _>>();
                let rows = rows.and_then(|rows| concat_batches(&shown, &rows)).map_err(broken)?;
                new = Some(Batch::of_records(rows, time(&view)).map_err(broken)?);
            }
            table.seen = Some(seen);
            if is_all {
                table.last = view.hot.last().map_or_else(Weak::new, Arc::downgrade);
            }
            if let Some(mut batch) = new {
                let in_time = note(&mut self.clock, &view, &mut batch);
                if self.leaves_out {
                    self.late += (batch.len() - in_time.len()) as u64;
                    batch = batch.only(&in_time).map_err(broken)?.into_owned();
                }
                taken.batches.push(batch);
            }
        }
        Ok(taken)
    }

    fn take_keys(&mut self) -> Result<Taken> {
        let NewRows::OfKeys { kept, followed } = &self.rows else { return Ok(Taken::default()) };
        if kept.rows.is_loading() || kept.rows.stopped().is_some() {
            return Ok(Taken::default());
        }
        let mut taken = Taken::default();
        let mut named = Named::default();
        let mut sought: Vec<RecordBatch> = Vec::new();
        for (table, followed) in self.tables.iter_mut().zip(followed) {
            let view = table.live.pin();
            let Some(taken_in) = followed.taken_in() else { continue };
            // What was committed before it was seen hot, or tried again, may be of any key.
            taken.is_whole |= table.seen.is_none();
            let seen = table.seen.get_or_insert_default();
            if view.retries > table.retries && taken_in.retries >= view.retries {
                taken.is_whole = true;
                table.retries = view.retries;
            }
            for lane in behind(seen, &view) {
                let end = view.positions.get(&lane).copied().unwrap_or_default();
                if has_seen(&taken_in.positions, &lane, end) {
                    taken.is_whole = true;
                    see(seen, &lane, end);
                }
            }
            for hot in after(&view, &table.last) {
                if !has_seen(&taken_in.positions, &hot.lane, hot.end) {
                    break;
                }
                table.last = Arc::downgrade(hot);
                let seen = table.seen.get_or_insert_default();
                if has_seen(seen, &hot.lane, hot.end) {
                    continue;
                }
                see(seen, &hot.lane, hot.end);
                if hot.rows.num_rows() == 0 {
                    continue;
                }
                taken.received_at = taken.received_at.or(Some(hot.received_at));
                let mut batch = Batch::of_records(table.rows(hot, &view)?, time(&view)).map_err(broken)?;
                note(&mut self.clock, &view, &mut batch);
                sought.extend(named.note(&batch, &followed.key, &*kept.rows));
            }
        }
        let rows = if taken.is_whole {
            kept.rows.scan().map_err(Error::from)?
        } else if let Some(first) = sought.first() {
            let sought = concat_batches(&first.schema(), &sought).map_err(broken)?;
            kept.rows.get(sought.columns()).map_err(Error::from)?.into_iter().collect()
        } else {
            return Ok(taken);
        };
        taken.batches.push(named.batch(&*kept.rows, &rows, now())?);
        Ok(taken)
    }
}

/// Up to where the rows of a lane are read next that lie between these positions: not all at once, they may be many.
async fn step(service: &Service, table: &str, lane: &TopicPartition, from: &Positions, to: &Positions) -> Result<i64> {
    let end = to.get(lane).copied().unwrap_or_default();
    let first = first_offset(service, table, &between(std::slice::from_ref(lane), from, to)).await?;
    Ok(first.map_or(end, |first| end.min(first.saturating_add(STEP))))
}

fn now() -> Micros {
    chrono::Utc::now().timestamp_micros()
}

/// What rows say of the time; gives those that are in time.
fn note(clock: &mut Clock<TopicPartition>, view: &View, batch: &mut Batch) -> Vec<u32> {
    let lane = |cause: &Cause| {
        let is_lane = |lane: &&TopicPartition| *lane.topic == *cause.topic && lane.partition == cause.partition;
        let lanes = view.positions.keys().chain(view.hot.iter().map(|hot| &hot.lane));
        lanes.filter(is_lane).max_by_key(|lane| lane.incarnation).cloned()
    };
    batch.in_time(clock, lane, now())
}
