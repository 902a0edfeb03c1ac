"""Models that the cluster's tests serve: `python -m clipper_container served:FUNCTION`."""

import os
import time
from pathlib import Path

import numpy as np


def slow_sum(xs):
    """Sleeps as many seconds as the first element says, then sums the rest. Notes the batch's size first."""
    with Path(os.environ["MODEL_DIARY"]).open("a") as diary:
        diary.write(f"{len(xs)}\n")
    time.sleep(max(x[0] for x in xs))
    return [float(x[1:].sum()) for x in xs]


def doubled(xs):
    return xs * 2


def shouted(texts):
    return [text.upper() for text in texts]


def backwards(blobs):
    return [blob[::-1] for blob in blobs]


def described(xs):
    return [{"length": len(x), "elements": x.tolist(), "nested": {"none": None, "true": True}} for x in xs]


def told_apart(xs):
    """Names each number."""
    names = {"nan": "missing", "inf": "infinite", "-inf": "-infinite"}
    return [[names.get(str(number), number) for number in x.tolist()] for x in xs]


def masked_integers(xs):
    return np.ma.masked_less(xs.astype(int), 0)


def half_a_pair_of_bad(texts):
    return ["\ud83d" if text == "bad" else text for text in texts]


def raises(xs):
    raise ValueError(f"the model is out of cheese, as {Path(__file__).name} says")


def silent(xs):
    return [None for _ in xs]


def two_outputs(xs):
    return [0.0, 0.0]


def brittle(xs):
    """The second element of each input. The first says what else happens: 1 raises, 2 ends the process, 3 never ends."""
    for kind, number in xs:
        if kind == 1:
            raise ValueError(f"cannot read {number:.0f}")
        if kind == 2:
            os._exit(9)
        if kind == 3:
            time.sleep(3600)
    time.sleep(0.02)
    return [number for _, number in xs]
