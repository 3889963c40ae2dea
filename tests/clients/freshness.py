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
    url, latest, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    table = deltalake.DeltaTable(url, storage_options=lake.storage_options())
    began, seen, ages = time.time() * 1e6, 0, []
    while seen < rows:
        before = table.version()
        table.update_incremental()
        if table.version() == before:
            time.sleep(0.02)
            continue
        newer = pyarrow.dataset.field("sent_us") > latest
        sent = table.to_pyarrow_dataset().to_table(columns=["sent_us"], filter=newer)["sent_us"].to_pylist()
        now = time.time() * 1e6
        ages.extend((now - at) / 1000 for at in sent if at > began)
        seen, latest = seen + len(sent), max([latest, *sent])
    ages.sort()
    print(json.dumps({"rows": len(ages), "p50_ms": ages[len(ages) // 2], "p99_ms": ages[len(ages) * 99 // 100],
                      "max_ms": ages[-1]}))
