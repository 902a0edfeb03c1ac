"""Owns a deployed function on disk: the folder that `save` writes and `load` reads.

The folder holds `func.pkl`, the function as pickled by cloudpickle, and `metadata.json`:

    {"python": "3.11", "cloudpickle": "3.1.1", "per_row": false, "packages": {"numpy": "1.26.4"}}

where `packages` are the installed distributions that the pickle refers to, by name and version. Invariant:
nothing is unpickled before the metadata says that it fits the interpreter.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import logging
import os
import pickle
import pickletools
import site
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import cloudpickle

from .errors import ClosureError, IncompatibleClosureError, UnpicklableFunctionError

FUNCTION_FILE = "func.pkl"
METADATA_FILE = "metadata.json"

_LOGGER = logging.getLogger("clipper_container")
_PICKLE_PROTOCOL = 4  # the newest that every Python of the last decade reads
_MAX_BLAME_DEPTH = 5
_OWN_PACKAGE = __name__.partition(".")[0]


class Closure(NamedTuple):
    """A function that was loaded, and how it wants to be called."""

    function: Callable[[Any], Any]
    per_row: bool


def save(function: Callable[[Any], Any], folder: str | os.PathLike[str], per_row: bool = False) -> None:
    """Writes a function into a folder, from which the kind `python-closure` serves it.

    Modules that are not installed, such as the author's own script and the files beside it, are pickled with
    the function; installed packages are pickled by name and must be installed where the function is served.

    Args:
        function: what `serve` takes.
        folder: created if it does not exist; a function that it already holds is replaced.
        per_row: whether the function takes one input instead of a batch.

    Raises:
        UnpicklableFunctionError: the function refers to something that cannot be pickled; the message names
            the variable where that can be found out, and says what to do.
        TypeError: the function cannot be called.
        OSError: the folder cannot be written.
    """
    if not callable(function) and not callable(getattr(function, "predict", None)):
        raise TypeError(f"a {type(function).__name__} is neither a function nor an object with `predict`")
    with _local_modules_by_value():
        try:
            pickled = _dumps(function)
        except Exception as error:
            raise _blame(function, error) from error
    metadata = {
        "python": _minor_version(),
        "cloudpickle": cloudpickle.__version__,
        "per_row": per_row,
        "packages": _packages(pickled),
    }
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / FUNCTION_FILE).write_bytes(pickled)
    (path / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def load(folder: str | os.PathLike[str]) -> Closure:
    """Reads a function that `save` wrote.

    Unpickling runs code of whoever saved the function: load only what you would run.

    Raises:
        IncompatibleClosureError: it was saved by another minor version of Python or major version of
            cloudpickle, or a package that it needs is not installed here.
        ClosureError: a file is missing or damaged.
    """
    path = Path(folder)
    metadata = _read_metadata(path / METADATA_FILE)
    _require_fit(metadata)
    try:
        pickled = (path / FUNCTION_FILE).read_bytes()
    except OSError as error:
        raise ClosureError(f"cannot read the function: {error}") from None
    packages = metadata["packages"]
    try:
        function = pickle.loads(pickled)
    except ModuleNotFoundError as error:
        raise IncompatibleClosureError(
            f"the function needs the module {error.name!r}, which is not installed here; "
            f"it was deployed with {_listed(packages)}; install that package in the container, "
            "or deploy without it"
        ) from error
    except Exception as error:
        raise IncompatibleClosureError(
            f"the function cannot be unpickled here ({type(error).__name__}: {error}); "
            f"it was deployed with {_listed(packages)}; here are {_listed(_installed(packages))}"
        ) from error
    for name, version in _installed(packages).items():
        if version != packages[name]:
            _LOGGER.warning(
                "the function was deployed with %s %s and runs with %s", name, packages[name], version
            )
    return Closure(function, metadata["per_row"])


def _minor_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _dumps(value: Any) -> bytes:
    pickled: bytes = cloudpickle.dumps(value, protocol=_PICKLE_PROTOCOL)
    return pickled


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ClosureError(f"cannot read the function's metadata: {error}") from None
    except ValueError as error:
        raise ClosureError(f"{path} is not JSON: {error}") from None
    expected = {"python": str, "cloudpickle": str, "per_row": bool, "packages": dict}
    for key, kind in expected.items():
        if not isinstance(metadata, dict) or not isinstance(metadata.get(key), kind):
            raise ClosureError(f"{path} lacks `{key}`; deploy the function again")
    return dict(metadata)


def _require_fit(metadata: Mapping[str, Any]) -> None:
    here, there = _minor_version(), metadata["python"]
    if there != here:
        raise IncompatibleClosureError(
            f"the function was deployed with Python {there} and this container runs Python {here}; "
            f"use a container image with Python {there}, or deploy from Python {here}"
        )
    here, there = cloudpickle.__version__, metadata["cloudpickle"]
    if there.partition(".")[0] != here.partition(".")[0]:
        raise IncompatibleClosureError(
            f"the function was deployed with cloudpickle {there} and this container has cloudpickle {here}; "
            "install the same major version on both sides and deploy again"
        )


def _listed(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items()) or "no packages"


def _installed(packages: Mapping[str, str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _packages(pickled: bytes) -> dict[str, str]:
    """Returns the installed distributions that a pickle refers to.

    Any string of the pickle that is the name of an imported module counts, whatever it means there. That also
    finds the imports inside a function's body; one too many only makes a message longer.
    """
    names: set[str] = set()
    for _, argument, _ in pickletools.genops(pickled):
        if isinstance(argument, str):
            names.update(word.partition(".")[0] for word in argument.split(" "))
    distributions = _distributions()
    names.discard(cloudpickle.__name__)  # it is in every pickle, and has a line of its own in the metadata
    found = sorted({name for module in names & sys.modules.keys() for name in distributions(module)})
    return {name: importlib.metadata.version(name) for name in found}


def _distributions() -> Callable[[str], list[str]]:
    """Returns the function from a top-level module to the distributions that it belongs to."""
    if sys.version_info >= (3, 10):
        mapping = importlib.metadata.packages_distributions()
        return lambda module: mapping.get(module, [])
    return lambda module: list(_installed({module: ""}))


@contextlib.contextmanager
def _local_modules_by_value() -> Iterator[None]:
    """Lets cloudpickle pickle by value what is defined in modules that will not be importable elsewhere."""
    installed = _installed_roots()
    before = cloudpickle.list_registry_pickle_by_value()
    local = [
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType)
        and name not in before
        and name == module.__name__ != "__main__"
        and name.partition(".")[0] != _OWN_PACKAGE
        and _is_local(module, installed)
    ]
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)


def _installed_roots() -> tuple[str, ...]:
    paths = set(sysconfig.get_paths().values())
    if site.ENABLE_USER_SITE:
        paths.add(site.getusersitepackages())
    paths.update(site.getsitepackages())
    return tuple(os.path.realpath(path) + os.sep for path in paths)


def _is_local(module: types.ModuleType, installed: tuple[str, ...]) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and not os.path.realpath(file).startswith(installed)


def _blame(function: Any, error: Exception) -> UnpicklableFunctionError:
    name = getattr(function, "__qualname__", type(function).__name__)
    path = _culprit(function, _MAX_BLAME_DEPTH)
    if not path:
        return UnpicklableFunctionError(
            f"`{name}` cannot be pickled: {error}; create what it needs inside the function instead"
        )
    variable = ".".join(part for part, _ in path)
    kind = type(path[-1][1]).__name__
    return UnpicklableFunctionError(
        f"`{name}` cannot be pickled because it refers to `{variable}`, of type {kind} ({error}); "
        "create it inside the function, or in the constructor of a class that is created where it is served",
        variable,
    )


def _culprit(value: Any, depth: int) -> list[tuple[str, Any]]:
    """Returns the path of (name, value) from a value to the innermost part of it that cannot be pickled."""
    if depth == 0:
        return []
    for name, part in _parts(value):
        try:
            _dumps(part)
        except Exception:
            return [(name, part), *_culprit(part, depth - 1)]
    return []


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields by name what a value refers to and would be pickled with it."""
    if isinstance(value, functools.partial):
        yield "func", value.func
        yield from ((f"argument {index}", part) for index, part in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
        yield value.__func__.__name__, value.__func__
    elif isinstance(value, types.FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                yield name, cell.cell_contents
        for name in _global_names(value.__code__):
            if name in value.__globals__ and value.__globals__[name] is not value:
                yield name, value.__globals__[name]
        yield from ((f"default {index}", part) for index, part in enumerate(value.__defaults__ or ()))
        yield from (value.__kwdefaults__ or {}).items()
    elif isinstance(value, type):
        yield from (
            (name, part) for name, part in vars(value).items() if isinstance(part, types.FunctionType)
        )
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif hasattr(value, "__dict__") and not isinstance(value, types.ModuleType):
        yield from vars(value).items()


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)
