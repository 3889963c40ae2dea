//! Files become rows of tables that are imported into, each file exactly once however often that is asked: that a table has
//! it is a number of the commit that brought its rows.
//!
//! ```text
//! list ─ leave out what is there ─ read (`rows`) ─ fit (decode::import) ─ data files ─ one commit per file ─ View
//! ```
//! The number of `files` counts how often all rows were replaced. A file is there if its own number is the one that holds
//! then: what was replaced may be imported again. What a client sent under a name of its own may not.

mod load;
mod rows;
mod sent;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::OwnedMutexGuard;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub use self::load::Load;
use self::rows::read;
use super::catalog::EngineCatalog;
use super::{Variables, as_writer, committed, s3_options, unreadable, view_of};
use crate::config::Project;
use crate::decode::Fitter;
use crate::error::{Error, Kind, Result};
use crate::lake::{
    CommitError, FILE, FILES, Keys, Lake, LiveView, MadeTable, Numbers, Piece, Replaces, S3Options, SourceFile,
    SourceFiles, Staged, TableError,
};
use crate::schema::{FileFormat, ImportMode, Imported};
use crate::task::{self, Shutdown, failpoint};

/// Name of the admin action of a [`Request`].
pub const ACTION: &str = "millpond.import";
/// What was learned of a file fits all of it: once is enough, and the file may have changed in between.
const MOST_READINGS: usize = 3;

/// Files to take into a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The table: a reference table without a url, or with a mode that keeps what is there.
    pub table: String,
    /// Where they are: absolute paths of the server's host, or `s3://bucket/key`, with patterns.
    pub urls: Vec<String>,
    /// What they do to the rows that are there; none: what the table declares.
    pub mode: Option<ImportMode>,
    /// Goes on behind a file that is broken.
    pub skip_broken: bool,
    /// Only says what would be done.
    pub dry_run: bool,
}

/// How far an import is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files that are done.
    pub files: u64,
    /// All that are to be read …
    pub all_files: u64,
    /// … and their bytes, as they lie there.
    pub all_bytes: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Rows that were read.
    pub rows: u64,
}

/// What an import did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Files that were taken in …
    pub files: u64,
    /// … their bytes, as they lie there …
    pub bytes: u64,
    /// … and their rows.
    pub rows: u64,
    /// Files that the table had already.
    pub held: u64,
    /// Values that did not fit their column, and are in `_rescued`.
    pub rescued: u64,
    /// Columns that the table has since.
    pub new_columns: Vec<String>,
    /// Files that are broken: each with what is wrong, as it is called.
    pub broken: Vec<String>,
}

/// Hears how far it is.
pub type Tell<'a> = dyn FnMut(Progress) + Send + 'a;

/// Imports files into the tables of a lake.
#[derive(Clone)]
pub struct Importer {
    lake: Lake,
    catalog: Arc<EngineCatalog>,
    s3: S3Options,
    abort: Shutdown,
    turns: Arc<Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

/// Nobody else imports into the table meanwhile.
type Turn = Arc<OwnedMutexGuard<()>>;

/// What becomes of files behind one that cannot be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// They are not taken in, unless it is one that is broken and can be left out.
    Stop,
    /// They are taken in.
    Skip,
}

/// A file that is to be taken in.
#[derive(Clone)]
struct File {
    source: Arc<SourceFiles>,
    file: SourceFile,
    shown: String,
    /// What is in it, if that is known already.
    format: Option<FileFormat>,
    /// What it is told from others by, instead of its name, size and mark.
    identity: Option<String>,
}

impl File {
    /// The application id whose number says that a table has it.
    fn app_id(&self) -> String {
        let of_file = || format!("{}\0{}\0{}", self.shown, self.file.bytes, self.file.mark);
        app_id(&self.identity.clone().unwrap_or_else(of_file))
    }

    /// Whether a table has it. One that is told from others by its own name is known for good, whatever replaced its rows.
    fn is_in(&self, table: &MadeTable, mode: ImportMode) -> bool {
        match &self.identity {
            Some(identity) => is_known(table, identity),
            None => mode != ImportMode::Replace && table.number(&self.app_id()) == table.number(FILES) + 1,
        }
    }
}

fn app_id(identity: &str) -> String {
    let hash = Sha256::digest(identity.as_bytes());
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{FILE}{hex}")
}

