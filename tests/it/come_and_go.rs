//! Contracts that come, go and change while `serve` runs: readers are set up anew, rows stay exact, statements go on.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Kafka, Lake, Millpond, Project, wait_until};

/// A table's first rows may wait ten seconds for more; and both processors may be busy.
const SOON: Duration = Duration::from_secs(60);

/// A Delta table with one column, and without rows.
const FOREIGN: &str = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":2}}
{"metaData":{"id":"b6a4bd0c-6e38-4f8a-9e36-8b57c6a2d6f1","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[{\"name\":\"x\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}}]}","partitionColumns":[],"configuration":{}}}
"#;

fn send(kafka: &Kafka, topic: &str, ids: std::ops::Range<i64>) {
    let text = |id: i64| format!(r#"{{"id":{id},"kind":"{}"}}"#, if id % 2 == 0 { "even" } else { "odd" });
    let texts: Vec<String> = ids.map(text).collect();
    kafka.send_text(topic, texts.iter().map(String::as_str));
}

async fn until(millpond: &Millpond, sql: &str, number: i64) {
    let what = format!("{sql} = {number}");
    // A table that is not there yet is no number.
    wait_until(&what, SOON, async || (millpond.number(sql).await == Some(number)).then_some(())).await;
}

/// Each row once: so many rows, and so many different ones.
async fn exact(millpond: &Millpond, table: &str, rows: i64) {
    until(millpond, &format!("SELECT count(*) AS n FROM {table}"), rows).await;
    let distinct = format!("SELECT count(DISTINCT id) AS n FROM {table}");
    assert_eq!(millpond.number(&distinct).await, Some(rows), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_come_go_and_change_while_others_are_fed_exactly_once() {
    let kafka = Kafka::shared().await;
    let (shared, own) = (kafka.topic("come", 2).await, kafka.topic("go", 1).await);
    let project = Project::new(kafka.brokers(), Lake::Local).commit_interval("200ms").events("all", &shared, "");
    let millpond = Millpond::serve(&project).await;
    send(kafka, &shared, 0..1_000);
    exact(&millpond, "all", 1_000).await;

    let begins = || millpond.process().log().matches("reading begins").count();
    let begins_again = async |before: usize| {
        wait_until("reading begins again", SOON, async || (begins() > before).then_some(())).await;
    };
    // Two more, one on the same topic, saved at once as a `git pull` does; records come all the time.
    let _ = project.clone().events("odd", &shared, "match = { kind = \"odd\" }").events("own", &own, "");
    for part in 0..10 {
        send(kafka, &shared, 1_000 + part * 100..1_100 + part * 100);
        send(kafka, &own, part * 100..part * 100 + 100);
    }
    exact(&millpond, "odd", 1_000).await;
    exact(&millpond, "own", 1_000).await;
    exact(&millpond, "all", 2_000).await;

    // Another condition holds from where the table stands.
    let before = begins();
    let _ = project.clone().events("odd", &shared, "match = { kind = [\"odd\", \"even\"] }");
    begins_again(before).await;
    send(kafka, &shared, 2_000..2_010);
    exact(&millpond, "odd", 1_010).await;

    // A contract that is gone takes nothing away.
    let before = begins();
    std::fs::remove_file(project.dir().join("schemas/own.toml")).unwrap();
    begins_again(before).await;
    until(&millpond, "SELECT count(*) AS n FROM system.ingest WHERE table_name = 'own' AND state = 'reading'", 0).await;
    send(kafka, &own, 1_000..1_010);
    send(kafka, &shared, 2_010..2_020);
    exact(&millpond, "all", 2_020).await;
    exact(&millpond, "own", 1_000).await;
    assert_eq!(millpond.get("/readyz").await.map(|(status, _)| status), Some(200));
    assert_eq!(millpond.stop().await, Some(0));

    // Not with the next start either; and back again it goes on where it was.
    let millpond = Millpond::serve(&project).await;
    exact(&millpond, "own", 1_000).await;
    let _ = project.clone().events("own", &own, "");
    exact(&millpond, "own", 1_010).await;
    exact(&millpond, "all", 2_020).await;
    let tables = "SELECT table_name FROM system.tables ORDER BY 1";
    assert_eq!(millpond.sql(tables).await, ["all", "odd", "own"].map(|name| json!({"table_name": name})));
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_waits_for_its_first_records_goes_on_waiting() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("waits", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("waits", &topic, "");
    let millpond = Millpond::serve(&project).await;
    kafka.send_text(&topic, std::iter::repeat_n(r#"{"volts":0}"#, 10));
    until(&millpond, "SELECT count(*) AS n FROM system.ingest WHERE state = 'deciding types'", 1).await;
    let _ = project.clone().events("other", &topic, "");
    until(&millpond, "SELECT count(*) AS n FROM system.tables WHERE table_name = 'other'", 1).await;
    kafka.send_text(&topic, std::iter::repeat_n(r#"{"volts":12.5}"#, 990));
    // Ten zeros did not decide the type.
    until(&millpond, "SELECT count(*) AS n FROM waits WHERE arrow_typeof(volts) = 'Float64'", 1_000).await;
    assert_eq!(millpond.number("SELECT max(version) AS n FROM system.schema_versions").await, Some(1));
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_git_pull_changes_nothing_and_the_rest_of_it_all() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("pull", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("cars", &topic, "");
    let millpond = Millpond::serve(&project).await;
    send(kafka, &topic, 0..1_000);
    exact(&millpond, "cars", 1_000).await;
    // A conflict's marks in one file, a new table and a view of it in the others.
    let odd = |more: &str| project.clone().events("odd", &topic, &format!("match = {{ kind = \"odd\" }}\n{more}"));
    let _ = odd("<<<<<<< HEAD\nraw = true");
    let queries = project.dir().join("queries");
    std::fs::create_dir_all(&queries).unwrap();
    std::fs::write(queries.join("last_odd.sql"), "--! kind = \"view\"\nSELECT max(id) AS id FROM odd").unwrap();
    wait_until("it is refused", SOON, async || {
        let log = millpond.process().log();
        log.lines().any(|line| line.contains("what ran before goes on") && line.contains("odd.toml:5")).then_some(())
    })
    .await;
    send(kafka, &topic, 1_000..1_010);
    exact(&millpond, "cars", 1_010).await;
    assert_eq!(millpond.number("SELECT id FROM last_odd").await, None);
    let _ = odd("raw = true");
    until(&millpond, "SELECT id FROM last_odd", 1_009).await;
    exact(&millpond, "odd", 505).await;
    until(&millpond, "SELECT count(*) AS n FROM odd__raw", 505).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_that_cannot_be_fed_is_given_up_and_the_others_go_on() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("stays", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("stays", &topic, "");
    let millpond = Millpond::serve(&project).await;
    send(kafka, &topic, 0..1_000);
    exact(&millpond, "stays", 1_000).await;
    // Somebody else's table lies where the new one would be.
    let log = project.dir().join("lake/public/odd/_delta_log");
    std::fs::create_dir_all(&log).unwrap();
    std::fs::write(log.join("00000000000000000000.json"), FOREIGN).unwrap();
    let _ = project.clone().events("odd", &topic, "");
    wait_until("it is given up", SOON, async || {
        let log = millpond.process().log();
        let given_up = |line: &str| line.contains("those before go on") && line.contains("not one that Millpond made");
        log.lines().any(given_up).then_some(())
    })
    .await;
    send(kafka, &topic, 1_000..1_010);
    exact(&millpond, "stays", 1_010).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_gets_the_topics_of_new_contracts() {
    let project = Project::new("embedded", Lake::Local).events("orders", "orders", "");
    let millpond = Millpond::serve(&project).await;
    let records: Vec<String> = (0..1_000).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    std::fs::write(project.dir().join("records.ndjson"), records.concat()).unwrap();
    let produce = async |topic: &str| {
        let sent = project.run(&["produce", topic, "records.ndjson"]).await;
        assert_eq!(sent.code, Some(0), "{}{}", sent.stdout, sent.stderr);
    };
    produce("orders").await;
    exact(&millpond, "orders", 1_000).await;
    let _ = project.clone().events("returns", "shop.returns", "");
    until(&millpond, "SELECT count(*) AS n FROM system.ingest WHERE topic = 'shop.returns' AND state = 'reading'", 3)
        .await;
    produce("shop.returns").await;
    exact(&millpond, "returns", 1_000).await;
    exact(&millpond, "orders", 1_000).await;
    assert_eq!(millpond.stop().await, Some(0));
}
