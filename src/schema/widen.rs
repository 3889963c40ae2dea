//! What becomes of a column whose values no longer fit: its successor (design: "Types").
//!
//! No file is rewritten. A column `<name>__w<n>` of the wider type takes all values from then on, and people see
//! the two as one, under the first one's name: the newest that is not null. A row has a value in one of them at most.
//!
//! | column | widens to | when |
//! |---|---|---|
//! | bigint | double | a real came, and no integer beyond ±2⁵³ was ever seen |
//! | date | timestamp | a timestamp came; dates are midnight UTC in it |
//! | any but string, json and lists | string | a misfit came, and `on_type_conflict = "string"` or the contract says so |

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{cast, is_not_null, kernels::zip::zip};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::{
    Column, ColumnType, Contract, Found, Observed, OnTypeConflict, SchemaVersion, WIDENS_KEY, names,
    version::MAX_COLUMNS,
};

/// A column as people see it: one column of the table, or several that succeed each other.
#[derive(Debug, Clone)]
pub struct LogicalColumn {
    /// Name, that of the oldest.
    pub name: String,
    /// The table's columns, newest first. The first one's type is the logical column's.
    pub columns: Vec<FieldRef>,
}

impl LogicalColumn {
    /// The columns of a table whose Arrow form is `schema`, as people see them.
    pub fn all(schema: &Schema) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for field in schema.fields() {
            let widens = field.metadata().get(WIDENS_KEY);
            match widens.and_then(|name| all.iter_mut().find(|column| column.name == *name)) {
                Some(column) => column.columns.insert(0, field.clone()),
                None => all.push(Self { name: field.name().clone(), columns: vec![field.clone()] }),
            }
        }
        all
    }

    /// Its values in a batch of the table, which may be older than the newest of its columns.
    pub fn of_batch(&self, batch: &RecordBatch) -> Result<ArrayRef, ArrowError> {
        let kind = self.newest().data_type();
        let mut values: Option<ArrayRef> = None;
        for column in self.columns.iter().filter_map(|field| batch.column_by_name(field.name())) {
            let column = cast(column, kind)?;
            values = Some(match values {
                Some(newer) => zip(&is_not_null(&newer)?, &newer, &column)?,
                None => column,
            });
        }
        Ok(values.unwrap_or_else(|| new_null_array(kind, batch.num_rows())))
    }

    /// The newest of its columns, which gives it its type.
    pub fn newest(&self) -> &Field {
        &self.columns[0]
    }
}

/// Brings `batch` to `schema`: columns by name, missing ones null. Keeps the row count when there are no columns.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let rows = batch.num_rows();
    let column = |field: &Arc<Field>| match batch.column_by_name(field.name()) {
        Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
        Some(column) => cast(column, field.data_type()),
        None => Ok(new_null_array(field.data_type(), rows)),
    };
    let columns = schema.fields().iter().map(column).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

impl SchemaVersion {
    /// A SELECT that shows the table `table` to outside readers of the lake as our own doors do.
    pub fn select(&self, table: &str) -> String {
        let mut text = String::from("SELECT");
        let mut separator = "\n  ";
        let (own, users): (Vec<_>, Vec<_>) =
            LogicalColumn::all(&self.arrow_schema()).into_iter().partition(|column| column.name.starts_with('_'));
        for column in users.into_iter().chain(own) {
            text.push_str(std::mem::replace(&mut separator, ",\n  "));
            let kind = sql_type(column.newest().data_type());
            let mut members: Vec<String> = column.columns.iter().map(|field| quoted(field.name())).collect();
            if members.len() == 1 {
                text.push_str(&quoted(&column.name));
                continue;
            }
            for older in &mut members[1..] {
                *older = format!("CAST({older} AS {kind})");
            }
            text.push_str(&format!("coalesce({}) AS {}", members.join(", "), quoted(&column.name)));
        }
        text.push_str(&format!("\nFROM {}", quoted(table)));
        text
    }
}

fn quoted(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { names::quoted(name) }
}

/// The type's name in the SQL of those who read Delta tables.
fn sql_type(kind: &DataType) -> &'static str {
    match kind {
        DataType::Float64 => "DOUBLE",
        DataType::Timestamp(..) => "TIMESTAMP",
        _ => "STRING",
    }
}

/// What of `seen` a column of type `kind` cannot hold.
fn misfit(kind: ColumnType, seen: Observed) -> Observed {
    seen.without(match kind {
        ColumnType::Boolean => Observed::BOOLEAN,
        ColumnType::Int64 => Observed::INTEGER.and(Observed::LONG),
        ColumnType::Double => Observed::INTEGER.and(Observed::REAL),
        ColumnType::Timestamp => Observed::TIMESTAMP,
        ColumnType::Date => Observed::default(),
        ColumnType::String => seen.scalars(),
        // A list with an element that does not fit is rescued whole.
        ColumnType::Json | ColumnType::List(_) => seen,
    })
}

