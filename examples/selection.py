"""Five models answer together; the best of them breaks, and is repaired.

Starts a cluster on this machine and serves five scikit-learn classifiers of handwritten digits. Two
applications ask them: one asks all five and weighs their votes (`exp4`), the other asks one for each query
and learns whom to ask (`thompson`). Both learn only from feedback: after each answer they are told what was
right. Then a version 2 of the best model is deployed that answers at random, and some time later the model
is rolled back.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from clipper_admin.exceptions import ClipperException
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from clipper_admin import Clipper

CLASSIFIERS = {
    "vectors": SVC(),
    "linear": LinearDiscriminantAnalysis(),
    "bayes": GaussianNB(),
    "neighbour": KNeighborsClassifier(1),
    "tree": DecisionTreeClassifier(random_state=0),
}
BEST = "vectors"
POLICIES = {"ensemble": "exp4", "bandit": "thompson"}
# More than they need, so that the story is the same on a busy machine.
LATENCY_SLO_MICROS = 500_000


def main() -> None:
    """Tell the story."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="three models and 150 queries a phase, not five and 600"
    )
    quick = parser.parse_args().quick
    names, queries = (list(CLASSIFIERS)[:3], 150) if quick else (list(CLASSIFIERS), 600)
    data_dir = Path(tempfile.mkdtemp(prefix="clipper-selection-"))
    clipper = Clipper("localhost", data_dir=data_dir, query_port=0, management_port=0, rpc_port=0)
    try:
        clipper.start()
        run(clipper, names, queries)
    except ClipperException as error:
        sys.exit(f"selection: {error}")
    finally:
        clipper.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def run(clipper: Clipper, names: list[str], queries: int) -> None:
    """Serve the models, and ask the applications in three phases."""
    chance = np.random.default_rng(0)
    images, labels = load_digits(return_X_y=True)
    noisy = np.clip(images + chance.normal(0, 4, images.shape), 0, 16)
    train_images, stream_images, train_labels, stream_labels = train_test_split(
        noisy, labels, train_size=0.5, random_state=0, stratify=labels
    )

    say(f"Training and deploying {len(names)} classifiers of noisy images of digits")
    serving: dict[str, Any] = {}
    for name in names:
        serving[name] = classifier = CLASSIFIERS[name].fit(train_images, train_labels)
        clipper.deploy_predict_function(
            name, 1, classifier.predict, "doubles", sample_inputs=train_images[:2]
        )
        print(f"    {name:<10} {type(classifier).__name__}", flush=True)
    for app, policy in POLICIES.items():
        clipper.register_application(
            app,
            names,
            "doubles",
            "-1",
            LATENCY_SLO_MICROS,
            selection_policy=policy,
            selection_seed=1,
        )

    def phase(title: str) -> dict[str, float]:
        drawn = chance.integers(0, len(stream_labels), queries)
        say(f"{title}: {queries} queries to each application")
        return ask(clipper, serving, stream_images[drawn], stream_labels[drawn])

    before = phase("All is well")

    good = serving[BEST]
    # What happens when a table of labels gets out of step with the images.
    broken = SVC().fit(train_images, chance.permutation(train_labels))
    say(f"Deploying version 2 of '{BEST}', which was trained on mixed-up labels")
    clipper.deploy_predict_function(BEST, 2, broken.predict, "doubles", sample_inputs=train_images[:2])
    serving[BEST] = broken
    during = phase(f"'{BEST}' answers at random")

    say(f"Rolling '{BEST}' back to version 1")
    clipper.set_model_version(BEST, 1)
    serving[BEST] = good
    after = phase(f"'{BEST}' is repaired")

    if not (before[BEST] > during[BEST] < after[BEST]):
        in_turn = [of[BEST] for of in (before, during, after)]
        sys.exit(f"selection: '{BEST}' should have been left and taken back; its weights: {in_turn}")


def ask(
    clipper: Clipper, serving: dict[str, Any], images: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Ask each application for each image, say what was right, and return the weights in the ensemble."""
    weights_before = weights(clipper)
    wrong = {name: classifier.predict(images) != labels for name, classifier in serving.items()}
    for app in POLICIES:
        wrong[app] = np.zeros(len(labels), dtype=bool)
    for row, (image, label) in enumerate(zip(images, labels)):
        for app in POLICIES:
            answer = clipper.predict(app, image)
            wrong[app][row] = answer["output"] != label
            clipper.feedback(app, query_id=answer["query_id"], label=label)
    time.sleep(1)  # What the frontend has learned is with management within a second.
    weights_after = weights(clipper)

    print(f"    {'':<22}      error             weight in the ensemble")
    print(f"    {'':<22} first 100   after         before    after")
    for name in (*serving, *POLICIES):
        begin, rest = wrong[name][:100].mean(), wrong[name][100:].mean()
        line = f"    {_row_title(name):<22} {begin:9.1%} {rest:7.1%}"
        if name in serving:
            line += f" {weights_before[name]:14.3f} {weights_after[name]:8.3f}"
        print(line, flush=True)
    return weights_after


def weights(clipper: Clipper) -> dict[str, float]:
    """Return how much each model's vote counts in the ensemble."""
    models = clipper.get_selection_state("ensemble")["state"]["models"]
    return {model["model_name"]: model["weight"] for model in models}


def _row_title(name: str) -> str:
    return f"{name} ({POLICIES[name]})" if name in POLICIES else f"{name} alone"


def say(step: str) -> None:
    """Tell the reader what happens now."""
    print(f"\n==> {step}", flush=True)


if __name__ == "__main__":
    main()
