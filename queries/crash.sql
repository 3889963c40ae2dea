--! kind     = "alert"
--! key      = "car_id"
--! once     = true
--! severity = "critical"
--! cooldown = "1m"
--! message  = "{car_id}: an airbag went off"
--! to       = "outlier"
SELECT car_id, event_time, device_id
FROM   telemetry
WHERE  airbag_deployed
