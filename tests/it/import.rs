//! Files in and out, as a user moves them: with a server and without one, from a folder and a bucket, killed in between.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::python::Output;
use crate::rig::{Lake, Millpond, Minio, Project, credentials, python, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Fail points of imports.
pub const POINTS: [&str; 2] = ["import_after_stage", "import_after_commit"];

/// Files are imported without Kafka.
fn project(lake: Lake) -> Project {
    Project::new("embedded", lake).schema("trips", "kind = \"reference\"\n").schema(
        "members",
        "kind = \"reference\"\nmode = \"upsert\"\nkey = [\"id\"]\nurl = \"come/*.ndjson\"\npoll = \"1s\"\n",
    )
}

fn write(project: &Project, name: &str, bytes: &[u8]) {
    let path = project.dir().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A file of 1,000 trips.
fn trips(project: &Project, at: usize) {
    let mut text = String::from("trip,km,plate\n");
    for trip in at * 1_000..(at + 1) * 1_000 {
        writeln!(text, "{trip},{}.5,{:04}", trip % 7, trip % 10_000).unwrap();
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    write(project, &format!("exports/trips-{at}.csv.gz"), &packed.finish().unwrap());
}

async fn run(project: &Project, arguments: &[&str]) -> Output {
    let exports = |argument: &&str| argument.replace("exports", &project.dir().join("exports").display().to_string());
    let arguments: Vec<String> = arguments.iter().map(exports).collect();
    project.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
}

async fn said(project: &Project, arguments: &[&str]) -> String {
    let said = run(project, arguments).await;
    assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said.stdout
}

/// What other readers find of trips.
async fn read_at(project: &Project, env: &[(&str, String)]) -> Vec<Value> {
    let sql = "SELECT count(*) AS n, count(DISTINCT trip) AS trips, CAST(max(trip) AS BIGINT) AS last, \
               count(*) FILTER (plate = '0007') AS seven FROM t";
    python::duckdb(&project.table_url("trips"), sql, env).await.unwrap()
}

async fn read(project: &Project) -> Vec<Value> {
    read_at(project, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_imported_once_whatever_is_killed_in_between() {
    let project = project(Lake::Local);
    (0..6).for_each(|at| trips(&project, at));
    let none = run(&project, &["import", "trips", "exports"]).await;
    assert!(none.stderr.contains("start `millpond serve` once to create it"), "{}", none.stderr);
    let millpond = Millpond::serve(&project).await;
    assert_eq!(
        said(&project, &["import", "trips", "exports/trips-0.csv.gz"]).await,
        "trips: 1 file imported, 1000 rows\n"
    );
    assert_eq!(millpond.stop().await, Some(0));

    // Without a server it is this process that is killed, with one the server.
    for point in POINTS {
        let killed = run(&project.clone().failpoint(point, 2), &["import", "trips", "exports"]).await;
        assert_eq!(killed.code, None, "{point}: {}", killed.stdout);
        let millpond = Millpond::serve(&project.clone().failpoint(point, 1)).await;
        let server = project.flight_sql();
        let import = ["import", "trips", "exports", "--url", &server];
        let (asked, (code, _)) = tokio::join!(run(&project, &import), millpond.ended(SOON));
        assert!(asked.code != Some(0) && code.is_none(), "{point}: {asked:?}");
    }
    let millpond = Millpond::serve(&project).await;
    let rest = said(&project, &["import", "trips", "exports"]).await;
    assert!(rest.contains("had been imported before"), "{rest}");
    let again = said(&project, &["import", "trips", "exports"]).await;
    assert_eq!(again, "trips: nothing to import; 6 files had been imported before\n");
    let all = json!({"n": 6_000, "trips": 6_000, "last": 5_999, "seven": 1});
    assert_eq!(read(&project).await, [all]);
    assert_eq!(millpond.number("SELECT count(*) FROM trips").await, Some(6_000));

    // Merged beside imports, replaced, and as it was.
    let version = millpond.number("SELECT table_version FROM system.tables WHERE table_name = 'trips'").await.unwrap();
    (6..10).for_each(|at| trips(&project, at));
    let import = ["import", "trips", "exports"];
    let optimize = ["table", "optimize", "trips"];
    let (imported, merged) = tokio::join!(said(&project, &import), said(&project, &optimize));
    assert!(
        imported.starts_with("trips: 4 files imported, 4000 rows") && merged.contains("merged"),
        "{imported}{merged}"
    );
    let kind = "SELECT kind FROM system.tables WHERE table_name = 'trips'";
    assert_eq!(millpond.sql(kind).await[0]["kind"], "reference");
    assert_eq!(read(&project).await, [json!({"n": 10_000, "trips": 10_000, "last": 9_999, "seven": 1})]);
    let one = ["import", "trips", "exports/trips-3.csv.gz", "--mode", "replace"];
    assert_eq!(said(&project, &one).await, "trips: 1 file imported, 1000 rows\n");
    assert_eq!(read(&project).await[0]["n"], 1_000);
    let past = format!("SELECT count(*) FROM at_version('trips', {version})");
    assert_eq!(millpond.number(&past).await, Some(6_000));

    // A line that is broken, in a file of its own.
    write(&project, "exports/broken.csv", b"trip,km,plate\n1,2,3\n4,5\n");
    let broken = run(&project, &["import", "trips", "exports"]).await;
    assert_eq!(broken.code, Some(1), "{broken:?}");
    assert!(broken.stderr.contains("broken.csv:3: incorrect number of fields"), "{}", broken.stderr);
    let others = run(&project, &["import", "trips", "exports", "--skip-broken"]).await;
    assert_eq!(others.code, Some(1), "{others:?}");
    assert!(
        others.stdout.starts_with("broken: ") && others.stdout.contains("trips: 9 files imported, 9000 rows"),
        "{others:?}"
    );
    assert_eq!(read(&project).await[0]["n"], 10_000);

    // Files that come by themselves: a member is there once, as of the last file.
    for at in 0..3 {
        let line = |id: i32| json!({"id": id, "seen": at}).to_string() + "\n";
        let text: String = (at..at + 10).map(line).collect();
        write(&project, &format!("come/{at}.ndjson"), text.as_bytes());
        let expected = [json!({"n": 10 + at, "newest": 10})];
        let sql = format!("SELECT count(*) AS n, count(*) FILTER (WHERE seen = {at}) AS newest FROM members");
        wait_until("members", SOON, async || {
            let there = millpond.number("SELECT count(*) FROM system.tables WHERE table_name = 'members'").await;
            (there == Some(1) && millpond.sql(&sql).await == expected).then_some(())
        })
        .await;
    }
    assert_eq!(millpond.stop().await, Some(0));
}

/// Sends rows by ADBC: how many were taken in, or why none were.
async fn sent(project: &Project, arguments: &[&str]) -> Result<String, String> {
    let server = project.flight_sql();
    let arguments: Vec<&str> = [server.as_str()].iter().chain(arguments).copied().collect();
    let said = python::run("adbc_ingest.py", &arguments, &[]).await;
    if said.code == Some(0) { Ok(said.stdout.trim().to_owned()) } else { Err(said.stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_clients_send_are_all_there_once_or_none() {
    let project = project(Lake::Local).schema("notes", "kind = \"reference\"\nmode = \"append\"\n");
    // Whatever is killed in between, a request that is named is carried out once.
    for (round, point) in POINTS.iter().enumerate() {
        let name = format!("job-{round}");
        let millpond = Millpond::serve(&project.clone().failpoint(point, 1)).await;
        let job = ["notes", "append", "1000", name.as_str()];
        let (asked, (code, _)) = tokio::join!(sent(&project, &job), millpond.ended(SOON));
        assert!(asked.is_err() && code.is_none(), "{point}: {asked:?}");
        let millpond = Millpond::serve(&project).await;
        let again = sent(&project, &job).await.unwrap();
        assert_eq!(again, if *point == "import_after_commit" { "0" } else { "1000" }, "{point}");
        assert_eq!(sent(&project, &job).await.unwrap(), "0");
        let notes = millpond.number("SELECT count(*) FROM notes").await;
        assert_eq!(notes, Some(1_000 * (round as i64 + 1)), "{point}");
        assert_eq!(millpond.stop().await, Some(0));
    }
    let millpond = Millpond::serve(&project).await;
    assert_eq!(sent(&project, &["notes", "append", "1000"]).await.unwrap(), "1000");
    // A request that replaced rows does not take those away that came since.
    assert_eq!(sent(&project, &["notes", "replace", "10", "anew"]).await.unwrap(), "10");
    assert_eq!(sent(&project, &["notes", "replace", "20"]).await.unwrap(), "20");
    assert_eq!(sent(&project, &["notes", "replace", "10", "anew"]).await.unwrap(), "0");
    assert_eq!(millpond.number("SELECT count(*) FROM notes").await, Some(20));
    // A message as large as the driver sends, which is larger than a statement may be.
    assert_eq!(sent(&project, &["notes", "replace", "500000"]).await.unwrap(), "500000");
    let sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids, min(note) AS note FROM t";
    let notes = json!({"n": 500_000, "ids": 500_000, "note": "note 0 of many, long enough to be a large message"});
    assert_eq!(python::duckdb(&project.table_url("notes"), sql, &[]).await.unwrap(), [notes]);

    // By key, and with a column that is new.
    let first = r#"[{"id": 1, "seen": 1.5}, {"id": 2, "seen": null}]"#;
    assert_eq!(sent(&project, &["members", "create", first, "made"]).await.unwrap(), "2");
    assert_eq!(sent(&project, &["members", "create", first, "made"]).await.unwrap(), "0", "it was this request");
    let there = sent(&project, &["members", "create", first]).await.unwrap_err();
    assert!(there.contains("table members is there already"), "{there}");
    let second = r#"[{"id": 2, "seen": 2.5, "name": "Ute"}, {"id": 3, "seen": 3.5, "name": null}]"#;
    assert_eq!(sent(&project, &["members", "append", second]).await.unwrap(), "2");
    let members = || millpond.sql("SELECT id, seen, name FROM members ORDER BY id");
    let all = [
        json!({"id": 1, "seen": 1.5, "name": null}),
        json!({"id": 2, "seen": 2.5, "name": "Ute"}),
        json!({"id": 3, "seen": 3.5, "name": null}),
    ];
    assert_eq!(members().await, all);
    for (table, mode, rows, why) in [
        ("members", "append", r#"[{"id": 4}, {"id": 4}]"#, "two rows have the key id = 4"),
        ("members", "append", r#"[{"id": 4}, {"id": null}]"#, "a row has no `id`, the key"),
        ("members", "append", "[]", "nothing was sent"),
        ("telemetry", "append", r#"[{"id": 4}]"#, "the project declares no table `telemetry`"),
        ("telemetry", "create", r#"[{"id": 4}]"#, "kind = \"reference\""),
    ] {
        let refused = sent(&project, &[table, mode, rows]).await.unwrap_err();
        assert!(refused.contains(why), "{table} {mode} {rows}: {refused}");
    }
    assert_eq!(members().await, all, "what cannot be taken as a whole leaves nothing");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_out_to_a_bucket_and_come_in_from_it() {
    let minio = Minio::shared().await;
    let project = project(Lake::on(minio, "in-and-out"));
    minio.bucket("exchange");
    let mut env = credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    (0..2).for_each(|at| trips(&project, at));
    let millpond = Millpond::serve(&project).await;
    said(&project, &["import", "trips", "exports"]).await;
    for name in ["trips.parquet", "trips.csv.gz", "trips.ndjson.zst", "trips.json"] {
        let url = format!("s3://exchange/{name}");
        let out = said(&project, &["export", "SELECT * FROM trips ORDER BY trip", &url]).await;
        assert!(out.starts_with(&format!("{url}: 2000 rows, ")), "{out}");
        let twice = run(&project, &["export", "trips", &url]).await;
        assert!(twice.stderr.contains("is there already"), "{}", twice.stderr);
        assert_eq!(
            said(&project, &["import", "trips", &url, "--mode", "replace"]).await,
            "trips: 1 file imported, 2000 rows\n"
        );
        let all = [json!({"n": 2_000, "trips": 2_000, "last": 1_999, "seven": 1})];
        assert_eq!(read_at(&project, &env).await, all, "{name}");
        let again = said(&project, &["import", "trips", "s3://exchange/*", "--dry-run"]).await;
        assert!(again.contains("1 file had been imported before"), "{again}");
    }
    let local = project.dir().join("out.csv");
    said(&project, &["export", "SELECT trip, plate FROM trips WHERE trip < 2 ORDER BY trip", local.to_str().unwrap()])
        .await;
    assert_eq!(std::fs::read_to_string(&local).unwrap(), "trip,plate\n0,0000\n1,0001\n");
    let wrong = run(&project, &["export", "SELECT 1/0", local.to_str().unwrap(), "--force"]).await;
    assert!(wrong.code == Some(1) && local.exists(), "{wrong:?}");
    assert_eq!(millpond.stop().await, Some(0));
}
