//! Memory of queries: what all may hold together, and each by itself.
//!
//! A query's operators that can spill share its own bound fairly, so that none of them starves another, and leave a part of
//! it to those that cannot: a sort that has spilled must still merge. Merges would take all there is, and share fairly, too.
//! Whoever reaches a bound spills if it can, and else the query fails. Of the common memory the last part is kept for queries
//! that hold little: a heavy one cannot take the others' first megabytes away.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::sorts::sort::SortExec;
use parking_lot::Mutex;

/// A quarter of a query's memory is left to operators that cannot spill.
const UNSPILLABLE: usize = 4;
/// Merges of what was sorted share half of it, what else is left is for who merges what they merged. (They get it from those
/// who sort and give it back, so together that may be more than all.)
const MERGES: usize = 2;
/// What each part of a sort holds ready for its merge while it sorts.
pub(super) const READY: usize = 3 << 20;
/// How DataFusion calls those, and who sorts.
const MERGE: &str = "ExternalSorterMerge";
const SORT: &str = "ExternalSorter[";

/// How many parts of rows a plan sorts or merges at once.
pub(super) fn sorts(plan: &dyn ExecutionPlan) -> usize {
    sorts_and_last(plan).0
}

/// The same, and how many of them give out its rows. A sort takes all rows of what is below before it gives out any: of
/// those that follow each other two hold rows at once.
fn sorts_and_last(plan: &dyn ExecutionPlan) -> (usize, usize) {
    let below = plan.children().into_iter().map(|input| sorts_and_last(&**input));
    let (most, last) = below.fold((0, 0), |(most, last), below| (most + below.0, last + below.1));
    let sort = (plan as &dyn Any).downcast_ref::<SortExec>().filter(|sort| sort.fetch().is_none());
    match sort.map(|sort| sort.properties().output_partitioning().partition_count()) {
        Some(parts) => (most.max(parts + last), parts),
        None => (most, last),
    }
}

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

    /// The memory of one query, which may hold `most` bytes of it, and sorts so many parts of rows at once.
    pub(super) fn of_query(self: &Arc<Self>, most: usize, sorts: usize) -> Arc<dyn MemoryPool> {
        let most = self.most_of_query(most);
        Arc::new(QueryPool { shared: Arc::clone(self), held: Mutex::default(), most, sorts: sorts.max(1) })
    }

    /// What a query may hold of the `most` that it should. More it would not get, and who can spill must know beforehand.
    pub(super) fn most_of_query(&self, most: usize) -> usize {
        most.min(self.total - self.reserve())
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
    held: Mutex<Held>,
    most: usize,
    sorts: usize,
}

/// What the operators of one query hold.
#[derive(Debug, Default)]
struct Held {
    /// Bytes of those that can spill …
    spillable: usize,
    /// … and how many they are.
    spillers: usize,
    /// Bytes of those that cannot.
    unspillable: usize,
}

impl Held {
    fn of(&mut self, consumer: &MemoryConsumer) -> &mut usize {
        if consumer.can_spill() { &mut self.spillable } else { &mut self.unspillable }
    }

    fn all(&self) -> usize {
        self.spillable + self.unspillable
    }
}

