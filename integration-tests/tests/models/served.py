"""Models that the cluster's tests serve: `python -m clipper_container served:FUNCTION`."""

import os
import time
from pathlib import Path


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


def raises(xs):
    raise ValueError(f"the model is out of cheese, as {Path(__file__).name} says")


def silent(xs):
    return [None for _ in xs]


def one_output(xs):
    return [0.0]
