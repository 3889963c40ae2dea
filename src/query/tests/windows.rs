//! Windows say the same of a stream, however it is cut into batches, as of all its rows at once.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::look_back::{MINUTE, START, given, signals, times};
use super::*;

/// Each is a query over a stream as it is a query over a table; what it says is compared as a whole.
const QUERIES: &[&str] = &[
    "SELECT car, tumble(event_time, INTERVAL '5 minutes') AS w, count(*) AS n, sum(a) AS s FROM signals \
     GROUP BY car, tumble(event_time, INTERVAL '5 minutes')",
    "SELECT car, w, avg(a) AS x, min(b) AS y FROM \
     (SELECT *, tumble(event_time, INTERVAL '7 minutes') AS w FROM signals WHERE a > 0) GROUP BY w, car HAVING avg(a) > 1",
    "SELECT hop(event_time, INTERVAL '2 minutes', INTERVAL '6 minutes') AS w, car, max(a) AS x FROM signals \
     GROUP BY car, hop(event_time, INTERVAL '2 minutes', INTERVAL '6 minutes') HAVING count(*) > 1",
    "SELECT car, w, count(a) AS n FROM \
     (SELECT car, a, event_time, unnest(hop(event_time, INTERVAL '3 minutes', INTERVAL '6 minutes')) AS w FROM signals) \
     GROUP BY car, w",
    "SELECT car, session(event_time, INTERVAL '3 minutes') AS w, count(*) AS n, max(event_time) AS last FROM signals \
     GROUP BY car, session(event_time, INTERVAL '3 minutes')",
    "SELECT session(event_time, INTERVAL '2 minutes') AS w, sum(a) AS s FROM signals WHERE b > 0 \
     GROUP BY session(event_time, INTERVAL '2 minutes') HAVING sum(a) > 2",
    "SELECT car, b, tumble(event_time, INTERVAL '4 minutes') AS w, count(DISTINCT a) AS n, \
     avg(a) FILTER (WHERE b > 1) AS x FROM signals GROUP BY car, b, tumble(event_time, INTERVAL '4 minutes')",
    // Above the aggregate: the window before, a rank within the window, an aggregate of aggregates.
    "SELECT car, w, x, lag(x) OVER (PARTITION BY car ORDER BY w) AS before FROM \
     (SELECT car, tumble(event_time, INTERVAL '5 minutes') AS w, avg(a) AS x FROM signals \
      GROUP BY car, tumble(event_time, INTERVAL '5 minutes'))",
    "SELECT car, w, n FROM (SELECT car, tumble(event_time, INTERVAL '5 minutes') AS w, count(*) AS n FROM signals \
      GROUP BY car, tumble(event_time, INTERVAL '5 minutes')) \
     QUALIFY rank() OVER (PARTITION BY w ORDER BY n DESC) = 1",
    "SELECT w, max(n) AS most, count(*) AS cars FROM (SELECT car, tumble(event_time, INTERVAL '5 minutes') AS w, \
      count(*) AS n FROM signals GROUP BY car, tumble(event_time, INTERVAL '5 minutes')) GROUP BY w HAVING max(n) > 1",
    "SELECT c.plate, g.w, g.n FROM (SELECT car, tumble(event_time, INTERVAL '5 minutes') AS w, count(*) AS n \
      FROM signals GROUP BY car, tumble(event_time, INTERVAL '5 minutes')) g JOIN cars c ON c.id = g.car",
    "SELECT car, tumble(event_time, INTERVAL '5 minutes') AS w, count(*) AS n FROM \
     (SELECT car, a, event_time, lag(a) OVER (PARTITION BY car ORDER BY event_time, _partition, _offset) AS before \
      FROM signals) WHERE a > before GROUP BY car, tumble(event_time, INTERVAL '5 minutes')",
];

fn fixture(all: &RecordBatch) -> Arc<Fixture> {
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", all.clone());
    let plates: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let cars = RecordBatch::try_from_iter([("id", ids), ("plate", plates)]).unwrap();
    fixture.keep("cars", super::direct::Still::new(&["id"], cars), None);
    fixture
}

fn lines(rows: &[RecordBatch]) -> Vec<String> {
    let text = |rows: &RecordBatch| pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
    let cells = |text: String| {
        let lines = text.lines().filter(|line| line.starts_with('|')).skip(1);
        lines.map(|line| line.replace(' ', "")).collect::<Vec<_>>()
    };
    let mut lines: Vec<String> =
        rows.iter().filter(|rows| rows.num_rows() > 0).flat_map(|rows| cells(text(rows))).collect();
    lines.sort();
    lines
}

