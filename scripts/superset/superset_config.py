"""Superset for the tests: everything in one folder, on this machine only."""

import os
import pathlib

HOME = pathlib.Path(os.environ["SUPERSET_HOME"])
SECRET_KEY = (HOME / "secret").read_text(encoding="ascii").strip()
SQLALCHEMY_DATABASE_URI = f"sqlite:///{HOME}/superset.db"
# Limits of logins per minute would stop a test, and TLS belongs to a proxy before it.
RATELIMIT_ENABLED = False
TALISMAN_ENABLED = False
