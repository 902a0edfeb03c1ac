//! What becomes of queries for which there is no room, and of those whose clients have gone.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use clipper_integration_tests::raw_container::numbers;
use clipper_integration_tests::{Answer, Automaton, Cluster, RawContainer, eventually};
use serde_json::{Value, json};

/// So long that nobody waits it out by accident.
const OBJECTIVE: Duration = Duration::from_secs(20);

/// Registers an application that is linked to model `m`, with further fields.
async fn add_app(cluster: &Cluster, name: &str, further: &Value) {
    let mut body = json!({
        "name": name, "input_type": "doubles", "default_output": "\"default\"", "linked_models": ["m"],
        "latency_slo_micros": u64::try_from(OBJECTIVE.as_micros()).unwrap(),
    });
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    cluster.must("add_app", body).await;
}

/// A cluster with model `m`, the application `m` without bounds, and `bounded` with these further fields.
async fn start(flags: &[&str], bounded: Value) -> (Cluster, RawContainer) {
    let cluster = Cluster::start_with(flags).await;
    cluster.add_model("m", "1", "doubles").await;
    add_app(&cluster, "m", &json!({})).await;
    add_app(&cluster, "bounded", &bounded).await;
    let container = RawContainer::register(&cluster, "m").await;
    (cluster, container)
}

/// Asks, and expects a refusal that says when to try again; its sentence.
async fn refused(cluster: &Cluster, app: &str, body: Value, status: u16, kind: &str) -> String {
    let url = format!("{}/{app}/predict", cluster.query_url(0));
    let response = cluster.http().post(url).body(body.to_string()).send().await.unwrap();
    let seconds: u32 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(seconds > 0);
    assert_eq!(response.headers()["content-type"], "application/json");
    Answer::read(response).await.unwrap().refusal(status, kind)
}

