"""Owns the token by which operators command a cluster.

Invariant: a token is shown neither by `repr` nor in the text of an exception.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .exceptions import ClipperException

TOKEN_VARIABLE = "CLIPPER_ADMIN_TOKEN"  # noqa: S105
FILE_VARIABLE = "CLIPPER_ADMIN_TOKEN_FILE"
_SECRET_VARIABLES = tuple(
    f"CLIPPER_{kind}_TOKEN{suffix}" for kind in ("ADMIN", "CLUSTER", "CONTAINER") for suffix in ("", "_FILE")
)
_MIN_CHARS = 16
_MAX_CHARS = 1024


class AdminToken:
    """A token that has been read."""

    def __init__(self, text: str, source: str) -> None:
        """Checks a token.

        Args:
            text: the token; white space around it does not count.
            source: where it comes from, for the message of an exception.

        Raises:
            ClipperException: it is too short or too long, or has characters that no header can carry.
        """
        self._text = text.strip()
        if not _MIN_CHARS <= len(self._text) <= _MAX_CHARS:
            raise ClipperException(
                f"{source}: a token has {_MIN_CHARS} to {_MAX_CHARS} characters, not {len(self._text)}"
            )
        if not all("!" <= character <= "~" for character in self._text):
            raise ClipperException(f"{source}: a token has only visible ASCII characters, and no spaces")

    def __repr__(self) -> str:
        """Hides the token."""
        return "AdminToken(hidden)"

    @property
    def header(self) -> str:
        """The value of the `Authorization` header."""
        return f"Bearer {self._text}"

    @property
    def text(self) -> str:
        """The token, for the environment of the cluster's own process."""
        return self._text


class TokenSource:
    """Where the token comes from: an argument, a file, or a variable of the environment."""

    def __init__(self, admin_token: str | None = None, admin_token_file: str | Path | None = None) -> None:
        """Takes the token, or the file that holds it. Without either, the environment is asked.

        Raises:
            ClipperException: both are given, or the token is none.
        """
        if admin_token is not None and admin_token_file is not None:
            raise ClipperException("give either admin_token or admin_token_file, not both")
        self._token = None if admin_token is None else AdminToken(admin_token, "admin_token")
        self._file = None if admin_token_file is None else Path(admin_token_file).expanduser().absolute()

    def __repr__(self) -> str:
        """Shows the file, and hides a token."""
        return f"TokenSource({self._token or self._file or 'environment'!r})"

    def read(self) -> AdminToken | None:
        """Returns the token, or None if there is none. A file is read anew each time.

        Raises:
            ClipperException: the file cannot be read, or what is given is no token.
        """
        if self._token is not None:
            return self._token
        if self._file is not None:
            return _read(self._file, "admin_token_file")
        text, file = os.environ.get(TOKEN_VARIABLE), os.environ.get(FILE_VARIABLE)
        if text is not None and file is not None:
            raise ClipperException(
                f"a token is given twice, by {TOKEN_VARIABLE} and by {FILE_VARIABLE}; give one of them"
            )
        if text is not None:
            return AdminToken(text, TOKEN_VARIABLE)
        return None if file is None else _read(Path(file), FILE_VARIABLE)

    def environment(self) -> dict[str, str]:
        """Returns the environment in which a cluster asks for this token. No command line shows it."""
        environment = dict(os.environ)
        if self._token is not None or self._file is not None:
            environment.pop(TOKEN_VARIABLE, None)
            environment.pop(FILE_VARIABLE, None)
        if self._token is not None:
            environment[TOKEN_VARIABLE] = self._token.text
        if self._file is not None:
            environment[FILE_VARIABLE] = str(self._file)
        return environment


def without_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment for programs that have no business with the cluster's tokens."""
    return {name: value for name, value in environment.items() if name not in _SECRET_VARIABLES}


def _read(file: Path, source: str) -> AdminToken:
    try:
        text = file.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise ClipperException(f"{source}: {file} holds no token: expected ASCII characters") from None
    except OSError as error:
        raise ClipperException(f"{source}: cannot read {file}: {error.strerror}") from error
    return AdminToken(text, f"{source}: {file}")
