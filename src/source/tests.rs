//! Readers against librdkafka's mock cluster, in process: real protocol, loopback ports.

mod catch_up;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use tokio::sync::mpsc;

use super::{Consumer, Delivery, Kafka, KafkaOptions, Reader, ReaderState, ReaderStatus, Start, resolve_start};
use crate::decode::Records;
use crate::error::Kind;
use crate::task::{Budget, Shutdown};

const DEADLINE: Duration = Duration::from_secs(30);

struct Bench {
    cluster: MockCluster<'static, DefaultProducerContext>,
    kafka: Kafka,
    shutdown: Shutdown,
}

impl Bench {
    fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let options = KafkaOptions { brokers: cluster.bootstrap_servers(), ..KafkaOptions::default() };
        Self { cluster, kafka: Kafka::new(options).unwrap(), shutdown: Shutdown::new() }
    }

    fn produce(&self, topic: &str, partitions: i32, numbers: std::ops::Range<u64>, size: usize) {
        produce(&self.cluster.bootstrap_servers(), topic, partitions, numbers, size);
    }

    fn read(&self, topic: &str, consumers: Vec<Consumer>, budget: &Budget) -> Reader {
        Reader::start(&self.kafka, topic, 7, consumers, &BTreeMap::new(), budget.clone(), &self.shutdown).unwrap()
    }
}

/// Sends numbered payloads, number `n` to partition `n % partitions`, so that its offset is `n / partitions`.
fn produce(brokers: &str, topic: &str, partitions: i32, numbers: std::ops::Range<u64>, size: usize) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).set("linger.ms", "5").create().unwrap();
    for number in numbers {
        let mut payload = number.to_le_bytes().to_vec();
        payload.resize(size.max(8), b'.');
        let partition = (number % partitions as u64) as i32;
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(&payload);
        while let Err((error, back)) = producer.send(record) {
            assert!(error.to_string().contains("Queue full"), "{error}");
            producer.poll(Duration::from_millis(5));
            record = back;
        }
    }
    producer.flush(DEADLINE).unwrap();
}

fn consumer(name: &str, positions: BTreeMap<i32, i64>, capacity: usize) -> (Consumer, mpsc::Receiver<Delivery>) {
    let (sender, receiver) = mpsc::channel(capacity);
    (Consumer { name: name.into(), positions, sender }, receiver)
}

