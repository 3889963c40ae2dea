"""describe.py TABLE_URL [APP_ID…]: what outside readers see of a Delta table, as one JSON object: column types as
deltalake (Arrow) and DuckDB give them, partition columns, protocol, table version, positions of the app ids."""

import json
import sys

import deltalake

import lake

if __name__ == "__main__":
    url, apps = sys.argv[1], sys.argv[2:]
    table = deltalake.DeltaTable(url, storage_options=lake.storage_options())
    protocol = table.protocol()
    described = lake.connect().execute(f"DESCRIBE SELECT * FROM delta_scan('{url}')").fetchall()
    print(json.dumps({
        "deltalake": {field.name: str(field.type) for field in table.to_pyarrow_dataset().schema},
        "duckdb": {row[0]: row[1] for row in described},
        "partition_columns": table.metadata().partition_columns,
        "min_reader_version": protocol.min_reader_version,
        "min_writer_version": protocol.min_writer_version,
        "features": sorted((protocol.reader_features or []) + (protocol.writer_features or [])),
        "version": table.version(),
        "positions": {app: table.transaction_version(app) for app in apps},
    }))
