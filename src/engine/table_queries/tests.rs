//! A lake in a folder with a table in parts, and queries over it.

use arrow::array::{ArrayRef, Date32Array, Int64Array, RecordBatch, StringArray};
use chrono::NaiveDate;
use futures::TryStreamExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::config::LoadOptions;
use crate::engine::catalog::Fed;
use crate::engine::{care, location};
use crate::lake::{MadeTable, Numbers, Piece, Replaces, S3Options, Stores};

const SQL: &str = "SELECT day, car, count(*) AS n, sum(km) AS km FROM trips GROUP BY day, car;  -- each day\n";

struct World {
    _dir: tempfile::TempDir,
    project: Project,
    runner: TableRunner,
    trips: MadeTable,
    pieces: i64,
}

fn day(day: i32) -> i32 {
    20_000 + day
}

fn shown(day: i32) -> String {
    (NaiveDate::default() + chrono::TimeDelta::days((20_000 + day).into())).to_string()
}

fn rows(trips: &[(Option<i32>, &str, i64)]) -> RecordBatch {
    let days: ArrayRef = Arc::new(trips.iter().map(|trip| trip.0.map(day)).collect::<Date32Array>());
    let cars: ArrayRef = Arc::new(StringArray::from_iter_values(trips.iter().map(|trip| trip.1)));
    let km: ArrayRef = Arc::new(Int64Array::from_iter_values(trips.iter().map(|trip| trip.2)));
    RecordBatch::try_from_iter_with_nullable([("day", days, true), ("car", cars, true), ("km", km, true)]).unwrap()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("millpond.toml"), "[lake]\nurl = \"./lake\"\n").unwrap();
        let project = Project::load(dir.path(), &LoadOptions::default()).unwrap();
        let stores = Stores::open_or_create(&location(&project).unwrap(), &S3Options::default()).await.unwrap();
        let lake = Lake::new(stores);
        let trips = MadeTable::make(&lake, "trips", &rows(&[]).schema(), &["day"]).await.unwrap();
        let catalog = Arc::new(EngineCatalog { lake: Some(lake.clone()), ..EngineCatalog::of(Fed::default()) });
        catalog.show_made("trips", &trips).unwrap();
        let service = service(Some(&lake), &catalog, &project.config).unwrap();
        let (news, abort, pauses) = (News::default(), Shutdown::new(), [Duration::from_millis(20); 2]);
        let runner = TableRunner { lake, catalog, service, news, abort, pauses };
        Self { _dir: dir, project, runner, trips, pieces: 0 }
    }

    async fn staged(&self, trips: &[(Option<i32>, &str, i64)]) -> crate::lake::Staged {
        let (batch, day) = (rows(trips), ["day".to_owned()]);
        let mut piece = Piece::begin(&self.runner.lake, "trips", &batch.schema(), &day, &[]).unwrap();
        piece.write(&batch).await.unwrap();
        piece.finish().await.unwrap()
    }

    async fn append(&mut self, trips: &[(Option<i32>, &str, i64)]) {
        let staged = self.staged(trips).await;
        let numbers = (self.pieces, self.pieces + 1);
        assert!(self.trips.append(&staged, "piece", numbers, &self.runner.abort).await.unwrap());
        self.pieces += 1;
        self.runner.catalog.show_made("trips", &self.trips).unwrap();
    }

    /// The rows of a day become these.
    async fn replace(&mut self, day: i32, trips: &[(Option<i32>, &str, i64)]) {
        let staged = self.staged(trips).await;
        let parts = Replaces::Partitions("day".to_owned(), [Some(shown(day))].into());
        let numbers = (self.pieces, self.pieces + 1);
        let done = self.trips.replace(staged, &parts, "piece", numbers, &Numbers::new(), &self.runner.abort).await;
        assert!(done.unwrap());
        self.pieces += 1;
        self.runner.catalog.show_made("trips", &self.trips).unwrap();
    }

    async fn merge(&mut self) {
        let (lake, catalog) = (&self.runner.lake, &self.runner.catalog);
        let mut care = care::Care::new(lake, catalog, &self.runner.service, &self.project.config, &Shutdown::new());
        let request = care::Request { what: care::What::Optimize, table: Some("trips".to_owned()), dry_run: false };
        care.answer(&request).await.unwrap();
        self.trips.refresh().await.unwrap();
    }

    fn worker(&self, query: &TableQuery) -> Worker {
        let status =
            Status { query: query.clone(), running_since: None, error: None, failing_since: None, rows: 0, asks: None };
        self.runner.catalog.table_queries.status.lock().entry(query.name.clone()).or_insert(status);
        Worker { runner: self.runner.clone(), query: query.clone() }
    }

    async fn run(&self, query: &TableQuery) -> Report {
        self.worker(query).attempt(&Why::Due(Utc::now()), 1).await.unwrap()
    }

    async fn sql(&self, sql: &str) -> Vec<String> {
        let batches: Vec<_> =
            self.runner.service.session().query(sql).await.unwrap().run().await.unwrap().try_collect().await.unwrap();
        let table = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        table.lines().filter(|line| line.starts_with('|')).skip(1).map(str::to_owned).collect()
    }

    /// The table is what its query says.
    async fn is_right(&self, query: &TableQuery) {
        let columns = "day, car, n, km";
        let table = self.sql(&format!("SELECT {columns} FROM {} ORDER BY {columns}", query.name)).await;
        let inner = query.sql.trim().split(';').next().unwrap();
        let wanted = self.sql(&format!("SELECT {columns} FROM ({inner}) ORDER BY {columns}")).await;
        assert_eq!(table, wanted);
    }
}

