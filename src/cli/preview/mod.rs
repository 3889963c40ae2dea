//! `millpond schema preview`: what the records of a file or a topic would become, before anything is written.

mod outlook;
mod topic;

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::outlook::{Outlook, TableOutlook};
use super::Overrides;
use super::produce::Cluster;
use super::records::{self, Layout};
use crate::config::{self, Project};
use crate::decode::{Record, Records, RecordsBuilder};
use crate::engine;
use crate::error::{Error, Kind, Result};
use crate::schema::{self, Column, Contract, change};

/// Characters of a sample or a payload that are shown.
const SHOWN: usize = 32;
/// Characters that stand between a column's name and its neighbours at most; longer ones push their line.
const WIDEST: usize = 40;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond schema preview orders.ndjson\n  \
    millpond schema preview --topic shop.orders                         the newest records of a topic\n  \
    millpond schema preview --topic shop.orders --payload avro          whose schemas are in the registry\n  \
    millpond schema preview orders.ndjson --project shop --table orders    with what its schema file says\n  \
    millpond schema preview orders.ndjson --format toml > shop/schemas/orders.toml")]
pub(super) struct PreviewArgs {
    /// A file of JSON records; `-` is standard input
    #[arg(conflicts_with = "topic")]
    file: Option<PathBuf>,
    /// A topic of the project's brokers: its newest records
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// How payloads are written, if the table does not say it [default: json]
    #[arg(long, value_enum)]
    payload: Option<Payload>,
    /// The project's folder [default: the working directory]
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    /// Look with the eyes of this table of the project, or call the new table so
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Look at so many records
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    limit: usize,
    /// How it is written; `toml` is a schema file to begin with
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
    Toml,
}

/// `format` of a schema file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Payload {
    #[default]
    Json,
    Avro,
    Protobuf,
    DebeziumJson,
    DebeziumAvro,
    DmsJson,
}

impl Payload {
    fn format(self) -> schema::Format {
        match self {
            Payload::Json => schema::Format::Json,
            Payload::Avro => schema::Format::Avro,
            Payload::Protobuf => schema::Format::Protobuf,
            Payload::DebeziumJson => schema::Format::DebeziumJson,
            Payload::DebeziumAvro => schema::Format::DebeziumAvro,
            Payload::DmsJson => schema::Format::DmsJson,
        }
    }
}

/// The contract of a table that nobody has declared.
fn undeclared(table: &str, payload: Option<Payload>) -> Result<Contract> {
    let format = payload.unwrap_or_default().format();
    let contract = Contract { format, ..config::events(table)? };
    Ok(if format.is_change() { contract.into_changes() } else { contract })
}

