"""The package with a real cluster: the program that CLIPPER_BINARY names, and real processes."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from clipper_admin import Clipper, ClipperConnection, LocalContainerManager, RefusedException, StartException
from clipper_admin.deployers.python import create_endpoint, deploy_python_closure

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("CLIPPER_BINARY" not in os.environ, reason="CLIPPER_BINARY does not name a program"),
]

SLO_MICROS = 5_000_000


def free_manager(data_dir: Path, **options: Any) -> LocalContainerManager:
    ports = {"query_port": 0, "management_port": 0, "rpc_port": 0, **options}
    return LocalContainerManager(data_dir=data_dir, **ports)


def feature_sum(xs: Any) -> list[str]:
    return [str(np.sum(x)) for x in xs]


@pytest.fixture(scope="module", autouse=True)
def _serving_from_this_checkout() -> Iterator[None]:
    """The interpreter that serves the models must find `clipper_container` where these tests do."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
    yield
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClipperConnection]:
    conn = ClipperConnection(free_manager(tmp_path_factory.mktemp("cluster")))
    conn.start_clipper()
    yield conn
    conn.stop_all()


def test_the_early_face_works_as_the_original_documents_it(tmp_path: Path) -> None:
    clipper = Clipper("localhost", container_manager=free_manager(tmp_path))
    clipper.start()
    try:
        clipper.register_application("hello_world", "feature_sum_model", "doubles", "-1.0", SLO_MICROS)
        assert clipper.get_all_apps() == ["hello_world"]
        early = clipper.predict("hello_world", [1.1, 2.2])
        assert (early["output"], early["default"]) == (-1.0, True)
        clipper.deploy_predict_function("feature_sum_model", 1, feature_sum, "doubles")
        answer = clipper.predict("hello_world", [1.0, 2.5])
        assert (answer["output"], answer["default"]) == (3.5, False)
    finally:
        clipper.stop()


@pytest.mark.parametrize(
    ("input_type", "given", "expected"),
    [
        ("integers", [1, 2], 2),
        ("floats", [0.5], 1),
        ("doubles", [0.5, 1, 2], 3),
        ("strings", "text", 4),
        ("bytes", b"\x00\xff", 2),
    ],
)
def test_a_function_of_each_input_type_is_served(
    conn: ClipperConnection, input_type: str, given: Any, expected: int
) -> None:
    name = f"length-of-{input_type}"
    create_endpoint(conn, name, input_type, lambda xs: [len(x) for x in xs], slo_micros=SLO_MICROS)
    assert conn.predict(name, given)["output"] == expected
    assert [answer["output"] for answer in conn.predict_batch(name, [given] * 3)] == [expected] * 3
    conn.stop_models([name])


def test_versions_roll_forward_and_back(conn: ClipperConnection) -> None:
    conn.register_application("versions", "doubles", "none", SLO_MICROS)
    for version in (1, 2):
        deploy_python_closure(conn, "versioned", version, "doubles", lambda xs, v=version: [v] * len(xs))
    conn.link_model_to_app("versions", "versioned")
    assert conn.get_linked_models("versions") == ["versioned"]
    assert conn.predict("versions", [1.0])["output"] == 2
    conn.set_model_version("versioned", 1, num_replicas=2)
    assert conn.get_current_model_version("versioned") == "1"
    assert conn.predict("versions", [1.0])["output"] == 1
    assert conn.get_num_replicas("versioned") == 2
    assert conn.predict("versions", [1.0], version=2)["output"] == 2
    conn.stop_inactive_model_versions(["versioned"])
    running = [d for d in conn.get_deployments() if d["replicas"]]
    assert [d["model_version"] for d in running] == ["1"]
    conn.stop_versioned_models({"versioned": [1]})
    conn.unlink_model_from_app("versions", "versioned")
    conn.unregister_application("versions")
    assert conn.get_app_info("versions") is None


def test_what_serves_is_changed_while_it_serves(conn: ClipperConnection) -> None:
    create_endpoint(
        conn,
        "changed",
        "doubles",
        feature_sum,
        slo_micros=SLO_MICROS,
        batching="aimd",
        max_concurrent_requests=9,
    )
    conn.update_application("changed", default_output="none", max_concurrent_requests=None, cache=False)
    application = conn.get_app_info("changed")
    assert application is not None
    assert application["default_output"] == "none"
    assert (application["max_concurrent_requests"], application["cache"]) == (None, False)
    assert application["on_overload"] == "default"
    conn.update_model("changed", 1, batching={"strategy": "aimd", "wait_micros": 2000}, labels=["old"])
    assert conn.predict("changed", [1.0, 2.0])["output"] == 3.0
    conn.update_model("changed", 1, batching={"strategy": "fixed", "wait_micros": 2000}, batch_size=4)
    model = conn.get_model_info("changed", 1)
    assert model is not None
    assert model["batching"] == {"strategy": "fixed", "wait_micros": 2000}
    assert (model["batch_size"], model["cache"], model["labels"]) == (4, True, ["old"])
    assert conn.predict("changed", [1.0, 2.0])["output"] == 3.0
    with pytest.raises(RefusedException, match="'fixed' needs a positive batch_size"):
        conn.update_model("changed", 1, batch_size=-1)
    conn.stop_models(["changed"])


