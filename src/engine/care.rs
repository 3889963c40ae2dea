//! Care for the lake's tables, beside all other work: small files merged as soon as enough have gathered, and every hour
//! rows and table versions that are older than they are to be kept. One step at a time, on threads that go behind others,
//! resting between batches. The same steps are taken at once when somebody asks (`millpond table`), by the server or, without
//! one, by whoever asked.

mod past;
mod restore;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use datafusion::execution::memory_pool::MemoryPool;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

pub use self::past::past;
pub use self::restore::{Moment, OfPositions, made_of};
pub use self::status::CareStatus;
pub use self::status::{Counted, files, files_schema, history, history_schema};
use super::catalog::EngineCatalog;
use super::feed::DEAD_LETTERS;
use super::feeder::Order;
use super::positions::questions;
use super::streams::ALERTS;
use super::table_queries::QUERY_RUNS;
use super::{Variables, as_writer, committed, open_table, service};
use crate::config::{Brokers, Config, Project};
use crate::error::{Error, Kind, Result};
use crate::lake::care::{self, Expired, Layout, Need, Pace, Retained, Vacuumed, data_files, plan};
use crate::lake::{CommitError, Lake, LiveView, PUBLIC, STREAMS, SYSTEM, Snapshot, Table, TableError};
use crate::query::Service;
use crate::schema::fixed;
use crate::source::KafkaOptions;
use crate::task::Shutdown;

/// Name of the admin action of a [`Request`].
pub const ACTION: &str = "millpond.table";
/// How often tables are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// A table that needed nothing is looked at again when it has another version, or after this long.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// A table with so many files is not merged gently any more: they gather faster than that.
const MANY_FILES: usize = 1_000;
/// After what failed, a table is left alone for so long.
const REST: Duration = Duration::from_secs(60);
/// The first look for what is too old, after the start …
const FIRST: Duration = Duration::from_secs(120);
/// … and the pause between them.
const HOURLY: Duration = Duration::from_secs(3_600);
/// The pause between looks for files that no commit names.
const WEEKLY: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// What to do with tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Make few files of many.
    Optimize,
    /// Delete what is older than the lake's history.
    Vacuum {
        /// Also look for files that no commit names.
        full: bool,
    },
    /// Make a table what it was.
    Restore {
        /// When.
        at: Moment,
        /// What becomes of its positions.
        positions: Option<OfPositions>,
    },
}

/// What to do, and with which table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to do.
    pub what: What,
    /// A table, those of schema system as `system.<name>`; all if none is named.
    pub table: Option<String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was done with a table, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Its name.
    pub table: String,
    /// Files that were merged …
    pub files: u64,
    /// … and their bytes.
    pub bytes: u64,
    /// What they became; not known beforehand.
    pub into_files: u64,
    /// Their bytes.
    pub into_bytes: u64,
    /// Files that could be merged, had queries left memory for it.
    pub left: u64,
    /// Rows that are older than the table keeps them.
    pub rows: u64,
    /// Table versions that cannot be read any more.
    pub versions: u64,
    /// Files that were deleted: data …
    pub deleted_files: u64,
    /// … their bytes …
    pub deleted_bytes: u64,
    /// … and objects of the log.
    pub log_files: u64,
    /// Files among them that no commit named.
    pub orphans: u64,
    /// The table version whose rows the table has again.
    pub restored_to: Option<u64>,
    /// Files that are no part of it any more …
    pub files_gone: u64,
    /// … their rows …
    pub rows_gone: u64,
    /// … files that are part of it again …
    pub files_back: u64,
    /// … and theirs.
    pub rows_back: u64,
    /// Tables that were put together anew, because they are made of it …
    pub made_anew: Vec<String>,
    /// … and those that are to be.
    pub to_be_made_anew: Vec<String>,
}

/// How the running care is asked.
pub type Asks = mpsc::Sender<(Request, oneshot::Sender<Result<Vec<Done>>>)>;

