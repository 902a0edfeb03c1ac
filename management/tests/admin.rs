//! Every call of the admin interface over HTTP: the words of success, and those of each refusal.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, Server, model};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn server() -> (tempfile::TempDir, Server, Client) {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path()).await;
    let client = server.client.clone();
    (directory, server, client)
}

#[tokio::test]
async fn applications_are_added_described_and_deleted() {
    let (_directory, _server, client) = server().await;
    let a = json!({"name": "a", "input_type": "int", "default_output": "-1.0", "latency_slo_micros": 100_000,
            "selection_seed": 7});
    assert_eq!(client.says("add_app", a.clone()).await, "Successfully added application with name 'a'");
    assert_eq!(client.refuses("add_app", a).await, "application 'a' already exists");
    let b = json!({"name": "b", "input_type": "strings", "default_output": {"no": [1, 2.50]},
        "latency_slo_micros": 1, "linked_models": ["later"]});
    client.says("add_app", b).await;

    assert_eq!(client.answers("get_all_applications", json!({"verbose": false})).await, json!(["a", "b"]));
    assert_eq!(client.answers("get_all_applications", json!({})).await, json!(["a", "b"]));
    let described_a = json!({"name": "a", "input_type": "integers", "default_output": "-1.0",
        "latency_slo_micros": 100_000, "policy": "default_output", "linked_models": [], "cache": true,
        "max_concurrent_requests": null, "on_overload": "default",
        "selection_policy": {"policy": "default_output"}, "confidence_threshold": null,
        "loss": {"loss": "zero_one"}, "output_kind": "detected", "log_decisions": false, "selection_seed": 7});
    let described_b = json!({"name": "b", "input_type": "strings", "default_output": "{\"no\":[1,2.50]}",
        "latency_slo_micros": 1, "policy": "default_output", "linked_models": ["later"]});
    // The default output keeps the digits that it was given.
    let all = client.answers("get_all_applications", json!({"verbose": true})).await;
    assert_eq!(all[0], described_a);
    assert_eq!(all[1]["default_output"].as_str().unwrap().replace(' ', ""), "{\"no\":[1,2.5]}");
    assert_eq!(all[1]["linked_models"], described_b["linked_models"]);
    assert_eq!(client.answers("get_application", json!({"name": "a"})).await, described_a);
    assert_eq!(client.answers("get_application", json!({"name": "c"})).await, json!({}));

    assert_eq!(
        client.says("delete_app", json!({"name": "a"})).await,
        "Successfully deleted application with name 'a'"
    );
    assert_eq!(client.refuses("delete_app", json!({"name": "a"})).await, "Application 'a' does not exist");
}

#[tokio::test]
async fn an_application_that_makes_no_sense_is_refused() {
    let (_directory, _server, client) = server().await;
    let app = |change: Value| {
        let mut app =
            json!({"name": "a", "input_type": "ints", "default_output": "", "latency_slo_micros": 1});
        app.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        app
    };
    for (change, cause) in [
        (json!({"name": "a/b"}), "'a/b' is not a valid application name: it must consist of 1 to 63 letters"),
        (json!({"name": "metrics"}), "'metrics' is reserved and cannot name an application"),
        (
            json!({"name": 1.5}),
            "name: invalid type: floating point `1.5`, expected text that is a valid application",
        ),
        (json!({"input_type": "tensor"}), "'tensor' is not an input type; expected one of: bytes, ints"),
        (json!({"latency_slo_micros": 0}), "The latency objective must be at least 1 microsecond, it is 0"),
        (
            json!({"latency_slo_micros": -1}),
            "latency_slo_micros: invalid value: integer `-1`, expected a whole number of at least 0. ",
        ),
        (json!({"cache": "yes"}), "cache: invalid type: string \"yes\", expected a boolean. "),
        (
            json!({"max_concurrent_requests": 0}),
            "max_concurrent_requests must be at least 1, or null for no bound; it is 0",
        ),
        (
            json!({"max_concurrent_requests": -1}),
            "max_concurrent_requests: invalid value: integer `-1`, expected a whole number from 0 to 4294967295. ",
        ),
        (
            json!({"on_overload": "panic"}),
            "on_overload: unknown variant `panic`, expected `default` or `refuse`. ",
        ),
        (json!({"linked_models": ["m", 0.5]}), "linked_models[1]: invalid type: floating point `0.5`"),
        (json!({"linked_models": "m"}), "linked_models: invalid type: string \"m\", expected a list. "),
        (json!({"linked_models": ["m", "n"]}), "A model with name m is already linked to 'a'."),
        (
            json!({"selection_policy": "exp5"}),
            "selection_policy: unknown variant `exp5`, expected one of `default_output`, `exp3`, `exp3_ix`, ",
        ),
        (
            json!({"selection_policy": {"policy": "exp4", "etta": 1}}),
            "selection_policy: unknown parameter `etta`, expected `eta` or `share`",
        ),
        (json!({"selection_policy": {"policy": "exp4", "eta": -1}}), "selection_policy: eta "),
        (
            json!({"selection_policy": 3}),
            "selection_policy: expected the name of a policy, or an object such as {\"policy\": \"exp4\"",
        ),
        (json!({"confidence_threshold": 1.5}), "confidence_threshold"),
        (
            json!({"confidence_threshold": "1"}),
            "confidence_threshold: invalid type: string \"1\", expected a number. ",
        ),
        (json!({"loss": {"loss": "absolute"}}), "loss: missing parameter `scale`"),
        (json!({"loss": {"loss": "absolute", "scale": 0}}), "loss"),
        (json!({"output_kind": "words"}), "output_kind: expected \"detected\", \"labels\" or \"numbers\""),
        (
            json!({"selection_seed": 1_u64 << 53}),
            "selection_seed must be below 2^53, so that every reader of JSON reads it exactly; it is 9007199254740992",
        ),
    ] {
        let refused = client.refuses("add_app", app(change)).await;
        assert!(refused.contains(cause), "{refused}");
    }
    assert_eq!(client.answers("get_all_applications", json!({})).await, json!([]));
}

