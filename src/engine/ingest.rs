//! The task that feeds one events table and those beside it (child tables, records as they came): batches in, hot rows
//! at once, a commit every interval.
//!
//! Decoding runs here, commits run beside it: while one is under way rows go on becoming visible. What is
//! held is charged to the ingest budget, so a store that is away pauses the readers and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::error;

use super::facts;
use super::family::Family;
use super::lanes::lane_of;
use super::replay::Again;
use super::retry::{Answer, Retry, plan};
use super::status::TableStatus;
use super::versions::Versions;
use crate::decode::{Records, dead_letters_batch};
use crate::error::{Error, Kind};
use crate::lake::{self, CommitError, DeadLetters, Encoding, HotBatch, LiveView, SideRows, Table, Window};
use crate::news::News;
use crate::schema::Contract;
use crate::source::Delivery;
use crate::task::{Budget, Shutdown};

/// Version 1 of a table waits for this many records …
const FIRST_WINDOW_RECORDS: usize = 1_000;
/// … or this long after the first, so that one early message does not decide.
const FIRST_WINDOW_TIME: Duration = Duration::from_secs(10);
/// A window closes at this size, so that the backlog of an outage is written in pieces …
const WINDOW_BYTES: usize = 128 * 1024 * 1024;
/// … and at this part of the ingest budget: what encoding its files takes comes on top of the rows.
const WINDOW_PART: usize = 8;

/// What a table's ingest needs.
pub struct Ingest {
    /// The table's contract.
    pub contract: Arc<Contract>,
    /// What statements see of the table.
    pub live: Arc<LiveView>,
    /// The Delta table.
    pub table: Table,
    /// The tables beside it: those of [`Contract::family`] but the first, then [`Contract::raw_table`].
    pub beside: Vec<Beside>,
    /// Where records go that could not become rows.
    pub dead_letters: Arc<DeadLetters>,
    /// The schema versions of all tables.
    pub versions: Arc<Versions>,
    /// The contract as it is edited.
    pub edits: watch::Receiver<Arc<Contract>>,
    /// Batches from all topics of the table.
    pub deliveries: mpsc::Receiver<Delivery>,
    /// Dead letters to be tried again.
    pub retries: mpsc::Receiver<Retry>,
    /// Records to be decoded once more.
    pub agains: mpsc::Receiver<Again>,
    /// What hot rows are charged to.
    pub budget: Budget,
    /// What commits take for their files, shared by all tables.
    pub encoding: Arc<Encoding>,
    /// Time between commits, unless the contract says otherwise.
    pub commit_interval: Duration,
    /// Counters for `system.ingest`.
    pub status: Arc<TableStatus>,
    /// Who is told of what changes.
    pub news: News,
    /// The process stops: who reads these records again would be another one.
    pub stop: Shutdown,
    /// Gives up waiting for the store: what is not committed is read again at the next start.
    pub abort: Shutdown,
}

/// The tables after a commit, and who waits for it to be seen.
struct Flushed {
    tables: Tables,
    outcome: Result<(), CommitError>,
    answer: Option<Answer>,
}

/// A table that gets rows of the same records.
pub struct Beside {
    /// What statements see of it.
    pub live: Arc<LiveView>,
    /// The Delta table.
    pub table: Table,
}

/// The Delta tables, while no commit is under way.
struct Tables {
    main: Table,
    beside: Vec<Table>,
}

impl Tables {
    fn all(&mut self) -> impl Iterator<Item = &mut Table> {
        std::iter::once(&mut self.main).chain(&mut self.beside)
    }
}

struct State {
    ingest: Ingest,
    family: Family,
    first_window: Vec<Delivery>,
    first_record_at: Option<Instant>,
    tables: Option<Tables>,
    beside: Vec<Arc<LiveView>>,
    flushing: Option<JoinHandle<Flushed>>,
    checkpointing: Option<JoinHandle<()>>,
    /// Of each table, the version of its last checkpoint.
    checkpoints: Vec<u64>,
    reopen: bool,
}

