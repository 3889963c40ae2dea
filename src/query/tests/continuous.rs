//! A query over new rows finds what the same query finds over all of them at once, however they are cut into batches.

use arrow::array::{Array, BooleanArray, ListArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::direct::Still;
use super::*;
use crate::latest::ReferenceRows;
use crate::latest::tests::Changing;

/// What is selected, where from, and on what condition.
const QUERIES: &[(&str, &str, &str)] = &[
    ("s.n, s.a", "signals s", "s.a > 1"),
    ("n, a + b AS total, CASE WHEN a > b THEN 'more' ELSE 'less' END AS what", "signals", "NOT (a > 1 AND b < 2)"),
    ("s.n, c.plate", "signals s JOIN cars c ON c.id = s.car", "s.a > 0 AND c.speed > 1"),
    ("s.n, c.plate, c.speed * s.a AS x", "signals s LEFT JOIN cars c ON s.car = c.id", "c.speed > 1 OR s.b = 2"),
    ("s.n, c.plate", "signals s JOIN cars c ON c.id = s.car AND c.speed > s.a", "s.b IS NOT NULL"),
    ("s.n, t.id", "signals s JOIN cars t ON t.speed = s.a", "t.plate <> 'one' AND s.b < 3"),
    ("s.n, t.sign", "signals s LEFT JOIN state t ON t.id = s.car AND t.moving", "s.a < 3 AND t.sign = '?'"),
    (
        "s.n, c.plate, d.plate AS other",
        "signals s JOIN cars c ON c.id = s.car LEFT JOIN cars d ON d.id = s.b",
        "c.speed > 0 AND d.speed IS NULL",
    ),
    ("s.n, c.id", "signals s JOIN cars c ON c.plate = 'one'", "s.a > 1"),
    ("s.n, c.id", "signals s LEFT JOIN cars c ON c.id = 1 AND c.speed > s.a", "s.b > 1 OR c.plate IS NULL"),
    ("s.n, c.id", "signals s LEFT JOIN cars c ON c.plate = 'one' AND 2 = c.speed AND c.id = s.car", "s.b > 1"),
    ("s.n, z.plate", "signals s, zones z", "z.speed > s.a AND z.plate = 'two'"),
    ("s.n, z.id", "signals s LEFT JOIN zones z ON z.speed < s.b", "s.a > 0"),
    ("s.n, z.plate", "signals s JOIN zones z ON z.id = s.car", "z.speed > s.a"),
    ("n, unnest(make_array(a, b)) AS x", "signals", "a > 1"),
    ("x.n, x.l, x.r", "(SELECT n, unnest(l) AS l, unnest(make_array(n, a, car)) AS r FROM signals) x", "x.l > x.r"),
    ("x.n, c.plate", "(SELECT n, unnest(l) AS l FROM signals WHERE b > 0) x LEFT JOIN cars c ON c.id = x.l", "x.l > 0"),
    (
        "x.n, x.v, c.plate",
        "(SELECT n, a AS v FROM signals WHERE b > 1 UNION ALL SELECT n, b FROM signals WHERE a > 1 \
         UNION ALL SELECT n, car FROM signals) x LEFT JOIN cars c ON c.id = x.v",
        "x.v > 1",
    ),
    ("x.n, x.twice", "(SELECT n, a * 2 AS twice, b FROM signals WHERE b IS NOT NULL) x", "x.twice > x.b"),
];

fn signals(rows: &[(Option<i64>, Option<i64>, Option<i64>)]) -> RecordBatch {
    let column = |values: Vec<Option<i64>>| Arc::new(Int64Array::from(values)) as ArrayRef;
    let lists = rows.iter().map(|(car, a, b)| car.map(|car| (0..car).map(|at| if at % 2 == 0 { *a } else { *b })));
    RecordBatch::try_from_iter_with_nullable([
        ("l", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)) as ArrayRef, true),
        ("n", column((0..rows.len() as i64).map(Some).collect()), true),
        ("car", column(rows.iter().map(|row| row.0).collect()), true),
        ("a", column(rows.iter().map(|row| row.1).collect()), true),
        ("b", column(rows.iter().map(|row| row.2).collect()), true),
    ])
    .unwrap()
}

