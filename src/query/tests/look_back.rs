//! A query that looks back finds what the same query finds over all rows at once, however they are cut into batches,
//! and whenever what it keeps is written down and read again.

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

use super::direct::Still;
use super::*;

pub(super) const MINUTE: i64 = 60_000_000;
/// When rows begin.
pub(super) const START: i64 = 1_795_305_600_000_000;

/// What is selected beside the row's number, the rows, and on what condition.
const QUERIES: &[(&str, &str, &str)] = &[
    ("lag(a) OVER w AS x", "true", "a > x"),
    ("lag(a, 3, -1) OVER w AS x, lag(b) OVER w AS y", "a IS NOT NULL", "x < y OR a = 2"),
    ("lag(a) IGNORE NULLS OVER w AS x", "true", "a <> x"),
    ("last_value(a) IGNORE NULLS OVER (w ROWS UNBOUNDED PRECEDING) AS x", "true", "x > 1"),
    (
        "last_value(a) IGNORE NULLS OVER (w ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING) AS x, \
         lag(b, 2) OVER w AS y",
        "b IS NULL OR b < 4",
        "x = y",
    ),
    ("avg(a) OVER (w ROWS 2 PRECEDING) AS x", "true", "x > 2"),
    ("count(*) OVER (w RANGE INTERVAL '3 minutes' PRECEDING) AS x", "a > 0", "x >= 3"),
    (
        "max(a) OVER (w RANGE INTERVAL '5 minutes' PRECEDING) - min(a) OVER (w RANGE INTERVAL '5 minutes' PRECEDING) AS x",
        "true",
        "x > 2",
    ),
    (
        "sum(a) OVER (w RANGE BETWEEN INTERVAL '6 minutes' PRECEDING AND INTERVAL '2 minutes' PRECEDING) AS x",
        "true",
        "x > 4",
    ),
    ("first_value(b) OVER (w ROWS 3 PRECEDING) AS x, nth_value(a, 2) OVER (w ROWS 2 PRECEDING) AS y", "true", "x > y"),
    ("avg(a) FILTER (WHERE b > 1) OVER (w RANGE INTERVAL '4 minutes' PRECEDING) AS x", "true", "x <> a"),
    ("count(DISTINCT a) OVER (w ROWS 4 PRECEDING) AS x", "true", "x > 1"),
];

/// Minutes since the row before, whose, and two values.
pub(super) type Given = (i64, i64, Option<i64>, Option<i64>);

