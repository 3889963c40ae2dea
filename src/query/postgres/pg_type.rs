//! PostgreSQL's types that results and parameters have, and which Arrow type is which.
//!
//! Numbers, lengths and array types are those of PostgreSQL's `pg_type.dat`: drivers have them built in. What PostgreSQL has
//! no type for (structs, maps, lists of lists) is `json`; an unsigned 64-bit number is a `numeric`.

use arrow::datatypes::{DataType, Field, IntervalUnit, TimeUnit};

/// Key of a field's metadata that says of which of PostgreSQL's own types a catalog column is.
pub(super) const TYPE_KEY: &str = "millpond.pg_type";

/// A type as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PgType {
    /// Its number.
    pub oid: u32,
    /// Its name in `pg_type`.
    pub name: &'static str,
    /// Its name in SQL.
    pub sql_name: &'static str,
    /// Bytes of a value; −1 if they vary.
    pub len: i16,
    /// Number of the type of its arrays; 0 if there is none.
    pub array: u32,
    /// `typcategory`.
    pub category: &'static str,
}

macro_rules! types {
    ($($constant:ident = $oid:literal $name:literal $sql:literal $len:literal $array:literal $category:literal;)*) => {
        $(
            #[doc = concat!("`", $sql, "`")]
            pub const $constant: PgType =
                PgType { oid: $oid, name: $name, sql_name: $sql, len: $len, array: $array, category: $category };
        )*
        /// All of them, without arrays.
        pub const ALL: &[PgType] = &[$($constant),*];
    };
}

types! {
    BOOL = 16 "bool" "boolean" 1 1000 "B";
    BYTEA = 17 "bytea" "bytea" -1 1001 "U";
    CHAR = 18 "char" "\"char\"" 1 1002 "Z";
    NAME = 19 "name" "name" 64 1003 "S";
    INT8 = 20 "int8" "bigint" 8 1016 "N";
    INT2 = 21 "int2" "smallint" 2 1005 "N";
    INT2VECTOR = 22 "int2vector" "int2vector" -1 1006 "A";
    INT4 = 23 "int4" "integer" 4 1007 "N";
    REGPROC = 24 "regproc" "regproc" 4 1008 "N";
    TEXT = 25 "text" "text" -1 1009 "S";
    OID = 26 "oid" "oid" 4 1028 "N";
    OIDVECTOR = 30 "oidvector" "oidvector" -1 1013 "A";
    JSON = 114 "json" "json" -1 199 "U";
    FLOAT4 = 700 "float4" "real" 4 1021 "N";
    FLOAT8 = 701 "float8" "double precision" 8 1022 "N";
    UNKNOWN = 705 "unknown" "unknown" -2 0 "X";
    BPCHAR = 1042 "bpchar" "character" -1 1014 "S";
    VARCHAR = 1043 "varchar" "character varying" -1 1015 "S";
    DATE = 1082 "date" "date" 4 1182 "D";
    TIME = 1083 "time" "time without time zone" 8 1183 "D";
    TIMESTAMP = 1114 "timestamp" "timestamp without time zone" 8 1115 "D";
    TIMESTAMPTZ = 1184 "timestamptz" "timestamp with time zone" 8 1185 "D";
    INTERVAL = 1186 "interval" "interval" 16 1187 "T";
    NUMERIC = 1700 "numeric" "numeric" -1 1231 "N";
    REGCLASS = 2205 "regclass" "regclass" 4 2210 "N";
    REGTYPE = 2206 "regtype" "regtype" 4 2211 "N";
    UUID = 2950 "uuid" "uuid" 16 2951 "U";
    JSONB = 3802 "jsonb" "jsonb" -1 3807 "U";
}

impl PgType {
    /// Whether it is a list that counts from 0 and is written with blanks: `int2vector`, `oidvector`.
    pub fn is_vector(&self) -> bool {
        self.oid == INT2VECTOR.oid || self.oid == OIDVECTOR.oid
    }
}

/// A type, or the arrays of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnType {
    /// What a value is, or an item of it.
    pub item: PgType,
    /// Whether values are arrays.
    pub is_array: bool,
    /// `atttypmod`: precision and scale of a `numeric`; −1 if there is none.
    pub modifier: i32,
}

impl ColumnType {
    const fn plain(item: PgType) -> Self {
        Self { item, is_array: false, modifier: -1 }
    }

    /// The number that clients are told.
    pub fn oid(&self) -> u32 {
        if self.is_array { self.item.array } else { self.item.oid }
    }

    /// Bytes of a value; −1 if they vary.
    pub fn width(&self) -> i16 {
        if self.is_array { -1 } else { self.item.len }
    }

    /// The type of this number.
    pub fn of_oid(oid: u32) -> Option<Self> {
        let array = |item: &&PgType| item.array == oid && oid != 0;
        let plain = ALL.iter().find(|known| known.oid == oid).map(|item| Self::plain(*item));
        plain.or_else(|| ALL.iter().find(array).map(|item| Self { item: *item, is_array: true, modifier: -1 }))
    }

