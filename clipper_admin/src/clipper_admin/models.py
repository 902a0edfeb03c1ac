"""Owns what can be asked of a cluster's models: their versions, and how these are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from .connected import Connected, Version, given, listed, model_body
from .exceptions import ClipperException

Batching = Union[str, Mapping[str, Any]]


class Models(Connected):
    """The models of a cluster."""

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
            "labels": listed(labels or []),
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
            "labels": None if labels is None else listed(labels),
        }
        self._post("update_model", {**model_body(name, version), **given(changes)})

    def unregister_model(self, name: str, version: Version) -> None:
        """Removes a version of a model."""
        self._post("delete_versioned_model", {"model_name": name, "model_version": str(version)})

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
