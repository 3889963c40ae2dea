//! A lake in a folder, and files beside it.

use std::io::Write;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;

use super::*;
use crate::config::LoadOptions;
use crate::engine::catalog::Fed;
use crate::engine::{care, location, service};
use crate::lake::Stores;
use crate::query::Service;
use crate::schema::{Contract, FullLoad};

struct World {
    dir: tempfile::TempDir,
    importer: Importer,
    service: Service,
    project: Project,
}

impl World {
    /// A lake with nothing in it, and the table `trips` that says `more`.
    async fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("schemas")).unwrap();
        std::fs::write(dir.path().join("millpond.toml"), "[lake]\nurl = \"./lake\"\n").unwrap();
        std::fs::write(dir.path().join("schemas/trips.toml"), format!("kind = \"reference\"\n{more}")).unwrap();
        let project = Project::load(dir.path(), &LoadOptions::default()).unwrap();
        let stores = Stores::open_or_create(&location(&project).unwrap(), &S3Options::default()).await.unwrap();
        let lake = Lake::new(stores);
        let (lake_of, ingest_budget) = (Some(lake.clone()), crate::task::Budget::new(1 << 20));
        let catalog = Arc::new(EngineCatalog { lake: lake_of, ingest_budget, ..EngineCatalog::of(Fed::default()) });
        catalog.imported.store(Arc::new(project.imported.clone()));
        let service = service(Some(&lake), &catalog, &project.config).unwrap();
        let importer = Importer::new(&lake, &catalog, S3Options::default(), &Shutdown::new());
        Self { dir, importer, service, project }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn request(&self, names: &[&str]) -> Request {
        let urls = names.iter().map(|name| self.path(name).display().to_string()).collect();
        Request { table: "trips".to_owned(), urls, mode: None, skip_broken: false, dry_run: false }
    }

    async fn run(&self, request: &Request) -> Result<Report> {
        self.importer.run(request, &mut |_| {}).await
    }

    async fn import(&self, names: &[&str]) -> Report {
        self.run(&self.request(names)).await.unwrap()
    }

    async fn replace(&self, names: &[&str]) -> Report {
        self.run(&Request { mode: Some(ImportMode::Replace), ..self.request(names) }).await.unwrap()
    }

    /// The rows that SQL finds, a line each.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let batches: Vec<_> =
            self.service.session().query(sql).await.unwrap().run().await.unwrap().try_collect().await.unwrap();
        let table = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        let rows = table.lines().filter(|line| line.starts_with('|')).skip(1);
        let cells =
            |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        rows.map(|line| cells(line).join(" | ").trim_end().to_owned()).collect()
    }

    /// What the Delta table itself has, whatever is shown.
    async fn stored(&self) -> usize {
        let table = self.importer.lake.open("public", "trips").await.unwrap().unwrap();
        table.snapshot().unwrap().log_data().iter().map(|file| file.num_records().unwrap()).sum()
    }
}

