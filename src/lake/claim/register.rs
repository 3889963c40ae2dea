//! The claim's objects in the store.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use super::Holder;
use crate::error::{Error, Kind, Result};
use crate::lake::{Location, Stores};

const WRITERS: &str = "_millpond/writer";
const HEARTBEATS: &str = "_millpond/heartbeat";
/// Old claims kept for a person who asks who wrote when.
const KEEP: u64 = 4;

/// Reads and writes the objects of all claims.
#[derive(Debug, Clone)]
pub(super) struct Register {
    stores: Stores,
}

/// A claim object.
pub(super) enum Written {
    /// Pruned, or never there.
    Missing,
    /// Not in a form we know.
    Unreadable,
    /// A writer.
    By(Holder),
}

/// A heartbeat object, compared as bytes: any change is a sign of life.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heartbeat(Option<Bytes>);

/// The JSON of a heartbeat.
#[derive(Serialize, Deserialize)]
struct Beat {
    beat: u64,
    released: bool,
}

impl Heartbeat {
    #[cfg(test)]
    pub(super) fn missing() -> Self {
        Self(None)
    }

    /// Whether the writer shut down cleanly.
    pub(super) fn released(&self) -> bool {
        let beat = self.0.as_deref().and_then(|bytes| serde_json::from_slice::<Beat>(bytes).ok());
        beat.is_some_and(|beat| beat.released)
    }
}

impl Register {
    pub(super) fn new(stores: &Stores) -> Self {
        Self { stores: stores.clone() }
    }

    pub(super) fn location(&self) -> &Location {
        self.stores.location()
    }

    /// The highest claim number above `n`.
    pub(super) async fn newest_after(&self, n: u64) -> Result<Option<u64>> {
        Ok(self.numbers(Some(n)).await?.into_iter().max())
    }

    pub(super) async fn writer(&self, n: u64) -> Result<Written> {
        Ok(match self.get(&path(WRITERS, n), "read the writer claim").await? {
            None => Written::Missing,
            Some(bytes) => serde_json::from_slice(&bytes).map_or(Written::Unreadable, Written::By),
        })
    }

    pub(super) async fn heartbeat(&self, n: u64) -> Result<Heartbeat> {
        self.get(&path(HEARTBEATS, n), "read the writer's heartbeat").await.map(Heartbeat)
    }

    /// PUT-if-absent of claim `n`; true if the object there is `me`, whatever the answer was.
    pub(super) async fn put_writer(&self, n: u64, me: &Holder) -> Result<bool> {
        let path = path(WRITERS, n);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let error = match self.stores.commit().put_opts(&path, json(me)?.into(), options).await {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        // The PUT may have landed although its answer, or the answer to its repetition, says otherwise.
        let lost_race = matches!(error, StoreError::AlreadyExists { .. });
        match self.writer(n).await {
            Ok(Written::By(holder)) if holder.id == me.id => Ok(true),
            Ok(_) if lost_race => Ok(false),
            Err(unreadable) if lost_race => Err(unreadable),
            _ => Err(self.stores.explain("take the writer claim", error)),
        }
    }

    pub(super) async fn put_heartbeat(&self, n: u64, beat: u64, released: bool) -> Result<()> {
        let body = json(&Beat { beat, released })?;
        let put = self.stores.commit().put(&path(HEARTBEATS, n), body.into()).await;
        put.map(drop).map_err(|error| self.stores.explain("write the heartbeat", error))
    }

    /// Removes all but the last few claims up to `n`.
    pub(super) async fn prune(&self, n: u64) -> Result<()> {
        for old in self.numbers(None).await?.into_iter().filter(|old| old + KEEP <= n) {
            for path in [path(HEARTBEATS, old), path(WRITERS, old)] {
                match self.stores.commit().delete(&path).await {
                    Ok(()) | Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(self.stores.explain("delete an old writer claim", error)),
                }
            }
        }
        Ok(())
    }

    async fn numbers(&self, after: Option<u64>) -> Result<Vec<u64>> {
        let prefix = Path::from(WRITERS);
        let listing = match after {
            Some(n) => self.stores.commit().list_with_offset(Some(&prefix), &path(WRITERS, n)),
            None => self.stores.commit().list(Some(&prefix)),
        };
        let listed: Vec<_> =
            listing.try_collect().await.map_err(|error| self.stores.explain("list the writer claims", error))?;
        let numbers = listed.iter().filter_map(|meta| meta.location.filename()?.parse().ok());
        Ok(numbers.filter(|n| after.is_none_or(|after| *n > after)).collect())
    }

    async fn get(&self, path: &Path, doing: &str) -> Result<Option<Bytes>> {
        let read = async { self.stores.commit().get(path).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.stores.explain(doing, error)),
        }
    }
}

/// Twenty digits, so that names sort like numbers.
fn path(folder: &str, n: u64) -> Path {
    Path::from(format!("{folder}/{n:020}"))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::new(Kind::Internal, "cannot write JSON").because(error))
}
