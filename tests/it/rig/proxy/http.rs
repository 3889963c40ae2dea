//! HTTP/1.1 messages as raw bytes: heads, and where a body ends.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};

/// The request line or status line with its headers, exactly as they came.
pub struct Head {
    bytes: Vec<u8>,
    first: String,
    headers: Vec<(String, String)>,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// After so many bytes; there may be none.
    Length(u64),
    /// After the chunk of no bytes and its trailer.
    Chunked,
    /// With the connection.
    Close,
}

impl Head {
    /// The next head; `None` if the other side closed the connection between messages.
    pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Self>> {
        let mut bytes = Vec::new();
        loop {
            let began = bytes.len();
            if from.read_until(b'\n', &mut bytes).await? == 0 {
                return if bytes.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            if matches!(&bytes[began..], b"\r\n" | b"\n") {
                break;
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Some(Self { bytes, first, headers }))
    }

    /// As it came, with the empty line at its end.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A request's method.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// A request's target without its query.
    pub fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// A request's target: path and query.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }

    /// An answer's status.
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// A header's value; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether a header is there with this value, case aside.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.header(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    }

    fn declared(&self) -> Option<Body> {
        let chunked = self.header("transfer-encoding").is_some_and(|coding| {
            coding.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
        });
        if chunked {
            return Some(Body::Chunked);
        }
        self.header("content-length").and_then(|length| length.parse().ok()).map(Body::Length)
    }
}

/// Where a request's body ends (RFC 9112, 6.3: none declared is none).
pub fn request_body(head: &Head) -> Body {
    head.declared().unwrap_or(Body::Length(0))
}

/// Where the body of an answer to `method` ends.
pub fn answer_body(head: &Head, method: &str) -> Body {
    let status = head.status();
    if method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status) {
        return Body::Length(0);
    }
    head.declared().unwrap_or(Body::Close)
}

/// Reads a body with its chunk marks, exactly as it came.
pub async fn read_body(from: &mut (impl AsyncBufRead + Unpin), body: Body) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match body {
        Body::Length(length) => read_exactly(from, length, &mut bytes).await?,
        Body::Close => {
            from.read_to_end(&mut bytes).await?;
        }
        Body::Chunked => loop {
            let size = read_line(from, &mut bytes).await?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| Error::from(ErrorKind::InvalidData))?;
            if size == 0 {
                while !read_line(from, &mut bytes).await?.is_empty() {}
                break;
            }
            read_exactly(from, size + 2, &mut bytes).await?;
        },
    }
    Ok(bytes)
}

/// Reads a whole answer to `method`, interim answers (1xx) left out: its status and all of its bytes.
pub async fn read_answer(from: &mut (impl AsyncBufRead + Unpin), method: &str) -> Result<(u16, Vec<u8>)> {
    loop {
        let head = Head::read(from).await?.ok_or(ErrorKind::UnexpectedEof)?;
        let status = head.status();
        if (100..200).contains(&status) {
            continue;
        }
        let body = read_body(from, answer_body(&head, method)).await?;
        let mut message = head.bytes;
        message.extend(body);
        return Ok((status, message));
    }
}

/// A request's content without chunk marks.
pub fn dechunk(head: &Head, body: &[u8]) -> Vec<u8> {
    if request_body(head) != Body::Chunked {
        return body.to_vec();
    }
    let mut content = Vec::new();
    let mut rest = body;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let digits = String::from_utf8_lossy(&rest[..end]);
        let size = usize::from_str_radix(digits.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        content.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    content
}

async fn read_exactly(from: &mut (impl AsyncRead + Unpin), length: u64, into: &mut Vec<u8>) -> Result<()> {
    let read = from.take(length).read_to_end(into).await?;
    if (read as u64) < length { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

async fn read_line(from: &mut (impl AsyncBufRead + Unpin), into: &mut Vec<u8>) -> Result<String> {
    let began = into.len();
    if from.read_until(b'\n', into).await? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&into[began..]).trim_end().to_owned())
}
