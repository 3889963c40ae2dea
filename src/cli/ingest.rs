//! `millpond ingest`: what is read, how far, and how far behind.

use std::process::ExitCode;

use chrono::DateTime;
use clap::{Args, Subcommand, ValueEnum};

use super::place::{Place, Where, ask, ask_telling, progress_bar};
use super::sql::server;
use super::{Overrides, ProjectArgs, shell};
use crate::engine::positions::{ACTION, Accepted, Moved, Request, Seek, To, accept_cluster, without_server};
use crate::engine::replay::{self, Progress, Report};
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
pub(super) enum IngestCommand {
    /// Positions, lag and state per table and partition
    Status(StatusArgs),
    /// Put a table together anew: from the tables it comes from, from its records as they came, or from Kafka
    Replay(ReplayArgs),
    /// Feed a table no more, until it is resumed; over restarts, too
    Pause(PauseArgs),
    /// Feed a table again, from where it is
    Resume(PauseArgs),
    /// Lead a table past records, or into a topic that was made anew
    Seek(SeekArgs),
    /// Go on with another Kafka cluster
    AcceptCluster(AcceptArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond ingest pause telemetry\n  \
    millpond ingest resume telemetry")]
pub(super) struct PauseArgs {
    /// The table that a topic feeds
    table: String,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond ingest seek telemetry --to earliest --dry-run\n  \
    millpond ingest seek telemetry --to 2026-11-20T09:00:00+09:00\n  \
    millpond ingest seek telemetry --topic fleet.telemetry --partition 3 --to 120034\n\n\
    What is passed over is noted in system.gaps. Backwards: millpond table restore --rewind")]
pub(super) struct SeekArgs {
    /// The table that a topic feeds
    table: String,
    /// Where it reads on: earliest, latest, a time with its offset from UTC, or an offset
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: To,
    /// One of its topics
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// One partition
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond ingest accept-cluster --dry-run\n  \
    millpond ingest accept-cluster --keep-positions       a copy of the cluster with the same offsets")]
pub(super) struct AcceptArgs {
    /// Go on at the same offsets, instead of at the beginning of each topic
    #[arg(long)]
    keep_positions: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    project: ProjectArgs,
}

fn place(text: &str) -> std::result::Result<To, String> {
    match text {
        "earliest" => Ok(To::Earliest),
        "latest" => Ok(To::Latest),
        _ => match (text.parse::<i64>(), DateTime::parse_from_rfc3339(text)) {
            (Ok(offset), _) if offset >= 0 => Ok(To::Offset(offset)),
            (_, Ok(time)) => Ok(To::Time(time.to_utc())),
            _ => Err("say earliest, latest, an offset, or a time such as 2026-11-20T09:00:00+09:00".to_owned()),
        },
    }
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond ingest replay car_state --from tables\n  \
    millpond ingest replay telemetry --from raw\n  \
    millpond ingest replay telemetry --from kafka --url grpc://127.0.0.1:32010\n\n\
    A table that a topic feeds is decoded again with its file in schemas/ as it is now. Its stream goes on meanwhile.\n\
    What Kafka or the raw table do not hold any more keeps its rows, and so does what can be no row any more.\n\
    `millpond table restore --keep-positions` takes it back.")]
pub(super) struct ReplayArgs {
    /// The table; its rows are shown as they are until the new ones are there
    table: String,
    /// What it is put together from
    #[arg(long, value_enum)]
    from: From,
    #[command(flatten)]
    place: Where,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// The tables of the lake that feed it: a mirror or latest table
    Tables,
    /// The records as they came, which `raw = true` keeps
    Raw,
    /// The records that Kafka holds
    Kafka,
}

impl From {
    fn of_engine(self) -> replay::Origin {
        match self {
            Self::Tables => replay::Origin::Tables,
            Self::Raw => replay::Origin::Raw,
            Self::Kafka => replay::Origin::Kafka,
        }
    }
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
        IngestCommand::Pause(PauseArgs { table, place }) => {
            change(Request::Pause(table.clone()), &place).await?;
            say!("{table} is not fed any more: `millpond ingest resume {table}` feeds it again");
            Ok(ExitCode::SUCCESS)
        }
        IngestCommand::Resume(PauseArgs { table, place }) => {
            change(Request::Resume(table.clone()), &place).await?;
            say!("{table} is fed again");
            Ok(ExitCode::SUCCESS)
        }
        IngestCommand::Seek(args) => seek(args).await,
        IngestCommand::AcceptCluster(args) => accept(args).await,
    }
}

async fn change(request: Request, place: &Where) -> Result<Vec<Moved>> {
    match place.find().await? {
        Place::Server(mut server) => ask(&mut server, ACTION, &request).await,
        Place::Lake(project, variables) => without_server(&project, &variables, request).await,
    }
}

async fn seek(args: SeekArgs) -> Result<ExitCode> {
    let SeekArgs { table, to, topic, partition, dry_run, place } = args;
    let moved = change(Request::Seek(Seek { table: table.clone(), topic, partition, to, dry_run }), &place).await?;
    if moved.is_empty() {
        say!("{table} is there already");
    }
    moved.iter().for_each(|moved| tell(moved, dry_run));
    Ok(ExitCode::SUCCESS)
}

fn tell(moved: &Moved, dry_run: bool) {
    let Moved { table, topic, partition, from, to, life } = moved;
    let reads = if dry_run { "would read on" } else { "reads on" };
    let what = match (life, from) {
        (Some(life), _) => format!(" of the topic as it was made anew (incarnation {life})"),
        (None, Some(from)) => format!("; {} offsets from {from} are passed over", to - from),
        (None, None) => String::new(),
    };
    say!("{table}: {topic} partition {partition} {reads} at {to}{what}");
}

async fn accept(args: AcceptArgs) -> Result<ExitCode> {
    let (project, options) = args.project.load()?;
    let AcceptArgs { keep_positions, dry_run, .. } = args;
    let accepted = accept_cluster(&project, &options.vars, keep_positions, dry_run).await?;
    let Accepted { before, now, moved } = accepted;
    match &before {
        Some(before) if *before == now => {
            say!("the lake is fed from cluster `{now}` already");
            return Ok(ExitCode::SUCCESS);
        }
        before => {
            let before = before.as_ref().map_or("none so far".to_owned(), |before| format!("before from `{before}`"));
            let is = if dry_run { "would be" } else { "is" };
            say!("the lake {is} fed from cluster `{now}` from now on; {before}");
        }
    }
    moved.iter().for_each(|moved| tell(moved, dry_run));
    Ok(ExitCode::SUCCESS)
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
    let request = replay::Request { table: args.table, from: args.from.of_engine() };
    let bar = progress_bar("{bar:40} {pos} of {len} records  {per_sec}  {eta} left");
    let mut show = |progress: Progress| {
        bar.set_length(progress.all);
        bar.set_position(progress.read);
    };
    let done = match args.place.find().await? {
        Place::Server(mut server) => ask_telling(&mut server, replay::ACTION, &request, &mut show).await,
        Place::Lake(project, variables) => replay::without_server(&project, &variables, &request, &mut show).await,
    };
    bar.finish_and_clear();
    tell_replayed(args.from, &done?);
    Ok(ExitCode::SUCCESS)
}

fn tell_replayed(from: From, report: &Report) {
    let Report { table, records, rows, gone, kept, dead, retried, made_anew, to_be_made_anew } = report;
    if from == From::Tables {
        say!("{table} has {rows} rows");
        return;
    }
    say!("{table}: {records} records read, {rows} rows in the place of {gone}");
    if *kept > 0 {
        say!("  {kept} records can be no rows any more, and keep those they had");
    }
    if *dead > 0 {
        say!("  {dead} records are dead letters now: millpond dead-letters list {table}");
    }
    if *retried > 0 {
        say!("  {retried} dead letters are rows now");
    }
    if !made_anew.is_empty() {
        say!("  put together anew: {}", made_anew.join(", "));
    }
    if !to_be_made_anew.is_empty() {
        say!("  put together anew when the server starts: {}", to_be_made_anew.join(", "));
    }
}

async fn status(args: StatusArgs) -> Result<ExitCode> {
    show(STATUS, args.format, args.url.as_ref(), &args.overrides).await
}
