use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use object_store::PutPayload;
use object_store::memory::InMemory;

use super::*;
use crate::lake::care::{Layout, Need, Pace, merge, plan, restore};
use crate::lake::made::Numbers;
use crate::lake::positions::Positions;
use crate::lake::store::testing::stores;
use crate::lake::table::Table;
use crate::lake::{PUBLIC, Past, commit};
use crate::task::Shutdown;

const HOUR: Duration = Duration::from_secs(3_600);

fn rows(id: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![id; 3]));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap()
}

async fn append(table: &mut Table, id: i64) {
    let adds = table.stage(&[rows(id)], &rows(id).schema()).await.unwrap();
    commit::commit_number(table, "test", &adds, id, id + 1, &Shutdown::new()).await.unwrap();
}

/// A table of versions 0 to 8: seven appends and a merge of their files.
async fn merged(lake: &Lake) -> Table {
    let mut table = commit::create(lake, PUBLIC, "cars", &rows(0).schema(), &[], 1, &Positions::new()).await.unwrap();
    for id in 0..7 {
        append(&mut table, id).await;
        if id == 3 {
            table.checkpoint().await.unwrap();
        }
    }
    let files = data_files(&table.snapshot().unwrap());
    let group = plan(&files, Utc::now(), Need::Any).remove(0);
    let pool: Arc<dyn datafusion::execution::memory_pool::MemoryPool> =
        Arc::new(datafusion::execution::memory_pool::UnboundedMemoryPool::default());
    merge(&mut table, &group, &Layout::default(), &pool, Pace::Full, &Shutdown::new()).await.unwrap().unwrap();
    table
}

async fn objects(lake: &Lake) -> Vec<String> {
    let listed: Vec<ObjectMeta> = lake.stores().data().list(None).try_collect().await.unwrap();
    listed.into_iter().map(|found| found.location.to_string()).collect()
}

#[tokio::test]
async fn what_happened_is_told_newest_first() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    merged(&lake).await;
    let told = history(&lake, PUBLIC, "cars", 3).await.unwrap();
    assert_eq!(told.oldest, Some(0));
    assert_eq!(version_at(&lake, PUBLIC, "cars", Utc::now()).await.unwrap(), Some(8));
    assert_eq!(version_at(&lake, PUBLIC, "cars", DateTime::UNIX_EPOCH).await.unwrap(), Some(0), "it was empty then");
    let told: Vec<_> = told
        .entries
        .iter()
        .map(|entry| {
            (entry.version, entry.operation.as_str(), entry.files_added, entry.files_removed, entry.rows_added)
        })
        .collect();
    assert_eq!(told, [(8, "OPTIMIZE", 1, 7, 21), (7, "WRITE", 1, 0, 3), (6, "WRITE", 1, 0, 3)]);
    assert_eq!(history(&lake, PUBLIC, "none", 3).await.unwrap(), History::default());
}

#[tokio::test]
async fn versions_that_are_older_than_the_history_go_with_the_files_that_only_they_have() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let mut table = merged(&lake).await;
    let expire = |now, dry_run| expire(&lake, PUBLIC, "cars", HOUR, now, dry_run);
    let (now, later) = (Utc::now(), Utc::now() + TimeDelta::hours(2));
    assert_eq!(expire(now, false).await.unwrap(), Expired::default(), "all of it is young");

    // The newest version before the history begins is 8, and the checkpoint that it is put together from is at 4.
    let told = expire(later, true).await.unwrap();
    assert_eq!((told.versions, told.files, told.log_files), (4, 0, 4));
    table.checkpoint().await.unwrap();
    let told = expire(later, true).await.unwrap();
    assert_eq!((told.versions, told.files, told.log_files), (8, 0, 9), "the merge itself is still in the history");
    append(&mut table, 7).await;
    table.checkpoint().await.unwrap();
    let before = objects(&lake).await;
    let told = expire(later, true).await.unwrap();
    assert_eq!((told.versions, told.files), (9, 7));
    assert!(told.bytes > 0);
    assert_eq!(objects(&lake).await, before, "a dry run deletes nothing");
    assert_eq!(expire(later, false).await.unwrap(), told);
    let left = objects(&lake).await;
    assert_eq!(left.iter().filter(|path| path.ends_with(".parquet") && !path.contains("_delta_log")).count(), 2);
    assert_eq!(expire(later, false).await.unwrap(), Expired::default());

    let table = lake.open(PUBLIC, "cars").await.unwrap().unwrap();
    assert_eq!((table.version(), table.files(), table.number("test")), (9, 2, Some(8)));
    let readable = readable(&lake, PUBLIC, "cars").await.unwrap().unwrap();
    assert_eq!((readable.oldest, readable.newest), (9, 9));
    assert!(lake.past(PUBLIC, "cars", Past::Version(8)).await.is_err());
    assert!(lake.past(PUBLIC, "cars", Past::Version(9)).await.unwrap().is_some());
    let at = |time| lake.past(PUBLIC, "cars", Past::Time(time));
    assert!(at(Utc::now() - TimeDelta::hours(1)).await.is_err(), "nobody knows what it was then");
    assert_eq!(at(Utc::now()).await.unwrap().unwrap().version(), 9);
}

