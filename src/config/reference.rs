//! `schemas/<table>.toml` with `kind = "reference"` into [`schema::Reference`](crate::schema::Reference).

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
use crate::schema::{FileFormat, Reference};

const SHORTEST: Duration = Duration::from_secs(1);

/// Reads the reference table `table` of the project in `dir`, defaults below it already. `None` only if problems were
/// reported.
pub(super) fn read(
    tree: &Table,
    table: &str,
    file: &str,
    dir: &Path,
    problems: &RefCell<Problems>,
) -> Option<Reference> {
    let root = Section::root(tree, file, &reference::ROOT, problems);
    root.require("url", "where its files are, such as \"reference/zones/*.csv\"");
    let url = root.has("url").then(|| root.read("url", |text| url(text, dir))).flatten();
    let formats = [("csv", FileFormat::Csv), ("json", FileFormat::Json), ("parquet", FileFormat::Parquet)];
    let format = root.has("format").then(|| root.choice("format", &formats, &[])).flatten();
    let _ = root.choice("mode", &[("replace", ())], reference::MODES_LATER);
    let poll = root.read("poll", |text| match text.parse::<Interval>()?.duration() {
        poll if poll < SHORTEST => Err(Complaint::new("is too short").hint("at least \"1s\"")),
        poll => Ok(poll),
    });
    let key = if root.has("key") { latest::key(&root) } else { Vec::new() };
    let url = url?;
    if !root.has("format") && FileFormat::of_name(&url).is_none() {
        let complaint = Complaint::new("does not say what is in the files");
        root.complain("url", complaint.hint("add format = \"csv\" (or \"json\", \"parquet\")"));
        return None;
    }
    Some(Reference { table: table.to_owned(), url, format, key, poll: poll? })
}

/// A path is taken from the project's folder.
fn url(text: &str, dir: &Path) -> Result<String, Complaint> {
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
