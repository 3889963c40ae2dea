"""superset.py URL PORT FLIGHT_PORT CA: drives a Superset by its API over both doors; prints {"door": chart}.

The server has the accounts root (all rows) and ann (the rows of two cars, without prices), with the password `secret of
NAME`, and the readings of `reading` below in the table telemetry and the view readings.
"""

import collections
import http.cookiejar
import json
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

URL, PORT, FLIGHT_PORT, CA = sys.argv[1:]
READINGS = 200
ROWS = """SELECT car_id, n, speed, moving, event_time, day, tags, price::decimal(12,2) AS price
          FROM telemetry WHERE n IN (6, 7) ORDER BY n"""
# Minutes.
LONG = """SELECT count(*) AS n FROM telemetry a, telemetry b, telemetry c, telemetry d, telemetry e
          WHERE (a.n * b.n * c.n * d.n) % 7 = 3 AND e.n < 50"""


def uri(door, user, password=None):
    login = f"{user}:{urllib.parse.quote(password or f'secret of {user}')}"
    if door == "postgres":
        return f"postgresql+psycopg2://{login}@127.0.0.1:{PORT}/millpond?sslmode=verify-full&sslrootcert={CA}"
    return f"millpond+flightsql://{login}@127.0.0.1:{FLIGHT_PORT}/?tls=true&ca={CA}"


def reading(n):
    """Day of November 2026 and speed of the reading `n`, as it was sent."""
    return 20 + n % 4, None if n % 10 == 7 else n % 120 + 0.5


