"""Owns the face of the early original: an application names its model when it is registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable

from .applications import Loss, Policy
from .cluster import Cluster
from .connected import Version, listed
from .deployers.python import deploy_python_closure
from .local_container_manager import LocalContainerManager
from .models import Batching


class Clipper(Cluster):
    """A cluster, in the words of the early original Clipper.

    Example:
        ```python
        from clipper_admin import Clipper

        clipper = Clipper("localhost")
        clipper.start()
        clipper.register_application("hello", "sum", "doubles", "-1.0", 100_000)
        clipper.deploy_predict_function("sum", 1, lambda xs: [float(x.sum()) for x in xs], "doubles")
        clipper.predict("hello", [1.0, 2.0])["output"]  # 3.0
        ```
    """

    def __init__(
        self,
        host: str = "localhost",
        *,
        data_dir: str | Path | None = None,
        query_port: int | None = None,
        management_port: int | None = None,
        rpc_port: int = 7000,
        admin_token: str | None = None,
        admin_token_file: str | Path | None = None,
        container_manager: LocalContainerManager | None = None,
    ) -> None:
        """Describes a cluster. Nothing is started or connected.

        Args:
            host: where it runs, or shall run.
            data_dir: where it keeps its data; `~/.clipper` unless given.
            query_port: where predictions are asked for; 1337 unless given, 0 picks a free port.
            management_port: where it is administered; 1338 unless given, 0 picks a free port.
            rpc_port: where model containers connect to; 0 picks a free port.
            admin_token: the token that management asks for, or shall ask for; see `LocalContainerManager`.
            admin_token_file: the file that holds it.
            container_manager: takes the place of the arguments before the token, and has more of them.
        """
        super().__init__(
            container_manager
            or LocalContainerManager(
                data_dir=data_dir,
                query_port=query_port,
                management_port=management_port,
                rpc_port=rpc_port,
                host=host,
            ),
            admin_token=admin_token,
            admin_token_file=admin_token_file,
        )

    def start(self) -> None:
        """Starts the cluster and connects to it; see `start_clipper`."""
        self.start_clipper()

    def stop(self) -> None:
        """Stops the cluster; see `stop_all`."""
        self.stop_all()

    def register_application(
        self,
        name: str,
        model: str | Sequence[str],
        input_type: str,
        default_output: str,
        slo_micros: int,
        *,
        cache: bool = True,
        max_concurrent_requests: int | None = None,
        on_overload: str = "default",
        selection_policy: Policy | None = None,
        confidence_threshold: float | None = None,
        loss: Loss | None = None,
        output_kind: str | None = None,
        log_decisions: bool | None = None,
        selection_seed: int | None = None,
    ) -> None:
        """Creates an application: a REST endpoint that a model answers, or several.

        Args:
            name: its name, which is part of its address.
            model: the model's name, or several names where `selection_policy` selects among them. They may be
                deployed later.
            input_type: what one input is: "integers", "floats", "doubles", "bytes" or "strings".
            default_output: the answer where the model does not answer in time.
            slo_micros: the time in which it answers, in microseconds; 100000 is a good start.
            cache: whether an answer may come from the prediction cache.
            max_concurrent_requests: the most requests in progress at one frontend; None sets no bound.
            on_overload: what a query gets for which there is no room: "default", the default output at
                once, or "refuse", a refusal (status 429 or 503).
            selection_policy: which models are asked, and what is learned from feedback: the name of a policy,
                or an object with its parameters, such as `{"policy": "exp4", "eta": 0.2}`. Unless given, the
                one linked model answers.
            confidence_threshold: below it, of 0 to 1, the default output is given; None: any will do.
            loss: what an output costs, given the label: "zero_one", which is the default, or an object such
                as `{"loss": "absolute", "scale": 10}`.
            output_kind: "labels", which vote, "numbers", which average, or "detected", which is the default.
            log_decisions: whether each decision and each feedback is written to the decision log.
            selection_seed: where all chance comes from, below 2**53; a random one unless given.
        """
        self._add_application(
            name,
            input_type,
            default_output,
            slo_micros,
            listed(model),
            cache=cache,
            max_concurrent_requests=max_concurrent_requests,
            on_overload=on_overload,
            selection_policy=selection_policy,
            confidence_threshold=confidence_threshold,
            loss=loss,
            output_kind=output_kind,
            log_decisions=log_decisions,
            selection_seed=selection_seed,
        )

    def deploy_predict_function(
        self,
        name: str,
        version: Version,
        predict_function: Callable[..., Any],
        input_type: str,
        labels: Sequence[str] | None = None,
        num_containers: int = 1,
        *,
        per_row: bool = False,
        sample_inputs: Sequence[Any] | None = None,
        check: bool = True,
        batch_size: int = -1,
        batching: Batching | None = None,
        cache: bool = True,
    ) -> None:
        """Deploys a function as a version of a model, which becomes the current one.

        Args:
            name: the model's name.
            version: unique among the model's versions.
            predict_function: see `clipper_admin.deployers.python.deploy_python_closure`.
            input_type: what one input is: "integers", "floats", "doubles", "bytes" or "strings".
            labels: notes for readers.
            num_containers: how many processes serve it.
            per_row: the function takes one input, not a batch.
            sample_inputs: inputs that the function must be able to answer.
            check: try the function before it is deployed.
            batch_size: the most inputs that a replica is given at once; -1: no bound, the size adapts.
            batching: how batches are sized; see `register_model`.
            cache: whether outputs may be kept in the prediction cache.
        """
        deploy_python_closure(
            self,
            name,
            version,
            input_type,
            predict_function,
            labels=labels,
            num_replicas=num_containers,
            per_row=per_row,
            sample_inputs=sample_inputs,
            check=check,
            batch_size=batch_size,
            batching=batching,
            cache=cache,
        )