/// What a query says of rows for which its condition is true.
fn held(plan: &Continuous, said: &[Said]) -> Vec<RecordBatch> {
    let held = |said: &Said| {
        let found = plan.run(&said.rows, &Shared::default()).unwrap();
        let holds = found.holds.iter().map(|holds| Some(holds == Some(true))).collect();
        arrow::compute::filter_record_batch(&found.rows, &holds).unwrap()
    };
    said.iter().map(held).collect()
}

/// A quotient whose divisor is not as good as nothing: sums of doubles differ in their last digits with their order.
fn varied(quotient: &str) -> String {
    let varies = |one: &str, other: &str| format!("var_pop(CASE WHEN {other} IS NOT NULL THEN {one} END) > 0.01");
    let (a, b) = (varies("a", "b"), varies("b", "a"));
    format!("CASE WHEN {a} AND {b} THEN round({quotient}, 6) + 0.0 END")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn windows_say_what_all_rows_say_at_once(
        rows in prop::collection::vec(given(), 0..40),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..5),
    ) {
        let all = signals(&rows);
        let session = service(&fixture(&all)).session();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut ends: Vec<(usize, bool)> = cuts.iter().map(|(cut, read)| (cut.index(rows.len() + 1), *read)).collect();
        ends.push((rows.len(), false));
        ends.sort_unstable();
        for sql in QUERIES {
            let plan = runtime.block_on(session.continuous(sql, None)).unwrap();
            let memory = plan.memory().unwrap();
            prop_assert!(!memory.gives_rows());
            let (mut kept, mut first, mut said, mut passed) = (Kept::default(), 0, Vec::new(), None);
            for (end, is_read_again) in &ends {
                let part = all.slice(first, end - first);
                let entered = plan.enter(&part, &Shared::default()).unwrap();
                let all = times(&part);
                let at: Vec<i64> = entered.origins.iter().map(|row| all[*row as usize]).collect();
                prop_assert!(memory.take(&entered.rows, &at, &mut kept).unwrap().is_none());
                // Rows of the same time may still come.
                if let Some(newest) = all.last() {
                    passed = Some(newest - 1);
                    said.extend(memory.pass(newest - 1, &mut kept).unwrap());
                }
                if *is_read_again {
                    kept = memory.read(&memory.write(&kept).unwrap(), passed).unwrap();
                }
                first = *end;
            }
            said.extend(memory.pass(START + 1_000 * MINUTE, &mut kept).unwrap());
            prop_assert_eq!(kept.rows(), if sql.contains("lag(") { kept.rows() } else { 0 }, "all is said: {}", sql);
            let ended: Vec<i64> = said.iter().flat_map(|said| said.times.clone()).collect();
            prop_assert!(ended.is_sorted() || sql.contains("session"), "in their order: {}", sql);
            let expected = runtime.block_on(async { session.query(sql).await.unwrap().run().await.unwrap().collect().await.unwrap() });
            prop_assert_eq!(lines(&held(&plan, &said)), lines(&expected), "{}", sql);
        }
    }

    /// Of an aggregate that a window offers, partial results can be merged as often as one likes.
    #[test]
    fn every_aggregate_of_a_window_can_be_merged(
        rows in prop::collection::vec(given(), 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let all = signals(&rows);
        let session = service(&fixture(&all)).session();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(rows.len() + 1)).collect();
        ends.push(rows.len());
        ends.sort_unstable();
        for aggregate in [
            "approx_distinct(a)", "avg(a)", "bit_and(a)", "bit_or(a)", "bit_xor(a)", "bool_and(a > 1)", "bool_or(a > 1)",
            &varied("corr(a, b)"), "count(a)", "count(DISTINCT b)", "round(covar_pop(a, b), 6) + 0.0",
            "round(covar_samp(a, b), 6) + 0.0", "first_value(a ORDER BY event_time, _offset)",
            "last_value(b ORDER BY event_time, _offset)", "max(a)", "median(a)", "min(b)", &varied("regr_slope(a, b)"),
            "round(stddev(a), 6) + 0.0", "round(stddev_pop(a), 6) + 0.0", "sum(a)", "sum(DISTINCT a)", "round(var(a), 6) + 0.0",
            "round(var_pop(a), 6) + 0.0",
        ] {
            let sql = format!(
                "SELECT car, tumble(event_time, INTERVAL '30 minutes') AS w, {aggregate} AS x FROM signals \
                 GROUP BY car, tumble(event_time, INTERVAL '30 minutes')"
            );
            let plan = runtime.block_on(session.continuous(&sql, None)).unwrap();
            let memory = plan.memory().unwrap();
            let (mut kept, mut first) = (Kept::default(), 0);
            for end in &ends {
                let entered = plan.enter(&all.slice(first, end - first), &Shared::default()).unwrap();
                memory.take(&entered.rows, &times(&all)[first..*end], &mut kept).unwrap();
                kept = memory.read(&memory.write(&kept).unwrap(), None).unwrap();
                first = *end;
            }
            let said = memory.pass(START + 1_000 * MINUTE, &mut kept).unwrap();
            let expected = runtime.block_on(async { session.query(&sql).await.unwrap().run().await.unwrap().collect().await.unwrap() });
            prop_assert_eq!(lines(&held(&plan, &said)), lines(&expected), "{}", aggregate);
        }
    }
}

