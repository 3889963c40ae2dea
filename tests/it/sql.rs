//! SQL over the wire: the same `.slt` files as in process, against the real executable, on hot and on committed rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::FlightInfo;
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::{FlightSqlServiceClient, PreparedStatement};
use async_trait::async_trait;
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::rig::{Kafka, Lake, Millpond, Minio, Project, folder, python, wait_until};

const SHOWN: Duration = Duration::from_secs(40);

/// One Flight SQL connection with its session.
pub struct Client(FlightSqlServiceClient<Channel>);

/// What the server answered instead of rows.
#[derive(Debug, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    pub code: Code,
    pub message: String,
}

impl From<FlightError> for Refusal {
    fn from(error: FlightError) -> Self {
        match error {
            FlightError::Tonic(status) => Self { code: status.code(), message: status.message().to_owned() },
            other => Self { code: Code::Unknown, message: other.to_string() },
        }
    }
}

impl From<arrow::error::ArrowError> for Refusal {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::from(FlightError::from(error))
    }
}

impl Client {
    /// Connects to `grpc://host:port` and opens a session.
    pub async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(address.replace("grpc://", "http://")).unwrap().tcp_nodelay(true);
        let mut client = FlightSqlServiceClient::new(endpoint.connect().await.unwrap());
        client.handshake("", "").await.unwrap();
        Self(client)
    }

    /// The client underneath.
    pub fn inner(&mut self) -> &mut FlightSqlServiceClient<Channel> {
        &mut self.0
    }

    /// The rows of a statement.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, Refusal> {
        let info = self.0.clone().execute(sql.to_owned(), None).await?;
        self.fetch(info).await
    }

    /// Rows of whole numbers.
    pub async fn numbers(&self, sql: &str) -> Result<Vec<Vec<i64>>, Refusal> {
        let batches = self.query(sql).await?;
        let rows = |batch: &RecordBatch| {
            let columns: Vec<_> = batch.columns().iter().map(|c| c.as_primitive::<Int64Type>().clone()).collect();
            (0..batch.num_rows()).map(|row| columns.iter().map(|c| c.value(row)).collect()).collect::<Vec<Vec<i64>>>()
        };
        Ok(batches.iter().flat_map(rows).collect())
    }

    /// A statement to execute again and again.
    pub async fn prepare(&self, sql: &str) -> PreparedStatement<Channel> {
        self.0.clone().prepare(sql.to_owned(), None).await.unwrap()
    }

    /// The rows that a statement's execution gives.
    pub async fn fetch(&self, info: FlightInfo) -> Result<Vec<RecordBatch>, Refusal> {
        let mut batches = Vec::new();
        for endpoint in info.endpoint {
            let stream = self.0.clone().do_get(endpoint.ticket.unwrap()).await?;
            batches.extend(stream.try_collect::<Vec<_>>().await?);
        }
        Ok(batches)
    }

    /// The rows of a statement prepared first, with parameters if there are any.
    async fn prepared(&self, sql: &str, values: Option<RecordBatch>) -> Result<Vec<RecordBatch>, Refusal> {
        let mut statement = self.0.clone().prepare(sql.to_owned(), None).await?;
        if let Some(values) = values {
            statement.set_parameters(values)?;
        }
        let info = statement.execute().await?;
        let rows = self.fetch(info).await;
        statement.close().await?;
        rows
    }
}

#[async_trait]
impl AsyncDB for Client {
    type Error = Refusal;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Refusal> {
        let info = self.0.clone().execute(sql.to_owned(), None).await?;
        let types = vec![DefaultColumnType::Any; info.clone().try_decode_schema()?.fields().len()];
        let batches = self.fetch(info).await?;
        if types.is_empty() {
            return Ok(DBOutput::StatementComplete(0));
        }
        Ok(DBOutput::Rows { types, rows: batches.iter().flat_map(cells).collect() })
    }

    async fn shutdown(&mut self) {}
}

/// As the runner in process writes them.
fn cells(batch: &RecordBatch) -> Vec<Vec<String>> {
    let options = FormatOptions::new().with_null("NULL");
    let texts: Vec<_> = batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let cell = |text: String| if text.is_empty() { "(empty)".to_owned() } else { text };
    (0..batch.num_rows()).map(|row| texts.iter().map(|text| cell(text.value(row).to_string())).collect()).collect()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt")
}

fn slt_files() -> Vec<PathBuf> {
    let entries = [tests(), tests().join("server")].map(|dir| std::fs::read_dir(dir).unwrap());
    let mut files: Vec<_> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "slt"));
    files.sort();
    files
}

