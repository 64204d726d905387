"""Squared error against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_loss import DTYPES, LIBRARIES, check, logits, run

import tinygrad_norm as tg


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 3, 4), (0, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_mse(shape: tuple[int, ...], reduction: str, dtype: Any) -> None:
    x, t, dy = logits(shape, dtype), logits(shape, dtype, 1), logits(shape if reduction == "none" else (), dtype, 2)
    tolerance = 1e-6 if dtype is np.float32 else 1e-13
    check(run("mse_loss", x, t, dy, reduction=reduction), rtol=tolerance, atol=0)
    check([r[::-1] for r in run("mse_loss", t, x, dy, reduction=reduction)], rtol=tolerance, atol=0)


def test_mse_gives_the_target_its_gradient() -> None:
    results = []
    for lib, functional in LIBRARIES:
        a, t = (lib.tensor(logits((4, 3), seed=s), requires_grad=True) for s in (0, 1))
        functional.mse_loss(a, t).backward()
        results.append([a.grad.numpy(), t.grad.numpy()])
    check(results)


def test_mse_of_different_shapes_warns_as_torch_does() -> None:
    results = []
    for lib, functional in LIBRARIES:
        a, t = lib.tensor(logits((4, 3)), requires_grad=True), lib.tensor(logits((4, 1), seed=1), requires_grad=True)
        with pytest.warns(UserWarning, match="different to the input size"):
            functional.mse_loss(a, t).backward()
        results.append([a.grad.numpy(), t.grad.numpy()])
    check(results)


def test_mse_promotes() -> None:
    for kinds in ((np.float32, np.int64), (np.float32, np.float64)):
        a, b = (functional.mse_loss(lib.ones(3), lib.tensor(np.arange(3).astype(kinds[1]))) for lib, functional in LIBRARIES)
        assert a.item() == pytest.approx(b.item())
        assert str(a.dtype) == str(b.dtype)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_shapes_are_broadcast_before_types_are_promoted() -> None:
    for a, b in (("float32", "float64"), ("float64", "float32")):
        results = []
        for lib in (tg, torch):
            x = lib.zeros(3, dtype=getattr(lib, a), requires_grad=True)
            t = lib.tensor(3.0, dtype=getattr(lib, b), requires_grad=True)
            y = lib.nn.functional.mse_loss(x, t)
            y.backward()
            results.append([str(y.dtype), y.item(), x.grad.tolist(), t.grad.item(), str(t.grad.dtype)])
        assert results[0] == results[1]