/// Rows are taken in the midst of a task, whose budget nobody renews meanwhile.
#[test]
fn any_number_of_windows_is_looked_at_without_a_pause() {
    const MINUTES: i64 = 1_000;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let windows = runtime.block_on(async {
            let session = service(&fixture(&signals(&[]))).session();
            let mut windows = 0;
            // Groups of windows, and what is made of all groups of one.
            for sql in [QUERIES[0], QUERIES[8]] {
                let plan = session.continuous(sql, None).await.unwrap();
                let (memory, mut kept) = (plan.memory().unwrap(), Kept::default());
                for minute in 0..MINUTES {
                    let rows = signals(&[(minute, 1, Some(1), None)]);
                    let entered = plan.enter(&rows, &Shared::default()).unwrap();
                    memory.take(&entered.rows, &times(&rows), &mut kept).unwrap();
                    windows += memory.pass(START + minute * MINUTE, &mut kept).unwrap().len();
                }
            }
            windows
        });
        tell.send(windows).unwrap();
    });
    let windows = told.recv_timeout(std::time::Duration::from_secs(300)).expect("it goes on");
    assert_eq!(windows, 2 * ((MINUTES as usize - 1) / 5));
}

/// Whoever takes the others again afterwards takes none of them twice.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_which_one_cannot_be_taken_change_nothing() {
    let all = signals(&[(0, 1, Some(8), Some(2)), (1, 1, Some(8), Some(0)), (10, 1, Some(9), Some(3))]);
    let session = service(&fixture(&all)).session();
    for window in ["tumble(event_time, INTERVAL '5 minutes')", "session(event_time, INTERVAL '5 minutes')"] {
        let sql = format!("SELECT car, {window} AS w, sum(a / b) AS s FROM signals GROUP BY car, {window}");
        let plan = session.continuous(&sql, None).await.unwrap();
        let (memory, mut kept) = (plan.memory().unwrap(), Kept::default());
        let mut take = |first: usize, count: usize| {
            let rows = all.slice(first, count);
            let entered = plan.enter(&rows, &Shared::default()).unwrap();
            memory.take(&entered.rows, &times(&rows), &mut kept)
        };
        assert!(take(0, 3).is_err() && take(0, 1).is_ok() && take(1, 1).is_err() && take(2, 1).is_ok(), "{sql}");
        let said = memory.pass(START + 1_000 * MINUTE, &mut kept).unwrap();
        let said: Vec<i64> =
            said.iter().flat_map(|said| said.rows.column(2).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(said, [4, 3], "{sql}");
    }
}

