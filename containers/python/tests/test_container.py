"""Container processes against a real ROUTER socket.

Invariant: only the wire and the process are looked at.
"""

from __future__ import annotations

import json
import signal
import sys

import msgpack
import pytest

from fake_frontend import FakeFrontend, unpack_outputs
from process import wait_until

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract Unix sockets")


def test_registers_with_what_it_was_told(frontend, start):
    start(
        "noop",
        frontend,
        input_type="d",
        CLIPPER_INSTANCE="i-1",
        CLIPPER_REPLICA="3",
        CLIPPER_TOKEN="secret",
    )
    header = frontend.receive().header
    assert header.pop("sdk").startswith("clipper_container/")
    assert header == {
        "type": "register",
        "protocol": 4,
        "model": "m",
        "version": "1",
        "input_type": "doubles",
        "instance": "i-1",
        "replica": 3,
        "token": "secret",
    }


def test_a_list_of_more_frontends_than_there_are_sockets_for_ends_no_container(frontend, start):
    start("served_models:documented", frontend, input_type="ints")
    peer = frontend.accept(frontends=[frontend.address, *(f"127.0.0.1:{port}" for port in range(1, 2000))])
    for batch in range(3):
        frontend.receive("heartbeat", peer=peer)
        assert frontend.predict(peer, "ints", [[1, 2]], batch).type == "prediction"


def test_registers_with_the_token_of_a_file(frontend, start, tmp_path):
    file = tmp_path / "token"
    file.write_text("of-the-file-0123\n")
    start("noop", frontend, input_type="d", CLIPPER_TOKEN_FILE=str(file))
    assert frontend.receive().header["token"] == "of-the-file-0123"  # noqa: S105 - a test's secret


@pytest.mark.parametrize("input_type", ["ints", "floats", "doubles"])
def test_the_documented_function_serves_every_numeric_type(frontend, start, input_type):
    start("served_models:documented", frontend, input_type=input_type)
    peer = frontend.accept()
    assert [float(text) for text in frontend.outputs(peer, input_type, [[1, 2], [3, 4]])] == [3, 7]
    assert [float(text) for text in frontend.outputs(peer, input_type, [[1, 2], [], [3]])] == [3, 0, 3]


@pytest.mark.parametrize(("input_type", "inputs"), [("strings", ["a", "ß", ""]), ("bytes", [b"a", b""])])
def test_strings_and_bytes_arrive_as_lists(frontend, start, input_type, inputs):
    start("served_models:upper", frontend, input_type=input_type)
    assert frontend.outputs(frontend.accept(), input_type, inputs) == [each.upper() for each in inputs]


def test_arrays_are_answered_as_numbers(frontend, start):
    start("served_models:means", frontend)
    answer = frontend.predict(frontend.accept(), "doubles", [[1, 2], [3, 4]])
    assert answer.header["dtype"] == "doubles"
    assert unpack_outputs(answer) == [1.5, 3.5]


def test_matrices_are_answered_as_lists_of_numbers(frontend, start):
    start("served_models:rows", frontend, input_type="floats")
    assert frontend.outputs(frontend.accept(), "floats", [[1, 2], [3, 4]]) == [(1, 2), (3, 4)]


def test_inputs_of_different_lengths_are_handed_over_by_length(frontend, start):
    start("served_models:shapes", frontend)
    outputs = frontend.outputs(frontend.accept(), "doubles", [[1], [1, 2], [3]])
    assert outputs == ["(2, 1)", "(1, 2)", "(2, 1)"]


def test_an_empty_input_does_not_kill_the_container(frontend, start):
    start("served_models:means", frontend)
    peer = frontend.accept()
    for inputs in ([], [[]], [[], []], [[1], []]):
        answer = frontend.predict(peer, "doubles", inputs)
        assert answer.type == "prediction"
        assert answer.header["count"] == len(inputs)
    assert frontend.outputs(peer, "doubles", [[1, 3]]) == [2]


