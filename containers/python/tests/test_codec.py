"""The wire form. Invariant: messages are built here with msgpack and struct, not by the codec under test."""

from __future__ import annotations

import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper_container import codec
from clipper_container.errors import CodecError
from clipper_container.input_type import DTYPES
from clipper_container.messages import (
    BatchError,
    Feedback,
    Heartbeat,
    NumericBatch,
    Predict,
    Prediction,
    Register,
    Registered,
)

ELEMENTS = {
    "ints": st.integers(-(2**31), 2**31 - 1),
    "floats": st.floats(width=32, allow_nan=False),
    "doubles": st.floats(allow_nan=False),
}
JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            ["predict", "feedback", "registered", "rejected", "heartbeat", "unknown", "drain"]
        )
    },
    optional={
        "id": st.integers(0, 9) | JSON_LIKE,
        "count": st.integers(0, 3) | JSON_LIKE,
        "input_type": st.sampled_from(["ints", "floats", "doubles", "strings", "bytes"]) | JSON_LIKE,
        "budget_micros": st.integers(0, 9) | JSON_LIKE,
        "lengths": st.lists(st.integers(-1, 3), max_size=3) | JSON_LIKE,
        "inputs": st.lists(st.text() | st.binary(), max_size=3) | JSON_LIKE,
        "labels": st.lists(st.text(), max_size=3) | JSON_LIKE,
        "replica": JSON_LIKE,
        "heartbeat_millis": JSON_LIKE,
        "timeout_millis": JSON_LIKE,
        "frontends": JSON_LIKE,
        "reason": JSON_LIKE,
        "retry_millis": JSON_LIKE,
    },
)


def header(**fields):
    return msgpack.packb(fields)


def predict_header(**fields):
    return header(**{"type": "predict", "id": 1, "budget_micros": 9, **fields})


@given(
    st.sampled_from(sorted(ELEMENTS)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.lists(st.lists(ELEMENTS[kind])))
    )
)
def test_numeric_batches_survive_the_round_trip(batch):
    input_type, inputs = batch
    message = codec.decode(codec.encode_predict(7, input_type, inputs, 20_000))
    assert (message.id, message.input_type, message.budget_micros) == (7, input_type, 20_000)
    assert [row.tolist() for row in message.inputs.rows()] == inputs


@given(st.lists(st.text()))
def test_strings_survive_the_round_trip(inputs):
    assert codec.decode(codec.encode_predict(7, "strings", inputs, 1)) == Predict(7, "strings", inputs, 1)


@given(st.lists(st.binary()))
def test_bytes_survive_the_round_trip(inputs):
    assert codec.decode(codec.encode_predict(7, "bytes", inputs, 1)) == Predict(7, "bytes", inputs, 1)


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_arbitrary_frames_raise_nothing_but_the_codecs_own_error(frames):
    try_to_decode(frames)


@given(st.binary(max_size=60))
def test_an_arbitrary_header_raises_nothing_but_the_codecs_own_error(header):
    try_to_decode([b"", header])
    try_to_decode([b"", b"\x81\xa4type" + header])


@given(FIELDS, st.none() | st.binary(max_size=24))
def test_arbitrary_fields_raise_nothing_but_the_codecs_own_error(fields, payload):
    try_to_decode([b"", msgpack.packb(fields)] + ([] if payload is None else [payload]))


def try_to_decode(frames):
    try:
        message = codec.decode(frames)
    except CodecError:
        return
    if isinstance(message, (Predict, Feedback)) and isinstance(message.inputs, NumericBatch):
        assert sum(message.inputs.lengths) == message.inputs.values.size


def test_numbers_are_a_read_only_view_of_the_payload():
    payload = struct.pack("<4d", 1, 2, 3, 4)
    message = codec.decode([b"", predict_header(input_type="doubles", count=2, lengths=[2, 2]), payload])
    assert np.shares_memory(message.inputs.matrix(), np.frombuffer(payload))
    assert not message.inputs.matrix().flags.writeable


