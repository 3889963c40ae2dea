//! Nexmark: stream queries over bids give what DuckDB gives for the same rows (`tests/nexmark`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::alerts::until;
use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const LATER: Duration = Duration::from_secs(120);
const BIDS: i64 = 20_000;
/// Between one bid and the next.
pub(crate) const PAUSE: TimeDelta = TimeDelta::milliseconds(5);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nexmark")
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(folder().join(path)).unwrap()
}

/// A project with bids of this topic and these queries.
pub(crate) fn project(kafka: &Kafka, topic: &str, queries: &[&str]) -> Project {
    let project = Project::new(kafka.brokers(), Lake::Local)
        .schema("bid", &format!("topic = \"{topic}\"\n{}", read("schemas/bid.toml")))
        .schema("side_input", &read("schemas/side_input.toml"));
    std::fs::create_dir(project.dir().join("reference")).unwrap();
    std::fs::write(project.dir().join("reference/side_input.csv"), read("reference/side_input.csv")).unwrap();
    queries.iter().fold(project, |project, name| project.query(name, &read(&format!("queries/{name}.sql"))))
}

/// The bid of this number: few auctions are hot, bidders come and go, the channel is known or not.
pub(crate) fn bid(number: i64, begin: DateTime<Utc>) -> Value {
    let chance = |salt: i64, range: i64| (number * 7 + salt).wrapping_mul(2_654_435_761).rem_euclid(1_000_003) % range;
    let auction = if chance(1, 3) == 0 { 1_000 + number / 3_000 } else { 1_000 + chance(2, 2_000) };
    let bidder = 1 + chance(3, 40) + number / 4_000 * 40;
    let channel = ["Apple", "Google", "Facebook", "Baidu", "channel-7", "channel-12"][chance(4, 6) as usize];
    let id = if chance(5, 2) == 0 { format!("&channel_id={}", chance(6, 9_000)) } else { String::new() };
    let url = format!("https://www.nexmark.com/a{}/b{}/item.htm?query=1{id}", chance(7, 9), chance(8, 99));
    // Some come up to 1.5 s late, some from the same moment.
    let at = begin + PAUSE * number as i32 - TimeDelta::milliseconds(chance(9, 4) * 500);
    json!({
        "auction": auction, "bidder": bidder, "price": 100 + chance(10, 8_000) * chance(11, 9_000),
        "channel": channel, "url": url, "extra": "abc cold".repeat(chance(12, 4) as usize),
        "date_time": at.to_rfc3339_opts(SecondsFormat::Millis, true),
    })
}

/// The rows of a query as text, in an order that does not depend on the engine; times without their zone, and numbers
/// without the digits that depend on it.
fn plain(rows: &[Value]) -> Vec<String> {
    let value = |value: &Value| match value {
        Value::Number(number) if number.is_f64() => format!("{:.6}", number.as_f64().unwrap()),
        Value::String(text) => match DateTime::parse_from_rfc3339(&text.replace(' ', "T")) {
            Ok(at) => at.timestamp_micros().to_string(),
            Err(_) => text.clone(),
        },
        other => other.to_string(),
    };
    let row = |row: &Value| {
        let fields = row.as_object().unwrap().iter().map(|(name, of)| format!("{name}: {}", value(of)));
        fields.collect::<Vec<_>>().join(", ")
    };
    let mut rows: Vec<String> = rows.iter().map(row).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nexmark_gives_what_duckdb_gives_for_the_same_rows() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("bids", 2).await;
    let names = ["q0", "q1", "q2", "q5", "q7", "q11", "q13", "q14", "q18", "q21", "q22"];
    let project = project(kafka, &topic, &names).commit_interval("1s");
    let begin = Utc::now() - PAUSE * (BIDS as i32) - TimeDelta::minutes(1);
    let record = |number: i64| {
        let at = begin + PAUSE * number as i32;
        let (key, payload) = (number.to_string().into_bytes(), bid(number, begin).to_string().into_bytes());
        (Some(at.timestamp_millis()), (Some(key), Some(payload)))
    };
    kafka.sender().send_at(&topic, (0..BIDS).map(record));
    let millpond = Millpond::serve(&project).await;
    until(&millpond, "SELECT count(*) AS n FROM bid", json!([{"n": BIDS}])).await;
    let running = "SELECT count(*) AS n FROM system.queries WHERE state = 'running'";
    until(&millpond, running, json!([{"n": names.len()}])).await;
    python::until_duckdb(&project.table_url("bid"), "SELECT count(*)::INT AS n FROM t", &[json!({"n": BIDS})]).await;
    let side_input = folder().join("reference/side_input.csv");
    for name in names {
        let batch = read(&format!("duckdb/{name}.sql"));
        let sql = format!(
            "WITH bid AS (SELECT * FROM t), side_input AS (SELECT * FROM read_csv('{}')) SELECT * FROM ({batch})",
            side_input.display()
        );
        let expected = plain(&python::duckdb(&project.table_url("bid"), &sql, &[]).await.unwrap());
        assert!(!expected.is_empty(), "{name}");
        let columns = python::duckdb(&project.table_url("bid"), &format!("{sql} LIMIT 1"), &[]).await.unwrap();
        let columns: Vec<&str> = columns[0].as_object().unwrap().keys().map(String::as_str).collect();
        let shown = format!("SELECT {} FROM {name}", columns.join(", "));
        let found = wait_until(&format!("{name} has {} rows", expected.len()), LATER, async || {
            let found = plain(&millpond.sql(&shown).await);
            (found.len() == expected.len()).then_some(found)
        })
        .await;
        let differs = found.iter().zip(&expected).find(|(found, expected)| found != expected);
        assert_eq!(differs, None, "{name}: {} rows", found.len());
    }
    let late = "SELECT query_name, rows_late FROM system.queries WHERE rows_late > 0";
    assert_eq!(millpond.sql(late).await, Vec::<Value>::new());
    assert_eq!(millpond.stop().await, Some(0));
}
