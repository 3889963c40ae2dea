//! Tables put together anew: mirrors and latest tables from the tables that they come from, tables of events from the
//! records that they were made of, with today's contract.
//!
//! Of events: the records are read once more (`sources`), decoded by the task that feeds the table (`again`), and their rows
//! written into a [`Shadow`] of each table of the contract. Then the tables are switched, children first. The stream goes
//! on meanwhile; what it reads is later than what is read again. A record that can be no row by today's contract keeps the
//! rows that it has.

mod again;
mod sources;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use self::again::{Again, Decided};
use self::sources::{Piece, from_kafka, from_raw};
use super::care::made_of;
use super::catalog::EngineCatalog;
use super::dead_letters::{self, Desk, What};
use super::idle::Idle;
use super::lanes::lane_of;
use super::latest::Keeper;
use super::positions::questions;
use super::{Variables, as_writer, committed, open_table, service, unreadable};
use crate::config::Project;
use crate::decode::Records;
use crate::error::{Error, Kind, Result};
use crate::lake::{Lake, PUBLIC, Positions, RecordSet, Shadow, record_ids};
use crate::schema::{Contract, SchemaVersion};
use crate::source::KafkaOptions;
use crate::task::{self, Budget, Charge, Shutdown};

/// Name of the admin action of a [`Request`].
pub const ACTION: &str = "millpond.replay";
/// So many records are decoded at once: the stream waits for them.
const AT_ONCE: usize = 2_000;
/// New files are closed at this many bytes of rows, and at a part of the ingest budget.
const PIECE_BYTES: usize = 64 << 20;
const PIECE_PART: usize = 8;
/// Dead letters are kept back up to so many bytes, so that few commits hold them.
const LETTER_BYTES: usize = 8 << 20;
/// Pause before the task of a table is asked again.
const AGAIN: Duration = Duration::from_millis(200);

/// What is to be put together anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The table; a mirror by its own name.
    pub table: String,
    /// What from.
    pub from: Origin,
}

/// What tables are put together from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The tables that they come from.
    Tables,
    /// The records as they came, which the lake keeps beside a table that says `raw = true`.
    Raw,
    /// The records that Kafka holds.
    Kafka,
}

/// How far it is, in offsets or rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Read so far.
    pub read: u64,
    /// Of so much.
    pub all: u64,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The table that was put together.
    pub table: String,
    /// Records that were read.
    pub records: u64,
    /// Rows that it has of them now; of a table with one row per key all that it has.
    pub rows: u64,
    /// Rows that it had of them.
    pub gone: u64,
    /// Records that can be no rows any more, and keep those they had.
    pub kept: u64,
    /// Records that can be no rows and had none.
    pub dead: u64,
    /// Dead letters from before that are rows now.
    pub retried: u64,
    /// Tables that come from it and were put together anew, too …
    pub made_anew: Vec<String>,
    /// … and those that could not be.
    pub to_be_made_anew: Vec<String>,
}

/// Who is told of progress.
pub type Tell<'a> = dyn FnMut(Progress) + Send + 'a;

/// Puts tables together anew.
#[derive(Clone)]
pub struct Replayer {
    lake: Lake,
    catalog: Arc<EngineCatalog>,
    /// `None` without a server, which keeps tables with one row per key.
    keeper: Option<Keeper>,
    desk: Desk,
    kafka: KafkaOptions,
    abort: Shutdown,
    /// One at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Replayer {
    /// Of the tables of `lake`, which `catalog` shows.
    pub(super) fn new(
        lake: &Lake,
        catalog: &Arc<EngineCatalog>,
        desk: Desk,
        kafka: KafkaOptions,
        abort: &Shutdown,
    ) -> Self {
        let (lake, catalog, abort) = (lake.clone(), Arc::clone(catalog), abort.clone());
        Self { lake, catalog, keeper: None, desk, kafka, abort, turn: Arc::default() }
    }