def test_a_model_is_warm_before_it_registers(frontend, start):
    start("served_models:Warmed", frontend)
    assert frontend.outputs(frontend.accept(), "doubles", [[1]]) == ["true"]


@pytest.mark.parametrize(
    ("input_type", "inputs", "outputs"),
    [
        ("doubles", [[1, 2], [3, 4]], [3, 7]),
        ("ints", [[2**31 - 1, 1], [0, 0]], [str(2**31), "0"]),
        ("strings", ["abc", ""], [3, 0]),
        ("bytes", [b"abc", b""], [3, 0]),
    ],
)
def test_the_kind_sum_adds_up(frontend, start, input_type, inputs, outputs):
    start("sum", frontend, input_type=input_type)
    assert frontend.outputs(frontend.accept(), input_type, inputs) == outputs


def test_an_exception_costs_its_batch_only(frontend, start):
    container = start("served_models:fail_on_bad", frontend, input_type="strings")
    peer = frontend.accept()
    answer = frontend.predict(peer, "strings", ["good", "bad"])
    assert answer.type == "error"
    assert answer.header["message"].startswith("Traceback")
    assert answer.header["message"].endswith("ValueError: a bad input")
    assert "served_models.py" in answer.header["message"]
    assert "adapter.py" not in answer.header["message"]
    wait_until(lambda: answer.header["message"] in container.log, "the traceback is logged")
    assert frontend.outputs(peer, "strings", ["good"]) == ["good"]


def test_a_wrong_number_of_outputs_is_explained(frontend, start):
    start("served_models:one_output", frontend)
    answer = frontend.predict(frontend.accept(), "doubles", [[1], [2]])
    assert answer.type == "error"
    assert answer.header["message"] == (
        "the function returned 1 output for 2 inputs; it must return one per input"
    )


def test_an_output_that_is_not_unicode_costs_its_input_only(frontend, start):
    container = start("served_models:half_a_surrogate_pair_of_bad", frontend, input_type="strings")
    answer = frontend.predict(frontend.accept(), "strings", ["a", "bad", "b", "nested"])
    assert answer.header["outputs"] == ["a", None, "b", None]
    assert list(answer.header["errors"]) == [1, 3]
    assert "the output, of type str, cannot be sent: " in answer.header["errors"][1]
    assert "surrogates not allowed" in answer.header["errors"][1]
    wait_until(lambda: "2 of 4 inputs failed: input 1: the output" in container.log, "the failure is logged")


def test_an_output_that_is_too_long_costs_its_input_only(frontend, start):
    start("served_models:too_long", frontend, input_type="strings")
    peer = frontend.accept()
    answer = frontend.predict(peer, "strings", ["a", "b" * 200])
    assert answer.header["outputs"] == ["a" * 10, None]
    assert "the most allowed are 1000" in answer.header["errors"][1]
    together = frontend.predict(peer, "strings", ["a" * 40] * 3)
    assert together.type == "error", "each can be sent, and not all of them at once"
    assert frontend.outputs(peer, "strings", ["a" * 40]) == ["a" * 400]


def test_a_failure_is_logged_in_full_with_the_size_of_the_batch_and_once(frontend, start):
    container = start("served_models:fail_deep_down", frontend)
    peer = frontend.accept()
    for _ in range(20):
        assert frontend.predict(peer, "doubles", [[1], [2]]).type == "error"
    assert container.log.count("a batch of 2 inputs failed: Traceback") == 1
    assert container.log.count("ValueError: the cause xxx") == 1
    assert container.log.count("in fail_deep_down") > 10
    assert "in fail_further_down" in container.log


def test_an_exception_in_per_row_mode_costs_its_row_only(frontend, start):
    container = start("served_models:fail_on_bad_row", frontend, input_type="strings", options=("--per-row",))
    answer = frontend.predict(frontend.accept(), "strings", ["a", "bad", "b"])
    assert answer.header["outputs"] == ["a", None, "b"]
    assert list(answer.header["errors"]) == [1]
    assert answer.header["errors"][1].endswith("ValueError: a bad input")
    wait_until(lambda: "1 of 3 inputs failed: input 1: Traceback" in container.log, "the failure is logged")