fn wait_for(reader: &Reader, what: &str, wanted: impl Fn(&ReaderStatus) -> bool) -> ReaderStatus {
    let until = Instant::now() + DEADLINE;
    loop {
        let status = reader.status().shared;
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < until, "no {what} in {DEADLINE:?}: {status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn receive(receiver: &mut mpsc::Receiver<Delivery>) -> Delivery {
    let until = Instant::now() + DEADLINE;
    loop {
        match receiver.try_recv() {
            Ok(delivery) => return delivery,
            Err(mpsc::error::TryRecvError::Disconnected) => panic!("the channel was closed"),
            Err(mpsc::error::TryRecvError::Empty) => assert!(Instant::now() < until, "nothing in {DEADLINE:?}"),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checks contiguity as it goes; counts records per partition by the numbers in their payloads.
struct Ledger {
    partitions: i32,
    next: BTreeMap<i32, i64>,
    received: u64,
}

impl Ledger {
    fn new(partitions: i32, positions: &BTreeMap<i32, i64>) -> Self {
        let next = (0..partitions).map(|p| (p, positions.get(&p).copied().unwrap_or(0))).collect();
        Self { partitions, next, received: 0 }
    }

    fn note(&mut self, records: &Records) {
        assert_eq!(records.incarnation, 7);
        let next = self.next.get_mut(&records.partition).unwrap();
        assert_eq!(records.start, *next, "partition {}", records.partition);
        let mut expected = *next;
        for record in records.iter() {
            assert_eq!(record.offset, expected);
            let number = u64::from_le_bytes(record.payload.unwrap()[..8].try_into().unwrap());
            assert_eq!(number, expected as u64 * self.partitions as u64 + records.partition as u64);
            assert!(record.timestamp_us > 1_600_000_000_000_000);
            expected += 1;
        }
        assert_eq!(records.end, expected);
        *next = expected;
        self.received += records.len() as u64;
    }
}

#[test]
fn many_consumers_each_get_exactly_their_suffix() {
    const PARTITIONS: i32 = 8;
    const MESSAGES: u64 = 200_000;
    let bench = Bench::new();
    bench.cluster.create_topic("t", PARTITIONS, 1).unwrap();
    let budget = Budget::new(8 << 20);
    let end = MESSAGES as i64 / i64::from(PARTITIONS);
    let starts = [0, 1_234, 9_990];
    let (mut consumers, mut workers) = (Vec::new(), Vec::new());
    for start in starts {
        let positions: BTreeMap<i32, i64> = (0..PARTITIONS).map(|p| (p, start)).collect();
        let mut ledger = Ledger::new(PARTITIONS, &positions);
        let (consumer, mut receiver) = consumer(&format!("from {start}"), positions, 4);
        consumers.push(consumer);
        workers.push(std::thread::spawn(move || {
            while let Some(Delivery { records, charge, .. }) = receiver.blocking_recv() {
                assert!(charge.bytes() >= records.iter().map(|r| r.payload.unwrap().len()).sum());
                ledger.note(&records);
            }
            ledger
        }));
    }
    // Half before the reader starts, half while it reads.
    bench.produce("t", PARTITIONS, 0..MESSAGES / 2, 8);
    let reader = bench.read("t", consumers, &budget);
    bench.produce("t", PARTITIONS, MESSAGES / 2..MESSAGES, 8);
    let status = wait_for(&reader, "end", |s| {
        s.partitions.len() == PARTITIONS as usize
            && s.partitions.values().all(|p| p.position == end && p.at_end && p.lag() == Some(0))
    });
    assert_eq!(status.state, ReaderState::Reading);
    assert_eq!(status.partitions.values().map(|p| p.records).sum::<u64>(), MESSAGES);
    bench.shutdown.cancel();
    reader.join();
    for (start, worker) in starts.iter().zip(workers) {
        let ledger = worker.join().unwrap();
        assert!(ledger.next.values().all(|next| *next == end));
        assert_eq!(ledger.received, (end - start) as u64 * PARTITIONS as u64);
    }
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn a_consumer_that_does_not_drain_pauses_the_reader_and_it_resumes() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 4, 1).unwrap();
    // Below what the mock cluster keeps per partition.
    const MESSAGES: u64 = 12_000;
    bench.produce("t", 4, 0..MESSAGES, 1_000);
    let budget = Budget::new(2 << 20);
    let (consumer, mut receiver) = consumer("slow", BTreeMap::new(), 1_000);
    let reader = bench.read("t", vec![consumer], &budget);
    wait_for(&reader, "pause", |s| s.state == ReaderState::Paused);
    // The budget may be passed by the one batch that was begun while there was room.
    let bound = budget.limit_bytes() + (1 << 20) + 5_000 * 100;
    assert!(budget.used_bytes() >= budget.limit_bytes() && budget.used_bytes() <= bound, "{}", budget.used_bytes());
    let mut ledger = Ledger::new(4, &BTreeMap::new());
    while ledger.received < MESSAGES {
        assert!(budget.used_bytes() <= bound, "{}", budget.used_bytes());
        ledger.note(&receive(&mut receiver).records);
    }
    wait_for(&reader, "resume", |s| s.state == ReaderState::Reading);
}

#[test]
fn a_full_channel_pauses_too_and_a_shutdown_ends_the_wait() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 1, 1).unwrap();
    bench.produce("t", 1, 0..20_000, 100);
    let (consumer, mut receiver) = consumer("stuck", BTreeMap::new(), 1);
    let reader = bench.read("t", vec![consumer], &Budget::new(100 << 20));
    wait_for(&reader, "pause", |s| s.state == ReaderState::Paused);
    let told = Instant::now();
    bench.shutdown.cancel();
    reader.join();
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    let mut ledger = Ledger::new(1, &BTreeMap::new());
    while let Some(delivery) = receiver.blocking_recv() {
        ledger.note(&delivery.records);
    }
}

#[test]
fn a_missing_topic_is_waited_for() {
    let bench = Bench::new();
    let (consumer, mut receiver) = consumer("c", BTreeMap::new(), 10);
    let reader = bench.read("late", vec![consumer], &Budget::new(1 << 20));
    wait_for(&reader, "wait", |s| s.state == ReaderState::WaitingForTopic);
    assert_eq!(bench.kafka.partitions("late").unwrap(), None);
    bench.cluster.create_topic("late", 2, 1).unwrap();
    let status = wait_for(&reader, "empty topic read to its end", |s| {
        s.partitions.len() == 2 && s.partitions.values().all(|p| p.at_end)
    });
    assert_eq!((status.state, status.partitions[&0].position), (ReaderState::Reading, 0));
    bench.produce("late", 2, 0..10, 8);
    let mut ledger = Ledger::new(2, &BTreeMap::new());
    while ledger.received < 10 {
        ledger.note(&receive(&mut receiver).records);
    }
}

#[test]
fn a_broker_that_is_down_is_waited_for_at_the_start_and_later() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 1, 1).unwrap();
    bench.produce("t", 1, 0..10, 8);
    bench.cluster.broker_down(-1).unwrap();
    let (consumer, mut receiver) = consumer("c", BTreeMap::new(), 10);
    let reader = bench.read("t", vec![consumer], &Budget::new(1 << 20));
    let status = wait_for(&reader, "outage", |s| s.state == ReaderState::Unreachable);
    assert!(status.error.unwrap().contains("cannot be reached"));
    bench.cluster.broker_up(-1).unwrap();
    let mut ledger = Ledger::new(1, &BTreeMap::new());
    while ledger.received < 10 {
        ledger.note(&receive(&mut receiver).records);
    }
    wait_for(&reader, "recovery", |s| s.state == ReaderState::Reading);
    bench.cluster.broker_down(-1).unwrap();
    wait_for(&reader, "second outage", |s| s.state == ReaderState::Unreachable);
    bench.cluster.broker_up(-1).unwrap();
    bench.produce("t", 1, 10..20, 8);
    while ledger.received < 20 {
        ledger.note(&receive(&mut receiver).records);
    }
    wait_for(&reader, "second recovery", |s| s.state == ReaderState::Reading && s.error.is_none());
}

