//! Tables that queries make anew: when they are due, when somebody asks, over kills and edits.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Hook, Kafka, Lake, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// Fail points of runs.
pub const POINTS: [&str; 2] = ["query_run_after_stage", "query_run_after_commit"];

/// What each car did on a day, with its plate as it was.
fn daily(head: &str) -> String {
    format!(
        "--! kind = \"table\"\n--! partition_by = \"day\"\n{head}\
         WITH known AS (SELECT car, plate, event_time AS since, \
         lead(event_time) OVER (PARTITION BY car ORDER BY event_time, _offset) AS until FROM plates)\n\
         SELECT t._day AS day, t.car, k.plate, count(*) AS n, sum(t.km) AS km FROM trips t \
         LEFT JOIN known k ON k.car = t.car AND k.since <= t.event_time AND (k.until IS NULL OR t.event_time < k.until) \
         GROUP BY t._day, t.car, k.plate\n"
    )
}

struct Fleet {
    kafka: &'static Kafka,
    trips: String,
    plates: String,
    sent: i64,
}

impl Fleet {
    /// A trip on the day so many days ago, at a minute of it.
    async fn trip(&mut self, millpond: &Millpond, days_ago: i64, minute: u32, km: i64) {
        let trip = json!({"car": "a", "at": at(days_ago, minute), "km": km}).to_string();
        self.send(millpond, "trips", &trip, days_ago).await;
    }

    async fn send(&mut self, millpond: &Millpond, table: &str, record: &str, days_ago: i64) {
        let topic = if table == "trips" { &self.trips } else { &self.plates };
        let at = chrono::Utc::now() - chrono::TimeDelta::days(days_ago);
        let record = (None, Some(record.as_bytes().to_vec()));
        self.kafka.sender().send_at(topic, [(Some(at.timestamp_millis()), record)]);
        self.sent += 1;
        let committed = "SELECT sum(committed_position) FROM system.ingest WHERE table_name IN ('trips', 'plates')";
        wait_until("it is committed", SOON, async || {
            (millpond.number(committed).await == Some(self.sent)).then_some(())
        })
        .await;
    }
}

fn at(days_ago: i64, minute: u32) -> String {
    let day = chrono::Utc::now().date_naive() - chrono::TimeDelta::days(days_ago);
    format!("{day}T00:{minute:02}:00Z")
}

async fn run(project: &Project, arguments: &[&str]) -> String {
    let said = project.run(arguments).await;
    assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.stdout, said.stderr);
    said.stdout
}

