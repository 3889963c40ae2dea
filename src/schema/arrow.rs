//! The Arrow form of a schema version, which the Delta table's schema keeps.
//!
//! Every column is nullable, the fixed ones too, although decode never leaves those null: a NOT NULL column in
//! Delta is an invariant that each writer must check and that a later rewrite cannot drop.

use std::{collections::HashMap, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use super::{Column, ColumnType, Element, Path, PathError, SchemaVersion, fixed};

/// Field metadata: the column's [`Path`] as text.
pub const PATH_KEY: &str = "millpond.path";
/// Field metadata: the column's type where the Arrow type does not tell (`json`).
pub const TYPE_KEY: &str = "millpond.type";
/// Field metadata of a successor: the name of the column it succeeds, under which people see both.
pub const WIDENS_KEY: &str = "millpond.widens";
/// Field metadata of a bigint column whose integers are doubles, too: [`Column::exact`].
pub const EXACT_KEY: &str = "millpond.exact";

/// Field metadata: what the contract says about the column. Other engines show it as the column's comment.
pub const DESCRIPTION_KEY: &str = "comment";

/// Why an Arrow schema is no schema version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaError {
    /// A fixed column is not there.
    #[error("the table has no column `{0}`: it is not an events table of Millpond")]
    NoFixedColumn(&'static str),
    /// A column has a type that no events table has.
    #[error("column `{name}` has the type {found}, which no events table has")]
    Type {
        /// Column name.
        name: String,
        /// Its Arrow type.
        found: DataType,
    },
    /// A user's column without path metadata.
    #[error("column `{0}` does not say which path it holds (field metadata `{PATH_KEY}`): it was not made by Millpond")]
    NoPath(String),
    /// A path that does not parse.
    #[error("column `{name}`: {error}")]
    Path {
        /// Column name.
        name: String,
        /// What is wrong with it.
        error: PathError,
    },
    /// Fewer columns than key columns.
    #[error("the table has {columns} columns, its key has {keys}")]
    Keys {
        /// User's columns.
        columns: usize,
        /// Key columns.
        keys: usize,
    },
}

impl ColumnType {
    /// The Arrow type of a column of this type.
    pub fn arrow_type(self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int64 => DataType::Int64,
            ColumnType::Double => DataType::Float64,
            ColumnType::String | ColumnType::Json => DataType::Utf8,
            ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            ColumnType::Date => DataType::Date32,
            // The name that Delta's readers give it.
            ColumnType::List(element) => DataType::List(element_field(element)),
        }
    }

    /// The word for this type in contracts and messages.
    pub fn word(self) -> &'static str {
        match self {
            ColumnType::Boolean => "boolean",
            ColumnType::Int64 => "bigint",
            ColumnType::Double => "double",
            ColumnType::String => "string",
            ColumnType::Json => "json",
            ColumnType::Timestamp => "timestamp",
            ColumnType::Date => "date",
            ColumnType::List(Element::Boolean) => "boolean[]",
            ColumnType::List(Element::Int64) => "bigint[]",
            ColumnType::List(Element::Double) => "double[]",
            ColumnType::List(Element::String) => "string[]",
        }
    }

    /// The type that [`ColumnType::word`] names.
    pub fn from_word(word: &str) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.word() == word)
    }
}

const ALL: [ColumnType; 11] = [
    ColumnType::Boolean,
    ColumnType::Int64,
    ColumnType::Double,
    ColumnType::String,
    ColumnType::Json,
    ColumnType::Timestamp,
    ColumnType::Date,
    ColumnType::List(Element::Boolean),
    ColumnType::List(Element::Int64),
    ColumnType::List(Element::Double),
    ColumnType::List(Element::String),
];

/// The SQL name of an Arrow type, as `system.columns` and DESCRIBE show it; for the types of contracts their
/// [word](ColumnType::word).
pub fn type_name(kind: &DataType) -> String {
    use DataType as T;
    let word = match kind {
        T::Null => "null",
        T::Boolean => "boolean",
        T::Int8 => "tinyint",
        T::Int16 => "smallint",
        T::Int32 => "int",
        T::Int64 => "bigint",
        T::UInt8 => "tinyint unsigned",
        T::UInt16 => "smallint unsigned",
        T::UInt32 => "int unsigned",
        T::UInt64 => "bigint unsigned",
        T::Float16 | T::Float32 => "float",
        T::Float64 => "double",
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "string",
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => "binary",
        T::Date32 | T::Date64 => "date",
        T::Time32(_) | T::Time64(_) => "time",
        T::Timestamp(_, Some(_)) => "timestamp",
        T::Timestamp(_, None) => "timestamp without time zone",
        T::Interval(_) | T::Duration(_) => "interval",
        T::Decimal32(precision, scale)
        | T::Decimal64(precision, scale)
        | T::Decimal128(precision, scale)
        | T::Decimal256(precision, scale) => return format!("decimal({precision}, {scale})"),
        T::Dictionary(_, value) => return type_name(value),
        T::RunEndEncoded(_, value) => return type_name(value.data_type()),
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::LargeListView(item) | T::FixedSizeList(item, _) => {
            return format!("{}[]", type_name(item.data_type()));
        }
        T::Struct(fields) => return format!("struct<{}>", members(fields)),
        T::Map(entries, _) => match entries.data_type() {
            T::Struct(fields) if fields.len() == 2 => {
                return format!("map<{}, {}>", type_name(fields[0].data_type()), type_name(fields[1].data_type()));
            }
            _ => "map",
        },
        T::Union(..) => "union",
    };
    word.to_owned()
}