#[test]
fn a_shutdown_ends_the_threads_while_the_broker_is_down() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 3, 1).unwrap();
    let (consumer, mut receiver) = consumer("c", BTreeMap::new(), 10);
    let reader = bench.read("t", vec![consumer], &Budget::new(1 << 20));
    wait_for(&reader, "end", |s| s.partitions.len() == 3 && s.partitions.values().all(|p| p.at_end));
    bench.cluster.broker_down(-1).unwrap();
    wait_for(&reader, "outage", |s| s.state == ReaderState::Unreachable);
    let told = Instant::now();
    reader.stop();
    assert!(receiver.blocking_recv().is_none());
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    assert_eq!(reader.status().shared.state, ReaderState::Closed);
    reader.join();
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
}

#[test]
fn a_position_beyond_the_end_stops_the_topic_with_the_way_out() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 2, 1).unwrap();
    bench.produce("t", 2, 0..10, 8);
    let (consumer, mut receiver) = consumer("c", BTreeMap::from([(0, 0), (1, 500)]), 10);
    let reader = bench.read("t", vec![consumer], &Budget::new(1 << 20));
    let status = wait_for(&reader, "stop", |s| s.state == ReaderState::Stopped);
    let error = status.error.unwrap();
    for part in ["\"t\"", "partition 1", "position 500", "0 to 4", "millpond ingest seek"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    while let Some(delivery) = receiver.blocking_recv() {
        assert_eq!(delivery.records.partition, 0);
    }
}

#[test]
fn a_position_that_retention_has_overtaken_stops_the_topic() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 1, 1).unwrap();
    // The mock cluster keeps 5 MiB per partition.
    bench.produce("t", 1, 0..800, 10_000);
    let low = bench.kafka.watermarks("t", &[0]).unwrap()[&0].low;
    assert!(low > 0);
    let (late, mut receiver) = consumer("c", BTreeMap::from([(0, low - 1)]), 10);
    let reader = bench.read("t", vec![late], &Budget::new(1 << 20));
    let status = wait_for(&reader, "stop", |s| s.state == ReaderState::Stopped);
    let error = status.error.unwrap();
    for part in [format!("position {} is below", low - 1), format!("{low} to 799"), "millpond ingest seek".into()] {
        assert!(error.contains(&part), "{part}: {error}");
    }
    assert!(receiver.blocking_recv().is_none());
    // A consumer without a position begins at the beginning, which is not 0 here.
    let (new, mut receiver) = consumer("new", BTreeMap::new(), 10);
    let _reader = bench.read("t", vec![new], &Budget::new(1 << 20));
    assert_eq!(receive(&mut receiver).records.start, low);
}

