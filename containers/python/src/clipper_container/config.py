"""Owns what a container is told when it starts: `Config`, and `Address`, the name of a frontend.

Invariant: a `Config` that exists is valid; whatever is wrong with a setting is said while it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .errors import ConfigError
from .input_type import InputType

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7000
_MAX_PORT = 65_535


class Address(NamedTuple):
    """Where a frontend listens for containers. Two spellings of one address compare equal."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `host:port`; an IPv6 host stands in brackets.

        Raises:
            ValueError: the text is not of that form.
        """
        host, colon, port = text.strip().rpartition(":")
        host = host.lower()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not colon or not host or any(char.isspace() or char in "/;,[]" for char in host):
            raise ValueError(f"{text!r} is not of the form host:port")
        return cls(DEFAULT_HOST if host == "localhost" else host, parse_port(port))

    def __str__(self) -> str:
        """Returns `host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_port(text: str) -> int:
    """Reads a TCP port, 1 to 65535.

    Raises:
        ValueError: the text is not such a number.
    """
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT)) else 0
    if not 0 < port <= _MAX_PORT:
        raise ValueError(f"{text!r} is not a port between 1 and {_MAX_PORT}")
    return port


@dataclass(frozen=True)
class Config:
    """What a container serves, and where the cluster is.

    Attributes:
        model_name: the model's name, as registered with the cluster.
        model_version: the version of the model that this container holds.
        input_type: what one input is.
        frontends: the frontends to begin with, without duplicates; the cluster names the others.
        model_path: the folder that holds the model's files.
        max_batch_size: how many inputs the model can take at once; None for no limit.
        replica: the replica number to ask for.
        instance: a name unique to this process, by which whoever started it recognises it.
        token: the secret that admits this container where a frontend listens beyond loopback; never shown.
    """

    model_name: str
    model_version: str
    input_type: InputType
    frontends: tuple[Address, ...] = (Address(DEFAULT_HOST, DEFAULT_PORT),)
    model_path: Path | None = None
    max_batch_size: int | None = None
    replica: int | None = None
    instance: str | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Checks what the types cannot say.

        Raises:
            ConfigError: there is no name, version or frontend, or a number is out of range.
        """
        if not self.model_name or not self.model_version:
            raise ConfigError("model_name and model_version must not be empty")
        if not self.frontends:
            raise ConfigError("frontends must name at least one frontend")
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ConfigError(f"max_batch_size is {self.max_batch_size}; it must be at least 1")
        if self.replica is not None and self.replica < 0:
            raise ConfigError(f"replica is {self.replica}; it must not be negative")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Config:
        """Reads the `CLIPPER_*` variables. An empty variable counts as an absent one.

        Args:
            environment: usually `os.environ`; a plain dict in tests.

        Raises:
            ConfigError: a variable is missing or malformed; the message is one line that names it.
        """
        values = {name: value.strip() for name, value in environment.items() if value.strip()}
        return cls(
            model_name=_required(values, "CLIPPER_MODEL_NAME"),
            model_version=_required(values, "CLIPPER_MODEL_VERSION"),
            input_type=_input_type(_required(values, "CLIPPER_INPUT_TYPE")),
            frontends=tuple(dict.fromkeys(_frontends(values))),
            model_path=Path(values["CLIPPER_MODEL_PATH"]) if "CLIPPER_MODEL_PATH" in values else None,
            replica=_replica(values.get("CLIPPER_REPLICA")),
            instance=values.get("CLIPPER_INSTANCE"),
            token=_token(values.get("CLIPPER_TOKEN"), values.get("CLIPPER_TOKEN_FILE")),
        )


def _required(values: Mapping[str, str], name: str) -> str:
    if name not in values:
        raise ConfigError(f"{name} is not set")
    return values[name]


def _input_type(spelling: str) -> InputType:
    try:
        return InputType.parse(spelling)
    except ValueError as error:
        raise ConfigError(f"CLIPPER_INPUT_TYPE: {error}") from None


def _replica(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"CLIPPER_REPLICA: {text!r} is not a non-negative integer")
    return int(text)


def _token(given: str | None, file: str | None) -> str | None:
    """Returns the token that a variable holds, or that is the only content of a file."""
    if file is None:
        return given
    if given is not None:
        raise ConfigError("CLIPPER_TOKEN_FILE: CLIPPER_TOKEN gives a token, too; set one of them")
    try:
        token = Path(file).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ConfigError(f"CLIPPER_TOKEN_FILE: cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(
            f"CLIPPER_TOKEN_FILE: {file} holds no token; expected visible ASCII characters without spaces"
        )
    return token


def _frontends(values: Mapping[str, str]) -> Iterable[Address]:
    """Yields the frontends to begin with; the default one only if no variable names any."""
    listed = [part for part in values.get("CLIPPER_FRONTENDS", "").split(",") if part.strip()]
    if "CLIPPER_IP" in values or "CLIPPER_PORT" in values or not listed:
        host, port = values.get("CLIPPER_IP", DEFAULT_HOST), values.get("CLIPPER_PORT", str(DEFAULT_PORT))
        try:
            parse_port(port)
        except ValueError as error:
            raise ConfigError(f"CLIPPER_PORT: {error}") from None
        try:
            yield Address.parse(f"[{host}]:{port}" if ":" in host and host[0] != "[" else f"{host}:{port}")
        except ValueError:
            raise ConfigError(f"CLIPPER_IP: {host!r} is not a host name or an address") from None
    for part in listed:
        try:
            yield Address.parse(part)
        except ValueError as error:
            raise ConfigError(f"CLIPPER_FRONTENDS: {error}") from None