/// Whether a table has what is told from others by this name.
fn is_known(table: &MadeTable, identity: &str) -> bool {
    table.number(&app_id(identity)) > 0
}

/// What was found at a place that files come to.
#[derive(Default)]
struct Place {
    seen: HashSet<SourceFile>,
    /// They stay so until they are written anew.
    broken: HashSet<SourceFile>,
}

impl Place {
    /// Those of `files`, which are all that are there now, that can be read: who writes a file is done with it once it is the
    /// same twice.
    fn settled(&mut self, files: Vec<File>) -> Vec<File> {
        let now = files.iter().map(|file| file.file.clone()).collect();
        let before = std::mem::replace(&mut self.seen, now);
        self.broken.retain(|file| self.seen.contains(file));
        files.into_iter().filter(|file| before.contains(&file.file) && !self.broken.contains(&file.file)).collect()
    }
}

/// The files at `urls`, each once.
async fn list(urls: &[String], s3: &S3Options) -> Result<Vec<File>> {
    let mut files: Vec<File> = Vec::new();
    for url in urls {
        let source = Arc::new(SourceFiles::open(url, s3).await?);
        for file in source.list().await? {
            let shown = source.shown(&file);
            if files.iter().all(|known| known.shown != shown) {
                files.push(File { source: Arc::clone(&source), file, shown, format: None, identity: None });
            }
        }
    }
    Ok(files)
}

impl Importer {
    /// Into the tables of `lake`, which `catalog` shows, until `abort`.
    pub(super) fn new(lake: &Lake, catalog: &Arc<EngineCatalog>, s3: S3Options, abort: &Shutdown) -> Self {
        let (lake, catalog, abort) = (lake.clone(), Arc::clone(catalog), abort.clone());
        Self { lake, catalog, s3, abort, turns: Arc::default() }
    }

