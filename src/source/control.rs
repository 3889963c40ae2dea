//! A reader's control thread: finds the topic, assigns its partitions, and goes on polling the main queue whatever the
//! data thread waits for; asks for high watermarks and new partitions; ends both threads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, info};

use super::client::{self, Client, Trouble};
use super::context::Context;
use super::fanout::Fanout;
use super::fault::Fault;
use super::join::Junction;
use super::kafka::{Kafka, watermarks};
use super::pump::{Ended, Inbox, Lane, Pump, Role};
use super::status::{Board, PartitionStatus};
use crate::task::{Budget, Shutdown, Wall};

/// How long one question may take; the shutdown is noticed only after it.
const ASK_TIMEOUT: Duration = Duration::from_millis(700);
/// One turn of the main queue.
const TURN: Duration = Duration::from_millis(100);
/// Between two tries to reach the brokers or find the topic.
const TRY_EVERY: Duration = Duration::from_secs(1);
const WATERMARKS_EVERY: Duration = Duration::from_secs(1);
const PARTITIONS_EVERY: Duration = Duration::from_secs(10);
/// So many failed questions in a row are an outage.
const MISSES: u32 = 3;
/// An answer that would stop the topic must come so many times in a row: brokers that start up or change leaders err.
const CONFIRMATIONS: u32 = 3;

pub(super) struct Control {
    pub(super) kafka: Kafka,
    /// How many readers share what the topic's clients may hold.
    pub(super) readers: usize,
    pub(super) role: Role,
    pub(super) junction: Arc<Junction>,
    pub(super) topic: Arc<str>,
    pub(super) incarnation: u32,
    pub(super) fanout: Fanout,
    pub(super) budget: Budget,
    pub(super) board: Arc<Board>,
    pub(super) shutdown: Shutdown,
}

/// A client with all partitions assigned, and where each starts.
struct Assigned {
    client: Arc<Client>,
    inbox: Arc<Inbox>,
    partitions: Vec<i32>,
}

/// Answers that are believed only when repeated.
#[derive(Default)]
struct Doubts {
    unanswered: u32,
    beyond_end: u32,
    gone: u32,
}

impl Control {
    pub(super) fn run(mut self) {
        let board = self.board.clone();
        let closing = StopOnPanic(board.clone());
        match self.assign() {
            Ok(Some(assigned)) => self.read(assigned),
            Ok(None) => board.close(),
            Err(fault) => board.stop(&fault),
        }
        drop(closing);
    }

    /// Waits for brokers and topic, and assigns all partitions; `None` if the shutdown came first.
    fn assign(&mut self) -> Result<Option<Assigned>, Fault> {
        let Some(partitions) = self.wait_for_topic() else { return Ok(None) };
        let gone = self.fanout.partitions().find(|p| !partitions.contains(p));
        if let Some(partition) = gone {
            let position = self.fanout.enter(partition, || None).unwrap_or(0);
            return Err(Fault::Gone { partition, position });
        }
        let client = self.kafka.consumer(partitions.len(), self.readers).map_err(|e| Fault::Client(e.to_string()))?;
        let held = self.retry(|control| {
            let held = watermarks(&client, &control.topic, &partitions, ASK_TIMEOUT)?;
            if held.len() < partitions.len() {
                return Err(Trouble::Answer("what a partition holds is not known".into()));
            }
            Ok(Some(held))
        });
        let Some(held) = held else { return Ok(None) };
        let mut starts = BTreeMap::new();
        for (&partition, held) in &held {
            let start = self.fanout.enter(partition, || Some(held.low));
            starts.extend(start.map(|start| (partition, PartitionStatus::at(start, held.high))));
        }
        let bell = match self.role {
            Role::Shared => self.junction.bell(),
            Role::CatchUp | Role::Lost => Arc::default(),
        };
        let inbox = Arc::new(Inbox { bell, ..Inbox::default() });
        let assigned = Assigned { client, inbox, partitions };
        self.add(&assigned, &starts).map_err(Fault::Client)?;
        self.board.answered(true);
        Ok(Some(assigned))
    }