    /// The same beside who keeps tables with one row per key.
    pub(super) fn beside(self, keeper: Keeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Carries out `request`. If the future is dropped before the tables are switched, nothing has happened.
    pub async fn run(&self, request: &Request, tell: &mut Tell<'_>) -> Result<Report> {
        let Request { table, from } = request;
        if *from == Origin::Tables {
            if !self.catalog.kept.load().contains_key(table) && self.contract(table).is_ok() {
                let message = format!("table {table} does not come from other tables, but from Kafka");
                return Err(Error::new(Kind::Usage, message).hint("--from kafka, or --from raw"));
            }
            let rows = match &self.keeper {
                Some(keeper) => keeper.replay(table).await?,
                None => {
                    return Err(Error::new(Kind::Usage, format!("{table} is put together by a running server"))
                        .hint("start `millpond serve`, then ask again"));
                }
            };
            return Ok(Report { table: table.clone(), rows, ..Report::default() });
        }
        let turn = Arc::clone(&self.turn).try_lock_owned().map_err(|_| {
            Error::new(Kind::Refused, "another table is put together anew at this moment").hint("try again behind it")
        })?;
        let contract = self.contract(table)?;
        let (stop, (told, mut progress)) = (Shutdown::new(), mpsc::channel(1));
        let _stopped = stop.clone().drop_guard();
        let (replayer, from) = (self.clone(), *from);
        let work = task::spawn_behind("replay", async move {
            let _turn = turn;
            replayer.remake(&contract, from, &told, &stop).await
        });
        while let Some(so_far) = progress.recv().await {
            tell(so_far);
        }
        super::joined(work.await)
    }

    /// The contract whose records are read again.
    fn contract(&self, table: &str) -> Result<Arc<Contract>> {
        let fed = self.catalog.fed();
        let is_meant = |contract: &&Arc<Contract>| contract.table == table || contract.file == table;
        if let Some(contract) = fed.contracts.iter().find(is_meant) {
            return Ok(Arc::clone(contract));
        }
        let error = Error::new(Kind::NotFound, format!("no topic feeds a table `{table}`"));
        Err(match self.catalog.kept.load().contains_key(table) {
            true => error.hint(format!("`millpond ingest replay {table} --from tables` puts it together")),
            false => error,
        })
    }

    async fn remake(
        &self,
        contract: &Arc<Contract>,
        from: Origin,
        told: &mpsc::Sender<Progress>,
        stop: &Shutdown,
    ) -> Result<Report> {
        let name = &contract.table;
        let missing = || Error::new(Kind::NotFound, format!("table {name} has no rows yet"));
        let table = open_table(&self.lake, PUBLIC, name).await?.ok_or_else(missing)?;
        let until = table.positions_of(name);
        let mut anew = Anew::new(self, contract, RecordSet::of(&table).await.map_err(unreadable)?).await?;
        let (take, mut pieces) = mpsc::channel(1);
        let read = self.read(contract, from, until, take).await?;
        let taken = async {
            while let Some(piece) = pieces.recv().await {
                let Piece { records, charge, read, all } = piece;
                anew.take(records).await?;
                drop(charge);
                // Who listens is told as fast as it listens.
                let _ = told.try_send(Progress { read, all });
            }
            super::joined(read.await)
        };
        let given_up = || Err(Error::new(Kind::Unavailable, "given up: nobody waits for it"));
        if let Err(error) = stop.run_until_cancelled(taken).await.unwrap_or_else(given_up) {
            for shadow in anew.shadows {
                shadow.discard().await;
            }
            return Err(error);
        }
        let mut report = anew.switch().await?;
        for table in made_of(&self.catalog, name) {
            let Some(keeper) = &self.keeper else {
                report.to_be_made_anew.push(table);
                continue;
            };
            match keeper.replay(&table).await {
                Ok(_) => report.made_anew.push(table),
                Err(error) => {
                    warn!(table, error = %error, "not put together anew");
                    report.to_be_made_anew.push(table);
                }
            }
        }
        let request = dead_letters::Request { what: What::Retry, table: name.clone(), reason: None, limit: None };
        report.retried = self.desk.run(&request).await?.retried.retried;
        info!(table = name, records = report.records, rows = report.rows, gone = report.gone, "table made anew");
        Ok(report)
    }

    /// What records are by now, as the task says that feeds their table; a feed that begins anew is waited for.
    async fn decide(&self, name: &str, records: &Records) -> Result<Decided> {
        loop {
            let decodes = self.catalog.retries.read().get(name).cloned();
            let decided = match decodes {
                Some(decodes) => decodes.decode(name, records.clone()).await,
                None => Err(super::retry::not_fed(name)),
            };
            match decided {
                Err(error) if error.kind() == Kind::Unavailable && self.keeper.is_some() => {
                    tokio::time::sleep(AGAIN).await;
                }
                decided => return decided,
            }
        }
    }

    /// Begins to read the records of `contract` below `until`.
    async fn read(
        &self,
        contract: &Arc<Contract>,
        from: Origin,
        until: Positions,
        take: mpsc::Sender<Piece>,
    ) -> Result<tokio::task::JoinHandle<Result<()>>> {
        let budget = self.catalog.ingest_budget.clone();
        if from == Origin::Kafka {
            let (kafka, contract) = (self.kafka.clone(), Arc::clone(contract));
            return Ok(task::spawn_behind("replay-kafka", async move {
                from_kafka(&kafka, &contract.table, &contract.topics, &until, &budget, &take).await
            }));
        }
        let missing = || {
            let message = format!("the records of {} are not kept as they came", contract.table);
            Error::new(Kind::NotFound, message)
                .hint("from the line raw = true in its file on they are; --from kafka reads those that Kafka holds")
        };
        let name = contract.raw_table().ok_or_else(missing)?;
        let raw = open_table(&self.lake, PUBLIC, &name).await?.ok_or_else(missing)?;
        Ok(task::spawn_behind("replay-raw", async move { from_raw(&raw, &until, &budget, &take).await }))
    }
}

/// Carries out `request` on a lake that no server writes to: as its one writer, for as long as it takes.
pub async fn without_server(
    project: &Project,
    variables: &Variables,
    request: &Request,
    tell: &mut Tell<'_>,
) -> Result<Report> {
    let kafka = match request.from {
        Origin::Kafka => questions(&project.config)?,
        Origin::Raw | Origin::Tables => KafkaOptions::default(),
    };
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let catalog = committed(project, Some(lake)).await?;
        let service = service(Some(lake), &catalog, &project.config)?;
        let desk = Desk::new(service, Arc::clone(&catalog), abort.clone());
        let replayer = Replayer::new(lake, &catalog, desk, kafka, abort);
        if request.from == Origin::Tables {
            return replayer.run(request, tell).await;
        }
        let contract = replayer.contract(&request.table)?;
        let idle = Idle::start(project, lake, &catalog, &contract, abort).await?;
        let done = replayer.run(request, tell).await;
        match idle {
            Some(idle) => idle.end().await.and(done),
            None => done,
        }
    })
    .await
}

