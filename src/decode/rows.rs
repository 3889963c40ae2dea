//! Arrow builders of one batch. A column is touched only by rows that have a value for it: the nulls between
//! are caught up in one step, so that a sparse message costs what it holds, not what the table is wide.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayBuilder, ArrayRef, BooleanBuilder, Date32Array, Date32Builder, Float64Builder, Int32Array, Int64Array,
        Int64Builder, ListArray, NullBufferBuilder, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray,
        TimestampMicrosecondBuilder, new_null_array,
    },
    buffer::OffsetBuffer,
    datatypes::SchemaRef,
    error::ArrowError,
};

use super::{
    Records,
    fit::{Arena, Held, Value},
};
use crate::schema::{ColumnType, Element, SchemaVersion, element_field};

/// The fixed columns of one row that differ from row to row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed<'a> {
    pub event_us: i64,
    pub offset: i64,
    pub row: i32,
    pub timestamp_us: i64,
    pub rescued: Option<&'a str>,
    pub day: i32,
}

/// Rows of one batch under construction.
pub(super) struct Rows {
    /// Rows that the first value of a column makes room for.
    expected: usize,
    /// Columns, and how many rows each has by now; none that was not touched has.
    columns: Vec<(Option<usize>, Column)>,
    event_us: Vec<i64>,
    offset: Vec<i64>,
    row: Vec<i32>,
    timestamp_us: Vec<i64>,
    rescued: Column,
    day: Vec<i32>,
}

impl Rows {
    /// A batch of about `records` rows.
    pub fn new(version: &SchemaVersion, records: usize) -> Self {
        Self {
            expected: records,
            columns: version.columns.iter().map(|column| (None, Column::new(column.kind))).collect(),
            event_us: Vec::with_capacity(records),
            offset: Vec::with_capacity(records),
            row: Vec::with_capacity(records),
            timestamp_us: Vec::with_capacity(records),
            rescued: Column::new(ColumnType::Json),
            day: Vec::with_capacity(records),
        }
    }

    /// Begins a row.
    pub fn begin(&mut self, fixed: Fixed<'_>) {
        if let Some(rescued) = fixed.rescued {
            self.rescued.catch_up(self.offset.len());
            self.rescued.push_text(rescued);
        }
        self.event_us.push(fixed.event_us);
        self.offset.push(fixed.offset);
        self.row.push(fixed.row);
        self.timestamp_us.push(fixed.timestamp_us);
        self.day.push(fixed.day);
    }

    /// Sets a column of the row last begun, once; `input` and `arena` are what the value may point into.
    pub fn set(&mut self, column: u32, value: Value, input: &str, arena: &Arena) {
        let (length, column) = &mut self.columns[column as usize];
        let row = self.offset.len() - 1;
        if *length != Some(row) {
            if length.is_none() {
                column.reserve(self.expected);
            }
            column.catch_up(row);
        }
        column.push(value, input, arena);
        *length = Some(row + 1);
    }

