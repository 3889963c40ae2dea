//! A budget of bytes shared by a stage: what is in flight is charged, and the producer waits for room.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Pause of who waits for room without blocking.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A limit in bytes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    limit_bytes: usize,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    used_bytes: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, inner: Arc::new(Inner { used_bytes: Mutex::new(0), freed: Condvar::new() }) }
    }

    /// The same budget with a lower limit: who waits at it leaves the rest to the others.
    #[must_use]
    pub fn at_most(&self, limit_bytes: usize) -> Self {
        Self { limit_bytes: limit_bytes.min(self.limit_bytes), inner: Arc::clone(&self.inner) }
    }

    /// Bytes charged now.
    pub fn used_bytes(&self) -> usize {
        *self.inner.used_bytes.lock()
    }

    /// The limit in bytes.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Charges `bytes` whether or not there is room: the caller holds them already.
    pub fn charge(&self, bytes: usize) -> Charge {
        *self.inner.used_bytes.lock() += bytes;
        Charge { budget: self.clone(), bytes }
    }

    /// Waits until there is room, without blocking the thread.
    pub async fn room(&self) {
        while !self.wait_for_room(std::time::Duration::ZERO) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Blocks the thread until something is free or `timeout` has passed; true if there is room.
    pub fn wait_for_room(&self, timeout: std::time::Duration) -> bool {
        let mut used = self.inner.used_bytes.lock();
        if *used < self.limit_bytes {
            return true;
        }
        self.inner.freed.wait_for(&mut used, timeout);
        *used < self.limit_bytes
    }
}

/// Bytes held; given back on drop.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Charge {
    /// Changes what is held to `bytes` (a payload became an Arrow batch).
    pub fn resize(&mut self, bytes: usize) {
        let mut used = self.budget.inner.used_bytes.lock();
        *used = *used + bytes - self.bytes;
        self.bytes = bytes;
        self.budget.inner.freed.notify_all();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        *self.budget.inner.used_bytes.lock() -= self.bytes;
        self.budget.inner.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_full_budget_has_room_again_when_a_charge_is_dropped() {
        let budget = Budget::new(10);
        let mut charge = budget.charge(4);
        assert!(budget.wait_for_room(Duration::ZERO));
        charge.resize(12);
        assert!(!budget.wait_for_room(Duration::from_millis(1)));
        let waiter = budget.clone();
        let thread = std::thread::spawn(move || waiter.wait_for_room(Duration::from_secs(10)));
        drop(charge);
        assert!(thread.join().unwrap());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_lower_limit_is_reached_first_and_by_the_charges_of_all() {
        let budget = Budget::new(10);
        let half = budget.at_most(5);
        let _charge = budget.charge(5);
        assert!(budget.wait_for_room(Duration::ZERO) && !half.wait_for_room(Duration::ZERO));
        let _charge = half.charge(5);
        assert!(!budget.wait_for_room(Duration::ZERO));
        assert_eq!((budget.used_bytes(), half.limit_bytes(), budget.at_most(20).limit_bytes()), (10, 5, 10));
    }
}
