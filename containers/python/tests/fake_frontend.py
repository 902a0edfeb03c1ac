"""A frontend of the tests: a real ROUTER socket that speaks the protocol and knows nothing of the SDK.

Invariant: every wait has a deadline, so a test fails and never hangs.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgpack
import zmq

DEADLINE_SECONDS = 20.0
_FORMATS = {"ints": "i", "floats": "f", "doubles": "d"}


class Received(NamedTuple):
    """A message of a container: the routing id of its connection, the header, and the payload if any."""

    peer: bytes
    header: dict[str, Any]
    payload: bytes | None

    @property
    def type(self) -> str:
        return self.header["type"]


class FakeFrontend:
    """Binds a random port, or a given one to stand in for a frontend that was there before.

    With `unix` it binds, instead of the port, the Unix socket that goes with it: a frontend that listens on
    both is two of these, which tells a test by which of them a container came.
    """

    def __init__(self, port: int | None = None, *, unix: bool = False) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.port = port or self._socket.bind_to_random_port("tcp://127.0.0.1")
        if port is not None:
            self._bind_again(f"ipc://@clipper/{self.address}" if unix else f"tcp://{self.address}")

    def __enter__(self) -> FakeFrontend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def receive(self, *types: str, peer: bytes | None = None) -> Received:
        """Returns the next message of one of the types (of any, if none is given), passing over others."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            if not self._socket.poll(left * 1000):
                break
            sender, empty, header, *payload = self._socket.recv_multipart()
            assert empty == b""
            assert len(payload) <= 1
            message = Received(sender, msgpack.unpackb(header, strict_map_key=False), *(payload or [None]))
            if (not types or message.type in types) and peer in (None, sender):
                return message
        raise AssertionError(f"no {' or '.join(types) or 'message'} within {DEADLINE_SECONDS:g} s")

    def hears_nothing_for(self, seconds: float) -> bool:
        return not self._socket.poll(seconds * 1000)

    def send(self, peer: bytes, kind: str, payload: bytes | None = None, **fields: Any) -> None:
        self.send_frames(
            peer, b"", msgpack.packb({"type": kind, **fields}), *([] if payload is None else [payload])
        )

    def send_frames(self, peer: bytes, *frames: bytes) -> None:
        self._socket.send_multipart([peer, *frames])

    def welcome(
        self, peer: bytes, heartbeat_millis: int = 200, timeout_millis: int = 60_000, **fields: Any
    ) -> None:
        self.send(
            peer,
            "registered",
            replica=0,
            heartbeat_millis=heartbeat_millis,
            timeout_millis=timeout_millis,
            **fields,
        )

    def accept(self, **fields: Any) -> bytes:
        """Waits for a container to register, welcomes it, and returns its routing id."""
        peer = self.receive("register").peer
        self.welcome(peer, **fields)
        return peer

    def send_predict(self, peer: bytes, batch_id: int, input_type: str, inputs: Sequence[Any]) -> None:
        fields = {"id": batch_id, "count": len(inputs), "input_type": input_type, "budget_micros": 1_000_000}
        if input_type not in _FORMATS:
            self.send(peer, "predict", inputs=list(inputs), **fields)
            return
        numbers = [number for row in inputs for number in row]
        payload = struct.pack(f"<{len(numbers)}{_FORMATS[input_type]}", *numbers)
        self.send(peer, "predict", payload, lengths=[len(row) for row in inputs], **fields)

    def predict(self, peer: bytes, input_type: str, inputs: Sequence[Any], batch_id: int = 1) -> Received:
        """Sends a batch and returns its answer."""
        self.send_predict(peer, batch_id, input_type, inputs)
        answer = self.receive("prediction", "error", peer=peer)
        assert answer.header["id"] == batch_id
        return answer

    def outputs(self, peer: bytes, input_type: str, inputs: Sequence[Any]) -> list[Any]:
        """Sends a batch and returns its outputs, numeric ones as numbers or tuples of numbers."""
        answer = self.predict(peer, input_type, inputs)
        assert answer.type == "prediction", answer.header
        outputs = unpack_outputs(answer)
        assert len(outputs) == answer.header["count"] == len(inputs)
        return outputs

    def _bind_again(self, endpoint: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                self._socket.bind(endpoint)
            except zmq.ZMQError:
                assert time.monotonic() < deadline, f"{endpoint} is still taken"
            else:
                return


def unpack_outputs(answer: Received) -> list[Any]:
    header, payload = answer.header, answer.payload
    if payload is None:
        return header["outputs"]
    form = _FORMATS[header["dtype"]]
    numbers = list(struct.unpack(f"<{len(payload) // struct.calcsize(form)}{form}", payload))
    if "lengths" not in header:
        return numbers
    return [tuple(numbers.pop(0) for _ in range(length)) for length in header["lengths"]]
