//! One car's life: parked, boarding, driving, alighting, parked again.
//!
//! Only `+ - * /` are used, so that the same seed gives the same bytes on every machine. Two things run faster
//! than in real life, so that a short demo shows them: trips last 1 to 6 minutes, and a battery with the headlights
//! left on falls below 12 V within a minute.

use std::sync::Arc;

use super::dice::Dice;

/// Where the fleet drives: Seoul.
const CENTRE: (f64, f64) = (37.5665, 126.9780);
/// Degrees a car strays from the centre before it turns back.
const RANGE_DEGREES: f64 = 0.12;
const DIAGONAL: f64 = std::f64::consts::FRAC_1_SQRT_2;
/// North and east parts of the eight headings, clockwise from north.
const HEADINGS: [(f64, f64); 8] = [
    (1.0, 0.0),
    (DIAGONAL, DIAGONAL),
    (0.0, 1.0),
    (-DIAGONAL, DIAGONAL),
    (-1.0, 0.0),
    (-DIAGONAL, -DIAGONAL),
    (0.0, -1.0),
    (DIAGONAL, -DIAGONAL),
];
const KM_PER_DEGREE_LAT: f64 = 111.2;
const KM_PER_DEGREE_LON: f64 = 88.2;
/// Seconds at the end of a drive in which the car brakes for good.
const BRAKING_S: f64 = 8.0;

/// What a car is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Engine off, usually locked.
    Parked,
    /// A customer unlocks the car and gets in.
    Boarding,
    /// Engine running: a trip.
    Driving,
    /// The customer gets out.
    Alighting,
}

/// What a step of a car's life means to the trips topic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TripEvent {
    /// The engine was started.
    Start,
    /// The engine was stopped.
    End {
        /// Length of the trip.
        distance_km: f64,
        /// Duration of the trip.
        duration_s: f64,
        /// Highest speed of the trip.
        max_speed_kmh: f64,
    },
}

/// The state of a car.
#[derive(Debug, Clone)]
pub struct Car {
    /// `car-00042`: the message key.
    pub id: Arc<str>,
    /// 0, 1, 2 …
    pub number: usize,
    pub phase: Phase,
    phase_left_s: f64,
    seen_us: Option<i64>,
    pub lat: f64,
    pub lon: f64,
    heading: usize,
    pub speed_kmh: f64,
    target_kmh: f64,
    pub odometer_km: f64,
    pub fuel_percent: f64,
    pub coolant_c: f64,
    pub battery_v: f64,
    /// A battery near its end: it rests below 12 V.
    weak_battery: bool,
    pub low_beam: bool,
    pub driver_door_open: bool,
    pub passenger_door_open: bool,
    pub trunk_open: bool,
    /// Pressure of the tyres: front left, front right, rear left, rear right.
    pub tyre_kpa: [f64; 4],
    /// One tyre loses air.
    slow_leak: bool,
    /// How many trips the car has begun.
    pub trips: u32,
    trip_km: f64,
    trip_s: f64,
    trip_max_kmh: f64,
    with_passenger: bool,
}

impl Car {
    /// A car somewhere in the city, in the middle of something.
    pub fn new(number: usize, dice: &mut Dice) -> Self {
        let driving = dice.chance(0.5);
        let weak_battery = dice.chance(0.03);
        Self {
            id: format!("car-{number:05}").into(),
            number,
            phase: if driving { Phase::Driving } else { Phase::Parked },
            phase_left_s: dice.between(1.0, 240.0),
            seen_us: None,
            lat: CENTRE.0 + dice.between(-0.08, 0.08),
            lon: CENTRE.1 + dice.between(-0.08, 0.08),
            heading: dice.below(HEADINGS.len()),
            speed_kmh: if driving { 40.0 } else { 0.0 },
            target_kmh: 50.0,
            odometer_km: dice.between(500.0, 90_000.0),
            fuel_percent: dice.between(15.0, 100.0),
            coolant_c: if driving { 88.0 } else { 18.0 },
            battery_v: if driving { 14.2 } else { rest_v(weak_battery) },
            weak_battery,
            low_beam: dice.chance(if driving { 0.5 } else { 0.1 }),
            driver_door_open: false,
            passenger_door_open: false,
            trunk_open: false,
            tyre_kpa: [0; 4].map(|_: i32| dice.between(228.0, 248.0)),
            slow_leak: dice.chance(0.02),
            trips: u32::from(driving),
            trip_km: 0.0,
            trip_s: 0.0,
            trip_max_kmh: 0.0,
            with_passenger: false,
        }
    }

    /// The engine runs, or the motor is on.
    pub fn engine_on(&self) -> bool {
        self.phase == Phase::Driving
    }

    /// Its newest trip is of somebody who has not rented it: five cars of five hundred, every other trip.
    pub fn stolen(&self) -> bool {
        self.number % 100 == 77 && !self.trips.is_multiple_of(2)
    }

    /// Somebody drives it who has rented it.
    pub fn rented(&self) -> bool {
        self.engine_on() && !self.stolen()
    }

    /// Its trip has ended against a wall: five cars of five hundred, every third trip.
    pub fn crashed(&self) -> bool {
        self.phase == Phase::Alighting && self.number % 100 == 41 && self.trips % 3 == 1
    }

    /// All doors are locked.
    pub fn locked(&self) -> bool {
        self.phase == Phase::Parked && !self.driver_door_open
    }

    /// Heading in degrees, clockwise from north.
    pub fn heading_degrees(&self) -> f64 {
        self.heading as f64 * 45.0
    }

