//! `millpond schema`: the schema versions of tables, from a server or straight from a lake; and what a file would
//! become.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use clap::{Args, Subcommand};
use futures::TryStreamExt;

use super::Overrides;
use super::preview;
use super::shell::{self, Target};
use super::sql;
use crate::error::{Error, Kind, Result};
use crate::schema::{Change, ChangeKind, Place, VersionRecord};

#[derive(Subcommand, Debug)]
pub(super) enum SchemaCommand {
    /// All tables with their newest schema version
    List(ListArgs),
    /// The columns of a table, with where each comes from
    Show(ShowArgs),
    /// What changed between two schema versions
    Diff(DiffArgs),
    /// All schema versions of a table: when, why, and what changed
    History(HistoryArgs),
    /// What a file would become: columns, rescued values, dead letters; or a schema file to begin with
    Preview(preview::PreviewArgs),
}

/// Who is asked, and how the answer is written.
#[derive(Args, Debug)]
struct Asked {
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: shell::Format,
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL", conflicts_with = "project")]
    url: Option<String>,
    /// Read this project's lake directly, without a server
    #[arg(long, value_name = "DIR")]
    project: Option<PathBuf>,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  millpond schema list --format json")]
pub(super) struct ListArgs {
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond schema show telemetry\n  \
    millpond schema show telemetry 3\n  \
    millpond schema show telemetry --sql       the SELECT for Spark, DuckDB and other readers of the lake")]
pub(super) struct ShowArgs {
    /// The table
    table: String,
    /// The schema version [default: the newest]
    #[arg(value_name = "VERSION")]
    number: Option<u32>,
    /// Print a SELECT that shows outside readers what we show
    #[arg(long, conflicts_with = "format")]
    sql: bool,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond schema diff telemetry             the newest version and the one before\n  \
    millpond schema diff telemetry 1 4")]
pub(super) struct DiffArgs {
    /// The table
    table: String,
    /// The older schema version [default: the one before the newer]
    from: Option<u32>,
    /// The newer schema version [default: the newest]
    to: Option<u32>,
    #[command(flatten)]
    asked: Asked,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  millpond schema history telemetry")]
pub(super) struct HistoryArgs {
    /// The table
    table: String,
    #[command(flatten)]
    asked: Asked,
}

pub(super) async fn run(command: SchemaCommand) -> Result<ExitCode> {
    match command {
        SchemaCommand::Preview(args) => preview::run(&args).await,
        SchemaCommand::List(args) => {
            let newest = newest(records(&args.asked, None).await?);
            let rows = newest.iter().map(|record| {
                let columns = record.version.columns.iter().filter(|column| column.widens.is_none()).count();
                [record.table.clone(), record.number().to_string(), columns.to_string(), time(record), cause(record)]
            });
            write(["table", "version", "columns", "since", "cause"], rows, args.asked.format).await
        }
        SchemaCommand::Show(args) => show(args).await,
        SchemaCommand::Diff(args) => diff(args).await,
        SchemaCommand::History(args) => {
            let records = records(&args.asked, Some(&args.table)).await?;
            let rows = records.iter().flat_map(|record| {
                let head = [record.number().to_string(), time(record), cause(record)];
                let none = record.changes.is_empty().then(|| [String::new(), String::new(), String::new()]);
                let changes = record
                    .changes
                    .iter()
                    .map(|change| [change.change.word().to_owned(), change.column.clone(), kinds(change)]);
                none.into_iter().chain(changes).map(move |[change, column, kind]| {
                    let [number, time, cause] = head.clone();
                    [number, time, cause, change, column, kind]
                })
            });
            write(["version", "at", "cause", "change", "column", "type"], rows, args.asked.format).await
        }
    }
}

async fn show(args: ShowArgs) -> Result<ExitCode> {
    let records = records(&args.asked, Some(&args.table)).await?;
    let wanted = args.number.or_else(|| records.last().map(VersionRecord::number));
    let record = pick(&records, wanted)?;
    if args.sql {
        println!("{}", record.version.select(&record.table));
        return Ok(ExitCode::SUCCESS);
    }
    let columns = record.version.columns.iter().enumerate().filter(|(at, _)| !record.version.is_superseded(*at));
    let rows = columns.map(|(at, newest)| {
        let family = record.version.columns.iter().zip(&record.first_seen);
        let family: Vec<_> = family.filter(|(column, _)| column.logical() == newest.logical()).collect();
        let was: Vec<&str> = family.iter().rev().skip(1).map(|(column, _)| column.kind.word()).collect();
        let note = match (at < record.version.keys, was.as_slice()) {
            (true, _) => "key".to_owned(),
            (false, []) => String::new(),
            (false, was) => format!("was {}", was.join(", ")),
        };
        let seen = family.first().and_then(|(_, seen)| seen.as_ref()).map(place).unwrap_or_default();
        [newest.logical().to_owned(), newest.kind.word().to_owned(), newest.path.to_string(), seen, note]
    });
    if args.asked.format == shell::Format::Table {
        println!("{}, schema version {} since {}, by {}", record.table, record.number(), time(record), cause(record));
    }
    write(["column", "type", "path", "first_seen", "note"], rows, args.asked.format).await
}

async fn diff(args: DiffArgs) -> Result<ExitCode> {
    let records = records(&args.asked, Some(&args.table)).await?;
    let newest = args.to.or_else(|| records.last().map(VersionRecord::number));
    let to = pick(&records, newest)?;
    let from = match args.from.or(to.parent) {
        Some(from) => Some(pick(&records, Some(from))?.number()),
        None => None,
    };
    if from.is_some_and(|from| from > to.number()) {
        return Err(Error::new(Kind::Usage, "the older schema version comes first"));
    }
    let table = args.asked.format == shell::Format::Table;
    let between = records.iter().filter(|record| Some(record.number()) > from && record.number() <= to.number());
    let rows: Vec<[String; 6]> = between
        .flat_map(|record| record.changes.iter())
        .map(|change| {
            let mark = match change.change {
                change if !table => change.word(),
                ChangeKind::Add => "+",
                _ => "~",
            };
            let seen = change.place.as_ref().map(place).unwrap_or_default();
            let sample = change.sample.clone().unwrap_or_default();
            [mark.to_owned(), change.column.clone(), kinds(change), change.path.clone(), seen, sample]
        })
        .collect();
    if table {
        let from = from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
        println!("{}, schema version {from} → {}", to.table, to.number());
    }
    write(
        [if table { "" } else { "change" }, "column", "type", "path", "first_seen", "sample"],
        rows,
        args.asked.format,
    )
    .await
}

/// The recorded versions of a table, or of all, by table and number. An error if there are none.
async fn records(asked: &Asked, table: Option<&str>) -> Result<Vec<VersionRecord>> {
    let mut target = sql::target(asked.url.as_deref(), asked.project.as_deref(), &asked.overrides).await?;
    let only = table.map(|table| format!("WHERE table_name = '{}'", table.replace('\'', "''"))).unwrap_or_default();
    let batches = rows(target.as_mut(), &format!("SELECT * FROM system.schema_versions {only}")).await?;
    let mut records = Vec::new();
    for batch in batches {
        let unreadable = |error| Error::new(Kind::Internal, "a schema version cannot be read").because(error);
        records.extend(VersionRecord::read(&batch).map_err(unreadable)?);
    }
    records.sort_by(|a, b| (&a.table, a.number()).cmp(&(&b.table, b.number())));
    match table {
        Some(table) if records.is_empty() => {
            let text = format!("table `{table}` has no schema version");
            Err(Error::new(Kind::NotFound, text).hint("`millpond schema list` shows the tables that have"))
        }
        _ => Ok(records),
    }
}

async fn rows(target: &mut dyn Target, sql: &str) -> Result<Vec<RecordBatch>> {
    let (_, rows) = target.query(sql).await?;
    rows.try_collect().await
}

fn newest(records: Vec<VersionRecord>) -> Vec<VersionRecord> {
    let by_table: BTreeMap<String, VersionRecord> =
        records.into_iter().map(|record| (record.table.clone(), record)).collect();
    by_table.into_values().collect()
}

fn pick(records: &[VersionRecord], number: Option<u32>) -> Result<&VersionRecord> {
    records.iter().find(|record| Some(record.number()) == number).ok_or_else(|| {
        let known: Vec<String> = records.iter().map(|record| record.number().to_string()).collect();
        let table = records.first().map(|record| record.table.as_str()).unwrap_or_default();
        let text = format!("table `{table}` has no schema version {}", number.unwrap_or_default());
        Error::new(Kind::NotFound, text).hint(format!("it has {}", known.join(", ")))
    })
}

fn time(record: &VersionRecord) -> String {
    let at = chrono::DateTime::from_timestamp_micros(record.at_us).unwrap_or_default();
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

fn cause(record: &VersionRecord) -> String {
    match &record.cause {
        crate::schema::Cause::Record(at) => place(at),
        crate::schema::Cause::Edit(file) => file.clone(),
        crate::schema::Cause::Adopted => "a lake without records".to_owned(),
    }
}

fn place(at: &Place) -> String {
    format!("{}/{} offset {}", at.topic, at.partition, at.offset)
}

fn kinds(change: &Change) -> String {
    match &change.was {
        Some(was) => format!("{was} → {}", change.kind),
        None => change.kind.clone(),
    }
}

async fn write<const N: usize>(
    names: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    format: shell::Format,
) -> Result<ExitCode> {
    let mut columns: Vec<Vec<String>> = vec![Vec::new(); N];
    for row in rows {
        columns.iter_mut().zip(row).for_each(|(column, cell)| column.push(cell));
    }
    let columns = names.iter().zip(columns).map(|(name, column)| {
        let array: ArrayRef = match *name {
            "version" | "columns" => Arc::new(column.iter().map(|cell| cell.parse().ok()).collect::<Int64Array>()),
            _ => Arc::new(StringArray::from(column)),
        };
        (*name, array)
    });
    let batch = RecordBatch::try_from_iter(columns)
        .map_err(|error| Error::new(Kind::Internal, "rows cannot be written").because(error))?;
    let schema: SchemaRef = batch.schema();
    shell::show(schema, vec![batch], format).await?;
    Ok(ExitCode::SUCCESS)
}
