//! AWS DMS's JSON messages for Kafka targets: `metadata` says what happened, `data` holds the row, `before-image` the
//! columns that an update changed, or the key.
//!
//! A message tells a NULL as a null (`IncludeNullAndEmpty`) or not at all: both are null here.

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

/// Where a message stands among all of its task: DMS says on each when it was made. That is an order that full loads have,
/// too, so a table that is loaded anew corrects what was missed before; places in the log have none for them.
fn position(metadata: &Members<'_>) -> (Option<String>, Option<String>) {
    let made = metadata.word("timestamp").and_then(|time| chrono::DateTime::parse_from_rfc3339(&time).ok());
    let Some(made_us) = made.and_then(|time| u64::try_from(time.timestamp_micros()).ok()) else { return (None, None) };
    let record = metadata.number("transaction-record-id").and_then(|id| u64::try_from(id).ok()).unwrap_or(0);
    (Some("dms".to_owned()), Some(token(&[made_us, record])))
}
