//! Rows as text.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{JsonArray, LineDelimited, WriterBuilder as JsonBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::Format;
use super::target::Results;
use crate::error::{Error, Kind, Result};

/// Rows of one table: longer results are written as several, so that memory stays small.
const TABLE_ROWS: usize = 10_000;
/// A column is not cut below this.
const NARROWEST: usize = 8;
/// Columns without room that are named below the table.
const LISTED: usize = 8;
/// A column of a table that is not for a terminal is not wider.
const WIDEST: usize = 4_096;

/// Writes all rows and tells how many there were; those of a result that is `endless` as soon as they come. The outer
/// error is of writing, the inner one of the statement.
pub(in crate::cli) async fn write(
    results: Results,
    format: Format,
    endless: bool,
    out: &mut (impl Write + Send),
) -> io::Result<Result<usize>> {
    let (schema, mut batches) = results;
    let mut writer = Writer::new(format, &schema, endless, out)?;
    let mut rows = 0;
    while let Some(batch) = batches.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                writer.flush()?;
                return Ok(Err(error));
            }
        };
        rows += batch.num_rows();
        let mut written = writer.batch(&batch);
        if endless {
            written = written.and_then(|()| writer.show());
        }
        if let Err(error) = written {
            return unwrap(error);
        }
    }
    match writer.finish() {
        Ok(()) => Ok(Ok(rows)),
        Err(error) => unwrap(error),
    }
}

fn unwrap<T>(error: ArrowError) -> io::Result<Result<T>> {
    match error {
        ArrowError::IoError(_, error) => Err(error),
        other => Ok(Err(Error::new(Kind::Internal, "rows cannot be written in this format").because(other))),
    }
}

enum Writer<'a, W: Write> {
    Table {
        out: &'a mut W,
        schema: SchemaRef,
        held: Vec<RecordBatch>,
        width: Option<usize>,
        written: bool,
        /// Of a table that goes on: how wide its columns are by now.
        columns: Option<Vec<usize>>,
    },
    Csv(Box<arrow::csv::Writer<&'a mut W>>),
    Json(Box<arrow::json::Writer<&'a mut W, JsonArray>>),
    Ndjson(Box<arrow::json::Writer<&'a mut W, LineDelimited>>),
}

impl<'a, W: Write> Writer<'a, W> {
    fn new(format: Format, schema: &SchemaRef, endless: bool, out: &'a mut W) -> io::Result<Self> {
        let json = || JsonBuilder::new().with_explicit_nulls(true);
        Ok(match format {
            Format::Table => {
                let terminal = io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
                let width = terminal.map(|(width, _)| usize::from(width.0));
                let columns = endless.then(Vec::new);
                Self::Table { out, schema: Arc::clone(schema), held: Vec::new(), width, written: false, columns }
            }
            Format::Csv => {
                let mut writer = arrow::csv::WriterBuilder::new().with_header(true).build(out);
                // The header is written with the first batch, and a result may have none.
                let empty = flat(&RecordBatch::new_empty(Arc::clone(schema))).and_then(|batch| writer.write(&batch));
                empty.map_err(io::Error::other)?;
                Self::Csv(Box::new(writer))
            }
            Format::Json => Self::Json(Box::new(json().build(out))),
            Format::Ndjson => Self::Ndjson(Box::new(json().build(out))),
        })
    }

    fn batch(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Table { held, .. } => {
                held.push(batch.clone());
                if held.iter().map(RecordBatch::num_rows).sum::<usize>() >= TABLE_ROWS {
                    self.table()?
                }
                Ok(())
            }
            Self::Csv(writer) => writer.write(&flat(batch)?),
            Self::Json(writer) => writer.write(batch),
            Self::Ndjson(writer) => writer.write(batch),
        }
    }

    fn table(&mut self) -> Result<(), ArrowError> {
        let Self::Table { out, schema, held, width, written, columns } = self else { return Ok(()) };
        let text = match columns {
            Some(columns) if !columns.is_empty() => render_more(schema, held, columns)?,
            Some(columns) => {
                let (text, widths) = render_all(schema, held, *width)?;
                *columns = widths;
                text
            }
            None => render(schema, held, *width)?,
        };
        held.clear();
        *written = true;
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// What was written so far reaches whoever reads it.
    fn show(&mut self) -> Result<(), ArrowError> {
        match self {
            Self::Table { .. } => self.table(),
            // It flushes itself.
            Self::Csv(_) => Ok(()),
            Self::Json(writer) => Ok(writer.get_mut().flush()?),
            Self::Ndjson(writer) => Ok(writer.get_mut().flush()?),
        }
    }

    /// What is held back, before an error is told.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Table { held, .. } if held.is_empty() => Ok(()),
            Self::Table { .. } => self.table().map_err(io::Error::other),
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> Result<(), ArrowError> {
        match &mut self {
            Self::Table { held, written, .. } if held.is_empty() && *written => Ok(()),
            Self::Table { schema, .. } if schema.fields().is_empty() => Ok(()),
            Self::Table { .. } => self.table(),
            Self::Csv(_) => match self {
                Self::Csv(writer) => Ok(writer.into_inner().flush()?),
                _ => Ok(()),
            },
            Self::Json(writer) => {
                writer.finish()?;
                let out = writer.get_mut();
                out.write_all(b"\n")?;
                Ok(out.flush()?)
            }
            Self::Ndjson(writer) => {
                writer.finish()?;
                Ok(writer.get_mut().flush()?)
            }
        }
    }
}

/// Lists, structs and maps as text: CSV has no other form for them.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| is_nested(field.data_type())) {
        return Ok(batch.clone());
    }
    let (mut fields, mut columns) = (Vec::new(), Vec::<ArrayRef>::new());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        if !is_nested(field.data_type()) {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(column));
            continue;
        }
        let options = FormatOptions::new();
        let text = ArrayFormatter::try_new(column, &options)?;
        let text = (0..column.len()).map(|row| (!column.is_null(row)).then(|| text.value(row).to_string()));
        columns.push(Arc::new(StringArray::from_iter(text)));
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn is_nested(data_type: &DataType) -> bool {
    data_type.is_nested() || matches!(data_type, DataType::Binary)
}

