//! Against a model that applies changes one by one, however they are shuffled, repeated and cut.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{
    LatestError, LatestTable, Merged, Order, Part, Relation, Rows as _, Shape, Sidecars, Wanted,
    keyed::{Keyed, Scan},
    shape::Source,
};
use crate::schema::{change, fixed};

/// A change as a database made it.
#[derive(Debug, Clone)]
enum Change {
    Row { key: i64, a: Option<String>, b: Option<i64>, b_told: bool },
    Delete { key: i64 },
    Move { old: i64, key: i64, a: Option<String> },
    Truncate,
}

/// A change with its places.
#[derive(Debug, Clone)]
struct Sent {
    change: Change,
    run: Option<&'static str>,
    snapshot: Option<&'static str>,
    epoch: &'static str,
    position: u64,
    partition: i32,
    offset: i64,
}

fn shape(columns: &[(&str, DataType)]) -> Shape {
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
    Shape {
        columns: Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>())),
        key: vec!["id".to_owned()],
        foreign: vec![],
        source: Source::Changes { old_key: vec!["before_id".to_owned()], ignores_deletes: false },
        fields: columns.iter().map(|(name, _)| Some((*name).to_owned())).collect(),
    }
}

fn plain() -> Shape {
    shape(&[("id", DataType::Int64), ("a", DataType::Utf8), ("b", DataType::Int64)])
}

fn empty() -> Keyed {
    Keyed::new(plain()).unwrap()
}

