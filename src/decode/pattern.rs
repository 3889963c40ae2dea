//! Timestamps in a pattern of Java's `DateTimeFormatter`: the letters that devices and log files use.
//!
//! `y u M d H h m s S a E z Z X x V`, quoted text, and anything else as itself. Names of months and days are
//! English, in any case; a day of the week is read and not checked. One numeric letter takes one or two digits,
//! more take exactly that many where digits follow. Without a zone letter the project's zone holds.

use chrono_tz::Tz;

use super::time::{Zone, civil, fraction, offset};

/// A pattern, ready to read.
#[derive(Debug)]
pub(super) struct Pattern {
    items: Vec<Item>,
}

#[derive(Debug, Clone, PartialEq)]
enum Item {
    /// A number of `least..=most` digits.
    Number(Part, usize, usize),
    MonthName,
    DayName,
    HalfDay,
    Zone,
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Part {
    Year,
    ShortYear,
    Month,
    Day,
    Hour,
    HalfHour,
    Minute,
    Second,
    Fraction,
}

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// Abbreviations that mean one offset, in hours. Ambiguous ones (CST, IST, BST) are left out on purpose.
const ZONES: [(&str, i32); 16] = [
    ("UTC", 0),
    ("UT", 0),
    ("GMT", 0),
    ("Z", 0),
    ("KST", 9),
    ("JST", 9),
    ("EST", -5),
    ("EDT", -4),
    ("CDT", -5),
    ("MST", -7),
    ("MDT", -6),
    ("PST", -8),
    ("PDT", -7),
    ("CET", 1),
    ("CEST", 2),
    ("EET", 2),
];

impl Pattern {
    /// Reads a pattern; the error says which letter is not known or what is missing.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let mut items: Vec<Item> = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            let mut count = 1;
            let item = if c == '\'' {
                let mut text = String::new();
                loop {
                    match chars.next() {
                        Some('\'') if chars.peek() == Some(&'\'') => text.extend(chars.next()),
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("a quote is not closed".to_owned()),
                    }
                }
                Item::Text(if text.is_empty() { "'".to_owned() } else { text })
            } else if c.is_ascii_alphabetic() {
                while chars.peek() == Some(&c) {
                    chars.next();
                    count += 1;
                }
                Self::letter(c, count)?
            } else {
                Item::Text(c.to_string())
            };
            items.push(item);
        }
        // Where digits touch, only a fixed width tells the numbers apart.
        for at in 1..items.len() {
            if let (Item::Number(_, least, most), Item::Number(..)) = split_pair(&mut items, at) {
                let width = if *most == 9 { *least } else { (*least).max(2) };
                (*least, *most) = (width, width);
            }
        }
        let has =
            |wanted: &[Part]| items.iter().any(|item| matches!(item, Item::Number(part, ..) if wanted.contains(part)));
        let month = has(&[Part::Month]) || items.contains(&Item::MonthName);
        if !has(&[Part::Year, Part::ShortYear]) || !month || !has(&[Part::Day]) {
            return Err("a pattern needs a year, a month and a day".to_owned());
        }
        Ok(Self { items })
    }

    fn letter(letter: char, count: usize) -> Result<Item, String> {
        let number = |part| Item::Number(part, 1, 2);
        Ok(match (letter, count) {
            ('y' | 'u', 2) => Item::Number(Part::ShortYear, 2, 2),
            ('y' | 'u', 1 | 4) => Item::Number(Part::Year, 4, 4),
            ('M' | 'L', 1 | 2) => number(Part::Month),
            ('M' | 'L', 3 | 4) => Item::MonthName,
            ('d', 1 | 2) => number(Part::Day),
            ('H', 1 | 2) => number(Part::Hour),
            ('h', 1 | 2) => number(Part::HalfHour),
            ('m', 1 | 2) => number(Part::Minute),
            ('s', 1 | 2) => number(Part::Second),
            ('S', 1..=9) => Item::Number(Part::Fraction, count, 9),
            ('a', 1) => Item::HalfDay,
            ('E', 1..=4) => Item::DayName,
            ('z' | 'Z' | 'X' | 'x' | 'O', 1..=5) | ('V', 2) => Item::Zone,
            _ => return Err(format!("`{}` is not supported in a time pattern", letter.to_string().repeat(count))),
        })
    }

    /// The instant that `text` means, in microseconds since 1970.
    pub fn read(&self, text: &str, default: Tz) -> Option<i64> {
        let mut rest = text;
        let (mut year, mut month, mut day) = (0, 0, 0);
        let (mut hour, mut half_hour, mut minute, mut second, mut fraction_us) = (0, None, 0, 0, 0);
        let mut afternoon = None;
        let mut zone = Zone::Named(default);
        for item in &self.items {
            match item {
                Item::Text(expected) => rest = rest.strip_prefix(expected.as_str())?,
                Item::MonthName => month = name(&mut rest, &MONTHS)?,
                Item::DayName => drop(name(&mut rest, &DAYS)?),
                Item::HalfDay => afternoon = Some(name(&mut rest, &["am", "pm"])? == 2),
                Item::Zone => zone = read_zone(&mut rest)?,
                Item::Number(part, least, most) => {
                    let digits = rest.bytes().take(*most).take_while(u8::is_ascii_digit).count();
                    if digits < *least {
                        return None;
                    }
                    let (number, tail) = rest.split_at(digits);
                    rest = tail;
                    let value: u32 = number.parse().ok()?;
                    match part {
                        Part::Year => year = value as i32,
                        Part::ShortYear => year = 2_000 + value as i32,
                        Part::Month => month = value,
                        Part::Day => day = value,
                        Part::Hour => hour = value,
                        Part::HalfHour => half_hour = Some(value),
                        Part::Minute => minute = value,
                        Part::Second => second = value,
                        Part::Fraction => fraction_us = fraction(number.as_bytes())?,
                    }
                }
            }
        }
        if let Some(half_hour) = half_hour {
            if !(1..=12).contains(&half_hour) {
                return None;
            }
            hour = half_hour % 12 + if afternoon? { 12 } else { 0 };
        }
        if !rest.is_empty() || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let days = i64::from(civil(year, month, day)?);
        let seconds = days * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
        zone.to_utc(seconds * 1_000_000 + fraction_us)
    }
}

