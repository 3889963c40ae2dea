//! What stops a topic for good: the faults after which reading on would skip records silently.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Watermarks;

/// What a person can do.
const WAY_OUT: &str = "nothing is skipped; put the topic right, or say where to go on: `millpond ingest seek`";

/// Why no more records of a topic may be handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error(
        "partition {partition}: position {position} is below what kafka still holds ({}); \
         {way}", range(*.held), way = WAY_OUT
    )]
    BelowLow { partition: i32, position: i64, held: Option<Watermarks> },
    #[error(
        "partition {partition}: position {position} is beyond the end ({}): the topic was deleted and made again; \
         {way}", range(*.held), way = WAY_OUT
    )]
    BeyondEnd { partition: i32, position: i64, held: Option<Watermarks> },
    #[error(
        "partition {partition}: kafka does not hold position {position} ({}); \
         {way}", range(*.held), way = WAY_OUT
    )]
    OutOfRange { partition: i32, position: i64, held: Option<Watermarks> },
    #[error(
        "partition {partition} no longer exists (position {position}): the topic was deleted or made again; \
         {way}", way = WAY_OUT
    )]
    Gone { partition: i32, position: i64 },
    #[error(
        "partition {partition}: the records from position {position} on cannot be read: {reason}; \
         {way}", way = WAY_OUT
    )]
    Unreadable { partition: i32, position: i64, reason: String },
    #[error("{0}")]
    Client(String),
}

fn range(held: Option<Watermarks>) -> String {
    match held {
        Some(Watermarks { low, high }) if low < high => format!("it holds {low} to {}", high - 1),
        Some(Watermarks { low, .. }) => format!("it is empty, the next offset is {low}"),
        None => "what it holds is not known".to_owned(),
    }
}

impl Fault {
    /// The fault that an error on a partition's queue means; `None` if librdkafka tries again by itself.
    pub(super) fn of(error: &KafkaError, partition: i32, position: i64, reason: Option<String>) -> Option<Self> {
        use RDKafkaErrorCode as E;
        let code = error.rdkafka_error_code()?;
        let reason = || reason.unwrap_or_else(|| code.to_string());
        match code {
            E::AutoOffsetReset | E::OffsetOutOfRange | E::LogTruncation => {
                Some(Self::OutOfRange { partition, position, held: None })
            }
            E::UnknownPartition | E::UnknownTopic | E::UnknownTopicOrPartition => {
                Some(Self::Gone { partition, position })
            }
            // librdkafka goes on behind these message sets.
            E::BadMessage | E::BadCompression | E::NotImplemented | E::MessageSizeTooLarge => {
                Some(Self::Unreadable { partition, position, reason: reason() })
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Some(Self::Client(reason())),
            _ => None,
        }
    }

    /// The partition whose watermarks would explain the fault.
    pub(super) fn lost_position(&self) -> Option<i32> {
        match self {
            Self::OutOfRange { partition, .. } => Some(*partition),
            _ => None,
        }
    }

    /// The same fault, explained by what the partition holds now.
    pub(super) fn explained(self, held: Watermarks) -> Self {
        match self {
            Self::OutOfRange { partition, position, .. } if position < held.low => {
                Self::BelowLow { partition, position, held: Some(held) }
            }
            Self::OutOfRange { partition, position, .. } if position > held.high => {
                Self::BeyondEnd { partition, position, held: Some(held) }
            }
            Self::OutOfRange { partition, position, .. } => Self::OutOfRange { partition, position, held: Some(held) },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_position_names_what_kafka_holds_and_the_way_out() {
        let error = KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset);
        let fault = |position| Fault::of(&error, 3, position, None).unwrap();
        let text = |position, low, high| fault(position).explained(Watermarks { low, high }).to_string();
        let below = text(5, 100, 200);
        assert!(
            below.contains("partition 3") && below.contains("position 5") && below.contains("100 to 199"),
            "{below}"
        );
        let beyond = text(500, 0, 7);
        assert!(beyond.contains("made again") && beyond.contains("0 to 6"), "{beyond}");
        assert!(below.contains(WAY_OUT) && beyond.contains(WAY_OUT));
        assert!(text(5, 0, 0).contains("empty"));
    }

    #[test]
    fn what_librdkafka_would_skip_stops_and_what_it_retries_does_not() {
        let of = |code| Fault::of(&KafkaError::MessageConsumption(code), 0, 0, Some("why".into()));
        for code in [RDKafkaErrorCode::BadMessage, RDKafkaErrorCode::BadCompression, RDKafkaErrorCode::NotImplemented] {
            assert!(of(code).unwrap().to_string().contains("why"));
        }
        for code in [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::TopicAuthorizationFailed] {
            assert_eq!(of(code), None);
        }
    }
}
