//! The codec on everything that can be said, and on everything that cannot.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]

use std::collections::BTreeMap;

use bytes::Bytes;
use clipper_rpc::codec::Frames;
use clipper_rpc::input::{Input, InputBatch, InputType};
use clipper_rpc::message::{
    Feedback, FromContainer, Introduction, Predict, Prediction, Register, Registered, ToContainer,
};
use clipper_rpc::output::{Element, OutputBatch};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

fn input_type() -> impl Strategy<Value = InputType> {
    proptest::sample::select(InputType::ALL.to_vec())
}

fn numeric_type() -> impl Strategy<Value = InputType> {
    input_type().prop_filter("numeric", |input_type| input_type.is_numeric())
}

fn batch() -> impl Strategy<Value = InputBatch> {
    let inputs = |input_type| match input_type {
        InputType::Bytes => vec(vec(any::<u8>(), 0..40).prop_map(Input::bytes), 0..8).boxed(),
        InputType::Strings => vec(any::<String>().prop_map(|text| Input::string(&text)), 0..8).boxed(),
        InputType::Ints => vec(vec(any::<i32>(), 0..8).prop_map(|v| Input::ints(&v)), 0..8).boxed(),
        InputType::Floats => vec(vec(any::<f32>(), 0..8).prop_map(|v| Input::floats(&v)), 0..8).boxed(),
        InputType::Doubles => vec(vec(any::<f64>(), 0..8).prop_map(|v| Input::doubles(&v)), 0..8).boxed(),
    };
    input_type().prop_flat_map(move |input_type| {
        inputs(input_type).prop_map(move |inputs| InputBatch::join(input_type, &inputs))
    })
}

fn outputs() -> impl Strategy<Value = OutputBatch> {
    let element = prop_oneof![
        Just(Element::Nil),
        any::<String>().prop_map(|text| Element::Text(text.into())),
        vec(any::<u8>(), 0..40).prop_map(|bytes| Element::Bytes(bytes.into())),
    ];
    let bytes = |length: usize| vec(any::<u8>(), length).prop_map(Bytes::from);
    prop_oneof![
        vec(element, 0..8).prop_map(OutputBatch::Elements),
        (numeric_type(), 0..8usize).prop_flat_map(move |(dtype, count)| {
            bytes(count * dtype.element_size()).prop_map(move |data| OutputBatch::Scalars { dtype, data })
        }),
        (numeric_type(), vec(0..6u32, 0..8)).prop_flat_map(move |(dtype, lengths)| {
            bytes(lengths.iter().sum::<u32>() as usize * dtype.element_size())
                .prop_map(move |data| OutputBatch::Vectors { dtype, lengths: lengths.clone(), data })
        }),
    ]
}

fn from_container() -> impl Strategy<Value = FromContainer> {
    let register = (
        any::<(u64, String, String, Option<String>)>(),
        input_type(),
        any::<(Option<u32>, Option<u32>, Option<String>, Option<String>)>(),
    )
        .prop_map(
            |((protocol, model, version, token), input_type, (max_batch_size, replica, sdk, instance))| {
                FromContainer::Register(Register {
                    protocol,
                    model,
                    version,
                    input_type,
                    token,
                    max_batch_size,
                    replica,
                    sdk,
                    instance,
                })
            },
        );
    let prediction = (any::<(u64, u64)>(), outputs(), btree_map(0..8u32, any::<String>(), 0..4)).prop_map(
        |((id, elapsed_micros), outputs, mut errors)| {
            errors.retain(|&index, _| (index as usize) < outputs.len());
            FromContainer::Prediction(Prediction { id, elapsed_micros, outputs, errors })
        },
    );
    prop_oneof![
        register,
        prediction,
        Just(FromContainer::Heartbeat),
        Just(FromContainer::Goodbye),
        any::<(u64, String)>().prop_map(|(id, message)| FromContainer::Error { id, message }),
        any::<u64>().prop_map(|id| FromContainer::FeedbackAck { id }),
    ]
}

