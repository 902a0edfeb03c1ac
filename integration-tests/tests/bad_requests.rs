//! Every refusal of a prediction request: its status, its kind, and a sentence that says what was expected.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::time::Duration;

use clipper_integration_tests::{Answer, Cluster};
use serde_json::json;

const OBJECTIVE: Duration = Duration::from_secs(20);

/// A cluster with an application of each input type, none of them linked.
async fn cluster(flags: &[&str]) -> Cluster {
    let cluster = Cluster::start_with(flags).await;
    for input_type in ["ints", "floats", "doubles", "strings", "bytes"] {
        cluster.add_app(input_type, input_type, OBJECTIVE, false).await;
    }
    cluster
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_with_the_place_and_what_was_expected() {
    let cluster = cluster(&[]).await;
    let cases = [
        ("doubles", "", "the body is empty; expected JSON such as {\"input\": [1.1, 2.2]}"),
        ("doubles", "not JSON", "expected JSON such as"),
        ("doubles", "{\"input\": [1", "EOF while parsing a list"),
        ("doubles", "[1]", "expected an object with 'input' or 'input_batch'"),
        ("doubles", "{}", "'input' and 'input_batch' are missing"),
        ("doubles", "{\"input\": [1], \"input_batch\": [[1]]}", "only one of 'input' and 'input_batch'"),
        ("doubles", "{\"inptu\": [1]}", "unknown field `inptu`, expected one of `input`"),
        ("doubles", "{\"input\": 5}", "input: invalid type: integer `5`, expected a list of numbers"),
        (
            "doubles",
            "{\"input\": [1, \"x\"]}",
            "input: element 1: invalid type: string \"x\", expected a number",
        ),
        ("ints", "{\"input\": [1, null]}", "input: element 1: invalid type: null, expected a 32-bit integer"),
        ("ints", "{\"input\": [NaN]}", "input: element 0: invalid type: NaN, expected a 32-bit integer"),
        ("doubles", "{\"input\": [1e400]}", "input: element 0: number out of range"),
        ("doubles", "{\"input\": [1], \"version\": \"a b\"}", "version: 'a b' is not a valid model version"),
        ("doubles", "{\"input\": [1], \"uid\": 1.5}", "expected an integer or a text"),
        ("doubles", "{\"input\": [1], \"context\": \"x\"}", "context: invalid type: string \"x\""),
        (
            "doubles",
            "{\"input\": [1], \"latency_slo_micros\": 0}",
            "expected a positive number of microseconds",
        ),
        (
            "doubles",
            "{\"input\": [1], \"latency_slo_micros\": -5}",
            "expected a positive number of microseconds",
        ),
        ("floats", "{\"input\": [1e39]}", "input: element 0: 1e39 is out of range, expected a 32-bit float"),
        ("ints", "{\"input\": [3000000000]}", "3000000000 is out of range, expected a 32-bit integer"),
        ("ints", "{\"input\": [1.5]}", "invalid type: floating point `1.5`, expected a 32-bit integer"),
        (
            "ints",
            "{\"input_batch\": [[1], [2, true]]}",
            "input_batch: input 1: element 1: invalid type: boolean",
        ),
        ("ints", "{\"input_batch\": [1]}", "input_batch: input 0: invalid type: integer `1`"),
        ("strings", "{\"input\": [\"a\"]}", "input: invalid type: sequence, expected a text"),
        ("strings", "{\"input\": 7}", "expected a text (the application takes strings)"),
        ("bytes", "{\"input\": \"!!!\"}", "input: not base64"),
        ("bytes", "{\"input\": [1]}", "expected a base64 text (the application takes bytes)"),
    ];
    for (app, body, expected) in cases {
        let cause = cluster.ask(0, app, body).await.refusal(400, "Json error");
        assert!(cause.contains(expected), "{body}\n  said: {cause}\n  not:  {expected}");
    }
    let deep = "[".repeat(100_000);
    for body in [deep.clone(), format!("{{\"input\": {deep}"), format!("{{\"uid\": {deep}")] {
        cluster.ask(0, "doubles", body).await.refusal(400, "Json error");
    }
}

#[tokio::test]
async fn a_body_that_is_not_utf8_is_refused() {
    let cluster = cluster(&[]).await;
    let url = format!("{}/strings/predict", cluster.query_url(0));
    let sent = cluster.http().post(url).body(b"{\"input\": \"\xff\xfe\"}".to_vec()).send().await.unwrap();
    Answer::read(sent).await.unwrap().refusal(400, "Json error");
}

#[tokio::test]
async fn unknown_applications_and_paths_are_not_found() {
    let cluster = cluster(&[]).await;
    let cause = cluster.ask(0, "nobody", json!({"input": [1]})).await.refusal(404, "Unknown application");
    assert_eq!(cause, "there is no application named 'nobody'");
    for path in ["/nowhere", "/doubles/predict/more", "/doubles", "//predict", "/doubles/predict/"] {
        let sent = cluster.http().post(format!("{}{path}", cluster.query_url(0))).send().await.unwrap();
        let answer = Answer::read(sent).await.unwrap();
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(answer.json()["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{path}");
    }
}

#[tokio::test]
async fn wrong_methods_are_refused_with_those_that_are_allowed() {
    let cluster = cluster(&[]).await;
    let cases = [
        ("GET", "/doubles/predict", "POST"),
        ("DELETE", "/doubles/predict", "POST"),
        ("POST", "/readyz", "GET"),
    ];
    for (method, path, allowed) in cases {
        let url = format!("{}{path}", cluster.query_url(0));
        let sent = cluster.http().request(method.parse().unwrap(), url).send().await.unwrap();
        let allow = sent.headers().get("allow").map(|value| value.to_str().unwrap().to_owned());
        let answer = Answer::read(sent).await.unwrap();
        let cause = answer.refusal(405, "Method not allowed");
        assert!(cause.contains(path) && cause.contains(method), "{cause}");
        assert!(allow.is_some_and(|allow| allow.contains(allowed)), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not() {
    let cluster = cluster(&["--max-body-bytes", "1000"]).await;
    let large = json!({"input": vec![1; 1000]}).to_string();
    let cause = cluster.ask(0, "ints", &large).await.refusal(413, "Body too large");
    assert_eq!(cause, "the body is larger than 1000 bytes");
    let chunked = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let request = "POST /ints/predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(&cluster, format!("{request}{chunked}")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let small = json!({"input": vec![1; 300]});
    assert_eq!(cluster.predict("ints", small).await["default_reason"], "no_linked_models");
}

/// Sends bytes to the first frontend, and reads until it closes the connection.
async fn raw(cluster: &Cluster, request: String) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = cluster.frontend(0).addresses().query.unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_of_another_type_than_json_is_refused() {
    let cluster = cluster(&[]).await;
    let send = async |content_type: &str| {
        let request = cluster.http().post(format!("{}/ints/predict", cluster.query_url(0)));
        let sent =
            request.header("content-type", content_type).body("{\"input\": [1]}").send().await.unwrap();
        Answer::read(sent).await.unwrap()
    };
    for content_type in ["image/png", "text/xml; charset=utf-8", "multipart/form-data; boundary=x"] {
        let cause = send(content_type).await.refusal(415, "Unsupported content type");
        assert_eq!(
            cause,
            format!("the body has the content type '{content_type}'; expected application/json")
        );
    }
    // What `curl -d` and hasty clients say of JSON.
    for content_type in ["application/json; charset=utf-8", "application/x-www-form-urlencoded", "text/plain"]
    {
        assert_eq!(send(content_type).await.status, 200, "{content_type}");
    }
}

#[tokio::test]
async fn management_refuses_what_does_not_fit_in_the_words_of_the_original() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    cluster.add_model("texts", "1", "strings").await;
    let cases = [
        (
            "add_app",
            json!({"name": "m", "input_type": "doubles", "default_output": "", "latency_slo_micros": 1}),
            "application 'm' already exists",
        ),
        ("delete_app", json!({"name": "x"}), "Application 'x' does not exist"),
        ("add_model_links", json!({"app_name": "x", "model_names": ["m"]}), "No app with name 'x' exists."),
        ("add_model_links", json!({"app_name": "m", "model_names": ["x"]}), "No model with name 'x' exists."),
        (
            "add_model_links",
            json!({"app_name": "m", "model_names": ["texts"]}),
            "Model with name 'texts' has incompatible input_type 'strings'. Requested app to link to has input_type 'doubles'.",
        ),
        (
            "add_model_links",
            json!({"app_name": "m", "model_names": ["m"]}),
            "The model with name 'm' is already linked to 'm'",
        ),
        (
            "delete_model_links",
            json!({"app_name": "m", "model_names": ["texts"]}),
            "Cannot remove nonexistent link between app m and model texts",
        ),
        ("get_linked_models", json!({"app_name": "x"}), "No application with name 'x' exists."),
        (
            "add_model",
            json!({"model_name": "m", "model_version": "1", "input_type": "doubles", "labels": []}),
            "model with name 'm' and version '1' already exists",
        ),
        (
            "add_model",
            json!({"model_name": "m", "model_version": "2", "input_type": "doubles", "labels": [], "batch_size": 0}),
            "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1",
        ),
        (
            "set_model_version",
            json!({"model_name": "x", "model_version": "1"}),
            "Cannot set version for nonexistent model 'x'",
        ),
        (
            "set_model_version",
            json!({"model_name": "m", "model_version": "9"}),
            "Cannot set non-existent version '9' for model with name 'm'",
        ),
        (
            "delete_versioned_model",
            json!({"model_name": "m", "model_version": "9"}),
            "model with name 'm' and version '9' does not exist",
        ),
        (
            "set_num_replicas",
            json!({"model_name": "m", "num_replicas": 2}),
            "No deployment of model with name 'm' and version '1' exists.",
        ),
    ];
    for (path, body, expected) in cases {
        assert_eq!(cluster.admin(path, body).await.refusal(400, "Request error"), expected);
    }
    for body in [json!({}), json!({"name": 1.5}), json!([1]), json!("x")] {
        let cause = cluster.admin("add_app", body).await.refusal(400, "Json error");
        assert!(cause.starts_with("Error parsing JSON: "), "{cause}");
        assert!(cause.contains("Expected JSON schema: "), "{cause}");
    }
    // A refused input type is answered, where the original let its clients hang.
    for (name, input_type, expected) in [
        ("a b", "ints", "'a b' is not a valid application name"),
        ("metrics", "ints", "'metrics' is reserved and cannot name an application"),
        ("y", "tensors", "'tensors' is not an input type; expected one of"),
    ] {
        let body =
            json!({"name": name, "input_type": input_type, "default_output": "", "latency_slo_micros": 1});
        let cause = cluster.admin("add_app", body).await.refusal(400, "Request error");
        assert!(cause.starts_with(expected), "{cause}");
    }
    cluster.admin("nowhere", json!({})).await.refusal(404, "Not found");
    let sent = cluster.http().get(format!("{}/admin/add_app", cluster.admin_url())).send().await.unwrap();
    Answer::read(sent).await.unwrap().refusal(405, "Method not allowed");
}

#[tokio::test]
async fn a_deleted_application_is_gone_with_its_links() {
    let cluster = Cluster::start().await;
    cluster.serve("m", "doubles", OBJECTIVE).await;
    cluster.must("delete_app", json!({"name": "m"})).await;
    cluster.ask(0, "m", json!({"input": [1]})).await.refusal(404, "Unknown application");
    cluster.add_app("m", "doubles", OBJECTIVE, false).await;
    let answer = cluster.predict("m", json!({"input": [1]})).await;
    assert_eq!(answer["default_reason"], "no_linked_models", "{answer}");
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    let cluster = cluster(&[]).await;
    let request = cluster.http().post(format!("{}/ints/predict", cluster.query_url(0)));
    let sent = request.header("content-encoding", "gzip").body("{\"input\": [1]}").send().await.unwrap();
    let cause = Answer::read(sent).await.unwrap().refusal(415, "Unsupported content encoding");
    assert_eq!(cause, "the body has the content encoding 'gzip'; expected none");
}

#[tokio::test]
async fn a_body_that_never_arrives_is_given_up() {
    let cluster = cluster(&[]).await;
    let begun = "POST /ints/predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 14\r\n\r\n{\"inp";
    let answer = raw(&cluster, begun.to_owned()).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"Body too slow\""), "{answer}");
}

#[tokio::test]
async fn probes_may_ask_by_head() {
    let cluster = cluster(&[]).await;
    for path in ["/", "/livez", "/readyz"] {
        let sent = cluster.http().head(format!("{}{path}", cluster.query_url(0))).send().await.unwrap();
        assert_eq!(sent.status(), 200, "{path}");
    }
}
