//! Messages like those of devices: the same layout again and again, other values.

use std::fmt::Write;

/// Numbers without a pattern, the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }

    fn real(&mut self) -> f64 {
        self.roll(1_000_000_000) as f64 / 10_000.0
    }

    fn word(&mut self) -> String {
        (0..4 + self.roll(12)).map(|_| (b'a' + self.roll(26) as u8) as char).collect()
    }
}

/// Each kind of message with its name.
pub fn all(count: usize) -> [(&'static str, Vec<String>); 4] {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut make = |message: fn(&mut Dice, usize) -> String| (0..count).map(|at| message(&mut dice, at)).collect();
    [
        ("telemetry", make(telemetry)),
        ("four layouts", make(layouts)),
        ("strings", make(strings)),
        ("numbers", make(numbers)),
    ]
}

/// Five levels, about forty values, 1 kB.
fn telemetry(dice: &mut Dice, at: usize) -> String {
    let mut text = String::new();
    let flag = |dice: &mut Dice| dice.roll(2) == 0;
    write!(
        text,
        r#"{{"carId":"car-{:05}","deviceId":"{}","messageTime":"2024-03-01T{:02}:{:02}:{:02}.{:03}Z","sequence":{at},"#,
        dice.roll(5_000),
        dice.word(),
        dice.roll(24),
        dice.roll(60),
        dice.roll(60),
        dice.roll(1_000)
    )
    .unwrap();
    write!(
        text,
        r#""Vehicle":{{"Speed":{:.1},"TraveledDistance":{:.1},"CurrentLocation":{{"Latitude":{:.6},"Longitude":{:.6},"Altitude":{:.1},"Heading":{}}},"#,
        dice.real() / 1_000.0,
        dice.real(),
        37.0 + dice.real() / 1e6,
        127.0 + dice.real() / 1e6,
        dice.real() / 100.0,
        dice.roll(360)
    )
    .unwrap();
    write!(
        text,
        r#""Powertrain":{{"CombustionEngine":{{"IsRunning":{},"Speed":{},"ECT":{}}},"FuelSystem":{{"RelativeLevel":{},"Range":{}}},"Transmission":{{"CurrentGear":{},"Temperature":{}}}}},"#,
        flag(dice),
        dice.roll(6_000),
        dice.roll(110),
        dice.roll(100),
        dice.roll(700_000),
        dice.roll(7),
        dice.roll(90)
    )
    .unwrap();
    text.push_str(r#""Cabin":{"Door":{"#);
    for row in 1..=2 {
        for side in ["DriverSide", "PassengerSide"] {
            write!(text, r#""Row{row}{side}":{{"IsOpen":{},"IsLocked":{},"Position":{}}},"#, flag(dice), flag(dice), dice.roll(100)).unwrap();
        }
    }
    text.pop();
    write!(text, r#"}},"Temperature":{:.1}}},"Chassis":{{"Axle":{{"#, 20.0 + dice.real() / 1e5).unwrap();
    for wheel in ["FrontLeft", "FrontRight", "RearLeft", "RearRight"] {
        write!(text, r#""{wheel}":{{"Tire":{{"Pressure":{},"Temperature":{:.1}}}}},"#, 200 + dice.roll(60), dice.real() / 1e4).unwrap();
    }
    text.pop();
    write!(text, r#"}}}},"LowVoltageBattery":{{"CurrentVoltage":{:.3}}}}}}}"#, 11.0 + dice.real() / 1e5).unwrap();
    text
}

/// Devices that take turns, each with a part of the fields.
fn layouts(dice: &mut Dice, at: usize) -> String {
    let head = format!(r#"{{"carId":"car-{:05}","messageTime":"2024-03-01T00:00:00Z","#, dice.roll(5_000));
    match at % 4 {
        0 => format!(r#"{head}"gps":{{"lat":{:.6},"lon":{:.6},"fix":true,"satellites":{}}}}}"#, dice.real(), dice.real(), dice.roll(20)),
        1 => format!(r#"{head}"engine":{{"rpm":{},"load":{:.2},"temperature":{}}}}}"#, dice.roll(6_000), dice.real(), dice.roll(120)),
        2 => format!(r#"{head}"doors":{{"fl":{{"open":false}},"fr":{{"open":true}},"rl":{{"open":false}},"rr":{{"open":false}}}}}}"#),
        _ => format!(r#"{head}"battery":{{"voltage":{:.3},"current":{:.3}}},"firmware":"{}"}}"#, dice.real(), -dice.real(), dice.word()),
    }
}

fn strings(dice: &mut Dice, at: usize) -> String {
    let mut text = format!(r#"{{"id":"event-{at}""#);
    for field in 0..16 {
        let words: Vec<String> = (0..5).map(|_| dice.word()).collect();
        write!(text, r#","field_{field}":"{}""#, words.join(" ")).unwrap();
    }
    write!(text, r#","note":"a \"quoted\" word and\n a line, {}"}}"#, dice.word()).unwrap();
    text
}

fn numbers(dice: &mut Dice, at: usize) -> String {
    let mut text = format!(r#"{{"id":{at}"#);
    for field in 0..20 {
        write!(text, r#","i{field}":{},"d{field}":{}"#, dice.roll(1 << 40), dice.real()).unwrap();
    }
    text.push('}');
    text
}
