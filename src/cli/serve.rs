//! `millpond serve`.

use std::collections::BTreeMap;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tracing::warn;

use super::ProjectArgs;
use crate::config::{Brokers, Project};
use crate::deliver::SinkOptions;
use crate::demo::{Broker, TOPICS};
use crate::engine::{Addresses, Embedded, Engine, EngineOptions, Standby};
use crate::error::{Error, Kind, Result};
use crate::task::failpoint;

/// Partitions of an embedded topic that the demo fleet does not know.
const EMBEDDED_PARTITIONS: i32 = 3;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond serve --project fleet\n  \
    millpond serve --project fleet --env prod --set serve.http=127.0.0.1:9090\n  \
    millpond serve --project fleet --standby")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Wait for the process that writes to the lake to be gone, answer queries meanwhile, and take over then
    #[arg(long)]
    standby: bool,
    /// Send nothing to sinks: for a copy of a lake
    #[arg(long)]
    muted: bool,
}

pub(super) async fn run(args: ServeArgs) -> Result<ExitCode> {
    let (mut project, options) = args.project.load()?;
    if let Some(spec) = options.vars.get("MILLPOND_FAILPOINT") {
        failpoint::arm(spec)?;
    }
    let (mut stop, mut claimed) = (std::pin::pin!(stop_signal()?), None);
    if args.standby {
        let standby = Standby::start(&project, &options.vars).await?;
        say_doors(&project, standby.addresses());
        say!("standing by: what is committed can be read; this process takes over when the one that writes is gone");
        tokio::select! {
            taken = standby.claimed() => claimed = Some(taken),
            () = &mut stop => return Ok(ExitCode::SUCCESS),
        }
        say!("taking over");
        // The one before has taken edits over since.
        match args.project.load() {
            Ok((now, _)) => project = now,
            Err(error) => warn!(%error, "the project cannot be read any more: what it was at the start goes on"),
        }
    }
    let broker = embedded(&project)?;
    let variables = options.vars.clone();
    let start = EngineOptions {
        embedded: broker.as_ref().map(inside),
        variables,
        reload: Some(options),
        muted: args.muted,
        claimed,
    };
    let engine = Engine::start(&project, start).await?;
    say_doors(&project, engine.addresses());
    if args.muted {
        say!("muted       nothing is sent to sinks");
    }
    if let Some(broker) = &broker {
        say!("kafka       {}  (embedded)", broker.brokers());
    }
    engine.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn say_doors(project: &Project, doors: Addresses) {
    say!("lake        {}", project.config.lake.url);
    let secured = if project.config.serve.tls.is_some() { "s" } else { "" };
    if let Some(address) = doors.flight_sql {
        say!("flight sql  grpc{secured}://{address}");
    }
    if let Some(address) = doors.postgres {
        say!("postgres    postgresql://{address}/millpond");
    }
    if let Some(address) = doors.http {
        say!("http        http{secured}://{address}  (/healthz /readyz /metrics)");
    }
}

/// The broker inside the process, if the project asks for one: with the topics of all its tables and sinks.
pub(super) fn embedded(project: &Project) -> Result<Option<Broker>> {
    if project.config.kafka.brokers != Brokers::Embedded {
        return Ok(None);
    }
    let mut topics: BTreeMap<&str, i32> = BTreeMap::new();
    for topic in project.tables.iter().flat_map(|table| &table.topics) {
        let known = TOPICS.iter().find(|(name, _)| name == topic).map(|(_, partitions)| *partitions);
        topics.insert(topic, known.unwrap_or(EMBEDDED_PARTITIONS));
    }
    for sink in project.config.sinks.values() {
        if let SinkOptions::Kafka(kafka) = sink {
            topics.entry(&kafka.topic).or_insert(EMBEDDED_PARTITIONS);
        }
    }
    let topics: Vec<(&str, i32)> = topics.into_iter().collect();
    Broker::start(&topics).map(Some)
}

/// The broker as the engine sees it.
pub(super) fn inside(broker: &Broker) -> Embedded {
    Embedded { brokers: broker.brokers(), make_topic: Arc::new(broker.topic_maker(EMBEDDED_PARTITIONS)) }
}

/// Resolves at the first SIGTERM or SIGINT; the second ends the process at once.
pub(super) fn stop_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| Error::new(Kind::Internal, "signals cannot be handled").because(error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        crate::task::spawn("second-signal", async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            eprintln!("stopped at once; what was not committed is read again at the next start");
            #[expect(clippy::disallowed_methods, reason = "a second signal asks for just that")]
            std::process::exit(130);
        });
    })
}
