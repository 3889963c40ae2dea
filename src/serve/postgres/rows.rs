//! Rows as messages: `DataRow`, and the lines of COPY.

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::answers::{Answers, Column};
use super::cells::{self, Write};
use crate::query::postgres::{ColumnType, CopyForm, CopyFormat};

/// The header of COPY's binary format: signature, flags, length of an extension.
const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The end of it.
const BINARY_END: &[u8] = &[0xff, 0xff];

/// Calls `each` with the writers of all columns, for every row.
fn each_row(
    batch: &RecordBatch,
    told: impl Fn(usize) -> (ColumnType, bool),
    zone: Tz,
    mut each: impl FnMut(usize, &mut [(Write<'_>, &ArrayRef)]) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    let arrays: Vec<ArrayRef> = batch.columns().iter().map(cells::plain).collect::<Result<_, _>>()?;
    let writers = arrays.iter().enumerate().map(|(at, array)| {
        let (column_type, is_binary) = told(at);
        Ok((cells::writer(array, column_type, is_binary, zone)?, array))
    });
    let mut writers: Vec<(Write<'_>, &ArrayRef)> = writers.collect::<Result<_, ArrowError>>()?;
    (0..batch.num_rows()).try_for_each(|row| each(row, &mut writers))
}

/// Whether a row of a column is NULL; a column without a type has nothing else.
fn is_null(array: &ArrayRef, row: usize) -> bool {
    array.is_null(row) || array.data_type().is_null()
}

/// Appends a `DataRow` per row of `batch`.
pub(super) fn data_rows<W: tokio::io::AsyncWrite + Unpin>(
    batch: &RecordBatch,
    columns: &[Column],
    zone: Tz,
    answers: &mut Answers<W>,
) -> Result<(), ArrowError> {
    let out = answers.buffer();
    each_row(
        batch,
        |at| (columns[at].column_type, columns[at].is_binary),
        zone,
        |row, writers| {
            cells::message(out, b'D', |out| {
                out.extend((writers.len() as u16).to_be_bytes());
                writers
                    .iter_mut()
                    .try_for_each(|(write, array)| optional(is_null(array, row), out, |out| write(row, out)))
            })
        },
    )
}

/// A length and a value, or −1.
fn optional(
    is_null: bool,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), ArrowError>,
) -> Result<(), ArrowError> {
    if is_null {
        out.extend((-1i32).to_be_bytes());
        return Ok(());
    }
    cells::sized(out, write)
}

/// COPY's lines of a batch, each a message of its own.
pub(super) struct Copy {
    form: CopyForm,
    /// Columns whose values are always quoted.
    quoted: Vec<bool>,
    names: Vec<String>,
    types: Vec<ColumnType>,
    /// Clients look for the binary header before the first row, in one message with it.
    owes_header: bool,
}

impl Copy {
    pub(super) fn new(form: CopyForm, columns: &[Column]) -> Self {
        let all = form.force_quote.iter().any(|name| name == "*");
        let quoted = columns.iter().map(|column| all || form.force_quote.contains(&column.name)).collect();
        let types = columns.iter().map(|column| column.column_type).collect();
        let names = columns.iter().map(|column| column.name.clone()).collect();
        Self { owes_header: form.format == CopyFormat::Binary, form, quoted, names, types }
    }

    pub(super) fn is_binary(&self) -> bool {
        self.form.format == CopyFormat::Binary
    }

    /// What comes before the rows.
    pub(super) fn begin<W: tokio::io::AsyncWrite + Unpin>(&self, answers: &mut Answers<W>) {
        if self.form.header && !self.is_binary() {
            answers.message(b'd', |out| {
                for (at, name) in self.names.iter().enumerate() {
                    if at > 0 {
                        out.push(self.form.delimiter);
                    }
                    self.value(name.as_bytes(), false, out);
                }
                out.push(b'\n');
            });
        }
    }

    /// What comes behind them.
    pub(super) fn end<W: tokio::io::AsyncWrite + Unpin>(&self, answers: &mut Answers<W>) {
        if self.is_binary() {
            answers.message(b'd', |out| {
                if self.owes_header {
                    out.extend(BINARY_HEADER);
                }
                out.extend(BINARY_END);
            });
        }
    }

    pub(super) fn lines<W: tokio::io::AsyncWrite + Unpin>(
        &mut self,
        batch: &RecordBatch,
        zone: Tz,
        answers: &mut Answers<W>,
    ) -> Result<(), ArrowError> {
        let out = answers.buffer();
        let mut cell = Vec::new();
        let mut owes = self.owes_header && batch.num_rows() > 0;
        self.owes_header &= !owes;
        each_row(
            batch,
            |at| (self.types[at], self.is_binary()),
            zone,
            |row, writers| {
                cells::message(out, b'd', |out| {
                    if self.is_binary() {
                        if std::mem::take(&mut owes) {
                            out.extend(BINARY_HEADER);
                        }
                        out.extend((writers.len() as u16).to_be_bytes());
                        return writers
                            .iter_mut()
                            .try_for_each(|(write, array)| optional(is_null(array, row), out, |out| write(row, out)));
                    }
                    for (at, (write, array)) in writers.iter_mut().enumerate() {
                        if at > 0 {
                            out.push(self.form.delimiter);
                        }
                        if is_null(array, row) {
                            out.extend(self.form.null.as_bytes());
                            continue;
                        }
                        cell.clear();
                        write(row, &mut cell)?;
                        self.value(&cell, self.quoted[at], out);
                    }
                    out.push(b'\n');
                    Ok(())
                })
            },
        )
    }

    fn value(&self, cell: &[u8], always: bool, out: &mut Vec<u8>) {
        let CopyForm { format, delimiter, quote, escape, null, .. } = &self.form;
        if *format == CopyFormat::Csv {
            let special = |byte: &u8| *byte == *delimiter || *byte == *quote || matches!(byte, b'\n' | b'\r');
            // A value that looks like NULL, or ends COPY, is quoted.
            if !always && cell != null.as_bytes() && cell != b"\\." && !cell.iter().any(special) {
                return out.extend(cell);
            }
            out.push(*quote);
            for byte in cell {
                if byte == quote || byte == escape {
                    out.push(*escape);
                }
                out.push(*byte);
            }
            return out.push(*quote);
        }
        for byte in cell {
            let letter = match byte {
                b'\\' => b'\\',
                8 => b'b',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                11 => b'v',
                12 => b'f',
                byte if byte == delimiter => *byte,
                _ => {
                    out.push(*byte);
                    continue;
                }
            };
            out.extend([b'\\', letter]);
        }
    }
}
