//! A validating JSON cursor that hands out byte ranges, never values: numbers keep their digits, rescued values
//! are cut from the input, and nothing is copied unless a string holds escapes.
//!
//! It accepts exactly RFC 8259 within [`MAX_OPEN`] open containers, except that a lone surrogate escape, which
//! no UTF-8 string can hold, is an error. serde_json is not used here because it gives neither the place of a
//! value nor the digits of a number, and its recursion is what a depth bomb aims at.

use wide::u8x16;

use super::dead::Reason;

/// Containers that may be open at once.
pub(super) const MAX_OPEN: usize = 128;

/// The greatest distance from zero within which every integer is a double.
pub(super) const EXACT: u64 = 1 << 53;

/// What a value is, before anybody asks for its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Kind {
    /// Not seen.
    #[default]
    Absent,
    Null,
    True,
    False,
    /// A number without fraction and exponent.
    Integer,
    /// A number with a fraction or an exponent.
    Real,
    /// A string without escapes.
    Text,
    /// A string with escapes.
    Escaped,
    /// An array or object, taken whole.
    Nested,
}

/// A value's kind and its bytes in the text (a string's quotes included), in two words that stay in registers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    pub kind: Kind,
    /// Start and end.
    bytes: u64,
}

impl Slot {
    pub fn new(kind: Kind, start: usize, end: usize) -> Self {
        Self { kind, bytes: (start as u64) << 32 | end as u64 }
    }

    /// Where it begins.
    pub fn start(self) -> u32 {
        (self.bytes >> 32) as u32
    }

    /// Where what follows begins.
    pub fn end(self) -> u32 {
        self.bytes as u32
    }

    /// The value's JSON text.
    pub fn raw(self, text: &str) -> &str {
        &text[self.start() as usize..self.end() as usize]
    }

    /// A string's content, escapes as written.
    pub fn inner(self, text: &str) -> &str {
        &text[self.start() as usize + 1..self.end() as usize - 1]
    }
}

/// Why and where a payload is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub reason: Reason,
    pub message: String,
}

