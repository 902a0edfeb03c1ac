"""The fixtures: frontends, and a way to start containers.

Invariant: no test leaves a process behind.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from fake_frontend import FakeFrontend
from process import ContainerProcess


@pytest.fixture
def frontend():
    with FakeFrontend() as fake:
        yield fake


@pytest.fixture
def another_frontend():
    with FakeFrontend() as fake:
        yield fake


@pytest.fixture
def start(tmp_path):
    with ExitStack() as stack:
        started = []

        def start_container(kind, *frontends, **options):
            log = tmp_path / f"container{len(started)}.log"
            started.append(stack.enter_context(ContainerProcess(log, kind, *frontends, **options)))
            return started[-1]

        yield start_container
