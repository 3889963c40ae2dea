//! Columns that succeed each other, over a real Delta table: committed before and after, and hot.

use arrow::record_batch::RecordBatch;
use tempfile::TempDir;

use super::*;
use crate::decode::Decoder;
use crate::decode::dead_letters_schema;
use crate::decode::tests::records;
use crate::lake::{
    self, DeadLetters, HotBatch, INTERNAL_URL, Lake, LiveView, Location, Positions, S3Options, Stores, Table,
    TopicPartition, View, Window,
};
use crate::schema::{Column, ColumnType, Contract, OnTypeConflict, SchemaVersion, fixed, tests::contract};
use crate::task::{Budget, Shutdown};

/// A table `t` that is fed step by step.
struct Fed {
    _dir: TempDir,
    lake: Lake,
    table: Table,
    dead_letters: DeadLetters,
    live: LiveView,
    version: SchemaVersion,
    contract: Contract,
    budget: Budget,
    position: i64,
}

struct OneTable {
    lake: Lake,
    view: Arc<View>,
}

impl Catalog for OneTable {
    fn pin(&self) -> Pinned {
        let table: Arc<dyn TableProvider> = Arc::new(ViewTable::new(&self.view));
        let public = BTreeMap::from([("t".to_owned(), table)]);
        Pinned { schemas: BTreeMap::from([("public".to_owned(), public)]), ..Pinned::default() }
    }

    fn past(&self, table: &str, at: Past) -> BoxFuture<'static, Result<Option<Arc<dyn TableProvider>>>> {
        let (lake, name) = (self.lake.clone(), table.to_owned());
        Box::pin(async move {
            let Some(past) = lake.past("public", &name, at).await.unwrap() else { return Ok(None) };
            let schema = past.arrow_schema().unwrap();
            Ok(Some(Arc::new(ViewTable::committed(Some(past.snapshot().unwrap()), &schema)) as Arc<dyn TableProvider>))
        })
    }
}

