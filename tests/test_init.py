"""nn.init against torch: the same seed, the same numbers; the same errors and warnings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
from tinygrad_norm.nn import init

BOTH = [pytest.param(tg, id="ours"), pytest.param(torch, id="torch")]
NAMES = ["linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
NAMES += ["sigmoid", "tanh", "relu", "leaky_relu", "selu"]

FILLS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "constant": lambda i, t, g: i.constant_(t, 0.3),
    "ones": lambda i, t, g: i.ones_(t),
    "zeros": lambda i, t, g: i.zeros_(t),
    "uniform": lambda i, t, g: i.uniform_(t, generator=g),
    "uniform in bounds": lambda i, t, g: i.uniform_(t, -3.7, 0.2, g),
    "normal": lambda i, t, g: i.normal_(t, generator=g),
    "normal wide": lambda i, t, g: i.normal_(t, 3, 0.1, g),
    "xavier uniform": lambda i, t, g: i.xavier_uniform_(t, generator=g),
    "xavier uniform gain": lambda i, t, g: i.xavier_uniform_(t, i.calculate_gain("tanh"), g),
    "xavier normal": lambda i, t, g: i.xavier_normal_(t, gain=0.5, generator=g),
    "kaiming uniform": lambda i, t, g: i.kaiming_uniform_(t, generator=g),
    "kaiming uniform a": lambda i, t, g: i.kaiming_uniform_(t, a=5**0.5, generator=g),
    "kaiming uniform out": lambda i, t, g: i.kaiming_uniform_(t, 0, "FAN_OUT", "relu", g),
    "kaiming normal": lambda i, t, g: i.kaiming_normal_(t, mode="fan_out", nonlinearity="selu", generator=g),
    "kaiming normal a": lambda i, t, g: i.kaiming_normal_(t, 0.2, generator=g),
}


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@settings(max_examples=15, deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), seed=st.integers(0, 2**32))
def test_same_seed_same_numbers(fill: Any, kind: str, own_generator: bool, shape: list[int], seed: int) -> None:
    def run(lib: Any) -> tuple[Any, Any]:
        generator = lib.Generator().manual_seed(seed) if own_generator else None
        lib.manual_seed(seed)
        t = lib.nn.Parameter(lib.zeros(*shape, dtype=getattr(lib, kind)))
        before = t._version
        assert fill(lib.nn.init, t, generator) is t
        assert t.is_leaf
        assert t.requires_grad
        assert t._version > before
        return t.detach().numpy(), lib.rand(3).numpy()

    (ours, after), (theirs, expected) = run(tg), run(torch)
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=4 * np.finfo(kind).eps, atol=np.finfo(kind).eps)
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("fill", [FILLS[n] for n in FILLS if "uniform" in n], ids=[n for n in FILLS if "uniform" in n])
def test_uniform_is_the_same_to_the_bit(fill: Any) -> None:
    for kind in ("float32", "float64"):
        tg.manual_seed(5)
        torch.manual_seed(5)
        ours, theirs = tg.zeros(37, 53, dtype=getattr(tg, kind)), torch.zeros(37, 53, dtype=getattr(torch, kind))
        np.testing.assert_array_equal(fill(tg.nn.init, ours, None).numpy(), fill(torch.nn.init, theirs, None).numpy())


@settings(max_examples=100)
@given(st.sampled_from(NAMES), st.none() | st.integers(-5, 5) | st.floats(-5, 5))
def test_gain(name: str, param: float | None) -> None:
    assert init.calculate_gain(name, param) == torch.nn.init.calculate_gain(name, param)  # type: ignore[arg-type]


def test_spread_is_kept() -> None:
    """What the formulas promise: through twenty layers of relu the mean square stays within a factor of two."""
    tg.manual_seed(0)
    x = tg.randn(256, 300)
    for _ in range(20):
        x = (x @ init.kaiming_normal_(tg.zeros(300, 300), nonlinearity="relu").T).relu()
    assert 0.5 < (x * x).mean().item() < 2.0


BAD: list[tuple[Callable[[Any], Any], Callable[[Any, Any], Any], type[Exception], str]] = [
    (lambda lib: lib.ones(3), lambda i, t: i.xavier_uniform_(t), ValueError, "Fan in and fan out can not be computed for tensor with fewer than 2"),
    (lambda lib: lib.ones(3), lambda i, t: i.xavier_normal_(t), ValueError, "fewer than 2 dimensions"),
    (lambda lib: lib.ones(3), lambda i, t: i.kaiming_uniform_(t), ValueError, "fewer than 2 dimensions"),
    (lambda lib: lib.tensor(1.0), lambda i, t: i.kaiming_normal_(t), ValueError, "fewer than 2 dimensions"),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.kaiming_uniform_(t, mode="fan"), ValueError, "Mode fan not supported, please use one of ['fan_in', "),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.kaiming_normal_(t, mode=""), ValueError, "not supported"),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.kaiming_uniform_(t, nonlinearity="gelu"), ValueError, "Unsupported nonlinearity gelu"),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.kaiming_normal_(t, nonlinearity="Relu"), ValueError, "Unsupported nonlinearity Relu"),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.kaiming_uniform_(t, a="x"), ValueError, "negative_slope x not a valid number"),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.calculate_gain("leaky_relu", True), ValueError, "negative_slope True not a valid number"),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.uniform_(t, 1.0, 0.0), RuntimeError, ""),
    (lambda lib: lib.ones(2, 2), lambda i, t: i.normal_(t, 0.0, -1.0), RuntimeError, ""),
    (lambda lib: lib.ones(2, 2, dtype=lib.int64), lambda i, t: i.normal_(t), RuntimeError, ""),
    (lambda lib: lib.ones(2, 2, dtype=lib.int64), lambda i, t: i.uniform_(t), RuntimeError, ""),
]  # fmt: skip


@pytest.mark.parametrize("lib", BOTH)
@pytest.mark.parametrize(("make", "run", "error", "phrase"), BAD, ids=range(len(BAD)))
def test_bad_input_raises_as_torch_and_changes_nothing(lib: Any, make: Any, run: Any, error: type[Exception], phrase: str) -> None:
    lib.manual_seed(3)
    t = make(lib)
    before = t.tolist()
    with pytest.raises(error) as caught:
        run(lib.nn.init, t)
    assert phrase in str(caught.value)
    assert t.tolist() == before
    after = lib.rand(2).tolist()
    lib.manual_seed(3)
    assert lib.rand(2).tolist() == after, "the random stream has moved"


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
def test_only_tensors_are_filled(fill: Any) -> None:
    for wrong in (np.ones((2, 2)), [1.0], None):
        with pytest.raises(TypeError, match="fills a Tensor; got"):
            fill(init, wrong, None)


@pytest.mark.parametrize("lib", BOTH)
@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_no_elements_warn(lib: Any, name: str) -> None:
    t = lib.zeros(0, 3)
    with pytest.warns(UserWarning, match="Initializing zero-element tensors is a no-op") as caught:
        assert getattr(lib.nn.init, name)(t) is t
    assert caught[0].filename == __file__


@pytest.mark.parametrize("lib", BOTH)
def test_no_elements_where_the_fan_is_known(lib: Any) -> None:
    assert lib.nn.init.xavier_uniform_(lib.zeros(0, 3)).shape == (0, 3)
