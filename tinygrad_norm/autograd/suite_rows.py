"""The rows of `tinygrad-norm gradcheck`: an op of testing.CASES or a layer against finite differences and torch, first and second order.

A float32 row is compared with float64: differences in float32 would be good to four digits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..dtype import float32, float64
from ..tensor import Tensor
from ..testing import Case
from ..walk import grad
from .gradcheck import gradcheck_report, gradient_of
from .report import GradcheckResult
from .target import FAILURES, Array, GradcheckError, Snapshot, named_tensors, own_stream, upstream_like
from .torch_compare import compare_with_torch

__all__ = ["LAYERS", "LIMITS", "Layer", "Row", "check_case", "check_layer"]

# What a column may be at most, relative to the largest value: (float64, float32).
LIMITS = {"differences": (1e-8, 1e-4), "second": (1e-7, 1e-4), "torch": (1e-12, 1e-4), "second_torch": (1e-12, 1e-4)}

# Where torch is what is off: in the gradient of number ** tensor it takes the number's logarithm in float32. Ours agrees with differences.
TORCH_IS_OFF = {"rpow": 1e-8}


class Row(NamedTuple):
    """One line of the table: an op, a type, and the worst relative error of each comparison; None where there is none to make."""

    name: str
    dtype: str
    shapes: str
    differences: float | None
    torch: float | None
    second: float | None
    second_torch: float | None
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is beyond its limit."""
        k = self.dtype == "float32"
        limits = {c: max(limit[k], TORCH_IS_OFF.get(self.name, 0) if "torch" in c else 0) for c, limit in LIMITS.items()}
        return not self.problem and all(getattr(self, c) is None or getattr(self, c) <= limit for c, limit in limits.items())


# -- 1. A row of testing.CASES -------------------------------------------------------------------------------------------------------------


def _tensors(arrays: list[Array], kind: Any, wanted: list[bool]) -> list[Tensor]:
    return [Tensor(a.astype(kind) if a.dtype.kind == "f" else a.copy(), w) for a, w in zip(arrays, wanted)]


def _outputs(case: Case, lib: Any, tensors: list[Any]) -> list[Any]:
    result = case.function(lib, *tensors)
    found = [n.tensor for n in named_tensors(result, "")] if tensors and isinstance(tensors[0], Tensor) else _flat(result)
    return [t for t in found if t.requires_grad]


def _flat(value: Any) -> list[Any]:
    return [t for v in value for t in _flat(v)] if isinstance(value, (tuple, list)) else [value]


def _wanted(case: Case, lib: Any, arrays: list[Array]) -> list[bool]:
    """Which samples the result depends on in the graph: statistics and class weights are constants."""
    floating = [a.dtype.kind == "f" for a in arrays]
    tensors = _tensors(arrays, np.float64, floating)
    outputs = _outputs(case, lib, tensors)
    leaves = [t for t in tensors if t.requires_grad]
    found = grad(outputs, leaves, [Tensor(np.ones(o.shape, o._data.dtype)) for o in outputs], allow_unused=True)
    used = {id(t) for t, g in zip(leaves, found) if g is not None}
    return [id(t) in used for t in tensors]


