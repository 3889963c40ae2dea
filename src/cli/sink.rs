//! `millpond sink`: try a sink before something happens.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::ProjectArgs;
use crate::config::nearest;
use crate::deliver::{Failure, Message, MessageKind};
use crate::engine;
use crate::error::{Error, Kind, Result};

#[derive(Subcommand, Debug)]
pub(super) enum SinkCommand {
    /// Send a test message to a sink of the project, and say what happened
    Test(TestArgs),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond sink test ops\n  \
    millpond sink test customer --with customer_email=kim@example.com")]
pub(super) struct TestArgs {
    /// The sink's name in millpond.toml
    name: String,
    /// A field of the message, for the sink's templates; may be given several times
    #[arg(long = "with", value_name = "NAME=VALUE")]
    with: Vec<String>,
    #[command(flatten)]
    project: ProjectArgs,
}

pub(super) async fn run(command: SinkCommand) -> Result<ExitCode> {
    let SinkCommand::Test(args) = command;
    let (project, _) = args.project.load()?;
    let config = &project.config;
    let name = &args.name;
    let Some(sink) = config.sinks.get(name) else {
        let names: Vec<&str> = config.sinks.keys().map(String::as_str).collect();
        let hint = match nearest(name, names.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => format!("write [sinks.{name}] into millpond.toml"),
            None => format!("there are: {}", names.join(", ")),
        };
        return Err(Error::new(Kind::Usage, format!("the project has no sink `{name}`")).hint(hint));
    };
    let message = message(name, fields(&args.with)?);
    let began = Instant::now();
    let outcome = engine::try_sink(config, sink, &message).await?;
    let (kind, target, millis) = (sink.kind(), sink.target(), began.elapsed().as_millis());
    match outcome {
        Ok(()) => {
            println!("{name}: {kind} {target}: delivered in {millis} ms, id {}", message.id);
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            let what = match failure {
                Failure::Again { .. } => "not delivered, and it would be tried again",
                Failure::Refused { .. } => "refused for good",
            };
            eprintln!("{name}: {kind} {target}: {what}, after {millis} ms: {}", failure.reason());
            Ok(ExitCode::FAILURE)
        }
    }
}

fn message(sink: &str, fields: Map<String, Value>) -> Message {
    let at = chrono::Utc::now();
    let text = format!("a test of the sink {sink}");
    let payload = json!({"event": "test", "message": text, "at": at.to_rfc3339(), "sink": sink});
    let mut payload = payload.as_object().cloned().unwrap_or_default();
    payload.extend(fields);
    let id = format!("test/{sink}/{}", at.timestamp_micros());
    Message { id, kind: MessageKind::News, key: sink.to_owned(), at, payload }
}

fn fields(with: &[String]) -> Result<Map<String, Value>> {
    let field = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.into())),
        _ => Err(Error::new(Kind::Usage, format!("--with {text} is not name=value"))
            .hint("such as --with customer_email=kim@example.com")),
    };
    with.iter().map(field).collect()
}