/// The tables of a contract on their way.
struct Anew<'a> {
    replayer: &'a Replayer,
    contract: Arc<Contract>,
    shadows: Vec<Shadow>,
    versions: Vec<Arc<SchemaVersion>>,
    /// So many bytes of rows are in memory at most.
    most_bytes: usize,
    budget: Budget,
    /// Records that the main table has rows of.
    held: RecordSet,
    /// Records that are rows now, or are left out for a reason.
    records: RecordSet,
    letters: Letters,
    report: Report,
}

/// Dead letters that are still to be logged.
#[derive(Default)]
struct Letters {
    batches: Vec<RecordBatch>,
    ends: Positions,
    charges: Vec<Charge>,
}

impl<'a> Anew<'a> {
    async fn new(replayer: &'a Replayer, contract: &Arc<Contract>, held: RecordSet) -> Result<Self> {
        let budget = replayer.catalog.ingest_budget.clone();
        let most_bytes = PIECE_BYTES.min(budget.limit_bytes() / PIECE_PART);
        let mut shadows = Vec::new();
        for member in contract.family() {
            let name = &member.table;
            let missing = || Error::new(Kind::Unavailable, format!("table {name} is not there yet"));
            let table = open_table(&replayer.lake, PUBLIC, name).await?.ok_or_else(missing)?;
            shadows.push(Shadow::of(table, &member.key));
        }
        Ok(Self {
            replayer,
            contract: Arc::clone(contract),
            shadows,
            versions: Vec::new(),
            most_bytes,
            budget,
            held,
            records: RecordSet::default(),
            letters: Letters::default(),
            report: Report { table: contract.table.clone(), ..Report::default() },
        })
    }

