"""delta_merge.py TABLE_PATH ROWS: copies a Delta table, then merges ROWS changed rows (every hundredth key) into the copy as
deltalake does it; prints the seconds that the merge took and the bytes it wrote."""

import os
import shutil
import sys
import tempfile
import time

import pyarrow.compute as pc
from deltalake import DeltaTable


def size(folder):
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


if __name__ == "__main__":
    path, wanted = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        copy = os.path.join(folder, "copy")
        shutil.copytree(path, copy)
        table = DeltaTable(copy)
        rows = table.to_pyarrow_table()
        step = max(1, rows.num_rows // wanted)
        changed = rows.take(list(range(0, rows.num_rows, step))[:wanted])
        at = changed.schema.get_field_index("d0")
        changed = changed.set_column(at, "d0", pc.add(changed.column("d0"), 1.0))
        del rows
        before, began = size(copy), time.monotonic()
        merge = table.merge(changed, "t.car = s.car", source_alias="s", target_alias="t")
        merge.when_matched_update_all().when_not_matched_insert_all().execute()
        print(f"{time.monotonic() - began:.2f} s, {(size(copy) - before) / 1e6:.0f} MB written")
