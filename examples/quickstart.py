"""From nothing to predictions of real models: what `make quickstart` runs.

Starts a cluster on this machine, serves two models on it (a Python function as it stands, and a scikit-learn
classifier of handwritten digits), and asks for predictions over REST as any application would.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import requests
from clipper_admin.exceptions import ClipperException
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clipper_admin import Clipper

DATA_DIR = Path(__file__).resolve().parent.parent / ".quickstart"
LATENCY_SLO_MICROS = 100_000


def feature_sum_function(xs):
    """Sum the elements of each vector of a batch."""
    return [str(np.sum(x)) for x in xs]


def main() -> None:
    """Run the quickstart."""
    parser = argparse.ArgumentParser(description=__doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--exit", action="store_true", help="for scripts: take free ports, and stop the cluster at the end"
    )
    how.add_argument(
        "--stop", action="store_true", help="only stop the cluster that an earlier quickstart has left"
    )
    arguments = parser.parse_args()
    ports = {"query_port": 0, "management_port": 0, "rpc_port": 0} if arguments.exit else {}
    clipper = Clipper("localhost", data_dir=DATA_DIR, **ports)
    try:
        clipper.stop()  # the one that an earlier quickstart has left
        if not arguments.stop:
            run(clipper, leave_running=not arguments.exit)
    except ClipperException as error:
        sys.exit(f"quickstart: {error}")


def run(clipper: Clipper, *, leave_running: bool) -> None:
    """Start a cluster on an empty directory, and serve both models on it."""
    say("Starting a cluster")
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    clipper.start()
    finished = False
    try:
        print(
            f"    applications ask http://{clipper.get_query_addr()}; data and logs are in {DATA_DIR.name}/"
        )
        serve_a_function(clipper)
        serve_a_classifier(clipper)
        finished = True
    finally:
        if not (finished and leave_running):
            clipper.stop()
    if leave_running:
        say("The cluster goes on running. Try it:")
        url = f"http://{clipper.get_query_addr()}/hello_world/predict"
        print(f"    curl -d '{{\"input\": [1.0, 2.0, 3.5]}}' {url}")
        python, this = (os.path.relpath(path) for path in (sys.executable, __file__))
        print(f"\nand stop it with:\n    {python} {this} --stop")


def serve_a_function(clipper: Clipper) -> None:
    """Serve a Python function as it stands."""
    say("Serving a Python function")
    clipper.register_application("hello_world", "feature_sum_model", "doubles", "-1.0", LATENCY_SLO_MICROS)
    clipper.deploy_predict_function("feature_sum_model", 1, feature_sum_function, "doubles")
    print(f"    [1.0, 2.0, 3.5] -> {clipper.predict('hello_world', [1.0, 2.0, 3.5])}")


def serve_a_classifier(clipper: Clipper) -> None:
    """Train a classifier on images of digits, serve it, and ask it about images that it has not seen."""
    say("Training a logistic regression on scikit-learn's handwritten digits")
    images, labels = load_digits(return_X_y=True)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.3, random_state=0
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(train_images, train_labels)
    print(f"    {len(train_images)} images to train on, {len(test_images)} held out")

    say("Serving it, and asking for each of the held-out images over REST")
    clipper.register_application("digits", "digits_model", "doubles", "-1", LATENCY_SLO_MICROS)
    clipper.deploy_predict_function(
        "digits_model", 1, classifier.predict, "doubles", sample_inputs=test_images[:2]
    )
    url = f"http://{clipper.get_query_addr()}/digits/predict"
    latencies, correct, defaults = [], 0, 0
    with requests.Session() as session:
        for image, label in zip(test_images, test_labels):
            began = time.perf_counter()
            response = session.post(url, json={"input": image.tolist()}, timeout=10)
            latencies.append(1000 * (time.perf_counter() - began))
            response.raise_for_status()
            answer = response.json()
            defaults += answer["default"]
            correct += answer["output"] == label
    quantiles = statistics.quantiles(latencies, n=100)
    asked = len(test_labels)
    print(f"    accuracy {correct / asked:.1%} ({correct} of {asked}, {defaults} of them defaults)")
    print(f"    latency  median {quantiles[49]:.1f} ms, 99th percentile {quantiles[98]:.1f} ms")
    local = classifier.score(test_images, test_labels)
    if correct != round(local * asked):
        sys.exit(f"quickstart: the model itself has an accuracy of {local:.1%}; served it should be the same")


def say(step: str) -> None:
    """Tell the reader what happens now."""
    print(f"\n==> {step}", flush=True)


if __name__ == "__main__":
    main()
