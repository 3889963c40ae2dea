//! Alerts with real Kafka: from a record to the message about it, over edits and bad days.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::rig::{Hook, Kafka, Lake, Millpond, Posted, Project, Sender, python, wait_until};

const SOON: Duration = Duration::from_secs(30);
/// A broker comes back, and both processors may be busy.
const LATER: Duration = Duration::from_secs(90);

/// Signals of cars; a record says `{"car": 1, "at": "2026-11-22T12:00:00Z", …}`. All columns are declared, so that the
/// first record is a row at once.
const SIGNALS: &str = r#"
key = ["car"]
start = "earliest"
time = { path = "at", format = "rfc3339" }
[columns.car]
path = "car"
type = "bigint"
[columns.lights]
path = "lights"
type = "boolean"
[columns.speed]
path = "speed"
type = "double"
"#;

const RESERVATION: &str = r#"
kind = "mirror"
format = "dms-json"
key = ["reservation_id"]
[columns.car]
path = "car"
type = "bigint"
[columns.status]
path = "status"
type = "string"
[columns.customer_email]
path = "customer_email"
type = "string"
"#;

const STATE: &str = r#"
kind = "latest"
key = ["car"]
[sources.signals]
merge = "last_non_null"
columns = ["lights", "speed"]
[columns.is_parked]
sql = "speed = 0"
"#;

pub(crate) const HEADLIGHTS: &str = r#"--! kind     = "alert"
--! key      = ["car", "reservation_id"]
--! for      = "500ms"
--! severity = "critical"
--! message  = "car {car}: the headlights are on"
--! to       = ["outlier", "customer"]
SELECT s.car, r.reservation_id, r.customer_email, s.speed
FROM   car_state s
JOIN   reservation r ON r.car = s.car AND r.status = 'RETURNED'
WHERE  s.is_parked AND s.lights
"#;

/// A project whose alerts go to a topic and to a web server.
pub(crate) struct Fleet {
    pub kafka: &'static Kafka,
    pub project: Project,
    pub signals: String,
    pub reservations: String,
    pub outlier: String,
    pub hook: Hook,
}

impl Fleet {
    pub async fn new() -> Self {
        let kafka = Kafka::shared().await;
        let signals = kafka.topic("signals", 2).await;
        let reservations = kafka.topic("reservations", 1).await;
        let outlier = kafka.topic("outlier", 1).await;
        let hook = Hook::open().await;
        let sinks = format!(
            "[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n\
             [sinks.customer]\ntype = \"webhook\"\nurl = \"{}\"\n",
            hook.url()
        );
        let project = Project::new(kafka.brokers(), Lake::Local)
            .toml(&sinks)
            .events("signals", &signals, SIGNALS)
            .schema("reservation", &format!("topic = \"{reservations}\"\n{RESERVATION}"))
            .schema("car_state", STATE);
        Self { kafka, project, signals, reservations, outlier, hook }
    }

    /// What a car says now.
    pub fn signal(&self, car: i64, more: Value) {
        self.signal_at(car, Utc::now(), more);
    }

    fn signal_at(&self, car: i64, at: DateTime<Utc>, mut more: Value) {
        more["car"] = json!(car);
        more["at"] = json!(at.to_rfc3339_opts(SecondsFormat::Micros, true));
        let key = Some(car.to_string().into_bytes());
        self.kafka.send(&self.signals, [(key, Some(more.to_string().into_bytes()))]);
    }

    pub fn reserve(&self, id: i64, car: i64, status: &str) {
        let row =
            json!({"reservation_id": id, "car": car, "status": status, "customer_email": format!("c{id}@example.com")});
        let message = json!({"data": row, "metadata": {"record-type": "data", "operation": "update"}});
        let key = json!({"reservation_id": id}).to_string().into_bytes();
        self.kafka.send(&self.reservations, [(Some(key), Some(message.to_string().into_bytes()))]);
    }

