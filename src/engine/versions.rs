//! The schema versions of all tables: which there are, and their recording in `system.schema_versions`.
//!
//! A new version is known at once: its rows and its description are in SQL before anything is written. Recording
//! begins in the same moment, in the background, and is done before a row of that version is committed: whoever
//! commits asks for it again and waits. So the stream never does, and what any committed row names is recorded.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::status::now_us;
use crate::error::{Error, Kind, Result};
use crate::lake::{CommitError, Outcome, SchemaVersions, TableError};
use crate::schema::{Cause, Found, SchemaVersion, VersionRecord};
use crate::task::{Shutdown, failpoint};

/// Pause between attempts while the store cannot be read.
const RETRY: Duration = Duration::from_millis(500);

/// The schema versions of all tables.
#[derive(Default)]
pub struct Versions {
    /// By table, by number.
    known: RwLock<BTreeMap<String, Vec<Arc<VersionRecord>>>>,
    /// Number of the last recorded version, by table.
    recorded: Mutex<BTreeMap<String, u32>>,
    /// Where they are recorded; set once it is open.
    store: OnceLock<SchemaVersions>,
}

impl Versions {
    /// What is recorded in `store`.
    pub async fn load(store: SchemaVersions) -> Result<Self> {
        let recorded = read(&store).await.map_err(|error| {
            Error::new(Kind::Internal, "the schema versions of the lake cannot be read").because(error)
        })?;
        let mut known: BTreeMap<String, Vec<Arc<VersionRecord>>> = BTreeMap::new();
        for record in recorded {
            known.entry(record.table.clone()).or_default().push(Arc::new(record));
        }
        let mut numbers = BTreeMap::new();
        for (table, records) in &mut known {
            records.sort_by_key(|record| record.number());
            numbers.extend(records.last().map(|newest| (table.clone(), newest.number())));
        }
        Ok(Self { known: RwLock::new(known), recorded: Mutex::new(numbers), store: OnceLock::from(store) })
    }

    /// Records in `store` from now on. Only the first call counts.
    pub fn open(&self, store: SchemaVersions) {
        let _ = self.store.set(store);
    }

    /// True if there is somewhere to record.
    pub fn is_open(&self) -> bool {
        self.store.get().is_some()
    }

    /// The newest version of a table.
    pub fn newest(&self, table: &str) -> Option<Arc<VersionRecord>> {
        self.known.read().get(table)?.last().cloned()
    }

    /// All versions, by table and number.
    pub fn all(&self) -> Vec<Arc<VersionRecord>> {
        self.known.read().values().flatten().cloned().collect()
    }

    /// Makes `version` the newest of `table`; `found` is what led to it. It is not recorded yet.
    pub fn add(&self, table: &str, version: &Arc<SchemaVersion>, found: &[Found], cause: Cause) -> Arc<VersionRecord> {
        let parent = self.newest(table);
        let record = VersionRecord::new(table, parent.as_deref(), Arc::clone(version), found, cause, now_us());
        let record = Arc::new(record);
        self.known.write().entry(table.to_owned()).or_default().push(Arc::clone(&record));
        record
    }

    /// Records the versions of `table` up to number `last` that are not recorded yet; returns once they are. Of two
    /// writers that give one number to different columns one gets an error.
    pub async fn record(&self, table: &str, last: u32, stop: &Shutdown) -> Result<(), CommitError> {
        let mut recorded = self.recorded.lock().await;
        let before = recorded.get(table).copied().unwrap_or(0);
        let new: Vec<Arc<VersionRecord>> = match self.known.read().get(table) {
            Some(known) => known.iter().filter(|new| new.number() > before && new.number() <= last).cloned().collect(),
            None => Vec::new(),
        };
        let (Some(newest), Some(store)) = (new.last(), self.store.get()) else { return Ok(()) };
        let rows = VersionRecord::write(&new.iter().map(|record| &**record).collect::<Vec<_>>())?;
        if store.append(table, before, newest.number(), rows, stop).await? != Outcome::Landed {
            // The number is given: to us, if it was our answer that got lost.
            let there = read_again(store, table, stop).await?;
            let ours = |new: &VersionRecord| {
                there.iter().any(|found| found.table == new.table && found.version == new.version)
            };
            if let Some(other) = new.iter().find(|new| !ours(new)) {
                return Err(CommitError::Version { table: table.to_owned(), number: other.number() });
            }
        }
        failpoint::hit("after_version_record");
        info!(table, schema_version = newest.number(), "schema version recorded");
        recorded.insert(table.to_owned(), newest.number());
        Ok(())
    }
}

