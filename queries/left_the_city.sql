--! kind     = "alert"
--! key      = "car_id"
--! for      = "5s"
--! message  = "{plate_no} has left {area}: it is {distance_km} km from the city hall"
--! to       = "outlier"
SELECT c.car_id, c.plate_no, a.name AS area, c.lat, c.lon,
       round(haversine_km(c.lat, c.lon, 37.5665, 126.9780), 1) AS distance_km
FROM   car_state c
JOIN   service_area a ON a.name = 'Seoul'
WHERE  NOT st_within(c.lat, c.lon, a.geometry)