/// Changes as rows of a table of changes.
fn batch(changes: &[Sent]) -> RecordBatch {
    let mut unchanged = ListBuilder::new(StringBuilder::new());
    for sent in changes {
        let told = !matches!(sent.change, Change::Row { b_told: false, .. });
        if !told {
            unchanged.values().append_value("b");
        }
        unchanged.append(!told);
    }
    let op = |sent: &Sent| match &sent.change {
        Change::Row { .. } if sent.snapshot.is_some() => "r",
        Change::Row { .. } | Change::Move { .. } => "u",
        Change::Delete { .. } => "d",
        Change::Truncate => "t",
    };
    let key = |sent: &Sent| match &sent.change {
        Change::Row { key, .. } | Change::Delete { key } | Change::Move { key, .. } => Some(*key),
        Change::Truncate => None,
    };
    let old = |sent: &Sent| if let Change::Move { old, .. } = &sent.change { Some(*old) } else { None };
    let a = |sent: &Sent| match &sent.change {
        Change::Row { a, .. } | Change::Move { a, .. } => a.clone(),
        _ => None,
    };
    let b = |sent: &Sent| if let Change::Row { b, b_told: true, .. } = &sent.change { *b } else { None };
    let text = |texts: Vec<Option<String>>| Arc::new(StringArray::from(texts)) as ArrayRef;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(changes.iter().map(key).collect::<Int64Array>())),
        ("a", text(changes.iter().map(a).collect())),
        ("b", Arc::new(changes.iter().map(b).collect::<Int64Array>())),
        ("before_id", Arc::new(changes.iter().map(old).collect::<Int64Array>())),
        (fixed::INCARNATION, Arc::new(Int32Array::from(vec![0; changes.len()]))),
        (fixed::PARTITION, Arc::new(changes.iter().map(|sent| sent.partition).collect::<Int32Array>())),
        (fixed::OFFSET, Arc::new(changes.iter().map(|sent| sent.offset).collect::<Int64Array>())),
        (fixed::ROW, Arc::new(Int32Array::from(vec![0; changes.len()]))),
        (change::OP, text(changes.iter().map(|sent| Some(op(sent).to_owned())).collect())),
        (change::RUN, text(changes.iter().map(|sent| sent.run.map(str::to_owned)).collect())),
        (change::EPOCH, text(changes.iter().map(|sent| Some(sent.epoch.to_owned())).collect())),
        (change::TOKEN, text(changes.iter().map(|sent| Some(format!("{:016x}", sent.position))).collect())),
        (change::UNCHANGED, Arc::new(unchanged.finish())),
        (change::SNAPSHOT, text(changes.iter().map(|sent| sent.snapshot.map(str::to_owned)).collect())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

type Rows = BTreeMap<i64, (Option<String>, Option<i64>)>;

/// What a database holds after these changes.
fn model(changes: &[Sent]) -> Rows {
    let mut rows = Rows::new();
    for sent in changes {
        match &sent.change {
            Change::Row { key, a, b, b_told } => {
                let kept = rows.get(key).and_then(|row| row.1);
                rows.insert(*key, (a.clone(), if *b_told { *b } else { kept }));
            }
            Change::Delete { key } => drop(rows.remove(key)),
            Change::Move { old, key, a } => {
                rows.remove(old);
                rows.insert(*key, (a.clone(), None));
            }
            Change::Truncate => rows.clear(),
        }
    }
    rows
}

fn rows_of(batches: &[RecordBatch]) -> Rows {
    let mut rows = Rows::new();
    for batch in batches {
        let (ids, a, b) = (
            batch["id"].as_primitive::<Int64Type>(),
            batch["a"].as_string::<i32>(),
            batch["b"].as_primitive::<Int64Type>(),
        );
        for row in 0..batch.num_rows() {
            let a = a.is_valid(row).then(|| a.value(row).to_owned());
            let before = rows.insert(ids.value(row), (a, b.is_valid(row).then(|| b.value(row))));
            assert_eq!(before, None, "two rows of key {}", ids.value(row));
        }
    }
    rows
}

fn any_change() -> impl Strategy<Value = Change> {
    let key = 0..6_i64;
    prop_oneof![
        6 => (key.clone(), any::<Option<u8>>(), any::<Option<i64>>(), prop::bool::weighted(0.8)).prop_map(|(key, a, b, b_told)| {
            Change::Row { key, a: a.map(|a| a.to_string()), b, b_told }
        }),
        2 => key.clone().prop_map(|key| Change::Delete { key }),
        1 => (key.clone(), key, any::<Option<u8>>())
            .prop_filter("another key", |(old, key, _)| old != key)
            .prop_map(|(old, key, a)| Change::Move { old, key, a: a.map(|a| a.to_string()) }),
        1 => Just(Change::Truncate),
    ]
}

/// A database's history, and its changes in the order they arrive: shuffled over partitions, some more than once.
fn any_history() -> impl Strategy<Value = (Vec<Sent>, Vec<Sent>)> {
    let changes = prop::collection::vec((any_change(), 0..3_i32), 1..40);
    (changes, prop::collection::vec((any::<Index>(), any::<Index>()), 0..60), any::<Index>()).prop_map(
        |(changes, swaps, second_epoch)| {
            let from = second_epoch.index(changes.len());
            let mut history: Vec<Sent> = Vec::new();
            for (at, (change, partition)) in changes.into_iter().enumerate() {
                let (epoch, position) = if at < from { ("one", at as u64) } else { ("two", (at - from) as u64) };
                history.push(Sent { change, run: None, snapshot: None, epoch, position, partition, offset: at as i64 });
            }
            // A database tells only the columns it knows of a row that is there.
            let mut sent: Vec<Sent> = Vec::new();
            for change in history {
                let known = |key: &i64| model(&sent).contains_key(key);
                let change = match change.change {
                    Change::Row { key, a, b, b_told } => {
                        let b_told = b_told || !known(&key);
                        Sent { change: Change::Row { key, a, b, b_told }, ..change }
                    }
                    _ => change,
                };
                sent.push(change);
            }
            let mut arriving = sent.clone();
            for (from, to) in swaps {
                let repeated = sent[from.index(sent.len())].clone();
                let at = to.index(arriving.len() + 1);
                arriving.insert(at, repeated);
                let (a, b) = (from.index(arriving.len()), to.index(arriving.len()));
                arriving.swap(a, b);
            }
            (sent, arriving)
        },
    )
}

/// Epochs are numbered as they are met: the first of each comes first.
fn met() -> Vec<Sent> {
    let change = |epoch| Sent {
        change: Change::Delete { key: 99 },
        run: None,
        snapshot: None,
        epoch,
        position: 0,
        partition: 0,
        offset: 0,
    };
    vec![change("one"), change("two")]
}

/// A state that is written down now and then, and lost.
struct Life {
    keyed: Keyed,
    /// Sidecars, what is known beside them, and how many of the changes are in them.
    written: (Vec<RecordBatch>, Sidecars, usize),
    /// What was taken to be written is lost: the next time all is written.
    whole: bool,
    /// A scan that is under way, and the rows when it began.
    scan: Option<(Scan, Rows)>,
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    Scan,
    BeginScan,
    EndScan,
    Flush,
    FlushThatFails,
    Restart,
}

impl Life {
    fn new() -> Self {
        let written = (Vec::new(), Sidecars::default(), 0);
        let mut life = Self { keyed: empty(), written, whole: false, scan: None };
        life.keyed.apply(&batch(&met())).unwrap();
        life
    }

    /// `done` of the changes are taken in.
    fn turn(&mut self, turn: Turn, arriving: &[Sent], done: usize) {
        match turn {
            Turn::Scan => drop(self.keyed.scan().unwrap()),
            Turn::BeginScan => {
                let keys = Int64Array::from_iter_values(0..6);
                let rows = rows_of(&[self.keyed.get(&[Arc::new(keys)]).unwrap()]);
                self.scan = Some((self.keyed.begin_scan(), rows));
            }
            Turn::EndScan => {
                let Some((scan, rows)) = self.scan.take() else { return };
                let scanned = scan.put_together().unwrap();
                self.keyed.end_scan(&scanned);
                assert_eq!(rows_of(&scanned.rows()), rows, "as of one moment");
            }
            Turn::Flush => {
                let changed = self.keyed.take_changed();
                if self.whole {
                    self.written.0.clear();
                }
                let slots = if self.whole { (0..self.keyed.stats().keys as u32).collect() } else { changed };
                self.written.0.push(self.keyed.written(&slots).unwrap());
                (self.written.1, self.written.2, self.whole) = (self.keyed.sidecars(), done, false);
            }
            Turn::FlushThatFails => {
                self.keyed.take_changed();
                self.whole = true;
            }
            Turn::Restart => {
                // A scan of what was lost may be under way still.
                let Life { written: known, scan, .. } = std::mem::replace(self, Self::new());
                self.scan = scan;
                self.keyed.restore(&known.1);
                // The order does not matter, nor does twice.
                for rows in known.0.iter().rev().chain(known.0.first()) {
                    self.keyed.restore_rows(rows).unwrap();
                }
                self.keyed.apply(&batch(&arriving[known.2.saturating_sub(1)..done])).unwrap();
                self.written = known;
            }
        }
    }
}

fn any_turn() -> impl Strategy<Value = Turn> {
    let scans = prop_oneof![Just(Turn::Scan), Just(Turn::BeginScan), Just(Turn::EndScan)];
    prop_oneof![scans, Just(Turn::Flush), Just(Turn::FlushThatFails), Just(Turn::Restart)]
}

proptest! {
    #[test]
    fn a_state_is_what_the_database_holds_however_changes_arrive(
        (history, arriving) in any_history(),
        turns in prop::collection::vec((any::<Index>(), any_turn()), 0..8),
    ) {
        let mut life = Life::new();
        let mut turns: Vec<(usize, Turn)> =
            turns.into_iter().map(|(at, turn)| (at.index(arriving.len() + 1), turn)).collect();
        turns.sort_by_key(|(at, _)| *at);
        let mut from = 0;
        for (at, turn) in turns {
            life.keyed.apply(&batch(&arriving[from..at])).unwrap();
            life.turn(turn, &arriving, at);
            from = at;
        }
        life.keyed.apply(&batch(&arriving[from..])).unwrap();
        life.turn(Turn::EndScan, &arriving, arriving.len());
        let mut keyed = life.keyed;
        let expected = model(&history);
        prop_assert_eq!(keyed.stats().rows, expected.len());
        for key in 0..6 {
            let found = keyed.get(&[Arc::new(Int64Array::from(vec![key]))]).unwrap();
            let found = rows_of(&[found]);
            prop_assert_eq!(found.get(&key), expected.get(&key));
        }
        prop_assert_eq!(rows_of(&keyed.scan().unwrap()), expected.clone());
        // Put together, nothing but the rows is held.
        prop_assert_eq!(keyed.store_rows(), expected.len());
        prop_assert_eq!(rows_of(&keyed.scan().unwrap()), expected);
    }

    #[test]
    fn an_order_survives_being_written(
        numbers: [u64; 4], epoch: u32, lane: (u32, i32), offset: i64, row: i32
    ) {
        let order = Order { run_ms: numbers[0], epoch, token: [numbers[1], numbers[2], numbers[3]], lane, offset, row };
        prop_assert_eq!(Order::from_bytes(&order.to_bytes()), Some(order));
    }
}

#[test]
fn deletes_that_are_ignored_change_nothing() {
    let columns = [("id", DataType::Int64), ("a", DataType::Utf8), ("b", DataType::Int64)];
    let source = Source::Changes { old_key: vec!["before_id".to_owned()], ignores_deletes: true };
    let mut keyed = Keyed::new(Shape { source, ..shape(&columns) }).unwrap();
    let moved = Sent { change: Change::Move { old: 2, key: 3, a: None }, ..row(2, "", 4) };
    let emptied = Sent { change: Change::Truncate, ..row(0, "", 6) };
    keyed.apply(&batch(&[row(1, "one", 1), row(2, "two", 2), delete(1, 3), moved, emptied])).unwrap();
    assert_eq!(rows_of(&keyed.scan().unwrap()).into_keys().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_complete_snapshot_sweeps_what_it_left_out_and_nothing_else() {
    const SECOND: &str = "01a20599-0000-7f10-b05e-3613dcde0780";
    let mut keyed = empty();
    keyed.apply(&batch(&[row(1, "kept", 1), row(2, "gone meanwhile", 2)])).unwrap();
    let again = |key: i64, a: &str, offset: i64, snapshot: &'static str| Sent {
        run: Some(SECOND),
        snapshot: Some(snapshot),
        position: 50,
        ..row(key, a, offset)
    };
    keyed.apply(&batch(&[again(1, "read again", 3, "first")])).unwrap();
    assert_eq!(keyed.sweeps().count(), 0, "a snapshot that is under way, or was broken off");
    keyed.apply(&batch(&[again(3, "new", 4, "last_in_data_collection")])).unwrap();
    let streamed = Sent { run: Some(SECOND), position: 60, ..row(4, "streamed", 5) };
    keyed.apply(&batch(&[streamed])).unwrap();
    assert_eq!(keyed.stats().rows, 4, "the snapshot's other partitions may have more of it");
    // It is still to be swept after a restart.
    let mut other = empty();
    other.restore(&keyed.sidecars());
    let slots = keyed.take_changed();
    other.restore_rows(&keyed.written(&slots).unwrap()).unwrap();
    for mut keyed in [keyed, other] {
        let ends: Vec<Order> = keyed.sweeps().collect();
        assert_eq!(ends.len(), 1);
        keyed.sweep(ends[0]);
        let rows = rows_of(&keyed.scan().unwrap());
        assert_eq!(rows.keys().copied().collect::<Vec<_>>(), [1, 3, 4]);
        // The same again, late, from another partition: nothing is swept twice, and what is of the snapshot counts.
        keyed.apply(&batch(&[again(3, "new", 4, "last_in_data_collection"), again(5, "late", 6, "true")])).unwrap();
        assert_eq!((keyed.sweeps().count(), keyed.stats().rows), (0, 4));
    }
}

fn row(key: i64, a: &str, offset: i64) -> Sent {
    let change = Change::Row { key, a: Some(a.to_owned()), b: Some(offset), b_told: true };
    Sent { change, run: None, snapshot: None, epoch: "one", position: offset as u64, partition: 0, offset }
}

#[test]
fn dead_rows_are_given_up_before_they_fill_the_memory() {
    // Half of the changes are of one hot key.
    let mut keyed = empty();
    for round in 0..200 {
        let key = |at: i64| if at % 2 == 0 { 0 } else { at };
        let changes: Vec<Sent> = (0..2_000).map(|at| row(key(at), "x", round * 2_000 + at)).collect();
        keyed.apply(&batch(&changes)).unwrap();
        assert!(keyed.store_rows() <= 40_000, "{} rows after round {round}", keyed.store_rows());
    }
    let rows = rows_of(&keyed.scan().unwrap());
    assert_eq!((rows.len(), rows[&0].1, rows[&1].1), (1_001, Some(199 * 2_000 + 1_998), Some(199 * 2_000 + 1)));
}

#[test]
fn rows_that_come_one_by_one_are_put_together() {
    let mut keyed = empty();
    for key in 0..3_000 {
        keyed.apply(&batch(&[row(key, "x", key)])).unwrap();
        assert!(keyed.store_batches() < 1_100, "{} batches after {key}", keyed.store_batches());
    }
    assert_eq!(rows_of(&keyed.scan().unwrap()).len(), 3_000);
}

#[test]
fn a_tombstone_deletes_what_came_before_it_on_its_partition() {
    let mut keyed = empty();
    keyed.apply(&batch(&[row(1, "x", 5), row(2, "y", 6)])).unwrap();
    let tombstone = |key, offset| {
        let sent = Sent {
            change: Change::Delete { key },
            run: None,
            snapshot: None,
            epoch: "",
            position: 0,
            partition: 0,
            offset,
        };
        let rows = batch(&[sent]);
        let null = Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef;
        let schema = rows.schema();
        let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
            let column = match field.name().as_str() {
                change::OP => Arc::new(StringArray::from(vec!["x"])) as ArrayRef,
                change::EPOCH | change::TOKEN => Arc::clone(&null),
                _ => Arc::clone(column),
            };
            (field.name().clone(), column, true)
        });
        RecordBatch::try_from_iter_with_nullable(columns.collect::<Vec<_>>()).unwrap()
    };
    keyed.apply(&tombstone(1, 7)).unwrap();
    keyed.apply(&tombstone(2, 4)).unwrap();
    assert_eq!(rows_of(&keyed.scan().unwrap()).into_keys().collect::<Vec<_>>(), [2]);
    keyed.apply(&batch(&[row(1, "again", 8)])).unwrap();
    assert_eq!(rows_of(&keyed.scan().unwrap())[&1].0.as_deref(), Some("again"));
}

