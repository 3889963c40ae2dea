//! How a table's log is read: delta-rs' log store, with less memory.
//!
//! Its kernel reads a thousand log entries at once and makes room for a thousand rows of each; an entry has three or so.
//! With 100 entries behind a checkpoint that is 190 MB which is asked for and given back again with every opening.

use std::num::NonZero;
use std::sync::Arc;

use async_trait::async_trait;
use buoyant_kernel::Engine;
use buoyant_kernel_engine::DefaultEngineBuilder;
use buoyant_kernel_engine::executor::tokio::TokioMultiThreadExecutor;
use bytes::Bytes;
use deltalake_core::DeltaResult;
use deltalake_core::kernel::Version;
use deltalake_core::kernel::transaction::TransactionError;
use deltalake_core::logstore::{CommitOrBytes, LogStore, LogStoreConfig, LogStoreRef, StorageConfig, default_logstore};
use object_store::ObjectStore;
use tokio::runtime::{Handle, RuntimeFlavor};
use url::Url;
use uuid::Uuid;

/// Log entries, and files of a checkpoint, that are read at once.
const FILES: NonZero<usize> = NonZero::new(32).unwrap();
/// Rows of each that are parsed at once.
const ROWS: NonZero<usize> = NonZero::new(128).unwrap();

/// The log of the table at `url`: `table` is rooted there, `root` where the url is.
pub fn open(table: Arc<dyn ObjectStore>, root: Arc<dyn ObjectStore>, url: &Url) -> LogStoreRef {
    Arc::new(Frugal { log: default_logstore(table, root, url, &StorageConfig::default()) })
}

/// All is that store's, but for the engine that reads.
#[derive(Debug)]
struct Frugal {
    log: LogStoreRef,
}

#[async_trait]
impl LogStore for Frugal {
    fn engine(&self, operation: Option<Uuid>) -> Arc<dyn Engine> {
        let handle = Handle::current();
        if handle.runtime_flavor() == RuntimeFlavor::CurrentThread {
            return self.log.engine(operation);
        }
        let engine = DefaultEngineBuilder::new(self.root_object_store(operation))
            .with_task_executor(Arc::new(TokioMultiThreadExecutor::new(handle)))
            .with_buffer_size(FILES)
            .with_batch_size(ROWS);
        Arc::new(engine.build())
    }

    fn name(&self) -> String {
        self.log.name()
    }

    async fn read_commit_entry(&self, version: Version) -> DeltaResult<Option<Bytes>> {
        self.log.read_commit_entry(version).await
    }

    async fn write_commit_entry(
        &self,
        version: Version,
        entry: CommitOrBytes,
        operation: Uuid,
    ) -> Result<(), TransactionError> {
        self.log.write_commit_entry(version, entry, operation).await
    }

    async fn abort_commit_entry(
        &self,
        version: Version,
        entry: CommitOrBytes,
        operation: Uuid,
    ) -> Result<(), TransactionError> {
        self.log.abort_commit_entry(version, entry, operation).await
    }

    async fn get_latest_version(&self, from: Version) -> DeltaResult<Version> {
        self.log.get_latest_version(from).await
    }

    fn object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.log.object_store(operation)
    }

    fn root_object_store(&self, operation: Option<Uuid>) -> Arc<dyn ObjectStore> {
        self.log.root_object_store(operation)
    }

    fn config(&self) -> &LogStoreConfig {
        self.log.config()
    }
}
