//! The container port beyond loopback: who may register, and what a stranger learns.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::container::Serves;
use clipper_integration_tests::{Cluster, Container, RawContainer, eventually, program};
use clipper_rpc::input::InputType;
use clipper_rpc::message::{FromContainer, Register};
use clipper_rpc::names::ModelId;
use clipper_rpc::secret::Secret;
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);
const M: Serves<'_> = Serves { model: "m", version: "1", input_type: "doubles" };
const SHARED: &str = "the-token-of-all-containers";

/// The key of the cluster's registration tokens.
fn key(cluster: &Cluster) -> Secret {
    Secret::read(&cluster.data_dir().join("clipper.key")).unwrap()
}

/// The registration token of version 1 of a model, as it is registered now.
async fn token(cluster: &Cluster, model: &str) -> String {
    let url = format!("{}/admin/export", cluster.admin_url());
    let export = cluster.http().get(url).send().await.unwrap().text().await.unwrap();
    let export: serde_json::Value = serde_json::from_str(&export).unwrap();
    let models = export["models"].as_array().unwrap();
    let found = models.iter().find(|one| one["name"] == model).unwrap_or_else(|| panic!("{export}"));
    let generation = found["versions"]["1"]["generation"].as_u64().unwrap();
    let id = ModelId { name: model.parse().unwrap(), version: "1".parse().unwrap() };
    key(cluster).registration_token(&id, generation).reveal().to_owned()
}

fn registration(model: &str, token: Option<&str>) -> Register {
    Register { token: token.map(str::to_owned), ..RawContainer::registration(model) }
}

/// Registers, and expects to be refused; why, and whether to try again.
async fn refused(cluster: &Cluster, register: Register) -> (String, Option<u64>) {
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    container.send(&FromContainer::Register(register));
    container.rejected().await
}

#[tokio::test]
async fn deployed_replicas_serve_beyond_loopback_and_again_after_a_restart_and_a_new_registration() {
    for mut cluster in [Cluster::start_beyond_loopback(&[]).await, Cluster::split_beyond_loopback(2).await] {
        let frontends = cluster.frontends.len().max(1);
        cluster.deploy("sum", "m", "1", "doubles", 2).await;
        cluster.add_app("m", "doubles", OBJECTIVE, true).await;
        cluster.main.kill();
        cluster.main.restart().await;
        for frontend in 0..frontends {
            cluster.ready(frontend).await;
            assert_eq!(cluster.served(frontend, "m", json!({"input": [1, 2]})).await["output"], 3.0);
        }
        // The replicas that run go on when their version is updated.
        cluster.must("update_model", json!({"model_name": "m", "model_version": "1", "batch_size": 7})).await;
        cluster.must("set_num_replicas", json!({"model_name": "m", "num_replicas": 3})).await;
        let version = json!({"model_name": "m", "model_version": "1"});
        cluster.must("delete_versioned_model", version).await;
        cluster.deploy("sum", "m", "1", "doubles", 1).await;
        for frontend in 0..frontends {
            let answer = cluster.predict_at(frontend, "m", json!({"input": [1, 2]})).await;
            assert_eq!(answer["output"], 3.0, "{answer}");
        }
    }
}

#[tokio::test]
async fn a_python_function_that_is_deployed_serves_beyond_loopback() {
    program::python();
    let cluster = Cluster::start_beyond_loopback(&[]).await;
    let python = json!({
        "model_name": "p", "model_version": "1", "input_type": "doubles", "container_kind": "sum",
    });
    cluster.must("deploy_model", python).await;
    cluster.add_app("p", "doubles", OBJECTIVE, true).await;
    assert_eq!(cluster.predict("p", json!({"input": [1, 2]})).await["output"], 3.0);
}

