"""pg_session.py PORT: a session that asks each line of its input, prepared once, and prints the rows or the error's code."""

import sys

import psycopg

with psycopg.connect(f"host=127.0.0.1 port={sys.argv[1]} user=ann dbname=millpond", autocommit=True, prepare_threshold=0) as connection:
    for line in sys.stdin:
        try:
            rows = connection.execute(line.strip(), prepare=True).fetchall()
            print(rows, flush=True)
        except psycopg.Error as error:
            print(error.sqlstate, str(error).splitlines()[0], flush=True)
