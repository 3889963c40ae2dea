//! Positions that somebody moves: tables are paused, led past records and into topics that were made anew, and a lake goes on
//! with another cluster.

use std::time::Duration;

use serde_json::json;

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

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

async fn said(project: &Project, arguments: &[&str]) -> String {
    let said = project.run(arguments).await;
    assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said.stdout
}

async fn until_state(millpond: &Millpond, table: &str, state: &str) {
    let sql = format!("SELECT DISTINCT state FROM system.ingest WHERE table_name = '{table}'");
    wait_until(&format!("{table} is {state}"), SOON, async || {
        (millpond.sql(&sql).await == [json!({"state": state})]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_paused_gets_nothing_until_it_is_resumed_over_restarts_too() {
    let kafka = Kafka::shared().await;
    let (held, fine) = (kafka.topic("held", 2).await, kafka.topic("beside", 1).await);
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("100ms")
        .events("held", &held, "key = [\"n\"]")
        .events("fine", &fine, "key = [\"n\"]")
        .events("shares", &held, "key = [\"n\"]");
    let millpond = Millpond::serve(&project).await;
    send(kafka, &held, 0..10);
    for table in ["held", "shares"] {
        until_rows(&millpond, table, 10).await;
    }
    let wrong = project.run(&["ingest", "pause", "hold"]).await;
    assert_eq!(wrong.stderr, "error: no topic feeds a table `hold`\n  hint: fed are: fine, held, shares\n");
    let paused = said(&project, &["ingest", "pause", "held"]).await;
    assert_eq!(paused, "held is not fed any more: `millpond ingest resume held` feeds it again\n");
    until_state(&millpond, "held", "paused").await;
    send(kafka, &held, 10..20);
    send(kafka, &fine, 0..10);
    until_rows(&millpond, "shares", 20).await;
    until_rows(&millpond, "fine", 10).await;
    until_rows(&millpond, "held", 10).await;
    millpond.kill();
    let millpond = Millpond::serve(&project).await;
    until_state(&millpond, "held", "paused").await;
    send(kafka, &held, 20..30);
    until_rows(&millpond, "shares", 30).await;
    until_rows(&millpond, "held", 10).await;
    said(&project, &["ingest", "resume", "held"]).await;
    until_rows(&millpond, "held", 30).await;
    // Both readers of one topic may rest, and a stop ends them; without a server it is only written down.
    for table in ["held", "shares"] {
        said(&project, &["ingest", "pause", table]).await;
    }
    millpond.ready().await;
    assert_eq!(millpond.stop().await, Some(0));
    said(&project, &["ingest", "resume", "shares"]).await;
    send(kafka, &held, 30..40);
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, "shares", 40).await;
    until_rows(&millpond, "held", 30).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_goes_on_behind_what_is_lost_and_in_a_topic_made_anew() {
    let kafka = Kafka::shared().await;
    let (again, forgot, fine) =
        (kafka.topic("again", 1).await, kafka.topic("forgot", 1).await, kafka.topic("fine", 1).await);
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .events("again", &again, "key = [\"n\"]")
        .events("again_too", &again, "key = [\"n\"]\nraw = true")
        .events("forgot", &forgot, "key = [\"n\"]")
        .events("fine", &fine, "key = [\"n\"]");
    let millpond = Millpond::serve(&project).await;
    for (table, topic) in [("again", &again), ("forgot", &forgot), ("fine", &fine)] {
        send(kafka, topic, 0..10);
        until_rows(&millpond, table, 10).await;
    }
    until_rows(&millpond, "again_too", 10).await;
    assert_eq!(millpond.stop().await, Some(0));
    kafka.delete(&again).await;
    kafka.create(&again, 1).await;
    send(kafka, &again, 0..3);
    send(kafka, &forgot, 10..20);
    kafka.forget_below(&forgot, 0, 15).await;
    let millpond = Millpond::start(&project);
    let stopped = "SELECT count(*) AS n FROM system.ingest WHERE error LIKE '%millpond ingest seek%'";
    wait_until("they are stopped", SOON, async || millpond.number(stopped).await.filter(|stopped| *stopped == 3)).await;

    // Behind what Kafka has lost: what is passed over is noted.
    let dry = said(&project, &["ingest", "seek", "forgot", "--to", "earliest", "--dry-run"]).await;
    assert_eq!(dry, format!("forgot: {forgot} partition 0 would read on at 15; 5 offsets from 10 are passed over\n"));
    said(&project, &["ingest", "seek", "forgot", "--to", "earliest"]).await;
    until_rows(&millpond, "forgot", 15).await;
    let gaps = "SELECT table_name, \"partition\", first_offset, next_offset, reason FROM system.gaps";
    let gap = json!({"table_name": "forgot", "partition": 0, "first_offset": 10, "next_offset": 15, "reason": "seek"});
    assert_eq!(millpond.sql(gaps).await, [gap]);
    assert_eq!(said(&project, &["ingest", "seek", "forgot", "--to", "latest"]).await, "forgot is there already\n");

    // Another life of a topic begins for all of its tables.
    let begun = said(&project, &["ingest", "seek", "again", "--to", "earliest"]).await;
    let anew = format!("again: {again} partition 0 reads on at 0 of the topic as it was made anew (incarnation 1)\n");
    assert_eq!(begun, anew);
    until_rows(&millpond, "again", 13).await;
    until_rows(&millpond, "again_too", 13).await;
    until_rows(&millpond, "again_too__raw", 13).await;
    millpond.kill();
    let millpond = Millpond::serve(&project).await;
    send(kafka, &again, 3..20);
    for table in ["again", "again_too", "again_too__raw"] {
        until_rows(&millpond, table, 30).await;
    }
    assert_eq!(millpond.number(stopped).await, Some(0));

    // Forward only, and where Kafka has something.
    let back = project.run(&["ingest", "seek", "fine", "--to", "earliest"]).await;
    assert_eq!(
        back.stderr,
        format!(
            "error: table fine has read partition 0 of topic {fine} up to 10 already, and 0 lies before\n  \
             hint: `millpond table restore --rewind` takes rows away and reads them again\n"
        )
    );
    let beyond = project.run(&["ingest", "seek", "fine", "--to", "11"]).await;
    assert!(beyond.stderr.contains("does not hold offset 11\n  hint: it holds 0 to 10"), "{}", beyond.stderr);
    let wrong = project.run(&["ingest", "seek", "fine", "--to", "tomorrow"]).await;
    assert!(wrong.code == Some(2) && wrong.stderr.contains("say earliest, latest, an offset, or a time"), "{wrong:?}");
    assert_eq!(millpond.stop().await, Some(0));
    send(kafka, &fine, 10..20);
    let led = said(&project, &["ingest", "seek", "fine", "--to", "16", "--partition", "0"]).await;
    assert_eq!(led, format!("fine: {fine} partition 0 reads on at 16; 6 offsets from 10 are passed over\n"));
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, "fine", 14).await;
    assert_eq!(millpond.number("SELECT sum(n) FROM fine").await, Some(45 + 16 + 17 + 18 + 19));
    assert_eq!(millpond.stop().await, Some(0));
    let sql = "SELECT count(*) AS n, count(DISTINCT (_incarnation, _partition, _offset)) AS records FROM t";
    let found = python::duckdb(&project.table_url("again"), sql, &[]).await.unwrap();
    assert_eq!(found, [json!({"n": 30, "records": 30})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_goes_on_with_another_cluster_once_somebody_says_so() {
    let (first, second) = (Kafka::start().await, Kafka::start().await);
    let topic = first.topic("moves", 1).await;
    second.create(&topic, 2).await;
    let project =
        Project::new(first.brokers(), Lake::Local).commit_interval("100ms").events("numbers", &topic, "key = [\"n\"]");
    let millpond = Millpond::serve(&project).await;
    send(&first, &topic, 0..10);
    until_rows(&millpond, "numbers", 10).await;
    assert_eq!(millpond.stop().await, Some(0));
    first.stop();
    send(&second, &topic, 10..15);
    let project = project.env("MILLPOND__KAFKA__BROKERS", second.brokers());
    let refused = project.run(&["serve"]).await;
    assert!(refused.code == Some(1) && refused.stderr.contains("millpond ingest accept-cluster"), "{refused:?}");
    let dry = said(&project, &["ingest", "accept-cluster", "--dry-run"]).await;
    assert!(dry.starts_with("the lake would be fed from cluster `") && dry.contains("(incarnation 1)"), "{dry}");
    assert_eq!(project.run(&["serve"]).await.code, Some(1), "a dry run changes nothing");
    let done = said(&project, &["ingest", "accept-cluster"]).await;
    assert!(done.starts_with("the lake is fed from cluster `"), "{done}");
    let again = said(&project, &["ingest", "accept-cluster"]).await;
    assert!(again.ends_with("already\n"), "{again}");
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, "numbers", 15).await;
    let lives = "SELECT _incarnation AS life, count(*) AS n FROM numbers GROUP BY 1 ORDER BY 1";
    assert_eq!(millpond.sql(lives).await, [json!({"life": 0, "n": 10}), json!({"life": 1, "n": 5})]);
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_has_lost_is_read_from_the_lake_if_all_of_it_is_there() {
    let kafka = Kafka::shared().await;
    let (kept, torn) = (kafka.topic("kept", 1).await, kafka.topic("torn", 1).await);
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("100ms")
        .events("slow", &kept, "key = [\"n\"]")
        .events("keeps", &kept, "key = [\"n\"]\nraw = true")
        .events("lost", &torn, "key = [\"n\"]")
        .events("keeps_some", &torn, "key = [\"n\"]\nraw = true\n[match]\n\"$header.none\" = \"x\"");
    let millpond = Millpond::serve(&project).await;
    for (table, topic) in [("slow", &kept), ("lost", &torn)] {
        send(kafka, topic, 0..10);
        until_rows(&millpond, table, 10).await;
        said(&project, &["ingest", "pause", table]).await;
        send(kafka, topic, 10..60);
    }
    until_rows(&millpond, "keeps__raw", 60).await;
    wait_until("it is committed", SOON, async || {
        let hot = "SELECT count(*) FROM system.ingest WHERE hot_rows > 0";
        (millpond.number(hot).await == Some(0)).then_some(())
    })
    .await;
    for topic in [&kept, &torn] {
        kafka.forget_below(topic, 0, 40).await;
    }
    // What was kept as it came is handed to the other table of the topic, whose stream goes on behind it.
    said(&project, &["ingest", "resume", "slow"]).await;
    until_rows(&millpond, "slow", 60).await;
    send(kafka, &kept, 60..70);
    until_rows(&millpond, "slow", 70).await;
    until_rows(&millpond, "keeps", 70).await;
    let each = "SELECT count(*) AS rows, count(DISTINCT n) AS numbers, count(DISTINCT _offset) AS records FROM slow";
    assert_eq!(millpond.sql(each).await, [json!({"rows": 70, "numbers": 70, "records": 70})]);
    // Nobody has all of what the other one missed, so it stops and says what to do.
    said(&project, &["ingest", "resume", "lost"]).await;
    let stopped = "SELECT count(*) AS n FROM system.ingest WHERE error LIKE '%millpond ingest seek%'";
    wait_until("it is stopped", SOON, async || millpond.number(stopped).await.filter(|stopped| *stopped == 1)).await;
    until_rows(&millpond, "lost", 10).await;
    assert_eq!(millpond.number("SELECT count(*) FROM system.gaps").await, Some(0));
    // What cannot be read again is not taken away; what was kept as it came can.
    kafka.forget_below(&kept, 0, 70).await;
    let rewind = |table: &'static str| ["table", "restore", table, "--version", "0", "--rewind"];
    let refused = project.run(&rewind("slow")).await;
    let reason = format!("kafka holds {kept}#0/0 from 70 on, and 0 to 70 would be lost");
    assert!(refused.code == Some(1) && refused.stderr.contains(&reason), "{refused:?}");
    until_rows(&millpond, "slow", 70).await;
    said(&project, &rewind("keeps")).await;
    until_rows(&millpond, "keeps", 70).await;
    until_rows(&millpond, "keeps__raw", 70).await;
    kafka.delete(&kept).await;
    let refused = project.run(&rewind("keeps")).await;
    assert!(refused.stderr.contains("the topic is gone, or was made anew"), "{refused:?}");
    until_rows(&millpond, "keeps", 70).await;
    assert_eq!(millpond.stop().await, Some(0));
}
