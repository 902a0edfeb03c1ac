"""The command line: `python -m clipper_container KIND`.

Invariant: whatever stops the container from serving is one line on stderr and a non-zero exit code.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import closure, kinds
from .adapter import Model
from .config import Config
from .container import serve
from .errors import ConfigError, ContainerError
from .version import __version__

_OPTIONS = {
    "name": ("CLIPPER_MODEL_NAME", "the model's name"),
    "version": ("CLIPPER_MODEL_VERSION", "the model's version"),
    "input_type": ("CLIPPER_INPUT_TYPE", "bytes, ints, floats, doubles or strings"),
    "frontends": ("CLIPPER_FRONTENDS", "frontends to begin with: host:port, separated by commas"),
    "model_path": ("CLIPPER_MODEL_PATH", "the folder that holds the model's files"),
    "token_file": ("CLIPPER_TOKEN_FILE", "a file with the token that admits this container"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves one kind of model until a signal ends it; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr, level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    try:
        config = Config.from_environment(_environment(options))
        model, per_row = _model(options.kind, config.model_path)
        serve(model, config=config, per_row=per_row or options.per_row)
    except ContainerError as error:
        sys.stderr.write(f"clipper_container: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipper-container",
        description="Serve a model to a Clipper cluster. Every option but --per-row can also be given by the "
        "environment variable that its help names; an option wins over its variable.",
    )
    parser.add_argument(
        "kind",
        help="noop (a constant per input), sum (of the input's elements, or its length), python-closure (the "
        "function deployed in the model's folder), or MODULE:NAME of a function or class",
    )
    for option, (variable, text) in _OPTIONS.items():
        parser.add_argument(f"--{option.replace('_', '-')}", help=f"{text} [{variable}]")
    parser.add_argument("--per-row", action="store_true", help="call the function with one input at a time")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    parser.add_argument("-V", action="version", version=f"%(prog)s {__version__}")
    return parser


def _environment(options: argparse.Namespace) -> Mapping[str, str]:
    given = {variable: getattr(options, option) for option, (variable, _) in _OPTIONS.items()}
    return {**os.environ, **{variable: value for variable, value in given.items() if value is not None}}


def _model(kind: str, model_path: Path | None) -> tuple[Model, bool]:
    """Returns the model of a kind, and whether it takes one input at a time."""
    if kind == "noop":
        return kinds.noop, False
    if kind == "sum":
        return kinds.element_sum, False
    if kind == "python-closure":
        if model_path is None:
            raise ConfigError("CLIPPER_MODEL_PATH is not set; it names the folder of the deployed function")
        return closure.load(model_path)
    module, colon, name = kind.partition(":")
    if not colon:
        raise ConfigError(f"{kind!r} is not a kind; use noop, sum, python-closure or MODULE:NAME")
    sys.path.insert(0, str(Path.cwd()))
    try:
        model: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot find {kind!r}: {error}") from error
    return model, False


if __name__ == "__main__":
    sys.exit(main())
