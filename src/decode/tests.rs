//! Decoding against a slow and obvious reference, and the odd inputs one by one.

mod arrays;
mod contracts;
mod mutations;
mod odd;
mod reference;

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Date32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType},
};
use proptest::prelude::*;

use super::*;
use crate::schema::{
    ArrayContract, ArrayShape, Column, ColumnContract, ColumnType, Contract, Element, EventTime, Match, OnTypeConflict,
    Path, SchemaVersion, TimeFormat, fixed,
};

/// Records of partition 0 with the given payloads; offsets begin at `start`.
pub(crate) fn records(start: i64, payloads: &[impl AsRef<[u8]>]) -> Records {
    let mut builder = RecordsBuilder::new(start);
    for (at, payload) in payloads.iter().enumerate() {
        builder.push(record(start + at as i64, Some(payload.as_ref()), None, &[]));
    }
    builder.finish("fleet".into(), 1, 0)
}

/// A record that the broker got at 2024-03-01T00:00:00Z.
fn record<'a>(offset: i64, payload: Option<&'a [u8]>, key: Option<&'a [u8]>, headers: &'a [Header]) -> Record<'a> {
    Record { offset, timestamp_us: BROKER_US, key, payload, headers }
}

const BROKER_US: i64 = 1_709_251_200_000_000;

fn column(name: &str, path: &str, kind: ColumnType) -> Column {
    Column::new(name.into(), path.parse().unwrap(), kind)
}

fn version(keys: usize, columns: &[Column]) -> SchemaVersion {
    SchemaVersion { number: 3, keys, columns: columns.to_vec() }
}

/// The cells of the only row, fixed columns left out but for `_rescued`.
fn only_row(decoded: &Decoded) -> Vec<(String, String)> {
    assert_eq!((decoded.rows.num_rows(), decoded.dead.len()), (1, 0), "{:?}", decoded.dead);
    users_cells(&decoded.rows).remove(0)
}

/// Each row's cells, fixed columns left out but for `_rescued`.
fn users_cells(batch: &RecordBatch) -> Vec<Vec<(String, String)>> {
    let users = |(name, _): &(String, String)| name == fixed::RESCUED || !fixed::ALL.contains(&name.as_str());
    rows_of(batch).into_iter().map(|(_, _, cells)| cells.into_iter().filter(users).collect()).collect()
}

fn cells(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn decode(contract: &Contract, version: &SchemaVersion, records: &Records) -> Decoded {
    let mut decoder = Decoder::new(Arc::new(contract.clone()), Arc::new(version.clone()));
    decoder.decode(records).unwrap()
}

/// A row without its nulls, values written out.
pub(crate) type Cells = BTreeMap<String, String>;

/// The rows of a batch, by offset and `_row`.
pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<(i64, i32, Cells)> {
    let cell = |column: usize, row: usize| cell(batch.column(column), row);
    let schema = batch.schema();
    (0..batch.num_rows())
        .map(|row| {
            let offset = batch[fixed::OFFSET].as_primitive::<Int64Type>().value(row);
            let index = batch[fixed::ROW].as_primitive::<Int32Type>().value(row);
            let named = schema.fields().iter().enumerate();
            let cells = named.filter_map(|(at, field)| Some((field.name().clone(), cell(at, row)?))).collect();
            (offset, index, cells)
        })
        .collect()
}

/// A value written out; a list's elements with `;` between them.
fn cell(array: &ArrayRef, row: usize) -> Option<String> {
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::List(_) => {
            let list = array.as_list::<i32>().value(row);
            let elements = (0..list.len()).map(|at| cell(&list, at).unwrap_or_else(|| "null".to_owned()));
            format!("[{}]", elements.collect::<Vec<_>>().join(";"))
        }
        _ => array.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
    })
}

/// Number of records that gave rows.
fn records_with_rows(batch: &RecordBatch) -> usize {
    let offsets = batch[fixed::OFFSET].as_primitive::<Int64Type>();
    offsets.values().iter().collect::<std::collections::BTreeSet<_>>().len()
}

fn any_key() -> impl Strategy<Value = String> + Clone {
    prop::sample::select(vec!["a", "b", "c", "IsRunning", "odd.key", "$key", "é", "with \"quote\""])
        .prop_map(str::to_owned)
}

fn any_kind() -> impl Strategy<Value = ColumnType> {
    prop::sample::select(vec![
        ColumnType::Boolean,
        ColumnType::Int64,
        ColumnType::Double,
        ColumnType::String,
        ColumnType::Json,
        ColumnType::Timestamp,
        ColumnType::Date,
        ColumnType::List(Element::Boolean),
        ColumnType::List(Element::Int64),
        ColumnType::List(Element::Double),
        ColumnType::List(Element::String),
    ])
}