/// Sends a request over a connection of its own, whose answer nobody reads.
fn send(cluster: &Cluster, app: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let mut stream = TcpStream::connect(cluster.frontend(0).addresses().query.unwrap()).unwrap();
    let head =
        format!("POST /{app}/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

/// Ends a connection as a system does whose client is gone with bytes unread. A plain close could not be told from a
/// client that waits for its answer.
fn reset(client: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &linger).unwrap();
    drop(client);
}

/// Waits until a number of an application's requests are in progress.
async fn in_progress(cluster: &Cluster, app: &str, count: u32) {
    let series = format!("clipper_application_in_flight_requests{{application=\"{app}\"}}");
    cluster.measures(&series, count.into()).await;
}

#[tokio::test]
async fn an_application_at_its_bound_gets_the_default_output_at_once() {
    let (cluster, mut container) = start(&[], json!({"max_concurrent_requests": 1})).await;
    let ask = || cluster.predict("bounded", json!({"input": [1]}));
    let (held, ()) = tokio::join!(ask(), async {
        let held = container.batch().await;
        let started = Instant::now();
        let answer = ask().await;
        assert_eq!(answer["default_reason"], "too_many_requests", "{answer}");
        assert_eq!(answer["output"], "default", "{answer}");
        let explanation = &answer["default_explanation"];
        assert_eq!(explanation, "the application has its 1 concurrent requests in progress");
        let answer = cluster.predict("bounded", json!({"input_batch": [[1], [2]]})).await;
        let answers = answer["batch_predictions"].as_array().unwrap();
        assert_eq!(answers.len(), 2);
        assert!(answers.iter().all(|answer| answer["default_reason"] == "too_many_requests"), "{answer}");
        // What makes no sense is told so all the same.
        cluster.ask(0, "bounded", json!({"input": "no list"})).await.refusal(400, "Json error");
        assert!(started.elapsed() < OBJECTIVE / 2, "{:?}", started.elapsed());
        container.answer(held.id, &[0.5]);
    });
    assert_eq!(held["output"], 0.5, "{held}");
    in_progress(&cluster, "bounded", 0).await;
    let (next, _) = tokio::join!(ask(), container.answer_next(0.25));
    assert_eq!(next["output"], 0.25, "there is room again: {next}");
}

#[tokio::test]
async fn an_application_at_its_bound_is_refused_if_it_wants_that_and_others_are_not() {
    let (cluster, mut container) =
        start(&[], json!({"max_concurrent_requests": 2, "on_overload": "refuse"})).await;
    let ask = |app: &'static str| cluster.predict(app, json!({"input": [1]}));
    let (one, two, other, ()) = tokio::join!(ask("bounded"), ask("bounded"), ask("m"), async {
        let held = container.batch().await;
        in_progress(&cluster, "bounded", 2).await;
        let body = json!({"input": [1]});
        let cause = refused(&cluster, "bounded", body, 429, "Too many requests").await;
        assert_eq!(cause, "the application has its 2 concurrent requests in progress");
        container.answer(held.id, &[0.5]);
        let mut answered = 1;
        while answered < 3 {
            answered += container.answer_next(0.5).await.len();
        }
    });
    for answer in [one, two, other] {
        assert_eq!(answer["output"], 0.5, "{answer}");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_the_requests_of_applications_that_want_that() {
    let flags = ["--queue-capacity", "1", "--max-batch-size", "1"];
    let (cluster, mut container) = start(&flags, json!({"on_overload": "refuse"})).await;
    let ask = || cluster.predict("m", json!({"input": [1]}));
    let _held = send(&cluster, "m", &json!({"input": [1]}));
    let held = container.batch().await;
    let (waits, ()) = tokio::join!(ask(), async {
        cluster.waiting("m", 1).await;
        for body in [json!({"input": [1]}), json!({"input_batch": [[1], [2]]})] {
            let cause = refused(&cluster, "bounded", body, 503, "Overloaded").await;
            assert_eq!(cause, "the queue of model 'm:1' is full with 1 queries of 8 bytes");
        }
        let answer = ask().await;
        assert_eq!(answer["default_reason"], "queue_full", "the other application: {answer}");
        container.answer(held.id, &[0.5]);
        container.answer_next(0.5).await;
    });
    assert_eq!(waits["output"], 0.5, "{waits}");
}

#[tokio::test]
async fn a_request_for_which_there_is_room_in_part_is_answered_in_part() {
    let flags = ["--queue-capacity", "1", "--max-batch-size", "1"];
    let (cluster, mut container) = start(&flags, json!({"on_overload": "refuse"})).await;
    let _held = send(&cluster, "m", &json!({"input": [1]}));
    let held = container.batch().await;
    let several = cluster.predict("bounded", json!({"input_batch": [[2], [3]]}));
    let (several, ()) = tokio::join!(several, async {
        cluster.waiting("m", 1).await;
        container.answer(held.id, &[0.5]);
        container.answer_next(0.25).await;
    });
    let answers = several["batch_predictions"].as_array().unwrap();
    assert_eq!(answers[0]["output"], 0.25, "{several}");
    assert_eq!(answers[1]["default_reason"], "queue_full", "{several}");
}

#[tokio::test]
async fn a_queue_is_full_at_its_bound_in_bytes_and_takes_any_input_when_it_is_empty() {
    let (cluster, mut container) = start(&["--queue-bytes", "64"], json!({"on_overload": "refuse"})).await;
    let ask = |numbers: usize| cluster.predict("m", json!({"input": vec![1; numbers]}));
    let _held = send(&cluster, "m", &json!({"input": [1]}));
    let held = container.batch().await;
    let (waits, ()) = tokio::join!(ask(5), async {
        cluster.waiting("m", 1).await;
        let body = json!({"input": vec![1; 4]});
        let cause = refused(&cluster, "bounded", body, 503, "Overloaded").await;
        assert_eq!(cause, "the queue of model 'm:1' is full with 1 queries of 40 bytes");
        container.answer(held.id, &[0.5]);
        container.answer_next(0.5).await;
    });
    assert_eq!(waits["output"], 0.5, "{waits}");
    let (large, inputs) = tokio::join!(ask(100), container.answer_next(0.25));
    assert_eq!(large["output"], 0.25, "{large}");
    assert_eq!(inputs[0].len(), 100);
}

#[tokio::test]
async fn a_client_that_resets_its_connection_takes_its_query_with_it() {
    let (cluster, mut container) = start(&[], json!({})).await;
    let (held, ()) = tokio::join!(cluster.predict("m", json!({"input": [1]})), async {
        let held = container.batch().await;
        let started = Instant::now();
        let client = send(&cluster, "bounded", &json!({"input": [666]}));
        cluster.waiting("m", 1).await;
        reset(client);
        in_progress(&cluster, "bounded", 0).await;
        container.answer(held.id, &[0.5]);
        cluster.waiting("m", 0).await;
        assert!(started.elapsed() < OBJECTIVE / 2, "{:?}", started.elapsed());
    });
    assert_eq!(held["output"], 0.5, "{held}");
    let (next, inputs) =
        tokio::join!(cluster.predict("m", json!({"input": [2]})), container.answer_next(0.5));
    assert_eq!(next["output"], 0.5, "{next}");
    assert_eq!(inputs, [[2.0]], "nobody computes what nobody waits for");
}

#[tokio::test]
async fn a_client_that_resets_its_connection_leaves_its_place_in_a_full_queue_to_others() {
    let flags = ["--queue-capacity", "3", "--max-batch-size", "1"];
    let (cluster, mut container) = start(&flags, json!({})).await;
    let ask = |input: u32| send(&cluster, "m", &json!({"input": [input]}));
    let _held = ask(1);
    let held = container.batch().await;
    // It waits in front of those who go.
    let _first = ask(2);
    cluster.waiting("m", 1).await;
    let clients = [(); 2].map(|()| send(&cluster, "bounded", &json!({"input": [666]})));
    cluster.waiting("m", 3).await;
    clients.into_iter().for_each(reset);
    in_progress(&cluster, "bounded", 0).await;
    let _second = ask(3);
    in_progress(&cluster, "m", 3).await;
    container.answer(held.id, &[0.5]);
    let mut answered = Vec::new();
    while answered.len() < 2 {
        answered.extend(container.answer_next(0.5).await.concat());
    }
    assert_eq!(answered, [2.0, 3.0]);
    let predicted = "clipper_application_answers_total{application=\"m\",outcome=\"predicted\"}";
    cluster.measures(predicted, 3.0).await;
}

#[tokio::test]
async fn a_batch_with_a_client_that_has_gone_is_answered_to_those_who_stayed() {
    let cluster = Cluster::start().await;
    cluster.serve_batches_of(2, "m", "doubles", OBJECTIVE).await;
    add_app(&cluster, "other", &json!({})).await;
    let container = Automaton::serve(&cluster, "m").await;
    container.hold();
    let (held, stays, ()) = tokio::join!(
        cluster.predict("m", json!({"input": [1]})),
        async {
            eventually("one is held", async || container.batches().len() == 1).await;
            cluster.predict("m", json!({"input": [2]})).await
        },
        async {
            in_progress(&cluster, "m", 2).await;
            cluster.waiting("m", 1).await;
            let goes = send(&cluster, "other", &json!({"input": [666]}));
            cluster.waiting("m", 2).await;
            reset(goes);
            in_progress(&cluster, "other", 0).await;
            container.answer_after(Duration::ZERO);
        }
    );
    assert_eq!((&held["output"], &stays["output"]), (&json!(1.0), &json!(2.0)));
    assert_eq!(container.batches().concat(), [[1.0], [2.0]]);
}

#[tokio::test]
async fn a_client_that_resets_its_connection_while_its_query_is_computed_harms_nobody() {
    let (cluster, mut container) = start(&[], json!({"max_concurrent_requests": 1})).await;
    let client = send(&cluster, "bounded", &json!({"input": [666]}));
    let batch = container.batch().await;
    assert_eq!(numbers(&batch), [[666.0]]);
    reset(client);
    in_progress(&cluster, "bounded", 0).await;
    container.answer(batch.id, &[0.5]);
    let (next, _) =
        tokio::join!(cluster.predict("bounded", json!({"input": [2]})), container.answer_next(0.25));
    assert_eq!(next["output"], 0.25, "{next}");
    cluster.connected("m", 1).await;
}
