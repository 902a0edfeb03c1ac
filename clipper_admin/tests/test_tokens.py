"""The token of operators: where it may come from, whom it is sent to, and where it never appears."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster

from clipper_admin import (
    Clipper,
    ClipperConnection,
    ClipperException,
    LocalContainerManager,
    RefusedException,
)
from clipper_admin.deployers.python import _install
from clipper_admin.tokens import AdminToken, TokenSource, without_tokens

TOKEN = "the-token-of-the-operators"  # noqa: S105
FAKE_CLIPPER = Path(__file__).with_name("fake_clipper.py")


@pytest.fixture(autouse=True)
def _no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIPPER_ADMIN_TOKEN", "CLIPPER_ADMIN_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "admin.token"
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def elsewhere() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    yield cluster
    cluster.close()


def ports(fake: FakeCluster) -> dict[str, Any]:
    return {"query_port": fake.port, "management_port": fake.port}


def sent(fake: FakeCluster, path: str) -> list[str | None]:
    return [request.authorization for request in fake.requests if request.path == path]


def test_every_face_takes_the_token_itself_or_its_file(
    fake: FakeCluster, tmp_path: Path, token_file: Path
) -> None:
    for given in (
        {"admin_token": TOKEN},
        {"admin_token_file": token_file},
        {"admin_token_file": str(token_file)},
    ):
        manager = LocalContainerManager(data_dir=tmp_path / "data", **ports(fake))
        for cluster in (
            Clipper(data_dir=tmp_path / "data", **ports(fake), **given),
            ClipperConnection(manager, **given),
            ClipperConnection(LocalContainerManager(data_dir=tmp_path / "data", **ports(fake), **given)),
        ):
            fake.requests.clear()
            cluster.connect()
            cluster.get_all_apps()
            assert sent(fake, "/admin/get_all_applications") == [f"Bearer {TOKEN}"]


def test_the_variables_are_asked_where_no_argument_is_given(
    fake: FakeCluster, manager: LocalContainerManager, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPPER_ADMIN_TOKEN_FILE", str(token_file))
    conn = ClipperConnection(manager)
    conn.connect()
    conn.get_all_apps()
    monkeypatch.delenv("CLIPPER_ADMIN_TOKEN_FILE")
    monkeypatch.setenv("CLIPPER_ADMIN_TOKEN", f"{TOKEN}-of-the-variable")
    conn.connect()
    conn.get_all_apps()
    assert sent(fake, "/admin/get_all_applications") == [f"Bearer {TOKEN}", f"Bearer {TOKEN}-of-the-variable"]
    fake.requests.clear()
    conn = ClipperConnection(manager, admin_token=TOKEN)
    conn.connect()
    conn.get_all_apps()
    assert sent(fake, "/admin/get_all_applications") == [f"Bearer {TOKEN}"]


def test_without_a_token_none_is_sent(fake: FakeCluster, connection: ClipperConnection) -> None:
    connection.get_all_apps()
    assert {request.authorization for request in fake.requests} == {None}


def test_applications_are_not_sent_the_token(fake: FakeCluster, manager: LocalContainerManager) -> None:
    conn = ClipperConnection(manager, admin_token=TOKEN)
    conn.connect()
    for path in ("/app/predict", "/app/feedback"):
        fake.answer(path, {})
    conn.predict("app", [1.0])
    conn.feedback("app", query_id=1, label=2)
    assert sent(fake, "/app/predict") == [None]
    assert sent(fake, "/app/feedback") == [None]


def test_the_token_is_not_sent_where_a_redirect_leads(
    fake: FakeCluster, elsewhere: FakeCluster, manager: LocalContainerManager
) -> None:
    conn = ClipperConnection(manager, admin_token=TOKEN)
    conn.connect()
    for status in (301, 302, 303, 307, 308):
        fake.redirect("/admin/get_all_applications", f"http://127.0.0.1:{elsewhere.port}/", status)
        with pytest.raises(RefusedException, match=r"redirects to http://127\.0\.0\.1:.*not sent"):
            conn.get_all_apps()
    assert elsewhere.requests == []


def test_a_refused_token_says_how_to_give_another(fake: FakeCluster, connection: ClipperConnection) -> None:
    fake.answer(
        "/admin/get_all_applications", {"error": "Unauthorized", "cause": "needs a token"}, status=401
    )
    with pytest.raises(
        RefusedException, match=r"needs a token .*admin_token_file.*CLIPPER_ADMIN_TOKEN"
    ) as caught:
        connection.get_all_apps()
    assert caught.value.cause == "needs a token"


def test_no_exception_and_no_repr_shows_the_token(fake: FakeCluster, manager: LocalContainerManager) -> None:
    conn = ClipperConnection(manager, admin_token=TOKEN)
    conn.connect()
    fake.answer("/admin/get_all_applications", {"error": "Unauthorized", "cause": "no"}, status=401)
    shown = [repr(conn), repr(manager.tokens), repr(manager.tokens.read()), str(vars(conn.cm))]
    with pytest.raises(RefusedException) as refused:
        conn.get_all_apps()
    fake.close()
    with pytest.raises(ClipperException) as unreachable:
        conn.get_all_apps()
    for caught in (refused, unreachable):
        shown += [repr(caught.value), "".join(traceback.format_exception(caught.value))]
    assert not any(TOKEN in text for text in shown)


@pytest.mark.parametrize(
    "wrong", ["", "swordfish", "a token of several words", "swordfish-\r\nX-Header: 1", "ü" * 20]
)
def test_what_is_no_token_is_refused_and_not_shown(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(wrong)
    monkeypatch.setenv("CLIPPER_ADMIN_TOKEN", wrong)
    for read, source in (
        (lambda: TokenSource(admin_token=wrong), "admin_token"),
        (TokenSource(admin_token_file=file).read, str(file)),
        (TokenSource().read, "CLIPPER_ADMIN_TOKEN"),
    ):
        with pytest.raises(ClipperException) as caught:
            read()
        assert source in str(caught.value)
        assert not wrong or wrong not in str(caught.value)


def test_a_token_that_is_given_twice_is_an_error(
    tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClipperException, match="either admin_token or admin_token_file"):
        LocalContainerManager(data_dir=tmp_path, admin_token=TOKEN, admin_token_file=token_file)
    monkeypatch.setenv("CLIPPER_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("CLIPPER_ADMIN_TOKEN_FILE", str(token_file))
    with pytest.raises(ClipperException, match="given twice"):
        TokenSource().read()


def test_a_token_file_that_is_missing_is_named(manager: LocalContainerManager, tmp_path: Path) -> None:
    conn = ClipperConnection(manager, admin_token_file=tmp_path / "missing")
    with pytest.raises(ClipperException, match=r"admin_token_file: cannot read .*missing"):
        conn.connect()


@pytest.mark.parametrize("by_file", [False, True])
def test_a_cluster_that_is_started_here_asks_for_the_token_and_no_command_line_shows_it(
    by_file: bool, tmp_path: Path, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The argument takes the place of what is in the environment.
    monkeypatch.setenv(
        "CLIPPER_ADMIN_TOKEN_FILE" if not by_file else "CLIPPER_ADMIN_TOKEN", "another-one-of-old"
    )
    given: dict[str, Any] = {"admin_token_file": token_file} if by_file else {"admin_token": TOKEN}
    manager = LocalContainerManager(
        data_dir=tmp_path / "data",
        binary=FAKE_CLIPPER,
        **given,
        insecure_management=True,
        allowed_hosts=["a.example", "b.example"],
        cors_origins="https://shop.example",
    )
    manager.start_clipper()
    try:
        environment = json.loads((manager.data_dir / "tokens.json").read_text())
        options = (manager.data_dir / "clipper.log").read_text()
    finally:
        manager.stop_all()
    expected = {"CLIPPER_ADMIN_TOKEN_FILE": str(token_file)} if by_file else {"CLIPPER_ADMIN_TOKEN": TOKEN}
    assert environment == expected
    assert TOKEN not in options
    for flag in (
        "'--insecure-management'",
        "'--allowed-hosts', 'a.example,b.example'",
        "'--cors-origins', 'https://shop.example'",
    ):
        assert flag in options
    assert "--allowed-origins" not in options


def test_the_set_up_of_packages_does_not_see_the_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPPER_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("KEPT", "yes")
    seen = tmp_path / "seen"
    pip = tmp_path / "python"
    pip.write_text(f"#!/bin/sh\nenv > {seen}\n")
    pip.chmod(0o755)
    _install(["anything"], str(pip))
    assert "KEPT=yes" in seen.read_text()
    assert TOKEN not in seen.read_text()
    assert without_tokens({"CLIPPER_CLUSTER_TOKEN_FILE": "x", "A": "b"}) == {"A": "b"}


def test_white_space_around_a_token_does_not_count() -> None:
    assert AdminToken(f"  {TOKEN}\n", "a test").header == f"Bearer {TOKEN}"
