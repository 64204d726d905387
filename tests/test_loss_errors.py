"""What the losses refuse, in torch's words, and that nothing changes then."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_loss import LIBRARIES, logits

import tinygrad_norm as tg
from tinygrad_norm.nn import functional as F


def wrong_shape(x: tuple[int, ...], t: tuple[int, ...]) -> Any:
    return lambda lib, f, name: getattr(f, name)(lib.zeros(*x), lib.zeros(*t).to(lib.int64))


BOTH_LOSSES: list[tuple[Any, Any, str]] = [
    (wrong_shape((4, 3), (2,)), ValueError, r"Expected input batch_size \(4\) to match target batch_size \(2\)\."),
    (wrong_shape((4, 3), (1, 2)), ValueError, r"Expected input batch_size \(4\) to match target batch_size \(1\)\."),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(4, 3), lib.tensor(0)), ValueError, r"batch_size \(4\) to match target batch_size \(0\)"),
    (wrong_shape((4, 3), (4, 1)), RuntimeError, "0D or 1D target tensor expected, multi-target not supported"),
    (wrong_shape((3,), (2,)), ValueError, "For 1D input, 1D target must have size 1, but got target size: 2"),
    (wrong_shape((3,), (1, 1)), RuntimeError, "0D or 1D target tensor expected"),
    (wrong_shape((2, 3, 5), (2,)), RuntimeError, r"Expected target size \[2, 5\], got \[2\]"),
    (wrong_shape((2, 3, 5), (2, 6)), RuntimeError, r"Expected target size \[2, 5\], got \[2, 6\]"),
    (wrong_shape((2, 3, 5), (3, 5)), ValueError, r"Expected input batch_size \(2\) to match target batch_size \(3\)\."),
    (wrong_shape((2, 3, 5, 6, 2), (2, 5)), RuntimeError, r"Expected target size \[2, 5, 6, 2\], got \[2, 5\]"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(4, 3), lib.zeros(4)), RuntimeError, "expected target dtype to be Long"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(4, 3), lib.zeros(4).to(lib.bool)), RuntimeError, "expected target dtype to be Long"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 3])), IndexError, r"Target 3 is out of bounds\."),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([-1, 7])), IndexError, r"Target -1 is out of bounds\."),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(3), lib.tensor(5)), IndexError, r"Target 5 is out of bounds\."),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(1, 3, 2), lib.tensor([[0, 7]])), IndexError, r"Target 7 is out of bounds\."),
    (
        lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), reduction="foo"),
        ValueError,
        "foo is not a valid value for reduction",
    ),
    (
        lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), reduction=None),
        ValueError,
        "None is not a valid value for reduction",
    ),
    (
        lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), lib.ones(2)),
        RuntimeError,
        r"weight tensor should be defined either for all 3 classes or no classes but got weight tensor of shape: \[2\]",
    ),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), lib.ones(3, 1)), RuntimeError, r"weight tensor .*shape: \[3, 1\]"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), lib.ones(3).double()), RuntimeError, "expected scalar type"),
    (
        lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), lib.ones(3, requires_grad=True)),
        RuntimeError,
        "not differentiable with respect to argument 'weight'. This input cannot have requires_grad True",
    ),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3).to(lib.int64), lib.tensor([0, 1])), NotImplementedError, "not implemented for"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), [1.0, 1.0, 1.0]), TypeError, "list"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), [0, 1]), (TypeError, AttributeError), "list"),
    (lambda lib, f, name: getattr(f, name)(lib.zeros(2, 3), lib.tensor([0, 1]), ignore_index=1.5), TypeError, "ignore_index.* must be"),
]


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize(("wrong", "error", "words"), BOTH_LOSSES)
def test_errors(wrong: Any, error: Any, words: str, name: str) -> None:
    for lib, functional in LIBRARIES:
        with pytest.raises(error, match=words):
            wrong(lib, functional, name)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (
            lambda lib, f: f.cross_entropy(lib.zeros(2, 3), lib.tensor([0, 1]), label_smoothing=1.5),
            RuntimeError,
            r"must be between 0.0 and 1.0. Got: 1.5",
        ),
        (lambda lib, f: f.cross_entropy(lib.zeros(2, 3), lib.tensor([0, 1]), label_smoothing="a"), TypeError, "label_smoothing.* must be"),
        (
            lambda lib, f: f.cross_entropy(lib.zeros(2, 3), lib.zeros(2, 3).to(lib.int64)),
            RuntimeError,
            "Expected floating point type for target with class prob",
        ),
        (
            lambda lib, f: f.cross_entropy(lib.zeros(2, 3), lib.zeros(2, 3), ignore_index=1),
            RuntimeError,
            "ignore_index is not supported for floating point",
        ),
        (
            lambda lib, f: f.cross_entropy(lib.zeros(2, 3), lib.zeros(2, 3), lib.ones(2)),
            RuntimeError,
            "weight tensor should be defined either for all 3",
        ),
        (lambda lib, f: f.nll_loss(lib.tensor(1.0), lib.tensor(0)), ValueError, r"Expected 1 or more dimensions \(got 0\)"),
        (lambda lib, f: f.mse_loss(lib.zeros(2, 3), lib.zeros(2, 3), reduction="foo"), ValueError, "foo is not a valid value for reduction"),
        (lambda lib, f: f.mse_loss(lib.zeros(3).to(lib.int64), lib.zeros(3).to(lib.int64)), NotImplementedError, "not implemented for"),
    ],
)
def test_more_errors(wrong: Any, error: Any, words: str) -> None:
    for lib, functional in LIBRARIES:
        with pytest.raises(error, match=words):
            wrong(lib, functional)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_mse_of_shapes_that_do_not_broadcast() -> None:
    for lib, functional in LIBRARIES:
        with pytest.raises(RuntimeError, match=r"The size of tensor a \(3\) must match the size of tensor b \(4\) at non-singleton dimension 1"):
            functional.mse_loss(lib.zeros(4, 3), lib.zeros(4))


@pytest.mark.parametrize("smoothing", [-0.5, math.nan])
def test_smoothing_that_torch_lets_pass(smoothing: float) -> None:
    with pytest.raises(RuntimeError, match="label_smoothing must be between"):
        F.cross_entropy(tg.zeros(2, 3), tg.tensor([0, 1]), label_smoothing=smoothing)


def test_an_input_without_axes() -> None:
    with pytest.raises(ValueError, match="Expected 1 or more dimensions"):
        F.cross_entropy(tg.tensor(1.0), tg.tensor(0))


def test_no_state_changes_on_an_error() -> None:
    x, t, w = tg.Tensor(logits((4, 3)), True), tg.tensor([0, 1, 3, 0]), tg.ones(3).double()
    before = x.detach().numpy().copy()
    for options in ({}, {"label_smoothing": 0.1}, {"weight": w}, {"reduction": "none"}):
        with pytest.raises(IndexError, match=r"There are 3 classes: targets are 0 to 2, or ignore_index, -100"):
            F.cross_entropy(x, t, **options)
    assert x.grad is None
    assert x._version == t._version == w._version == 0
    np.testing.assert_array_equal(x.detach().numpy(), before)
