//! Bad days of alerts: receivers that misbehave, a store that is away, more rules than anybody has.

use std::time::{Duration, Instant};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::alerts::{Fleet, until};
use crate::rig::{Hook, Kafka, Lake, Millpond, Minio, Project, Smtp, free_port, wait_until};

const SOON: Duration = Duration::from_secs(30);
/// Both processors may be busy.
const LATER: Duration = Duration::from_secs(120);

const SIGNALS: &str = r#"
key = ["car"]
start = "earliest"
time = { path = "at", format = "rfc3339" }
[columns.car]
path = "car"
type = "bigint"
[columns.speed]
path = "speed"
type = "double"
[columns.mail]
path = "mail"
type = "string"
"#;

fn signal(car: i64, more: &Value) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let mut record = json!({"car": car, "at": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)});
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    (Some(car.to_string().into_bytes()), Some(record.to_string().into_bytes()))
}

fn told(kafka: &Kafka, topic: &str) -> Vec<Value> {
    kafka.read(topic).iter().map(|record| serde_json::from_str(&record.payload).unwrap()).collect()
}

async fn until_told(kafka: &Kafka, topic: &str, count: usize) -> Vec<Value> {
    wait_until(&format!("{count} messages"), LATER, async || {
        let told = told(kafka, topic);
        (told.len() >= count).then_some(told)
    })
    .await
}

