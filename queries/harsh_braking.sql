--! kind     = "alert"
--! key      = "car_id"
--! once     = true
--! cooldown = "5m"
--! message  = "{car_id}: braked hard {brakes} times within a minute"
--! to       = "outlier"
-- Hard: 25 km/h slower than in the message before.
SELECT car_id, event_time, speed_kmh,
       count(*) OVER (PARTITION BY car_id ORDER BY event_time RANGE INTERVAL '1 minute' PRECEDING) AS brakes
FROM   (SELECT car_id, event_time, speed_kmh,
               lag(speed_kmh) OVER (PARTITION BY car_id ORDER BY event_time) AS before
        FROM   telemetry
        WHERE  speed_kmh IS NOT NULL)
WHERE  before - speed_kmh > 25
QUALIFY brakes >= 3
