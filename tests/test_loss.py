"""Cross-entropy and negative log-likelihood against torch: values, gradients of two orders, options, ends."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn import functional as F
from tinygrad_norm.nn.cross_entropy import cross_entropy_backward, cross_entropy_forward
from tinygrad_norm.nn.softmax import is_double

Array = np.ndarray[Any, Any]
inf, nan = math.inf, math.nan

DTYPES = [np.float32, np.float64]
LIBRARIES = ((tg, F), (torch, torch.nn.functional))
# rows: (C) has one, (N, C) N, (N, C, d…) N·d…
SHAPES: list[tuple[int, ...]] = [(3,), (1, 3), (4, 3), (100, 2), (5, 1), (2, 3, 5), (2, 3, 1), (2, 4, 3, 5), (2, 3, 2, 1, 2), (40, 65)]
EMPTY: list[tuple[int, ...]] = [(0, 3), (2, 3, 0), (0, 3, 4), (2, 3, 0, 2), (0, 0)]


def logits(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 0, scale: float = 2.0) -> Array:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * scale, dtype)


def target_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return () if len(shape) == 1 else (shape[0], *shape[2:])


def classes(shape: tuple[int, ...], seed: int = 0, ignored: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    c = shape[1] if len(shape) > 1 else shape[0]
    t = rng.integers(0, max(c, 1), target_shape(shape))
    return np.where(rng.random(t.shape) < ignored, -100, t).astype(np.int64)


def probabilities(shape: tuple[int, ...], dtype: Any = np.float64, seed: int = 7) -> Array:
    e = np.exp(logits(shape, dtype, seed))
    return np.asarray(e / e.sum(axis=1 if len(shape) > 1 else 0, keepdims=True), dtype)


def run(name: str, x: Array, t: Array, dy: Array | None = None, weight: Array | None = None, **options: Any) -> list[list[Array]]:
    """For ours and torch's: the loss and ∂loss/∂x."""
    results = []
    for lib, functional in LIBRARIES:
        a = lib.tensor(x, requires_grad=True)
        more = {} if weight is None else {"weight": lib.tensor(weight)}
        y = getattr(functional, name)(a, lib.tensor(t), **more, **options)
        y.backward(lib.tensor(np.ones(y.shape, x.dtype) if dy is None else np.broadcast_to(dy, y.shape).astype(x.dtype)))
        results.append([y.detach().numpy(), a.grad.numpy()])
    return results


def check(results: list[list[Array]], rtol: float = 1e-12, atol: float = 1e-13) -> None:
    for ours, theirs in zip(*results):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


# -- Values and gradients


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", SHAPES + EMPTY)
def test_plain_cross_entropy(shape: tuple[int, ...], reduction: str) -> None:
    dy = np.random.default_rng(5).normal(size=target_shape(shape)) if reduction == "none" else np.array(-0.7)
    check(run("cross_entropy", logits(shape), classes(shape), dy, reduction=reduction))
    check(run("cross_entropy", logits(shape, np.float32), classes(shape), dy, reduction=reduction), rtol=3e-6, atol=1e-6)


OPTIONS = list(itertools.product(["mean", "sum", "none"], [False, True], [0.0, 0.1, 1.0], [0.0, 0.4, 1.0]))


@pytest.mark.parametrize(("reduction", "weighted", "smoothing", "ignored"), OPTIONS)
def test_all_options_of_cross_entropy(reduction: str, weighted: bool, smoothing: float, ignored: float) -> None:
    for shape in ((6, 4), (2, 4, 3)):
        weight = np.array([0.5, 2.0, 0.0, 1.5]) if weighted else None
        dy = np.random.default_rng(5).normal(size=target_shape(shape)) if reduction == "none" else np.array(1.7)
        t = classes(shape, 3, ignored)
        t.flat[0] = -100 if ignored == 1 else 1
        check(run("cross_entropy", logits(shape), t, dy, weight, reduction=reduction, label_smoothing=smoothing))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.sampled_from(["mean", "sum", "none"]),
    st.booleans(),
    st.sampled_from([0.0, 0.25, 0.9]),
    st.sampled_from([-100, 0, 1, -1]),
    st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=120)
