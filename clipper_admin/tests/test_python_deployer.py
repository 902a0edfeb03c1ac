"""What becomes of a function on its way into a cluster, and what is caught before it gets there."""

import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from fake_cluster import FakeCluster

from clipper_admin import Clipper, ClipperConnection, ClipperException, FunctionException
from clipper_admin import LocalContainerManager as Manager
from clipper_admin.deployers.python import create_endpoint, deploy_python_closure

Function = Callable[..., Any]


def feature_sum(xs: Any) -> list[str]:
    return [str(np.sum(x)) for x in xs]


def sum_of_one(x: Any) -> str:
    return str(np.sum(x))


def always_raises(xs: Any) -> list[str]:
    raise ZeroDivisionError(f"never mind what {type(xs).__name__}")


class ModelOfFourFeatures:
    """Refuses other inputs as scikit-learn's models do: naming the number that it was given."""

    def predict(self, xs: Any) -> Any:
        if xs.shape[1] != 4:
            raise ValueError(f"X has {xs.shape[1]} features, but 4 are expected")
        return xs.sum(axis=1)


@pytest.fixture
def deploy(fake: FakeCluster, connection: ClipperConnection) -> Function:
    fake.answer("/admin/add_artifact", {"artifact": "abc"})

    def deploy(function: Function, input_type: str = "doubles", **options: Any) -> dict[str, Any]:
        deploy_python_closure(connection, "model", 1, input_type, function, **options)
        return dict(fake.asked("/admin/deploy_model")[-1])

    return deploy


def test_a_good_function_is_uploaded_and_deployed(deploy: Function) -> None:
    served = {"batch_size": 8, "batching": {"strategy": "aimd", "wait_micros": 2000}, "cache": False}
    deployment = deploy(feature_sum, labels=["a"], num_replicas=2, timeout_seconds=5, **served)
    assert deployment == {
        "model_name": "model",
        "model_version": "1",
        "input_type": "doubles",
        "labels": ["a"],
        "num_replicas": 2,
        **served,
        "environment": {},
        "timeout_seconds": 5,
        "container_kind": "python-closure",
        "python": "/usr/bin/python3",
        "artifact": "abc",
    }


@pytest.mark.parametrize("input_type", ["integers", "floats", "doubles", "strings", "bytes"])
def test_a_function_of_any_input_type_is_checked(
    deploy: Function, caplog: pytest.LogCaptureFixture, input_type: str
) -> None:
    with caplog.at_level(logging.WARNING):
        deploy(lambda xs: [len(x) for x in xs], input_type)
    assert not caplog.records


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (sum_of_one, "str"),
        (lambda xs: [float(np.sum(xs))], "1 output for 2 inputs"),
        (lambda xs: list(xs[0]), "for 2 inputs"),
        (lambda xs: None, "NoneType"),  # noqa: ARG005
        (lambda xs: [object() for _ in xs], "object"),
        (always_raises, "ZeroDivisionError: never mind what ndarray"),
        (lambda xs: [undefined_name(x) for x in xs], "NameError"),  # type: ignore[name-defined]  # noqa: F821
    ],
)
def test_a_function_that_cannot_be_served_is_refused_before_the_cluster_hears_of_it(
    fake: FakeCluster, deploy: Function, function: Function, problem: str
) -> None:
    with pytest.raises(FunctionException, match=problem):
        deploy(function)
    assert {request.path for request in fake.requests} == {"/admin/ping"}


def test_a_function_that_cannot_be_pickled_is_refused_with_the_name_of_what_cannot(deploy: Function) -> None:
    lock = threading.Lock()
    with pytest.raises(FunctionException, match="`lock`"):
        deploy(lambda xs: [lock.locked() for _ in xs])


