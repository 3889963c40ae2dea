"""Puts the files of a Delta table together and deletes the ones before. Arguments: url."""

import sys

from deltalake import DeltaTable

table = DeltaTable(sys.argv[1])
done = table.optimize.compact()
deleted = table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
print(done["numFilesRemoved"], len(deleted))
