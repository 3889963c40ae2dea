//! The demo project's files, embedded, so that the demo runs outside a clone too.

/// Path within the project folder and text of every file of the demo project.
pub fn project_files() -> &'static [(&'static str, &'static str)] {
    &[
        ("millpond.toml", include_str!("../../millpond.toml")),
        ("schemas/telemetry.toml", include_str!("../../schemas/telemetry.toml")),
        ("schemas/trips.toml", include_str!("../../schemas/trips.toml")),
        ("schemas/carinfo.toml", include_str!("../../schemas/carinfo.toml")),
        ("schemas/deviceinfo.toml", include_str!("../../schemas/deviceinfo.toml")),
        ("schemas/reservation.toml", include_str!("../../schemas/reservation.toml")),
        ("schemas/car_state.toml", include_str!("../../schemas/car_state.toml")),
        ("schemas/service_area.toml", include_str!("../../schemas/service_area.toml")),
        ("reference/service_area.geojson", include_str!("../../reference/service_area.geojson")),
        ("queries/fleet_now.sql", include_str!("../../queries/fleet_now.sql")),
        ("queries/battery_low.sql", include_str!("../../queries/battery_low.sql")),
        ("queries/battery_outlier.sql", include_str!("../../queries/battery_outlier.sql")),
        ("queries/battery_outlier.test.toml", include_str!("../../queries/battery_outlier.test.toml")),
        ("queries/crash.sql", include_str!("../../queries/crash.sql")),
        ("queries/device_silent.sql", include_str!("../../queries/device_silent.sql")),
        ("queries/headlights_left_on.sql", include_str!("../../queries/headlights_left_on.sql")),
        ("queries/left_the_city.sql", include_str!("../../queries/left_the_city.sql")),
        ("queries/moving_without_reservation.sql", include_str!("../../queries/moving_without_reservation.sql")),
        ("queries/telemetry_enriched.sql", include_str!("../../queries/telemetry_enriched.sql")),
        ("queries/enriched_daily.sql", include_str!("../../queries/enriched_daily.sql")),
        ("queries/low_battery.sql", include_str!("../../queries/low_battery.sql")),
        ("queries/battery_low.test.toml", include_str!("../../queries/battery_low.test.toml")),
        ("queries/device_silent.test.toml", include_str!("../../queries/device_silent.test.toml")),
        ("queries/harsh_braking.sql", include_str!("../../queries/harsh_braking.sql")),
        ("queries/harsh_braking.test.toml", include_str!("../../queries/harsh_braking.test.toml")),
        ("queries/headlights_left_on.test.toml", include_str!("../../queries/headlights_left_on.test.toml")),
        ("queries/long_drive.sql", include_str!("../../queries/long_drive.sql")),
        ("queries/long_drive.test.toml", include_str!("../../queries/long_drive.test.toml")),
        ("queries/tyre_pressure_drop.sql", include_str!("../../queries/tyre_pressure_drop.sql")),
        ("queries/tyre_pressure_drop.test.toml", include_str!("../../queries/tyre_pressure_drop.test.toml")),
    ]
}
