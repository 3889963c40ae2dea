//! What sinks deliver, and its one frozen form in the lake's backlog.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The form of a message in the backlog.
const FORMAT: u32 = 1;

/// One thing to tell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The same when the message is made again: receivers recognise a repetition by it.
    pub id: String,
    /// What it is about.
    pub kind: MessageKind,
    /// Messages of one key stay in order in a Kafka topic: a table, or an alert's key.
    pub key: String,
    /// When it was made.
    pub at: DateTime<Utc>,
    /// What it says; templates take their values from here.
    pub payload: Map<String, Value>,
}

/// What a message is about; a full queue gives up news before alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// The platform about itself.
    News,
    /// A rule of the user's.
    Alert,
}

/// A message's object in the backlog.
#[derive(Serialize, Deserialize)]
struct Stored<M> {
    format: u32,
    message: M,
}

/// Why an object of the backlog is no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Not JSON, or not of this form.
    #[error("it is no message: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later program.
    #[error("it is of form {0}, this program knows form {FORMAT}")]
    Newer(u32),
}

impl Message {
    /// The message as an object of the backlog.
    pub fn to_json(&self) -> Result<Vec<u8>, MessageError> {
        Ok(serde_json::to_vec(&Stored { format: FORMAT, message: self })?)
    }

    /// Reads what [`Message::to_json`] wrote.
    pub fn from_json(bytes: &[u8]) -> Result<Self, MessageError> {
        match serde_json::from_slice::<Stored<Value>>(bytes)? {
            Stored { format: FORMAT, message } => Ok(serde_json::from_value(message)?),
            Stored { format, .. } => Err(MessageError::Newer(format)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    pub(in crate::deliver) fn message(id: &str, kind: MessageKind) -> Message {
        let payload = json!({"message": format!("{id} happened"), "table": "telemetry", "count": 3});
        let at = DateTime::from_timestamp_micros(1_795_348_800_000_001).unwrap();
        Message { id: id.into(), kind, key: "telemetry".into(), at, payload: payload.as_object().unwrap().clone() }
    }

    #[test]
    fn the_form_is_frozen() {
        let stored = r#"{"format":1,"message":{"id":"x/1","kind":"alert","key":"telemetry","at":"2026-11-22T12:00:00.000001Z","payload":{"message":"x/1 happened","table":"telemetry","count":3}}}"#;
        assert_eq!(Message::from_json(stored.as_bytes()).unwrap(), message("x/1", MessageKind::Alert));
        assert_eq!(String::from_utf8(message("x/1", MessageKind::Alert).to_json().unwrap()).unwrap(), stored);
        let newer = Message::from_json(br#"{"format":2,"message":{"new":true}}"#);
        assert!(matches!(newer, Err(MessageError::Newer(2))), "{newer:?}");
        for broken in ["", "{", "[]", "{\"format\":1}", "{\"format\":1,\"message\":{}}"] {
            assert!(matches!(Message::from_json(broken.as_bytes()), Err(MessageError::Json(_))), "{broken}");
        }
    }

    /// Any JSON value but fractions: parsing may change their last digit.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_message_comes_back(
            id in any::<String>(),
            key in any::<String>(),
            alert in any::<bool>(),
            micros in -1_000_000_000_000_000i64..4_000_000_000_000_000,
            payload in prop::collection::btree_map(any::<String>(), value(), 0..5),
        ) {
            let kind = if alert { MessageKind::Alert } else { MessageKind::News };
            let at = DateTime::from_timestamp_micros(micros).unwrap();
            let message = Message { id, kind, key, at, payload: Map::from_iter(payload) };
            prop_assert_eq!(Message::from_json(&message.to_json().unwrap()).unwrap(), message);
        }
    }
}
