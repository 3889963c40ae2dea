//! The lake: Delta tables on an object store that any engine can read, written by one process.
//!
//! * `store`, `durable`, `probe`, `format`, `claim`: where it lies, what the store must be able to do, who writes.
//! * `positions`: next Kafka offsets, kept as `txn` actions inside the commits that hold the rows.
//! * `table`, `txns`, `commit`: a Delta table, all its positions in one pass, and **the only commit**.
//! * `view`, `flush`: hot rows and committed rows as one consistent whole; a frozen window becomes a commit.
//! * `dead_letters`: the side table of records that could not become rows; `retry`: their rows, once they can.
//! * `replay`: rows of records that were decoded again, in the place of those that they had.
//! * `layout`: how data files are laid out; `file_rows`: the rows of one.
//! * `identity`: which records a table holds, for commits that may repeat another.
//! * `side`: tables that get rows of the same windows, child tables and records as they came.
//! * `latest`: tables with one row per key, and what is kept beside them to go on.
//! * `files`: files beside the lake, whose rows reference tables hold; `made`: tables that are written in whole pieces.
//! * `care`: small files merged, what is older than the history deleted, rows older than their table keeps them, too.
//! * `schema_versions`: the table that gives schema versions their numbers and keeps what they are.
//!
//! It never touches a Kafka client and never sees users' SQL.

mod alerts;
pub mod care;
mod claim;
mod commit;
mod dead_letters;
mod file_rows;
mod files;
mod flush;
mod format;
mod identity;
mod latest;
mod layout;
mod log_store;
mod made;
mod paused;
mod positions;
mod probe;
mod replay;
mod retry;
mod schema_versions;
mod side;
mod states;
mod store;
mod table;
mod txns;
mod view;

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use deltalake_core::logstore::LogStoreRef;
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use tracing::{info, warn};
use url::Url;

pub use alerts::{AlertFiles, AlertLog, FoundAlerts};
pub use claim::{Claim, Holder, Liveness};
pub use commit::machine::Outcome;
pub use commit::{CommitError, commit_main, create};
pub use dead_letters::{DEAD_LETTERS_VERSION, DeadLetters};
pub use files::{SourceFile, SourceFiles, rows_of_parquet, upload};
pub use flush::{Encoding, Window, append_rows, evolve, flush};
pub use format::{Format, LAYOUT, accept_kafka_cluster, check_kafka_cluster, kafka_cluster};
pub use identity::{RecordId, record_ids};
pub use latest::{
    FILES, FLUSH, Flush, LatestFiles, Manifest, Present, SidecarReader, SidecarWriter, SourceState, places,
};
pub use layout::Compression;
pub use made::{FILE, Keys, MadeTable, Numbers, Piece, RUN, Replaces, SOURCE, Staged, TEXT};
pub use paused::{pause, paused};
pub use positions::{Move, Moves, Positions, TopicPartition};
pub use probe::probe;
pub use replay::{RecordSet, Shadow, Switched, all_rows, rows_between};
pub use retry::retry;
pub use schema_versions::SchemaVersions;
pub use side::SideRows;
pub use states::States;
pub use store::{DurableLocal, Location, S3Keys, S3Options, Stores, reason, store_error};
pub use table::{CHECKPOINT_EVERY, Past, Table, TableError};
pub use txns::TxnError;
pub use view::{HotBatch, LiveView, View};

pub use deltalake_core::kernel::EagerSnapshot as Snapshot;

/// Folder of the users' tables.
pub const PUBLIC: &str = "public";
/// Folder of the tables Millpond keeps about itself.
pub const SYSTEM: &str = "system";

/// Folder of the positions of stream queries whose rows no table keeps.
pub const STREAMS: &str = "_millpond/streams";

/// Folder of what is Millpond's alone: claims, the format.
const OWN: &str = "_millpond";

/// Scheme and host under which the query room finds the lake's store. It names no place outside the lake, so
/// no SQL can point elsewhere.
pub const INTERNAL_URL: &str = "millpond://lake/";