/// A text that a column of the type takes.
fn default_of(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Boolean => "true",
        ColumnType::Int64 => "7",
        ColumnType::Double => "1.5",
        ColumnType::String => "none",
        ColumnType::Json => "{}",
        ColumnType::Timestamp => "1970-01-01T00:00:01Z",
        ColumnType::Date => "1970-01-02",
        ColumnType::List(_) => "[]",
    }
}

/// What names an element in a list of named things.
fn any_name() -> impl Strategy<Value = serde_json::Value> + Clone {
    prop_oneof![
        4 => any_key().prop_map(Into::into),
        1 => any::<i8>().prop_map(Into::into),
        1 => any::<bool>().prop_map(Into::into),
    ]
}

/// Documents whose nesting passes the eight levels now and then.
fn any_document() -> impl Strategy<Value = serde_json::Value> + Clone {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-10..10i64).prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        any::<String>().prop_map(Into::into),
        prop::sample::select(vec!["2024-02-29T23:00:00+09:00", "2024-02-28", "<invalid>", ""]).prop_map(Into::into),
        Just(serde_json::json!({})),
    ];
    let value = leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            3 => prop::collection::vec((any_key(), inner.clone()), 0..6).prop_map(|members| members.into_iter().collect()),
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::Array),
            1 => prop::collection::vec((any_name(), any_key(), inner.clone()), 1..4).prop_map(|elements| {
                elements.into_iter().map(|(name, key, member)| serde_json::json!({ key: member, "a": name })).collect()
            }),
            1 => (inner, 0..8usize).prop_map(|(inner, levels)| {
                (0..levels).fold(inner, |inner, _| serde_json::json!({ "a": inner }))
            }),
        ]
    });
    prop::collection::vec((any_key(), value), 0..6).prop_map(|members| members.into_iter().collect())
}

/// A payload of a few documents in one of the accepted forms.
fn payload(documents: &[serde_json::Value], form: u8) -> String {
    let text = |document: &serde_json::Value| match form & 1 {
        0 => serde_json::to_string(document).unwrap(),
        _ => serde_json::to_string_pretty(document).unwrap(),
    };
    match (documents, form & 2) {
        ([], _) => "[]".to_owned(),
        (several, 0) => several.iter().map(text).collect::<Vec<_>>().join(if form & 4 == 0 { "" } else { "\n" }),
        (several, _) => format!(" [{}]\n", several.iter().map(text).collect::<Vec<_>>().join(" , ")),
    }
}

/// How arrays may be declared.
fn any_arrays() -> impl Strategy<Value = Vec<ArrayContract>> {
    let shape = prop_oneof![
        1 => Just(ArrayShape::Json),
        1 => Just(ArrayShape::List),
        1 => Just(ArrayShape::First),
        1 => (any_key(), prop::option::of(any_key())).prop_map(|(by, value)| ArrayShape::Pivot { by, value }),
        4 => prop::option::of(any_key()).prop_map(|value| ArrayShape::Pivot { by: "a".into(), value }),
    ];
    prop::collection::btree_map(prop::collection::vec(any_key(), 1..3), shape, 0..6)
        .prop_map(|arrays| arrays.into_iter().map(|(path, shape)| ArrayContract { path, shape }).collect())
}

