//! A lake in a folder, commits as ingest makes them, and a clock that goes ahead.

use arrow::array::{ArrayRef, AsArray, Date32Array, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use chrono::TimeDelta;
use futures::TryStreamExt;

use super::*;
use crate::config::LoadOptions;
use crate::decode::dead_letters_schema;
use crate::engine::catalog::Fed;
use crate::engine::{location, service, view_of};
use crate::lake::{self, DeadLetters, Encoding, HotBatch, Positions, S3Options, Stores, TopicPartition, Window};
use crate::schema::Contract;
use crate::task::Budget;

/// The day of the first rows, in days since 1970.
const DAY: i32 = 20_000;

fn rows(id: i64, day: i32) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![id, id + 1]));
    let days: ArrayRef = Arc::new(Date32Array::from(vec![day; 2]));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), (fixed::DAY, days, true)]).unwrap()
}

fn lane() -> TopicPartition {
    TopicPartition { topic: "fleet".into(), incarnation: 0, partition: 0 }
}

struct World {
    _dir: tempfile::TempDir,
    lake: Lake,
    table: Table,
    live: Arc<LiveView>,
    dead_letters: DeadLetters,
    service: Service,
    care: Care,
}

impl World {
    /// A lake with the empty table `cars`, whose contract says `more`.
    async fn new(more: impl FnOnce(&mut Contract)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("schemas")).unwrap();
        std::fs::write(dir.path().join("millpond.toml"), "[lake]\nurl = \"./lake\"\n").unwrap();
        std::fs::write(dir.path().join("schemas/cars.toml"), "kind = \"events\"\ntopic = \"fleet\"\n").unwrap();
        let project = Project::load(dir.path(), &LoadOptions::default()).unwrap();
        let mut contract = project.tables[0].clone();
        more(&mut contract);
        let stores = Stores::open_or_create(&location(&project).unwrap(), &S3Options::default()).await.unwrap();
        let lake = Lake::new(stores);
        let (schema, begin) = (rows(0, 0).schema(), Positions::from([(lane(), 0)]));
        let table = lake::create(&lake, PUBLIC, "cars", &schema, &[fixed::DAY], 1, &begin).await.unwrap();
        let dead = dead_letters_schema();
        let letters = lake::create(&lake, SYSTEM, DEAD_LETTERS, &dead, &[], 1, &Positions::new()).await.unwrap();
        let live = Arc::new(LiveView::new(view_of("cars", Some(&table), schema, &Arc::default()).unwrap()));
        let tables = BTreeMap::from([("cars".to_owned(), Arc::clone(&live))]);
        let fed = Fed { tables, contracts: vec![Arc::new(contract)], ..Fed::default() };
        let catalog = Arc::new(EngineCatalog { lake: Some(lake.clone()), ..EngineCatalog::of(fed) });
        let service = service(Some(&lake), &catalog, &project.config).unwrap();
        let mut care = Care::new(&lake, &catalog, &service, &project.config, &Shutdown::new());
        care.now = || Utc::now() + TimeDelta::minutes(3);
        let dead_letters = DeadLetters::new(letters, dead).unwrap();
        Self { _dir: dir, lake, table, live, dead_letters, service, care }
    }

    /// Commits two rows, as ingest does.
    async fn commit(&mut self, id: i64, day: i32) {
        let start = self.live.pin().positions.get(&lane()).copied().unwrap_or(0);
        self.live.push(Arc::new(HotBatch {
            lane: lane(),
            start,
            end: start + 2,
            rows: rows(id, day),
            dead: None,
            beside: Vec::new(),
            charge: Budget::new(1 << 20).charge(64),
            received_at: Instant::now(),
        }));
        let window = Window::freeze(&self.live.pin(), &[], usize::MAX).unwrap();
        let (encoding, stop) = (Encoding::new(1 << 20), Shutdown::new());
        lake::flush(&mut self.table, &mut [], window, &self.dead_letters, &encoding, &stop).await.unwrap();
        self.live.committed(&self.table).unwrap();
    }

    async fn numbers(&self, sql: &str) -> Vec<i64> {
        let rows: Vec<RecordBatch> =
            self.service.session().query(sql).await.unwrap().run().await.unwrap().try_collect().await.unwrap();
        let of_batch = |rows: &RecordBatch| {
            rows.columns().iter().map(|column| column.as_primitive::<Int64Type>().value(0)).collect()
        };
        rows.first().map(of_batch).unwrap_or_default()
    }
}

