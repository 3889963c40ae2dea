//! Writes the rows of one table with one row per key to the lake, every so often, and at the end.
//!
//! Positions are noted before the state is read, the state before the rows. So what a flush says is never more than what
//! it holds; what it holds beside that comes again, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::error::ArrowError;
use chrono::Utc;
use futures::TryStreamExt;
use parking_lot::Mutex;
use tracing::{debug, warn};

use super::follower::{Seen, StateRecord};
use super::{State, Writing, broken};
use crate::engine::catalog::EngineCatalog;
use crate::error::{Error, Kind, Result};
use crate::lake::{Flush, LatestFiles, Manifest, Present, SidecarWriter, Snapshot, SourceState, places};
use crate::latest::{Buckets, LatestError, LatestTable, Rows};
use crate::query::{Catalog, Pinned, Service, SystemTable};
use crate::task::Shutdown;

/// What a manifest says.
pub(super) type StatesManifest = Manifest<StateRecord>;

/// Rows of a bucket, when the buckets are made.
const BUCKET_ROWS: usize = 16 * 1024;
/// Most buckets of a table.
const MOST_BUCKETS: u32 = 256;
/// A table has too few buckets once it has so many times the rows that they were made for.
const TOO_MANY_TIMES: usize = 4;
/// Slots that are read at once: others wait meanwhile.
const SLOTS: usize = 1024;
/// Most sidecars of a state; then all of it is written anew.
const MOST_FILES: usize = 32;
/// What is written per second on average, at most: a table that takes more is flushed less often.
const BYTES_PER_SECOND: u64 = 1 << 20;
/// How long the end waits for the last rows that were committed.
const LAST_ROWS: Duration = Duration::from_secs(5);
/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What the lake has of a table.
#[derive(Debug, Clone)]
pub struct Flushed {
    /// Version of the Delta table.
    pub table_version: u64,
    /// Its data files.
    pub files: usize,
    /// What it is made of.
    pub snapshot: Arc<Snapshot>,
}

impl Flushed {
    /// What these are; nothing before the first flush.
    pub(super) fn of(files: &LatestFiles) -> Option<Self> {
        let table = files.table()?;
        let snapshot = table.snapshot().ok()?;
        Some(Self { table_version: table.version(), files: table.files(), snapshot })
    }
}

/// What there is to write.
pub(super) struct Source {
    pub name: String,
    pub rows: Arc<dyn Rows>,
    /// The SQL of the table, if `rows` are not all of it.
    pub derived: Option<String>,
    /// What the table was declared as.
    pub declared: String,
    pub states: Vec<State>,
    pub service: Service,
    pub catalog: Arc<EngineCatalog>,
    pub flushed: Arc<Mutex<Option<Flushed>>>,
}

/// Writes one table.
pub(super) struct Writer {
    source: Source,
    writing: Writing,
    files: LatestFiles,
    /// What the newest flush says.
    manifest: Option<StatesManifest>,
    /// Something of the table may be other than what was written: the next flush is of all rows.
    whole: bool,
}

/// What a flush takes, before it is written.
struct Cut {
    sources: Vec<SourceState<StateRecord>>,
    present: Present,
    flush: Flush,
    buckets: u32,
    bytes: u64,
}

impl Writer {
    /// What goes on from `manifest`, the newest flush of `files`.
    pub fn new(source: Source, writing: Writing, files: LatestFiles, manifest: Option<StatesManifest>) -> Self {
        let is_same = |manifest: &StatesManifest| manifest.declared == source.declared;
        let whole = writing.forgetful || !manifest.as_ref().is_some_and(is_same);
        let writer = Self { source, writing, files, manifest, whole };
        writer.show();
        writer
    }

