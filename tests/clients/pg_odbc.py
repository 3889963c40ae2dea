"""pg_odbc.py PORT [SERVER_CERTIFICATE USER PASSWORD]: what psqlODBC reads through the PostgreSQL wire: rows, types, NULLs, parameters,
catalogs, cursors of its own; over TLS with an account if a certificate is named."""

import datetime
import decimal
import os
import sys

import pyodbc

PORT, *SECURE = sys.argv[1:]
AT = datetime.datetime(2026, 11, 20, 23, 0, 0, 250000)
ROW = "SELECT car_id, n, speed, gear, moving, event_time, price::decimal(12,2) AS price, day, tags, where_lat FROM telemetry WHERE n = ?"
FIRST = ("car-00", 0, 0.5, 0, True, AT, decimal.Decimal("0.10"), datetime.date(2026, 11, 20), '{a,"b,c",NULL}', 37.5)


def same(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def connect(more="", autocommit=True):
    # The driver gives times of day as the session's time zone has them.
    settings = f"DRIVER={{PostgreSQL Unicode}};SERVER=127.0.0.1;PORT={PORT};DATABASE=millpond;ConnSettings=SET timezone TO 'UTC';{more}"
    if SECURE:
        os.environ["PGSSLROOTCERT"] = SECURE[0]
        settings += f"SSLmode=verify-full;UID={SECURE[1]};PWD={{{SECURE[2]}}};"
    else:
        settings += "SSLmode=disable;UID=ann;"
    return pyodbc.connect(settings, autocommit=autocommit)


def ask(cursor, sql, *values):
    return [tuple(row) for row in cursor.execute(sql, *values).fetchall()]


def rows(more, true, false):
    with connect(more) as connection:
        cursor = connection.cursor()
        same(ask(cursor, ROW, 0), [FIRST[:4] + (true,) + FIRST[5:]])
        types = {name: kind for name, kind, *_ in cursor.description}
        same((types["n"], types["speed"], types["moving"], types["event_time"], types["price"], types["day"]),
             (int, float, type(true), datetime.datetime, decimal.Decimal, datetime.date))
        same(ask(cursor, "SELECT moving, speed FROM telemetry WHERE n = 7"), [(false, None)])
        same(ask(cursor, "SELECT 9223372036854775807 AS a, 2::int AS b, 3::smallint AS c, 1e300::double precision AS d, 1.5::real AS e, "
                         "-12.34::decimal(12,2) AS f, '' AS g, DATE '1969-12-31' AS h, TIMESTAMP '2026-01-02T03:04:05.678901' AS i, "
                         "TIME '01:02:03' AS j, arrow_cast('ab', 'Binary') AS k, '서울' AS l, make_array(1, NULL) AS m, "
                         "named_struct('a', 1) AS n, arrow_cast(7, 'UInt64') AS o, interval '1 day' AS p"),
             [(2**63 - 1, 2, 3, 1e300, 1.5, decimal.Decimal("-12.34"), "", datetime.date(1969, 12, 31),
               datetime.datetime(2026, 1, 2, 3, 4, 5, 678901), datetime.time(1, 2, 3), b"ab", "서울", "{1,NULL}", '{"a":1}',
               decimal.Decimal(7), "1 day")])
        same(ask(cursor, "SELECT NULL::bigint, NULL::double precision, NULL::numeric, NULL::boolean, NULL::varchar, NULL::date, "
                         "NULL::timestamp, NULL::bytea, NULL"), [(None,) * 9])
        parameters(cursor, more)
        for sql, state in [("SELEC 1", "42601"), ("SELECT nope FROM telemetry", "42703"), ("SELECT * FROM nope", "42P01"),
                           ("DELETE FROM telemetry", "42501"), ("SELECT 1/0", "22012")]:
            try:
                cursor.execute(sql)
                raise AssertionError(f"{sql} was not refused")
            except pyodbc.Error as error:
                same((sql, error.args[0]), (sql, state))


def parameters(cursor, more):
    same(ask(cursor, "SELECT count(*) FROM telemetry WHERE speed > ?", 3.5), [(172,)])
    same(ask(cursor, "SELECT count(*) FROM telemetry WHERE event_time < ?", datetime.datetime(2026, 11, 20, 23, 0, 10)), [(10,)])
    same(ask(cursor, "SELECT count(*) FROM telemetry WHERE day = ?", datetime.date(2026, 11, 20)), [(67,)])
    same(ask(cursor, "SELECT count(*) FROM moving WHERE price < ?", decimal.Decimal("2.5")), [(3,)])
    same(ask(cursor, "SELECT count(*) FROM telemetry WHERE car_id LIKE ?", "car-0%"), [(100,)])
    same(ask(cursor, "SELECT ?::bigint, ?", "1", "it's 서울"), [(1, "it's 서울")])
    same(ask(cursor, "SELECT n FROM telemetry WHERE n = ?", None), [])
    for n in range(3):
        same(ask(cursor, "SELECT n FROM telemetry WHERE n = ? AND car_id = ?", n, f"car-{n:02}"), [(n,)])
    # Without a statement of the server's it writes the boolean as '1'.
    boolean = "SELECT count(*) FROM telemetry WHERE moving = ?"
    same(ask(cursor, boolean, True), [(100,)])


def catalogs():
    with connect() as connection:
        def listed(rows, *names):
            return [tuple(getattr(row, name) for name in names) for row in rows.fetchall()]

        cursor = connection.cursor()
        same(listed(cursor.tables(schema="public"), "table_cat", "table_schem", "table_name", "table_type"),
             [("millpond", "public", "car_state", "TABLE"), ("millpond", "public", "moving", "VIEW"), ("millpond", "public", "telemetry", "TABLE")])
        same(listed(cursor.tables(schema="public", tableType="VIEW"), "table_name"), [("moving",)])
        same(listed(cursor.tables(schema="public", table="car\\_%"), "table_name"), [("car_state",)])
        assert ("system", "tables") in listed(cursor.tables(), "table_schem", "table_name")
        assert {"public", "system"} <= {row.table_schem for row in cursor.tables(schema="%", catalog="", table="").fetchall()}
        columns = listed(cursor.columns(table="telemetry", schema="public"), "column_name", "data_type", "type_name", "ordinal_position")
        text = pyodbc.SQL_WLONGVARCHAR
        same(columns[:8], [("car_id", text, "text", 1), ("event_time", pyodbc.SQL_TYPE_TIMESTAMP, "timestamptz", 2),
                           ("speed", pyodbc.SQL_FLOAT, "float8", 3), ("day", pyodbc.SQL_TYPE_DATE, "date", 4), ("n", pyodbc.SQL_BIGINT, "int8", 5),
                           ("gear", pyodbc.SQL_BIGINT, "int8", 6), ("moving", pyodbc.SQL_VARCHAR, "bool", 7), ("price", text, "text", 8)])
        same(listed(cursor.columns(table="mov%", schema="public", column="pri%"), "table_name", "column_name", "column_size", "decimal_digits"),
             [("moving", "price", 12, 2)])
        assert ("int8",) in listed(cursor.getTypeInfo(), "type_name")
        assert len(cursor.procedures().fetchall()) > 50
        same(listed(cursor.primaryKeys(table="car_state", schema="public"), "column_name", "key_seq", "pk_name"),
             [("car_id", 1, "car_state_pkey")])
        same(listed(cursor.foreignKeys(table="car_state", schema="public"), "fk_name"), [])
        # What is no int2vector the driver reads on behind, until it crashes.
        same(ask(cursor, "SELECT i.indkey, i.indoption FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relname = 'car_state'"),
             [("1", "0")])
        same(listed(cursor.statistics(table="car_state", schema="public", unique=True), "index_name", "column_name")[-1:],
             [("car_state_pkey", "car_id")])


def many():
    """All rows at once, and by cursors that the driver declares."""
    sql = "SELECT x, 'text ' || x AS t, CASE WHEN x % 3 > 0 THEN x END AS y FROM generate_series(1, {}) g(x) ORDER BY x"
    for more, count in [("", 300_000), ("UseDeclareFetch=1;Fetch=100;", 20_000), ("UseDeclareFetch=1;Fetch=10000;", 300_000)]:
        with connect(more, autocommit=False) as connection:
            cursor, other = connection.cursor(), connection.cursor()
            for n, row in enumerate(cursor.execute(sql.format(count)), 1):
                if tuple(row) != (n, f"text {n}", n if n % 3 else None):
                    raise AssertionError((n, row))
            same(n, count)
            # Two open at once, and what an error leaves.
            cursor.execute("SELECT n FROM telemetry ORDER BY n")
            same([row[0] for row in cursor.fetchmany(3)], [0, 1, 2])
            same(ask(other, "SELECT count(*) FROM telemetry"), [(200,)])
            same([row[0] for row in cursor.fetchall()], list(range(3, 200)))
            try:
                cursor.execute("SELECT nope FROM telemetry")
                raise AssertionError("a column that is not there was read")
            except pyodbc.Error as error:
                same(error.args[0], "42703")
            connection.rollback()
            same(ask(cursor, "SELECT 1"), [(1,)])
            connection.commit()


def refused():
    certificate, user, password = SECURE
    for SECURE[1], SECURE[2], text in [(user, "a wrong one", "password authentication failed"), ("nobody", password, "password authentication failed")]:
        try:
            connect()
            raise AssertionError(f"{SECURE[1]} came in")
        except pyodbc.Error as error:
            assert text in str(error), error
    SECURE[:] = [certificate, user, password]


for more in ["", "BoolsAsChar=1;", "UseServerSidePrepare=0;", "UseDeclareFetch=1;Fetch=5;"]:
    rows(more, "1", "0")
for more in ["BoolsAsChar=0;", "BoolsAsChar=0;UseServerSidePrepare=0;"]:
    rows(more, True, False)
catalogs()
many()
if SECURE:
    refused()
