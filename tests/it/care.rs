//! Care for tables as a user sees it: `millpond table`, with a server and without one, and what other readers find then.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::json;

use crate::rig::{Kafka, Lake, Ledger, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Fail points of care that are tried here.
pub const POINTS: [&str; 3] = ["expire_after_files", "restore_after_commit", "retention_after_commit"];

/// Makes all files of a table look as if they had been written `age` ago.
fn backdate(folder: &Path, age: Duration) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            backdate(&entry.path(), age);
        } else {
            let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        }
    }
}

async fn run(project: &Project, arguments: &[&str]) -> String {
    let said = project.run(arguments).await;
    assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_and_old_days_go_and_every_reader_finds_the_rest() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("tidied", 1).await;
    let columns = "key = [\"car\"]\ntime = { path = \"at\", format = \"rfc3339\" }\nretention = \"3d\"";
    let project = Project::new(kafka.brokers(), Lake::Local).events("trips", &topic, columns).commit_interval("20ms");
    let millpond = Millpond::serve(&project).await;
    let sender = kafka.sender();
    let now = chrono::Utc::now();
    let mut sent = 0;
    let mut send = async |days_ago: i64, millpond: &Millpond| {
        let at = now - chrono::TimeDelta::days(days_ago);
        let payload = json!({"car": format!("car-{}", sent % 5), "n": sent, "at": at.to_rfc3339()}).to_string();
        sender.send_at(&topic, [(Some(at.timestamp_millis()), (None, Some(payload.into_bytes())))]);
        sent += 1;
        let rows = "SELECT sum(committed_position) FROM system.ingest WHERE table_name = 'trips'";
        wait_until("it is committed", SOON, async || (millpond.number(rows).await == Some(sent)).then_some(())).await;
    };
    for at in 0..20 {
        send(if at % 2 == 0 { 5 } else { 0 }, &millpond).await;
    }
    let of_table = "SELECT table_version FROM system.tables WHERE table_name = 'trips'";
    let then = millpond.number(of_table).await.unwrap();
    let server = project.flight_sql();
    let dry = run(&project, &["table", "optimize", "trips", "--dry-run"]).await;
    assert!(dry.starts_with("trips: 20 files of ") && dry.ends_with(" would be merged\n"), "{dry}");
    let done = run(&project, &["table", "optimize", "trips", "--url", &server]).await;
    assert!(done.starts_with("trips: 20 files of ") && done.contains(" merged into 2 of "), "{done}");
    assert_eq!(run(&project, &["table", "optimize"]).await, "nothing to merge\n");
    let rows = "SELECT count(*) AS n, sum(n) AS sum FROM trips";
    assert_eq!(millpond.sql(rows).await, [json!({"n": 20, "sum": 190})]);
    // Enough versions for a checkpoint behind the merge.
    for _ in 0..60 {
        send(0, &millpond).await;
    }
    let past = format!("SELECT count(*) AS n FROM at_version('trips', {then})");
    assert_eq!(millpond.sql(&past).await, [json!({"n": 20})]);

    // Days that the table does not keep go; what it was can be read while it is history.
    let dry = run(&project, &["table", "vacuum", "trips", "--dry-run"]).await;
    assert_eq!(dry, "trips: 10 rows past retention would be deleted\n");
    assert_eq!(run(&project, &["table", "vacuum"]).await, "trips: 10 rows past retention deleted\n");
    let rest = json!({"n": 70, "sum": 100 + (20..80).sum::<u64>()});
    assert_eq!(millpond.sql(rows).await, [rest]);
    assert_eq!(millpond.sql(&past).await, [json!({"n": 20})]);
    assert_eq!(run(&project, &["table", "vacuum"]).await, "nothing to delete\n");

    // A week later, without a server: this process is the lake's writer for a moment.
    assert_eq!(millpond.stop().await, Some(0));
    backdate(&project.dir().join("lake/public/trips"), 8 * DAY);
    let orphan = project.dir().join("lake/public/trips/part-of-nothing.parquet");
    std::fs::write(&orphan, "left behind by a kill").unwrap();
    backdate(&project.dir().join("lake/public/trips"), 8 * DAY);
    // Killed in the middle of it, it is done by the next.
    let killed = project.clone().failpoint("expire_after_files", 1).run(&["table", "vacuum", "trips"]).await;
    assert_eq!(killed.code, None, "{}", killed.stdout);
    let said = run(&project, &["table", "vacuum", "trips", "--full"]).await;
    assert!(said.contains(" (1 that no commit named)") && said.contains(" old table versions deleted"), "{said}");
    assert!(!orphan.exists());
    let listed = run(&project, &["table", "list", "--format", "json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["table_name"], &listed[0]["committed_rows"]), (&json!("trips"), &json!(70)), "{listed}");
    let told = run(&project, &["table", "history", "trips", "--limit", "1", "--format", "json"]).await;
    assert!(told.contains("\"operation\":\"DELETE\"") && told.contains("\"rows_added\":0"), "{told}");
    let wrong = project.run(&["table", "history", "trip"]).await;
    assert_eq!(wrong.stderr, "error: there is no table `trip`\n  hint: `millpond table list` shows them\n");

    let sql = "SELECT count(*) AS n, CAST(sum(n) AS BIGINT) AS sum FROM t";
    let found = python::duckdb(&project.table_url("trips"), sql, &[]).await.unwrap();
    assert_eq!(found, [json!({"n": 70, "sum": 100 + (20..80).sum::<u64>()})]);
    let millpond = Millpond::serve(&project).await;
    assert_eq!(millpond.sql(rows).await, [json!({"n": 70, "sum": 100 + (20..80).sum::<u64>()})]);
    let gone = project.run(&["sql", "-c", &past]).await;
    assert!(
        gone.stderr.contains(&format!("table trips cannot be read as it was at table version {then}")),
        "{}",
        gone.stderr
    );
    assert!(gone.stderr.contains("hint: it can be read from table version "), "{}", gone.stderr);
    // And it goes on.
    let payload = json!({"car": "car-1", "n": 1_000, "at": now.to_rfc3339()}).to_string();
    kafka.send_text(&topic, [payload.as_str()]);
    wait_until("a new row", SOON, async || {
        (millpond.number("SELECT count(*) FROM trips").await == Some(71)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_behind_retention_leaves_it_done() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("retained", 1).await;
    let columns = "time = { path = \"at\", format = \"rfc3339\" }\nretention = \"1d\"";
    let project = Project::new(kafka.brokers(), Lake::Local).events("trips", &topic, columns);
    let now = chrono::Utc::now();
    let record = |days: i64| {
        let at = now - chrono::TimeDelta::days(days);
        let payload = json!({"n": days, "at": at.to_rfc3339()}).to_string();
        (Some(at.timestamp_millis()), (None, Some(payload.into_bytes())))
    };
    kafka.sender().send_at(&topic, [5, 0, 4, 0, 3].map(record));
    let millpond = Millpond::serve(&project).await;
    wait_until("rows", SOON, async || (millpond.number("SELECT count(*) FROM trips").await == Some(5)).then_some(()))
        .await;
    assert_eq!(millpond.stop().await, Some(0));
    let killed = project.clone().failpoint("retention_after_commit", 1).run(&["table", "vacuum"]).await;
    assert_eq!(killed.code, None, "{}", killed.stdout);
    assert_eq!(run(&project, &["table", "vacuum"]).await, "nothing to delete\n");
    let sql = "SELECT count(*) AS n, CAST(sum(n) AS BIGINT) AS sum FROM t";
    let found = python::duckdb(&project.table_url("trips"), sql, &[]).await.unwrap();
    assert_eq!(found, [json!({"n": 2, "sum": 0})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_becomes_what_it_was_and_reads_again_what_came_since_or_leaves_it_out() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("restored", 2).await;
    let latest = "kind = \"latest\"\nkey = [\"car\"]\n[sources.trips]\nmerge = \"row\"\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .events("trips", &topic, "key = [\"car\"]\n[columns.hash]\ntype = \"string\"")
        .schema("cars", latest)
        .commit_interval("50ms");
    let sender = kafka.sender();
    let mut ledger = Ledger::default().hash_column("hash");
    let mut sent = 0;
    let mut send = |records: i64| {
        let record = |n: i64| {
            let payload = json!({"car": format!("car-{n}"), "hash": format!("h{n}")}).to_string();
            (Some(format!("car-{n}").into_bytes()), Some(payload.into_bytes()))
        };
        ledger.add(sender.send(&topic, (sent..sent + records).map(record)));
        sent += records;
        ledger.clone()
    };
    let has = async |millpond: &Millpond, table: &str, rows: i64| {
        let count = format!("SELECT count(*) FROM {table}");
        wait_until(&format!("{rows} rows in {table}"), SOON, async || {
            (millpond.number(&count).await == Some(rows)).then_some(())
        })
        .await;
    };
    let committed = async |millpond: &Millpond, records: i64| {
        let query = "SELECT sum(committed_position) FROM system.ingest WHERE table_name = 'trips'";
        wait_until("all is committed", SOON, async || (millpond.number(query).await == Some(records)).then_some(()))
            .await;
    };
    let millpond = Millpond::serve(&project).await;
    send(10);
    committed(&millpond, 10).await;
    let then = millpond.number("SELECT table_version FROM system.tables WHERE table_name = 'trips'").await.unwrap();
    let version = then.to_string();
    send(10);
    committed(&millpond, 20).await;
    run(&project, &["table", "optimize", "trips"]).await;
    let restore = ["table", "restore", "trips", "--version", &version];
    let with = |more: &[&'static str]| [&restore[..], more].concat();

    let unsaid = project.run(&restore).await;
    assert_eq!(
        unsaid.stderr,
        "error: what becomes of the records that table trips has read since?\n  \
         hint: --rewind reads them again, --keep-positions leaves them out for good\n"
    );
    let derived = project.run(&["table", "restore", "cars", "--version", "0"]).await;
    assert!(derived.stderr.starts_with("error: table cars is put together from others"), "{}", derived.stderr);
    let never = project.run(&["table", "restore", "trips", "--version", "99999", "--rewind"]).await;
    assert!(never.stderr.contains("hint: it can be read from table version 0 "), "{}", never.stderr);
    let dry = run(&project, &with(&["--keep-positions", "--dry-run"])).await;
    assert!(
        dry.starts_with(&format!("trips: would be restored to table version {version}: 20 rows would go away, 10 "))
    );
    has(&millpond, "trips", 20).await;

    // What came since is left out, and what comes from now on is not.
    let said = run(&project, &with(&["--keep-positions"])).await;
    let wanted = format!("trips: restored to table version {version}: 20 rows went away, 10 rows came back");
    assert_eq!(said, format!("{wanted}; put together anew: cars\n"));
    has(&millpond, "trips", 10).await;
    has(&millpond, "cars", 10).await;
    send(5);
    has(&millpond, "trips", 15).await;
    has(&millpond, "cars", 15).await;
    committed(&millpond, 25).await;

    // It is read again, by a process that is killed before it can say so.
    assert_eq!(millpond.stop().await, Some(0));
    let millpond = Millpond::serve(&project.clone().failpoint("restore_after_commit", 1)).await;
    let rewind = with(&["--rewind", "--url", project.flight_sql().leak()]);
    let (asked, (code, _)) = tokio::join!(project.run(&rewind), millpond.ended(SOON));
    assert!(asked.code != Some(0) && code.is_none(), "{asked:?}");
    let millpond = Millpond::serve(&project.clone().without_failpoint()).await;
    has(&millpond, "trips", 25).await;
    committed(&millpond, 25).await;
    // And once more, while records come.
    let all = send(300);
    let said = run(&project, &with(&["--rewind"])).await;
    assert!(said.contains("; what came from Kafka since is read again"), "{said}");
    has(&millpond, "trips", 325).await;
    committed(&millpond, 325).await;
    has(&millpond, "cars", 325).await;
    assert_eq!(millpond.stop().await, Some(0));
    all.assert_exact(&project.table_url("trips"), None).await;

    // Without a server nothing is read meanwhile; the next one begins where the table says.
    let said = run(&project, &with(&["--rewind"])).await;
    assert!(said.contains("315 rows went away"), "{said}");
    let millpond = Millpond::serve(&project).await;
    has(&millpond, "trips", 325).await;
    assert_eq!(millpond.stop().await, Some(0));
    all.assert_exact(&project.table_url("trips"), None).await;
}
