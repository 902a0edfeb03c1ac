"""Owns the messages of the container protocol as Python values, free of their wire form.

Invariant: `NumericBatch.values` always holds exactly the elements that `lengths` counts.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple, Union

import numpy as np
from numpy.typing import NDArray

PROTOCOL_VERSION = 4


class NumericBatch:
    """The inputs or outputs of a batch, as numbers that stand back to back in one array.

    Attributes:
        values: shape (sum of the lengths,), of dtype `<i4`, `<f4` or `<f8`.
        lengths: the element count of each row, or None where each row is one bare number.
    """

    __slots__ = ("lengths", "values")

    def __init__(self, values: NDArray[Any], lengths: list[int] | None = None) -> None:
        """Takes the array as it is, without a copy."""
        self.values = values
        self.lengths = lengths

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.values if self.lengths is None else self.lengths)

    def matrix(self) -> NDArray[Any] | None:
        """Returns a view of shape (rows, length), or None if there are no rows or their lengths differ."""
        lengths = self.lengths
        if lengths is None or len(set(lengths)) != 1:
            return None
        return self.values.reshape(len(lengths), lengths[0])

    def rows(self) -> list[Any]:
        """Returns each row: a 1-D view, or a number where there are no lengths."""
        if self.lengths is None:
            return list(self.values.tolist())
        ends = list(accumulate(self.lengths))
        return [self.values[end - length : end] for end, length in zip(ends, self.lengths)]

    def by_length(self) -> list[tuple[list[int], NDArray[Any]]]:
        """Groups the rows by length: (indices of the rows, a matrix of them), in order of appearance."""
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(self.lengths or []):
            groups.setdefault(length, []).append(index)
        rows = self.rows()
        matrices = []
        for indices in groups.values():
            matrix = np.stack([rows[index] for index in indices])
            matrix.flags.writeable = False
            matrices.append((indices, matrix))
        return matrices


Inputs = Union[NumericBatch, list[str], list[bytes]]
Outputs = Union[NumericBatch, list[Union[str, bytes, None]]]


class Register(NamedTuple):
    """Asks a frontend for a session. Fields as in the protocol."""

    model: str
    version: str
    input_type: str
    token: str | None = None
    max_batch_size: int | None = None
    replica: int | None = None
    sdk: str | None = None
    instance: str | None = None
    protocol: int = PROTOCOL_VERSION

    def __repr__(self) -> str:
        """Shows everything but the token."""
        fields = {**self._asdict(), "token": self.token and "hidden"}
        return f"Register({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class Prediction(NamedTuple):
    """Answers a batch: one output per input, in order; `errors` says by index why an output is missing."""

    id: int
    outputs: Outputs
    elapsed_micros: int
    errors: dict[int, str]


class BatchError(NamedTuple):
    """Answers a batch that failed as a whole."""

    id: int
    message: str


class FeedbackAck(NamedTuple):
    """Says that feedback was received."""

    id: int


class Goodbye(NamedTuple):
    """Says that nothing more will be answered."""


class Heartbeat(NamedTuple):
    """Says that the sender is alive; a frontend may name the frontends of the cluster as `host:port`."""

    frontends: list[str] | None = None


class Registered(NamedTuple):
    """Accepts the container."""

    replica: int
    heartbeat_millis: int
    timeout_millis: int
    frontends: list[str] | None = None


class Rejected(NamedTuple):
    """Refuses the container: for good, or with `retry_millis` for that long."""

    reason: str
    retry_millis: int | None = None


class Unknown(NamedTuple):
    """Says that the frontend does not know the sender."""


class Predict(NamedTuple):
    """A batch to answer within `budget_micros`."""

    id: int
    input_type: str
    inputs: Inputs
    budget_micros: int


class Feedback(NamedTuple):
    """What the outputs for these inputs should have been."""

    id: int
    input_type: str
    inputs: Inputs
    labels: list[str]


class Drain(NamedTuple):
    """Says that the frontend is leaving."""


FromContainer = Union[Register, Heartbeat, Prediction, BatchError, FeedbackAck, Goodbye]
FromFrontend = Union[Registered, Rejected, Unknown, Heartbeat, Predict, Feedback, Drain]
