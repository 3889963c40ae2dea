//! What a contract makes of arrays and of a shared topic, from Kafka through hot rows and Delta to other readers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Kafka, Lake, Millpond, Minio, Project, credentials, python, wait_until};

const SHOWN: Duration = Duration::from_secs(60);

const CARS: &str = r#"
match = { type = "car" }
key = ["id"]
[arrays.sensors]
as = "pivot"
by = "name"
value = "v"
[columns.speed]
type = "double"
default = 0
description = "km/h"
"#;

const MESSAGES: [&str; 4] = [
    r#"{"type":"car","id":1,"speed":1.5,"tags":["a","b",null],"ratios":[1,2.5],"sensors":[{"name":"Oil","v":3.5}]}"#,
    r#"{"type":"bus","id":2,"stops":[1,2,3]}"#,
    r#"[{"type":"bus","id":3,"stops":[]},{"type":"car","id":4,"sensors":[{"name":"Oil","v":4.5},{"name":"fuel","v":7}]}]"#,
    "nobody can read this",
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_share_a_topic_and_lists_and_pivots_read_alike_hot_committed_and_outside() {
    let (kafka, minio) = (Kafka::shared().await, Minio::shared().await);
    let (topic, bucket) = (kafka.topic("shapes", 1).await, Kafka::name("shapes"));
    let project = Project::new(kafka.brokers(), Lake::on(minio, &bucket)).commit_interval("1h");
    let project = project.events("cars", &topic, CARS).events("buses", &topic, "match = { type = \"bus\" }");
    let view = "--! kind = \"view\"\n--! columns = { twice = \"km/h times two\" }\n\
                SELECT c.id, c.speed, 2 * c.speed AS twice FROM cars c";
    let project = project.query("quick", view);
    kafka.send_text(&topic, MESSAGES);
    let millpond = Millpond::serve(&project).await;
    let both = "SELECT (SELECT count(*) FROM cars) + (SELECT count(*) FROM buses)";
    wait_until("all rows can be seen", SHOWN, async || (millpond.number(both).await == Some(4)).then_some(())).await;

    let cars = "SELECT id, _row, speed, tags, ratios, sensors_oil, sensors_fuel FROM cars ORDER BY id";
    let (nothing, tags) = (Value::Null, json!(["a", "b", null]));
    let wanted_cars = [
        json!({"id": 1, "_row": 0, "speed": 1.5, "tags": tags, "ratios": [1.0, 2.5], "sensors_oil": 3.5, "sensors_fuel": nothing}),
        json!({"id": 4, "_row": 1, "speed": 0.0, "tags": nothing, "ratios": nothing, "sensors_oil": 4.5, "sensors_fuel": 7}),
    ];
    let buses = "SELECT id, stops FROM buses ORDER BY id";
    let wanted_buses = [json!({"id": 2, "stops": [1, 2, 3]}), json!({"id": 3, "stops": []})];
    let described = "SELECT column_name, type, description FROM system.columns \
         WHERE table_name = 'cars' AND column_name IN ('speed', 'tags') ORDER BY 1";
    let wanted_columns = [
        json!({"column_name": "speed", "type": "double", "description": "km/h"}),
        json!({"column_name": "tags", "type": "string[]", "description": nothing}),
    ];
    let of_view = "SELECT column_name, type, description FROM system.columns WHERE table_name = 'quick'";
    let wanted_of_view = [
        json!({"column_name": "id", "type": "bigint", "description": nothing}),
        json!({"column_name": "speed", "type": "double", "description": "km/h"}),
        json!({"column_name": "twice", "type": "double", "description": "km/h times two"}),
    ];
    let hot_rows = "SELECT sum(hot_rows) FROM system.ingest";
    let check = async |millpond: &Millpond, hot: i64| {
        assert_eq!(millpond.number(hot_rows).await, Some(hot));
        for (sql, wanted) in [
            (cars, &wanted_cars[..]),
            (buses, &wanted_buses[..]),
            (described, &wanted_columns[..]),
            (of_view, &wanted_of_view[..]),
        ] {
            let rows: Vec<Value> = millpond.sql(sql).await.iter().map(without_nulls).collect();
            assert_eq!(rows, wanted.iter().map(without_nulls).collect::<Vec<_>>(), "{hot} hot rows: {sql}");
        }
    };
    check(&millpond, 4).await;
    // Descriptions reach clients as metadata of their rows, and of the tables they list.
    for arguments in [["rows", "SELECT * FROM cars"], ["rows", "SELECT c.speed FROM cars c"], ["tables", "cars"]] {
        let comments =
            python::run("adbc_comments.py", &[&[&*project.flight_sql()], &arguments[..]].concat(), &[]).await;
        assert_eq!(comments.stdout.trim(), r#"{"speed": "km/h"}"#, "{arguments:?}: {}", comments.stderr);
    }
    assert_eq!(millpond.stop().await, Some(0));

    let millpond = Millpond::serve(&project).await;
    check(&millpond, 0).await;
    // What nobody could read is one dead letter, of the first table by name.
    let dead = millpond.sql("SELECT table_name, reason, _offset FROM system.dead_letters").await;
    assert_eq!(dead, [json!({"table_name": "buses", "reason": "not_json", "_offset": 3})]);

    let mut env = credentials().to_vec();
    env.push(("AWS_ENDPOINT_URL", minio.endpoint()));
    for (table, sql, wanted) in [("cars", cars, &wanted_cars), ("buses", buses, &wanted_buses)] {
        let sql = sql.replace(&format!("FROM {table}"), "FROM t");
        let rows = python::duckdb(&project.table_url(table), &sql, &env).await.unwrap();
        assert_eq!(rows.iter().map(without_nulls).collect::<Vec<_>>(), wanted.each_ref().map(without_nulls));
    }
}

/// Readers differ in whether they write the members that are null.
fn without_nulls(row: &Value) -> Value {
    row.as_object().unwrap().iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
}
