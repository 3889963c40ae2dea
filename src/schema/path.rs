//! The written form of a [`Path`]: in contracts, in field metadata, as the keys of `_rescued`, in messages.
//!
//! `vehicle.speed`, `vehicle["odd.key"].x`, `$key`, `$key.id`, `$header.device`, `$topic`, `$timestamp`.
//! A part stands bare if it is made of letters, digits, `_` and `-`; any other part is a JSON string in
//! brackets. The parser is more generous than the writer: a bare part may hold anything but `.`, `[`, `]`, `"`.

use std::{fmt, str::FromStr};

use super::Path;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `[]` names array elements, which only `[arrays.…]` may do.
    #[error("`[]` (array elements) cannot be used in a column's path")]
    ArrayElements,
    /// An unknown `$` word.
    #[error("`{0}` is none of $key, $key.path, $header.name, $topic, $timestamp")]
    UnknownSource(String),
    /// Something is missing or too much at the given byte.
    #[error("a path reads like `a.b[\"odd.key\"]`; it breaks at byte {0}")]
    Syntax(usize),
}

impl Path {
    /// The path of a declared column that names none and was never seen in a message: it fits no payload.
    pub fn unresolved() -> Self {
        Path::Value(Vec::new())
    }

    /// True if it leads into the value at `other`.
    pub fn is_below(&self, other: &Path) -> bool {
        match (self, other) {
            (Path::Value(path), Path::Value(other)) | (Path::Key(path), Path::Key(other)) => {
                path.len() > other.len() && path.starts_with(other)
            }
            _ => false,
        }
    }

    /// True for [`Path::unresolved`].
    pub fn is_unresolved(&self) -> bool {
        matches!(self, Path::Value(parts) if parts.is_empty())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        match self {
            Path::Value(parts) => parts.iter().for_each(|part| push_part(&mut text, part)),
            Path::Key(parts) => {
                text.push_str("$key");
                parts.iter().for_each(|part| push_part(&mut text, part));
            }
            Path::Header(name) => {
                text.push_str("$header");
                push_part(&mut text, name);
            }
            Path::Topic => text.push_str("$topic"),
            Path::Timestamp => text.push_str("$timestamp"),
            Path::Index(level) => text.push_str(&format!("$index.{level}")),
        }
        f.write_str(&text)
    }
}

/// Appends one part to the written form of a path.
pub(crate) fn push_part(text: &mut String, part: &str) {
    if !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-') {
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(part);
    } else {
        text.push('[');
        push_json_string(text, part);
        text.push(']');
    }
}

/// Appends `value` as a JSON string.
pub(crate) fn push_json_string(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c < ' ' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push('"');
}

impl FromStr for Path {
    type Err = PathError;

