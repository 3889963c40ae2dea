//! The task that feeds one events table: batches in, hot rows at once, a commit every interval.
//!
//! Decoding runs here, commits run beside it: while one is under way rows go on becoming visible. What is
//! held is charged to the ingest budget, so a store that is away pauses the readers and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::record_batch::RecordBatch;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::facts;
use super::retry::{Answer, Retry, plan};
use super::status::TableStatus;
use super::versions::Versions;
use crate::decode::{Decoded, Decoder, Records, dead_letters_batch};
use crate::error::{Error, Kind};
use crate::lake::{self, CommitError, DeadLetters, Encoding, HotBatch, LiveView, Table, TopicPartition, Window};
use crate::news::News;
use crate::schema::{Cause, Change, ChangeKind, Contract, Found, Place, SchemaVersion, first_finds};
use crate::source::Delivery;
use crate::task::{Budget, Charge, Shutdown};

/// Version 1 of a table waits for this many records …
const FIRST_WINDOW_RECORDS: usize = 1_000;
/// … or this long after the first, so that one early message does not decide.
const FIRST_WINDOW_TIME: Duration = Duration::from_secs(10);
/// A window closes at this size, so that the backlog of an outage is written in pieces …
const WINDOW_BYTES: usize = 128 * 1024 * 1024;
/// … and at this part of the ingest budget: what encoding its files takes comes on top of the rows.
const WINDOW_PART: usize = 8;
/// A checkpoint of the Delta log is written in the background each time this many table versions were added.
const CHECKPOINT_EVERY: u64 = 64;
/// A batch is decoded again for so many new schema versions; what is left over is rescued, and news to the next one.
const MOST_VERSIONS: usize = 3;

/// What a table's ingest needs.
pub struct Ingest {
    /// The table's contract.
    pub contract: Arc<Contract>,
    /// What statements see of the table.
    pub live: Arc<LiveView>,
    /// The Delta table; taken while a commit is under way.
    pub table: Table,
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
    /// Gives up waiting for the store: what is not committed is read again at the next start.
    pub abort: Shutdown,
}

/// The table after a commit, and who waits for it to be seen.
struct Flushed {
    table: Table,
    outcome: Result<(), CommitError>,
    answer: Option<Answer>,
}

struct State {
    ingest: Ingest,
    decoder: Option<(Decoder, Arc<SchemaVersion>)>,
    first_window: Vec<(Records, Charge)>,
    first_record_at: Option<Instant>,
    table: Option<Table>,
    flushing: Option<JoinHandle<Flushed>>,
    checkpointing: Option<JoinHandle<()>>,
    checkpoint_version: u64,
    reopen: bool,
}

impl Ingest {
    /// Runs until the readers are stopped and everything is committed. An error means that writing must end:
    /// another writer is at work, or the rows cannot be written.
    pub async fn run(mut self) -> Result<(), CommitError> {
        let decoder = self.resume().await?;
        let mut ticks = self.ticks();
        let table = self.table.clone();
        let mut state = State {
            checkpoint_version: table.version(),
            table: Some(table),
            ingest: self,
            decoder,
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
                () = until(deadline) => state.first_version()?,
                () = edited(&mut state.ingest.edits) => {
                    state.edit();
                    ticks = state.ingest.ticks();
                }
            }
        }
        state.drain().await
    }

    /// The version that the table goes on with: the newest recorded one, applied if the table lags behind it, and
    /// what the contract declares by now. A recorded version is never inferred again.
    async fn resume(&mut self) -> Result<Option<(Decoder, Arc<SchemaVersion>)>, CommitError> {
        let name = self.contract.table.clone();
        let there = self.table.schema_version();
        if there > self.versions.newest(&name).map_or(0, |newest| newest.number()) {
            let schema = self.table.arrow_schema()?;
            let version = SchemaVersion::from_arrow(&schema, there, self.contract.key.len())
                .map_err(|error| lake::TableError::Schema { table: name.clone(), reason: error.to_string() })?;
            self.versions.add(&name, &Arc::new(version), &[], Cause::Adopted);
        }
        let Some(newest) = self.versions.newest(&name) else { return Ok(None) };
        let mut version = Arc::clone(&newest.version);
        if let Some(next) = version.evolve(&self.contract, &[]) {
            version = Arc::new(next);
            self.versions.add(&name, &version, &[], self.edited());
        }
        // Descriptions are no change of a table: they follow the contract.
        let version = Arc::new(SchemaVersion::clone(&version).described(&self.contract));
        let schema = version.arrow_schema();
        self.live.evolve(Arc::clone(&schema), version.number);
        self.versions.record(&name, version.number, &self.abort).await?;
        lake::evolve(&mut self.table, &schema, version.number, &self.abort).await?;
        self.live.committed(self.table.snapshot()?, self.table.positions_of(&name));
        Ok(Some((Decoder::new(Arc::clone(&self.contract), Arc::clone(&version)), version)))
    }

    fn ticks(&self) -> tokio::time::Interval {
        let mut ticks = tokio::time::interval(self.contract.commit_interval.unwrap_or(self.commit_interval));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks
    }

    fn edited(&self) -> Cause {
        Cause::Edit(format!("schemas/{}.toml", self.contract.table))
    }
}

