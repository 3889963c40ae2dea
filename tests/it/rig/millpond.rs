//! The real executable on a project folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::minio::{Minio, credentials};
use super::process::Process;
use super::proxy::Proxy;
use super::python::Output;
use super::{folder, free_port};

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(40);
/// A process that is killed again and again starts again, and both processors may be busy.
const KILLED: Duration = Duration::from_secs(90);

/// Where a project's tables are.
#[derive(Debug, Clone)]
pub enum Lake {
    /// A folder in the project.
    Local,
    /// A bucket of an S3 server, or of a proxy before one.
    S3 {
        /// `http://host:port`
        endpoint: String,
        /// It must exist.
        bucket: String,
    },
}

impl Lake {
    /// A new bucket of `minio`.
    pub fn on(minio: &Minio, bucket: &str) -> Self {
        minio.bucket(bucket);
        Self::S3 { endpoint: minio.endpoint(), bucket: bucket.to_owned() }
    }

    /// A new bucket of `minio`, reached through `proxy`.
    pub fn through(proxy: &Proxy, minio: &Minio, bucket: &str) -> Self {
        minio.bucket(bucket);
        Self::S3 { endpoint: proxy.endpoint(), bucket: bucket.to_owned() }
    }
}

/// A project folder with addresses of its own. `millpond.toml` is written when a command starts.
#[derive(Debug, Clone)]
pub struct Project {
    dir: PathBuf,
    lake: Lake,
    brokers: String,
    commit_interval: String,
    more: String,
    env: Vec<(String, String)>,
    flight_sql: u16,
    postgres: u16,
    http: u16,
}

impl Project {
    /// A project without tables that reads from `brokers` into `lake`.
    pub fn new(brokers: impl Into<String>, lake: Lake) -> Self {
        let dir = folder("project");
        for part in ["schemas", "queries"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        Self {
            dir,
            lake,
            brokers: brokers.into(),
            commit_interval: "500ms".to_owned(),
            more: String::new(),
            env: Vec::new(),
            flight_sql: free_port(),
            postgres: free_port(),
            http: free_port(),
        }
    }

    /// The same lake and tables with addresses of its own: a second process on one lake.
    pub fn rival(&self) -> Self {
        let dir = folder("rival");
        for part in ["schemas", "queries"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
            for file in std::fs::read_dir(self.dir.join(part)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), dir.join(part).join(file.file_name())).unwrap();
            }
        }
        let url = format!("MILLPOND__LAKE__URL={}", self.lake_url());
        let (key, url) = url.split_once('=').unwrap();
        Self { dir, flight_sql: free_port(), postgres: free_port(), http: free_port(), ..self.clone() }.env(key, url)
    }

    /// How often rows become durable; 500 ms unless told.
    pub fn commit_interval(mut self, interval: &str) -> Self {
        self.commit_interval = interval.to_owned();
        self
    }

    /// More of `millpond.toml`: sections that are not written otherwise (`[limits]`, `[kafka.properties]`…).
    pub fn toml(mut self, more: &str) -> Self {
        self.more.push_str(more);
        self.more.push('\n');
        self
    }

    /// `schemas/<table>.toml`.
    pub fn schema(self, table: &str, toml: &str) -> Self {
        std::fs::write(self.dir.join("schemas").join(format!("{table}.toml")), toml).unwrap();
        self
    }

    /// `queries/<name>.sql`.
    pub fn query(self, name: &str, text: &str) -> Self {
        self.write_query(name, text);
        self
    }

    /// The same while the process runs.
    pub fn write_query(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join("queries").join(format!("{name}.sql")), text).unwrap();
    }

    /// An events table of JSON records, fed from the start of `topic`, with `more` options.
    pub fn events(self, table: &str, topic: &str, more: &str) -> Self {
        self.schema(table, &format!("kind = \"events\"\ntopic = \"{topic}\"\nformat = \"json\"\n{more}\n"))
    }

    /// A variable of the process.
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Ends the process (as kill -9 would) at a named point, the first time or the `nth`.
    pub fn failpoint(self, name: &str, nth: u32) -> Self {
        self.env("MILLPOND_FAILPOINT", format!("{name}:{nth}"))
    }

    /// The same without a fail point: what runs after the crash.
    pub fn without_failpoint(mut self) -> Self {
        self.env.retain(|(key, _)| key != "MILLPOND_FAILPOINT");
        self
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lake's URL as other engines take it: `s3://…` or a path.
    pub fn lake_url(&self) -> String {
        match &self.lake {
            Lake::Local => self.dir.join("lake").to_str().unwrap().to_owned(),
            Lake::S3 { bucket, .. } => format!("s3://{bucket}/lake"),
        }
    }

    /// A user's table as other engines take it.
    pub fn table_url(&self, table: &str) -> String {
        format!("{}/public/{table}", self.lake_url())
    }

    /// A system table as other engines take it.
    pub fn system_table_url(&self, table: &str) -> String {
        format!("{}/system/{table}", self.lake_url())
    }

    /// Port of the PostgreSQL wire.
    pub fn postgres(&self) -> u16 {
        self.postgres
    }

    /// `grpc://host:port` of the Flight SQL server.
    pub fn flight_sql(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.flight_sql)
    }

    /// `http://host:port` of the HTTP server.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// The executable with `arguments`, in the project folder, seeing nothing of the tester's own settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.write();
        let mut command = Command::new(executable());
        for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("MILLPOND_") || key.starts_with("AWS_")) {
            command.env_remove(key);
        }
        // Backtraces of the lake's library take a hundred megabytes with the first error.
        command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
        command.args(arguments).current_dir(&self.dir).stdin(Stdio::null()).env("NO_COLOR", "1");
        command.envs(credentials()).env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// Runs the executable to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        Output::of(self.command(arguments)).await
    }

    fn write(&self) {
        let lake = match &self.lake {
            Lake::Local => "url = \"./lake\"\n".to_owned(),
            Lake::S3 { bucket, .. } => format!("url = \"s3://{bucket}/lake\"\n"),
        };
        let s3 = match &self.lake {
            Lake::Local => String::new(),
            Lake::S3 { endpoint, .. } => format!("[lake.s3]\nendpoint = \"{endpoint}\"\nregion = \"us-east-1\"\n"),
        };
        let text = format!(
            "[lake]\n{lake}commit_interval = \"{}\"\n{s3}[kafka]\nbrokers = \"{}\"\n\
             [serve]\nflight_sql = \"127.0.0.1:{}\"\npostgres = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\n{}",
            self.commit_interval, self.brokers, self.flight_sql, self.postgres, self.http, self.more
        );
        // A process that reads it at that moment finds it whole.
        let path = self.dir.join("millpond.toml");
        if std::fs::read_to_string(&path).ok().is_none_or(|before| before != text) {
            std::fs::write(path, text).unwrap();
        }
    }
}

