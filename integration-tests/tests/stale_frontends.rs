//! Frontends that do not follow management: those that are stuck, and those of another version.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::{Cluster, eventually};
use clipper_rpc::protocol::{PROTOCOL, PROTOCOL_HEADER};
use nix::sys::signal::Signal;
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_change_that_a_stuck_frontend_has_not_applied_says_so_until_the_frontend_has() {
    let cluster = Cluster::split(2).await;
    cluster.add_app("first", "doubles", OBJECTIVE, false).await;
    let stuck = cluster.query_address(1);
    cluster.frontends[1].signal(Signal::SIGSTOP);
    let app =
        json!({"name": "second", "input_type": "doubles", "default_output": "", "latency_slo_micros": 1000});
    let request = cluster.http().post(format!("{}/admin/add_app", cluster.admin_url())).json(&app);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["clipper-frontends-behind"], stuck.as_str());
    let text = response.text().await.unwrap();
    assert!(text.contains(&format!("Not applied yet by the frontends at {stuck}")), "{text}");
    let listed = cluster.read("get_frontends", json!({"verbose": true})).await;
    let listed = listed.as_array().unwrap();
    let stands = |address: &str| listed.iter().find(|it| it["query_address"] == address).unwrap();
    assert_eq!(stands(&stuck)["is_behind"], true, "{listed:?}");
    let other = stands(&cluster.query_address(0));
    assert_eq!(other["is_behind"], false, "{listed:?}");
    assert!(other["revision"].as_u64() > stands(&stuck)["revision"].as_u64(), "{listed:?}");

    cluster.frontends[1].signal(Signal::SIGCONT);
    eventually("the frontend has caught up", async || {
        let listed = cluster.read("get_frontends", json!({"verbose": true})).await;
        let listed = listed.as_array().unwrap();
        listed.len() == 2 && listed.iter().all(|it| it["is_behind"] == false)
    })
    .await;
    let body = json!({"name": "second"});
    let request = cluster.http().post(format!("{}/admin/delete_app", cluster.admin_url())).json(&body);
    let response = request.send().await.unwrap();
    assert!(!response.headers().contains_key("clipper-frontends-behind"), "{response:?}");
}

#[tokio::test]
async fn a_frontend_of_another_version_is_told_both_versions_and_what_to_do() {
    let cluster = Cluster::split(0).await;
    for path in ["follow", "exchange"] {
        for (spoken, older) in [(PROTOCOL - 1, "the frontend"), (PROTOCOL + 1, "management")] {
            let request = cluster.http().post(format!("{}/admin/{path}", cluster.admin_url()));
            let request = request.header(PROTOCOL_HEADER, spoken).header("content-type", "application/json");
            let response = request.body("{}").send().await.unwrap();
            assert_eq!(response.status(), 501);
            let text = response.text().await.unwrap();
            let said = format!(
                "the frontend speaks protocol {spoken} and management protocol {PROTOCOL}; upgrade {older}"
            );
            assert!(text.contains(&said), "{text}");
        }
    }
}
