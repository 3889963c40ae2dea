--! kind = "view"
-- Parked cars with the headlights on: the newest word of the lights' device and of the engine's device, put together.
WITH sound AS (
  SELECT * FROM telemetry WHERE event_time <= _timestamp + INTERVAL '1 minute'
),
lights AS (
  SELECT car_id, event_time, headlight_on,
         ROW_NUMBER() OVER (PARTITION BY car_id ORDER BY event_time DESC, _offset DESC) AS newest
  FROM   sound
  WHERE  headlight_on IS NOT NULL
),
engine AS (
  SELECT car_id, engine_on, battery_v,
         ROW_NUMBER() OVER (PARTITION BY car_id ORDER BY event_time DESC, _offset DESC) AS newest
  FROM   sound
  WHERE  engine_on IS NOT NULL
)
SELECT l.car_id, l.event_time, e.battery_v
FROM   lights l
JOIN   engine e ON e.car_id = l.car_id AND e.newest = 1
WHERE  l.newest = 1 AND l.headlight_on AND NOT e.engine_on
