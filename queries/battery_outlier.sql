--! kind     = "alert"
--! key      = "car_id"
--! every    = "1m"
--! for      = "2m"
--! severity = "info"
--! message  = "{plate_no}: {battery_v} V while parked, {sigmas} standard deviations below the fleet"
--! to       = "workshop"
-- A car whose battery stands out among those of all parked cars, which no row alone can tell: looked at every minute.
SELECT car_id, plate_no, battery_v, round((mean - battery_v) / deviation, 1) AS sigmas
FROM   (SELECT car_id, plate_no, battery_v, avg(battery_v) OVER () AS mean, stddev(battery_v) OVER () AS deviation
        FROM   car_state
        WHERE  is_parked)
WHERE  battery_v < mean - 3 * deviation
