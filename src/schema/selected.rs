//! Schema versions of a table whose rows a query selects: made from the columns of the SELECT, not from records.

use arrow::datatypes::{DataType, Field, Schema};

use super::widen::{is_superseded, loses_nothing, succeed};
use super::{Column, ColumnType, DESCRIPTION_KEY, Element, Path, SchemaVersion, TYPE_KEY, fixed, type_name};

impl ColumnType {
    /// The type that keeps what a selected column holds; `None` if there is none.
    pub fn of_selected(field: &Field) -> Option<Self> {
        if field.metadata().get(TYPE_KEY).is_some_and(|word| *word == Self::Json.word()) {
            return Some(Self::Json);
        }
        of_arrow(field.data_type())
    }
}

fn of_arrow(kind: &DataType) -> Option<ColumnType> {
    Some(match kind {
        DataType::Boolean => ColumnType::Boolean,
        kind if kind.is_integer() => ColumnType::Int64,
        kind if kind.is_floating() => ColumnType::Double,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            ColumnType::Double
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => ColumnType::String,
        DataType::Timestamp(..) => ColumnType::Timestamp,
        DataType::Date32 | DataType::Date64 => ColumnType::Date,
        DataType::Dictionary(_, value) => of_arrow(value)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) => {
            ColumnType::List(match of_arrow(item.data_type())? {
                ColumnType::Boolean => Element::Boolean,
                ColumnType::Int64 => Element::Int64,
                ColumnType::Double => Element::Double,
                ColumnType::String => Element::String,
                _ => return None,
            })
        }
        _ => return None,
    })
}

impl SchemaVersion {
    /// Version 1 of a table that holds what is selected, its `key` first; or why there can be none.
    pub fn selected(schema: &Schema, key: &[String]) -> Result<Self, String> {
        let mut columns = selected(schema)?;
        if let Some(missing) = key.iter().find(|name| columns.iter().all(|column| column.name != **name)) {
            return Err(format!("key: the query selects no column `{missing}`"));
        }
        columns.sort_by_key(|column| key.iter().position(|name| *name == column.name).unwrap_or(key.len()));
        Ok(Self { number: 1, keys: key.len(), columns })
    }

    /// The successor that also holds what is selected by now, `None` if that adds nothing; or why there can be none.
    /// Columns that are not selected any more stay, without values.
    pub fn select_anew(&self, schema: &Schema) -> Result<Option<Self>, String> {
        let mut columns = self.columns.clone();
        for new in selected(schema)? {
            let newest =
                (0..columns.len()).find(|at| columns[*at].logical() == new.name && !is_superseded(&columns, *at));
            let Some(at) = newest else {
                columns.push(new);
                continue;
            };
            let was = columns[at].kind;
            if was == new.kind || was == ColumnType::String {
                continue;
            }
            // What it holds is not known: doubles are taken for what integers become.
            let widened = match (was, new.kind) {
                (ColumnType::Int64, ColumnType::Double) => Some(ColumnType::Double),
                (ColumnType::Double, ColumnType::Int64) => continue,
                (_, kind) if loses_nothing(&columns[at], kind) => Some(kind),
                _ => loses_nothing(&columns[at], ColumnType::String).then_some(ColumnType::String),
            };
            match widened.filter(|_| at >= self.keys) {
                Some(kind) => succeed(&mut columns, at, kind),
                None => {
                    let (was, now) = (was.word(), new.kind.word());
                    return Err(format!("column `{}` was {was} and would be {now}: give it another name", new.name));
                }
            }
        }
        Ok((columns != self.columns).then(|| Self { number: self.number + 1, keys: self.keys, columns }))
    }
}