/// A place in a JSON text.
pub(super) struct Cursor<'a> {
    pub text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the first byte that is no white space.
    pub fn new(text: &'a str) -> Self {
        let mut cursor = Self { text, bytes: text.as_bytes(), at: 0 };
        cursor.skip_space();
        cursor
    }

    /// At the byte `at`, where a token begins.
    pub fn at(text: &'a str, at: usize) -> Self {
        Self { text, bytes: text.as_bytes(), at }
    }

    /// The byte here, or 0 at the end (a NUL byte is no JSON either).
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Bytes before this place.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Goes to where a token begins or ends.
    #[inline(always)]
    pub fn go(&mut self, to: usize) {
        self.at = to;
    }

    /// True if nothing is left.
    pub fn at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Moves over white space.
    #[inline(always)]
    pub fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// A fault here: what was expected, and what is there.
    #[cold]
    #[inline(never)]
    pub fn expected(&self, what: &str) -> Fault {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(c) if c > ' ' => format!("`{c}`"),
            Some(c) => format!("the character U+{:04X}", u32::from(c)),
            None if self.at_end() => "the end".to_owned(),
            None => "a broken character".to_owned(),
        };
        Fault { reason: Reason::NotJson, message: format!("expected {what}, found {found} at byte {}", self.at) }
    }

    /// Moves behind the `{` or `[` here and following white space; `open` containers are open with this one.
    pub fn enter(&mut self, open: usize) -> Result<(), Fault> {
        if open > MAX_OPEN {
            let message = format!("more than {MAX_OPEN} nested arrays and objects at byte {}", self.at);
            return Err(Fault { reason: Reason::TooDeep, message });
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Before an object's first member: true if there is one, else moves behind `}`.
    pub fn first_member(&mut self) -> bool {
        let empty = self.peek() == b'}';
        self.at += usize::from(empty);
        !empty
    }

    /// Before an array's first element: true if there is one, else moves behind `]`.
    pub fn first_element(&mut self) -> bool {
        let empty = self.peek() == b']';
        self.at += usize::from(empty);
        !empty
    }

    /// After a member: true and at the next key, or false and behind the `}`.
    #[inline(always)]
    pub fn next_member(&mut self) -> Result<bool, Fault> {
        self.next_in(b'}', "`,` or `}`")
    }

    /// After an element: true and at the next one, or false and behind the `]`.
    pub fn next_element(&mut self) -> Result<bool, Fault> {
        self.next_in(b']', "`,` or `]`")
    }

    #[inline(always)]
    fn next_in(&mut self, close: u8, what: &str) -> Result<bool, Fault> {
        self.skip_space();
        let byte = self.peek();
        if byte != b',' && byte != close {
            return Err(self.expected(what));
        }
        self.at += 1;
        if byte == b',' {
            self.skip_space();
        }
        Ok(byte == b',')
    }

    /// Moves to a member's value if its key is `written` here, colon and all.
    #[inline(always)]
    pub fn skip_key(&mut self, written: &Written) -> bool {
        let found = self.bytes.get(self.at..).is_some_and(|rest| written.begins(rest));
        if found {
            self.at += written.text.len();
            self.skip_space();
        }
        found
    }

    /// A member's key; moves to its value.
    pub fn key(&mut self) -> Result<Slot, Fault> {
        if self.peek() != b'"' {
            return Err(self.expected("a key in double quotes"));
        }
        let key = self.string()?;
        self.skip_space();
        if self.peek() != b':' {
            return Err(self.expected("`:`"));
        }
        self.at += 1;
        self.skip_space();
        Ok(key)
    }

    /// Any value, containers whole; `open` containers are open around it.
    #[inline(always)]
    pub fn value(&mut self, open: usize) -> Result<Slot, Fault> {
        if matches!(self.peek(), b'{' | b'[') { self.nested(open) } else { self.scalar() }
    }

    /// A value that is no container.
    #[inline(always)]
    pub fn scalar(&mut self) -> Result<Slot, Fault> {
        match self.peek() {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.word("true", Kind::True),
            b'f' => self.word("false", Kind::False),
            b'n' => self.word("null", Kind::Null),
            _ => Err(self.expected("a value")),
        }
    }

    #[inline(always)]
    fn slot(&mut self, kind: Kind, end: usize) -> Slot {
        let slot = Slot::new(kind, self.at, end);
        self.at = end;
        slot
    }

    #[inline(always)]
    fn word(&mut self, word: &'static str, kind: Kind) -> Result<Slot, Fault> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        Ok(self.slot(kind, self.at + word.len()))
    }

    #[inline(always)]
    fn number(&mut self) -> Result<Slot, Fault> {
        let digits = |at: usize| digits_end(self.bytes, at);
        let missing = |at: usize| Cursor { at, ..*self }.expected("a digit");
        let mut end = self.at + usize::from(self.peek() == b'-');
        let whole = end;
        end = digits(end);
        if end == whole {
            return Err(missing(end));
        }
        if self.bytes[whole] == b'0' && end > whole + 1 {
            return Err(Cursor { at: whole + 1, ..*self }.expected("no digit after a leading zero"));
        }
        let mut kind = Kind::Integer;
        if self.bytes.get(end) == Some(&b'.') {
            kind = Kind::Real;
            let fraction = end + 1;
            end = digits(fraction);
            if end == fraction {
                return Err(missing(end));
            }
        }
        if let Some(b'e' | b'E') = self.bytes.get(end) {
            kind = Kind::Real;
            let exponent = end + 1 + usize::from(matches!(self.bytes.get(end + 1), Some(b'+' | b'-')));
            end = digits(exponent);
            if end == exponent {
                return Err(missing(end));
            }
        }
        Ok(self.slot(kind, end))
    }

    /// The boolean here and where it ends.
    #[inline(always)]
    pub fn plain_boolean(&self) -> Option<(bool, usize)> {
        let rest = self.bytes.get(self.at..)?;
        if rest.starts_with(b"true") {
            return Some((true, self.at + 4));
        }
        rest.starts_with(b"false").then_some((false, self.at + 5))
    }

    /// Appends the content of the string here to `out` while looking for its end, and says where that is; `None`, and
    /// nothing is appended, if it has none or is no string.
    #[inline(always)]
    pub fn copy_string(&self, out: &mut Vec<u8>) -> Option<usize> {
        if self.peek() != b'"' {
            return None;
        }
        let before = out.len();
        let mut end = copy_run(self.bytes, self.at + 1, out);
        while self.bytes.get(end) == Some(&b'\\')
            && let Some((char, behind)) = escaped(self.bytes, end)
        {
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            end = copy_run(self.bytes, behind, out);
        }
        if self.bytes.get(end) != Some(&b'"') {
            out.truncate(before);
            return None;
        }
        Some(end + 1)
    }

    /// The integer here and where it ends, if it has fewer than 16 digits; `None` also for some others.
    #[inline(always)]
    pub fn short_integer(&self) -> Option<(i64, usize)> {
        let negative = self.peek() == b'-';
        let (value, end) = self.short_whole(self.at + usize::from(negative))?;
        let value = value.cast_signed();
        let whole = !matches!(self.bytes.get(end), Some(b'.' | b'e' | b'E'));
        whole.then_some((if negative { -value } else { value }, end))
    }

    /// The number here and where it ends, if it is short, has no exponent, and its digits without the point make an
    /// integer that is a double: the power of ten that it is to be divided by is one, too, so that the division rounds
    /// to the nearest double (Clinger's fast path). What devices send is nearly always of this kind.
    #[inline(always)]
    pub fn short_real(&self) -> Option<(f64, usize)> {
        const POWERS: [f64; 16] =
            [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
        let negative = self.peek() == b'-';
        let begin = self.at + usize::from(negative);
        let (whole, point) = self.short_whole(begin)?;
        let (mut digits, mut end, mut power) = (whole, point, 1.0);
        let real = self.bytes.get(point) == Some(&b'.');
        if real {
            let (fraction, behind) = short_digits(self.bytes, point + 1)?;
            let count = behind - point - 1;
            // More digits than these may not fit into the word.
            if behind - begin > 18 {
                return None;
            }
            power = POWERS[count];
            (digits, end) = (whole * power as u64 + fraction, behind);
        }
        if digits > EXACT || matches!(self.bytes.get(end), Some(b'e' | b'E')) {
            return None;
        }
        let value = digits.cast_signed() as f64 / power;
        // The integer -0 is nothing but 0.
        Some((if negative && (real || digits > 0) { -value } else { value }, end))
    }

    /// The digits before a number's point at `at`, and where they end.
    #[inline(always)]
    fn short_whole(&self, at: usize) -> Option<(u64, usize)> {
        let (value, end) = short_digits(self.bytes, at)?;
        let zero = self.bytes.get(at) == Some(&b'0') && end > at + 1;
        (!zero).then_some((value, end))
    }

    #[inline(always)]
    fn string(&mut self) -> Result<Slot, Fault> {
        let mut kind = Kind::Text;
        let mut end = self.at + 1;
        loop {
            end = plain_run(self.bytes, end);
            match self.bytes.get(end) {
                Some(b'"') => return Ok(self.slot(kind, end + 1)),
                Some(b'\\') => {
                    kind = Kind::Escaped;
                    end = self.escape(end)?;
                }
                Some(_) => return Err(Cursor { at: end, ..*self }.expected("no control character in a string")),
                None => return Err(Cursor { at: end, ..*self }.expected("the string's closing quote")),
            }
        }
    }

    /// The place behind the escape at `at`.
    #[inline(never)]
    fn escape(&self, at: usize) -> Result<usize, Fault> {
        if let Some((_, behind)) = escaped(self.bytes, at) {
            return Ok(behind);
        }
        Err(Cursor { at, ..*self }.expected(match self.bytes.get(at + 1) {
            Some(b'u') if hex4(self.bytes, at + 2).is_none() => "four hex digits after \\u",
            Some(b'u') => "no lone surrogate in a string",
            _ => "an escape such as \\n",
        }))
    }

    /// The container here, whole, without recursion.
    #[inline(never)]
    pub fn nested(&mut self, open: usize) -> Result<Slot, Fault> {
        let start = self.at;
        // One bit per open container: 1 for an object. MAX_OPEN bits are enough.
        let mut objects: u128 = 0;
        let mut depth = 0;
        loop {
            let byte = self.peek();
            let mut inside = false;
            if byte == b'{' || byte == b'[' {
                depth += 1;
                self.enter(open + depth)?;
                objects = objects << 1 | u128::from(byte == b'{');
                inside = self.peek() != byte + 2;
            } else {
                self.scalar()?;
            }
            // Behind a value, or at the end of an empty container.
            while !inside {
                if depth == 0 {
                    let end = std::mem::replace(&mut self.at, start);
                    return Ok(self.slot(Kind::Nested, end));
                }
                inside = if objects & 1 == 1 { self.next_member()? } else { self.next_element()? };
                if !inside {
                    objects >>= 1;
                    depth -= 1;
                }
            }
            if objects & 1 == 1 {
                self.key()?;
            }
        }
    }
}

/// What the escape at `at` stands for, and the place behind it.
fn escaped(bytes: &[u8], at: usize) -> Option<(char, usize)> {
    let char = match bytes.get(at + 1)? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let code = hex4(bytes, at + 2)?;
            if !(0xd800..=0xdbff).contains(&code) {
                return Some((char::from_u32(code)?, at + 6));
            }
            let low = hex4(bytes, at + 8).filter(|low| (0xdc00..=0xdfff).contains(low))?;
            let pair = bytes[at + 6..].starts_with(b"\\u");
            return pair.then_some((char::from_u32(0x10000 + ((code - 0xd800) << 10 | (low & 0x3ff)))?, at + 12));
        }
        other @ (b'"' | b'\\' | b'/') => char::from(*other),
        _ => return None,
    };
    Some((char, at + 2))
}

fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

/// A text that messages are expected to hold, prepared for being compared.
#[derive(Debug, Default)]
pub(super) struct Written {
    text: Box<str>,
    /// The first eight bytes, zeros behind a shorter text, and which of them count.
    head: u64,
    mask: u64,
}

impl Written {
    pub fn new(text: String) -> Self {
        let length = text.len().min(8);
        let mut head = [0; 8];
        head[..length].copy_from_slice(&text.as_bytes()[..length]);
        let mask = if length == 8 { u64::MAX } else { (1 << (8 * length)) - 1 };
        Self { text: text.into(), head: u64::from_le_bytes(head), mask }
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// True if `bytes` begin with it, without a call for the short texts that keys are.
    #[inline(always)]
    fn begins(&self, bytes: &[u8]) -> bool {
        let word = |chunk: &[u8; 8]| u64::from_le_bytes(*chunk);
        let text = self.text.as_bytes();
        let (Some(head), Some(here)) = (bytes.first_chunk::<8>(), bytes.get(..text.len())) else {
            return bytes.starts_with(text);
        };
        if word(head) & self.mask != self.head {
            return false;
        }
        // All eights behind the first, then the last eight bytes, whatever they share.
        match (here.last_chunk::<8>(), text.last_chunk::<8>()) {
            (Some(here_end), Some(end)) if text.len() > 8 => {
                let mut rest = here.as_chunks::<8>().0.iter().zip(text.as_chunks::<8>().0).skip(1);
                word(here_end) == word(end) && (text.len() <= 16 || rest.all(|(a, b)| word(a) == word(b)))
            }
            _ => true,
        }
    }
}

/// The high bit of each byte that is no digit.
#[inline(always)]
fn not_digits(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let value = word ^ (ONES * u64::from(b'0'));
    // The addition carries into a byte's high bit from 10 on, and never out of a byte below 0x80.
    (((value & (ONES * 0x7f)) + ONES * (0x80 - 10)) | value) & (ONES << 7)
}

/// The first place from `at` on that is no digit, or the end.
#[inline(always)]
fn digits_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let others = not_digits(u64::from_le_bytes(*chunk));
        if others != 0 {
            return at + (others.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

/// The number that fewer than 16 digits at `at` mean, and where they end; `None` also for some others.
#[inline(always)]
fn short_digits(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
    let word = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let high = word(at)?;
    let count = digit_count(high);
    if count < 8 {
        return (count > 0).then(|| (first_digits(high, count), at + count));
    }
    let low = word(at + 8)?;
    let count = digit_count(low);
    let value = first_digits(high, 8) * POWERS[count] + first_digits(low, count);
    (count < 8).then_some((value, at + 8 + count))
}

/// How many of the bytes are digits before the first that is none.
#[inline(always)]
fn digit_count(word: u64) -> usize {
    (not_digits(word).trailing_zeros() / 8) as usize
}

/// The number that the first `count` bytes mean, all digits.
#[inline(always)]
fn first_digits(word: u64, count: usize) -> u64 {
    // In two steps, because a shift by all 64 bits is none. What is shifted in counts as zeros before the digits.
    let word = (word & 0x0f0f_0f0f_0f0f_0f0f) << (4 * (8 - count)) << (4 * (8 - count));
    // Eight digits become four pairs, these two fours, these one number, all within the word.
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let low = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let high = (pairs >> 16 & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    low.wrapping_add(high) >> 32
}

/// The first place from `at` on that is a quote, a backslash or a control character, or the end.
fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let special = special(block);
        if special != 0 {
            return at + special.trailing_zeros() as usize;
        }
        at += 16;
    }
    while bytes.get(at).is_some_and(|byte| *byte >= b' ' && *byte != b'"' && *byte != b'\\') {
        at += 1;
    }
    at
}

/// A bit for each byte that is a quote, a backslash or a control character.
/// [`plain_run`] that appends the bytes on its way to `out`.
#[inline(always)]
fn copy_run(bytes: &[u8], mut at: usize, out: &mut Vec<u8>) -> usize {
    // Whole blocks of a size known here are copied without a call.
    for block in bytes.get(at..).unwrap_or_default().as_chunks::<32>().0 {
        out.extend_from_slice(block);
        let [low, high] = block.as_chunks().0 else { unreachable!("two halves") };
        let special = special(low) | special(high) << 16;
        if special != 0 {
            let length = special.trailing_zeros() as usize;
            out.truncate(out.len() - 32 + length);
            return at + length;
        }
        at += 32;
    }
    let end = plain_run(bytes, at);
    out.extend_from_slice(&bytes[at..end]);
    end
}

fn special(block: &[u8; 16]) -> u32 {
    let block = u8x16::new(*block);
    let is = |byte: u8| block.simd_eq(u8x16::splat(byte));
    let control = block.min(u8x16::splat(0x1f)).simd_eq(block);
    (is(b'"') | is(b'\\') | control).to_bitmask()
}

/// Appends the content of a checked string to `out`, escapes resolved.
pub(super) fn unescape(inner: &str, out: &mut String) {
    let mut from = 0;
    loop {
        let end = plain_run(inner.as_bytes(), from);
        out.push_str(&inner[from..end]);
        let Some((char, behind)) = escaped(inner.as_bytes(), end) else { return };
        out.push(char);
        from = behind;
    }
}

/// Appends a checked JSON text to `out` without the white space between its tokens.
pub(super) fn compact(raw: &str, out: &mut String) {
    let bytes = raw.as_bytes();
    let (mut from, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = plain_run(bytes, at + 1);
                while bytes.get(at) == Some(&b'\\') {
                    at = plain_run(bytes, at + 2);
                }
                at += 1;
            }
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.push_str(&raw[from..at]);
                at += 1;
                from = at;
            }
            _ => at += 1,
        }
    }
    out.push_str(&raw[from..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn whole(text: &str) -> Result<Slot, Fault> {
        let mut cursor = Cursor::new(text);
        let slot = cursor.value(0)?;
        cursor.skip_space();
        if cursor.at_end() { Ok(slot) } else { Err(cursor.expected("the end")) }
    }

    /// Texts that are nearly JSON.
    fn near_json() -> impl Strategy<Value = String> {
        let token = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "null",
            "true",
            "false",
            "0",
            "-",
            "12",
            "-0.5",
            "1e5",
            "2E-3",
            "01",
            "1.",
            ".5",
            "\"a\"",
            "\"\"",
            "\"\\n\"",
            "\"\\u00e9\"",
            "\"\\ud83d\\ude00\"",
            "\"\\ud83d\"",
            "\"é\"",
            "\"",
            "\\",
            "\u{1}",
            "\"long enough for two words\"",
        ]);
        prop_oneof![prop::collection::vec(token, 0..12).prop_map(|tokens| tokens.concat()), "\\PC{0,20}"]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_serde_json_accepts_is_accepted_and_nothing_else(text in near_json()) {
            let theirs = serde_json::from_str::<Value>(&text);
            // A number beyond double is JSON all the same: it is rescued later.
            prop_assume!(!theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range")));
            prop_assert_eq!(whole(&text).is_ok(), theirs.is_ok(), "{:?} {:?}", whole(&text), theirs);
        }

        #[test]
        fn a_string_reads_as_written(value in any::<String>(), tail in "[ -~]{0,20}") {
            let value = format!("{value}{tail}");
            let as_utf16: String = value.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            for text in [serde_json::to_string(&value).unwrap(), format!("\"{as_utf16}\"")] {
                let mut out = String::new();
                unescape(whole(&text).unwrap().inner(&text), &mut out);
                prop_assert_eq!(&out, &value);
            }
        }

        #[test]
        fn compact_text_means_the_same(text in near_json()) {
            if let (Ok(slot), Ok(value)) = (whole(&text), serde_json::from_str::<Value>(&text)) {
                let mut out = String::new();
                compact(slot.raw(&text), &mut out);
                prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), value);
                prop_assert!(!out.contains(['\n', '\t', '\r']));
            }
        }
    }

    #[test]
    fn depth_is_counted_not_recursed() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(whole(&nested(MAX_OPEN)).is_ok());
        assert_eq!(whole(&nested(MAX_OPEN + 1)).unwrap_err().reason, Reason::TooDeep);
        assert_eq!(whole(&"{\"a\":[".repeat(100_000)).unwrap_err().reason, Reason::TooDeep);
    }

    proptest! {
        #[test]
        fn digits_are_read_as_the_standard_library_does(text in "[0-9]{0,19}[ -~]{0,12}") {
            let bytes = text.as_bytes();
            let end = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
            prop_assert_eq!(digits_end(bytes, 0), end);
            match short_digits(bytes, 0) {
                Some((value, behind)) => prop_assert_eq!((Ok(value), behind), (text[..end].parse(), end)),
                None => prop_assert!(end == 0 || end > 15 || end + 8 > bytes.len(), "{}", text),
            }
        }

        #[test]
        fn a_written_text_is_found_as_it_is_and_no_other(text in "[ -~]{0,40}", tail in "[ -~]{0,10}", at in any::<prop::sample::Index>()) {
            let written = Written::new(text.clone());
            let mut here = format!("{text}{tail}").into_bytes();
            prop_assert!(written.begins(&here));
            if !text.is_empty() {
                here[at.index(text.len())] ^= 1;
                prop_assert!(!written.begins(&here));
                prop_assert!(!written.begins(&text.as_bytes()[1..]));
            }
        }

        #[test]
        fn a_string_is_copied_as_it_is_read(value in "[ -~é😀]{0,60}", tail in "[ -~]{0,40}") {
            let text = format!("{}{tail}", serde_json::to_string(&value).unwrap());
            let mut out = b"before".to_vec();
            let end = Cursor::new(&text).copy_string(&mut out);
            prop_assert_eq!(Cursor::new(&text).scalar().unwrap().end() as usize, end.unwrap());
            prop_assert_eq!(out, format!("before{value}").into_bytes());
        }

        #[test]
        fn what_is_no_string_is_not_copied(text in near_json()) {
            let cursor = Cursor::new(&text);
            let mut out = Vec::new();
            let end = cursor.copy_string(&mut out);
            prop_assert!(end.is_some() || out.is_empty());
            let string = if cursor.peek() == b'"' { Cursor::new(&text).scalar().ok() } else { None };
            prop_assert_eq!(end, string.map(|slot| slot.end() as usize));
        }
    }

    #[test]
    fn a_fault_says_what_is_wrong_and_where() {
        for (text, message) in [
            ("", "expected a value, found the end at byte 0"),
            ("  NaN", "expected a value, found `N` at byte 2"),
            ("[1 2]", "expected `,` or `]`, found `2` at byte 3"),
            ("{\"a\" 1}", "expected `:`, found `1` at byte 5"),
            ("{a:1}", "expected a key in double quotes, found `a` at byte 1"),
            ("[1,]", "expected a value, found `]` at byte 3"),
            ("\"abc", "expected the string's closing quote, found the end at byte 4"),
            ("\"a\nb\"", "expected no control character in a string, found the character U+000A at byte 2"),
            ("01", "expected no digit after a leading zero, found `1` at byte 1"),
            ("-", "expected a digit, found the end at byte 1"),
        ] {
            assert_eq!(whole(text).unwrap_err().message, message);
        }
    }
}
