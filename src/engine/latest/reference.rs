//! Keeps a reference table: looks at its files every so often, reads all of them when one is another, and writes the
//! rows to the lake.
//!
//! What is broken replaces nothing: the rows before stay, and the log says which file and line it is. Once the files are
//! gone, or cannot be read at a start, the rows are those that the lake has.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Flushed, Keeper, RETRY, Writing};
use crate::decode::{rows_of_csv, rows_of_json};
use crate::error::{Error, Kind, Result};
use crate::lake::{FILES, Flush, LatestFiles, Manifest, SourceFile, SourceFiles, SourceState, reason, rows_of_parquet};
use crate::latest::ReferenceRows;
use crate::schema::{FileFormat, Reference};
use crate::task::Shutdown;

/// Files are read once they are the same for so long: who writes one is done with it.
const SETTLED: Duration = Duration::from_millis(300);
/// All files of a table together: their rows are held in memory.
const MOST_BYTES: u64 = 64 << 20;

/// What the lake's rows were read from.
type FilesManifest = Manifest<Vec<SourceFile>>;

/// What was read from files.
#[derive(Debug, Clone)]
struct Taken {
    files: Vec<SourceFile>,
    rows: RecordBatch,
}

/// What came of looking at files.
#[derive(Debug, Clone)]
enum Looked {
    /// They were not looked at yet.
    Never,
    /// They never could be read.
    Failed,
    Taken(Arc<Taken>),
}

/// Reads the files of one table.
struct Looker {
    spec: Reference,
    rows: Arc<ReferenceRows>,
    keeper: Keeper,
    looked: watch::Sender<Looked>,
    /// What was said last of files that cannot be read.
    told: Option<String>,
}

/// Keeps the rows of `spec` in `rows` from now on. `anew`: what the lake has of them is written anew.
pub(super) fn begin(
    keeper: &Keeper,
    spec: &Reference,
    rows: &Arc<ReferenceRows>,
    flushed: &Arc<Mutex<Option<Flushed>>>,
    anew: bool,
    stop: &Shutdown,
) {
    let mut looker = Looker::new(keeper, spec, rows);
    if let Some(writing) = keeper.writing.clone() {
        let writer = Writer {
            spec: spec.clone(),
            rows: Arc::clone(rows),
            writing: writing.clone(),
            flushed: Arc::clone(flushed),
            looked: looker.looked.subscribe(),
        };
        let (stop, finish) = (stop.clone(), writing.finish.clone());
        let work = writing.writers.track_future(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = writer.run(anew, &finish) => {}
            }
        });
        crate::task::spawn_behind("reference-writer", work);
    }
    let stop = stop.clone();
    crate::task::spawn("reference", async move {
        stop.run_until_cancelled(looker.run()).await;
    });
}

/// Reads the files once; if they cannot be read, what the lake has.
pub(super) async fn read_once(keeper: &Keeper, spec: &Reference, rows: &Arc<ReferenceRows>) {
    let mut looker = Looker::new(keeper, spec, rows);
    if looker.look(Duration::ZERO).await.is_err()
        && let Some(lake) = &keeper.catalog.lake
        && let Ok(files) = LatestFiles::open(lake, &spec.table, FILES).await
    {
        restore(&files, rows).await;
    }
}

impl Looker {
    fn new(keeper: &Keeper, spec: &Reference, rows: &Arc<ReferenceRows>) -> Self {
        let (spec, rows, keeper) = (spec.clone(), Arc::clone(rows), keeper.clone());
        Self { spec, rows, keeper, looked: watch::Sender::new(Looked::Never), told: None }
    }

    async fn run(&mut self) {
        loop {
            if let Err(error) = self.look(SETTLED).await {
                self.tell(&error);
            } else if self.told.take().is_some() {
                info!(table = self.spec.table, "files can be read again");
            }
            tokio::time::sleep(self.spec.poll).await;
        }
    }

    /// Says once that files cannot be read.
    fn tell(&mut self, error: &Error) {
        let text = match std::error::Error::source(error) {
            Some(cause) => format!("{}: {}", error.message(), reason(cause)),
            None => error.message().to_owned(),
        };
        self.rows.none(&text);
        self.looked.send_if_modified(|looked| {
            let is_first = matches!(looked, Looked::Never);
            if is_first {
                *looked = Looked::Failed;
            }
            is_first
        });
        if self.told.as_deref() != Some(&text) {
            warn!(table = self.spec.table, reason = text, "files not taken over, the rows before stay");
            self.told = Some(text);
        }
    }