def _first_and_second(case: Case, lib: Any, arrays: list[Array], kind: Any, wanted: list[bool]) -> tuple[list[Array], list[Array]]:
    """Gradients with random upstream gradients, and the gradients of those; the same for both libraries."""
    rng = own_stream(3)
    ours = not hasattr(lib, "compile")  # torch has it
    differentiate: Any = grad
    make: Any = Tensor
    if ours:
        tensors: list[Any] = _tensors(arrays, kind, wanted)
    else:
        tensors = [lib.from_numpy(a.astype(kind) if a.dtype.kind == "f" else a.copy()).requires_grad_(w) for a, w in zip(arrays, wanted)]
        differentiate = lib.autograd.grad

        def make(a: Array, wanted: bool = False) -> Any:
            return lib.from_numpy(a).requires_grad_(wanted)

    leaves = [t for t in tensors if t.requires_grad]
    outputs = _outputs(case, lib, tensors)
    upstream = [make(np.asarray(rng.standard_normal(tuple(o.shape)) + 0.3, _kind(o)), True) for o in outputs]
    second_wanted = case.orders > 1
    first = differentiate(outputs, leaves, upstream, create_graph=second_wanted)
    second: list[Array] = []
    roots = [g for g in first if g.requires_grad]
    if second_wanted and roots:
        weights = [np.asarray(rng.standard_normal(tuple(g.shape)) + 0.3, _kind(g)) for g in roots]
        try:
            seconds = differentiate(roots, [*leaves, *upstream], [make(w) for w in weights], allow_unused=True)
        except RuntimeError:
            if ours:
                raise
            return [np.array(g.detach().numpy()) for g in first], []  # torch has no second derivative of it (layer_norm with a bias alone)
        for t, g in zip([*leaves, *upstream], seconds):
            # The clone makes memory for torch's symbolic zeros.
            second.append(np.zeros(tuple(t.shape), _kind(t)) if g is None else np.array((g if ours else g + 0).detach().numpy()))
    return [np.array(g.detach().numpy()) for g in first], second


def _kind(tensor: Any) -> Any:
    return tensor._data.dtype if isinstance(tensor, Tensor) else np.dtype(str(tensor.dtype).removeprefix("torch."))


def _relative(ours: list[Array], theirs: list[Array]) -> float | None:
    """The worst difference, relative to the largest value of its tensor; one that is rounding beside the others counts as 0."""
    around = max((np.abs(t).max(initial=0) for t in theirs), default=0)
    worst = None
    for a, b in zip(ours, theirs):
        if a.shape != b.shape:
            return np.inf
        largest = np.abs(b).max(initial=0)
        scale = largest if largest > 1e-12 * around else around
        off = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0)
        error = float(off / scale) if scale else float(off)
        worst = max(worst or 0.0, np.inf if np.isnan(error) else error)
    return worst


def _of_report(report: GradcheckResult) -> float | None:
    pairs = [p for p in report.pairs if p.verdict != "independent" and p.analytic.size]
    return _relative([p.analytic for p in pairs], [p.told for p in pairs])


def _problem(report: GradcheckResult) -> str:
    return "" if report.ok else f"{report.verdict}: {(report.sentences() or [''])[0]}"


def check_case(case: Case, lib: Any, torch: Any, seed: int, dtypes: tuple[str, ...]) -> Iterator[Row]:
    """The rows of an op, with `lib` this library, and torch or None."""
    arrays = case.arrays(seed)
    shapes = ", ".join(str(a.shape).replace(" ", "") for a in arrays)
    try:
        wanted = _wanted(case, lib, arrays)
        tensors = _tensors(arrays, np.float64, wanted)

        def function(*inputs: Tensor) -> Any:
            return case.function(lib, *inputs)

        report = gradcheck_report(function, tuple(tensors))
        first, second = _first_and_second(case, lib, arrays, np.float64, wanted)
        theirs = _first_and_second(case, torch, arrays, np.float64, wanted) if torch is not None else ([], [])
        second_report = _second_report(function, tuple(tensors)) if case.orders > 1 else None
    except FAILURES as error:
        for dtype in dtypes:
            yield Row(case.name, dtype, shapes, None, None, None, None, f"{type(error).__name__}: {error}")
        return
    if "float64" in dtypes:
        problem = _problem(report) or ("" if second_report is None else _problem(second_report))
        yield Row(
            case.name,
            "float64",
            shapes,
            _of_report(report),
            _relative(first, theirs[0]),
            None if second_report is None else _of_report(second_report),
            _relative(second, theirs[1]),
            problem,
        )
    if "float32" in dtypes:
        try:
            low = _first_and_second(case, lib, arrays, np.float32, wanted)
            torch_low = _first_and_second(case, torch, arrays, np.float32, wanted) if torch is not None else ([], [])
        except FAILURES as error:
            yield Row(case.name, "float32", shapes, None, None, None, None, f"{type(error).__name__}: {error}")
            return
        # The float64 gradients stand for the numeric ones: the line above has compared the two.
        yield Row(
            case.name, "float32", shapes, _relative(low[0], first), _relative(low[0], torch_low[0]), _relative(low[1], second),
            _relative(low[1], torch_low[1]), "" if report.ok else "see float64",
        )  # fmt: skip