    /// What came to the topic so far.
    pub fn told(&self) -> Vec<Value> {
        let received = self.kafka.read(&self.outlier).into_iter();
        received.map(|record| serde_json::from_str(&record.payload).unwrap()).collect()
    }

    async fn until_told(&self, count: usize) -> Vec<Value> {
        wait_until(&format!("{count} messages"), SOON, async || {
            let told = self.told();
            (told.len() >= count).then_some(told)
        })
        .await
    }

    async fn until_posted(&self, count: usize) -> Vec<Posted> {
        wait_until(&format!("{count} posts"), SOON, async || {
            let posted = self.hook.posted();
            (posted.len() >= count).then_some(posted)
        })
        .await
    }
}

fn states(told: &[Value]) -> Vec<(&Value, &str)> {
    told.iter().map(|told| (&told["key"], told["state"].as_str().unwrap())).collect()
}

pub(crate) async fn until(millpond: &Millpond, query: &str, expected: Value) {
    wait_until(&format!("{query} gives {expected}"), SOON, async || {
        let output = millpond
            .project()
            .run(&["sql", "--url", &millpond.project().flight_sql(), "--format", "ndjson", "-c", query])
            .await;
        let rows: Vec<Value> = output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (json!(rows) == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headlights_that_are_left_on_are_told_to_the_customer_once_and_resolve() {
    let fleet = Fleet::new().await;
    let millpond = Millpond::serve(&fleet.project.clone().query("headlights_left_on", HEADLIGHTS)).await;
    fleet.reserve(7, 1, "RETURNED");
    fleet.reserve(8, 2, "RENTED");
    until(&millpond, "SELECT count(*) AS n FROM reservation", json!([{"n": 2}])).await;

    // A car that drives, a car that is still rented, and one that was returned with its lights on.
    fleet.signal(1, json!({"speed": 30.5, "lights": true}));
    fleet.signal(2, json!({"speed": 0.0, "lights": true}));
    fleet.signal(1, json!({"speed": 0.0}));
    fleet.signal(1, json!({"speed": 0.0}));
    let told = fleet.until_told(1).await;
    let key = json!({"car": 1, "reservation_id": 7});
    assert_eq!(states(&told), [(&key, "firing")]);
    let alert = &told[0];
    for (field, value) in [
        ("rule", json!("headlights_left_on")),
        ("severity", json!("critical")),
        ("message", json!("car 1: the headlights are on")),
        ("ends_at", Value::Null),
        ("schema_version", json!(1)),
        ("values", json!({"car": 1, "reservation_id": 7, "customer_email": "c7@example.com", "speed": 0.0})),
    ] {
        assert_eq!(alert[field], value, "{field} of {alert}");
    }
    assert_eq!(alert["cause"]["topic"], json!(fleet.signals));
    let time = |field: &str| DateTime::parse_from_rfc3339(alert[field].as_str().unwrap()).unwrap();
    assert_eq!(time("fired_at") - time("starts_at"), TimeDelta::milliseconds(500));

    let active = "SELECT rule, \"key\", state, alert_id FROM system.alerts_active";
    let firing = json!([{"rule": "headlights_left_on", "key": key.to_string(), "state": "firing", "alert_id": alert["alert_id"]}]);
    until(&millpond, active, firing).await;
    let queries = "SELECT query_name, class, stream, look_ups, state, error, firing, fired FROM system.queries";
    let query = json!([{
        "query_name": "headlights_left_on", "class": "look-up join", "stream": "car_state",
        "look_ups": "reservation by an index in memory", "state": "running", "error": null, "firing": 1, "fired": 1,
    }]);
    until(&millpond, queries, query).await;

    fleet.signal(1, json!({"speed": 0.0, "lights": false}));
    let told = fleet.until_told(2).await;
    assert_eq!(states(&told), [(&key, "firing"), (&key, "resolved")]);
    assert_eq!(told[1]["alert_id"], alert["alert_id"]);
    assert!(told[1]["ends_at"].is_string(), "{}", told[1]);
    let posted = fleet.until_posted(2).await;
    let bodies: Vec<Value> = posted.iter().map(|posted| posted.body.clone()).collect();
    assert_eq!(bodies, told, "both sinks are told the same");
    assert_eq!(posted[0].id, format!("{}/firing", alert["alert_id"].as_str().unwrap()));
    until(&millpond, active, json!([])).await;

    // The next customer returns it with the lights on: another alert. A third one takes the car: that one is over.
    fleet.reserve(7, 1, "CLOSED");
    fleet.reserve(9, 1, "RETURNED");
    until(
        &millpond,
        "SELECT status FROM reservation WHERE reservation_id IN (7, 9) ORDER BY reservation_id",
        json!([{"status": "CLOSED"}, {"status": "RETURNED"}]),
    )
    .await;
    fleet.signal(1, json!({"lights": true}));
    let told = fleet.until_told(3).await;
    let next = json!({"car": 1, "reservation_id": 9});
    assert_eq!(states(&told[2..]), [(&next, "firing")]);
    assert_ne!(told[2]["alert_id"], alert["alert_id"]);
    fleet.reserve(9, 1, "RENTED");
    until(&millpond, "SELECT status FROM reservation WHERE reservation_id = 9", json!([{"status": "RENTED"}])).await;
    fleet.signal(1, json!({"lights": true}));
    assert_eq!(states(&fleet.until_told(4).await[3..]), [(&next, "resolved")]);
    assert_eq!(millpond.stop().await, Some(0));
    assert_eq!(fleet.told().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_taken_over_while_it_runs_and_keeps_what_it_knows_when_it_is_edited() {
    let fleet = Fleet::new().await;
    let millpond = Millpond::serve(&fleet.project).await;
    let rule = |limit: i64, column: &str| {
        format!(
            "--! kind = \"alert\"\n--! key = \"car\"\n--! message = \"{{car}} too fast\"\n--! to = [\"outlier\"]\n\
             SELECT car, speed FROM signals WHERE {column} > {limit}\n"
        )
    };
    let project = millpond.project();
    project.write_query("too_fast", &rule(100, "speed"));
    until(
        &millpond,
        "SELECT query_name, state FROM system.queries",
        json!([{"query_name": "too_fast", "state": "running"}]),
    )
    .await;
    fleet.signal(1, json!({"speed": 130.0}));
    fleet.signal(2, json!({"speed": 90.0}));
    let told = fleet.until_told(1).await;
    assert_eq!(states(&told), [(&json!({"car": 1}), "firing")]);

    // Another limit: the alert goes on, with its id.
    project.write_query("too_fast", &rule(120, "speed"));
    let hash = "SELECT count(DISTINCT rule_hash) AS n FROM system.queries WHERE state = 'running' AND rule_hash <> '";
    let first = told[0]["rule_hash"].as_str().unwrap();
    until(&millpond, &format!("{hash}{first}'"), json!([{"n": 1}])).await;
    fleet.signal(1, json!({"speed": 140.0}));
    fleet.signal(1, json!({"speed": 110.0}));
    let told = fleet.until_told(2).await;
    assert_eq!(states(&told[1..]), [(&json!({"car": 1}), "resolved")]);
    assert_eq!(told[1]["alert_id"], told[0]["alert_id"]);

    // A column that is not there yet: the rule waits for it.
    fleet.signal(1, json!({"speed": 150.0}));
    fleet.until_told(3).await;
    project.write_query("too_fast", &rule(5, "gust"));
    let error = "SELECT state, error FROM system.queries";
    until(&millpond, error, json!([{"state": "waiting", "error": "column `gust` does not exist"}])).await;
    fleet.signal(2, json!({"gust": 7.5}));
    until(&millpond, error, json!([{"state": "running", "error": null}])).await;
    fleet.signal(2, json!({"gust": 8.5}));
    let told = fleet.until_told(4).await;
    assert_eq!(states(&told[3..]), [(&json!({"car": 2}), "firing")]);

    // What is wrong is not taken over; what is gone ends its alerts, and says so.
    project.write_query("too_fast", "--! kind = \"alert\"\nSELECT 1\n");
    wait_until("the log says what is wrong", SOON, async || {
        millpond.process().log().contains("key: is missing").then_some(())
    })
    .await;
    std::fs::remove_file(project.dir().join("queries/too_fast.sql")).unwrap();
    let told = fleet.until_told(6).await;
    for told in &told[4..] {
        assert_eq!((&told["state"], &told["reason"]), (&json!("resolved"), &json!("the rule is gone")), "{told}");
    }
    until(&millpond, "SELECT query_name FROM system.queries", json!([])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_late_of_the_future_or_cannot_be_judged_raise_nothing_false() {
    let fleet = Fleet::new().await;
    let project = fleet.project.clone()
        .query("too_fast", "--! kind = \"alert\"\n--! key = \"car\"\n--! to = \"outlier\"\nSELECT car FROM signals WHERE speed > 100")
        .query("ratio", "--! kind = \"alert\"\n--! key = \"car\"\n--! to = \"outlier\"\nSELECT car FROM signals WHERE 100 / CAST(speed AS BIGINT) > 50")
        .query("crash", "--! kind = \"alert\"\n--! key = \"car\"\n--! once = true\n--! to = \"customer\"\nSELECT car FROM signals WHERE speed > 300");
    let millpond = Millpond::serve(&project).await;
    let (now, car) = (Utc::now(), json!({"car": 1}));
    fleet.signal_at(1, now, json!({"speed": 120.0}));
    assert_eq!(states(&fleet.until_told(1).await), [(&car, "firing")]);
    // Older than what is known: neither ends the alert, and an event is told all the same.
    fleet.signal_at(1, now - TimeDelta::seconds(60), json!({"speed": 50.0}));
    fleet.signal_at(1, now - TimeDelta::seconds(90), json!({"speed": 310.0}));
    fleet.signal_at(1, now - TimeDelta::seconds(90), json!({"speed": 310.0}));
    assert_eq!(fleet.until_posted(2).await[0].body["rule"], json!("crash"));
    // A clock that is a year ahead does not deafen its car.
    fleet.signal_at(2, now + TimeDelta::days(365), json!({"speed": 130.0}));
    fleet.until_told(2).await;
    fleet.signal(2, json!({"speed": 60.0}));
    assert_eq!(
        states(&fleet.until_told(3).await[1..]),
        [(&json!({"car": 2}), "firing"), (&json!({"car": 2}), "resolved")]
    );
    // A row that divides by zero is counted; those beside it are judged.
    fleet.signal(3, json!({"speed": 0.0}));
    fleet.signal(4, json!({"speed": 1.0}));
    assert_eq!(states(&fleet.until_told(4).await[3..]), [(&json!({"car": 4}), "firing")]);
    let failed = "SELECT rows_failed, last_row_error FROM system.queries WHERE query_name = 'ratio'";
    until(&millpond, failed, json!([{"rows_failed": 1, "last_row_error": "division by zero"}])).await;
    let unknown = "SELECT rows_unknown FROM system.queries WHERE query_name = 'too_fast'";
    fleet.signal(5, json!({"lights": true}));
    until(&millpond, unknown, json!([{"rows_unknown": 1}])).await;
    assert_eq!(states(&fleet.told()).len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_told_and_kafka_that_is_away_is_no_silence() {
    let kafka = Kafka::start().await;
    let signals = kafka.topic("signals", 2).await;
    let hook = Hook::open().await;
    let silent = "--! kind = \"alert\"\n--! key = \"car\"\n--! absent_for = \"4s\"\n--! message = \"{car} is silent\"\n\
                  --! to = [\"ops\"]\nSELECT car FROM signals\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .toml(&format!("[sinks.ops]\ntype = \"webhook\"\nurl = \"{}\"\n", hook.url()))
        .events("signals", &signals, SIGNALS)
        .query("silent", silent);
    let millpond = Millpond::serve(&project).await;
    let signal = |car: i64| {
        let record = json!({"car": car, "at": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true)});
        let key = Some(car.to_string().into_bytes());
        kafka.send(&signals, [(key, Some(record.to_string().into_bytes()))]);
    };
    signal(1);
    signal(2);
    let posted = |count: usize| {
        let hook = &hook;
        async move {
            wait_until(&format!("{count} posts"), SOON, async || {
                let posted = hook.posted();
                (posted.len() >= count).then(|| posted.into_iter().map(|posted| posted.body).collect::<Vec<_>>())
            })
            .await
        }
    };
    let told = posted(2).await;
    assert!(states(&told).iter().all(|(_, state)| *state == "firing"), "{told:?}");
    signal(1);
    let told = posted(3).await;
    assert_eq!(states(&told[2..]), [(&json!({"car": 1}), "resolved")]);

    // Nobody is called silent while the brokers are away, however long that is.
    signal(1);
    until(&millpond, "SELECT count(*) AS n FROM system.alerts_active WHERE state = 'pending'", json!([{"n": 1}])).await;
    kafka.stop();
    let away = std::time::Instant::now();
    wait_until("the brokers are away", LATER, async || {
        let out = "SELECT count(*) AS n FROM system.ingest WHERE state = 'unreachable'";
        (millpond.number(out).await.unwrap_or(0) > 0 && away.elapsed() > Duration::from_secs(8)).then_some(())
    })
    .await;
    let before = hook.posted().len();
    kafka.restart().await;
    signal(1);
    wait_until("the car is heard again", LATER, async || {
        (millpond.number("SELECT count(*) AS n FROM signals").await == Some(5)).then_some(())
    })
    .await;
    assert_eq!((before, hook.posted().len()), (3, 3), "{:?}", hook.posted());
    let told = posted(4).await;
    assert_eq!(states(&told[3..]), [(&json!({"car": 1}), "firing")]);
}

/// Signals of cars that go too fast and slow down, again and again; how often each has so far.
struct Drivers<'a> {
    fleet: &'a Fleet,
    sender: Sender,
    episodes: std::cell::Cell<usize>,
}

impl Drivers<'_> {
    const CARS: usize = 6;

    /// Every car goes too fast once, and slows down.
    fn drive(&self) {
        for speed in [150.0, 30.0] {
            let record = |car: usize| {
                let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
                let record = json!({"car": car, "at": at, "speed": speed, "lights": speed < 100.0});
                (Some(car.to_string().into_bytes()), Some(record.to_string().into_bytes()))
            };
            self.sender.send(&self.fleet.signals, (0..Self::CARS).map(record));
        }
        self.episodes.set(self.episodes.get() + 1);
    }
}

const OF_EVENTS: &str = "--! kind = \"alert\"\n--! key = \"car\"\n--! to = [\"outlier\", \"customer\"]\n\
                         SELECT car, speed FROM signals WHERE speed > 100\n";
const OF_STATES: &str = "--! kind = \"alert\"\n--! key = \"car\"\n--! to = [\"outlier\", \"customer\"]\n\
                         SELECT car, speed FROM car_state WHERE speed > 100\n";

/// The messages of a rule, by key: `(alert id, state)` in their order.
fn by_key(told: &[Value], rule: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let mut by_key: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for told in told.iter().filter(|told| told["rule"] == rule) {
        let of_key = by_key.entry(told["key"].to_string()).or_default();
        of_key.push((text(&told["alert_id"]), text(&told["state"])));
    }
    by_key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn across_kills_each_transition_is_told_once_and_no_episode_has_two_ids() {
    let fleet = Fleet::new().await;
    let project =
        fleet.project.clone().commit_interval("300ms").query("of_events", OF_EVENTS).query("of_states", OF_STATES);
    let drivers = Drivers { fleet: &fleet, sender: fleet.kafka.sender(), episodes: std::cell::Cell::new(0) };
    let points = [
        ("alerts_before_journal", 1),
        ("alerts_after_journal", 3),
        ("alerts_before_journal", 4),
        ("alerts_after_commit", 1),
        ("alerts_before_state", 2),
        ("alerts_after_state", 2),
        ("before_commit", 3),
        ("after_commit", 2),
    ];
    for (point, nth) in points {
        Millpond::until_killed(&project, (point, nth), Duration::from_millis(700), || drivers.drive()).await;
    }
    let millpond = Millpond::serve(&project).await;
    drivers.drive();
    let rows = drivers.episodes.get() * 2 * Drivers::CARS;
    until(&millpond, "SELECT count(*) AS n FROM signals", json!([{"n": rows}])).await;
    until(&millpond, "SELECT count(*) AS n FROM system.alerts_active", json!([{"n": 0}])).await;
    assert_eq!(millpond.stop().await, Some(0));

    let received = fleet.kafka.read(&fleet.outlier);
    let ids: Vec<String> = received.iter().map(|record| record.headers[0].1.clone()).collect();
    let distinct: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(ids.len(), distinct.len(), "a message is in the topic twice");
    let told = fleet.told();
    for rule in ["of_events", "of_states"] {
        for (key, told) in by_key(&told, rule) {
            for episode in told.chunks(2) {
                assert_eq!(episode.len(), 2, "{rule} {key}: {told:?}");
                assert_eq!((&*episode[0].1, &*episode[1].1), ("firing", "resolved"), "{rule} {key}: {told:?}");
                assert_eq!(episode[0].0, episode[1].0, "{rule} {key}: {told:?}");
            }
        }
    }
    // What depends on the records alone is told of each of them, crash or no crash.
    for (key, told) in by_key(&told, "of_events") {
        assert_eq!(told.len() / 2, drivers.episodes.get(), "{key}");
    }
    let logged = python::duckdb(&project.system_table_url("alerts"), "SELECT alert_id, transition FROM t", &[]).await;
    let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
    let mut logged: Vec<String> =
        logged.unwrap().iter().map(|row| format!("{}/{}", text(row, "alert_id"), text(row, "transition"))).collect();
    let mut ids = ids;
    logged.sort();
    ids.sort();
    assert_eq!(logged, ids, "system.alerts has each transition once");
    let posted: BTreeSet<String> = fleet.hook.posted().into_iter().map(|posted| posted.id).collect();
    assert_eq!(posted, ids.into_iter().collect(), "the web server misses none, and saw no other id");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_is_explained_silenced_and_told_together_in_a_storm() {
    let fleet = Fleet::new().await;
    let expected = "--! kind = \"alert\"\n--! key = \"reservation_id\"\n--! absent_for = \"1s\"\n\
                    --! expect = \"SELECT reservation_id FROM reservation WHERE status = 'RENTED'\"\n\
                    SELECT reservation_id FROM reservation__changes\n";
    let storm = "--! kind = \"alert\"\n--! key = \"car\"\n--! storm_limit = \"2/3s\"\n--! to = \"customer\"\n\
                 SELECT car FROM signals WHERE speed > 100\n";
    let project = fleet.project.clone().query("headlights_left_on", HEADLIGHTS).query("storm", storm);
    let millpond = Millpond::serve(&project.query("expected", expected)).await;
    fleet.reserve(7, 1, "RETURNED");
    fleet.reserve(8, 2, "RENTED");
    until(&millpond, "SELECT count(*) AS n FROM reservation", json!([{"n": 2}])).await;
    fleet.signal(1, json!({"lights": true}));
    until(&millpond, "SELECT lights FROM car_state", json!([{"lights": true}])).await;
    let project = millpond.project();
    let url = project.flight_sql();
    let ask = async |arguments: &[&str]| project.run(&[arguments, &["--url", &url]].concat()).await;

    // The speed is not known: nothing is said, and it is told why.
    let explained = ask(&["alert", "explain", "headlights_left_on", "--key", "car=1"]).await;
    let lines: Vec<&str> = explained.stdout.lines().map(str::trim_end).collect();
    assert_eq!(lines[0], "headlights_left_on: look-up join over car_state", "{explained:?}");
    assert!(lines[1].starts_with(r#"row        {"car":1,"#), "{explained:?}");
    assert!(lines.contains(&"TRUE       s.lights") && lines.contains(&"1 found    reservation"), "{explained:?}");
    assert!(lines.contains(&"NULL       s.is_parked"), "{explained:?}");
    assert!(lines.contains(&"state      quiet"), "{explained:?}");

    let silenced = ask(&["alert", "silence", "headlights_left_on", "--key", "car=1", "--for", "1h"]).await;
    assert_eq!(silenced.stdout, "nobody is told of headlights_left_on for 1h\n", "{silenced:?}");
    fleet.signal(1, json!({"speed": 0.0}));
    let active = "SELECT state, silenced_until IS NOT NULL AS silenced FROM system.alerts_active \
                  WHERE rule = 'headlights_left_on'";
    until(&millpond, active, json!([{"state": "firing", "silenced": true}])).await;
    let explained = ask(&["alert", "explain", "headlights_left_on", "--key", "car=1"]).await;
    assert!(explained.stdout.contains(r#"state      firing {"car":1,"reservation_id":7}"#), "{explained:?}");
    let listed = ask(&["alert", "list", "--format", "ndjson"]).await;
    let rules: Vec<Value> = listed.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(rules.iter().any(|row| row["rule"] == "headlights_left_on" && row["state"] == "firing"), "{listed:?}");
    assert!(ask(&["alert", "silence", "headlights_left_on", "--key", "car=1", "--end"]).await.code == Some(0));
    fleet.signal(1, json!({"lights": false}));
    assert_eq!(fleet.until_told(1).await[0]["state"], json!("resolved"), "only the end is told");

    // What is wrong is said.
    let wrong = ask(&["alert", "explain", "headlight_left_on", "--key", "1"]).await;
    assert!(wrong.stderr.contains("did you mean `headlights_left_on`?"), "{wrong:?}");
    let wrong = ask(&["alert", "explain", "headlights_left_on", "--key", "1"]).await;
    assert!(wrong.stderr.contains("`1` is not a part of the key"), "{wrong:?}");

    // Of ten cars that go too fast two are told one by one, the others together.
    let fast = |car: i64| {
        let record = json!({"car": car, "at": Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true), "speed": 150.0});
        (Some(car.to_string().into_bytes()), Some(record.to_string().into_bytes()))
    };
    fleet.kafka.send(&fleet.signals, (10..20).map(fast));
    let posted = wait_until("the storm is told", SOON, async || {
        let posted: Vec<Value> = fleet.hook.posted().into_iter().map(|posted| posted.body).collect();
        let posted: Vec<Value> = posted.into_iter().filter(|body| body["rule"] == "storm").collect();
        (posted.len() == 3).then_some(posted)
    })
    .await;
    let together = posted.iter().find(|body| body["state"] == "storm").unwrap();
    let said = (&together["count"], &together["message"]);
    assert_eq!(said, (&json!(8), &json!("storm: 8 more alerts within 3 s")));
    assert_eq!(together["examples"].as_array().unwrap().len(), 3);
    until(&millpond, "SELECT count(*) AS n FROM system.alerts WHERE rule = 'storm'", json!([{"n": 10}])).await;

    // Who is expected and does not speak is absent; who is not expected is not.
    let silent = "SELECT \"key\", state FROM system.alerts_active WHERE rule = 'expected'";
    wait_until("the reservation that is expected is silent", LATER, async || {
        let rows = millpond.sql(silent).await;
        (rows == [json!({"key": "{\"reservation_id\":8}", "state": "firing"})]).then_some(())
    })
    .await;
}
