//! PostgreSQL's functions that tools call about the catalogs and the connection ("System Information Functions" of its
//! manual). They are asked about a few thousand rows at most, so each works on one row at a time.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray};
use arrow::datatypes::{DataType, Field, Fields, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::catalog::{PgCatalog, quoted};
use super::pg_type::{ALL, ColumnType};
use super::{SERVER_VERSION, rewrite};
use crate::error::{Error, Kind};
use crate::query::{CATALOG, PUBLIC};

/// What a function gives for the arguments of one row.
type Body = dyn Fn(&PgCatalog, &[ScalarValue]) -> Result<ScalarValue> + Send + Sync;

/// One function over a statement's catalog.
struct Function {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    catalog: Arc<PgCatalog>,
    body: Arc<Body>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.catalog, &other.catalog)
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if is_scalar { 1 } else { args.number_rows };
        let one = |row: usize| {
            let values = args.args.iter().map(|argument| match argument {
                ColumnarValue::Scalar(value) => Ok(value.clone()),
                ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row),
            });
            (self.body)(&self.catalog, &values.collect::<Result<Vec<_>>>()?)
        };
        if is_scalar {
            return one(0).map(ColumnarValue::Scalar);
        }
        if rows == 0 {
            return Ok(ColumnarValue::Array(arrow::array::new_empty_array(&self.returns)));
        }
        let values = (0..rows).map(one).collect::<Result<Vec<_>>>()?;
        ScalarValue::iter_to_array(values).map(ColumnarValue::Array)
    }
}

fn text(value: impl Into<Option<String>>) -> ScalarValue {
    ScalarValue::Utf8(value.into())
}

fn truth(value: bool) -> ScalarValue {
    ScalarValue::Boolean(Some(value))
}

fn number(value: impl Into<Option<i64>>) -> ScalarValue {
    ScalarValue::Int64(value.into())
}

/// An argument as a number; texts may hold one.
fn int(arguments: &[ScalarValue], at: usize) -> Option<i64> {
    match arguments.get(at)?.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(value) => value,
        _ => None,
    }
}

fn string(arguments: &[ScalarValue], at: usize) -> Option<String> {
    match arguments.get(at)?.cast_to(&DataType::Utf8).ok()? {
        ScalarValue::Utf8(value) => value,
        _ => None,
    }
}

/// Whether one of the privileges that are asked for is one that can be had here.
fn may(privileges: &str) -> bool {
    privileges.split(',').any(|one| {
        matches!(one.trim().to_ascii_uppercase().as_str(), "SELECT" | "USAGE" | "CONNECT" | "EXECUTE" | "MEMBER")
    })
}

/// The number of a type of this name.
fn type_oid(name: &str) -> Option<i64> {
    type_named(name).map(|known| i64::from(known.oid()))
}

/// The type of this name.
pub(super) fn type_named(name: &str) -> Option<ColumnType> {
    let name = name.trim().trim_start_matches("pg_catalog.").to_ascii_lowercase();
    let (name, is_array) = match name.strip_suffix("[]") {
        Some(item) => (item.to_owned(), true),
        None => (name, false),
    };
    let name = match name.as_str() {
        "int" => "integer".to_owned(),
        "float" | "double" => "double precision".to_owned(),
        "timestamp" => "timestamp without time zone".to_owned(),
        "varchar" => "character varying".to_owned(),
        "decimal" => "numeric".to_owned(),
        _ => name,
    };
    let plain = name.trim_matches('"');
    let found = ALL.iter().find(|known| known.name == plain || known.sql_name == name)?;
    ColumnType::of_oid(if is_array { found.array } else { found.oid })
}

/// Bytes in the largest unit of which there are enough, as PostgreSQL rounds them.
fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes, 0);
    while value.unsigned_abs() >= 10_240 && unit < UNITS.len() - 1 {
        value = (value + 512 * value.signum()) / 1_024;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

fn missing(what: &str, name: &str) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(Kind::NotFound, format!("{what} \"{name}\" does not exist"))))
}

fn texts(values: &[&str]) -> ScalarValue {
    let values: Vec<ScalarValue> = values.iter().map(|value| text((*value).to_owned())).collect();
    ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Utf8))
}

/// Items of `_pg_expandarray`: the value and its number from 1.
fn expanded() -> Fields {
    [("x", DataType::Int64), ("n", DataType::Int64)].map(|(name, item)| Field::new(name, item, true)).to_vec().into()
}

