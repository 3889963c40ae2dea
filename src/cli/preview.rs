//! `millpond schema preview`: what a file's records would become, before anything is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::Overrides;
use super::records::{self, Layout};
use crate::config;
use crate::decode::{Decoded, Decoder, Record, Records, RecordsBuilder};
use crate::error::{Error, Kind, Result};
use crate::schema::{Column, Contract, SchemaVersion, fixed, infer_first};

/// Characters of a sample or a payload that are shown.
const SHOWN: usize = 32;
/// What previewing may hold of a file.
const MOST_BYTES: usize = 1 << 30;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond schema preview orders.ndjson\n  \
    millpond schema preview orders.ndjson --project shop --table orders    with what its schema file says\n  \
    millpond schema preview orders.ndjson --format toml > shop/schemas/orders.toml")]
pub(super) struct PreviewArgs {
    /// A file of JSON records; `-` is standard input
    file: PathBuf,
    /// Look with the eyes of a table of this project
    #[arg(long, value_name = "DIR", requires = "table")]
    project: Option<PathBuf>,
    /// The table's name [default: the file's]
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

pub(super) fn run(args: &PreviewArgs) -> Result<ExitCode> {
    let contract = Arc::new(contract(args)?);
    let (records, unreadable) = read(args, &contract.topics[0])?;
    let preview = Preview::of(&contract, &records)
        .map_err(|error| Error::new(Kind::Internal, "the records cannot be decoded").because(error))?;
    match args.format {
        Format::Table => say!("{}", preview.text().trim_end()),
        Format::Json => say!("{:#}", preview.json()),
        Format::Toml => say!("{}", preview.toml(&contract).trim_end()),
    }
    for (line, message) in &unreadable {
        eprintln!("{}:{line}: {message}", args.file.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn contract(args: &PreviewArgs) -> Result<Contract> {
    let stem = args.file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != "-");
    let table = args.table.as_deref().or(stem).unwrap_or("records");
    let Some(dir) = &args.project else { return Ok(config::events(table)?) };
    let (project, _) = args.overrides.load(dir)?;
    let names: Vec<String> = project.tables.iter().map(|contract| contract.table.clone()).collect();
    project.tables.into_iter().find(|contract| contract.table == table).ok_or_else(|| {
        Error::new(Kind::Usage, format!("the project has no table `{table}`"))
            .hint(format!("there are: {}", names.join(", ")))
    })
}

/// The first records, and the lines that are none.
fn read(args: &PreviewArgs, topic: &str) -> Result<(Records, Vec<(u64, String)>)> {
    let mut builder = RecordsBuilder::new(0);
    let mut unreadable = Vec::new();
    let read = records::each_record(records::open(&args.file)?, Layout::Json, |line, record| {
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
        if builder.len() < args.limit && builder.size_bytes() < MOST_BYTES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    read.map_err(|error| {
        Error::new(Kind::Internal, format!("{} was not read to its end", args.file.display())).because(error)
    })?;
    Ok((builder.finish(topic.into(), 0, 0), unreadable))
}

/// What records became.
struct Preview {
    records: usize,
    version: Arc<SchemaVersion>,
    decoded: Decoded,
}

impl Preview {
    /// Decodes as a new table would: types from all records, then fields that were left out of account.
    fn of(contract: &Arc<Contract>, records: &Records) -> Result<Self, arrow::error::ArrowError> {
        let mut version = Arc::new(infer_first(contract, &[records]));
        let mut decoded = Decoder::new(Arc::clone(contract), Arc::clone(&version)).decode(records)?;
        if let Some(next) = version.evolve(contract, &decoded.found) {
            version = Arc::new(next);
            decoded = Decoder::new(Arc::clone(contract), Arc::clone(&version)).decode(records)?;
        }
        Ok(Self { records: records.len(), version, decoded })
    }

    /// Rows in which a column has a value, and the first of these values.
    fn filled(&self, column: &Column) -> (usize, String) {
        let Some(values) = self.decoded.rows.column_by_name(&column.name) else { return (0, String::new()) };
        let first = (0..values.len()).find(|row| values.is_valid(*row));
        let sample = first.and_then(|row| {
            let formatter = ArrayFormatter::try_new(values, &FormatOptions::default()).ok()?;
            Some(formatter.value(row).to_string())
        });
        (values.len() - values.null_count(), sample.unwrap_or_default())
    }

    /// How many values of each path did not fit, with the first of them.
    fn rescued(&self) -> BTreeMap<String, (usize, String)> {
        let mut paths: BTreeMap<String, (usize, String)> = BTreeMap::new();
        let rescued = self.decoded.rows.column_by_name(fixed::RESCUED).and_then(|values| values.as_string_opt::<i32>());
        for text in rescued.into_iter().flatten().flatten() {
            for (path, value) in serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default() {
                paths.entry(path).or_insert_with(|| (0, value.to_string())).0 += 1;
            }
        }
        paths
    }

    /// How many dead letters of each reason, with what the first one says and holds.
    fn dead(&self) -> BTreeMap<&'static str, (usize, &str, String)> {
        let mut reasons = BTreeMap::new();
        for letter in &self.decoded.dead {
            let payload = letter.payload.as_deref().unwrap_or_default();
            let first = || (0, letter.message.as_str(), String::from_utf8_lossy(payload).into_owned());
            reasons.entry(letter.reason.code()).or_insert_with(first).0 += 1;
        }
        reasons
    }

    fn percent(&self, count: usize) -> usize {
        (100 * count).checked_div(self.decoded.rows.num_rows()).unwrap_or(0)
    }

    fn text(&self) -> String {
        let cells: Vec<[String; 5]> =
            std::iter::once(["column", "type", "filled", "path", "sample"].map(str::to_owned))
                .chain(self.version.columns.iter().map(|column| {
                    let (count, sample) = self.filled(column);
                    let share = format!("{} %", self.percent(count));
                    [column.name.clone(), column.kind.word().to_owned(), share, column.path.to_string(), cut(&sample)]
                }))
                .collect();
        let width = |at: usize| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        let mut text = String::new();
        for [name, kind, share, path, sample] in &cells {
            let [a, b, c, d] = widths;
            let _ = writeln!(text, "{name:a$}  {kind:b$}  {share:>c$}  {path:d$}  {sample}");
        }
        let skipped: u64 = self.decoded.skipped.values().sum();
        let (records, rows, columns) = (self.records, self.decoded.rows.num_rows(), self.version.columns.len());
        let (rescued, dead) = (self.rescued(), self.dead());
        let _ = writeln!(
            text,
            "\n{records} records: {rows} rows of {columns} columns, {} values rescued, {} dead letters, {skipped} skipped",
            self.decoded.rescued,
            self.decoded.dead.len()
        );
        for (path, (count, sample)) in rescued {
            let _ = writeln!(text, "  rescued {count} of {path}, such as {}", cut(&sample));
        }
        for (reason, (count, message, payload)) in dead {
            let _ = writeln!(text, "  dead letters {count} {reason}: {message}: {}", cut(&payload));
        }
        text
    }

    fn json(&self) -> Value {
        let column = |column: &Column| {
            let (count, sample) = self.filled(column);
            let (kind, path) = (column.kind.word(), column.path.to_string());
            json!({"name": column.name, "type": kind, "path": path, "rows": count, "sample": sample})
        };
        let rescued =
            self.rescued().into_iter().map(|(path, (n, sample))| json!({"path": path, "values": n, "sample": sample}));
        let dead = self.dead().into_iter().map(|(reason, (n, message, payload))| {
            json!({"reason": reason, "records": n, "message": message, "payload": payload})
        });
        json!({
            "records": self.records,
            "rows": self.decoded.rows.num_rows(),
            "columns": self.version.columns.iter().map(column).collect::<Vec<_>>(),
            "rescued": rescued.collect::<Vec<_>>(),
            "dead_letters": dead.collect::<Vec<_>>(),
        })
    }

    /// A schema file in which every column that was seen is declared.
    fn toml(&self, contract: &Contract) -> String {
        let text = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut out = format!(
            "# The table `{}`, as {} records would have it. Name a key and a time if there are any.\n\n\
             kind  = \"events\"\ntopic = {}\n# key  = [\"id\"]        # a record without it is a dead letter\n\
             # time = {{ path = \"at\", format = \"rfc3339\" }}   # becomes event_time; else the broker's timestamp\n",
            contract.table,
            self.records,
            text(&contract.topics[0]),
        );
        for column in &self.version.columns {
            let (count, sample) = self.filled(column);
            let sample: String = cut(&sample).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let (percent, name, path) = (self.percent(count), text(&column.name), text(&column.path.to_string()));
            let _ = write!(
                out,
                "\n# in {percent} % of rows, such as {sample}\n[columns.{name}]\npath = {path}\ntype = {}\n",
                text(column.kind.word())
            );
        }
        out
    }
}

fn cut(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.chars().count() <= SHOWN { line } else { line.chars().take(SHOWN - 1).chain(['…']).collect() }
}