fn split_pair(items: &mut [Item], at: usize) -> (&mut Item, &mut Item) {
    let (left, right) = items.split_at_mut(at);
    (&mut left[at - 1], &mut right[0])
}

/// The number (from 1) of the name that `rest` begins with, in full or by its first three letters.
fn name(rest: &mut &str, names: &[&str]) -> Option<u32> {
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (word, tail) = rest.split_at(letters);
    let short = |name: &str| word.len() == 3 && name[..name.len().min(3)].eq_ignore_ascii_case(word);
    let at = names.iter().position(|name| name.eq_ignore_ascii_case(word) || short(name))?;
    *rest = tail;
    Some(at as u32 + 1)
}

/// An abbreviation, an offset, `GMT+9` or `GMT+09:00`, or a name of the time zone database.
fn read_zone(rest: &mut &str) -> Option<Zone> {
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "/_+-:".contains(c))).unwrap_or(rest.len());
    let (word, tail) = rest.split_at(end);
    *rest = tail;
    if let Some((_, hours)) = ZONES.iter().find(|(zone, _)| zone.eq_ignore_ascii_case(word)) {
        return Some(Zone::Offset(hours * 3_600));
    }
    let relative = word.strip_prefix("GMT").or_else(|| word.strip_prefix("UTC")).unwrap_or(word);
    let padded = match relative.as_bytes() {
        [sign, digit @ b'0'..=b'9'] => format!("{}0{}", char::from(*sign), char::from(*digit)),
        _ => relative.to_owned(),
    };
    offset(&padded).map(Zone::Offset).or_else(|| word.parse().ok().map(Zone::Named))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_and_their_patterns() {
        let seoul = chrono_tz::Asia::Seoul;
        for (pattern, text, expected) in [
            ("EEE MMM dd HH:mm:ss z yyyy", "Fri Mar 01 12:34:56 KST 2024", Some("2024-03-01T03:34:56Z")),
            ("EEE MMM dd HH:mm:ss z yyyy", "Fri Mar 1 12:34:56 UTC 2024", Some("2024-03-01T12:34:56Z")),
            ("EEE MMM dd HH:mm:ss z yyyy", "fri mar 01 12:34:56 Asia/Seoul 2024", Some("2024-03-01T03:34:56Z")),
            ("EEE MMM dd HH:mm:ss z yyyy", "Fri Mar 01 12:34:56 GMT+9 2024", Some("2024-03-01T03:34:56Z")),
            ("EEE MMM dd HH:mm:ss z yyyy", "Fri Mar 01 12:34:56 CST 2024", None),
            ("EEE MMM dd HH:mm:ss z yyyy", "Fri Mar 01 12:34:56 KST 24", None),
            ("EEE MMM dd HH:mm:ss z yyyy", "Fri Nope 01 12:34:56 KST 2024", None),
            ("yyyyMMddHHmmss", "20240301123456", Some("2024-03-01T03:34:56Z")),
            ("yyyyMMddHHmmssSSS", "20240301123456789", Some("2024-03-01T03:34:56.789Z")),
            ("yyMMdd", "240301", Some("2024-02-29T15:00:00Z")),
            ("d/M/yyyy h:mm a", "1/3/2024 12:05 AM", Some("2024-02-29T15:05:00Z")),
            ("d/M/yyyy h:mm a", "1/3/2024 1:05 pm", Some("2024-03-01T04:05:00Z")),
            ("d/M/yyyy h:mm a", "1/3/2024 13:05 pm", None),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2024-03-01T12:34:56.5+02:00", None),
            ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "2024-03-01T12:34:56.500+02:00", Some("2024-03-01T10:34:56.5Z")),
            ("yyyy-MM-dd'T'HH:mm:ssZ", "2024-03-01T12:34:56+0900", Some("2024-03-01T03:34:56Z")),
            ("dd MMMM yyyy 'o''clock' HH", "01 March 2024 o'clock 12", Some("2024-03-01T03:00:00Z")),
            ("yyyy-MM-dd", "2024-02-30", None),
            ("yyyy-MM-dd", "2024-03-01 ", None),
        ] {
            let read = Pattern::new(pattern).unwrap().read(text, seoul);
            let expected = expected.map(|text| chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros());
            assert_eq!(read, expected, "{pattern}: {text}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_work_is_refused() {
        for (pattern, message) in [
            ("yyyy-MM-dd HH:mm:ss q", "`q` is not supported in a time pattern"),
            ("HH:mm", "a pattern needs a year, a month and a day"),
            ("yyyy-MM-dd 'x", "a quote is not closed"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap_err(), message);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in "[yMdHhmsSaEzZXV':/ -]{0,20}", text in "\\PC{0,30}") {
            for pattern in [pattern.as_str(), "EEE MMM dd HH:mm:ss z yyyy"] {
                if let Ok(pattern) = Pattern::new(pattern) {
                    let _ = pattern.read(&text, Tz::UTC);
                }
            }
        }
    }
}
