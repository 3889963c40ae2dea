//! Produces a fleet's messages to Kafka: at a rate, up to a count, never too far ahead of a reader.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::TOPICS;
use super::delivery::{Counters, Deliveries, Ledger, Progress, size_bytes};
use super::fleet::{Fleet, FleetOptions, Message};
use super::topics;
use crate::error::{Error, Kind, Result};
use crate::task::Shutdown;

/// Messages between two looks at delivery reports while nothing has to be waited for.
const POLL_EVERY: u64 = 16;
const WAIT: Duration = Duration::from_millis(2);
/// Delivery reports (one per batch of a partition) taken after a wait.
const REPORTS: usize = 32;
/// Backlog of a rate that is caught up with; what a longer stall missed is not.
const CATCH_UP: Duration = Duration::from_millis(200);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Memory of messages the broker has not taken yet.
const QUEUE_KBYTES: &str = "65536";

/// What to simulate, and where to.
#[derive(Clone)]
pub struct SimulateOptions {
    /// Addresses for `bootstrap.servers`.
    pub brokers: String,
    /// Further librdkafka properties.
    pub properties: Vec<(String, String)>,
    /// The fleet.
    pub fleet: FleetOptions,
    /// Messages per second; 0: as many as possible.
    pub rate: u64,
    /// Stop after so many messages; `None`: when told.
    pub count: Option<u64>,
    /// Stay within [`super::AHEAD_BYTES`] of this reader: needed for the embedded broker only.
    pub progress: Option<Progress>,
    /// Write each delivered message's `topic,partition,offset,key,crc32` to this CSV file.
    pub ledger: Option<PathBuf>,
}

impl SimulateOptions {
    /// The default fleet, as fast as possible, without end.
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            properties: Vec::new(),
            fleet: FleetOptions::default(),
            rate: 0,
            count: None,
            progress: None,
            ledger: None,
        }
    }
}

/// What a finished simulation did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Messages the broker took.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Messages the broker did not take.
    pub failures: u64,
    /// From the first message to the last delivery.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(0.001);
        let (messages, failures) = (self.messages, self.failures);
        let (megabytes, rate) = (self.bytes as f64 / 1e6, messages as f64 / seconds);
        write!(f, "{messages} messages, {megabytes:.1} MB in {seconds:.1} s ({rate:.0}/s), {failures} not delivered")
    }
}

/// A simulation on a thread of its own.
#[derive(Debug)]
pub struct Simulator {
    counters: Arc<Counters>,
    shutdown: Shutdown,
    thread: Option<JoinHandle<Result<Summary>>>,
}

impl Simulator {
    /// Starts to produce until `shutdown`, or until `options.count` is reached.
    pub fn start(options: SimulateOptions, shutdown: &Shutdown) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let shutdown = shutdown.child_token();
        let (counted, stop) = (counters.clone(), shutdown.clone());
        let thread = thread::Builder::new()
            .name("demo-fleet".to_owned())
            .spawn(move || run(&options, counted, &stop))
            .map_err(|error| Error::new(Kind::Internal, "the simulator's thread did not start").because(error))?;
        Ok(Self { counters, shutdown, thread: Some(thread) })
    }

    /// What it has done so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Whether it has ended, by itself or by an error.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until it ends (it does after a shutdown, or when the count is reached). Blocks the thread.
    pub fn join(mut self) -> Result<Summary> {
        let died = || Error::new(Kind::Internal, "the simulator's thread panicked");
        self.thread.take().map_or_else(|| Err(died()), |thread| thread.join().unwrap_or_else(|_| Err(died())))
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // After `join` there is no thread left to stop.
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take()
            && !matches!(thread.join(), Ok(Ok(_)))
        {
            tracing::warn!("the simulator ended with an error");
        }
    }
}

/// Produces on the calling thread until `shutdown`, or until `options.count` is reached.
pub fn simulate(options: &SimulateOptions, shutdown: &Shutdown) -> Result<Summary> {
    run(options, Arc::new(Counters::default()), shutdown)
}

