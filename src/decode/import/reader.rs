//! The bytes of a file, as they come, to rows: unpacked, and parsed as CSV or JSON.

use std::io::Write;
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Decoder as CsvDecoder;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use flate2::write::MultiGzDecoder;
use serde_json::Value;
use zstd::stream::raw::{Decoder as Unzstd, InBuffer, Operation, OutBuffer};

use super::{FileRows, WRITTEN_KEY, as_written};
use crate::decode::file::{Cells, FileError, column_name};
use crate::schema::FileFormat;

/// Rows of a batch.
const BATCH_ROWS: usize = 8 * 1024;
/// Bytes of JSON that are parsed at once, or more if a value has more.
const JSON_BYTES: usize = 4 << 20;
/// A value of JSON that is longer is refused: an array is parsed as a whole.
const MOST_JSON_BYTES: usize = 256 << 20;
/// A file whose header is longer has none.
const MOST_HEADER_BYTES: usize = 1 << 20;
/// Room for what is unpacked at once.
const UNPACK_BYTES: usize = 256 << 10;
/// What may stand between fields, the likeliest first.
const DELIMITERS: [u8; 4] = *b",;\t|";

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// It is not.
    None,
    /// gzip, of one member or several.
    Gzip,
    /// Zstandard, of one frame or several.
    Zstd,
}

impl Packing {
    /// How a file of this name is packed, and the name without that.
    pub fn of_name(name: &str) -> (Self, &str) {
        let ends = |ending: &str| {
            let at = name.len().checked_sub(ending.len())?;
            name.get(at..)?.eq_ignore_ascii_case(ending).then(|| &name[..at])
        };
        let gzip = ends(".gz").map(|rest| (Self::Gzip, rest));
        gzip.or_else(|| ends(".zst").map(|rest| (Self::Zstd, rest))).unwrap_or((Self::None, name))
    }
}

/// Reads one file of CSV or JSON.
pub struct FileReader {
    file: String,
    unpack: Unpack,
    parse: Parse,
}

enum Unpack {
    None,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Zstd { decoder: Box<Unzstd<'static>>, is_whole: bool },
}

enum Parse {
    Header(Vec<u8>),
    Csv(Box<CsvDecoder>),
    Json(JsonRows),
}

#[derive(Default)]
struct JsonRows {
    bytes: Vec<u8>,
    /// Nothing can be whole before there are so many.
    enough: usize,
    /// Lines before `bytes`.
    lines: u64,
    /// Rows before them.
    rows: usize,
    begun: bool,
}

/// A line, if it is known, and what is wrong.
type Fault = (Option<u64>, String);

impl FileReader {
    /// Of a file that is called `file` in errors. Parquet is not read by pieces.
    pub fn new(file: &str, format: FileFormat, packing: Packing) -> Result<Self, FileError> {
        let unpack = match packing {
            Packing::None => Unpack::None,
            Packing::Gzip => Unpack::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Packing::Zstd => {
                let decoder = Unzstd::new().map_err(|error| broken(file, (None, error.to_string())))?;
                Unpack::Zstd { decoder: Box::new(decoder), is_whole: true }
            }
        };
        let parse = match format {
            FileFormat::Csv => Parse::Header(Vec::new()),
            FileFormat::Json => Parse::Json(JsonRows { enough: JSON_BYTES, ..JsonRows::default() }),
            FileFormat::Parquet => return Err(broken(file, (None, "Parquet has to be read as a whole".to_owned()))),
        };
        Ok(Self { file: file.to_owned(), unpack, parse })
    }

    /// Takes the file's next bytes; the rows that are whole by now.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<FileRows>, FileError> {
        let fault = |fault| broken(&self.file, fault);
        match &mut self.unpack {
            Unpack::None => self.parse.take(bytes).map_err(fault),
            Unpack::Gzip(decoder) => {
                decoder.write_all(bytes).map_err(|error| fault((None, error.to_string())))?;
                let plain = std::mem::take(decoder.get_mut());
                self.parse.take(&plain).map_err(fault)
            }
            Unpack::Zstd { decoder, is_whole } => {
                let plain = unzstd(decoder, bytes, is_whole).map_err(|error| fault((None, error.to_string())))?;
                self.parse.take(&plain).map_err(fault)
            }
        }
    }

