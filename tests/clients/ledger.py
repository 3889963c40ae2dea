"""Compares a ledger of sent records with a Delta table, as two outside readers see it.

    ledger.py LEDGER.csv TABLE_URL [--key-column NAME] [--hash-column NAME]

The ledger's columns are topic,partition,offset,key,hash. A record may have several rows (_row counts them). Prints a
JSON list, one object a reader: rows, lost (records without a row), doubled (rows beyond the first of an identity),
extra (rows of no record), changed (key or hash differ), examples. Exit code 1 if any of them is not 0.
"""

import argparse
import json
import sys

import deltalake

import lake

IDENTITY = ["_topic", "_incarnation", "_partition", "_offset", "_row"]


def compare(connection, reader, key_column, hash_column):
    """Counts over the relations `ledger` and `found`."""
    count = lambda sql: connection.execute(f"SELECT count(*) FROM ({sql})").fetchone()[0]
    same = "ledger.topic = found._topic AND ledger.partition = found._partition AND ledger.offset = found._offset"
    lost = f"SELECT topic, partition, \"offset\" FROM ledger ANTI JOIN found ON {same}"
    extra = f"SELECT _topic, _partition, _offset FROM found ANTI JOIN ledger ON {same}"
    # Every row beyond the first of its identity counts once.
    many = f"SELECT {', '.join(IDENTITY)}, count(*) - 1 AS more FROM found GROUP BY ALL HAVING count(*) > 1"
    differs = [f"ledger.{mine} IS DISTINCT FROM CAST(found.\"{theirs}\" AS VARCHAR)"
               for mine, theirs in (("key", key_column), ("hash", hash_column)) if theirs]
    changed = f"SELECT topic, partition, \"offset\" FROM ledger JOIN found ON {same} WHERE {' OR '.join(differs) or 'false'}"
    examples = []
    for word, sql in (("lost", lost), ("doubled", many), ("extra", extra), ("changed", changed)):
        for row in connection.execute(f"SELECT * FROM ({sql}) ORDER BY ALL LIMIT 5").fetchall():
            examples.append(f"{word}: {' '.join(map(str, row))}")
    return {
        "reader": reader,
        "rows": count("SELECT 1 FROM found"),
        "lost": count(lost),
        "doubled": int(connection.execute(f"SELECT coalesce(sum(more), 0) FROM ({many})").fetchone()[0]),
        "extra": count(extra),
        "changed": count(changed),
        "examples": examples,
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("ledger")
    arguments.add_argument("table")
    arguments.add_argument("--key-column")
    arguments.add_argument("--hash-column")
    given = arguments.parse_args()
    columns = IDENTITY + [name for name in (given.key_column, given.hash_column) if name]

    connection = lake.connect()
    connection.execute(
        "CREATE TABLE ledger AS SELECT * FROM read_csv(?, header = true, columns = "
        "{topic: 'VARCHAR', partition: 'INTEGER', \"offset\": 'BIGINT', key: 'VARCHAR', hash: 'VARCHAR'})",
        [given.ledger])
    reports = []

    table = deltalake.DeltaTable(given.table, storage_options=lake.storage_options())
    rows = table.to_pyarrow_table(columns=columns)
    connection.register("arrow_rows", rows)
    connection.execute("CREATE OR REPLACE TEMP TABLE found AS SELECT * FROM arrow_rows")
    reports.append(compare(connection, "deltalake", given.key_column, given.hash_column))

    names = ", ".join(f'"{name}"' for name in columns)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE found AS SELECT {names} FROM delta_scan('{given.table}')")
    reports.append(compare(connection, "duckdb", given.key_column, given.hash_column))

    print(json.dumps(reports, indent=2))
    return any(report[word] for report in reports for word in ("lost", "doubled", "extra", "changed"))


if __name__ == "__main__":
    sys.exit(main())
