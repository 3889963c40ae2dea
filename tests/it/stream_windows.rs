//! Stream queries that keep rows or windows, with real Kafka: each result is there once, across kills and edits, and is
//! what SQL says of the same rows.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{TimeDelta, Timelike, Utc};
use serde_json::{Value, json};

use crate::alerts::{Fleet, until};
use crate::alerts_windows::Cars;
use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(30);
/// Both processors may be busy.
const LATER: Duration = Duration::from_secs(90);

/// Each with the columns that are compared, and the SQL that gives the same rows.
const QUERIES: &[(&str, &str, &str, &str)] = &[
    (
        "busy",
        "SELECT car, tumble(event_time, INTERVAL '2 seconds') AS w, count(*) AS n, max(speed) AS peak FROM signals \
         GROUP BY car, tumble(event_time, INTERVAL '2 seconds') HAVING count(*) > 1",
        "car, w, n, peak",
        "SELECT car, tumble(event_time, INTERVAL '2 seconds') AS w, count(*) AS n, max(speed) AS peak FROM signals \
         GROUP BY car, w HAVING count(*) > 1",
    ),
    (
        "trips",
        "SELECT car, session(event_time, INTERVAL '1 second') AS w, count(*) AS n FROM signals \
         GROUP BY car, session(event_time, INTERVAL '1 second')",
        "car, w, n",
        "SELECT car, session(event_time, INTERVAL '1 second') AS w, count(*) AS n FROM signals GROUP BY car, w",
    ),
    (
        "drops",
        "SELECT car, speed, lag(speed) OVER (PARTITION BY car ORDER BY event_time) AS before FROM signals \
         QUALIFY speed < before",
        "car, event_time, speed, before",
        "SELECT car, event_time, speed, lag(speed) OVER (PARTITION BY car ORDER BY event_time) AS before FROM signals \
         QUALIFY speed < before",
    ),
    (
        "restless",
        "SELECT car, count(*) OVER (PARTITION BY car ORDER BY event_time RANGE INTERVAL '1 second' PRECEDING) AS n \
         FROM signals WHERE speed > 50",
        "car, event_time, n",
        "SELECT car, event_time, count(*) OVER (PARTITION BY car ORDER BY event_time RANGE INTERVAL '1 second' \
         PRECEDING) AS n FROM signals WHERE speed > 50",
    ),
    (
        "all_trips",
        "SELECT tumble(event_time, INTERVAL '10 seconds') AS w, count(*) AS trips, sum(n) AS signals FROM trips \
         GROUP BY tumble(event_time, INTERVAL '10 seconds')",
        "w, trips, signals",
        "SELECT tumble(event_time, INTERVAL '10 seconds') AS w, count(*) AS trips, sum(n) AS signals FROM trips \
         GROUP BY tumble(event_time, INTERVAL '10 seconds')",
    ),
];

fn sorted(rows: Vec<Value>) -> Vec<String> {
    let mut rows: Vec<String> = rows.iter().map(Value::to_string).collect();
    rows.sort_unstable();
    rows
}

