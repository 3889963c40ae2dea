//! What a lake says about itself: the version of its layout, and the Kafka cluster that feeds it.
//!
//! Two objects, each written once with PUT-if-absent and then only read, so that no update without a condition is
//! needed and racing starters agree:
//!
//! * `_millpond/format.json` when the lake is created: `{ layout, created_by, created_at }`.
//! * `_millpond/kafka-cluster.json` at the first contact with Kafka: `{ cluster_id, recorded_at, recorded_by }`.
//!   Positions are offsets of one cluster; on another they would skip or repeat rows without a word.

use chrono::{DateTime, SecondsFormat, Utc};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Stores;
use crate::error::{Error, Kind, Result};

/// The layout this program reads and writes.
pub const LAYOUT: u32 = 1;

const FORMAT: &str = "_millpond/format.json";
const CLUSTER: &str = "_millpond/kafka-cluster.json";

/// `_millpond/format.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// The layout of the lake's folders and of Millpond's own files.
    pub layout: u32,
    /// The program version that created the lake.
    pub created_by: String,
    /// When it did, by its wall clock.
    pub created_at: DateTime<Utc>,
}

/// What every layout's `format.json` can be read as.
#[derive(Deserialize)]
struct AnyFormat {
    layout: u32,
    #[serde(default)]
    created_by: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cluster {
    cluster_id: String,
    recorded_at: DateTime<Utc>,
    recorded_by: String,
}

impl Format {
    /// Reads the lake's format; `None` if there is no lake yet. A newer layout and an unreadable file are refused.
    pub async fn read(stores: &Stores) -> Result<Option<Self>> {
        let Some(bytes) = get(stores, FORMAT).await? else { return Ok(None) };
        let any: AnyFormat = parse(stores, FORMAT, &bytes)?;
        if any.layout > LAYOUT {
            let by = any.created_by.map(|version| format!(" {version}")).unwrap_or_default();
            let message = format!(
                "the lake at {} was written by a newer Millpond{by}: its layout is {}, this program knows up to {LAYOUT}",
                stores.location(),
                any.layout,
            );
            return Err(Error::new(Kind::Refused, message).hint("run that version or a later one on this lake"));
        }
        parse(stores, FORMAT, &bytes).map(Some)
    }

    /// Reads the lake's format, or creates the lake.
    pub async fn read_or_create(stores: &Stores, now: DateTime<Utc>) -> Result<Self> {
        if let Some(format) = Self::read(stores).await? {
            return Ok(format);
        }
        let format = Self { layout: LAYOUT, created_by: program(), created_at: now };
        if put_if_absent(stores, FORMAT, &format).await? {
            tracing::info!(location = %stores.location(), layout = LAYOUT, "lake created");
        }
        // Whoever was first wrote it: possibly a newer program, so the check comes again.
        Self::read(stores).await?.ok_or_else(|| {
            Error::new(Kind::Internal, format!("`{FORMAT}` of the lake at {} vanished", stores.location()))
        })
    }
}

/// Records `cluster_id` at the first contact; later, refuses any other.
pub async fn check_kafka_cluster(stores: &Stores, cluster_id: &str, now: DateTime<Utc>) -> Result<()> {
    if read_cluster(stores).await?.is_none() && put_if_absent(stores, CLUSTER, &cluster(cluster_id, now)).await? {
        tracing::info!(cluster_id, "kafka cluster recorded");
    }
    let known = read_cluster(stores).await?.ok_or_else(|| {
        Error::new(Kind::Internal, format!("`{CLUSTER}` of the lake at {} vanished", stores.location()))
    })?;
    if known.cluster_id == cluster_id {
        return Ok(());
    }
    let message = format!(
        "the lake at {} is fed from Kafka cluster `{}` (since {}), but the brokers belong to cluster `{cluster_id}`",
        stores.location(),
        known.cluster_id,
        known.recorded_at.to_rfc3339_opts(SecondsFormat::Secs, true),
    );
    Err(Error::new(Kind::Refused, message).hint(
        "correct `[kafka] brokers`, give the other cluster a lake of its own with `[lake] url`, or go on with it: \
             `millpond ingest accept-cluster`",
    ))
}

/// The cluster that the lake is fed from; `None` before the first contact.
pub async fn kafka_cluster(stores: &Stores) -> Result<Option<String>> {
    Ok(read_cluster(stores).await?.map(|known| known.cluster_id))
}

/// The lake is fed from `cluster_id` from now on.
pub async fn accept_kafka_cluster(stores: &Stores, cluster_id: &str, now: DateTime<Utc>) -> Result<()> {
    let text = to_json(&cluster(cluster_id, now))?;
    let written = stores.data().put(&Path::from(CLUSTER), text.into()).await;
    written.map(drop).map_err(|error| stores.explain(&format!("write `{CLUSTER}`"), error))
}

fn cluster(cluster_id: &str, now: DateTime<Utc>) -> Cluster {
    Cluster { cluster_id: cluster_id.to_owned(), recorded_at: now, recorded_by: program() }
}

async fn read_cluster(stores: &Stores) -> Result<Option<Cluster>> {
    match get(stores, CLUSTER).await? {
        Some(bytes) => parse(stores, CLUSTER, &bytes).map(Some),
        None => Ok(None),
    }
}

fn program() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

async fn get(stores: &Stores, path: &str) -> Result<Option<bytes::Bytes>> {
    let read = async { stores.commit().get(&Path::from(path)).await?.bytes().await };
    match read.await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NotFound { source, .. }) if !source.to_string().contains("NoSuchBucket") => Ok(None),
        Err(error) => Err(stores.explain(&format!("read `{path}`"), error)),
    }
}

