//! Reference tables: rows of files, and what joins them.

use std::path::Path;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::{Value, json};

use crate::alerts::until;
use crate::rig::{Kafka, Lake, Millpond, Minio, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(30);

const SIGNALS: &str = r#"
key = ["car"]
start = "earliest"
time = { path = "at", format = "rfc3339" }
[columns.car]
path = "car"
type = "bigint"
[columns.lat]
path = "lat"
type = "double"
[columns.lon]
path = "lon"
type = "double"
"#;

const INSIDE: &str = r#"--! kind = "alert"
--! key  = ["car", "zone"]
--! to   = "outlier"
SELECT s.car, z.zone, z.name
FROM   signals s JOIN zones z ON st_within(s.lat, s.lon, z.geometry)
"#;

/// The zone of this name and number, one degree wide.
fn square(zone: i64, name: &str, lon: i64) -> String {
    let east = lon + 1;
    format!("{zone},{name},\"POLYGON(({lon} 37, {east} 37, {east} 38, {lon} 38, {lon} 37))\"\n")
}

fn zones(rows: &[(i64, &str, i64)]) -> String {
    let rows = rows.iter().map(|(zone, name, lon)| square(*zone, name, *lon));
    ["Zone,Name,Geometry\n".to_owned()].into_iter().chain(rows).collect()
}

/// A whole file takes the place of another.
fn put(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_files_are_looked_up_replaced_and_kept() {
    let kafka = Kafka::shared().await;
    let (signals, outlier) = (kafka.topic("signals", 1).await, kafka.topic("outlier", 1).await);
    let sender = kafka.sender();
    let say = |car: i64, lon: f64| {
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let record = json!({"car": car, "lat": 37.5, "lon": lon, "at": at}).to_string().into_bytes();
        sender.send(&signals, [(None, Some(record))]);
    };
    let project = Project::new(kafka.brokers(), Lake::Local)
        .toml(&format!("[sinks.outlier]\ntype = \"kafka\"\ntopic = \"{outlier}\"\n"))
        .events("signals", &signals, SIGNALS)
        .schema("zones", "kind = \"reference\"\nurl = \"reference/zones*.csv\"\nkey = [\"zone\"]\npoll = \"1s\"\n")
        .query("inside", INSIDE);
    let checked = project.run(&["check"]).await;
    assert!(checked.code == Some(0) && checked.stdout.contains("inside: waits for its columns"), "{checked:?}");

    std::fs::create_dir(project.dir().join("reference")).unwrap();
    let file = project.dir().join("reference/zones.csv");
    put(&file, &zones(&[(1, "south", 127), (2, "north", 129)]));
    let checked = project.run(&["check"]).await;
    let note = "alert inside: look-up join over signals; compares each row with all rows of zones";
    assert!(checked.code == Some(0) && checked.stdout.contains(note), "{checked:?}");

    let millpond = Millpond::serve(&project).await;
    let names = "SELECT zone, name FROM zones ORDER BY zone";
    let first = json!([{"zone": 1, "name": "south"}, {"zone": 2, "name": "north"}]);
    until(&millpond, names, first.clone()).await;
    until(&millpond, "SELECT name FROM zones WHERE zone = 2", json!([{"name": "north"}])).await;
    say(7, 127.5);
    let told = async |count: usize| {
        let told = wait_until(&format!("{count} messages"), SOON, async || {
            let told = kafka.read(&outlier);
            (told.len() >= count).then_some(told)
        })
        .await;
        let last: Value = serde_json::from_str(&told[count - 1].payload).unwrap();
        json!([last["state"], last["values"]["name"]])
    };
    assert_eq!(told(1).await, json!(["firing", "south"]));

    // The zone moves; what is broken replaces nothing.
    put(&file, &zones(&[(1, "south", 120), (3, "west", 125)]));
    until(&millpond, names, json!([{"zone": 1, "name": "south"}, {"zone": 3, "name": "west"}])).await;
    say(7, 127.5);
    assert_eq!(told(2).await, json!(["resolved", "south"]));
    for (text, reason) in [
        ("Zone,Name\n1\n", "zones.csv:2: the row has 1 fields, the header 2"),
        ("Zone,Name\n1,a\n1,b\n", "rows 1 and 2 have the same zone: 1"),
    ] {
        put(&file, text);
        wait_until(reason, SOON, async || millpond.process().log().contains(reason).then_some(())).await;
    }
    until(&millpond, "SELECT count(*) AS n FROM zones", json!([{"n": 2}])).await;
    // Another file, with a column of its own.
    put(&file, &zones(&[(1, "south", 127)]));
    put(&project.dir().join("reference/zones_2.csv"), "zone,name,limit\n4,docks,30\n");
    let two = json!([{"zone": 1, "name": "south"}, {"zone": 4, "name": "docks"}]);
    until(&millpond, names, two.clone()).await;

    let kind = "SELECT kind, hot_rows, files FROM system.tables WHERE table_name = 'zones'";
    until(&millpond, kind, json!([{"kind": "reference", "hot_rows": 2, "files": 1}])).await;
    let columns = "SELECT column_name, type FROM system.columns WHERE table_name = 'zones' AND column_name <> 'geometry' \
                   ORDER BY column_name";
    let typed = json!([
        {"column_name": "limit", "type": "bigint"},
        {"column_name": "name", "type": "string"},
        {"column_name": "zone", "type": "bigint"},
    ]);
    until(&millpond, columns, typed).await;
    let url = project.table_url("zones");
    let rows = [json!({"zone": 1, "limit": null}), json!({"zone": 4, "limit": 30})];
    python::until_duckdb(&url, "SELECT zone, \"limit\" FROM t ORDER BY zone", &rows).await;

    // A stream it is not.
    let subscribe = ["sql", "--url", &project.flight_sql(), "-c", "SUBSCRIBE SELECT * FROM zones"];
    let refused = project.run(&subscribe).await;
    assert!(refused.stderr.contains("zones is a reference table: all of its rows come at once"), "{refused:?}");

    // Without the files a restart goes on with what the lake has, and so does who reads the lake alone.
    assert_eq!(millpond.stop().await, Some(0));
    std::fs::remove_dir_all(project.dir().join("reference")).unwrap();
    let alone =
        project.run(&["sql", "--project", ".", "--format", "ndjson", "-c", "SELECT count(*) AS n FROM zones"]).await;
    assert_eq!(alone.stdout.trim(), "{\"n\":2}", "{alone:?}");
    let millpond = Millpond::serve(&project).await;
    until(&millpond, names, two.clone()).await;
    say(8, 127.5);
    assert_eq!(told(3).await, json!(["firing", "south"]));
    wait_until("the log says it", SOON, async || {
        millpond.process().log().contains("there is no file at").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_bucket_are_read_with_the_settings_of_the_lake() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let bucket = format!("reference-{}", Kafka::name("b").to_lowercase().replace('_', "-"));
    minio.bucket(&bucket);
    let store = minio.store(&bucket);
    let features = r#"{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"name": "a"},
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]]}}]}"#;
    let put = async |key: &str, text: &'static str| {
        store.put(&key.into(), PutPayload::from_static(text.as_bytes())).await.unwrap();
    };
    put("areas/2026/a.geojson", features).await;
    put("areas/2026/readme.txt", "no rows").await;
    let signals = kafka.topic("signals", 1).await;
    let url = format!("s3://{bucket}/areas/**/*.geojson");
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket))
        .events("signals", &signals, SIGNALS)
        .schema("areas", &format!("kind = \"reference\"\nurl = \"{url}\"\npoll = \"1s\"\n"));
    let millpond = Millpond::serve(&project).await;
    let inside = "SELECT name, st_within(1.0, 1.0, geometry) AS inside FROM areas ORDER BY name";
    until(&millpond, inside, json!([{"name": "a", "inside": true}])).await;
    put("areas/b.geojson", "{\"name\": \"b\", \"geometry\": null}").await;
    until(&millpond, inside, json!([{"name": "a", "inside": true}, {"name": "b", "inside": null}])).await;
    assert_eq!(millpond.stop().await, Some(0));
}