/// Waits until every query has what SQL says of the same rows.
async fn until_all_is_said(millpond: &Millpond) {
    for (name, _, columns, sql) in QUERIES {
        let select = format!("SELECT {columns} FROM");
        wait_until(&format!("{name} has all results"), LATER, async || {
            let found = sorted(millpond.sql(&format!("{select} {name}")).await);
            let expected = sorted(millpond.sql(&format!("{select} ({sql})")).await);
            (found == expected && !found.is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn across_kills_each_result_is_in_the_table_once_and_in_the_topic_once() {
    let fleet = Fleet::new().await;
    let mut project = fleet.project.clone().commit_interval("300ms");
    for (name, sql, ..) in QUERIES {
        let to = if *name == "busy" { "--! to = \"outlier\"\n" } else { "" };
        project = project.query(name, &format!("--! kind = \"stream\"\n{to}{sql}\n"));
    }
    let cars = Cars { fleet: &fleet, sender: fleet.kafka.sender(), said: Cell::new(0) };
    for (point, nth) in [
        ("windows_before_state", 7),
        ("windows_after_state", 8),
        ("before_commit", 12),
        ("windows_after_state", 15),
        ("after_commit", 11),
        ("windows_before_state", 12),
    ] {
        Millpond::until_killed(&project, (point, nth), Duration::from_millis(150), || cars.speak()).await;
    }
    let millpond = Millpond::serve(&project).await;
    until_all_is_said(&millpond).await;
    let columns = "SELECT query_name, class, state, rows_late, kept_rows > 0 AS keeps FROM system.queries \
                   WHERE query_name IN ('busy', 'drops', 'restless') ORDER BY query_name";
    let row = |name: &str, class: &str, keeps: bool| json!({"query_name": name, "class": class, "state": "running", "rows_late": 0, "keeps": keeps});
    let (busy, drops, restless) = ("window", "look-back", "sliding frame");
    let expected = json!([row("busy", busy, false), row("drops", drops, true), row("restless", restless, false)]);
    until(&millpond, columns, expected).await;

    // What the topic and the lake have is the same, once.
    let ids = sorted(millpond.sql("SELECT _result_id AS id FROM busy").await);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let told = || sorted(fleet.told().iter().map(|told| json!({"id": told["_result_id"]})).collect());
    wait_until("all results are in the topic", SOON, async || (told().len() >= ids.len()).then_some(())).await;
    assert_eq!(millpond.stop().await, Some(0));
    assert_eq!(told(), ids);
    let url = project.table_url("busy");
    let committed = python::duckdb(&url, "SELECT _result_id AS id FROM t", &[]).await.unwrap();
    assert_eq!(sorted(committed), ids);
    let numbers =
        "SELECT count(*)::INT AS n, (max(_offset) + 1)::INT AS next, count(DISTINCT _topic)::INT AS topics FROM t";
    let numbers = python::duckdb(&url, numbers, &[]).await.unwrap();
    assert_eq!(numbers, [json!({"n": ids.len(), "next": ids.len(), "topics": 1})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_comes_or_is_edited_knows_the_windows_that_are_open() {
    // No minute may end between the query and its edit: its row would not have the column that comes with that.
    wait_until("a young minute", LATER, async || (Utc::now().second() < 30).then_some(())).await;
    let fleet = Fleet::new().await;
    let millpond = Millpond::serve(&fleet.project.clone().commit_interval("300ms")).await;
    let cars = Cars { fleet: &fleet, sender: fleet.kafka.sender(), said: Cell::new(0) };
    let speak = async |count: usize| {
        let mut ticks = tokio::time::interval(Duration::from_millis(150));
        for _ in 0..count {
            ticks.tick().await;
            cars.speak();
        }
    };
    speak(10).await;
    wait_until("rows are there", SOON, async || {
        millpond.number("SELECT count(*) FROM signals").await.filter(|n| *n > 9)
    })
    .await;
    // A window that began before the query came.
    let window = "tumble(event_time, INTERVAL '1 minute')";
    let text = |select: &str| {
        format!("--! kind = \"stream\"\nSELECT {window} AS w, {select} FROM signals GROUP BY {window}\n")
    };
    millpond.project().write_query("minutes", &text("count(*) AS n"));
    let running = "SELECT class FROM system.queries WHERE query_name = 'minutes' AND state = 'running'";
    until(&millpond, running, json!([{"class": "window"}])).await;
    speak(10).await;
    millpond.project().write_query("minutes", &text("count(*) AS n, max(speed) AS peak"));
    let columns = "SELECT count(*) AS n FROM system.columns WHERE table_name = 'minutes' AND column_name = 'peak'";
    until(&millpond, columns, json!([{"n": 1}])).await;
    speak(10).await;
    let kept = "SELECT kept_rows > 0 AS keeps FROM system.queries WHERE query_name = 'minutes'";
    until(&millpond, kept, json!([{"keeps": true}])).await;
    let batch = format!("SELECT {window} AS w, count(*) AS n, max(speed) AS peak FROM signals GROUP BY w ORDER BY w");
    // The minute ends while a restart is under way, or after it.
    let project = millpond.project().clone();
    assert_eq!(millpond.stop().await, Some(0));
    let millpond = Millpond::serve(&project).await;
    wait_until("the minutes are over", LATER, async || {
        let found = millpond.sql("SELECT w, n, peak FROM minutes ORDER BY w").await;
        let expected = millpond.sql(&batch).await;
        // One that was over before the query came is none of its business.
        let is_same = |found: &[Value]| !found.is_empty() && expected.ends_with(found);
        let is_last = found.last() == expected.last();
        (is_same(&found) && is_last).then_some(())
    })
    .await;

    // Its table counts results: rows one by one would be counted otherwise.
    project.write_query("minutes", "--! kind = \"stream\"\nSELECT car, speed AS peak FROM signals\n");
    let error = "SELECT error FROM system.queries WHERE query_name = 'minutes'";
    let reason = "minutes keeps no rows or windows any more, and did when its table was made";
    until(&millpond, error, json!([{"error": reason}])).await;
    let checked = project.run(&["check"]).await;
    assert!(checked.code == Some(0), "{checked:?}");
    project.write_query("minutes", &text("count(*) AS n, max(speed) AS peak"));
    until(&millpond, running, json!([{"class": "window"}])).await;
    let checked = project.run(&["check"]).await;
    let note = "stream minutes: window over signals; keeps ";
    assert!(checked.stdout.contains(note) && checked.stdout.contains("appended to minutes"), "{checked:?}");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "two million rows; make test-all runs it"]
async fn while_many_rows_wait_for_a_slow_partition_others_wait_in_the_store() {
    const ROWS: i64 = 1_000_000;
    let kafka = Kafka::shared().await;
    let (slow, fast) = (kafka.topic("slow", 1).await, kafka.topic("fast", 1).await);
    let day = TimeDelta::days(1).num_microseconds().unwrap();
    let begin = Utc::now().timestamp_micros() - 3 * day;
    let sender = kafka.sender();
    // All of the fast one happened a day later; nobody was idle meanwhile.
    for (topic, begin) in [(&slow, begin), (&fast, begin + day)] {
        let record = |number: i64| {
            let at = begin + number * 1_000;
            (Some(at / 1_000), (None, Some(json!({"car": number % 100, "at": at}).to_string().into_bytes())))
        };
        for first in (0..ROWS).step_by(50_000) {
            sender.send_at(topic, (first..first + 50_000).map(record));
        }
    }
    let signals = format!(
        "kind = \"events\"\ntopics = [\"{slow}\", \"{fast}\"]\nformat = \"json\"\nkey = [\"car\"]\n\
         time = {{ path = \"at\", format = \"unix_us\" }}\n"
    );
    let minutes = "--! kind = \"stream\"\nSELECT tumble(event_time, INTERVAL '1 minute') AS w, count(*) AS n \
                   FROM signals GROUP BY tumble(event_time, INTERVAL '1 minute')\n";
    let project = Project::new(kafka.brokers(), Lake::Local).schema("signals", &signals).query("minutes", minutes);
    let millpond = Millpond::serve(&project).await;
    let most = Cell::new(0);
    let state = "SELECT rows_waiting AS n FROM system.queries WHERE query_name = 'minutes'";
    wait_until("all minutes are over", Duration::from_secs(300), async || {
        most.set(most.get().max(millpond.number(state).await.unwrap_or(0)));
        let said = millpond.number("SELECT coalesce(sum(n), 0)::BIGINT AS n FROM minutes").await;
        (said == Some(2 * ROWS)).then_some(())
    })
    .await;
    // What was decided to be read before is still taken in.
    assert!((500_000..700_000).contains(&most.get()), "{most:?}");
    assert_eq!(millpond.stop().await, Some(0));
}
