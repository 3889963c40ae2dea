//! Days of commits in minutes: what care makes of a lake that is left alone. See docs/benchmarks.md.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray};
use chrono::{DateTime, TimeDelta, Utc};
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};

use super::*;
use crate::lake::positions::Positions;
use crate::lake::{Location, PUBLIC, S3Options, Stores, Table, commit};
use crate::task::Shutdown;

/// Between commits.
const INTERVAL: TimeDelta = TimeDelta::seconds(5);
const PER_HOUR: usize = 720;
const PER_DAY: usize = 24 * PER_HOUR;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// What cars tell in the five seconds before a commit.
fn rows(commit: usize, count: usize, at: DateTime<Utc>) -> RecordBatch {
    let each =
        |value: &dyn Fn(usize) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values((0..count).map(value))) };
    let first = commit * count;
    let car = |row: usize| (first + row) * 7_919 % 500;
    let wave = |row: usize, by: f64| ((first + row) as f64 / by).sin();
    let micros = at.timestamp_micros();
    let times = (0..count).map(|row| micros + (row * 5_000_000 / count) as i64);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("car_id", Arc::new(StringArray::from_iter_values((0..count).map(|row| format!("car-{:05}", car(row)))))),
        ("event_time", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))),
        ("n", Arc::new(Int64Array::from_iter_values((0..count).map(|row| (first + row) as i64)))),
        ("lat", each(&|row| 37.5 + wave(row, 700.0) / 10.0)),
        ("lon", each(&|row| 127.0 + wave(row, 900.0) / 10.0)),
        ("speed_kmh", each(&|row| (60.0 + 60.0 * wave(row, 50.0)).round())),
        ("battery_v", each(&|row| 12.0 + (wave(row, 3_000.0) * 10.0).round() / 10.0)),
        ("odometer_km", each(&|row| 1_000.0 + (first + row) as f64 / 100.0)),
        ("fuel_pct", each(&|row| (50.0 + 50.0 * wave(row, 90_000.0)).round())),
        ("engine_on", Arc::new(BooleanArray::from_iter((0..count).map(|row| Some(car(row) % 3 > 0))))),
        ("_day", Arc::new(Date32Array::from(vec![(at.timestamp() / 86_400) as i32; count]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

fn percentile(sorted: &[Duration], of_hundred: usize) -> f64 {
    sorted[(sorted.len() * of_hundred / 100).min(sorted.len() - 1)].as_secs_f64() * 1_000.0
}

/// What the process holds, without the pages of the executable.
fn memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

/// `MILLPOND_BENCH_COMMITS` (three days of them), `MILLPOND_BENCH_ROWS` of each, `MILLPOND_BENCH_CARE=0` for none,
/// `MILLPOND_BENCH_HISTORY` in seconds (about as long as a day of these commits takes), and `MILLPOND_BENCH_FOLDER` to look
/// at the lake afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour: a measurement"]
async fn days_of_commits() {
    let (commits, count) = (number("MILLPOND_BENCH_COMMITS", 3 * PER_DAY), number("MILLPOND_BENCH_ROWS", 100));
    let cares = number("MILLPOND_BENCH_CARE", 1) > 0;
    let history = Duration::from_secs(number("MILLPOND_BENCH_HISTORY", 480) as u64);
    let kept = tempfile::tempdir().unwrap();
    let folder = std::env::var_os("MILLPOND_BENCH_FOLDER").map_or_else(|| kept.path().to_owned(), PathBuf::from);
    let stores = Stores::open_or_create(&Location::Folder(folder), &S3Options::default()).await.unwrap();
    crate::lake::Format::read_or_create(&stores, Utc::now()).await.unwrap();
    let lake = Lake::new(stores).with_history(history);
    let begin = DateTime::from_timestamp(1_767_225_600, 0).unwrap();
    let schema = rows(0, 1, begin).schema();
    let none = Positions::new();
    let mut table = commit::create(&lake, PUBLIC, "telemetry", &schema, &["_day"], 1, &none).await.unwrap();
    let stop = Shutdown::new();
    let pool: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
    let layout = Layout { key: vec!["car_id".to_owned()], then: vec!["event_time".to_owned()] };
    // When each file was written, in the time of the lake.
    let mut written = BTreeMap::<String, DateTime<Utc>>::new();
    let (mut hour, mut checkpoint) = (Vec::with_capacity(PER_HOUR), 0);
    let (mut ingested, mut rewritten) = (0, 0);
    println!("hour  files  log objects  log MiB  commit p50 ms  p99 ms  memory MiB  rewritten/ingested");
    for at in 0..commits {
        let now = begin + INTERVAL * at as i32;
        let batch = rows(at, count, now);
        let began = Instant::now();
        let adds = table.stage(&[batch], &schema).await.unwrap();
        commit::commit_number(&mut table, "bench", &adds, at as i64, at as i64 + 1, &stop).await.unwrap();
        hour.push(began.elapsed());
        ingested += adds.iter().map(|add| add.size.unsigned_abs()).sum::<u64>();
        table.checkpoint_when_due(&mut checkpoint).await;
        for file in adds {
            written.insert(file.path, now);
        }
        // Every ten seconds, as the server looks.
        if cares && at % 2 == 1 {
            loop {
                let mut files = data_files(&table.snapshot().unwrap());
                files.iter_mut().for_each(|file| file.modified_at = *written.entry(file.path.clone()).or_insert(now));
                let Some(group) = plan(&files, now, Need::Gathered).into_iter().next() else { break };
                let mut own: Table = lake.open(PUBLIC, "telemetry").await.unwrap().unwrap();
                let merged = merge(&mut own, &group, &layout, &pool, Pace::Full, &stop).await.unwrap().unwrap();
                rewritten += merged.into_bytes;
                table.refresh().await.unwrap();
            }
        }
        if (at + 1) % PER_HOUR == 0 {
            if cares {
                expire(&lake, PUBLIC, "telemetry", history, Utc::now(), false).await.unwrap();
            }
            let files = data_files(&table.snapshot().unwrap());
            written.retain(|path, _| files.iter().any(|file| file.path == *path));
            hour.sort_unstable();
            let log = super::log::size(&lake, PUBLIC, "telemetry").await.unwrap();
            println!(
                "{:4}  {:5}  {:11}  {:7.1}  {:13.2}  {:6.2}  {:10}  {:.2}",
                (at + 1) / PER_HOUR,
                table.files(),
                log.0,
                log.1 as f64 / 1_048_576.0,
                percentile(&hour, 50),
                percentile(&hour, 99),
                memory_mib(),
                rewritten as f64 / ingested as f64,
            );
            hour.clear();
        }
    }
    let rows: u64 = data_files(&table.snapshot().unwrap()).iter().map(|file| file.rows).sum();
    assert_eq!(rows, (commits * count) as u64);
}
