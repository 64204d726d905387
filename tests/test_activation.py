"""ReLU, softmax and log-softmax against torch: values, gradients of two orders, bounds of error, types, layouts, words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.kernel import Kernel, prange
from tinygrad_norm.nn import activation, softmax
from tinygrad_norm.nn import functional as F
from tinygrad_norm.nn.softmax import exp, exp_below, is_double, largest

Array = np.ndarray[Any, Any]
inf, nan = math.inf, math.nan

DTYPES = [np.float32, np.float64]
FUNCTIONS = ["relu", "gelu", "silu", "softmax", "log_softmax"]
SMOOTH = ["gelu", "silu"]
SHAPES: list[tuple[tuple[int, ...], int]] = [
    ((), 0),
    ((1,), -1),
    ((7,), 0),
    ((3, 4), 1),
    ((3, 4), 0),
    ((2, 3, 5), 1),
    ((2, 3, 5), -3),
    ((2, 3, 4, 5), 2),
    ((2, 3, 4, 5), 3),
    ((6, 33), -1),
    ((0, 3), 1),
    ((3, 0), 1),
    ((3, 0), 0),
    ((2, 0, 4), 2),
    ((1100, 500), 1),  # large enough for the parallel kernels, whatever the threading layer
]


def room(name: str, what: str) -> Any:
    return getattr(softmax if "softmax" in name else activation, what)


def call(module: Any, name: str, x: Any, dim: int) -> Any:
    if name in SMOOTH:
        return getattr(F if isinstance(x, tg.Tensor) else torch.nn.functional, name)(x)
    return module.relu(x) if name == "relu" else getattr(module, name)(x, dim)


def both(name: str, x: Array, dim: int, dy: Array) -> list[tuple[Array, Array]]:
    """Values and gradients, ours and torch's."""
    a, b = tg.Tensor(x.copy(), True), torch.tensor(x, requires_grad=True)
    y, z = call(F, name, a, dim), call(torch.nn.functional, name, b, dim)
    y.backward(tg.Tensor(dy.copy()))
    z.backward(torch.tensor(dy))
    assert a.grad is not None
    assert b.grad is not None
    return [(y.detach().numpy(), z.detach().numpy()), (a.grad.numpy(), b.grad.numpy())]


def sample(shape: tuple[int, ...], dtype: Any, seed: int = 0, scale: float = 3.0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * scale, dtype)


# -- Values and gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_against_torch(name: str, shape: tuple[int, ...], dim: int, dtype: Any) -> None:
    tolerance = {"rtol": 4e-6, "atol": 2e-5} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-13}
    for ours, theirs in both(name, sample(shape, dtype), dim, sample(shape, dtype, 1)):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.flags.c_contiguous
        np.testing.assert_allclose(ours, theirs, **tolerance)


@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**31), st.sampled_from(FUNCTIONS), st.data())
@settings(deadline=None, max_examples=80)
def test_any_shape_and_axis(shape: list[int], seed: int, name: str, data: Any) -> None:
    n = max(len(shape), 1)
    dim = data.draw(st.integers(-n, n - 1))
    x, dy = sample(tuple(shape), np.float64, seed), sample(tuple(shape), np.float64, seed + 1)
    for ours, theirs in both(name, x, dim, dy):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in SMOOTH])
def test_float32_is_within_a_few_units_in_the_last_place(name: str) -> None:
    x, dy = sample((50, 300), np.float32), np.ones((50, 300), np.float32)
    dy[:, ::3] = -2
    for (ours, _), (_, exact) in zip(both(name, x, 1, dy), both(name, x.astype(np.float64), 1, dy.astype(np.float64))):
        # x − m is rounded once, which moves its exponential by up to |x − m|/2 ulp: 12 here
        unit = np.spacing(np.abs(exact).astype(np.float32)) if name != "log_softmax" else np.spacing(np.abs(exact).max().astype(np.float32))
        allowed = 16 if name == "softmax" else 4
        errors = np.abs(ours - exact) / unit
        assert errors.max() <= allowed if name != "softmax" else np.median(errors) <= 3
        if name == "softmax":
            assert np.abs(ours - exact).max() <= 4e-7


