"""Owns an HTTP server that answers as a cluster, with what a test lays down, and keeps what it was asked."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """What a path answers: a str as plain text, anything else as JSON."""

    status: int
    value: Any
    location: str | None = None


class Request(NamedTuple):
    """What came: the body is decoded if it was JSON."""

    path: str
    body: Any
    authorization: str | None


class FakeCluster:
    """Both HTTP servers of a cluster, on one port. What nobody laid down is answered with a sentence."""

    def __init__(self) -> None:
        """Starts listening on a free port."""
        self.answers: dict[str, Answer] = {"/admin/ping": Answer(200, "PONG")}
        self.requests: list[Request] = []
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                cluster._answer(self, None)

            def do_POST(self) -> None:
                body: Any = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Type"] == "application/json":
                    body = json.loads(body)
                cluster._answer(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, path: str, value: Any, status: int = 200) -> None:
        """Lays down what a path answers."""
        self.answers[path] = Answer(status, value)

    def refuse(self, path: str, cause: str) -> None:
        """Lays down that a path refuses, as management does."""
        self.answer(path, {"error": "Request error", "cause": cause}, status=400)

    def redirect(self, path: str, location: str, status: int) -> None:
        """Lays down that a path redirects."""
        self.answers[path] = Answer(status, "", location)

    def asked(self, path: str) -> list[Any]:
        """Returns the bodies that came to a path."""
        return [request.body for request in self.requests if request.path == path]

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        self.requests.append(Request(handler.path, body, handler.headers["Authorization"]))
        answer = self.answers.get(handler.path, Answer(200, "Success!"))
        text = isinstance(answer.value, str)
        raw = (answer.value if text else json.dumps(answer.value)).encode()
        handler.send_response(answer.status)
        if answer.location:
            handler.send_header("Location", answer.location)
        handler.send_header("Content-Type", "text/plain" if text else "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)
