//! `[kafka]`: where the brokers are, and what is passed through to librdkafka.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use rdkafka::{ClientConfig, error::KafkaError, types::RDKafkaConfRes};
use url::Url;

use super::{
    problem::Complaint,
    section::Section,
    settings::Kafka,
    tree::{Place, Value},
    words::project,
};

/// Where to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Brokers {
    /// `"embedded"`: a broker inside the process, for demos and tutorials.
    Embedded,
    /// `host:port`, several separated by commas, as librdkafka takes them.
    At(String),
}

/// `auth`: how to say who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing beyond what the properties say.
    None,
    /// Tokens for Amazon's Kafka, signed for the region that the brokers' names tell.
    MskIam {
        /// Such as `eu-central-1`.
        region: String,
    },
}

/// Properties of librdkafka by name. `Debug` shows names only: passwords are among the values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Properties(pub BTreeMap<String, String>);

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `[kafka.schema_registry]`. `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SchemaRegistry {
    /// `http://` or `https://`; without it no table may need schemas.
    pub url: Option<Url>,
    /// For HTTP basic authentication.
    pub username: Option<String>,
    /// For HTTP basic authentication.
    pub password: Option<String>,
    /// A file of certificates (PEM) that are trusted beside the system's, absolute.
    pub ca: Option<PathBuf>,
}

impl fmt::Debug for SchemaRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, username, ca, .. } = self;
        f.debug_struct("SchemaRegistry")
            .field("url", &url.as_ref().map(Url::as_str))
            .field("username", username)
            .field("ca", ca)
            .finish_non_exhaustive()
    }
}

/// Properties that are Millpond's own business, and why.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set `brokers` of [kafka] instead"),
    ("metadata.broker.list", "set `brokers` of [kafka] instead"),
    ("group.instance.id", POSITIONS),
    ("group.protocol", POSITIONS),
    ("partition.assignment.strategy", POSITIONS),
    ("enable.auto.commit", POSITIONS),
    ("auto.commit.enable", POSITIONS),
    ("auto.commit.interval.ms", POSITIONS),
    ("enable.auto.offset.store", POSITIONS),
    (
        "auto.offset.reset",
        "the tables' `start` decides where the first run begins, and a gap is never skipped silently",
    ),
    ("enable.partition.eof", "Millpond needs it to know that a partition is read to its end"),
    ("allow.auto.create.topics", "a misspelt topic must not be created"),
    ("queued.max.messages.kbytes", "`memory` of [limits] bounds the queues"),
    ("queued.min.messages", "`memory` of [limits] bounds the queues"),
    ("log.queue", "Millpond routes the client's log"),
    ("enabled_events", "Millpond routes the client's events"),
];
const POSITIONS: &str = "positions live in the lake's commits: Millpond assigns partitions and tracks them itself";

/// Reads the section; files it names are relative to `dir`.
pub(super) fn read(section: &Section, dir: &Path) -> Option<Kafka> {
    let brokers = section.read("brokers", brokers);
    let auth = section.choice("auth", &[("none", false), ("msk-iam", true)], &[]);
    let auth = auth.and_then(|by_iam| if by_iam { msk_iam(section, brokers.as_ref()?) } else { Some(Auth::None) });
    let properties = section.table("properties").and_then(|section| properties(&section));
    if let (Some(Auth::MskIam { .. }), Some(properties)) = (&auth, &properties)
        && let Some(key) = MSK_IAM_OWNS.iter().find(|key| properties.0.contains_key(**key))
    {
        section.complain(
            "auth",
            Complaint::new(format!("`msk-iam` sets {key} itself")).hint("take it out of [kafka.properties]"),
        );
        return None;
    }
    let schema_registry =
        section.section("schema_registry", &project::SCHEMA_REGISTRY).map(|section| schema_registry(&section, dir));
    Some(Kafka { brokers: brokers?, auth: auth?, properties: properties?, schema_registry: schema_registry? })
}

/// Properties that `auth = "msk-iam"` sets.
const MSK_IAM_OWNS: [&str; 6] = [
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.password",
    "sasl.oauthbearer.method",
];