fn run(options: &SimulateOptions, counters: Arc<Counters>, shutdown: &Shutdown) -> Result<Summary> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.brokers)
        .set("client.id", "millpond-simulator")
        // The order within a partition is kept, and a retry is not written twice, so the ledger is complete.
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("queue.buffering.max.kbytes", QUEUE_KBYTES);
    for (name, value) in &options.properties {
        config.set(name, value);
    }
    let ledger = options.ledger.as_deref().map(Ledger::create).transpose()?;
    let producer: BaseProducer<Deliveries> = config
        .create_with_context(Deliveries::new(counters.clone(), ledger))
        .map_err(|error| Error::new(Kind::Usage, "the simulator's Kafka client refused its settings").because(error))?;
    let partitions = topics::ensure(&producer, &config, &TOPICS)?;
    if options.progress.is_some() {
        producer.context().track(partitions.iter().map(|&count| count.unsigned_abs() as usize).sum());
    }
    let started = Instant::now();
    let outlet = Outlet { producer, partitions, progress: options.progress.clone(), shutdown: shutdown.clone() };
    outlet.produce(options)?;
    // Messages that no broker took in time are failures, counted by their delivery reports.
    if let Err(error) = outlet.producer.flush(FLUSH_TIMEOUT) {
        tracing::warn!(%error, "some messages were not delivered before the simulator ended");
    }
    outlet.producer.context().finish()?;
    Ok(Summary {
        messages: counters.messages(),
        bytes: counters.bytes(),
        failures: counters.failures() + u64::try_from(outlet.producer.in_flight_count()).unwrap_or(0),
        elapsed: started.elapsed(),
    })
}

/// Where messages leave.
struct Outlet {
    producer: BaseProducer<Deliveries>,
    /// Partition counts of [`TOPICS`].
    partitions: Vec<i32>,
    progress: Option<Progress>,
    shutdown: Shutdown,
}

impl Outlet {
    fn produce(&self, options: &SimulateOptions) -> Result<()> {
        let mut fleet = Fleet::new(options.fleet.clone());
        let mut pace = Pace::new(options.rate);
        let mut sent = 0;
        while options.count.is_none_or(|count| sent < count) {
            while !pace.is_due() {
                if !self.wait() {
                    return Ok(());
                }
            }
            if !self.send(&fleet.next_message(now_us()))? {
                return Ok(());
            }
            sent += 1;
            if sent.is_multiple_of(POLL_EVERY) {
                self.producer.poll(Duration::ZERO);
                if self.shutdown.is_cancelled() || !self.producer.context().is_sound() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Sends a message when there is room for it; false if told to stop meanwhile.
    fn send(&self, message: &Message) -> Result<bool> {
        let (partition, lane) = self.place(message);
        let bytes = size_bytes(message.key.as_bytes(), &message.payload);
        let context = self.producer.context();
        if let Some(progress) = &self.progress {
            let has_room = || {
                context.lane(lane, |lane| lane.has_room(bytes, || progress(message.topic, partition))).unwrap_or(true)
            };
            while !has_room() {
                context.counters.count_stall();
                if !self.wait() {
                    return Ok(false);
                }
            }
        }
        loop {
            let record = BaseRecord::with_opaque_to(message.topic, lane)
                .partition(partition)
                .key(message.key.as_bytes())
                .payload(&message.payload[..])
                .timestamp(message.timestamp_ms);
            match self.producer.send(record) {
                Ok(()) => {
                    context.lane(lane, |lane| lane.sent(bytes));
                    return Ok(true);
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    if !self.wait() {
                        return Ok(false);
                    }
                }
                Err((error, _)) => {
                    return Err(Error::new(Kind::Unavailable, "the simulator cannot produce").because(error));
                }
            }
        }
    }

    /// Waits a little, and takes delivery reports; false if told to stop.
    fn wait(&self) -> bool {
        // Not `poll(WAIT)`: it rounds down to milliseconds and spins through the last one.
        thread::sleep(WAIT);
        for _ in 0..REPORTS {
            self.producer.poll(Duration::ZERO);
        }
        !self.shutdown.is_cancelled()
    }

    /// A message's partition, and the index of its lane.
    fn place(&self, message: &Message) -> (i32, usize) {
        let mut first = 0;
        for ((topic, _), &count) in TOPICS.iter().zip(&self.partitions) {
            if *topic == message.topic {
                let partition = topics::partition_of(message.key.as_bytes(), count);
                return (partition, first + partition.unsigned_abs() as usize);
            }
            first += count.unsigned_abs() as usize;
        }
        (0, 0)
    }
}

/// When the next message is due.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    /// `rate` messages a second; 0: always due.
    fn new(rate: u64) -> Self {
        let interval = if rate == 0 { Duration::ZERO } else { Duration::from_secs_f64(1.0 / rate as f64) };
        Self { interval, next: Instant::now() }
    }

    /// Whether a message is due; if so, the following one is due an interval later.
    fn is_due(&mut self) -> bool {
        if self.interval.is_zero() {
            return true;
        }
        let now = Instant::now();
        if now < self.next {
            return false;
        }
        if now - self.next > CATCH_UP {
            self.next = now - CATCH_UP;
        }
        self.next += self.interval;
        true
    }
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}
