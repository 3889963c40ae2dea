//! What is recorded of a schema version: a row of `system.schema_versions`, never changed once written.
//!
//! The row is enough to make the version again ([`VersionRecord::read`]): a recorded version is never inferred twice.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use super::{Column, ColumnType, Found, SchemaVersion, names::fnv1a_64};

/// A schema version of a table with where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRecord {
    /// Table name.
    pub table: String,
    /// The version.
    pub version: Arc<SchemaVersion>,
    /// Number of the version before it; `None` for the first.
    pub parent: Option<u32>,
    /// First value of each column, where known; one entry per column.
    pub first_seen: Vec<Option<Place>>,
    /// What is new in it.
    pub changes: Vec<Change>,
    /// Why it was made.
    pub cause: Cause,
    /// When, in microseconds since 1970.
    pub at_us: i64,
}

/// A record's place in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Topic name.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// Why a version was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// A record that the version before could not hold.
    Record(Place),
    /// Somebody edited this file.
    Edit(String),
    /// The table had it before versions were recorded.
    Adopted,
}

/// One difference between a version and the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub change: ChangeKind,
    /// The column, under the name people see.
    pub column: String,
    /// Its type now.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its type before, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Where its values come from.
    pub path: String,
    /// The record that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The beginning of the value that brought it, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

/// Kinds of [`Change`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// A new column for a path that none had.
    Add,
    /// A declared column found the path that gives it its values.
    Bind,
    /// A successor of a wider type, without loss.
    Widen,
    /// A successor of strings, because a value did not fit (`on_type_conflict = "string"`).
    Conflict,
    /// An integer beyond ±2⁵³ came: the column no longer widens to double.
    Range,
    /// The contract was edited.
    Contract,
}

impl ChangeKind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            ChangeKind::Add => "add",
            ChangeKind::Bind => "bind",
            ChangeKind::Widen => "widen",
            ChangeKind::Conflict => "conflict",
            ChangeKind::Range => "range",
            ChangeKind::Contract => "contract",
        }
    }
}

/// Form of a column in `fields`.
#[derive(Debug, Serialize, Deserialize)]
struct FieldForm {
    name: String,
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    key: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    widens: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    exact: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_seen: Option<Place>,
}

impl SchemaVersion {
    /// A hash of the columns, without their descriptions, that is the same wherever and whenever it is computed: 16 hex digits.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for (at, column) in self.columns.iter().enumerate() {
            let form = FieldForm { description: None, ..field_form(column, at < self.keys, None) };
            text.push_str(&serde_json::to_string(&form).unwrap_or_default());
            text.push('\n');
        }
        format!("{:016x}", fnv1a_64(text.as_bytes()))
    }
}

impl VersionRecord {
    /// The record of `version`, which follows `parent`. `found` is what led to it.
    pub fn new(
        table: &str,
        parent: Option<&VersionRecord>,
        version: Arc<SchemaVersion>,
        found: &[Found],
        cause: Cause,
        at_us: i64,
    ) -> Self {
        let before = parent.map(|parent| &*parent.version);
        let first_find = |column: &Column| {
            found.iter().filter(|find| find.path == column.path).min_by(|a, b| a.place().cmp(&b.place()))
        };
        let known = |column: &Column| {
            let parent = parent?;
            let at = parent.version.columns.iter().position(|known| known.name == column.name)?;
            parent.first_seen.get(at)?.clone()
        };
        let first_seen =
            version.columns.iter().map(|column| known(column).or_else(|| first_find(column).map(place))).collect();
        let edited = matches!(cause, Cause::Edit(_));
        let mut changes = Vec::new();
        for column in &version.columns {
            let old = before.and_then(|before| before.columns.iter().find(|old| old.name == column.name));
            let was = before
                .filter(|_| old.is_none())
                .and_then(|before| before.columns.iter().rfind(|old| old.logical() == column.logical()));
            let change = match old {
                None if edited => ChangeKind::Contract,
                None if was.is_none() => ChangeKind::Add,
                None if column.kind == ColumnType::String => ChangeKind::Conflict,
                None => ChangeKind::Widen,
                Some(old) if old.path != column.path => ChangeKind::Bind,
                Some(old) if old.exact != column.exact => ChangeKind::Range,
                Some(_) => continue,
            };
            let find = first_find(column);
            changes.push(Change {
                change,
                column: column.logical().to_owned(),
                kind: column.kind.word().to_owned(),
                was: was.map(|was| was.kind.word().to_owned()),
                path: column.path.to_string(),
                place: find.map(place),
                sample: find.map(|find| find.sample.clone()).filter(|sample| !sample.is_empty()),
            });
        }
        let parent = parent.map(|parent| parent.version.number);
        Self { table: table.to_owned(), version, parent, first_seen, changes, cause, at_us }
    }

    /// The version's number.
    pub fn number(&self) -> u32 {
        self.version.number
    }

