//! The columns of one batch under construction. A column is touched only by rows that have a value for it: the nulls
//! between are caught up in one step, so that a sparse message costs what it holds, not what the table is wide. Values
//! are written while their record is read; a record that turns out bad takes them back.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, Date32Array, Int32Array, Int64Array,
        ListArray, PrimitiveArray, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
    },
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    datatypes::{ArrowNativeType, Date32Type, Float64Type, Int64Type, SchemaRef, TimestampMicrosecondType},
    error::ArrowError,
};

use super::{
    Records,
    fit::{Arena, Held, Value},
};
use crate::schema::{ColumnType, Element, SchemaVersion, element_field};

/// Bytes per row that the first text of a column makes room for, unless an earlier batch says better.
const TEXT_BYTES: usize = 8;

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

/// Rows of one batch under construction, and the values so far of the row that comes next.
#[derive(Debug)]
pub(super) struct Rows {
    /// Rows that the first value of a column makes room for.
    expected: usize,
    columns: Vec<Column>,
    /// Bytes of text in the columns, and elements of lists, which are bounded alike.
    text_bytes: usize,
    /// Rows of whole records.
    whole: usize,
    event_us: Vec<i64>,
    offset: Vec<i64>,
    row: Vec<i32>,
    timestamp_us: Vec<i64>,
    rescued: Column,
    day: Vec<i32>,
}

impl Rows {
    /// No rows of `version` yet.
    pub fn new(version: &SchemaVersion) -> Self {
        Self {
            expected: 0,
            columns: version.columns.iter().map(|column| Column::new(column.kind)).collect(),
            text_bytes: 0,
            whole: 0,
            event_us: Vec::new(),
            offset: Vec::new(),
            row: Vec::new(),
            timestamp_us: Vec::new(),
            rescued: Column::new(ColumnType::Json),
            day: Vec::new(),
        }
    }

    /// No rows yet of a batch like this one.
    pub fn like(&self, version: &SchemaVersion) -> Self {
        let mut rows = Self::new(version);
        for (column, before) in rows.columns.iter_mut().zip(&self.columns) {
            if let (Column::Text(texts), Column::Text(before)) = (column, before) {
                texts.per_row = TEXT_BYTES.max(before.text.len() / self.len().max(1) + 1);
            }
        }
        rows
    }

    /// Makes room for about `rows` rows.
    pub fn reserve(&mut self, rows: usize) {
        self.expected = rows;
        self.event_us.reserve(rows);
        self.offset.reserve(rows);
        self.row.reserve(rows);
        self.timestamp_us.reserve(rows);
        self.day.reserve(rows);
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offset.len()
    }

    /// Begins a record: from here on rows can be taken back.
    pub fn begin_record(&mut self) {
        self.whole = self.len();
    }

    /// Number of rows of the record last begun.
    pub fn of_record(&self) -> usize {
        self.len() - self.whole
    }

    /// Takes back all of the record last begun.
    pub fn take_back_record(&mut self) {
        self.truncate(self.whole);
    }

    /// Takes back the values of the row that comes next.
    pub fn take_back_row(&mut self) {
        self.truncate(self.len());
    }

    fn truncate(&mut self, rows: usize) {
        for column in self.columns.iter_mut().chain([&mut self.rescued]) {
            self.text_bytes -= column.truncate(rows);
        }
        self.event_us.truncate(rows);
        self.offset.truncate(rows);
        self.row.truncate(rows);
        self.timestamp_us.truncate(rows);
        self.day.truncate(rows);
    }

    /// Bytes of text that the rows hold, `topic` in each, and elements of lists, which are bounded alike.
    pub fn text_bytes(&self, topic: &str) -> usize {
        self.text_bytes.saturating_add(topic.len().saturating_mul(self.len()))
    }

    /// Sets a boolean column of the next row; false, and nothing is done, if it is set already.
    #[inline(always)]
    pub fn boolean(&mut self, column: u32, value: bool) -> bool {
        let row = self.len();
        let Column::Boolean(values) = &mut self.columns[column as usize] else { return false };
        values.set_first(row, self.expected, value)
    }

