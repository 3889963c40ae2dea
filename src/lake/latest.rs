//! Tables with one row per key: a Delta table that anybody can read, and beside it what only Millpond needs to go on
//! with it, the sidecars.
//!
//! A flush `n` writes sidecars under `_millpond/latest/<table>/`, then a manifest `n` that names them and the positions
//! they are of, then **one Delta commit** that replaces the rows of the buckets that changed and moves `txn` `flush` to
//! `n`. The commit decides: whoever starts reads the number, and with it the manifest. Manifests that no commit names
//! are left over from a crash; their numbers are not taken again.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int32Array, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use deltalake_core::kernel::Add;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::commit::machine::Outcome;
use super::commit::{self, CommitError, Replacement};
use super::flush::pause;
use super::positions::{Positions, TopicPartition};
use super::table::{Table, TableError, parquet_rows};
use super::txns::TxnError;
use super::{Lake, OWN, PUBLIC};
use crate::schema::{conform, plain_type};
use crate::task::{Shutdown, failpoint};

/// The column that says which of the table's parts a row is in. Its files are replaced as a whole.
pub const BUCKET: &str = "_bucket";
/// The application id whose number is that of the newest flush, of a table that is kept from tables …
pub const FLUSH: &str = "flush";
/// … and of one that is read from files.
pub const FILES: &str = "files";
/// Files that were replaced are kept this long for those who read the table as it was …
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// … unless they take more than this, or …
const KEPT_BYTES: u64 = 1 << 30;
/// … so many times what the table takes.
const KEPT_TIMES: u64 = 10;

/// What a flush says beside the rows. `S` is what the state knows of each source, beside its positions and files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest<S> {
    /// Which flush.
    pub flush: i64,
    /// Whose: a text that no other has.
    pub id: String,
    /// What the table was declared as.
    pub declared: String,
    /// In how many parts the table's rows are.
    pub buckets: u32,
    /// When it was written, by the writer's wall clock.
    pub written_at: DateTime<Utc>,
    /// The sources, in the order of the table's declaration.
    pub sources: Vec<SourceState<S>>,
}

/// The state kept from one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState<S> {
    /// Name of the table that it is kept from.
    pub table: String,
    /// Up to where: what the source holds below is in it.
    pub positions: Vec<Place>,
    /// The retries of dead letters that are in it.
    pub retries: u64,
    /// How often the source's rows had been replaced.
    #[serde(default)]
    pub remade: i64,
    /// The sidecars that make it, in the order they were written.
    pub files: Vec<Sidecar>,
    /// What else is known of it.
    pub state: S,
}

/// A position, as manifests write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    topic: String,
    incarnation: u32,
    partition: i32,
    /// Next offset.
    position: i64,
}

/// A file of rows that a state is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sidecar {
    /// Its name in the table's folder of sidecars.
    pub name: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

impl<S> SourceState<S> {
    /// Its positions.
    pub fn positions(&self) -> Positions {
        let lane = |place: &Place| TopicPartition {
            topic: place.topic.as_str().into(),
            incarnation: place.incarnation,
            partition: place.partition,
        };
        self.positions.iter().map(|place| (lane(place), place.position)).collect()
    }
}

/// Positions as manifests write them.
pub fn places(positions: &Positions) -> Vec<Place> {
    let place = |(lane, position): (&TopicPartition, &i64)| Place {
        topic: lane.topic.to_string(),
        incarnation: lane.incarnation,
        partition: lane.partition,
        position: *position,
    };
    positions.iter().map(place).collect()
}

/// Rows of a flush.
pub struct Flush {
    /// Rows, those of the buckets that are replaced among them.
    pub rows: Vec<RecordBatch>,
    /// By bucket, all of its rows: which batch, and where in it.
    pub buckets: BTreeMap<u32, Vec<(usize, usize)>>,
    /// The buckets that are replaced; all if none are named.
    pub only: Option<BTreeSet<u32>>,
}