/// True if ours is the object; false if one was there (which may be ours, too, if the first answer was lost).
async fn put_if_absent(stores: &Stores, path: &str, value: &impl Serialize) -> Result<bool> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match stores.commit().put_opts(&Path::from(path), to_json(value)?.into(), options).await {
        Ok(_) => Ok(true),
        Err(StoreError::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(stores.explain(&format!("write `{path}`"), error)),
    }
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))
}

fn parse<T: DeserializeOwned>(stores: &Stores, path: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::new(Kind::Refused, format!("`{path}` of the lake at {} cannot be read", stores.location()))
            .hint("restore the file from a copy; if this is no lake of Millpond's, correct `[lake] url`")
            .because(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::store::testing::{Moody, stores};
    use object_store::memory::InMemory;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn memory() -> Stores {
        stores(Arc::new(InMemory::new()))
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    async fn write(stores: &Stores, path: &str, text: &'static str) {
        stores.commit().put(&path.into(), text.into()).await.unwrap();
    }

    async fn recorded(stores: &Stores) -> Option<String> {
        read_cluster(stores).await.unwrap().map(|cluster| cluster.cluster_id)
    }

    #[tokio::test]
    async fn a_lake_is_created_once_and_read_back() {
        let stores = memory();
        assert_eq!(Format::read(&stores).await.unwrap(), None);
        let starters = (0..8).map(|n| {
            let stores = stores.clone();
            async move { Format::read_or_create(&stores, now() + chrono::Duration::seconds(n)).await.unwrap() }
        });
        let formats = futures::future::join_all(starters).await;
        assert!(formats.iter().all(|format| *format == formats[0] && format.layout == LAYOUT), "{formats:?}");
        assert_eq!(Format::read(&stores).await.unwrap().as_ref(), Some(&formats[0]));
    }

    #[tokio::test]
    async fn an_answer_lost_at_creation_does_no_harm() {
        let store = Arc::new(Moody::default());
        store.lose_next_answer.store(true, Ordering::SeqCst);
        assert_eq!(Format::read_or_create(&stores(store), now()).await.unwrap().created_at, now());
    }

    /// The frozen form: what is in lakes must stay readable.
    #[tokio::test]
    async fn layout_one_is_read_for_ever() {
        let stores = memory();
        write(&stores, FORMAT, r#"{"layout":1,"created_by":"0.1.0","created_at":"2026-11-22T10:00:00Z","extra":1}"#)
            .await;
        let format = Format::read(&stores).await.unwrap().unwrap();
        assert_eq!((format.layout, format.created_by.as_str()), (1, "0.1.0"));
        write(&stores, CLUSTER, r#"{"cluster_id":"abc","recorded_at":"2026-11-22T10:00:00Z","recorded_by":"0.1.0"}"#)
            .await;
        assert_eq!(recorded(&stores).await.as_deref(), Some("abc"));
    }

    #[tokio::test]
    async fn lakes_we_cannot_read_are_refused_by_name() {
        for (text, words) in [
            (r#"{"layout":2,"created_by":"3.1.4","shape":{}}"#, "written by a newer Millpond 3.1.4: its layout is 2"),
            (r#"{"layout":99}"#, "written by a newer Millpond: its layout is 99"),
            (r#"{"layout":1}"#, "`_millpond/format.json` of the lake at /in/memory cannot be read"),
            (r#"{"layout":-1}"#, "cannot be read"),
            ("", "cannot be read"),
            ("\u{0}\u{0}", "cannot be read"),
        ] {
            let stores = memory();
            write(&stores, FORMAT, text).await;
            let error = Format::read_or_create(&stores, now()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{text}");
            assert!(error.message().contains(words) && error.hint_text().is_some(), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn another_kafka_cluster_is_refused_with_the_way_out() {
        let stores = memory();
        assert_eq!(recorded(&stores).await, None);
        check_kafka_cluster(&stores, "first", now()).await.unwrap();
        check_kafka_cluster(&stores, "first", now()).await.unwrap();
        let error = check_kafka_cluster(&stores, "second", now()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.message().contains("`first`") && error.message().contains("`second`"), "{error}");
        assert!(error.hint_text().unwrap().contains("`[kafka] brokers`"), "{error}");
        assert_eq!(recorded(&stores).await.as_deref(), Some("first"));
    }

    #[tokio::test]
    async fn a_store_that_is_down_is_not_an_empty_lake() {
        let store = Arc::new(Moody::default());
        let stores = stores(Arc::clone(&store) as _);
        store.down.store(true, Ordering::SeqCst);
        assert_eq!(Format::read(&stores).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(check_kafka_cluster(&stores, "x", now()).await.unwrap_err().kind(), Kind::Unavailable);
    }
}
