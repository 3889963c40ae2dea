//! News and delivery with the real thing: a broker, a mail server with and without encryption, a web server, a crash.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use serde_json::{Value, json};

use crate::rig::{Hook, Kafka, Lake, Millpond, Minio, Posted, Project, Smtp, certificate, wait_until};

// A web server runs beside each test, and clients of Kafka block the thread they are on: so two threads.

/// Everything that takes no time on a good day.
const SOON: Duration = Duration::from_secs(30);
/// A table's first rows may wait ten seconds for more; and both processors may be busy.
const ROWS: Duration = Duration::from_secs(90);
/// Records that make a table decide on its columns at once.
const WINDOW: i64 = 1_000;

fn numbered(ids: std::ops::Range<i64>) -> impl Iterator<Item = (Option<Vec<u8>>, Option<Vec<u8>>)> {
    ids.map(|id| (None, Some(format!("{{\"id\": {id}}}").into_bytes())))
}

async fn until_rows(millpond: &Millpond, rows: i64) {
    let query = "SELECT count(*) AS n FROM events";
    wait_until(&format!("{rows} rows"), ROWS, async || (millpond.number(query).await == Some(rows)).then_some(()))
        .await;
}

/// A project with the table `events`, fed by a topic of `partitions` partitions.
async fn project(partitions: i32) -> (Project, String) {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("news", partitions).await;
    (Project::new(kafka.brokers(), Lake::Local).events("events", &topic, ""), topic)
}

fn webhook(hook: &Hook) -> String {
    format!("[sinks.ops]\ntype = \"webhook\"\nurl = \"{}\"\nsecret = \"hush\"\n", hook.url())
}

const TELL_OPS: &str = "[[notify]]\nto = [\"ops\"]\n";

/// The messages of one kind.
fn of_event(hook: &Hook, event: &str) -> Vec<Posted> {
    hook.posted().into_iter().filter(|posted| posted.body["event"] == event).collect()
}

async fn until_told(hook: &Hook, event: &str, count: usize) -> Vec<Posted> {
    wait_until(&format!("{count} times {event}"), SOON, async || {
        let told = of_event(hook, event);
        (told.len() >= count).then_some(told)
    })
    .await
}

