//! What every integration test stands on: real components, the real executable, faults, and a ledger.
//!
//! * `Kafka::shared()` and `Minio::shared()` start once for the whole test binary; a test takes topics and buckets of
//!   its own. `start()` gives a private one to stop and restart.
//! * `Registry::start()` gives a schema registry, `Database::start()` a database, `Connect::start()` Debezium on it.
//! * `Proxy` stands before MinIO and loses answers, fails, delays or ignores conditions, as a test says.
//! * `Project` writes a project folder; `Millpond` runs the executable on it, and kills it.
//! * `Hook` is a web server and `Smtp` a mail server that keep what they are given.
//! * `Ledger` remembers what was sent, and has outside readers look for lost, doubled and foreign rows.
//!
//! Nothing outlives the test binary: each process asks the kernel to be killed with it (`setpriv --pdeathsig`).
//! Logs and data are in `<target>/tmp/run-<pid>` until the next run; a failing test prints the end of its own logs.
//! Waits look at a condition until a deadline (`wait_until`): a test that sleeps is a violation `tidy` reports.
#![allow(dead_code, unused_imports, reason = "a tool is here before its second user")]

mod database;
mod hook;
mod kafka;
mod ledger;
mod millpond;
mod minio;
mod process;
mod proxy;
pub mod python;
mod registry;
mod smtp;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, Once};
use std::time::{Duration, Instant};

pub use database::{Connect, Database, Maker};
pub use hook::{Hook, Posted};
pub use kafka::{Kafka, Received, Record, Sender, Sent};
pub use ledger::{Ledger, Report};
pub use millpond::{Lake, Millpond, Project, executable};
pub use minio::{Minio, credentials, store};
pub use process::{Process, component};
pub use proxy::{Fault, Proxy, Rule, RuleId};
pub use registry::Registry;
pub use smtp::{Smtp, certificate};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value, looking again and again; panics with `what` after `within`.
pub async fn wait_until<T, F>(what: &str, within: Duration, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + within;
    loop {
        // A condition that hangs must not outlive the deadline either.
        let left = deadline.saturating_duration_since(Instant::now()).max(POLL);
        if let Ok(Some(value)) = tokio::time::timeout(left, condition()).await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// A loopback port that is free now and that nobody else of this run gets.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().unwrap();
    loop {
        // Below the range the kernel takes outgoing connections' ports from, so none of them can grab it meanwhile.
        let port = rand::random_range(20_000..32_000);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.push(port);
            return port;
        }
    }
}

/// A new folder of this run for data and logs, named after what it holds.
pub fn folder(name: &str) -> PathBuf {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = RUN.join(format!("{number:03}-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Removes a folder that was for a test which passed; after a failure it is kept for reading.
fn discard(folder: &Path) {
    if !std::thread::panicking() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Where the folders of this run are; `MILLPOND_TEST_FOLDER` puts them elsewhere, as in memory for a measurement.
static RUN: LazyLock<PathBuf> = LazyLock::new(|| {
    let parent = std::env::var("MILLPOND_TEST_FOLDER").unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    let parent = Path::new(&parent);
    sweep(parent);
    let run = parent.join(format!("run-{}", std::process::id()));
    std::fs::create_dir_all(&run).unwrap();
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = run.clone();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            before(panic);
            eprintln!("logs of this run: {}", shown.display());
        }));
    });
    run
});

/// Removes the folders of runs that have ended.
fn sweep(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("run-"));
        if pid.is_some_and(|pid| !process::exists(pid)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
