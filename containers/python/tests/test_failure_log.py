"""What the log of a replica says of failures."""

from __future__ import annotations

import pytest

from clipper_container.failure_log import BURST, MAX_KINDS, REPEAT_SECONDS, FailureLog


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_failure_that_repeats_is_written_once_a_minute_with_how_often_it_came(caplog):
    clock = Clock()
    log = FailureLog(clock)
    for _ in range(1000):
        log.record("a", "a batch of 2 inputs", lambda: "why")
    assert caplog.messages == ["a batch of 2 inputs failed: why"]
    clock.now = REPEAT_SECONDS
    for _ in range(2):
        log.record("a", "a batch of 3 inputs", lambda: "why")
    assert caplog.messages[1:] == ["a batch of 3 inputs failed (999 more since the last such line): why"]


def test_different_failures_are_written_at_once_and_then_one_a_second(caplog):
    clock = Clock()
    log = FailureLog(clock)
    for kind in range(10 * BURST):
        log.record(str(kind), "a batch", lambda: "why")
    assert len(caplog.messages) == BURST
    clock.now = 1.0
    for kind in ("new", "newer"):
        log.record(kind, "a batch", lambda: "why")
    assert caplog.messages[BURST:] == [f"a batch failed ({9 * BURST} more since the last such line): why"]


def test_what_is_not_written_is_not_explained():
    log = FailureLog(Clock())
    log.record("a", "a batch", lambda: "why")
    log.record("a", "a batch", pytest.fail)


def test_a_bounded_number_of_failures_is_remembered(caplog):
    clock = Clock()
    log = FailureLog(clock)

    def record(kind):
        log.record(str(kind), "a batch", lambda: "why")

    for kind in range(MAX_KINDS + 1):
        clock.now += REPEAT_SECONDS / (2 * MAX_KINDS)
        log._room = BURST
        record(kind)
    written = len(caplog.messages)
    record(MAX_KINDS)
    assert len(caplog.messages) == written == MAX_KINDS + 1
    log._room = BURST
    record(0)
    assert len(caplog.messages) == written + 1
