//! What was told, on its way to where it is kept.
//!
//! ```text
//! tell ─┬─▶ topics, at once
//!       └─▶ entries ─ write ─▶ journal object ─┬─ deliver ─▶ webhooks, mails
//!                                              └─ log (every commit interval) ─▶ system.alerts
//! ```
//! A topic can be read back after a crash; nobody can ask a mailbox what it got. So whatever goes there is written down
//! before, which takes some milliseconds, unless the store does not answer: then it goes out after a second all the same.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::deliver::{Message, Sinks};
use crate::engine::catalog::{micros, schema, timestamps};
use crate::error::{Error, Kind, Result};
use crate::lake::{AlertFiles, AlertLog, CommitError, Snapshot};
use crate::stream::{Key, Told};
use crate::task::{Shutdown, failpoint};

/// Name of the Delta table in the folder `system`.
pub const ALERTS: &str = "alerts";
/// Whoever is told by a sink that cannot be read back waits for the store no longer than this.
const GRACE: Duration = Duration::from_secs(1);
/// Pause before the store is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// The newest so many messages are kept for who watches.
const RECENT: usize = 200;
/// Transitions in one object at most.
const BATCH: usize = 1_000;
/// Transitions that wait for the store at most: the oldest are then missing in `system.alerts`.
const MOST: usize = 100_000;

/// What was told and is not kept yet.
pub struct Journal {
    files: AlertFiles,
    sinks: Sinks,
    entries: Mutex<Entries>,
    /// The number of the last transition.
    last: watch::Sender<u64>,
    /// All until this one are in the journal.
    written: watch::Sender<u64>,
}

struct Entries {
    waiting: VecDeque<Entry>,
    delivered: u64,
    /// All until this one are in `system.alerts`, of which this is a snapshot.
    logged: u64,
    snapshot: Option<Arc<Snapshot>>,
    /// Messages that were told before the start: they are not told again.
    known: BTreeSet<String>,
    /// The newest ones, for who watches.
    recent: VecDeque<Message>,
}

#[derive(Clone)]
struct Entry {
    told: Told,
    /// The sinks that wait until it is written down.
    sinks: Vec<String>,
    at: Instant,
}

impl Journal {
    /// What goes on behind `log`; `journaled` is what the journal holds, of which transitions until `log`'s last are in it.
    /// `known` are the ids of messages that were told.
    pub fn new(
        files: AlertFiles,
        sinks: Sinks,
        log: &AlertLog,
        journaled: Vec<Told>,
        known: BTreeSet<String>,
    ) -> Result<Self> {
        let logged = log.last();
        let last = journaled.last().map_or(logged, |told| told.number.max(logged));
        let waiting = journaled.into_iter().filter(|told| told.number > logged);
        let waiting = waiting.map(|told| Entry { told, sinks: Vec::new(), at: Instant::now() }).collect();
        let snapshot = log.table().snapshot().map_err(broken)?;
        let entries =
            Entries { waiting, delivered: last, logged, snapshot: Some(snapshot), known, recent: VecDeque::new() };
        Ok(Self {
            files,
            sinks,
            entries: Mutex::new(entries),
            last: watch::Sender::new(last),
            written: watch::Sender::new(last),
        })
    }

    /// Tells `sinks` of a transition, unless that was done before the start. Returns at once.
    pub fn tell(&self, entity: &Key, message: Message, sinks: &[String]) {
        if self.entries.lock().known.contains(&message.id) {
            return;
        }
        let (topics, others): (Vec<String>, Vec<String>) =
            sinks.iter().cloned().partition(|sink| self.sinks.is_topic(sink));
        topics.iter().for_each(|sink| self.sinks.send(sink, message.clone()));
        self.take(entity, message, others);
    }

    /// Keeps a transition; `sinks` are told once it is written down.
    pub fn take(&self, entity: &Key, message: Message, sinks: Vec<String>) {
        let mut entries = self.entries.lock();
        let number = *self.last.borrow() + 1;
        entries.recent.truncate(RECENT - 1);
        entries.recent.push_front(message.clone());
        let told = Told { number, entity: Arc::clone(entity), message };
        entries.waiting.push_back(Entry { told, sinks, at: Instant::now() });
        if entries.waiting.len() > MOST {
            error!(
                most = MOST,
                "too many transitions of alerts wait for the store: the oldest will be missing in system.alerts"
            );
            entries.waiting.pop_front();
        }
        self.last.send_replace(number);
    }

    /// The number of the last transition.
    pub fn last(&self) -> u64 {
        *self.last.borrow()
    }

    /// The newest messages, the newest first.
    pub fn recent(&self) -> Vec<Message> {
        self.entries.lock().recent.iter().cloned().collect()
    }

    /// The objects.
    pub fn files(&self) -> &AlertFiles {
        &self.files
    }

