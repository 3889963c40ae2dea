//! The production database of the car-sharing company, as AWS DMS tells its changes: the tables `carinfo` and `deviceinfo`
//! share [`DATABASE`]. They are loaded once; then a car's status changes with its trips, and a device's firmware once.

use super::car::Car;
use super::json::Json;
use super::payload::rfc3339;

/// Topic of the database's changes.
pub const DATABASE: &str = "fleet.dms";

const MODELS: [&str; 3] = ["compact", "sedan", "van"];

/// The database.
#[derive(Debug, Default)]
pub struct Database {
    /// The place of the last change in its log. It grows with time, so that a later run goes on above it.
    position: i64,
    transaction: u64,
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

    fn car(&mut self, car: &Car, operation: Operation, now_us: i64) -> Vec<u8> {
        self.change("carinfo", operation, now_us, |json| {
            json.text("car_id", &car.id);
            json.text("plate_no", &format!("{:02}가{:04}", 10 + car.number / 10_000 % 90, car.number % 10_000));
            json.text("model", MODELS[car.number % MODELS.len()]);
            json.text("status", if car.engine_on() { "RENTED" } else { "AVAILABLE" });
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
        self.position = now_us.max(self.position + 1);
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
                json.text("stream-position", &format!("mysql-bin-changelog.000001:{}", self.position));
            }
        });
        json.finish()
    }
}

fn utc(time_us: i64) -> String {
    rfc3339(time_us, 1)
}
