//! Schema versions on a real Kafka: columns that widen, what is recorded and when, contracts edited while they run.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Minio, Project, credentials, python, wait_until};

/// A table's first rows may wait ten seconds for more; and both processors may be busy.
const SOON: Duration = Duration::from_secs(60);
/// Records that make a table decide on its columns at once.
const WINDOW: i64 = 1_000;
const HOT: &str = "SELECT sum(hot_rows) AS n FROM system.ingest";

async fn until(millpond: &Millpond, sql: &str, number: i64) {
    let what = format!("{sql} = {number}");
    wait_until(&what, SOON, async || (millpond.number(sql).await == Some(number)).then_some(())).await;
}

/// Readings of a parked car, then of one that is driven.
fn readings(kafka: &Kafka, topic: &str, ids: std::ops::Range<i64>, volts: &str) {
    let text = |id| format!(r#"{{"id":{id},"battery":{{"volts":{volts}}}}}"#);
    kafka.send(topic, ids.map(|id| (None, Some(text(id).into_bytes()))));
}

async fn columns(url: &str, minio: Option<&Minio>) -> Vec<Value> {
    let mut env = credentials().to_vec();
    env.extend(minio.map(|minio| ("AWS_ENDPOINT_URL", minio.endpoint())));
    let output = python::run("delta_columns.py", &[url], &env).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn has(columns: &[Value], name: &str) -> bool {
    columns.iter().any(|column| column["name"] == name)
}

/// What `millpond schema …` prints.
async fn schema(project: &Project, arguments: &[&str]) -> String {
    let output = project.run(&[&["schema"], arguments].concat()).await;
    assert_eq!(output.code, Some(0), "{arguments:?}: {}", output.stderr);
    println!("$ millpond schema {}\n{}", arguments.join(" "), output.stdout);
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_cars_zeros_and_then_a_voltage_are_one_column_without_nulls() {
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic("parked", 1).await;
    let bucket = Kafka::name("parked");
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).events("car", &topic, "");
    let millpond = Millpond::serve(&project).await;
    readings(kafka, &topic, 0..WINDOW, "0");
    until(&millpond, "SELECT count(battery_volts) AS n FROM car", WINDOW).await;
    until(&millpond, HOT, 0).await;

    readings(kafka, &topic, WINDOW..WINDOW + 5, "12.5");
    readings(kafka, &topic, WINDOW + 5..WINDOW + 6, "13");
    until(&millpond, "SELECT count(*) AS n FROM car", WINDOW + 6).await;
    let state = "SELECT count(battery_volts) AS n, sum(battery_volts) AS total, \
                 count(_rescued) AS rescued, max(arrow_typeof(battery_volts)) AS kind FROM car";
    let whole = json!({"n": WINDOW + 6, "total": 75.5, "rescued": 0, "kind": "Float64"});
    assert_eq!(millpond.sql(state).await, std::slice::from_ref(&whole), "hot");
    let versions = "SELECT version, parent, \"offset\" FROM system.schema_versions ORDER BY version";
    let recorded =
        [json!({"version": 1, "parent": null, "offset": 0}), json!({"version": 2, "parent": 1, "offset": WINDOW})];
    assert_eq!(millpond.sql(versions).await, recorded, "known at once");
    until(&millpond, HOT, 0).await;
    assert_eq!(millpond.sql(state).await, std::slice::from_ref(&whole), "committed");
    assert_eq!(millpond.sql("SELECT count(*) AS n FROM car WHERE battery_volts > 12").await, [json!({"n": 6})]);

    // What a person sees.
    let history = schema(&project, &["history", "car"]).await;
    assert!(history.contains("bigint → double") && history.contains(&format!("offset {WINDOW}")), "{history}");
    let shown = schema(&project, &["show", "car"]).await;
    assert!(shown.contains("was bigint") && !shown.contains("__w1"), "{shown}");
    assert!(schema(&project, &["diff", "car"]).await.contains("12.5"));
    assert!(schema(&project, &["list"]).await.contains("car"));
    let json: Value = serde_json::from_str(&schema(&project, &["history", "car", "--format", "json"]).await).unwrap();
    assert_eq!(json.as_array().map(|rows| rows.last().unwrap()["change"].clone()), Some(json!("widen")));
    let diff: Value = serde_json::from_str(&schema(&project, &["diff", "car", "--format", "json"]).await).unwrap();
    assert_eq!((&diff[0]["change"], &diff[0]["sample"]), (&json!("widen"), &json!("12.5")));
    let list: Value = serde_json::from_str(&schema(&project, &["list", "--format", "json"]).await).unwrap();
    assert_eq!((&list[0]["version"], &list[0]["columns"]), (&json!(2), &json!(2)));
    let missing = project.run(&["schema", "show", "nowhere"]).await;
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
    let select = schema(&project, &["show", "car", "--sql"]).await;
    assert_eq!(millpond.stop().await, Some(0));

    // Outside readers see both columns, and one with our SELECT; our own reader of the lake sees one.
    let seen = columns(&project.table_url("car"), Some(minio)).await;
    assert!(has(&seen, "battery_volts") && has(&seen, "battery_volts__w1"), "{seen:?}");
    let mut env = credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    let both = "SELECT count(battery_volts)::BIGINT AS old, count(battery_volts__w1)::BIGINT AS new FROM t";
    let found = python::duckdb(&project.table_url("car"), both, &env).await.unwrap();
    assert_eq!(found, [json!({"old": WINDOW, "new": 6})]);
    let logical = select.replace("FROM car", "FROM t");
    let logical = format!("SELECT count(battery_volts)::BIGINT AS n, sum(battery_volts) AS total FROM ({logical})");
    let found = python::duckdb(&project.table_url("car"), &logical, &env).await.unwrap();
    assert_eq!(found, [json!({"n": WINDOW + 6, "total": 75.5})]);
    let offline = project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", state]).await;
    assert_eq!(serde_json::from_str::<Value>(offline.stdout.trim()).ok(), Some(whole), "{}", offline.stderr);
    let offline = schema(&project, &["history", "car", "--project", "."]).await;
    assert_eq!(offline, history);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_recorded_before_a_kill_is_applied_and_not_inferred_again() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("recorded", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("car", &topic, "");
    // The first record is that of version 1, the second that of the wider one.
    let dying = Millpond::serve(&project.clone().failpoint("after_version_record", 2)).await;
    readings(kafka, &topic, 0..WINDOW, "0");
    until(&dying, "SELECT count(*) AS n FROM car", WINDOW).await;
    until(&dying, HOT, 0).await;
    readings(kafka, &topic, WINDOW..WINDOW + 5, "12.5");
    let (code, log) = dying.ended(SOON).await;
    assert_eq!(code, None, "{log}");

    // Recorded, but the table knows nothing of it yet; whoever reads the lake sees the column all the same.
    assert!(!has(&columns(&project.table_url("car"), None).await, "battery_volts__w1"));
    let kind = "SELECT DISTINCT arrow_typeof(battery_volts) AS kind FROM car";
    let offline = project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", kind]).await;
    assert_eq!(offline.stdout.trim(), r#"{"kind":"Float64"}"#, "{}", offline.stderr);

    let millpond = Millpond::serve(&project.without_failpoint()).await;
    wait_until("the table has the column before any row needs it", SOON, async || {
        has(&columns(&millpond.project().table_url("car"), None).await, "battery_volts__w1").then_some(())
    })
    .await;
    until(&millpond, "SELECT count(battery_volts) AS n FROM car", WINDOW + 5).await;
    until(&millpond, HOT, 0).await;
    let newest = "SELECT max(_schema_version) AS version, count(*) AS n FROM car WHERE battery_volts = 12.5";
    assert_eq!(millpond.sql(newest).await, [json!({"version": 2, "n": 5})]);
    let versions = "SELECT version, \"offset\" FROM system.schema_versions ORDER BY version";
    let once = [json!({"version": 1, "offset": 0}), json!({"version": 2, "offset": WINDOW})];
    assert_eq!(millpond.sql(versions).await, once);
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_without_records_goes_on_with_the_version_it_has() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("adopted", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("car", &topic, "key = [\"id\"]");
    let millpond = Millpond::serve(&project).await;
    readings(kafka, &topic, 0..WINDOW, "0");
    until(&millpond, "SELECT count(*) AS n FROM car", WINDOW).await;
    kafka.send_text(&topic, [r#"{"id":-1,"first":1}"#]);
    until(&millpond, "SELECT count(*) AS n FROM car", WINDOW + 1).await;
    assert_eq!(millpond.stop().await, Some(0));
    // As a lake of before versions were recorded.
    std::fs::remove_dir_all(project.system_table_url("schema_versions")).unwrap();

    let millpond = Millpond::serve(&project).await;
    until(&millpond, "SELECT max(version) AS n FROM system.schema_versions", 2).await;
    kafka.send_text(&topic, [r#"{"id":-2,"second":2}"#]);
    until(&millpond, "SELECT count(second) AS n FROM car", 1).await;
    let versions = "SELECT version, parent, cause FROM system.schema_versions ORDER BY version";
    let known = [
        json!({"version": 2, "parent": null, "cause": "adopted"}),
        json!({"version": 3, "parent": 2, "cause": "record"}),
    ];
    assert_eq!(millpond.sql(versions).await, known);
    assert_eq!(millpond.stop().await, Some(0));
    let again = Millpond::serve(&project).await;
    assert_eq!(again.sql(versions).await, known);
    assert_eq!(again.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn contracts_are_edited_while_they_run() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("edited", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("car", &topic, "");
    let millpond = Millpond::serve(&project).await;
    readings(kafka, &topic, 0..WINDOW, "0");
    until(&millpond, "SELECT count(*) AS n FROM car", WINDOW).await;
    let says = async |words: &[&str]| {
        wait_until(&format!("the log says {words:?}"), SOON, async || {
            let log = millpond.process().log();
            log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        })
        .await;
    };
    let goes_on = async |rows: i64| {
        readings(kafka, &topic, rows - 1..rows, "1");
        until(&millpond, "SELECT count(*) AS n FROM car", rows).await;
    };

    // A column declared: a new version, before any record has it.
    let declared = "[columns.temp]\npath = \"engine.temp\"\ntype = \"double\"";
    let _ = project.clone().events("car", &topic, declared);
    until(&millpond, "SELECT count(*) AS n FROM system.columns WHERE column_name = 'temp'", 1).await;
    let cause = "SELECT version, cause, file FROM system.schema_versions ORDER BY version DESC LIMIT 1";
    let edit = json!({"version": 2, "cause": "edit", "file": "schemas/car.toml"});
    assert_eq!(millpond.sql(cause).await, [edit]);
    kafka.send_text(&topic, [r#"{"id":-1,"engine":{"temp":90}}"#]);
    until(&millpond, "SELECT count(*) AS n FROM car WHERE temp = 90", 1).await;

    // A syntax error saved over it, and edits that rows contradict: what ran goes on, and the log says why.
    let _ = project.clone().events("car", &topic, "[columns.temp\n");
    says(&["what ran before goes on", "schemas/car.toml:4:"]).await;
    goes_on(WINDOW + 2).await;
    let _ = project.clone().events("car", &topic, &format!("key = [\"id\"]\n{declared}"));
    says(&["contract not taken over", "the key of table car is none, not `id`"]).await;
    let _ = project.clone().events("car", &topic, "[columns.temp]\npath = \"engine.temp\"\ntype = \"boolean\"");
    says(&["contract not taken over", "column `temp` is double"]).await;
    goes_on(WINDOW + 3).await;

    // A wider type is taken.
    let _ = project.clone().events("car", &topic, &format!("{declared}\n[columns.id]\ntype = \"double\""));
    until(&millpond, "SELECT count(*) AS n FROM system.columns WHERE column_name = 'id' AND type = 'double'", 1).await;
    goes_on(WINDOW + 4).await;
    let sums = "SELECT count(id) AS n, max(arrow_typeof(id)) AS kind FROM car";
    assert_eq!(millpond.sql(sums).await, [json!({"n": WINDOW + 4, "kind": "Float64"})]);
    assert_eq!(millpond.stop().await, Some(0));

    // And the next start agrees with what is written there.
    let again = Millpond::serve(&project).await;
    assert_eq!(again.number("SELECT max(version) AS n FROM system.schema_versions").await, Some(3));
    assert_eq!(again.stop().await, Some(0));
    let _ = project.clone().events("car", &topic, "key = [\"id\"]");
    let (code, log) = Millpond::start(&project).ended(SOON).await;
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("schemas/car.toml: the key of table car is none, not `id`"), "{log}");
}
