"""Owns the wire form of the messages: ZeroMQ frames of MessagePack and raw little-endian numbers.

Invariant: `decode` returns a message whose counts and lengths add up, or raises `CodecError`; bytes from the
network raise nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable

import msgpack
import numpy as np
from numpy.typing import NDArray

from .errors import CodecError
from .input_type import DTYPES
from .messages import (
    BatchError,
    Drain,
    Feedback,
    FeedbackAck,
    FromContainer,
    FromFrontend,
    Goodbye,
    Heartbeat,
    Inputs,
    NumericBatch,
    Predict,
    Prediction,
    Register,
    Registered,
    Rejected,
    Unknown,
)
from .multipart import Frame

MAX_MESSAGE_BYTES = 256 * 1024 * 1024
"""A message beyond this size closes the connection."""

_PREFIX = b""
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ELEMENT_TYPES: dict[str, type] = {"strings": str, "bytes": bytes}


def decode(frames: Sequence[Frame]) -> FromFrontend:
    """Reads a message from a frontend.

    Args:
        frames: the multipart message. Numeric inputs become views of the payload frame, not copies, unless
            the frame lies unaligned in memory.

    Raises:
        CodecError: the message breaks the protocol.
    """
    if len(frames) not in (2, 3) or len(frames[0]):
        raise CodecError("the frames are not an empty one, a header and at most one payload")
    header = _header(frames[1])
    name = _text(header, "type")
    decoder = _DECODERS.get(name)
    if decoder is None:
        raise CodecError(f"the message type {name!r:.40} is unknown")
    payload = frames[2] if frames[2:] else None
    return decoder(header, payload)


def encode(message: FromContainer) -> list[bytes]:
    """Writes a message to a frontend, as the frames to send.

    Raises:
        CodecError: the answer is larger than the protocol allows, or holds text that is not Unicode.
    """
    fields: dict[str, Any] = {"type": _TYPE_NAMES[type(message)]}
    payload = None
    if isinstance(message, Prediction):
        fields.update(id=message.id, count=len(message.outputs), elapsed_micros=message.elapsed_micros)
        payload = _put_outputs(fields, message.outputs)
        if message.errors:
            fields["errors"] = message.errors
    else:
        fields.update((key, value) for key, value in message._asdict().items() if value is not None)
    return _frames(fields, payload)


def sendable(prediction: Prediction) -> tuple[Prediction, dict[int, str]]:
    """Takes the outputs out that cannot be sent even alone: too large, or not Unicode.

    Returns:
        The prediction without them, and why, by index, as is told to each one's query.
    """
    if isinstance(prediction.outputs, NumericBatch):
        return prediction, {}
    outputs, reasons = list(prediction.outputs), {}
    for index, output in enumerate(outputs):
        try:
            encode(prediction._replace(outputs=[output], errors={}))
        except CodecError as error:
            outputs[index] = None
            reasons[index] = f"the output, of type {type(output).__name__}, cannot be sent: {error}"
    return prediction._replace(outputs=outputs, errors={**prediction.errors, **reasons}), reasons


def encode_predict(batch_id: int, input_type: str, inputs: Sequence[Any], budget_micros: int) -> list[bytes]:
    """Writes a batch as a frontend does, so that a function can be checked without one.

    Args:
        batch_id: the batch's id.
        input_type: the wire name of the input type.
        inputs: str, bytes, or sequences of numbers.
        budget_micros: the time allowed.

    Raises:
        CodecError: an input is not of the input type.
    """
    fields: dict[str, Any] = {
        "type": "predict",
        "id": batch_id,
        "count": len(inputs),
        "input_type": input_type,
        "budget_micros": budget_micros,
    }
    dtype = DTYPES.get(input_type)
    if dtype is None:
        fields["inputs"] = list(inputs)
        return _frames(fields, None)
    try:
        rows = [_row(row, dtype) for row in inputs]
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"an input is not a list of {input_type}: {error}") from None
    fields["lengths"] = [row.size for row in rows]
    return _frames(fields, b"".join(row.tobytes() for row in rows))


def _row(row: Any, dtype: np.dtype) -> NDArray[Any]:
    """Returns the numbers of an input; masked ones are NaN.

    Raises:
        TypeError: the type has no NaN.
    """
    if np.ma.is_masked(row):
        row = row.tolist()
    return np.asarray(row, dtype=dtype).reshape(-1)


def _frames(fields: dict[str, Any], payload: bytes | None) -> list[bytes]:
    try:
        header: bytes = msgpack.packb(fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"the message cannot be written: {error}") from None
    size = len(header) + len(payload or b"")
    if size > MAX_MESSAGE_BYTES:
        raise CodecError(f"the message has {size} bytes; the most allowed are {MAX_MESSAGE_BYTES}")
    return [_PREFIX, header] if payload is None else [_PREFIX, header, payload]


def _put_outputs(fields: dict[str, Any], outputs: NumericBatch | list[Any]) -> bytes | None:
    """Adds the outputs to the header; returns the payload if they are numbers."""
    if not isinstance(outputs, NumericBatch):
        fields["outputs"] = outputs
        return None
    fields["dtype"] = _DTYPE_NAMES[outputs.values.dtype]
    if outputs.lengths is not None:
        fields["lengths"] = outputs.lengths
    return outputs.values.tobytes()


def _header(frame: Frame) -> dict[str, Any]:
    try:
        header = msgpack.unpackb(frame)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CodecError(f"the header is not MessagePack: {error}") from None
    if type(header) is not dict or set(map(type, header)) != {str}:
        raise CodecError("the header is not a map with string keys")
    return header


def _unsigned(header: dict[str, Any], key: str, least: int = 0) -> int:
    value = header.get(key)
    if type(value) is not int or value < least:
        raise CodecError(f"`{key}` is {value!r:.40}, not an integer of at least {least}")
    return value


def _text(header: dict[str, Any], key: str) -> str:
    value = header.get(key)
    if type(value) is not str:
        raise CodecError(f"`{key}` is {value!r:.40}, not a string")
    return value


def _array(header: dict[str, Any], key: str, element: type, count: int | None = None) -> list[Any]:
    """Reads an array of `count` elements, all of exactly the type `element`."""
    value = header.get(key)
    if type(value) is not list or not set(map(type, value)) <= {element}:
        raise CodecError(f"`{key}` is not an array of {element.__name__}")
    if count is not None and len(value) != count:
        raise CodecError(f"`{key}` has {len(value)} elements and `count` is {count}")
    return value


def _no_payload(payload: Frame | None) -> None:
    if payload is not None:
        raise CodecError("there is a payload frame where none belongs")


def _frontends(header: dict[str, Any]) -> list[str] | None:
    return None if header.get("frontends") is None else _array(header, "frontends", str)


def _inputs(header: dict[str, Any], input_type: str, payload: Frame | None) -> Inputs:
    count = _unsigned(header, "count")
    dtype = DTYPES.get(input_type)
    if dtype is None:
        element = _ELEMENT_TYPES.get(input_type)
        if element is None:
            raise CodecError(f"the input type {input_type!r:.40} is unknown")
        _no_payload(payload)
        return _array(header, "inputs", element, count)
    lengths = _array(header, "lengths", int, count)
    if payload is None:
        raise CodecError("the payload frame of numeric inputs is missing")
    if (lengths and min(lengths) < 0) or sum(lengths) * dtype.itemsize != len(payload):
        raise CodecError(f"`lengths` does not add up to the {len(payload)} bytes of the payload")
    values = np.frombuffer(payload, dtype)
    if not values.flags.aligned:
        values = values.copy()
    values.flags.writeable = False
    return NumericBatch(values, lengths)


def _predict(header: dict[str, Any], payload: Frame | None) -> Predict:
    input_type = _text(header, "input_type")
    inputs = _inputs(header, input_type, payload)
    return Predict(_unsigned(header, "id"), input_type, inputs, _unsigned(header, "budget_micros"))


def _feedback(header: dict[str, Any], payload: Frame | None) -> Feedback:
    input_type = _text(header, "input_type")
    inputs = _inputs(header, input_type, payload)
    return Feedback(_unsigned(header, "id"), input_type, inputs, _array(header, "labels", str, len(inputs)))


def _registered(header: dict[str, Any], payload: Frame | None) -> Registered:
    _no_payload(payload)
    return Registered(
        _unsigned(header, "replica"),
        _unsigned(header, "heartbeat_millis", least=1),
        _unsigned(header, "timeout_millis", least=1),
        _frontends(header),
    )


def _rejected(header: dict[str, Any], payload: Frame | None) -> Rejected:
    _no_payload(payload)
    retry = None if header.get("retry_millis") is None else _unsigned(header, "retry_millis")
    return Rejected(_text(header, "reason"), retry)


def _heartbeat(header: dict[str, Any], payload: Frame | None) -> Heartbeat:
    _no_payload(payload)
    return Heartbeat(_frontends(header))


def _unknown(_header: dict[str, Any], payload: Frame | None) -> Unknown:
    _no_payload(payload)
    return Unknown()


def _drain(_header: dict[str, Any], payload: Frame | None) -> Drain:
    _no_payload(payload)
    return Drain()


_DECODERS: dict[str, Callable[[dict[str, Any], Frame | None], FromFrontend]] = {
    "predict": _predict,
    "heartbeat": _heartbeat,
    "feedback": _feedback,
    "registered": _registered,
    "rejected": _rejected,
    "unknown": _unknown,
    "drain": _drain,
}
_TYPE_NAMES: dict[type, str] = {
    Prediction: "prediction",
    BatchError: "error",
    Heartbeat: "heartbeat",
    FeedbackAck: "feedback_ack",
    Register: "register",
    Goodbye: "goodbye",
}
