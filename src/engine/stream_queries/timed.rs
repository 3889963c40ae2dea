//! A stream query that keeps rows or windows: what it says of a row depends on others.
//!
//! ```text
//! rows of the stream, no late ones ─ order ─ what is kept ─▶ results ─ state ─▶ topics, hot rows ─ commit
//! ```
//! Results are numbered. How far the stream was read, what is kept, and the results that are not known to be committed are one
//! object, the state; no result is sent, shown or committed before one has it. The table's position is the number of its
//! next result. So a restart takes them from the state and does not make them again, whatever look-ups say by then: each
//! is in the table once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use bytes::Bytes;
use chrono::Utc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::StreamRunner;
use crate::engine::rows::broken;
use crate::engine::streams::{Place, Source, Stream, Warming, place, stream_state, until_written};
use crate::error::{Error, Kind, Result};
use crate::lake::{self, LiveView, States, TopicPartition};
use crate::query::{Kept, Memory};
use crate::stream::{
    Batch, Counters, KeptState, Micros, Order, QueryState, Recalled, RecordError, Rows, Selection, StreamQuery, close,
    recall,
};
use crate::task::{self, failpoint};

/// Where states lie.
const STATES: &str = "_millpond/windows";
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often a state is written without new results.
const EVERY: Duration = Duration::from_secs(10);
/// Between two states it rests so many times as long as the last one took to write.
const REST: u32 = 4;
/// Pause before the store is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Where a query is that keeps rows or windows.
pub(super) struct Timed {
    stream: Stream,
    live: Arc<LiveView>,
    kept: Kept,
    /// What keeps it; nothing while history was not read.
    fingerprint: Option<String>,
    warming: Option<Warming>,
    states: Arc<States>,
    epoch: u64,
    /// Those that are not known to be committed, in their order.
    results: VecDeque<Results>,
    /// The number of the next one.
    next: i64,
    /// Those before it are in a state, and shown.
    written: i64,
    shown: i64,
    /// How far time had come for those that are written.
    clock: Micros,
    writing: Option<Writing>,
    wrote_at: Instant,
    rests_until: Instant,
    /// Something has come since the last state …
    is_new: bool,
    /// … that cannot wait.
    is_other: bool,
    /// Why it cannot go on before a restart.
    broken: Option<Error>,
}

/// Results that were made together.
#[derive(Clone)]
pub(super) struct Results {
    pub first: i64,
    pub rows: RecordBatch,
    pub received_at: Instant,
}

struct Writing {
    work: JoinHandle<bool>,
    next: i64,
    clock: Micros,
    since: Instant,
}

impl Results {
    /// The number behind them.
    pub fn end(&self) -> i64 {
        self.first + self.rows.num_rows() as i64
    }
}

/// Where the results of a query stand in its table.
pub(super) fn lane(query: &StreamQuery) -> TopicPartition {
    TopicPartition { topic: query.name.as_str().into(), incarnation: 0, partition: 0 }
}