impl State {
    fn take(&mut self, delivery: Delivery) -> Result<(), CommitError> {
        let Delivery { records, charge } = delivery;
        if self.decoder.is_some() {
            return tokio::task::block_in_place(|| self.decode(records, charge));
        }
        self.first_record_at.get_or_insert_with(Instant::now);
        self.first_window.push((records, charge));
        let waiting: usize = self.first_window.iter().map(|(records, _)| records.len()).sum();
        self.ingest.status.deciding(waiting as u64);
        if waiting >= FIRST_WINDOW_RECORDS {
            self.first_version()?;
        }
        Ok(())
    }

    /// Decides the first schema version from the records waiting for it, and decodes them.
    fn first_version(&mut self) -> Result<(), CommitError> {
        self.first_record_at = None;
        self.ingest.status.deciding(0);
        let window = std::mem::take(&mut self.first_window);
        let records: Vec<&Records> = window.iter().map(|(records, _)| records).collect();
        let found = first_finds(&self.ingest.contract, &records);
        let version = SchemaVersion::first(&self.ingest.contract, &found);
        info!(table = self.ingest.contract.table, columns = version.columns.len(), "first schema version");
        let first = records.iter().min_by_key(|records| records.start);
        let cause = first.map_or_else(|| self.ingest.edited(), |first| Cause::Record(place(first)));
        self.adopt(version, &found, cause);
        tokio::task::block_in_place(|| {
            window.into_iter().try_for_each(|(records, charge)| self.decode(records, charge))
        })
    }

    /// Rows get `version` from now on. It is recorded in the background; the next commit waits for that.
    fn adopt(&mut self, version: SchemaVersion, found: &[Found], cause: Cause) {
        let (version, table) = (Arc::new(version), self.ingest.contract.table.clone());
        let record = self.ingest.versions.add(&table, &version, found, cause);
        record.changes.iter().for_each(|change| tell(&table, version.number, change));
        if let Some((_, before)) = &self.decoder
            && let Some(event) = facts::schema_change(&table, before, &version, found, self.ingest.status.rows())
        {
            self.ingest.news.tell(event);
        }
        self.ingest.live.evolve(version.arrow_schema(), version.number);
        let (versions, number) = (Arc::clone(&self.ingest.versions), version.number);
        let abort = self.ingest.abort.clone();
        self.decoder = Some((Decoder::new(Arc::clone(&self.ingest.contract), Arc::clone(&version)), version));
        crate::task::spawn("record-version", async move {
            if let Err(error) = versions.record(&table, number, &abort).await {
                warn!(table, error = %error, "schema version not recorded, trying again with the next commit");
            }
        });
    }

