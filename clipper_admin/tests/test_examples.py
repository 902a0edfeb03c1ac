"""The examples, as a reader runs them, with a real cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif("CLIPPER_BINARY" not in os.environ, reason="CLIPPER_BINARY does not name a program"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCES = Path(__file__).parents[1] / "src"


@pytest.mark.parametrize("example", ["selection", "personalization"])
def test_an_example_tells_its_story(example: str, tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, EXAMPLES / f"{example}.py", "--quick"],
        env={**os.environ, "PYTHONPATH": str(SOURCES), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert not list(tmp_path.iterdir()), "it leaves nothing behind"