    /// The batch in the version's Arrow form, `schema`.
    pub fn finish(
        self,
        version: &SchemaVersion,
        schema: &SchemaRef,
        records: &Records,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = self.offset.len();
        let ints = |value: i32| -> ArrayRef { Arc::new(Int32Array::from_value(value, rows)) };
        let topic = StringArray::from_iter_values(std::iter::repeat_n(&records.topic, rows));
        let fixed: [ArrayRef; 10] = [
            Arc::new(TimestampMicrosecondArray::from(self.event_us).with_timezone("UTC")),
            Arc::new(topic),
            ints(records.incarnation as i32),
            ints(records.partition),
            Arc::new(Int64Array::from(self.offset)),
            Arc::new(Int32Array::from(self.row)),
            Arc::new(TimestampMicrosecondArray::from(self.timestamp_us).with_timezone("UTC")),
            ints(version.number as i32),
            self.rescued.finish(ColumnType::Json, rows)?,
            Arc::new(Date32Array::from(self.day)),
        ];
        let columns = self.columns.into_iter().zip(&version.columns);
        let mut columns: Vec<ArrayRef> =
            columns.map(|((_, values), column)| values.finish(column.kind, rows)).collect::<Result<_, _>>()?;
        columns.splice(version.keys..version.keys, fixed);
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// A column's values so far; it may lag behind the rows.
enum Column {
    Boolean(BooleanBuilder),
    Integer(Int64Builder),
    Double(Float64Builder),
    Text(StringBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    Date(Date32Builder),
    List(Box<Lists>),
}

/// A column of lists.
struct Lists {
    element: Element,
    /// Where each list ends in `elements`.
    ends: Vec<i32>,
    validity: NullBufferBuilder,
    elements: Column,
}

impl Lists {
    #[inline(never)]
    fn push(&mut self, elements: &[Value], input: &str, arena: &Arena) {
        for element in elements {
            self.elements.push(*element, input, arena);
        }
        self.ends.push(self.elements.len() as i32);
        self.validity.append_non_null();
    }
}

impl Column {
    fn new(kind: ColumnType) -> Self {
        // Without capacity: a wide table holds many columns that a batch never touches.
        match kind {
            ColumnType::Boolean => Column::Boolean(BooleanBuilder::with_capacity(0)),
            ColumnType::Int64 => Column::Integer(Int64Builder::with_capacity(0)),
            ColumnType::Double => Column::Double(Float64Builder::with_capacity(0)),
            ColumnType::String | ColumnType::Json => Column::Text(StringBuilder::with_capacity(0, 0)),
            ColumnType::Timestamp => {
                Column::Timestamp(TimestampMicrosecondBuilder::with_capacity(0).with_timezone("UTC"))
            }
            ColumnType::Date => Column::Date(Date32Builder::with_capacity(0)),
            ColumnType::List(element) => Column::List(Box::new(Lists {
                element,
                ends: Vec::new(),
                validity: NullBufferBuilder::new(0),
                elements: Column::new(element.column_type()),
            })),
        }
    }

    fn len(&self) -> usize {
        match self {
            Column::Boolean(builder) => builder.len(),
            Column::Integer(builder) => builder.len(),
            Column::Double(builder) => builder.len(),
            Column::Text(builder) => builder.len(),
            Column::Timestamp(builder) => builder.len(),
            Column::Date(builder) => builder.len(),
            Column::List(lists) => lists.ends.len(),
        }
    }

    /// Makes room for `rows` rows: a column that has one value has a slot for each row in the end.
    fn reserve(&mut self, rows: usize) {
        match self {
            Column::Integer(builder) => *builder = Int64Builder::with_capacity(rows),
            Column::Double(builder) => *builder = Float64Builder::with_capacity(rows),
            Column::Text(builder) => *builder = StringBuilder::with_capacity(rows, 8 * rows),
            Column::Boolean(builder) => *builder = BooleanBuilder::with_capacity(rows),
            Column::Timestamp(builder) => {
                *builder = TimestampMicrosecondBuilder::with_capacity(rows).with_timezone("UTC");
            }
            Column::Date(builder) => *builder = Date32Builder::with_capacity(rows),
            Column::List(lists) => lists.ends.reserve(rows),
        }
    }

    /// Adds nulls until it has `rows` rows.
    fn catch_up(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        if missing == 0 {
            return;
        }
        match self {
            Column::Boolean(builder) => builder.append_nulls(missing),
            Column::Integer(builder) => builder.append_nulls(missing),
            Column::Double(builder) => builder.append_nulls(missing),
            Column::Text(builder) => builder.append_nulls(missing),
            Column::Timestamp(builder) => builder.append_nulls(missing),
            Column::Date(builder) => builder.append_nulls(missing),
            Column::List(lists) => {
                lists.ends.resize(rows, lists.elements.len() as i32);
                lists.validity.append_n_nulls(missing);
            }
        }
    }

    fn push_text(&mut self, text: &str) {
        if let Column::Text(builder) = self {
            builder.append_value(text);
        }
    }

    #[inline(always)]
    fn push(&mut self, value: Value, input: &str, arena: &Arena) {
        match (self, value.get()) {
            (Column::Boolean(builder), Held::Boolean(value)) => builder.append_value(value),
            (Column::Integer(builder), Held::Integer(value)) => builder.append_value(value),
            (Column::Double(builder), Held::Double(value)) => builder.append_value(value),
            (Column::Timestamp(builder), Held::Integer(value)) => builder.append_value(value),
            (Column::Date(builder), Held::Integer(value)) => builder.append_value(value as i32),
            (column, Held::Input(range)) => column.push_text(&input[range]),
            (column, Held::Text(range)) => column.push_text(&arena.text[range]),
            (Column::List(lists), Held::List(range)) => lists.push(&arena.elements[range], input, arena),
            (column, Held::Null) => column.catch_up(column.len() + 1),
            // `fit` makes the value for the column's type.
            (_, value) => debug_assert!(false, "{value:?} for a column of another type"),
        }
    }

    fn finish(mut self, kind: ColumnType, rows: usize) -> Result<ArrayRef, ArrowError> {
        if self.len() == 0 {
            return Ok(new_null_array(&kind.arrow_type(), rows));
        }
        self.catch_up(rows);
        Ok(match self {
            Column::Boolean(mut builder) => Arc::new(builder.finish()),
            Column::Integer(mut builder) => Arc::new(builder.finish()),
            Column::Double(mut builder) => Arc::new(builder.finish()),
            Column::Text(mut builder) => Arc::new(builder.finish()),
            Column::Timestamp(mut builder) => Arc::new(builder.finish()),
            Column::Date(mut builder) => Arc::new(builder.finish()),
            Column::List(lists) => {
                let Lists { element, ends, mut validity, elements } = *lists;
                let count = elements.len();
                let ends = OffsetBuffer::new(std::iter::once(0).chain(ends).collect());
                let elements = elements.finish(element.column_type(), count)?;
                Arc::new(ListArray::try_new(element_field(element), ends, elements, validity.finish())?)
            }
        })
    }
}
