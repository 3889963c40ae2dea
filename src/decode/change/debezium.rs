//! Debezium's change events: in their envelope, with and without Kafka Connect's schema around it, and unwrapped
//! (`ExtractNewRecordState`, with each of its ways to tell a delete).

use super::{Changes, Head, Members, Outcome, Rules, Slot, close, not_a_change, token};
use crate::decode::{
    Record, Skip,
    scan::{Fault, Kind},
};
use crate::schema::change;

/// The header that tells one run of a connector from the next.
const RUN_HEADER: &str = "__debezium.context.runId";

impl Changes {
    pub(super) fn debezium(
        &mut self,
        record: &Record<'_>,
        payload: Option<&str>,
        key: Option<&str>,
        out: &mut String,
    ) -> Result<Outcome, Fault> {
        let Some(text) = payload else { return Ok(self.tombstone(key, out)) };
        let outside = Members::whole(text)?;
        let (members, schema) = match unwrapped(&outside) {
            Some((Some(payload), schema)) => (payload, schema),
            Some((None, _)) => return Ok(self.tombstone(key, out)),
            None => (outside, None),
        };
        if !self.is_wanted(&members) {
            return Ok(Outcome::Skipped(Skip::NotMatched));
        }
        if is_about_no_row(&members) {
            return Ok(Outcome::Skipped(Skip::Control));
        }
        self.types.begin(schema);
        let enveloped = members.word("op").is_some()
            && ["source", change::AFTER, change::BEFORE].iter().any(|name| members.get(name).is_some());
        if enveloped { self.envelope(&members, record, key, out) } else { self.flat(&members, record, key, out) }
    }

    fn envelope(
        &mut self,
        members: &Members<'_>,
        record: &Record<'_>,
        key: Option<&str>,
        out: &mut String,
    ) -> Result<Outcome, Fault> {
        let op = members.word("op").unwrap_or_default();
        let source = members.object("source");
        let position = position(|name| source.as_ref().and_then(|source| source.word(name)));
        let head = Head { op: &op, run: header(record, RUN_HEADER), ..position };
        let (after, before) = (members.object(change::AFTER), members.object(change::BEFORE));
        match (&*op, after) {
            ("c" | "u" | "r", Some(after)) => self.row(&head, Some((&after, false)), before.as_ref(), out),
            ("d", _) => self.deleted(&head, before.as_ref(), key, out),
            ("t", _) => {
                head.write(out);
                close(&[], out);
                Ok(Outcome::Change { keyed: false })
            }
            ("m", _) => Ok(Outcome::Skipped(Skip::Control)),
            ("c" | "u" | "r", None) => Err(not_a_change(format!("a change of kind `{op}` without `after`"))),
            _ => Err(not_a_change(format!("`op` is `{op}`, not one of c, u, d, r, t and m"))),
        }
    }

    /// A row without its envelope; what else is known of the change stands in members and headers that begin with `__`.
    fn flat(
        &mut self,
        members: &Members<'_>,
        record: &Record<'_>,
        key: Option<&str>,
        out: &mut String,
    ) -> Result<Outcome, Fault> {
        let said = |name: &str| {
            let said = |name: &str| members.word(name).or_else(|| header(record, name));
            said(&format!("__source_{name}")).or_else(|| said(&format!("__{name}")))
        };
        let deleted = said("deleted").is_some_and(|word| word == "true");
        let op = if deleted { "d".to_owned() } else { said("op").unwrap_or_else(|| "u".to_owned()) };
        let head = Head { op: &op, run: header(record, RUN_HEADER), ..position(said) };
        let of_row = |(key, _): &&(Slot, Slot)| !key.inner(members.text).starts_with("__");
        let row = Members { text: members.text, list: members.list.iter().filter(of_row).copied().collect() };
        match &*op {
            "m" => Ok(Outcome::Skipped(Skip::Control)),
            "d" => self.deleted(&head, Some(&row), key, out),
            "c" | "u" | "r" if !row.list.is_empty() => self.row(&head, Some((&row, false)), None, out),
            "c" | "u" | "r" => Err(not_a_change("a row without columns")),
            other => Err(not_a_change(format!("`__op` is `{other}`, not one of c, u, d, r and m"))),
        }
    }

    /// A delete, whose key stands in the row as it was, or in the message key.
    fn deleted(
        &mut self,
        head: &Head<'_>,
        before: Option<&Members<'_>>,
        key: Option<&str>,
        out: &mut String,
    ) -> Result<Outcome, Fault> {
        let has_key = before.is_some_and(|row| self.has_key(row));
        match (before, key.and_then(row_of_key)) {
            (Some(before), _) if has_key => self.row(head, Some((before, true)), Some(before), out),
            (before, Some(key)) => self.row(head, Some((&key, true)), before, out),
            (before, None) => self.row(head, before.map(|row| (row, true)), before, out),
        }
    }

