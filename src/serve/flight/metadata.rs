//! Commands that ask about the catalog: each becomes one batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::sql::{Command, CommandGetDbSchemas, CommandGetPrimaryKeys, CommandGetTables};
use tonic::Status;

use super::{info, status};
use crate::query::{CATALOG, PUBLIC, Session};
use crate::schema::DESCRIPTION_KEY;

/// Key of what people should know of a column, from FlightSql.proto.
const REMARKS_KEY: &str = "ARROW:FLIGHT:SQL:REMARKS";
const TABLE_TYPES: [&str; 3] = ["TABLE", "VIEW", "SYSTEM TABLE"];

/// The answer to a metadata command; none if `command` is not one.
pub(super) async fn answer(command: Command, session: &Session) -> Result<Option<RecordBatch>, Status> {
    let batch = match command {
        Command::CommandGetCatalogs(command) => {
            let mut builder = command.into_builder();
            builder.append(CATALOG);
            builder.build()
        }
        Command::CommandGetDbSchemas(command) => {
            let mut builder = CommandGetDbSchemas { catalog: any_catalog(command.catalog), ..command }.into_builder();
            for schema in session.schemas() {
                builder.append(CATALOG, schema);
            }
            builder.build()
        }
        Command::CommandGetTables(command) => {
            let mut builder = CommandGetTables { catalog: any_catalog(command.catalog), ..command }.into_builder();
            for table in session.tables().await.map_err(status::status)? {
                let appended =
                    builder.append(CATALOG, &table.schema, &table.name, table.kind, &with_remarks(&table.columns));
                appended.map_err(status::flight)?;
            }
            builder.build()
        }
        Command::CommandGetTableTypes(command) => {
            let mut builder = command.into_builder();
            for kind in TABLE_TYPES {
                builder.append(kind);
            }
            builder.build()
        }
        Command::CommandGetSqlInfo(command) => command.into_builder(info::sql()?).build(),
        Command::CommandGetXdbcTypeInfo(command) => command.into_builder(info::xdbc()?).build(),
        Command::CommandGetPrimaryKeys(command) => return primary_key(command, session).map(Some),
        Command::CommandGetExportedKeys(_)
        | Command::CommandGetImportedKeys(_)
        | Command::CommandGetCrossReference(_) => return Ok(Some(RecordBatch::new_empty(Arc::new(foreign_keys())))),
        _ => return Ok(None),
    };
    batch.map(Some).map_err(status::flight)
}

/// By the book an empty name asks for tables without a catalog; drivers send it when the user chose none.
fn any_catalog(catalog: Option<String>) -> Option<String> {
    catalog.filter(|name| !name.is_empty())
}

/// A table's columns with what people should know of them under the name where Flight SQL's clients look for it. Not so in a
/// result's schema: there JDBC takes it for the column's label.
fn with_remarks(columns: &Schema) -> Schema {
    let told = |field: &Arc<Field>| {
        let mut metadata = field.metadata().clone();
        if let Some(comment) = metadata.get(DESCRIPTION_KEY).cloned() {
            metadata.insert(REMARKS_KEY.to_owned(), comment);
        }
        field.as_ref().clone().with_metadata(metadata)
    };
    Schema::new(columns.fields().iter().map(told).collect::<Vec<_>>())
}

fn primary_key(command: CommandGetPrimaryKeys, session: &Session) -> Result<RecordBatch, Status> {
    let CommandGetPrimaryKeys { catalog, db_schema, table } = command;
    let is_public = any_catalog(catalog).is_none_or(|name| name == CATALOG)
        && any_catalog(db_schema).is_none_or(|name| name == PUBLIC);
    let key = if is_public { session.primary_key(&table) } else { Vec::new() };
    let same = |text: &str| Arc::new(StringArray::from(vec![text; key.len()])) as ArrayRef;
    let numbers = Int32Array::from_iter_values((1..).take(key.len()));
    let columns = vec![
        same(CATALOG),
        same(PUBLIC),
        same(&table),
        Arc::new(StringArray::from_iter_values(&key)),
        Arc::new(StringArray::new_null(key.len())),
        Arc::new(numbers),
    ];
    let unmade = |error: arrow::error::ArrowError| Status::internal(error.to_string());
    RecordBatch::try_new(Arc::new(primary_keys()), columns).map_err(unmade)
}

/// Schema of GetPrimaryKeys, from FlightSql.proto.
fn primary_keys() -> Schema {
    Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ])
}

/// Schema of GetExportedKeys, GetImportedKeys and GetCrossReference, from FlightSql.proto.
fn foreign_keys() -> Schema {
    let side = |side: &str| {
        [("catalog_name", true), ("db_schema_name", true), ("table_name", false), ("column_name", false)]
            .map(|(name, nullable)| Field::new(format!("{side}_{name}"), DataType::Utf8, nullable))
    };
    let mut fields: Vec<Field> = side("pk").into_iter().chain(side("fk")).collect();
    fields.extend([
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]);
    Schema::new(fields)
}
