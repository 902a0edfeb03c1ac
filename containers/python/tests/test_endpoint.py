"""The choice of a transport, with listening sockets of the test's own."""

from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipper_container import Address, endpoint
from clipper_container.endpoint import endpoint_of
from fake_frontend import DEADLINE_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract Unix sockets")


@pytest.fixture
def port():
    """A port that is taken meanwhile, so that no other process uses the names that go with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def listen(host_and_port):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(f"\0clipper/{host_and_port}")
    server.listen(0)
    return server


@pytest.mark.parametrize(
    ("host", "written"), [("127.0.0.1", "127.0.0.1"), ("127.8.9.10", "127.8.9.10"), ("::1", "[::1]")]
)
def test_a_loopback_address_with_a_listening_unix_socket_is_reached_over_it(port, host, written):
    with listen(f"{written}:{port}"):
        assert endpoint_of(Address(host, port)) == f"ipc://@clipper/{written}:{port}"


@pytest.mark.parametrize(("host", "written"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_loopback_address_without_a_unix_socket_is_reached_by_tcp(port, host, written):
    assert endpoint_of(Address(host, port)) == f"tcp://{written}:{port}"


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("localhost", "localhost"),
        ("frontend", "frontend"),
        ("127.0.0.1.example", "127.0.0.1.example"),
        ("127.1", "127.1"),
        ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - nothing is bound there
        ("10.0.0.1", "10.0.0.1"),
        ("::", "[::]"),
        ("fe80::1", "[fe80::1]"),
        ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]"),
    ],
)
def test_what_is_no_loopback_address_is_reached_by_tcp_whoever_listens(port, host, written):
    with listen(f"{written}:{port}"):
        assert endpoint_of(Address(host, port)) == f"tcp://{written}:{port}"


def test_the_choice_is_made_anew_each_time(port):
    address = Address("127.0.0.1", port)
    with listen(address):
        assert endpoint_of(address).startswith("ipc:")
    assert endpoint_of(address).startswith("tcp:")
    with listen(address):
        assert endpoint_of(address).startswith("ipc:")


def test_a_listener_that_accepts_nobody_does_not_block_the_choice(port):
    address = Address("127.0.0.1", port)
    with ThreadPoolExecutor() as pool, listen(address):
        # Its backlog takes one connection.
        assert pool.submit(endpoint_of, address).result(DEADLINE_SECONDS).startswith("ipc:")
        assert pool.submit(endpoint_of, address).result(DEADLINE_SECONDS).startswith("tcp:")


def test_other_systems_use_tcp(port, monkeypatch):
    monkeypatch.setattr(endpoint.sys, "platform", "darwin")
    with listen(f"127.0.0.1:{port}"):
        assert endpoint_of(Address("127.0.0.1", port)) == f"tcp://127.0.0.1:{port}"
