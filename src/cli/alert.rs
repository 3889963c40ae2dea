//! `millpond alert`: what fires, why a rule does not fire, quiet for a while, and when a rule would have fired.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::ingest::{connect, show};
use super::{Overrides, back_test, shell};
use crate::config::Interval;
use crate::engine::streams::{Act, Explained, Explanation, Request};
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
pub(super) enum AlertCommand {
    /// The alerts that fire now, and conditions that hold and not for long enough yet
    List(ListArgs),
    /// Why a rule fires for a key, or why it does not
    Explain(ExplainArgs),
    /// Tell nobody for a while: of a rule, or of one of its keys
    Silence(SilenceArgs),
    /// When a rule would have fired: history goes through it as what comes does
    Test(back_test::TestArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond alert list\n  \
    millpond alert list --history --format json")]
pub(super) struct ListArgs {
    /// What was told, the newest first, instead of what fires
    #[arg(long)]
    history: bool,
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// How rows are written
    #[arg(long, value_enum, default_value_t)]
    format: shell::Format,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond alert explain battery_low --key car-00042\n  \
    millpond alert explain headlights_left_on --key car_id=car-00042 --key reservation_id=42000003")]
pub(super) struct ExplainArgs {
    /// The rule
    rule: String,
    /// The key: a value, or COLUMN=VALUE once for each column of the rule's key that is known
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<String>,
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond alert silence battery_low --for 2h\n  \
    millpond alert silence battery_low --key car-00042 --for 1d\n  \
    millpond alert silence battery_low --end")]
pub(super) struct SilenceArgs {
    /// The rule
    rule: String,
    /// Of this key only: a value, or COLUMN=VALUE once for each column of the rule's key that is known
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// For how long, such as 30m or 2h
    #[arg(long = "for", value_name = "TIME", required_unless_present = "end", conflicts_with = "end")]
    duration: Option<Interval>,
    /// End the silence now
    #[arg(long)]
    end: bool,
    /// The server to ask [default: the one the project's configuration names]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    overrides: Overrides,
}

const ACTIVE: &str = "SELECT rule, \"key\", state, severity, starts_at, fired_at, alert_id, silenced_until \
     FROM system.alerts_active ORDER BY rule, \"key\"";
const HISTORY: &str = "SELECT emitted_at, rule, \"key\", transition, message, alert_id \
     FROM system.alerts ORDER BY number DESC LIMIT 100";

pub(super) async fn run(command: AlertCommand) -> Result<ExitCode> {
    match command {
        AlertCommand::List(args) => list(args).await,
        AlertCommand::Explain(args) => explain(args).await,
        AlertCommand::Silence(args) => silence(args).await,
        AlertCommand::Test(args) => back_test::run(args).await,
    }
}

async fn list(args: ListArgs) -> Result<ExitCode> {
    let sql = if args.history { HISTORY } else { ACTIVE };
    show(sql, args.format, args.url.as_ref(), &args.overrides).await
}

async fn ask(url: Option<&String>, overrides: &Overrides, request: &Request) -> Result<Vec<u8>> {
    let unreadable = |error| Error::new(Kind::Internal, "the request cannot be written").because(error);
    let mut server = connect(url, overrides).await?;
    let body = serde_json::to_vec(request).map_err(unreadable)?;
    Ok(server.act(Request::ACTION, body.into()).await?.into())
}

async fn explain(args: ExplainArgs) -> Result<ExitCode> {
    let request = Request { rule: args.rule.clone(), key: args.key, act: Act::Explain };
    let answer = ask(args.url.as_ref(), &args.overrides, &request).await?;
    let explanation: Explanation = serde_json::from_slice(&answer)
        .map_err(|error| Error::new(Kind::Internal, "the server's answer cannot be read").because(error))?;
    write(&args.rule, &explanation);
    Ok(ExitCode::SUCCESS)
}

fn write(rule: &str, explanation: &Explanation) {
    let Explanation { stream, class, error, clock, row, explained, keys } = explanation;
    if let Some(error) = error {
        say!("{rule} does not run: {error}");
    } else if stream.is_empty() {
        say!("{rule}: {class}");
    } else {
        say!("{rule}: {class} over {stream}");
    }
    match row {
        None if stream.is_empty() => {}
        Some(row) => say!("row        {row}"),
        None => say!("row        none in {stream}: nothing is known of this key"),
    }
    for explained in explained {
        match explained {
            Explained::Condition { sql, holds } => {
                let holds: Vec<&str> = holds
                    .iter()
                    .map(|holds| match holds {
                        Some(true) => "TRUE",
                        Some(false) => "FALSE",
                        None => "NULL",
                    })
                    .collect();
                let holds = if holds.is_empty() { "not asked".to_owned() } else { holds.join(", ") };
                say!("{holds:<10} {sql}");
            }
            Explained::LookUp { table, found } => say!("{:<10} {table}", format!("{found} found")),
        }
    }
    if keys.is_empty() {
        say!("state      quiet");
    }
    for key in keys {
        say!("state      {} {}", key.state, key.key);
        for (name, value) in [
            ("since", &key.since),
            ("fires at", &key.due),
            ("fired at", &key.fired_at),
            ("quiet until", &key.quiet_until),
            ("alert id", &key.alert_id),
        ] {
            if let Some(value) = value {
                say!("           {name} {value}");
            }
        }
    }
    if stream.is_empty() {
        say!("last run   {}", clock.as_deref().unwrap_or("none yet"));
        return;
    }
    say!("clock      {}", clock.as_deref().unwrap_or("unknown: not every partition was heard of yet"));
}

async fn silence(args: SilenceArgs) -> Result<ExitCode> {
    let seconds = args.duration.map(|duration| duration.duration().as_secs());
    let act = Act::Silence { seconds: seconds.unwrap_or(0) };
    let request = Request { rule: args.rule.clone(), key: args.key, act };
    ask(args.url.as_ref(), &args.overrides, &request).await?;
    match args.duration {
        Some(duration) => say!("nobody is told of {} for {duration}", args.rule),
        None => say!("whoever is to be told of {} is told again", args.rule),
    }
    Ok(ExitCode::SUCCESS)
}