impl Fed {
    async fn new(columns: &[(&str, ColumnType)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::Folder(dir.path().to_owned());
        let lake = Lake::new(Stores::open_or_create(&location, &S3Options::default()).await.unwrap());
        let column = |(name, kind): &(&str, ColumnType)| Column::new((*name).into(), name.parse().unwrap(), *kind);
        let version = SchemaVersion { number: 1, keys: 0, columns: columns.iter().map(column).collect() };
        let make = async |folder: &str, name: &str, schema, days: &[&str]| {
            lake::create(&lake, folder, name, &schema, days, 1, &Positions::new()).await.unwrap()
        };
        let table = make("public", "t", version.arrow_schema(), &[fixed::DAY]).await;
        let dead_letters = make("system", "dead_letters", dead_letters_schema(), &[]).await;
        let live = LiveView::new(View {
            table: "t".into(),
            schema: version.arrow_schema(),
            schema_version: 1,
            committed: Some(table.snapshot().unwrap()),
            positions: Positions::new(),
            hot: Vec::new(),
            retries: 0,
            remade: 0,
        });
        Self {
            _dir: dir,
            lake,
            table,
            dead_letters: DeadLetters::new(dead_letters, dead_letters_schema()).unwrap(),
            live,
            version,
            contract: Contract { on_type_conflict: OnTypeConflict::Widen, ..contract() },
            budget: Budget::new(1 << 30),
            position: 0,
        }
    }

    /// Shows the rows of these records.
    fn take(&mut self, payloads: &[&str]) {
        let records = records(self.position, payloads);
        let decode = |version: &SchemaVersion| -> (RecordBatch, Vec<_>) {
            let mut decoder = Decoder::new(Arc::new(self.contract.clone()), Arc::new(version.clone()));
            let decoded = decoder.decode(&records).unwrap();
            (decoded.rows, [decoded.found, decoded.misfits].concat())
        };
        let (mut rows, found) = decode(&self.version);
        if let Some(next) = self.version.evolve(&self.contract, &found) {
            rows = decode(&next).0;
            self.live.evolve(next.arrow_schema(), next.number);
            self.version = next;
        }
        let lane = TopicPartition { topic: "fleet".into(), incarnation: 1, partition: 0 };
        let charge = self.budget.charge(1);
        let (start, end, beside) = (records.start, records.end, Vec::new());
        self.live.push(Arc::new(HotBatch {
            lane,
            start,
            end,
            rows,
            dead: None,
            beside,
            charge,
            received_at: std::time::Instant::now(),
        }));
        self.position = records.end;
    }

    /// Commits what is hot; the table version.
    async fn commit(&mut self) -> u64 {
        let window = Window::freeze(&self.live.pin(), &[], usize::MAX).unwrap();
        lake::flush(
            &mut self.table,
            &mut [],
            window,
            &self.dead_letters,
            &lake::Encoding::new(1 << 20),
            &Shutdown::new(),
        )
        .await
        .unwrap();
        self.live.committed(&self.table).unwrap();
        self.table.version()
    }

    fn session(&self) -> Session {
        let catalog = OneTable { lake: self.lake.clone(), view: self.live.pin() };
        let stores = vec![(INTERNAL_URL.parse().unwrap(), Arc::clone(self.lake.stores().data()))];
        Service::new(Arc::new(catalog), ServiceOptions { stores, ..ServiceOptions::default() }).unwrap().session()
    }
}

async fn column(session: &Session, sql: &str) -> String {
    rows(session, sql).await.unwrap().replace(['|', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Zeros, then 12.5: three parts of one column.
async fn widened() -> (Fed, u64, u64) {
    let mut fed = Fed::new(&[("n", ColumnType::Int64), ("id", ColumnType::Int64)]).await;
    fed.take(&[r#"{"n":0,"id":0}"#, r#"{"n":1,"id":1}"#, r#"{"n":5,"id":2}"#]);
    let before = fed.commit().await;
    fed.take(&[r#"{"n":12.5,"id":3}"#, r#"{"n":3,"id":4}"#, r#"{"id":5}"#]);
    let after = fed.commit().await;
    fed.take(&[r#"{"n":7,"id":6}"#, r#"{"n":1e3,"id":7,"new":true}"#]);
    (fed, before, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_widened_column_is_one_column_without_nulls() {
    let (fed, ..) = widened().await;
    let session = fed.session();
    let all = "0.0 1.0 5.0 12.5 3.0 7.0 1000.0";
    assert_eq!(column(&session, "SELECT n FROM t WHERE n IS NOT NULL ORDER BY _offset").await, all);
    assert_eq!(column(&session, "SELECT id FROM t WHERE n IS NULL").await, "5");
    assert_eq!(column(&session, "SELECT DISTINCT arrow_typeof(n) FROM t").await, "Float64");
    assert_eq!(column(&session, "SELECT count(*) FROM t").await, "8");
    assert_eq!(column(&session, "SELECT count(n), sum(n), max(n) FROM t").await, "7 1028.5 1000.0");
    assert_eq!(column(&session, "SELECT id FROM t WHERE new").await, "7");
    let wildcard = rows(&session, "SELECT * FROM t LIMIT 1").await.unwrap();
    assert_eq!(wildcard.matches('|').count(), 3 + 10 + 1, "n, id, new and the ten fixed ones: {wildcard}");
    let names = "SELECT column_name FROM information_schema.columns WHERE table_name = 't' AND column_name LIKE 'n%'";
    assert_eq!(column(&session, &format!("{names} ORDER BY 1")).await, "n new");
    let hidden = rows(&session, "SELECT n__w1 FROM t").await.unwrap_err();
    assert!(hidden.to_string().contains("n__w1"), "{hidden}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_on_a_widened_column_is_right_whichever_part_holds_the_value() {
    let (mut fed, ..) = widened().await;
    for state in ["hot and committed", "committed"] {
        let session = fed.session();
        for (filter, ids) in [
            ("n = 0", "0"),
            ("n = 1", "1"),
            ("n = 12.5", "3"),
            ("n = 7", "6"),
            ("n > 4.5", "2 3 6 7"),
            ("n >= 5", "2 3 6 7"),
            ("n < 0.5", "0"),
            ("n <= 3", "0 1 4"),
            ("n <> 1", "0 2 3 4 6 7"),
            ("n BETWEEN 1 AND 5", "1 2 4"),
            ("n IN (0, 12.5, 1000)", "0 3 7"),
            ("n NOT IN (0, 12.5, 1000)", "1 2 4 6"),
            ("n IS NULL", "5"),
            ("coalesce(n, -1) < 0", "5"),
            ("n > 1 AND id < 4", "2 3"),
            ("n = 0 OR n = 1000", "0 7"),
            ("NOT (n > 4.5)", "0 1 4"),
            ("n > id", "2 3 6 7"),
            ("n > 1e300", ""),
        ] {
            let found = column(&session, &format!("SELECT id FROM t WHERE {filter} ORDER BY id")).await;
            assert_eq!(found, ids, "{filter}, {state}");
        }
        if state != "committed" {
            fed.commit().await;
        }
    }
    // What can be said of the stored columns reaches the scan of the files.
    let plan = rows(&fed.session(), "EXPLAIN SELECT id FROM t WHERE n > 4.5").await.unwrap();
    assert!(plan.contains("n__w1@") && plan.contains(">4"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_become_timestamps_and_conflicts_strings() {
    let mut fed = Fed::new(&[("d", ColumnType::Date), ("s", ColumnType::Int64)]).await;
    fed.take(&[r#"{"d":"2024-02-29","s":7}"#]);
    fed.commit().await;
    fed.contract.on_type_conflict = OnTypeConflict::Widen;
    fed.take(&[r#"{"d":"2024-02-29T10:00:00Z"}"#, r#"{"d":"2024-03-01"}"#]);
    fed.contract.on_type_conflict = OnTypeConflict::String;
    fed.take(&[r#"{"s":"seven"}"#]);
    let session = fed.session();
    let dates = column(&session, "SELECT d FROM t WHERE d IS NOT NULL ORDER BY d").await;
    assert_eq!(dates, "2024-02-29T00:00:00Z 2024-02-29T10:00:00Z 2024-03-01T00:00:00Z");
    assert_eq!(column(&session, "SELECT count(*) FROM t WHERE d = '2024-02-29T00:00:00Z'").await, "1");
    assert_eq!(column(&session, "SELECT s FROM t WHERE s IS NOT NULL ORDER BY _offset").await, "7 seven");
    assert_eq!(column(&session, "SELECT _offset FROM t WHERE s = '7'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_as_it_was() {
    let (fed, before, after) = widened().await;
    let session = fed.session();
    let at = |version: u64| format!("at_version('t', {version})");
    assert_eq!(column(&session, &format!("SELECT sum(n) FROM {}", at(before))).await, "6");
    let kind = format!("SELECT DISTINCT arrow_typeof(n) FROM {}", at(before));
    assert_eq!(column(&session, &kind).await, "Int64", "with the columns of its time");
    assert_eq!(column(&session, &format!("SELECT sum(n) FROM {}", at(after))).await, "21.5");
    assert_eq!(column(&session, &format!("SELECT count(*) FROM {} WHERE n > 4.5", at(after))).await, "2");
    let joined = format!("SELECT count(*) FROM t JOIN {} AS old USING (id) WHERE t.n = old.n", at(after));
    assert_eq!(column(&session, &joined).await, "5");
    assert_eq!(column(&session, "SELECT count(*) FROM at_time('t', now())").await, "6");
    assert_eq!(column(&session, "SELECT count(*) FROM at_time('t', '1999-01-01T00:00:00Z')").await, "0");
    assert_eq!(column(&session, "SELECT count(*) FROM at_time('t', TIMESTAMP '2200-01-01 00:00:00')").await, "6");
    for (sql, says) in [
        ("SELECT * FROM at_version('u', 1)", "table `u` does not exist"),
        ("SELECT * FROM at_version('t', -1)", "at_version takes"),
        ("SELECT * FROM at_version('t')", "at_version takes"),
        ("SELECT * FROM at_version(t, 1)", "t"),
        ("SELECT * FROM at_time('t', 'noon')", "at_time takes"),
        ("SELECT * FROM at_time('t', NULL)", "at_time needs a time"),
    ] {
        let error = rows(&session, sql).await.unwrap_err().to_string();
        assert!(error.contains(says), "{sql}: {error}");
    }
}
