"""adbc_secure.py URI CA USER PASSWORD SQL: runs SQL over Flight SQL with TLS and an account; one JSON object a row."""

import sys

import adbc_driver_flightsql.dbapi
from adbc_driver_flightsql import DatabaseOptions

import lake

if __name__ == "__main__":
    uri, ca, user, password, sql = sys.argv[1:]
    options = {DatabaseOptions.TLS_ROOT_CERTS.value: open(ca, encoding="ascii").read()}
    if user:
        options |= {"username": user, "password": password}
    try:
        with adbc_driver_flightsql.dbapi.connect(uri, db_kwargs=options) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            table = cursor.fetch_arrow_table()
    except Exception as error:
        sys.exit(str(error))
    lake.print_rows(table.column_names, zip(*(column.to_pylist() for column in table.columns)))
