//! The OpenAPI documents that the servers serve describe what the servers take and answer.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::{Answer, Cluster};
use serde_json::{Value, json};

/// A server with its description of itself.
struct Documented<'a> {
    cluster: &'a Cluster,
    url: String,
    document: Value,
}

impl<'a> Documented<'a> {
    async fn fetch(cluster: &'a Cluster, url: String) -> Self {
        let sent = cluster.http().get(format!("{url}/openapi.json")).send().await.unwrap();
        let document = Answer::read(sent).await.unwrap().json();
        assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{document}");
        Self { cluster, url, document }
    }

    /// Calls a documented path, and checks that the answer, and the request if it was taken, are as described.
    async fn call(&self, method: &str, template: &str, path: &str, body: Option<Value>) -> Answer {
        let operation = &self.document["paths"][template][method];
        assert!(operation.is_object(), "{method} {template} is not documented");
        let method = method.to_uppercase().parse().unwrap();
        let mut request = self.cluster.http().request(method, format!("{}{path}", self.url));
        if let Some(body) = &body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let sent = request.send().await.unwrap();
        let content_type = sent.headers()["content-type"].to_str().unwrap();
        let content_type = content_type.split(';').next().unwrap().to_owned();
        let answer = Answer::read(sent).await.unwrap();
        let described = &operation["responses"][answer.status.to_string()];
        let schema = &described["content"][&content_type]["schema"];
        assert!(
            schema.is_object(),
            "{path} answers {} {content_type}, not described: {answer:?}",
            answer.status
        );
        let value = if content_type == "application/json" { answer.json() } else { json!(answer.text) };
        self.validate(schema, &value);
        if let (200, Some(body)) = (answer.status, &body) {
            self.validate(&operation["requestBody"]["content"]["application/json"]["schema"], body);
        }
        answer
    }

    fn validate(&self, schema: &Value, value: &Value) {
        let mut schema = schema.clone();
        // References are to `#/components/schemas/...`.
        schema["components"] = self.document["components"].clone();
        let validator =
            jsonschema::validator_for(&schema).unwrap_or_else(|error| panic!("{error}: {schema}"));
        let errors: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        schema["components"] = Value::Null;
        assert!(errors.is_empty(), "{value} is not {schema}: {errors:?}");
    }
}

