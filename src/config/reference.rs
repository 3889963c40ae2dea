//! `schemas/<table>.toml` with `kind = "reference"` into [`schema::Reference`](crate::schema::Reference), or into
//! [`schema::Imported`](crate::schema::Imported) if files are taken in one after the other.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use super::{
    latest,
    problem::{Complaint, Problems},
    section::Section,
    tree::Table,
    units::Interval,
    words::reference,
};
use crate::decode::Packing;
use crate::schema::{FileFormat, ImportMode, Imported, Reference};

const SHORTEST: Duration = Duration::from_secs(1);
/// `format` of files.
pub(super) const FORMATS: [(&str, FileFormat); 3] =
    [("csv", FileFormat::Csv), ("json", FileFormat::Json), ("parquet", FileFormat::Parquet)];

/// What a file declares.
pub(super) enum Declared {
    Reference(Reference),
    Imported(Imported),
}

/// Reads the reference table `table` of the project in `dir`, defaults below it already. `None` only if problems were
/// reported.
pub(super) fn read(
    tree: &Table,
    table: &str,
    file: &str,
    dir: &Path,
    problems: &RefCell<Problems>,
) -> Option<Declared> {
    let root = Section::root(tree, file, &reference::ROOT, problems);
    let has_url = root.has("url");
    let url = has_url.then(|| root.read("url", |text| url(text, dir))).flatten();
    let format = root.has("format").then(|| root.choice("format", &FORMATS, &[])).flatten();
    let modes = [("replace", ImportMode::Replace), ("append", ImportMode::Append), ("upsert", ImportMode::Upsert)];
    let by_default = if has_url { ImportMode::Replace } else { ImportMode::Append };
    let mode = if root.has("mode") { root.choice("mode", &modes, &[]) } else { Some(by_default) };
    let poll = root.read("poll", poll);
    let key = if root.has("key") { latest::key(&root) } else { Vec::new() };
    let mode = mode?;
    if mode == ImportMode::Upsert && key.is_empty() {
        let complaint = Complaint::new("needs a key").hint("such as key = [\"id\"]: a row takes the place of its like");
        root.complain("mode", complaint);
        return None;
    }
    let table = table.to_owned();
    if !has_url {
        return Some(Declared::Imported(Imported { table, url, format, key, mode, poll: poll? }));
    }
    let url = url?;
    // Files that are looked up as they are now are not packed.
    let name = if mode == ImportMode::Replace { &*url } else { Packing::of_name(&url).1 };
    if !root.has("format") && FileFormat::of_name(name).is_none() {
        let complaint = Complaint::new("does not say what is in the files");
        root.complain("url", complaint.hint("add format = \"csv\" (or \"json\", \"parquet\")"));
        return None;
    }
    Some(match mode {
        ImportMode::Replace => Declared::Reference(Reference { table, url, format, key, poll: poll? }),
        _ => Declared::Imported(Imported { table, url: Some(url), format, key, mode, poll: poll? }),
    })
}

/// How often it is looked for new files.
pub(super) fn poll(text: &str) -> Result<Duration, Complaint> {
    match text.parse::<Interval>()?.duration() {
        poll if poll < SHORTEST => Err(Complaint::new("is too short").hint("at least \"1s\"")),
        poll => Ok(poll),
    }
}

/// A path is taken from the folder `dir`.
pub(super) fn url(text: &str, dir: &Path) -> Result<String, Complaint> {
    let (place, pattern) = match text.split_once("://") {
        None if Path::new(text).is_absolute() => (text.to_owned(), text),
        None => (format!("{}/{text}", glob::Pattern::escape(&dir.display().to_string())), text),
        Some(("s3", rest)) => {
            let Some((bucket, key)) = rest.split_once('/').filter(|(bucket, key)| bucket.len() > 2 && !key.is_empty())
            else {
                return Err(Complaint::new("names no files").hint("such as \"s3://bucket/zones/*.csv\""));
            };
            if bucket.contains(['*', '?', '[']) {
                return Err(Complaint::new("names no bucket: only what follows it may be a pattern"));
            }
            (text.to_owned(), key)
        }
        Some((scheme, _)) => {
            let complaint = Complaint::new(format!("files at `{scheme}://` cannot be read"));
            return Err(complaint.hint("a path, or \"s3://bucket/zones/*.csv\""));
        }
    };
    if text.is_empty() || text.ends_with('/') {
        return Err(Complaint::new("names no files").hint("such as \"reference/zones/*.csv\""));
    }
    glob::Pattern::new(pattern).map_err(|error| Complaint::new(format!("is no pattern: {}", error.msg)))?;
    Ok(place)
}
