//! What is written down of rules, so that a restart goes on: transitions that were told, and what is known of keys. The
//! forms are frozen.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::clock::Lane;
use super::evaluation::Row;
use super::life::{Alert, Became, Cause, Instance, Key, Micros, Transition};
use crate::deliver::Message;

/// The forms that this program writes.
const FORMAT: u32 = 1;

/// A transition that was told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// All transitions of a lake are counted in their order, from 1.
    pub number: u64,
    /// The entity of the stream whose rows speak of the key.
    pub entity: Key,
    /// What was told.
    pub message: Message,
}

/// All that is known at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// When it was written.
    pub written_at: DateTime<Utc>,
    /// The number of the last transition.
    pub number: u64,
    /// It is the last word of a process that ended in order: all that was to be told is told, or waits in a backlog.
    pub is_last: bool,
    /// How far streams were read that keep every record.
    pub streams: Vec<StreamState>,
    /// Who is not to be told of what.
    pub silences: Vec<Silence>,
    /// Keys that are not quiet, or were not long ago, by rule.
    pub rules: BTreeMap<String, RuleState>,
}

/// Nobody is told of a rule, or of some of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// The rule.
    pub rule: String,
    /// What must be true of a key.
    pub key: Vec<KeyPart>,
    /// Until when.
    pub until: DateTime<Utc>,
}

impl Silence {
    /// Whether it is about a key of a rule.
    pub fn is_of(&self, rule: &str, key: &Key) -> bool {
        self.rule == rule && self.key.iter().all(|part| part.is_of(key))
    }
}

/// What one column of a key must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPart {
    /// The column.
    pub column: String,
    /// Its value, as text.
    pub value: String,
}

impl KeyPart {
    /// Whether it is true of a key.
    pub fn is_of(&self, key: &Key) -> bool {
        let key: Option<Row> = serde_json::from_str(key).ok();
        let text = match key.as_ref().and_then(|key| key.get(&self.column)) {
            Some(Value::String(text)) => text.clone(),
            Some(value) => value.to_string(),
            None => return false,
        };
        text == self.value
    }
}

/// How far a stream was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamState {
    /// The table.
    pub table: String,
    /// Its rows were looked at in the order of their times.
    pub ordered: bool,
    /// Until when they were.
    pub passed: Option<Micros>,
    /// What comes next.
    pub positions: Vec<PositionState>,
    /// When each was heard of last.
    pub newest: Vec<Heard>,
}

/// When each was heard of last, by columns that say whose a row is.
pub type Heard = (Vec<String>, Vec<(Key, Micros)>);

/// The next offset of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionState {
    /// Its topic.
    pub topic: String,
    /// The life of the topic.
    pub incarnation: u32,
    /// Its number.
    pub partition: i32,
    /// The next offset.
    pub next: i64,
    /// How far its events have come by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
}

/// Where a stream query is that keeps rows or windows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryState {
    /// When it was written.
    pub written_at: DateTime<Utc>,
    /// How far its stream was read.
    pub stream: StreamState,
    /// What it keeps of rows that were looked at.
    pub kept: Option<KeptState>,
    /// The number of the first result that is not known to be committed …
    pub first: i64,
    /// … and those from it on.
    pub results: Vec<Rows>,
    /// The number of the next result.
    pub next: i64,
}

/// What is known of a rule's keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleState {
    /// The columns that tell them apart.
    pub key: Vec<String>,
    /// The stream that speaks of them; unknown if the rule could not be planned.
    pub stream: Option<String>,
    /// What comes next of each table, if the rule has not looked at what came since.
    pub since: Option<BTreeMap<String, Vec<PositionState>>>,
    /// The keys.
    pub instances: Vec<(Key, Instance<Row>)>,
    /// When it ran last, if it runs on a schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_at: Option<Micros>,
    /// What is kept of rows that were looked at, if the rule looks back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptState>,
}