@pytest.mark.parametrize("name", SMOOTH)
def test_gelu_and_silu_in_float32(name: str) -> None:
    """Off by less than two units in the last place of the larger of |x| and 1, on the whole line."""
    x = np.concatenate([np.linspace(-30, 30, 200_001), [1e30, -1e30]]).astype(np.float32)
    dy = np.ones_like(x)
    for (ours, _), (_, exact) in zip(both(name, x, 0, dy), both(name, x.astype(np.float64), 0, dy.astype(np.float64))):
        assert (np.abs(ours - exact) / np.maximum(np.abs(x), 1)).max() < 2 * np.finfo(np.float32).eps


def test_the_small_values_of_gelu_are_right_in_float64() -> None:
    """1 + erf would leave none of the digits of Φ(−9); the kernel has them as its reference does."""
    x = np.linspace(-30, -1, 400)
    y = F.gelu(tg.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x], rtol=1e-12)
    assert (y < 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_and_silu_at_the_ends(dtype: Any) -> None:
    x = np.array([nan, inf, -1e30, 0.0, -0.0, -inf], dtype)
    for name in SMOOTH:
        y = getattr(F, name)(tg.Tensor(x.copy())).numpy()
        assert np.isnan(y[0]) and y[1] == inf
        assert y[2:5].tolist() == [0, 0, 0]
        assert np.isnan(y[5])  # −inf·0, as torch
    approximate = F.gelu(tg.Tensor(x[:5].copy()), "tanh").numpy()
    np.testing.assert_array_equal(approximate, torch.nn.functional.gelu(torch.tensor(x[:5]), approximate="tanh").numpy())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dim", [0, 1])
def test_second_derivatives(name: str, dim: int) -> None:
    x, dy, v = (sample((5, 6), np.float64, seed, 1.0) for seed in range(3))
    results = []
    for lib, functional in ((tg, F), (torch, torch.nn.functional)):
        a, g = lib.tensor(x, requires_grad=True), lib.tensor(dy, requires_grad=True)
        y = call(functional, name, a, dim)
        (dx,) = lib.autograd.grad(y, a, g, create_graph=True)
        (ga, gg) = lib.autograd.grad((dx * lib.tensor(v)).sum(), (a, g), create_graph=True, allow_unused=True)
        second = [gg.detach().numpy()] + ([ga.detach().numpy()] if name != "relu" else [])
        if name != "relu":  # and a third
            second.append(lib.autograd.grad((ga * ga).sum(), a)[0].numpy())
        results.append([dx.detach().numpy(), *second])
        if name == "relu" and ga is not None:
            assert not np.asarray(ga.detach().numpy()).any()
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_differences(name: str) -> None:
    x, dy, h = sample((3, 4), np.float64), sample((3, 4), np.float64, 1), 1e-6
    a = tg.Tensor(x.copy(), True)
    call(F, name, a, 1).backward(tg.Tensor(dy))
    numeric = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        numeric[i] = ((call(F, name, tg.Tensor(up), 1).numpy() - call(F, name, tg.Tensor(down), 1).numpy()) * dy).sum() / (2 * h)
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), numeric, atol=1e-8)


# -- Special values


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_at_its_corner_and_at_the_ends(dtype: Any) -> None:
    x = np.array([-1, -0.0, 0.0, nan, inf, -inf, 2, 1e-45], dtype)
    for dy in (np.full(8, 3, dtype), np.full(8, inf, dtype), np.full(8, nan, dtype)):
        (y, expected), (dx, gradient) = both("relu", x, 0, dy)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(dx, gradient)
    assert dx[1] == dx[2] == 0


