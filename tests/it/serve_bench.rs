//! Measurements of docs/benchmarks.md: what clients get from the doors, beside others.

use std::time::Instant;

use crate::rig::{Lake, Millpond, Project, python};

/// Of readings and diagnostics together; `ROWS` says otherwise.
const ROWS: usize = 10_000_000;
const ROUNDS: usize = 5;
/// Of Millpond and of DuckDB.
const MEMORY: &str = "4GiB";
const TABLES: [&str; 3] = ["trucks", "readings", "diagnostics"];

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The files lie in `MILLPOND_TEST_FOLDER`, as the lake does, compressed with lz4 unless `COMPRESSION` says otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_analytics_beside_duckdb() {
    let compression = std::env::var("COMPRESSION").unwrap_or_else(|_| "lz4".to_owned());
    println!("{compression}:");
    let mut project = Project::new("embedded", Lake::Local)
        .env("MILLPOND__LAKE__COMPRESSION", compression)
        .toml(&format!("[limits]\nmemory = \"{MEMORY}\""));
    for table in TABLES {
        project = project.schema(table, "kind = \"reference\"\nmode = \"append\"\nkey = [\"name\"]\n");
    }
    let files = project.dir().join("fleet").display().to_string();
    let made = python::run("tsbs.py", &["make", &files, &number("ROWS", ROWS).to_string()], &[]).await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    print!("{}", made.stdout);
    // There is a lake once a server has been there.
    let millpond = Millpond::serve(&project).await;
    assert_eq!(millpond.stop().await, Some(0));
    for table in TABLES {
        let began = Instant::now();
        let said = project.run(&["import", table, &format!("{files}/{table}")]).await;
        assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
        println!("{} in {:.1} s", said.stdout.trim(), began.elapsed().as_secs_f64());
    }
    let began = Instant::now();
    let said = project.run(&["table", "optimize"]).await;
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    println!("{} in {:.1} s", said.stdout.trim(), began.elapsed().as_secs_f64());

    let millpond = Millpond::serve(&project).await;
    let rounds = number("ROUNDS", ROUNDS).to_string();
    let asked =
        python::run("tsbs.py", &["ask", &project.flight_sql(), &project.lake_url(), &files, &rounds, MEMORY], &[])
            .await;
    assert_eq!(asked.code, Some(0), "{}{}", asked.stdout, asked.stderr);
    println!("{}", asked.stdout);
    assert_eq!(millpond.stop().await, Some(0));
}
