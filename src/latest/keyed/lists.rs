//! Rows that name a key of another table, all of one key in one column.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;

use super::Keyed;
use crate::latest::reader::LatestError;
use crate::latest::store::Picked;
use crate::latest::table::micros;
use crate::schema::fixed;

/// Lists that are yet to be put together, of rows as they are at one moment.
#[derive(Debug)]
pub struct Lists {
    schema: SchemaRef,
    /// Columns of the keys.
    keys: Vec<ArrayRef>,
    /// Rows of all keys, one key after the other, and where each key's end.
    rows: Picked,
    ends: Vec<usize>,
    /// Columns that all rows of a list have in common.
    common: Vec<String>,
}

impl Keyed {
    /// For each of these keys of another table, or of all, the rows that name it: the key's columns, the newest
    /// `event_time` of the rows, and `column`, the rows in the order of their keys as a list of JSON objects.
    pub fn lists(&self, keys: Option<&[ArrayRef]>, column: &str) -> Result<Option<Lists>, LatestError> {
        let Some(foreign) = &self.foreign else { return Ok(None) };
        let mut named: Vec<(&[u8], &Vec<u32>)> = match keys {
            None => foreign.slots.iter().map(|(key, slots)| (&**key, slots)).collect(),
            Some(keys) => {
                let keys = foreign.form.of_columns(keys)?;
                let known = |row| foreign.slots.get_key_value(keys.get(row)?);
                (0..keys.len()).filter_map(known).map(|(key, slots)| (&**key, slots)).collect()
            }
        };
        named.sort_unstable_by_key(|(key, _)| *key);
        named.dedup_by_key(|(key, _)| *key);
        let (mut found, mut ends, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for (key, slots) in named {
            let first = found.len();
            found.extend(slots.iter().map(|at| *at as usize).filter(|at| self.slots[*at].is_live(self.truncated)));
            found[first..].sort_unstable_by_key(|at| self.keys.key(*at));
            if found.len() > first {
                keys.push(key);
                ends.push(found.len());
            }
        }
        let (keys, rows) = (foreign.form.values(keys)?, self.pick(&found));
        Ok(Some(Lists { schema: self.lists_schema(column), keys, rows, ends, common: self.shape.foreign.clone() }))
    }

    /// The columns of [`Self::lists`].
    pub fn lists_schema(&self, column: &str) -> SchemaRef {
        let own = self.store.schema().fields().iter();
        let key = self.shape.foreign.iter().filter_map(|name| own.clone().find(|field| field.name() == name));
        let mut fields: Vec<Field> = key.map(|field| field.as_ref().clone()).collect();
        fields.push(Field::new(fixed::EVENT_TIME, micros(), true));
        fields.push(Field::new(column, DataType::Utf8, true));
        Arc::new(Schema::new(fields))
    }
}

impl Lists {
    /// Puts them together.
    pub fn put_together(self) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows.rows()?;
        let objects = self.objects(&rows)?;
        let (mut lists, mut times, mut first) = (Vec::new(), Vec::new(), 0);
        let time = rows.column_by_name(fixed::EVENT_TIME);
        let time = time.and_then(|times| times.as_primitive_opt::<TimestampMicrosecondType>());
        for end in self.ends {
            lists.push(format!("[{}]", objects[first..end].join(",")));
            times.push(time.and_then(|times| times.slice(first, end - first).iter().flatten().max()));
            first = end;
        }
        let mut columns = self.keys;
        columns.push(Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC")));
        columns.push(Arc::new(StringArray::from(lists)));
        RecordBatch::try_new(self.schema, columns)
    }

    /// Each of these rows as JSON, without what all rows of a list have in common.
    fn objects(&self, rows: &RecordBatch) -> Result<Vec<String>, ArrowError> {
        let is_own = |name: &str| name != fixed::EVENT_TIME && self.common.iter().all(|other| other != name);
        let schema = rows.schema();
        let own: Vec<usize> = (0..rows.num_columns()).filter(|at| is_own(schema.field(*at).name())).collect();
        let rows = rows.project(&own)?;
        let mut text = Vec::new();
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut text);
        writer.write(&rows)?;
        writer.finish()?;
        drop(writer);
        let text = String::from_utf8(text).map_err(|error| ArrowError::JsonError(error.to_string()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}