    /// As [`Self::boolean`], of a bigint column.
    #[inline(always)]
    pub fn integer(&mut self, column: u32, value: i64) -> bool {
        let row = self.len();
        let Column::Integer(values) = &mut self.columns[column as usize] else { return false };
        values.set_first(row, self.expected, value)
    }

    /// As [`Self::boolean`], of a double column.
    #[inline(always)]
    pub fn double(&mut self, column: u32, value: f64) -> bool {
        let row = self.len();
        let Column::Double(values) = &mut self.columns[column as usize] else { return false };
        values.set_first(row, self.expected, value)
    }

    /// As [`Self::boolean`], of a string column: `write` appends the text to what it is given and says where it stood,
    /// or says `None`.
    #[inline(always)]
    pub fn text<T>(&mut self, column: u32, write: impl FnOnce(&mut Vec<u8>) -> Option<T>) -> Option<T> {
        let row = self.len();
        let Column::Text(texts) = &mut self.columns[column as usize] else { return None };
        let begin = texts.text.len();
        if !texts.begins.prepare(row, self.expected, begin as i32) {
            return None;
        }
        texts.reserve(self.expected);
        let written = write(&mut texts.text);
        if written.is_some() {
            texts.begins.push(begin as i32, self.expected);
            self.text_bytes += texts.text.len() - begin;
        }
        written
    }

    /// Sets a column of the next row to null for now, whatever it was.
    pub fn hold(&mut self, column: u32) {
        self.set(column, Value::NULL, "", &Arena::default());
    }

    /// Sets a column of the next row, whatever it was; `input` and `arena` are what the value may point into.
    pub fn set(&mut self, column: u32, value: Value, input: &str, arena: &Arena) {
        let (row, column) = (self.len(), &mut self.columns[column as usize]);
        self.text_bytes -= column.truncate(row);
        column.catch_up(row, self.expected);
        self.text_bytes += column.push(value, input, arena, self.expected);
    }

    /// Ends the row with its fixed columns: the next one begins.
    pub fn end_row(&mut self, fixed: Fixed<'_>) {
        if let (Some(rescued), Column::Text(texts)) = (fixed.rescued, &mut self.rescued) {
            texts.catch_up(self.offset.len(), self.expected);
            texts.push(rescued, self.expected);
            self.text_bytes += rescued.len();
        }
        self.event_us.push(fixed.event_us);
        self.offset.push(fixed.offset);
        self.row.push(fixed.row);
        self.timestamp_us.push(fixed.timestamp_us);
        self.day.push(fixed.day);
    }

    /// The batch in the version's Arrow form, `schema`.
    pub fn finish(
        self,
        version: &SchemaVersion,
        schema: &SchemaRef,
        records: &Records,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = self.len();
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
            columns.map(|(values, column)| values.finish(column.kind, rows)).collect::<Result<_, _>>()?;
        columns.splice(version.keys..version.keys, fixed);
        RecordBatch::try_new(Arc::clone(schema), columns)
    }
}

/// A column's values so far; it may lag behind the rows.
#[derive(Debug)]
enum Column {
    Boolean(Values<bool>),
    Integer(Values<i64>),
    Double(Values<f64>),
    Timestamp(Values<i64>),
    Date(Values<i32>),
    Text(Texts),
    List(Box<Lists>),
}

impl Column {
    fn new(kind: ColumnType) -> Self {
        // Without capacity: a wide table holds many columns that a batch never touches.
        match kind {
            ColumnType::Boolean => Column::Boolean(Values::default()),
            ColumnType::Int64 => Column::Integer(Values::default()),
            ColumnType::Double => Column::Double(Values::default()),
            ColumnType::String | ColumnType::Json => {
                Column::Text(Texts { begins: Values::default(), text: Vec::new(), per_row: TEXT_BYTES })
            }
            ColumnType::Timestamp => Column::Timestamp(Values::default()),
            ColumnType::Date => Column::Date(Values::default()),
            ColumnType::List(element) => Column::List(Box::new(Lists {
                element,
                begins: Values::default(),
                elements: Column::new(element.column_type()),
            })),
        }
    }

    fn len(&self) -> usize {
        match self {
            Column::Boolean(values) => values.len(),
            Column::Integer(values) | Column::Timestamp(values) => values.len(),
            Column::Double(values) => values.len(),
            Column::Date(values) => values.len(),
            Column::Text(texts) => texts.begins.len(),
            Column::List(lists) => lists.begins.len(),
        }
    }

