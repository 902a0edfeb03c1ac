//! Applications whose policy asks one model, where one of their models does not answer.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Automaton, Cluster, Container, eventually, program};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Long for a model that answers, and short for those who wait for one that does not.
const OBJECTIVE: Duration = Duration::from_millis(200);

/// The queries after which a policy has left a model, or has found out that it is back.
const SOON: u32 = 300;

/// The policies that ask one model.
fn policies() -> Vec<Value> {
    let named = ["exp3", "exp3_ix", "epsilon_greedy", "ucb1", "thompson"];
    let named = named.map(|policy| json!({ "policy": policy }));
    named.into_iter().chain([json!({"policy": "linucb", "dimensions": 1})]).collect()
}

async fn add_app(cluster: &Cluster, name: &str, policy: &Value) {
    let body = json!({
        "name": name, "input_type": "doubles", "default_output": "\"default\"", "linked_models": ["a", "b"],
        "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(), "selection_policy": policy,
        "selection_seed": 1, "log_decisions": true,
    });
    cluster.must("add_app", body).await;
}

/// What answered some queries: a model, or the default output.
#[derive(Debug, Default)]
struct Answers {
    by_model: BTreeMap<String, u32>,
    defaults: u32,
}

/// Queries one after the other, each with an input that was never asked before.
async fn ask(cluster: &Cluster, app: &str, queries: u32, reward: Option<f64>) -> Answers {
    static INPUTS: AtomicU32 = AtomicU32::new(0);
    let mut answers = Answers::default();
    for _ in 0..queries {
        let input = INPUTS.fetch_add(1, Ordering::Relaxed);
        let answer = cluster.predict(app, json!({"input": [input], "context": [1.0]})).await;
        match answer["models"].as_array().unwrap().first() {
            Some(model) => *answers.by_model.entry(model.as_str().unwrap().to_owned()).or_default() += 1,
            None => answers.defaults += 1,
        }
        if let Some(reward) = reward {
            let body = json!({"query_id": answer["query_id"], "reward": reward});
            let url = format!("{}/{app}/feedback", cluster.query_url(0));
            cluster.http().post(url).json(&body).send().await.unwrap();
        }
    }
    answers
}

/// How often an application asked the model `a`, however that ended.
async fn asked(cluster: &Cluster, app: &str) -> f64 {
    let mut asked = 0.0;
    for result in ["answered", "late", "failed"] {
        let labels = format!("application=\"{app}\",model=\"a\",result=\"{result}\"");
        let series = format!("clipper_application_asked_models_total{{{labels}}}");
        asked += cluster.metric(0, &series).await.unwrap();
    }
    asked
}

#[tokio::test]
async fn every_policy_leaves_a_model_that_computes_for_ever_and_tries_it_again_once_it_answers() {
    let cluster = Cluster::start().await;
    for model in ["a", "b"] {
        cluster.add_model(model, "1", "doubles").await;
    }
    let [a, _b] = [Automaton::serve(&cluster, "a").await, Automaton::serve(&cluster, "b").await];
    for (number, policy) in policies().iter().enumerate() {
        for reward in [None, Some(1.0)] {
            a.hold();
            let app = format!("app{number}-{}", if reward.is_some() { "judged" } else { "alone" });
            add_app(&cluster, &app, policy).await;
            let dead = ask(&cluster, &app, SOON, reward).await;
            assert!(dead.defaults <= SOON / 10, "{policy}: {dead:?}");
            let series = format!("clipper_selection_availability{{application=\"{app}\",model=\"a\"}}");
            eventually("it is told", async || {
                cluster.metric(0, &series).await.is_some_and(|available| available < 0.99)
            })
            .await;
            let asked = asked(&cluster, &app).await;
            a.answer_after(Duration::ZERO);
            ask(&cluster, &app, SOON, reward).await;
            assert!(self::asked(&cluster, &app).await > asked, "{policy}: it is not tried again");
            // Its queue takes a while to hand it a query: it computed so long that it seems too slow for all.
            eventually("it answers", async || {
                ask(&cluster, &app, SOON, reward).await.by_model.contains_key("a")
            })
            .await;
        }
    }
    let state = cluster.read("get_state", json!({"app_name": "app0-alone"})).await;
    let models = state["state"]["models"].as_array().unwrap();
    assert!(models.iter().all(|model| model["availability"].as_f64().is_some()), "{state}");

    let logs = cluster.data_dir().join("decisions");
    for app in std::fs::read_dir(&logs).unwrap() {
        let replay =
            program::isolated(program::clipper()).arg("replay").arg(app.unwrap().path()).output().unwrap();
        let text = String::from_utf8_lossy(&replay.stdout).into_owned();
        assert!(replay.status.success(), "{text}{}", String::from_utf8_lossy(&replay.stderr));
        assert!(text.contains("changes"), "{text}");
    }
}

#[tokio::test]
async fn a_container_that_is_stopped_is_left_and_is_asked_again_once_it_goes_on() {
    let cluster = Cluster::start().await;
    let serves = |model| Serves { model, version: "1", input_type: "doubles" };
    for model in ["a", "b"] {
        cluster.add_model(model, "1", "doubles").await;
    }
    let containers = ["a", "b"].map(|model| Container::rust("sum", &cluster, serves(model)));
    for model in ["a", "b"] {
        cluster.connected(model, 1).await;
    }
    for policy in ["exp3", "thompson"] {
        add_app(&cluster, policy, &json!(policy)).await;
        ask(&cluster, policy, 50, Some(1.0)).await;
        containers[0].signal(Signal::SIGSTOP);
        let dead = ask(&cluster, policy, SOON, Some(1.0)).await;
        containers[0].signal(Signal::SIGCONT);
        assert!(dead.defaults <= SOON / 10, "{policy}: {dead:?}");
        cluster.connected("a", 1).await;
        let back = ask(&cluster, policy, SOON, Some(1.0)).await;
        assert!(back.by_model.contains_key("a"), "{policy}: {back:?}");
    }
}

#[tokio::test]
async fn a_model_without_a_replica_is_not_asked_while_another_has_one() {
    let cluster = Cluster::start().await;
    for model in ["a", "b"] {
        cluster.add_model(model, "1", "doubles").await;
    }
    let _b = Automaton::serve(&cluster, "b").await;
    for (number, policy) in policies().iter().enumerate() {
        let app = format!("app{number}");
        add_app(&cluster, &app, policy).await;
        let answers = ask(&cluster, &app, 50, None).await;
        assert_eq!((answers.defaults, answers.by_model.get("b")), (0, Some(&50)), "{policy}: {answers:?}");
    }
}

#[tokio::test]
async fn clients_that_tighten_the_objective_turn_no_policy_away_from_a_model() {
    let cluster = Cluster::start().await;
    for model in ["a", "b"] {
        cluster.add_model(model, "1", "doubles").await;
    }
    let models = [Automaton::serve(&cluster, "a").await, Automaton::serve(&cluster, "b").await];
    add_app(&cluster, "app", &json!("ucb1")).await;
    models.iter().for_each(|model| model.answer_after(Duration::from_millis(20)));
    for number in 0..50 {
        let body = json!({"input": [number], "latency_slo_micros": 1000});
        let answer = cluster.predict("app", body).await;
        assert_eq!(answer["default"], true, "{answer}");
    }
    for model in ["a", "b"] {
        let series = format!("clipper_selection_availability{{application=\"app\",model=\"{model}\"}}");
        assert_eq!(cluster.metric(0, &series).await, Some(1.0));
    }
}
