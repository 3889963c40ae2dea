//! The fleet's topics on a broker: made if missing, and the partition a key belongs to.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use crate::error::{Error, Kind, Result};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the missing ones of `topics` and returns the partition count each one really has, in the same order.
pub fn ensure<C: ProducerContext>(
    producer: &BaseProducer<C>,
    config: &ClientConfig,
    topics: &[(&'static str, i32)],
) -> Result<Vec<i32>> {
    let found = partitions(producer, topics)?;
    let missing: Vec<_> = topics.iter().zip(&found).filter(|(_, count)| count.is_none()).map(|(t, _)| *t).collect();
    if missing.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    create(config, &missing)?;
    // A new topic reaches the metadata a moment after the broker said yes.
    let deadline = std::time::Instant::now() + TIMEOUT;
    loop {
        let found = partitions(producer, topics)?;
        if found.iter().all(Option::is_some) {
            return Ok(found.into_iter().flatten().collect());
        }
        if std::time::Instant::now() > deadline {
            return Err(Error::new(Kind::Deadline, "the topics were created but do not appear in the metadata"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The partition Kafka's own Java producer would choose for `key`.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = (murmur2(key) & 0x7fff_ffff).cast_signed();
    positive % partitions.max(1)
}

fn partitions<C: ProducerContext>(
    producer: &BaseProducer<C>,
    topics: &[(&'static str, i32)],
) -> Result<Vec<Option<i32>>> {
    // Asking for one topic by name would create it on brokers that create topics by themselves.
    let metadata = producer.client().fetch_metadata(None, TIMEOUT).map_err(|error| {
        Error::new(Kind::Unavailable, "the Kafka brokers cannot be reached")
            .because(error)
            .hint("check the addresses, and that a broker is listening there")
    })?;
    let count = |name: &str| {
        let topic = metadata.topics().iter().find(|topic| topic.name() == name)?;
        i32::try_from(topic.partitions().len()).ok().filter(|&count| count > 0)
    };
    Ok(topics.iter().map(|(name, _)| count(name)).collect())
}

fn create(config: &ClientConfig, topics: &[(&'static str, i32)]) -> Result<()> {
    let failed = || Error::new(Kind::Unavailable, "the fleet's topics could not be created");
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(|error| failed().because(error))?;
    let new: Vec<_> =
        topics.iter().map(|&(name, count)| NewTopic::new(name, count, TopicReplication::Fixed(1))).collect();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT)).request_timeout(Some(TIMEOUT));
    let results =
        futures::executor::block_on(admin.create_topics(&new, &options)).map_err(|error| failed().because(error))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                return Err(failed().because(format!("{topic}: {code}")).hint("create the topics by hand"));
            }
        }
    }
    Ok(())
}

/// Kafka's variant of MurmurHash 2 (`org.apache.kafka.common.utils.Utils.murmur2`).
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = chunk.iter().rev().fold(0_u32, |word, &byte| (word << 8) | u32::from(byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0_u32, |word, &byte| (word << 8) | u32::from(byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hashed_as_the_java_client_does() {
        // From Kafka's own UtilsTest.
        let cases: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }
}
