//! Nested JSON that a public package ships, against a reader nobody here wrote.

use std::time::Duration;

use crate::rig::{Kafka, Lake, Millpond, Project, python, wait_until};

const SHOWN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn nested_json_of_a_public_package_reads_as_duckdb_flattens_it() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("emoji", 1).await;
    // 1,903 objects of three levels, with 334 paths: members named like `1F3FB-1F3FF`, lists, nulls.
    let lines = python::run("public_json.py", &["lines"], &[]).await;
    assert_eq!(lines.code, Some(0), "{}", lines.stderr);
    let sent = kafka.send_text(&topic, lines.stdout.lines());
    // Nothing is declared: a topic that nobody has documented.
    let project = Project::new(kafka.brokers(), Lake::Local).events("emoji", &topic, "start = \"earliest\"");
    let millpond = Millpond::serve(&project).await;
    let rows = i64::try_from(sent.len()).unwrap();
    let count = "SELECT count(*) FROM emoji";
    wait_until("all rows can be seen", SHOWN, async || (millpond.number(count).await == Some(rows)).then_some(()))
        .await;
    assert_eq!(millpond.stop().await, Some(0));

    let compared = python::run("public_json.py", &["compare", &project.table_url("emoji")], &[]).await;
    assert_eq!(compared.stdout.trim(), r#"{"values": 49046, "different": 0, "rescued": 0}"#, "{}", compared.stderr);
}
