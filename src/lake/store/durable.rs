//! A folder as an object store whose writes survive a power cut.
//!
//! object_store's `LocalFileSystem` never calls fsync, and publishes a file before its bytes are on disk; this
//! wrapper writes for itself: stage next to the destination, force the bytes, link (PUT-if-absent) or rename
//! (overwrite), force the folder. A folder made on the way is forced into its parent. Staged names end in
//! `#<digits>`, which `LocalFileSystem` keeps out of listings. Deletes are not forced: an object that comes back
//! after a power cut is unreferenced.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::executor::block_on;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use parking_lot::Mutex;

use crate::task;

const STORE: &str = "DurableLocal";
/// An object that is no larger is read at once.
const WHOLE_BYTES: u64 = 8 << 20;
/// Objects that are deleted at once.
const DELETES: usize = 8;
/// The folder of a table's log.
const LOG: &str = "_delta_log";

/// Digits of a version in the name of a log's file.
const DIGITS: usize = 20;

/// The file of a log that says where its newest checkpoint is.
#[derive(Debug, serde::Deserialize)]
struct LastCheckpoint {
    version: u64,
}

/// A local folder, forced to disk at every write. `PutMode::Update` is refused: a folder has no compare-and-swap.
#[derive(Debug, Clone)]
pub struct DurableLocal {
    files: LocalFileSystem,
    disk: Arc<Disk>,
}

impl DurableLocal {
    /// The store of `folder`, which is created (durably) if missing.
    pub fn open_or_create(folder: &Path) -> Result<Self> {
        Self::with_force(folder, Box::new(|path| File::open(path)?.sync_all()))
    }

    fn with_force(folder: &Path, force: Force) -> Result<Self> {
        create_folder(folder, &force).map_err(at("create the folder", folder))?;
        let root = folder.canonicalize().map_err(at("find the folder", folder))?;
        let files = LocalFileSystem::new_with_prefix(&root)?;
        Ok(Self { files, disk: Arc::new(Disk { root, force, settled: Mutex::default() }) })
    }

    /// The objects of a log behind `offset`. A log of a week has a hundred thousand of them, and each commit asks for the
    /// newest: what can follow is asked for by name. Only if that cannot be told, the names are read of all.
    fn newer_than(&self, log: &ObjectPath, offset: &ObjectPath) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, log, offset) = (self.clone(), log.clone(), offset.clone());
        let listed = async move {
            let folder = store.files.path_to_filesystem(&log)?;
            let after = offset.prefix_match(&log).and_then(|mut parts| Some(parts.next()?.as_ref().to_owned()));
            let found =
                store.blocking(move |_| newer_in(&folder, after.as_deref()).map_err(at("list", &folder))).await?;
            let found = found.into_iter().map(move |(name, meta)| ObjectMeta {
                location: log.clone().join(name),
                last_modified: meta.modified().map_or_else(|_| Default::default(), Into::into),
                size: meta.len(),
                e_tag: Some(e_tag(&meta)),
                version: None,
            });
            // As paths compare, so do the names in one folder, but for those that a path must write in another way.
            let mut newer: Vec<ObjectMeta> = found.filter(|found| found.location > offset).collect();
            newer.sort_by(|a, b| a.location.cmp(&b.location));
            Ok(stream::iter(newer.into_iter().map(Ok)))
        };
        listed.try_flatten_stream().boxed()
    }

    /// A listing in order. Delta's kernel takes it for ordered, as S3's is, unless the scheme is `file`: ours is not.
    fn sorted<F>(&self, list: F) -> BoxStream<'static, Result<ObjectMeta>>
    where
        F: FnOnce(&LocalFileSystem) -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    {
        let store = self.clone();
        let listed = async move {
            let mut found: Vec<ObjectMeta> =
                store.of_files(async move |files| list(&files).try_collect().await).await?;
            found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
            Ok(stream::iter(found.into_iter().map(Ok)))
        };
        listed.try_flatten_stream().boxed()
    }

    /// The folder, absolute and without links.
    pub fn root(&self) -> &Path {
        &self.disk.root
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Disk) -> Result<T> + Send + 'static) -> Result<T> {
        let disk = Arc::clone(&self.disk);
        task::on_disk(move || work(&disk))
            .await
            .map_err(|source| object_store::Error::Generic { store: STORE, source: Box::new(source) })?
    }

    /// What `LocalFileSystem` does, on a thread for the disk. It starts threads for each piece of work inside a runtime only.
    async fn of_files<T, F>(&self, work: impl FnOnce(LocalFileSystem) -> F + Send + 'static) -> Result<T>
    where
        F: Future<Output = Result<T>>,
        T: Send + 'static,
    {
        let files = self.files.clone();
        self.blocking(move |_| block_on(work(files))).await
    }

    fn unsupported(&self, operation: &str) -> object_store::Error {
        object_store::Error::NotImplemented { operation: operation.into(), implementer: self.to_string() }
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.disk.root.display())
    }
}

