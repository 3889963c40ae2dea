//! All that is known at one moment, as it is written down.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::Streams;
use super::journal::{Journal, until_written};
use super::source::Place;
use super::work::{Feed, Stream, Work};
use crate::error::Error;
use crate::lake::{self, Positions, TopicPartition};
use crate::stream::{Lane, PositionState, RuleState, State, StreamState};
use crate::task::{Shutdown, failpoint};

/// What is known now; `number` is that of the last transition.
pub(super) fn state(streams: &Streams, feeds: &BTreeMap<Feed, Stream>, number: u64, is_last: bool) -> State {
    let rules = streams.work.lock();
    let rule = |(name, work): (&String, &Work)| {
        let instances = work.evaluation.life().instances();
        let instances = instances.map(|(key, instance)| (Arc::clone(key), instance.clone())).collect();
        let (key, stream) = (work.evaluation.rule().key.clone(), work.stream.clone());
        let since = work
            .since
            .as_ref()
            .map(|since| since.iter().map(|(table, ends)| (table.clone(), position_states(ends, None))).collect());
        let passed = work.feed().and_then(|feed| feeds.get(&feed)?.order.passed());
        let kept = work.evaluation.kept_state(passed);
        let ran_at = work.scheduled.as_ref().map(|scheduled| scheduled.ran_at().timestamp_micros());
        (name.clone(), RuleState { key, stream, since, instances, ran_at, kept })
    };
    State {
        written_at: Utc::now(),
        number,
        is_last,
        silences: streams.silences.lock().iter().filter(|silence| silence.until > Utc::now()).cloned().collect(),
        streams: feeds.iter().filter_map(|((table, ordered), stream)| stream_state(table, *ordered, stream)).collect(),
        rules: rules.iter().map(rule).collect(),
    }
}

/// How far a stream was read; nothing before the first time.
pub fn stream_state(table: &str, ordered: bool, stream: &Stream) -> Option<StreamState> {
    // Rows that wait are read again; those that were handed out are not newer than `passed`.
    let place = stream.place()?;
    let newest =
        stream.newest.0.iter().map(|(columns, newest)| {
            (columns.clone(), newest.iter().map(|(key, at)| (Arc::clone(key), *at)).collect())
        });
    Some(StreamState {
        table: table.to_owned(),
        ordered,
        passed: stream.order.passed(),
        positions: position_states(&place.next, Some(&place.lanes)),
        newest: newest.collect(),
    })
}

fn position_states(positions: &Positions, lanes: Option<&BTreeMap<TopicPartition, Lane>>) -> Vec<PositionState> {
    let position = |(of, next): (&TopicPartition, &i64)| {
        let (TopicPartition { topic, incarnation, partition }, lane) = (of, lanes.and_then(|lanes| lanes.get(of)));
        let (topic, lane) = (topic.to_string(), lane.copied());
        PositionState { topic, incarnation: *incarnation, partition: *partition, next: *next, lane }
    };
    positions.iter().map(position).collect()
}

/// The positions that a state says.
pub(super) fn positions(states: &[PositionState]) -> Positions {
    place(states).next
}

/// The positions that a state says, and how far the events had come.
pub fn place(states: &[PositionState]) -> Place {
    let mut place = Place::default();
    for PositionState { topic, incarnation, partition, next, lane } in states {
        let of = TopicPartition { topic: topic.as_str().into(), incarnation: *incarnation, partition: *partition };
        place.lanes.extend(lane.map(|lane| (of.clone(), lane)));
        place.next.insert(of, *next);
    }
    place
}

/// Writes `state` down once the journal has all that it knows of, and deletes what nobody needs any more: `covered` are
/// the transitions that the state before it knew. Returns those that this one knows.
pub(super) async fn write(
    state: State,
    epoch: u64,
    covered: u64,
    journal: &Journal,
    abort: &Shutdown,
    failed: &mpsc::Sender<Error>,
) -> u64 {
    let bytes = match tokio::task::block_in_place(|| state.to_bytes()) {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            error!(error = %error, "state of alerts cannot be written down");
            return covered;
        }
    };
    if abort.run_until_cancelled(journal.until_written(state.number)).await.is_none() {
        return covered;
    }
    failpoint::hit("alerts_before_state");
    let write = || journal.files().write_state(epoch, bytes.clone());
    if !until_written("state of alerts", write, abort, failed).await {
        return covered;
    }
    failpoint::hit("alerts_after_state");
    if let Err(error) = journal.files().tidy(covered.min(journal.logged()) + 1).await {
        warn!(error = lake::reason(&error), "old states of alerts not deleted, trying again later");
    }
    state.number
}