/// A table with a header. With a width, wide columns are cut, and columns that still have no room are left out.
pub(super) fn render(schema: &Schema, batches: &[RecordBatch], width: Option<usize>) -> Result<String, ArrowError> {
    Ok(render_all(schema, batches, width)?.0)
}

/// More rows of a table whose header is written, in columns of these widths, or wider from now on.
fn render_more(schema: &Schema, batches: &[RecordBatch], widths: &mut [usize]) -> Result<String, ArrowError> {
    let columns = cells(schema, batches)?;
    for (width, cells) in widths.iter_mut().zip(&columns) {
        *width = widest(&cells[1..]).max(*width);
    }
    let mut text = String::new();
    for row in 1..columns.first().map_or(0, Vec::len) {
        line(&mut text, schema, &columns, row, widths);
    }
    Ok(text)
}

/// The cells of each column, its name first.
fn cells(schema: &Schema, batches: &[RecordBatch]) -> Result<Vec<Vec<String>>, ArrowError> {
    let options = FormatOptions::new().with_null("NULL");
    let mut columns: Vec<Vec<String>> = schema.fields().iter().map(|field| vec![clean(field.name())]).collect();
    for batch in batches {
        for (cells, array) in columns.iter_mut().zip(batch.columns()) {
            let text = ArrayFormatter::try_new(array, &options)?;
            cells.extend((0..array.len()).map(|row| clean(&text.value(row).to_string())));
        }
    }
    Ok(columns)
}

fn widest(cells: &[String]) -> usize {
    cells.iter().map(|cell| cell.width()).max().unwrap_or(0).clamp(1, WIDEST)
}

/// One row, or the header.
fn line(text: &mut String, schema: &Schema, columns: &[Vec<String>], row: usize, widths: &[usize]) {
    for (i, (cells, width)) in columns.iter().zip(widths).enumerate() {
        text.push_str(if i == 0 { " " } else { " │ " });
        pad(text, &cells[row], *width, row > 0 && schema.field(i).data_type().is_numeric());
    }
    trim(text);
}

/// A table, and the widths of the columns that it shows.
fn render_all(
    schema: &Schema,
    batches: &[RecordBatch],
    width: Option<usize>,
) -> Result<(String, Vec<usize>), ArrowError> {
    let columns = cells(schema, batches)?;
    let mut widths: Vec<usize> = columns.iter().map(|cells| widest(cells)).collect();
    let shown = width.map_or(columns.len(), |width| fit(&mut widths, width));
    widths.truncate(shown);
    let mut text = String::new();
    let rows = columns.first().map_or(0, Vec::len);
    for row in 0..rows {
        line(&mut text, schema, &columns, row, &widths);
        if row == 0 {
            for (i, width) in widths.iter().enumerate() {
                text.push_str(if i == 0 { "─" } else { "─┼─" });
                text.push_str(&"─".repeat(*width));
            }
            text.push_str("─\n");
        }
    }
    if shown < columns.len() {
        let names: Vec<&str> = schema.fields().iter().skip(shown).map(|field| field.name().as_str()).collect();
        let listed = names.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
        let more = names.len().saturating_sub(LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        text.push_str(&format!(" … not shown for want of width: {listed}{more}\n"));
    }
    Ok((text, widths))
}

/// Shrinks the widest columns until all fit; the number of columns that do.
fn fit(widths: &mut [usize], width: usize) -> usize {
    let mut shown = widths.len();
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + widths.len().saturating_sub(1) * 3 + 2;
    while shown > 1 && widths[..shown].iter().map(|w| (*w).min(NARROWEST) + 3).sum::<usize>() > width + 1 {
        shown -= 1;
    }
    while total(&widths[..shown]) > width {
        match widths[..shown].iter_mut().max() {
            Some(widest) if *widest > NARROWEST => *widest -= 1,
            _ => break,
        }
    }
    shown
}

fn pad(text: &mut String, cell: &str, width: usize, right: bool) {
    let taken = cell.width();
    let space = " ".repeat(width.saturating_sub(taken));
    if taken > width {
        let mut left = width - 1;
        for c in cell.chars() {
            let Some(rest) = left.checked_sub(c.width().unwrap_or(0)) else { break };
            left = rest;
            text.push(c);
        }
        text.push('…');
        text.push_str(&" ".repeat(left));
    } else if right {
        text.push_str(&space);
        text.push_str(cell);
    } else {
        text.push_str(cell);
        text.push_str(&space);
    }
}

fn trim(text: &mut String) {
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

/// Control characters would break the lines of a table, or drive the terminal.
fn clean(cell: &str) -> String {
    cell.chars()
        .map(|c| match c {
            '\n' => '⏎',
            c if c.is_control() => '·',
            c => c,
        })
        .collect()
}
