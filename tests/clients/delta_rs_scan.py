"""delta_rs_scan.py TABLE_URL SQL: runs SQL over the Delta table as deltalake reads it, called t; one JSON object a row."""

import sys

import duckdb
from deltalake import DeltaTable

import lake

if __name__ == "__main__":
    url, sql = sys.argv[1:]
    t = DeltaTable(url, storage_options=lake.storage_options()).to_pyarrow_table()
    connection = duckdb.connect()
    connection.register("t", t)
    result = connection.execute(sql)
    lake.print_rows([column[0] for column in result.description], result.fetchall())