fn expand(arguments: &[ScalarValue]) -> Result<ScalarValue> {
    let mut items = Vec::new();
    if let Some(ScalarValue::List(list)) = arguments.first()
        && list.is_valid(0)
    {
        let values = arrow::compute::cast(&list.value(0), &DataType::Int64)?;
        let values: Vec<Option<i64>> = values.as_primitive::<Int64Type>().iter().collect();
        for (at, value) in values.into_iter().enumerate() {
            let columns: Vec<ArrayRef> = vec![number(value).to_array()?, number(Some(at as i64 + 1)).to_array()?];
            let item = arrow::array::StructArray::try_new(expanded(), columns, None)?;
            items.push(ScalarValue::Struct(Arc::new(item)));
        }
    }
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&items, &DataType::Struct(expanded()))))
}

fn list_length(arguments: &[ScalarValue]) -> Option<i64> {
    match arguments.first()? {
        ScalarValue::List(list) if list.is_valid(0) => Some(ListArray::value_length(list, 0).into()),
        _ => None,
    }
}

/// All functions over one statement's catalog. `process` is the number of the connection.
pub(in crate::query) fn functions(catalog: &Arc<PgCatalog>, user: &str, process: u32) -> Vec<Arc<ScalarUDF>> {
    let mut all: Vec<Arc<ScalarUDF>> = Vec::new();
    let mut add = |name: &'static str, returns: DataType, body: Arc<Body>| {
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        // What does something is done once for each row, when it is asked for.
        let does = matches!(name, "pg_terminate_backend" | "pg_cancel_backend");
        let signature = Signature::one_of(any, if does { Volatility::Volatile } else { Volatility::Stable });
        let catalog = Arc::clone(catalog);
        all.push(Arc::new(ScalarUDF::from(Function { name, signature, returns, catalog, body })));
    };
    let word = |value: String| -> Arc<Body> { Arc::new(move |_, _| Ok(text(value.clone()))) };
    for (name, value) in [
        ("version", format!("PostgreSQL {SERVER_VERSION}")),
        ("current_database", CATALOG.to_owned()),
        ("current_catalog", CATALOG.to_owned()),
        ("current_user", user.to_owned()),
        ("session_user", user.to_owned()),
        ("current_role", user.to_owned()),
        ("user", user.to_owned()),
        ("pg_get_userbyid", user.to_owned()),
        ("pg_encoding_to_char", "UTF8".to_owned()),
        ("pg_client_encoding", "UTF8".to_owned()),
        ("getdatabaseencoding", "UTF8".to_owned()),
    ] {
        add(name, DataType::Utf8, word(value));
    }
    for name in [
        "obj_description",
        "shobj_description",
        "pg_get_ruledef",
        "pg_get_triggerdef",
        "pg_get_functiondef",
        "pg_get_function_arguments",
        "pg_get_function_identity_arguments",
        "pg_get_function_result",
        "pg_get_partkeydef",
        "pg_get_serial_sequence",
        "pg_get_statisticsobjdef_columns",
        "pg_advisory_unlock_all",
        "pg_tablespace_location",
        "inet_server_addr",
        "inet_client_addr",
    ] {
        add(name, DataType::Utf8, Arc::new(|_, _| Ok(text(None))));
    }
    for name in [
        "pg_relation_size",
        "pg_table_size",
        "pg_total_relation_size",
        "pg_indexes_size",
        "pg_database_size",
        "pg_tablespace_size",
        "pg_sequence_last_value",
        "inet_server_port",
        "inet_client_port",
    ] {
        add(name, DataType::Int64, Arc::new(|_, _| Ok(number(None))));
    }
    for (name, value) in [
        ("pg_type_is_visible", true),
        ("pg_conversion_is_visible", true),
        ("pg_opfamily_is_visible", true),
        ("pg_ts_config_is_visible", true),
        ("pg_ts_dict_is_visible", true),
        ("pg_ts_parser_is_visible", true),
        ("pg_ts_template_is_visible", true),
        ("pg_function_is_visible", true),
        ("pg_operator_is_visible", true),
        ("pg_opclass_is_visible", true),
        ("pg_collation_is_visible", true),
        ("pg_statistics_obj_is_visible", true),
        ("pg_has_role", true),
        ("pg_is_in_recovery", false),
        ("pg_is_other_temp_schema", false),
        ("pg_index_column_has_property", false),
        ("pg_relation_is_publishable", false),
        ("row_security_active", false),
    ] {
        add(name, DataType::Boolean, Arc::new(move |_, _| Ok(truth(value))));
    }
    for name in [
        "has_table_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_column_privilege",
        "has_any_column_privilege",
        "has_function_privilege",
        "has_sequence_privilege",
        "has_tablespace_privilege",
        "has_language_privilege",
        "has_foreign_data_wrapper_privilege",
        "has_server_privilege",
    ] {
        let body = |_: &PgCatalog, arguments: &[ScalarValue]| {
            Ok(truth(
                arguments
                    .len()
                    .checked_sub(1)
                    .and_then(|last| string(arguments, last))
                    .is_some_and(|asked| may(&asked)),
            ))
        };
        add(name, DataType::Boolean, Arc::new(body));
    }
    add("pg_backend_pid", DataType::Int64, Arc::new(move |_, _| Ok(number(i64::from(process)))));
    add("pg_char_to_encoding", DataType::Int64, Arc::new(|_, _| Ok(number(6))));
    add("pg_my_temp_schema", DataType::Int64, Arc::new(|_, _| Ok(number(0))));
    add(
        "current_schemas",
        DataType::new_list(DataType::Utf8, true),
        Arc::new(|_, arguments| {
            let implicit = matches!(arguments.first(), Some(ScalarValue::Boolean(Some(true))));
            Ok(texts(if implicit { &["pg_catalog", PUBLIC] } else { &[PUBLIC] }))
        }),
    );
    add(
        "format_type",
        DataType::Utf8,
        Arc::new(|_, arguments| {
            let Some(oid) = int(arguments, 0) else { return Ok(text(None)) };
            let known = u32::try_from(oid).ok().and_then(ColumnType::of_oid);
            let modifier = int(arguments, 1).and_then(|modifier| i32::try_from(modifier).ok()).unwrap_or(-1);
            Ok(text(known.map_or_else(|| "???".to_owned(), |known| known.sql_name(modifier))))
        }),
    );
    add(
        "pg_table_is_visible",
        DataType::Boolean,
        Arc::new(|catalog, arguments| {
            let found = int(arguments, 0).and_then(|oid| catalog.name_of(oid));
            Ok(truth(found.is_some_and(|name| !name.contains('.'))))
        }),
    );
    add(
        "col_description",
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            Ok(text(int(arguments, 0).zip(int(arguments, 1)).and_then(|(oid, column)| catalog.comment(oid, column))))
        }),
    );
    add(
        "pg_get_expr",
        DataType::Utf8,
        Arc::new(|_, arguments| Ok(text(string(arguments, 0).filter(|text| !text.is_empty())))),
    );
    add(
        "pg_get_viewdef",
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            let oid = int(arguments, 0).or_else(|| catalog.relation(&string(arguments, 0)?));
            Ok(text(oid.and_then(|oid| catalog.definition(oid))))
        }),
    );
    add(
        "pg_get_constraintdef",
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            Ok(text(int(arguments, 0).and_then(|oid| catalog.key_of(oid)).map(|(constraint, _)| constraint)))
        }),
    );
    add(
        "pg_get_indexdef",
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            let found = int(arguments, 0).and_then(|oid| catalog.key_of(oid));
            Ok(text(found.map(|(constraint, index)| match int(arguments, 1).unwrap_or(0) {
                0 => index,
                // One of its columns.
                at => {
                    let list = constraint.trim_start_matches("PRIMARY KEY (").trim_end_matches(')');
                    list.split(", ").nth(at as usize - 1).unwrap_or_default().to_owned()
                }
            })))
        }),
    );
    add(
        "current_setting",
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            let Some(name) = string(arguments, 0) else { return Ok(text(None)) };
            match catalog.setting(&name) {
                Some(value) => Ok(text(value)),
                None if matches!(arguments.get(1), Some(ScalarValue::Boolean(Some(true)))) => Ok(text(None)),
                None => Err(missing("configuration parameter", &name)),
            }
        }),
    );
    add("current_schema", DataType::Utf8, Arc::new(|catalog, _| Ok(text(catalog.schema()))));
    // Its connection stays: whoever runs statements over it must not be surprised by a broken one.
    for name in ["pg_cancel_backend", "pg_terminate_backend"] {
        add(
            name,
            DataType::Boolean,
            Arc::new(|catalog, arguments| Ok(truth(int(arguments, 0).is_some_and(|process| catalog.cancel(process))))),
        );
    }
    add(
        "set_config",
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            let (Some(name), value) = (string(arguments, 0), string(arguments, 1).unwrap_or_default()) else {
                return Ok(text(None));
            };
            let now = catalog.setting(&name).ok_or_else(|| missing("configuration parameter", &name))?;
            // Tools say so what is the case anyhow; a query changes nothing.
            if now.eq_ignore_ascii_case(&value) || name.eq_ignore_ascii_case("search_path") {
                return Ok(text(value));
            }
            let refusal = Error::new(Kind::Denied, format!("set_config cannot change {name}"))
                .hint(format!("SET {name} = '{value}'"));
            Err(DataFusionError::External(Box::new(refusal)))
        }),
    );
    add("pg_size_pretty", DataType::Utf8, Arc::new(|_, arguments| Ok(text(int(arguments, 0).map(size_pretty)))));
    add(
        "quote_ident",
        DataType::Utf8,
        Arc::new(|_, arguments| Ok(text(string(arguments, 0).map(|name| quoted(&name))))),
    );
    add(
        "quote_literal",
        DataType::Utf8,
        Arc::new(|_, arguments| Ok(text(string(arguments, 0).map(|value| format!("'{}'", value.replace('\'', "''")))))),
    );
    add(
        "to_regclass",
        DataType::Int64,
        Arc::new(|catalog, arguments| Ok(number(string(arguments, 0).and_then(|name| catalog.relation(&name))))),
    );
    add(
        "to_regtype",
        DataType::Int64,
        Arc::new(|_, arguments| Ok(number(string(arguments, 0).and_then(|name| type_oid(&name))))),
    );
    add(
        rewrite::REGCLASS,
        DataType::Int64,
        Arc::new(|catalog, arguments| match arguments.first() {
            Some(
                ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name)) | ScalarValue::LargeUtf8(Some(name)),
            ) => {
                let found = name.parse().ok().or_else(|| catalog.relation(name));
                found.map(number).ok_or_else(|| missing("relation", name))
            }
            _ => Ok(number(int(arguments, 0))),
        }),
    );
    add(
        rewrite::REGCLASS_TEXT,
        DataType::Utf8,
        Arc::new(|catalog, arguments| {
            Ok(text(match int(arguments, 0) {
                Some(oid) => Some(catalog.name_of(oid).unwrap_or_else(|| oid.to_string())),
                None => string(arguments, 0),
            }))
        }),
    );
    add(
        rewrite::REGTYPE,
        DataType::Int64,
        Arc::new(|_, arguments| match arguments.first() {
            Some(ScalarValue::Utf8(Some(name)) | ScalarValue::Utf8View(Some(name))) => {
                let found = name.parse().ok().or_else(|| type_oid(name));
                found.map(number).ok_or_else(|| missing("type", name))
            }
            _ => Ok(number(int(arguments, 0))),
        }),
    );
    let list = DataType::new_list(DataType::Struct(expanded()), true);
    add(rewrite::EXPAND, list, Arc::new(|_, arguments| expand(arguments)));
    add(
        "array_lower",
        DataType::Int64,
        Arc::new(|_, arguments| Ok(number(list_length(arguments).filter(|length| *length > 0).map(|_| 1)))),
    );
    add(
        "array_upper",
        DataType::Int64,
        Arc::new(|_, arguments| Ok(number(list_length(arguments).filter(|length| *length > 0)))),
    );
    add(
        "pg_typeof",
        DataType::Utf8,
        Arc::new(|_, arguments| {
            Ok(text(arguments.first().map(|value| ColumnType::of_arrow(&value.data_type()).sql_name(-1))))
        }),
    );
    all
}

