//! What applications learn from feedback, and that nothing of it gets lost.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, RawContainer, eventually, eventually_some, program};
use clipper_rpc::message::{FromContainer, Predict, Prediction};
use clipper_rpc::output::OutputBatch;
use futures_util::future::join_all;
use serde_json::{Value, json};

const OBJECTIVE: Duration = Duration::from_secs(20);

/// The application `app` over the models `a` and `b`, which both answer with the sum of their input.
async fn serve(cluster: &Cluster, selection: Value) -> [Container; 2] {
    let containers = ["a", "b"].map(|model| Serves { model, version: "1", input_type: "doubles" });
    for serves in &containers {
        cluster.add_model(serves.model, "1", "doubles").await;
    }
    let containers = containers.map(|serves| Container::rust("sum", cluster, serves));
    let mut body = json!({
        "name": "app", "input_type": "doubles", "default_output": "-1.0", "linked_models": ["a", "b"],
        "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(),
    });
    body.as_object_mut().unwrap().extend(selection.as_object().unwrap().clone());
    cluster.must("add_app", body).await;
    for frontend in 0..cluster.frontends.len().max(1) {
        let mut answered = BTreeSet::new();
        eventually("both models have answered", async || {
            let answer = cluster.predict_at(frontend, "app", json!({"input": [1]})).await;
            answered.extend(answer["models"].as_array().unwrap().iter().map(Value::to_string));
            answered.len() == 2
        })
        .await;
    }
    containers
}

fn exp4() -> Value {
    json!({"selection_policy": "exp4"})
}

