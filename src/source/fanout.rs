//! One stream of batches, many consumers: each gets exactly what lies at or above its own position.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::decode::Records;
use crate::task::{Budget, Charge, Shutdown};

/// Who reads a topic, and from where.
#[derive(Debug)]
pub struct Consumer {
    /// The table's name; no two consumers of a topic share one.
    pub name: String,
    /// The next offset to read per partition. A partition that is not listed is read from its beginning.
    pub positions: BTreeMap<i32, i64>,
    /// Where batches go. While it is full its whole reader waits; when its other end is dropped the consumer is left out.
    pub sender: mpsc::Sender<Delivery>,
}

/// A batch on its way to one consumer.
#[derive(Debug)]
pub struct Delivery {
    /// The records; consumers of one topic share their memory.
    pub records: Records,
    /// What the batch holds of the budget; keep it as long as the bytes, or what was made of them, are held.
    pub charge: Charge,
    /// When the reader handed it out.
    pub received_at: Instant,
}

/// What became of an attempt to deliver.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Delivered {
    Yes,
    /// The shutdown came first; the consumer's position did not move.
    Cancelled,
}

/// All consumers of one topic with their positions.
#[derive(Debug, Default)]
pub(super) struct Fanout {
    consumers: Vec<Consumer>,
}

impl Fanout {
    pub(super) fn new(consumers: Vec<Consumer>) -> Self {
        Self { consumers }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.consumers.is_empty()
    }

    /// Adds consumers that were read for elsewhere, with the positions they have.
    pub(super) fn take_in(&mut self, consumers: Vec<Consumer>) {
        self.consumers.extend(consumers);
    }

    /// The consumers with the positions they have now.
    pub(super) fn into_consumers(self) -> Vec<Consumer> {
        self.consumers
    }

    /// The lowest position on `partition`; `None` if a consumer does not know it.
    pub(super) fn position(&self, partition: i32) -> Option<i64> {
        let positions = self.consumers.iter().map(|c| c.positions.get(&partition).copied());
        positions.collect::<Option<Vec<i64>>>()?.into_iter().min()
    }

    /// True if every consumer keeps up: half of its channel is free.
    pub(super) fn has_room(&self) -> bool {
        self.consumers.iter().all(|c| c.sender.capacity() * 2 >= c.sender.max_capacity())
    }

    /// All partitions that some consumer has a position for.
    pub(super) fn partitions(&self) -> impl Iterator<Item = i32> {
        self.consumers.iter().flat_map(|c| c.positions.keys().copied())
    }

    /// Where to start reading `partition`: the minimum over all consumers; those that do not know it start at `low`.
    pub(super) fn enter(&mut self, partition: i32, low: impl FnOnce() -> Option<i64>) -> Option<i64> {
        if self.consumers.iter().any(|c| !c.positions.contains_key(&partition)) {
            let low = low()?;
            for consumer in &mut self.consumers {
                consumer.positions.entry(partition).or_insert(low);
            }
        }
        self.consumers.iter().filter_map(|c| c.positions.get(&partition).copied()).min()
    }

    /// Hands `records` to everyone whose position lies below its end; `waiting` is told before and after a wait for room.
    pub(super) fn deliver(
        &mut self,
        records: &Records,
        budget: &Budget,
        shutdown: &Shutdown,
        waiting: &dyn Fn(bool),
    ) -> Delivered {
        let (mut result, received_at) = (Delivered::Yes, Instant::now());
        self.consumers.retain_mut(|consumer| {
            if result == Delivered::Cancelled {
                return true;
            }
            let Some(part) = consumer.part_of(records) else { return true };
            let permit = match consumer.sender.try_reserve() {
                Ok(permit) => Some(permit),
                Err(mpsc::error::TrySendError::Closed(())) => None,
                Err(mpsc::error::TrySendError::Full(())) => {
                    waiting(true);
                    let reserved = futures::executor::block_on(shutdown.run_until_cancelled(consumer.sender.reserve()));
                    waiting(false);
                    match reserved {
                        Some(permit) => permit.ok(),
                        None => {
                            result = Delivered::Cancelled;
                            return true;
                        }
                    }
                }
            };
            let Some(permit) = permit else {
                tracing::debug!(target: "kafka", consumer = consumer.name, "consumer left the reader");
                return false;
            };
            consumer.positions.insert(records.partition, part.end);
            let charge = budget.charge(part.size_bytes());
            permit.send(Delivery { records: part, charge, received_at });
            true
        });
        result
    }
}

