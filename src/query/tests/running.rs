//! Deadlines, cancelling, memory, and the size of messages.

use std::time::{Duration, Instant};

use arrow::array::{Array, BinaryArray, ListArray};
use arrow::datatypes::Float64Type;
use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::error::Kind;
use crate::query::{Role, RoleOptions};

const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 100000000) b";

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_ends_at_its_time_out() {
    let session = service(&Fixture::fleet()).session();
    session.set("statement_timeout", "200ms").unwrap();
    let started = Instant::now();
    let error = rows(&session, ENDLESS).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline, "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));

    // Also when the client does not ask for the next row: the deadline covers the whole stream.
    let endless_rows = "SELECT value FROM generate_series(1, 100000000000)";
    let mut stream = session.query(endless_rows).await.unwrap().run().await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let last = stream.collect().await.unwrap_err();
    assert_eq!(last.kind(), Kind::Deadline, "{last}");
}

/// A join of one batch with itself a million times over: DataFusion alone would not give its thread back.
#[tokio::test]
async fn heavy_joins_hold_up_neither_others_nor_their_own_deadline() {
    let session = service(&Fixture::fleet()).session();
    session.set("statement_timeout", "700ms").unwrap();
    let heavy = "SELECT count(*) FROM generate_series(1, 5000000) a, generate_series(1, 5000000) b WHERE a.value % 7 <> b.value % 5";
    let plain = "SELECT count(*) FROM generate_series(1, 5000000) a, generate_series(1, 5000000) b";
    let started = Instant::now();
    let mut running = Vec::new();
    for sql in [heavy, plain, heavy] {
        running.push(session.query(sql).await.unwrap().run().await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_millis(1_500), "this thread was held up: {:?}", started.elapsed());
    assert_eq!(rows(&session, "SELECT 1").await.unwrap(), "|1|");
    for rows in running {
        assert_eq!(rows.collect().await.unwrap_err().kind(), Kind::Deadline);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_rows_ends_the_query_and_frees_its_memory() {
    let service = service(&Fixture::fleet());
    let sort = "SELECT value FROM generate_series(1, 100000000) ORDER BY value % 1000 DESC, value";
    let rows = service.session().query(sort).await.unwrap().run().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while service.stats().memory_bytes == 0 {
        assert!(Instant::now() < deadline, "the sort never reserved memory");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(rows);
    while service.stats().memory_bytes > 0 {
        assert!(Instant::now() < deadline, "{} bytes are still held", service.stats().memory_bytes);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded() {
    let options = ServiceOptions { memory_bytes: 1 << 20, spill_bytes: 0, ..ServiceOptions::default() };
    let session = Service::new(Fixture::fleet() as _, options).unwrap().session();
    let sql = "SELECT count(DISTINCT value % 5000000) FROM generate_series(1, 5000000)";
    let error = rows(&session, sql).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    assert!(error.to_string().contains("used up"), "{error}");
    assert_eq!(rows(&session, "SELECT 1").await.unwrap(), "|1|");
}

/// One query leaves others room on the disk, and its role may leave it less.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_query_writes_to_the_disk_is_bounded() {
    let options = ServiceOptions { memory_bytes: 32 << 20, partitions: 1, ..ServiceOptions::default() };
    let sorted = "SELECT max(n), max(m) > 'a' FROM (SELECT m, row_number() OVER (ORDER BY m) AS n FROM \
                  (SELECT md5(value::text) AS m FROM generate_series(1, 1000000)))";
    let service = |spill_bytes| Service::new(Fixture::fleet() as _, ServiceOptions { spill_bytes, ..options.clone() });
    let session = service(1 << 30).unwrap().session();
    assert_eq!(rows(&session, sorted).await.unwrap(), "|1000000|true|");
    // Half of two megabytes is too little, of which nobody else uses anything.
    let error = rows(&service(2 << 20).unwrap().session(), sorted).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (Kind::Exhausted, "the disk space of one query is used up"));
    let role = RoleOptions {
        name: "small".into(),
        tables: vec!["*".into()],
        spill_bytes: Some(1 << 20),
        ..RoleOptions::default()
    };
    let session = service(1 << 30).unwrap().session().in_role(Arc::new(Role::new(role).unwrap()));
    for _ in 0..2 {
        let error = rows(&session, sorted).await.unwrap_err();
        assert_eq!(error.message(), "the disk space of one query is used up");
        assert_eq!(rows(&session, "SELECT count(*) FROM generate_series(1, 500000)").await.unwrap(), "|500000|");
    }
}

proptest! {
    /// Whatever the rows hold: nothing is lost, the order stays, and only a single row may be larger than the limit.
    #[test]
    fn messages_are_cut_to_size(
        rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), prop::collection::vec(any::<f64>(), 0..40)), 0..60),
        limit in 1_usize..4_000,
        (skip, keep) in (0_usize..30, 0_usize..60),
    ) {
        let bytes = BinaryArray::from_iter_values(rows.iter().map(|(bytes, _)| bytes));
        let lists = ListArray::from_iter_primitive::<Float64Type, _, _>(
            rows.iter().map(|(_, list)| Some(list.iter().copied().map(Some).collect::<Vec<_>>())));
        let batch = RecordBatch::try_from_iter([("b", Arc::new(bytes) as ArrayRef), ("l", Arc::new(lists) as ArrayRef)]).unwrap();
        let skip = skip.min(rows.len());
        let batch = batch.slice(skip, keep.min(rows.len() - skip));
        let parts = wire::split(batch.clone(), limit);
        prop_assert_eq!(arrow::compute::concat_batches(&batch.schema(), &parts).unwrap(), batch.clone());
        let size = |part: &RecordBatch| (0..part.num_rows()).map(|row| {
            let at = |column: &ArrayRef| match column.as_any().downcast_ref::<ListArray>() {
                Some(list) => list.value(row).len() * 8 + 4,
                None => column.as_any().downcast_ref::<BinaryArray>().unwrap().value(row).len() + 4,
            };
            part.columns().iter().map(at).sum::<usize>()
        }).sum::<usize>();
        for part in &parts {
            prop_assert!(part.num_rows() <= 1 || size(part) <= limit + 16, "{} bytes, limit {limit}", size(part));
        }
        // Not cut into crumbs either.
        prop_assert!(parts.len() == 1 || size(&batch) + 64 > limit, "{} parts of {} bytes", parts.len(), size(&batch));
    }
}
