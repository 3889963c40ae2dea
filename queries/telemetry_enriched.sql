--! kind = "stream"
--! key  = "car_id"
--! to   = "enriched"
-- What a device said, with the car it is in and whoever drives it: appended to this table, and sent to a topic.
SELECT t.*, c.plate_no, c.model AS car_model, r.reservation_id, r.customer_email
FROM   telemetry t
LEFT JOIN carinfo c ON c.car_id = t.car_id
LEFT JOIN reservation r ON r.car_id = t.car_id AND r.status = 'RENTED'