/// What a rule keeps of rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptState {
    /// The same for rules that keep the same.
    pub fingerprint: String,
    /// Until when rows were looked at.
    pub passed: Option<Micros>,
    /// The rows, stage by stage.
    pub rows: Vec<Vec<Rows>>,
}

/// Rows, written down as an Arrow IPC stream in Base64.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows(pub RecordBatch);

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let write = || {
            let mut bytes = Vec::new();
            let mut writer = StreamWriter::try_new(&mut bytes, self.0.schema_ref())?;
            writer.write(&self.0)?;
            writer.finish()?;
            drop(writer);
            Ok(bytes)
        };
        let bytes = write().map_err(|error: ArrowError| serde::ser::Error::custom(error))?;
        serializer.serialize_str(&BASE64_STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Rows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        let mut rows = StreamReader::try_new(bytes.as_slice(), None).map_err(serde::de::Error::custom)?;
        let first = rows.next().ok_or_else(|| serde::de::Error::custom("no rows"))?;
        first.map(Self).map_err(serde::de::Error::custom)
    }
}

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or not of this form.
    #[error("it is no such record: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later program.
    #[error("it is of form {0}, this program knows form {FORMAT}")]
    Newer(u32),
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    format: u32,
    record: T,
}

fn write<T: Serialize>(record: &T) -> Result<Vec<u8>, RecordError> {
    Ok(serde_json::to_vec(&Versioned { format: FORMAT, record })?)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    match serde_json::from_slice::<Versioned<Value>>(bytes)? {
        Versioned { format: FORMAT, record } => Ok(serde_json::from_value(record)?),
        Versioned { format, .. } => Err(RecordError::Newer(format)),
    }
}

impl State {
    /// Its bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        write(self)
    }

    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        read(bytes)
    }
}

impl QueryState {
    /// Its bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        write(self)
    }

    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        read(bytes)
    }
}

impl Told {
    /// The bytes of several.
    pub fn to_bytes(told: &[&Self]) -> Result<Vec<u8>, RecordError> {
        write(&told)
    }

    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Vec<Self>, RecordError> {
        read(bytes)
    }

    /// What a message about an alert tells, if it is one; `number` is what it gets.
    pub fn of_message(number: u64, message: Message) -> Option<Self> {
        let key = message.key.strip_prefix(message.payload.get("rule")?.as_str()?)?.strip_prefix(':')?;
        let told = Self { number, entity: key.into(), message };
        told.transition().is_some().then_some(told)
    }

    /// The rule.
    pub fn rule(&self) -> &str {
        self.text("rule").unwrap_or_default()
    }

    /// What was told.
    pub fn transition(&self) -> Option<Transition<Row>> {
        let key = self.message.key.strip_prefix(self.rule())?.strip_prefix(':')?;
        let (starts_at, fired_at) = (self.time("starts_at")?, self.time("fired_at")?);
        let (became, at) = match self.text("state")? {
            "resolved" => (Became::Resolved, self.time("ends_at")?),
            _ => match self.message.id.rsplit_once("/repeated/") {
                Some((_, at)) => (Became::Repeated, at.parse().ok()?),
                None => (Became::Firing, fired_at),
            },
        };
        let cause: Cause = serde_json::from_value(self.message.payload.get("cause")?.clone()).ok()?;
        let row = self.message.payload.get("values")?.as_object()?.clone();
        let alert = Alert { id: self.text("alert_id")?.to_owned(), starts_at, fired_at, cause, row };
        Some(Transition { key: key.into(), entity: self.entity.clone(), became, at, alert })
    }

