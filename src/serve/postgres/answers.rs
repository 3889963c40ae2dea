//! What the door sends: messages of protocol 3, gathered and sent in pieces.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::query::postgres::ColumnType;

/// Sent on as soon as so much is there.
const PIECE_BYTES: usize = 64 << 10;
/// How long a client may take for a piece.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client is told of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) column_type: ColumnType,
    /// Values are bytes rather than text.
    pub(super) is_binary: bool,
}

/// An error as clients are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Characters from 1 in the statement's text.
    pub(super) position: Option<usize>,
}

impl Trouble {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, position: None }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The newest version of the protocol that is spoken: 3.0.
const NEWEST: u32 = 3 << 16;

/// Where a session stands between statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Idle,
    InTransaction,
    Failed,
}

/// Gathers messages and sends them.
#[derive(Debug)]
pub(super) struct Answers<W> {
    to: W,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Answers<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, buffer: Vec::new() }
    }

    /// One message, whose body `write` appends.
    pub(super) fn message(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.buffer.push(kind);
        let start = self.buffer.len();
        self.buffer.extend([0; 4]);
        write(&mut self.buffer);
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// The buffer, for messages that are written in place.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Sends what is there if it is a piece.
    pub(super) async fn send_pieces(&mut self) -> io::Result<()> {
        if self.buffer.len() >= PIECE_BYTES { self.send().await } else { Ok(()) }
    }

    /// Sends all that is there. A client that does not take it is given up.
    pub(super) async fn send(&mut self) -> io::Result<()> {
        for piece in self.buffer.chunks(PIECE_BYTES) {
            tokio::time::timeout(PATIENCE, self.to.write_all(piece)).await??;
        }
        tokio::time::timeout(PATIENCE, self.to.flush()).await??;
        self.buffer.clear();
        self.buffer.shrink_to(4 * PIECE_BYTES);
        Ok(())
    }

    pub(super) fn authentication(&mut self, code: u32, rest: &[u8]) {
        self.message(b'R', |body| {
            body.extend(code.to_be_bytes());
            body.extend(rest);
        });
    }

    pub(super) fn parameter(&mut self, name: &str, value: &str) {
        self.message(b'S', |body| {
            text(body, name);
            text(body, value);
        });
    }

    pub(super) fn key(&mut self, process: u32, secret: u32) {
        self.message(b'K', |body| {
            body.extend(process.to_be_bytes());
            body.extend(secret.to_be_bytes());
        });
    }

    /// The newest minor version that is spoken, and the options that are not known.
    pub(super) fn negotiate(&mut self, unknown: &[&str]) {
        self.message(b'v', |body| {
            body.extend(NEWEST.to_be_bytes());
            body.extend((unknown.len() as u32).to_be_bytes());
            unknown.iter().for_each(|name| text(body, name));
        });
    }

    pub(super) fn ready(&mut self, standing: Standing) {
        let letter = match standing {
            Standing::Idle => b'I',
            Standing::InTransaction => b'T',
            Standing::Failed => b'E',
        };
        self.message(b'Z', |body| body.push(letter));
    }

    pub(super) fn rows_of(&mut self, columns: &[Column]) {
        self.message(b'T', |body| {
            body.extend((columns.len() as u16).to_be_bytes());
            for column in columns {
                text(body, &column.name);
                // Of which table it is cannot be told once it went through a query.
                body.extend([0; 6]);
                body.extend(column.column_type.oid().to_be_bytes());
                body.extend(column.column_type.width().to_be_bytes());
                body.extend(column.column_type.modifier.to_be_bytes());
                body.extend(u16::from(column.is_binary).to_be_bytes());
            }
        });
    }

    pub(super) fn parameters_of(&mut self, types: &[u32]) {
        self.message(b't', |body| {
            body.extend((types.len() as u16).to_be_bytes());
            types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
        });
    }

    /// COPY to the client begins: `columns` of them.
    pub(super) fn copy_begins(&mut self, is_binary: bool, columns: usize) {
        self.message(b'H', |body| {
            body.push(u8::from(is_binary));
            body.extend((columns as u16).to_be_bytes());
            (0..columns).for_each(|_| body.extend(u16::from(is_binary).to_be_bytes()));
        });
    }

    pub(super) fn complete(&mut self, tag: &str) {
        self.message(b'C', |body| text(body, tag));
    }

    pub(super) fn notice(&mut self, trouble: &Trouble) {
        self.told(b'N', "WARNING", trouble);
    }

    pub(super) fn error(&mut self, trouble: &Trouble) {
        self.told(b'E', "ERROR", trouble);
    }

    /// An error that ends the connection.
    pub(super) fn fatal(&mut self, trouble: &Trouble) {
        self.told(b'E', "FATAL", trouble);
    }

    fn told(&mut self, kind: u8, severity: &str, trouble: &Trouble) {
        self.message(kind, |body| {
            let mut field = |name: u8, value: &str| {
                body.push(name);
                text(body, value);
            };
            field(b'S', severity);
            field(b'V', severity);
            field(b'C', trouble.code);
            field(b'M', &trouble.message);
            if let Some(hint) = &trouble.hint {
                field(b'H', hint);
            }
            if let Some(position) = trouble.position {
                field(b'P', &position.to_string());
            }
            body.push(0);
        });
    }

    /// A message without a body.
    pub(super) fn bare(&mut self, kind: u8) {
        self.message(kind, |_| {});
    }
}

/// A text that ends in a zero byte; a zero inside it would end it before.
fn text(body: &mut Vec<u8>, value: &str) {
    body.extend(value.bytes().filter(|byte| *byte != 0));
    body.push(0);
}
