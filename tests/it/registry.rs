//! Avro and Protobuf topics with a real schema registry: what other writers wrote is what other readers read, and a
//! registry that is away costs time and nothing else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, Registry, python, wait_until};

/// A table's first rows may wait ten seconds for more; and both processors may be busy.
const ROWS: Duration = Duration::from_secs(60);
/// Records that make a table decide on its columns at once.
const WINDOW: usize = 1_000;

/// A payload in Confluent's wire format.
fn wire(id: u32, body: &[u8]) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    (None, Some([&[0], &id.to_be_bytes()[..], body].concat()))
}

/// The table `trips` fed by `topic` in `format`.
fn project(kafka: &Kafka, registry: &Registry, topic: &str, format: &str) -> Project {
    Project::new(kafka.brokers(), Lake::Local)
        .toml(&format!("[kafka.schema_registry]\nurl = \"{}\"", registry.url()))
        .schema("trips", &format!("kind = \"events\"\ntopic = \"{topic}\"\nformat = \"{format}\"\n"))
}

async fn until_sql(millpond: &Millpond, query: &str, number: i64) {
    let what = format!("{query} = {number}");
    wait_until(&what, ROWS, async || (millpond.number(query).await == Some(number)).then_some(())).await;
}

async fn until_committed(millpond: &Millpond, rows: usize) {
    until_sql(millpond, "SELECT count(*) AS n FROM trips", rows as i64).await;
    until_sql(millpond, "SELECT coalesce(sum(hot_rows), 0) AS n FROM system.ingest", 0).await;
}

/// Waits until `/readyz` says no and names all `words`.
async fn until_not_ready(millpond: &Millpond, words: &[&str]) {
    wait_until(&format!("/readyz says {words:?}"), ROWS, async || {
        let (status, text) = millpond.get("/readyz").await?;
        (status == 503 && words.iter().all(|word| text.contains(word))).then_some(())
    })
    .await;
}

/// Key and payload.
type Pair = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Trips as fastavro writes them: schemas of the registry, payloads, and the rows that must come of them.
struct Trips {
    ids: [u32; 2],
    payloads: Vec<Pair>,
    rows: Vec<Value>,
}

