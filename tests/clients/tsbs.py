"""A fleet of trucks and what is asked of it, after the IoT use case of the Time Series Benchmark Suite.

tsbs.py make FOLDER ROWS: three days of ROWS rows in all, one of readings and one of diagnostics per truck every ten
seconds, as Parquet files in FOLDER/readings, FOLDER/diagnostics and FOLDER/trucks, in the order of their times.
tsbs.py ask URI LAKE FOLDER ROUNDS MEMORY: twelve queries to Millpond at URI (Flight SQL), to DuckDB over the Delta
tables in LAKE, and to DuckDB over the files in FOLDER. Answers are compared first; then all three are asked in turn,
ROUNDS times. DuckDB has two threads and MEMORY."""

import datetime
import decimal
import glob
import math
import os
import re
import statistics
import sys
import time

import adbc_driver_flightsql
import adbc_driver_flightsql.dbapi
import duckdb

import lake

SEED = 20261130
THREADS = 2
TABLES = ("trucks", "readings", "diagnostics")
STEPS = 3 * 24 * 360
# A file of this many rows is one commit, small enough to be sorted in memory.
FILE_ROWS = 250_000

FLEETS = ["East", "West", "North", "South"]
MODELS = [("F-150", 2000, 200, 15), ("G-2000", 5000, 300, 19), ("H-2", 1500, 150, 12)]
DRIVERS = ["Albert", "Andy", "Derek", "Rodney", "Seth", "Trish"]


def part(*of):
    """SQL for a number in [0, 1) that the seed and `of` decide, whatever thread makes it."""
    return f"(hash({SEED}, {', '.join(map(str, of))}) % 1000003 / 1000003.0)"


def of_list(values, *of):
    return f"{values}[1 + floor({part(*of)} * {len(values)})::INT]"