/// True if every value that `column` holds is one of type `kind` too, and nothing of it is lost.
pub(super) fn loses_nothing(column: &Column, kind: ColumnType) -> bool {
    match (column.kind, kind) {
        (ColumnType::Int64, ColumnType::Double) => column.exact,
        (ColumnType::Date, ColumnType::Timestamp) => true,
        (from, ColumnType::String) => !matches!(from, ColumnType::String | ColumnType::Json | ColumnType::List(_)),
        _ => false,
    }
}

/// The type of the successor that takes `misfit`, if `policy` wants one and there is one.
fn wider(column: &Column, misfit: Observed, policy: OnTypeConflict) -> Option<ColumnType> {
    let kind = match (policy, column.kind) {
        (OnTypeConflict::Widen, ColumnType::Int64) if misfit.has(Observed::REAL) => ColumnType::Double,
        (OnTypeConflict::Widen, ColumnType::Date) if misfit.has(Observed::TIMESTAMP) => ColumnType::Timestamp,
        (OnTypeConflict::String, _) if misfit.scalars() != Observed::default() => ColumnType::String,
        _ => return None,
    };
    loses_nothing(column, kind).then_some(kind)
}

/// True if a later column took over from the one at `at`.
pub(super) fn is_superseded(columns: &[Column], at: usize) -> bool {
    let name = columns[at].logical();
    columns[at + 1..].iter().any(|later| later.widens.as_deref() == Some(name))
}

/// Adds the successors that `finds`, in order of appearance, and then the contract ask for. The first `keys`
/// columns have none.
pub(super) fn widen(columns: &mut Vec<Column>, keys: usize, contract: &Contract, finds: &[Found]) {
    for find in finds {
        for at in keys..columns.len() {
            if columns[at].path != find.path || is_superseded(columns, at) {
                continue;
            }
            if find.observed.has(Observed::LONG.and(Observed::BIG_INTEGER)) {
                columns[at].exact = false;
            }
            let misfit = misfit(columns[at].kind, find.observed);
            if let Some(kind) = wider(&columns[at], misfit, contract.on_type_conflict) {
                succeed(columns, at, kind);
            }
        }
    }
    for declared in &contract.columns {
        let Some(kind) = declared.kind else { continue };
        let family = || columns.iter().enumerate().filter(|(_, column)| column.logical() == declared.name);
        let Some((newest, column)) = family().next_back() else { continue };
        if newest >= keys && loses_nothing(column, kind) && family().all(|(_, column)| column.kind != kind) {
            succeed(columns, newest, kind);
        }
    }
}