    /// Waits until all until `number` are in the journal.
    pub async fn until_written(&self, number: u64) {
        let _ = self.written.subscribe().wait_for(|written| *written >= number).await;
    }

    /// The number of the last transition that is in `system.alerts`.
    pub fn logged(&self) -> u64 {
        self.entries.lock().logged
    }

    /// Its files are others now, with the same rows.
    pub fn rewritten(&self, snapshot: Arc<Snapshot>) {
        let mut entries = self.entries.lock();
        // One that the next append has not passed by now; the rows of an append that is told later are hot until then.
        if entries.snapshot.as_ref().is_none_or(|known| known.version() + 1 == snapshot.version()) {
            entries.snapshot = Some(snapshot);
        }
    }

    /// `system.alerts`: what is committed, and the rows above it.
    pub fn shown(&self) -> (Option<Arc<Snapshot>>, std::result::Result<RecordBatch, ArrowError>) {
        let entries = self.entries.lock();
        let rows = entries.waiting.iter().filter(|entry| entry.told.number > entries.logged).map(|entry| &entry.told);
        (entries.snapshot.clone(), rows_of(rows))
    }

    fn after(&self, number: u64, most: usize) -> Vec<Entry> {
        let entries = self.entries.lock();
        entries.waiting.iter().filter(|entry| entry.told.number > number).take(most).cloned().collect()
    }

    fn tidy(&self, entries: &mut Entries) {
        let kept = (*self.written.borrow()).min(entries.delivered).min(entries.logged);
        while entries.waiting.front().is_some_and(|entry| entry.told.number <= kept) {
            entries.waiting.pop_front();
        }
    }

    /// Writes what was told into the journal, and tells the sinks that wait for that, until `finish`, and then the rest.
    pub async fn write(&self, finish: Shutdown, abort: Shutdown, failed: mpsc::Sender<Error>) {
        tokio::join!(self.write_down(&finish, &abort, &failed), self.deliver(&finish));
    }

    async fn write_down(&self, finish: &Shutdown, abort: &Shutdown, failed: &mpsc::Sender<Error>) {
        loop {
            let written = *self.written.borrow();
            if !self.until_more(written, finish).await {
                return;
            }
            let entries = self.after(written, BATCH);
            let told: Vec<&Told> = entries.iter().map(|entry| &entry.told).collect();
            let (Some(first), Some(last)) = (told.first(), told.last()) else {
                self.written.send_replace(self.last());
                continue;
            };
            let bytes = match Told::to_bytes(&told) {
                Ok(bytes) => bytes::Bytes::from(bytes),
                Err(error) => {
                    error!(error = %error, "transitions of alerts cannot be written down");
                    self.written.send_replace(last.number);
                    continue;
                }
            };
            failpoint::hit("alerts_before_journal");
            let write = || self.files.write_journal(first.number, bytes.clone());
            if !until_written("transitions of alerts", write, abort, failed).await {
                return;
            }
            failpoint::hit("alerts_after_journal");
            self.written.send_replace(last.number);
        }
    }

    async fn deliver(&self, finish: &Shutdown) {
        let mut delivered = self.entries.lock().delivered;
        let mut written = self.written.subscribe();
        while self.until_more(delivered, finish).await {
            for Entry { told, sinks, at } in self.after(delivered, BATCH) {
                if !sinks.is_empty() {
                    let is_written = written.wait_for(|written| *written >= told.number);
                    let _ = tokio::time::timeout_at(at + GRACE, is_written).await;
                }
                sinks.iter().for_each(|sink| self.sinks.send(sink, told.message.clone()));
                delivered = told.number;
            }
            let mut entries = self.entries.lock();
            // Those that had to be given up are not waited for.
            delivered = delivered.max(entries.waiting.front().map_or(self.last(), |entry| entry.told.number - 1));
            entries.delivered = delivered;
            self.tidy(&mut entries);
        }
    }

    /// Waits until there are more than `number`; false if there are none at the end.
    async fn until_more(&self, number: u64, finish: &Shutdown) -> bool {
        let mut last = self.last.subscribe();
        let is_more = last.wait_for(|last| *last > number);
        tokio::select! {
            biased;
            more = is_more => more.is_ok(),
            () = finish.cancelled() => false,
        }
    }