#[tokio::test]
async fn an_application_is_changed_while_it_lives() {
    let (_directory, _server, client) = server().await;
    client
        .says(
            "add_app",
            json!({"name": "a", "input_type": "doubles", "default_output": "-1.0", "latency_slo_micros": 1000,
                "linked_models": ["m"], "cache": false, "max_concurrent_requests": 8, "on_overload": "refuse",
                "selection_policy": {"policy": "exp4", "eta": 0.5}, "selection_seed": 7}),
        )
        .await;
    let mut described = json!({"name": "a", "input_type": "doubles", "default_output": "-1.0",
        "latency_slo_micros": 1000, "policy": "exp4", "linked_models": ["m"], "cache": false,
        "max_concurrent_requests": 8, "on_overload": "refuse",
        "selection_policy": {"policy": "exp4", "eta": 0.5, "share": 0.001}, "confidence_threshold": null,
        "loss": {"loss": "zero_one"}, "output_kind": "detected", "log_decisions": false, "selection_seed": 7});
    let named = || json!({"name": "a"});
    assert_eq!(client.answers("get_application", named()).await, described);

    for change in [
        json!({"default_output": [0.5]}),
        json!({"latency_slo_micros": 2000, "cache": true}),
        json!({"max_concurrent_requests": null}),
        // Null is no value of these, so it says nothing of them.
        json!({"max_concurrent_requests": 9, "on_overload": "default", "cache": null}),
        json!({"selection_policy": {"policy": "exp4", "eta": 0.1, "share": 0.0}, "selection_seed": 8}),
        json!({"confidence_threshold": 0.75, "loss": {"loss": "squared", "scale": 10.0}}),
        json!({"confidence_threshold": null, "output_kind": "numbers", "log_decisions": true}),
    ] {
        let mut body = named();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let said = client.says("update_app", body).await;
        assert_eq!(said, "Successfully updated application with name 'a'");
        for (field, value) in change.as_object().unwrap() {
            match field.as_str() {
                "default_output" => described[field] = json!("[0.5]"),
                "cache" if value.is_null() => {}
                _ => described[field] = value.clone(),
            }
        }
        assert_eq!(client.answers("get_application", named()).await, described, "{change}");
    }

    for (body, cause) in [
        (json!({"name": "b", "cache": true}), "Application 'b' does not exist"),
        (named(), "There is nothing to update; expected at least one of: default_output, latency_slo_micros"),
        (json!({"name": "a", "latency_slo_micros": 0}), "must be at least 1 microsecond, it is 0"),
        (json!({"name": "a", "max_concurrent_requests": 0}), "at least 1, or null for no bound; it is 0"),
        (json!({"name": "a", "on_overload": 3}), "on_overload: invalid type: integer `3`, expected a text. "),
        (json!({"name": "a", "input_type": "ints"}), "unknown field `input_type`, expected one of `name`"),
        (json!({"cache": true}), "missing field `name`"),
    ] {
        let refused = client.refuses("update_app", body).await;
        assert!(refused.contains(cause), "{refused}");
    }
    assert_eq!(client.answers("get_application", named()).await, described);
}