/// The Delta table of a table with one row per key, and its sidecars.
pub struct LatestFiles {
    lake: Lake,
    name: String,
    /// The application id whose number is that of the newest flush.
    counted: &'static str,
    table: Option<Table>,
    checkpoint: u64,
    /// Files of the table that are no part of it any more, in the order they were replaced.
    replaced: VecDeque<Replaced>,
    replaced_bytes: u64,
    /// Sidecars and manifests that were written since the newest flush.
    written: BTreeSet<Path>,
    /// Those that the newest flush does not name: who reads by the one before may need them.
    unnamed: BTreeSet<Path>,
}

/// The Delta table as a flush finds it.
pub struct Present {
    table: Table,
    /// The columns that it is to have.
    schema: SchemaRef,
    /// It is new, or has other columns than the rows: only a flush of all of them will do.
    pub is_other: bool,
}

struct Replaced {
    at: DateTime<Utc>,
    path: Path,
    bytes: u64,
}

impl LatestFiles {
    /// Those of the table `name`, which may not be there yet; `counted` is [`FLUSH`] or [`FILES`].
    pub async fn open(lake: &Lake, name: &str, counted: &'static str) -> Result<Self, TableError> {
        let table = lake.open(PUBLIC, name).await?;
        let checkpoint = table.as_ref().map_or(0, Table::version);
        let (lake, name) = (lake.clone(), name.to_owned());
        let (replaced, written, unnamed) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        Ok(Self { lake, name, counted, table, checkpoint, replaced, replaced_bytes: 0, written, unnamed })
    }

    /// The Delta table; `None` before the first flush.
    pub fn table(&self) -> Option<&Table> {
        self.table.as_ref()
    }

    fn folder(&self) -> Path {
        folder(&self.name)
    }

    fn manifest_path(&self, flush: i64) -> Path {
        self.folder().join(format!("{flush:020}.json"))
    }

    fn number(&self) -> i64 {
        self.table.as_ref().and_then(|table| table.number(self.counted)).unwrap_or(0)
    }

