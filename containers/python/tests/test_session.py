"""The state of a session, without sockets and with a clock of the test's own. Times are in seconds."""

from __future__ import annotations

from math import inf

import pytest

from clipper_container.config import Address
from clipper_container.membership import MAX_FRONTENDS, Membership
from clipper_container.messages import Drain, Heartbeat, Predict, Registered, Rejected, Unknown
from clipper_container.session import (
    MAX_PAUSE_SECONDS,
    MIN_PAUSE_SECONDS,
    REGISTRATION_TIMEOUT_SECONDS,
    Order,
    Session,
    State,
)

A, B, C = (Address("10.0.0.1", port) for port in (1, 2, 3))
WELCOME = Registered(replica=0, heartbeat_millis=1000, timeout_millis=3000)
BATCH = Predict(1, "strings", [], 0)


def accepted_session(now=0.0, address=A, frontends=None):
    session = Session(address, now)
    assert session.tick(now) is Order.OPEN
    session.spoke(now)
    assert session.receive(WELCOME._replace(frontends=frontends), now) is Order.NOTHING
    return session


def test_a_new_session_opens_at_once():
    session = Session(A, 5.0)
    assert session.wake_at == 5.0
    assert session.tick(5.0) is Order.OPEN
    assert session.state is State.REGISTERING


def test_a_registration_without_an_answer_is_given_up():
    session = Session(A, 0.0)
    session.tick(0.0)
    session.spoke(0.0)
    assert session.wake_at == REGISTRATION_TIMEOUT_SECONDS
    assert session.tick(REGISTRATION_TIMEOUT_SECONDS) is Order.CLOSE
    assert session.state is State.WAITING


def test_a_heartbeat_is_due_after_the_interval_of_saying_nothing():
    session = accepted_session()
    assert session.tick(0.9) is Order.NOTHING
    session.spoke(0.9)
    assert session.tick(1.8) is Order.NOTHING
    assert session.tick(1.9) is Order.HEARTBEAT


def test_a_frontend_that_is_silent_for_the_timeout_is_left():
    session = accepted_session()
    session.spoke(2.5)
    session.receive(Heartbeat(), 2.5)
    session.spoke(5.4)
    assert session.tick(5.4) is Order.NOTHING
    assert session.tick(5.5) is Order.CLOSE


def test_time_spent_in_a_batch_is_not_silence():
    session = accepted_session()
    session.receive(BATCH, 1.0)
    session.was_deaf(20.0)
    session.spoke(21.0)
    assert session.tick(21.5) is Order.NOTHING
    session.spoke(23.9)
    assert session.tick(24.0) is Order.CLOSE


def test_the_pause_doubles_up_to_its_limit():
    session = Session(A, 0.0)
    now, pauses = 0.0, []
    for _ in range(8):
        session.tick(now)
        session.fail(now, "test")
        pauses.append(session.wake_at - now)
        now = session.wake_at
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert pauses[0] == MIN_PAUSE_SECONDS
    assert pauses[-1] == pytest.approx(MAX_PAUSE_SECONDS)


def test_the_pause_is_short_again_after_a_sign_of_life_but_not_after_a_welcome_alone():
    session = accepted_session()
    session.fail(0.0, "test")
    session.tick(1.0)
    session.receive(WELCOME, 1.0)
    session.fail(1.0, "test")
    assert session.wake_at == pytest.approx(1.2)
    session.tick(2.0)
    session.receive(WELCOME, 2.0)
    session.receive(Heartbeat(), 2.0)
    session.fail(2.0, "test")
    assert session.wake_at == pytest.approx(2.1)


def test_unknown_is_answered_by_one_registration_however_often_it_is_said():
    session = accepted_session()
    assert session.receive(Unknown(), 1.0) is Order.REGISTER
    assert session.receive(Unknown(), 1.0) is Order.NOTHING
    session.receive(WELCOME, 1.0)
    assert session.accepted


def test_drain_leaves_and_comes_back_after_a_pause():
    session = accepted_session()
    assert session.receive(Drain(), 1.0) is Order.LEAVE
    assert session.wake_at == pytest.approx(1.0 + MIN_PAUSE_SECONDS)
    assert session.tick(session.wake_at) is Order.OPEN