def test_a_model_that_calls_exit_does_not_end_the_container(frontend, start):
    container = start("served_models:leave", frontend)
    peer = frontend.accept()
    for _ in range(2):
        assert "the model wants to leave" in frontend.predict(peer, "doubles", [[1]]).header["message"]
    assert container.is_alive


def test_a_model_that_is_interrupted_answers_and_leaves(frontend, start):
    container = start("served_models:interrupt", frontend)
    peer = frontend.accept()
    assert frontend.predict(peer, "doubles", [[1]]).type == "error"
    frontend.receive("goodbye", peer=peer)
    assert container.exit_code() == 0


def test_feedback_is_acknowledged(frontend, start):
    start("noop", frontend, input_type="strings")
    peer = frontend.accept()
    frontend.send(peer, "feedback", id=8, count=1, input_type="strings", inputs=["a"], labels=["b"])
    assert frontend.receive("feedback_ack").header == {"type": "feedback_ack", "id": 8}


def test_sends_heartbeats_while_it_has_nothing_to_say(frontend, start):
    start("noop", frontend)
    peer = frontend.accept(heartbeat_millis=20)
    for _ in range(3):
        assert frontend.receive().header == {"type": "heartbeat"}
    frontend.send(peer, "heartbeat")
    assert frontend.receive().peer == peer


def test_a_silent_frontend_is_left_for_a_fresh_session(frontend, start):
    start("noop", frontend)
    silent = frontend.accept(timeout_millis=100)
    assert frontend.receive("register").peer != silent


def test_heartbeats_keep_a_session(frontend, start):
    start("noop", frontend)
    peer = frontend.accept(heartbeat_millis=20, timeout_millis=1000)
    for _ in range(60):
        assert frontend.receive().type == "heartbeat"
        frontend.send(peer, "heartbeat")


def test_a_slow_batch_does_not_count_as_silence(frontend, start, tmp_path):
    start("served_models:hold", frontend, input_type="strings")
    peer = frontend.accept(heartbeat_millis=10_000, timeout_millis=600)
    frontend.send_predict(peer, 1, "strings", [str(tmp_path)])
    assert frontend.hears_nothing_for(1.0)
    (tmp_path / "release").touch()
    frontend.receive("prediction", peer=peer)
    frontend.send(peer, "heartbeat")
    assert frontend.outputs(peer, "strings", [str(tmp_path)]) == [str(tmp_path)]


def test_bears_any_timeout_that_a_frontend_names(frontend, start):
    start("noop", frontend)
    peer = frontend.accept(heartbeat_millis=2**64 - 1, timeout_millis=2**64 - 1)
    assert len(frontend.outputs(peer, "doubles", [[1]])) == 1


def test_registers_again_when_it_is_unknown(frontend, start):
    start("noop", frontend)
    peer = frontend.accept()
    frontend.send(peer, "unknown")
    frontend.welcome(frontend.receive("register").peer)
    assert len(frontend.outputs(peer, "doubles", [[1]])) == 1


def test_registers_once_however_often_it_is_told_that_it_is_unknown(frontend, start):
    start("noop", frontend)
    peer = frontend.accept(heartbeat_millis=60_000)
    for _ in range(3):
        frontend.send(peer, "unknown")
    frontend.welcome(frontend.receive("register").peer, heartbeat_millis=60_000)
    frontend.send_predict(peer, 1, "doubles", [[1]])
    assert frontend.receive().type == "prediction"


def let_it_arrive(frontend, peer):
    """Waits for as long as the container takes to send two heartbeats, while its model computes."""
    for _ in range(2):
        frontend.receive("heartbeat", peer=peer)


