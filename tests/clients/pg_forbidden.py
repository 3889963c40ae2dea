"""pg_forbidden.py PORT FILE: each statement of a JSON list is refused over the PostgreSQL wire, simple and prepared."""

import json
import sys

import psycopg

PORT, FILE = sys.argv[1:]
# What PostgreSQL's clients may do with their own connection, and rows that go to them.
HARMLESS = ("COPY telemetry TO STDOUT", "BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK", "DEALLOCATE", "SET ", "DISCARD", "RESET")
wrong = []
with psycopg.connect(f"host=127.0.0.1 port={PORT} user=ann dbname=millpond", autocommit=True) as connection:
    for sql in json.load(open(FILE, encoding="utf-8")):
        if sql.strip(" ;\n") in ("", "-- nothing", "; -- nothing") or sql == "SELECT 1; SELECT 2" or sql.upper().startswith(tuple(word.upper() for word in HARMLESS)):
            continue
        for way in ("simple", "prepared"):
            try:
                if way == "simple":
                    connection.pgconn.exec_(sql.encode())
                    result = connection.pgconn.exec_(sql.encode())
                    code = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
                    text = result.error_message.decode()
                    if result.status == psycopg.pq.ExecStatus.COPY_OUT:
                        sys.exit(f"{sql} gives rows")
                else:
                    connection.execute(sql, prepare=True)
                    code, text = "", "it was taken"
            except psycopg.Error as error:
                code, text = error.sqlstate or "", str(error)
            if not code or code == "XX000" or "hunter2" in text:
                wrong.append(f"{way}: {sql}\n    {code} {text}")
if wrong:
    sys.exit("\n".join(wrong))
