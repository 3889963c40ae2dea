//! Makes the tables of scheduled queries anew: each by a task of its own, when it is due and when somebody asks, one run
//! after the other.
//!
//! ```text
//! due ─ what changed (`changed`) ─ SELECT over those parts (`run`) ─ data files ─ one commit: rows and numbers ─ View
//! ```
//! The commit that replaces rows has the numbers of what they were made from: the table versions of the sources, the
//! query's text, when it was due. So a kill leaves the table as it was or as it is to be, and the next run knows what it
//! missed. Of several runs that were missed the last is caught up with. A run that fails is tried three times; then that is
//! news, and the rows before stay until it is due again.

mod changed;
mod log;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use self::log::{QUERY_RUNS, runs_schema};
use self::run::{Made, Run};
use super::catalog::EngineCatalog;
use super::latest::Keeper;
use super::streams;
use super::{Variables, as_writer, committed, s3_options, service};
use crate::config::Project;
use crate::error::{Error, Kind, Result};
use crate::lake::{Lake, MadeTable};
use crate::news::{Event, News, Trouble, TroubleWith};
use crate::query::Service;
use crate::stream::TableQuery;
use crate::task::{self, Shutdown};

/// Name of the admin action of a [`Request`].
pub const ACTION: &str = "millpond.query";
/// Pauses before a run that failed is tried again; then it is given up until it is due again.
pub const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(15)];
/// How often it is looked whether a table is due: a clock may be put forward.
const LOOK: Duration = Duration::from_secs(1);
/// Before tables can be read that a new table is made of, it is tried again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// A table that is to be made anew now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The query.
    pub query: String,
    /// Which of its rows.
    pub parts: Parts,
}

/// Which rows of a table are made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parts {
    /// Those whose sources changed, if the table is in parts; else all.
    Changed,
    /// All.
    All,
    /// Those whose part is within these, both among them.
    Between {
        /// The first; none: from the beginning.
        from: Option<String>,
        /// The last; none: to the end.
        to: Option<String>,
    },
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its number.
    pub run: i64,
    /// `full` or `incremental`.
    pub mode: String,
    /// Parts that were made anew, if the table is in parts and not all were.
    pub parts: Vec<String>,
    /// Rows that were written.
    pub rows: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// The table version that has them; none if nothing changed.
    pub table_version: Option<u64>,
    /// How long it took.
    pub took_ms: u64,
}

/// The queries of `kind = "table"`, and how they get on.
#[derive(Default)]
pub struct TableQueries {
    wanted: watch::Sender<Vec<TableQuery>>,
    status: Mutex<BTreeMap<String, Status>>,
}

/// How a query gets on.
#[derive(Debug, Clone)]
pub struct Status {
    /// What its file says.
    pub query: TableQuery,
    /// Since when it runs, if it does.
    pub running_since: Option<DateTime<Utc>>,
    /// Why the last run failed.
    pub error: Option<String>,
    /// Since when runs fail to their end, which was told.
    failing_since: Option<DateTime<Utc>>,
    /// Rows that were written by the last run that did not fail.
    pub rows: u64,
    /// How it is asked to run now.
    asks: Option<mpsc::Sender<(Parts, oneshot::Sender<Result<Report>>)>>,
}

impl TableQueries {
    /// These are the queries from now on.
    pub fn take_over(&self, queries: Vec<TableQuery>) {
        task::replace(&self.wanted, queries);
    }

    /// Those that are wanted now.
    pub fn wanted(&self) -> Vec<TableQuery> {
        self.wanted.borrow().clone()
    }

    /// The query whose rows `table` has.
    pub fn of(&self, table: &str) -> Option<TableQuery> {
        self.wanted.borrow().iter().find(|query| query.name == table).cloned()
    }

    /// Each query and how it gets on, by name.
    pub fn each<T>(&self, of: impl FnMut(&Status) -> T) -> Vec<T> {
        self.status.lock().values().map(of).collect()
    }

    fn update(&self, name: &str, update: impl FnOnce(&mut Status)) {
        if let Some(status) = self.status.lock().get_mut(name) {
            update(status);
        }
    }

