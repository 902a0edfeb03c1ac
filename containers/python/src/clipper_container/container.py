"""Owns the sockets and the one thread of a container: it carries out what the sessions order.

Invariant: every socket is used on the thread that calls `run`, and each `predict` that is read is answered on
the socket that it came from before another message is read.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import time
from typing import Callable

import zmq

from . import codec, multipart
from .adapter import Adapter, Model
from .config import Address, Config
from .endpoint import endpoint_of
from .errors import CodecError, RejectedError
from .membership import Membership
from .messages import (
    BatchError,
    Feedback,
    FeedbackAck,
    FromContainer,
    Goodbye,
    Heartbeat,
    Predict,
    Prediction,
    Register,
)
from .session import Order, Session, State
from .stop_signal import StopSignal
from .version import __version__

LINGER_MILLIS = 1000
"""How long a socket that is closed politely may go on sending."""

_LOGGER = logging.getLogger("clipper_container")
_MILLIS_PER_SECOND = 1000
_MAX_WAIT_SECONDS = 3600  # a poller's milliseconds are a C int, and a frontend may name any timeout


def serve(model: Model, *, config: Config | None = None, per_row: bool = False) -> None:
    """Serves a model until SIGTERM or SIGINT.

    A signal lets the current batch finish and its answer be sent; a second one ends the process at once. In
    another thread than the main one, signals are left alone and this never returns by itself.

    Args:
        model: a function of a batch that returns one output per input, or an object (or a class, which is
            then instantiated) with such a `predict(batch)` and optionally `warm_up()`, called before the
            container registers. A numeric batch is a read-only array of shape (inputs, length); a batch of
            strings is a list of str; one of bytes is a list of bytes.
        config: what to serve and where; the `CLIPPER_*` environment variables by default.
        per_row: call the function with one input instead of a batch. An exception then costs that input only.

    Raises:
        ConfigError: the environment does not say what to serve.
        RejectedError: a frontend rejected the container for good and no other accepts it.
        TypeError: the model cannot be called.
    """
    config = config or Config.from_environment(os.environ)
    with StopSignal() as stop:
        Container(config, Adapter(model, per_row=per_row), stop).run()


class Container:
    """A model's process, as the frontends see it."""

    def __init__(
        self,
        config: Config,
        adapter: Adapter,
        stop: StopSignal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing yet."""
        self._adapter = adapter
        self._stop = stop
        self._clock = clock
        self._register = Register(
            model=config.model_name,
            version=config.model_version,
            input_type=config.input_type.value,
            token=config.token,
            max_batch_size=config.max_batch_size,
            replica=config.replica,
            sdk=f"clipper_container/{__version__} python/{platform.python_version()}",
            instance=config.instance,
        )
        self._membership = Membership(config.frontends)
        self._sessions: dict[Address, Session] = {}
        self._sockets: dict[Session, zmq.Socket[bytes]] = {}
        self._listening: dict[zmq.Socket[bytes], Session] = {}
        self._changed = False
        self._poller = zmq.Poller()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def run(self) -> None:
        """Serves until the stop is requested.

        Raises:
            RejectedError: a frontend rejected the container for good and no other accepts it.
        """
        self._poller.register(self._stop.fileno(), zmq.POLLIN)
        try:
            self._follow_membership()
            while not self._stop.requested:
                self._turn()
        except KeyboardInterrupt:
            _LOGGER.info("interrupted")
        finally:
            for session in list(self._sockets):
                self._carry_out(Order.LEAVE, session)
            self._context.term()

    def _turn(self) -> None:
        """Waits for something to happen, reads one message of each session that has one, and keeps time."""
        wake_at = min((session.wake_at for session in self._sessions.values()), default=math.inf)
        for source, _ in self._poller.poll(self._millis_until(wake_at)):
            if self._stop.requested:
                return
            if isinstance(source, int):
                self._stop.clear_wakeup()
            else:
                self._read(source)
        now = self._clock()
        if now >= wake_at:
            for session in self._sessions.values():
                self._carry_out(session.tick(now), session)
        if self._changed:
            self._follow_membership()

    def _millis_until(self, wake_at: float) -> int:
        seconds = min(max(wake_at - self._clock(), 0), _MAX_WAIT_SECONDS)
        return math.ceil(seconds * _MILLIS_PER_SECOND)

    def _read(self, socket: zmq.Socket[bytes]) -> None:
        session = self._listening[socket]
        try:
            message = codec.decode(multipart.receive(socket))
        except zmq.Again:
            return
        except CodecError as error:
            self._carry_out(session.fail(self._clock(), f"malformed message: {error}"), session)
            return
        self._carry_out(session.receive(message, self._clock()), session)
        if isinstance(message, Predict):
            self._answer(message, session)
        elif isinstance(message, Feedback):
            self._send(FeedbackAck(message.id), session)
        else:
            self._changed = True

    def _answer(self, batch: Predict, session: Session) -> None:
        started = self._clock()
        try:
            answer = self._adapter.answer(batch)
        except KeyboardInterrupt:
            self._send(BatchError(batch.id, "the container was interrupted"), session)
            raise
        deaf = self._clock() - started
        for each in self._sessions.values():
            each.was_deaf(deaf)
        self._send(answer, session)
        _log_failure(answer)

    def _carry_out(self, order: Order, session: Session) -> None:
        if order is Order.NOTHING:
            return
        if order is Order.OPEN:
            self._open(session)
        elif order is Order.REGISTER:
            self._send(self._register, session)
        elif order is Order.HEARTBEAT:
            self._send(Heartbeat(), session)
        elif order is Order.LEAVE:
            self._send(Goodbye(), session)
            self._close(session, LINGER_MILLIS)
        elif order is Order.CLOSE:
            self._close(session, linger_millis=0)

    def _open(self, session: Session) -> None:
        # A fresh socket has a fresh routing id: the frontend can never take it for its predecessor.
        try:
            socket = self._context.socket(zmq.DEALER)
            self._sockets[session] = socket
            self._listening[socket] = session
            self._poller.register(socket, zmq.POLLIN)
            socket.setsockopt(zmq.MAXMSGSIZE, codec.MAX_MESSAGE_BYTES)
            socket.setsockopt(zmq.IPV6, int(":" in session.address.host))
            socket.connect(endpoint_of(session.address))
        except zmq.ZMQError as error:
            self._carry_out(session.fail(self._clock(), str(error)), session)
        else:
            self._send(self._register, session)

    def _close(self, session: Session, linger_millis: int) -> None:
        socket = self._sockets.pop(session, None)
        if socket is not None:
            del self._listening[socket]
            self._poller.unregister(socket)
            socket.close(linger_millis)
            self._changed = True

    def _send(self, message: FromContainer, session: Session) -> None:
        socket = self._sockets.get(session)
        if socket is None:
            return
        try:
            frames = codec.encode(message)
        except CodecError as error:
            if not isinstance(message, Prediction):
                raise
            frames = codec.encode(BatchError(message.id, f"the answer cannot be sent: {error}"))
        try:
            multipart.send(socket, frames)
        except zmq.Again:
            self._carry_out(session.fail(self._clock(), "it takes no more messages"), session)
        else:
            session.spoke(self._clock())

    def _follow_membership(self) -> None:
        """Opens and closes sessions as the frontends of the cluster come and go.

        Raises:
            RejectedError: a frontend refused for good and there is no other that accepts or may yet accept.
        """
        self._changed = False
        wanted = self._membership.wanted(self._sessions.values())
        for address in self._sessions.keys() - wanted:
            session = self._sessions.pop(address)
            if session in self._sockets:
                self._carry_out(Order.LEAVE, session)
        for address in wanted - self._sessions.keys():
            self._sessions[address] = Session(address, self._clock())
        self._require_hope()

    def _require_hope(self) -> None:
        sessions = self._sessions.values()
        if any(session.state in (State.ACCEPTED, State.REGISTERING) for session in sessions):
            return
        for session in sessions:
            if session.refusal is not None:
                raise RejectedError(str(session.address), session.refusal)


def _log_failure(answer: Prediction | BatchError) -> None:
    """Logs the failure of a batch, or of the first of its inputs: a burst is most often one fault."""
    if isinstance(answer, BatchError):
        _LOGGER.error("a batch failed: %s", answer.message)
    elif answer.errors:
        index, reason = next(iter(answer.errors.items()))
        failed, count = len(answer.errors), len(answer.outputs)
        _LOGGER.error("%d of %d inputs failed; input %d: %s", failed, count, index, reason)
