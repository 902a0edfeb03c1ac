"""Owns the conversation with one HTTP interface of a cluster.

Invariant: a call returns what a successful answer says, or raises a `ClipperException`, never one of the HTTP
    library.
"""

from __future__ import annotations

import base64
import json
import logging
import sys
from typing import IO, Any

import requests

from .exceptions import ClipperException, RefusedException, UnreachableException
from .tokens import AdminToken

DEFAULT_TIMEOUT_SECONDS = 30.0
_CONNECT_TIMEOUT_SECONDS = 5.0
_MAX_CAUSE_CHARS = 2000

_logger = logging.getLogger(__name__)


class HttpInterface:
    """One of a cluster's two HTTP servers, as a client sees it."""

    def __init__(self, address: str, token: AdminToken | None = None) -> None:
        """Takes the server's `host:port`, and the token that its calls need, if they need one."""
        self.address = address
        self._token = token
        self._session = requests.Session()
        # A proxy of the environment stands between the user and the internet, not between the user and a
        # cluster.
        self._session.trust_env = False

    def get(self, path: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Any:
        """Returns the answer to a GET: the decoded value if it is JSON, otherwise its text.

        Raises:
            RefusedException: the status is not 200.
            UnreachableException: there was no answer.
        """
        return self._call("GET", path, None, "application/json", timeout_seconds)

    def post(self, path: str, body: Any, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> Any:
        """Posts a value as JSON and returns the answer, as `get` does and with the same exceptions.

        In the body, byte strings become base64, arrays become lists, and missing values, such as masked ones
        and pandas' `NA`, become null. NaN and infinities are sent as `json` writes them.

        Raises:
            ClipperException: the body holds something else that JSON has no form for.
        """
        try:
            encoded = json.dumps(body, default=_plain).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ClipperException(f"what was given for {path} cannot be sent as JSON: {error}") from error
        return self._call("POST", path, encoded, "application/json", timeout_seconds)

    def upload(self, path: str, archive: IO[bytes], timeout_seconds: float) -> Any:
        """Posts a tar archive, from where the file stands to its end, without holding it in memory."""
        return self._call("POST", path, archive, "application/x-tar", timeout_seconds)

    def is_ready(self) -> bool:
        """Returns whether the server says that it is ready to do its work."""
        try:
            self.get("/readyz", timeout_seconds=_CONNECT_TIMEOUT_SECONDS)
        except (RefusedException, UnreachableException):
            return False
        return True

    def _call(
        self,
        method: str,
        path: str,
        data: bytes | IO[bytes] | None,
        content_type: str,
        timeout: float,
    ) -> Any:
        headers = {"Accept": "application/json, text/plain;q=0.9, */*;q=0.1"}
        if data is not None:
            headers["Content-Type"] = content_type
        if self._token is not None:
            headers["Authorization"] = self._token.header
        try:
            response = self._session.request(
                method,
                f"http://{self.address}{path}",
                data=data,
                headers=headers,
                timeout=(_CONNECT_TIMEOUT_SECONDS, timeout),
                # No server of a cluster redirects; whoever else does must not be handed the token.
                allow_redirects=self._token is None,
            )
        except requests.ConnectTimeout:
            raise UnreachableException.at(self.address, "it cannot be connected to") from None
        except requests.Timeout:
            raise UnreachableException.at(self.address, f"{path} took more than {timeout:g} s") from None
        except requests.RequestException as error:
            raise UnreachableException.at(self.address, _innermost(error)) from None
        if response.status_code != requests.codes.ok:
            raise _refusal(path, response)
        behind = response.headers.get("clipper-frontends-behind")
        if behind is not None:
            _logger.warning("%s: the frontends at %s have not applied the change yet", path, behind)
        return _decoded(response)


def _decoded(response: requests.Response) -> Any:
    if "json" in response.headers.get("Content-Type", ""):
        try:
            return response.json()
        except ValueError:
            return response.text
    return response.text


def _refusal(path: str, response: requests.Response) -> RefusedException:
    if response.is_redirect:
        cause = f"it redirects to {response.headers['Location']}, where the token is not sent"
        return RefusedException(path, response.status_code, cause)
    answer = _decoded(response)
    if isinstance(answer, dict) and "cause" in answer:
        return RefusedException(path, response.status_code, str(answer["cause"]), answer.get("error"))
    cause = response.text.strip()[:_MAX_CAUSE_CHARS] or response.reason or "no reason given"
    return RefusedException(path, response.status_code, cause)


def _innermost(error: BaseException) -> str:
    """Returns the operating system's own words where the HTTP library has wrapped them several times."""
    words = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
        cause = cause.__cause__ or cause.__context__
    return words


def _plain(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    pandas = sys.modules.get("pandas")
    if pandas is not None and (value is pandas.NA or value is pandas.NaT):
        return None
    raise TypeError(f"there is a {type(value).__name__} in it")