fn cars(rows: &[(Option<&'static str>, Option<i64>)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(0..rows.len() as i64)) as ArrayRef, false),
        ("plate", Arc::new(StringArray::from_iter(rows.iter().map(|row| row.0))), true),
        ("speed", Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.1))), true),
    ])
    .unwrap()
}

const DERIVED: &str = "SELECT *, (speed > 1) AS moving, (coalesce(plate, '?')) AS sign FROM public.cars";

fn fixture(new: &RecordBatch, known: &RecordBatch) -> Arc<Fixture> {
    let fixture = Arc::new(Fixture::default());
    fixture.put("public", "signals", new.clone());
    let still = Still::new(&["id"], known.clone());
    fixture.keep("cars", Arc::clone(&still) as _, None);
    fixture.keep("state", still, Some(DERIVED));
    let zones = ReferenceRows::new("zones", &["id".to_owned()]);
    zones.replace(known.clone()).unwrap();
    fixture.keep("zones", Arc::new(zones), None);
    fixture
}

/// Each row with what the condition says of it, sorted.
fn lines(batches: &[(RecordBatch, BooleanArray)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (rows, holds) in batches {
        let text = pretty_format_batches(std::slice::from_ref(rows)).unwrap().to_string();
        let cells = text.lines().filter(|line| line.starts_with('|')).skip(1);
        for (row, line) in cells.enumerate() {
            let holds = holds.is_valid(row).then(|| holds.value(row));
            lines.push(format!("{} {holds:?}", line.replace(' ', "")));
        }
    }
    lines.sort();
    lines
}

async fn at_once(session: &Session, (select, from, condition): (&str, &str, &str)) -> Vec<String> {
    let sql = format!("SELECT {select}, ({condition}) AS holds FROM {from}");
    let batches = session.query(&sql).await.unwrap().run().await.unwrap().collect().await.unwrap();
    let apart = |rows: RecordBatch| {
        let last = rows.num_columns() - 1;
        let holds = arrow::compute::cast(rows.column(last), &arrow::datatypes::DataType::Boolean).unwrap();
        let holds: BooleanArray = arrow::array::AsArray::as_boolean(&holds).clone();
        (rows.project(&(0..last).collect::<Vec<_>>()).unwrap(), holds)
    };
    let all: Vec<_> = batches.into_iter().map(apart).collect();
    lines(&all).into_iter().filter(|line| !line.ends_with("Some(false)")).collect()
}

fn cell() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![1 => Just(None), 4 => (0..5_i64).prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn new_rows_give_what_all_rows_give_at_once(
        new in prop::collection::vec((cell(), cell(), cell()), 0..30),
        known in prop::collection::vec((prop::option::of(prop_oneof![Just("one"), Just("two")]), cell()), 0..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (new, known) = (signals(&new), cars(&known));
        let session = service(&fixture(&new, &known)).session();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(new.num_rows() + 1)).collect();
        ends.push(new.num_rows());
        ends.sort_unstable();
        // All ask the same rows.
        let shared: Vec<Shared> = ends.iter().map(|_| Shared::default()).collect();
        for query @ (select, from, condition) in QUERIES {
            let sql = format!("SELECT {select} FROM {from} WHERE {condition}");
            let plan = runtime.block_on(session.continuous(&sql, None)).unwrap();
            prop_assert_eq!(plan.stream(), "signals");
            let (mut found, mut first) = (Vec::new(), 0);
            for (end, shared) in ends.iter().zip(&shared) {
                let part = plan.run(&new.slice(first, end - first), shared).unwrap();
                let column = new["n"].slice(first, end - first);
                for (row, origin) in part.origins.iter().enumerate() {
                    let n = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&part.rows["n"]);
                    let own = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&column);
                    prop_assert_eq!(n.value(row), own.value(*origin as usize), "the row that it comes from");
                }
                found.push((part.rows, part.holds));
                first = *end;
            }
            prop_assert_eq!(lines(&found), runtime.block_on(at_once(&session, *query)), "{}", sql);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn what_is_looked_up_is_as_it_is_now(
        puts in prop::collection::vec((0..8_i64, prop::option::of(cell()), any::<bool>()), 1..40),
    ) {
        let fixture = fixture(&signals(&[]), &cars(&[]));
        let mut changing = Changing::new("doors");
        fixture.keep("doors", Arc::clone(&changing.table) as _, None);
        let session = service(&fixture).session();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let plan = |sql: &str| runtime.block_on(session.continuous(sql, None)).unwrap();
        let queries = [
            "SELECT s.n, d.id, d.a FROM signals s JOIN doors d ON d.b = s.a",
            "SELECT s.n, d.id FROM signals s LEFT JOIN (SELECT id, b + 1 AS next FROM doors WHERE b > 0) d ON d.next = s.b",
        ];
        let kept: Vec<Continuous> = queries.iter().map(|sql| plan(sql)).collect();
        let new = signals(&[(Some(1), Some(1), Some(2)), (Some(2), Some(3), Some(4)), (None, Some(0), None)]);
        let found = |plan: &Continuous| {
            let found = plan.run(&new, &Shared::default()).unwrap();
            lines(&[(found.rows, found.holds)])
        };
        for (key, row, looks) in puts {
            changing.put(key, row.map(|b| (Some("x"), b)));
            for (kept, sql) in kept.iter().zip(queries).filter(|_| looks) {
                prop_assert_eq!(found(kept), found(&plan(sql)), "{}", sql);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_filtered_out_is_explained_to_the_end() {
    let new = signals(&[(Some(0), Some(1), None)]);
    let session = service(&fixture(&new, &cars(&[(Some("one"), Some(3))]))).session();
    let sql = "SELECT x.n, x.twice, c.plate FROM (SELECT n, car, a * 2 AS twice FROM signals WHERE b IS NOT NULL) x \
               JOIN cars c ON c.id = x.car WHERE x.twice > 1";
    let explained = session.continuous(sql, None).await.unwrap().explain(&new).unwrap();
    let found = Explained::LookUp { table: "cars".to_owned(), found: 0 };
    assert!(matches!(&explained[..], [Explained::Condition { holds, .. }, last] if holds.is_empty() && *last == found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_an_alert_is_told_of_every_row() {
    let new = signals(&[(Some(0), Some(1), Some(5)), (Some(0), Some(4), Some(1)), (Some(0), None, None)]);
    let session = service(&fixture(&new, &cars(&[]))).session();
    let plan = session.continuous("SELECT n FROM signals WHERE a > 2", Some("b > 3")).await.unwrap();
    let found = plan.run(&new, &Shared::default()).unwrap();
    let texts = |column: &dyn Array| arrow::array::AsArray::as_boolean(column).iter().collect::<Vec<_>>();
    assert_eq!(texts(&found.holds), [Some(false), Some(true), None]);
    assert_eq!(texts(found.more.as_ref().unwrap()), [Some(true), Some(false), None]);
    assert_eq!((found.rows.num_columns(), plan.schema().fields().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_continuous_is_refused_with_the_way_out() {
    let session = service(&fixture(&signals(&[]), &cars(&[]))).session();
    for (sql, reason, hint) in [
        ("SELECT a FROM signals ORDER BY a", "ORDER BY", ""),
        ("SELECT a FROM signals LIMIT 3", "LIMIT", ""),
        ("SELECT a FROM signals UNION ALL SELECT id FROM cars", "several streams", "a query for each"),
        ("SELECT unnest(struct(a, b)) FROM signals", "UNNEST of what is no list", "a column of a list type"),
        ("SELECT a FROM signals WHERE a IN (SELECT id FROM cars)", "a query inside", "join the table"),
        ("SELECT a FROM signals WHERE now() > TIMESTAMP '2026-01-01T00:00:00Z'", "now()", "event_time"),
        (
            "SELECT s.a FROM signals s JOIN signals t ON s.n = t.n",
            "one row per key",
            "mirrors, latest or reference tables",
        ),
        ("SELECT s.a FROM signals s JOIN cars c ON c.id > s.car", "without an equality", "ON a.x = b.y"),
        ("SELECT s.a FROM signals s RIGHT JOIN cars c ON c.id = s.car", "RIGHT", "LEFT JOIN"),
        ("SELECT 1", "FROM", "the stream"),
        ("SELECT nothing FROM signals", "nothing", ""),
    ] {
        let error = session.continuous(sql, None).await.expect_err(sql);
        let (said, way_out) = (error.message().to_lowercase(), error.hint_text().unwrap_or_default());
        assert!(said.contains(&reason.to_lowercase()), "{sql}: {said}");
        assert!(way_out.contains(hint), "{sql}: {way_out}");
    }
}