/// The executable: that of the build, or for measurements the one that `MILLPOND_EXECUTABLE` names.
pub fn executable() -> PathBuf {
    std::env::var_os("MILLPOND_EXECUTABLE").map_or_else(|| env!("CARGO_BIN_EXE_millpond").into(), PathBuf::from)
}

/// A running `millpond serve`; killed (-9) on drop.
pub struct Millpond {
    project: Project,
    process: Process,
}

impl Millpond {
    /// Starts `serve` and waits until `/readyz` says yes; panics with the log if the process ends first.
    pub async fn serve(project: &Project) -> Self {
        let millpond = Self::start(project);
        millpond.ready().await;
        millpond
    }

    /// Starts `serve` and does not wait: for what is expected to end by itself.
    pub fn start(project: &Project) -> Self {
        Self::start_as(project, &["serve", "--project", "."])
    }

    /// Starts `serve --standby` and does not wait: it is ready once it has taken over.
    pub fn stand_by(project: &Project) -> Self {
        Self::start_as(project, &["serve", "--project", ".", "--standby"])
    }

    /// Starts `serve` with more arguments.
    pub fn start_with(project: &Project, more: &[&str]) -> Self {
        Self::start_as(project, &[&["serve", "--project", "."], more].concat())
    }

    fn start_as(project: &Project, arguments: &[&str]) -> Self {
        let command = project.command(arguments);
        let process = Process::spawn("millpond serve", &command, &project.dir.join("serve.log"));
        Self { project: project.clone(), process }
    }

    /// Runs until the `nth` hit of a fail point ends it; meanwhile something is done every so often.
    pub async fn until_killed(project: &Project, (point, nth): (&str, u32), every: Duration, mut does: impl FnMut()) {
        let millpond = Self::start(&project.clone().failpoint(point, nth));
        let doing = async {
            let mut ticks = tokio::time::interval(every);
            // What takes longer than that must not keep the end from being seen.
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                does();
            }
        };
        tokio::select! {
            () = doing => {}
            (code, log) = millpond.ended(KILLED) => assert_eq!(code, None, "{point}: {log}"),
        }
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&self) {
        self.process
            .wait_ready(START, || async { self.get("/readyz").await.is_some_and(|(status, _)| status == 200) })
            .await;
    }

    /// An HTTP GET: status and text; `None` if nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("{}{path}", self.project.http())).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// A metric's value, summed over its labels; `labels` are texts that must all be in the line.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, text) = self.get("/metrics").await?;
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Rows of a query through `millpond sql` against this server; panics with what it printed if it fails.
    pub async fn sql(&self, query: &str) -> Vec<Value> {
        let output =
            self.project.run(&["sql", "--url", &self.project.flight_sql(), "--format", "ndjson", "-c", query]).await;
        assert_eq!(output.code, Some(0), "{query}\n{}", output.stderr);
        output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The first value of a query's first row; `None` if the query fails (the table may not be there yet).
    pub async fn number(&self, query: &str) -> Option<i64> {
        let output =
            self.project.run(&["sql", "--url", &self.project.flight_sql(), "--format", "ndjson", "-c", query]).await;
        let row: Value = serde_json::from_str(output.stdout.lines().next()?).ok()?;
        row.as_object()?.values().next()?.as_i64()
    }

    /// Resident bytes.
    pub fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The project it runs.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// kill -9.
    pub fn kill(self) {
        self.process.kill();
    }

    /// SIGTERM; returns the exit code when it has ended.
    pub async fn stop(self) -> Option<i32> {
        self.process.signal("TERM");
        self.process.exited(STOP).await.code()
    }

    /// Waits until it ends by itself: exit code and everything it wrote.
    pub async fn ended(self, within: Duration) -> (Option<i32>, String) {
        let status = self.process.exited(within).await;
        (status.code(), self.process.log())
    }
}