/// Forces one file or folder to disk.
type Force = Box<dyn Fn(&Path) -> io::Result<()> + Send + Sync>;

/// The blocking half.
struct Disk {
    root: PathBuf,
    force: Force,
    /// Folders whose entry in their parent is known to be on disk.
    settled: Mutex<HashSet<PathBuf>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Disk {
    /// Creates the folder of `dest` and forces every folder on the way into its parent.
    fn settle(&self, dest: &Path) -> Result<()> {
        let folder = parent(dest);
        let unsettled: Vec<&Path> = {
            let settled = self.settled.lock();
            folder.ancestors().take_while(|a| *a != self.root && !settled.contains(*a)).collect()
        };
        for folder in unsettled.into_iter().rev() {
            // Forced even if somebody else made it: they may not have come so far yet.
            create_one(folder, &self.force).map_err(at("create the folder", folder))?;
            self.settled.lock().insert(folder.to_path_buf());
        }
        Ok(())
    }

    /// A new empty file next to `dest`.
    fn stage(&self, dest: &Path) -> Result<Staged> {
        let path = staged_path(dest);
        let create = || OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        self.settle(dest)?;
        let file = match create() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Somebody removed a folder that we had settled.
                self.settled.lock().clear();
                self.settle(dest)?;
                create()
            }
            other => other,
        };
        let file = file.map_err(at("create", &path))?;
        Ok(Staged { path: Some(path), file: Arc::new(file) })
    }

    /// Forces a staged file and gives it its name. An error after the name was given leaves the outcome unknown.
    fn publish(&self, mut staged: Staged, dest: &Path, if_absent: bool) -> Result<PutResult> {
        let path = staged.path.as_deref().ok_or_else(aborted)?;
        (self.force)(path).map_err(at("force to disk", path))?;
        let meta = staged.file.metadata().map_err(at("read", path))?;
        if if_absent {
            std::fs::hard_link(path, dest).map_err(|source| match source.kind() {
                ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
                    path: dest.to_string_lossy().into_owned(),
                    source: source.into(),
                },
                _ => at("link", dest)(source),
            })?;
            drop(staged);
        } else {
            std::fs::rename(path, dest).map_err(at("rename to", dest))?;
            staged.path = None;
        }
        self.force_names(&[dest])?;
        Ok(PutResult { e_tag: Some(e_tag(&meta)), version: None })
    }

    /// Forces the folders that hold `paths`.
    fn force_names(&self, paths: &[&Path]) -> Result<()> {
        let mut folders: Vec<&Path> = paths.iter().map(|path| parent(path)).collect();
        folders.dedup();
        folders.into_iter().try_for_each(|folder| (self.force)(folder).map_err(at("force to disk", folder)))
    }
}

