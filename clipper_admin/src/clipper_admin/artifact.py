"""Owns the archive in which a model's files travel to the cluster.

Invariant: the same files give the same archive, so the cluster stores them once.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .exceptions import ClipperException

_SPOOL_BYTES = 16 * 1024 * 1024


@contextmanager
def archive(folder: Path) -> Iterator[IO[bytes]]:
    """Yields a tar archive of a folder's contents. What links point to is archived in their place.

    Raises:
        ClipperException: there is no such folder, or one of its files cannot be read.
    """
    if not folder.is_dir():
        raise ClipperException(f"the model's folder {folder} does not exist, or is not a folder")
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file:
        try:
            with tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
                tar.add(folder, arcname=".", filter=_without_origin)
        except OSError as error:
            raise ClipperException(f"the model's folder {folder} cannot be archived: {error}") from error
        file.seek(0)
        yield file


def _without_origin(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leaves out of an entry who made the file, and when."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry
