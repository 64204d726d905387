"""`tensor_repr` against torch's own repr, to the character."""

from __future__ import annotations

import doctest
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinygrad_norm import printing
from tinygrad_norm.printing import set_printoptions, tensor_repr

torch = pytest.importorskip("torch")

DTYPES = ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
FLOATS = ["float32", "float64", "float16"]
nan, inf = math.nan, math.inf


@contextmanager
def options(**kwargs: Any) -> Iterator[None]:
    """The same options in torch and here, and the defaults again afterwards."""
    try:
        torch.set_printoptions(**kwargs)
        set_printoptions(**kwargs)
        yield
    finally:
        torch.set_printoptions(profile="default")
        set_printoptions(profile="default")


def same(array: np.ndarray) -> None:
    """Equal text for the plain tensor and, for floats, for a leaf with requires_grad and for a result."""
    tensor = torch.from_numpy(np.array(array))  # a copy: torch knows no negative strides
    assert tensor_repr(array) == repr(tensor)
    if array.dtype.kind == "f":
        tensor.requires_grad_()
        assert tensor_repr(array, requires_grad=True) == repr(tensor)
        view = tensor.view_as(tensor)  # + 0 would turn -0. into 0.
        assert tensor_repr(array, grad_fn="ViewBackward0", requires_grad=True) == repr(view)


# -- the table --------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    # 0-d
    0.0, -0.0, 1.0, -1.0, 3.14159, 1e-4, 9.9e-5, 1e8, 1.1e8, 12345.678, 1e-38, 6e4, nan, inf, -inf, 99999999.0,
    # whole numbers, fixed point, scientific
    [1.0, 2.0, 3.0], [-1.0, 10.0, 100.0], [1.0, 2.5], [0.5, -0.25], [1.0, 1000.0], [1.0, 1001.0], [0.1, 100.0],
    [0.1, 100.01], [1e-5, 1.0], [1e-4, 1e-3], [1e30, 1.0], [1e8], [1e8, 1e9], [100000001.0], [1e-45, 1.0], [3e38, -3e38],
    [0.99995, 0.5], [9.99996, 1.0], [0.00005, 0.5], [2.5, 3.5, 0.00012345],
    # zeros and what is not finite have no say in the notation nor in the width
    [0.0, 0.0], [-0.0, 0.0], [-0.0, 1.0], [-0.0, 0.5], [0.0, 1e-9], [0.0, -1e9], [nan], [nan, nan], [inf, -inf],
    [nan, 1.0], [nan, 0.5], [inf, 1.0, -1.0], [-inf, 0.25], [-inf, 1e10, 1e-10], [nan, 0.0], [inf, 1e9], [nan, 100.0, -inf],
    # nested
    [[1.0, 2.0], [3.0, 4.0]], [[1.5, -2.0], [300.0, 4.0]], [[[1.0]]], [[[[0.5, nan]]], [[[inf, 2.0]]]],
    [[1.0], [2.0], [3.0]], [[]], [[], []], [[[], []]], [],
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_float_table(values: Any, dtype: str) -> None:
    with np.errstate(over="ignore"):
        same(np.array(values, dtype=dtype))


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "bool"])
@pytest.mark.parametrize("values", [0, 7, [0], [1, 2, 3], [1, 10, 127], [[0, 1], [2, 3]], [[[5]], [[6]]], [], [[]]], ids=str)
def test_integer_and_bool_table(values: Any, dtype: str) -> None:
    same(np.array(values, dtype=dtype))


def test_the_ends_of_int64() -> None:
    ends = np.iinfo(np.int64)
    same(np.array([ends.min, -1, 0, ends.max]))
    same(np.array(ends.min))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3), (1,), (1, 1, 1), (2, 3), (5, 1), (2, 1, 3, 2), (12,), (40,), (2, 30), (3, 2, 17)], ids=str
)
def test_shapes(shape: tuple[int, ...], dtype: str) -> None:
    same((np.arange(math.prod(shape)).reshape(shape) % 120).astype(dtype))
    if dtype in FLOATS:
        same((np.arange(math.prod(shape)).reshape(shape) / 7).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "bool"])
