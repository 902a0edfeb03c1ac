"""The models that the container processes of the tests serve.

Invariant: each stands for one habit of authors' models.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from clipper_container import codec


def documented(xs):
    return [str(np.sum(x)) for x in xs]


def upper(xs):
    return [x.upper() for x in xs]


def means(xs):
    return xs.mean(axis=1)


def rows(xs):
    return xs


def shapes(xs):
    return [f"{xs.shape}"] * len(xs)


def one_output(xs):
    return ["only one"]


def fail_on_bad(xs):
    if "bad" in xs:
        raise ValueError("a bad input")
    return xs


def half_a_surrogate_pair_of_bad(xs):
    return ["\ud83d" if x == "bad" else {"text": "\ud83d"} if x == "nested" else x for x in xs]


def too_long(xs):
    codec.MAX_MESSAGE_BYTES = 1000
    return [x * 10 for x in xs]


def fail_deep_down(xs, depth=30):
    if depth:
        return fail_deep_down(xs, depth - 1) if depth % 2 else fail_further_down(xs, depth - 1)
    raise ValueError("the cause " + "x" * 5000)


def fail_further_down(xs, depth):
    return fail_deep_down(xs, depth)


def fail_on_bad_row(x):
    if x == "bad":
        raise ValueError("a bad input")
    return x


def unsendable_first(xs):
    return [object(), {"ok": float("nan")}]


def leave(xs):
    sys.exit("the model wants to leave")


def interrupt(xs):
    raise KeyboardInterrupt


def hold(xs):
    """Says that it began by the file `began` in the folder of the input, and waits there for `release`."""
    folder = Path(xs[0])
    (folder / "began").touch()
    while not (folder / "release").exists():
        time.sleep(0.01)
    return xs


def kill_a_forked_worker(xs):
    ready, say_ready = os.pipe()
    worker = os.fork()
    if not worker:
        os.write(say_ready, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    os.kill(worker, signal.SIGTERM)
    _, status = os.waitpid(worker, 0)
    return [os.WTERMSIG(status)] * len(xs)


class Warmed:
    """Answers whether it was warmed up."""

    def __init__(self):
        self.warm = False

    def warm_up(self):
        self.warm = True

    def predict(self, xs):
        return [self.warm] * len(xs)
