//! `init` and `produce`: the starter project does what its README says, and a file's records arrive or are named.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::rig::python::Output;
use crate::rig::{Kafka, Lake, Millpond, Process, Project, folder, free_port, wait_until};

const SHOWN: Duration = Duration::from_secs(60);

/// The commands of a README: each line of its `sh` blocks.
fn commands(readme: &str) -> Vec<String> {
    let blocks = readme.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_starter_project_does_what_its_readme_says() {
    let parent = folder("init");
    let (flight_sql, http) = (free_port(), free_port());
    let bin = Path::new(env!("CARGO_BIN_EXE_millpond")).parent().unwrap().to_owned();
    let shell = |line: &str, dir: &Path| {
        let mut command = Command::new("sh");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        command.args(["-c", &format!("exec {line}")]).current_dir(dir).stdin(Stdio::null()).env("PATH", path);
        command.env("MILLPOND__SERVE__POSTGRES", "off");
        command.env("MILLPOND__SERVE__FLIGHT_SQL", format!("127.0.0.1:{flight_sql}"));
        command.env("MILLPOND__SERVE__HTTP", format!("127.0.0.1:{http}")).env("NO_COLOR", "1");
        command
    };
    let made = Output::of(shell("millpond init shop", &parent)).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    // A folder that holds something is left as it is, and the message says what is in the way.
    let again = Output::of(shell("millpond init shop", &parent)).await;
    assert_eq!(again.code, Some(2));
    assert!(again.stderr.contains("is not empty: there is .gitignore, README.md, millpond.toml"), "{}", again.stderr);

    let dir = parent.join("shop");
    let early = Output::of(shell("millpond produce readings sample.ndjson", &dir)).await;
    assert_eq!(early.code, Some(1));
    assert!(early.stderr.contains("the embedded broker is not running"), "{}", early.stderr);

    let mut server = None;
    let mut outputs = Vec::new();
    for line in commands(&std::fs::read_to_string(dir.join("README.md")).unwrap()) {
        if line == "millpond serve" {
            let process = Process::spawn(&line, &shell(&line, &dir), &parent.join("serve.log"));
            let ready =
                async || Some(reqwest::get(format!("http://127.0.0.1:{http}/readyz")).await.ok()?.status() == 200);
            process.wait_ready(SHOWN, async || ready().await.unwrap_or(false)).await;
            server = Some(process);
        } else {
            // Rows are there once the table has decided on its types.
            let output = wait_until(&line, SHOWN, async || {
                let output = Output::of(shell(&line, &dir)).await;
                assert_eq!(output.code, Some(0), "{line}: {}", output.stderr);
                (!line.starts_with("millpond sql") || !output.stderr.contains("0 rows")).then_some(output)
            })
            .await;
            outputs.push((line, output.stdout));
        }
    }
    assert!(server.is_some(), "the README starts a server");
    let output_of = |part: &str| &outputs.iter().find(|(line, _)| line.contains(part)).unwrap().1;
    assert!(output_of("check").contains("no problems"));
    assert!(output_of("produce").contains("5 records acknowledged"), "{}", output_of("produce"));
    let coldest = output_of("coldest");
    assert!(
        ["garden", "cellar", "attic", "-2.5", "11.25", "17.25"].iter().all(|word| coldest.contains(word)),
        "{coldest}"
    );
    assert!(output_of("_rescued").contains("frozen"), "{}", output_of("_rescued"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_file_arrive_with_their_keys_and_bad_lines_are_named() {
    let kafka = Kafka::shared().await;
    let topic = kafka.topic("produce", 2).await;
    let project = Project::new(kafka.brokers(), Lake::Local).commit_interval("1h");
    let project = project.events("orders", &topic, "key = [\"k\"]\n[columns.k]\npath = \"$key\"");
    let file = |name: &str, text: &str| std::fs::write(project.dir().join(name), text).unwrap();
    file(
        "pretty.json",
        "[\n  {\"id\": 1, \"who\": {\"name\": \"Kim\"}},\n  {\n    \"id\": 2, \"who\": {\"name\": \"Lee\"}\n  }\n]\n",
    );
    file(
        "mixed.ndjson",
        "{\"id\":3,\"who\":{\"name\":\"Kim\"}}\nnonsense\n{\"id\":4}\n{\"id\":5,\"who\":{\"name\":\"Lee\"}}\n",
    );

    let pretty = project.run(&["produce", &topic, "pretty.json", "--key", "who.name"]).await;
    assert_eq!(pretty.code, Some(0), "{}", pretty.stderr);
    assert!(pretty.stdout.contains("2 records acknowledged"), "{}", pretty.stdout);
    let mixed = project.run(&["produce", &topic, "mixed.ndjson", "--key", "who.name"]).await;
    assert_eq!(mixed.code, Some(1));
    assert!(mixed.stdout.contains("2 records acknowledged"), "{}", mixed.stdout);
    assert!(mixed.stderr.contains("mixed.ndjson:2: expected an object"), "{}", mixed.stderr);
    assert!(mixed.stderr.contains("mixed.ndjson:3: has no `who.name` for the key"), "{}", mixed.stderr);
    assert!(mixed.stderr.contains("2 could not be read and were not sent"), "{}", mixed.stderr);

    for (arguments, code, message) in [
        (["produce", "nowhere", "pretty.json", "--format", "json"], 1, "there is no topic \"nowhere\""),
        (["produce", &topic, "missing.json", "--format", "json"], 2, "missing.json cannot be read"),
        (["produce", &topic, "pretty.json", "--key", "$key"], 2, "is not the path of a field"),
    ] {
        let output = project.run(&arguments).await;
        assert_eq!((output.code, output.stderr.contains(message)), (Some(code), true), "{}", output.stderr);
    }

    let millpond = Millpond::serve(&project).await;
    let all = "SELECT count(*) FROM orders";
    wait_until("all rows can be seen", SHOWN, async || (millpond.number(all).await == Some(4)).then_some(())).await;
    let rows = millpond.sql("SELECT id, k FROM orders ORDER BY id").await;
    let expected = [(1, "Kim"), (2, "Lee"), (3, "Kim"), (5, "Lee")].map(|(id, k)| json!({"id": id, "k": k}));
    assert_eq!(rows, expected);
    // One key, one partition.
    let spread = millpond.number("SELECT max(n) FROM (SELECT count(DISTINCT _partition) AS n FROM orders GROUP BY k)");
    assert_eq!(spread.await, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_what_records_become_and_writes_a_schema_that_is_right() {
    let project = Project::new("embedded", Lake::Local);
    let records = "{\"id\":1,\"A b\":{\"c\":1.5}}\n{\"id\":2,\"tags\":[\"x\"],\"A b\":{\"c\":\"\\\"odd\"}}\nnonsense\n";
    std::fs::write(project.dir().join("orders.ndjson"), records).unwrap();
    let preview = project.run(&["schema", "preview", "orders.ndjson"]).await;
    assert_eq!(preview.code, Some(0), "{}", preview.stderr);
    println!("{}", preview.stdout);
    assert!(preview.stdout.contains("2 records: 2 rows of 3 columns, 0 values rescued"), "{}", preview.stdout);
    assert!(preview.stderr.contains("orders.ndjson:3: expected an object"), "{}", preview.stderr);
    let toml = project.run(&["schema", "preview", "orders.ndjson", "--format", "toml"]).await;
    std::fs::write(project.dir().join("schemas/orders.toml"), &toml.stdout).unwrap();
    let check = project.run(&["check"]).await;
    assert_eq!((check.code, check.stdout.contains("no problems")), (Some(0), true), "{}{}", check.stdout, toml.stdout);

    // With the eyes of a table: what does not fit is named, and what is missing.
    let project = project.schema("orders", "kind = \"events\"\ntopic = \"orders\"\nkey = [\"tag\"]\n[columns.tag]\npath = \"id\"\ntype = \"bigint\"\n[columns.c]\npath = '[\"A b\"].c'\ntype = \"double\"\n");
    std::fs::write(project.dir().join("orders.ndjson"), format!("{records}{{\"tags\":[]}}\n")).unwrap();
    let seen = project
        .run(&["schema", "preview", "orders.ndjson", "--project", ".", "--table", "orders", "--format", "json"])
        .await;
    let seen: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap_or_else(|_| panic!("{}", seen.stderr));
    assert_eq!(
        (&seen["records"], &seen["rows"], &seen["dead_letters"][0]["reason"]),
        (&json!(3), &json!(2), &json!("key_missing"))
    );
    assert_eq!(seen["rescued"], json!([{"path": "[\"A b\"].c", "values": 1, "sample": "\"\\\"odd\""}]));
    let unknown = project.run(&["schema", "preview", "orders.ndjson", "--project", ".", "--table", "order"]).await;
    assert_eq!((unknown.code, unknown.stderr.contains("there are: orders")), (Some(2), true), "{}", unknown.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_reads_the_newest_records_of_a_topic_and_commits_nothing() {
    let kafka = Kafka::shared().await;
    let topic = format!("shop.{}", Kafka::name("orders"));
    kafka.create(&topic, 3).await;
    let text = |id: usize| match id {
        2_999 => "{\"id\": nothing".to_owned(),
        _ => format!(
            r#"{{"id":{id},"volts":{},"legs":[{{"km":{id}}},{{"km":0.5}}]}}"#,
            if id < 2_990 { "0" } else { "12.5" }
        ),
    };
    let texts: Vec<String> = (0..3_000).map(text).collect();
    kafka.send_text(&topic, texts.iter().map(String::as_str));
    let contract = "[columns.volts]\ntype = \"bigint\"\n[arrays.legs]\nas = \"child\"";
    let project = Project::new(kafka.brokers(), Lake::Local).events("orders", &topic, contract);

    let seen = project.run(&["schema", "preview", "--topic", &topic]).await;
    println!("{}", seen.stdout);
    assert_eq!(seen.code, Some(0), "{}", seen.stderr);
    for words in [
        &*format!("Topic {topic} holds 3000 records; these are the newest 1000."),
        "1000 records: 999 rows of 3 columns, 0 values rescued, 1 dead letters, 0 skipped",
        "dead letters 1 not_json",
    ] {
        assert!(seen.stdout.contains(words), "{words}\n{}", seen.stdout);
    }

    // With the eyes of the table: a declared bigint goes on as a double, and legs are rows.
    let seen = project
        .run(&["schema", "preview", "--topic", &topic, "--table", "orders", "--limit", "5000", "--format", "json"])
        .await;
    let seen: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap_or_else(|_| panic!("{}", seen.stderr));
    assert_eq!((&seen["table"], &seen["records"], &seen["rows"]), (&json!("orders"), &json!(3_000), &json!(2_999)));
    let volts = json!({"name": "volts", "type": "double", "path": "volts", "rows": 2_999, "sample": "0.0"});
    assert!(seen["columns"].as_array().unwrap().contains(&volts), "{seen:#}");
    let legs = &seen["children"][0];
    assert_eq!((&legs["table"], &legs["rows"]), (&json!("orders__legs"), &json!(5_998)));

    // What is wrong is said; and nothing was written.
    for (arguments, code, message) in [
        (vec!["--topic", "nowhere"], 1, "there is no topic \"nowhere\""),
        (vec!["--topic", &topic, "--payload", "avro"], 2, "only with the schemas of a registry"),
        (vec!["--topic", &topic, "orders.ndjson"], 2, "cannot be used with"),
        (vec!["orders.ndjson", "--payload", "avro"], 2, "a file holds JSON"),
        (vec![], 2, "nothing to look at"),
    ] {
        let output = project.run(&[&["schema", "preview"], &*arguments].concat()).await;
        assert_eq!((output.code, output.stderr.contains(message)), (Some(code), true), "{}", output.stderr);
    }
    assert!(!project.dir().join("lake").exists());
}