#[test]
fn a_new_column_is_null_in_rows_that_are_there_and_a_wider_one_keeps_its_values() {
    let mut keyed = empty();
    let partial = Sent { change: Change::Row { key: 1, a: None, b: None, b_told: false }, ..row(1, "x", 2) };
    keyed.apply(&batch(&[row(1, "x", 1), partial, row(2, "y", 3)])).unwrap();
    let columns =
        [("id", DataType::Int64), ("new", DataType::Boolean), ("b", DataType::Float64), ("a", DataType::Utf8)];
    let wider = shape(&columns);
    keyed.evolve(wider).unwrap();
    let rows = keyed.scan().unwrap().remove(0);
    assert_eq!(rows["new"].null_count(), 2);
    assert_eq!(rows["b"].as_primitive::<arrow::datatypes::Float64Type>().values(), &[1.0, 3.0]);
    assert_eq!(rows["a"].as_string::<i32>().iter().collect::<Vec<_>>(), [None, Some("y")]);
}

#[test]
fn a_key_of_another_type_begins_anew() {
    let wanted = Wanted::mirror(&["id".to_owned()]);
    let table = part(wanted, &COLUMNS, &[at(&batch(&[row(1, "x", 1)]), 1)], "", "id").table;
    let columns = [("id", DataType::Utf8), ("a", DataType::Utf8), ("b", DataType::Int64)];
    assert!(matches!(table.evolve(shape(&columns)), Err(LatestError::Key)));
    table.begin_anew(shape(&columns)).unwrap();
    assert!(table.is_loading());
    table.apply(&batch(&[row(7, "read again", 2)])).unwrap();
    table.loaded();
    assert_eq!(shown(&table.scan().unwrap()), ["7,read again,2"]);
}

