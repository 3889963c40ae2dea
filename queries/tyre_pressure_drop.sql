--! kind    = "alert"
--! key     = "car_id"
--! message = "{car_id}: the front left tyre lost {lost_kpa} kPa within a minute"
--! to      = ["outlier", "workshop"]
-- A tyre that cools down loses pressure slowly; this one loses it from one minute to the next. Over when a minute says
-- that it does not fall any more.
SELECT car_id, minute, kpa, before - kpa AS lost_kpa
FROM   (SELECT car_id, minute, kpa, lag(kpa) OVER (PARTITION BY car_id ORDER BY minute) AS before
        FROM   (SELECT car_id, tumble(event_time, INTERVAL '1 minute') AS minute, round(avg(tyre_fl_kpa)) AS kpa
                FROM   telemetry
                WHERE  tyre_fl_kpa IS NOT NULL
                GROUP  BY car_id, tumble(event_time, INTERVAL '1 minute')))
WHERE  before - kpa > 15
