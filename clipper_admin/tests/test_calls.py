"""What each method says to the cluster, and what it makes of the answer."""

import io
import tarfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from fake_cluster import FakeCluster

from clipper_admin import (
    Clipper,
    ClipperConnection,
    ClipperException,
    LocalContainerManager,
    RefusedException,
    UnconnectedException,
    UnreachableException,
)

Call = Callable[[ClipperConnection], Any]

ORDERS: list[tuple[Call, str, Any]] = [
    (
        lambda c: c.register_application("app", "doubles", "-1.0", 100_000),
        "add_app",
        {
            "name": "app",
            "input_type": "doubles",
            "default_output": "-1.0",
            "latency_slo_micros": 100_000,
            "cache": True,
            "max_concurrent_requests": None,
            "on_overload": "default",
        },
    ),
    (
        lambda c: c.register_application(
            "app", "doubles", "", 1, cache=False, max_concurrent_requests=9, on_overload="refuse"
        ),
        "add_app",
        {
            "name": "app",
            "input_type": "doubles",
            "default_output": "",
            "latency_slo_micros": 1,
            "cache": False,
            "max_concurrent_requests": 9,
            "on_overload": "refuse",
        },
    ),
    (
        lambda c: c.register_application(
            "app",
            "doubles",
            "",
            1,
            selection_policy={"policy": "exp4", "eta": 0.1},
            confidence_threshold=0.5,
            loss={"loss": "absolute", "scale": 10},
            output_kind="numbers",
            log_decisions=True,
            selection_seed=7,
        ),
        "add_app",
        {
            "name": "app",
            "input_type": "doubles",
            "default_output": "",
            "latency_slo_micros": 1,
            "cache": True,
            "max_concurrent_requests": None,
            "on_overload": "default",
            "selection_policy": {"policy": "exp4", "eta": 0.1},
            "confidence_threshold": 0.5,
            "loss": {"loss": "absolute", "scale": 10},
            "output_kind": "numbers",
            "log_decisions": True,
            "selection_seed": 7,
        },
    ),
    (
        lambda c: c.update_application(
            "app", selection_policy="exp3", confidence_threshold=None, log_decisions=False, selection_seed=0
        ),
        "update_app",
        {
            "name": "app",
            "selection_policy": "exp3",
            "confidence_threshold": None,
            "log_decisions": False,
            "selection_seed": 0,
        },
    ),
    (
        lambda c: c.update_application(
            "app", confidence_threshold=0.5, loss="zero_one", output_kind="labels"
        ),
        "update_app",
        {"name": "app", "confidence_threshold": 0.5, "loss": "zero_one", "output_kind": "labels"},
    ),
    (
        lambda c: c.update_application("app", default_output="0", slo_micros=5, max_concurrent_requests=9),
        "update_app",
        {"name": "app", "default_output": "0", "latency_slo_micros": 5, "max_concurrent_requests": 9},
    ),
    (
        lambda c: c.update_application("app", cache=False, on_overload="refuse"),
        "update_app",
        {"name": "app", "cache": False, "on_overload": "refuse"},
    ),
    (
        lambda c: c.update_application("app", max_concurrent_requests=None),
        "update_app",
        {"name": "app", "max_concurrent_requests": None},
    ),
    (lambda c: c.unregister_application("app"), "delete_app", {"name": "app"}),
    (
        lambda c: c.link_model_to_app("app", "model"),
        "add_model_links",
        {"app_name": "app", "model_names": ["model"]},
    ),
    (
        lambda c: c.unlink_model_from_app("app", "model"),
        "delete_model_links",
        {"app_name": "app", "model_names": ["model"]},
    ),
    (
        lambda c: c.register_model("model", 1, "ints", "image:1", ["a"], 7),
        "add_model",
        {
            "model_name": "model",
            "model_version": "1",
            "input_type": "ints",
            "container_name": "image:1",
            "labels": ["a"],
            "batch_size": 7,
            "batching": None,
            "cache": True,
        },
    ),
    (
        lambda c: c.register_model("model", 1, "ints", batching={"wait_micros": 5}, cache=False),
        "add_model",
        {
            "model_name": "model",
            "model_version": "1",
            "input_type": "ints",
            "labels": [],
            "batch_size": -1,
            "batching": {"wait_micros": 5},
            "cache": False,
        },
    ),
    (
        lambda c: c.update_model("model", 1, batching="aimd", batch_size=-1, cache=False, labels="a"),
        "update_model",
        {
            "model_name": "model",
            "model_version": "1",
            "batching": "aimd",
            "batch_size": -1,
            "cache": False,
            "labels": ["a"],
        },
    ),
    (
        lambda c: c.update_model("model", 1, labels=[]),
        "update_model",
        {"model_name": "model", "model_version": "1", "labels": []},
    ),
    (
        lambda c: c.unregister_model("model", 1),
        "delete_versioned_model",
        {"model_name": "model", "model_version": "1"},
    ),
    (
        lambda c: c.set_model_version("model", 2),
        "set_model_version",
        {"model_name": "model", "model_version": "2"},
    ),
    (
        lambda c: c.set_num_replicas("model", 3),
        "set_num_replicas",
        {"model_name": "model", "num_replicas": 3},
    ),
    (
        lambda c: c.set_num_replicas("model", 3, 2, timeout_seconds=5),
        "set_num_replicas",
        {"model_name": "model", "model_version": "2", "num_replicas": 3, "timeout_seconds": 5},
    ),
    (
        lambda c: c.set_model_version("model", 2, num_replicas=4),
        "set_num_replicas",
        {"model_name": "model", "model_version": "2", "num_replicas": 4},
    ),
    (lambda c: c.stop_models(["model"]), "stop_models", {"model_names": ["model"]}),
    (lambda c: c.stop_models("model"), "stop_models", {"model_names": ["model"]}),
    (
        lambda c: c.stop_versioned_models({"model": [1, "2"]}),
        "stop_versioned_models",
        {"model_versions": {"model": ["1", "2"]}},
    ),
    (
        lambda c: c.stop_versioned_models({"model": "lam", "other": 2}),
        "stop_versioned_models",
        {"model_versions": {"model": ["lam"], "other": ["2"]}},
    ),
    (
        lambda c: c.stop_inactive_model_versions(["model"]),
        "stop_inactive_model_versions",
        {"model_names": ["model"]},
    ),
    (lambda c: c.stop_all_model_containers(), "stop_all_models", {}),
]

