//! Look-ups that are planned once answer as the same statement does when it is planned.

use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use super::*;
use crate::latest::{Stats, Unavailable};
use crate::query::ScalarValue as V;

/// Rows that stay as they are, and how often they were scanned.
#[derive(Debug)]
pub(super) struct Still {
    key: Vec<String>,
    rows: RecordBatch,
    scans: AtomicUsize,
}

impl Still {
    pub(super) fn new(key: &[&str], rows: RecordBatch) -> Arc<Self> {
        let key = key.iter().map(|name| (*name).to_owned()).collect();
        Arc::new(Self { key, rows, scans: AtomicUsize::new(0) })
    }
}

impl crate::latest::Rows for Still {
    fn name(&self) -> &str {
        "cars"
    }

    fn key(&self) -> &[String] {
        &self.key
    }

    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn changes(&self) -> u64 {
        0
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn stopped(&self) -> Option<String> {
        None
    }

    fn is_loading(&self) -> bool {
        false
    }

    fn scan(&self) -> std::result::Result<Vec<RecordBatch>, Unavailable> {
        self.scans.fetch_add(1, Ordering::Relaxed);
        Ok(vec![self.rows.clone()])
    }

    fn get(&self, keys: &[ArrayRef]) -> std::result::Result<Option<RecordBatch>, Unavailable> {
        let cell = |column: &ArrayRef, row| V::try_from_array(column, row).unwrap();
        let own: Vec<&ArrayRef> = self.key.iter().map(|name| self.rows.column_by_name(name).unwrap()).collect();
        let is_key = |row, at| own.iter().zip(keys).all(|(own, keys)| cell(own, row) == cell(keys, at));
        let is_wanted = |row| (0..keys[0].len()).any(|at| is_key(row, at));
        let mask = (0..self.rows.num_rows()).map(|row| Some(is_wanted(row))).collect();
        Ok(Some(filter_record_batch(&self.rows, &mask).unwrap()))
    }
}

fn cars() -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values([1_795_305_600_000_000, 1_795_305_600_000_000, 0]);
    RecordBatch::try_from_iter([
        ("id", Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef),
        ("plate", Arc::new(StringArray::from(vec![Some("one"), None, Some("three")]))),
        ("speed", Arc::new(Float64Array::from(vec![1.5, 2.5, 9.0]))),
        ("at", Arc::new(times.with_timezone("UTC"))),
    ])
    .unwrap()
}

const DERIVED: &str = "SELECT *, (speed > 2) AS moving, (coalesce(plate, '?')) AS sign FROM public.cars";

fn fixture() -> (Arc<Fixture>, Arc<Still>) {
    let fixture = Fixture::fleet();
    let still = Still::new(&["id"], cars());
    fixture.keep("cars", Arc::clone(&still) as _, None);
    fixture.keep("state", Arc::clone(&still) as _, Some(DERIVED));
    (fixture, still)
}

fn shown(batches: &[RecordBatch]) -> String {
    pretty_format_batches(batches).unwrap().to_string()
}

