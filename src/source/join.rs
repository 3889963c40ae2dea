//! A consumer far behind the others reads with a reader of its own, and joins the shared one when it is near.
//!
//! ```text
//! catch-up reader                                       shared reader
//! near in every partition ─────── asks ───────▶ holds still between two batches, says its positions
//! reads on until it is below none of them ────▶ takes the consumer in, goes on
//! ```
//!
//! The consumer may arrive ahead: the fan-out leaves out what lies below a consumer's own position, so each record
//! is handed out once and batches stay contiguous. A hold ends after [`PATIENCE`] whatever the consumer does, and
//! when the catch-up reader ends; it is asked for only while the consumer keeps up, and never twice in a row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::debug;

use super::fanout::{Consumer, Fanout};
use super::kafka::Watermarks;
use super::pump::Bell;
use super::status::Board;
use crate::task::{Budget, Shutdown};

/// Who is no more records than this behind in every partition shares a reader: they are read again in an instant.
const NEAR: i64 = 10_000;
/// How long the shared reader holds still at most.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between a hold that was given up and the next.
const REST: Duration = Duration::from_secs(10);
/// How long a hold lasts before the shutdown is looked at.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);

/// Consumers of a topic, by the reader they get.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// They share one. Somebody always does.
    pub near: Vec<Consumer>,
    /// Far behind those: each has its own until it is near.
    pub behind: Vec<Consumer>,
    /// Kafka does not hold what they read next: each has its own, which stops. Others would stop with it, or carry it
    /// over records that it was never given.
    pub lost: Vec<Consumer>,
}

/// Groups consumers of a topic whose partitions hold what `held` says; of which nothing is known if that is empty.
pub(super) fn group(consumers: Vec<Consumer>, held: &BTreeMap<i32, Watermarks>) -> Groups {
    let is_held = |(partition, position): (&i32, &i64)| {
        held.get(partition).is_some_and(|held| (held.low..=held.high).contains(position))
    };
    let is_lost = |consumer: &Consumer| !held.is_empty() && !consumer.positions.iter().all(is_held);
    let (lost, found): (Vec<_>, Vec<_>) = consumers.into_iter().partition(is_lost);
    if found.is_empty() {
        return Groups { near: lost, ..Groups::default() };
    }
    let (near, behind) = by_distance(found);
    Groups { near, behind, lost }
}

fn by_distance(consumers: Vec<Consumer>) -> (Vec<Consumer>, Vec<Consumer>) {
    let mut furthest: BTreeMap<i32, i64> = BTreeMap::new();
    for (&partition, &position) in consumers.iter().flat_map(|consumer| &consumer.positions) {
        let furthest = furthest.entry(partition).or_default();
        *furthest = position.max(*furthest);
    }
    // A partition without a position is read from its beginning.
    let distances = |consumer: &Consumer| -> Vec<i64> {
        let position = |partition| consumer.positions.get(partition).copied().unwrap_or(0);
        furthest.iter().map(|(partition, furthest)| furthest - position(partition)).collect()
    };
    let (mut near, mut behind): (Vec<_>, Vec<_>) =
        consumers.into_iter().partition(|consumer| distances(consumer).iter().all(|distance| *distance <= NEAR));
    if near.is_empty() {
        // Each is ahead somewhere and behind elsewhere: the others wait for whoever has least to read.
        let lead = (0..behind.len()).min_by_key(|&index| distances(&behind[index]).iter().sum::<i64>());
        near.extend(lead.map(|lead| behind.swap_remove(lead)));
    }
    (near, behind)
}

/// Where the catch-up readers of one topic meet the shared one.
pub(super) struct Junction {
    shared: Arc<Board>,
    bell: Arc<Bell>,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    /// Nobody asks, and nobody may before this moment.
    Idle(Option<Instant>),
    /// A catch-up reader waits for the shared one to hold still.
    Asked,
    /// The shared reader holds still at these positions.
    Held(BTreeMap<i32, i64>),
    /// Consumers on their way.
    Given(Vec<Consumer>),
}

impl Default for State {
    fn default() -> Self {
        Self::Idle(None)
    }
}

