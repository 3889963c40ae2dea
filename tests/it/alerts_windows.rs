//! Alerts that look back and alerts of windows, with real Kafka: what they tell is what SQL says of the same rows, over
//! kills, edits and late beginnings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::alerts::{Fleet, until};
use crate::rig::python::Output;
use crate::rig::{Lake, Millpond, Project, Sender, wait_until};

const SOON: Duration = Duration::from_secs(30);

pub(crate) const HEAD: &str = "--! kind = \"alert\"\n--! key = \"car\"\n--! to = \"outlier\"\n";
/// Each with the SQL that says, in the order of time, of which key what holds.
pub(crate) const RULES: &[(&str, &str, &str)] = &[
    (
        "drop",
        "SELECT car, speed, lag(speed) OVER (PARTITION BY car ORDER BY event_time) AS before FROM signals \
         QUALIFY speed < before - 10",
        "SELECT car, speed < lag(speed) OVER (PARTITION BY car ORDER BY event_time) - 10 AS holds, event_time AS at \
         FROM signals ORDER BY at",
    ),
    (
        "restless",
        "SELECT car, count(*) OVER (PARTITION BY car ORDER BY event_time RANGE INTERVAL '1 second' PRECEDING) AS n \
         FROM signals WHERE speed > 50 QUALIFY n >= 3",
        "SELECT car, count(*) OVER (PARTITION BY car ORDER BY event_time RANGE INTERVAL '1 second' PRECEDING) >= 3 \
         AS holds, event_time AS at FROM signals WHERE speed > 50 ORDER BY at",
    ),
    (
        "busy",
        "SELECT car, tumble(event_time, INTERVAL '2 seconds') AS w, avg(speed) AS mean FROM signals \
         GROUP BY car, tumble(event_time, INTERVAL '2 seconds') HAVING avg(speed) > 60",
        "SELECT car, avg(speed) > 60 AS holds, tumble(event_time, INTERVAL '2 seconds') AS at FROM signals \
         GROUP BY car, at ORDER BY at",
    ),
    (
        "trip",
        "SELECT car, session(event_time, INTERVAL '1 second') AS w, count(*) AS n FROM signals \
         GROUP BY car, session(event_time, INTERVAL '1 second') HAVING count(*) > 4",
        "SELECT car, count(*) > 4 AS holds, session(event_time, INTERVAL '1 second') AS at FROM signals \
         GROUP BY car, at ORDER BY at",
    ),
];

/// Cars that speak now and then.
pub(crate) struct Cars<'a> {
    pub fleet: &'a Fleet,
    pub sender: Sender,
    pub said: std::cell::Cell<usize>,
}

impl Cars<'_> {
    pub const COUNT: usize = 4;

    pub fn speak(&self) {
        let said = self.said.get();
        let record = |car: usize| {
            let speed = ((said * 37 + car * 61) * 2_654_435_761 % 1_000_003 % 120) as f64;
            let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
            let record = json!({"car": car, "at": at, "speed": speed});
            (Some(car.to_string().into_bytes()), Some(record.to_string().into_bytes()))
        };
        // Not all of them all the time.
        let speaking = (0..Self::COUNT).filter(|car| !(said / 7 + car).is_multiple_of(3));
        self.sender.send(&self.fleet.signals, speaking.map(record));
        self.said.set(said + 1);
    }
}

/// What a rule tells of each key if these are said of it, in their order: whether an alert fires, and each time that
/// changes.
pub(crate) fn expected(said: &[Value]) -> BTreeMap<String, Vec<bool>> {
    let mut told: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for said in said {
        let of_key = told.entry(json!({"car": said["car"]}).to_string()).or_default();
        if let Some(holds) = said["holds"].as_bool()
            && of_key.last().copied().unwrap_or(false) != holds
        {
            of_key.push(holds);
        }
    }
    told.retain(|_, told| !told.is_empty());
    told
}

