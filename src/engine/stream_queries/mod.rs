//! Runs the project's stream queries: each follows the table that it reads (`worker`) and appends what it makes of its
//! rows to a table of its own, with the same positions: a row is there exactly once, as in an events table.
//!
//! ```text
//! rows of the stream ─ selection ─ topics (each row once) ─ hot rows ─ commit with the positions of the stream
//! ```
//! A query that keeps rows or windows numbers what it says instead (`timed`).
//! A topic that is away holds the query up, and nobody else: what comes meanwhile is read from the lake later.

mod timed;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::info;

use self::timed::{TimedStatus, lane};
use self::worker::Worker;
use super::catalog::EngineCatalog;
use super::streams::{Latency, Load};
use crate::deliver::Sinks;
use crate::error::{Error, Kind, Result};
use crate::lake::{Encoding, Lake, Positions, TopicPartition};
use crate::query::{By, Continuous, Service};
use crate::schema::{Cardinality, Contract, Latest, LatestSource, Merge, OnDelete};
use crate::stream::{Counters, StreamQuery};
use crate::task::{self, Shutdown};

/// The stream queries of a running project.
#[derive(Default)]
pub struct StreamQueries {
    wanted: watch::Sender<Vec<StreamQuery>>,
    /// By name.
    status: Mutex<BTreeMap<String, Status>>,
}

/// How a stream query gets on.
pub struct Status {
    /// What its file says.
    pub query: StreamQuery,
    /// What is looked up.
    pub look_ups: Vec<(String, By)>,
    /// The table that it reads, and how it is run, once that is known.
    pub stream: Option<String>,
    pub class: Option<&'static str>,
    /// Why it does not get on, if it does not.
    pub error: Option<String>,
    /// What became of rows.
    pub counters: Counters,
    /// From Kafka to where its rows can be seen.
    pub latency: Latency,
    /// How much it has to do.
    pub load: Load,
    /// Up to where it has looked at its stream, if it looks at one row at a time.
    pub seen: Positions,
    /// How it gets on, if it keeps rows or windows.
    pub timed: Option<TimedStatus>,
}

impl Status {
    fn of(query: StreamQuery, stream: Option<String>) -> Self {
        Self {
            query,
            look_ups: Vec::new(),
            stream,
            class: None,
            error: None,
            counters: Counters::default(),
            latency: Latency::default(),
            load: Load::default(),
            seen: Positions::new(),
            timed: None,
        }
    }
}

impl StreamQueries {
    /// These are the stream queries where none of them runs: what each reads is what its tables are made of.
    pub async fn know(&self, queries: &[StreamQuery], service: &Service, catalog: &EngineCatalog) {
        for query in queries {
            if let Ok(select) = plan(query, service, catalog).await {
                let status = Status::of(query.clone(), Some(select.stream().to_owned()));
                self.status.lock().insert(query.name.clone(), status);
            }
        }
    }

    /// These are the stream queries from now on.
    pub fn take_over(&self, queries: Vec<StreamQuery>) {
        task::replace(&self.wanted, queries);
    }

    /// Those that are wanted now.
    pub fn wanted(&self) -> Vec<StreamQuery> {
        self.wanted.borrow().clone()
    }

    /// The table that the query reads whose rows `table` has, if it is of one.
    pub fn stream_of(&self, table: &str) -> Option<String> {
        let status = self.status.lock();
        status.values().find(|status| status.query.table() == table)?.stream.clone()
    }

    /// Where the rows of `table` stand, if they are results of a query that keeps rows or windows, and how far it is.
    pub fn results_of(&self, table: &str) -> Option<(TopicPartition, TimedStatus)> {
        let status = self.status.lock();
        let of = status.values().find(|status| status.query.table() == table)?;
        Some((lane(&of.query), of.timed?))
    }

