//! The golden frames, which the tests of every SDK read.
//!
//! `UPDATE_GOLDEN=1 cargo test -p clipper-rpc --test golden` writes them anew; a difference that this makes in the
//! repository is a change of the protocol.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use clipper_rpc::codec::Frames;
use clipper_rpc::input::{Input, InputBatch, InputType};
use clipper_rpc::message::{Feedback, FromContainer, Predict, Prediction, Register, Registered, ToContainer};
use clipper_rpc::output::{Element, OutputBatch};
use serde_json::{Value, json};

enum Message {
    From(FromContainer),
    To(ToContainer),
}

/// Each message with its name and, for people and SDKs, what it says.
fn golden() -> Vec<(&'static str, Message, Value)> {
    let predict = |input_type, inputs: &[Input]| {
        Message::To(ToContainer::Predict(Predict {
            id: 7,
            budget_micros: 20_000,
            inputs: InputBatch::join(input_type, inputs),
        }))
    };
    let prediction = |outputs, errors: &[(u32, &str)]| {
        let errors: BTreeMap<u32, String> =
            errors.iter().map(|&(index, text)| (index, text.to_owned())).collect();
        Message::From(FromContainer::Prediction(Prediction { id: 7, elapsed_micros: 1_500, outputs, errors }))
    };
    let predict_json = |input_type: &str, inputs: Value| {
        json!({"type": "predict", "id": 7, "count": inputs.as_array().map(Vec::len), "budget_micros": 20_000,
               "input_type": input_type, "inputs": inputs})
    };
    let little_endian =
        |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Bytes>();
    vec![
        (
            "register",
            Message::From(FromContainer::Register(Register {
                protocol: 4,
                model: "digits".into(),
                version: "2".into(),
                input_type: InputType::Doubles,
                token: Some("secret".into()),
                max_batch_size: Some(256),
                replica: Some(1),
                sdk: Some("golden 1.0".into()),
                instance: Some("digits-2-1-x7".into()),
            })),
            json!({"type": "register", "protocol": 4, "model": "digits", "version": "2", "input_type": "doubles",
                   "token": "secret", "max_batch_size": 256, "replica": 1, "sdk": "golden 1.0",
                   "instance": "digits-2-1-x7"}),
        ),
        (
            "register_minimal",
            Message::From(FromContainer::Register(Register {
                protocol: 4,
                model: "m".into(),
                version: "1".into(),
                input_type: InputType::Strings,
                token: None,
                max_batch_size: None,
                replica: None,
                sdk: None,
                instance: None,
            })),
            json!({"type": "register", "protocol": 4, "model": "m", "version": "1", "input_type": "strings"}),
        ),
        ("container_heartbeat", Message::From(FromContainer::Heartbeat), json!({"type": "heartbeat"})),
        (
            "prediction_texts",
            prediction(OutputBatch::texts(["1", "{\"a\": [1, 2]}", "plain text"]), &[]),
            json!({"type": "prediction", "id": 7, "count": 3, "elapsed_micros": 1_500,
                   "outputs": ["1", "{\"a\": [1, 2]}", "plain text"]}),
        ),
        (
            "prediction_errors",
            prediction(
                OutputBatch::Elements(vec![
                    Element::Text("ok".into()),
                    Element::Nil,
                    Element::Bytes(Bytes::from_static(&[0, 255])),
                ]),
                &[(1, "row 1 has a hole")],
            ),
            json!({"type": "prediction", "id": 7, "count": 3, "elapsed_micros": 1_500,
                   "outputs": ["ok", null, {"base64": "AP8="}], "errors": {"1": "row 1 has a hole"}}),
        ),
        (
            "prediction_scalars",
            prediction(OutputBatch::doubles(&[0.5, -2.0, 1e300]), &[]),
            json!({"type": "prediction", "id": 7, "count": 3, "elapsed_micros": 1_500, "dtype": "doubles",
                   "outputs": [0.5, -2.0, 1e300]}),
        ),
        (
            "prediction_vectors",
            prediction(
                OutputBatch::Vectors {
                    dtype: InputType::Floats,
                    lengths: vec![2, 0, 1],
                    data: little_endian(&[0.25, 0.75, 1.0]),
                },
                &[],
            ),
            json!({"type": "prediction", "id": 7, "count": 3, "elapsed_micros": 1_500, "dtype": "floats",
                   "lengths": [2, 0, 1], "outputs": [[0.25, 0.75], [], [1.0]]}),
        ),
        (
            "error",
            Message::From(FromContainer::Error { id: 7, message: "ValueError: no such thing".into() }),
            json!({"type": "error", "id": 7, "message": "ValueError: no such thing"}),
        ),
        (
            "feedback_ack",
            Message::From(FromContainer::FeedbackAck { id: 8 }),
            json!({"type": "feedback_ack", "id": 8}),
        ),
        ("goodbye", Message::From(FromContainer::Goodbye), json!({"type": "goodbye"})),
        (
            "registered",
            Message::To(ToContainer::Registered(Registered {
                replica: 3,
                heartbeat_millis: 1_000,
                timeout_millis: 5_000,
                frontends: Some(vec!["10.0.0.1:7000".into(), "10.0.0.2:7000".into()]),
            })),
            json!({"type": "registered", "replica": 3, "heartbeat_millis": 1_000, "timeout_millis": 5_000,
                   "frontends": ["10.0.0.1:7000", "10.0.0.2:7000"]}),
        ),
        (
            "rejected",
            Message::To(ToContainer::Rejected { reason: "bad token".into(), retry_millis: None }),
            json!({"type": "rejected", "reason": "bad token"}),
        ),
        (
            "rejected_for_now",
            Message::To(ToContainer::Rejected { reason: "unknown model".into(), retry_millis: Some(1_000) }),
            json!({"type": "rejected", "reason": "unknown model", "retry_millis": 1_000}),
        ),
        ("unknown", Message::To(ToContainer::Unknown), json!({"type": "unknown"})),
        (
            "frontend_heartbeat",
            Message::To(ToContainer::Heartbeat { frontends: None }),
            json!({"type": "heartbeat"}),
        ),
        (
            "frontend_heartbeat_with_frontends",
            Message::To(ToContainer::Heartbeat { frontends: Some(vec!["10.0.0.1:7000".into()]) }),
            json!({"type": "heartbeat", "frontends": ["10.0.0.1:7000"]}),
        ),
        (
            "predict_doubles",
            predict(
                InputType::Doubles,
                &[Input::doubles(&[1.0, 2.5]), Input::doubles(&[]), Input::doubles(&[-3.0])],
            ),
            predict_json("doubles", json!([[1.0, 2.5], [], [-3.0]])),
        ),
        (
            "predict_floats",
            predict(InputType::Floats, &[Input::floats(&[0.5]), Input::floats(&[1.5])]),
            predict_json("floats", json!([[0.5], [1.5]])),
        ),
        (
            "predict_ints",
            predict(InputType::Ints, &[Input::ints(&[i32::MIN, i32::MAX])]),
            predict_json("ints", json!([[i32::MIN, i32::MAX]])),
        ),
        (
            "predict_strings",
            predict(InputType::Strings, &[Input::string("one"), Input::string(""), Input::string("zwölf")]),
            predict_json("strings", json!(["one", "", "zwölf"])),
        ),
        (
            "predict_bytes",
            predict(InputType::Bytes, &[Input::bytes(vec![0, 255]), Input::bytes(vec![])]),
            predict_json("bytes", json!([{"base64": "AP8="}, {"base64": ""}])),
        ),
        (
            "feedback",
            Message::To(ToContainer::Feedback(Feedback {
                id: 8,
                inputs: InputBatch::join(
                    InputType::Doubles,
                    &[Input::doubles(&[1.0]), Input::doubles(&[2.0])],
                ),
                labels: vec!["cat".into(), "dog".into()],
            })),
            json!({"type": "feedback", "id": 8, "count": 2, "input_type": "doubles", "inputs": [[1.0], [2.0]],
                   "labels": ["cat", "dog"]}),
        ),
        ("drain", Message::To(ToContainer::Drain), json!({"type": "drain"})),
    ]
}

