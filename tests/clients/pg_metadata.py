"""pg_metadata.py PORT: what SQLAlchemy reads of tables through the PostgreSQL wire, and what BI tools ask at their start."""

import sys

import psycopg
import sqlalchemy

PORT = int(sys.argv[1])


def same(found, wanted):
    assert found == wanted, f"{found!r} is not {wanted!r}"


def sqlalchemy_sees_tables():
    for driver in ("psycopg", "psycopg2"):
        engine = sqlalchemy.create_engine(f"postgresql+{driver}://ann@127.0.0.1:{PORT}/millpond")
        inspector = sqlalchemy.inspect(engine)
        assert {"public", "system"} <= set(inspector.get_schema_names())
        assert {"telemetry", "car_state"} <= set(inspector.get_table_names()), inspector.get_table_names()
        same(inspector.get_view_names(), ["moving"])
        columns = {column["name"]: column for column in inspector.get_columns("telemetry")}
        types = {name: str(columns[name]["type"]) for name in ("car_id", "n", "speed", "moving", "event_time", "day", "tags")}
        same(types, {"car_id": "TEXT", "n": "BIGINT", "speed": "DOUBLE PRECISION", "moving": "BOOLEAN", "event_time": "TIMESTAMP",
                     "day": "DATE", "tags": "ARRAY"})
        same(str(inspector.get_columns("moving")[2]["type"]), "NUMERIC(12, 2)")
        same(columns["speed"]["comment"], "km/h; NULL while parked")
        same(inspector.get_pk_constraint("car_state")["constrained_columns"], ["car_id"])
        same(inspector.get_foreign_keys("car_state"), [])
        same([index["name"] for index in inspector.get_indexes("telemetry")], [])
        same(inspector.get_check_constraints("car_state"), [])
        inspector.get_unique_constraints("car_state")
        inspector.get_table_comment("car_state")
        assert "FROM telemetry" in inspector.get_view_definition("moving")
        same((inspector.has_table("telemetry"), inspector.has_table("nope")), (True, False))
        table = sqlalchemy.Table("car_state", sqlalchemy.MetaData(), autoload_with=engine)
        with engine.connect() as connection:
            query = sqlalchemy.select(table.c.n).where(table.c.car_id == "car-03")
            same(connection.execute(query).fetchall(), [(183,)])
        engine.dispose()


def tools_ask_at_their_start():
    """One statement a paragraph; the line before it names the tool."""
    text = open(__file__.replace("pg_metadata.py", "pg_startup.sql"), encoding="utf-8").read()
    statements = [part.strip() for part in text.split("\n\n") if part.strip()]
    wrong = []
    with psycopg.connect(f"host=127.0.0.1 port={PORT} user=ann dbname=millpond", autocommit=True) as connection:
        for statement in statements:
            try:
                connection.execute(statement)
            except psycopg.Error as error:
                wrong.append(f"{statement}\n  {error}")
    assert len(statements) > 20, len(statements)
    assert not wrong, "\n\n".join(wrong)


sqlalchemy_sees_tables()
tools_ask_at_their_start()