/// A state of rows like those of the tests above, with what it is to be kept of.
fn part(wanted: Wanted, table: &[(&str, DataType)], rows: &[RecordBatch], prefix: &str, key: &str) -> Part {
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
    let mut fields: Vec<Field> = table.iter().map(field).collect();
    fields.push(Field::new(fixed::EVENT_TIME, super::table::micros(), true));
    let relation = if wanted.foreign.is_empty() { Relation::Own } else { Relation::Newest };
    let shape = Shape::of(&Schema::new(fields), &wanted).unwrap();
    let table = Arc::new(LatestTable::new("t", wanted));
    table.evolve(shape).unwrap();
    rows.iter().for_each(|rows| table.apply(rows).unwrap());
    table.loaded();
    Part { table, key: vec![key.to_owned()], relation, prefix: prefix.to_owned(), drops: false }
}

/// Adds the time at which each row happened.
fn at(rows: &RecordBatch, seconds: i64) -> RecordBatch {
    let times = TimestampMicrosecondArray::from(vec![seconds * 1_000_000; rows.num_rows()]).with_timezone("UTC");
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    let mut columns: Vec<(String, ArrayRef, bool)> =
        columns.map(|(field, column)| (field.name().clone(), Arc::clone(column), true)).collect();
    columns.push((fixed::EVENT_TIME.to_owned(), Arc::new(times.clone()), true));
    columns.push((fixed::TIMESTAMP.to_owned(), Arc::new(times), true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn delete(key: i64, offset: i64) -> Sent {
    Sent {
        change: Change::Delete { key },
        run: None,
        snapshot: None,
        epoch: "one",
        position: offset as u64,
        partition: 0,
        offset,
    }
}

const COLUMNS: [(&str, DataType); 3] = [("id", DataType::Int64), ("a", DataType::Utf8), ("b", DataType::Int64)];

/// Keys and texts of the rows of a merged table, sorted.
fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        let fields = batch.schema().fields().clone();
        let texts = batch.columns().iter().zip(fields.iter()).map(|(column, field)| {
            let cell = |row| array_value_to_string(column, row).unwrap();
            (field.name().clone(), (0..batch.num_rows()).map(cell).collect::<Vec<_>>())
        });
        let texts: Vec<(String, Vec<String>)> = texts.filter(|(name, _)| name != fixed::EVENT_TIME).collect();
        for row in 0..batch.num_rows() {
            lines.push(texts.iter().map(|(_, cells)| cells[row].clone()).collect::<Vec<_>>().join(","));
        }
    }
    lines.sort();
    lines
}

#[test]
fn rows_are_merged_by_key_and_a_source_that_drops_hides_them() {
    let mirror = Wanted::mirror(&["id".to_owned()]);
    let signals = Wanted { of_changes: false, last_non_null: true, ..mirror.clone() };
    let cars = [at(&batch(&[row(1, "one", 1), row(2, "two", 2), row(3, "three", 3), delete(3, 4)]), 10)];
    let mut told = row(1, "x", 9);
    told.change = Change::Row { key: 1, a: None, b: Some(90), b_told: true };
    let events =
        [at(&batch(&[row(1, "lights", 5), row(3, "ghost", 6), row(4, "new", 7)]), 20), at(&batch(&[told]), 30)];
    let mut parts = vec![part(mirror, &COLUMNS, &cars, "", "id"), part(signals, &COLUMNS, &events, "s_", "id")];
    parts[0].drops = true;
    let merged = Merged::new("state", &["id".to_owned()], parts);
    let names: Vec<String> = merged.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["id", "event_time", "a", "b", "s_a", "s_b"]);
    let rows = merged.scan().unwrap();
    // Key 3 is deleted where its row counts; the newest value of each signal is kept, nulls are none.
    assert_eq!(shown(&rows), ["1,one,1,lights,90", "2,two,2,,", "4,,,new,7"]);
    let key = |keys: Vec<i64>| -> [ArrayRef; 1] { [Arc::new(Int64Array::from(keys))] };
    assert_eq!(shown(&[merged.get(&key(vec![1, 3, 4, 9])).unwrap().unwrap()]), ["1,one,1,lights,90", "4,,,new,7"]);
    let times = merged.get(&key(vec![1])).unwrap().unwrap();
    let times = times[fixed::EVENT_TIME].as_primitive::<TimestampMicrosecondType>().values().to_vec();
    assert_eq!(times, [30_000_000], "the newest source's");
    // What a part learns is seen.
    merged.parts()[0].table.apply(&at(&batch(&[row(3, "again", 8)]), 40)).unwrap();
    assert_eq!(shown(&merged.scan().unwrap())[2], "3,again,8,ghost,6");
}

