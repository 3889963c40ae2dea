//! What the devices write: COVESA VSS names, sparse, one branch of the tree per device.

use chrono::{DateTime, Datelike, FixedOffset, Timelike};

use super::car::{Car, TripEvent};
use super::json::Json;

/// Korean time's distance from UTC.
const SEOUL_AHEAD_US: i64 = 9 * 3_600_000_000;

/// The devices in a car. Each reports its own branch of the vehicle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Engine, fuel, gearbox, low-voltage battery.
    Powertrain,
    /// Satellite position and speed.
    Position,
    /// Doors, lights, trunk.
    Body,
    /// Pressure and temperature of the tyres.
    Tyres,
}

impl Device {
    fn prefix(self) -> &'static str {
        match self {
            Device::Powertrain => "pt",
            Device::Position => "gn",
            Device::Body => "bd",
            Device::Tyres => "ty",
        }
    }
}

/// What a telemetry message says besides the car's state.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    pub device: Device,
    /// Counts the device's reports from 0; a gap is a lost one.
    pub seq: u64,
    /// What the device's clock says, in microseconds since 1970.
    pub time_us: i64,
    /// Which measured number is `"<invalid>"`.
    pub invalid: Option<usize>,
    /// It has the new firmware: an attribute nobody has seen before, and tyre pressures with a fraction.
    pub new_firmware: bool,
}

/// A telemetry message as JSON.
pub fn telemetry(car: &Car, report: Report) -> Vec<u8> {
    let mut json = Json::new(report.invalid);
    let prefix = report.device.prefix();
    json.text("carId", &car.id);
    json.text("deviceId", &format!("{prefix}-{:05}", car.number));
    let time = if report.device == Device::Tyres && car.number % 50 == 7 {
        rfc3339(report.time_us, car.number)
    } else {
        java_date(report.time_us, car.number % 4 == 1)
    };
    json.text("messageTime", &time);
    json.count("seq", report.seq);
    json.text("vin", &format!("KMHTL41MDPU{:06}", car.number));
    json.text("model", ["compact", "sedan", "van"][car.number % 3]);
    json.text("firmware", if report.new_firmware { "4.2.0" } else { "4.1.7" });
    json.object("Vehicle", |json| match report.device {
        Device::Powertrain => powertrain(json, car, report.seq),
        Device::Position => position(json, car, report.new_firmware),
        Device::Body => body(json, car, report.seq),
        Device::Tyres => tyres(json, car, report.new_firmware),
    });
    json.finish()
}

fn powertrain(json: &mut Json, car: &Car, seq: u64) {
    let on = car.engine_on();
    json.text("LowVoltageSystemState", if on { "ON" } else { "OFF" });
    json.flag("IsMoving", car.speed_kmh > 0.5);
    json.object("LowVoltageBattery", |json| {
        json.real("CurrentVoltage", car.battery_v, 2);
        json.real("CurrentCurrent", if on { 4.5 } else { -0.4 - 8.0 * f64::from(u8::from(car.low_beam)) }, 1);
        json.whole("NominalVoltage", 12);
        json.whole("NominalCapacity", 60);
    });
    json.object("Powertrain", |json| {
        json.object("CombustionEngine", |json| {
            json.flag("IsRunning", on);
            json.real("Speed", car.engine_rpm(), 1);
            json.real("Torque", if on { 40.0 + car.speed_kmh } else { 0.0 }, 1);
            json.real("TPS", if on { 8.0 + car.speed_kmh / 2.0 } else { 0.0 }, 1);
            json.real("MAF", car.engine_rpm() / 160.0, 2);
            json.object("EngineCoolant", |json| {
                json.real("Temperature", car.coolant_c, 1);
                json.text("Level", "NORMAL");
            });
            json.object("EngineOil", |json| {
                json.real("Temperature", car.coolant_c * 1.08, 1);
                json.real("Pressure", if on { 310.5 } else { 0.0 }, 1);
                json.flag("IsLevelLow", false);
            });
        });
        // Slow values come with every second report only.
        if seq.is_multiple_of(2) {
            json.object("FuelSystem", |json| {
                json.real("RelativeLevel", car.fuel_percent, 1);
                json.real("Range", car.fuel_percent * 5.6, 1);
                json.real("AverageConsumption", 7.9, 1);
                json.flag("IsFuelLevelLow", car.fuel_percent < 15.0);
            });
            json.object("Transmission", |json| {
                json.whole("CurrentGear", car.gear());
                json.whole("SelectedGear", if on { 126 } else { 0 });
                json.real("TravelledDistance", car.odometer_km, 2);
                json.flag("IsParkLockEngaged", !on);
            });
        }
    });
}