ROWS = [
    [-inf, 0.0, 1.0],
    [-inf, -inf, -inf],
    [inf, 0.0, 1.0],
    [nan, 0.0, 1.0],
    [0.0, -nan, 1.0],
    [1000.0, -1000.0, 1000.0],
    [-1000.0, -1000.0, -1001.0],
    [1e4, 1e4 + 1, 0.0],
    [3e38, -3e38, 0.0],
    [-0.0, 0.0, -0.0],
    [1.0, 2.0, 3.0],
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extreme_rows(name: str, dtype: Any) -> None:
    dy = np.tile(np.array([1, 2, -3], dtype), (len(ROWS), 1))
    for ours, theirs in both(name, np.array(ROWS, dtype), 1, dy):  # also: a NaN stays in its row
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_softmax_ignores_a_shift_and_sums_to_one() -> None:
    x = sample((20, 50), np.float64)
    np.testing.assert_allclose(F.softmax(tg.Tensor(x + 1000), 1).numpy(), F.softmax(tg.Tensor(x), 1).numpy(), rtol=1e-11)
    np.testing.assert_allclose(F.softmax(tg.Tensor(x), 1).numpy().sum(axis=1), 1, rtol=1e-14)


# -- The parts of the kernels


def exp_reference(x: Array, double: bool | None, y: Array) -> None:
    with np.errstate(all="ignore"):
        y[:] = np.exp(x)


def exp_loop(x, double, y):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        y[i] = exp(x[i], double)


def exp_below_loop(x, double, y):  # type: ignore[no-untyped-def]
    for i in prange(len(x)):
        y[i] = exp_below(x[i], double)


def largest_reference(x: Array, double: bool | None, y: Array) -> None:
    y[:] = x.max(axis=1)


def largest_loop(x, double, y):  # type: ignore[no-untyped-def]
    for n in prange(len(x)):
        y[n] = largest(x, n, double)


EXP, EXP_BELOW, LARGEST = Kernel(exp_loop, exp_reference), Kernel(exp_below_loop, exp_reference), Kernel(largest_loop, largest_reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_within_one_unit_in_the_last_place(dtype: Any) -> None:
    if dtype is np.float32:
        x = np.arange(0, 2**32, 1999, dtype=np.uint32).view(np.float32)  # every kind of float32 there is
        x = np.concatenate([x[np.isfinite(x)], np.linspace(-110, 95, 500_001).astype(np.float32)])
        with np.errstate(over="ignore"):
            exact, wide = np.exp(x.astype(np.float64)), np.float64
    else:
        x = np.concatenate([np.linspace(-750, 712, 500_001), np.random.default_rng(0).normal(size=100_000)])
        with np.errstate(all="ignore"):
            exact, wide = np.exp(x.astype(np.longdouble)), np.longdouble
    y = np.empty_like(x)
    EXP.serial(x, is_double(x), y)
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(y[~finite], rounded[~finite])
    unit = np.spacing(rounded[finite]).astype(wide)
    assert (np.abs(y[finite].astype(wide) - exact[finite]) / unit).max() < 1
    order = np.argsort(x, kind="stable")
    assert (np.diff(y[order][finite[order]].astype(np.float64)) >= -unit.max() * 1e-30).mean() > 0.99
    below = np.empty_like(x)
    EXP_BELOW.serial(x, is_double(x), below)
    np.testing.assert_array_equal(below[x <= 0], y[x <= 0])  # to the bit, also below the smallest normal number


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_at_special_values(dtype: Any) -> None:
    ends = (-104.5, -103, 88.72, 88.73) if dtype is np.float32 else (-745.5, -745, 709.78, 709.79)
    x = np.array([0.0, -0.0, -inf, inf, nan, -nan, -1e30, 1e30, *ends], dtype)
    for run in (EXP.serial, EXP.parallel):
        y = np.empty_like(x)
        run(x, is_double(x), y)
        assert (y[0], y[1], y[2], y[3], y[6], y[7]) == (1, 1, 0, inf, 0, inf)
        assert np.isnan(y[4:6]).all()
        assert y[8] == 0
        assert 0 < y[9] < 1e-44
        assert np.isfinite(y[10])
        assert y[11] == inf
    for run in (EXP_BELOW.serial, EXP_BELOW.parallel):
        below = np.empty_like(y)
        run(x, is_double(x), below)
        not_above = ~(x > 0)  # NaN too
        np.testing.assert_array_equal(below[not_above], y[not_above])


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_of_a_row(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    x = (rng.normal(size=(400, 37)) * 10.0 ** rng.integers(-40, 38, size=(400, 1))).astype(dtype)
    x[:100] = -np.abs(x[:100])
    x[100, 5], x[101], x[102, :] = inf, -inf, -0.0
    expected, y = np.empty(400, dtype), np.empty(400, dtype)
    LARGEST.reference(x, is_double(x), expected)
    LARGEST.serial(x, is_double(x), y)
    np.testing.assert_array_equal(y, expected)


KERNEL_INPUTS = {
    "relu_forward": lambda x, dy, y: (x.reshape(-1),),
    "relu_backward": lambda x, dy, y: (np.maximum(x, 0).reshape(-1), dy.reshape(-1)),
    "gelu_forward": lambda x, dy, y: (x.reshape(-1), is_double(x)),
    "gelu_backward": lambda x, dy, y: (x.reshape(-1), dy.reshape(-1), is_double(x)),
    "silu_forward": lambda x, dy, y: (x.reshape(-1), is_double(x)),
    "silu_backward": lambda x, dy, y: (x.reshape(-1), dy.reshape(-1), is_double(x)),
    "softmax_forward": lambda x, dy, y: (x, is_double(x)),
    "log_softmax_forward": lambda x, dy, y: (x, is_double(x)),
    "softmax_backward": lambda x, dy, y: (np.exp(y), dy),
    "log_softmax_backward": lambda x, dy, y: (y, dy, is_double(x)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERNEL_INPUTS)
@np.errstate(all="ignore")  # as a kernel runs its reference
def test_kernels_against_their_references(name: str, dtype: Any) -> None:
    kernel = room(name, name)
    for rows, width in ((1, 1), (5, 3), (64, 129), (3, 0), (0, 3)):
        x, dy = sample((rows, width), dtype), sample((rows, width), dtype, 1)
        y = np.empty_like(x)
        softmax.log_softmax_forward.reference(x, is_double(x), y)
        arguments = KERNEL_INPUTS[name](x, dy, y)
        outs = []
        for run in (kernel.reference, kernel.serial, *((kernel.parallel,) * 2 if dtype is np.float32 else ())):
            outs.append(np.full(arguments[0].shape, nan, dtype))
            run(*arguments, outs[-1])
        reference, serial, *parallel = outs
        np.testing.assert_allclose(serial, reference, rtol=3e-5 if dtype is np.float32 else 1e-12, atol=1e-5 if dtype is np.float32 else 1e-13)
        for out in parallel:  # the sums may be added in another order
            np.testing.assert_allclose(out, serial, rtol=1e-6, atol=2e-6)
            np.testing.assert_array_equal(out, parallel[0])  # but in one order


def test_the_numpy_backend_gives_the_same() -> None:
    x, dy = sample((4, 5), np.float64), sample((4, 5), np.float64, 1)
    before = tg.get_backend()
    for name in FUNCTIONS:
        results = []
        for backend in ("numba", "numpy"):
            tg.set_backend(backend)
            try:
                results.append(both(name, x, 0, dy))
            finally:
                tg.set_backend(before)
        for (ours, _), (reference, _) in zip(*results):
            np.testing.assert_allclose(ours, reference, rtol=1e-13, atol=1e-15)


# -- Layouts, types, the graph


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_memory_layout_and_nothing_compiled_twice(name: str) -> None:
    base = sample((8, 6), np.float64)
    layouts = {
        "transposed": base.T,
        "strided": base[::2, ::3],
        "reversed": base[::-1, ::-1],
        "read-only": np.broadcast_to(base, base.shape),
        "expanded": np.broadcast_to(base[:1], base.shape),
        "unaligned": np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float64).reshape(8, 6),
    }
    for x in layouts.values():
        a, b = tg.Tensor(x, True), tg.Tensor(np.ascontiguousarray(x).copy(), True)
        for dy in (np.broadcast_to(np.float64(2), x.shape), np.asfortranarray(sample(x.shape, np.float64, 5))):
            a.grad = b.grad = None
            call(F, name, a, 1).backward(tg.Tensor(dy))
            call(F, name, b, 1).backward(tg.Tensor(dy.copy("C")))
            assert a.grad is not None
            assert b.grad is not None
            np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())
        call(F, name, a, 1).sum().backward()
    for kernel in (room(name, f"{name}_{way}") for way in ("forward", "backward")):
        assert len(kernel._serial.signatures) <= 3  # float32, float64, and int64 of relu


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_types_and_grad_fn(name: str) -> None:
    x = tg.ones(2, 3, requires_grad=True)
    y, z = call(F, name, x, 1), call(torch.nn.functional, name, torch.ones(2, 3, requires_grad=True), 1)
    assert y.grad_fn.name == z.grad_fn.name()
    assert y.requires_grad
    assert repr(call(tg.Tensor, name, x, 1)) == repr(z)
    with tg.no_grad():
        assert call(F, name, x, 1).grad_fn is None


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_dtype_argument(name: str) -> None:
    x = tg.tensor([[1, 2, 3]])
    y = getattr(F, name)(x, 1, dtype=tg.float64)
    np.testing.assert_allclose(y.numpy(), getattr(torch, name)(torch.tensor([[1, 2, 3]]), 1, dtype=torch.float64).numpy(), rtol=1e-14)
    w = tg.ones(3, requires_grad=True)
    getattr(w, name)(0, dtype=tg.float64).sum().backward()
    assert w.grad is not None
    assert w.grad.dtype is tg.float32


def test_relu_of_integers() -> None:
    y = tg.tensor([-1, 0, 2]).relu()
    assert y.dtype is tg.int64
    assert y.tolist() == [0, 0, 2]


def test_relu_in_place() -> None:
    x = tg.tensor([-1.0, 2.0], requires_grad=True)
    h = x * 3
    y = tg.nn.ReLU(inplace=True)(h)
    assert y is h
    assert h.tolist() == [0.0, 6.0]
    (y * y).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 36.0]
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        F.relu(x, inplace=True)
    assert x.tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in SMOOTH])
