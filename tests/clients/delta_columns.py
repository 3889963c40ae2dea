"""Columns of a Delta table as deltalake sees them: one JSON object a column. Arguments: url."""

import sys

from deltalake import DeltaTable

from lake import print_rows, storage_options

table = DeltaTable(sys.argv[1], storage_options=storage_options() if "://" in sys.argv[1] else None)
print_rows(["name", "type", "path"],
           [[field.name, str(field.type), field.metadata.get("millpond.path")] for field in table.schema().fields])