fn position(json: &mut Json, car: &Car, new_firmware: bool) {
    json.real("Speed", car.speed_kmh, 1);
    json.real("TraveledDistance", car.odometer_km, 2);
    json.object("CurrentLocation", |json| {
        json.real("Latitude", car.lat, 6);
        json.real("Longitude", car.lon, 6);
        json.real("Altitude", 38.0 + (car.lat - 37.0) * 20.0, 1);
        json.real("Heading", car.heading_degrees(), 1);
        json.real("HorizontalAccuracy", 2.4, 1);
        json.real("VerticalAccuracy", 4.1, 1);
        json.object("GNSSReceiver", |json| {
            json.text("FixType", "THREE_D");
            json.whole("SatelliteCount", 11);
            json.object("MountingPosition", |json| {
                json.whole("X", 1250);
                json.whole("Y", 0);
                json.whole("Z", 940);
            });
        });
    });
    json.object("Acceleration", |json| {
        json.real("Longitudinal", car.speed_kmh / 120.0, 3);
        json.real("Lateral", 0.012, 3);
        json.real("Vertical", 9.807, 3);
    });
    json.object("AngularVelocity", |json| {
        json.real("Roll", 0.02, 2);
        json.real("Pitch", -0.01, 2);
        json.real("Yaw", 0.11, 2);
    });
    if new_firmware {
        json.object("Exterior", |json| json.real("AirTemperature", 21.5 + (car.lat - 37.5) * 10.0, 1));
    }
}

fn body(json: &mut Json, car: &Car, seq: u64) {
    json.object("Cabin", |json| {
        json.object("Door", |json| {
            for (row, doors) in [("Row1", [car.driver_door_open, car.passenger_door_open]), ("Row2", [false; 2])] {
                json.object(row, |json| {
                    for (side, open) in [("DriverSide", doors[0]), ("PassengerSide", doors[1])] {
                        json.object(side, |json| {
                            json.flag("IsOpen", open);
                            json.flag("IsLocked", car.locked());
                            json.object("Window", |json| json.whole("Position", 0));
                        });
                    }
                });
            }
        });
    });
    json.object("Body", |json| {
        json.object("Lights", |json| {
            json.object("Beam", |json| {
                json.object("Low", |json| {
                    json.flag("IsOn", car.low_beam);
                    json.flag("IsDefect", false);
                });
                json.object("High", |json| json.flag("IsOn", false));
            });
            json.object("Hazard", |json| json.flag("IsSignaling", false));
            json.object("DirectionIndicator", |json| {
                json.object("Left", |json| json.flag("IsSignaling", false));
                json.object("Right", |json| json.flag("IsSignaling", false));
            });
        });
        // The slow half comes with every third report only.
        if seq.is_multiple_of(3) {
            json.object("Trunk", |json| {
                json.object("Rear", |json| {
                    json.flag("IsOpen", car.trunk_open);
                    json.flag("IsLocked", car.locked());
                });
            });
            json.object("Hood", |json| json.flag("IsOpen", false));
            json.object("Raindetection", |json| json.whole("Intensity", 0));
        }
    });
    if car.crashed() {
        json.object("Occupant", |json| {
            json.object("Row1", |json| {
                json.object("DriverSide", |json| json.object("Airbag", |json| json.flag("IsDeployed", true)));
            });
        });
    }
}