async fn trips(registry: &Registry, count: usize) -> Trips {
    let output = python::run("avro_trips.py", &[&count.to_string()], &[]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let mut lines = output.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let schemas = lines.next().unwrap();
    let schema = |at: usize| schemas[at].as_str().unwrap();
    registry.register("fleet.geo.Place", "AVRO", schema(0), &[]).await;
    let place = [("fleet.geo.Place", "fleet.geo.Place")];
    let ids = [
        registry.register("trips-value", "AVRO", schema(1), &place).await,
        registry.register("trips-value", "AVRO", schema(2), &place).await,
    ];
    let (mut payloads, mut rows) = (Vec::new(), Vec::new());
    for line in lines {
        let hex = line["body"].as_str().unwrap();
        let body: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        payloads.push(wire(ids[line["version"].as_u64().unwrap() as usize], &body));
        rows.push(line["row"].clone());
    }
    Trips { ids, payloads, rows }
}

#[tokio::test]
async fn avro_of_several_writers_is_read_by_duckdb_as_fastavro_wrote_it() {
    let kafka = Kafka::shared().await;
    let registry = Registry::start().await;
    let topic = kafka.topic("trips", 1).await;
    let trips = trips(&registry, 2 * WINDOW).await;
    let (first, both) = trips.payloads.split_at(WINDOW);
    kafka.send(&topic, first.to_vec());
    let project = project(kafka, &registry, &topic, "avro");
    let millpond = Millpond::serve(&project).await;
    until_committed(&millpond, WINDOW).await;
    kafka.send(&topic, both.to_vec());
    until_committed(&millpond, trips.rows.len()).await;
    until_sql(&millpond, "SELECT count(*) AS n FROM system.dead_letters", 0).await;

    let columns = "trip_id, number, km, state, epoch_us(started_at) AS started_us, CAST(day AS VARCHAR) AS day, price, paid, \
                   raw, from_lat, from_lon, to_lat, to_lon, codes, never, driver";
    let sql = format!("SELECT {columns} FROM t ORDER BY _offset");
    let found = python::duckdb(&project.table_url("trips"), &sql, &[]).await.unwrap();
    assert_eq!(found.len(), trips.rows.len());
    for (found, expected) in found.iter().zip(&trips.rows) {
        assert_eq!(found, expected);
    }
    // A field that never had a value has its declared type.
    let types = millpond.sql("SELECT column_name, type FROM system.columns WHERE column_name IN ('never', 'from_lon', 'started_at', 'day') ORDER BY 1").await;
    let of = |name: &str, kind: &str| json!({"column_name": name, "type": kind});
    assert_eq!(
        types,
        [of("day", "date"), of("from_lon", "double"), of("never", "double"), of("started_at", "timestamp")]
    );
    let rescued = millpond.sql("SELECT count(_rescued) AS n, max(_schema_version) AS v FROM trips").await;
    assert_eq!(rescued, [json!({"n": 0, "v": 2})], "the second writer's field made the second version");
}

#[tokio::test]
async fn a_registry_that_is_away_pauses_the_table_and_nothing_else() {
    let kafka = Kafka::shared().await;
    let registry = Registry::start().await;
    let topic = kafka.topic("trips", 1).await;
    let Trips { payloads, rows, ids } = trips(&registry, 2 * WINDOW).await;
    assert_ne!(ids[0], ids[1]);
    let (first, rest) = payloads.split_at(WINDOW);
    kafka.send(&topic, first.to_vec());
    let project = project(kafka, &registry, &topic, "avro");
    let millpond = Millpond::serve(&project).await;
    until_committed(&millpond, WINDOW).await;

    registry.stop();
    kafka.send(&topic, rest.to_vec());
    until_not_ready(&millpond, &["table trips: waiting for schemas: ", "schema registry", "cannot be reached"]).await;
    let status = millpond.sql("SELECT state, error, dead_letters FROM system.ingest").await;
    assert_eq!(status[0]["state"], json!("waiting for schemas"), "{status:?}");
    assert!(status[0]["error"].as_str().unwrap().contains(&registry.url()), "{status:?}");
    assert_eq!(millpond.process().log().matches("waiting for a schema").count(), 1, "said once");

    // A restart in the meantime begins where the table stands, and waits again.
    assert_eq!(millpond.stop().await, Some(0), "a table that waits does not hold up the stop");
    let millpond = Millpond::start(&project);
    until_not_ready(&millpond, &["waiting for schemas"]).await;

    registry.restart().await;
    until_committed(&millpond, rows.len()).await;
    millpond.ready().await;
    until_sql(&millpond, "SELECT count(DISTINCT trip_id) AS n FROM trips", rows.len() as i64).await;
    until_sql(&millpond, "SELECT count(*) AS n FROM system.dead_letters", 0).await;
}

#[tokio::test]
async fn what_is_not_avro_is_a_dead_letter_that_says_why() {
    let kafka = Kafka::shared().await;
    let registry = Registry::start().await;
    let topic = kafka.topic("mixed", 1).await;
    let id = registry
        .register("n-value", "AVRO", r#"{"type":"record","name":"N","fields":[{"name":"n","type":"long"}]}"#, &[])
        .await;
    let other = registry.register("p-value", "PROTOBUF", "syntax = \"proto3\"; message P { int32 n = 1; }", &[]).await;
    let bad = [
        ((None, Some(b"{\"n\": 1}".to_vec())), "not_avro"),
        (wire(id, &[0xff]), "not_avro"),
        (wire(other, &[0, 8, 1]), "not_avro"),
        (wire(4_000_000_000, &[2]), "unknown_schema"),
    ];
    kafka.send(&topic, (0..WINDOW).map(|_| wire(id, &[14])));
    kafka.send(&topic, bad.iter().map(|(record, _)| record.clone()).chain([(None, None), wire(id, &[16])]));
    let millpond = Millpond::serve(&project(kafka, &registry, &topic, "avro")).await;
    until_committed(&millpond, WINDOW + 1).await;
    let letters = millpond.sql("SELECT reason, message FROM system.dead_letters ORDER BY _offset").await;
    let reasons: Vec<_> = letters.iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, bad.map(|(_, reason)| reason), "{letters:?}");
    assert!(letters[3]["message"].as_str().unwrap().contains("4000000000"), "{letters:?}");
    until_sql(&millpond, "SELECT sum(skipped) AS n FROM system.ingest", 1).await;
    until_sql(&millpond, "SELECT sum(n) AS n FROM trips", 7 * WINDOW as i64 + 8).await;
}

#[tokio::test]
async fn protobuf_with_imports_from_a_registry_over_tls() {
    let kafka = Kafka::shared().await;
    let registry = Registry::start_with_tls().await;
    let topic = kafka.topic("proto", 1).await;
    let place = "syntax = \"proto3\"; package geo; message Place { double lat = 1; optional double lon = 2; }";
    registry.register("place", "PROTOBUF", place, &[]).await;
    let trip = "syntax = \"proto3\"; import \"geo/place.proto\"; import \"google/protobuf/timestamp.proto\";\n\
                message Ping { bool ok = 1; }\n\
                message Trip { string id = 1; geo.Place from = 2; google.protobuf.Timestamp at = 3; sint64 n = 4; \
                repeated int32 codes = 5; }";
    let id = registry.register("trips-value", "PROTOBUF", trip, &[("geo/place.proto", "place")]).await;
    // The second message of the file: an index of one part, 1; both as zigzag varints.
    let mut body = vec![2, 2, 10, 1, b'a', 18, 9, 9];
    body.extend(1.5_f64.to_le_bytes());
    body.extend([26, 4, 8, 1, 16, 8, 32, 5, 42, 2, 1, 2]);
    kafka.send(&topic, (0..WINDOW).map(|_| wire(id, &body)));
    // The registry's certificate is its own: without the file nobody would trust it.
    let untrusting = project(kafka, &registry, &topic, "protobuf");
    let millpond = Millpond::start(&untrusting);
    until_not_ready(&millpond, &["cannot be reached", "certificate"]).await;
    assert_eq!(millpond.stop().await, Some(0));
    let project = untrusting.toml(&format!("ca = \"{}\"", registry.ca().display()));
    let millpond = Millpond::serve(&project).await;
    until_committed(&millpond, WINDOW).await;
    let sql = "SELECT DISTINCT id, from_lat, from_lon, epoch_us(\"at\") AS at_us, n, codes FROM t";
    let rows = python::duckdb(&project.table_url("trips"), sql, &[]).await.unwrap();
    assert_eq!(
        rows,
        [json!({"id": "a", "from_lat": 1.5, "from_lon": null, "at_us": 1_000_000, "n": -3, "codes": [1, 2]})]
    );
    until_sql(&millpond, "SELECT count(*) AS n FROM system.dead_letters", 0).await;
}
