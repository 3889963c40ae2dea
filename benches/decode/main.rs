//! Decoding speed on one core, three decoders in turn on the same messages, so that a busy machine slows all alike.
//!
//! arrow-json reads the same messages into nested structs; `values` parses with serde_json and looks each column up.
//! Shown: the best of the rounds in MB of JSON per second, what that is of arrow-json's, and our allocations per row.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../src/decode/mod.rs"]
mod decode;
#[path = "../../src/schema/mod.rs"]
mod schema;

mod messages;

use std::{
    alloc::{GlobalAlloc, Layout},
    io::BufReader,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arrow::{
    array::{Array, ArrayRef, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder},
    datatypes::SchemaRef,
    json::{ReaderBuilder, reader::infer_json_schema},
};
use mimalloc::MiMalloc;
use decode::{Decoder, Record, Records, RecordsBuilder};
use schema::{ColumnType, Contract, OnTypeConflict, Path, SchemaVersion, infer_first};
use serde_json::Value;

/// Messages in a batch.
const BATCH: usize = 4_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: the allocator of the product does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

fn contract() -> Contract {
    Contract { on_type_conflict: OnTypeConflict::Rescue, ..Contract::undeclared("bench", "t") }
}

fn records(messages: &[String]) -> Records {
    let mut builder = RecordsBuilder::new(0);
    for (at, message) in messages.iter().enumerate() {
        let payload = Some(message.as_bytes());
        builder.push(Record { offset: at as i64, timestamp_us: 0, key: None, payload, headers: &[] });
    }
    builder.finish("t".into(), 1, 0)
}

fn arrow_json(schema: &SchemaRef, messages: &[String]) -> usize {
    let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH).build_decoder().unwrap();
    let mut rows = 0;
    for message in messages {
        let mut bytes = message.as_bytes();
        while !bytes.is_empty() {
            let used = decoder.decode(bytes).unwrap();
            if used == 0 {
                rows += decoder.flush().unwrap().map_or(0, |batch| batch.num_rows());
            }
            bytes = &bytes[used..];
        }
    }
    rows + decoder.flush().unwrap().map_or(0, |batch| batch.num_rows())
}

enum Builder {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Double(Float64Builder),
    Text(StringBuilder),
}

fn values(version: &SchemaVersion, messages: &[String]) -> usize {
    let mut builders: Vec<(Vec<String>, Builder)> = version
        .columns
        .iter()
        .map(|column| {
            let Path::Value(path) = &column.path else { unreachable!() };
            let builder = match column.kind {
                ColumnType::Boolean => Builder::Boolean(BooleanBuilder::new()),
                ColumnType::Int64 => Builder::Integer(Int64Builder::new()),
                ColumnType::Double => Builder::Double(Float64Builder::new()),
                _ => Builder::Text(StringBuilder::new()),
            };
            (path.clone(), builder)
        })
        .collect();
    for message in messages {
        let value: Value = serde_json::from_str(message).unwrap();
        for (path, builder) in &mut builders {
            let found = path.iter().try_fold(&value, |value, part| value.get(part));
            match builder {
                Builder::Boolean(builder) => builder.append_option(found.and_then(Value::as_bool)),
                Builder::Integer(builder) => builder.append_option(found.and_then(Value::as_i64)),
                Builder::Double(builder) => builder.append_option(found.and_then(Value::as_f64)),
                Builder::Text(builder) => builder.append_option(found.and_then(Value::as_str)),
            }
        }
    }
    let arrays: Vec<ArrayRef> = builders
        .into_iter()
        .map(|(_, builder)| -> ArrayRef {
            match builder {
                Builder::Boolean(mut builder) => Arc::new(builder.finish()),
                Builder::Integer(mut builder) => Arc::new(builder.finish()),
                Builder::Double(mut builder) => Arc::new(builder.finish()),
                Builder::Text(mut builder) => Arc::new(builder.finish()),
            }
        })
        .collect();
    arrays[0].len()
}

fn main() {
    let rounds: usize = std::env::args().nth(1).map_or(15, |rounds| rounds.parse().unwrap());
    let only = std::env::args().nth(2);
    println!("{:16} {:>6} {:>9} {:>11} {:>9} {:>9} {:>16}", "messages", "bytes", "ours", "arrow-json", "values", "ratio", "allocations/row");
    for (name, messages) in messages::all(BATCH) {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let bytes: usize = messages.iter().map(String::len).sum();
        let records = records(&messages);
        let contract = contract();
        let version = infer_first(&contract, &[&records]);
        let mut decoder = Decoder::new(Arc::new(contract), Arc::new(version.clone()));
        let lines = messages.join("\n");
        let (schema, _) = infer_json_schema(BufReader::new(lines.as_bytes()), None).unwrap();
        let schema = Arc::new(schema);
        let mut speeds: [Vec<f64>; 3] = Default::default();
        let mut allocations = 0;
        for _ in 0..rounds {
            let mut timed = |at: usize, run: &mut dyn FnMut() -> usize| {
                let start = Instant::now();
                assert_eq!(run(), messages.len());
                speeds[at].push(bytes as f64 / start.elapsed().as_secs_f64() / 1e6);
            };
            timed(0, &mut || {
                let before = ALLOCATIONS.load(Ordering::Relaxed);
                let decoded = decoder.decode(&records).unwrap();
                allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
                assert!(decoded.rescued == 0 && decoded.found.is_empty());
                decoded.rows.num_rows()
            });
            if only.is_none() {
                timed(1, &mut || arrow_json(&schema, &messages));
                timed(2, &mut || values(&version, &messages));
            }
        }
        let best = |speeds: &[f64]| speeds.iter().copied().fold(f64::NAN, f64::max);
        let [ours, arrow, values] = speeds.each_ref().map(|speeds| best(speeds));
        println!(
            "{name:16} {:>6} {ours:>9.0} {arrow:>11.0} {values:>9.0} {:>9.2} {:>16.4}",
            bytes / messages.len(),
            ours / arrow,
            allocations as f64 / messages.len() as f64,
        );
    }
}