    /// Decodes records and keeps what they are.
    async fn take(&mut self, records: Records) -> Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let next = rest.iter().nth(AT_ONCE).map(|record| record.offset);
            let part = next.map_or_else(|| rest.clone(), |next| rest.below_position(next));
            self.take_part(part).await?;
            let Some(next) = next else { break };
            rest = rest.from_position(next);
        }
        Ok(())
    }

    async fn take_part(&mut self, records: Records) -> Result<()> {
        let decided = self.replayer.decide(&self.contract.table, &records).await?;
        if *decided.contract != *self.contract {
            return Err(Error::new(Kind::Refused, format!("schemas/{}.toml was edited meanwhile", self.contract.file))
                .hint("nothing was changed: start again"));
        }
        let lane = lane_of(&records);
        let mut dead = decided.dead.into_iter().peekable();
        let mut lost = Vec::new();
        for record in records.iter() {
            if dead.next_if_eq(&record.offset).is_none() {
                self.records.insert(&lane, record.offset);
            } else if self.held.contains(&(lane.clone(), record.offset)) {
                self.report.kept += 1;
            } else {
                lost.push(record.offset);
            }
        }
        self.report.records += records.len() as u64;
        self.versions = decided.versions;
        for (shadow, rows) in self.shadows.iter_mut().zip(&decided.rows) {
            let charge = self.budget.charge(rows.get_array_memory_size());
            shadow.write(rows, charge).await.map_err(unreadable)?;
        }
        if self.shadows.iter().map(Shadow::held_bytes).sum::<usize>() >= self.most_bytes {
            for shadow in &mut self.shadows {
                shadow.finish().await.map_err(unreadable)?;
            }
        }
        let Some(letters) = decided.letters.filter(|_| !lost.is_empty()) else { return Ok(()) };
        let unlogged = |error| Error::new(Kind::Internal, "dead letters cannot be logged").because(error);
        let ids = record_ids(&letters).map_err(unlogged)?;
        let is_lost = ids.iter().map(|(_, offset)| Some(lost.contains(offset))).collect();
        let letters = filter_record_batch(&letters, &is_lost).map_err(unlogged)?;
        self.report.dead += letters.num_rows() as u64;
        self.letters.charges.push(self.budget.charge(letters.get_array_memory_size()));
        self.letters.batches.push(letters);
        let end = self.letters.ends.entry(lane).or_default();
        *end = records.end.max(*end);
        if self.letters.charges.iter().map(Charge::bytes).sum::<usize>() >= LETTER_BYTES {
            self.log_letters().await?;
        }
        Ok(())
    }

    /// Logs the dead letters that the log does not hold.
    async fn log_letters(&mut self) -> Result<()> {
        let Letters { batches, ends, charges } = std::mem::take(&mut self.letters);
        if !batches.is_empty()
            && let Some(log) = self.replayer.catalog.dead_letters.get()
        {
            log.append(&self.contract.table, &batches, ends, &self.replayer.abort).await?;
        }
        drop(charges);
        Ok(())
    }

    /// Puts the new rows in the place of those that the records had.
    async fn switch(mut self) -> Result<Report> {
        self.log_letters().await?;
        let Self { replayer, shadows, versions, records, mut report, contract, .. } = self;
        if versions.is_empty() {
            return Ok(report);
        }
        let Replayer { catalog, abort, .. } = replayer;
        let names = shadows.iter().map(|shadow| shadow.table().name().to_string());
        for (name, version) in names.collect::<Vec<_>>().iter().zip(&versions) {
            catalog.versions.record(name, version.number, abort).await?;
        }
        for (at, (shadow, version)) in shadows.into_iter().zip(&versions).enumerate().rev() {
            let columns = version.arrow_schema();
            let switched = shadow.switch(&records, (&columns, version.number), at == 0, abort).await;
            let Some((table, switched)) = switched? else {
                return Err(Error::new(Kind::Refused, format!("table {} was led back meanwhile", contract.table))
                    .hint("start again once it has read on"));
            };
            if let Some(live) = catalog.fed().tables.get(&**table.name()) {
                live.rewritten(&table).map_err(unreadable)?;
            }
            if at == 0 {
                (report.rows, report.gone) = (switched.rows, switched.gone);
            }
        }
        Ok(report)
    }
}