fn tyres(json: &mut Json, car: &Car, new_firmware: bool) {
    json.object("Chassis", |json| {
        json.object("Axle", |json| {
            for (row, first) in [("Row1", 0), ("Row2", 2)] {
                json.object(row, |json| {
                    json.object("Wheel", |json| {
                        for (side, tyre) in [("Left", first), ("Right", first + 1)] {
                            let kpa = car.tyre_kpa[tyre];
                            json.object(side, |json| {
                                json.object("Tire", |json| {
                                    if new_firmware {
                                        json.real("Pressure", kpa, 1);
                                    } else {
                                        json.whole("Pressure", kpa as i64);
                                    }
                                    json.flag("IsPressureLow", kpa < 200.0);
                                    json.real("Temperature", 17.0 + car.speed_kmh / 5.0, 1);
                                });
                            });
                        }
                    });
                });
            }
        });
    });
}

/// A trip event as JSON; the car's id is the message key only.
pub fn trip(car: &Car, event: TripEvent, time_us: i64) -> Vec<u8> {
    let mut json = Json::new(None);
    json.text("event", if event == TripEvent::Start { "trip_start" } else { "trip_end" });
    json.text("tripId", &format!("{}-{}", car.id, car.trips));
    json.text("time", &rfc3339(time_us, car.number));
    json.real("lat", car.lat, 6);
    json.real("lon", car.lon, 6);
    if let TripEvent::End { distance_km, duration_s, max_speed_kmh } = event {
        json.object("summary", |json| {
            json.real("distanceKm", distance_km, 3);
            json.real("durationS", duration_s, 1);
            json.real("maxSpeedKmh", max_speed_kmh, 1);
        });
    }
    json.object("Vehicle", |json| {
        json.real("TraveledDistance", car.odometer_km, 2);
        json.object("Powertrain", |json| {
            json.object("FuelSystem", |json| json.real("RelativeLevel", car.fuel_percent, 1));
            json.object("CombustionEngine", |json| {
                json.object("EngineCoolant", |json| json.real("Temperature", car.coolant_c, 1));
            });
        });
    });
    json.finish()
}

/// `EEE MMM dd HH:mm:ss z yyyy`: what Java's `Date.toString()` writes, in UTC or in Korean time.
pub fn java_date(time_us: i64, korean: bool) -> String {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let ahead_us = if korean { SEOUL_AHEAD_US } else { 0 };
    let time = DateTime::from_timestamp_micros(time_us + ahead_us).unwrap_or_default();
    let mut text = String::with_capacity(28);
    text.push_str(DAYS[time.weekday().num_days_from_monday() as usize % 7]);
    text.push(' ');
    text.push_str(MONTHS[time.month0() as usize % 12]);
    text.push(' ');
    let zone = if korean { " KST " } else { " UTC " };
    for (value, end) in [(time.day(), " "), (time.hour(), ":"), (time.minute(), ":"), (time.second(), zone)] {
        two_digits(&mut text, value);
        text.push_str(end);
    }
    text.push_str(itoa::Buffer::new().format(time.year()));
    text
}

/// RFC 3339 as three makes of firmware write it: Korean time with and without milliseconds, and UTC.
pub fn rfc3339(time_us: i64, car: usize) -> String {
    let utc = DateTime::from_timestamp_micros(time_us).unwrap_or_default();
    let Some(seoul) = FixedOffset::east_opt(9 * 3600) else { return utc.to_rfc3339() };
    match car % 3 {
        0 => utc.with_timezone(&seoul).format("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string(),
        1 => utc.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        _ => utc.with_timezone(&seoul).format("%Y-%m-%dT%H:%M:%S%:z").to_string(),
    }
}

fn two_digits(text: &mut String, value: u32) {
    let digit = |value: u32| char::from_digit(value % 10, 10).unwrap_or('0');
    text.push(digit(value / 10));
    text.push(digit(value));
}
