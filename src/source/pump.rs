//! The data thread: drains the partition queues round-robin into batches and hands them out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tracing::{info, warn};

use super::client::Client;
use super::context::Context;
use super::fanout::{Delivered, Fanout};
use super::fault::Fault;
use super::join::Junction;
use super::status::Board;
use crate::decode::{Header, Record, Records, RecordsBuilder};
use crate::task::{Budget, Shutdown};

/// A batch takes no further record once it holds this much.
const BATCH_BYTES: usize = 1024 * 1024;
/// Records in a batch at most.
const BATCH_RECORDS: usize = 5_000;
/// How often all queues are looked at though none has called.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long a wait for room lasts before the shutdown is looked at.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);
/// How often the client is asked for positions behind transaction markers.
const MARKERS_EVERY: Duration = Duration::from_millis(20);
/// How often a catch-up reader with nothing to read looks whether it can join.
const JOIN_EVERY: Duration = Duration::from_millis(10);

/// Wakes the data thread. Called by librdkafka's threads while they hold a queue's lock: it must do nothing else.
#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    condvar: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock() = true;
        self.condvar.notify_one();
    }

    fn wait(&self, timeout: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.condvar.wait_for(&mut rung, timeout);
        }
        *rung = false;
    }
}

/// One partition on the data thread.
pub(super) struct Lane {
    partition: i32,
    queue: PartitionQueue<Context>,
    ready: Arc<AtomicBool>,
    position: i64,
}

impl Lane {
    /// Splits the partition's queue off. Do so before it is assigned, so that nothing arrives elsewhere.
    pub(super) fn split(
        client: &Arc<Client>,
        topic: &str,
        partition: i32,
        position: i64,
        bell: &Arc<Bell>,
    ) -> Option<Self> {
        let mut queue = client.split_partition_queue(topic, partition)?;
        let ready = Arc::new(AtomicBool::new(false));
        let (set, bell) = (ready.clone(), bell.clone());
        queue.set_nonempty_callback(move || {
            set.store(true, Ordering::Release);
            bell.ring();
        });
        Some(Self { partition, queue, ready, position })
    }
}

/// What the control thread hands over while both run.
#[derive(Default)]
pub(super) struct Inbox {
    /// New partitions.
    pub(super) lanes: Mutex<Vec<Lane>>,
    pub(super) bell: Arc<Bell>,
}

/// Whom a reader reads for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// All consumers that are not behind; takes in those that have caught up.
    Shared,
    /// One consumer that is behind, until it joins the shared reader.
    CatchUp,
    /// One consumer whose positions Kafka does not hold: it must not join anybody.
    Lost,
}

/// Everything the data thread works with.
pub(super) struct Pump {
    pub(super) role: Role,
    pub(super) junction: Arc<Junction>,
    pub(super) topic: Arc<str>,
    pub(super) incarnation: u32,
    pub(super) client: Arc<Client>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) fanout: Fanout,
    pub(super) budget: Budget,
    pub(super) board: Arc<Board>,
    pub(super) shutdown: Shutdown,
}

/// Why the data thread ended.
pub(super) enum Ended {
    Told,
    NoConsumers,
    /// The shared reader has the consumer.
    Joined,
    Fault(Fault),
}

/// What one look at a partition's queue brought.
struct Catch {
    records: Records,
    at_end: Option<bool>,
    more: bool,
    fault: Option<Fault>,
}

impl Pump {
    /// Runs until told to stop, out of consumers, joined, or stopped by a fault. The queues are dropped then; the
    /// channels are still open, so that the reader's state can be set before their other ends notice.
    pub(super) fn run(mut self) -> (Ended, Fanout) {
        let ended = self.drain();
        if self.role == Role::CatchUp && !matches!(ended, Ended::Joined) {
            self.junction.leave();
        }
        (ended, self.fanout)
    }

    fn drain(&mut self) -> Ended {
        let mut lanes: Vec<Lane> = Vec::new();
        let mut swept = Instant::now();
        let mut markers_asked = Instant::now();
        let mut markers_due = false;
        loop {
            if self.shutdown.is_cancelled() {
                return Ended::Told;
            }
            for lane in self.inbox.lanes.lock().drain(..) {
                self.fanout.enter(lane.partition, || Some(lane.position));
                lanes.push(lane);
            }
            match self.role {
                Role::Shared => self.take_in(&lanes),
                Role::CatchUp if self.junction.join(&mut self.fanout, &self.budget) => return Ended::Joined,
                Role::CatchUp | Role::Lost => {}
            }
            let sweep = swept.elapsed() >= SWEEP_EVERY;
            if sweep {
                swept = Instant::now();
            }
            let mut idle = true;
            for lane in &mut lanes {
                if !lane.ready.swap(false, Ordering::AcqRel) && !sweep {
                    continue;
                }
                if !self.wait_for_room() {
                    return Ended::Told;
                }
                let caught = self.catch(lane);
                idle &= !caught.more;
                markers_due |= caught.at_end == Some(true);
                if let Some(ended) = self.hand_out(lane, caught) {
                    return ended;
                }
            }
            if markers_due && markers_asked.elapsed() >= MARKERS_EVERY {
                markers_due = false;
                markers_asked = Instant::now();
                if let Some(ended) = self.pass_markers(&mut lanes) {
                    return ended;
                }
            }
            if idle {
                let until_markers = MARKERS_EVERY.saturating_sub(markers_asked.elapsed());
                let pause = if markers_due { until_markers } else { SWEEP_EVERY };
                self.inbox.bell.wait(if self.role == Role::CatchUp { pause.min(JOIN_EVERY) } else { pause });
            }
        }
    }

