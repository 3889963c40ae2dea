"""ledger_test.py FOLDER_URL: writes Delta tables with known faults and checks what ledger.py says of them."""

import json
import os
import subprocess
import sys
import tempfile

import deltalake
import pyarrow

import lake

LEDGER = """topic,partition,offset,key,hash
a,0,0,k0,h0
a,0,1,k1,h1
a,1,0,"k,2",h2
a,1,7,k3,h3
"""
# topic, partition, offset, row, key, hash: the last record has two rows.
EXACT = [("a", 0, 0, 0, "k0", "h0"), ("a", 0, 1, 0, "k1", "h1"), ("a", 1, 0, 0, "k,2", "h2"),
         ("a", 1, 7, 0, "k3", "h3"), ("a", 1, 7, 1, "k3", "h3")]
CASES = {
    "exact": (EXACT, {}),
    "lost": (EXACT[1:], {"lost": 1}),
    "doubled": (EXACT + [EXACT[0], EXACT[0], EXACT[4]], {"doubled": 3}),
    "extra": (EXACT + [("a", 0, 2, 0, "k9", "h9"), ("b", 0, 0, 0, "k0", "h0")], {"extra": 2}),
    "changed": (EXACT[:1] + [("a", 0, 1, 0, "k1", None), ("a", 1, 0, 0, "other", "h2")] + EXACT[3:], {"changed": 2}),
}


def write(url, rows):
    topics, partitions, offsets, numbers, keys, hashes = zip(*rows)
    table = pyarrow.table({
        "_topic": pyarrow.array(topics, pyarrow.string()),
        "_incarnation": pyarrow.array([0] * len(rows), pyarrow.int32()),
        "_partition": pyarrow.array(partitions, pyarrow.int32()),
        "_offset": pyarrow.array(offsets, pyarrow.int64()),
        "_row": pyarrow.array(numbers, pyarrow.int32()),
        "car_id": pyarrow.array(keys, pyarrow.string()),
        "hash": pyarrow.array(hashes, pyarrow.string()),
    })
    deltalake.write_deltalake(url, table, mode="overwrite", storage_options=lake.storage_options())


def main():
    with tempfile.TemporaryDirectory() as folder:
        ledger = os.path.join(folder, "ledger.csv")
        with open(ledger, "w") as file:
            file.write(LEDGER)
        for name, (rows, expected) in CASES.items():
            url = f"{sys.argv[1]}/{name}"
            write(url, rows)
            script = os.path.join(os.path.dirname(__file__), "ledger.py")
            run = subprocess.run(
                [sys.executable, script, ledger, url, "--key-column", "car_id", "--hash-column", "hash"],
                capture_output=True, text=True)
            assert run.returncode == (1 if expected else 0), (name, run)
            reports = json.loads(run.stdout)
            assert [report["reader"] for report in reports] == ["deltalake", "duckdb"], name
            for report in reports:
                found = {word: report[word] for word in ("lost", "doubled", "extra", "changed") if report[word]}
                assert found == expected and report["rows"] == len(rows), (name, report)


if __name__ == "__main__":
    main()
