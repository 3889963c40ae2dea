//! `millpond dead-letters`: records that could not become rows, and what to do with them.
//!
//! What only looks is SQL, asked of the project's server or, if none answers, of its lake. What changes something goes
//! to that server; without one this process becomes the lake's writer for as long as it takes.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use clap::{Args, Subcommand, ValueEnum};
use futures::StreamExt;

use super::place::{Place, Where, ask};
use super::shell::{self, Format, Results, Target};
use crate::engine::dead_letters::{ACTION, Request, What, letters_sql, literal, without_server};
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    millpond dead-letters list                                how many, per table and reason\n  \
    millpond dead-letters list telemetry\n  \
    millpond dead-letters show telemetry --reason misfit --limit 1\n  \
    millpond dead-letters retry telemetry                     after the contract was corrected\n  \
    millpond dead-letters discard telemetry --reason not_json\n  \
    millpond dead-letters export telemetry --format raw > payloads.ndjson")]
pub(super) enum DeadLettersCommand {
    /// How many there are per table and reason; with TABLE a line for each
    List(ListArgs),
    /// Letters whole: key, payload, headers, reason
    Show(ShowArgs),
    /// Decode them again with today's contract; what can be rows becomes rows, once
    Retry(ChangeArgs),
    /// Give them up; they stay in system.dead_letters
    Discard(ChangeArgs),
    /// Write their payloads
    Export(ExportArgs),
}

/// Which letters.
#[derive(Args, Debug)]
pub(super) struct Which {
    /// Only those with this reason code
    #[arg(long, value_name = "CODE")]
    reason: Option<String>,
    /// Not more than so many, in the order of the stream
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum State {
    /// Neither retried nor discarded
    #[default]
    Dead,
    /// Their rows are in the table
    Retried,
    /// Given up
    Discarded,
    /// All there ever were
    All,
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// The table they would be rows of
    table: Option<String>,
    #[command(flatten)]
    which: Which,
    /// Only those in this state
    #[arg(long, value_enum, default_value_t)]
    state: State,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The table they would be rows of
    table: String,
    #[command(flatten)]
    which: Which,
    /// Only those in this state
    #[arg(long, value_enum, default_value_t)]
    state: State,
    /// How letters are written
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
pub(super) struct ChangeArgs {
    /// The table they would be rows of
    table: String,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ExportFormat {
    /// One object per letter with all that is known of it
    #[default]
    Ndjson,
    /// The payloads as they came, each followed by a line break
    Raw,
}

#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    /// The table they would be rows of
    table: String,
    #[command(flatten)]
    which: Which,
    /// Only those in this state
    #[arg(long, value_enum, default_value_t)]
    state: State,
    /// How payloads are written
    #[arg(long, value_enum, default_value_t)]
    format: ExportFormat,
    #[command(flatten)]
    place: Where,
}

const ORDER: &str = "ORDER BY _topic, _incarnation, _partition, _offset";

pub(super) async fn run(command: DeadLettersCommand) -> Result<ExitCode> {
    match command {
        DeadLettersCommand::List(ListArgs { table: None, which, state, format, place }) => {
            let sql = format!(
                "SELECT table_name, state, reason, count(*) AS records, min(_timestamp) AS oldest, \
                 max(_timestamp) AS newest FROM ({}) {} GROUP BY table_name, state, reason \
                 ORDER BY table_name, state, reason{}",
                letters_sql(),
                filter(None, &which, state),
                limit(&which)
            );
            print(sql, format, &place).await
        }
        DeadLettersCommand::List(ListArgs { table, which, state, format, place }) => {
            let columns = "state, _topic, _incarnation, _partition, _offset, _timestamp, reason, message";
            print(select(columns, table.as_deref(), &which, state), format, &place).await
        }
        DeadLettersCommand::Show(args) => {
            print(select("*", Some(&args.table), &args.which, args.state), args.format, &args.place).await
        }
        DeadLettersCommand::Export(args) => match args.format {
            ExportFormat::Ndjson => {
                print(select("*", Some(&args.table), &args.which, args.state), Format::Ndjson, &args.place).await
            }
            ExportFormat::Raw => raw(&select("payload", Some(&args.table), &args.which, args.state), &args.place).await,
        },
        DeadLettersCommand::Retry(args) => change(What::Retry, args).await,
        DeadLettersCommand::Discard(args) => change(What::Discard, args).await,
    }
}

fn select(columns: &str, table: Option<&str>, which: &Which, state: State) -> String {
    format!("SELECT {columns} FROM ({}) {} {ORDER}{}", letters_sql(), filter(table, which, state), limit(which))
}

fn filter(table: Option<&str>, which: &Which, state: State) -> String {
    let equal = |column: &str, value: &str| format!("{column} = {}", literal(value));
    let state = match state {
        State::Dead => Some("dead"),
        State::Retried => Some("retried"),
        State::Discarded => Some("discarded"),
        State::All => None,
    };
    let conditions: Vec<String> = [("table_name", table), ("reason", which.reason.as_deref()), ("state", state)]
        .into_iter()
        .filter_map(|(column, value)| Some(equal(column, value?)))
        .collect();
    if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) }
}

