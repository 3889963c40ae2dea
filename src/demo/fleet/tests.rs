use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, NaiveDateTime};
use serde_json::Value;

use super::*;

const START_US: i64 = 1_767_225_600_000_000; // 2026-01-01T00:00:00Z

fn run(options: FleetOptions, step_us: i64, count: usize) -> Vec<Message> {
    let mut fleet = Fleet::new(options);
    (0..count).map(|n| fleet.next_message(START_US + n as i64 * step_us)).collect()
}

fn parse(message: &Message) -> Option<Value> {
    serde_json::from_slice(&message.payload).ok()
}

/// Names on the longest path.
fn depth(value: &Value) -> usize {
    value.as_object().map_or(0, |object| 1 + object.values().map(depth).max().unwrap_or(0))
}

fn written_time_us(value: &Value) -> i64 {
    let text = value["messageTime"].as_str().unwrap();
    for (format, ahead_hours) in [("%a %b %d %H:%M:%S UTC %Y", 0), ("%a %b %d %H:%M:%S KST %Y", 9)] {
        if let Ok(time) = NaiveDateTime::parse_from_str(text, format) {
            return time.and_utc().timestamp_micros() - ahead_hours * HOUR_US;
        }
    }
    DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

fn has_invalid(value: &Value) -> bool {
    value == "<invalid>" || value.as_object().is_some_and(|object| object.values().any(has_invalid))
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let options = |seed| FleetOptions { seed, cars: 20, new_firmware_after: 3000, ..FleetOptions::default() };
    let first = run(options(7), 20_000, 8000);
    assert!(first == run(options(7), 20_000, 8000));
    assert!(first != run(options(8), 20_000, 8000));
}

#[test]
fn faults_happen_at_their_documented_rates() {
    // 100 messages a simulated second: long enough for the late ones to arrive.
    let options = FleetOptions { cars: 50, new_firmware_after: u64::MAX, ..FleetOptions::default() };
    let messages = run(options, 10_000, 100_000);
    let telemetry: Vec<_> = messages.iter().filter(|message| message.topic == TELEMETRY).collect();
    let total = telemetry.len() as f64;
    let values: Vec<_> = telemetry.iter().filter_map(|&message| Some((message, parse(message)?))).collect();

    let mut seqs: HashMap<&str, BTreeSet<u64>> = HashMap::new();
    let (mut late, mut wrong_clock, mut invalid) = (0, 0, 0);
    for (message, value) in &values {
        seqs.entry(value["deviceId"].as_str().unwrap()).or_default().insert(value["seq"].as_u64().unwrap());
        let lag_s = (message.timestamp_ms * 1000 - written_time_us(value)) as f64 / 1e6;
        wrong_clock += usize::from(lag_s.abs() > 1800.0);
        // Nothing on time is older than the text's one second plus the 3 s of a resent one.
        late += usize::from((4.5..1800.0).contains(&lag_s));
        invalid += usize::from(has_invalid(value));
    }
    let distinct: HashSet<_> = telemetry.iter().map(|message| (&message.key, &message.payload)).collect();
    let undecodable = telemetry.len() - values.len();
    // A cut-off message leaves a gap in the sequence as a missing one does.
    let spans: usize = seqs.values().map(|seqs| (seqs.last().unwrap() - seqs.first().unwrap() + 1) as usize).sum();
    let gaps = spans - seqs.values().map(BTreeSet::len).sum::<usize>() - undecodable;

    let within = |what: &str, count: usize, low: f64, high: f64| {
        let rate = count as f64 / total;
        assert!((low..=high).contains(&rate), "{what}: {:.3} % is not within {low}..{high}", rate * 100.0);
    };
    within("missing", gaps, 0.006, 0.014);
    // A batch takes 12 s or more to fill: nearly all of a late one is older than 4.5 s when it is sent.
    within("late", late, 0.04, 0.06);
    within("clock errors", wrong_clock, 0.0005, 0.004);
    within("invalid", invalid, 0.004, 0.006);
    within("undecodable", undecodable, 0.0003, 0.0008);
    within("resent", telemetry.len() - distinct.len(), 0.004, 0.006);
}

#[test]
fn without_faults_every_report_arrives_once_in_order_and_in_time() {
    let options = FleetOptions { cars: 10, faults: Faults::NONE, ..FleetOptions::default() };
    let mut next: HashMap<String, u64> = HashMap::new();
    for message in run(options, 5000, 20_000).iter().filter(|message| message.topic == TELEMETRY) {
        let value = parse(message).unwrap();
        let seq = next.entry(value["deviceId"].as_str().unwrap().to_owned()).or_default();
        assert_eq!(value["seq"], *seq);
        *seq += 1;
        assert!((0..1_001_000).contains(&(message.timestamp_ms * 1000 + 1000 - written_time_us(&value))));
        assert!(!has_invalid(&value));
    }
    assert_eq!(next.len(), 40);
}

#[test]
fn messages_are_keyed_deep_sparse_and_of_the_promised_size() {
    let options = FleetOptions { cars: 30, new_firmware_after: 30_000, ..FleetOptions::default() };
    let messages = run(options, 10_000, 60_000);
    let mut branches: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (n, message) in messages.iter().enumerate() {
        assert_eq!(message.timestamp_ms, (START_US + n as i64 * 10_000) / 1000);
        let Some(value) = parse(message) else { continue };
        assert!(depth(&value) >= 5, "{value}");
        if message.topic == TELEMETRY {
            assert_eq!(value["carId"], *message.key);
            let device = value["deviceId"].as_str().unwrap();
            assert_eq!(device[3..], message.key[4..]);
            let known = branches.entry(device[..2].to_owned()).or_default();
            known.extend(value["Vehicle"].as_object().unwrap().keys().cloned());
            let new = value["Vehicle"].get("Exterior").is_some();
            assert!(!new || n >= 30_000);
            if let Some(pressure) = value.pointer("/Vehicle/Chassis/Axle/Row1/Wheel/Left/Tire/Pressure") {
                assert!(pressure.is_string() || pressure.is_f64() == (value["firmware"] == "4.2.0"), "{value}");
            }
        }
    }
    assert!(branches["gn"].contains("Exterior"));
    assert!(branches["bd"].is_disjoint(&branches["pt"]) && branches["ty"].is_disjoint(&branches["gn"]));
    let mean = messages.iter().map(|message| message.payload.len()).sum::<usize>() / messages.len();
    assert!((600..800).contains(&mean), "{mean} bytes");
}

#[test]
fn cars_drive_plausibly_and_trips_pair_up() {
    let options = FleetOptions { cars: 40, faults: Faults::NONE, ..FleetOptions::default() };
    let messages = run(options, 20_000, 120_000); // 40 minutes
    let (mut open, mut ended) = (HashMap::new(), 0);
    let (mut running, mut lights_left_on, mut low_battery) = (HashMap::new(), 0, 0);
    let mut odometers: HashMap<&str, f64> = HashMap::new();
    for message in &messages {
        let value = parse(message).unwrap();
        let car: &str = &message.key;
        let vehicle = &value["Vehicle"];
        match value["event"].as_str() {
            Some("trip_start") => assert!(open.insert(car, value["tripId"].clone()).is_none()),
            Some("trip_end") => {
                // The first trip of a car may have begun before the first message.
                if let Some(id) = open.remove(car) {
                    assert_eq!(id, value["tripId"]);
                }
                ended += 1;
                assert!(value["summary"]["maxSpeedKmh"].as_f64().unwrap() <= 80.0);
                DateTime::parse_from_rfc3339(value["time"].as_str().unwrap()).unwrap();
            }
            _ => {}
        }
        if let Some(on) = vehicle["Powertrain"]["CombustionEngine"]["IsRunning"].as_bool() {
            running.insert(car, on);
            let volts = vehicle["LowVoltageBattery"]["CurrentVoltage"].as_f64().unwrap();
            assert!((11.0..14.5).contains(&volts));
            low_battery += usize::from(!on && volts < 12.0);
        }
        if vehicle["Body"]["Lights"]["Beam"]["Low"]["IsOn"] == true {
            lights_left_on += usize::from(running.get(car) == Some(&false));
        }
        if let Some(km) = vehicle["TraveledDistance"].as_f64() {
            let before = odometers.insert(car, km).unwrap_or(km);
            assert!((before..before + 2.0).contains(&km));
            let speed = vehicle["Speed"].as_f64().unwrap_or(0.0);
            assert!((0.0..=80.0).contains(&speed));
        }
        if let Some(lat) = vehicle["CurrentLocation"]["Latitude"].as_f64() {
            let lon = vehicle["CurrentLocation"]["Longitude"].as_f64().unwrap();
            assert!((37.3..37.8).contains(&lat) && (126.7..127.3).contains(&lon));
        }
    }
    assert!(ended > 40 && lights_left_on > 0 && low_battery > 0, "{ended} {lights_left_on} {low_battery}");
    assert_eq!(running.len(), 40);
}

#[test]
fn trips_that_are_resent_are_the_same_bytes() {
    let faults = Faults { resent: 0.5, ..Faults::NONE };
    let messages = run(FleetOptions { cars: 40, faults, ..FleetOptions::default() }, 20_000, 60_000);
    let trips: Vec<_> = messages.iter().filter(|message| message.topic == TRIPS).collect();
    let distinct: HashSet<_> = trips.iter().map(|trip| &trip.payload).collect();
    let share = (trips.len() - distinct.len()) as f64 / distinct.len() as f64;
    assert!((0.3..0.7).contains(&share), "{share}");
}

/// The contracts of the demo project name paths that messages really have, with values that fit (until the firmware is
/// new: its pressures widen their columns).
#[test]
fn contracts_match_the_messages() {
    let options =
        FleetOptions { faults: Faults::NONE, cars: 42, new_firmware_after: u64::MAX, ..FleetOptions::default() };
    let messages = run(options, 20_000, 30_000);
    for (file, text) in crate::demo::project_files() {
        let contract: toml::Table = match file.strip_prefix("schemas/") {
            Some(_) => text.parse().unwrap(),
            None => continue,
        };
        // Rows of the database are looked at below.
        if contract["kind"].as_str() != Some("events") {
            continue;
        }
        let topic = contract["topic"].as_str().unwrap();
        let values: Vec<_> = messages.iter().filter(|message| message.topic == topic).filter_map(parse).collect();
        assert!(!values.is_empty());
        let time = contract["time"]["path"].as_str().unwrap();
        assert!(values.iter().all(|value| value[time].is_string()));
        for (name, column) in contract["columns"].as_table().unwrap() {
            let path = column["path"].as_str().unwrap();
            if path.starts_with('$') {
                continue;
            }
            let pointer = format!("/{}", path.replace('.', "/"));
            let found: Vec<_> = values.iter().filter_map(|value| value.pointer(&pointer)).collect();
            assert!(!found.is_empty(), "{file}: no message has {name} = {path}");
            assert!(
                found.iter().all(|value| match column["type"].as_str().unwrap() {
                    "double" => value.is_f64(),
                    "bigint" => value.is_i64(),
                    "boolean" => value.is_boolean(),
                    "string" => value.is_string(),
                    _ => false,
                }),
                "{file}: {name}"
            );
        }
    }
}

proptest::proptest! {
    #[test]
    fn times_are_written_as_java_writes_them(seconds in 0..4_102_444_800_i64) {
        let text = payload::java_date(seconds * 1_000_000 + 999_999, false);
        let read = NaiveDateTime::parse_from_str(&text, "%a %b %d %H:%M:%S UTC %Y").unwrap();
        proptest::prop_assert_eq!(read.and_utc().timestamp(), seconds);
    }
}

#[test]
fn the_database_tells_its_rows_once_and_then_what_changes() {
    let options = FleetOptions { cars: 20, new_firmware_after: 3_000, database: true, ..FleetOptions::default() };
    let messages = run(options, 20_000, 8_000);
    let changes: Vec<Value> = messages.iter().filter(|message| message.topic == DATABASE).filter_map(parse).collect();
    let count = |table: &str, operation: &str| {
        let is =
            |change: &&Value| change["metadata"]["table-name"] == table && change["metadata"]["operation"] == operation;
        changes.iter().filter(is).count()
    };
    assert_eq!((count("carinfo", "load"), count("deviceinfo", "load"), count("deviceinfo", "update")), (20, 20, 20));
    let trips = messages.iter().filter(|message| message.topic == TRIPS).count();
    assert!(count("carinfo", "update") > 10 && count("carinfo", "update") <= trips);
    assert!(
        changes.iter().all(|change| change["data"]["updated_at"].is_string() && change["data"]["car_id"].is_string())
    );
    // The places in the log grow.
    let position =
        |change: &Value| change["metadata"]["stream-position"].as_str()?.split_once(':')?.1.parse::<i64>().ok();
    let positions: Vec<i64> = changes.iter().filter_map(position).collect();
    assert!(positions.is_sorted() && positions.len() == positions.iter().collect::<BTreeSet<_>>().len());
    assert!(messages.iter().all(|message| message.topic != DATABASE || message.key.starts_with("car-")));

    // A reservation is made, then given back; each is one row.
    let reservations: Vec<(&Message, Value)> = messages
        .iter()
        .filter(|message| message.topic == RESERVATIONS)
        .map(|message| (message, parse(message).unwrap()))
        .collect();
    let mut ops: BTreeMap<&str, String> = BTreeMap::new();
    for (message, change) in &reservations {
        let id = format!("{{\"reservation_id\":{}}}", change["after"]["reservation_id"]);
        assert_eq!(*message.key, *id);
        let given_back = change["after"]["status"] == "RETURNED";
        assert_eq!(given_back, change["after"]["returned_at"].is_string());
        ops.entry(&message.key).or_default().push_str(change["op"].as_str().unwrap());
    }
    assert!(ops.values().all(|ops| matches!(ops.as_str(), "r" | "ru" | "c" | "cu" | "u")), "{ops:?}");
    assert!(ops.values().any(|ops| ops == "ru") && ops.values().any(|ops| ops.starts_with('c')), "{ops:?}");
}
