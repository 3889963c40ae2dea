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
