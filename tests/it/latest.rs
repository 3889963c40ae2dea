//! Latest tables on the lake: plain Delta for outsiders, and a restart that goes on where the last flush was.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(60);

const CARS: &str = "kind = \"mirror\"\nformat = \"dms-json\"\nkey = [\"car_id\"]\n";
const STATE: &str = r#"
kind = "latest"
key = ["car_id"]
[sources.cars]
on_delete = "drop_row"
[sources.signals]
key = { car_id = "car" }
merge = "last_non_null"
columns = ["lights", "speed"]
[columns.lights_left_on]
sql = "lights AND speed = 0"
"#;

/// A project with a mirror of cars, their signals, and what is known of each car.
async fn fleet(kafka: &Kafka) -> (Project, String, String) {
    let (cars, signals) = (kafka.topic("cars", 2).await, kafka.topic("signals", 2).await);
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .schema("cars", &format!("{CARS}topic = \"{cars}\"\n"))
        .events("signals", &signals, "key = [\"car\"]")
        .schema("car_state", STATE);
    (project, cars, signals)
}

/// The database's row of a car, and one signal of it; both say the round they are of.
fn send(kafka: &Kafka, cars: &str, signals: &str, car: usize, round: usize) {
    let key = format!("{{\"car_id\":{car}}}").into_bytes();
    let row = json!({"data": {"car_id": car, "plate": format!("{car}-{round}")}, "metadata": {"record-type": "data", "operation": "update"}});
    kafka.send(cars, [(Some(key), Some(row.to_string().into_bytes()))]);
    let signal = match round % 2 {
        0 => json!({"car": car, "lights": true, "speed": round}),
        _ => json!({"car": car, "speed": 0}),
    };
    kafka.send(signals, [(Some(car.to_string().into_bytes()), Some(signal.to_string().into_bytes()))]);
}

/// What is to be known of the cars `0..count` after a round.
fn expected(count: usize, round: usize) -> Vec<Value> {
    let speed = if round.is_multiple_of(2) { round } else { 0 };
    (0..count)
        .map(|car| json!({"car_id": car, "plate": format!("{car}-{round}"), "lights": true, "speed": speed, "lights_left_on": speed == 0}))
        .collect()
}

const ROWS: &str = "SELECT car_id, plate, lights, speed, lights_left_on FROM";

async fn until(millpond: &Millpond, expected: &[Value]) {
    let sql = format!("{ROWS} car_state ORDER BY car_id");
    wait_until("car_state has all rows", SOON, async || {
        let url = millpond.project().flight_sql();
        let output = millpond.project().run(&["sql", "--url", &url, "--format", "ndjson", "-c", &sql]).await;
        let found: Vec<Value> = output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (found == expected).then_some(())
    })
    .await;
}

/// Waits until DuckDB sees these rows in the lake.
async fn until_outside(project: &Project, expected: &[Value]) {
    python::until_duckdb(&project.table_url("car_state"), &format!("{ROWS} t ORDER BY car_id"), expected).await;
}

