"""Millpond in Superset: `dbapi` (over ADBC), `dialect` (SQLAlchemy's side), `engine_spec` and `sql` (Superset's)."""
