--! kind         = "table"
--! every        = "5m"
--! partition_by = "day"
-- What each device said, with the car and the rental as they were at that moment: one part a day, made anew when rows of
-- that day came. Here every five minutes, so that there is something to see; a dashboard of the morning would say
-- schedule = "0 2 * * *".
WITH car AS (
  SELECT car_id, plate_no, model, event_time AS since,
         lead(event_time) OVER (PARTITION BY car_id ORDER BY event_time, _offset) AS until
  FROM   carinfo__changes
),
rental AS (
  SELECT *
  FROM   (SELECT car_id, reservation_id, customer_email, status, _op, event_time AS since,
                 lead(event_time) OVER (PARTITION BY car_id ORDER BY event_time, _offset) AS until
          FROM   reservation__changes)
  WHERE  status = 'RENTED' AND _op <> 'd'
)
SELECT t._day AS day, t.event_time, t.car_id, t.device_id, t.lat, t.lon, t.speed_kmh, t.odometer_km, t.engine_on,
       t.battery_v, t.fuel_percent, c.plate_no, c.model AS car_model, r.reservation_id, r.customer_email
FROM   telemetry t
LEFT JOIN car c    ON c.car_id = t.car_id AND c.since <= t.event_time AND (c.until IS NULL OR t.event_time < c.until)
LEFT JOIN rental r ON r.car_id = t.car_id AND r.since <= t.event_time AND (r.until IS NULL OR t.event_time < r.until)