pub(crate) fn told(messages: &[Value], rule: &str) -> BTreeMap<String, Vec<bool>> {
    let mut told: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    for message in messages.iter().filter(|message| message["rule"] == rule) {
        told.entry(message["key"].to_string()).or_default().push(message["state"] == "firing");
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn across_kills_windows_and_look_back_tell_what_sql_says_of_the_same_rows() {
    let fleet = Fleet::new().await;
    let mut project = fleet.project.clone().commit_interval("300ms");
    for (name, sql, _) in RULES {
        project = project.query(name, &format!("{HEAD}{sql}\n"));
    }
    let cars = Cars { fleet: &fleet, sender: fleet.kafka.sender(), said: std::cell::Cell::new(0) };
    for (point, nth) in [("alerts_before_state", 2), ("alerts_after_state", 2), ("alerts_after_journal", 5)] {
        Millpond::until_killed(&project, (point, nth), Duration::from_millis(150), || cars.speak()).await;
    }
    let millpond = Millpond::serve(&project).await;
    let classes = "SELECT query_name, class FROM system.queries ORDER BY query_name";
    let class = |name: &str, class: &str| json!({"query_name": name, "class": class});
    let all = [
        class("busy", "window"),
        class("drop", "look-back"),
        class("restless", "sliding frame"),
        class("trip", "window"),
    ];
    until(&millpond, classes, json!(all)).await;
    for (rule, _, sql) in RULES {
        wait_until(&format!("{rule} has told all"), SOON, async || {
            let expected = expected(&millpond.sql(sql).await);
            (told(&fleet.told(), rule) == expected).then_some(())
        })
        .await;
    }
    let messages = fleet.told();
    let ids: BTreeSet<String> = messages.iter().map(|told| format!("{} {}", told["alert_id"], told["state"])).collect();
    assert_eq!(ids.len(), messages.len(), "each is told once");
    assert!(messages.len() > 20, "{}", messages.len());
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_rule_knows_what_was_before_it_and_an_edited_one_goes_on() {
    let fleet = Fleet::new().await;
    let millpond = Millpond::serve(&fleet.project).await;
    fleet.signal(1, json!({"speed": 90.0}));
    until(&millpond, "SELECT count(*) AS n FROM signals", json!([{"n": 1}])).await;
    let rule = |drop: i64| {
        let sql = RULES[0].1.replace("before - 10", &format!("before - {drop}"));
        format!("{HEAD}{sql}\n")
    };
    let project = millpond.project();
    project.write_query("drop", &rule(10));
    wait_until("the rule has read history", SOON, async || {
        millpond.process().log().contains("the rule has what it looks back at").then_some(())
    })
    .await;
    fleet.signal(1, json!({"speed": 40.0}));
    let until_told = async |count: usize| {
        wait_until(&format!("{count} messages"), SOON, async || {
            let told = fleet.told();
            (told.len() >= count).then_some(told)
        })
        .await
    };
    let told = until_told(1).await;
    assert_eq!((&told[0]["state"], &told[0]["values"]["before"]), (&json!("firing"), &json!(90.0)));

    // Another threshold: what was looked at stays, and no history is read again.
    project.write_query("drop", &rule(1));
    let hash = format!(
        "SELECT count(*) AS n FROM system.queries WHERE state = 'running' AND rule_hash <> '{}'",
        told[0]["rule_hash"].as_str().unwrap()
    );
    until(&millpond, &hash, json!([{"n": 1}])).await;
    fleet.signal(1, json!({"speed": 41.0}));
    fleet.signal(1, json!({"speed": 38.0}));
    let told = until_told(3).await;
    assert_eq!((&told[1]["state"], &told[2]["state"]), (&json!("resolved"), &json!("firing")));
    assert_eq!(told[2]["values"]["before"], json!(41.0));
    let read = millpond.process().log().matches("the rule has what it looks back at").count();
    assert_eq!(read, 1, "history was read once");

    let url = project.flight_sql();
    let explained = project.run(&["alert", "explain", "drop", "--key", "1", "--url", &url]).await;
    assert!(explained.stdout.contains("drop: look-back over signals"), "{explained:?}");
    let lines: Vec<&str> = explained.stdout.lines().map(str::trim_end).collect();
    let condition = lines.iter().find(|line| line.contains("signals.speed < lag(signals.speed)"));
    assert!(condition.is_some_and(|line| line.starts_with("TRUE")), "{explained:?}");

    // A window that is edited while it is open begins anew, from history: the first row is in it.
    let window = |size: &str| {
        let sql = format!(
            "SELECT car, tumble(event_time, INTERVAL '{size}') AS w, count(*) AS n FROM signals \
             GROUP BY car, tumble(event_time, INTERVAL '{size}') HAVING count(*) >= 5"
        );
        format!("{HEAD}{sql}\n")
    };
    let class = "SELECT count(*) AS n FROM system.queries WHERE query_name = 'five' AND kept_rows = 1";
    project.write_query("five", &window("10000 days"));
    until(&millpond, class, json!([{"n": 1}])).await;
    fleet.signal(1, json!({"speed": 30.0}));
    let now = Utc::now().timestamp();
    // It ends in some seconds.
    let size = now + 8 - (now + 8) % 2;
    project.write_query("five", &window(&format!("{size} seconds")));
    let told = until_told(4).await;
    assert_eq!((&told[3]["rule"], &told[3]["values"]["n"]), (&json!("five"), &json!(5)), "{:#}", told[3]);

    // What cannot be said of a window is said at once.
    project.write_query(
        "pairs",
        &format!("{HEAD}SELECT car, lights, count(*) AS n FROM signals GROUP BY car, lights, tumble(event_time, INTERVAL '1 second')\n"),
    );
    let error = "SELECT error FROM system.queries WHERE query_name = 'pairs'";
    until(&millpond, error, json!([{"error": "key: the windows are grouped by lights, which is not among car"}])).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_tested_with_rows_that_one_writes_down() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["check", "--tests", "--project", env!("CARGO_MANIFEST_DIR")]);
    let demo = Output::of(command).await;
    assert_eq!(demo.code, Some(0), "{}", demo.stdout);
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("queries")).unwrap();
    let files = files.filter(|file| file.as_ref().unwrap().path().to_str().unwrap().ends_with(".test.toml"));
    assert!(files.count() >= 6 && demo.stdout.contains("tests of rules passed"), "{}", demo.stdout);

    let project = Project::new("127.0.0.1:9", Lake::Local).events("signals", "signals", "key = [\"car\"]\n");
    let project = project.query("drop", &format!("{HEAD}{}\n", RULES[0].1).replace("--! to = \"outlier\"\n", ""));
    let file = project.dir().join("queries/drop.test.toml");
    let checked = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = project.run(&["check", "--tests"]).await;
        (output.code, output.stdout)
    };
    let rows = "rows = [{ at = \"0s\", car = 1, speed = 90.0 }, { at = \"7s\", car = 1, speed = 40 }]\n";
    let one = |more: &str| format!("stream = \"signals\"\n[[test]]\nname = \"one\"\n{rows}{more}");
    let told = "expect = [{ at = \"7s\", state = \"firing\", car = 1, before = 90 }]\n";
    let (code, said) = checked(&one(told)).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 test of a rule passed"), "{said}");
    for (text, expected) in [
        (one(""), "one: expected\n  nothing\nbut it tells\n  at 7s firing"),
        (one(&told.replace("7s", "8s")), "one: expected\n  at 8s firing car = 1"),
        (one(&told.replace("firing", "fires")), "what is expected says no state"),
        (one(&told.replace("expect", "expects")), "drop.test.toml:5:1: unknown field `expects`"),
        (one(told).replace("\"signals\"", "\"other\""), "table `signals` does not exist"),
        (one(told).replace("speed", "pace"), "column `speed` does not exist"),
        (one(told).replace("\"7s\"", "\"soon\""), "soon"),
        ("[[test]]\nname = \"one\"\nrows = []\n".to_owned(), "missing field `stream`"),
    ] {
        let (code, said) = checked(&text).await;
        assert_eq!(code, Some(2), "{text}{said}");
        assert!(said.contains(expected), "{text}: {said}");
    }
}
