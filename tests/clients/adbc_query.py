"""adbc_query.py URI SQL: runs SQL over Flight SQL with the ADBC driver; one JSON object a row."""

import sys

import adbc_driver_flightsql.dbapi

import lake

if __name__ == "__main__":
    uri, sql = sys.argv[1:]
    try:
        with adbc_driver_flightsql.dbapi.connect(uri) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            table = cursor.fetch_arrow_table()
    except Exception as error:
        sys.exit(str(error))
    lake.print_rows(table.column_names, zip(*(column.to_pylist() for column in table.columns)))
