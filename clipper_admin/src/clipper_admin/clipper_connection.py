"""Owns the face of the later original: applications and models are registered apart, and linked."""

from __future__ import annotations

from .applications import Loss, Policy
from .cluster import Cluster


class ClipperConnection(Cluster):
    """A connection to a cluster, in the words of the later original Clipper.

    Example:
        ```python
        from clipper_admin import ClipperConnection, LocalContainerManager
        from clipper_admin.deployers.python import deploy_python_closure

        clipper_conn = ClipperConnection(LocalContainerManager())
        clipper_conn.start_clipper()
        clipper_conn.register_application("hello", "doubles", "-1.0", 100_000)
        deploy_python_closure(clipper_conn, "sum", 1, "doubles", lambda xs: [float(x.sum()) for x in xs])
        clipper_conn.link_model_to_app("hello", "sum")
        clipper_conn.predict("hello", [1.0, 2.0])["output"]  # 3.0
        ```
    """

    def register_application(
        self,
        name: str,
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
        """Creates an application: a REST endpoint that answers queries.

        Args:
            name: its name, which is part of its address.
            input_type: what one input is: "integers", "floats", "doubles", "bytes" or "strings".
            default_output: the answer where no model answers in time.
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