    fn wait_for_topic(&self) -> Option<Vec<i32>> {
        self.retry(|control| {
            let partitions = control.kafka.partitions_within(&control.topic, ASK_TIMEOUT)?;
            if partitions.is_none() {
                control.board.answered(false);
            }
            Ok(partitions)
        })
    }

    /// Asks until there is an answer; `None` if the shutdown came first.
    fn retry<T>(&self, mut ask: impl FnMut(&Self) -> Result<Option<T>, Trouble>) -> Option<T> {
        let mut misses = 0;
        while !self.shutdown.is_cancelled() {
            let asked = Instant::now();
            match ask(self) {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => misses = 0,
                Err(trouble) => {
                    misses += 1;
                    if misses >= MISSES {
                        self.board.unreachable(&trouble);
                    }
                }
            }
            while asked.elapsed() < TRY_EVERY && !self.shutdown.is_cancelled() {
                std::thread::sleep(TURN / 2);
            }
        }
        None
    }

    /// Assigns more partitions. Queues are split off first, so that no record arrives elsewhere.
    fn add(&self, to: &Assigned, starts: &BTreeMap<i32, PartitionStatus>) -> Result<(), String> {
        let mut list = TopicPartitionList::with_capacity(starts.len());
        let mut lanes = Vec::with_capacity(starts.len());
        for (&partition, at) in starts {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(at.start)).map_err(|e| e.to_string())?;
            let lane = Lane::split(&to.client, &self.topic, partition, at.start, &to.inbox.bell);
            lanes.push(lane.ok_or_else(|| format!("partition {partition} has no queue"))?);
        }
        to.client.incremental_assign(&list).map_err(|e| e.to_string())?;
        self.board.update(|partitions| partitions.extend(starts));
        to.inbox.lanes.lock().append(&mut lanes);
        to.inbox.bell.ring();
        Ok(())
    }

    /// Runs the data thread and watches until either ends; then says why, closes the channels and the client.
    fn read(&mut self, mut assigned: Assigned) {
        let pump = Pump {
            role: self.role,
            junction: self.junction.clone(),
            topic: self.topic.clone(),
            incarnation: self.incarnation,
            client: assigned.client.clone(),
            inbox: assigned.inbox.clone(),
            fanout: std::mem::take(&mut self.fanout),
            budget: self.budget.clone(),
            board: self.board.clone(),
            shutdown: self.shutdown.clone(),
        };
        let data = std::thread::Builder::new().name(format!("read {}", self.topic)).spawn(move || pump.run());
        let data = match data {
            Ok(data) => data,
            Err(error) => return self.board.stop(&Fault::Client(format!("cannot start a thread: {error}"))),
        };
        let watched = self.watch(&mut assigned, &data);
        self.shutdown.cancel();
        assigned.inbox.bell.ring();
        let (fault, channels) = match data.join() {
            // What this reader meets from now on is the shared one's to judge.
            Ok((Ended::Joined, fanout)) => (None, Some(fanout)),
            Ok((Ended::Told | Ended::NoConsumers, fanout)) => (watched, Some(fanout)),
            Ok((Ended::Fault(fault), fanout)) => (watched.or(Some(fault)), Some(fanout)),
            Err(_) => (watched.or_else(|| Some(Fault::Client("failed: its data thread panicked".into()))), None),
        };
        match fault {
            Some(fault) => self.board.stop(&self.explain(&assigned.client, fault)),
            None => self.board.close(),
        }
        // The state is set before the channels close, and lanes go before their client.
        drop(channels);
        assigned.inbox.lanes.lock().clear();
    }

    /// Polls the main queue until the data thread ends, the shutdown comes, or something stops the topic.
    fn watch<T>(&self, assigned: &mut Assigned, data: &JoinHandle<T>) -> Option<Fault> {
        let (mut doubts, mut wall) = (Doubts::default(), Wall::new());
        let (mut asked, mut listed) = (Instant::now(), Instant::now());
        while !self.shutdown.is_cancelled() && !data.is_finished() {
            match assigned.client.poll(TURN) {
                Some(Ok(message)) => {
                    let partition = message.partition();
                    let text = format!("failed: a record of partition {partition} arrived outside its queue");
                    return Some(Fault::Client(text));
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Some(Fault::Client(Context::take_reason().unwrap_or_else(|| code.to_string())));
                }
                Some(Err(_)) | None => {}
            }
            self.board.refresh();
            let fault = if asked.elapsed() >= WATERMARKS_EVERY {
                asked = Instant::now();
                self.ask_watermarks(assigned, wall.now_us(), &mut doubts)
            } else if listed.elapsed() >= PARTITIONS_EVERY {
                listed = Instant::now();
                self.ask_partitions(assigned, &mut doubts)
            } else {
                None
            };
            if fault.is_some() {
                return fault;
            }
        }
        None
    }

    fn ask_watermarks(&self, assigned: &Assigned, asked_at_us: i64, doubts: &mut Doubts) -> Option<Fault> {
        // Positions first: they may move on while the brokers answer.
        let positions = self.board.positions();
        let high = match client::offsets(&assigned.client, &self.topic, &assigned.partitions, Offset::End, ASK_TIMEOUT)
        {
            Ok(high) => high,
            Err(trouble) => {
                doubts.unanswered += 1;
                if doubts.unanswered >= MISSES {
                    self.board.unreachable(&trouble);
                }
                return None;
            }
        };
        doubts.unanswered = 0;
        self.board.reachable();
        self.board.high_watermarks(&high, asked_at_us);
        let beyond =
            positions.into_iter().find(|(partition, position)| high.get(partition).is_some_and(|h| h < position));
        let Some((partition, position)) = beyond else {
            doubts.beyond_end = 0;
            return None;
        };
        doubts.beyond_end += 1;
        (doubts.beyond_end >= CONFIRMATIONS).then_some(Fault::OutOfRange { partition, position, held: None })
    }

    fn ask_partitions(&self, assigned: &mut Assigned, doubts: &mut Doubts) -> Option<Fault> {
        let found = match client::partitions(&assigned.client, &self.topic, ASK_TIMEOUT) {
            Ok(found) => found.unwrap_or_default(),
            Err(trouble) => {
                debug!(target: "kafka", topic = &*self.topic, %trouble, "partitions not listed");
                return None;
            }
        };
        if let Some(&partition) = assigned.partitions.iter().find(|p| !found.contains(p)) {
            doubts.gone += 1;
            let position = self.board.positions().get(&partition).copied().unwrap_or(0);
            return (doubts.gone >= CONFIRMATIONS).then_some(Fault::Gone { partition, position });
        }
        doubts.gone = 0;
        let new: Vec<i32> = found.into_iter().filter(|p| !assigned.partitions.contains(p)).collect();
        if new.is_empty() {
            return None;
        }
        // What fails here is tried again with the next list.
        let held = watermarks(&assigned.client, &self.topic, &new, ASK_TIMEOUT).ok()?;
        let starts = held.iter().map(|(&partition, held)| (partition, PartitionStatus::at(held.low, held.high)));
        if held.len() == new.len() && self.add(assigned, &starts.collect()).is_ok() {
            info!(target: "kafka", topic = &*self.topic, partitions = ?new, "topic has new partitions");
            assigned.partitions.extend(new);
        }
        None
    }

    /// Adds what the partition holds now to a fault about a lost position.
    fn explain(&self, client: &Client, fault: Fault) -> Fault {
        let Some(partition) = fault.lost_position() else { return fault };
        match watermarks(client, &self.topic, &[partition], ASK_TIMEOUT) {
            Ok(held) => match held.get(&partition) {
                Some(held) => fault.explained(*held),
                None => fault,
            },
            Err(_) => fault,
        }
    }
}

/// A thread that dies must not look alive.
struct StopOnPanic(Arc<Board>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(&Fault::Client("failed: its control thread panicked".into()));
        }
    }
}
