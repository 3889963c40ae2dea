//! Which contracts suit a table that has rows, and which edits take effect while it is fed.

use super::{Contract, SchemaVersion, version::declared, widen::loses_nothing};

/// Why a contract is not taken, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What is in the way.
    pub reason: String,
    /// What to do instead.
    pub hint: String,
}

/// What an edited contract needs to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// Nothing: it is taken over between two batches.
    Live,
    /// Readers, tables or decoders are set up anew.
    Anew,
}

fn refuse(reason: String, hint: impl Into<String>) -> Result<(), Refusal> {
    Err(Refusal { reason, hint: hint.into() })
}

impl Contract {
    /// Refuses what the rows of a table at `version` contradict: another key, another path or a type that its
    /// values do not have.
    pub fn suits(&self, version: &SchemaVersion) -> Result<(), Refusal> {
        if version.number == 0 {
            return Ok(());
        }
        let keys: Vec<&str> = version.columns[..version.keys].iter().map(|column| column.name.as_str()).collect();
        if keys != self.key {
            return refuse(
                format!("the key of table {} is {}, not {}", self.table, list(&keys), list(&self.key)),
                "a key cannot change once there are rows: give the other key a table of its own, in a new file",
            );
        }
        for declared in declared(self) {
            let family = || version.columns.iter().enumerate().filter(|(_, column)| column.logical() == declared.name);
            let Some((at, newest)) = family().next_back() else { continue };
            let name = &declared.name;
            if let Some(path) = &declared.path
                && *path != newest.path
                && !newest.path.is_unresolved()
            {
                return refuse(
                    format!("column `{name}` holds the values at `{}`, not those at `{path}`", newest.path),
                    format!("give the other path a column of its own, such as [columns.{name}_2]"),
                );
            }
            if let Some(kind) = declared.kind
                && family().all(|(_, column)| column.kind != kind)
                && (at < version.keys || !loses_nothing(newest, kind))
            {
                let (kind, now) = (kind.word(), newest.kind.word());
                return refuse(
                    format!("column `{name}` is {now}: its values are not all {kind}"),
                    format!(
                        "keep type = \"{now}\", or give the {kind} a column of its own, such as [columns.{name}_2] with path = \"{}\"",
                        newest.path
                    ),
                );
            }
        }
        Ok(())
    }

    /// What it takes to become `next` while the table is fed, where only a new table or a new start of the process would
    /// do: a refusal.
    pub fn change_to(&self, next: &Contract) -> Result<Edit, Refusal> {
        if self.timezone != next.timezone {
            return Err(Refusal {
                reason: "the project's time zone changed, and with it the days of `_day`".to_owned(),
                hint: "stop `millpond serve` and start it again".to_owned(),
            });
        }
        if self.time != next.time {
            return Err(Refusal {
                reason: "`time` changed, and one table has one kind of event_time".to_owned(),
                hint:
                    "rows that are there keep their event_time: give the other time a table of its own, in a new file"
                        .to_owned(),
            });
        }
        let reading = |contract: &Contract| (contract.topics.clone(), contract.format, contract.matches.clone());
        let tables = |contract: &Contract| {
            let Contract { key, raw, arrays, allowed_lateness, load, .. } = contract.clone();
            (key, raw, arrays, allowed_lateness, load)
        };
        let times = |contract: &Contract| {
            let columns = contract.columns.iter().filter(|column| self.column(&column.name).is_some());
            columns
                .map(|column| (column.name.clone(), column.format.clone(), column.zone, column.scale))
                .collect::<Vec<_>>()
        };
        let same = reading(self) == reading(next)
            && tables(self) == tables(next)
            && self.dropped == next.dropped
            && times(next).iter().all(|time| times(self).contains(time));
        Ok(if same { Edit::Live } else { Edit::Anew })
    }
}

