//! Records out of a file or standard input, for commands that send or look at them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use clap::ValueEnum;

use crate::decode::objects;
use crate::error::{Error, Kind, Result};

/// Objects that are written over several lines are read as a whole; a file above this has one record per line.
const MOST_BYTES: u64 = 1 << 30;

/// How a file holds its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Layout {
    /// JSON: an object per line, an array of objects, or objects over several lines
    #[default]
    Json,
    /// Each line as it is, whatever it holds
    Lines,
}

/// Opens a file; `-` is standard input.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let unreadable = |error| Error::new(Kind::Usage, format!("{} cannot be read", path.display())).because(error);
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(Error::new(Kind::Usage, format!("{} is a folder", path.display())).hint("name a file"));
    }
    Ok(Box::new(BufReader::with_capacity(1 << 16, file)))
}

/// Gives each record to `each`, with its line from 1, until that breaks off; a place that cannot be read as a
/// record comes as what is wrong with it. The first line decides: if it is whole, each line is read by itself, and
/// a bad one spoils no other; if an object or array goes on after it, all of the input is read as one text.
pub(super) fn each_record(
    mut input: impl BufRead,
    layout: Layout,
    mut each: impl FnMut(u64, Result<&[u8], String>) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let (mut number, mut first) = (0, true);
    while input.read_until(b'\n', &mut line)? > 0 {
        number += 1;
        let text = line.trim_ascii_end();
        let flow = if text.is_empty() {
            ControlFlow::Continue(())
        } else if layout == Layout::Lines {
            each(number, Ok(line.strip_suffix(b"\n").map_or(&line, |line| line.strip_suffix(b"\r").unwrap_or(line))))
        } else {
            if std::mem::take(&mut first) && goes_on(text) {
                input.by_ref().take(MOST_BYTES).read_to_end(&mut line)?;
                if !input.fill_buf()?.is_empty() {
                    let message = "records that go over several lines are more than 1 GiB; write one per line";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
                let _ = each_object(&line, number, &mut each);
                return Ok(());
            }
            each_object(text, number, &mut each)
        };
        if flow.is_break() {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// True for an object or array that is right as far as it goes, but not whole.
fn goes_on(line: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(line) else { return false };
    let mut objects = objects(text);
    text.trim_start().starts_with(['{', '['])
        && objects.any(|object| object.is_err())
        && objects.position() == text.len()
}

fn each_object(
    text: &[u8],
    first_line: u64,
    each: &mut impl FnMut(u64, Result<&[u8], String>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => return each(first_line, Err(format!("is not UTF-8 at byte {}", error.valid_up_to()))),
    };
    let (mut objects, mut line, mut counted) = (objects(text), first_line, 0);
    loop {
        let mut count_to = |place: usize| {
            let place = place.max(counted);
            line += text.as_bytes()[counted..place].iter().filter(|byte| **byte == b'\n').count() as u64;
            counted = place;
            line
        };
        match objects.next() {
            None => return ControlFlow::Continue(()),
            Some(Ok(object)) => {
                // Where it begins in the text it was cut from.
                let start = object.as_ptr() as usize - text.as_ptr() as usize;
                each(count_to(start), Ok(object.as_bytes()))?;
            }
            Some(Err(message)) => return each(count_to(objects.position()), Err(message)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, layout: Layout) -> Vec<(u64, Result<String, String>)> {
        let mut seen = Vec::new();
        each_record(text.as_bytes(), layout, |line, record| {
            seen.push((line, record.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())));
            ControlFlow::Continue(())
        })
        .unwrap();
        seen
    }

    fn good(text: &str) -> Vec<(u64, String)> {
        read(text, Layout::Json).into_iter().map(|(line, record)| (line, record.unwrap())).collect()
    }

    #[test]
    fn every_layout_of_objects_is_cut_alike() {
        let two = |first, second| vec![(first, r#"{"a":1}"#.to_owned()), (second, r#"{"b":2}"#.to_owned())];
        assert_eq!(good("{\"a\":1}\r\n\n{\"b\":2}"), two(1, 3));
        assert_eq!(good("[{\"a\":1},{\"b\":2}]"), two(1, 1));
        assert_eq!(good("[\n{\"a\":1},\n{\"b\":2}\n]\n"), two(2, 3));
        assert_eq!(good("{\n\"a\":1}\n{\"b\":\n2}\n").iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_bad_line_spoils_no_other() {
        let lines = read("{\"a\" 1}\n{\"a\":1}\n{\"b\":\n7\n{\"c\":3}\n", Layout::Json);
        let fates: Vec<(u64, bool)> = lines.iter().map(|(line, record)| (*line, record.is_ok())).collect();
        assert_eq!(fates, [(1, false), (2, true), (3, false), (4, false), (5, true)]);
    }

    #[test]
    fn a_document_ends_where_it_is_broken_and_says_the_line() {
        let records = read("[\n{\"a\":1},\n{\"b\":2},\n{\"c\" 3},\n{}]", Layout::Json);
        assert_eq!(
            records.iter().map(|(line, record)| (*line, record.is_ok())).collect::<Vec<_>>(),
            [(2, true), (3, true), (4, false)]
        );
    }

    #[test]
    fn lines_are_left_as_they_are() {
        let lines = read(" nonsense \r\n\n{\"a\":1}\n", Layout::Lines);
        assert_eq!(lines, [(1, Ok(" nonsense ".to_owned())), (3, Ok("{\"a\":1}".to_owned()))]);
    }
}