    /// The columns of `system.schema_versions`. All are nullable, as in every table.
    pub fn schema() -> SchemaRef {
        let fields = [
            ("table_name", DataType::Utf8),
            ("version", DataType::Int32),
            ("parent", DataType::Int32),
            ("fingerprint", DataType::Utf8),
            ("fields", DataType::Utf8),
            ("changes", DataType::Utf8),
            ("cause", DataType::Utf8),
            ("file", DataType::Utf8),
            ("topic", DataType::Utf8),
            ("partition", DataType::Int32),
            ("offset", DataType::Int64),
            ("at", ColumnType::Timestamp.arrow_type()),
        ];
        Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).to_vec()))
    }

    /// One row per record. `fields` and `changes` are JSON arrays.
    pub fn write(records: &[&VersionRecord]) -> Result<RecordBatch, ArrowError> {
        let texts = |text: &dyn Fn(&VersionRecord) -> Option<String>| -> ArrayRef {
            Arc::new(records.iter().map(|record| text(record)).collect::<StringArray>())
        };
        let ints = |int: &dyn Fn(&VersionRecord) -> Option<i32>| -> ArrayRef {
            Arc::new(records.iter().map(|record| int(record)).collect::<Int32Array>())
        };
        let offsets = records.iter().map(|record| Some(record.place()?.offset)).collect::<Int64Array>();
        let at = TimestampMicrosecondArray::from_iter_values(records.iter().map(|record| record.at_us));
        let fault = |error: serde_json::Error| ArrowError::JsonError(error.to_string());
        let mut fields = Vec::new();
        let mut changes = Vec::new();
        for record in records {
            fields.push(serde_json::to_string(&record.field_forms()).map_err(fault)?);
            changes.push(serde_json::to_string(&record.changes).map_err(fault)?);
        }
        let columns: Vec<ArrayRef> = vec![
            texts(&|record| Some(record.table.clone())),
            ints(&|record| Some(record.number().cast_signed())),
            ints(&|record| record.parent.map(u32::cast_signed)),
            texts(&|record| Some(record.version.fingerprint())),
            Arc::new(StringArray::from(fields)),
            Arc::new(StringArray::from(changes)),
            texts(&|record| Some(record.cause.word().to_owned())),
            texts(&|record| match &record.cause {
                Cause::Edit(file) => Some(file.clone()),
                _ => None,
            }),
            texts(&|record| Some(record.place()?.topic.clone())),
            ints(&|record| Some(record.place()?.partition)),
            Arc::new(offsets),
            Arc::new(at.with_timezone("UTC")),
        ];
        RecordBatch::try_new(Self::schema(), columns)
    }

    /// The inverse of [`VersionRecord::write`].
    pub fn read(batch: &RecordBatch) -> Result<Vec<Self>, ArrowError> {
        let wanted = Self::schema();
        // A server's wire types differ: they are brought back.
        let column = |name: &str| -> Result<ArrayRef, ArrowError> {
            let found = batch.column_by_name(name);
            let found = found.ok_or_else(|| ArrowError::SchemaError(format!("column {name} is missing")))?;
            arrow::compute::cast(found, wanted.field_with_name(name)?.data_type())
        };
        let (tables, fields, changes) = (column("table_name")?, column("fields")?, column("changes")?);
        let (files, topics) = (column("file")?, column("topic")?);
        let (numbers, parents, partitions) = (column("version")?, column("parent")?, column("partition")?);
        let (offsets, at) = (column("offset")?, column("at")?);
        let (numbers, parents) = (numbers.as_primitive::<Int32Type>(), parents.as_primitive::<Int32Type>());
        let partitions = partitions.as_primitive::<Int32Type>();
        let (offsets, at) = (offsets.as_primitive::<Int64Type>(), at.as_primitive::<TimestampMicrosecondType>());
        let string = |array: &ArrayRef, row: usize| array.as_string::<i32>().value(row).to_owned();
        let fault = |what: String| ArrowError::JsonError(what);
        let record = |row: usize| {
            let forms: Vec<FieldForm> =
                serde_json::from_str(&string(&fields, row)).map_err(|error| fault(error.to_string()))?;
            let keys = forms.iter().take_while(|form| form.key).count();
            let number = numbers.value(row).unsigned_abs();
            let mut version = SchemaVersion { number, keys, columns: Vec::new() };
            let mut first_seen = Vec::new();
            for form in forms {
                let FieldForm { name, widens, exact, description, .. } = form;
                let path = form.path.parse().map_err(|error| fault(format!("column {name}: {error}")))?;
                let kind = ColumnType::from_word(&form.kind)
                    .ok_or_else(|| fault(format!("column {name}: `{}` is not a type", form.kind)))?;
                version.columns.push(Column { name, path, kind, widens, exact, description });
                first_seen.push(form.first_seen);
            }
            let cause = match (files.is_valid(row), topics.is_valid(row)) {
                (true, _) => Cause::Edit(string(&files, row)),
                (_, true) => Cause::Record(Place {
                    topic: string(&topics, row),
                    partition: partitions.value(row),
                    offset: offsets.value(row),
                }),
                _ => Cause::Adopted,
            };
            Ok(Self {
                table: string(&tables, row),
                version: Arc::new(version),
                parent: parents.is_valid(row).then(|| parents.value(row).unsigned_abs()),
                first_seen,
                changes: serde_json::from_str(&string(&changes, row)).map_err(|error| fault(error.to_string()))?,
                cause,
                at_us: at.value(row),
            })
        };
        (0..batch.num_rows()).map(record).collect()
    }

    fn place(&self) -> Option<&Place> {
        match &self.cause {
            Cause::Record(place) => Some(place),
            _ => None,
        }
    }

    fn field_forms(&self) -> Vec<FieldForm> {
        let columns = self.version.columns.iter().zip(&self.first_seen).enumerate();
        columns.map(|(at, (column, seen))| field_form(column, at < self.version.keys, seen.clone())).collect()
    }
}

