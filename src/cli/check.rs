//! `millpond check`: everything that can be known to be wrong without Kafka and without a store.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::ProjectArgs;
use crate::config::{Config, LoadOptions, Problems, Project};
use crate::deliver::SinkOptions;
use crate::engine;
use crate::error::Result;
use crate::news::EventKind;
use crate::schema::{Contract, Format as RecordFormat};

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond check --project fleet\n  \
    millpond check --project fleet --tests\n  \
    millpond check --project fleet --format json")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Run the tests of rules, queries/<rule>.test.toml, too
    #[arg(long)]
    tests: bool,
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
    let (mut problems, mut notes, project) = match Project::load(&args.project.project, &options) {
        Ok(project) => {
            let (problems, queries) = engine::check_queries(&project, &options.vars).await?;
            let notes = sinks(&project.config).into_iter().chain(dms(&project)).chain(queries).collect();
            (problems, notes, Some(project))
        }
        Err(problems) => (problems, Vec::new(), None),
    };
    if let Some(project) = project.filter(|_| args.tests && problems.is_empty()) {
        let (tests, failed) = engine::test_rules(&project).await;
        notes.push(match tests {
            0 => "no rule has tests: write queries/<rule>.test.toml".to_owned(),
            1 => "1 test of a rule passed".to_owned(),
            tests => format!("{tests} tests of rules passed"),
        });
        problems = failed;
    }
    let code = report(&problems, args.format);
    if args.format == Format::Text && problems.is_empty() {
        notes.iter().for_each(|line| println!("{line}"));
    }
    Ok(code)
}

/// A line per sink: where messages go, and which news.
fn sinks(config: &Config) -> Vec<String> {
    let line = |(name, sink): (&String, &SinkOptions)| {
        let rules = config.notify.iter().filter(|rule| rule.to.contains(name));
        let news: Vec<&str> = EventKind::ALL
            .iter()
            .filter(|kind| rules.clone().any(|rule| rule.on.as_ref().is_none_or(|on| on.contains(kind))))
            .map(|kind| kind.word())
            .collect();
        let news = if news.is_empty() { "no news".to_owned() } else { news.join(", ") };
        format!("sink {name}: {} {}: {news}", sink.kind(), sink.target())
    };
    config.sinks.iter().map(line).collect()
}

/// A line per mirror of DMS: nobody but the user knows how that is set up.
fn dms(project: &Project) -> Vec<String> {
    let of_dms = project.tables.iter().filter(|contract| contract.format == RecordFormat::DmsJson);
    let line = |contract: &Contract| {
        format!(
            "table {}: changes are ordered by the time at which DMS made their messages, which is the database's order \
             unless ParallelApplyThreads is set and rows swap keys; without IncludeNullAndEmpty an absent column \
             counts as null",
            contract.file
        )
    };
    of_dms.map(line).collect()
}

fn report(problems: &Problems, format: Format) -> ExitCode {
    match format {
        Format::Json => say!("{}", problems.to_json()),
        Format::Text if problems.is_empty() => say!("no problems"),
        Format::Text => say!("{problems}"),
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) }
}