fn query(lookback_days: u64) -> TableQuery {
    TableQuery {
        name: "daily".to_owned(),
        sql: SQL.to_owned(),
        file: "queries/daily.sql".to_owned(),
        hash: "0123456789abcdef01".to_owned(),
        schedule: None,
        partition_by: Some("day".to_owned()),
        lookback: Duration::from_secs(lookback_days * 86_400),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_made_anew() {
    let mut world = World::new().await;
    let query = query(0);
    world.append(&[(Some(1), "a", 1), (Some(2), "a", 2), (Some(3), "b", 3), (None, "c", 4)]).await;
    let first = world.run(&query).await;
    assert_eq!((first.run, &*first.mode, first.rows), (1, "full", 4));
    world.is_right(&query).await;
    let same = world.run(&query).await;
    assert_eq!((same.rows, same.table_version), (0, None));
    world.append(&[(Some(2), "a", 5), (None, "c", 6)]).await;
    let second = world.run(&query).await;
    assert_eq!((&*second.mode, second.rows, &second.parts), ("incremental", 2, &vec!["NULL".to_owned(), shown(2)]));
    world.is_right(&query).await;
    // Files that are merged change no rows; rows that go away do.
    world.append(&[(Some(3), "b", 1)]).await;
    world.run(&query).await;
    world.merge().await;
    assert_eq!(world.run(&query).await.table_version, None);
    world.replace(3, &[]).await;
    let gone = world.run(&query).await;
    assert_eq!((gone.rows, &gone.parts), (0, &vec![shown(3)]));
    world.is_right(&query).await;
    // Another text, or other columns, make it anew as a whole.
    let other = TableQuery { sql: SQL.replace("count(*)", "count(*) + 1"), hash: "f".repeat(20), ..query.clone() };
    assert_eq!(world.run(&other).await.mode, "full");
    world.is_right(&other).await;
    let typed = TableQuery { sql: SQL.replace("sum(km)", "avg(km)"), hash: "e".repeat(20), ..query.clone() };
    assert_eq!(world.run(&typed).await.mode, "full");
    world.is_right(&typed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn days_near_a_change_are_made_anew_too_and_any_on_request() {
    let mut world = World::new().await;
    let query = query(2);
    let all: Vec<(Option<i32>, &str, i64)> = (0..10).map(|day| (Some(day), "a", 1)).collect();
    world.append(&all).await;
    world.run(&query).await;
    world.append(&[(Some(5), "a", 1)]).await;
    assert_eq!(world.run(&query).await.parts, (3..8).map(shown).collect::<Vec<_>>());
    world.is_right(&query).await;
    // What is asked for is made anew whether it changed or not, and nothing else is taken for seen.
    world.append(&[(Some(1), "a", 1), (Some(8), "a", 1)]).await;
    let worker = world.worker(&query);
    let between =
        |from: Option<i32>, to: Option<i32>| Why::Asked(Parts::Between { from: from.map(shown), to: to.map(shown) });
    let asked = worker.attempt(&between(Some(7), Some(8)), 1).await.unwrap();
    assert_eq!((&asked.parts, asked.rows), (&vec![shown(7), shown(8)], 2));
    let rest = world.run(&query).await;
    assert_eq!(rest.parts, (-1..11).map(shown).filter(|day| *day != shown(4) && *day != shown(5)).collect::<Vec<_>>());
    world.is_right(&query).await;
    let wrong = worker.attempt(&Why::Asked(Parts::Between { from: Some("May".to_owned()), to: None }), 1).await;
    assert_eq!(wrong.unwrap_err().message(), "`May` is no day");
    let log =
        world.sql("SELECT state, mode, asked_by, partitions, error FROM system.query_runs ORDER BY started_at").await;
    assert_eq!(log.len(), 5);
    assert!(log[4].contains("failed") && log[4].contains("`May` is no day") && log[4].contains("hand"), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_their_source_keeps_no_longer_stay() {
    let mut world = World::new().await;
    let query = query(0);
    world.append(&[(Some(1), "a", 1), (Some(2), "a", 2), (Some(3), "a", 3)]).await;
    world.run(&query).await;
    let first = NaiveDate::default() + chrono::TimeDelta::days(20_003);
    let mut table = world.trips.table().clone();
    let retained = crate::lake::care::retain(&mut table, "day", first, false, &world.runner.abort).await.unwrap();
    assert_eq!(retained.rows, 2);
    world.trips.refresh().await.unwrap();
    world.append(&[(Some(3), "a", 4)]).await;
    assert_eq!(world.run(&query).await.parts, [shown(3)]);
    assert_eq!(world.sql("SELECT day, km FROM daily ORDER BY day").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_not_those_of_the_sources_are_made_anew_as_a_whole() {
    let mut world = World::new().await;
    for (at, sql) in [
        "SELECT CAST(date_trunc('month', day) AS DATE) AS day, car, count(*) AS n, sum(km) AS km FROM trips GROUP BY 1, 2",
        "SELECT b.day, a.car, 1 AS n, a.km FROM trips a LEFT JOIN trips b ON a.km = b.km + 1",
        "SELECT DATE '2026-01-01' AS day, car, 1 AS n, km FROM trips",
        "SELECT day, car, 1 AS n, km FROM trips ORDER BY km DESC LIMIT 1",
        "SELECT day, car, rank() OVER (ORDER BY km) AS n, km FROM trips",
    ]
    .into_iter()
    .enumerate()
    {
        let query = TableQuery { name: format!("whole{at}"), sql: sql.to_owned(), ..query(0) };
        for day in [1, 40] {
            world.append(&[(Some(day), "a", day.into())]).await;
            assert_eq!(world.run(&query).await.mode, "full", "{sql}");
            world.is_right(&query).await;
        }
        let (_, by_parts) = columns(&query, &world.runner.service, &world.runner.catalog).await.unwrap();
        assert!(!by_parts, "{sql}");
    }
    for sql in [
        "SELECT day, car, n, km FROM (SELECT DISTINCT t.day, t.car, 1 AS n, t.km FROM trips t) WHERE km > 0 ORDER BY km",
        "SELECT a.day, a.car, 1 AS n, b.km FROM trips a LEFT JOIN trips b ON a.km = b.km",
        "SELECT day, car, row_number() OVER (PARTITION BY day) AS n, km FROM trips",
        "SELECT day, car, 1 AS n, km FROM trips UNION ALL SELECT day, car, 2, km FROM trips",
    ] {
        let query = TableQuery { sql: sql.to_owned(), ..query(0) };
        let (_, by_parts) = columns(&query, &world.runner.service, &world.runner.catalog).await.unwrap();
        assert!(by_parts, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_whose_files_are_deleted_meanwhile_says_so() {
    let mut world = World::new().await;
    for day in 0..60 {
        world.append(&[(Some(day % 7), "a", day.into())]).await;
    }
    let version = world.trips.table().version();
    world.merge().await;
    for km in [60, 61] {
        world.append(&[(Some(8), "a", km)]).await;
    }
    world.trips.table().checkpoint().await.unwrap();
    let session = world.runner.service.session();
    let sql = format!("SELECT * FROM at_version('trips', {version})");
    let mut rows = session.query(&sql).await.unwrap().run().await.unwrap();
    let later = Utc::now() + chrono::TimeDelta::hours(2);
    let hour = Duration::from_secs(3_600);
    let gone = crate::lake::care::expire(&world.runner.lake, "public", "trips", hour, later, false).await.unwrap();
    assert!(gone.files > 50, "{gone:?}");
    let error = loop {
        match rows.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the files were there"),
            Err(error) => break error,
        }
    };
    let message = error.message();
    assert!(
        message.starts_with("a file that the query reads is gone: ") && message.contains("public/trips/day="),
        "{error}"
    );
    // What is there now can be read all the same.
    assert_eq!(world.sql("SELECT count(*) FROM trips").await, ["| 62       |"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_sources_the_table_is_what_its_query_says() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new().await;
        let query = query(seed % 2);
        for _ in 0..12 {
            let trips: Vec<(Option<i32>, &str, i64)> = (0..random.random_range(1..6))
                .map(|_| {
                    let day = random.random_range(0..6);
                    (Some(day).filter(|day| *day < 5), ["a", "b"][random.random_range(0..2)], random.random_range(0..9))
                })
                .collect();
            match random.random_range(0..8) {
                0..4 => world.append(&trips).await,
                4 => world.merge().await,
                5 => {
                    let day = random.random_range(0..5);
                    let trips: Vec<_> = trips.into_iter().map(|trip| (Some(day), trip.1, trip.2)).collect();
                    world.replace(day, &trips).await;
                }
                _ => {
                    world.run(&query).await;
                    world.is_right(&query).await;
                }
            }
        }
        world.run(&query).await;
        world.is_right(&query).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_three_times_is_news_and_the_rows_before_stay() {
    let mut world = World::new().await;
    world.append(&[(Some(1), "a", 1)]).await;
    let query = query(0);
    let mut worker = world.worker(&query);
    worker.attempt_thrice(Utc::now()).await.unwrap();
    worker.query.sql = SQL.replace("sum(km)", "sum(10 / (km - 2))");
    worker.query.hash = "d".repeat(20);
    world.append(&[(Some(2), "a", 2)]).await;
    let error = worker.attempt_thrice(Utc::now()).await.unwrap_err();
    assert!(error.to_string().contains("division by zero"), "{error}");
    let is_failing = || world.runner.catalog.table_queries.status.lock()["daily"].failing_since.is_some();
    assert!(is_failing());
    let log = "SELECT attempt, state FROM system.query_runs WHERE state = 'failed' ORDER BY attempt";
    assert_eq!(world.sql(log).await.len(), 3);
    assert_eq!(world.sql("SELECT car, n FROM daily").await, ["| a   | 1 |"]);
    worker.query.sql = SQL.to_owned();
    worker.attempt_thrice(Utc::now()).await.unwrap();
    assert!(!is_failing());
    world.is_right(&query).await;
    // What cannot be a table is said in words.
    for (sql, reason) in [
        ("SELECT car FROM trips", "partition_by: the query selects no column `day`"),
        ("SELECT a.day, a.car, b.car FROM trips a JOIN trips b ON a.day = b.day", "two columns `car`"),
        ("SELECT day FROM daily", "daily would read its own rows"),
        ("SELECT nothing FROM trips", "nothing"),
    ] {
        worker.query.sql = sql.to_owned();
        let error = columns(&worker.query, &world.runner.service, &world.runner.catalog).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{sql}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_table_knows_what_it_was_made_of() {
    let mut world = World::new().await;
    let query = query(0);
    world.append(&[(Some(1), "a", 1)]).await;
    let version = world.run(&query).await.table_version.unwrap();
    world.append(&[(Some(2), "a", 2)]).await;
    world.run(&query).await;
    let (lake, catalog) = (&world.runner.lake, &world.runner.catalog);
    let mut care = care::Care::new(lake, catalog, &world.runner.service, &world.project.config, &Shutdown::new());
    let what = care::What::Restore { at: care::Moment::Version(version), positions: None };
    care.answer(&care::Request { what, table: Some("daily".to_owned()), dry_run: false }).await.unwrap();
    assert_eq!(world.sql("SELECT n FROM daily").await.len(), 1);
    assert_eq!(world.run(&query).await.parts, [shown(2)]);
    world.is_right(&query).await;
}