fn to_container() -> impl Strategy<Value = ToContainer> {
    let feedback = (any::<u64>(), batch()).prop_flat_map(|(id, inputs)| {
        vec(any::<String>(), inputs.len())
            .prop_map(move |labels| ToContainer::Feedback(Feedback { id, inputs: inputs.clone(), labels }))
    });
    prop_oneof![
        (any::<u64>(), any::<u64>(), batch()).prop_map(|(id, budget_micros, inputs)| ToContainer::Predict(
            Predict { id, budget_micros, inputs }
        )),
        feedback,
        (any::<(u32, u64, u64)>(), of(vec(any::<String>(), 0..4))).prop_map(
            |((replica, heartbeat_millis, timeout_millis), frontends)| ToContainer::Registered(Registered {
                replica,
                heartbeat_millis,
                timeout_millis,
                frontends
            })
        ),
        any::<(String, Option<u64>)>()
            .prop_map(|(reason, retry_millis)| ToContainer::Rejected { reason, retry_millis }),
        of(vec(any::<String>(), 0..4)).prop_map(|frontends| ToContainer::Heartbeat { frontends }),
        Just(ToContainer::Unknown),
        Just(ToContainer::Drain),
    ]
}

/// The batch that a message answers.
fn held(message: &FromContainer) -> impl Iterator<Item = (u64, usize)> + Clone + use<> {
    let held = match message {
        FromContainer::Prediction(prediction) => Some((prediction.id, prediction.outputs.len())),
        _ => None,
    };
    held.into_iter()
}

/// Why a container's message is refused that holds batch 1 with so many inputs.
fn refusal(frames: &Frames, inputs: usize) -> String {
    FromContainer::decode(frames, [(1, inputs)].into_iter()).unwrap_err().to_string()
}

