//! What readers are doing: one status per topic for `system.ingest`, and one log line per change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::fault::Fault;

/// Waiting for room this long is called paused; shorter waits are the normal way to slow down.
const PAUSED_AFTER: Duration = Duration::from_secs(1);
/// Pausing and resuming is logged at most this often.
const PAUSE_SAID_EVERY: Duration = Duration::from_secs(30);

/// What a reader is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderState {
    /// No broker has answered yet, and none has failed.
    Connecting,
    /// The brokers answer; the topic does not exist. Asked again every second.
    WaitingForTopic,
    /// Reading, or at the end of all partitions.
    Reading,
    /// Reading for one consumer that is far behind the others of its topic.
    CatchingUp,
    /// The budget or a consumer's channel has been full for over a second.
    Paused,
    /// The brokers cannot be reached or refuse; tried again for ever.
    Unreachable,
    /// Stopped by a fault that only a person can resolve; the error says how.
    Stopped,
    /// Ended as told, or for want of consumers.
    Closed,
}

impl fmt::Display for ReaderState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connecting => "connecting",
            Self::WaitingForTopic => "waiting for topic",
            Self::Reading => "reading",
            Self::CatchingUp => "catching up",
            Self::Paused => "paused",
            Self::Unreachable => "unreachable",
            Self::Stopped => "stopped",
            Self::Closed => "closed",
        })
    }
}

impl ReaderState {
    /// True if nothing more will be delivered.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Closed)
    }
}

/// A snapshot of all that reads one topic.
#[derive(Debug, Clone)]
pub struct TopicStatus {
    /// The reader of all consumers that are not behind.
    pub shared: ReaderStatus,
    /// Every consumer; with the reader of its own while it is behind, or if it stopped there.
    pub consumers: BTreeMap<String, Option<ReaderStatus>>,
}

impl TopicStatus {
    /// The reader that reads for `consumer`; `None` if it is not a consumer of the topic.
    pub fn of(&self, consumer: &str) -> Option<&ReaderStatus> {
        self.consumers.get(consumer).map(|own| own.as_ref().unwrap_or(&self.shared))
    }
}

/// A snapshot of one reader.
#[derive(Debug, Clone)]
pub struct ReaderStatus {
    /// What the reader is doing.
    pub state: ReaderState,
    /// When the state began.
    pub since: SystemTime,
    /// Why, for `WaitingForTopic`, `Unreachable` and `Stopped`.
    pub error: Option<String>,
    /// Per partition.
    pub partitions: BTreeMap<i32, PartitionStatus>,
}

/// A snapshot of one partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Where reading began.
    pub start: i64,
    /// The next offset to hand out.
    pub position: i64,
    /// The offset the next record gets, asked for every second.
    pub high_watermark: Option<i64>,
    /// When it was asked for, in microseconds since 1970: all below it was there by then.
    pub asked_at_us: Option<i64>,
    /// True if the last fetch found the end: all there was has been handed out.
    pub at_end: bool,
    /// The broker's timestamp of the last record handed out, in microseconds since 1970.
    pub last_timestamp_us: Option<i64>,
    /// Records handed out since the start.
    pub records: u64,
    /// Bytes of keys, payloads and headers handed out since the start.
    pub bytes: u64,
}

impl PartitionStatus {
    /// A partition of which nothing was read yet.
    pub(super) fn at(start: i64, high_watermark: i64) -> Self {
        Self { start, position: start, high_watermark: Some(high_watermark), ..Self::default() }
    }

    /// Offsets still to be read, if the high watermark is known.
    pub fn lag(&self) -> Option<i64> {
        self.high_watermark.map(|high| (high - self.position).max(0))
    }
}

/// Where the threads of a reader write down what they see.
pub(super) struct Board {
    topic: Arc<str>,
    /// The one table that is read for, if it is behind the others.
    catching_up: Option<String>,
    facts: Mutex<Facts>,
    sender: watch::Sender<ReaderStatus>,
}

#[derive(Default)]
struct Facts {
    found: Option<bool>,
    unreachable: Option<String>,
    blocked_since: Option<Instant>,
    fault: Option<String>,
    closed: bool,
    pause_said: Option<Instant>,
}

impl Board {
    fn state(&self, facts: &Facts) -> (ReaderState, Option<String>) {
        if let Some(fault) = &facts.fault {
            return (ReaderState::Stopped, Some(fault.clone()));
        }
        if facts.closed {
            return (ReaderState::Closed, None);
        }
        if let Some(error) = &facts.unreachable {
            return (ReaderState::Unreachable, Some(error.clone()));
        }
        let state = match facts.found {
            None => ReaderState::Connecting,
            Some(false) => {
                return (ReaderState::WaitingForTopic, Some(format!("topic \"{}\" does not exist yet", self.topic)));
            }
            // That reading waits for decoding and the store is the way of catching up.
            Some(true) if self.catching_up.is_some() => ReaderState::CatchingUp,
            Some(true) if facts.blocked_since.is_some_and(|since| since.elapsed() >= PAUSED_AFTER) => {
                ReaderState::Paused
            }
            Some(true) => ReaderState::Reading,
        };
        (state, None)
    }