def test_drops_the_batches_that_it_holds_when_it_is_unknown(frontend, start, tmp_path):
    start("served_models:hold", frontend, input_type="strings")
    peer = frontend.accept()
    frontend.send_predict(peer, 1, "strings", [str(tmp_path)])
    frontend.send_predict(peer, 2, "strings", [str(tmp_path)])
    wait_until((tmp_path / "began").exists, "the batch has begun")
    frontend.send(peer, "unknown")
    frontend.send_predict(peer, 3, "strings", [str(tmp_path)])
    let_it_arrive(frontend, peer)
    (tmp_path / "release").touch()
    assert frontend.receive("register", "prediction").type == "register"
    frontend.send_predict(peer, 4, "strings", [str(tmp_path)])
    frontend.welcome(peer)
    frontend.send_predict(peer, 5, "strings", [str(tmp_path)])
    assert frontend.receive("register", "prediction").header["id"] == 5


def test_drops_the_batches_that_it_holds_when_it_is_welcomed_again(frontend, start, tmp_path):
    start("served_models:hold", frontend, input_type="strings")
    peer = frontend.accept()
    frontend.send_predict(peer, 1, "strings", [str(tmp_path)])
    frontend.send_predict(peer, 2, "strings", [str(tmp_path)])
    wait_until((tmp_path / "began").exists, "the batch has begun")
    frontend.welcome(peer)
    frontend.send_predict(peer, 3, "strings", [str(tmp_path)])
    let_it_arrive(frontend, peer)
    (tmp_path / "release").touch()
    assert frontend.receive("prediction").header["id"] == 3


def test_sends_heartbeats_to_every_frontend_while_it_computes(frontend, another_frontend, start, tmp_path):
    start("served_models:hold", frontend, another_frontend, input_type="strings")
    peer = frontend.accept(heartbeat_millis=50)
    other = another_frontend.accept(heartbeat_millis=50)
    frontend.send_predict(peer, 1, "strings", [str(tmp_path)])
    wait_until((tmp_path / "began").exists, "the batch has begun")
    while not another_frontend.hears_nothing_for(0):
        another_frontend.receive("heartbeat", peer=other)
    for _ in range(5):
        another_frontend.receive("heartbeat", peer=other)
        frontend.receive("heartbeat", peer=peer)
    (tmp_path / "release").touch()
    frontend.receive("prediction", peer=peer)


def test_a_frontend_that_may_accept_later_outweighs_one_that_refuses(frontend, another_frontend, start):
    container = start("noop", frontend, another_frontend)
    peer = another_frontend.receive("register").peer
    another_frontend.send(peer, "rejected", reason="not yet", retry_millis=500)
    wait_until(lambda: "not yet accepted" in container.log, "the container waits")
    frontend.send(frontend.receive("register").peer, "rejected", reason="registered elsewhere")
    peer = another_frontend.accept()
    assert len(another_frontend.outputs(peer, "doubles", [[1]])) == 1
    assert container.is_alive


def test_finds_a_frontend_that_restarted(frontend, start):
    start("noop", frontend)
    frontend.accept(heartbeat_millis=20)
    frontend.receive("heartbeat")
    frontend.close()
    with FakeFrontend(frontend.port) as successor:
        stranger = successor.receive()
        if stranger.type != "register":
            successor.send(stranger.peer, "unknown")
            stranger = successor.receive("register")
        successor.welcome(stranger.peer)
        assert len(successor.outputs(stranger.peer, "doubles", [[1]])) == 1


def test_waits_for_a_frontend_that_is_not_there_yet(start):
    with FakeFrontend() as gone:
        port = gone.port
    start("noop", f"127.0.0.1:{port}")
    with FakeFrontend(port) as frontend:
        assert len(frontend.outputs(frontend.accept(), "doubles", [[1]])) == 1


