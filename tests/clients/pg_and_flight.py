"""pg_and_flight.py FLIGHT_URI PORT SLT_FOLDER: every query of the .slt files through both doors gives the same values."""

import datetime
import decimal
import json
import math
import pathlib
import re
import sys

import adbc_driver_flightsql.dbapi
import psycopg

URI, PORT, FOLDER = sys.argv[1:]
# What differs between any two sessions, or is about the door.
OWN = re.compile(r"now\(\)|current_|random|uuid|EXPLAIN|SHOW|DESCRIBE|df_settings|information_schema|version\(\)|system\.", re.I)
MORE = [
    "SELECT * FROM telemetry ORDER BY n",
    "SELECT * FROM car_state ORDER BY car_id",
    "SELECT car_id, count(*), sum(speed), avg(speed), min(event_time), max(gear) FROM telemetry GROUP BY car_id ORDER BY 1",
    "SELECT arrow_cast(x, 'UInt64'), arrow_cast(x, 'Int8'), arrow_cast(x, 'Decimal256(50, 3)') FROM generate_series(0, 5) t(x) ORDER BY 1",
    "SELECT 0.5::float, 1e300::double precision, arrow_cast('a', 'Binary'), interval '1 day 2 hours'",
    "SELECT DATE '0001-01-01', DATE '2026-02-28', TIMESTAMP '1969-12-31T23:59:59.999999'",
]


def plain(value):
    """A value as both doors can have it."""
    if type(value).__name__ == "MonthDayNano":
        return datetime.timedelta(days=value.months * 30 + value.days, microseconds=value.nanoseconds // 1000)
    if isinstance(value, (dict, tuple)) or isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return json.loads(json.dumps(value, default=str), parse_float=float)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, decimal.Decimal):
        return decimal.Decimal(value).normalize()
    if isinstance(value, int) and not isinstance(value, bool):
        return decimal.Decimal(value).normalize()
    if isinstance(value, datetime.datetime):
        value = value.replace(microsecond=value.microsecond)
        return value.astimezone(datetime.timezone.utc) if value.tzinfo else value
    if isinstance(value, datetime.timedelta):
        return value
    return value


def queries():
    for path in sorted(pathlib.Path(FOLDER).glob("*.slt")):
        for block in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            lines = [line for line in block.splitlines() if not line.startswith("#")]
            if lines and lines[0].startswith("query"):
                yield "\n".join(lines[1:lines.index("----")] if "----" in lines else lines[1:])
    yield from MORE


def rows(cursor, sql):
    try:
        cursor.execute(sql)
        return [tuple(plain(value) for value in row) for row in cursor.fetchall()]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


wrong, asked = [], 0
with adbc_driver_flightsql.dbapi.connect(URI) as one, one.cursor() as flight, \
        psycopg.connect(f"host=127.0.0.1 port={PORT} user=ann dbname=millpond", autocommit=True) as other, \
        other.cursor() as text, other.cursor(binary=True) as binary:
    for sql in queries():
        if OWN.search(sql):
            continue
        wanted = rows(flight, sql)
        if isinstance(wanted, str):
            continue
        asked += 1
        for name, cursor in (("text", text), ("binary", binary)):
            found = rows(cursor, sql)
            same = found == wanted or sorted(map(repr, found)) == sorted(map(repr, wanted))
            if not same:
                wrong.append(f"{sql}\n  flight: {str(wanted)[:300]}\n  {name}: {str(found)[:300]}")
print(asked, "queries")
if asked < 40 or wrong:
    sys.exit("\n\n".join(wrong) or "too few queries")
