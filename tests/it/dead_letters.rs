//! Dead letters that heal: retried after the contract was corrected, they become rows exactly once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Ledger, Millpond, Minio, Project, Sent, free_port, wait_until};

const SOON: Duration = Duration::from_secs(60);
/// Records; every third does not fit, every thirtieth is no JSON.
const RECORDS: usize = 1_200;
const COLUMNS: &str = "key = [\"car\"]\n\
    [columns.car]\npath = \"$key\"\ntype = \"string\"\n\
    [columns.hash]\npath = \"hash\"\ntype = \"string\"\n\
    [columns.n]\npath = \"n\"\ntype = \"bigint\"\n";

fn payload(n: usize) -> String {
    match n {
        _ if n % 30 == 1 => format!("{{\"n\":{n}, cut"),
        _ if n.is_multiple_of(3) => format!(r#"{{"n":"number {n}","hash":"h{n}"}}"#),
        _ => format!(r#"{{"n":{n},"hash":"h{n}"}}"#),
    }
}

fn is_json(sent: &Sent) -> bool {
    serde_json::from_slice::<Value>(sent.payload.as_deref().unwrap()).is_ok()
}

/// The contract as it was when the letters died, or corrected.
fn contract(project: Project, topic: &str, corrected: bool) -> Project {
    let policy = if corrected { "rescue" } else { "dead_letter" };
    project.events("cars", topic, &format!("on_type_conflict = \"{policy}\"\n{COLUMNS}"))
}

/// Sends the records, and lets a server with the first contract make letters of those that are wrong.
async fn letters(kafka: &Kafka, project: Project, topic: &str) -> (Project, Vec<Sent>) {
    let records = (0..RECORDS).map(|n| (Some(format!("car-{}", n % 7).into_bytes()), Some(payload(n).into_bytes())));
    let sent = kafka.send(topic, records);
    let project = contract(project, topic, false);
    let millpond = Millpond::serve(&project).await;
    let ends: i64 = kafka.ends(topic).iter().sum();
    wait_until("all is committed", SOON, async || {
        let committed = millpond.number("SELECT sum(committed_position) FROM system.ingest").await?;
        (committed == ends).then_some(())
    })
    .await;
    // Nothing is healed by trying the same again.
    let wrong = sent.iter().filter(|sent| !is_json(sent)).count() + RECORDS / 3;
    let output = project.run(&["dead-letters", "retry", "cars"]).await;
    assert_eq!(output.stdout, said(0, wrong), "{}", output.stderr);
    assert_eq!(millpond.stop().await, Some(0));
    (contract(project, topic, true), sent)
}

fn said(retried: usize, dead: usize) -> String {
    let mut text = format!("{retried} records retried\n");
    if dead > 0 {
        text += &format!("{dead} records still cannot become rows: `millpond dead-letters list` says why\n");
    }
    text
}

async fn assert_exact(project: &Project, minio: Option<&Minio>, sent: &[Sent], retried: usize) {
    let mut ledger = Ledger::default().key_column("car").hash_column("hash");
    ledger.add(sent.iter().filter(|sent| is_json(sent)).cloned());
    ledger.assert_exact(&project.table_url("cars"), minio).await;
    let events = "SELECT event, count(*) AS n, \
        count(DISTINCT concat_ws('/', _topic, _incarnation, _partition, _offset)) AS d \
        FROM system.dead_letters WHERE event <> 'discarded' GROUP BY event ORDER BY event";
    let output = project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", events]).await;
    let found: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dead = retried + sent.iter().filter(|sent| !is_json(sent)).count();
    let expected =
        [json!({"event": "dead", "n": dead, "d": dead}), json!({"event": "retried", "n": retried, "d": retried})];
    assert_eq!(found, expected, "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_become_rows_once_when_the_contract_is_corrected() {
    let (kafka, minio) = tokio::join!(Kafka::shared(), Minio::shared());
    let topic = kafka.topic("healed", 3).await;
    let project = Project::new(kafka.brokers(), Lake::on(minio, "healed"));
    let (project, sent) = letters(kafka, project, &topic).await;
    let not_json = sent.iter().filter(|sent| !is_json(sent)).count();
    let misfits = RECORDS / 3;
    let millpond = Millpond::serve(&project).await;

    // A part of them, then two retries at once for the rest, then none is left.
    let output = project.run(&["dead-letters", "retry", "cars", "--reason", "misfit", "--limit", "10"]).await;
    assert_eq!(output.stdout, said(10, 0), "{}", output.stderr);
    let (one, other) = tokio::join!(
        project.run(&["dead-letters", "retry", "cars"]),
        project.run(&["dead-letters", "retry", "cars", "--reason", "misfit"]),
    );
    assert_eq!((one.code, other.code), (Some(0), Some(0)), "{} {}", one.stderr, other.stderr);
    // Who has the answer sees the rows.
    let rows = millpond.number("SELECT count(*) FROM cars").await;
    assert_eq!(rows, Some((RECORDS - not_json) as i64));
    let rescued = millpond.number("SELECT count(*) FROM cars WHERE n IS NULL AND _rescued LIKE '%number%'").await;
    assert_eq!(rescued, Some(misfits as i64));
    let output = project.run(&["dead-letters", "retry", "cars"]).await;
    assert_eq!(output.stdout, said(0, not_json), "{}", output.stderr);

    let output = project.run(&["dead-letters", "discard", "cars", "--reason", "not_json"]).await;
    assert_eq!(output.stdout, format!("{not_json} records discarded\n"), "{}", output.stderr);
    let output = project.run(&["dead-letters", "list", "--state", "all", "--format", "ndjson"]).await;
    let listed: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let listed: Vec<_> = listed.iter().map(|row| (&row["state"], &row["reason"], row["records"].as_u64())).collect();
    assert_eq!(
        listed,
        [
            (&json!("discarded"), &json!("not_json"), Some(not_json as u64)),
            (&json!("retried"), &json!("misfit"), Some(misfits as u64))
        ]
    );
    let output = project.run(&["dead-letters", "export", "cars", "--state", "discarded", "--format", "raw"]).await;
    let mut payloads: Vec<&str> = output.stdout.lines().collect();
    payloads.sort_unstable();
    let mut wanted: Vec<String> = (0..RECORDS).filter(|n| n % 30 == 1).map(payload).collect();
    wanted.sort_unstable();
    assert_eq!(payloads, wanted, "{}", output.stderr);
    let output = project.run(&["dead-letters", "show", "cars", "--state", "retried", "--limit", "1"]).await;
    let shown: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(shown[0]["payload"].as_str().unwrap().contains("number"), "{shown}");

    // Two writers are refused: with no server at that address, the command would be a second one.
    let elsewhere = format!("serve.flight_sql=127.0.0.1:{}", free_port());
    let output = project.run(&["dead-letters", "retry", "cars", "--set", &elsewhere]).await;
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    assert!(output.stderr.contains("another Millpond writes to the lake"), "{}", output.stderr);
    assert_eq!(millpond.stop().await, Some(0));
    assert_exact(&project, Some(minio), &sent, misfits).await;
}

/// The rows are in the table, the log does not know: the next retry finds them. It needs no server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_between_the_rows_and_the_log_doubles_nothing() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("halfway", 2).await;
    let (project, sent) = letters(kafka, Project::new(kafka.brokers(), Lake::Local), &topic).await;
    let not_json = sent.iter().filter(|sent| !is_json(sent)).count();
    let millpond = Millpond::serve(&project.clone().failpoint("after_retry", 1)).await;
    let output = project.run(&["dead-letters", "retry", "cars"]).await;
    assert_eq!(output.code, Some(1), "{}", output.stdout);
    let (code, _) = millpond.ended(SOON).await;
    assert_eq!(code, None, "ended by a signal");

    let output = project.run(&["dead-letters", "retry", "cars"]).await;
    assert_eq!(output.stdout, said(RECORDS / 3, not_json), "{}", output.stderr);
    let output = project.run(&["dead-letters", "retry", "cars"]).await;
    assert_eq!(output.stdout, said(0, not_json), "{}", output.stderr);
    assert_exact(&project, None, &sent, RECORDS / 3).await;
}