    /// What a column is to clients.
    pub fn of(field: &Field) -> Self {
        let named = field.metadata().get(TYPE_KEY).and_then(|name| ALL.iter().find(|known| known.name == name));
        // What was cast from such a column is none of them.
        let fits = |known: &&PgType, data_type: &DataType| match data_type {
            DataType::Int64 => known.len == 4,
            DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => matches!(known.name, "name" | "char"),
            _ => false,
        };
        let named = named.filter(|known| match field.data_type() {
            DataType::List(item) if known.is_vector() => match item.data_type() {
                DataType::Int16 => **known == INT2VECTOR,
                DataType::Int64 => **known == OIDVECTOR,
                _ => false,
            },
            DataType::List(item) => fits(known, item.data_type()),
            data_type => fits(known, data_type),
        });
        match (named, field.data_type()) {
            (Some(named), DataType::List(_)) if !named.is_vector() => Self { is_array: true, ..Self::plain(*named) },
            (Some(named), _) => Self::plain(*named),
            (None, data_type) => Self::of_arrow(data_type),
        }
    }

    /// What values of an Arrow type are to clients.
    pub fn of_arrow(data_type: &DataType) -> Self {
        use DataType as T;
        let item = match data_type {
            T::Boolean => BOOL,
            T::Int8 | T::Int16 | T::UInt8 => INT2,
            T::Int32 | T::UInt16 => INT4,
            T::Int64 | T::UInt32 => INT8,
            T::UInt64 => NUMERIC,
            T::Float16 | T::Float32 => FLOAT4,
            T::Float64 => FLOAT8,
            T::Decimal32(precision, scale)
            | T::Decimal64(precision, scale)
            | T::Decimal128(precision, scale)
            | T::Decimal256(precision, scale) => {
                let scale = u8::try_from(*scale).unwrap_or(0);
                return Self { modifier: (i32::from(*precision) << 16 | i32::from(scale)) + 4, ..Self::plain(NUMERIC) };
            }
            T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => BYTEA,
            T::Date32 | T::Date64 => DATE,
            T::Time32(_) | T::Time64(_) => TIME,
            T::Timestamp(_, None) => TIMESTAMP,
            T::Timestamp(_, Some(_)) => TIMESTAMPTZ,
            T::Interval(_) | T::Duration(_) => INTERVAL,
            T::Struct(_) | T::Map(_, _) => JSON,
            T::Dictionary(_, value) => return Self::of_arrow(value),
            T::List(item)
            | T::LargeList(item)
            | T::ListView(item)
            | T::LargeListView(item)
            | T::FixedSizeList(item, _) => {
                let item = Self::of_arrow(item.data_type());
                if item.is_array || item.item == JSON {
                    return Self::plain(JSON);
                }
                return Self { is_array: true, modifier: -1, ..item };
            }
            _ => TEXT,
        };
        Self::plain(item)
    }

    /// The Arrow type that parameters of this type are read as; `None` where the statement says more than the type.
    pub fn arrow(&self) -> Option<DataType> {
        let utc = || Some("UTC".into());
        let item = match self.item.oid {
            16 => DataType::Boolean,
            17 => DataType::Binary,
            20 | 26 | 24 | 2205 | 2206 => DataType::Int64,
            21 => DataType::Int16,
            23 => DataType::Int32,
            700 => DataType::Float32,
            701 => DataType::Float64,
            1082 => DataType::Date32,
            1083 => DataType::Time64(TimeUnit::Microsecond),
            1114 => DataType::Timestamp(TimeUnit::Microsecond, None),
            1184 => DataType::Timestamp(TimeUnit::Microsecond, utc()),
            1186 => DataType::Interval(IntervalUnit::MonthDayNano),
            705 | 1700 => return None,
            _ => DataType::Utf8,
        };
        Some(if self.is_array { DataType::new_list(item, true) } else { item })
    }

    /// The name in SQL, as `format_type` gives it for the modifier.
    pub fn sql_name(&self, modifier: i32) -> String {
        let name = match (self.item.oid, modifier) {
            (1700, modifier) if modifier >= 4 => {
                let modifier = modifier - 4;
                format!("numeric({},{})", modifier >> 16, modifier & 0xffff)
            }
            (1043, modifier) if modifier >= 4 => format!("character varying({})", modifier - 4),
            (1042, modifier) if modifier >= 4 => format!("character({})", modifier - 4),
            _ => self.item.sql_name.to_owned(),
        };
        if self.is_array { format!("{name}[]") } else { name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_lead_back_to_their_types() {
        for known in ALL {
            assert_eq!(ColumnType::of_oid(known.oid).unwrap().item, *known);
            if known.array != 0 {
                let array = ColumnType::of_oid(known.array).unwrap();
                assert!(array.is_array && array.item == *known, "{known:?}");
            }
        }
        assert_eq!(ColumnType::of_oid(0), None);
    }

    #[test]
    fn types_have_the_names_of_sql() {
        let name = |data_type: &DataType| {
            let found = ColumnType::of_arrow(data_type);
            found.sql_name(found.modifier)
        };
        assert_eq!(name(&DataType::Decimal128(12, 2)), "numeric(12,2)");
        assert_eq!(name(&DataType::UInt64), "numeric");
        assert_eq!(name(&DataType::new_list(DataType::Float64, true)), "double precision[]");
        assert_eq!(name(&DataType::new_list(DataType::new_list(DataType::Int8, true), true)), "json");
        assert_eq!(name(&DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))), "timestamp with time zone");
    }
}