#[test]
fn a_row_that_names_another_key_moves_with_it() {
    // Devices (id) in cars (b).
    let wanted = Wanted { foreign: vec!["b".to_owned()], ..Wanted::mirror(&["id".to_owned()]) };
    let device = |id: i64, name: &str, car: i64, offset: i64| {
        let change = Change::Row { key: id, a: Some(name.to_owned()), b: Some(car), b_told: true };
        Sent { change, ..row(id, name, offset) }
    };
    let rows = [at(&batch(&[device(10, "old", 1, 1), device(11, "new", 1, 2), device(12, "other", 2, 3)]), 1)];
    let merged = Merged::new("state", &["car".to_owned()], vec![part(wanted, &COLUMNS, &rows, "", "b")]);
    assert_eq!(shown(&merged.scan().unwrap()), ["1,11,new", "2,12,other"]);
    let devices = &merged.parts()[0].table;
    // The newer device moves to car 2; the older one of car 1 counts again.
    devices.apply(&at(&batch(&[device(11, "new", 2, 4)]), 2)).unwrap();
    assert_eq!(shown(&merged.scan().unwrap()), ["1,10,old", "2,11,new"]);
    devices.apply(&at(&batch(&[delete(11, 5)]), 3)).unwrap();
    // What is late and what comes again changes nothing.
    devices.apply(&at(&batch(&[device(11, "new", 1, 2), device(12, "other", 2, 3)]), 1)).unwrap();
    assert_eq!(shown(&merged.scan().unwrap()), ["1,10,old", "2,12,other"]);
    let car: [ArrayRef; 1] = [Arc::new(Int64Array::from(vec![2, 7]))];
    assert_eq!(shown(&[merged.get(&car).unwrap().unwrap()]), ["2,12,other"]);
    // Several moves in one batch, one of them there and back.
    let moves = [
        device(10, "old", 5, 6),
        device(12, "other", 1, 7),
        device(10, "old", 2, 8),
        device(13, "third", 1, 9),
        device(12, "other", 2, 10),
    ];
    devices.apply(&at(&batch(&moves), 4)).unwrap();
    assert_eq!(shown(&merged.scan().unwrap()), ["1,13,third", "2,12,other"]);
    devices.apply(&at(&batch(&[delete(12, 11)]), 5)).unwrap();
    assert_eq!(shown(&merged.scan().unwrap()), ["1,13,third", "2,10,old"]);
}