def test_any_shape_and_option(shape: list[int], reduction: str, weighted: bool, smoothing: float, ignore: int, seed: int) -> None:
    if len(shape) > 1:
        shape[1] += 1
    shape[0] += len(shape) == 1
    c = shape[1] if len(shape) > 1 else shape[0]
    size = tuple(shape)
    rng = np.random.default_rng(seed)
    t = np.where(rng.random(target_shape(size)) < 0.3, ignore, classes(size, seed)).astype(np.int64)
    weight = rng.random(c) + 0.1 if weighted else None
    dy = rng.normal(size=target_shape(size)) if reduction == "none" else np.array(rng.normal())
    options = {"reduction": reduction, "ignore_index": ignore}
    check(run("cross_entropy", logits(size, seed=seed), t, dy, weight, label_smoothing=smoothing, **options))
    check(run("nll_loss", -np.abs(logits(size, seed=seed)), t, dy, weight, **options))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("weighted", "smoothing"), [(False, 0.0), (True, 0.0), (True, 0.2), (False, 1.0)])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (1, 3), (2, 3, 5), (2, 3, 2, 2), (0, 3), (2, 3, 0)])
def test_class_probabilities(shape: tuple[int, ...], weighted: bool, smoothing: float, reduction: str) -> None:
    """The target's own gradient as well, and the second derivative in both."""
    v, r = logits(shape, seed=2), logits(shape, seed=3)
    results = []
    for lib, functional in LIBRARIES:
        a, q = lib.tensor(logits(shape), requires_grad=True), lib.tensor(probabilities(shape), requires_grad=True)
        weight = lib.tensor([0.5, 2.0, 1.5], dtype=lib.float64) if weighted else None
        y = functional.cross_entropy(a, q, weight, reduction=reduction, label_smoothing=smoothing)
        da, dq = lib.autograd.grad(y.sum() * 1.3, (a, q), create_graph=True)
        second = lib.autograd.grad((da * lib.tensor(v)).sum() + (dq * lib.tensor(r)).sum(), (a, q))
        results.append([g.detach().numpy() for g in (y, da, dq, *second)])
    check(results)


def test_one_hot_probabilities_are_class_indices() -> None:
    x, t = logits((5, 4)), classes((5, 4))
    as_probabilities = F.cross_entropy(tg.Tensor(x), tg.Tensor(np.eye(4)[t]))
    np.testing.assert_allclose(as_probabilities.numpy(), F.cross_entropy(tg.Tensor(x), tg.Tensor(t)).numpy(), rtol=1e-14)


def test_probabilities_of_another_float_type() -> None:
    for kinds in ((np.float32, np.float64), (np.float64, np.float32)):
        check(run("cross_entropy", logits((4, 3), kinds[0]), probabilities((4, 3), kinds[1])), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("weighted", "smoothing", "ignored"), [(False, 0.0, 0.0), (True, 0.0, 0.3), (True, 0.3, 0.3), (False, 0.1, 0.0)])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (6, 3), (2, 3, 4), (0, 3)])
def test_second_derivatives(shape: tuple[int, ...], weighted: bool, smoothing: float, ignored: float, reduction: str) -> None:
    """Of logits and of the gradient from above, hand-derived here and composed in torch."""
    x, v, t = logits(shape), logits(shape, seed=2), classes(shape, 1, ignored)
    results = []
    for lib, functional in LIBRARIES:
        a = lib.tensor(x, requires_grad=True)
        weight = lib.tensor([0.5, 2.0, 1.5], dtype=lib.float64) if weighted else None
        y = functional.cross_entropy(a, lib.tensor(t), weight, reduction=reduction, label_smoothing=smoothing)
        u = lib.tensor(np.random.default_rng(4).normal(size=y.shape), requires_grad=True)
        (da,) = lib.autograd.grad(y, a, u, create_graph=True)
        second = lib.autograd.grad((da * lib.tensor(v)).sum(), (a, u))
        results.append([g.detach().numpy() for g in (da, *second)])
    if shape[0] == 0 and reduction == "mean":  # of nothing: 0 ways to move, so 0; torch's is 0/0
        assert results[0].pop() == 0
        assert np.isnan(results[1].pop())
    check(results, atol=1e-15)


