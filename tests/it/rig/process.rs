//! Child processes that cannot outlive the test binary, with their output in a file.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use super::wait_until;

/// A running child. Killed on drop; its log's end is printed if the test is failing then.
pub struct Process {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// The kernel's parent-death signal is sent when the *thread* that forked ends, and a test's thread ends with the test.
/// This one lives as long as the binary.
static SPAWNER: LazyLock<SyncSender<Order>> = LazyLock::new(|| {
    let (orders, todo) = sync_channel::<Order>(1);
    std::thread::spawn(move || {
        for (mut command, answer) in todo {
            let _ = answer.send(command.spawn());
        }
    });
    orders
});

impl Process {
    /// Starts `command` (program, arguments, environment and folder are kept) with its output appended to `log`.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Self {
        let mut tied = Command::new("setpriv");
        tied.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => tied.env(key, value),
                None => tied.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            tied.current_dir(folder);
        }
        let output = File::options().create(true).append(true).open(log).unwrap();
        tied.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let (answer, child) = sync_channel(1);
        SPAWNER.send((tied, answer)).unwrap();
        let child = child.recv().unwrap().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child: Mutex::new(child), log: log.to_owned() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The exit status, if it has ended.
    pub fn status(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().try_wait().unwrap()
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`), unless it has ended.
    pub fn signal(&self, signal: &str) {
        let mut child = self.child.lock().unwrap();
        // Not reaped while the lock is held, so the pid cannot be another process's.
        if child.try_wait().unwrap().is_none() {
            let done = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
            assert!(done.success(), "kill -s {signal} {}", self.name);
        }
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// Waits for the end; panics with the log if it does not come.
    pub async fn exited(&self, within: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait_until(&what, within, async || self.status()).await
    }

    /// Waits until `ready`; panics at once with the log if the process ends first.
    pub async fn wait_ready<F>(&self, within: Duration, mut ready: impl FnMut() -> F)
    where
        F: Future<Output = bool>,
    {
        wait_until(&format!("{} is ready", self.name), within, || {
            let look = ready();
            async move {
                if let Some(status) = self.status() {
                    panic!("{} ended before it was ready ({}):\n{}", self.name, describe(status), tail(&self.log()));
                }
                look.await.then_some(())
            }
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {} ({})\n{}", self.name, self.log.display(), tail(&self.log()));
        }
    }
}

/// Whether a process of this id runs.
pub fn exists(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

/// `exit code 1` or `signal 9`.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

/// The last lines of a log.
pub fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// `scripts/component.sh` with these arguments: becomes Kafka, MinIO or Python.
pub fn component(args: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/component.sh"));
    command.args(args);
    command
}
