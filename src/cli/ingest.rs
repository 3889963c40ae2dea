//! `millpond ingest`: what is read, how far, and how far behind.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use super::sql::server;
use super::{Overrides, shell};
use crate::engine::latest::{REPLAY, Replay, Replayed};
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
pub(super) enum IngestCommand {
    /// Positions, lag and state per table and partition
    Status(StatusArgs),
    /// Put a mirror or latest table together anew, from the tables it comes from
    Replay(ReplayArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond ingest replay car_state --from tables\n  \
    millpond ingest replay carinfo --from tables --url grpc://127.0.0.1:32010")]
pub(super) struct ReplayArgs {
    /// The table; its rows are shown as they are until the new ones are there
    table: String,
    /// What it is put together from: the tables of the lake that feed it
    #[arg(long, value_enum)]
    from: From,
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    Tables,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond ingest status\n  \
    millpond ingest status --url grpc://127.0.0.1:32010 --format json")]
pub(super) struct StatusArgs {
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: shell::Format,
    #[command(flatten)]
    overrides: Overrides,
}

const STATUS: &str = "SELECT table_name, topic, partition, state, committed_position, position, high_watermark, lag, \
     hot_rows, dead_letters, skipped, last_commit_at, error FROM system.ingest ORDER BY table_name, topic, partition";

pub(super) async fn run(command: IngestCommand) -> Result<ExitCode> {
    match command {
        IngestCommand::Status(args) => status(args).await,
        IngestCommand::Replay(args) => replay(args).await,
    }
}

pub(super) async fn connect(url: Option<&String>, overrides: &Overrides) -> Result<shell::Remote> {
    let url = match url {
        Some(url) => url.clone(),
        None => server(overrides)?,
    };
    shell::Remote::connect(&url).await
}

/// Writes the rows of a query that a server is asked.
pub(super) async fn show(
    sql: &str,
    format: shell::Format,
    url: Option<&String>,
    overrides: &Overrides,
) -> Result<ExitCode> {
    let target = connect(url, overrides).await?;
    let sql = shell::SqlArgs { command: vec![sql.to_owned()], format, ..shell::SqlArgs::default() };
    shell::run(sql, Box::new(target)).await.map_err(|error| Error::new(Kind::Query, format!("{error:#}")))
}

async fn replay(args: ReplayArgs) -> Result<ExitCode> {
    let From::Tables = args.from;
    let unreadable = |error| Error::new(Kind::Internal, "the server's answer cannot be read").because(error);
    let mut server = connect(args.url.as_ref(), &args.overrides).await?;
    let body = serde_json::to_vec(&Replay { table: args.table.clone() }).map_err(unreadable)?;
    let answer = server.act(REPLAY, body.into()).await?;
    let Replayed { rows } = serde_json::from_slice(&answer).map_err(unreadable)?;
    say!("{} has {rows} rows", args.table);
    Ok(ExitCode::SUCCESS)
}

async fn status(args: StatusArgs) -> Result<ExitCode> {
    show(STATUS, args.format, args.url.as_ref(), &args.overrides).await
}
