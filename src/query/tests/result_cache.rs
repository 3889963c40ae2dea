//! Results that are kept are those that the query would give now.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::error::Kind;
use crate::lake::{HotBatch, LiveView, Positions, TopicPartition, View};
use crate::latest::ReferenceRows;
use crate::task::Budget;

/// A table of which rows come, and one of a row per key that is replaced.
struct Changing {
    telemetry: LiveView,
    cars: Arc<ReferenceRows>,
    budget: Budget,
    position: AtomicI64,
}

impl Changing {
    fn new() -> Arc<Self> {
        let view = View {
            table: "telemetry".into(),
            schema: telemetry(0..0).schema(),
            schema_version: 1,
            committed: None,
            positions: Positions::default(),
            hot: Vec::new(),
            retries: 0,
            remade: 0,
        };
        let changing = Arc::new(Self {
            telemetry: LiveView::new(view),
            cars: Arc::new(ReferenceRows::new("cars", &["car_id".to_owned()])),
            budget: Budget::new(1 << 20),
            position: AtomicI64::new(0),
        });
        changing.arrive();
        changing.replace(0);
        changing
    }

    fn arrive(&self) {
        let start = self.position.fetch_add(1, Ordering::Relaxed);
        self.telemetry.push(Arc::new(HotBatch {
            lane: TopicPartition { topic: "fleet".into(), incarnation: 1, partition: 0 },
            start,
            end: start + 1,
            rows: telemetry(start..start + 1),
            dead: None,
            beside: Vec::new(),
            charge: self.budget.charge(1),
            received_at: Instant::now(),
        }));
    }

    fn replace(&self, number: i64) {
        let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
        let plates: ArrayRef = Arc::new(Int64Array::from(vec![number, number + 1]));
        self.cars.replace(RecordBatch::try_from_iter([("car_id", ids), ("plate", plates)]).unwrap()).unwrap();
    }
}

impl Catalog for Changing {
    fn pin(&self) -> Pinned {
        let telemetry: Arc<dyn TableProvider> = Arc::new(ViewTable::new(&self.telemetry.pin()));
        let cars: Arc<dyn TableProvider> = Arc::new(KeyedTable::new(Arc::clone(&self.cars) as _));
        let public = BTreeMap::from([("telemetry".to_owned(), telemetry), ("cars".to_owned(), cars)]);
        let view = "SELECT car_id, count(*) AS n FROM telemetry GROUP BY car_id".to_owned();
        Pinned {
            schemas: BTreeMap::from([(PUBLIC.to_owned(), public), (SYSTEM.to_owned(), BTreeMap::new())]),
            views: BTreeMap::from([("per_car".to_owned(), view)]),
            ..Pinned::default()
        }
    }
}

const QUERIES: [&str; 7] = [
    "SELECT car_id, count(*), max(_offset) FROM telemetry GROUP BY car_id ORDER BY car_id",
    "SELECT car_id, count(*), max(_offset) FROM telemetry WHERE gear > 1 GROUP BY car_id ORDER BY car_id",
    "SELECT plate FROM cars WHERE car_id = 'a'",
    "SELECT c.plate, n FROM per_car p JOIN cars c ON c.car_id = p.car_id ORDER BY c.car_id",
    "SELECT count(*) FROM telemetry WHERE car_id IN (SELECT car_id FROM cars WHERE plate > 2)",
    "SELECT max(CAST(event_time AS varchar)) FROM telemetry",
    "SELECT speed FROM telemetry WHERE car_id = '1'",
];

fn role(filter: &str) -> Arc<Role> {
    let options = RoleOptions {
        name: "analyst".into(),
        tables: vec!["*".into()],
        filter: BTreeMap::from([("telemetry".into(), filter.into())]),
        ..RoleOptions::default()
    };
    Arc::new(Role::new(options).unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Arrive,
    Replace(i64),
    Ask { query: usize, reader: usize, berlin: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Arrive),
        1 => (0..5_i64).prop_map(Step::Replace),
        6 => (0..QUERIES.len(), 0..3_usize, any::<bool>())
            .prop_map(|(query, reader, berlin)| Step::Ask { query, reader, berlin }),
    ]
}