    /// What the newest flush says; `None` if there was none, or its manifest is of a form that this program does not
    /// know.
    pub async fn manifest<S: DeserializeOwned>(&self) -> Result<Option<Manifest<S>>, TableError> {
        let number = self.number();
        if number == 0 {
            return Ok(None);
        }
        match self.read(&self.manifest_path(number)).await {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(manifest) => Ok(Some(manifest)),
                Err(error) => {
                    warn!(table = self.name, flush = number, error = %error, "manifest cannot be read");
                    Ok(None)
                }
            },
            Err(StoreError::NotFound { .. }) => {
                warn!(table = self.name, flush = number, "manifest is gone");
                Ok(None)
            }
            Err(error) => Err(TxnError::from(error).into()),
        }
    }

    async fn read(&self, path: &Path) -> Result<Bytes, StoreError> {
        self.lake.stores().data().get(path).await?.bytes().await
    }

    /// The rows of the Delta table.
    pub async fn rows(&self) -> Result<Vec<RecordBatch>, TableError> {
        let Some(table) = &self.table else { return Ok(Vec::new()) };
        let folder = Path::from(PUBLIC).join(self.name.as_str());
        let mut rows = Vec::new();
        for file in table.snapshot()?.log_data().iter() {
            let path = file.object_store_path().parts().fold(folder.clone(), Path::join);
            rows.extend(parquet_rows(&**self.lake.stores().data(), &path, &self.name).await?.unwrap_or_default());
        }
        Ok(rows)
    }

    /// Reads the table's sidecars.
    pub fn sidecars(&self) -> SidecarReader {
        SidecarReader { lake: self.lake.clone(), name: self.name.clone() }
    }

    /// Writes a sidecar; returns once it is there, however long the store is away.
    pub async fn write_sidecar(&mut self, sidecar: SidecarWriter, stop: &Shutdown) -> Result<Sidecar, CommitError> {
        let name = format!("{}.parquet", uuid::Uuid::new_v4());
        let (rows, bytes) = sidecar.finish(&self.name)?;
        let path = self.folder().join(name.as_str());
        self.written.insert(path.clone());
        while let Err(error) = self.lake.stores().data().put(&path, bytes.clone().into()).await {
            warn!(table = self.name, error = %super::reason(&error), "sidecar not written, trying again");
            pause(stop).await?;
        }
        Ok(Sidecar { name, rows, bytes: bytes.len() as u64 })
    }

    /// Replaces rows of the table `present`, with `manifest` beside them; returns once the outcome is known, however
    /// long the store is away.
    /// The manifest gets its number and id here. Returns the bytes of the rows' files.
    pub async fn flush<S: Serialize>(
        &mut self,
        present: Present,
        flush: Flush,
        manifest: &mut Manifest<S>,
        stop: &Shutdown,
    ) -> Result<u64, CommitError> {
        failpoint::hit("latest_before_stage");
        let Present { mut table, schema, is_other } = present;
        let adds = stage(&table, flush.rows, flush.buckets, &schema, stop).await?;
        failpoint::hit("latest_after_stage");
        let start = self.number();
        (manifest.flush, manifest.id) = (start + 1, uuid::Uuid::new_v4().to_string());
        self.write_manifest(manifest, stop).await?;
        failpoint::hit("latest_after_manifest");
        let value = |bucket: &u32| Some(bucket.to_string());
        let only = flush.only.map(|buckets| (BUCKET.to_owned(), buckets.iter().map(value).collect()));
        let replacement = Replacement { adds, only, schema: is_other.then_some(schema), txns: Vec::new() };
        let before = table.clone();
        let outcome =
            commit::commit_replacement(&mut table, self.counted, &replacement, start, manifest.flush, stop).await?;
        failpoint::hit("latest_after_commit");
        if outcome != Outcome::Skipped {
            self.note_replaced(&before, &table)?;
        }
        self.table = Some(table);
        Ok(replacement.adds.iter().map(|add| add.size.unsigned_abs()).sum())
    }

    /// The Delta table for rows with these columns: somebody may have deleted it. Returns once it is there, however long
    /// the store is away.
    pub async fn present(&mut self, columns: &SchemaRef, stop: &Shutdown) -> Result<Present, CommitError> {
        let schema = with_bucket(columns);
        loop {
            match self.open_or_create(&schema).await {
                Ok(present) => return Ok(present),
                Err(error) => warn!(table = self.name, error = %error, "table not opened, trying again"),
            }
            pause(stop).await?;
        }
    }

    async fn open_or_create(&mut self, schema: &SchemaRef) -> Result<Present, TableError> {
        if let Some(table) = self.table.clone()
            && table.is_there().await?
        {
            let is_other = !table.has_columns(schema)?;
            return Ok(Present { table, schema: Arc::clone(schema), is_other });
        }
        let lake = self.lake.clone().with_history(self.lake.history.min(KEPT));
        let table = commit::create(&lake, PUBLIC, &self.name, schema, &[BUCKET], 0, &Positions::new()).await?;
        self.checkpoint = table.version();
        self.table = Some(table.clone());
        Ok(Present { table, schema: Arc::clone(schema), is_other: true })
    }

    async fn write_manifest<S: Serialize>(
        &mut self,
        manifest: &mut Manifest<S>,
        stop: &Shutdown,
    ) -> Result<(), CommitError> {
        loop {
            let bytes = serde_json::to_vec_pretty(manifest).map_err(|error| unwritable(&self.name, &error))?;
            let bytes = Bytes::from(bytes);
            let path = self.manifest_path(manifest.flush);
            self.written.insert(path.clone());
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.lake.stores().commit().put_opts(&path, bytes.clone().into(), options).await;
            // A lost answer makes our own look like another's, so it is read back.
            let error = match put {
                Ok(_) => return Ok(()),
                Err(StoreError::AlreadyExists { .. }) => match self.read(&path).await {
                    Ok(known) if known == bytes => return Ok(()),
                    Ok(_) => {
                        self.written.remove(&path);
                        manifest.flush += 1;
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            warn!(table = self.name, error = %super::reason(&error), "manifest not written, trying again");
            pause(stop).await?;
        }
    }

    fn note_replaced(&mut self, before: &Table, after: &Table) -> Result<(), TableError> {
        let (before, after) = (before.snapshot()?, after.snapshot()?);
        let now: BTreeSet<String> = after.log_data().iter().map(|file| file.path().to_string()).collect();
        for file in before.log_data().iter().filter(|file| !now.contains(&*file.path())) {
            let bytes = file.size().unsigned_abs();
            self.replaced_bytes += bytes;
            let path = Path::from(PUBLIC).join(self.name.as_str());
            let path = file.object_store_path().parts().fold(path, Path::join);
            self.replaced.push_back(Replaced { at: Utc::now(), path, bytes });
        }
        Ok(())
    }

    /// Writes a checkpoint of the Delta log when one is due, and deletes files that nobody needs any more, `newest` and
    /// `before` being the last two flushes. What fails is tried again later.
    pub async fn tidy<S>(&mut self, newest: &Manifest<S>, before: Option<&Manifest<S>>) {
        if let Some(table) = &mut self.table {
            table.checkpoint_when_due(&mut self.checkpoint).await;
        }
        let table_bytes: u64 = self
            .table
            .as_ref()
            .and_then(|table| table.snapshot().ok())
            .map_or(0, |snapshot| snapshot.log_data().iter().map(|file| file.size().unsigned_abs()).sum());
        let most = KEPT_BYTES.max(table_bytes.saturating_mul(KEPT_TIMES));
        let is_old = |oldest: &Replaced| (Utc::now() - oldest.at).to_std().unwrap_or_default() >= KEPT;
        while let Some(oldest) = self.replaced.pop_front_if(|oldest| is_old(oldest) || self.replaced_bytes > most) {
            self.delete(&oldest.path).await;
            self.replaced_bytes -= oldest.bytes;
        }
        let named = self.named(newest);
        let mut unnamed = std::mem::take(&mut self.written);
        unnamed.extend(before.map(|before| self.named(before)).unwrap_or_default());
        unnamed.retain(|path| !named.contains(path));
        for path in std::mem::replace(&mut self.unnamed, unnamed) {
            self.delete(&path).await;
        }
    }

    /// A manifest and the sidecars that it names.
    fn named<S>(&self, manifest: &Manifest<S>) -> BTreeSet<Path> {
        let files = manifest.sources.iter().flat_map(|source| &source.files);
        let sidecars = files.map(|file| self.folder().join(file.name.as_str()));
        sidecars.chain([self.manifest_path(manifest.flush)]).collect()
    }

    async fn delete(&self, path: &Path) {
        match self.lake.stores().data().delete(path).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => debug!(%path, error = %super::reason(&error), "file not deleted"),
        }
    }

    /// Looks for files that earlier processes have replaced, or left behind when they were killed; `newest` is the last
    /// flush.
    pub async fn find_leftovers<S>(&mut self, newest: Option<&Manifest<S>>) -> Result<(), TableError> {
        let named = newest.map(|newest| self.named(newest)).unwrap_or_default();
        let sidecars = self.list(&self.folder()).await?.into_iter().map(|found| found.location);
        self.unnamed = sidecars.filter(|path| !named.contains(path)).collect();
        let Some(table) = &self.table else { return Ok(()) };
        let folder = Path::from(PUBLIC).join(self.name.as_str());
        let now: BTreeSet<Path> = table.snapshot()?.log_data().iter().map(|file| file.object_store_path()).collect();
        let mut replaced: Vec<Replaced> = Vec::new();
        for found in self.list(&folder).await? {
            let inside: Path = found.location.prefix_match(&folder).into_iter().flatten().collect();
            let is_data = found.location.as_ref().ends_with(".parquet") && !inside.as_ref().starts_with("_delta_log");
            if is_data && !now.contains(&inside) {
                replaced.push(Replaced { at: found.last_modified, path: found.location, bytes: found.size });
            }
        }
        replaced.sort_by_key(|found| found.at);
        self.replaced_bytes = replaced.iter().map(|found| found.bytes).sum();
        self.replaced = replaced.into();
        Ok(())
    }

    async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, TableError> {
        Ok(self.lake.stores().data().list(Some(folder)).try_collect().await.map_err(TxnError::from)?)
    }
}

/// The folder of a table's sidecars.
fn folder(table: &str) -> Path {
    Path::from(OWN).join("latest").join(table)
}

/// Reads sidecars of a table.
#[derive(Clone)]
pub struct SidecarReader {
    lake: Lake,
    name: String,
}

impl SidecarReader {
    /// The rows of a sidecar; `None` if it is not there any more.
    pub async fn read(&self, sidecar: &Sidecar) -> Result<Option<Vec<RecordBatch>>, TableError> {
        let path = folder(&self.name).join(sidecar.name.as_str());
        parquet_rows(&**self.lake.stores().data(), &path, &self.name).await
    }
}

fn unwritable(table: &str, error: &dyn std::fmt::Display) -> TableError {
    TableError::Schema { table: table.to_owned(), reason: error.to_string() }
}

/// Encodes a sidecar.
pub struct SidecarWriter {
    writer: Option<ArrowWriter<Vec<u8>>>,
    rows: u64,
}

impl SidecarWriter {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { writer: None, rows: 0 }
    }

    /// Adds rows; all must have the same columns.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<(), TableError> {
        let fault = |error: parquet::errors::ParquetError| unwritable("sidecar", &error);
        if self.writer.is_none() {
            let level = ZstdLevel::try_new(1).unwrap_or_default();
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
            self.writer = Some(ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).map_err(fault)?);
        }
        if let Some(writer) = &mut self.writer {
            writer.write(rows).map_err(fault)?;
            self.rows += rows.num_rows() as u64;
        }
        Ok(())
    }

    /// True if no rows were added.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn finish(self, table: &str) -> Result<(u64, Bytes), TableError> {
        let bytes = match self.writer {
            Some(writer) => writer.into_inner().map_err(|error| unwritable(table, &error))?,
            None => Vec::new(),
        };
        Ok((self.rows, bytes.into()))
    }
}

