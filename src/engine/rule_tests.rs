//! Rule tests: `queries/<rule>.test.toml` says which rows come when, and what the rule must tell then. Everything is in
//! memory, and time is that of the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use chrono::DateTime;
use datafusion::datasource::{MemTable, TableProvider};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Interval, Problem, Problems, Project, column_type, not_toml};
use crate::error::{Error, Kind, Result};
use crate::latest::{ReferenceRows, Rows};
use crate::query::{Catalog, KeyedTable, PUBLIC, Pinned, Service, ServiceOptions};
use crate::schema::{ColumnContract, ColumnType, fixed};
use crate::stream::{Batch, Cause, Evaluation, Key, Micros, Plan, Row, Rule, Transition, keys};
use crate::task::Schedule;

/// When tests begin: 2026-01-01T00:00:00Z.
const BEGIN: Micros = 1_767_225_600_000_000;

/// What a file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The table of rows that name none: the rule's stream.
    stream: String,
    /// Types of columns that no row tells, by table.
    #[serde(default)]
    columns: BTreeMap<String, BTreeMap<String, String>>,
    test: Vec<Test>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    name: String,
    rows: Vec<Map<String, Value>>,
    #[serde(default)]
    expect: Vec<Map<String, Value>>,
    /// How long time goes on after the beginning; until the last row if absent.
    until: Option<String>,
}

/// A row, and when it comes.
struct Given {
    at: Micros,
    table: String,
    is_deleted: bool,
    values: Map<String, Value>,
}

/// What is told, or must be.
#[derive(Debug, PartialEq)]
struct Told {
    at: Micros,
    state: String,
    values: Map<String, Value>,
}

/// Runs the tests of all rules of a project: how many there are, and what is wrong.
pub async fn test_rules(project: &Project) -> (usize, Problems) {
    let (mut tests, mut problems) = (0, Problems::default());
    for rule in &project.alerts {
        let file = Path::new(&rule.file).with_extension("test.toml");
        let path = project.dir.join("queries").join(format!("{}.test.toml", rule.name));
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let file = file.display().to_string();
        let read: File = match toml::from_str(&text) {
            Ok(read) => read,
            Err(error) => {
                problems.push(not_toml(&file, &text, &error));
                continue;
            }
        };
        for test in &read.test {
            tests += 1;
            if let Err(error) = run(project, rule, &read, test).await {
                let text = format!("{}: {}", test.name, error.message());
                problems.push(Problem::of_file(&file, text).hint_of(&error));
            }
        }
    }
    (tests, problems)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Usage, message)
}

async fn run(project: &Project, rule: &Rule, file: &File, test: &Test) -> Result<()> {
    let given = test.rows.iter().map(|row| given(row, &file.stream)).collect::<Result<Vec<_>>>()?;
    let tables = Tables::new(project, file, &given)?;
    let service = Service::new(Arc::clone(&tables) as _, ServiceOptions::default())?;
    if let Some(schedule) = &rule.schedule {
        let told = run_scheduled(rule, schedule, &tables, &service, (file, test, &given)).await?;
        return compare(&told, &test.expect);
    }
    let query = service.session().continuous(&rule.sql, rule.resolve_when.as_deref()).await?;
    if query.stream() != file.stream {
        let message = format!("the rule's stream is {}, not {}", query.stream(), file.stream);
        return Err(wrong(message).hint("name the first table of FROM as `stream`"));
    }
    let known = project.tables.iter().find(|contract| contract.table == file.stream);
    let known = known.map_or_else(Vec::new, |contract| contract.key.clone());
    let plan = Plan::of(rule, query, tables.key(&file.stream), &known)?;
    let mut evaluation = Evaluation::new(Arc::new(rule.clone()), Ok(plan));
    let mut told = Vec::new();
    let mut times: Vec<Micros> = given.iter().map(|given| given.at).collect();
    times.push(0);
    times.sort_unstable();
    times.dedup();
    let mut offset = 0;
    for at in times {
        let now: Vec<&Given> = given.iter().filter(|given| given.at == at).collect();
        tables.change(&now)?;
        if let Some(sql) = rule.expect.as_ref().filter(|_| at == 0) {
            let rows = service.session().query(sql).await?.run().await?.collect().await?;
            for rows in &rows {
                evaluation.expect(rows, BEGIN, &mut told)?;
            }
        }
        let of_stream: Vec<&Given> = now.into_iter().filter(|given| given.table == file.stream).collect();
        if !of_stream.is_empty() {
            let batch = tables.batch(&file.stream, &of_stream, offset)?;
            offset += of_stream.len() as i64;
            evaluation.take(&batch, &mut told).map_err(unreadable)?;
        }
        evaluation.advance(BEGIN + at, &mut told);
    }
    if let Some(until) = &test.until {
        evaluation.advance(BEGIN + micros(until)?, &mut told);
    }
    if let Some(error) = &evaluation.counters().last_error {
        return Err(wrong(format!("a row cannot be judged: {error}")));
    }
    compare(&told, &test.expect)
}

