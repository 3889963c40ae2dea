use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::lake::care::{Layout, Need, Pace, data_files, merge, plan};
use crate::lake::commit::commit_main;
use crate::lake::positions::{Move, Moves};
use crate::lake::retry::retry;
use crate::lake::store::testing::{Moody, stores};
use crate::lake::table::parquet_rows;
use crate::lake::{Lake, PUBLIC};
use crate::task::{self, Budget};

/// Rows of records; which version of a row it is can be told from its value.
fn rows(offsets: &[i64], version: i64) -> RecordBatch {
    let n = offsets.len();
    let columns: [(&str, ArrayRef); 6] = [
        (RECORD[0], Arc::new(StringArray::from(vec!["t"; n]))),
        (RECORD[1], Arc::new(Int32Array::from(vec![0; n]))),
        (RECORD[2], Arc::new(Int32Array::from(vec![0; n]))),
        (RECORD[3], Arc::new(Int64Array::from(offsets.to_vec()))),
        ("value", Arc::new(Int64Array::from_iter_values(offsets.iter().map(|offset| offset * 10 + version)))),
        ("_day", Arc::new(Date32Array::from_iter_values(offsets.iter().map(|offset| (offset % 3) as i32)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
}

fn place() -> TopicPartition {
    TopicPartition { topic: "t".into(), incarnation: 0, partition: 0 }
}

async fn create(lake: &Lake) -> Table {
    commit::create(lake, PUBLIC, "cars", &rows(&[], 0).schema(), &["_day"], 1, &Positions::new()).await.unwrap()
}

async fn held(lake: &Lake) -> Vec<i64> {
    let table = lake.open(PUBLIC, "cars").await.unwrap().unwrap();
    let mut held = Vec::new();
    for file in table.snapshot().unwrap().log_data().iter() {
        let rows = parquet_rows(&**table.data(), &file.object_store_path(), "cars").await.unwrap().unwrap();
        held.extend(rows.iter().flat_map(|rows| rows["value"].as_primitive::<Int64Type>().values().to_vec()));
    }
    held.sort_unstable();
    held
}

/// Rows of some of the records `start..end`, with the position behind them.
async fn append(table: &mut Table, (start, end): (i64, i64), offsets: &[i64]) {
    let batch = rows(offsets, 0);
    let adds = table.stage(std::slice::from_ref(&batch), &batch.schema()).await.unwrap();
    let young = !table.positions_of("cars").contains_key(&place());
    let moves = Moves::from([(place(), Move { start, end, young })]);
    commit_main(table, &adds, moves, &Shutdown::new()).await.unwrap();
}

fn set(offsets: impl IntoIterator<Item = i64>) -> RecordSet {
    let mut records = RecordSet::default();
    offsets.into_iter().for_each(|offset| records.insert(&place(), offset));
    records
}

async fn switch(table: &Table, records: &RecordSet, new: &[i64]) -> Option<Switched> {
    // Pieces are closed at different places.
    let (mut shadow, budget) = (Shadow::of(table.clone(), &[]), Budget::new(1 << 20));
    for (at, some) in new.chunks(3).enumerate() {
        let batch = rows(some, 1);
        let charge = budget.charge(batch.get_array_memory_size());
        shadow.write(&batch, charge).await.unwrap();
        assert!(shadow.held_bytes() > 0);
        if at % 4 == 3 {
            shadow.finish().await.unwrap();
            assert_eq!(shadow.held_bytes(), 0);
        }
    }
    let columns = rows(&[], 1).schema();
    let switched = shadow.switch(records, (&columns, 1), true, &Shutdown::new()).await.unwrap();
    assert_eq!(budget.used_bytes(), 0, "what was held is given back");
    switched.map(|(_, switched)| switched)
}

#[tokio::test]
async fn rows_of_the_records_are_replaced_and_all_others_stay() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let mut table = create(&lake).await;
    append(&mut table, (0, 10), &[0, 1, 2, 3, 5, 8]).await;
    append(&mut table, (10, 20), &[10, 11, 12]).await;
    // Of record 3 nothing comes, of record 4 something came; 8 was not read again.
    let switched = switch(&table, &set([0, 1, 2, 3, 4, 5]), &[0, 1, 2, 4, 5]).await;
    assert_eq!(switched, Some(Switched { gone: 5, rows: 5 }));
    assert_eq!(held(&lake).await, [1, 11, 21, 41, 51, 80, 100, 110, 120]);
    // Once more changes nothing, and nothing is nothing.
    assert_eq!(switch(&table, &set([0, 1, 4]), &[0, 1, 4]).await, Some(Switched { gone: 3, rows: 3 }));
    assert_eq!(switch(&table, &set([]), &[]).await, Some(Switched::default()));
    assert_eq!(held(&lake).await, [1, 11, 21, 41, 51, 80, 100, 110, 120]);
    // Records that will come again are not there twice.
    assert_eq!(switch(&table, &set([19, 20]), &[20]).await, None);
    let table = lake.open(PUBLIC, "cars").await.unwrap().unwrap();
    assert_eq!(RecordSet::of(&table).await.unwrap().len(), 9);
    assert_eq!(table.positions_of("cars"), Positions::from([(place(), 20)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rows_are_exact_whatever_happens_beside_a_switch() {
    futures::future::join_all((0..24).map(race)).await;
}

async fn race(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let moody = Arc::new(Moody::default());
    let lake = Lake::new(stores(moody.clone()));
    let mut table = create(&lake).await;
    let dead: Vec<i64> = (0..60).filter(|_| rng.random_bool(0.1)).collect();
    for start in (0..60).step_by(10) {
        let alive: Vec<i64> = (start..start + 10).filter(|offset| !dead.contains(offset)).collect();
        append(&mut table, (start, start + 10), &alive).await;
    }
    let read: Vec<i64> = (0..60).filter(|_| rng.random_bool(0.7)).collect();
    let new: Vec<i64> = read.iter().copied().filter(|_| rng.random_bool(0.9)).collect();
    let (mut feeding, mut retrying, mut merging) = (table.clone(), table.clone(), table.clone());
    let feed = task::spawn("feed", async move {
        for start in (60..120).step_by(10) {
            append(&mut feeding, (start, start + 10), &(start..start + 10).collect::<Vec<_>>()).await;
        }
    });
    let letters = dead.clone();
    let retries = task::spawn("retry", async move {
        for some in letters.chunks(2) {
            retry(&mut retrying, rows(some, 2), 1, &Shutdown::new()).await.unwrap();
        }
    });
    let merges = task::spawn("merge", async move {
        let memory: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        for _ in 0..6 {
            merging.refresh().await.unwrap();
            let files = data_files(&merging.snapshot().unwrap());
            for group in plan(&files, chrono::Utc::now(), Need::Any) {
                let stop = Shutdown::new();
                merge(&mut merging, &group, &Layout::default(), &memory, Pace::Full, &stop).await.unwrap();
            }
        }
    });
    if rng.random_bool(0.3) {
        // Whose commit it is that meets it is left to chance.
        moody.lose_next_answer.store(true, Ordering::SeqCst);
    }
    let switched = switch(&table, &set(read.iter().copied()), &new).await;
    for task in [feed, retries, merges] {
        task.await.unwrap();
    }
    assert!(switched.is_some(), "seed {seed}");
    let value = |offset: i64| {
        let version = match (read.contains(&offset), new.contains(&offset), dead.contains(&offset)) {
            (true, true, _) => 1,
            (true, false, _) => return None,
            (false, _, true) => 2,
            (false, _, false) => 0,
        };
        Some(offset * 10 + version)
    };
    let mut expected: Vec<i64> = (0..120).filter_map(value).collect();
    let mut found = held(&lake).await;
    // Of records that are left out now and were dead before, it depends on who was first.
    let unsure = |value: &i64| {
        let offset = value / 10;
        !(dead.contains(&offset) && read.contains(&offset) && !new.contains(&offset))
    };
    expected.retain(unsure);
    found.retain(unsure);
    assert_eq!(found, expected, "seed {seed}");
}
