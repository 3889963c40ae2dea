//! The log of a table: what happened to it, how far back it can be read, and what goes when it is older than that.
//!
//! A table can be read as it was at each version that its log can put together: from a checkpoint and the commits after it.
//! [`expire`] takes the newest checkpoint that is older than the history, and deletes what lies before it: first the data
//! files that those commits took away, which no later version has, then the log itself. So a kill between the two leaves
//! what the next look finds again. [`vacuum`] looks for files that no commit ever named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::data_files;
use super::restore::RESTORED;
use crate::lake::commit::REWRITE;
use crate::lake::made::{self, Numbers};
use crate::lake::positions::Positions;
use crate::lake::table::positions;
use crate::lake::table::{CHECKPOINT_EVERY, Table, TableError};
use crate::lake::txns::{self, TxnError, Txns};
use crate::lake::{Lake, Snapshot};
use crate::task::failpoint;

/// Entries of the log that are read at once.
const READS: usize = 32;
/// The newest checkpoints are kept, for those who read by one of them now …
const NEWEST_CHECKPOINTS: usize = 3;
/// … and one for each such part of the history (two hours at most): whoever reads the table as it was reads the commits
/// since the one before.
const CHECKPOINTS_IN_HISTORY: i32 = 12;
const CHECKPOINT_PAUSE: TimeDelta = TimeDelta::hours(2);
/// A file that no commit names may be about to be committed, unless it is older than this.
const STAGED: TimeDelta = TimeDelta::days(1);
/// Versions that are so old are put together from a checkpoint.
const CHECKPOINT_AGE: TimeDelta = TimeDelta::days(1);

/// What a table did at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Table version.
    pub version: u64,
    /// When it was committed, by the writer's clock.
    pub at: DateTime<Utc>,
    /// Delta's name of what was done: `WRITE`, `OPTIMIZE`, `DELETE` …
    pub operation: String,
    /// Who did it.
    pub engine: Option<String>,
    /// Files that were added …
    pub files_added: u64,
    /// … their bytes …
    pub bytes_added: u64,
    /// … and rows.
    pub rows_added: u64,
    /// Files that were taken away …
    pub files_removed: u64,
    /// … and their bytes.
    pub bytes_removed: u64,
}

/// The newest entries of a table's log, and how far back it goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The entries, newest first.
    pub entries: Vec<LogEntry>,
    /// The oldest table version that can be read.
    pub oldest: Option<u64>,
}

/// The versions of a table that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readable {
    /// The oldest …
    pub oldest: u64,
    /// … and when it was committed, by the store's clock.
    pub oldest_at: DateTime<Utc>,
    /// The newest.
    pub newest: u64,
}

/// What was deleted, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Table versions that cannot be read any more.
    pub versions: u64,
    /// Objects of the log.
    pub log_files: u64,
    /// Data files …
    pub files: u64,
    /// … and their bytes.
    pub bytes: u64,
}

/// Files that no commit names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// How many.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The newest `limit` entries of the log of `folder/name`.
pub async fn history(lake: &Lake, folder: &str, name: &str, limit: usize) -> Result<History, TableError> {
    let log = Log::list(lake, folder, name).await?;
    let versions: Vec<u64> = log.commits.keys().rev().take(limit).copied().collect();
    let entries = stream::iter(versions).map(|version| log.entry(version)).buffered(READS).try_collect().await?;
    Ok(History { entries, oldest: log.oldest() })
}

/// The table versions of `folder/name` that can be read; `None` if there is no such table.
pub async fn readable(lake: &Lake, folder: &str, name: &str) -> Result<Option<Readable>, TableError> {
    let log = Log::list(lake, folder, name).await?;
    let (Some(mut oldest), Some((newest, _))) = (log.oldest(), log.commits.last_key_value()) else { return Ok(None) };
    // What the newest commit took away that is not there any more, is missing in all versions before it.
    let present = log.data_files().await?;
    let versions: Vec<u64> = log.commits.range(oldest..).rev().map(|(version, _)| *version).collect();
    let mut entries = log.walk(versions);
    while let Some((version, actions)) = entries.try_next().await? {
        let removed = actions.into_iter().filter_map(|action| action.remove);
        if removed.into_iter().any(|file| !present.contains(&log.data_path(&file.known().0))) {
            oldest = version;
            break;
        }
    }
    drop(entries);
    let oldest_at = log.commits.get(&oldest).copied().unwrap_or_default();
    Ok(Some(Readable { oldest, oldest_at, newest: *newest }))
}

