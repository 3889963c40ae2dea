//! What rules that look back do on bad days: one key with all rows, as many keys as rows, windows that hardly ever end.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;

use super::look_back::{MINUTE, START, times};
use super::*;

const BATCH: i64 = 8_192;
const MILLION: i64 = 1_000_000;
const LOOK_BACK: &str =
    "SELECT car, a, lag(a) OVER (PARTITION BY car ORDER BY event_time) AS x FROM signals QUALIFY a < x";
const WINDOW: &str = "SELECT car, tumble(event_time, INTERVAL '1 hour') AS w, count(*) AS n FROM signals \
                      GROUP BY car, tumble(event_time, INTERVAL '1 hour')";

/// Rows from `first` on, one each `step` microseconds.
fn rows(first: i64, count: i64, step: i64, car: fn(i64) -> i64) -> RecordBatch {
    let column =
        |of: &dyn Fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((first..first + count).map(of))) as ArrayRef;
    let at = TimestampMicrosecondArray::from_iter_values((first..first + count).map(|row| START + row * step));
    RecordBatch::try_from_iter_with_nullable([
        ("car", column(&car), true),
        ("a", column(&|row| row % 1_000), true),
        ("event_time", Arc::new(at.with_timezone("UTC")) as ArrayRef, true),
    ])
    .unwrap()
}

/// How many rows were said to be true while all of them came, what was kept, and at the end how much of it was left.
async fn play(sql: &str, count: i64, step: i64, car: fn(i64) -> i64) -> (usize, usize, Kept) {
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", rows(0, 1, step, car));
    let plan = service(&fixture).session().continuous(sql, None).await.unwrap();
    let (memory, mut kept, mut said, mut most) = (plan.memory().unwrap(), Kept::default(), 0, 0);
    for first in (0..count).step_by(BATCH as usize) {
        let rows = rows(first, BATCH.min(count - first), step, car);
        let (entered, at) = (plan.enter(&rows, &Shared::default()).unwrap().rows, times(&rows));
        let taken = memory.take(&entered, &at, &mut kept).unwrap();
        most = most.max(kept.rows());
        let closed = memory.pass(at[at.len() - 1] - 1, &mut kept).unwrap();
        let all = taken.iter().chain(&closed);
        said += all.map(|said| plan.run(&said.rows, &Shared::default()).unwrap().holds.true_count()).sum::<usize>();
    }
    (said, most, kept)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_of_one_key_keep_no_more_than_one_needs() {
    let (said, most, kept) = play(LOOK_BACK, MILLION, 1_000, |_| 1).await;
    assert_eq!((said, most), (999, 1));
    assert!(kept.bytes() < 100_000, "{}", kept.bytes());
    let (said, most, kept) = play(WINDOW, MILLION, 10_000, |_| 1).await;
    assert_eq!(said, 2, "of 2.8 hours");
    assert!(most < 2_000 && kept.bytes() < 1_000_000, "{most} {}", kept.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_keys_with_one_row_each_keep_one_each() {
    let (said, most, kept) = play(WINDOW, MILLION, 1_000, |row| row).await;
    assert_eq!((said, most), (0, MILLION as usize));
    assert!(kept.bytes() < 200 << 20, "{}", kept.bytes());
    let (said, most, kept) = play(LOOK_BACK, MILLION / 4, 1_000, |row| row).await;
    assert_eq!((said, most), (0, MILLION as usize / 4));
    assert!(kept.bytes() < 200 << 20, "{}", kept.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_of_a_year_keeps_a_group_for_each_key() {
    let year = WINDOW.replace("1 hour", "365 days");
    let (said, _, kept) = play(&year, 4_000, 8 * MINUTE, |row| row % 10).await;
    assert_eq!(said, 0, "22 days");
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", rows(0, 1, 1, |_| 1));
    let plan = service(&fixture).session().continuous(&year, None).await.unwrap();
    let memory = plan.memory().unwrap();
    let written = memory.write(&kept).unwrap();
    let mut kept = memory.read(&written, None).unwrap();
    assert_eq!(kept.rows(), 10);
    let closed = memory.pass(START + 2 * 366 * 24 * 60 * MINUTE, &mut kept).unwrap();
    let count = |said: &Said| {
        let found = plan.run(&said.rows, &Shared::default()).unwrap().rows;
        arrow::compute::sum(found.column_by_name("n").unwrap().as_primitive::<Int64Type>())
    };
    let all: i64 = closed.iter().filter_map(count).sum();
    assert_eq!(all, 4_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_never_ends_keeps_a_group() {
    let session = "SELECT car, session(event_time, INTERVAL '10 minutes') AS w, count(*) AS n FROM signals \
                   GROUP BY car, session(event_time, INTERVAL '10 minutes')";
    let (said, most, kept) = play(session, 300_000, MINUTE, |_| 1).await;
    assert_eq!(said, 0, "208 days");
    assert!(most < 2_000 && kept.bytes() < 1_000_000, "{most} {}", kept.bytes());
}