impl Default for SidecarWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes the rows of each bucket, one after the other: what is held beside the rows themselves is one bucket's.
async fn stage(
    table: &Table,
    rows: Vec<RecordBatch>,
    buckets: BTreeMap<u32, Vec<(usize, usize)>>,
    schema: &SchemaRef,
    stop: &Shutdown,
) -> Result<Vec<Add>, CommitError> {
    let mut adds = Vec::with_capacity(buckets.len());
    for (bucket, places) in buckets {
        let rows = gather(&rows, bucket, &places, schema).map_err(TableError::from)?;
        let staged = loop {
            match table.stage(std::slice::from_ref(&rows), schema).await {
                Ok(staged) => break staged,
                Err(error) => table.warn("data files not written, trying again", &error),
            }
            pause(stop).await?;
        };
        adds.extend(staged);
    }
    Ok(adds)
}

/// The rows at these places, all of one bucket, in the table's columns.
fn gather(
    rows: &[RecordBatch],
    bucket: u32,
    places: &[(usize, usize)],
    schema: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let rows = interleave_record_batch(&rows.iter().collect::<Vec<_>>(), places)?;
    let rows = conform(&rows, &Arc::new(Schema::new(schema.fields()[..schema.fields().len() - 1].to_vec())))?;
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(Int32Array::from_value(bucket.cast_signed(), rows.num_rows())));
    RecordBatch::try_new(Arc::clone(schema), columns)
}

/// The columns of the Delta table for rows with these columns: all nullable, in types that every engine reads, and the
/// bucket.
fn with_bucket(schema: &Schema) -> SchemaRef {
    let plain = |field: &Arc<Field>| Field::new(field.name(), plain_type(field.data_type()), true);
    let bucket = Field::new(BUCKET, DataType::Int32, true);
    Arc::new(Schema::new(schema.fields().iter().map(plain).chain([bucket]).collect::<Vec<_>>()))
}