#[tokio::test]
async fn a_version_is_registered_with_its_batching_and_changed_while_it_lives() {
    let (_directory, _server, client) = server().await;
    let named = || json!({"model_name": "m", "model_version": "1"});
    let extended = |mut body: Value, fields: &Value| {
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let registered = extended(
        model("m", "1", "doubles"),
        &json!({"cache": false, "batching": {"strategy": "aimd", "wait_micros": 2000}}),
    );
    client.says("add_model", registered).await;
    client.says("add_model", extended(model("m", "2", "doubles"), &json!({"batching": "quantile"}))).await;
    let batching = client.answers("get_all_models", json!({"verbose": true})).await[1]["batching"].clone();
    assert_eq!(batching, json!({"strategy": "quantile", "wait_micros": null}));

    let mut described = json!({"model_name": "m", "model_version": "1", "load": 0.0, "input_type": "doubles",
        "container_name": "noop", "model_data_path": "/models", "labels": ["blue"], "is_current_version": false,
        "batch_size": -1, "batching": {"strategy": "aimd", "wait_micros": 2000}, "cache": false});
    assert_eq!(client.answers("get_model", named()).await, described);
    for change in [
        json!({"cache": true, "labels": ["green"]}),
        json!({"batch_size": 16, "batching": {"strategy": "fixed", "wait_micros": null}}),
        json!({"batching": {"strategy": "adaptive", "wait_micros": 60_000_000}}),
        json!({"batch_size": -1}),
    ] {
        let said = client.says("update_model", extended(named(), &change)).await;
        assert_eq!(said, "Successfully updated model with name 'm' and version '1'");
        described = extended(described, &change);
        assert_eq!(client.answers("get_model", named()).await, described, "{change}");
    }
    client.says("update_model", extended(named(), &json!({"batching": {}}))).await;
    described["batching"] = json!({"strategy": "adaptive", "wait_micros": null});

    let fixed = "The batching strategy 'fixed' needs a positive batch_size, which is the size of its batches";
    for (change, cause) in [
        (
            json!({}),
            "There is nothing to update; expected at least one of: batching, batch_size, cache, labels",
        ),
        (json!({"batch_size": 0}), "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1"),
        (json!({"batching": "fixed"}), fixed),
        (
            json!({"batching": {"wait_micros": 60_000_001}}),
            "wait_micros of batching must be at most 60000000 (60 s), it is 60000001",
        ),
        (
            json!({"batching": {"wait_micros": -1}}),
            "batching.wait_micros: invalid value: integer `-1`, expected a whole number from 0 to 4294967295. ",
        ),
        (
            json!({"batching": "best"}),
            "batching: unknown variant `best`, expected one of `adaptive`, `aimd`, `quantile`, `fixed`. ",
        ),
        (
            json!({"batching": {"strategy": "best"}}),
            "batching.strategy: unknown variant `best`, expected one of `adaptive`, `aimd`, `quantile`, `fixed`. ",
        ),
        (
            json!({"batching": {"strategy": 3}}),
            "batching.strategy: invalid type: integer `3`, expected a text. ",
        ),
        (json!({"batching": {"size": 3}}), "unknown field `size`, expected `strategy` or `wait_micros`. "),
        (
            json!({"batching": 3}),
            "batching: invalid type: integer `3`, expected the name of a strategy, or an object with strategy and \
             wait_micros. ",
        ),
        (json!({"input_type": "ints"}), "unknown field `input_type`, expected one of `model_name`"),
        (json!({"generation": 3}), "unknown field `generation`"),
        (json!({"model_version": "9", "cache": true}), "model with name 'm' and version '9' does not exist"),
    ] {
        let refused = client.refuses("update_model", extended(named(), &change)).await;
        assert!(refused.contains(cause), "{refused}");
    }
    let unsized_batches = extended(model("m", "3", "doubles"), &json!({"batching": "fixed"}));
    assert_eq!(client.refuses("add_model", unsized_batches).await, fixed);
    assert_eq!(client.answers("get_model", named()).await, described);
}

#[tokio::test]
async fn a_value_that_breaks_its_own_rule_is_refused_with_that_rule_alone() {
    let (_directory, _server, client) = server().await;
    for (call, body, end) in [
        ("get_application", json!({"name": "a/b"}), "begin with a letter or digit"),
        ("get_application", json!({"name": "metrics"}), "is reserved and cannot name an application"),
        ("get_model", json!({"model_name": "m", "model_version": "é"}), "begin with a letter or digit"),
        ("add_model", model("m", "1", "tensor"), "expected one of: bytes, ints, floats, doubles, strings"),
        ("get_state", json!({"app_name": "a", "uid": []}), "expected uid to be an integer or a text"),
    ] {
        let refused = client.refuses(call, body).await;
        assert!(refused.ends_with(end) && !refused.contains("JSON"), "{refused}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_refused_with_the_schema() {
    let (_directory, _server, client) = server().await;
    for (body, what) in [
        ("", "EOF while parsing a value"),
        ("{", "EOF while parsing an object"),
        ("{}", "missing field `name`"),
        ("[\"a\"]", "invalid type: array, expected an object"),
        ("\"a\"", "invalid type: string \"a\", expected an object"),
        ("{\"name\": \"a\"} x", "trailing characters"),
        ("{\"name\": \"a\", \"name\": \"b\"}", "duplicate field `name`"),
    ] {
        let refused = client.refuses_text("get_application", body.into()).await;
        let (found, schema) = refused
            .strip_prefix("Error parsing JSON: ")
            .unwrap()
            .split_once(". Expected JSON schema: ")
            .unwrap();
        assert!(found.contains(what), "{refused}");
        let schema: Value = serde_json::from_str(schema).unwrap();
        assert_eq!(schema["required"], json!(["name"]));
    }
    let (status, text) = client.post_text("/admin/add_app", vec![b' '; 2 << 20]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text.contains("longer than 1048576 bytes"), "{text}");
}

#[tokio::test]
async fn models_are_linked_and_unlinked() {
    let (_directory, _server, client) = server().await;
    client.add_app("a", "doubles").await;
    client.add_model("m", "1", "doubles").await;
    client.add_model("n", "1", "doubles").await;
    client.add_model("whole", "1", "ints").await;
    let links = |app: &str, models: &[&str]| json!({"app_name": app, "model_names": models});

    for (app, models, cause) in [
        ("b", vec!["m"], "No app with name 'b' exists."),
        ("a", vec!["x"], "No model with name 'x' exists."),
        (
            "a",
            vec!["whole"],
            "Model with name 'whole' has incompatible input_type 'ints'. Requested app to link to has input_type \
             'doubles'.",
        ),
        ("a", vec![], "The list of model names is empty"),
        ("a", vec!["m", "n"], "A model with name m is already linked to 'a'."),
    ] {
        assert_eq!(client.refuses("add_model_links", links(app, &models)).await, cause);
    }
    assert_eq!(client.answers("get_linked_models", json!({"app_name": "a"})).await, json!([]));
    assert_eq!(
        client.says("add_model_links", links("a", &["m"])).await,
        "Successfully linked model with name 'm' to application 'a'"
    );
    assert_eq!(client.answers("get_linked_models", json!({"app_name": "a"})).await, json!(["m"]));
    assert_eq!(
        client.refuses("add_model_links", links("a", &["m"])).await,
        "The model with name 'm' is already linked to 'a'"
    );
    assert_eq!(
        client.refuses("add_model_links", links("a", &["n"])).await,
        "A model with name m is already linked to 'a'."
    );
    assert_eq!(
        client.refuses("get_linked_models", json!({"app_name": "b"})).await,
        "No application with name 'b' exists."
    );

    for (app, model) in [("a", "n"), ("b", "m")] {
        assert_eq!(
            client.refuses("delete_model_links", links(app, &[model])).await,
            format!("Cannot remove nonexistent link between app {app} and model {model}")
        );
    }
    assert_eq!(client.says("delete_model_links", links("a", &["m"])).await, "Success!");
    client.says("add_model_links", links("a", &["n"])).await;

    // A new application of the same name begins without the links of the old one.
    client.says("delete_app", json!({"name": "a"})).await;
    client.add_app("a", "ints").await;
    assert_eq!(client.answers("get_linked_models", json!({"app_name": "a"})).await, json!([]));
}

#[tokio::test]
async fn versions_of_models_are_added_switched_and_deleted() {
    let (_directory, _server, client) = server().await;
    assert_eq!(
        client.says("add_model", model("m", "1", "doubles")).await,
        "Successfully added model with name 'm' and input type 'doubles'"
    );
    assert_eq!(
        client.refuses("add_model", model("m", "1", "doubles")).await,
        "model with name 'm' and version '1' already exists"
    );
    for batch_size in [0, -2] {
        let mut zero = model("m", "2", "doubles");
        zero["batch_size"] = batch_size.into();
        assert_eq!(
            client.refuses("add_model", zero).await,
            "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1"
        );
    }
    // All that need not be said, and a version as a number.
    client
        .says("add_model", json!({"model_name": "m", "model_version": 2, "input_type": "i", "labels": null}))
        .await;

    let described = |version: &str, current: bool| {
        json!({"model_name": "m", "model_version": version, "load": 0.0, "input_type": "doubles",
            "container_name": "noop", "model_data_path": "/models", "labels": ["blue"], "is_current_version": current,
            "batch_size": -1, "batching": {"strategy": "adaptive", "wait_micros": null}, "cache": true})
    };
    let named = |version: &str| json!({"model_name": "m", "model_version": version});
    assert_eq!(client.answers("get_all_models", json!({})).await, json!(["m:1", "m:2"]));
    let all = client.answers("get_all_models", json!({"verbose": true})).await;
    assert_eq!(all[0], described("1", false));
    assert_eq!((&all[1]["input_type"], &all[1]["is_current_version"]), (&json!("integers"), &json!(true)));
    assert_eq!(client.answers("get_model", named("1")).await, described("1", false));
    assert_eq!(client.answers("get_model", named("9")).await, json!({}));

    assert_eq!(
        client.says("set_model_version", named("1")).await,
        "Successfully set model with name 'm' to version '1'"
    );
    assert_eq!(client.answers("get_model", named("1")).await, described("1", true));
    assert_eq!(
        client.refuses("set_model_version", json!({"model_name": "x", "model_version": "1"})).await,
        "Cannot set version for nonexistent model 'x'"
    );
    assert_eq!(
        client.refuses("set_model_version", named("9")).await,
        "Cannot set non-existent version '9' for model with name 'm'"
    );

    client.add_app("a", "doubles").await;
    client.says("add_model_links", json!({"app_name": "a", "model_names": ["m"]})).await;
    let incompatible = "Model with name 'm' is already linked to app 'a' using input type 'doubles'. The input type you \
                        provided for a new version of the model, 'ints', is not compatible.";
    assert_eq!(client.refuses("set_model_version", named("2")).await, incompatible);
    assert_eq!(client.refuses("add_model", model("m", "3", "ints")).await, incompatible);

    assert_eq!(
        client.says("delete_versioned_model", named("1")).await,
        "Successfully deleted model with name 'm' and version '1'"
    );
    assert_eq!(
        client.refuses("delete_versioned_model", named("1")).await,
        "model with name 'm' and version '1' does not exist"
    );
    assert_eq!(client.answers("get_model", named("2")).await["is_current_version"], json!(false));
    client.says("delete_versioned_model", named("2")).await;
    assert_eq!(client.answers("get_all_models", json!({})).await, json!([]));
}

#[tokio::test]
async fn an_application_that_selects_among_models_is_linked_to_several() {
    let (_directory, _server, client) = server().await;
    client.add_app("a", "doubles").await;
    for model in ["m", "n", "o"] {
        client.add_model(model, "1", "doubles").await;
    }
    let links = |models: &[&str]| json!({"app_name": "a", "model_names": models});
    client.says("add_model_links", links(&["m"])).await;
    client.says("update_app", json!({"name": "a", "selection_policy": "majority_vote"})).await;
    assert_eq!(
        client.says("add_model_links", links(&["n", "o"])).await,
        "Successfully linked model with name 'n', 'o' to application 'a'"
    );
    assert_eq!(
        client.refuses("add_model_links", links(&["n"])).await,
        "The model with name 'n' is already linked to 'a'"
    );
    assert_eq!(
        client.refuses("update_app", json!({"name": "a", "selection_policy": "default_output"})).await,
        "selection_policy: 'default_output' has one model answer, and application 'a' is linked to 'm', 'n', 'o': \
         unlink all but one first"
    );
    client.says("delete_model_links", links(&["m", "o"])).await;
    client.says("update_app", json!({"name": "a", "selection_policy": "default_output"})).await;
    assert_eq!(client.answers("get_application", json!({"name": "a"})).await["policy"], "default_output");
    assert_eq!(
        client.refuses("add_model_links", links(&["m"])).await,
        "A model with name n is already linked to 'a'."
    );
}

const FRONTEND: &str = "00000000-0000-0000-0000-000000000001";

/// An exchange of a frontend whose number is 1.
fn exchange(number: u64, changes: &Value, explanations: &Value) -> Value {
    json!({"frontend": FRONTEND, "frontend_number": 1, "number": number, "known": null, "changes": changes,
        "load": [], "forward": [], "explanations": explanations})
}

/// An application with a policy, and the revision since which it learns.
async fn selecting(client: &Client) -> u64 {
    let app = json!({"name": "a", "input_type": "doubles", "default_output": "-1.0", "latency_slo_micros": 100_000,
        "linked_models": ["m", "n"], "selection_policy": "exp4"});
    client.says("add_app", app).await;
    client.answers("get_state", json!({"app_name": "a"})).await["state"]["since"].as_u64().unwrap()
}

#[tokio::test]
async fn the_selection_state_is_readable() {
    let (_directory, _server, client) = server().await;
    client.add_app("single", "doubles").await;
    for uid in [json!(7), json!("someone")] {
        assert_eq!(
            client.answers("get_state", json!({"app_name": "single", "uid": uid})).await,
            json!({"app_name": "single", "uid": uid, "policy": "default_output", "state": {}})
        );
    }
    assert_eq!(
        client.refuses("get_state", json!({"app_name": "b", "uid": 0})).await,
        "No application with name 'b' exists."
    );
    let refused = client.refuses("get_state", json!({"app_name": "single", "uid": []})).await;
    assert!(refused.contains("expected uid to be an integer or a text"), "{refused}");

    let since = selecting(&client).await;
    let learned = |uid: Value, add: Value| json!({"key": {"application": "a", "since": since, "uid": uid}, "change": {"m": {"scale": 1.0, "add": add}}});
    let changes = json!([learned(Value::Null, json!([4.0, 3.0])), learned(json!("7"), json!([1.0, 0.0]))]);
    let answer = client.answers("exchange", exchange(1, &changes, &json!([]))).await;
    assert_eq!(answer["position"]["sequence"], 2);
    // Sent again, as if the answer had been lost.
    assert_eq!(client.answers("exchange", exchange(1, &changes, &json!([]))).await, answer);

    let state = async |uid: Value| {
        client.answers("get_state", json!({"app_name": "a", "uid": uid})).await["state"].clone()
    };
    for shared in [Value::Null, json!(0)] {
        let shared = state(shared).await;
        assert_eq!((&shared["of"], &shared["notes"]), (&json!("shared"), &json!([])));
        let model = &shared["models"][0];
        assert_eq!(model["model_name"], "m");
        assert_eq!((&model["feedbacks"], &model["mean_reward"]), (&json!(4.0), &json!(0.75)));
        assert_eq!(model["figures"], json!([4.0, 3.0]));
        assert_eq!(shared["models"][1]["mean_reward"], Value::Null);
        let weights =
            shared["models"].as_array().unwrap().iter().map(|model| model["weight"].as_f64().unwrap());
        assert!((weights.sum::<f64>() - 1.0).abs() < 1e-9);
    }
    for own in [json!(7), json!("7")] {
        let own = state(own).await;
        assert_eq!((&own["of"], &own["models"][0]["feedbacks"]), (&json!("user"), &json!(1.0)));
    }
    let nobody = state(json!("x")).await;
    assert_eq!(nobody["notes"], json!(["User 'x' has no state yet, so the shared one applies."]));
    assert_eq!((&nobody["of"], &nobody["models"][0]["feedbacks"]), (&json!("shared"), &json!(4.0)));

    // Another policy begins anew.
    client.says("update_app", json!({"name": "a", "selection_policy": "exp3"})).await;
    let anew = state(Value::Null).await;
    assert_eq!(anew["notes"], json!(["Nothing has been learned yet."]));
    assert!(anew["since"].as_u64() > Some(since));
}

#[tokio::test]
async fn a_query_is_explained_by_the_frontend_that_answered_it() {
    let (_directory, _server, client) = server().await;
    selecting(&client).await;
    client.add_app("b", "doubles").await;
    let refused = async |path: &str| {
        let (status, text) = client.get(path).await;
        let refusal: Value = serde_json::from_str(&text).unwrap();
        (status.as_u16(), refusal["cause"].as_str().unwrap().to_owned())
    };
    let query: u64 = (1 << 40) + 5;
    let not_found = |why: &str| (404, format!("Query {query} of application 'a' cannot be explained: {why}"));
    let gone = not_found("the frontend that answered it is gone");
    assert_eq!(refused(&format!("/a/explain/{query}")).await, gone);
    assert_eq!(refused("/x/explain/1").await, (404, "No application with name 'x' exists.".to_owned()));
    assert_eq!(
        refused("/a/explain/x").await,
        (400, "query_id must be a whole number from 0 to below 2^53; it is 'x'".to_owned())
    );

    // A frontend that knows this query of application a, and no other.
    let frontend = client.clone();
    let exchanging = tokio::spawn(async move {
        let mut explanations = json!([]);
        for number in 1.. {
            let answer = frontend.answers("exchange", exchange(number, &json!([]), &explanations)).await;
            let asked = answer["explain"].as_array().unwrap().iter().map(|asked| {
                let known = json!({"application": "a", "output": 1}).to_string();
                json!([asked, (*asked == json!(query)).then_some(known)])
            });
            explanations = asked.collect();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let explained = harness::until("the frontend explains", async || {
        let (status, text) = client.get(&format!("/a/explain/{query}")).await;
        (status == StatusCode::OK).then_some(text)
    })
    .await;
    assert_eq!(serde_json::from_str::<Value>(&explained).unwrap(), json!({"application": "a", "output": 1}));
    let unknown =
        "it was never answered by this application, or is forgotten: decisions are kept for a bounded time";
    for (app, query) in [("a", query + 1), ("b", query)] {
        let (status, cause) = refused(&format!("/{app}/explain/{query}")).await;
        assert_eq!(status, 404);
        assert_eq!(cause, format!("Query {query} of application '{app}' cannot be explained: {unknown}"));
    }
    exchanging.abort();
}

fn follow_request(applied: &Value, known_frontends: &Value) -> Value {
    json!({"frontend": "00000000-0000-0000-0000-000000000001", "number": null, "query_address": "0.0.0.0:1337",
    "rpc_address": "0.0.0.0:7000", "applied": applied, "known_frontends": known_frontends, "containers": [
        {"model": {"name": "m", "version": "1"}, "replica": 0, "instance": "x", "input_type": "doubles", "batch_size": 9},
        {"model": {"name": "m", "version": "1"}, "replica": 1, "instance": null, "input_type": "doubles", "batch_size": 9}
    ]})
}

#[tokio::test]
async fn a_frontend_follows_and_its_containers_are_listed() {
    let (_directory, _server, client) = server().await;
    let mut registered = model("m", "1", "doubles");
    registered["batch_size"] = json!(5);
    client.says("add_model", registered).await;
    let first = client.answers("follow", follow_request(&Value::Null, &json!([]))).await;
    assert_eq!(first["update"]["snapshot"]["models"][0]["name"], "m");
    assert_eq!(first["frontends"], json!(["127.0.0.1:7000"]));

    assert_eq!(client.answers("get_all_containers", json!({})).await, json!(["m:1:0", "m:1:1"]));
    let described = json!({"model_name": "m", "model_version": "1", "model_id": "m:1", "model_replica_id": 1,
        "batch_size": 5, "input_type": "doubles"});
    let all = client.answers("get_all_containers", json!({"verbose": true})).await;
    assert_eq!(all[1], described);
    let named = |replica: u32| json!({"model_name": "m", "model_version": "1", "replica_id": replica});
    assert_eq!(client.answers("get_container", named(1)).await, described);
    assert_eq!(client.answers("get_container", named(2)).await, json!({}));

    // A change ends the call that waits; while nobody acknowledges it, the operator waits no more than a second.
    let waiting = follow_request(&first["position"], &first["frontends"]);
    let began = Instant::now();
    let (second, ()) = tokio::join!(client.answers("follow", waiting), client.add_app("a", "doubles"));
    assert_eq!(second["update"]["changes"][0]["application"]["name"], "a");
    assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(2));
    let refused = client.refuses("follow", json!({})).await;
    assert!(refused.contains("missing field `frontend`"), "{refused}");
}

#[tokio::test]
async fn a_frontend_that_is_killed_is_forgotten() {
    let (_directory, _server, client) = server().await;
    let first = client.answers("follow", follow_request(&Value::Null, &json!([]))).await;
    let waiting = follow_request(&first["position"], &first["frontends"]);
    // Its connection breaks in the middle of a call that would have waited for ten seconds.
    let cut = tokio::time::timeout(Duration::from_millis(300), client.answers("follow", waiting)).await;
    assert!(cut.is_err());
    let began = Instant::now();
    harness::until("the frontend is forgotten", async || {
        let metrics = client.get("/admin/metrics").await.1;
        metrics.contains("clipper_management_frontends 0\n").then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_answered_in_json() {
    let (_directory, _server, client) = server().await;
    for (method, path, status, cause) in [
        (Method::GET, "/nothing", 404, "There is nothing at /nothing; GET / says what there is"),
        (Method::POST, "/admin/nothing", 404, "There is nothing at /admin/nothing; GET / says what there is"),
        (Method::GET, "/admin/add_app", 405, "/admin/add_app takes POST, not GET"),
        (Method::DELETE, "/admin/add_app", 405, "/admin/add_app takes POST, not DELETE"),
        (Method::POST, "/admin/ping", 405, "/admin/ping takes GET, not POST"),
        (Method::POST, "/a/explain/1", 405, "/a/explain/1 takes GET, not POST"),
        (Method::GET, "/a/explain", 404, "There is nothing at /a/explain; GET / says what there is"),
        (Method::GET, "/a/explain/1/2", 404, "There is nothing at /a/explain/1/2; GET / says what there is"),
    ] {
        let response = client.http.request(method, format!("{}{path}", client.base)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        assert_eq!(response.headers().contains_key("allow"), status == 405);
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["cause"], cause);
    }
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let (_directory, _server, client) = server().await;
    assert_eq!(client.get("/admin/ping").await, (StatusCode::OK, "PONG".into()));
    for path in ["/", "/livez", "/readyz"] {
        assert_eq!(client.get(path).await.0, StatusCode::OK);
    }
    let document: Value = serde_json::from_str(&client.get("/openapi.json").await.1).unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 30);
    for (path, item) in paths {
        let (status, text) = match item.get("get") {
            Some(_) => client.get(path).await,
            None => client.post_text(path, "?").await,
        };
        assert!(matches!(status.as_u16(), 200 | 400), "{path}: {status}");
        // A schema within a refusal is complete by itself.
        assert!(path == "/openapi.json" || !text.contains("$ref"), "{path}: {text}");
    }
    for status in ["400", "401", "403", "413", "415", "500", "503"] {
        let described = &document["paths"]["/admin/add_app"]["post"]["responses"][status]["content"];
        assert_eq!(
            described["application/json"]["schema"]["$ref"], "#/components/schemas/ErrorBody",
            "{status}"
        );
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    // Sentences are text, as the original's clients read them.
    let body = json!({"name": "a", "input_type": "ints", "default_output": "", "latency_slo_micros": 1});
    let added = client.posting("/admin/add_app", body.to_string()).send().await.unwrap();
    assert!(added.headers()["content-type"].to_str().unwrap().starts_with("text/plain"));
}

#[tokio::test]
async fn metrics_count_what_there_is() {
    let (_directory, _server, client) = server().await;
    client.add_app("a", "ints").await;
    client.add_model("m", "1", "ints").await;
    let metrics = client.get("/admin/metrics").await.1;
    for line in [
        "clipper_management_applications 1",
        "clipper_management_models 1",
        "clipper_management_deployments 0",
        "clipper_management_frontends 0",
        "clipper_management_catalog_revision 2",
        "clipper_management_replicas{state=\"backing_off\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn an_export_is_imported_into_an_empty_catalog_only() {
    let (_directory, _server, client) = server().await;
    client.add_app("a", "ints").await;
    client.add_model("m", "1", "ints").await;
    client.says("add_model_links", json!({"app_name": "a", "model_names": ["m"]})).await;
    let export: Value = serde_json::from_str(&client.get("/admin/export").await.1).unwrap();
    assert_eq!(
        client.refuses("import", export.clone()).await,
        "The catalog is not empty; an import needs an empty one"
    );

    let (_other_directory, _other_server, other) = server().await;
    assert_eq!(
        other.says("import", export.clone()).await,
        "Successfully imported 1 application, 1 model and 0 deployments"
    );
    let mut again: Value = serde_json::from_str(&other.get("/admin/export").await.1).unwrap();
    // These count the revisions of the store.
    for own in ["/revision", "/models/0/versions/1/generation", "/applications/0/selection/since"] {
        *again.pointer_mut(own).unwrap() = export.pointer(own).unwrap().clone();
    }
    assert_eq!(again, export);

    let (_third_directory, _third_server, third) = server().await;
    let broken = |pointer: &str, value: Value| {
        let mut broken = export.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        broken
    };
    for (import, cause) in [
        (broken("/version", json!(9)), "it has version 9, expected 1"),
        (
            broken("/models/0/current_version", json!("7")),
            "the current version '7' of model 'm' is not registered",
        ),
        (broken("/models/0/versions", json!({})), "model 'm' has no versions"),
        (broken("/applications/0/input_type", json!("doubles")), "has incompatible input_type 'ints'"),
        (broken("/applications/0/name", json!("a b")), "is not a valid application name"),
    ] {
        let refused = third.refuses("import", import).await;
        assert!(refused.contains(cause), "{refused}");
    }
    third.says("import", export).await;
}

#[tokio::test]
async fn an_import_is_checked_as_what_is_added_and_deployed() {
    let (_directory, _server, client) = server().await;
    let import = |pointer: &str, value: Value| {
        let deployment = json!({"model": {"name": "m", "version": "1"}, "input_type": "ints", "num_replicas": 0,
            "run": {"kind": "noop"}, "artifact": null, "model_data_path": "/models"});
        let mut import = json!({"version": 1, "applications": [], "deployments": [deployment], "models": [
            {"name": "m", "current_version": "1", "versions": {"1": {"input_type": "ints", "batch_size": null, "batching": {}}}}]});
        *import.pointer_mut(pointer).unwrap() = value;
        import
    };
    let sound = import("/version", json!(1));
    for (pointer, value, cause) in [
        (
            "/models/0/versions/1/batch_size",
            json!(0),
            "The batch size must be positive or DEFAULT_BATCH_SIZE, which is -1",
        ),
        (
            "/models/0/versions/1/batching",
            json!({"strategy": "fixed"}),
            "The batching strategy 'fixed' needs a positive batch_size, which is the size of its batches",
        ),
        (
            "/applications",
            json!([{"name": "a", "input_type": "ints", "default_output": "", "latency_slo_micros": 1,
                "linked_models": [], "max_concurrent_requests": 0}]),
            "max_concurrent_requests must be at least 1, or null for no bound; it is 0",
        ),
        (
            "/deployments/0/input_type",
            json!("doubles"),
            "Model with name 'm' and version '1' takes ints, its deployment doubles",
        ),
        ("/deployments/0/run", json!({"command": []}), "The command must begin with the program to run"),
        (
            "/deployments/0/run",
            json!({"kind": "tensorflow"}),
            "'tensorflow' is not a container kind; expected one of: noop, sum, python-closure",
        ),
        (
            "/deployments/0/num_replicas",
            json!(4_000_000),
            "a deployment can have at most 1000 replicas, not 4000000",
        ),
        (
            "/deployments",
            json!([sound["deployments"][0], sound["deployments"][0]]),
            "The catalog to import does not fit together: the deployment of 'm:1' occurs twice",
        ),
    ] {
        assert_eq!(client.refuses("import", import(pointer, value)).await, cause);
    }
    client.says("import", sound).await;
}
