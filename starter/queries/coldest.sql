--! kind = "view"
-- The coldest reading of each sensor.
SELECT sensor, min(temperature_c) AS temperature_c, count(*) AS readings
FROM   readings
GROUP  BY sensor
ORDER  BY temperature_c
