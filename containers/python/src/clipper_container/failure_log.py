"""Owns what a replica's log says of failures.

Invariant: the log stays readable and small however often the model fails: the same failure is written once a
minute, and different ones at a bounded rate, each in full.
"""

from __future__ import annotations

import logging
import time
from typing import Callable

REPEAT_SECONDS = 60.0
"""The same failure is written again after so long."""
BURST = 50
"""So many different failures are written at once; after them, one a second."""
MAX_KINDS = 1000
"""Failures that are remembered; beyond them the oldest is forgotten."""

_LOGGER = logging.getLogger("clipper_container")


class FailureLog:
    """Writes failures to the log, each in full, and how many were left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Has written nothing yet."""
        self._clock = clock
        self._written: dict[str, float] = {}
        self._left_out = 0
        self._room = float(BURST)
        self._room_at = clock()

    def record(self, kind: str, failed: str, explain: Callable[[], str]) -> None:
        """Writes a failure, unless it was written a short time ago, or too many others were.

        Args:
            kind: what failures have in common that are the same.
            failed: what failed, such as "a batch of 3 inputs".
            explain: returns why, in full; called only if it is written.
        """
        now = self._clock()
        self._room = min(BURST, self._room + now - self._room_at)
        self._room_at = now
        if self._room < 1 or now < self._written.get(kind, -REPEAT_SECONDS) + REPEAT_SECONDS:
            self._left_out += 1
            return
        self._room -= 1
        left_out = f" ({self._left_out} more since the last such line)" if self._left_out else ""
        _LOGGER.error("%s failed%s: %s", failed, left_out, explain())
        self._left_out = 0
        self._written.pop(kind, None)
        self._written[kind] = now
        if len(self._written) > MAX_KINDS:
            del self._written[next(iter(self._written))]

    def record_outputs(self, errors: dict[int, str], count: int) -> None:
        """Writes that some of a batch's outputs cannot be sent, with the reason of the first of them."""
        if errors:
            index, reason = next(iter(errors.items()))
            self.record(reason[:200], f"{len(errors)} of {count} inputs", lambda: f"input {index}: {reason}")