    /// Makes a table anew now, behind a run that goes on.
    pub async fn ask(&self, request: Request) -> Result<Report> {
        let asks = self.status.lock().get(&request.query).map(|status| status.asks.clone());
        let Some(asks) = asks else { return Err(unknown(&request.query, &self.wanted())) };
        let stopped = || Error::new(Kind::Unavailable, "stopped before it was done");
        let (reply, answer) = oneshot::channel();
        let asks = asks.ok_or_else(stopped)?;
        asks.send((request.parts, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn unknown(name: &str, queries: &[TableQuery]) -> Error {
    let names: Vec<&str> = queries.iter().map(|query| query.name.as_str()).collect();
    let hint = match names.is_empty() {
        true => "the project has none: a file in queries/ with the line --! kind = \"table\" makes one".to_owned(),
        false => format!("there are: {}", names.join(", ")),
    };
    Error::new(Kind::NotFound, format!("there is no query of kind table `{name}`")).hint(hint)
}

/// Runs the queries.
#[derive(Clone)]
pub struct TableRunner {
    /// Where their tables lie.
    pub lake: Lake,
    /// What they read, and where their tables are shown.
    pub catalog: Arc<EngineCatalog>,
    /// Runs them.
    pub service: Service,
    /// Who is told when one fails.
    pub news: News,
    /// Gives up waiting for the store.
    pub abort: Shutdown,
    /// [`PAUSES`].
    pub pauses: [Duration; 2],
}

impl TableRunner {
    /// Runs until stopped. A run that is going on then is given up: nothing of it is in the table.
    pub async fn run(self, stop: Shutdown) {
        let queries = Arc::clone(&self.catalog.table_queries);
        let mut wanted = queries.wanted.subscribe();
        if stop.run_until_cancelled(self.catalog.runs.open(&self.lake)).await.is_none() {
            return;
        }
        let mut running: BTreeMap<String, (TableQuery, AbortOnDropHandle<()>)> = BTreeMap::new();
        loop {
            let now = wanted.borrow_and_update().clone();
            running.retain(|_, (query, _)| now.contains(query));
            queries.status.lock().retain(|name, _| now.iter().any(|query| query.name == *name));
            for query in now {
                if running.contains_key(&query.name) {
                    continue;
                }
                let (asks, asked) = mpsc::channel(8);
                let mut status = queries.status.lock();
                let before = status.remove(&query.name);
                let new = Status {
                    query: query.clone(),
                    running_since: None,
                    error: None,
                    // An edit may be what mends it.
                    failing_since: before.as_ref().and_then(|before| before.failing_since),
                    rows: before.map_or(0, |before| before.rows),
                    asks: Some(asks),
                };
                status.insert(query.name.clone(), new);
                drop(status);
                let worker = Worker { runner: self.clone(), query: query.clone() };
                let work = task::spawn_behind("table-query", worker.run(asked));
                running.insert(query.name.clone(), (query, AbortOnDropHandle::new(work)));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                edited = wanted.changed() => if edited.is_err() { return },
            }
        }
    }
}

/// Runs one query.
struct Worker {
    runner: TableRunner,
    query: TableQuery,
}

/// Why a query runs.
#[derive(Debug, Clone)]
pub enum Why {
    /// It is due since then.
    Due(DateTime<Utc>),
    /// Somebody asked.
    Asked(Parts),
}

impl Worker {
    async fn run(self, mut asked: mpsc::Receiver<(Parts, oneshot::Sender<Result<Report>>)>) {
        let mut last = self.last_due().await;
        self.show().await;
        loop {
            let due = match (&self.query.schedule, last) {
                (Some(schedule), Some(last)) => schedule.due(last, Utc::now()),
                // A table that is not there yet is not waited for, only what it is made of.
                (Some(_), None) if self.has_columns().await => Some(Utc::now()),
                (Some(_), None) | (None, _) => None,
            };
            if let Some(due) = due {
                let done = self.attempt_thrice(due).await;
                last = last.or(Some(due)).map(|last| last.max(due));
                if done.is_err() && !self.exists().await {
                    // What it is made of may not be there yet either.
                    tokio::time::sleep(TRY_AGAIN).await;
                    last = None;
                }
                continue;
            }
            tokio::select! {
                request = asked.recv() => {
                    let Some((parts, reply)) = request else { return };
                    let done = self.attempt(&Why::Asked(parts), 1).await;
                    // Who asked may be gone.
                    let _ = reply.send(done);
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Shows what the table has: a run that was given up may have landed.
    async fn show(&self) {
        let (lake, name) = (&self.runner.lake, &self.query.name);
        if let Ok(Some(table)) = MadeTable::open(lake, name).await
            && let Err(error) = self.runner.catalog.show_made(name, &table)
        {
            warn!(query = name, error = %error, "table not shown");
        }
    }

    /// Whether all that the query reads is known: before the first record of a table its columns are not.
    async fn has_columns(&self) -> bool {
        let catalog = &self.runner.catalog;
        let waiting = match self.runner.service.session().query(&self.query.sql).await {
            Err(error) if streams::waits_for_columns(&error, catalog) => Some(error.headline().to_owned()),
            Err(_) => None,
            Ok(planned) => {
                let fed = catalog.fed();
                let is_young = |name: &String| {
                    fed.contracts.iter().any(|contract| contract.table == *name)
                        && fed.tables.get(name).is_some_and(|live| live.pin().schema_version == 0)
                };
                planned.tables().into_iter().find(is_young).map(|name| format!("table {name} has no rows yet"))
            }
        };
        let has = waiting.is_none();
        catalog.table_queries.update(&self.query.name, |status| status.error = waiting);
        has
    }

    /// When the rows that the table has were due; none if there is no table.
    async fn last_due(&self) -> Option<DateTime<Utc>> {
        loop {
            match run::last_due(&self.runner.lake, &self.query.name).await {
                Ok(due) => return due,
                Err(error) => warn!(query = self.query.name, error = %error, "table not opened, trying again"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn exists(&self) -> bool {
        run::last_due(&self.runner.lake, &self.query.name).await.is_ok_and(|due| due.is_some())
    }

    async fn attempt_thrice(&self, due: DateTime<Utc>) -> Result<Report> {
        let mut attempt = 1;
        loop {
            let done = self.attempt(&Why::Due(due), attempt).await;
            let (Err(error), Some(pause)) = (&done, self.runner.pauses.get(attempt - 1)) else {
                self.tell(done.as_ref().err());
                return done;
            };
            warn!(query = self.query.name, attempt, reason = error.headline(), "table not made anew, trying again");
            tokio::time::sleep(*pause).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, why: &Why, attempt: usize) -> Result<Report> {
        let (runner, name) = (&self.runner, &self.query.name);
        let queries = &runner.catalog.table_queries;
        let began = Utc::now();
        queries.update(name, |status| status.running_since = Some(began));
        let run = Run {
            lake: &runner.lake,
            catalog: &runner.catalog,
            service: &runner.service,
            abort: &runner.abort,
            query: &self.query,
        };
        let made = run.make(why).await;
        queries.update(name, |status| {
            status.running_since = None;
            match &made {
                Ok(made) => (status.error, status.rows) = (None, made.rows),
                Err(error) => status.error = Some(error.headline().to_owned()),
            }
        });
        let took_ms = (Utc::now() - began).num_milliseconds().unsigned_abs();
        if let Ok(row) = log::row(&self.query, why, (began, attempt), &made) {
            runner.catalog.runs.add(&runner.lake, &row, &runner.abort).await;
        }
        let made = made?;
        let Made { run, rows, bytes, table_version, .. } = made;
        let mode = made.mode().to_owned();
        let parts: Vec<String> = made.parts.unwrap_or_default();
        info!(query = name, run, mode, parts = parts.len(), rows, took_ms, "table made anew");
        Ok(Report { run, mode, parts, rows, bytes, table_version, took_ms })
    }

    /// Tells of a run that failed to its end, and of the first that did not after it.
    fn tell(&self, error: Option<&Error>) {
        let name = &self.query.name;
        let mut since = None;
        self.runner.catalog.table_queries.update(name, |status| {
            since = match error {
                Some(_) => Some(*status.failing_since.get_or_insert_with(Utc::now)),
                None => status.failing_since.take(),
            };
        });
        let Some(since) = since else { return };
        if let Some(error) = error {
            warn!(query = name, reason = error.headline(), hint = error.hint_text(), "table could not be made anew");
        }
        self.runner.news.tell(Event::Trouble(Trouble {
            with: TroubleWith::Query(name.clone()),
            tables: vec![name.clone()],
            reason: error.map(|error| error.headline().to_owned()).unwrap_or_default(),
            since,
            over: error.is_none(),
        }));
    }
}

/// The columns of a query's table, and whether the parts of its sources say which of its parts to make anew; or why there can
/// be no such table.
pub async fn columns(query: &TableQuery, service: &Service, catalog: &EngineCatalog) -> Result<(SchemaRef, bool)> {
    let planned = service.session().query(&query.sql).await?;
    Ok((run::check(query, &planned)?, changed::is_by_parts(catalog, query, &planned)))
}

/// Carries out `request` on a lake that no server writes to: as its one writer, for as long as it takes.
pub async fn without_server(project: &Project, variables: &Variables, request: &Request) -> Result<Report> {
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let query = project.made.iter().find(|query| query.name == request.query);
        let query = query.ok_or_else(|| unknown(&request.query, &project.made))?.clone();
        let catalog = committed(project, Some(lake)).await?;
        let service = service(Some(lake), &catalog, &project.config)?;
        let s3 = s3_options(&project.config, variables);
        Keeper { catalog: Arc::clone(&catalog), service: service.clone(), s3, writing: None }.load().await?;
        catalog.runs.open(lake).await;
        let (lake, news, abort) = (lake.clone(), News::default(), abort.clone());
        let runner = TableRunner { lake, catalog, service, news, abort, pauses: PAUSES };
        let worker = Worker { runner, query };
        worker.attempt(&Why::Asked(request.parts.clone()), 1).await
    })
    .await
}

#[cfg(test)]
mod tests;
