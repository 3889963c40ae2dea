//! Memory of queries: what all may hold together, and each by itself.
//!
//! A query's operators share its own bound fairly, so that none of them starves another; whoever reaches a bound spills if
//! it can, and else the query fails. Of the common memory the last part is kept for queries that hold little: a heavy one
//! cannot take the others' first megabytes away.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// What all queries hold together.
#[derive(Debug)]
pub(super) struct Memory {
    total: usize,
    used: AtomicUsize,
}

impl Memory {
    /// Room for so many bytes.
    pub(super) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicUsize::new(0) })
    }

    /// The memory of one query, which may hold `most` bytes of it.
    pub(super) fn of_query(self: &Arc<Self>, most: usize) -> Arc<dyn MemoryPool> {
        let most = most.min(self.total);
        Arc::new(QueryPool { shared: Arc::clone(self), own: FairSpillPool::new(most), most })
    }

    /// Bytes that are held now.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What a query may hold to count as one that holds little.
    fn little(&self) -> usize {
        self.total / 64
    }

    /// What is kept for those.
    fn reserve(&self) -> usize {
        self.total / 8
    }

    /// Takes `more` bytes for a query that then holds `holds`; false if there is no room.
    fn take(&self, more: usize, holds: usize) -> bool {
        let room = if holds <= self.little() { self.total } else { self.total - self.reserve() };
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(more).filter(|used| *used <= room)
        });
        taken.is_ok()
    }
}

/// The memory of one query.
#[derive(Debug)]
struct QueryPool {
    shared: Arc<Memory>,
    own: FairSpillPool,
    most: usize,
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.own.reserved(), self.most)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &'static str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.shared.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.shared.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let name = reservation.consumer().name();
        let refused = |text: String| DataFusionError::ResourcesExhausted(text);
        if self.own.try_grow(reservation, additional).is_err() {
            let held = self.own.reserved();
            return Err(refused(format!(
                "{name} wants {additional} bytes more, the query holds {held} of the {} it may have",
                self.most
            )));
        }
        if self.shared.take(additional, self.own.reserved()) {
            return Ok(());
        }
        self.own.shrink(reservation, additional);
        let (used, total) = (self.shared.used(), self.shared.total);
        Err(refused(format!("{name} wants {additional} bytes more, all queries together hold {used} of {total}")))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn consumer(pool: &Arc<dyn MemoryPool>, spills: bool) -> MemoryReservation {
        MemoryConsumer::new("sort").with_can_spill(spills).register(pool)
    }

    #[test]
    fn a_query_has_a_bound_of_its_own_and_one_in_common() {
        let memory = Memory::new(64 * MIB);
        let (heavy, other) = (memory.of_query(40 * MIB), memory.of_query(usize::MAX));
        let sort = consumer(&heavy, false);
        sort.try_grow(40 * MIB).unwrap();
        let error = sort.try_grow(1).unwrap_err().to_string();
        assert!(error.contains("of the 41943040 it may have"), "{error}");
        // The rest but the last eighth, which is for those that hold little.
        let join = consumer(&other, false);
        join.try_grow(16 * MIB).unwrap();
        let error = join.try_grow(MIB).unwrap_err().to_string();
        assert!(error.contains("all queries together hold 58720256 of 67108864"), "{error}");
        assert_eq!(memory.used(), 56 * MIB);
        let small = memory.of_query(usize::MAX);
        let lists = consumer(&small, false);
        lists.try_grow(MIB).unwrap();
        lists.try_grow(1).unwrap_err();
        drop((sort, join, lists));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_was_refused_is_not_counted() {
        let memory = Memory::new(64 * MIB);
        let pool = memory.of_query(usize::MAX);
        let (one, two) = (consumer(&pool, true), consumer(&pool, true));
        one.try_grow(32 * MIB).unwrap();
        one.try_grow(1).unwrap_err();
        two.try_grow(32 * MIB).unwrap_err();
        two.try_grow(24 * MIB).unwrap();
        assert_eq!((memory.used(), pool.reserved()), (56 * MIB, 56 * MIB));
        one.shrink(32 * MIB);
        two.resize(0);
        assert_eq!((memory.used(), pool.reserved()), (0, 0));
    }
}