/// Has `request` carried out by the care at the other end of `asks`.
pub async fn ask(asks: &Asks, request: Request) -> Result<Vec<Done>> {
    let stopped = || {
        Error::new(Kind::Unavailable, "stopped before it was done").hint("ask again: what was done is not done twice")
    };
    let (reply, answer) = oneshot::channel();
    asks.send((request, reply)).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())?
}

/// Who cares for the tables of a lake.
pub struct Care {
    lake: Lake,
    catalog: Arc<EngineCatalog>,
    memory: Arc<dyn MemoryPool>,
    history: Duration,
    timezone: Tz,
    abort: Shutdown,
    /// Who is told when nothing is to be fed for a moment; `None` if nothing is fed.
    orders: Option<mpsc::Sender<Order>>,
    /// The broker is inside a server, and forgets.
    forgets: bool,
    /// The brokers, if they are elsewhere.
    kafka: Option<KafkaOptions>,
    /// The time on the wall.
    now: fn() -> DateTime<Utc>,
    /// Of tables that needed nothing, or where something failed: their version then, and until when that holds.
    rested: BTreeMap<(&'static str, String), (u64, Instant)>,
}

/// A table, as care sees it.
struct Cared {
    folder: &'static str,
    name: String,
    layout: Layout,
    retention: Option<Duration>,
    /// Its files are replaced as a whole by whoever writes it: none gather.
    is_replaced: bool,
    live: Option<Arc<LiveView>>,
    /// What is known of it without asking the store.
    snapshot: Option<Arc<Snapshot>>,
}

impl Cared {
    /// As people call it.
    fn shown(&self) -> String {
        if self.folder == PUBLIC { self.name.clone() } else { format!("{}.{}", self.folder, self.name) }
    }
}

impl Care {
    /// Over the tables of `catalog`, which has a lake, until `abort`.
    pub(super) fn new(
        lake: &Lake,
        catalog: &Arc<EngineCatalog>,
        service: &Service,
        config: &Config,
        abort: &Shutdown,
    ) -> Self {
        Self {
            lake: lake.clone(),
            catalog: Arc::clone(catalog),
            memory: service.memory_pool(),
            history: config.lake.history,
            timezone: config.project.timezone,
            abort: abort.clone(),
            orders: None,
            forgets: config.kafka.brokers == Brokers::Embedded,
            kafka: questions(config).ok().filter(|_| !catalog.fed().contracts.is_empty()),
            now: Utc::now,
            rested: BTreeMap::new(),
        }
    }

    /// The same beside a feeder.
    pub(super) fn beside(self, orders: mpsc::Sender<Order>) -> Self {
        Self { orders: Some(orders), ..self }
    }

