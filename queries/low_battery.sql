--! kind = "view"
-- Parked cars whose battery may not start the engine again: below 12 V at the newest reading.
WITH newest AS (
  SELECT car_id, event_time, battery_v, engine_on,
         ROW_NUMBER() OVER (PARTITION BY car_id ORDER BY event_time DESC, _offset DESC) AS n
  FROM   telemetry
  WHERE  battery_v IS NOT NULL AND event_time <= _timestamp + INTERVAL '1 minute'
)
SELECT car_id, event_time, battery_v
FROM   newest
WHERE  n = 1 AND NOT engine_on AND battery_v < 12.0