    /// Takes over an edited contract between two batches, or says why the old one goes on.
    fn edit(&mut self) {
        let next = Arc::clone(&self.ingest.edits.borrow_and_update());
        let table = next.table.clone();
        let version = self.decoder.as_ref().map(|(_, version)| Arc::clone(version));
        let suits = version.as_ref().map_or(Ok(()), |version| next.suits(version));
        if let Err(refusal) = suits.and(self.ingest.contract.may_become(&next)) {
            let (reason, hint) = (refusal.reason, refusal.hint);
            warn!(table, reason, hint, "contract not taken over, the one before goes on");
            return;
        }
        self.ingest.contract = next;
        info!(table, "contract taken over");
        let Some(version) = version else {
            let declared = SchemaVersion::declared(&self.ingest.contract);
            self.ingest.live.evolve(declared.arrow_schema(), declared.number);
            return;
        };
        match version.evolve(&self.ingest.contract, &[]) {
            Some(next) => self.adopt(next.described(&self.ingest.contract), &[], self.ingest.edited()),
            None => {
                let version = Arc::new(SchemaVersion::clone(&version).described(&self.ingest.contract));
                self.ingest.live.evolve(version.arrow_schema(), version.number);
                self.decoder = Some((Decoder::new(Arc::clone(&self.ingest.contract), Arc::clone(&version)), version))
            }
        }
    }

    fn decode(&mut self, records: Records, charge: Charge) -> Result<(), CommitError> {
        let Some(decoded) = self.decoded(&records)? else { return Ok(()) };
        let lane = TopicPartition {
            topic: Arc::clone(&records.topic),
            incarnation: records.incarnation,
            partition: records.partition,
        };
        self.ingest.status.decoded(&lane, &records, &decoded);
        if let Some(event) = facts::dead_letters(&self.ingest.contract.table, &decoded.dead) {
            self.ingest.news.tell(event);
        }
        let dead = (!decoded.dead.is_empty())
            .then(|| dead_letters_batch(&self.ingest.contract.table, &decoded.dead))
            .transpose()?;
        let bytes = decoded.rows.get_array_memory_size() + dead.as_ref().map_or(0, RecordBatch::get_array_memory_size);
        let hot = self.ingest.budget.charge(bytes);
        drop(charge);
        self.ingest.live.push(HotBatch {
            lane,
            start: records.start,
            end: records.end,
            rows: decoded.rows,
            dead,
            charge: hot,
        });
        Ok(())
    }

    /// Decodes `records`, with newer schema versions if they bring what the newest does not hold; `None` before the
    /// first version.
    fn decoded(&mut self, records: &Records) -> Result<Option<Decoded>, CommitError> {
        let Some((decoder, _)) = &mut self.decoder else { return Ok(None) };
        let mut decoded = decoder.decode(records)?;
        for _ in 0..MOST_VERSIONS {
            let found = [&decoded.found[..], &decoded.misfits[..]].concat();
            let Some((_, version)) = &self.decoder else { break };
            let Some(first) = found.iter().min_by_key(|find| find.offset) else { break };
            let Some(next) = version.evolve(&self.ingest.contract, &found) else { break };
            announce(&self.ingest.contract.table, &next, &decoded.found);
            self.adopt(next, &found, first.into());
            if let Some((decoder, _)) = &mut self.decoder {
                decoded = decoder.decode(records)?;
            }
        }
        Ok(Some(decoded))
    }

    /// Decodes dead letters again and commits what becomes of them; for a moment when no commit is under way.
    fn start_retry(&mut self, retry: Retry) {
        if self.decoder.is_none() {
            return retry.refuse(Error::new(
                Kind::Unavailable,
                format!("table {} has no columns yet", self.ingest.contract.table),
            ));
        }
        let positions = self.ingest.live.pin().positions.clone();
        let planned = tokio::task::block_in_place(|| plan(&retry, &positions, |records| self.decoded(records)));
        let healed = match planned {
            Ok(healed) => healed,
            Err(error) => return retry.refuse(error.into()),
        };
        let (Some((_, version)), Some(mut table)) = (&self.decoder, self.table.take()) else { return };
        let version = Arc::clone(version);
        let charge = self.ingest.budget.charge(healed.size_bytes());
        let (dead_letters, abort) = (Arc::clone(&self.ingest.dead_letters), self.ingest.abort.clone());
        let versions = Arc::clone(&self.ingest.versions);
        let work = async move {
            let committed = match versions.record(table.name(), version.number, &abort).await {
                Ok(()) => healed.commit(&mut table, &version, &dead_letters, &abort).await,
                Err(error) => Err(error),
            };
            drop(charge);
            match committed {
                Ok(retried) => Flushed { table, outcome: Ok(()), answer: Some(retry.answer(retried)) },
                Err(error) => Flushed { table, outcome: Err(error), answer: None },
            }
        };
        self.flushing = Some(crate::task::spawn("retry", work));
    }

