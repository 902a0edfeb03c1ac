"""Owns the way from what a function returns to the outputs of a batch.

Invariant: there is exactly one output per input, and every str among them that stands for a structured value
is valid JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OutputError
from .input_type import DTYPES
from .messages import NumericBatch, Outputs

_WIRE_ELEMENTS = {str, bytes, type(None)}
_NUMBERS = {int, float, np.int32, np.int64, np.float32, np.float64}
_INT32 = np.iinfo(np.int32)
_MATRIX_NDIM = 2
_NULL = "null"
_NOT_A_BATCH = (str, bytes, bytearray, memoryview, Mapping, Set)


def one_per_input(returned: Any, count: int) -> list[Any] | NDArray[Any]:
    """Takes what a function returned for `count` inputs as a sequence of that many elements.

    Args:
        returned: a sequence, an array, or anything that converts to an array or can be iterated in order.
        count: the number of inputs.

    Raises:
        OutputError: it is not a sequence, or has not one element per input.
    """
    elements = _sequence(returned)
    if len(elements) != count:
        raise OutputError(
            f"the function returned {counted(len(elements), 'output')} for {counted(count, 'input')}; "
            "it must return one per input"
        )
    return elements


def to_outputs(elements: list[Any] | NDArray[Any]) -> tuple[Outputs, dict[int, str]]:
    """Puts the elements, one per input, into the form in which they are sent.

    Numbers of one kind, in an array of shape (count,) or (count, length) or in a list, stay numbers.
    Otherwise an element that is str, bytes or None stays what it is, and any other becomes JSON text, in
    which numbers that are not finite are null. So are missing values wherever they are: masked ones, pandas'
    `NA` and `NaT`, numpy's `NaT`, and None within a pandas object.

    Returns:
        The outputs, and for each element that cannot be sent, by its index, the reason; its output is None.
    """
    if isinstance(elements, list):
        types = set(map(type, elements))
        if types <= _WIRE_ELEMENTS:
            return elements, {}
        if len(types) == 1 and types <= _NUMBERS:
            elements = np.asarray(elements)
    if isinstance(elements, np.ndarray):
        numbers = _numbers(elements)
        if numbers is not None:
            return numbers, {}
        elements = list(elements) if elements.ndim > 1 else _or_null(elements)
    return _elementwise(elements)


def _sequence(returned: Any) -> list[Any] | NDArray[Any]:
    if type(returned) is list or (type(returned) is np.ndarray and returned.ndim):
        return returned
    if hasattr(returned, "__array__"):
        array = np.asanyarray(returned) if isinstance(returned, np.ma.MaskedArray) else np.asarray(returned)
        if array.ndim:
            return _with_none_masked(array) if array.dtype.hasobject else array
    elif isinstance(returned, Iterable) and not isinstance(returned, _NOT_A_BATCH):
        return list(returned)
    raise OutputError(
        f"the function returned a value of type {type(returned).__name__}; "
        "it must return a list or an array with one output per input"
    )


def counted(count: int, noun: str) -> str:
    """Returns the noun with its number, in the plural unless there is one."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _numbers(array: NDArray[Any]) -> NumericBatch | None:
    """Returns the array as a numeric batch, or None if the protocol has no such numbers."""
    if array.ndim > _MATRIX_NDIM:
        return None
    dtype = _wire_dtype(array)
    if dtype is None:
        return None
    if isinstance(array, np.ma.MaskedArray):
        array = array.filled(np.nan) if array.dtype.kind == "f" else array.data
    values = array.astype(dtype, copy=False).reshape(-1)
    return NumericBatch(values, None if array.ndim == 1 else [array.shape[1]] * len(array))


def _wire_dtype(array: NDArray[Any]) -> np.dtype | None:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f":
        return DTYPES["floats" if size <= np.dtype(np.float32).itemsize else "doubles"]
    if kind in "iu" and not np.ma.is_masked(array):
        fits = size < _INT32.dtype.itemsize or array.dtype == np.int32
        if fits or not array.size or (array.min() >= _INT32.min and array.max() <= _INT32.max):
            return DTYPES["ints"]
    return None


def _with_none_masked(array: NDArray[Any]) -> NDArray[Any]:
    """Masks each None: in the arrays of other libraries it is a missing value, and not a missing output."""
    missing = np.array([item is None for item in np.ma.getdata(array).flat], bool).reshape(array.shape)
    return np.ma.array(array, mask=missing)


def _or_null(array: NDArray[Any]) -> list[Any]:
    """Returns the elements of a 1-D array, with JSON's null in the place of missing values."""
    array = _masked(array)
    missing = np.ma.getmaskarray(array).tolist()  # for each record, a mask of its fields
    return [_NULL if gone is True else element for element, gone in zip(array.tolist(), missing)]


def _masked(array: Any) -> Any:
    """Masks each `NaT` of an array or a scalar of numpy's."""
    return np.ma.array(array, mask=np.isnat(np.ma.getdata(array))) if array.dtype.kind in "mM" else array


def _elementwise(elements: Iterable[Any]) -> tuple[Outputs, dict[int, str]]:
    outputs: list[str | bytes | None] = []
    errors: dict[int, str] = {}
    for index, element in enumerate(elements):
        try:
            outputs.append(_element(element))
        except Exception as error:  # the methods of whatever type it is may raise anything
            outputs.append(None)
            errors[index] = f"the output, of type {type(element).__name__}, cannot be sent: {error}"
    return outputs, errors


def _element(element: Any) -> str | bytes | None:
    if element is None:
        return None
    if isinstance(element, str):
        return str.__str__(element)  # the text itself, whatever a subclass prints
    if isinstance(element, (bytes, bytearray, memoryview)):
        return bytes(element)
    try:
        return _to_json(element)
    except ValueError:
        return _to_json(_finite(element))


def _plain(value: Any) -> Any:
    """Turns numpy's values, and those of libraries that follow it, into Python's for the JSON encoder."""
    if isinstance(value, (np.ndarray, np.generic)):
        return float(value) if isinstance(value, np.longdouble) else _masked(value).tolist()
    if hasattr(value, "tolist") and callable(value.tolist):
        return value.tolist()
    pandas = sys.modules.get("pandas")
    if pandas is not None and (value is pandas.NA or value is pandas.NaT):
        return None
    raise TypeError(f"{type(value).__name__} is not str, bytes, None, a number, a list or a dict")


_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode


def _finite(value: Any) -> Any:
    """Copies a value with None in the place of each number that JSON cannot express."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return _finite(_plain(value))
