//! What clients send: frames, and the requests in them (protocol 3, "Message Formats" of PostgreSQL's manual).
//!
//! Lengths are checked before anything is kept, and bodies are read by a cursor that cannot run over: whatever comes, the
//! answer is a request or a word on what is wrong with it. Before a client is known, frames are short.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest frame of who has not said who they are: names, options, a password.
const STRANGERS_BYTES: usize = 10_000;
/// Longest frame of a session: statement texts and parameters.
const REQUEST_BYTES: usize = 16 << 20;
/// What is read ahead while a statement runs, to see whether the client is still there.
const AHEAD_BYTES: usize = 64 << 10;
const STARTUP_CANCEL: u32 = 80_877_102;
const STARTUP_TLS: u32 = 80_877_103;
const STARTUP_GSS: u32 = 80_877_104;

/// Why nothing more is read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(&'static str),
}

/// The first thing that a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Startup {
    /// It asks for TLS.
    Tls,
    /// It asks for GSSAPI.
    Gss,
    /// It wants the statement of another connection ended.
    Cancel { process: u32, secret: u32 },
    /// It wants a session.
    Session { major: u16, minor: u16, options: Vec<(String, String)> },
}

/// What a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        formats: Vec<i16>,
        values: Vec<Option<Bytes>>,
        results: Vec<i16>,
    },
    DescribeStatement(String),
    DescribePortal(String),
    Execute {
        portal: String,
        most: u32,
    },
    CloseStatement(String),
    ClosePortal(String),
    Sync,
    Flush,
    Terminate,
    /// A password, or a step of SASL.
    Secret(Bytes),
    /// What follows a COPY that was refused.
    Copy,
}

/// Reads frames.
#[derive(Debug)]
pub(super) struct Frames<R> {
    from: R,
    buffer: BytesMut,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(from: R) -> Self {
        Self::behind(BytesMut::new(), from)
    }

    /// The same, where some bytes were read already.
    pub(super) fn behind(buffer: BytesMut, from: R) -> Self {
        Self { from, buffer, limit: STRANGERS_BYTES }
    }

    /// What was read from, and what came behind what was asked for.
    pub(super) fn into_inner(self) -> (R, BytesMut) {
        (self.from, self.buffer)
    }

    /// The client is known: its requests may be long.
    pub(super) fn trust(&mut self) {
        self.limit = REQUEST_BYTES;
    }

    /// The first thing that a client sends; `None` if it left.
    pub(super) async fn startup(&mut self) -> Result<Option<Startup>, Broken> {
        let Some(body) = self.body(0).await? else { return Ok(None) };
        startup(body).map(Some).map_err(Broken::Protocol)
    }

    /// The next request; `None` if the client left. Nothing is lost if this is dropped before its end.
    pub(super) async fn next(&mut self) -> Result<Option<Request>, Broken> {
        let Some(mut body) = self.body(1).await? else { return Ok(None) };
        let kind = body.get_u8();
        body.advance(4);
        request(kind, body).map(Some).map_err(Broken::Protocol)
    }

    /// Ends when the client has left. It may send more requests meanwhile; they are kept.
    pub(super) async fn left(&mut self) {
        loop {
            if self.buffer.len() >= AHEAD_BYTES.max(self.wanted()) {
                return std::future::pending().await;
            }
            match self.from.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn wanted(&self) -> usize {
        self.buffer.get(1..5).map_or(0, |mut length| (length.get_u32() as usize).min(self.limit))
    }

    /// A whole frame with `skip` bytes before its length; without them, only what follows the length.
    async fn body(&mut self, skip: usize) -> Result<Option<Bytes>, Broken> {
        loop {
            if let Some(mut length) = self.buffer.get(skip..skip + 4) {
                let length = length.get_u32() as usize;
                if length < 4 {
                    return Err(Broken::Protocol("invalid message length"));
                }
                if length > self.limit {
                    return Err(Broken::Protocol("message too long"));
                }
                if self.buffer.len() >= skip + length {
                    let mut frame = self.buffer.split_to(skip + length);
                    if skip == 0 {
                        frame.advance(4);
                    }
                    return Ok(Some(frame.freeze()));
                }
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Broken::Io(io::ErrorKind::UnexpectedEof.into()))
                };
            }
        }
    }
}

type Parsed<T> = Result<T, &'static str>;
const SHORT: &str = "insufficient data left in message";

fn startup(mut body: Bytes) -> Parsed<Startup> {
    let code = u32_of(&mut body)?;
    match code {
        STARTUP_TLS => Ok(Startup::Tls),
        STARTUP_GSS => Ok(Startup::Gss),
        STARTUP_CANCEL => {
            let (process, secret) = (u32_of(&mut body)?, u32_of(&mut body)?);
            Ok(Startup::Cancel { process, secret })
        }
        // Whoever speaks another version is told so, whatever else it says.
        version if version >> 16 != 3 => {
            Ok(Startup::Session { major: (version >> 16) as u16, minor: version as u16, options: Vec::new() })
        }
        version => {
            let mut options = Vec::new();
            loop {
                let name = text(&mut body)?;
                if name.is_empty() {
                    break;
                }
                options.push((name, text(&mut body)?));
            }
            if !body.is_empty() {
                return Err("invalid startup packet layout: expected terminator as last byte");
            }
            Ok(Startup::Session { major: 3, minor: version as u16, options })
        }
    }
}