fn request(what: What, table: Option<&str>, dry_run: bool) -> Request {
    Request { what, table: table.map(str::to_owned), dry_run }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_merged_as_they_gather_and_statements_see_the_new_ones_at_once() {
    let mut world = World::new(|_| ()).await;
    for id in 0..20 {
        world.commit(2 * id, DAY).await;
    }
    let pinned = world.live.pin();
    while world.care.look().await {}
    let files = data_files(world.live.pin().committed.as_ref().unwrap());
    assert_eq!((files.len(), files[0].rows), (1, 40), "{files:?}");
    let all = "SELECT count(*), count(DISTINCT id), sum(id) FROM cars";
    assert_eq!(world.numbers(all).await, [40, 40, 780]);
    assert_eq!(data_files(pinned.committed.as_ref().unwrap()).len(), 20, "who began before goes on with the old ones");

    // Ingest goes on from where it was, over the commit that it has not seen.
    for id in 20..24 {
        world.commit(2 * id, DAY).await;
    }
    assert_eq!(world.numbers(all).await, [48, 48, 1_128]);
    let counted = world.care.catalog.care.all()["cars"].clone();
    assert_eq!((counted.merges, counted.merged_files, counted.error), (1, 20, None));
    assert_eq!(world.numbers("SELECT count(*), sum(rows) FROM system.files WHERE table_name = 'cars'").await, [5, 48]);
    let told = "SELECT table_version, files_removed, files_added FROM system.history \
                WHERE table_name = 'cars' AND operation = 'OPTIMIZE'";
    assert_eq!(world.numbers(told).await, [21, 20, 1]);
    assert_eq!(world.numbers("SELECT count(*), sum(id) FROM at_version('cars', 20)").await, [40, 780]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_is_done_and_a_dry_run_does_nothing() {
    let mut world = World::new(|_| ()).await;
    for id in 0..3 {
        world.commit(2 * id, DAY).await;
    }
    let version = world.table.version();
    let would = world.care.answer(&request(What::Optimize, Some("cars"), true)).await.unwrap();
    assert_eq!((would[0].files, would[0].into_files), (3, 0));
    world.table.refresh().await.unwrap();
    assert_eq!(world.table.version(), version);
    let done = world.care.answer(&request(What::Optimize, None, false)).await.unwrap();
    let done: Vec<_> = done.iter().map(|done| (done.table.as_str(), done.files, done.into_files)).collect();
    assert_eq!(done, [("cars", 3, 1), ("system.dead_letters", 0, 0)]);
    let error = world.care.answer(&request(What::Optimize, Some("car"), false)).await.unwrap_err();
    assert_eq!((error.kind(), error.headline()), (Kind::NotFound, "the lake has no table `car`"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_go_with_their_day_and_files_with_the_history() {
    let mut world = World::new(|contract| contract.retention = Some(Duration::from_secs(2 * 86_400))).await;
    world.care.now = || DateTime::from_timestamp(i64::from(DAY + 2) * 86_400 + 60, 0).unwrap();
    for day in [DAY - 1, DAY, DAY + 1] {
        world.commit(i64::from(day), day).await;
    }
    let vacuum = What::Vacuum { full: false };
    let would = world.care.answer(&request(vacuum, Some("cars"), true)).await.unwrap();
    assert_eq!(would[0].rows, 2);
    let done = world.care.answer(&request(vacuum, Some("cars"), false)).await.unwrap();
    assert_eq!(done[0].rows, 2);
    let first = i64::from(DAY);
    assert_eq!(world.numbers("SELECT count(*), min(id) FROM cars").await, [4, first]);
    assert_eq!(world.numbers("SELECT count(*) FROM at_version('cars', 3)").await, [6], "it is history");
    world.commit(7, DAY + 1).await;
    assert_eq!(world.numbers("SELECT count(*) FROM cars").await, [6]);

    // Ten days later the table as it was is gone, once a checkpoint lies behind it.
    world.care.now = || Utc::now() + TimeDelta::days(2);
    world.care.answer(&request(vacuum, Some("cars"), false)).await.unwrap();
    world.care.now = || Utc::now() + TimeDelta::days(10);
    world.care.answer(&request(vacuum, Some("cars"), false)).await.unwrap();
    let error = world.service.session().query("SELECT * FROM at_version('cars', 3)").await.err().unwrap();
    assert_eq!(error.headline(), "table cars cannot be read as it was at table version 3");
    assert!(error.hint_text().unwrap().starts_with("it can be read from table version"), "{error}");
    assert!(world.lake.open(PUBLIC, "cars").await.unwrap().is_some());
}