/// The tables of one lake.
#[derive(Clone, Debug)]
pub struct Lake {
    stores: Stores,
    claim: Option<Weak<Claim>>,
    history: Duration,
    compression: Compression,
}

/// What Delta takes for its own if nobody says otherwise.
const HISTORY: Duration = Duration::from_secs(7 * 24 * 3_600);

impl Lake {
    /// The lake in `stores`.
    pub fn new(stores: Stores) -> Self {
        // Bytes in a bucket cost, there and on their way, and warehouses read them that do not know all of Parquet.
        let compression = match stores.location() {
            Location::Folder(_) => Compression::Lz4,
            Location::Bucket { .. } => Compression::Zstd,
        };
        Self { stores, claim: None, history: HISTORY, compression }
    }

    /// The same lake, whose tables can be read as they were so long ago. (A table learns of it when it is created.)
    #[must_use]
    pub fn with_history(self, history: Duration) -> Self {
        Self { history, ..self }
    }

    /// The same lake, whose data files are compressed so from now on, unless it is `None`.
    #[must_use]
    pub fn with_compression(self, compression: Option<Compression>) -> Self {
        Self { compression: compression.unwrap_or(self.compression), ..self }
    }

    /// The same lake, of which `claim` says whether this process is the one writer.
    #[must_use]
    pub fn claimed(self, claim: &Arc<Claim>) -> Self {
        Self { claim: Some(Arc::downgrade(claim)), ..self }
    }

    /// Whether nobody else can have become the writer: a process that was stopped and wakes up does not know yet. Commits
    /// are right all the same; an object that is written once would end whoever writes now.
    fn is_certain(&self) -> bool {
        self.claim.as_ref().is_none_or(|claim| claim.upgrade().is_some_and(|claim| claim.is_certain()))
    }

    /// Its object store.
    pub fn stores(&self) -> &Stores {
        &self.stores
    }

    /// Removes what killed processes left half written in a local folder before `before`, the start of this one. For
    /// the holder of the writer claim: whoever else is still writing there has lost it, and must not succeed.
    pub async fn sweep(&self, before: SystemTime) {
        match self.stores.sweep(&[PUBLIC, SYSTEM, OWN], before).await {
            Ok(0) => {}
            Ok(files) => info!(files, "half-written files of a killed process removed"),
            Err(error) => warn!(%error, "half-written files of a killed process not removed"),
        }
    }

    /// Opens the Delta table `folder/name`; `None` if there is none.
    pub async fn open(&self, folder: &str, name: &str) -> Result<Option<Table>, TableError> {
        Table::open(self, folder, name).await
    }

    /// The log store and the data store of the table `folder/name`, existing or not.
    fn table_stores(&self, folder: &str, name: &str) -> Result<(LogStoreRef, Arc<dyn ObjectStore>), TableError> {
        let fault = |reason: String| TableError::Schema { table: name.to_owned(), reason };
        let url = Url::parse(&format!("{INTERNAL_URL}{folder}/{name}/")).map_err(|error| fault(error.to_string()))?;
        let prefix = Path::from(folder).join(name);
        let log: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(self.stores.commit()), prefix.clone()));
        let data: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(Arc::clone(self.stores.data()), prefix));
        Ok((log_store::open(log, Arc::clone(self.stores.commit()), &url), data))
    }

    /// The Delta table `folder/name` as it was; `None` if there is no such table. An error if it never had that
    /// table version, or was not there yet at that time.
    pub async fn past(&self, folder: &str, name: &str, at: Past) -> Result<Option<Table>, TableError> {
        let version = match at {
            Past::Version(version) => version,
            Past::Time(time) => match care::version_at(self, folder, name, time).await? {
                Some(version) => version,
                None => return Ok(None),
            },
        };
        Table::open_past(self, folder, name, version).await
    }

    /// Names of the tables in `folder`.
    pub async fn table_names(&self, folder: &str) -> Result<Vec<String>, TableError> {
        let listed = self.stores.data().list_with_delimiter(Some(&Path::from(folder))).await;
        let listed = match listed {
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            other => other.map_err(txns::TxnError::from)?,
        };
        let mut names: Vec<String> =
            listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort();
        Ok(names)
    }
}