/// From the moment a record with a new field is sent to the moment a web server has the news, in milliseconds.
async fn latency(millpond: &Millpond, topic: &str, hook: &Hook) -> (Posted, u128) {
    let kafka = Kafka::shared().await;
    let sender = kafka.sender();
    until_rows(millpond, WINDOW).await;
    let sent = SystemTime::now();
    sender.send(topic, [(None, Some(br#"{"id": -1, "tire": {"pressureFl": 2.4}}"#.to_vec()))]);
    let told = until_told(hook, "schema_change", 1).await.remove(0);
    let millis = told.at.duration_since(sent).unwrap().as_millis();
    (told, millis)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_is_told_once_with_what_changed() {
    let (project, topic) = project(1).await;
    let kafka = Kafka::shared().await;
    let hook = Hook::open().await;
    let project = project.toml(&webhook(&hook)).toml(TELL_OPS);
    kafka.send(&topic, numbered(0..WINDOW));
    let millpond = Millpond::serve(&project).await;
    let (told, millis) = latency(&millpond, &topic, &hook).await;
    println!("news latency: {millis} ms from the send to Kafka to the web server");

    let place = json!({"topic": topic, "partition": 0, "offset": WINDOW});
    let change = json!({
        "change": "add", "column": "tire_pressure_fl", "type": "double", "path": "tire.pressureFl",
        "first": place, "sample": "2.4",
    });
    let expected = [
        ("table", json!("events")),
        ("schema_version", json!({"before": 1, "after": 2})),
        ("changes", json!([change])),
        ("first", place),
        ("sample", json!("2.4")),
        ("rows", json!(WINDOW)),
        ("message", json!("events: new column tire_pressure_fl (double) (schema version 2)")),
    ];
    for (field, value) in expected {
        assert_eq!(told.body[field], value, "{field}");
    }
    assert_eq!(told.id, "schema_change/events/1-2");
    assert!(told.headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));

    // Later rows of the same form are no news; the stream flows on; and what was told can be read.
    kafka.send(&topic, (0..100).map(|_| (None, Some(br#"{"id": 1, "tire": {"pressureFl": 2.5}}"#.to_vec()))));
    until_rows(&millpond, WINDOW + 101).await;
    let news = millpond.sql("SELECT event, subject, id FROM system.news").await;
    assert_eq!(news, [json!({"event": "schema_change", "subject": "events", "id": told.id})]);
    let sinks = "SELECT sink_name, type, pending, delivered, refused, dropped, failing_since FROM system.sinks";
    let ops = json!({
        "sink_name": "ops", "type": "webhook", "pending": 0, "delivered": 1, "refused": 0, "dropped": 0,
        "failing_since": null,
    });
    assert_eq!(millpond.sql(sinks).await, [ops]);
    assert_eq!(of_event(&hook, "schema_change").len(), 1);
    let log = millpond.process().log();
    assert!(log.contains("news") && log.contains("tire_pressure_fl"), "{log}");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_of_garbage_is_told_once_a_minute_and_counted() {
    let (project, topic) = project(2).await;
    let kafka = Kafka::shared().await;
    let hook = Hook::open().await;
    let project = project.toml(&webhook(&hook)).toml("[[notify]]\non = [\"dead_letter\"]\nto = [\"ops\"]\n");
    kafka.send(&topic, numbered(0..WINDOW));
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, WINDOW).await;
    let sender = kafka.sender();
    for _ in 0..20 {
        sender.send(&topic, std::iter::repeat_n((None, Some(b"noise".to_vec())), 250));
    }
    let dead = "SELECT sum(dead_letters) AS n FROM system.ingest";
    wait_until("all are counted", ROWS, async || (millpond.number(dead).await == Some(5_000)).then_some(())).await;
    let told = until_told(&hook, "dead_letter", 1).await;
    assert_eq!((told.len(), &told[0].body["reason"]), (1, &json!("not_json")), "{told:?}");
    // The rest of the minute is told at the stop, and nothing is uncounted.
    assert_eq!(millpond.stop().await, Some(0));
    let told = of_event(&hook, "dead_letter");
    let counted: i64 = told.iter().map(|told| told.body["count"].as_i64().unwrap()).sum();
    assert!(told.len() <= 3 && counted == 5_000, "{told:?}");
}

/// Kafka, a mail server with encryption and a user, one without, and a folder: each gets the same message once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_sink_is_told() {
    let (project, topic) = project(1).await;
    let kafka = Kafka::shared().await;
    let told_topic = kafka.topic("told", 1).await;
    let (authority, key) = certificate();
    let (authority, key) = (authority.to_str().unwrap(), key.to_str().unwrap());
    let plain = Smtp::start(&[]).await;
    let starttls = Smtp::start(&["--starttls", "--certificate", authority, key, "--user", "me", "hush"]).await;
    let tls = Smtp::start(&["--tls", "--certificate", authority, key]).await;
    let mail =
        "from = \"Millpond <millpond@example.com>\"\nrecipients = [\"ops@example.com\", \"차 <car@example.com>\"]";
    let sinks = format!(
        "[sinks.topic]\ntype = \"kafka\"\ntopic = \"{told_topic}\"\n\
         [sinks.plain]\ntype = \"email\"\nsmtp = \"smtp://{}\"\n{mail}\n\
         [sinks.starttls]\ntype = \"email\"\nsmtp = \"smtp://{}\"\nuser = \"me\"\npassword = \"${{SMTP_PASSWORD}}\"\n{mail}\n\
         [sinks.tls]\ntype = \"email\"\nsmtp = \"smtps://{}\"\n{mail}\nsubject = \"{{table}}\"\nbody = \".{{message}}\"\n\
         [sinks.folder]\ntype = \"email\"\nsmtp = \"file:./outbox\"\n{mail}\n\
         [[notify]]\non = [\"schema_change\"]\ntables = [\"ev*\"]\nto = [\"topic\", \"plain\", \"starttls\", \"tls\", \"folder\"]\n\
         [[notify]]\non = [\"lake_stalled\"]\nto = [\"topic\"]\n",
        plain.address(),
        starttls.address(),
        tls.address()
    );
    let project = project.toml(&sinks).env("SMTP_PASSWORD", "hush").env("SSL_CERT_FILE", authority);
    kafka.send(&topic, numbered(0..WINDOW));
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, WINDOW).await;
    kafka.send_text(&topic, [r#"{"id": 1, "speed": 7}"#]);
    let delivered = "SELECT count(*) AS n FROM system.sinks WHERE delivered = 1 AND pending = 0";
    wait_until("all sinks have it", SOON, async || (millpond.number(delivered).await == Some(5)).then_some(())).await;

    const ID: &str = "schema_change/events/1-2";
    let sentence = "events: new column speed (bigint) (schema version 2)";
    let records = kafka.read(&told_topic);
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].key.as_str(), &records[0].headers),
        ("events", &vec![("Idempotency-Key".into(), ID.into())])
    );
    let payload: Value = serde_json::from_str(&records[0].payload).unwrap();
    assert_eq!((&payload["message"], &payload["rows"]), (&json!(sentence), &json!(WINDOW)));

    let mut ids = Vec::new();
    for (server, encrypted, user) in [(&plain, false, None), (&starttls, true, Some("me")), (&tls, true, None)] {
        let mails = server.mails();
        assert_eq!(mails.len(), 1, "{mails:?}");
        let mail = &mails[0];
        assert_eq!((&mail["encrypted"], &mail["user"]), (&json!(encrypted), &json!(user)));
        assert_eq!(mail["from"], "millpond@example.com");
        assert_eq!(mail["to"], json!(["ops@example.com", "car@example.com"]));
        let text = mail["text"].as_str().unwrap();
        ids.push(text.lines().find(|line| line.starts_with("Message-ID: ")).unwrap().to_owned());
    }
    assert!(plain.mails()[0]["text"].as_str().unwrap().contains(&format!("Subject: {sentence}")));
    let text = tls.mails()[0]["text"].as_str().unwrap().replace("\r\n", "\n");
    assert!(text.contains("Subject: events\n") && text.contains(&format!("\n.{sentence}")), "a dot stays: {text}");
    let files: Vec<_> = std::fs::read_dir(project.dir().join("outbox")).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 1);
    let file = std::fs::read_to_string(files[0].path()).unwrap();
    ids.push(file.lines().find(|line| line.starts_with("Message-ID: ")).unwrap().to_owned());
    ids.dedup();
    assert_eq!(ids.len(), 1, "one message, one id: {ids:?}");
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_can_be_tried_before_something_happens() {
    let (project, _) = project(1).await;
    let kafka = Kafka::shared().await;
    let told_topic = kafka.topic("tried", 1).await;
    let (hook, closed, smtp) = (Hook::open().await, Hook::closed(), Smtp::start(&[]).await);
    let mail = format!("type = \"email\"\nsmtp = \"smtp://{}\"\nfrom = \"millpond@example.com\"", smtp.address());
    let project = project.toml(&webhook(&hook)).toml(&format!(
        "[sinks.away]\ntype = \"webhook\"\nurl = \"{}\"\n[sinks.topic]\ntype = \"kafka\"\ntopic = \"{told_topic}\"\n\
         [sinks.customer]\n{mail}\nrecipients = \"{{email}}\"\n",
        closed.url()
    ));
    let check = project.run(&["check"]).await;
    assert!(check.stdout.contains("sink ops: webhook http://127.0.0.1:"), "{}", check.stdout);
    let nobody = ["sink", "test", "customer", "--with", "email=nobody@example.com"];
    let later = ["sink", "test", "customer", "--with", "email=later@example.com"];
    let both = ["sink", "test", "customer", "--with", "email=a@example.com, b@example.com"];
    let fine = ["sink", "test", "customer", "--with", "email=kim@example.com"];
    for (command, code, says) in [
        (&["sink", "test", "ops"][..], 0, "ops: webhook http://127.0.0.1:"),
        (&["sink", "test", "topic"], 0, "topic: kafka topic tried-"),
        (&fine, 0, "delivered in"),
        (&["sink", "test", "away"], 1, "it would be tried again"),
        (&["sink", "test", "away"], 1, "Connection refused"),
        (&["sink", "test", "customer"], 1, "refused for good"),
        (&["sink", "test", "customer"], 1, "no value for {email}"),
        (&nobody, 1, "550 5.1.1 no such user"),
        (&later, 1, "it would be tried again"),
        (&both, 1, "is not one mail address"),
        (&["sink", "test", "op"], 2, "did you mean `ops`?"),
        (&["sink", "test", "ops", "--with", "x"], 2, "is not name=value"),
    ] {
        let output = project.run(command).await;
        let said = format!("{}{}", output.stdout, output.stderr);
        println!("{command:?}: {said}");
        assert_eq!(output.code, Some(code), "{command:?}: {said}");
        assert!(said.contains(says), "not a word of `{says}`: {said}");
        assert!(!said.contains("panicked") && !said.contains("hush"), "{said}");
    }
    assert_eq!(hook.posted().len(), 1);
    assert_eq!(kafka.read(&told_topic).len(), 1);
    assert_eq!(smtp.mails().len(), 1);
}

/// A sink that is away slows nothing, and its messages outlive a kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_sink_slows_nothing_and_gets_its_messages_after_a_kill() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let topic = kafka.topic("dead", 2).await;
    let mut hook = Hook::closed();
    let project = Project::new(kafka.brokers(), Lake::on(minio, BUCKET)).events("events", &topic, "");
    let project = project.toml(&webhook(&hook)).toml(TELL_OPS);
    kafka.send(&topic, numbered(0..WINDOW));
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, WINDOW).await;

    let sender = kafka.sender();
    let began = SystemTime::now();
    sender.send(&topic, numbered(0..10_000));
    until_rows(&millpond, WINDOW + 10_000).await;
    let alone = began.elapsed().unwrap().as_millis();
    kafka.send_text(&topic, [r#"{"id": 1, "speed": 7}"#, "noise"]);
    let failing = "SELECT count(failing_since) AS n FROM system.sinks";
    wait_until("the sink fails", SOON, async || (millpond.number(failing).await == Some(1)).then_some(())).await;
    let began = SystemTime::now();
    sender.send(&topic, numbered(0..10_000));
    until_rows(&millpond, WINDOW + 20_001).await;
    let beside = began.elapsed().unwrap().as_millis();
    println!("10,000 rows: {alone} ms before the sink failed, {beside} ms beside the dead sink");
    let stored = "SELECT stored AS n FROM system.sinks WHERE failing_since IS NOT NULL";
    wait_until("both messages are kept", SOON, async || (millpond.number(stored).await == Some(2)).then_some(())).await;
    millpond.kill();
    assert_eq!(backlog(minio).await, 2);

    hook.listen().await;
    let millpond = Millpond::serve(&project).await;
    let changes = until_told(&hook, "schema_change", 1).await;
    assert_eq!(changes[0].id, "schema_change/events/1-2");
    until_told(&hook, "dead_letter", 1).await;
    let waiting = "SELECT pending + stored AS n FROM system.sinks";
    wait_until("nothing is left", SOON, async || (millpond.number(waiting).await == Some(0)).then_some(())).await;
    assert_eq!(millpond.stop().await, Some(0));
    assert_eq!(backlog(minio).await, 0);
}

const BUCKET: &str = "dead-sink";

/// Messages that the lake keeps for the sink.
async fn backlog(minio: &Minio) -> usize {
    let store = minio.store(BUCKET);
    let listed = store.list(Some(&"lake/_millpond/deliver/ops".into())).try_collect::<Vec<_>>().await;
    listed.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_read_is_news() {
    let kafka = Kafka::start().await;
    let topic = kafka.topic("quiet", 1).await;
    let hook = Hook::open().await;
    let project = Project::new(kafka.brokers(), Lake::Local).events("events", &topic, "");
    let project = project.toml(&webhook(&hook)).toml("[[notify]]\ntables = [\"events\"]\nto = [\"ops\"]\n");
    kafka.send(&topic, numbered(0..WINDOW));
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, WINDOW).await;
    kafka.stop();
    let told = wait_until("it is told", ROWS, async || of_event(&hook, "source_stalled").pop()).await;
    assert_eq!((&told.body["topic"], &told.body["tables"]), (&json!(topic), &json!(["events"])));
    assert_eq!(told.body["state"], "begun");
    millpond.kill();
}