    /// The record that lets Kafka forget a key: after a delete it says nothing new, but where the delete was left out or
    /// compacted away, it is the delete.
    fn tombstone(&mut self, key: Option<&str>, out: &mut String) -> Outcome {
        let key = key.filter(|_| !self.reads_payload()).and_then(row_of_key);
        let Some(key) = key.filter(|key| self.has_key(key)) else { return Outcome::Skipped(Skip::Tombstone) };
        self.types.begin(None);
        match self.row(&Head { op: "x", ..Head::default() }, Some((&key, true)), None, out) {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Skipped(Skip::Tombstone),
        }
    }

    /// True if the row has a value for each key column.
    fn has_key(&mut self, row: &Members<'_>) -> bool {
        let keys = self.contract.keys.len();
        let fields = row.list.iter().filter(|(_, value)| value.kind != Kind::Null);
        let found = fields.filter(|(key, _)| self.contract.field(key.inner(row.text)).is_key).count();
        found >= keys
    }

    /// Writes a change: the row as it is (its key alone, if so wanted), and as it was.
    pub(super) fn row(
        &mut self,
        head: &Head<'_>,
        after: Option<(&Members<'_>, bool)>,
        before: Option<&Members<'_>>,
        out: &mut String,
    ) -> Result<Outcome, Fault> {
        let mut unchanged = Vec::new();
        head.write(out);
        let types = self.types.current();
        let parts = [(change::AFTER, after), (change::BEFORE, before.map(|before| (before, false)))];
        for (name, row) in parts {
            let Some((row, key_only)) = row else { continue };
            out.push_str(",\"");
            out.push_str(name);
            out.push_str("\":");
            let mut untold = Vec::new();
            self.contract.write_row(&row.list, row.text, Rules { types, key_only }, &mut untold, out)?;
            if name == change::AFTER {
                unchanged = untold;
            }
        }
        close(&unchanged, out);
        Ok(Outcome::Change { keyed: true })
    }
}

/// The payload and the schema's text of a message that has both, as Kafka Connect's JSON converter writes them.
fn unwrapped<'a>(members: &Members<'a>) -> Option<(Option<Members<'a>>, Option<&'a str>)> {
    let both = members.list.len() == 2
        && members.list.iter().all(|(key, _)| matches!(key.inner(members.text), "schema" | "payload"));
    both.then(|| (members.object("payload"), members.get("schema").map(|schema| schema.raw(members.text))))
}

/// The columns of a message key.
fn row_of_key(key: &str) -> Option<Members<'_>> {
    let members = Members::whole(key).ok()?;
    match unwrapped(&members) {
        Some((payload, _)) => payload,
        None => Some(members),
    }
}

/// True for heartbeats, marks of transactions and statements that change tables.
fn is_about_no_row(members: &Members<'_>) -> bool {
    let has =
        |names: &[&str]| names.iter().all(|name| members.list.iter().any(|(key, _)| key.inner(members.text) == *name));
    (members.list.len() == 1 && has(&["ts_ms"]))
        || has(&["status", "id", "event_count"])
        || has(&["ddl", "databaseName"])
}

fn header(record: &Record<'_>, name: &str) -> Option<String> {
    let found = record.headers.iter().rev().find(|header| header.name == name)?;
    let text = std::str::from_utf8(found.value.as_deref()?).ok()?;
    // Connect's header converter may quote strings.
    Some(text.trim_matches('"').to_owned())
}

/// Where a change stands in the database's log, from what `said` knows under the names of Debezium's `source`.
fn position(said: impl Fn(&str) -> Option<String>) -> Head<'static> {
    let number = |name: &str| said(name).and_then(|word| word.parse::<u64>().ok());
    let name = said("name").unwrap_or_default();
    let file = said("file").and_then(|file| {
        let (base, number) = file.rsplit_once('.')?;
        Some((base.to_owned(), number.parse::<u64>().ok()?))
    });
    let (epoch, token) = match (file, number("lsn")) {
        (Some((base, file)), _) => {
            (Some(format!("{name}/{base}")), number("pos").map(|pos| token(&[file, pos, number("row").unwrap_or(0)])))
        }
        (None, Some(lsn)) => {
            // [the commit's LSN before, the change's LSN]: transactions are sent in the order of their commits.
            let commit = said("sequence").and_then(|text| serde_json::from_str::<[Option<String>; 2]>(&text).ok());
            let commit = commit.and_then(|[commit, _]| commit?.parse::<u64>().ok()).unwrap_or(0);
            (Some(name), Some(token(&[commit, lsn])))
        }
        (None, None) => (None, None),
    };
    let signed = |name: &str| said(name).and_then(|word| word.parse::<i64>().ok());
    let time_us = signed("ts_us").or_else(|| signed("ts_ms").and_then(|ms| ms.checked_mul(1_000)));
    let snapshot = said("snapshot").filter(|word| word != "false");
    Head { time_us, epoch: epoch.filter(|_| token.is_some()), token, snapshot, ..Head::default() }
}
