//! The task of one sink: takes messages from its queue in order, tries until they are delivered or refused, and keeps
//! what waits for long in the lake's backlog.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::backlog::Backlog;
use super::channel::{Channel, Failure};
use super::message::Message;
use super::queue::{Bound, Dropped, Queue};
use crate::task::Shutdown;

/// What may wait for one sink.
pub(super) const BOUND: Bound = Bound { messages: 10_000, bytes: 16 * 1024 * 1024 };
/// What is not delivered by then is written down.
const SOON: Duration = Duration::from_secs(1);
/// How often the backlog is looked after.
const LOOK: Duration = Duration::from_millis(250);
/// First pause after a failure; each further one is twice as long …
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A receiver may ask for a longer pause, up to this.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// How long delivering goes on after the stop, as long as it succeeds.
const DRAIN: Duration = Duration::from_secs(3);
/// How long the last messages may take to be written down.
const LAST_WRITE: Duration = Duration::from_secs(8);
/// Dropped messages are announced at most this often.
const DROPS_SAID_EVERY: Duration = Duration::from_secs(60);

/// A sink's queue and counters, shared by those who send and the one who delivers.
pub(super) struct Outbox {
    name: String,
    state: Mutex<State>,
    work: Notify,
}

struct State {
    queue: Queue,
    counters: Counters,
    drops: Drops,
}

/// Drops that have not been announced.
#[derive(Default)]
struct Drops {
    unsaid: Dropped,
    said_at: Option<Instant>,
}

/// What became of a sink's messages since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that wait.
    pub pending: u64,
    /// Their bytes.
    pub pending_bytes: u64,
    /// Of them, written down in the lake.
    pub stored: u64,
    /// Messages the receiver took.
    pub delivered: u64,
    /// Messages the receiver will never take.
    pub refused: u64,
    /// Messages given up because too many waited.
    pub dropped: u64,
    /// When delivering began to fail; nothing while it succeeds.
    pub failing_since: Option<DateTime<Utc>>,
    /// What happened last that was no success.
    pub last_error: Option<String>,
}

impl Outbox {
    pub fn new(name: &str) -> Self {
        let state = State { queue: Queue::new(BOUND), counters: Counters::default(), drops: Drops::default() };
        Self { name: name.to_owned(), state: Mutex::new(state), work: Notify::new() }
    }

    /// Puts a message into the queue.
    pub fn take(&self, message: Message) {
        let now_us = u64::try_from(Utc::now().timestamp_micros()).unwrap_or(0);
        let mut state = self.state.lock();
        let dropped = state.queue.push(message, now_us, Instant::now());
        state.dropped(dropped);
        drop(state);
        self.work.notify_one();
    }

    /// A copy of all counters.
    pub fn counters(&self) -> Counters {
        let state = self.state.lock();
        let (pending, pending_bytes) = (state.queue.len() as u64, state.queue.bytes() as u64);
        Counters { pending, pending_bytes, ..state.counters.clone() }
    }
}

impl State {
    /// Counts messages that were given up.
    fn dropped(&mut self, dropped: Dropped) {
        self.counters.dropped += dropped.news + dropped.alerts;
        self.drops.unsaid.news += dropped.news;
        self.drops.unsaid.alerts += dropped.alerts;
    }

    /// Says what was given up since it was said last.
    fn say_drops(&mut self, sink: &str) {
        let Dropped { news, alerts } = self.drops.unsaid;
        if news + alerts > 0 && self.drops.said_at.is_none_or(|at| at.elapsed() >= DROPS_SAID_EVERY) {
            self.drops = Drops { unsaid: Dropped::default(), said_at: Some(Instant::now()) };
            if alerts > 0 {
                error!(sink, news, alerts, "too many messages wait for the sink: the oldest are lost");
            } else {
                warn!(sink, news, "too many messages wait for the sink: the oldest news are lost");
            }
        }
    }
}

/// What delivers to one sink.
pub(super) struct Courier {
    pub outbox: Arc<Outbox>,
    pub channel: Channel,
    pub backlog: Backlog,
    pub stop: Shutdown,
}

impl Courier {
    /// Runs until stopped and what is left is written down.
    pub async fn run(mut self) {
        self.load().await;
        let delivered = Shutdown::new();
        let deliver = async {
            deliver(&self.outbox, &self.channel, &self.stop).await;
            delivered.cancel();
        };
        tokio::join!(deliver, keep(&self.outbox, &mut self.backlog, &delivered));
        self.write_rest().await;
    }

    /// Takes over what an earlier process left.
    async fn load(&mut self) {
        let sink = &self.outbox.name;
        match self.stop.clone().run_until_cancelled(self.backlog.load()).await {
            Some(Ok(messages)) if messages.is_empty() => {}
            Some(Ok(messages)) => {
                info!(sink, messages = messages.len(), "undelivered messages found in the lake");
                let mut state = self.outbox.state.lock();
                state.counters.stored = messages.len() as u64;
                for (number, message) in messages {
                    let dropped = state.queue.insert(number, message, Instant::now());
                    state.dropped(dropped);
                }
            }
            Some(Err(error)) => {
                warn!(sink, error = %error, "the sink's backlog cannot be read: it waits for the next start");
            }
            None => {}
        }
    }