def test_a_function_that_wants_other_inputs_is_deployed_with_a_warning(
    deploy: Function, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert deploy(lambda xs: ModelOfFourFeatures().predict(xs))
    assert "give real ones in sample_inputs" in caplog.text
    assert "but 4 are expected" in caplog.text


def test_a_function_whose_model_says_how_many_features_it_takes_is_given_as_many(
    deploy: Function, caplog: pytest.LogCaptureFixture
) -> None:
    model = ModelOfFourFeatures()
    model.n_features_in_ = 4  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        for function in (lambda xs: model.predict(xs) + 1, model.predict, model):
            assert deploy(function)
    assert not caplog.records
    with pytest.raises(FunctionException, match="for 2 inputs"):
        deploy(lambda xs: model.predict(xs)[:1])


@pytest.mark.parametrize("samples", [np.ones((3, 4)), [[1, 2, 3, 4]], [np.ones(4), [1.0, 2.0, 3.0, 4.0]]])
def test_sample_inputs_are_what_a_function_is_checked_with(deploy: Function, samples: Any) -> None:
    assert deploy(ModelOfFourFeatures(), sample_inputs=samples)


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([[1.0, 2.0]], "X has 2 features, but 4 are expected"),
        ([[1.0] * 4, [1.0] * 4, [1.0] * 3], "X has 3 features"),
        (["text"], "not of type doubles"),
        ([], "no inputs to try"),
    ],
)
def test_whatever_goes_wrong_with_a_sample_input_is_an_error(
    deploy: Function, samples: Any, problem: str
) -> None:
    with pytest.raises(FunctionException, match=problem):
        deploy(ModelOfFourFeatures(), sample_inputs=samples)


def test_the_check_can_be_skipped(deploy: Function) -> None:
    assert deploy(always_raises, check=False)


def test_a_function_of_one_input_is_served_per_row(deploy: Function) -> None:
    assert deploy(sum_of_one, per_row=True)


def test_a_class_whose_objects_cannot_be_made_is_refused(deploy: Function) -> None:
    class Broken:
        def __init__(self) -> None:
            raise OSError("no weights")

        def predict(self, xs: Any) -> Any:
            return xs

    with pytest.raises(FunctionException, match="OSError: no weights"):
        deploy(Broken)


def test_so_is_one_whose_warm_up_fails(deploy: Function) -> None:
    class Cold(ModelOfFourFeatures):
        def warm_up(self) -> None:
            raise ValueError("no device")

    with pytest.raises(FunctionException, match="cannot be made ready to serve: ValueError: no device"):
        deploy(Cold)


def test_an_unknown_input_type_is_refused(deploy: Function) -> None:
    with pytest.raises(FunctionException, match="'images' is not an input type"):
        deploy(feature_sum, "images")


def test_packages_are_installed_into_the_environment_that_serves_the_function(
    deploy: Function, tmp_path: Path
) -> None:
    pip = tmp_path / "python"
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    pip.chmod(0o755)
    deploy(feature_sum, pkgs_to_install=["one", "two>=2"], python=str(pip))
    assert (tmp_path / "calls").read_text() == "-m pip install --quiet one two>=2\n"


def test_a_package_that_cannot_be_installed_is_an_error(fake: FakeCluster, deploy: Function) -> None:
    with pytest.raises(ClipperException, match="pip could not install not/a/package"):
        deploy(feature_sum, pkgs_to_install=["not/a/package"], python=sys.executable)
    assert not fake.asked("/admin/deploy_model")


