"""duckdb_queries.py DELTA_TABLE FILE SQL…: the rows of the Delta table are written once to the Parquet file FILE; then each SQL
over t runs there, and over the Delta table. Prints a line for each: milliseconds over FILE, over the table, and the answer."""

import sys
import time

import lake


def best(connection, sql):
    """The fastest of five, in milliseconds."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        rows = connection.execute(sql).fetchall()
        times.append(time.monotonic() - began)
    return min(times) * 1000, rows


if __name__ == "__main__":
    url, target, *queries = sys.argv[1:]
    once, delta = lake.connect(), lake.connect()
    once.execute(f"COPY (FROM delta_scan('{url}')) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
    once.execute(f"CREATE VIEW t AS FROM read_parquet('{target}')")
    delta.execute(f"CREATE VIEW t AS FROM delta_scan('{url}')")
    for sql in queries:
        (plain, answer), (table, _) = best(once, sql), best(delta, sql)
        print(f"{plain:.1f} {table:.1f} {answer[0]}")
