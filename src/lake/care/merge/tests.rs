use std::sync::atomic::Ordering;

use arrow::array::{AsArray, Date32Array, Int64Array};
use arrow::datatypes::Int64Type;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression as Codec, ZstdLevel};

use super::*;
use crate::lake::care::data_files;
use crate::lake::positions::Positions;
use crate::lake::store::testing::{Moody, stores};
use crate::lake::table::parquet_rows;
use crate::lake::{Compression, Lake, Location, PUBLIC, Stores};

fn pool() -> Arc<dyn MemoryPool> {
    Arc::new(UnboundedMemoryPool::default())
}

fn order() -> Layout {
    Layout { key: vec!["car".to_owned()], then: vec!["at".to_owned(), "gone".to_owned()] }
}

fn batch(cars: &[&str], at: &[i64], day: Option<i32>) -> RecordBatch {
    let cars: ArrayRef = Arc::new(StringArray::from(cars.to_vec()));
    let days: ArrayRef = Arc::new(Date32Array::from(vec![day; at.len()]));
    let at: ArrayRef = Arc::new(Int64Array::from(at.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("car", cars, true), ("at", at, true), ("_day", days, true)]).unwrap()
}

async fn create(lake: &Lake) -> Table {
    let schema = batch(&[], &[], None).schema();
    commit::create(lake, PUBLIC, "cars", &schema, &["_day"], 1, &Positions::new()).await.unwrap()
}

async fn append(table: &mut Table, batch: &RecordBatch) {
    let adds = table.stage(std::slice::from_ref(batch), batch.schema_ref()).await.unwrap();
    let start = table.number("test").unwrap_or(0);
    commit::commit_number(table, "test", &adds, start, start + 1, &Shutdown::new()).await.unwrap();
}

/// The rows of the only file.
async fn only_file(table: &Table) -> (DataFile, RecordBatch) {
    let files = data_files(&table.snapshot().unwrap());
    let [file] = &files[..] else { panic!("{files:?}") };
    let path = object_store::path::Path::from(file.path.as_str());
    let rows = parquet_rows(&**table.data(), &path, "cars").await.unwrap().unwrap();
    (file.clone(), concat_batches(rows[0].schema_ref(), &rows).unwrap())
}

#[tokio::test]
async fn rows_are_in_order_in_their_partition_with_the_tables_columns_and_a_bloom_filter() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let (mut table, stop) = (create(&lake).await, Shutdown::new());
    append(&mut table, &batch(&["b", "a", "c"], &[2, 9, 1], Some(7))).await;
    append(&mut table, &batch(&["a", "c", "b"], &[3, 0, 1], Some(7))).await;
    // A column that the files above do not have.
    let mut fields = batch(&[], &[], None).schema().fields().to_vec();
    fields.push(Arc::new(arrow::datatypes::Field::new("note", arrow::datatypes::DataType::Utf8, true)));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    commit::evolve(&mut table, &schema, 2).await.unwrap();

    let files = data_files(&table.snapshot().unwrap());
    assert!(files.iter().all(|file| file.partition == "_day=1970-01-08" && file.rows == 3), "{files:?}");
    let merged = merge(&mut table, &files, &order(), &pool(), Pace::Full, &stop).await.unwrap().unwrap();
    assert_eq!((merged.files, merged.into_files, merged.rows), (2, 1, 6));
    let (file, rows) = only_file(&table).await;
    assert_eq!((file.partition.as_str(), file.rows), ("_day=1970-01-08", 6));
    assert_eq!(rows["car"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "a", "b", "b", "c", "c"]);
    assert_eq!(rows["at"].as_primitive::<Int64Type>().values(), &[3, 9, 1, 2, 0, 1]);
    assert_eq!(rows["note"].null_count(), 6);
    let path = object_store::path::Path::from(file.path.as_str());
    let bytes = table.data().get(&path).await.unwrap().bytes().await.unwrap();
    let footer = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let group = footer.metadata().row_group(0);
    assert!(group.column(0).bloom_filter_offset().is_some() && group.column(1).bloom_filter_offset().is_none());

    // Merged with others it is read in its order, and a file of unsorted rows with it.
    append(&mut table, &batch(&["c", "a"], &[5, 5], Some(7))).await;
    let files = data_files(&table.snapshot().unwrap());
    merge(&mut table, &files, &order(), &pool(), Pace::Full, &stop).await.unwrap().unwrap();
    let (_, rows) = only_file(&table).await;
    assert_eq!(rows["at"].as_primitive::<Int64Type>().values(), &[3, 5, 9, 1, 2, 0, 1, 5]);
}

/// How the columns of all files of `table` are compressed.
async fn codecs(table: &Table) -> Vec<Codec> {
    let mut codecs = Vec::new();
    for file in data_files(&table.snapshot().unwrap()) {
        let path = object_store::path::Path::from(file.path.as_str());
        let bytes = table.data().get(&path).await.unwrap().bytes().await.unwrap();
        let footer = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        codecs.extend(footer.metadata().row_group(0).columns().iter().map(|column| column.compression()));
    }
    codecs
}

