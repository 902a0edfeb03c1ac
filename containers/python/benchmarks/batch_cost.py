"""Measures what a batch costs besides the model: decode, call, encode, and the way through a socket.

Invariant: the batch is 64 inputs of 8 doubles, so that numbers from different days can be compared.

    python benchmarks/batch_cost.py
"""

from __future__ import annotations

import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import zmq

from clipper_container import codec, kinds
from clipper_container.adapter import Adapter

INPUTS, LENGTH = 64, 8
IN_FLIGHT = 4
ROUND_TRIPS = 20_000
BATCH = codec.encode_predict(1, "doubles", [np.ones(LENGTH)] * INPUTS, 1_000_000)

MODELS: dict[str, Callable[[Any], Any]] = {
    "noop": kinds.noop,
    "sum": kinds.element_sum,
    "one float per input, in a list": lambda xs: [float(x[0]) for x in xs],
    "one dict per input": lambda xs: [{"label": 1}] * len(xs),
}


def main() -> None:
    """Prints microseconds per batch: without sockets for each model, then through TCP for `noop`."""
    for name, model in MODELS.items():
        adapter = Adapter(model)

        def batch(adapter: Adapter = adapter) -> None:
            codec.encode(adapter.answer(codec.decode(BATCH)))  # type: ignore[arg-type]

        repeats = 2000
        micros = min(timeit.repeat(batch, number=repeats, repeat=5)) / repeats * 1e6
        print(f"{name:32} {micros:8.1f} us per batch of {INPUTS} x {LENGTH}")
    print(f"{'noop through TCP':32} {through_tcp():8.1f} us per batch, {IN_FLIGHT} in flight")


def through_tcp() -> float:
    """Returns the microseconds per batch of a container process that always has batches waiting."""
    router: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
    router.linger = 0
    address = f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    options = ["--name", "m", "--version", "1", "--input-type", "doubles", "--frontends", address]
    container = subprocess.Popen([sys.executable, "-m", "clipper_container", "noop", *options])
    try:
        peer = router.recv_multipart()[0]
        welcome = {"type": "registered", "replica": 0, "heartbeat_millis": 60_000, "timeout_millis": 600_000}
        router.send_multipart([peer, b"", msgpack.packb(welcome)])
        for _ in range(IN_FLIGHT):
            router.send_multipart([peer, *BATCH])
        started = time.perf_counter()
        for _ in range(ROUND_TRIPS):
            router.recv_multipart()
            router.send_multipart([peer, *BATCH])
        return (time.perf_counter() - started) / ROUND_TRIPS * 1e6
    finally:
        container.terminate()
        container.wait()
        router.close()


if __name__ == "__main__":
    main()