@pytest.mark.parametrize(
    "shape",
    [(1000,), (1001,), (6, 200), (7, 200), (200, 6), (200, 7), (2, 501), (501, 2), (1, 1, 1200), (1200, 1, 1), (10, 11, 12), (4, 5, 6, 9), (7, 3, 8, 9)],
    ids=str,
)
def test_summaries(shape: tuple[int, ...], dtype: str) -> None:
    array = np.random.default_rng(0).normal(scale=30, size=shape)
    same((array > 0) if dtype == "bool" else array.astype(dtype))


def test_only_the_shown_elements_choose_the_notation() -> None:
    hidden = np.ones(2000, dtype=np.float32)
    hidden[1000] = 1e-9
    same(hidden)
    same(hidden.reshape(20, 100))
    hidden[1] = 1e-9
    same(hidden)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", range(1, 45))
def test_suffixes_wrap_where_torch_wraps_them(size: int, dtype: str) -> None:
    for array in (np.arange(size), np.arange(size) / 4, np.ones((2, size))):
        array = array.astype(dtype)
        same(array)
        leaf = torch.from_numpy(array).requires_grad_()
        for result in (leaf + 0, leaf.exp() * 0 + leaf.detach(), torch.nn.functional.layer_norm(leaf, (size,))):
            name = type(result.grad_fn).__name__
            assert tensor_repr(result.detach().numpy(), grad_fn=name) == repr(result)


def test_the_name_of_the_node() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert repr(x + 0) == tensor_repr(np.array([1, 2], dtype=np.float32), grad_fn="AddBackward0") == "tensor([1., 2.], grad_fn=<AddBackward0>)"
    assert repr(x) == tensor_repr(np.array([1, 2], dtype=np.float32), requires_grad=True) == "tensor([1., 2.], requires_grad=True)"


def test_prefix() -> None:
    class Weights(torch.Tensor):
        pass

    array = np.random.default_rng(0).normal(size=(2, 3, 20))
    assert tensor_repr(array, prefix="Weights(") == repr(torch.from_numpy(array).as_subclass(Weights))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides(dtype: str) -> None:
    array = np.random.default_rng(0).normal(scale=9, size=(4, 6, 8)).astype(dtype)
    for view in (array.T, array[::2, ::-1], array[:, 1], array[..., 3], np.broadcast_to(array[0, 0], (3, 8)), array[::-1, :, ::3]):
        same(view)
    same(np.asfortranarray(np.random.default_rng(1).normal(size=(40, 50)).astype(dtype)))