def test_a_changed_result_is_noticed(name: str) -> None:
    x = tg.ones(2, 3, requires_grad=True)
    y = call(F, name, x, 1)
    z = y.sum()
    with tg.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()
    assert x.grad is None


# -- Modules


@pytest.mark.parametrize(
    "make",
    [
        lambda nn: nn.ReLU(),
        lambda nn: nn.GELU(),
        lambda nn: nn.GELU(approximate="tanh"),
        lambda nn: nn.SiLU(),
        lambda nn: nn.SiLU(True),
        lambda nn: nn.ReLU(inplace=True),
        lambda nn: nn.Softmax(dim=1),
        lambda nn: nn.Softmax(-1),
        lambda nn: nn.LogSoftmax(dim=1),
        lambda nn: nn.Tanh(),
        lambda nn: nn.Sigmoid(),
    ],
)
def test_modules(make: Any) -> None:
    ours, theirs = make(tg.nn), make(torch.nn)
    assert repr(ours) == repr(theirs)
    assert not ours.state_dict()
    x = sample((4, 5), np.float64)
    np.testing.assert_allclose(ours(tg.Tensor(x.copy())).numpy(), theirs(torch.tensor(x)).numpy(), rtol=1e-13, atol=1e-15)  # 1 + erf cancels in GELU's tail