    /// Whether a table holds the rows of a stream query.
    pub fn has_table(&self, table: &str) -> bool {
        self.wanted.borrow().iter().any(|query| query.table() == table)
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
}

/// Contracts and latest tables, with those of stream queries of which the newest row of each key is kept.
pub fn kept(
    queries: &[StreamQuery],
    mut contracts: Vec<Arc<Contract>>,
    mut latest: Vec<Latest>,
) -> (Vec<Arc<Contract>>, Vec<Latest>) {
    for query in queries.iter().filter(|query| query.upsert) {
        let rows = query.table();
        contracts.push(Arc::new(Contract::undeclared(&rows, &rows)));
        let source = LatestSource {
            table: rows,
            key: query.key.clone(),
            prefix: String::new(),
            columns: Vec::new(),
            merge: Merge::Row,
            on_delete: OnDelete::Ignore,
            cardinality: Cardinality::One,
        };
        let (table, key) = (query.name.clone(), query.key.clone());
        latest.push(Latest { table, key, sources: vec![source], derived: Vec::new() });
    }
    (contracts, latest)
}

/// The SELECT of a stream query, or why it cannot be run.
pub async fn plan(query: &StreamQuery, service: &Service, catalog: &EngineCatalog) -> Result<Continuous> {
    let select = service.session().continuous(&query.sql, None).await?;
    let stream = select.stream();
    let is_kept = catalog.kept.load().values().any(|kept| kept.rows.name() == stream);
    if is_kept {
        let message = format!("{stream} keeps the newest row of each key: a stream query reads every row");
        let hint = "FROM an events table, a __changes table or a stream query; JOIN this one to look rows up";
        return Err(Error::new(Kind::Query, message).hint(hint));
    }
    if !catalog.fed().tables.contains_key(stream) {
        let message = format!("{stream} is no stream");
        let hint = "the first table of FROM is the stream: an events table, a __changes table or a stream query";
        return Err(Error::new(Kind::Query, message).hint(hint));
    }
    if stream == query.table() {
        return Err(Error::new(Kind::Query, format!("{stream} would read its own rows")));
    }
    Ok(select)
}

/// What runs stream queries.
#[derive(Clone)]
pub struct StreamRunner {
    /// What they read, and where their rows are shown.
    pub catalog: Arc<EngineCatalog>,
    /// Plans them.
    pub service: Service,
    /// The topics that rows are sent to.
    pub sinks: Sinks,
    /// Where their tables lie.
    pub lake: Lake,
    /// What commits take for their files.
    pub encoding: Arc<Encoding>,
    /// How often they are committed.
    pub commit_interval: Duration,
    /// Gives up waiting for the store.
    pub abort: Shutdown,
    /// Who ends the process when another writer is at work.
    pub failed: mpsc::Sender<Error>,
}

/// A query at work.
struct Running {
    query: watch::Sender<StreamQuery>,
    stop: Shutdown,
    work: JoinHandle<()>,
}

impl StreamRunner {
    /// Runs until stopped and everything is committed.
    pub async fn run(self, stop: Shutdown) {
        let queries = Arc::clone(&self.catalog.stream_queries);
        let mut wanted = queries.wanted.subscribe();
        let mut running: BTreeMap<String, Running> = BTreeMap::new();
        loop {
            let now = wanted.borrow_and_update().clone();
            let goes_on = |before: &StreamQuery| {
                let what = |query: &StreamQuery| (query.name.clone(), query.table(), query.keeps);
                now.iter().any(|query| what(query) == what(before))
            };
            let gone = running.extract_if(.., |_, running| !goes_on(&running.query.borrow()));
            for (name, running) in gone.collect::<Vec<_>>() {
                info!(query = name, "the stream query is gone: its rows stay");
                running.stop.cancel();
                let _ = running.work.await;
                queries.status.lock().remove(&name);
            }
            for query in now {
                match running.get(&query.name) {
                    Some(known) => task::replace(&known.query, query),
                    None => {
                        running.insert(query.name.clone(), self.begin(query));
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                edited = wanted.changed() => if edited.is_err() { break },
            }
        }
        running.values().for_each(|running| running.stop.cancel());
        for running in running.into_values() {
            let _ = running.work.await;
        }
    }

    fn begin(&self, query: StreamQuery) -> Running {
        let (sender, edits) = watch::channel(query.clone());
        self.catalog.stream_queries.status.lock().insert(query.name.clone(), Status::of(query.clone(), None));
        let (stop, runner) = (Shutdown::new(), self.clone());
        let ended = stop.clone();
        let (worker, failed) = (Worker::new(runner, edits), self.failed.clone());
        let work = task::spawn("stream-query", async move {
            if let Err(error) = worker.run(ended).await {
                let _ = failed.try_send(error.into());
            }
        });
        Running { query: sender, stop, work }
    }
}