/// A contract and a schema version that know some paths of the documents.
fn any_schema() -> impl Strategy<Value = (Contract, SchemaVersion)> {
    let path = || prop::collection::vec(any_key(), 1..4);
    let declared = prop::option::of((any::<bool>(), prop::bool::weighted(0.1)));
    let columns = prop::collection::btree_map(path(), (any_kind(), declared), 0..8);
    let value = prop::sample::select(vec!["true", "1", "", "2024-02-28"]).prop_map(str::to_owned);
    let condition = (path(), prop::collection::vec(value, 1..3));
    let rest =
        (any_arrays(), prop::collection::vec(path(), 0..2), prop::option::weighted(0.1, condition), any::<bool>());
    (columns, 0..3usize, any::<bool>(), prop::option::of(path()), rest).prop_map(
        |(columns, keys, strict, time, rest)| {
            let mut contract = crate::schema::tests::contract();
            let mut version = SchemaVersion { number: 7, keys: 0, columns: vec![] };
            for (at, (parts, (kind, declared))) in columns.into_iter().enumerate() {
                let (name, path) = (format!("c{at}"), Path::Value(parts));
                if let Some((default, not_null)) = declared {
                    contract.columns.push(ColumnContract {
                        name: name.clone(),
                        path: Some(path.clone()),
                        kind: Some(kind),
                        default: default.then(|| default_of(kind).to_owned()),
                        not_null,
                        ..ColumnContract::default()
                    });
                }
                version.columns.push(Column::new(name, path, kind));
            }
            // Keys are rare in random documents: mostly none.
            version.keys = keys.saturating_sub(1).min(version.columns.len());
            contract.on_type_conflict = if strict { OnTypeConflict::DeadLetter } else { OnTypeConflict::Rescue };
            contract.time = time.map(|parts| EventTime { path: Path::Value(parts), format: TimeFormat::Rfc3339 });
            let (arrays, dropped, condition, infer_timestamps) = rest;
            contract.matches =
                condition.into_iter().map(|(path, values)| Match { path: Path::Value(path), values }).collect();
            (contract.arrays, contract.dropped, contract.infer_timestamps) = (arrays, dropped, infer_timestamps);
            (contract, version)
        },
    )
}

/// Bytes that are JSON, nearly JSON, or nothing like it.
fn any_payload() -> impl Strategy<Value = Option<Vec<u8>>> {
    let good = (prop::collection::vec(any_document(), 0..4), any::<u8>())
        .prop_map(|(documents, form)| payload(&documents, form).into_bytes());
    let broken = (good.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    });
    let cut = (good.clone(), any::<prop::sample::Index>()).prop_map(|(mut bytes, at)| {
        bytes.truncate(at.index(bytes.len()));
        bytes
    });
    prop_oneof![
        6 => good.prop_map(Some),
        2 => broken.prop_map(Some),
        1 => cut.prop_map(Some),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Some),
        1 => Just(None),
    ]
}