fn members(fields: &Fields) -> String {
    let member = |field: &FieldRef| format!("{}: {}", field.name(), type_name(field.data_type()));
    fields.iter().map(member).collect::<Vec<_>>().join(", ")
}

/// The field of a list's elements.
pub(crate) fn element_field(element: Element) -> FieldRef {
    Arc::new(Field::new("element", element.column_type().arrow_type(), true))
}

fn fixed_type(name: &str) -> DataType {
    match name {
        fixed::EVENT_TIME | fixed::TIMESTAMP => ColumnType::Timestamp.arrow_type(),
        fixed::TOPIC | fixed::RESCUED => DataType::Utf8,
        fixed::OFFSET => DataType::Int64,
        fixed::DAY => DataType::Date32,
        _ => DataType::Int32,
    }
}

impl SchemaVersion {
    /// The Arrow form: key columns, [`fixed::ALL`], the other columns.
    pub fn arrow_schema(&self) -> SchemaRef {
        let user = |column: &Column| {
            let mut metadata = HashMap::from([(PATH_KEY.to_owned(), column.path.to_string())]);
            if column.kind == ColumnType::Json {
                metadata.insert(TYPE_KEY.to_owned(), column.kind.word().to_owned());
            }
            metadata.extend(column.widens.clone().map(|widens| (WIDENS_KEY.to_owned(), widens)));
            metadata.extend(column.exact.then(|| (EXACT_KEY.to_owned(), "true".to_owned())));
            if let Some(description) = &column.description {
                metadata.insert(DESCRIPTION_KEY.to_owned(), description.clone());
            }
            Field::new(&column.name, column.kind.arrow_type(), true).with_metadata(metadata)
        };
        let keys = self.columns.iter().take(self.keys).map(user);
        let fixed = fixed::ALL.iter().map(|name| Field::new(*name, fixed_type(name), true));
        let others = self.columns.iter().skip(self.keys).map(user);
        Arc::new(Schema::new(keys.chain(fixed).chain(others).collect::<Vec<_>>()))
    }

    /// Version `number` as it reads back from a table's schema; its first `keys` columns are the key.
    pub fn from_arrow(schema: &Schema, number: u32, keys: usize) -> Result<Self, SchemaError> {
        for name in fixed::ALL {
            let field = schema.field_with_name(name).map_err(|_| SchemaError::NoFixedColumn(name))?;
            if plain(field.data_type()) != fixed_type(name) {
                return Err(SchemaError::Type { name: name.to_owned(), found: field.data_type().clone() });
            }
        }
        let users = schema.fields().iter().filter(|field| !fixed::ALL.contains(&field.name().as_str()));
        let columns = users.map(|field| column(field)).collect::<Result<Vec<_>, _>>()?;
        if columns.len() < keys {
            return Err(SchemaError::Keys { columns: columns.len(), keys });
        }
        Ok(Self { number, keys, columns })
    }
}

fn column(field: &Field) -> Result<Column, SchemaError> {
    let name = field.name().clone();
    let text = field.metadata().get(PATH_KEY).ok_or_else(|| SchemaError::NoPath(name.clone()))?;
    let path: Path = text.parse().map_err(|error| SchemaError::Path { name: name.clone(), error })?;
    let json = field.metadata().get(TYPE_KEY).is_some_and(|word| word == ColumnType::Json.word());
    let kind = match plain(field.data_type()) {
        DataType::Utf8 if json => ColumnType::Json,
        DataType::Utf8 => ColumnType::String,
        other => ALL
            .into_iter()
            .find(|kind| kind.arrow_type() == other)
            .ok_or_else(|| SchemaError::Type { name: name.clone(), found: other.clone() })?,
    };
    let widens = field.metadata().get(WIDENS_KEY).cloned();
    let exact = field.metadata().contains_key(EXACT_KEY);
    let description = field.metadata().get(DESCRIPTION_KEY).cloned();
    Ok(Column { name, path, kind, widens, exact, description })
}

