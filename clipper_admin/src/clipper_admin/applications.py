"""Owns what can be asked of a cluster's applications: settings, links, predictions, and what they learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union

from .connected import UNCHANGED, Connected, Unchanged, Version, changed, given
from .http_interface import DEFAULT_TIMEOUT_SECONDS

Policy = Union[str, Mapping[str, Any]]
Loss = Union[str, Mapping[str, Any]]


class Applications(Connected):
    """The applications of a cluster."""

    def update_application(
        self,
        name: str,
        *,
        default_output: str | None = None,
        slo_micros: int | None = None,
        cache: bool | None = None,
        max_concurrent_requests: int | Unchanged | None = UNCHANGED,
        on_overload: str | None = None,
        selection_policy: Policy | None = None,
        confidence_threshold: float | Unchanged | None = UNCHANGED,
        loss: Loss | None = None,
        output_kind: str | None = None,
        log_decisions: bool | None = None,
        selection_seed: int | None = None,
    ) -> None:
        """Changes an application while it answers. What is not given stays as it is; give one at least.

        Args:
            name: its name, which cannot be changed.
            default_output: the answer where no model answers in time.
            slo_micros: the time in which it answers, in microseconds.
            cache: whether an answer may come from the prediction cache.
            max_concurrent_requests: the most requests in progress at one frontend; None removes the bound.
            on_overload: what a query gets for which there is no room: "default" or "refuse".
            selection_policy: which models are asked; see `register_application`. Another policy begins to
                learn anew, other parameters of the same one do not.
            confidence_threshold: below it the default output is given; None: any confidence will do.
            loss: what an output costs, given the label.
            output_kind: "detected", "labels" or "numbers".
            log_decisions: whether decisions are logged.
            selection_seed: where all chance comes from.
        """
        changes = {
            "default_output": default_output,
            "latency_slo_micros": slo_micros,
            "cache": cache,
            "on_overload": on_overload,
            "selection_policy": selection_policy,
            "loss": loss,
            "output_kind": output_kind,
            "log_decisions": log_decisions,
            "selection_seed": selection_seed,
        }
        or_null = {
            "max_concurrent_requests": max_concurrent_requests,
            "confidence_threshold": confidence_threshold,
        }
        self._post("update_app", {"name": name, **given(changes), **changed(or_null)})

    def unregister_application(self, name: str) -> None:
        """Removes an application. It answers no more."""
        self._post("delete_app", {"name": name})

    def link_model_to_app(self, app_name: str, model_name: str) -> None:
        """Lets a model's current version answer an application's queries. Their input types must agree.

        An application whose policy selects among models may be linked to several, any other to one.
        """
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

    def get_selection_state(self, app_name: str, uid: int | str | None = None) -> dict[str, Any]:
        """Returns what is learned of an application's models.

        Args:
            app_name: the application.
            uid: for whom; unless given, what is learned from all users.

        Returns:
            `policy`, and in `state` (empty where the policy learns nothing) whose it is, `notes` on it, and
            for each of `models` how much feedback there was, its mean reward and its weight.
        """
        return dict(self._post("get_state", given({"app_name": app_name, "uid": uid})))

    def explain(self, app_name: str, query_id: int) -> dict[str, Any]:
        """Returns how the answer to a query came about; takes up to some seconds.

        Args:
            app_name: the application.
            query_id: the `query_id` of the answer.

        Raises:
            RefusedException: nothing is known of that query any more: decisions are kept for a bounded time.
        """
        return dict(self._interfaces.admin.get(f"/{app_name}/explain/{query_id}"))

    def predict(
        self,
        app_name: str,
        input: Any,  # noqa: A002
        *,
        uid: int | str | None = None,
        context: Iterable[float] | None = None,
        version: Version | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """Asks an application for one prediction.

        Args:
            app_name: the application.
            input: a list or an array of numbers, a text, or a byte string. In doubles and floats, None, NaN
                and masked elements reach the model as NaN.
            uid: whose query this is: what is learned of this user, where there is any, chooses the models.
            context: features of the query, for a policy that chooses by them.
            version: the version of the linked model to ask, instead of the current one.
            timeout_seconds: how long to wait for the answer; more than the application's own objective.

        Returns:
            The answer: `output`, and in `default` whether it is only the default one (then also why). Keep
            its `query_id` for `feedback`. A policy that selects adds `confidence` and `models`.
        """
        return dict(self._predict(app_name, {"input": input}, uid, context, version, timeout_seconds))

    def predict_batch(
        self,
        app_name: str,
        inputs: Iterable[Any],
        *,
        uid: int | str | None = None,
        context: Iterable[float] | None = None,
        version: Version | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> list[dict[str, Any]]:
        """Asks an application for several predictions in one request; see `predict`.

        The inputs are a list of them, the rows of an array, or those of a pandas `DataFrame`.
        """
        rows = inputs.to_numpy() if hasattr(inputs, "to_numpy") else inputs
        answer = self._predict(app_name, {"input_batch": list(rows)}, uid, context, version, timeout_seconds)
        return list(answer["batch_predictions"])

    def feedback(
        self,
        app_name: str,
        *,
        query_id: int | None = None,
        label: Any = None,
        reward: float | None = None,
        uid: int | str | None = None,
        input: Any = None,  # noqa: A002
        context: Iterable[float] | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> dict[str, Any]:
        """Says how good an answer was, or what is right for an input, for the policy to learn from.

        Args:
            app_name: the application.
            query_id: the `query_id` of the answer; with a `label` or a `reward`.
            label: what would have been right.
            reward: how good the answer was, of 0 to 1.
            uid: the user, with `input`; that of an answer is known.
            input: in the place of `query_id`: every linked model is asked for its output of this input, and
                judged by `label`.
            context: features of the input, for a policy that chooses by them.
            timeout_seconds: how long to wait for the answer.

        Returns:
            In `status` what was done with it: "applied", "duplicate", "forwarded", "nothing_learned" or
            "no_policy"; in `explanation` the same in words.

        Raises:
            RefusedException: it does not fit, or nothing is known of that query any more.
        """
        said = {"query_id": query_id, "label": label, "reward": reward, "uid": uid, "input": input}
        if context is not None:
            said["context"] = list(context)
        return dict(self._interfaces.query.post(f"/{app_name}/feedback", given(said), timeout_seconds))

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
        **selection: Any,
    ) -> None:
        application: dict[str, Any] = {
            "name": name,
            "input_type": input_type,
            "default_output": default_output,
            "latency_slo_micros": slo_micros,
            "cache": cache,
            "max_concurrent_requests": max_concurrent_requests,
            "on_overload": on_overload,
            **given(selection),
        }
        if linked_models:
            application["linked_models"] = list(linked_models)
        self._post("add_app", application)

    def _predict(
        self,
        app_name: str,
        query: dict[str, Any],
        uid: int | str | None,
        context: Iterable[float] | None,
        version: Version | None,
        timeout_seconds: float,
    ) -> Any:
        if uid is not None:
            query["uid"] = uid
        if context is not None:
            query["context"] = list(context)
        if version is not None:
            query["version"] = str(version)
        return self._interfaces.query.post(f"/{app_name}/predict", query, timeout_seconds)
