//! What the server tells about itself: SqlInfo and the XDBC types. ODBC drivers insist on the exact variants.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Nullable, Searchable, SqlInfo as I, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedTransaction, SqlTransactionIsolationLevel, SupportedSqlGrammar, XdbcDataType,
};
use tonic::Status;

type Once<T> = LazyLock<Result<T, FlightError>>;

static SQL: Once<SqlInfoData> = LazyLock::new(build_sql);
static XDBC: Once<XdbcTypeInfoData> = LazyLock::new(build_xdbc);

/// All SqlInfo values.
pub(super) fn sql() -> Result<&'static SqlInfoData, Status> {
    SQL.as_ref().map_err(|error| Status::internal(error.to_string()))
}

/// All XDBC types.
pub(super) fn xdbc() -> Result<&'static XdbcTypeInfoData, Status> {
    XDBC.as_ref().map_err(|error| Status::internal(error.to_string()))
}

fn build_sql() -> Result<SqlInfoData, FlightError> {
    let mut info = SqlInfoDataBuilder::new();
    let texts = [
        (I::FlightSqlServerName, "Millpond"),
        (I::FlightSqlServerVersion, env!("CARGO_PKG_VERSION")),
        (I::FlightSqlServerArrowVersion, arrow::ARROW_VERSION),
        (I::SqlIdentifierQuoteChar, "\""),
        (I::SqlSearchStringEscape, "\\"),
        (I::SqlExtraNameCharacters, ""),
        (I::SqlSchemaTerm, "schema"),
        (I::SqlProcedureTerm, "procedure"),
        (I::SqlCatalogTerm, "catalog"),
    ];
    for (name, value) in texts {
        info.append(name, value);
    }
    let yes = [
        I::FlightSqlServerReadOnly,
        I::FlightSqlServerSql,
        I::FlightSqlServerCancel,
        I::SqlAllTablesAreSelectable,
        I::SqlSupportsColumnAliasing,
        I::SqlNullPlusNullIsNull,
        I::SqlSupportsTableCorrelationNames,
        I::SqlSupportsExpressionsInOrderBy,
        I::SqlSupportsOrderByUnrelated,
        I::SqlSupportsLikeEscapeClause,
        I::SqlSupportsNonNullableColumns,
        I::SqlCatalogAtStart,
        I::SqlCorrelatedSubqueriesSupported,
        I::FlightSqlServerBulkIngestion,
    ];
    let no = [
        I::FlightSqlServerSubstrait,
        I::FlightSqlServerIngestTransactionsSupported,
        I::SqlDdlCatalog,
        I::SqlDdlSchema,
        I::SqlDdlTable,
        I::SqlSupportsDifferentTableCorrelationNames,
        I::SqlSupportsIntegrityEnhancementFacility,
        I::SqlSelectForUpdateSupported,
        I::SqlStoredProceduresSupported,
        I::SqlMaxRowSizeIncludesBlobs,
        I::SqlTransactionsSupported,
        I::SqlDataDefinitionCausesTransactionCommit,
        I::SqlDataDefinitionsInTransactionsIgnored,
        I::SqlBatchUpdatesSupported,
        I::SqlSavepointsSupported,
        I::SqlNamedParametersSupported,
        I::SqlLocatorsUpdateCopy,
        I::SqlStoredFunctionsUsingCallSyntaxSupported,
    ];
    yes.into_iter().for_each(|name| info.append(name, true));
    no.into_iter().for_each(|name| info.append(name, false));

    let numbers = [
        (I::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32),
        (I::FlightSqlServerStatementTimeout, 3_600_000),
        (I::FlightSqlServerTransactionTimeout, 0),
        // Plain names are folded to lower case, quoted ones kept.
        (I::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32),
        (I::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32),
        (I::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32),
        (I::SqlDefaultTransactionIsolation, SqlTransactionIsolationLevel::SqlTransactionNone as i32),
        // From here on: bit masks, one bit per value of the enumeration of that name.
        (I::SqlSupportedGroupBy, 0b11),
        (I::SqlSupportedGrammar, 0b11 | 1 << (SupportedSqlGrammar::SqlExtendedGrammar as i32)),
        (I::SqlAnsi92SupportedLevel, 0b1),
        (I::SqlOuterJoinsSupportLevel, 1 << (SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32)),
        (I::SqlSchemasSupportedActions, 0),
        (I::SqlCatalogsSupportedActions, 0),
        (I::SqlSupportedPositionedCommands, 0),
        (I::SqlSupportedSubqueries, 0b1111),
        (I::SqlSupportedUnions, 0b11),
        (I::SqlSupportedTransactionsIsolationLevels, 0b1),
        (I::SqlSupportedResultSetTypes, 0b11),
        (I::SqlSupportedConcurrenciesForResultSetUnspecified, 0b11),
        (I::SqlSupportedConcurrenciesForResultSetForwardOnly, 0b11),
        (I::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0),
        (I::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0),
    ];
    for (name, value) in numbers {
        info.append(name, value);
    }
    // Zero: no limit, or not known.
    let limits = [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnNameLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInSelect,
        I::SqlMaxColumnsInTable,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatementLength,
        I::SqlMaxStatements,
        I::SqlMaxTableNameLength,
        I::SqlMaxTablesInSelect,
        I::SqlMaxUsernameLength,
    ];
    limits.into_iter().for_each(|name| info.append(name, 0_i64));

    let lists: [(I, &[&str]); 5] = [
        (I::SqlKeywords, &["ANALYZE", "DESCRIBE", "EXCEPT", "EXPLAIN", "ILIKE", "LIMIT", "OFFSET", "QUALIFY", "SHOW"]),
        (
            I::SqlNumericFunctions,
            &[
                "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cot", "degrees", "exp", "floor", "ln", "log",
                "log10", "log2", "pi", "power", "radians", "random", "round", "signum", "sin", "sqrt", "tan", "trunc",
            ],
        ),
        (
            I::SqlStringFunctions,
            &[
                "ascii",
                "btrim",
                "char_length",
                "chr",
                "concat",
                "concat_ws",
                "left",
                "length",
                "lower",
                "lpad",
                "ltrim",
                "md5",
                "position",
                "regexp_like",
                "regexp_replace",
                "repeat",
                "replace",
                "reverse",
                "right",
                "rpad",
                "rtrim",
                "split_part",
                "starts_with",
                "strpos",
                "substr",
                "to_hex",
                "translate",
                "trim",
                "upper",
            ],
        ),
        (I::SqlSystemFunctions, &["arrow_typeof", "coalesce", "nullif", "nvl", "version"]),
        (
            I::SqlDatetimeFunctions,
            &[
                "current_date",
                "current_time",
                "date_bin",
                "date_part",
                "date_trunc",
                "extract",
                "from_unixtime",
                "make_date",
                "now",
                "to_char",
                "to_date",
                "to_timestamp",
            ],
        ),
    ];
    for (name, values) in lists {
        info.append(name, values);
    }
    info.append(I::SqlSupportsConvert, BTreeMap::<i32, Vec<i32>>::new());
    info.build()
}

