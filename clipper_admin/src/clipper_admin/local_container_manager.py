"""Owns where a cluster of this host lives: its data directory, its addresses, its process.

Invariant: the addresses are those of a cluster that has answered.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .binary import find_binary
from .cluster_process import ClusterProcess, log_file, read_log
from .exceptions import ClipperException, StartException, UnconnectedException, UnreachableException
from .http_interface import HttpInterface
from .tokens import TokenSource

DEFAULT_CLUSTER_NAME = "default-cluster"
_ADDRESSES = "addresses.json"
_QUERY_PORT = 1337
_MANAGEMENT_PORT = 1338
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104
_POLL_SECONDS = 0.05

_logger = logging.getLogger("clipper_admin")


class _Addresses(NamedTuple):
    query: str
    admin: str


class LocalContainerManager:
    """Runs a cluster, and the processes that serve its models, on this host without Docker.

    A cluster keeps everything in its data directory and outlives the program that started it.
    """

    def __init__(
        self,
        cluster_name: str = DEFAULT_CLUSTER_NAME,
        data_dir: str | Path | None = None,
        query_port: int | None = None,
        management_port: int | None = None,
        rpc_port: int = 7000,
        python: str | None = None,
        binary: str | Path | None = None,
        *,
        host: str = "localhost",
        query_host: str = "0.0.0.0",  # noqa: S104
        management_host: str = "127.0.0.1",
        rpc_host: str = "127.0.0.1",
        start_timeout_seconds: float = 30.0,
        admin_token: str | None = None,
        admin_token_file: str | Path | None = None,
        insecure_management: bool = False,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
        cors_origins: Sequence[str] = (),
        container_token_file: str | Path | None = None,
        insecure_containers: bool = False,
    ) -> None:
        """Describes a cluster. Nothing is started.

        Args:
            cluster_name: tells the clusters of this host apart; each has a data directory of its own, and
                needs ports of its own.
            data_dir: where the cluster keeps its data; `~/.clipper`, or `~/.clipper-NAME` for another name.
            query_port: where predictions are asked for; 1337 unless given, 0 picks a free port.
            management_port: where the cluster is administered; 1338 unless given, 0 picks a free port.
            rpc_port: where the model containers connect to; 0 picks a free port.
            python: the interpreter that serves Python models; the running one unless given.
            binary: the `clipper` program; the one that was installed with this package unless given.
            host: the host to connect to. A cluster can only be started on this one.
            query_host: the interface that predictions are asked for at; all unless given.
            management_host: the interface that the cluster is administered at; this host's own unless given.
            rpc_host: the interface that model containers connect to; this host's own unless given. On another
                one a container needs a token, which the models that are deployed are given.
            start_timeout_seconds: how long a start may take.
            admin_token: the token that management asks operators for, at least 16 characters. A cluster that
                is started here asks for it. Without it, and without a file, the variables
                `CLIPPER_ADMIN_TOKEN` and `CLIPPER_ADMIN_TOKEN_FILE` are asked.
            admin_token_file: the file that holds the token.
            insecure_management: lets management answer beyond this host without a token.
            allowed_hosts: names by which the cluster is called, besides localhost and addresses.
            allowed_origins: web pages that may administer the cluster, such as "https://ops.example".
            cors_origins: web pages that may ask for predictions, such as "https://shop.example".
            container_token_file: a file with a token that opens every model to containers that are started by
                hand; without it, only those that are deployed can connect beyond this host's own interface.
            insecure_containers: ask containers for no token on any interface: whoever reaches it can then
                answer for any model.
        """
        default_dir = ".clipper" if cluster_name == DEFAULT_CLUSTER_NAME else f".clipper-{cluster_name}"
        self.cluster_name = cluster_name
        self.data_dir = Path(data_dir).expanduser().absolute() if data_dir else Path.home() / default_dir
        self.host = host
        self._is_default = cluster_name == DEFAULT_CLUSTER_NAME and data_dir is None
        self._query_port = query_port
        self._management_port = management_port
        self._rpc_port = rpc_port
        self._interfaces = (query_host, management_host, rpc_host)
        self._insecure_management = insecure_management
        self._lists = {
            "--allowed-hosts": allowed_hosts,
            "--allowed-origins": allowed_origins,
            "--cors-origins": cors_origins,
        }
        self._container_token_file = container_token_file
        self._insecure_containers = insecure_containers
        self._binary = binary
        self._start_timeout_seconds = start_timeout_seconds
        self._addresses: _Addresses | None = None
        self.python = python or (sys.executable if self.is_local else None)
        """The interpreter for Python models; None where the cluster decides, since it is not of this host."""
        self.tokens = TokenSource(admin_token, admin_token_file)
        """Where the token of the cluster's operators comes from."""

    @property
    def is_local(self) -> bool:
        """Whether the cluster is on this host."""
        return self.host in _LOCAL_HOSTS

    def start_clipper(self) -> None:
        """Starts the cluster and waits until it is ready, and until what was deployed before serves again.

        A model that takes long to start, or does not, delays the return up to the start timeout but is no
        error: `get_deployments` says how it is doing.

        Raises:
            StartException: it runs already, or it did not start; the message has the last lines that it
                printed.
        """
        if not self.is_local:
            raise StartException(
                f"a cluster can only be started on its own host: run `clipper start` on {self.host}, "
                "then call connect() here"
            )
        running = ClusterProcess.find(self.data_dir)
        if running:
            raise StartException(
                f"a cluster with the data directory {self.data_dir} is running already "
                f"(process {running.pid}): call connect() to use it, or stop_all() to stop it first"
            )
        command, environment = self._command(), self.tokens.environment()
        self._addresses_file.unlink(missing_ok=True)  # left behind by a cluster that was killed
        process = ClusterProcess.start(command, self.data_dir, environment)
        try:
            self._addresses = self._wait_until_ready(process)
            self._wait_for_deployments(process, self._addresses)
        except BaseException:
            process.stop(graceful=False)
            raise
        _logger.info(
            "Clipper is running: predictions at %s, data in %s", self._addresses.query, self.data_dir
        )

    def connect(self) -> None:
        """Finds the running cluster: by its data directory if it is of this host, otherwise by host and port.

        If none of the data directory runs, the ports are tried where they were given, or where neither a
        cluster name nor a data directory was: what answers at the usual ports is not the cluster of another
        directory.

        Raises:
            UnreachableException: there is none.
            ClipperException: it is only management, and the port of its frontend was not given.
        """
        addresses = None
        if self.is_local and ClusterProcess.find(self.data_dir):
            addresses = self._read_addresses()
        if addresses is None:
            ports_given = self._query_port or self._management_port
            if self.is_local and not ports_given and not self._is_default:
                raise UnreachableException(
                    f"no cluster of {self.data_dir} is running: start_clipper() starts one. To connect to "
                    "one that was started otherwise, give its query_port and management_port."
                )
            addresses = _Addresses(
                f"{self.host}:{self._query_port or _QUERY_PORT}",
                f"{self.host}:{self._management_port or _MANAGEMENT_PORT}",
            )
        HttpInterface(addresses.admin, self.tokens.read()).get("/admin/ping")
        self._addresses = addresses

    def stop_all(self, graceful: bool = True) -> None:
        """Stops the cluster and the models that it runs, and waits until they are gone. Its data stay.

        Args:
            graceful: answer first what has been asked.

        Raises:
            ClipperException: the cluster is on another host.
        """
        if not self.is_local:
            raise ClipperException(
                f"a cluster can only be stopped on its own host: send SIGTERM to `clipper` on {self.host}"
            )
        process = ClusterProcess.find(self.data_dir)
        if process:
            process.stop(graceful)
            _logger.info("stopped the cluster of %s", self.data_dir)
        else:
            _logger.info("no cluster of %s is running", self.data_dir)
        self._addresses = None

    def get_query_addr(self) -> str:
        """Returns the `host:port` where predictions are asked for."""
        return self._connected().query

    def get_admin_addr(self) -> str:
        """Returns the `host:port` where the cluster is administered."""
        return self._connected().admin

    def log_file(self) -> Path | None:
        """Returns the file that the cluster logs to, or None if it was not started from here."""
        path = log_file(self.data_dir)
        return path if self.is_local and path.is_file() else None

    def read_log(self) -> str | None:
        """Returns what is kept of the cluster's log, or None if it was not started from here."""
        return read_log(self.data_dir) if self.log_file() else None

    @property
    def _addresses_file(self) -> Path:
        return self.data_dir / _ADDRESSES

    def _connected(self) -> _Addresses:
        if self._addresses is None:
            raise UnconnectedException
        return self._addresses

    def _command(self) -> list[str]:
        command = [str(self._binary or find_binary()), "start", "--data-dir", str(self.data_dir)]
        command += ["--log-file", str(log_file(self.data_dir))]
        ports = (
            _QUERY_PORT if self._query_port is None else self._query_port,
            _MANAGEMENT_PORT if self._management_port is None else self._management_port,
            self._rpc_port,
        )
        for role, interface, port in zip(("query", "admin", "rpc"), self._interfaces, ports):
            command += [f"--{role}-address", f"{interface}:{port}"]
        if self.python:
            command += ["--python", self.python]
        if self._insecure_management:
            command.append("--insecure-management")
        for flag, values in self._lists.items():
            if values:
                command += [flag, ",".join([values] if isinstance(values, str) else values)]
        if self._container_token_file:
            command += [
                "--container-token-file",
                str(Path(self._container_token_file).expanduser().absolute()),
            ]
        if self._insecure_containers:
            command += ["--insecure-containers"]
        return command

    def _wait_until_ready(self, process: ClusterProcess) -> _Addresses:
        deadline = time.monotonic() + self._start_timeout_seconds
        while process.is_running():
            addresses = self._read_addresses()
            if addresses and all(HttpInterface(address).is_ready() for address in addresses):
                return addresses
            if time.monotonic() > deadline:
                raise StartException(
                    f"the cluster was not ready after {self._start_timeout_seconds:g} s. The end of its log, "
                    f"{log_file(self.data_dir)}:\n{process.last_lines()}"
                )
            time.sleep(_POLL_SECONDS)
        raise StartException(f"the cluster did not start:\n{process.last_lines()}")

    def _wait_for_deployments(self, process: ClusterProcess, addresses: _Addresses) -> None:
        deadline = time.monotonic() + self._start_timeout_seconds
        management = HttpInterface(addresses.admin, self.tokens.read())
        starting: list[str] = []
        while process.is_running() and time.monotonic() < deadline:
            starting = [
                f"{deployment['model_name']}:{deployment['model_version']}"
                for deployment in management.post("/admin/get_deployments", {})
                if any(replica["state"] == "starting" for replica in deployment["replicas"])
            ]
            if not starting:
                return
            time.sleep(_POLL_SECONDS)
        _logger.warning("Clipper is running, but these models are still starting: %s", ", ".join(starting))

    def _read_addresses(self) -> _Addresses | None:
        try:
            listening = json.loads(self._addresses_file.read_text(encoding="utf-8"))
            admin = _to_call(listening["admin"])
        except (OSError, ValueError, KeyError):
            return None
        if "query" in listening:
            return _Addresses(_to_call(listening["query"]), admin)
        if self._query_port:
            return _Addresses(f"{self.host}:{self._query_port}", admin)
        raise ClipperException(
            f"what runs on {self.data_dir} is management alone, without a frontend to ask for predictions: "
            "give the query_port of a frontend that follows it"
        )


def _to_call(listening: str) -> str:
    """Returns where this host calls a server, which may listen at every address."""
    host, _, port = listening.rpartition(":")
    return f"{_LOOPBACK_OF.get(host, host)}:{port}"
