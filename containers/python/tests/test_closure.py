"""Functions on disk: written here, served by another process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pytest

import served_models
from clipper_container import ClosureError, IncompatibleClosureError, UnpicklableFunctionError, closure
from process import SOURCES


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deployed" / "model"


def edit_metadata(folder, **changes):
    path = folder / closure.METADATA_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_closure_is_served(frontend, start, folder):
    weights = np.array([1.0, 2.0])
    closure.save(lambda xs: xs @ weights, folder)
    start("python-closure", frontend, CLIPPER_MODEL_PATH=str(folder))
    assert frontend.outputs(frontend.accept(), "doubles", [[1, 1], [2, 2]]) == [3, 6]


def test_a_closure_of_a_row_is_served_by_the_row(frontend, start, folder):
    closure.save(lambda x: 1 / float(x[0]), folder, per_row=True)
    start("python-closure", frontend, CLIPPER_MODEL_PATH=str(folder))
    answer = frontend.predict(frontend.accept(), "doubles", [[2], [0]])
    assert answer.header["outputs"] == ["0.5", None]
    assert "ZeroDivisionError" in answer.header["errors"][1]


def test_the_authors_own_modules_travel_with_the_function(folder):
    closure.save(lambda xs: served_models.upper(xs), folder)
    source = f"from clipper_container import closure; print(closure.load({str(folder)!r}).function(['a']))"
    printed = subprocess.run(
        [sys.executable, "-c", source],
        cwd=folder,
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == "['A']\n"


def test_metadata_says_what_was_used(folder):
    closure.save(lambda xs: np.sum(xs, axis=1), folder, per_row=True)
    metadata = json.loads((folder / closure.METADATA_FILE).read_text())
    assert metadata["python"] == "{}.{}".format(*sys.version_info)
    assert metadata["cloudpickle"].count(".") == 2
    assert metadata["per_row"] is True
    assert metadata["packages"]["numpy"] == np.__version__


def test_another_python_is_one_clear_line(start, folder):
    closure.save(served_models.documented, folder)
    edit_metadata(folder, python="3.1")
    container = start("python-closure", CLIPPER_MODEL_PATH=str(folder))
    assert container.exit_code() == 1
    here = "{}.{}".format(*sys.version_info)
    assert container.log == (
        "clipper_container: the function was deployed with Python 3.1 and this container runs "
        f"Python {here}; use a container image with Python 3.1, or deploy from Python {here}\n"
    )


def test_another_major_version_of_cloudpickle_is_refused(folder):
    closure.save(served_models.documented, folder)
    edit_metadata(folder, cloudpickle="0.9.1")
    with pytest.raises(
        IncompatibleClosureError, match=r"deployed with cloudpickle 0\.9\.1 and this container has"
    ):
        closure.load(folder)


def test_a_missing_package_is_named(folder, tmp_path, monkeypatch):
    closure.save(served_models.documented, folder)
    (folder / closure.FUNCTION_FILE).write_bytes(b"cno_such_package\nfunction\n.")
    with pytest.raises(IncompatibleClosureError, match=r"needs the module 'no_such_package'.*numpy"):
        closure.load(folder)


def test_a_damaged_folder_is_a_closure_error(folder):
    with pytest.raises(ClosureError, match="cannot read the function's metadata"):
        closure.load(folder)
    closure.save(served_models.documented, folder)
    (folder / closure.FUNCTION_FILE).write_bytes(b"garbage")
    with pytest.raises(ClosureError, match="cannot be unpickled here"):
        closure.load(folder)
    (folder / closure.METADATA_FILE).write_text("[]")
    with pytest.raises(ClosureError, match="lacks `python`"):
        closure.load(folder)


def closes_over_a_lock():
    lock = threading.Lock()

    def predict(xs):
        with lock:
            return xs

    return predict


class HoldsALock:
    """A model object that cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def predict(self, xs):
        return xs


@pytest.mark.parametrize(
    ("function", "variable"),
    [
        (closes_over_a_lock(), "lock"),
        (partial(lambda xs, guard: xs, guard=threading.Lock()), "guard"),
        (HoldsALock(), "lock"),
        (HoldsALock().predict, "self.lock"),
        (lambda xs, model={"locks": [threading.Lock()]}: xs, "default 0.['locks'].[0]"),
    ],
)
def test_the_variable_that_cannot_be_pickled_is_named(function, variable, folder):
    with pytest.raises(UnpicklableFunctionError, match=r"refers to .*, of type lock") as caught:
        closure.save(function, folder)
    assert caught.value.variable == variable
    assert not folder.exists()