#[test]
fn a_partition_that_is_gone_stops_the_topic() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 1, 1).unwrap();
    let (consumer, mut receiver) = consumer("c", BTreeMap::from([(0, 0), (5, 9)]), 10);
    let reader = bench.read("t", vec![consumer], &Budget::new(1 << 20));
    let status = wait_for(&reader, "stop", |s| s.state == ReaderState::Stopped);
    assert!(status.error.unwrap().contains("partition 5 no longer exists (position 9)"));
    assert!(receiver.blocking_recv().is_none());
}

#[test]
fn large_messages_keys_headers_and_tombstones_arrive_whole() {
    use rdkafka::message::{Header, OwnedHeaders};
    let bench = Bench::new();
    bench.cluster.create_topic("t", 2, 1).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bench.cluster.bootstrap_servers())
        .set("message.max.bytes", "20000000")
        .create()
        .unwrap();
    let large = vec![b'x'; 11 << 20];
    producer.send(BaseRecord::<[u8], [u8]>::to("t").partition(0).payload(&large)).map_err(|e| e.0).unwrap();
    producer.flush(DEADLINE).unwrap();
    let (consumer, mut receiver) = consumer("c", BTreeMap::new(), 10);
    let reader = bench.read("t", vec![consumer], &Budget::new(1 << 20));
    let delivery = receive(&mut receiver);
    assert_eq!(delivery.records.iter().next().unwrap().payload.unwrap().len(), large.len());
    drop(delivery);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("abc") })
        .insert(Header { key: "none", value: None::<&str> });
    // Elsewhere: the mock cluster keeps 5 MiB per partition.
    let tombstone = BaseRecord::<[u8], [u8]>::to("t").partition(1).key(b"k").headers(headers);
    producer.send(tombstone).map_err(|e| e.0).unwrap();
    producer.flush(DEADLINE).unwrap();
    let delivery = receive(&mut receiver);
    let record = delivery.records.iter().next().unwrap();
    assert_eq!((record.offset, record.key, record.payload), (0, Some(&b"k"[..]), None));
    assert_eq!(record.headers[0].name, "trace");
    assert_eq!(record.headers[0].value.as_deref(), Some(&b"abc"[..]));
    assert_eq!((record.headers[1].name.as_str(), &record.headers[1].value), ("none", &None));
    assert_eq!(reader.status().shared.state, ReaderState::Reading);
}

#[test]
fn starts_are_resolved_only_where_nothing_is_known() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 3, 1).unwrap();
    bench.produce("t", 3, 0..30, 8);
    assert_eq!(bench.kafka.partitions("t").unwrap(), Some(vec![0, 1, 2]));
    assert!(bench.kafka.cluster_id(DEADLINE).unwrap().is_some());
    let known = BTreeMap::from([(1, 4)]);
    let resolve = |start| resolve_start(&bench.kafka, "t", &[0, 1, 2], &known, start).unwrap();
    assert_eq!(resolve(Start::Earliest), BTreeMap::from([(0, 0), (1, 4), (2, 0)]));
    assert_eq!(resolve(Start::Latest), BTreeMap::from([(0, 10), (1, 4), (2, 10)]));
    // The mock cluster finds nothing by time: behind the end, then.
    assert_eq!(resolve(Start::AtMillis(1)), BTreeMap::from([(0, 10), (1, 4), (2, 10)]));
    let error = resolve_start(&bench.kafka, "t", &[0, 9], &known, Start::Earliest).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

#[test]
fn a_reader_without_consumers_left_closes() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", 1, 1).unwrap();
    let (consumer, receiver) = consumer("c", BTreeMap::new(), 1);
    let reader = bench.read("t", vec![consumer], &Budget::new(1 << 20));
    drop(receiver);
    bench.produce("t", 1, 0..1, 8);
    wait_for(&reader, "close", |s| s.state == ReaderState::Closed);
}