#[tokio::test]
async fn the_query_frontend_answers_as_its_document_says() {
    let cluster = Cluster::start_with(&["--max-body-bytes", "1000"]).await;
    cluster.deploy("sum", "m", "1", "doubles", 1).await;
    cluster.add_app("m", "doubles", Duration::from_secs(20), true).await;
    cluster.add_app("alone", "doubles", Duration::from_secs(20), false).await;
    let server = Documented::fetch(&cluster, cluster.query_url(0)).await;
    let predict = async |path: &str, body: Value, status: u16| {
        let answer = server.call("post", "/{app}/predict", path, Some(body)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    };
    predict("/m/predict", json!({"input": [1, 2]}), 200).await;
    let full = json!({
        "input": [1, 2], "uid": "anna", "version": "1", "context": [0.5, 1], "latency_slo_micros": 10_000_000,
    });
    predict("/m/predict", full, 200).await;
    predict("/m/predict", json!({"input_batch": [[1, 2], []]}), 200).await;
    predict("/alone/predict", json!({"input": [1, 2]}), 200).await;
    predict("/m/predict", json!({"input": "x"}), 400).await;
    predict("/m/predict", json!({"input": [1], "version": "9"}), 400).await;
    predict("/nobody/predict", json!({"input": [1]}), 404).await;
    predict("/m/predict", json!({"input": vec![1; 1000]}), 413).await;
    assert_eq!(server.call("get", "/metrics", "/metrics", None).await.status, 200);
}

#[tokio::test]
async fn management_answers_as_its_document_says() {
    let cluster = Cluster::start().await;
    let server = Documented::fetch(&cluster, cluster.admin_url()).await;
    let call = async |path: &str, body: Value, status: u16| {
        let path = format!("/admin/{path}");
        let answer = server.call("post", &path, &path, Some(body)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    };
    let app = json!({"name": "a", "input_type": "doubles", "default_output": "-1", "latency_slo_micros": 100_000,
            "cache": false, "max_concurrent_requests": 100, "on_overload": "refuse"});
    call("add_app", app.clone(), 200).await;
    call("add_app", app, 400).await;
    call("add_app", json!({"name": 5}), 400).await;
    for bound in [json!(7), Value::Null] {
        call("update_app", json!({"name": "a", "max_concurrent_requests": bound}), 200).await;
        call("get_application", json!({"name": "a"}), 200).await;
    }
    let all = json!({"name": "a", "default_output": {"a": 1}, "latency_slo_micros": 5, "cache": true,
        "on_overload": "default"});
    call("update_app", all, 200).await;
    call("update_app", json!({"name": "a"}), 400).await;
    let model = json!({
        "model_name": "m", "model_version": "1", "labels": ["old"], "input_type": "doubles",
        "container_name": "x", "model_data_path": "/x", "batch_size": -1, "batching": "quantile", "cache": false,
    });
    call("add_model", model, 200).await;
    for batching in
        [json!({"strategy": "fixed", "wait_micros": null}), json!({"wait_micros": 500}), json!("aimd")]
    {
        let update = json!({"model_name": "m", "model_version": "1", "labels": [], "batch_size": 8,
            "batching": batching, "cache": true});
        call("update_model", update, 200).await;
        call("get_model", json!({"model_name": "m", "model_version": "1"}), 200).await;
    }
    call("update_model", json!({"model_name": "m", "model_version": "1"}), 400).await;
    call("add_model_links", json!({"app_name": "a", "model_names": ["m"]}), 200).await;
    call("get_linked_models", json!({"app_name": "a"}), 200).await;
    let deployment = json!({
        "model_name": "m", "model_version": "2", "input_type": "doubles", "num_replicas": 1, "labels": [],
        "command": [clipper_integration_tests::program::example("sum")], "environment": {"A": "b"}, "timeout_seconds": 30,
        "batching": {"strategy": "aimd", "wait_micros": 2000}, "cache": false,
    });
    call("deploy_model", deployment, 200).await;
    call("set_num_replicas", json!({"model_name": "m", "num_replicas": 2, "timeout_seconds": 30}), 200).await;
    call("set_num_replicas", json!({"model_name": "x", "num_replicas": 2}), 400).await;
    call("get_deployments", json!({}), 200).await;
    call("get_replica_logs", json!({"model_name": "m", "lines": 3}), 200).await;
    for verbose in [true, false] {
        for path in ["get_all_applications", "get_all_models", "get_all_containers"] {
            call(path, json!({"verbose": verbose}), 200).await;
        }
    }
    for name in ["a", "nobody"] {
        call("get_application", json!({"name": name}), 200).await;
    }
    for version in ["2", "9"] {
        call("get_model", json!({"model_name": "m", "model_version": version}), 200).await;
        let container = json!({"model_name": "m", "model_version": version, "replica_id": 1});
        call("get_container", container, 200).await;
    }
    call("get_state", json!({"app_name": "a", "uid": 0}), 200).await;
    call("set_model_version", json!({"model_name": "m", "model_version": "1"}), 200).await;
    call("stop_versioned_models", json!({"model_versions": {"m": ["2"]}}), 200).await;
    call("stop_models", json!({"model_names": ["x"]}), 400).await;
    call("stop_inactive_model_versions", json!({"model_names": ["m"]}), 200).await;
    call("stop_all_models", json!({}), 200).await;
    call("delete_model_links", json!({"app_name": "a", "model_names": ["m"]}), 200).await;
    call("delete_versioned_model", json!({"model_name": "m", "model_version": "1"}), 200).await;
    call("delete_app", json!({"name": "a"}), 200).await;
    for path in ["/", "/livez", "/readyz", "/admin/ping", "/admin/export", "/metrics", "/admin/metrics"] {
        assert_eq!(server.call("get", path, path, None).await.status, 200, "{path}");
    }
}
