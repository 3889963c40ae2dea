use std::time::SystemTime;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::source::PartitionStatus;

fn live(table: &str, schema: SchemaRef) -> Arc<LiveView> {
    let view = View {
        table: table.into(),
        schema,
        schema_version: 0,
        committed: None,
        positions: BTreeMap::new(),
        hot: Vec::new(),
        retries: 0,
        remade: 0,
    };
    Arc::new(LiveView::new(view))
}

fn reader(state: ReaderState, error: Option<&str>, partitions: &[(i32, i64, i64)]) -> ReaderStatus {
    let partition = |&(partition, start, high): &(i32, i64, i64)| {
        let status = PartitionStatus { start, position: high, high_watermark: Some(high), ..Default::default() };
        (partition, status)
    };
    ReaderStatus {
        state,
        since: SystemTime::now(),
        error: error.map(str::to_owned),
        partitions: partitions.iter().map(partition).collect(),
    }
}

#[test]
fn each_table_has_the_state_of_the_reader_that_reads_for_it() {
    let own = |state, error| Some(reader(state, error, &[(0, 2, 9)]));
    let cars = TopicStatus {
        shared: reader(ReaderState::Reading, None, &[(0, 7, 9), (1, 0, 0)]),
        consumers: BTreeMap::from([
            ("fresh".to_owned(), None),
            ("late".to_owned(), own(ReaderState::CatchingUp, None)),
            ("lost".to_owned(), own(ReaderState::Stopped, Some("position 2 is gone"))),
        ]),
    };
    let trips = TopicStatus {
        shared: reader(ReaderState::WaitingForTopic, Some("no such topic"), &[]),
        consumers: BTreeMap::from([("late".to_owned(), None)]),
    };
    let topics = [("cars", cars), ("trips", trips)];
    let tables = ["fresh", "late", "lost", "unread"].map(|name| (name.to_owned(), live(name, schema(&[])))).into();
    let catalog = EngineCatalog {
        waiting: RwLock::new(Some("kafka is away".to_owned())),
        readers: RwLock::new(
            topics.map(|(topic, status)| (topic.to_owned(), (0, Arc::new(move || status.clone()) as _))).into(),
        ),
        ..EngineCatalog::of(Fed { tables, ..Fed::default() })
    };
    let rows = ingest(&catalog).unwrap();
    let text = |column: &str, row| {
        let column = rows[column].as_string::<i32>();
        if column.is_valid(row) { column.value(row) } else { "" }
    };
    let number = |column: &str, row| {
        let column = rows[column].as_primitive::<Int64Type>();
        column.is_valid(row).then(|| column.value(row))
    };
    let found: Vec<_> = (0..rows.num_rows())
        .map(|row| {
            let [table, topic, state, error] = ["table_name", "topic", "state", "error"].map(|c| text(c, row));
            (table, topic, state, error, number("position", row), number("lag", row))
        })
        .collect();
    let expected = [
        ("fresh", "cars", "reading", "", Some(7), Some(2)),
        ("fresh", "cars", "reading", "", Some(0), Some(0)),
        ("late", "trips", "waiting for topic", "no such topic", None, None),
        ("late", "cars", "catching up", "", Some(2), Some(7)),
        ("lost", "cars", "stopped", "position 2 is gone", Some(2), Some(7)),
        ("unread", "", "waiting", "kafka is away", None, None),
    ];
    assert_eq!(found, expected);
    let reasons = catalog.not_ready();
    for reason in ["topic cars, table lost: stopped: position 2 is gone", "topic trips: waiting for topic"] {
        assert!(reasons.iter().any(|said| said.contains(reason)), "{reason}: {reasons:?}");
    }
    assert!(!reasons.iter().any(|said| said.contains("late") || said.contains("fresh")), "{reasons:?}");
}