impl Consumer {
    /// What of `records` lies at or above this consumer's position; `None` if the batch moves it nowhere.
    fn part_of(&self, records: &Records) -> Option<Records> {
        let position = *self.positions.get(&records.partition)?;
        (records.end > position).then(|| records.from_position(position))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::{Record, RecordsBuilder};

    /// Batches over an offset line with gaps: (gap before, offset) runs cut into batches.
    fn batches(start: i64, gaps: &[u8], cut: usize) -> Vec<Records> {
        let mut next = start;
        let mut batches = Vec::new();
        for run in gaps.chunks(cut) {
            let mut builder = RecordsBuilder::new(next);
            for gap in run {
                let offset = builder.end() + i64::from(*gap);
                let payload = offset.to_le_bytes();
                builder.push(Record { offset, timestamp_us: 0, key: None, payload: Some(&payload), headers: &[] });
            }
            next = builder.end();
            batches.push(builder.finish("t".into(), 0, 3));
        }
        batches
    }

    proptest! {
        #[test]
        fn each_consumer_gets_exactly_its_suffix_contiguously(
            start in 0i64..50,
            gaps in prop::collection::vec(0u8..4, 1..60),
            cut in 1usize..12,
            ahead in prop::collection::vec(0i64..80, 1..5),
        ) {
            let batches = batches(start, &gaps, cut);
            let all: Vec<i64> = batches.iter().flat_map(|b| b.iter().map(|r| r.offset).collect::<Vec<_>>()).collect();
            let mut receivers = Vec::new();
            let consumers = ahead.iter().map(|ahead| {
                let (sender, receiver) = mpsc::channel(100);
                receivers.push((start + ahead, receiver));
                Consumer { name: "c".into(), positions: BTreeMap::from([(3, start + ahead)]), sender }
            });
            let mut fanout = Fanout::new(consumers.collect());
            prop_assert_eq!(fanout.enter(3, || None), ahead.iter().min().map(|a| start + a));
            let budget = Budget::new(1);
            for batch in &batches {
                fanout.deliver(batch, &budget, &Shutdown::new(), &|_| ());
            }
            drop(fanout);
            for (position, mut receiver) in receivers {
                let mut expected_start = position;
                let mut got = Vec::new();
                while let Some(Delivery { records, .. }) = receiver.blocking_recv() {
                    prop_assert_eq!(records.start, expected_start);
                    prop_assert!(records.end > records.start);
                    got.extend(records.iter().map(|r| r.offset));
                    expected_start = records.end;
                }
                let expected: Vec<i64> = all.iter().copied().filter(|o| *o >= position).collect();
                prop_assert_eq!(got, expected);
            }
            prop_assert_eq!(budget.used_bytes(), 0);
        }
    }

    #[test]
    fn a_consumer_that_left_holds_nobody_up() {
        let (sender, receiver) = mpsc::channel(1);
        let (other, mut kept) = mpsc::channel(10);
        let positions = BTreeMap::from([(3, 0)]);
        let mut fanout = Fanout::new(vec![
            Consumer { name: "gone".into(), positions: positions.clone(), sender },
            Consumer { name: "kept".into(), positions, sender: other },
        ]);
        drop(receiver);
        for batch in batches(0, &[0; 4], 1) {
            assert_eq!(fanout.deliver(&batch, &Budget::new(1), &Shutdown::new(), &|_| ()), Delivered::Yes);
        }
        drop(fanout);
        let mut got = 0;
        while kept.blocking_recv().is_some() {
            got += 1;
        }
        assert_eq!(got, 4);
    }

    #[test]
    fn a_shutdown_ends_the_wait_for_a_full_channel() {
        let (sender, _receiver) = mpsc::channel(1);
        let mut fanout =
            Fanout::new(vec![Consumer { name: "full".into(), positions: BTreeMap::from([(3, 0)]), sender }]);
        let shutdown = Shutdown::new();
        let batches = batches(0, &[0; 2], 1);
        let budget = Budget::new(1);
        assert_eq!(fanout.deliver(&batches[0], &budget, &shutdown, &|_| ()), Delivered::Yes);
        let cancel = shutdown.clone();
        let waiting = move |wait: bool| {
            if wait {
                cancel.cancel();
            }
        };
        assert_eq!(fanout.deliver(&batches[1], &budget, &shutdown, &waiting), Delivered::Cancelled);
    }
}