/// The newest table version of `folder/name` that was committed by `time`, by the writer's clock (a copy of a lake has other
/// times in its store): the first of all if none was. `None` if there is no such table; an error if its log does not reach
/// so far back any more.
pub async fn version_at(lake: &Lake, folder: &str, name: &str, time: DateTime<Utc>) -> Result<Option<u64>, TableError> {
    let log = Log::list(lake, folder, name).await?;
    let Some(oldest) = log.oldest() else { return Ok(None) };
    let versions: Vec<u64> = log.commits.range(oldest..).map(|(version, _)| *version).collect();
    // Those before `passed` were committed by then, those from `ahead` on later.
    let (mut passed, mut ahead) = (0, versions.len());
    while passed < ahead {
        let middle = usize::midpoint(passed, ahead);
        if log.entry(versions[middle]).await?.at <= time { passed = middle + 1 } else { ahead = middle }
    }
    let known = passed.checked_sub(1).map(|last| versions[last]);
    match known.or_else(|| (oldest == 0).then_some(0)) {
        Some(version) => Ok(Some(version)),
        None => Err(TableError::Schema { table: name.to_owned(), reason: "its log begins later".to_owned() }),
    }
}

/// The positions that the table `folder/name` had at a table version.
pub async fn positions_at(lake: &Lake, folder: &str, name: &str, version: u64) -> Result<Positions, TableError> {
    Ok(positions(name, &txns_at(lake, folder, name, version).await?))
}

/// The numbers of pieces that `table` has to get to have those that it had at a table version.
pub async fn numbers_at(lake: &Lake, folder: &str, table: &Table, version: u64) -> Result<Numbers, TableError> {
    let then = txns_at(lake, folder, table.name(), version).await?;
    let now = made::numbers(table);
    let number = |id: &str| then.get(id).copied().unwrap_or(0);
    Ok(now.into_iter().filter(|(id, now)| number(id) != *now).map(|(id, _)| (id.clone(), number(&id))).collect())
}

async fn txns_at(lake: &Lake, folder: &str, name: &str, version: u64) -> Result<Txns, TableError> {
    let log = Log::list(lake, folder, name).await?;
    let checkpoint = log.checkpoints.range(..=version).next_back().map(|(version, _)| *version);
    let store = PrefixStore::new(Arc::clone(&log.store), log.folder.clone());
    Ok(txns::read_from(&store, checkpoint, version).await?)
}

/// The values of the partition column `column` of the table `folder/name` whose rows changed after table version `after`,
/// up to `upto`; `None` if the log does not reach back so far.
pub async fn changed_partitions(
    lake: &Lake,
    (folder, name): (&str, &str),
    column: &str,
    after: u64,
    upto: u64,
) -> Result<Option<BTreeSet<Option<String>>>, TableError> {
    if after >= upto {
        return Ok((after == upto).then(BTreeSet::new));
    }
    Log::list(lake, folder, name).await?.changed(after + 1..=upto, column).await
}

/// Whether all files of a table as it was are still there.
pub async fn has_files(lake: &Lake, folder: &str, name: &str, snapshot: &Snapshot) -> Result<bool, TableError> {
    let log = Log::of(lake, folder, name);
    let present = log.data_files().await?;
    Ok(data_files(snapshot).iter().all(|file| present.contains(&log.data_path(&file.path))))
}

/// Writes a checkpoint of `folder/name` if many versions, or old ones, have none yet. (Whoever writes the table does so, too,
/// but may not live long enough.)
pub async fn checkpoint_if_due(lake: &Lake, folder: &str, name: &str, now: DateTime<Utc>) -> Result<bool, TableError> {
    let log = Log::list(lake, folder, name).await?;
    let after = log.checkpoints.keys().next_back().map_or(0, |newest| newest + 1);
    let since: Vec<DateTime<Utc>> = log.commits.range(after.max(1)..).map(|(_, at)| *at).collect();
    let is_old = since.first().is_some_and(|first| now - *first >= CHECKPOINT_AGE);
    if !is_old && (since.len() as u64) < CHECKPOINT_EVERY {
        return Ok(false);
    }
    let Some(table) = lake.open(folder, name).await? else { return Ok(false) };
    table.checkpoint().await?;
    Ok(true)
}