#[tokio::test]
async fn a_stranger_is_told_the_same_whatever_it_names_and_is_not_connected() {
    let cluster = Cluster::start_beyond_loopback(&[]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for token in [None, Some(""), Some("guessed-guessed-guessed"), Some(key(&cluster).reveal())] {
        let expected = refused(&cluster, registration("m", token)).await;
        assert!(expected.0.contains("token"), "{expected:?}");
        assert_eq!(expected.1.is_some(), token.is_some(), "a token may open a moment later: {expected:?}");
        let of = |name: &str| registration(name, token);
        for stranger in [
            of("unknown"),
            of("not a name"),
            Register { version: "2".to_owned(), ..of("m") },
            Register { input_type: InputType::Strings, ..of("m") },
            Register { protocol: 3, ..of("m") },
            Register { instance: Some("x".repeat(1000)), ..of("m") },
        ] {
            assert_eq!(refused(&cluster, stranger.clone()).await, expected, "{stranger:?}");
        }
    }
    assert_eq!(cluster.containers().await, [""; 0]);
}

#[tokio::test]
async fn a_registration_token_opens_its_model_and_its_generation_alone() {
    let cluster = Cluster::start_beyond_loopback(&[]).await;
    for model in ["m", "other"] {
        cluster.serve(model, "doubles", OBJECTIVE).await;
    }
    let first = token(&cluster, "m").await;
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    container.registered(registration("m", Some(&first))).await;
    refused(&cluster, registration("other", Some(&first))).await;

    cluster.must("delete_versioned_model", json!({"model_name": "m", "model_version": "1"})).await;
    cluster.add_model("m", "1", "doubles").await;
    let (_, retry_millis) = refused(&cluster, registration("m", Some(&first))).await;
    assert!(retry_millis.is_some(), "the container may be the one that is ahead");
    let second = token(&cluster, "m").await;
    let mut container = RawContainer::connect(cluster.rpc_address(0));
    container.registered(registration("m", Some(&second))).await;
    let (answer, _) = tokio::join!(cluster.predict("m", json!({"input": [1]})), container.answer_next(0.5));
    assert_eq!(answer["output"], 0.5, "{answer}");
}

#[tokio::test]
async fn the_unix_socket_of_a_frontend_beyond_loopback_asks_for_a_token_as_well() {
    let cluster = Cluster::start_beyond_loopback(&[]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let endpoint = format!("ipc://@clipper/{}", cluster.rpc_address(0));
    let mut container = RawContainer::connect_to(&endpoint);
    container.send(&FromContainer::Register(registration("m", None)));
    assert!(container.rejected().await.0.contains("token"));
    let token = token(&cluster, "m").await;
    container.registered(registration("m", Some(&token))).await;
}

#[tokio::test]
async fn containers_of_both_sdks_register_with_the_token_of_the_cluster_by_variable_and_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{SHARED}\n")).unwrap();
    let file = file.to_str().unwrap();
    let cluster = Cluster::start_beyond_loopback(&["--container-token-file", file]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    let (token, token_file) = ([("CLIPPER_TOKEN", SHARED)], [("CLIPPER_TOKEN_FILE", file)]);
    let _containers = [
        Container::rust_with(&token, "sum", &cluster, M),
        Container::rust_with(&token_file, "sum", &cluster, M),
        Container::python_with(&token, "sum", &cluster, M),
        Container::python_with(&token_file, "sum", &cluster, M),
    ];
    cluster.connected("m", 4).await;
    assert_eq!(cluster.predict("m", json!({"input": [1, 2]})).await["output"], 3.0);
    // Who has it may ask for what is not registered yet, and is told so.
    let (reason, _) = refused(&cluster, registration("later", Some(SHARED))).await;
    assert_eq!(reason, "version '1' of model 'later' is not registered");
}

#[tokio::test]
async fn real_containers_without_a_token_end_with_what_to_do() {
    let cluster = Cluster::start_beyond_loopback(&[]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for mut container in [Container::rust("sum", &cluster, M), Container::python("sum", &cluster, M)] {
        assert!(!container.end().await.success());
        let log = container.log();
        assert!(log.contains("--container-token-file") && log.contains("CLIPPER_TOKEN"), "{log}");
    }
}

#[tokio::test]
async fn old_containers_serve_beyond_loopback_where_no_token_is_asked_for() {
    let cluster = Cluster::start_beyond_loopback(&["--insecure-containers"]).await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    assert!(cluster.main.log().contains("containers need no token"), "{}", cluster.main.log());
    let mut container = RawContainer::register(&cluster, "m").await;
    let (answer, _) = tokio::join!(cluster.predict("m", json!({"input": [1]})), container.answer_next(0.5));
    assert_eq!(answer["output"], 0.5, "{answer}");
}

#[tokio::test]
async fn on_loopback_a_container_registers_without_a_token_and_with_any() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    for token in [None, Some(""), Some("of long ago")] {
        let mut container = RawContainer::connect(cluster.rpc_address(0));
        container.registered(registration("m", token)).await;
    }
}

#[tokio::test]
async fn strangers_are_logged_once_each_with_what_they_asked_for() {
    let cluster = Cluster::start_beyond_loopback(&[]).await;
    let of = |cluster: &Cluster| cluster.main.log().matches("container turned away").count();
    let mut stranger = RawContainer::connect(cluster.rpc_address(0));
    for _ in 0..3 {
        stranger.send(&FromContainer::Register(registration("secret\nmodel", Some("guess-of-a-token"))));
        stranger.rejected().await;
    }
    eventually("it is logged", async || of(&cluster) == 1).await;
    let log = cluster.main.log();
    assert!(log.contains("secret\\nmodel") && !log.contains("guess-of-a-token"), "{log}");
}

#[tokio::test]
async fn tokens_appear_in_no_log_no_command_line_and_no_answer() {
    let variables = [("CLIPPER_CONTAINER_TOKEN", SHARED)];
    let cluster = Cluster::start_beyond_loopback_with(&["--log-level", "trace"], &variables).await;
    let script = format!("env | cut -d= -f1; exec {}", program::example("sum").display());
    let body = json!({
        "model_name": "m", "model_version": "1", "input_type": "doubles", "command": ["sh", "-c", script],
    });
    cluster.must("deploy_model", body).await;
    refused(&cluster, registration("m", Some("not-the-one-of-this-version"))).await;
    RawContainer::connect(cluster.rpc_address(0)).registered(registration("m", Some(SHARED))).await;

    let logs = cluster.read("get_replica_logs", json!({"model_name": "m"})).await;
    let variables: Vec<_> =
        logs["m:1:0"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
    assert!(variables.contains(&"CLIPPER_TOKEN"), "{variables:?}");
    assert!(!variables.iter().any(|name| name.starts_with("CLIPPER_CONTAINER")), "{variables:?}");

    let (token, key) = (token(&cluster, "m").await, key(&cluster));
    let mut said = vec![cluster.main.log(), format!("{:?}", cluster.offspring())];
    for call in ["get_deployments", "get_all_containers", "get_all_models"] {
        said.push(cluster.admin(call, json!({})).await.text);
    }
    for path in ["/admin/export", "/metrics", "/openapi.json"] {
        let url = format!("{}{path}", cluster.admin_url());
        said.push(cluster.http().get(url).send().await.unwrap().text().await.unwrap());
    }
    for text in said {
        for secret in [SHARED, token.as_str(), key.reveal(), "not-the-one-of-this-version"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
