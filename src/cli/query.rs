//! `millpond query`: the project's queries, how they get on, and tables made anew at once.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;

use super::place::{Place, Where, ask};
use super::shell::Format;
use crate::engine::dead_letters::literal;
use crate::engine::table_queries::{ACTION, Parts, Report, Request, without_server};
use crate::error::Result;

#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    millpond query list\n  \
    millpond query show enriched_daily\n  \
    millpond query run enriched_daily --from 2026-11-01 --to 2026-11-07")]
pub(super) enum QueryCommand {
    /// The queries of the running server: rules, streams, tables, and how they get on
    List(ListArgs),
    /// One query: how it gets on, and its last runs if it makes a table
    Show(ShowArgs),
    /// Make the table of a query of kind \"table\" anew now
    Run(RunArgs),
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
pub(super) struct ShowArgs {
    /// The query
    query: String,
    /// Not more than so many runs
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u64,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond query run enriched_daily                        what changed since it was made\n  \
    millpond query run enriched_daily --full                 all of it\n  \
    millpond query run enriched_daily --from 2026-11-01      these parts, whether they changed or not")]
pub(super) struct RunArgs {
    /// The query, of kind \"table\"
    query: String,
    /// The first part (value of its partition_by) that is made anew [default: from the beginning]
    #[arg(long, value_name = "PART", conflicts_with = "full")]
    from: Option<String>,
    /// The last one [default: to the end]
    #[arg(long, value_name = "PART", conflicts_with = "full")]
    to: Option<String>,
    /// All of it
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    place: Where,
}

const LIST: &str = "SELECT query_name, kind, class, state, rows, error FROM system.queries";
const RUNS: &str = "SELECT run, state, mode, asked_by, due_at, started_at, ended_at, partitions, first_partition, \
     last_partition, rows, table_version, error FROM system.query_runs";

pub(super) async fn run(command: QueryCommand) -> Result<ExitCode> {
    match command {
        QueryCommand::List(ListArgs { format, place }) => {
            place.print(vec![format!("{LIST} ORDER BY query_name")], format).await
        }
        QueryCommand::Show(ShowArgs { query, limit, format, place }) => {
            let name = literal(&query);
            let of_query = format!("SELECT * FROM system.queries WHERE query_name = {name}");
            let runs = format!("{RUNS} WHERE query_name = {name} ORDER BY started_at DESC LIMIT {limit}");
            place.print(vec![of_query, runs], format).await
        }
        QueryCommand::Run(args) => {
            let parts = match (args.full, args.from, args.to) {
                (true, ..) => Parts::All,
                (false, None, None) => Parts::Changed,
                (false, from, to) => Parts::Between { from, to },
            };
            let request = Request { query: args.query, parts };
            let report: Report = match args.place.find().await? {
                Place::Server(mut server) => ask(&mut server, ACTION, &request).await?,
                Place::Lake(project, variables) => without_server(&project, &variables, &request).await?,
            };
            tell(&request.query, &report);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn tell(name: &str, report: &Report) {
    let Report { mode, parts, rows, bytes, table_version, took_ms, .. } = report;
    let Some(version) = table_version else {
        say!("{name}: nothing changed since it was made");
        return;
    };
    let of = match (&**mode, &parts[..]) {
        ("full", _) => "all of it".to_owned(),
        (_, [one]) => one.clone(),
        (_, [first, .., last]) => format!("{} parts from {first} to {last}", parts.len()),
        _ => "no part".to_owned(),
    };
    let seconds = *took_ms as f64 / 1_000.0;
    say!("{name}: made anew, {of}: {rows} rows, {}, in {seconds:.1} s (table version {version})", HumanBytes(*bytes));
}