    /// Reads the written form. The empty text is the path of a declared column whose place is not known yet.
    fn from_str(text: &str) -> Result<Self, PathError> {
        let Some(source) = text.strip_prefix('$') else { return parse_parts(text, 0).map(Path::Value) };
        let end = source.find(['.', '[']).unwrap_or(source.len());
        // The rest is parsed with its leading dot, so that `$key.` is refused.
        let (word, rest) = source.split_at(end);
        let unknown = || PathError::UnknownSource(text.to_owned());
        let parts = match rest.strip_prefix('.') {
            Some("") => return Err(PathError::Syntax(text.len())),
            Some(bare) if bare.starts_with('[') => return Err(PathError::Syntax(end + 2)),
            Some(bare) => parse_parts(bare, end + 2)?,
            None => parse_parts(rest, end + 1)?,
        };
        match (word, parts.as_slice()) {
            ("key", _) => Ok(Path::Key(parts)),
            // Header names often hold dots: `$header.a.b` is the header `a.b`.
            ("header", [_, ..]) if rest.starts_with('.') && !rest.contains('[') => {
                Ok(Path::Header(rest[1..].to_owned()))
            }
            ("header", [name]) => Ok(Path::Header(name.clone())),
            ("topic", []) => Ok(Path::Topic),
            ("timestamp", []) => Ok(Path::Timestamp),
            ("index", [level]) => level.parse().map(Path::Index).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

/// Parts of `a.b["c"]`; `base` is where `text` begins in what the user wrote.
fn parse_parts(text: &str, base: usize) -> Result<Vec<String>, PathError> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if let Some(inner) = rest.strip_prefix('[') {
            if inner.starts_with(']') {
                return Err(PathError::ArrayElements);
            }
            let mut strings = serde_json::Deserializer::from_str(inner).into_iter::<String>();
            let Some(Ok(part)) = strings.next() else { return Err(PathError::Syntax(base + at)) };
            let used = strings.byte_offset();
            if !inner[used..].starts_with(']') {
                return Err(PathError::Syntax(base + at + 1 + used));
            }
            parts.push(part);
            at += used + 2;
        } else {
            let bare = match (rest.strip_prefix('.'), parts.is_empty()) {
                (Some(bare), false) => bare,
                (None, true) => rest,
                _ => return Err(PathError::Syntax(base + at)),
            };
            let end = bare.find(['.', '[', ']', '"']).unwrap_or(bare.len());
            if end == 0 || bare[end..].starts_with([']', '"']) {
                return Err(PathError::Syntax(base + text.len() - bare.len() + end));
            }
            parts.push(bare[..end].to_owned());
            at = text.len() - bare.len() + end;
        }
    }
    Ok(parts)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any path, odd parts included.
    pub(crate) fn any_path() -> impl Strategy<Value = Path> {
        let part = prop_oneof!["[a-zA-Z_]{1,8}", "[ -~]{0,6}", any::<String>()];
        let parts = prop::collection::vec(part.clone(), 0..5);
        prop_oneof![
            4 => parts.clone().prop_map(Path::Value),
            1 => parts.prop_map(Path::Key),
            1 => part.prop_map(Path::Header),
            1 => Just(Path::Topic),
            1 => Just(Path::Timestamp),
            1 => any::<u8>().prop_map(Path::Index),
        ]
    }

    proptest! {
        #[test]
        fn every_path_reads_back_from_its_text(path in any_path()) {
            prop_assert_eq!(path.to_string().parse::<Path>(), Ok(path));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = text.parse::<Path>();
        }
    }

    #[test]
    fn written_forms() {
        let value = |parts: &[&str]| Path::Value(parts.iter().map(|part| (*part).to_owned()).collect());
        for (text, path, canonical) in [
            ("", value(&[]), ""),
            ("vehicle.speed", value(&["vehicle", "speed"]), "vehicle.speed"),
            ("a[\"odd.key\"].c", value(&["a", "odd.key", "c"]), "a[\"odd.key\"].c"),
            ("[\"$key\"]", value(&["$key"]), "[\"$key\"]"),
            ("two words.x", value(&["two words", "x"]), "[\"two words\"].x"),
            ("상태.값", value(&["상태", "값"]), "상태.값"),
            ("$key", Path::Key(vec![]), "$key"),
            ("$key.id[\"a b\"]", Path::Key(vec!["id".into(), "a b".into()]), "$key.id[\"a b\"]"),
            ("$header.x-id", Path::Header("x-id".into()), "$header.x-id"),
            ("$header.a.b", Path::Header("a.b".into()), "$header[\"a.b\"]"),
            ("$topic", Path::Topic, "$topic"),
            ("$timestamp", Path::Timestamp, "$timestamp"),
        ] {
            assert_eq!(text.parse::<Path>().as_ref(), Ok(&path), "{text}");
            assert_eq!(path.to_string(), canonical);
        }
        for text in [
            ".a",
            "a.",
            "a..b",
            "a[b]",
            "a[\"b\"",
            "a]",
            "a[\"b\"]c",
            "a\"b",
            "$",
            "$nope",
            "$key.",
            "$topic.x",
            "$header",
        ] {
            assert!(text.parse::<Path>().is_err(), "{text}");
        }
        assert_eq!("a[].b".parse::<Path>(), Err(PathError::ArrayElements));
    }
}
