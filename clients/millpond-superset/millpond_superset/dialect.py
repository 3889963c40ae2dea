"""SQLAlchemy's side: `millpond+flightsql://user:password@host:32010/?tls=true&ca=/path/authority.pem`.

What the server has is asked for by Flight SQL's own calls and by an empty SELECT, so that an account sees what its role
may see, comments and exact types included; `information_schema` would give neither.
"""

import pyarrow
from sqlalchemy import exc, types
from sqlalchemy.engine import default, reflection
from sqlalchemy.sql import compiler

PORT = 32010
OPTIONS = {"tls", "ca"}
BINARY = [pyarrow.types.is_binary, pyarrow.types.is_large_binary, pyarrow.types.is_binary_view,
          pyarrow.types.is_fixed_size_binary]
YES_NO = {"true": True, "1": True, "false": False, "0": False}


class Other(types.UserDefinedType):
    """A type that SQLAlchemy has no name for; values pass as they are."""

    cache_ok = True

    def __init__(self, name):
        self.name = name

    def get_col_spec(self, **_):
        """Its name in SQL."""
        return self.name


def sql_type(arrow):
    """The SQLAlchemy type of an Arrow type."""
    is_ = pyarrow.types
    if is_.is_boolean(arrow):
        return types.BOOLEAN()
    if is_.is_integer(arrow):
        if is_.is_uint64(arrow):
            return types.NUMERIC(20, 0)
        # An unsigned number needs the next wider type.
        width = arrow.bit_width * (2 if is_.is_unsigned_integer(arrow) else 1)
        return types.SMALLINT() if width <= 16 else types.INTEGER() if width == 32 else types.BIGINT()
    if is_.is_floating(arrow):
        return Other("DOUBLE PRECISION") if is_.is_float64(arrow) else types.REAL()
    if is_.is_decimal(arrow):
        return types.NUMERIC(arrow.precision, arrow.scale)
    if is_.is_string(arrow) or is_.is_large_string(arrow) or is_.is_string_view(arrow):
        return types.VARCHAR()
    if is_.is_date(arrow):
        return types.DATE()
    if is_.is_timestamp(arrow):
        return types.TIMESTAMP(timezone=arrow.tz is not None)
    if is_.is_time(arrow):
        return types.TIME()
    if is_.is_dictionary(arrow):
        return sql_type(arrow.value_type)
    if is_.is_null(arrow):
        return types.NullType()
    if any(is_this(arrow) for is_this in BINARY):
        return types.LargeBinary()
    if is_.is_interval(arrow) or is_.is_duration(arrow):
        return Other("INTERVAL")
    return Other("MAP" if is_.is_map(arrow) else "STRUCT" if is_.is_struct(arrow) else "ARRAY")


class TypeCompiler(compiler.GenericTypeCompiler):
    """Types as DataFusion spells them."""

    def visit_TIMESTAMP(self, type_, **_):
        return "TIMESTAMP WITH TIME ZONE" if type_.timezone else "TIMESTAMP"

    def visit_DATETIME(self, type_, **_):
        return self.visit_TIMESTAMP(type_)

    def visit_FLOAT(self, type_, **_):
        return "DOUBLE PRECISION"

    def visit_BLOB(self, type_, **_):
        return "BYTEA"

    def visit_TEXT(self, type_, **_):
        return "VARCHAR"

    def visit_null(self, type_, **_):
        return "NULL"


class Compiler(compiler.SQLCompiler):
    """DataFusion's SQL where it differs from the standard's."""

    def limit_clause(self, select, **kw):
        """OFFSET can stand alone."""
        limit, offset = select._limit_clause, select._offset_clause
        text = "" if limit is None else f"\n LIMIT {self.process(limit, **kw)}"
        return text if offset is None else f"{text}\n OFFSET {self.process(offset, **kw)}"


