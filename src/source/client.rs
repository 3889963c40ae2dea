//! Blocking questions to a cluster, and what can go wrong with them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::context::Context;
use crate::error::{Error, Kind};

pub(super) type Client = BaseConsumer<Context>;

/// Why a question to Kafka was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("kafka cannot be reached: {0}")]
    Unreachable(String),
    #[error("kafka does not allow this: {0}")]
    Denied(String),
    #[error("kafka refuses the topic name: {0}")]
    Name(String),
    #[error("kafka answers with an error: {0}")]
    Answer(String),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        let message = trouble.to_string();
        match trouble {
            Trouble::Unreachable(_) => {
                Error::new(Kind::Unavailable, message).hint("check kafka.brokers and kafka.properties in millpond.toml")
            }
            Trouble::Denied(_) => Error::new(Kind::Denied, message)
                .hint("grant DESCRIBE and READ on the topic to the user of kafka.properties"),
            Trouble::Name(_) => Error::new(Kind::Usage, message).hint("correct `topic` in the schema file"),
            Trouble::Answer(_) => Error::new(Kind::Unavailable, message),
        }
    }
}

/// Sorts an error of librdkafka; the client's last complaint says more than a bare "timed out".
fn trouble(client: &Client, error: &KafkaError) -> Trouble {
    match error.rdkafka_error_code() {
        Some(code) => trouble_of_code(code, client.context().take_last_error()),
        None => Trouble::Answer(error.to_string()),
    }
}

fn trouble_of_code(code: RDKafkaErrorCode, reason: Option<String>) -> Trouble {
    use RDKafkaErrorCode as E;
    let bare = || match code {
        E::OperationTimedOut | E::RequestTimedOut => "no answer in time".to_owned(),
        E::AllBrokersDown => "no broker answers".to_owned(),
        E::BrokerTransportFailure => "the connection broke".to_owned(),
        _ => code.to_string(),
    };
    let text = || reason.unwrap_or_else(bare);
    match code {
        E::TopicAuthorizationFailed | E::ClusterAuthorizationFailed => Trouble::Denied(code.to_string()),
        E::InvalidTopic => Trouble::Name(code.to_string()),
        E::BrokerTransportFailure
        | E::AllBrokersDown
        | E::OperationTimedOut
        | E::RequestTimedOut
        | E::Resolve
        | E::Authentication
        | E::SaslAuthenticationFailed
        | E::SSL
        | E::NetworkException => Trouble::Unreachable(text()),
        _ => Trouble::Answer(code.to_string()),
    }
}

/// Partition numbers of `topic`, ascending; `None` if there is no such topic.
pub(super) fn partitions(client: &Client, topic: &str, timeout: Duration) -> Result<Option<Vec<i32>>, Trouble> {
    let metadata = client.fetch_metadata(Some(topic), timeout).map_err(|e| trouble(client, &e))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    // With an error the list may be a null pointer: do not look at it.
    if let Some(code) = found.error().map(RDKafkaErrorCode::from) {
        return match code {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => Ok(None),
            code => Err(trouble_of_code(code, None)),
        };
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
    partitions.sort_unstable();
    Ok(Some(partitions))
}

/// The offsets of `partitions` at a place in time ([`Offset::Beginning`], [`Offset::End`], or milliseconds since
/// 1970 as [`Offset::Offset`]) in one round to each leader. A partition with nothing at or after that time is left out.
pub(super) fn offsets(
    client: &Client,
    topic: &str,
    partitions: &[i32],
    at: Offset,
    timeout: Duration,
) -> Result<BTreeMap<i32, i64>, Trouble> {
    if partitions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        asked.add_partition_offset(topic, partition, at).map_err(|e| trouble(client, &e))?;
    }
    let answered = client.offsets_for_times(asked, timeout).map_err(|e| trouble(client, &e))?;
    let mut offsets = BTreeMap::new();
    for element in answered.elements() {
        element.error().map_err(|e| trouble(client, &e))?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(element.partition(), offset);
        }
    }
    Ok(offsets)
}