/// Deletes what only table versions older than `history` need.
pub async fn expire(
    lake: &Lake,
    folder: &str,
    name: &str,
    history: Duration,
    now: DateTime<Utc>,
    dry_run: bool,
) -> Result<Expired, TableError> {
    let log = Log::list(lake, folder, name).await?;
    let oldest = before(now, history);
    let Some(base) = log.base(oldest) else { return Ok(Expired::default()) };
    let doomed: Vec<u64> = log.commits.range(..base).map(|(version, _)| *version).collect();
    let mut files: BTreeMap<String, u64> = BTreeMap::new();
    let mut entries = log.walk(doomed.clone());
    while let Some((_, actions)) = entries.try_next().await? {
        for action in actions {
            files.extend(action.remove.map(File::known));
            // A restore has made it part of the table again.
            if let Some((path, _)) = action.add.map(File::known) {
                files.remove(&path);
            }
        }
    }
    drop(entries);
    if !files.is_empty() {
        // Restored since, as it is now or was in between.
        let Some(table) = lake.open(folder, name).await? else { return Ok(Expired::default()) };
        let mut needed: BTreeSet<String> = data_files(&*table.snapshot()?).into_iter().map(|file| file.path).collect();
        if table.number(RESTORED).is_some_and(|restored| restored.unsigned_abs() >= base) {
            needed.extend(log.added_since(base).await?);
        }
        files.retain(|path, _| !needed.contains(path));
    }
    let mut objects =
        log.objects.iter().filter(|(version, _)| *version < base).map(|(_, path)| path).cloned().collect();
    log.thin(base, CHECKPOINT_PAUSE.min((now - oldest) / CHECKPOINTS_IN_HISTORY), &mut objects);
    let expired = Expired {
        versions: doomed.len() as u64,
        log_files: objects.len() as u64,
        files: files.len() as u64,
        bytes: files.values().sum(),
    };
    if !dry_run {
        log.delete(files.keys().map(|path| log.data_path(path)).collect()).await?;
        failpoint::hit("expire_after_files");
        log.delete(objects).await?;
    }
    Ok(expired)
}

/// Deletes data files that no commit names and that are older than `history` and a day.
pub async fn vacuum(
    lake: &Lake,
    folder: &str,
    name: &str,
    history: Duration,
    now: DateTime<Utc>,
    dry_run: bool,
) -> Result<Vacuumed, TableError> {
    let log = Log::list(lake, folder, name).await?;
    // Listed before the log is read: what is committed meanwhile is too young to be deleted.
    let present = log.present().await?;
    let Some(table) = lake.open(folder, name).await? else { return Ok(Vacuumed::default()) };
    let mut needed: BTreeSet<Path> =
        data_files(&*table.snapshot()?).into_iter().map(|file| log.data_path(&file.path)).collect();
    let mut entries = log.walk(log.commits.keys().copied().collect());
    while let Some((_, actions)) = entries.try_next().await? {
        let removed = actions.into_iter().filter_map(|action| action.remove);
        needed.extend(removed.map(|file| log.data_path(&file.known().0)));
    }
    drop(entries);
    let oldest = before(now, history).min(now - STAGED);
    let is_orphan = |found: &&ObjectMeta| found.last_modified < oldest && !needed.contains(&found.location);
    let orphans: Vec<&ObjectMeta> = present.iter().filter(is_orphan).collect();
    let vacuumed = Vacuumed { files: orphans.len() as u64, bytes: orphans.iter().map(|found| found.size).sum() };
    if !dry_run {
        log.delete(orphans.into_iter().map(|found| found.location.clone()).collect()).await?;
    }
    Ok(vacuumed)
}

fn before(now: DateTime<Utc>, history: Duration) -> DateTime<Utc> {
    TimeDelta::from_std(history)
        .ok()
        .and_then(|history| now.checked_sub_signed(history))
        .unwrap_or(DateTime::UNIX_EPOCH)
}

/// The objects of a table's log.
struct Log {
    store: Arc<dyn ObjectStore>,
    /// The table's folder.
    folder: Path,
    /// When each version was committed, by the store's clock.
    commits: BTreeMap<u64, DateTime<Utc>>,
    /// The checkpoints that are one file, which is all that are written here, with their times.
    checkpoints: BTreeMap<u64, DateTime<Utc>>,
    /// All objects that belong to a version.
    objects: Vec<(u64, Path)>,
}

impl Log {
    /// Nothing of it yet.
    fn of(lake: &Lake, folder: &str, name: &str) -> Self {
        let (store, folder) = (Arc::clone(lake.stores().data()), Path::from(folder).join(name));
        Self { store, folder, commits: BTreeMap::new(), checkpoints: BTreeMap::new(), objects: Vec::new() }
    }

