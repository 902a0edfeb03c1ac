"""Owns what every resource of a cluster is asked through: where the cluster runs, and its two interfaces.

Invariant: what needs the cluster says so if it is not connected, and raises only `ClipperException`s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Union

from .interfaces import Interfaces
from .local_container_manager import LocalContainerManager
from .tokens import TokenSource

Version = Union[str, int]


class Unchanged(Enum):
    """What stands for a setting that is left as it is, where None is one of its values."""

    UNCHANGED = "unchanged"


UNCHANGED = Unchanged.UNCHANGED


class Connected:
    """What may be connected to a cluster.

    Attributes:
        cm: where the cluster runs.
    """

    def __init__(
        self,
        container_manager: LocalContainerManager,
        *,
        admin_token: str | None = None,
        admin_token_file: str | Path | None = None,
    ) -> None:
        """Takes where the cluster runs, or shall run. Nothing is started or connected.

        Args:
            container_manager: where the cluster runs.
            admin_token: the token that management asks for, in place of the container manager's.
            admin_token_file: the file that holds it.
        """
        self.cm = container_manager
        if admin_token is not None or admin_token_file is not None:
            self.cm.tokens = TokenSource(admin_token, admin_token_file)
        self._interfaces = Interfaces()

    def _post(self, call: str, body: Mapping[str, Any], work_seconds: float = 0.0) -> Any:
        return self._interfaces.order(call, body, work_seconds)


def model_body(name: str, version: Version | None) -> dict[str, Any]:
    """Returns how a version of a model is named in requests; the current one is not."""
    model: dict[str, Any] = {"model_name": name}
    if version is not None:
        model["model_version"] = str(version)
    return model


def given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what is None."""
    return {name: setting for name, setting in settings.items() if setting is not None}


def changed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out what is `UNCHANGED`, and leaves in what is None."""
    return {name: setting for name, setting in settings.items() if setting is not UNCHANGED}


def listed(texts: str | Iterable[str]) -> list[str]:
    """Takes one text for a list of it, not for its letters."""
    return [texts] if isinstance(texts, str) else list(texts)
