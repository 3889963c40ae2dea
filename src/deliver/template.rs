//! Texts with places for values: `"{plate_no}: the headlights are on"`.
//!
//! `{name}` is a field of the message, or of its object `values`; `{key.car_id}` looks into objects. `{{` and `}}`
//! write braces. A place without a value stays as it is written, so that whoever reads the text sees what is missing.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A text with places for values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(String),
}

/// What is wrong with a template's text. Places are counted in characters, from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{` that is not the start of a name.
    #[error("the `{{` at character {0} begins no name such as {{car_id}}; `{{{{` writes a brace")]
    Open(usize),
    /// `}` without `{`.
    #[error("the `}}` at character {0} ends nothing; `}}}}` writes a brace")]
    Close(usize),
}

/// How values are written, for the place where the text goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// As they are.
    Text,
    /// On one line: control characters become spaces. For headers and subjects.
    Line,
    /// Strings as the inside of a JSON string, everything else as JSON.
    Json,
    /// Percent-encoded, as a part of a URL's path or query.
    Url,
}

impl Template {
    /// Reads a template's text.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.char_indices().zip(1..).peekable();
        while let Some(((at, c), number)) = rest.next() {
            match c {
                '{' | '}' if rest.next_if(|((_, next), _)| *next == c).is_some() => plain.push(c),
                '}' => return Err(TemplateError::Close(number)),
                '{' => {
                    let inside = &text[at + 1..];
                    let name = inside.split('}').next().filter(|name| name.len() < inside.len() && is_name(name));
                    let name = name.ok_or(TemplateError::Open(number))?;
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Place(name.to_owned()));
                    while rest.next_if(|((next, _), _)| *next <= at + 1 + name.len()).is_some() {}
                }
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The text with `values` in their places.
    pub fn render(&self, values: &Map<String, Value>, escape: Escape) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Place(name) => match find(values, name) {
                    Some(value) => write_value(&mut out, value, escape),
                    None => write_value(&mut out, &Value::String(format!("{{{name}}}")), escape),
                },
            }
        }
        out
    }

    /// The first place that has no value.
    pub fn missing(&self, values: &Map<String, Value>) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Place(name) if find(values, name).is_none_or(Value::is_null) => Some(name.as_str()),
            Part::Place(_) | Part::Text(_) => None,
        })
    }

    /// Its places, in their order.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Place(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text before the first place.
    pub fn start(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            Some(Part::Place(_)) | None => "",
        }
    }

    /// True if it is the same text for every message.
    pub fn is_plain(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }
}

/// Shows places only: the text between them may hold a secret.
impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Template")?;
        f.debug_list().entries(self.places()).finish()
    }
}

/// What may stand between braces: quotes, spaces and colons show that JSON was meant.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '$'))
}

fn find<'a>(values: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let field = values.get(name).or_else(|| values.get("values")?.get(name));
    field.or_else(|| {
        let (first, rest) = name.split_once('.')?;
        rest.split('.').try_fold(values.get(first)?, |value, part| value.get(part))
    })
}

fn write_value(out: &mut String, value: &Value, escape: Escape) {
    let text = match value {
        Value::String(text) => text.clone(),
        other => {
            let json = other.to_string();
            if escape == Escape::Json {
                out.push_str(&json);
                return;
            }
            json
        }
    };
    match escape {
        Escape::Text => out.push_str(&text),
        Escape::Line => out.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c })),
        Escape::Json => {
            let quoted = Value::String(text).to_string();
            out.push_str(quoted.get(1..quoted.len() - 1).unwrap_or_default());
        }
        Escape::Url => {
            for byte in text.bytes() {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    out.push(char::from(byte));
                } else {
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn render(text: &str, value: Value, escape: Escape) -> String {
        Template::parse(text).unwrap().render(&values(value), escape)
    }

    #[test]
    fn places_are_filled_and_braces_written_twice_stay() {
        let value = json!({
            "plate": "12가 3456", "n": 7, "on": true, "none": null, "a.b": "whole",
            "a": {"b": "inside", "c": {"d": 1.5}}, "values": {"lat": 37.5, "plate": "hidden"},
        });
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("{plate}", "12가 3456"),
            ("{plate}: {n} {on} {none}!", "12가 3456: 7 true null!"),
            ("{{{n}}} {{n}} }}{{", "{7} {n} }{"),
            ("{a.b} {a.c.d} {a.c}", "whole 1.5 {\"d\":1.5}"),
            ("{lat}", "37.5"),
            ("차 {nothing} {a.x}", "차 {nothing} {a.x}"),
        ] {
            assert_eq!(render(text, value.clone(), Escape::Text), expected, "{text}");
        }
    }

    #[test]
    fn values_are_written_for_the_place_where_they_go() {
        let value = json!({"x": "a\"b\r\nBcc: c/d?é", "n": 1, "o": {"k": "v"}});
        assert_eq!(render("{x}", value.clone(), Escape::Line), "a\"b  Bcc: c/d?é");
        assert_eq!(render("{x}/{n}", value.clone(), Escape::Url), "a%22b%0D%0ABcc%3A%20c%2Fd%3F%C3%A9/1");
        let json = render(r#"{{"text": "{x}", "n": {n}, "o": {o}}}"#, value.clone(), Escape::Json);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!({"text": value["x"], "n": 1, "o": {"k": "v"}}));
    }

    #[test]
    fn missing_values_are_named() {
        let template = Template::parse("{a} {b} {c}").unwrap();
        assert_eq!(template.missing(&values(json!({"a": 1, "b": null, "c": 2}))), Some("b"));
        assert_eq!(template.missing(&values(json!({"a": 1, "b": 2, "c": 3}))), None);
        assert_eq!((template.start(), template.is_plain()), ("", false));
        let plain = Template::parse("a {{b}}").unwrap();
        assert_eq!((plain.start(), plain.is_plain()), ("a {b}", true));
    }

    #[test]
    fn wrong_texts_say_where() {
        for (text, error) in [
            ("{", TemplateError::Open(1)),
            ("차 {a", TemplateError::Open(3)),
            ("a {}", TemplateError::Open(3)),
            ("{\"text\": \"{message}\"}", TemplateError::Open(1)),
            ("{a b}", TemplateError::Open(1)),
            ("{a{b}}", TemplateError::Open(1)),
            ("a } b", TemplateError::Close(3)),
            ("{a}}", TemplateError::Close(4)),
        ] {
            assert_eq!(Template::parse(text), Err(error.clone()), "{text}");
            assert!(error.to_string().contains("writes a brace"), "{error}");
        }
    }

    #[test]
    fn debug_shows_no_text() {
        let template = Template::parse("https://hush/{car}").unwrap();
        assert_eq!(format!("{template:?}"), "Template[\"car\"]");
    }

    proptest! {
        /// Doubling the braces of any text makes it a template of that very text.
        #[test]
        fn every_text_can_be_written(text in any::<String>()) {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(render(&doubled, json!({}), Escape::Text), text);
        }

        /// What a value holds never makes a second line, a second JSON field or a second path segment.
        #[test]
        fn values_stay_inside_their_place(text in any::<String>()) {
            let value = json!({"x": text});
            let line = render("{x}", value.clone(), Escape::Line);
            prop_assert!(!line.contains(char::is_control), "{:?}", line);
            let json: Value = serde_json::from_str(&render("{{\"a\": \"{x}\"}}", value.clone(), Escape::Json)).unwrap();
            prop_assert_eq!(json, json!({"a": text}));
            let url = render("{x}", value, Escape::Url);
            prop_assert!(url.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~%".contains(&c)), "{}", url);
        }
    }
}