/// What a prepared statement answers, and what it answers when it is planned with its values.
async fn answers(session: &Session, sql: &str, values: &[V]) -> [String; 2] {
    let parsed = parse::parse(sql).unwrap();
    let ask = allow::sort(parsed).unwrap();
    let planned = session.bind(sql.into(), ask, values.to_vec()).await.unwrap();
    let prepared = session.prepare(sql).await.unwrap().bind(values.to_vec()).await.unwrap();
    assert_eq!(prepared.schema(), planned.schema(), "{sql}");
    let mut shown = Vec::new();
    for query in [prepared, planned] {
        let rows = query.run().await.unwrap().collect().await.unwrap();
        shown.push(self::shown(&[vec![RecordBatch::new_empty(query.schema())], rows].concat()));
    }
    shown.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_by_the_whole_key_is_planned_once_and_answers_the_same() {
    let (fixture, still) = fixture();
    let session = service(&fixture).session();
    for sql in [
        "SELECT * FROM cars WHERE id = ?",
        "SELECT plate, id + 1 AS next, upper(plate) FROM cars WHERE id = $1",
        "SELECT c.plate AS p, c.at, 7 FROM public.cars c WHERE ? = c.id",
        "SELECT * FROM state WHERE id = ?",
        "SELECT moving, sign || '!' FROM state s WHERE id = $1",
        "SELECT x.moving FROM (SELECT * FROM state) x WHERE x.id = $1",
        "SELECT to_char(at, '%H:%M') FROM cars WHERE id = ?",
    ] {
        let values = [
            V::Int32(Some(1)),
            V::Int64(Some(3)),
            V::Int64(Some(1 << 40)),
            V::Utf8(Some("2".into())),
            V::Float64(Some(2.0)),
            V::Float64(Some(1.5)),
            V::Int32(Some(9)),
            V::Int32(None),
        ];
        assert!(session.prepare(sql).await.unwrap().is_direct(), "{sql}");
        for value in values {
            let [direct, planned] = answers(&session, sql, std::slice::from_ref(&value)).await;
            assert_eq!(direct, planned, "{sql} with {value:?}");
        }
    }
    // Nothing was scanned but for values that are no keys.
    let statement = session.prepare("SELECT * FROM state WHERE id = ?").await.unwrap();
    let scans = still.scans.load(Ordering::Relaxed);
    statement.run(vec![V::Int64(Some(1))]).await.unwrap().collect().await.unwrap();
    assert_eq!(still.scans.load(Ordering::Relaxed), scans);
    let [direct, planned] = answers(&session, "SELECT plate FROM cars WHERE id = 3", &[]).await;
    assert_eq!(direct, planned);
    assert!(direct.contains("three"), "{direct}");

    let both = Still::new(&["id", "plate"], cars());
    fixture.keep("cars", both, None);
    let sql = "SELECT speed FROM cars WHERE plate = $2 AND id = $1";
    assert!(session.prepare(sql).await.unwrap().is_direct());
    let [direct, planned] = answers(&session, sql, &[V::Int64(Some(1)), V::Utf8(Some("one".into()))]).await;
    assert_eq!(direct, planned);
    assert!(direct.contains("1.5"), "{direct}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_reads_no_table_is_planned_once_and_answers_the_same() {
    let (fixture, _) = fixture();
    let session = service(&fixture).session();
    for sql in [
        "SELECT 1",
        "SELECT 1 + 1 AS two, 'a' || upper('b'), NULL, DATE '2026-01-01'",
        "SELECT x + 1 FROM (SELECT 1 AS x) AS t",
        "SELECT 1 AS one WHERE 1 > 2",
        "SELECT to_char(to_timestamp(0), '%H:%M') AS t",
    ] {
        let statement = session.prepare(sql).await.unwrap();
        assert!(statement.is_direct(), "{sql}");
        for zone in ["UTC", "Asia/Seoul"] {
            session.set("timezone", zone).unwrap();
            let [direct, planned] = answers(&session, sql, &[]).await;
            assert_eq!(direct, planned, "{sql} in {zone}");
            let again = statement.run(Vec::new()).await.unwrap().collect().await.unwrap();
            assert!(
                again.iter().all(|rows| planned.contains(&shown(std::slice::from_ref(rows))) || rows.num_rows() == 0)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_a_look_up_is_planned_each_time() {
    let (fixture, _) = fixture();
    fixture.view("mine", "SELECT * FROM cars");
    let session = service(&fixture).session();
    for sql in [
        "SELECT * FROM cars WHERE id = ? AND plate = 'one'",
        "SELECT * FROM cars WHERE id > ?",
        "SELECT * FROM cars WHERE id = ? LIMIT 1",
        "SELECT * FROM cars WHERE id = ? OR id = 2",
        "SELECT * FROM cars WHERE plate = ?",
        "SELECT *, now() FROM cars WHERE id = ?",
        "SELECT *, random() FROM cars WHERE id = ?",
        "SELECT count(*) FROM cars WHERE id = ?",
        "SELECT DISTINCT plate FROM cars WHERE id = ?",
        "SELECT cars.id FROM cars JOIN state USING (id) WHERE cars.id = ?",
        "SELECT (SELECT max(id) FROM cars) FROM cars WHERE id = ?",
        "SELECT * FROM cars WHERE id = ? UNION ALL SELECT * FROM cars",
        "SELECT * FROM mine WHERE id = ?",
        "SELECT plate, ? FROM cars WHERE id = 1",
        "SELECT * FROM telemetry WHERE gear = ?",
        "SELECT now()",
        "SELECT repeat('x', 100000)",
        "SELECT random()",
        "SELECT current_date",
        "SELECT ? + 1",
        "SELECT 1 UNION ALL SELECT 2",
        "SELECT (SELECT count(*) FROM cars)",
    ] {
        assert!(!session.prepare(sql).await.unwrap().is_direct(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_look_up_follows_its_table_and_its_session() {
    let (fixture, _) = fixture();
    let session = service(&fixture).session();
    let all = session.prepare("SELECT * FROM cars WHERE id = ?").await.unwrap();
    let clock = session.prepare("SELECT to_char(at, '%H:%M') AS t FROM cars WHERE id = ?").await.unwrap();
    let ask = async |statement: &Statement, id: i32| {
        shown(&statement.run(vec![V::Int32(Some(id))]).await.unwrap().collect().await.unwrap())
    };
    assert!(ask(&all, 1).await.contains("one"));
    assert!(ask(&clock, 1).await.contains("00:00"));
    session.set("timezone", "Asia/Seoul").unwrap();
    let [direct, planned] =
        answers(&session, "SELECT to_char(at, '%H:%M') AS t FROM cars WHERE id = ?", &[V::Int32(Some(1))]).await;
    assert_eq!(direct, planned);
    assert_eq!(ask(&clock, 1).await.lines().nth(3), planned.lines().nth(3), "{planned}");
    // The rows are others now, and have a column more.
    let mut columns: Vec<(String, ArrayRef)> =
        cars().schema().fields().iter().zip(cars().columns()).map(|(f, c)| (f.name().clone(), Arc::clone(c))).collect();
    columns.insert(1, ("color".to_owned(), Arc::new(StringArray::from(vec!["red", "green", "blue"]))));
    fixture.keep("cars", Still::new(&["id"], RecordBatch::try_from_iter(columns).unwrap()), None);
    let found = ask(&all, 3).await;
    assert!(found.contains("blue") && found.contains("color"), "{found}");
    // The table is gone.
    fixture.pinned.lock().schemas.get_mut(PUBLIC).unwrap().remove("cars");
    fixture.kept.lock().remove("cars");
    let error = all.run(vec![V::Int32(Some(1))]).await.err().unwrap();
    assert_eq!(error.kind(), crate::error::Kind::NotFound, "{error}");
}