/// The answers, and how many of them were known.
async fn asked(steps: &[Step]) -> u64 {
    let changing = Changing::new();
    let service = Service::new(Arc::clone(&changing) as _, ServiceOptions::default()).unwrap();
    let readers = [None, Some(role("car_id = 'a'")), Some(role("car_id = 'b'"))];
    for step in steps {
        match step {
            Step::Arrive => changing.arrive(),
            Step::Replace(number) => changing.replace(*number),
            Step::Ask { query, reader, berlin } => {
                let mut answers = Vec::new();
                for cache in ["on", "off"] {
                    let mut session = service.session().of("ann", "test");
                    if let Some(role) = &readers[*reader] {
                        session = session.in_role(Arc::clone(role));
                    }
                    session.set("result_cache", cache).unwrap();
                    session.set("timezone", if *berlin { "Europe/Berlin" } else { "UTC" }).unwrap();
                    answers.push(rows(&session, QUERIES[*query]).await.unwrap());
                }
                assert_eq!(answers[0], answers[1], "{step:?}");
            }
        }
    }
    service.stats().cache_hits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_result_that_is_kept_is_never_stale(steps in prop::collection::vec(step(), 1..60)) {
        tokio::runtime::Runtime::new().unwrap().block_on(asked(&steps));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_known_until_a_table_changes() {
    let ask = |query| Step::Ask { query, reader: 0, berlin: false };
    assert_eq!(asked(&[ask(0), ask(0), ask(3), ask(3), ask(0)]).await, 3);
    assert_eq!(asked(&[ask(0), Step::Arrive, ask(0), Step::Replace(3), ask(0), ask(2)]).await, 1);
    let (one, other) =
        (Step::Ask { query: 0, reader: 1, berlin: false }, Step::Ask { query: 0, reader: 2, berlin: false });
    assert_eq!(asked(&[one.clone(), other.clone(), ask(0), one, other]).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_depends_on_time_or_chance_or_the_platform_is_not_kept() {
    let service = Service::new(Changing::new() as _, ServiceOptions::default()).unwrap();
    let session = service.session().of("ann", "test");
    for sql in [
        "SELECT count(*) FROM telemetry WHERE event_time < now()",
        "SELECT random() FROM telemetry",
        "SELECT count(*) FROM telemetry, generate_series(1, 3)",
        "SELECT count(*) FROM telemetry WHERE (SELECT now()) IS NOT NULL",
        "SELECT count(*) FROM telemetry, system.running_queries",
        "EXPLAIN ANALYZE SELECT count(*) FROM telemetry",
        "EXPLAIN SELECT count(*) FROM telemetry",
    ] {
        rows(&session, sql).await.unwrap();
        rows(&session, sql).await.unwrap();
    }
    // A role that sees what is of today sees less tomorrow. The rows are of 2026-01-01 and later.
    for (filter, seen) in [
        ("event_time < now()", "1"),
        ("event_time > now()", "0"),
        ("event_time > current_date - interval '1 day'", "0"),
    ] {
        let session = service.session().of("ann", "test").in_role(role(filter));
        for _ in 0..2 {
            let count = rows(&session, "SELECT count(*) FROM telemetry").await.unwrap();
            assert_eq!(count.trim_matches(['|', '\n']), seen, "{filter}");
        }
    }
    let stats = service.stats();
    assert_eq!((stats.cache_hits, stats.cache_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn results_take_their_part_of_the_memory_and_no_more() {
    let changing = Changing::new();
    (0..400).for_each(|_| changing.arrive());
    let options = ServiceOptions { memory_bytes: 8 << 20, ..ServiceOptions::default() };
    let service = Service::new(changing as _, options).unwrap();
    let session = service.session().of("ann", "test");
    for limit in 0..400 {
        rows(&session, &format!("SELECT gear, event_time FROM telemetry ORDER BY gear LIMIT {limit}")).await.unwrap();
    }
    let before = service.stats();
    assert!(before.cache_bytes > 1 << 18 && before.cache_bytes <= 1 << 19, "{before:?}");
    rows(&session, "SELECT gear, event_time FROM telemetry ORDER BY gear LIMIT 399").await.unwrap();
    rows(&session, "SELECT gear, event_time FROM telemetry ORDER BY gear LIMIT 1").await.unwrap();
    assert_eq!(service.stats().cache_hits, before.cache_hits + 1, "the oldest go first");
    // A whole result that is larger than its part is not kept.
    let all = "SELECT a.gear, b.event_time FROM telemetry a, telemetry b";
    rows(&session, all).await.unwrap();
    rows(&session, all).await.unwrap();
    assert_eq!(service.stats().cache_hits, before.cache_hits + 1);
}

/// One place for all: whoever leaves rows lying does not keep it.
#[tokio::test(flavor = "multi_thread")]
async fn statements_wait_for_their_turn_and_an_idle_client_holds_nobody_up() {
    let options = ServiceOptions { queries: 1, ..ServiceOptions::default() };
    let service = Service::new(Changing::new() as _, options).unwrap();
    let session = service.session().of("ann", "test");
    let endless = "SELECT value FROM generate_series(1, 100000000000)";
    let mut idle = session.query(endless).await.unwrap().run().await.unwrap();
    assert!(idle.next().await.unwrap().is_ok());
    assert_eq!(rows(&session, QUERIES[2]).await.unwrap(), "|0|");

    let busy =
        session.query("SELECT count(*) FROM generate_series(1, 100000000000)").await.unwrap().run().await.unwrap();
    let waiting = service.session().of("bob", "test");
    waiting.set("statement_timeout", "300ms").unwrap();
    let error = rows(&waiting, QUERIES[0]).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Deadline, "{error}");
    // What reads no table need not wait, and shows who does.
    let bob = service.session().of("bob", "test");
    let mut slow = tokio::task::JoinSet::new();
    slow.spawn(async move { rows(&bob, QUERIES[1]).await.unwrap() });
    let states = "SELECT state FROM system.running_queries WHERE user_name = 'bob'";
    let deadline = Instant::now() + Duration::from_secs(10);
    while rows(&session, states).await.unwrap() != "|waiting|" {
        assert!(Instant::now() < deadline, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(rows(&session, "SELECT 1").await.unwrap(), "|1|");
    assert_eq!(service.stats().waiting, 1);
    drop(busy);
    assert_eq!(slow.join_all().await.len(), 1);
    assert!(idle.next().await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_bounds_memory_and_the_size_of_results() {
    let service = Service::new(Changing::new() as _, ServiceOptions::default()).unwrap();
    let limited = |options: RoleOptions| {
        let options = RoleOptions { tables: vec!["*".into()], ..options };
        service.session().of("ann", "test").in_role(Arc::new(Role::new(options).unwrap()))
    };
    let distinct = "SELECT count(DISTINCT value % 3000000) FROM generate_series(1, 3000000)";
    let small = limited(RoleOptions { memory_bytes: Some(1 << 20), ..RoleOptions::default() });
    let error = rows(&small, distinct).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted, "{error}");
    assert!(error.to_string().contains("of the 1048576 it may have"), "{error}");
    assert_eq!(rows(&service.session().of("bob", "test"), distinct).await.unwrap(), "|3000000|");

    let series = "SELECT value FROM generate_series(1, 10000)";
    for (options, expected) in [
        (RoleOptions { result_rows: Some(9_999), ..RoleOptions::default() }, "more than the 9999 rows"),
        (RoleOptions { result_bytes: Some(79_999), ..RoleOptions::default() }, "more than the 79999 bytes"),
    ] {
        let error = rows(&limited(options), series).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let enough = RoleOptions { result_rows: Some(10_000), result_bytes: Some(80_000), ..RoleOptions::default() };
    rows(&limited(enough), series).await.unwrap();
}
