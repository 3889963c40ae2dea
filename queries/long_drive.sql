--! kind    = "alert"
--! key     = "car_id"
--! once    = true
--! message = "{car_id} was driven for {hours} hours without a break"
--! to      = "outlier"
-- A drive ends when the car has stood for ten minutes.
SELECT car_id, drive, round(date_part('epoch', last - drive) / 3600, 1) AS hours
FROM   (SELECT car_id, session(event_time, INTERVAL '10 minutes') AS drive, max(event_time) AS last
        FROM   telemetry
        WHERE  speed_kmh > 0
        GROUP  BY car_id, session(event_time, INTERVAL '10 minutes'))
WHERE  last - drive > INTERVAL '2 hours'
