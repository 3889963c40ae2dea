//! What a start finds of the time before it, and what it does about it.
//!
//! The newest state says what was known of keys and how far streams were read. What was told after it is in the journal,
//! or, if the process died in between, only in a topic: both are read, so that nothing is told twice, and nothing that
//! was told is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use super::journal::{ALERTS, Journal, alerts_schema};
use super::runner::sinks_of;
use crate::deliver::{Message, Sinks};
use crate::engine::make::{Wanted, make};
use crate::error::{Error, Kind, Result};
use crate::lake::{self, AlertFiles, AlertLog, FoundAlerts, Lake, Positions, SYSTEM, TableError};
use crate::stream::{Rule, State, Told};

/// Pause before the store or the brokers are asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What was found.
pub(super) struct Restored {
    pub journal: Journal,
    pub log: AlertLog,
    pub epoch: u64,
    pub state: State,
    /// What was told after the state, in its order, by rule.
    pub told: BTreeMap<String, Vec<Told>>,
}

/// Reads what is there, however long the store and the brokers are away; `rules` are those that run now.
pub(super) async fn restore(lake: &Lake, sinks: &Sinks, rules: &[Rule], embedded: bool) -> Result<Restored> {
    let (files, found) = loop {
        match AlertFiles::open(lake).await {
            Ok(found) => break found,
            Err(error) => warn!(error = lake::reason(&error), "state of alerts not read, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let none = Positions::new();
    let wanted = Wanted { schema: &alerts_schema(), schema_version: 0, partition_by: &[], positions: &none };
    let told = |error: &TableError| warn!(table = ALERTS, error = %error, "table not created, trying again");
    let log = AlertLog::new(make(lake, SYSTEM, ALERTS, wanted, told).await.map_err(unusable)?);
    let FoundAlerts { state, journal } = found;
    let (epoch, state) = match state {
        Some((epoch, bytes)) => (epoch, State::from_bytes(&bytes).map_err(unreadable)?),
        None => (0, State::default()),
    };
    let mut journaled: Vec<Told> = Vec::new();
    for bytes in &journal {
        journaled.extend(Told::from_bytes(bytes).map_err(unreadable)?);
    }
    journaled.sort_by_key(|told| told.number);
    journaled.dedup_by_key(|told| told.number);
    let mut known: BTreeSet<String> = journaled.iter().map(|told| told.message.id.clone()).collect();

    let mut missing: Vec<Message> = Vec::new();
    let mut in_topics: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let told_by = |sink: &String| rules.iter().any(|rule| rule.to.contains(sink));
    if epoch > 0 && !state.is_last && !embedded {
        for sink in sinks.topics().into_iter().filter(|sink| told_by(&(*sink).to_owned())) {
            let messages = read_topic(sinks, sink, state.written_at).await;
            let ids = in_topics.entry(sink).or_default();
            for message in messages {
                ids.insert(message.id.clone());
                let is_new = known.insert(message.id.clone());
                missing.extend((is_new && message.at > state.written_at).then_some(message));
            }
        }
    }
    let of_rule = |name: &str| rules.iter().find(|rule| rule.name == name);
    // Whoever may not have been told is told again; a topic says itself what it has.
    if !state.is_last {
        for told in &journaled {
            let sinks_of = of_rule(told.rule()).map(|rule| sinks_of(rule, &told.message, sinks));
            for sink in sinks_of.into_iter().flatten() {
                if in_topics.get(sink.as_str()).is_none_or(|ids| !ids.contains(&told.message.id)) {
                    sinks.send(sink, told.message.clone());
                }
            }
        }
    }
    let after_state: Vec<Told> = journaled.iter().filter(|told| told.number > state.number).cloned().collect();
    let journal = Journal::new(files, sinks.clone(), &log, journaled, known)?;
    let mut told: BTreeMap<String, Vec<Told>> = BTreeMap::new();
    for one in after_state {
        told.entry(one.rule().to_owned()).or_default().push(one);
    }
    missing.sort_by_key(|message| message.at);
    for message in missing {
        let Some(one) = Told::of_message(journal.last() + 1, message) else { continue };
        let others = of_rule(one.rule()).map(|rule| sinks_of(rule, &one.message, sinks)).unwrap_or_default();
        let others = others.into_iter().filter(|sink| !sinks.is_topic(sink)).cloned().collect();
        journal.take(&one.entity, one.message.clone(), others);
        told.entry(one.rule().to_owned()).or_default().push(one);
    }
    let transitions: usize = told.values().map(Vec::len).sum();
    if epoch > 0 {
        info!(epoch, transitions, "alerts go on where they were");
    }
    Ok(Restored { journal, log, epoch, state, told })
}

/// The alerts' messages in a topic since `since`, however long the brokers are away.
async fn read_topic(sinks: &Sinks, sink: &str, since: DateTime<Utc>) -> Vec<Message> {
    let mut said = false;
    loop {
        match sinks.read_topic(sink, since).await {
            Ok(messages) => return messages,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(sink, error = %error, "what was told is not read, trying again until kafka answers");
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn unusable(error: TableError) -> Error {
    Error::new(Kind::Internal, "system.alerts cannot be used").because(error)
}

fn unreadable(error: crate::stream::RecordError) -> Error {
    Error::new(Kind::Internal, "what was written down of alerts cannot be read").because(error)
}
