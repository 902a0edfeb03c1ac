"""Owns the question with which frontends a container should have sessions.

Invariant: while no frontend accepts the container, no frontend that it knows of is given up; and none that
does is given up because a list leaves it out: lists lack members while a cluster's management restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .config import Address
from .session import Session

_LOGGER = logging.getLogger("clipper_container")


class Membership:
    """The frontends that were configured, and those that the frontends name.

    A frontend's own list says how the cluster calls it. If the address under which it was configured is not
    in that list, then the address is an alias (a service name, a port that is forwarded): it served to find
    the cluster, and is given up as soon as a listed frontend accepts the container, so that no frontend sees
    the container twice.
    """

    def __init__(self, configured: Iterable[Address]) -> None:
        """Begins with the configured frontends."""
        self._configured = frozenset(configured)
        self._aliases: frozenset[Address] = frozenset()
        self._ignored: set[str] = set()

    def wanted(self, sessions: Iterable[Session]) -> set[Address]:
        """Returns the frontends to have sessions with, given the sessions that there are."""
        known = {session.address: session for session in sessions}
        accepted = {address: session for address, session in known.items() if session.accepted}
        if not accepted:
            self._aliases = frozenset()
            return {*self._configured, *known}
        listed: set[Address] = set()
        for address, session in accepted.items():
            names = self._addresses(session.frontends)
            if names.isdisjoint(accepted):
                listed.add(address)
            elif address not in names and address in self._configured:
                self._aliases |= {address}
            listed |= names
        return listed | ((self._configured | accepted.keys()) - self._aliases)

    def _addresses(self, names: list[str] | None) -> set[Address]:
        """Reads a list of frontends, leaving out what is no address."""
        addresses: set[Address] = set()
        for name in names or ():
            try:
                addresses.add(Address.parse(name))
            except ValueError as error:
                if name not in self._ignored:
                    self._ignored.add(name)
                    _LOGGER.warning("ignoring a frontend of the cluster's list: %s", error)
        return addresses
