//! The command line: arguments, what a person sees, hints, exit codes (0 done, 1 failed, 2 wrong usage).
//!
//! The one room that prints, and with `config` the one that reads the environment.
#![allow(clippy::print_stdout, clippy::print_stderr)]

/// Writes a line to standard output. Who has closed it (`| head`) has seen enough: `println!` would panic.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

mod alert;
mod back_test;
mod check;
mod dead_letters;
mod demo;
mod export;
mod import;
mod ingest;
mod init;
mod place;
mod preview;
mod produce;
mod query;
mod records;
mod schema;
mod serve;
pub mod shell;
mod simulate;
mod sink;
mod sql;
mod table;
mod user;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{LoadOptions, Project};
use crate::error::Result;

/// A local-first lakehouse in one process: Kafka to Delta exactly once, fresh rows by SQL.
#[derive(Parser)]
#[command(name = "millpond", version, propagate_version = true)]
#[command(after_help = "Examples:\n  \
    millpond demo                              watch it work; nothing else is needed\n  \
    millpond init fleet                        a project to begin with\n  \
    millpond check --project fleet             what is wrong with a project\n  \
    millpond serve --project fleet             run it\n  \
    millpond sql -c 'SELECT * FROM telemetry LIMIT 10'")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch a simulated fleet flow from an embedded broker into a local lake, and query it
    Demo(demo::DemoArgs),
    /// Make a starter project that runs at once
    Init(init::InitArgs),
    /// Run a project: read Kafka, commit to Delta, answer SQL
    Serve(serve::ServeArgs),
    /// Ask a running server, or a lake directly
    Sql(sql::SqlCommand),
    /// Validate a project: configuration, schemas and queries
    Check(check::CheckArgs),
    /// Send a file's records to a topic
    Produce(produce::ProduceArgs),
    /// What is read from Kafka: positions and lag; paused, resumed, and led elsewhere
    #[command(subcommand, after_help = "Examples:\n  millpond ingest status\n  millpond ingest pause telemetry")]
    Ingest(ingest::IngestCommand),
    /// What the columns of tables are, were, or would be: what changed, when, and what brought it
    #[command(
        subcommand,
        after_help = "Examples:\n  \
        millpond schema list\n  \
        millpond schema history telemetry\n  \
        millpond schema preview orders.ndjson"
    )]
    Schema(schema::SchemaCommand),
    /// What fires, why a rule does not fire, quiet for a while, and when a rule would have fired
    #[command(
        subcommand,
        after_help = "Examples:\n  millpond alert list\n  millpond alert explain battery_low --key car-00042\n  \
        millpond alert test battery_low --since 7d"
    )]
    Alert(alert::AlertCommand),
    /// Try where news and alerts are sent to
    #[command(subcommand, after_help = "Example:\n  millpond sink test ops")]
    Sink(sink::SinkCommand),
    /// Records that could not become rows: look, retry, discard, export
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// The tables of the lake: their files and versions, and care for them
    #[command(subcommand)]
    Table(table::TableCommand),
    /// The project's queries: how they get on, and tables made anew at once
    #[command(subcommand)]
    Query(query::QueryCommand),
    /// Accounts: who may come in, and in which role
    #[command(subcommand)]
    User(user::UserCommand),
    /// Take files into a table, each of them once
    Import(import::ImportArgs),
    /// Write the rows of a statement to a file
    Export(export::ExportArgs),
    /// Produce the demo fleet's messages to a Kafka cluster
    #[command(hide = true)]
    Simulate(simulate::SimulateArgs),
}

/// Of a thread: a statement that is as deep as is allowed is taken apart on it.
const STACK_BYTES: usize = 16 << 20;

/// Which project, and what overrides its files.
#[derive(Args, Clone, Debug)]
pub(crate) struct ProjectArgs {
    /// The project's folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub project: PathBuf,
    #[command(flatten)]
    pub overrides: Overrides,
}

/// What overrides a project's files.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Overrides {
    /// Overlay `millpond.<NAME>.toml`
    #[arg(long, value_name = "NAME")]
    pub env: Option<String>,
    /// Override one setting; may be given several times
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

impl Overrides {
    fn load(&self, dir: &Path) -> Result<(Project, LoadOptions)> {
        let options = LoadOptions { env: self.env.clone(), sets: self.sets.clone(), ..LoadOptions::from_environment() };
        Ok((Project::load(dir, &options)?, options))
    }
}

impl ProjectArgs {
    fn load(&self) -> Result<(Project, LoadOptions)> {
        self.overrides.load(&self.project)
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let quiet = !matches!(cli.command, Command::Serve(_));
    crate::telemetry::init(std::env::var("MILLPOND_LOG").ok().as_deref(), quiet);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(crate::task::IDLE_THREAD)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads to run on: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => demo::run(args).await,
            Command::Init(args) => init::run(&args),
            Command::Produce(args) => produce::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::Sql(args) => sql::run(args).await,
            Command::Check(args) => check::run(args).await,
            Command::Alert(command) => alert::run(command).await,
            Command::Ingest(command) => ingest::run(command).await,
            Command::Schema(command) => schema::run(command).await,
            Command::Sink(command) => sink::run(command).await,
            Command::DeadLetters(command) => dead_letters::run(command).await,
            Command::Table(command) => table::run(command).await,
            Command::Query(command) => query::run(command).await,
            Command::User(command) => user::run(command),
            Command::Import(args) => import::run(args).await,
            Command::Export(args) => export::run(args).await,
            Command::Simulate(args) => simulate::run(args).await,
        }
    });
    match result {
        Ok(code) => {
            // A blocking call into a library (a broker that does not answer) must not hold the exit.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            code
        }
        Err(error) => {
            eprintln!("error: {error}");
            // Work that was given up ends with the process: Delta's kernel panics in a runtime that is shut down.
            std::mem::forget(runtime);
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_two_arguments_of_a_command_are_in_each_others_way() {
        super::Cli::command().debug_assert();
    }
}
