//! Cuts a text into objects by the decoder's own rules, so that each can be a record.

use super::scan::{Cursor, Fault, Kind};

/// The objects of a text: one, several one after the other, or the elements of one array. What can be no record
/// is an `Err` that says why, and ends it, since nobody can know where the next object begins. Texts are below 4 GiB.
pub fn objects(text: &str) -> Objects<'_> {
    let cursor = Cursor::new(text);
    let state = if cursor.at_end() { State::Done } else { State::Start };
    Objects { text, cursor, state }
}

/// Iterates over [`objects`].
pub struct Objects<'a> {
    text: &'a str,
    cursor: Cursor<'a>,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Start,
    /// Between objects that stand one after the other.
    Sequence,
    /// Before an element.
    Array,
    Done,
}

impl<'a> Objects<'a> {
    /// Bytes before the object that comes next, or before the one that could not be read.
    pub fn position(&self) -> usize {
        self.cursor.position()
    }

    fn advance(&mut self) -> Result<Option<&'a str>, Fault> {
        if self.state == State::Start {
            self.state = if self.cursor.peek() == b'[' { State::Array } else { State::Sequence };
            if self.state == State::Array {
                self.cursor.enter(1)?;
                if !self.cursor.first_element() {
                    return self.end();
                }
            }
        }
        if self.cursor.peek() != b'{' {
            return Err(self.cursor.expected("an object"));
        }
        let slot = self.cursor.value(usize::from(self.state == State::Array))?;
        debug_assert_eq!(slot.kind, Kind::Nested);
        match self.state {
            State::Array if !self.cursor.next_element()? => {
                self.end()?;
            }
            State::Sequence => {
                self.cursor.skip_space();
                if self.cursor.at_end() {
                    self.state = State::Done;
                }
            }
            _ => {}
        }
        Ok(Some(slot.raw(self.text)))
    }

    /// Behind the array.
    fn end(&mut self) -> Result<Option<&'a str>, Fault> {
        self.state = State::Done;
        self.cursor.skip_space();
        if self.cursor.at_end() { Ok(None) } else { Err(self.cursor.expected("the end")) }
    }
}

impl<'a> Iterator for Objects<'a> {
    type Item = Result<&'a str, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::Done {
            return None;
        }
        let next = self.advance();
        if next.is_err() {
            self.state = State::Done;
        }
        next.map_err(|fault| fault.message).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::objects;

    #[test]
    fn the_decoders_forms_are_cut_into_objects() {
        for (text, expected) in [
            ("", vec![]),
            (" \n", vec![]),
            ("[]", vec![]),
            (r#" {"a":1} "#, vec![r#"{"a":1}"#]),
            ("{\n \"a\": [{}]\n}\n{}{\"b\":\"}{\"}", vec!["{\n \"a\": [{}]\n}", "{}", r#"{"b":"}{"}"#]),
            ("[{\"a\":1},\n {}]\n", vec![r#"{"a":1}"#, "{}"]),
        ] {
            assert_eq!(objects(text).collect::<Result<Vec<_>, _>>().unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_ends_it() {
        for (text, before) in [
            ("{} 7", 1),
            ("7", 0),
            ("[{},7]", 1),
            ("{} {\"a\":", 1),
            ("[{}", 0),
            ("{\"a\":1", 0),
            ("{},{}", 1),
            ("nonsense", 0),
        ] {
            let items: Vec<_> = objects(text).collect();
            assert_eq!(items.len(), before + 1, "{text}: {items:?}");
            assert!(items[..before].iter().all(Result::is_ok) && items[before].is_err(), "{text}: {items:?}");
        }
    }
}