    async fn write_rest(&mut self) {
        let sink = &self.outbox.name;
        let written = tokio::time::timeout(LAST_WRITE, follow(&self.outbox, &mut self.backlog, Instant::now())).await;
        let left = self.outbox.counters().pending;
        match written {
            Ok(Ok(())) if left == 0 => {}
            Ok(Ok(())) => info!(sink, messages = left, "undelivered messages are kept for the next start"),
            Ok(Err(error)) => warn!(sink, messages = left, error = %error, "undelivered messages are not all kept"),
            Err(_) => warn!(sink, messages = left, "undelivered messages are not all kept: the store did not answer"),
        }
    }
}

/// Delivers until stopped; then for a moment more, as long as it succeeds.
async fn deliver(outbox: &Outbox, channel: &Channel, stop: &Shutdown) {
    let mut failures = 0;
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    let mut drained = std::pin::pin!(drained);
    loop {
        // Asked before the queue is looked at: what was sent before the stop is in it.
        let stopping = stop.is_cancelled();
        let batch = outbox.state.lock().queue.first(channel.at_once());
        if batch.is_empty() {
            if stopping {
                return;
            }
            tokio::select! {
                () = outbox.work.notified() => {}
                () = stop.cancelled() => {}
            }
            continue;
        }
        let attempts = join_all(batch.iter().map(|(_, message)| channel.deliver(message)));
        let outcomes = tokio::select! {
            outcomes = attempts => outcomes,
            () = &mut drained => return,
        };
        let Some(asked) = settle(outbox, &batch, outcomes) else {
            failures = 0;
            continue;
        };
        failures += 1;
        tokio::select! {
            () = tokio::time::sleep(pause(failures, asked)) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Writes down what became of a batch. If some of it must be tried again: the pause that was asked for.
fn settle(
    outbox: &Outbox,
    batch: &[(u64, Arc<Message>)],
    outcomes: Vec<Result<(), Failure>>,
) -> Option<Option<Duration>> {
    let sink = &outbox.name;
    let mut again: Option<(String, Option<Duration>)> = None;
    let mut state = outbox.state.lock();
    for ((number, message), outcome) in batch.iter().zip(outcomes) {
        match outcome {
            Ok(()) => {
                state.queue.remove(*number);
                state.counters.delivered += 1;
            }
            Err(Failure::Refused { reason }) => {
                error!(sink, id = message.id, reason, "the sink refuses a message for good: it is lost");
                state.queue.remove(*number);
                state.counters.refused += 1;
                state.counters.last_error = Some(reason);
            }
            Err(Failure::Again { reason, pause }) => again = again.or(Some((reason, pause))),
        }
    }
    match (&again, state.counters.failing_since) {
        (Some((reason, _)), None) => {
            warn!(sink, reason, "the sink cannot be reached: messages wait, trying again");
            state.counters.failing_since = Some(Utc::now());
        }
        (None, Some(since)) => {
            let seconds = (Utc::now() - since).num_seconds();
            info!(sink, seconds, waiting = state.queue.len(), "the sink takes messages again");
            state.counters.failing_since = None;
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    let (reason, pause) = again?;
    state.counters.last_error = Some(reason);
    Some(pause)
}

/// Twice as long after each failure, shortened by chance so that many do not come back at once.
fn pause(failures: u32, asked: Option<Duration>) -> Duration {
    let longest = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_PAUSE);
    let own = longest.mul_f64(rand::random_range(0.5..=1.0));
    asked.map_or(own, |asked| own.max(asked.min(LONGEST_ASKED)))
}

/// Keeps the backlog up with the queue until delivering has ended.
async fn keep(outbox: &Outbox, backlog: &mut Backlog, delivered: &Shutdown) {
    let mut away = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = delivered.cancelled() => return,
        }
        outbox.state.lock().say_drops(&outbox.name);
        let Some(old) = Instant::now().checked_sub(SOON) else { continue };
        // A write that is cut off may have landed: the last one overwrites or deletes it.
        let Some(followed) = delivered.run_until_cancelled(follow(outbox, backlog, old)).await else { return };
        let (sink, waiting) = (&outbox.name, outbox.counters().pending);
        match followed {
            Err(error) if !away => {
                warn!(sink, waiting, error = %error, "undelivered messages are kept in memory only: the lake is away");
                away = true;
            }
            Ok(()) if away => {
                info!(sink, "undelivered messages are kept in the lake again");
                away = false;
            }
            Err(_) | Ok(()) => {}
        }
    }
}

/// One look: messages that wait since `old` are written down, those that left the queue are deleted.
async fn follow(outbox: &Outbox, backlog: &mut Backlog, old: Instant) -> Result<(), object_store::Error> {
    let (gone, waiting) = {
        let state = outbox.state.lock();
        let gone = backlog.outdated(|number| state.queue.contains(number));
        let unwritten = state.queue.waiting_since(old).filter(|(number, _)| !backlog.holds(*number));
        (gone, unwritten.map(|(number, message)| (number, Arc::clone(message))).collect::<Vec<_>>())
    };
    if gone.is_empty() && waiting.is_empty() {
        return Ok(());
    }
    let followed = backlog.follow(gone, waiting).await;
    outbox.state.lock().counters.stored = backlog.len() as u64;
    followed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_heed_the_receiver() {
        for failures in 1..200 {
            let longest = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(7)).min(LONGEST_PAUSE);
            let paused = pause(failures, None);
            assert!(paused <= longest && paused >= longest / 2, "{failures}: {paused:?}");
        }
        assert_eq!(pause(1, Some(Duration::from_secs(30))), Duration::from_secs(30));
        assert_eq!(pause(1, Some(Duration::from_secs(1_000_000))), LONGEST_ASKED);
        assert!(pause(20, Some(Duration::ZERO)) >= LONGEST_PAUSE / 2, "a server that says 0 is not stormed");
    }
}