    /// Takes back what lies at `rows` and behind; returns how much text, and how many elements of lists, that was.
    fn truncate(&mut self, rows: usize) -> usize {
        if self.len() <= rows {
            return 0;
        }
        match self {
            Column::Boolean(values) => values.truncate(rows),
            Column::Integer(values) | Column::Timestamp(values) => values.truncate(rows),
            Column::Double(values) => values.truncate(rows),
            Column::Date(values) => values.truncate(rows),
            Column::Text(texts) => {
                let (before, begin) = (texts.text.len(), texts.begins.values[rows] as usize);
                texts.text.truncate(begin);
                texts.begins.truncate(rows);
                return before - begin;
            }
            Column::List(lists) => {
                let (before, begin) = (lists.elements.len(), lists.begins.values[rows] as usize);
                lists.begins.truncate(rows);
                return before - begin + lists.elements.truncate(begin);
            }
        }
        0
    }

    /// Adds nulls until it has `rows` rows.
    fn catch_up(&mut self, rows: usize, expected: usize) {
        match self {
            Column::Boolean(values) => values.catch_up(rows, expected, false),
            Column::Integer(values) | Column::Timestamp(values) => values.catch_up(rows, expected, 0),
            Column::Double(values) => values.catch_up(rows, expected, 0.0),
            Column::Date(values) => values.catch_up(rows, expected, 0),
            Column::Text(texts) => texts.catch_up(rows, expected),
            Column::List(lists) => lists.begins.catch_up(rows, expected, lists.elements.len() as i32),
        }
    }

    /// Adds a value; returns how much text, and how many elements of lists, it has.
    fn push(&mut self, value: Value, input: &str, arena: &Arena, expected: usize) -> usize {
        match (self, value.get()) {
            (Column::Boolean(values), Held::Boolean(value)) => values.push(value, expected),
            (Column::Integer(values) | Column::Timestamp(values), Held::Integer(value)) => values.push(value, expected),
            (Column::Double(values), Held::Double(value)) => values.push(value, expected),
            (Column::Date(values), Held::Integer(value)) => values.push(value as i32, expected),
            (Column::Text(texts), Held::Input(range)) => return texts.push(&input[range], expected),
            (Column::Text(texts), Held::Text(range)) => return texts.push(&arena.text[range], expected),
            (Column::List(lists), Held::List(range)) => {
                return lists.push(&arena.elements[range], input, arena, expected);
            }
            (column, Held::Null) => column.catch_up(column.len() + 1, expected),
            // `fit` makes the value for the column's type.
            (_, value) => debug_assert!(false, "{value:?} for a column of another type"),
        }
        0
    }

    fn finish(mut self, kind: ColumnType, rows: usize) -> Result<ArrayRef, ArrowError> {
        if self.len() == 0 {
            return Ok(new_null_array(&kind.arrow_type(), rows));
        }
        self.catch_up(rows, rows);
        Ok(match self {
            Column::Boolean(values) => {
                let nulls = values.nulls();
                Arc::new(BooleanArray::new(values.values.into(), nulls))
            }
            Column::Integer(values) => Arc::new(values.finish::<Int64Type>()),
            Column::Double(values) => Arc::new(values.finish::<Float64Type>()),
            Column::Timestamp(values) => Arc::new(values.finish::<TimestampMicrosecondType>().with_timezone("UTC")),
            Column::Date(values) => Arc::new(values.finish::<Date32Type>()),
            Column::Text(Texts { begins, text, .. }) => {
                let (offsets, nulls) = begins.offsets(text.len());
                Arc::new(StringArray::try_new(offsets, Buffer::from_vec(text), nulls)?)
            }
            Column::List(lists) => {
                let Lists { element, begins, elements } = *lists;
                let count = elements.len();
                let (offsets, nulls) = begins.offsets(count);
                let elements = elements.finish(element.column_type(), count)?;
                Arc::new(ListArray::try_new(element_field(element), offsets, elements, nulls)?)
            }
        })
    }
}

/// Values of one size, anything where they are null.
#[derive(Debug, Default)]
struct Values<T> {
    values: Vec<T>,
    /// Which rows are null: from the first to before the second.
    gaps: Vec<(usize, usize)>,
}

