//! Measurements of docs/benchmarks.md: files in, and queries before and after a merge, beside DuckDB.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use crate::rig::{Lake, Project, python};

const ROWS: usize = 2_000_000;
const ROUNDS: usize = 3;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A trip, as CSV or JSON.
fn trip(row: usize, json: bool) -> String {
    let car = row * 7_919 % 10_000;
    let (lat, lon) = (37.0 + (row % 9_973) as f64 / 10_000.0, 127.0 + (row % 9_871) as f64 / 10_000.0);
    let (seconds, km) = (row % 86_400, (row % 4_000) as f64 / 10.0);
    let day = 1 + row / 86_400 % 28;
    let at = format!("2026-10-{day:02}T{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let (state, note) = (["FREE", "RESERVED", "DRIVING"][row % 3], "x".repeat(row % 40));
    let doors = !row.is_multiple_of(5);
    if json {
        return format!(
            r#"{{"id":{row},"car":"car-{car:05}","at":"{at}","lat":{lat:.4},"lon":{lon:.4},"km":{km:.1},"state":"{state}","doors":{doors},"note":"{note}"}}"#
        );
    }
    format!("{row},car-{car:05},{at},{lat:.4},{lon:.4},{km:.1},{state},{doors},{note}")
}

fn write(path: &Path, rows: usize, json: bool) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    if !json {
        writeln!(file, "id,car,at,lat,lon,km,state,doors,note").unwrap();
    }
    for row in 0..rows {
        writeln!(file, "{}", trip(row, json)).unwrap();
    }
    file.flush().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_imports_beside_duckdb() {
    let folder = tempfile::tempdir().unwrap();
    let rows = number("ROWS", ROWS);
    let at = |name: &str| folder.path().join(name);
    write(&at("trips.csv"), rows, false);
    write(&at("trips.ndjson"), rows, true);
    let gzip = std::process::Command::new("gzip").args(["-k", "-1"]).arg(at("trips.csv")).status().unwrap();
    assert!(gzip.success());
    let (csv, parquet) = (at("trips.csv").display().to_string(), at("trips.parquet").display().to_string());
    python::run("duckdb_copy.py", &[&csv, &parquet], &[]).await;
    println!("{rows} rows; the best of {ROUNDS} rounds, in turns; MB of the file as it lies there");
    println!("| file | MB | millpond import, s | MB/s | DuckDB COPY, s | MB/s |");
    for name in ["trips.csv", "trips.csv.gz", "trips.ndjson", "trips.parquet"] {
        let path = at(name).display().to_string();
        let megabytes = std::fs::metadata(at(name)).unwrap().len() as f64 / 1e6;
        let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
        for round in 0..ROUNDS {
            let project = Project::new("embedded", Lake::Local).schema("trips", "kind = \"reference\"\n");
            // There is a lake once a server has been there.
            let millpond = crate::rig::Millpond::serve(&project).await;
            assert_eq!(millpond.stop().await, Some(0));
            let began = Instant::now();
            let said = project.run(&["import", "trips", &path]).await;
            ours = ours.min(began.elapsed().as_secs_f64());
            assert!(said.stdout.contains(&format!("{rows} rows")), "{}{}", said.stdout, said.stderr);
            let out = at(&format!("out-{round}.parquet")).display().to_string();
            let copied = python::run("duckdb_copy.py", &[&path, &out], &[]).await;
            theirs = theirs.min(copied.stdout.trim().parse::<f64>().expect(&copied.stderr));
            std::fs::remove_file(out).unwrap();
        }
        println!(
            "| {name} | {megabytes:.0} | {ours:.2} | {:.0} | {theirs:.2} | {:.0} |",
            megabytes / ours,
            megabytes / theirs
        );
    }
}

/// What is asked of a day of telemetry.
const ASKED: [(&str, &str); 4] = [
    ("all rows counted", "SELECT count(*), sum(n) FROM t"),
    ("one car", "SELECT count(*), max(odometer_km) FROM t WHERE car_id = 'car-00123'"),
    (
        "one hour by car",
        "SELECT count(*), max(c) FROM (SELECT car_id, count(*) AS c FROM t WHERE event_time BETWEEN TIMESTAMP '2026-01-01 10:00:00' AND TIMESTAMP '2026-01-01 11:00:00' GROUP BY 1)",
    ),
    (
        "all columns by car",
        "SELECT count(*), sum(m) FROM (SELECT car_id, max(speed_kmh) AS m, avg(battery_v) AS b, min(lat) AS a, max(lon) AS o FROM t GROUP BY 1)",
    ),
];

/// `MILLPOND_BENCH_FOLDER`: a lake with a day of commits that nobody has merged (see `lake::care::bench`).
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; make bench runs it, with MILLPOND_EXECUTABLE for an optimised build"]
async fn bench_queries_before_and_after_a_merge() {
    let Some(folder) = std::env::var_os("MILLPOND_BENCH_FOLDER").map(std::path::PathBuf::from) else {
        println!("MILLPOND_BENCH_FOLDER names no lake: nothing to measure");
        return;
    };
    let project = Project::new("embedded", Lake::Local).env("MILLPOND__LAKE__URL", folder.display().to_string());
    let files = async || {
        let count = "SELECT count(*) AS n FROM system.files WHERE table_name = 'telemetry'";
        let said = project.run(&["sql", "--project", ".", "--format", "csv", "-c", count]).await;
        said.stdout.lines().nth(1).unwrap_or_default().to_owned()
    };
    // The fastest of five in one process, as it says itself.
    let ours = async |sql: &str| {
        let sql = sql.replace(" t ", " telemetry ").replace(" t\n", " telemetry\n");
        let sql = if sql.ends_with(" t") { format!("{sql}elemetry") } else { sql };
        let mut arguments = vec!["sql", "--project", "."];
        (0..5).for_each(|_| arguments.extend(["-c", &sql]));
        let said = project.run(&arguments).await;
        let times = said.stderr.lines().filter_map(|line| line.rsplit_once(" in ").map(|(_, time)| milliseconds(time)));
        times.fold(f64::MAX, f64::min)
    };
    let before_files = files().await;
    let mut before = Vec::new();
    for (_, sql) in ASKED {
        before.push(ours(sql).await);
    }
    let began = Instant::now();
    let said = project.run(&["table", "optimize", "telemetry"]).await;
    println!("{}{} in {:.1} s", said.stdout.trim(), said.stderr, began.elapsed().as_secs_f64());
    let once = tempfile::tempdir().unwrap();
    let (url, target) = (folder.join("public/telemetry").display().to_string(), once.path().join("t.parquet"));
    let target = target.display().to_string();
    let mut arguments = vec![url.as_str(), target.as_str()];
    arguments.extend(ASKED.map(|(_, sql)| sql));
    let theirs = python::run("duckdb_queries.py", &arguments, &[]).await;
    println!(
        "| a day of telemetry | {before_files} files, ms | {} files, ms | DuckDB, written once, ms | DuckDB, our files, ms |",
        files().await
    );
    for ((name, sql), (before, theirs)) in ASKED.iter().zip(before.iter().zip(theirs.stdout.lines())) {
        let mut parts = theirs.splitn(3, ' ');
        let (plain, table) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        println!("| {name} | {before:.1} | {:.1} | {plain} | {table} |", ours(sql).await);
    }
    assert_eq!(theirs.code, Some(0), "{}", theirs.stderr);
}

/// A time as Rust writes it.
fn milliseconds(text: &str) -> f64 {
    let number = |unit: &str| text.trim().strip_suffix(unit).and_then(|number| number.parse::<f64>().ok());
    number("ms")
        .or_else(|| number("µs").map(|us| us / 1e3))
        .or_else(|| number("s").map(|s| s * 1e3))
        .unwrap_or(f64::MAX)
}
