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
            let Some((at, newest)) = family().last() else { continue };
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

    /// Refuses to become `next` while the table is fed, where only a restart or a new table would do.
    pub fn may_become(&self, next: &Contract) -> Result<(), Refusal> {
        let restart = "stop `millpond serve` and start it again";
        if self.topics != next.topics {
            return refuse("its topics changed, and readers are set up at the start".to_owned(), restart);
        }
        if self.format != next.format {
            return refuse("its format changed, and readers are set up at the start".to_owned(), restart);
        }
        if self.key != next.key {
            return refuse("its key changed, and the table is made for the one before".to_owned(), restart);
        }
        if self.time != next.time {
            let hint =
                "rows that are there keep their event_time: give the other time a table of its own, in a new file";
            return refuse("`time` changed, and one table has one kind of event_time".to_owned(), hint);
        }
        if self.matches != next.matches || self.arrays != next.arrays || self.dropped != next.dropped {
            return refuse("`match`, `arrays` or what is dropped changed".to_owned(), restart);
        }
        for column in &self.columns {
            let next = next.column(&column.name);
            if next.is_some_and(|next| (&next.format, next.zone) != (&column.format, column.zone)) {
                return refuse(format!("`format` or `zone` of column `{}` changed", column.name), restart);
            }
        }
        if self.timezone != next.timezone {
            return refuse("the project's time zone changed, and with it the days of `_day`".to_owned(), restart);
        }
        Ok(())
    }
}

fn list(names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    if quoted.is_empty() { "none".to_owned() } else { quoted.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, ColumnContract, ColumnType, EventTime, Format, TimeFormat, tests::contract};

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
    fn some_edits_need_a_restart_or_a_new_table() {
        let now = contract();
        let time = Some(EventTime { path: "at".parse().unwrap(), format: TimeFormat::Rfc3339 });
        assert_eq!(now.may_become(&Contract { commit_interval: None, ..contract() }), Ok(()));
        for next in [
            Contract { topics: vec!["b".into()], ..contract() },
            Contract { format: Format::Avro, ..contract() },
            Contract { key: vec!["id".into()], ..contract() },
            Contract { time, ..contract() },
            Contract { timezone: chrono_tz::Asia::Seoul, ..contract() },
        ] {
            assert!(now.may_become(&next).is_err(), "{next:?}");
        }
    }
}
