"""duckdb_copy.py FILE OUT: DuckDB copies FILE (CSV, JSON lines or Parquet) to the Parquet file OUT; prints the seconds."""

import sys
import time

import duckdb

if __name__ == "__main__":
    source, target = sys.argv[1:]
    connection = duckdb.connect()
    name = source.removesuffix(".gz").removesuffix(".zst")
    reader = {"csv": "read_csv", "ndjson": "read_json", "parquet": "read_parquet"}[name.rsplit(".", 1)[1]]
    began = time.monotonic()
    connection.execute(f"COPY (FROM {reader}('{source}')) TO '{target}' (FORMAT parquet, COMPRESSION lz4_raw)")
    print(time.monotonic() - began)
