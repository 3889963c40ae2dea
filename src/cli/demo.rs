//! `millpond demo`: broker, fleet, lake and servers in one process, and what to try next.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use clap::Args;

use super::serve::{embedded, inside, stop_signal};
use crate::config::{Interval, LoadOptions, Project};
use crate::demo::{SimulateOptions, Simulator, fleet::FleetOptions, project_files};
use crate::engine::{self, Engine, EngineOptions, Monitor, now_us};
use crate::error::{Error, Kind, Result};
use crate::query::Service;
use crate::task::Shutdown;

/// How often news are looked for.
const LOOK: Duration = Duration::from_millis(250);
/// How often the status is written to something that is no terminal.
const PLAIN_STATUS: Duration = Duration::from_secs(5);
/// How long what was sent may take to be decoded: a young table waits up to 10 s for its first schema version.
const CATCH_UP: Duration = Duration::from_secs(20);

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond demo                        runs until Ctrl-C\n  \
    millpond demo --for 30s              ends by itself with a summary\n  \
    millpond demo --dir fleet --rate 5000")]
pub(super) struct DemoArgs {
    /// End after this long, such as 30s or 10m
    #[arg(long = "for", value_name = "TIME")]
    duration: Option<Interval>,
    /// Keep project and lake here [default: a temporary folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Cars in the fleet
    #[arg(long, default_value_t = 500)]
    cars: usize,
    /// Messages per second; 0 = as many as possible
    #[arg(long, default_value_t = 1000)]
    rate: u64,
}