    /// Takes the files over if they are others than those that were taken, once they have been the same for so long.
    async fn look(&mut self, settled: Duration) -> Result<()> {
        let source = SourceFiles::open(&self.spec.url, &self.keeper.s3).await?;
        let mut files = source.list().await?;
        if matches!(&*self.looked.borrow(), Looked::Taken(taken) if taken.files == files) {
            return Ok(());
        }
        if files.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no file at {}", self.spec.url)));
        }
        let rows = loop {
            tokio::time::sleep(settled).await;
            let now = source.list().await?;
            if std::mem::replace(&mut files, now.clone()) != now {
                continue;
            }
            let rows = self.read(&source, &files).await;
            if source.list().await? == files {
                break rows?;
            }
        };
        let count = rows.num_rows();
        self.rows.replace(rows.clone()).map_err(|reason| Error::new(Kind::Usage, reason))?;
        info!(table = self.spec.table, files = files.len(), rows = count, "files taken over");
        self.looked.send_replace(Looked::Taken(Arc::new(Taken { files, rows })));
        Ok(())
    }

    async fn read(&self, source: &SourceFiles, files: &[SourceFile]) -> Result<RecordBatch> {
        let bytes: u64 = files.iter().map(|file| file.bytes).sum();
        if bytes > MOST_BYTES {
            let (bytes, most) = (bytes >> 20, MOST_BYTES >> 20);
            let message = format!("the files have {bytes} MiB; a reference table reads {most} MiB at most");
            return Err(Error::new(Kind::Exhausted, message));
        }
        let mut format = self.spec.format;
        let mut contents = Vec::with_capacity(files.len());
        for file in files {
            let own = self.spec.format.or_else(|| FileFormat::of_name(&file.path));
            let known = format.get_or_insert(own.unwrap_or(FileFormat::Csv));
            if own != Some(*known) {
                let message = format!("{} is not of the format of the others: set `format`", source.shown(file));
                return Err(Error::new(Kind::Usage, message));
            }
            contents.push((source.shown(file), source.read(file).await?));
        }
        let format = format.unwrap_or(FileFormat::Csv);
        let work = move || match format {
            FileFormat::Csv => rows_of_csv(&contents),
            FileFormat::Json => rows_of_json(&contents),
            FileFormat::Parquet => rows_of_parquet(&contents),
        };
        let rows = tokio::task::spawn_blocking(work).await;
        let rows = rows.map_err(|error| Error::new(Kind::Internal, "files cannot be read").because(error))?;
        rows.map_err(|error| Error::new(Kind::Usage, error.to_string()))
    }
}

/// Writes what was read to the lake.
struct Writer {
    spec: Reference,
    rows: Arc<ReferenceRows>,
    writing: Writing,
    flushed: Arc<Mutex<Option<Flushed>>>,
    looked: watch::Receiver<Looked>,
}

impl Writer {
    async fn run(mut self, anew: bool, finish: &Shutdown) {
        let _turn = self.writing.turn(&self.spec.table).lock_owned().await;
        let name = self.spec.table.clone();
        let (mut files, mut newest) = loop {
            match open(&self.writing, &name).await {
                Ok(opened) => break opened,
                Err(error) => warn!(table = name, error = %error, "table not opened, trying again"),
            }
            if finish.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                return;
            }
        };
        *self.flushed.lock() = Flushed::of(&files);
        if let Err(error) = files.find_leftovers(newest.as_ref()).await {
            warn!(table = name, error = %error, "files that are left over not looked for");
        }
        let declared = format!("{:?}", (&self.spec.url, self.spec.format));
        newest = newest.filter(|newest| !anew && newest.declared == declared);
        loop {
            let looked = self.looked.borrow_and_update().clone();
            let written = newest.as_ref().and_then(|newest| Some(&newest.sources.first()?.state));
            match looked {
                Looked::Never => {}
                Looked::Failed => restore(&files, &self.rows).await,
                Looked::Taken(taken) if Some(&taken.files) == written => {}
                Looked::Taken(taken) => match self.flush(&mut files, &declared, &taken).await {
                    Ok(manifest) => {
                        files.tidy(&manifest, newest.as_ref()).await;
                        newest = Some(manifest);
                        *self.flushed.lock() = Flushed::of(&files);
                    }
                    Err(error) if error.kind() == Kind::Refused => {
                        let _ = self.writing.failed.send(error).await;
                        return;
                    }
                    Err(error) => {
                        warn!(table = name, error = %error, "rows not written, trying again");
                        self.looked.mark_changed();
                        if finish.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
                            return;
                        }
                    }
                },
            }
            match finish.run_until_cancelled(self.looked.changed()).await {
                Some(Ok(())) => {}
                _ => return,
            }
        }
    }

    async fn flush(&self, files: &mut LatestFiles, declared: &str, taken: &Taken) -> Result<FilesManifest> {
        let present = files.present(&taken.rows.schema(), &self.writing.abort).await?;
        let places = (0..taken.rows.num_rows()).map(|row| (0, row)).collect();
        let flush = Flush { rows: vec![taken.rows.clone()], buckets: [(0, places)].into(), only: None };
        let source = SourceState {
            table: self.spec.url.clone(),
            positions: Vec::new(),
            retries: 0,
            remade: 0,
            files: Vec::new(),
            state: taken.files.clone(),
        };
        let mut manifest = FilesManifest {
            flush: 0,
            id: String::new(),
            declared: declared.to_owned(),
            buckets: 1,
            written_at: Utc::now(),
            sources: vec![source],
        };
        files.flush(present, flush, &mut manifest, &self.writing.abort).await?;
        Ok(manifest)
    }
}

async fn open(
    writing: &Writing,
    name: &str,
) -> std::result::Result<(LatestFiles, Option<FilesManifest>), crate::lake::TableError> {
    let files = LatestFiles::open(&writing.lake, name, FILES).await?;
    let manifest = files.manifest().await?;
    Ok((files, manifest))
}

/// Shows what the lake has, unless something was read from files.
async fn restore(files: &LatestFiles, rows: &ReferenceRows) {
    let read = files.rows().await.map_err(|error| error.to_string());
    let restored = read.and_then(|batches| {
        let Some(first) = batches.first() else { return Ok(()) };
        let all = concat_batches(&first.schema(), &batches).map_err(|error| error.to_string())?;
        rows.restore(all)
    });
    if let Err(reason) = restored {
        warn!(table = crate::latest::Rows::name(rows), reason, "rows of the lake cannot be shown");
    }
}
