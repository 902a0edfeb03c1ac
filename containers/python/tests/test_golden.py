"""The golden frames that every SDK reads. Invariant: a message that this SDK knows is never passed over."""

from __future__ import annotations

import base64
import json
from itertools import chain
from pathlib import Path

import msgpack
import numpy as np
import pytest

from clipper_container import codec, messages
from clipper_container.input_type import DTYPES

GOLDEN = Path(__file__).parents[3] / "rpc" / "golden"
CASES = [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))]
FROM_CONTAINER = {
    "register": messages.Register,
    "heartbeat": messages.Heartbeat,
    "error": messages.BatchError,
    "feedback_ack": messages.FeedbackAck,
    "goodbye": messages.Goodbye,
}
TO_CONTAINER = {
    "registered": messages.Registered,
    "rejected": messages.Rejected,
    "unknown": messages.Unknown,
    "heartbeat": messages.Heartbeat,
    "predict": messages.Predict,
    "feedback": messages.Feedback,
    "drain": messages.Drain,
}


def cases(direction):
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case["name"])
            for case in CASES
            if case["direction"] == direction and "spells" not in case
        ],
    )


def test_every_message_has_a_golden_frame():
    seen = {(case["direction"], case["message"]["type"]) for case in CASES}
    assert seen == {("from_container", name) for name in [*FROM_CONTAINER, "prediction"]} | {
        ("to_container", name) for name in TO_CONTAINER
    }


@cases("to_container")
def test_decodes_to_the_message(case):
    expected = dict(case["message"])
    decoded = codec.decode([bytes.fromhex(frame) for frame in case["frames"]])
    assert type(decoded) is TO_CONTAINER[expected.pop("type")]
    fields = {key: value for key, value in decoded._asdict().items() if value is not None}
    if "inputs" in fields:
        inputs = fields["inputs"]
        fields["count"] = len(inputs)
        if isinstance(inputs, messages.NumericBatch):
            fields["inputs"] = [row.tolist() for row in inputs.rows()]
            assert inputs.values.dtype == DTYPES[expected["input_type"]]
        expected["inputs"] = [plain(each) for each in expected["inputs"]]
        expected.pop("lengths", None)
    assert fields == {key: value for key, value in expected.items() if value is not None}


@pytest.mark.parametrize("case", [case for case in CASES if "spells" in case], ids=lambda case: case["name"])
def test_a_frame_that_is_spelled_otherwise_means_the_same(case):
    header = unpack(bytes.fromhex(case["frames"][1]))
    header["errors"] = {int(index): text for index, text in header["errors"].items()}
    (same,) = (each for each in CASES if each["name"] == case["spells"])
    assert header == unpack(bytes.fromhex(same["frames"][1]))


@cases("from_container")
def test_encodes_to_the_frames(case):
    empty, header, *payload = [bytes.fromhex(frame) for frame in case["frames"]]
    encoded = codec.encode(from_container(dict(case["message"])))
    assert encoded[0] == empty
    assert unpack(encoded[1]) == unpack(header)
    assert encoded[2:] == payload


def from_container(fields):
    name = fields.pop("type")
    if name != "prediction":
        return FROM_CONTAINER[name](**fields)
    outputs = [plain(each) for each in fields["outputs"]]
    assert len(outputs) == fields["count"]
    if "dtype" in fields:
        dtype, lengths = DTYPES[fields["dtype"]], fields.get("lengths")
        outputs = messages.NumericBatch(
            np.array(outputs if lengths is None else list(chain.from_iterable(outputs)), dtype), lengths
        )
    errors = {int(index): reason for index, reason in fields.get("errors", {}).items()}
    return messages.Prediction(fields["id"], outputs, fields["elapsed_micros"], errors)


def plain(element):
    return base64.b64decode(element["base64"]) if isinstance(element, dict) else element


def unpack(header):
    return msgpack.unpackb(header, strict_map_key=False)
