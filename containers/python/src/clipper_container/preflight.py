"""Owns the check of a function before it is deployed.

Invariant: what is checked runs through the adapter and the codec that serve it, so a function that passes can
be served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from . import codec
from .adapter import Adapter, Model
from .errors import CheckError, CodecError
from .input_type import InputType
from .messages import BatchError, NumericBatch, Predict

_BATCH_SIZES = (2, 1)
_BUDGET_MICROS = 1_000_000


def check(
    function: Model, sample_inputs: Sequence[Any], input_type: str | InputType, per_row: bool = False
) -> list[Any]:
    """Runs a function as it would be served, on a sample batch of two inputs and on one of one input.

    Args:
        function: what `serve` takes.
        sample_inputs: at least one input: str, bytes, or a list of numbers. One alone is used twice.
        input_type: any spelling of the input type.
        per_row: as for `serve`.

    Returns:
        The outputs for the batch of two: str, bytes, None, a number or an array of numbers each.

    Raises:
        CheckError: the function raised, returned the wrong number of outputs, or one that cannot be sent; or
            a sample is not of the input type.
        ValueError: there is no sample, or no such input type.
        Exception: whatever the constructor or `warm_up` of a model raises.
    """
    if not len(sample_inputs):
        raise ValueError("sample_inputs is empty; give at least one input")
    wire_name = InputType.parse(input_type).value
    adapter = Adapter(function, per_row=per_row)
    samples = [sample_inputs[0], sample_inputs[min(1, len(sample_inputs) - 1)]]
    batches = [_run(adapter, samples[:size], wire_name) for size in _BATCH_SIZES]
    return batches[0]


def _run(adapter: Adapter, samples: list[Any], wire_name: str) -> list[Any]:
    try:
        batch = codec.decode(codec.encode_predict(0, wire_name, samples, _BUDGET_MICROS))
    except CodecError as error:
        raise CheckError(len(samples), f"the sample is not of type {wire_name}: {error}") from None
    answer = adapter.answer(cast(Predict, batch))
    if isinstance(answer, BatchError):
        raise CheckError(len(samples), answer.message)
    for index, problem in answer.errors.items():
        raise CheckError(len(samples), f"input {index}: {problem}")
    try:
        codec.encode(answer)
    except CodecError as error:
        raise CheckError(len(samples), str(error)) from None
    return answer.outputs.rows() if isinstance(answer.outputs, NumericBatch) else list(answer.outputs)