    /// Commits before the interval is over once half a window is hot.
    fn flush_early(&mut self) {
        if self.flushing.is_none() && self.ingest.live.pin().hot_bytes() >= self.window_bytes() / 2 {
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
        let Some(window) = Window::freeze(&self.ingest.live.pin(), self.window_bytes()) else { return };
        let Some(mut table) = self.table.take() else { return };
        let (dead_letters, abort) = (Arc::clone(&self.ingest.dead_letters), self.ingest.abort.clone());
        let (versions, encoding) = (Arc::clone(&self.ingest.versions), Arc::clone(&self.ingest.encoding));
        let reopen = std::mem::take(&mut self.reopen);
        let work = async move {
            if reopen && let Err(error) = table.reopen().await {
                table.warn("table not reopened from its checkpoint", &error);
            }
            let name = Arc::clone(table.name());
            let outcome = match versions.record(&name, window.schema_version(), &abort).await {
                Ok(()) => lake::flush(&mut table, window, &dead_letters, &encoding, &abort).await,
                Err(error) => Err(error),
            };
            Flushed { table, outcome: outcome.map(drop), answer: None }
        };
        self.flushing = Some(crate::task::spawn("flush", work));
    }

    async fn finish_flush(&mut self, flushed: Result<Flushed, tokio::task::JoinError>) -> Result<(), CommitError> {
        self.flushing = None;
        let Flushed { table, outcome, answer } = flushed.map_err(|error| {
            error!(table = self.ingest.contract.table, error = %error, "commit task failed");
            CommitError::Stopped
        })?;
        outcome?;
        self.ingest.live.committed(table.snapshot()?, table.positions_of(&self.ingest.contract.table));
        self.ingest.status.committed(table.version());
        if let Some(answer) = answer {
            answer.give();
        }
        if table.version() >= self.checkpoint_version + CHECKPOINT_EVERY {
            self.checkpoint_version = table.version();
            self.checkpoint(table.clone());
        }
        if self.checkpointing.as_ref().is_some_and(JoinHandle::is_finished) {
            (self.checkpointing, self.reopen) = (None, true);
        }
        self.table = Some(table);
        Ok(())
    }

    fn checkpoint(&mut self, table: Table) {
        if self.checkpointing.is_none() {
            let work = async move {
                if let Err(error) = table.checkpoint().await {
                    table.warn("checkpoint not written, trying again later", &error);
                }
            };
            self.checkpointing = Some(crate::task::spawn("checkpoint", work));
        }
    }

    /// The readers have stopped: commits all that is left.
    async fn drain(mut self) -> Result<(), CommitError> {
        if !self.first_window.is_empty() {
            self.first_version()?;
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

fn announce(table: &str, version: &SchemaVersion, found: &[Found]) {
    for find in found {
        info!(
            table,
            schema_version = version.number,
            path = %find.path,
            partition = find.partition,
            offset = find.offset,
            sample = find.sample,
            "new field"
        );
    }
}

fn place(records: &Records) -> Place {
    Place { topic: records.topic.to_string(), partition: records.partition, offset: records.start }
}

/// Says what else is new in a schema version: new fields are announced with what was found.
fn tell(table: &str, schema_version: u32, change: &Change) {
    let place = change.place.as_ref();
    let (partition, offset) = (place.map(|place| place.partition), place.map(|place| place.offset));
    let (column, kind, sample) = (&*change.column, &*change.kind, change.sample.as_deref());
    match change.change {
        ChangeKind::Widen | ChangeKind::Conflict => {
            let was = change.was.as_deref();
            info!(table, schema_version, column, was, r#type = kind, partition, offset, sample, "column widened");
        }
        ChangeKind::Contract => info!(table, schema_version, column, r#type = kind, "column declared"),
        ChangeKind::Add | ChangeKind::Bind | ChangeKind::Range => {}
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
