"""Owns every exception of the package.

Invariant: each message is complete in itself: what went wrong, and what to do about it where that is known.
"""

from __future__ import annotations

from http import HTTPStatus

_UNAUTHORIZED_ADVICE = (
    "; give the token as admin_token or admin_token_file, "
    "or in the variable CLIPPER_ADMIN_TOKEN or CLIPPER_ADMIN_TOKEN_FILE"
)


class ClipperException(Exception):
    """Base of every exception that this package raises on purpose.

    Attributes:
        msg: the message.
    """

    def __init__(self, msg: str) -> None:
        """Records the message."""
        super().__init__(msg)
        self.msg = msg


class UnconnectedException(ClipperException):
    """The call needs a cluster, and none has been started or connected to."""

    def __init__(self) -> None:
        """Says which calls connect."""
        super().__init__("not connected: call start_clipper() or connect() first")


class UnreachableException(ClipperException):
    """No answer came from the cluster, or there is none.

    Attributes:
        address: the `host:port` that was tried; None if no cluster was found that has one.
    """

    def __init__(self, msg: str, address: str | None = None) -> None:
        """Records who was called and what came of it."""
        super().__init__(msg)
        self.address = address

    @classmethod
    def at(cls, address: str, problem: str) -> UnreachableException:
        """Says that a call of an address failed."""
        return cls(
            f"no answer from Clipper at {address}: {problem}. Is the cluster running there? "
            "start_clipper() starts one, connect() looks for it again.",
            address,
        )


class RefusedException(ClipperException):
    """The cluster answered that it does not do what it was asked.

    Attributes:
        path: the call that was refused.
        status: the HTTP status of the refusal.
        cause: the cluster's own sentence.
        kind: the cluster's name for this sort of refusal, or None if it gave none.
    """

    def __init__(self, path: str, status: int, cause: str, kind: str | None = None) -> None:
        """Records what was refused and why."""
        advice = _UNAUTHORIZED_ADVICE if status == HTTPStatus.UNAUTHORIZED else ""
        super().__init__(f"{cause} ({path} answered {status}){advice}")
        self.path = path
        self.status = status
        self.cause = cause
        self.kind = kind


class StartException(ClipperException):
    """The cluster was not started, or did not become ready."""


class FunctionException(ClipperException):
    """The function cannot be served as it is: nothing was deployed."""
