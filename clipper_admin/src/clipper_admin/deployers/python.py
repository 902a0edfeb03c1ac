"""Owns the way of a Python function into a cluster: checked, pickled, uploaded, served.

Invariant: what cannot be served is refused before the cluster hears of it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable

from ..exceptions import ClipperException
from ..function_check import check_function, saved_function
from ..tokens import without_tokens

if TYPE_CHECKING:
    from ..clipper_connection import ClipperConnection
    from ..cluster import Cluster
    from ..connected import Version
    from ..models import Batching


def deploy_python_closure(
    clipper_conn: Cluster,
    name: str,
    version: Version,
    input_type: str,
    func: Callable[..., Any],
    labels: Sequence[str] | None = None,
    num_replicas: int = 1,
    batch_size: int = -1,
    pkgs_to_install: Sequence[str] | None = None,
    *,
    per_row: bool = False,
    sample_inputs: Sequence[Any] | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    python: str | None = None,
    timeout_seconds: int = 60,
    batching: Batching | None = None,
    cache: bool = True,
) -> None:
    """Deploys a function as a version of a model, which becomes the current one when it is ready.

    The function takes a batch and returns one output per input. A batch is a numpy array of shape (inputs,
    length) for "integers", "floats" and "doubles", and a list of str or bytes otherwise. What the function
    refers to is pickled with it: variables, and modules that are not installed.

    Before anything is sent, the function is pickled, loaded again, and tried on a batch of two inputs and on
    one of one input. Give `sample_inputs` to have it tried on inputs of yours: then it must answer them.
    Without them inputs are made up, and a function that raises is refused only if it raises the same
    exception whatever they are; if the exception depends on the input, the function may well be right, and
    there is a warning instead.

    Args:
        clipper_conn: the cluster.
        name: the model's name.
        version: unique among the model's versions.
        input_type: what one input is: "integers", "floats", "doubles", "bytes" or "strings".
        func: the function. A class or an object with a method `predict(batch)` does, too.
        labels: notes for readers.
        num_replicas: how many processes serve it.
        batch_size: the most inputs that a replica is given at once; -1: no bound, the size adapts.
        pkgs_to_install: what to install first, with pip, into the Python environment that serves the
            function. On this host that is the environment of this program, unless `python` names another.
        per_row: the function takes one input and returns its output; an exception costs only that input.
        sample_inputs: inputs that the function must be able to answer.
        check: try the function before it is deployed.
        environment: further variables for the processes.
        python: the interpreter that serves it; the container manager's unless given. It must be of the same
            minor version as the running one, and have `clipper_container` and what the function imports.
        timeout_seconds: how long it may take until every replica is ready.
        batching: how batches are sized; see `Cluster.register_model`.
        cache: whether outputs may be kept in the prediction cache.

    Raises:
        FunctionException: the function cannot be pickled, raised, or returned the wrong number of outputs.
        RefusedException: the cluster refused, or the replicas did not become ready.
    """
    if pkgs_to_install:
        _install(pkgs_to_install, python or clipper_conn.cm.python)
    with saved_function(func, per_row) as folder:
        if check:
            check_function(folder, input_type, sample_inputs)
        clipper_conn.deploy_model(
            name,
            version,
            input_type,
            model_data_path=folder,
            container_kind="python-closure",
            labels=labels,
            num_replicas=num_replicas,
            batch_size=batch_size,
            environment=environment,
            python=python,
            timeout_seconds=timeout_seconds,
            batching=batching,
            cache=cache,
        )


def create_endpoint(
    clipper_conn: ClipperConnection,
    name: str,
    input_type: str,
    func: Callable[..., Any],
    default_output: str = "None",
    version: Version = 1,
    slo_micros: int = 3_000_000,
    labels: Sequence[str] | None = None,
    num_replicas: int = 1,
    batch_size: int = -1,
    pkgs_to_install: Sequence[str] | None = None,
    *,
    cache: bool = True,
    max_concurrent_requests: int | None = None,
    on_overload: str = "default",
    **options: Any,
) -> None:
    """Creates an application and a model of the same name, and links them.

    If the function cannot be deployed, the application is removed again.

    Args:
        clipper_conn: the cluster.
        name: the name of both.
        input_type: what one input is: "integers", "floats", "doubles", "bytes" or "strings".
        func: the function; see `deploy_python_closure`.
        default_output: the answer where the model does not answer in time.
        version: the model's version.
        slo_micros: the time in which the application answers, in microseconds.
        labels: notes for readers.
        num_replicas: how many processes serve the function.
        batch_size: the most inputs that a replica is given at once; -1: no bound, the size adapts.
        pkgs_to_install: what to install first, with pip; see `deploy_python_closure`.
        cache: whether answers may come from the prediction cache.
        max_concurrent_requests: the most requests of the application in progress at one frontend; None sets
            no bound.
        on_overload: what a query gets for which there is no room: "default", the default output at once, or
            "refuse", a refusal (status 429 or 503).
        **options: further arguments of `deploy_python_closure`.

    Raises:
        FunctionException: the function cannot be pickled, raised, or returned the wrong number of outputs.
        RefusedException: the cluster refused, or the replicas did not become ready.
    """
    clipper_conn.register_application(
        name,
        input_type,
        default_output,
        slo_micros,
        cache=cache,
        max_concurrent_requests=max_concurrent_requests,
        on_overload=on_overload,
    )
    try:
        deploy_python_closure(
            clipper_conn,
            name,
            version,
            input_type,
            func,
            labels,
            num_replicas,
            batch_size,
            pkgs_to_install,
            cache=cache,
            **options,
        )
        clipper_conn.link_model_to_app(name, name)
    except BaseException:
        clipper_conn.unregister_application(name)
        raise


def _install(packages: Sequence[str], python: str | None) -> None:
    if python is None:
        raise ClipperException(
            "pkgs_to_install needs an interpreter of this host: install the packages where the cluster runs"
        )
    pip = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *packages],
        capture_output=True,
        text=True,
        check=False,
        # The set-up of a package is anybody's program.
        env=without_tokens(os.environ),
    )
    if pip.returncode:
        raise ClipperException(f"pip could not install {', '.join(packages)}:\n{pip.stderr.strip()}")
    importlib.invalidate_caches()