    /// The file has no more bytes: the rows that are left.
    pub fn finish(mut self) -> Result<Vec<FileRows>, FileError> {
        let fault = |fault| broken(&self.file, fault);
        let mut rows = Vec::new();
        match &mut self.unpack {
            Unpack::Gzip(decoder) => {
                let cut = |_| fault((None, "it is cut off, or no gzip".to_owned()));
                decoder.try_finish().map_err(cut)?;
                let plain = std::mem::take(decoder.get_mut());
                rows = self.parse.take(&plain).map_err(fault)?;
            }
            Unpack::Zstd { is_whole: false, .. } => return Err(fault((None, "it is cut off".to_owned()))),
            _ => {}
        }
        rows.extend(self.parse.finish().map_err(fault)?);
        Ok(rows)
    }
}

fn broken(file: &str, (line, reason): Fault) -> FileError {
    FileError::File { file: file.to_owned(), line, reason }
}

fn unzstd(decoder: &mut Unzstd<'_>, bytes: &[u8], is_whole: &mut bool) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let mut input = InBuffer::around(bytes);
    let mut room = vec![0; UNPACK_BYTES];
    loop {
        let mut output = OutBuffer::around(&mut room[..]);
        let left = decoder.run(&mut input, &mut output)?;
        let written = output.as_slice();
        plain.extend_from_slice(written);
        let is_full = written.len() == UNPACK_BYTES;
        *is_whole = left == 0;
        if input.pos() == bytes.len() && !is_full {
            return Ok(plain);
        }
    }
}

impl Parse {
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<FileRows>, Fault> {
        match self {
            Self::Json(json) => json.take(bytes),
            Self::Csv(decoder) => csv_rows(decoder, bytes),
            Self::Header(header) => {
                header.extend_from_slice(bytes);
                if header.len() < MOST_HEADER_BYTES && header_end(header).is_none() {
                    return Ok(Vec::new());
                }
                let bytes = std::mem::take(header);
                let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
                let mut decoder = csv_decoder(bytes)?;
                let rows = csv_rows(&mut decoder, bytes)?;
                *self = Self::Csv(Box::new(decoder));
                Ok(rows)
            }
        }
    }

    fn finish(self) -> Result<Vec<FileRows>, Fault> {
        match self {
            Self::Json(json) => json.finish(),
            Self::Header(bytes) => {
                let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
                let mut decoder = csv_decoder(bytes)?;
                let mut rows = csv_rows(&mut decoder, bytes)?;
                rows.extend(csv_rest(decoder)?);
                Ok(rows)
            }
            Self::Csv(decoder) => csv_rest(*decoder),
        }
    }
}

/// Where the first line ends that is not inside quotes.
fn header_end(bytes: &[u8]) -> Option<usize> {
    let mut quoted = false;
    bytes.iter().position(|byte| {
        quoted ^= *byte == b'"';
        !quoted && matches!(byte, b'\n' | b'\r')
    })
}

/// What reads the rows of a file that begins with `bytes`.
fn csv_decoder(bytes: &[u8]) -> Result<CsvDecoder, Fault> {
    let line = &bytes[..header_end(bytes).unwrap_or(bytes.len())];
    let count = |delimiter: u8| line.iter().filter(|byte| **byte == delimiter).count();
    // Of equally many the first.
    let delimiter = DELIMITERS.into_iter().rev().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',');
    let mut reader = csv::ReaderBuilder::new().has_headers(false).delimiter(delimiter).from_reader(line);
    let header = reader.records().next().transpose().map_err(|error| (Some(1), error.to_string()))?;
    let header = header.ok_or_else(|| (None, "it is empty: the first line names the columns".to_owned()))?;
    let names: Vec<String> = header.iter().map(|name| column_name(name.trim())).collect();
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err((Some(1), format!("the header names `{}` twice", &header[at])));
        }
    }
    let field = |(name, written): (String, &str)| {
        let written = [(WRITTEN_KEY.to_owned(), written.trim().to_owned())].into();
        Field::new(name, DataType::Utf8, true).with_metadata(written)
    };
    let fields: Vec<Field> = names.into_iter().zip(header.iter()).map(field).collect();
    let builder = ReaderBuilder::new(Arc::new(Schema::new(fields))).with_header(true).with_delimiter(delimiter);
    Ok(builder.with_batch_size(BATCH_ROWS).build_decoder())
}

