"""Owns the state of the session with one frontend: when to speak, when to give up, when to come back.

It holds no socket and reads no clock: the container tells it what arrived and what time it is, and carries
out the `Order` that it returns. Invariant: a session has exactly one open socket unless it is `WAITING` or
`REFUSED`. A batch is answered under the registration that it came with, or not at all.
"""

from __future__ import annotations

import logging
from enum import Enum, auto
from math import inf

from .config import Address
from .messages import Drain, Feedback, FromFrontend, Heartbeat, Predict, Registered, Rejected

MIN_PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 5.0
MAX_RETRY_SECONDS = 60.0
"""The longest pause that a frontend can ask for."""
REGISTRATION_TIMEOUT_SECONDS = 5.0
"""How long to wait for the answer to `register`, before the frontend has said what its own timeout is."""

_LOGGER = logging.getLogger("clipper_container")
_MILLIS_PER_SECOND = 1000


class State(Enum):
    """Where a session stands."""

    WAITING = auto()
    """No socket is open; a new one will be, when the pause is over."""
    REGISTERING = auto()
    """`register` was sent."""
    ACCEPTED = auto()
    """The frontend said `registered`."""
    REFUSED = auto()
    """The frontend said `rejected` for good; nothing more will be tried."""


class Order(Enum):
    """What the container must do for a session now."""

    NOTHING = auto()
    OPEN = auto()
    """Connect a fresh socket and send `register` on it."""
    REGISTER = auto()
    """Send `register` on the open socket."""
    HEARTBEAT = auto()
    """Send `heartbeat`."""
    LEAVE = auto()
    """Send `goodbye` and close the socket with a short linger."""
    CLOSE = auto()
    """Close the socket; nothing that it still holds matters."""


class Session:
    """One container's dealings with one frontend, over any number of connections. Times are in seconds.

    Attributes:
        address: the frontend.
        state: where the session stands.
        frontends: what the frontend last said of the cluster's frontends; None until it does.
        refusal: why the frontend refused for good.
        registration: counts the registrations, so that a batch can be told to be of an earlier one.
    """

    def __init__(self, address: Address, now: float) -> None:
        """Begins without a socket; the first one is due at once."""
        self.address = address
        self.state = State.WAITING
        self.frontends: list[str] | None = None
        self.refusal: str | None = None
        self.registration = 0
        self._pause = MIN_PAUSE_SECONDS
        self._retry_at = now
        self._heard_at = now
        self._spoke_at = now
        self._timeout = REGISTRATION_TIMEOUT_SECONDS
        self._heartbeat = inf

    @property
    def accepted(self) -> bool:
        """Whether the frontend counts on this container."""
        return self.state is State.ACCEPTED

    @property
    def heartbeat_seconds(self) -> float:
        """How long the container may say nothing; infinite until the frontend has said it."""
        return self._heartbeat if self.accepted else inf

    def heartbeat_is_due(self, now: float) -> bool:
        """Whether the container has said nothing for too long. Changes nothing."""
        return now >= self._spoke_at + self.heartbeat_seconds

    def refused_for(self, now: float) -> float:
        """How long ago the frontend refused for good, in seconds; 0 if it did not."""
        return now - self._heard_at if self.state is State.REFUSED else 0.0

    def expects(self, message: FromFrontend) -> bool:
        """Whether a message belongs to the registration that there is.

        A batch that arrives before `registered` was sent to an earlier registration.
        """
        return self.accepted or not isinstance(message, (Predict, Feedback))

    @property
    def wake_at(self) -> float:
        """When `tick` will have something to order, if nothing is received or sent until then."""
        if self.state is State.WAITING:
            return self._retry_at
        if self.state is State.REFUSED:
            return inf
        return min(self._heard_at + self._timeout, self._spoke_at + self._heartbeat)

    def tick(self, now: float) -> Order:
        """Says what the passing of time demands."""
        if now < self.wake_at:
            return Order.NOTHING
        if self.state is State.WAITING:
            self._register(now)
            return Order.OPEN
        if now >= self._heard_at + self._timeout:
            return self.fail(now, f"heard nothing for {self._timeout:g} s")
        return Order.HEARTBEAT

    def receive(self, message: FromFrontend, now: float) -> Order:
        """Says what a message demands, other than the answer to `predict` and `feedback`."""
        self._heard_at = now
        if isinstance(message, (Predict, Feedback)):
            self._pause = MIN_PAUSE_SECONDS
            return Order.NOTHING
        if isinstance(message, Heartbeat):
            self._pause = MIN_PAUSE_SECONDS
            if message.frontends is not None:
                self.frontends = message.frontends
            return Order.NOTHING
        if isinstance(message, Registered):
            return self._accept(message)
        if isinstance(message, Rejected):
            return self._reject(message, now)
        if isinstance(message, Drain):
            _LOGGER.info("the frontend %s is leaving", self.address)
            self._wait(now, self._next_pause())
            return Order.LEAVE
        return self._register_again(now)

    def fail(self, now: float, reason: str) -> Order:
        """Gives up the connection because of what was or was not received, and comes back later."""
        pause = self._next_pause()
        _LOGGER.warning("lost the frontend %s: %s; a new session begins in %g s", self.address, reason, pause)
        self._wait(now, pause)
        return Order.CLOSE

    def spoke(self, now: float) -> None:
        """Notes that something was sent, which is as good as a heartbeat."""
        self._spoke_at = now

    def was_deaf(self, seconds: float) -> None:
        """Notes that a batch was computed meanwhile: silence counts only while somebody listens."""
        self._heard_at += seconds

    def _register(self, now: float) -> None:
        self.registration += 1
        self.state = State.REGISTERING
        self._heard_at = now
        self._timeout = REGISTRATION_TIMEOUT_SECONDS
        self._heartbeat = inf

    def _register_again(self, now: float) -> Order:
        # While one `register` is under way, a second would make the frontend begin anew.
        if self.state is State.REGISTERING:
            return Order.NOTHING
        _LOGGER.info("the frontend %s does not know this container; registering again", self.address)
        self._register(now)
        return Order.REGISTER

    def _accept(self, message: Registered) -> Order:
        _LOGGER.info("registered with the frontend %s as replica %d", self.address, message.replica)
        if self.accepted:
            self.registration += 1  # a second welcome: what was held is with others now
        self.state = State.ACCEPTED
        self._heartbeat = message.heartbeat_millis / _MILLIS_PER_SECOND
        self._timeout = message.timeout_millis / _MILLIS_PER_SECOND
        if message.frontends is not None:
            self.frontends = message.frontends
        return Order.NOTHING

    def _reject(self, message: Rejected, now: float) -> Order:
        if message.retry_millis is None:
            _LOGGER.error("the frontend %s rejected this container: %s", self.address, message.reason)
            self.state = State.REFUSED
            self.refusal = message.reason
            return Order.CLOSE
        pause = message.retry_millis / _MILLIS_PER_SECOND
        pause = min(max(pause, MIN_PAUSE_SECONDS), MAX_RETRY_SECONDS)
        _LOGGER.warning(
            "not yet accepted by %s: %s; trying again in %g s", self.address, message.reason, pause
        )
        self._wait(now, pause)
        return Order.CLOSE

    def _wait(self, now: float, pause: float) -> None:
        self.state = State.WAITING
        self._retry_at = now + pause

    def _next_pause(self) -> float:
        pause = self._pause
        self._pause = min(pause * 2, MAX_PAUSE_SECONDS)
        return pause