    /// Carries out `request`. What was taken in stays if a later file fails; asked again, it goes on there.
    pub async fn run(&self, request: &Request, tell: &mut Tell<'_>) -> Result<Report> {
        let spec = self.declared(&request.table)?;
        let mode = request.mode.unwrap_or(spec.mode);
        if mode == ImportMode::Upsert && spec.key.is_empty() {
            let message = format!("table {} has no key: no row takes the place of another", spec.table);
            let hint = format!("say in schemas/{}.toml which columns tell rows apart: key = [\"id\"]", spec.table);
            return Err(Error::new(Kind::Usage, message).hint(hint));
        }
        if mode == ImportMode::Replace && request.skip_broken {
            let message = "files replace all rows together: one that is broken cannot be skipped";
            return Err(Error::new(Kind::Usage, message));
        }
        let files = list(&request.urls, &self.s3).await?;
        if files.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no file at {}", request.urls.join(", "))));
        }
        let (report, _) =
            self.take(&self.turn(&spec.table).await, &spec, mode, files, request, Trouble::Stop, tell).await?;
        Ok(report)
    }

    fn declared(&self, table: &str) -> Result<Imported> {
        let known = self.catalog.imported.load();
        known.iter().find(|spec| spec.table == table).cloned().ok_or_else(|| {
            let fed = self.catalog.fed();
            let is_other = fed.tables.contains_key(table) || self.catalog.kept.load().contains_key(table);
            if is_other {
                return Error::new(Kind::Usage, format!("table {table} is not one that files are imported into"))
                    .hint("a table of its own is: a file in schemas/ with the line kind = \"reference\"");
            }
            Error::new(Kind::NotFound, format!("the project declares no table `{table}`"))
                .hint(format!("make it with a file schemas/{table}.toml that holds the line: kind = \"reference\""))
        })
    }

    /// Waits until nobody imports into `table`, and keeps it so.
    pub async fn turn(&self, table: &str) -> Turn {
        let turn = Arc::clone(self.turns.lock().entry(table.to_owned()).or_default());
        Arc::new(turn.lock_owned().await)
    }

    /// Takes files in, one after the other, and says which are broken.
    #[allow(clippy::too_many_arguments)] // What is asked for, and who hears of it.
    async fn take(
        &self,
        turn: &Turn,
        spec: &Imported,
        mode: ImportMode,
        files: Vec<File>,
        request: &Request,
        trouble: Trouble,
        tell: &mut Tell<'_>,
    ) -> Result<(Report, Vec<SourceFile>)> {
        let mut table = MadeTable::open(&self.lake, &spec.table).await.map_err(unreadable)?;
        if table.as_ref().is_some_and(|table| !table.is_of_files()) {
            let message = format!("the lake has a table {} with rows that came from elsewhere", spec.table);
            return Err(
                Error::new(Kind::Refused, message).hint("give the new table another name, or move that one away")
            );
        }
        let (mut report, mut skipped) = (Report::default(), Vec::new());
        let mut progress = Progress::default();
        let (held, new): (Vec<File>, Vec<File>) = match &table {
            Some(table) => files.into_iter().partition(|file| file.is_in(table, mode)),
            None => (Vec::new(), files),
        };
        report.held = held.len() as u64;
        progress.all_files = new.len() as u64;
        progress.all_bytes = new.iter().map(|file| file.file.bytes).sum();
        if request.dry_run {
            (report.files, report.bytes) = (progress.all_files, progress.all_bytes);
            return Ok((report, skipped));
        }
        tell(progress.clone());
        let pieces: Vec<&[File]> = match mode {
            ImportMode::Replace if report.held == 0 => vec![&new[..]],
            _ => new.chunks(1).collect(),
        };
        for files in pieces {
            let done = Box::pin(self.piece(spec, mode, &mut table, files, turn, &mut progress, tell)).await;
            match done {
                Ok(piece) => {
                    report.files += files.len() as u64;
                    report.bytes += files.iter().map(|file| file.file.bytes).sum::<u64>();
                    report.rows += piece.rows;
                    report.rescued += piece.rescued;
                    report.new_columns.extend(piece.new_columns);
                }
                Err(error) if trouble == Trouble::Skip || (error.kind() == Kind::Usage && request.skip_broken) => {
                    let reason = error.to_string();
                    match error.kind() {
                        Kind::Usage => {
                            warn!(table = spec.table, reason, "broken file left out");
                            skipped.extend(files.iter().map(|file| file.file.clone()));
                        }
                        _ => warn!(table = spec.table, reason, "file not imported, trying again"),
                    }
                    report.broken.push(reason);
                }
                Err(error) => {
                    let done = match report.files {
                        0 => "nothing was imported".to_owned(),
                        files => format!("{files} files before it are imported, and will not be again"),
                    };
                    let hint = error.hint_text().map(|hint| format!("{hint}; ")).unwrap_or_default();
                    return Err(error.hint(format!("{hint}{done}")));
                }
            }
            progress.files += files.len() as u64;
            tell(progress.clone());
        }
        Ok((report, skipped))
    }

    /// Takes files in with one commit.
    #[allow(clippy::too_many_arguments)] // What it is made of, and who hears of it.
    async fn piece(
        &self,
        spec: &Imported,
        mode: ImportMode,
        table: &mut Option<MadeTable>,
        files: &[File],
        turn: &Turn,
        progress: &mut Progress,
        tell: &mut Tell<'_>,
    ) -> Result<Taken> {
        if let Some(table) = table {
            table.refresh().await.map_err(unreadable)?;
        } else {
            // It was made meanwhile, or a commit of it failed.
            *table = MadeTable::open(&self.lake, &spec.table).await.map_err(unreadable)?;
        }
        let known = match table.as_ref().map(|table| table.table().arrow_schema()).transpose().map_err(unreadable)? {
            // All columns are those of the files.
            Some(schema) if mode != ImportMode::Replace => Fitter::new(&schema),
            _ => Fitter::default(),
        };
        let before: Vec<String> = known.schema().fields().iter().map(|field| field.name().clone()).collect();
        let mut reading = Reading { importer: self, spec, mode, fitter: known, progress, tell };
        let Read { staged, keys } = reading.all(files).await?;
        let fitter = reading.fitter;
        for file in files {
            if !file.source.is_still(&file.file).await? {
                staged.discard().await;
                let message = format!("{} changed while it was read", file.shown);
                return Err(Error::new(Kind::Unavailable, message).hint("import it again"));
            }
        }
        failpoint::hit("import_after_stage");
        let mut fitter = fitter;
        let schema = fitter.schema();
        let taken = Taken {
            rows: staged.rows,
            rescued: fitter.take_rescued(),
            new_columns: schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .filter(|name| !before.contains(name) && mode != ImportMode::Replace && !before.is_empty())
                .collect(),
        };
        // From here on it is done to its end, whether somebody waits for it or not.
        let (importer, name, was) = (self.clone(), spec.table.clone(), table.take());
        let ids = files.iter().map(File::app_id).collect();
        let turn = Arc::clone(turn);
        let work = async move {
            let _turn = turn;
            importer.commit(&name, was, mode, staged, keys, ids, schema).await
        };
        let done = task::spawn_behind("import-commit", work).await;
        *table = Some(done.map_err(|error| Error::new(Kind::Internal, "a commit failed").because(error))??);
        let (rows, files) = (taken.rows, files.len());
        info!(table = spec.table, files, rows, "files imported");
        Ok(taken)
    }

    #[allow(clippy::too_many_arguments)] // What a commit is made of.
    async fn commit(
        &self,
        name: &str,
        table: Option<MadeTable>,
        mode: ImportMode,
        staged: Staged,
        keys: Option<Keys>,
        ids: Vec<String>,
        schema: arrow::datatypes::SchemaRef,
    ) -> Result<MadeTable> {
        let mut table = match table {
            Some(table) => table,
            None => MadeTable::make(&self.lake, name, &schema, &[]).await.map_err(unreadable)?,
        };
        let written = async {
            if mode != ImportMode::Replace {
                table.widen(&schema).await?;
            }
            let replaced = table.number(FILES);
            let round = replaced + 1;
            match (mode, &ids[..]) {
                (ImportMode::Replace, _) => {
                    let others: Numbers = ids.iter().map(|id| (id.clone(), round + 1)).collect();
                    let all = Replaces::All(schema);
                    table.replace(staged, &all, FILES, (replaced, round), &others, &self.abort).await
                }
                (mode, [id]) => {
                    let numbers = (table.number(id), round);
                    match keys.filter(|_| mode == ImportMode::Upsert) {
                        Some(keys) => table.upsert(&staged, &keys, id, numbers, &self.abort).await,
                        None => table.append(&staged, id, numbers, &self.abort).await,
                    }
                }
                _ => Ok(false),
            }
        };
        match written.await {
            Ok(true) => {}
            Ok(false) | Err(CommitError::Rival { .. }) => {
                let message = format!("table {name} was written to by another at that moment");
                return Err(Error::new(Kind::Unavailable, message).hint("import again: nothing was done"));
            }
            Err(error) => return Err(error.into()),
        }
        failpoint::hit("import_after_commit");
        self.catalog.show_made(name, &table)?;
        Ok(table)
    }

    /// Takes in what comes to a table's place, from time to time, as long as it is declared so.
    pub async fn follow(self, spec: Imported) {
        let urls = spec.url.clone().into_iter().collect();
        let request = Request { table: spec.table.clone(), urls, mode: None, skip_broken: true, dry_run: false };
        let (mut place, mut done, mut told) = (Place::default(), None, None);
        loop {
            tokio::time::sleep(spec.poll).await;
            let looked = async {
                let settled = place.settled(list(&request.urls, &self.s3).await?);
                // The same files, and nobody has touched the table since.
                let look =
                    (settled.iter().map(|file| file.file.clone()).collect::<Vec<_>>(), self.version(&spec.table));
                if settled.is_empty() || done.as_ref() == Some(&look) {
                    return Ok(());
                }
                let (turn, told) = (self.turn(&spec.table).await, &mut |_| {});
                let taken = self.take(&turn, &spec, spec.mode, settled, &request, Trouble::Skip, told).await;
                let (report, skipped) = taken?;
                let is_done = report.broken.len() == skipped.len();
                place.broken.extend(skipped);
                done = is_done.then(|| (look.0, self.version(&spec.table)));
                Ok(())
            };
            let looked: Result<()> = looked.await;
            match looked {
                Ok(()) => told = None,
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        warn!(table = spec.table, reason = text, "files not imported, trying again");
                        told = Some(text);
                    }
                }
            }
        }
    }

    fn version(&self, table: &str) -> Option<u64> {
        self.catalog.fed().tables.get(table).and_then(|live| live.pin().table_version())
    }
}

