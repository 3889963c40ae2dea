"""adbc_subscribe.py URI SQL COUNT: the first rows that a subscription gives, over ADBC; one JSON object a row."""

import os
import sys

import adbc_driver_flightsql.dbapi

import lake

if __name__ == "__main__":
    uri, sql, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rows = []
    try:
        connection = adbc_driver_flightsql.dbapi.connect(uri)
        cursor = connection.cursor()
        cursor.execute(sql)
        for batch in cursor.fetch_record_batch():
            rows.extend(tuple(row.values()) for row in batch.to_pylist())
            if len(rows) >= count:
                break
    except Exception as error:
        sys.exit(str(error))
    lake.print_rows(batch.schema.names, rows[:count])
    sys.stdout.flush()
    # What goes on without end is left as a process that is killed leaves it.
    os._exit(0)