def test_an_application_learns_from_feedback_whom_to_believe(conn: ClipperConnection) -> None:
    answers = {"first": "cat", "second": "cat", "third": "dog"}
    conn.register_application("vote", "doubles", "none", SLO_MICROS, selection_policy="exp4")
    for name, said in answers.items():
        deploy_python_closure(conn, name, 1, "doubles", lambda xs, said=said: [said] * len(xs))
        conn.link_model_to_app("vote", name)
    before = conn.predict("vote", [1.0], uid="ann", context=[0.5])
    assert (before["output"], before["confidence"]) == ("cat", 0.6667)
    query_id = before["query_id"]
    assert conn.feedback("vote", query_id=query_id, label="dog")["status"] == "applied"
    assert conn.feedback("vote", query_id=query_id, label="dog")["status"] == "duplicate"
    assert conn.feedback("vote", uid="ann", input=[2.0], label="dog")["status"] == "applied"
    assert conn.explain("vote", query_id)["combined"] == "cat"
    deadline = time.monotonic() + 30
    while conn.predict("vote", [1.0], uid="ann")["output"] != "dog":
        assert time.monotonic() < deadline, conn.get_selection_state("vote", "ann")
    with pytest.raises(RefusedException, match="is forgotten"):
        conn.feedback("vote", query_id=query_id + 1_000_000, reward=1.0)

    conn.update_application("vote", selection_policy={"policy": "linucb", "dimensions": 2})
    with pytest.raises(RefusedException, match="context: linucb needs a context of 2 numbers"):
        conn.feedback("vote", input=[1.0], label="dog")
    answer = conn.predict("vote", [1.0], context=(0.5, 1.0))
    assert conn.feedback("vote", query_id=answer["query_id"], reward=1.0)["status"] == "applied"
    conn.stop_models(answers)


def test_a_function_that_cannot_be_loaded_where_it_is_served_fails_with_what_it_printed(
    conn: ClipperConnection,
) -> None:
    class NeedsAVariable:
        def __init__(self) -> None:
            if os.environ.get("HIDE_THE_WEIGHTS"):
                raise OSError("there are no weights here")

        def predict(self, xs: Any) -> Any:
            return xs.sum(axis=1)

    with pytest.raises(RefusedException, match="there are no weights here"):
        deploy_python_closure(
            conn, "broken", 1, "doubles", NeedsAVariable, environment={"HIDE_THE_WEIGHTS": "1"}
        )
    assert conn.get_model_info("broken", 1) is None
    assert "broken" not in [d["model_name"] for d in conn.get_deployments()]


def test_the_state_the_logs_and_the_metrics_can_be_seen(conn: ClipperConnection, tmp_path: Path) -> None:
    def talkative(xs: Any) -> list[int]:
        print("asked for a prediction", flush=True)  # noqa: T201
        return [0] * len(xs)

    create_endpoint(conn, "talkative", "doubles", talkative, slo_micros=SLO_MICROS)
    conn.predict("talkative", [1.0])
    instance = conn.inspect_instance()
    assert "talkative" in [app["name"] for app in instance["applications"]]
    assert "talkative" in [model["model_name"] for model in instance["models"]]
    counted = {server: report["counters"] for server, report in instance["metrics"].items()}
    assert any("app:talkative:num_predictions" in counter for counter in counted["query"])
    assert any("management:applications" in counter for counter in counted["management"])
    [deployment] = [d for d in instance["deployments"] if d["model_name"] == "talkative"]
    assert [replica["state"] for replica in deployment["replicas"]] == ["ready"]
    [lines] = conn.get_replica_logs("talkative").values()
    assert any("asked for a prediction" in line for line in lines)
    logs = {Path(path).name: Path(path).read_text() for path in conn.get_clipper_logs(tmp_path)}
    assert "clipper.log" in logs
    assert any(
        "asked for a prediction" in text for name, text in logs.items() if name.startswith("talkative")
    )
    [replica] = [r for r in conn.get_all_model_replicas(verbose=True) if r["model_name"] == "talkative"]
    assert conn.get_model_replica_info("talkative", 1, replica["model_replica_id"]) == replica
    conn.stop_all_model_containers()
    assert not any(deployment["replicas"] for deployment in conn.get_deployments())
    conn.set_model_version("talkative", 1, num_replicas=1)
    assert conn.get_num_replicas("talkative") == 1


