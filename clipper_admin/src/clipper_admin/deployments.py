"""Owns what can be asked of the processes by which a cluster serves its models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .artifact import archive
from .connected import Version, listed, model_body
from .exceptions import ClipperException
from .models import Batching, Models

_UPLOAD_TIMEOUT_SECONDS = 600.0
_LONGEST_TIMEOUT_SECONDS = 24 * 60 * 60


class Deployments(Models):
    """The models that a cluster runs, and their replicas."""

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
            timeout_seconds: how long each replica may load its model, now and at every later start, and
                how long to wait until all are ready: at most a day.
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
            "labels": listed(labels or []),
            "num_replicas": num_replicas,
            "batch_size": batch_size,
            "batching": batching,
            "cache": cache,
            "environment": dict(environment or {}),
            "timeout_seconds": timeout_seconds,
        }
        if command is not None:
            deployment["command"] = listed(command)
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

    def set_num_replicas(
        self,
        name: str,
        num_replicas: int,
        version: Version | None = None,
        timeout_seconds: int | None = None,
    ) -> None:
        """Sets how many processes serve a model that the cluster runs, and waits until they are ready.

        Args:
            name: the model's name.
            num_replicas: how many there shall be.
            version: the version; the current one unless given.
            timeout_seconds: how long to wait until every replica is ready; that of the deployment unless
                given.
        """
        wanted: dict[str, object] = {**model_body(name, version), "num_replicas": num_replicas}
        if timeout_seconds is not None:
            wanted["timeout_seconds"] = timeout_seconds
        self._post("set_num_replicas", wanted, timeout_seconds or _LONGEST_TIMEOUT_SECONDS)

    def get_num_replicas(self, name: str, version: Version | None = None) -> int:
        """Returns how many replicas of a version (the current one unless given) are connected."""
        version = self.get_current_model_version(name) if version is None else str(version)
        replicas = self.get_all_model_replicas(verbose=True)
        return sum(r["model_name"] == name and r["model_version"] == version for r in replicas)

    def get_all_model_replicas(self, verbose: bool = False) -> list[Any]:
        """Returns `name:version:replica` of all that are connected, or a dictionary for each if `verbose`."""
        return list(self._post("get_all_containers", {"verbose": verbose}))

    def get_frontends(self, verbose: bool = False) -> list[Any]:
        """Returns the query address of each frontend that follows, or a dictionary for each if `verbose`."""
        return list(self._post("get_frontends", {"verbose": verbose}))

    def get_model_replica_info(self, name: str, version: Version, replica_id: int) -> dict[str, Any] | None:
        """Returns the description of a connected replica, or None if there is none."""
        return self._post("get_container", {**model_body(name, version), "replica_id": replica_id}) or None

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
        wanted = {**model_body(name, version), "lines": lines}
        if replica_id is not None:
            wanted["replica_id"] = replica_id
        return dict(self._post("get_replica_logs", wanted))

    def stop_models(self, model_names: str | Iterable[str]) -> None:
        """Stops the processes of all versions of these models. `set_num_replicas` starts them again."""
        self._post("stop_models", {"model_names": listed(model_names)})

    def stop_versioned_models(self, model_versions_dict: Mapping[str, Version | Iterable[Version]]) -> None:
        """Stops the processes of these versions, given as `{"model": ["1", "2"]}`; see `stop_models`."""
        versions = {
            name: [str(version)] if isinstance(version, (str, int)) else [str(each) for each in version]
            for name, version in model_versions_dict.items()
        }
        self._post("stop_versioned_models", {"model_versions": versions})

    def stop_inactive_model_versions(self, model_names: str | Iterable[str]) -> None:
        """Stops the processes of all versions of these models but the current ones."""
        self._post("stop_inactive_model_versions", {"model_names": listed(model_names)})

    def stop_all_model_containers(self) -> None:
        """Stops the processes of all models that the cluster runs."""
        self._post("stop_all_models", {})

    def _upload(self, folder: Path) -> str:
        admin = self._interfaces.admin
        with archive(folder) as file:
            return str(admin.upload("/admin/add_artifact", file, _UPLOAD_TIMEOUT_SECONDS)["artifact"])
