//! AWS DMS's JSON messages for Kafka targets: `metadata` says what happened, `data` holds the row, `before-image` the
//! columns that an update changed, or the key.
//!
//! A message tells a NULL as a null (`IncludeNullAndEmpty`) or not at all: both are null here. The order of changes comes
//! with `IncludeTransactionDetails`; rows of a full load come before all of them.

use super::{Changes, Head, Members, Outcome, not_a_change, token};
use crate::decode::{Skip, scan::Fault};

impl Changes {
    pub(super) fn dms(&mut self, text: &str, out: &mut String) -> Result<Outcome, Fault> {
        let members = Members::whole(text)?;
        if !self.is_wanted(&members) {
            return Ok(Outcome::Skipped(Skip::NotMatched));
        }
        let metadata = members.object("metadata").ok_or_else(|| not_a_change("there is no `metadata`"))?;
        let word = |name: &str| metadata.word(name).unwrap_or_default();
        if word("record-type").eq_ignore_ascii_case("control") {
            return Ok(Outcome::Skipped(Skip::Control));
        }
        let operation = word("operation").to_ascii_lowercase();
        let op = match &*operation {
            "load" | "read" => "r",
            "insert" | "create" => "c",
            "update" => "u",
            "delete" => "d",
            _ => {
                let message = format!("`metadata.operation` is `{operation}`, not load, insert, update or delete");
                return Err(not_a_change(message));
            }
        };
        let data = members.object("data").ok_or_else(|| not_a_change(format!("{operation} without `data`")))?;
        self.types.begin(None);
        let (epoch, token) = position(&metadata);
        let time = metadata.word("commit-timestamp").or_else(|| metadata.word("timestamp"));
        let snapshot = (op == "r").then(|| "load".to_owned());
        let head = Head { op, time: time.as_deref(), epoch, token, snapshot, ..Head::default() };
        let before = members.object("before-image");
        let before = if op == "d" { Some(before.as_ref().unwrap_or(&data)) } else { before.as_ref() };
        self.row(&head, Some((&data, op == "d")), before, out)
    }
}

/// Where a change stands in the source's log. Of a stream position in a form that is not known only the transaction
/// counts.
fn position(metadata: &Members<'_>) -> (Option<String>, Option<String>) {
    let record = metadata.number("transaction-record-id").and_then(|id| u64::try_from(id).ok()).unwrap_or(0);
    let stream = metadata.word("stream-position").unwrap_or_default();
    let binlog = || {
        // mysql-bin-changelog.000012:4711:…
        let mut parts = stream.split(':');
        let (base, file) = parts.next()?.rsplit_once('.')?;
        Some((format!("dms/{base}"), token(&[file.parse().ok()?, parts.next()?.parse().ok()?, record])))
    };
    let transaction = || {
        let commit = metadata.word("commit-timestamp")?;
        let commit = chrono::DateTime::parse_from_rfc3339(&commit).ok()?.timestamp_micros();
        let id = metadata.number("transaction-id").and_then(|id| u64::try_from(id).ok()).unwrap_or(0);
        Some(("dms".to_owned(), token(&[u64::try_from(commit).ok()?, id, record])))
    };
    binlog().or_else(transaction).map_or((None, None), |(epoch, token)| (Some(epoch), Some(token)))
}