/// What a commit took in.
struct Taken {
    rows: u64,
    rescued: u64,
    new_columns: Vec<String>,
}

/// Reads files into data files.
struct Reading<'a, 'b> {
    importer: &'a Importer,
    spec: &'a Imported,
    mode: ImportMode,
    fitter: Fitter,
    progress: &'a mut Progress,
    tell: &'a mut Tell<'b>,
}

/// Files, read.
struct Read {
    staged: Staged,
    /// The keys of their rows, if rows are told apart by them.
    keys: Option<Keys>,
}

/// Keys of a file may take this part of what ingest may hold.
const KEYS_PART: usize = 2;

impl Reading<'_, '_> {
    /// Reads all of `files`, again if what they hold turns out to be wider.
    async fn all(&mut self, files: &[File]) -> Result<Read> {
        let before = self.progress.clone();
        for _ in 0..MOST_READINGS {
            if let Some(read) = self.once(files).await? {
                return Ok(read);
            }
            (self.progress.bytes, self.progress.rows) = (before.bytes, before.rows);
        }
        let shown = files.first().map_or("", |file| &file.shown);
        Err(Error::new(Kind::Unavailable, format!("{shown} changes while it is read")).hint("import it again"))
    }

    async fn once(&mut self, files: &[File]) -> Result<Option<Read>> {
        let mut piece: Option<Piece> = None;
        let read = self.read(files, &mut piece).await;
        match (read, piece) {
            (Ok(Some(keys)), Some(piece)) => {
                let staged = piece.finish().await.map_err(unwritable)?;
                Ok(Some(Read { staged, keys }))
            }
            (Ok(Some(keys)), None) => {
                let (lake, name) = (&self.importer.lake, &self.spec.table);
                let nothing = Piece::begin(lake, name, &self.fitter.schema(), &[], &[]).map_err(unwritable)?;
                let staged = nothing.finish().await.map_err(unwritable)?;
                Ok(Some(Read { staged, keys }))
            }
            (not_read, piece) => {
                if let Some(piece) = piece {
                    piece.abort().await;
                }
                not_read.map(|_| None)
            }
        }
    }

