"""Superset's side: names of types, time grains, times as SQL, stopped queries, errors."""

import re
import threading

from sqlalchemy import types
from superset.common.db_query_status import QueryStatus
from superset.constants import TimeGrain
from superset.db_engine_specs.base import BaseEngineSpec
from superset.errors import SupersetErrorType
from superset.extensions import db
from superset.sql.parse import SQLGLOT_DIALECTS
from superset.utils.core import GenericDataType, create_ssl_cert_file

from millpond_superset.dialect import MillpondDialect, sql_type
from millpond_superset.sql import Millpond

SQLGLOT_DIALECTS["millpond"] = Millpond

# How often it is looked at whether somebody has stopped a query.
LOOK_SECONDS = 0.5
# The server's words, and what the driver puts around them: `NOT_FOUND: [FlightSQL] … (NotFound; Prepare)`.
SAID = re.compile(r"\[FlightSQL\] (.*?) \([A-Z]\w+; [^\n]*\)", re.S)


def _trunc(unit):
    return f"date_trunc('{unit}', {{col}})"


def _bin(interval):
    return f"date_bin(INTERVAL '{interval}', {{col}})"


class MillpondEngineSpec(BaseEngineSpec):
    """Millpond over Flight SQL."""

    engine = "millpond"
    engine_name = "Millpond"
    drivers = {"flightsql": "Arrow Flight SQL"}
    default_driver = "flightsql"
    sqlalchemy_uri_placeholder = "millpond+flightsql://user:password@host:32010/?tls=true"
    metadata = {
        "description": "Kafka as Delta tables, with rows that are milliseconds old.",
        "pypi_packages": ["millpond-superset"],
        "connection_string": "millpond+flightsql://{username}:{password}@{host}:{port}/?tls=true",
        "default_port": 32010,
    }

    supports_file_upload = False
    disable_ssh_tunneling = True
    max_column_name_length = 255

    _time_grain_expressions = {
        None: "{col}",
        TimeGrain.SECOND: _trunc("second"),
        TimeGrain.FIVE_SECONDS: _bin("5 seconds"),
        TimeGrain.THIRTY_SECONDS: _bin("30 seconds"),
        TimeGrain.MINUTE: _trunc("minute"),
        TimeGrain.FIVE_MINUTES: _bin("5 minutes"),
        TimeGrain.TEN_MINUTES: _bin("10 minutes"),
        TimeGrain.FIFTEEN_MINUTES: _bin("15 minutes"),
        TimeGrain.THIRTY_MINUTES: _bin("30 minutes"),
        TimeGrain.HOUR: _trunc("hour"),
        TimeGrain.SIX_HOURS: _bin("6 hours"),
        TimeGrain.DAY: _trunc("day"),
        TimeGrain.WEEK: _trunc("week"),
        TimeGrain.WEEK_STARTING_SUNDAY: "date_trunc('week', {col} + INTERVAL '1 day') - INTERVAL '1 day'",
        TimeGrain.WEEK_STARTING_MONDAY: _trunc("week"),
        TimeGrain.MONTH: _trunc("month"),
        TimeGrain.QUARTER: _trunc("quarter"),
        TimeGrain.YEAR: _trunc("year"),
    }
    column_type_mappings = (
        (re.compile(r"^(array|struct|map|bytea)", re.I), types.String(), GenericDataType.STRING),
        (re.compile(r"^interval", re.I), types.String(), GenericDataType.STRING),
    )
    # The server's words say what is wrong; these say where Superset's own advice is.
    custom_errors = {
        re.compile(words): (message, kind, {})
        for words, message, kind in [
            (r"user name or password is wrong|log in first", "", SupersetErrorType.CONNECTION_ACCESS_DENIED_ERROR),
            (r"permission denied for table", "", SupersetErrorType.CONNECTION_DATABASE_PERMISSIONS_ERROR),
            (r"column `[^`]*` does not exist", "", SupersetErrorType.COLUMN_DOES_NOT_EXIST_ERROR),
            (r"table `[^`]*` does not exist", "", SupersetErrorType.TABLE_DOES_NOT_EXIST_ERROR),
            (r"syntax error", "", SupersetErrorType.SYNTAX_ERROR),
            (r"no such host|produced zero addresses", "", SupersetErrorType.CONNECTION_INVALID_HOSTNAME_ERROR),
            (r"connection refused", "", SupersetErrorType.CONNECTION_PORT_CLOSED_ERROR),
            (
                r"reading server preface",
                "The server ended the connection; perhaps it wants TLS: add ?tls=true to the URI",
                SupersetErrorType.GENERIC_DB_ENGINE_ERROR,
            ),
        ]
    }

    @classmethod
    def get_datatype(cls, type_code):
        """The name in SQL of a result's Arrow type."""
        return sql_type(type_code).compile(dialect=MillpondDialect())

    @classmethod
    def convert_dttm(cls, target_type, dttm, db_extra=None):
        """A time as SQL; Superset's times are in UTC."""
        kind = target_type.upper()
        if kind.startswith("DATE") and not kind.startswith("DATETIME"):
            return f"DATE '{dttm.date().isoformat()}'"
        if kind.startswith("TIMESTAMP WITH TIME ZONE"):
            return f"TIMESTAMPTZ '{dttm.isoformat(timespec='microseconds')}Z'"
        if kind.startswith(("TIMESTAMP", "DATETIME")):
            return f"TIMESTAMP '{dttm.isoformat(sep=' ', timespec='microseconds')}'"
        return None

    @classmethod
    def epoch_to_dttm(cls):
        """Seconds since 1970 as a time."""
        return "to_timestamp_seconds({col})"

    @classmethod
    def epoch_ms_to_dttm(cls):
        """Milliseconds since 1970 as a time."""
        return "to_timestamp_millis({col})"

    @classmethod
    def get_function_names(cls, database):
        """What SQL Lab offers while one types."""
        sql = "SELECT DISTINCT routine_name FROM information_schema.routines ORDER BY routine_name"
        return database.get_df(sql)["routine_name"].tolist()

    @staticmethod
    def get_extra_params(database, source=None):
        """The certificate of the form's field "Root certificate" is the authority that is trusted, and means TLS."""
        extra = BaseEngineSpec.get_extra_params(database, source)
        if database.server_cert:
            arguments = extra.setdefault("engine_params", {}).setdefault("connect_args", {})
            arguments |= {"tls": True, "ca": create_ssl_cert_file(database.server_cert)}
        return extra

    @classmethod
    def has_implicit_cancel(cls):
        """A query is ended by whoever runs it."""
        return True

    @classmethod
    def execute_with_cursor(cls, cursor, sql, query):
        """Runs a query of SQL Lab; somebody may stop it meanwhile, in any process of Superset."""
        failed = []

        def run():
            try:
                cursor.execute(sql)
                cursor.take()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="millpond query")
        thread.start()
        thread.join(LOOK_SECONDS)
        while thread.is_alive():
            db.session.refresh(query)
            # Ends the transaction, so that the next look is a new one.
            stopped = query.status in (QueryStatus.STOPPED, QueryStatus.TIMED_OUT)
            db.session.commit()
            if stopped:
                cursor.adbc_cancel()
            thread.join(LOOK_SECONDS)
        if failed:
            raise cls.get_dbapi_mapped_exception(failed[0]) from failed[0]

    @classmethod
    def _extract_error_message(cls, ex):
        """What the server said, without the driver's words around it."""
        text = super()._extract_error_message(ex)
        return match[1].strip() if (match := SAID.search(text)) else text
