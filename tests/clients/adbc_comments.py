"""adbc_comments.py URI rows SQL | URI tables NAME: the columns' descriptions that the ADBC driver gives, as one JSON object."""

import json
import sys

import adbc_driver_flightsql.dbapi


def comments(schema):
    return {field.name: field.metadata[b"comment"].decode() for field in schema if b"comment" in (field.metadata or {})}


if __name__ == "__main__":
    uri, what, asked = sys.argv[1:]
    with adbc_driver_flightsql.dbapi.connect(uri) as connection, connection.cursor() as cursor:
        if what == "rows":
            cursor.execute(asked)
            schema = cursor.fetch_arrow_table().schema
        else:
            schema = connection.adbc_get_table_schema(asked)
    print(json.dumps(comments(schema)))
