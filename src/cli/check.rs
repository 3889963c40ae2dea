//! `millpond check`: everything that can be known to be wrong without Kafka and without a store.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::ProjectArgs;
use crate::config::{LoadOptions, Problems, Project};
use crate::engine;
use crate::error::Result;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond check --project fleet\n  \
    millpond check --project fleet --format json")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// How problems are written
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

pub(super) async fn run(args: CheckArgs) -> Result<ExitCode> {
    let overrides = &args.project.overrides;
    let options =
        LoadOptions { env: overrides.env.clone(), sets: overrides.sets.clone(), ..LoadOptions::from_environment() };
    let problems = match Project::load(&args.project.project, &options) {
        Ok(project) => engine::check_views(&project, &options.vars).await?,
        Err(problems) => problems,
    };
    Ok(report(&problems, args.format))
}

fn report(problems: &Problems, format: Format) -> ExitCode {
    match format {
        Format::Json => say!("{}", problems.to_json()),
        Format::Text if problems.is_empty() => say!("no problems"),
        Format::Text => say!("{problems}"),
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}
