--! kind         = "alert"
--! key          = "car_id"
--! resolve_when = "battery_v > 12.4"
--! repeat       = "1h"
--! message      = "{plate_no}: the battery is at {battery_v} V, schedule a service"
--! to           = ["outlier", "workshop"]
-- A parked car whose battery may not start the engine again. It is over when the battery has clearly recovered, so that
-- one that hovers about 12 V is not told again and again.
SELECT car_id, plate_no, battery_v, lat, lon
FROM   car_state
WHERE  is_parked AND battery_v < 11.8