#[tokio::test]
async fn files_that_a_restore_has_brought_back_stay_while_a_version_of_the_history_has_them() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let (mut table, stop) = (merged(&lake).await, Shutdown::new());
    let pause = || tokio::time::sleep(Duration::from_millis(5));
    let past = lake.past(PUBLIC, "cars", Past::Version(7)).await.unwrap().unwrap();
    let restored = restore(&mut table, &past, &Numbers::new(), false, &stop).await.unwrap().unwrap();
    assert_eq!((restored.files_gone, restored.files_back, restored.rows_back), (1, 7, 21));
    // Version 9 is the restore, 10 an append, 11 takes the files away again.
    let mut moments = Vec::new();
    for id in [7, 8] {
        table.checkpoint().await.unwrap();
        pause().await;
        moments.push(Utc::now());
        pause().await;
        if id == 7 {
            append(&mut table, id).await;
        }
    }
    let group = plan(&data_files(&table.snapshot().unwrap()), Utc::now(), Need::Any).remove(0);
    let pool: Arc<dyn datafusion::execution::memory_pool::MemoryPool> =
        Arc::new(datafusion::execution::memory_pool::UnboundedMemoryPool::default());
    merge(&mut table, &group, &Layout::default(), &pool, Pace::Full, &stop).await.unwrap().unwrap();
    table.checkpoint().await.unwrap();
    for (moment, base) in moments.into_iter().zip([9, 10]) {
        let then = moment + TimeDelta::from_std(HOUR).unwrap();
        let told = expire(&lake, PUBLIC, "cars", HOUR, then, false).await.unwrap();
        assert_eq!(told.files, u64::from(base == 10), "the file of the merge that the restore undid");
        let oldest = lake.past(PUBLIC, "cars", Past::Version(base)).await.unwrap().unwrap();
        assert!(has_files(&lake, PUBLIC, "cars", &oldest.snapshot().unwrap()).await.unwrap(), "version {base}");
    }
    let later = Utc::now() + TimeDelta::hours(2);
    assert_eq!(expire(&lake, PUBLIC, "cars", HOUR, later, false).await.unwrap().files, 0, "11 itself is history");
    append(&mut table, 8).await;
    table.checkpoint().await.unwrap();
    assert_eq!(expire(&lake, PUBLIC, "cars", HOUR, later, false).await.unwrap().files, 8);
}

#[tokio::test]
async fn versions_whose_files_are_gone_cannot_be_read() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    merged(&lake).await;
    let of_third = lake.past(PUBLIC, "cars", Past::Version(3)).await.unwrap().unwrap().snapshot().unwrap();
    assert!(has_files(&lake, PUBLIC, "cars", &of_third).await.unwrap());
    assert_eq!(readable(&lake, PUBLIC, "cars").await.unwrap().unwrap().oldest, 0);
    let path = Path::from("public/cars").join(data_files(&of_third)[0].path.as_str());
    lake.stores().data().delete(&path).await.unwrap();
    assert!(!has_files(&lake, PUBLIC, "cars", &of_third).await.unwrap());
    assert_eq!(readable(&lake, PUBLIC, "cars").await.unwrap().unwrap().oldest, 8, "the merge made it needless");
    assert!(readable(&lake, PUBLIC, "none").await.unwrap().is_none());
}

#[tokio::test]
async fn who_has_not_looked_since_before_the_history_goes_on_from_the_newest_checkpoint() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let mut other = merged(&lake).await;
    let mut quiet = lake.open(PUBLIC, "cars").await.unwrap().unwrap();
    for id in [7, 8] {
        append(&mut other, id).await;
    }
    other.checkpoint().await.unwrap();
    let later = Utc::now() + TimeDelta::hours(2);
    assert!(expire(&lake, PUBLIC, "cars", HOUR, later, false).await.unwrap().versions > 0);
    quiet.refresh().await.unwrap();
    assert_eq!((quiet.version(), quiet.number("test")), (10, Some(9)));
    append(&mut quiet, 9).await;
    assert_eq!(quiet.files(), 4);

    // A kill came between a checkpoint and its mention.
    lake.stores().data().delete(&Path::from("public/cars/_delta_log/_last_checkpoint")).await.unwrap();
    let found = lake.open(PUBLIC, "cars").await.unwrap().unwrap();
    assert_eq!((found.version(), found.number("test")), (11, Some(10)));
}

