"""Owns the five input types. Invariant: the value of a member is its only spelling on the wire."""

from __future__ import annotations

from enum import Enum

import numpy as np

_SPELLINGS = {
    "bytes": ("b", "byte", "bytes"),
    "ints": ("i", "int", "ints", "integer", "integers"),
    "floats": ("f", "float", "floats"),
    "doubles": ("d", "double", "doubles"),
    "strings": ("s", "str", "strs", "string", "strings"),
}
_WIRE_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}


class InputType(str, Enum):
    """What one input of a model is: a byte string, a text, or a list of numbers of one type."""

    BYTES = "bytes"
    INTS = "ints"
    FLOATS = "floats"
    DOUBLES = "doubles"
    STRINGS = "strings"

    @classmethod
    def parse(cls, spelling: str) -> InputType:
        """Reads any spelling that a person may type, such as `d`, `double` or `Doubles`.

        Raises:
            ValueError: the spelling is not one of an input type.
        """
        name = _WIRE_NAMES.get(spelling.strip().lower())
        if name is None:
            raise ValueError(
                f"{spelling!r} is not an input type; use bytes, ints, floats, doubles or strings"
            )
        return cls(name)

    @property
    def dtype(self) -> np.dtype | None:
        """The little-endian element type of a numeric input; None for `bytes` and `strings`."""
        return DTYPES.get(self.value)


DTYPES: dict[str, np.dtype] = {
    "ints": np.dtype("<i4"),
    "floats": np.dtype("<f4"),
    "doubles": np.dtype("<f8"),
}
"""The element type of each numeric wire name, of inputs as of outputs."""