/// Names of functions that are here and nowhere else: a statement that calls one is about the catalogs.
pub(super) fn is_own(name: &str) -> bool {
    name.starts_with("pg_")
        || name.starts_with("has_")
        || name.starts_with("inet_")
        || matches!(
            name,
            "version"
                | "current_database"
                | "current_catalog"
                | "current_schema"
                | "current_schemas"
                | "current_user"
                | "session_user"
                | "current_role"
                | "user"
                | "format_type"
                | "obj_description"
                | "col_description"
                | "shobj_description"
                | "current_setting"
                | "set_config"
                | "quote_ident"
                | "quote_literal"
                | "to_regclass"
                | "to_regtype"
                | "getdatabaseencoding"
                | "array_lower"
                | "array_upper"
                | "_pg_expandarray"
                | "generate_subscripts"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_types_are_named_as_by_postgresql() {
        let sizes = [0, 10_239, 10_240, 123_456_789, -20_000].map(size_pretty);
        assert_eq!(sizes, ["0 bytes", "10239 bytes", "10 kB", "118 MB", "-20 kB"]);
        assert_eq!(type_oid("pg_catalog.int8"), Some(20));
        assert_eq!(type_oid("double precision[]"), Some(1022));
        assert_eq!(type_oid("nothing"), None);
        assert!(may("INSERT, SELECT") && !may("INSERT"));
    }
}