/// A web server that answers nobody, and one that sends everybody to `elsewhere`.
async fn hang_and_redirect(elsewhere: &Hook) -> (String, String) {
    let ports = [free_port(), free_port()];
    let to = elsewhere.url();
    let hang = axum::Router::new().fallback(|| async { std::future::pending::<()>().await });
    let redirect = axum::Router::new().fallback(move || {
        let to = to.clone();
        async move { (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response() }
    });
    for (port, app) in ports.into_iter().zip([hang, redirect]) {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        millpond::task::spawn("server", async move { axum::serve(listener, app).await.unwrap() });
    }
    (format!("http://127.0.0.1:{}/", ports[0]), format!("http://127.0.0.1:{}/", ports[1]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_be_told_holds_up_nobody_else() {
    let kafka = Kafka::shared().await;
    let (signals, outlier) = (kafka.topic("signals", 2).await, kafka.topic("outlier", 1).await);
    let (smtp, hook, closed) = (Smtp::start(&[]).await, Hook::open().await, Hook::closed());
    let (hangs, redirects) = hang_and_redirect(&hook).await;
    let sinks = format!(
        "[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n\
         [sinks.customer]\ntype = \"email\"\nsmtp = \"smtp://{}\"\nfrom = \"m@example.com\"\nrecipients = \"{{mail}}\"\n\
         [sinks.hangs]\ntype = \"webhook\"\nurl = \"{hangs}\"\n\
         [sinks.redirects]\ntype = \"webhook\"\nurl = \"{redirects}\"\n\
         [sinks.closed]\ntype = \"webhook\"\nurl = \"{}\"\n",
        smtp.address(),
        closed.url()
    );
    let rule = "--! kind = \"alert\"\n--! key = \"car\"\n\
                --! to = [\"hangs\", \"redirects\", \"closed\", \"customer\", \"outlier\"]\n\
                SELECT car, speed, mail FROM signals WHERE speed > 100\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .toml(&sinks)
        .events("signals", &signals, SIGNALS)
        .query("too_fast", rule);
    let millpond = Millpond::serve(&project).await;
    let mails = [
        json!("one@example.com"),
        Value::Null,
        json!("nobody@example.com"),
        json!("no address"),
        json!("two@example.com"),
    ];
    for (car, mail) in mails.iter().enumerate() {
        kafka.send(&signals, [signal(car as i64, &json!({"speed": 150.0, "mail": mail}))]);
    }
    assert_eq!(until_told(kafka, &outlier, 5).await.len(), 5);
    let got = wait_until("two mails", SOON, async || {
        let mails = smtp.mails();
        (mails.len() >= 2).then_some(mails)
    })
    .await;
    let to: Vec<&str> = got.iter().map(|mail| mail["to"][0].as_str().unwrap()).collect();
    assert_eq!(to, ["one@example.com", "two@example.com"]);
    let sinks = "SELECT sink_name, pending, delivered, refused FROM system.sinks ORDER BY sink_name";
    until(
        &millpond,
        sinks,
        json!([
            {"sink_name": "closed", "pending": 5, "delivered": 0, "refused": 0},
            {"sink_name": "customer", "pending": 0, "delivered": 2, "refused": 3},
            {"sink_name": "hangs", "pending": 5, "delivered": 0, "refused": 0},
            {"sink_name": "outlier", "pending": 0, "delivered": 5, "refused": 0},
            {"sink_name": "redirects", "pending": 5, "delivered": 0, "refused": 0},
        ]),
    )
    .await;
    assert!(hook.posted().is_empty(), "a redirect is not followed");
    for car in 0..5 {
        kafka.send(&signals, [signal(car, &json!({"speed": 50.0, "mail": "one@example.com"}))]);
    }
    let told = until_told(kafka, &outlier, 10).await;
    assert!(told[5..].iter().all(|told| told["state"] == "resolved"), "{told:?}");
    until(&millpond, "SELECT count(*) AS n FROM system.alerts_active", json!([{"n": 0}])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_store_that_is_away_until_nothing_more_can_be_held_raises_nothing_false() {
    let (kafka, minio) = (Kafka::shared().await, Minio::start().await);
    let (signals, outlier) = (kafka.topic("signals", 1).await, kafka.topic("outlier", 1).await);
    let silent = "--! kind = \"alert\"\n--! key = \"car\"\n--! absent_for = \"20s\"\n--! to = \"outlier\"\n\
                  --! expect = \"SELECT 1 AS car\"\nSELECT car FROM signals\n";
    let fast = "--! kind = \"alert\"\n--! key = \"car\"\n--! to = \"outlier\"\nSELECT car, speed FROM signals WHERE speed > 100\n";
    let project = Project::new(kafka.brokers(), Lake::on(&minio, "alerts"))
        .commit_interval("1s")
        .toml("[limits]\nmemory = \"256MiB\"\n")
        .toml(&format!("[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n"))
        .events("signals", &signals, SIGNALS)
        .query("silent", silent)
        .query("too_fast", fast);
    let millpond = Millpond::serve(&project).await;
    kafka.send(&signals, [signal(1, &json!({"speed": 50.0}))]);
    until(&millpond, "SELECT count(*) AS n FROM signals", json!([{"n": 1}])).await;

    // Alerts do not need the store.
    minio.pause();
    kafka.send(&signals, [signal(1, &json!({"speed": 150.0}))]);
    assert_eq!(until_told(kafka, &outlier, 1).await[0]["state"], "firing");

    // Until no more rows can be held; the car speaks all the time.
    let began = Instant::now();
    let metric = async |name: &str| millpond.metric(name, &[]).await.unwrap_or(0.0);
    let text = "x".repeat(2_000);
    let mut sent = 2;
    let mut full = false;
    while !full || began.elapsed() < Duration::from_secs(25) {
        if !full {
            let other = |at: i64| signal(100 + at % 50, &json!({"speed": 60.0, "note": text}));
            kafka.send(&signals, (0..2_000).map(other));
            sent += 2_000;
        }
        kafka.send(&signals, [signal(1, &json!({"speed": 150.0}))]);
        sent += 1;
        let used = metric("millpond_memory_ingest_used_bytes").await;
        full = used >= metric("millpond_memory_ingest_limit_bytes").await;
    }
    kafka.send(&signals, [signal(1, &json!({"speed": 40.0}))]);
    sent += 1;
    assert_eq!(told(kafka, &outlier).len(), 1, "what is not read yet says nothing");

    minio.resume();
    let read = format!("{sent} rows are committed");
    wait_until(&read, LATER, async || {
        let rows = millpond.number("SELECT count(*) AS n FROM signals").await == Some(sent);
        (rows && metric("millpond_lake_hot_rows").await == 0.0).then_some(())
    })
    .await;
    let all = until_told(kafka, &outlier, 2).await;
    let of_rules: Vec<(&str, &str)> =
        all.iter().map(|told| (told["rule"].as_str().unwrap(), told["state"].as_str().unwrap())).collect();
    assert_eq!(of_rules, [("too_fast", "firing"), ("too_fast", "resolved")]);
    let logged = "SELECT count(*) AS n, count(DISTINCT alert_id) AS ids FROM system.alerts WHERE rule = 'too_fast'";
    until(&millpond, logged, json!([{"n": 2, "ids": 1}])).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rules_are_checked_planned_and_told_at_once() {
    const RULES: usize = 1_000;
    let kafka = Kafka::shared().await;
    let (signals, outlier) = (kafka.topic("signals", 1).await, kafka.topic("outlier", 1).await);
    let mut project = Project::new(kafka.brokers(), Lake::Local)
        .toml(&format!("[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n"))
        .events("signals", &signals, SIGNALS);
    for number in 0..RULES {
        let limit = number as f64 / 10.0;
        let rule = format!(
            "--! kind = \"alert\"\n--! key = \"car\"\n--! to = \"outlier\"\n\
             SELECT car, speed FROM signals WHERE mail IS NULL AND speed > {limit}\n"
        );
        project = project.query(&format!("rule_{number}"), &rule);
    }
    let checked = project.run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert_eq!(checked.stdout.matches("stateless over signals").count(), RULES);
    let millpond = Millpond::serve(&project).await;
    kafka.send(&signals, [signal(1, &json!({"speed": 500.0})), signal(2, &json!({"speed": 500.0, "mail": "x"}))]);
    assert_eq!(until_told(kafka, &outlier, RULES).await.len(), RULES);
    kafka.send(&signals, [signal(1, &json!({"speed": 0.0}))]);
    let told = until_told(kafka, &outlier, 2 * RULES).await;
    let ids = |told: &[Value]| {
        told.iter().map(|told| told["alert_id"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!((told.len(), ids(&told[..RULES]).len()), (2 * RULES, RULES));
    assert_eq!(ids(&told[..RULES]), ids(&told[RULES..]));
    let counted = "SELECT count(*) AS n, sum(\"rows\") AS \"rows\", sum(rows_true) AS rows_true FROM system.queries";
    until(&millpond, counted, json!([{"n": RULES, "rows": 3 * RULES, "rows_true": RULES}])).await;
    until(&millpond, "SELECT count(*) AS n FROM system.alerts", json!([{"n": 2 * RULES}])).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_always_silent_holds_no_rule_up() {
    let kafka = Kafka::shared().await;
    let (signals, outlier) = (kafka.topic("signals", 3).await, kafka.topic("outlier", 1).await);
    let lasting = "--! kind = \"alert\"\n--! key = \"car\"\n--! for = \"1s\"\n--! to = \"outlier\"\n\
                   SELECT car, speed FROM signals WHERE speed > 100\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .toml(&format!("[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n"))
        .events("signals", &signals, SIGNALS)
        .query("lasting", lasting);
    let millpond = Millpond::serve(&project).await;
    // One car, and so one partition: of the two others nothing was ever heard.
    kafka.send(&signals, [signal(1, &json!({"speed": 150.0}))]);
    assert_eq!(until_told(kafka, &outlier, 1).await[0]["state"], "firing");
    kafka.send(&signals, [signal(1, &json!({"speed": 50.0}))]);
    assert_eq!(until_told(kafka, &outlier, 2).await[1]["state"], "resolved");
    until(&millpond, "SELECT count(*) AS n FROM system.alerts_active", json!([{"n": 0}])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_query_waits_for_its_topic_and_loses_nothing() {
    let fleet = Fleet::new().await;
    let query = "--! kind = \"stream\"\n--! key = \"car\"\n--! to = \"outlier\"\nSELECT car, speed FROM signals\n";
    let millpond = Millpond::serve(&fleet.project.clone().query("speeds", query)).await;
    fleet.signal(1, json!({"speed": 1.0}));
    until(&millpond, "SELECT speed FROM speeds", json!([{"speed": 1.0}])).await;
    fleet.kafka.delete(&fleet.outlier).await;
    for speed in 2..5 {
        fleet.signal(1, json!({"speed": f64::from(speed)}));
    }
    wait_until("the query says that its topic is away", LATER, async || {
        let waits = "SELECT count(*) AS n FROM system.queries WHERE query_name = 'speeds' AND error IS NOT NULL";
        (millpond.number(waits).await == Some(1)).then_some(())
    })
    .await;
    // Nobody else waits.
    until(&millpond, "SELECT count(*) AS n FROM signals", json!([{"n": 4}])).await;
    fleet.kafka.create(&fleet.outlier, 1).await;
    wait_until("all rows are there", LATER, async || {
        (millpond.number("SELECT count(*) AS n FROM speeds").await == Some(4)).then_some(())
    })
    .await;
    let speeds: Vec<Value> = fleet.told().into_iter().map(|row| row["speed"].clone()).collect();
    assert_eq!(speeds, [json!(2.0), json!(3.0), json!(4.0)]);
}