pub(super) fn succeed(columns: &mut Vec<Column>, at: usize, kind: ColumnType) {
    if columns.len() < MAX_COLUMNS {
        let name = columns[at].logical().to_owned();
        let number = columns.iter().filter(|column| column.logical() == name).count();
        let mut column = Column::new(format!("{name}__w{number}"), columns[at].path.clone(), kind);
        column.widens = Some(name);
        column.description.clone_from(&columns[at].description);
        columns.push(column);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{ColumnContract, tests::contract, version::tests::find};

    fn version(kinds: &[(&str, ColumnType)]) -> SchemaVersion {
        let column = |(name, kind): &(&str, ColumnType)| Column::new((*name).into(), name.parse().unwrap(), *kind);
        SchemaVersion { number: 1, keys: 0, columns: kinds.iter().map(column).collect() }
    }

    fn policy(on_type_conflict: OnTypeConflict) -> Contract {
        Contract { on_type_conflict, ..contract() }
    }

    #[test]
    fn the_ladder() {
        use ColumnType::{Boolean, Date, Double, Int64, Json, String, Timestamp};
        use OnTypeConflict::{DeadLetter, Rescue, Widen};
        let o = |kinds: &[Observed]| kinds.iter().fold(Observed::default(), |all, kind| all.and(*kind));
        for (kind, seen, on, expected) in [
            (Int64, o(&[Observed::REAL]), Widen, Some(Double)),
            (Int64, o(&[Observed::REAL, Observed::STRING]), Widen, Some(Double)),
            (Int64, o(&[Observed::REAL, Observed::LONG]), Widen, None),
            (Int64, o(&[Observed::REAL, Observed::BIG_INTEGER]), Widen, None),
            (Int64, o(&[Observed::BIG_INTEGER]), Widen, None),
            (Int64, o(&[Observed::STRING]), Widen, None),
            (Int64, o(&[Observed::REAL]), Rescue, None),
            (Int64, o(&[Observed::REAL]), DeadLetter, None),
            (Int64, o(&[Observed::REAL]), OnTypeConflict::String, Some(String)),
            (Int64, o(&[Observed::BIG_INTEGER]), OnTypeConflict::String, Some(String)),
            (Int64, o(&[Observed::NESTED]), OnTypeConflict::String, None),
            (Double, o(&[Observed::LONG]), Widen, None),
            (Double, o(&[Observed::STRING]), OnTypeConflict::String, Some(String)),
            (Boolean, o(&[Observed::INTEGER]), Widen, None),
            (Boolean, o(&[Observed::INTEGER]), OnTypeConflict::String, Some(String)),
            (Date, o(&[Observed::TIMESTAMP]), Widen, Some(Timestamp)),
            (Date, o(&[Observed::STRING]), Widen, None),
            (Timestamp, o(&[Observed::STRING]), Widen, None),
            (String, o(&[Observed::NESTED]), OnTypeConflict::String, None),
            (Json, o(&[Observed::REAL, Observed::NESTED]), OnTypeConflict::String, None),
        ] {
            let before = version(&[("x", kind)]);
            let after = before.evolve(&policy(on), &[find("x", seen, 1, 0)]);
            let made = after.and_then(|after| after.columns.get(1).cloned());
            assert_eq!(made.as_ref().map(|column| column.kind), expected, "{kind:?} {seen:?} {on:?}");
            assert!(made.is_none_or(|column| (&*column.name, column.logical()) == ("x__w1", "x")));
        }
    }

    #[test]
    fn an_integer_beyond_doubles_ends_the_way_to_double_for_ever() {
        let first = version(&[("x", ColumnType::Int64)]);
        let second = first.evolve(&policy(OnTypeConflict::Widen), &[find("x", Observed::LONG, 1, 0)]).unwrap();
        assert_eq!((second.number, second.columns.len(), second.columns[0].exact), (2, 1, false));
        assert_eq!(second.evolve(&policy(OnTypeConflict::Widen), &[find("x", Observed::REAL, 2, 0)]), None);
        // A table that does not say what its integers were is not trusted either.
        let schema = second.arrow_schema();
        assert!(!SchemaVersion::from_arrow(&schema, 2, 0).unwrap().columns[0].exact);
    }

    #[test]
    fn only_the_newest_is_succeeded_and_a_key_never() {
        let contract = policy(OnTypeConflict::Widen);
        let mut first = version(&[("id", ColumnType::Int64), ("x", ColumnType::Int64)]);
        first.keys = 1;
        let finds = [find("id", Observed::REAL, 1, 0), find("x", Observed::REAL, 1, 1)];
        let second = first.evolve(&contract, &finds).unwrap();
        let names: Vec<&str> = second.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["id", "x", "x__w1"]);
        assert_eq!(second.evolve(&contract, &finds), None);
        let third = second.evolve(&policy(OnTypeConflict::String), &[find("x", Observed::STRING, 2, 0)]).unwrap();
        assert_eq!((&*third.columns[3].name, third.columns[3].kind), ("x__w2", ColumnType::String));
        let schema = third.arrow_schema();
        let logical = LogicalColumn::all(&schema);
        let x = logical.iter().find(|column| column.name == "x").unwrap();
        let members: Vec<&str> = x.columns.iter().map(|field| field.name().as_str()).collect();
        assert_eq!(members, ["x__w2", "x__w1", "x"]);
        assert!(logical.iter().all(|column| !column.name.contains("__w")));
        assert_eq!(SchemaVersion::from_arrow(&schema, 3, 1), Ok(third));
    }

    #[test]
    fn outsiders_get_a_select() {
        let first = version(&[("x", ColumnType::Int64), ("온도", ColumnType::Int64)]);
        let finds = [find("x", Observed::REAL, 2, 0), find("온도", Observed::REAL, 2, 1)];
        let select = first.evolve(&policy(OnTypeConflict::Widen), &finds).unwrap().select("telemetry");
        assert!(select.starts_with("SELECT\n  event_time,\n  coalesce(x__w1, CAST(x AS DOUBLE)) AS x,\n"), "{select}");
        let quoted = "  coalesce(\"온도__w1\", CAST(\"온도\" AS DOUBLE)) AS \"온도\",\n  _topic,";
        assert!(select.contains(quoted), "{select}");
        assert!(select.ends_with("  _day\nFROM telemetry"), "{select}");
    }

    #[test]
    fn a_contract_may_ask_for_the_wider_type() {
        let first = version(&[("x", ColumnType::Int64), ("y", ColumnType::Boolean)]);
        let declare = |name: &str, kind| {
            let column =
                ColumnContract { name: name.into(), path: None, kind: Some(kind), ..ColumnContract::default() };
            Contract { columns: vec![column], ..contract() }
        };
        let second = first.evolve(&declare("x", ColumnType::Double), &[]).unwrap();
        assert_eq!(second.columns[2].name, "x__w1");
        // Saying what it was, or what it is by now, changes nothing; what cannot be is `check`'s business.
        assert_eq!(second.evolve(&declare("x", ColumnType::Double), &[]), None);
        assert_eq!(second.evolve(&declare("x", ColumnType::Int64), &[]), None);
        assert_eq!(second.evolve(&declare("y", ColumnType::Int64), &[]), None);
    }
}
