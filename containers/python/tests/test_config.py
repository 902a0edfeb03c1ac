"""The settings, read from plain dicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipper_container import Address, Config, ConfigError, InputType
from clipper_container.messages import Register

REQUIRED = {"CLIPPER_MODEL_NAME": "m", "CLIPPER_MODEL_VERSION": "1", "CLIPPER_INPUT_TYPE": "d"}


def test_three_variables_are_enough():
    assert Config.from_environment(REQUIRED) == Config(
        "m", "1", InputType.DOUBLES, (Address("127.0.0.1", 7000),)
    )


def test_every_variable_is_read():
    config = Config.from_environment(
        {
            **REQUIRED,
            "CLIPPER_IP": "frontend",
            "CLIPPER_PORT": "7001",
            "CLIPPER_FRONTENDS": "10.0.0.2:7000, FRONTEND:7001,",
            "CLIPPER_MODEL_PATH": "/model",
            "CLIPPER_INSTANCE": "i",
            "CLIPPER_REPLICA": "2",
            "CLIPPER_TOKEN": "secret",
        }
    )
    assert config.frontends == (Address("frontend", 7001), Address("10.0.0.2", 7000))
    assert (config.model_path, config.instance, config.replica) == (Path("/model"), "i", 2)
    assert config.token == "secret"  # noqa: S105 - a test's secret
    assert "secret" not in repr(config)


def test_a_token_can_be_in_a_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("of-the-file-0123\n")
    config = Config.from_environment({**REQUIRED, "CLIPPER_TOKEN_FILE": str(file)})
    assert config.token == "of-the-file-0123"  # noqa: S105 - a test's secret
    both = {**REQUIRED, "CLIPPER_TOKEN_FILE": str(file), "CLIPPER_TOKEN": "secret"}
    with pytest.raises(ConfigError, match=r"^CLIPPER_TOKEN_FILE: CLIPPER_TOKEN gives a token, too"):
        Config.from_environment(both)


@pytest.mark.parametrize("content", [None, "", "\n", "two words", "tökén"])
def test_a_file_without_a_token_is_named_in_one_line(tmp_path, content):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"^CLIPPER_TOKEN_FILE: [^\n]*{file}[^\n]*$"):
        Config.from_environment({**REQUIRED, "CLIPPER_TOKEN_FILE": str(file)})


def test_the_message_that_carries_the_token_does_not_show_it():
    shown = repr(Register("m", "1", "doubles", token="secret"))
    assert "'m'" in shown
    assert "secret" not in shown


def test_the_default_frontend_is_not_added_to_named_ones():
    config = Config.from_environment({**REQUIRED, "CLIPPER_FRONTENDS": "a:1"})
    assert config.frontends == (Address("a", 1),)


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_missing_variable_is_named(name):
    with pytest.raises(ConfigError, match=f"^{name} is not set$"):
        Config.from_environment({**REQUIRED, name: " "})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLIPPER_INPUT_TYPE", "tensor"),
        ("CLIPPER_PORT", "0"),
        ("CLIPPER_PORT", "7e3"),
        ("CLIPPER_PORT", "9" * 5000),
        ("CLIPPER_IP", "a b"),
        ("CLIPPER_FRONTENDS", "a"),
        ("CLIPPER_FRONTENDS", "tcp://a:1"),
        ("CLIPPER_REPLICA", "-1"),
    ],
)
def test_a_malformed_variable_is_named_in_one_line(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: [^\n]*$"):
        Config.from_environment({**REQUIRED, name: value})


@pytest.mark.parametrize(
    ("text", "address"),
    [("Host:1", ("host", 1)), ("localhost:2", ("127.0.0.1", 2)), ("[::1]:3", ("::1", 3))],
)
def test_addresses_are_normalised(text, address):
    assert Address.parse(text) == address
    assert Address.parse(str(Address.parse(text))) == address


@pytest.mark.parametrize("text", ["", ":", "a", "a:", ":1", "::1:3", "a:65536", "a:١"])  # noqa: RUF001 - a digit that is not ASCII
def test_what_is_no_address_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"host:port|port between"):
        Address.parse(text)


@pytest.mark.parametrize("spelling", ["d", "double", "doubles", " Doubles "])
def test_input_types_have_many_spellings(spelling):
    assert InputType.parse(spelling) is InputType.DOUBLES