/// A file not yet published; removed on drop.
#[derive(Debug)]
struct Staged {
    path: Option<PathBuf>,
    file: Arc<File>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Best effort: what stays is invisible to readers.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn staged_path(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(format!("#{}", rand::random::<u64>()));
    name.into()
}

/// Whether a file of this name is a staged one.
pub(super) fn is_staged(name: &OsStr) -> bool {
    let parts = name.to_str().and_then(|name| name.rsplit_once('#'));
    parts.is_some_and(|(dest, number)| !dest.is_empty() && number.parse::<u64>().is_ok())
}

/// What lies in the folder of a log behind the name `after`.
fn newer_in(log: &Path, after: Option<&str>) -> io::Result<Vec<(String, Metadata)>> {
    let version = after.filter(|name| name.len() == DIGITS).and_then(|name| name.parse().ok());
    if let Some(version) = version
        && let Some(found) = following(log, version)?
    {
        return Ok(found);
    }
    let entries = match std::fs::read_dir(log) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.contains('#') || after.is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        if let Some(meta) = metadata(&log.join(&name))? {
            found.push((name, meta));
        }
    }
    Ok(found)
}

/// The entries of a log from `version` on with their checkpoints and checksums, found by their names. `None` if the log
/// does not have that entry, or a checkpoint under other names (in parts, or named by an identifier).
fn following(log: &Path, version: u64) -> io::Result<Option<Vec<(String, Metadata)>>> {
    let named = |version: u64, kind: &str| format!("{version:0DIGITS$}.{kind}");
    let last = match std::fs::read(log.join("_last_checkpoint")) {
        Ok(bytes) => serde_json::from_slice::<LastCheckpoint>(&bytes).ok(),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(last) = last
        && last.version >= version
        && metadata(&log.join(named(last.version, "checkpoint.parquet")))?.is_none()
    {
        return Ok(None);
    }
    let mut found = Vec::new();
    for version in version.. {
        let entry = named(version, "json");
        let Some(meta) = metadata(&log.join(&entry))? else { break };
        for beside in [named(version, "checkpoint.parquet"), named(version, "crc")] {
            if let Some(meta) = metadata(&log.join(&beside))? {
                found.push((beside, meta));
            }
        }
        found.push((entry, meta));
    }
    Ok((!found.is_empty()).then_some(found))
}

/// A file's size and time, if it is there.
fn metadata(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(meta) => Ok(meta.is_file().then_some(meta)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn create_folder(folder: &Path, force: &Force) -> io::Result<()> {
    match std::fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create_folder(parent(folder), force)?;
            create_one(folder, force)
        }
        Err(error) => Err(error),
    }
}

fn create_one(folder: &Path, force: &Force) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => force(parent(folder)),
    }
}

/// The folder that holds `path`; the root holds itself.
fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// The same tag as `LocalFileSystem` gives on reading.
fn e_tag(meta: &std::fs::Metadata) -> String {
    let modified = meta.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    format!("{:x}-{:x}-{:x}", meta.ino(), modified.unwrap_or_default().as_micros(), meta.len())
}

#[derive(Debug, thiserror::Error)]
#[error("could not {doing} {}: {source}", path.display())]
struct DiskError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> object_store::Error {
    move |source| object_store::Error::Generic {
        store: STORE,
        source: Box::new(DiskError { doing, path: path.to_path_buf(), source }),
    }
}

fn aborted() -> object_store::Error {
    object_store::Error::Generic { store: STORE, source: "the upload was completed or aborted before".into() }
}