/// Frames of containers that cannot write integer keys, by the name of the message that they mean.
const SPELLED_OTHERWISE: &[(&str, &str)] = &[("prediction_errors_by_digits", "prediction_errors")];

/// The same message with the keys of `errors` as decimal digits.
fn with_digits(message: &FromContainer) -> Frames {
    let frames = message.encode();
    let header = frames.header.to_vec();
    let start =
        header.windows(8).position(|window| window == b"\xa6errors\x81").expect("it has an error") + 8;
    let (before, after) = header.split_at(start);
    Frames { header: [before, &[0xa1, b'0' + after[0]], &after[1..]].concat().into(), ..frames }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_golden_frames_are_what_is_said_and_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, message, says) in golden() {
        let (direction, frames) = match &message {
            Message::From(message) => ("from_container", message.encode()),
            Message::To(message) => ("to_container", message.encode()),
        };
        let mut hexes = vec![String::new(), hex(&frames.header)];
        hexes.extend(frames.payload.as_ref().map(|payload| hex(payload)));
        let document = json!({"name": name, "direction": direction, "frames": hexes, "message": says});
        let file = folder.join(format!("{name}.json"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&document).unwrap() + "\n";
            fs::write(&file, text).unwrap();
        }
        let stored: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(stored, document, "{name}");
        let frames =
            Frames::from_multipart([Bytes::new(), frames.header].into_iter().chain(frames.payload).collect())
                .unwrap();
        match message {
            Message::From(message) => {
                let held = match &message {
                    FromContainer::Prediction(prediction) => vec![(prediction.id, prediction.outputs.len())],
                    _ => vec![],
                };
                assert_eq!(FromContainer::decode(&frames, held.into_iter()), Ok(message), "{name}");
            }
            Message::To(message) => assert_eq!(ToContainer::decode(&frames), Ok(message), "{name}"),
        }
    }
}

#[test]
fn a_golden_frame_that_is_spelled_otherwise_means_the_same() {
    for (name, same) in SPELLED_OTHERWISE {
        let (_, message, says) = golden().into_iter().find(|(name, ..)| name == same).unwrap();
        let Message::From(message) = message else { panic!("{name} is of a container") };
        let frames = with_digits(&message);
        let document = json!({"name": name, "direction": "from_container", "spells": same,
                              "frames": [String::new(), hex(&frames.header)], "message": says});
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.json"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, serde_json::to_string_pretty(&document).unwrap() + "\n").unwrap();
        }
        let stored: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(stored, document, "{name}");
        assert_eq!(FromContainer::decode(&frames, [(7, 3)].into_iter()), Ok(message), "{name}");
    }
}

#[test]
fn every_golden_file_belongs_to_a_message() {
    let spelled = SPELLED_OTHERWISE.iter().map(|&(name, _)| name);
    let known: Vec<_> = golden()
        .into_iter()
        .map(|(name, ..)| name)
        .chain(spelled)
        .map(|name| format!("{name}.json"))
        .collect();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(known.contains(&name), "{name}");
    }
}