fn build(start: i64, payloads: &[Option<Vec<u8>>]) -> Records {
    let mut builder = RecordsBuilder::new(start);
    for (at, payload) in payloads.iter().enumerate() {
        builder.push(record(start + at as i64, payload.as_deref(), None, &[]));
    }
    builder.finish("fleet".into(), 1, 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn decoding_agrees_with_the_reference(
        messages in prop::collection::vec((prop::collection::vec(any_document(), 1..3), any::<u8>()), 1..6),
        (contract, version) in any_schema(),
    ) {
        let payloads: Vec<String> = messages.iter().map(|(documents, form)| payload(documents, *form)).collect();
        let decoded = decode(&contract, &version, &records(0, &payloads));
        let documents: Vec<Vec<serde_json::Value>> = messages.into_iter().map(|(documents, _)| documents).collect();
        let expected = reference::decode(&contract, &version, &documents);
        let mut rows = rows_of(&decoded.rows);
        rows.iter_mut().for_each(|(_, _, cells)| reference::sort_rescued(cells));
        prop_assert_eq!(rows, expected.rows);
        prop_assert_eq!(decoded.skipped.values().sum::<u64>(), expected.skipped);
        let dead: Vec<(i64, Reason)> = decoded.dead.iter().map(|letter| (letter.offset, letter.reason)).collect();
        prop_assert_eq!(dead, expected.dead);
        let found: BTreeMap<Path, (ColumnType, u64, i64)> = decoded
            .found
            .iter()
            .map(|find| (find.path.clone(), (find.observed.column_type(), find.rows, find.offset)))
            .collect();
        prop_assert_eq!(found, expected.found);
    }

    #[test]
    fn records_are_rows_or_dead_letters_or_skips_and_any_split_gives_the_same(
        payloads in prop::collection::vec(any_payload(), 0..12),
        cut in any::<prop::sample::Index>(),
        (contract, version) in any_schema(),
    ) {
        let whole = decode(&contract, &version, &build(5, &payloads));
        let skipped: u64 = whole.skipped.values().sum();
        prop_assert_eq!(payloads.len(), records_with_rows(&whole.rows) + whole.dead.len() + skipped as usize);
        prop_assert_eq!(whole.rows.schema(), version.arrow_schema());

        // One decoder for both parts: what it learned from the first must not show in the second.
        let cut = cut.index(payloads.len() + 1);
        let (first, second) = payloads.split_at(cut);
        let mut decoder = Decoder::new(Arc::new(contract), Arc::new(version.clone()));
        let first = decoder.decode(&build(5, first)).unwrap();
        let second = decoder.decode(&build(5 + cut as i64, second)).unwrap();
        prop_assert_eq!(concat_batches(&version.arrow_schema(), [&first.rows, &second.rows]).unwrap(), whole.rows);
        prop_assert_eq!([first.dead, second.dead].concat(), whole.dead);
        prop_assert_eq!(first.rescued + second.rescued, whole.rescued);
    }

    #[test]
    fn a_found_column_holds_what_was_rescued(
        messages in prop::collection::vec(any_document(), 1..6),
        (contract, version) in any_schema(),
    ) {
        // Evolving until nothing is new leaves no value at an unknown path, and loses no record.
        let contract = Contract { on_type_conflict: OnTypeConflict::Rescue, time: None, matches: vec![], ..contract };
        let payloads: Vec<String> = messages.iter().map(ToString::to_string).collect();
        let records = records(0, &payloads);
        let before = decode(&contract, &version, &records);
        let Some(next) = version.evolve(&contract, &before.found) else {
            prop_assert!(before.found.iter().all(|find| find.observed.is_undecided()));
            return Ok(());
        };
        let after = decode(&contract, &next, &records);
        prop_assert!(after.found.iter().all(|find| find.observed.is_undecided()));
        prop_assert_eq!(after.rows.num_rows() + after.dead.len(), messages.len());
        prop_assert!(after.rescued <= before.rescued);
        let reread = SchemaVersion::from_arrow(&next.arrow_schema(), next.number, next.keys);
        prop_assert_eq!(reread, Ok(next));
    }

    #[test]
    fn across_versions_a_value_is_in_its_logical_column_or_rescued(
        values in prop::collection::vec(prop::sample::select(vec![
            "0", "7", "-3", "12.5", "1e3", "9007199254740993", "18446744073709551616", "\"x\"", "true", "null", "[1]",
        ]), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        policy in prop::sample::select(vec![OnTypeConflict::Widen, OnTypeConflict::String, OnTypeConflict::Rescue]),
    ) {
        let contract = Contract { on_type_conflict: policy, ..crate::schema::tests::contract() };
        let payloads: Vec<String> = values.iter().map(|value| format!("{{\"n\":{value}}}")).collect();
        let mut version = SchemaVersion { number: 1, keys: 0, columns: vec![
            Column::new("n".into(), Path::Value(vec!["n".into()]), ColumnType::Int64),
        ] };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payloads.len())).chain([0, payloads.len()]).collect();
        cuts.sort();
        for cut in cuts.windows(2).filter(|cut| cut[0] < cut[1]) {
            let records = records(cut[0] as i64, &payloads[cut[0]..cut[1]]);
            let mut decoded = decode(&contract, &version, &records);
            while let Some(next) = version.evolve(&contract, &decoded.misfits) {
                version = next;
                decoded = decode(&contract, &version, &records);
            }
            for (offset, _, cells) in rows_of(&decoded.rows) {
                let held: Vec<&String> =
                    version.columns.iter().filter_map(|column| cells.get(&column.name)).collect();
                let rescued = cells.get(fixed::RESCUED);
                match values[offset as usize] {
                    "null" => prop_assert!(held.is_empty() && rescued.is_none()),
                    _ => prop_assert_eq!(held.len() + usize::from(rescued.is_some()), 1, "{:?}", cells),
                }
            }
        }
    }

    #[test]
    fn keys_and_headers_never_panic(
        key in prop::option::of(prop_oneof![any_document().prop_map(|d| d.to_string().into_bytes()), any::<Vec<u8>>()]),
        header in prop::option::of(any::<Vec<u8>>()),
        kind in any_kind(),
        strict in any::<bool>(),
    ) {
        let mut contract = crate::schema::tests::contract();
        contract.on_type_conflict = if strict { OnTypeConflict::DeadLetter } else { OnTypeConflict::Rescue };
        let paths = [Path::Key(vec![]), Path::Key(vec!["a".into()]), Path::Header("h".into()), Path::Topic, Path::Timestamp];
        let columns = paths.into_iter().enumerate().map(|(at, path)| Column::new(format!("c{at}"), path, kind)).collect();
        let headers = [Header { name: "h".into(), value: header.map(Into::into) }];
        let mut builder = RecordsBuilder::new(0);
        builder.push(record(0, Some(b"[{},{}]"), key.as_deref(), &headers));
        let decoded = decode(&contract, &SchemaVersion { number: 1, keys: 0, columns }, &builder.finish("t".into(), 1, 0));
        prop_assert_eq!(decoded.rows.num_rows(), if decoded.dead.is_empty() { 2 } else { 0 });
    }
}