impl Ingest {
    /// Runs until the readers are stopped and everything is committed. An error means that writing must end:
    /// another writer is at work, or the rows cannot be written.
    pub async fn run(mut self) -> Result<(), CommitError> {
        let (beside, tables): (Vec<_>, Vec<_>) =
            self.beside.drain(..).map(|Beside { live, table }| (live, table)).unzip();
        let mut tables = Tables { main: self.table.clone(), beside: tables };
        let lives = std::iter::once(&self.live).chain(&beside).cloned();
        let (versions, news) = (Arc::clone(&self.versions), self.news.clone());
        let mut family = Family::new(&self.contract, lives, versions, news, self.abort.clone());
        family.resume(&mut tables.all().collect::<Vec<_>>()).await?;
        let mut ticks = self.ticks();
        let mut state = State {
            checkpoints: tables.all().map(|table| table.version()).collect(),
            tables: Some(tables),
            beside,
            ingest: self,
            family,
            first_window: Vec::new(),
            first_record_at: None,
            flushing: None,
            checkpointing: None,
            reopen: false,
        };
        loop {
            let deadline = state.first_record_at.map(|at| at + FIRST_WINDOW_TIME);
            tokio::select! {
                delivery = state.ingest.deliveries.recv() => match delivery {
                    Some(delivery) => {
                        state.take(delivery)?;
                        state.flush_early();
                    }
                    None => break,
                },
                _ = ticks.tick() => state.start_flush(),
                flushed = finished(&mut state.flushing) => {
                    state.finish_flush(flushed).await?;
                    // Before the next flush: under load one follows the other.
                    match state.ingest.retries.try_recv() {
                        Ok(retry) => state.start_retry(retry),
                        Err(_) => state.flush_early(),
                    }
                }
                Some(retry) = state.ingest.retries.recv(), if state.flushing.is_none() => state.start_retry(retry),
                Some(again) = state.ingest.agains.recv() => state.decode_again(again)?,
                () = until(deadline) => state.decide()?,
                () = edited(&mut state.ingest.edits) => {
                    state.edit();
                    ticks = state.ingest.ticks();
                }
            }
        }
        state.drain().await
    }

    fn ticks(&self) -> tokio::time::Interval {
        let mut ticks = tokio::time::interval(self.contract.commit_interval.unwrap_or(self.commit_interval));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    }
}

impl State {
    fn take(&mut self, delivery: Delivery) -> Result<(), CommitError> {
        if self.family.is_decided() {
            return tokio::task::block_in_place(|| self.decode(delivery));
        }
        self.first_record_at.get_or_insert_with(Instant::now);
        self.first_window.push(delivery);
        let waiting: usize = self.first_window.iter().map(|delivery| delivery.records.len()).sum();
        self.ingest.status.deciding(waiting as u64);
        if waiting >= FIRST_WINDOW_RECORDS {
            self.decide()?;
        }
        Ok(())
    }

    /// Decides the first schema version from the records waiting for it, and decodes them.
    fn decide(&mut self) -> Result<(), CommitError> {
        self.first_record_at = None;
        self.ingest.status.deciding(0);
        let window = std::mem::take(&mut self.first_window);
        let records: Vec<&Records> = window.iter().map(|delivery| &delivery.records).collect();
        self.family.decide(&records);
        tokio::task::block_in_place(|| window.into_iter().try_for_each(|delivery| self.decode(delivery)))
    }

    /// Takes over an edited contract between two batches.
    fn edit(&mut self) {
        let next = Arc::clone(&self.ingest.edits.borrow_and_update());
        self.family.edit(&next);
        self.ingest.contract = Arc::clone(self.family.contract());
    }

