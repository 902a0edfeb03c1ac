"""How a cluster of this host is started, found and stopped."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster

import clipper_admin
from clipper_admin import (
    Clipper,
    ClipperConnection,
    ClipperException,
    LocalContainerManager,
    StartException,
    UnreachableException,
    local_container_manager,
)
from clipper_admin.cluster_process import ClusterProcess


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    program = tmp_path / "clipper"
    program.symlink_to(Path(__file__).with_name("fake_clipper.py"))
    return program


@pytest.fixture
def local(binary: Path, tmp_path: Path) -> Iterator[LocalContainerManager]:
    manager = LocalContainerManager(
        data_dir=tmp_path / "data", query_port=0, management_port=0, rpc_port=0, binary=binary
    )
    yield manager
    manager.stop_all(graceful=False)


def test_a_started_cluster_is_ready_at_the_addresses_that_it_picked(local: LocalContainerManager) -> None:
    local.start_clipper()
    listening = json.loads((local.data_dir / "addresses.json").read_text())
    assert local.get_query_addr() == listening["query"].replace("0.0.0.0", "127.0.0.1")
    assert local.get_admin_addr() == listening["admin"].replace("0.0.0.0", "127.0.0.1")


def test_it_is_started_with_its_directory_addresses_and_interpreter(local: LocalContainerManager) -> None:
    local.start_clipper()
    options = (local.data_dir / "clipper.log").read_text()
    for option in (str(local.data_dir), "0.0.0.0:0", "127.0.0.1:0", "--rpc-address", sys.executable):
        assert option in options


def test_containers_connect_to_this_hosts_own_interface_unless_another_is_given(
    local: LocalContainerManager, binary: Path, tmp_path: Path
) -> None:
    local.start_clipper()
    options = (local.data_dir / "clipper.log").read_text()
    assert "'--rpc-address', '127.0.0.1:0'" in options
    assert "--container-token-file" not in options
    assert "--insecure-containers" not in options
    local.stop_all()
    token_file = tmp_path / "token"
    beyond = LocalContainerManager(
        data_dir=local.data_dir,
        query_port=0,
        management_port=0,
        rpc_port=0,
        binary=binary,
        rpc_host="0.0.0.0",
        container_token_file=token_file,
        insecure_containers=True,
    )
    beyond.start_clipper()
    options = (local.data_dir / "clipper.log").read_text()
    assert "'--rpc-address', '0.0.0.0:0'" in options
    assert f"'--container-token-file', '{token_file}'" in options
    assert "'--insecure-containers'" in options


def test_it_outlives_the_program_that_started_it_and_another_can_stop_it(
    local: LocalContainerManager, binary: Path
) -> None:
    program = (
        "from clipper_admin import LocalContainerManager\n"
        f"LocalContainerManager(data_dir={str(local.data_dir)!r}, binary={str(binary)!r}).start_clipper()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(clipper_admin.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    process = ClusterProcess.find(local.data_dir)
    assert process
    local.connect()
    assert local.get_query_addr().startswith("127.0.0.1:")
    local.stop_all()
    assert not process.is_running()
    assert ClusterProcess.find(local.data_dir) is None


def test_starting_it_twice_says_that_it_is_running(local: LocalContainerManager) -> None:
    local.start_clipper()
    process = ClusterProcess.find(local.data_dir)
    assert process
    with pytest.raises(StartException, match=rf"running already \(process {process.pid}\): call connect\(\)"):
        local.start_clipper()
    assert process.is_running()


def test_it_can_be_started_again_after_it_was_stopped(local: LocalContainerManager) -> None:
    local.start_clipper()
    local.stop_all()
    local.start_clipper()
    assert ClusterProcess.find(local.data_dir)


def test_a_start_that_fails_shows_what_this_start_printed(
    local: LocalContainerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.data_dir.mkdir()
    (local.data_dir / "clipper.log").write_text("of an earlier start\n")
    monkeypatch.setenv("FAKE_CLIPPER", "port-in-use")
    with pytest.raises(StartException, match="clipper: port 1337 is in use") as failure:
        local.start_clipper()
    assert "earlier" not in str(failure.value)


def test_a_cluster_that_does_not_become_ready_is_given_up_and_killed(
    binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CLIPPER", "never-ready")
    slow = LocalContainerManager(data_dir=tmp_path / "data", binary=binary, start_timeout_seconds=0.5)
    with pytest.raises(StartException, match=r"was not ready after 0.5 s"):
        slow.start_clipper()
    assert ClusterProcess.find(slow.data_dir) is None


def test_addresses_left_by_a_killed_cluster_are_not_believed(
    local: LocalContainerManager, fake: FakeCluster
) -> None:
    address = f"127.0.0.1:{fake.port}"
    local.data_dir.mkdir()
    (local.data_dir / "addresses.json").write_text(json.dumps({"query": address, "admin": address}))
    local.start_clipper()
    assert local.get_admin_addr() != address


def test_a_cluster_that_does_not_drain_in_time_is_killed(
    local: LocalContainerManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CLIPPER", "stubborn")
    local.start_clipper()
    process = ClusterProcess.find(local.data_dir)
    assert process
    process.stop(timeout_seconds=0.2)
    assert not process.is_running()


def test_stopping_what_does_not_run_is_not_an_error(local: LocalContainerManager) -> None:
    local.stop_all()
    ClipperConnection(local).stop_all()


def test_a_lock_that_names_another_program_is_nobodys(local: LocalContainerManager) -> None:
    local.data_dir.mkdir()
    for content in (str(os.getpid()), "4194305", "", "not a number"):
        (local.data_dir / "clipper.lock").write_text(content)
        assert ClusterProcess.find(local.data_dir) is None


def test_connecting_to_nothing_names_the_address(tmp_path: Path, fake: FakeCluster) -> None:
    fake.close()
    manager = LocalContainerManager(data_dir=tmp_path, management_port=fake.port)
    with pytest.raises(UnreachableException, match=f"localhost:{fake.port}"):
        ClipperConnection(manager).connect()


@pytest.mark.parametrize("name", [{"cluster_name": "tests"}, {"data_dir": "nowhere"}])
def test_the_cluster_at_the_usual_ports_is_not_that_of_another_directory(
    tmp_path: Path, fake: FakeCluster, monkeypatch: pytest.MonkeyPatch, name: dict[str, Any]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(local_container_manager, "_QUERY_PORT", fake.port)
    monkeypatch.setattr(local_container_manager, "_MANAGEMENT_PORT", fake.port)
    with pytest.raises(
        UnreachableException, match=r"no cluster of .* is running: start_clipper\(\) starts one"
    ):
        LocalContainerManager(**name).connect()
    assert not fake.requests
    LocalContainerManager(**name, query_port=fake.port, management_port=fake.port).connect()
    LocalContainerManager().connect()
    assert len(fake.asked("/admin/ping")) == 2


def test_management_alone_is_connected_to_only_with_the_port_of_a_frontend(
    local: LocalContainerManager, binary: Path
) -> None:
    local.start_clipper()
    addresses = local.data_dir / "addresses.json"
    admin = json.loads(addresses.read_text())["admin"]
    addresses.write_text(json.dumps({"admin": admin}))
    with pytest.raises(ClipperException, match=r"is management alone, .* give the query_port of a frontend"):
        local.connect()
    with_port = LocalContainerManager(data_dir=local.data_dir, query_port=1, binary=binary)
    with_port.connect()
    assert with_port.get_query_addr() == "localhost:1"
    assert with_port.get_admin_addr() == local.get_admin_addr()


def test_the_end_of_a_log_that_was_set_aside_meanwhile_is_shown(local: LocalContainerManager) -> None:
    local.data_dir.mkdir()
    log = local.data_dir / "clipper.log"
    log.write_text("of an earlier start, and long\n" * 100)
    local.start_clipper()
    process = ClusterProcess.find(local.data_dir)
    assert process
    log.replace(log.with_name("clipper.log.1"))
    log.write_text("the latest\n")
    assert process.last_lines() == "the latest"


def test_a_log_is_read_from_its_oldest_file_on(local: LocalContainerManager) -> None:
    local.data_dir.mkdir()
    assert local.read_log() is None
    for name, text in (
        ("clipper.log", "4\n"),
        ("clipper.log.1", "3\n"),
        ("clipper.log.2", "2\n"),
        ("clipper.log.10", "1\n"),
        ("clipper.log.old", "someone else's\n"),
        ("clipper.err", "clipper: out of luck\n"),
    ):
        (local.data_dir / name).write_text(text)
    assert local.read_log() == "1\n2\n3\n4\nclipper: out of luck\n"


@pytest.fixture
def _generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_generous_umask")
def test_a_data_directory_is_created_for_its_owner_only(binary: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "above" / "data"
    manager = LocalContainerManager(
        data_dir=data_dir, query_port=0, management_port=0, rpc_port=0, binary=binary
    )
    manager.start_clipper()
    manager.stop_all(graceful=False)
    assert [path.stat().st_mode & 0o777 for path in (data_dir.parent, data_dir)] == [0o700, 0o700]
    assert (data_dir / "clipper.err").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [
        (0o777, r"data can be written by every user: .* run `chmod 700 .*data`"),
        (0o1777, r"data is shared by all users: name a directory of its own"),
    ],
)
def test_a_data_directory_that_every_user_can_write_is_refused(
    local: LocalContainerManager, mode: int, sentence: str
) -> None:
    local.data_dir.mkdir()
    local.data_dir.chmod(mode)
    with pytest.raises(StartException, match=sentence):
        local.start_clipper()
    assert not list(local.data_dir.iterdir())


def test_a_cluster_of_another_host_cannot_be_started_or_stopped_here() -> None:
    clipper = Clipper("clipper.example.org")
    with pytest.raises(StartException, match=r"run `clipper start` on clipper\.example\.org"):
        clipper.start()
    with pytest.raises(ClipperException, match="only be stopped on its own host"):
        clipper.stop()


def test_a_cluster_of_another_host_chooses_the_interpreter_itself() -> None:
    assert LocalContainerManager(host="clipper.example.org").python is None
    assert LocalContainerManager().python == sys.executable


def test_each_cluster_name_has_a_directory_of_its_own() -> None:
    assert LocalContainerManager().data_dir == Path.home() / ".clipper"
    assert LocalContainerManager("tests").data_dir == Path.home() / ".clipper-tests"


def test_a_program_that_is_missing_is_an_error_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPPER_BINARY", str(tmp_path / "nothing"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setattr("site.getuserbase", lambda: str(tmp_path))
    with pytest.raises(StartException, match="pip install"):
        LocalContainerManager(data_dir=tmp_path / "data").start_clipper()


def test_a_program_that_cannot_be_executed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "clipper").write_text("")
    manager = LocalContainerManager(data_dir=tmp_path / "data", binary=tmp_path / "clipper")
    with pytest.raises(StartException, match="Permission denied"):
        manager.start_clipper()