    /// Lets a consumer in that has caught up, if there is one.
    fn take_in(&mut self, lanes: &[Lane]) {
        let positions = || lanes.iter().map(|lane| (lane.partition, lane.position)).collect();
        let consumers = self.junction.hold(positions, &self.shutdown);
        for consumer in &consumers {
            info!(target: "kafka", topic = &*self.topic, table = consumer.name, "table has caught up");
        }
        self.fanout.take_in(consumers);
    }

    /// Blocks while the budget is full; false if the shutdown came first.
    fn wait_for_room(&self) -> bool {
        if self.budget.wait_for_room(Duration::ZERO) {
            return true;
        }
        self.board.block(true);
        while !self.budget.wait_for_room(LOOK_UP_EVERY) {
            if self.shutdown.is_cancelled() {
                return false;
            }
        }
        self.board.block(false);
        true
    }

    /// Takes what has arrived, up to one batch.
    fn catch(&self, lane: &Lane) -> Catch {
        let mut builder = RecordsBuilder::new(lane.position);
        let (mut at_end, mut fault, mut more) = (None, None, false);
        while let Some(polled) = lane.queue.poll(Duration::ZERO) {
            match polled {
                Ok(message) => {
                    at_end = Some(false);
                    // Never twice, whatever the client fetched again.
                    if message.offset() >= builder.end() {
                        push(&mut builder, &message);
                    }
                    if builder.size_bytes() >= BATCH_BYTES || builder.len() >= BATCH_RECORDS {
                        more = true;
                        break;
                    }
                }
                Err(KafkaError::PartitionEOF(_)) => at_end = Some(true),
                Err(error) => {
                    let reason = Context::take_reason();
                    fault = Fault::of(&error, lane.partition, builder.end(), reason.clone());
                    if fault.is_some() {
                        break;
                    }
                    self.board.unreachable(&reason.unwrap_or_else(|| error.to_string()));
                }
            }
        }
        if more {
            lane.ready.store(true, Ordering::Release);
        }
        let records = builder.finish(self.topic.clone(), self.incarnation, lane.partition);
        Catch { records, at_end, more, fault }
    }

    fn hand_out(&mut self, lane: &mut Lane, caught: Catch) -> Option<Ended> {
        let Catch { records, at_end, fault, .. } = caught;
        if records.end > lane.position
            && let Some(ended) = self.deliver(lane, &records)
        {
            return Some(ended);
        }
        if let Some(at_end) = at_end {
            self.board.reachable();
            self.board.update(|partitions| {
                let status = partitions.entry(lane.partition).or_default();
                status.at_end = at_end;
                status.position = lane.position;
                status.records += records.len() as u64;
                for record in records.iter() {
                    let part = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len) as u64;
                    status.bytes += part(record.key) + part(record.payload);
                    status.last_timestamp_us = Some(record.timestamp_us);
                }
            });
        }
        fault.map(Ended::Fault)
    }

    fn deliver(&mut self, lane: &mut Lane, records: &Records) -> Option<Ended> {
        let board = &self.board;
        match self.fanout.deliver(records, &self.budget, &self.shutdown, &|waits| board.block(waits)) {
            Delivered::Cancelled => return Some(Ended::Told),
            Delivered::Yes => lane.position = records.end,
        }
        self.fanout.is_empty().then_some(Ended::NoConsumers)
    }

    /// Moves positions over transaction markers, which are not handed out: at a partition's end nothing else would.
    fn pass_markers(&mut self, lanes: &mut [Lane]) -> Option<Ended> {
        let Ok(positions) = self.client.position() else { return None };
        if positions.count() == 0 {
            return None;
        }
        let mut moved = Vec::new();
        for element in positions.elements() {
            let Offset::Offset(position) = element.offset() else { continue };
            let Some(lane) = lanes.iter_mut().find(|lane| lane.partition == element.partition()) else { continue };
            if position <= lane.position {
                continue;
            }
            let mut builder = RecordsBuilder::new(lane.position);
            builder.cover(position);
            let records = builder.finish(self.topic.clone(), self.incarnation, lane.partition);
            if let Some(ended) = self.deliver(lane, &records) {
                return Some(ended);
            }
            moved.push((lane.partition, lane.position));
        }
        if !moved.is_empty() {
            self.board.update(|partitions| {
                for (partition, position) in moved {
                    partitions.entry(partition).or_default().position = position;
                }
            });
        }
        None
    }
}

fn push(builder: &mut RecordsBuilder, message: &BorrowedMessage<'_>) {
    let timestamp_us = message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000);
    let headers = headers(message);
    builder.push(Record {
        offset: message.offset(),
        timestamp_us,
        key: message.key(),
        payload: message.payload(),
        headers: &headers,
    });
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<Header> {
    let Some(headers) = message.headers() else { return Vec::new() };
    let read = |index| {
        let header = headers.try_get(index)?;
        Some(Header { name: header.key.to_owned(), value: header.value.map(Bytes::copy_from_slice) })
    };
    let unreadable = || {
        warn!(target: "kafka", partition = message.partition(), offset = message.offset(), "header name is not utf-8");
        Some(Header { name: "\u{FFFD}".into(), value: None })
    };
    // rdkafka panics on a header name that is not UTF-8; a producer must not be able to stop us.
    let read =
        |index| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(index))).unwrap_or_else(|_| unreadable());
    (0..headers.count()).filter_map(read).collect()
}
