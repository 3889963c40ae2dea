"""pg_pool.py PORT QUERIES CONNECTIONS: so many small queries at once over so many connections; the slowest in milliseconds."""

import asyncio
import sys
import time

import asyncpg

PORT, QUERIES, CONNECTIONS = map(int, sys.argv[1:])


async def main():
    pool = await asyncpg.create_pool(host="127.0.0.1", port=PORT, user="ann", database="millpond",
                                     min_size=CONNECTIONS, max_size=CONNECTIONS)

    async def one(n):
        began = time.monotonic()
        found = await pool.fetchval("SELECT count(*) + $1::bigint FROM telemetry", n)
        return found - n, time.monotonic() - began

    answers = await asyncio.gather(*(one(n) for n in range(QUERIES)))
    await pool.close()
    counts = {count for count, _ in answers}
    assert len(counts) == 1, counts
    print(f"{max(seconds for _, seconds in answers) * 1000:.0f}")

asyncio.run(main())