QUESTIONS: list[tuple[Call, str, Any, Any]] = [
    (lambda c: c.get_all_apps(), "get_all_applications", {"verbose": False}, ["app"]),
    (lambda c: c.get_all_apps(verbose=True), "get_all_applications", {"verbose": True}, [{"name": "app"}]),
    (lambda c: c.get_app_info("app"), "get_application", {"name": "app"}, {"name": "app"}),
    (lambda c: c.get_linked_models("app"), "get_linked_models", {"app_name": "app"}, ["model"]),
    (lambda c: c.get_selection_state("app"), "get_state", {"app_name": "app"}, {"policy": "exp3"}),
    (
        lambda c: c.get_selection_state("app", 7),
        "get_state",
        {"app_name": "app", "uid": 7},
        {"policy": "exp3"},
    ),
    (lambda c: c.get_all_models(), "get_all_models", {"verbose": False}, ["model:1"]),
    (
        lambda c: c.get_model_info("model", 1),
        "get_model",
        {"model_name": "model", "model_version": "1"},
        {"model_name": "model"},
    ),
    (lambda c: c.get_all_model_replicas(), "get_all_containers", {"verbose": False}, ["model:1:0"]),
    (
        lambda c: c.get_model_replica_info("model", 1, 0),
        "get_container",
        {"model_name": "model", "model_version": "1", "replica_id": 0},
        {"model_replica_id": 0},
    ),
    (lambda c: c.get_deployments(), "get_deployments", {}, []),
    (lambda c: c.get_frontends(), "get_frontends", {"verbose": False}, []),
    (
        lambda c: c.get_replica_logs("model", 1, 0, lines=5),
        "get_replica_logs",
        {"model_name": "model", "model_version": "1", "replica_id": 0, "lines": 5},
        {"model:1:0": ["a line"]},
    ),
]