async fn read(store: &SchemaVersions) -> Result<Vec<VersionRecord>, TableError> {
    let mut records = Vec::new();
    for batch in store.rows().await? {
        records.extend(VersionRecord::read(&batch)?);
    }
    Ok(records)
}

/// Reads what is recorded, however long the store is away.
async fn read_again(store: &SchemaVersions, table: &str, stop: &Shutdown) -> Result<Vec<VersionRecord>, CommitError> {
    loop {
        match read(store).await {
            Ok(records) => return Ok(records),
            Err(error) => warn!(table, error = %error, "schema versions cannot be read, asking again"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stop.cancelled() => return Err(CommitError::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::{self, Lake, Location, Positions, S3Options, SYSTEM, Stores};
    use crate::schema::{Column, ColumnType};

    async fn open(lake: &Lake) -> SchemaVersions {
        let schema = VersionRecord::schema();
        let table = lake::create(lake, SYSTEM, "schema_versions", &schema, &[], 0, &Positions::new()).await.unwrap();
        SchemaVersions::new(table)
    }

    async fn lake(dir: &tempfile::TempDir) -> Lake {
        let location = Location::Folder(dir.path().to_owned());
        Lake::new(Stores::open_or_create(&location, &S3Options::default()).await.unwrap())
    }

    fn version(number: u32, names: &[&str]) -> Arc<SchemaVersion> {
        let column = |name: &&str| Column::new((*name).into(), name.parse().unwrap(), ColumnType::Double);
        Arc::new(SchemaVersion { number, keys: 0, columns: names.iter().map(column).collect() })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_version_is_recorded_once_and_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let (lake, stop) = (lake(&dir).await, Shutdown::new());
        let versions = Versions::load(open(&lake).await).await.unwrap();
        assert_eq!(versions.newest("t"), None);
        // A lake from before versions were recorded goes on with the number it has.
        versions.add("t", &version(4, &["a"]), &[], Cause::Adopted);
        versions.add("t", &version(5, &["a", "b"]), &[], Cause::Edit("schemas/t.toml".into()));
        versions.add("u", &version(1, &["x"]), &[], Cause::Adopted);
        versions.record("t", 4, &stop).await.unwrap();
        versions.record("t", 5, &stop).await.unwrap();
        versions.record("t", 5, &stop).await.unwrap();
        let again = Versions::load(open(&lake).await).await.unwrap();
        let known: Vec<_> = versions.all().into_iter().filter(|record| record.table == "t").collect();
        assert_eq!(again.all(), known, "u was known, but not recorded");
        assert_eq!((again.newest("t").unwrap().number(), known[1].parent), (5, Some(4)));
        again.add("t", &version(6, &["a", "b", "c"]), &[], Cause::Adopted);
        again.record("t", 6, &stop).await.unwrap();
        assert_eq!(read(&open(&lake).await).await.unwrap().len(), 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_two_who_want_a_number_one_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let (lake, stop) = (lake(&dir).await, Shutdown::new());
        let ours = Versions::load(open(&lake).await).await.unwrap();
        let same = Versions::load(open(&lake).await).await.unwrap();
        let other = Versions::load(open(&lake).await).await.unwrap();
        for (versions, columns) in [(&ours, ["a", "b"]), (&same, ["a", "b"]), (&other, ["a", "c"])] {
            versions.add("t", &version(1, &columns), &[], Cause::Adopted);
        }
        ours.record("t", 1, &stop).await.unwrap();
        // The same columns are the same version, whoever recorded it (as after a lost answer); other columns are not.
        same.record("t", 1, &stop).await.unwrap();
        let refused = other.record("t", 1, &stop).await;
        assert!(matches!(refused, Err(CommitError::Version { number: 1, .. })), "{refused:?}");
        let recorded = read(&open(&lake).await).await.unwrap();
        assert_eq!(recorded.iter().map(|record| &record.version).collect::<Vec<_>>(), [&version(1, &["a", "b"])]);
        // Who lost loads what is there, and goes on from it.
        let adopted = Versions::load(open(&lake).await).await.unwrap();
        assert_eq!(adopted.newest("t").unwrap().version, version(1, &["a", "b"]));
    }
}