pub(super) async fn run(args: &PreviewArgs) -> Result<ExitCode> {
    let (contract, batches, from) = match (&args.topic, &args.file) {
        (Some(topic), _) => from_topic(args, topic).await?,
        (None, Some(file)) => from_file(args, file)?,
        (None, None) => {
            return Err(Error::new(Kind::Usage, "nothing to look at")
                .hint("name a file (`-` is standard input), or a topic with --topic"));
        }
    };
    let outlook = Outlook::of(&contract, &batches)
        .map_err(|error| Error::new(Kind::Internal, "the records cannot be decoded").because(error))?;
    match args.format {
        Format::Table => say!("{from}{}", text(&outlook).trim_end()),
        Format::Json => say!("{:#}", json(&outlook)),
        Format::Toml => say!("{}", toml(&outlook, &contract).trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The file's first records; lines that are none are named.
fn from_file(args: &PreviewArgs, file: &Path) -> Result<(Arc<Contract>, Vec<Records>, String)> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != "-");
    let table = args.table.clone().unwrap_or_else(|| table_name(stem.unwrap_or("records")));
    let table = table.as_str();
    let contract = match &args.project {
        Some(dir) => of_table(args.overrides.load(dir)?.0, table, args.payload)?,
        None => undeclared(table, args.payload)?,
    };
    if contract.format.needs_registry() {
        let text = "a file holds JSON: Avro and Protobuf can be looked at in a topic, with --topic";
        return Err(Error::new(Kind::Usage, text));
    }
    let mut builder = RecordsBuilder::new(0);
    let mut unreadable = Vec::new();
    let read = records::each_record(records::open(file)?, Layout::Json, |line, record| {
        match record {
            Ok(payload) => builder.push(Record {
                offset: builder.end(),
                timestamp_us: chrono::Utc::now().timestamp_micros(),
                key: None,
                payload: Some(payload),
                headers: &[],
            }),
            Err(message) => unreadable.push((line, message)),
        }
        if builder.len() < args.limit && builder.size_bytes() < topic::MOST_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    read.map_err(|error| {
        Error::new(Kind::Internal, format!("{} was not read to its end", file.display())).because(error)
    })?;
    for (line, message) in &unreadable {
        eprintln!("{}:{line}: {message}", file.display());
    }
    let records = builder.finish(contract.topics[0].as_str().into(), 0, 0);
    Ok((Arc::new(contract), vec![records], String::new()))
}

/// The newest records of a topic, and a line that says how many that are.
async fn from_topic(args: &PreviewArgs, topic: &str) -> Result<(Arc<Contract>, Vec<Records>, String)> {
    let (project, _) = args.overrides.load(args.project.as_deref().unwrap_or(Path::new(".")))?;
    let registry = engine::registry(&project.config)?;
    let cluster = Cluster::of(&project).await?;
    let contract = match &args.table {
        Some(table) if project.tables.iter().any(|contract| is_called(contract, table)) => {
            of_table(project, table, args.payload)?
        }
        table => Contract {
            topics: vec![topic.to_owned()],
            ..undeclared(&table.clone().unwrap_or_else(|| table_name(topic)), args.payload)?
        },
    };
    if contract.format.needs_registry() && registry.is_none() {
        return Err(Error::new(Kind::Usage, "payloads of this format can be read only with the schemas of a registry")
            .hint("say where it is: url in [kafka.schema_registry] of millpond.toml"));
    }
    let registry = registry.and_then(|registry| registry.of(contract.format));
    let (batches, all) = topic::newest(cluster.kafka()?, registry, topic, args.limit).await?;
    let seen: usize = batches.iter().map(Records::len).sum();
    let from = format!("Topic {topic} holds {all} records; these are the newest {seen}.\n\n");
    Ok((Arc::new(contract), batches, from))
}

/// True if a person who says `name` means the table of this contract: of a mirror, that of its changes.
fn is_called(contract: &Contract, name: &str) -> bool {
    contract.table == name || contract.file == name
}

fn of_table(project: Project, table: &str, payload: Option<Payload>) -> Result<Contract> {
    if payload.is_some() {
        let text = format!("schemas/{table}.toml says how payloads are written: --payload is for what has no table");
        return Err(Error::new(Kind::Usage, text));
    }
    let names: Vec<String> = project.tables.iter().map(|contract| contract.file.clone()).collect();
    project.tables.into_iter().find(|contract| is_called(contract, table)).ok_or_else(|| {
        Error::new(Kind::Usage, format!("the project has no table `{table}`"))
            .hint(format!("there are: {}", names.join(", ")))
    })
}

/// A table's name after the last part of a topic's.
fn table_name(topic: &str) -> String {
    let last = topic.rsplit('.').find(|part| !part.is_empty()).unwrap_or("records").to_lowercase();
    let name: String = last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_lowercase()) { name } else { format!("t_{name}") }
}

fn text(outlook: &Outlook) -> String {
    let mut text = String::new();
    for (at, table) in outlook.tables.iter().enumerate() {
        if at > 0 {
            let _ = writeln!(text, "\nTable {}", table.name);
        }
        write_columns(&mut text, table);
    }
    let Some(main) = outlook.tables.first() else { return text };
    let rescued: usize = outlook.tables.iter().flat_map(TableOutlook::rescued).map(|(_, (count, _))| count).sum();
    let _ = writeln!(
        text,
        "\n{} records: {} rows of {} columns, {rescued} values rescued, {} dead letters, {} skipped",
        outlook.records,
        main.rows.num_rows(),
        main.columns().count(),
        outlook.dead.len(),
        outlook.skipped
    );
    for child in &outlook.tables[1..] {
        let (rows, columns) = (child.rows.num_rows(), child.columns().count());
        let _ = writeln!(text, "  and {rows} rows of {columns} columns in {}", child.name);
    }
    for table in &outlook.tables {
        for (path, (count, sample)) in table.rescued() {
            let _ = writeln!(text, "  rescued {count} of {path}, such as {}", cut(&sample));
        }
    }
    for (reason, (count, first)) in outlook.dead_by_reason() {
        let payload = cut(&String::from_utf8_lossy(first.payload.as_deref().unwrap_or_default()));
        let _ = writeln!(text, "  dead letters {count} {reason}: {}: {payload}", first.message);
    }
    text
}

fn write_columns(text: &mut String, table: &TableOutlook) {
    let cells: Vec<[String; 5]> = std::iter::once(["column", "type", "filled", "path", "sample"].map(str::to_owned))
        .chain(table.columns().map(|column| {
            let (count, sample) = table.filled(column);
            let (name, share) = (column.logical().to_owned(), format!("{} %", table.percent(count)));
            [name, column.kind.word().to_owned(), share, column.path.to_string(), cut(&sample)]
        }))
        .collect();
    let width = |at: usize| cells.iter().map(|row| row[at].chars().count()).filter(|n| *n <= WIDEST).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [name, kind, share, path, sample] in &cells {
        let [a, b, c, d] = widths;
        let _ = writeln!(text, "{name:a$}  {kind:b$}  {share:>c$}  {path:d$}  {sample}");
    }
}

fn json(outlook: &Outlook) -> Value {
    let table = |table: &TableOutlook| {
        let column = |column: &Column| {
            let (count, sample) = table.filled(column);
            let (kind, path) = (column.kind.word(), column.path.to_string());
            json!({"name": column.logical(), "type": kind, "path": path, "rows": count, "sample": sample})
        };
        let rescued = table.rescued().into_iter();
        let rescued = rescued.map(|(path, (n, sample))| json!({"path": path, "values": n, "sample": sample}));
        json!({
            "table": table.name,
            "rows": table.rows.num_rows(),
            "columns": table.columns().map(column).collect::<Vec<_>>(),
            "rescued": rescued.collect::<Vec<_>>(),
        })
    };
    let dead = outlook.dead_by_reason().into_iter().map(|(reason, (n, first))| {
        json!({
            "reason": reason,
            "records": n,
            "message": first.message,
            "partition": first.partition,
            "offset": first.offset,
            "payload": String::from_utf8_lossy(first.payload.as_deref().unwrap_or_default()),
        })
    });
    let mut all =
        json!({"records": outlook.records, "skipped": outlook.skipped, "dead_letters": dead.collect::<Vec<_>>()});
    let mut tables = outlook.tables.iter().map(table);
    if let (Some(all), Some(Value::Object(main))) = (all.as_object_mut(), tables.next()) {
        all.extend(main);
        all.insert("children".to_owned(), tables.collect());
    }
    all
}

/// A schema file in which every column that was seen is declared.
fn toml(outlook: &Outlook, contract: &Contract) -> String {
    let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let Some(table) = outlook.tables.first() else { return String::new() };
    let payload = Payload::value_variants().iter().find(|payload| payload.format() == contract.format);
    let word = payload.and_then(ValueEnum::to_possible_value).map_or(String::new(), |word| word.get_name().to_owned());
    let format =
        if contract.format == schema::Format::Json { String::new() } else { format!("format = {}\n", text(&word)) };
    let topic = text(&contract.topics[0]);
    let mut out = if contract.format.is_change() {
        format!(
            "# The mirror `{}`, as {} changes would have it. Its key is the primary key of the database's table.\n\n\
             kind  = \"mirror\"\ntopic = {topic}\n{format}key   = [\"id\"]\n",
            contract.file, outlook.records,
        )
    } else {
        format!(
            "# The table `{}`, as {} records would have it. Name a key and a time if there are any.\n\n\
             kind  = \"events\"\ntopic = {topic}\n{format}# key  = [\"id\"]        # a record without it is a dead letter\n\
             # time = {{ path = \"at\", format = \"rfc3339\" }}   # becomes event_time; else the broker's timestamp\n",
            contract.table, outlook.records,
        )
    };
    // Of a change only the columns of the row are the user's to declare.
    let in_row = |column: &&Column| match &column.path {
        schema::Path::Value(parts) => !contract.format.is_change() || parts[0] == change::AFTER,
        _ => true,
    };
    let path_of = |column: &Column| match &column.path {
        schema::Path::Value(parts) if contract.format.is_change() => schema::Path::Value(parts[1..].to_vec()),
        path => path.clone(),
    };
    for column in table.columns().filter(in_row) {
        let (count, sample) = table.filled(column);
        let (percent, name, path) = (table.percent(count), text(column.logical()), text(&path_of(column).to_string()));
        let _ = write!(
            out,
            "\n# in {percent} % of rows, such as {}\n[columns.{name}]\npath = {path}\ntype = {}\n",
            cut(&sample),
            text(column.kind.word())
        );
    }
    out
}

fn cut(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= SHOWN { line } else { line.chars().take(SHOWN - 1).chain(['…']).collect() }
}