def test_refusals_are_the_clusters_own_words(conn: ClipperConnection) -> None:
    conn.register_application("twice", "doubles", "0", SLO_MICROS)
    with pytest.raises(RefusedException, match="application 'twice' already exists"):
        conn.register_application("twice", "doubles", "0", SLO_MICROS)
    with pytest.raises(RefusedException, match="No model with name 'nobody' exists"):
        conn.link_model_to_app("twice", "nobody")


def test_what_was_deployed_is_there_again_after_a_restart_and_nothing_remains_after_a_stop(
    tmp_path: Path,
) -> None:
    conn = ClipperConnection(free_manager(tmp_path))
    conn.start_clipper()
    create_endpoint(conn, "sum", "doubles", feature_sum, slo_micros=SLO_MICROS)
    [deployment] = conn.get_deployments()
    conn.stop_all()
    assert not any(psutil.pid_exists(replica["pid"]) for replica in deployment["replicas"])
    conn.start_clipper()
    try:
        assert conn.get_all_apps() == ["sum"]
        assert conn.get_linked_models("sum") == ["sum"]
        assert [d["model_name"] for d in conn.get_deployments()] == ["sum"]
        assert conn.predict("sum", [1.0, 2.0])["output"] == 3.0
    finally:
        conn.stop_all()


def test_another_connection_finds_the_cluster_by_its_directory_or_by_its_ports(
    conn: ClipperConnection,
) -> None:
    by_directory = ClipperConnection(LocalContainerManager(data_dir=conn.cm.data_dir))
    by_directory.connect()
    assert by_directory.get_query_addr() == conn.get_query_addr()
    ports = [int(address.rpartition(":")[2]) for address in (conn.get_query_addr(), conn.cm.get_admin_addr())]
    by_ports = ClipperConnection(
        LocalContainerManager(
            data_dir=conn.cm.data_dir / "none", query_port=ports[0], management_port=ports[1]
        )
    )
    by_ports.connect()
    assert by_ports.get_all_apps() == conn.get_all_apps()


def test_a_start_that_fails_says_why_in_one_line(conn: ClipperConnection, tmp_path: Path) -> None:
    with pytest.raises(StartException, match="running already"):
        ClipperConnection(LocalContainerManager(data_dir=conn.cm.data_dir)).start_clipper()
    port = int(conn.get_query_addr().rpartition(":")[2])
    with pytest.raises(StartException, match=r"clipper: .*in use"):
        ClipperConnection(free_manager(tmp_path, query_port=port)).start_clipper()


def test_a_cluster_with_a_token_is_commanded_with_it_alone(tmp_path: Path) -> None:
    token = "the-token-of-the-operators"  # noqa: S105
    options = {"admin_token": token, "management_host": "0.0.0.0"}
    conn = ClipperConnection(free_manager(tmp_path / "data", **options))
    conn.start_clipper()
    try:

        def environment_of_the_model(xs: Any) -> list[str]:
            return [" ".join(sorted(os.environ.values()))] * len(xs)

        create_endpoint(conn, "sum", "doubles", environment_of_the_model, slo_micros=SLO_MICROS)
        assert token not in conn.predict("sum", [1.0])["output"]
        for wrong in (None, "another-token-of-nobody"):
            stranger = ClipperConnection(free_manager(tmp_path / "data"), admin_token=wrong)
            stranger.connect()
            with pytest.raises(RefusedException, match=r"admin token.*admin_token_file") as caught:
                stranger.get_all_apps()
            assert caught.value.status == 401
            # Predictions are for everybody.
            assert stranger.predict("sum", [1.0])["default"] is False
        for process in psutil.process_iter(["cmdline"]):
            assert not any(token in word for word in process.info["cmdline"] or [])
        log = conn.cm.log_file()
        assert log is not None
        assert token not in log.read_text()
    finally:
        conn.stop_all()


def test_a_cluster_beyond_this_host_needs_a_token(tmp_path: Path) -> None:
    conn = ClipperConnection(free_manager(tmp_path, management_host="0.0.0.0"))
    with pytest.raises(StartException, match=r"clipper: .*--admin-token-file"):
        conn.start_clipper()
    conn = ClipperConnection(
        free_manager(
            tmp_path, management_host="0.0.0.0", insecure_management=True, allowed_hosts="ops.example"
        )
    )
    conn.start_clipper()
    conn.stop_all()