impl Junction {
    /// A junction with the reader that writes its positions to `shared`.
    pub(super) fn new(shared: Arc<Board>) -> Self {
        Self { shared, bell: Arc::default(), patience: PATIENCE, state: Mutex::default(), changed: Condvar::new() }
    }

    /// What wakes the shared reader's data thread.
    pub(super) fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// For the shared data thread, between two batches: if somebody asked, holds still at `positions` until a
    /// consumer arrives, and returns it. Returns without one if nobody asked, or the hold ended in another way.
    pub(super) fn hold(&self, positions: impl FnOnce() -> BTreeMap<i32, i64>, shutdown: &Shutdown) -> Vec<Consumer> {
        let mut state = self.state.lock();
        if !matches!(*state, State::Asked) {
            return Vec::new();
        }
        *state = State::Held(positions());
        let began = Instant::now();
        while matches!(*state, State::Held(_)) && !shutdown.is_cancelled() {
            let left = self.patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                debug!(target: "kafka", "a consumer did not catch up in time, trying again later");
                *state = State::Idle(Some(Instant::now() + REST));
                return Vec::new();
            }
            self.changed.wait_for(&mut state, left.min(LOOK_UP_EVERY));
        }
        match std::mem::take(&mut *state) {
            State::Given(consumers) => consumers,
            State::Idle(_) | State::Asked | State::Held(_) => Vec::new(),
        }
    }

    /// For a catch-up data thread, between two batches: true once the shared reader has the consumers of `fanout`,
    /// and there is nothing left to do. Asks for it when they are near, and have room for what comes until then.
    pub(super) fn join(&self, fanout: &mut Fanout, budget: &Budget) -> bool {
        let mut state = self.state.lock();
        match &*state {
            State::Held(positions) if behind(fanout, positions).is_some_and(|distance| distance <= 0) => {
                *state = State::Given(std::mem::take(fanout).into_consumers());
                self.changed.notify_all();
                return true;
            }
            State::Idle(rest) if rest.is_none_or(|until| Instant::now() >= until) => {
                let near = behind(fanout, &self.shared.positions()).is_some_and(|distance| distance <= NEAR);
                if near && fanout.has_room() && budget.wait_for_room(Duration::ZERO) {
                    *state = State::Asked;
                    self.bell.ring();
                }
            }
            State::Idle(_) | State::Asked | State::Held(_) | State::Given(_) => {}
        }
        false
    }

    /// For a catch-up data thread that ends in another way: lets the shared reader go on. Should somebody else have
    /// asked meanwhile, they ask again.
    pub(super) fn leave(&self) {
        let mut state = self.state.lock();
        if matches!(*state, State::Asked | State::Held(_)) {
            *state = State::default();
            self.changed.notify_all();
        }
    }
}