    fn decode(&mut self, delivery: Delivery) -> Result<(), CommitError> {
        let Delivery { records, charge, received_at } = delivery;
        let began = Instant::now();
        let Some(decoded) = self.family.decode(&records)? else { return Ok(()) };
        let lane = lane_of(&records);
        self.ingest.status.decoded(&lane, &records, &decoded, began.elapsed());
        if let Some(event) = facts::dead_letters(&self.ingest.contract.table, &decoded.dead) {
            self.ingest.news.tell(event);
        }
        let dead = (!decoded.dead.is_empty())
            .then(|| dead_letters_batch(&self.ingest.contract.table, &decoded.dead))
            .transpose()?;
        let (start, end) = (records.start, records.end);
        let hot = |rows: RecordBatch, dead: Option<RecordBatch>, beside| {
            let dead_bytes = dead.as_ref().map_or(0, RecordBatch::get_array_memory_size);
            let charge = self.ingest.budget.charge(rows.get_array_memory_size() + dead_bytes);
            Arc::new(HotBatch { lane: lane.clone(), start, end, rows, dead, beside, charge, received_at })
        };
        let children = decoded.descendants().into_iter().map(|child| child.rows.clone());
        let beside: Vec<_> = children.chain(decoded.raw.clone()).map(|rows| hot(rows, None, Vec::new())).collect();
        self.beside.iter().zip(&beside).for_each(|(live, batch)| live.push(Arc::clone(batch)));
        self.ingest.live.push(hot(decoded.rows, dead, beside));
        drop(charge);
        Ok(())
    }

    /// Says what records are by now that became rows long ago, or did not.
    fn decode_again(&mut self, again: Again) -> Result<(), CommitError> {
        let decoded = tokio::task::block_in_place(|| self.family.decode(&again.records))?;
        again.answer(self.family.contract(), self.family.schema_versions(), decoded)
    }

    /// Decodes dead letters again and commits what becomes of them; for a moment when no commit is under way.
    fn start_retry(&mut self, retry: Retry) {
        if !self.family.is_decided() {
            return retry.refuse(Error::new(
                Kind::Unavailable,
                format!("table {} has no columns yet", self.ingest.contract.table),
            ));
        }
        let Some(tables) = &self.tables else { return };
        let positions = tables.main.positions_of(&self.ingest.contract.table);
        let planned = tokio::task::block_in_place(|| plan(&retry, &positions, |records| self.family.decode(records)));
        let healed = match planned {
            Ok(healed) => healed,
            Err(error) => return retry.refuse(error.into()),
        };
        let Some(mut tables) = self.tables.take() else { return };
        let schema_versions = self.family.schema_versions();
        let charge = self.ingest.budget.charge(healed.size_bytes());
        let (dead_letters, abort) = (Arc::clone(&self.ingest.dead_letters), self.ingest.abort.clone());
        let versions = Arc::clone(&self.ingest.versions);
        let work = async move {
            let committed = async {
                for (table, version) in tables.all().zip(&schema_versions) {
                    versions.record(table.name(), version.number, &abort).await?;
                }
                let family = tables.all().zip(schema_versions).collect();
                healed.commit(family, &dead_letters, &abort).await
            };
            let committed = committed.await;
            drop(charge);
            match committed {
                Ok(retried) => Flushed { tables, outcome: Ok(()), answer: Some(retry.answer(retried)) },
                Err(error) => Flushed { tables, outcome: Err(error), answer: None },
            }
        };
        self.flushing = Some(crate::task::spawn_behind("retry", work));
    }

    /// Commits before the interval is over once half a window is hot.
    fn flush_early(&mut self) {
        if self.flushing.is_none() && self.ingest.live.pin().uncommitted_bytes() >= self.window_bytes() / 2 {
            self.start_flush();
        }
    }

    fn window_bytes(&self) -> usize {
        WINDOW_BYTES.min(self.ingest.budget.limit_bytes() / WINDOW_PART)
    }