    /// Reads all of `files` into `piece`; the keys of their rows, if rows are told apart by them. `None` if what they hold
    /// turns out to be wider.
    async fn read(&mut self, files: &[File], piece: &mut Option<Piece>) -> Result<Option<Option<Keys>>> {
        let mut keys = None;
        let mut is_wider = false;
        self.fitter.take_rescued();
        for file in files {
            let mut reader = read(file, file.format.or(self.spec.format));
            let before = self.progress.bytes;
            while let Some(rows) = reader.rows.recv().await {
                let rows = rows?;
                self.progress.rows += rows.batch.num_rows() as u64;
                self.progress.bytes = before + reader.bytes();
                (self.tell)(self.progress.clone());
                if is_wider || piece.is_none() {
                    self.fitter.learn(&rows).map_err(broken)?;
                }
                if is_wider {
                    continue;
                }
                let Some(fitted) = self.fitter.fit(&rows).map_err(broken)? else {
                    is_wider = true;
                    self.fitter.learn(&rows).map_err(broken)?;
                    continue;
                };
                if self.mode == ImportMode::Upsert {
                    let keys = match &mut keys {
                        Some(keys) => keys,
                        none => none.insert(self.keys(&fitted, file)?),
                    };
                    self.check_keys(keys, &fitted, file)?;
                }
                let piece = match &mut *piece {
                    Some(piece) => piece,
                    none => {
                        let (lake, name) = (&self.importer.lake, &self.spec.table);
                        let schema = self.fitter.schema();
                        none.insert(Piece::begin(lake, name, &schema, &[], &self.spec.key).map_err(unwritable)?)
                    }
                };
                piece.write(&fitted).await.map_err(unwritable)?;
            }
            if let Some(error) = reader.failure().await {
                return Err(error);
            }
            self.progress.bytes = before + file.file.bytes;
        }
        Ok((!is_wider).then_some(keys))
    }

    fn keys(&self, rows: &arrow::array::RecordBatch, file: &File) -> Result<Keys> {
        if let Some(missing) = self.spec.key.iter().find(|name| rows.column_by_name(name).is_none()) {
            return Err(Error::new(Kind::Usage, format!("{}: it has no column `{missing}`, the key", file.shown)));
        }
        Keys::new(&rows.schema(), &self.spec.key).map_err(unwritable)
    }

