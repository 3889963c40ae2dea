//! Real databases on loopback, and Kafka Connect with Debezium that sends their changes.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::process::{Process, component};
use super::{folder, free_port, wait_until};

const START: Duration = Duration::from_secs(90);

/// Whose database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    PostgreSql,
    MariaDb,
}

/// A database server with a database `fleet`; killed on drop.
pub struct Database {
    /// Whose it is.
    pub maker: Maker,
    port: u16,
    _process: Process,
}

impl Database {
    /// A server of the test's own.
    pub async fn start(maker: Maker) -> Self {
        let (port, name) = match maker {
            Maker::PostgreSql => (free_port(), "postgres"),
            Maker::MariaDb => (free_port(), "mariadb"),
        };
        let dir = folder(name);
        let command = component(&[name, dir.to_str().unwrap(), &port.to_string()]);
        let process = Process::spawn(name, &command, &dir.with_extension("log"));
        let database = Self { maker, port, _process: process };
        let (ready, first) = match maker {
            Maker::PostgreSql => ("postgres", "SELECT 1"),
            Maker::MariaDb => ("fleet", "SELECT 1"),
        };
        database._process.wait_ready(START, || async { database.ask(ready, first).is_ok() }).await;
        if maker == Maker::PostgreSql {
            database.ask("postgres", "CREATE DATABASE fleet").unwrap();
        }
        database
    }

    /// The database's own client, asking `database`.
    fn client(&self, database: &str) -> Command {
        let port = self.port.to_string();
        let options = match self.maker {
            Maker::PostgreSql => {
                format!("psql -X -q -At -v ON_ERROR_STOP=1 -h 127.0.0.1 -p {port} -U postgres -d {database}")
            }
            Maker::MariaDb => format!(
                "mariadb --no-defaults -N -B -h 127.0.0.1 -P {port} -u debezium -pdebezium \
                 --default-character-set=utf8mb4 -D {database}"
            ),
        };
        let mut words = options.split_ascii_whitespace();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command
    }

    fn ask(&self, database: &str, sql: &str) -> Result<String, String> {
        let option = if self.maker == Maker::PostgreSql { "-c" } else { "-e" };
        let output = self.client(database).args([option, sql]).output().unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Begins to run statements one after the other, each a transaction of its own.
    pub fn script(&self, sql: &str) -> Child {
        let mut client = self.client("fleet").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        client.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        client
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements; returns the lines they give.
    pub fn run(&self, sql: &str) -> Vec<String> {
        let answer = self.ask("fleet", sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        answer.lines().map(str::to_owned).collect()
    }

    /// What Debezium's connector needs to know, with topics that begin with `prefix`.
    fn properties(&self, prefix: &str, dir: &std::path::Path) -> String {
        let maker = match self.maker {
            Maker::PostgreSql => "postgres",
            Maker::MariaDb => "mariadb",
        };
        let (port, history) = (self.port.to_string(), dir.join("history"));
        let words = ["connector", maker, "fleet", prefix, &port, "fleet", history.to_str().unwrap()];
        let output = component(&words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Kafka Connect with one connector of Debezium; killed on drop.
pub struct Connect {
    dir: PathBuf,
    brokers: String,
    port: u16,
    process: Mutex<Option<Process>>,
}

impl Connect {
    /// Sends the changes of `database` to topics that begin with `prefix`; `more` are further properties.
    pub async fn start(database: &Database, brokers: &str, prefix: &str, more: &str) -> Self {
        let dir = folder("connect");
        std::fs::write(dir.join("fleet.properties"), database.properties(prefix, &dir) + more).unwrap();
        let connect = Self { dir, brokers: brokers.to_owned(), port: free_port(), process: Mutex::new(None) };
        connect.restart().await;
        connect
    }

    /// kill -9: what it had not noted as sent is sent again.
    pub fn stop(&self) {
        self.process.lock().unwrap().take();
    }

    /// Forgets how far it had come: the next start takes a snapshot.
    pub fn forget(&self) {
        for file in ["offsets", "history"] {
            let _ = std::fs::remove_file(self.dir.join(file));
        }
    }

    /// Starts it (again), and waits until the connector runs.
    pub async fn restart(&self) {
        self.stop();
        let (dir, port) = (self.dir.to_str().unwrap(), self.port.to_string());
        let connector = self.dir.join("fleet.properties");
        let command = component(&["connect", dir, &self.brokers, &port, connector.to_str().unwrap()]);
        let process = Process::spawn("connect", &command, &self.dir.join("connect.log"));
        let url = format!("http://127.0.0.1:{port}/connectors/fleet/status");
        let runs = || async {
            let Ok(answer) = reqwest::get(&url).await else { return false };
            let Ok(status) = answer.text().await else { return false };
            assert!(!status.contains("FAILED"), "{status}");
            status.matches("\"RUNNING\"").count() == 2
        };
        process.wait_ready(START, runs).await;
        *self.process.lock().unwrap() = Some(process);
    }

    /// Waits until its log says so many times what it says when it begins to follow the database's log.
    pub async fn streams(&self, times: usize) {
        let log = self.dir.join("connect.log");
        wait_until("the connector streams", START, async || {
            let text = std::fs::read_to_string(&log).ok()?;
            (text.matches("Starting streaming").count() >= times).then_some(())
        })
        .await;
    }
}
