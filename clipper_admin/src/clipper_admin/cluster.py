"""Owns what can be asked of a cluster, whichever of the two faces (`ClipperConnection`, `Clipper`) asks.

Invariant: every method that needs the cluster says so if it is not connected, and raises only
    `ClipperException`s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Callable, Union

from .artifact import archive
from .exceptions import ClipperException
from .function_check import answers
from .http_interface import DEFAULT_TIMEOUT_SECONDS
from .interfaces import Interfaces
from .local_container_manager import LocalContainerManager

Version = Union[str, int]
Batching = Union[str, Mapping[str, Any]]


class Unchanged(Enum):
    """What stands for a setting that is left as it is, where None is one of its values."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED

_LOG_LINES = 10_000
_UPLOAD_TIMEOUT_SECONDS = 600.0


class Cluster:
    """A Clipper cluster: its applications, its models, and the processes that serve them.

    Attributes:
        cm: where the cluster runs.
    """

    def __init__(self, container_manager: LocalContainerManager) -> None:
        """Takes where the cluster runs, or shall run. Nothing is started or connected."""
        self.cm = container_manager
        self._interfaces = Interfaces()

    # The cluster itself

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
        own_log = self.cm.log_file()
        if own_log:
            texts[own_log.stem] = own_log.read_text(encoding="utf-8", errors="replace")
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

    # Applications

    def update_application(
        self,
        name: str,
        *,
        default_output: str | None = None,
        slo_micros: int | None = None,
        cache: bool | None = None,
        max_concurrent_requests: int | Unchanged | None = UNCHANGED,
        on_overload: str | None = None,
    ) -> None:
        """Changes an application while it answers. What is not given stays as it is; give one at least.

        Args:
            name: its name, which cannot be changed.
            default_output: the answer where no model answers in time.
            slo_micros: the time in which it answers, in microseconds.
            cache: whether an answer may come from the prediction cache.
            max_concurrent_requests: the most requests in progress at one frontend; None removes the bound.
            on_overload: what a query gets for which there is no room: "default" or "refuse".
        """
        changes = {
            "default_output": default_output,
            "latency_slo_micros": slo_micros,
            "cache": cache,
            "on_overload": on_overload,
        }
        update: dict[str, Any] = {"name": name, **_given(changes)}
        if max_concurrent_requests is not UNCHANGED:
            update["max_concurrent_requests"] = max_concurrent_requests
        self._post("update_app", update)

    def unregister_application(self, name: str) -> None:
        """Removes an application. It answers no more."""
        self._post("delete_app", {"name": name})

    def link_model_to_app(self, app_name: str, model_name: str) -> None:
        """Lets a model's current version answer an application's queries. Their input types must agree."""
        self._post("add_model_links", {"app_name": app_name, "model_names": [model_name]})

    def unlink_model_from_app(self, app_name: str, model_name: str) -> None:
        """Lets a model answer an application's queries no more."""
        self._post("delete_model_links", {"app_name": app_name, "model_names": [model_name]})

    def get_all_apps(self, verbose: bool = False) -> list[Any]:
        """Returns the names of the applications, or a dictionary for each if `verbose`."""
        return list(self._post("get_all_applications", {"verbose": verbose}))

    def get_app_info(self, name: str) -> dict[str, Any] | None:
        """Returns an application's description, or None if there is none of that name."""
        return self._post("get_application", {"name": name}) or None

    def get_linked_models(self, app_name: str) -> list[str]:
        """Returns the names of the models that are linked to an application."""
        return list(self._post("get_linked_models", {"app_name": app_name}))

    def predict(
        self,
        app_name: str,
        input: Any,  # noqa: A002
        *,
        uid: int | str | None = None,
        version: Version | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """Asks an application for one prediction.

        Args:
            app_name: the application.
            input: a list or an array of numbers, a text, or a byte string.
            uid: whose query this is.
            version: the version of the linked model to ask, instead of the current one.
            timeout_seconds: how long to wait for the answer; more than the application's own objective.

        Returns:
            The answer: `output`, and in `default` whether it is only the default one (then also why).
        """
        return dict(self._predict(app_name, {"input": input}, uid, version, timeout_seconds))

    def predict_batch(
        self,
        app_name: str,
        inputs: Iterable[Any],
        *,
        uid: int | str | None = None,
        version: Version | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> list[dict[str, Any]]:
        """Asks an application for several predictions in one request; see `predict`."""
        answer = self._predict(app_name, {"input_batch": list(inputs)}, uid, version, timeout_seconds)
        return list(answer["batch_predictions"])

    # Models

    def register_model(
        self,
        name: str,
        version: Version,
        input_type: str,
        image: str | None = None,
        labels: Sequence[str] | None = None,
        batch_size: int = -1,
        *,
        batching: Batching | None = None,
        cache: bool = True,
    ) -> None:
        """Registers a version of a model, which becomes its current one, without starting anything.

        This is for containers that are started by other means. To have the cluster run a model, use
        `deploy_model`.

        Args:
            name: the model's name.
            version: unique among the model's versions.
            input_type: "integers", "floats", "doubles", "bytes" or "strings".
            image: what the container is made of, as a note for readers.
            labels: notes for readers.
            batch_size: the most inputs that a container is given at once; -1: no bound, the size adapts.
            batching: how batches are sized: the name of a strategy ("adaptive", which is the default,
                "aimd", "quantile" or "fixed"), or `{"strategy": "aimd", "wait_micros": 2000}`, of which
                either can be left out. `wait_micros` is how long a batch that could be larger waits for
                more inputs, in microseconds, at most 60 s. "fixed" batches hold `batch_size` inputs.
            cache: whether outputs may be kept in the prediction cache.
        """
        model = {
            "model_name": name,
            "model_version": str(version),
            "input_type": input_type,
            "labels": _listed(labels or []),
            "batch_size": batch_size,
            "batching": batching,
            "cache": cache,
        }
        if image is not None:
            model["container_name"] = image
        self._post("add_model", model)

    def update_model(
        self,
        name: str,
        version: Version,
        *,
        batching: Batching | None = None,
        batch_size: int | None = None,
        cache: bool | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Changes a version of a model while it serves. What is not given stays as it is; give one at least.

        Args:
            name: the model's name.
            version: one of its versions, current or not.
            batching: how batches are sized, in place of all that was said before; see `register_model`.
            batch_size: the most inputs in one batch; -1: no bound, the size adapts.
            cache: whether outputs may be kept in the prediction cache.
            labels: notes for readers, in place of those before.
        """
        changes = {
            "batching": batching,
            "batch_size": batch_size,
            "cache": cache,
            "labels": None if labels is None else _listed(labels),
        }
        self._post("update_model", {**_model(name, version), **_given(changes)})

    def unregister_model(self, name: str, version: Version) -> None:
        """Removes a version of a model."""
        self._post("delete_versioned_model", {"model_name": name, "model_version": str(version)})

    def deploy_model(
        self,
        name: str,
        version: Version,
        input_type: str,
        model_data_path: str | Path | None = None,
        container_kind: str | None = None,
        labels: Sequence[str] | None = None,
        num_replicas: int = 1,
        batch_size: int = -1,
        *,
        command: str | Sequence[str] | None = None,
        upload: bool = True,
        environment: Mapping[str, str] | None = None,
        python: str | None = None,
        timeout_seconds: int = 60,
        batching: Batching | None = None,
        cache: bool = True,
    ) -> None:
        """Has the cluster run a version of a model, which becomes current when all its replicas are ready.

        A deployment that fails leaves nothing behind, and the version that was current goes on serving.

        Args:
            name: the model's name.
            version: unique among the model's versions.
            input_type: "integers", "floats", "doubles", "bytes" or "strings".
            model_data_path: the folder of the model's files, which the container finds in
                `CLIPPER_MODEL_PATH`.
            container_kind: the ready-made container that serves it: "python-closure", "noop" or "sum".
            labels: notes for readers.
            num_replicas: how many processes serve it.
            batch_size: the most inputs that a replica is given at once; -1: no bound, the size adapts.
            command: the program that serves it, or a list of the program and its arguments, instead of a
                container kind.
            upload: send the files to the cluster. Without it `model_data_path` is a path on the cluster's
                host, and is used in place.
            environment: further variables for the processes.
            python: the interpreter of a container kind; the container manager's unless given.
            timeout_seconds: how long it may take until every replica is ready.
            batching: how batches are sized; see `register_model`.
            cache: whether outputs may be kept in the prediction cache.

        Raises:
            ClipperException: neither or both of `container_kind` and `command` were given, or `python` with
                a command.
            RefusedException: the replicas did not become ready; the message shows what they printed.
        """
        if (container_kind is None) == (command is None):
            raise ClipperException("say how to run the model: give either container_kind or command")
        if command is not None and python is not None:
            raise ClipperException("python is the interpreter of a container kind; a command names its own")
        deployment: dict[str, Any] = {
            "model_name": name,
            "model_version": str(version),
            "input_type": input_type,
            "labels": _listed(labels or []),
            "num_replicas": num_replicas,
            "batch_size": batch_size,
            "batching": batching,
            "cache": cache,
            "environment": dict(environment or {}),
            "timeout_seconds": timeout_seconds,
        }
        if command is not None:
            deployment["command"] = _listed(command)
        else:
            deployment["container_kind"] = container_kind
            python = python or self.cm.python
            if python:
                deployment["python"] = python
        if model_data_path is not None and upload:
            deployment["artifact"] = self._upload(Path(model_data_path))
        elif model_data_path is not None:
            deployment["model_data_path"] = str(model_data_path)
        self._post("deploy_model", deployment, timeout_seconds)

    def set_model_version(self, name: str, version: Version, num_replicas: int | None = None) -> None:
        """Makes another version of a model the current one: forward, or back.

        Args:
            name: the model's name.
            version: one of its versions.
            num_replicas: how many processes shall serve that version, if not as many as now. They are
                ready before it becomes current.
        """
        if num_replicas is not None:
            self.set_num_replicas(name, num_replicas, version)
        self._post("set_model_version", {"model_name": name, "model_version": str(version)})

    def get_current_model_version(self, name: str) -> str:
        """Returns the current version of a model.

        Raises:
            ClipperException: there is no model of that name, or its current version was removed.
        """
        versions = [model for model in self.get_all_models(verbose=True) if model["model_name"] == name]
        for version in versions:
            if version["is_current_version"]:
                return str(version["model_version"])
        if versions:
            raise ClipperException(
                f"model with name '{name}' has no current version: set_model_version() makes one current"
            )
        raise ClipperException(f"no model with name '{name}' is registered")

    def get_all_models(self, verbose: bool = False) -> list[Any]:
        """Returns `name:version` of all models, or a dictionary for each if `verbose`."""
        return list(self._post("get_all_models", {"verbose": verbose}))

    def get_model_info(self, name: str, version: Version) -> dict[str, Any] | None:
        """Returns the description of a version of a model, or None if there is none."""
        return self._post("get_model", {"model_name": name, "model_version": str(version)}) or None

    # Replicas

    def set_num_replicas(
        self,
        name: str,
        num_replicas: int,
        version: Version | None = None,
        timeout_seconds: int = 60,
    ) -> None:
        """Sets how many processes serve a model that the cluster runs, and waits until they are ready.

        Args:
            name: the model's name.
            num_replicas: how many there shall be.
            version: the version; the current one unless given.
            timeout_seconds: how long it may take until every replica is ready.
        """
        wanted = {**_model(name, version), "num_replicas": num_replicas, "timeout_seconds": timeout_seconds}
        self._post("set_num_replicas", wanted, timeout_seconds)

    def get_num_replicas(self, name: str, version: Version | None = None) -> int:
        """Returns how many replicas of a version (the current one unless given) are connected."""
        version = self.get_current_model_version(name) if version is None else str(version)
        replicas = self.get_all_model_replicas(verbose=True)
        return sum(r["model_name"] == name and r["model_version"] == version for r in replicas)

    def get_all_model_replicas(self, verbose: bool = False) -> list[Any]:
        """Returns `name:version:replica` of all that are connected, or a dictionary for each if `verbose`."""
        return list(self._post("get_all_containers", {"verbose": verbose}))

    def get_model_replica_info(self, name: str, version: Version, replica_id: int) -> dict[str, Any] | None:
        """Returns the description of a connected replica, or None if there is none."""
        return self._post("get_container", {**_model(name, version), "replica_id": replica_id}) or None

    def get_deployments(self) -> list[dict[str, Any]]:
        """Returns the models that the cluster runs, with the state of each replica."""
        return list(self._post("get_deployments", {}))

    def get_replica_logs(
        self,
        name: str,
        version: Version | None = None,
        replica_id: int | None = None,
        lines: int = 100,
    ) -> dict[str, list[str]]:
        """Returns what the replicas of a model have printed last.

        Args:
            name: the model's name.
            version: the version; the current one unless given.
            replica_id: the replica; all unless given.
            lines: how many lines of each.

        Returns:
            The lines, oldest first, under `name:version:replica`.
        """
        wanted = {**_model(name, version), "lines": lines}
        if replica_id is not None:
            wanted["replica_id"] = replica_id
        return dict(self._post("get_replica_logs", wanted))

    def stop_models(self, model_names: str | Iterable[str]) -> None:
        """Stops the processes of all versions of these models. `set_num_replicas` starts them again."""
        self._post("stop_models", {"model_names": _listed(model_names)})

    def stop_versioned_models(self, model_versions_dict: Mapping[str, Version | Iterable[Version]]) -> None:
        """Stops the processes of these versions, given as `{"model": ["1", "2"]}`; see `stop_models`."""
        versions = {
            name: [str(version)] if isinstance(version, (str, int)) else [str(each) for each in version]
            for name, version in model_versions_dict.items()
        }
        self._post("stop_versioned_models", {"model_versions": versions})

    def stop_inactive_model_versions(self, model_names: str | Iterable[str]) -> None:
        """Stops the processes of all versions of these models but the current ones."""
        self._post("stop_inactive_model_versions", {"model_names": _listed(model_names)})

    def stop_all_model_containers(self) -> None:
        """Stops the processes of all models that the cluster runs."""
        self._post("stop_all_models", {})

    # Functions

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

    def _add_application(
        self,
        name: str,
        input_type: str,
        default_output: str,
        slo_micros: int,
        linked_models: Sequence[str] = (),
        *,
        cache: bool,
        max_concurrent_requests: int | None,
        on_overload: str,
    ) -> None:
        application: dict[str, Any] = {
            "name": name,
            "input_type": input_type,
            "default_output": default_output,
            "latency_slo_micros": slo_micros,
            "cache": cache,
            "max_concurrent_requests": max_concurrent_requests,
            "on_overload": on_overload,
        }
        if linked_models:
            application["linked_models"] = list(linked_models)
        self._post("add_app", application)

    def _attach(self) -> None:
        self._interfaces.attach(self.cm.get_admin_addr(), self.cm.get_query_addr())

    def _post(self, call: str, body: Mapping[str, Any], work_seconds: float = 0.0) -> Any:
        return self._interfaces.order(call, body, work_seconds)

    def _upload(self, folder: Path) -> str:
        admin = self._interfaces.admin
        with archive(folder) as file:
            return str(admin.upload("/admin/add_artifact", file, _UPLOAD_TIMEOUT_SECONDS)["artifact"])

    def _predict(
        self,
        app_name: str,
        query: dict[str, Any],
        uid: int | str | None,
        version: Version | None,
        timeout_seconds: float,
    ) -> Any:
        if uid is not None:
            query["uid"] = uid
        if version is not None:
            query["version"] = str(version)
        return self._interfaces.query.post(f"/{app_name}/predict", query, timeout_seconds)


def _model(name: str, version: Version | None) -> dict[str, Any]:
    model: dict[str, Any] = {"model_name": name}
    if version is not None:
        model["model_version"] = str(version)
    return model


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: setting for name, setting in settings.items() if setting is not None}


def _listed(texts: str | Iterable[str]) -> list[str]:
    """Takes one text for a list of it, not for its letters."""
    return [texts] if isinstance(texts, str) else list(texts)