    /// A board for the reader of `topic`, or of the one table of it that is `catching_up`.
    pub(super) fn new(topic: Arc<str>, catching_up: Option<String>) -> Self {
        let status = ReaderStatus {
            state: ReaderState::Connecting,
            since: SystemTime::now(),
            error: None,
            partitions: BTreeMap::new(),
        };
        Self { topic, catching_up, facts: Mutex::default(), sender: watch::Sender::new(status) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<ReaderStatus> {
        self.sender.subscribe()
    }

    /// The positions now.
    pub(super) fn positions(&self) -> BTreeMap<i32, i64> {
        self.sender.borrow().partitions.iter().map(|(p, status)| (*p, status.position)).collect()
    }

    /// The brokers answered: the topic exists, or it does not.
    pub(super) fn answered(&self, found: bool) {
        self.change(|facts| {
            facts.found = Some(found);
            facts.unreachable = None;
        });
    }

    pub(super) fn reachable(&self) {
        self.change(|facts| facts.unreachable = None);
    }

    pub(super) fn unreachable(&self, error: &dyn fmt::Display) {
        self.change(|facts| facts.unreachable = Some(error.to_string()));
    }

    pub(super) fn stop(&self, fault: &Fault) {
        self.change(|facts| facts.fault = Some(format!("topic \"{}\" {fault}", self.topic)));
    }

    pub(super) fn close(&self) {
        self.change(|facts| facts.closed = true);
    }

    /// The data thread waits for room, or has found it.
    pub(super) fn block(&self, blocked: bool) {
        let was = {
            let mut facts = self.facts.lock();
            let was = facts.blocked_since;
            facts.blocked_since = blocked.then(|| was.unwrap_or_else(Instant::now));
            was
        };
        if was.is_some() && !blocked {
            self.refresh();
        }
    }

    /// Looks again at what depends on time.
    pub(super) fn refresh(&self) {
        self.change(|_| ());
    }

    /// Changes the partitions' numbers.
    pub(super) fn update(&self, change: impl FnOnce(&mut BTreeMap<i32, PartitionStatus>)) {
        self.sender.send_modify(|status| change(&mut status.partitions));
    }

    /// What the brokers say of a moment after `asked_at_us`.
    pub(super) fn high_watermarks(&self, high: &BTreeMap<i32, i64>, asked_at_us: i64) {
        self.update(|partitions| {
            for (partition, high) in high {
                if let Some(status) = partitions.get_mut(partition) {
                    status.high_watermark = Some(*high);
                    status.asked_at_us = Some(asked_at_us);
                }
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock();
        change(&mut facts);
        let (state, error) = self.state(&facts);
        let mut before = state;
        self.sender.send_if_modified(|status| {
            before = status.state;
            let changed = before != state;
            if changed {
                status.since = SystemTime::now();
                status.state = state;
            }
            status.error = error.clone();
            changed
        });
        if before != state {
            self.say(before, state, error.unwrap_or_default(), &mut facts);
        }
    }

    /// One line for each change of state.
    fn say(&self, before: ReaderState, state: ReaderState, error: String, facts: &mut Facts) {
        let (topic, table) = (&*self.topic, self.catching_up.as_deref());
        match state {
            ReaderState::Connecting => {}
            ReaderState::WaitingForTopic => {
                warn!(target: "kafka", topic, table, "topic does not exist yet, asking again every second");
            }
            ReaderState::Reading if before == ReaderState::Paused => {
                info!(target: "kafka", topic, "reading resumed");
            }
            ReaderState::Reading | ReaderState::CatchingUp if before == ReaderState::Unreachable => {
                info!(target: "kafka", topic, table, "reading from kafka again");
            }
            ReaderState::Reading => info!(target: "kafka", topic, "reading topic"),
            ReaderState::CatchingUp => info!(target: "kafka", topic, table, "table is behind, catching up on its own"),
            ReaderState::Paused => {
                if facts.pause_said.is_none_or(|said| said.elapsed() >= PAUSE_SAID_EVERY) {
                    facts.pause_said = Some(Instant::now());
                    warn!(target: "kafka", topic, "reading paused: what was read is not worked off");
                }
            }
            ReaderState::Unreachable => {
                warn!(target: "kafka", topic, table, error, "cannot read from kafka now, trying for ever");
            }
            ReaderState::Stopped if table.is_some() => {
                error!(target: "kafka", topic, table, error, "table stopped while catching up");
            }
            ReaderState::Stopped => error!(target: "kafka", topic, error, "topic stopped"),
            ReaderState::Closed => info!(target: "kafka", topic, table, "reader closed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_fact_is_the_state() {
        let board = Board::new("t".into(), None);
        let status = board.subscribe();
        let state = || status.borrow().state;
        assert_eq!(state(), ReaderState::Connecting);
        board.unreachable(&"connection refused");
        assert_eq!(
            (state(), status.borrow().error.clone()),
            (ReaderState::Unreachable, Some("connection refused".into()))
        );
        board.answered(false);
        assert_eq!(state(), ReaderState::WaitingForTopic);
        assert_eq!(status.borrow().error.as_deref(), Some("topic \"t\" does not exist yet"));
        board.answered(true);
        assert_eq!(state(), ReaderState::Reading);
        board.facts.lock().blocked_since = Instant::now().checked_sub(PAUSED_AFTER);
        board.refresh();
        assert_eq!(state(), ReaderState::Paused);
        board.block(false);
        assert_eq!(state(), ReaderState::Reading);
        board.stop(&Fault::Gone { partition: 1, position: 2 });
        board.close();
        assert_eq!(state(), ReaderState::Stopped);
        assert!(status.borrow().error.as_ref().unwrap().contains("topic \"t\" partition 1"));
    }
}