fn list(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    if quoted.is_empty() { "none".to_owned() } else { quoted.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{
        ArrayContract, ArrayShape, Column, ColumnContract, ColumnType, EventTime, Format, Match, Path, TimeFormat,
        tests::contract,
    };

    fn version() -> SchemaVersion {
        let column = |name: &str, path: &str, kind| Column::new(name.into(), path.parse().unwrap(), kind);
        let mut wider = column("n__w1", "n", ColumnType::Double);
        wider.widens = Some("n".into());
        let columns = vec![
            column("id", "id", ColumnType::Int64),
            column("n", "n", ColumnType::Int64),
            column("late", "", ColumnType::String),
            column("flag", "flag", ColumnType::Boolean),
            wider,
        ];
        SchemaVersion { number: 2, keys: 1, columns }
    }

    #[test]
    fn what_rows_contradict_is_refused_with_the_way_out() {
        let declare = |name: &str, path: Option<&str>, kind| {
            let path = path.map(|path| path.parse().unwrap());
            Contract {
                key: vec!["id".into()],
                columns: vec![ColumnContract { name: name.into(), path, kind, ..ColumnContract::default() }],
                ..contract()
            }
        };
        for (contract, refused) in [
            (declare("n", None, Some(ColumnType::Double)), None),
            (declare("n", None, Some(ColumnType::Int64)), None),
            (declare("n", None, Some(ColumnType::String)), None),
            (declare("n", Some("n"), None), None),
            (declare("late", Some("at.last"), None), None),
            (declare("other", Some("n"), Some(ColumnType::Date)), None),
            (declare("flag", None, Some(ColumnType::String)), None),
            (declare("n", None, Some(ColumnType::Date)), Some("column `n` is double: its values are not all date")),
            (declare("n", Some("m"), None), Some("column `n` holds the values at `n`, not those at `m`")),
            (
                declare("id", None, Some(ColumnType::String)),
                Some("column `id` is bigint: its values are not all string"),
            ),
            (Contract { key: vec![], ..contract() }, Some("the key of table telemetry is `id`, not none")),
        ] {
            let found = contract.suits(&version());
            assert_eq!(found.as_ref().err().map(|refusal| &*refusal.reason), refused, "{:?}", contract.columns);
            assert!(found.err().is_none_or(|refusal| !refusal.hint.is_empty()));
        }
        assert_eq!(contract().suits(&SchemaVersion { number: 0, ..version() }), Ok(()), "no rows yet");
    }

    #[test]
    fn an_edit_is_taken_live_or_set_up_anew_or_refused() {
        let now =
            Contract { columns: vec![ColumnContract { name: "at".into(), ..ColumnContract::default() }], ..contract() };
        let time = Some(EventTime { path: "at".parse().unwrap(), format: TimeFormat::Rfc3339 });
        let format =
            ColumnContract { name: "at".into(), format: Some(TimeFormat::UnixMillis), ..ColumnContract::default() };
        let wider = ColumnContract { name: "n".into(), kind: Some(ColumnType::Double), ..ColumnContract::default() };
        let array = ArrayContract { path: vec!["legs".into()], shape: ArrayShape::Child };
        let condition = Match { path: Path::Topic, values: vec!["a".into()] };
        for (next, expected) in [
            (now.clone(), Some(Edit::Live)),
            (Contract { commit_interval: Some(std::time::Duration::ZERO), ..now.clone() }, Some(Edit::Live)),
            (Contract { columns: [now.columns.clone(), vec![wider]].concat(), ..now.clone() }, Some(Edit::Live)),
            (Contract { columns: vec![], ..now.clone() }, Some(Edit::Live)),
            (Contract { columns: vec![format], ..now.clone() }, Some(Edit::Anew)),
            (Contract { topics: vec!["b".into()], ..now.clone() }, Some(Edit::Anew)),
            (Contract { format: Format::Avro, ..now.clone() }, Some(Edit::Anew)),
            (Contract { key: vec!["id".into()], ..now.clone() }, Some(Edit::Anew)),
            (Contract { raw: true, ..now.clone() }, Some(Edit::Anew)),
            (Contract { arrays: vec![array], ..now.clone() }, Some(Edit::Anew)),
            (Contract { matches: vec![condition], ..now.clone() }, Some(Edit::Anew)),
            (Contract { dropped: vec![vec!["x".into()]], ..now.clone() }, Some(Edit::Anew)),
            (Contract { time, ..now.clone() }, None),
            (Contract { timezone: chrono_tz::Asia::Seoul, ..now.clone() }, None),
        ] {
            assert_eq!(now.change_to(&next).ok(), expected, "{next:?}");
        }
    }
}