    /// Commits what is hot, unless a commit is under way.
    fn start_flush(&mut self) {
        if self.flushing.is_some() {
            return;
        }
        let beside: Vec<_> = self.beside.iter().map(|live| live.pin()).collect();
        let Some(window) = Window::freeze(&self.ingest.live.pin(), &beside, self.window_bytes()) else { return };
        let Some(mut tables) = self.tables.take() else { return };
        let (dead_letters, abort) = (Arc::clone(&self.ingest.dead_letters), self.ingest.abort.clone());
        let (versions, encoding) = (Arc::clone(&self.ingest.versions), Arc::clone(&self.ingest.encoding));
        let reopen = std::mem::take(&mut self.reopen);
        let work = async move {
            for table in tables.all().filter(|_| reopen) {
                if let Err(error) = table.reopen().await {
                    table.warn("table not reopened from its checkpoint", &error);
                }
            }
            let committed = async {
                let numbers =
                    std::iter::once(window.schema_version()).chain(window.sides().iter().map(SideRows::schema_version));
                for (table, number) in tables.all().zip(numbers) {
                    versions.record(table.name(), number, &abort).await?;
                }
                lake::flush(&mut tables.main, &mut tables.beside, window, &dead_letters, &encoding, &abort).await
            };
            let outcome = committed.await.map(drop);
            Flushed { tables, outcome, answer: None }
        };
        self.flushing = Some(crate::task::spawn_behind("flush", work));
    }

    async fn finish_flush(&mut self, flushed: Result<Flushed, tokio::task::JoinError>) -> Result<(), CommitError> {
        self.flushing = None;
        let Flushed { mut tables, outcome, answer } = flushed.map_err(|error| {
            error!(table = self.ingest.contract.table, error = %error, "commit task failed");
            CommitError::Stopped
        })?;
        outcome?;
        let main = tables.main.positions_of(&self.ingest.contract.table);
        self.ingest.live.committed(&tables.main)?;
        for (table, live) in tables.beside.iter().zip(&self.beside) {
            live.committed_beside(table, &main)?;
        }
        self.ingest.status.committed(tables.main.version());
        if let Some(answer) = answer {
            answer.give();
        }
        if self.checkpointing.as_ref().is_some_and(JoinHandle::is_finished) {
            (self.checkpointing, self.reopen) = (None, true);
        }
        self.checkpoint(&mut tables);
        self.tables = Some(tables);
        Ok(())
    }

    fn checkpoint(&mut self, tables: &mut Tables) {
        if self.checkpointing.is_some() {
            return;
        }
        let mut due = Vec::new();
        for (table, last) in tables.all().zip(&mut self.checkpoints) {
            if table.version() >= *last + lake::CHECKPOINT_EVERY {
                *last = table.version();
                due.push(table.clone());
            }
        }
        if due.is_empty() {
            return;
        }
        let work = async move {
            for table in due {
                if let Err(error) = table.checkpoint().await {
                    table.warn("checkpoint not written, trying again later", &error);
                }
            }
        };
        self.checkpointing = Some(crate::task::spawn_behind("checkpoint", work));
    }

    /// The readers have stopped: commits all that is left.
    async fn drain(mut self) -> Result<(), CommitError> {
        // With another feed the first records are read once more, and it waits for enough of them as this one did.
        if !self.first_window.is_empty() && self.ingest.stop.is_cancelled() {
            self.decide()?;
        }
        loop {
            if let Some(flushing) = self.flushing.take() {
                let flushed = flushing.await;
                self.finish_flush(flushed).await?;
            }
            self.start_flush();
            if self.flushing.is_none() {
                break;
            }
        }
        if let Some(checkpointing) = self.checkpointing.take() {
            checkpointing.abort();
        }
        Ok(())
    }
}

/// Resolves when the contract was edited.
async fn edited(edits: &mut watch::Receiver<Arc<Contract>>) {
    if edits.changed().await.is_err() {
        std::future::pending().await
    }
}

async fn finished(flushing: &mut Option<JoinHandle<Flushed>>) -> Result<Flushed, tokio::task::JoinError> {
    match flushing {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
