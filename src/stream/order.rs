//! Puts rows that came out of order into the order of their times, as far as they may be late.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;

use super::batch::{Batch, Begin};
use super::life::{Cause, Micros};
use crate::schema::conform;

/// Rows that wait until nothing older can come.
#[derive(Debug, Default)]
pub struct Order {
    waiting: Vec<Batch>,
    /// Until when rows were handed out, and until when they were before it went on.
    passed: Option<Micros>,
    before: Option<Micros>,
    /// Rows that came too late.
    late: u64,
}

impl Order {
    /// Rows have come.
    pub fn add(&mut self, batch: &Batch) -> Result<(), ArrowError> {
        let passed = self.passed.unwrap_or(Micros::MIN);
        let in_time: Vec<u32> = (0..batch.len() as u32).filter(|row| batch.times[*row as usize] > passed).collect();
        // Those that were handed out before come again.
        let is_late = |at: &&Micros| **at <= passed && self.before.is_none_or(|before| **at > before);
        self.late += batch.times.iter().filter(is_late).count() as u64;
        if !in_time.is_empty() {
            self.waiting.push(batch.only(&in_time)?.into_owned());
        }
        Ok(())
    }

    /// Those that happened until `clock`, in order; `None` if there are none. From now on whatever is older is too late.
    pub fn pass(&mut self, clock: Micros) -> Result<Option<Batch>, ArrowError> {
        if clock <= self.passed.unwrap_or(Micros::MIN) {
            return Ok(None);
        }
        self.passed = Some(clock);
        let (mut due, mut rest): (Vec<Batch>, Vec<Batch>) = (Vec::new(), Vec::new());
        for batch in std::mem::take(&mut self.waiting) {
            if batch.times.iter().all(|at| *at > clock) {
                rest.push(batch);
                continue;
            }
            let (now, later): (Vec<u32>, Vec<u32>) =
                (0..batch.len() as u32).partition(|row| batch.times[*row as usize] <= clock);
            due.push(batch.only(&now)?.into_owned());
            rest.extend((!later.is_empty()).then(|| batch.only(&later).map(Cow::into_owned)).transpose()?);
        }
        self.waiting = rest;
        let Some(newest) = due.last() else { return Ok(None) };
        // All in the columns of the newest.
        let schema = newest.rows.schema();
        let rows = due.iter().map(|batch| conform(&batch.rows, &schema)).collect::<Result<Vec<RecordBatch>, _>>()?;
        let times = due.iter().flat_map(|batch| batch.times.iter().copied()).collect();
        let causes = due.iter().flat_map(|batch| batch.causes.iter().cloned()).collect();
        let all = Batch::new(concat_batches(&schema, &rows)?, times, causes, Vec::new());
        let place = |row: &u32| {
            let cause = &all.causes[*row as usize];
            (all.times[*row as usize], cause.topic.clone(), cause.partition, cause.offset, *row)
        };
        let mut order: Vec<u32> = (0..all.len() as u32).collect();
        order.sort_by_cached_key(place);
        Ok(Some(all.only(&order)?.into_owned()))
    }

    /// Goes on behind rows that happened until `passed`.
    pub fn after(passed: Option<Micros>) -> Self {
        Self { passed, before: passed, ..Self::default() }
    }

    /// Until when rows were handed out.
    pub fn passed(&self) -> Option<Micros> {
        self.passed
    }

    /// Where rows that wait begin, lane by lane: not in order.
    pub fn begins(&self) -> impl Iterator<Item = Begin> {
        let own = |batch: &Batch| {
            let of = |cause: &Cause| Begin { first: cause.clone(), lane: None };
            batch.causes.iter().filter(|_| batch.begins.is_empty()).map(of).collect::<Vec<_>>()
        };
        self.waiting.iter().flat_map(move |batch| batch.begins.iter().cloned().chain(own(batch)))
    }

    /// Rows that came too late.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Rows that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(Batch::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use proptest::prelude::*;

    use super::*;
    use crate::stream::Clock;

    fn batch(times: &[Micros], first_offset: i64) -> Batch {
        let numbers: ArrayRef = Arc::new(Int64Array::from(times.to_vec()));
        let cause = |at: usize| Cause { topic: "t".into(), partition: 0, offset: first_offset + at as i64 };
        let rows = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
        Batch::new(rows, times.to_vec(), (0..times.len()).map(cause).collect(), Vec::new())
    }

    #[test]
    fn nothing_is_handed_out_while_time_is_not_known() {
        let mut order = Order::default();
        order.add(&batch(&[5], 0)).unwrap();
        assert!(order.pass(Micros::MIN).unwrap().is_none());
        assert_eq!(order.passed(), None);
    }

    proptest! {
        /// Windows and look-back see the same rows in the same order, however they were shuffled within the lateness.
        #[test]
        fn a_shuffle_within_the_lateness_is_put_right(
            rows in prop::collection::vec((0i64..200, 0i64..10), 0..40),
            cuts in prop::collection::vec(1usize..6, 40),
        ) {
            const LATENESS: Micros = 10;
            let mut came = rows.clone();
            came.sort_by_key(|(at, delay)| at + delay);
            let (mut order, mut clock) = (Order::default(), Clock::new(LATENESS));
            let (mut got, mut first) = (Vec::new(), 0);
            for cut in cuts {
                let times: Vec<Micros> = came.iter().skip(first).take(cut).map(|(at, _)| *at).collect();
                order.add(&batch(&times, first as i64)).unwrap();
                clock.take(&"lane", times.iter().map(|at| (*at, *at)));
                got.extend(order.pass(clock.now(&["lane"])).unwrap().into_iter().flat_map(|batch| batch.times));
                first += times.len();
            }
            got.extend(order.pass(Micros::MAX).unwrap().into_iter().flat_map(|batch| batch.times));
            let mut expected: Vec<Micros> = rows.into_iter().map(|(at, _)| at).collect();
            expected.sort_unstable();
            prop_assert_eq!(got, expected);
            prop_assert_eq!(order.late(), 0);
        }

        /// Whatever comes in time is handed out once and in order; what does not is counted.
        #[test]
        fn rows_come_out_in_the_order_of_their_times(
            steps in prop::collection::vec((prop::collection::vec(0i64..100, 0..6), 0i64..100), 0..12),
        ) {
            let (mut order, mut clock, mut offset) = (Order::default(), Micros::MIN, 0);
            let (mut sent, mut got) = (0, Vec::new());
            for (times, next) in steps {
                order.add(&batch(&times, offset)).unwrap();
                (offset, sent) = (offset + times.len() as i64, sent + times.len());
                clock = clock.max(next);
                if let Some(batch) = order.pass(clock).unwrap() {
                    prop_assert!(batch.times.iter().all(|at| *at <= clock));
                    let numbers = batch.rows.column(0).to_data();
                    prop_assert_eq!(numbers.buffers()[0].typed_data::<i64>(), &batch.times[..]);
                    got.extend(batch.times.iter().copied().zip(batch.causes.iter().map(|cause| cause.offset)));
                }
            }
            prop_assert!(got.is_sorted(), "{:?}", got);
            prop_assert_eq!(got.len() + order.waiting() + order.late() as usize, sent);
        }
    }
}
