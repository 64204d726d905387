"""Sums of many float32: none is so long, one number after the other, that its digits are lost."""

import numpy as np
import pytest

import tinygrad_norm as tg
from tinygrad_norm.nn.linear import sum_rows


def test_sums_of_float32_keep_their_digits_along_every_axis():
    """NumPy adds by halves along the last axis in memory alone; of a million rows it would leave two digits."""
    x = np.random.RandomState(0).uniform(1, 2, (300_000, 2)).astype(np.float32) + np.float32(1000)
    for array, dim in ((x, 0), (x.T, 1), (x.reshape(600, 500, 2), (0, 1)), (x, (0, 1)), (x.T[:, ::2], 1)):
        t = tg.from_numpy(np.asarray(array)).requires_grad_()
        exact = array.astype(np.float64)
        axis = dim
        np.testing.assert_allclose(t.sum(dim).detach().numpy(), exact.sum(axis), rtol=2e-7)
        np.testing.assert_allclose(t.mean(dim).detach().numpy(), exact.mean(axis), rtol=2e-7)
        (g,) = tg.autograd.grad(t.var(dim).sum(), t)
        slope = 2 * (exact - exact.mean(axis, keepdims=True)) / (exact.size // t.var(dim).numel() - 1)
        assert np.abs(g.numpy() - slope).max() < 3e-4 * np.abs(slope).max()  # the mean itself is rounded to float32
    bias = tg.zeros(2, requires_grad=True)
    (tg.zeros(len(x), 2) + bias).backward(tg.from_numpy(x))
    np.testing.assert_allclose(bias.grad.numpy(), x.sum(0, dtype=np.float64), rtol=2e-7)


@pytest.mark.parametrize("mode", ["serial", "parallel"])
def test_the_sum_of_many_rows_keeps_its_digits(mode):
    rows = np.random.RandomState(0).uniform(1, 2, (300_000, 3)).astype(np.float32)
    db = np.empty(3, np.float32)
    getattr(sum_rows, mode)(rows, db, 1 if mode == "serial" else 2)
    np.testing.assert_allclose(db, rows.sum(axis=0, dtype=np.float64), rtol=2e-6)


def test_the_gradient_of_gamma_over_many_rows_keeps_its_digits():
    x = np.random.RandomState(0).rand(200_000, 4).astype(np.float32)
    weight = tg.ones(4, requires_grad=True)
    tg.nn.functional.rms_norm(tg.from_numpy(x), (4,), weight, 1e-5).backward(tg.ones(200_000, 4))
    exact = x.astype(np.float64)
    exact = (exact / np.sqrt((exact**2).mean(1, keepdims=True) + 1e-5)).sum(0)
    np.testing.assert_allclose(weight.grad.numpy(), exact, rtol=2e-6)


NORMS = {
    "layer_norm": lambda x, w, b: tg.nn.functional.layer_norm(x, (4,), w, b),
    "rms_norm": lambda x, w, b: tg.nn.functional.rms_norm(x, (4,), w, 1e-5) + b,
    "batch_norm": lambda x, w, b: tg.nn.functional.batch_norm(x, None, None, w, b, training=True),
    "batch_norm of sequences": lambda x, w, b: tg.nn.functional.batch_norm(x.reshape(-1, 4, 10), None, None, w, b, training=True),
    "group_norm": lambda x, w, b: tg.nn.functional.group_norm(x, 2, w, b),
    "masked_layer_norm": lambda x, w, b: tg.nn.functional.masked_layer_norm(x, tg.ones(len(x), 4, dtype=tg.bool), (4,), w, b),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_the_references_of_the_norms_keep_their_digits_over_many_rows(norm):
    x = np.random.RandomState(0).rand(400_000, 4).astype(np.float32)
    before = tg.get_backend()
    tg.set_backend("numpy")
    try:
        (dw, db), (exact_dw, exact_db) = (_parameter_gradients(norm, x.astype(kind)) for kind in (np.float32, np.float64))
    finally:
        tg.set_backend(before)
    assert np.abs(dw - exact_dw).max() < 2e-6 * np.abs(exact_dw).max()
    assert np.abs(db - exact_db).max() < 2e-6 * np.abs(exact_db).max()


def _parameter_gradients(norm, x):
    w, b = tg.tensor(np.ones(4, x.dtype), requires_grad=True), tg.tensor(np.zeros(4, x.dtype), requires_grad=True)
    y = norm(tg.from_numpy(x), w, b)
    y.backward(tg.from_numpy(x).reshape(y.shape))
    return w.grad.numpy(), b.grad.numpy()


@pytest.mark.parametrize("weighted", [False, True])
def test_smoothing_over_many_classes_keeps_its_digits(weighted: bool) -> None:
    """Each row of the gradient sums to 0: to the sum of 32,000 small shares belongs as much as they are."""
    x = (3 * np.random.RandomState(0).randn(8, 32_000)).astype(np.float32)
    weight = tg.tensor(np.random.RandomState(1).uniform(0.5, 1.5, 32_000).astype(np.float32)) if weighted else None
    logits = tg.tensor(x, requires_grad=True)
    tg.nn.functional.cross_entropy(logits, tg.arange(8), weight=weight, label_smoothing=0.1).backward()
    dx = logits.grad.numpy().astype(np.float64)
    assert np.abs(dx.sum(1)).max() < 2e-5 * np.abs(dx).max()
