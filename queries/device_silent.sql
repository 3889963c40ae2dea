--! kind       = "alert"
--! key        = "device_id"
--! absent_for = "10m"
--! message    = "{device_id} in {car_id} has not reported for ten minutes"
--! to         = "outlier"
-- A device that reported once and then no more. While the brokers are away nobody is called silent.
SELECT device_id, car_id
FROM   telemetry