/// How far `fanout` is behind `positions` where it is furthest behind; `None` if it does not know all partitions yet,
/// or there are none.
fn behind(fanout: &Fanout, positions: &BTreeMap<i32, i64>) -> Option<i64> {
    let distances = positions.iter().map(|(partition, ahead)| Some(ahead - fanout.position(*partition)?));
    distances.collect::<Option<Vec<i64>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::decode::RecordsBuilder;
    use crate::source::fanout::Delivery;
    use crate::source::status::PartitionStatus;

    fn consumer(name: &str, positions: &[(i32, i64)]) -> (Consumer, mpsc::Receiver<Delivery>) {
        let (sender, receiver) = mpsc::channel(4);
        (Consumer { name: name.into(), positions: positions.iter().copied().collect(), sender }, receiver)
    }

    fn groups(consumers: &[&[(i32, i64)]]) -> (Vec<String>, Vec<String>) {
        let consumers = consumers.iter().enumerate().map(|(n, positions)| consumer(&n.to_string(), positions).0);
        let (near, behind) = by_distance(consumers.collect());
        let names = |consumers: Vec<Consumer>| consumers.into_iter().map(|consumer| consumer.name).collect();
        (names(near), names(behind))
    }

    #[test]
    fn who_is_far_behind_in_one_partition_reads_alone() {
        let far = NEAR + 1;
        let strings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(groups(&[&[], &[]]), (strings(&["0", "1"]), vec![]));
        assert_eq!(groups(&[&[(0, 0)], &[(0, NEAR)]]), (strings(&["0", "1"]), vec![]));
        assert_eq!(groups(&[&[(0, 0)], &[(0, far)]]), (strings(&["1"]), strings(&["0"])));
        assert_eq!(groups(&[&[(0, far), (1, 0)], &[(0, far), (1, far)]]), (strings(&["1"]), strings(&["0"])));
        // No position is the beginning.
        assert_eq!(groups(&[&[(0, far)], &[(0, far), (1, far)]]), (strings(&["1"]), strings(&["0"])));
        // Nobody is near everywhere: the one with least to read leads.
        assert_eq!(groups(&[&[(0, 0), (1, 2 * far)], &[(0, far), (1, 0)]]), (strings(&["0"]), strings(&["1"])));
        assert_eq!(groups(&[]), (vec![], vec![]));
    }

    #[test]
    fn who_reads_what_kafka_does_not_hold_shares_with_nobody() {
        let held = |ranges: &[(i64, i64)]| -> BTreeMap<i32, Watermarks> {
            (0..).zip(ranges.iter().map(|&(low, high)| Watermarks { low, high })).collect()
        };
        let groups = |consumers: &[&[(i32, i64)]], held: &BTreeMap<i32, Watermarks>| {
            let consumers = consumers.iter().enumerate().map(|(n, positions)| consumer(&n.to_string(), positions).0);
            let Groups { near, behind, lost } = group(consumers.collect(), held);
            [near, behind, lost].map(|group| group.into_iter().map(|consumer| consumer.name).collect::<String>())
        };
        let far = NEAR + 1;
        let of = |near: &str, behind: &str, lost: &str| [near, behind, lost].map(str::to_owned);
        let one = held(&[(15, 20)]);
        // Below, at both ends, beyond; a partition that is not there.
        assert_eq!(groups(&[&[(0, 14)], &[(0, 15)], &[(0, 20)], &[(0, 21)]], &one), of("12", "", "03"));
        assert_eq!(groups(&[&[(0, 15), (1, 0)], &[(0, 15)]], &one), of("1", "", "0"));
        // In one partition of two, and beside somebody who is only behind.
        let two = held(&[(0, 2 * far), (0, 10)]);
        assert_eq!(groups(&[&[(0, 2 * far)], &[(0, 0)], &[(0, 2 * far), (1, 11)]], &two), of("0", "1", "2"));
        // Nothing is known, or everybody is lost: somebody must find out.
        assert_eq!(groups(&[&[(0, 14)], &[(0, 21)]], &held(&[])), of("01", "", ""));
        assert_eq!(groups(&[&[(0, 14)], &[(0, 21)]], &one), of("01", "", ""));
    }

    struct Bench {
        junction: Arc<Junction>,
        budget: Budget,
        shutdown: Shutdown,
    }

    impl Bench {
        /// A shared reader that has written down these positions.
        fn at(positions: &[(i32, i64)], patience: Duration) -> Self {
            let board = Arc::new(Board::new("t".into(), None));
            board.update(|partitions| {
                for &(partition, position) in positions {
                    partitions.insert(partition, PartitionStatus { position, ..PartitionStatus::default() });
                }
            });
            let junction = Arc::new(Junction { patience, ..Junction::new(board) });
            Self { junction, budget: Budget::new(1000), shutdown: Shutdown::new() }
        }

        fn asked(&self) -> bool {
            matches!(*self.junction.state.lock(), State::Asked)
        }

        /// The shared data thread, holding at `positions`; returns once it holds.
        fn hold(&self, positions: &[(i32, i64)]) -> std::thread::JoinHandle<Vec<Consumer>> {
            let (junction, shutdown) = (self.junction.clone(), self.shutdown.clone());
            let positions: BTreeMap<i32, i64> = positions.iter().copied().collect();
            assert!(self.asked());
            let thread = std::thread::spawn(move || junction.hold(|| positions, &shutdown));
            while !matches!(*self.junction.state.lock(), State::Held(_)) {
                std::thread::yield_now();
            }
            thread
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_consumer_joins_ahead_and_gets_only_what_it_has_not() {
        let bench = Bench::at(&[(0, 90), (1, 7)], LONG);
        let (consumer, mut receiver) = consumer("late", &[(0, 100), (1, 5)]);
        let mut late = Fanout::new(vec![consumer]);
        assert!(!late.is_empty() && !bench.junction.join(&mut late, &bench.budget));
        let shared = bench.hold(&[(0, 95), (1, 7)]);
        assert!(!bench.junction.join(&mut late, &bench.budget), "below in partition 1");
        let records = |partition, offsets: std::ops::Range<i64>| {
            let mut builder = RecordsBuilder::new(offsets.start);
            for offset in offsets {
                let payload = offset.to_le_bytes();
                let record =
                    crate::decode::Record { offset, timestamp_us: 0, key: None, payload: Some(&payload), headers: &[] };
                builder.push(record);
            }
            builder.finish("t".into(), 0, partition)
        };
        late.deliver(&records(1, 5..7), &bench.budget, &bench.shutdown, &|_| ());
        assert!(bench.junction.join(&mut late, &bench.budget) && late.is_empty());
        let mut fanout = Fanout::new(Vec::new());
        fanout.take_in(shared.join().unwrap());
        for (partition, offsets) in [(0, 95..99), (0, 99..103), (1, 7..8)] {
            fanout.deliver(&records(partition, offsets), &bench.budget, &bench.shutdown, &|_| ());
        }
        drop(fanout);
        let mut got = Vec::new();
        while let Some(Delivery { records, .. }) = receiver.blocking_recv() {
            got.push((records.partition, records.start, records.end, records.len()));
        }
        assert_eq!(got, [(1, 5, 7, 2), (0, 100, 103, 3), (1, 7, 8, 1)]);
    }

    #[test]
    fn nobody_asks_from_afar_without_room_or_with_a_partition_missing() {
        let bench = Bench::at(&[(0, NEAR), (1, 0)], LONG);
        let asks = |positions: &[(i32, i64)], full: bool| {
            let (consumer, _receiver) = consumer("late", positions);
            while full && consumer.sender.capacity() > 1 {
                let records = RecordsBuilder::new(0).finish("t".into(), 0, 0);
                consumer
                    .sender
                    .try_send(Delivery { records, charge: bench.budget.charge(0), received_at: Instant::now() })
                    .unwrap();
            }
            bench.junction.join(&mut Fanout::new(vec![consumer]), &bench.budget);
            bench.asked()
        };
        assert!(!asks(&[(0, -1), (1, 0)], false), "too far");
        assert!(!asks(&[(0, 0)], false), "partition 1 is not known");
        assert!(!asks(&[(0, 0), (1, 0)], true), "the channel is nearly full");
        let held = bench.budget.charge(1000);
        assert!(!asks(&[(0, 0), (1, 0)], false), "the budget is full");
        drop(held);
        assert!(asks(&[(0, 0), (1, 0), (2, 0)], false));
    }

    #[test]
    fn a_hold_ends_without_the_consumer() {
        let near = |bench: &Bench| {
            let (consumer, receiver) = consumer("late", &[(0, 0)]);
            let mut late = Fanout::new(vec![consumer]);
            assert!(!bench.junction.join(&mut late, &bench.budget));
            (late, receiver)
        };
        // Its reader ended: the next may ask at once.
        let bench = Bench::at(&[(0, 10)], LONG);
        let _late = near(&bench);
        let shared = bench.hold(&[(0, 10)]);
        bench.junction.leave();
        assert!(shared.join().unwrap().is_empty());
        let _late = near(&bench);
        assert!(bench.asked());
        // The shutdown came.
        let shared = bench.hold(&[(0, 10)]);
        bench.shutdown.cancel();
        assert!(shared.join().unwrap().is_empty());
        // It took too long: nobody may ask for a while.
        let bench = Bench::at(&[(0, 10)], Duration::from_millis(50));
        let (mut late, _receiver) = near(&bench);
        assert!(bench.junction.hold(|| BTreeMap::from([(0, 10)]), &bench.shutdown).is_empty());
        assert!(!bench.junction.join(&mut late, &bench.budget) && !bench.asked());
        assert!(!late.is_empty(), "it goes on by itself");
    }
}