fn limit(which: &Which) -> String {
    which.limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default()
}

async fn print(sql: String, format: Format, place: &Where) -> Result<ExitCode> {
    let target = Readable(place.target().await?);
    let sql = shell::SqlArgs { command: vec![sql], format, ..shell::SqlArgs::default() };
    shell::run(sql, Box::new(target)).await.map_err(|error| Error::new(Kind::Query, format!("{error:#}")))
}

async fn raw(sql: &str, place: &Where) -> Result<ExitCode> {
    let (_, mut batches) = place.target().await?.query(sql).await?;
    let mut out = std::io::stdout().lock();
    while let Some(batch) = batches.next().await.transpose()? {
        for payload in batch.column(0).as_binary::<i32>().iter().flatten() {
            if out.write_all(payload).and_then(|()| out.write_all(b"\n")).is_err() {
                // Who has closed the pipe has seen enough.
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(what: What, args: ChangeArgs) -> Result<ExitCode> {
    let ChangeArgs { table, which, place } = args;
    let request = Request { what, table, reason: which.reason, limit: which.limit };
    let done = match place.find().await? {
        Place::Server(mut server) => ask(&mut server, ACTION, &request).await?,
        Place::Lake(project, variables) => without_server(&project, &variables, &request).await?,
    };
    let records = |n: u64| if n == 1 { "1 record".to_owned() } else { format!("{n} records") };
    match what {
        What::Discard => say!("{} discarded", records(done.discarded)),
        What::Retry => {
            say!("{} retried", records(done.retried.retried));
            if done.retried.dead > 0 {
                say!("{} still cannot become rows: `millpond dead-letters list` says why", records(done.retried.dead));
            }
            if done.retried.later > 0 {
                say!("{} left to the stream, which has yet to come to them", records(done.retried.later));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A target whose binary columns are text: as it is where it is UTF-8, else `\x` and hexadecimal digits.
struct Readable(Box<dyn Target>);

#[async_trait]
impl Target for Readable {
    async fn query(&mut self, sql: &str) -> Result<Results> {
        let (schema, batches) = self.0.query(sql).await?;
        let shown = readable_schema(&schema);
        let to = Arc::clone(&shown);
        let batches = batches.map(move |batch| {
            readable(&batch?, &to).map_err(|error| Error::new(Kind::Internal, "rows cannot be shown").because(error))
        });
        Ok((shown, batches.boxed()))
    }
}

fn readable_schema(schema: &Schema) -> SchemaRef {
    let shown = |field: &Arc<Field>| match field.data_type() {
        DataType::Binary => field.as_ref().clone().with_data_type(DataType::Utf8),
        _ => field.as_ref().clone(),
    };
    Arc::new(Schema::new(schema.fields().iter().map(shown).collect::<Vec<_>>()))
}

fn readable(batch: &RecordBatch, to: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("\\x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    };
    let column = |column: &ArrayRef| -> ArrayRef {
        match column.as_any().downcast_ref::<BinaryArray>() {
            Some(bytes) => Arc::new(bytes.iter().map(|bytes| bytes.map(text)).collect::<StringArray>()),
            None => Arc::clone(column),
        }
    };
    RecordBatch::try_new(Arc::clone(to), batch.columns().iter().map(column).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_text_or_as_digits() {
        let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"a\"b"), Some(b"\xff\x00\x1f"), None]));
        let batch = RecordBatch::try_from_iter([("payload", bytes)]).unwrap();
        let shown = readable(&batch, &readable_schema(&batch.schema())).unwrap();
        let shown: Vec<_> = shown.column(0).as_string::<i32>().iter().collect();
        assert_eq!(shown, [Some("a\"b"), Some("\\xff001f"), None]);
    }

    #[test]
    fn a_quote_in_a_name_stays_in_the_text() {
        let which = Which { reason: Some("it's".to_owned()), limit: Some(3) };
        let sql = select("*", Some("t"), &which, State::Dead);
        assert!(
            sql.ends_with(&format!("WHERE table_name = 't' AND reason = 'it''s' AND state = 'dead' {ORDER} LIMIT 3")),
            "{sql}"
        );
    }
}
