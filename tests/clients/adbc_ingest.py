"""adbc_ingest.py URI TABLE MODE ROWS [ID [CA USER PASSWORD]]: sends ROWS, a JSON list of objects or a number of generated
rows, by ADBC's bulk ingest; prints how many were taken in."""

import json
import sys

import adbc_driver_flightsql.dbapi
import pyarrow
from adbc_driver_flightsql import DatabaseOptions, StatementOptions

# The driver's own bound of a message is 16 MiB; the server's for who may write is 256.
LARGEST = 200 << 20


def table(rows):
    if rows.isdigit():
        numbers = range(int(rows))
        return pyarrow.table({"id": numbers, "note": [f"note {n} of many, long enough to be a large message" for n in numbers]})
    return pyarrow.Table.from_pylist(json.loads(rows))


if __name__ == "__main__":
    uri, name, mode, rows, identity, ca, user, password = (sys.argv[1:] + [""] * 4)[:8]
    options = {DatabaseOptions.WITH_MAX_MSG_SIZE.value: str(LARGEST)}
    if ca:
        options |= {DatabaseOptions.TLS_ROOT_CERTS.value: open(ca, encoding="ascii").read()}
    if user:
        options |= {"username": user, "password": password}
    try:
        connected = adbc_driver_flightsql.dbapi.connect(uri, db_kwargs=options, autocommit=True)
        with connected as connection, connection.cursor() as cursor:
            if identity:
                cursor.adbc_statement.set_options(
                    **{StatementOptions.RPC_CALL_HEADER_PREFIX.value + "millpond-id": identity}
                )
            print(cursor.adbc_ingest(name, table(rows), mode=mode))
    except Exception as error:
        sys.exit(str(error))