fn build_xdbc() -> Result<XdbcTypeInfoData, FlightError> {
    use XdbcDataType as X;
    let mut types = XdbcTypeInfoDataBuilder::new();
    // Name, type, size, quote, number?
    let rows: [(&str, X, i32, Option<&str>, bool); 15] = [
        ("BOOLEAN", X::XdbcBit, 1, None, false),
        ("TINYINT", X::XdbcTinyint, 3, None, true),
        ("SMALLINT", X::XdbcSmallint, 5, None, true),
        ("INTEGER", X::XdbcInteger, 10, None, true),
        ("BIGINT", X::XdbcBigint, 19, None, true),
        ("REAL", X::XdbcReal, 24, None, true),
        ("DOUBLE", X::XdbcDouble, 53, None, true),
        ("DECIMAL", X::XdbcDecimal, 38, None, true),
        ("CHAR", X::XdbcChar, i32::MAX, Some("'"), false),
        ("VARCHAR", X::XdbcVarchar, i32::MAX, Some("'"), false),
        ("VARBINARY", X::XdbcVarbinary, i32::MAX, Some("'"), false),
        ("DATE", X::XdbcDate, 10, Some("'"), false),
        ("TIME", X::XdbcTime, 18, Some("'"), false),
        ("TIMESTAMP", X::XdbcTimestamp, 29, Some("'"), false),
        ("INTERVAL", X::XdbcInterval, 28, Some("'"), false),
    ];
    for (name, data_type, size, quote, number) in rows {
        let text = matches!(data_type, X::XdbcChar | X::XdbcVarchar);
        let dated = matches!(data_type, X::XdbcDate | X::XdbcTime | X::XdbcTimestamp);
        types.append(XdbcTypeInfo {
            type_name: name.to_owned(),
            data_type,
            column_size: Some(size),
            literal_prefix: quote.map(str::to_owned),
            literal_suffix: quote.map(str::to_owned),
            create_params: (data_type == X::XdbcDecimal).then(|| vec!["precision".to_owned(), "scale".to_owned()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: text,
            searchable: if text { Searchable::Full } else { Searchable::Basic },
            unsigned_attribute: number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: number.then_some(false),
            local_type_name: Some(name.to_owned()),
            minimum_scale: (data_type == X::XdbcDecimal).then_some(0),
            maximum_scale: (data_type == X::XdbcDecimal).then_some(38),
            // By ODBC's rule the SQL type of dates, times and timestamps is DATETIME.
            sql_data_type: if dated { X::XdbcDatetime } else { data_type },
            datetime_subcode: None,
            num_prec_radix: number.then_some(if matches!(data_type, X::XdbcReal | X::XdbcDouble) { 2 } else { 10 }),
            interval_precision: None,
        });
    }
    types.build()
}
