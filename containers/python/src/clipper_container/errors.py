"""Owns every exception of the SDK.

Invariant: each message is complete in itself, so a command line can print it and exit.
"""

from __future__ import annotations


class ContainerError(Exception):
    """Base of every exception that this package raises on purpose."""


class ConfigError(ContainerError, ValueError):
    """A setting is missing or malformed. The message names the environment variable or the option."""


class CodecError(ContainerError, ValueError):
    """A message breaks the container protocol, or an answer cannot be put into one."""


class OutputError(ContainerError, ValueError):
    """What the function returned for a batch cannot be taken apart into one output per input."""


class RejectedError(ContainerError):
    """A frontend rejected this container for good and no other frontend accepts it.

    Attributes:
        frontend: the frontend that rejected, as `host:port`.
        reason: its reason, as it gave it.
    """

    def __init__(self, frontend: str, reason: str) -> None:
        """Records who rejected the container and why."""
        super().__init__(f"the frontend {frontend} rejected this container: {reason}")
        self.frontend = frontend
        self.reason = reason


class CheckError(ContainerError):
    """The function did not survive `check`: it raised, or returned what cannot be served.

    Attributes:
        batch_size: how many inputs the failing batch had.
    """

    def __init__(self, batch_size: int, problem: str) -> None:
        """Records the size of the failing batch and what went wrong with it."""
        inputs = "1 input" if batch_size == 1 else f"{batch_size} inputs"
        super().__init__(f"the function failed on a sample batch of {inputs}: {problem}")
        self.batch_size = batch_size


class ClosureError(ContainerError):
    """A saved function is missing, damaged, or cannot be loaded."""


class UnpicklableFunctionError(ClosureError):
    """The function cannot be pickled, so it cannot be deployed.

    Attributes:
        variable: the variable that is to blame, as a dotted path from the function, or None if unknown.
    """

    def __init__(self, message: str, variable: str | None = None) -> None:
        """Records the advice to the author and the offending variable."""
        super().__init__(message)
        self.variable = variable


class IncompatibleClosureError(ClosureError):
    """The function was saved by a Python, cloudpickle or set of packages that does not fit the ones here."""