def test_an_endpoint_is_an_application_and_a_model_that_are_linked(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    fake.answer("/admin/add_artifact", {"artifact": "abc"})
    create_endpoint(
        connection, "sum", "doubles", feature_sum, version=3, per_row=False, cache=False, batching="aimd"
    )
    [application] = fake.asked("/admin/add_app")
    assert (application["latency_slo_micros"], application["cache"]) == (3_000_000, False)
    [deployment] = fake.asked("/admin/deploy_model")
    assert (deployment["model_version"], deployment["batching"], deployment["cache"]) == ("3", "aimd", False)
    assert fake.asked("/admin/add_model_links") == [{"app_name": "sum", "model_names": ["sum"]}]


def test_an_endpoint_that_fails_leaves_no_application_behind(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    with pytest.raises(FunctionException):
        create_endpoint(connection, "sum", "doubles", always_raises)
    assert fake.asked("/admin/delete_app") == [{"name": "sum"}]


def test_the_early_face_deploys_a_function_too(fake: FakeCluster, manager: Manager) -> None:
    fake.answer("/admin/add_artifact", {"artifact": "abc"})
    clipper = Clipper(container_manager=manager)
    clipper.connect()
    clipper.deploy_predict_function("feature_sum_model", 1, feature_sum, "doubles", ["a"], 2)
    served: dict[str, Any] = {"batch_size": 8, "batching": "fixed", "cache": False}
    clipper.deploy_predict_function("feature_sum_model", 2, feature_sum, "doubles", **served)
    first, second = fake.asked("/admin/deploy_model")
    assert (first["model_name"], first["labels"], first["num_replicas"]) == ("feature_sum_model", ["a"], 2)
    assert served.items() <= second.items()


@pytest.mark.parametrize(
    ("query", "function", "input_type", "outputs"),
    [
        ({"input": [1.1, 2.2, 3.3]}, feature_sum, "doubles", [6.6]),
        ({"input_batch": [[1.5], [2.5, 1], [3]]}, feature_sum, "doubles", [1.5, 3.5, 3.0]),
        ({"input": [1, 2]}, lambda xs: xs.sum(axis=1), "integers", [3]),
        ({"input": [1, 2]}, lambda xs: xs * 2, "integers", [[2, 4]]),
        ({"input": "a"}, lambda xs: [x + "b" for x in xs], "strings", ["ab"]),
        ({"input": "AP8="}, lambda xs: [x[::-1] for x in xs], "bytes", ["/wA="]),
        ({"input": b"\x00\xff"}, lambda xs: [list(x) for x in xs], "bytes", [[0, 255]]),
        ({"input": "a"}, lambda xs: [{"label": x} for x in xs], "strings", [{"label": "a"}]),
    ],
)
def test_a_function_can_be_tried_on_a_query_without_a_cluster(
    manager: Manager, query: Any, function: Function, input_type: str, outputs: list[Any]
) -> None:
    answer = ClipperConnection(manager).test_predict_function(query, function, input_type)
    assert answer == pytest.approx(outputs) if isinstance(outputs[0], float) else answer == outputs


@pytest.mark.parametrize("text", ["+/8=", "+/8", "-_8=", "-_8", "+/\n8=\r\n"])
def test_base64_is_read_as_the_cluster_reads_it(manager: Manager, text: str) -> None:
    def listed(xs: list[bytes]) -> list[list[int]]:
        return [list(x) for x in xs]

    connection = ClipperConnection(manager)
    assert connection.test_predict_function({"input": text}, listed, "bytes") == [[251, 255]]


def test_an_output_is_nested_as_the_cluster_nests_it(manager: Manager) -> None:
    def texts(xs: Any) -> list[str]:
        return [given[int(x[0])] for x in xs]

    deep = "[" * 101 + "]" * 101
    given = ["1e3", "1e999", "[-1e400]", "NaN", '"\\ud800"', deep, deep[1:-1], '{"a": 1}', "1" + "0" * 400]
    query = {"input_batch": [[index] for index in range(len(given))]}
    outputs = ClipperConnection(manager).test_predict_function(query, texts, "ints")
    assert outputs == [1e3, *given[1:6], json.loads(deep[1:-1]), {"a": 1}, given[8]]


def test_a_number_that_json_lacks_is_null_as_from_the_cluster(manager: Manager) -> None:
    connection = ClipperConnection(manager)
    query = {"input": np.ma.array([1.5, 9.0, np.inf], mask=[False, True, False])}
    assert connection.test_predict_function(query, lambda xs: xs, "doubles") == [[1.5, None, None]]


def test_bytes_that_are_not_base64_are_refused(manager: Manager) -> None:
    with pytest.raises(FunctionException, match=r"'\?!' is not base64"):
        ClipperConnection(manager).test_predict_function({"input": "?!"}, feature_sum, "bytes")


@pytest.mark.parametrize("query", [{}, {"inputs": []}, {"input": [1], "input_batch": [[1]]}])
def test_a_query_that_is_none_is_refused(manager: Manager, query: Any) -> None:
    with pytest.raises(ClipperException, match="a query is"):
        ClipperConnection(manager).test_predict_function(query, feature_sum, "doubles")
