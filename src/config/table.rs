//! The `--!` lines of `queries/<name>.sql` of `kind = "table"`.

use std::time::Duration;

use super::alert::{duration, schedule};
use super::problem::Complaint;
use super::query::Around;
use super::section::Section;
use crate::stream::{Rule, TableQuery};

const DAY: Duration = Duration::from_secs(86_400);

/// Reads the options of a table that is made anew now and then. `None` only if problems were reported.
pub(super) fn read(
    name: &str,
    file: &str,
    sql: String,
    text: &str,
    root: &Section,
    around: &Around,
) -> Option<TableQuery> {
    let schedule = schedule(root, around.timezone);
    let lookback = duration(root, "lookback");
    if root.has("every") && root.has("schedule") {
        root.complain("schedule", Complaint::new("does not go with `every`: one of them says when"));
        return None;
    }
    let partition_by = if root.has("partition_by") {
        let items = root.list_or_one("partition_by")?;
        let [column] = &items[..] else {
            let complaint = Complaint::new("names one column").hint("such as partition_by = [\"day\"]");
            root.complain("partition_by", complaint);
            return None;
        };
        Some(column.text.to_owned())
    } else {
        None
    };
    let lookback = lookback?.unwrap_or_default();
    if !lookback.is_zero() {
        let complaint = match () {
            () if partition_by.is_none() => Complaint::new("says nothing without `partition_by`: all is made anew"),
            () if lookback.as_secs() % DAY.as_secs() != 0 || lookback.subsec_nanos() != 0 => {
                Complaint::new("is no number of days").hint("such as \"3d\"")
            }
            () => {
                return Some(TableQuery {
                    name: name.to_owned(),
                    sql,
                    file: file.to_owned(),
                    hash: Rule::hash(text),
                    schedule: schedule?,
                    partition_by,
                    lookback,
                });
            }
        };
        root.complain("lookback", complaint);
        return None;
    }
    let (name, file, hash) = (name.to_owned(), file.to_owned(), Rule::hash(text));
    Some(TableQuery { name, sql, file, hash, schedule: schedule?, partition_by, lookback })
}
