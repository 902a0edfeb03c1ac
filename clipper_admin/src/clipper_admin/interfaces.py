"""Owns the two HTTP interfaces of a cluster, of which a connection has both or neither.

Invariant: what is asked before there is a connection raises `UnconnectedException`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from .exceptions import RefusedException, UnconnectedException
from .http_interface import DEFAULT_TIMEOUT_SECONDS, HttpInterface
from .tokens import AdminToken

_logger = logging.getLogger("clipper_admin")


class Interfaces:
    """Where a cluster is administered, and where it is asked for predictions."""

    def __init__(self) -> None:
        """Begins unconnected."""
        self._admin: HttpInterface | None = None
        self._query: HttpInterface | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a cluster to talk to."""
        return self._admin is not None

    def attach(self, admin_address: str, query_address: str, token: AdminToken | None) -> None:
        """Talks to the cluster at these addresses from now on, to management with this token."""
        self._admin = HttpInterface(admin_address, token)
        self._query = HttpInterface(query_address)

    def detach(self) -> None:
        """Talks to no cluster any more."""
        self._admin = self._query = None

    @property
    def admin(self) -> HttpInterface:
        """Where the cluster is administered."""
        if self._admin is None:
            raise UnconnectedException
        return self._admin

    @property
    def query(self) -> HttpInterface:
        """Where it is asked for predictions."""
        if self._query is None:
            raise UnconnectedException
        return self._query

    def order(self, call: str, body: Mapping[str, Any], work_seconds: float = 0.0) -> Any:
        """Calls management, which may work for so long before it answers."""
        answer = self.admin.post(f"/admin/{call}", body, work_seconds + DEFAULT_TIMEOUT_SECONDS)
        if isinstance(answer, str):
            _logger.info("%s", answer)
        return answer

    def metrics(self) -> dict[str, Any]:
        """Returns what each server counts, or None of one that counts nothing."""
        return {
            "query": _metrics(self.query, "/metrics"),
            "management": _metrics(self.admin, "/admin/metrics"),
        }


def _metrics(interface: HttpInterface, path: str) -> Any:
    try:
        return interface.get(path)
    except RefusedException as refusal:
        if refusal.status == HTTPStatus.NOT_FOUND:
            return None
        raise
