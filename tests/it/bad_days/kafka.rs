//! The broker is wrong, or away; the topic is missing, or empty; the cluster is another.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::json;

use super::{
    ROWS, WINDOW, assert_for_people, assert_refused, assert_says, ingest_status, numbered, project_on, until_not_ready,
    until_rows, until_sql,
};
use crate::rig::{Kafka, Lake, Ledger, Millpond, Project, wait_until};

#[tokio::test]
async fn a_broker_that_is_away_is_said_once_and_waited_for() {
    let kafka = Kafka::start().await;
    let topic = kafka.topic("away", 1).await;
    kafka.send(&topic, numbered(0..WINDOW));
    kafka.stop();
    let project = Project::new(kafka.brokers(), Lake::Local).events("events", &topic, "");
    let millpond = Millpond::start(&project);
    let reason = ["ingest has not started", "kafka cannot be reached", "Connection refused"];
    until_not_ready(&millpond, &reason).await;
    let status = ingest_status(&project).await;
    assert_eq!(status[0]["state"], "waiting");
    assert!(status[0]["error"].as_str().unwrap().contains("Connection refused"), "{status:?}");
    assert_eq!(millpond.number("SELECT count(*) AS n FROM events").await, Some(0), "SQL answers without Kafka");

    kafka.restart().await;
    until_rows(&millpond, WINDOW).await;
    millpond.ready().await;
    assert_eq!(ingest_status(&project).await[0]["error"], serde_json::Value::Null);
    let log = millpond.process().log();
    assert_says(&log, &["check kafka.brokers and kafka.properties in millpond.toml", "Connection refused"]);
    assert_eq!(log.matches("WARN").count(), 1, "said once:\n{log}");

    // Away in the middle: the same, and it goes on where it was.
    kafka.stop();
    until_not_ready(&millpond, &[&format!("topic {topic}: unreachable"), "kafka cannot be reached"]).await;
    assert_eq!(ingest_status(&project).await[0]["state"], "unreachable");
    kafka.restart().await;
    let more = kafka.send(&topic, numbered(WINDOW..2 * WINDOW));
    assert_eq!(more.len() as i64, WINDOW);
    until_rows(&millpond, 2 * WINDOW).await;
    millpond.ready().await;
    assert_for_people(&millpond.process().log());
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test]
async fn a_missing_topic_holds_up_no_other_and_is_read_once_it_appears() {
    let kafka = Kafka::shared().await;
    let (there, missing) = (kafka.topic("there", 1).await, Kafka::name("missing"));
    kafka.send(&there, numbered(0..WINDOW));
    let project = project_on(&missing).await.events("present", &there, "");
    let millpond = Millpond::start(&project);
    until_not_ready(&millpond, &[&format!("topic {missing}: waiting for topic")]).await;
    until_sql(&millpond, "SELECT count(*) AS n FROM present", WINDOW).await;
    assert!(kafka.ends(&missing).is_empty(), "a misspelt topic is not created");
    until_rows(&millpond, 0).await;
    let status = ingest_status(&project).await;
    let row = status.iter().find(|row| row["table_name"] == "events").unwrap();
    assert_eq!((&row["topic"], &row["state"]), (&json!(missing), &json!("waiting for topic")));
    assert_says(row["error"].as_str().unwrap(), &[&missing, "does not exist yet"]);

    kafka.create(&missing, 2).await;
    let mut ledger = Ledger::default();
    ledger.add(kafka.send(&missing, numbered(0..WINDOW)));
    until_rows(&millpond, WINDOW).await;
    millpond.ready().await;
    let log = millpond.process().log();
    assert_says(&log, &["topic does not exist yet", &missing]);
    assert_eq!(log.matches("topic does not exist yet").count(), 1, "said once:\n{log}");
    // Partitions that never had a record are there as well, from their beginning.
    let known = ingest_status(&project).await.iter().filter(|row| row["table_name"] == "events").count();
    assert_eq!(known, 2);
    assert_eq!(millpond.stop().await, Some(0));
    ledger.assert_exact(&project.table_url("events"), None).await;
}

#[tokio::test]
async fn an_empty_topic_is_ready_and_has_no_rows() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("empty", 2).await;
    let project = project_on(&topic).await;
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, 0).await;
    let status = wait_until("the ends are known", ROWS, async || {
        let status = ingest_status(&project).await;
        (status.len() == 2 && status.iter().all(|row| row["lag"] == 0)).then_some(status)
    })
    .await;
    assert!(status.iter().all(|row| row["state"] == "reading" && row["error"].is_null()), "{status:?}");
    kafka.send(&topic, numbered(0..WINDOW));
    until_rows(&millpond, WINDOW).await;
    let log = millpond.process().log();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test]
async fn a_lake_of_another_kafka_cluster_is_refused_by_name() {
    let (first, second) = (Kafka::shared().await, Kafka::start().await);
    let topic = first.topic("cluster", 1).await;
    second.create(&topic, 1).await;
    first.send(&topic, numbered(0..WINDOW));
    second.send(&topic, numbered(0..2 * WINDOW));
    let project = project_on(&topic).await;
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, WINDOW).await;
    assert_eq!(millpond.stop().await, Some(0));

    let moved = project.clone().env("MILLPOND__KAFKA__BROKERS", second.brokers());
    let (one, other) = (cluster_id(first), cluster_id(&second));
    let log = assert_refused(
        &moved,
        1,
        &[&format!("is fed from Kafka cluster `{one}`"), &format!("the brokers belong to cluster `{other}`"), "hint: "],
    )
    .await;
    assert!(!log.contains("reading topic"), "nothing of the other cluster is read:\n{log}");

    // On its own cluster it goes on, with its own rows only.
    first.send(&topic, numbered(WINDOW..WINDOW + 1));
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, WINDOW + 1).await;
    assert_eq!(millpond.stop().await, Some(0));
}

fn cluster_id(kafka: &Kafka) -> String {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create().unwrap();
    client.client().fetch_cluster_id(Duration::from_secs(30)).unwrap()
}
