"""The DB API of the dialect: ADBC's for Flight SQL, with results in whole columns and a call for primary keys."""

import base64
import datetime

import adbc_driver_flightsql
import adbc_driver_manager
import pyarrow
import pyarrow.flight
from adbc_driver_flightsql import DatabaseOptions
from adbc_driver_manager import dbapi as adbc

apilevel, paramstyle, threadsafety = adbc.apilevel, adbc.paramstyle, adbc.threadsafety
Warning, Error, InterfaceError, DatabaseError = adbc.Warning, adbc.Error, adbc.InterfaceError, adbc.DatabaseError
DataError, OperationalError, IntegrityError = adbc.DataError, adbc.OperationalError, adbc.IntegrityError
InternalError, ProgrammingError, NotSupportedError = adbc.InternalError, adbc.ProgrammingError, adbc.NotSupportedError


def connect(host, port, user=None, password=None, tls=False, ca=None):
    """Connects; with `tls` the certificate must be signed by an authority in the file `ca`, or of the system."""
    address = f"{'grpc+tls' if tls else 'grpc'}://{f'[{host}]' if ':' in host else host}:{port}"
    roots = None
    options = {}
    if user is not None:
        options |= {"username": user, "password": password or ""}
    if ca is not None:
        with open(ca, encoding="utf-8") as file:
            roots = file.read()
        options[DatabaseOptions.TLS_ROOT_CERTS.value] = roots
    database = adbc_driver_flightsql.connect(address, db_kwargs=options)
    try:
        connection = Connection(database, adbc_driver_manager.AdbcConnection(database), autocommit=True)
    except BaseException:
        database.close()
        raise
    connection.asked_of = address, user, password, roots
    return connection


class Connection(adbc.Connection):
    """A connection that commits nothing, as all is read-only."""

    asked_of = None

    def cursor(self):
        cursor = Cursor(self)
        self._cursors.add(cursor)
        return cursor

    def primary_key(self, schema, table):
        """Names of the columns of a table's primary key. ADBC does not ask for them, so this is a call beside it."""
        address, user, password, roots = self.asked_of
        headers = []
        if user is not None:
            login = base64.b64encode(f"{user}:{password or ''}".encode())
            headers.append((b"authorization", b"Basic " + login))
        options = pyarrow.flight.FlightCallOptions(timeout=30, headers=headers)
        tls = {"tls_root_certs": roots.encode()} if roots else {}
        # CommandGetPrimaryKeys of FlightSql.proto (2: schema, 3: table), packed in an Any (1: its type, 2: its bytes).
        command = _field(2, schema.encode()) + _field(3, table.encode())
        packed = _field(1, b"type.googleapis.com/arrow.flight.protocol.sql.CommandGetPrimaryKeys") + _field(2, command)
        with pyarrow.flight.FlightClient(address, **tls) as client:
            info = client.get_flight_info(pyarrow.flight.FlightDescriptor.for_command(packed), options)
            rows = [row for end in info.endpoints for row in client.do_get(end.ticket, options).read_all().to_pylist()]
        return [row["column_name"] for row in sorted(rows, key=lambda row: row["key_sequence"])]


class Cursor(adbc.Cursor):
    """A cursor that takes a whole result at once, instead of value by value."""

    taken = None

    def execute(self, operation, parameters=None):
        self.taken = None
        return super().execute(operation, parameters)

    def take(self):
        """Waits for the whole result; then its rows are there at once."""
        if self.taken is None:
            self.taken = self.fetch_arrow_table()

    def fetchall(self):
        """All rows that are left."""
        return self.fetchmany(None)

    def fetchone(self):
        """The next row, if there is one."""
        return next(iter(self.fetchmany(1)), None)

    def fetchmany(self, size=1):
        """The next rows; with None all that are left."""
        self.take()
        size = self.taken.num_rows if size is None else min(size, self.taken.num_rows)
        part, self.taken = self.taken.slice(0, size), self.taken.slice(size)
        return list(zip(*(_values(column) for column in part.columns)))


def _values(column):
    """A column's values; intervals as other drivers have them, a month of 30 days."""
    if not pyarrow.types.is_interval(column.type):
        return column.to_pylist()
    return [value if value is None else _time(*value) for value in column.to_pylist()]


def _time(months, days, nanoseconds):
    return datetime.timedelta(days=months * 30 + days, microseconds=nanoseconds // 1000)


def _field(number, value):
    """A field of a protobuf message whose value is bytes."""
    length, size = len(value), b""
    while length > 0x7F:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + value
