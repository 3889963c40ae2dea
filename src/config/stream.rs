//! The `--!` lines of `queries/<name>.sql` of `kind = "stream"`.

use super::alert::{key, names};
use super::problem::Complaint;
use super::query::Around;
use super::section::Section;
use crate::stream::{Rule, StreamQuery};

/// Reads a stream query's options. `None` only if problems were reported.
pub(super) fn read(
    name: &str,
    file: &str,
    sql: String,
    text: &str,
    root: &Section,
    around: &Around,
) -> Option<StreamQuery> {
    let key = if root.has("key") { key(root) } else { Some(Vec::new()) };
    let modes = [("append", false), ("upsert", true)];
    let upsert = if root.has("mode") { root.choice("mode", &modes, &[]) } else { Some(false) };
    let keeps = if root.has("table") { root.boolean("table") } else { Some(true) };
    let to = if root.has("to") { names(root, &around.sinks) } else { Some(Vec::new()) };
    if upsert == Some(true) && !root.has("key") {
        let complaint = Complaint::new("needs `key`: the columns that say whose a row is");
        root.complain("mode", complaint.hint("key = [\"car_id\"]"));
        return None;
    }
    if keeps == Some(false) && upsert == Some(true) {
        root.complain("table", Complaint::new("does not go with mode = \"upsert\", which is a table"));
        return None;
    }
    if keeps == Some(false) && !root.has("to") {
        root.complain("table", Complaint::new("leaves rows nowhere to go").hint("name a topic with `to`"));
        return None;
    }
    let to = to?;
    if let Some(other) = to.iter().find(|sink| !around.topics.contains(&sink.as_str())) {
        let complaint = Complaint::new(format!("sink `{other}` is no topic: every row would be a message of its own"));
        root.complain("to", complaint.hint("name sinks of type = \"kafka\"; an alert can be told to any"));
        return None;
    }
    Some(StreamQuery {
        name: name.to_owned(),
        sql,
        file: file.to_owned(),
        hash: Rule::hash(text),
        key: key?,
        upsert: upsert?,
        keeps: keeps?,
        to,
    })
}
