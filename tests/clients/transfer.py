"""Moves a whole table to a client, over each door and beside others; prints a table of Markdown.

    transfer.py make FILE ROWS
        a Parquet file of 22 columns: what `transfer.py move` reads
    transfer.py move FLIGHT_PORT POSTGRES_PORT PEER_PORT FILE TABLE ROUNDS PID
        PEER_PORT is a PostgreSQL with the same table; PID is Millpond's, whose memory is looked at

The roof is a server of pyarrow's that holds the same rows as Arrow in memory and does nothing but send them, in messages of
the same size, to the same client.
"""

import statistics
import sys
import threading
import time

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as parquet

MESSAGE_ROWS = 8192


def make(path, rows):
    numbers = ", ".join(f"(i * {at + 3} % 1000003)::bigint AS n{at}" for at in range(6))
    doubles = ", ".join(f"(i * {at + 7} % 100003) / 8.0::double AS d{at}" for at in range(10))
    texts = ", ".join(f"'s' || (i * {at + 5} % 9973) AS s{at}" for at in range(3))
    duckdb.sql(
        f"""COPY (SELECT i AS id, 'car-' || i % 10000 AS car_id,
            TIMESTAMPTZ '2026-11-01 00:00:00+00' + to_milliseconds(i) AS at, {numbers}, {doubles}, {texts}
            FROM range({rows}) t(i)) TO '{path}' (FORMAT parquet)"""
    )


class Roof(flight.FlightServerBase):
    def __init__(self, table):
        super().__init__("grpc://127.0.0.1:0")
        self.batches = table.to_batches(MESSAGE_ROWS)
        self.schema = table.schema

    def do_get(self, context, ticket):
        return flight.GeneratorStream(self.schema, iter(self.batches))


def field(number, data):
    """A field of Protobuf: bytes behind their length."""
    length, out = len(data), bytearray([number << 3 | 2])
    while True:
        out.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(out) + data


def statement(sql):
    name = b"type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery"
    return flight.FlightDescriptor.for_command(field(1, name) + field(2, field(1, sql.encode())))


def drain(reader):
    rows = size = 0
    for chunk in reader:
        rows += chunk.data.num_rows
        size += chunk.data.nbytes
    return rows, size


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


class Watch:
    """The most memory that a process has meanwhile."""

    def __init__(self, pid):
        self.pid, self.most, self.ended = pid, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.ended.wait(0.05):
            self.most = max(self.most, memory(self.pid))

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


def move(flight_port, postgres_port, peer_port, path, table, rounds, pid):
    client = flight.connect(f"grpc://127.0.0.1:{flight_port}")
    roof = Roof(parquet.read_table(path))
    roof_client = flight.connect(f"grpc://127.0.0.1:{roof.port}")
    ours = psycopg.connect(f"host=127.0.0.1 port={postgres_port} user=ann dbname=millpond", autocommit=True)
    peer = psycopg.connect(f"host=127.0.0.1 port={peer_port} user=postgres dbname=fleet", autocommit=True)
    ours.execute("SET result_cache = off")
    rows = ours.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    columns = ours.execute(f"SELECT * FROM {table} LIMIT 0").description
    names = ", ".join(column.name for column in columns if not column.name.startswith("_"))
    kinds = {20: "bigint", 701: "double precision", 25: "text", 1184: "timestamptz"}
    shape = ", ".join(f"{c.name} {kinds[c.type_code]}" for c in columns if not c.name.startswith("_"))
    peer.execute(f"CREATE TABLE {table} ({shape})")
    sql = f"SELECT {names} FROM {table}"

    def do_get():
        info = client.get_flight_info(statement(sql))
        return drain(client.do_get(info.endpoints[0].ticket))

    def copy(connection, options):
        def run():
            size = 0
            with connection.cursor() as cursor, cursor.copy(f"COPY ({sql}) TO STDOUT {options}") as rows:
                for data in rows:
                    size += len(data)
            return None, size

        return run

    with ours.cursor().copy(f"COPY ({sql}) TO STDOUT (FORMAT binary)") as source:
        with peer.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as target:
            for data in source:
                target.write(data)
    peer.execute(f"VACUUM ANALYZE {table}")

    ways = {
        "raw Arrow Flight, rows in memory (the roof)": lambda: drain(roof_client.do_get(flight.Ticket(b""))),
        "Millpond, Flight SQL": do_get,
        "Millpond, COPY binary": copy(ours, "(FORMAT binary)"),
        "PostgreSQL 15, COPY binary": copy(peer, "(FORMAT binary)"),
        "Millpond, COPY text": copy(ours, ""),
        "PostgreSQL 15, COPY text": copy(peer, ""),
    }
    took, sizes, most = {name: [] for name in ways}, {}, {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            with Watch(pid) as watch:
                began = time.monotonic()
                got, sizes[name] = way()
                seconds = time.monotonic() - began
            assert got in (None, rows), (name, got, rows)
            if turn:  # the first is to get warm
                took[name].append(seconds)
            if name.startswith("Millpond"):
                most[name] = max(most.get(name, 0), watch.most)
    with peer.cursor() as theirs, ours.cursor() as own:
        check = f"SELECT count(*), sum(id), sum(n5), round(sum(d9)::numeric, 3), count(DISTINCT s2) FROM {table}"
        assert own.execute(check).fetchone() == theirs.execute(check).fetchone()

    print(f"{rows:,} rows of {len(names.split(', '))} columns, median of {rounds} (fastest, slowest)")
    print("| way | s | rows/s | MB/s | Millpond's memory at most, MiB |")
    print("|---|---|---|---|---|")
    for name, times in took.items():
        median = statistics.median(times)
        spread = f"{median:.2f} ({min(times):.2f}, {max(times):.2f})"
        held = f"{most[name]:.0f}" if name in most else ""
        print(f"| {name} | {spread} | {rows / median:,.0f} | {sizes[name] / median / 1e6:,.0f} | {held} |")
    print(f"\nBefore, Millpond held {memory(pid):.0f} MiB (after all of it).")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2], int(sys.argv[3]))
    else:
        *ports, path, table, rounds, pid = sys.argv[2:]
        move(*ports, path, table, int(rounds), int(pid))
