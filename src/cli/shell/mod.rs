//! `millpond sql`: statements from the command line, a file, standard input or a prompt, against a server or
//! straight on a lake.
//!
//! Rows go to standard output, everything else (counts, errors) to standard error, so output can be piped. The
//! first statement that fails ends a script with exit code 1; the prompt goes on.

mod complete;
mod format;
mod prompt;
mod target;

#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use clap::{Args, ValueEnum};
use futures::{StreamExt, stream};

pub(super) use format::write as write_rows;
pub use target::{Local, Remote, Results, Target};

use crate::error::{Error, Kind, Result};
use crate::query;

/// Arguments of `millpond sql`.
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = "Examples:\n  \
    millpond sql                                          a prompt on the running server\n  \
    millpond sql -c 'SELECT count(*) FROM telemetry'\n  \
    millpond sql -c 'SUBSCRIBE SELECT car_id, speed_kmh FROM telemetry WHERE speed_kmh > 100'\n  \
    millpond sql --url grpc://127.0.0.1:32010 -f report.sql --format csv > report.csv")]
pub struct SqlArgs {
    /// Run one statement; may be given several times
    #[arg(short, long, value_name = "SQL")]
    pub command: Vec<String>,
    /// Run the statements of a file, in order
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    pub file: Option<PathBuf>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL", conflicts_with = "project")]
    pub url: Option<String>,
    /// Read this project's lake directly, without a server
    #[arg(long, value_name = "DIR")]
    pub project: Option<PathBuf>,
}

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns side by side, cut to the width of the terminal
    #[default]
    Table,
    /// Comma-separated values with a header
    Csv,
    /// One array of objects
    Json,
    /// One object per line
    Ndjson,
}

/// Runs what the arguments ask for against `target`. The exit code is 1 if a statement failed.
pub async fn run(args: SqlArgs, mut target: Box<dyn Target>) -> anyhow::Result<ExitCode> {
    let statements = match (&args.command[..], &args.file) {
        ([], None) if io::stdin().is_terminal() => {
            prompt::run(target.as_mut(), args.format).await?;
            return Ok(ExitCode::SUCCESS);
        }
        ([], None) => {
            let mut script = String::new();
            io::stdin().read_to_string(&mut script).context("standard input cannot be read")?;
            cut(&script)
        }
        ([], Some(file)) => {
            let script = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
            cut(&script)
        }
        (commands, _) => Ok(commands.to_vec()),
    };
    let statements = match statements {
        Ok(statements) => statements,
        Err(error) => return Ok(fail(&error)),
    };
    for sql in statements {
        match execute(target.as_mut(), &sql, args.format, &mut io::stdout()).await? {
            Ok(done) => done.say(true),
            Err(error) => return Ok(fail(&error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `rows` to standard output.
pub async fn show(schema: SchemaRef, rows: Vec<RecordBatch>, format: Format) -> Result<()> {
    let results: Results = (schema, stream::iter(rows.into_iter().map(Ok)).boxed());
    match format::write(results, format, false, &mut io::stdout()).await {
        Ok(written) => written.map(drop),
        // `| head` closed the pipe: it has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::new(Kind::Internal, "rows cannot be written").because(error)),
    }
}

fn cut(script: &str) -> Result<Vec<String>> {
    let query::Script { mut complete, rest } = query::split(script)?;
    complete.extend((!rest.is_empty()).then_some(rest));
    Ok(complete)
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Runs one statement and writes its rows. The outer error is of writing, the inner one of the statement.
async fn execute(
    target: &mut dyn Target,
    sql: &str,
    format: Format,
    out: &mut (impl Write + Send),
) -> anyhow::Result<Result<Done>> {
    let started = Instant::now();
    let results = match target.query(sql).await {
        Ok(results) => results,
        Err(error) => return Ok(Err(error)),
    };
    match format::write(results, format, query::is_subscription(sql), out).await {
        Ok(Ok(rows)) => {
            let rows = (format == Format::Table).then_some(rows);
            Ok(Ok(Done { rows, taken: started.elapsed() }))
        }
        Ok(Err(error)) => Ok(Err(error)),
        // `| head` closed the pipe: it has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(Ok(Done { rows: None, taken: started.elapsed() }))
        }
        Err(error) => Err(error).context("rows cannot be written"),
    }
}

/// What is said of a statement when its rows are written.
#[derive(Debug)]
struct Done {
    /// Their number, if people read them.
    rows: Option<usize>,
    taken: Duration,
}

impl Done {
    fn say(&self, timing: bool) {
        let Some(rows) = self.rows else { return };
        let plural = if rows == 1 { "" } else { "s" };
        let taken = if timing { format!(" in {:.1?}", self.taken) } else { String::new() };
        eprintln!("{rows} row{plural}{taken}");
    }
}