@pytest.mark.parametrize("name", ["nll_loss", "mse_loss"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_second_derivatives_of_the_others(name: str, reduction: str) -> None:
    x, v = logits((4, 3)), logits((4, 3), seed=2)
    t = classes((4, 3)) if name == "nll_loss" else logits((4, 3), seed=3)
    results = []
    for lib, functional in LIBRARIES:
        a = lib.tensor(x, requires_grad=True)
        y = getattr(functional, name)(a * a, lib.tensor(t), reduction=reduction)
        u = lib.tensor(np.random.default_rng(4).normal(size=y.shape), requires_grad=True)
        (da,) = lib.autograd.grad(y, a, u, create_graph=True)
        second = lib.autograd.grad((da * lib.tensor(v)).sum(), (a, u))
        results.append([g.detach().numpy() for g in (da, *second)])
    check(results)


def test_a_third_derivative_raises() -> None:
    x = tg.Tensor(logits((4, 3)), True)
    (dx,) = tg.autograd.grad(F.cross_entropy(x, tg.Tensor(classes((4, 3)))), x, create_graph=True)
    (second,) = tg.autograd.grad((dx * dx).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once differentiable"):
        second.sum().backward()


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"reduction": "sum", "ignore_index": 1}])
def test_finite_differences(options: dict[str, Any]) -> None:
    x, t, h = logits((3, 4)), tg.Tensor(classes((3, 4))), 1e-6
    a = tg.Tensor(x.copy(), True)
    F.cross_entropy(a, t, **options).backward()
    numeric = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        numeric[i] = (F.cross_entropy(tg.Tensor(up), t, **options) - F.cross_entropy(tg.Tensor(down), t, **options)).item() / (2 * h)
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), numeric, atol=1e-8)