@on_linux
def test_a_frontend_that_offers_a_unix_socket_is_reached_over_it(frontend, start):
    with FakeFrontend(frontend.port, unix=True) as unix_side:
        start("noop", frontend)
        peer = unix_side.accept(frontends=[frontend.address])
        assert len(unix_side.outputs(peer, "doubles", [[1]])) == 1
        assert unix_side.receive().type == "heartbeat", "the container knows it by its address"
        assert frontend.hears_nothing_for(0)


def test_a_frontend_that_listens_by_tcp_only_is_reached(frontend, start):
    start("noop", frontend)
    assert len(frontend.outputs(frontend.accept(), "doubles", [[1]])) == 1


@on_linux
def test_a_fresh_session_chooses_between_unix_socket_and_tcp_anew(frontend, start):
    container = start("noop", frontend)
    peer = frontend.accept()
    with FakeFrontend(frontend.port, unix=True) as unix_side:
        frontend.send(peer, "drain")
        unix_side.accept(timeout_millis=100)
    assert len(frontend.outputs(frontend.accept(), "doubles", [[1]])) == 1
    assert f"lost the frontend {frontend.address}: " in container.log


def test_comes_back_when_it_is_rejected_for_now(frontend, start):
    start("noop", frontend)
    first = frontend.receive("register").peer
    frontend.send(first, "rejected", reason="the model is not registered", retry_millis=1)
    assert frontend.accept() != first


def test_ends_with_the_reason_when_it_is_rejected_for_good(frontend, start):
    container = start("noop", frontend)
    frontend.send(frontend.receive("register").peer, "rejected", reason="the input type is ints")
    assert container.exit_code() == 1
    assert container.log.splitlines()[-1] == (
        f"clipper_container: the frontend {frontend.address} rejected this container: the input type is ints"
    )


def test_a_rejection_is_outweighed_by_another_frontend_that_accepts(frontend, another_frontend, start):
    container = start("noop", frontend, another_frontend)
    frontend.send(frontend.receive("register").peer, "rejected", reason="no")
    peer = another_frontend.accept()
    assert len(another_frontend.outputs(peer, "doubles", [[1]])) == 1
    assert container.is_alive


def test_drain_is_answered_by_goodbye_and_a_new_session(frontend, start):
    start("noop", frontend)
    peer = frontend.accept()
    frontend.send_predict(peer, 1, "doubles", [[1]])
    frontend.send(peer, "drain")
    assert [frontend.receive().type for _ in range(2)] == ["prediction", "goodbye"]
    assert frontend.accept() != peer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_container_at_once(frontend, start, number):
    container = start("noop", frontend)
    peer = frontend.accept(heartbeat_millis=60_000)
    frontend.outputs(peer, "doubles", [[1]])
    container.signal(number)
    assert frontend.receive().type == "goodbye"
    assert container.exit_code() == 0


def test_a_worker_that_the_model_forked_dies_by_sigterm(frontend, start):
    container = start("served_models:kill_a_forked_worker", frontend)
    peer = frontend.accept()
    assert frontend.outputs(peer, "doubles", [[1]]) == [signal.SIGTERM]
    assert frontend.outputs(peer, "doubles", [[1]]) == [signal.SIGTERM]
    assert container.is_alive


def test_sigterm_lets_the_batch_finish(frontend, start, tmp_path):
    container = start("served_models:hold", frontend, input_type="strings")
    peer = frontend.accept()
    frontend.send_predict(peer, 1, "strings", [str(tmp_path)])
    wait_until((tmp_path / "began").exists, "the batch has begun")
    container.signal(signal.SIGTERM)
    frontend.send_predict(peer, 2, "strings", ["never begun"])
    (tmp_path / "release").touch()
    assert frontend.receive("prediction").header["id"] == 1
    assert frontend.receive().type == "goodbye"
    assert container.exit_code() == 0


