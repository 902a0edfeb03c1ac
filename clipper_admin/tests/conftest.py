"""Owns the fixtures: a fake cluster, and a connection to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_cluster import FakeCluster

from clipper_admin import ClipperConnection, LocalContainerManager


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


@pytest.fixture
def manager(fake: FakeCluster, tmp_path: Path) -> LocalContainerManager:
    return LocalContainerManager(
        data_dir=tmp_path / "data", query_port=fake.port, management_port=fake.port, python="/usr/bin/python3"
    )


@pytest.fixture
def connection(manager: LocalContainerManager) -> ClipperConnection:
    connection = ClipperConnection(manager)
    connection.connect()
    return connection