impl Cause {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Cause::Record(_) => "record",
            Cause::Edit(_) => "edit",
            Cause::Adopted => "adopted",
        }
    }
}

impl From<&Found> for Cause {
    fn from(find: &Found) -> Self {
        Self::Record(place(find))
    }
}

fn place(find: &Found) -> Place {
    Place { topic: find.topic.to_string(), partition: find.partition, offset: find.offset }
}

fn field_form(column: &Column, key: bool, first_seen: Option<Place>) -> FieldForm {
    FieldForm {
        name: column.name.clone(),
        path: column.path.to_string(),
        kind: column.kind.word().to_owned(),
        key,
        widens: column.widens.clone(),
        description: column.description.clone(),
        exact: column.exact,
        first_seen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Contract, Observed, OnTypeConflict, tests::contract, version::tests::find};

    fn versions() -> Vec<VersionRecord> {
        let contract = Contract { key: vec!["id".into()], on_type_conflict: OnTypeConflict::Widen, ..contract() };
        let seen = [find("id", Observed::STRING, 0, 0), find("v.speed", Observed::INTEGER, 0, 9)];
        let first = SchemaVersion::first(&contract, &seen);
        let later = [find("v.speed", Observed::REAL, 7, 3), find("v.new", Observed::BOOLEAN, 8, 3)];
        let second = first.evolve(&contract, &later).unwrap();
        let first = VersionRecord::new("t", None, Arc::new(first), &seen, (&seen[0]).into(), 5);
        let second = VersionRecord::new("t", Some(&first), Arc::new(second), &later, (&later[0]).into(), 6);
        let edit = Cause::Edit("schemas/t.toml".into());
        let mut columns = second.version.columns.clone();
        columns.push(Column::new("told".into(), "t.old".parse().unwrap(), ColumnType::Date));
        let third = Arc::new(SchemaVersion { number: 3, keys: 1, columns });
        let third = VersionRecord::new("t", Some(&second), third, &[], edit, 7);
        let adopted = VersionRecord::new("u", None, Arc::clone(&third.version), &[], Cause::Adopted, 8);
        vec![first, second, third, adopted]
    }

    #[test]
    fn a_record_reads_back_from_its_row() {
        let records = versions();
        let batch = VersionRecord::write(&records.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(VersionRecord::read(&batch).unwrap(), records);
    }

    #[test]
    fn changes_say_what_is_new_and_what_brought_it() {
        let records = versions();
        type Told<'a> = (&'a str, &'a str, &'a str, Option<i64>);
        let told: Vec<Vec<Told<'_>>> = records
            .iter()
            .map(|record| {
                let one = |change: &'_ Change| change.place.as_ref().map(|place| place.offset);
                let changes = record.changes.iter();
                changes.map(|change| (change.change.word(), &*change.column, &*change.kind, one(change))).collect()
            })
            .collect();
        assert_eq!(told[0], [("add", "id", "string", Some(0)), ("add", "v_speed", "bigint", Some(0))]);
        assert_eq!(told[1], [("widen", "v_speed", "double", Some(7)), ("add", "v_new", "boolean", Some(8))]);
        assert_eq!(told[2], [("contract", "told", "date", None)]);
        assert_eq!(records[1].changes[0].was.as_deref(), Some("bigint"));
        // The successor was first seen when it came, the column it succeeds when that did.
        let seen: Vec<_> = records[2].first_seen.iter().map(|place| place.as_ref().map(|place| place.offset)).collect();
        assert_eq!(seen, [Some(0), Some(0), Some(7), Some(8), None]);
    }

    #[test]
    fn a_fingerprint_is_of_the_columns_alone_and_never_changes() {
        let records = versions();
        assert_eq!(records[2].version.fingerprint(), records[3].version.fingerprint());
        assert_ne!(records[0].version.fingerprint(), records[1].version.fingerprint());
        let empty = SchemaVersion { number: 1, keys: 0, columns: vec![] };
        assert_eq!(empty.fingerprint(), "cbf29ce484222325");
        let one = SchemaVersion { number: 9, keys: 1, columns: versions()[0].version.columns[..1].to_vec() };
        assert_eq!(one.fingerprint(), FROZEN, "recorded fingerprints would no longer be found");
    }

    const FROZEN: &str = "8d275f65cba61073";
}
