//! Rows of PostgreSQL's catalogs, told by the columns' names, and what is put where nothing is told.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Int16Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::error::ArrowError;

use super::pg_type::TYPE_KEY;

/// The column that says of which catalog a row is.
pub(super) const TABLEOID: &str = "tableoid";

/// A value of a catalog.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Ints(Vec<i64>),
    Texts(Vec<String>),
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

pub(super) type Row = HashMap<&'static str, Cell>;

macro_rules! row {
    ($($name:ident: $value:expr),* $(,)?) => {
        Row::from([$((stringify!($name), Cell::from($value))),*])
    };
}

pub(super) use row;

/// One column of a catalog, as `tables` writes it.
struct Column {
    name: &'static str,
    letter: char,
    is_optional: bool,
}

fn columns_of(spec: &'static str) -> impl Iterator<Item = Column> {
    // A hidden column of every table in PostgreSQL; the last one here.
    let hidden = Column { name: TABLEOID, letter: 'o', is_optional: false };
    let told = spec.split_whitespace().filter_map(|column| {
        let (name, letter) = column.split_once(':')?;
        let is_optional = letter.starts_with('?');
        Some(Column { name, letter: letter.chars().last()?, is_optional })
    });
    told.chain(std::iter::once(hidden))
}

impl Column {
    fn field(&self) -> Field {
        let item = |data_type| DataType::new_list(data_type, true);
        let (data_type, named) = match self.letter {
            'o' => (DataType::Int64, Some("oid")),
            'n' => (DataType::Utf8, Some("name")),
            'c' => (DataType::Utf8, Some("char")),
            'b' => (DataType::Boolean, None),
            's' => (DataType::Int16, None),
            'i' => (DataType::Int32, None),
            'l' => (DataType::Int64, None),
            'f' => (DataType::Float32, None),
            'z' => (DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), None),
            'S' => (item(DataType::Int16), None),
            'O' => (item(DataType::Int64), Some("oid")),
            'V' => (item(DataType::Int16), Some("int2vector")),
            'W' => (item(DataType::Int64), Some("oidvector")),
            'T' => (item(DataType::Utf8), None),
            _ => (DataType::Utf8, None),
        };
        let metadata = named.map(|name| (TYPE_KEY.to_owned(), name.to_owned())).into_iter().collect();
        Field::new(self.name, data_type, true).with_metadata(metadata)
    }

    /// What a row has where nothing is told.
    fn default(&self) -> Cell {
        match self.letter {
            _ if self.is_optional => Cell::Null,
            'o' | 's' | 'i' | 'l' => Cell::Int(0),
            'f' => Cell::Float(0.0),
            'b' => Cell::Bool(false),
            'S' | 'O' | 'V' | 'W' => Cell::Ints(Vec::new()),
            'T' => Cell::Texts(Vec::new()),
            'z' => Cell::Null,
            _ => Cell::Text(String::new()),
        }
    }

    fn array(&self, rows: &[Row]) -> ArrayRef {
        let default = self.default();
        let cells = rows.iter().map(|row| row.get(self.name).unwrap_or(&default));
        let int = |cell: &Cell| if let Cell::Int(value) = cell { Some(*value) } else { None };
        macro_rules! build {
            ($builder:expr, $value:expr) => {{
                let mut builder = $builder;
                for cell in cells {
                    builder.append_option($value(cell));
                }
                Arc::new(builder.finish())
            }};
        }
        match self.letter {
            'o' | 'l' => build!(Int64Builder::new(), int),
            'i' => build!(Int32Builder::new(), |cell| int(cell).map(|value| value as i32)),
            's' => build!(Int16Builder::new(), |cell| int(cell).map(|value| value as i16)),
            'b' => build!(BooleanBuilder::new(), |cell: &Cell| if let Cell::Bool(value) = cell {
                Some(*value)
            } else {
                None
            }),
            'f' => build!(Float32Builder::new(), |cell: &Cell| if let Cell::Float(value) = cell {
                Some(*value as f32)
            } else {
                None
            }),
            'z' => build!(TimestampMicrosecondBuilder::new().with_timezone("UTC"), int),
            'S' | 'V' => build!(ListBuilder::new(Int16Builder::new()), |cell: &Cell| items(cell)
                .map(|values| values.into_iter().map(|value| Some(value as i16)).collect::<Vec<_>>())),
            'O' | 'W' => build!(ListBuilder::new(Int64Builder::new()), |cell: &Cell| items(cell)
                .map(|values| values.into_iter().map(Some).collect::<Vec<_>>())),
            'T' => build!(ListBuilder::new(StringBuilder::new()), |cell: &Cell| if let Cell::Texts(values) = cell {
                Some(values.iter().cloned().map(Some).collect::<Vec<_>>())
            } else {
                None
            }),
            _ => build!(StringBuilder::new(), |cell: &'_ Cell| if let Cell::Text(value) = cell {
                Some(value.clone())
            } else {
                None
            }),
        }
    }
}

fn items(cell: &Cell) -> Option<Vec<i64>> {
    if let Cell::Ints(values) = cell { Some(values.clone()) } else { None }
}

pub(super) fn batch(spec: &'static str, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<Column> = columns_of(spec).collect();
    debug_assert!(
        rows.iter().flat_map(|row| row.keys()).all(|name| columns.iter().any(|column| column.name == *name)),
        "a row tells nothing that its catalog has no column for"
    );
    let schema = Schema::new(columns.iter().map(Column::field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.iter().map(|column| column.array(rows)).collect())
}
