//! Alerts whose queries run now and then, over all that there is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::alerts::{Fleet, until};
use crate::alerts_windows::HEAD;
use crate::rig::{Millpond, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// Cars that are much faster than the fleet: no row tells that alone.
fn outlier(more: &str) -> String {
    format!(
        "{HEAD}--! every = \"1s\"\n--! message = \"car {{car}} at {{speed}}\"\n{more}\
         SELECT car, speed, mean FROM (SELECT car, speed, avg(speed) OVER () AS mean FROM car_state) \
         WHERE speed > 2 * mean\n"
    )
}

async fn until_told(fleet: &Fleet, expected: &[(&str, i64)]) {
    wait_until(&format!("{expected:?} is told"), SOON, async || {
        let told = fleet.told();
        let told: Vec<(&str, i64)> =
            told.iter().map(|told| (told["state"].as_str().unwrap(), told["key"]["car"].as_i64().unwrap())).collect();
        (told == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_on_a_schedule_fires_for_what_its_query_finds_over_restarts_and_edits() {
    let fleet = Fleet::new().await;
    let project = fleet.project.clone().commit_interval("300ms").query("outlier", &outlier(""));
    let check = project.run(&["check"]).await;
    assert!(check.stdout.contains("alert outlier: "), "{}", check.stdout);
    let millpond = Millpond::serve(&project).await;
    let state = "SELECT state, class, error FROM system.queries WHERE query_name = 'outlier'";
    for car in 1..=4 {
        fleet.signal(car, json!({"speed": 50.0}));
    }
    until(&millpond, state, json!([{"state": "running", "class": "scheduled", "error": null}])).await;
    fleet.signal(4, json!({"speed": 200.0}));
    until_told(&fleet, &[("firing", 4)]).await;
    let told = &fleet.told()[0];
    assert_eq!(told["message"], "car 4 at 200.0");
    assert_eq!((&told["values"]["mean"], &told["cause"]["topic"]), (&json!(87.5), &json!("schedule")), "{told:#}");
    let explained = project.run(&["alert", "explain", "outlier", "--key", "4"]).await;
    assert!(explained.stdout.contains("outlier: scheduled\nstate      firing"), "{}", explained.stdout);

    // A query that fails says nothing of its keys.
    let project = millpond.project();
    project.write_query("outlier", &outlier("").replace("2 * mean", "2 * median"));
    wait_until("the rule says what is wrong", SOON, async || {
        let rows = millpond.sql(state).await;
        rows[0]["error"].as_str().is_some_and(|error| error.contains("median")).then_some(())
    })
    .await;
    project.write_query("outlier", &outlier(""));
    until(&millpond, state, json!([{"state": "running", "class": "scheduled", "error": null}])).await;

    // What fired goes on to after a restart, and is told once.
    let project = millpond.project().clone();
    millpond.kill();
    let millpond = Millpond::serve(&project).await;
    until(&millpond, state, json!([{"state": "running", "class": "scheduled", "error": null}])).await;
    let active = "SELECT rule, state FROM system.alerts_active";
    until(&millpond, active, json!([{"rule": "outlier", "state": "firing"}])).await;
    fleet.signal(4, json!({"speed": 60.0}));
    until_told(&fleet, &[("firing", 4), ("resolved", 4)]).await;
    let ids: Vec<Value> = fleet.told().iter().map(|told| told["alert_id"].clone()).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(millpond.stop().await, Some(0));

    let tested = project.run(&["alert", "test", "outlier"]).await;
    assert!(tested.code == Some(2) && tested.stderr.contains("a rule on a schedule"), "{}", tested.stderr);
    for (head, expected) in [
        ("--! schedule = \"every day\"\n", "minute, hour, day of the month"),
        ("--! schedule = \"0 8 * * MON-FRI\"\n", "one of them says when"),
        ("--! absent_for = \"1m\"\n", "is not silent"),
        ("--! resolve_when = \"speed < 9\"\n", "does not select any more is over"),
    ] {
        project.write_query("outlier", &outlier(head));
        let check = project.run(&["check"]).await;
        assert!(check.code == Some(2) && check.stdout.contains(expected), "{head}{}", check.stdout);
    }
    project
        .write_query("outlier", &outlier("--! schedule = \"0 8 * * MON-FRI\"\n").replace("--! every = \"1s\"\n", ""));
    let check = project.run(&["check"]).await;
    assert!(check.stdout.contains("alert outlier: runs at 0 8 * * 1-5 in UTC; told to"), "{}", check.stdout);
}