# -- Errors


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (lambda f, t: f.relu(t.tensor([True])), RuntimeError, "Boolean inputs not supported for relu"),
        (lambda f, t: f.gelu(t.tensor([1])), NotImplementedError, "not implemented for"),
        (lambda f, t: f.silu(t.tensor([1])), NotImplementedError, "not implemented for"),
        (lambda f, t: f.gelu(t.ones(2), approximate="erf"), RuntimeError, "approximate argument must be either none or tanh"),
        (lambda f, t: f.silu(t.ones(2, requires_grad=True), inplace=True), RuntimeError, "a leaf Variable that requires grad"),
        (lambda f, t: f.relu([1.0]), TypeError, "list"),
        (lambda f, t: f.softmax(t.tensor([1, 2]), 0), NotImplementedError, "not implemented for"),
        (lambda f, t: f.log_softmax(t.tensor([True]), 0), NotImplementedError, "not implemented for"),
        (lambda f, t: f.softmax(t.ones(2), 0, dtype=t.int64), NotImplementedError, "not implemented for"),
        (lambda f, t: f.softmax(t.ones(2, 3), 2), IndexError, r"Dimension out of range \(expected to be in range of \[-2, 1\], but got 2\)"),
        (lambda f, t: f.log_softmax(t.ones(2, 3), -3), IndexError, r"Dimension out of range \(expected to be in range of \[-2, 1\], but got -3\)"),
        (lambda f, t: f.softmax(t.ones(2, 3), "1"), TypeError, "str"),
        (lambda f, t: f.softmax([1.0], 0), (TypeError, AttributeError), "list"),
        (lambda f, t: t.ones(3).softmax(), TypeError, "dim"),
    ],
)
def test_errors(wrong: Any, error: Any, words: str) -> None:
    for functional, lib in ((F, tg), (torch.nn.functional, torch)):
        with pytest.raises(error, match=words):
            wrong(functional, lib)


def test_softmax_wants_to_be_told_its_axis() -> None:
    with pytest.raises(TypeError, match="dim"):
        F.softmax(tg.ones(2, 3))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="dim"):
        tg.nn.Softmax()  # type: ignore[call-arg]
