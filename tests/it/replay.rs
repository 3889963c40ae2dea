//! Tables of events put together anew from the records they were made of, while their streams run.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(120);

/// Fail points of a replay: its rows are written, a table is switched.
pub const POINTS: [&str; 2] = ["replay_after_stage", "replay_after_switch"];

/// A record that the first contract makes little of: its kilometres are elsewhere, and the number of each tenth is none.
fn record(n: i64) -> String {
    let number = if n % 10 == 0 { json!(format!("no {n}")) } else { json!(n) };
    json!({"car": format!("c{}", n % 5), "n": number, "trip": {"km": 2 * n, "legs": [{"at": n}, {"at": n + 1}]}})
        .to_string()
}

fn send(kafka: &Kafka, topic: &str, numbers: std::ops::Range<i64>) {
    kafka.send(topic, numbers.map(|n| (Some(n.to_string().into_bytes()), Some(record(n).into_bytes()))));
}

/// The contract, and what is declared of kilometres, which are rescued otherwise.
fn contract(topic: &str, km: &str, policy: &str) -> String {
    format!(
        "kind = \"events\"\nformat = \"json\"\ntopic = \"{topic}\"\nkey = [\"car\"]\nraw = true\non_new_field = \"rescue\"\n\
         on_type_conflict = \"{policy}\"\n[columns.n]\ntype = \"bigint\"\n{km}[arrays.\"trip.legs\"]\nas = \"child\"\n"
    )
}

const KM: &str = "[columns.km]\npath = \"trip.km\"\ntype = \"bigint\"\n";

fn edit(project: &Project, contract: &str) {
    std::fs::write(project.dir().join("schemas/trips.toml"), contract).unwrap();
}

/// Of each record there is one row.
const COUNT: &str = "SELECT count(*) AS n, count(DISTINCT _offset + 1000000 * _partition) AS records FROM trips";

fn count(records: i64) -> Value {
    json!({"n": records, "records": records})
}

/// The same, and what kilometres they have.
const LEDGER: &str = "SELECT count(*) AS n, count(DISTINCT _offset + 1000000 * _partition) AS records, \
     CAST(coalesce(sum(km), 0) AS BIGINT) AS km FROM trips";

fn ledger(records: i64, km: i64) -> Value {
    json!({"n": records, "records": records, "km": km})
}

async fn until(millpond: &Millpond, sql: &str, wanted: &Value) {
    wait_until(&format!("{wanted}"), SOON, async || (millpond.sql(sql).await == [wanted.clone()]).then_some(())).await;
}

