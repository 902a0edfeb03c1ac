"""What a function may return, and what becomes of it."""

from __future__ import annotations

import json
import math
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


MASKED = np.ma.masked


@pytest.mark.parametrize(
    ("returned", "values"),
    [
        (np.ma.array([1.5, 9.0], mask=[0, 1]), [1.5, None]),
        (np.ma.array([1.5, 9.0], mask=[0, 0]), [1.5, 9.0]),
        (np.ma.array([1.5, 9.0]), [1.5, 9.0]),
        (np.ma.array([1.5, 9.0], np.float16, mask=[0, 1]), [1.5, None]),
        (np.ma.array([1.5, 9.0], np.longdouble, mask=[1, 0]), [None, 9.0]),
        (np.ma.array([7, 999999], mask=[0, 1]), [7, None]),
        (np.ma.array([7, 2**40], mask=[0, 1]), [7, None]),
        (np.ma.array([7, 8], mask=[0, 0]), [7, 8]),
        (np.ma.array([True, False], mask=[0, 1]), [True, None]),
        (np.ma.array(["a", "b"], mask=[1, 0]), [None, "b"]),
        (np.ma.array([b"a", b"b"], mask=[1, 0]), [None, b"b"]),
        (np.ma.array([{"a": 1}, "b"], object, mask=[0, 1]), [{"a": 1}, None]),
        (np.ma.array([[1.5, 9.0], [9.0, 9.0]], mask=[[0, 1], [1, 1]]), [[1.5, None], [None, None]]),
        (np.ma.array([[7, 9], [9, 9]], mask=[[0, 1], [1, 1]]), [[7, None], [None, None]]),
        (np.ma.array([[[7], [9]], [[8], [8]]], mask=[[[0], [1]], [[0], [0]]]), [[[7], [None]], [[8], [8]]]),
        (np.ma.array([(1, 2.5), (3, 4.5)], "i4,f8", mask=[(0, 1), (1, 1)]), [[1, None], [None, None]]),
        ([MASKED, 1.5], [None, 1.5]),
        ([MASKED, MASKED], [None, None]),
        ([[MASKED, 1], {"a": MASKED}], [[None, 1], {"a": None}]),
        ([np.ma.array([1, 9], mask=[0, 1]), np.ma.array([1.5, np.nan])], [[1, None], [1.5, None]]),
        (
            [{"a": np.ma.array([np.inf, 9], mask=[0, 1])}, np.ma.array(9, mask=True)],
            [{"a": [None] * 2}, None],
        ),
        (np.array(["2020-01-01", "NaT"], "M8[ns]"), [1577836800000000000, None]),
        (np.array([[1, "NaT"], ["NaT", 2]], "m8[ns]"), [[1, None], [None, 2]]),
        ([np.datetime64("NaT", "ns"), {"a": np.array(["NaT"], "m8[ns]")}], [None, {"a": [None]}]),
        ([np.longdouble(1.5), [np.longdouble("nan")]], [1.5, [None]]),
    ],
)
def test_a_missing_value_is_null(returned, values):
    assert received(returning(returned)) == values


def test_missing_values_of_pandas_are_null():
    pd = pytest.importorskip("pandas")
    times = pd.to_datetime(["2020-01-01", None])
    for returned, values in [
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.array([1, None], dtype="Int64"), [1, None]),
        (pd.Series([True, None], dtype="boolean"), [True, None]),
        (pd.Series(["a", None], dtype="string"), ["a", None]),
        (pd.Series(["a", None], dtype=object), ["a", None]),
        (pd.Series(["a", None]), ["a", None]),
        (pd.Series([1.5, None]), [1.5, None]),
        (pd.Series([1.5, None], dtype="Float64"), [1.5, None]),
        (pd.Series(["a", None], dtype="category"), ["a", None]),
        (pd.Series(times.as_unit("ns")), [1577836800000000000, None]),
        (pd.DataFrame({"a": [1, 2], "b": [None, 1.5]}), [[1, None], [2, 1.5]]),
        (pd.DataFrame({"a": ["x", None], "b": [1, 2]}), [["x", 1], [None, 2]]),
        (pd.DataFrame({"a": [1, None], "b": ["x", pd.NA]}).astype({"a": "Int64"}), [[1, "x"], [None, None]]),
        ([pd.NA, 1], [None, 1]),
        ([pd.NaT, {"a": [pd.NA, float("nan")]}], [None, {"a": [None, None]}]),
        ([pd.Series([1, None], dtype="Int64"), [pd.NaT]], [[1, None], [None]]),
    ]:
        assert received(returning(returned)) == values, returned


def received(prediction):
    """Returns what an application receives."""
    assert prediction.errors == {}
    outputs = prediction.outputs
    if not isinstance(outputs, NumericBatch):
        return [output if isinstance(output, bytes) else as_json(output) for output in outputs]
    values = [None if math.isnan(value) else value for value in outputs.values.tolist()]
    lengths = outputs.lengths
    return values if lengths is None else [values[: lengths[0]], values[lengths[0] :]]


def as_json(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


class Odd:
    """An output of which nothing can be asked."""

    def tolist(self):
        raise KeyError("odd")


class Shouting(str):
    """A text that prints itself as another."""

    def __str__(self):
        return self.upper() + "!"


def test_the_text_of_a_str_subclass_is_sent_as_it_is():
    assert returning([Shouting("a"), {"a": Shouting("b")}]).outputs == ["a", '{"a":"b"}']


@given(JSON_VALUES)
def test_structured_outputs_are_valid_json(value):
    (output,) = returning([[value]], count=1).outputs
    json.loads(output, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "element", [object(), Decimal(1), {1: b""}, {(1, 2): 3}, {1, 2}, Odd(), [10**5000], 1j, {float("nan"): 1}]
)
def test_what_cannot_be_sent_costs_its_row_only(element):
    prediction = returning(["ok", element])
    assert prediction.outputs == ["ok", None]
    assert "cannot be sent" in prediction.errors[1]


def test_an_error_of_one_output_is_short_and_unicode():
    class Wordy:
        def tolist(self):
            raise ValueError("x" * 10_000 + "\udc00")

    problem = returning(["ok", Wordy()]).errors[1]
    assert len(problem.encode()) <= MAX_EXPLANATION_BYTES


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


def test_an_exception_of_several_inputs_of_one_length_is_told_to_none_of_them():
    def picky(xs):
        if (xs == 7).any():
            raise ValueError("cannot read 7")
        return xs.sum(axis=1)

    # Two inputs of one element, so one call: which of them was at fault only the frontend can find out.
    assert isinstance(answer(picky, [[7], [1], [1, 2]]), BatchError)
    alone = answer(picky, [[7], [1, 2], [1, 2]])
    assert alone.errors.keys() == {0}
    assert "cannot read 7" in alone.errors[0]
