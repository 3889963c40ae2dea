//! What happens to a topic while its table is fed: it grows, it forgets, it is deleted and made again.

use std::time::Duration;

use crate::rig::{Kafka, Lake, Millpond, Project, wait_until};

/// Kafka tells of partitions that came or went only now and then.
const SOON: Duration = Duration::from_secs(120);

async fn until_rows(millpond: &Millpond, table: &str, rows: i64) {
    let sql = format!("SELECT count(*) AS n FROM {table}");
    wait_until(&format!("{table} has {rows} rows"), SOON, async || {
        millpond.number(&sql).await.filter(|found| *found == rows)
    })
    .await;
}

fn send(kafka: &Kafka, topic: &str, numbers: std::ops::Range<i64>) {
    let record = |n: i64| (Some(n.to_string().into_bytes()), Some(format!("{{\"n\":{n}}}").into_bytes()));
    kafka.send(topic, numbers.map(record));
}

/// Waits until `/readyz` gives this reason.
async fn until_told(millpond: &Millpond, reason: &str) {
    wait_until(reason, SOON, async || {
        let (status, reasons) = millpond.get("/readyz").await?;
        (status == 503 && reasons.contains(reason)).then_some(())
    })
    .await;
}

const WAY_OUT: &str = "nothing is skipped; put the topic right, or say where to go on: `millpond ingest seek`";

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_come_later_are_read_from_their_beginning() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("grows", 1).await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("numbers", &topic, "key = [\"n\"]");
    let millpond = Millpond::serve(&project).await;
    send(kafka, &topic, 0..20);
    until_rows(&millpond, "numbers", 20).await;
    kafka.grow(&topic, 4).await;
    send(kafka, &topic, 20..120);
    until_rows(&millpond, "numbers", 120).await;
    assert_eq!(millpond.number("SELECT count(DISTINCT _partition) AS n FROM numbers").await, Some(4));
    // After a restart they are known.
    assert_eq!(millpond.stop().await, Some(0));
    let millpond = Millpond::serve(&project).await;
    send(kafka, &topic, 120..200);
    until_rows(&millpond, "numbers", 200).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_again_or_that_has_forgotten_stops_its_tables_alone_with_the_way_out() {
    let kafka = Kafka::shared().await;
    let (again, forgot, fine) =
        (kafka.topic("again", 1).await, kafka.topic("forgot", 1).await, kafka.topic("fine", 1).await);
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .events("again", &again, "key = [\"n\"]")
        .events("forgot", &forgot, "key = [\"n\"]")
        .events("fine", &fine, "key = [\"n\"]");
    let millpond = Millpond::serve(&project).await;
    for (table, topic) in [("again", &again), ("forgot", &forgot), ("fine", &fine)] {
        send(kafka, topic, 0..10);
        until_rows(&millpond, table, 10).await;
    }
    assert_eq!(millpond.stop().await, Some(0));
    kafka.delete(&again).await;
    kafka.create(&again, 1).await;
    send(kafka, &again, 0..3);
    send(kafka, &forgot, 10..20);
    kafka.forget_below(&forgot, 0, 15).await;
    send(kafka, &fine, 10..20);
    // It does not become ready.
    let millpond = Millpond::start(&project);
    until_told(&millpond, "position 10 is beyond the end (it holds 0 to 2): the topic was deleted and made again")
        .await;
    until_told(&millpond, "position 10 is below what kafka still holds (it holds 15 to 19)").await;
    until_told(&millpond, WAY_OUT).await;
    // Others go on, and what is there can be read.
    until_rows(&millpond, "fine", 20).await;
    until_rows(&millpond, "again", 10).await;
    let stopped = "SELECT count(*) AS n FROM system.ingest WHERE error LIKE '%nothing is skipped%'";
    assert_eq!(millpond.number(stopped).await, Some(2));
    // The way out: tables of other names, beside which these stay stopped.
    let project =
        project.events("forgot_again", &forgot, "key = [\"n\"]").events("again_again", &again, "key = [\"n\"]");
    until_rows(&millpond, "forgot_again", 5).await;
    until_rows(&millpond, "again_again", 3).await;
    wait_until("both are stopped again", SOON, async || millpond.number(stopped).await.filter(|stopped| *stopped == 2))
        .await;
    send(kafka, &again, 3..5);
    send(kafka, &forgot, 20..25);
    until_rows(&millpond, "forgot_again", 10).await;
    until_rows(&millpond, "again_again", 5).await;
    until_rows(&millpond, "again", 10).await;
    until_rows(&millpond, "forgot", 10).await;
    // After a restart, too; or their files go.
    assert_eq!(millpond.stop().await, Some(0));
    let millpond = Millpond::start(&project);
    send(kafka, &again, 5..7);
    until_rows(&millpond, "forgot_again", 10).await;
    until_rows(&millpond, "again_again", 7).await;
    wait_until("both are still stopped", SOON, async || millpond.number(stopped).await.filter(|stopped| *stopped == 2))
        .await;
    for table in ["forgot", "again"] {
        std::fs::remove_file(project.dir().join(format!("schemas/{table}.toml"))).unwrap();
    }
    wait_until("nothing is stopped", SOON, async || millpond.number(stopped).await.filter(|stopped| *stopped == 0))
        .await;
    // While it is read.
    send(kafka, &fine, 20..25);
    until_rows(&millpond, "fine", 25).await;
    kafka.delete(&fine).await;
    until_told(&millpond, "no longer exists").await;
    assert_eq!(millpond.stop().await, Some(0));
    drop(project);
}
