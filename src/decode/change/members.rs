//! An object's members, in order, and what stands at a path below.

use crate::decode::{
    Reason,
    scan::{Cursor, Fault, Kind, Slot},
    walk::content,
};

/// The members of a JSON object.
#[derive(Debug)]
pub(super) struct Members<'a> {
    pub text: &'a str,
    /// Keys and values.
    pub list: Vec<(Slot, Slot)>,
}

impl<'a> Members<'a> {
    /// The one object that `text` holds.
    pub fn whole(text: &'a str) -> Result<Self, Fault> {
        let mut cursor = Cursor::new(text);
        if cursor.peek() != b'{' {
            let value = cursor.value(0);
            let message = "the payload is no JSON object".to_owned();
            return Err(value.err().unwrap_or(Fault { reason: Reason::NotAnObject, message }));
        }
        let members = Self::read(&mut cursor)?;
        cursor.skip_space();
        if cursor.at_end() { Ok(members) } else { Err(cursor.expected("the end")) }
    }

    /// The members of a checked value; `None` unless it is an object.
    pub fn of(slot: Slot, text: &'a str) -> Option<Self> {
        let mut cursor = Cursor::at(text, slot.start() as usize);
        if slot.kind == Kind::Nested && cursor.peek() == b'{' { Self::read(&mut cursor).ok() } else { None }
    }

    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Fault> {
        let mut list = Vec::new();
        cursor.enter(1)?;
        let mut more = cursor.first_member();
        while more {
            let key = cursor.key()?;
            list.push((key, cursor.value(1)?));
            more = cursor.next_member()?;
        }
        Ok(Self { text: cursor.text, list })
    }

    /// The last value under `key`; nulls count as absent.
    pub fn get(&self, key: &str) -> Option<Slot> {
        let found = self.list.iter().rev().find(|(name, _)| content(*name, self.text) == key);
        found.map(|(_, value)| *value).filter(|value| value.kind != Kind::Null)
    }

    /// The members of the object under `key`.
    pub fn object(&self, key: &str) -> Option<Members<'a>> {
        self.get(key).and_then(|slot| Self::of(slot, self.text))
    }

    /// A scalar under `key` as text: a string's content, or a number or boolean as written.
    pub fn word(&self, key: &str) -> Option<String> {
        let slot = self.get(key).filter(|slot| slot.kind != Kind::Nested)?;
        Some(content(slot, self.text).into_owned())
    }

    /// A number under `key`, or a string that is one.
    pub fn number(&self, key: &str) -> Option<i64> {
        self.word(key)?.parse().ok()
    }

    /// What stands at a path of object keys, and the text it is part of.
    pub fn at_path(&self, parts: &[String]) -> Option<(Slot, &'a str)> {
        let (first, rest) = parts.split_first()?;
        let slot = self.get(first)?;
        if rest.is_empty() { Some((slot, self.text)) } else { Self::of(slot, self.text)?.at_path(rest) }
    }
}
