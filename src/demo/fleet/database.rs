//! The databases of the car-sharing company. Of the production database AWS DMS tells the changes: the tables `carinfo`
//! and `deviceinfo` share [`DATABASE`]. They are loaded once; then a car's status changes with its trips, and a device's
//! firmware once. Reservations are in another database, whose changes Debezium tells on [`RESERVATIONS`]: each trip is one.

use std::collections::HashMap;
use std::sync::Arc;

use super::car::Car;
use super::json::Json;
use super::payload::rfc3339;

/// Topic of the database's changes.
pub const DATABASE: &str = "fleet.dms";

/// Topic of the reservations.
pub const RESERVATIONS: &str = "fleet.reservation";

const MODELS: [&str; 3] = ["compact", "sedan", "van"];

/// The database.
#[derive(Debug, Default)]
pub struct Database {
    /// The place of the last change in its log. It grows with time, so that a later run goes on above it.
    position: i64,
    transaction: u64,
    /// When the car of a number was rented last.
    rented_us: HashMap<usize, i64>,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Load,
    Update,
}

impl Database {
    /// A car's rows in both tables, as the full load tells them.
    pub fn load(&mut self, car: &Car, now_us: i64) -> [Vec<u8>; 2] {
        [self.car(car, Operation::Load, now_us), self.device(car, "4.1.7", Operation::Load, now_us)]
    }

    /// The car was rented, or given back.
    pub fn status(&mut self, car: &Car, now_us: i64) -> Vec<u8> {
        self.car(car, Operation::Update, now_us)
    }

    /// The car's device has this firmware now.
    pub fn firmware(&mut self, car: &Car, firmware: &str, now_us: i64) -> Vec<u8> {
        self.device(car, firmware, Operation::Update, now_us)
    }

    /// The car's newest reservation: made when the car is rented, changed when it is given back, and read if it was there
    /// before. Key and value.
    pub fn reservation(&mut self, car: &Car, was_there: bool, now_us: i64) -> (Arc<str>, Vec<u8>) {
        let returned_us = (!car.rented()).then_some(now_us);
        let rented_us = *match returned_us {
            Some(_) => self.rented_us.entry(car.number).or_insert(now_us),
            None => self.rented_us.entry(car.number).insert_entry(now_us).into_mut(),
        };
        let op = match returned_us {
            _ if was_there => "r",
            None => "c",
            Some(_) => "u",
        };
        let id = car.number as u64 * 1_000_000 + u64::from(car.trips);
        let position = self.next_position(now_us);
        let mut json = Json::new(None);
        json.object("after", |json| {
            json.count("reservation_id", id);
            json.text("car_id", &car.id);
            json.text("customer_email", &format!("customer-{:04}@example.com", id % 7919));
            json.text("status", if returned_us.is_some() { "RETURNED" } else { "RENTED" });
            json.text("rented_at", &utc(rented_us));
            if let Some(returned_us) = returned_us {
                json.text("returned_at", &utc(returned_us));
            }
        });
        json.object("source", |json| {
            json.text("connector", "postgresql");
            json.text("name", "booking");
            json.text("table", "reservation");
            json.text("snapshot", if was_there { "true" } else { "false" });
            json.count("lsn", position.unsigned_abs());
            json.count("ts_ms", (now_us / 1000).unsigned_abs());
        });
        json.text("op", op);
        (format!("{{\"reservation_id\":{id}}}").into(), json.finish())
    }

    fn next_position(&mut self, now_us: i64) -> i64 {
        self.position = now_us.max(self.position + 1);
        self.position
    }

    fn car(&mut self, car: &Car, operation: Operation, now_us: i64) -> Vec<u8> {
        self.change("carinfo", operation, now_us, |json| {
            json.text("car_id", &car.id);
            json.text("plate_no", &format!("{:02}가{:04}", 10 + car.number / 10_000 % 90, car.number % 10_000));
            json.text("model", MODELS[car.number % MODELS.len()]);
            json.text("status", if car.rented() { "RENTED" } else { "AVAILABLE" });
            json.text("updated_at", &utc(now_us));
        })
    }

    fn device(&mut self, car: &Car, firmware: &str, operation: Operation, now_us: i64) -> Vec<u8> {
        self.change("deviceinfo", operation, now_us, |json| {
            json.text("device_id", &format!("tcu-{:05}", car.number));
            json.text("car_id", &car.id);
            json.text("firmware", firmware);
            json.text("updated_at", &utc(now_us));
        })
    }

    fn change(&mut self, table: &str, operation: Operation, now_us: i64, row: impl FnOnce(&mut Json)) -> Vec<u8> {
        let position = self.next_position(now_us);
        self.transaction += 1;
        let mut json = Json::new(None);
        json.object("data", row);
        json.object("metadata", |json| {
            json.text("timestamp", &utc(now_us));
            json.text("record-type", "data");
            json.text("operation", if operation == Operation::Load { "load" } else { "update" });
            json.text("partition-key-type", "primary-key");
            json.text("schema-name", "fleet");
            json.text("table-name", table);
            if operation == Operation::Update {
                json.count("transaction-id", self.transaction);
                json.count("transaction-record-id", 1);
                json.text("commit-timestamp", &utc(now_us));
                json.text("stream-position", &format!("mysql-bin-changelog.000001:{position}"));
            }
        });
        json.finish()
    }
}

fn utc(time_us: i64) -> String {
    rfc3339(time_us, 1)
}
