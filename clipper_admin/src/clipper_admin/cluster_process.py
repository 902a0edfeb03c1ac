"""Owns the `clipper start` process of a data directory: starting, finding and stopping it.

Invariant: no process is ever signalled but one that was started here, or that has the directory's lock open.
"""

from __future__ import annotations

import contextlib
import os
import stat
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
_PRINTED = "clipper.err"
_TAIL_LINES = 20
_TAIL_BYTES = 64 * 1024


class ClusterProcess:
    """A running cluster, as a process of this host. It does not end with the program that started it."""

    def __init__(self, process: psutil.Process, data_dir: Path, log_from: int = 0) -> None:
        """Wraps a process. What it logged begins at that offset of the data directory's log."""
        self._process = process
        self._printed = data_dir / _PRINTED
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
        """Starts a cluster in a session of its own.

        The program writes its log itself. What it prints besides, because it cannot start or is killed by an
        error of its libraries, replaces what the one before it printed.

        Raises:
            StartException: the program cannot be executed; the data directory cannot be written, or others
                can write it.
        """
        try:
            _create_private(data_dir)
            log_from = log_file(data_dir).stat().st_size if log_file(data_dir).is_file() else 0
            with open(data_dir / _PRINTED, "wb", opener=_open_private) as printed:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=printed,
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
        """Returns the end of what this process has logged, and then of what it has printed."""
        ends = (_last_lines(self._log, self._log_from), _last_lines(self._printed))
        return "\n".join(end for end in ends if end)

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


def read_log(data_dir: Path) -> str:
    """Returns the log of the cluster of a data directory, with what was set aside of it, oldest first."""
    aside = [path for path in data_dir.glob(f"{_LOG}.*") if path.suffix[1:].isdigit()]
    aside.sort(key=lambda path: int(path.suffix[1:]), reverse=True)
    files = [path for path in (*aside, log_file(data_dir), data_dir / _PRINTED) if path.is_file()]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


def _create_private(data_dir: Path) -> None:
    """Creates a data directory for its owner only, or refuses one in which others may have put anything.

    The program refuses it as well, but only after it was given a place to print to.
    """
    for directory in (*reversed(data_dir.parents), data_dir):
        if not directory.exists():
            directory.mkdir(mode=stat.S_IRWXU, exist_ok=True)
    status = data_dir.stat()
    if status.st_mode & stat.S_IWOTH and status.st_mode & stat.S_ISVTX:
        raise StartException(
            f"the data directory {data_dir} is shared by all users: name a directory of its own, such as "
            f"{data_dir}/clipper"
        )
    if status.st_mode & stat.S_IWOTH:
        raise StartException(
            f"the data directory {data_dir} can be written by every user: check that everything in it is "
            f"yours, then run `chmod 700 {data_dir}`"
        )
    if status.st_uid != os.geteuid():
        raise StartException(
            f"the data directory {data_dir} belongs to user {status.st_uid}, and this process runs as user "
            f"{os.geteuid()}: run `chown -R {os.geteuid()} {data_dir}`, or name another directory"
        )


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, stat.S_IRUSR | stat.S_IWUSR)


def _last_lines(file: Path, begin: int = 0) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        end = opened.seek(0, os.SEEK_END)
        # A log that is shorter than it was has been set aside meanwhile.
        opened.seek(max(begin if begin <= end else 0, end - _TAIL_BYTES))
        lines = opened.read().decode("utf-8", "replace").rstrip("\n").split("\n")
    return "\n".join(lines[-_TAIL_LINES:])


def _has_open(process: psutil.Process, file: Path) -> bool:
    """Tells the holder of a lock from an unrelated process that was given its id after its death."""
    return any(Path(opened.path) == file.resolve() for opened in process.open_files())
