"""Delta tables as outside readers open them: a path, or s3://… with the usual AWS variables."""

import importlib
import json
import os

import duckdb


def storage_options():
    """What deltalake needs for s3://, from the environment."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    options = {name: os.environ[name] for name in
               ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION") if name in os.environ}
    if endpoint:
        options["AWS_ENDPOINT_URL"] = endpoint
        options["AWS_ALLOW_HTTP"] = str(endpoint.startswith("http://")).lower()
    return options


def connect():
    """DuckDB with its delta and httpfs extensions from pip: nothing is downloaded at run time."""
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false"})
    for name in ("httpfs", "delta"):
        package = os.path.dirname(importlib.import_module(f"duckdb_extension_{name}").__file__)
        path = os.path.join(package, "extensions", f"v{duckdb.__version__}", f"{name}.duckdb_extension")
        connection.execute(f"LOAD '{path}'")
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme, host = endpoint.split("://", 1)
        connection.execute(f"""
            CREATE SECRET (TYPE s3, KEY_ID '{os.environ["AWS_ACCESS_KEY_ID"]}',
                SECRET '{os.environ["AWS_SECRET_ACCESS_KEY"]}', REGION '{os.environ.get("AWS_REGION", "us-east-1")}',
                ENDPOINT '{host.rstrip("/")}', URL_STYLE 'path', USE_SSL {scheme == "https"})""")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def print_rows(columns, rows):
    """One JSON object a line; what JSON has no word for becomes text."""
    for row in rows:
        print(json.dumps(dict(zip(columns, row)), default=str))