/// What a rule tells that runs on a schedule.
async fn run_scheduled(
    rule: &Rule,
    schedule: &Schedule,
    tables: &Tables,
    service: &Service,
    (file, test, given): (&File, &Test, &[Given]),
) -> Result<Vec<Transition<Row>>> {
    let unplanned = Error::new(Kind::Usage, "the rule runs on a schedule");
    let mut evaluation = Evaluation::new(Arc::new(rule.clone()), Err(unplanned));
    let last = given.iter().map(|given| given.at).max().unwrap_or(0);
    let end = test.until.as_deref().map(micros).transpose()?.unwrap_or(last);
    let (mut told, mut passed, mut offset) = (Vec::new(), -1, 0);
    let mut now = DateTime::from_timestamp_micros(BEGIN - 1).unwrap_or_default();
    while let Some(next) = schedule.next(now).filter(|next| next.timestamp_micros() <= BEGIN + end) {
        now = next;
        let at = next.timestamp_micros();
        let mut times: Vec<Micros> = given.iter().map(|given| given.at).collect();
        times.retain(|time| *time > passed && BEGIN + time <= at);
        times.sort_unstable();
        times.dedup();
        for time in times {
            let came: Vec<&Given> = given.iter().filter(|given| given.at == time).collect();
            tables.change(&came)?;
            let of_stream: Vec<&Given> = came.into_iter().filter(|given| given.table == file.stream).collect();
            if !of_stream.is_empty() && tables.key(&file.stream).is_none() {
                tables.keep(&file.stream, tables.batch(&file.stream, &of_stream, offset)?.rows);
                offset += of_stream.len() as i64;
            }
        }
        passed = at - BEGIN;
        let rows = service.session().query(&rule.sql).await?.run().await?;
        let schema = rows.schema();
        let rows = concat_batches(&schema, &rows.collect().await?).map_err(unreadable)?;
        evaluation.take_all(&rows, at, &mut told)?;
    }
    Ok(told)
}

fn compare(told: &[Transition<Row>], expect: &[Map<String, Value>]) -> Result<()> {
    let expected = expect.iter().map(expected).collect::<Result<Vec<_>>>()?;
    let told: Vec<Told> = told.iter().map(of_transition).collect();
    let is_same = |(told, expected): (&Told, &Told)| {
        let has = |(name, value): (&String, &Value)| told.values.get(name).is_some_and(|own| same(own, value));
        told.at == expected.at && told.state == expected.state && expected.values.iter().all(has)
    };
    if told.len() == expected.len() && told.iter().zip(&expected).all(is_same) {
        return Ok(());
    }
    let list = |told: &[Told]| match told {
        [] => "  nothing".to_owned(),
        told => told.iter().map(|told| format!("  {told}")).collect::<Vec<_>>().join("\n"),
    };
    Err(wrong(format!("expected\n{}\nbut it tells\n{}", list(&expected), list(&told))))
}

/// Numbers are the same if they are equal, however they are written.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| one == other)
}

fn of_transition(told: &Transition<Row>) -> Told {
    let mut values = told.alert.row.clone();
    let key: Option<Row> = serde_json::from_str(&told.key).ok();
    values.extend(key.into_iter().flatten());
    Told { at: told.at - BEGIN, state: told.became.word().to_owned(), values }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, state, values } = self;
        write!(f, "at {}s {state}", *at as f64 / 1e6)?;
        values.iter().try_for_each(|(name, value)| write!(f, " {name} = {value}"))
    }
}

fn micros(text: &str) -> Result<Micros> {
    let interval = text.parse::<Interval>().map_err(|complaint| wrong(complaint.to_string()))?;
    Micros::try_from(interval.duration().as_micros()).map_err(|_| wrong(format!("{text} is too long")))
}

fn text<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    row.get(name)?.as_str()
}

fn without(row: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    row.iter().filter(|(name, _)| !names.contains(&name.as_str())).map(|(n, v)| (n.clone(), v.clone())).collect()
}

fn given(row: &Map<String, Value>, stream: &str) -> Result<Given> {
    let at = text(row, "at").ok_or_else(|| wrong("a row says no time").hint("at = \"30s\", since the beginning"))?;
    Ok(Given {
        at: micros(at)?,
        table: text(row, "table").unwrap_or(stream).to_owned(),
        is_deleted: row.get("deleted") == Some(&Value::Bool(true)),
        values: without(row, &["at", "table", "deleted"]),
    })
}