def test_numbers_that_lie_unaligned_are_copied():
    payload = memoryview(b"\0" + struct.pack("<2d", 1, 2))[1:]
    message = codec.decode([b"", predict_header(input_type="doubles", count=1, lengths=[2]), payload])
    assert message.inputs.values.flags.aligned
    assert message.inputs.values.tolist() == [1, 2]


def test_unknown_keys_are_ignored():
    frames = [b"", header(type="heartbeat", colour="red", shape={"round": 1})]
    assert codec.decode(frames) == Heartbeat(None)


def test_nil_is_as_good_as_absent():
    frames = [b"", header(type="registered", replica=0, heartbeat_millis=1, timeout_millis=2, frontends=None)]
    assert codec.decode(frames) == Registered(0, 1, 2, None)


@pytest.mark.parametrize(
    "frames",
    [
        [b"", predict_header(input_type="doubles", count=1, lengths=[1])],
        [b"", predict_header(input_type="doubles", count=1, lengths=[1]), b"1234567"],
        [b"", predict_header(input_type="doubles", count=2, lengths=[1]), bytes(8)],
        [b"", predict_header(input_type="doubles", count=2, lengths=[2, -1]), bytes(8)],
        [b"", predict_header(input_type="doubles", count=1, lengths=[True]), bytes(8)],
        [b"", predict_header(input_type="doubles", count=1, lengths=[2**64 - 1]), bytes(8)],
        [b"", predict_header(input_type="strings", count=1, inputs=["a", "b"])],
        [b"", predict_header(input_type="strings", count=1, inputs=[b"a"])],
        [b"", predict_header(input_type="strings", count=1, inputs=["a"]), b""],
        [b"", predict_header(input_type="tensors", count=1, inputs=["a"])],
        [b"", header(type="registered", replica=0, heartbeat_millis=0, timeout_millis=1)],
        [b"", msgpack.packb({1: 2, "type": "drain"})],
        [b"", msgpack.packb(["type", "drain"])],
        [b"", b"\xdd\xff\xff\xff\xff"],
        [b"", b"\x81\xa4type" + b"\x91" * 10_000],
    ],
)
def test_what_does_not_add_up_is_malformed(frames):
    with pytest.raises(CodecError):
        codec.decode(frames)


def test_numeric_outputs_are_one_little_endian_payload():
    outputs = NumericBatch(np.array([1, 2, 3], DTYPES["ints"]), [2, 1])
    _, packed, payload = codec.encode(Prediction(7, outputs, 5, {}))
    assert msgpack.unpackb(packed) == {
        "type": "prediction",
        "id": 7,
        "count": 2,
        "elapsed_micros": 5,
        "dtype": "ints",
        "lengths": [2, 1],
    }
    assert payload == struct.pack("<3i", 1, 2, 3)


def test_an_absent_field_is_not_sent():
    _, packed = codec.encode(Register("m", "1", "ints"))
    assert set(msgpack.unpackb(packed)) == {"type", "protocol", "model", "version", "input_type"}


def test_text_that_is_not_unicode_is_an_error_of_the_codec():
    with pytest.raises(CodecError, match="surrogates"):
        codec.encode(Prediction(1, ["\ud800"], 0, {}))


def test_an_answer_beyond_the_limit_is_an_error_of_the_codec(monkeypatch):
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(CodecError, match="the most allowed are 100"):
        codec.encode(BatchError(1, "x" * 100))


def test_masked_and_missing_inputs_of_a_check_are_nan():
    rows = [np.ma.array([1.5, 9.0], mask=[0, 1]), [1.5, None], np.ma.array([1.5, 2.5])]
    for input_type in ("doubles", "floats"):
        inputs = codec.decode(codec.encode_predict(1, input_type, rows, 0)).inputs
        assert repr(inputs.values.tolist()) == "[1.5, nan, 1.5, nan, 1.5, 2.5]"
    for row in rows[:2]:
        with pytest.raises(CodecError, match="not a list of ints"):
            codec.encode_predict(1, "ints", [row], 0)
