"""freshness.py TABLE_URL SINCE_US ROWS: reads the Delta table again and again with deltalake until ROWS rows with
sent_us above SINCE_US were seen. Prints how long after sent_us (microseconds since 1970) each could be read, without
those sent before this reader was there: one JSON object with p50, p99 and max in milliseconds."""

import json
import sys
import time

import deltalake
import pyarrow.dataset

import lake

if __name__ == "__main__":
    url, since, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    table = deltalake.DeltaTable(url, storage_options=lake.storage_options())
    began, seen, ages, following = time.time() * 1e6, 0, [], {}
    while seen < rows:
        before = table.version()
        table.update_incremental()
        if table.version() == before:
            time.sleep(0.02)
            continue
        newer = pyarrow.dataset.field("_offset") >= min(following.values(), default=0)
        found = table.to_pyarrow_dataset().to_table(columns=["_partition", "_offset", "sent_us"], filter=newer)
        now = time.time() * 1e6
        # In an order of their own in each partition: a commit may bring older rows of one than were seen of another.
        positions = dict(following)
        for partition, offset, sent in zip(*(column.to_pylist() for column in found.columns)):
            if offset >= positions.get(partition, 0):
                following[partition] = max(following.get(partition, 0), offset + 1)
                seen += sent > since
                if sent > max(began, since):
                    ages.append((now - sent) / 1000)
    ages.sort()
    print(json.dumps({"rows": len(ages), "p50_ms": ages[len(ages) // 2], "p99_ms": ages[len(ages) * 99 // 100],
                      "max_ms": ages[-1]}))