fn expected(row: &Map<String, Value>) -> Result<Told> {
    let at = text(row, "at").ok_or_else(|| wrong("what is expected says no time").hint("at = \"30s\""))?;
    let state = text(row, "state").filter(|state| ["firing", "repeated", "resolved"].contains(state));
    let state = state.ok_or_else(|| wrong("what is expected says no state").hint("firing, repeated or resolved"))?;
    Ok(Told { at: micros(at)?, state: state.to_owned(), values: without(row, &["at", "state"]) })
}

/// The tables of a test.
struct Tables {
    of: BTreeMap<String, TestTable>,
}

struct TestTable {
    schema: SchemaRef,
    /// The columns of its key, if it has one row per key or is looked up.
    key: Option<Vec<String>>,
    rows: Arc<ReferenceRows>,
    known: Mutex<Vec<Map<String, Value>>>,
    /// The rows that came, if it keeps every record and somebody asks for them.
    came: Mutex<Vec<RecordBatch>>,
}

impl Catalog for Tables {
    fn pin(&self) -> Pinned {
        let mut pinned = Pinned::default();
        let public = pinned.schemas.entry(PUBLIC.to_owned()).or_default();
        for (name, table) in &self.of {
            let provider: Arc<dyn TableProvider> = match &table.key {
                Some(_) => Arc::new(KeyedTable::new(Arc::clone(&table.rows) as _)),
                None => match MemTable::try_new(Arc::clone(&table.schema), vec![table.came.lock().clone()]) {
                    Ok(rows) => Arc::new(rows),
                    Err(_) => continue,
                },
            };
            public.insert(name.clone(), provider);
        }
        pinned
    }

    fn keyed(&self, table: &str) -> Option<Arc<dyn Rows>> {
        let table = self.of.get(table).filter(|table| table.key.is_some())?;
        Some(Arc::clone(&table.rows) as _)
    }
}

impl Tables {
    fn new(project: &Project, file: &File, given: &[Given]) -> Result<Arc<Self>> {
        let named = given.iter().map(|given| &given.table).chain(file.columns.keys()).chain([&file.stream]);
        let mut of = BTreeMap::new();
        for name in named.collect::<BTreeSet<_>>() {
            let key = key_of(project, name);
            let is_stream = *name == file.stream && key.is_none();
            let key = if is_stream { None } else { Some(key.unwrap_or_default()) };
            let schema = columns(project, file, name, given, key.is_none())?;
            let rows = Arc::new(ReferenceRows::new(name, key.as_deref().unwrap_or_default()));
            rows.replace(RecordBatch::new_empty(Arc::clone(&schema))).map_err(wrong)?;
            of.insert(name.clone(), TestTable { schema, key, rows, known: Mutex::default(), came: Mutex::default() });
        }
        Ok(Arc::new(Self { of }))
    }

    /// These rows of a table have come, and can be asked for.
    fn keep(&self, table: &str, rows: RecordBatch) {
        if let Some(table) = self.of.get(table) {
            table.came.lock().push(rows);
        }
    }

    fn key(&self, table: &str) -> Option<&[String]> {
        self.of.get(table)?.key.as_deref()
    }

    /// Rows of tables with one row per key, and of those that are looked up, are what they are from now on.
    fn change(&self, given: &[&Given]) -> Result<()> {
        for (name, table) in &self.of {
            let Some(key) = &table.key else { continue };
            let mut known = table.known.lock();
            let of_table = given.iter().filter(|given| given.table == *name);
            for given in of_table {
                let same = |row: &Map<String, Value>| key.iter().all(|part| row.get(part) == given.values.get(part));
                if !key.is_empty() {
                    known.retain(|row| !same(row));
                }
                if !given.is_deleted {
                    known.push(given.values.clone());
                }
            }
            table.rows.replace(read(&table.schema, &known)?).map_err(wrong)?;
        }
        Ok(())
    }

