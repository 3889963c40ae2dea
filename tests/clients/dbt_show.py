"""dbt_show.py PORT: `dbt debug` connects and `dbt show --inline` prints rows, in a project that has nothing else."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

PROFILE = """millpond:
  target: dev
  outputs:
    dev: {{type: postgres, host: 127.0.0.1, port: {port}, user: ann, password: none, dbname: millpond, schema: public, threads: 1}}
"""

with tempfile.TemporaryDirectory() as folder:
    project = pathlib.Path(folder)
    (project / "profiles.yml").write_text(PROFILE.format(port=int(sys.argv[1])), encoding="utf-8")
    (project / "dbt_project.yml").write_text("name: fleet\nprofile: millpond\n", encoding="utf-8")

    def dbt(*arguments):
        env = os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_PROFILES_DIR": folder, "HOME": folder}
        command = [str(pathlib.Path(sys.executable).with_name("dbt")), "--no-use-colors", "--no-version-check", "--no-partial-parse", *arguments]
        done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    assert "Connection test: [OK connection ok]" in dbt("debug", "--connection")
    # It asks pg_rewrite and pg_depend for what views read.
    shown = dbt("--quiet", "show", "--output", "json", "--inline", "select car_id, n, speed from telemetry where n in (6, 7) order by n")
    rows = json.loads(shown)["show"]
    wanted = [{"car_id": "car-06", "n": 6, "speed": 6.5}, {"car_id": "car-07", "n": 7, "speed": None}]
    assert rows == wanted, rows
