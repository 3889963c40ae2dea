//! The service over tables in memory.

mod bad_days;
mod continuous;
mod direct;
mod forbidden;
mod logical;
mod look_back;
mod result_cache;
mod running;
mod slt;
mod sorts;
mod sql;
mod windows;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringViewArray, StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::Int32Type;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use parking_lot::Mutex;

use super::*;

/// A catalog whose state can be changed between statements.
#[derive(Default)]
pub(crate) struct Fixture {
    pinned: Mutex<Pinned>,
    kept: Mutex<BTreeMap<String, Arc<dyn crate::latest::Rows>>>,
}

impl Catalog for Fixture {
    fn pin(&self) -> Pinned {
        self.pinned.lock().clone()
    }

    fn keyed(&self, table: &str) -> Option<Arc<dyn crate::latest::Rows>> {
        self.kept.lock().get(table).cloned()
    }
}

impl Fixture {
    /// Cars and their telemetry; `system.ingest`.
    pub(crate) fn fleet() -> Arc<Self> {
        let fixture = Self::default();
        fixture.put("public", "telemetry", telemetry(0..3));
        let names: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), Some("b")]));
        let plates: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter([Some("12가3456"), None]));
        fixture.put(
            "public",
            "carinfo",
            RecordBatch::try_from_iter([("car_id", names), ("plate_no", plates)]).unwrap(),
        );
        fixture.pinned.lock().keys.insert("carinfo".into(), vec!["car_id".into()]);
        let topics: ArrayRef = Arc::new(StringArray::from(vec!["fleet.telemetry"]));
        fixture.put("system", "ingest", RecordBatch::try_from_iter([("topic", topics)]).unwrap());
        Arc::new(fixture)
    }

    pub(crate) fn put(&self, schema: &str, table: &str, batch: RecordBatch) {
        let provider = Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap());
        self.pinned.lock().schemas.entry(schema.into()).or_default().insert(table.into(), provider);
    }

    /// A table with one row per key, named `table`: what `rows` gives, or what `derived` makes of it.
    pub(crate) fn keep(&self, table: &str, rows: Arc<dyn crate::latest::Rows>, derived: Option<&str>) {
        let mut pinned = self.pinned.lock();
        let provider = Arc::new(KeyedTable::new(Arc::clone(&rows)));
        pinned.schemas.entry(PUBLIC.into()).or_default().insert(rows.name().to_owned(), provider);
        pinned.views.extend(derived.map(|sql| (table.to_owned(), sql.to_owned())));
        self.kept.lock().insert(table.to_owned(), rows);
    }

    pub(crate) fn view(&self, name: &str, sql: &str) {
        self.pinned.lock().views.insert(name.into(), sql.into());
    }
}

/// One row per number: car a or b, a minute apart from 2026-11-22T00:00Z.
pub(crate) fn telemetry(rows: std::ops::Range<i64>) -> RecordBatch {
    let start = 1_795_305_600_000_000_i64;
    let cars = StringViewArray::from_iter_values(rows.clone().map(|i| if i % 2 == 0 { "a" } else { "b" }));
    let times = rows.clone().map(|i| start + i * 60_000_000);
    let mut tags = ListBuilder::new(StringViewBuilder::new());
    for i in rows.clone() {
        tags.append_value([Some(format!("t{i}")), None]);
    }
    RecordBatch::try_from_iter([
        ("car_id", Arc::new(cars) as ArrayRef),
        ("speed", Arc::new(Float64Array::from_iter(rows.clone().map(|i| (i != 1).then_some(i as f64 * 1.5))))),
        ("event_time", Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))),
        ("gear", Arc::new(Int32Array::from_iter_values(rows.clone().map(|i| i as i32)))),
        ("_offset", Arc::new(Int64Array::from_iter_values(rows))),
        ("tags", Arc::new(tags.finish())),
    ])
    .unwrap()
}

pub(crate) fn service(fixture: &Arc<Fixture>) -> Service {
    Service::new(Arc::clone(fixture) as _, ServiceOptions::default()).unwrap()
}

pub(crate) async fn rows(session: &Session, sql: &str) -> Result<String> {
    let batches = session.query(sql).await?.run().await?.collect().await?;
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let cells = text.lines().filter(|line| line.starts_with('|')).skip(1);
    Ok(cells.map(|line| line.replace(' ', "")).collect::<Vec<_>>().join("\n"))
}