impl<T: Copy> Values<T> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.values.len()
    }

    /// Sets the value of `row` unless it has one.
    #[inline(always)]
    fn set_first(&mut self, row: usize, expected: usize, value: T) -> bool {
        let unset = self.prepare(row, expected, value);
        if unset {
            self.push(value, expected);
        }
        unset
    }

    /// Brings it to `row`, with `filler` for nulls; false if it is beyond.
    #[inline(always)]
    fn prepare(&mut self, row: usize, expected: usize, filler: T) -> bool {
        if self.len() < row {
            self.catch_up(row, expected, filler);
        }
        self.len() == row
    }

    #[inline(always)]
    fn push(&mut self, value: T, expected: usize) {
        if self.values.len() == self.values.capacity() {
            self.grow(expected);
        }
        self.values.push(value);
    }

    /// A column that has one value has a place for each row in the end, and offsets one more.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, expected: usize) {
        self.values.reserve(expected.saturating_sub(self.values.len()) + 1);
    }

    #[inline(never)]
    fn catch_up(&mut self, rows: usize, expected: usize, filler: T) {
        let begin = self.values.len();
        if begin >= rows {
            return;
        }
        if rows > self.values.capacity() {
            self.grow(expected.max(rows));
        }
        self.values.resize(rows, filler);
        match self.gaps.last_mut() {
            Some((_, end)) if *end == begin => *end = rows,
            _ => self.gaps.push((begin, rows)),
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        while let Some((begin, end)) = self.gaps.last_mut().filter(|(_, end)| *end > rows) {
            if *begin < rows {
                *end = rows;
            } else {
                self.gaps.pop();
            }
        }
    }

    fn nulls(&self) -> Option<NullBuffer> {
        if self.gaps.is_empty() {
            return None;
        }
        let mut valid = BooleanBufferBuilder::new(self.len());
        for (begin, end) in &self.gaps {
            valid.append_n(begin - valid.len(), true);
            valid.append_n(end - begin, false);
        }
        valid.append_n(self.len() - valid.len(), true);
        Some(NullBuffer::new(valid.finish()))
    }
}

impl<T: ArrowNativeType> Values<T> {
    fn finish<P: ArrowPrimitiveType<Native = T>>(self) -> PrimitiveArray<P> {
        let nulls = self.nulls();
        PrimitiveArray::new(self.values.into(), nulls)
    }
}

impl Values<i32> {
    /// As the places where values begin whose last one ends at `end`.
    fn offsets(mut self, end: usize) -> (OffsetBuffer<i32>, Option<NullBuffer>) {
        let nulls = self.nulls();
        self.values.push(end as i32);
        (OffsetBuffer::new(self.values.into()), nulls)
    }
}

/// A column of texts.
#[derive(Debug)]
struct Texts {
    /// Where each text begins.
    begins: Values<i32>,
    text: Vec<u8>,
    /// Bytes per row that the first text makes room for.
    per_row: usize,
}

impl Texts {
    fn catch_up(&mut self, rows: usize, expected: usize) {
        self.begins.catch_up(rows, expected, self.text.len() as i32);
    }

    /// Adds a text; returns its length.
    #[inline(always)]
    fn push(&mut self, text: &str, expected: usize) -> usize {
        self.reserve(expected);
        self.begins.push(self.text.len() as i32, expected);
        self.text.extend_from_slice(text.as_bytes());
        text.len()
    }

    #[inline(always)]
    fn reserve(&mut self, expected: usize) {
        if self.text.capacity() == 0 {
            self.text.reserve(self.per_row * expected);
        }
    }
}

/// A column of lists.
#[derive(Debug)]
struct Lists {
    element: Element,
    /// Where each list begins in `elements`.
    begins: Values<i32>,
    elements: Column,
}

impl Lists {
    /// Adds a list; returns the number of its elements and the length of their texts.
    fn push(&mut self, elements: &[Value], input: &str, arena: &Arena, expected: usize) -> usize {
        self.begins.push(self.elements.len() as i32, expected);
        let texts = elements.iter().map(|element| self.elements.push(*element, input, arena, 0));
        elements.len() + texts.sum::<usize>()
    }
}