/// What other readers find of the table.
async fn read(project: &Project) -> Vec<Value> {
    let sql = "SELECT plate, CAST(sum(n) AS BIGINT) AS n, CAST(sum(km) AS BIGINT) AS km FROM t GROUP BY 1 ORDER BY 1";
    python::duckdb(&project.table_url("daily"), sql, &[]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_made_anew_by_the_days_that_changed_over_kills_and_edits() {
    let kafka = Kafka::shared().await;
    let (trips, plates) = (kafka.topic("trips", 1).await, kafka.topic("plates", 1).await);
    let hook = Hook::open().await;
    let time = "key = [\"car\"]\ntime = { path = \"at\", format = \"rfc3339\" }\n";
    let news = format!(
        "[sinks.ops]\ntype = \"webhook\"\nurl = \"{}\"\n[[notify]]\non = [\"schedule_failed\"]\nto = [\"ops\"]\n",
        hook.url()
    );
    let project = Project::new(kafka.brokers(), Lake::Local)
        .events("trips", &trips, time)
        .events("plates", &plates, time)
        .query("daily", &daily(""))
        .toml(&news)
        .commit_interval("50ms");
    let check = run(&project, &["check"]).await;
    assert!(check.contains("table daily: "), "{check}");
    let mut fleet = Fleet { kafka, trips, plates, sent: 0 };
    let millpond = Millpond::serve(&project).await;
    let early = project.run(&["query", "run", "dayly"]).await;
    assert_eq!(early.stderr, "error: there is no query of kind table `dayly`\n  hint: there are: daily\n");
    for (days_ago, plate) in [(3, "old"), (1, "new")] {
        let plate = json!({"car": "a", "at": at(days_ago, 10), "plate": plate}).to_string();
        fleet.send(&millpond, "plates", &plate, days_ago).await;
    }
    for (days_ago, minute) in [(3, 5), (3, 15), (2, 20), (1, 5), (1, 15), (0, 0)] {
        fleet.trip(&millpond, days_ago, minute, 1).await;
    }
    // As it was: without a plate, then the old one, then the new one.
    let first = run(&project, &["query", "run", "daily"]).await;
    assert!(first.starts_with("daily: made anew, all of it: 6 rows, "), "{first}");
    let row = |plate: Value, n: i64| json!({"plate": plate, "n": n, "km": n});
    assert_eq!(read(&project).await, [row(json!("new"), 2), row(json!("old"), 3), row(Value::Null, 1)]);
    assert_eq!(run(&project, &["query", "run", "daily"]).await, "daily: nothing changed since it was made\n");

    // Killed in the middle, it is made anew by the next run, of the days that changed.
    let mut millpond = millpond;
    for (at, point) in POINTS.into_iter().enumerate() {
        fleet.trip(&millpond, 2, 30, 1).await;
        assert_eq!(millpond.stop().await, Some(0));
        let killed = project.clone().failpoint(point, 1).run(&["query", "run", "daily"]).await;
        assert_eq!(killed.code, None, "{point}: {}", killed.stdout);
        millpond = Millpond::serve(&project).await;
        let said = run(&project, &["query", "run", "daily"]).await;
        match point {
            "query_run_after_stage" => assert!(said.contains(": 1 rows, "), "{said}"),
            _ => assert_eq!(said, "daily: nothing changed since it was made\n"),
        }
        let n = 4 + at as i64;
        assert_eq!(read(&project).await[1], row(json!("old"), n), "{point}");
    }
    // Late rows, and what is asked for.
    fleet.trip(&millpond, 3, 50, 1).await;
    let day = at(3, 0)[..10].to_owned();
    let said = run(&project, &["query", "run", "daily", "--from", &day, "--to", &day]).await;
    assert!(said.starts_with(&format!("daily: made anew, {day}: 2 rows, ")), "{said}");
    let said = run(&project, &["query", "run", "daily"]).await;
    assert!(said.starts_with(&format!("daily: made anew, {day}: 2 rows, ")), "{said}");
    let wrong = project.run(&["query", "run", "daily", "--from", "May"]).await;
    assert!(wrong.stderr.starts_with("error: `May` is no day"), "{}", wrong.stderr);

    // By itself from now on; rows that come while it runs are in the next run.
    project.write_query("daily", &daily("--! every = \"1s\"\n"));
    let by_itself = "SELECT count(*) FROM system.query_runs WHERE asked_by = 'schedule' AND state = 'succeeded'";
    for _ in 0..5 {
        fleet.trip(&millpond, 0, 0, 1).await;
    }
    wait_until("runs by itself", SOON, async || (millpond.number(by_itself).await >= Some(1)).then_some(())).await;
    let all = "SELECT CAST(sum(n) AS BIGINT) FROM daily";
    wait_until("all rows", SOON, async || (millpond.number(all).await == Some(14)).then_some(())).await;
    let same = "SELECT count(*) FROM (SELECT car, plate, n FROM daily EXCEPT SELECT car, plate, n FROM \
                (SELECT car, plate, sum(n) AS n FROM daily GROUP BY day, car, plate))";
    assert_eq!(millpond.number(same).await, Some(0));

    // A run that fails three times is news, the rows stay, and it says when it is over.
    project.write_query("daily", &daily("--! every = \"1s\"\n").replace("sum(t.km)", "sum(1 / (t.km - 1))"));
    let told = async |state: &str| {
        wait_until(state, SOON, async || {
            let posted = hook.posted();
            posted.iter().any(|posted| posted.body["state"] == state).then_some(())
        })
        .await;
    };
    told("begun").await;
    let failed = "SELECT state, error FROM system.queries WHERE query_name = 'daily'";
    wait_until("it says why", SOON, async || {
        let row = millpond.sql(failed).await.remove(0);
        row["error"].as_str().is_some_and(|error| error.contains("division by zero")).then_some(())
    })
    .await;
    assert_eq!(millpond.number(all).await, Some(14));
    project.write_query("daily", &daily("--! every = \"1s\"\n"));
    told("over").await;
    let shown = run(&project, &["query", "show", "daily"]).await;
    assert!(shown.contains("failed"), "{shown}");
    let listed = run(&project, &["query", "list"]).await;
    assert!(listed.contains("daily") && listed.contains("incremental"), "{listed}");
    assert_eq!(millpond.stop().await, Some(0));
    assert_eq!(read(&project).await, [row(json!("new"), 7), row(json!("old"), 6), row(Value::Null, 1)]);
}