def test_byte_order_and_numpy_scalars() -> None:
    assert tensor_repr(np.array([1.5, 2.0], dtype=">f4")) == "tensor([1.5000, 2.0000])"
    assert tensor_repr(np.float64(2.5)) == repr(torch.tensor(2.5, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3", "M8[s]"])
def test_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(TypeError, match="expected floating point, integer or bool"):
        tensor_repr(np.zeros(2, dtype=dtype))


# -- options ----------------------------------------------------------------------------------------------------

OPTIONS: list[dict[str, Any]] = [
    {"precision": 0}, {"precision": 1}, {"precision": 8}, {"precision": 17},
    {"threshold": 0}, {"threshold": 5}, {"threshold": inf}, {"threshold": 10.0},
    {"threshold": 5, "edgeitems": 0}, {"edgeitems": 0}, {"threshold": 5, "edgeitems": 1}, {"threshold": 5, "edgeitems": 2},
    {"linewidth": 0}, {"linewidth": 20}, {"linewidth": 40}, {"linewidth": 79}, {"linewidth": 200},
    {"profile": "short"}, {"profile": "full"}, {"profile": "default"}, {"profile": "short", "precision": 6, "threshold": 3},
    {"sci_mode": True}, {"sci_mode": False}, {"sci_mode": True, "precision": 0}, {"sci_mode": False, "precision": 12},
]  # fmt: skip
SAMPLES = [
    np.float32(1.5) * np.ones((), dtype=np.float32),
    np.arange(12, dtype=np.float32),
    np.linspace(-1, 1, 30, dtype=np.float32).reshape(2, 15),
    np.linspace(1e-7, 1e9, 24).reshape(2, 3, 4),
    np.array([nan, inf, -0.0, 1.0, 2e7], dtype=np.float32),
    np.array([nan, inf, -0.0]),
    np.zeros((0, 3)),
    np.arange(1100, dtype=np.int64).reshape(11, 100),
    np.arange(24).reshape(4, 1, 6) % 3 == 0,
]


@pytest.mark.parametrize("kwargs", OPTIONS, ids=str)
def test_options(kwargs: dict[str, Any]) -> None:
    with options(**kwargs):
        for array in SAMPLES:
            same(array)


def test_options_stay_until_set_again_but_sci_mode_does_not() -> None:
    with options(precision=2, sci_mode=True):
        assert tensor_repr(np.float32([1.5])) == repr(torch.tensor([1.5])) == "tensor([1.50e+00])"
        torch.set_printoptions(linewidth=60)
        set_printoptions(linewidth=60)
        assert tensor_repr(np.float32([1.5])) == repr(torch.tensor([1.5])) == "tensor([1.50])"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"profile": "long"}, ValueError, "profile is 'long'; expected one of 'default', 'short', 'full'"),
        ({"precision": -1}, ValueError, "precision is -1; expected 0 or more"),
        ({"precision": 2.5}, TypeError, "precision is 2.5; expected a whole number"),
        ({"precision": "4"}, TypeError, "precision is '4'; expected a whole number"),
        ({"threshold": nan}, TypeError, "threshold is nan; expected a whole number or math.inf"),
        ({"threshold": -inf}, TypeError, "threshold is -inf; expected a whole number or math.inf"),
        ({"edgeitems": -3}, ValueError, "edgeitems is -3; expected 0 or more"),
        ({"linewidth": inf}, TypeError, "linewidth is inf; expected a whole number"),
        ({"linewidth": -80}, ValueError, "linewidth is -80; expected 0 or more"),
        ({"sci_mode": "yes"}, TypeError, "sci_mode is 'yes'; expected True, False or None"),
    ],
    ids=str,
)
def test_a_refused_option_says_what_is_expected_and_changes_nothing(kwargs: dict[str, Any], error: type[Exception], message: str) -> None:
    before = printing._options
    with pytest.raises(error) as caught:
        set_printoptions(**{"precision": 7, "edgeitems": 9, **kwargs})
    assert str(caught.value) == "set_printoptions: " + message
    assert printing._options == before


# -- random arrays ----------------------------------------------------------------------------------------------

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))))
def test_any_bits(array: np.ndarray) -> None:
    same(array)


@st.composite
def scaled(draw: st.DrawFn) -> np.ndarray:
    """Normal values of some magnitude, rounded or not, with a few zeros, infinities and NaN."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.normal(size=draw(shapes)) * 10.0 ** draw(st.integers(-12, 12))
    values = values * 10.0 ** (draw(st.sampled_from([0.0, 0.0, 1.0, 3.0])) * rng.normal(size=values.shape))
    digits = draw(st.sampled_from([0, 1, 3, None]))
    values = values if digits is None else np.round(values, digits)
    special = rng.random(values.shape) < draw(st.sampled_from([0.0, 0.0, 0.3]))
    values = np.where(special, rng.choice(np.array([0.0, -0.0, inf, -inf, nan, 1.0]), size=values.shape), values)
    dtype = draw(st.sampled_from(DTYPES))
    if dtype not in FLOATS:
        values = np.clip(np.nan_to_num(values), 0 if dtype == "uint8" else -100, 100)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@settings(max_examples=200, deadline=None)
@given(scaled())
def test_any_magnitude(array: np.ndarray) -> None:
    same(array)
    same(array.T)


@settings(max_examples=150, deadline=None)
@given(
    scaled(),
    st.fixed_dictionaries(
        {},
        optional={
            "precision": st.integers(0, 10),
            "threshold": st.one_of(st.integers(0, 1200), st.just(inf)),
            "edgeitems": st.integers(0, 5),
            "linewidth": st.integers(0, 150),
            "profile": st.sampled_from(["default", "short", "full"]),
            "sci_mode": st.booleans(),
        },
    ),
)
def test_any_options(array: np.ndarray, kwargs: dict[str, Any]) -> None:
    with options(**kwargs):
        same(array)


def test_examples_in_the_docstrings() -> None:
    result = doctest.testmod(printing)
    assert result.attempted and not result.failed
