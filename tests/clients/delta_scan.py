"""delta_scan.py TABLE_URL SQL: runs SQL in DuckDB, where the Delta table is called t; one JSON object a row."""

import sys

import lake

if __name__ == "__main__":
    url, sql = sys.argv[1:]
    connection = lake.connect()
    connection.execute(f"CREATE VIEW t AS SELECT * FROM delta_scan('{url}')")
    result = connection.execute(sql)
    columns = [column[0] for column in result.description]
    lake.print_rows(columns, result.fetchall())
