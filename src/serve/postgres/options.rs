//! Options that a client may set and ask for: those of PostgreSQL that drivers set on connecting, with the values that
//! Millpond can keep to. The session's own (`timezone`, `statement_timeout`, `wait_for`, `result_cache`) are the session's.

use std::collections::BTreeMap;

use super::answers::Trouble;
use crate::query::postgres::{SERVER_VERSION, is_utf8};

const UNKNOWN: &str = "42704";
const INVALID: &str = "22023";

/// What may be said about an option.
enum Values {
    /// It is told, and cannot be set.
    Fixed,
    /// Any text, which is kept and told.
    Any,
    /// One of these, in small letters.
    OneOf(&'static [&'static str]),
}

struct Known {
    name: &'static str,
    default: &'static str,
    values: Values,
    /// Clients are told of it on connecting and whenever it changes.
    told: bool,
}

const ON_OFF: &[&str] = &["on", "off", "true", "false", "yes", "no", "1", "0"];

const fn any(name: &'static str, default: &'static str) -> Known {
    Known { name, default, values: Values::Any, told: false }
}

const fn fixed(name: &'static str, default: &'static str) -> Known {
    Known { name, default, values: Values::Fixed, told: false }
}

const fn one_of(name: &'static str, default: &'static str, values: &'static [&'static str]) -> Known {
    Known { name, default, values: Values::OneOf(values), told: false }
}

const fn told(known: Known) -> Known {
    Known { name: known.name, default: known.default, values: known.values, told: true }
}

const KNOWN: &[Known] = &[
    told(any("application_name", "")),
    one_of("bytea_output", "hex", &["hex"]),
    told(one_of("client_encoding", "UTF8", &["utf8", "utf-8", "unicode", "sql_ascii"])),
    any("client_min_messages", "notice"),
    told(one_of("DateStyle", "ISO, MDY", &["iso", "iso, mdy", "iso, dmy", "iso, ymd"])),
    one_of(
        "default_transaction_isolation",
        "read committed",
        &["read committed", "repeatable read", "serializable", "read uncommitted"],
    ),
    told(one_of("default_transaction_read_only", "on", ON_OFF)),
    fixed("block_size", "8192"),
    any("default_table_access_method", "heap"),
    any("default_tablespace", ""),
    any("extra_float_digits", "1"),
    any("geqo", "on"),
    any("idle_in_transaction_session_timeout", "0"),
    told(fixed("in_hot_standby", "off")),
    told(fixed("integer_datetimes", "on")),
    told(one_of("IntervalStyle", "postgres", &["postgres"])),
    told(fixed("is_superuser", "off")),
    any("jit", "off"),
    any("lc_messages", "C"),
    any("lc_monetary", "C"),
    any("lc_numeric", "C"),
    any("lc_time", "C"),
    any("lock_timeout", "0"),
    fixed("max_identifier_length", "63"),
    fixed("max_index_keys", "32"),
    any("quote_all_identifiers", "off"),
    one_of("role", "none", &["none"]),
    any("row_security", "on"),
    any("search_path", "\"$user\", public"),
    told(fixed("server_encoding", "UTF8")),
    told(fixed("server_version", SERVER_VERSION)),
    fixed("server_version_num", "160004"),
    told(one_of("standard_conforming_strings", "on", &["on", "true", "yes", "1"])),
    any("synchronize_seqscans", "on"),
    one_of(
        "transaction_isolation",
        "read committed",
        &["read committed", "repeatable read", "serializable", "read uncommitted"],
    ),
    one_of("transaction_read_only", "on", ON_OFF),
    any("work_mem", "4MB"),
];

/// The options of one connection.
#[derive(Debug, Default)]
pub(super) struct Options {
    changed: BTreeMap<&'static str, String>,
}

fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name.eq_ignore_ascii_case(name))
}

impl Options {
    /// Changes an option, or takes it back. The name and value to tell the client, if it is to be told.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<Option<(&'static str, String)>, Trouble> {
        let Some(known) = known(name) else {
            let text = format!("unrecognized configuration parameter \"{name}\"");
            return Err(Trouble::new(UNKNOWN, text).hint("SHOW ALL lists the options of a session"));
        };
        match value {
            None => {
                self.changed.remove(known.name);
            }
            Some(value) => {
                let value = value.trim();
                match known.values {
                    Values::Any => {}
                    Values::Fixed => {
                        let text = format!("parameter \"{}\" cannot be changed", known.name);
                        return Err(Trouble::new("55P02", text));
                    }
                    Values::OneOf(values) => {
                        let small = value.to_ascii_lowercase();
                        let is_fine =
                            values.contains(&small.as_str()) || known.name == "client_encoding" && is_utf8(value);
                        if !is_fine {
                            let text = format!("invalid value for parameter \"{}\": \"{value}\"", known.name);
                            return Err(Trouble::new(INVALID, text).hint(format!("it can be: {}", values.join("; "))));
                        }
                    }
                }
                // Its other names mean the same.
                let value = if known.name == "client_encoding" { "UTF8".to_owned() } else { value.to_owned() };
                self.changed.insert(known.name, value);
            }
        }
        Ok(known.told.then(|| (known.name, self.value(known).to_owned())))
    }

    fn value<'a>(&'a self, known: &Known) -> &'a str {
        self.changed.get(known.name).map_or(known.default, String::as_str)
    }

    /// The name as it is written, and its value.
    pub(super) fn show(&self, name: &str) -> Option<(&'static str, &str)> {
        known(name).map(|known| (known.name, self.value(known)))
    }

    /// All names and values.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KNOWN.iter().map(|known| (known.name, self.value(known)))
    }

    /// What a client is told on connecting.
    pub(super) fn told(&self) -> impl Iterator<Item = (&'static str, &str)> {
        KNOWN.iter().filter(|known| known.told).map(|known| (known.name, self.value(known)))
    }

    /// Takes all back; what is to be told.
    pub(super) fn reset(&mut self) -> Vec<(&'static str, String)> {
        let changed = std::mem::take(&mut self.changed);
        let told = KNOWN.iter().filter(|known| known.told && changed.contains_key(known.name));
        told.map(|known| (known.name, known.default.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_drivers_set_is_kept_and_what_cannot_be_kept_is_refused() {
        let mut options = Options::default();
        assert_eq!(options.set("extra_float_digits", Some("3")), Ok(None));
        assert_eq!(options.show("EXTRA_FLOAT_DIGITS"), Some(("extra_float_digits", "3")));
        let told = options.set("Application_Name", Some("psql")).unwrap();
        assert_eq!(told, Some(("application_name", "psql".to_owned())));
        assert_eq!(
            options.set("client_encoding", Some("'utf-8'")).unwrap(),
            Some(("client_encoding", "UTF8".to_owned()))
        );
        for (name, value, code) in [
            ("client_encoding", "LATIN1", INVALID),
            ("DateStyle", "German", INVALID),
            ("server_version", "9", "55P02"),
            ("enable_magic", "on", UNKNOWN),
        ] {
            assert_eq!(options.set(name, Some(value)).unwrap_err().code, code, "{name}");
        }
        assert_eq!(options.reset(), [("application_name", String::new()), ("client_encoding", "UTF8".to_owned())]);
        assert_eq!(options.show("application_name"), Some(("application_name", "")));
    }
}