@pytest.mark.parametrize(("call", "path", "body"), ORDERS)
def test_an_order_is_posted_to_management(
    fake: FakeCluster, connection: ClipperConnection, call: Call, path: str, body: Any
) -> None:
    call(connection)
    assert fake.asked(f"/admin/{path}") == [body]


@pytest.mark.parametrize(("call", "path", "body", "answer"), QUESTIONS)
def test_a_question_returns_what_management_answers(
    fake: FakeCluster, connection: ClipperConnection, call: Call, path: str, body: Any, answer: Any
) -> None:
    fake.answer(f"/admin/{path}", answer)
    assert call(connection) == answer
    assert fake.asked(f"/admin/{path}") == [body]


@pytest.mark.parametrize("call", [row[0] for row in (*ORDERS, *QUESTIONS)])
def test_a_call_before_connecting_says_what_to_do_first(manager: LocalContainerManager, call: Call) -> None:
    with pytest.raises(UnconnectedException, match=r"call start_clipper\(\) or connect\(\) first"):
        call(ClipperConnection(manager))


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.predict("app", [1]),
        lambda c: c.feedback("app", query_id=1, label=1),
        lambda c: c.explain("app", 1),
        lambda c: c.get_query_addr(),
        lambda c: c.inspect_instance(),
        lambda c: c.get_clipper_logs(),
        lambda c: c.get_num_replicas("model"),
    ],
)
def test_so_does_every_other_call_that_needs_the_cluster(manager: LocalContainerManager, call: Call) -> None:
    with pytest.raises(UnconnectedException):
        call(ClipperConnection(manager))


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda c: c.get_app_info("app"), "get_application"),
        (lambda c: c.get_model_info("model", 1), "get_model"),
        (lambda c: c.get_model_replica_info("model", 1, 0), "get_container"),
    ],
)
def test_what_is_not_there_is_none(
    fake: FakeCluster, connection: ClipperConnection, call: Call, path: str
) -> None:
    fake.answer(f"/admin/{path}", {})
    assert call(connection) is None


