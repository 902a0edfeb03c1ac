"""Owns the check of a function before it is deployed.

What is checked is the pickled function, loaded again and called through the code that will serve it.

A user who gives sample inputs gets a strict check: whatever goes wrong with them is an error. Without them
the check has to make inputs up, and then a function may fail only because it wants others (a model of 64
features is given 3). So made-up inputs of several lengths or contents are tried until one passes:

* an answer of the wrong form, such as one output for two inputs, is an error: no input makes it right;
* a function that fails on all of them *in the same way*, down to the message, fails whatever its input: an
  error too;
* one that fails on each of them differently probably wants other inputs: a warning, which shows the failure.

Invariant: nothing is sent to the cluster.
"""

from __future__ import annotations

import base64
import contextlib
import inspect
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import numpy as np

from clipper_container import CheckError, ClosureError, InputType, check, closure

from .exceptions import FunctionException

_BATCH = 2
_DEEPEST = 100
_LENGTHS = (1, 2, 3)
_TEXTS = ("a", "1", '{"a": 1}', "0" * 8)

_logger = logging.getLogger("clipper_admin")


@contextlib.contextmanager
def saved_function(function: Callable[..., Any], per_row: bool) -> Iterator[Path]:
    """Yields a temporary folder that holds the pickled function, as a `python-closure` container wants it.

    Raises:
        FunctionException: it cannot be pickled, or not be called.
    """
    with tempfile.TemporaryDirectory(prefix="clipper-function-") as folder:
        try:
            closure.save(function, folder, per_row=per_row)
        except (ClosureError, TypeError) as error:
            raise FunctionException(str(error)) from error
        yield Path(folder)


def check_function(folder: Path, input_type: str, sample_inputs: Sequence[Any] | None = None) -> None:
    """Checks a saved function with the sample inputs, or with made-up ones if there are none.

    Raises:
        FunctionException: the function cannot be served.
    """
    kind = _parse(input_type)
    function, per_row = _load(folder)
    if sample_inputs is not None:
        _run(function, list(sample_inputs), kind, per_row)
        return
    failures = []
    for sample in _made_up(function, kind):
        try:
            _run(function, [sample], kind, per_row)
        except FunctionException as error:
            if not _raised(error):
                raise
            failures.append(error)
        else:
            return
    if len({str(failure) for failure in failures}) == 1:
        raise FunctionException(
            f"{failures[-1]}\nIt failed in the same way on every input that was made up for it. If it wants "
            "others, give some of them in sample_inputs, or skip this check with check=False."
        )
    _logger.warning(
        "the function could not be checked, since it failed on inputs that were made up for it; give real "
        "ones in sample_inputs to have it checked. The last failure: %s",
        failures[-1],
    )


def answers(
    function: Callable[..., Any], inputs: Sequence[Any], input_type: str, per_row: bool = False
) -> list[Any]:
    """Returns what an application would receive for the inputs. Bytes may be base64, as it sends them.

    Raises:
        FunctionException: the function cannot be served.
    """
    kind = _parse(input_type)
    if kind is InputType.BYTES:
        inputs = [_decoded(item) if isinstance(item, str) else item for item in inputs]
    with saved_function(function, per_row) as folder:
        loaded, _ = _load(folder)
        return [_as_received(output) for output in _run(loaded, list(inputs), kind, per_row)]


def _load(folder: Path) -> closure.Closure:
    """Loads a saved function; of a class it makes the object that will serve."""
    try:
        function, per_row = closure.load(folder)
        return closure.Closure(function() if isinstance(function, type) else function, per_row)
    except ClosureError as error:
        raise FunctionException(str(error)) from error
    except Exception as error:
        raise _not_created(error) from error


def _parse(input_type: str) -> InputType:
    try:
        return InputType.parse(input_type)
    except ValueError as error:
        raise FunctionException(str(error)) from None


def _run(function: Callable[..., Any], inputs: list[Any], kind: InputType, per_row: bool) -> list[Any]:
    """Runs the function on all inputs, two at a time: how inputs are batched is the cluster's choice."""
    if not inputs:
        raise FunctionException("there are no inputs to try the function on; give at least one")
    outputs: list[Any] = []
    try:
        for start in range(0, len(inputs), _BATCH):
            batch = inputs[start : start + _BATCH]
            outputs += check(function, batch, kind, per_row=per_row)[: len(batch)]
    except CheckError as error:
        raise FunctionException(str(error)) from None
    except Exception as error:
        raise _not_created(error) from error
    return outputs


def _not_created(error: Exception) -> FunctionException:
    return FunctionException(f"the model cannot be made ready to serve: {type(error).__name__}: {error}")


def _raised(failure: FunctionException) -> bool:
    """Returns whether the function raised, which is reported with a traceback, not in one sentence."""
    return "\n" in failure.msg


def _made_up(function: Callable[..., Any], kind: InputType) -> Iterator[Any]:
    if kind.dtype is not None:
        for length in (*_numbers_of_features(function), *_LENGTHS):
            yield np.ones(length, kind.dtype)
    else:
        for text in _TEXTS:
            yield text.encode() if kind is InputType.BYTES else text


def _numbers_of_features(function: Callable[..., Any]) -> Iterator[int]:
    """Yields how many features the models take that a function is or uses, by scikit-learn's convention."""
    values = [function, getattr(function, "__self__", None), *getattr(function, "__dict__", {}).values()]
    if inspect.isfunction(function):
        with contextlib.suppress(ValueError):  # a variable of an enclosing function is not bound yet
            variables = inspect.getclosurevars(function)
            values += [*variables.nonlocals.values(), *variables.globals.values()]
    for value in values:
        number = getattr(value, "n_features_in_", None)
        if isinstance(number, int):
            yield number


def _decoded(text: str) -> bytes:
    """Decodes base64 as the cluster does: either alphabet, padded or not, with white space."""
    compact = "".join(text.split())
    padded = compact + "=" * (-len(compact) % 4)
    url_safe = "-" in compact or "_" in compact
    try:
        return base64.b64decode(padded, altchars=b"-_" if url_safe else None, validate=True)
    except ValueError as error:
        raise FunctionException(f"the input {text!r} is not base64: {error}") from None


def _as_received(output: Any) -> Any:
    if isinstance(output, str):
        return _nested(output)
    if isinstance(output, bytes):
        return base64.b64encode(output).decode()
    return _finite(output.tolist() if isinstance(output, (np.ndarray, np.generic)) else output)


def _nested(text: str) -> Any:
    """Returns a text as the JSON that it is, or as a text where clients would misread that: docs/http.md."""
    try:
        value = json.loads(text, parse_float=_parsed, parse_int=_parsed, parse_constant=_parsed)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return text
    return value if _depth(value) <= _DEEPEST else text


def _parsed(number: str) -> int | float:
    """Reads a number that is finite as a double.

    Raises:
        ValueError: it is not.
    """
    if not math.isfinite(float(number)):
        raise ValueError(number)
    return int(number) if number.lstrip("-").isdecimal() else float(number)


def _depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(_depth, items), default=0)


def _finite(output: Any) -> Any:
    if isinstance(output, list):
        return [_finite(number) for number in output]
    return None if isinstance(output, float) and not math.isfinite(output) else output