class MillpondDialect(default.DefaultDialect):
    """Millpond over Flight SQL. All is read-only."""

    name = "millpond"
    driver = "flightsql"
    default_paramstyle = "qmark"
    statement_compiler = Compiler
    type_compiler = TypeCompiler
    default_schema_name = "public"
    supports_statement_cache = True
    supports_native_boolean = True
    supports_native_decimal = True
    supports_sane_rowcount = False
    supports_sane_multi_rowcount = False
    supports_alter = False
    supports_default_values = False
    supports_multivalues_insert = False
    returns_unicode_strings = True
    description_encoding = None
    max_identifier_length = 255

    @classmethod
    def dbapi(cls):
        """The module that connects."""
        from millpond_superset import dbapi

        return dbapi

    def create_connect_args(self, url):
        """What an URL says; what it may not say is an error, so that nothing is believed to be secured that is not."""
        if url.database not in (None, "", "millpond"):
            raise exc.ArgumentError(f"the database is called millpond, not {url.database}")
        if unknown := set(url.query) - OPTIONS:
            raise exc.ArgumentError(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(OPTIONS))}")
        tls, ca = url.query.get("tls", "false"), url.query.get("ca")
        if tls not in YES_NO:
            raise exc.ArgumentError(f"tls is true or false, not {tls}")
        options = {"host": url.host or "127.0.0.1", "port": url.port or PORT, "tls": YES_NO[tls]}
        if ca is not None:
            options["ca"] = ca
        if url.username is not None:
            options |= {"user": url.username, "password": url.password}
        return [], options

    def _get_server_version_info(self, connection):
        version = _adbc(connection).adbc_get_info().get("vendor_version", "")
        return tuple(int(part) for part in version.split(".") if part.isdigit())

    def _get_default_schema_name(self, connection):
        return self.default_schema_name

    def do_rollback(self, dbapi_connection):
        """Nothing is ever to be rolled back."""

    def do_commit(self, dbapi_connection):
        """Nothing is ever to be committed."""

    def _tables(self, connection, schema):
        """Names and kinds of a schema's tables."""
        schema = schema or self.default_schema_name
        # The filter is a pattern, in which _ is any letter.
        catalogs = _adbc(connection).adbc_get_objects(depth="tables", db_schema_filter=schema).read_all().to_pylist()
        return [
            (table["table_name"], table["table_type"])
            for catalog in catalogs
            for found in catalog["catalog_db_schemas"]
            if found["db_schema_name"] == schema
            for table in found["db_schema_tables"]
        ]

    @reflection.cache
    def get_schema_names(self, connection, **_):
        """All schemas."""
        catalogs = _adbc(connection).adbc_get_objects(depth="db_schemas").read_all().to_pylist()
        return [schema["db_schema_name"] for catalog in catalogs for schema in catalog["catalog_db_schemas"]]

    @reflection.cache
    def get_table_names(self, connection, schema=None, **_):
        """Tables without views."""
        return [name for name, kind in self._tables(connection, schema) if kind != "VIEW"]

    @reflection.cache
    def get_view_names(self, connection, schema=None, **_):
        """Views."""
        return [name for name, kind in self._tables(connection, schema) if kind == "VIEW"]

    def has_table(self, connection, table_name, schema=None, **_):
        """Whether there is a table or view of that name."""
        return any(name == table_name for name, _ in self._tables(connection, schema))

    @reflection.cache
    def get_view_definition(self, connection, view_name, schema=None, **_):
        """A view's SQL."""
        sql = "SELECT definition FROM information_schema.views WHERE table_schema = ? AND table_name = ?"
        asked = (schema or self.default_schema_name, view_name)
        return connection.exec_driver_sql(sql, asked).scalar()

    @reflection.cache
    def get_columns(self, connection, table_name, schema=None, **_):
        """Names, types and comments."""
        if not self.has_table(connection, table_name, schema):
            raise exc.NoSuchTableError(table_name)
        quote = self.identifier_preparer.quote_identifier
        with _adbc(connection).cursor() as cursor:
            cursor.execute(f"SELECT * FROM {quote(schema or self.default_schema_name)}.{quote(table_name)} LIMIT 0")
            fields = cursor.fetch_arrow_table().schema
        return [
            {
                "name": field.name,
                "type": sql_type(field.type),
                "nullable": field.nullable,
                "default": None,
                "comment": (field.metadata or {}).get(b"comment", b"").decode() or None,
            }
            for field in fields
        ]

    @reflection.cache
    def get_pk_constraint(self, connection, table_name, schema=None, **_):
        """The key of a table that has one row per key."""
        columns = _adbc(connection).primary_key(schema or self.default_schema_name, table_name)
        return {"constrained_columns": columns, "name": None}

    def get_foreign_keys(self, connection, table_name, schema=None, **_):
        """There are none."""
        return []

    def get_indexes(self, connection, table_name, schema=None, **_):
        """There are none."""
        return []

    def get_unique_constraints(self, connection, table_name, schema=None, **_):
        """There are none."""
        return []

    def get_check_constraints(self, connection, table_name, schema=None, **_):
        """There are none."""
        return []

    def get_table_comment(self, connection, table_name, schema=None, **_):
        """Columns have comments, tables do not."""
        return {"text": None}


def _adbc(connection):
    """The driver's connection inside of SQLAlchemy's."""
    held = connection.connection
    # At the first connection it is not yet one of the pool.
    return getattr(held, "dbapi_connection", held)