    /// A text of the message.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.message.payload.get(field)?.as_str()
    }

    /// A time of the message.
    pub fn time(&self, field: &str) -> Option<Micros> {
        Some(DateTime::parse_from_rfc3339(self.text(field)?).ok()?.timestamp_micros())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::deliver::Template;
    use crate::stream::{Phase, Proof, Rule, message};

    fn rule() -> Rule {
        let message = Template::parse("{plate}: on").unwrap();
        Rule { hash: "0011".into(), message, ..Rule::gone("lights") }
    }

    fn transition(became: Became, at: Micros) -> Transition<Row> {
        let cause = Cause { topic: "fleet".into(), partition: 3, offset: 17 };
        let row = json!({"car": 1, "plate": "12가3456", "speed": 0.5}).as_object().unwrap().clone();
        let alert =
            Alert { id: "a1".into(), starts_at: 1_795_348_800_000_001, fired_at: 1_795_348_830_000_001, cause, row };
        Transition { key: r#"{"car":1}"#.into(), entity: r#"{"car":1,"x":2}"#.into(), became, at, alert }
    }

    fn told(became: Became, at: Micros) -> (Told, Transition<Row>) {
        let transition = transition(became, at);
        let now = DateTime::from_timestamp_micros(1_795_348_830_000_777).unwrap();
        let message = message(&rule(), &transition, &Proof { schema_version: 4, now, reason: None });
        (Told { number: 9, entity: Arc::clone(&transition.entity), message }, transition)
    }

    #[test]
    fn what_was_told_is_read_from_its_message() {
        for (became, at) in [
            (Became::Firing, 1_795_348_830_000_001),
            (Became::Repeated, 1_795_348_890_000_001),
            (Became::Resolved, 1_795_348_900_000_000),
        ] {
            let (told, transition) = told(became, at);
            assert_eq!(told.transition().as_ref(), Some(&transition));
            // Of a topic it is not known whose rows spoke of the key.
            let again = Told::of_message(9, told.message.clone()).unwrap();
            assert_eq!(again.transition().unwrap(), Transition { entity: transition.key.clone(), ..transition });
        }
        let (Told { message, .. }, _) = told(Became::Firing, 0);
        assert_eq!(Told::of_message(1, Message { key: "other:{}".into(), ..message }), None);
    }

    #[test]
    fn the_forms_are_frozen() {
        let stored = r#"{"format":1,"record":[{"number":9,"entity":"{\"car\":1,\"x\":2}","message":{"id":"a1/resolved","kind":"alert","key":"lights:{\"car\":1}","at":"2026-11-22T12:00:30.000777Z","payload":{"alert_id":"a1","rule":"lights","rule_hash":"0011","key":{"car":1},"state":"resolved","severity":"warning","starts_at":"2026-11-22T12:00:00.000001Z","fired_at":"2026-11-22T12:00:30.000001Z","ends_at":"2026-11-22T12:01:40.000000Z","values":{"car":1,"plate":"12가3456","speed":0.5},"message":"12가3456: on","cause":{"topic":"fleet","partition":3,"offset":17},"schema_version":4,"emitted_at":"2026-11-22T12:00:30.000777Z"}}}]}"#;
        let (told, _) = told(Became::Resolved, 1_795_348_900_000_000);
        assert_eq!(Told::from_bytes(stored.as_bytes()).unwrap(), std::slice::from_ref(&told));
        let same: Value = serde_json::from_slice(&Told::to_bytes(&[&told]).unwrap()).unwrap();
        assert_eq!(same, serde_json::from_str::<Value>(stored).unwrap());

        let stored = r#"{"format":1,"record":{"written_at":"2026-11-22T12:00:00.000001Z","number":5,"is_last":true,"silences":[{"rule":"lights","key":[{"column":"car","value":"1"}],"until":"2026-11-22T13:00:00Z"}],"streams":[{"table":"t","ordered":true,"passed":7,"positions":[{"topic":"f","incarnation":1,"partition":2,"next":3}],"newest":[[["car"],[["{\"car\":1}",6]]]]}],"rules":{"lights":{"key":["car"],"stream":"t","since":{"t":[{"topic":"f","incarnation":1,"partition":2,"next":3}]},"instances":[["k",{"entity":"e","phase":"quiet","quiet_until":4,"known_at":-9223372036854775808,"timer":null}],["l",{"entity":"e","phase":{"pending":{"since":8,"cause":{"topic":"f","partition":2,"offset":3},"row":{"a":1}}},"quiet_until":4,"known_at":0,"timer":9}],["m",{"entity":"e","phase":{"firing":{"id":"i","starts_at":1,"fired_at":2,"cause":{"topic":"f","partition":2,"offset":3},"row":{}}},"quiet_until":4,"known_at":0,"timer":null}]]}}}}"#;
        let state = State::from_bytes(stored.as_bytes()).unwrap();
        let phases: Vec<bool> =
            state.rules["lights"].instances.iter().map(|(_, known)| matches!(known.phase, Phase::Firing(_))).collect();
        assert_eq!(phases, [false, false, true]);
        let same: Value = serde_json::from_slice(&state.to_bytes().unwrap()).unwrap();
        assert_eq!(same, serde_json::from_str::<Value>(stored).unwrap());

        assert!(matches!(State::from_bytes(br#"{"format":2,"record":{}}"#), Err(RecordError::Newer(2))));
        assert!(matches!(State::from_bytes(br#"{"format":1,"record":{}}"#), Err(RecordError::Json(_))));
    }

    #[test]
    fn where_a_stream_query_is_comes_back() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let rows = Rows(RecordBatch::try_from_iter_with_nullable([("n", numbers, true)]).unwrap());
        let (table, positions, newest) = ("signals".to_owned(), Vec::new(), Vec::new());
        let state = QueryState {
            written_at: DateTime::from_timestamp_micros(1_764_288_000_000_000).unwrap(),
            stream: StreamState { table, ordered: true, passed: Some(7), positions, newest },
            kept: Some(KeptState { fingerprint: "00".into(), passed: Some(7), rows: vec![vec![rows.clone()], vec![]] }),
            first: 40,
            results: vec![rows],
            next: 42,
        };
        assert_eq!(QueryState::from_bytes(&state.to_bytes().unwrap()).unwrap(), state);
        // As it lies in lakes.
        let frozen = r#"{"format":1,"record":{"written_at":"2025-11-28T00:00:00Z","stream":{"table":"signals",
            "ordered":true,"passed":7,"positions":[{"topic":"t","incarnation":0,"partition":1,"next":9,
            "lane":{"newest":8,"recorded":9}}],"newest":[]},"kept":null,"first":2,"results":[],"next":2}}"#;
        let frozen = QueryState::from_bytes(frozen.as_bytes()).unwrap();
        assert_eq!(frozen.stream.positions[0].lane, Some(Lane { newest: 8, recorded: 9 }));
        assert_eq!((frozen.first, frozen.next, frozen.kept), (2, 2, None));
    }

    proptest! {
        #[test]
        fn every_state_comes_back(
            number in any::<u64>(),
            micros in 0..4_000_000_000_000_000_i64,
            passed in any::<Option<i64>>(),
            next in prop::collection::vec((any::<u32>(), any::<i32>(), any::<i64>(), ".*"), 0..4),
            lane in prop::option::of((any::<i64>(), any::<i64>())),
            heard in prop::collection::vec((".*", any::<i64>()), 0..4),
        ) {
            let lane = lane.map(|(newest, recorded)| Lane { newest, recorded });
            let position = |(incarnation, partition, next, topic)| PositionState { topic, incarnation, partition, next, lane };
            let stream = StreamState {
                table: "t".into(),
                ordered: passed.is_some(),
                passed,
                positions: next.into_iter().map(position).collect(),
                newest: vec![(vec!["a".into()], heard.into_iter().map(|(key, at)| (key.into(), at)).collect())],
            };
            let written_at = DateTime::from_timestamp_micros(micros).unwrap();
            let state = State { written_at, number, is_last: false, silences: Vec::new(), streams: vec![stream], rules: BTreeMap::new() };
            prop_assert_eq!(State::from_bytes(&state.to_bytes().unwrap()).unwrap(), state);
        }
    }
}