async fn replay(project: &Project, from: &str) -> String {
    let said = project.run(&["ingest", "replay", "trips", "--from", from]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    said.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_made_anew_of_its_records_while_its_stream_runs_and_is_killed() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("replay", 2).await;
    let last = "kind = \"latest\"\nkey = [\"car\"]\n[sources.trips]\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("100ms")
        .schema("trips", &contract(&topic, "", "dead_letter"))
        .schema("last", last);
    let millpond = Millpond::serve(&project).await;
    send(kafka, &topic, 0..2_000);
    until(&millpond, COUNT, &count(1_800)).await;
    until(&millpond, "SELECT count(*) AS n FROM last", &json!({"n": 5})).await;
    let alive = "SELECT count(*) AS n FROM system.dead_letters WHERE table_name = 'trips'";
    until(&millpond, alive, &json!({"n": 200})).await;
    until(&millpond, "SELECT count(*) AS n FROM system.ingest WHERE hot_rows > 0 OR lag > 0", &json!({"n": 0})).await;
    assert_eq!(millpond.stop().await, Some(0));

    // What it has is not touched until all that is new is there; a kill between two tables is healed by the next replay.
    edit(&project, &contract(&topic, KM, "rescue"));
    for (point, sent) in POINTS.into_iter().zip([2_000, 2_500]) {
        let killed = Millpond::serve(&project.clone().failpoint(point, 1)).await;
        send(kafka, &topic, sent..sent + 500);
        let said = project.run(&["ingest", "replay", "trips", "--from", "raw"]).await;
        assert_eq!(said.code, Some(1), "{point}: {}", said.stdout);
        assert_eq!(killed.ended(SOON).await.0, None, "{point}");
        let millpond = Millpond::serve(&project).await;
        let late = (2_000..sent + 500).sum::<i64>() * 2;
        until(&millpond, LEDGER, &ledger(1_800 + sent + 500 - 2_000, late)).await;
        let legs = "SELECT count(*) - count(DISTINCT (_offset * 10 + _partition) * 10 + _index_1) AS twice FROM trips__trip_legs";
        assert_eq!(millpond.sql(legs).await, [json!({"twice": 0})], "{point}");
        assert_eq!(millpond.stop().await, Some(0));
    }

    // The stream goes on meanwhile.
    let millpond = Millpond::serve(&project).await;
    let sending = {
        let topic = topic.clone();
        tokio::task::spawn_blocking(move || {
            for start in (3_000..6_000).step_by(100) {
                send(kafka, &topic, start..start + 100);
            }
        })
    };
    let said = replay(&project, "raw").await;
    sending.await.unwrap();
    assert!(said.starts_with("trips: ") && said.contains(" records read, "), "{said}");
    assert!(said.contains("\n  200 dead letters are rows now\n  put together anew: last\n"), "{said}");
    let all = ledger(6_000, (0..6_000).sum::<i64>() * 2);
    until(&millpond, LEDGER, &all).await;
    until(&millpond, "SELECT count(*) AS n FROM last WHERE km > 11000", &json!({"n": 5})).await;
    let legs = "SELECT count(*) AS n, count(DISTINCT (_offset * 10 + _partition) * 10 + _index_1) AS legs FROM trips__trip_legs";
    until(&millpond, legs, &json!({"n": 12_000, "legs": 12_000})).await;
    let open = project.run(&["dead-letters", "list", "trips"]).await;
    assert!(!open.stdout.contains("no 10"), "{}", open.stdout);

    // Once more, from Kafka: the same.
    let said = replay(&project, "kafka").await;
    assert_eq!(said, "trips: 6000 records read, 6000 rows in the place of 6000\n  put together anew: last\n");
    until(&millpond, LEDGER, &all).await;
    until(&millpond, legs, &json!({"n": 12_000, "legs": 12_000})).await;
    assert_eq!(millpond.stop().await, Some(0));
    let found = python::duckdb(&project.table_url("trips"), &LEDGER.replace("trips", "t"), &[]).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&all));

    // And without a server.
    let said = replay(&project, "raw").await;
    let line = "  put together anew when the server starts: last\n";
    assert_eq!(said, format!("trips: 6000 records read, 6000 rows in the place of 6000\n{line}"));
    let found = python::duckdb(&project.table_url("trips"), &LEDGER.replace("trips", "t"), &[]).await.unwrap();
    assert_eq!(found, [all]);

    // What is made of a table that went back meanwhile goes back, too.
    let version = "SELECT min(table_version) AS v FROM system.history WHERE table_name = 'trips' AND readable";
    let found = project.run(&["sql", "--project", ".", "--format", "csv", "-c", version]).await;
    let version = found.stdout.lines().nth(1).unwrap().to_owned();
    let said = project.run(&["table", "restore", "trips", "--version", &version, "--keep-positions"]).await;
    assert!(said.stdout.ends_with("; put together anew when the server starts: last\n"), "{said:?}");
    let millpond = Millpond::serve(&project).await;
    until(&millpond, "SELECT count(*) AS n FROM last", &json!({"n": 0})).await;
    until(&millpond, "SELECT count(*) AS n FROM trips", &json!({"n": 0})).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_no_more_or_can_be_no_row_keeps_its_rows() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("replay", 1).await;
    let plain = |km: &str, policy: &str| contract(&topic, km, policy).replace("raw = true\n", "");
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("100ms")
        .schema("trips", &plain("", "rescue"))
        .events("other", &topic, "key = [\"car\"]");
    let millpond = Millpond::serve(&project).await;
    send(kafka, &topic, 0..100);
    until(&millpond, COUNT, &count(100)).await;
    until(&millpond, "SELECT count(*) AS n FROM system.ingest WHERE hot_rows > 0 OR lag > 0", &json!({"n": 0})).await;
    kafka.forget_below(&topic, 0, 40).await;
    for (arguments, said) in [
        (["trips", "raw"], "error: the records of trips are not kept as they came\n  hint: from the line raw = true"),
        (["last", "raw"], "error: no topic feeds a table `last`\n"),
        (
            ["trips", "tables"],
            "error: table trips does not come from other tables, but from Kafka\n  hint: --from kafka",
        ),
    ] {
        let wrong = project.run(&["ingest", "replay", arguments[0], "--from", arguments[1]]).await;
        assert!(wrong.code == Some(1) && wrong.stderr.starts_with(said), "{arguments:?}: {}", wrong.stderr);
    }
    // By the contract that comes now each tenth record is no row: 6 of those that Kafka holds, and one that is to come.
    edit(&project, &plain(KM, "dead_letter"));
    let versions = "SELECT max(version) AS n FROM system.schema_versions WHERE table_name = 'trips'";
    until(&millpond, versions, &json!({"n": 2})).await;
    send(kafka, &topic, 100..110);
    let taken_over = "SELECT count(*) AS n FROM system.dead_letters WHERE table_name = 'trips' AND _offset >= 100";
    until(&millpond, taken_over, &json!({"n": 1})).await;
    let new = (100..110).filter(|n| n % 10 != 0).sum::<i64>() * 2;
    until(&millpond, LEDGER, &ledger(109, new)).await;
    let said = replay(&project, "kafka").await;
    assert!(said.contains("\n  6 records can be no rows any more, and keep those they had\n"), "{said}");
    let again = (40..110).filter(|n| n % 10 != 0).sum::<i64>() * 2;
    until(&millpond, LEDGER, &ledger(109, again)).await;
    assert_eq!(millpond.stop().await, Some(0));
}