    async fn list(lake: &Lake, folder: &str, name: &str) -> Result<Self, TableError> {
        let mut log = Self::of(lake, folder, name);
        let store = Arc::clone(&log.store);
        let mut listed = store.list(Some(&log.folder.clone().join("_delta_log")));
        while let Some(found) = listed.try_next().await.map_err(TxnError::from)? {
            let Some((version, rest)) = found.location.filename().and_then(|name| name.split_at_checked(20)) else {
                continue;
            };
            let Ok(version) = version.parse::<u64>() else { continue };
            match rest {
                ".json" => _ = log.commits.insert(version, found.last_modified),
                ".checkpoint.parquet" => _ = log.checkpoints.insert(version, found.last_modified),
                _ => {}
            }
            log.objects.push((version, found.location.clone()));
        }
        Ok(log)
    }

    /// The table's data files that are there, named by a commit or not.
    async fn data_files(&self) -> Result<BTreeSet<Path>, TableError> {
        Ok(self.present().await?.into_iter().map(|found| found.location).collect())
    }

    async fn present(&self) -> Result<Vec<ObjectMeta>, TableError> {
        let of_log = self.folder.clone().join("_delta_log");
        let is_data = |found: &ObjectMeta| {
            found.location.as_ref().ends_with(".parquet") && !found.location.prefix_matches(&of_log)
        };
        let found = self.store.list(Some(&self.folder));
        let found = found.try_filter(|found| std::future::ready(is_data(found)));
        Ok(found.try_collect().await.map_err(TxnError::from)?)
    }

    /// The oldest version that can be put together.
    fn oldest(&self) -> Option<u64> {
        let first = *self.commits.keys().next()?;
        match first {
            0 => Some(0),
            // The commits before it are gone.
            _ => self.checkpoints.range(first.saturating_sub(1)..).next().map(|(version, _)| *version),
        }
    }

    /// The version that everything older than `time` is put together without: a checkpoint that is no newer.
    fn base(&self, time: DateTime<Utc>) -> Option<u64> {
        let newer = self.commits.iter().find(|(_, at)| **at > time).map(|(version, _)| *version);
        let then = match newer {
            Some(newer) => newer.checked_sub(1)?,
            None => *self.commits.keys().next_back()?,
        };
        self.checkpoints.range(..=then).next_back().map(|(version, _)| *version)
    }

    /// Adds those checkpoints after `base` that nobody needs if there is one for each `pause`.
    fn thin(&self, base: u64, pause: TimeDelta, gone: &mut Vec<Path>) {
        let later: Vec<(u64, DateTime<Utc>)> =
            self.checkpoints.range(base + 1..).map(|(version, at)| (*version, *at)).collect();
        let mut last = self.checkpoints.get(&base).copied();
        let old = later.len().saturating_sub(NEWEST_CHECKPOINTS);
        for (version, at) in &later[..old] {
            if last.is_some_and(|last| *at - last < pause) {
                let name = format!("{version:020}.checkpoint.parquet");
                gone.push(self.folder.clone().join("_delta_log").join(name));
            } else {
                last = Some(*at);
            }
        }
    }