/// An upload in parts, written into one staged file.
#[derive(Debug)]
struct Upload {
    store: DurableLocal,
    dest: PathBuf,
    staged: Option<Staged>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut offset = self.offset;
        self.offset += data.content_length() as u64;
        let file = self.staged.as_ref().map(|staged| Arc::clone(&staged.file)).ok_or_else(aborted);
        let (store, dest) = (self.store.clone(), self.dest.clone());
        async move {
            let file = file?;
            store
                .blocking(move |_| {
                    for bytes in data.iter() {
                        file.write_all_at(bytes, offset).map_err(at("write", &dest))?;
                        offset += bytes.len() as u64;
                    }
                    Ok(())
                })
                .await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(aborted)?;
        let dest = self.dest.clone();
        self.store.blocking(move |disk| disk.publish(staged, &dest, false)).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged.take().map(drop).ok_or_else(aborted)
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let if_absent = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => return Err(self.unsupported("`put_opts` with mode `PutMode::Update`")),
        };
        if !opts.attributes.is_empty() {
            return Err(self.unsupported("`put_opts` with `opts.attributes` specified"));
        }
        let dest = self.files.path_to_filesystem(location)?;
        self.blocking(move |disk| {
            let staged = disk.stage(&dest)?;
            let mut file = &*staged.file;
            payload.iter().try_for_each(|bytes| file.write_all(bytes)).map_err(at("write", &dest))?;
            disk.publish(staged, &dest, if_absent)
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return Err(self.unsupported("`put_multipart_opts` with `opts.attributes` specified"));
        }
        let dest = self.files.path_to_filesystem(location)?;
        let place = dest.clone();
        let staged = self.blocking(move |disk| disk.stage(&place)).await?;
        Ok(Box::new(Upload { store: self.clone(), dest, staged: Some(staged), offset: 0 }))
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let location = location.clone();
        let is_head = options.head;
        self.of_files(async move |files| {
            let found = files.get_opts(&location, options).await?;
            if is_head || found.range.end - found.range.start > WHOLE_BYTES {
                return Ok(found);
            }
            let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
            let bytes = found.bytes().await?;
            let payload = GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed());
            Ok(GetResult { payload, meta, range, attributes })
        })
        .await
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (location, ranges) = (location.clone(), ranges.to_vec());
        self.of_files(async move |files| files.get_ranges(&location, &ranges).await).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        let store = self.clone();
        let delete = move |location: Result<ObjectPath>| {
            let store = store.clone();
            async move {
                let location = location?;
                store.of_files(async move |files| files.delete(&location).await.map(|()| location)).await
            }
        };
        locations.map(delete).buffered(DELETES).boxed()
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned();
        self.sorted(move |files| files.list(prefix.as_ref()))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&ObjectPath>,
        offset: &ObjectPath,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match prefix.filter(|prefix| prefix.filename() == Some(LOG)) {
            Some(log) => self.newer_than(log, offset),
            None => {
                let (prefix, offset) = (prefix.cloned(), offset.clone());
                self.sorted(move |files| files.list_with_offset(prefix.as_ref(), &offset))
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        let prefix = prefix.cloned();
        self.of_files(async move |files| files.list_with_delimiter(prefix.as_ref()).await).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        let dest = self.files.path_to_filesystem(to)?;
        let (files, from, to) = (self.files.clone(), from.clone(), to.clone());
        self.blocking(move |disk| {
            disk.settle(&dest)?;
            block_on(files.copy_opts(&from, &to, options))?;
            (disk.force)(&dest).map_err(at("force to disk", &dest))?;
            disk.force_names(&[&dest])
        })
        .await
    }

    async fn rename_opts(&self, from: &ObjectPath, to: &ObjectPath, options: RenameOptions) -> Result<()> {
        let (source, dest) = (self.files.path_to_filesystem(from)?, self.files.path_to_filesystem(to)?);
        let (files, from, to) = (self.files.clone(), from.clone(), to.clone());
        self.blocking(move |disk| {
            disk.settle(&dest)?;
            block_on(files.rename_opts(&from, &to, options))?;
            (disk.force)(&dest).map_err(at("force to disk", &dest))?;
            disk.force_names(&[&dest, &source])
        })
        .await
    }
}

#[cfg(test)]
mod tests;
