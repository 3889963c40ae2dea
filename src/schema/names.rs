//! Names of columns made from payload paths (design: "Names").
//!
//! Each part becomes lower snake case, parts are joined by `_`, everything that is no letter or digit becomes
//! one `_`. A name made here never holds two underscores in a row, so the suffix `__` + 4 hex digits of a
//! name that was taken is never mistaken for a name found in a message.

/// Longer names are cut and get the suffix.
const MAX_CHARS: usize = 120;

/// The name a payload path would have if nobody else had it. `strip` is a prefix of paths left out.
pub fn derive(parts: &[String], strip: &[String]) -> String {
    let parts = match parts.strip_prefix(strip) {
        Some(rest) if !rest.is_empty() => rest,
        _ => parts,
    };
    let mut name = String::new();
    for part in parts {
        push_snake(&mut name, part);
    }
    match name.chars().next() {
        None => "col".to_owned(),
        Some(first) if first.is_numeric() => format!("col_{name}"),
        Some(_) => name,
    }
}

/// `wanted`, or `wanted` with the suffix of `path_text`'s hash if `taken` says that somebody has it.
/// `taken` is asked with lower case: Delta's column names differ by more than case.
pub fn unique(wanted: &str, path_text: &str, taken: impl Fn(&str) -> bool) -> String {
    let free = |name: &str| !taken(&name.to_lowercase());
    let long = wanted.chars().count() > MAX_CHARS;
    if !long && free(wanted) {
        return wanted.to_owned();
    }
    let stem: String = wanted.chars().take(MAX_CHARS).collect();
    let mut hashed = path_text.to_owned();
    loop {
        let hash = fnv1a(hashed.as_bytes());
        let name = format!("{stem}__{:04x}", (hash ^ (hash >> 16)) & 0xffff);
        if free(&name) {
            return name;
        }
        hashed.push('#');
    }
}

/// The name as SQL takes it, whatever is in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// FNV-1a, 32 bits: stable for ever, unlike the standard library's hashers.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// FNV-1a, 64 bits.
pub(super) fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Appends `part` in lower snake case, with one `_` before it if `name` is not empty.
fn push_snake(name: &mut String, part: &str) {
    let chars: Vec<char> = part.chars().collect();
    // Letters such as `𝐀` are upper case and have no lower case: no word begins at them.
    let upper = |c: char| c.to_lowercase().ne([c]);
    let mut gap = true;
    for (i, &c) in chars.iter().enumerate() {
        if !c.is_alphanumeric() {
            gap = true;
            continue;
        }
        let previous = i.checked_sub(1).map(|i| chars[i]);
        let next = chars.get(i + 1).copied();
        // A word begins at `B` of `aB` and `1B`, and at `S` of `HTTPServer`; not at the `D` of the plural `IDs`.
        let plural = next == Some('s') && !chars.get(i + 2).is_some_and(|c| c.is_lowercase());
        let begins = upper(c)
            && (previous.is_some_and(|p| p.is_lowercase() || p.is_numeric())
                || (previous.is_some_and(upper) && next.is_some_and(char::is_lowercase) && !plural));
        if (gap || begins) && !name.is_empty() {
            name.push('_');
        }
        gap = false;
        name.extend(c.to_lowercase().filter(|c| c.is_alphanumeric()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn parts(path: &[&str]) -> Vec<String> {
        path.iter().map(|part| (*part).to_owned()).collect()
    }

    #[test]
    fn names_of_paths() {
        for (path, name) in [
            (&["IsRunning"][..], "is_running"),
            (
                &["Vehicle", "Cabin", "Door", "Row1", "DriverSide", "IsOpen"],
                "vehicle_cabin_door_row1_driver_side_is_open",
            ),
            (&["HTTPServer"], "http_server"),
            (&["ABSError"], "abs_error"),
            (&["ABS", "IsEngaged"], "abs_is_engaged"),
            (&["currentABS"], "current_abs"),
            (&["carID"], "car_id"),
            (&["carIDs"], "car_ids"),
            (&["URLs"], "urls"),
            (&["IsAsleep"], "is_asleep"),
            (&["PM25Level"], "pm25_level"),
            (&["row1Left"], "row1_left"),
            (&["x509Cert"], "x509_cert"),
            (&["car_id"], "car_id"),
            (&["CAR_ID"], "car_id"),
            (&["battery-voltage (V)"], "battery_voltage_v"),
            (&["a", "b.c"], "a_b_c"),
            (&["a__b"], "a_b"),
            (&["_id"], "id"),
            (&["_offset"], "offset"),
            (&["trailing_"], "trailing"),
            (&["4g"], "col_4g"),
            (&["a", "4g"], "a_4g"),
            (&["$"], "col"),
            (&[""], "col"),
            (&["문", "열림"], "문_열림"),
            (&["ÜberWert"], "über_wert"),
        ] {
            assert_eq!(derive(&parts(path), &[]), name, "{path:?}");
        }
    }

    #[test]
    fn a_prefix_is_left_out_but_never_the_whole_path() {
        let strip = parts(&["vehicle", "state"]);
        assert_eq!(derive(&parts(&["vehicle", "state", "speed"]), &strip), "speed");
        assert_eq!(derive(&parts(&["vehicle", "state"]), &strip), "vehicle_state");
        assert_eq!(derive(&parts(&["vehicle", "speed"]), &strip), "vehicle_speed");
    }

    #[test]
    fn a_taken_name_gets_a_suffix_that_never_changes() {
        let taken: HashSet<&str> = HashSet::from(["a_b_c", "event_time"]);
        assert_eq!(unique("a_b", "a.b", |name| taken.contains(name)), "a_b");
        assert_eq!(unique("a_b_c", "a_b.c", |name| taken.contains(name)), "a_b_c__5640");
        assert_eq!(unique("A_b_C", "a_b.c", |name| taken.contains(name)), "A_b_C__5640");
        assert_eq!(unique("a_b_c", "a_b.c", |name| name == "a_b_c" || name == "a_b_c__5640"), "a_b_c__35c4");
        let long = "x".repeat(500);
        assert_eq!(unique(&long, &long, |_| false).chars().count(), MAX_CHARS + 6);
    }

    proptest! {
        #[test]
        fn a_derived_name_is_clean_and_stays_itself(path in prop::collection::vec(any::<String>(), 1..4)) {
            let name = derive(&path, &[]);
            prop_assert!(!name.is_empty() && !name.starts_with('_') && !name.ends_with('_') && !name.contains("__"));
            prop_assert!(name.chars().all(|c| c == '_' || c.is_alphanumeric()), "{}", name);
            prop_assert!(!name.starts_with(|c: char| c.is_numeric()));
            prop_assert_eq!(&derive(std::slice::from_ref(&name), &[]), &name);
        }
    }
}