pub(super) fn signals(rows: &[Given]) -> RecordBatch {
    let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let mut at = START;
    let times: Vec<i64> = rows
        .iter()
        .map(|row| {
            at += row.0 * MINUTE;
            at
        })
        .collect();
    RecordBatch::try_from_iter_with_nullable([
        ("n", column((0..rows.len() as i64).map(Some).collect()), true),
        ("car", column(rows.iter().map(|row| (row.1 > 0).then_some(row.1)).collect()), true),
        ("a", column(rows.iter().map(|row| row.2).collect()), true),
        ("b", column(rows.iter().map(|row| row.3).collect()), true),
        ("event_time", Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")), true),
        ("_offset", column((0..rows.len() as i64).map(Some).collect()), true),
        ("_partition", Arc::new(Int32Array::from(vec![0; rows.len()])), true),
    ])
    .unwrap()
}

fn sql(select: &str, filter: &str, tail: &str) -> String {
    // Rows of the same time are in the order of their records.
    let order = if select.contains("RANGE") { "event_time" } else { "event_time, _partition, _offset" };
    let window = format!("WINDOW w AS (PARTITION BY car ORDER BY {order})");
    let select = select.replace("OVER (w ", &format!("OVER (PARTITION BY car ORDER BY {order} "));
    let window = if select.contains("OVER w") { window } else { String::new() };
    format!("SELECT n, {select} FROM signals WHERE {filter} {window} {tail}")
}

pub(super) fn times(rows: &RecordBatch) -> Vec<i64> {
    rows["event_time"].as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

fn lines(rows: &[RecordBatch], holds: &[BooleanArray]) -> Vec<String> {
    let mut lines = Vec::new();
    for (rows, holds) in rows.iter().zip(holds) {
        let text = pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
        let cells = text.lines().filter(|line| line.starts_with('|')).skip(1);
        for (line, holds) in cells.zip(holds) {
            lines.push(format!("{} {holds:?}", line.replace(' ', "")));
        }
    }
    lines.sort();
    lines
}

/// Runs over these rows as a stream.
fn streamed(plan: &Continuous, rows: &RecordBatch, kept: &mut Kept) -> (RecordBatch, BooleanArray) {
    let memory = plan.memory().unwrap();
    let entered = plan.enter(rows, &Shared::default()).unwrap();
    let all = times(rows);
    let times: Vec<i64> = entered.origins.iter().map(|row| all[*row as usize]).collect();
    let said = memory.take(&entered.rows, &times, kept).unwrap().unwrap();
    assert_eq!(said.which.unwrap().len(), entered.rows.num_rows(), "every row is in order");
    let found = plan.run(&said.rows, &Shared::default()).unwrap();
    (found.rows, found.holds)
}

pub(super) fn given() -> impl Strategy<Value = Given> {
    let value = || prop_oneof![1 => Just(None), 4 => (0..5_i64).prop_map(Some)];
    (prop_oneof![2 => Just(0_i64), 4 => Just(1), 1 => 2..9_i64], 0..4_i64, value(), value())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn looking_back_gives_what_all_rows_give_at_once(
        rows in prop::collection::vec(given(), 0..40),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..5),
    ) {
        let all = signals(&rows);
        let fixture = Arc::new(Fixture::default());
        fixture.put("public", "signals", all.clone());
        let session = service(&fixture).session();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut ends: Vec<(usize, bool)> = cuts.iter().map(|(cut, read)| (cut.index(rows.len() + 1), *read)).collect();
        ends.push((rows.len(), false));
        ends.sort_unstable();
        // Rows of one time come together.
        let whole = |end: usize| (end..rows.len()).find(|row| rows[*row].0 > 0).unwrap_or(rows.len());
        for (select, filter, condition) in QUERIES {
            let plan = runtime.block_on(session.continuous(&sql(select, filter, &format!("QUALIFY {condition}")), None));
            let plan = plan.unwrap();
            let memory = plan.memory().unwrap();
            let (mut kept, mut first, mut found, mut holds) = (Kept::default(), 0, Vec::new(), Vec::new());
            for (end, is_read_again) in &ends {
                let end = if *end == 0 { 0 } else { whole(*end) };
                let (part, held) = streamed(&plan, &all.slice(first, end - first), &mut kept);
                found.push(part);
                holds.push(held);
                first = end;
                if let Some(last) = times(&all).get(end.saturating_sub(1)) {
                    memory.pass(*last, &mut kept).unwrap();
                }
                if *is_read_again {
                    let written = memory.write(&kept).unwrap();
                    prop_assert_eq!(written.iter().flatten().map(RecordBatch::num_rows).sum::<usize>(), kept.rows());
                    kept = memory.read(&written, None).unwrap();
                }
            }
            let outer = format!("SELECT *, ({condition}) AS holds FROM ({}) ORDER BY n", sql(&format!("a, b, {select}"), filter, ""));
            let rows = runtime.block_on(async { session.query(&outer).await.unwrap().run().await.unwrap().collect().await.unwrap() });
            let (mut batch, mut batch_holds) = (Vec::new(), Vec::new());
            for rows in &rows {
                let last = rows.num_columns() - 1;
                let columns: Vec<usize> = [0].into_iter().chain(3..last).collect();
                batch.push(rows.project(&columns).unwrap());
                batch_holds.push(rows.column(last).as_boolean().clone());
            }
            let expected: Vec<String> =
                lines(&batch, &batch_holds).into_iter().filter(|line| !line.ends_with("Some(false)")).collect();
            prop_assert_eq!(lines(&found, &holds), expected, "{} … {}", select, filter);
        }
    }

    #[test]
    fn no_more_is_kept_than_is_in_reach(minutes in prop::collection::vec(0..3_i64, 1..300)) {
        let rows: Vec<Given> = minutes.iter().map(|minutes| (*minutes, 1, Some(1), None)).collect();
        let all = signals(&rows);
        let fixture = Arc::new(Fixture::default());
        fixture.put("public", "signals", all.clone());
        let session = service(&fixture).session();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (select, most) in [
            ("lag(a, 2) OVER w AS x", 2),
            ("last_value(b) IGNORE NULLS OVER (w ROWS UNBOUNDED PRECEDING) AS x", 0),
            ("last_value(a) IGNORE NULLS OVER (w ROWS UNBOUNDED PRECEDING) AS x", 1),
            ("sum(a) OVER (w ROWS 5 PRECEDING) AS x", 5),
        ] {
            let plan = runtime.block_on(session.continuous(&sql(select, "true", ""), None)).unwrap();
            let mut kept = Kept::default();
            streamed(&plan, &all, &mut kept);
            prop_assert_eq!(kept.rows(), most.min(rows.len()), "{}", select);
        }
        let plan = sql("sum(a) OVER (w RANGE INTERVAL '5 minutes' PRECEDING) AS x", "true", "");
        let plan = runtime.block_on(session.continuous(&plan, None)).unwrap();
        let mut kept = Kept::default();
        streamed(&plan, &all, &mut kept);
        let times = times(&all);
        let newest = times[times.len() - 1];
        prop_assert_eq!(kept.rows(), times.iter().filter(|at| newest - **at <= 5 * MINUTE).count());
        plan.memory().unwrap().pass(newest + 6 * MINUTE, &mut kept).unwrap();
        prop_assert_eq!(kept.rows(), 0, "nobody speaks any more");
    }
}

/// A device's clock is wrong, or a row came before what is kept of history was read.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_time_than_they_say_are_left_out() {
    let all = signals(&[(0, 1, Some(1), None), (1, 1, Some(2), None), (1, 1, Some(3), None)]);
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", all.clone());
    let session = service(&fixture).session();
    let plan = session.continuous(&sql("lag(a) OVER w AS x", "true", ""), None).await.unwrap();
    let (memory, mut kept, mut at) = (plan.memory().unwrap(), Kept::default(), times(&all));
    at[1] += 1;
    let entered = plan.enter(&all, &Shared::default()).unwrap().rows;
    let said = memory.take(&entered, &at, &mut kept).unwrap().unwrap();
    assert_eq!(said.which.unwrap(), [0, 2]);
    let said = plan.run(&said.rows, &Shared::default()).unwrap().rows;
    assert_eq!(said["x"].as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [None, Some(1)]);
    let said = memory.take(&entered, &times(&all), &mut kept).unwrap().unwrap();
    assert_eq!((said.rows.num_rows(), said.which.unwrap()), (1, vec![2]), "older than what is kept");
}