impl QueryPool {
    /// What one of the query's operators may hold. A sort's part is its own from the beginning: with more it could not merge
    /// when the others are there, and most of the many others that can spill hold next to nothing.
    fn share(&self, consumer: &MemoryConsumer, held: &Held) -> usize {
        if consumer.can_spill() {
            let room = self.most.saturating_sub(held.unspillable).min(self.most - self.most / UNSPILLABLE);
            return if consumer.name().starts_with(SORT) { room / self.sorts } else { room / held.spillers.max(1) };
        }
        if consumer.name().starts_with(MERGE) { (self.most / MERGES / self.sorts).max(READY) } else { self.most }
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.reserved(), self.most)
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &'static str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.held.lock().spillers += usize::from(consumer.can_spill());
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.held.lock().spillers -= usize::from(consumer.can_spill());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        *self.held.lock().of(reservation.consumer()) += additional;
        self.shared.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        *self.held.lock().of(reservation.consumer()) -= shrink;
        self.shared.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let name = reservation.consumer().name();
        let refused = |text: String| Err(DataFusionError::ResourcesExhausted(text));
        let mut held = self.held.lock();
        let all = held.all();
        let (most, share) = (self.most, self.share(reservation.consumer(), &held));
        if all.saturating_add(additional) > most {
            return refused(format!(
                "{name} wants {additional} bytes more, the query holds {all} of the {most} it may have"
            ));
        }
        if reservation.size().saturating_add(additional) > share {
            return refused(format!(
                "{name} wants {additional} bytes more, its part is {share} of the {most} it may have"
            ));
        }
        if !self.shared.take(additional, all + additional) {
            let (used, total) = (self.shared.used(), self.shared.total);
            return refused(format!(
                "{name} wants {additional} bytes more, all queries together hold {used} of {total}"
            ));
        }
        *held.of(reservation.consumer()) += additional;
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.held.lock().all()
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
        let (heavy, other) = (memory.of_query(40 * MIB, 0), memory.of_query(usize::MAX, 0));
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
        let small = memory.of_query(usize::MAX, 0);
        let lists = consumer(&small, false);
        lists.try_grow(MIB).unwrap();
        lists.try_grow(1).unwrap_err();
        drop((sort, join, lists));
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_was_refused_is_not_counted() {
        let memory = Memory::new(64 * MIB);
        let pool = memory.of_query(usize::MAX, 0);
        let (one, two) = (consumer(&pool, false), consumer(&pool, false));
        one.try_grow(32 * MIB).unwrap();
        two.try_grow(32 * MIB).unwrap_err();
        two.try_grow(24 * MIB).unwrap();
        assert_eq!((memory.used(), pool.reserved()), (56 * MIB, 56 * MIB));
        one.shrink(32 * MIB);
        two.resize(0);
        assert_eq!((memory.used(), pool.reserved()), (0, 0));
    }

    #[test]
    fn what_can_spill_shares_fairly_and_leaves_a_part_to_what_cannot() {
        let pool = Memory::new(1 << 30).of_query(64 * MIB, 1);
        let one = consumer(&pool, true);
        one.try_grow(48 * MIB).unwrap();
        one.try_grow(1).unwrap_err();
        let join = consumer(&pool, false);
        join.try_grow(16 * MIB).unwrap();
        join.try_grow(1).unwrap_err();
        drop(one);
        // Half for each of two, of what is left.
        let (one, two) = (consumer(&pool, true), consumer(&pool, true));
        one.try_grow(24 * MIB).unwrap();
        one.try_grow(1).unwrap_err();
        join.try_grow(4 * MIB).unwrap();
        two.try_grow(24 * MIB).unwrap_err();
        two.try_grow(20 * MIB).unwrap();
        drop((one, two, join));
        assert_eq!(pool.reserved(), 0);
    }

    #[test]
    fn merges_leave_room_for_each_other_and_for_who_merges_them() {
        let pool = Memory::new(1 << 30).of_query(64 * MIB, 2);
        let names = ["ExternalSorterMerge[0]", "ExternalSorterMerge[1]"];
        let [one, two] = names.map(|name| MemoryConsumer::new(name).register(&pool));
        for merge in [&one, &two] {
            merge.try_grow(16 * MIB).unwrap();
            merge.try_grow(1).unwrap_err();
        }
        let sort = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        sort.try_grow(16 * MIB).unwrap();
        sort.try_grow(1).unwrap_err();
        drop((one, two));
        sort.try_grow(8 * MIB).unwrap();
        sort.try_grow(1).unwrap_err();
        drop(sort);
        consumer(&pool, false).try_grow(64 * MIB).unwrap();
        assert_eq!(pool.reserved(), 0);
    }
}
