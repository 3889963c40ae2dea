//! Messages as they come when something is broken: bits flip, ends are missing, values change their type. No panic, and
//! every record is accounted for.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::schema::{infer_first, tests::contract};

const CORPUS: [&str; 6] = [
    include_str!("../../../fuzz/corpus/decode/telemetry"),
    include_str!("../../../fuzz/corpus/decode/sensors"),
    include_str!("../../../fuzz/corpus/decode/several"),
    include_str!("../../../fuzz/corpus/decode/array"),
    include_str!("../../../fuzz/corpus/decode/batch"),
    include_str!("../../../fuzz/corpus/decode/times"),
];
const VALUES: [&str; 14] = [
    "null",
    "true",
    "-1",
    "0.5",
    "1e400",
    "99999999999999999999",
    "\"x\"",
    "\"\\u00e9\"",
    "[]",
    "[1,null]",
    "[1,\"a\"]",
    "{}",
    "{\"a\":[{\"name\":1}]}",
    "NaN",
];

fn mutated(dice: &mut StdRng) -> Vec<u8> {
    let mut bytes = CORPUS[dice.random_range(0..CORPUS.len())].as_bytes().to_vec();
    for _ in 0..dice.random_range(1..4) {
        let at = dice.random_range(0..=bytes.len());
        match dice.random_range(0..6) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << dice.random_range(0..8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..(at + dice.random_range(0..20)).min(bytes.len()))),
            4 => {
                let from = dice.random_range(0..=at);
                let copy = bytes[from..at].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                // The value behind the next colon becomes another one.
                let Some(colon) = bytes[at..].iter().position(|byte| *byte == b':') else { continue };
                let begin = at + colon + 1;
                let end =
                    bytes[begin..].iter().position(|byte| b",}]".contains(byte)).map_or(bytes.len(), |end| begin + end);
                bytes.splice(begin..end, VALUES[dice.random_range(0..VALUES.len())].bytes());
            }
        }
    }
    bytes
}

/// Contracts with something of everything.
fn contracts() -> Vec<Contract> {
    let array = |name: &str, shape| ArrayContract { path: vec![name.into()], shape };
    let declared = |name: &str, kind| ColumnContract {
        name: name.into(),
        path: Some(name.parse().unwrap()),
        kind: Some(kind),
        ..ColumnContract::default()
    };
    let pivot = ArrayShape::Pivot { by: "name".into(), value: Some("v".into()) };
    vec![
        Contract {
            arrays: vec![array("sensors", pivot), array("tags", ArrayShape::First)],
            infer_timestamps: true,
            ..contract()
        },
        Contract {
            arrays: vec![array("sensors", ArrayShape::Child)],
            on_type_conflict: OnTypeConflict::DeadLetter,
            time: Some(EventTime {
                path: "at".parse().unwrap(),
                format: TimeFormat::Pattern("EEE MMM dd HH:mm:ss z yyyy".into()),
            }),
            ..contract()
        },
        Contract {
            matches: vec![Match { path: "type".parse().unwrap(), values: vec!["car".into(), "1".into()] }],
            key: vec!["id".into()],
            columns: vec![
                ColumnContract { not_null: true, default: Some("0".into()), ..declared("speed", ColumnType::Double) },
                declared("raw", ColumnType::Json),
            ],
            dropped: vec![vec!["plate".into()]],
            ..contract()
        },
    ]
}

fn every_mutated_record_is_accounted_for(messages: usize, seed: u64) {
    let mut dice = StdRng::seed_from_u64(seed);
    let clean = records(0, &CORPUS);
    let child =
        |contract: &Contract| Decoder::new(Arc::new(contract.clone()), Arc::new(SchemaVersion::declared(contract)));
    let decoder = |contract: &Contract, version: &SchemaVersion| {
        Decoder::new(Arc::new(contract.clone()), Arc::new(version.clone()))
            .with_children(contract.children().iter().map(child).collect())
    };
    let mut tables: Vec<(Contract, SchemaVersion, Decoder)> = contracts()
        .into_iter()
        .map(|contract| {
            let first = infer_first(&contract, &[&clean]);
            let decoder = decoder(&contract, &first);
            (contract, first, decoder)
        })
        .collect();
    let (mut rows, mut dead) = (0, 0);
    for start in (0..messages).step_by(500) {
        let batch: Vec<Vec<u8>> = (0..500.min(messages - start)).map(|_| mutated(&mut dice)).collect();
        let batch = records(start as i64, &batch);
        for (contract, version, table) in &mut tables {
            let decoded = table.decode(&batch).unwrap();
            let skipped: u64 = decoded.skipped.values().sum();
            assert_eq!(batch.len(), records_with_rows(&decoded.rows) + decoded.dead.len() + skipped as usize);
            rows += decoded.rows.num_rows();
            dead += decoded.dead.len();
            if let Some(next) = version.evolve(contract, &decoded.found).filter(|next| next.columns.len() < 300) {
                (*table, *version) = (decoder(contract, &next), next);
            }
        }
    }
    // The mutations are neither harmless nor all deadly.
    assert!(rows > messages / 10 && dead > messages / 10, "{rows} rows, {dead} dead letters");
}

#[test]
fn ten_thousand_mutated_messages() {
    every_mutated_record_is_accounted_for(10_000, 1);
}

#[test]
#[ignore = "a minute; make test-all runs it"]
fn a_million_mutated_messages() {
    every_mutated_record_is_accounted_for(1_000_000, 2);
}
