//! When a rule would have fired: what a back-test lists is what was told live.

use std::cell::Cell;
use std::time::Duration;

use chrono::Utc;
use serde_json::{Value, json};

use crate::alerts::{Fleet, HEADLIGHTS, until};
use crate::alerts_windows::{Cars, HEAD, RULES, expected, told};
use crate::rig::{Millpond, python, wait_until};

/// A car that stands with its lights on.
const PARKED: i64 = 9;
const LATER: Duration = Duration::from_secs(90);

/// Rules that look at each row, or at what each car is.
const ROW_BY_ROW: &[(&str, &str, &str)] = &[
    ("fast", "", "SELECT car, speed FROM signals WHERE speed > 100"),
    ("steady", "--! for = \"200ms\"\n", "SELECT car, speed FROM signals WHERE speed > 20"),
    ("burst", "--! once = true\n--! cooldown = \"1s\"\n", "SELECT car, speed FROM signals WHERE speed > 80"),
    ("silent", "--! absent_for = \"700ms\"\n", "SELECT car FROM signals"),
];

/// A rule of what each car is: which records were looked at together, before anybody looked, is not kept.
const SLOW: &str = "--! resolve_when = \"speed > 60\"\nSELECT car, speed FROM car_state WHERE speed < 30";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_test_lists_what_was_told_live_and_says_where_another_version_differs() {
    let fleet = Fleet::new().await;
    let mut project = fleet.project.clone().commit_interval("300ms");
    project = project.query("headlights", HEADLIGHTS).query("slow", &format!("{HEAD}{SLOW}\n"));
    for (name, sql, _) in RULES {
        project = project.query(name, &format!("{HEAD}{sql}\n"));
    }
    for (name, head, sql) in ROW_BY_ROW {
        project = project.query(name, &format!("{HEAD}{head}{sql}\n"));
    }
    let millpond = Millpond::serve(&project).await;
    fleet.reserve(7, PARKED, "RETURNED");
    let running = "SELECT count(*) AS n FROM system.queries WHERE state = 'running'";
    until(&millpond, running, json!([{"n": RULES.len() + ROW_BY_ROW.len() + 2}])).await;
    let cars = Cars { fleet: &fleet, sender: fleet.kafka.sender(), said: Cell::new(0) };
    let mut ticks = tokio::time::interval(Duration::from_millis(150));
    for tick in 0..80 {
        ticks.tick().await;
        cars.speak();
        if tick == 20 {
            fleet.signal(PARKED, json!({"lights": true, "speed": 0.0, "a_new_field": 7}));
        }
    }
    for (rule, _, sql) in RULES {
        wait_until(&format!("{rule} has told all"), LATER, async || {
            (told(&fleet.told(), rule) == expected(&millpond.sql(sql).await)).then_some(())
        })
        .await;
    }
    let silent = "SELECT count(*) AS n FROM system.alerts_active WHERE rule = 'silent' AND state = 'firing'";
    until(&millpond, silent, json!([{"n": Cars::COUNT + 1}])).await;
    let until_now = Utc::now().to_rfc3339();
    assert_eq!(millpond.stop().await, Some(0));

    let tested = async |rule: &str, more: &[&str]| -> Value {
        let mut arguments = vec!["alert", "test", rule, "--since", "1h", "--format", "json"];
        arguments.extend(more);
        let output = project.run(&arguments).await;
        assert_eq!(output.code, Some(0), "{rule}: {}", output.stderr);
        serde_json::from_str(&output.stdout).unwrap()
    };
    for (rule, ..) in RULES.iter().chain(ROW_BY_ROW) {
        let tested = tested(rule, &["--until", &until_now]).await;
        let (live, alerts) = (&tested["live"], tested["rules"][0]["alerts"].as_array().unwrap());
        let differences = [&live["only_first"], &live["only_second"]];
        assert_eq!(differences, [&json!([]), &json!([])], "{rule}: {tested:#}");
        assert!(!alerts.is_empty() && live["same"] == alerts.len(), "{rule}: {tested:#}");
    }
    for (rule, cause) in [
        ("headlights", "which of two records came first"),
        ("slow", "which records of car_state were looked at together"),
    ] {
        let tested = tested(rule, &["--until", &until_now]).await;
        let live = &tested["live"];
        let differences = [&live["only_first"], &live["only_second"]].map(|only| only.as_array().unwrap());
        assert!(live["same"].as_i64() > Some(0), "{tested:#}");
        for different in differences.into_iter().flatten() {
            // The first records wait for the table's columns, and come together.
            let known = [cause, "the rule had told nothing yet", "at the end of what is committed"];
            let said = different["cause"].as_str().unwrap();
            assert!(known.iter().any(|known| said.contains(known)), "{rule}: {different:#}");
        }
    }

    // Somebody has put the files of the table together, and deleted what was before.
    let before = tested("drop", &[]).await;
    let compacted = python::run("delta_compact.py", &[&project.table_url("signals")], &[]).await;
    assert!(compacted.code == Some(0) && !compacted.stdout.starts_with("0 "), "{compacted:?}");
    assert_eq!(tested("drop", &[]).await["rules"][0]["alerts"], before["rules"][0]["alerts"]);

    // Another threshold, in a file that is not one of the project.
    let draft = project.dir().join("draft.sql");
    std::fs::write(&draft, format!("{HEAD}SELECT car, speed FROM signals WHERE speed > 110\n")).unwrap();
    let against = tested("fast", &["--against", draft.to_str().unwrap()]).await;
    let (more, fewer) = (&against["rules"][0]["alerts"], &against["rules"][1]["alerts"]);
    let (more, fewer) = (more.as_array().unwrap(), fewer.as_array().unwrap());
    assert!(more.len() > fewer.len() && !fewer.is_empty(), "{against:#}");
    assert_eq!(against["against"]["only_second"], json!([]));
    let only_first = against["against"]["only_first"].as_array().unwrap();
    assert_eq!(only_first.len() + fewer.len(), more.len());
    assert!(only_first.iter().all(|only| only["alert"]["values"]["speed"].as_f64() <= Some(110.0)), "{only_first:?}");
    assert_eq!(against["rules"][0]["conditions"][0]["sql"], "signals.speed > 100", "{against:#}");

    let text = project.run(&["alert", "test", "draft.sql", "--since", "1h"]).await;
    for part in ["draft.sql: stateless over signals", "fired ", "at most in", "lasted ", "condition  TRUE "] {
        assert!(text.stdout.contains(part), "{part}: {}", text.stdout);
    }
    assert!(!text.stdout.contains("live,"), "a file that is not one of the project was never live: {}", text.stdout);
    for (arguments, expected) in [
        (vec!["fasst"], "did you mean `fast`?"),
        (vec!["none.sql"], "cannot be read"),
        (vec!["fast", "--since", "yesterday"], "give how long ago"),
        (vec!["fast", "--until", "2001-01-01"], "--until is not later than --since"),
        (vec!["fast", "--against", "schemas/signals.toml"], "problem"),
    ] {
        let output = project.run(&[&["alert", "test"][..], &arguments].concat()).await;
        assert!(output.code != Some(0) && output.stderr.contains(expected), "{arguments:?}: {}", output.stderr);
    }
}
