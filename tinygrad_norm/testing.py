"""One row per op: sample inputs, and one function that runs with this library or with torch in the place of `lib`.

The tests and `tinygrad-norm gradcheck` read this table; a new op is known to both once it has its row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .nn.recurrent import layer_norm_lstm_cell
from .samples import Sample, integers, mask, normal, positive, prefixes, probabilities, spread

__all__ = ["CASES", "Case", "compare_arrays"]

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """A row: `function(lib, *tensors)`, the samples it takes, and how often it can be differentiated."""

    name: str
    function: Callable[..., Any]
    samples: Sequence[Sample]
    orders: int = 2

    def arrays(self, seed: int = 0) -> list[Array]:
        """The sample inputs: float64, int64 or bool arrays."""
        rng = np.random.RandomState(seed)
        return [sample(rng) for sample in self.samples]


def _norm(name: str, shape: tuple[int, ...], normalized: tuple[int, ...], eps: float = 1e-5) -> Case:
    return Case(
        f"layer_norm {name}",
        lambda lib, x, w, b: lib.nn.functional.layer_norm(x, normalized, w, b, eps),
        [normal(*shape, scale=2), normal(*normalized), normal(*normalized)],
    )


def _batch(name: str, shape: tuple[int, ...], eps: float = 1e-5) -> Case:
    return Case(
        f"batch_norm {name}",
        lambda lib, x, w, b: lib.nn.functional.batch_norm(x, None, None, w, b, True, 0.1, eps),
        [normal(*shape, scale=2), normal(shape[1]), normal(shape[1])],
    )


def _batch_eval(name: str, shape: tuple[int, ...]) -> Case:
    def run(lib: Any, x: Any, mean: Any, var: Any, w: Any, b: Any) -> Any:
        return lib.nn.functional.batch_norm(x, mean.detach(), var.detach(), w, b, False)

    c = shape[1]
    return Case(f"batch_norm eval {name}", run, [normal(*shape, scale=2), normal(c), positive(c), normal(c), normal(c)])


def _rms(name: str, shape: tuple[int, ...], normalized: tuple[int, ...], eps: float | None = None) -> Case:
    samples = [normal(*shape, scale=2), normal(*normalized)]
    return Case(f"rms_norm {name}", lambda lib, x, w: lib.nn.functional.rms_norm(x, normalized, w, eps), samples)


def _group(name: str, shape: tuple[int, ...], groups: int, eps: float = 1e-5) -> Case:
    samples = [normal(*shape, scale=2), normal(shape[1]), normal(shape[1])]
    return Case(f"group_norm {name}", lambda lib, x, w, b: lib.nn.functional.group_norm(x, groups, w, b, eps), samples)


def _instance(name: str, shape: tuple[int, ...]) -> Case:
    samples = [normal(*shape, scale=2), normal(shape[1]), normal(shape[1])]
    return Case(f"instance_norm {name}", lambda lib, x, w, b: lib.nn.functional.instance_norm(x, weight=w, bias=b), samples)


def _instance_eval(lib: Any, x: Any, mean: Any, var: Any, w: Any, b: Any) -> Any:
    return lib.nn.functional.instance_norm(x, mean.detach(), var.detach(), w, b, False)


# Where torch has no such function, the formula in its primitives.


def _keras_norm(axis: Any, eps: float = 1e-3) -> Callable[..., Any]:
    def run(lib: Any, x: Any, gamma: Any, beta: Any) -> Any:
        if hasattr(lib.nn, "LayerNormalization"):
            return lib.nn.functional.layer_normalization(x, gamma, beta, axis, eps)
        axes = [axis % x.ndim] if isinstance(axis, int) else [a % x.ndim for a in axis]
        shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
        centred = x - x.mean(axes, keepdim=True)
        return centred / ((centred**2).mean(axes, keepdim=True) + eps).sqrt() * gamma.reshape(shape) + beta.reshape(shape)

    return run


def _unbiased_norm(lib: Any, x: Any, gamma: Any, beta: Any) -> Any:
    if hasattr(lib.nn, "UnbiasedLayerNorm"):
        return lib.nn.functional.unbiased_layer_norm(x, gamma, beta, 0.01)
    return gamma * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.01) + beta


def _masked_norm(normalized: tuple[int, ...], eps: float = 1e-5) -> Callable[..., Any]:
    def run(lib: Any, x: Any, mask: Any, w: Any, b: Any) -> Any:
        if hasattr(lib.nn, "MaskedLayerNorm"):
            return lib.nn.functional.masked_layer_norm(x, mask, normalized, w, b, eps)
        axes = tuple(range(-len(normalized), 0))
        mask = mask.expand(x.shape)
        n = mask.sum(axes, keepdim=True)
        centred = (x - (x * mask).sum(axes, keepdim=True) / n) * mask
        return (centred / ((centred**2).sum(axes, keepdim=True) / n + eps).sqrt() * w + b) * mask

    return run


def _masked_batch(lib: Any, x: Any, mask: Any, w: Any, b: Any) -> Any:
    if hasattr(lib.nn, "MaskedBatchNorm1d"):
        return lib.nn.functional.masked_batch_norm(x, mask, None, None, w, b, True)
    mask = mask[:, None]
    centred = (x - (x * mask).sum((0, 2), keepdim=True) / mask.sum()) * mask
    return (centred / ((centred**2).sum((0, 2), keepdim=True) / mask.sum() + 1e-5).sqrt() * w[:, None] + b[:, None]) * mask


def _normed_lstm(lib: Any, x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b: Any, *affine: Any) -> Any:
    def norm(i: int) -> Callable[[Any], Any]:
        weight, bias = affine[2 * i : 2 * i + 2]
        return lambda v: lib.nn.functional.layer_norm(v, tuple(weight.shape), weight, bias)

    if hasattr(lib.nn, "LayerNormLSTMCell"):
        return layer_norm_lstm_cell(x, (h, c), w_ih, w_hh, b, norm(0), norm(1), norm(2))
    i, f, g, o = (norm(0)(h @ w_hh.T) + norm(1)(x @ w_ih.T) + b).chunk(4, 1)
    c = lib.sigmoid(f) * c + lib.sigmoid(i) * lib.tanh(g)
    return lib.sigmoid(o) * lib.tanh(norm(2)(c)), c


def _run_cell(lib: Any, x: Any, h: Any, w: Any) -> Any:
    lengths = [2, 4, 1]

    def step(v: Any, state: Any) -> Any:
        return lib.tanh(v @ w + state)

    if hasattr(lib.nn, "run_cell"):
        return lib.nn.run_cell(step, x, lengths, h)
    outputs, last = [], []
    for n, end in enumerate(lengths):
        states = [h[n]]
        for t in range(end):
            states.append(step(x[n, t], states[-1]))
        outputs.append(lib.stack([*states[1:], *[states[0] * 0] * (4 - end)]))
        last.append(states[-1])
    return lib.stack(outputs), lib.stack(last)


_LSTM: list[Sample] = [normal(4, 3), normal(4, 2), normal(4, 2), normal(8, 3), normal(8, 2)]


def _attention(name: str, q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], **options: Any) -> Case:
    def run(lib: Any, q: Any, k: Any, v: Any) -> Any:
        lib.manual_seed(4)  # where weights are dropped, the same ones at every call
        return lib.nn.functional.scaled_dot_product_attention(q, k, v, **options)

    return Case(f"attention {name}", run, [normal(*q), normal(*k), normal(*v)])


def _layer(name: str, shape: tuple[int, ...], call: Callable[..., Any], **options: Any) -> Case:
    """A layer whose weights, and what it drops, are those of one seed: the same in both libraries."""

    def run(lib: Any, x: Any) -> Any:
        lib.manual_seed(4)
        return call(getattr(lib.nn, name.split()[0])(**options).to(x.dtype), x)

    return Case(name, run, [normal(*shape)])


def _sinusoidal(lib: Any, x: Any) -> Any:
    if hasattr(lib.nn, "SinusoidalPositions"):
        return lib.nn.SinusoidalPositions(4, 5, batch_first=True, dtype=x.dtype)(x)
    angle = lib.arange(3).to(x.dtype)[:, None] / lib.tensor([1.0, 1.0, 100.0, 100.0], dtype=x.dtype)  # 10000^(2i/4)
    return x + lib.where(lib.arange(4) % 2 == 0, angle.sin(), angle.cos())


def _learned(lib: Any, x: Any, weight: Any) -> Any:
    if not hasattr(lib.nn, "LearnedPositions"):
        return x + weight[:3]
    layer = lib.nn.LearnedPositions(4, 5, batch_first=True, dtype=x.dtype)
    del layer.weight
    layer.weight = weight  # as it is: it keeps its place in the graph
    return layer(x)


def _dropout(lib: Any, x: Any) -> Any:
    lib.manual_seed(4)  # the same mask at every call
    return lib.nn.functional.dropout(x, 0.4)


CASES: list[Case] = [
    # ops/arithmetic, ops/unary, ops/copying
    Case("add", lambda lib, a, b: a + b, [normal(3, 4), normal(3, 4)]),
    Case("add broadcast", lambda lib, a, b: a + b, [normal(3, 1, 4), normal(2, 1)]),
    Case("add number", lambda lib, a: 2 + a + 1.5, [normal(3)]),
    Case("add alpha", lambda lib, a, b: lib.add(a, b, alpha=3), [normal(3), normal(3)]),
    Case("add 0-d", lambda lib, a, b: a + b, [normal(), normal(3)]),
    Case("sub", lambda lib, a, b: a - b, [normal(3, 4), normal(4)]),
    Case("rsub", lambda lib, a: 1 - a, [normal(3, 4)]),
    Case("mul", lambda lib, a, b: a * b, [normal(3, 4), normal(3, 4)]),
    Case("mul broadcast", lambda lib, a, b: a * b, [normal(3, 1, 4), normal(2, 1)]),
    Case("mul itself", lambda lib, a: a * a, [normal(3)]),
    Case("mul number", lambda lib, a: 2 * a * 1.5, [normal(3)]),
    Case("div", lambda lib, a, b: a / b, [normal(3, 4), positive(3, 4)]),
    Case("div broadcast", lambda lib, a, b: a / b, [normal(4), positive(3, 1)]),
    Case("rdiv", lambda lib, a: 2 / a, [positive(3)]),
    Case("pow number", lambda lib, a: a**3, [normal(3, 4)]),
    Case("pow 2", lambda lib, a: a**2, [normal(3, 4)]),
    Case("pow 0.5", lambda lib, a: a**0.5, [positive(3, 4)]),
    Case("pow 0", lambda lib, a: a**0, [normal(3, 4)]),
    Case("pow", lambda lib, a, b: a**b, [positive(3, 4), normal(4)]),
    Case("rpow", lambda lib, a: 1.7**a, [normal(3)]),
    Case("neg", lambda lib, a: -a, [normal(3, 4)]),
    Case("abs", lambda lib, a: abs(a), [spread(3, 4)]),
    Case("exp", lambda lib, a: lib.exp(a), [normal(3, 4)]),
    Case("log", lambda lib, a: lib.log(a), [positive(3, 4)]),
    Case("sqrt", lambda lib, a: lib.sqrt(a), [positive(3, 4)]),
    Case("rsqrt", lambda lib, a: lib.rsqrt(a), [positive(3, 4)]),
    Case("tanh", lambda lib, a: lib.tanh(a), [normal(3, 4)]),
    Case("sigmoid", lambda lib, a: lib.sigmoid(a), [normal(3, 4, scale=3)]),
    Case("erf", lambda lib, a: lib.erf(a), [normal(3, 4)]),
    Case("relu", lambda lib, a: lib.relu(a), [spread(3, 4)]),
    Case("clamp", lambda lib, a: lib.clamp(a, -0.3, 0.4), [spread(3, 4)]),
    Case("clamp min", lambda lib, a: a.clamp(min=0.2), [spread(3, 4)]),
    Case("clamp max", lambda lib, a: lib.clamp(a, max=0.2), [spread(3, 4)]),
    Case("maximum", lambda lib, a, b: lib.maximum(a, b), [spread(3, 4), lambda rng: spread(3, 4)(rng) + 0.03]),
    Case("minimum", lambda lib, a, b: lib.minimum(a, b), [spread(3, 4), lambda rng: spread(4)(rng) + 0.03]),
    Case("where", lambda lib, c, a, b: lib.where(c, a, b), [mask(3, 4), normal(3, 4), normal(4)]),
    Case("where broadcast", lambda lib, c, a, b: lib.where(c, a, b), [mask(2, 1, 4), normal(3, 1), normal()]),
    Case("where number", lambda lib, c, a: lib.where(c, a, 2.0), [mask(3, 4), normal(3, 4)]),
    Case("where number first", lambda lib, c, a: lib.where(c, -1, a), [mask(4), normal(3, 4)]),
    Case("maximum broadcast", lambda lib, a, b: lib.maximum(a, b), [spread(3, 1, 4), lambda rng: spread(2, 1)(rng) + 0.03]),
    Case("contiguous", lambda lib, a: a.T.contiguous() * 1, [normal(3, 4)]),
    Case("clone", lambda lib, a: a.clone(), [normal(3, 4)]),
    Case("to float64", lambda lib, a: a.to(lib.float64), [normal(3, 4)]),
    # 0-d: NumPy makes scalars of what is computed from such an array
    Case("0-d functions", lambda lib, a: lib.exp(-a) * lib.erf(a) + a.log() * a.sqrt() - lib.sigmoid(a) / a.rsqrt() + abs(a) * lib.relu(a), [positive()]),
    Case("0-d arithmetic", lambda lib, a, b: (a * b + a / b - a) ** 2 / (1 + a**b), [positive(), positive()]),
    Case("0-d choices", lambda lib, a, b: lib.maximum(a, b) * lib.minimum(a, 2 * b) * lib.where(a > b, a, b).clamp(0.1, 9), [positive(), positive()]),
    Case("0-d shapes", lambda lib, a: a.reshape(1).expand(3).sum(0, keepdim=True).squeeze() * a[None][0] * a.unsqueeze(0)[0], [positive()]),
    Case("0-d reductions", lambda lib, a: a.sum() * a.mean(0) * a.amax() * a.max(0)[0] * a.logsumexp(0), [positive()]),
    # ops/reduction
    Case("sum", lambda lib, a: a.sum(), [normal(3, 4)]),
    Case("sum dim", lambda lib, a: a.sum(1), [normal(3, 4)]),
    Case("sum dims keepdim", lambda lib, a: a.sum((0, -1), keepdim=True), [normal(3, 4, 2)]),
    Case("sum axis", lambda lib, a: a.sum(axis=1, keepdims=True), [normal(3, 4)]),
    Case("mean", lambda lib, a: a.mean(), [normal(3, 4)]),
    Case("mean dim", lambda lib, a: a.mean(-1, True), [normal(3, 4)]),
    Case("var", lambda lib, a: a.var(), [normal(3, 4)]),
    Case("var dim", lambda lib, a: a.var(dim=1, keepdim=True), [normal(3, 4)]),
    Case("var population", lambda lib, a: a.var(1, unbiased=False), [normal(3, 4)]),
    Case("var correction", lambda lib, a: a.var(dim=(0, 2), correction=2), [normal(3, 4, 2)]),
    Case("var unbiased", lambda lib, a: lib.var(a, 1, True), [normal(3, 4)]),
    Case("std", lambda lib, a: a.std(-1, keepdim=True), [normal(3, 4)]),
    Case("std all", lambda lib, a: lib.std(a), [normal(3, 4)]),
    Case("std population", lambda lib, a: a.std(dim=0, correction=0), [normal(3, 4)]),
    Case("max", lambda lib, a: a.max(), [spread(3, 4)]),
    Case("max dim", lambda lib, a: lib.max(a, 1), [spread(3, 4)]),
    Case("min", lambda lib, a: a.min(), [spread(3, 4)]),
    Case("min dim", lambda lib, a: a.min(0, keepdim=True), [spread(3, 4)]),
    Case("amax", lambda lib, a: lib.amax(a, dim=(0, 1)), [spread(3, 4, 2)]),
    Case("amin", lambda lib, a: a.amin(dim=-1, keepdim=True), [spread(3, 4)]),
    Case("amax all", lambda lib, a: a.amax(), [spread(3, 4)]),
    Case("max axis", lambda lib, a: a.max(axis=1, keepdims=True), [spread(3, 4)]),
    Case("logsumexp", lambda lib, a: lib.logsumexp(a, 1), [normal(3, 4)]),
    Case("logsumexp dims", lambda lib, a: a.logsumexp((0, 2), keepdim=True), [normal(3, 4, 2)]),
    Case("softmax", lambda lib, a: lib.softmax(a, 1), [normal(3, 4)]),
    Case("softmax axis 0", lambda lib, a: a.softmax(dim=0), [normal(3, 4, 2)]),
    Case("log_softmax", lambda lib, a: lib.log_softmax(a, -1), [normal(3, 4)]),
    # ops/shape
    Case("reshape", lambda lib, a: a.reshape(2, -1), [normal(3, 4)]),
    Case("reshape permuted", lambda lib, a: a.permute(1, 0, 2).reshape(-1), [normal(3, 4, 2)]),
    Case("view", lambda lib, a: a.view(4, 3), [normal(3, 4)]),
    Case("flatten", lambda lib, a: a.flatten(1), [normal(3, 2, 2)]),
    Case("transpose", lambda lib, a: a.transpose(0, 2), [normal(3, 4, 2)]),
    Case("permute", lambda lib, a: a.permute(2, 0, 1), [normal(3, 4, 2)]),
    Case("T", lambda lib, a: a.T, [normal(3, 4)]),
    Case("squeeze", lambda lib, a: a.squeeze(), [normal(3, 1, 4, 1)]),
    Case("squeeze dim", lambda lib, a: a.squeeze(1), [normal(3, 1, 4, 1)]),
    Case("squeeze dims", lambda lib, a: a.squeeze((1, 2)), [normal(3, 1, 4, 1)]),
    Case("flatten all", lambda lib, a: lib.flatten(a), [normal(3, 4)]),
    Case("flatten 0-d", lambda lib, a: a.flatten(), [normal()]),
    Case("unsqueeze", lambda lib, a: a.unsqueeze(-1), [normal(3, 4)]),
    Case("expand", lambda lib, a: a.expand(2, 3, 4), [normal(3, 1)]),
    Case("expand kept", lambda lib, a: a.expand(2, -1, 4), [normal(3, 4)]),
    Case("cat", lambda lib, a, b: lib.cat([a, b], 1), [normal(3, 4), normal(3, 2)]),
    Case("cat itself", lambda lib, a: lib.cat([a, a, a[:1]], dim=0), [normal(3, 4)]),
    Case("cat empty", lambda lib, a, b: lib.cat([b, a]), [normal(3, 4), normal(0)]),
    Case("stack", lambda lib, a, b: lib.stack([a, b], -1), [normal(3, 4), normal(3, 4)]),
    Case("split", lambda lib, a: lib.split(a, 2, 1), [normal(3, 5)]),
    Case("split sizes", lambda lib, a: a.split([1, 3, 1], 1), [normal(3, 5)]),
    Case("chunk", lambda lib, a: a.chunk(3, 1), [normal(3, 5)]),
    Case("tril", lambda lib, a: lib.tril(a), [normal(2, 4, 4)]),
    Case("tril diagonal", lambda lib, a: a.tril(-1), [normal(3, 4)]),
    # ops/indexing
    Case("getitem int", lambda lib, a: a[1], [normal(3, 4)]),
    Case("getitem slices", lambda lib, a: a[1:, ::2, None], [normal(3, 4)]),
    Case("getitem ellipsis", lambda lib, a: a[..., -1], [normal(3, 4, 2)]),
    Case("getitem 0-d", lambda lib, a: a[1, 2], [normal(3, 4)]),
    Case("getitem indices", lambda lib, a, i: a[i], [normal(3, 4), integers(3, 5)]),
    Case("getitem pairs", lambda lib, a, i, j: a[i, j], [normal(3, 4), integers(3, 5), integers(4, 5)]),
    Case("getitem slice and indices", lambda lib, a, i: a[:, i, 1:], [normal(3, 4, 2), integers(4, 5)]),
    Case("getitem integer and indices", lambda lib, a, i: a[1, :, i], [normal(3, 4, 2), integers(2, 5)]),
    Case("getitem apart", lambda lib, a, i, j: a[i, :, j], [normal(3, 4, 2), integers(3, 5), integers(2, 5)]),
    Case("getitem grid", lambda lib, a, i, j: a[i, j], [normal(3, 4, 2), integers(3, 5, 1), integers(4, 2)]),
    Case("getitem list and None", lambda lib, a: a[[0, 0, 2], None, -1:], [normal(3, 4, 2)]),
    Case("getitem rows by mask", lambda lib, a, m: a[m, 1], [normal(3, 4), lambda rng: np.array([True, False, True])]),
    Case("getitem nothing", lambda lib, a: a[:], [normal(3, 4)]),
    Case("getitem mask", lambda lib, a: a[a.detach() > 0], [spread(3, 4)]),
    Case("setitem", lambda lib, a, b: _set(a * 1, (slice(None), 1), b), [normal(3, 4), normal(3)]),
    Case("setitem number", lambda lib, a: _set(a * 1, (1,), 2.0), [normal(3, 4)]),
    Case("setitem indices", lambda lib, a, b: _set(a * 1, ([0, 2],), b), [normal(3, 4), normal(4)]),
    Case("setitem integer and indices", lambda lib, a, b: _set(a * 1, (1, slice(None), [1, 0]), b), [normal(3, 4, 2), normal(4, 1)]),
    Case("setitem mask", lambda lib, a, m, b: _set(a * 1, m, b), [normal(3, 4), mask(3, 4), normal()]),
    Case("setitem into zeros", lambda lib, b: _set(lib.zeros(3, 4, dtype=b.dtype), (slice(None, None, 2), None), b), [normal(2, 1, 4)]),
    Case("gather", lambda lib, a, i: a.gather(1, i), [normal(3, 4), integers(4, 3, 6)]),
    Case("gather axis 0", lambda lib, a, i: lib.gather(a, 0, i), [normal(3, 4), integers(3, 2, 3)]),
    Case("index_select", lambda lib, a, i: lib.index_select(a, 1, i), [normal(3, 4), integers(4, 6)]),
    Case("masked_fill", lambda lib, a, m: a.masked_fill(m, -2.0), [normal(3, 4), mask(3, 4)]),
    Case("masked_fill tensor", lambda lib, a, m, v: lib.masked_fill(a, m, v), [normal(4), mask(3, 4), normal()]),
    # ops/matmul
    Case("matmul", lambda lib, a, b: a @ b, [normal(3, 4), normal(4, 2)]),
    Case("matmul vectors", lambda lib, a, b: a @ b, [normal(4), normal(4)]),
    Case("matmul matrix vector", lambda lib, a, b: a @ b, [normal(3, 4), normal(4)]),
    Case("matmul vector matrix", lambda lib, a, b: a @ b, [normal(4), normal(4, 3)]),
    Case("matmul stacks", lambda lib, a, b: lib.matmul(a, b), [normal(2, 1, 3, 4), normal(5, 4, 2)]),
    Case("matmul stack matrix", lambda lib, a, b: a @ b, [normal(2, 3, 4), normal(4, 2)]),
    Case("matmul stack vector", lambda lib, a, b: a @ b, [normal(2, 3, 4), normal(4)]),
    Case("matmul itself", lambda lib, a: a @ a.T, [normal(3, 4)]),
    # in place, on values that the graph knows
    Case("add_", lambda lib, a, b: (a * 1).add_(b), [normal(3, 4), normal(4)]),
    Case("sub_", lambda lib, a, b: (a * 1).sub_(b, alpha=2), [normal(3, 4), normal(4)]),
    Case("mul_", lambda lib, a, b: (a * 1).mul_(b), [normal(3, 4), normal(4)]),
    Case("div_", lambda lib, a, b: (a * 1).div_(b), [normal(3, 4), positive(4)]),
    Case("fill_", lambda lib, a, b: (a * 1).fill_(b), [normal(3, 4), normal()]),
    Case("fill_ number", lambda lib, a: a * (a * 1).fill_(2.5) * a, [normal(3, 4)]),
    Case("zero_", lambda lib, a: a * a + (a * 1).zero_(), [normal(3, 4)]),
    Case("copy_", lambda lib, a, b: (a * 1).copy_(b), [normal(3, 4), normal(4)]),
    Case("add_ itself", lambda lib, a: _itself(a * 1, "add_"), [normal(3, 4)]),
    # the rooms of nn
    Case("linear", lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [normal(5, 4), normal(3, 4), normal(3)]),
    Case("linear no bias", lambda lib, x, w: lib.nn.functional.linear(x, w), [normal(5, 4), normal(3, 4)]),
    Case("linear 1-d", lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [normal(4), normal(3, 4), normal(3)]),
    Case("linear 3-d", lambda lib, x, w, b: lib.nn.functional.linear(x, w, b), [normal(2, 5, 4), normal(3, 4), normal(3)]),
    _norm("(6, 5)", (6, 5), (5,)),
    _norm("square", (5, 5), (5,)),
    _norm("(2, 3, 4) over 4", (2, 3, 4), (4,)),
    _norm("(2, 3, 4) over (3, 4)", (2, 3, 4), (3, 4)),
    _norm("eps 0.3", (6, 5), (5,), 0.3),
    _norm("one row", (5,), (5,)),
    _norm("D = 2", (4, 2), (2,), 0.3),
    Case("layer_norm plain", lambda lib, x: lib.nn.functional.layer_norm(x, (5,)), [normal(6, 5)]),
    Case("layer_norm no bias", lambda lib, x, w: lib.nn.functional.layer_norm(x, (5,), w), [normal(6, 5), normal(5)]),
    Case("layer_norm no weight", lambda lib, x, b: lib.nn.functional.layer_norm(x, (5,), None, b), [normal(6, 5), normal(5)]),
    _batch("(6, 5)", (6, 5)),
    _batch("square", (5, 5)),
    _batch("(4, 3, 5)", (4, 3, 5)),
    _batch("(1, 3, 5)", (1, 3, 5)),
    _batch("(6, 3, 1)", (6, 3, 1)),
    _batch("eps 0.3", (6, 5), 0.3),
    Case("batch_norm plain", lambda lib, x: lib.nn.functional.batch_norm(x, None, None, training=True), [normal(6, 5)]),
    _batch_eval("(6, 5)", (6, 5)),
    _batch_eval("(4, 3, 5)", (4, 3, 5)),
    _rms("(6, 5)", (6, 5), (5,)),
    _rms("square", (5, 5), (5,)),
    _rms("(2, 3, 4) over (3, 4)", (2, 3, 4), (3, 4)),
    _rms("eps 0.3", (6, 5), (5,), 0.3),
    _rms("one row", (5,), (5,)),
    Case("rms_norm plain", lambda lib, x: lib.nn.functional.rms_norm(x, (5,)), [normal(6, 5)]),
    _group("(4, 6) by 2", (4, 6), 2),
    _group("(3, 6, 5) by 3", (3, 6, 5), 3),
    _group("(3, 4, 5) by 1", (3, 4, 5), 1),
    _group("(3, 4, 5) by 4", (3, 4, 5), 4),
    _group("(2, 4, 3, 2) by 2", (2, 4, 3, 2), 2, 0.3),
    Case("group_norm plain", lambda lib, x: lib.nn.functional.group_norm(x, 2), [normal(3, 4, 5)]),
    Case("group_norm no bias", lambda lib, x, w: lib.nn.functional.group_norm(x, 2, w), [normal(3, 4, 5), normal(4)]),
    _instance("(4, 3, 5)", (4, 3, 5)),
    _instance("square", (5, 5, 5)),
    Case("instance_norm plain", lambda lib, x: lib.nn.functional.instance_norm(x), [normal(4, 3, 5)]),
    Case("instance_norm eval", _instance_eval, [normal(4, 3, 5), normal(3), positive(3), normal(3), normal(3)]),
    Case("layer_normalization", _keras_norm(-1), [normal(6, 5), normal(5), normal(5)]),
    Case("layer_normalization axis 0", _keras_norm(0), [normal(6, 5), normal(6), normal(6)]),
    Case("layer_normalization axes (2, 0)", _keras_norm((2, 0), 0.3), [normal(3, 4, 2), normal(3, 2), normal(3, 2)]),
    Case("unbiased_layer_norm", _unbiased_norm, [normal(6, 5), normal(5), normal(5)]),
    Case("masked_layer_norm", _masked_norm((5,)), [normal(4, 5), prefixes(5, 5, 3, 2, 4), normal(5), normal(5)]),
    Case(
        "masked_layer_norm over two axes",
        _masked_norm((3, 4), 0.3),
        [normal(2, 3, 4), lambda rng: prefixes(3, 3, 2)(rng)[..., None], normal(3, 4), normal(3, 4)],
    ),
    Case("masked_batch_norm", _masked_batch, [normal(4, 3, 5), prefixes(5, 5, 3, 0, 1), normal(3), normal(3)]),
    Case("cross_entropy", lambda lib, x, t: lib.nn.functional.cross_entropy(x, t), [normal(6, 5), integers(5, 6)]),
    Case("cross_entropy sum", lambda lib, x, t: lib.nn.functional.cross_entropy(x, t, reduction="sum"), [normal(6, 5), integers(5, 6)]),
    Case("cross_entropy none", lambda lib, x, t: lib.nn.functional.cross_entropy(x, t, reduction="none"), [normal(6, 5), integers(5, 6)]),
    Case(
        "cross_entropy weight ignore",
        lambda lib, x, t, w: lib.nn.functional.cross_entropy(x, t, weight=w.detach(), ignore_index=1),
        [normal(6, 5), integers(5, 6), positive(5)],
    ),
    Case("cross_entropy smoothing", lambda lib, x, t: lib.nn.functional.cross_entropy(x, t, label_smoothing=0.2), [normal(6, 5), integers(5, 6)]),
    Case("cross_entropy (N, C, d)", lambda lib, x, t: lib.nn.functional.cross_entropy(x, t), [normal(4, 3, 2), integers(3, 4, 2)]),
    Case("cross_entropy probabilities", lambda lib, x, p: lib.nn.functional.cross_entropy(x, p), [normal(6, 5), probabilities(6, 5)]),
    Case("nll_loss", lambda lib, x, t: lib.nn.functional.nll_loss(x, t), [normal(6, 5), integers(5, 6)]),
    Case("gelu", lambda lib, x: lib.nn.functional.gelu(x), [normal(3, 4, scale=2)]),
    Case("gelu tanh", lambda lib, x: lib.nn.functional.gelu(x, approximate="tanh"), [normal(3, 4, scale=2)]),
    Case("silu", lambda lib, x: lib.nn.functional.silu(x), [normal(3, 4, scale=2)]),
    Case("dropout", _dropout, [normal(3, 4)]),
    Case("SinusoidalPositions", _sinusoidal, [normal(2, 3, 4)]),
    Case("LearnedPositions", _learned, [normal(2, 3, 4), normal(5, 4)]),
    Case("embedding", lambda lib, w, i: lib.nn.functional.embedding(i, w), [normal(5, 3), integers(5, 2, 4)]),
    _attention("one head", (4, 3), (5, 3), (5, 2)),
    _attention("heads", (2, 2, 4, 3), (2, 2, 5, 3), (2, 2, 5, 3)),
    _attention("causal", (2, 2, 4, 3), (2, 2, 4, 3), (2, 2, 4, 3), is_causal=True),
    _attention("scale", (2, 4, 3), (2, 5, 3), (2, 5, 3), scale=0.9),
    _attention("dropout", (2, 4, 3), (2, 5, 3), (2, 5, 3), dropout_p=0.4),
    Case("attention itself", lambda lib, x: lib.nn.functional.scaled_dot_product_attention(x, x, x), [normal(2, 4, 3)]),
    Case(
        "attention mask",
        lambda lib, q, k, v, m: lib.nn.functional.scaled_dot_product_attention(q, k, v, m),
        [normal(2, 4, 3), normal(2, 5, 3), normal(2, 5, 2), lambda rng: mask(4, 5)(rng) | (np.arange(5) == 2)],
    ),
    Case(
        "attention added mask",
        lambda lib, q, k, v, m: lib.nn.functional.scaled_dot_product_attention(q, k, v, m),
        [normal(2, 4, 3), normal(2, 5, 3), normal(2, 5, 2), normal(2, 1, 5)],
    ),
    _layer("MultiheadAttention", (3, 2, 4), lambda layer, x: layer(x, x, x), embed_dim=4, num_heads=2),
    _layer("MultiheadAttention fused", (3, 2, 4), lambda layer, x: layer(x, x, x, need_weights=False)[0], embed_dim=4, num_heads=2),
    _layer("TransformerEncoderLayer", (3, 2, 4), lambda layer, x: layer(x), d_model=4, nhead=2, dim_feedforward=5, dropout=0.0, activation="gelu"),
    _layer("TransformerEncoderLayer norm_first", (3, 2, 4), lambda layer, x: layer(x), d_model=4, nhead=2, dim_feedforward=5, dropout=0.3, norm_first=True),
    Case("mse_loss", lambda lib, x, y: lib.nn.functional.mse_loss(x, y), [normal(6, 5), normal(6, 5)]),
    Case("rnn_tanh_cell", lambda lib, x, h, *p: lib.rnn_tanh_cell(x, h, *p), [normal(4, 3), normal(4, 2), normal(2, 3), normal(2, 2), normal(2), normal(2)]),
    Case("rnn_relu_cell", lambda lib, x, h, w, v: lib.rnn_relu_cell(x, h, w, v), [spread(4, 3), spread(4, 2), spread(2, 3), spread(2, 2)]),
    Case("lstm_cell", lambda lib, x, h, c, *p: lib.lstm_cell(x, (h, c), *p), [*_LSTM, normal(8), normal(8)]),
    Case("lstm_cell no bias", lambda lib, x, h, c, *p: lib.lstm_cell(x, (h, c), *p), _LSTM),
    Case("lstm_cell one row", lambda lib, x, h, c, *p: lib.lstm_cell(x, (h, c), *p), [normal(1, 3), normal(1, 2), normal(1, 2), *_LSTM[3:]]),
    Case("layer_norm_lstm_cell", _normed_lstm, [*_LSTM, *[normal(8)] * 5, normal(2), normal(2)]),
    Case("run_cell", _run_cell, [normal(3, 4, 2), normal(3, 2), normal(2, 2)]),
]


def _set(target: Any, key: Any, value: Any) -> Any:
    target[key] = value
    return target


def _itself(target: Any, op: str) -> Any:
    return getattr(target, op)(target)


def compare_arrays(ours: Array, theirs: Array) -> float:
    """The largest difference relative to the largest value, NaN and infinity in the same places counting as equal.

    Raises:
        AssertionError: another shape or element type, or NaN and infinity in other places.

    Example:
        >>> import numpy as np
        >>> compare_arrays(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
        0.2
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise AssertionError(f"shape and type {ours.shape} {ours.dtype}; expected {theirs.shape} {theirs.dtype}")
    if not ours.size:
        return 0.0
    finite = np.isfinite(theirs)
    if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True) or not np.array_equal(np.isfinite(ours), finite):
        raise AssertionError("NaN or infinity in other places")
    if not finite.any():
        return 0.0
    scale = np.abs(theirs[finite]).max()
    worst = np.abs(ours[finite].astype(np.float64) - theirs[finite].astype(np.float64)).max()
    return float(worst / scale) if scale else float(worst)
