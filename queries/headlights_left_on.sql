--! kind     = "alert"
--! key      = ["car_id", "reservation_id"]
--! for      = "10s"
--! cooldown = "10m"
--! message  = "{plate_no}: the headlights are on"
--! to       = ["outlier", "customer"]
-- The customer gave the car back, the engine is off and the doors are closed, but the headlights are still on. Told to
-- that customer, once; over when the lights are off, or when somebody else takes the car.
SELECT s.car_id, s.plate_no, r.reservation_id, r.customer_email, r.returned_at, s.lat, s.lon, s.battery_v
FROM   car_state s
JOIN   reservation r ON r.car_id = s.car_id AND r.returned_at = s.reservation_returned_at
WHERE  s.reservation_status = 'RETURNED'
AND    NOT s.engine_on AND s.all_doors_closed AND s.headlight_on
