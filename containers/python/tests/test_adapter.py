"""What a function may return, and what becomes of it."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from clipper_container import CheckError, check, codec
from clipper_container.adapter import MAX_EXPLANATION_BYTES, Adapter
from clipper_container.messages import BatchError, NumericBatch

JSON_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), children)
    ),
    max_leaves=10,
)


def answer(function, inputs, input_type="doubles", **options):
    return Adapter(function, **options).answer(codec.decode(codec.encode_predict(1, input_type, inputs, 0)))


def returning(value, count=2, **options):
    """Answers a batch of `count` inputs by a function that returns the value."""
    return answer(lambda xs: value, [[0.0]] * count, **options)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (np.array([1.5, 2.5]), "<f8"),
        (np.array([1.5, 2.5], ">f8"), "<f8"),
        (np.array([1.5, 2.5], np.float32), "<f4"),
        (np.array([1.5, 2.5], np.float16), "<f4"),
        (np.array([1, 2]), "<i4"),
        (np.array([1, 2], np.uint8), "<i4"),
        ([1.5, 2.5], "<f8"),
        ([1, 2], "<i4"),
        ([np.float32(1), np.float32(2)], "<f4"),
        (np.array([[1.0, 2.0], [3.0, 4.0]]).T, "<f8"),
    ],
)
def test_numbers_stay_numbers(array, dtype):
    outputs = returning(array).outputs
    assert isinstance(outputs, NumericBatch)
    assert outputs.values.dtype == np.dtype(dtype)
    assert outputs.values.tolist() == np.asarray(array).reshape(-1).tolist()
    assert outputs.lengths == ([2, 2] if np.ndim(array) > 1 else None)


@pytest.mark.parametrize(
    ("returned", "outputs"),
    [
        (["a", b"b"], ["a", b"b"]),
        ((None, bytearray(b"x")), [None, b"x"]),
        (iter("ab"), ["a", "b"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([True, False]), ["true", "false"]),
        (np.array([2**40, 1]), [str(2**40), "1"]),
        ([2**70, 1], [str(2**70), "1"]),
        ([1, 2.5], ["1", "2.5"]),
        ([True, {"a": np.int64(1)}], ["true", '{"a":1}']),
        ([float("nan"), [np.inf, {"x": np.array([1.0, np.nan])}]], ["null", '[null,{"x":[1.0,null]}]']),
        (np.zeros((2, 1, 2)), ["[[0.0,0.0]]", "[[0.0,0.0]]"]),
        ([np.array([1, 2]), [3]], ["[1,2]", "[3]"]),
    ],
)
def test_anything_else_becomes_text(returned, outputs):
    assert returning(returned).outputs == outputs


@given(JSON_VALUES)
def test_structured_outputs_are_valid_json(value):
    (output,) = returning([[value]], count=1).outputs
    json.loads(output, parse_constant=pytest.fail)


@pytest.mark.parametrize("element", [object(), Decimal(1), {1: b""}, {(1, 2): 3}, {1, 2}])
def test_what_cannot_be_sent_costs_its_row_only(element):
    prediction = returning(["ok", element])
    assert prediction.outputs == ["ok", None]
    assert "cannot be sent" in prediction.errors[1]


def test_a_value_that_contains_itself_costs_its_row_only():
    circular = []
    circular.append(circular)
    assert list(returning([circular, "ok"]).errors) == [0]


@pytest.mark.parametrize(
    "returned", [None, "ab", b"ab", {"a": 1, "b": 2}, {1, 2}, 3, np.float64(1), np.array(1)]
)
def test_what_is_no_sequence_is_an_error_that_says_so(returned):
    assert "it must return a list or an array" in returning(returned).message


@pytest.mark.parametrize("returned", [[], [1], [1, 2, 3], np.zeros(3), np.zeros((1, 2)), iter([1])])
def test_a_wrong_number_of_outputs_is_an_error_that_says_so(returned):
    assert "for 2 inputs; it must return one per input" in returning(returned).message


def test_a_scikit_learn_model_predicts_on_batches():
    model = LinearRegression().fit([[0, 0], [1, 1]], [0, 2])
    assert answer(model.predict, [[1, 1], [2, 2]]).outputs.values == pytest.approx([2, 4])
    assert answer(model, [[1, 1], [2, 2]]).outputs.values == pytest.approx([2, 4])


def test_an_input_of_the_wrong_length_does_not_spoil_the_batch():
    model = LinearRegression().fit([[0, 0], [1, 1]], [0, 2])
    prediction = answer(model.predict, [[1, 1], [1, 2, 3], [2, 2]])
    assert [json.loads(text) if text else None for text in prediction.outputs] == pytest.approx([2, None, 4])
    assert "3 features" in prediction.errors[1]


def test_a_function_of_a_row_gets_vectors_and_its_arrays_stay_arrays():
    prediction = answer(lambda x: x * 2, [[1], [1, 2]], per_row=True)
    assert prediction.outputs == ["[2.0]", "[2.0,4.0]"]
    assert answer(np.sum, [[1], [1, 2]], per_row=True).outputs.values.tolist() == [1, 3]


def test_a_batch_without_inputs_is_answered_without_a_call():
    assert answer(lambda xs: 1 / 0, []).outputs == []


def test_a_traceback_is_cut_at_its_beginning():
    def fail(xs):
        raise ValueError("x" * 10_000 + " the end \ud800")

    error = answer(fail, [[1]])
    assert isinstance(error, BatchError)
    assert len(error.message.encode()) <= MAX_EXPLANATION_BYTES
    assert error.message.endswith("the end ?")
    codec.encode(error)


def test_an_interrupt_is_not_an_answer():
    def interrupt(xs):
        raise KeyboardInterrupt

    for per_row in (False, True):
        with pytest.raises(KeyboardInterrupt):
            answer(interrupt, [[1]], per_row=per_row)


def test_what_cannot_be_called_is_a_type_error():
    with pytest.raises(TypeError, match="neither a function nor an object with `predict`"):
        Adapter(3)


def test_check_returns_the_outputs_of_a_batch_of_two():
    assert check(lambda xs: [len(x) for x in xs], ["ab"], "s") == [2, 2]
    assert check(lambda x: len(x), ["ab", "abc", "a"], "strings", per_row=True) == [2, 3]
    assert check(lambda xs: [np.sum(x) for x in xs], [np.ones(3), [1, 2]], "doubles") == [3, 3]


@pytest.mark.parametrize(
    ("function", "batch_size", "problem"),
    [
        (lambda xs: 1 / 0, 2, "ZeroDivisionError"),
        (lambda xs: xs[:1], 2, "1 output for 2 inputs"),
        (lambda xs: ["a", "b"], 1, "2 outputs for 1 input"),
        (lambda xs: [object() for _ in xs], 2, "cannot be sent"),
        (lambda xs: ["\udc00" for _ in xs], 2, "surrogates"),
    ],
)
def test_check_says_what_is_wrong(function, batch_size, problem):
    with pytest.raises(CheckError, match=problem) as caught:
        check(function, ["x"], "strings")
    assert caught.value.batch_size == batch_size


def test_check_says_that_a_sample_is_not_of_the_input_type():
    for sample, input_type in ((3, "strings"), ("a", "bytes"), ("a", "doubles")):
        with pytest.raises(CheckError, match=f"the sample is not of type {input_type}"):
            check(lambda xs: xs, [sample], input_type)
    with pytest.raises(ValueError, match="sample_inputs is empty"):
        check(lambda xs: xs, [], "ints")
