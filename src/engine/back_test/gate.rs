//! Lets rows pass in the order of their times, as it is done live.

use std::sync::Arc;

use arrow::error::ArrowError;

use crate::stream::{Batch, Cause, Clock, Micros, Order};

type Lane = (Arc<str>, i32);

/// The rows of one history, for all rules that want them in order.
pub(super) struct Gate {
    /// The place of the history.
    pub history: usize,
    clock: Clock<Lane>,
    order: Order,
    late: u64,
    /// Those that were late before it counted.
    before: u64,
}

impl Gate {
    pub fn new(history: usize, lateness: Micros) -> Self {
        Self { history, clock: Clock::new(lateness), order: Order::default(), late: 0, before: 0 }
    }

    /// From here on it counts.
    pub fn count(&mut self) {
        self.before = self.late;
    }

    /// Rows that came too late since then.
    pub fn late(&self) -> u64 {
        self.late - self.before
    }

    /// Rows have come.
    pub fn add(&mut self, mut batch: Batch) -> Result<(), ArrowError> {
        let lane = |cause: &Cause| Some((Arc::clone(&cause.topic), cause.partition));
        let in_time = batch.in_time(&mut self.clock, lane, Micros::MAX);
        self.late += (batch.len() - in_time.len()) as u64;
        self.order.add(&*batch.only(&in_time)?)
    }

    /// All that had come at `wall` is here: what may pass now, and how far time has come.
    pub fn pass(&mut self, wall: Micros) -> Result<(Option<Batch>, Micros), ArrowError> {
        let lanes: Vec<Lane> = self.clock.lanes().keys().cloned().collect();
        self.clock.reach(lanes.iter().map(|lane| (lane, wall)));
        let now = self.clock.now(&lanes);
        Ok((self.order.pass(now)?, now))
    }
}