    /// Engine speed that goes with the car's speed.
    pub fn engine_rpm(&self) -> f64 {
        if self.engine_on() { 780.0 + self.speed_kmh * 22.0 } else { 0.0 }
    }

    /// Gear that goes with the car's speed; 0 when it stands.
    pub fn gear(&self) -> i64 {
        if self.speed_kmh < 1.0 { 0 } else { 1 + (self.speed_kmh / 22.0) as i64 }
    }

    /// Lives on until `now_us`; at most one phase ends in a step.
    pub fn advance(&mut self, now_us: i64, dice: &mut Dice) -> Option<TripEvent> {
        let before_us = self.seen_us.replace(now_us).unwrap_or(now_us);
        let seconds = ((now_us - before_us) as f64 / 1e6).clamp(0.0, 60.0);
        self.phase_left_s -= seconds;
        if self.phase == Phase::Driving {
            self.drive(seconds, dice);
        }
        self.wear(seconds);
        if matches!(self.phase, Phase::Boarding | Phase::Alighting) {
            let moving_people = self.phase_left_s > 2.0 && self.phase_left_s < 7.0;
            self.driver_door_open = moving_people;
            self.passenger_door_open = moving_people && self.with_passenger;
            self.trunk_open = moving_people && self.number.is_multiple_of(5);
        }
        if self.phase_left_s > 0.0 { None } else { self.next_phase(dice) }
    }

    fn next_phase(&mut self, dice: &mut Dice) -> Option<TripEvent> {
        match self.phase {
            Phase::Parked => {
                self.enter(Phase::Boarding, 8.0);
                self.with_passenger = dice.chance(0.4);
                if self.fuel_percent < 12.0 {
                    self.fuel_percent = 100.0;
                }
                None
            }
            Phase::Boarding => {
                self.close_doors();
                self.enter(Phase::Driving, dice.between(60.0, 360.0));
                self.low_beam = dice.chance(0.5);
                self.target_kmh = 50.0;
                self.trips += 1;
                (self.trip_km, self.trip_s, self.trip_max_kmh) = (0.0, 0.0, 0.0);
                Some(TripEvent::Start)
            }
            Phase::Driving => {
                self.enter(Phase::Alighting, 8.0);
                self.speed_kmh = 0.0;
                // One driver in eight forgets the headlights.
                self.low_beam &= dice.chance(0.125);
                Some(TripEvent::End {
                    distance_km: self.trip_km,
                    duration_s: self.trip_s,
                    max_speed_kmh: self.trip_max_kmh,
                })
            }
            Phase::Alighting => {
                self.close_doors();
                self.enter(Phase::Parked, dice.between(60.0, 360.0));
                self.driver_door_open = dice.chance(0.02);
                None
            }
        }
    }

    fn enter(&mut self, phase: Phase, seconds: f64) {
        self.phase = phase;
        self.phase_left_s = seconds;
    }

    fn close_doors(&mut self) {
        self.driver_door_open = false;
        self.passenger_door_open = false;
        self.trunk_open = false;
    }

    fn drive(&mut self, seconds: f64, dice: &mut Dice) {
        if dice.chance(seconds / 8.0) {
            self.target_kmh = [0.0, 30.0, 50.0, 50.0, 80.0][dice.below(5)];
        }
        if self.phase_left_s < BRAKING_S {
            self.target_kmh = 0.0;
        }
        let change = self.target_kmh - self.speed_kmh;
        self.speed_kmh += change.clamp(-14.0 * seconds, 9.0 * seconds);
        self.trip_max_kmh = self.trip_max_kmh.max(self.speed_kmh);
        if dice.chance(seconds / 20.0) {
            self.heading = (self.heading + if dice.chance(0.5) { 1 } else { 7 }) % HEADINGS.len();
        }
        if (self.lat - CENTRE.0).abs() > RANGE_DEGREES {
            self.heading = if self.lat > CENTRE.0 { 4 } else { 0 };
        } else if (self.lon - CENTRE.1).abs() > RANGE_DEGREES {
            self.heading = if self.lon > CENTRE.1 { 6 } else { 2 };
        }
        let km = self.speed_kmh * seconds / 3600.0;
        let (north, east) = HEADINGS[self.heading % HEADINGS.len()];
        self.lat += km * north / KM_PER_DEGREE_LAT;
        self.lon += km * east / KM_PER_DEGREE_LON;
        self.odometer_km += km;
        self.trip_km += km;
        self.trip_s += seconds;
        self.fuel_percent = (self.fuel_percent - km * 0.18).max(1.0);
    }

    fn wear(&mut self, seconds: f64) {
        let (volts, volts_tau_s) = match (self.engine_on(), self.low_beam) {
            (true, _) => (14.2, 10.0),
            (false, true) => (11.2, 40.0),
            (false, false) => (rest_v(self.weak_battery), 10.0),
        };
        approach(&mut self.battery_v, volts, seconds / volts_tau_s);
        let (coolant, coolant_tau_s) = if self.engine_on() { (90.0, 60.0) } else { (18.0, 600.0) };
        approach(&mut self.coolant_c, coolant, seconds / coolant_tau_s);
        if self.slow_leak {
            self.tyre_kpa[2] = (self.tyre_kpa[2] - 0.05 * seconds).max(120.0);
        }
    }
}

fn rest_v(weak: bool) -> f64 {
    if weak { 11.6 } else { 12.6 }
}

fn approach(value: &mut f64, target: f64, share: f64) {
    *value += (target - *value) * share.min(1.0);
}
