//! Who is connected and what runs: `system.sessions`, `system.running_queries`, and how many there are.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use parking_lot::Mutex;
use tracing::info;

use super::SystemTable;
use super::admission::Turn;
use crate::error::{Error, Kind};
use crate::task::Shutdown;

/// Statements of clients that take so long are lines of the log.
const SLOW_MS: i64 = 5_000;
/// Characters of a statement that are kept.
const SHOWN: usize = 10_000;

/// What goes on in a query service.
#[derive(Debug, Default)]
pub(super) struct Activity {
    next: AtomicU64,
    sessions: Mutex<BTreeMap<u64, Arc<Client>>>,
    queries: Mutex<BTreeMap<u64, Arc<Running>>>,
}

/// Who a session belongs to.
#[derive(Debug)]
pub(super) struct Client {
    id: u64,
    user: String,
    door: &'static str,
    started_at: DateTime<Utc>,
    /// Its number to PostgreSQL's clients.
    process: OnceLock<u32>,
}

/// A session over the PostgreSQL wire.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its number.
    pub(super) process: u32,
    pub(super) started_at: DateTime<Utc>,
    /// What it runs, if it runs something.
    pub(super) sql: Option<String>,
    pub(super) query_started_at: Option<DateTime<Utc>>,
}

/// A statement that runs.
#[derive(Debug)]
struct Running {
    client: Option<Arc<Client>>,
    sql: String,
    started_at: DateTime<Utc>,
    rows: AtomicU64,
    /// A [`State`].
    state: AtomicU8,
    cancelled: Shutdown,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It waits for its turn.
    Waiting,
    /// It makes rows.
    Running,
    /// Its client has rows to take.
    Sending,
}

impl State {
    const ALL: [Self; 3] = [Self::Waiting, Self::Running, Self::Sending];

    fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Sending => "sending",
        }
    }
}

/// Takes a session off the list when its last clone is dropped.
#[derive(Debug)]
pub(super) struct Connected {
    activity: Arc<Activity>,
    client: Arc<Client>,
}

/// Takes a query off the list when it has ended.
#[derive(Debug)]
pub(super) struct Entry {
    activity: Arc<Activity>,
    id: u64,
    running: Arc<Running>,
    turn: Turn,
}

impl Activity {
    /// Lists a session of `user` through `door`.
    pub(super) fn connect(self: &Arc<Self>, user: &str, door: &'static str) -> Connected {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (user, process) = (user.to_owned(), OnceLock::new());
        let client = Arc::new(Client { id, user, door, started_at: Utc::now(), process });
        self.sessions.lock().insert(id, Arc::clone(&client));
        Connected { activity: Arc::clone(self), client }
    }

    /// Lists a statement, which waits for its `turn`.
    pub(super) fn begin(self: &Arc<Self>, sql: &str, client: Option<Arc<Client>>, turn: Turn) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let sql = sql.chars().take(SHOWN).collect();
        let state = AtomicU8::new(State::Waiting as u8);
        let (rows, cancelled) = (AtomicU64::new(0), Shutdown::new());
        let running = Arc::new(Running { client, sql, started_at: Utc::now(), rows, state, cancelled });
        self.queries.lock().insert(id, Arc::clone(&running));
        Entry { activity: Arc::clone(self), id, running, turn }
    }

    /// The sessions of `user` over the PostgreSQL wire.
    pub(super) fn peers(&self, user: &str) -> Vec<Peer> {
        let queries = self.queries.lock();
        let sessions = self.sessions.lock();
        let own = sessions.values().filter(|client| client.user == user);
        let peer = |client: &Arc<Client>| {
            let is_its = |query: &&Arc<Running>| query.client.as_ref().is_some_and(|of| of.id == client.id);
            let runs = queries.values().find(is_its);
            Some(Peer {
                process: *client.process.get()?,
                started_at: client.started_at,
                sql: runs.map(|query| query.sql.clone()),
                query_started_at: runs.map(|query| query.started_at),
            })
        };
        own.filter_map(peer).collect()
    }

    /// Cancels what the session of this number does, if it is of `user`; false if there is none.
    pub(super) fn cancel(&self, process: u32, user: &str) -> bool {
        let is_it = |client: &Client| client.user == user && client.process.get() == Some(&process);
        let queries = self.queries.lock();
        let of_it = queries.values().filter(|query| query.client.as_ref().is_some_and(|client| is_it(client)));
        of_it.for_each(|query| query.cancelled.cancel());
        self.sessions.lock().values().any(|client| is_it(client))
    }

    /// Statements that have begun, and how many of them wait for their turn.
    pub(super) fn running(&self) -> (usize, usize) {
        let queries = self.queries.lock();
        let waiting = queries.values().filter(|query| query.state() == State::Waiting).count();
        (queries.len(), waiting)
    }

    /// Sessions that are open now.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.lock().len()
    }

    /// Their tables in schema `system`, by name.
    pub(super) fn tables(self: &Arc<Self>) -> [(&'static str, Arc<dyn TableProvider>); 2] {
        let (sessions, queries) = (Arc::clone(self), Arc::clone(self));
        let table = |schema, make| Arc::new(SystemTable::new(schema, make)) as Arc<dyn TableProvider>;
        [
            ("sessions", table(sessions_schema(), Arc::new(move || sessions.session_rows()))),
            ("running_queries", table(queries_schema(), Arc::new(move || queries.query_rows()))),
        ]
    }

    fn session_rows(&self) -> Result<RecordBatch, ArrowError> {
        let sessions: Vec<Arc<Client>> = self.sessions.lock().values().cloned().collect();
        let busy: Vec<u64> =
            self.queries.lock().values().filter_map(|query| query.client.as_ref()).map(|client| client.id).collect();
        let state = |client: &Arc<Client>| if busy.contains(&client.id) { "active" } else { "idle" };
        RecordBatch::try_new(
            sessions_schema(),
            vec![
                Arc::new(Int64Array::from_iter_values(sessions.iter().map(|client| client.id as i64))),
                Arc::new(StringArray::from_iter_values(sessions.iter().map(|client| &client.user))),
                Arc::new(StringArray::from_iter_values(sessions.iter().map(|client| client.door))),
                Arc::new(times(sessions.iter().map(|client| client.started_at))),
                Arc::new(StringArray::from_iter_values(sessions.iter().map(state))),
            ],
        )
    }

    fn query_rows(&self) -> Result<RecordBatch, ArrowError> {
        let queries: Vec<(u64, Arc<Running>)> =
            self.queries.lock().iter().map(|(id, running)| (*id, Arc::clone(running))).collect();
        let client = |running: &Arc<Running>| running.client.clone();
        let now = Utc::now();
        RecordBatch::try_new(
            queries_schema(),
            vec![
                Arc::new(Int64Array::from_iter_values(queries.iter().map(|(id, _)| *id as i64))),
                Arc::new(Int64Array::from_iter(queries.iter().map(|(_, query)| client(query).map(|of| of.id as i64)))),
                Arc::new(StringArray::from_iter(
                    queries.iter().map(|(_, query)| client(query).map(|of| of.user.clone())),
                )),
                Arc::new(StringArray::from_iter(queries.iter().map(|(_, query)| client(query).map(|of| of.door)))),
                Arc::new(times(queries.iter().map(|(_, query)| query.started_at))),
                Arc::new(Int64Array::from_iter_values(
                    queries.iter().map(|(_, query)| (now - query.started_at).num_milliseconds()),
                )),
                Arc::new(Int64Array::from_iter_values(
                    queries.iter().map(|(_, query)| query.rows.load(Ordering::Relaxed) as i64),
                )),
                Arc::new(StringArray::from_iter_values(queries.iter().map(|(_, query)| query.state().word()))),
                Arc::new(StringArray::from_iter_values(queries.iter().map(|(_, query)| &query.sql))),
            ],
        )
    }
}