def test_a_refusal_carries_the_clusters_own_sentence(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    fake.refuse("/admin/add_app", "application 'app' already exists")
    with pytest.raises(RefusedException, match="application 'app' already exists") as refusal:
        connection.register_application("app", "doubles", "-1.0", 100_000)
    assert refusal.value.cause == "application 'app' already exists"
    assert refusal.value.kind == "Request error"
    assert refusal.value.status == 400
    assert isinstance(refusal.value, ClipperException)


def test_a_refusal_that_is_not_json_is_shown_as_it_is(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    fake.answer("/admin/delete_app", "no such thing", status=404)
    with pytest.raises(RefusedException, match="no such thing"):
        connection.unregister_application("app")


def test_a_cluster_that_has_gone_away_is_named_with_its_address(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    fake.close()
    with pytest.raises(UnreachableException, match=rf"localhost:{fake.port}: Connection refused") as failure:
        connection.get_all_apps()
    assert "start_clipper()" in str(failure.value)
    assert failure.value.__suppress_context__


def test_a_proxy_of_the_environment_is_not_asked(
    fake: FakeCluster, manager: LocalContainerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    connection = ClipperConnection(manager)
    connection.connect()
    assert fake.asked("/admin/ping")


def test_the_current_version_is_found_among_all(fake: FakeCluster, connection: ClipperConnection) -> None:
    versions = [
        {"model_name": "model", "model_version": "1", "is_current_version": False},
        {"model_name": "model", "model_version": "2", "is_current_version": True},
    ]
    fake.answer("/admin/get_all_models", versions)
    assert connection.get_current_model_version("model") == "2"
    with pytest.raises(ClipperException, match="no model with name 'other' is registered"):
        connection.get_current_model_version("other")


def test_a_model_without_a_current_version_is_not_one_that_does_not_exist(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    version = {"model_name": "model", "model_version": "1", "is_current_version": False}
    fake.answer("/admin/get_all_models", [version])
    with pytest.raises(ClipperException, match="'model' has no current version"):
        connection.get_current_model_version("model")


def test_a_version_becomes_current_only_once_it_has_its_replicas(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    connection.set_model_version("model", 2, num_replicas=4)
    assert [request.path for request in fake.requests[-2:]] == [
        "/admin/set_num_replicas",
        "/admin/set_model_version",
    ]
    fake.refuse("/admin/set_num_replicas", "No deployment")
    with pytest.raises(RefusedException):
        connection.set_model_version("model", 3, num_replicas=1)
    assert len(fake.asked("/admin/set_model_version")) == 1


def test_the_replicas_of_a_version_are_counted(fake: FakeCluster, connection: ClipperConnection) -> None:
    replicas = [{"model_name": "model", "model_version": version} for version in ("1", "2", "2")]
    fake.answer("/admin/get_all_containers", replicas)
    assert connection.get_num_replicas("model", 2) == 2


def test_the_early_face_names_the_model_when_it_registers_an_application(
    fake: FakeCluster, manager: LocalContainerManager
) -> None:
    clipper = Clipper(container_manager=manager)
    clipper.connect()
    clipper.register_application("hello_world", "feature_sum_model", "doubles", "-1.0", 100_000)
    assert fake.asked("/admin/add_app") == [
        {
            "name": "hello_world",
            "input_type": "doubles",
            "default_output": "-1.0",
            "latency_slo_micros": 100_000,
            "cache": True,
            "max_concurrent_requests": None,
            "on_overload": "default",
            "linked_models": ["feature_sum_model"],
        }
    ]


def test_the_early_face_names_several_models_where_a_policy_selects_among_them(
    fake: FakeCluster, manager: LocalContainerManager
) -> None:
    clipper = Clipper(container_manager=manager)
    clipper.connect()
    clipper.register_application("app", ["one", "two"], "doubles", "", 1, selection_policy="majority_vote")
    [application] = fake.asked("/admin/add_app")
    assert application["linked_models"] == ["one", "two"]
    assert application["selection_policy"] == "majority_vote"


def test_a_query_is_explained_by_management(fake: FakeCluster, connection: ClipperConnection) -> None:
    fake.answer("/app/explain/7", {"query_id": 7, "output": 1})
    assert connection.explain("app", 7) == {"query_id": 7, "output": 1}
    fake.answer("/app/explain/8", {"error": "Not found", "cause": "it is forgotten"}, status=404)
    with pytest.raises(RefusedException, match="it is forgotten"):
        connection.explain("app", 8)


def test_a_query_carries_its_user_and_its_context(fake: FakeCluster, connection: ClipperConnection) -> None:
    fake.answer("/app/predict", {"query_id": 0, "output": 3, "default": False, "batch_predictions": []})
    connection.predict("app", [1], uid="ann", context=np.array([0.5, 1.0]))
    connection.predict_batch("app", [[1], [2]], uid=7, context=(1, 2))
    assert fake.asked("/app/predict") == [
        {"input": [1], "uid": "ann", "context": [0.5, 1.0]},
        {"input_batch": [[1], [2]], "uid": 7, "context": [1, 2]},
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"query_id": 0, "label": 0}, {"query_id": 0, "label": 0}),
        ({"query_id": 17, "label": np.int64(3)}, {"query_id": 17, "label": 3}),
        ({"query_id": 17, "reward": 0.0}, {"query_id": 17, "reward": 0.0}),
        (
            {"uid": 0, "input": np.array([1.5]), "label": "cat", "context": [1]},
            {"uid": 0, "input": [1.5], "label": "cat", "context": [1]},
        ),
        ({"input": b"\x00\xff", "label": False}, {"input": "AP8=", "label": False}),
    ],
)
def test_feedback_is_sent_as_given_and_returns_what_was_done_with_it(
    fake: FakeCluster, connection: ClipperConnection, given: dict[str, Any], sent: dict[str, Any]
) -> None:
    fake.answer("/app/feedback", {"status": "applied", "explanation": "so it is"})
    assert connection.feedback("app", **given)["status"] == "applied"
    assert fake.asked("/app/feedback") == [sent]


def test_feedback_that_is_refused_carries_the_clusters_own_sentence(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    cause = "there is no query 17 of this application"
    fake.answer("/app/feedback", {"error": "Unknown query", "cause": cause}, status=404)
    with pytest.raises(RefusedException, match=cause):
        connection.feedback("app", query_id=17, label=1)


@pytest.mark.parametrize(
    "given",
    [
        [1.5, None, None],
        [1.5, np.ma.masked, None],
        np.ma.array([1.5, 9.0, 9.0], mask=[False, True, True]),
        np.ma.array([1.5, 9.0, np.nan], np.float32, mask=[False, True, True]),
        np.array([1.5, None, None]),
    ],
)
def test_missing_values_are_sent_as_null(
    fake: FakeCluster, connection: ClipperConnection, given: Any
) -> None:
    fake.answer("/app/predict", {"output": 3, "batch_predictions": []})
    connection.predict("app", given)
    connection.predict_batch("app", [given])
    fake.answer("/app/feedback", {"status": "applied"})
    connection.feedback("app", input=given, label=1)
    null = [1.5, None, None]
    assert fake.asked("/app/predict") == [{"input": null}, {"input_batch": [null]}]
    assert fake.asked("/app/feedback") == [{"input": null, "label": 1}]


def test_numbers_that_json_lacks_are_sent_as_python_writes_them(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    fake.answer("/app/predict", {"output": 3})
    for given in ([float("nan"), np.inf, -np.inf], np.array([np.nan, np.inf, -np.inf], np.float32)):
        connection.predict("app", given)
    for asked in fake.asked("/app/predict"):
        assert repr(asked["input"]) == "[nan, inf, -inf]"


def test_missing_values_of_pandas_are_sent_as_null(fake: FakeCluster, connection: ClipperConnection) -> None:
    pd = pytest.importorskip("pandas")
    fake.answer("/app/predict", {"output": 3, "batch_predictions": []})
    connection.predict("app", pd.Series([1, None], dtype="Int64"))
    connection.predict("app", [1, pd.NA, pd.NaT])
    connection.predict_batch("app", pd.DataFrame({"a": [1, None], "b": [1, 2]}, dtype="Int64"))
    assert fake.asked("/app/predict") == [
        {"input": [1, None]},
        {"input": [1, None, None]},
        {"input_batch": [[1, 1], [None, 2]]},
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ([1.5, 2], [1.5, 2]),
        (np.array([1.5, 2.0]), [1.5, 2.0]),
        ([np.float64(1.5), np.int32(2)], [1.5, 2]),
        ("text", "text"),
        (b"\x00\xff", "AP8="),
    ],
)
def test_an_input_is_sent_in_the_form_that_the_frontend_reads(
    fake: FakeCluster, connection: ClipperConnection, given: Any, sent: Any
) -> None:
    fake.answer("/app/predict", {"query_id": 0, "output": 3, "default": False})
    assert connection.predict("app", given, uid=7, version=2)["output"] == 3
    assert fake.asked("/app/predict") == [{"input": sent, "uid": 7, "version": "2"}]


@pytest.mark.parametrize("given", [object(), [object()], {1}, np.array([object()])])
def test_an_input_that_json_has_no_form_for_is_named(connection: ClipperConnection, given: Any) -> None:
    with pytest.raises(
        ClipperException, match=r"for /app/predict cannot be sent as JSON: there is a (object|set)"
    ):
        connection.predict("app", given)


def test_several_inputs_are_asked_in_one_request(fake: FakeCluster, connection: ClipperConnection) -> None:
    fake.answer("/app/predict", {"batch_predictions": [{"output": 1}, {"output": 2}]})
    answers = connection.predict_batch("app", np.eye(2))
    assert [answer["output"] for answer in answers] == [1, 2]
    assert fake.asked("/app/predict") == [{"input_batch": [[1.0, 0.0], [0.0, 1.0]]}]


def test_a_models_files_are_uploaded_and_named_in_its_deployment(
    fake: FakeCluster, connection: ClipperConnection, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "weights")
    fake.answer("/admin/add_artifact", {"artifact": "abc"})
    connection.deploy_model("model", 1, "doubles", tmp_path, "python-closure", environment={"A": "b"})
    [archive] = fake.asked("/admin/add_artifact")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = {member.name: member.isreg() for member in tar}
    assert members == {".": False, "./weights": True, "./link": True}
    assert fake.asked("/admin/deploy_model") == [
        {
            "model_name": "model",
            "model_version": "1",
            "input_type": "doubles",
            "labels": [],
            "num_replicas": 1,
            "batch_size": -1,
            "batching": None,
            "cache": True,
            "environment": {"A": "b"},
            "timeout_seconds": 60,
            "container_kind": "python-closure",
            "python": "/usr/bin/python3",
            "artifact": "abc",
        }
    ]


def test_the_same_files_give_the_same_archive(
    fake: FakeCluster, connection: ClipperConnection, tmp_path: Path
) -> None:
    fake.answer("/admin/add_artifact", {"artifact": "abc"})
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(b"1")
        connection.deploy_model("model", 1, "doubles", tmp_path / folder, command=["./server"])
    first, second = fake.asked("/admin/add_artifact")
    assert first == second


def test_files_that_are_on_the_host_already_are_used_in_place(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    connection.deploy_model("model", 1, "doubles", "/models/m", command=["./server", "--fast"], upload=False)
    [deployment] = fake.asked("/admin/deploy_model")
    assert deployment["model_data_path"] == "/models/m"
    assert deployment["command"] == ["./server", "--fast"]
    assert not {"artifact", "container_kind", "python"} & deployment.keys()


@pytest.mark.parametrize("how", [{}, {"container_kind": "sum", "command": ["./server"]}])
def test_a_deployment_says_in_one_way_how_to_run_the_model(connection: ClipperConnection, how: Any) -> None:
    with pytest.raises(ClipperException, match="either container_kind or command"):
        connection.deploy_model("model", 1, "doubles", **how)


def test_a_command_or_label_that_is_one_text_is_not_taken_for_its_letters(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    connection.deploy_model("model", 1, "doubles", command="./server", labels="blue")
    [deployment] = fake.asked("/admin/deploy_model")
    assert (deployment["command"], deployment["labels"]) == (["./server"], ["blue"])


def test_an_interpreter_for_a_command_is_refused(connection: ClipperConnection) -> None:
    with pytest.raises(ClipperException, match="a command names its own"):
        connection.deploy_model("model", 1, "doubles", command=["./server"], python="/usr/bin/python3")


def test_a_folder_that_is_missing_is_named(connection: ClipperConnection, tmp_path: Path) -> None:
    with pytest.raises(ClipperException, match=r"folder .*nowhere does not exist"):
        connection.deploy_model("model", 1, "doubles", tmp_path / "nowhere", "python-closure")


def test_an_instance_is_inspected_as_a_dictionary(fake: FakeCluster, connection: ClipperConnection) -> None:
    fake.answer("/metrics", {"meters": []})
    fake.answer("/admin/metrics", "applications 1\n")
    for path in ("get_all_applications", "get_all_models", "get_all_containers", "get_deployments"):
        fake.answer(f"/admin/{path}", [{"from": path}])
    assert connection.inspect_instance() == {
        "metrics": {"query": {"meters": []}, "management": "applications 1\n"},
        "applications": [{"from": "get_all_applications"}],
        "models": [{"from": "get_all_models"}],
        "model_replicas": [{"from": "get_all_containers"}],
        "deployments": [{"from": "get_deployments"}],
    }


def test_a_server_that_counts_nothing_has_no_metrics(
    fake: FakeCluster, connection: ClipperConnection
) -> None:
    for path in ("get_all_applications", "get_all_models", "get_all_containers", "get_deployments"):
        fake.answer(f"/admin/{path}", [])
    fake.answer("/metrics", {"error": "Not found", "cause": "there is no /metrics"}, status=404)
    assert connection.inspect_instance()["metrics"]["query"] is None


def test_logs_are_saved_in_one_file_a_process(
    fake: FakeCluster, connection: ClipperConnection, manager: LocalContainerManager, tmp_path: Path
) -> None:
    manager.data_dir.mkdir()
    (manager.data_dir / "clipper.log").write_text("started\n")
    fake.answer("/admin/get_deployments", [{"model_name": "model", "model_version": "1"}])
    fake.answer("/admin/get_replica_logs", {"model:1:0": ["loading", "serving"]})
    paths = connection.get_clipper_logs(tmp_path / "logs")
    assert {Path(path).name: Path(path).read_text() for path in paths} == {
        "clipper.log": "started\n",
        "model_1_0.log": "loading\nserving\n",
    }
