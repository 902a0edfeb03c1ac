"""Owns the question with which frontends a container should have sessions.

Invariant: while no frontend accepts the container, no frontend that it knows of is given up; and none that
does is given up because a list leaves it out: lists lack members while a cluster's management restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from .config import Address
from .session import Session

MAX_FRONTENDS = 256
"""The most frontends to have sessions with: libzmq has 1,023 sockets, and a process often no more files."""

_LOGGER = logging.getLogger("clipper_container")
_MAX_ERROR_CHARS = 300
"""The longest description of a name that is no address: a frontend may list any text."""


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
        self._ignored: frozenset[str] = frozenset()
        self._too_many = False

    def wanted(self, sessions: Iterable[Session]) -> set[Address]:
        """Returns the frontends to have sessions with, given the sessions that there are.

        There are at most `MAX_FRONTENDS`, unless more than that are configured.
        """
        known = {session.address: session for session in sessions}
        accepted = {address: session for address, session in known.items() if session.accepted}
        if not accepted:
            self._aliases = frozenset()
            return {*self._configured, *known}
        listed: set[Address] = set()
        ignored: set[str] = set()
        for address, session in accepted.items():
            names = self._addresses(session.frontends or [], ignored)
            if names.isdisjoint(accepted):
                listed.add(address)
            elif address not in names and address in self._configured:
                self._aliases |= {address}
            listed |= names
        self._ignored = frozenset(ignored)
        kept = {*self._configured, *accepted} - self._aliases
        # Sessions that there are come first: a list that is too long ends none of them to begin another.
        others = sorted(listed - kept, key=lambda address: (address not in known, address))
        room = max(MAX_FRONTENDS - len(kept), 0)
        if len(others) > room:
            self._warn_of_too_many()
        return kept | set(others[:room])

    def _addresses(self, names: list[str], ignored: set[str]) -> set[Address]:
        """Reads the beginning of a list of frontends, and adds what is no address to `ignored`."""
        if len(names) > MAX_FRONTENDS:
            self._warn_of_too_many()
        addresses: set[Address] = set()
        for name in names[:MAX_FRONTENDS]:
            try:
                addresses.add(Address.parse(name))
            except ValueError as error:
                if name not in self._ignored and name not in ignored:
                    problem = str(error)[:_MAX_ERROR_CHARS]
                    _LOGGER.warning("ignoring a frontend of the cluster's list: %s", problem)
                ignored.add(name)
        return addresses

    def _warn_of_too_many(self) -> None:
        if not self._too_many:
            self._too_many = True
            _LOGGER.warning("there are too many frontends; sessions with %d of them are kept", MAX_FRONTENDS)
