//! Rows go through a query: which could be judged, and what is said of them beside those that it keeps.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

use super::batch::Batch;
use super::life::{Cause, Micros};
use crate::error::Error;
use crate::query::{Continuous, Found, Kept, Memory, Shared};

/// What became of a query's rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rows of its stream.
    pub rows: u64,
    /// Rows of which the condition is true.
    pub held: u64,
    /// Rows of which it is unknown.
    pub unknown: u64,
    /// Rows that could not be judged.
    pub failed: u64,
    /// Alerts that began to fire.
    pub fired: u64,
    /// Why the last of the rows could not be judged.
    pub last_error: Option<String>,
}

/// What a query that keeps rows says of some of them, or of windows that are over.
#[derive(Debug)]
pub struct Recalled {
    /// The rows of the stream, or the windows.
    pub of: Batch,
    /// What is said of each.
    pub rows: RecordBatch,
}

/// Takes rows in, in the order of their times, and gives what is said of them at once.
pub fn recall(
    query: &Continuous,
    batch: &Batch,
    kept: &mut Kept,
    counters: &mut Counters,
) -> Result<Vec<Recalled>, ArrowError> {
    let Some(memory) = query.memory() else { return Ok(Vec::new()) };
    let mut recalled = Vec::new();
    for (range, found) in judge(|rows, shared| query.enter(rows, shared), &batch.rows, batch.shared(), counters)? {
        let origins: Vec<u32> = found.origins.iter().map(|row| row + range.start as u32).collect();
        let entered = batch.only(&origins)?.into_owned();
        take(memory, &found.rows, &entered, kept, counters, &mut recalled)?;
    }
    Ok(recalled)
}

/// Takes rows in; where that fails their halves, so that only those rows are left out at which it does.
fn take(
    memory: &Memory,
    rows: &RecordBatch,
    of: &Batch,
    kept: &mut Kept,
    counters: &mut Counters,
    recalled: &mut Vec<Recalled>,
) -> Result<(), ArrowError> {
    match memory.take(rows, &of.times, kept) {
        Ok(None) => {}
        Ok(Some(said)) => {
            let which = said.which.unwrap_or_default();
            counters.unknown += (of.len() - which.len()) as u64;
            recalled.push(Recalled { of: of.only(&which)?.into_owned(), rows: said.rows });
        }
        Err(_) if of.len() > 1 && memory.is_atomic() => {
            let half = of.len() / 2;
            for (first, count) in [(0, half), (half, of.len() - half)] {
                take(memory, &rows.slice(first, count), &of.slice(first, count), kept, counters, recalled)?;
            }
        }
        Err(error) => {
            counters.failed += of.len() as u64;
            counters.last_error = Some(error.message().to_owned());
        }
    }
    Ok(())
}

/// Time has passed: gives what is said of the windows that are over; those of which nothing can be said are counted.
pub fn close(query: &Continuous, clock: Micros, kept: &mut Kept, counters: &mut Counters) -> Vec<Recalled> {
    let Some(memory) = query.memory() else { return Vec::new() };
    let mut closed = Vec::new();
    for said in memory.close(clock, kept) {
        match said {
            Ok(said) => closed.push(said),
            Err(error) => {
                counters.failed += 1;
                counters.last_error = Some(error.message().to_owned());
            }
        }
    }
    // No single record made a window what it is.
    let cause = |end: &Micros| Cause { topic: query.stream().into(), partition: -1, offset: *end };
    let recalled = closed.into_iter().map(|said| {
        let causes = said.times.iter().map(cause).collect();
        Recalled { of: Batch::new(said.rows.clone(), said.times, causes, Vec::new()), rows: said.rows }
    });
    recalled.collect()
}

/// Takes rows of the past into what a query keeps; those that cannot be judged are left out.
pub fn remember(query: &Continuous, batch: &Batch, kept: &mut Kept) -> Result<(), ArrowError> {
    let Some(memory) = query.memory() else { return Ok(()) };
    let enter = |rows: &RecordBatch, shared: &Shared| query.enter(rows, shared);
    for (range, found) in judge(enter, &batch.rows, batch.shared(), &mut Counters::default())? {
        let times: Vec<Micros> = found.origins.iter().map(|row| batch.times[range.start + *row as usize]).collect();
        // Without rows that cannot be kept the others are of use all the same.
        let _ = memory.take(&found.rows, &times, kept);
    }
    Ok(())
}

/// Runs a query over rows; where that fails, over their halves, so that only those rows are left out at which it does. Gives what
/// was found in each range of rows that could be judged.
pub(super) fn judge(
    run: impl Fn(&RecordBatch, &Shared) -> Result<Found, Error>,
    rows: &RecordBatch,
    shared: &Shared,
    counters: &mut Counters,
) -> Result<Vec<(Range<usize>, Found)>, ArrowError> {
    let mut failed = None;
    let judged = judge_from(&run, 0, rows, shared, &mut failed)?;
    counters.last_error = failed.or(counters.last_error.take());
    let heard: usize = judged.iter().map(|(rows, _)| rows.len()).sum();
    counters.failed += (rows.num_rows() - heard) as u64;
    Ok(judged)
}

fn judge_from(
    run: &impl Fn(&RecordBatch, &Shared) -> Result<Found, Error>,
    first: usize,
    rows: &RecordBatch,
    shared: &Shared,
    failed: &mut Option<String>,
) -> Result<Vec<(Range<usize>, Found)>, ArrowError> {
    let count = rows.num_rows();
    let error = match run(rows, shared) {
        Ok(found) => return Ok(vec![(first..first + count, found)]),
        Err(error) => error,
    };
    if count <= 1 {
        *failed = Some(error.message().to_owned());
        return Ok(Vec::new());
    }
    let half = count / 2;
    let mut judged = judge_from(run, first, &rows.slice(0, half), &Shared::default(), failed)?;
    let rest = rows.slice(half, count - half);
    judged.extend(judge_from(run, first + half, &rest, &Shared::default(), failed)?);
    Ok(judged)
}