#[tokio::test]
async fn checkpoints_that_nobody_needs_go_and_the_newest_stay() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let mut table = commit::create(&lake, PUBLIC, "cars", &rows(0).schema(), &[], 1, &Positions::new()).await.unwrap();
    for id in 0..8 {
        append(&mut table, id).await;
        table.checkpoint().await.unwrap();
    }
    // The base of the history is the newest of those at its beginning: all were made in one moment.
    let week = HOUR * 24 * 7;
    super::expire(&lake, PUBLIC, "cars", week, Utc::now(), false).await.unwrap();
    let left = objects(&lake).await;
    assert_eq!(left.iter().filter(|path| path.contains(".checkpoint.")).count(), 8, "nothing is older than a week");
    let log = Log::list(&lake, PUBLIC, "cars").await.unwrap();
    let mut gone = Vec::new();
    log.thin(1, TimeDelta::hours(2), &mut gone);
    let gone: Vec<&str> = gone.iter().filter_map(|path| path.filename()).map(|name| &name[18..20]).collect();
    assert_eq!(gone, ["02", "03", "04", "05"]);
}

#[tokio::test]
async fn a_checkpoint_names_the_files_that_were_taken_away_within_the_history() {
    for (history, named) in [(HOUR, 7), (Duration::ZERO, 0)] {
        let lake = Lake::new(stores(Arc::new(InMemory::new()))).with_history(history);
        merged(&lake).await.checkpoint().await.unwrap();
        let path = Path::from("public/cars/_delta_log/00000000000000000008.checkpoint.parquet");
        let bytes = lake.stores().data().get(&path).await.unwrap().bytes().await.unwrap();
        let actions = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(bytes, 1_024).unwrap();
        let removes = actions.map(|batch| {
            let batch = batch.unwrap();
            let removes = batch.column_by_name("remove").unwrap();
            removes.len() - removes.null_count()
        });
        assert_eq!(removes.sum::<usize>(), named, "{history:?}");
    }
}

#[tokio::test]
async fn a_checkpoint_is_due_after_many_versions_or_a_day() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let mut table = commit::create(&lake, PUBLIC, "cars", &rows(0).schema(), &[], 1, &Positions::new()).await.unwrap();
    let due = |now| checkpoint_if_due(&lake, PUBLIC, "cars", now);
    let tomorrow = Utc::now() + TimeDelta::hours(25);
    assert!(!due(tomorrow).await.unwrap(), "there is nothing in it");
    append(&mut table, 0).await;
    assert!(!due(Utc::now()).await.unwrap());
    assert!(due(tomorrow).await.unwrap());
    assert!(!due(tomorrow).await.unwrap());
    for id in 1..=CHECKPOINT_EVERY as i64 {
        append(&mut table, id).await;
    }
    assert!(due(Utc::now()).await.unwrap());
    let again = lake.open(PUBLIC, "cars").await.unwrap().unwrap();
    assert_eq!((again.version(), again.number("test")), (table.version(), table.number("test")));
}

#[tokio::test]
async fn a_clock_that_is_an_hour_off_deletes_nothing_that_is_needed() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let table = merged(&lake).await;
    let staged = Path::from("public/cars/part-staged.parquet");
    lake.stores().data().put(&staged, PutPayload::from("about to be committed")).await.unwrap();
    let before = objects(&lake).await;
    let day = HOUR * 24;
    for off in [-1, 1] {
        let now = Utc::now() + TimeDelta::hours(off);
        assert_eq!(expire(&lake, PUBLIC, "cars", day, now, false).await.unwrap(), Expired::default(), "{off}");
        assert_eq!(vacuum(&lake, PUBLIC, "cars", day, now, false).await.unwrap(), Vacuumed::default(), "{off}");
        assert!(!checkpoint_if_due(&lake, PUBLIC, "cars", now).await.unwrap() || off > 0);
    }
    let left = objects(&lake).await;
    assert!(before.iter().all(|path| left.contains(path)), "{left:?}");
    assert_eq!(table.files(), lake.open(PUBLIC, "cars").await.unwrap().unwrap().files());
}

#[tokio::test]
async fn files_that_no_commit_names_go_once_they_are_old() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    merged(&lake).await;
    let orphan = Path::from("public/cars/part-orphan.parquet");
    lake.stores().data().put(&orphan, PutPayload::from("left behind")).await.unwrap();
    let vacuum = |now, dry_run| vacuum(&lake, PUBLIC, "cars", HOUR, now, dry_run);
    assert_eq!(vacuum(Utc::now() + TimeDelta::hours(2), false).await.unwrap(), Vacuumed::default(), "it may be staged");
    let later = Utc::now() + TimeDelta::hours(25);
    assert_eq!(vacuum(later, true).await.unwrap(), Vacuumed { files: 1, bytes: 11 });
    assert_eq!(vacuum(later, false).await.unwrap(), Vacuumed { files: 1, bytes: 11 });
    assert!(lake.stores().data().head(&orphan).await.is_err());
    let past = lake.past(PUBLIC, "cars", Past::Version(7)).await.unwrap().unwrap();
    assert_eq!(past.files(), 7, "what the history has is left");
}
