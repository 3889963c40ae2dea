--! kind     = "alert"
--! key      = "car_id"
--! for      = "10s"
--! severity = "critical"
--! message  = "{plate_no} drives at {speed_kmh} km/h, and nobody has rented it"
--! to       = ["outlier"]
-- Speed and engine come from different devices: the late word of one of them alone says nothing.
SELECT car_id, plate_no, speed_kmh, lat, lon
FROM   car_state
WHERE  engine_on AND speed_kmh > 5 AND reservation_status <> 'RENTED'
