"""Owns the choice of the transport by which a container reaches a frontend.

Invariant: a Unix socket is chosen only for a loopback address, and only if somebody listens there. Nothing
here blocks.
"""

from __future__ import annotations

import socket
import sys
from ipaddress import ip_address, ip_network

from .config import Address

# Not `is_loopback`, which later Pythons extend to `::ffff:127.0.0.1`, where no frontend offers a Unix socket.
_LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def endpoint_of(address: Address) -> str:
    """Returns the ZeroMQ endpoint of a frontend: its Unix socket if it offers one on this host, else TCP.

    A batch costs the kernel half as much over the Unix socket. The answer holds for now: ask again for each
    socket that is opened.
    """
    name = f"clipper/{address}"
    if _is_loopback(address.host) and _is_listening(name):
        return f"ipc://@{name}"
    return f"tcp://{address}"


def _is_loopback(host: str) -> bool:
    try:
        ip = ip_address(host)
    except ValueError:
        return False
    return any(ip in network for network in _LOOPBACK)


def _is_listening(name: str) -> bool:
    """Says whether somebody listens on an abstract Unix socket, which only Linux has."""
    if sys.platform != "linux":
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # a listener whose backlog is full would hold up the batches of others
            probe.connect(f"\0{name}")
    except OSError:
        return False
    return True