/// A rule that begins while a window is open must not tell of a part of it, and a late row opens no window again.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_is_over_is_not_opened_again() {
    let all = signals(&[(0, 1, Some(1), None), (1, 1, Some(2), None), (5, 1, Some(3), None)]);
    let session = service(&fixture(&all)).session();
    let plan = session.continuous(QUERIES[0], None).await.unwrap();
    let (memory, mut kept) = (plan.memory().unwrap(), Kept::default());
    assert!(memory.pass(START + 5 * MINUTE, &mut kept).unwrap().is_empty());
    memory.take(&all, &times(&all), &mut kept).unwrap();
    assert_eq!(kept.rows(), 1, "the last row's window is open");
    assert_eq!(memory.pass(START + 10 * MINUTE, &mut kept).unwrap()[0].times, [START + 10 * MINUTE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_cannot_be_is_refused_with_the_way_out() {
    let session = service(&fixture(&signals(&[]))).session();
    for (sql, reason, hint) in [
        ("SELECT count(*) FROM signals", "without a window", "tumble(event_time"),
        ("SELECT DISTINCT a FROM signals", "without a window", "tumble(event_time"),
        ("SELECT a FROM signals UNION SELECT b FROM signals", "without a window", "tumble(event_time"),
        ("SELECT count(*) FROM signals GROUP BY tumble(event_time, INTERVAL '1 month')", "no fixed length", ""),
        ("SELECT count(*) FROM signals GROUP BY tumble(event_time, INTERVAL '0 s')", "longer than nothing", ""),
        (
            "SELECT array_agg(a) FROM signals GROUP BY tumble(event_time, INTERVAL '1 minute')",
            "array_agg in a window",
            "a window knows approx_distinct, avg",
        ),
        (
            "SELECT count(*) FROM signals GROUP BY tumble(event_time, INTERVAL '1 minute'), \
             tumble(event_time, INTERVAL '2 minutes')",
            "several windows",
            "one window",
        ),
        (
            "SELECT n FROM (SELECT w, count(*) AS n FROM (SELECT tumble(event_time, INTERVAL '1 minute') AS w, a \
             FROM signals) GROUP BY w)",
            "without event_time",
            "select it",
        ),
    ] {
        let error = session.continuous(sql, None).await.expect_err(sql);
        let (said, way_out) = (error.message(), error.hint_text().unwrap_or_default());
        assert!(said.contains(reason) && way_out.contains(hint), "{sql}: {said}; {way_out}");
    }
}

/// What a row costs, and what is kept of a key, where 100,000 speak in turn.
#[test]
#[ignore = "a measurement; cargo test --lib bench_a_hundred -- --ignored --nocapture"]
fn bench_a_hundred_thousand_keys() {
    const KEYS: i64 = 100_000;
    const ROWS: i64 = 1_000_000;
    const BATCH: i64 = 2_000;
    let batch = |first: i64| {
        let column =
            |of: fn(i64) -> i64| Arc::new(Int64Array::from_iter_values((first..first + BATCH).map(of))) as ArrayRef;
        let times = TimestampMicrosecondArray::from_iter_values((first..first + BATCH).map(|row| START + row * 50));
        RecordBatch::try_from_iter_with_nullable([
            ("car", column(|row| row * 7_919 % KEYS), true),
            ("a", column(|row| row % 1_000), true),
            ("event_time", Arc::new(times.with_timezone("UTC")) as ArrayRef, true),
        ])
        .unwrap()
    };
    let session = service(&fixture(&batch(0))).session();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    const OVER: &str = "OVER (PARTITION BY car ORDER BY event_time";
    for (name, sql) in [
        ("look-back", format!("SELECT car, a, lag(a) {OVER}) AS x FROM signals QUALIFY a > x + 990")),
        (
            "sliding frame",
            format!(
                "SELECT car, avg(a) {OVER} RANGE INTERVAL '20 seconds' PRECEDING) AS x FROM signals QUALIFY x > 990"
            ),
        ),
        (
            "window",
            "SELECT car, tumble(event_time, INTERVAL '10 seconds') AS w, avg(a) AS x FROM signals \
             GROUP BY car, tumble(event_time, INTERVAL '10 seconds') HAVING avg(a) > 990"
                .to_owned(),
        ),
    ] {
        let plan = runtime.block_on(session.continuous(&sql, None)).unwrap();
        let (memory, mut kept, mut said, mut most) = (plan.memory().unwrap(), Kept::default(), 0, (0, 0));
        let began = std::time::Instant::now();
        for first in (0..ROWS).step_by(BATCH as usize) {
            let rows = batch(first);
            let entered = plan.enter(&rows, &Shared::default()).unwrap().rows;
            let at = times(&rows);
            let taken = memory.take(&entered, &at, &mut kept).unwrap();
            if first % (50 * BATCH) == 0 {
                most = most.max((kept.rows(), kept.bytes()));
            }
            let closed = memory.pass(at[at.len() - 1] - 1, &mut kept).unwrap();
            said += taken
                .iter()
                .chain(&closed)
                .map(|said| plan.run(&said.rows, &Shared::default()).unwrap().rows.num_rows())
                .sum::<usize>();
        }
        let took = began.elapsed();
        let (rows, bytes) = most;
        println!(
            "{name:<14} {:>9.0} rows/s, {} kept, {} bytes per key, {said} said",
            ROWS as f64 / took.as_secs_f64(),
            rows,
            bytes / KEYS as usize
        );
    }
}