/// The tables of the fixture in `src/query/tests`, fed from Kafka.
async fn fleet(commit_interval: &str) -> (Project, Millpond) {
    let kafka = Kafka::shared().await;
    let bucket = Kafka::name("sql");
    let lake = Lake::on(Minio::shared().await, &bucket);
    let (telemetry, carinfo) = (kafka.topic("sql-telemetry", 1).await, kafka.topic("sql-carinfo", 1).await);
    let sensors = kafka.topic("sql-sensors", 1).await;
    let readings = (0..3).map(|i| {
        let (car, speed) = (
            if i % 2 == 0 { "a" } else { "b" },
            if i == 1 { "null".into() } else { format!("{}", f64::from(i) * 1.5) },
        );
        format!(r#"{{"car_id":"{car}","speed":{speed},"at":"2026-11-22T00:0{i}:00Z","gear":{i}}}"#)
    });
    kafka.send(&telemetry, readings.map(|text| (None, Some(text.into_bytes()))));
    kafka.send_text(&carinfo, [r#"{"car_id":"a","plate_no":"12가3456"}"#, r#"{"car_id":"b","plate_no":null}"#]);
    // A column that widens: zeros, then 12.5.
    kafka.send_text(&sensors, [r#"{"volts":0}"#, r#"{"volts":0}"#, r#"{"volts":12.5}"#]);
    let speed = "[columns.speed]\ntype = \"double\"\n[columns.gear]\ntype = \"bigint\"";
    let time = "key = [\"car_id\"]\ntime = { path = \"at\", format = \"rfc3339\" }";
    let project = Project::new(kafka.brokers(), lake)
        .commit_interval(commit_interval)
        .events("telemetry", &telemetry, &format!("{time}\n{speed}"))
        .events("carinfo", &carinfo, "key = [\"car_id\"]\n[columns.plate_no]\ntype = \"string\"")
        .events("sensors", &sensors, "[columns.volts]\ntype = \"bigint\"");
    let millpond = Millpond::serve(&project).await;
    let client = Client::connect(&project.flight_sql()).await;
    let count = "SELECT (SELECT count(*) FROM telemetry) + (SELECT count(*) FROM carinfo) \
                 + (SELECT count(*) FROM sensors)";
    wait_until("all rows can be seen", SHOWN, async || (client.numbers(count).await.unwrap() == [[8]]).then_some(()))
        .await;
    (project, millpond)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slt_files_hold_over_flight_sql_for_hot_and_for_committed_rows() {
    let (project, millpond) = fleet("1h").await;
    let files = slt_files();
    assert!(files.len() > 8, "{files:?}");
    let run_all = async |rows: &str| {
        // The first question for the brokers' high watermarks is answered a moment after the start.
        let unknown = "SELECT count(*) FROM system.ingest WHERE high_watermark IS NULL";
        let client = Client::connect(&project.flight_sql()).await;
        let known = async || (client.numbers(unknown).await.unwrap() == [[0]]).then_some(());
        wait_until("all high watermarks are known", SHOWN, known).await;
        let mut wrong = Vec::new();
        for file in &files {
            let mut runner = Runner::new(|| async { Ok(Client::connect(&project.flight_sql()).await) });
            if let Err(error) = runner.run_file_async(file).await {
                wrong.push(error.display(false).to_string());
            }
        }
        assert!(wrong.is_empty(), "on {rows} rows:\n{}", wrong.join("\n"));
    };
    let hot = "SELECT coalesce(sum(hot_rows), 0) FROM system.ingest";
    assert_eq!(millpond.number(hot).await, Some(8));
    run_all("hot").await;
    // Stopping commits.
    assert_eq!(millpond.stop().await, Some(0));
    let millpond = Millpond::serve(&project).await;
    assert_eq!(millpond.number(hot).await, Some(0));
    run_all("committed").await;
    assert_eq!(millpond.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_bound_and_never_read_as_sql() {
    let (project, _millpond) = fleet("1h").await;
    let client = Client::connect(&project.flight_sql()).await;
    let text = |value: &str| {
        let column: ArrayRef = std::sync::Arc::new(StringArray::from(vec![value.to_owned()]));
        Some(RecordBatch::try_from_iter([("$1", column)]).unwrap())
    };
    let sql = "SELECT count(*) AS n FROM telemetry WHERE car_id = $1";
    for (value, rows) in [("a", 2), ("b", 1), ("", 0), ("a' OR '1'='1", 0), ("a'; DROP TABLE telemetry; --", 0)] {
        let batches = client.prepared(sql, text(value)).await.unwrap();
        assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), rows, "{value}");
    }
    let unbound = client.prepared(sql, None).await.unwrap_err();
    assert_eq!(unbound.code, Code::InvalidArgument, "{unbound}");
    let wrong = client.prepared("SELECT count(*) FROM telemetry WHERE gear = $1", text("no number")).await;
    assert_eq!(wrong.unwrap_err().code, Code::InvalidArgument);
}

/// Everything a statement could have changed.
async fn state_of(client: &Client, dir: &Path) -> Vec<String> {
    let mut state: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    state.sort();
    for sql in [
        "SELECT count(*), sum(gear), count(speed) FROM telemetry",
        "SELECT count(*), count(plate_no) FROM carinfo",
        "SELECT table_schema, table_name, table_type FROM information_schema.tables ORDER BY 1, 2",
        "SELECT name, value FROM information_schema.df_settings ORDER BY name",
        "SELECT table_name, table_version, files FROM system.tables ORDER BY 1",
        "SHOW ALL",
    ] {
        state.extend(client.query(sql).await.unwrap().iter().flat_map(cells).map(|cells| cells.join(" ")));
    }
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_7_sql_from_the_wire_cannot_write_or_read_elsewhere() {
    let (project, millpond) = fleet("1h").await;
    let dir = folder("secrets");
    for name in ["secret.csv", "secret.json", "secret.parquet"] {
        std::fs::write(dir.join(name), "hunter2").unwrap();
    }
    let list = std::fs::read_to_string(tests().join("forbidden.txt")).unwrap();
    let mut forbidden: Vec<(String, String)> = list
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(':').unwrap())
        .map(|(kind, sql)| (kind.to_owned(), sql.strip_prefix(' ').unwrap_or(sql).replace("\\n", "\n")))
        .collect();
    assert!(forbidden.len() >= 80, "{}", forbidden.len());
    // Not even the lake's own files by their names.
    for url in [project.table_url("telemetry"), project.lake_url()] {
        for table in [format!("'{url}/'"), format!("'{url}/_millpond/format.json'"), format!("\"{url}\"")] {
            forbidden.push(("notfound".into(), format!("SELECT * FROM {table}")));
        }
        forbidden.push(("denied".into(), format!("COPY telemetry TO '{url}/stolen.parquet'")));
        let create = format!("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '{url}/'");
        forbidden.push(("denied".into(), create));
    }
    let client = Client::connect(&project.flight_sql()).await;
    let before = state_of(&client, &dir).await;
    let mut wrong = Vec::new();
    for (kind, sql) in &forbidden {
        let sql = sql.replace("{dir}", dir.to_str().unwrap());
        let code = match kind.as_str() {
            "denied" => Code::PermissionDenied,
            "notfound" => Code::NotFound,
            "query" => Code::InvalidArgument,
            other => panic!("{other}: {sql}"),
        };
        let queried = client.query(&sql).await.map(drop);
        let prepared = client.prepared(&sql, None).await.map(drop);
        let updated = client.0.clone().execute_update(sql.clone(), None).await.map(drop).map_err(Refusal::from);
        for (way, outcome) in [("query", queried), ("prepared", prepared), ("update", updated)] {
            match outcome {
                Ok(()) => wrong.push(format!("{way}: {sql}\n    was taken")),
                Err(refusal) if refusal.code != code || refusal.message.contains("hunter2") => {
                    wrong.push(format!("{way}: {sql}\n    {refusal}"));
                }
                Err(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The same over the PostgreSQL wire, where COPY goes to the client and nowhere else.
    let statements: Vec<String> =
        forbidden.iter().map(|(_, sql)| sql.replace("{dir}", dir.to_str().unwrap())).collect();
    let list = dir.join("forbidden.json");
    std::fs::write(&list, serde_json::to_string(&statements).unwrap()).unwrap();
    let arguments = [&project.postgres().to_string(), list.to_str().unwrap()];
    let output = python::run("pg_forbidden.py", &arguments, &[]).await;
    assert_eq!(output.code, Some(0), "{}{}", output.stdout, output.stderr);
    std::fs::remove_file(list).unwrap();
    assert_eq!(state_of(&client, &dir).await, before);
    assert_eq!(millpond.get("/healthz").await.map(|(status, _)| status), Some(200));
}
