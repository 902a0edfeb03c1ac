"""Owns the way of a message's frames through a socket, at the least cost that pyzmq allows.

Its own `recv_multipart` and `send_multipart` check each frame, and combine flags that are enums: for a small
batch, that costs more than to decode it. Invariant: nothing here blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

import zmq

Frame = Union[bytes, memoryview]

_LARGE_BYTES = 64 * 1024
"""From here on, to copy a frame costs more than to share its memory."""
_LAST = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


def receive(socket: zmq.Socket[bytes]) -> list[Frame]:
    """Returns the frames of the next message; large ones are views of the memory that they arrived in.

    Raises:
        zmq.Again: there is none.
    """
    frames: list[Frame] = []
    more = True
    while more:
        frame = socket.recv(_LAST, copy=False)
        frames.append(frame.bytes if len(frame) < _LARGE_BYTES else frame.buffer)
        more = frame.more
    return frames


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> None:
    """Sends a message.

    Raises:
        zmq.Again: the socket takes no more messages.
    """
    for frame in frames[:-1]:
        socket.send(frame, _MORE)
    socket.send(frames[-1], _LAST)
