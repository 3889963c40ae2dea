//! Tables beside a main one: elements of arrays as rows of their own table, and records as they came. With the main
//! table they are exact through kills between the commits of one window, and through retried dead letters.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Minio, Project, credentials, python, wait_until};

const SOON: Duration = Duration::from_secs(60);
const DEATH: Duration = Duration::from_secs(90);
/// Records of one life; every tenth has a number that is none, and one is no JSON.
const SHARE: usize = 300;

/// Fail points that lie between the commits of a window, and which time they are hit.
pub const POINTS: [(&str, u32); 4] =
    [("after_side_table", 1), ("after_side_table", 3), ("after_dead_letters", 1), ("before_commit", 1)];

fn payload(n: usize) -> String {
    match n % SHARE {
        7 => format!("{{\"n\":{n}, cut"),
        at if at % 10 == 3 => format!(r#"{{"n":"number {n}","trip":{{"legs":[{{"km":{n},"stops":["x"]}}]}}}}"#),
        at => {
            let stops =
                |leg: usize| (0..(at + leg) % 3).map(|stop| format!(r#""s{stop}""#)).collect::<Vec<_>>().join(",");
            let legs = (0..n % 4).map(|leg| format!(r#"{{"km":{leg}.5,"stops":[{}]}}"#, stops(leg)));
            format!(r#"{{"n":{n},"trip":{{"legs":[{}]}}}}"#, legs.collect::<Vec<_>>().join(","))
        }
    }
}

/// Sends one share of records, from number `first` on.
fn send(kafka: &Kafka, topic: &str, first: usize) {
    let payloads: Vec<String> = (first..first + SHARE).map(payload).collect();
    kafka.send_text(topic, payloads.iter().map(String::as_str));
}

/// Rows of the main table, of its legs and of their stops that the records up to `count` have; with those that are
/// healed, or without.
fn wanted(count: usize, healed: bool) -> [usize; 3] {
    let mut rows = [0; 3];
    for n in 0..count {
        let Ok(payload) = serde_json::from_str::<Value>(&payload(n)) else { continue };
        if payload["n"].is_string() && !healed {
            continue;
        }
        let legs = payload["trip"]["legs"].as_array().unwrap();
        rows[0] += 1;
        rows[1] += legs.len();
        rows[2] += legs.iter().map(|leg| leg["stops"].as_array().unwrap().len()).sum::<usize>();
    }
    rows
}

fn contract(project: Project, topic: &str, policy: &str) -> Project {
    project.events(
        "trips",
        topic,
        &format!(
            "raw = true\non_type_conflict = \"{policy}\"\n[columns.n]\ntype = \"bigint\"\n\
             [arrays.\"trip.legs\"]\nas = \"child\"\n[arrays.\"trip.legs.stops\"]\nas = \"child\"\n"
        ),
    )
}

/// The four tables' rows, each counted by what must be unique about it, too.
const COUNTS: &str = "SELECT \
     (SELECT count(*) FROM trips) AS a, (SELECT count(DISTINCT _offset) FROM trips) AS b, \
     (SELECT count(*) FROM trips__trip_legs) AS c, \
     (SELECT count(*) FROM (SELECT DISTINCT _offset, _row, _index_1 FROM trips__trip_legs)) AS d, \
     (SELECT count(*) FROM trips__trip_legs__stops) AS e, \
     (SELECT count(*) FROM (SELECT DISTINCT _offset, _row, _index_1, _index_2 FROM trips__trip_legs__stops)) AS f, \
     (SELECT count(*) FROM trips__raw) AS g, (SELECT count(DISTINCT _offset) FROM trips__raw) AS h";

fn counts(rows: [usize; 3], records: usize) -> Vec<usize> {
    [rows[0], rows[1], rows[2], records].into_iter().flat_map(|count| [count, count]).collect()
}

async fn counted(millpond: &Millpond) -> Vec<usize> {
    let row = millpond.sql(COUNTS).await.remove(0);
    row.as_object().unwrap().values().map(|count| count.as_u64().unwrap() as usize).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_1_child_tables_and_raw_records_are_exact_after_kills_between_their_commits() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("beside", 1).await, Kafka::name("beside"));
    let open = Project::new(kafka.brokers(), Lake::on(minio, &bucket));
    let project = contract(open.clone(), &topic, "dead_letter").commit_interval("200ms");
    // Three tables beside, dead letters, then the main table: a death between any two of these commits.
    let mut sent = 0;
    for (point, nth) in POINTS {
        send(kafka, &topic, sent);
        sent += SHARE;
        let millpond = Millpond::start(&project.clone().failpoint(point, nth));
        let (code, _) = millpond.ended(DEATH).await;
        assert_eq!(code, None, "ended by a signal at {point}:{nth}");
    }
    send(kafka, &topic, sent);
    sent += SHARE;

    // Hot and committed rows are the same to statements.
    let millpond = Millpond::serve(&project.clone().without_failpoint()).await;
    let exact = counts(wanted(sent, false), sent);
    wait_until("all rows can be seen", SOON, async || (counted(&millpond).await == exact).then_some(())).await;
    let orphans = "SELECT count(*) FROM trips__trip_legs l LEFT JOIN trips t USING (_offset, _row) WHERE t.n IS NULL";
    assert_eq!(millpond.number(orphans).await, Some(0));
    let ends = "SELECT count(*) FROM system.ingest WHERE hot_rows > 0 OR lag > 0";
    wait_until("all is committed", SOON, async || (millpond.number(ends).await == Some(0)).then_some(())).await;
    assert_eq!(counted(&millpond).await, exact);
    let kinds = millpond.sql("SELECT table_name, kind FROM system.tables ORDER BY 1").await;
    let kind = |table: &str, kind: &str| json!({"table_name": table, "kind": kind});
    let all = [
        kind("trips", "events"),
        kind("trips__raw", "raw"),
        kind("trips__trip_legs", "child"),
        kind("trips__trip_legs__stops", "child"),
    ];
    assert_eq!(kinds, all);
    assert_eq!(millpond.stop().await, Some(0));

    // What died is healed with its children, once.
    let project = contract(open, &topic, "rescue");
    let millpond = Millpond::serve(&project).await;
    for _ in 0..2 {
        let output = project.run(&["dead-letters", "retry", "trips"]).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert_eq!(counted(&millpond).await, counts(wanted(sent, true), sent));
    }
    assert_eq!(millpond.stop().await, Some(0));

    // And so other readers see it.
    let mut env = credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    let [_, legs, stops] = wanted(sent, true);
    for (table, rows) in [("trips__trip_legs", legs), ("trips__trip_legs__stops", stops), ("trips__raw", sent)] {
        let found = python::duckdb(&project.table_url(table), "SELECT count(*) AS n FROM t", &env).await.unwrap();
        assert_eq!(found, [json!({"n": rows})], "{table}");
    }
    let texts = "SELECT decode(payload) AS payload FROM t ORDER BY _offset";
    let found = python::duckdb(&project.table_url("trips__raw"), texts, &env).await.unwrap();
    let sent: Vec<Value> = (0..sent).map(|n| json!({"payload": payload(n)})).collect();
    assert_eq!(found, sent);
}
