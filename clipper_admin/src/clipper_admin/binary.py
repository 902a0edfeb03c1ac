"""Owns the search for the `clipper` program. Invariant: what is found is a file that can be executed."""

from __future__ import annotations

import os
import shutil
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from .exceptions import StartException


def find_binary() -> Path:
    """Returns the `clipper` program that was installed with this package.

    The variable `CLIPPER_BINARY` names another one, such as a freshly built one. The search path decides only
    if neither exists.

    Raises:
        StartException: there is none.
    """
    for candidate in _candidates():
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate.absolute()
    raise StartException(
        "the program `clipper` was not found: install it with `pip install ./clipper_admin`, "
        "or name it in the variable CLIPPER_BINARY"
    )


def _candidates() -> Iterator[Path]:
    named = os.environ.get("CLIPPER_BINARY")
    if named:
        yield Path(named)
    yield Path(sysconfig.get_path("scripts")) / "clipper"
    yield Path(site.getuserbase()) / "bin" / "clipper"
    yield Path(__file__).parents[1] / "bin" / "clipper"  # where `pip install --target` puts it
    on_path = shutil.which("clipper")
    if on_path:
        yield Path(on_path)
