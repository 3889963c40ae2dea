//! Names of tables, views and columns.

use super::problem::Complaint;
use crate::schema::{derive_name, fixed};

const LONGEST: usize = 120;

/// Checks the name of a table or view.
pub(super) fn relation(name: &str) -> Result<(), Complaint> {
    // Tables are folders of the lake: names are ASCII.
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(legal) || name.len() > LONGEST {
        return Err(not_snake_case(name));
    }
    if name.contains("__") {
        return Err(Complaint::new(format!("`{name}` is reserved"))
            .hint("names with `__` are those of tables Millpond makes up, such as `<table>__raw`"));
    }
    Ok(())
}

/// Checks the name of a declared column.
pub(super) fn column(name: &str) -> Result<(), Complaint> {
    if name.starts_with('_') || name == fixed::EVENT_TIME {
        return Err(Complaint::new(format!("`{name}` is reserved")).hint(
            "every table has event_time and the columns that begin with `_`; `time` says where event_time comes from",
        ));
    }
    // Other scripts have no cases: what lower case leaves as it is may stay.
    let legal = |c: char| c == '_' || (c.is_alphanumeric() && c.to_lowercase().eq([c]));
    let starts = name.starts_with(|c: char| c.is_alphabetic());
    if !starts || !name.chars().all(legal) || name.chars().count() > LONGEST {
        return Err(not_snake_case(name));
    }
    if let Some((_, suffix)) = name.rsplit_once("__") {
        let hash = suffix.len() == 4 && suffix.chars().all(|c| c.is_ascii_hexdigit());
        let successor =
            suffix.strip_prefix('w').is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()));
        if hash || successor {
            return Err(Complaint::new(format!("`{name}` is reserved"))
                .hint(format!("Millpond makes up names that end in `__{suffix}`")));
        }
    }
    Ok(())
}

/// Checks the name of a column that no `path` leads to: only a name made from a payload path can be found there.
pub(super) fn found(name: &str) -> Result<(), Complaint> {
    if derive_name(&[name.to_owned()], &[]) == name {
        return Ok(());
    }
    Err(Complaint::new(format!("no payload path gives the name `{name}`"))
        .hint(format!("say where it comes from: columns.{name}.path")))
}

fn not_snake_case(name: &str) -> Complaint {
    let complaint = Complaint::new(format!("`{name}` is not a lower snake case name"));
    let better = derive_name(&[name.to_owned()], &[]);
    if name.chars().any(char::is_alphabetic) && better.is_ascii() && better.len() <= LONGEST {
        return complaint.hint(format!("such as `{better}`"));
    }
    complaint.hint(format!("a letter, then letters, digits and `_`, all lower case, at most {LONGEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations() {
        for good in ["telemetry", "car_state", "t2", "a_b_c"] {
            assert_eq!(relation(good), Ok(()));
        }
        for (bad, hint) in [
            ("Telemetry", "such as `telemetry`"),
            ("carState-2", "such as `car_state_2`"),
            ("_x", "such as `x`"),
            ("2x", "such as `col_2x`"),
            ("", "a letter, then"),
            ("telemetry__raw", "names with `__`"),
            ("차", "a letter, then"),
        ] {
            let complaint = relation(bad).unwrap_err();
            assert!(complaint.hint.as_ref().unwrap().starts_with(hint), "{bad}: {complaint:?}");
        }
    }

    #[test]
    fn columns() {
        for good in ["car_id", "source__ts_ms", "x__y", "b__www", "문_열림"] {
            assert_eq!(column(good), Ok(()));
        }
        for bad in ["_offset", "event_time", "carId", "battery__w1", "a_b_c__0f3a", "4g", "car id", ""] {
            assert!(column(bad).is_err(), "{bad}");
        }
    }
}