pub(super) async fn run(args: DemoArgs) -> Result<ExitCode> {
    let (dir, temporary) = folder(args.dir.as_deref())?;
    let mut options = LoadOptions::from_environment();
    options.sets = vec![free("serve.flight_sql", 32010), free("serve.postgres", 5433), free("serve.http", 8090)];
    let project = Project::load(&dir, &options)?;
    let before = committed_rows(&project, &options).await.unwrap_or(0);
    let broker = embedded(&project)?.ok_or_else(|| {
        Error::new(Kind::Usage, "the project in this folder has no embedded broker").hint("give an empty --dir")
    })?;
    let brokers = broker.brokers();
    let start = EngineOptions {
        embedded: Some(inside(&broker)),
        variables: options.vars.clone(),
        reload: Some(options.clone()),
        muted: false,
        claimed: None,
    };
    let engine = Engine::start(&project, start).await?;
    let (service, monitor) = (engine.service().clone(), engine.monitor());
    greet(&engine, &project, &brokers);

    let watched = monitor.clone();
    let simulator = Simulator::start(
        SimulateOptions {
            fleet: FleetOptions { cars: args.cars.max(1), database: true, ..FleetOptions::default() },
            rate: args.rate,
            progress: Some(Arc::new(move |topic, partition| watched.position(topic, partition))),
            ..SimulateOptions::new(brokers)
        },
        &Shutdown::new(),
    )?;
    let counters = simulator.counters();
    let sent = Arc::clone(&counters);
    let asked = stop_signal()?;
    let (began, limit) = (Instant::now(), args.duration.map(Interval::duration));
    let watch = monitor.clone();
    let seen = Arc::new(parking_lot::Mutex::new(None));
    let live_rows = Arc::clone(&seen);
    let ended = async move {
        tokio::select! {
            () = status(&watch, began) => {}
            () = asked => {}
            () = after(limit) => {}
        }
        clear_line();
        say!("Stopping: the fleet halts, what it sent is read to its end and committed.");
        // The fleet stops first, so that what was sent can be read to its end.
        let _ = tokio::task::spawn_blocking(move || drop(simulator)).await;
        caught_up(&watch, sent.messages()).await;
        *live_rows.lock() = count(&service).await.ok();
    };
    engine.run(ended).await?;
    drop(broker);

    let rows: u64 = monitor.counters().values().flat_map(|table| table.lanes.values()).map(|lane| lane.rows).sum();
    let dead: u64 =
        monitor.counters().values().flat_map(|table| table.lanes.values()).map(|lane| lane.dead_letters).sum();
    let after = committed_rows(&project, &options).await?;
    let live = seen.lock().take();
    say!(
        "{} messages sent, {rows} rows ingested, {dead} dead letters, in {:.0} s",
        counters.messages(),
        began.elapsed().as_secs_f64()
    );
    say!(
        "{after} rows in the lake ({before} before); live SQL saw {}",
        live.map_or("nothing".into(), |n| n.to_string())
    );
    let sound = rows > 0 && after == before + rows && live == Some(after);
    if sound {
        say!("every row was ingested, committed and read back");
        if temporary {
            std::fs::remove_dir_all(&dir).ok();
        } else {
            say!("again on the same lake: millpond demo --dir {}", dir.display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("error: the lake in {} does not hold exactly what was ingested", dir.display());
    Ok(ExitCode::FAILURE)
}

/// The demo's folder, with the demo project in it unless a project is there already.
fn folder(given: Option<&Path>) -> Result<(PathBuf, bool)> {
    let dir = match given {
        Some(dir) => dir.to_path_buf(),
        None => std::env::temp_dir().join(format!("millpond-demo-{}", uuid::Uuid::new_v4().simple())),
    };
    let fault = |error| Error::new(Kind::Usage, format!("the demo cannot write to {}", dir.display())).because(error);
    if !dir.join("millpond.toml").exists() {
        for (path, text) in project_files() {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&dir)).map_err(fault)?;
            std::fs::write(path, text).map_err(fault)?;
        }
    }
    Ok((dir.clone(), given.is_none()))
}

/// The usual port, or any free one if it is taken.
fn free(key: &str, port: u16) -> String {
    let port = TcpListener::bind(("127.0.0.1", port)).map_or(0, |_| port);
    format!("{key}=127.0.0.1:{port}")
}

fn greet(engine: &Engine, project: &Project, brokers: &str) {
    let url = engine.addresses().flight_sql.map(|address| format!("grpc://{address}")).unwrap_or_default();
    say!("A car-sharing fleet drives through Seoul; its telemetry flows into a lake of Delta tables.");
    say!("  project     {}", project.dir.display());
    say!("  lake        {}", project.config.lake.url);
    say!("  kafka       {brokers}  (embedded)");
    say!("  flight sql  {url}");
    if let Some(address) = engine.addresses().postgres {
        say!("  postgres    postgresql://{address}/millpond");
    }
    if let Some(http) = engine.addresses().http {
        say!("  metrics     http://{http}/metrics");
    }
    let program = std::env::args().next().unwrap_or_else(|| "millpond".to_owned());
    say!("Try in another terminal (rows are milliseconds old):");
    for sql in [
        "SELECT count(*) AS rows, max(_timestamp) AS newest FROM telemetry",
        "SELECT car_id, plate_no, status, engine_on, all_doors_closed FROM car_state LIMIT 10",
        "SELECT * FROM low_battery LIMIT 10",
        "SELECT emitted_at, rule, transition, message FROM system.alerts ORDER BY number DESC LIMIT 10",
        "SELECT table_name, partition, committed_position, position, hot_rows FROM system.ingest",
        "SELECT version, change, column_name, type, was, sample FROM system.schema_changes WHERE version > 1",
    ] {
        say!("  {program} sql --url {url} -c \"{sql}\"");
    }
    say!("  {program} alert explain battery_low --key car-00042 --url {url}");
    say!("Rules are in {}: edit one, or add one, while it runs.", project.dir.join("queries").display());
    say!("Ctrl-C ends it.");
}

async fn after(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Writes what happens, every second on a terminal. Never ends.
async fn status(monitor: &Monitor, began: Instant) {
    let terminal = std::io::stdout().is_terminal();
    let every = if terminal { Duration::from_secs(1) } else { PLAIN_STATUS };
    let mut looks = tokio::time::interval(LOOK);
    let (mut last_rows, mut last_at) = (0, Instant::now());
    let (mut last_news, mut last_alert) = (None, None);
    loop {
        looks.tick().await;
        let news = monitor.news();
        let said = news.iter().rposition(|message| Some(&message.id) == last_news.as_ref());
        for message in news.iter().skip(said.map_or(0, |said| said + 1)) {
            clear_line();
            println!("News: {}", message.payload.get("message").and_then(|text| text.as_str()).unwrap_or_default());
        }
        let alerts = monitor.alerts();
        let new = alerts.iter().take_while(|message| Some(&message.id) != last_alert.as_ref()).count();
        for message in alerts[..new].iter().rev() {
            clear_line();
            let text = |field: &str| message.payload.get(field).and_then(|text| text.as_str()).unwrap_or_default();
            let head = if text("state") == "resolved" { "Over:  " } else { "Alert: " };
            println!("{head}{} ({})", text("message"), text("rule"));
        }
        last_alert = alerts.first().map(|message| message.id.clone()).or(last_alert);
        last_news = news.last().map(|message| message.id.clone()).or(last_news);
        if last_at.elapsed() < every {
            continue;
        }
        let tables = monitor.counters();
        let rows: u64 = tables.values().flat_map(|table| table.lanes.values()).map(|lane| lane.rows).sum();
        let rate = (rows - last_rows) as f64 / last_at.elapsed().as_secs_f64();
        (last_rows, last_at) = (rows, Instant::now());
        let commit = tables.values().filter_map(|table| table.last_commit_us).max();
        let commit = commit.map_or("none yet".to_owned(), |at| format!("{:.1} s ago", (now_us() - at) as f64 / 1e6));
        let fresh = tables.values().filter_map(|table| table.freshness_us).min();
        let fresh = fresh.map_or("-".to_owned(), |us| format!("{:.0} ms", us.max(0) as f64 / 1e3));
        let line = format!(
            "{:>4.0} s  {rate:>5.0} rows/s  {rows} rows  {:>4} hot  lag {}  commit {commit}  fresh {fresh}",
            began.elapsed().as_secs_f64(),
            monitor.hot_rows(),
            monitor.lag(),
        );
        if terminal {
            // A line that wraps could not be written over.
            let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            print!("\r\x1b[2K{line}");
            std::io::stdout().flush().ok();
        } else {
            say!("{line}");
        }
    }
}

fn clear_line() {
    if std::io::stdout().is_terminal() {
        print!("\r\x1b[2K");
    }
}

/// Waits until everything sent has been decoded.
async fn caught_up(monitor: &Monitor, sent: u64) {
    let deadline = Instant::now() + CATCH_UP;
    while Instant::now() < deadline {
        let decoded = decoded(monitor);
        // A moment later what was counted is visible, too.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if decoded >= sent {
            return;
        }
    }
}

/// Records that all tables of their topic have decoded.
fn decoded(monitor: &Monitor) -> u64 {
    let mut by_lane = BTreeMap::new();
    for (lane, counters) in monitor.counters().into_values().flat_map(|table| table.lanes) {
        let records: &mut u64 = by_lane.entry(lane).or_insert(counters.records);
        *records = (*records).min(counters.records);
    }
    by_lane.into_values().sum()
}

const COUNT: &str = "SELECT (SELECT count(*) FROM telemetry) + (SELECT count(*) FROM trips) \
                     + (SELECT count(*) FROM carinfo__changes) + (SELECT count(*) FROM deviceinfo__changes) \
                     + (SELECT count(*) FROM reservation__changes)";

async fn count(service: &Service) -> Result<u64> {
    let batches = service.session().query(COUNT).await?.run().await?.collect().await?;
    let value = batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .and_then(|batch| Some(batch.column(0).as_primitive_opt::<Int64Type>()?.value(0)));
    value.map(i64::cast_unsigned).ok_or_else(|| Error::new(Kind::Internal, "the count has no rows"))
}

async fn committed_rows(project: &Project, options: &LoadOptions) -> Result<u64> {
    count(&engine::read_only(project, &options.vars).await?).await
}