fn touch(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_there_once_however_often_it_is_imported() {
    let world = World::new("").await;
    world.write("a.csv", "id,km\n1,2.5\n2,3\n");
    world.write("b.csv", "id,km,note\n3,7,late\n");
    let dry = world.run(&Request { dry_run: true, ..world.request(&["*.csv"]) }).await.unwrap();
    assert_eq!((dry.files, dry.bytes, dry.rows), (2, 36, 0));
    let report = world.import(&["a.csv"]).await;
    assert_eq!((report.files, report.rows, report.held), (1, 2, 0));
    for _ in 0..2 {
        let report = world.import(&["*.csv", "a.csv"]).await;
        assert!(report.held >= 1, "{report:?}");
    }
    assert_eq!(world.rows("SELECT * FROM trips ORDER BY id").await, ["1 | 2.5 |", "2 | 3.0 |", "3 | 7.0 | late"]);
    assert_eq!(world.stored().await, 3);
    // Another file of the same name is another file.
    world.write("a.csv", "id,km\n4,1\n5,x\n");
    touch(&world.path("a.csv"));
    let report = world.import(&["a.csv"]).await;
    assert_eq!((report.files, report.rows, report.rescued), (1, 2, 1));
    assert_eq!(report.new_columns, ["_rescued"]);
    assert_eq!(world.rows("SELECT km, _rescued FROM trips WHERE id = 5").await, [" | {\"km\":\"x\"}"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_may_come_again() {
    let world = World::new("").await;
    world.write("a.csv", "id\n1\n2\n");
    world.write("b.ndjson", "{\"code\": \"x\"}\n{\"code\": \"y\", \"n\": 3}\n");
    world.import(&["a.csv"]).await;
    let report = world.replace(&["b.ndjson"]).await;
    assert_eq!((report.files, report.rows), (1, 2));
    // The columns are those of the files.
    assert_eq!(world.rows("SELECT * FROM trips ORDER BY code").await, ["x |", "y | 3"]);
    assert_eq!(world.import(&["b.ndjson"]).await.held, 1);
    assert_eq!(world.import(&["a.csv"]).await.rows, 2);
    assert_eq!(world.import(&["a.csv"]).await.held, 1);
    assert_eq!(world.stored().await, 4);
    assert_eq!(world.replace(&["a.csv"]).await.rows, 2);
    assert_eq!(world.rows("SELECT * FROM trips ORDER BY id").await, ["1", "2"]);
    // A file that is broken replaces nothing, and neither do the others.
    world.write("c.csv", "id\n7\n8,9\n");
    let request = Request { mode: Some(ImportMode::Replace), ..world.request(&["b.ndjson", "c.csv"]) };
    let error = world.run(&request).await.unwrap_err();
    assert!(error.to_string().contains("c.csv:3: incorrect number of fields"), "{error}");
    assert_eq!(world.stored().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_takes_the_place_of_the_one_with_its_key() {
    let world = World::new("mode = \"upsert\"\nkey = [\"id\", \"day\"]\n").await;
    world.write("a.csv", "id,day,km\n1,2026-01-01,10\n1,2026-01-02,11\n2,2026-01-01,20\n");
    world.write("b.csv", "id,day,km\n3,2026-01-01,30\n");
    world.write("c.csv", "day,id,km\n2026-01-02,1,12\n2026-01-03,1,13\n");
    for name in ["a.csv", "b.csv", "c.csv", "a.csv"] {
        world.import(&[name]).await;
    }
    let rows = [
        "1 | 2026-01-01 | 10",
        "1 | 2026-01-02 | 12",
        "1 | 2026-01-03 | 13",
        "2 | 2026-01-01 | 20",
        "3 | 2026-01-01 | 30",
    ];
    assert_eq!(world.rows("SELECT id, day, km FROM trips ORDER BY id, day").await, rows);
    assert_eq!(world.stored().await, 5);
    for (text, reason) in [
        ("id,day,km\n9,2026-01-01,1\n9,2026-01-01,2\n", "two rows have the key id = 9, day = 2026-01-01"),
        ("id,day,km\n,2026-01-01,1\n", "a row has no `id`, the key"),
        ("id,km\n1,1\n", "a row has no `day`, the key"),
    ] {
        world.write("d.csv", text);
        let error = world.run(&world.request(&["d.csv"])).await.unwrap_err();
        assert!(error.message().ends_with(reason), "{error}");
    }
    assert_eq!(world.stored().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_files_are_named_and_the_others_come_in() {
    let world = World::new("").await;
    world.write("1.csv", "id\n1\n");
    world.write("2.csv", "id\n1,2\n");
    world.write("3.csv.gz", {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(b"id\n3\n").unwrap();
        packed.finish().unwrap()
    });
    world.import(&["1.csv"]).await;
    let exported = std::fs::read_dir(world.path("lake/public/trips")).unwrap().map(|entry| entry.unwrap().path());
    let parquet = exported.into_iter().find(|path| path.extension().is_some_and(|end| end == "parquet")).unwrap();
    let bytes = std::fs::read(parquet).unwrap();
    world.write("4.parquet", &bytes[..bytes.len() / 2]);
    world.write("5.parquet", &bytes);
    let all = world.request(&["*.csv", "*.gz", "*.parquet"]);
    let error = world.run(&all).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.message().contains("2.csv:2: incorrect number of fields"), "{error}");
    let report = world.run(&Request { skip_broken: true, ..all.clone() }).await.unwrap();
    assert_eq!((report.files, report.rows, report.held, report.broken.len()), (2, 2, 1, 2), "{report:?}");
    assert!(report.broken[1].contains("4.parquet"), "{report:?}");
    assert_eq!(world.rows("SELECT id FROM trips ORDER BY id").await, ["1", "1", "3"]);
    assert!(world.run(&world.request(&["none.csv"])).await.unwrap_err().message().starts_with("there is no file at"));
    let other = Request { table: "trip".to_owned(), ..all };
    assert!(world.run(&other).await.unwrap_err().to_string().contains("schemas/trip.toml"));
    // What was written of a broken file is not left behind.
    let files = std::fs::read_dir(world.path("lake/public/trips")).unwrap().count();
    assert_eq!(files, 4, "three files of rows and the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_table_may_be_given_again_what_came_since() {
    let world = World::new("").await;
    world.write("a.csv", "id\n1\n");
    world.write("b.csv", "id\n2\n");
    world.import(&["a.csv"]).await;
    let version = world.importer.lake.open("public", "trips").await.unwrap().unwrap().version();
    world.import(&["b.csv"]).await;
    world.replace(&["a.csv", "b.csv"]).await;
    let (lake, catalog) = (&world.importer.lake, &world.importer.catalog);
    let mut care = care::Care::new(lake, catalog, &world.service, &world.project.config, &Shutdown::new());
    let what = care::What::Restore { at: care::Moment::Version(version), positions: None };
    care.answer(&care::Request { what, table: Some("trips".to_owned()), dry_run: false }).await.unwrap();
    assert_eq!(world.rows("SELECT id FROM trips").await, ["1"]);
    let report = world.import(&["a.csv", "b.csv"]).await;
    assert_eq!((report.held, report.files), (1, 1));
    assert_eq!(world.rows("SELECT id FROM trips ORDER BY id").await, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_table_has_the_columns_that_it_had() {
    let world = World::new("").await;
    world.write("a.csv", "id,km\n1,10\n");
    world.write("b.csv", "id,code\nx,7\n");
    world.import(&["a.csv"]).await;
    let version = world.importer.lake.open("public", "trips").await.unwrap().unwrap().version();
    world.replace(&["b.csv"]).await;
    assert_eq!(world.rows("SELECT * FROM trips").await, ["x | 7"]);
    let (lake, catalog) = (&world.importer.lake, &world.importer.catalog);
    let mut care = care::Care::new(lake, catalog, &world.service, &world.project.config, &Shutdown::new());
    let what = care::What::Restore { at: care::Moment::Version(version), positions: None };
    care.answer(&care::Request { what, table: Some("trips".to_owned()), dry_run: false }).await.unwrap();
    assert_eq!(world.rows("SELECT id + 1 AS id, km FROM trips").await, ["2 | 10"]);
    world.write("c.csv", "id,km\n2,20\n");
    world.import(&["c.csv"]).await;
    assert_eq!(world.rows("SELECT * FROM trips ORDER BY id").await, ["1 | 10", "2 | 20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_name_however_it_is_reached() {
    let world = World::new("").await;
    world.write("a.csv", "id\n1\n");
    std::fs::create_dir(world.path("x")).unwrap();
    std::os::unix::fs::symlink(world.path("a.csv"), world.path("x/link.csv")).unwrap();
    assert_eq!(world.import(&["x/../a.csv"]).await.rows, 1);
    for name in ["a.csv", "./a.csv", "x/../*.csv", "x/link.csv"] {
        assert_eq!(world.import(&[name]).await.held, 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_came_from_elsewhere_are_left_alone() {
    let world = World::new("").await;
    let column: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["a"]));
    let rows = arrow::array::RecordBatch::try_from_iter_with_nullable([("id", column, true)]).unwrap();
    let mut table = MadeTable::make(&world.importer.lake, "trips", &rows.schema(), &[]).await.unwrap();
    let mut piece = Piece::begin(&world.importer.lake, "trips", &rows.schema(), &[], &[]).unwrap();
    piece.write(&rows).await.unwrap();
    let staged = piece.finish().await.unwrap();
    table.append(&staged, "another/writer", (0, 1), &Shutdown::new()).await.unwrap();
    world.write("a.csv", "id\n1\n");
    for mode in [ImportMode::Append, ImportMode::Replace] {
        let request = Request { mode: Some(mode), ..world.request(&["a.csv"]) };
        let error = world.run(&request).await.unwrap_err();
        assert_eq!(error.message(), "the lake has a table trips with rows that came from elsewhere");
    }
    assert_eq!(world.stored().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_file_take_no_more_memory_than_there_is() {
    let world = World::new("mode = \"upsert\"\nkey = [\"id\"]\n").await;
    let rows: String = (0..20_000).map(|id| format!("{id}\n")).collect();
    world.write("a.csv", format!("id\n{rows}"));
    let error = world.run(&world.request(&["a.csv"])).await.unwrap_err();
    assert!(error.kind() == Kind::Exhausted && error.message().contains("its keys take more than"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_of_the_same_files_at_once_bring_them_once() {
    let world = World::new("").await;
    for at in 0..6 {
        world.write(&format!("{at}.csv"), format!("id\n{at}\n"));
    }
    let request = world.request(&["*.csv"]);
    let imports = (0..4).map(|_| {
        let (importer, request) = (world.importer.clone(), request.clone());
        async move { importer.run(&request, &mut |_| {}).await.unwrap() }
    });
    let reports = futures::future::join_all(imports).await;
    assert_eq!(reports.iter().map(|report| report.rows).sum::<u64>(), 6, "{reports:?}");
    assert_eq!(world.rows("SELECT id FROM trips ORDER BY id").await, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_come_to_a_place_are_taken_in_as_they_come() {
    let world = World::new("url = \"come/*.csv\"\nmode = \"append\"\npoll = \"1s\"\n").await;
    std::fs::create_dir(world.path("come")).unwrap();
    let follows = Follows::new(world.importer.clone());
    follows.take_over(&world.project.imported);
    // Somebody else writes all the time, which holds nothing up.
    let growing = world.path("come/growing.csv");
    let grow = task::spawn("grow", async move {
        let mut text = "id\n".to_owned();
        loop {
            text.push_str("9\n");
            std::fs::write(&growing, &text).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    });
    for at in 0..3 {
        world.write(&format!("come/{at}.csv"), format!("id\n{at}\n"));
        world.write("come/broken.csv", "id\n1,2\n");
        for _ in 0..200 {
            let shown = world.importer.catalog.fed().tables.get("trips").map(|live| live.pin());
            let has = |view: &crate::lake::View| {
                view.committed.as_ref().map_or(0, |at| at.log_data().iter().filter_map(|file| file.num_records()).sum())
            };
            if shown.map_or(0, |view| has(&view)) == at + 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    assert_eq!(world.rows("SELECT id FROM trips ORDER BY id").await, ["0", "1", "2"]);
    grow.abort();
    follows.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_full_load_are_handed_out_once_while_nobody_looks_at_them() {
    let dir = tempfile::tempdir().unwrap();
    let rows: String = (0..20_000).map(|id| format!("{id},x\n")).collect();
    std::fs::write(dir.path().join("cars.csv"), format!("id,plate\n{rows}")).unwrap();
    let url = format!("{}/*.csv", dir.path().display());
    let load = FullLoad { url, format: None, poll: std::time::Duration::from_millis(20) };
    let contract = Contract { load: Some(load), ..Contract::undeclared("cars__changes", "cars") };
    let schema = crate::schema::SchemaVersion::declared(&contract).arrow_schema();
    let view = view_of("cars__changes", None, schema, &Default::default()).unwrap();
    let (sender, mut deliveries) = tokio::sync::mpsc::channel(64);
    let stop = Shutdown::new();
    let load = Load {
        contract: Arc::new(contract),
        live: Arc::new(LiveView::new(view)),
        version: Box::new(|| None),
        sender,
        s3: S3Options::default(),
        budget: crate::task::Budget::new(1 << 30),
        stop: stop.clone(),
    };
    let loading = task::spawn("load", load.run());
    tokio::time::sleep(std::time::Duration::from_millis(800)).await;
    stop.cancel();
    loading.await.unwrap();
    let (mut next, mut records) = (None, 0);
    while let Ok(delivery) = deliveries.try_recv() {
        let batch = delivery.records;
        assert_eq!(next.unwrap_or(batch.start), batch.start, "one batch begins where the other ends");
        assert!(batch.are_loaded());
        (next, records) = (Some(batch.end), records + batch.len());
    }
    assert_eq!(records, 20_000);
}