    /// Runs until the table is not kept any more, or all is written at the end.
    pub async fn run(mut self, stop: Shutdown) {
        if let Err(error) = self.files.find_leftovers(self.manifest.as_ref()).await {
            warn!(table = self.source.name, error = %error, "files that are left over not looked for");
        }
        let mut pause = self.writing.interval;
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => return,
                () = self.writing.finish.cancelled() => true,
                () = tokio::time::sleep(pause) => false,
            };
            if is_last {
                self.wait_for_last_rows().await;
            }
            if self.writing.abort.is_cancelled() {
                return;
            }
            pause = self.writing.interval;
            match self.flush(is_last).await {
                Ok(bytes) => pause = pause.max(Duration::from_secs(bytes / BYTES_PER_SECOND)),
                Err(error) if error.kind() == Kind::Refused => {
                    let _ = self.writing.failed.send(error).await;
                    return;
                }
                Err(error) => {
                    // What it had taken counts as written: the next one takes all.
                    self.whole = true;
                    warn!(table = self.source.name, error = %error, "rows not written, trying again");
                }
            }
            if is_last {
                return;
            }
        }
    }

    /// Waits until all is taken in that was committed.
    async fn wait_for_last_rows(&self) {
        let deadline = Instant::now() + LAST_ROWS;
        let is_behind = |state: &State| {
            !state.table.is_loading() && state.table.stopped().is_none() && !state.is_up_to_date(&self.source.catalog)
        };
        while self.source.states.iter().any(is_behind) && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Writes what has changed since the last time, if anything has; the last time also where it is, so that a start reads
    /// nothing again. Returns how much was written, in bytes.
    async fn flush(&mut self, is_last: bool) -> Result<u64> {
        let schema = self.source.rows.schema();
        let key = self.source.rows.key().len();
        // Before the first rows nobody knows what the key is.
        if schema.fields().len() <= key || self.source.rows.is_loading() || self.source.rows.stopped().is_some() {
            return Ok(0);
        }
        let began = Instant::now();
        let Some(cut) = self.cut(is_last).await? else { return Ok(0) };
        let mut manifest = StatesManifest {
            flush: 0,
            id: String::new(),
            declared: self.source.declared.clone(),
            buckets: cut.buckets,
            written_at: Utc::now(),
            sources: cut.sources,
        };
        let Cut { present, flush, bytes, .. } = cut;
        let bytes = bytes + self.files.flush(present, flush, &mut manifest, &self.writing.abort).await?;
        let took_ms = began.elapsed().as_millis() as u64;
        debug!(table = self.source.name, flush = manifest.flush, bytes, took_ms, "rows written");
        self.files.tidy(&manifest, self.manifest.as_ref()).await;
        self.manifest = Some(manifest);
        self.whole = false;
        self.show();
        Ok(bytes)
    }

    fn show(&self) {
        *self.source.flushed.lock() = Flushed::of(&self.files);
    }

    /// Takes what has changed, with its sidecars written; `None` if nothing has.
    async fn cut(&mut self, is_last: bool) -> Result<Option<Cut>> {
        let mut sources = Vec::new();
        let mut touched: Vec<Vec<ArrayRef>> = Vec::new();
        let (mut changed, mut bytes) = (false, 0);
        // All of them before the first is asked: what that gives counts as written from then on.
        let seen: Option<Vec<Seen>> = self.source.states.iter().map(|state| state.seen.borrow().clone()).collect();
        let Some(seen) = seen else { return Ok(None) };
        // A column that is derived may need those of any of them.
        if self.source.derived.is_some() && !self.source.states.iter().all(|state| state.table.has_key()) {
            return Ok(None);
        }
        for (state, Seen { positions, retries, remade }) in self.source.states.iter().zip(seen) {
            let Some((slots, all, sidecars)) = state.table.take_changed() else {
                // It has no key yet, so there is nothing to keep of it.
                continue;
            };
            let record = StateRecord { wanted: state.table.wanted().clone(), sidecars };
            let known = self.manifest.iter().flat_map(|manifest| &manifest.sources);
            let known =
                known.into_iter().find(|source| source.table == state.source && source.state.wanted == record.wanted);
            // Rows may have come between what was seen and what was taken, the last time.
            let is_elsewhere = |known: &SourceState<StateRecord>| is_last && known.positions() != positions;
            changed |= !slots.is_empty() || known.is_none_or(|known| known.state != record || is_elsewhere(known));
            let mut files = known.map_or_else(Vec::new, |known| known.files.clone());
            let written: u64 = files.iter().map(|file| file.rows).sum();
            let anew = self.whole || files.len() >= MOST_FILES || written + slots.len() as u64 > 2 * all as u64;
            touched.extend(state.table.take_left()?);
            for slots in slots.chunks(SLOTS) {
                touched.push(state.table.touched(slots)?);
            }
            let slots = if anew { (0..all as u32).collect() } else { slots };
            if anew {
                files.clear();
            }
            let sidecar = sidecar(&state.table, &slots)?;
            if !sidecar.is_empty() {
                let sidecar = self.files.write_sidecar(sidecar, &self.writing.abort).await?;
                bytes += sidecar.bytes;
                files.push(sidecar);
            }
            let (table, positions) = (state.source.clone(), places(&positions));
            sources.push(SourceState { table, positions, retries, remade, files, state: record });
        }
        if sources.is_empty() || !(changed || self.whole) {
            return Ok(None);
        }
        let rows = self.rows().await?;
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let Some(schema) = rows.first().map(RecordBatch::schema) else { return Ok(None) };
        let before = self.manifest.as_ref().map(|manifest| manifest.buckets);
        let is_outgrown =
            |buckets: u32| buckets < MOST_BUCKETS && count > buckets as usize * BUCKET_ROWS * TOO_MANY_TIMES;
        let present = self.files.present(&schema, &self.writing.abort).await?;
        let (buckets, whole) = match before {
            Some(buckets) if !(self.whole || present.is_other || is_outgrown(buckets)) => (buckets, false),
            _ => (((count / BUCKET_ROWS) as u32).next_power_of_two().clamp(1, MOST_BUCKETS), true),
        };
        let flush = self.divide(rows, &touched, buckets, whole).map_err(arrow)?;
        Ok(Some(Cut { sources, present, flush, buckets, bytes }))
    }

    /// The rows of the buckets that the keys `touched` are in, or all.
    fn divide(
        &self,
        rows: Vec<RecordBatch>,
        touched: &[Vec<ArrayRef>],
        buckets: u32,
        whole: bool,
    ) -> std::result::Result<Flush, ArrowError> {
        let schema = rows.first().map_or_else(|| self.source.rows.schema(), RecordBatch::schema);
        let key = self.source.rows.key();
        let buckets = Buckets::new(key, &schema, buckets)?;
        let mut only = BTreeSet::new();
        for keys in touched {
            only.extend(buckets.of(keys)?);
        }
        let mut places: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
        for (at, batch) in rows.iter().enumerate() {
            let keys = key.iter().map(|name| batch.column_by_name(name).cloned()).collect::<Option<Vec<_>>>();
            for (row, bucket) in buckets.of(&keys.unwrap_or_default())?.into_iter().enumerate() {
                if whole || only.contains(&bucket) {
                    places.entry(bucket).or_default().push((at, row));
                }
            }
        }
        Ok(Flush { rows, buckets: places, only: (!whole).then_some(only) })
    }

    /// All rows of the table as they are now, one batch at least.
    async fn rows(&self) -> Result<Vec<RecordBatch>> {
        let rows = self.source.rows.scan()?;
        let rows = if rows.is_empty() { vec![RecordBatch::new_empty(self.source.rows.schema())] } else { rows };
        let Some(sql) = &self.source.derived else { return Ok(rows) };
        let schema = rows[0].schema();
        let merged = concat_batches(&schema, &rows).map_err(arrow)?;
        let name = self.source.rows.name().to_owned();
        let session = self.source.service.over(Arc::new(OneTable { name, rows: merged })).session();
        session.set("statement_timeout", "0")?;
        let rows = session.query(sql).await?.run().await?;
        let schema = rows.schema();
        let rows: Vec<RecordBatch> = rows.try_collect().await?;
        Ok(if rows.is_empty() { vec![RecordBatch::new_empty(schema)] } else { rows })
    }
}

/// What is known of these slots.
fn sidecar(table: &LatestTable, slots: &[u32]) -> Result<SidecarWriter> {
    let mut sidecar = SidecarWriter::new();
    for slots in slots.chunks(SLOTS) {
        if let Some(rows) = table.written(slots)? {
            sidecar.add(&rows).map_err(unwritable)?;
        }
    }
    Ok(sidecar)
}

/// A catalog of one table that does not change.
struct OneTable {
    name: String,
    rows: RecordBatch,
}

impl Catalog for OneTable {
    fn pin(&self) -> Pinned {
        let rows = self.rows.clone();
        let table = SystemTable::new(rows.schema(), Arc::new(move || Ok(rows.clone())));
        let public = [(self.name.clone(), Arc::new(table) as _)].into();
        Pinned { schemas: [(crate::query::PUBLIC.to_owned(), public)].into(), ..Pinned::default() }
    }
}

fn arrow(error: ArrowError) -> Error {
    broken(LatestError::from(error))
}

fn unwritable(error: crate::lake::TableError) -> Error {
    Error::new(Kind::Unavailable, "rows cannot be written").because(error)
}
