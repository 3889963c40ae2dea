//! A lake that is copied while it runs, as docs/disaster.md says, and a muted server on the copy.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::alerts::{Fleet, HEADLIGHTS, until};
use crate::rig::{Millpond, Project, python, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// The commands of the page, with another place to copy to.
fn copy(project: &Project, to: &std::path::Path) {
    let page = include_str!("../../docs/disaster.md");
    let script = page.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let script = script.replace("/backup/lake", to.to_str().unwrap());
    let done = Command::new("bash").args(["-uc", &script]).current_dir(project.dir()).output().unwrap();
    // What was replaced meanwhile is not found.
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.lines().all(|line| line.contains("_millpond/") && line.contains("No such file")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_made_while_a_lake_is_written_goes_on_where_it_was_and_tells_nobody() {
    let fleet = Fleet::new().await;
    let project = fleet.project.clone().commit_interval("20ms").query("headlights", HEADLIGHTS);
    let millpond = Millpond::serve(&project).await;
    fleet.reserve(7, 1, "RETURNED");
    let count = "SELECT count(*) FROM signals";
    let mut sent = 0;
    let mut send = |fleet: &Fleet| {
        fleet.signal(sent % 5 + 2, json!({"lights": false, "speed": 5.0}));
        sent += 1;
        sent
    };
    for _ in 0..40 {
        send(&fleet);
    }
    wait_until("rows", SOON, async || (millpond.number(count).await == Some(40)).then_some(())).await;
    let folder = project.dir().join("copy");
    let copying = tokio::task::spawn_blocking({
        let (project, folder) = (project.clone(), folder.clone());
        move || copy(&project, &folder)
    });
    // It is written to meanwhile.
    while !copying.is_finished() {
        send(&fleet);
        millpond.number(count).await;
    }
    copying.await.unwrap();
    let all = send(&fleet);
    wait_until("all rows", SOON, async || (millpond.number(count).await == Some(all)).then_some(())).await;
    assert_eq!(millpond.stop().await, Some(0));

    // What happens from here on only the copy hears of.
    let copy = project.rival().env("MILLPOND__LAKE__URL", folder.to_str().unwrap());
    let told = fleet.told().len();
    let staging = Millpond::start_with(&copy, &["--muted"]);
    staging.ready().await;
    wait_until("all rows, too", SOON, async || (staging.number(count).await == Some(all)).then_some(())).await;
    fleet.signal(1, json!({"lights": true, "speed": 0.0}));
    fleet.signal(1, json!({"lights": true, "speed": 0.0}));
    let firing = "SELECT count(*) AS n FROM system.alerts WHERE transition = 'firing' AND rule = 'headlights'";
    until(&staging, firing, json!([{"n": 1}])).await;
    assert_eq!(staging.number("SELECT count(*) FROM system.sinks").await, Some(0));
    assert_eq!((fleet.told().len(), fleet.hook.posted().len()), (told, 0));
    assert_eq!(staging.stop().await, Some(0));
    let sql = "SELECT count(*) AS n, count(DISTINCT (_partition, _offset)) AS records FROM t";
    let url = format!("{}/public/signals", folder.display());
    let found = python::duckdb(&url, sql, &[]).await.unwrap();
    assert_eq!(found, [json!({"n": all + 2, "records": all + 2})]);
}
