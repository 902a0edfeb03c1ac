#!/usr/bin/env python3
"""Owns a program that starts and stops as `clipper start` does, or fails in the way FAKE_CLIPPER says."""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Ready(BaseHTTPRequestHandler):
    """Answers every GET with 200, or with 503 if it shall never be ready. Has no deployments."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        never = self.path == "/readyz" and os.environ.get("FAKE_CLIPPER") == "never-ready"
        self.send_response(503 if never else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]")


def main() -> int:
    data_dir = Path(sys.argv[sys.argv.index("--data-dir") + 1])
    behaviour = os.environ.get("FAKE_CLIPPER", "")
    with Path(sys.argv[sys.argv.index("--log-file") + 1]).open("a") as log:
        log.write(f"options {sys.argv[1:]}\n")
    tokens = {name: value for name, value in os.environ.items() if "_TOKEN" in name}
    (data_dir / "tokens.json").write_text(json.dumps(tokens))
    if behaviour == "port-in-use":
        sys.stderr.write("clipper: port 1337 is in use\n")
        return 1
    server = HTTPServer(("127.0.0.1", 0), Ready)

    def leave(*_: object) -> None:
        (data_dir / "addresses.json").unlink()
        sys.exit(0)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "stubborn" else leave)
    lock = (data_dir / "clipper.lock").open("w")
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    time.sleep(0.2)
    address = f"0.0.0.0:{server.server_port}"
    (data_dir / "addresses.new").write_text(json.dumps({"query": address, "admin": address, "rpc": address}))
    (data_dir / "addresses.new").replace(data_dir / "addresses.json")
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
