"""Owns the reaction to SIGTERM and SIGINT.

Invariant: the first signal asks and wakes a poller at once; the second ends the process, even in the midst of
a call into C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """A request to stop, and a context within which the two signals make it.

    Python handles signals in the main thread only, so in any other thread only `request` makes it.
    """

    def __init__(self) -> None:
        """Makes the socket pair by which a signal wakes a poller."""
        self.requested = False
        self._owner = os.getpid()
        self._wakeup, self._notifier = socket.socketpair()
        self._wakeup.setblocking(False)
        self._notifier.setblocking(False)
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._previous_wakeup_fd = -1

    def fileno(self) -> int:
        """Returns the descriptor that is readable once a signal has arrived."""
        return self._wakeup.fileno()

    def clear_wakeup(self) -> None:
        """Reads what the signals wrote; `requested` says what they meant."""
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass

    def request(self) -> None:
        """Asks to stop, from any thread."""
        self.requested = True
        with contextlib.suppress(BlockingIOError):
            self._notifier.send(b"\0")

    def __enter__(self) -> StopSignal:
        """Takes over the signals, if this is the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._previous_wakeup_fd = signal.set_wakeup_fd(
                self._notifier.fileno(), warn_on_full_buffer=False
            )
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Gives the signals back."""
        if self._previous_handlers:
            for number, handler in self._previous_handlers.items():
                # None stands for a handler that was installed from C, which cannot be given back.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            signal.set_wakeup_fd(self._previous_wakeup_fd)
        self._wakeup.close()
        self._notifier.close()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != self._owner:  # a worker that the model forked, which must die as if never touched
            os.kill(os.getpid(), number)
        self.requested = True