/// The status and the body that feedback is answered with.
async fn feed(cluster: &Cluster, frontend: usize, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/app/{path}", cluster.query_url(frontend));
    let response = cluster.http().post(url).json(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// The word for what was done with feedback that is right.
async fn status(cluster: &Cluster, frontend: usize, body: Value) -> String {
    let (status, answer) = feed(cluster, frontend, "feedback", &body).await;
    assert_eq!(status, 200, "{body}: {answer}");
    answer["status"].as_str().unwrap().to_owned()
}

/// How much feedback each model had, as management has it.
async fn feedbacks(cluster: &Cluster, uid: &str) -> Vec<f64> {
    let state = cluster.read("get_state", json!({"app_name": "app", "uid": uid})).await;
    let models = state["state"]["models"].as_array().unwrap();
    models.iter().map(|model| model["feedbacks"].as_f64().unwrap()).collect()
}

async fn stored(cluster: &Cluster, uid: &str, expected: f64) {
    eventually("the feedback is stored", async || feedbacks(cluster, uid).await == [expected; 2]).await;
}

#[tokio::test]
async fn feedback_in_both_forms_is_applied_once_and_what_is_not_is_told_so() {
    let cluster = Cluster::start().await;
    let _containers = serve(&cluster, exp4()).await;
    let answer = cluster.predict("app", json!({"input": [1, 2], "uid": "ann"})).await;
    let query_id = answer["query_id"].as_u64().unwrap();
    let judged = json!({"query_id": query_id, "label": 3});
    assert_eq!(status(&cluster, 0, judged.clone()).await, "applied");
    assert_eq!(status(&cluster, 0, judged).await, "duplicate");
    let original = json!({"uid": "ann", "input": [1, 2], "label": 3.0});
    assert_eq!(feed(&cluster, 0, "update", &original).await.1["status"], "applied");
    stored(&cluster, "ann", 2.0).await;
    stored(&cluster, "0", 2.0).await;

    let (code, answer) = feed(&cluster, 0, "feedback", &json!({"query_id": query_id + 1, "label": 3})).await;
    assert_eq!((code, &answer["error"]), (404, &json!("Unknown query")), "{answer}");
    let (code, answer) = feed(&cluster, 0, "feedback", &json!({"query_id": query_id, "reward": 2})).await;
    assert_eq!(code, 400, "{answer}");
    assert!(answer["cause"].as_str().unwrap().contains("reward: 2"), "{answer}");

    cluster.add_app("plain", "doubles", OBJECTIVE, false).await;
    let url = format!("{}/plain/update", cluster.query_url(0));
    let body = json!({"uid": 0, "input": [1], "label": 1.0});
    let response = cluster.http().post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap()["status"], "no_policy");
}

#[tokio::test]
async fn frontends_learn_from_each_other_and_pass_feedback_on() {
    let cluster = Cluster::split(2).await;
    let _containers = serve(&cluster, json!({"selection_policy": "epsilon_greedy"})).await;
    for _ in 0..30 {
        assert_eq!(status(&cluster, 0, json!({"input": [1, 2], "label": 3})).await, "applied");
    }
    eventually("the other frontend has learned it, too", async || {
        let answer = cluster.predict_at(1, "app", json!({"input": [1]})).await;
        answer["confidence"].as_f64().unwrap() > 0.9
    })
    .await;
    let query = cluster.predict_at(1, "app", json!({"input": [1], "uid": 7})).await;
    let judged = json!({"query_id": query["query_id"], "label": 1});
    assert_eq!(status(&cluster, 0, judged).await, "forwarded");
    eventually("the frontend that answered has applied it", async || {
        feedbacks(&cluster, "7").await.iter().sum::<f64>() == 1.0
    })
    .await;
}

#[tokio::test]
async fn every_one_of_thousands_of_concurrent_feedbacks_is_counted() {
    let cluster = Cluster::split(2).await;
    let _containers = serve(&cluster, exp4()).await;
    let clients = (0..16).map(async |client| {
        let uid = format!("user {}", client % 4);
        for round in 0..125 {
            let frontend = (client + round) % 2;
            let body = if round % 3 == 0 {
                let query = cluster.predict_at(frontend, "app", json!({"input": [1, 2], "uid": uid})).await;
                json!({"query_id": query["query_id"], "label": 3})
            } else {
                json!({"uid": uid, "input": [1, 2], "label": 3})
            };
            assert_eq!(status(&cluster, frontend, body).await, "applied");
        }
    });
    join_all(clients).await;
    stored(&cluster, "0", 2000.0).await;
    for user in 0..4 {
        stored(&cluster, &format!("user {user}"), 500.0).await;
    }
}

#[tokio::test]
async fn what_was_learned_survives_that_everything_is_killed() {
    let mut cluster = Cluster::split(2).await;
    let _containers = serve(&cluster, exp4()).await;
    for number in 0..20 {
        let body = json!({"uid": "ann", "input": [1, 2], "label": 3});
        assert_eq!(status(&cluster, number % 2, body).await, "applied");
    }
    stored(&cluster, "ann", 20.0).await;
    cluster.main.kill();
    cluster.frontends.iter_mut().for_each(clipper_integration_tests::server::Server::kill);
    cluster.main.restart().await;
    for frontend in &mut cluster.frontends {
        frontend.restart().await;
    }
    for frontend in 0..2 {
        cluster.ready(frontend).await;
    }
    assert_eq!(feedbacks(&cluster, "ann").await, [20.0; 2]);
    eventually("both models answer", async || {
        let answer = cluster.predict_at(0, "app", json!({"input": [1, 2]})).await;
        answer["models"] == json!(["a", "b"])
    })
    .await;
    assert_eq!(status(&cluster, 0, json!({"uid": "ann", "input": [1, 2], "label": 3})).await, "applied");
    stored(&cluster, "ann", 21.0).await;
}

#[tokio::test]
async fn feedback_waits_for_a_management_that_is_away() {
    let mut cluster = Cluster::split(1).await;
    let _containers = serve(&cluster, exp4()).await;
    cluster.main.kill();
    for _ in 0..20 {
        assert_eq!(status(&cluster, 0, json!({"uid": 5, "input": [1], "label": 1})).await, "applied");
    }
    cluster.main.restart().await;
    stored(&cluster, "5", 20.0).await;
}

#[tokio::test]
async fn what_was_learned_last_is_stored_at_a_shutdown() {
    let mut cluster = Cluster::split(1).await;
    let _containers = serve(&cluster, exp4()).await;
    for _ in 0..20 {
        assert_eq!(status(&cluster, 0, json!({"uid": 5, "input": [1], "label": 1})).await, "applied");
    }
    assert_eq!(cluster.frontends[0].terminate().await, 0);
    assert_eq!(feedbacks(&cluster, "5").await, [20.0; 2]);
}

#[tokio::test]
async fn an_output_of_any_depth_can_be_explained() {
    let cluster = Cluster::split(1).await;
    cluster.add_model("a", "1", "doubles").await;
    let body = json!({
        "name": "app", "input_type": "doubles", "default_output": "-1.0", "linked_models": ["a"],
        "latency_slo_micros": 20_000_000, "selection_policy": "exp4",
    });
    cluster.must("add_app", body).await;
    let mut container = RawContainer::register(&cluster, "a").await;
    // Deeper than a parser of JSON goes.
    let nested = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let (answer, ()) = tokio::join!(cluster.ask(0, "app", json!({"input": [1]})), async {
        let Predict { id, .. } = container.batch().await;
        let outputs = OutputBatch::texts([nested.as_str()]);
        container.send(&FromContainer::Prediction(Prediction {
            id,
            elapsed_micros: 1,
            outputs,
            errors: BTreeMap::new(),
        }));
    });
    let answer = answer.success();
    let (_, query) = answer.split_once("\"query_id\":").unwrap();
    let (query, _) = query.split_once(',').unwrap();
    let url = format!("{}/app/explain/{query}", cluster.admin_url());
    // Management hears of a frontend by its first exchange.
    let explanation = eventually_some("the query is explained", async || {
        let answer = cluster.http().get(&url).send().await.unwrap();
        if answer.status() == 200 { answer.text().await.ok() } else { None }
    })
    .await;
    assert!(explanation.contains(&nested), "{explanation}");
}

#[tokio::test]
async fn decisions_and_feedback_are_in_the_decision_log_of_an_application_that_asks_for_it() {
    let mut cluster = Cluster::start().await;
    let mut selection = exp4();
    selection["log_decisions"] = json!(true);
    let _containers = serve(&cluster, selection).await;
    // What is stored is loaded by then, so that nothing that follows is decided by a state that is replaced meanwhile.
    assert_eq!(status(&cluster, 0, json!({"uid": "bob", "input": [1, 2], "label": 3})).await, "applied");
    stored(&cluster, "bob", 1.0).await;
    let answer = cluster.predict("app", json!({"input": [1, 2], "uid": "ann"})).await;
    let judged = json!({"query_id": answer["query_id"], "label": 3});
    assert_eq!(status(&cluster, 0, judged).await, "applied");
    assert_eq!(cluster.main.terminate().await, 0);
    let files = std::fs::read_dir(cluster.data_dir().join("decisions/app")).unwrap();
    let files: Vec<_> = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let records: Vec<Value> =
        files.concat().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| records.iter().filter(|record| record["record"] == kind).collect::<Vec<_>>();
    assert_eq!(records[0]["record"], "start");
    assert!(of("decision").iter().any(|record| record["query_id"] == answer["query_id"]), "{records:?}");
    assert_eq!(of("feedback")[0]["losses"], json!([0.0, 0.0]), "{records:?}");
    assert!(!of("change").is_empty(), "{records:?}");

    let offline = |arguments: &[&str]| {
        let log = cluster.data_dir().join("decisions/app");
        let run =
            program::isolated(program::clipper()).arg(arguments[0]).arg(log).args(&arguments[1..]).output();
        let run = run.unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    };
    let report = cluster.directory().join("replay.json");
    offline(&["replay", "--json", report.to_str().unwrap()]);
    let replayed: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(replayed["decisions"]["reproduced"], of("decision").len(), "{replayed}");
    assert!(offline(&["evaluate", "--policy", "thompson"]).contains("thompson"));
    assert_eq!(offline(&["export", "--format", "jsonl"]).lines().count(), of("decision").len());
}
