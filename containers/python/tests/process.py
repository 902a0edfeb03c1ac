"""A container process of the tests. Invariant: it does not outlive the `with` block."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from fake_frontend import DEADLINE_SECONDS, FakeFrontend

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "src"


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {DEADLINE_SECONDS:g} s"
        time.sleep(0.01)


class ContainerProcess:
    """Runs `python -m clipper_container KIND` against some frontends."""

    def __init__(
        self,
        log: Path,
        kind: str,
        *frontends: FakeFrontend | str,
        input_type: str = "doubles",
        options: tuple[str, ...] = (),
        **variables: str,
    ) -> None:
        addresses = [each if isinstance(each, str) else each.address for each in frontends]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLIPPER_")}
        environment.update(
            CLIPPER_MODEL_NAME="m",
            CLIPPER_MODEL_VERSION="1",
            CLIPPER_INPUT_TYPE=input_type,
            CLIPPER_FRONTENDS=",".join(addresses),
            PYTHONPATH=str(SOURCES),
        )
        environment.update(variables)
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "clipper_container", kind, *options],
                cwd=TESTS,
                env=environment,
                stderr=stderr,
            )

    def __enter__(self) -> ContainerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        return self.process.wait(DEADLINE_SECONDS)