impl Client {
    /// Its number to PostgreSQL's clients from now on.
    pub(super) fn is_process(&self, process: u32) {
        let _ = self.process.set(process);
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

impl Connected {
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.activity.sessions.lock().remove(&self.client.id);
    }
}

impl Running {
    fn state(&self) -> State {
        let state = self.state.load(Ordering::Relaxed);
        State::ALL.into_iter().find(|of| *of as u8 == state).unwrap_or(State::Running)
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            biased;
            () = self.cancelled.cancelled() => Err(Error::new(Kind::Cancelled, "the query was cancelled")),
            done = work => Ok(done),
        }
    }

    fn is_now(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

impl Entry {
    /// Waits for its turn; at once if it has it.
    pub(super) async fn take_turn(&mut self) -> Result<(), Error> {
        let Self { turn, running, .. } = self;
        running.is_now(State::Waiting);
        running.unless_cancelled(turn.take()).await?;
        running.is_now(State::Running);
        Ok(())
    }

    /// `work`, unless somebody cancels the statement meanwhile.
    pub(super) async fn unless_cancelled<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        self.running.unless_cancelled(work).await
    }

    /// Lets others have its turn: its client has rows to take.
    pub(super) fn give_turn_back(&mut self) {
        self.running.is_now(State::Sending);
        self.turn.give_back();
    }

    /// More rows were made.
    pub(super) fn made(&self, rows: usize) {
        self.running.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Running { client, sql, started_at, rows, .. } = &*self.running;
        let millis = (Utc::now() - *started_at).num_milliseconds();
        if millis >= SLOW_MS && client.is_some() {
            let (user, door) = client.as_ref().map_or(("", ""), |client| (client.user(), client.door));
            let rows = rows.load(Ordering::Relaxed);
            info!(target: "millpond::slow_query", user, door, millis, rows, sql, "slow query");
        }
        self.activity.queries.lock().remove(&self.id);
    }
}

fn times(values: impl Iterator<Item = DateTime<Utc>>) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::from_iter_values(values.map(|at| at.timestamp_micros())).with_timezone("UTC")
}

fn at(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)
}

fn sessions_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("session", DataType::Int64, false),
        Field::new("user_name", DataType::Utf8, false),
        Field::new("door", DataType::Utf8, false),
        at("started_at"),
        Field::new("state", DataType::Utf8, false),
    ]))
}

fn queries_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("query", DataType::Int64, false),
        Field::new("session", DataType::Int64, true),
        Field::new("user_name", DataType::Utf8, true),
        Field::new("door", DataType::Utf8, true),
        at("started_at"),
        Field::new("running_ms", DataType::Int64, false),
        Field::new("rows", DataType::Int64, false),
        Field::new("state", DataType::Utf8, false),
        Field::new("sql", DataType::Utf8, false),
    ]))
}
