//! Sorts of more than a query may hold.

use arrow::array::AsArray;
use datafusion::datasource::MemTable;

use super::*;

const MIB: usize = 1 << 20;
const ROWS: u64 = 400_000;
const BATCH: u64 = 8_192;

/// A text of 128 bytes that nothing else begins like.
fn text(row: u64) -> String {
    let mixed = row.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    format!("{mixed:032x}").repeat(4)
}

/// Some 60 MiB of rows in no order.
fn fixture() -> Arc<Fixture> {
    let batch = |first: u64| {
        let rows = first..(first + BATCH).min(ROWS);
        let texts = StringArray::from_iter_values(rows.clone().map(text));
        let numbers = Int64Array::from_iter_values(rows.map(|row| row as i64));
        RecordBatch::try_from_iter([("s", Arc::new(texts) as ArrayRef), ("n", Arc::new(numbers))]).unwrap()
    };
    let batches: Vec<RecordBatch> = (0..ROWS).step_by(BATCH as usize).map(batch).collect();
    let fixture = Arc::new(Fixture::default());
    let table = MemTable::try_new(batches[0].schema(), vec![batches]).unwrap();
    fixture.pinned.lock().schemas.entry(PUBLIC.into()).or_default().insert("t".into(), Arc::new(table));
    fixture
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sort_of_more_than_a_query_may_hold_goes_by_the_disk() {
    let fixture = fixture();
    let mut failed = Vec::new();
    for (memory_bytes, all_partitions) in
        [(12 * MIB, &[4][..]), (24 * MIB, &[1]), (48 * MIB, &[4]), (96 * MIB, &[1, 2, 4])]
    {
        for &partitions in all_partitions {
            let options = ServiceOptions { memory_bytes, partitions, ..ServiceOptions::default() };
            let service = Service::new(Arc::clone(&fixture) as _, options).unwrap();
            for sql in
                ["SELECT s FROM t ORDER BY s", "SELECT s, n FROM t ORDER BY s DESC, n", "SELECT * FROM t ORDER BY n"]
            {
                let query = service.session().query(sql).await.unwrap();
                let sorted = match query.run().await.unwrap().collect().await {
                    Ok(sorted) => sorted,
                    Err(error) => {
                        failed.push(format!("{} MiB, {partitions} parts, {sql}: {error}", memory_bytes / MIB));
                        continue;
                    }
                };
                let texts: Vec<&str> =
                    sorted.iter().flat_map(|rows| rows["s"].as_string::<i32>().iter().flatten()).collect();
                assert_eq!(texts.len() as u64, ROWS);
                match sql {
                    sql if sql.ends_with("BY n") => assert!((0..ROWS).all(|row| texts[row as usize] == text(row))),
                    sql if sql.contains("DESC") => assert!(texts.is_sorted_by(|one, next| one > next)),
                    _ => assert!(texts.is_sorted_by(|one, next| one < next)),
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sorts_that_follow_each_other_need_the_memory_of_two() {
    let sums: Vec<String> = (2..16).map(|n| format!("sum(n) OVER (PARTITION BY n % {n} ORDER BY s) AS c{n}")).collect();
    let sql = format!("SELECT {} FROM t ORDER BY n", sums.join(", "));
    let unions: Vec<String> =
        (2..9).map(|n| format!("SELECT row_number() OVER (PARTITION BY n % {n} ORDER BY s) FROM few")).collect();
    let fixture = fixture();
    let few = RecordBatch::try_from_iter([
        ("s", Arc::new(StringArray::from_iter_values((0..10).map(text))) as ArrayRef),
        ("n", Arc::new(Int64Array::from_iter_values(0..10))),
    ]);
    fixture.put(PUBLIC, "few", few.unwrap());
    for (memory_bytes, sql, rows) in [
        (12 * MIB, sql.replace("FROM t", "FROM few"), 10),
        (80 * MIB, sql.replace("FROM t", "FROM few"), 10),
        (80 * MIB, unions.join(" UNION ALL "), 70),
        (64 * MIB, sql, ROWS as usize),
    ] {
        let options = ServiceOptions { memory_bytes, partitions: 2, ..ServiceOptions::default() };
        let session = Service::new(Arc::clone(&fixture) as _, options).unwrap().session();
        let found = session.query(&sql).await.unwrap().run().await.unwrap().collect().await;
        let found = found.unwrap_or_else(|error| panic!("{} MiB, {sql}: {error}", memory_bytes / MIB));
        assert_eq!(found.iter().map(RecordBatch::num_rows).sum::<usize>(), rows);
    }
}