    /// Rows have a key, and no two the same: which of them would be the newer one?
    fn check_keys(&self, keys: &mut Keys, rows: &arrow::array::RecordBatch, file: &File) -> Result<()> {
        let wrong = |what: String| Error::new(Kind::Usage, format!("{}: {what}", file.shown));
        for name in &self.spec.key {
            if rows.column_by_name(name).is_some_and(|column| column.null_count() > 0) {
                return Err(wrong(format!("a row has no `{name}`, the key")));
            }
        }
        let new = keys.add(rows).map_err(unwritable)?;
        let most = self.importer.catalog.ingest_budget.limit_bytes() / KEYS_PART;
        if keys.size_bytes() > most {
            let message = format!("{}: its keys take more than {} MB of memory", file.shown, most >> 20);
            let hint = "import it in parts, or with more memory ([limits] memory)";
            return Err(Error::new(Kind::Exhausted, message).hint(hint));
        }
        match new.iter().position(|is_new| is_new == Some(false)) {
            None => Ok(()),
            Some(row) => {
                let shown = |name: &String| {
                    let column = rows.column_by_name(name)?;
                    let value = arrow::util::display::array_value_to_string(column, row).ok()?;
                    Some(format!("{name} = {value}"))
                };
                let key: Vec<String> = self.spec.key.iter().filter_map(shown).collect();
                Err(wrong(format!("two rows have the key {}", key.join(", "))))
            }
        }
    }
}

fn broken(error: arrow::error::ArrowError) -> Error {
    Error::new(Kind::Internal, "rows cannot be brought into columns").because(error)
}

fn unwritable(error: TableError) -> Error {
    Error::new(Kind::Unavailable, "rows cannot be written").because(error)
}

impl EngineCatalog {
    /// Shows what a table has that is written in pieces.
    pub(super) fn show_made(&self, name: &str, made: &MadeTable) -> Result<()> {
        if let Some(live) = self.fed().tables.get(name) {
            return live.remade(made.table()).map_err(unreadable);
        }
        let schema = made.table().arrow_schema().map_err(unreadable)?;
        let view = view_of(name, Some(made.table()), schema, &self.versions)?;
        self.show(name, &Arc::new(LiveView::new(view)));
        Ok(())
    }
}

/// A table whose place is followed, and who does it.
type Followed = (Imported, AbortOnDropHandle<()>);

/// Follows the places of tables that files come to, each as long as it is declared the same.
#[derive(Clone)]
pub struct Follows {
    importer: Importer,
    running: Arc<Mutex<Vec<Followed>>>,
}

impl Follows {
    /// Nothing yet.
    pub fn new(importer: Importer) -> Self {
        Self { importer, running: Arc::default() }
    }

    /// These are the tables that files are imported into from now on.
    pub fn take_over(&self, imported: &[Imported]) {
        self.importer.catalog.imported.store(Arc::new(imported.to_vec()));
        let mut running = self.running.lock();
        running.retain(|(spec, _)| imported.contains(spec));
        let is_new = |spec: &&Imported| spec.url.is_some() && running.iter().all(|(known, _)| known != *spec);
        let new: Vec<Imported> = imported.iter().filter(is_new).cloned().collect();
        for spec in new {
            info!(table = spec.table, "files are imported as they come");
            let work = task::spawn_behind("import", self.importer.clone().follow(spec.clone()));
            running.push((spec, AbortOnDropHandle::new(work)));
        }
    }

    /// Imports no more.
    pub fn stop(&self) {
        self.running.lock().clear();
    }
}

/// Carries out `request` on a lake that no server writes to: as its one writer, for as long as it takes.
pub async fn without_server(
    project: &Project,
    variables: &Variables,
    request: &Request,
    tell: &mut Tell<'_>,
) -> Result<Report> {
    as_writer(project, variables, async |lake: &Lake, abort: &Shutdown| {
        let catalog = committed(project, Some(lake)).await?;
        let s3 = s3_options(&project.config, variables);
        Importer::new(lake, &catalog, s3, abort).run(request, tell).await
    })
    .await
}

#[cfg(test)]
mod tests;