/// Rows for which nothing was found, and those of another chain, come after the others otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_joins_and_unions_are_looked_back_at_in_the_order_of_time() {
    let rows: Vec<Given> = (0..9).map(|row| (1, 1, Some(row % 3), Some(row))).collect();
    let (all, fixture) = (signals(&rows), Arc::new(Fixture::default()));
    fixture.put("public", "signals", all.clone());
    fixture.keep("cars", Still::new(&["a"], signals(&[(0, 1, Some(1), None)])), None);
    let session = service(&fixture).session();
    for from in [
        "SELECT n, car, event_time FROM signals WHERE a = 2 UNION ALL SELECT n, car, event_time FROM signals WHERE a < 2",
        "SELECT s.n, s.car, s.event_time, x.b FROM signals s LEFT JOIN cars x ON x.a = s.a",
    ] {
        let select = format!("SELECT n, lag(n) OVER (PARTITION BY car ORDER BY event_time) AS x FROM ({from})");
        let plan = session.continuous(&select, None).await.unwrap();
        let found = streamed(&plan, &all, &mut Kept::default()).0;
        let numbers = |name: &str| found[name].as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
        assert_eq!(numbers("n"), (0..9).map(Some).collect::<Vec<_>>(), "{from}");
        assert_eq!(numbers("x"), std::iter::once(None).chain((0..8).map(Some)).collect::<Vec<_>>(), "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_cannot_be_computed_leaves_nothing_behind() {
    let all = signals(&[(0, 1, Some(1), Some(1)), (1, 1, Some(2), Some(0)), (1, 1, Some(3), Some(1))]);
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", all.clone());
    let session = service(&fixture).session();
    let plan = session.continuous(&sql("lag(a / b) OVER w AS x", "true", ""), None).await.unwrap();
    let (memory, mut kept) = (plan.memory().unwrap(), Kept::default());
    let entered = plan.enter(&all, &Shared::default()).unwrap().rows;
    assert!(memory.take(&entered, &times(&all), &mut kept).is_err());
    assert_eq!(kept.rows(), 0);
    let said = memory.take(&entered.slice(0, 1), &times(&all)[..1], &mut kept).unwrap().unwrap();
    assert_eq!((said.rows.num_rows(), kept.rows()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_the_same_has_the_same_fingerprint() {
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", signals(&[]));
    let session = service(&fixture).session();
    let plan = async |select: &str, filter: &str, tail: &str| {
        let plan = session.continuous(&sql(select, filter, tail), None).await.unwrap();
        plan.memory().unwrap().fingerprint().to_owned()
    };
    let one = plan("lag(a) OVER w AS x", "b > 1", "QUALIFY x > 3").await;
    assert_eq!(plan("lag(a) OVER w AS y, 'text' AS c", "b > 1", "QUALIFY y > 4").await, one, "another threshold");
    assert_ne!(plan("lag(a) OVER w AS x", "b > 2", "QUALIFY x > 3").await, one);
    assert_ne!(plan("lag(a, 2) OVER w AS x", "b > 1", "QUALIFY x > 3").await, one);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_back_at_is_refused_with_the_way_out() {
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", signals(&[]));
    let session = service(&fixture).session();
    const OVER: &str = "OVER (PARTITION BY car ORDER BY event_time";
    for (select, reason, hint) in [
        ("lag(a) OVER (PARTITION BY car ORDER BY n)".to_owned(), "another order", "ORDER BY event_time"),
        ("lag(a) OVER (PARTITION BY car ORDER BY event_time DESC)".to_owned(), "another order", "ORDER BY event_time"),
        (format!("lead(a) {OVER})"), "have not come", "lag"),
        (format!("row_number() {OVER})"), "from the first row on", "lag"),
        (format!("sum(a) {OVER})"), "begins with the first row", "RANGE INTERVAL"),
        (format!("sum(a) {OVER} ROWS UNBOUNDED PRECEDING)"), "begins with the first row", "RANGE INTERVAL"),
        (format!("sum(a) {OVER} ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)"), "have not come", "CURRENT ROW"),
        (format!("approx_distinct(a) {OVER} ROWS 3 PRECEDING)"), "a frame that moves", "leave out rows"),
    ] {
        let sql = format!("SELECT n, {select} AS x FROM signals");
        let error = session.continuous(&sql, None).await.expect_err(&sql);
        let (said, way_out) = (error.message(), error.hint_text().unwrap_or_default());
        assert!(said.contains(reason) && way_out.contains(hint), "{sql}: {said}; {way_out}");
    }
    for who in ["SUBSCRIBE "] {
        let sql = format!("{who}SELECT n, lag(a) {OVER}) AS x FROM signals");
        let error = session.query(&sql).await.map(|_| ()).unwrap_err();
        assert!(error.message().contains("one row at a time"), "{error}");
    }
}
