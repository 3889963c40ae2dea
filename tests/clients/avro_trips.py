"""avro_trips.py COUNT: trips as fastavro writes them.

First a line with the schemas (a referenced one, then two versions of the trip), then a line per record: which version
wrote it, its bytes in hex, and the row that must come of it, written by Python from the same values."""

import base64
import datetime
import decimal
import io
import json
import sys
import uuid

import fastavro

PLACE = {"type": "record", "name": "fleet.geo.Place",
         "fields": [{"name": "lat", "type": "double"}, {"name": "lon", "type": ["null", "float"]}]}
FIRST = {"type": "record", "name": "fleet.Trip", "fields": [
    {"name": "tripId", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "number", "type": "long"},
    {"name": "km", "type": "double"},
    {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["OPEN", "CLOSED"]}},
    {"name": "startedAt", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
    {"name": "paid", "type": "boolean"},
    {"name": "raw", "type": "bytes"},
    {"name": "from", "type": "fleet.geo.Place"},
    {"name": "to", "type": ["null", "fleet.geo.Place"]},
    {"name": "codes", "type": {"type": "array", "items": "int"}},
    {"name": "never", "type": ["null", "double"]},
]}
SECOND = {**FIRST, "fields": [*FIRST["fields"], {"name": "driver", "type": ["null", "string", "long"]}]}


def trip(n):
    """The n-th trip, and its row in a Delta table."""
    start = datetime.datetime(2024, 3, 1, 12, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=n, microseconds=7)
    value = {
        "tripId": uuid.UUID(int=n), "number": (-1) ** n * n * 10 ** 12, "km": n / 4, "state": ["OPEN", "CLOSED"][n % 2],
        "startedAt": start, "day": start.date() - datetime.timedelta(days=n), "price": decimal.Decimal(n - 5) / 100,
        "paid": n % 3 == 0, "raw": bytes([n % 256, 0xff]), "from": {"lat": 52.5 + n, "lon": None},
        "to": None if n % 2 else {"lat": -0.25, "lon": 0.5}, "codes": list(range(n % 4)), "never": None,
        "driver": [None, f"driver \"{n}\"", n][n % 3],
    }
    row = {
        "trip_id": str(value["tripId"]), "number": value["number"], "km": value["km"], "state": value["state"],
        "started_us": round(start.timestamp()) * 1_000_000 + 7, "day": str(value["day"]),
        "price": f"{value['price']:.2f}", "paid": value["paid"], "raw": base64.b64encode(value["raw"]).decode(),
        "from_lat": 52.5 + n, "from_lon": None, "to_lat": None if n % 2 else -0.25, "to_lon": None if n % 2 else 0.5,
        "codes": value["codes"], "never": None,
    }
    return value, row


if __name__ == "__main__":
    names = {}
    fastavro.parse_schema(PLACE, named_schemas=names)
    writers = [fastavro.parse_schema(schema, named_schemas=dict(names)) for schema in (FIRST, SECOND)]
    print(json.dumps([json.dumps(schema) for schema in (PLACE, FIRST, SECOND)]))
    for n in range(int(sys.argv[1])):
        value, row = trip(n)
        # The first half is of the first writer alone, then both take turns.
        version = 0 if n < int(sys.argv[1]) // 2 else n % 2
        if version == 1:
            row["driver"] = None if value["driver"] is None else str(value["driver"])
        else:
            del value["driver"]
            row["driver"] = None
        body = io.BytesIO()
        fastavro.schemaless_writer(body, writers[version], value)
        print(json.dumps({"version": version, "body": body.getvalue().hex(), "row": row}))
