--! kind = "view"
-- Where every car is, and how it stands: one row per car.
-- Devices are sparse, so each answer is the newest row of the device that knows it. Rows whose device clock is more
-- than a minute ahead of the broker's are left out: a wrong clock would be the newest for ever.
WITH sound AS (
  SELECT * FROM telemetry WHERE event_time <= _timestamp + INTERVAL '1 minute'
),
located AS (
  SELECT car_id, event_time, lat, lon, speed_kmh, odometer_km,
         ROW_NUMBER() OVER (PARTITION BY car_id ORDER BY event_time DESC, _offset DESC) AS newest
  FROM   sound
  WHERE  lat IS NOT NULL AND lon IS NOT NULL
),
powertrain AS (
  SELECT car_id, engine_on, battery_v,
         ROW_NUMBER() OVER (PARTITION BY car_id ORDER BY event_time DESC, _offset DESC) AS newest
  FROM   sound
  WHERE  engine_on IS NOT NULL AND battery_v IS NOT NULL
)
SELECT p.car_id, p.event_time, p.lat, p.lon, p.speed_kmh, p.odometer_km, e.engine_on, e.battery_v
FROM   located p
LEFT JOIN powertrain e ON e.car_id = p.car_id AND e.newest = 1
WHERE  p.newest = 1