fn request(kind: u8, mut body: Bytes) -> Parsed<Request> {
    let found = match kind {
        b'Q' => Request::Query(text(&mut body)?),
        b'P' => {
            let (name, sql) = (text(&mut body)?, text(&mut body)?);
            Request::Parse { name, sql, types: several(&mut body, u32_of)? }
        }
        b'B' => {
            let (portal, statement) = (text(&mut body)?, text(&mut body)?);
            let formats = several(&mut body, |body| u16_of(body).map(|format| format as i16))?;
            let values = several(&mut body, value)?;
            let results = several(&mut body, |body| u16_of(body).map(|format| format as i16))?;
            Request::Bind { portal, statement, formats, values, results }
        }
        b'D' | b'C' => {
            let target = u8_of(&mut body)?;
            let name = text(&mut body)?;
            match (kind, target) {
                (b'D', b'S') => Request::DescribeStatement(name),
                (b'D', b'P') => Request::DescribePortal(name),
                (_, b'S') => Request::CloseStatement(name),
                (_, b'P') => Request::ClosePortal(name),
                _ => return Err("invalid subtype of a describe or close message"),
            }
        }
        b'E' => {
            let portal = text(&mut body)?;
            // Negative is as good as zero: all rows.
            let most = u32::try_from(u32_of(&mut body)? as i32).unwrap_or(0);
            Request::Execute { portal, most }
        }
        b'S' => Request::Sync,
        b'H' => Request::Flush,
        b'X' => Request::Terminate,
        b'p' => return Ok(Request::Secret(body)),
        b'd' | b'c' | b'f' => return Ok(Request::Copy),
        b'F' => return Err("function calls are not offered"),
        _ => return Err("invalid frontend message type"),
    };
    if body.is_empty() { Ok(found) } else { Err("invalid message format: bytes are left over") }
}

fn u8_of(body: &mut Bytes) -> Parsed<u8> {
    body.try_get_u8().map_err(|_| SHORT)
}

fn u16_of(body: &mut Bytes) -> Parsed<u16> {
    body.try_get_u16().map_err(|_| SHORT)
}

fn u32_of(body: &mut Bytes) -> Parsed<u32> {
    body.try_get_u32().map_err(|_| SHORT)
}

/// A text that ends in a zero byte.
fn text(body: &mut Bytes) -> Parsed<String> {
    let end = body.iter().position(|byte| *byte == 0).ok_or(SHORT)?;
    let bytes = body.split_to(end);
    body.advance(1);
    String::from_utf8(bytes.into()).map_err(|_| "invalid byte sequence for encoding \"UTF8\"")
}

/// A parameter's bytes; `None` is NULL.
fn value(body: &mut Bytes) -> Parsed<Option<Bytes>> {
    let length = u32_of(body)?;
    if length == u32::MAX {
        return Ok(None);
    }
    let length = length as usize;
    if length > body.len() {
        return Err(SHORT);
    }
    Ok(Some(body.split_to(length)))
}

fn several<T>(body: &mut Bytes, mut one: impl FnMut(&mut Bytes) -> Parsed<T>) -> Parsed<Vec<T>> {
    let count = u16_of(body)?;
    (0..count).map(|_| one(body)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn all(bytes: &[u8]) -> Result<Vec<Request>, Broken> {
        let mut frames = Frames::new(bytes);
        let mut found = Vec::new();
        while let Some(request) = frames.next().await? {
            found.push(request);
        }
        Ok(found)
    }

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    #[tokio::test]
    async fn requests_are_read_whole_and_in_order() {
        let bind = b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x02hi\0\x01\0\x01";
        let bytes =
            [frame(b'Q', b"SELECT 1\0"), frame(b'B', bind), frame(b'E', b"\0\0\0\0\x05"), frame(b'S', b"")].concat();
        let bound = Request::Bind {
            portal: "p".into(),
            statement: "s".into(),
            formats: vec![1],
            values: vec![None, Some(Bytes::from_static(b"hi"))],
            results: vec![1],
        };
        let wanted = vec![
            Request::Query("SELECT 1".into()),
            bound,
            Request::Execute { portal: String::new(), most: 5 },
            Request::Sync,
        ];
        assert_eq!(all(&bytes).await.unwrap(), wanted);
    }

    #[tokio::test]
    async fn strangers_send_little_and_what_is_cut_off_is_no_request() {
        let long = frame(b'Q', &vec![b'x'; STRANGERS_BYTES]);
        assert!(matches!(all(&long).await, Err(Broken::Protocol("message too long"))));
        let huge = [b"Q".as_slice(), &u32::MAX.to_be_bytes()].concat();
        assert!(matches!(all(&huge).await, Err(Broken::Protocol("message too long"))));
        let short = [b"Q".as_slice(), &3u32.to_be_bytes()].concat();
        assert!(matches!(all(&short).await, Err(Broken::Protocol("invalid message length"))));
        let cut = &frame(b'Q', b"SELECT 1\0")[..8];
        assert!(matches!(all(cut).await, Err(Broken::Io(_))));
        assert_eq!(all(b"").await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_session_begins_with_its_options() {
        let body = [&196_608u32.to_be_bytes()[..], b"user\0ann\0database\0millpond\0\0"].concat();
        let bytes = [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat();
        let options = [("user", "ann"), ("database", "millpond")].map(|(name, value)| (name.into(), value.into()));
        let wanted = Startup::Session { major: 3, minor: 0, options: options.to_vec() };
        assert_eq!(Frames::new(&bytes[..]).startup().await.unwrap(), Some(wanted));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_a_request_or_an_error(kind: u8, body: Vec<u8>, rest: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let bytes = [frame(kind, &body), rest.clone()].concat();
            let _ = runtime.block_on(all(&bytes));
            let _ = runtime.block_on(Frames::new(&rest[..]).startup());
            let _ = startup(body.into());
        }
    }
}
