//! How fast a week of history goes through a rule of each class.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, Record, wait_until};

const CARS: i64 = 100;
const MINUTES: i64 = 7 * 24 * 60 - 60;

const SIGNALS: &str = r#"
key = ["car"]
time = { path = "at", format = "unix_us" }
[columns.speed]
type = "double"
"#;

const HEAD: &str = "--! kind = \"alert\"\n--! key = \"car\"\n";
const RULES: &[(&str, &str)] = &[
    ("stateless", "SELECT car, speed FROM signals WHERE speed > 99"),
    ("lasting", "--! for = \"3m\"\nSELECT car, speed FROM signals WHERE speed > 60"),
    (
        "look_back",
        "SELECT car, speed, lag(speed) OVER (PARTITION BY car ORDER BY event_time) AS before FROM signals \
         QUALIFY speed < before - 90",
    ),
    (
        "sliding",
        "SELECT car, avg(speed) OVER (PARTITION BY car ORDER BY event_time RANGE INTERVAL '10 minutes' PRECEDING) AS mean \
         FROM signals QUALIFY mean > 75",
    ),
    (
        "window",
        "SELECT car, avg(speed) AS mean FROM signals GROUP BY car, tumble(event_time, INTERVAL '1 hour') \
         HAVING avg(speed) > 60",
    ),
    (
        "session",
        "SELECT car, count(*) AS n FROM signals WHERE speed > 20 GROUP BY car, session(event_time, INTERVAL '90 seconds') \
         HAVING count(*) > 30",
    ),
];

/// A car says how fast it is every minute.
fn signal(number: i64, begin: DateTime<Utc>) -> (Option<i64>, Record) {
    let (car, minute) = (number % CARS, number / CARS);
    let at = begin + TimeDelta::minutes(minute) + TimeDelta::milliseconds(car * 500);
    let speed = number.wrapping_mul(2_654_435_761).rem_euclid(1_000) as f64 / 10.0;
    let row =
        json!({"car": car, "at": at.timestamp_micros(), "speed": speed, "odometer": number, "locked": minute % 7 == 0});
    (Some(at.timestamp_millis()), (Some(car.to_string().into_bytes()), Some(row.to_string().into_bytes())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of a minute or two; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_back_test_over_a_week() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("signals", 2).await;
    let begin = Utc::now() - TimeDelta::minutes(MINUTES + 30);
    let sender = kafka.sender();
    for first in (0..MINUTES * CARS).step_by(60_000) {
        sender.send_at(&topic, (first..MINUTES * CARS).take(60_000).map(|number| signal(number, begin)));
    }
    let project = Project::new(kafka.brokers(), Lake::Local).commit_interval("5s").events("signals", &topic, SIGNALS);
    let millpond = Millpond::serve(&project).await;
    wait_until("all signals are there", Duration::from_secs(180), async || {
        (millpond.number("SELECT count(*) AS n FROM signals").await == Some(MINUTES * CARS)).then_some(())
    })
    .await;
    assert_eq!(millpond.stop().await, Some(0));
    println!("{} rows of {CARS} cars, a week", MINUTES * CARS);
    for (name, sql) in RULES {
        project.write_query(name, &format!("{HEAD}{sql}\n"));
        let tested = project.run(&["alert", "test", name, "--since", "8d", "--format", "json"]).await;
        assert_eq!(tested.code, Some(0), "{tested:?}");
        let report: Value = serde_json::from_str(&tested.stdout).unwrap();
        let (rows, seconds) = (report["rows"].as_f64().unwrap(), report["seconds"].as_f64().unwrap());
        let rule = &report["rules"][0];
        println!(
            "  {name:<10} {:.0} rows/s, {} late, {} alerts",
            rows / seconds,
            rule["late"],
            rule["alerts"].as_array().map_or(0, Vec::len)
        );
    }
}
