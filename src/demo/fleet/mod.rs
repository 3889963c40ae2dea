//! A car-sharing fleet that sends messages: seeded, without a clock of its own, as faulty as a real one.
//!
//! Every car has four devices that share [`TELEMETRY`]; trip starts and ends go to [`TRIPS`]. Of ten reports of a
//! car four come from the powertrain, three from the satellite receiver, two from the body and one from the tyres.
//! A device's reports come in batches of ten, and a batch shares its fate. Everything is keyed by car id.
//! If asked to, the company's databases tell their changes: on [`DATABASE`] in the form of AWS DMS, on [`RESERVATIONS`]
//! in that of Debezium.
//!
//! | fault (default rate) | what happens |
//! |---|---|
//! | missing (1 % of batches) | never sent: a gap in `seq` |
//! | late (5 % of batches) | sent as a whole 2–20 s after its last report; sooner if over 4,096 messages wait |
//! | clock error (0.2 % of batches) | the device's time is in 1970, nine hours ahead, or a year behind |
//! | invalid (0.5 % of messages) | one measured number is `"<invalid>"` |
//! | undecodable (0.05 % of messages) | the JSON is cut off |
//! | resent (0.5 % of messages, trips too) | the same bytes again within 3 s |
//! | new firmware | after `new_firmware_after` messages `Vehicle.Exterior.AirTemperature` appears, and tyre pressures, whole numbers so far, have a fraction |
//!
//! Times: telemetry is written as `EEE MMM dd HH:mm:ss z yyyy`, by a quarter of the cars in KST, else in UTC; but one
//! tyre device in fifty writes RFC 3339. Trips are RFC 3339 in three spellings. Message timestamps are the time of sending.

mod car;
mod database;
mod dice;
mod json;
mod payload;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use car::Car;
use database::Database;
pub use database::{DATABASE, RESERVATIONS};
use dice::Dice;
use payload::{Device, Report};

/// Topic of all devices' reports.
pub const TELEMETRY: &str = "fleet.telemetry";
/// Topic of trip starts and ends.
pub const TRIPS: &str = "fleet.trips";

/// Reports of a device that share a fate.
const BATCH: u8 = 10;
/// Late and resent messages kept at most: about 3 MB.
const HELD_MESSAGES: usize = 4096;
const SECOND_US: f64 = 1e6;
const HOUR_US: i64 = 3_600_000_000;

/// Which device reports in a car's n-th turn.
const TURNS: [Device; 10] = {
    use Device::{Body, Position, Powertrain, Tyres};
    [Powertrain, Position, Body, Powertrain, Position, Powertrain, Tyres, Position, Powertrain, Body]
};

/// Shape and behaviour of a fleet.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// The same seed, asked at the same times, gives the same bytes.
    pub seed: u64,
    /// Number of cars, at least one.
    pub cars: usize,
    /// Messages after which the devices have the new firmware.
    pub new_firmware_after: u64,
    /// How often things go wrong.
    pub faults: Faults,
    /// The company's databases tell their changes, too.
    pub database: bool,
}

impl Default for FleetOptions {
    fn default() -> Self {
        Self { seed: 1, cars: 200, new_firmware_after: 20_000, faults: Faults::default(), database: false }
    }
}

/// Probabilities of faults, each between 0 and 0.5 (larger ones count as 0.5).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// A batch is never sent.
    pub missing: f64,
    /// A batch is sent late.
    pub late: f64,
    /// A batch carries a wrong clock.
    pub clock_error: f64,
    /// A message holds an invalid number.
    pub invalid: f64,
    /// A message is cut off.
    pub undecodable: f64,
    /// A message is sent twice.
    pub resent: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { missing: 0.01, late: 0.05, clock_error: 0.002, invalid: 0.005, undecodable: 0.0005, resent: 0.005 }
    }
}

impl Faults {
    /// A fleet where nothing goes wrong.
    pub const NONE: Faults =
        Faults { missing: 0.0, late: 0.0, clock_error: 0.0, invalid: 0.0, undecodable: 0.0, resent: 0.0 };
}