fn csv_rows(decoder: &mut CsvDecoder, mut bytes: &[u8]) -> Result<Vec<FileRows>, Fault> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let read = decoder.decode(bytes).map_err(csv_fault)?;
        bytes = &bytes[read..];
        if decoder.capacity() == 0 {
            all.extend(decoder.flush().map_err(csv_fault)?.map(written));
        }
    }
    Ok(all)
}

fn csv_rest(mut decoder: CsvDecoder) -> Result<Vec<FileRows>, Fault> {
    // No more bytes: a last line without its end is whole.
    decoder.decode(&[]).map_err(csv_fault)?;
    Ok(decoder.flush().map_err(csv_fault)?.map(written).into_iter().collect())
}

fn written(batch: arrow::array::RecordBatch) -> FileRows {
    FileRows { batch, is_written: true }
}

fn csv_fault(error: ArrowError) -> Fault {
    let text = match error {
        ArrowError::CsvError(text) => text,
        other => other.to_string(),
    };
    let after = text.split_once("line ").map_or("", |(_, rest)| rest);
    let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (after[..digits].parse().ok(), text)
}

impl JsonRows {
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<FileRows>, Fault> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() < self.enough { Ok(Vec::new()) } else { self.parse(false) }
    }

    fn finish(mut self) -> Result<Vec<FileRows>, Fault> {
        self.parse(true)
    }

    /// The rows of the values that are whole. An array of rows is one value.
    fn parse(&mut self, is_last: bool) -> Result<Vec<FileRows>, Fault> {
        if !self.begun {
            self.begun = true;
            if self.bytes.starts_with(b"\xef\xbb\xbf") {
                self.bytes.drain(..3);
            }
        }
        let mut cells = Cells::default();
        let mut values = serde_json::Deserializer::from_slice(&self.bytes).into_iter::<Value>();
        let mut whole = 0;
        while let Some(value) = values.next() {
            match value {
                Ok(value) => {
                    cells.value(value, self.rows)?;
                    whole = values.byte_offset();
                }
                Err(error) if error.is_eof() && !is_last => break,
                Err(error) => {
                    let reason = if error.is_eof() { "it is cut off".to_owned() } else { error.to_string() };
                    return Err((Some(self.lines + error.line() as u64), reason));
                }
            }
        }
        if whole == 0 && self.bytes.len() > MOST_JSON_BYTES {
            let message = "one value has more than 256 MiB: write each row on a line of its own (NDJSON)".to_owned();
            return Err((Some(self.lines + 1), message));
        }
        // A value that is not whole is looked at again when there is twice as much of it.
        self.enough = JSON_BYTES.max(if whole == 0 { self.bytes.len() * 2 } else { 0 });
        self.lines += self.bytes[..whole].iter().filter(|byte| **byte == b'\n').count() as u64;
        self.bytes.drain(..whole);
        self.rows += cells.rows();
        if cells.rows() == 0 {
            return Ok(Vec::new());
        }
        let written = cells.written();
        let batch = cells.into_batch().and_then(|batch| as_written(&batch, written));
        let batch = batch.map_err(|error| (None, error.to_string()))?;
        let slice = |at| batch.slice(at, BATCH_ROWS.min(batch.num_rows() - at));
        let slices = (0..batch.num_rows()).step_by(BATCH_ROWS).map(slice);
        Ok(slices.map(|batch| FileRows { batch, is_written: false }).collect())
    }
}