    /// Cares until `stop`, and does what is asked in between.
    pub async fn run(
        mut self,
        mut asked: mpsc::Receiver<(Request, oneshot::Sender<Result<Vec<Done>>>)>,
        stop: Shutdown,
    ) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut hours = tokio::time::interval_at((Instant::now() + FIRST).into(), HOURLY);
        hours.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some((request, reply)) = asked.recv() => {
                    let done = stop.run_until_cancelled(self.answer(&request)).await;
                    // Who asked may be gone.
                    let _ = done.map(|done| reply.send(done));
                }
                _ = hours.tick() => {
                    stop.run_until_cancelled(self.hourly()).await;
                }
                _ = looks.tick() => {
                    if stop.run_until_cancelled(self.look()).await == Some(true) {
                        looks.reset_immediately();
                    }
                }
            }
        }
    }

    /// One merge of each table that needs one; true if any did.
    async fn look(&mut self) -> bool {
        let mut found = false;
        for cared in self.known() {
            let Some(snapshot) = cared.snapshot.as_ref().filter(|_| !cared.is_replaced) else { continue };
            let at = (cared.folder, cared.name.clone());
            let version = snapshot.version();
            let is_rested = |(then, until): &(u64, Instant)| *then == version && Instant::now() < *until;
            if self.rested.get(&at).is_some_and(is_rested) {
                continue;
            }
            let files = data_files(snapshot);
            let groups = plan(&files, (self.now)(), Need::Gathered);
            let pace = if files.len() < MANY_FILES { Pace::Gentle } else { Pace::Full };
            let pause = if groups.is_empty() { LOOK_AGAIN } else { REST };
            let mut merged = false;
            // One that does not fit, or cannot be read, keeps no other from being merged.
            for group in &groups {
                match self.merge(&cared, group, pace).await {
                    Ok(None) => continue,
                    Ok(Some(_)) => merged = true,
                    Err(error) => {
                        self.failed(&cared, "files not merged, trying again", &error);
                        continue;
                    }
                }
                break;
            }
            found |= merged;
            if !merged {
                self.rested.insert(at, (version, Instant::now() + pause));
            }
        }
        found
    }

    /// Deletes what is older than it is to be kept.
    async fn hourly(&mut self) {
        let full = match care::last_vacuum(&self.lake).await {
            Ok(last) => last.is_none_or(|last| (self.now)() - last >= WEEKLY),
            Err(error) => {
                warn!(error = %error, "lake not looked at, trying again");
                return;
            }
        };
        let tables = match self.all().await {
            Ok(tables) => tables,
            Err(error) => {
                warn!(error = %error, "lake not looked at, trying again");
                return;
            }
        };
        for cared in &tables {
            if let Err(error) = self.vacuum(cared, full, false).await {
                self.failed(cared, "what is too old not deleted, trying again", &error);
            }
        }
        if full && let Err(error) = care::note_vacuum(&self.lake).await {
            warn!(error = %error, "not noted that files were looked for");
        }
    }

    fn failed(&self, cared: &Cared, what: &'static str, error: &CommitError) {
        warn!(table = cared.shown(), error = %error, "{what}");
        self.catalog.care.failed(&cared.shown(), error.to_string());
    }

    /// Does what is asked, and says what became of each table that anything was done with.
    pub async fn answer(&mut self, request: &Request) -> Result<Vec<Done>> {
        let mut tables = self.all().await.map_err(unreadable)?;
        if let Some(wanted) = &request.table {
            tables.retain(|cared| cared.shown() == *wanted);
            if tables.is_empty() {
                return Err(Error::new(Kind::NotFound, format!("the lake has no table `{wanted}`"))
                    .hint("`millpond table list` shows its tables"));
            }
        }
        let mut all = Vec::new();
        for cared in &tables {
            let mut done = match request.what {
                What::Optimize if cared.is_replaced => {
                    if request.table.is_some() {
                        return Err(Error::new(Kind::Usage, format!("table {} has few files always", cared.shown()))
                            .hint("its rows are written anew as they change"));
                    }
                    continue;
                }
                What::Optimize => self.optimize(cared, request.dry_run).await?,
                What::Vacuum { full } => self.vacuum(cared, full, request.dry_run).await?,
                What::Restore { .. } if request.table.is_none() => {
                    return Err(Error::new(Kind::Usage, "which table is to be restored?"));
                }
                What::Restore { at, positions } => {
                    let mut done = restore::restore(self, cared, at, positions, request.dry_run).await?;
                    // The server does it; without one it is left to who asks.
                    done.to_be_made_anew = made_of(&self.catalog, &cared.name);
                    done
                }
            };
            done.table = cared.shown();
            all.push(done);
        }
        Ok(all)
    }

    /// Merges until nothing is left that could be one file.
    async fn optimize(&self, cared: &Cared, dry_run: bool) -> Result<Done> {
        let mut done = Done::default();
        loop {
            let table = open_table(&self.lake, cared.folder, &cared.name).await?;
            let Some(table) = table.filter(Table::is_ours) else { return Ok(done) };
            let groups = plan(&data_files(&*table.snapshot().map_err(unreadable)?), (self.now)(), Need::Any);
            if dry_run {
                done.files = groups.iter().map(|group| group.len() as u64).sum();
                done.bytes = groups.iter().flatten().map(|file| file.bytes).sum();
                return Ok(done);
            }
            let mut merged = None;
            for group in &groups {
                merged = self.merge(cared, group, Pace::Full).await?;
                if merged.is_some() {
                    break;
                }
            }
            let Some(merged) = merged else {
                done.left = groups.iter().map(|group| group.len() as u64).sum();
                return Ok(done);
            };
            done.files += merged.files;
            done.bytes += merged.bytes;
            done.into_files += merged.into_files;
            done.into_bytes += merged.into_bytes;
        }
    }

    async fn merge(
        &self,
        cared: &Cared,
        group: &[care::DataFile],
        pace: Pace,
    ) -> std::result::Result<Option<care::Merged>, CommitError> {
        let Some(mut table) = self.lake.open(cared.folder, &cared.name).await? else { return Ok(None) };
        let began = Instant::now();
        let merged = care::merge(&mut table, group, &cared.layout, &self.memory, pace, &self.abort).await?;
        let Some(merged) = merged else { return Ok(None) };
        self.show(cared, &table).await?;
        let (files, into, bytes, rows) = (merged.files, merged.into_files, merged.into_bytes, merged.rows);
        let took_ms = began.elapsed().as_millis() as u64;
        debug!(table = cared.shown(), files, into, bytes, rows, took_ms, "files merged");
        self.catalog.care.merged(&cared.shown(), &merged);
        Ok(Some(merged))
    }

    /// Shows statements the files that `table` has now.
    async fn show(&self, cared: &Cared, table: &Table) -> std::result::Result<(), TableError> {
        match (&cared.live, cared.name.as_str()) {
            (Some(live), _) => live.rewritten(table)?,
            (None, DEAD_LETTERS) if cared.folder == SYSTEM => {
                if let Some(dead_letters) = self.catalog.dead_letters.get() {
                    dead_letters.refresh().await?;
                }
            }
            (None, ALERTS) if cared.folder == SYSTEM => self.catalog.streams.rewritten(table.snapshot()?),
            _ => {}
        }
        Ok(())
    }

    /// Takes rows away that the table does not keep so long, and deletes what only older versions than the history have.
    async fn vacuum(&self, cared: &Cared, full: bool, dry_run: bool) -> std::result::Result<Done, CommitError> {
        let now = (self.now)();
        let table = self.lake.open(cared.folder, &cared.name).await?;
        let Some(table) = table.filter(Table::is_ours) else { return Ok(Done::default()) };
        let Retained { rows, .. } = self.retain(cared, table, dry_run).await?;
        let (folder, name) = (cared.folder, cared.name.as_str());
        if !dry_run {
            care::checkpoint_if_due(&self.lake, folder, name, now).await?;
        }
        let Expired { versions, log_files, mut files, mut bytes } =
            care::expire(&self.lake, folder, name, self.history, now, dry_run).await?;
        let mut orphans = 0;
        if full {
            let Vacuumed { files: found, bytes: of_them } =
                care::vacuum(&self.lake, folder, name, self.history, now, dry_run).await?;
            (orphans, files, bytes) = (found, files + found, bytes + of_them);
        }
        let done =
            Done { rows, versions, deleted_files: files, deleted_bytes: bytes, log_files, orphans, ..Done::default() };
        if !dry_run && (files > 0 || rows > 0 || log_files > 0) {
            info!(table = cared.shown(), rows, versions, files, bytes, log_files, "what was too old is deleted");
            self.catalog.care.deleted(&cared.shown(), &done);
        }
        Ok(done)
    }

    async fn retain(
        &self,
        cared: &Cared,
        mut table: Table,
        dry_run: bool,
    ) -> std::result::Result<Retained, CommitError> {
        let Some(retention) = cared.retention else { return Ok(Retained::default()) };
        let keeps_from =
            chrono::TimeDelta::from_std(retention).ok().and_then(|age| (self.now)().checked_sub_signed(age));
        let Some(keeps_from) = keeps_from else { return Ok(Retained::default()) };
        let first = keeps_from.with_timezone(&self.timezone).date_naive();
        let retained = care::retain(&mut table, fixed::DAY, first, dry_run, &self.abort).await?;
        if !dry_run && retained.files > 0 {
            self.show(cared, &table).await?;
        }
        Ok(retained)
    }

    /// The key of a table, and how long it keeps rows.
    fn declared(&self, name: &str) -> Option<(Vec<String>, Option<Duration>)> {
        let fed = self.catalog.fed();
        let of_contract = fed.contracts.iter().find_map(|contract| {
            let member = contract.family().into_iter().find(|member| member.table == name);
            let is_raw = contract.raw_table().is_some_and(|raw| raw == name);
            let key = member.map(|member| member.key).or_else(|| is_raw.then(Vec::new))?;
            Some((key, contract.retention))
        });
        let of_query = || {
            let queries = self.catalog.stream_queries.wanted();
            Some((queries.into_iter().find(|query| query.table() == name)?.key, None))
        };
        let of_files = || {
            let imported = self.catalog.imported.load();
            Some((imported.iter().find(|spec| spec.table == name)?.key.clone(), None))
        };
        of_contract.or_else(of_query).or_else(of_files)
    }

    /// The tables whose files are known without asking the store.
    fn known(&self) -> Vec<Cared> {
        let names = self.catalog.fed().tables.keys().cloned().collect::<Vec<_>>();
        let public = names.into_iter().map(|name| self.cared(PUBLIC, name));
        let system = [DEAD_LETTERS, ALERTS, QUERY_RUNS].map(|name| self.cared(SYSTEM, name.to_owned()));
        public.chain(system).collect()
    }

    /// All tables of the lake.
    async fn all(&self) -> std::result::Result<Vec<Cared>, TableError> {
        let mut tables = Vec::new();
        for folder in [PUBLIC, SYSTEM, STREAMS] {
            let names = self.lake.table_names(folder).await?;
            tables.extend(names.into_iter().map(|name| self.cared(folder, name)));
        }
        Ok(tables)
    }

    fn cared(&self, folder: &'static str, name: String) -> Cared {
        let catalog = &self.catalog;
        let is_public = folder == PUBLIC;
        let live = catalog.fed().tables.get(&name).cloned().filter(|_| is_public);
        let snapshot = match (&live, folder, name.as_str()) {
            (Some(live), ..) => live.pin().committed.clone(),
            (None, SYSTEM, DEAD_LETTERS) => catalog.dead_letters.get().map(|letters| letters.snapshot()),
            (None, SYSTEM, QUERY_RUNS) => catalog.runs.shown(),
            (None, SYSTEM, ALERTS) => catalog.streams.alerts().and_then(|(snapshot, _)| snapshot),
            _ => None,
        };
        let (key, retention) = self.declared(&name).filter(|_| is_public).unwrap_or_default();
        let is_replaced = is_public && catalog.kept.load().contains_key(&name);
        Cared {
            layout: if is_public { layout(key) } else { Layout::default() },
            retention,
            is_replaced,
            live,
            snapshot,
            folder,
            name,
        }
    }
}

/// How the rows of a user's table lie in merged files: those of one key together, in the order of their times. Tables that
/// Millpond keeps about itself stay in the order they were written in.
fn layout(key: Vec<String>) -> Layout {
    Layout { key, then: [fixed::EVENT_TIME, fixed::TIMESTAMP].map(str::to_owned).to_vec() }
}

fn unreadable(error: TableError) -> Error {
    Error::new(Kind::Unavailable, "the lake's tables cannot be read").because(error)
}

/// Carries out `request` on a lake that no server writes to: as its one writer, for as long as it takes.
pub async fn without_server(project: &Project, variables: &Variables, request: &Request) -> Result<Vec<Done>> {
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let catalog = committed(project, Some(lake)).await?;
        let service = service(Some(lake), &catalog, &project.config)?;
        Care::new(lake, &catalog, &service, &project.config, abort).answer(request).await
    })
    .await
}

#[cfg(test)]
mod tests;
