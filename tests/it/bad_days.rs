//! Bad input and bad days: each gives one clear message and the right exit code, or a dead letter; nothing panics and
//! nothing is lost.

mod config;
mod kafka;
mod records;
mod sql;
mod stop;
mod store;
mod writers;

use std::time::Duration;

use serde_json::Value;

use crate::rig::{Kafka, Millpond, Project, python::Output, wait_until};

/// Everything that takes no time on a good day.
const SOON: Duration = Duration::from_secs(30);
/// A table's first rows may wait ten seconds for more; and both processors may be busy.
const ROWS: Duration = Duration::from_secs(60);
/// Records that make a table decide on its columns at once.
const WINDOW: i64 = 1_000;

/// Panics if `text` holds what only a programmer can read.
fn assert_for_people(text: &str) {
    const FOR_PROGRAMMERS: [&str; 12] = [
        "panicked",
        "RUST_BACKTRACE",
        "unwrap",
        "Kind {",
        "Error {",
        "Error(",
        "Some(",
        "Generic ",
        "DataFusion",
        "transport error",
        "internal error",
        "<?xml",
    ];
    for word in FOR_PROGRAMMERS {
        assert!(!text.contains(word), "`{word}` in:\n{text}");
    }
}

/// Panics unless `text` is for people and holds all `words`.
fn assert_says(text: &str, words: &[&str]) {
    println!("{text}");
    assert_for_people(text);
    for word in words {
        assert!(text.contains(word), "not a word of `{word}` in:\n{text}");
    }
}

/// `serve` must end by itself with this exit code and one message that holds all `words`; returns all it wrote.
async fn assert_refused(project: &Project, code: i32, words: &[&str]) -> String {
    // The log of an earlier start is not this one's.
    let _ = std::fs::remove_file(project.dir().join("serve.log"));
    let (ended, log) = Millpond::start(project).ended(SOON).await;
    assert_says(&log, words);
    assert_eq!(ended, Some(code), "{log}");
    assert_eq!(messages(&log), 1, "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "one message:\n{log}");
    log
}

fn messages(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("error: ")).count()
}

/// A command must have ended with this exit code and one message that holds all `words`.
fn assert_failed(output: &Output, code: i32, words: &[&str]) {
    assert_says(&output.stderr, words);
    assert_eq!(output.code, Some(code), "{}", output.stderr);
    assert_eq!(messages(&output.stderr), 1, "{}", output.stderr);
    assert_eq!(output.stdout, "", "a message is no result");
}

/// Reads `topic` of the shared Kafka into the local table `events`.
async fn project_on(topic: &str) -> Project {
    Project::new(Kafka::shared().await.brokers(), crate::rig::Lake::Local).events("events", topic, "")
}

/// `{"id": …}` for each number.
fn numbered(ids: std::ops::Range<i64>) -> impl Iterator<Item = (Option<Vec<u8>>, Option<Vec<u8>>)> {
    ids.map(|id| (None, Some(format!("{{\"id\": {id}}}").into_bytes())))
}

/// Waits until `query` gives `number`.
async fn until_sql(millpond: &Millpond, query: &str, number: i64) {
    let what = format!("{query} = {number}");
    wait_until(&what, ROWS, async || (millpond.number(query).await == Some(number)).then_some(())).await;
}

/// Waits until `events` has so many rows.
async fn until_rows(millpond: &Millpond, rows: i64) {
    until_sql(millpond, "SELECT count(*) AS n FROM events", rows).await;
}

/// Waits until `/readyz` says no and names all `words`; returns what it said.
async fn until_not_ready(millpond: &Millpond, words: &[&str]) -> String {
    let what = format!("/readyz says {words:?}");
    let text = wait_until(&what, SOON, async || {
        let (status, text) = millpond.get("/readyz").await?;
        (status == 503 && words.iter().all(|word| text.contains(word))).then_some(text)
    })
    .await;
    assert_says(&text, words);
    assert_eq!(millpond.get("/healthz").await.unwrap().0, 200, "the process lives");
    text
}

/// `millpond ingest status`, row by row.
async fn ingest_status(project: &Project) -> Vec<Value> {
    let output = project.run(&["ingest", "status", "--format", "ndjson"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    assert_for_people(&output.stdout);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the lake holds without a server.
async fn committed(project: &Project, query: &str) -> Vec<Value> {
    let output = project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", query]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
