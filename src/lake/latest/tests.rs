use arrow::array::{ArrayRef, Int64Array};
use object_store::memory::InMemory;

use super::*;
use crate::lake::store::testing::stores;

fn lake() -> Lake {
    Lake::new(stores(Arc::new(InMemory::new())))
}

fn rows(ids: &[i64]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap()
}

/// A flush of rows, each in the bucket of its last digit; of all rows, or of the buckets that are named.
fn flush(ids: &[i64], only: Option<&[u32]>) -> Flush {
    let mut buckets: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
    for (row, id) in ids.iter().enumerate() {
        buckets.entry((id % 10) as u32).or_default().push((0, row));
    }
    Flush { rows: vec![rows(ids)], buckets, only: only.map(|only| only.iter().copied().collect()) }
}

fn manifest() -> Manifest<String> {
    let written_at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
    Manifest { flush: 0, id: String::new(), declared: "so".to_owned(), buckets: 10, written_at, sources: vec![] }
}

/// Flushes to the table as it is.
async fn write(
    files: &mut LatestFiles,
    flush: Flush,
    manifest: &mut Manifest<String>,
    stop: &Shutdown,
) -> Result<u64, CommitError> {
    let present = files.present(&flush.rows[0].schema(), stop).await?;
    files.flush(present, flush, manifest, stop).await
}

async fn held(files: &LatestFiles) -> Vec<i64> {
    let table = files.table().unwrap();
    let mut held = Vec::new();
    for file in table.snapshot().unwrap().log_data().iter() {
        let rows = parquet_rows(&**table.data(), &file.object_store_path(), "cars").await.unwrap().unwrap();
        for batch in rows {
            held.extend(batch["id"].as_any().downcast_ref::<Int64Array>().unwrap().values());
        }
    }
    held.sort_unstable();
    held
}

#[tokio::test]
async fn buckets_are_replaced_and_the_manifest_is_found_again() {
    let (lake, stop) = (lake(), Shutdown::new());
    let mut files = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    assert!(files.table().is_none());
    write(&mut files, flush(&[1, 2, 11, 12, 3], None), &mut manifest(), &stop).await.unwrap();
    let mut second = manifest();
    write(&mut files, flush(&[21, 31], Some(&[1, 5])), &mut second, &stop).await.unwrap();
    assert_eq!(held(&files).await, [2, 3, 12, 21, 31]);
    assert_eq!(second.flush, 2);
    let again = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    assert_eq!(again.manifest().await.unwrap(), Some(second));
    // Nothing changed but what is known beside the rows.
    write(&mut files, flush(&[], Some(&[])), &mut manifest(), &stop).await.unwrap();
    assert_eq!(held(&files).await, [2, 3, 12, 21, 31]);
}

#[tokio::test]
async fn a_number_that_a_crash_has_left_behind_is_not_taken_again() {
    let (lake, stop) = (lake(), Shutdown::new());
    let mut files = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    write(&mut files, flush(&[1], None), &mut manifest(), &stop).await.unwrap();
    let mut orphan = Manifest { flush: 2, declared: "of a process that was killed".to_owned(), ..manifest() };
    files.write_manifest(&mut orphan, &stop).await.unwrap();
    let mut files = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    assert_eq!(files.manifest::<String>().await.unwrap().map(|manifest| manifest.flush), Some(1));
    let mut next = manifest();
    write(&mut files, flush(&[5], None), &mut next, &stop).await.unwrap();
    assert_eq!((next.flush, held(&files).await), (3, vec![5]));
    assert_eq!(files.manifest().await.unwrap(), Some(next));
}

#[tokio::test]
async fn of_two_who_flush_from_one_snapshot_one_lands_and_the_other_learns_of_it() {
    let (lake, stop) = (lake(), Shutdown::new());
    let mut first = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    write(&mut first, flush(&[1, 2], None), &mut manifest(), &stop).await.unwrap();
    let mut other = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    write(&mut first, flush(&[11], Some(&[1])), &mut manifest(), &stop).await.unwrap();
    // Other buckets: the library alone would let both land.
    let lost = write(&mut other, flush(&[12], Some(&[2])), &mut manifest(), &stop).await;
    assert!(matches!(lost, Err(CommitError::Rival { .. })), "{lost:?}");
    let now = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    assert_eq!(held(&now).await, [2, 11]);
}

#[tokio::test]
async fn columns_that_come_or_go_replace_all_rows() {
    let (lake, stop) = (lake(), Shutdown::new());
    let mut files = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    write(&mut files, flush(&[1, 2], None), &mut manifest(), &stop).await.unwrap();
    assert!(!files.present(&rows(&[]).schema(), &stop).await.unwrap().is_other);
    let names: ArrayRef = Arc::new(arrow::array::StringArray::from(vec!["a"]));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let wider = RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).unwrap();
    assert!(files.present(&wider.schema(), &stop).await.unwrap().is_other);
    let whole = Flush { rows: vec![wider.clone()], buckets: [(7, vec![(0, 0)])].into(), only: None };
    write(&mut files, whole, &mut manifest(), &stop).await.unwrap();
    assert!(!files.present(&wider.schema(), &stop).await.unwrap().is_other);
    assert_eq!(held(&files).await, [7]);
}

#[tokio::test]
async fn sidecars_are_kept_for_two_flushes() {
    let (lake, stop) = (lake(), Shutdown::new());
    let mut files = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    let (mut names, mut before) = (Vec::new(), None);
    for number in 0..4 {
        let mut writer = SidecarWriter::new();
        writer.add(&rows(&[number])).unwrap();
        let sidecar = files.write_sidecar(writer, &stop).await.unwrap();
        names.push(sidecar.clone());
        let source = SourceState {
            table: "t".to_owned(),
            positions: vec![],
            retries: 0,
            remade: 0,
            files: vec![sidecar],
            state: String::new(),
        };
        let mut manifest = Manifest { sources: vec![source], ..manifest() };
        write(&mut files, flush(&[number], None), &mut manifest, &stop).await.unwrap();
        files.tidy(&manifest, before.as_ref()).await;
        before = Some(manifest);
    }
    let mut there = Vec::new();
    for name in &names {
        there.push(files.sidecars().read(name).await.unwrap().is_some());
    }
    assert_eq!(there, [false, false, true, true]);

    // One that a failed flush has left behind, and those of the last flush but one when the process begins anew.
    let mut writer = SidecarWriter::new();
    writer.add(&rows(&[9])).unwrap();
    let lost = files.write_sidecar(writer, &stop).await.unwrap();
    let mut files = LatestFiles::open(&lake, "cars", FLUSH).await.unwrap();
    let mut newest = files.manifest::<String>().await.unwrap().unwrap();
    files.find_leftovers(Some(&newest)).await.unwrap();
    let before = newest.clone();
    write(&mut files, flush(&[5], None), &mut newest, &stop).await.unwrap();
    files.tidy(&newest, Some(&before)).await;
    let mut there = Vec::new();
    for sidecar in names[2..].iter().chain([&lost]) {
        there.push(files.sidecars().read(sidecar).await.unwrap().is_some());
    }
    assert_eq!(there, [false, true, false]);
}