def test_a_second_sigterm_ends_the_container_in_the_midst_of_a_batch(frontend, start, tmp_path):
    container = start("served_models:hold", frontend, input_type="strings")
    frontend.send_predict(frontend.accept(), 1, "strings", [str(tmp_path)])
    wait_until((tmp_path / "began").exists, "the batch has begun")

    def is_gone_after_another_signal():
        container.signal(signal.SIGTERM)
        return not container.is_alive

    wait_until(is_gone_after_another_signal, "the process is gone")
    assert container.exit_code() == -signal.SIGTERM


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b""],
        [b"", b"garbage"],
        [b"", b"\xc1"],
        [b"not empty", msgpack.packb({"type": "heartbeat"})],
        [b"", msgpack.packb({"type": "heartbeat"}), b"", b""],
        [b"", msgpack.packb({"type": "nonsense"})],
        [b"", msgpack.packb({"type": []})],
        [b"", msgpack.packb({"type": "registered", "replica": -1})],
        [
            b"",
            msgpack.packb(
                {
                    "type": "predict",
                    "id": 1,
                    "count": 1,
                    "input_type": "doubles",
                    "budget_micros": 1,
                    "lengths": [2],
                }
            ),
            b"too short",
        ],
    ],
)
def test_garbage_is_answered_by_a_fresh_session(frontend, start, frames):
    container = start("noop", frontend)
    peer = frontend.accept()
    frontend.send_frames(peer, *frames)
    successor = frontend.accept()
    assert successor != peer
    assert len(frontend.outputs(successor, "doubles", [[1]])) == 1
    assert "malformed message" in container.log


def test_serves_the_frontends_that_a_frontend_names(frontend, another_frontend, start):
    start("noop", frontend)
    names = [frontend.address, f"LOCALHOST:{another_frontend.port}", another_frontend.address]
    peer = frontend.accept(frontends=names)
    other = another_frontend.accept(frontends=names)
    assert len(frontend.outputs(peer, "doubles", [[1]])) == 1
    assert len(another_frontend.outputs(other, "doubles", [[1]])) == 1
    assert another_frontend.receive().type == "heartbeat", "the two spellings of its address are one session"


def test_a_frontend_that_is_no_longer_named_is_kept_while_it_answers(frontend, another_frontend, start):
    start("noop", frontend)
    peer = frontend.accept(frontends=[frontend.address, another_frontend.address])
    other = another_frontend.accept()
    another_frontend.outputs(other, "doubles", [[1]])
    frontend.send(peer, "heartbeat", frontends=[frontend.address])
    another_frontend.send(other, "heartbeat", frontends=[frontend.address])
    assert len(frontend.outputs(peer, "doubles", [[1]])) == 1
    assert len(another_frontend.outputs(other, "doubles", [[1]])) == 1
    another_frontend.send(other, "drain")
    another_frontend.receive("goodbye", peer=other)
    assert another_frontend.hears_nothing_for(1), "it is neither named nor accepts the container any more"


def test_an_address_that_no_frontend_calls_its_own_is_left_for_the_listed_one(
    frontend, another_frontend, start
):
    start("noop", frontend)
    alias = frontend.accept(frontends=[another_frontend.address])
    another_frontend.accept(frontends=[another_frontend.address])
    frontend.receive("goodbye", peer=alias)


def test_a_missing_variable_is_one_line(start):
    container = start("noop", CLIPPER_MODEL_NAME="")
    assert container.exit_code() == 1
    assert container.log == "clipper_container: CLIPPER_MODEL_NAME is not set\n"


def test_an_unknown_kind_is_one_line(start):
    container = start("nonsense")
    assert container.exit_code() == 1
    assert container.log.count("\n") == 1
    assert "'nonsense' is not a kind" in container.log


def test_an_unsendable_output_costs_its_row_only(frontend, start):
    start("served_models:unsendable_first", frontend)
    answer = frontend.predict(frontend.accept(), "doubles", [[1], [2]])
    assert answer.header["outputs"][0] is None
    assert json.loads(answer.header["outputs"][1]) == {"ok": None}
    assert list(answer.header["errors"]) == [0]
