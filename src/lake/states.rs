//! Objects that are numbered and written once, of which the newest counts.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use parking_lot::Mutex;

use super::Lake;

/// Objects that are kept: the newest, and the one before it.
const KEPT: usize = 2;
/// Whoever has not written for so long may have been replaced meanwhile.
const QUIET: Duration = Duration::from_secs(15);

/// `<folder>/<epoch>.json`. What they hold is the business of whoever writes them.
pub struct States {
    lake: Lake,
    folder: String,
    /// Those that are there, or may be.
    epochs: Mutex<BTreeSet<u64>>,
    wrote_at: Mutex<Option<Instant>>,
}

impl States {
    /// Reads what is there: the newest, and its epoch.
    pub async fn open(lake: &Lake, folder: &str) -> Result<(Self, Option<(u64, Bytes)>), StoreError> {
        let store = lake.stores().commit();
        let epochs = numbers(store, folder).await?;
        let newest = match epochs.last() {
            Some(epoch) => Some((*epoch, store.get(&path(folder, *epoch)).await?.bytes().await?)),
            None => None,
        };
        let (lake, folder) = (lake.clone(), folder.to_owned());
        Ok((Self { lake, folder, epochs: Mutex::new(epochs), wrote_at: Mutex::default() }, newest))
    }

    /// Writes the one of `epoch`. False if somebody else has written it, or a later one.
    pub async fn write(&self, epoch: u64, bytes: Bytes) -> Result<bool, StoreError> {
        let was_quiet = self.wrote_at.lock().is_none_or(|at| at.elapsed() > QUIET);
        self.epochs.lock().insert(epoch);
        let is_written = create(&self.lake, &path(&self.folder, epoch), bytes).await?;
        // Another one may have deleted what it wrote at this place.
        let is_newest = !was_quiet || numbers(self.lake.stores().commit(), &self.folder).await?.last() <= Some(&epoch);
        *self.wrote_at.lock() = Some(Instant::now());
        Ok(is_written && is_newest)
    }

    /// Deletes all but the newest ones.
    pub async fn tidy(&self) -> Result<(), StoreError> {
        let gone: Vec<u64> = self.epochs.lock().iter().rev().skip(KEPT).copied().collect();
        for epoch in gone {
            delete(self.lake.stores().commit(), &path(&self.folder, epoch)).await?;
            self.epochs.lock().remove(&epoch);
        }
        Ok(())
    }
}

/// Writes an object that is not there, if this process is the writer for certain. False if somebody else has.
pub(super) async fn create(lake: &Lake, path: &Path, bytes: Bytes) -> Result<bool, StoreError> {
    if !lake.is_certain() {
        let source = "no heartbeat of this writer has reached the lake lately".into();
        return Err(StoreError::Generic { store: "lake", source });
    }
    let store = lake.stores().commit();
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(path, bytes.clone().into(), options).await {
        Ok(_) => Ok(true),
        // A lost answer makes our own look like another's, so it is read back.
        Err(StoreError::AlreadyExists { .. }) => Ok(store.get(path).await?.bytes().await? == bytes),
        Err(error) => Err(error),
    }
}

/// Deletes an object, if it is there.
pub(super) async fn delete(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<(), StoreError> {
    match store.delete(path).await {
        Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Numbers of the objects in a folder.
pub(super) async fn numbers(store: &Arc<dyn ObjectStore>, folder: &str) -> Result<BTreeSet<u64>, StoreError> {
    let listed: Vec<_> = store.list(Some(&Path::from(folder))).try_collect().await?;
    let number = |name: &str| name.strip_suffix(".json")?.parse().ok();
    Ok(listed.iter().filter_map(|object| number(object.location.filename()?)).collect())
}

/// Where the object of a number lies.
pub(super) fn path(folder: &str, number: u64) -> Path {
    // Twenty digits, so that names sort like numbers.
    Path::from(folder).join(format!("{number:020}.json"))
}