def test_a_rejection_for_now_is_tried_again_when_it_says():
    session = Session(A, 0.0)
    session.tick(0.0)
    assert session.receive(Rejected("not yet", 700), 1.0) is Order.CLOSE
    assert session.wake_at == pytest.approx(1.7)


def test_a_rejection_for_good_is_the_end():
    session = accepted_session()
    assert session.receive(Rejected("the model was deleted"), 1.0) is Order.CLOSE
    assert session.refusal == "the model was deleted"
    assert session.wake_at == inf


def test_a_heartbeats_list_of_frontends_replaces_the_one_before():
    session = accepted_session(frontends=["a:1"])
    session.receive(Heartbeat(["b:1"]), 1.0)
    session.receive(Heartbeat(), 1.0)
    assert session.frontends == ["b:1"]


def test_membership_begins_with_the_configured_frontends():
    assert Membership([A, B]).wanted([]) == {A, B}


def test_membership_gives_up_a_frontend_that_is_neither_listed_nor_there():
    membership = Membership([A])
    a = accepted_session(address=A, frontends=[str(A), str(B)])
    assert membership.wanted([a]) == {A, B}
    b = accepted_session(address=B, frontends=[str(A), str(B)])
    a.frontends = b.frontends = [str(A)]
    assert membership.wanted([a, b]) == {A, B}
    b.fail(1.0, "test")
    assert membership.wanted([a, b]) == {A}


def test_membership_keeps_a_frontend_that_names_itself_or_nobody():
    a = accepted_session(address=A, frontends=[str(A)])
    b = accepted_session(address=B, frontends=[str(B)])
    c = accepted_session(address=C)
    assert Membership([A]).wanted([a, b, c]) == {A, B, C}


def test_membership_gives_up_an_alias_only_while_a_listed_frontend_accepts():
    membership = Membership([A])
    alias = accepted_session(address=A, frontends=[str(B)])
    assert membership.wanted([alias, Session(B, 0.0)]) == {A, B}
    listed = accepted_session(address=B, frontends=[str(B)])
    assert membership.wanted([alias, listed]) == {B}
    assert membership.wanted([listed]) == {B}
    listed.fail(1.0, "test")
    assert membership.wanted([listed]) == {A, B}


def test_membership_gives_nobody_up_while_no_frontend_accepts():
    b = accepted_session(address=B, frontends=[str(B)])
    b.fail(1.0, "test")
    assert Membership([A]).wanted([Session(A, 0.0), b]) == {A, B}


def test_membership_ignores_what_is_no_address():
    a = accepted_session(address=A, frontends=["nonsense", str(A)])
    assert Membership([A]).wanted([a]) == {A}


def test_membership_takes_no_more_frontends_than_there_are_sockets_for_and_warns_once(caplog):
    names = [f"10.0.0.9:{port}" for port in range(1, 3000)]
    a = accepted_session(address=A, frontends=[str(A), *names])
    membership = Membership([A])
    wanted = membership.wanted([a])
    assert len(wanted) == MAX_FRONTENDS
    assert A in wanted
    others = [accepted_session(address=address) for address in wanted - {A}]
    a.frontends = [str(A), *reversed(names)]
    assert membership.wanted([a, *others]) == wanted, "no session ends for another"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_membership_remembers_of_what_is_no_address_only_what_is_still_listed(caplog):
    a = accepted_session(address=A, frontends=["nonsense 0", str(A)])
    membership = Membership([A])
    for number in range(100):
        a.frontends = [f"nonsense {number}", "x" * 100_000, str(A)]
        membership.wanted([a])
        membership.wanted([a])
    assert len(caplog.records) == 101, "each is warned of once"
    assert max(len(record.getMessage()) for record in caplog.records) < 400
    assert len(membership._ignored) == 2


def test_a_batch_that_arrives_before_the_registration_is_of_an_earlier_one():
    session = accepted_session()
    assert session.expects(BATCH)
    before = session.registration
    session.receive(Unknown(), 1.0)
    assert not session.expects(BATCH)
    assert session.expects(WELCOME)
    session.receive(WELCOME, 1.0)
    assert session.expects(BATCH)
    assert session.registration != before


def test_a_second_welcome_begins_another_registration():
    session = accepted_session()
    before = session.registration
    session.receive(WELCOME, 1.0)
    assert session.registration != before
