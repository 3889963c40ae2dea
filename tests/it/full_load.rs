//! Mirrors that begin with files: what a database held when its stream of changes began.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// A change as DMS sends it.
fn change(operation: &str, at: &str, data: &Value) -> String {
    let metadata = json!({
        "timestamp": format!("2026-11-20T{at}Z"), "record-type": "data", "operation": operation, "schema-name": "fleet",
        "table-name": "cars",
    });
    json!({"data": data, "metadata": metadata}).to_string()
}

fn car(id: i64, plate: &str) -> Value {
    json!({"CarId": id, "plate": plate, "km": 1.5, "since": "2026-01-02T03:04:05Z"})
}

/// A file is there as a whole or not at all; whoever looks sees it twice the same before it is read.
fn put(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(format!(".{name}")), bytes).unwrap();
    std::fs::rename(folder.join(format!(".{name}")), folder.join(name)).unwrap();
}

async fn until(millpond: &Millpond, sql: &str, rows: &[Value]) {
    let what = format!("{sql} = {}", Value::from(rows.to_vec()));
    wait_until(&what, SOON, async || {
        let (project, url) = (millpond.project(), millpond.project().flight_sql());
        let output = project.run(&["sql", "--url", &url, "--format", "ndjson", "-c", sql]).await;
        let found: Vec<Value> = output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (output.code == Some(0) && found == rows).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_begins_with_files_and_goes_on_with_its_stream_whichever_comes_first() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("cars", 2).await;
    let mirror = format!(
        "kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"dms-json\"\nkey = [\"car_id\"]\n\
         match = {{ \"metadata.table-name\" = \"cars\" }}\n[load]\nurl = \"export/cars/*\"\nformat = \"csv\"\npoll = \"1s\"\n"
    );
    let project = Project::new(kafka.brokers(), Lake::Local).commit_interval("100ms").schema("cars", &mirror);
    let folder = project.dir().join("export/cars");
    // Since the export car 1 got another plate, car 2 went away and car 4 came.
    let since = [
        change("update", "10:00:00", &car(1, "new")),
        change("delete", "10:00:01", &json!({"CarId": 2})),
        change("insert", "10:00:02", &car(4, "four")),
    ];
    kafka.send_text(&topic, since.iter().map(String::as_str));
    let millpond = Millpond::serve(&project).await;
    let rows = "SELECT car_id, plate, km FROM cars ORDER BY car_id";
    let row = |id: i64, plate: &str| json!({"car_id": id, "plate": plate, "km": 1.5});
    until(&millpond, rows, &[row(1, "new"), row(4, "four")]).await;
    let old: String = (1..=3).map(|id| format!("{id},old {id},1.5,2026-01-02T03:04:05Z\n")).collect();
    put(&folder, "LOAD00000001.csv", format!("CarId,plate,km,since\n{old}"));
    let loaded = [row(1, "new"), row(3, "old 3"), row(4, "four")];
    until(&millpond, rows, &loaded).await;
    // Types are those that the stream has.
    let types = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'cars' AND \
         column_name IN ('car_id', 'plate', 'km', 'since') ORDER BY 1";
    let kinds = millpond.sql(types).await;
    assert_eq!(kinds.len(), 4, "{kinds:?}");
    // A file with rows that cannot be: what is broken is told, the rest comes.
    put(&folder, "LOAD00000002.csv", "CarId,plate\n5,five\n,nobody's\n");
    put(&folder, "LOAD00000003.csv", "CarId,plate\n6,1,2\n");
    until(&millpond, "SELECT plate FROM cars WHERE car_id = 5", &[json!({"plate": "five"})]).await;
    let letters = "SELECT reason FROM system.dead_letters WHERE table_name = 'cars__changes'";
    until(&millpond, letters, &[json!({"reason": "key_missing"})]).await;
    until(&millpond, "SELECT count(*) AS n FROM system.ingest WHERE hot_rows > 0 OR lag > 0", &[json!({"n": 0})]).await;
    millpond.kill();

    // After a kill no file comes again; one that is written anew tells newer rows, but none that is newer than the stream.
    std::fs::remove_file(folder.join("LOAD00000003.csv")).unwrap();
    put(&folder, "LOAD00000001.csv", "CarId,plate,km\n1,late,2.5\n3,newer 3,1.5\n");
    let millpond = Millpond::serve(&project).await;
    until(&millpond, "SELECT plate FROM cars WHERE car_id = 3", &[json!({"plate": "newer 3"})]).await;
    kafka.send_text(&topic, [change("update", "10:00:03", &car(3, "newest 3")).as_str()]);
    until(&millpond, "SELECT plate FROM cars WHERE car_id = 3", &[json!({"plate": "newest 3"})]).await;
    until(&millpond, "SELECT plate FROM cars WHERE car_id = 1", &[json!({"plate": "new"})]).await;
    let told = "SELECT _op AS op, count(*) AS n FROM cars__changes GROUP BY 1 ORDER BY 1";
    let told_of = |op: &str, n: i64| json!({"op": op, "n": n});
    until(&millpond, told, &[told_of("c", 1), told_of("d", 1), told_of("r", 6), told_of("u", 2)]).await;
    // Put together from its changes the mirror is the same.
    let all = millpond.sql(rows).await;
    let said = project.run(&["ingest", "replay", "cars", "--from", "tables"]).await;
    assert_eq!(said.stdout, "cars has 5 rows\n".replace('5', &all.len().to_string()), "{}", said.stderr);
    assert_eq!(millpond.sql(rows).await, all);
    assert_eq!(millpond.stop().await, Some(0));
    let sql = "SELECT count(*) AS n, count(DISTINCT concat(_topic, _offset)) AS records FROM t WHERE _op = 'r'";
    let found = python::duckdb(&project.table_url("cars__changes"), sql, &[]).await.unwrap();
    assert_eq!(found, [json!({"n": 6, "records": 6})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_load_is_exact_over_kills_and_its_types_are_those_of_the_files() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("cars", 1).await;
    let mirror = format!(
        "kind = \"mirror\"\ntopic = \"{topic}\"\nformat = \"debezium-json\"\nkey = [\"id\"]\n\
         [load]\nurl = \"export/*.csv.gz\"\npoll = \"1s\"\n"
    );
    let project = Project::new(kafka.brokers(), Lake::Local).commit_interval("20ms").schema("cars", &mirror);
    let rows: String = (0..40_000).map(|id| format!("{id},{},2026-01-02T03:04:05Z\n", id % 7)).collect();
    let plain = project.dir().join("cars.csv");
    std::fs::write(&plain, format!("Id,Seats,Built\n{rows}")).unwrap();
    let packed = std::process::Command::new("gzip").arg("-c").arg(&plain).output().unwrap().stdout;
    put(&project.dir().join("export"), "cars.csv.gz", packed);
    for nth in [2, 3] {
        let millpond = Millpond::start(&project.clone().failpoint("after_commit", nth));
        assert_eq!(millpond.ended(SOON).await.0, None);
    }
    let millpond = Millpond::serve(&project).await;
    let sums = "SELECT count(*) AS n, sum(id) AS ids, max(built) AS built FROM cars";
    let all = json!({"n": 40_000, "ids": 40_000_i64 * 39_999 / 2, "built": "2026-01-02T03:04:05Z"});
    until(&millpond, sums, &[all]).await;
    // The stream calls its columns what the file did, and goes on in them.
    let change = json!({"op": "u", "before": null, "after": {"Id": 7, "Seats": 9, "Built": "2026-01-02T03:04:05Z"}, "source": {}});
    kafka.send_text(&topic, [change.to_string().as_str()]);
    until(&millpond, "SELECT seats FROM cars WHERE id = 7", &[json!({"seats": 9})]).await;
    assert_eq!(millpond.stop().await, Some(0));
    let sql = "SELECT count(*) AS n, count(DISTINCT _offset) AS records FROM t";
    let found = python::duckdb(&project.table_url("cars__changes"), sql, &[]).await.unwrap();
    assert_eq!(found, [json!({"n": 40_001, "records": 40_001})]);
}
