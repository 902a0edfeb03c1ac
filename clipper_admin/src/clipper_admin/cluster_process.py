"""Owns the `clipper start` process of a data directory: starting, finding and stopping it.

Invariant: no process is ever signalled but one that was started here, or that has the directory's lock open.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from .exceptions import StartException

STOP_TIMEOUT_SECONDS = 30.0
_KILL_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.02
_LOCK = "clipper.lock"
_LOG = "clipper.log"
_MAX_LOG_BYTES = 10_000_000
_TAIL_LINES = 20
_TAIL_BYTES = 64 * 1024


class ClusterProcess:
    """A running cluster, as a process of this host. It does not end with the program that started it."""

    def __init__(self, process: psutil.Process, data_dir: Path, log_from: int = 0) -> None:
        """Wraps a process. What it printed begins at that offset of the data directory's log."""
        self._process = process
        self._log = log_file(data_dir)
        self._log_from = log_from

    @classmethod
    def find(cls, data_dir: Path) -> ClusterProcess | None:
        """Returns the cluster that holds the data directory, or None if there is none."""
        try:
            pid = int((data_dir / _LOCK).read_text(encoding="utf-8").split()[0])
            process = psutil.Process(pid)
            if _has_open(process, data_dir / _LOCK):
                return cls(process, data_dir)
        except (OSError, ValueError, IndexError, psutil.Error):
            pass
        return None

    @classmethod
    def start(cls, command: Sequence[str], data_dir: Path, environment: Mapping[str, str]) -> ClusterProcess:
        """Starts a cluster in a session of its own; what it prints is appended to the log.

        A log that has grown long is set aside first, in the place of the one that was before it.

        Raises:
            StartException: the program cannot be executed, or the data directory not be written.
        """
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            _set_aside(log_file(data_dir))
            with log_file(data_dir).open("ab") as log:
                log_from = log.seek(0, os.SEEK_END)
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise StartException(f"the cluster cannot be started: {error}") from error
        process = psutil.Process(child.pid)
        # Somebody must collect the exit of a child, or it remains a zombie for as long as this program runs.
        threading.Thread(target=child.wait, name="clipper-exit", daemon=True).start()
        return cls(process, data_dir, log_from)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Returns whether the process exists and has not ended."""
        try:
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def stop(self, graceful: bool = True, timeout_seconds: float = STOP_TIMEOUT_SECONDS) -> None:
        """Ends the process and waits until it has ended.

        Args:
            graceful: let it drain first. If it takes too long, or without this, it is killed.
            timeout_seconds: how long it may take to drain.
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            if graceful:
                self._process.terminate()
                if self._ends_within(timeout_seconds):
                    return
            self._process.kill()
            self._ends_within(_KILL_TIMEOUT_SECONDS)

    def last_lines(self) -> str:
        """Returns the end of what this process has printed."""
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_from, end - _TAIL_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _ends_within(self, seconds: float) -> bool:
        """Waits for the end. An orphan whose exit nobody collects has ended, though its id still exists."""
        deadline = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def log_file(data_dir: Path) -> Path:
    """Returns where the cluster of a data directory is logged."""
    return data_dir / _LOG


def _set_aside(log: Path) -> None:
    if log.is_file() and log.stat().st_size > _MAX_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))


def _has_open(process: psutil.Process, file: Path) -> bool:
    """Tells the holder of a lock from an unrelated process that was given its id after its death."""
    return any(Path(opened.path) == file.resolve() for opened in process.open_files())
