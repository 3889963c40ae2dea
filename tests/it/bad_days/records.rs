//! Records of every bad kind: each becomes rows, a dead letter or a counted skip, and its neighbours live.

use serde_json::{Value, json};

use super::{ROWS, SOON, assert_for_people, assert_says, committed, numbered, project_on, until_rows, until_sql};
use crate::rig::{Kafka, Ledger, Millpond, Sent, wait_until};

/// What must become of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Rows(usize),
    Dead(&'static str),
    Skip,
}
use Fate::{Dead, Rows, Skip};

const LARGE: usize = 10_000_000;

/// A payload of each kind, and what must become of it.
fn zoo() -> Vec<(Option<Vec<u8>>, Fate)> {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let bomb = |open: &str, close: &str| text(&format!("{}1{}", open.repeat(100_000), close.repeat(100_000)));
    vec![
        (text(r#"{"id": 1, "n": 7}"#), Rows(1)),
        (text("not JSON at all"), Dead("not_json")),
        (text(r#"{"id": 2, "n": "#), Dead("not_json")),
        (text(""), Dead("not_json")),
        (Some(b"{\"id\": 3, \"name\": \"\xff\xfe\"}".to_vec()), Dead("not_utf8")),
        (None, Skip),
        (text(&format!(r#"{{"id": 4, "blob": "{}"}}"#, "x".repeat(LARGE))), Rows(1)),
        (text(r#"[{"id": 5, "n": 50}, {"id": 6}, {"id": 7, "n": 70}]"#), Rows(3)),
        (text(r#"[{"id": 8}, 9]"#), Dead("not_an_object")),
        (text("[]"), Skip),
        (text("42"), Dead("not_an_object")),
        (text(r#""words""#), Dead("not_an_object")),
        (text("null"), Dead("not_an_object")),
        (bomb("[", "]"), Dead("too_deep")),
        (bomb("{\"a\":", "}"), Dead("too_deep")),
        (text(r#"{"id": 10, "n": "twelve"}"#), Rows(1)),
        (text(r#"{"id": 11, "n": 110}"#), Rows(1)),
    ]
}

#[tokio::test]
async fn invariant_3_nothing_is_dropped_silently() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("zoo", 1).await;
    let zoo = zoo();
    let mut sent = kafka.send(&topic, zoo.iter().map(|(payload, _)| (Some(b"the key".to_vec()), payload.clone())));
    sent.sort_by_key(|sent| sent.offset);
    let of = |wanted: fn(&Fate) -> bool| zoo.iter().filter(|(_, fate)| wanted(fate)).count() as i64;
    let rows: usize = zoo.iter().map(|(_, fate)| if let Rows(rows) = fate { *rows } else { 0 }).sum();
    let (rows, kept) = (rows as i64, of(|fate| matches!(fate, Rows(_))));
    let (dead, skipped) = (of(|fate| matches!(fate, Dead(_))), of(|fate| *fate == Skip));

    let columns = "on_type_conflict = \"rescue\"\n[columns.n]\npath = \"n\"\ntype = \"bigint\"";
    let project = project_on(&topic).await.events("events", &topic, columns);
    let millpond = Millpond::serve(&project).await;
    until_rows(&millpond, rows).await;
    until_sql(&millpond, "SELECT count(*) AS n FROM system.dead_letters", dead).await;
    until_sql(&millpond, "SELECT sum(hot_rows) AS n FROM system.ingest", 0).await;

    // The law: every record is rows, a dead letter or a skip.
    let counted = millpond
        .sql("SELECT sum(records) AS records, sum(rows) AS rows, sum(dead_letters) AS dead, sum(skipped) AS skipped FROM system.ingest")
        .await;
    assert_eq!(counted, [json!({"records": zoo.len(), "rows": rows, "dead": dead, "skipped": skipped})]);
    assert_eq!(zoo.len() as i64, kept + dead + skipped);
    for (name, value) in [("records", zoo.len() as i64), ("rows", rows), ("dead_letters", dead), ("skipped", skipped)] {
        let name = format!("millpond_ingest_{name}_total");
        assert_eq!(millpond.metric(&name, &["table=\"events\""]).await, Some(value as f64), "{name}");
    }

    each_met_its_fate(&millpond, &zoo, &sent).await;
    let shown = millpond.sql("SELECT reason, message FROM system.dead_letters ORDER BY _offset").await;
    for letter in &shown {
        assert_says(&letter.to_string(), &["reason", "message"]);
        assert!(letter["message"].as_str().unwrap().len() < 300, "{letter}");
    }

    // A misfit keeps its row, and the value: nothing else of it is null.
    let misfit = millpond.sql("SELECT n, _rescued FROM events WHERE id = 10").await;
    assert!(misfit[0]["n"].is_null(), "{misfit:?}");
    assert!(misfit[0]["_rescued"].as_str().unwrap().contains("\"twelve\""), "{misfit:?}");
    until_sql(&millpond, "SELECT length(blob) AS n FROM events WHERE id = 4", LARGE as i64).await;
    let array = millpond.sql("SELECT id, n, _row FROM events WHERE id BETWEEN 5 AND 7 ORDER BY _row").await;
    assert_eq!(
        array,
        [
            json!({"id": 5, "n": 50, "_row": 0}),
            json!({"id": 6, "n": null, "_row": 1}),
            json!({"id": 7, "n": 70, "_row": 2})
        ]
    );
    assert_for_people(&millpond.process().log());

    // The stream lives on, and all of it is in the lake without the server, too.
    kafka.send(&topic, numbered(100..101));
    until_rows(&millpond, rows + 1).await;
    assert_eq!(millpond.stop().await, Some(0));
    let count = "SELECT (SELECT count(*) FROM events) AS rows, (SELECT count(*) FROM system.dead_letters) AS dead";
    assert_eq!(committed(&project, count).await, [json!({"rows": rows + 1, "dead": dead})]);
}

/// Looks each record up by its offset.
async fn each_met_its_fate(millpond: &Millpond, zoo: &[(Option<Vec<u8>>, Fate)], sent: &[Sent]) {
    let rows = millpond.sql("SELECT _offset, count(*) AS n FROM events GROUP BY _offset").await;
    let letters = millpond
        .sql("SELECT _offset, reason, table_name, encode(key, 'hex') AS key, encode(payload, 'hex') AS payload FROM system.dead_letters")
        .await;
    for ((payload, fate), sent) in zoo.iter().zip(sent) {
        assert_eq!(payload, &sent.payload, "in the order they were sent");
        let at = |row: &&Value| row["_offset"] == sent.offset;
        let made = rows.iter().find(at).map_or(0, |row| row["n"].as_i64().unwrap());
        let letter = letters.iter().find(at);
        let what: String = String::from_utf8_lossy(payload.as_deref().unwrap_or_default()).chars().take(40).collect();
        match fate {
            Rows(expected) => assert!(made == *expected as i64 && letter.is_none(), "{what}: {made} rows, {letter:?}"),
            Skip => assert!(made == 0 && letter.is_none(), "{what}: {made} rows, {letter:?}"),
            Dead(reason) => {
                let letter = letter.unwrap_or_else(|| panic!("{what}: no dead letter"));
                assert_eq!((made, &letter["reason"], &letter["table_name"]), (0, &json!(reason), &json!("events")));
                assert!(letter["key"] == hex(b"the key"), "{what}: kept whole");
                assert!(letter["payload"] == hex(payload.as_deref().unwrap()), "{what}: kept whole");
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn invariant_5_a_schema_change_never_stops_a_stream() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("change", 2).await;
    let project = project_on(&topic).await;
    let millpond = Millpond::serve(&project).await;
    let mut ledger = Ledger::default();
    let record = |text: String| (Some(text.clone().into_bytes()), Some(text.into_bytes()));
    ledger.add(kafka.send(&topic, (0..1_000).map(|id| record(format!("{{\"id\": {id}, \"speed\": {id}}}")))));
    until_rows(&millpond, 1_000).await;

    // Each batch brings a new field, a type that does not fit, a renamed branch, a deeper one.
    let mut rows = 1_000;
    for batch in 0..10 {
        let odd = move |id: i64| match id % 4 {
            0 => format!("{{\"id\": {id}, \"speed\": {id}, \"field_{batch}\": {{\"deep\": {{\"er\": {batch}.5}}}}}}"),
            1 => format!("{{\"id\": {id}, \"speed\": \"fast {batch}\"}}"),
            2 => format!("{{\"id\": {id}, \"speed\": [{id}, {{\"a\": 1}}]}}"),
            _ => format!("{{\"id\": {id}, \"speed\": {id}}}"),
        };
        ledger.add(kafka.send(&topic, (rows..rows + 100).map(|id| record(odd(id)))));
        rows += 100;
        until_rows(&millpond, rows).await;
        assert_eq!(millpond.get("/readyz").await.unwrap().0, 200, "batch {batch}");
        let column = format!("SELECT count(field_{batch}_deep_er) AS n FROM events WHERE id >= 1000");
        until_sql(&millpond, &column, 25).await;
    }
    let lost = "SELECT count(*) AS n FROM events WHERE speed IS NULL AND _rescued IS NULL";
    assert_eq!(millpond.sql(lost).await, [json!({"n": 0})], "a value is in its column or rescued");
    assert_eq!(millpond.sql("SELECT count(*) AS n FROM system.dead_letters").await, [json!({"n": 0})]);
    let log = wait_until("all is announced", SOON, async || {
        let log = millpond.process().log();
        (0..10).all(|batch| log.contains(&format!("path=field_{batch}.deep.er"))).then_some(log)
    })
    .await;
    assert_says(&log, &["new field", "sample"]);
    until_sql(&millpond, "SELECT sum(hot_rows) AS n FROM system.ingest", 0).await;
    assert_eq!(millpond.stop().await, Some(0));
    ledger.assert_exact(&project.table_url("events"), None).await;

    // A later start knows the columns and goes on.
    let again = Millpond::serve(&project).await;
    kafka.send(
        &topic,
        [record(format!("{{\"id\": {rows}, \"speed\": 1, \"field_0\": {{\"deep\": {{\"er\": 0.5}}}}}}"))],
    );
    wait_until("the row is there", ROWS, async || {
        (again.number("SELECT count(field_0_deep_er) AS n FROM events").await == Some(26)).then_some(())
    })
    .await;
    assert_eq!(again.stop().await, Some(0));
}

/// A topic on which nothing is a record: the other topic's rows go on, each noise is kept and counted, and what comes in
/// between does not stop it either.
#[tokio::test]
async fn a_topic_of_pure_noise_beside_a_good_one() {
    const NOISE: usize = 60_000;
    let kafka = Kafka::shared().await;
    let (good, noisy) = (kafka.topic("good", 1).await, kafka.topic("noisy", 2).await);
    let project = project_on(&good).await.events("noise", &noisy, "").commit_interval("1s");
    let millpond = Millpond::serve(&project).await;
    kafka.send(&good, numbered(0..1_000));
    until_rows(&millpond, 1_000).await;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        // xorshift: no byte means anything, and a first byte that could begin an object is taken away.
        let bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        });
        std::iter::once(0xff).chain(bytes.take(40)).collect::<Vec<u8>>()
    };
    for part in 0..6 {
        kafka.send(&noisy, (0..NOISE / 6).map(|_| (None, Some(noise()))));
        kafka.send(&good, numbered(1_000 + part * 100..1_100 + part * 100));
        // With noise before, behind and beside them.
        until_rows(&millpond, 1_100 + part * 100).await;
    }
    let counted = "SELECT sum(dead_letters) AS n FROM system.ingest WHERE table_name = 'noise'";
    until_sql(&millpond, counted, NOISE as i64).await;
    until_sql(&millpond, "SELECT count(*) AS n FROM system.dead_letters WHERE table_name = 'noise'", NOISE as i64)
        .await;
    let kept = "SELECT count(DISTINCT payload) AS n FROM system.dead_letters WHERE reason = 'not_utf8'";
    assert_eq!(millpond.number(kept).await, Some(NOISE as i64));
    assert_eq!(millpond.number("SELECT count(*) AS n FROM noise").await, Some(0));
    // It learns the first good record's columns all the same.
    kafka.send(&noisy, numbered(7..8));
    until_sql(&millpond, "SELECT max(id) AS n FROM noise", 7).await;
    assert_eq!(millpond.stop().await, Some(0));
}
