//! Mirrors: the current rows of a database's table, from the changes that Debezium and DMS send.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

/// A table's first rows may wait ten seconds for more; and both processors may be busy.
const SOON: Duration = Duration::from_secs(60);

const DMS: &str = include_str!("../fixtures/dms-fleet.jsonl");
const DEBEZIUM: &str = include_str!("../fixtures/debezium-postgres.txt");

/// Waits until a statement gives these rows. A table that is not there yet, or still loads, gives none.
async fn until(millpond: &Millpond, sql: &str, rows: &[Value]) {
    let what = format!("{sql} = {}", Value::from(rows.to_vec()));
    wait_until(&what, SOON, async || {
        let url = millpond.project().flight_sql();
        let output = millpond.project().run(&["sql", "--url", &url, "--format", "ndjson", "-c", sql]).await;
        let found: Vec<Value> = output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (output.code == Some(0) && found == rows).then_some(())
    })
    .await;
}

/// Key and value of the messages that Debezium sent to `topic`.
fn recorded(topic: &str) -> Vec<(Option<String>, Option<String>)> {
    let blocks = DEBEZIUM.split("\n\n").filter(|block| block.lines().any(|line| line == format!("DEST {topic}")));
    blocks
        .map(|block| {
            let part = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let known = |name: &str| part(name).filter(|text| *text != "null").map(str::to_owned);
            (known("KEY"), known("VAL"))
        })
        .collect()
}