/// The data files of a table.
fn data_files(project: &Project, table: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![PathBuf::from(project.table_url(table))];
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match path.is_dir() {
                true if !path.ends_with("_delta_log") => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "parquet") => files.push(path),
                _ => {}
            }
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_step_of_a_flush_loses_nothing_and_outsiders_see_plain_rows() {
    let kafka = Kafka::shared().await;
    let (project, cars, signals) = fleet(kafka).await;
    const CARS: usize = 5;
    let mut round = 0;
    let points = ["latest_before_stage", "latest_after_stage", "latest_after_manifest", "latest_after_commit"];
    for (point, nth) in points.iter().flat_map(|point| [(*point, 1), (*point, 4)]) {
        // Three tables are flushed at once: the first hit may be of any.
        let more = || {
            (0..CARS).for_each(|car| send(kafka, &cars, &signals, car, round));
            round += 2;
        };
        Millpond::until_killed(&project, (point, nth), Duration::from_millis(300), more).await;
    }
    let millpond = Millpond::serve(&project).await;
    (0..CARS).for_each(|car| send(kafka, &cars, &signals, car, round));
    until(&millpond, &expected(CARS, round)).await;
    until_outside(&project, &expected(CARS, round)).await;
    let columns = python::run("delta_columns.py", &[&project.table_url("car_state")], &[]).await;
    let columns: Vec<Value> = columns.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["car_id", "event_time", "plate", "lights", "speed", "lights_left_on", "_bucket"]);
    let versions = "SELECT count(*) AS n FROM system.tables WHERE table_name IN ('cars', 'car_state') AND files > 0 AND table_version > 0";
    assert_eq!(millpond.number(versions).await, Some(2));
    let past = "SELECT count(*) AS n FROM at_version('car_state', 1)";
    assert!(millpond.number(past).await.is_some(), "as it was");

    // In order, nothing is read again: neither what is in Kafka nor what the source tables hold.
    assert_eq!(millpond.stop().await, Some(0));
    until_outside(&project, &expected(CARS, round)).await;
    let hidden: Vec<PathBuf> =
        ["signals", "cars__changes"].iter().flat_map(|table| data_files(&project, table)).collect();
    assert!(!hidden.is_empty());
    let away = |path: &PathBuf| path.with_extension("away");
    hidden.iter().for_each(|path| std::fs::rename(path, away(path)).unwrap());
    let millpond = Millpond::serve(&project).await;
    until(&millpond, &expected(CARS, round)).await;
    hidden.iter().for_each(|path| std::fs::rename(away(path), path).unwrap());
    // And it goes on.
    round += 1;
    (0..CARS).for_each(|car| send(kafka, &cars, &signals, car, round));
    until(&millpond, &expected(CARS, round)).await;
    until_outside(&project, &expected(CARS, round)).await;
    assert_eq!(millpond.stop().await, Some(0));
    let sql = format!("{ROWS} car_state ORDER BY car_id");
    let output = project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", &sql]).await;
    let found: Vec<Value> = output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(found, expected(CARS, round), "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_latest_table_deleted_by_hand_is_made_again() {
    let kafka = Kafka::shared().await;
    let (project, cars, signals) = fleet(kafka).await;
    let millpond = Millpond::serve(&project).await;
    (0..3).for_each(|car| send(kafka, &cars, &signals, car, 2));
    until(&millpond, &expected(3, 2)).await;
    until_outside(&project, &expected(3, 2)).await;
    // While it runs: the next change makes it again, whole.
    std::fs::remove_dir_all(project.table_url("car_state")).unwrap();
    send(kafka, &cars, &signals, 1, 4);
    let mut rows = expected(3, 2);
    rows[1] = expected(3, 4)[1].clone();
    until_outside(&project, &rows).await;
    until(&millpond, &rows).await;
    // While it does not, its sidecars too.
    assert_eq!(millpond.stop().await, Some(0));
    std::fs::remove_dir_all(project.table_url("car_state")).unwrap();
    std::fs::remove_dir_all(format!("{}/_millpond/latest/cars", project.lake_url())).unwrap();
    let millpond = Millpond::serve(&project).await;
    until(&millpond, &rows).await;
    until_outside(&project, &rows).await;
    send(kafka, &cars, &signals, 0, 6);
    rows[0] = expected(3, 6)[0].clone();
    until_outside(&project, &rows).await;
    // On purpose, while it runs and is read.
    let url = project.flight_sql();
    let replay = async |table: &str| project.run(&["ingest", "replay", table, "--from", "tables", "--url", &url]).await;
    for (table, said) in [("car_state", "car_state has 3 rows\n"), ("cars", "cars has 3 rows\n")] {
        let output = replay(table).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), said), "{}", output.stderr);
    }
    let output = replay("signals").await;
    assert!(
        output.stderr.contains("table signals does not come from other tables, but from Kafka"),
        "{}",
        output.stderr
    );
    send(kafka, &cars, &signals, 2, 8);
    rows[2] = expected(3, 8)[2].clone();
    until(&millpond, &rows).await;
    until_outside(&project, &rows).await;
    assert_eq!(millpond.stop().await, Some(0));
}

/// Spark begins slowly and is large: one look.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "Spark is a large download; make test-all runs it"]
async fn spark_sees_the_same_rows() {
    let kafka = Kafka::shared().await;
    let (project, cars, signals) = fleet(kafka).await;
    let millpond = Millpond::serve(&project).await;
    for round in [2, 3, 4] {
        (0..5).for_each(|car| send(kafka, &cars, &signals, car, round));
        until_outside(&project, &expected(5, round)).await;
    }
    let found = python::spark(&[&project.table_url("car_state"), &format!("{ROWS} t ORDER BY car_id")]).await;
    assert_eq!(found.unwrap(), expected(5, 4));
    assert_eq!(millpond.stop().await, Some(0));
}
