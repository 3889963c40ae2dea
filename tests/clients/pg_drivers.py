"""pg_drivers.py PORT: what drivers read through the PostgreSQL wire; ends with an error if it is not what was sent."""

import asyncio
import datetime
import decimal
import io
import sys

import adbc_driver_postgresql.dbapi
import asyncpg
import polars
import psycopg
import psycopg2

UTC = datetime.timezone.utc
PORT = int(sys.argv[1])
AT = datetime.datetime(2026, 11, 20, 23, 0, 0, 250000, tzinfo=UTC)
ROW = "SELECT car_id, n, speed, gear, moving, event_time, price::decimal(12,2) AS price, day, tags, where_lat FROM telemetry WHERE n = %s"
FIRST = ("car-00", 0, 0.5, 0, True, AT, decimal.Decimal("0.10"), datetime.date(2026, 11, 20), ["a", "b,c", None], 37.5)


def same(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def psycopg_3():
    with psycopg.connect(f"host=127.0.0.1 port={PORT} user=ann dbname=millpond") as connection:
        def ask(sql, values=None, **options):
            with connection.cursor(**options) as cursor:
                return cursor.execute(sql, values).fetchall()

        for binary in (False, True):
            same(ask(ROW, (0,), binary=binary), [FIRST])
            same(ask("SELECT speed, price::decimal(12,2) FROM telemetry WHERE n = 7", binary=binary), [(None, decimal.Decimal("7.10"))])
            same(ask("SELECT %s, %s::int + 1, %s", ("a", 4, 7), binary=binary), [("a", 5, 7)])
            same(ask("SELECT %s::date, %s::timestamptz, %s::numeric", (FIRST[7], AT, decimal.Decimal("1.25")), binary=binary),
                 [(FIRST[7], AT, decimal.Decimal("1.25"))])
            same(ask("SELECT 1e20::double precision, 'NaN'::double precision > 1, -1.5e-7::real", binary=binary)[0][:2], (1e20, True))
            same(ask("SELECT x FROM generate_series(1, 3) t(x) ORDER BY x", binary=binary), [(1,), (2,), (3,)])
        same(ask("SELECT count(*) FROM telemetry WHERE car_id = ANY(%s)", (["car-01", "car-02"],)), [(20,)])
        same(ask("SELECT count(*) FROM telemetry WHERE speed > %s AND event_time < %s", (100.0, AT)), [(0,)])
        same(ask("SELECT %s::int IS NULL", (None,)), [(True,)])
        # What a type could not hold is not cut off: the other side widens.
        same(ask("SELECT count(*) FROM telemetry WHERE n = %s", (2.5,)), [(0,)])
        same(ask("SELECT count(*) FROM telemetry WHERE n < %s", (decimal.Decimal("2.5"),)), [(3,)])
        same(ask("SELECT count(*) FROM telemetry WHERE event_time <= %s", (AT,)), [(1,)])
        connection.execute("SET timezone = 'Asia/Seoul'")
        same(ask("SELECT count(*) FROM telemetry WHERE event_time <= %s", (datetime.datetime(2026, 11, 21, 8, 0, 0, 250000),)), [(1,)])
        connection.execute("SET timezone = 'UTC'")
        for car in range(12):
            same(ask("SELECT n FROM car_state WHERE car_id = %s", (f"car-{car:02}",)), [(180 + car,)])
        with connection.cursor("x y") as cursor:
            cursor.itersize = 7
            same([row[0] for row in cursor.execute("SELECT n FROM telemetry ORDER BY n")], list(range(200)))
        with connection.cursor() as cursor:
            with cursor.copy("COPY (SELECT n, tags FROM telemetry ORDER BY n LIMIT 2) TO STDOUT") as copy:
                same(list(copy.rows()), [("0", '{a,"b,c",NULL}'), ("1", '{a,"b,c",NULL}')])
            with cursor.copy("COPY (SELECT n, speed, price::decimal(12,2) AS price FROM telemetry ORDER BY n) TO STDOUT (FORMAT binary)") as copy:
                copy.set_types(["int8", "float8", "numeric"])
                rows = list(copy.rows())
                same((len(rows), rows[7]), (200, (7, None, decimal.Decimal("7.10"))))
            with cursor.copy("COPY (SELECT n FROM telemetry WHERE n < 0) TO STDOUT (FORMAT binary)") as copy:
                same(list(copy.rows()), [])
        same(connection.execute("SHOW server_version").fetchone()[0].split()[0], "16.4")
        connection.rollback()
        connection.execute("SET LOCAL timezone = 'Asia/Seoul'")
        same(connection.execute("SHOW timezone").fetchone(), ("Asia/Seoul",))
        connection.rollback()
        assert connection.execute("SHOW timezone").fetchone() != ("Asia/Seoul",), "SET LOCAL ends with its transaction"
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(5)]
        same([cursor.fetchone() for cursor in cursors], [(n,) for n in range(5)])
        for sql, state in [("SELEC 1", "42601"), ("SELECT nope FROM telemetry", "42703"), ("SELECT * FROM nope", "42P01"),
                           ("DROP TABLE telemetry", "42501"), ("SELECT 1/0", "22012"), ("SELECT 'x'::int", "22P02"),
                           ("SELECT nope()", "42883")]:
            try:
                connection.execute(sql)
                raise AssertionError(f"{sql} was not refused")
            except psycopg.Error as error:
                same((sql, error.sqlstate), (sql, state))
                same(connection.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
                connection.rollback()
        connection.execute("SET statement_timeout = 100")
        try:
            connection.execute("SELECT count(*) FROM generate_series(1, 100000) a(x), generate_series(1, 100000) b(y) WHERE x % 7 = y % 3")
            raise AssertionError("the time-out did not come")
        except psycopg.errors.QueryCanceled:
            connection.rollback()


def psycopg_2():
    connection = psycopg2.connect(f"host=127.0.0.1 port={PORT} user=ann dbname=millpond")
    cursor = connection.cursor()
    cursor.execute(ROW, (0,))
    same(cursor.fetchall(), [FIRST])
    named = connection.cursor("named")
    named.itersize = 30
    named.execute("SELECT n FROM telemetry ORDER BY n")
    same([row[0] for row in named], list(range(200)))
    named.close()
    text = io.StringIO()
    cursor.copy_expert("COPY (SELECT n, speed FROM telemetry WHERE n IN (6, 7) ORDER BY n) TO STDOUT CSV HEADER", text)
    same(text.getvalue(), "n,speed\n6,6.5\n7,\n")
    connection.close()


async def with_asyncpg():
    connection = await asyncpg.connect(host="127.0.0.1", port=PORT, user="ann", database="millpond")
    row = await connection.fetchrow(ROW.replace("%s", "$1"), 0)
    same(tuple(row.values()), FIRST)
    same(await connection.fetchval("SELECT count(*) FROM telemetry WHERE car_id = ANY($1::text[])", ["car-01"]), 10)
    same(await connection.fetchval("SELECT count(*) FROM telemetry WHERE speed > $1 AND day = $2", 3.5, FIRST[7]), 57)
    same(await connection.fetchval("SELECT count(*) FROM telemetry WHERE n = ANY($1)", [1, 2, 999]), 2)
    same(await connection.fetchval("SELECT count(*) FROM telemetry WHERE car_id = ANY($1)", ["car-01"]), 10)
    same(await connection.fetchval("SELECT count(*) FROM telemetry WHERE n = ANY($1::int[])", [1, 2]), 2)
    same(await connection.fetchval("SELECT $1::float * 2", 1.25), 2.5)
    same((await connection.fetch("SELECT oid, relname, relkind FROM pg_class WHERE relname = 'telemetry'"))[0]["relname"], "telemetry")
    async with connection.transaction():
        same([row["n"] async for row in connection.cursor("SELECT n FROM telemetry ORDER BY n", prefetch=7)], list(range(200)))
    await connection.reset()
    await connection.close()
    pool = await asyncpg.create_pool(host="127.0.0.1", port=PORT, user="ann", database="millpond", min_size=2, max_size=8)
    same(await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(50))), list(range(50)))
    await pool.close()


def adbc():
    uri = f"postgresql://ann@127.0.0.1:{PORT}/millpond"
    with adbc_driver_postgresql.dbapi.connect(uri) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT car_id, n, speed, moving, event_time, day FROM telemetry ORDER BY n")
        table = cursor.fetch_arrow_table()
        same(table.num_rows, 200)
        same(table.slice(0, 1).to_pylist()[0]["event_time"], AT)
        cursor.execute("SELECT count(*) FROM telemetry WHERE car_id = $1", ("car-01",))
        same(cursor.fetchone(), (10,))
    frame = polars.read_database_uri("SELECT n, speed FROM telemetry ORDER BY n", uri, engine="adbc")
    same((frame.shape, frame["speed"].null_count()), ((200, 2), 20))


psycopg_3()
psycopg_2()
asyncio.run(with_asyncpg())
adbc()
