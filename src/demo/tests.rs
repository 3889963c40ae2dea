use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::*;
use crate::task::Shutdown;

const DEADLINE: Duration = Duration::from_secs(60);

type Positions = Arc<HashMap<(&'static str, i32), AtomicI64>>;

fn positions() -> (Positions, Progress) {
    let all = TOPICS.iter().flat_map(|&(topic, count)| (0..count).map(move |partition| (topic, partition)));
    let positions: Positions = Arc::new(all.map(|place| (place, AtomicI64::new(0))).collect());
    let read = positions.clone();
    let progress = move |topic: &str, partition: i32| {
        let place = TOPICS.iter().find(|(name, _)| *name == topic).map(|(name, _)| (*name, partition))?;
        read.get(&place).map(|position| position.load(Ordering::Relaxed))
    };
    (positions, Arc::new(progress))
}

fn consumer(brokers: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    for (topic, count) in TOPICS {
        for partition in 0..count {
            all.add_partition_offset(topic, partition, Offset::Offset(0)).unwrap();
        }
    }
    consumer.assign(&all).unwrap();
    consumer
}

/// Waits until the fleet has waited for its reader so many times.
fn wait_for_stalls(simulator: &Simulator, stalls: u64) {
    let deadline = Instant::now() + DEADLINE;
    while simulator.counters().stalls() < stalls {
        assert!(Instant::now() < deadline && !simulator.is_finished());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// 140,000 messages are three times what the broker keeps: a reader that is never left behind sees every one of them,
/// in order.
#[test]
fn a_following_reader_loses_nothing_and_the_ledger_agrees() {
    const COUNT: u64 = 140_000;
    let broker = Broker::start(&TOPICS).unwrap();
    let (positions, progress) = positions();
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.csv");
    let options = SimulateOptions {
        count: Some(COUNT),
        progress: Some(progress),
        ledger: Some(ledger.clone()),
        ..SimulateOptions::new(broker.brokers())
    };
    let simulator = Simulator::start(options, &Shutdown::new()).unwrap();
    let consumer = consumer(&broker.brokers());
    let deadline = Instant::now() + DEADLINE;
    wait_for_stalls(&simulator, 1);
    let mut read = Vec::new();
    while (read.len() as u64) < COUNT {
        assert!(Instant::now() < deadline, "{} of {COUNT} after {DEADLINE:?}", read.len());
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        let (place, position) = positions.get_key_value(&(message.topic(), message.partition())).unwrap();
        assert_eq!(message.offset(), position.load(Ordering::Relaxed), "{place:?}");
        position.store(message.offset() + 1, Ordering::Relaxed);
        let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
        let crc = delivery::crc32(message.payload().unwrap());
        read.push(format!("{},{},{},{key},{crc}", message.topic(), message.partition(), message.offset()));
    }
    let summary = simulator.join().unwrap();
    assert_eq!((summary.messages, summary.failures), (COUNT, 0));
    assert!(summary.bytes > 3 * 5 * 6 * 900_000, "{summary}");
    let ledger = std::fs::read_to_string(ledger).unwrap();
    let mut lines: Vec<_> = ledger.lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    read.sort();
    assert!(lines == read);
}

#[test]
fn a_reader_that_stands_still_stalls_the_fleet_before_the_broker_forgets() {
    let broker = Broker::start(&TOPICS).unwrap();
    let (_, progress) = positions();
    let options = SimulateOptions { progress: Some(progress), ..SimulateOptions::new(broker.brokers()) };
    let shutdown = Shutdown::new();
    let simulator = Simulator::start(options, &shutdown).unwrap();
    let counters = simulator.counters();
    wait_for_stalls(&simulator, 100);
    let consumer = consumer(&broker.brokers());
    for (topic, count) in TOPICS {
        for partition in 0..count {
            assert_eq!(consumer.fetch_watermarks(topic, partition, DEADLINE).unwrap().0, 0);
        }
    }
    assert!(counters.messages() > 1000 && counters.bytes() <= AHEAD_BYTES * 9);
    shutdown.cancel();
    let summary = simulator.join().unwrap();
    assert_eq!((summary.messages, summary.failures), (counters.messages(), 0));
}

#[test]
fn the_rate_is_kept() {
    let broker = Broker::start(&TOPICS).unwrap();
    let options = SimulateOptions { rate: 2000, count: Some(2000), ..SimulateOptions::new(broker.brokers()) };
    let summary = simulate(&options, &Shutdown::new()).unwrap();
    assert_eq!(summary.messages, 2000);
    // Never faster; how much slower is the machine's business.
    assert!(summary.elapsed >= Duration::from_millis(950), "{summary}");
}

#[test]
fn brokers_that_are_not_there_are_an_error_that_says_so() {
    let brokers = {
        let broker = Broker::start(&TOPICS).unwrap();
        broker.brokers()
    };
    let error = simulate(&SimulateOptions::new(brokers), &Shutdown::new()).unwrap_err();
    assert_eq!(error.kind(), crate::error::Kind::Unavailable);
}