class Superset:
    """Somebody who is logged in."""

    def __init__(self):
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)
        self.headers = {"Content-Type": "application/json", "Referer": URL}
        login = {"username": "admin", "password": "admin", "provider": "db"}
        self.headers["Authorization"] = f"Bearer {self.ask('POST', 'security/login', login)['access_token']}"
        self.headers["X-CSRFToken"] = self.ask("GET", "security/csrf_token/")["result"]

    def answer(self, method, path, body=None):
        """Status and answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{URL}/api/v1/{path}", data, self.headers, method=method)
        try:
            with self.opener.open(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            text = error.read().decode()
            return error.code, json.loads(text) if text.startswith("{") else {"message": text}

    def ask(self, method, path, body=None):
        """The answer of what must succeed."""
        status, answer = self.answer(method, path, body)
        assert status < 300, f"{method} {path} {json.dumps(body)}: {status} {json.dumps(answer)[:2000]}"
        return answer


class Door:
    """A database in Superset."""

    def __init__(self, superset, door, user):
        self.superset, self.door, self.user = superset, door, user
        database = {"database_name": f"{door} of {user}", "sqlalchemy_uri": uri(door, user)}
        if (door, user) == ("flight", "ann"):
            # The authority in the form's field instead of the URI.
            with open(CA, encoding="ascii") as file:
                database["server_cert"] = file.read()
            database["sqlalchemy_uri"] = database["sqlalchemy_uri"].split("?")[0]
        assert superset.ask("POST", "database/test_connection/", database) == {"message": "OK"}
        database |= {"expose_in_sqllab": True, "cache_timeout": -1}
        self.id = superset.ask("POST", "database/", database)["id"]

    def works(self, what, status, answer):
        """A step must have succeeded."""
        assert status < 300, f"{self.door}: {what}: {status} {json.dumps(answer)[:2000]}"

    def names(self, schema):
        """Names and kinds of what a schema has."""
        tables = self.superset.ask("GET", f"database/{self.id}/tables/?q=(schema_name:{schema})")["result"]
        return {(table["value"], table["type"]) for table in tables}

    def query(self, sql, **more):
        """Status and answer of a query in SQL Lab."""
        asked = {"database_id": self.id, "schema": "public", "sql": sql, "runAsync": False, "queryLimit": 1000, **more}
        return self.superset.answer("POST", "sqllab/execute/", asked)

    def rows(self, sql):
        """Rows of a query that must succeed, and its columns."""
        status, answer = self.query(sql)
        assert status == 200, f"{self.door}: {sql}: {json.dumps(answer)[:2000]}"
        return answer["data"], answer["columns"]

    def error(self, sql):
        """What is wrong with a query."""
        status, answer = self.query(sql)
        assert status >= 300, f"{self.door}: {sql}: {json.dumps(answer)[:2000]}"
        return answer["errors"][0]["message"]

    def chart(self, dataset, grain, time_range="No filter"):
        """Status and rows of a chart: readings and mean speed, by time."""
        column = {"columnType": "BASE_AXIS", "timeGrain": grain, "sqlExpression": "event_time", "label": "at",
                  "expressionType": "SQL"}
        speed = {"label": "speed", "expressionType": "SQL", "sqlExpression": "avg(speed)"}
        query = {"columns": [column], "metrics": ["count", speed], "granularity": "event_time",
                 "time_range": time_range, "extras": {"time_grain_sqla": grain}, "row_limit": 1000}
        asked = {"datasource": {"id": dataset, "type": "table"}, "force": True, "queries": [query],
                 "result_format": "json", "result_type": "full"}
        status, answer = self.superset.answer("POST", "chart/data", asked)
        if status >= 300:
            return status, answer
        rows = answer["result"][0]["data"]
        return status, {int(row["at"]): (row["count"], row["speed"] and round(row["speed"], 9)) for row in rows}


def expected(bucket_seconds, days=range(20, 24)):
    """What such a chart must have."""
    found = collections.defaultdict(list)
    for n in range(READINGS):
        day, speed = reading(n)
        if day in days:
            # The first of November 2026, and the readings of a day begin at 23:00.
            second = 1_793_491_200 + (day - 1) * 86_400 + 23 * 3_600 + n
            found[(second - second % bucket_seconds) * 1_000].append(speed)
    means = {at: [speed for speed in speeds if speed is not None] for at, speeds in found.items()}
    return {at: (len(speeds), round(sum(means[at]) / len(means[at]), 9)) for at, speeds in found.items()}


def wrong_password(superset, door):
    status, answer = superset.answer(
        "POST", "database/test_connection/", {"database_name": "wrong", "sqlalchemy_uri": uri(door, "root", "guess")}
    )
    told = answer["errors"][0]
    assert status == 400 and "password" in told["message"] and len(told["message"]) < 80, answer
    assert told["error_type"] in ("CONNECTION_INVALID_PASSWORD_ERROR", "CONNECTION_ACCESS_DENIED_ERROR"), answer


def queries(door):
    """What SQL Lab shows."""
    rows, columns = door.rows(ROWS)
    tags = '["a", "b,c", null]'
    assert rows == [
        {"car_id": "car-06", "n": 6, "speed": 6.5, "moving": True, "event_time": "2026-11-22T23:00:06.250000+00:00",
         "day": "2026-11-20", "tags": tags, "price": 6.1},
        {"car_id": "car-07", "n": 7, "speed": None, "moving": False, "event_time": "2026-11-23T23:00:07.250000+00:00",
         "day": "2026-11-21", "tags": tags, "price": 7.1},
    ], rows
    # 0: a number, 1: a text, 2: a time, 3: a boolean.
    assert [column["type_generic"] for column in columns] == [1, 0, 0, 3, 2, 2, 1, 0], columns
    assert [column["is_dttm"] for column in columns] == [False] * 4 + [True] * 2 + [False] * 2, columns
    assert door.rows("SELECT '100%' AS a, 'x' LIKE '%x%' AS b, ':c' AS c")[0] == [{"a": "100%", "b": True, "c": ":c"}]
    assert "column `nope` does not exist" in door.error("SELECT nope FROM telemetry")
    assert "table `nope` does not exist" in door.error("SELECT * FROM nope")
    assert "division by zero" in door.error("SELECT 1 / 0")
    assert "DML" in door.error("DELETE FROM telemetry")
    if door.door == "flight":
        # Superset prints it anew, and must not change what it means.
        sql = """SELECT to_char(max(event_time), '%Y-%m') AS month, 5 ^ 3 AS other, TRY_CAST('x' AS INT) AS nothing,
                 round(2.567, 2) AS near, regexp_like('a', 'A', 'i') AS like_it FROM telemetry"""
        meant = {"month": "2026-11", "other": 6, "nothing": None, "near": 2.57, "like_it": True}
        assert door.rows(sql)[0] == [meant], door.rows(sql)
    door.works("table function", *door.query("SELECT max(v) AS v FROM generate_series(1, 3) AS t(v)"))
    door.works("other schema", *door.query("SELECT count(*) AS n FROM system.tables", schema="system"))


def stopped(door):
    """A query that would take minutes ends when it is stopped."""
    client, ended = f"{door.door[0]}{time.time_ns() % 10**9}", []
    thread = threading.Thread(target=lambda: ended.append(door.query(LONG, client_id=client)))
    thread.start()
    deadline = time.monotonic() + 20
    path = f"query/?q=(filters:!((col:database,opr:rel_o_m,value:{door.id})))"
    while not any(row["status"] == "running" for row in door.superset.ask("GET", path)["result"]):
        assert time.monotonic() < deadline and thread.is_alive(), "the query does not run"
        time.sleep(0.1)
    door.superset.ask("POST", "query/stop", {"client_id": client})
    thread.join(20)
    assert ended and ended[0][1].get("status") == "stopped", f"{door.door}: not stopped: {ended}"


def columns(door):
    """What SQL Lab tells of a table."""
    answer = door.superset.ask("GET", f"database/{door.id}/table_metadata/?name=telemetry&schema=public")
    found = {column["name"]: column for column in answer["columns"]}
    assert found["speed"]["type"].startswith("DOUBLE"), found["speed"]
    assert found["speed"]["comment"] == "km/h; NULL while parked", found["speed"]
    assert found["event_time"]["type"].startswith("TIMESTAMP"), found["event_time"]
    assert found["day"]["type"] == "DATE" and found["n"]["type"] == "BIGINT", found


def dataset(door):
    """A dataset of the readings; its number. On SQLite Superset has one dataset of a name, so one is of the view."""
    table = {"postgres": "telemetry", "flight": "readings"}[door.door]
    return door.superset.ask("POST", "dataset/", {"database": door.id, "schema": "public", "table_name": table})["id"]


def charts(door, data):
    """Charts by day and by five minutes, of all time and of three days."""
    status, found = door.chart(data, "P1D")
    assert status == 200 and found == expected(86_400), found
    three = "2026-11-21T00:00:00 : 2026-11-24T00:00:00"
    status, found = door.chart(data, "P1D", three)
    assert status == 200 and found == expected(86_400, range(21, 24)), found
    status, found = door.chart(data, "PT5M")
    assert status == 200 and found == expected(300), found
    for grain in ["PT1S", "PT1M", "PT1H", "P1W", "P1M", "P3M", "P1Y"]:
        status, found = door.chart(data, grain)
        assert status == 200 and sum(count for count, _ in found.values()) == READINGS, f"{door.door} {grain}: {found}"


def chart_to_look_at(door, data):
    """Lines of the mean and the highest speed by day; the chart's number."""
    metrics = [
        {"label": f"{name} speed", "expressionType": "SQL", "sqlExpression": f"{name}(speed)"}
        for name in ("avg", "max")
    ]
    form = {"datasource": f"{data}__table", "viz_type": "echarts_timeseries_line", "x_axis": "event_time",
            "time_grain_sqla": "P1D", "metrics": metrics, "groupby": [], "adhoc_filters": [],
            "row_limit": 1000, "x_axis_time_format": "smart_date", "markerEnabled": True, "show_legend": True}
    chart = {"slice_name": f"Speed by day ({door.door})", "viz_type": form["viz_type"], "datasource_id": data,
             "datasource_type": "table", "params": json.dumps(form)}
    return door.superset.ask("POST", "chart/", chart)["id"]


def own_rows(door):
    """An account sees what its role may see."""
    assert door.names("public") == {("telemetry", "table"), ("moving", "view")}, door.names("public")
    sql = "SELECT count(*) AS rows, min(car_id) AS first, max(car_id) AS last, count(price) AS prices FROM telemetry"
    assert door.rows(sql)[0] == [{"rows": 20, "first": "car-01", "last": "car-02", "prices": 0}]
    assert "permission denied for table car_state" in door.error("SELECT * FROM car_state")


def main():
    superset, made = Superset(), {}
    for name in ["postgres", "flight"]:
        wrong_password(superset, name)
        door = Door(superset, name, "root")
        schemas = superset.ask("GET", f"database/{door.id}/schemas/")["result"]
        assert {"public", "system"} <= set(schemas), schemas
        assert {("telemetry", "table"), ("car_state", "table"), ("moving", "view")} <= door.names("public")
        columns(door)
        queries(door)
        stopped(door)
        data = dataset(door)
        charts(door, data)
        made[name] = chart_to_look_at(door, data)
        own_rows(Door(superset, name, "ann"))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
