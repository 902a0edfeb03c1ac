"""Owns the sockets of a container, and the thread that carries out what the sessions order.

Invariant: every socket is used under the lock that the thread of `run` holds unless the model computes.
While it computes, another thread sends heartbeats, and reads nothing. Each `predict` is answered on the
socket that it came from, before another batch is begun, unless the container has registered anew since.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from collections import deque
from typing import Callable

import zmq

from . import codec, multipart
from .adapter import Adapter, Model
from .config import Address, Config
from .endpoint import endpoint_of
from .errors import CodecError, RejectedError
from .failure_log import FailureLog
from .membership import Membership
from .messages import (
    BatchError,
    Drain,
    Feedback,
    FeedbackAck,
    FromContainer,
    FromFrontend,
    Goodbye,
    Heartbeat,
    Predict,
    Prediction,
    Register,
)
from .outputs import counted
from .session import MAX_PAUSE_SECONDS, Order, Session, State
from .stop_signal import StopSignal
from .version import __version__

LINGER_MILLIS = 1000
"""How long a socket that is closed politely may go on sending."""

_IDLE_BEAT_SECONDS = 0.5
"""How often the thread of the heartbeats looks, at least."""
_LEAST_BEAT_SECONDS = 0.005
_MAX_READ_AHEAD = 16
"""The most messages that are read after a batch: a frontend sends two batches ahead, and little else."""

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
        self._failures = FailureLog(clock)
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
        self._waiting: dict[Session, deque[FromFrontend]] = {}  # read ahead, in the order of arrival
        self._sockets_lock = threading.Lock()
        self._stop_beating = threading.Event()
        self._changed = False
        self._poller = zmq.Poller()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def run(self) -> None:
        """Serves until the stop is requested.

        Raises:
            RejectedError: a frontend rejected the container for good and no other accepts it.
        """
        self._poller.register(self._stop.fileno(), zmq.POLLIN)
        beating = threading.Thread(target=self._beat_while_computing, name="heartbeats", daemon=True)
        self._sockets_lock.acquire()
        beating.start()
        try:
            self._follow_membership()
            while not self._stop.requested:
                self._turn()
        except KeyboardInterrupt:
            _LOGGER.info("interrupted")
        finally:
            for session in list(self._sockets):
                self._carry_out(Order.LEAVE, session)
            self._stop_beating.set()
            self._sockets_lock.release()
            beating.join()
            self._context.term()

    def _turn(self) -> None:
        """Waits for something to happen, reads one message of each session that has one, and keeps time."""
        wake_at = min((session.wake_at for session in self._sessions.values()), default=math.inf)
        ready = [session for session, waiting in self._waiting.items() if waiting]
        for source, _ in self._poller.poll(0 if ready else self._millis_until(wake_at)):
            if isinstance(source, int):
                self._stop.clear_wakeup()
            elif self._listening[source] not in ready:
                ready.append(self._listening[source])
        for session in ready:
            if self._stop.requested:
                return
            self._read(session)
        now = self._clock()
        if now >= wake_at:
            for session in self._sessions.values():
                self._carry_out(session.tick(now), session)
        if self._changed:
            self._follow_membership()

    def _millis_until(self, wake_at: float) -> int:
        seconds = min(max(wake_at - self._clock(), 0), _MAX_WAIT_SECONDS)
        return math.ceil(seconds * _MILLIS_PER_SECOND)

    def _read(self, session: Session) -> None:
        """Takes the next message of a session, and does what it demands."""
        waiting = self._waiting.get(session)
        message = waiting.popleft() if waiting else self._receive(session)
        if isinstance(message, Predict):
            self._answer(message, session)
        elif message is not None:
            self._handle(message, session)

    def _receive(self, session: Session) -> FromFrontend | None:
        """Reads a message of the registration that there is, if one has arrived."""
        socket = self._sockets.get(session)
        if socket is None:
            return None
        try:
            message = codec.decode(multipart.receive(socket))
        except zmq.Again:
            return None
        except CodecError as error:
            self._carry_out(session.fail(self._clock(), f"malformed message: {error}"), session)
            return None
        return message if session.expects(message) else None

    def _handle(self, message: FromFrontend, session: Session) -> None:
        """Does what a message other than `predict` demands."""
        registration = session.registration
        self._carry_out(session.receive(message, self._clock()), session)
        if session.registration != registration:
            self._waiting.pop(session, None)
        if isinstance(message, Feedback):
            self._send(FeedbackAck(message.id), session)
        else:
            self._changed = True

    def _answer(self, batch: Predict, session: Session) -> None:
        started = self._clock()
        session.receive(batch, started)
        registration = session.registration
        self._sockets_lock.release()
        try:
            answer = self._adapter.answer(batch, self._failures)
        except KeyboardInterrupt:
            self._sockets_lock.acquire()
            self._send(BatchError(batch.id, "the container was interrupted"), session)
            raise
        self._sockets_lock.acquire()
        deaf = self._clock() - started
        for each in self._sessions.values():
            each.was_deaf(deaf)
        self._catch_up(session)
        if session.registration == registration:
            self._send(answer, session)
        else:
            _LOGGER.info("dropping the answer to a batch of an earlier registration with %s", session.address)

    def _catch_up(self, session: Session) -> None:
        """Reads what arrived during a batch: whether the frontend still knows this container, above all."""
        for _ in range(_MAX_READ_AHEAD):
            socket = self._sockets.get(session)
            if socket is None or not int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            message = self._receive(session)
            if isinstance(message, (Predict, Feedback, Drain)):
                self._waiting.setdefault(session, deque()).append(message)
            elif message is not None:
                self._handle(message, session)

    def _beat_while_computing(self) -> None:
        """Sends heartbeats in a thread of its own, whenever the model computes."""
        pause = _IDLE_BEAT_SECONDS
        while not self._stop_beating.wait(pause):
            if not self._sockets_lock.acquire(blocking=False):
                continue
            try:
                pause = self._beat()
            finally:
                self._sockets_lock.release()

    def _beat(self) -> float:
        """Sends the heartbeats that are due. Returns how long to pause."""
        now = self._clock()
        wanted = _IDLE_BEAT_SECONDS
        for session, socket in self._sockets.items():
            wanted = min(wanted, session.heartbeat_seconds / 2)
            if session.heartbeat_is_due(now):
                try:
                    multipart.send(socket, codec.encode(Heartbeat()))
                except zmq.ZMQError:
                    continue  # the thread of `run` will find out, too
                session.spoke(now)
        return max(wanted, _LEAST_BEAT_SECONDS)

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
            self._waiting.pop(session, None)
            self._poller.unregister(socket)
            socket.close(linger_millis)
            self._changed = True

    def _send(self, message: FromContainer, session: Session) -> None:
        socket = self._sockets.get(session)
        if socket is None:
            return
        try:
            frames = codec.encode(message)
        except CodecError:
            if not isinstance(message, Prediction):
                raise
            frames = self._encode_sendable(message)
        try:
            multipart.send(socket, frames)
        except zmq.Again:
            self._carry_out(session.fail(self._clock(), "it takes no more messages"), session)
        else:
            session.spoke(self._clock())

    def _encode_sendable(self, prediction: Prediction) -> list[bytes]:
        """Writes a prediction that cannot be sent as it is, so that an output costs its own input only."""
        count = len(prediction.outputs)
        prediction, reasons = codec.sendable(prediction)
        self._failures.record_outputs(reasons, count)
        try:
            return codec.encode(prediction)
        except CodecError as error:  # together they are too large
            message = f"the answer cannot be sent: {error}"
            self._failures.record("answer", f"a batch of {counted(count, 'input')}", lambda: message)
            return codec.encode(BatchError(prediction.id, message))

    def _follow_membership(self) -> None:
        """Opens and closes sessions as the frontends of the cluster come and go.

        Raises:
            RejectedError: a frontend refused for good and there is no other that accepts or may yet accept.
        """
        self._changed = False
        wanted = self._membership.wanted(self._sessions.values())
        if not any(session.accepted for session in self._sessions.values()):
            # One that refused long ago may accept by now, and there is nobody else.
            for address, session in list(self._sessions.items()):
                if session.refused_for(self._clock()) >= MAX_PAUSE_SECONDS:
                    del self._sessions[address]
        for address in self._sessions.keys() - wanted:
            session = self._sessions.pop(address)
            if session in self._sockets:
                self._carry_out(Order.LEAVE, session)
        for address in wanted - self._sessions.keys():
            self._sessions[address] = Session(address, self._clock())
        self._require_hope()

    def _require_hope(self) -> None:
        sessions = self._sessions.values()
        if any(session.state is not State.REFUSED for session in sessions):
            return
        for session in sessions:
            if session.refusal is not None:
                raise RejectedError(str(session.address), session.refusal)
