//! `millpond table`: what the lake has of each table, and care for it beyond what the server does by itself.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args, Subcommand};

use super::place::{Place, Where, ask};
use super::shell::Format;
use crate::engine::care::{ACTION, Done, Moment, OfPositions, Request, What, without_server};
use crate::engine::dead_letters::literal;
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    millpond table list\n  \
    millpond table describe telemetry\n  \
    millpond table history telemetry --limit 5\n  \
    millpond table optimize telemetry --dry-run\n  \
    millpond table vacuum --full\n  \
    millpond table restore telemetry --version 120 --rewind --dry-run")]
pub(super) enum TableCommand {
    /// All tables: kind, versions, files, bytes
    List(ListArgs),
    /// One table: what it is, its columns, and its files by partition
    Describe(DescribeArgs),
    /// What was done to a table, the newest version first
    History(HistoryArgs),
    /// Make few files of many now; the server does it by itself as they gather
    Optimize(OptimizeArgs),
    /// Delete now what is older than lake.history and retention say; the server does it every hour
    Vacuum(VacuumArgs),
    /// Make a table what it was at a table version or a time
    Restore(RestoreArgs),
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
pub(super) struct DescribeArgs {
    /// The table
    table: String,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
pub(super) struct HistoryArgs {
    /// The table; those of schema system as system.<name>
    table: String,
    /// Not more than so many versions
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u64,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
pub(super) struct OptimizeArgs {
    /// The table; all if none is named
    table: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
pub(super) struct VacuumArgs {
    /// The table; all if none is named
    table: Option<String>,
    /// Also delete files that no commit names: a kill may leave them
    #[arg(long)]
    full: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Args, Debug)]
#[command(disable_version_flag = true, group(ArgGroup::new("moment").required(true).args(["version", "time"])))]
#[command(after_help = "Examples:\n  \
    millpond table restore telemetry --version 120 --rewind       after its contract was corrected: read again since\n  \
    millpond table restore telemetry --time 2026-11-20T09:00:00+09:00 --keep-positions --dry-run")]
pub(super) struct RestoreArgs {
    /// The table; child tables and raw records beside it stay as they are
    table: String,
    /// The table version whose rows it is to have: `millpond table history` shows them
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// The newest table version that was committed by then, with its offset from UTC
    #[arg(long, value_name = "TIME")]
    time: Option<DateTime<Utc>>,
    /// Read again what came from Kafka since
    #[arg(long)]
    rewind: bool,
    /// Leave out for good what came from Kafka since
    #[arg(long, conflicts_with = "rewind")]
    keep_positions: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

const LIST: &str = "SELECT t.table_name, t.kind, t.schema_version, t.table_version, f.files, f.rows AS committed_rows, \
     f.bytes, t.hot_rows FROM system.tables t LEFT JOIN (SELECT table_name, count(*) AS files, sum(rows) AS rows, \
     sum(bytes) AS bytes FROM system.files GROUP BY table_name) f ON f.table_name = t.table_name";

pub(super) async fn run(command: TableCommand) -> Result<ExitCode> {
    match command {
        TableCommand::List(args) => args.place.print(vec![format!("{LIST} ORDER BY t.table_name")], args.format).await,
        TableCommand::Describe(args) => describe(args).await,
        TableCommand::History(args) => history(args).await,
        TableCommand::Optimize(OptimizeArgs { table, dry_run, place }) => {
            change(&Request { what: What::Optimize, table, dry_run }, &place).await
        }
        TableCommand::Vacuum(VacuumArgs { table, full, dry_run, place }) => {
            change(&Request { what: What::Vacuum { full }, table, dry_run }, &place).await
        }
        TableCommand::Restore(args) => {
            let at = args.version.map(Moment::Version).or(args.time.map(Moment::Time));
            let at = at.ok_or_else(|| Error::new(Kind::Usage, "give --version or --time"))?;
            let positions = match (args.rewind, args.keep_positions) {
                (true, _) => Some(OfPositions::Rewind),
                (_, true) => Some(OfPositions::Keep),
                _ => None,
            };
            let what = What::Restore { at, positions };
            change(&Request { what, table: Some(args.table), dry_run: args.dry_run }, &args.place).await
        }
    }
}

/// An error unless the query finds anything.
async fn is_there(sql: &str, table: &str, place: &Where) -> Result<()> {
    use futures::TryStreamExt as _;
    let (_, rows) = place.target().await?.query(sql).await?;
    let rows: Vec<_> = rows.try_collect().await?;
    if rows.iter().any(|rows| rows.num_rows() > 0) {
        return Ok(());
    }
    Err(Error::new(Kind::NotFound, format!("there is no table `{table}`")).hint("`millpond table list` shows them"))
}

async fn describe(args: DescribeArgs) -> Result<ExitCode> {
    let name = literal(&args.table);
    let what = format!("{LIST} WHERE t.table_name = {name}");
    is_there(&what, &args.table, &args.place).await?;
    let columns = format!("SELECT column_name, type, path, description FROM system.columns WHERE table_name = {name}");
    let files = format!(
        "SELECT partition, count(*) AS files, sum(rows) AS rows, sum(bytes) AS bytes, max(bytes) AS largest_bytes, \
         max(modified_at) AS modified_at FROM system.files WHERE table_name = {name} GROUP BY partition ORDER BY partition"
    );
    args.place.print(vec![what, columns, files], args.format).await
}

async fn history(args: HistoryArgs) -> Result<ExitCode> {
    let of_table = format!("FROM system.history WHERE table_name = {}", literal(&args.table));
    is_there(&format!("SELECT 1 {of_table} LIMIT 1"), &args.table, &args.place).await?;
    let sql = format!(
        "SELECT table_version, committed_at, operation, files_added, rows_added, bytes_added, files_removed, \
         bytes_removed, readable {of_table} ORDER BY table_version DESC LIMIT {}",
        args.limit
    );
    args.place.print(vec![sql], args.format).await
}

async fn change(request: &Request, place: &Where) -> Result<ExitCode> {
    let done: Vec<Done> = match place.find().await? {
        Place::Server(mut server) => ask(&mut server, ACTION, request).await?,
        Place::Lake(project, variables) => without_server(&project, &variables, request).await?,
    };
    let mut said = false;
    for done in &done {
        if let Some(line) = summary(request, done) {
            say!("{}: {line}", done.table);
            said = true;
        }
    }
    if !said {
        match request.what {
            What::Optimize => say!("nothing to merge"),
            What::Vacuum { .. } => say!("nothing to delete"),
            What::Restore { .. } => say!("nothing to restore"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done with a table, in a line; `None` if nothing was.
fn summary(request: &Request, done: &Done) -> Option<String> {
    let dry_run = request.dry_run;
    match request.what {
        What::Restore { positions, .. } => {
            let version = done.restored_to?;
            let mut line = format!(
                "{} to table version {version}: {} {} away, {} {} back",
                if dry_run { "would be restored" } else { "restored" },
                count(done.rows_gone, "row"),
                if dry_run { "would go" } else { "went" },
                count(done.rows_back, "row"),
                if dry_run { "would come" } else { "came" },
            );
            if positions == Some(OfPositions::Rewind) {
                line.push_str("; what came from Kafka since is read again");
            }
            if !done.made_anew.is_empty() {
                line.push_str(&format!("; put together anew: {}", done.made_anew.join(", ")));
            }
            if !done.to_be_made_anew.is_empty() && !dry_run {
                let tables = done.to_be_made_anew.join(", ");
                line.push_str(&format!("; put together anew when the server starts: {tables}"));
            }
            Some(line)
        }
        What::Optimize if done.files == 0 && done.left == 0 => None,
        What::Optimize if done.files == 0 => Some(format!(
            "no room to merge {}: queries take the memory, try again later (limits.memory)",
            count(done.left, "file")
        )),
        What::Optimize if dry_run => {
            Some(format!("{} of {} would be merged", count(done.files, "file"), size(done.bytes)))
        }
        What::Optimize => Some(format!(
            "{} of {} merged into {} of {}",
            count(done.files, "file"),
            size(done.bytes),
            done.into_files,
            size(done.into_bytes)
        )),
        What::Vacuum { .. } => {
            let mut parts = Vec::new();
            if done.rows > 0 {
                parts.push(format!("{} past retention", count(done.rows, "row")));
            }
            if done.deleted_files > 0 {
                parts.push(format!("{} of {}", count(done.deleted_files, "data file"), size(done.deleted_bytes)));
            }
            if done.orphans > 0 {
                parts.push(format!("({} that no commit named)", done.orphans));
            }
            if done.log_files > 0 {
                let (files, versions) = (count(done.log_files, "log file"), count(done.versions, "old table version"));
                parts.push(if done.versions > 0 { format!("{files} of {versions}") } else { files });
            }
            let verb = if dry_run { "would be deleted" } else { "deleted" };
            (!parts.is_empty()).then(|| format!("{} {verb}", parts.join(", ").replace(", (", " (")))
        }
    }
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return count(bytes, "byte");
    }
    let power = (bytes.ilog2() / 10).min(UNITS.len() as u32);
    format!("{:.1} {}", bytes as f64 / 1024f64.powi(power.cast_signed()), UNITS[power as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_done() {
        let request = |what, dry_run| Request { what, table: None, dry_run };
        let done = Done { files: 120, bytes: 1_300_000, into_files: 1, into_bytes: 900_000, ..Done::default() };
        let merged = summary(&request(What::Optimize, false), &done).unwrap();
        assert_eq!(merged, "120 files of 1.2 MiB merged into 1 of 878.9 KiB");
        let would = summary(&request(What::Optimize, true), &done).unwrap();
        assert_eq!(would, "120 files of 1.2 MiB would be merged");
        let vacuum = What::Vacuum { full: true };
        assert_eq!(summary(&request(vacuum, false), &Done::default()), None);
        let done = Done {
            rows: 1,
            versions: 3,
            deleted_files: 2,
            deleted_bytes: 900,
            log_files: 4,
            orphans: 1,
            ..Done::default()
        };
        assert_eq!(
            summary(&request(vacuum, true), &done).unwrap(),
            "1 row past retention, 2 data files of 900 bytes (1 that no commit named), 4 log files of 3 old table \
             versions would be deleted"
        );
    }
}