def test_the_gradient_is_p_minus_o_over_n() -> None:
    x, t = logits((5, 4)), classes((5, 4))
    a = tg.Tensor(x, True)
    (3 * F.cross_entropy(a, tg.Tensor(t))).backward()
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert a.grad is not None
    np.testing.assert_allclose(a.grad.numpy(), 3 * (p - np.eye(4)[t]) / 5, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(a.grad.numpy().sum(axis=1), 0, atol=1e-15)


def test_float32_is_as_exact_as_float32_can_be() -> None:
    x, t = logits((200, 500), np.float32, scale=4.0), classes((200, 500))
    (loss, dx), _ = run("cross_entropy", x, t, reduction="none")
    _, (exact, gradient) = run("cross_entropy", x.astype(np.float64), t, reduction="none")
    unit = np.spacing(np.maximum(exact, np.abs(x).max()).astype(np.float32))
    assert (np.abs(loss - exact) / unit).max() <= 2
    assert np.abs(dx - gradient).max() <= 4 * np.spacing(np.float32(1))
    (mean, _), _ = run("cross_entropy", x, t)
    assert abs(float(mean) - exact.mean()) <= 2 * np.spacing(np.float32(exact.mean()))


# -- Ends


ROWS = [
    [1000.0, 0.0, -1000.0],
    [-1000.0, -1000.0, -1000.0],
    [1e4, 1e4 + 1, 1e4 - 1],
    [-inf, 0.0, 1.0],
    [0.0, -inf, -inf],
    [-inf, -inf, -inf],
    [inf, 0.0, 1.0],
    [nan, 0.0, 1.0],
    [0.0, -nan, 1.0],
    [3e38, -3e38, 0.0],
]


PLAIN: dict[str, Any] = {}
SMOOTH, WEIGHTED = {"label_smoothing": 0.1}, {"weight": [0.0, 1.0, 2.0]}


@pytest.mark.parametrize("target", [0, 1, 2])
@pytest.mark.parametrize(
    ("dtype", "options"),
    [*((np.float32, o) for o in (PLAIN, SMOOTH | WEIGHTED)), *((np.float64, o) for o in (PLAIN, SMOOTH, WEIGHTED, SMOOTH | WEIGHTED))],
)
def test_extreme_logits(options: dict[str, Any], target: int, dtype: Any) -> None:
    options = {k: np.array(v, dtype) if k == "weight" else v for k, v in options.items()}
    x, t = np.array(ROWS, dtype), np.full(len(ROWS), target)
    check(run("cross_entropy", x, t, reduction="none", **options), rtol=2e-6, atol=1e-6)
    for row in ROWS:
        check(run("cross_entropy", np.array([row, [1.0, 2.0, 3.0]], dtype), np.array([target, 2]), **options), rtol=2e-6, atol=1e-6)


def test_large_logits_stay_finite_and_a_missing_class_costs_nothing() -> None:
    assert F.cross_entropy(tg.tensor([[1e4, -1e4]]), tg.tensor([1])).item() == 20000
    assert F.cross_entropy(tg.tensor([[-inf, 0.0]]), tg.tensor([1])).item() == 0
    assert F.cross_entropy(tg.tensor([[-inf, 0.0]]), tg.tensor([0])).item() == inf


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_an_ignored_row_counts_for_nothing_whatever_it_holds(bad: float) -> None:
    """torch agrees on the loss; its gradient of such a row is NaN, ours 0."""
    x = np.array([[bad, 0.0, bad], [1.0, 2.0, 3.0]])
    for options in ({}, {"label_smoothing": 0.1}):
        (loss, dx), (expected, theirs) = run("cross_entropy", x, np.array([-100, 1]), **options)
        np.testing.assert_allclose(loss, expected, rtol=1e-14)
        np.testing.assert_allclose(dx[1], theirs[1], rtol=1e-13)
        assert not dx[0].any()
        a = tg.Tensor(x.copy(), True)
        (da,) = tg.autograd.grad(F.cross_entropy(a, tg.tensor([-100, 1]), **options), a, create_graph=True)
        (second,) = tg.autograd.grad(da[:, 0].sum(), a)
        assert second is not None
        assert not second.numpy()[0].any()
        assert np.isfinite(second.numpy()).all()


def test_nothing_left_to_count() -> None:
    x, ignored = tg.Tensor(logits((2, 3)), True), tg.tensor([-100, -100])
    for options in ({}, {"label_smoothing": 0.5}):
        loss = F.cross_entropy(x, ignored, **options)
        assert math.isnan(loss.item())
        assert F.cross_entropy(x, ignored, reduction="sum", **options).item() == 0
        x.grad = None
        loss.backward()
        assert x.grad is not None
        assert not x.grad.numpy().any()
    check(run("cross_entropy", logits((2, 3)), np.array([1, 1]), weight=np.array([1.0, 0.0, 1.0])))
    check(run("cross_entropy", logits((2, 3)), np.array([1, 1]), weight=np.array([1.0, 0.0, 1.0]), reduction="sum"))
    check(run("nll_loss", logits((2, 3)), np.array([1, 1]), weight=np.array([1.0, 0.0, 1.0])))
    check(run("nll_loss", logits((2, 3)), np.array([-100, -100])))


def test_an_ignored_index_may_be_a_class() -> None:
    check(run("cross_entropy", logits((4, 3)), np.array([1, 2, 1, 0]), ignore_index=1))
    check(run("cross_entropy", logits((4, 3)), np.array([1, 2, 255, 0]), ignore_index=255))


# -- Kernels


# Each with and without in each type, not all pairs of them: for each that stands here a kernel is compiled.
@pytest.mark.parametrize(
    ("dtype", "weighted", "smoothing"), [(np.float32, False, None), (np.float32, True, 0.1), (np.float64, False, 0.1), (np.float64, True, None)]
)
@np.errstate(all="ignore")  # as a kernel runs its reference
def test_kernels_against_their_references(dtype: Any, weighted: bool, smoothing: float | None) -> None:
    ways = ["reference", "serial", *(["parallel", "parallel"] if dtype is np.float32 and not weighted else [])]
    tolerance = {"rtol": 2e-5, "atol": 2e-6} if dtype is np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    for rows, width in ((1, 1), (7, 3), (33, 70), (0, 3)):
        x, t = logits((rows, width), dtype), classes((rows, width), 1, 0.2)
        weight = np.linspace(0.5, 2, width).astype(dtype) if weighted else None
        for dy in (np.full(1, 0.3, dtype), np.ones(1, dtype), logits((rows,), dtype, 9)):
            if dy.size == 0:
                continue
            results = []
            for way in ways:
                losses, stats, dx, at_once = np.empty(rows, dtype), np.empty((rows, 2), dtype), *np.full((2, rows, width), nan, dtype)
                at_once = at_once if dy[0] == 1 else at_once[:0]
                numbers = getattr(cross_entropy_forward, way)(x, t, weight, smoothing, -100, is_double(x), losses, stats, at_once)
                norm = numbers[1] or 1.0
                getattr(cross_entropy_backward, way)(dy, x, t, weight, smoothing, -100, norm, is_double(x), stats, dx)
                if len(at_once) and way != "reference":
                    np.testing.assert_array_equal(at_once, dx)
                results.append((np.array(numbers), losses, stats, dx, at_once))
            reference, serial, *parallel = results
            for got, expected in zip(serial, reference):
                np.testing.assert_allclose(got, expected, **tolerance)
            for other in parallel:
                for got, expected, again in zip(other, serial, parallel[0]):
                    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-6)  # the sums may be added in another order
                    np.testing.assert_array_equal(got, again)  # but in one order


