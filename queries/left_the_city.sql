--! kind     = "alert"
--! key      = "car_id"
--! for      = "5s"
--! message  = "{plate_no} is {distance_km} km from the city hall"
--! to       = "outlier"
SELECT car_id, plate_no, round(haversine_km(lat, lon, 37.5665, 126.9780), 1) AS distance_km, lat, lon
FROM   car_state
WHERE  haversine_km(lat, lon, 37.5665, 126.9780) > 13
