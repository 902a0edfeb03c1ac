"""Users of four hidden groups; what each user says soon chooses the model that fits that user.

Some people hold their tablet upright, some turn it left, right, or upside down, and nobody tells the
recogniser. Four classifiers of handwritten digits are served, each trained on images that are turned in one
way. One application learns for each user (`uid`) whom to believe, the other learns for all users at once.
Printed is how often each errs, by how many answers a user has corrected so far.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from clipper_admin.exceptions import ClipperException
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from clipper_admin import Clipper

# By how many quarter turns.
GROUPS = {"upright": 0, "left": 1, "upside-down": 2, "right": 3}
APPS = {"personal": "a state for each user", "shared": "one state for all"}
# After so many corrections it is looked how often each application errs, on so many images a user.
LOOKS, LOOKED_AT = (0, 1, 2, 4, 8), 10
# More than they need, so that the story is the same on a busy machine.
LATENCY_SLO_MICROS = 500_000


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="have 24 users, not 120")
    users = 24 if parser.parse_args().quick else 120
    data_dir = Path(tempfile.mkdtemp(prefix="clipper-personalization-"))
    clipper = Clipper("localhost", data_dir=data_dir, query_port=0, management_port=0, rpc_port=0)
    try:
        clipper.start()
        run(clipper, users)
    except ClipperException as error:
        sys.exit(f"personalization: {error}")
    finally:
        clipper.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


def run(clipper: Clipper, users: int) -> None:
    """Serve the models, and let the users ask and correct."""
    images, labels = load_digits(return_X_y=True)
    train_images, images, train_labels, labels = train_test_split(
        images, labels, train_size=0.5, random_state=0, stratify=labels
    )
    say(f"Training and deploying {len(GROUPS)} classifiers, each of images that are turned in one way")
    classifiers = {}
    for group, turns in GROUPS.items():
        classifiers[group] = SVC().fit(turned(train_images, turns), train_labels)
        clipper.deploy_predict_function(
            group, 1, classifiers[group].predict, "doubles", sample_inputs=train_images[:2]
        )
    for app in APPS:
        clipper.register_application(
            app, list(GROUPS), "doubles", "-1", LATENCY_SLO_MICROS, selection_policy="exp4", selection_seed=1
        )

    say(f"{users} users, each of a group that nobody knows, correct {LOOKS[-1]} answers each")
    chance = np.random.default_rng(0)
    groups = {f"user-{number}": list(GROUPS)[number % len(GROUPS)] for number in range(users)}

    def drawn(group: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows = chance.integers(0, len(labels), count)
        return turned(images[rows], GROUPS[group]), labels[rows]

    errors: dict[str, list[float]] = {name: [] for name in (*APPS, "best")}
    for corrections in range(LOOKS[-1] + 1):
        if corrections in LOOKS:
            wrong: dict[str, list[bool]] = {name: [] for name in errors}
            for uid, group in groups.items():
                inputs, right = drawn(group, LOOKED_AT)
                for app in APPS:
                    answers = clipper.predict_batch(app, inputs, uid=uid if app == "personal" else None)
                    wrong[app] += [answer["output"] != label for answer, label in zip(answers, right)]
                wrong["best"] += list(classifiers[group].predict(inputs) != right)
            for name, each in wrong.items():
                errors[name].append(float(np.mean(each)))
        for uid, group in groups.items():
            [image], [label] = drawn(group, 1)
            clipper.feedback("personal", uid=uid, input=image, label=label)
            clipper.feedback("shared", input=image, label=label)

    print(f"    {'mean error after so many corrections':<36}" + "".join(f"{look:>8}" for look in LOOKS))
    for name, of in errors.items():
        title = APPS.get(name, "the model of their group, always")
        print(f"    {title:<36}" + "".join(f"{error:8.1%}" for error in of))

    uid = "user-1"
    say(f"What the application has learned of {uid}, who is of the group '{groups[uid]}'")
    for whose, state in (("user", uid), ("shared", None)):
        models = clipper.get_selection_state("personal", state)["state"]["models"]
        parts = ", ".join(f"{model['model_name']} {model['weight']:.2f}" for model in models)
        print(f"    weights of the {whose} state: {parts}")

    personal, shared = errors["personal"], errors["shared"]
    if personal[1] >= shared[1] or personal[-1] >= shared[-1]:
        sys.exit("personalization: after one correction a user's own state should err less than the shared")


def turned(images: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Turn each image, a row of 64 pixels."""
    return np.rot90(images.reshape(-1, 8, 8), quarter_turns, axes=(1, 2)).reshape(-1, 64)


def say(step: str) -> None:
    """Tell the reader what happens now."""
    print(f"\n==> {step}", flush=True)


if __name__ == "__main__":
    main()