/// What is selected beside the columns that every table has.
fn selected(schema: &Schema) -> Result<Vec<Column>, String> {
    let mut columns: Vec<Column> = Vec::new();
    for field in schema.fields().iter().filter(|field| !fixed::ALL.contains(&field.name().as_str())) {
        let name = field.name();
        if columns.iter().any(|column| column.name == *name) {
            return Err(format!("the query selects two columns `{name}`: name them apart with AS"));
        }
        let legal = |c: char| c == '_' || (c.is_alphanumeric() && c.to_lowercase().eq([c]));
        let is_successor = name.rsplit_once("__w").is_some_and(|(_, n)| n.chars().all(|c| c.is_ascii_digit()));
        if name.is_empty() || !name.chars().all(legal) || is_successor {
            return Err(format!("`{name}` is no name for a column: give it one with AS, in lower snake case"));
        }
        let Some(kind) = ColumnType::of_selected(field) else {
            let kind = type_name(field.data_type());
            return Err(format!("column `{name}` is a {kind}, which no table keeps: select what is in it"));
        };
        let mut column = Column::new(name.clone(), Path::Value(vec![name.clone()]), kind);
        column.description = field.metadata().get(DESCRIPTION_KEY).cloned();
        columns.push(column);
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    fn schema(columns: &[(&str, DataType)]) -> Schema {
        Schema::new(columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect::<Vec<_>>())
    }

    fn words(version: &SchemaVersion) -> Vec<(&str, &str)> {
        version.columns.iter().map(|column| (column.name.as_str(), column.kind.word())).collect()
    }

    #[test]
    fn what_is_selected_becomes_columns_and_the_key_leads() {
        let local = DataType::Timestamp(TimeUnit::Second, None);
        let first = schema(&[
            ("event_time", local.clone()),
            ("speed", DataType::Float32),
            ("_offset", DataType::Int64),
            ("seen", local),
            ("car_id", DataType::UInt16),
        ]);
        let version = SchemaVersion::selected(&first, &["car_id".into()]).unwrap();
        assert_eq!(words(&version), [("car_id", "bigint"), ("speed", "double"), ("seen", "timestamp")]);
        assert_eq!(SchemaVersion::from_arrow(&version.arrow_schema(), 1, 1), Ok(version.clone()));
        assert_eq!(version.select_anew(&first), Ok(None));
        let missing = SchemaVersion::selected(&first, &["trip".into()]).unwrap_err();
        assert_eq!(missing, "key: the query selects no column `trip`");
    }

    #[test]
    fn a_column_of_another_type_gets_a_successor_and_one_that_is_not_selected_stays() {
        let (number, text) = (DataType::Int64, DataType::Utf8View);
        let first = SchemaVersion::selected(&schema(&[("k", number.clone()), ("a", number.clone())]), &["k".into()]);
        let first = first.unwrap();
        let second = first.select_anew(&schema(&[("k", number.clone()), ("b", text.clone())])).unwrap().unwrap();
        assert_eq!(words(&second), [("k", "bigint"), ("a", "bigint"), ("b", "string")]);
        let third = second.select_anew(&schema(&[("k", number.clone()), ("a", DataType::Float64)])).unwrap().unwrap();
        assert_eq!(words(&third).last(), Some(&("a__w1", "double")));
        let fourth = third.select_anew(&schema(&[("k", number), ("a", text.clone())])).unwrap().unwrap();
        assert_eq!((fourth.number, words(&fourth).last()), (4, Some(&("a__w2", "string"))));
        assert_eq!(fourth.select_anew(&schema(&[("a", DataType::Boolean)])), Ok(None), "text holds anything");
        let refused = fourth.select_anew(&schema(&[("k", text)])).unwrap_err();
        assert_eq!(refused, "column `k` was bigint and would be string: give it another name");
    }

    #[test]
    fn what_no_table_can_keep_is_refused() {
        let nested = DataType::Struct(vec![Field::new("x", DataType::Int64, true)].into());
        for (columns, reason) in [
            (vec![("a", DataType::Int64), ("a", DataType::Int64)], "selects two columns `a`"),
            (vec![("a.b + Int64(1)", DataType::Int64)], "is no name for a column"),
            (vec![("a__w2", DataType::Int64)], "is no name for a column"),
            (vec![("a", nested)], "is a struct<x: bigint>, which no table keeps"),
        ] {
            let refusal = SchemaVersion::selected(&schema(&columns), &[]).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
