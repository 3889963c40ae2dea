//! Stream queries with real Kafka: what is appended, sent and kept, over edits and crashes.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::alerts::{Fleet, until};
use crate::rig::python::{self, Output};
use crate::rig::{Millpond, wait_until};

const SOON: Duration = Duration::from_secs(30);
/// Both processors may be busy.
const LATER: Duration = Duration::from_secs(90);

const ENRICHED: &str = r#"--! kind = "stream"
--! key  = "car"
--! to   = "outlier"
SELECT s.car, s.speed, s.lights, r.reservation_id, r.customer_email, 100 / s.speed AS pace
FROM   signals s
LEFT JOIN reservation r ON r.car = s.car AND r.status = 'RENTED'
WHERE  s.speed >= 0
"#;

const NEWEST: &str = r#"--! kind = "stream"
--! key  = "car"
--! mode = "upsert"
SELECT car, speed, reservation_id FROM signals_enriched
"#;

const TOO_FAST: &str = r#"--! kind = "alert"
--! key  = ["car", "reservation_id"]
--! to   = "customer"
SELECT car, reservation_id, speed FROM signals_enriched WHERE speed > 100
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_joined_appended_sent_and_read_by_others() {
    let fleet = Fleet::new().await;
    let project = fleet.project.clone().query("signals_enriched", ENRICHED).query("newest", NEWEST);
    let waits = "stream newest: waits for its columns: column `car` does not exist";
    let checked = project.run(&["check"]).await;
    assert!(checked.code == Some(0) && checked.stdout.contains(waits), "{checked:?}");
    let millpond = Millpond::serve(&project.query("too_fast", TOO_FAST)).await;
    fleet.reserve(7, 1, "RENTED");
    until(&millpond, "SELECT count(*) AS n FROM reservation", json!([{"n": 1}])).await;
    fleet.signal(1, json!({"speed": 50.0}));
    fleet.signal(2, json!({"speed": 0.0}));
    fleet.signal(3, json!({"speed": null}));
    fleet.signal(1, json!({"speed": 125.0}));
    let rows = json!([
        {"car": 1, "speed": 50.0, "reservation_id": 7, "customer_email": "c7@example.com", "pace": 2.0},
        {"car": 1, "speed": 125.0, "reservation_id": 7, "customer_email": "c7@example.com", "pace": 0.8},
        {"car": 2, "speed": 0.0, "reservation_id": null, "customer_email": null, "pace": null},
    ]);
    let shown = "SELECT car, speed, reservation_id, customer_email, \
                 CASE WHEN speed = 0 THEN NULL ELSE pace END AS pace FROM signals_enriched ORDER BY car, speed";
    until(&millpond, shown, rows.clone()).await;
    until(
        &millpond,
        "SELECT car, speed, reservation_id FROM newest ORDER BY car",
        json!([{"car": 1, "speed": 125.0, "reservation_id": 7}, {"car": 2, "speed": 0.0, "reservation_id": null}]),
    )
    .await;
    until(&millpond, "SELECT count(*) AS n FROM newest__changes", json!([{"n": 3}])).await;
    let alert = json!([{"rule": "too_fast", "key": "{\"car\":1,\"reservation_id\":7}", "state": "firing"}]);
    until(&millpond, "SELECT rule, \"key\", state FROM system.alerts_active", alert).await;
    let sent = wait_until("three rows are in the topic", SOON, async || {
        let sent = fleet.told();
        (sent.len() == 3).then_some(sent)
    })
    .await;
    let mine: Vec<&Value> = sent.iter().filter(|row| row["car"] == json!(1)).collect();
    assert_eq!(mine[0]["customer_email"], json!("c7@example.com"), "{sent:?}");
    assert!(mine[0]["event_time"].is_string() && mine[0].get("_offset").is_none(), "{sent:?}");
    assert_eq!(fleet.kafka.read(&fleet.outlier)[0].key, "{\"car\":1}");

    // What it says of itself.
    let query = json!([{
        "query_name": "signals_enriched", "kind": "stream", "class": "look-up join", "stream": "signals",
        "look_ups": "reservation by an index in memory", "state": "running", "error": null,
        "rows": 4, "rows_true": 3, "rows_unknown": 1, "rows_failed": 0, "firing": null,
    }]);
    let columns = "SELECT query_name, kind, class, stream, look_ups, state, error, \"rows\", rows_true, rows_unknown, \
                   rows_failed, firing FROM system.queries WHERE query_name = 'signals_enriched'";
    until(&millpond, columns, query).await;
    until(
        &millpond,
        "SELECT table_name, kind FROM system.tables WHERE table_name LIKE '%enriched' OR table_name LIKE 'newest%'",
        json!([
            {"table_name": "newest", "kind": "latest"},
            {"table_name": "newest__changes", "kind": "stream"},
            {"table_name": "signals_enriched", "kind": "stream"},
        ]),
    )
    .await;
    let url = millpond.project().table_url("signals_enriched");
    let committed: Vec<Value> = vec![json!({"n": 3})];
    python::until_duckdb(&url, "SELECT count(*)::INT AS n FROM t", &committed).await;

    let checked = millpond.project().run(&["check"]).await;
    for line in [
        "stream newest: stateless over signals_enriched; appended to newest__changes; the newest of each key in newest",
        "stream signals_enriched: look-up join over signals; looks up reservation and keeps an index of all its rows; \
         appended to signals_enriched; sent to outlier",
    ] {
        assert!(checked.stdout.contains(line), "{checked:?}");
    }

    // It is edited: a column comes, one goes, and one is of another type.
    let edited = ENRICHED
        .replace("100 / s.speed AS pace", "s.speed > 100 AS is_fast")
        .replace("s.lights, ", "concat('lights ', s.lights) AS lights, ");
    millpond.project().write_query("signals_enriched", &edited);
    until(
        &millpond,
        "SELECT count(*) AS n FROM system.columns WHERE table_name = 'signals_enriched' AND column_name = 'is_fast'",
        json!([{"n": 1}]),
    )
    .await;
    fleet.signal(4, json!({"speed": 130.0, "lights": true}));
    until(
        &millpond,
        "SELECT speed, lights, pace, is_fast, _schema_version FROM signals_enriched WHERE car = 4",
        json!([{"speed": 130.0, "lights": "lights true", "pace": null, "is_fast": true, "_schema_version": 2}]),
    )
    .await;
    let versions = "SELECT version FROM system.schema_versions WHERE table_name = 'signals_enriched'";
    wait_until("both versions are recorded", SOON, async || (millpond.sql(versions).await.len() == 2).then_some(()))
        .await;

    // It stops, something comes meanwhile, and it goes on.
    let project = millpond.project().clone();
    assert_eq!(millpond.stop().await, Some(0));
    fleet.signal(5, json!({"speed": 10.0}));
    let millpond = Millpond::serve(&project).await;
    until(&millpond, "SELECT count(*) AS n FROM signals_enriched", json!([{"n": 5}])).await;
    until(&millpond, "SELECT count(*) AS n FROM newest", json!([{"n": 4}])).await;
    until(
        &millpond,
        "SELECT speed, is_fast FROM signals_enriched WHERE car = 5",
        json!([{"speed": 10.0, "is_fast": false}]),
    )
    .await;
    wait_until("five rows are in the topic", SOON, async || (fleet.told().len() == 5).then_some(())).await;
    assert_eq!(millpond.stop().await, Some(0));
    assert_eq!(fleet.told().len(), 5, "nothing was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_query_that_cannot_run_says_why_and_goes_on_where_it_was() {
    let fleet = Fleet::new().await;
    let later = "--! kind = \"stream\"\nSELECT car, battery FROM signals\n";
    let divided = "--! kind = \"stream\"\nSELECT car, 100 / car AS share FROM signals\n";
    let unkept =
        "--! kind = \"stream\"\n--! table = false\n--! to = \"outlier\"\nSELECT car FROM signals WHERE lights\n";
    let project = fleet.project.clone().query("later", later).query("divided", divided).query("unkept", unkept);
    let millpond = Millpond::serve(&project).await;
    fleet.reserve(7, 1, "RENTED");
    until(&millpond, "SELECT count(*) AS n FROM reservation", json!([{"n": 1}])).await;
    fleet.signal(1, json!({"lights": true}));
    fleet.signal(0, json!({"lights": false}));
    let state = "SELECT query_name, state, error, rows_failed, last_row_error FROM system.queries ORDER BY query_name";
    wait_until("they say how they get on", SOON, async || {
        let rows = millpond.sql(state).await;
        let is = |at: usize, state: &str| rows.get(at).is_some_and(|row| row["state"] == state);
        let waits = is(1, "waiting") && rows[1]["error"].to_string().contains("battery");
        let failed = is(0, "running") && rows[0]["rows_failed"] == 1;
        let failed = failed && rows[0]["last_row_error"].to_string().contains("zero");
        (waits && failed && is(2, "running")).then_some(())
    })
    .await;
    until(&millpond, "SELECT car, share FROM divided", json!([{"car": 1, "share": 100}])).await;
    wait_until("the row is sent", SOON, async || (fleet.told().len() == 1).then_some(())).await;
    until(&millpond, "SELECT count(*) AS n FROM system.tables WHERE table_name = 'unkept'", json!([{"n": 0}])).await;

    // The column comes: nothing is missed that came since the query did.
    fleet.signal(2, json!({"battery": 11.5}));
    until(&millpond, "SELECT car, battery FROM later WHERE battery > 0", json!([{"car": 2, "battery": 11.5}])).await;
    until(&millpond, "SELECT count(*) AS n FROM later", json!([{"n": 3}])).await;

    let project = millpond.project().clone();
    millpond.kill();
    let millpond = Millpond::serve(&project).await;
    fleet.signal(3, json!({"lights": true, "battery": 12.0}));
    until(&millpond, "SELECT car FROM later WHERE battery > 11.9", json!([{"car": 3}])).await;
    wait_until("the next row is sent", SOON, async || (fleet.told().len() >= 2).then_some(())).await;
    assert_eq!(millpond.stop().await, Some(0));
    let cars: Vec<Value> = fleet.told().iter().map(|row| row["car"].clone()).collect();
    assert_eq!(cars, [json!(1), json!(3)], "each row is sent once");

    // What cannot be right is refused.
    for (text, reason) in [
        ("SELECT reservation_id FROM reservation", "keeps the newest row of each key"),
        ("SELECT car, count(*) AS n FROM signals GROUP BY car", "without a window"),
        ("SELECT car, speed * 2 FROM signals", "is no name for a column"),
        ("SELECT a.car, b.car FROM signals a JOIN reservation b ON b.car = a.car", "two columns `car`"),
    ] {
        let wrong = fleet.project.rival().query("wrong", &format!("--! kind = \"stream\"\n{text}\n"));
        let checked = wrong.run(&["check"]).await;
        assert!(checked.code != Some(0) && checked.stdout.contains(reason), "{text}: {checked:?}");
    }
    for (options, reason) in [
        ("--! mode = \"upsert\"", "needs `key`"),
        ("--! table = false", "leaves rows nowhere to go"),
        ("--! to = \"customer\"", "is no topic"),
        ("--! for = \"1s\"", "unknown key"),
    ] {
        let wrong = fleet
            .project
            .rival()
            .query("wrong", &format!("--! kind = \"stream\"\n{options}\nSELECT car FROM signals\n"));
        let checked = wrong.run(&["check"]).await;
        assert!(checked.code != Some(0) && checked.stdout.contains(reason), "{options}: {checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn across_kills_each_row_is_in_the_table_once_and_in_the_topic_once() {
    let fleet = Fleet::new().await;
    let copy = "--! kind = \"stream\"\n--! to = \"outlier\"\nSELECT car, speed AS number FROM signals\n";
    let copied_again = "--! kind = \"stream\"\nSELECT car, number FROM copied\n";
    let project =
        fleet.project.clone().commit_interval("300ms").query("copied", copy).query("copied_again", copied_again);
    let sender = fleet.kafka.sender();
    let mut sent = 0;
    for (point, nth) in [
        ("after_version_record", 2),
        ("before_commit", 2),
        ("after_commit", 2),
        ("after_stage", 3),
        ("after_commit", 5),
        ("before_stage", 7),
        ("before_commit", 9),
        ("after_commit", 8),
    ] {
        let more = || {
            let record = |number: usize| {
                let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
                let record = json!({"car": number % 5, "at": at, "speed": number, "lights": true});
                (Some((number % 5).to_string().into_bytes()), Some(record.to_string().into_bytes()))
            };
            sender.send(&fleet.signals, (sent..sent + 10).map(record));
            sent += 10;
        };
        Millpond::until_killed(&project, (point, nth), Duration::from_millis(50), more).await;
    }
    let millpond = Millpond::serve(&project).await;
    for table in ["signals", "copied", "copied_again"] {
        until(&millpond, &format!("SELECT count(*) AS n FROM {table}"), json!([{"n": sent}])).await;
    }
    wait_until("all rows are in the topic", SOON, async || (fleet.told().len() >= sent).then_some(())).await;
    assert_eq!(millpond.stop().await, Some(0));
    let numbers = |rows: &[Value]| rows.iter().map(|row| row["number"].as_f64().unwrap() as usize).collect::<Vec<_>>();
    let told = numbers(&fleet.told());
    let distinct: BTreeSet<usize> = told.iter().copied().collect();
    assert_eq!((told.len(), distinct.len()), (sent, sent), "each row is in the topic once");
    for table in ["copied", "copied_again"] {
        let rows = python::duckdb(&project.table_url(table), "SELECT number FROM t", &[]).await.unwrap();
        let mut numbers = numbers(&rows);
        numbers.sort_unstable();
        assert_eq!(numbers, (0..sent).collect::<Vec<_>>(), "each row is in {table} once");
    }
}

/// Sends numbers that rise, while somebody listens to some that follow each other.
async fn while_sending(fleet: &Fleet, number: &mut i64, listening: impl Future<Output = Output>) -> Output {
    let sender = fleet.kafka.sender();
    let sending = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            *number += 1;
            let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
            let record = |car: i64| {
                let record = json!({"car": car, "at": at, "speed": *number, "lights": car == 1});
                (Some(car.to_string().into_bytes()), Some(record.to_string().into_bytes()))
            };
            sender.send(&fleet.signals, [1, 2].map(record));
        }
    };
    tokio::select! {
        output = tokio::time::timeout(LATER, listening) => output.expect("something comes"),
        () = sending => unreachable!("it sends without end"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_subscribes_gets_the_rows_that_come() {
    let fleet = Fleet::new().await;
    let millpond = Millpond::serve(&fleet.project).await;
    fleet.reserve(7, 1, "RENTED");
    fleet.signal(1, json!({"speed": 1.0, "lights": true}));
    until(&millpond, "SELECT count(*) AS n FROM car_state", json!([{"n": 1}])).await;
    until(&millpond, "SELECT count(*) AS n FROM reservation", json!([{"n": 1}])).await;
    let project = millpond.project();
    let url = project.flight_sql();

    let mut number = 100;
    for (stream, joined) in [("signals", "s.lights"), ("car_state", "s.lights AND s.speed > 100")] {
        let sql = format!(
            "SUBSCRIBE SELECT s.speed, r.reservation_id FROM {stream} s LEFT JOIN reservation r ON r.car = s.car \
             WHERE {joined}"
        );
        let arguments = [url.as_str(), &sql, "3"];
        let output = while_sending(&fleet, &mut number, python::run("adbc_subscribe.py", &arguments, &[])).await;
        let rows: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let first = rows.first().unwrap_or_else(|| panic!("{output:?}"))["speed"].as_f64().unwrap();
        let follow = |at: usize| json!({"speed": first + at as f64, "reservation_id": 7});
        assert_eq!(rows, [follow(0), follow(1), follow(2)], "{stream}: {output:?}");
        assert!(first > 1.0, "what was there before is none of it: {output:?}");
    }
    // In the shell, as they come.
    let program = project.command(&[]).get_program().to_string_lossy().into_owned();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{program} sql --url {url} -c 'SUBSCRIBE SELECT car, lights FROM signals' | head -4")]);
    let output = while_sending(&fleet, &mut number, Output::of(shell)).await;
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0].trim()), (4, "car │ lights"), "{output:?}");
    assert!(lines[2..].iter().all(|line| line.contains(" │ true") || line.contains(" │ false")), "{output:?}");

    for (sql, reason) in [
        ("SUBSCRIBE SELECT count(*) FROM signals", "without a window"),
        ("SUBSCRIBE SHOW TABLES", "followed by one SELECT"),
        ("SUBSCRIBE SELECT * FROM system.ingest", "ingest is no stream"),
        ("SUBSCRIBE SELECT a.car FROM signals a JOIN signals b ON b.car = a.car", "has not one row per key"),
    ] {
        let output = project.run(&["sql", "--url", &url, "-c", sql]).await;
        assert!(output.code == Some(1) && output.stderr.contains(reason), "{sql}: {output:?}");
    }
    let folder = project.dir().display().to_string();
    let output = project.run(&["sql", "--project", &folder, "-c", "SUBSCRIBE SELECT car FROM signals"]).await;
    assert!(output.stderr.contains("nothing feeds the tables here"), "{output:?}");
}
