//! `millpond ingest`: what is read, how far, and how far behind.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::sql::server;
use super::{Overrides, shell};
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
pub(super) enum IngestCommand {
    /// Positions, lag and state per table and partition
    Status(StatusArgs),
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
    let IngestCommand::Status(args) = command;
    let url = match &args.url {
        Some(url) => url.clone(),
        None => server(&args.overrides)?,
    };
    let target = shell::Remote::connect(&url).await?;
    let sql = shell::SqlArgs { command: vec![STATUS.to_owned()], format: args.format, ..shell::SqlArgs::default() };
    shell::run(sql, Box::new(target)).await.map_err(|error| Error::new(Kind::Query, format!("{error:#}")))
}