/// A message ready to be produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// [`TELEMETRY`], [`TRIPS`], [`DATABASE`] or [`RESERVATIONS`].
    pub topic: &'static str,
    /// The car's id, or the key of a reservation.
    pub key: Arc<str>,
    /// JSON, or the beginning of it.
    pub payload: Vec<u8>,
    /// When it is sent, in milliseconds since 1970.
    pub timestamp_ms: i64,
}

/// The fleet. Ask it for messages with [`Fleet::next_message`].
#[derive(Debug)]
pub struct Fleet {
    options: FleetOptions,
    dice: Dice,
    cars: Vec<Car>,
    /// `None` before it has told what it holds, if it does.
    database: Option<Database>,
    lines: Vec<[Line; 4]>,
    turn: usize,
    sent: u64,
    waiting: BinaryHeap<Reverse<Waiting>>,
    waited: u64,
}

/// One device's connection.
#[derive(Debug, Clone, Default)]
struct Line {
    seq: u64,
    left_in_batch: u8,
    fate: Fate,
    clock_error_us: i64,
    held: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    #[default]
    OnTime,
    Late,
    Missing,
}

/// A message that is sent later; ordered by time, then by the order of waiting.
#[derive(Debug, PartialEq, Eq)]
struct Waiting {
    at_us: i64,
    number: u64,
    topic: &'static str,
    key: Arc<str>,
    payload: Vec<u8>,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Fleet {
    /// A fleet whose cars are in the middle of their day.
    pub fn new(mut options: FleetOptions) -> Self {
        options.cars = options.cars.max(1);
        let f = &mut options.faults;
        for rate in [&mut f.missing, &mut f.late, &mut f.clock_error, &mut f.invalid, &mut f.undecodable, &mut f.resent]
        {
            *rate = rate.clamp(0.0, 0.5);
        }
        let mut dice = Dice::new(options.seed);
        let cars: Vec<_> = (0..options.cars).map(|number| Car::new(number, &mut dice)).collect();
        let lines = vec![Default::default(); cars.len()];
        Self { options, dice, cars, database: None, lines, turn: 0, sent: 0, waiting: BinaryHeap::new(), waited: 0 }
    }

    /// The message sent at `now_us` (microseconds since 1970). `now_us` must not fall from call to call.
    pub fn next_message(&mut self, now_us: i64) -> Message {
        if self.options.database && self.database.is_none() {
            self.load_database(now_us);
        }
        loop {
            if let Some(message) = self.overdue(now_us).or_else(|| self.report(now_us)) {
                self.sent += 1;
                if self.sent == self.options.new_firmware_after {
                    self.update_firmware(now_us);
                }
                return message;
            }
        }
    }

    /// The database tells what it holds.
    fn load_database(&mut self, now_us: i64) {
        let mut database = Database::default();
        let rows: Vec<_> =
            self.cars.iter().flat_map(|car| database.load(car, now_us).map(|row| (car.id.clone(), row))).collect();
        let rented = self.cars.iter().filter(|car| car.engine_on());
        let reservations: Vec<_> = rented.map(|car| database.reservation(car, true, now_us)).collect();
        rows.into_iter().for_each(|(key, row)| self.wait(now_us, DATABASE, key, row));
        reservations.into_iter().for_each(|(key, row)| self.wait(now_us, RESERVATIONS, key, row));
        self.database = Some(database);
    }

    /// The database is told that the devices have the new firmware.
    fn update_firmware(&mut self, now_us: i64) {
        let Some(mut database) = self.database.take() else { return };
        let rows: Vec<_> =
            self.cars.iter().map(|car| (car.id.clone(), database.firmware(car, "4.2.0", now_us))).collect();
        rows.into_iter().for_each(|(key, row)| self.wait(now_us, DATABASE, key, row));
        self.database = Some(database);
    }

    /// A message that waited long enough, or that must make room.
    fn overdue(&mut self, now_us: i64) -> Option<Message> {
        let Reverse(first) = self.waiting.peek()?;
        if first.at_us > now_us && self.waiting.len() <= HELD_MESSAGES {
            return None;
        }
        let Reverse(Waiting { topic, key, payload, .. }) = self.waiting.pop()?;
        Some(Message { topic, key, payload, timestamp_ms: now_us / 1000 })
    }

    /// The next turn's report, unless it is held back or lost.
    fn report(&mut self, now_us: i64) -> Option<Message> {
        let faults = self.options.faults;
        let index = self.turn % self.cars.len();
        let round = self.turn / self.cars.len();
        self.turn += 1;
        let car = &mut self.cars[index];
        let key = car.id.clone();
        if let Some(event) = car.advance(now_us, &mut self.dice) {
            let payload = payload::trip(car, event, now_us);
            let told = self
                .database
                .as_mut()
                .filter(|_| !car.stolen())
                .map(|database| (database.status(car, now_us), database.reservation(car, false, now_us)));
            if self.dice.chance(faults.resent) {
                let at_us = now_us + self.dice.between(0.0, 3.0 * SECOND_US) as i64;
                self.wait(at_us, TRIPS, key.clone(), payload.clone());
            }
            self.wait(now_us, TRIPS, key.clone(), payload);
            if let Some((status, (reservation, row))) = told {
                self.wait(now_us, DATABASE, key.clone(), status);
                self.wait(now_us, RESERVATIONS, reservation, row);
            }
        }
        // Cars take their turns at different places of the round, so that the mix of devices is even.
        let device = TURNS[(round + index) % TURNS.len()];
        let line = &mut self.lines[index][device as usize];
        if line.left_in_batch == 0 {
            line.begin_batch(&faults, now_us, &mut self.dice);
        }
        line.left_in_batch -= 1;
        let report = Report {
            device,
            seq: line.seq,
            time_us: now_us + line.clock_error_us,
            invalid: self.dice.chance(faults.invalid).then(|| self.dice.below(3)),
            new_firmware: self.sent >= self.options.new_firmware_after,
        };
        line.seq += 1;
        if line.fate == Fate::Missing {
            return None;
        }
        let mut payload = payload::telemetry(&self.cars[index], report);
        if self.dice.chance(faults.undecodable) {
            payload.truncate(1 + self.dice.below(payload.len() - 1));
        }
        if line.fate == Fate::Late {
            line.held.push(payload);
            if line.left_in_batch == 0 {
                let at_us = now_us + self.dice.between(2.0 * SECOND_US, 20.0 * SECOND_US) as i64;
                for payload in std::mem::take(&mut line.held) {
                    self.wait(at_us, TELEMETRY, key.clone(), payload);
                }
            }
            return None;
        }
        if self.dice.chance(faults.resent) {
            let at_us = now_us + self.dice.between(0.0, 3.0 * SECOND_US) as i64;
            self.wait(at_us, TELEMETRY, key.clone(), payload.clone());
        }
        Some(Message { topic: TELEMETRY, key, payload, timestamp_ms: now_us / 1000 })
    }

    fn wait(&mut self, at_us: i64, topic: &'static str, key: Arc<str>, payload: Vec<u8>) {
        self.waited += 1;
        self.waiting.push(Reverse(Waiting { at_us, number: self.waited, topic, key, payload }));
    }
}

impl Line {
    fn begin_batch(&mut self, faults: &Faults, now_us: i64, dice: &mut Dice) {
        self.left_in_batch = BATCH;
        let luck = dice.unit();
        self.fate = if luck < faults.missing {
            Fate::Missing
        } else if luck < faults.missing + faults.late {
            Fate::Late
        } else {
            Fate::OnTime
        };
        self.clock_error_us = 0;
        if dice.chance(faults.clock_error) {
            // No battery in the clock, a local time taken for UTC, a year typed wrong.
            self.clock_error_us = [60 * SECOND_US as i64 - now_us, 9 * HOUR_US, -365 * 24 * HOUR_US][dice.below(3)];
        }
    }
}