fn send(kafka: &Kafka, topic: &str, messages: &[(Option<String>, Option<String>)]) {
    let bytes = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
    kafka.send(topic, messages.iter().map(|(key, value)| (bytes(key), bytes(value))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_holds_what_the_database_holds_through_restarts() {
    let kafka = Kafka::shared().await;
    let (cars, devices) = (kafka.topic("carinfo", 1).await, kafka.topic("deviceinfo", 1).await);
    let mirror = |topic: &str, key: &str, more: &str| {
        format!("kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"debezium-json\"\nkey = [\"{key}\"]\n{more}\n")
    };
    let types = "columns.price = { type = \"double\", scale = 2 }\ncolumns.odo.type = \"double\"\ncolumns.reg_date.type = \"date\"";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .schema("carinfo", &mirror(&cars, "car_id", types))
        .schema("deviceinfo", &mirror(&devices, "device_id", ""));
    let millpond = Millpond::serve(&project).await;
    let (all_cars, all_devices) = (recorded("fleet.public.carinfo"), recorded("fleet.public.deviceinfo"));
    send(kafka, &cars, &all_cars);
    send(kafka, &devices, &all_devices);

    let rows = "SELECT car_id, plate, model, price, odo, reg_date, color FROM carinfo ORDER BY car_id";
    // What the database held at the end: car 3 had become 33 and was deleted.
    let expected = [
        json!({"car_id": 1, "plate": "12가3456", "model": "K7", "price": 99999999.99, "odo": 9.5, "reg_date": "2026-01-02", "color": null}),
        json!({"car_id": 2, "plate": "34나7890", "model": "EV9", "price": null, "odo": null, "reg_date": null, "color": "red"}),
    ];
    until(&millpond, rows, &expected).await;
    // The devices' table was emptied in the end.
    until(&millpond, "SELECT count(*) AS n FROM deviceinfo__changes WHERE _op = 't'", &[json!({"n": 1})]).await;
    until(&millpond, "SELECT count(*) AS n FROM deviceinfo", &[json!({"n": 0})]).await;
    assert_eq!(
        millpond.sql("SELECT plate FROM carinfo WHERE car_id = 2").await,
        [json!({"plate": "34나7890"})],
        "by key"
    );
    assert_eq!(millpond.number("SELECT count(*) AS n FROM carinfo WHERE car_id IN (1, 3, 33)").await, Some(1));
    let (status, car) = millpond.get("/v1/latest/carinfo/1").await.unwrap();
    let car: Value = serde_json::from_str(&car).unwrap();
    assert_eq!((status, &car["model"]), (200, &json!("K7")));
    assert_eq!(millpond.get("/v1/latest/carinfo/33").await.map(|(status, _)| status), Some(404));
    let kinds = "SELECT table_name, kind FROM system.tables ORDER BY table_name";
    assert_eq!(
        millpond.sql(kinds).await,
        [
            ("carinfo", "mirror"),
            ("carinfo__changes", "changes"),
            ("deviceinfo", "mirror"),
            ("deviceinfo__changes", "changes")
        ]
        .map(|(name, kind)| json!({"table_name": name, "kind": kind}))
    );
    let ops = "SELECT string_agg(_op, '' ORDER BY _offset) AS ops FROM carinfo__changes";
    until(&millpond, ops, &[json!({"ops": "rrcudxcuuudx"})]).await;
    assert_eq!(millpond.number("SELECT count(*) AS n FROM system.dead_letters").await, Some(0));

    // After a kill, from what is committed and what Kafka still has; the same messages again change nothing.
    millpond.kill();
    let millpond = Millpond::serve(&project).await;
    until(&millpond, rows, &expected).await;
    send(kafka, &cars, &all_cars[..8]);
    until(&millpond, "SELECT count(*) AS n FROM carinfo__changes", &[json!({"n": 20})]).await;
    until(&millpond, rows, &expected).await;
    let change = |op: &str, lsn: i64, after: Value| {
        let source = json!({"connector": "postgresql", "name": "fleet", "lsn": lsn, "sequence": format!("[\"{lsn}\",\"{lsn}\"]")});
        let id = after["car_id"].clone();
        (
            Some(json!({"car_id": id}).to_string()),
            Some(json!({"op": op, "before": null, "after": after, "source": source}).to_string()),
        )
    };
    send(
        kafka,
        &cars,
        &[
            change(
                "u",
                30_000_000,
                json!({"car_id": 2, "plate": "new", "model": "EV9", "big": "__debezium_unavailable_value"}),
            ),
            change("u", 29_000_000, json!({"car_id": 2, "plate": "late", "model": "EV9"})),
        ],
    );
    until(&millpond, "SELECT plate FROM carinfo WHERE car_id = 2", &[json!({"plate": "new"})]).await;

    // Whoever sent a record may wait for it, and for what it did.
    let url = project.flight_sql();
    let wait = async |record: &str, sql: &str| {
        std::fs::write(project.dir().join("wait.sql"), format!("SET wait_for = '{record}';\n{sql};\n")).unwrap();
        project.run(&["sql", "--url", &url, "--format", "csv", "-f", "wait.sql"]).await
    };
    for number in 0..10 {
        let row = json!({"car_id": 9, "plate": format!("plate {number}"), "model": "EV9"});
        send(kafka, &cars, &[change("u", 40_000_000 + number, row)]);
        let last = kafka.ends(&cars)[0] - 1;
        let output = wait(&format!("{cars}:0:{last}"), "SELECT plate FROM carinfo WHERE car_id = 9").await;
        assert_eq!(output.stdout.lines().last(), Some(&*format!("plate {number}")), "{}", output.stderr);
    }
    let output = wait("nowhere:0:1", "SELECT 1").await;
    assert!(output.stderr.contains("no table is fed by the topic nowhere"), "{}", output.stderr);
    assert_eq!(millpond.stop().await, Some(0));

    // Without a server the rows are read from the lake.
    let sql = "SELECT plate FROM carinfo WHERE car_id = 2";
    let output = project.run(&["sql", "--project", ".", "--format", "csv", "-c", sql]).await;
    assert_eq!(output.stdout.trim(), "plate\nnew", "{}", output.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_of_a_dms_task_share_a_topic() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("dms", 1).await;
    let mirror = |table: &str| {
        format!(
            "kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"dms-json\"\nkey = [\"car_id\"]\nmatch = {{ \"metadata.table-name\" = \"{table}\" }}\n"
        )
    };
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .schema("carinfo", &(mirror("carinfo") + "columns.price.type = \"double\"\n"))
        .schema("reservation", &mirror("reservation"));
    let millpond = Millpond::serve(&project).await;
    let mut lines: Vec<&str> = DMS.lines().collect();
    let reservation = r#"{"data":{"car_id":1,"status":"RETURNED"},"metadata":{"timestamp":"2026-11-20T00:57:35Z","record-type":"data","operation":"insert","table-name":"reservation"}}"#;
    lines.push(reservation);
    kafka.send_text(&topic, lines.iter().copied());
    let rows = "SELECT car_id, plate_no, model, price FROM carinfo ORDER BY car_id";
    let expected = [
        json!({"car_id": 1, "plate_no": "12가3456", "model": "K7", "price": 12345.67}),
        json!({"car_id": 33, "plate_no": "56다1111", "model": "EV6", "price": 99999999.99}),
    ];
    until(&millpond, rows, &expected).await;
    until(&millpond, "SELECT car_id, status FROM reservation", &[json!({"car_id": 1, "status": "RETURNED"})]).await;
    let joined = "SELECT c.model, r.status FROM carinfo c JOIN reservation r USING (car_id)";
    assert_eq!(millpond.sql(joined).await, [json!({"model": "K7", "status": "RETURNED"})]);
    // Each message is one of the two tables' or skipped; control records are of no table.
    let counted = "SELECT table_name, records, rows, skipped, dead_letters FROM system.ingest ORDER BY table_name";
    assert_eq!(
        millpond.sql(counted).await,
        [("carinfo__changes", 6, 4), ("reservation__changes", 1, 9)].map(|(name, rows, skipped)| {
            json!({"table_name": name, "records": 10, "rows": rows, "skipped": skipped, "dead_letters": 0})
        })
    );

    // The table is loaded anew, because changes were missed: what was told before is older, whenever it comes.
    let message = |operation: &str, made: &str, model: &str| {
        format!(
            r#"{{"data":{{"car_id":1,"plate_no":"x","model":"{model}"}},"metadata":{{"timestamp":"{made}","record-type":"data","operation":"{operation}","table-name":"carinfo"}}}}"#
        )
    };
    let again = [message("load", "2026-11-21T00:00:00Z", "K9"), message("update", "2026-11-20T12:00:00Z", "late")];
    kafka.send_text(&topic, again.iter().map(String::as_str));
    until(&millpond, "SELECT count(*) AS n FROM carinfo__changes WHERE model = 'late'", &[json!({"n": 1})]).await;
    until(&millpond, "SELECT model FROM carinfo WHERE car_id = 1", &[json!({"model": "K9"})]).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_row_per_car_from_two_databases_tables_and_its_signals() {
    let kafka = Kafka::shared().await;
    let (cars, devices, signals) =
        (kafka.topic("cars", 1).await, kafka.topic("devices", 1).await, kafka.topic("signals", 2).await);
    let mirror = |topic: &str, key: &str| {
        format!("kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"debezium-json\"\nkey = [\"{key}\"]\n")
    };
    let state = r#"
kind = "latest"
key = ["car_id"]
[sources.cars]
on_delete = "drop_row"
[sources.devices]
prefix = "device_"
columns = ["fw"]
[sources.signals]
key = { car_id = "car" }
merge = "last_non_null"
columns = ["lights", "left_open", "right_open"]
[columns.all_closed]
sql = "NOT (left_open OR right_open)"
"#;
    let fleet = r#"
kind = "latest"
key = ["car_id"]
[sources.cars]
[sources.devices]
cardinality = "list"
columns = ["fw"]
"#;
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .schema("fleet", fleet)
        .schema("cars", &mirror(&cars, "car_id"))
        .schema("devices", &mirror(&devices, "device_id"))
        .events("signals", &signals, "key = [\"car\"]")
        .schema("car_state", state);
    let check = project.run(&["check", "--project", "."]).await;
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
    let millpond = Millpond::serve(&project).await;
    let mut lsn = 0;
    let mut change = |op: &str, row: Value, key: &str| {
        lsn += 1;
        let source =
            json!({"connector": "postgresql", "name": "fleet", "lsn": lsn, "ts_ms": 1_795_380_335_000_i64 + lsn});
        let (before, after) = if op == "d" { (row.clone(), Value::Null) } else { (Value::Null, row.clone()) };
        let key = json!({key: row[key]}).to_string();
        (Some(key), Some(json!({"op": op, "before": before, "after": after, "source": source}).to_string()))
    };
    send(
        kafka,
        &cars,
        &[
            change("r", json!({"car_id": 1, "plate": "A"}), "car_id"),
            change("r", json!({"car_id": 2, "plate": "B"}), "car_id"),
        ],
    );
    send(
        kafka,
        &devices,
        &[
            change("r", json!({"device_id": 10, "car_id": 1, "fw": "1.0"}), "device_id"),
            change("r", json!({"device_id": 30, "car_id": 3, "fw": "3.0"}), "device_id"),
            change("r", json!({"device_id": 29, "car_id": 3, "fw": "2.9"}), "device_id"),
            change("r", json!({"device_id": 30, "car_id": 3, "fw": "3.1"}), "device_id"),
        ],
    );
    kafka.send_text(
        &signals,
        [
            r#"{"car":1,"lights":true,"left_open":false}"#,
            r#"{"car":1,"right_open":false}"#,
            r#"{"car":2,"left_open":true}"#,
        ],
    );
    let rows = "SELECT car_id, plate, device_fw, lights, all_closed FROM car_state ORDER BY car_id";
    let row = |car: i64, plate: Option<&str>, fw: Option<&str>, lights: Option<bool>, closed: Option<bool>| json!({"car_id": car, "plate": plate, "device_fw": fw, "lights": lights, "all_closed": closed});
    // A device may be there before its car; what is not known stays unknown.
    let expected = [
        row(1, Some("A"), Some("1.0"), Some(true), Some(true)),
        row(2, Some("B"), None, None, Some(false)),
        row(3, None, Some("3.1"), None, None),
    ];
    let list = "SELECT car_id, plate, devices FROM fleet ORDER BY car_id";
    let listed = |car: i64, plate: Option<&str>, devices: Option<&str>| json!({"car_id": car, "plate": plate, "devices": devices});
    let two = Some(r#"[{"device_id":29,"fw":"2.9"},{"device_id":30,"fw":"3.1"}]"#);
    let one = |fw: &str| format!(r#"[{{"device_id":10,"fw":"{fw}"}}]"#);
    let lists = [listed(1, Some("A"), Some(&one("1.0"))), listed(2, Some("B"), None), listed(3, None, two)];
    until(&millpond, list, &lists).await;
    until(&millpond, rows, &expected).await;
    let by_key = "SELECT plate, all_closed FROM car_state WHERE car_id = 1";
    assert_eq!(millpond.sql(by_key).await, [json!({"plate": "A", "all_closed": true})]);
    let (status, car) = millpond.get("/v1/latest/car_state/1").await.unwrap();
    let car: Value = serde_json::from_str(&car).unwrap();
    assert_eq!((status, &car["all_closed"], &car["device_fw"]), (200, &json!(true), &json!("1.0")));
    assert_eq!(car.get("device_device_id"), None, "only the columns that were named");

    // The device moves to car 2, car 1 is deleted, and still sends.
    send(kafka, &devices, &[change("u", json!({"device_id": 10, "car_id": 2, "fw": "1.1"}), "device_id")]);
    send(kafka, &cars, &[change("d", json!({"car_id": 1}), "car_id")]);
    kafka.send_text(&signals, [r#"{"car":1,"lights":false}"#, r#"{"car":2,"lights":false}"#]);
    let lists = [listed(2, Some("B"), Some(&one("1.1"))), listed(3, None, two)];
    until(&millpond, list, &lists).await;
    python::until_duckdb(&project.table_url("fleet"), "SELECT car_id, plate, devices FROM t ORDER BY car_id", &lists)
        .await;
    let expected = [row(2, Some("B"), Some("1.1"), Some(false), Some(false)), row(3, None, Some("3.1"), None, None)];
    until(&millpond, rows, &expected).await;
    let kinds = "SELECT table_name FROM system.tables WHERE kind = 'latest' ORDER BY table_name";
    assert_eq!(millpond.sql(kinds).await, [json!({"table_name": "car_state"}), json!({"table_name": "fleet"})]);

    // The file is edited while it runs; a mistake changes nothing.
    let edited = state.replace("device_", "unit_");
    let _ = project.clone().schema("car_state", &edited);
    until(&millpond, "SELECT unit_fw FROM car_state WHERE car_id = 2", &[json!({"unit_fw": "1.1"})]).await;
    millpond.kill();
    let millpond = Millpond::serve(&project).await;
    until(&millpond, "SELECT unit_fw FROM car_state WHERE car_id = 2", &[json!({"unit_fw": "1.1"})]).await;
    until(&millpond, list, &lists).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_exceed_the_memory_are_given_up_with_the_way_out_and_the_changes_stay() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("big", 1).await;
    let mirror = format!("kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"dms-json\"\nkey = [\"id\"]\n");
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .toml("[limits]\nmemory = \"192MiB\"")
        .schema("big", &mirror);
    let millpond = Millpond::serve(&project).await;
    let pad = "x".repeat(600);
    let text = |id: usize| {
        format!(
            r#"{{"data":{{"id":{id},"pad":"{pad}{id}"}},"metadata":{{"record-type":"data","operation":"insert"}}}}"#
        )
    };
    let texts: Vec<String> = (0..30_000).map(text).collect();
    kafka.send_text(&topic, texts.iter().map(String::as_str));
    let told = "a share of limits.memory in millpond.toml";
    wait_until("the mirror is given up", SOON, async || {
        let (status, reasons) = millpond.get("/readyz").await?;
        (status == 503 && reasons.contains("table big: stopped") && reasons.contains(told)).then_some(())
    })
    .await;
    let url = project.flight_sql();
    let output = project.run(&["sql", "--url", &url, "-c", "SELECT count(*) FROM big"]).await;
    assert_eq!((output.code, output.stderr.contains(told)), (Some(1), true), "{}", output.stderr);
    until(&millpond, "SELECT count(*) AS n FROM big__changes", &[json!({"n": 30_000})]).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_comes_holds_nobody_up() {
    let kafka = Kafka::shared().await;
    let cars = kafka.topic("cars", 1).await;
    let mirror = |topic: &str, key: &str| {
        format!("kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"dms-json\"\nkey = [\"{key}\"]\n")
    };
    let state = "kind = \"latest\"\nkey = [\"car_id\"]\n[sources.cars]\n[sources.devices]\nprefix = \"device_\"\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .schema("cars", &mirror(&cars, "car_id"))
        .schema("devices", &mirror(&Kafka::name("never"), "device_id"))
        .schema("car_state", state);
    // It is not ready as long as a topic is missing.
    let millpond = Millpond::start(&project);
    let car = |id: i64| {
        json!({"data": {"car_id": id, "plate": "x"}, "metadata": {"record-type": "data", "operation": "load"}})
            .to_string()
    };
    kafka.send_text(&cars, [car(1), car(2)].iter().map(String::as_str));
    let rows = [json!({"car_id": 1, "plate": "x"}), json!({"car_id": 2, "plate": "x"})];
    until(&millpond, "SELECT car_id, plate FROM car_state ORDER BY car_id", &rows).await;
    python::until_duckdb(&project.table_url("car_state"), "SELECT car_id, plate FROM t ORDER BY car_id", &rows).await;
    wait_until("it is told", SOON, async || {
        let (status, reasons) = millpond.get("/readyz").await?;
        (status == 503 && reasons.contains("never")).then_some(())
    })
    .await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_a_dead_letter_and_no_row() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("cars", 1).await;
    let mirror = format!("kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"dms-json\"\nkey = [\"car_id\"]\n");
    let project = Project::new(kafka.brokers(), Lake::Local).commit_interval("200ms").schema("cars", &mirror);
    let change = |operation: &str, id: Value, plate: &str| {
        json!({"data": {"car_id": id, "plate": plate}, "metadata": {"record-type": "data", "operation": operation}})
            .to_string()
    };
    let millpond = Millpond::serve(&project).await;
    let first = [change("load", json!(1), "a"), change("load", json!(2), "b")];
    kafka.send_text(&topic, first.iter().map(String::as_str));
    let rows = "SELECT car_id, plate FROM cars ORDER BY car_id";
    let row = |id: i64, plate: &str| json!({"car_id": id, "plate": plate});
    until(&millpond, rows, &[row(1, "a"), row(2, "b")]).await;
    let then = [change("insert", json!("K-3"), "c"), change("delete", json!(1), ""), change("update", json!(2), "d")];
    kafka.send_text(&topic, then.iter().map(String::as_str));
    until(&millpond, rows, &[row(2, "d")]).await;
    let told = "SELECT count(*) AS n FROM system.dead_letters WHERE message LIKE '%car_id%K-3%'";
    until(&millpond, told, &[json!({"n": 1})]).await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_column_becomes_text_goes_on_as_text() {
    let kafka = Kafka::shared().await;
    let signals = kafka.topic("signals", 1).await;
    let state = "kind = \"latest\"\nkey = [\"tag\"]\n[sources.signals]\ncolumns = [\"n\"]\n";
    let project = Project::new(kafka.brokers(), Lake::Local)
        .commit_interval("200ms")
        .events("signals", &signals, "key = [\"n\"]\non_type_conflict = \"string\"")
        .schema("by_tag", state);
    let millpond = Millpond::serve(&project).await;
    let rows = |table: &str| format!("SELECT tag, n FROM {table} ORDER BY tag");
    kafka.send_text(&signals, [r#"{"n":1,"tag":7}"#, r#"{"n":2,"tag":8}"#]);
    let before = [json!({"tag": 7, "n": 1}), json!({"tag": 8, "n": 2})];
    until(&millpond, &rows("by_tag"), &before).await;
    python::until_duckdb(&project.table_url("by_tag"), &rows("t"), &before).await;
    kafka.send_text(&signals, [r#"{"n":3,"tag":"A-9"}"#, r#"{"n":4,"tag":7}"#]);
    let after = [json!({"tag": "7", "n": 4}), json!({"tag": "8", "n": 2}), json!({"tag": "A-9", "n": 3})];
    until(&millpond, &rows("by_tag"), &after).await;
    python::until_duckdb(&project.table_url("by_tag"), &rows("t"), &after).await;
    assert_eq!(millpond.stop().await, Some(0));
    let millpond = Millpond::serve(&project).await;
    until(&millpond, &rows("by_tag"), &after).await;
    assert_eq!(millpond.stop().await, Some(0));
}
