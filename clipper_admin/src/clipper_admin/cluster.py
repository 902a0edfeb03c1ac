"""Owns what can be asked of a cluster, whichever of the two faces (`ClipperConnection`, `Clipper`) asks.

Its resources are in files of their own: `applications`, `models`, `deployments`.

Invariant: every method that needs the cluster says so if it is not connected, and raises only
    `ClipperException`s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

from .applications import Applications
from .deployments import Deployments
from .exceptions import ClipperException
from .function_check import answers

_LOG_LINES = 10_000


class Cluster(Applications, Deployments):
    """A Clipper cluster: its applications, its models, and the processes that serve them.

    Attributes:
        cm: where the cluster runs.
    """

    @property
    def connected(self) -> bool:
        """Whether a cluster has been started or connected to."""
        return self._interfaces.connected

    def start_clipper(self) -> None:
        """Starts a cluster, waits until it is ready, and connects to it.

        It goes on running when this program ends; `stop_all` stops it.

        Raises:
            StartException: it runs already, or did not become ready. The message shows what it printed.
        """
        self.cm.start_clipper()
        self._attach()

    def connect(self) -> None:
        """Connects to a running cluster.

        Raises:
            UnreachableException: there is none.
        """
        self.cm.connect()
        self._attach()

    def stop_all(self, graceful: bool = True) -> None:
        """Stops the cluster and every process that it runs, and waits for them. It need not be connected.

        Applications, models and deployments are remembered, and are there again when the cluster is started
        again.

        Args:
            graceful: let it answer first what it has been asked.
        """
        self.cm.stop_all(graceful=graceful)
        self._interfaces.detach()

    def get_query_addr(self) -> str:
        """Returns the `host:port` where applications ask for predictions."""
        return self._interfaces.query.address

    def inspect_instance(self) -> dict[str, Any]:
        """Returns what the cluster knows and measures.

        Returns:
            `metrics`, with what the `query` and the `management` server count (JSON decoded, Prometheus'
            format as text, None from a server that counts nothing), and the verbose lists of `applications`,
            `models`, `model_replicas` and `deployments`.
        """
        return {
            "metrics": self._interfaces.metrics(),
            "applications": self.get_all_apps(verbose=True),
            "models": self.get_all_models(verbose=True),
            "model_replicas": self.get_all_model_replicas(verbose=True),
            "deployments": self.get_deployments(),
        }

    def get_clipper_logs(self, logging_dir: str | Path = "clipper_logs/") -> list[str]:
        """Saves the logs of the cluster and of every replica that it runs, one file each.

        Args:
            logging_dir: the folder for the files; it is created if need be.

        Returns:
            The paths of the files. The cluster's own log is among them if the cluster was started from this
            host by this package.
        """
        texts: dict[str, str] = {}
        own_log = self.cm.read_log()
        if own_log is not None:
            texts["clipper"] = own_log
        for deployment in self.get_deployments():
            replicas = self.get_replica_logs(
                deployment["model_name"], deployment["model_version"], lines=_LOG_LINES
            )
            for replica, lines in replicas.items():
                texts[replica.replace(":", "_")] = "".join(f"{line}\n" for line in lines)
        folder = Path(logging_dir)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for name, text in texts.items():
            path = folder / f"{name}.log"
            path.write_text(text, encoding="utf-8")
            paths.append(str(path))
        return paths

    def test_predict_function(
        self, query: Mapping[str, Any], func: Callable[..., Any], input_type: str, per_row: bool = False
    ) -> list[Any]:
        """Runs a function as a container would, pickled and loaded again. The cluster is not involved.

        Args:
            query: a request as an application sends it: `{"input": ...}` or `{"input_batch": [...]}`.
            func: the function.
            input_type: "integers", "floats", "doubles", "bytes" or "strings".
            per_row: the function takes one input, not a batch.

        Returns:
            One output per input, as the application would receive them.

        Raises:
            FunctionException: it cannot be served; the message shows why.
        """
        if ("input" in query) == ("input_batch" in query):
            raise ClipperException('a query is {"input": ...} or {"input_batch": [...]}')
        inputs = [query["input"]] if "input" in query else list(query["input_batch"])
        return answers(func, inputs, input_type, per_row=per_row)

    def _attach(self) -> None:
        self._interfaces.attach(self.cm.get_admin_addr(), self.cm.get_query_addr(), self.cm.tokens.read())
