//! Key columns as bytes that can be hashed and compared.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

/// Turns the values of key columns into bytes: equal keys, and only those, have equal bytes.
#[derive(Debug)]
pub(super) struct KeyForm {
    kinds: Vec<DataType>,
    converter: RowConverter,
}

/// Keys of a batch's rows; a row that has none (a value is missing) is `None`.
#[derive(Debug)]
pub(super) struct Keys {
    rows: Rows,
    whole: Vec<bool>,
}

impl KeyForm {
    /// Keys of columns `key`, with the types they have in `schema`.
    pub fn new(key: &[String], schema: &SchemaRef) -> Result<Self, ArrowError> {
        let kinds = key.iter().map(|name| Ok(schema.field_with_name(name)?.data_type().clone()));
        let kinds: Vec<DataType> = kinds.collect::<Result<_, ArrowError>>()?;
        let converter = RowConverter::new(kinds.iter().cloned().map(SortField::new).collect())?;
        Ok(Self { kinds, converter })
    }

    /// The types of the key columns.
    pub fn kinds(&self) -> &[DataType] {
        &self.kinds
    }

    /// The values of keys, as columns; of bytes that are no key's, an error.
    pub fn values<'a>(&self, keys: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        let parser = self.converter.parser();
        self.converter.convert_rows(keys.into_iter().map(|key| parser.parse(key)))
    }

    /// The keys in these columns of `batch`; `None` if they are not there, or none are named.
    pub fn of(&self, batch: &RecordBatch, names: &[String]) -> Result<Option<Keys>, ArrowError> {
        let columns = names.iter().map(|name| batch.column_by_name(name).cloned()).collect::<Option<Vec<_>>>();
        columns.filter(|columns| !columns.is_empty()).map(|columns| self.of_columns(&columns)).transpose()
    }

    /// The keys in these columns, brought to the key's types.
    pub fn of_columns(&self, columns: &[ArrayRef]) -> Result<Keys, ArrowError> {
        let columns = columns.iter().zip(&self.kinds).map(|(column, kind)| cast(column, kind));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let count = columns.first().map_or(0, |column| column.len());
        let whole = (0..count).map(|row| columns.iter().all(|column| column.is_valid(row))).collect();
        Ok(Keys { rows: self.converter.convert_columns(&columns)?, whole })
    }
}

impl Keys {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.whole.len()
    }

    /// The key of a row.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        self.whole[row].then(|| self.rows.row(row).data())
    }
}

/// Parts that the rows of a table are divided into on the lake, by their keys.
#[derive(Debug)]
pub struct Buckets {
    form: KeyForm,
    count: u32,
}

impl Buckets {
    /// `count` parts, of rows with this key.
    pub fn new(key: &[String], schema: &SchemaRef, count: u32) -> Result<Self, ArrowError> {
        Ok(Self { form: KeyForm::new(key, schema)?, count: count.max(1) })
    }

    /// The part of each key, given as columns; a key with a missing value is in the first.
    ///
    /// The numbers must be the same for ever: rows of a table are where an earlier process has put them.
    pub fn of(&self, keys: &[ArrayRef]) -> Result<Vec<u32>, ArrowError> {
        let keys = self.form.of_columns(keys)?;
        let bucket = |row| keys.get(row).map_or(0, |key| twox_hash::XxHash64::oneshot(0, key) % u64::from(self.count));
        Ok((0..keys.len()).map(|row| bucket(row) as u32).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    /// A library that writes keys or hashes them in another way must not be taken over without rewriting tables.
    #[test]
    fn a_key_is_in_the_same_bucket_for_ever() {
        let field = |name: &str, kind: &DataType| Field::new(name, kind.clone(), true);
        let buckets = |kinds: &[DataType]| {
            let names = ["a", "b"].iter().zip(kinds);
            let schema = Schema::new(names.map(|(name, kind)| field(name, kind)).collect::<Vec<_>>());
            let key: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
            Buckets::new(&key, &Arc::new(schema), 1_000).unwrap()
        };
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(-7), Some(1 << 40), None]));
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec!["", "12가3456", "a longer text than one block of the form", "x"]));
        let of = |kinds: &[DataType], columns: &[ArrayRef]| buckets(kinds).of(columns).unwrap();
        let found = [
            of(&[DataType::Int64], &[Arc::clone(&numbers)]),
            of(&[DataType::Utf8], &[Arc::clone(&texts)]),
            of(&[DataType::Int64, DataType::Utf8], &[numbers, texts]),
        ];
        assert_eq!(found, [[919, 725, 626, 0], [960, 18, 270, 444], [212, 231, 22, 0]]);
    }
}
