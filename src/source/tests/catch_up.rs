//! A consumer that is far behind, and those that must not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::source::TopicStatus;

const PARTITIONS: i32 = 4;
/// Far more per partition than those who share a reader are apart.
const BACKLOG: u64 = 100_000;

fn all_at(position: i64) -> BTreeMap<i32, i64> {
    (0..PARTITIONS).map(|partition| (partition, position)).collect()
}

fn per_partition(records: u64) -> i64 {
    records as i64 / i64::from(PARTITIONS)
}

fn wait_for_topic(reader: &Reader, what: &str, wanted: impl Fn(&TopicStatus) -> bool) {
    let until = Instant::now() + DEADLINE;
    while !wanted(&reader.status()) {
        assert!(Instant::now() < until, "no {what} in {DEADLINE:?}: {:?}", reader.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_behind(status: &TopicStatus, consumer: &str) -> bool {
    status.consumers[consumer].is_some()
}

/// Receives until `received` records are in the ledger.
fn receive_until(receiver: &mut mpsc::Receiver<Delivery>, ledger: &mut Ledger, received: u64) {
    while ledger.received < received {
        ledger.note(&receive(receiver).records);
    }
}

/// Receives until the channel closes.
fn drain(mut receiver: mpsc::Receiver<Delivery>, mut ledger: Ledger) -> std::thread::JoinHandle<Ledger> {
    std::thread::spawn(move || {
        while let Some(delivery) = receiver.blocking_recv() {
            ledger.note(&delivery.records);
        }
        ledger
    })
}

#[test]
fn a_consumer_far_behind_holds_up_nobody_and_joins() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", PARTITIONS, 1).unwrap();
    bench.produce("t", PARTITIONS, 0..BACKLOG, 8);
    let at_end = all_at(per_partition(BACKLOG));
    let (fresh, mut to_fresh) = consumer("fresh", at_end.clone(), 64);
    let (late, to_late) = consumer("late", BTreeMap::new(), 2);
    let budget = Budget::new(64 << 20);
    let reader = bench.read("t", vec![late, fresh], &budget);
    wait_for_topic(&reader, "catching up", |s| s.of("late").unwrap().state == ReaderState::CatchingUp);
    assert!(reader.status().of("nobody").is_none());

    // Nobody works for `late`: it stands still, and `fresh` goes on.
    let mut fresh = Ledger::new(PARTITIONS, &at_end);
    bench.produce("t", PARTITIONS, BACKLOG..BACKLOG + 1_000, 8);
    receive_until(&mut to_fresh, &mut fresh, 1_000);
    let status = reader.status();
    let position = |consumer| status.of(consumer).unwrap().partitions.values().map(|p| p.position).sum::<i64>();
    assert!(is_behind(&status, "late") && !is_behind(&status, "fresh"));
    assert!(position("late") < BACKLOG as i64 / 2, "{status:?}");
    assert!(position("fresh") >= BACKLOG as i64);

    let late = drain(to_late, Ledger::new(PARTITIONS, &BTreeMap::new()));
    wait_for_topic(&reader, "join", |s| !is_behind(s, "late"));
    bench.produce("t", PARTITIONS, BACKLOG + 1_000..BACKLOG + 2_000, 8);
    receive_until(&mut to_fresh, &mut fresh, 2_000);
    let end = per_partition(BACKLOG + 2_000);
    wait_for(&reader, "end", |s| s.partitions.values().all(|p| p.position == end));
    bench.shutdown.cancel();
    reader.join();
    let late = late.join().unwrap();
    assert_eq!((late.received, late.next), (BACKLOG + 2_000, all_at(end)));
    assert_eq!((fresh.received, fresh.next), (2_000, all_at(end)));
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn many_join_while_records_keep_coming() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", PARTITIONS, 1).unwrap();
    bench.produce("t", PARTITIONS, 0..BACKLOG, 8);
    let starts = [0, 3_000, 12_000, per_partition(BACKLOG)];
    let (mut consumers, mut workers) = (Vec::new(), Vec::new());
    for start in starts {
        let (consumer, receiver) = consumer(&format!("from {start}"), all_at(start), 8);
        consumers.push(consumer);
        workers.push(drain(receiver, Ledger::new(PARTITIONS, &all_at(start))));
    }
    let reader = bench.read("t", consumers, &Budget::new(64 << 20));
    let joined = Arc::new(AtomicBool::new(false));
    let (brokers, stop) = (bench.cluster.bootstrap_servers(), joined.clone());
    let producing = std::thread::spawn(move || {
        let mut sent = BACKLOG;
        while !stop.load(Ordering::Relaxed) {
            produce(&brokers, "t", PARTITIONS, sent..sent + 400, 8);
            sent += 400;
        }
        sent
    });
    wait_for_topic(&reader, "join", |s| !starts.iter().any(|start| is_behind(s, &format!("from {start}"))));
    joined.store(true, Ordering::Relaxed);
    let sent = producing.join().unwrap();
    bench.produce("t", PARTITIONS, sent..sent + 400, 8);
    let end = per_partition(sent + 400);
    wait_for(&reader, "end", |s| s.partitions.len() == 4 && s.partitions.values().all(|p| p.position == end));
    bench.shutdown.cancel();
    reader.join();
    for (start, worker) in starts.iter().zip(workers) {
        let ledger = worker.join().unwrap();
        assert_eq!((ledger.received, ledger.next), ((end - start) as u64 * PARTITIONS as u64, all_at(end)));
    }
}

#[test]
fn a_fault_while_catching_up_stops_that_consumer_only() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", PARTITIONS, 1).unwrap();
    bench.produce("t", PARTITIONS, 0..BACKLOG, 8);
    let at_end = all_at(per_partition(BACKLOG));
    let (fresh, mut to_fresh) = consumer("fresh", at_end.clone(), 64);
    let mut lost = all_at(0);
    lost.insert(9, 0);
    let (late, mut to_late) = consumer("late", lost, 64);
    let reader = bench.read("t", vec![fresh, late], &Budget::new(64 << 20));
    wait_for_topic(&reader, "stop", |s| s.of("late").unwrap().state == ReaderState::Stopped);
    let error = reader.status().of("late").unwrap().error.clone().unwrap();
    assert!(error.contains("\"t\"") && error.contains("partition 9 no longer exists"), "{error}");
    assert!(to_late.blocking_recv().is_none());
    bench.produce("t", PARTITIONS, BACKLOG..BACKLOG + 1_000, 8);
    receive_until(&mut to_fresh, &mut Ledger::new(PARTITIONS, &at_end), 1_000);
    let status = reader.status();
    assert_eq!((status.shared.state, status.shared.error), (ReaderState::Reading, None));
}

#[test]
fn a_shutdown_ends_the_readers_of_all() {
    let bench = Bench::new();
    bench.cluster.create_topic("t", PARTITIONS, 1).unwrap();
    bench.produce("t", PARTITIONS, 0..BACKLOG, 8);
    let (fresh, mut to_fresh) = consumer("fresh", all_at(per_partition(BACKLOG)), 1);
    let (late, to_late) = consumer("late", BTreeMap::new(), 1);
    let reader = bench.read("t", vec![fresh, late], &Budget::new(64 << 20));
    wait_for_topic(&reader, "work", |s| {
        s.of("late").unwrap().partitions.values().any(|p| p.position > 0) && s.shared.state == ReaderState::Reading
    });
    let told = Instant::now();
    bench.shutdown.cancel();
    reader.join();
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert!(to_fresh.blocking_recv().is_none());
    let late = drain(to_late, Ledger::new(PARTITIONS, &BTreeMap::new())).join().unwrap();
    assert!(late.received > 0 && late.received < BACKLOG, "{}", late.received);
}