impl Timed {
    /// Goes on with what the newest state says; without one it begins at `began`, and says so before anything else.
    /// `committed` is the number of the first result that the table has not. Nothing if that is given up.
    pub async fn begin(
        query: &StreamQuery,
        selection: &Selection,
        live: &Arc<LiveView>,
        began: Place,
        committed: i64,
        runner: &StreamRunner,
    ) -> Result<Option<Self>> {
        let folder = format!("{STATES}/{}", query.name);
        let open = async {
            loop {
                match States::open(&runner.lake, &folder).await {
                    Ok(found) => return found,
                    Err(error) => warn!(error = lake::reason(&error), "state of a stream query not read, trying again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        };
        let Some((states, found)) = runner.abort.run_until_cancelled(open).await else { return Ok(None) };
        let (epoch, known) = match found {
            Some((epoch, bytes)) => (epoch, Some(QueryState::from_bytes(&bytes).map_err(unreadable)?)),
            None => (0, None),
        };
        // Results that neither has: the lake was put together from copies of different moments.
        let known = known.filter(|known: &QueryState| {
            let (first, fits) = (known.first, known.first <= committed);
            if !fits {
                warn!(query = query.name, first, committed, "its state is ahead of its table, it begins anew");
            }
            fits
        });
        let name = selection.query().stream();
        // It may read another table by now.
        let of_stream = known.as_ref().filter(|known| known.stream.table == name);
        let begin = of_stream.map_or(began, |known| place(&known.stream.positions));
        let lateness = runner.catalog.allowed_lateness(name);
        let mut stream = Stream::new(Source::of_records(name, live, Some(begin), Some(lateness)));
        stream.order = Order::after(of_stream.and_then(|known| known.stream.passed));
        let is_other = of_stream.is_none();
        let next = known.as_ref().map_or(committed, |known| known.next.max(committed));
        let (kept, fingerprint) = of_stream.and_then(|known| read(selection, known.kept.as_ref()?)).unzip();
        let mut timed = Self {
            stream,
            live: Arc::clone(live),
            kept: kept.unwrap_or_default(),
            fingerprint,
            warming: None,
            states: Arc::new(states),
            epoch,
            results: VecDeque::new(),
            next,
            written: next,
            shown: committed,
            clock: Micros::MIN,
            writing: None,
            wrote_at: Instant::now(),
            rests_until: Instant::now(),
            is_new: is_other,
            is_other,
            broken: None,
        };
        if let Some(known) = known {
            let mut first = known.first;
            for Rows(rows) in known.results {
                let results = Results { first, rows, received_at: Instant::now() };
                first = results.end();
                timed.results.push_back(results);
            }
        }
        timed.committed(committed);
        if is_other {
            timed.write(selection, runner, true)?;
            timed.until_written().await;
        }
        Ok(Some(timed))
    }

    /// Goes on with another plan, or another table.
    pub fn replan(&mut self, selection: &Selection, live: &Arc<LiveView>, begin: Place, lateness: Duration) {
        let memory = selection.query().memory();
        if self.fingerprint.as_deref() != memory.map(|memory| memory.fingerprint()) {
            self.keep_nothing();
        }
        if Arc::ptr_eq(&self.live, live) {
            return;
        }
        let (before, name) = (self.live.pin(), selection.query().stream());
        let is_same = *before.table == *name;
        let begin = self.stream.place().filter(|_| is_same).unwrap_or(begin);
        let passed = self.stream.order.passed().filter(|_| is_same);
        self.stream = Stream::new(Source::of_records(name, live, Some(begin), Some(lateness)));
        self.stream.order = Order::after(passed);
        self.live = Arc::clone(live);
        if !is_same {
            self.keep_nothing();
            (self.is_new, self.is_other) = (true, true);
        }
    }

    fn keep_nothing(&mut self) {
        (self.kept, self.fingerprint, self.warming) = (Kept::default(), None, None);
    }

    /// Whether it can only go on from what is written down.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Waits until there may be something to do; whoever cannot take more rows does not wait for them.
    pub async fn changed(&mut self, takes_more: bool) {
        let (source, writing) = (&mut self.stream.source, &mut self.writing);
        let written = async {
            match writing {
                Some(writing) => (&mut writing.work).await.unwrap_or(false),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = source.changed(), if takes_more => {}
            is_written = written => self.wrote(is_written),
            () = tokio::time::sleep(TICK) => {}
        }
    }

    /// Takes what has come, and what is over by now; gives how many rows were looked at.
    pub async fn step(
        &mut self,
        query: &StreamQuery,
        selection: &Selection,
        runner: &StreamRunner,
        counters: &mut Counters,
    ) -> Result<usize> {
        if let Some(broken) = &self.broken {
            return Err(Error::new(broken.kind(), broken.message()));
        }
        let taken = self.stream.source.take(&runner.service, self.stream.order.waiting()).await?;
        let came: usize = taken.batches.iter().map(Batch::len).sum();
        self.is_new |= came > 0;
        for batch in &taken.batches {
            self.stream.order.add(batch).map_err(|error| self.broken(broken(error)))?;
        }
        if self.stream.clocked_at.is_none_or(|at| at.elapsed() >= TICK) {
            (self.stream.clock, self.stream.clocked_at) =
                (self.stream.source.now(&runner.catalog), Some(Instant::now()));
        }
        let Some(memory) = selection.query().memory() else { return Ok(0) };
        if self.fingerprint.is_none() {
            if self.warming.is_none() {
                self.warming = Warming::start(&query.name, selection.shared(), &self.stream, &runner.service);
            }
            // What comes waits meanwhile.
            let Some(kept) = self.warming.as_mut().and_then(Warming::kept) else { return Ok(0) };
            self.warming = None;
            self.kept = kept.ok_or_else(|| Error::new(Kind::Unavailable, "history not read"))?;
            self.fingerprint = Some(memory.fingerprint().to_owned());
            info!(query = query.name, rows = self.kept.rows(), "the stream query has what it looks back at");
        }
        let clock = self.stream.clock;
        let passed = self.stream.order.pass(clock).map_err(|error| self.broken(broken(error)))?;
        let looked_at = passed.as_ref().map_or(0, Batch::len);
        counters.rows += looked_at as u64;
        let made = tokio::task::block_in_place(|| {
            let mut recalled: Vec<Recalled> = Vec::new();
            if let Some(batch) = &passed {
                recalled.extend(recall(selection.query(), batch, &mut self.kept, counters)?);
            }
            recalled.extend(close(selection.query(), clock, &mut self.kept, counters));
            selection.results(query, &recalled, self.next, counters)
        });
        let rows = made.map_err(|error| self.broken(broken(error)))?;
        if rows.num_rows() > 0 {
            let received_at = taken.received_at.unwrap_or_else(Instant::now);
            let results = Results { first: self.next, rows, received_at };
            self.next = results.end();
            self.results.push_back(results);
        }
        self.is_new |= looked_at > 0 || self.next > self.written;
        Ok(looked_at)
    }

    fn broken(&mut self, error: Error) -> Error {
        self.broken = Some(Error::new(error.kind(), error.message()));
        error
    }

    /// Writes the state, if that is due.
    pub fn write(&mut self, selection: &Selection, runner: &StreamRunner, at_once: bool) -> Result<()> {
        let is_due = self.next > self.written || self.is_other || self.wrote_at.elapsed() >= EVERY;
        let now = Instant::now();
        let rests = now < self.rests_until || !is_due;
        if self.writing.is_some() || !self.is_new || self.broken.is_some() || (rests && !at_once) {
            return Ok(());
        }
        let state = self.state(selection)?;
        let bytes = tokio::task::block_in_place(|| state.to_bytes()).map_err(unreadable).map(Bytes::from)?;
        (self.epoch, self.is_new, self.is_other) = (self.epoch + 1, false, false);
        let (states, epoch, abort, failed) =
            (Arc::clone(&self.states), self.epoch, runner.abort.clone(), runner.failed.clone());
        let work = task::spawn("stream-query-state", async move {
            failpoint::hit("windows_before_state");
            let write = || states.write(epoch, bytes.clone());
            if !until_written("state of a stream query", write, &abort, &failed).await {
                return false;
            }
            failpoint::hit("windows_after_state");
            if let Err(error) = states.tidy().await {
                warn!(error = lake::reason(&error), "old states of a stream query not deleted, trying again later");
            }
            true
        });
        self.writing = Some(Writing {
            work,
            next: self.next,
            clock: self.stream.order.passed().unwrap_or(Micros::MIN),
            since: now,
        });
        Ok(())
    }

    fn state(&self, selection: &Selection) -> Result<QueryState> {
        let name = selection.query().stream();
        let stream = stream_state(name, true, &self.stream);
        let stream = stream.ok_or_else(|| Error::new(Kind::Internal, "nobody knows where the stream query is"))?;
        let memory = selection.query().memory().filter(|_| self.fingerprint.is_some());
        let kept = memory.map(|memory| {
            let of_stage = |rows: Vec<RecordBatch>| rows.into_iter().map(Rows).collect();
            let rows = memory.write(&self.kept)?.into_iter().map(of_stage).collect();
            let (fingerprint, passed) = (memory.fingerprint().to_owned(), self.stream.order.passed());
            Ok::<_, Error>(KeptState { fingerprint, passed, rows })
        });
        Ok(QueryState {
            written_at: Utc::now(),
            stream,
            kept: kept.transpose()?,
            first: self.results.front().map_or(self.next, |results| results.first),
            results: self.results.iter().map(|results| Rows(results.rows.clone())).collect(),
            next: self.next,
        })
    }

    fn wrote(&mut self, is_written: bool) {
        let Some(Writing { next, clock, since, .. }) = self.writing.take() else { return };
        (self.wrote_at, self.rests_until) = (Instant::now(), Instant::now() + since.elapsed() * REST);
        match is_written {
            true => (self.written, self.clock) = (next, clock),
            // The process ends, or the store is given up.
            false => error!("state of a stream query not written"),
        }
    }

    /// Waits until the state is written that is being written.
    pub async fn until_written(&mut self) {
        if let Some(writing) = &mut self.writing {
            let is_written = (&mut writing.work).await.unwrap_or(false);
            self.wrote(is_written);
        }
    }

    /// The next results that a state has and that are not shown.
    pub fn ready(&self) -> Option<Results> {
        let is_ready = |results: &&Results| results.first >= self.shown && results.end() <= self.written;
        self.results.iter().find(is_ready).cloned()
    }

    /// Those before `end` are shown.
    pub fn show(&mut self, end: i64) {
        self.shown = end;
    }

    /// Those before `end` are committed.
    pub fn committed(&mut self, end: i64) {
        while self.results.front().is_some_and(|results| results.end() <= end) {
            self.results.pop_front();
        }
    }

    /// Bytes of results that are not committed.
    pub fn bytes(&self) -> usize {
        self.results.iter().map(|results| results.rows.get_array_memory_size()).sum()
    }

    /// Until when all results are shown, if that is known.
    fn clock(&self, selection: &Selection) -> Option<Micros> {
        let slack = selection.query().memory().map_or(0, Memory::slack);
        let clock = match (self.shown >= self.next, self.shown >= self.written) {
            (true, _) => self.stream.order.passed(),
            (false, true) => Some(self.clock),
            (false, false) => None,
        };
        clock.filter(|clock| *clock > Micros::MIN).map(|clock| clock - slack)
    }

    /// How it gets on.
    pub fn status(&self, selection: &Selection) -> TimedStatus {
        TimedStatus {
            kept: (self.kept.rows(), self.kept.bytes()),
            late: self.stream.late(),
            waiting: self.stream.order.waiting(),
            shown: self.shown,
            clock: self.clock(selection),
        }
    }
}

/// How a query gets on that keeps rows or windows.
#[derive(Debug, Clone, Copy)]
pub struct TimedStatus {
    /// Rows that are kept, or groups of windows, and their bytes.
    pub kept: (usize, usize),
    /// Rows that came too late.
    pub late: u64,
    /// Rows that wait until nothing older can come.
    pub waiting: usize,
    /// Results before this number are shown.
    pub shown: i64,
    /// All that happened until then are shown, if that is known.
    pub clock: Option<Micros>,
}

/// What was kept, if the query still keeps the same, and what keeps it.
fn read(selection: &Selection, kept: &KeptState) -> Option<(Kept, String)> {
    let memory = selection.query().memory().filter(|memory| memory.fingerprint() == kept.fingerprint)?;
    let of_stage = |rows: &Vec<Rows>| rows.iter().map(|rows| rows.0.clone()).collect();
    let rows: Vec<Vec<RecordBatch>> = kept.rows.iter().map(of_stage).collect();
    Some((memory.read(&rows, kept.passed).ok()?, kept.fingerprint.clone()))
}

fn unreadable(error: RecordError) -> Error {
    Error::new(Kind::Internal, "state of a stream query cannot be used").because(error)
}