def _second_report(function: Callable[..., Any], inputs: Any) -> GradcheckResult | None:
    try:
        first, arguments = gradient_of(function, inputs)
    except GradcheckError:
        return None  # linear, down to the upstream gradient
    return gradcheck_report(first, arguments, allow_unused=True)


# -- 2. Layers ---------------------------------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A row: a module made anew for each check, and the arrays that it takes."""

    name: str
    make: Callable[[], Any]
    arrays: Callable[[np.random.RandomState], list[Array]]


def _x(*shape: int) -> Callable[[np.random.RandomState], list[Array]]:
    return lambda rng: [rng.standard_normal(shape) * 1.7 + 0.4]


def _x_and_class(n: int, c: int) -> Callable[[np.random.RandomState], list[Array]]:
    return lambda rng: [rng.standard_normal((n, c)), rng.randint(0, c, n).astype(np.int64)]


def _evaluating(module: Any) -> Any:
    rng = np.random.RandomState(1)
    for name, value in (("running_mean", rng.standard_normal(module.num_features)), ("running_var", rng.uniform(0.5, 2, module.num_features))):
        getattr(module, name)._data[...] = value
    return module.eval()


LAYERS: list[Layer] = [
    Layer("nn.Linear", lambda: nn.Linear(4, 3), _x(5, 4)),
    Layer("nn.Linear 3-d, no bias", lambda: nn.Linear(4, 3, bias=False), _x(2, 5, 4)),
    Layer("nn.ReLU", nn.ReLU, _x(4, 5)),
    Layer("nn.Softmax", lambda: nn.Softmax(1), _x(4, 5)),
    Layer("nn.LogSoftmax", lambda: nn.LogSoftmax(1), _x(4, 5)),
    Layer("nn.LayerNorm", lambda: nn.LayerNorm(5), _x(4, 5)),
    Layer("nn.LayerNorm over two axes, eps 0.3", lambda: nn.LayerNorm((3, 4), eps=0.3), _x(2, 3, 4)),
    Layer("nn.LayerNorm plain", lambda: nn.LayerNorm(5, elementwise_affine=False), _x(4, 5)),
    Layer("nn.BatchNorm1d", lambda: nn.BatchNorm1d(4), _x(6, 4)),
    Layer("nn.BatchNorm1d (N, C, L)", lambda: nn.BatchNorm1d(3), _x(4, 3, 5)),
    Layer("nn.BatchNorm1d eval", lambda: _evaluating(nn.BatchNorm1d(4)), _x(6, 4)),
    Layer("nn.BatchNorm1d eval (N, C, L)", lambda: _evaluating(nn.BatchNorm1d(3)), _x(4, 3, 5)),
    Layer("nn.BatchNorm1d cumulative", lambda: nn.BatchNorm1d(4, momentum=None), _x(6, 4)),
    Layer("nn.GELU", nn.GELU, _x(4, 5)),
    Layer("nn.SiLU", nn.SiLU, _x(4, 5)),
    Layer("nn.Embedding", lambda: nn.Embedding(5, 3), lambda rng: [rng.randint(0, 5, (2, 4)).astype(np.int64)]),
    Layer("nn.RMSNorm", lambda: nn.RMSNorm(5), _x(4, 5)),
    Layer("nn.RMSNorm over two axes, eps 0.3", lambda: nn.RMSNorm((3, 4), 0.3), _x(2, 3, 4)),
    Layer("nn.GroupNorm", lambda: nn.GroupNorm(2, 6), _x(3, 6, 4)),
    Layer("nn.GroupNorm (N, C)", lambda: nn.GroupNorm(2, 6), _x(5, 6)),
    Layer("nn.GroupNorm plain", lambda: nn.GroupNorm(3, 6, affine=False), _x(3, 6, 4)),
    Layer("nn.InstanceNorm1d", lambda: nn.InstanceNorm1d(3, affine=True), _x(4, 3, 5)),
    Layer("nn.InstanceNorm1d plain", lambda: nn.InstanceNorm1d(3), _x(4, 3, 5)),
    Layer("nn.InstanceNorm1d tracking", lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True), _x(4, 3, 5)),
    Layer("nn.InstanceNorm1d eval", lambda: _evaluating(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)), _x(4, 3, 5)),
    Layer("nn.InstanceNorm1d (C, L)", lambda: nn.InstanceNorm1d(3, affine=True), _x(3, 5)),
    Layer("nn.CrossEntropyLoss", nn.CrossEntropyLoss, _x_and_class(6, 4)),
    Layer(
        "nn.Sequential: the example's MLP",
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 3), nn.BatchNorm1d(3)),
        _x(6, 4),
    ),
]