    /// Commits what was told to `system.alerts`, every `interval`, until `finish`, and then the rest.
    pub async fn log(
        &self,
        mut log: AlertLog,
        interval: Duration,
        finish: Shutdown,
        abort: Shutdown,
        failed: mpsc::Sender<Error>,
    ) {
        loop {
            let is_last = finish.run_until_cancelled(tokio::time::sleep(interval)).await.is_none();
            let entries = self.after(log.last(), usize::MAX);
            if let Some(last) = entries.last().map(|entry| entry.told.number) {
                let rows = match rows_of(entries.iter().map(|entry| &entry.told)) {
                    Ok(rows) => rows,
                    Err(error) => return drop(failed.send(broken(error)).await),
                };
                match log.append(last, rows, &abort).await {
                    Ok(true) => {}
                    Ok(false) => return drop(failed.send(rival(ALERTS)).await),
                    Err(CommitError::Stopped) => return,
                    Err(error) => return drop(failed.send(error.into()).await),
                }
                failpoint::hit("alerts_after_commit");
                match log.table().snapshot() {
                    Ok(snapshot) => {
                        let mut entries = self.entries.lock();
                        (entries.snapshot, entries.logged) = (Some(snapshot), last);
                        self.tidy(&mut entries);
                    }
                    Err(error) => return drop(failed.send(broken(error)).await),
                }
            }
            if is_last {
                return;
            }
        }
    }
}

/// Writes an object, however long the store is away. False if that is given up, or somebody else has written it: then
/// that ends the process.
pub async fn until_written<F: Future<Output = std::result::Result<bool, object_store::Error>>>(
    what: &str,
    write: impl Fn() -> F,
    abort: &Shutdown,
    failed: &mpsc::Sender<Error>,
) -> bool {
    loop {
        match write().await {
            Ok(true) => return true,
            Ok(false) => {
                let _ = failed.send(rival(what)).await;
                return false;
            }
            Err(error) => warn!(what, error = crate::lake::reason(&error), "not written down, trying again"),
        }
        if abort.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return false;
        }
    }
}

fn rival(what: &str) -> Error {
    Error::new(Kind::Refused, format!("another process has written to this lake: {what}"))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Kind::Internal, "system.alerts cannot be used").because(error)
}

/// `system.alerts`: a row per transition.
pub fn alerts_schema() -> SchemaRef {
    schema(&[
        ("number", DataType::Int64),
        ("alert_id", DataType::Utf8),
        ("rule", DataType::Utf8),
        ("rule_hash", DataType::Utf8),
        ("key", DataType::Utf8),
        ("transition", DataType::Utf8),
        ("severity", DataType::Utf8),
        ("at", micros()),
        ("starts_at", micros()),
        ("fired_at", micros()),
        ("ends_at", micros()),
        ("message", DataType::Utf8),
        ("values", DataType::Utf8),
        ("reason", DataType::Utf8),
        ("cause_topic", DataType::Utf8),
        ("cause_partition", DataType::Int64),
        ("cause_offset", DataType::Int64),
        ("schema_version", DataType::Int64),
        ("emitted_at", micros()),
    ])
}

fn rows_of<'a>(told: impl Iterator<Item = &'a Told>) -> std::result::Result<RecordBatch, ArrowError> {
    let told: Vec<_> = told.filter_map(|told| Some((told, told.transition()?))).collect();
    let text =
        |field: &str| -> ArrayRef { Arc::new(told.iter().map(|(told, _)| told.text(field)).collect::<StringArray>()) };
    let texts = |of: &dyn Fn(&Told, &crate::stream::Transition<crate::stream::Row>) -> Option<String>| -> ArrayRef {
        Arc::new(told.iter().map(|(told, transition)| of(told, transition)).collect::<StringArray>())
    };
    let number = |of: &dyn Fn(&Told, &crate::stream::Transition<crate::stream::Row>) -> Option<i64>| -> ArrayRef {
        Arc::new(told.iter().map(|(told, transition)| of(told, transition)).collect::<Int64Array>())
    };
    let time = |field: &str| timestamps(told.iter().map(|(told, _)| told.time(field)).collect::<Vec<_>>());
    RecordBatch::try_new(
        alerts_schema(),
        vec![
            number(&|told, _| i64::try_from(told.number).ok()),
            text("alert_id"),
            text("rule"),
            text("rule_hash"),
            texts(&|_, transition| Some(transition.key.to_string())),
            texts(&|_, transition| Some(transition.became.word().to_owned())),
            text("severity"),
            timestamps(told.iter().map(|(_, transition)| Some(transition.at)).collect::<Vec<_>>()),
            time("starts_at"),
            time("fired_at"),
            time("ends_at"),
            text("message"),
            texts(&|_, transition| serde_json::to_string(&transition.alert.row).ok()),
            text("reason"),
            texts(&|_, transition| Some(transition.alert.cause.topic.to_string())),
            number(&|_, transition| Some(transition.alert.cause.partition.into())),
            number(&|_, transition| Some(transition.alert.cause.offset)),
            number(&|told, _| told.message.payload.get("schema_version")?.as_i64()),
            timestamps(told.iter().map(|(told, _)| Some(told.message.at.timestamp_micros())).collect::<Vec<_>>()),
        ],
    )
}