/// The type without the freedoms readers take: views, long strings, another spelling of UTC.
fn plain(found: &DataType) -> DataType {
    match found {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if matches!(&**zone, "+00:00" | "Z" | "Etc/UTC") => {
            ColumnType::Timestamp.arrow_type()
        }
        DataType::List(field) | DataType::LargeList(field) | DataType::ListView(field) => {
            DataType::List(Arc::new(Field::new("element", plain(field.data_type()), true)))
        }
        other => other.clone(),
    }
}

/// The type that keeps values of this one in a Delta table, one that every engine reads; text if there is none.
pub fn plain_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(..) => kind.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Date64 | DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::List(item) => {
            DataType::List(Arc::new(item.as_ref().clone().with_data_type(plain_type(item.data_type()))))
        }
        DataType::Dictionary(_, value) => plain_type(value),
        _ => DataType::Utf8,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schema::any_path;

    fn any_version() -> impl Strategy<Value = SchemaVersion> {
        let flags = (any::<bool>(), prop::option::of("[a-z]{1,3}"), prop::option::of(any::<String>()));
        let column = (any_path(), prop::sample::select(ALL.to_vec()), flags);
        (prop::collection::vec(column, 0..8), 1..100u32, any::<prop::sample::Index>()).prop_map(
            |(columns, number, keys)| {
                let named = columns.into_iter().enumerate();
                let columns: Vec<Column> = named
                    .map(|(n, (path, kind, (exact, widens, description)))| {
                        let name = format!("c{n}");
                        Column { name, path, kind, widens, exact, description }
                    })
                    .collect();
                SchemaVersion { number, keys: keys.index(columns.len() + 1), columns }
            },
        )
    }

    proptest! {
        #[test]
        fn a_version_reads_back_from_its_arrow_form(version in any_version()) {
            let schema = version.arrow_schema();
            prop_assert!(schema.fields().iter().all(|field| field.is_nullable()));
            prop_assert_eq!(schema.field(version.keys).name(), fixed::EVENT_TIME);
            prop_assert_eq!(SchemaVersion::from_arrow(&schema, version.number, version.keys), Ok(version));
        }
    }

    #[test]
    fn types_have_the_names_that_contracts_give_them() {
        for kind in [
            ColumnType::Boolean,
            ColumnType::Int64,
            ColumnType::Double,
            ColumnType::String,
            ColumnType::Timestamp,
            ColumnType::Date,
        ] {
            assert_eq!(type_name(&kind.arrow_type()), kind.word());
        }
        let entries = Field::new_struct(
            "entries",
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Date32, true)],
            false,
        );
        let nested = Field::new("m", DataType::Map(entries.into(), false), true);
        let list = DataType::List(Arc::new(Field::new_struct("item", vec![nested], true)));
        assert_eq!(type_name(&list), "struct<m: map<string, date>>[]");
        assert_eq!(type_name(&DataType::Dictionary(DataType::Int32.into(), DataType::Utf8View.into())), "string");
        assert_eq!(type_name(&DataType::Decimal128(10, 2)), "decimal(10, 2)");
    }

    #[test]
    fn a_foreign_schema_is_refused_by_column() {
        let version = SchemaVersion { number: 1, keys: 0, columns: vec![] };
        let fields = |extra: Field| {
            let schema = version.arrow_schema();
            let all: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).chain([extra]).collect();
            SchemaVersion::from_arrow(&Schema::new(all), 1, 0)
        };
        let with_path =
            |kind| Field::new("x", kind, true).with_metadata(HashMap::from([(PATH_KEY.into(), "x".into())]));
        assert_eq!(fields(Field::new("x", DataType::Utf8, true)), Err(SchemaError::NoPath("x".into())));
        let error = SchemaError::Type { name: "x".into(), found: DataType::Int8 };
        assert_eq!(fields(with_path(DataType::Int8)), Err(error));
        assert_eq!(fields(with_path(DataType::Utf8View)).unwrap().columns[0].kind, ColumnType::String);
        let list = |kind| DataType::List(Arc::new(Field::new("item", kind, true)));
        let read = fields(with_path(list(DataType::Utf8View))).unwrap().columns.remove(0).kind;
        assert_eq!(read, ColumnType::List(Element::String));
        assert!(fields(with_path(list(list(DataType::Utf8)))).is_err());
        assert_eq!(SchemaVersion::from_arrow(&Schema::empty(), 1, 0), Err(SchemaError::NoFixedColumn("event_time")));
        assert_eq!(
            SchemaVersion::from_arrow(&version.arrow_schema(), 1, 1),
            Err(SchemaError::Keys { columns: 0, keys: 1 })
        );
    }
}