proptest! {
    #[test]
    fn what_a_container_says_is_understood(message in from_container()) {
        prop_assert_eq!(FromContainer::decode(&message.encode(), held(&message)), Ok(message));
    }

    #[test]
    fn what_a_frontend_says_is_understood(message in to_container()) {
        prop_assert_eq!(ToContainer::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn errors_are_understood_by_integers_and_by_decimal_digits(
        errors in btree_map(0..20u32, (any::<String>(), any::<bool>()), 0..8),
    ) {
        let mut rest = b"\xa6errors".to_vec();
        rest.extend(map_of(errors.iter().map(|(index, (text, digits))| {
            (if *digits { key(&index.to_string()) } else { vec![u8::try_from(*index).unwrap()] }, &**text)
        })));
        let frames = prediction_of(20, &rest);
        let Ok(FromContainer::Prediction(prediction)) = FromContainer::decode(&frames, [(1, 20)].into_iter()) else {
            return Err(TestCaseError::fail("it is a prediction"));
        };
        let expected: BTreeMap<u32, String> = errors.into_iter().map(|(index, (text, _))| (index, text)).collect();
        prop_assert_eq!(prediction.errors, expected);
    }

    #[test]
    fn a_key_of_errors_that_is_no_index_is_refused_with_its_text(text in "[^\"\\\\]{0,12}") {
        prop_assume!(text.parse::<u32>().ok().is_none_or(|index| index.to_string() != text));
        let rest = [b"\xa6errors".to_vec(), map_of([(key(&text), "why")].into_iter())].concat();
        let refusal = refusal(&prediction_of(20, &rest), 20);
        prop_assert!(refusal.contains("expected the index of an input as a key of 'errors'"), "{}", refusal);
    }

    #[test]
    fn arbitrary_bytes_end_in_a_message_or_an_error(
        first in prop_oneof![0x80..=0x8fu8, 0xde..=0xdfu8],
        header in vec(any::<u8>(), 0..200),
        payload in of(vec(any::<u8>(), 0..64)),
    ) {
        let header = [vec![first], header].concat().into();
        let frames = Frames { header, payload: payload.map(Bytes::from) };
        let _ = FromContainer::decode(&frames, [(1, 3)].into_iter());
        let _ = Introduction::decode(&frames);
        let _ = ToContainer::decode(&frames);
    }

    #[test]
    fn a_message_with_flipped_bytes_ends_in_a_message_or_an_error(
        message in from_container(),
        flips in vec(any::<(prop::sample::Index, u8)>(), 1..4),
    ) {
        let mut frames = message.encode();
        let mut header = frames.header.to_vec();
        for (index, value) in flips {
            let index = index.index(header.len());
            header[index] = value;
        }
        frames.header = header.into();
        let _ = FromContainer::decode(&frames, held(&message));
        let _ = Introduction::decode(&frames);
    }
}

/// A MessagePack str.
fn key(text: &str) -> Vec<u8> {
    [&[0xdb][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

/// A MessagePack map with str values.
fn map_of<'a>(entries: impl ExactSizeIterator<Item = (Vec<u8>, &'a str)>) -> Vec<u8> {
    let head = [&[0xdf][..], &u32::try_from(entries.len()).unwrap().to_be_bytes()].concat();
    entries.fold(head, |map, (index, text)| [map, index, key(text)].concat())
}

/// `prediction` of batch 1 with so many nils and one more field, as MessagePack.
fn prediction_of(count: u8, rest: &[u8]) -> Frames {
    let start = b"\x86\xa4type\xaaprediction\xa2id\x01\xaeelapsed_micros\x05\xa5count";
    Frames {
        header: [&start[..], &[count], b"\xa7outputs", &nils(count.into()), rest].concat().into(),
        payload: None,
    }
}

#[test]
fn a_key_of_errors_is_an_index_and_comes_once() {
    let cases: [(&[u8], &str); 7] = [
        (b"\x81\xa201\xa1e", "string \"01\""),
        (b"\x81\xa2+1\xa1e", "string \"+1\""),
        (b"\x81\xaa4294967296\xa1e", "string \"4294967296\""),
        (b"\x81\xff\xa1e", "integer `-1`"),
        (b"\x81\xcb\x3f\xf0\0\0\0\0\0\0\xa1e", "floating point `1.0`"),
        (b"\x81\xc0\xa1e", "unit value"),
        (b"\x82\x01\xa1e\xa11\xa1f", "'errors' has input 1 twice"),
    ];
    for (errors, expected) in cases {
        let refusal = refusal(&prediction_of(2, &[b"\xa6errors", errors].concat()), 2);
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    let refusal = refusal(&prediction_of(2, b"\xa6errors\x81\xa12\xa1e"), 2);
    assert_eq!(refusal, "'prediction' has an error of input 2, but only 2 inputs");
}

#[test]
fn a_count_that_differs_from_the_outputs_is_refused() {
    let mut prediction = Prediction {
        id: 1,
        elapsed_micros: 5,
        outputs: OutputBatch::texts(["a", "b"]),
        errors: BTreeMap::new(),
    };
    let mut frames = FromContainer::Prediction(prediction.clone()).encode();
    let position = frames.header.windows(5).position(|window| window == b"count").expect("it has a count");
    let mut header = frames.header.to_vec();
    header[position + 5] = 3;
    frames.header = header.into();
    assert_eq!(refusal(&frames, 3), "'prediction' says it has 3 outputs but has 2");

    prediction.outputs = OutputBatch::doubles(&[1.0]);
    let mut frames = FromContainer::Prediction(prediction).encode();
    frames.payload = Some(Bytes::from_static(&[0; 7]));
    assert_eq!(refusal(&frames, 1), "the outputs should take 8 bytes, the payload has 7");
}

#[test]
fn a_prediction_that_says_two_things_is_refused() {
    let decode = |header: &[u8], payload: Option<&'static [u8]>| {
        let frames = Frames { header: header.to_vec().into(), payload: payload.map(Bytes::from_static) };
        refusal(&frames, 1)
    };
    let start = b"\x87\xa4type\xaaprediction\xa2id\x01\xa5count\x01\xaeelapsed_micros\x05";
    type Case = (&'static [u8], Option<&'static [u8]>, &'static str);
    let cases: [Case; 5] = [
        (
            b"\xa5dtype\xa4ints\xa7outputs\x91\xa11\xa1x\x01",
            Some(&[0; 4]),
            "'prediction' has both 'dtype' and 'outputs'",
        ),
        (b"\xa5dtype\xa1d\xa1x\x01\xa1y\x01", Some(&[0; 8]), "'d' is not one of ints, floats and doubles"),
        (b"\xa7lengths\x91\x01\xa7outputs\x91\xa11\xa1x\x01", None, "'prediction' lacks the field 'dtype'"),
        (
            b"\xa6errors\x81\x01\xa1e\xa7outputs\x91\xa11\xa1x\x01",
            None,
            "'prediction' has an error of input 1, but only 1 inputs",
        ),
        (b"\xa7outputs\x91\xa11\xa1x\x01\xa1y\x01\x00", None, "something follows the header in its frame"),
    ];
    for (rest, payload, expected) in cases {
        assert_eq!(decode(&[start, rest].concat(), payload), expected);
    }
    let goodbye =
        Frames { header: Bytes::from_static(b"\x81\xa4type\xa7goodbye"), payload: Some(Bytes::new()) };
    assert_eq!(refusal(&goodbye, 1), "'goodbye' has a payload frame where none belongs");
}

#[test]
fn frames_of_another_shape_are_refused() {
    for frames in
        [vec![], vec![Bytes::new()], vec![Bytes::from_static(b"x"), Bytes::new()], vec![Bytes::new(); 4]]
    {
        assert!(Frames::from_multipart(frames).unwrap_err().to_string().contains("expected an empty frame"));
    }
}

/// `prediction` of batch 1 with one text and whatever follows, as MessagePack.
fn prediction_with(rest: &[u8], fields: u8) -> Frames {
    let start = b"\xa4type\xaaprediction\xa2id\x01\xa5count\x01\xaeelapsed_micros\x05\xa7outputs\x91\xa11";
    Frames { header: [&[0x85 + fields], &start[..], rest].concat().into(), payload: None }
}

/// An array of nils: one byte each on the wire.
fn nils(count: u32) -> Vec<u8> {
    [&[0xdd][..], &count.to_be_bytes(), &vec![0xc0; count as usize]].concat()
}

#[test]
fn an_answer_has_as_many_outputs_as_its_batch_has_inputs() {
    let prediction = |count: usize| {
        let outputs = OutputBatch::Elements(vec![Element::Nil; count]);
        FromContainer::Prediction(Prediction { id: 1, elapsed_micros: 1, outputs, errors: BTreeMap::new() })
            .encode()
    };
    assert_eq!(refusal(&prediction(2), 1), "it answered a batch of 1 inputs with 2 outputs");
    assert_eq!(refusal(&prediction(0), 1), "it answered a batch of 1 inputs with 0 outputs");
    assert_eq!(refusal(&prediction(5000), 1), "the header has more than 259 values");
    assert!(FromContainer::decode(&prediction(5000), [(0, 1), (1, 5000)].into_iter()).is_ok());
}

#[test]
fn an_answer_to_a_batch_that_is_not_held_is_refused_for_that() {
    let frames = prediction_with(b"", 0);
    let error = FromContainer::decode(&frames, [(2, 1)].into_iter()).unwrap_err().to_string();
    assert_eq!(error, "it answered batch 1, which it does not hold");
    let error = FromContainer::decode(&frames, std::iter::empty()).unwrap_err().to_string();
    assert_eq!(error, "it answered batch 1, which it does not hold");
}

#[test]
fn a_header_has_no_more_values_than_its_message_needs() {
    for field in ["errors", "lengths", "inputs", "labels", "frontends", "unknown"] {
        let key = [&[0xa0 | u8::try_from(field.len()).unwrap()], field.as_bytes()].concat();
        let frames = prediction_with(&[key, nils(1000)].concat(), 1);
        assert_eq!(refusal(&frames, 1), "the header has more than 259 values", "{field}");
    }
    let nested = prediction_with(&[b"\xa1x\x92\x91".to_vec(), nils(150), nils(150)].concat(), 1);
    assert_eq!(refusal(&nested, 1), "the header has more than 259 values");
}

#[test]
fn a_container_that_holds_nothing_says_little() {
    let mut frames = FromContainer::Heartbeat.encode();
    frames.header =
        [b"\x82\xa4type\xa9heartbeat\xa1x\xdb\0\x01\0\0".to_vec(), vec![b'x'; 65536]].concat().into();
    let error = FromContainer::decode(&frames, std::iter::empty()).unwrap_err().to_string();
    assert_eq!(error, "the message has 65559 bytes; at most 65536 are read while it holds no batch");
    assert!(FromContainer::decode(&frames, [(1, 1)].into_iter()).is_ok());
}

#[test]
fn a_stranger_is_read_for_its_type_alone() {
    let stranger = |message: &FromContainer| Introduction::decode(&message.encode());
    assert_eq!(stranger(&FromContainer::Goodbye), Ok(Introduction::Goodbye));
    assert_eq!(stranger(&FromContainer::Heartbeat), Ok(Introduction::Other));
    // What it says of a batch is not looked at.
    let nonsense = Frames {
        header: Bytes::from_static(b"\x82\xa4type\xaaprediction\xa2id\xa1x"),
        payload: Some(Bytes::from_static(&[0; 9])),
    };
    assert_eq!(Introduction::decode(&nonsense), Ok(Introduction::Other));
    for (header, expected) in [
        (&b"\x81\xa4type\xa5hello"[..], "unknown message type 'hello'"),
        (b"\x81\xa4typo\xa5hello", "unknown message type ''"),
        (b"\x81\xa4type\xa8register", "'register' lacks the field 'protocol'"),
    ] {
        let frames = Frames { header: Bytes::copy_from_slice(header), payload: None };
        assert_eq!(Introduction::decode(&frames).unwrap_err().to_string(), expected);
    }
    let many = Frames {
        header: [b"\x82\xa4type\xa9heartbeat\xa1x".to_vec(), nils(300)].concat().into(),
        payload: None,
    };
    assert_eq!(Introduction::decode(&many).unwrap_err().to_string(), "the header has more than 256 values");
    let large = Frames { payload: Some(vec![0; 65536].into()), ..FromContainer::Heartbeat.encode() };
    assert_eq!(
        Introduction::decode(&large).unwrap_err().to_string(),
        "the message has 65552 bytes; at most 65536 are read before a container has registered"
    );
}

#[test]
fn long_errors_are_cut_and_say_so() {
    let long = "no ".repeat(100_000);
    let error = FromContainer::Error { id: 1, message: long.clone() };
    let Ok(FromContainer::Error { message, .. }) =
        FromContainer::decode(&error.encode(), [(1, 1)].into_iter())
    else {
        panic!("it is an error");
    };
    assert!(message.len() <= 4096 && message.ends_with(" ... (cut, 300000 bytes)"), "{message}");

    let outputs = OutputBatch::Elements(vec![Element::Nil]);
    let errors = BTreeMap::from([(0, long)]);
    let prediction = FromContainer::Prediction(Prediction { id: 1, elapsed_micros: 1, outputs, errors });
    let Ok(FromContainer::Prediction(prediction)) =
        FromContainer::decode(&prediction.encode(), [(1, 1)].into_iter())
    else {
        panic!("it is a prediction");
    };
    assert_eq!(prediction.errors[&0], message);
}
