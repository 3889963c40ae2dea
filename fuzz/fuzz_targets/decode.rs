//! Any bytes as messages: no panic, every record accounted for, and any split into batches gives the same rows.
#![no_main]
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../src/decode/mod.rs"]
mod decode;
#[path = "../../src/schema/mod.rs"]
mod schema;

use std::{collections::BTreeSet, sync::Arc};

use arrow::{array::AsArray, datatypes::Int64Type};
use decode::{Decoded, Decoder, Record, Records, RecordsBuilder};
use libfuzzer_sys::fuzz_target;
use schema::{
    ArrayContract, ArrayShape, ColumnContract, ColumnType, Contract, EventTime, Match, OnNewField, OnTypeConflict, Path,
    SchemaVersion, Start, TimeFormat, infer_first,
};

/// Contracts that differ in what they ask of the decoder.
fn contract(variant: usize) -> Contract {
    let array = |path: &str, shape| ArrayContract { path: path.split('.').map(str::to_owned).collect(), shape };
    let plain = Contract {
        on_type_conflict: OnTypeConflict::Rescue,
        timezone: chrono_tz::Asia::Seoul,
        ..Contract::undeclared("fuzz", "t")
    };
    let column = |name: &str, kind| ColumnContract {
        name: name.into(),
        path: Some(Path::Value(vec![name.into()])),
        kind: Some(kind),
        ..ColumnContract::default()
    };
    match variant {
        0 => plain,
        1 => Contract {
            arrays: vec![
                array("sensors", ArrayShape::Pivot { by: "name".into(), value: Some("v".into()) }),
                array("trip.legs", ArrayShape::First),
                array("tags", ArrayShape::List),
            ],
            dropped: vec![vec!["customer".into()]],
            infer_timestamps: true,
            ..plain
        },
        2 => Contract {
            arrays: vec![array("sensors", ArrayShape::Child), array("sensors.samples", ArrayShape::Child)],
            on_type_conflict: OnTypeConflict::DeadLetter,
            time: Some(EventTime {
                path: Path::Value(vec!["at".into()]),
                format: TimeFormat::Pattern("EEE MMM dd HH:mm:ss z yyyy".into()),
            }),
            ..plain
        },
        _ => Contract {
            matches: vec![Match { path: Path::Value(vec!["type".into()]), values: vec!["car".into(), "1".into()] }],
            key: vec!["id".into()],
            columns: vec![
                column("id", ColumnType::Int64),
                ColumnContract { not_null: true, default: Some("0".into()), ..column("speed", ColumnType::Double) },
                ColumnContract { format: Some(TimeFormat::UnixMillis), ..column("at", ColumnType::Timestamp) },
                column("raw", ColumnType::Json),
            ],
            ..plain
        },
    }
}

fn records(start: usize, messages: &[&[u8]]) -> Records {
    let mut builder = RecordsBuilder::new(start as i64);
    for (at, message) in messages.iter().enumerate() {
        let (key, payload) = (messages.first().copied(), Some(*message));
        builder.push(Record { offset: (start + at) as i64, timestamp_us: 0, key, payload, headers: &[] });
    }
    builder.finish("t".into(), 1, 0)
}

fn decoder(contract: &Contract, version: &SchemaVersion) -> Decoder {
    let child = |contract: &Contract| decoder(contract, &SchemaVersion::declared(contract));
    Decoder::new(Arc::new(contract.clone()), Arc::new(version.clone()))
        .with_children(contract.children().iter().map(child).collect())
}

fn check(messages: usize, decoded: &Decoded) {
    let offsets: BTreeSet<i64> =
        decoded.rows["_offset"].as_primitive::<Int64Type>().values().iter().copied().collect();
    let skipped: u64 = decoded.skipped.values().sum();
    assert_eq!(offsets.len() + decoded.dead.len() + skipped as usize, messages);
}

fuzz_target!(|data: &[u8]| {
    let contract = contract(data.len() % 4);
    // 0x1e is the ASCII record separator.
    let messages: Vec<&[u8]> = data.split(|byte| *byte == 0x1e).collect();
    let whole = records(0, &messages);
    let first = infer_first(&contract, &[&whole.from_position(messages.len() as i64 / 2)]);
    let decoded = decoder(&contract, &first).decode(&whole).unwrap();
    check(messages.len(), &decoded);

    let mut parts = decoder(&contract, &first);
    let (left, right) = messages.split_at(messages.len() / 2);
    let left = parts.decode(&records(0, left)).unwrap();
    let right = parts.decode(&records(messages.len() / 2, right)).unwrap();
    assert_eq!(left.rows.num_rows() + right.rows.num_rows(), decoded.rows.num_rows());
    assert_eq!(decoded.rows.slice(0, left.rows.num_rows()), left.rows);
    assert_eq!(decoded.rows.slice(left.rows.num_rows(), right.rows.num_rows()), right.rows);

    if let Some(next) = first.evolve(&contract, &decoded.found) {
        let again = decoder(&contract, &next).decode(&whole).unwrap();
        check(messages.len(), &again);
        assert_eq!(next.evolve(&contract, &again.found), None);
    }
});