def check_layer(layer: Layer, with_torch: bool, seed: int, dtypes: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a layer."""
    rng = np.random.RandomState(seed)
    arrays = layer.arrays(rng)
    shapes = ", ".join(str(a.shape).replace(" ", "") for a in arrays)
    for dtype, kind in (("float64", float64), ("float32", float32)):
        if dtype not in dtypes:
            continue
        module = layer.make().to(kind)
        for p in module.parameters():  # γ = 1 and β = 0 would hide mistakes
            p._data[...] = (rng.uniform(0.5, 1.5, p.shape) * rng.choice([-1, 1], p.shape)).astype(p._data.dtype)
        inputs = [Tensor(a.astype(kind.numpy) if a.dtype.kind == "f" else a, a.dtype.kind == "f") for a in arrays]
        differences = second = versus = second_versus = None
        problem = ""
        try:
            if dtype == "float32":
                exact = [Tensor(a.astype(np.float64) if a.dtype.kind == "f" else a, a.dtype.kind == "f") for a in arrays]
                differences = _relative(_module_gradients(module, inputs), _module_gradients(copy.deepcopy(module).to(float64), exact))
            if dtype == "float64":
                report = gradcheck_report(module, tuple(inputs))
                after = _second_report(module, tuple(inputs))
                differences, second = _of_report(report), None if after is None else _of_report(after)
                problem = _problem(report) or ("" if after is None else _problem(after))
            if with_torch:
                comparison = compare_with_torch(module, inputs, rtol=LIMITS["torch"][dtype == "float32"], seed=seed)
                versus = max((d.relative for d in comparison.differences if not d.name.startswith("second")), default=None)
                second_versus = max((d.relative for d in comparison.differences if d.name.startswith("second")), default=None)
                problem = problem or next((f"{d.name}: {d.problem}" for d in comparison.differences if d.problem), "")
        except FAILURES as error:
            problem = f"{type(error).__name__}: {error}"
        yield Row(layer.name, dtype, shapes, differences, versus, second, second_versus, problem)


def _module_gradients(module: Any, inputs: list[Tensor]) -> list[Array]:
    leaves = [*(t for t in inputs if t.requires_grad), *module.parameters()]
    before = Snapshot([module])
    y = module(*inputs)
    before.restore()
    dy = Tensor(upstream_like(y, own_stream(4)))
    return [np.zeros(t.shape) if g is None else g._data for t, g in zip(leaves, grad(y, leaves, dy, allow_unused=True))]
