//! `millpond import`: files become rows of a table, each file once.

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use indicatif::HumanBytes;

use super::place::{Place, Where, ask_telling, progress_bar};
use crate::config::Project;
use crate::engine::import::{ACTION, Progress, Report, Request, without_server};
use crate::error::{Error, Kind, Result};
use crate::schema::ImportMode;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond import trips_2025 exports/trips-*.csv.gz\n  \
    millpond import prices s3://exports/prices/*.parquet --mode replace\n  \
    millpond import members members.ndjson --mode upsert --dry-run\n\n\
    The table is one that the project declares: schemas/trips_2025.toml with the line kind = \"reference\".\n\
    With a server running it is the server that reads the files.")]
pub(super) struct ImportArgs {
    /// The table
    table: String,
    /// Files (CSV, JSON, Parquet; .gz and .zst of the first two), a folder of them, or s3://bucket/key; with * and the like
    #[arg(required = true, value_name = "FILES")]
    files: Vec<String>,
    /// What they do to the rows that are there [default: what the table's file says, else append]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Go on behind a file that is broken; exit code 1 if there was one
    #[arg(long)]
    skip_broken: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Mode {
    /// They come beside them; a file that was imported before is left out
    Append,
    /// They take the place of all rows, in one commit
    Replace,
    /// A row takes the place of the one with its key
    Upsert,
}

impl From<Mode> for ImportMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Append => Self::Append,
            Mode::Replace => Self::Replace,
            Mode::Upsert => Self::Upsert,
        }
    }
}

pub(super) async fn run(args: ImportArgs) -> Result<ExitCode> {
    let urls = args.files.iter().map(|file| absolute(file)).collect::<Result<_>>()?;
    let ImportArgs { table, mode, skip_broken, dry_run, .. } = args;
    let request = Request { table, urls, mode: mode.map(ImportMode::from), skip_broken, dry_run };
    let bar = progress_bar("{bar:40} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}");
    let mut show = |progress: Progress| {
        bar.set_length(progress.all_bytes);
        bar.set_position(progress.bytes);
        bar.set_message(format!("file {} of {}", progress.files + 1, progress.all_files));
    };
    let done = match args.place.find().await? {
        Place::Server(mut server) => ask_telling(&mut server, ACTION, &request, &mut show).await,
        Place::Lake(project, variables) => without_server(&project, &variables, &request, &mut show).await,
    };
    bar.finish_and_clear();
    let report = done?;
    tell(&request, &report);
    Ok(if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A file as whoever reads it finds it.
fn absolute(file: &str) -> Result<String> {
    let usage = |reason: String| Error::new(Kind::Usage, format!("`{file}` {reason}"));
    let here = std::env::current_dir().map_err(|error| usage("cannot be found from here".to_owned()).because(error))?;
    if !file.contains("://") {
        let path = here.join(file);
        let escaped = |path: &Path| glob::Pattern::escape(&path.display().to_string());
        if path.is_dir() {
            return Ok(format!("{}/*", escaped(&path).trim_end_matches('/')));
        }
        if path.exists() {
            return Ok(escaped(&path));
        }
    }
    Project::files_url(file, &here).map_err(usage)
}

fn tell(request: &Request, report: &Report) {
    let table = &request.table;
    for broken in &report.broken {
        say!("broken: {broken}");
    }
    let files = |count: u64| if count == 1 { "1 file".to_owned() } else { format!("{count} files") };
    let held = match report.held {
        0 => String::new(),
        held => format!("; {} had been imported before", files(held)),
    };
    if request.dry_run {
        say!("{table}: {} with {} would be imported{held}", files(report.files), HumanBytes(report.bytes));
        return;
    }
    match report.files {
        0 => say!("{table}: nothing to import{held}"),
        count => say!("{table}: {} imported, {} rows{held}", files(count), report.rows),
    }
    if !report.new_columns.is_empty() {
        say!("  new columns: {}", report.new_columns.join(", "));
    }
    if report.rescued > 0 {
        say!("  {} values did not fit their columns and are in _rescued", report.rescued);
    }
}
