//! A second process that stands by: it answers what is committed, and takes over when the writer is gone.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::alerts::{Fleet, HEADLIGHTS, until};
use crate::rig::{Millpond, Project, wait_until};

const SOON: Duration = Duration::from_secs(30);
/// The bar: so long after the writer's death another one writes.
const TAKEN_OVER: Duration = Duration::from_secs(20);

/// Fail points of who stands by.
pub const POINTS: [&str; 1] = ["standby_after_claim"];

async fn stands_by(millpond: &Millpond) {
    wait_until("it stands by", SOON, async || {
        let (status, text) = millpond.get("/readyz").await?;
        (status == 503 && text.contains("standing by")).then_some(())
    })
    .await;
}

/// The messages about alerts that were told, each once: state and id.
fn told(fleet: &Fleet) -> Vec<(String, String)> {
    let text = |told: &Value, name: &str| told[name].as_str().unwrap().to_owned();
    let mut all: Vec<(String, String)> =
        fleet.told().iter().map(|told| (text(told, "state"), text(told, "alert_id"))).collect();
    all.dedup();
    all
}

async fn until_told(fleet: &Fleet, states: &[&str]) -> Vec<(String, String)> {
    wait_until(&format!("{states:?}"), SOON, async || {
        let told = told(fleet);
        told.iter().map(|(state, _)| state.as_str()).eq(states.iter().copied()).then_some(told)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stands_by_answers_and_takes_over_with_the_same_alerts() {
    let fleet = Fleet::new().await;
    let project = fleet.project.clone().commit_interval("100ms").query("headlights", HEADLIGHTS);
    let early = project.run(&["serve", "--standby"]).await;
    assert!(early.code == Some(1) && early.stderr.contains("there is no lake at"), "{early:?}");
    let first = Millpond::serve(&project).await;
    fleet.reserve(7, 1, "RETURNED");
    fleet.signal(1, json!({"lights": true, "speed": 0.0}));
    let firing = until_told(&fleet, &["firing"]).await;
    until(&first, "SELECT sum(hot_rows) AS hot FROM system.tables WHERE kind = 'events'", json!([{"hot": 0}])).await;

    // What is committed is shown, also what comes later; nothing is written.
    let other = project.rival();
    let second = Millpond::stand_by(&other);
    stands_by(&second).await;
    let rows = "SELECT count(*) AS n FROM signals";
    until(&second, rows, json!([{"n": 1}])).await;
    fleet.signal(2, json!({"lights": false, "speed": 5.0}));
    until(&second, rows, json!([{"n": 2}])).await;
    let state = "SELECT car, lights, is_parked FROM car_state ORDER BY car";
    let both = json!([{"car": 1, "lights": true, "is_parked": true}, {"car": 2, "lights": false, "is_parked": false}]);
    until(&second, state, both).await;
    let alerts = "SELECT count(*) AS n FROM system.alerts WHERE transition = 'firing'";
    until(&second, alerts, json!([{"n": 1}])).await;
    let written = other.run(&["table", "vacuum", "--url", &other.flight_sql()]).await;
    assert!(written.stderr.contains("this server is read-only"), "{written:?}");

    // The writer dies on this host: at once, at the same addresses, and the alert goes on as the same.
    first.kill();
    let since = Instant::now();
    second.ready().await;
    assert!(since.elapsed() < TAKEN_OVER, "{:?}", since.elapsed());
    fleet.signal(1, json!({"lights": false, "speed": 0.0}));
    let over = until_told(&fleet, &["firing", "resolved"]).await;
    assert_eq!(over[0], firing[0]);
    assert_eq!(over[1].1, firing[0].1, "the same alert");
    until(&second, rows, json!([{"n": 3}])).await;

    // The one that died may stand by in turn; it is asked to stop, and was not needed.
    let third = Millpond::stand_by(&project);
    stands_by(&third).await;
    assert_eq!(third.stop().await, Some(0));

    // A writer that cannot be seen from here (another host's) is given up after ten seconds of silence.
    let third = Millpond::stand_by(&project);
    stands_by(&third).await;
    elsewhere(&project);
    assert_eq!(third.get("/readyz").await.unwrap().0, 503, "its heartbeat goes on");
    second.process().signal("STOP");
    let since = Instant::now();
    third.ready().await;
    assert!(since.elapsed() < TAKEN_OVER, "{:?}", since.elapsed());
    fleet.signal(3, json!({"lights": false, "speed": 5.0}));
    until(&third, rows, json!([{"n": 4}])).await;
    // It wakes up, finds that another one writes, and goes; what it had read is not there twice.
    second.process().signal("CONT");
    let (code, log) = second.ended(TAKEN_OVER).await;
    assert!(code == Some(1) && log.contains("another"), "{log}");
    fleet.signal(4, json!({"lights": false, "speed": 5.0}));
    until(&third, rows, json!([{"n": 5}])).await;
    assert_eq!(third.stop().await, Some(0));
    assert_eq!(told(&fleet), over, "nothing was told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_while_it_takes_over_is_followed_by_the_next() {
    let fleet = Fleet::new().await;
    let project = fleet.project.clone().commit_interval("100ms");
    let first = Millpond::serve(&project).await;
    fleet.signal(1, json!({"lights": true, "speed": 0.0}));
    let rows = "SELECT count(*) AS n FROM signals";
    until(&first, rows, json!([{"n": 1}])).await;
    let second = Millpond::stand_by(&project.rival().failpoint(POINTS[0], 1));
    stands_by(&second).await;
    first.kill();
    assert_eq!(second.ended(TAKEN_OVER).await.0, None);
    fleet.signal(2, json!({"lights": true, "speed": 0.0}));
    let third = Millpond::stand_by(&project);
    third.ready().await;
    until(&third, rows, json!([{"n": 2}])).await;
    assert_eq!(third.stop().await, Some(0));
}

/// Makes the writer one of another host.
fn elsewhere(project: &Project) {
    let writers = std::fs::read_dir(project.dir().join("lake/_millpond/writer")).unwrap();
    let newest = writers.map(|entry| entry.unwrap().path()).max().unwrap();
    let mut holder: Value = serde_json::from_slice(&std::fs::read(&newest).unwrap()).unwrap();
    holder["host"] = json!("another");
    std::fs::write(newest, serde_json::to_vec(&holder).unwrap()).unwrap();
}