def make(folder, rows):
    trucks = max(rows // 2 // STEPS, 1)
    connection = duckdb.connect(config={"threads": THREADS})
    connection.execute("SET TimeZone = 'UTC'")
    for table in TABLES:
        os.makedirs(os.path.join(folder, table))
    models = "[" + ", ".join(f"{{'model': '{m}', 'load': {l}, 'fuel': {f}, 'nominal': {n}}}" for m, l, f, n in MODELS) + "]"
    connection.execute(f"""
        CREATE TABLE trucks AS
        SELECT truck, 'truck_' || truck AS name, {of_list(FLEETS, "truck", 1)} AS fleet,
            {of_list(DRIVERS, "truck", 2)} AS driver, kind.model AS model,
            {of_list(["v1.0", "v1.5", "v2.0", "v2.3"], "truck", 4)} AS device_version,
            kind.load::DOUBLE AS load_capacity, kind.fuel::DOUBLE AS fuel_capacity,
            kind.nominal::DOUBLE AS nominal_fuel_consumption,
            0.35 + 0.64 * {part("truck", 5)} AS diligence
        FROM (SELECT range AS truck, {models}[1 + floor({part("range", 3)} * {len(MODELS)})::INT] AS kind FROM range({trucks}))""")
    out = os.path.join(folder, "trucks", "trucks.parquet")
    connection.execute(f"COPY (SELECT * EXCLUDE (truck, diligence) FROM trucks) TO '{out}'")
    # A truck drives or stands for half an hour, is loaded for four, and is broken for twenty minutes now and then.
    moments = f"""
        SELECT truck, step, TIMESTAMPTZ '2026-01-01' + to_seconds(10 * step) AS event_time, name,
            load_capacity, nominal_fuel_consumption,
            {part("truck", "step // 120", 6)} > 0.04 AS works,
            works AND {part("truck", "step // 180", 7)} < diligence AS drives
        FROM (SELECT range % {trucks} AS truck, range // {trucks} AS step FROM range(FIRST, LAST)) JOIN trucks USING (truck)"""
    columns = {
        "readings": f"""
            round(31 + 15 * {part("truck", 8)} + 0.9 * sin(step / 900.0 + truck) + 0.0004 * {part("truck", "step", 9)}, 5) AS latitude,
            round(-120 + 40 * {part("truck", 10)} + 1.1 * cos(step / 1100.0 + truck) + 0.0004 * {part("truck", "step", 11)}, 5) AS longitude,
            round(250 + 200 * sin(step / 700.0 + truck) + {part("truck", "step", 12)}) AS elevation,
            CASE WHEN drives THEN round(30 + 60 * {part("truck", "step // 6", 13)} + 5 * {part("truck", "step", 14)}) ELSE 0 END AS velocity,
            round(180 + 170 * sin(step / 250.0 + truck) + 5 * {part("truck", "step", 15)}) AS heading,
            round(10 * {part("truck", "step // 3", 16)}) AS grade,
            CASE WHEN drives THEN round(nominal_fuel_consumption * (0.8 + 0.5 * {part("truck", "step", 17)}), 1) ELSE 0 END
                AS fuel_consumption""",
        "diagnostics": f"""
            round(1 - (step / 2200.0 + {part("truck", 18)}) % 1, 2) AS fuel_state,
            round(load_capacity * (0.97 * {part("truck", "step // 1440", 19)} + 0.03 * {part("truck", "step", 21)})) AS current_load,
            CASE WHEN works THEN 1 + floor(5 * {part("truck", "step // 30", 20)})::BIGINT ELSE 0 END AS status""",
    }
    for table, values in columns.items():
        for number, first in enumerate(range(0, STEPS * trucks, FILE_ROWS)):
            moment = moments.replace("FIRST, LAST", f"{first}, {min(first + FILE_ROWS, STEPS * trucks)}")
            out = os.path.join(folder, table, f"{number:05}.parquet")
            connection.execute(f"""COPY (SELECT event_time, name, {values} FROM ({moment}) ORDER BY step, truck)
                TO '{out}'""")
    size = sum(os.path.getsize(path) for path in glob.glob(os.path.join(folder, "*", "*.parquet")))
    print(f"{trucks} trucks, {STEPS * trucks} rows each of readings and diagnostics, {size / 1e6:.0f} MB")


# Both engines take these, but for the words of {last}, {ten} and {day}.
QUERIES = {
    "last location by truck": """
        SELECT t.name, t.driver, r.latitude, r.longitude
        FROM trucks t JOIN (SELECT name, {last:latitude}, {last:longitude} FROM readings GROUP BY name) r ON r.name = t.name
        WHERE t.fleet = 'South'""",
    "low fuel": """
        SELECT t.name, t.driver, d.fuel_state
        FROM trucks t JOIN (SELECT name, {last:fuel_state} FROM diagnostics GROUP BY name) d ON d.name = t.name
        WHERE t.fleet = 'South' AND d.fuel_state < 0.1""",
    "high load": """
        SELECT t.name, t.driver, d.current_load, t.load_capacity
        FROM trucks t JOIN (SELECT name, {last:current_load} FROM diagnostics GROUP BY name) d ON d.name = t.name
        WHERE t.fleet = 'South' AND d.current_load > 0.9 * t.load_capacity""",
    "stationary trucks": """
        SELECT t.name, t.driver
        FROM trucks t JOIN readings r ON r.name = t.name
        WHERE r.event_time >= TIMESTAMP '2026-01-03 12:00:00' AND r.event_time < TIMESTAMP '2026-01-03 12:10:00'
            AND t.fleet = 'West'
        GROUP BY t.name, t.driver HAVING avg(r.velocity) < 1""",
    "long driving sessions": """
        SELECT t.name, t.driver
        FROM trucks t JOIN (
            SELECT name, {ten} AS ten FROM readings
            WHERE event_time >= TIMESTAMP '2026-01-02 08:00:00' AND event_time < TIMESTAMP '2026-01-02 12:00:00'
            GROUP BY name, {ten} HAVING avg(velocity) > 1) s ON s.name = t.name
        WHERE t.fleet = 'West'
        GROUP BY t.name, t.driver HAVING count(*) > 22""",
    "long daily sessions": """
        SELECT t.name, t.driver
        FROM trucks t JOIN (
            SELECT name, {ten} AS ten FROM readings
            WHERE event_time >= TIMESTAMP '2026-01-02 00:00:00' AND event_time < TIMESTAMP '2026-01-03 00:00:00'
            GROUP BY name, {ten} HAVING avg(velocity) > 1) s ON s.name = t.name
        WHERE t.fleet = 'West'
        GROUP BY t.name, t.driver HAVING count(*) > 60""",
    "average and projected fuel consumption": """
        SELECT t.fleet, avg(r.fuel_consumption) AS average, avg(t.nominal_fuel_consumption) AS projected
        FROM readings r JOIN trucks t ON t.name = r.name
        WHERE r.velocity > 1
        GROUP BY t.fleet""",
    "average daily driving duration": """
        SELECT t.fleet, t.name, t.driver, avg(s.hours) AS hours
        FROM trucks t JOIN (
            SELECT name, {day:ten} AS day, count(*) / 6.0 AS hours
            FROM (SELECT name, {ten} AS ten FROM readings GROUP BY name, {ten} HAVING avg(velocity) > 1) AS moving
            GROUP BY name, {day:ten}) s ON s.name = t.name
        GROUP BY t.fleet, t.name, t.driver""",
    "average daily driving session": """
        WITH tens AS (
            SELECT name, {ten} AS ten, avg(velocity) > 1 AS driving FROM readings GROUP BY name, {ten}
        ), changes AS (
            SELECT name, ten, driving, lag(driving) OVER (PARTITION BY name ORDER BY ten) AS before FROM tens
        ), sessions AS (
            SELECT name, driving, ten AS start, lead(ten) OVER (PARTITION BY name ORDER BY ten) AS stop
            FROM changes WHERE before IS NULL OR driving <> before
        )
        SELECT t.name, {day:s.start} AS day, avg({seconds:s.start,s.stop}) AS seconds
        FROM trucks t JOIN sessions s ON s.name = t.name
        WHERE s.driving AND s.stop IS NOT NULL
        GROUP BY t.name, {day:s.start}""",
    "average load": """
        SELECT t.fleet, t.model, t.load_capacity, avg(d.current_load / t.load_capacity) AS load
        FROM diagnostics d JOIN trucks t ON t.name = d.name
        GROUP BY t.fleet, t.model, t.load_capacity""",
    "daily activity": """
        SELECT t.fleet, t.model, {day:s.ten} AS day, sum(s.active) / 144.0 AS activity
        FROM trucks t JOIN (
            SELECT name, {ten} AS ten, CASE WHEN avg(status) > 1 THEN 1.0 ELSE 0.0 END AS active
            FROM diagnostics GROUP BY name, {ten}) s ON s.name = t.name
        GROUP BY t.fleet, t.model, {day:s.ten}""",
    "breakdown frequency": """
        WITH tens AS (
            SELECT name, {ten} AS ten, 2 * sum(CASE WHEN status = 0 THEN 1 ELSE 0 END) >= count(*) AS broken
            FROM diagnostics GROUP BY name, {ten}
        ), changes AS (
            SELECT name, broken, lead(broken) OVER (PARTITION BY name ORDER BY ten) AS after FROM tens
        )
        SELECT t.model, count(*) AS breakdowns
        FROM trucks t JOIN changes c ON c.name = t.name
        WHERE NOT c.broken AND c.after
        GROUP BY t.model""",
}
MILLPOND = {
    "last": "last_value({0} ORDER BY event_time) AS {0}",
    "ten": "date_bin(INTERVAL '10 minutes', event_time)",
    "day": "date_bin(INTERVAL '1 day', {0})",
    "seconds": "date_part('epoch', {1}) - date_part('epoch', {0})",
}
DUCKDB = {
    "last": "arg_max({0}, event_time) AS {0}",
    # Its time_bucket asks a calendar about each time with a zone, and takes several times as long.
    "ten": "make_timestamp(epoch_us(event_time) // 600000000 * 600000000)",
    "day": "date_trunc('day', {0})",
    "seconds": "epoch({1}) - epoch({0})",
}


def worded(query, words):
    """The query in an engine's words."""
    return re.sub(r"\{(\w+)(?::([^}]*))?\}", lambda found: words[found[1]].format(*(found[2] or "").split(",")), query)


class Millpond:
    name, words = "Millpond", MILLPOND

    def __init__(self, uri):
        self.connection = adbc_driver_flightsql.dbapi.connect(uri, autocommit=True)
        self.cursor = self.connection.cursor()
        try:
            self.ask("SET result_cache = off")
        except Exception as error:  # A version that keeps no answers has no such option.
            print(f"result_cache: {str(error).splitlines()[0]}", file=sys.stderr)

    def ask(self, sql):
        self.cursor.execute(sql)
        return self.cursor.fetch_arrow_table()

    def close(self):
        self.cursor.close()
        self.connection.close()


class Duckdb:
    words = DUCKDB

    def __init__(self, name, memory, views):
        self.name, self.connection = name, lake.connect()
        self.connection.execute(f"SET threads = {THREADS}; SET memory_limit = '{memory}'")
        for table, rows in views.items():
            self.connection.execute(f"CREATE VIEW {table} AS FROM {rows}")

    def ask(self, sql):
        return self.connection.execute(sql).to_arrow_table()


def plain(value):
    """A value as all engines have it."""
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    return float(value) if isinstance(value, (int, float, decimal.Decimal)) and not isinstance(value, bool) else value


def rows_of(table):
    rows = zip(*([plain(value) for value in column.to_pylist()] for column in table.columns))
    return sorted(rows, key=lambda row: [(value is None, str(value)) for value in row if not isinstance(value, float)])


def same(one, other):
    """Whether these are the same rows, numbers but for the last digits."""
    def alike(a, b):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b
    return len(one) == len(other) and all(
        len(a) == len(b) and all(map(alike, a, b)) for a, b in zip(one, other))


def geomean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def ask(uri, lake_url, folder, rounds, memory):
    engines = [
        Millpond(uri),
        Duckdb("DuckDB, the same files", memory, {table: f"delta_scan('{lake_url}/public/{table}')" for table in TABLES}),
        Duckdb("DuckDB, its own files", memory, {table: f"read_parquet('{folder}/{table}/*.parquet')" for table in TABLES}),
    ]
    times = {}
    for title, query in QUERIES.items():
        texts = [worded(query, engine.words) for engine in engines]
        answers = [rows_of(engine.ask(sql)) for engine, sql in zip(engines, texts)]
        for engine, answer in zip(engines[1:], answers[1:]):
            if not same(answers[0], answer):
                sys.exit(f"{title}: {engine.name} says otherwise\n{answers[0][:5]}\n{answer[:5]}")
        measured = [[] for _ in engines]
        for _ in range(rounds):
            for engine, sql, found in zip(engines, texts, measured):
                began = time.monotonic()
                engine.ask(sql)
                found.append((time.monotonic() - began) * 1000)
        times[title] = [len(answers[0]), *map(statistics.median, measured)]
    engines[0].close()
    readings = engines[1].ask("SELECT count(*) AS n FROM readings").to_pylist()[0]["n"]
    print(f"{readings} rows each of readings and diagnostics, {THREADS} threads and {memory} each, DuckDB {duckdb.__version__}, "
          f"ADBC {adbc_driver_flightsql.__version__}; the median of {rounds} rounds, in turns; answers are the same")
    print("| query | rows | Millpond, ms | DuckDB, the same files, ms | ratio | DuckDB, its own files, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for title, (rows, ours, shared, own) in times.items():
        print(f"| {title} | {rows} | {ours:.1f} | {shared:.1f} | {ours / shared:.2f} | {own:.1f} | {ours / own:.2f} |")
    on_shared, on_own = (geomean([found[1] / found[at] for found in times.values()]) for at in (2, 3))
    print(f"| geometric mean | | | | **{on_shared:.2f}** | | **{on_own:.2f}** |")


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what == "make":
        make(arguments[0], int(arguments[1]))
    else:
        uri, lake_url, folder, rounds, memory = arguments
        ask(uri, lake_url, folder, int(rounds), memory)