/// The region of a broker's name, such as `b-1.fleet.x1y2.c3.kafka.eu-central-1.amazonaws.com`.
fn msk_iam(section: &Section, brokers: &Brokers) -> Option<Auth> {
    let region = |broker: &str| {
        let host = broker.trim().rsplit_once(':').map_or(broker, |(host, _)| host);
        let mut parts = host.split('.').skip_while(|part| *part != "kafka" && *part != "kafka-serverless").skip(1);
        parts.next().filter(|_| host.contains(".amazonaws.com")).map(str::to_owned)
    };
    let region = match brokers {
        Brokers::At(brokers) => brokers.split(',').find_map(region),
        Brokers::Embedded => None,
    };
    if region.is_none() {
        section.complain(
            "auth",
            Complaint::new("`msk-iam` takes the region from the brokers' names, and they tell none")
                .hint("give brokers as MSK does, such as \"b-1.fleet.x1y2.c3.kafka.eu-central-1.amazonaws.com:9098\""),
        );
    }
    region.map(|region| Auth::MskIam { region })
}

fn schema_registry(section: &Section, dir: &Path) -> SchemaRegistry {
    let text = |text: &str| match text {
        "" => Err(Complaint::new("is empty")),
        text => Ok(text.to_owned()),
    };
    SchemaRegistry {
        url: section.read("url", registry_url),
        username: section.read("username", text),
        password: section.read("password", text),
        ca: section.read("ca", text).map(|file| dir.join(file)),
    }
}

fn registry_url(text: &str) -> Result<Url, Complaint> {
    let wrong = |why: &str| {
        Complaint::new(format!("`{text}` {why}"))
            .hint("such as \"http://127.0.0.1:8081\" or \"https://registry/apis/ccompat/v7\"")
    };
    let url = Url::parse(text).map_err(|_| wrong("is not the address of a schema registry"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("is not the address of a schema registry"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            Complaint::new("the URL holds credentials").hint("they have keys of their own: username and password")
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds more than an address and a path"));
    }
    Ok(url)
}

fn brokers(text: &str) -> Result<Brokers, Complaint> {
    if text == "embedded" {
        return Ok(Brokers::Embedded);
    }
    for broker in text.split(',') {
        // librdkafka allows a scheme and supplies the port 9092.
        let address = broker.trim().split_once("://").map_or(broker.trim(), |(_, address)| address);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (address, None),
        };
        let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        if host.is_empty() || host.contains(char::is_whitespace) || !port_fits {
            return Err(Complaint::new(format!("`{broker}` is not the address of a broker"))
                .hint("host and port such as \"127.0.0.1:9092\", several separated by commas, or \"embedded\""));
        }
    }
    Ok(Brokers::At(text.to_owned()))
}

fn properties(section: &Section) -> Option<Properties> {
    let mut properties = BTreeMap::new();
    let mut all_fine = true;
    for entry in &section.table.entries {
        let mut refuse = |place: &Place, complaint: Complaint| {
            section.report(place, &entry.key, complaint);
            all_fine = false;
        };
        if let Some((_, reason)) = OWNED.iter().find(|(name, _)| *name == entry.key) {
            refuse(&entry.place, Complaint::new("is set by Millpond").hint(*reason));
            continue;
        }
        let (value, secret) = match &entry.node.value {
            Value::Text { text, written } => (text.clone(), text != written),
            Value::Number(number) => (number.clone(), false),
            Value::Boolean(yes) => (yes.to_string(), false),
            Value::Broken(_) => {
                all_fine = false;
                continue;
            }
            other => {
                refuse(&entry.node.place, Complaint::new(format!("expected a text, found {}", other.name())));
                continue;
            }
        };
        match known_to_librdkafka(&entry.key, &value, secret) {
            Ok(()) => drop(properties.insert(entry.key.clone(), value)),
            Err((true, complaint)) => refuse(&entry.place, complaint),
            Err((false, complaint)) => refuse(&entry.node.place, complaint),
        }
    }
    all_fine.then_some(Properties(properties))
}

/// Asks librdkafka itself, without connecting. The error says whether the name is to blame.
fn known_to_librdkafka(name: &str, value: &str, secret: bool) -> Result<(), (bool, Complaint)> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err((true, Complaint::new("librdkafka has no such property")))
        }
        Err(KafkaError::ClientConfig(_, why, ..)) if !secret => Err((false, Complaint::new(why))),
        Err(_) => Err((false, Complaint::new("librdkafka refuses the value"))),
    }
}
