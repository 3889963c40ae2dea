//! `millpond serve`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::ProjectArgs;
use crate::config::{Brokers, Project};
use crate::deliver::SinkOptions;
use crate::demo::{Broker, TOPICS};
use crate::engine::{Embedded, Engine, EngineOptions};
use crate::error::{Error, Kind, Result};
use crate::task::failpoint;

/// Partitions of an embedded topic that the demo fleet does not know.
const EMBEDDED_PARTITIONS: i32 = 3;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    millpond serve --project fleet\n  \
    millpond serve --project fleet --env prod --set serve.http=127.0.0.1:9090")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    project: ProjectArgs,
}

pub(super) async fn run(args: ServeArgs) -> Result<ExitCode> {
    let (project, options) = args.project.load()?;
    if let Some(spec) = options.vars.get("MILLPOND_FAILPOINT") {
        failpoint::arm(spec)?;
    }
    let broker = embedded(&project)?;
    let start =
        EngineOptions { embedded: broker.as_ref().map(inside), variables: options.vars.clone(), reload: Some(options) };
    let engine = Engine::start(&project, start).await?;
    say!("lake        {}", project.config.lake.url);
    if let Some(address) = engine.flight_sql() {
        say!("flight sql  grpc://{address}");
    }
    if let Some(address) = engine.http() {
        say!("http        http://{address}  (/healthz /readyz /metrics)");
    }
    if let Some(broker) = &broker {
        say!("kafka       {}  (embedded)", broker.brokers());
    }
    engine.run(stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
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
