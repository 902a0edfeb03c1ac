"""Owns the call of the author's model: from a `Predict` to the one message that answers it.

Invariant: `answer` returns an answer to every batch, whatever the model does, unless the user interrupts it.
"""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Callable, Protocol, Union

from .errors import OutputError
from .failure_log import FailureLog
from .messages import BatchError, Inputs, NumericBatch, Outputs, Predict, Prediction
from .outputs import counted, one_per_input, to_outputs

MAX_EXPLANATION_BYTES = 4096
"""The end of a traceback is sent up to this size: the exception itself stands last."""
MAX_LOGGED_BYTES = 256 * 1024
"""The end of a traceback is logged up to this size."""

_NANOS_PER_MICRO = 1000
_KIND_CHARS = 200


class Predictor(Protocol):
    """A model as an object. It may also have `warm_up()`, called once before the container registers."""

    def predict(self, batch: Any) -> Any:
        """Returns one output per input of the batch."""


Model = Union[Callable[[Any], Any], Predictor, type[Predictor]]


class Adapter:
    """Calls a model with batches, or with single inputs, and turns what happens into answers."""

    def __init__(self, model: Model, *, per_row: bool = False) -> None:
        """Finds the function to call, creating the object and warming it up where there is one.

        Args:
            model: a function of a batch, an object with `predict`, or a class of such objects.
            per_row: call it with one input at a time; an exception then costs only that input.

        Raises:
            TypeError: the model is none of these.
        """
        if isinstance(model, type):
            model = model()
        warm_up = getattr(model, "warm_up", None)
        if callable(warm_up):
            warm_up()
        function = getattr(model, "predict", model)
        if not callable(function):
            raise TypeError(f"a {type(model).__name__} is neither a function nor an object with `predict`")
        self._function: Callable[[Any], Any] = function
        self._per_row = per_row
        self._elapsed_nanos = 0
        self._failures: FailureLog | None = None

    def answer(self, batch: Predict, failures: FailureLog | None = None) -> Prediction | BatchError:
        """Runs the model on a batch, and records in `failures` what goes wrong.

        A numeric batch is handed over as a read-only array of shape (inputs, length). Where the lengths
        differ, there is one call per length, so that no input can spoil a batch for those of another length.

        Raises:
            KeyboardInterrupt: the model raised it, which is the user's wish to stop.
        """
        self._elapsed_nanos = 0
        self._failures = failures
        try:
            outputs, errors = self._outputs(batch.inputs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a `sys.exit` of the model is a failed batch too
            self._record(f"a batch of {counted(len(batch.inputs), 'input')}", error)
            return BatchError(batch.id, _explain(error, MAX_EXPLANATION_BYTES))
        return Prediction(batch.id, outputs, self._elapsed_nanos // _NANOS_PER_MICRO, errors)

    def _outputs(self, inputs: Inputs) -> tuple[Outputs, dict[int, str]]:
        count = len(inputs)
        if not count:
            return [], {}
        if self._per_row:
            rows = inputs.rows() if isinstance(inputs, NumericBatch) else inputs
            return self._separately([([index], row) for index, row in enumerate(rows)], count)
        if not isinstance(inputs, NumericBatch):
            return self._to_outputs(one_per_input(self._call(inputs), count))
        matrix = inputs.matrix()
        if matrix is not None:
            return self._to_outputs(one_per_input(self._call(matrix), count))
        return self._separately(inputs.by_length(), count)

    def _separately(
        self, parts: Sequence[tuple[list[int], Any]], count: int
    ) -> tuple[Outputs, dict[int, str]]:
        """Calls the model once per part and puts the elements in order.

        The failure of one input costs that input only. That of several fails the batch, for the frontend to
        find out which of them is at fault: they belong to different clients, who must not read of each other.
        """
        elements: list[Any] = [None] * count
        failures: dict[int, str] = {}
        for indices, part in parts:
            try:
                result = self._call(part)
                results = [result] if self._per_row else one_per_input(result, len(indices))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # as in `answer`
                if len(indices) > 1:
                    raise
                failures[indices[0]] = _explain(error, MAX_EXPLANATION_BYTES)
                self._record(f"1 of {counted(count, 'input')}", error, f"input {indices[0]}: ")
            else:
                for index, element in zip(indices, results):
                    elements[index] = element
        outputs, errors = self._to_outputs(elements)
        return outputs, {**errors, **failures}

    def _to_outputs(self, elements: Any) -> tuple[Outputs, dict[int, str]]:
        outputs, errors = to_outputs(elements)
        errors = {index: _cut(text, MAX_EXPLANATION_BYTES) for index, text in errors.items()}
        if self._failures is not None:
            self._failures.record_outputs(errors, len(outputs))
        return outputs, errors

    def _record(self, failed: str, error: BaseException, place: str = "") -> None:
        if self._failures is not None:
            explain = functools.partial(_explain, error, MAX_LOGGED_BYTES)
            self._failures.record(_kind(error), failed, lambda: place + explain())

    def _call(self, argument: Any) -> Any:
        started = time.perf_counter_ns()
        try:
            return self._function(argument)
        finally:
            self._elapsed_nanos += time.perf_counter_ns() - started


def _explain(error: BaseException, max_bytes: int) -> str:
    """Returns what operators and applications read of a failure, at most the last `max_bytes` of it."""
    if isinstance(error, OutputError):
        text = str(error)
    else:
        text = "".join(traceback.format_exception(type(error), error, _frames(error))).rstrip()
    return _cut(text, max_bytes)


def _frames(error: BaseException) -> TracebackType | None:
    """Returns the traceback without the calls of this file."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return frames


def _kind(error: BaseException) -> str:
    """Returns the exception's type and message, and the line that raised it."""
    frames = error.__traceback__
    while frames and frames.tb_next:
        frames = frames.tb_next
    place = f"{frames.tb_frame.f_code.co_filename}:{frames.tb_lineno}" if frames else ""
    message = traceback.format_exception_only(type(error), error)[-1]
    return f"{place} {message[:_KIND_CHARS]}"


def _cut(text: str, max_bytes: int) -> str:
    """Returns the end of a text that may hold what is not Unicode."""
    raw = text.encode("utf-8", "replace")
    return raw[-max_bytes:].decode("utf-8", "ignore")