def test_kernels_count_what_is_out_of_bounds() -> None:
    x, t = logits((4, 3)), np.array([0, 3, -1, -100])
    for way in ("reference", "serial"):
        assert getattr(cross_entropy_forward, way)(x, t, None, None, -100, True, np.empty(4), np.empty((4, 2)), x[:0])[0] == 2


def test_large_ones_run_in_parallel_and_agree() -> None:
    x, t = logits((6000, 100), np.float32), classes((6000, 100), 1, 0.1)
    check(run("cross_entropy", x, t), rtol=1e-5, atol=1e-8)


def test_the_gradient_made_with_the_loss_is_given_away_once() -> None:
    x, t = logits((6, 4)), classes((6, 4), 1, 0.3)
    a = tg.tensor(x, requires_grad=True)
    loss = F.cross_entropy(a, tg.tensor(t))
    (first,) = tg.autograd.grad(loss, a, retain_graph=True)
    kept = first.numpy().copy()
    (second,) = tg.autograd.grad(loss, a, retain_graph=True)
    first.zero_()
    (third,) = tg.autograd.grad(loss, a, tg.tensor(1.0, dtype=tg.float64), retain_graph=True)
    (half,) = tg.autograd.grad(loss, a, tg.tensor(0.5, dtype=tg.float64))
    np.testing.assert_array_equal(second.numpy(), kept)
    np.testing.assert_array_equal(third.numpy(), kept)
    np.testing.assert_allclose(half.numpy(), kept / 2, rtol=1e-15)
    for scale in (0.5, nan, np.inf):  # the first backward is not by 1
        check(run("cross_entropy", x, t, np.array(scale)), rtol=1e-13)


def test_the_numpy_backend_gives_the_same() -> None:
    before = tg.get_backend()
    results = []
    for backend in ("numba", "numpy"):
        tg.set_backend(backend)
        try:
            results.append(run("cross_entropy", logits((6, 4)), classes((6, 4), 1, 0.3), weight=np.arange(1.0, 5), label_smoothing=0.1)[0])
        finally:
            tg.set_backend(before)
    check(results, rtol=1e-13)


# -- Layouts and the graph


def test_any_memory_layout_and_nothing_compiled_twice() -> None:
    base = logits((8, 6))
    signatures = {k: len(k._serial.signatures) for k in (cross_entropy_forward, cross_entropy_backward) if k._serial}
    for x in (base.T, base[::2, ::3], base[::-1], np.broadcast_to(base[:1], base.shape), np.broadcast_to(base, base.shape)):
        t = classes(x.shape)
        wide = np.repeat(t, 2)[::2]
        for reduction in ("mean", "none"):
            a, b = tg.Tensor(x, True), tg.Tensor(x.copy("C"), True)
            F.cross_entropy(a, tg.Tensor(wide), reduction=reduction).sum().backward()  # of "none", an expanded gradient comes back
            F.cross_entropy(b, tg.Tensor(t), reduction=reduction).sum().backward()
            assert a.grad is not None
            assert b.grad is not None
            assert a.grad.numpy().flags.c_contiguous
            np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())
    for kernel, before in signatures.items():
        assert len(kernel._serial.signatures) <= max(before, 8)


def test_the_caller_may_change_targets_and_weights_before_the_backward() -> None:
    gradients = []
    for changed in (False, True):
        x, t, w = tg.Tensor(logits((4, 3)), True), tg.Tensor(classes((4, 3))), tg.tensor([1.0, 2.0, 3.0], dtype=tg.float64)
        loss = F.cross_entropy(x, t, w)
        if changed:
            t.fill_(0)
            w.fill_(0)
        loss.backward()
        assert x.grad is not None
        gradients.append(x.grad.numpy())
    np.testing.assert_array_equal(*gradients)