#[tokio::test]
async fn files_are_compressed_as_it_suits_the_place_or_as_was_said() {
    let zstd = |level| Codec::ZSTD(ZstdLevel::try_new(level).unwrap());
    let (folder, bucket) =
        (Location::Folder("/in/memory".into()), Location::Bucket { bucket: "fleet".into(), prefix: "lake".into() });
    for (location, said, is_lz4) in [
        (&folder, None, true),
        (&bucket, None, false),
        (&folder, Some(Compression::Zstd), false),
        (&bucket, Some(Compression::Lz4), true),
    ] {
        let stores = Stores::from_store(location.clone(), Arc::new(InMemory::new()));
        let lake = Lake::new(stores).with_compression(said);
        let (mut table, stop) = (create(&lake).await, Shutdown::new());
        append(&mut table, &batch(&["b", "a"], &[1, 2], Some(7))).await;
        append(&mut table, &batch(&["c", "a"], &[3, 4], Some(7))).await;
        // What a file's metadata says of ZSTD has no level.
        let expected = if is_lz4 { Codec::LZ4_RAW } else { zstd(1) };
        assert_eq!(codecs(&table).await, vec![expected; 4], "{location:?} {said:?}");
        let files = data_files(&table.snapshot().unwrap());
        merge(&mut table, &files, &order(), &pool(), Pace::Full, &stop).await.unwrap().unwrap();
        assert_eq!(codecs(&table).await, vec![expected; 2], "{location:?} {said:?}");
        // Opened again, by who says otherwise.
        let other = Lake { compression: if is_lz4 { Compression::Zstd } else { Compression::Lz4 }, ..lake };
        let mut table = other.open(PUBLIC, "cars").await.unwrap().unwrap();
        append(&mut table, &batch(&["d"], &[5], Some(7))).await;
        let found = codecs(&table).await;
        assert!(found.contains(&zstd(1)) && found.contains(&Codec::LZ4_RAW), "{found:?}");
    }
}

#[tokio::test]
async fn rows_without_a_day_stay_without_one_and_a_table_without_order_keeps_that_of_its_files() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let (mut table, stop) = (create(&lake).await, Shutdown::new());
    append(&mut table, &batch(&["b", "a"], &[1, 2], None)).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    append(&mut table, &batch(&["c", "a"], &[3, 4], None)).await;
    let files = data_files(&table.snapshot().unwrap());
    merge(&mut table, &files, &Layout::default(), &pool(), Pace::Full, &stop).await.unwrap().unwrap();
    let (file, rows) = only_file(&table).await;
    assert_eq!(file.partition, "_day=__HIVE_DEFAULT_PARTITION__");
    assert_eq!(rows["at"].as_primitive::<Int64Type>().values(), &[1, 2, 3, 4]);
    assert!(rows.column_by_name("_day").is_none(), "the partition's value is in the log");
}

#[tokio::test]
async fn a_disk_that_is_full_leaves_the_table_as_it_was_until_there_is_room() {
    let moody = Arc::new(Moody::default());
    let lake = Lake::new(stores(moody.clone()));
    let (mut table, stop) = (create(&lake).await, Shutdown::new());
    for at in 0..6 {
        append(&mut table, &batch(&["a", "b"], &[at, at], Some(7))).await;
    }
    let (files, version) = (data_files(&table.snapshot().unwrap()), table.version());
    moody.full.store(true, Ordering::SeqCst);
    let error = merge(&mut table, &files, &order(), &pool(), Pace::Full, &stop).await.unwrap_err();
    assert!(format!("{error:?}").contains("no space left on device"), "{error:?}");
    moody.full.store(false, Ordering::SeqCst);
    table.refresh().await.unwrap();
    assert_eq!((table.version(), data_files(&table.snapshot().unwrap())), (version, files.clone()));
    let merged = merge(&mut table, &files, &order(), &pool(), Pace::Full, &stop).await.unwrap().unwrap();
    assert_eq!((merged.files, merged.rows), (6, 12));
}

#[tokio::test]
async fn numbers_that_are_nothing_in_a_file_are_reckoned_as_what_they_are_in_memory() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let mut table = create(&lake).await;
    let rows = batch(&["a"; 50_000], &(0..50_000).collect::<Vec<_>>(), Some(7));
    append(&mut table, &rows).await;
    let path = object_store::path::Path::from(data_files(&table.snapshot().unwrap())[0].path.as_str());
    let bytes = table.data().get(&path).await.unwrap().bytes().await.unwrap();
    let numbers = rows["at"].get_array_memory_size();
    assert!(bytes.len() < numbers / 3, "{}", bytes.len());
    let file = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    assert!(cost_bytes(file.metadata(), false) >= 2 * numbers);
    assert!(cost_bytes(file.metadata(), true) < numbers);
}

#[tokio::test]
async fn a_merge_takes_as_many_files_as_there_is_memory_for() {
    let lake = Lake::new(stores(Arc::new(InMemory::new())));
    let (mut table, stop) = (create(&lake).await, Shutdown::new());
    for at in 0..6 {
        append(&mut table, &batch(&["a", "b"], &[at, at], Some(7))).await;
    }
    let files = data_files(&table.snapshot().unwrap());
    let none: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(10));
    assert_eq!(merge(&mut table, &files, &order(), &none, Pace::Full, &stop).await.unwrap(), None);
    let some: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(6_000));
    let merged = merge(&mut table, &files, &order(), &some, Pace::Full, &stop).await.unwrap().unwrap();
    assert!((2..6).contains(&merged.files), "{merged:?}");
    assert_eq!(some.reserved(), 0);
    let files = data_files(&table.snapshot().unwrap());
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 12);
    // Files that are gone by now are no reason to do anything.
    let mut gone = files.clone();
    gone[0].path.push('x');
    assert_eq!(merge(&mut table, &gone, &order(), &pool(), Pace::Full, &stop).await.unwrap(), None);
}