    /// Rows of the stream, which come at one time.
    fn batch(&self, stream: &str, given: &[&Given], offset: i64) -> Result<Batch> {
        let Some(table) = self.of.get(stream) else { return Err(wrong(format!("there is no table {stream}"))) };
        let cause = |at: usize| Cause { topic: stream.into(), partition: 0, offset: offset + at as i64 };
        let at = BEGIN + given[0].at;
        if let Some(key) = &table.key {
            let named = |given: &&&Given| given.is_deleted;
            let (gone, here): (Vec<&&Given>, Vec<&&Given>) = given.iter().partition(named);
            let values = |given: &[&&Given]| given.iter().map(|given| given.values.clone()).collect::<Vec<_>>();
            let gone: Vec<Key> = keys(&read(&table.schema, &values(&gone))?, key);
            let gone = gone.into_iter().enumerate().map(|(number, key)| (key, at, cause(here.len() + number)));
            let rows = read(&table.schema, &values(&here))?;
            let causes = (0..here.len()).map(cause).collect();
            return Ok(Batch::new(rows, vec![at; here.len()], causes, gone.collect()));
        }
        let values: Vec<Map<String, Value>> = given.iter().map(|given| given.values.clone()).collect();
        let rows = read(&table.schema, &values)?;
        let count = rows.num_rows();
        let times = || Arc::new(TimestampMicrosecondArray::from(vec![at; count]).with_timezone("UTC")) as ArrayRef;
        let offsets = Int64Array::from_iter_values(offset..offset + count as i64);
        let fixed = |(field, column): (&Arc<Field>, &ArrayRef)| match field.name().as_str() {
            fixed::EVENT_TIME | fixed::TIMESTAMP => times(),
            fixed::TOPIC => Arc::new(StringArray::from(vec![stream; count])),
            fixed::PARTITION => Arc::new(Int32Array::from(vec![0; count])),
            fixed::OFFSET => Arc::new(offsets.clone()),
            _ => Arc::clone(column),
        };
        let columns = table.schema.fields().iter().zip(rows.columns()).map(fixed).collect();
        let rows = RecordBatch::try_new(Arc::clone(&table.schema), columns).map_err(unreadable)?;
        Batch::of_records(rows, fixed::EVENT_TIME).map_err(unreadable)
    }
}

fn unreadable(error: arrow::error::ArrowError) -> Error {
    wrong(format!("rows cannot be read: {error}"))
}

/// The key of a table with one row per key.
fn key_of(project: &Project, table: &str) -> Option<Vec<String>> {
    let latest = project.latest.iter().find(|latest| latest.table == table).map(|latest| latest.key.clone());
    let reference = || project.references.iter().find(|reference| reference.table == table).map(|r| r.key.clone());
    let mirror = || {
        let mirrors = project.tables.iter().filter(|contract| contract.format.is_change());
        mirrors.into_iter().find(|contract| contract.file == table).map(|contract| contract.key.clone())
    };
    latest.or_else(reference).or_else(mirror)
}

/// The columns of a table: those that are declared, and what rows say of the others.
fn columns(project: &Project, file: &File, table: &str, given: &[Given], is_stream: bool) -> Result<SchemaRef> {
    let mut types: BTreeMap<String, DataType> = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str, kind: DataType, types: &mut BTreeMap<String, DataType>| {
        if types.insert(name.to_owned(), kind).is_none() {
            names.push(name.to_owned());
        }
    };
    let declared = project.tables.iter().filter(|contract| contract.file == table);
    for ColumnContract { name, kind, .. } in declared.flat_map(|contract| &contract.columns) {
        if let Some(kind) = kind {
            add(name, kind.arrow_type(), &mut types);
        }
    }
    for (name, word) in file.columns.get(table).into_iter().flatten() {
        let kind = column_type(word).ok_or_else(|| wrong(format!("columns.{table}.{name}: `{word}` is no type")))?;
        add(name, kind.arrow_type(), &mut types);
    }
    for given in given.iter().filter(|given| given.table == table) {
        for (name, value) in &given.values {
            let kind = infer(value)?;
            match types.get(name) {
                Some(DataType::Int64) if kind == DataType::Float64 => add(name, kind, &mut types),
                Some(_) => {}
                None => add(name, kind, &mut types),
            }
        }
    }
    let time = ColumnType::Timestamp.arrow_type();
    if is_stream {
        for (name, kind) in [
            (fixed::EVENT_TIME, time.clone()),
            (fixed::TIMESTAMP, time),
            (fixed::TOPIC, DataType::Utf8),
            (fixed::PARTITION, DataType::Int32),
            (fixed::OFFSET, DataType::Int64),
        ] {
            add(name, kind, &mut types);
        }
    }
    let fields = names.iter().map(|name| Field::new(name, types[name].clone(), true));
    Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
}

/// The type of a column that holds such a value.
fn infer(value: &Value) -> Result<DataType> {
    Ok(match value {
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(_) => DataType::Float64,
        Value::String(_) | Value::Null => DataType::Utf8,
        Value::Array(values) => {
            let item = values.first().map_or(Ok(DataType::Utf8), infer)?;
            DataType::List(Arc::new(Field::new_list_field(item, true)))
        }
        Value::Object(_) => return Err(wrong("a row has an object in a column: name the flat column")),
    })
}

fn read(schema: &SchemaRef, rows: &[Map<String, Value>]) -> Result<RecordBatch> {
    let read = || {
        let mut decoder = ReaderBuilder::new(Arc::clone(schema)).with_batch_size(rows.len().max(1)).build_decoder()?;
        decoder.serialize(rows)?;
        Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(schema))))
    };
    read().map_err(unreadable)
}