#[test]
fn all_rows_that_name_a_key_can_be_a_list_of_it() {
    // Devices (id) in cars (b).
    let wanted = Wanted { foreign: vec!["b".to_owned()], ..Wanted::mirror(&["id".to_owned()]) };
    let device = |id: i64, name: Option<&str>, car: Option<i64>, offset: i64| {
        let change = Change::Row { key: id, a: name.map(str::to_owned), b: car, b_told: true };
        Sent { change, ..row(id, "", offset) }
    };
    let rows = [
        device(11, Some("new"), Some(1), 2),
        device(9, Some("old"), Some(1), 1),
        device(12, None, Some(2), 3),
        device(13, Some("in no car"), None, 4),
    ];
    let cars = [at(&batch(&[row(1, "one", 1), row(3, "three", 2)]), 9)];
    let cars = part(Wanted::mirror(&["id".to_owned()]), &COLUMNS, &cars, "", "id");
    let devices = part(wanted, &COLUMNS, &[at(&batch(&rows), 10)], "its_", "b");
    let devices = Part { relation: Relation::List("devices".to_owned()), ..devices };
    let merged = Merged::new("state", &["car".to_owned()], vec![cars, devices]);
    let names: Vec<String> = merged.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["car", "event_time", "a", "b", "its_devices"]);
    let two = r#"1,one,1,[{"id":9,"a":"old"},{"id":11,"a":"new"}]"#;
    assert_eq!(shown(&merged.scan().unwrap()), [two, r#"2,,,[{"id":12,"a":null}]"#, "3,three,2,"]);
    let keys = |keys: &[i64]| -> [ArrayRef; 1] { [Arc::new(Int64Array::from(keys.to_vec()))] };
    assert_eq!(shown(&[merged.get(&keys(&[1, 1, 7])).unwrap().unwrap()]), [two]);
    // One moves, one is deleted: a car without devices has no list.
    let table = &merged.parts()[1].table;
    table.apply(&at(&batch(&[device(9, Some("old"), Some(3), 5), delete(12, 6)]), 20)).unwrap();
    let expected = [r#"1,one,1,[{"id":11,"a":"new"}]"#, r#"3,three,2,[{"id":9,"a":"old"}]"#];
    assert_eq!(shown(&merged.scan().unwrap()), expected);
    assert_eq!(shown(&[merged.get(&keys(&[2])).unwrap().unwrap()]), Vec::<String>::new());
}

#[test]
fn a_clock_that_is_ahead_freezes_no_key() {
    let wanted = Wanted { of_changes: false, ..Wanted::mirror(&["id".to_owned()]) };
    let mut ahead = at(&batch(&[row(1, "ahead", 1)]), 1_000);
    let received = TimestampMicrosecondArray::from(vec![5_000_000]).with_timezone("UTC");
    let schema = ahead.schema();
    let mut columns = ahead.columns().to_vec();
    columns[schema.index_of(fixed::TIMESTAMP).unwrap()] = Arc::new(received);
    ahead = RecordBatch::try_new(schema, columns).unwrap();
    let merged = Merged::new("s", &["id".to_owned()], vec![part(wanted, &COLUMNS, &[ahead], "", "id")]);
    merged.parts()[0].table.apply(&at(&batch(&[row(1, "later", 2)]), 6)).unwrap();
    assert_eq!(shown(&merged.scan().unwrap()), ["1,later,2"]);
}

#[test]
fn what_a_later_run_of_the_connector_says_is_newer() {
    const FIRST: &str = "01a20501-a39c-7f10-b05e-3613dcde0780";
    const SECOND: &str = "01a20599-0000-7f10-b05e-3613dcde0780";
    let mut keyed = empty();
    // A snapshot anew begins lower in the log's numbers than the stream before it had come to.
    let before = Sent { run: Some(FIRST), position: 900, ..row(1, "streamed", 1) };
    let again = Sent { run: Some(SECOND), position: 500, ..row(1, "read again", 2) };
    keyed.apply(&batch(&[again, before])).unwrap();
    assert_eq!(rows_of(&keyed.scan().unwrap())[&1].0.as_deref(), Some("read again"));
}

/// A mirror that changes row by row: `id`, `a`, `b`.
pub(crate) struct Changing {
    pub table: Arc<LatestTable>,
    position: u64,
}

impl Changing {
    /// Without rows.
    pub(crate) fn new(name: &str) -> Self {
        let table = LatestTable::new(name, Wanted::mirror(&["id".to_owned()]));
        table.evolve(plain()).unwrap();
        table.loaded();
        Self { table: Arc::new(table), position: 0 }
    }

    /// The row is so; or there is none.
    pub(crate) fn put(&mut self, key: i64, row: Option<(Option<&str>, Option<i64>)>) {
        self.position += 1;
        let change = match row {
            Some((a, b)) => Change::Row { key, a: a.map(str::to_owned), b, b_told: true },
            None => Change::Delete { key },
        };
        let (position, offset) = (self.position, self.position as i64);
        let sent = Sent { change, run: None, snapshot: None, epoch: "1", position, partition: 0, offset };
        self.table.apply(&batch(&[sent])).unwrap();
    }
}

proptest! {
    #[test]
    fn what_has_changed_is_known_until_it_is_too_much(
        puts in prop::collection::vec((0..6_i64, prop::option::of(prop::option::of(0..3_i64))), 1..30),
        then in any::<Index>(),
    ) {
        let mut changing = Changing::new("t");
        let then = then.index(puts.len());
        let mut before = Rows::new();
        let mut changes = changing.table.changes();
        for (number, (key, row)) in puts.iter().enumerate() {
            if number == then {
                (before, changes) = (rows_of(&changing.table.scan().unwrap()), changing.table.changes());
            }
            changing.put(*key, row.map(|b| (None, b)));
        }
        let since = changing.table.since(changes, 6).unwrap().unwrap();
        prop_assert_eq!(since.changes, changing.table.changes());
        let keys: Vec<i64> = since.keys[0].as_primitive::<Int64Type>().values().to_vec();
        let now = rows_of(&changing.table.scan().unwrap());
        for key in 0..6 {
            prop_assert!(keys.contains(&key) || before.get(&key) == now.get(&key), "{} of {:?}", key, keys);
        }
        let of_keys: Rows = now.into_iter().filter(|(key, _)| keys.contains(key)).collect();
        prop_assert_eq!(rows_of(&[since.rows]), of_keys);
        prop_assert!(changing.table.since(changes, 0).unwrap().is_none());
    }
}