    /// The actions of these versions, in this order.
    fn walk(&self, versions: Vec<u64>) -> BoxStream<'_, Result<(u64, Vec<Action>), TableError>> {
        let read = move |version| async move { Ok((version, self.actions(version).await?)) };
        stream::iter(versions).map(read).buffered(READS).boxed()
    }

    async fn actions(&self, version: u64) -> Result<Vec<Action>, TableError> {
        let path = self.folder.clone().join("_delta_log").join(format!("{version:020}.json"));
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await.map_err(TxnError::from)?,
            // Another process has deleted it since.
            Err(StoreError::NotFound { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(TxnError::from(error).into()),
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let read = lines.map(serde_json::from_slice).collect::<Result<_, serde_json::Error>>();
        read.map_err(|error| TxnError::Entry(path.clone(), error.to_string()).into())
    }

    /// Files that commits from `version` on made part of the table.
    async fn added_since(&self, version: u64) -> Result<Vec<String>, TableError> {
        let versions: Vec<u64> = self.commits.range(version..).map(|(version, _)| *version).collect();
        let mut added = Vec::new();
        let mut entries = self.walk(versions);
        while let Some((_, actions)) = entries.try_next().await? {
            added.extend(actions.into_iter().filter_map(|action| Some(action.add?.known().0)));
        }
        Ok(added)
    }

    /// The values of the partition column `column` of files that these versions added or took away, because rows changed;
    /// `None` if not all of them are there.
    async fn changed(
        &self,
        versions: std::ops::RangeInclusive<u64>,
        column: &str,
    ) -> Result<Option<BTreeSet<Option<String>>>, TableError> {
        let wanted = versions.end().saturating_sub(*versions.start()) + 1;
        let there: Vec<u64> = self.commits.range(versions).map(|(version, _)| *version).collect();
        if there.len() as u64 != wanted {
            return Ok(None);
        }
        let mut changed = BTreeSet::new();
        let mut entries = self.walk(there);
        while let Some((_, actions)) = entries.try_next().await? {
            if actions.is_empty() {
                return Ok(None);
            }
            // What is too old to be kept is no change of what was made of it.
            if is_retention(&actions) {
                continue;
            }
            for file in actions.into_iter().flat_map(|action| [action.add, action.remove]).flatten() {
                if file.data_change {
                    changed.insert(file.partition_values.and_then(|mut values| values.remove(column)).flatten());
                }
            }
        }
        Ok(Some(changed))
    }

    async fn entry(&self, version: u64) -> Result<LogEntry, TableError> {
        let at = self.commits.get(&version).copied().unwrap_or_default();
        let mut entry = LogEntry {
            version,
            at,
            operation: String::new(),
            engine: None,
            files_added: 0,
            bytes_added: 0,
            rows_added: 0,
            files_removed: 0,
            bytes_removed: 0,
        };
        for action in self.actions(version).await? {
            if let Some(info) = action.commit_info {
                entry.at = info.timestamp.and_then(DateTime::from_timestamp_millis).unwrap_or(at);
                entry.operation = info.operation.unwrap_or_default();
                entry.engine = info.engine_info;
            }
            if let Some(file) = action.add {
                entry.files_added += 1;
                entry.rows_added += file.rows();
                entry.bytes_added += file.known().1;
            }
            if let Some(file) = action.remove {
                entry.files_removed += 1;
                entry.bytes_removed += file.known().1;
            }
        }
        Ok(entry)
    }

    /// A data file's place in the lake.
    fn data_path(&self, path: &str) -> Path {
        let inside = Path::parse(path).unwrap_or_else(|_| Path::from(path));
        inside.parts().fold(self.folder.clone(), Path::join)
    }

    async fn delete(&self, paths: Vec<Path>) -> Result<(), TableError> {
        // The oldest first: what is left is a log without gaps.
        let mut deleted = self.store.delete_stream(stream::iter(paths).map(Ok).boxed());
        while let Some(deleted) = deleted.next().await {
            match deleted {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(TxnError::from(error).into()),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Action {
    commit_info: Option<CommitInfo>,
    txn: Option<Txn>,
    add: Option<File>,
    remove: Option<File>,
}

/// True of a commit of [`super::retain`]: nothing else of ours is a DELETE, and other engines do not number rewrites.
fn is_retention(actions: &[Action]) -> bool {
    let operation = actions.iter().find_map(|action| action.commit_info.as_ref()?.operation.as_deref());
    operation == Some("DELETE")
        && actions.iter().any(|action| action.txn.as_ref().is_some_and(|txn| txn.app_id == REWRITE))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Txn {
    app_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommitInfo {
    timestamp: Option<i64>,
    operation: Option<String>,
    engine_info: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    path: String,
    size: Option<i64>,
    stats: Option<String>,
    #[serde(default)]
    data_change: bool,
    partition_values: Option<BTreeMap<String, Option<String>>>,
}

impl File {
    /// Its path as the table's files have it, and its bytes.
    fn known(self) -> (String, u64) {
        (percent_decode_str(&self.path).decode_utf8_lossy().into_owned(), self.size.unwrap_or(0).unsigned_abs())
    }

    fn rows(&self) -> u64 {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Stats {
            num_records: u64,
        }
        let stats = self.stats.as_deref().and_then(|stats| serde_json::from_str::<Stats>(stats).ok());
        stats.map_or(0, |stats| stats.num_records)
    }
}

/// How many objects a table's log has, and their bytes.
#[cfg(test)]
pub(super) async fn size(lake: &Lake, folder: &str, name: &str) -> Result<(usize, u64), TableError> {
    let log = Path::from(folder).join(name).join("_delta_log");
    let found: Vec<ObjectMeta> = lake.stores().data().list(Some(&log)).try_collect().await.map_err(TxnError::from)?;
    Ok((found.len(), found.iter().map(|found| found.size).sum()))
}

#[cfg(test)]
mod tests;
