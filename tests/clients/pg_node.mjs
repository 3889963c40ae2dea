// pg_node.mjs PORT: what node-postgres reads through the PostgreSQL wire.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.MILLPOND_NODE}/package.json`);
const pg = require("pg");

const pool = new pg.Pool({ host: "127.0.0.1", port: Number(process.argv[2]), user: "ann", database: "millpond", max: 4 });
const ask = async (text, values) => (await pool.query(text, values)).rows;

const [first] = await ask("SELECT car_id, n, speed, moving, event_time, price::decimal(12,2) AS price, tags FROM telemetry WHERE n = $1", [0]);
assert.deepEqual(first, {
  car_id: "car-00", n: "0", speed: 0.5, moving: true, event_time: new Date("2026-11-20T23:00:00.250Z"), price: "0.10",
  tags: ["a", "b,c", null],
});
assert.deepEqual(await ask("SELECT speed FROM telemetry WHERE n = 7"), [{ speed: null }]);
assert.deepEqual(await ask({ name: "cars", text: "SELECT count(*) FROM telemetry WHERE car_id = ANY($1)" }, [["car-01", "car-02"]]), [{ count: "20" }]);
assert.deepEqual(await ask({ name: "cars", text: "SELECT count(*) FROM telemetry WHERE car_id = ANY($1)" }, [["car-03"]]), [{ count: "10" }]);
const several = await Promise.all(Array.from({ length: 40 }, (_, n) => ask("SELECT $1::int + 1 AS next", [n])));
assert.deepEqual(several.map(([row]) => Number(row.next)), Array.from({ length: 40 }, (_, n) => n + 1));
await assert.rejects(ask("SELECT * FROM nope"), { code: "42P01" });
await assert.rejects(ask("DROP TABLE telemetry"), { code: "42501" });
const client = await pool.connect();
await client.query("BEGIN");
await assert.rejects(client.query("SELECT 1/0"), { code: "22012" });
await assert.rejects(client.query("SELECT 1"), { code: "25P02" });
await client.query("ROLLBACK");
assert.deepEqual((await client.query("SELECT 1 AS one")).rows, [{ one: "1" }]);
client.release();
await pool.end();