def test_changed_logits_are_noticed() -> None:
    x = tg.Tensor(logits((4, 3)), True)
    h = x * 1
    loss = F.cross_entropy(h, tg.Tensor(classes((4, 3))))
    with tg.no_grad():
        h.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert x.grad is None


def test_a_second_backward_wants_retain_graph() -> None:
    x = tg.Tensor(logits((4, 3)), True)
    loss = F.cross_entropy(x, tg.Tensor(classes((4, 3))))
    loss.backward(retain_graph=True)
    loss.backward()
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


@pytest.mark.parametrize(
    "make",
    [
        lambda lib, f: f.cross_entropy(lib.ones(2, 3, requires_grad=True), lib.tensor([0, 1])),
        lambda lib, f: f.cross_entropy(lib.ones(2, 3, requires_grad=True), lib.tensor([0, 1]), reduction="none"),
        lambda lib, f: f.cross_entropy(lib.ones(3, requires_grad=True), lib.tensor(1)),
        lambda lib, f: f.cross_entropy(lib.ones(2, 3, 2, requires_grad=True), lib.tensor([[0, 1], [2, 0]])),
        lambda lib, f: f.nll_loss(lib.ones(2, 3, requires_grad=True), lib.tensor([0, 1])),
        lambda lib, f: f.nll_loss(lib.ones(2, 3, 2, requires_grad=True), lib.tensor([[0, 1], [2, 0]])),
        lambda lib, f: f.mse_loss(lib.ones(2, 3, requires_grad=True), lib.zeros(2, 3)),
    ],
)
def test_names_in_the_graph(make: Any) -> None:
    ours, theirs = (make(lib, functional) for lib, functional in LIBRARIES)
    assert repr(ours) == repr(theirs)


# -- Modules


@pytest.mark.parametrize(
    ("make", "target"),
    [
        (lambda nn, w: nn.CrossEntropyLoss(), "classes"),
        (lambda nn, w: nn.CrossEntropyLoss(w), "classes"),
        (lambda nn, w: nn.CrossEntropyLoss(weight=w, ignore_index=1, reduction="sum", label_smoothing=0.1), "classes"),
        (lambda nn, w: nn.CrossEntropyLoss(reduction="none"), "probabilities"),
        (lambda nn, w: nn.NLLLoss(w, ignore_index=2), "classes"),
        (lambda nn, w: nn.NLLLoss(reduction="sum"), "classes"),
        (lambda nn, w: nn.MSELoss(reduction="sum"), "probabilities"),
        (lambda nn, w: nn.MSELoss(), "probabilities"),
    ],
)
def test_modules(make: Any, target: str) -> None:
    x, w = logits((5, 3)), [0.5, 1.0, 2.0]
    t = classes((5, 3)) if target == "classes" else probabilities((5, 3))
    ours, theirs = make(tg.nn, tg.tensor(w, dtype=tg.float64)), make(torch.nn, torch.tensor(w, dtype=torch.float64))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert not list(ours.parameters())
    np.testing.assert_allclose(ours(tg.Tensor(x), tg.Tensor(t)).numpy(), theirs(torch.tensor(x), torch.tensor(t)).numpy(), rtol=1e-13)


def test_the_weight_of_a_module_is_a_buffer() -> None:
    criterion = tg.nn.CrossEntropyLoss(tg.ones(3))
    assert [name for name, _ in criterion.named_buffers()] == ["weight"]
    assert criterion.double().weight.dtype is tg.float64
    assert tg.nn.CrossEntropyLoss().weight is None


@pytest.mark.parametrize("name", ["nll_loss", "cross_entropy"])
@pytest.mark.parametrize("lib", [tg, torch], ids=["ours", "torch"])
def test_an_ignored_row_learns_nothing_whatever_comes_from_above(lib: Any, name: str) -> None:
    loss = getattr(lib.nn.functional, name)
    x = lib.zeros(2, 3, dtype=lib.float64, requires_grad=True)
    all_ignored = loss(x, lib.tensor([-100, -100]))  # NaN, the mean of nothing
    assert lib.autograd.grad(all_ignored * all_ignored, x)[0].tolist() == [[0, 0, 0]] * 2
    each = loss(x, lib.tensor([-100, 1]), reduction="none")
    (g,) = lib.autograd.grad(each, x, lib.tensor([math.inf, 2.0], dtype=lib.float64))
    assert g[0].tolist() == [0, 0, 0] and abs(g[1, 1].item()) > 1
